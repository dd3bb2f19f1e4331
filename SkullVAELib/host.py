"""The host: the patient's skull as a mesh, to look at and to print beside the part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree
from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy
from vtkmodules.vtkCommonCore import vtkPoints
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
from vtkmodules.vtkCommonExecutionModel import vtkAlgorithm
from vtkmodules.vtkFiltersCore import vtkDecimatePro

from .bone import bounding_box
from .frame import crop
from .surface import Mesh, bone_surface, joined
from .volume import Volume

if TYPE_CHECKING:
    from .completion import Completion

TOLERANCE_MM = 0.05
"""What decimation reckons with as its error; measured, the surface moves by up to 0.2 mm."""

EXACT_MM = 10.0
"""Nearer to the implant than this nothing is decimated: there the clearance is measured."""


def host_surface(completion: Completion, image: Volume | None = None) -> Mesh:
    """The surface of all bone: near the implant the very one that the part keeps its clearance from, elsewhere with
    fewer triangles.

    image: the CT that was completed, None for a labelmap.
    """
    box = bounding_box(completion.bone.array)
    threshold = completion.report["bone"].get("threshold_hu")
    mesh = bone_surface(crop(completion.bone, box), None if image is None else crop(image, box), threshold)
    implant = completion.implant
    voxels = np.argwhere(implant.array) @ implant.affine[:3, :3].T + implant.affine[:3, 3]
    far = np.ones(len(mesh.faces), bool)
    if len(voxels):
        reach = cKDTree(voxels).query(mesh.points, distance_upper_bound=EXACT_MM)[0]
        far = np.isinf(reach)[mesh.faces].all(axis=1)
    # Decimation leaves out points but moves none, and none of a border: both parts fit together again.
    return _merged(joined([Mesh(mesh.points, mesh.faces[~far]), _decimated(Mesh(mesh.points, mesh.faces[far]))]))


def _merged(mesh: Mesh) -> Mesh:
    """The mesh with points at the same place made one, and without those that no triangle uses."""
    places, where = np.unique(mesh.points, axis=0, return_inverse=True)
    used, faces = np.unique(where.ravel()[mesh.faces], return_inverse=True)
    return Mesh(places[used], faces.reshape(-1, 3))


def _decimated(mesh: Mesh) -> Mesh:
    """The mesh with fewer triangles, its borders as they were and as closed as it was."""
    if not len(mesh.faces):
        return mesh
    data, points, cells = vtkPolyData(), vtkPoints(), vtkCellArray()
    points.SetData(numpy_to_vtk(mesh.points, deep=True))
    cells.SetData(3, numpy_to_vtkIdTypeArray(np.ascontiguousarray(mesh.faces).ravel(), deep=True))
    data.SetPoints(points)
    data.SetPolys(cells)
    decimate = vtkDecimatePro()
    decimate.SetInputData(data)
    decimate.SetOutputPointsPrecision(vtkAlgorithm.DOUBLE_PRECISION)
    decimate.SetTargetReduction(0.9)
    decimate.PreserveTopologyOn()
    decimate.SplittingOff()
    decimate.BoundaryVertexDeletionOff()
    decimate.SetErrorIsAbsolute(1)
    decimate.SetAbsoluteError(TOLERANCE_MM)
    decimate.Update()
    out = decimate.GetOutput()
    places = vtk_to_numpy(out.GetPoints().GetData()).astype(np.float64)
    return Mesh(places, vtk_to_numpy(out.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64))
