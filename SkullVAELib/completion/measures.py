"""Volume, thickness and components of the implant's voxels."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.geometry.distance_field import surface_points
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop


def measure_implant(implant: Volume, rim_gap_mm: float) -> dict:
    """Measure an implant mask.

    The thickness is the distance from a point on the surface to the nearest point that faces the other way, away from
    the rim.

    Parameters
    ----------
    implant : Volume
        Bool.
    rim_gap_mm : float
        The rim gap, which is reported with the other figures.

    Returns
    -------
    dict
        "volume_ml", "pieces" (number of connected components), "rim_gap_mm", and, where it can be measured,
        "thickness_mm" with "mean", "min" (2nd percentile) and "max" (98th percentile).
    """
    box = bounding_box(implant.array, margin=3)
    local = crop(implant, box)
    pieces = ndimage.label(local.array)[1]
    soft = ndimage.gaussian_filter(local.array.astype(np.float32), np.minimum(0.6, 0.6 / local.spacing))
    points, normals = surface_points(Volume(soft, local.affine))
    result: dict = {
        "volume_ml": round(float(implant.array.sum() * implant.voxel_ml), 3),
        "pieces": int(pieces),
        "rim_gap_mm": round(rim_gap_mm, 3),
    }
    step = max(1, len(points) // 12000)
    points, normals = points[::step], normals[::step]
    tree = cKDTree(points)
    chosen = np.random.default_rng(0).permutation(len(points))[:4000]
    distances, neighbours = tree.query(points[chosen], k=min(256, len(points)), distance_upper_bound=25.0)
    # The far side: neighbours whose surface faces the other way.
    valid = np.isfinite(distances)
    towards = np.einsum("nx,nkx->nk", normals[chosen], normals[np.where(valid, neighbours, 0)])
    thickness = np.where(valid & (towards < -0.7), distances, np.inf).min(axis=1)
    thickness = thickness[np.isfinite(thickness)]
    if len(thickness):
        low, high = np.percentile(thickness, [2, 98])
        result["thickness_mm"] = {
            "mean": round(float(np.mean(thickness)), 2), "min": round(float(low), 2), "max": round(float(high), 2),
        }  # fmt: skip
    return result
