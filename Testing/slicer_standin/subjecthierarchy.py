"""Adds an item of the subject hierarchy for each data node that is added to the scene, and removes it with the node.

In the application a Qt plugin does this (qSlicerSubjectHierarchyPluginLogic); slicer-core contains the node only.
"""

from __future__ import annotations

import slicer
import vtk

from .pythonqt import record

# Owner plugin of the item of a node, by class; nodes of other classes have no item.
_OWNERS = {
    "vtkMRMLSegmentationNode": "Segmentations",
    "vtkMRMLLabelMapVolumeNode": "LabelMaps",
    "vtkMRMLVolumeNode": "Volumes",
    "vtkMRMLModelNode": "Models",
    "vtkMRMLMarkupsNode": "Markups",
    "vtkMRMLTransformNode": "Transforms",
    "vtkMRMLTableNode": "Tables",
    "vtkMRMLTextNode": "Texts",
}


def _owner(node) -> str | None:
    if node.GetHideFromEditors():
        return None
    return next((owner for kind, owner in _OWNERS.items() if node.IsA(kind)), None)


class Follower:
    """Updates the subject hierarchy of a scene, as the application does, until release()."""

    def __init__(self, scene):
        self._scene = scene

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def onAdded(caller, event, node) -> None:
            self._guarded(self._onAdded, node)

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def onAboutToBeRemoved(caller, event, node) -> None:
            self._guarded(self._onAboutToBeRemoved, node)

        # Called before the observers of the widgets.
        early = 10.0
        self._tags = [
            scene.AddObserver(scene.NodeAddedEvent, onAdded, early),
            scene.AddObserver(scene.NodeAboutToBeRemovedEvent, onAboutToBeRemoved, early),
            scene.AddObserver(scene.EndImportEvent, lambda caller, event: self._guarded(self._addAll), early),
            scene.AddObserver(scene.EndBatchProcessEvent, lambda caller, event: self._guarded(self._addAll), early),
            scene.AddObserver(scene.EndCloseEvent, lambda caller, event: self._guarded(self._resolve), early),
        ]
        self._addAll()

    def release(self) -> None:
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene = None

    def _guarded(self, call, *arguments) -> None:
        try:
            call(*arguments)
        except Exception as error:
            record(error)

    def _resolve(self):
        return slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(self._scene)

    def _hierarchy(self):
        return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self._scene)

    def _add(self, node) -> None:
        owner = _owner(node)
        hierarchy = self._hierarchy()
        if owner is not None and not hierarchy.GetItemByDataNode(node):
            item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
            hierarchy.SetItemOwnerPluginName(item, owner)

    def _addAll(self) -> None:
        self._resolve()
        for index in range(self._scene.GetNumberOfNodes()):
            self._add(self._scene.GetNthNode(index))

    def _onAdded(self, node) -> None:
        if node.IsA("vtkMRMLSubjectHierarchyNode"):
            self._resolve()
        elif not self._scene.IsImporting():
            self._add(node)

    def _onAboutToBeRemoved(self, node) -> None:
        if self._scene.IsClosing() or node.IsA("vtkMRMLSubjectHierarchyNode"):
            return
        hierarchy = self._hierarchy()
        item = hierarchy.GetItemByDataNode(node)
        if item:
            hierarchy.RemoveItem(item, False, False)
