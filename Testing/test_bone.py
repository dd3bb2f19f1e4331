"""Claims about which voxels are bone."""

from __future__ import annotations

import numpy as np
import pytest

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.roi import ROI
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.bone import BONE_HU, bone_mask, labelmap_mask, segment_bone


def head(shape=(60, 60, 60)) -> np.ndarray:
    """A hollow ball with two loose voxels: bool, the shape of the simplest skull."""
    i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
    radius = np.sqrt((i - 30) ** 2 + (j - 30) ** 2 + (k - 36) ** 2)
    return (radius < 20) & (radius > 16)


def ct_of(bone: np.ndarray) -> np.ndarray:
    """Hounsfield units, int16: air outside, brain inside, bone at 900, all with noise."""
    rng = np.random.default_rng(0)
    values = np.where(bone, 900, -1000) + rng.integers(-40, 40, bone.shape)
    values[22:38, 22:38, 28:44] = 40
    return values.astype(np.int16)


def volume_of(array, spacing=1.0) -> Volume:
    return Volume(array, np.diag([spacing, spacing, spacing, 1.0]))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (bool, True),
        (np.uint8, 1),
        (np.uint8, 255),
        (np.int8, -1),
        (np.int16, 7),
        (np.uint16, 40000),
        (np.int32, 1),
        (np.int64, -3),
        (np.float32, 1.0),
        (np.float32, 0.5),
        (np.float64, 255.0),
    ],
)
def test_a_segmentation_keeps_every_voxel_whatever_its_one_label(dtype, value):
    bone = head()
    bone[2, 2, 2] = bone[57, 3, 3] = True
    mask, info = bone_mask(volume_of(np.where(bone, value, 0).astype(dtype)))
    assert mask.dtype == bool
    assert np.array_equal(mask, bone)
    assert info["kind"] == "labelmap"
    assert info["threshold_hu"] is None
    assert info["left_out_voxels"] == 0
    assert info["bone_voxels"] == bone.sum()


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_a_ct_is_recognised_and_cut_at_the_threshold(dtype):
    bone = head()
    mask, info = bone_mask(volume_of(ct_of(bone).astype(dtype)))
    assert np.array_equal(mask, bone)
    assert info["kind"] == "ct"
    assert info["threshold_hu"] == BONE_HU


def test_a_ct_loses_specks_and_says_how_many_voxels():
    specks = np.zeros((60, 60, 60), bool)
    specks[2, 2, 2] = specks[57:59, 3, 3] = True
    mask, info = bone_mask(volume_of(ct_of(head() | specks)))
    assert np.array_equal(mask, head())
    assert info["left_out_voxels"] == 3
    assert info["components"] == 1


def test_a_ct_keeps_the_mandible_but_not_the_head_rest():
    mandible = np.zeros((60, 60, 60), bool)
    mandible[22:38, 24:36, 5:13] = True
    both, info = bone_mask(volume_of(ct_of(head() | mandible)))
    assert np.array_equal(both, head() | mandible)
    assert info["components"] == 2

    rest = np.zeros((60, 60, 60), bool)
    rest[20:40, 56:60, 0:30] = True
    # With voxels of 6 mm the same rest is 36 mm from the skull; the mandible would have to be nearer.
    kept, info = bone_mask(volume_of(ct_of(head() | rest), spacing=6.0))
    assert np.array_equal(kept, head())
    assert info["left_out_voxels"] == rest.sum()


def test_the_distance_of_a_piece_is_measured_from_surface_to_surface():
    i, j, k = np.ogrid[:130, :130, :130]
    radius = np.sqrt((i - 65) ** 2 + (j - 65) ** 2 + (k - 65) ** 2)
    skull, around = radius < 20, (radius < 63) & (radius > 60) & (k > 110)
    assert 0.05 * skull.sum() < around.sum() < skull.sum()  # its bounding box is over the skull, its surface 40 mm away
    volume = volume_of(ct_of_shape(skull | around))
    mask, info = bone_mask(volume)
    assert np.array_equal(mask, skull)
    assert info["left_out_voxels"] == around.sum()
    (piece,) = segment_bone(volume).pieces
    assert piece.distance_mm == pytest.approx(40, abs=3)
    assert not piece.sizeable


def ct_of_shape(bone):
    values = np.where(bone, 900, -1000).astype(np.int16)
    values[:3, :3, :3] = 40
    return values


def test_everything_over_the_threshold_is_returned_too():
    speck = np.zeros((60, 60, 60), bool)
    speck[2, 2, 2] = True
    segmentation = segment_bone(volume_of(ct_of(head() | speck)), roi=ROI((30, 30, 40), (60, 60, 60)))
    assert np.array_equal(segmentation.everything, head() | speck)
    assert np.array_equal(segmentation.mask, head() & (np.arange(60) >= 10))


