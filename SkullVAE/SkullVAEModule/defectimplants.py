"""Implants of single defects, where a result has several: their meshes and voxels, and the model of those shown.

The model of the printable implant is that of all defects at all times. While some are hidden, a second model shows the
others in its place.
"""

from __future__ import annotations

import json

import numpy as np
import slicer
from slicer.i18n import tr as _

from .masks import Mask
from .meshfiles import MeshData, joined, selectFaces
from .meshnodes import IMPLANT_ROLE, addDisplay, addModel, changeModel, meshData, removeModel, showColours, shownColours
from .segments import (
    INPUT_ROLE,
    ROLE_TAG,
    SOURCE_ATTRIBUTE,
    madeSegmentation,
    markAsMade,
    resultSegmentIDs,
    segmentTag,
)

# Reference of the model of the printable implant to that of the defects shown, and attribute of both models with the
# numbers of the defects shown, while some are hidden.
_SHOWN_ROLE = "SkullVAE.shown"
_NUMBERS_ATTRIBUTE = "SkullVAE.shown"


def defectFigures(report: dict) -> list[dict]:
    """The figures of the implant of each defect; none where there is one defect only."""
    figures = (report.get("printable_implant") or {}).get("defects") or []
    return figures if len(figures) > 1 else []


def isDivisible(model, report: dict) -> bool:
    """Whether the implants of single defects are known in the model of the printable implant."""
    polydata = None if model is None else model.GetPolyData()
    return polydata is not None and bool(_triangles(polydata.GetNumberOfPolys(), report))


def defectMeshes(mesh: MeshData, report: dict) -> dict[int, MeshData]:
    """The mesh of each defect's implant, by the defect's number; empty where they are not known.

    The mesh of all consists of the triangles of one piece after the other, as the report lists them.
    """
    return {number: selectFaces(mesh, chosen) for number, chosen in _triangles(len(mesh.faces), report).items()}


def defectVoxels(implant: Mask, affine: np.ndarray, meshes: dict[int, MeshData]) -> dict[int, Mask]:
    """The voxels of each defect's implant: connected components of voxels, each for the mesh nearest to it.

    affine: (4, 4) voxel index -> RAS mm, in which the meshes are.
    """
    from scipy import ndimage
    from scipy.spatial import cKDTree

    labels, count = ndimage.label(implant.array)
    index = np.argwhere(labels)
    points = (index + implant.start) @ affine[:3, :3].T + affine[:3, 3]
    own = labels[tuple(index.T)]
    size = np.bincount(own, minlength=count + 1)[1:]
    numbers = list(meshes)
    distances = np.array(
        [
            np.bincount(own, cKDTree(meshes[number].points).query(points)[0], minlength=count + 1)[1:] / size
            for number in numbers
        ]
    )
    nearest = np.concatenate([[-1], distances.argmin(axis=0)])[labels]
    return {number: implant.where(nearest == row) for row, number in enumerate(numbers)}


# --------------------------------------------------------------------------------------------------------------------
# Models


def displayedModel(model):
    """The model that shows the printable implant: that of all defects, or that of those shown."""
    return _shownModel(model) or model


def shownDefects(model, report: dict) -> set[int]:
    """Numbers of the defects whose implants are shown."""
    every = {entry["defect"] for entry in defectFigures(report)}
    shown = _shownModel(model)
    return every if shown is None else every & _numbers(shown)


def showDefects(model, report: dict, numbers: set[int]) -> None:
    """Show the implants of these defects only, in 3D and in the slice views; those of all as before.

    In the slice views, the outlines of the printable implant take the place of the voxels while some are hidden.
    """
    shown = _shownModel(model)
    every = {entry["defect"] for entry in defectFigures(report)} if isDivisible(model, report) else set()
    if not every - numbers:
        if shown is not None:
            _showAll(model, shown)
        return
    meshes = defectMeshes(meshData(model.GetPolyData()), report)
    mesh = joined([meshes[number] for number in sorted(every & numbers)])
    if shown is None:
        shown = _addShownModel(model, mesh)
    else:
        changeModel(shown, mesh)
    for each in (model, shown):
        each.SetAttribute(_NUMBERS_ATTRIBUTE, json.dumps(sorted(every & numbers)))
    model.SetNodeReferenceID(_SHOWN_ROLE, shown.GetID())


def followModel(model, report: dict) -> None:
    """Show the same defects after mesh or report of the printable implant have changed; all, if they are other ones."""
    shown = _shownModel(model)
    if shown is not None:
        showDefects(model, report, _numbers(shown))


