"""The Gaussian-process (GP) correction: what the smooth warp leaves between prior and bone, carried across the defect.

The warp moves outer and inner table together, so an error of thickness remains. Here the residual distances between
prior and bone, measured for each table on intact bone around the defect and opposite it, are interpolated over the
defect by Gaussian-process regression (kriging). At the rim the correction meets the bone; far from any bone it falls
back on the median of this skull.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from SkullVAELib.completion.options import GaussianProcessOptions
from SkullVAELib.core.background import both
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.shape.two_table import outward_directions, pick_side
from SkullVAELib.shape.warped import WarpedShape

VAULT_RADIUS_MM = 80.0
"""Radius of the sphere on which distances along the vault are measured, mm."""


def along_vault(points: np.ndarray) -> np.ndarray:
    """Project points to a sphere around the vault's centre, so that their depth has no influence.

    Parameters
    ----------
    points : numpy.ndarray, shape (N, 3)
        Canonical mm.

    Returns
    -------
    numpy.ndarray, shape (N, 3)
        Points on a sphere of radius VAULT_RADIUS_MM.
    """
    return points / np.linalg.norm(points, axis=1, keepdims=True).clip(1.0) * VAULT_RADIUS_MM


def _kernel(a: np.ndarray, b: np.ndarray, options: GaussianProcessOptions) -> np.ndarray:
    """Covariance (N, M) of residuals at points (N, 3) and (M, 3) in canonical mm, by their distance along the vault.

    Matern 3/2 with two length scales, plus the same, weaker, for each point's mirror image: heads are nearly symmetric.
    The sum is scaled to a variance of 1 everywhere; unscaled it would be 1.75 in the midsagittal plane, where a point
    is its own mirror image.
    Depth must have no influence: a residual is itself a depth, so a regression that had the depth as an input would
    learn that deeper points are deeper, and carry that through the thickness of the bone.
    """
    a, b = along_vault(a), along_vault(b)
    covariance = _matern(cdist(a, b), options)
    if not options.symmetry:
        return covariance
    covariance += options.symmetry * _matern(cdist(a, b * [-1, 1, 1]), options)
    covariance /= np.sqrt(mirror_variance(a, options))[:, None]
    covariance /= np.sqrt(mirror_variance(b, options))
    return covariance


def _matern(distance: np.ndarray, options: GaussianProcessOptions) -> np.ndarray:
    """Matern 3/2 covariance with two length scales at distances in mm."""
    total = np.zeros_like(distance)
    for share, length in ((1 - options.short_share, options.length_mm), (options.short_share, options.short_mm)):
        if share:
            r = np.sqrt(3) / length * distance
            rising = share * (1 + r)
            rising *= np.exp(np.negative(r, out=r), out=r)
            total += rising
    return total


def mirror_variance(points: np.ndarray, options: GaussianProcessOptions) -> np.ndarray:
    """Variance of a process plus that of its mirror image before it is scaled to 1.

    Parameters
    ----------
    points : numpy.ndarray, shape (N, 3)
        Points from `along_vault`.
    options : GaussianProcessOptions
        Kernel.

    Returns
    -------
    numpy.ndarray, shape (N,)
        1 at the side of the head, 1 plus `symmetry` in the midsagittal plane.
    """
    return 1 + options.symmetry * _matern(2 * np.abs(points[:, 0]), options)


@dataclass(frozen=True)
class Observations:
    """Points of one table whose residuals are observations of the GP, with their covariances.

    The two matrices dominate the cost of the regression and do not depend on the shape.

    Attributes
    ----------
    points : numpy.ndarray, shape (K,)
        Indices into the points of the rim.
    covariance : numpy.ndarray, shape (K, K)
        Covariance of the observations, without noise.
    cross_covariance : numpy.ndarray, shape (M, K)
        Covariance of the query points with the observations.
    """

    points: np.ndarray
    covariance: np.ndarray
    cross_covariance: np.ndarray

    def subset(self, keep: np.ndarray) -> Observations:
        """The observations for which `keep`, a bool array (K,), is True."""
        if keep.all():
            return self
        return Observations(self.points[keep], self.covariance[np.ix_(keep, keep)], self.cross_covariance[:, keep])


@dataclass(frozen=True)
class Regression:
    """GP regression of the residuals of one table.

    Attributes
    ----------
    observations : Observations
        The observations.
    mean : float
        Mean in mm, on which the prediction falls back.
    noise : numpy.ndarray, shape (K,)
        Noise variance of each observation, relative to the variance of a residual.
    factor : tuple
        Cholesky factor of covariance plus noise, see `scipy.linalg.cho_factor`.
    weights : numpy.ndarray, shape (K,)
        Weights of the observations in the prediction.
    """

    observations: Observations
    mean: float
    noise: np.ndarray
    factor: tuple
    weights: np.ndarray

    def predict(self, options: GaussianProcessOptions) -> np.ndarray:
        """Predict the residuals at the query points.

        Parameters
        ----------
        options : GaussianProcessOptions
            Gives the largest deviation from the mean, `limit_mm`.

        Returns
        -------
        numpy.ndarray, shape (M,)
            mm.
        """
        return self.mean + np.clip(
            self.observations.cross_covariance @ self.weights, -options.limit_mm, options.limit_mm
        )

    @cached_property
    def own_variances(self) -> tuple[float, float]:
        """Variances in mm^2 of the residuals of this patient, and of what the others do not tell of each of them.

        Robust: 1.48 times the median absolute value, squared. The second is of the errors when each observation is
        predicted from all others (Rasmussen and Williams 2006, equation 5.12).
        """
        residual = self.observations.covariance @ self.weights + self.noise * self.weights
        alone = self.weights / np.diag(cho_solve(self.factor, np.eye(len(self.weights))))
        return _robust_variance(residual), _robust_variance(alone)


def _robust_variance(values: np.ndarray) -> float:
    return float((1.4826 * np.median(np.abs(values))) ** 2)


def regress(
    observations: Observations, residual: np.ndarray, distance: np.ndarray, options: GaussianProcessOptions
) -> Regression:
    """Gaussian-process regression of the residuals of one table.

    The regression is robust in two ways. Observations that disagree with the others get a larger noise variance,
    iteratively. And a healed edge is rounded off: where the rim is lower than predicted from bone further away, band by
    band, its noise variance increases accordingly; a fresh cut keeps its full weight.

    Parameters
    ----------
    observations : Observations
        The observations.
    residual : numpy.ndarray, shape (K,)
        Residuals in mm.
    distance : numpy.ndarray, shape (K,)
        Distance of the observations to the defect, mm.
    options : GaussianProcessOptions
        Kernel and noise.

    Returns
    -------
    Regression
    """
    # Far from the rim the prediction falls back on the mean, so the mean is this skull's own thick or thin table.
    mean = float(np.median(residual))
    residual = residual - mean
    covariance = observations.covariance
    noise = np.full(len(residual), options.noise**2)
    far = distance > options.edge_mm
    if 30 <= far.sum() < len(far):
        weights = cho_solve(cho_factor(covariance[np.ix_(far, far)] + np.diag(noise[far])), residual[far])
        error = residual - covariance[:, far] @ weights
        for low in np.arange(0, options.edge_mm, 1.0):
            band = ~far & (distance >= low) & (distance < low + 1)
            if band.any():
                excess = -float(np.median(error[band])) - options.rounded_mm
                noise[band] += (options.rounding * max(0.0, excess)) ** 2
    start = noise
    for _ in range(3):
        weights = cho_solve(cho_factor(covariance + np.diag(noise)), residual)
        error = residual - covariance @ weights
        noise = start * (1 + (error / options.outlier_mm) ** 2) ** 2
    factor = cho_factor(covariance + np.diag(noise))
    return Regression(observations, mean, noise, factor, cho_solve(factor, residual))


def _facing_bone(points: torch.Tensor, normals: torch.Tensor, bone: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Which surface points (N,) face other bone within 12 mm: walls of a sinus or a crack, not tables."""
    blocked = torch.zeros(len(points), dtype=torch.bool)
    for distance in range(3, 13, 2):
        blocked |= grid.sample(bone[None], points + distance * normals)[:, 0] < 0.4
    return blocked


