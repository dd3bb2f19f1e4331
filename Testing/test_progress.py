"""Progress within a stage: rises, is not reported more often than it can be seen, and costs nothing outside of one."""

from __future__ import annotations

import pytest

from SkullVAELib.core.progress import Stages, report_step, stage_part, with_steps_to


@pytest.fixture
def reported():
    return []


def made(reported: list) -> Stages:
    return Stages({"first": 1.0, "second": 3.0}, lambda stage, fraction: reported.append((stage, round(fraction, 6))))


def test_steps_and_parts_are_fractions_of_their_stage(reported):
    stages = made(reported)
    with stages.stage("first"):
        report_step(0.5)
    with stages.stage("second"):
        with stage_part(0.0, 0.5):
            report_step(0.5)
            with stage_part(0.5, 1.0):
                report_step(0.5)
        report_step(2.0)
    assert reported == [
        ("first", 0.0), ("first", 0.125),
        ("second", 0.25), ("second", 0.4375), ("second", 0.53125), ("second", 0.625), ("second", 1.0),
    ]  # fmt: skip


def test_the_fraction_never_falls_and_a_long_loop_reports_little(reported):
    stages = made(reported)
    with stages.stage("first"):
        for index in range(100_000):
            report_step(index / 100_000)
        report_step(0.1)
    fractions = [fraction for _, fraction in reported]
    assert fractions == sorted(fractions)
    assert len(fractions) < 200


def test_outside_of_a_stage_nothing_is_reported_also_after_one_has_failed(reported):
    report_step(0.5)
    with stage_part(0.0, 0.5):
        report_step(0.5)
    with pytest.raises(KeyError), made(reported).stage("first"), stage_part(0.0, 0.5):
        raise KeyError
    before = list(reported)
    report_step(1.0)
    assert reported == before == [("first", 0.0)]


def test_a_stage_without_weight_reports_its_start_alone(reported):
    with made(reported).stage("unknown"):
        report_step(0.5)
    assert reported == [("unknown", 0.0)]


def test_a_thread_beside_a_stage_has_its_own_steps(reported):
    drawn: list[float] = []
    with made(reported).stage("first"):
        with_steps_to(drawn.append, lambda: report_step(0.25))
        report_step(0.5)
    assert (drawn, reported) == ([0.25], [("first", 0.0), ("first", 0.125)])
