"""What is measured of a part: its faces, its thickness, its clearance and the step at its rim."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from SkullVAELib.implant.implicit_solid import FineGrid, OuterSurface, path_through
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.mesh.distance import BoneDistance
from SkullVAELib.mesh.mesh import Mesh

THICKEST_MM = 25.0
"""A ray through the plate is followed so far."""

SAMPLE = 3000
"""Points of a mesh that its figures are taken from."""


def classify_points(mesh: Mesh, outer: OuterSurface) -> np.ndarray:
    """(N,) int8 of a plate's mesh: 1 for a point on the outer face, -1 on the inner one, 0 on the rim or in a hole."""
    cosine = np.einsum("nx,nx->n", mesh.vertex_normals(), outer.normals[outer.roughly_nearest(mesh.points)])
    return np.where(cosine > 0.6, 1, np.where(cosine < -0.6, -1, 0)).astype(np.int8)


def thickness_map(mesh: Mesh, faces: np.ndarray, solid: np.ndarray, grid: FineGrid) -> np.ndarray:
    """(N,) mm at each point of the mesh: straight through the plate from its face to the other one.

    Rims and the walls of holes take the value of the nearest point of a face; all 0 where there is no face.
    """
    thickness = np.zeros(len(mesh.points))
    face, wall = faces != 0, faces == 0
    if face.any():
        thickness[face] = path_through(solid, grid, mesh.points[face], mesh.vertex_normals()[face], THICKEST_MM)
        thickness[wall] = thickness[face][cKDTree(mesh.points[face]).query(mesh.points[wall])[1]]
    return thickness


def size_figures(mesh: Mesh) -> dict:
    """A mesh's triangles, volume and area for the report."""
    return {
        "triangles": len(mesh.faces),
        "volume_ml": round(mesh.volume_ml, 3),
        "area_cm2": round(mesh.area_mm2 / 100, 2),
    }


def measure_piece(
    mesh: Mesh,
    faces: np.ndarray,
    solid: np.ndarray,
    grid: FineGrid,
    host: BoneDistance | None,
    outer: OuterSurface,
    options: ImplantOptions,
) -> dict:
    """What the report says of one piece."""
    figures = size_figures(mesh)
    top, wall = _some(np.flatnonzero(faces == 1)), np.flatnonzero(faces == 0)
    if len(top):
        values = path_through(solid, grid, mesh.points[top], mesh.vertex_normals()[top], THICKEST_MM)
        if len(wall):
            # A rim is no thickness: what counts is further from it than the plate is thick.
            values = values[cKDTree(mesh.points[wall]).query(mesh.points[top])[0] > values]
        if len(values):
            low, high = np.percentile(values, [2, 98])
            figures["thickness_mm"] = {
                "mean": round(float(values.mean()), 2), "min": round(float(low), 2), "max": round(float(high), 2)
            }  # fmt: skip
    if host is not None:
        rim = mesh.points[wall]
        rim = rim[host.nearby(rim, options.clearance_mm + 2.0) < np.inf]
        if len(rim):
            gap = host.signed(rim)
            low, middle = np.percentile(gap, [5, 50])
            figures["clearance_mm"] = {
                "min": round(float(gap.min()), 3), "p5": round(float(low), 3), "median": round(float(middle), 3)
            }  # fmt: skip
            figures |= _rim_step(rim, host, outer, options)
    return figures


def _rim_step(rim: np.ndarray, host: BoneDistance, outer: OuterSurface, options: ImplantOptions) -> dict:
    """The 95th percentile of how far the bone's outer surface lies from the part's, continued, near the rim."""
    near = cKDTree(rim).query(host.mesh.points, distance_upper_bound=options.clearance_mm + 3.0)[0] < np.inf
    near = _some(np.flatnonzero(near))
    if not len(near):
        return {}
    points, normals = host.mesh.points[near], host.mesh.vertex_normals()[near]
    at = outer.nearest(points)
    depth, beyond = outer.depth(points)
    # The bone's outer table: it faces as the plate does, and lies no deeper than a misfit could be.
    table = (np.einsum("nx,nx->n", normals, outer.normals[at]) > 0.8) & (np.abs(depth) < 3.0) & (beyond < 0.5)
    if table.sum() < 20:
        return {}
    return {"rim_step_mm": round(float(np.percentile(np.abs(depth[table] - options.under_contour_mm), 95)), 3)}


def _some(index: np.ndarray) -> np.ndarray:
    """At most SAMPLE of them, drawn alike in every run."""
    return index if len(index) <= SAMPLE else np.random.default_rng(0).choice(index, SAMPLE, replace=False)
