"""Masks cut to what they contain: small to keep, quick to compare and to put into the scene. Plain numpy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mask:
    """The occupied part of a 0/1 grid. array: (I, J, K) uint8, empty when nothing is; start: its first voxel there;
    shape: the whole grid's.
    """

    array: np.ndarray
    start: tuple[int, int, int]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, whole: np.ndarray) -> Mask:
        """The mask of the voxels of a whole grid that are not 0."""
        planes = [np.flatnonzero(whole.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        if not all(len(indices) for indices in planes):
            return cls(np.zeros((0, 0, 0), np.uint8), (0, 0, 0), whole.shape)
        box = tuple(slice(int(indices[0]), int(indices[-1]) + 1) for indices in planes)
        # In VTK's order of voxels, so that nothing has to be turned round on the way into the scene.
        array = np.asfortranarray(whole[box] != 0).view(np.uint8)
        return cls(array, tuple(part.start for part in box), whole.shape)

    @property
    def empty(self) -> bool:
        """Whether no voxel is set."""
        return self.array.size == 0

    def whole(self) -> np.ndarray:
        """(I, J, K) uint8 0/1 on the whole grid."""
        result = np.zeros(self.shape, np.uint8, order="F")
        if not self.empty:
            result[self._box((0, 0, 0))] = self.array
        return result

    def union(self, other: Mask) -> Mask:
        """The voxels of either, on the same grid."""
        if self.empty or other.empty:
            return other if self.empty else self
        low = np.minimum(self.start, other.start)
        high = np.maximum(np.add(self.start, self.array.shape), np.add(other.start, other.array.shape))
        array = np.zeros(high - low, np.uint8, order="F")
        array[self._box(low)] = self.array
        array[other._box(low)] |= other.array
        return Mask(array, tuple(int(value) for value in low), self.shape)

    def without(self, other: Mask) -> Mask:
        """The voxels of this one that the other has not, on the same grid."""
        if self.empty or other.empty:
            return self
        low = np.maximum(self.start, other.start)
        high = np.minimum(np.add(self.start, self.array.shape), np.add(other.start, other.array.shape))
        array = self.array.copy(order="F")
        if np.all(low < high):
            inner = tuple(slice(a, b) for a, b in zip(low - self.start, high - self.start, strict=True))
            theirs = tuple(slice(a, b) for a, b in zip(low - other.start, high - other.start, strict=True))
            array[inner] &= other.array[theirs] ^ 1
        cut = Mask.of(array)
        return Mask(cut.array, tuple(int(a + b) for a, b in zip(self.start, cut.start, strict=True)), self.shape)

    def sha256(self) -> str:
        """Of the voxels and their arrangement, wherever they lie."""
        digest = hashlib.sha256(repr(self.array.shape).encode("ascii"))
        digest.update(np.packbits(self.array.ravel(order="F")).tobytes())
        return digest.hexdigest()

    def _box(self, origin) -> tuple[slice, ...]:
        first = np.subtract(self.start, origin)
        return tuple(slice(int(a), int(a) + n) for a, n in zip(first, self.array.shape, strict=True))
