"""Claims about runs that are disturbed: a few faults of each kind; `make faults` has them by the dozen."""

from __future__ import annotations

import os
import random
import signal

import faults
import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="no SIGKILL and no forked processes here")


@pytest.fixture(scope="module")
def bench(canonical_run, tmp_path_factory):
    config = canonical_run.options[canonical_run.options.index("--config") + 1]
    made = faults.Bench(tmp_path_factory.mktemp("faults"), canonical_run.folder, canonical_run.data, config)
    made.training.later = faults.digests(canonical_run.folder)
    made.training.seconds, made.training.changes = 5.0, 60
    made.learn(made.mesh)
    return made


@pytest.fixture(scope="module")
def complete(bench):
    bench.learn(bench.complete)
    return bench.complete


def test_a_killed_mesh_export_leaves_the_earlier_file_or_the_new_one(bench):
    figures = bench.kills(bench.mesh, 4, random.Random(0))
    assert figures["problems"] == []


def test_a_killed_completion_leaves_files_of_one_run_and_a_seal_only_on_a_whole_set(bench, complete):
    figures = bench.kills(complete, 3, random.Random(0))
    assert figures["problems"] == []


def test_a_killed_training_run_leaves_whole_checkpoints_and_goes_on_to_the_same_model(bench):
    figures = bench.kills(bench.training, 1, random.Random(0))
    assert figures["problems"] == []


def test_two_runs_at_once_leave_one_whole_set(bench, complete):
    assert bench.together(complete) == []


def test_files_dated_far_ahead_and_far_back_disturb_nobody(bench):
    bench.reset(bench.mesh)
    assert bench.jumping_clock(bench.mesh) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_and_leaves_nothing(bench, number):
    bench.reset(bench.mesh)
    assert bench.interrupted(bench.mesh, number, bench.mesh.seconds / 2) == []


def test_a_full_disk_is_told_in_one_sentence_and_nothing_is_left(bench):
    bench.reset(bench.mesh)
    assert bench.refused(bench.mesh, "files of 8 KiB at most", largest_file=8192) == []
    assert faults.full_disks(bench, bench.mesh, (65536,))["problems"] == []


def test_little_memory_is_told_in_one_sentence_and_nothing_is_left(bench):
    bench.reset(bench.mesh)
    assert faults.little_memory(bench, bench.mesh, (1,))["problems"] == []
