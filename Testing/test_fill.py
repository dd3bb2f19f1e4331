"""Claims about the implant's voxels: right at any voxel size and direction of slices, whole where the image ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import ndimage

from SkullVAELib.completion.defects import Defects
from SkullVAELib.completion.fill import AllowedRegion, fill_defects, positive_voxels
from SkullVAELib.completion.measures import measure_implant, outside_warnings
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import dilate, erode
from SkullVAELib.geometry.volume import Volume, crop

OUTER, INNER, REACH = 36.0, 31.0, 20.0
TILT = np.array([[0.866, -0.5, 0], [0.5, 0.866, 0], [0, 0, 1]]) @ np.array(
    [[1, 0, 0], [0, 0.906, -0.423], [0, 0.423, 0.906]]
)
SLICES = {"axial": np.eye(3), "coronal": np.eye(3)[[0, 2, 1]], "sagittal": np.eye(3)[[2, 1, 0]]}
DIRECTIONS = SLICES | {"flipped": np.diag([-1.0, 1, -1]), "oblique": TILT}
VOXELS = [(0.4, 0.4, 0.6), (0.9, 0.9, 2.5), (0.5, 0.5, 5.0)]
TOWARDS = {"at the top": np.array([0.1, 0.05, 1.0]), "at the side": np.array([0.8, -0.35, 0.45])}


class Shell:
    """A complete shape in its own frame: the signed distance of a spherical shell."""

    def at_voxels(self, to_canonical: np.ndarray, index: np.ndarray) -> np.ndarray:
        radius = np.linalg.norm(apply_affine(to_canonical, index), axis=1)
        return np.maximum(radius - OUTER, INNER - radius)


@dataclass(frozen=True)
class Case:
    bone: Volume
    truth: np.ndarray
    defects: Defects
    where: AllowedRegion

    def filled(self, bone: Volume | None = None, smallest_ml: float = 0.5):
        return fill_defects(Shell(), np.eye(4), bone or self.bone, self.defects, self.where, smallest_ml)


def hole_mm(points: np.ndarray, towards: np.ndarray, half_angle: float) -> np.ndarray:
    """Distance (N,) in mm on the shell from the edge of a round hole, negative in it."""
    towards = towards / np.linalg.norm(towards)
    cosine = points @ towards / np.maximum(np.linalg.norm(points, axis=-1), 1e-9)
    return (np.arccos(np.clip(cosine, -1, 1)) - half_angle) * OUTER


def on_grid(affine: np.ndarray, shape: tuple[int, ...], towards: np.ndarray, half_angle: float) -> tuple:
    """Majority of the shell's bone, and of what is cut out of it, in voxels that are each sampled at several places."""
    parts = np.ceil(np.linalg.norm(affine[:3, :3], axis=0) / 1.0).astype(int)
    index = np.indices(shape).transpose(1, 2, 3, 0)
    bone, gone = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for part in np.ndindex(*parts):
        points = apply_affine(affine, index + (np.array(part) + 0.5) / parts - 0.5)
        radius = np.linalg.norm(points, axis=-1)
        shell = (radius < OUTER) & (radius > INNER)
        hole = hole_mm(points, towards, half_angle) < 0
        bone += shell & ~hole
        gone += shell & hole
    return bone > parts.prod() / 2, gone > parts.prod() / 2


