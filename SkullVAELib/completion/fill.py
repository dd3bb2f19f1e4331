"""The implant: which voxels fill a gap, and what the result measures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from SkullVAELib.completion.defects import BEVEL, Defects, missing_fraction
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.shape.warped import PatientShape


@dataclass(frozen=True)
class AllowedRegion:
    """Where the implant may be: a smooth score, positive where a voxel may be implant: bone is lacking here, and a
    found gap is near.

    score: float32, the score on a piece of the reduced grid; box: that piece.
    """

    score: Volume
    box: tuple[slice, ...]


def allowed_region(
    fraction: Volume, gap: Defects, field: np.ndarray | None = None, full: float = 0.62
) -> AllowedRegion:
    """The score of where bone really is missing: bone fills less than `full` of the prior's shell nearby.

    field: of another shape than the one whose gaps were found, canonical mm, on the gap's box.
    """
    box = gap.box
    region, bone_here = np.logical_or.reduce(gap.pieces)[box], fraction.array[box]
    field = gap.field[box] if field is None else field
    lack = missing_fraction(field, bone_here, fraction.spacing)
    near = ndimage.distance_transform_edt(~region, sampling=fraction.spacing)
    close = missing_fraction(field, bone_here, fraction.spacing, 1.5)
    allowed = np.minimum(np.maximum(lack - (1 - full), close - BEVEL), (4.0 - near) / 4.0).astype(np.float32)
    allowed[gap.cavity[box]] = -1.0
    return AllowedRegion(crop(fraction, box).with_array(allowed), box)


def fill_defects(
    shape: PatientShape,
    alignment: np.ndarray,
    bone: Volume,
    gap: Defects,
    where: AllowedRegion,
    smallest_ml: float = 0.5,
) -> np.ndarray:
    """Implant voxels on the patient's own grid: inside the shape, not bone, and where bone really is missing.

    where: the score of missing bone. Pieces smaller than smallest_ml are no defects.
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
        part = np.zeros(local.array.shape, bool)
        part[tuple(index[values < 0].T)] = True
        # Pinholes, where the shape is thinner than it can be told, are closed; bone and what must stay open are not.
        part |= ndimage.binary_closing(part, iterations=2) & (score > 0) & ~local.array
        implant[native_box] = _tidy(part, local, here, gap, box, smallest_ml)
    return implant


def _tidy(part: np.ndarray, local: Volume, here: Volume, gap: Defects, box: tuple, smallest_ml: float) -> np.ndarray:
    """One connected piece per gap, without crumbs: threads thinner than a voxel's opening are cut, then regrown.

    A piece that ends up smaller than smallest_ml was no defect.
    """
    opened = ndimage.binary_opening(part) if min(part.shape) > 2 else part
    labels, count = ndimage.label(opened)
    keep = np.zeros_like(part)
    if not count:
        return keep
    to_local = np.linalg.inv(local.affine) @ here.affine
    for piece in gap.pieces:
        index = np.argwhere(piece[box])
        at = np.round(apply_affine(to_local, index)).astype(int)
        at = at[((at >= 0) & (at < part.shape)).all(1)]
        votes = np.bincount(labels[tuple(at.T)], minlength=count + 1)
        votes[0] = 0
        chosen = labels == votes.argmax() if votes.max() else keep
        if chosen.sum() * local.voxel_ml >= 0.8 * smallest_ml:
            keep |= chosen
    grown = ndimage.binary_dilation(keep, ndimage.generate_binary_structure(3, 1)) & part
    # Regrowing may touch a crumb's neighbour: only what hangs together with the opened piece by faces stays.
    labels, count = ndimage.label(grown)
    held = np.unique(labels[keep])
    return np.isin(labels, held[held > 0])
