"""A result in the scene: two segments, two models and their folder; adds, finds, changes and removes it.

Tags, attributes and node references, which are saved with the scene, link the result to its input.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import slicer
from slicer.i18n import tr as _

from SkullVAELib.core.errors import SkullVAEError

from .additionalparts import removeParts
from .completion import CompletionResult
from .defectimplants import followModel, removeShownModel
from .masks import Mask
from .meshfiles import MeshData
from .meshnodes import IMPLANT_ROLE, SKULL_ROLE, addDisplay, addModel, changeModel, removeModel
from .segments import (
    EDITED_TAG,
    ROLE_TAG,
    SHAPE_TAG,
    SOURCE_TAG,
    VOXELS_TAG,
    SkullInput,
    addSegments,
    changeSegment,
    imageOf,
    isAsAdded,
    madeNodes,
    madeSegmentation,
    markAsMade,
    markEdited,
    markVoxels,
    removeNode,
    resultSegmentIDs,
    segmentMask,
    segmentTag,
    targetSegmentation,
)

_ROLE_ATTRIBUTE = "SkullVAE.role"
# Attribute of the implant's model: tag of the implant's voxels that it was made from.
_MADE_FOR_ATTRIBUTE = VOXELS_TAG
_FOLDER_ROLE = "folder"
# Attribute of the implant's model: report fields that the panel shows, also after the scene was saved and loaded.
_FIGURES_ATTRIBUTE = "SkullVAE.figures"
_FIGURES = ("found", "implant", "printable_implant", "edited", "checks", "candidates", "reference", "warnings")
# Name of the field "printable_implant" in scenes saved by version 0.1.
_FORMER_FIELD = "part"


@dataclass(frozen=True)
class AddedResult:
    """The nodes of a result. The models are None, and folderItemID is 0, if the library has written no meshes."""

    segmentationNode: slicer.vtkMRMLSegmentationNode
    completedID: str
    implantID: str
    implantModelNode: slicer.vtkMRMLModelNode | None = None
    skullModelNode: slicer.vtkMRMLModelNode | None = None
    folderItemID: int = 0

    @property
    def exists(self) -> bool:
        """Whether segmentation and segment of the implant are still in the scene."""
        return (
            slicer.mrmlScene.IsNodePresent(self.segmentationNode) != 0
            and self.segmentationNode.GetSegmentation().GetSegment(self.implantID) is not None
        )


def addResult(source: SkullInput, result: CompletionResult, newSegmentation: bool = False) -> AddedResult:
    """Add the result to the scene and replace an earlier result of the same input; one undo step.

    The segments are added to the input's segmentation or to a new one (see segments.targetSegmentation), the meshes as
    model nodes in a folder beside the input. All nodes follow the transform of the input.
    Raises SkullVAEError if the input is no longer in the scene.
    """
    node = slicer.mrmlScene.GetNodeByID(source.nodeID)
    if node is None:
        raise SkullVAEError("The input was removed from the scene during the run", "Run again with another input")
    saveStateForUndo(node)
    target = targetSegmentation(source, newSegmentation)
    earlier = resultOf(node, source.segmentID)
    if earlier is not None and earlier.segmentationNode is not target:
        # The setting of the segmentation that results are added to has changed.
        _removeSegments(earlier, node, source.segmentID)
    ids = addSegments(target, source, {"completed": result.completed, "implant": result.implant}, result.report)
    removeParts(node, source.segmentID)
    # Also of a result whose segment of the implant the user has removed.
    former = _models(node, source.segmentID)
    formerFolder = _folderOf([*former.values(), *filter(None, [madeSegmentation(node, source.segmentID)])])
    implantModel = _putModel(IMPLANT_ROLE, former.get(IMPLANT_ROLE), result.printableImplant, node, source.segmentID)
    skullModel = _putModel(SKULL_ROLE, former.get(SKULL_ROLE), result.skull, node, source.segmentID)
    if implantModel is not None:
        implantModel.SetAttribute(_MADE_FOR_ATTRIBUTE, _voxelsOf(target, ids["implant"]))
    _keepFigures(implantModel, result.report)
    inside = [model for model in (implantModel, skullModel) if model is not None]
    if target is not node:
        inside.append(target)
    if slicer.mrmlScene.GetUndoFlag():
        for made in inside:
            made.SetUndoEnabled(True)
    folder = _putIntoFolder(node, inside, formerFolder)
    return AddedResult(target, ids["completed"], ids["implant"], implantModel, skullModel, folder)


def changeResult(
    added: AddedResult,
    source: SkullInput,
    report: dict,
    completed: Mask | None = None,
    implant: Mask | None = None,
    printableImplant: MeshData | None = None,
) -> AddedResult:
    """Replace masks and mesh of a result in place; None keeps the current one.

    A mesh is added to a result without one. Returns the result, which is the same object unless a mesh was added.
    """
    for segmentID, mask in ((added.completedID, completed), (added.implantID, implant)):
        if mask is not None and added.segmentationNode.GetSegmentation().GetSegment(segmentID) is not None:
            changeSegment(added.segmentationNode, segmentID, source, mask, report)
    if added.exists:
        markEdited(added.segmentationNode, added.implantID, report.get("edited"))
    model = added.implantModelNode
    if model is None and printableImplant is not None:
        node = slicer.mrmlScene.GetNodeByID(source.nodeID)
        model = _putModel(IMPLANT_ROLE, None, printableImplant, node, source.segmentID)
        folder = _putIntoFolder(node, [] if model is None else [model], added.folderItemID)
        added = replace(added, implantModelNode=model, folderItemID=folder)
    elif printableImplant is not None and slicer.mrmlScene.IsNodePresent(model):
        changeModel(model, printableImplant)
    if model is None or not slicer.mrmlScene.IsNodePresent(model):
        return added
    if printableImplant is not None:
        model.SetAttribute(_MADE_FOR_ATTRIBUTE, _voxelsOf(added.segmentationNode, added.implantID))
    _keepFigures(model, report)
    return added


def figuresOf(added: AddedResult) -> dict:
    """The report fields of a result that the panel shows, also after saving and loading."""
    model = added.implantModelNode
    try:
        figures = json.loads((model.GetAttribute(_FIGURES_ATTRIBUTE) if model is not None else None) or "{}")
    except ValueError:
        return {}
    if not isinstance(figures, dict):
        return {}
    if _FORMER_FIELD in figures:
        figures.setdefault("printable_implant", figures.pop(_FORMER_FIELD))
    return figures


def resultOf(inputNode, segmentID: str = "") -> AddedResult | None:
    """The result of an input in the scene, also after the scene was saved and loaded; None without one."""
    if inputNode is None:
        return None
    made = madeSegmentation(inputNode, segmentID)
    own = inputNode if inputNode.IsA("vtkMRMLSegmentationNode") else None
    models = _models(inputNode, segmentID)
    for target in (made, own):
        if target is None:
            continue
        ids = _idsByRole(target, segmentID)
        if "implant" in ids:
            folder = _folderOf([*models.values(), *([made] if made is not None else [])])
            implantModel, skullModel = models.get(IMPLANT_ROLE), models.get(SKULL_ROLE)
            return AddedResult(target, ids.get("completed", ""), ids["implant"], implantModel, skullModel, folder)
    return None


def restoreDisplays(added: AddedResult) -> None:
    """Add displays that are missing: undo restores nodes that were removed, but not their displays."""
    added.segmentationNode.CreateDefaultDisplayNodes()
    for role, model in ((IMPLANT_ROLE, added.implantModelNode), (SKULL_ROLE, added.skullModelNode)):
        if model is not None:
            addDisplay(model, role)


def hasRemains(inputNode, segmentID: str = "") -> bool:
    """Whether there is anything that removeResult() removes, also if the segment of the implant was removed by hand."""
    if inputNode is None:
        return False
    if _models(inputNode, segmentID):
        return True
    targets = [madeSegmentation(inputNode, segmentID)]
    if inputNode.IsA("vtkMRMLSegmentationNode"):
        targets.append(inputNode)
    return any(resultSegmentIDs(each.GetSegmentation(), segmentID) for each in targets if each is not None)


def removeResult(inputNode, segmentID: str = "") -> bool:
    """Remove everything that this module added for an input; whether there was anything. One undo step.

    A segmentation or folder of this module that contains other items of the user is kept with these items.
    """
    if inputNode is None:
        return False
    made = madeSegmentation(inputNode, segmentID)
    models = madeNodes("vtkMRMLModelNode", inputNode, segmentID)
    targets = [made] if made is not None else []
    if inputNode.IsA("vtkMRMLSegmentationNode"):
        targets.append(inputNode)
    present = [(target, resultSegmentIDs(target.GetSegmentation(), segmentID)) for target in targets]
    if not models and made is None and not any(ids for _target, ids in present):
        return False
    saveStateForUndo(inputNode, *models, *targets)
    folder = _folderOf([*models, *([made] if made is not None else [])])
    for target, ids in present:
        with slicer.util.NodeModify(target):
            for identifier in ids:
                target.GetSegmentation().RemoveSegment(identifier)
    for model in models:
        removeModel(model)
    if made is not None and made.GetSegmentation().GetNumberOfSegments() == 0:
        removeNode(made)
    _removeFolder(folder)
    return True


def showVoxels(added: AddedResult, source: SkullInput, implant: Mask) -> None:
    """Replace the voxels of the implant's segment as the user's editing does: they are not marked as added."""
    segment = added.segmentationNode.GetSegmentation().GetSegment(added.implantID)
    tag = segmentTag(segment, VOXELS_TAG)
    changeSegment(added.segmentationNode, added.implantID, source, implant, {})
    segment.SetTag(VOXELS_TAG, tag or "")


def markKnown(added: AddedResult, source: SkullInput, implant: Mask) -> None:
    """Mark these voxels as those that the process of the result knows, so that further editing is found."""
    if added.exists:
        markVoxels(added.segmentationNode, added.implantID, source, implant)


def markShape(added: AddedResult, number: str) -> None:
    """Give the implant's segment the number of its shape."""
    if added.exists:
        added.segmentationNode.GetSegmentation().GetSegment(added.implantID).SetTag(SHAPE_TAG, number)


