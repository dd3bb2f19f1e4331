"""Triangle meshes to and from VTK's polygonal data."""

from __future__ import annotations

import numpy as np
from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy
from vtkmodules.vtkCommonCore import vtkPoints
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData

from SkullVAELib.mesh.mesh import Mesh


def mesh_from_polydata(data: vtkPolyData) -> Mesh:
    """The triangles of VTK's polygonal data as a mesh; empty where there are none."""
    if not data.GetNumberOfPolys():
        return Mesh.empty()
    points = vtk_to_numpy(data.GetPoints().GetData()).astype(np.float64)
    return Mesh(points, vtk_to_numpy(data.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64))


def polydata_from_mesh(mesh: Mesh, dtype: type = np.float64) -> vtkPolyData:
    """A mesh as VTK's polygonal data; dtype: of its points' coordinates."""
    data, points, cells = vtkPolyData(), vtkPoints(), vtkCellArray()
    points.SetData(numpy_to_vtk(mesh.points.astype(dtype), deep=True))
    cells.SetData(3, numpy_to_vtkIdTypeArray(np.ascontiguousarray(mesh.faces).ravel(), deep=True))
    data.SetPoints(points)
    data.SetPolys(cells)
    return data
