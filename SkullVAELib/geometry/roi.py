"""A box in the patient's space: what lies outside is not bone, such as table, headrest and neck."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from SkullVAELib.core.errors import SkullVAEError

if TYPE_CHECKING:
    from SkullVAELib.geometry.volume import Volume

_REMEDY = "Write --box CX,CY,CZ,SX,SY,SZ in mm (RAS), and the three axes of an oblique box after it"


@dataclass(frozen=True)
class ROI:
    """A box in RAS mm. centre_mm: its middle; size_mm: its full side lengths; axes: (3, 3), its own axes as rows.

    Raises SkullVAEError for a side that is not longer than 0, and axes that are not perpendicular.
    """

    centre_mm: tuple[float, float, float]
    size_mm: tuple[float, float, float]
    axes: tuple[tuple[float, float, float], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

    def __post_init__(self):
        numbers = [*self.centre_mm, *self.size_mm, *np.ravel(self.axes)]
        if not all(math.isfinite(number) for number in numbers):
            raise SkullVAEError("The box has a number that is none", _REMEDY)
        if min(self.size_mm) <= 0:
            raise SkullVAEError(f"A box of {' x '.join(f'{s:g}' for s in self.size_mm)} mm holds nothing", _REMEDY)
        # A header, or a drag of the mouse, keeps some five digits.
        axes = np.array(self.axes)
        if not np.allclose(axes @ axes.T, np.eye(3), atol=1e-3):
            raise SkullVAEError("The box's axes are not perpendicular and of length 1", _REMEDY)

    @classmethod
    def parse(cls, text: str) -> ROI:
        """A box from 6 or 15 numbers with commas between them: centre, side lengths, and the axes of an oblique box.

        >>> Box.parse("0,10,20,200,220,150").size_mm
        (200.0, 220.0, 150.0)
        """
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            raise SkullVAEError(f"The box '{text}' cannot be read", _REMEDY) from None
        if len(numbers) not in (6, 15):
            raise SkullVAEError(f"The box '{text}' is neither 6 numbers nor 15", _REMEDY)
        centre, size, *axes = ((x, y, z) for x, y, z in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))
        return cls(centre, size, tuple(axes)) if axes else cls(centre, size)

    def keep(self, mask: np.ndarray, grid: Volume) -> np.ndarray:
        """The voxels of a bool mask on a grid whose centres lie in the box, its faces included."""
        inside = np.zeros_like(mask)
        # From voxel index to the box's own coordinates, -1 to 1 within it.
        axes = np.array(self.axes)
        half = np.array(self.size_mm)[:, None] / 2
        matrix = axes @ grid.affine[:3, :3] / half
        offset = axes @ (grid.affine[:3, 3] - self.centre_mm) / half[:, 0]
        # Only the box's own piece of the grid is looked at; rounding must not lose a face that meets voxels' centres.
        corners = (np.array(list(np.ndindex(2, 2, 2))) * 2 - 1 - offset) @ np.linalg.inv(matrix).T
        low = np.clip(np.floor(corners.min(0)), 0, mask.shape).astype(int)
        high = np.clip(np.ceil(corners.max(0)) + 1, 0, mask.shape).astype(int)
        piece = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        # In slabs: three floats a voxel of a large oblique box would not fit into memory.
        for first in range(piece[2].start, piece[2].stop, 16):
            slab = (*piece[:2], slice(first, min(piece[2].stop, first + 16)))
            inside[slab] = mask[slab] & _within(matrix, offset, np.ogrid[slab])
        return inside


def _within(matrix: np.ndarray, offset: np.ndarray, index: tuple[np.ndarray, ...]) -> np.ndarray:
    """Whether voxels, given as open index arrays, come to lie within -1 to 1; bool, of a shape that broadcasts."""
    within = np.ones(1, bool)
    for row, start in zip(matrix, offset, strict=True):
        # Terms of 0 are left out: a box along the grid's axes needs no array of all voxels.
        place = start + sum(part * along for part, along in zip(row, index, strict=True) if abs(part) > 1e-12)
        within = within & (np.abs(place) <= 1 + 1e-6)
    return within
