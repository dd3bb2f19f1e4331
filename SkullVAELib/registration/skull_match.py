"""Registration of two skulls of one head, rigid, on bone that both have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SkullVAELib.geometry.affines import apply_affine, scale_of
from SkullVAELib.registration.affine import AffineTarget, register_affine
from SkullVAELib.registration.known_bone import KnownBone
from SkullVAELib.registration.rigid import FAR_MM, PointSurface, nearest_rigid, register_rigid, surface_distances

# Bone below this moves (jaw, neck), canonical mm.
_LOWEST_MM = -35.0

# Where at least this share of the bone is near, the rest is not in the other image.
_LEAST_COMPARED = 0.3

# A mirror image that fits this much better than a match with the second median in mm is the right one.
_MIRRORED, _DOUBTFUL_MM = 0.6, 0.5

_WIDTHS_MM = (10.0, 5.0, 2.5, 1.2)


@dataclass(frozen=True)
class SkullMatch:
    """A skull registered to another one.

    Attributes
    ----------
    matrix : numpy.ndarray, shape (4, 4)
        Rigid motion, mm of the first skull -> mm of the second.
    median_mm, p95_mm : float
        Median and 95th percentile of the distance between their surfaces, mm.
    mirrored : bool
        Whether the mirror image matches clearly better.
    scale : float
        Size of the second skull relative to the first, by their affine registrations.
    """

    matrix: np.ndarray
    median_mm: float
    p95_mm: float
    mirrored: bool
    scale: float


def match_skulls(bone: PointSurface, alignment: np.ndarray, other: KnownBone, target: AffineTarget) -> SkullMatch:
    """Register a skull to another one, in any pose.

    Parameters
    ----------
    bone : PointSurface
        Surface of the first skull, without what the other one does not have.
    alignment : numpy.ndarray, shape (4, 4)
        mm of the first skull -> canonical mm.
    other : KnownBone
        The second skull.
    target : AffineTarget
        The mean skull: the affine registrations of both to it are the start.

    Returns
    -------
    SkullMatch

    Raises
    ------
    SkullVAEError
        The second skull has too little bone.
    """
    bone = bone.where(apply_affine(alignment, bone.points)[:, 2] > _LOWEST_MM)
    own = register_affine(other.surface.points, target)
    centre = np.linalg.inv(alignment)[:3, 3]
    start = nearest_rigid(np.linalg.inv(own) @ alignment, centre)
    moving, fixed = bone.some(6000), other.surface
    matrix, mismatch = _best(moving, fixed, [start, np.eye(4)])
    flip = np.linalg.inv(alignment) @ np.diag([-1.0, 1, 1, 1]) @ alignment
    left, _, right = np.linalg.svd(flip[:3, :3])
    flip[:3, :3] = left @ right
    flip[:3, 3] = centre - flip[:3, :3] @ centre
    mirrored = mismatch > _DOUBTFUL_MM and _best(moving.moved(flip), fixed, [matrix])[1] < _MIRRORED * mismatch
    distance = surface_distances(bone.some(20000), fixed, matrix)
    # Where the other has no bone at all, as beyond the end of its image, there is nothing to compare.
    compared = distance < FAR_MM
    distance = distance[compared] if compared.mean() > _LEAST_COMPARED else distance
    median, p95 = float(np.median(distance)), float(np.quantile(distance, 0.95))
    return SkullMatch(matrix, median, p95, bool(mirrored), scale_of(alignment) / scale_of(own))


def _best(moving: PointSurface, fixed: PointSurface, starts: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """The best registration from some starts, and the median distance, mm."""
    found = []
    for start in starts:
        matrix = register_rigid(moving, fixed, start, _WIDTHS_MM, 15)
        found.append((float(np.median(surface_distances(moving, fixed, matrix))), matrix))
    mismatch, matrix = min(found, key=lambda each: each[0])
    return matrix, mismatch
