"""Claims about the canonical frame: surfaces lie where bone ends, below the voxel size; heads are found as they lie."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.affines import apply_affine, nearest_axes
from SkullVAELib.geometry.distance_field import _slope, downsample_mask, redistance, signed_distance, surface_points
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.masks import block_sums
from SkullVAELib.geometry.volume import Volume, to_nearest_ras
from SkullVAELib.registration.affine import AffineTarget, register_affine
from SkullVAELib.registration.skull import canonical_field
from SkullVAELib.registration.symmetry import align_midsagittal_plane

RADIUS = 20.0
CENTRE = np.array([13.0, -7.0, 31.0])


def rotation(axis: int, degrees: float) -> np.ndarray:
    """(4, 4) right-handed turn about a coordinate axis."""
    angle, (i, j) = np.radians(degrees), [a for a in range(3) if a != axis]
    matrix = np.eye(4)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = (-np.sin(angle), np.sin(angle)) if axis != 1 else (np.sin(angle), -np.sin(angle))
    return matrix


GRIDS = {
    "straight": np.diag([1.0, 1, 1, 1]),
    "flipped": np.diag([-1.0, -1, 1, 1]),
    "mirrored, det -1": np.diag([1.0, -1, 1, 1]),
    "axes permuted": np.eye(4)[[2, 0, 1, 3]],
    "anisotropic": np.diag([0.5, 0.7, 1.4, 1]),
    "fine": np.diag([0.4, 0.4, 0.4, 1]),
    "oblique": rotation(0, 25) @ rotation(2, 17),
    "oblique, anisotropic, det -1": rotation(1, -20) @ np.diag([-0.6, 1.0, 0.8, 1]),
}


def ball(linear: np.ndarray, radius: float = RADIUS, centre: np.ndarray = CENTRE) -> Volume:
    """A solid ball at a place in the world, as voxels of the grid whose axes are the columns of `linear`."""
    size = np.ceil(2 * (radius + 5) / np.linalg.norm(linear[:3, :3], axis=0)).astype(int)
    affine = linear.copy()
    affine[:3, 3] = centre - linear[:3, :3] @ ((size - 1) / 2 + 0.217)  # the centre falls between the voxels
    index = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), -1)
    return Volume(np.linalg.norm(apply_affine(affine, index) - centre, axis=-1) < radius, affine)


@pytest.fixture(params=GRIDS)
def stored_ball(request) -> Volume:
    return ball(GRIDS[request.param])


def test_surface_points_lie_on_the_sphere_and_do_not_shrink_it(stored_ball):
    # Boundary voxel centres would lie half a voxel, 0.5 mm, inside.
    points, _ = surface_points(downsample_mask(stored_ball))
    off = np.linalg.norm(points - CENTRE, axis=1) - RADIUS
    assert abs(off.mean()) < 0.1
    assert np.percentile(np.abs(off), 95) < 0.5 * stored_ball.spacing.max()


def test_finer_voxels_place_the_surface_finer_than_the_reduced_grid():
    points, _ = surface_points(downsample_mask(ball(GRIDS["fine"])))
    off = np.linalg.norm(points - CENTRE, axis=1) - RADIUS
    assert np.percentile(np.abs(off), 99) < 0.2


def test_normals_point_outwards_on_any_grid(stored_ball):
    points, normals = surface_points(downsample_mask(stored_ball))
    radial = (points - CENTRE) / np.linalg.norm(points - CENTRE, axis=1, keepdims=True)
    cosine = (normals * radial).sum(1)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-3)
    assert cosine.min() > 0.5
    assert cosine.mean() > 0.95


def test_signed_distance_is_negative_inside_and_right_in_mm(stored_ball):
    fraction = downsample_mask(stored_ball)
    index = np.argwhere(np.ones(fraction.array.shape, bool))
    true = np.linalg.norm(apply_affine(fraction.affine, index) - CENTRE, axis=1) - RADIUS
    distance = signed_distance(fraction).reshape(-1)
    voxel = fraction.spacing.max()
    assert (distance[true < -voxel] < 0).all()
    assert (distance[true > voxel] > 0).all()
    error = distance[np.abs(true) < 4] - true[np.abs(true) < 4]
    assert abs(np.median(error)) < 0.25 * voxel
    assert np.percentile(np.abs(error), 95) < 1.1 * voxel


def test_reducing_keeps_the_volume_and_the_place(stored_ball):
    fraction = downsample_mask(stored_ball)
    assert fraction.array.sum() * fraction.voxel_ml == pytest.approx(stored_ball.array.sum() * stored_ball.voxel_ml)
    weights = fraction.array[fraction.array > 0]
    centre = np.average(apply_affine(fraction.affine, np.argwhere(fraction.array > 0)), axis=0, weights=weights)
    assert np.allclose(centre, CENTRE, atol=0.1)


def test_the_end_of_the_image_is_no_surface():
    whole = ball(GRIDS["straight"])
    middle = whole.array.shape[2] // 2
    half = Volume(
        whole.array[:, :, middle:], whole.affine @ np.array(np.eye(4) + np.outer([0, 0, middle, 0], [0, 0, 0, 1]))
    )
    points, _ = surface_points(downsample_mask(half))
    assert np.abs(np.linalg.norm(points - CENTRE, axis=1) - RADIUS).max() < 1.0


def test_nearest_axes_are_nibabels_also_of_permuted_oblique_and_sheared_grids():
    generator = np.random.default_rng(0)
    for case in range(60):
        matrix = np.linalg.qr(generator.normal(size=(3, 3)))[0] + (case % 3 == 1) * generator.normal(0, 0.1, (3, 3))
        if case % 3 == 2:
            matrix = np.eye(3)[generator.permutation(3)] * generator.choice([-1, 1], 3)
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = matrix * generator.uniform(0.3, 4, 3), generator.normal(0, 100, 3)
        expected = nib.io_orientation(affine)
        assert np.array_equal(np.stack(nearest_axes(affine), 1), expected)
        volume = Volume(generator.integers(0, 99, (3, 4, 5)), affine)
        turned = to_nearest_ras(volume)
        assert np.array_equal(turned.array, nib.apply_orientation(volume.array, expected))
        assert np.array_equal(turned.affine, affine @ nib.orientations.inv_ornt_aff(expected, (3, 4, 5)))


def test_nearest_ras_moves_no_voxel_in_the_world(stored_ball):
    turned = to_nearest_ras(stored_ball)
    assert (np.abs(turned.affine[:3, :3]).argmax(0) == [0, 1, 2]).all()
    assert (turned.affine[range(3), range(3)] > 0).all()
    before = apply_affine(stored_ball.affine, np.argwhere(stored_ball.array))
    after = apply_affine(turned.affine, np.argwhere(turned.array))
    order = [np.lexsort(np.round(places, 6).T) for places in (before, after)]
    assert np.allclose(before[order[0]], after[order[1]], atol=1e-6)


GRID = Grid((48, 56, 48), 4.0)
HEADS = {
    "straight, elsewhere": np.eye(4),
    "nodded 20 degrees": rotation(0, 20),
    "nodded back 20 degrees": rotation(0, -20),
    "tipped to a side 20 degrees": rotation(1, 20),
    "turned 20 degrees": rotation(2, -20),
    "small, narrow and turned": rotation(2, 10) @ np.diag([0.85, 0.9, 0.95, 1]),
}


@pytest.fixture(scope="module")
def mean_head(model) -> tuple[torch.Tensor, Grid, np.ndarray]:
    """The model's mean shape as a distance, its grid, and the points of its surface."""
    grid = model.architecture.grid
    mean = redistance(model.mean, grid)
    return mean, grid, surface_points(Volume(-mean.numpy(), grid.affine), level=0.0)[0]


