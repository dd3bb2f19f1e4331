"""Claims about candidate defects: how they grow, what is measured, and that the user has the last word."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

from SkullVAELib.completion.candidates import (
    FEATURES,
    MissingBone,
    _bone_along_line,
    _missing_on_both_sides,
    _on_voxels,
    _share_of_circle,
    missing_fraction,
)
from SkullVAELib.completion.defect_classifier import DefectClassifier, as_vector, default_classifier
from SkullVAELib.completion.defects import CHOSEN, EXCLUDED, DefectFinder, NumberedCandidate, _judged
from SkullVAELib.completion.options import DefectChoice, DefectOptions
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.skull import Skull

EVERYTHING = tuple(slice(0, n) for n in (81, 41, 9))


def slab(*holes: tuple[slice, slice], height_mm: float = -68.0, seen=EVERYTHING) -> MissingBone:
    """A slab of bone across the head on voxels of 2 mm, with holes through it; 60 mm below the vault's centre."""
    shape = (81, 41, 9)
    field = np.full(shape, 4.0, np.float32)
    field[:, :, 3:6] = -1.0
    bone = (field < 0).astype(np.float32)
    for hole in holes:
        bone[hole] = 0
    for axis, part in enumerate(seen):
        for beyond in (slice(0, part.start), slice(part.stop, None)):
            bone[tuple(beyond if a == axis else slice(None) for a in range(3))] = 0
    to_canonical = np.array([[2.0, 0, 0, -80], [0, 2, 0, -40], [0, 0, 2, height_mm], [0, 0, 0, 1]])
    # The patient is 100 mm to the right of the canonical frame.
    affine = to_canonical.copy()
    affine[0, 3] += 100
    fraction = Volume(bone, affine)
    nothing, missing = np.zeros(shape, bool), (field < 0) & (bone < 0.5)
    distance = ndimage.distance_transform_edt(bone < 0.5, sampling=2.0)
    end = np.ones(shape, bool)
    end[seen] = False
    return MissingBone(
        skull=Skull("slab", fraction, seen, distance, np.zeros((0, 3)), np.zeros((0, 3))),
        to_canonical=to_canonical,
        natural=None,
        field=field,
        deviation=np.zeros(shape),
        inside=field < 0,
        missing=missing,
        cavity=nothing,
        both_sides=_missing_on_both_sides(field, missing, distance, fraction, to_canonical, DefectOptions()),
        bevel=nothing,
        displaced=nothing,
        end=end,
        coarse_mm=2.0,
        options=DefectOptions(),
    )


LEFT, RIGHT, BESIDE_RIGHT = np.s_[9:22, 4:16], np.s_[59:72, 4:16], np.s_[59:72, 14:36]


def finder(missing: MissingBone, *probabilities: float) -> DefectFinder:
    candidates = missing.candidates()
    assert len(candidates) == len(probabilities)
    listed = (
        NumberedCandidate(number, candidate, probability, "as measured")
        for number, (candidate, probability) in enumerate(zip(candidates, probabilities, strict=True), 1)
    )
    return DefectFinder(missing, tuple(listed))


def test_bone_missing_low_on_both_sides_is_known():
    low = slab(LEFT, RIGHT, BESIDE_RIGHT)
    assert low.both_sides[15, 10, 4]
    assert low.both_sides[65, 10, 4]
    assert not low.both_sides[:, 22:].any()
    assert not slab(LEFT, RIGHT, BESIDE_RIGHT, height_mm=60.0).both_sides.any()


def test_a_defect_does_not_grow_into_a_hole_that_is_on_both_sides():
    for candidate in slab(LEFT, RIGHT, BESIDE_RIGHT).candidates():
        whole = candidate.on_grid((81, 41, 9))
        if whole[65, 28, 4]:
            assert not whole[13:18, 7:12].any()
            assert not whole[63:68, 7:12].any()
            break
    else:
        pytest.fail("the hole on one side is not found")


def test_a_hole_across_the_midline_is_whole():
    missing = slab(np.s_[15:66, 10:30])
    (candidate,) = missing.candidates()
    assert missing.both_sides.any()
    assert candidate.mask.sum() > 0.9 * missing.missing.sum()


def test_a_hole_of_two_cores_is_one_candidate():
    dumbbell = slab(np.s_[20:30, 10:20], np.s_[36:46, 10:20], np.s_[30:36, 14:16], height_mm=60.0)
    (candidate,) = dumbbell.candidates()
    assert candidate.mask.sum() == dumbbell.missing.sum()


