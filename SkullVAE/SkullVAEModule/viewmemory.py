"""Keeps layout, slice views, cameras and segment display as the user had them before a result was shown."""

from __future__ import annotations

from dataclasses import dataclass, field

import slicer
import vtk

_LAYOUT_WITH_3D = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView


@dataclass
class _Slice:
    """Position and zoom of a slice view: size of a pixel in mm, since another layout changes the number of pixels."""

    toRAS: vtk.vtkMatrix4x4
    pixel: tuple[float, ...]
    origin: tuple[float, ...]


@dataclass
class _Camera:
    """Position of a 3D camera."""

    position: tuple[float, ...]
    focalPoint: tuple[float, ...]
    viewUp: tuple[float, ...]
    scale: float


@dataclass
class _Views:
    slices: dict[str, _Slice] = field(default_factory=dict)
    cameras: dict[str, _Camera] = field(default_factory=dict)
    # The layout before and after the change; None if it was not changed.
    layouts: tuple[int, int] | None = None
    # Segments of the user that were shown in 3D: node ID and segment ID.
    hidden: list[tuple[str, str]] = field(default_factory=list)


class ViewMemory:
    """Remembers the views of the user once, until they are restored or forgotten."""

    def __init__(self) -> None:
        self._kept: _Views | None = None

    def remember(self) -> None:
        """Remember the views, unless views are remembered already."""
        if self._kept is not None:
            return
        kept = _Views()
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            matrix = vtk.vtkMatrix4x4()
            matrix.DeepCopy(node.GetSliceToRAS())
            sizes = zip(node.GetFieldOfView(), node.GetDimensions(), strict=True)
            pixel = tuple(extent / max(count, 1) for extent, count in sizes)
            kept.slices[node.GetID()] = _Slice(matrix, pixel, tuple(node.GetXYZOrigin()))
        for node in slicer.util.getNodesByClass("vtkMRMLCameraNode"):
            places = tuple(node.GetPosition()), tuple(node.GetFocalPoint()), tuple(node.GetViewUp())
            kept.cameras[node.GetID()] = _Camera(*places, node.GetParallelScale())
        self._kept = kept

    def showThreeD(self) -> None:
        """Choose a layout with a 3D view if the current one has none; remember() was called before."""
        manager = slicer.app.layoutManager()
        shown = [node.IsMappedInLayout() for node in slicer.util.getNodesByClass("vtkMRMLViewNode")]
        if manager is None or not shown or any(shown) or self._kept.layouts is not None:
            return
        before = manager.layout
        manager.setLayout(_LAYOUT_WITH_3D)
        self._kept.layouts = before, _LAYOUT_WITH_3D

    def hideInThreeD(self, node, segmentID: str) -> None:
        """Hide a segment of the user in 3D, where the models of the result are shown; remember() was called before."""
        display = node.GetDisplayNode()
        if display is not None and display.GetSegmentVisibility3D(segmentID):
            display.SetSegmentVisibility3D(segmentID, False)
            self._kept.hidden.append((node.GetID(), segmentID))

    def restore(self) -> None:
        """Restore the views that were remembered; a layout that the user has chosen since is kept."""
        kept, self._kept = self._kept, None
        if kept is None:
            return
        manager = slicer.app.layoutManager()
        if kept.layouts is not None and manager is not None and manager.layout == kept.layouts[1]:
            manager.setLayout(kept.layouts[0])
        scene = slicer.mrmlScene
        for nodeID, segmentID in kept.hidden:
            node = scene.GetNodeByID(nodeID)
            if node is not None and node.GetDisplayNode() is not None:
                node.GetDisplayNode().SetSegmentVisibility3D(segmentID, True)
        for nodeID, place in kept.slices.items():
            node = scene.GetNodeByID(nodeID)
            if node is not None:
                node.GetSliceToRAS().DeepCopy(place.toRAS)
                sizes = zip(place.pixel, node.GetDimensions(), strict=True)
                node.SetFieldOfView(*(size * max(count, 1) for size, count in sizes))
                node.SetXYZOrigin(*place.origin)
                node.UpdateMatrices()
        for nodeID, place in kept.cameras.items():
            node = scene.GetNodeByID(nodeID)
            if node is not None:
                node.SetPosition(place.position)
                node.SetFocalPoint(place.focalPoint)
                node.SetViewUp(place.viewUp)
                node.SetParallelScale(place.scale)
                node.ResetClippingRange()

    def forget(self) -> None:
        """Forget the views; called when the scene was closed."""
        self._kept = None


def isShownInThreeD(node) -> bool:
    """Whether surfaces of a segmentation were made for the 3D views, beside which the models would be shown twice."""
    name = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
    return bool(node.GetSegmentation().ContainsRepresentation(name))
