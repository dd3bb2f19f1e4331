"""The rim correction: what the smooth warp leaves between prior and bone around the hole, carried across it.

The warp moves outer and inner table together, so an error of thickness remains. Here the remaining distances, measured
on intact bone around the hole and opposite it, on each table apart, are interpolated over the hole by Gaussian-process
regression (kriging): close to bone at the rim, falling back on this skull's median where none is near enough to tell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from SkullVAELib.completion.options import GaussianProcessOptions
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.shape.two_table import outward_directions, pick_side
from SkullVAELib.shape.warped import WarpedShape

VAULT_RADIUS_MM = 80.0


def along_vault(points: np.ndarray) -> np.ndarray:
    """Points (N, 3) in mm moved to a sphere about the vault's centre, so that depth does not count."""
    return points / np.linalg.norm(points, axis=1, keepdims=True).clip(1.0) * VAULT_RADIUS_MM


def _kernel(a: np.ndarray, b: np.ndarray, options: GaussianProcessOptions) -> np.ndarray:
    """Covariance of residuals at points (N, 3) and (M, 3), mm, by their distance along the vault.

    Matern 3/2 of two lengths, and the same again, weaker, for each point's mirror image: heads are nearly symmetric.
    Depth must not count: a residual is itself a depth, and a regression that saw both would learn that what lies deeper
    lies deeper, and carry that through the thickness of the bone.
    """

    def matern(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        distance = np.sqrt(3) * cdist(a, b)
        total = np.zeros_like(distance)
        for share, length in ((1 - options.short_share, options.length_mm), (options.short_share, options.short_mm)):
            if share:
                r = distance / length
                total += share * (1 + r) * np.exp(-r)
        return total

    a, b = along_vault(a), along_vault(b)
    covariance = matern(a, b)
    return covariance + options.symmetry * matern(a, b * [-1, 1, 1]) if options.symmetry else covariance


@dataclass(frozen=True)
class Observations:
    """Points of one table that tell the correction: numbers (K,) of the site's points, their covariance (K, K), and
    that of the places to be told with them (M, K). The two are the dear part of the regression."""

    points: np.ndarray
    covariance: np.ndarray
    cross_covariance: np.ndarray

    def only(self, some: np.ndarray) -> Observations:
        """Those of the points for which `some` (K,) is True."""
        if some.all():
            return self
        return Observations(self.points[some], self.covariance[np.ix_(some, some)], self.cross_covariance[:, some])


@dataclass(frozen=True)
class Regression:
    """Residuals of one table, regressed on its known points: what they tell of other places, and how surely.

    mean: mm, on which the regression falls back; noise: (K,) variance of each point's noise, relative to that of a
    residual; factor: Cholesky's, of covariance and noise; weights: (K,) of the points.
    """

    observations: Observations
    mean: float
    noise: np.ndarray
    factor: tuple
    weights: np.ndarray

    def predict(self, options: GaussianProcessOptions) -> np.ndarray:
        """(M,) residual in mm at the places to be told."""
        return np.clip(
            self.mean + self.observations.cross_covariance @ self.weights, -options.limit_mm, options.limit_mm
        )


def regress(known: Observations, value: np.ndarray, away: np.ndarray, options: GaussianProcessOptions) -> Regression:
    """Gaussian-process regression of values (mm) at known points, `away` mm from the hole's edge.

    Robust twice. What disagrees with the rest counts less and less. And an edge that has healed is rounded off: where
    bone near it lies deeper than bone further away foretells, band by band, it counts less by as much; a fresh cut,
    which does not, is heard in full.
    """
    # Far from the rim the regression falls back on its mean: that of this skull's tables, thick or thin as they are.
    mean = float(np.median(value))
    value = value - mean
    covariance = known.covariance
    noise = np.full(len(value), options.noise**2)
    far = away > options.edge_mm
    if 30 <= far.sum() < len(far):
        weights = cho_solve(cho_factor(covariance[np.ix_(far, far)] + np.diag(noise[far])), value[far])
        error = value - covariance[:, far] @ weights
        for low in np.arange(0, options.edge_mm, 1.0):
            band = ~far & (away >= low) & (away < low + 1)
            if band.any():
                deeper = -float(np.median(error[band])) - options.rounded_mm
                noise[band] += (options.rounding * max(0.0, deeper)) ** 2
    start = noise
    for _ in range(3):
        weights = cho_solve(cho_factor(covariance + np.diag(noise)), value)
        error = value - covariance @ weights
        noise = start * (1 + (error / options.outlier_mm) ** 2) ** 2
    factor = cho_factor(covariance + np.diag(noise))
    return Regression(known, mean, noise, factor, cho_solve(factor, value))


def _facing_bone(points: torch.Tensor, normals: torch.Tensor, bone: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Which surface points (N,) look at other bone within 12 mm: walls of a sinus or a crack, not tables."""
    blocked = torch.zeros(len(points), dtype=torch.bool)
    for far in range(3, 13, 2):
        blocked |= grid.sample(bone[None], points + far * normals)[:, 0] < 0.4
    return blocked


FEWEST = 30
"""Points that a table must have to be corrected."""


@dataclass(frozen=True)
class DefectRim:
    """The bone around a gap that tells how the tables go on, made once for all shapes that are laid in the gap.

    points, normals: (N, 3) bone surface in canonical mm; moved: the same laid on the mean skull; facing: (N,) how much
    they face outwards, -1 to 1; away: (N,) mm from the gap; near: bool, which nodes of a correction are near the gap;
    known: the points that tell the outer and the inner table, drawn by the first shape, None for a table with too few.
    The same points tell every shape, so that a shape moved a little gives an implant moved a little.
    """

    points: torch.Tensor
    normals: torch.Tensor
    moved: torch.Tensor
    facing: torch.Tensor
    away: np.ndarray
    near: torch.Tensor
    known: tuple[Observations | None, ...]
    options: GaussianProcessOptions

    @classmethod
    def of(
        cls,
        conformed: WarpedShape,
        points: torch.Tensor,
        normals: torch.Tensor,
        bone: torch.Tensor,
        gap: np.ndarray,
        options: GaussianProcessOptions = GaussianProcessOptions(),
    ) -> DefectRim:
        """The site of a gap, by the first shape; see correct_rim."""
        grid = conformed.grid
        hull = cKDTree(gap[:: max(1, len(gap) // 4000)])
        low = torch.tensor(hull.mins).float() - options.reach_mm
        high = torch.tensor(hull.maxes).float() + options.reach_mm
        image = points * torch.tensor([-1.0, 1, 1])
        box, across = (((p > low) & (p < high)).all(1) for p in (points, image))
        if options.symmetry:
            box |= across
        points, normals, image = points[box], normals[box], image[box]
        away = hull.query(points.numpy(), distance_upper_bound=options.reach_mm)[0]
        weights = np.exp(-away / 8.0) + 0.02 * np.isfinite(away)
        if options.symmetry:
            across = hull.query(image.numpy(), distance_upper_bound=options.reach_mm)[0]
            weights = np.maximum(weights, 0.4 * np.exp(-across / 8.0) + 0.01 * np.isfinite(across))
        heard = (weights > 0) & (away > 1.0)  # at the very edge block averages round off any cut
        points, normals = points[torch.tensor(heard)], normals[torch.tensor(heard)]
        clear = ~_facing_bone(points, normals, bone, grid)
        points, normals = points[clear], normals[clear]
        away, weights = away[heard][clear.numpy()], weights[heard][clear.numpy()]
        # The correction is as smooth as its kernel: nodes 5 mm apart, near the gap alone, carry all of it.
        nodes = Grid(tuple(int(np.ceil(2 * h / 5.0)) + 1 for h in grid.half_mm), 1.0)
        at = nodes.coordinates().numpy() / nodes.half_mm * grid.half_mm
        near = (hull.query(at.reshape(-1, 3), distance_upper_bound=15.0)[0] < 15.0).reshape(nodes.shape)
        moved, facing = points + grid.sample(conformed.warp, points), (normals * outward_directions(points)).sum(1)
        site = cls(points, normals, moved, facing, away, torch.tensor(near), (), options)
        usable, _ = site._heard(conformed)
        rng = np.random.default_rng(0)
        known: list[Observations | None] = []
        for side in (facing > 0.3, facing < -0.3):
            chosen = np.flatnonzero((usable & side).numpy())
            if len(chosen) < FEWEST:
                known.append(None)
                continue
            # Bone at the rim tells most: draw points the more often the nearer they lie.
            share = weights[chosen]
            chosen = rng.choice(chosen, min(options.count, len(chosen)), replace=False, p=share / share.sum())
            place = points[chosen].numpy().astype(float)
            known.append(Observations(chosen, _kernel(place, place, options), _kernel(at[near], place, options)))
        return replace(site, known=tuple(known))

    def _heard(self, conformed: WarpedShape) -> tuple[torch.Tensor, torch.Tensor]:
        """Which points (N,) fit a shape well enough to tell of it, and their residuals (N,) in mm."""
        residual = pick_side(conformed.grid.sample(conformed.shape.by_side, self.moved), self.facing > 0)[:, 0]
        slope = pick_side(conformed.grid.sample(conformed.shape.slopes_by_side, self.moved), self.facing > 0)
        agree = (slope * self.normals).sum(1) / slope.norm(dim=1).clamp(min=1e-3)
        return (agree > 0.75) & (residual.abs() < self.options.cut_mm), residual

    def regressions(self, conformed: WarpedShape) -> list[Regression | None]:
        """What the known points tell of the outer and of the inner table of a shape, None for a table with too few."""
        usable, residual = self._heard(conformed)
        found: list[Regression | None] = []
        for known in self.known:
            some = None if known is None else known.only(usable.numpy()[known.points])
            if some is None or len(some.points) < FEWEST:
                found.append(None)
                continue
            value = residual[some.points].numpy().astype(float)
            found.append(regress(some, value, self.away[some.points], self.options))
        return found

    def correct(self, conformed: WarpedShape, regressions: list[Regression | None] | None = None) -> WarpedShape:
        """Add the rim correction to a shape laid on the patient by the same warp; regressions: its own, if known."""
        tables = []
        for regression in self.regressions(conformed) if regressions is None else regressions:
            correction = torch.zeros(self.near.shape)
            if regression is not None:
                correction[self.near] = torch.tensor(regression.predict(self.options)).float()
            tables.append(correction)
        return replace(conformed, corrections=torch.stack(tables))

    def gap_mm(self, conformed: WarpedShape) -> float:
        """The 95th percentile of a shape's distance (mm) to bone within 5 mm of the gap; nan where there is none."""
        close = self._heard(conformed)[0] & torch.tensor(self.away < 5.0)
        left = conformed.field(self.points[close]).abs()
        return float(left.quantile(0.95)) if len(left) else float("nan")


def correct_with_gaussian_process(
    conformed: WarpedShape,
    points: torch.Tensor,
    normals: torch.Tensor,
    bone: torch.Tensor,
    gap: np.ndarray,
    options: GaussianProcessOptions = GaussianProcessOptions(),
) -> tuple[WarpedShape, float]:
    """Add the rim correction around a gap.

    points, normals: (N, 3) the patient's bone surface in canonical mm; bone: (X, Y, Z) its signed distance in mm on the
    canonical grid; gap: (M, 3) canonical mm of voxels to be filled.
    Returns the corrected prior and the 95th percentile of its remaining distance (mm) to bone within 5 mm of the gap.
    """
    site = DefectRim.of(conformed, points, normals, bone, gap, options)
    corrected = site.correct(conformed)
    return corrected, site.gap_mm(corrected)