MIN_POINTS = 30
"""Fewest observations for which a table is corrected."""


@dataclass(frozen=True)
class DefectRim:
    """The intact bone around a defect: the observations of the GP correction, prepared once for all shapes.

    The same observations are used for every shape, so that a small change of the shape changes the implant little.

    Attributes
    ----------
    points, normals : torch.Tensor, shape (N, 3)
        Bone surface in canonical mm, and its unit normals.
    on_mean : torch.Tensor, shape (N, 3)
        The points, warped to the mean skull.
    facing : torch.Tensor, shape (N,)
        Cosine between normal and outward direction, -1 to 1.
    distance : numpy.ndarray, shape (N,)
        Distance to the defect, mm.
    near : torch.Tensor
        Bool, which nodes of the correction are near the defect: the query points.
    observations : tuple of Observations or None
        Observations of the outer and of the inner table, chosen with the first shape; None for a table with too few.
    options : GaussianProcessOptions
        Kernel, noise and extent.
    """

    points: torch.Tensor
    normals: torch.Tensor
    on_mean: torch.Tensor
    facing: torch.Tensor
    distance: np.ndarray
    near: torch.Tensor
    observations: tuple[Observations | None, ...]
    options: GaussianProcessOptions

    @classmethod
    def of(
        cls,
        warped: WarpedShape,
        points: torch.Tensor,
        normals: torch.Tensor,
        bone: torch.Tensor,
        defect: np.ndarray,
        options: GaussianProcessOptions = GaussianProcessOptions(),
    ) -> DefectRim:
        """Choose the observations around a defect with the first shape.

        Parameters
        ----------
        warped : WarpedShape
            The first shape, warped to the patient.
        points, normals : torch.Tensor, shape (N, 3)
            The patient's bone surface in canonical mm, and its unit normals.
        bone : torch.Tensor, shape (X, Y, Z)
            Signed distance of the bone in mm on the canonical grid.
        defect : numpy.ndarray, shape (M, 3)
            Canonical mm of the voxels to be filled.
        options : GaussianProcessOptions
            Kernel, noise and extent.

        Returns
        -------
        DefectRim
        """
        grid = warped.grid
        hull = cKDTree(defect[:: max(1, len(defect) // 4000)])
        low = torch.tensor(hull.mins).float() - options.reach_mm
        high = torch.tensor(hull.maxes).float() + options.reach_mm
        image = points * torch.tensor([-1.0, 1, 1])
        box, mirrored = (((p > low) & (p < high)).all(1) for p in (points, image))
        if options.symmetry:
            box |= mirrored
        points, normals, image = points[box], normals[box], image[box]

        def away(at: torch.Tensor) -> np.ndarray:
            return hull.query(at.numpy(), distance_upper_bound=options.reach_mm)[0]

        distance, opposite = both(lambda: away(points), lambda: away(image) if options.symmetry else None)
        weights = np.exp(-distance / 8.0) + 0.02 * np.isfinite(distance)
        if opposite is not None:
            weights = np.maximum(weights, 0.4 * np.exp(-opposite / 8.0) + 0.01 * np.isfinite(opposite))
        used = (weights > 0) & (distance > 1.0)  # within 1 mm of the cut, averaging over blocks rounds off any edge
        points, normals = points[torch.tensor(used)], normals[torch.tensor(used)]
        clear = ~_facing_bone(points, normals, bone, grid)
        points, normals = points[clear], normals[clear]
        distance, weights = distance[used][clear.numpy()], weights[used][clear.numpy()]
        # The correction is as smooth as its kernel: nodes 5 mm apart, near the defect only, represent it fully.
        nodes = Grid(tuple(int(np.ceil(2 * h / 5.0)) + 1 for h in grid.half_mm), 1.0)
        at = nodes.coordinates().numpy() / nodes.half_mm * grid.half_mm
        near = (hull.query(at.reshape(-1, 3), distance_upper_bound=15.0)[0] < 15.0).reshape(nodes.shape)
        on_mean, facing = points + grid.sample(warped.warp, points), (normals * outward_directions(points)).sum(1)
        rim = cls(points, normals, on_mean, facing, distance, torch.tensor(near), (), options)
        usable, _ = rim._usable(warped)
        rng = np.random.default_rng(0)

        def drawn(side: torch.Tensor) -> np.ndarray | None:
            chosen = np.flatnonzero((usable & side).numpy())
            if len(chosen) < MIN_POINTS:
                return None
            # Bone at the rim is most informative: nearer points are drawn with a higher probability.
            share = weights[chosen]
            return rng.choice(chosen, min(options.count, len(chosen)), replace=False, p=share / share.sum())

        def observed(chosen: np.ndarray | None) -> Observations | None:
            if chosen is None:
                return None
            place = points[chosen].numpy().astype(float)
            return Observations(chosen, _kernel(place, place, options), _kernel(at[near], place, options))

        outer, inner = drawn(facing > 0.3), drawn(facing < -0.3)
        return replace(rim, observations=both(lambda: observed(outer), lambda: observed(inner)))

    def _usable(self, warped: WarpedShape) -> tuple[torch.Tensor, torch.Tensor]:
        """Which points (N,) agree with a shape well enough to be observations, and the residuals (N,) in mm."""
        residual = pick_side(warped.grid.sample(warped.shape.by_side, self.on_mean), self.facing > 0)[:, 0]
        slope = pick_side(warped.grid.sample(warped.shape.slopes_by_side, self.on_mean), self.facing > 0)
        agree = (slope * self.normals).sum(1) / slope.norm(dim=1).clamp(min=1e-3)
        agree = agree > 0.75
        usable = torch.zeros_like(agree)
        for side in (self.facing > 0, self.facing <= 0):
            # A thin or thick skull differs from the shape everywhere; what differs from that is other bone.
            own = agree & side & (residual.abs() < 2 * self.options.cut_mm)
            if own.any():
                usable |= own & ((residual - residual[own].median()).abs() < self.options.cut_mm)
        return usable, residual

    def regressions(self, warped: WarpedShape) -> list[Regression | None]:
        """Regress the residuals of a shape.

        Parameters
        ----------
        warped : WarpedShape
            A shape warped to the patient by the same warp as the first.

        Returns
        -------
        list of Regression or None
            For the outer and the inner table; None for a table with too few observations.
        """
        usable, residual = self._usable(warped)
        regressions: list[Regression | None] = []
        for observations in self.observations:
            selected = None if observations is None else observations.subset(usable.numpy()[observations.points])
            if selected is None or len(selected.points) < MIN_POINTS:
                regressions.append(None)
                continue
            values = residual[selected.points].numpy().astype(float)
            regressions.append(regress(selected, values, self.distance[selected.points], self.options))
        return regressions

    def correct(self, warped: WarpedShape, regressions: list[Regression | None] | None = None) -> WarpedShape:
        """Add the GP correction to a shape.

        Parameters
        ----------
        warped : WarpedShape
            A shape warped to the patient by the same warp as the first.
        regressions : list of Regression or None, optional
            Its regressions, if they are known already.

        Returns
        -------
        WarpedShape
            The shape with corrections.
        """
        tables = []
        for regression in self.regressions(warped) if regressions is None else regressions:
            correction = torch.zeros(self.near.shape)
            if regression is not None:
                correction[self.near] = torch.tensor(regression.predict(self.options)).float()
            tables.append(correction)
        return replace(warped, corrections=torch.stack(tables))

    def rim_gap_mm(self, warped: WarpedShape) -> float:
        """The rim gap of a shape.

        Parameters
        ----------
        warped : WarpedShape
            The shape.

        Returns
        -------
        float
            95th percentile of the distance in mm between shape and bone within 5 mm of the defect; nan without such
            bone.
        """
        close = self._usable(warped)[0] & torch.tensor(self.distance < 5.0)
        residual = warped.field(self.points[close]).abs()
        return float(residual.quantile(0.95)) if len(residual) else float("nan")


def correct_with_gaussian_process(
    warped: WarpedShape,
    points: torch.Tensor,
    normals: torch.Tensor,
    bone: torch.Tensor,
    defect: np.ndarray,
    options: GaussianProcessOptions = GaussianProcessOptions(),
) -> tuple[WarpedShape, float]:
    """Add the GP correction around a defect to a shape.

    Parameters
    ----------
    warped, points, normals, bone, defect, options
        See `DefectRim.of`.

    Returns
    -------
    corrected : WarpedShape
        The shape with corrections.
    rim_gap_mm : float
        Its rim gap, see `DefectRim.rim_gap_mm`.
    """
    rim = DefectRim.of(warped, points, normals, bone, defect, options)
    corrected = rim.correct(warped)
    return corrected, rim.rim_gap_mm(corrected)
