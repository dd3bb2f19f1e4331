"""Additional printed parts of an implant, which are mould, fit ring and template: their figures and their models."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import slicer
from slicer.i18n import tr as _

from .meshfiles import MeshData
from .meshnodes import polyData, removeModel
from .segments import madeNodes, markAsMade

# Attributes of a model: the name of the part, and the request that it was made for.
_PART_ATTRIBUTE, _REQUEST_ATTRIBUTE = "SkullVAE.part", "SkullVAE.request"

# The halves of a mould are translucent, so that the implant in them is visible.
_COLOUR, _OPACITY = (0.72, 0.74, 0.62), {"mould": 0.4}


@dataclass(frozen=True)
class AdditionalParts:
    """Parts that the process of a result has made for its present implant.

    value: the value of the request; number: that of the request; meshes: RAS mm in the input's own coordinates, by the
    stems of the files; figures: field "tooling" of the report; warnings: one line each.
    """

    value: dict
    number: int = 0
    meshes: dict[str, MeshData] = field(default_factory=dict)
    figures: dict = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PartRow:
    """A row of the table of parts, as texts. cast: volume of the material to pour into a mould; empty for others."""

    name: str
    volume: str
    size: str
    cast: str = ""


def partRows(parts: AdditionalParts) -> list[PartRow]:
    """The rows of the table of parts."""
    rows = []
    for entry in (parts.figures.get("mould") or {}).get("pieces", []):
        name = _numbered(_("Mould"), entry["piece"])
        size = _size(entry["size_mm"])
        rows.append(PartRow(name, _millilitres(sum(entry["halves_ml"])), size, _millilitres(entry["cement_ml"])))
    for kind, stem, title in (("ring", "fit_ring", _("Fit ring")), ("template", "template", _("Template"))):
        for number, entry in enumerate((parts.figures.get(kind) or {}).get("parts", []), 1):
            mesh = parts.meshes.get(stem if number == 1 else f"{stem}_{number}")
            size = "-" if mesh is None else _size(np.ptp(mesh.points, axis=0))
            rows.append(PartRow(_numbered(title, number), _millilitres(entry["volume_ml"]), size))
    return rows


def partName(stem: str) -> str:
    """The name of a part in the scene, from the stem of its file.

    >>> partName("mould_2_a"), partName("fit_ring"), partName("template_3")
    ('Mould 2 half A', 'Fit ring', 'Template 3')
    """
    kind, number, half = re.fullmatch(r"([a-z_]+?)(?:_(\d+))?(?:_([ab]))?", stem).groups()
    title = {"mould": _("Mould"), "fit_ring": _("Fit ring"), "template": _("Template")}.get(kind, kind)
    name = _numbered(title, int(number or 1))
    return _("{name} half {half}").format(name=name, half=half.upper()) if half else name


def partModels(inputNode, segmentID: str) -> list:
    """The models of parts of this input."""
    models = [] if inputNode is None else madeNodes("vtkMRMLModelNode", inputNode, segmentID)
    return [model for model in models if model.GetAttribute(_PART_ATTRIBUTE)]


def removeParts(inputNode, segmentID: str) -> None:
    """Remove the models of parts of this input."""
    for model in partModels(inputNode, segmentID):
        removeModel(model)


def showParts(parts: AdditionalParts | None, inputNode, segmentID: str, folder: int) -> None:
    """Show these parts as models in a folder of the subject hierarchy; remove others. None removes all."""
    meshes = {} if parts is None else parts.meshes
    request = "" if parts is None else str(parts.number)
    shown = {}
    for model in partModels(inputNode, segmentID):
        name = model.GetAttribute(_PART_ATTRIBUTE)
        if name in meshes and name not in shown and model.GetAttribute(_REQUEST_ATTRIBUTE) == request:
            shown[name] = model
        else:
            removeModel(model)
    for name, mesh in meshes.items():
        if name not in shown:
            _addPart(name, mesh, request, inputNode, segmentID, folder)


def _addPart(name: str, mesh: MeshData, request: str, inputNode, segmentID: str, folder: int) -> None:
    scene = slicer.mrmlScene
    model = scene.AddNewNodeByClass("vtkMRMLModelNode", scene.GenerateUniqueName(partName(name)))
    model.SetAndObserveMesh(polyData(mesh))
    model.CreateDefaultDisplayNodes()
    display = model.GetDisplayNode()
    display.SetColor(_COLOUR)
    display.SetOpacity(_OPACITY.get(name.partition("_")[0], 1.0))
    # Cutting meshes of some hundred thousand triangles at every move of a slice would block the views.
    display.SetVisibility2D(False)
    markAsMade(model, inputNode, segmentID)
    model.SetAttribute(_PART_ATTRIBUTE, name)
    model.SetAttribute(_REQUEST_ATTRIBUTE, request)
    model.SetAndObserveTransformNodeID(inputNode.GetTransformNodeID())
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(model)
    if not folder:
        return
    if item:
        hierarchy.SetItemParent(item, folder)
    else:
        hierarchy.CreateItem(folder, model)


def _numbered(title: str, number: int) -> str:
    return title if number == 1 else f"{title} {number}"


def _millilitres(volume: float) -> str:
    return _("{volume:.1f} ml").format(volume=volume)


def _size(sides) -> str:
    return " x ".join(f"{side:.0f}" for side in sides)
