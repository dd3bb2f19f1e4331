"""Claims about a shape represented by its two tables: thin bone stays, a correction moves its own table."""

from __future__ import annotations

import pytest
import torch

from SkullVAELib.geometry.grid import Grid
from SkullVAELib.registration.free_form import fit_warp, inverse_warp
from SkullVAELib.registration.options import WarpOptions
from SkullVAELib.shape.two_table import TwoTableShape, outward_directions, pick_side
from SkullVAELib.shape.warped import WarpedShape

GRID = Grid((64, 64, 64), 3.0)
RADIUS = 70.0
STILL = torch.zeros(3, 2, 2, 2)


def sphere(thickness: float, grid: Grid = GRID) -> torch.Tensor:
    """Signed distance to a hollow sphere whose outer radius is RADIUS."""
    away = grid.coordinates().norm(dim=-1)
    return torch.maximum(away - RADIUS, RADIUS - thickness - away)


def ray(radii: torch.Tensor) -> torch.Tensor:
    """Points at these radii along a direction that follows no axis of the grid."""
    return radii[:, None] * torch.tensor([0.36, 0.48, 0.8])


def edges(prior: WarpedShape) -> tuple[float, float]:
    """Radii between which a ray runs through bone."""
    radii = torch.arange(50, 90, 0.05)
    inside = radii[prior.field(ray(radii)) < 0]
    return (float(inside.min()), float(inside.max())) if len(inside) else (0.0, 0.0)


@pytest.mark.parametrize("thickness", [0.8, 1.5, 3.0, 6.0])
def test_bone_thinner_than_the_grid_keeps_its_place_and_thickness(thickness):
    inner, outer = edges(WarpedShape(TwoTableShape.of(sphere(thickness), GRID), STILL))
    assert outer == pytest.approx(RADIUS, abs=0.3)
    assert outer - inner == pytest.approx(thickness, abs=0.4)


def test_the_grid_alone_loses_thin_bone():
    # Why the tables are represented separately: along this ray trilinear values never fall below zero.
    values = GRID.sample(sphere(0.8)[None], ray(torch.arange(50, 90, 0.05)))
    assert float(values.min()) > 0


def test_a_correction_moves_its_own_table_and_not_the_other():
    shape = TwoTableShape.of(sphere(5.0), GRID)
    corrections = torch.zeros(2, 2, 2, 2)
    corrections[0] = 1.0
    inner, outer = edges(WarpedShape(shape, STILL, corrections))
    assert (inner, outer) == pytest.approx((65.0, 71.0), abs=0.3)
    inner, outer = edges(WarpedShape(shape, STILL, corrections.flip(0)))
    assert (inner, outer) == pytest.approx((64.0, 70.0), abs=0.3)


def test_each_point_takes_its_own_side():
    both = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert pick_side(both, torch.tensor([True, False])).tolist() == [[1.0], [4.0]]


def test_a_warp_and_its_inverse_lead_back():
    warp = 4 * torch.randn(3, 5, 5, 5, generator=torch.Generator().manual_seed(0))
    warp = torch.nn.functional.interpolate(warp[None], size=(20, 20, 20), mode="trilinear", align_corners=True)[0]
    points = ray(torch.linspace(20, 80, 50))
    there = points + GRID.sample(inverse_warp(warp, GRID), points)
    assert torch.allclose(there + GRID.sample(warp, there), points, atol=0.4)


def test_a_hole_on_one_side_is_bent_as_the_other_side_is():
    """A head wider than the prior on both sides, with no bone on its left: symmetry widens the left, too."""
    prior = TwoTableShape.of(sphere(5.0), GRID)
    directions = torch.nn.functional.normalize(torch.randn(20000, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    directions = directions[directions[:, 0] > -0.5]
    points = directions * RADIUS * torch.tensor([1.06, 1.0, 1.0])
    left = torch.tensor([[-1.06 * RADIUS, 0.0, 0.0]])
    error = {}
    for symmetry in (0.0, 0.3):
        warp = fit_warp(prior, points, outward_directions(points), WarpOptions(symmetry=symmetry))
        error[symmetry] = abs(float(WarpedShape(prior, warp).field(left)))
    assert error[0.3] < min(error[0.0], 1.5)


def test_a_head_that_lies_beside_the_middle_is_not_taken_for_a_crooked_one():
    """Two millimetres to the right, with no bone on its left: the left lies two millimetres to the right, too."""
    prior = TwoTableShape.of(sphere(5.0), GRID)
    directions = torch.nn.functional.normalize(torch.randn(20000, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    directions = directions[directions[:, 0] > -0.3]
    points = directions * RADIUS + torch.tensor([2.0, 0.0, 0.0])
    left = torch.tensor([[2.0 - RADIUS, 0.0, 0.0]])
    error = {}
    for symmetry in (0.0, WarpOptions().symmetry):
        warp = fit_warp(prior, points, directions, WarpOptions(symmetry=symmetry))
        error[symmetry] = abs(float(WarpedShape(prior, warp).field(left)))
    # Taken for crooked, the left would be 4 mm off.
    assert error[WarpOptions().symmetry] < min(0.6 * error[0.0], 1.0)