def case(spacing, direction: np.ndarray, towards: np.ndarray = TOWARDS["at the top"], half_angle: float = 0.3) -> Case:
    """The part of a shell around a hole, in voxels whose axes are the columns of `direction`."""
    centre = 0.5 * (OUTER + INNER) * towards / np.linalg.norm(towards)
    affine = np.eye(4)
    affine[:3, :3] = direction @ np.diag(spacing)
    shape = tuple(np.ceil(2 * REACH / np.array(spacing)).astype(int))
    affine[:3, 3] = centre - affine[:3, :3] @ (np.array(shape) - 1) / 2
    bone, truth = on_grid(affine, shape, towards, half_angle)
    reduced = np.diag([1.2, 1.2, 1.2, 1.0])
    size = int(np.ceil(2 * REACH / 1.2))
    reduced[:3, 3] = centre - 1.2 * (size - 1) / 2
    points = apply_affine(reduced, np.indices((size,) * 3).transpose(1, 2, 3, 0))
    hole, radius = hole_mm(points, towards, half_angle), np.linalg.norm(points, axis=-1)
    shell = (radius < OUTER) & (radius > INNER)
    score = np.clip((3.0 - hole) / 4, -1, 1).astype(np.float32)
    score[(radius > OUTER + 4) | (radius < INNER - 4)] = -1
    defects = Defects([shell & (hole < 0)], np.zeros(shell.shape, np.float32), np.zeros(shell.shape, bool), 1.2)
    whole = tuple(slice(0, n) for n in shell.shape)
    return Case(Volume(bone, affine), truth, defects, AllowedRegion(Volume(score, reduced), whole))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


@pytest.mark.parametrize("place", TOWARDS)
@pytest.mark.parametrize("spacing", VOXELS, ids=str)
@pytest.mark.parametrize("direction", ["axial", "oblique"])
def test_a_hole_is_filled_at_any_slice_thickness(spacing, direction, place):
    made = case(spacing, DIRECTIONS[direction], TOWARDS[place])
    filled = made.filled()
    assert dice(filled.mask, made.truth) > (0.7 if max(spacing) > 4 else 0.8)
    assert not (filled.mask & made.bone.array).any()
    assert filled.outside_ml == 0
    assert measure_implant(made.bone, filled, 0.0)["pieces"] == 1


@pytest.mark.parametrize("direction", ["coronal", "sagittal", "flipped"])
def test_the_direction_of_thick_slices_makes_no_difference(direction):
    made = case(VOXELS[2], DIRECTIONS[direction])
    assert dice(made.filled().mask, made.truth) > 0.7


@pytest.mark.parametrize("spacing", [(0.4, 0.4, 0.6), (0.9, 0.9, 1.2), (2.0, 1.1, 0.7)], ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("border", [False, True])
def test_the_positive_voxels_are_those_of_the_whole_interpolated_score(direction, spacing, border):
    made = case(spacing, DIRECTIONS[direction])
    score, fine = made.where.score, made.bone
    if border:
        score = score.with_array(np.ones_like(score.array))
    to_score = np.linalg.inv(score.affine) @ fine.affine
    whole = ndimage.affine_transform(
        score.array, to_score[:3, :3], to_score[:3, 3], fine.array.shape, order=1, cval=-1.0, prefilter=False
    )
    index, values = positive_voxels(score, fine)
    assert len(index) > 1000
    assert np.array_equal(values, whole[tuple(index.T)])
    found = np.zeros(fine.array.shape, bool)
    found[tuple(index.T)] = True
    unlike = np.argwhere(found != ((whole > 0) & ~fine.array))
    # On the border itself the last bit decides, which no axis-parallel grid has been seen to differ in.
    at = apply_affine(to_score, unlike)
    from_border = np.minimum(at, np.array(score.array.shape) - 1 - at)
    assert np.abs(from_border).min(1).max(initial=0) < 1e-9
    assert direction == "oblique" or not len(unlike)


@pytest.mark.parametrize("edge", [1.0, 2.0, 2.5, 3.0])
def test_coarse_voxels_are_filled(edge):
    made = case((edge,) * 3, np.eye(3))
    assert dice(made.filled().mask, made.truth) > 0.7


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 3.0)], ids=str)
def test_the_implant_is_whole_where_the_image_ends(spacing):
    made = case(spacing, np.eye(3))
    whole = made.filled()
    end = round(REACH / spacing[2])  # within the shell, at the hole
    size = made.bone.array.shape
    image = crop(made.bone, (slice(0, size[0]), slice(0, size[1]), slice(0, end)))
    filled = made.filled(image)
    assert dice(filled.mask, whole.mask[..., :end]) > 0.98
    lost = whole.mask[..., end:].sum() * made.bone.voxel_ml
    assert lost > 0.3
    assert filled.outside_ml == pytest.approx(lost, rel=0.3)
    volume = filled.whole.array.sum() * filled.whole.voxel_ml
    # Beyond the image there is no bone, so the implant is a little larger there.
    assert 1.0 <= volume / (whole.whole.array.sum() * whole.whole.voxel_ml) < 1.3
    figures = measure_implant(image, filled, 0.1)
    assert figures["outside_image_ml"] == pytest.approx(lost, rel=0.3)
    assert figures["volume_ml"] == pytest.approx(filled.mask.sum() * image.voxel_ml, abs=1e-3)
    (warning,) = outside_warnings(image, filled)
    assert "beyond the end of the image (superior)" in warning and f"{filled.outside_ml:.1f} ml" in warning
    assert outside_warnings(made.bone, whole) == [] and "outside_image_ml" not in measure_implant(made.bone, whole, 0.1)


