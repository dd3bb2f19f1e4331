"""Bone: which voxels of a volume are skull, whether it is a labelmap or a CT in Hounsfield units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.roi import ROI
from SkullVAELib.geometry.volume import Volume

BONE_HU = 300.0


# A component of a thresholded CT is kept beside the largest when it is sizeable and near: the mandible is 10-15 % of
# the skull and a centimetre away from it; headrests and the table are farther, calcifications and wires smaller.
_KEPT_SHARE = 0.05


_KEPT_GAP_MM = 30.0


# More distinct values than this are an image; fewer are labels.
_MAX_LABELS = 64


def bone_mask(volume: Volume, threshold_hu: float | None = None, box: ROI | None = None) -> tuple[np.ndarray, dict]:
    """The bone voxels of a one-label segmentation or of a CT.

    A segmentation gives every voxel that is not 0. A CT gives the voxels of at least `threshold_hu` (300 HU unless
    told) in the largest 26-connected component and in sizeable ones near it, such as the mandible. A threshold that
    is given is always applied, whatever the values look like. Outside the box, where one is given, nothing is bone.

    Returns a bool array of the volume's shape and what was done: "kind" ("labelmap" or "ct"), "threshold_hu" (None
    for a labelmap), "bone_voxels", "left_out_voxels" (bone, or over the threshold, but not part of the skull or beyond
    the box) and "components" (kept; None for a labelmap).

    Raises SkullVAEError when there is no bone, nothing but bone, none in the box, several labels, a voxel that is not a
    number, or values that are neither a segmentation nor Hounsfield units.
    """
    kind = "ct" if threshold_hu is not None else _kind(volume.array)
    if kind == "labelmap":
        mask = volume.array != 0
        bone = count = int(np.count_nonzero(mask))
        if box is not None:
            mask, bone = _in_box(mask, volume, box)
        return mask, {
            "kind": kind,
            "threshold_hu": None,
            "bone_voxels": bone,
            "left_out_voxels": count - bone,
            "components": None,
        }

    threshold = BONE_HU if threshold_hu is None else float(threshold_hu)
    if not np.isfinite(threshold):
        raise SkullVAEError(f"The threshold {threshold} is not a number", "Give it in Hounsfield units, such as 300")
    low, high = _range(volume.array)
    over = volume.array >= threshold
    count = int(np.count_nonzero(over))
    if count == 0:
        raise SkullVAEError(
            f"No voxel reaches the threshold of {threshold:g}; the values are {low:g} to {high:g}",
            "Choose a lower --threshold, or none for a segmentation",
        )
    if count == over.size:
        raise SkullVAEError(
            f"Every voxel reaches the threshold of {threshold:g}; the values are {low:g} to {high:g}",
            "Choose a higher --threshold",
        )
    if box is not None:
        over, _ = _in_box(over, volume, box)
    mask, components = _skull_components(over, volume.spacing)
    bone = int(np.count_nonzero(mask))
    return mask, {
        "kind": kind,
        "threshold_hu": threshold,
        "bone_voxels": bone,
        "left_out_voxels": count - bone,
        "components": components,
    }


def _in_box(mask: np.ndarray, grid: Volume, box: ROI) -> tuple[np.ndarray, int]:
    """What of a mask lies in a box, and how many voxels that is; raises SkullVAEError when it is none."""
    kept = box.keep(mask, grid)
    count = int(np.count_nonzero(kept))
    if not count:
        raise SkullVAEError("There is no bone in the box", "Move --box over the skull; it is in RAS mm of the file")
    return kept, count


def labelmap_mask(volume: Volume, name: str = "The volume") -> np.ndarray:
    """The voxels that are not 0 in a segmentation of one label; an empty one is allowed.

    Raises SkullVAEError when the values are not those of one label.
    """
    low, high = _range(volume.array)
    mask = volume.array != 0
    if low != high and not _one_label(volume.array, low, high):
        raise SkullVAEError(f"{name} is not a segmentation with one label", "Export one label, 0 and 1")
    return mask


@dataclass(frozen=True)
class _Component:
    label: int
    size: int
    box: tuple[slice, ...]

    def gap_mm(self, other: _Component, spacing: np.ndarray) -> float:
        """Distance between the two bounding boxes."""
        gaps = [max(a.start - b.stop, b.start - a.stop, 0) for a, b in zip(self.box, other.box, strict=True)]
        return float(np.linalg.norm(np.array(gaps) * spacing))


def _skull_components(over: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, int]:
    """The largest 26-connected component and the sizeable ones near it, and how many these are."""
    if over.flags.f_contiguous:  # as read from a file; going through memory in its own order is three times faster
        mask, components = _skull_components(over.T, spacing[::-1])
        return mask.T, components
    box = bounding_box(over)
    # Labels take 4 bytes a voxel, so only the box is labelled; 32 bits are enough, see volume.MAX_VOXELS.
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
    kept = [c.label for c in found.values() if c.gap_mm(found[largest], spacing) <= _KEPT_GAP_MM]
    keep = np.zeros(count + 1, bool)
    keep[kept] = True
    mask = np.zeros(over.shape, bool)
    mask[box][inside] = keep[found_labels]
    return mask, len(kept)


def _range(array: np.ndarray) -> tuple[float, float]:
    """The least and greatest value; raises SkullVAEError when a voxel is not a finite number."""
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise SkullVAEError(
            "The volume has voxels that are not numbers (NaN or infinite)", "Replace them, in a CT by -1000"
        )
    return low, high


def _one_label(array: np.ndarray, low: float, high: float) -> bool:
    """Whether 0 and one other value are all there is."""
    if low != 0 and high != 0:
        return False
    if np.issubdtype(array.dtype, np.integer) and high - low == 1:
        return True  # 0 and 1, the usual case, needs no second look
    return bool(((array == low) | (array == high)).all())


def _kind(array: np.ndarray) -> str:
    """Tell a one-label segmentation ("labelmap") from a CT ("ct"); raises SkullVAEError for anything else."""
    if array.dtype == bool:
        array = array.view(np.uint8)
    low, high = _range(array)
    if low == high == 0:
        raise SkullVAEError("The segmentation is empty: every voxel is 0", "Segment the bone first")
    if low == high:
        raise SkullVAEError(f"Every voxel has the same value {low:g}", "Choose a CT or a segmentation of the skull")
    if _one_label(array, low, high):
        return "labelmap"
    # In Hounsfield units fat is about -100, air -1000 and compact bone beyond 500; no label and no MRI is like that.
    if low <= -100 and high >= 500:
        return "ct"
    # Every third voxel along each axis tells images from labels well enough, and is quick.
    values = np.unique(array[::3, ::3, ::3])
    if len(values) <= _MAX_LABELS and (values == np.round(values)).all():
        labels = np.unique(array) if array.size < 2**22 else values
        listed = ", ".join(f"{v:g}" for v in labels[labels != 0][:6])
        raise SkullVAEError(
            f"The segmentation has several labels ({listed}{', ...' if len(labels) > 7 else ''})",
            "Export only the skull, as one label",
        )
    raise SkullVAEError(
        f"The values {low:g} to {high:g} are neither a segmentation nor a CT in Hounsfield units",
        "Segment the bone first, or say from which value on it is bone with --threshold",
    )
