"""Meshes in the scene: the printable part and the skull to look at, as model nodes."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy

from SkullVAELib.thickness_colours import THICK_MM, thickness_colours

from .meshfiles import MeshData
from .segments import looks, removeNode

THICKNESS = "Thickness (mm)"
_COLORS_NAME = "SkullVAE thickness"
_COLORS_TAG = "SkullVAEThickness"


def polyData(mesh: MeshData) -> vtk.vtkPolyData:
    """The mesh in RAS mm, with the thickness as point scalars where it is known."""
    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(mesh.points, np.float32), deep=True))
    cells = vtk.vtkCellArray()
    offsets = numpy_to_vtkIdTypeArray(np.arange(0, 3 * len(mesh.faces) + 1, 3, dtype=np.int64), deep=True)
    corners = numpy_to_vtkIdTypeArray(np.ascontiguousarray(mesh.faces, np.int64).ravel(), deep=True)
    cells.SetData(offsets, corners)
    result = vtk.vtkPolyData()
    result.SetPoints(points)
    result.SetPolys(cells)
    if mesh.thickness is not None:
        scalars = numpy_to_vtk(np.ascontiguousarray(mesh.thickness, np.float32), deep=True)
        scalars.SetName(THICKNESS)
        result.GetPointData().AddArray(scalars)
    return result


def meshData(polydata) -> MeshData:
    """The triangles of a model in its own RAS mm; the opposite of polyData()."""
    points = vtk_to_numpy(polydata.GetPoints().GetData())
    faces = vtk_to_numpy(polydata.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    thickness = polydata.GetPointData().GetArray(THICKNESS)
    return MeshData(points, faces, None if thickness is None else vtk_to_numpy(thickness))


def addModel(role: str, mesh: MeshData):
    """A model node "Implant part" (role "part") or "Skull surface" (role "skull") with this mesh, on display."""
    name, look = {
        "part": (_("Implant part"), looks()["implant"]),
        "skull": (_("Skull surface"), looks()["completed"]),
    }[role]
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", slicer.mrmlScene.GenerateUniqueName(name))
    node.SetAndObserveMesh(polyData(mesh))
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetColor(look.color)
    display.SetScalarVisibility(False)
    # In the slices the segments show the same, voxel by voxel.
    display.SetVisibility2D(False)
    return node


def changeModel(node, mesh: MeshData) -> None:
    """Give a model another mesh; how it is shown stays."""
    node.SetAndObserveMesh(polyData(mesh))


def removeModel(node) -> None:
    """Remove a model with what belongs to it alone."""
    removeNode(node)
    _removeUnusedColors()


def hasThickness(node) -> bool:
    """Whether a model knows its thickness at every point."""
    mesh = node.GetPolyData() if node is not None else None
    return mesh is not None and mesh.GetPointData().GetArray(THICKNESS) is not None


def showThickness(node, shown: bool) -> None:
    """Colour a part by its thickness, violet 0 to yellow 10 mm, with a legend, or show it in its own colour again.

    Does nothing where the thickness is not known.
    """
    display = node.GetDisplayNode()
    if shown and hasThickness(node):
        # In this order: choosing the scalars also chooses a range and colours.
        display.SetActiveScalar(THICKNESS, vtk.vtkAssignAttribute.POINT_DATA)
        display.SetAndObserveColorNodeID(_thicknessColors().GetID())
        display.SetScalarRangeFlag(slicer.vtkMRMLDisplayNode.UseManualScalarRange)
        display.SetScalarRange(0, THICK_MM)
        display.SetScalarVisibility(True)
        legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node)
        legend.SetTitleText(THICKNESS)
        legend.SetLabelFormat("%.0f")
        legend.SetNumberOfLabels(6)
        legend.SetSize(0.1, 0.35)
        legend.SetPosition(0.95, 0.5)
        for text in (legend.GetTitleTextProperty(), legend.GetLabelTextProperty()):
            text.SetFontSize(16)
        legend.SetVisibility2D(False)
    else:
        display.SetScalarVisibility(False)
        legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)
        if legend is not None:
            slicer.mrmlScene.RemoveNode(legend)
        display.SetAndObserveColorNodeID("")
        _removeUnusedColors()


def _thicknessColors():
    """The colour table of the scene, made when it is first wanted."""
    scene = slicer.mrmlScene
    colors = scene.GetSingletonNode(_COLORS_TAG, "vtkMRMLColorTableNode")
    if colors is None:
        colors = slicer.vtkMRMLColorTableNode()
        colors.SetSingletonTag(_COLORS_TAG)
        colors.SetName(_COLORS_NAME)
        colors.SetTypeToUser()
        colors.SetNumberOfColors(256)
        for index, color in enumerate((thickness_colours(np.linspace(0, THICK_MM, 256)) / 255).tolist()):
            colors.SetColor(index, *color, 1)
        colors.GetLookupTable().SetRange(0, THICK_MM)
        colors = scene.AddNode(colors)
    return colors


def _removeUnusedColors() -> None:
    colors = slicer.mrmlScene.GetSingletonNode(_COLORS_TAG, "vtkMRMLColorTableNode")
    if colors is None:
        return
    displays = slicer.util.getNodesByClass("vtkMRMLModelDisplayNode")
    if not any(display.GetColorNodeID() == colors.GetID() for display in displays):
        slicer.mrmlScene.RemoveNode(colors)
