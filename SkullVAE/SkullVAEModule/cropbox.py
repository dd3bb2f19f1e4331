"""The box outside which nothing is bone: an ROI of the user, told to the library in the input's own coordinates."""

from __future__ import annotations

import math

import numpy as np
import slicer
import vtk

from SkullVAELib.core.errors import SkullVAEError

from .segments import INPUT_ROLE, readInput

_NAME = "SkullVAE box"
_MARGIN_MM = 10.0
# Bone that counts when the box is first put up: voxels looked at, along each axis, at most.
_LOOKED_AT = 160
_HEAD_MM = 260.0


def headBox(inputNode, segmentID: str = "", thresholdHU: float | None = None):
    """The input's box: found, or made around the head's bone. Raises SkullVAEError where there is no bone.

    It stands along the input's own axes, moves with the input, and is the user's to change.
    """
    found = boxOf(inputNode)
    if found is not None:
        return found
    source = readInput(inputNode, segmentID)
    step = [max(1, math.ceil(n / _LOOKED_AT)) for n in source.array.shape]
    coarse = source.array[:: step[0], :: step[1], :: step[2]]
    level = 0.5 if segmentID else (300.0 if thresholdHU is None else thresholdHU)
    bone = _largestPiece(coarse >= level)
    if bone is None:
        raise SkullVAEError(f"'{inputNode.GetName()}' holds no bone", "Choose a lower bone threshold or another input")
    matrix = source.affine @ np.diag([*step, 1.0])
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    axes = matrix[:3, :3] / spacing
    low, high = bone.min(axis=0) * spacing, bone.max(axis=0) * spacing
    low, high = _headAlone(bone, axes, spacing, low, high)
    low, high = low - _MARGIN_MM, high + _MARGIN_MM
    centre = axes @ ((low + high) / 2) + matrix[:3, 3]
    if np.linalg.det(axes) < 0:
        # A box looks the same from both sides, but its axes have to be right-handed.
        axes = axes * [1, 1, -1]

    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", slicer.mrmlScene.GenerateUniqueName(_NAME))
    roi.SetNodeReferenceID(INPUT_ROLE, inputNode.GetID())
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = axes, centre
    roi.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(pose))
    roi.SetSize(*(high - low).tolist())
    roi.SetAndObserveTransformNodeID(inputNode.GetTransformNodeID())
    roi.CreateDefaultDisplayNodes()
    roi.GetDisplayNode().SetFillOpacity(0.1)
    return roi


def boxOf(inputNode):
    """The box that was made for an input, also after saving and loading; None without one."""
    if inputNode is None:
        return None
    for roi in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode"):
        if roi.GetNodeReference(INPUT_ROLE) is inputNode:
            return roi
    return None


def removeBox(inputNode) -> None:
    """Remove the box of an input with its display; does nothing without one."""
    roi = boxOf(inputNode)
    if roi is not None:
        display = roi.GetDisplayNode()
        slicer.mrmlScene.RemoveNode(roi)
        if display is not None and slicer.mrmlScene.IsNodePresent(display):
            slicer.mrmlScene.RemoveNode(display)


def boxArgument(roi, inputNode) -> tuple[float, ...]:
    """The numbers of the command line's --box: centre, side lengths and unit axes, RAS mm in the input's coordinates.

    Whatever transforms the two are under: the voxels are inside that are seen inside in Slicer's views. (Slicer shows
    a box under a scaling transform scaled, and under a shearing or warping one as a box all the same.)
    Raises SkullVAEError where the input's own transform would make the box oblique-angled or is a warp.
    """
    toWorld = vtk.vtkMatrix4x4()
    if not slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(
        inputNode.GetParentTransformNode(), None, toWorld
    ):
        raise SkullVAEError("The input is under a warping transform", "Harden or remove the transform, or the box")
    pose = np.linalg.inv(slicer.util.arrayFromVTKMatrix(toWorld)) @ slicer.util.arrayFromVTKMatrix(
        roi.GetObjectToWorldMatrix()
    )
    lengths = np.linalg.norm(pose[:3, :3], axis=0)
    axes = pose[:3, :3] / lengths
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):
        raise SkullVAEError("The input is under a shearing transform", "Harden or remove the transform, or the box")
    size = np.array(roi.GetSize()) * lengths
    return tuple(float(value) for value in (*pose[:3, 3], *size, *axes.T.ravel()))


def _largestPiece(bone: np.ndarray):
    """(N, 3) indices of the largest connected piece, or None: the table and its padding are pieces of their own."""
    image = vtk.vtkImageData()
    image.SetDimensions(bone.shape)
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    flat = np.ascontiguousarray(bone.transpose(2, 1, 0)).view(np.uint8).ravel()
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    pieces = vtk.vtkImageConnectivityFilter()
    pieces.SetInputData(image)
    pieces.SetScalarRange(1, 1)
    pieces.SetExtractionModeToLargestRegion()
    pieces.Update()
    labels = vtk_to_numpy(pieces.GetOutput().GetPointData().GetScalars())
    found = np.argwhere(labels.reshape(bone.shape[::-1]).transpose(2, 1, 0) > 0)
    return found if len(found) else None


def _headAlone(bone, axes, spacing, low, high):
    """Cut the neck off: from the vertex down no more than a head is high, along the axis nearest to upwards."""
    axis = int(np.abs(axes[2]).argmax())
    low, high = low.copy(), high.copy()
    if axes[2, axis] > 0:
        low[axis] = max(low[axis], high[axis] - _HEAD_MM)
    else:
        high[axis] = min(high[axis], low[axis] + _HEAD_MM)
    return low, high