def test_a_small_hole_in_thin_bone_is_a_candidate():
    thick = slab(np.s_[38:42, 18:22], height_mm=60.0)
    thin = {name: getattr(thick, name).copy() for name in ("field", "inside", "missing")}
    thin["field"][:, :, [3, 5]] = 1.0
    thin["inside"][:, :, [3, 5]] = thin["missing"][:, :, [3, 5]] = False
    (candidate,) = replace(thick, **thin).candidates()
    assert candidate.volume_ml == pytest.approx(4 * 4 * 0.008)
    assert candidate.features["plate_mm"] == pytest.approx(2.0)


def test_two_holes_are_two_candidates_that_share_no_voxel():
    found = slab(np.s_[20:30, 10:20], np.s_[45:60, 10:25], height_mm=60.0).candidates()
    assert [c.mask.sum() for c in found] == [15 * 15 * 3, 10 * 10 * 3]
    assert not (found[0].on_grid((81, 41, 9)) & found[1].on_grid((81, 41, 9))).any()


def natural_from(missing: MissingBone, column: int) -> MissingBone:
    """The same with an atlas in which complete skulls often lack bone from a column of voxels on."""
    natural = np.zeros(missing.field.shape, np.float32)
    natural[column:] = 0.4
    return replace(missing, natural=natural)


def test_a_hole_that_runs_into_a_natural_opening_is_parted_there():
    missing = natural_from(slab(np.s_[20:81, 8:32], height_mm=60.0), 50)
    (candidate,) = missing.candidates()
    hole, opening = next(missing.parted(candidate))
    assert not (hole.on_grid(missing.field.shape) & opening.on_grid(missing.field.shape)).any()
    assert hole.on_grid(missing.field.shape)[20:50, 8:32, 4].all()
    assert not hole.on_grid(missing.field.shape)[50:].any()
    assert opening.features["natural"] == pytest.approx(0.4)
    assert hole.features["natural"] == 0
    assert hole.volume_ml + opening.volume_ml == pytest.approx(candidate.volume_ml)


def test_a_hole_away_from_natural_openings_is_not_parted():
    for missing in (slab(LEFT, height_mm=60.0), natural_from(slab(LEFT, height_mm=60.0), 50)):
        (candidate,) = missing.candidates()
        assert list(missing.parted(candidate)) == []


def test_a_hole_is_found_although_it_runs_into_a_natural_opening():
    missing = natural_from(slab(np.s_[20:81, 8:32], height_mm=60.0), 50)
    (candidate,) = missing.candidates()
    as_one = replace(candidate, features=candidate.features | {"natural": 0.0})
    # The included classifier knows heads and no slabs; this one goes by the atlas alone.
    probability = {"hole": 0.9, "natural": 0.1}
    of_atlas = SimpleNamespace(
        probability=lambda features: (probability["natural" if features["natural"] > 0.1 else "hole"], "the atlas")
    )
    hole, opening = _judged(candidate, missing, of_atlas)
    assert (hole.probability, opening.probability) == (0.9, 0.1)
    assert hole.candidate.volume_ml < candidate.volume_ml
    (whole,) = _judged(as_one, missing, of_atlas)
    assert whole.candidate is as_one


def test_features_are_in_mm_and_the_place_is_the_patients():
    (candidate,) = slab(np.s_[45:60, 10:25], height_mm=60.0).candidates()
    features = candidate.features
    assert set(features) == set(FEATURES)
    assert features["volume_ml"] == pytest.approx(15 * 15 * 3 * 8 / 1000)
    assert features["radius_mm"] == pytest.approx(16, abs=1)
    assert features["enclosed"] == 1
    assert features["image_end"] == 0
    assert features["mirror"] == 0
    assert features["coarse_mm"] == 2
    # Voxel 52, 17, 4 is at canonical 24, -6 and 100 mm further right in the patient.
    assert np.allclose(candidate.centre_mm, [124, -6, 68], atol=3)


def test_a_hole_on_both_sides_has_a_mirror_image():
    found = slab(np.s_[9:22, 4:16], np.s_[59:72, 4:16], height_mm=60.0).candidates()
    assert [round(c.features["mirror"]) for c in found] == [1, 1]


def test_a_ring_around_the_head_differs_from_a_hole_at_one_side():
    angle = np.radians(np.arange(-180, 180, 2.0))
    ring = np.stack([70 * np.cos(angle), 85 * np.sin(angle), np.full(len(angle), 5.0)], axis=1)
    assert _share_of_circle(ring) == 1
    assert 0.2 < _share_of_circle(ring[np.abs(angle) < np.radians(45)]) < 0.3
    assert _share_of_circle(ring[:0]) == 0


