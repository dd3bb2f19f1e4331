"""The skull as a mesh to look at: coarse and small, so that a viewer has it at once and turns it smoothly."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
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
    cluster = vtkQuadricClustering()
    cluster.SetInputData(fine.polydata(np.float32))
    cluster.AutoAdjustNumberOfDivisionsOff()
    cluster.SetNumberOfDivisions(*(int(np.ceil(length / CELL_MM)) for length in np.ptp(fine.points, axis=0)))
    cluster.CopyCellDataOff()
    cluster.Update()
    return Mesh.of_polydata(cluster.GetOutput())
