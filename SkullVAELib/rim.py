"""The rim correction: what the smooth warp leaves between prior and bone around the hole, carried across it.

The warp moves outer and inner table together, so an error of thickness remains. Here the remaining distances, measured
on intact bone around the hole and on each table apart, are interpolated over the hole by Gaussian-process regression
(kriging): close to bone at the rim, falling back on this skull's median where no bone is near enough to tell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from .frame import Grid
from .warp import gradient

VAULT_RADIUS_MM = 80.0


@dataclass(frozen=True)
class RimOptions:
    """length_mm: distance over which residuals stay alike; noise: standard deviation of a residual that is noise,
    relative to one that is not; reach_mm: how far from the hole bone is listened to; edge_mm: the band in which an
    edge may be rounded off, rounding: how strongly that is held against it; cut_mm: larger residuals are not
    errors of thickness but other bone; outlier_mm: misfit beyond which a point counts less; limit_mm: the largest
    correction; count: points a table."""

    length_mm: float = 40.0
    noise: float = 0.5
    reach_mm: float = 60.0
    edge_mm: float = 5.0
    rounding: float = 4.0
    cut_mm: float = 4.0
    outlier_mm: float = 1.0
    limit_mm: float = 3.0
    count: int = 600


@dataclass(frozen=True)
class ConformedPrior:
    """A prior shape laid on the patient: field(x) = prior(x + u(x)) - correction(x), x in canonical mm.

    prior: (X, Y, Z) mm; warp: (3, X', Y', Z') mm; outer, inner: (X'', Y'', Z'') corrections in mm of the two tables,
    over the canonical extent, or None before the rim correction; thickening: (X, Y, Z) mm that the field is lowered by.
    """

    grid: Grid
    prior: torch.Tensor
    warp: torch.Tensor
    outer: torch.Tensor | None = None
    inner: torch.Tensor | None = None
    thickening: torch.Tensor | None = None

    def field(self, points: torch.Tensor) -> torch.Tensor:
        """Signed distance (N,) in canonical mm at points (N, 3); negative in bone."""
        moved = points + self.grid.sample(self.warp, points)
        value = self.grid.sample(self.prior[None], moved)[:, 0]
        if self.outer is not None:
            weight = self._outerness(points, moved)
            both = self.grid.sample(torch.stack([self.outer, self.inner]), points)
            value = value - weight * both[:, 0] - (1 - weight) * both[:, 1]
        if self.thickening is not None:
            value = value - self.grid.sample(self.thickening[None], points)[:, 0]
        return value

    def on_grid(self) -> torch.Tensor:
        """The field (X, Y, Z) in mm on the canonical grid's own nodes."""
        return self.field(self.grid.coordinates().reshape(-1, 3)).reshape(self.grid.shape)

    def kept_closed(self, spread: torch.Tensor, half_mm: float = 1.0, hint_mm: float = 0.8) -> ConformedPrior:
        """The same shape with its thinnest bone made at least about 2 half_mm thick.

        Bone thinner than the grid's spacing, the squama above all, fades out of a regressed distance field: its ridge
        rises towards zero and the shell opens. Where the ridge is still below hint_mm the field is lowered until it is
        half_mm deep there; only where skulls agree, for the skull base is open by nature. spread: (X, Y, Z) mm.
        """
        bare = replace(self, thickening=None)
        size = 2 * round(4.0 / self.grid.spacing_mm / 2) + 1
        ridge = -F.max_pool3d(-bare.on_grid()[None, None], size, stride=1, padding=size // 2)
        lowered = torch.where((ridge < hint_mm) & (spread < 1.6), (ridge + half_mm).clamp(min=0), 0.0)
        smooth = F.avg_pool3d(lowered, 3, stride=1, padding=1)[0, 0]
        return replace(bare, thickening=smooth)

    def _outerness(self, points: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        """1 where the nearest surface faces away from the vault's centre, 0 where it faces it, smoothly between."""
        slope = self.grid.sample(self._slopes, moved)
        radial = points / points.norm(dim=1, keepdim=True).clamp(min=1)
        return (0.5 + (slope * radial).sum(1)).clamp(0, 1)

    @property
    def _slopes(self) -> torch.Tensor:
        return gradient(self.prior, self.grid.spacing_mm)


def _kernel(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    """Matern 3/2 covariance of points (N, 3) and (M, 3), mm, by their distance along the vault.

    Depth must not count: a residual is itself a depth, and a regression that saw both would learn that what lies deeper
    lies deeper, and carry that through the thickness of the bone.
    """
    along = [p / np.linalg.norm(p, axis=1, keepdims=True).clip(1.0) * VAULT_RADIUS_MM for p in (a, b)]
    r = np.sqrt(3) * cdist(*along) / length
    return (1 + r) * np.exp(-r)


def _krige(known: np.ndarray, value: np.ndarray, away: np.ndarray, at: np.ndarray, options: RimOptions) -> np.ndarray:
    """Gaussian-process mean at points `at` of values (mm) known at points, `away` mm from the hole's edge.

    Robust twice. What disagrees with the rest counts less and less. And an edge that has healed is rounded off: where
    bone near it lies deeper than bone further away foretells, band by band, it counts less by as much; a fresh cut,
    which does not, is heard in full.
    """
    # Far from the rim the regression falls back on its mean: that of this skull's tables, thick or thin as they are.
    mean = float(np.median(value))
    value = value - mean
    covariance = _kernel(known, known, options.length_mm)
    noise = np.full(len(known), options.noise**2)
    far = away > options.edge_mm
    if 30 <= far.sum() < len(far):
        weights = cho_solve(cho_factor(covariance[np.ix_(far, far)] + np.diag(noise[far])), value[far])
        error = value - covariance[:, far] @ weights
        for low in np.arange(0, options.edge_mm, 1.0):
            band = ~far & (away >= low) & (away < low + 1)
            if band.any():
                noise[band] += (options.rounding * max(0.0, -float(np.median(error[band])))) ** 2
    start = noise
    for _ in range(3):
        weights = cho_solve(cho_factor(covariance + np.diag(noise)), value)
        error = value - covariance @ weights
        noise = start * (1 + (error / options.outlier_mm) ** 2) ** 2
    weights = cho_solve(cho_factor(covariance + np.diag(noise)), value)
    return np.clip(mean + _kernel(at, known, options.length_mm) @ weights, -options.limit_mm, options.limit_mm)


def _facing_bone(points: torch.Tensor, normals: torch.Tensor, bone: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Which surface points (N,) look at other bone within 12 mm: walls of a sinus or a crack, not tables."""
    blocked = torch.zeros(len(points), dtype=torch.bool)
    for far in range(3, 13, 2):
        blocked |= grid.sample(bone[None], points + far * normals)[:, 0] < 0.4
    return blocked


def correct_rim(
    conformed: ConformedPrior,
    points: torch.Tensor,
    normals: torch.Tensor,
    bone: torch.Tensor,
    gap: np.ndarray,
    options: RimOptions = RimOptions(),
) -> tuple[ConformedPrior, float]:
    """Add the rim correction around a gap.

    points, normals: (N, 3) the patient's bone surface in canonical mm; bone: (X, Y, Z) its signed distance in mm on the
    canonical grid; gap: (M, 3) canonical mm of voxels to be filled.
    Returns the corrected prior and the 95th percentile of its remaining distance (mm) to bone within 5 mm of the gap.
    """
    grid = conformed.grid
    low, high = gap.min(0) - options.reach_mm, gap.max(0) + options.reach_mm
    box = ((points > torch.tensor(low).float()) & (points < torch.tensor(high).float())).all(1)
    points, normals = points[box], normals[box]
    sparse = gap[:: max(1, len(gap) // 4000)]
    hull = cKDTree(sparse)
    away = hull.query(points.numpy(), distance_upper_bound=options.reach_mm)[0]
    moved = points + grid.sample(conformed.warp, points)
    residual = grid.sample(conformed.prior[None], moved)[:, 0]
    slope = grid.sample(conformed._slopes, moved)
    agree = (slope * normals).sum(1) / slope.norm(dim=1).clamp(min=1e-3)
    facing = (normals * points / points.norm(dim=1, keepdim=True).clamp(min=1)).sum(1)
    usable = (agree > 0.75) & (residual.abs() < options.cut_mm) & torch.tensor(np.isfinite(away))
    usable &= torch.tensor(away > 1.0)  # at the very edge block averages round off any cut
    usable &= ~_facing_bone(points, normals, bone, grid)
    # The correction is as smooth as its kernel: nodes 5 mm apart, near the gap alone, carry all of it.
    nodes = Grid(tuple(int(np.ceil(2 * h / 5.0)) + 1 for h in grid.half_mm), 1.0)
    at = nodes.coordinates().numpy() / nodes.half_mm * grid.half_mm
    near = (hull.query(at.reshape(-1, 3), distance_upper_bound=15.0)[0] < 15.0).reshape(nodes.shape)
    rng = np.random.default_rng(0)
    tables = []
    for side in (facing > 0.3, facing < -0.3):
        chosen = np.flatnonzero((usable & side).numpy())
        correction = torch.zeros(nodes.shape)
        if len(chosen) >= 30:
            # Bone at the rim tells most: draw points the more often the nearer they lie.
            share = np.exp(-away[chosen] / 8.0) + 0.02
            chosen = rng.choice(chosen, min(options.count, len(chosen)), replace=False, p=share / share.sum())
            known, value = points[chosen].numpy().astype(float), residual[chosen].numpy().astype(float)
            correction[torch.tensor(near)] = torch.tensor(_krige(known, value, away[chosen], at[near], options)).float()
        tables.append(correction)
    corrected = ConformedPrior(grid, conformed.prior, conformed.warp, *tables)
    close = usable & torch.tensor(away < 5.0)
    left = corrected.field(points[close]).abs()
    return corrected, float(left.quantile(0.95)) if len(left) else float("nan")
