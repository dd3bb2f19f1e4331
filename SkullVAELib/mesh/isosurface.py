"""Isosurfaces: the surface of a labelmap or of a scalar image as a closed triangle mesh in millimetres."""

from __future__ import annotations

import numpy as np
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonCore import vtkPoints
from vtkmodules.vtkCommonDataModel import vtkImageData, vtkPolyData
from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D, vtkWindowedSincPolyDataFilter

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.grey_levels import GreyLevels
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.mesh.vtk_conversion import mesh_from_polydata

# Measured on spherical plates 2 and 4 mm thick, voxels of 0.4 to 2 mm, isotropic and anisotropic: 16 voxels bring the
# mesh closest to the true surface (1 mm voxels: mean distance 0.21 -> 0.12 mm, error of the normals 15 -> 3 degrees);
# with 8 the steps of the voxels remain visible, 30 round off the rim.
SMOOTHING_VOXELS = 16


# Bone has edges at a hole. Measured on a shell 6 mm thick with an inclined hole, voxels of 0.5 to 1.2 mm, axis-aligned
# and oblique: with 12 voxels the wall of the hole is 0.03 mm too far inside the hole, with a mean error of 0.05 mm
# (1 mm voxels: 0.06 mm); with 16 it is 0.09 mm too far inside, with 8 the steps of the voxels remain (0.12 mm). Finer
# voxels tolerate more: at 0.5 mm the error is 0.02 mm with 16 and with 24 voxels.
BONE_SMOOTHING_VOXELS = 12


BONE_SMOOTHING_MM = 10.0


# The points of a mask's surface are half-way between two voxels: moved by less than half a voxel, the two sides of bone
# that is one voxel thin cannot intersect, and every voxel centre stays on its side.
MOST_SHIFT_VOXELS = 0.4


# From bone to air the value changes by about 1000 HU a voxel, so this moves a surface by at most 0.01 voxel.
GREY_SNAP_HU = 10.0


def mask_surface(mask: Volume, smoothing_mm: float | None = None) -> Mesh:
    """The surface of a binary labelmap: watertight, manifold, facing outwards, in RAS mm.

    Parameters
    ----------
    mask : Volume
        Non-zero voxels are inside. A border of the volume counts as a surface.
    smoothing_mm : float, optional
        Ripples of a shorter wavelength (the steps of the voxels) are smoothed; 0 keeps them; by default
        SMOOTHING_VOXELS times the edge of a cube as large as a voxel: the longest edge would smooth the shape within
        thick slices away.

    Returns
    -------
    Mesh

    Raises
    ------
    SkullVAEError
        The mask is empty.

    Notes
    -----
    The mesh is extracted from the mask and its points are moved afterwards, so smoothing can neither open nor split a
    plate that is one voxel thin, as smoothing of the voxels would. Every edge belongs to exactly two triangles for any
    mask: vtkFlyingEdges3D separates voxels that touch at an edge or a corner, so the mesh has one outer shell for each
    face-connected component of the mask. A shift along the normals, at most a fraction of a voxel, restores the volume
    that smoothing and the cut corners of the voxels removed.
    """
    if smoothing_mm is None:
        smoothing_mm = SMOOTHING_VOXELS * _edge_mm(mask.spacing)
    inside = mask.array != 0
    if not inside.any():
        raise SkullVAEError("There is no voxel to make a surface of", "Choose a labelmap that is not empty")
    box, start = _cropped(inside)
    voxel_volume_ml = np.count_nonzero(box) * mask.voxel_ml
    data, points, faces = _flying_edges(box)
    points = (points + (start - 1)) @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    faces = Mesh.outward(points, faces).faces
    if smoothing_mm > 0:
        points = _smooth(data, points, smoothing_mm, mask.spacing)
    points = _keep_volume(points, faces, voxel_volume_ml, limit_mm=0.25 * float(mask.spacing.min()))
    return Mesh(points, faces)


