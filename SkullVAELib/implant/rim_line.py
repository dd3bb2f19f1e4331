"""The rim of a plate on the outer surface, and coordinates of nodes relative to both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.implant.implicit_solid import FineGrid, OuterSurface

_BELOW_MM = 0.6
"""Depth below the plate's outer face at which its extent is taken: below its rounded edge."""

_EVEN_MM = 1.5
"""Radius over which the points of the rim are averaged."""


class RimLine:
    """The rim of a plate as points on the outer surface.

    Parameters
    ----------
    plate : numpy.ndarray
        Function (*shape) of the plate, negative inside.
    grid : FineGrid
        The grid.
    outer : OuterSurface
        Outer surface of the completed shape.
    under_mm : float
        Recess of the plate's outer face below that surface.

    Attributes
    ----------
    points : numpy.ndarray
        (N, 3) points of the rim, RAS mm; none where the surface does not continue beyond the plate.
    """

    def __init__(self, plate: np.ndarray, grid: FineGrid, outer: OuterSurface, under_mm: float):
        self._outer = outer
        self._inside = grid.sample(plate, outer.points - (under_mm + _BELOW_MM) * outer.normals) < 0
        within, without = outer.points[self._inside], outer.points[~self._inside]
        self.points = np.zeros((0, 3))
        if len(within) and len(without):
            away, at = cKDTree(without).query(within, distance_upper_bound=1.5 * grid.step_mm)
            rim = away < np.inf
            middles = (within[rim] + without[at[rim]]) / 2
            pairs = cKDTree(middles).query_ball_point(middles, _EVEN_MM)
            self.points = np.array([middles[own].mean(0) for own in pairs]).reshape(-1, 3)
        self._tree = cKDTree(self.points) if len(self.points) else None

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """Return the point (N, 3) of the rim nearest to each of some points (N, 3)."""
        return self.points[cKDTree(self.points).query(points)[1]]

    def signed(self, points: np.ndarray) -> np.ndarray:
        """Return (N,) distances in mm of points (N, 3) on the outer surface from the rim, negative on the plate."""
        inside = self._inside[self._outer.nearest(points)]
        away = np.full(len(points), np.inf) if self._tree is None else self._tree.query(points)[0]
        return np.where(inside, -away, away)


def interpolated(
    grid: FineGrid, flat: np.ndarray, functions: Callable[[np.ndarray], list[np.ndarray]]
) -> list[np.ndarray]:
    """Return smooth functions at nodes, computed at every second node along each axis and interpolated.

    Parameters
    ----------
    grid : FineGrid
        The grid.
    flat : numpy.ndarray
        (M,) flat indices of the nodes.
    functions : callable
        Gives a list of arrays (N,) for points (N, 3), RAS mm.

    Returns
    -------
    list of numpy.ndarray
        (M,) values of each function.
    """
    index = grid.index(flat)
    shape = tuple(-(-n // 2) + 1 for n in grid.shape)
    needed = np.zeros(shape, bool)
    needed[tuple((index // 2).T)] = True
    for axis in range(3):  # the upper corners of their cells, too
        lower, upper = (needed.swapaxes(0, axis)[part] for part in (slice(-1), slice(1, None)))
        upper |= lower.copy()
    values = []
    for coarse in functions(apply_affine(grid.affine, 2 * np.argwhere(needed))):
        array = np.zeros(shape, np.float32)
        array[needed] = coarse
        values.append(ndimage.map_coordinates(array, index.T / 2, np.float32, order=1))
    return values


@dataclass(frozen=True)
class SurfaceNodes:
    """Nodes of a grid near the outer surface and the rim, M of them.

    Attributes
    ----------
    flat : numpy.ndarray
        (M,) flat indices.
    points : numpy.ndarray
        (M, 3) RAS mm.
    height : numpy.ndarray
        (M,) height above the outer surface in mm.
    beyond : numpy.ndarray
        (M,) lateral distance from the outer surface, which is 0 except past its end, mm.
    rim : numpy.ndarray
        (M,) distance from the rim along the surface, negative on the plate, mm.
    """

    flat: np.ndarray
    points: np.ndarray
    height: np.ndarray
    beyond: np.ndarray
    rim: np.ndarray

    @classmethod
    def of(
        cls,
        grid: FineGrid,
        outer: OuterSurface,
        rim: RimLine,
        wanted: np.ndarray,
        heights: tuple[float, float],
    ) -> SurfaceNodes:
        """Return the wanted (flat indices, (K,)) active nodes between two heights.

        The coordinates are computed at every second node along each axis and interpolated.
        """

        def coordinates(at: np.ndarray) -> list[np.ndarray]:
            foot, depth, beyond = outer.foot(at)
            feet = at + depth[:, None] * outer.normals[foot]
            return [-depth, beyond, rim.signed(feet)]

        height, lateral, away = interpolated(grid, wanted, coordinates)
        keep = (height > heights[0]) & (height < heights[1]) & (lateral < 1.5)
        flat = wanted[keep]
        return cls(flat, grid.points(flat), height[keep], lateral[keep], away[keep])
