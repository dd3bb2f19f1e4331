"""Claims about the box: what lies outside of it is not bone, whatever the grid's orientation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from SkullVAELib.cli.arguments import join_option_value
from SkullVAELib.cli.main import _parser
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.roi import ROI
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.bone import bone_mask

numbers = st.floats(-40, 40).map(lambda value: round(value, 2))


def turned(angle: float, axis: int) -> np.ndarray:
    """(3, 3) rotation about one of the axes."""
    c, s = np.cos(angle), np.sin(angle)
    a, b = (k for k in range(3) if k != axis)
    matrix = np.eye(3)
    matrix[[a, a, b, b], [a, b, a, b]] = c, -s, s, c
    return matrix


def oblique_grid() -> np.ndarray:
    """A flipped, anisotropic, oblique affine."""
    affine = np.eye(4)
    affine[:3, :3] = turned(0.4, 2) @ turned(-0.3, 0) @ np.diag([-1.1, 0.8, 2.3])
    affine[:3, 3] = 12, -9, -20
    return affine


@given(centre=st.tuples(numbers, numbers, numbers), sides=st.tuples(*[st.floats(1, 60)] * 3), angle=st.floats(-3, 3))
@settings(max_examples=40, deadline=None)
def test_a_voxel_is_kept_when_its_centre_lies_in_the_box(centre, sides, angle):
    grid = Volume(np.ones((17, 23, 21), bool), oblique_grid())
    axes = turned(angle, 1) @ turned(0.2, 2)
    kept = ROI(centre, sides, tuple(map(tuple, axes))).keep(grid.array, grid)
    points = apply_affine(grid.affine, np.indices(kept.shape).reshape(3, -1).T)
    within = np.abs((points - centre) @ axes.T) / (np.array(sides) / 2)
    clear = (np.abs(within - 1) > 1e-4).all(1)  # on a face rounding may decide either way
    assert np.array_equal(kept.ravel()[clear], (within <= 1).all(1)[clear])


def test_faces_that_meet_voxel_centres_belong_to_the_box():
    grid = Volume(np.ones((11, 11, 11), bool), np.diag([-0.7, 0.7, 0.7, 1]))
    kept = ROI((-3.5, 3.5, 3.5), (2.8, 2.8, 2.8)).keep(grid.array, grid)
    assert kept.sum() == 5**3


def test_a_box_takes_bone_of_a_labelmap_and_of_a_ct_alike():
    bone = np.zeros((40, 40, 40), bool)
    bone[5:15, 5:35, 5:35] = True
    bone[25:35, 5:35, 5:35] = True
    box = ROI((9, 20, 20), (14, 40, 40))
    labelmap, about = bone_mask(Volume(bone.astype(np.uint8), np.eye(4)), roi=box)
    ct, about_ct = bone_mask(Volume(np.where(bone, 900, -800).astype(np.int16), np.eye(4)), roi=box)
    assert labelmap[5:15, 5:35, 5:35].all() and labelmap.sum() == 9000
    assert np.array_equal(labelmap, ct)
    assert about["left_out_voxels"] == about_ct["left_out_voxels"] == 9000


def test_what_joins_head_and_table_outside_the_box_does_not_keep_the_table():
    ct = np.full((40, 40, 60), -800, np.int16)
    ct[5:35, 5:35, 30:55] = 900
    ct[10:12, 10:12, 8:30] = 900  # a strut
    ct[:, :, 2:8] = 900
    whole, _ = bone_mask(Volume(ct, np.eye(4)))
    head, _ = bone_mask(Volume(ct, np.eye(4)), roi=ROI((20, 20, 42), (60, 60, 30)))
    assert whole[:, :, 2:8].any()
    assert not head[:, :, :27].any()
    assert head[5:35, 5:35, 30:55].all()


BAD = {
    "a word": "left",
    "five numbers": "1,2,3,4,5",
    "seven numbers": "1,2,3,4,5,6,7",
    "not a number": "1,2,3,4,5,nan",
    "a flat box": "0,0,0,10,0,10",
    "axes that are not perpendicular": "0,0,0,9,9,9,1,0,0,1,0,0,0,0,1",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_box_that_is_none_says_how_to_write_one(text):
    with pytest.raises(SkullVAEError, match="--roi CX,CY,CZ,SX,SY,SZ"):
        ROI.parse(text)


def test_a_box_beside_the_bone_is_said():
    bone = np.zeros((20, 20, 20), np.uint8)
    bone[5:9, 5:9, 5:9] = 1
    with pytest.raises(SkullVAEError, match="no bone in the ROI"):
        bone_mask(Volume(bone, np.eye(4)), roi=ROI((100, 100, 100), (9, 9, 9)))


@pytest.mark.parametrize("option", ["--roi", "--box"])
def test_a_box_may_begin_with_a_minus_on_the_command_line(option):
    arguments = join_option_value(["complete", "a.nrrd", "-o", "out", option, "-1.5,2,3,40,50,60"], "--roi", "--box")
    box = ROI.parse(_parser().parse_args(arguments).roi)
    assert box == ROI((-1.5, 2, 3), (40, 50, 60))


def test_the_completed_skull_holds_only_bone_of_the_box(completed, sample):
    """A plate below the head, as of a headrest, changes nothing when the box leaves it out."""
    bone = sample.bone.array.copy()
    low = np.flatnonzero(bone.any(axis=(0, 1)))[:6]
    bone[:, :, low] = True
    points = apply_affine(sample.bone.affine, np.argwhere(sample.bone.array))
    low_mm, high_mm = points.min(0), points.max(0)
    low_mm[2] += 8
    box = ROI(tuple((low_mm + high_mm) / 2), tuple(high_mm - low_mm + 0.5))
    result = completed(sample.bone.with_array(bone), roi=box)
    inside = box.keep(bone, sample.bone)
    assert result.found
    assert not result.bone.array[:, :, low].any()
    assert np.array_equal(result.completed.array & ~result.implant.array, inside)
    assert 2 * (result.implant.array & sample.truth).sum() > 0.8 * (result.implant.array.sum() + sample.truth.sum())
