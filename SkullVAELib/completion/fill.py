"""The implant's voxels: where bone is missing, and which voxels of the complete shape fill it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import ndimage

from SkullVAELib.completion.candidates import BEVEL, missing_fraction
from SkullVAELib.completion.defects import Defects
from SkullVAELib.core.background import both
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import bounding_box, dilate, empty_mask, erode
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.shape.warped import PatientShape, WarpedShape


@dataclass(frozen=True)
class AllowedRegion:
    """Where the implant may be: bone is missing and a defect is near.

    Attributes
    ----------
    score : Volume
        float32 on a part of the reduced grid, smooth; positive where a voxel may belong to the implant.
    box : tuple of slice
        That part of the reduced grid.
    """

    score: Volume
    box: tuple[slice, ...]


def allowed_region(
    fraction: Volume,
    defects: Defects,
    field: np.ndarray | None = None,
    full: float = 0.62,
    more: np.ndarray | None = None,
) -> AllowedRegion:
    """The region in which bone is missing, so that implant may be placed there.

    Parameters
    ----------
    fraction : Volume
        The patient's bone at reduced resolution, 0..1.
    defects : Defects
        The defects.
    field : numpy.ndarray, optional
        Signed distance of another shape than the one that the defects were found with, canonical mm, in `defects.box`.
    full : float
        Bone counts as missing where it fills less than this fraction of the prior's bone nearby.
    more : numpy.ndarray, optional
        Bool, in `defects.box`: bone that belongs to the defects, too.

    Returns
    -------
    AllowedRegion
    """
    box = defects.box
    region, bone_here = np.logical_or.reduce(defects.masks)[box], fraction.array[box]
    field = defects.field[box] if field is None else field
    region = region if more is None else region | more
    missing = missing_fraction(field, bone_here, fraction.spacing)
    near = ndimage.distance_transform_edt(~region, sampling=fraction.spacing)
    close = missing_fraction(field, bone_here, fraction.spacing, 1.5)
    allowed = np.minimum(np.maximum(missing - (1 - full), close - BEVEL), (4.0 - near) / 4.0).astype(np.float32)
    allowed[defects.cavity[box]] = -1.0
    return AllowedRegion(crop(fraction, box).with_array(allowed), box)


@dataclass(frozen=True)
class FilledDefects:
    """The implant's voxels.

    Attributes
    ----------
    mask : numpy.ndarray
        Bool, on the image's grid: where the implant is inside the image.
    whole : Volume
        Bool, the whole implant, even beyond the end of the image, and a margin around it. Its voxels are those of the
        image's grid, divided along the axes where these are longer than `FINE_MM`.
    outside_ml : float
        Volume of the implant beyond the end of the image, ml.
    """

    mask: np.ndarray
    whole: Volume
    outside_ml: float

    @classmethod
    def nothing(cls, bone: Volume) -> FilledDefects:
        """No implant, on the grid of an image."""
        return cls(empty_mask(bone.array), Volume(np.zeros((0, 0, 0), bool), bone.affine), 0.0)

    def __or__(self, other: FilledDefects) -> FilledDefects:
        """The implants of two sets of defects of one image."""
        start = np.round(np.linalg.inv(self.whole.affine) @ other.whole.affine[:, 3])[:3].astype(int)
        low = np.minimum(start, 0)
        shape = np.maximum(self.whole.array.shape, start + other.whole.array.shape) - low
        whole = np.zeros(shape, bool)
        for first, array in ((-low, self.whole.array), (start - low, other.whole.array)):
            whole[tuple(slice(a, a + n) for a, n in zip(first, array.shape, strict=True))] |= array
        affine = self.whole.affine.copy()
        affine[:3, 3] = apply_affine(affine, low)
        return FilledDefects(self.mask | other.mask, Volume(whole, affine), self.outside_ml + other.outside_ml)


FINE_MM = 1.25
"""Longest edge of the voxels on which an implant is filled, mm; longer ones are divided."""

# Pinholes up to twice this, where the shape is thinner than its resolution, are closed, mm.
_CLOSE_MM = 2.0

# Bone is certainly missing where the score of the allowed region is above this: intact bone fills less than a third of
# the shape's there, as over a hole. In a thin layer on intact bone the score is near 0.
_CERTAIN = 0.3

# Features thinner than about twice this are removed, mm.
_OPEN_MM = 1.25


def fill_defects(
    shape: PatientShape,
    alignment: np.ndarray,
    bone: Volume,
    defects: Defects,
    where: AllowedRegion,
    smallest_ml: float = 0.5,
) -> FilledDefects:
    """Fill defects with the voxels of a complete shape.

    Parameters
    ----------
    shape : PatientShape
        The complete shape, warped to the patient.
    alignment : numpy.ndarray, shape (4, 4)
        Patient RAS mm -> canonical mm.
    bone : Volume
        The patient's bone, bool, at full resolution.
    defects : Defects
        The defects.
    where : AllowedRegion
        The score of missing bone; it may extend beyond the image, where there is no bone.
    smallest_ml : float
        Smaller components are removed, ml; 0 for defects that the user has chosen, which are filled however small.

    Returns
    -------
    FilledDefects
        The voxels inside the shape and in the allowed region that are not bone.
    """
    fine, start, times = _fine_grid(bone, where.score)
    filled = np.zeros_like(fine.array)
    index, score = positive_voxels(where.score, fine)
    if len(index):
        allowed, certain = np.zeros_like(filled), np.zeros_like(filled)
        allowed[tuple(index.T)] = True
        certain[tuple(index[score > _CERTAIN].T)] = True
        values = shape.at_voxels(alignment @ fine.affine, index)
        filled[tuple(index[values < 0].T)] = True
        box = bounding_box(filled, np.ceil(2 * _CLOSE_MM / fine.spacing).astype(int))
        if filled.any():
            local = crop(fine.with_array(filled), box)
            # Pinholes are closed; bone and the excluded region are not.
            closed = erode(dilate(local.array, local.spacing, _CLOSE_MM), local.spacing, _CLOSE_MM)
            local = local.with_array(local.array | closed & allowed[box])
            plate = partial(_plate, shape, alignment, local, certain[box])
            filled[box] = _clean(local, plate, where, defects, smallest_ml)
    return _on_image(fine.with_array(filled), start, times, bone)


def _fine_grid(bone: Volume, here: Volume) -> tuple[Volume, np.ndarray, np.ndarray]:
    """The bone around another volume, on voxels of at most FINE_MM, without bone where the image has ended.

    Returns the bone, the voxel (3,) of the image that its first voxels are in, and the number (3,) of voxels that each
    voxel of the image is divided into.
    """
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * np.array(here.array.shape) - 0.5
    native = apply_affine(np.linalg.inv(bone.affine) @ here.affine, corners)
    low, high = np.floor(native.min(0)).astype(int), np.ceil(native.max(0)).astype(int) + 1
    times = np.ceil(bone.spacing / FINE_MM - 1e-6).astype(int)
    array = np.zeros(high - low, bool)
    first, last = np.clip(low, 0, bone.array.shape), np.clip(high, 0, bone.array.shape)
    if (last > first).all():
        image = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        array[tuple(slice(a, b) for a, b in zip(first - low, last - low, strict=True))] = bone.array[image]
    for axis, parts in enumerate(times.tolist()):
        if parts > 1:
            array = array.repeat(parts, axis)
    affine = bone.affine @ np.diag([*(1 / times), 1.0])
    affine[:3, 3] = apply_affine(bone.affine, low + (1 / times - 1) / 2)
    return Volume(array, affine), low, times


def positive_voxels(score: Volume, bone: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Find the voxels without bone at which the score of missing bone is positive.

    It is interpolated only next to nodes at which it is positive: a tenth of the box of a defect.

    Parameters
    ----------
    score : Volume
        The score on a coarse grid.
    bone : Volume
        Bool, on a fine grid.

    Returns
    -------
    index : numpy.ndarray
        (N, 3) voxels of the fine grid.
    values : numpy.ndarray
        (N,) the score there.
    """
    to_score = np.linalg.inv(score.affine) @ bone.affine
    index = np.argwhere(_near_positive(score.array, to_score, bone.array.shape) & ~bone.array)
    i, j, k = index.T
    # Added in the order of `ndimage.affine_transform`, since at the border of the score the last bit decides.
    at = np.stack([((i * row[0] + j * row[1]) + k * row[2]) + row[3] for row in to_score[:3]])
    values = ndimage.map_coordinates(score.array, at, order=1, cval=-1.0, prefilter=False)
    positive = values > 0
    return index[positive], values[positive]


