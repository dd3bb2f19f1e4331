"""Rigid registration of surfaces: robust, from any number of starts.

Iterated closest points with point-to-plane residuals (Chen and Medioni 1992, doi:10.1016/0262-8856(92)90066-C), which
are weighted by Tukey's function of a width that is annealed, so that what only one surface has is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from SkullVAELib.geometry.affines import apply_affine

_FACING = 0.5
"""Cosine of the angle between the normals of two points below which they do not correspond."""


@dataclass(frozen=True)
class PointSurface:
    """Points of a surface.

    Attributes
    ----------
    points, normals : numpy.ndarray, shape (N, 3)
        RAS mm, and unit normals that face away from the solid.
    """

    points: np.ndarray
    normals: np.ndarray

    @cached_property
    def tree(self) -> cKDTree:
        """The points, to be searched."""
        return cKDTree(self.points)

    def some(self, count: int) -> PointSurface:
        """At most `count` of the points, the same in every run."""
        if len(self.points) <= count:
            return self
        chosen = np.random.default_rng(0).permutation(len(self.points))[:count]
        return PointSurface(self.points[chosen], self.normals[chosen])

    def where(self, keep: np.ndarray) -> PointSurface:
        """The points of a bool array (N,)."""
        return PointSurface(self.points[keep], self.normals[keep])

    def moved(self, matrix: np.ndarray) -> PointSurface:
        """The surface after a rigid motion or a reflection (4, 4)."""
        return PointSurface(apply_affine(matrix, self.points), self.normals @ matrix[:3, :3].T)


def register_rigid(
    moving: PointSurface,
    fixed: PointSurface,
    start: np.ndarray,
    widths_mm: Sequence[float],
    steps: int = 12,
    back: int = 0,
) -> np.ndarray:
    """Register a surface to another one from one start.

    Parameters
    ----------
    moving, fixed : PointSurface
        The surfaces; normals of corresponding points face the same way.
    start : numpy.ndarray, shape (4, 4)
        Moving mm -> fixed mm.
    widths_mm : sequence of float
        Widths of Tukey's function, largest first: points farther apart have no weight.
    steps : int
        Steps for each width.
    back : int
        Number of fixed points that are also compared with the nearest moving one.

    Returns
    -------
    numpy.ndarray, shape (4, 4)
        Rigid motion, moving mm -> fixed mm.
    """
    matrix = start.copy()
    others = fixed.some(back) if back else None
    for width in widths_mm:
        for _ in range(steps):
            here = moving.moved(matrix)
            distance, at = fixed.tree.query(here.points, distance_upper_bound=2 * width)
            near = np.isfinite(distance)
            at = at[near]
            points, targets, towards = here.points[near], fixed.points[at], fixed.normals[at]
            facing = (here.normals[near] * towards).sum(1)
            if others is not None:
                there = apply_affine(np.linalg.inv(matrix), others.points)
                distance, at = moving.tree.query(there, distance_upper_bound=2 * width)
                near = np.isfinite(distance)
                at = at[near]
                points = np.concatenate([points, here.points[at]])
                targets = np.concatenate([targets, others.points[near]])
                facing = np.concatenate([facing, (here.normals[at] * others.normals[near]).sum(1)])
                towards = np.concatenate([towards, here.normals[at]])
            residual = ((points - targets) * towards).sum(1)
            # The distance itself limits what corresponds, the residual what is fitted.
            weight = np.clip(1 - (residual / width) ** 2, 0, None) ** 2 * (facing > _FACING)
            if (weight > 0).sum() < 12:
                break
            centre = points.mean(0)
            jacobian = np.hstack([np.cross(points - centre, towards), towards])
            normal = jacobian.T @ (jacobian * weight[:, None])
            # What the surfaces do not determine, such as the rotation of a sphere, stays as it is.
            normal += np.eye(6) * np.repeat([1e-3, 1e-5], 3) * weight.sum()
            step = np.linalg.solve(normal, -jacobian.T @ (weight * residual))
            motion = np.eye(4)
            motion[:3, :3] = Rotation.from_rotvec(step[:3]).as_matrix()
            motion[:3, 3] = centre + step[3:] - motion[:3, :3] @ centre
            matrix = motion @ matrix
            if np.abs(step[3:]).max() < 1e-3 and np.abs(step[:3]).max() < 1e-5:
                break
    return matrix


def mismatch_mm(
    moving: PointSurface, fixed: PointSurface, matrix: np.ndarray, limit_mm: float = 5.0, count: int = 2000
) -> float:
    """Mean distance of two surfaces in both directions, each limited, mm; of points, so that it is never 0.

    Parameters
    ----------
    moving, fixed : PointSurface
        The surfaces.
    matrix : numpy.ndarray, shape (4, 4)
        Moving mm -> fixed mm.
    limit_mm : float
        Larger distances count as this.
    count : int
        Number of points of each surface whose distance to the other one is measured.

    Returns
    -------
    float
    """
    own, other = apply_affine(matrix, moving.some(count).points), fixed.some(count).points
    there = fixed.tree.query(own, distance_upper_bound=limit_mm)[0]
    back = moving.tree.query(apply_affine(np.linalg.inv(matrix), other), distance_upper_bound=limit_mm)[0]
    return float(np.minimum(there, limit_mm).mean() + np.minimum(back, limit_mm).mean()) / 2


def principal_frame(points: np.ndarray) -> np.ndarray:
    """Frame of the principal axes of points, longest first, right-handed: (4, 4) frame mm -> mm."""
    centre = points.mean(0)
    _, axes = np.linalg.eigh(np.cov((points - centre).T))
    axes = axes[:, ::-1]
    frame = np.eye(4)
    frame[:3, :3] = axes * [1, 1, np.sign(np.linalg.det(axes))]
    frame[:3, 3] = centre
    return frame


def register_part(
    moving: PointSurface, fixed: PointSurface, starts: Sequence[np.ndarray] = (), turns: int = 16, best: int = 3
) -> np.ndarray:
    """Register a part of the skull, such as a bone flap, to another one in any pose.

    The plates are laid on each other by their principal axes, with either side up and turned in steps about the
    thinnest axis; short runs choose the best of these starts.

    Parameters
    ----------
    moving, fixed : PointSurface
        The parts.
    starts : sequence of numpy.ndarray, shape (4, 4)
        Further starts, moving mm -> fixed mm.
    turns : int
        Number of steps of a full turn.
    best : int
        Number of starts that are followed to the end.

    Returns
    -------
    numpy.ndarray, shape (4, 4)
        Rigid motion, moving mm -> fixed mm.
    """
    own, other = principal_frame(moving.points), principal_frame(fixed.points)
    tried = list(starts)
    for flip in (0.0, np.pi):
        for angle in np.arange(turns) * 2 * np.pi / turns:
            turn = np.eye(4)
            turn[:3, :3] = (Rotation.from_euler("x", flip) * Rotation.from_euler("z", angle)).as_matrix()
            tried.append(other @ turn @ np.linalg.inv(own))
    few, coarse = moving.some(4000), fixed.some(4000)
    tried = [register_rigid(few.some(400), coarse, start, (12.0, 6.0), 6) for start in tried]
    order = np.argsort([mismatch_mm(few, coarse, matrix, 8.0, 400) for matrix in tried], kind="stable")
    some, dense = moving.some(30000), fixed.some(30000)
    finals = [register_rigid(some.some(2000), dense, tried[n], (6.0, 3.0), 10) for n in order[:best]]
    chosen = min(finals, key=lambda matrix: mismatch_mm(some, dense, matrix))
    return register_rigid(moving.some(6000), fixed.some(80000), chosen, (3.0, 1.5), 15)


def rotation_of(matrix: np.ndarray) -> tuple[float, np.ndarray]:
    """Angle in degrees and axis (3,) of the rotation of a rigid motion (4, 4)."""
    vector = Rotation.from_matrix(matrix[:3, :3]).as_rotvec()
    angle = float(np.linalg.norm(vector))
    return float(np.degrees(angle)), vector / angle if angle > 1e-9 else np.array([0.0, 0.0, 1.0])


def nearest_rigid(matrix: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The rigid motion (4, 4) nearest to an affine (4, 4), which maps `centre` (3,) to the same point."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    rotation = left @ np.diag([1, 1, np.sign(np.linalg.det(left @ right))]) @ right
    rigid = np.eye(4)
    rigid[:3, :3] = rotation
    rigid[:3, 3] = apply_affine(matrix, centre) - rotation @ centre
    return rigid


FAR_MM = 10.0
"""Distances between surfaces are limited to this, mm."""


def surface_distances(moving: PointSurface, fixed: PointSurface, matrix: np.ndarray) -> np.ndarray:
    """Distance of each moving point to the plane through the nearest fixed point.

    Parameters
    ----------
    moving, fixed : PointSurface
        The surfaces.
    matrix : numpy.ndarray, shape (4, 4)
        Moving mm -> fixed mm.

    Returns
    -------
    numpy.ndarray, shape (N,)
        mm, at most FAR_MM.
    """
    here = moving.moved(matrix)
    distance, at = fixed.tree.query(here.points, distance_upper_bound=FAR_MM)
    near = np.isfinite(distance)
    residual = np.full(len(distance), FAR_MM)
    plane = np.abs(((here.points[near] - fixed.points[at[near]]) * fixed.normals[at[near]]).sum(1))
    # Farther away than the points are apart, the nearest one is beside the surface's edge: the distance itself counts.
    residual[near] = np.where(distance[near] < 2.0, plane, distance[near])
    return residual
