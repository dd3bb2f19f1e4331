"""Claims about the measures, checked against definitions written out in full and against MONAI's parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import DiceMetric
from monai.metrics.utils import get_mask_edges, get_surface_distance
from scipy import ndimage

from SkullVAELib.evaluation.metrics import boundary_dice, dice, hd95

SPACING = np.array([0.5, 0.7, 2.0])


def ball(centre, radius_mm, shape=(44, 40, 20), spacing=SPACING) -> np.ndarray:
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) * spacing
    return np.linalg.norm(grid - np.asarray(centre), axis=-1) <= radius_mm


def definition_hd95(truth, prediction, spacing) -> float:
    """Written out with distance transforms, as the challenge does."""
    cross = ndimage.generate_binary_structure(3, 1)
    edges = [mask ^ ndimage.binary_erosion(mask, cross) for mask in (truth, prediction)]
    fields = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    return float(np.percentile(np.hstack((fields[1][edges[0]], fields[0][edges[1]])), 95))


def definition_bdsc(truth, prediction, skull, spacing, mm=10.0) -> float:
    near = ndimage.distance_transform_edt(~skull, sampling=spacing) <= mm
    t, p = truth & near, prediction & near
    total = t.sum() + p.sum()
    return 2 * (t & p).sum() / total if total else 1.0  # as Dice of two empty masks


PAIRS = {
    "shifted": (ball((10, 12, 18), 6), ball((11, 13, 20), 6)),
    "of two sizes": (ball((10, 12, 18), 7), ball((10, 12, 18), 4)),
    "far apart": (ball((4, 5, 8), 3), ball((17, 22, 30), 3)),
    "cut by the edge of the array": (ball((0, 0, 0), 8), ball((1, 0, 4), 8)),
    "one voxel and a ball": (ball((10, 12, 18), 0.4), ball((10, 14, 18), 5)),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_hd95_is_the_definition(pair):
    truth, prediction = PAIRS[pair]
    assert truth.any()
    assert hd95(truth, prediction, SPACING) == pytest.approx(definition_hd95(truth, prediction, SPACING), abs=1e-9)


@pytest.mark.parametrize("pair", PAIRS)
def test_hd95_agrees_with_monai_surfaces_and_distances(pair):
    # MONAI's own percentile is the larger of the two directions; stacked together they give the challenge's.
    padded = [np.pad(mask, 2) for mask in PAIRS[pair]]
    edges = get_mask_edges(*padded, crop=False)
    distances = [
        get_surface_distance(a, b, spacing=SPACING.tolist(), distance_metric="euclidean")
        for a, b in (edges, edges[::-1])
    ]
    expected = np.percentile(np.hstack([np.asarray(d) for d in distances]), 95)
    assert hd95(*padded, SPACING) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("pair", PAIRS)
def test_dice_agrees_with_monai(pair):
    truth, prediction = PAIRS[pair]
    batch = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, truth)]
    assert dice(truth, prediction) == pytest.approx(float(DiceMetric()(*batch)), abs=1e-6)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("skull_at", [(10, 12, 4), (21, 27, 38), (0, 12, 18)])
def test_boundary_dice_is_the_definition(pair, skull_at):
    truth, prediction = PAIRS[pair]
    skull = ball(skull_at, 7) & ~truth
    expected = definition_bdsc(truth, prediction, skull, SPACING)
    assert boundary_dice(truth, prediction, skull, SPACING) == pytest.approx(expected, abs=1e-12)


def test_boundary_dice_counts_a_voxel_at_exactly_ten_millimetres():
    skull, truth, prediction = (np.zeros((30, 3, 3), bool) for _ in range(3))
    skull[0, 1, 1] = True
    truth[5:12, 1, 1] = True
    prediction[10, 1, 1] = True
    # Within 10 mm lie 5..10 of the truth and 10 of the prediction.
    assert boundary_dice(truth, prediction, skull, np.ones(3)) == pytest.approx(2 * 1 / (6 + 1))
    assert boundary_dice(truth, prediction, skull, np.full(3, 0.1)) == pytest.approx(2 * 1 / (7 + 1))


def test_an_empty_prediction_is_as_bad_as_can_be_and_never_an_error():
    truth = ball((10, 12, 18), 5)
    nothing = np.zeros_like(truth)
    skull = ball((10, 12, 18), 8) & ~truth
    assert dice(truth, nothing) == 0
    assert hd95(truth, nothing, SPACING) == np.inf
    assert boundary_dice(truth, nothing, skull, SPACING) == 0
    assert hd95(nothing, truth, SPACING) == np.inf
    assert boundary_dice(nothing, truth, skull, SPACING) == 0


def test_two_empty_implants_agree():
    nothing = np.zeros((5, 5, 5), bool)
    assert dice(nothing, nothing) == 1
    assert hd95(nothing, nothing, SPACING) == 0
    assert boundary_dice(nothing, nothing, ~nothing, SPACING) == 1


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(*[st.integers(3, 9)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 4)] * 3),
    density=st.floats(0.02, 0.9),
)
def test_the_measures_are_the_definitions_on_any_voxels(seed, shape, spacing, density):
    rng = np.random.default_rng(seed)
    truth, prediction, skull = (rng.random(shape) < density for _ in range(3))
    truth[0, 0, 0] = prediction[-1, -1, -1] = skull[0, -1, 0] = True
    assert hd95(truth, prediction, spacing) == pytest.approx(definition_hd95(truth, prediction, spacing), abs=1e-9)
    near = ndimage.distance_transform_edt(~skull, sampling=spacing) <= 10
    if ((truth | prediction) & near).any():
        expected = definition_bdsc(truth, prediction, skull, spacing)
        assert boundary_dice(truth, prediction, skull, spacing) == pytest.approx(expected, abs=1e-12)
    # Symmetric, and the same in millimetres when the array is turned.
    assert hd95(prediction, truth, spacing) == pytest.approx(hd95(truth, prediction, spacing), abs=1e-9)
    turned = hd95(truth.transpose(2, 0, 1), prediction.transpose(2, 0, 1), np.array(spacing)[[2, 0, 1]])
    assert turned == pytest.approx(hd95(truth, prediction, spacing), abs=1e-9)


def test_measures_refuse_arrays_that_do_not_fit():
    with pytest.raises(ValueError, match="one shape"):
        dice(np.zeros((3, 3, 3), bool), np.zeros((3, 3, 4), bool))
    with pytest.raises(ValueError, match="bool"):
        hd95(np.zeros((3, 3, 3)), np.zeros((3, 3, 3), bool), SPACING)
