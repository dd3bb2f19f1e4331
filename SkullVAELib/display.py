"""The skull as a mesh to look at: coarse and small, so that a viewer has it at once and turns it smoothly."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy
from vtkmodules.vtkCommonCore import vtkPoints
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
from vtkmodules.vtkFiltersCore import vtkQuadricClustering

from .surface import Mesh, level_surface
from .volume import Volume

# Below a half, so that bone one voxel thin survives the smoothing.
_ISO = 0.42
_SMOOTHING_VOXELS = 0.8

CELL_MM = 1.8
"""Points nearer together than about this are made one."""


def display_surface(fraction: Volume) -> Mesh:
    """A surface of bone for the eye, RAS mm, in a few tenths of a second; it may touch itself, so it is not to print.

    fraction: fractions 0..1 of bone at about 1 mm, see reduce_bone.
    """
    soft = ndimage.gaussian_filter(fraction.array, _SMOOTHING_VOXELS, truncate=3)
    fine = level_surface(fraction.with_array(soft - np.float32(_ISO)), 0.01)
    if not len(fine.faces):
        return fine
    data, points, cells = vtkPolyData(), vtkPoints(), vtkCellArray()
    points.SetData(numpy_to_vtk(fine.points.astype(np.float32), deep=True))
    cells.SetData(3, numpy_to_vtkIdTypeArray(np.ascontiguousarray(fine.faces).ravel(), deep=True))
    data.SetPoints(points)
    data.SetPolys(cells)
    cluster = vtkQuadricClustering()
    cluster.SetInputData(data)
    cluster.AutoAdjustNumberOfDivisionsOff()
    cluster.SetNumberOfDivisions(*(int(np.ceil(length / CELL_MM)) for length in np.ptp(fine.points, axis=0)))
    cluster.CopyCellDataOff()
    cluster.Update()
    out = cluster.GetOutput()
    places = vtk_to_numpy(out.GetPoints().GetData()).astype(np.float64)
    return Mesh(places, vtk_to_numpy(out.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64))
