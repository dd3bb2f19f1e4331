"""An independent judge of meshes: trimesh for what is closed, and a search for triangles that cut each other.

    python Testing/mesh_check.py implant.stl

It shares no code with the library: what it reads is the file, as any other program would.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import trimesh
from scipy.spatial import cKDTree


def read(path: Path) -> trimesh.Trimesh:
    """The mesh in a file, equal points merged as every program merges an STL's."""
    mesh = trimesh.load(path, process=True)
    assert isinstance(mesh, trimesh.Trimesh)
    return mesh


def faults(mesh: trimesh.Trimesh, bodies: int = 1) -> list[str]:
    """What is wrong with a mesh that should be closed, manifold, facing outwards, of so many bodies, and should not
    cut itself."""
    found = []
    if not mesh.is_watertight:
        found.append("not watertight")
    if not mesh.is_winding_consistent:
        found.append("triangles turned over")
    if mesh.volume <= 0:
        found.append("inside out")
    if mesh.body_count != bodies:
        found.append(f"{mesh.body_count} bodies instead of {bodies}")
    counts = np.bincount(mesh.faces_unique_edges.ravel())
    if (counts != 2).any():
        found.append(f"{(counts != 2).sum()} edges without exactly two triangles")
    fans = _fans(mesh)
    if fans:
        found.append(f"{fans} points where two sheets touch")
    if (mesh.area_faces <= 0).any():
        found.append(f"{(mesh.area_faces <= 0).sum()} triangles without area")
    crossings = self_intersections(mesh)
    if crossings:
        found.append(f"{crossings} pairs of triangles cut each other")
    return found


def _fans(mesh: trimesh.Trimesh) -> int:
    """Points whose triangles are not one closed fan. Around a manifold point there are as many edges as triangles,
    and the triangles hang together by these edges: one component of the link for each point."""
    faces = mesh.faces
    count = len(mesh.vertices)
    # Each triangle gives one edge of the link of each of its corners; a link is a ring, or two where sheets touch.
    corner = faces.ravel()
    ends = np.stack([faces[:, [1, 2, 0]].ravel(), faces[:, [2, 0, 1]].ravel()], 1)
    nodes, inverse = np.unique(corner[:, None] * np.int64(count) + ends, return_inverse=True)
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    pairs = inverse.reshape(-1, 2)
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), (len(nodes),) * 2)
    rings = connected_components(graph, directed=False)[0]
    return rings - len(np.unique(corner))


def self_intersections(mesh: trimesh.Trimesh, tolerance: float = 1e-7) -> int:
    """Pairs of triangles without a common corner of which an edge of one passes through the other."""
    corners = np.asarray(mesh.triangles, float)
    middle = corners.mean(axis=1)
    radius = np.linalg.norm(corners - middle[:, None], axis=2).max(axis=1)
    pairs = cKDTree(middle).query_pairs(2 * radius.max(), output_type="ndarray")
    apart = np.linalg.norm(middle[pairs[:, 0]] - middle[pairs[:, 1]], axis=1)
    pairs = pairs[apart < radius[pairs[:, 0]] + radius[pairs[:, 1]]]
    low, high = corners.min(axis=1), corners.max(axis=1)
    overlap = ((low[pairs[:, 0]] <= high[pairs[:, 1]]) & (low[pairs[:, 1]] <= high[pairs[:, 0]])).all(axis=1)
    pairs = pairs[overlap]
    shared = (mesh.faces[pairs[:, 0]][:, :, None] == mesh.faces[pairs[:, 1]][:, None, :]).any(axis=(1, 2))
    pairs = pairs[~shared]
    cut = np.zeros(len(pairs), bool)
    for one, other in ((0, 1), (1, 0)):
        triangle, edges = corners[pairs[:, one]], corners[pairs[:, other]]
        for k in range(3):
            cut |= _passes(edges[:, k], edges[:, (k + 1) % 3], triangle, tolerance)
    return int(cut.sum())


def _passes(start: np.ndarray, end: np.ndarray, triangle: np.ndarray, tolerance: float) -> np.ndarray:
    """(N,) whether each segment passes through the inside of its triangle (Moeller and Trumbore, 1997)."""
    a, b, c = (triangle[:, k] for k in range(3))
    along, ab, ac = end - start, b - a, c - a
    p = np.cross(along, ac)
    determinant = (ab * p).sum(1)
    safe = np.where(np.abs(determinant) < 1e-14, np.inf, determinant)
    offset = start - a
    u = (offset * p).sum(1) / safe
    q = np.cross(offset, ab)
    v = (along * q).sum(1) / safe
    t = (ac * q).sum(1) / safe
    inside = (u > tolerance) & (v > tolerance) & (u + v < 1 - tolerance)
    return np.isfinite(safe) & inside & (t > tolerance) & (t < 1 - tolerance)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        body = read(Path(name))
        print(name, f"{len(body.faces)} triangles, {body.body_count} bodies", faults(body, body.body_count) or "sound")