def followScene(model) -> None:
    """Show what the models stand for after they were changed outside the panel: by the user, or by undo and redo."""
    if model is None or not model.GetAttribute(_NUMBERS_ATTRIBUTE):
        return
    shown = _shownModel(model)
    if shown is None:
        # The user has removed the model of the defects shown.
        model.RemoveAttribute(_NUMBERS_ATTRIBUTE)
        model.SetDisplayVisibility(True)
        _showVoxels(model, True)
        return
    if shown.GetDisplayNode() is None:
        addDisplay(shown, IMPLANT_ROLE)
        shown.GetDisplayNode().SetVisibility2D(True)
        model.SetDisplayVisibility(False)
    _showVoxels(model, False)


def removeShownModel(model) -> None:
    """Remove the model of the defects shown; called before that of all is removed."""
    shown = _shownModel(model)
    if shown is not None:
        _showVoxels(model, True)
        removeModel(shown)


def centreOf(model, report: dict, number: int) -> np.ndarray | None:
    """(3,) centre of a defect's implant, RAS mm in the model's own coordinates; None where it is not known."""
    mesh = defectMeshes(meshData(model.GetPolyData()), report).get(number)
    return None if mesh is None else (mesh.points.min(axis=0) + mesh.points.max(axis=0)).astype(float) / 2


def _triangles(count: int, report: dict) -> dict[int, np.ndarray]:
    """Indices of the triangles of each defect in a mesh with this many; empty where they are not known."""
    pieces = (report.get("printable_implant") or {}).get("pieces") or []
    counts = [piece.get("triangles", 0) for piece in pieces]
    of = np.repeat([piece.get("defect", 0) for piece in pieces], counts)
    numbers = [entry["defect"] for entry in defectFigures(report)]
    if not numbers or len(of) != count or set(of.tolist()) != set(numbers):
        return {}
    return {number: np.flatnonzero(of == number) for number in numbers}


def _shownModel(model):
    shown = None if model is None else model.GetNodeReference(_SHOWN_ROLE)
    # The ID of a model that was removed may be that of another one.
    return None if shown is None or shown.GetAttribute(_NUMBERS_ATTRIBUTE) is None else shown


def _numbers(shown) -> set[int]:
    try:
        return set(json.loads(shown.GetAttribute(_NUMBERS_ATTRIBUTE) or "[]"))
    except (ValueError, TypeError):
        return set()


def _addShownModel(model, mesh: MeshData):
    """Add a model in the place of that of all defects, which looks the same."""
    shown = addModel(IMPLANT_ROLE, mesh)
    shown.SetName(slicer.mrmlScene.GenerateUniqueName(_("{name}, shown defects").format(name=model.GetName())))
    markAsMade(shown, model.GetNodeReference(INPUT_ROLE), model.GetAttribute(SOURCE_ATTRIBUTE) or "")
    shown.SetAndObserveTransformNodeID(model.GetTransformNodeID())
    shown.SetUndoEnabled(model.GetUndoEnabled())
    display, before = shown.GetDisplayNode(), model.GetDisplayNode()
    display.SetColor(before.GetColor())
    display.SetOpacity(before.GetOpacity())
    display.SetVisibility2D(True)
    shown.SetDisplayVisibility(model.GetDisplayVisibility())
    _moveColours(model, shown)
    model.SetDisplayVisibility(False)
    _showVoxels(model, False)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item, place = hierarchy.GetItemByDataNode(shown), hierarchy.GetItemParent(hierarchy.GetItemByDataNode(model))
    if item:
        hierarchy.SetItemParent(item, place)
    else:
        hierarchy.CreateItem(place, shown)
    return shown


def _showAll(model, shown) -> None:
    model.SetDisplayVisibility(shown.GetDisplayVisibility())
    _moveColours(shown, model)
    _showVoxels(model, True)
    model.RemoveNodeReferenceIDs(_SHOWN_ROLE)
    model.RemoveAttribute(_NUMBERS_ATTRIBUTE)
    removeModel(shown)


def _moveColours(before, after) -> None:
    name = shownColours(before)
    if name is not None:
        showColours(after, name)
        showColours(before, None)


def _showVoxels(model, visible: bool) -> None:
    """Show or hide the implant's segment in the slice views; its outline only where the model has none."""
    display = model.GetDisplayNode()
    outlined = visible and not (display is not None and display.GetVisibility2D())
    node, segmentID = model.GetNodeReference(INPUT_ROLE), model.GetAttribute(SOURCE_ATTRIBUTE) or ""
    if node is None:
        return
    for target in (madeSegmentation(node, segmentID), node):
        if target is None or not target.IsA("vtkMRMLSegmentationNode") or target.GetDisplayNode() is None:
            continue
        segmentation, display = target.GetSegmentation(), target.GetDisplayNode()
        for each in resultSegmentIDs(segmentation, segmentID):
            if segmentTag(segmentation.GetSegment(each), ROLE_TAG) == "implant":
                if display.GetSegmentVisibility2DFill(each) != visible:
                    display.SetSegmentVisibility2DFill(each, visible)
                if display.GetSegmentVisibility2DOutline(each) != outlined:
                    display.SetSegmentVisibility2DOutline(each, outlined)
