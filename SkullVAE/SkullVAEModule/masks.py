"""Masks cropped to their occupied region, which are small and fast to compare and to add to the scene; plain numpy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mask:
    """The occupied region of a 0/1 grid.

    array: (I, J, K) uint8, empty if no voxel is set; start: index of its first voxel in the whole grid; shape: shape of
    the whole grid.
    """

    array: np.ndarray
    start: tuple[int, int, int]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, whole: np.ndarray) -> Mask:
        """The mask of the nonzero voxels of a whole grid."""
        planes = [np.flatnonzero(whole.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        if not all(len(indices) for indices in planes):
            return cls(np.zeros((0, 0, 0), np.uint8), (0, 0, 0), whole.shape)
        region = tuple(slice(int(indices[0]), int(indices[-1]) + 1) for indices in planes)
        # In VTK's order of voxels, so that they can be added to the scene without reordering.
        array = np.asfortranarray(whole[region] != 0).view(np.uint8)
        return cls(array, tuple(along.start for along in region), whole.shape)

    @property
    def empty(self) -> bool:
        """Whether no voxel is set."""
        return self.array.size == 0

    def whole(self) -> np.ndarray:
        """(I, J, K) uint8 0/1 on the whole grid."""
        result = np.zeros(self.shape, np.uint8, order="F")
        if not self.empty:
            result[self._region((0, 0, 0))] = self.array
        return result

    def same(self, other: Mask) -> bool:
        """Whether another mask on the same grid has the same voxels."""
        if self.empty or other.empty:
            return self.empty and other.empty
        return self.start == other.start and np.array_equal(self.array, other.array)

    def union(self, other: Mask) -> Mask:
        """The union with another mask on the same grid."""
        if self.empty or other.empty:
            return other if self.empty else self
        low = np.minimum(self.start, other.start)
        high = np.maximum(np.add(self.start, self.array.shape), np.add(other.start, other.array.shape))
        array = np.zeros(high - low, np.uint8, order="F")
        array[self._region(low)] = self.array
        array[other._region(low)] |= other.array
        return Mask(array, tuple(int(value) for value in low), self.shape)

    def without(self, other: Mask) -> Mask:
        """The voxels of this mask that are not in another mask on the same grid."""
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

    def where(self, chosen: np.ndarray) -> Mask:
        """The voxels of this mask where `chosen` is True, which has the shape of the occupied region."""
        cut = Mask.of(self.array * chosen)
        return Mask(cut.array, tuple(int(a + b) for a, b in zip(self.start, cut.start, strict=True)), self.shape)

    def sha256(self) -> str:
        """SHA-256 of shape and voxels of the occupied region; independent of its position."""
        digest = hashlib.sha256(repr(self.array.shape).encode("ascii"))
        digest.update(np.packbits(self.array.ravel(order="F")).tobytes())
        return digest.hexdigest()

    def _region(self, origin) -> tuple[slice, ...]:
        first = np.subtract(self.start, origin)
        return tuple(slice(int(a), int(a) + n) for a, n in zip(first, self.array.shape, strict=True))
