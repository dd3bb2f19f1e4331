"""The implant measures of the AutoImplant challenge: DSC, bDSC and HD95, on the grid of the input.

References: J. Li et al., AutoImplant 2020, IEEE TMI 40 (2021); the published evaluation code of the challenge.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.geometry.masks import bounding_box

BOUNDARY_MM = 10.0
"""Distance in mm from the defective skull within which bDSC counts voxels."""


def dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Return the Dice similarity coefficient (DSC).

    Parameters
    ----------
    truth, prediction : numpy.ndarray
        Bool arrays of one shape.

    Returns
    -------
    float
        0 to 1; 1 where both are empty.

    Raises
    ------
    ValueError
        The arrays are not bool or differ in shape.

    Examples
    --------
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
    """Return the boundary Dice (bDSC): Dice over the voxels near the defective skull.

    Parameters
    ----------
    truth, prediction, defective_skull : numpy.ndarray
        Bool arrays of one shape.
    spacing : numpy.ndarray
        (3,) voxel size in mm along the array's axes.
    distance_mm : float
        Voxels count whose centre is at most this far from that of a voxel of the defective skull.

    Returns
    -------
    float
        0 to 1; 0 where exactly one of truth and prediction is empty.

    Raises
    ------
    ValueError
        The arrays are not bool or differ in shape.
    """
    _check(truth, prediction, defective_skull)
    if prediction.any() != truth.any():
        return 0.0
    spacing = np.asarray(spacing, float)
    reach = np.ceil(distance_mm / spacing).astype(int) + 2
    box = bounding_box(truth | prediction, margin=reach)
    truth, prediction, skull = truth[box], prediction[box], defective_skull[box]
    # Only distances from voxels of the implants to the surface of the skull are needed: far fewer than a distance
    # transform computes.
    implant = np.argwhere((truth | prediction) & ~skull)
    near = (truth | prediction) & skull
    surface = np.argwhere(_surface(skull))
    if len(implant) and len(surface):
        # The bound of the query is exclusive, distance_mm is inclusive.
        bound = np.nextafter(distance_mm * (1 + 1e-9), np.inf)
        distance, _ = cKDTree(surface * spacing).query(implant * spacing, distance_upper_bound=bound, workers=-1)
        near[tuple(implant[np.isfinite(distance)].T)] = True
    return dice(truth & near, prediction & near)


def hd95(truth: np.ndarray, prediction: np.ndarray, spacing: np.ndarray) -> float:
    """Return the 95th percentile Hausdorff distance (HD95): that of both sets of directed surface distances together.

    The surface of an object is the voxels that a 6-connected erosion removes, including those at the edge of the array.

    Parameters
    ----------
    truth, prediction : numpy.ndarray
        Bool arrays of one shape.
    spacing : numpy.ndarray
        (3,) voxel size in mm along the array's axes.

    Returns
    -------
    float
        Distance in mm; infinite where exactly one is empty, 0 where both are.

    Raises
    ------
    ValueError
        The arrays are not bool or differ in shape.
    """
    _check(truth, prediction)
    if not truth.any() or not prediction.any():
        return 0.0 if truth.any() == prediction.any() else float("inf")
    points = []
    for mask in (truth, prediction):
        # With a margin of one voxel, or at the array's edge, the erosion in the bounding box equals that of the array.
        box = bounding_box(mask, margin=1)
        corner = np.array([side.start for side in box])
        points.append((np.argwhere(_surface(mask[box])) + corner) * np.asarray(spacing, float))
    there, _ = cKDTree(points[0]).query(points[1], workers=-1)
    back, _ = cKDTree(points[1]).query(points[0], workers=-1)
    return float(np.percentile(np.hstack((there, back)), 95))


def _surface(mask: np.ndarray) -> np.ndarray:
    """The voxels that a 6-connected erosion removes; everything beyond the array is outside."""
    return mask & ~ndimage.binary_erosion(mask)


def _check(*masks: np.ndarray) -> None:
    for mask in masks:
        if mask.dtype != bool or mask.shape != masks[0].shape:
            shapes = ", ".join(f"{m.dtype}{m.shape}" for m in masks)
            raise ValueError(f"bool arrays of one shape are needed, not {shapes}")
