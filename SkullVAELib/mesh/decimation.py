"""Surfaces with fewer triangles: the skull to print beside the implant, and a coarse one to look at."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from vtkmodules.util.numpy_support import numpy_to_vtkIdTypeArray, vtk_to_numpy
from vtkmodules.vtkFiltersCore import vtkDecimatePro, vtkQuadricClustering

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.grey_levels import GreyLevels
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.mesh.isosurface import bone_surface, level_surface
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.mesh.vtk_conversion import mesh_from_polydata, polydata_from_mesh

# Below a half, so that bone one voxel thin survives the smoothing.
_ISO = 0.42


_SMOOTHING_MM = 0.8


CELL_MM = 1.8
"""Size of the cells whose points are merged in the surface for display."""


def display_surface(fraction: Volume) -> Mesh:
    """A coarse surface of bone for display, RAS mm; it may intersect itself, so it is not for printing.

    Parameters
    ----------
    fraction : Volume
        Bone fractions 0..1 at about 1 mm, see downsample_mask.
    """
    soft = ndimage.gaussian_filter(fraction.array, _SMOOTHING_MM / fraction.spacing, truncate=3)
    fine = level_surface(fraction.with_array(soft - np.float32(_ISO)), 0.01)
    if not len(fine.faces):
        return fine
    cluster = vtkQuadricClustering()
    cluster.SetInputData(polydata_from_mesh(fine, np.float32))
    cluster.AutoAdjustNumberOfDivisionsOff()
    cluster.SetNumberOfDivisions(*(int(np.ceil(length / CELL_MM)) for length in np.ptp(fine.points, axis=0)))
    cluster.CopyCellDataOff()
    cluster.Update()
    return mesh_from_polydata(cluster.GetOutput())


TOLERANCE_MM = 0.05
"""Error tolerance of the decimation; measured, the surface moves by up to 0.2 mm."""


EXACT_MM = 10.0
"""Within this distance of the implant nothing is decimated, since clearance is measured there."""


ATTEMPTS = 3
"""Attempts to decimate a block that became non-manifold; after the last one the block is kept as it is."""


BLOCK_MM = 40.0
"""The surface is decimated in blocks of this size, so that a failure affects one block only."""


AROUND_MM = 6.0
"""Radius around a non-manifold edge in which the mesh is kept."""


_NUMBER = "number"


def skull_surface(bone: Volume, implant: Volume, grey: GreyLevels | None = None) -> Mesh:
    """The surface of the defective skull: near the implant as used for its clearance, elsewhere with fewer triangles.

    Parameters
    ----------
    bone, implant : Volume
        Masks; their grids may differ.
    grey : GreyLevels, optional
        The CT that was completed; None for a labelmap.

    Returns
    -------
    Mesh
        RAS, mm; closed and manifold.
    """
    box = bounding_box(bone.array)
    mesh = bone_surface(crop(bone, box), None if grey is None else grey.crop(box))
    voxels = apply_affine(implant.affine, np.argwhere(implant.array))
    far = np.ones(len(mesh.faces), bool)
    if len(voxels):
        reach = cKDTree(voxels).query(mesh.points, distance_upper_bound=EXACT_MM)[0]
        far = np.isinf(reach)[mesh.faces].all(axis=1)
    # Decimation removes points but moves none, and removes none on a border, so the blocks fit together. Occasionally
    # it lets two folds of a surface meet in an edge; there the mesh is kept as it is, finally the whole block.
    blocks = _blocks(mesh, np.flatnonzero(far))
    kept = [np.zeros(len(block), bool) for block in blocks]
    parts = [_decimated(mesh, block, keep) for block, keep in zip(blocks, kept, strict=True)]
    for attempt in range(ATTEMPTS + 1):
        faces = np.concatenate([mesh.faces[~far], *parts])
        knots = _not_manifold(faces)
        if not len(knots):
            return mesh.of_triangles(faces)
        if attempt == ATTEMPTS:
            break
        close = np.isfinite(cKDTree(mesh.points[knots]).query(mesh.points, distance_upper_bound=AROUND_MM)[0])
        for number, block in enumerate(blocks):
            touched = close[mesh.faces[block]].any(axis=1)
            if touched.any():
                kept[number] |= touched if attempt < ATTEMPTS - 1 else True
                parts[number] = _decimated(mesh, block, kept[number])
    return mesh


def _blocks(mesh: Mesh, chosen: np.ndarray) -> list[np.ndarray]:
    """Indices (N,) of triangles, block by block."""
    cell = np.floor(mesh.points[mesh.faces[chosen, 0]] / BLOCK_MM).astype(int)
    label = np.unique(cell, axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(label, kind="stable")
    return np.split(chosen[order], np.flatnonzero(np.diff(label[order])) + 1) if len(chosen) else []


def _not_manifold(faces: np.ndarray) -> np.ndarray:
    """Points (N,) at the ends of edges that do not have exactly two of the triangles (M, 3)."""
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    size = int(faces.max()) + 1
    found, count = np.unique(edges @ [size, 1], return_counts=True)
    return np.unique(np.stack(np.divmod(found[count != 2], size)))


def _decimated(mesh: Mesh, block: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """A block of a mesh with fewer triangles (M, 3) of the same points; its borders are unchanged.

    block: (N,) indices of its triangles; keep: (N,) bool, those that are not decimated.
    """
    faces = mesh.faces[block[~keep]]
    if not len(faces):
        return mesh.faces[block]
    used, local = np.unique(faces, return_inverse=True)
    data = polydata_from_mesh(Mesh(mesh.points[used], local.reshape(-1, 3)))
    numbers = numpy_to_vtkIdTypeArray(used.astype(np.int64), deep=True)
    numbers.SetName(_NUMBER)
    data.GetPointData().AddArray(numbers)
    decimate = vtkDecimatePro()
    decimate.SetInputData(data)
    decimate.SetTargetReduction(0.9)
    decimate.PreserveTopologyOn()
    decimate.SplittingOff()
    decimate.BoundaryVertexDeletionOff()
    decimate.SetErrorIsAbsolute(1)
    decimate.SetAbsoluteError(TOLERANCE_MM)
    decimate.Update()
    made = decimate.GetOutput()
    left = vtk_to_numpy(made.GetPointData().GetArray(_NUMBER))
    return np.concatenate([mesh.faces[block[keep]], left[mesh_from_polydata(made).faces]])
