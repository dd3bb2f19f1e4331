"""Triangle meshes in RAS millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Mesh:
    """A closed triangle mesh.

    Parameters
    ----------
    points : (N, 3) float64 array
        RAS, mm.
    faces : (M, 3) int64 array
        Indices of points, counter-clockwise seen from outside.
    """

    points: np.ndarray
    faces: np.ndarray

    @classmethod
    def empty(cls) -> Mesh:
        """A mesh without points."""
        return cls(np.zeros((0, 3)), np.zeros((0, 3), np.int64))

    @classmethod
    def outward(cls, points: np.ndarray, faces: np.ndarray) -> Mesh:
        """A mesh from triangles that face outwards in voxel space; a mirroring affine has inverted them."""
        mesh = cls(points, faces)
        return cls(points, faces[:, ::-1].copy()) if mesh.volume_ml < 0 else mesh

    def of_triangles(self, faces: np.ndarray) -> Mesh:
        """A mesh of some triangles (M, 3) of this one's points, without unused points."""
        used, faces = np.unique(faces, return_inverse=True)
        return Mesh(self.points[used], faces.reshape(-1, 3))

    @property
    def area_mm2(self) -> float:
        """Area of the surface in square millimetres."""
        return float(self.face_areas().sum())

    @property
    def volume_ml(self) -> float:
        """Enclosed volume in millilitres; the surface of a cavity counts negative."""
        origin = self.points.mean(axis=0) if len(self.points) else 0.0
        return float(np.einsum("ij,ij->", self.points[self.faces[:, 0]] - origin, self._cross()) / 6000)

    def vertex_normals(self) -> np.ndarray:
        """Outward unit normals (N, 3) of the points: the mean of their triangles' normals, weighted by area."""
        cross = self._cross()
        normals = np.zeros_like(self.points)
        for corner in range(3):
            for axis in range(3):
                normals[:, axis] += np.bincount(self.faces[:, corner], cross[:, axis], minlength=len(self.points))
        return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)

    def face_normals(self) -> np.ndarray:
        """Outward unit normals (M, 3) of the triangles."""
        cross = self._cross()
        return cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-12)

    def vector_areas(self) -> np.ndarray:
        """Outward normals (M, 3) of the triangles, as long as their areas in mm2."""
        return self._cross() / 2

    def face_areas(self) -> np.ndarray:
        """Areas (M,) of the triangles, mm2."""
        return np.linalg.norm(self._cross(), axis=1) / 2

    def point_areas(self) -> np.ndarray:
        """Area (N,) of the surface that belongs to each point, a third of that of its triangles, mm2."""
        share = np.repeat(self.face_areas() / 3, 3)
        return np.bincount(self.faces.ravel(), share, minlength=len(self.points))

    def _cross(self) -> np.ndarray:
        """(M, 3) normals whose length is twice the triangle's area."""
        a, b, c = (self.points[self.faces[:, k]] for k in range(3))
        return np.cross(b - a, c - a)


def concatenate_meshes(meshes: Sequence[Mesh]) -> Mesh:
    """Several meshes as one."""
    meshes = [Mesh.empty(), *meshes]
    starts = np.cumsum([0, *(len(mesh.points) for mesh in meshes)])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts[:-1], strict=True)]
    return Mesh(np.concatenate([mesh.points for mesh in meshes]), np.concatenate(faces))


def component_labels(count: int, faces: np.ndarray) -> np.ndarray:
    """Number (count,), from 0, of the connected component of each point, by triangles (M, 3)."""
    edges = faces[:, [0, 1, 1, 2]].reshape(-1, 2).T
    return connected_components(coo_matrix((np.ones(edges.shape[1], bool), edges), (count, count)), directed=False)[1]


def largest_mesh_component(mesh: Mesh) -> Mesh:
    """The connected component of a mesh with the most triangles."""
    label = component_labels(len(mesh.points), mesh.faces)
    if not label.any():
        return mesh
    faces = mesh.faces[label[mesh.faces[:, 0]] == np.bincount(label[mesh.faces[:, 0]]).argmax()]
    return mesh.of_triangles(faces)
