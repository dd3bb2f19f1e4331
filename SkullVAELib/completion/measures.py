"""Volume and components of the implant's voxels; its thickness is measured on the printable implant."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from SkullVAELib.completion.fill import FilledDefects
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume


def measure_implant(bone: Volume, filled: FilledDefects, rim_gap_mm: float) -> dict:
    """Measure an implant's voxels.

    Parameters
    ----------
    bone : Volume
        The patient's bone, on the image's grid.
    filled : FilledDefects
        The implant.
    rim_gap_mm : float
        The rim gap, which is reported with the other figures.

    Returns
    -------
    dict
        "volume_ml" (inside the image), "pieces" (number of connected components), "rim_gap_mm", and, where the implant
        extends beyond the end of the image, "outside_image_ml".
    """
    whole = filled.whole.array
    pieces = ndimage.label(whole[bounding_box(whole)])[1]
    figures: dict = {
        "volume_ml": round(float(np.count_nonzero(filled.mask) * bone.voxel_ml), 3),
        "pieces": int(pieces),
        "rim_gap_mm": round(rim_gap_mm, 3),
    }
    if filled.outside_ml >= LEAST_OUTSIDE_ML:
        figures["outside_image_ml"] = round(filled.outside_ml, 3)
    return figures


LEAST_OUTSIDE_ML = 0.05
"""Volume of an implant beyond the end of the image, ml, from which on it is reported."""


def outside_warnings(bone: Volume, filled: FilledDefects) -> list[str]:
    """The warning that an implant extends beyond the end of the image; none where it does not.

    Parameters
    ----------
    bone : Volume
        The patient's bone, on the image's grid.
    filled : FilledDefects
        The implant.

    Returns
    -------
    list of str
    """
    if filled.outside_ml < LEAST_OUTSIDE_ML:
        return []
    return [
        f"{filled.outside_ml:.1f} ml of the implant lie beyond the end of the image ({_sides(bone, filled.whole)}):"
        " implant.nrrd ends there, the printable implant is complete. Choose an image that shows the whole vault, or"
        " check the implant there."
    ]


_NAMES = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))


def _sides(bone: Volume, whole: Volume) -> str:
    """The sides of the image beyond which an implant extends, by the nearest direction of the patient."""
    index = apply_affine(np.linalg.inv(bone.affine) @ whole.affine, np.argwhere(whole.array))
    names = []
    for axis, size in enumerate(bone.array.shape):
        direction = bone.affine[:3, axis]
        world = int(np.abs(direction).argmax())
        upwards = bool(direction[world] > 0)
        below, above = int((index[:, axis] < -0.5).sum()), int((index[:, axis] > size - 0.5).sum())
        for voxels, up in ((below, not upwards), (above, upwards)):
            if voxels * whole.voxel_ml >= LEAST_OUTSIDE_ML / 2:
                names.append((voxels, _NAMES[world][int(up)]))
    return ", ".join(name for _, name in sorted(names, reverse=True)) or "at its edge"
