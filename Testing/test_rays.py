"""Claims about the errors of the tables along rays, on a plate of a known sphere."""

from __future__ import annotations

import numpy as np
import pytest
from benchmark.rays import table_errors, usable

AFFINE = np.diag([-1.0, 1.0, 1.5, 1.0])
AFFINE[:3, 3] = [50, -60, -20]
CENTRE = np.array([3.0, -4.0, 0.0])


def plate(outer_mm: float, inner_mm: float, half_angle: float, shape=(100, 110, 70)) -> np.ndarray:
    """A part of a spherical shell around the vertex, bool."""
    at = np.moveaxis(np.indices(shape), 0, -1) @ AFFINE[:3, :3].T + AFFINE[:3, 3] - CENTRE
    radius = np.linalg.norm(at, axis=-1)
    angle = np.degrees(np.arccos(np.clip(at[..., 2] / np.maximum(radius, 1e-6), -1, 1)))
    return (radius <= outer_mm) & (radius >= inner_mm) & (angle < half_angle)


@pytest.fixture(scope="module")
def skull():
    whole = plate(70, 63, 60)
    truth = plate(70, 63, 25)
    return whole & ~truth, truth


def test_a_perfect_implant_has_no_error(skull):
    bone, truth = skull
    errors = table_errors(truth, truth, bone, AFFINE, CENTRE)
    assert errors["outer_mm"] == errors["inner_p95_mm"] == errors["step_mm"] == errors["open"] == 0
    assert errors["thickness_mm"] == pytest.approx(7, abs=0.3)
    assert usable(errors)


@pytest.mark.parametrize(("outer", "inner"), [(0.5, 0.0), (0.0, -1.5), (2.0, 1.0)])
def test_displaced_tables_are_measured(skull, outer, inner):
    bone, truth = skull
    errors = table_errors(truth, plate(70 + outer, 63 + inner, 25), bone, AFFINE, CENTRE)
    assert errors["outer_bias_mm"] == pytest.approx(outer, abs=0.12)
    assert errors["inner_bias_mm"] == pytest.approx(inner, abs=0.12)
    assert errors["outer_mm"] == pytest.approx(abs(outer), abs=0.2)
    assert usable(errors) == (outer == 0)  # voxels of 1.5 mm alone make steps of more than 1 mm of the others


def test_an_opening_and_an_implant_elsewhere_are_not_usable(skull):
    bone, truth = skull
    half = plate(70, 63, 12)
    opened = table_errors(truth, half, bone, AFFINE, CENTRE)
    assert opened["open"] == pytest.approx(0.75, abs=0.06) and not usable(opened)
    more = truth | (plate(50, 45, 20))
    beside = table_errors(truth, more, bone, AFFINE, CENTRE)
    assert beside["beside"] > 0.1 and not usable(beside)


def test_without_an_implant_everything_is_open(skull):
    bone, truth = skull
    errors = table_errors(truth, np.zeros_like(truth), bone, AFFINE, CENTRE)
    assert errors["open"] == 1 and errors["outer_mm"] is None and not usable(errors)