def test_a_candidate_goes_on_beyond_the_image_where_its_rim_does_and_no_further_than_the_bone_beside_it():
    seen = (slice(0, 81), slice(0, 25), slice(0, 9))
    missing = slab(np.s_[30:50, 10:41], height_mm=60.0, seen=seen)
    (candidate,) = missing.candidates()
    whole = candidate.on_grid((81, 41, 9))
    assert whole[30:50, 10:25, 3:6].all()
    assert whole[38:42, 25:30, 3:6].all()
    assert not whole[:28, 25:].any()
    assert candidate.features["image_end"] > 0.1


def test_probable_candidates_are_filled_and_doubtful_ones_are_named():
    three = finder(slab(np.s_[10:25, 10:25], np.s_[35:45, 10:20], np.s_[55:62, 10:17], height_mm=60.0), 0.99, 0.2, 0.19)
    defects = three.choose()
    assert [c.filled for c in defects.candidates] == [True, True, False]
    assert [mask.sum() for mask in defects.masks] == [15 * 15 * 3, 10 * 10 * 3]
    doubtful, left_open = defects.warnings
    assert "Defect 2 of 2.4 ml at R 98" in doubtful and "0.20" in doubtful
    assert "Candidate defect 3 of 1.2 ml" in left_open and "--at" in left_open


def test_a_large_candidate_has_to_be_more_probable_to_be_filled():
    missing = slab(np.s_[20:60, 5:35], height_mm=60.0)
    assert [len(finder(missing, probability).choose().masks) for probability in (0.39, 0.4)] == [0, 1]


def test_a_large_hole_in_the_vault_is_never_left_open_without_a_warning():
    left_open = finder(slab(np.s_[20:60, 5:35], height_mm=60.0), 0.01).choose()
    assert not left_open.masks
    assert "28.8 ml" in left_open.warnings[0]


def test_the_user_chooses_by_number():
    two = finder(slab(np.s_[10:25, 10:25], np.s_[35:45, 10:20], height_mm=60.0), 0.99, 0.1)
    assert [c.filled for c in two.choose(DefectChoice(numbers=(2,))).candidates] == [False, True]
    assert [c.filled for c in two.choose(DefectChoice(numbers="all")).candidates] == [True, True]
    assert [c.filled for c in two.choose(DefectChoice(numbers=())).candidates] == [False, False]
    with pytest.raises(SkullVAEError, match="no candidate defect 3"):
        two.choose(DefectChoice(numbers=(3,)))


def test_a_point_fills_the_nearest_candidate_and_another_leaves_it_open():
    two = finder(slab(np.s_[10:25, 10:25], np.s_[35:45, 10:20], height_mm=60.0), 0.99, 0.02)
    near_second = (100 - 80 + 2 * 40 + 1.0, -40 + 2 * 15, 68.0)
    chosen = two.choose(DefectChoice(at=(near_second,)))
    assert [(c.filled, c.reason) for c in chosen.candidates] == [(True, "as measured"), (True, CHOSEN)]
    assert not chosen.warnings
    excluded = two.choose(DefectChoice(not_at=((100 - 80 + 2 * 17.0, -6.0, 68.0),)))
    first = excluded.candidates[0]
    assert (first.filled, first.reason) == (False, EXCLUDED)
    assert not excluded.masks


def test_a_point_finds_a_hole_too_small_to_be_a_candidate():
    missing = slab(np.s_[10:25, 10:25], np.s_[50:52, 20:22], height_mm=60.0)
    one = finder(missing, 0.99)
    at = (100 - 80 + 2 * 50.5, -40 + 2 * 20.5, 68.0)
    chosen = one.choose(DefectChoice(at=(at,)))
    assert [c.number for c in chosen.candidates] == [1, 2]
    assert chosen.masks[1][50:52, 20:22, 3:6].all()
    assert chosen.masks[1].sum() == 12


def test_a_point_away_from_missing_bone_is_a_clear_error():
    one = finder(slab(np.s_[10:25, 10:25], height_mm=60.0), 0.99)
    with pytest.raises(SkullVAEError, match="No bone is missing within 15 mm of R 180"):
        one.choose(DefectChoice(at=((180.0, 0.0, 68.0),)))
    (warning,) = one.choose(DefectChoice(not_at=((180.0, 0.0, 68.0),))).warnings
    assert "no candidate defect" in warning


@pytest.mark.parametrize("text", ["1,2", "a,b,c", "1,2,nan", ""])
def test_a_point_that_is_none_is_a_clear_error(text):
    with pytest.raises(SkullVAEError, match="point"):
        DefectChoice.parse(at=[text])