def shapeOf(added: AddedResult) -> str:
    """The number of the shape that the implant's segment has; "" without one."""
    segment = added.segmentationNode.GetSegmentation().GetSegment(added.implantID) if added.exists else None
    return "" if segment is None else segmentTag(segment, SHAPE_TAG) or ""


def isEdited(added: AddedResult) -> bool:
    """Whether the implant was edited by hand, in the session or since."""
    segment = added.segmentationNode.GetSegmentation().GetSegment(added.implantID)
    if segment is None:
        return False
    return bool(segmentTag(segment, EDITED_TAG)) or not isAsAdded(added.segmentationNode, added.implantID)


def voxelsState(added: AddedResult) -> tuple:
    """What changes whenever the voxels of the implant's segment, or its marks, do."""
    segment = added.segmentationNode.GetSegmentation().GetSegment(added.implantID)
    if segment is None:
        return ()
    labelmap = segment.GetRepresentation(slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName())
    changed = None if labelmap is None else (labelmap, labelmap.GetMTime())
    return segmentTag(segment, EDITED_TAG), segmentTag(segment, VOXELS_TAG), changed


def keptName(added: AddedResult) -> str:
    """The name of the copy that keepEdited() makes."""
    segment = added.segmentationNode.GetSegmentation().GetSegment(added.implantID)
    return _("{name}, edited by hand").format(name=segment.GetName())


