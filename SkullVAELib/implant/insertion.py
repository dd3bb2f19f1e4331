"""Whether a rigid plate can be inserted along a straight line, and what has to be removed so that it can.

Moving a point p of the plate out along the direction d, it hits bone where the distance to bone, F(p), is negative:

    F(p) = minimum over t >= 0 of the distance to bone at p + t d

F is also the distance to the bone that is swept along -d, so that an implicit solid is cut back by its intersection
with F > margin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.core.background import cores, side_by_side
from SkullVAELib.geometry.affines import perpendicular_axes
from SkullVAELib.implant.directions import cone_directions
from SkullVAELib.implant.implicit_solid import FineGrid, contour, sampled_distance
from SkullVAELib.mesh.distance import BoneDistance, SurfaceDistance
from SkullVAELib.mesh.mesh import Mesh

STEP_MM = 0.7
"""Step of the grid of distances to bone."""

REACH_MM = 0.9
"""Distances to bone are known up to this."""

TOLERANCE_MM = 0.2
"""Overlaps with bone less deep than this are ignored: they are within the error of the grids."""

STEEPEST_DEGREES = 60.0
"""Largest angle between the direction and the outward normal of the plate."""

TRAVEL_MM = 20.0
"""Length of the path in the search; the figures are those of the whole path."""

NEAR_MM = 4.0
"""Points of the plate farther from bone than this are not used in the search."""

SAMPLE = 800
"""Number of points of the plate in the search."""

MEASURED = 6000
"""Number of points of the plate near bone that are measured, at most."""

_AT_ONCE = 10_000
"""Points that are sampled at a time: many small calls take longer, and larger arrays do not fit the cache."""

FREE_MM2 = 2.0
"""A plate is insertable if no larger area of its surface is blocked."""


@dataclass(frozen=True)
class Insertion:
    """Insertion of a plate along a direction.

    Attributes
    ----------
    direction : numpy.ndarray
        (3,) RAS unit vector along which the plate is removed; it is inserted against it.
    angle_degrees : float
        Angle between the direction and the outward normal.
    blocked : numpy.ndarray
        (N,) bool, points of the plate's mesh that bone blocks, among those that were measured, see `MEASURED`.
    depth_mm : numpy.ndarray
        (N,) lateral movement that would free each point, 0 where it is not blocked.
    area_mm2 : float
        Area of the blocked surface.
    """

    direction: np.ndarray
    angle_degrees: float
    blocked: np.ndarray
    depth_mm: np.ndarray
    area_mm2: float

    @property
    def free(self) -> bool:
        """Whether the plate can be inserted as it is."""
        return self.area_mm2 <= FREE_MM2

    def figures(self) -> dict:
        """Figures for the report; the direction is that of inserting."""
        return {
            "direction": [round(float(-x), 4) + 0.0 for x in self.direction],
            "angle_degrees": round(self.angle_degrees, 1),
            "insertable": self.free,
            "blocked_mm2": round(self.area_mm2, 1),
            "undercut_mm": round(float(self.depth_mm.max(initial=0.0)), 2),
        }


class InsertionPath:
    """Distances to the bone around a plate along straight paths.

    Parameters
    ----------
    bone : BoneDistance
        Distances to the bone around the plate.
    mesh : Mesh
        The plate, RAS mm.
    normal : numpy.ndarray
        (3,) outward unit normal of the plate.
    """

    def __init__(self, bone: BoneDistance, mesh: Mesh, normal: np.ndarray):
        self.normal = normal
        axes = np.stack([*perpendicular_axes(normal), normal], 1)
        local = mesh.points @ axes
        low, high = local.min(0) - 3.0, local.max(0) + np.array([3.0, 3.0, 6.0])
        shape = np.ceil((high - low) / STEP_MM).astype(int) + 1
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = axes * STEP_MM, axes @ low
        self._grid = FineGrid(affine, (int(shape[0]), int(shape[1]), int(shape[2])), np.zeros(0, np.int64))
        self._distance = sampled_distance(bone, self._grid, REACH_MM)
        # Deep in bone an approximate distance is enough: it only makes deep overlaps worse than shallow ones.
        deep = self._distance <= -REACH_MM
        self._distance[deep] -= ndimage.distance_transform_edt(deep, sampling=STEP_MM)[deep]
        self._tree = cKDTree(bone.mesh.points)
        self._bone = bone.mesh.points
        self._away: tuple[Mesh | None, np.ndarray] = None, np.zeros(0)

    def swept(self, points: np.ndarray, direction: np.ndarray, travel_mm: float | None = None) -> np.ndarray:
        """Return the least distance to bone on the way out.

        Parameters
        ----------
        points : numpy.ndarray
            (N, 3) RAS mm.
        direction : numpy.ndarray
            (3,) unit vector.
        travel_mm : float, optional
            Length of the path; by default until all points have left the bone.

        Returns
        -------
        numpy.ndarray
            (N,) mm, negative in bone, at most `REACH_MM`.
        """
        if travel_mm is None:
            travel_mm = max(0.0, float((self._bone @ direction).max() - (points @ direction).min(initial=np.inf)))
        least = np.full(len(points), REACH_MM, np.float32)
        steps = np.arange(0.0, travel_mm + STEP_MM, STEP_MM)
        at_once = max(1, _AT_ONCE // max(1, len(points)))
        for along in (steps[start : start + at_once] for start in range(0, len(steps), at_once)):
            way = points + along[:, None, None] * direction
            np.minimum(least, self._at(way.reshape(-1, 3)).reshape(len(along), -1).min(0), out=least)
        return least

    def _near(self, mesh: Mesh, limit_mm: float) -> np.ndarray:
        """Indices of the points of a mesh within a limit, at most 2 NEAR_MM, of bone; of one mesh searched once."""
        if self._away[0] is not mesh:
            self._away = mesh, self._tree.query(mesh.points, distance_upper_bound=2 * NEAR_MM, workers=cores())[0]
        return np.flatnonzero(self._away[1] <= limit_mm)

    def _at(self, points: np.ndarray) -> np.ndarray:
        value = self._grid.sample(self._distance, points)
        return np.minimum(value, REACH_MM)

    def search(self, mesh: Mesh) -> np.ndarray:
        """Return the direction along which the least of a plate is blocked.

        Parameters
        ----------
        mesh : Mesh
            The plate.

        Returns
        -------
        numpy.ndarray
            (3,) unit vector, at most `STEEPEST_DEGREES` from the normal.
        """
        near = self._near(mesh, NEAR_MM)
        if not len(near):
            return self.normal
        if len(near) > SAMPLE:
            near = np.random.default_rng(0).choice(near, SAMPLE, replace=False)
        points = mesh.points[near]
        tried: dict[tuple, float] = {}

        def cost(direction: np.ndarray) -> float:
            key = tuple(np.round(direction, 4))
            if key not in tried:
                overlap = np.maximum(0, -TOLERANCE_MM - self.swept(points, direction, TRAVEL_MM))
                # The square counts, too: a wedge all around is better than a deep one on one side.
                blocked = float((overlap + overlap**2).mean())
                # Among directions that are about equally free, the one nearest to the normal is taken.
                angle = float(np.arccos(np.clip(direction @ self.normal, -1, 1)))
                tried[key] = blocked * (1 + angle) + 1e-5 * angle
            return tried[key]

        best = self.normal
        for rings in ({12.0: 6, 25.0: 8, 40.0: 10, 57.0: 10}, {9.0: 6}, {4.5: 6}, {2.0: 6}):
            if not cost(best):
                break
            around = cone_directions(best, rings)
            around = around[around @ self.normal >= np.cos(np.radians(STEEPEST_DEGREES))]
            best = around[int(np.argmin(side_by_side(cost, around)))]
        return best

    def insertion(self, mesh: Mesh, direction: np.ndarray) -> Insertion:
        """Measure what blocks a plate along a direction.

        Parameters
        ----------
        mesh : Mesh
            The plate, N points.
        direction : numpy.ndarray
            (3,) unit vector.

        Returns
        -------
        Insertion
            The figures.
        """
        blocked = np.zeros(len(mesh.points), bool)
        near = self._near(mesh, 2 * NEAR_MM)
        share = max(1.0, len(near) / MEASURED)
        if share > 1:
            near = np.random.default_rng(0).choice(near, MEASURED, replace=False)
        blocked[near] = self.swept(mesh.points[near], direction) < -TOLERANCE_MM
        depth = np.zeros(len(mesh.points))
        depth[blocked] = self._lateral(mesh.points[blocked], direction)
        angle = float(np.degrees(np.arccos(np.clip(direction @ self.normal, -1, 1))))
        return Insertion(direction, angle, blocked, depth, share * float(mesh.point_areas()[blocked].sum()))

    def _lateral(self, points: np.ndarray, direction: np.ndarray, limit_mm: float = 15.0) -> np.ndarray:
        """Smallest movement (N,) in mm across the direction that frees each of some blocked points."""
        first, second = perpendicular_axes(direction)
        turns = np.arange(12) * np.pi / 6
        across = np.cos(turns)[:, None] * first + np.sin(turns)[:, None] * second
        depth = np.full(len(points), limit_mm)
        left = np.arange(len(points))
        for reach in np.arange(STEP_MM / 2, limit_mm, STEP_MM / 2):
            if not len(left):
                break
            moved = (points[left, None] + reach * across).reshape(-1, 3)
            clear = (self.swept(moved, direction, TRAVEL_MM) >= 0).reshape(len(left), -1).any(axis=1)
            depth[left[clear]] = reach
            left = left[~clear]
        return depth

    def cut_back(
        self, solid: np.ndarray, grid: FineGrid, direction: np.ndarray, margin_mm: float, limit_mm: float
    ) -> np.ndarray:
        """Remove from a solid what bone blocks.

        Parameters
        ----------
        solid : numpy.ndarray
            Function of the plate on its grid, negative inside.
        grid : FineGrid
            Its grid.
        direction : numpy.ndarray
            (3,) unit vector.
        margin_mm : float
            Distance to bone to keep on the way, at most `REACH_MM`.
        limit_mm : float
            Nothing deeper below the surface than this is removed.

        Returns
        -------
        numpy.ndarray
            Function of the remaining solid.
        """
        ask = np.flatnonzero((solid < grid.step_mm).ravel())
        points = grid.points(ask)
        near = self._tree.query(points, distance_upper_bound=limit_mm + NEAR_MM)[0] < np.inf
        ask, points = ask[near], points[near]
        out = solid.copy()
        values = solid.ravel()[ask]
        blocked = margin_mm - self.swept(points, direction)
        # The function of the solid is a distance near its surface only.
        depth = ndimage.distance_transform_edt(solid < 0, sampling=grid.step_mm).ravel()[ask] - grid.step_mm / 2
        depth = np.maximum(depth, -values)
        out.ravel()[ask] = np.maximum(values, np.minimum(blocked, limit_mm - depth))
        return out


def removed_figures(mesh: Mesh, solid: np.ndarray, grid: FineGrid) -> dict:
    """Return the figures of what was removed from a plate.

    Parameters
    ----------
    mesh : Mesh
        The plate before.
    solid : numpy.ndarray
        Function of what remains, negative inside.
    grid : FineGrid
        Its grid.

    Returns
    -------
    dict
        "area_mm2" of the surface that was moved by more than 0.1 mm, and "mean_mm" and "max_mm" of the gap there.
    """
    moved = grid.sample(solid, mesh.points) > 0.1
    remains = contour(solid, grid)
    if not moved.any() or not len(remains.faces):
        return {"area_mm2": 0.0, "mean_mm": 0.0, "max_mm": 0.0}
    gap, area = SurfaceDistance(remains).signed(mesh.points[moved]), mesh.point_areas()[moved]
    return {
        "area_mm2": round(float(area.sum()), 1),
        "mean_mm": round(float((gap * area).sum() / area.sum()), 2),
        "max_mm": round(float(gap.max()), 2),
    }
