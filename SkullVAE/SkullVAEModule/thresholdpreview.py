"""Preview of the bone threshold in the slice views."""

from __future__ import annotations

import contextlib

import slicer

_OPACITY = 0.5
# Green, which is neither the colour of the implant nor that of the completed skull.
_COLOUR = (0.35, 0.80, 0.35)


class ThresholdPreview:
    """Shows the voxels of a CT at or above a threshold in one colour, in the foreground of every slice view.

    No voxels are copied: a hidden volume shares the image data of the CT, and its display node hides voxels below the
    threshold. A change is therefore visible at once for a CT of any size.
    """

    def __init__(self, volumeNode) -> None:
        self._volume = volumeNode
        self._scene = slicer.mrmlScene
        self._preview = None
        self._colors = None
        # Former state of each slice view, by the ID of its composite node.
        self._before: dict[str, tuple] = {}

    @property
    def shown(self) -> bool:
        """Whether the preview is shown."""
        return self._preview is not None and self._scene.IsNodePresent(self._preview) != 0

    def show(self, threshold: float) -> None:
        """Show the voxels at or above `threshold` HU; hides the preview if the volume is empty or was removed."""
        image = self._volume.GetImageData()
        if image is None or not self._scene.IsNodePresent(self._volume):
            self.hide()
            return
        if not self.shown:
            self._make()
        if self._preview.GetImageData() is not image:
            self._preview.SetAndObserveImageData(image)
        # At each call, since the user may have moved the volume.
        self._preview.CopyOrientation(self._volume)
        self._preview.SetAndObserveTransformNodeID(self._volume.GetTransformNodeID())
        highest = max(image.GetScalarTypeMax(), threshold)
        self._preview.GetDisplayNode().SetThreshold(threshold, highest)
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            if composite.GetForegroundVolumeID() != self._preview.GetID():
                self._before[composite.GetID()] = (
                    composite.GetForegroundVolumeID(),
                    composite.GetForegroundOpacity(),
                    composite.GetCompositing(),
                )
                with _unlinked(composite):
                    composite.SetForegroundVolumeID(self._preview.GetID())
                    composite.SetForegroundOpacity(_OPACITY)
                    composite.SetCompositing(slicer.vtkMRMLSliceCompositeNode.Alpha)

    def hide(self) -> None:
        """Restore the slice views; may be called at any time."""
        for identifier, (volumeID, opacity, compositing) in self._before.items():
            composite = self._scene.GetNodeByID(identifier)
            # A foreground that the user has selected meanwhile is kept.
            if composite is None or self._preview is None:
                continue
            if composite.GetForegroundVolumeID() != self._preview.GetID():
                continue
            with _unlinked(composite):
                composite.SetForegroundVolumeID(volumeID)
                composite.SetForegroundOpacity(opacity)
                composite.SetCompositing(compositing)
        self._before.clear()
        if self._preview is not None:
            display = self._preview.GetDisplayNode()
            for node in (self._preview, display, self._colors):
                if node is not None and self._scene.IsNodePresent(node):
                    self._scene.RemoveNode(node)
        self._preview = self._colors = None

    def _make(self) -> None:
        self._colors = slicer.vtkMRMLColorTableNode()
        _hideFromUser(self._colors, "SkullVAE threshold colour")
        self._colors.SetTypeToUser()
        self._colors.SetNumberOfColors(1)
        # With opacity 1, since colours of a new table are transparent.
        self._colors.SetColor(0, *_COLOUR, 1)
        self._scene.AddNode(self._colors)

        display = slicer.vtkMRMLScalarVolumeDisplayNode()
        _hideFromUser(display, "SkullVAE threshold display")
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(1, 0)
        display.SetAutoThreshold(False)
        display.SetApplyThreshold(True)
        display.SetInterpolate(False)
        self._scene.AddNode(display)
        display.SetAndObserveColorNodeID(self._colors.GetID())

        self._preview = slicer.vtkMRMLScalarVolumeNode()
        _hideFromUser(self._preview, "SkullVAE threshold")
        self._scene.AddNode(self._preview)
        self._preview.SetAndObserveDisplayNodeID(display.GetID())


def _hideFromUser(node, name: str) -> None:
    node.SetName(name)
    node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)
    node.SetSelectable(False)
    # Also hidden in the subject hierarchy.
    node.SetAttribute("SubjectHierarchy.ExcludeFromTree", "1")


@contextlib.contextmanager
def _unlinked(composite):
    """Unlink views temporarily: linked views would change before their former state is stored."""
    linked = composite.GetLinkedControl()
    composite.SetLinkedControl(False)
    try:
        yield
    finally:
        composite.SetLinkedControl(linked)
