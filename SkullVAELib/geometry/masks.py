"""Bounding box, largest component, blocks and morphology of a mask."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def empty_mask(like: np.ndarray) -> np.ndarray:
    """A mask without a True voxel, bool, in the memory order of an array.

    Mixed orders cost seconds at 512^3. Unlike `np.zeros_like`, memory that is never written is never used.

    >>> empty_mask(np.ones((2, 3, 4), order="F")).flags.f_contiguous
    True
    """
    return np.zeros(like.shape, bool, "F" if like.flags.f_contiguous and not like.flags.c_contiguous else "C")


def neighbours(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Two parts of a 3D array whose voxels are neighbours along an axis: the lower and the upper ones.

    >>> low, high = neighbours(2)
    >>> np.arange(4).reshape(1, 1, 4)[high] - np.arange(4).reshape(1, 1, 4)[low]
    array([[[1, 1, 1]]])
    """

    def along(part: slice) -> tuple[slice, ...]:
        return tuple(part if a == axis else slice(None) for a in range(3))

    return along(slice(None, -1)), along(slice(1, None))


def _forwards(array: np.ndarray) -> tuple[slice, ...]:
    """The slices that turn the axes of a view that run backwards in memory; numpy is slow along these."""
    return tuple(slice(None, None, -1 if stride < 0 else None) for stride in array.strides)


def block_sums(array: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Sums over blocks of voxels; the last block of an axis may have fewer voxels.

    Parameters
    ----------
    array : numpy.ndarray, shape (I, J, K)
        Bool or float.
    factor : numpy.ndarray, shape (3,)
        Voxels of a block along each axis.

    Returns
    -------
    numpy.ndarray
        In the memory order of the array: of bool the number of True voxels, unsigned integers.

    >>> block_sums(np.ones((2, 3, 4), bool), np.array([2, 2, 2])).tolist()
    [[[8, 8], [4, 4]]]
    """
    total: np.ndarray = array
    dtype: np.dtype = array.dtype
    if array.dtype == bool:
        total, dtype = array.view(np.uint8), np.min_scalar_type(int(np.prod(factor)))
    # The axis of the largest stride first: whole rows are added, and each further axis is shorter.
    for axis in sorted(range(3), key=lambda a: -abs(array.strides[a])):
        step, size = int(factor[axis]), total.shape[axis]
        if step == 1:
            continue
        lead = (slice(None),) * axis
        added = np.zeros_like(total, dtype, shape=[*total.shape[:axis], -(-size // step), *total.shape[axis + 1 :]])
        added = added[_forwards(total)]  # axes that run backwards in one of two arrays only are five times slower
        for offset in range(step):
            part = total[(*lead, slice(offset, None, step))]
            added[(*lead, slice(part.shape[axis]))] += part
        total = added
    return total


def block_voxels(shape: tuple[int, ...], factor: np.ndarray) -> list[np.ndarray]:
    """Voxels of each block along each axis, float32, to be multiplied by each other.

    >>> [voxels.ravel().tolist() for voxels in block_voxels((4, 3, 1), np.array([2, 2, 1]))]
    [[2.0, 2.0], [2.0, 1.0], [1.0]]
    """
    voxels = []
    for axis, (size, step) in enumerate(zip(shape, factor.tolist(), strict=True)):
        along = np.minimum(step, size - step * np.arange(-(-size // step))).astype(np.float32)
        voxels.append(along.reshape([-1 if a == axis else 1 for a in range(3)]))
    return voxels


def block_means(array: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Means over blocks of voxels, float32, see `block_sums`; an incomplete block is divided by its own voxels.

    >>> block_means(np.array([[[True, False, True]]]), np.array([1, 1, 2])).tolist()
    [[[0.5, 1.0]]]
    """
    i, j, k = block_voxels(array.shape, factor)
    return block_sums(array, factor).astype(np.float32) / (i * j * k)


def bounding_box(mask: np.ndarray, margin: int | np.ndarray = 0) -> tuple[slice, ...]:
    """The smallest box with every True voxel, grown by a margin within the array; of size 0 for an empty mask.

    Parameters
    ----------
    mask : bool array
        Of any number of dimensions.
    margin : int or array of int
        Voxels on each side, one number or one for each axis.

    Returns
    -------
    tuple of slice
        One for each axis.

    >>> bounding_box(np.eye(5, dtype=bool)[1:4], margin=1)
    (slice(0, 3, None), slice(0, 5, None))
    """
    forwards, box = mask[_forwards(mask)], [slice(None)] * mask.ndim
    # One axis after the other, each within the box so far, so that a large array is read about once: whole slabs first.
    for axis in sorted(range(mask.ndim), key=lambda a: -abs(mask.strides[a])):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        hits = np.flatnonzero(forwards[tuple(box)].any(axis=others))
        if len(hits) == 0:
            return (slice(0, 0),) * mask.ndim
        box[axis] = slice(int(hits[0]), int(hits[-1]) + 1)
    for axis, (s, size, stride) in enumerate(zip(box, mask.shape, mask.strides, strict=True)):
        if stride < 0:
            box[axis] = slice(size - s.stop, size - s.start)
    margins = np.broadcast_to(margin, mask.ndim).tolist()
    limits = zip(box, margins, mask.shape, strict=True)
    return tuple(slice(max(0, s.start - m), min(n, s.stop + m)) for s, m, n in limits)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 26-connected component of a mask that is not empty, bool."""
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()


def dilate(mask: np.ndarray, spacing: np.ndarray, radius_mm: float) -> np.ndarray:
    """Dilate a mask by a ball in millimetres; an axis with a longer spacing than the radius is not dilated.

    Parameters
    ----------
    mask : numpy.ndarray, shape (I, J, K)
        Bool.
    spacing : numpy.ndarray, shape (3,)
        Voxel spacing, mm.
    radius_mm : float
        Radius of the ball.

    Returns
    -------
    numpy.ndarray, shape (I, J, K)
        Bool, voxels whose centre is within the radius of the centre of a voxel of the mask.

    >>> dilate(np.eye(1, 5, 2, dtype=bool)[None], np.array([2.0, 2.0, 0.9]), 1.0).astype(int).tolist()
    [[[0, 1, 1, 1, 0]]]
    """
    limit = radius_mm + 1e-6
    reach = np.minimum(np.floor(limit / spacing), np.array(mask.shape) - 1).astype(int)
    # A ball is a set of lines along the last axis: the mask dilated along that axis, by each length, is shifted.
    runs = [mask]
    for step in range(1, reach[2] + 1):
        run = runs[-1].copy()
        run[..., step:] |= mask[..., :-step]
        run[..., :-step] |= mask[..., step:]
        runs.append(run)
    out = np.zeros_like(mask)
    for i in range(-reach[0], reach[0] + 1):
        for j in range(-reach[1], reach[1] + 1):
            left = limit**2 - (i * spacing[0]) ** 2 - (j * spacing[1]) ** 2
            if left < 0:
                continue
            run = runs[min(int(np.sqrt(left) / spacing[2]), reach[2])]
            out[_shifted(i), _shifted(j)] |= run[_shifted(-i), _shifted(-j)]
    return out


def _shifted(step: int) -> slice:
    """The part of an axis that has a neighbour `step` voxels lower."""
    return slice(step, None) if step >= 0 else slice(None, step)


def erode(mask: np.ndarray, spacing: np.ndarray, radius_mm: float) -> np.ndarray:
    """Erode a mask by a ball in millimetres, see `dilate`; the border of the array is not a border of the mask."""
    return ~dilate(~mask, spacing, radius_mm)
