"""Bringing the views to the implant: the slices through its middle, the camera in front of it."""

from __future__ import annotations

import numpy as np
import slicer

from .results import AddedResult

# How far the camera stands off, in diameters of the implant, and at least.
_DIAMETERS = 4.5
_NEAREST_MM = 620.0


def showImplant(added: AddedResult) -> None:
    """Bring all slice views to the middle of the implant, and look at it from outside in 3D.

    Does nothing when the implant is empty.
    """
    implant = _bounds(added, added.implantID)
    skull = _bounds(added, added.completedID)
    if implant is None or skull is None:
        return
    centre = implant.mean(axis=0)
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *centre, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    outwards = centre - skull.mean(axis=0)
    length = np.linalg.norm(outwards)
    outwards = outwards / length if length > 1 else np.array([0.0, 1.0, 0.0])
    # Straight from above or below the head would stand on its side in the view.
    outwards[2] = np.clip(outwards[2], -0.8, 0.8)
    outwards /= np.linalg.norm(outwards)
    distance = max(_NEAREST_MM, _DIAMETERS * float(np.linalg.norm(implant[1] - implant[0])))
    # Halfway to the skull's middle: the implant in front, and the head around it.
    target = (centre + skull.mean(axis=0)) / 2
    for camera in slicer.util.getNodesByClass("vtkMRMLCameraNode"):
        camera.SetFocalPoint(target.tolist())
        camera.SetPosition((target + distance * outwards).tolist())
        camera.SetViewUp(0.0, 0.0, 1.0)
        camera.ResetClippingRange()


def _bounds(added: AddedResult, segmentID: str) -> np.ndarray | None:
    """(2, 3) least and greatest corner of a segment in world RAS, mm; None when it is empty."""
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
