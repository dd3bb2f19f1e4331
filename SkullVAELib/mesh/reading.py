"""Reading of mesh files (STL, PLY, OBJ), and the voxels inside a mesh."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkImageData
from vtkmodules.vtkFiltersCore import vtkCleanPolyData, vtkTriangleFilter
from vtkmodules.vtkFiltersModeling import vtkFillHolesFilter
from vtkmodules.vtkImagingStencil import vtkImageStencil, vtkPolyDataToImageStencil
from vtkmodules.vtkIOGeometry import vtkOBJReader, vtkSTLReader
from vtkmodules.vtkIOPLY import vtkPLYReader

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.mesh.vtk_conversion import mesh_from_polydata, polydata_from_mesh

MESH_SUFFIXES = (".stl", ".ply", ".obj")
"""Suffixes of the mesh files that can be read."""

_READERS: dict[str, Any] = {".stl": vtkSTLReader, ".ply": vtkPLYReader, ".obj": vtkOBJReader}

# Openings of a scan with at most this share of open edges are closed; a mesh with more has no inside.
_OPEN_SHARE = 0.01


def is_mesh_file(path: str | os.PathLike) -> bool:
    """Whether a file name has the suffix of a mesh.

    >>> [is_mesh_file(name) for name in ("flap.STL", "head.nrrd")]
    [True, False]
    """
    return Path(path).suffix.lower() in MESH_SUFFIXES


def read_mesh(path: str | os.PathLike) -> Mesh:
    """Read a closed mesh from an STL, PLY or OBJ file in millimetres.

    Coordinates are LPS, as this library and Slicer write them, unless the header says "SPACE=RAS". Small openings, as
    scans have, are closed.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    Mesh
        RAS mm, triangles facing outwards.

    Raises
    ------
    SkullVAEError
        The file is missing or damaged, or its surface is not closed.
    """
    path = Path(path)
    if not path.is_file():
        raise SkullVAEError(f"The file '{path}' does not exist", "Check the path")
    if path.stat().st_size == 0:
        raise SkullVAEError(f"The file '{path}' is empty", "Export or copy it again")
    _check_stl_length(path)
    reader = _READERS[path.suffix.lower()]()
    reader.SetFileName(str(path))
    reader.GlobalWarningDisplayOff()
    reader.Update()
    triangles, clean = vtkTriangleFilter(), vtkCleanPolyData()
    triangles.SetInputData(reader.GetOutput())
    triangles.PassLinesOff()
    triangles.PassVertsOff()
    clean.SetInputConnection(triangles.GetOutputPort())
    clean.ConvertPolysToLinesOff()
    clean.Update()
    mesh = mesh_from_polydata(clean.GetOutput())
    if len(mesh.faces) < 20 or not np.isfinite(mesh.points).all():
        raise SkullVAEError(
            f"'{path.name}' has no readable surface ({len(mesh.faces)} triangles)",
            "Export the scan or the implant again as binary STL",
        )
    with open(path, "rb") as file:
        head = file.read(2048)
    if not re.search(rb"SPACE\s*=\s*RAS", head):
        mesh = Mesh(mesh.points * [-1.0, -1.0, 1.0], mesh.faces)
    mesh = _closed(mesh, path.name)
    return Mesh(mesh.points, mesh.faces[:, ::-1].copy()) if mesh.volume_ml < 0 else mesh


def _check_stl_length(path: Path) -> None:
    """Raise SkullVAEError for a binary STL that is cut short, which VTK reads without notice."""
    if path.suffix.lower() != ".stl":
        return
    with open(path, "rb") as file:
        head = file.read(84)
    size = path.stat().st_size
    binary = not head.lstrip().startswith(b"solid") or b"\0" in head
    if binary and (len(head) < 84 or size < 84 + 50 * int.from_bytes(head[80:84], "little")):
        raise SkullVAEError(f"The file '{path}' is cut short", "Export or copy it again")


def _open_edges(mesh: Mesh) -> int:
    """Number of edges that belong to one triangle only."""
    edges = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, count = np.unique(edges[:, 0] * len(mesh.points) + edges[:, 1], return_counts=True)
    return int((count == 1).sum())


def _closed(mesh: Mesh, name: str) -> Mesh:
    """The mesh with small openings filled; raises SkullVAEError for one that is open."""
    loose = _open_edges(mesh)
    if not loose:
        return mesh
    if loose < _OPEN_SHARE * 1.5 * len(mesh.faces):
        fill, triangles = vtkFillHolesFilter(), vtkTriangleFilter()
        fill.SetInputData(polydata_from_mesh(mesh))
        fill.SetHoleSize(1e3)
        triangles.SetInputConnection(fill.GetOutputPort())
        triangles.Update()
        return mesh_from_polydata(triangles.GetOutput())
    raise SkullVAEError(
        f"The surface in '{name}' is not closed, so that it has no inside",
        "Close it in the scanner's program, or export the segmentation as a closed surface",
    )


def voxelise(mesh: Mesh, spacing_mm: float, margin_mm: float = 4.0) -> Volume:
    """Fraction of each voxel that is inside a closed mesh.

    Parameters
    ----------
    mesh : Mesh
        RAS mm.
    spacing_mm : float
        Edge of a voxel, mm.
    margin_mm : float
        Margin around the mesh, mm.

    Returns
    -------
    Volume
        float32, 0..1 in steps of an eighth.
    """
    low = mesh.points.min(0) - margin_mm
    shape = np.ceil((np.ptp(mesh.points, axis=0) + 2 * margin_mm) / spacing_mm).astype(int)
    image = vtkImageData()
    # Not exactly at round numbers: a face of the mesh that lies in a plane of voxels has no side.
    start = low + spacing_mm / 4 + 1e-4 * spacing_mm * np.array([0.31, 0.47, 0.59])
    image.SetDimensions(*(2 * shape).tolist())
    image.SetSpacing(*[spacing_mm / 2] * 3)
    image.SetOrigin(*start.tolist())
    image.AllocateScalars(3, 1)  # VTK_UNSIGNED_CHAR
    vtk_to_numpy(image.GetPointData().GetScalars())[:] = 1
    stencil, cut = vtkPolyDataToImageStencil(), vtkImageStencil()
    stencil.SetInputData(polydata_from_mesh(mesh))
    stencil.SetOutputOrigin(*start.tolist())
    stencil.SetOutputSpacing(*[spacing_mm / 2] * 3)
    stencil.SetOutputWholeExtent(image.GetExtent())
    cut.SetInputData(image)
    cut.SetStencilConnection(stencil.GetOutputPort())
    cut.SetBackgroundValue(0)
    cut.Update()
    inside = vtk_to_numpy(cut.GetOutput().GetPointData().GetScalars()).reshape(2 * shape, order="F")
    blocks = inside.reshape(shape[0], 2, shape[1], 2, shape[2], 2)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = low + spacing_mm / 2
    return Volume(blocks.mean(axis=(1, 3, 5), dtype=np.float32), affine)