@pytest.mark.parametrize("head", HEADS)
def test_registration_finds_the_mean_shape_as_it_lies(mean_head, head):
    mean, grid, points = mean_head
    patient = HEADS[head].copy()
    patient[:3, 3] = [40, -150, 900]
    alignment = register_affine(apply_affine(patient, points), AffineTarget(mean, grid))
    off = np.linalg.norm(apply_affine(alignment, apply_affine(patient, points)) - points, axis=1)
    assert off.mean() < 1.5
    assert np.percentile(off, 95) < 3.0


def test_registration_of_a_few_voxels_is_an_error_that_says_so(mean_head):
    mean, grid, points = mean_head
    with pytest.raises(SkullVAEError, match="too little bone"):
        register_affine(points[:100], AffineTarget(mean, grid))


def test_a_landmark_lies_in_the_canonical_frame_where_the_alignment_puts_it():
    landmark, radius = np.array([22.0, -31.0, 17.0]), 12.0
    alignment = rotation(2, 15) @ np.diag([1.1, 1.1, 1.1, 1])
    alignment[:3, 3] = [-5, 8, -30]
    fraction = downsample_mask(ball(GRIDS["oblique, anisotropic, det -1"], radius, landmark))
    field, seen = canonical_field(fraction, signed_distance(fraction), alignment, GRID)
    inside = field < 0
    place = GRID.coordinates()[inside].mean(0).numpy()
    assert seen[inside].all()
    assert np.allclose(place, apply_affine(alignment, landmark), atol=0.5)
    # Canonical millimetres: the ball grew by the alignment's scale.
    assert float(field.min()) == pytest.approx(-1.1 * radius, abs=GRID.spacing_mm)
    expected_ml = 4 / 3 * np.pi * (1.1 * radius) ** 3 / 1000
    assert float(inside.sum()) * GRID.spacing_mm**3 / 1000 == pytest.approx(expected_ml, rel=0.1)


