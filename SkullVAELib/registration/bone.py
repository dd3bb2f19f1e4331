"""Bone segmentation: which voxels of a labelmap or of a CT in Hounsfield units are skull."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.components import Components
from SkullVAELib.geometry.grey_levels import GreyLevels
from SkullVAELib.geometry.roi import ROI
from SkullVAELib.geometry.volume import Volume

BONE_HU = 300.0
"""Default bone threshold of a CT, in Hounsfield units."""

# A loose piece of a CT is kept next to the largest one when it is sizeable and near: the mandible has 10-15 % of the
# skull's voxels and is a centimetre away; a table is farther, calcifications and wires are smaller.
_KEPT_SHARE = 0.05
_KEPT_DISTANCE_MM = 30.0

# A smaller loose piece is noise: a cube of 3.7 mm.
_PIECE_ML = 0.05

# Edge length of the grid on which distances between pieces are measured.
_DISTANCE_GRID_MM = 2.0
_MOST_CELLS = 20000

# A volume with more distinct values than this is an image; with fewer it is a labelmap.
_MAX_LABELS = 64


def bone_mask(volume: Volume, threshold_hu: float | None = None, roi: ROI | None = None) -> tuple[np.ndarray, dict]:
    """The bone voxels of a one-label segmentation or of a CT.

    Every voxel of a segmentation that is not 0 is bone. In a CT, bone is what reaches the threshold and belongs to the
    largest 26-connected component or to a sizeable component near it, such as the mandible: of at least 5 % of its
    volume, and within 30 mm of its surface. A given threshold is always applied, whatever the values look like.
    `segment_bone` also returns the pieces that were left out.

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
    segmentation = segment_bone(volume, threshold_hu, roi)
    return segmentation.mask, segmentation.info


@dataclass(frozen=True)
class LoosePiece:
    """A piece of bone that is not connected to the largest one.

    Attributes
    ----------
    component : int
        Its number in `BoneSegmentation.components`.
    volume_ml : float
        Its volume.
    centre_mm : numpy.ndarray, shape (3,)
        Its centre of mass, patient RAS mm.
    distance_mm : float
        Least distance to the largest piece, measured on a grid of about 2 mm.
    sizeable : bool
        Whether it has at least 5 % of the largest piece's volume and is within 30 mm of it, as the mandible is.
    """

    component: int
    volume_ml: float
    centre_mm: np.ndarray
    distance_mm: float
    sizeable: bool


@dataclass(frozen=True)
class BoneSegmentation:
    """The bone of an image and the pieces that it consists of.

    Attributes
    ----------
    mask : numpy.ndarray
        Bool, bone: of a segmentation every voxel that is not 0, of a CT the largest connected component and the
        sizeable ones near it.
    everything : numpy.ndarray
        Bool, what was bone, or at or above the threshold, before anything was left out, also outside the ROI. It may be
        the image's own array.
    inside : numpy.ndarray
        Bool, the part of `everything` in the ROI.
    components : Components
        Connected components of `inside`.
    main : int
        Number of the largest component.
    pieces : tuple of LoosePiece
        The other components of at least 0.05 ml, largest first.
    info : dict
        See `bone_mask`.
    """

    mask: np.ndarray
    everything: np.ndarray
    inside: np.ndarray
    components: Components
    main: int
    pieces: tuple[LoosePiece, ...]
    info: dict

    @classmethod
    def of(
        cls, everything: np.ndarray, inside: np.ndarray, grid: Volume, kind: str, threshold_hu: float | None
    ) -> BoneSegmentation:
        """Find the components of the bone; see `bone_mask` for kind and threshold_hu."""
        components = Components.of(inside)
        main = int(components.voxels.argmax())
        pieces = loose_pieces(components, main, grid)
        mask, left_out = inside, set[int]()
        if kind == "ct":
            left_out = set(range(len(components))) - {main, *(piece.component for piece in pieces if piece.sizeable)}
        if left_out:
            mask = inside.copy()
            mask[tuple(components.indices(left_out).T)] = False
        bone = int(components.voxels.sum() - components.voxels[list(left_out)].sum())
        info = {
            "kind": kind,
            "threshold_hu": threshold_hu,
            "bone_voxels": bone,
            "left_out_voxels": int(np.count_nonzero(everything)) - bone,
            "components": None if kind == "labelmap" else len(components) - len(left_out),
        }
        return cls(mask, everything, inside, components, main, pieces, info)

    def grey_levels(self, image: Volume) -> GreyLevels | None:
        """The values of the image around the bone of a CT; None for a segmentation."""
        if self.info["kind"] != "ct":
            return None
        return GreyLevels.of(image, image.with_array(self.mask), self.info["threshold_hu"])

    def without(self, index: np.ndarray, grid: Volume) -> BoneSegmentation:
        """The segmentation without some voxels, index (N, 3): pieces that they connected are loose."""
        inside = self.inside.copy()
        inside[tuple(index.T)] = False
        return BoneSegmentation.of(self.everything, inside, grid, self.info["kind"], self.info["threshold_hu"])


