"""Model nodes of the printable implant and of the skull surface, and their colouring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy

from SkullVAELib.mesh.colours import THICKNESS_SCALE_MM, UNCERTAINTY_SCALE_MM, length_colours

from .meshfiles import MeshData
from .segments import looks, removeNode

THICKNESS, UNCERTAINTY = "Thickness (mm)", "Uncertainty (mm)"

# Roles of the models. Scenes saved by version 0.1 contain these values.
IMPLANT_ROLE, SKULL_ROLE = "part", "skull"


@dataclass(frozen=True)
class _Scale:
    """Colour scale: length in mm of the last colour, labels of the legend, name and singleton tag of the table."""

    most_mm: float
    labels: int
    name: str
    tag: str


_SCALES = {
    THICKNESS: _Scale(THICKNESS_SCALE_MM, 6, "SkullVAE thickness", "SkullVAEThickness"),
    UNCERTAINTY: _Scale(UNCERTAINTY_SCALE_MM, 4, "SkullVAE uncertainty", "SkullVAEUncertainty"),
}


def polyData(mesh: MeshData) -> vtk.vtkPolyData:
    """The mesh in RAS mm, with thickness and uncertainty as point scalars if the mesh has them."""
    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(mesh.points, np.float32), deep=True))
    cells = vtk.vtkCellArray()
    offsets = numpy_to_vtkIdTypeArray(np.arange(0, 3 * len(mesh.faces) + 1, 3, dtype=np.int64), deep=True)
    corners = numpy_to_vtkIdTypeArray(np.ascontiguousarray(mesh.faces, np.int64).ravel(), deep=True)
    cells.SetData(offsets, corners)
    result = vtk.vtkPolyData()
    result.SetPoints(points)
    result.SetPolys(cells)
    for name, millimetres in ((THICKNESS, mesh.thickness), (UNCERTAINTY, mesh.uncertainty)):
        if millimetres is not None:
            scalars = numpy_to_vtk(np.ascontiguousarray(millimetres, np.float32), deep=True)
            scalars.SetName(name)
            result.GetPointData().AddArray(scalars)
    return result


def meshData(polydata) -> MeshData:
    """The triangles of a model in its own RAS mm; the inverse of polyData()."""
    points = vtk_to_numpy(polydata.GetPoints().GetData())
    faces = vtk_to_numpy(polydata.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    arrays = [polydata.GetPointData().GetArray(name) for name in (THICKNESS, UNCERTAINTY)]
    return MeshData(points, faces, *(None if array is None else vtk_to_numpy(array) for array in arrays))


def addModel(role: str, mesh: MeshData):
    """Add and show a model node of this mesh: "Printable implant" (IMPLANT_ROLE) or "Skull surface" (SKULL_ROLE)."""
    name, look = {
        IMPLANT_ROLE: (_("Printable implant"), looks()["implant"]),
        SKULL_ROLE: (_("Skull surface"), looks()["completed"]),
    }[role]
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", slicer.mrmlScene.GenerateUniqueName(name))
    node.SetAndObserveMesh(polyData(mesh))
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetColor(look.color)
    display.SetScalarVisibility(False)
    # The slice views show the segments already.
    display.SetVisibility2D(False)
    return node


def changeModel(node, mesh: MeshData) -> None:
    """Replace the mesh of a model. Its display is kept, except a colouring that the new mesh has no values for."""
    node.SetAndObserveMesh(polyData(mesh))
    name = shownColours(node)
    if name is not None and not hasScalars(node, name):
        showColours(node, None)


def removeModel(node) -> None:
    """Remove a model with its display, storage and unused colours."""
    removeNode(node)
    _removeUnusedColors()


def hasScalars(node, name: str) -> bool:
    """Whether a model has THICKNESS or UNCERTAINTY as point scalars."""
    mesh = node.GetPolyData() if node is not None else None
    return mesh is not None and mesh.GetPointData().GetArray(name) is not None


def shownColours(node) -> str | None:
    """The scalars that a model is coloured by, THICKNESS or UNCERTAINTY; None for neither."""
    display = node.GetDisplayNode() if node is not None else None
    if display is None or not display.GetScalarVisibility():
        return None
    return display.GetActiveScalarName()


def showColours(node, name: str | None) -> None:
    """Colour a printable implant by THICKNESS (0 violet to 10 mm yellow) or UNCERTAINTY (to 3 mm), with a legend.

    None, or scalars that the model does not have, resets the model to its own colour.
    """
    display = node.GetDisplayNode()
    if name is not None and hasScalars(node, name):
        scale = _SCALES[name]
        # In this order, because choosing the scalars also sets range and colours.
        display.SetActiveScalar(name, vtk.vtkAssignAttribute.POINT_DATA)
        display.SetAndObserveColorNodeID(_colors(scale).GetID())
        display.SetScalarRangeFlag(slicer.vtkMRMLDisplayNode.UseManualScalarRange)
        display.SetScalarRange(0, scale.most_mm)
        display.SetScalarVisibility(True)
        _removeUnusedColors()
        legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node)
        legend.SetTitleText(name)
        legend.SetLabelFormat("%.0f")
        legend.SetNumberOfLabels(scale.labels)
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


def _colors(scale: _Scale):
    """The scene's colour table of a scale, added when it is first needed."""
    scene = slicer.mrmlScene
    colors = scene.GetSingletonNode(scale.tag, "vtkMRMLColorTableNode")
    if colors is None:
        colors = slicer.vtkMRMLColorTableNode()
        colors.SetSingletonTag(scale.tag)
        colors.SetName(scale.name)
        colors.SetTypeToUser()
        colors.SetNumberOfColors(256)
        for index, color in enumerate((length_colours(np.linspace(0, 1, 256), 1) / 255).tolist()):
            colors.SetColor(index, *color, 1)
        colors.GetLookupTable().SetRange(0, scale.most_mm)
        colors = scene.AddNode(colors)
    return colors


def _removeUnusedColors() -> None:
    displays = slicer.util.getNodesByClass("vtkMRMLModelDisplayNode")
    used = {display.GetColorNodeID() for display in displays}
    for scale in _SCALES.values():
        colors = slicer.mrmlScene.GetSingletonNode(scale.tag, "vtkMRMLColorTableNode")
        if colors is not None and colors.GetID() not in used:
            slicer.mrmlScene.RemoveNode(colors)
