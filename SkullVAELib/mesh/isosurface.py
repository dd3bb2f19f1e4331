"""The surface of a labelmap or of an image: one closed triangle mesh in millimetres."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonCore import vtkPoints
from vtkmodules.vtkCommonDataModel import vtkImageData, vtkPolyData
from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D, vtkWindowedSincPolyDataFilter

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.mesh.vtk_conversion import mesh_from_polydata

# Measured on spherical plates 2 and 4 mm thick, voxels from 0.4 to 2 mm, isotropic and not: 16 voxels bring the mesh
# nearest to the true surface (1 mm voxels: mean distance 0.21 -> 0.12 mm, normals off by 15 -> 3 degrees); 8 leave the
# steps of the voxels visible, 30 round the rim.
SMOOTHING_VOXELS = 16


# Bone has edges at a hole that a plate has not. Measured on a shell 6 mm thick with a leaning hole, voxels from 0.5 to
# 1.2 mm, tilted and not: with 12 voxels the wall of the hole lies 0.03 mm too far in the hole and off by 0.05 mm (1 mm
# voxels: 0.06 mm) in the mean; with 16 it lies 0.09 mm too far in, with 8 the steps of the voxels stay (0.12 mm).
# Finer voxels bear more of them: with 0.5 mm it is off by 0.02 mm with 16 voxels and with 24.
BONE_SMOOTHING_VOXELS = 12


BONE_SMOOTHING_MM = 10.0


# The points of a mask's surface lie half-way between two voxels: moved by less than half a voxel, the sides of bone one
# voxel thin cannot pass through each other, and every voxel's centre stays on its side.
MOST_SHIFT_VOXELS = 0.4


# Between bone and air a voxel spans about 1000 HU, so this moves a surface by a hundredth of a voxel at most.
GREY_SNAP_HU = 10.0


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
    faces = Mesh.outward(points, faces).faces
    if smoothing_mm > 0:
        points = _smooth(data, points, smoothing_mm, mask.spacing)
    points = _keep_volume(points, faces, voxel_volume_ml, limit_mm=0.25 * float(mask.spacing.min()))
    return Mesh(points, faces)


@dataclass(frozen=True)
class GreyLevels:
    """The CT that a bone mask was cut from, whose grey values tell where between two voxels bone begins.

    image: HU; threshold_hu: bone begins here; balance: what values above the threshold are multiplied by so that bone
    ends half-way between voxels in the mean. It does: a voxel's centre is in bone or not. But from the threshold the
    grey values rise steeply into bone and fall slowly outside, and a straight line between two voxels meets the
    threshold too far out, in the demo's CT by 0.15 mm.
    """

    image: Volume
    threshold_hu: float
    balance: float = 1.0

    @classmethod
    def of(cls, image: Volume, bone: Volume, threshold_hu: float) -> GreyLevels:
        """The grey values around a bone mask on the same grid, balanced over some fifty of its slices."""
        every = max(1, bone.array.shape[2] // 50)
        inside = bone.array[:, :, ::every] != 0
        level = image.array[:, :, ::every].astype(np.float32) - np.float32(threshold_hu - 0.5)
        pairs = [np.zeros((2, 0))]
        for axis in (0, 1):
            first, second = (slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))
            for shares in (first, second):
                here, there = (tuple(s if a == axis else slice(None) for a in range(3)) for s in shares)
                crossing = inside[here] & (level[there] < 0)
                pairs.append(np.stack([level[here][crossing], -level[there][crossing]]))
        inner, outer = np.concatenate(pairs, axis=1)
        low, high = 1e-3, 1e3
        for _ in range(30 if inner.size else 0):
            middle = float(np.sqrt(low * high))
            too_far = (middle * inner / (middle * inner + outer)).mean() > 0.5
            low, high = (low, middle) if too_far else (middle, high)
        return cls(image, threshold_hu, float(np.sqrt(low * high)))

    def crop(self, box: tuple[slice, ...]) -> GreyLevels:
        """A box of it, for the same box of the mask."""
        return replace(self, image=Volume(self.image.array[box], self.image.affine))


def bone_surface(bone: Volume, grey: GreyLevels | None = None) -> Mesh:
    """The surface of a bone mask below the voxel size, in RAS mm; every voxel's centre stays on its side of it.

    grey: the CT on the same grid. Without it the steps of the voxels are smoothed away. An edge of the mask counts as a
    surface; empty when the mask is.
    """
    inside = bone.array != 0
    if not inside.any():
        return Mesh.empty()
    if grey is not None:
        # Half a unit further down: a voxel at the threshold is bone. What is over it and yet no bone, such as a small
        # component, is held outside.
        level = grey.image.array.astype(np.float32) - np.float32(grey.threshold_hu - 0.5)
        level = np.where(inside, np.maximum(level * grey.balance, GREY_SNAP_HU), np.minimum(level, -GREY_SNAP_HU))
        return level_surface(Volume(level, bone.affine), GREY_SNAP_HU)
    box, start = _cropped(inside)
    data, points, faces = _flying_edges(box)
    world = (points + (start - 1)) @ bone.affine[:3, :3].T + bone.affine[:3, 3]
    faces = Mesh.outward(world, faces).faces
    wavelength = max(BONE_SMOOTHING_VOXELS * float(bone.spacing.max()), BONE_SMOOTHING_MM)
    moved = _smooth(data, world, wavelength, bone.spacing)
    shift = (moved - world) @ np.linalg.inv(bone.affine[:3, :3]).T
    return Mesh(world + np.clip(shift, -MOST_SHIFT_VOXELS, MOST_SHIFT_VOXELS) @ bone.affine[:3, :3].T, faces)


def level_surface(level: Volume, snap: float) -> Mesh:
    """The surface where an image crosses zero, positive inside, in RAS mm: closed, manifold, outward-oriented.

    snap: values nearer to zero than this are moved to it, so that no two points of the mesh coincide where the surface
    passes through a voxel's centre. An edge of the image counts as a surface. Empty when nothing is inside.
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
    """The mask's box with one empty voxel on each side, and the index of the box (without that margin)."""
    box = bounding_box(inside)
    return np.pad(inside[box], 1), np.array([side.start for side in box], float)


def _flying_edges(box: np.ndarray, value: float = 0.5) -> tuple[vtkPolyData, np.ndarray, np.ndarray]:
    """Surface at a value between voxels: VTK's mesh, its (N, 3) points in voxels, its (M, 3) faces."""
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
        points = points + shift * mesh.vertex_normals()
        total += shift
    return points