def test_the_side_of_the_image_is_named_in_the_directions_of_the_patient():
    made = case((1.0, 1.0, 1.0), np.diag([-1.0, 1, -1]), np.array([1.0, 0, 0.0]))
    size = made.bone.array.shape
    image = crop(
        made.bone, (slice(20, size[0]), slice(0, size[1]), slice(0, size[2]))
    )  # its first axis runs to the left
    (warning,) = outside_warnings(image, made.filled(image))
    assert "(right)" in warning


def test_two_implants_of_one_image_are_put_together():
    made = case((1.0, 1.0, 2.0), TILT)
    score, parts = made.where.score, []
    for ends in ((0, 16), (18, score.array.shape[0])):
        box = (slice(*ends), *(slice(0, n) for n in score.array.shape[1:]))
        where = AllowedRegion(crop(score, box), box)
        parts.append(fill_defects(Shell(), np.eye(4), made.bone, made.defects, where))
    both = parts[0] | parts[1]
    assert np.array_equal(both.mask, parts[0].mask | parts[1].mask)
    assert both.whole.array.sum() == sum(part.whole.array.sum() for part in parts) > 1000
    index = np.argwhere(both.whole.array)
    there = np.round(apply_affine(np.linalg.inv(made.bone.affine) @ both.whole.affine, index)).astype(int)
    assert both.mask[tuple(there.T)].mean() > 0.9


def test_a_small_hole_is_kept_where_the_user_has_chosen_it():
    made = case((0.5, 0.5, 0.5), np.eye(3), half_angle=0.12)  # a hole of 8 mm
    assert not made.filled(smallest_ml=0.5).mask.any()
    assert dice(made.filled(smallest_ml=0.0).mask, made.truth) > 0.9


def test_a_ball_in_millimetres_dilates_each_axis_by_its_own_number_of_voxels():
    mask = np.random.default_rng(0).random((14, 15, 16)) > 0.995
    for spacing in ((1.0, 1.0, 1.0), (0.4, 0.4, 0.6), (0.9, 0.9, 2.5), (5.0, 0.5, 0.5)):
        for radius in (0.3, 1.25, 2.0):
            near = ndimage.distance_transform_edt(~mask, sampling=spacing) <= radius + 1e-9
            assert np.array_equal(dilate(mask, np.array(spacing), radius), near)
    inner = np.zeros((12, 12, 12), bool)
    inner[3:9, 3:9, 3:9] = True
    assert np.array_equal(erode(inner, np.ones(3), 1.25), ndimage.binary_erosion(inner))
    assert np.array_equal(erode(inner, np.array([1, 1, 5.0]), 1.25)[..., 5], ndimage.binary_erosion(inner[..., 5]))
