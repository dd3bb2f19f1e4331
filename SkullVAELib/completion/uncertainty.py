"""Uncertainty of the implant: the posterior distribution of its tables, given the bone around the defect.

The GP correction is a Gaussian-process regression, so it gives a variance as well as a mean. Posterior draws are made
by Matheron's rule: a draw from the prior process, corrected by the observations. Two terms are added that the
regression does not contain: the error of the warp across the defect, a shift of both tables that grows with the
distance from bone, and the roughness of each table, which is not predictable from the surrounding bone.

The three standard deviations were calibrated on held-out skulls so that the coverage of the band is its nominal one;
Docs/explanation/accuracy.md has the figures.
"""

from __future__ import annotations

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

TABLES_MM = (1.1, 1.45)
"""Prior standard deviation (mm) of a residual of the outer and of the inner table, far from any observation."""

SHIFT = 0.015
"""Standard deviation of a shift of both tables, in mm per mm of distance from bone."""

ROUGH_MM = (0.35, 0.65)
"""Standard deviation (mm) of the roughness of the outer and of the inner table."""

BAND = 1.645
"""Half-width of a 90 % band in standard deviations."""

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
        rng = np.random.default_rng(seed)
        options: GaussianProcessOptions = self.rim.options
        nodes = along_vault(self._nodes)
        bone = along_vault(self.rim.points.numpy().astype(float)[np.isfinite(self.rim.distance)])
        distance = cKDTree(bone).query(nodes)[0] if len(bone) else np.zeros(len(nodes))
        smooth = replace(options, short_share=0.0, symmetry=0.0)
        shift = FourierFeatures(smooth, rng).at(nodes) @ rng.standard_normal((_FEATURES, count))
        shift *= SHIFT * distance[:, None]
        draws = torch.zeros(count, 2, *self.rim.near.shape)
        for table, regression in enumerate(self.regressions):
            waves = FourierFeatures(options, rng)
            amplitude = rng.standard_normal((_FEATURES, count))
            moved = waves.at(nodes) @ amplitude
            if regression is not None:
                points = along_vault(self.rim.points[regression.observations.points].numpy().astype(float))
                noise = np.sqrt(regression.noise)[:, None] * rng.standard_normal((len(points), count))
                moved -= regression.observations.cross_covariance @ cho_solve(
                    regression.factor, waves.at(points) @ amplitude + noise
                )
            moved = TABLES_MM[table] * moved + (shift if table == 0 else -shift)
            draws[:, table, self.rim.near] = torch.tensor(moved.T).float()
        return draws

    @cached_property
    def deviation(self) -> torch.Tensor:
        """(2, X'', Y'', Z'') standard deviation in mm of the outer and of the inner table, roughness included."""
        rough = torch.tensor(ROUGH_MM)[:, None, None, None]
        return (self.draws(_DRAWS).square().mean(0) + rough**2).sqrt()

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
