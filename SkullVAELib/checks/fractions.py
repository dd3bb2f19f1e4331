"""Bone fractions at about 1.25 mm, on which the checks are computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import block_means
from SkullVAELib.geometry.volume import Volume

TARGET_MM = 1.25
"""Voxels are averaged to about this length; coarser voxels are left as they are."""

_MOST_VOXELS = 6  # per axis of a block, so that the sum of a block fits in 8 bits


@dataclass(frozen=True)
class Fraction:
    """Fractions 0..1 of a mask in blocks of voxels, which locate its surface below the size of a block.

    Parameters
    ----------
    array : (I, J, K) float32 array
        Fraction of each block that is in the mask; an incomplete block at the end of the image is divided by its own
        number of voxels.
    affine : (4, 4) array
        Block index to RAS, mm.
    """

    array: np.ndarray
    affine: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray, grid: Volume, box: tuple[slice, ...], factor: np.ndarray) -> Fraction:
        """The fractions of a mask within a box whose starts are multiples of the factor."""
        array = block_means(mask[box].astype(bool, copy=False), factor)
        start = np.array([s.start for s in box], float)
        affine = grid.affine @ np.diag([*factor.astype(float), 1.0])
        affine[:3, 3] = apply_affine(grid.affine, start + (factor - 1) / 2)
        return cls(array, affine)

    def sample(self, points: np.ndarray) -> np.ndarray:
        """Trilinear values (...,) at points (..., 3) in RAS mm; 0 beyond the blocks."""
        index = self._index(points.reshape(-1, 3))
        # A surface at the end of the blocks must not fade out over half a block: the last value holds up to its face.
        inside = ((index > -0.5) & (index < np.array(self.array.shape) - 0.5)).all(1)
        values = ndimage.map_coordinates(self.array, index.T, np.float32, order=1, mode="nearest", prefilter=False)
        return (values * inside).reshape(points.shape[:-1])

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """Values (...,) of the blocks that hold points (..., 3) in RAS mm; 0 beyond the blocks."""
        index = np.floor(self._index(points.reshape(-1, 3)) + np.float32(0.5)).astype(np.int32)
        flat = np.zeros(len(index), np.int64)
        inside = np.ones(len(index), bool)
        for axis, count in enumerate(self.array.shape):
            inside &= (index[:, axis] >= 0) & (index[:, axis] < count)
            flat = flat * count + index[:, axis]
        flat[~inside] = 0
        return (np.ascontiguousarray(self.array).ravel()[flat] * inside).reshape(points.shape[:-1])

    def points(self, level: float) -> np.ndarray:
        """Centres (N, 3) in RAS mm of the blocks that reach a level."""
        return apply_affine(self.affine, np.argwhere(self.array >= level))

    def _index(self, points: np.ndarray) -> np.ndarray:
        matrix = np.linalg.inv(self.affine).astype(points.dtype)
        return points @ matrix[:3, :3].T + matrix[:3, 3]


def block_factor(spacing: np.ndarray) -> np.ndarray:
    """Voxels (3,) per block along each axis for voxels of some spacing in mm."""
    return np.clip(np.round(TARGET_MM / spacing), 1, _MOST_VOXELS).astype(int)


def outside_mm(grid: Volume, points: np.ndarray) -> np.ndarray:
    """How far points (N, 3) in RAS mm are beyond the end of the image, (N,) mm; negative inside, by the nearest end."""
    matrix = np.linalg.inv(grid.affine)
    index = points @ matrix[:3, :3].T + matrix[:3, 3]
    # The distance between opposite faces of the image, also where the axes are not at right angles.
    scale = 1 / np.linalg.norm(matrix[:3, :3], axis=1)
    beyond = np.maximum(-0.5 - index, index - (np.array(grid.array.shape) - 0.5)) * scale
    return beyond.max(-1)