@pytest.mark.parametrize("text", ["some", "1;2", "0", "-1"])
def test_a_choice_that_is_none_is_a_clear_error(text):
    with pytest.raises(SkullVAEError, match="choice of defects"):
        DefectChoice.parse(text)


def test_missing_fraction_is_small_in_a_thin_layer_and_large_in_a_hole():
    field = np.full((20, 20, 20), 4.0)
    field[:, :, 8:14] = -2.0
    bone = (field < 0).astype(float)
    bone[:, :, 13] = 0
    bone[5:15, 5:15, :] = 0
    fraction = missing_fraction(field, bone, np.ones(3))
    assert fraction[10, 10, 10] > 0.9
    assert fraction[1, 1, 13] < 0.4


@pytest.fixture(scope="module")
def classifier() -> DefectClassifier:
    return default_classifier()


def typical(classifier: DefectClassifier, **changes: float) -> dict[str, float]:
    """Features of a typical defect, some of them changed."""
    vector = dict(zip(FEATURES, classifier.typical, strict=True))
    sizes = ("volume_ml", "radius_mm", "coarse_mm", "rim_error_mm", "plate_mm")
    return {name: float(np.exp(value)) if name in sizes else float(value) for name, value in vector.items()} | changes


def test_vectors_and_features_agree(classifier):
    assert np.allclose(as_vector(typical(classifier)), classifier.typical, atol=1e-4)


def test_a_typical_defect_is_certain_and_natural_openings_are_not_defects(classifier):
    probability, reason = classifier.probability(typical(classifier))
    assert probability > 0.95
    assert "bone is missing" in reason
    base = typical(classifier, elevation=-0.7, natural=0.5, mirror=0.9, enclosed=0.3, rim_bone=0.3)
    probability, reason = classifier.probability(base)
    assert probability < 0.05
    assert reason != "bone is missing that complete skulls have there"


def test_the_atlas_of_natural_openings_is_a_share_and_high_nowhere_on_the_vertex(classifier):
    atlas = classifier.natural_openings
    assert float(atlas.min()) >= 0 and float(atlas.max()) <= 1
    assert float(atlas.max()) > 0.3
    assert float(atlas[:, :, 38:].max()) < 0.2


def test_a_file_that_is_no_classifier_is_a_clear_error(tmp_path):
    from safetensors.torch import save_file

    save_file({"mean": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(SkullVAEError, match="not a classifier"):
        DefectClassifier.load(tmp_path / "other.safetensors")


def test_fields_are_sampled_on_voxels_as_at_their_points_and_outside_the_grid_is_known():
    grid = Grid((10, 12, 9), 4.0)
    field = torch.rand(grid.shape, generator=torch.Generator().manual_seed(0))
    to_canonical = np.array([[1.2, 0.1, 0, -22], [-0.1, 1.1, 0.2, -24], [0, 0.1, 0.9, -14], [0, 0, 0, 1]])
    shape = (37, 300, 30)
    values, outside = _on_voxels(field, grid, to_canonical, shape)
    index = np.indices(shape).reshape(3, -1).T
    at = apply_affine(to_canonical, index)
    beyond = (np.abs(at) - grid.half_mm).max(1)
    assert np.array_equal(outside.ravel()[np.abs(beyond) > 1e-3], (beyond > 0)[np.abs(beyond) > 1e-3])
    assert 0.2 < outside.mean() < 0.98
    expected = grid.sample(field[None], torch.tensor(at).float())[:, 0].numpy()
    assert np.allclose(values.ravel(), expected, atol=1e-4)


def test_bone_along_the_line_is_the_nearest_on_each_side():
    rng = np.random.default_rng(0)
    fraction = Volume((rng.random((30, 24, 20)) > 0.98).astype(np.float32), np.eye(4))
    missing = (rng.random((30, 24, 20)) > 0.7) & (fraction.array < 0.5)
    to_canonical = np.diag([1.1, 1.2, 0.9, 1.0])
    to_canonical[:3, 3] = [-12, -20, 30]
    voxels = np.argwhere(missing)
    for sign, found in zip((1, -1), _bone_along_line(voxels, fraction, to_canonical, 8.0), strict=True):
        assert np.isfinite(found).any()
        for index, distance in zip(voxels[::97], found[::97], strict=True):
            at = apply_affine(to_canonical, index)
            step = at / max(1, np.linalg.norm(at)) / np.diag(to_canonical)[:3]
            for far in np.arange(1.0, 9.0):
                there = np.round(index + sign * far * step).astype(int)
                if (there >= 0).all() and (there < missing.shape).all() and fraction.array[tuple(there)] >= 0.5:
                    break
            else:
                far = np.inf
            assert distance == far
