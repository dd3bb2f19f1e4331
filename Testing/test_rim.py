"""Claims about the rim correction: bone at the rim and bone opposite the hole both tell where the tables lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SkullVAELib.completion.gaussian_process import _kernel, correct_with_gaussian_process
from SkullVAELib.completion.options import GaussianProcessOptions
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.shape.two_table import TwoTableShape
from SkullVAELib.shape.warped import WarpedShape

GRID = Grid((64, 64, 64), 3.0)
OUTER, INNER, HOLE = 75.0, 69.0, 22.0
STILL = torch.zeros(3, 2, 2, 2)


def head(inner_radius) -> tuple[torch.Tensor, torch.Tensor]:
    """Points and normals of a round head whose inner table lies at inner_radius(unit directions), with a hole left."""
    directions = torch.nn.functional.normalize(torch.randn(60000, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    directions = directions[(directions * OUTER - torch.tensor([-OUTER, 0, 0])).norm(dim=1) > HOLE]
    first, second = directions[::2], directions[1::2]
    return torch.cat([first * OUTER, second * inner_radius(second)[:, None]]), torch.cat([first, -second])


def corrected(inner_radius, options: GaussianProcessOptions) -> tuple[WarpedShape, float]:
    away = GRID.coordinates().norm(dim=-1)
    prior = WarpedShape(TwoTableShape.of(torch.maximum(away - OUTER, INNER - away), GRID), STILL)
    gap = GRID.coordinates().reshape(-1, 3).numpy()
    radius = np.linalg.norm(gap, axis=1)
    gap = gap[(radius > INNER) & (radius < OUTER) & (np.linalg.norm(gap - [-72, 0, 0], axis=1) < HOLE)]
    points, normals = head(inner_radius)
    bone = torch.full(GRID.shape, 5.0)  # nothing near any surface: no walls of a sinus
    return correct_with_gaussian_process(prior, points, normals, bone, gap, options)


def inner_table(prior: WarpedShape) -> float:
    """Radius at which bone begins, from inside, in the middle of the hole."""
    radii = torch.arange(55, 80, 0.05)
    inside = radii[prior.field(radii[:, None] * torch.tensor([-1.0, 0, 0])) < 0]
    return float(inside.min())


@pytest.mark.parametrize("shift", [-2.0, 1.5])
def test_a_skull_thicker_or_thinner_than_the_prior_is_so_in_the_hole_too(shift):
    prior, left = corrected(lambda d: torch.full((len(d),), INNER + shift), GaussianProcessOptions())
    assert inner_table(prior) == pytest.approx(INNER + shift, abs=0.4)
    assert left < 0.4


def test_a_furrow_opposite_the_hole_is_expected_in_it_by_half_or_more():
    def furrowed(directions: torch.Tensor) -> torch.Tensor:
        return INNER + 2.0 * torch.exp(-(((directions[:, 0] - 1) / 0.03) ** 2))

    heard = inner_table(corrected(furrowed, GaussianProcessOptions())[0]) - INNER
    alone = inner_table(corrected(furrowed, GaussianProcessOptions(symmetry=0.0))[0]) - INNER
    assert abs(alone) < 0.3
    assert 0.6 < heard < 2.2


def test_residuals_vary_as_much_in_the_midsagittal_plane_as_at_the_side():
    points = np.array([[0.0, 60, 50], [3, 60, 50], [20, 60, 50], [75, 20, 20]])
    covariance = _kernel(points, points, GaussianProcessOptions())
    assert np.diag(covariance) == pytest.approx(1.0)
    assert np.linalg.eigvalsh(covariance).min() > 0
