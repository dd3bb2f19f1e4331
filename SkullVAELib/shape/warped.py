"""A two-table shape warped to a patient, evaluated at any point in canonical space or on the patient's voxels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from SkullVAELib.core.background import side_by_side
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.shape.known import KnownSurface
from SkullVAELib.shape.two_table import TwoTableShape, outward_directions

LEAST_PLATE_MM = 1.0
"""Least thickness of a corrected plate, mm: that of the thinnest parts of the temporal squama."""

# So few that torch works on each part in one thread, see `Grid.sample`: parts beside each other are faster than threads
# of torch, which wait for each other at each small step, and stay in the processor's cache.
_VOXELS_AT_ONCE = 30_000


class PatientShape(Protocol):
    """A complete shape warped to a patient."""

    def at_voxels(self, to_canonical: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Signed distance at voxels.

        Parameters
        ----------
        to_canonical : numpy.ndarray, shape (4, 4)
            Voxel index -> canonical mm.
        index : numpy.ndarray, shape (N, 3)
            Voxel indices.

        Returns
        -------
        numpy.ndarray, shape (N,)
            Canonical mm, negative in bone.
        """


@dataclass(frozen=True)
class WarpedShape:
    """A shape warped to a patient: at x it is the shape at x + u(x), its tables displaced by corrections.

    Attributes
    ----------
    shape : TwoTableShape
        The shape on the mean skull.
    warp : torch.Tensor, shape (3, X', Y', Z')
        u in mm over the canonical extent.
    corrections : torch.Tensor, shape (2, X'', Y'', Z''), or None
        Displacement in mm of the outer and of the inner table away from bone, over the canonical extent; None before
        the GP correction.
    shift : torch.Tensor, shape (1, X''', Y''', Z'''), or None
        Shift in mm of the whole shape away from the vault's centre, over the canonical extent.
    known : KnownSurface or None
        A known surface that replaces the shape where it has a weight; the shift moves it, too.
    """

    shape: TwoTableShape
    warp: torch.Tensor
    corrections: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    known: KnownSurface | None = None

    @property
    def grid(self) -> Grid:
        """The canonical grid."""
        return self.shape.grid

    def field(self, points: torch.Tensor) -> torch.Tensor:
        """Signed distance at points.

        Parameters
        ----------
        points : torch.Tensor, shape (N, 3)
            Canonical mm.

        Returns
        -------
        torch.Tensor, shape (N,)
            Canonical mm, negative in bone.
        """
        points, on_shape = self._on_shape(points)
        plain, outer, inner, plate, side = self.grid.sample(self.shape.channels, on_shape).T
        if self.corrections is not None:
            moves = self.grid.sample(self.corrections, points)
            outer, inner = outer - moves[:, 0], inner - moves[:, 1]
            # Where the corrections make the tables meet, a plate is left: a bone that is thin has no hole.
            inner = torch.minimum(inner, -outer - LEAST_PLATE_MM)
            plain = plain - side * moves[:, 0] - (1 - side) * moves[:, 1]
        values = plate * torch.maximum(outer, inner) + (1 - plate) * plain
        return values if self.known is None else self.known.blended(points, values)

    def _on_shape(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Points (N, 3) without the shift, and where they are on the shape, canonical mm."""
        if self.shift is not None:
            points = points - self.grid.sample(self.shift, points) * outward_directions(points)
        return points, points + self.grid.sample(self.warp, points)

    def on_grid(self) -> torch.Tensor:
        """Signed distance (X, Y, Z) in mm on the nodes of the canonical grid, without gradients."""
        nodes = self.grid.coordinates().reshape(-1, 3)
        parts = side_by_side(torch.no_grad()(self.field), nodes.split(_VOXELS_AT_ONCE))
        return torch.cat(parts).reshape(self.grid.shape)

    def at_voxels(self, to_canonical: np.ndarray, index: np.ndarray) -> np.ndarray:
        """See `PatientShape.at_voxels`."""

        def values(part: np.ndarray) -> np.ndarray:
            return self.field(_canonical(to_canonical, part)).numpy()

        return _in_parts(values, index, np.float32)

    def is_plate(self, to_canonical: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Which voxels (N,) are where the shape is a plate between two tables; parameters as of `at_voxels`."""

        def found(part: np.ndarray) -> np.ndarray:
            _, on_shape = self._on_shape(_canonical(to_canonical, part))
            return (self.grid.sample(self.shape.plate[None], on_shape)[:, 0] > 0.9).numpy()

        return _in_parts(found, index, bool)


def _in_parts(values: Callable[[np.ndarray], np.ndarray], index: np.ndarray, dtype: type) -> np.ndarray:
    """The values (N,) of a function at voxels (N, 3), computed in parts."""
    parts = (index[start : start + _VOXELS_AT_ONCE] for start in range(0, len(index), _VOXELS_AT_ONCE))
    return np.concatenate([np.zeros(0, dtype), *side_by_side(torch.no_grad()(values), parts)])


def _canonical(to_canonical: np.ndarray, index: np.ndarray) -> torch.Tensor:
    """Canonical mm (N, 3) of voxel indices (N, 3)."""
    matrix = torch.tensor(to_canonical).float()
    return torch.tensor(index).float() @ matrix[:3, :3].T + matrix[:3, 3]
