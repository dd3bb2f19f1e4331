"""New complete skulls sampled from a population registered to its mean skull."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from SkullVAELib.geometry.grid import Grid
from SkullVAELib.registration.mean_skull import Population
from SkullVAELib.registration.skull import CLAMP_MM
from SkullVAELib.shape.two_table import gradient, outer_side_weight


def _smooth_noise(rng: np.random.Generator, channels: int, knots: int) -> torch.Tensor:
    """(channels, knots, knots, knots) standard normal values, to be interpolated."""
    return torch.tensor(rng.normal(size=(channels, knots, knots, knots)), dtype=torch.float32)


def draw_skull(population: Population, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample a new complete skull on the mean.

    The detail is that of one skull or a blend of two. It is varied by `vary_skull` (a smooth random warp, a small
    affine for what registration leaves, a change of thickness) and mirrored at random.

    Parameters
    ----------
    population : Population
        Skulls warped to their mean.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    field : torch.Tensor, shape (X, Y, Z)
        Signed distance in mm, clamped.
    known : torch.Tensor, shape (X, Y, Z)
        0..1, where the skull has data.
    """
    grid, count = population.grid, len(population.names)
    if rng.uniform() < 0.5 or count == 1:
        detail_weight = np.eye(count)[rng.integers(count)]
    else:
        first, second = rng.permutation(count)[:2]
        share = rng.uniform(-0.15, 1.15)
        detail_weight = share * np.eye(count)[first] + (1 - share) * np.eye(count)[second]
    used = np.flatnonzero(detail_weight)
    source = torch.stack(
        [
            torch.stack([float(detail_weight[k]) * population.detail[k] for k in used]).sum(0),
            torch.stack([population.known[k] for k in used]).amin(0),
        ]
    )
    field, known = vary_skull(source, grid, rng)
    if rng.uniform() < 0.5:
        field, known = field.flip(0), known.flip(0)
    return field.clamp(-CLAMP_MM, CLAMP_MM), known


def vary_skull(
    source: torch.Tensor, grid: Grid, rng: np.random.Generator, least_mm: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Vary a field on the mean: a smooth random warp, a small affine, a change of thickness, and bumps on each table.

    Parameters
    ----------
    source : torch.Tensor, shape (2, X, Y, Z)
        Signed distance in mm, and 0..1 where it has data.
    grid : Grid
        The grid of the field.
    rng : numpy.random.Generator
        Source of randomness.
    least_mm : float
        Bone less than this deep is not thinned, mm.

    Returns
    -------
    field, known : torch.Tensor, shape (X, Y, Z)
        Both, varied.
    """
    warp = torch.zeros(3, 24, 28, 24)
    for knots, strength in ((4, 1.5), (7, 1.2)):
        noise = _smooth_noise(rng, 3, knots)[None] * strength * rng.uniform(0, 1)
        warp = warp + F.interpolate(noise, size=warp.shape[1:], mode="trilinear", align_corners=True)[0]
    angles = torch.tensor(rng.normal(0, 0.01, 3)).float()
    generator = torch.tensor([[0, -angles[2], angles[1]], [angles[2], 0, -angles[0]], [-angles[1], angles[0], 0]])
    linear = torch.matrix_exp(generator) @ torch.diag(torch.tensor(np.exp(rng.normal(0, 0.01, 3))).float())
    shift = torch.tensor(rng.normal(0, 0.5, 3)).float()
    at = grid.coordinates().reshape(-1, 3) @ linear.T + shift
    full = F.interpolate(warp[None], size=grid.shape, mode="trilinear", align_corners=True)[0].reshape(3, -1).T
    field, known = grid.sample(source, at + full).T.reshape(2, *grid.shape)
    thicker = _smooth_noise(rng, 1, 4)[None] * 0.4 + rng.normal(0, 0.6)
    thicker = F.interpolate(thicker.clamp(-1.5, 1.5), size=grid.shape, mode="trilinear", align_corners=True)[0, 0]
    # Each table has bumps and furrows of its own, which are not predictable from other skulls.
    bumps = _smooth_noise(rng, 2, 10)[None] * rng.uniform(0, 0.5)
    bumps = F.interpolate(bumps, size=grid.shape, mode="trilinear", align_corners=True)[0]
    side = outer_side_weight(gradient(field, grid.spacing_mm), grid)
    thicker = thicker + side * bumps[0] + (1 - side) * bumps[1]
    # Thin skulls are thin plates, not plates with holes: no bone loses more than half of its depth.
    depth = F.max_pool3d(-field[None, None], 5, stride=1, padding=2)[0, 0].clamp(min=0)
    spare = torch.minimum(0.5 * depth, (depth - least_mm).clamp(min=0))
    field = field - torch.maximum(thicker, -spare)
    return field, known
