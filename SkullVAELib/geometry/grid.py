"""The regular grid of the canonical frame, on which networks and distance fields are defined."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from SkullVAELib.core.background import side_by_side

# More than twice as many points are sampled in parts beside each other: in the processor's cache, and without threads
# of torch, which wait for each other at each small step.
_POINTS_AT_ONCE = 25_000


@dataclass(frozen=True)
class Grid:
    """A regular grid of nodes centred on the canonical origin.

    Parameters
    ----------
    shape : tuple of 3 ints
        Nodes along R, A, S.
    spacing_mm : float
        Distance between neighbouring nodes.

    >>> Grid((3, 3, 3), 2.0).coordinates()[0, 1, 2].tolist()
    [-2.0, 0.0, 2.0]
    """

    shape: tuple[int, ...] = (96, 112, 96)
    spacing_mm: float = 2.0

    @property
    def half_mm(self) -> np.ndarray:
        """(3,) canonical mm from the centre to the outermost nodes."""
        return (np.array(self.shape) - 1) / 2 * self.spacing_mm

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) node index -> canonical mm."""
        affine = np.diag([self.spacing_mm] * 3 + [1.0])
        affine[:3, 3] = -self.half_mm
        return affine

    def coordinates(self) -> torch.Tensor:
        """(X, Y, Z, 3) canonical mm of every node."""
        return _coordinates(self)

    def sample(self, field: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Trilinear values of a field at points; outside the extent, those of the border.

        Parameters
        ----------
        field : (C, X, Y, Z) tensor
            Over the extent of this grid, at any resolution.
        points : (N, 3) tensor
            Canonical mm.

        Returns
        -------
        (N, C) tensor
        """
        where = (points / _half(self, points.dtype, points.device)).flip(-1)

        def values(part: torch.Tensor) -> torch.Tensor:
            there = part[None, :, None, None]
            return F.grid_sample(field[None], there, align_corners=True, padding_mode="border")[0, :, :, 0, 0]

        # Gradients of parts are added in the order in which their threads end, so that they differ from run to run.
        differentiable = torch.is_grad_enabled() and (field.requires_grad or points.requires_grad)
        if points.device.type == "cpu" and len(points) > 2 * _POINTS_AT_ONCE and not differentiable:
            value = torch.cat(side_by_side(torch.no_grad()(values), where.split(_POINTS_AT_ONCE)), 1)
        else:
            value = values(where)
        # Contiguous: the order of a later sum depends on the layout.
        return value.T.contiguous()


@lru_cache(maxsize=16)
def _half(grid: Grid, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(grid.half_mm, dtype=dtype, device=device)


@lru_cache(maxsize=4)
def _coordinates(grid: Grid) -> torch.Tensor:
    axes = [torch.arange(n) * grid.spacing_mm - h for n, h in zip(grid.shape, grid.half_mm, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).float()
