"""A complete shape represented by its outer and inner table.

Bone of the vault is a plate between two tables. A distance field on a 2 mm grid, and even more the mean of several such
fields, loses thin plates: the minimum between the tables fades, and the shell opens or moves. Seen from outside, the
outer table is still where the field has it, and seen from inside the inner one. So each table is extrapolated from its
own side, from beyond the plate, and the bone is what lies between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from SkullVAELib.geometry.grid import Grid

REACH_MM = 4.0
"""Distance from which a table is extrapolated: more than half the thickness of any plate that may fade."""


def gradient(field: torch.Tensor, spacing_mm: float) -> torch.Tensor:
    """Central differences of a field.

    Parameters
    ----------
    field : torch.Tensor, shape (X, Y, Z)
        Any field.
    spacing_mm : float
        Grid spacing, mm.

    Returns
    -------
    torch.Tensor, shape (3, X, Y, Z)
        Per mm.
    """
    return torch.stack(torch.gradient(field, spacing=spacing_mm))


def outward_directions(points: torch.Tensor) -> torch.Tensor:
    """Unit vectors away from the vault's centre.

    Parameters
    ----------
    points : torch.Tensor, shape (N, 3)
        Canonical mm.

    Returns
    -------
    torch.Tensor, shape (N, 3)
    """
    return points / points.norm(dim=1, keepdim=True).clamp(min=1)


def outer_side_weight(slopes: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Weight of the outer table: 1 where the nearest surface faces outwards, 0 where it faces inwards, smooth in
    between.

    Parameters
    ----------
    slopes : torch.Tensor, shape (3, X, Y, Z)
        Gradient of a signed distance field.
    grid : Grid
        The grid of the field.

    Returns
    -------
    torch.Tensor, shape (X, Y, Z)
        0..1.
    """
    line = outward_directions(grid.coordinates().reshape(-1, 3))
    return (0.5 + (slopes.reshape(3, -1).T * line).sum(1)).clamp(0, 1).reshape(grid.shape)


def pick_side(both: torch.Tensor, outer: torch.Tensor) -> torch.Tensor:
    """Select for each point the values of its own table.

    Parameters
    ----------
    both : torch.Tensor, shape (N, 2 C)
        C values of the outer table, then C of the inner table.
    outer : torch.Tensor, shape (N,)
        Bool, whether a point is on the outer table.

    Returns
    -------
    torch.Tensor, shape (N, C)
    """
    first, second = both.chunk(2, dim=1)
    return torch.where(outer[:, None], first, second)


@dataclass(frozen=True)
class TwoTableShape:
    """A complete shape on the canonical grid; every tensor is (X, Y, Z), distances are in mm and negative in bone.

    Attributes
    ----------
    grid : Grid
        The canonical grid.
    field : torch.Tensor
        Signed distance.
    outer, inner : torch.Tensor
        Signed distance to the outer and to the inner table, negative on the side of bone.
    plate : torch.Tensor
        0..1, where the shape is a plate between two tables, which then replace the field.
    side : torch.Tensor
        0..1, weight of the outer table, see `outer_side_weight`.
    """

    grid: Grid
    field: torch.Tensor
    outer: torch.Tensor
    inner: torch.Tensor
    plate: torch.Tensor
    side: torch.Tensor

    @classmethod
    def of(cls, field: torch.Tensor, grid: Grid) -> TwoTableShape:
        """Extract the outer and inner table from a distance field.

        Each table is extrapolated along the line through the vault's centre, from beyond it. A node belongs to a plate
        if the field rises outwards on its outer side and inwards on its inner side.

        Parameters
        ----------
        field : torch.Tensor, shape (X, Y, Z)
            Signed distance in mm, negative in bone.
        grid : Grid
            The grid of the field.

        Returns
        -------
        TwoTableShape
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
        """(5, X, Y, Z): field, outer, inner, plate and side, to be sampled together."""
        return torch.stack([self.field, self.outer, self.inner, self.plate, self.side])

    @cached_property
    def by_side(self) -> torch.Tensor:
        """(2, X, Y, Z): distance to the outer and to the inner table where there are two, otherwise the field."""
        return self.plate * torch.stack([self.outer, self.inner]) + (1 - self.plate) * self.field

    @cached_property
    def slopes_by_side(self) -> torch.Tensor:
        """(6, X, Y, Z): gradients of `by_side`, of the outer table and then of the inner one."""
        return torch.cat([gradient(side, self.grid.spacing_mm) for side in self.by_side])
