"""Perfusion holes through an implant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from SkullVAELib.geometry.affines import apply_affine, perpendicular_axes
from SkullVAELib.implant.implicit_solid import FineGrid, OuterSurface, rounded_intersection
from SkullVAELib.mesh.mesh import Mesh

CLOSEST = 0.9
"""Minimum distance between holes as a fraction of the pitch; nearer holes are omitted.

Holes get nearer than the pitch where the flat pattern is mapped to the curved skull.
"""


@dataclass(frozen=True)
class HolePattern:
    """A hexagonal pattern of round holes.

    Attributes
    ----------
    diameter_mm : float
        Diameter of the holes.
    pitch_mm : float
        Distance between the axes of neighbouring holes.
    margin_mm : float
        Distance from the wall of a hole to any edge.
    """

    diameter_mm: float
    pitch_mm: float
    margin_mm: float


def perforate(
    solid: np.ndarray,
    grid: FineGrid,
    mesh: Mesh,
    faces: np.ndarray,
    outer: OuterSurface,
    pattern: HolePattern,
    edge_mm: float,
    obstacles: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Cut holes into an implant, along its normals.

    Parameters
    ----------
    solid : numpy.ndarray
        Function (*shape), negative inside.
    grid : FineGrid
        The grid.
    mesh : Mesh
        Surface of the solid, N points.
    faces : numpy.ndarray
        (N,) as from `SkullVAELib.implant.measures.classify_points`.
    outer : OuterSurface
        Outer surface of the completed shape.
    pattern : HolePattern
        The holes.
    edge_mm : float
        Radius of the holes' edges.
    obstacles : numpy.ndarray, optional
        (K, 3) points that holes keep their margin from, too, RAS mm.

    Returns
    -------
    solid : numpy.ndarray
        Function of the implant with holes.
    count : int
        Number of holes.
    """
    radius = pattern.diameter_mm / 2
    middles, axes, lengths = _places(mesh, faces, outer, pattern, obstacles)
    solid = solid.copy()
    inverse = np.linalg.inv(grid.affine[:3, :3])
    for middle, axis, length in zip(middles, axes, lengths, strict=True):
        reach = length + 2.0
        ends = (np.stack([middle + 2.0 * axis, middle - reach * axis]) - grid.affine[:3, 3]) @ inverse.T
        room = (radius + 2 * edge_mm) / grid.step_mm
        low = np.maximum(np.floor(ends.min(0) - room).astype(int), 0)
        high = np.minimum(np.ceil(ends.max(0) + room).astype(int) + 1, solid.shape)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        index = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), -1)
        offset = apply_affine(grid.affine, index) - middle
        along = offset @ axis
        across = np.linalg.norm(offset - along[..., None] * axis, axis=-1)
        # The drill is as long as the implant is thick here: beyond it there may be another part of a curved implant.
        drill = np.maximum(across - radius, np.maximum(along - 2.0, -along - reach))
        near = drill < 2 * edge_mm
        cut = rounded_intersection([solid[box], -drill], edge_mm)
        solid[box] = np.where(near, cut, solid[box]).astype(np.float32)
    return solid, len(middles)


def _places(
    mesh: Mesh, faces: np.ndarray, outer: OuterSurface, pattern: HolePattern, obstacles: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (N, 3) of the holes on the outer face, RAS mm, outward axes (N, 3), and the thickness (N,) there, mm."""
    nothing = np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0)
    top, wall, bottom = (mesh.points[faces == side] for side in (1, 0, -1))
    if not len(top) or not len(bottom):
        return nothing
    if obstacles is not None:
        wall = np.concatenate([wall, obstacles])
    flat = _unrolled(top, mesh.vertex_normals()[faces == 1])
    lattice = _hexagons(flat.min(0), flat.max(0), pattern.pitch_mm)
    away, at = cKDTree(flat).query(lattice)
    at = at[away < pattern.pitch_mm / 8]
    middles = top[at]
    axes = outer.normal(middles)
    room = pattern.diameter_mm / 2 + pattern.margin_mm
    kept: list[int] = []
    lengths: list[float] = []
    for number, (middle, axis) in enumerate(zip(middles, axes, strict=True)):
        length = _through(bottom, middle, axis)
        if length is None or not _free(wall, middle, axis, length, room):
            continue
        if all(np.linalg.norm(middle - middles[other]) >= CLOSEST * pattern.pitch_mm for other in kept):
            kept.append(number)
            lengths.append(length)
    return middles[kept], axes[kept], np.array(lengths)


def _through(bottom: np.ndarray, middle: np.ndarray, axis: np.ndarray) -> float | None:
    """Depth in mm of the inner face's points (N, 3) below the outer face around an axis; None where there are none."""
    offset = bottom - middle
    down = -offset @ axis
    across = np.linalg.norm(offset + down[:, None] * axis, axis=1)
    under = down[(across < 1.5) & (down > 0) & (down < 25)]
    return float(under.min()) if len(under) else None


def _free(wall: np.ndarray, middle: np.ndarray, axis: np.ndarray, length: float, room_mm: float) -> bool:
    """Whether no point of a rim (N, 3) is nearer than room_mm to a drill's axis within the implant."""
    offset = wall - middle
    along = offset @ axis
    across = np.linalg.norm(offset - along[:, None] * axis, axis=1)
    return not ((across < room_mm) & (along < room_mm) & (along > -length - room_mm)).any()


def _unrolled(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Points (N, 3) of a domed surface projected to a plane, (N, 2) in mm.

    The dome is approximated by a sphere; the azimuthal equidistant projection preserves distances from its middle.
    """
    # Lines along the normals of a sphere meet in its centre, which is found by least squares.
    across = np.eye(3) - normals[:, :, None] * normals[:, None, :]
    system = across.sum(0) + 1e-3 * len(points) * np.eye(3)
    middle = points.mean(0)
    centre = middle + np.linalg.solve(system, np.einsum("nij,nj->i", across, points - middle))
    up = normals.mean(0) / np.linalg.norm(normals.mean(0))
    rays = points - centre
    radius = np.linalg.norm(rays, axis=1).mean()
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    angle = np.arccos(np.clip(rays @ up, -1, 1))
    flat = rays - (rays @ up)[:, None] * up
    first, second = perpendicular_axes(up)
    plane = np.stack([flat @ first, flat @ second], 1)
    return plane / np.maximum(np.linalg.norm(plane, axis=1, keepdims=True), 1e-9) * (radius * angle)[:, None]


def _hexagons(low: np.ndarray, high: np.ndarray, pitch_mm: float) -> np.ndarray:
    """(N, 2) points of a hexagonal pattern within a rectangle, one in its middle, sorted from the middle outwards."""
    middle = (low + high) / 2
    rows = np.arange(-np.ceil((high - low)[1] / pitch_mm), np.ceil((high - low)[1] / pitch_mm) + 1)
    columns = np.arange(-np.ceil((high - low)[0] / pitch_mm), np.ceil((high - low)[0] / pitch_mm) + 1)
    x, y = np.meshgrid(columns, rows)
    points = np.stack([x + (y % 2) / 2, y * np.sqrt(3) / 2], -1).reshape(-1, 2) * pitch_mm + middle
    points = points[((points >= low) & (points <= high)).all(1)]
    return points[np.argsort(np.linalg.norm(points - middle, axis=1), kind="stable")]