def test_no_bone_is_claimed_beyond_the_field_of_view():
    fraction = Volume(np.ones((20, 20, 20), np.float32), np.diag([2.0, 2, 2, 1]))
    field, seen = canonical_field(fraction, np.full(fraction.array.shape, -5.0, np.float32), np.eye(4), GRID)
    assert seen.any()
    assert (field[seen] < 0).all()
    assert (field[~seen] >= 3).all()


def test_sampling_a_linear_field_returns_it_at_any_point():
    direction = torch.tensor([0.3, -1.2, 0.7])
    points = (torch.rand(1000, 3, generator=torch.Generator().manual_seed(0)) - 0.5) * torch.tensor(
        GRID.half_mm
    ).float()
    values = GRID.sample((GRID.coordinates() @ direction)[None], points)[:, 0]
    assert torch.allclose(values, points @ direction, atol=1e-3)


def test_the_middle_of_the_head_is_found_though_half_the_vault_is_missing():
    grid = Grid((64, 80, 64), 3.0)
    at = grid.coordinates()
    whole = (at / torch.tensor([66.0, 90.0, 75.0])).norm(dim=-1)
    hollow = (at / torch.tensor([60.0, 84.0, 69.0])).norm(dim=-1)
    hole = (at - torch.tensor([-55.0, 10.0, 45.0])).norm(dim=-1) < 45
    fraction = Volume(((whole < 1) & (hollow > 1) & (at[..., 2] > -60) & ~hole).float().numpy(), grid.affine)
    turned = rotation(2, 1.5)
    turned[:3, 3] = [2.5, 0, 0]
    misplaced = Volume(fraction.array, turned @ fraction.affine)
    field, _ = canonical_field(misplaced, signed_distance(misplaced), np.eye(4), grid)
    points = torch.tensor(surface_points(misplaced)[0]).float()
    found = align_midsagittal_plane(points, field, grid) @ turned
    # What is left of the misplacement: where the head's own middle, and its front, come to lie across the midline.
    assert abs(found[0, 3]) < 0.5
    assert abs(apply_affine(found, np.array([0.0, 90.0, 0.0]))[0]) < 1.0


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("factor", [(2, 3, 1), (7, 6, 8)])
def test_blocks_have_the_sum_of_their_voxels(order, factor):
    mask = np.asarray(np.random.default_rng(0).random((23, 30, 17)) > 0.3, order=order)[1:, ::-1]
    expected = np.zeros(-(-np.array(mask.shape) // factor), int)
    np.add.at(expected, tuple((np.argwhere(mask) // factor).T), 1)
    assert np.array_equal(block_sums(mask, np.array(factor)), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slopes_at_voxels_are_those_of_the_gradient_everywhere(dtype):
    array = np.random.default_rng(0).random((2, 6, 7)).astype(dtype)
    index = np.nonzero(np.ones(array.shape))
    for axis in range(3):
        slope = _slope(array, index, axis)
        assert slope.dtype == dtype
        assert np.array_equal(slope.reshape(array.shape), np.gradient(array, axis=axis))
