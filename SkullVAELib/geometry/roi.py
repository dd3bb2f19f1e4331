"""Region of interest: bone outside it, such as table, headrest and neck, is excluded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from SkullVAELib.core.errors import SkullVAEError

if TYPE_CHECKING:
    from SkullVAELib.geometry.volume import Volume

_REMEDY = "Write --roi CX,CY,CZ,SX,SY,SZ in mm (RAS), followed by the three axes of an oblique ROI"


@dataclass(frozen=True)
class ROI:
    """A rectangular region of interest in RAS mm.

    Parameters
    ----------
    centre_mm : tuple of 3 floats
    size_mm : tuple of 3 floats
        Full side lengths.
    axes : 3 tuples of 3 floats
        Unit vectors of its own axes; R, A, S by default.

    Raises
    ------
    SkullVAEError
        A number is not finite, a side is not longer than 0, or the axes are not perpendicular unit vectors.
    """

    centre_mm: tuple[float, float, float]
    size_mm: tuple[float, float, float]
    axes: tuple[tuple[float, float, float], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

    def __post_init__(self):
        numbers = [*self.centre_mm, *self.size_mm, *np.ravel(self.axes)]
        if not all(math.isfinite(number) for number in numbers):
            raise SkullVAEError("The ROI has a number that is not finite", _REMEDY)
        if min(self.size_mm) <= 0:
            raise SkullVAEError(f"The ROI of {' x '.join(f'{s:g}' for s in self.size_mm)} mm is empty", _REMEDY)
        # Values from a header or from dragging with the mouse have about five digits.
        axes = np.array(self.axes)
        if not np.allclose(axes @ axes.T, np.eye(3), atol=1e-3):
            raise SkullVAEError("The axes of the ROI are not perpendicular unit vectors", _REMEDY)

    @classmethod
    def parse(cls, text: str) -> ROI:
        """An ROI from 6 or 15 comma-separated numbers: centre, side lengths, and the axes of an oblique ROI.

        >>> ROI.parse("0,10,20,200,220,150").size_mm
        (200.0, 220.0, 150.0)
        """
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            raise SkullVAEError(f"The ROI '{text}' cannot be read", _REMEDY) from None
        if len(numbers) not in (6, 15):
            raise SkullVAEError(f"The ROI '{text}' has neither 6 numbers nor 15", _REMEDY)
        centre, size, *axes = ((x, y, z) for x, y, z in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))
        return cls(centre, size, tuple(axes)) if axes else cls(centre, size)

    def keep(self, mask: np.ndarray, grid: Volume) -> np.ndarray:
        """The voxels of a bool mask whose centres are inside the ROI or on its faces.

        Parameters
        ----------
        mask : (I, J, K) bool array
        grid : Volume
            Of the same shape; only its affine is used.
        """
        inside = np.zeros_like(mask)
        # From voxel index to the ROI's own coordinates, -1 to 1 inside.
        axes = np.array(self.axes)
        half = np.array(self.size_mm)[:, None] / 2
        matrix = axes @ grid.affine[:3, :3] / half
        offset = axes @ (grid.affine[:3, 3] - self.centre_mm) / half[:, 0]
        # Only the bounding box of the ROI is processed; rounding must not lose a face that meets voxel centres.
        corners = (np.array(list(np.ndindex(2, 2, 2))) * 2 - 1 - offset) @ np.linalg.inv(matrix).T
        low = np.clip(np.floor(corners.min(0)), 0, mask.shape).astype(int)
        high = np.clip(np.ceil(corners.max(0)) + 1, 0, mask.shape).astype(int)
        piece = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        # In slabs: three floats a voxel of a large oblique ROI would not fit into memory.
        for first in range(piece[2].start, piece[2].stop, 16):
            slab = (*piece[:2], slice(first, min(piece[2].stop, first + 16)))
            inside[slab] = mask[slab] & _within(matrix, offset, np.ogrid[slab])
        return inside


def _within(matrix: np.ndarray, offset: np.ndarray, index: tuple[np.ndarray, ...]) -> np.ndarray:
    """Whether voxels, given as open index arrays, are mapped to -1..1; bool, of a shape that broadcasts."""
    within = np.ones(1, bool)
    for row, start in zip(matrix, offset, strict=True):
        # Terms of 0 are omitted: an ROI along the grid's axes needs no array of all voxels.
        place = start + sum(part * along for part, along in zip(row, index, strict=True) if abs(part) > 1e-12)
        within = within & (np.abs(place) <= 1 + 1e-6)
    return within
