"""Distances in millimetres to the triangles of a mesh."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from SkullVAELib.core.background import cores, side_by_side
from SkullVAELib.geometry.volume import Volume, sample_volume
from SkullVAELib.mesh.isosurface import MOST_SHIFT_VOXELS
from SkullVAELib.mesh.mesh import Mesh

NEIGHBOURS = 12
"""Triangles examined for each point, those with the closest centres. On the fine, even meshes used here the closest
triangle is among them, or another whose distance differs by at most 0.01 mm."""


class SurfaceDistance:
    """Signed distances to a mesh of small triangles of similar size.

    Parameters
    ----------
    mesh : Mesh
        RAS, mm.

    >>> triangle = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]]))
    >>> SurfaceDistance(triangle).signed(np.array([[0.2, 0.2, 0.5], [0.2, 0.2, -0.5]]))
    array([ 0.5, -0.5])
    """

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        self._tree = cKDTree(mesh.points[mesh.faces].mean(axis=1))

    @cached_property
    def _triangles(self) -> np.ndarray:
        """(15, M) of the triangles: corners a, b and c, unit normals, and inner products of the edges ab and ac.

        With a row for each coordinate, everything below runs over whole rows: half the time of arrays (..., 3).
        """
        corners = [self.mesh.points[self.mesh.faces[:, k]].T for k in range(3)]
        ab, ac = corners[1] - corners[0], corners[2] - corners[0]
        products = np.stack([_dot(ab, ab), _dot(ab, ac), _dot(ac, ac)])
        return np.concatenate([*corners, self.mesh.face_normals().T, products])

    def nearby(self, points: np.ndarray, limit_mm: float = np.inf) -> np.ndarray:
        """Distances (N,) in mm of points (N, 3) to the closest triangle's centre, infinite beyond the limit.

        Faster than `signed`, and too large by at most the size of a triangle.
        """
        return self._tree.query(points, distance_upper_bound=limit_mm, workers=cores())[0]

    def signed(self, points: np.ndarray, chunk: int = 20_000) -> np.ndarray:
        """Signed distances (N,) in mm of points (N, 3), positive on the side that the triangles face."""
        _ = self._triangles  # once, before the threads
        parts = (points[start : start + chunk] for start in range(0, len(points), chunk))
        return np.concatenate([np.zeros(0), *side_by_side(self._signed, parts)])

    def _signed(self, points: np.ndarray) -> np.ndarray:
        count = min(NEIGHBOURS, self._tree.n)
        _, near = self._tree.query(points, k=[*range(1, count + 1)])
        own = self._triangles.take(near, axis=1)
        a, b, c, normal, products = np.split(own, [3, 6, 9, 12])
        at = points.T[:, :, None]
        v, w = _nearest_on_triangles(at, a, b, c, products)
        offset = at - ((1 - v - w) * a + v * b + w * c)
        squared = offset[0] ** 2 + offset[1] ** 2 + offset[2] ** 2
        least = squared.min(1)
        # At an edge or a corner several triangles are equally close; the side is taken from the one that the point
        # faces most, since others may give the wrong sign: J. A. Baerentzen, H. Aanaes, Signed distance computation
        # using the angle weighted pseudonormal (2005).
        side = _dot(offset, normal)
        side[squared > least[:, None] * (1 + 1e-6) + 1e-12] = 0
        facing = side[np.arange(len(points)), np.abs(side).argmax(1)]
        return np.sqrt(least) * np.where(facing < 0, -1.0, 1.0)


class BoneDistance(SurfaceDistance):
    """Signed distances to the surface of bone, negative in bone.

    Close to the surface the sign comes from its triangles. Further away it comes from the voxels, which is safer: where
    bone is one voxel thin, smoothing may have folded the surface, and the sign is undefined at a fold.
    """

    def __init__(self, mesh: Mesh, bone: Volume):
        """Parameters
        ----------
        mesh : Mesh
            Surface of the bone, or of a region of it, RAS mm.
        bone : Volume
            bool voxels of that region and its surroundings.
        """
        super().__init__(mesh)
        self._bone = bone

    @property
    def voxels(self) -> Volume:
        """The voxels of the region and its surroundings, bool."""
        return self._bone

    @property
    def triangle_mm(self) -> float:
        """Largest distance in mm between a triangle's centre and a point of it."""
        return float(self._bone.spacing.max()) * 0.6

    def in_bone(self, points: np.ndarray) -> np.ndarray:
        """Whether points (N, 3) are in bone, by trilinear interpolation of the voxels; (N,) bool."""
        return sample_volume(self._bone, points, 0.0) >= 0.5

    def signed(self, points: np.ndarray, chunk: int = 20_000) -> np.ndarray:
        """Signed distances (N,) in mm of points (N, 3), negative in bone."""
        distance = super().signed(points, chunk)
        # Smoothing moved points of the surface by at most this.
        clear = np.flatnonzero(np.abs(distance) > MOST_SHIFT_VOXELS * np.linalg.norm(self._bone.spacing))
        distance[clear] = np.abs(distance[clear]) * np.where(self.in_bone(points[clear]), -1.0, 1.0)
        return distance


def _nearest_on_triangles(
    points: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray, products: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Barycentric weights of b and of c, (...) each, of the point of each triangle nearest to points.

    points, a, b, c: (3, ...); products: (3, ...), inner products ab ab, ab ac and ac ac.

    C. Ericson, Real-Time Collision Detection (2005), section 5.1.5, vectorised.
    """
    ap, (ab_ab, ab_ac, ac_ac) = points - a, products
    d1, d2 = _dot(b - a, ap), _dot(c - a, ap)
    d3, d4, d5, d6 = d1 - ab_ab, d2 - ab_ac, d1 - ab_ac, d2 - ac_ac
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    total = va + vb + vc
    total[total == 0] = 1.0
    v, w = vb / total, vc / total
    # Edges first: where the nearest point is a corner, that replaces them.
    on_bc = (va <= 0) & (d4 - d3 >= 0) & (d5 - d6 >= 0)
    along_bc = _share(d4 - d3, d5 - d6)
    for where, new_v, new_w in (
        (on_bc, 1 - along_bc, along_bc),
        ((vb <= 0) & (d2 >= 0) & (d6 <= 0), 0.0, _share(d2, -d6)),
        ((vc <= 0) & (d1 >= 0) & (d3 <= 0), _share(d1, -d3), 0.0),
        ((d6 >= 0) & (d5 <= d6), 0.0, 1.0),
        ((d3 >= 0) & (d4 <= d3), 1.0, 0.0),
        ((d1 <= 0) & (d2 <= 0), 0.0, 0.0),
    ):
        np.copyto(v, new_v, where=where)
        np.copyto(w, new_w, where=where)
    return v, w


def _dot(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u[0] * v[0] + u[2] * v[2] + u[1] * v[1]  # in the order in which `np.einsum` adds, for the same bits


def _share(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """first / (first + second), 0 where both are 0."""
    total = first + second
    return first / np.where(total == 0, 1.0, total)
