"""The surface of a labelmap: one closed triangle mesh in millimetres, and its STL file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonCore import vtkPoints
from vtkmodules.vtkCommonDataModel import vtkImageData, vtkPolyData
from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D, vtkWindowedSincPolyDataFilter

from .errors import SkullVAEError
from .outputs import whole_file
from .volume import Volume

# Measured on spherical plates 2 and 4 mm thick, voxels from 0.4 to 2 mm, isotropic and not: 16 voxels bring the mesh
# nearest to the true surface (1 mm voxels: mean distance 0.21 -> 0.12 mm, normals off by 15 -> 3 degrees); 8 leave the
# steps of the voxels visible, 30 round the rim.
SMOOTHING_VOXELS = 16

# Slicer reads the coordinate system from "SPACE=LPS". A header that began with "solid" would read as an ASCII STL.
_STL_HEADER = b"SPACE=LPS UNIT=mm SkullVAE research software, not for clinical use"
_STL_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


@dataclass(frozen=True)
class Mesh:
    """A closed triangle mesh. points: (N, 3) float64 RAS mm; faces: (M, 3) int64, counter-clockwise from outside."""

    points: np.ndarray
    faces: np.ndarray

    @property
    def area_mm2(self) -> float:
        """Area of the surface in square millimetres."""
        return float(np.linalg.norm(self._cross(), axis=1).sum() / 2)

    @property
    def volume_ml(self) -> float:
        """Volume enclosed, in millilitres; an inner shell around a cavity counts negative."""
        origin = self.points.mean(axis=0) if len(self.points) else 0.0
        return float(np.einsum("ij,ij->", self.points[self.faces[:, 0]] - origin, self._cross()) / 6000)

    def _cross(self) -> np.ndarray:
        """(M, 3) normals whose length is twice the triangle's area."""
        a, b, c = (self.points[self.faces[:, k]] for k in range(3))
        return np.cross(b - a, c - a)


def mask_surface(mask: Volume, smoothing_mm: float | None = None) -> Mesh:
    """The watertight, manifold, outward-oriented surface of a binary labelmap, in RAS mm.

    smoothing_mm: ripples of a shorter wavelength than this (the voxels' steps) are smoothed away; 0 keeps them, None
    takes SMOOTHING_VOXELS times the longest edge of a voxel.

    The mesh is taken from the mask itself and its points are moved afterwards, so smoothing can neither open, split nor
    dissolve anything: a plate one voxel thin stays a plate. (Smoothing the voxels first would thin it or tear it.)
    Every edge belongs to exactly two triangles, whatever the mask: vtkFlyingEdges3D parts voxels that touch along an
    edge or at a corner, so the mesh has one outer shell for each face-connected piece of the mask. The volume is kept:
    a shift along the normals, a fraction of a voxel at most, makes up what smoothing and the cut corners of the voxels
    took.

    Raises SkullVAEError when the mask is empty. An edge of the volume counts as a surface.
    """
    if smoothing_mm is None:
        smoothing_mm = SMOOTHING_VOXELS * float(mask.spacing.max())
    inside = mask.array != 0
    if not inside.any():
        raise SkullVAEError("There is no voxel to make a surface of", "Choose a labelmap that is not empty")
    box, start = _cropped(inside)
    voxel_volume_ml = np.count_nonzero(box) * mask.voxel_ml
    data, points, faces = _flying_edges(box)
    points = (points + (start - 1)) @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    # The triangles face outwards in voxel space; an affine that mirrors turns them over.
    if Mesh(points, faces).volume_ml < 0:
        faces = faces[:, ::-1].copy()
    if smoothing_mm > 0:
        points = _smooth(data, points, smoothing_mm, mask.spacing)
    points = _keep_volume(points, faces, voxel_volume_ml, limit_mm=0.25 * float(mask.spacing.min()))
    return Mesh(points, faces)