def keepEdited(added: AddedResult) -> str:
    """Keep a copy of an implant that was edited by hand as a segment of the user; returns its name, "" if not edited.

    Called before another implant takes its place.
    """
    if not added.exists or not isEdited(added):
        return ""
    segmentation = added.segmentationNode.GetSegmentation()
    edited = segmentation.GetSegment(added.implantID)
    copy = slicer.vtkSegment()
    copy.DeepCopy(edited)
    for tag in (SOURCE_TAG, ROLE_TAG, VOXELS_TAG, SHAPE_TAG):
        copy.RemoveTag(tag)
    copy.SetName(keptName(added))
    # With a labelmap of its own.
    copy.SetLabelValue(1)
    binary = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    mask, affine = segmentMask(added.segmentationNode, added.implantID)
    copy.RemoveAllRepresentations()
    copy.AddRepresentation(binary, imageOf(mask, affine))
    segmentation.AddSegment(copy, segmentation.GenerateUniqueSegmentID("SkullVAE_edited"))
    return copy.GetName()


def editedText(report: dict) -> str:
    """One sentence on what was edited by hand, from a report; empty if nothing was."""
    edited = report.get("edited")
    if not edited:
        return ""
    added, removed = edited["voxels_added_ml"], edited["voxels_removed_ml"]
    points = len(edited.get("points", ()))
    parts = []
    if round(added, 2) or round(removed, 2) or not points:
        parts.append(_("{added:.2f} ml added, {removed:.2f} ml removed").format(added=added, removed=removed))
    if points:
        parts.append(_("points on the surface: {count}").format(count=points))
    return _("The implant was edited by hand: {changes}.").format(changes=", ".join(parts))


