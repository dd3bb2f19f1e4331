"""Claims about the reduced grid: surface and distances are right in mm on every voxel shape, up to the image's end."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.distance_field import downsample_mask, reduced_bone, signed_distance, surface_points
from SkullVAELib.geometry.grey_levels import GreyLevels
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.skull import prepare_skull

OUTER, INNER = 55.0, 49.0


def turned(degrees: float, axis: int) -> np.ndarray:
    first, second = [a for a in range(3) if a != axis]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(4)
    matrix[first, first], matrix[first, second], matrix[second, first], matrix[second, second] = c, -s, s, c
    return matrix


def shell(spacing: tuple[float, float, float], turn: np.ndarray | None = None, half_mm: float = 77.0) -> Volume:
    """A hollow ball at the origin on voxels of any size and orientation."""
    count = np.ceil(2 * half_mm / np.array(spacing)).astype(int)
    affine = (np.eye(4) if turn is None else turn) @ np.diag([*spacing, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((count - 1) / 2)
    index = np.indices(count).reshape(3, -1).T
    away = np.linalg.norm(apply_affine(affine, index), axis=1).reshape(count)
    return Volume((away < OUTER) & (away > INNER), affine)


SHAPES = {
    "0.6 x 0.6 x 0.4": ((0.6, 0.6, 0.4), np.eye(4)),
    "1 x 1 x 1": ((1.0, 1.0, 1.0), np.eye(4)),
    "0.9 x 0.9 x 2.5": ((0.9, 0.9, 2.5), np.eye(4)),
    "0.5 x 0.5 x 5, axial": ((0.5, 0.5, 5.0), np.eye(4)),
    "0.5 x 5 x 0.5, coronal": ((0.5, 5.0, 0.5), np.eye(4)),
    "5 x 0.5 x 0.5, sagittal": ((5.0, 0.5, 0.5), np.eye(4)),
    "0.9 x 0.9 x 2.5, oblique": ((0.9, 0.9, 2.5), turned(17, 0) @ turned(-9, 2)),
    "0.9 x 0.9 x 2.5, flipped": ((0.9, 0.9, 2.5), np.diag([-1.0, 1, -1, 1])),
    "2.5 x 2.5 x 2.5": ((2.5, 2.5, 2.5), np.eye(4)),
}


@pytest.fixture(scope="module", params=SHAPES)
def prepared(request):
    spacing, turn = SHAPES[request.param]
    slices = turn[:3, int(np.argmax(spacing))]
    return prepare_skull("ball", shell(spacing, turn)), max(spacing), slices


def test_the_reduced_grid_is_nearly_isotropic_whatever_the_voxels_are(prepared):
    prepared, _, _ = prepared
    assert prepared.fraction.spacing.min() >= 0.75
    assert prepared.fraction.spacing.max() <= 1.85


def test_surface_points_are_right_below_the_voxel_size(prepared):
    prepared, slice_mm, _ = prepared
    away = np.linalg.norm(prepared.points, axis=1)
    for radius, table in ((OUTER, away > 52), (INNER, away < 52)):
        assert np.median(away[table]) == pytest.approx(radius, abs=0.15)
        assert np.percentile(np.abs(away[table] - radius), 95) < max(0.8, 0.3 * slice_mm)


def test_distances_are_right_at_the_side_and_at_the_vertex(prepared):
    prepared, slice_mm, normal = prepared
    index = np.indices(prepared.fraction.array.shape).reshape(3, -1).T
    at = apply_affine(prepared.fraction.affine, index)
    away = np.linalg.norm(at, axis=1)
    error = prepared.distance.ravel() - np.maximum(away - OUTER, INNER - away)
    outside = (away > OUTER + 0.5) & (away < OUTER + 8)
    steep = np.abs(at @ normal) / away.clip(1)
    # 0.67 mm at 0.5 x 0.5 x 5 mm if half a mean voxel is subtracted on every axis, and 0.89 mm at the vertex.
    assert abs(error[outside & (steep < 0.3)].mean()) < 0.2
    # Between two slices parallel to the surface its place is not known better than to half their distance.
    assert abs(error[outside & (steep > 0.95)].mean()) < max(0.6, 0.5 * slice_mm)


def test_the_distance_field_of_thick_slices_is_right_on_their_own_grid():
    fraction = downsample_mask(shell((0.5, 0.5, 5.0)))
    at = apply_affine(fraction.affine, np.indices(fraction.array.shape).reshape(3, -1).T)
    away = np.linalg.norm(at, axis=1)
    error = signed_distance(fraction).ravel() - (away - OUTER)
    side = (away > OUTER) & (away < OUTER + 8) & (np.abs(at[:, 2]) < 12)
    assert abs(error[side].mean()) < 0.3


@pytest.mark.parametrize("voxels", [0, 1, 2])
def test_an_incomplete_block_at_the_end_of_the_image_shows_no_surface(voxels):
    bone = np.ones((60 + voxels, 60, 60), bool)
    fraction = downsample_mask(Volume(bone, np.diag([0.4, 0.4, 0.4, 1.0])))
    assert (fraction.array == 1).all()
    assert len(surface_points(fraction)[0]) == 0


def test_the_margin_goes_beyond_the_image_and_is_marked_as_not_seen():
    whole = shell((1.0, 1.0, 1.0))
    cut = Volume(whole.array[:, :, : whole.array.shape[2] // 2 + 20], whole.affine)
    fraction, surface, seen = reduced_bone(cut)
    assert surface is fraction, "a mask is its own surface"
    assert seen[2].stop < fraction.array.shape[2]
    assert seen[0] == slice(0, fraction.array.shape[0])
    assert (fraction.array.shape[2] - seen[2].stop) * fraction.spacing[2] >= 20
    assert not fraction.array[:, :, seen[2].stop :].any()
    end = apply_affine(fraction.affine, np.array([0.0, 0, seen[2].stop]))[2]
    assert end == pytest.approx(apply_affine(cut.affine, np.array([0.0, 0, cut.array.shape[2]]))[2])
    skull = prepare_skull("cut", cut)
    # The image's end is no surface: every point is on the ball.
    away = np.linalg.norm(skull.points, axis=1)
    assert np.minimum(np.abs(away - OUTER), np.abs(away - INNER)).max() < 1.0
    beyond = skull.distance[:, :, seen[2].stop :]
    assert (beyond > 0).all()


def shell_ct(spacing: tuple[float, float, float], turn: np.ndarray) -> Volume:
    """The shell as a blurred CT in HU: each voxel is the mean of nine places across its slice."""
    grid = shell(spacing, turn)
    index = np.indices(grid.array.shape).reshape(3, -1).T
    across = np.eye(3)[int(np.argmax(spacing))]
    values = np.zeros(len(index))
    for part in np.linspace(-4, 4, 9) / 9:
        away = np.linalg.norm(apply_affine(grid.affine, index + part * across), axis=1)
        values += (erf((OUTER - away) / 0.8) + erf((away - INNER) / 0.8)) / 18
    return grid.with_array((40 + 860 * values.reshape(grid.array.shape)).astype(np.int16))


@pytest.mark.parametrize(
    ("name", "most"), [("1 x 1 x 1", 0.6), ("0.9 x 0.9 x 2.5", 0.95), ("0.9 x 0.9 x 2.5, oblique", 0.95)]
)
def test_the_values_of_a_ct_locate_the_surface_better_than_its_mask(name, most):
    ct = shell_ct(*SHAPES[name])
    bone = ct.with_array(ct.array >= 300)
    grey = GreyLevels.of(ct, bone, 300.0)
    uneven, offset = [], []
    for values in (None, grey):
        points = prepare_skull("shell", bone, values).points
        away = np.linalg.norm(points, axis=1)
        error = np.where(away > (OUTER + INNER) / 2, away - OUTER, INNER - away)
        uneven.append(error.std())
        offset.append(error.mean())
    assert uneven[1] < most * uneven[0], uneven
    assert abs(offset[1] - offset[0]) < 0.1, "on average the surface stays where the mask has it"


def test_a_voxel_is_bone_in_part_by_its_value_and_a_piece_that_was_left_out_is_not():
    values = np.array([-1000, 40, 200, 299, 300, 500, 3000, 3000])
    inside = np.array([False] * 4 + [True] * 3 + [False])
    grey = GreyLevels(Volume(values[:, None, None], np.eye(4)), 300.0, balance=0.5, contrast_hu=250.0)
    fractions = grey.fractions(values, inside)
    assert (fractions[inside] >= 0.5).all()
    assert (fractions[~inside] < 0.5).all()
    assert fractions[[0, 1, 6, 7]].tolist() == [0, 0, 1, 0]
    assert (np.diff(fractions[:7]) >= 0).all()


def test_the_same_head_has_the_same_values_whatever_the_order_and_direction_of_its_axes():
    ct = shell_ct((0.9, 1.0, 2.5), np.eye(4))
    bone = ct.with_array(ct.array >= 300)
    first = GreyLevels.of(ct, bone, 300.0)
    points = prepare_skull("shell", bone, first).points
    for axes in ((2, 0, 1), (1, 2, 0)):
        affine = ct.affine @ np.eye(4)[[*axes, 3]].T
        turned_ct, turned_bone = (Volume(v.array.transpose(axes), affine) for v in (ct, bone))
        grey = GreyLevels.of(turned_ct, turned_bone, 300.0)
        assert (grey.balance, grey.contrast_hu) == (first.balance, first.contrast_hu)
        assert np.allclose(prepare_skull("shell", turned_bone, grey).points, points, atol=1e-6)


def test_an_image_whose_values_are_no_whole_numbers_keeps_its_surface():
    ct = shell_ct((1.0, 1.0, 1.0), np.eye(4))
    small = ct.with_array(((ct.array - 40) / 860).astype(np.float32))
    bone = small.with_array(small.array >= 0.5)
    grey = GreyLevels.of(small, bone, 0.5)
    away = np.linalg.norm(prepare_skull("shell", bone, grey).points, axis=1)
    outer = away > (OUTER + INNER) / 2
    assert abs(away[outer].mean() - OUTER) < 0.1
    assert abs(away[~outer].mean() - INNER) < 0.1


def test_without_a_voxel_beside_bone_the_mask_is_used():
    everything = Volume(np.full((4, 4, 4), 1000, np.int16), np.eye(4))
    assert GreyLevels.of(everything, everything.with_array(np.ones((4, 4, 4), bool)), 300.0) is None