def _near_positive(score: np.ndarray, to_score: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bool (*shape), the voxels of a grid of which a node around, or one next to it, has a positive score.

    to_score: (4, 4) voxel index of that grid -> index of the score. All voxels where the axes of the two are not
    parallel.
    """
    own = np.abs(to_score[:3, :3]).argmax(0)
    across = to_score[:3, :3].copy()
    across[own, range(3)] = 0
    if len(set(own.tolist())) < 3 or (np.abs(across) @ shape).max() > 0.1:
        return np.ones(shape, bool)
    near = (ndimage.maximum_filter(score, 3) > 0).transpose(own)
    for axis, (row, size) in enumerate(zip(own, shape, strict=True)):
        nearest = np.round(to_score[row, axis] * np.arange(size) + to_score[row, 3]).astype(int)
        near = near.take(np.clip(nearest, 0, near.shape[axis] - 1), axis)
    return near


def _on_image(whole: Volume, start: np.ndarray, times: np.ndarray, bone: Volume) -> FilledDefects:
    """The implant on the image's grid: voxels of which at least half is filled, unless they are bone.

    whole, start, times: see `_fine_grid`.
    """
    shape = np.array(whole.array.shape) // times
    share = whole.array
    if times.max() > 1:
        share = share.reshape([n for pair in zip(shape, times, strict=True) for n in pair]).sum((1, 3, 5))
    mask = empty_mask(bone.array)
    box = bounding_box(share > 0)
    share, start, shape = share[box], start + [s.start for s in box], np.array([s.stop - s.start for s in box])
    low, high = np.clip(start, 0, bone.array.shape), np.clip(start + shape, 0, bone.array.shape)
    inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    here = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
    mask[inside] = (2 * share[here] >= times.prod()) & ~bone.array[inside]
    outside = int(share.sum()) - int(share[here].sum())
    return FilledDefects(mask, whole, outside * whole.voxel_ml)


def _plate(shape: PatientShape, alignment: np.ndarray, local: Volume, certain: np.ndarray) -> np.ndarray:
    """Bool, the filled voxels where bone is certainly missing and the shape is a plate between two tables.

    Other thin parts of a shape, such as the roof of the orbit, are less than it can represent.
    """
    found = np.zeros(local.array.shape, bool)
    index = np.argwhere(local.array & certain)
    if isinstance(shape, WarpedShape) and len(index):
        found[tuple(index.T)] = shape.is_plate(alignment @ local.affine, index)
    return found


def _clean(
    local: Volume, plate: Callable[[], np.ndarray], where: AllowedRegion, defects: Defects, smallest_ml: float
) -> np.ndarray:
    """One connected component for each defect: thin features are removed by an opening, then the component is regrown.

    Nothing is removed from a plate of the vault, which `plate` returns, see `_plate`: bone itself may be as thin as
    such a feature. A component clearly smaller than smallest_ml is not a defect.
    """
    filled, spacing = local.array, local.spacing
    in_plate, opened = both(plate, lambda: dilate(erode(filled, spacing, _OPEN_MM), spacing, _OPEN_MM))
    labels, count = ndimage.label(opened | (filled & in_plate))
    keep = np.zeros_like(filled)
    to_local = np.linalg.inv(local.affine) @ where.score.affine
    for mask in defects.masks:
        at = np.round(apply_affine(to_local, np.argwhere(mask[where.box]))).astype(int)
        at = at[((at >= 0) & (at < filled.shape)).all(1)]
        chosen = _most_in(labels, count, at)
        if chosen is None and smallest_ml == 0:
            # A hole in thin bone that the user wants to be filled has nothing thicker.
            everything, most = ndimage.label(filled)
            chosen = _most_in(everything, most, at)
        if chosen is not None and chosen.sum() * local.voxel_ml >= 0.8 * smallest_ml:
            keep |= chosen
    grown = dilate(keep, spacing, _OPEN_MM) & filled
    # Regrowing may touch a removed small component: only what is connected by faces to the opened component is kept.
    labels, count = ndimage.label(grown)
    kept = np.zeros(count + 1, bool)
    kept[labels[keep]] = True
    kept[0] = False
    return kept[labels]


def _most_in(labels: np.ndarray, count: int, at: np.ndarray) -> np.ndarray | None:
    """The component, bool, with the most of the voxels (N, 3) in it; None where there is none."""
    overlap = np.bincount(labels[tuple(at.T)], minlength=count + 1)
    overlap[0] = 0
    return labels == overlap.argmax() if overlap.max() else None
