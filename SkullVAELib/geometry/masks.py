"""Bounding box and largest component of a mask."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


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
    box: list[slice] = []
    # One axis after the other, each within the box so far, so that a large array is read about once.
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        hits = np.flatnonzero(mask[tuple(box) + (slice(None),) * (mask.ndim - axis)].any(axis=others))
        if len(hits) == 0:
            return (slice(0, 0),) * mask.ndim
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    margins = np.broadcast_to(margin, mask.ndim).tolist()
    limits = zip(box, margins, mask.shape, strict=True)
    return tuple(slice(max(0, s.start - m), min(n, s.stop + m)) for s, m, n in limits)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 26-connected component of a mask that is not empty, bool."""
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()
