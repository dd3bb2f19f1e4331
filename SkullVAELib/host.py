"""The host: the patient's skull as a mesh, to look at and to print beside the part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree
from vtkmodules.vtkCommonExecutionModel import vtkAlgorithm
from vtkmodules.vtkFiltersCore import vtkDecimatePro

from .bone import bounding_box
from .frame import apply_affine, crop
from .surface import Grey, Mesh, bone_surface, joined

if TYPE_CHECKING:
    from .completion import Completion

TOLERANCE_MM = 0.05
"""What decimation reckons with as its error; measured, the surface moves by up to 0.2 mm."""

EXACT_MM = 10.0
"""Nearer to the implant than this nothing is decimated: there the clearance is measured."""


ATTEMPTS = 3


def host_surface(completion: Completion, grey: Grey | None = None) -> Mesh:
    """The surface of all bone: near the implant the very one that the part keeps its clearance from, elsewhere with
    fewer triangles.

    grey: the CT that was completed, None for a labelmap.
    """
    box = bounding_box(completion.bone.array)
    mesh = bone_surface(crop(completion.bone, box), None if grey is None else grey.crop(box))
    implant = completion.implant
    voxels = apply_affine(implant.affine, np.argwhere(implant.array))
    far = np.ones(len(mesh.faces), bool)
    if len(voxels):
        reach = cKDTree(voxels).query(mesh.points, distance_upper_bound=EXACT_MM)[0]
        far = np.isinf(reach)[mesh.faces].all(axis=1)
    # Decimation leaves out points but moves none, and none of a border: both parts fit together again. Now and then it
    # lets two folds of a surface meet in an edge; there the mesh is then left as it is.
    for _ in range(ATTEMPTS):
        host = _merged(joined([Mesh(mesh.points, mesh.faces[~far]), _decimated(Mesh(mesh.points, mesh.faces[far]))]))
        knots = host.points[_not_manifold(host)]
        if not len(knots):
            return host
        far &= np.isinf(cKDTree(knots).query(mesh.points, distance_upper_bound=3.0)[0])[mesh.faces].all(axis=1)
    return mesh


def _not_manifold(mesh: Mesh) -> np.ndarray:
    """(N,) indices of the ends of edges that have not exactly two triangles."""
    edges = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    found, count = np.unique(edges @ [len(mesh.points), 1], return_counts=True)
    return np.stack(np.divmod(found[count != 2], len(mesh.points))).ravel()


def _merged(mesh: Mesh) -> Mesh:
    """The mesh with points at the same place made one, and without those that no triangle uses."""
    places, where = np.unique(mesh.points, axis=0, return_inverse=True)
    used, faces = np.unique(where.ravel()[mesh.faces], return_inverse=True)
    return Mesh(places[used], faces.reshape(-1, 3))


def _decimated(mesh: Mesh) -> Mesh:
    """The mesh with fewer triangles, its borders as they were and as closed as it was."""
    if not len(mesh.faces):
        return mesh
    decimate = vtkDecimatePro()
    decimate.SetInputData(mesh.polydata())
    decimate.SetOutputPointsPrecision(vtkAlgorithm.DOUBLE_PRECISION)
    decimate.SetTargetReduction(0.9)
    decimate.PreserveTopologyOn()
    decimate.SplittingOff()
    decimate.BoundaryVertexDeletionOff()
    decimate.SetErrorIsAbsolute(1)
    decimate.SetAbsoluteError(TOLERANCE_MM)
    decimate.Update()
    return Mesh.of_polydata(decimate.GetOutput())
