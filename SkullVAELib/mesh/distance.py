"""Distances in millimetres to the triangles of a mesh."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

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
        self._corners = mesh.points[mesh.faces]
        self._tree = cKDTree(self._corners.mean(axis=1))

    @cached_property
    def _normals(self) -> np.ndarray:
        return self.mesh.face_normals()

    def nearby(self, points: np.ndarray, limit_mm: float = np.inf) -> np.ndarray:
        """Distances (N,) in mm of points (N, 3) to the closest triangle's centre, infinite beyond the limit.

        Faster than `signed`, and too large by at most the size of a triangle.
        """
        return self._tree.query(points, distance_upper_bound=limit_mm)[0]

    def signed(self, points: np.ndarray, chunk: int = 40_000) -> np.ndarray:
        """Signed distances (N,) in mm of points (N, 3), positive on the side that the triangles face."""
        out = np.empty(len(points))
        for start in range(0, len(points), chunk):
            part = slice(start, start + chunk)
            out[part] = self._signed(points[part])
        return out

    def _signed(self, points: np.ndarray) -> np.ndarray:
        count = min(NEIGHBOURS, len(self._corners))
        _, near = self._tree.query(points, k=[*range(1, count + 1)])
        weights = _nearest_on_triangles(points[:, None], self._corners[near])
        at = np.einsum("nkc,nkcx->nkx", weights, self._corners[near])
        squared = ((points[:, None] - at) ** 2).sum(-1)
        least = squared.min(1)
        # At an edge or a corner several triangles are equally close; the side is taken from the one that the point
        # faces most, since others may give the wrong sign: J. A. Baerentzen, H. Aanaes, Signed distance computation
        # using the angle weighted pseudonormal (2005).
        side = np.einsum("nkx,nkx->nk", points[:, None] - at, self._normals[near])
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

    def signed(self, points: np.ndarray, chunk: int = 40_000) -> np.ndarray:
        """Signed distances (N,) in mm of points (N, 3), negative in bone."""
        distance = super().signed(points, chunk)
        # Smoothing moved points of the surface by at most this.
        clear = np.flatnonzero(np.abs(distance) > MOST_SHIFT_VOXELS * np.linalg.norm(self._bone.spacing))
        distance[clear] = np.abs(distance[clear]) * np.where(self.in_bone(points[clear]), -1.0, 1.0)
        return distance


def _nearest_on_triangles(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Barycentric weights (..., 3) of the point of each triangle (..., 3, 3) nearest to points (..., 3).

    C. Ericson, Real-Time Collision Detection (2005), section 5.1.5, vectorised.
    """
    a, b, c = (corners[..., k, :] for k in range(3))
    ab, ac, ap = b - a, c - a, points - a
    d1, d2 = _dot(ab, ap), _dot(ac, ap)
    d3, d4 = d1 - _dot(ab, ab), d2 - _dot(ab, ac)
    d5, d6 = d1 - _dot(ac, ab), d2 - _dot(ac, ac)
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    total = np.where(va + vb + vc == 0, 1.0, va + vb + vc)
    v, w = vb / total, vc / total
    on_bc = (va <= 0) & (d4 - d3 >= 0) & (d5 - d6 >= 0)
    on_ac = (vb <= 0) & (d2 >= 0) & (d6 <= 0)
    on_ab = (vc <= 0) & (d1 >= 0) & (d3 <= 0)
    at_c = (d6 >= 0) & (d5 <= d6)
    at_b = (d3 >= 0) & (d4 <= d3)
    at_a = (d1 <= 0) & (d2 <= 0)
    along_bc, along_ac, along_ab = _share(d4 - d3, d5 - d6), _share(d2, -d6), _share(d1, -d3)
    cases = (at_a, at_b, at_c, on_ab, on_ac, on_bc)
    v = np.select(cases, (0.0, 1.0, 0.0, along_ab, 0.0, 1 - along_bc), v)
    w = np.select(cases, (0.0, 0.0, 1.0, 0.0, along_ac, along_bc), w)
    return np.stack([1 - v - w, v, w], -1)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("...x,...x->...", a, b)


def _share(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """first / (first + second), 0 where both are 0."""
    total = first + second
    return first / np.where(total == 0, 1.0, total)
