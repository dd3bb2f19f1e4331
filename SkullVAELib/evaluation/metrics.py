"""The AutoImplant challenge's measures of an implant: DSC, bDSC and HD95, all in the input's own voxels and mm.

References: J. Li et al., AutoImplant 2020, IEEE TMI 40 (2021); the challenge's published evaluation.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.geometry.masks import bounding_box

BOUNDARY_MM = 10.0


def dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Dice similarity of two bool arrays of one shape, 0 to 1; two empty ones agree (1).

    >>> dice(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    _check(truth, prediction)
    total = int(np.count_nonzero(truth)) + int(np.count_nonzero(prediction))
    return 2 * int(np.count_nonzero(truth & prediction)) / total if total else 1.0


def boundary_dice(
    truth: np.ndarray,
    prediction: np.ndarray,
    defective_skull: np.ndarray,
    spacing: np.ndarray,
    distance_mm: float = BOUNDARY_MM,
) -> float:
    """bDSC: Dice over the voxels at most `distance_mm` (between voxel centres) from the defective skull.

    truth, prediction, defective_skull: bool arrays of one shape; spacing: (3,) mm along their axes.
    An empty prediction of an implant that exists scores 0.
    """
    _check(truth, prediction, defective_skull)
    if prediction.any() != truth.any():
        return 0.0
    spacing = np.asarray(spacing, float)
    reach = np.ceil(distance_mm / spacing).astype(int) + 2
    box = bounding_box(truth | prediction, margin=reach)
    truth, prediction, skull = truth[box], prediction[box], defective_skull[box]
    # Only the voxels of either implant matter, and of the skull only its surface: far fewer than a distance
    # transform would visit.
    implant = np.argwhere((truth | prediction) & ~skull)
    near = (truth | prediction) & skull
    surface = np.argwhere(_surface(skull))
    if len(implant) and len(surface):
        # The bound is exclusive, "within 10 mm" is not.
        bound = np.nextafter(distance_mm * (1 + 1e-9), np.inf)
        distance, _ = cKDTree(surface * spacing).query(implant * spacing, distance_upper_bound=bound, workers=-1)
        near[tuple(implant[np.isfinite(distance)].T)] = True
    return dice(truth & near, prediction & near)


def hd95(truth: np.ndarray, prediction: np.ndarray, spacing: np.ndarray) -> float:
    """The 95th percentile in mm of both directed surface-distance sets stacked together.

    The surface of an object is the voxels that a 6-connected erosion takes from it, which includes those at the
    edge of the array. truth, prediction: bool arrays of one shape; spacing: (3,) mm along their axes.
    Infinite when exactly one is empty, 0 when both are.
    """
    _check(truth, prediction)
    if not truth.any() or not prediction.any():
        return 0.0 if truth.any() == prediction.any() else float("inf")
    points = []
    for mask in (truth, prediction):
        # With a margin of one voxel, or the array's own edge, the erosion in the box is that in the whole.
        box = bounding_box(mask, margin=1)
        corner = np.array([side.start for side in box])
        points.append((np.argwhere(_surface(mask[box])) + corner) * np.asarray(spacing, float))
    there, _ = cKDTree(points[0]).query(points[1], workers=-1)
    back, _ = cKDTree(points[1]).query(points[0], workers=-1)
    return float(np.percentile(np.hstack((there, back)), 95))


def _surface(mask: np.ndarray) -> np.ndarray:
    """The voxels that a 6-connected erosion takes away; beyond the array everything is outside."""
    return mask & ~ndimage.binary_erosion(mask)


def _check(*masks: np.ndarray) -> None:
    for mask in masks:
        if mask.dtype != bool or mask.shape != masks[0].shape:
            shapes = ", ".join(f"{m.dtype}{m.shape}" for m in masks)
            raise ValueError(f"bool arrays of one shape are needed, not {shapes}")
