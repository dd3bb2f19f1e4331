"""The implant's voxels: where bone is missing, and which voxels of the complete shape fill it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from SkullVAELib.completion.candidates import BEVEL, missing_fraction
from SkullVAELib.completion.defects import Defects
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.shape.warped import PatientShape


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
    fraction: Volume, defects: Defects, field: np.ndarray | None = None, full: float = 0.62
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

    Returns
    -------
    AllowedRegion
    """
    box = defects.box
    region, bone_here = np.logical_or.reduce(defects.masks)[box], fraction.array[box]
    field = defects.field[box] if field is None else field
    missing = missing_fraction(field, bone_here, fraction.spacing)
    near = ndimage.distance_transform_edt(~region, sampling=fraction.spacing)
    close = missing_fraction(field, bone_here, fraction.spacing, 1.5)
    allowed = np.minimum(np.maximum(missing - (1 - full), close - BEVEL), (4.0 - near) / 4.0).astype(np.float32)
    allowed[defects.cavity[box]] = -1.0
    return AllowedRegion(crop(fraction, box).with_array(allowed), box)


def fill_defects(
    shape: PatientShape,
    alignment: np.ndarray,
    bone: Volume,
    defects: Defects,
    where: AllowedRegion,
    smallest_ml: float = 0.5,
) -> np.ndarray:
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
        The score of missing bone.
    smallest_ml : float
        Smaller components are removed, ml.

    Returns
    -------
    numpy.ndarray
        Bool, of the shape of `bone.array`: voxels inside the shape and in the allowed region that are not bone.
    """
    here, box, allowed = where.score, where.box, where.score.array
    to_here = np.linalg.inv(here.affine) @ bone.affine
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * np.array(here.array.shape)
    native = apply_affine(np.linalg.inv(to_here), corners)
    low = np.clip(np.floor(native.min(0)).astype(int), 0, bone.array.shape)
    high = np.clip(np.ceil(native.max(0)).astype(int) + 1, 0, bone.array.shape)
    native_box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    local = crop(bone, native_box)
    to_here = np.linalg.inv(here.affine) @ local.affine
    score = ndimage.affine_transform(
        allowed, to_here[:3, :3], to_here[:3, 3], output_shape=local.array.shape, order=1, cval=-1.0, prefilter=False
    )
    index = np.argwhere((score > 0) & ~local.array)
    implant = np.zeros_like(bone.array)  # in the same memory order: mixed orders cost seconds at 512^3
    if len(index):
        values = shape.at_voxels(alignment @ local.affine, index)
        filled = np.zeros(local.array.shape, bool)
        filled[tuple(index[values < 0].T)] = True
        # Pinholes, where the shape is thinner than its resolution, are closed; bone and the excluded region are not.
        filled |= ndimage.binary_closing(filled, iterations=2) & (score > 0) & ~local.array
        implant[native_box] = _clean(filled, local, here, defects, box, smallest_ml)
    return implant


def _clean(
    filled: np.ndarray, local: Volume, here: Volume, defects: Defects, box: tuple, smallest_ml: float
) -> np.ndarray:
    """One connected component for each defect: thin features are removed by an opening, then the component is regrown.

    A component clearly smaller than smallest_ml is not a defect.
    """
    opened = ndimage.binary_opening(filled) if min(filled.shape) > 2 else filled
    labels, count = ndimage.label(opened)
    keep = np.zeros_like(filled)
    if not count:
        return keep
    to_local = np.linalg.inv(local.affine) @ here.affine
    for mask in defects.masks:
        index = np.argwhere(mask[box])
        at = np.round(apply_affine(to_local, index)).astype(int)
        at = at[((at >= 0) & (at < filled.shape)).all(1)]
        overlap = np.bincount(labels[tuple(at.T)], minlength=count + 1)
        overlap[0] = 0
        chosen = labels == overlap.argmax() if overlap.max() else keep
        if chosen.sum() * local.voxel_ml >= 0.8 * smallest_ml:
            keep |= chosen
    grown = ndimage.binary_dilation(keep, ndimage.generate_binary_structure(3, 1)) & filled
    # Regrowing may touch a removed small component: only what is connected by faces to the opened component is kept.
    labels, count = ndimage.label(grown)
    kept = np.unique(labels[keep])
    return np.isin(labels, kept[kept > 0])
