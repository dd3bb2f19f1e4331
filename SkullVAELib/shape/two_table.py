"""A complete shape told by its two tables, and the same laid on the patient.

Bone of the vault is a plate. A distance field on a 2 mm grid, the more so a mean of several, loses thin plates: their
ridge fades, and the shell opens or moves. Seen from outside, though, the outer table is where the field says it is, and
from inside the inner one. So each table is told from its own side, beyond the ridge, and the plate lies between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from SkullVAELib.geometry.grid import Grid

REACH_MM = 4.0
"""How far out or in a table is looked at: more than half the thickness of any plate that might fade."""


def gradient(field: torch.Tensor, spacing_mm: float) -> torch.Tensor:
    """(3, X, Y, Z) central differences of a field (X, Y, Z), per mm."""
    return torch.stack(torch.gradient(field, spacing=spacing_mm))


def outward_directions(points: torch.Tensor) -> torch.Tensor:
    """Unit vectors (N, 3) away from the vault's centre at points (N, 3) in canonical mm."""
    return points / points.norm(dim=1, keepdim=True).clamp(min=1)


def outer_side_weight(slopes: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(X, Y, Z): 1 where the nearest surface faces away from the vault's centre, 0 where it faces it, smoothly between.

    slopes: (3, X, Y, Z) gradient of a signed distance field in mm.
    """
    line = outward_directions(grid.coordinates().reshape(-1, 3))
    return (0.5 + (slopes.reshape(3, -1).T * line).sum(1)).clamp(0, 1).reshape(grid.shape)


def pick_side(both: torch.Tensor, outer: torch.Tensor) -> torch.Tensor:
    """Of (N, 2 C) values, outer table's then inner's, those (N, C) of each point's own side; outer: (N,) bool."""
    first, second = both.chunk(2, dim=1)
    return torch.where(outer[:, None], first, second)


@dataclass(frozen=True)
class TwoTableShape:
    """A complete shape on the canonical grid, each (X, Y, Z), mm, negative in bone.

    field: signed distance; outer, inner: signed distance to the outer and the inner table, negative on bone's side of
    it; plate: 0..1, where the shape is a plate between two tables and they say more than the field does; side: 1 where
    the nearest surface faces outwards, 0 where it faces inwards, smoothly between.
    """

    grid: Grid
    field: torch.Tensor
    outer: torch.Tensor
    inner: torch.Tensor
    plate: torch.Tensor
    side: torch.Tensor

    @classmethod
    def of(cls, field: torch.Tensor, grid: Grid) -> TwoTableShape:
        """Tell a field's tables apart: each is extrapolated along the line through the vault's centre, from beyond it.

        A place belongs to a plate when the field rises outwards beyond it and inwards before it.
        """
        nodes = grid.coordinates().reshape(-1, 3)
        line = outward_directions(nodes)
        slopes = gradient(field, grid.spacing_mm)
        both = torch.cat([field[None], slopes])
        tables, facing = [], []
        for sign in (1.0, -1.0):
            there = grid.sample(both, nodes + sign * REACH_MM * line)
            slope = there[:, 1:]
            rise = sign * (slope * line).sum(1)
            tables.append((there[:, 0] - REACH_MM * rise).reshape(grid.shape))
            facing.append(rise / slope.norm(dim=1).clamp(min=1e-3))
        plate = ((torch.minimum(*facing) - 0.4) / 0.3).clamp(0, 1).reshape(grid.shape)
        return cls(grid, field, tables[0], tables[1], plate, outer_side_weight(slopes, grid))

    @cached_property
    def channels(self) -> torch.Tensor:
        """(5, X, Y, Z): field, outer, inner, plate, side, to be sampled together."""
        return torch.stack([self.field, self.outer, self.inner, self.plate, self.side])

    @cached_property
    def by_side(self) -> torch.Tensor:
        """(2, X, Y, Z): the distance to the outer and to the inner table where there are two, else the field's."""
        return self.plate * torch.stack([self.outer, self.inner]) + (1 - self.plate) * self.field

    @cached_property
    def slopes_by_side(self) -> torch.Tensor:
        """(6, X, Y, Z): gradients of `by_side`, outer then inner."""
        return torch.cat([gradient(side, self.grid.spacing_mm) for side in self.by_side])
