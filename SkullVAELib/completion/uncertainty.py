"""Uncertainty: where else the completed tables may lie, given the bone around the hole.

The rim correction is a Gaussian-process regression, so it says not only where a table lies but how surely. Draws from
what it leaves open are made by Matheron's rule: a draw from the process without any bone, corrected by what the bone
says of it. Two things are added that the regression cannot know: the warp carries its own error across the hole, a
shift of both tables that grows with the distance from bone, and no bone foretells a table's own roughness.

The three strengths were set on held-out skulls so that the true surface lies within the band as often as it says;
Docs/accuracy.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.linalg import cho_solve
from scipy.spatial import cKDTree

from SkullVAELib.completion.gaussian_process import DefectRim, Regression, along_vault
from SkullVAELib.completion.options import GaussianProcessOptions
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.shape.two_table import outward_directions

TABLES_MM = (1.1, 1.45)
"""Standard deviation in mm of a residual of the outer and of the inner table, where no bone tells of it."""

SHIFT = 0.015
"""Standard deviation in mm of a shift of both tables, per mm of distance from bone."""

ROUGH_MM = (0.35, 0.65)
"""Standard deviation in mm of the outer and of the inner table's own roughness."""

BAND = 1.645
"""Half the width, in standard deviations, of a band that holds nine of ten."""

_FEATURES = 400
_DRAWS = 64


class FourierFeatures:
    """Draws from a Gaussian process with the rim's kernel, as sums of random waves (Rahimi and Recht, 2007).

    lengths: of Matern 3/2 in mm with their shares. Symmetric to the degree that options say.
    """

    def __init__(self, lengths: tuple[tuple[float, float], ...], symmetry: float, rng: np.random.Generator):
        shares = np.array([share for _, share in lengths])
        length = np.array([length for length, _ in lengths])[rng.choice(len(lengths), _FEATURES, p=shares)]
        # A Matern kernel's spectrum is Student's t: normal directions over the root of a chi-square.
        stretch = np.sqrt(3 / rng.chisquare(3, _FEATURES))
        self._direction = rng.standard_normal((3, _FEATURES)) * stretch / length
        self._phase = rng.uniform(0, 2 * np.pi, _FEATURES)
        # (own + other)^2 parts: own^2 + other^2 = 1 and 2 own other = symmetry.
        self._own = np.sqrt((1 + np.sqrt(1 - symmetry**2)) / 2)
        self._other = np.sqrt((1 - np.sqrt(1 - symmetry**2)) / 2)

    def at(self, points: np.ndarray) -> np.ndarray:
        """(N, _FEATURES) at points (N, 3) on the vault's sphere; times standard normals (_FEATURES,) it is a draw."""
        here = np.cos(points @ self._direction + self._phase)
        there = np.cos((points * [-1, 1, 1]) @ self._direction + self._phase)
        return np.sqrt(2 / _FEATURES) * (self._own * here + self._other * there)


@dataclass(frozen=True)
class Uncertainty:
    """What the bone around a gap leaves open of a shape laid on the patient.

    grid: the canonical one; site: the bone around the gap; regressions: what it says of the outer and of the inner
    table, None for a table with too few points.
    """

    grid: Grid
    rim: DefectRim
    regressions: list[Regression | None]

    @cached_property
    def _nodes(self) -> np.ndarray:
        """(M, 3) canonical mm of the correction's nodes near the gap."""
        near = self.rim.near
        at = Grid(tuple(near.shape), 1.0)
        half = torch.tensor(self.grid.half_mm)
        return (at.coordinates().double() / torch.tensor(at.half_mm) * half)[near].numpy()

    def draws(self, count: int, seed: int = 0) -> torch.Tensor:
        """(count, 2, X'', Y'', Z'') mm by which draws move the outer and the inner table, outwards from bone, on the
        corrections' nodes; 0 away from the gap. The same for the same seed."""
        rng = np.random.default_rng(seed)
        options: GaussianProcessOptions = self.rim.options
        nodes = along_vault(self._nodes)
        bone = along_vault(self.rim.points.numpy().astype(float)[np.isfinite(self.rim.away)])
        far = cKDTree(bone).query(nodes)[0] if len(bone) else np.zeros(len(nodes))
        lengths = ((options.length_mm, 1 - options.short_share), (options.short_mm, options.short_share))
        shift = FourierFeatures(((options.length_mm, 1.0),), 0.0, rng).at(nodes) @ rng.standard_normal(
            (_FEATURES, count)
        )
        shift *= SHIFT * far[:, None]
        made = torch.zeros(count, 2, *self.rim.near.shape)
        for table, regression in enumerate(self.regressions):
            waves = FourierFeatures(lengths, options.symmetry, rng)
            amplitude = rng.standard_normal((_FEATURES, count))
            moved = waves.at(nodes) @ amplitude
            if regression is not None:
                place = along_vault(self.rim.points[regression.observations.points].numpy().astype(float))
                noise = np.sqrt(regression.noise)[:, None] * rng.standard_normal((len(place), count))
                moved -= regression.observations.cross_covariance @ cho_solve(
                    regression.factor, waves.at(place) @ amplitude + noise
                )
            moved = TABLES_MM[table] * moved + (shift if table == 0 else -shift)
            made[:, table, self.rim.near] = torch.tensor(moved.T).float()
        return made

    @cached_property
    def deviation(self) -> torch.Tensor:
        """(2, X'', Y'', Z'') standard deviation in mm of the outer and of the inner table, roughness included."""
        rough = torch.tensor(ROUGH_MM)[:, None, None, None]
        return (self.draws(_DRAWS).square().mean(0) + rough**2).sqrt()

    def band_mm(self, points: torch.Tensor, normals: torch.Tensor) -> np.ndarray:
        """(N,) mm: nine times of ten the true surface lies within this of a completed surface's points.

        points, normals: (N, 3) canonical mm; normals away from bone. Between the tables, at the cut, their mean.
        """
        both = self.grid.sample(self.deviation, points)
        outer = (0.5 + (normals * outward_directions(points)).sum(1)).clamp(0, 1)
        return (BAND * (outer * both[:, 0] + (1 - outer) * both[:, 1])).numpy()
