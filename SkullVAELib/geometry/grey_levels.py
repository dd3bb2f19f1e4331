"""The values of a CT around its bone: they locate the surface of the bone between two voxels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from SkullVAELib.geometry.masks import neighbours
from SkullVAELib.geometry.volume import Volume, to_nearest_ras


@dataclass(frozen=True)
class GreyLevels:
    """The CT that a bone mask was thresholded from; its values locate the bone surface between two voxels.

    Parameters
    ----------
    image : Volume
        Hounsfield units.
    threshold_hu : float
        Bone has at least this value.
    balance : float
        Factor for values above the threshold that puts the surface, on average, half-way between voxels, where it is
        for a mask. Without it linear interpolation puts the surface too far out, by 0.15 mm in the demo's CT, since
        values rise steeply into bone and fall slowly outside.
    contrast_hu : float
        How far below the threshold a voxel beside bone usually is; one that is this far below has no bone.
    """

    image: Volume
    threshold_hu: float
    balance: float = 1.0
    contrast_hu: float = 260.0

    @classmethod
    def of(cls, image: Volume, bone: Volume, threshold_hu: float) -> GreyLevels | None:
        """The values around a bone mask on the same grid, balanced over about fifty of its slices.

        The same for any order and direction of the axes: slices are those of the longest voxel side, which is left out
        of the pairs of neighbours. None where no bone has another voxel beside it.
        """
        values, mask = to_nearest_ras(image), to_nearest_ras(bone)
        across = int(2 - np.argmax(values.spacing[::-1].round(3)))
        every = max(1, mask.array.shape[across] // 50)
        chosen = tuple(slice(None, None, every) if axis == across else slice(None) for axis in range(3))
        # In C order, in which masks select: in Fortran's, that of files, it takes four times as long.
        inside = np.ascontiguousarray(mask.array[chosen] != 0)
        level = np.ascontiguousarray(values.array[chosen], np.float32) - _level(image.array, threshold_hu)
        pairs = [np.zeros((2, 0))]
        for axis in range(3):
            if axis == across:
                continue
            lower, upper = neighbours(axis)
            for here, there in ((lower, upper), (upper, lower)):
                crossing = inside[here] & (level[there] < 0)
                pairs.append(np.stack([level[here][crossing], -level[there][crossing]]))
        inner, outer = np.concatenate(pairs, axis=1)
        if not inner.size:
            return None
        low, high = 1e-3, 1e3
        for _ in range(30):
            middle = float(np.sqrt(low * high))
            too_far = (middle * inner / (middle * inner + outer)).mean() > 0.5
            low, high = (low, middle) if too_far else (middle, high)
        return cls(image, threshold_hu, float(np.sqrt(low * high)), float(np.median(outer)))

    @property
    def level(self) -> np.float32:
        """The value at the surface: half a unit below the threshold of whole numbers, so that a voxel at it is bone."""
        return _level(self.image.array, self.threshold_hu)

    def crop(self, box: tuple[slice, ...]) -> GreyLevels:
        """A box of it, to use with the same box of the mask."""
        return replace(self, image=Volume(self.image.array[box], self.image.affine))

    def to_nearest_ras(self) -> GreyLevels:
        """With axes closest to R, A, S, to use with a mask of that order; a view."""
        return replace(self, image=to_nearest_ras(self.image))

    def fractions(self, values: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """How much of a voxel is bone, from its value.

        Parameters
        ----------
        values : numpy.ndarray, shape (N,)
            Values of voxels, HU.
        inside : numpy.ndarray, shape (N,)
            Bool, whether they are bone.

        Returns
        -------
        numpy.ndarray, shape (N,)
            float32, 0..1: at least 0.5 in bone, where it crosses one half is the surface. 0 for a voxel above the
            threshold that is not bone, such as of a loose piece that was left out.
        """
        level = values.astype(np.float32) - self.level
        outside = np.where(level < 0, 0.5 + level / np.float32(2 * self.contrast_hu), 0)
        within = 0.5 + level * np.float32(self.balance / (2 * self.contrast_hu))
        return np.where(inside, np.clip(within, 0.5, 1), np.clip(outside, 0, 1)).astype(np.float32)


def _level(array: np.ndarray, threshold_hu: float) -> np.float32:
    return np.float32(threshold_hu - (0.5 if np.issubdtype(array.dtype, np.integer) else 0.0))
