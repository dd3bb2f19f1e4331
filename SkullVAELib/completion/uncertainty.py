"""Uncertainty of the implant: the posterior distribution of its tables, given the bone around the defect.

The GP correction is a Gaussian-process regression, so it gives a variance as well as a mean. Posterior draws are made
by Matheron's rule: a draw from the prior process, corrected by the observations. Two terms are added that the
regression does not contain: the error of the warp across the defect, a shift of both tables that grows with the
distance from bone, and the roughness of each table, which is not predictable from the surrounding bone.

How large each term is depends on the patient: where the tables of the intact bone around the defect deviate much from
the warped mean skull, or are rough, they do so in the defect, too. Testing/calibration.py fits the amplitudes to
individuals whose skull the mean skull was not made of. The part that depends on the patient came out small but for the
roughness of the outer table: coverage per individual is in Docs/explanation/accuracy.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy.linalg import cho_solve
from scipy.spatial import cKDTree

from SkullVAELib.completion.gaussian_process import DefectRim, Regression, along_vault, mirror_variance
from SkullVAELib.completion.options import GaussianProcessOptions
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.shape.two_table import outward_directions


@dataclass(frozen=True)
class Amplitudes:
    """How large the terms of the uncertainty are; for pairs the outer table is first.

    Attributes
    ----------
    residual_mm, own_residual : tuple of float
        Standard deviation of a residual far from any observation: mm, and per mm of this patient's residuals.
    shift : float
        Standard deviation of a shift of both tables, in mm per mm of distance from bone.
    rough_mm, own_rough : tuple of float
        Standard deviation of the roughness: mm, and per mm of this patient's.
    """

    residual_mm: tuple[float, float]
    own_residual: tuple[float, float]
    shift: float
    rough_mm: tuple[float, float]
    own_rough: tuple[float, float]

    def as_vector(self) -> list[float]:
        """The nine values, in the order of the attributes."""
        return [*self.residual_mm, *self.own_residual, self.shift, *self.rough_mm, *self.own_rough]

    @classmethod
    def from_vector(cls, values: Sequence[float]) -> Amplitudes:
        """Amplitudes of the nine values of `as_vector`."""
        a, b, c, d, shift, e, f, g, h = (float(value) for value in values)
        return cls((a, b), (c, d), shift, (e, f), (g, h))

    def scaled(self, outer: float, inner: float) -> Amplitudes:
        """Amplitudes that widen the band of each table by a factor; the shift, of both, by their mean."""

        def both(pair: tuple[float, float]) -> tuple[float, float]:
            return pair[0] * outer, pair[1] * inner

        return Amplitudes(
            both(self.residual_mm),
            both(self.own_residual),
            self.shift * (outer + inner) / 2,
            both(self.rough_mm),
            both(self.own_rough),
        )

    def residual_variance(self, own_mm2: np.ndarray | float, table: int) -> np.ndarray | float:
        """Variance in mm^2 of a residual far from any observation; own_mm2: that of this patient's residuals."""
        return self.residual_mm[table] ** 2 + self.own_residual[table] ** 2 * own_mm2

    def variance(self, parts: np.ndarray, table: int) -> np.ndarray:
        """Variance of a table.

        Parameters
        ----------
        parts : numpy.ndarray, shape (4, ...)
            See `Uncertainty.parts`.
        table : int
            0 for the outer and 1 for the inner table.

        Returns
        -------
        numpy.ndarray
            mm^2, of the shape of one part.
        """
        unknown, distance2, own, rough = parts
        smooth = unknown * self.residual_variance(own, table) + self.shift**2 * distance2
        return smooth + self.rough_mm[table] ** 2 + self.own_rough[table] ** 2 * rough


AMPLITUDES = Amplitudes((0.985, 1.131), (0.103, 0.088), 0.0183, (0.119, 0.780), (0.698, 0.102))
"""Fitted by Testing/calibration.py to 44 cases of 29 individuals."""

BAND = 1.829
"""Half-width of a 90 % band in standard deviations, by the same, over individuals in turn.

More than the 1.645 of a normal distribution: a few defects are far worse than the bone around them tells.
"""

_FEATURES = 400
_DRAWS = 64