def write_stl(mesh: Mesh, path: str | os.PathLike) -> None:
    """Write a binary STL in LPS mm, triangles facing outwards; the file appears whole or not at all."""
    facets = np.zeros(len(mesh.faces), _STL_FACET)
    # RAS -> LPS turns by 180 degrees about the long axis: it does not mirror, so the order of the corners stays right.
    corners = (mesh.points * [-1.0, -1.0, 1.0])[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    facets["corners"] = corners
    facets["normal"] = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    with whole_file(Path(path)) as temporary, open(temporary, "wb") as file:
        file.write(_STL_HEADER.ljust(80))
        file.write(np.uint32(len(facets)).tobytes())
        file.write(facets.tobytes())


def _cropped(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mask's box with one empty voxel on each side, and the index of the box (without that margin)."""
    spans = []
    for axis in range(3):
        filled = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        spans.append(slice(filled[0], filled[-1] + 1))
    return np.pad(inside[tuple(spans)], 1), np.array([span.start for span in spans], float)


def _flying_edges(box: np.ndarray) -> tuple[vtkPolyData, np.ndarray, np.ndarray]:
    """Surface half-way between voxels inside and outside: VTK's mesh, its (N, 3) points in voxels, its (M, 3) faces."""
    image = vtkImageData()
    image.SetDimensions(box.shape)
    image.GetPointData().SetScalars(numpy_to_vtk(box.ravel(order="F").view(np.uint8), deep=True))
    contour = vtkFlyingEdges3D()
    contour.SetInputData(image)
    contour.SetValue(0, 0.5)
    contour.ComputeNormalsOff()
    contour.ComputeGradientsOff()
    contour.ComputeScalarsOff()
    contour.Update()
    data = contour.GetOutput()
    points = vtk_to_numpy(data.GetPoints().GetData()).astype(np.float64)
    faces = vtk_to_numpy(data.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64)
    return data, points, faces


def _smooth(data: vtkPolyData, points: np.ndarray, wavelength_mm: float, spacing: np.ndarray) -> np.ndarray:
    """Points moved by a windowed-sinc low-pass filter over the mesh, which hardly shrinks what it smooths."""
    # A ripple of wavelength L on a mesh of edge length e is an eigenvector of the umbrella Laplacian to about
    # (pi e / L)^2; the mesh's edges are some 0.75 voxel long.
    edge_mm = 0.75 * float(np.prod(spacing)) ** (1 / 3)
    pass_band = float(np.clip((np.pi * edge_mm / wavelength_mm) ** 2, 1e-3, 1.0))
    moved = vtkPoints()
    moved.SetDataTypeToDouble()
    moved.SetData(numpy_to_vtk(points, deep=True))
    data.SetPoints(moved)
    smoother = vtkWindowedSincPolyDataFilter()
    smoother.SetInputData(data)
    smoother.SetPassBand(pass_band)
    smoother.SetNumberOfIterations(int(np.clip(4 / np.sqrt(pass_band), 10, 80)))
    smoother.BoundarySmoothingOff()
    smoother.FeatureEdgeSmoothingOff()
    smoother.NonManifoldSmoothingOn()
    smoother.NormalizeCoordinatesOn()
    smoother.Update()
    return vtk_to_numpy(smoother.GetOutput().GetPoints().GetData()).astype(np.float64)


def _keep_volume(points: np.ndarray, faces: np.ndarray, volume_ml: float, limit_mm: float) -> np.ndarray:
    """Points shifted along their normals, no further than `limit_mm`, so that the mesh encloses `volume_ml`."""
    total = 0.0
    for _ in range(3):
        mesh = Mesh(points, faces)
        shift = np.clip(total + 1000 * (volume_ml - mesh.volume_ml) / mesh.area_mm2, -limit_mm, limit_mm) - total
        cross = mesh._cross()
        normals = np.zeros_like(points)
        for corner in range(3):
            for axis in range(3):
                normals[:, axis] += np.bincount(faces[:, corner], cross[:, axis], minlength=len(points))
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        points = points + shift * normals
        total += shift
    return points
