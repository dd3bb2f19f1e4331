"""Bone segmentation: which voxels of a labelmap or of a CT in Hounsfield units are skull."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.roi import ROI
from SkullVAELib.geometry.volume import Volume

BONE_HU = 300.0
"""Default bone threshold of a CT, in Hounsfield units."""

# A component of a thresholded CT is kept next to the largest one when it is sizeable and near: the mandible has 10-15 %
# of the skull's voxels and is a centimetre away; headrests and the table are farther, calcifications and wires smaller.
_KEPT_SHARE = 0.05
_KEPT_DISTANCE_MM = 30.0

# A volume with more distinct values than this is an image; with fewer it is a labelmap.
_MAX_LABELS = 64


def bone_mask(volume: Volume, threshold_hu: float | None = None, roi: ROI | None = None) -> tuple[np.ndarray, dict]:
    """The bone voxels of a one-label segmentation or of a CT.

    Every voxel of a segmentation that is not 0 is bone. In a CT, bone is what reaches the threshold and belongs to the
    largest 26-connected component or to a sizeable component near it, such as the mandible. A given threshold is always
    applied, whatever the values look like.

    Parameters
    ----------
    volume : Volume
        Segmentation or CT.
    threshold_hu : float, optional
        Threshold in Hounsfield units; by default a CT is detected by its values and thresholded at 300 HU.
    roi : ROI, optional
        Region of interest; nothing outside it is bone.

    Returns
    -------
    mask : numpy.ndarray
        Bool, of the volume's shape.
    info : dict
        "kind" ("labelmap" or "ct"), "threshold_hu" (None for a labelmap), "bone_voxels", "left_out_voxels" (bone, or at
        or above the threshold, but not connected to the skull or outside the ROI) and "components" (number of
        components kept; None for a labelmap).

    Raises
    ------
    SkullVAEError
        If there is no bone, only bone, or no bone in the ROI; if there are several labels or a voxel that is not a
        finite number; or if the values are neither a segmentation nor Hounsfield units.
    """
    kind = "ct" if threshold_hu is not None else _kind(volume.array)
    if kind == "labelmap":
        mask = volume.array != 0
        bone = count = int(np.count_nonzero(mask))
        if roi is not None:
            mask, bone = _in_roi(mask, volume, roi)
        return mask, {
            "kind": kind,
            "threshold_hu": None,
            "bone_voxels": bone,
            "left_out_voxels": count - bone,
            "components": None,
        }

    threshold = BONE_HU if threshold_hu is None else float(threshold_hu)
    if not np.isfinite(threshold):
        raise SkullVAEError(
            f"The threshold {threshold} is not a finite number", "Give a value in Hounsfield units, such as 300"
        )
    low, high = _range(volume.array)
    over = volume.array >= threshold
    count = int(np.count_nonzero(over))
    if count == 0:
        raise SkullVAEError(
            f"No voxel reaches the threshold of {threshold:g}; the values range from {low:g} to {high:g}",
            "Choose a lower --threshold; omit it for a segmentation",
        )
    if count == over.size:
        raise SkullVAEError(
            f"Every voxel reaches the threshold of {threshold:g}; the values range from {low:g} to {high:g}",
            "Choose a higher --threshold",
        )
    if roi is not None:
        over, _ = _in_roi(over, volume, roi)
    mask, components = _skull_components(over, volume.spacing)
    bone = int(np.count_nonzero(mask))
    return mask, {
        "kind": kind,
        "threshold_hu": threshold,
        "bone_voxels": bone,
        "left_out_voxels": count - bone,
        "components": components,
    }


def _in_roi(mask: np.ndarray, grid: Volume, roi: ROI) -> tuple[np.ndarray, int]:
    """The voxels of a mask inside an ROI, and their number; raises SkullVAEError when there are none."""
    kept = roi.keep(mask, grid)
    count = int(np.count_nonzero(kept))
    if not count:
        raise SkullVAEError(
            "There is no bone in the ROI", "Move --roi over the skull; it is given in RAS mm of the input file"
        )
    return kept, count


def labelmap_mask(volume: Volume, name: str = "The volume") -> np.ndarray:
    """The voxels that are not 0 in a segmentation of one label; the segmentation may be empty.

    Parameters
    ----------
    volume : Volume
        Segmentation with the value 0 and at most one other value.
    name : str
        What the error message calls the volume.

    Returns
    -------
    numpy.ndarray
        Bool, of the volume's shape.

    Raises
    ------
    SkullVAEError
        If there are several labels or a voxel that is not a finite number.
    """
    low, high = _range(volume.array)
    mask = volume.array != 0
    if low != high and not _one_label(volume.array, low, high):
        raise SkullVAEError(
            f"{name} is not a segmentation with one label", "Export a single label with the values 0 and 1"
        )
    return mask


@dataclass(frozen=True)
class _Component:
    """One connected component of the thresholded voxels."""

    label: int
    size: int
    box: tuple[slice, ...]

    def distance_mm(self, other: _Component, spacing: np.ndarray) -> float:
        """Distance between the two bounding boxes."""
        distances = [max(a.start - b.stop, b.start - a.stop, 0) for a, b in zip(self.box, other.box, strict=True)]
        return float(np.linalg.norm(np.array(distances) * spacing))


def _skull_components(over: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, int]:
    """The largest 26-connected component and the sizeable ones near it, and the number of components kept."""
    if over.flags.f_contiguous:  # as read from a file; traversing memory in storage order is three times faster
        mask, components = _skull_components(over.T, spacing[::-1])
        return mask.T, components
    box = bounding_box(over)
    # Labels take 4 bytes a voxel, so only the bounding box is labelled; 32 bits suffice, see volume.MAX_VOXELS.
    labels = np.empty(over[box].shape, np.int32)
    count = ndimage.label(over[box], structure=np.ones((3, 3, 3)), output=labels)
    if count == 1:
        return over, 1
    inside = over[box]
    found_labels = labels[inside]
    sizes = np.bincount(found_labels, minlength=count + 1)
    largest = int(sizes.argmax())
    candidates = np.flatnonzero(sizes >= _KEPT_SHARE * sizes[largest])
    boxes = ndimage.find_objects(labels)
    found = {int(label): _Component(int(label), int(sizes[label]), boxes[label - 1]) for label in candidates}
    kept = [c.label for c in found.values() if c.distance_mm(found[largest], spacing) <= _KEPT_DISTANCE_MM]
    keep = np.zeros(count + 1, bool)
    keep[kept] = True
    mask = np.zeros(over.shape, bool)
    mask[box][inside] = keep[found_labels]
    return mask, len(kept)


def _range(array: np.ndarray) -> tuple[float, float]:
    """The smallest and largest value; raises SkullVAEError when a voxel is not a finite number."""
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise SkullVAEError(
            "The volume has voxels that are NaN or infinite", "Replace them with a number, in a CT with -1000 (air)"
        )
    return low, high


def _one_label(array: np.ndarray, low: float, high: float) -> bool:
    """Whether the only values are 0 and one other."""
    if low != 0 and high != 0:
        return False
    if np.issubdtype(array.dtype, np.integer) and high - low == 1:
        return True  # 0 and 1, the usual case: no further comparison is needed
    return bool(((array == low) | (array == high)).all())


def _kind(array: np.ndarray) -> str:
    """Distinguish a one-label segmentation ("labelmap") from a CT ("ct"); raises SkullVAEError for anything else."""
    if array.dtype == bool:
        array = array.view(np.uint8)
    low, high = _range(array)
    if low == high == 0:
        raise SkullVAEError("The segmentation is empty: every voxel is 0", "Segment the bone first")
    if low == high:
        raise SkullVAEError(f"Every voxel has the same value, {low:g}", "Choose a CT or a segmentation of the skull")
    if _one_label(array, low, high):
        return "labelmap"
    # In Hounsfield units fat is about -100, air -1000 and compact bone above 500; no MRI or labelmap has both.
    if low <= -100 and high >= 500:
        return "ct"
    # Every third voxel along each axis suffices to distinguish images from labels, and is fast.
    values = np.unique(array[::3, ::3, ::3])
    if len(values) <= _MAX_LABELS and (values == np.round(values)).all():
        labels = np.unique(array) if array.size < 2**22 else values
        listed = ", ".join(f"{v:g}" for v in labels[labels != 0][:6])
        raise SkullVAEError(
            f"The segmentation has several labels ({listed}{', ...' if len(labels) > 7 else ''})",
            "Export the skull alone, as one label",
        )
    raise SkullVAEError(
        f"The values {low:g} to {high:g} are neither a segmentation nor a CT in Hounsfield units",
        "Segment the bone first, or give the lowest value of bone with --threshold",
    )
