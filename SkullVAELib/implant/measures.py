"""Measures of the printable implant: faces, thickness, clearance and the step at its rim."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from SkullVAELib.implant.implicit_solid import FineGrid, OuterSurface, path_through
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.mesh.distance import BoneDistance
from SkullVAELib.mesh.mesh import Mesh

THICKEST_MM = 25.0
"""Maximum length in mm of the rays that measure the thickness."""

MIDDLE = 0.7
"""Where a plate is narrower than thick, its thickness is measured at points farther from the rim than this fraction of
the largest distance from it."""

SAMPLE = 3000
"""Maximum number of points of a mesh that figures are computed from."""


def classify_points(mesh: Mesh, outer: OuterSurface) -> np.ndarray:
    """Classify the points of an implant's mesh by the face that they are on.

    Parameters
    ----------
    mesh : Mesh
        The implant, N points.
    outer : OuterSurface
        Outer surface of the completed shape.

    Returns
    -------
    numpy.ndarray
        (N,) int8: 1 on the outer face, -1 on the inner face, 0 on the rim or in a hole.
    """
    cosine = np.einsum("nx,nx->n", mesh.vertex_normals(), outer.normals[outer.roughly_nearest(mesh.points)])
    return np.where(cosine > 0.6, 1, np.where(cosine < -0.6, -1, 0)).astype(np.int8)


def thickness_map(mesh: Mesh, faces: np.ndarray, solid: np.ndarray, grid: FineGrid) -> np.ndarray:
    """Return the thickness at each point of a mesh, measured along the normal from one face to the other.

    Parameters
    ----------
    mesh : Mesh
        The implant, N points.
    faces : numpy.ndarray
        (N,) as from `classify_points`.
    solid : numpy.ndarray
        Function of the implant on the grid, negative inside.
    grid : FineGrid
        The grid.

    Returns
    -------
    numpy.ndarray
        (N,) mm. Points on rims and in holes have the value of the nearest point on a face; 0 where there is no face.
    """
    thickness = np.zeros(len(mesh.points))
    face, wall = faces != 0, faces == 0
    if face.any():
        thickness[face] = path_through(solid, grid, mesh.points[face], mesh.vertex_normals()[face], THICKEST_MM)
        thickness[wall] = thickness[face][cKDTree(mesh.points[face]).query(mesh.points[wall])[1]]
    return thickness


def size_figures(mesh: Mesh) -> dict:
    """Return the number of triangles, volume in ml and area in cm2 of a mesh, for the report."""
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
    bone: BoneDistance | None,
    outer: OuterSurface,
    options: ImplantOptions,
) -> dict:
    """Return the figures of one piece for the report.

    Parameters
    ----------
    mesh, faces, solid, grid
        As in `thickness_map`.
    bone : BoneDistance or None
        Distances to the bone around the implant; without it there are no figures of clearance and rim step.
    outer : OuterSurface
        Outer surface of the completed shape.
    options : ImplantOptions
        Options that the piece was made with.

    Returns
    -------
    dict
        "triangles", "volume_ml", "area_cm2", "outer_area_cm2" (of the outer face) and, where they can be measured,
        "thickness_mm" (mean; min and max are the 2nd and 98th percentile), "clearance_mm" (min, 5th percentile, median)
        and "rim_step_mm".
    """
    figures = size_figures(mesh) | {"outer_area_cm2": round(_outer_area_mm2(mesh, faces) / 100, 2)}
    top, wall = _some(np.flatnonzero(faces == 1)), np.flatnonzero(faces == 0)
    if len(top):
        values = path_through(solid, grid, mesh.points[top], mesh.vertex_normals()[top], THICKEST_MM)
        if len(wall):
            # Points nearer to the rim than the plate is thick are excluded: their rays meet the wall. In a small plate,
            # such as that for a burr hole, all points are: there those in its middle are taken.
            away = cKDTree(mesh.points[wall]).query(mesh.points[top])[0]
            inner = away > values
            values = values[inner if inner.any() else away >= MIDDLE * away.max()]
        low, high = np.percentile(values, [2, 98])
        figures["thickness_mm"] = {
            "mean": round(float(values.mean()), 2), "min": round(float(low), 2), "max": round(float(high), 2)
        }  # fmt: skip
    if bone is not None:
        rim = mesh.points[wall]
        rim = rim[bone.nearby(rim, options.clearance_mm + 2.0) < np.inf]
        if len(rim):
            gap = bone.signed(rim)
            low, middle = np.percentile(gap, [5, 50])
            figures["clearance_mm"] = {
                "min": round(float(gap.min()), 3), "p5": round(float(low), 3), "median": round(float(middle), 3)
            }  # fmt: skip
            figures |= _rim_step(rim, bone, outer, options)
    return figures


def _outer_area_mm2(mesh: Mesh, faces: np.ndarray) -> float:
    """Area of the outer face in mm2: of the triangles with most of their points on it."""
    return float(mesh.face_areas()[(faces[mesh.faces] == 1).sum(1) >= 2].sum())


def _rim_step(rim: np.ndarray, bone: BoneDistance, outer: OuterSurface, options: ImplantOptions) -> dict:
    """95th percentile, mm, of the distance near the rim between the outer surface of the bone and that of the implant,
    which is continued over the bone."""
    near = cKDTree(rim).query(bone.mesh.points, distance_upper_bound=options.clearance_mm + 3.0)[0] < np.inf
    near = _some(np.flatnonzero(near))
    if not len(near):
        return {}
    points, normals = bone.mesh.points[near], bone.mesh.vertex_normals()[near]
    at, depth, beyond = outer.foot(points)
    # The outer table of the bone: it faces as the implant does, within a depth that a misfit can have.
    table = (np.einsum("nx,nx->n", normals, outer.normals[at]) > 0.8) & (np.abs(depth) < 3.0) & (beyond < 0.5)
    if table.sum() < 20:
        return {}
    return {"rim_step_mm": round(float(np.percentile(np.abs(depth[table] - options.under_contour_mm), 95)), 3)}


def _some(index: np.ndarray) -> np.ndarray:
    """At most SAMPLE of the indices, drawn with a fixed seed."""
    return index if len(index) <= SAMPLE else np.random.default_rng(0).choice(index, SAMPLE, replace=False)
