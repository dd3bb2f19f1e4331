"""Model nodes of the printable implant and of the skull surface, and their colouring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy

from SkullVAELib.mesh.colours import (
    DIFFERENCE_SCALE_MM,
    THICKNESS_SCALE_MM,
    UNCERTAINTY_SCALE_MM,
    difference_colours,
    length_colours,
)

from .meshfiles import MeshData
from .segments import looks, removeNode

THICKNESS, UNCERTAINTY = "Thickness (mm)", "Uncertainty (mm)"
DIFFERENCE = "Difference to mirrored side (mm)"
DEVIATION = "Distance from plan to outcome (mm)"

# Colour of points without a value.
_UNKNOWN = (0.6, 0.6, 0.6)

# Width of the outline of the printable implant in the slice views.
_LINE_PIXELS = 3

# Roles of the models. Scenes saved by version 0.1 contain these values.
IMPLANT_ROLE, SKULL_ROLE = "part", "skull"


@dataclass(frozen=True)
class _Scale:
    """Colour scale: lengths in mm of the first and last colour, labels of the legend, name and tag of the table.

    title: of the legend, where the name of the scalars is too long.
    """

    least_mm: float
    most_mm: float
    labels: int
    name: str
    tag: str
    title: str = ""

    def colours(self) -> np.ndarray:
        """(256, 3) RGB 0..1."""
        lengths = np.linspace(self.least_mm, self.most_mm, 256)
        made = difference_colours(lengths) if self.least_mm < 0 else length_colours(lengths, self.most_mm)
        return made / 255


_SCALES = {
    THICKNESS: _Scale(0, THICKNESS_SCALE_MM, 6, "SkullVAE thickness", "SkullVAEThickness"),
    UNCERTAINTY: _Scale(0, UNCERTAINTY_SCALE_MM, 4, "SkullVAE uncertainty", "SkullVAEUncertainty"),
    DIFFERENCE: _Scale(
        -DIFFERENCE_SCALE_MM,
        DIFFERENCE_SCALE_MM,
        5,
        "SkullVAE difference",
        "SkullVAEDifference",
        "Difference to mirror (mm)",
    ),
    DEVIATION: _Scale(
        -DIFFERENCE_SCALE_MM,
        DIFFERENCE_SCALE_MM,
        5,
        "SkullVAE plan and outcome",
        "SkullVAEDeviation",
        "Plan to outcome (mm)",
    ),
}


def polyData(mesh: MeshData) -> vtk.vtkPolyData:
    """The mesh in RAS mm with normals for smooth shading, and with its values in mm as point scalars."""
    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(mesh.points, np.float32), deep=True))
    cells = vtk.vtkCellArray()
    offsets = numpy_to_vtkIdTypeArray(np.arange(0, 3 * len(mesh.faces) + 1, 3, dtype=np.int64), deep=True)
    corners = numpy_to_vtkIdTypeArray(np.ascontiguousarray(mesh.faces, np.int64).ravel(), deep=True)
    cells.SetData(offsets, corners)
    result = vtk.vtkPolyData()
    result.SetPoints(points)
    result.SetPolys(cells)
    # Without splitting, the points stay those of the mesh.
    smooth = vtk.vtkPolyDataNormals()
    smooth.SetInputData(result)
    smooth.SplittingOff()
    smooth.ConsistencyOff()
    smooth.Update()
    result.GetPointData().SetNormals(smooth.GetOutput().GetPointData().GetNormals())
    values = (THICKNESS, mesh.thickness), (UNCERTAINTY, mesh.uncertainty), (DIFFERENCE, mesh.difference)
    values = *values, (DEVIATION, mesh.deviation)
    for name, millimetres in values:
        if millimetres is not None:
            scalars = numpy_to_vtk(np.ascontiguousarray(millimetres, np.float32), deep=True)
            scalars.SetName(name)
            result.GetPointData().AddArray(scalars)
    return result


def meshData(polydata) -> MeshData:
    """The triangles of a model in its own RAS mm; the inverse of polyData()."""
    points = vtk_to_numpy(polydata.GetPoints().GetData())
    faces = vtk_to_numpy(polydata.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    arrays = [polydata.GetPointData().GetArray(name) for name in (THICKNESS, UNCERTAINTY, DIFFERENCE, DEVIATION)]
    return MeshData(points, faces, *(None if array is None else vtk_to_numpy(array) for array in arrays))


def addModel(role: str, mesh: MeshData):
    """Add and show a model node of this mesh: "Printable implant" (IMPLANT_ROLE) or "Skull surface" (SKULL_ROLE)."""
    name = {IMPLANT_ROLE: _("Printable implant"), SKULL_ROLE: _("Skull surface")}[role]
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", slicer.mrmlScene.GenerateUniqueName(name))
    node.SetAndObserveMesh(polyData(mesh))
    addDisplay(node, role)
    return node


def addDisplay(node, role: str) -> None:
    """Add the display of a model, unless it has one."""
    if node.GetDisplayNode() is not None:
        return
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetColor(looks()[{IMPLANT_ROLE: "implant", SKULL_ROLE: "completed"}[role]].color)
    display.SetScalarVisibility(False)
    display.SetInterpolation(slicer.vtkMRMLDisplayNode.PhongInterpolation)
    # In the slice views, segments show the skull and the predicted shape, and a line shows what is printed.
    display.SetVisibility2D(role == IMPLANT_ROLE)
    display.SetSliceIntersectionThickness(_LINE_PIXELS)


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
    """Whether a model has THICKNESS, UNCERTAINTY, DIFFERENCE or DEVIATION as point scalars."""
    mesh = node.GetPolyData() if node is not None else None
    return mesh is not None and mesh.GetPointData().GetArray(name) is not None


def shownColours(node) -> str | None:
    """The scalars that a model is coloured by, THICKNESS, UNCERTAINTY or DIFFERENCE; None for none."""
    display = node.GetDisplayNode() if node is not None else None
    if display is None or not display.GetScalarVisibility():
        return None
    return display.GetActiveScalarName()


def showColours(node, name: str | None, most: float | None = None) -> None:
    """Colour a printable implant by THICKNESS (0 violet to 10 mm yellow), UNCERTAINTY (to 3 mm) or DIFFERENCE.

    A legend is shown. DIFFERENCE is blue at -4 mm, white at 0 and orange at 4 mm, and grey where it is unknown.
    None, or scalars that the model does not have, resets the model to its own colour. most: end of the scale of
    DEVIATION in mm, which has the colours of DIFFERENCE.
    """
    display = node.GetDisplayNode()
    if name is not None and hasScalars(node, name):
        scale = _SCALES[name]
        # In this order, because choosing the scalars also sets range and colours.
        display.SetActiveScalar(name, vtk.vtkAssignAttribute.POINT_DATA)
        display.SetAndObserveColorNodeID(_colors(scale).GetID())
        display.SetScalarRangeFlag(slicer.vtkMRMLDisplayNode.UseManualScalarRange)
        least, end = (scale.least_mm, scale.most_mm) if most is None else (-most, most)
        display.SetScalarRange(least, end)
        display.SetScalarVisibility(True)
        _removeUnusedColors()
        legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node)
        legend.SetTitleText(scale.title or name)
        legend.SetLabelFormat("%.0f" if most is None else "%.1f")
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
        for index, color in enumerate(scale.colours().tolist()):
            colors.SetColor(index, *color, 1)
        colors.GetLookupTable().SetRange(scale.least_mm, scale.most_mm)
        colors = scene.AddNode(colors)
    # Not saved with the scene.
    colors.GetLookupTable().SetNanColor(*_UNKNOWN, 1)
    return colors


def _removeUnusedColors() -> None:
    displays = slicer.util.getNodesByClass("vtkMRMLModelDisplayNode")
    used = {display.GetColorNodeID() for display in displays}
    for scale in _SCALES.values():
        colors = slicer.mrmlScene.GetSingletonNode(scale.tag, "vtkMRMLColorTableNode")
        if colors is not None and colors.GetID() not in used:
            slicer.mrmlScene.RemoveNode(colors)