def modelMatchesImplant(added: AddedResult) -> bool:
    """Whether the model of the printable implant was made from the current voxels of the implant's segment."""
    model = added.implantModelNode
    return (
        model is not None
        and slicer.mrmlScene.IsNodePresent(model) != 0
        and model.GetPolyData() is not None
        and model.GetPolyData().GetNumberOfPolys() > 0
        and model.GetAttribute(_MADE_FOR_ATTRIBUTE) == _voxelsOf(added.segmentationNode, added.implantID)
        and isAsAdded(added.segmentationNode, added.implantID)
    )


def _voxelsOf(target, segmentID: str) -> str | None:
    segment = target.GetSegmentation().GetSegment(segmentID)
    return None if segment is None else segmentTag(segment, VOXELS_TAG)


def saveStateForUndo(*nodes) -> None:
    """Save one undo step of these nodes if undo is enabled in the scene."""
    if slicer.mrmlScene.GetUndoFlag():
        for node in nodes:
            # Otherwise undo would not include the node.
            node.SetUndoEnabled(True)
        slicer.mrmlScene.SaveStateForUndo()


def _keepFigures(model, report: dict) -> None:
    if model is not None:
        figures = {key: report[key] for key in _FIGURES if key in report}
        model.SetAttribute(_FIGURES_ATTRIBUTE, json.dumps(figures))
        followModel(model, report)


def _models(node, segmentID: str) -> dict:
    """The models of a result by their roles; None is that of the model of the defects shown."""
    return {model.GetAttribute(_ROLE_ATTRIBUTE): model for model in madeNodes("vtkMRMLModelNode", node, segmentID)}


def _idsByRole(target, segmentID: str) -> dict[str, str]:
    segmentation = target.GetSegmentation()
    return {
        segmentTag(segmentation.GetSegment(identifier), ROLE_TAG): identifier
        for identifier in resultSegmentIDs(segmentation, segmentID)
    }


def _removeSegments(earlier: AddedResult, node, segmentID: str) -> None:
    segmentation = earlier.segmentationNode.GetSegmentation()
    for identifier in resultSegmentIDs(segmentation, segmentID):
        segmentation.RemoveSegment(identifier)
    if earlier.segmentationNode is not node and segmentation.GetNumberOfSegments() == 0:
        removeNode(earlier.segmentationNode)


def _putModel(role: str, model, mesh: MeshData | None, node, segmentID: str):
    """The model with this mesh: the former one changed, or a new one; None without a mesh."""
    if mesh is None or not len(mesh.faces):
        if model is not None:
            removeShownModel(model)
            removeModel(model)
        return None
    if model is None:
        model = addModel(role, mesh)
        model.SetAttribute(_ROLE_ATTRIBUTE, role)
        markAsMade(model, node, segmentID)
    else:
        changeModel(model, mesh)
    model.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    return model


def _putIntoFolder(node, inside: list, folder: int) -> int:
    """The folder of a result, added beside the input if there is none; 0 if there are no nodes for it."""
    if not inside:
        _removeFolder(folder)
        return 0
    hierarchy = _hierarchy()
    if not folder:
        neighbour = hierarchy.GetItemByDataNode(node)
        parent = hierarchy.GetItemParent(neighbour) if neighbour else hierarchy.GetSceneItemID()
        name = _("{name} SkullVAE result").format(name=node.GetName())
        folder = hierarchy.CreateFolderItem(parent, name)
        hierarchy.SetItemAttribute(folder, _ROLE_ATTRIBUTE, _FOLDER_ROLE)
    for data in inside:
        item = hierarchy.GetItemByDataNode(data)
        if not item:
            hierarchy.CreateItem(folder, data)
        elif _folderAbove(item) != folder:
            hierarchy.SetItemParent(item, folder)
    return folder


def _folderOf(nodes: list) -> int:
    """The folder of this module that contains one of these nodes; 0 if there is none."""
    for node in nodes:
        folder = _folderAbove(_hierarchy().GetItemByDataNode(node))
        if folder:
            return folder
    return 0


def _folderAbove(item: int) -> int:
    hierarchy = _hierarchy()
    while item and item != hierarchy.GetSceneItemID():
        item = hierarchy.GetItemParent(item)
        if item and hierarchy.GetItemAttribute(item, _ROLE_ATTRIBUTE) == _FOLDER_ROLE:
            return item
    return 0


def _removeFolder(folder: int) -> None:
    if folder and _hierarchy().GetNumberOfItemChildren(folder) == 0:
        # Also removes the display node that Slicer adds when the folder is shown or hidden.
        _hierarchy().RemoveItem(folder)


def _hierarchy():
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
