"""Centres the views on the implant: slices through its centre, camera in front of it."""

from __future__ import annotations

import numpy as np
import slicer

from .results import AddedResult

# Distance of the camera in diameters of the implant, and its minimum.
_DIAMETERS = 4.0
_NEAREST_MM = 480.0
# Field of view of a slice view in diameters of the implant, and its minimum.
_FIELD_DIAMETERS = 1.6
_NARROWEST_MM = 120.0


def showPoint(world) -> None:
    """Centre all slice views on a point in world RAS mm, and move the crosshair, which is the 3D cursor, there."""
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *world, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None:
        crosshair.SetCrosshairRAS(*world)


def showImplant(added: AddedResult) -> None:
    """Centre all slice views and the 3D views on the implant; the camera is in front of its outer surface.

    Slice views that show much more than the implant are zoomed in. Does nothing if the implant is empty.
    """
    implant = _bounds(added, added.implantID)
    skull = _bounds(added, added.completedID)
    if implant is None or skull is None:
        return
    centre = implant.mean(axis=0)
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *centre, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    diameter = float(np.linalg.norm(implant[1] - implant[0]))
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        _zoomIn(node, max(_NARROWEST_MM, _FIELD_DIAMETERS * diameter))
    outwards = centre - skull.mean(axis=0)
    length = np.linalg.norm(outwards)
    outwards = outwards / length if length > 1 else np.array([0.0, 1.0, 0.0])
    # A view direction close to vertical would show the head lying on its side.
    outwards[2] = np.clip(outwards[2], -0.8, 0.8)
    outwards /= np.linalg.norm(outwards)
    distance = max(_NEAREST_MM, _DIAMETERS * diameter)
    for camera in slicer.util.getNodesByClass("vtkMRMLCameraNode"):
        camera.SetFocalPoint(centre.tolist())
        camera.SetPosition((centre + distance * outwards).tolist())
        camera.SetViewUp(0.0, 0.0, 1.0)
        camera.ResetClippingRange()


def _zoomIn(node, millimetres: float) -> None:
    """Reduce the field of view of a slice view to this length in its narrower direction; a smaller one is kept."""
    width, height, depth = node.GetFieldOfView()
    if min(width, height) > millimetres:
        factor = millimetres / min(width, height)
        node.SetFieldOfView(factor * width, factor * height, depth)


def _bounds(added: AddedResult, segmentID: str) -> np.ndarray | None:
    """(2, 3) minimum and maximum corner of a segment in world RAS mm; None if it is empty."""
    node = added.segmentationNode
    segment = node.GetSegmentation().GetSegment(segmentID)
    bounds = [0.0] * 6
    if segment is not None:
        segment.GetBounds(bounds)
    corners = np.array(bounds).reshape(3, 2).T
    if segment is None or np.any(corners[0] >= corners[1]):
        return None
    transform = node.GetParentTransformNode()
    if transform is None:
        return corners
    grid = np.array([[corners[i][0], corners[j][1], corners[k][2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    moved = []
    for point in grid:
        world = [0.0] * 3
        node.TransformPointToWorld(point.tolist(), world)
        moved.append(world)
    return np.array([np.min(moved, axis=0), np.max(moved, axis=0)])