class FourierFeatures:
    """Draws from a Gaussian process with the kernel of the GP correction, as sums of random waves (Rahimi and Recht,
    2007).

    Parameters
    ----------
    options : GaussianProcessOptions
        Length scales, their shares of the variance, and the correlation with the mirror image.
    rng : numpy.random.Generator
        Source of the waves.
    """

    def __init__(self, options: GaussianProcessOptions, rng: np.random.Generator):
        self._options, symmetry = options, options.symmetry
        shares = [1 - options.short_share, options.short_share]
        length = np.array([options.length_mm, options.short_mm])[rng.choice(2, _FEATURES, p=shares)]
        # A Matern kernel's spectrum is Student's t: normal directions over the root of a chi-square.
        stretch = np.sqrt(3 / rng.chisquare(3, _FEATURES))
        self._direction = rng.standard_normal((3, _FEATURES)) * stretch / length
        self._phase = rng.uniform(0, 2 * np.pi, _FEATURES)
        # (own + other)^2 parts: own^2 + other^2 = 1 and 2 own other = symmetry.
        self._own = np.sqrt((1 + np.sqrt(1 - symmetry**2)) / 2)
        self._other = np.sqrt((1 - np.sqrt(1 - symmetry**2)) / 2)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Features at points on the sphere of the vault.

        Parameters
        ----------
        points : numpy.ndarray, shape (N, 3)
            Points from `along_vault`.

        Returns
        -------
        numpy.ndarray, shape (N, F)
            Multiplied with F standard normal values they are a draw.
        """
        here = np.cos(points @ self._direction + self._phase)
        mirrored = np.cos((points * [-1, 1, 1]) @ self._direction + self._phase)
        waves = np.sqrt(2 / _FEATURES) * (self._own * here + self._other * mirrored)
        return waves / np.sqrt(mirror_variance(points, self._options))[:, None]


@dataclass(frozen=True)
class Uncertainty:
    """Posterior of the tables of a shape, given the bone around the defect.

    Attributes
    ----------
    grid : Grid
        The canonical grid.
    rim : DefectRim
        The bone around the defect.
    regressions : list of Regression or None
        Regressions of the outer and of the inner table; None for a table with too few observations.
    """

    grid: Grid
    rim: DefectRim
    regressions: list[Regression | None]

    @cached_property
    def _nodes(self) -> np.ndarray:
        """(M, 3) canonical mm of the correction's nodes near the defect."""
        near = self.rim.near
        nodes = Grid(tuple(near.shape), 1.0)
        half = torch.tensor(self.grid.half_mm)
        return (nodes.coordinates().double() / torch.tensor(nodes.half_mm) * half)[near].numpy()

    def _units(self, count: int, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Draws at the M nodes, and the nodes' distance from bone in mm.

        Returns draws (M, count) of each table, whose variance is 1 far from any observation, draws (M, count) of a
        smooth process of variance 1, and the distance (M,).
        """
        options: GaussianProcessOptions = self.rim.options
        nodes = along_vault(self._nodes)
        bone = along_vault(self.rim.points.numpy().astype(float)[np.isfinite(self.rim.distance)])
        distance = cKDTree(bone).query(nodes)[0] if len(bone) else np.zeros(len(nodes))
        smooth = replace(options, short_share=0.0, symmetry=0.0)
        shift = FourierFeatures(smooth, rng).at(nodes) @ rng.standard_normal((_FEATURES, count))
        tables = []
        for regression in self.regressions:
            waves = FourierFeatures(options, rng)
            amplitude = rng.standard_normal((_FEATURES, count))
            moved = waves.at(nodes) @ amplitude
            if regression is not None:
                points = along_vault(self.rim.points[regression.observations.points].numpy().astype(float))
                noise = np.sqrt(regression.noise)[:, None] * rng.standard_normal((len(points), count))
                moved -= regression.observations.cross_covariance @ cho_solve(
                    regression.factor, waves.at(points) @ amplitude + noise
                )
            tables.append(moved)
        return tables, shift, distance

    def _own(self, table: int) -> tuple[float, float]:
        """Variances in mm^2 of this patient's residuals and of their roughness; 0 for a table without observations."""
        regression = self.regressions[table]
        return (0.0, 0.0) if regression is None else regression.own_variances

    def draws(self, count: int, seed: int = 0) -> torch.Tensor:
        """Draw displacements of the tables.

        Parameters
        ----------
        count : int
            Number of draws.
        seed : int
            Seed; the same seed gives the same draws.

        Returns
        -------
        torch.Tensor, shape (count, 2, X'', Y'', Z'')
            Displacement in mm of the outer and of the inner table away from bone, on the nodes of the correction; 0 far
            from the defect.
        """
        tables, shift, distance = self._units(count, np.random.default_rng(seed))
        shift = AMPLITUDES.shift * distance[:, None] * shift
        draws = torch.zeros(count, 2, *self.rim.near.shape)
        for table, unit in enumerate(tables):
            amplitude = np.sqrt(AMPLITUDES.residual_variance(self._own(table)[0], table))
            moved = amplitude * unit + (shift if table == 0 else -shift)
            draws[:, table, self.rim.near] = torch.tensor(moved.T).float()
        return draws

    @cached_property
    def _variances(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Variance (M,) of each table's unit draws at the nodes, and the squared distance (M,) from bone in mm^2."""
        tables, _, distance = self._units(_DRAWS, np.random.default_rng(0))
        return [np.square(unit).mean(1) for unit in tables], distance**2

    def parts(self, table: int) -> torch.Tensor:
        """What the variance of a table is made of, see `Amplitudes.variance`.

        Parameters
        ----------
        table : int
            0 for the outer and 1 for the inner table.

        Returns
        -------
        torch.Tensor, shape (4, X'', Y'', Z'')
            On the nodes of the correction: variance of the regression relative to that far from any observation;
            squared distance from bone, mm^2; variances in mm^2 of this patient's residuals and of their roughness.
        """
        units, distance2 = self._variances
        parts = torch.zeros(4, *self.rim.near.shape)
        parts[0, self.rim.near] = torch.tensor(units[table]).float()
        parts[1, self.rim.near] = torch.tensor(distance2).float()
        parts[2], parts[3] = self._own(table)
        return parts

    @cached_property
    def deviation(self) -> torch.Tensor:
        """(2, X'', Y'', Z'') standard deviation in mm of the outer and of the inner table, roughness included."""
        variances = [AMPLITUDES.variance(self.parts(table).numpy(), table) for table in (0, 1)]
        return torch.tensor(np.sqrt(np.stack(variances))).float()

    def band_mm(self, points: torch.Tensor, normals: torch.Tensor) -> np.ndarray:
        """Half-width of the 90 % band within which the true surface is expected.

        Parameters
        ----------
        points : torch.Tensor, shape (N, 3)
            Points on a completed surface, canonical mm.
        normals : torch.Tensor, shape (N, 3)
            Unit normals, away from bone; between the tables, at the cut, the band is the mean of both tables.

        Returns
        -------
        numpy.ndarray, shape (N,)
            mm.
        """
        deviation = self.grid.sample(self.deviation, points)
        outer = (0.5 + (normals * outward_directions(points)).sum(1)).clamp(0, 1)
        return (BAND * (outer * deviation[:, 0] + (1 - outer) * deviation[:, 1])).numpy()