def bone_surface(bone: Volume, grey: GreyLevels | None = None) -> Mesh:
    """The surface of a bone mask below the voxel size, in RAS mm; every voxel centre stays on its side of it.

    Parameters
    ----------
    bone : Volume
        Non-zero voxels are bone. A border of the volume counts as a surface.
    grey : GreyLevels, optional
        The CT on the same grid. Without it the steps of the voxels are smoothed.

    Returns
    -------
    Mesh
        Empty if the mask is.
    """
    inside = bone.array != 0
    if not inside.any():
        return Mesh.empty()
    if grey is not None:
        # Voxels above the threshold that are not bone, such as small components, are forced outside.
        level = grey.image.array.astype(np.float32) - grey.level
        level = np.where(inside, np.maximum(level * grey.balance, GREY_SNAP_HU), np.minimum(level, -GREY_SNAP_HU))
        return level_surface(Volume(level, bone.affine), GREY_SNAP_HU)
    box, start = _cropped(inside)
    data, points, faces = _flying_edges(box)
    world = (points + (start - 1)) @ bone.affine[:3, :3].T + bone.affine[:3, 3]
    faces = Mesh.outward(world, faces).faces
    wavelength = max(BONE_SMOOTHING_VOXELS * _edge_mm(bone.spacing), BONE_SMOOTHING_MM)
    moved = _smooth(data, world, wavelength, bone.spacing)
    shift = (moved - world) @ np.linalg.inv(bone.affine[:3, :3]).T
    return Mesh(world + np.clip(shift, -MOST_SHIFT_VOXELS, MOST_SHIFT_VOXELS) @ bone.affine[:3, :3].T, faces)


def level_surface(level: Volume, snap: float) -> Mesh:
    """The surface where an image crosses zero: closed, manifold, facing outwards, in RAS mm.

    Parameters
    ----------
    level : Volume
        Positive inside. A border of the volume counts as a surface.
    snap : float
        Values closer to zero than this are moved to it, so that no two points of the mesh coincide where the surface
        passes through a voxel centre.

    Returns
    -------
    Mesh
        Empty if no value is positive.
    """
    values = np.asarray(level.array, np.float32)
    values = np.where(values > 0, np.maximum(values, snap), np.minimum(values, -snap))
    edge = float(max(snap, np.abs(values).max()))
    _, points, faces = _flying_edges(np.pad(values, 1, constant_values=-edge), 0.0)
    if not len(faces):
        return Mesh.empty()
    points = (points - 1) @ level.affine[:3, :3].T + level.affine[:3, 3]
    return Mesh.outward(points, faces)


def _cropped(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mask cropped to its bounding box, with one empty voxel on each side, and the box's first index."""
    box = bounding_box(inside)
    return np.pad(inside[box], 1), np.array([side.start for side in box], float)


def _flying_edges(box: np.ndarray, value: float = 0.5) -> tuple[vtkPolyData, np.ndarray, np.ndarray]:
    """Isosurface of an array: VTK's mesh, its points (N, 3) in voxels, its faces (M, 3)."""
    image = vtkImageData()
    image.SetDimensions(box.shape)
    voxels = box.view(np.uint8) if box.dtype == bool else box
    image.GetPointData().SetScalars(numpy_to_vtk(voxels.ravel(order="F"), deep=True))
    contour = vtkFlyingEdges3D()
    contour.SetInputData(image)
    contour.SetValue(0, value)
    contour.ComputeNormalsOff()
    contour.ComputeGradientsOff()
    contour.ComputeScalarsOff()
    contour.Update()
    data = contour.GetOutput()
    mesh = mesh_from_polydata(data)
    return data, mesh.points, mesh.faces


def _edge_mm(spacing: np.ndarray) -> float:
    """Edge in mm of a cube as large as a voxel."""
    return float(np.prod(spacing)) ** (1 / 3)


def _smooth(data: vtkPolyData, points: np.ndarray, wavelength_mm: float, spacing: np.ndarray) -> np.ndarray:
    """Points moved by a windowed-sinc low-pass filter over the mesh, which causes little shrinkage."""
    # A ripple of wavelength L on a mesh of edge length e is an eigenvector of the umbrella Laplacian to about
    # (pi e / L)^2; the mesh's edges are about 0.75 voxel long.
    edge_mm = 0.75 * _edge_mm(spacing)
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
        points = points + shift * mesh.vertex_normals()
        total += shift
    return points