def segment_bone(volume: Volume, threshold_hu: float | None = None, roi: ROI | None = None) -> BoneSegmentation:
    """As `bone_mask`, with the loose pieces of bone.

    Parameters
    ----------
    volume, threshold_hu, roi
        See `bone_mask`.

    Returns
    -------
    BoneSegmentation

    Raises
    ------
    SkullVAEError
        See `bone_mask`.
    """
    kind = "ct" if threshold_hu is not None else _kind(volume.array)
    threshold = None
    if kind == "labelmap":
        everything = _as_mask(volume.array)
    else:
        threshold = BONE_HU if threshold_hu is None else float(threshold_hu)
        everything = _over(volume.array, threshold)
    inside = everything if roi is None else _in_roi(everything, volume, roi)
    return BoneSegmentation.of(everything, inside, volume, kind, threshold)


def loose_pieces(components: Components, main: int, grid: Volume) -> tuple[LoosePiece, ...]:
    """The components of at least 0.05 ml other than the main one, largest first.

    Parameters
    ----------
    components : Components
        Components of a mask on `grid`.
    main : int
        Number of the main component.
    grid : Volume
        The volume whose grid the mask has.

    Returns
    -------
    tuple of LoosePiece
    """
    volumes = components.voxels * grid.voxel_ml
    found = [int(c) for c in np.argsort(-volumes, kind="stable") if volumes[c] >= _PIECE_ML and c != main]
    if not found:
        return ()
    # Distances are measured between the cells of a coarse grid that contain bone; a cell contains several voxels.
    cell = np.maximum(1, np.round(_DISTANCE_GRID_MM / grid.spacing)).astype(int)
    whole = components.cells(main, cell)
    low = whole.min(0)
    occupied = np.zeros(whole.max(0) - low + 1, bool)
    occupied[tuple((whole - low).T)] = True
    tree = cKDTree((np.argwhere(occupied) + low) * cell * grid.spacing)
    pieces = []
    for c in found:
        at = np.unique(components.cells(c, cell), axis=0) * cell * grid.spacing
        distance = float(tree.query(at[:: max(1, len(at) // _MOST_CELLS)])[0].min())
        sizeable = volumes[c] >= _KEPT_SHARE * volumes[main] and distance <= _KEPT_DISTANCE_MM
        centre = apply_affine(grid.affine, components.centre(c))
        pieces.append(LoosePiece(c, float(volumes[c]), centre, distance, bool(sizeable)))
    return tuple(pieces)


def _over(array: np.ndarray, threshold: float) -> np.ndarray:
    """The voxels of a CT that reach the threshold; raises SkullVAEError if there are none or all."""
    if not np.isfinite(threshold):
        raise SkullVAEError(
            f"The threshold {threshold} is not a finite number", "Give a value in Hounsfield units, such as 300"
        )
    low, high = _range(array)
    over = array >= threshold
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
    return over


def _in_roi(mask: np.ndarray, grid: Volume, roi: ROI) -> np.ndarray:
    """The voxels of a mask inside an ROI; raises SkullVAEError when there are none."""
    kept = roi.keep(mask, grid)
    if not kept.any():
        raise SkullVAEError(
            "There is no bone in the ROI", "Move --roi over the skull; it is given in RAS mm of the input file"
        )
    return kept


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


def _range(array: np.ndarray) -> tuple[float, float]:
    """The smallest and largest value; raises SkullVAEError when a voxel is not a finite number."""
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise SkullVAEError(
            "The volume has voxels that are NaN or infinite", "Replace them with a number, in a CT with -1000 (air)"
        )
    return low, high


def _as_mask(array: np.ndarray) -> np.ndarray:
    """The voxels that are not 0 in a segmentation with one label; where this is 1 in single bytes, the array itself."""
    if array.dtype.itemsize == 1 and array.max() == 1:
        return array.view(bool)
    return array != 0


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
            "Choose one with --segment, or export the skull alone, as one label",
        )
    if low >= 0 and high <= 255:
        raise SkullVAEError(
            f"The values {low:g} to {high:g} are not Hounsfield units, as in a CT that was saved with 8 bits or an MRI",
            "Use the original CT, segment the bone first, or give the lowest value of bone with --threshold",
        )
    raise SkullVAEError(
        f"The values {low:g} to {high:g} are neither a segmentation nor a CT in Hounsfield units",
        "Segment the bone first, or give the lowest value of bone with --threshold",
    )