def test_voxels_that_touch_by_a_corner_are_one_component():
    bone = head()
    i = np.argwhere(bone)[:, 0].max()
    corner = np.argwhere(bone[i])[0]
    extra = (i + 1, corner[0] + 1, corner[1] + 1)
    assert not bone[extra]
    bone[extra] = True
    mask, info = bone_mask(volume_of(ct_of(bone)))
    assert mask[extra]
    assert info["left_out_voxels"] == 0


def test_a_given_threshold_is_applied_to_any_image():
    mri = np.where(head(), 180, 20).astype(np.uint8)
    mri[::2] += 3
    mask, info = bone_mask(volume_of(mri), threshold_hu=150)
    assert np.array_equal(mask, head())
    assert info["threshold_hu"] == 150
    assert info["kind"] == "ct"


def with_value(array, value):
    array = array.astype(np.float32)
    array[5, 5, 5] = value
    return array


def mri():
    return np.random.default_rng(0).integers(0, 255, (40, 40, 40)).astype(np.uint8)


BAD = {
    "empty segmentation": (np.zeros((9, 9, 9), np.uint8), None, "is empty"),
    "nothing but ones": (np.ones((9, 9, 9), np.uint8), None, "same value"),
    "several labels": (head().astype(np.uint8) + 2 * (ct_of(head()) == 40), None, "several labels"),
    "MRI": (mri(), None, "--threshold"),
    "blurred segmentation": (mri() / 255.0, None, "--threshold"),
    "not a number": (with_value(ct_of(head()), np.nan), None, "NaN"),
    "not a number in a labelmap": (with_value(head(), np.nan), None, "NaN"),
    "infinite": (with_value(ct_of(head()), np.inf), None, "infinite"),
    "not a number, threshold given": (with_value(ct_of(head()), np.nan), 300.0, "NaN"),
    "threshold too high": (ct_of(head()), 3000.0, "lower --threshold"),
    "threshold too low": (ct_of(head()), -2000.0, "higher --threshold"),
    "threshold on a segmentation": (head().astype(np.uint8), 300.0, "omit it for a segmentation"),
    "threshold not a number": (ct_of(head()), float("nan"), "not a finite number"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_not_a_skull_is_refused_with_a_remedy(kind):
    array, threshold, expected = BAD[kind]
    with pytest.raises(SkullVAEError, match=expected):
        bone_mask(volume_of(array), threshold)


def test_the_result_does_not_depend_on_how_the_array_lies_in_memory():
    specks = np.zeros((60, 60, 60), bool)
    specks[2, 2, 2] = specks[57:59, 3, 3] = True
    array = ct_of(head() | specks)
    here, info = bone_mask(volume_of(np.ascontiguousarray(array)))
    there, same = bone_mask(volume_of(np.asfortranarray(array)))
    assert np.array_equal(here, there)
    assert info == same


def test_the_input_array_is_never_changed():
    array = ct_of(head())
    before = array.copy()
    mask, _ = bone_mask(volume_of(array))
    mask[:] = False
    assert np.array_equal(array, before)


def test_labelmap_mask_allows_an_empty_segmentation_but_not_two_labels():
    assert not labelmap_mask(volume_of(np.zeros((4, 4, 4), np.uint8))).any()
    assert labelmap_mask(volume_of(head())).sum() == head().sum()
    with pytest.raises(SkullVAEError, match=r"a\.nrrd"):
        labelmap_mask(volume_of(np.arange(27).reshape(3, 3, 3)), "a.nrrd")


def test_bounding_box_is_tight_and_grows_only_within_the_array():
    mask = np.zeros((10, 11, 12), bool)
    assert mask[bounding_box(mask)].size == 0
    mask[1, 5, 6] = mask[3, 2, 11] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 6), slice(6, 12))
    assert bounding_box(mask, 2) == (slice(0, 6), slice(0, 8), slice(4, 12))


@pytest.mark.parametrize(
    ("dtype", "label", "shared"), [(np.uint8, 1, True), (np.int16, 1, False), (np.uint8, 3, False)]
)
def test_a_segmentation_of_single_bytes_is_its_own_mask_and_stays_as_it_is(dtype, label, shared):
    array = np.zeros((20, 20, 20), dtype, "F")
    array[4:16, 4:16, 4:16], array[0, 0, 0] = label, label
    before = array.copy()
    segmentation = segment_bone(Volume(array, np.eye(4)))
    assert np.array_equal(segmentation.everything, before != 0) and segmentation.everything.dtype == bool
    assert np.shares_memory(segmentation.everything, array) == shared
    assert np.array_equal(array, before)
