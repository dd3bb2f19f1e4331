"""The region of interest (ROI): its node in the scene, and its numbers for the library in the input's coordinates."""

from __future__ import annotations

import math

import numpy as np
import slicer
import vtk

from SkullVAELib.core.errors import SkullVAEError

from .segments import INPUT_ROLE, readInput

_NAME = "SkullVAE ROI"
_MARGIN_MM = 10.0
# Maximum number of voxels along each axis that are read to find the bone for a new ROI.
_LOOKED_AT = 160
_HEAD_MM = 260.0


def headROI(inputNode, segmentID: str = "", thresholdHU: float | None = None):
    """The ROI of an input; if there is none, one is added around the bone of the head.

    A new ROI is aligned with the axes of the input and follows its transform. The user can change it.
    Raises SkullVAEError if the input has no bone.
    """
    found = roiOf(inputNode)
    if found is not None:
        return found
    source = readInput(inputNode, segmentID)
    step = [max(1, math.ceil(n / _LOOKED_AT)) for n in source.array.shape]
    coarse = source.array[:: step[0], :: step[1], :: step[2]]
    level = 0.5 if segmentID else (300.0 if thresholdHU is None else thresholdHU)
    bone = _largestComponent(coarse >= level)
    if bone is None:
        raise SkullVAEError(
            f"'{inputNode.GetName()}' contains no bone", "Choose a lower bone threshold or another input"
        )
    matrix = source.affine @ np.diag([*step, 1.0])
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    axes = matrix[:3, :3] / spacing
    low, high = bone.min(axis=0) * spacing, bone.max(axis=0) * spacing
    low, high = _limitToHead(axes, low, high)
    low, high = low - _MARGIN_MM, high + _MARGIN_MM
    centre = axes @ ((low + high) / 2) + matrix[:3, 3]
    if np.linalg.det(axes) < 0:
        # The axes of an ROI must be right-handed; the reversed axis describes the same region.
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
    # Slicer hides these handles of an ROI by default.
    roi.GetDisplayNode().SetRotationHandleVisibility(True)
    return roi


def roiOf(inputNode):
    """The ROI of an input, also after saving and loading; None without one."""
    if inputNode is None:
        return None
    for roi in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode"):
        if roi.GetNodeReference(INPUT_ROLE) is inputNode:
            return roi
    return None


def removeROI(inputNode) -> None:
    """Remove the ROI of an input and its display node; does nothing without an ROI."""
    roi = roiOf(inputNode)
    if roi is not None:
        display = roi.GetDisplayNode()
        slicer.mrmlScene.RemoveNode(roi)
        if display is not None and slicer.mrmlScene.IsNodePresent(display):
            slicer.mrmlScene.RemoveNode(display)


def roiArgument(roi, inputNode) -> tuple[float, ...]:
    """The 15 numbers of --roi: centre, side lengths and unit axes, RAS mm in the input's own coordinates.

    Under any transform of ROI and input, the voxels inside are those that Slicer's views show inside. (Slicer scales an
    ROI under a scaling transform, and shows it as a cuboid under a shearing or nonlinear one.)
    Raises SkullVAEError if the transform of the input is nonlinear or would shear the ROI.
    """
    toWorld = vtk.vtkMatrix4x4()
    if not slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(
        inputNode.GetParentTransformNode(), None, toWorld
    ):
        raise SkullVAEError("The input has a nonlinear transform", "Harden or remove the transform, or use no ROI")
    pose = np.linalg.inv(slicer.util.arrayFromVTKMatrix(toWorld)) @ slicer.util.arrayFromVTKMatrix(
        roi.GetObjectToWorldMatrix()
    )
    lengths = np.linalg.norm(pose[:3, :3], axis=0)
    axes = pose[:3, :3] / lengths
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):
        raise SkullVAEError("The input has a shearing transform", "Harden or remove the transform, or use no ROI")
    size = np.array(roi.GetSize()) * lengths
    return tuple(float(value) for value in (*pose[:3, 3], *size, *axes.T.ravel()))


def _largestComponent(bone: np.ndarray):
    """(N, 3) indices of the largest connected component, which excludes table and padding; None without bone."""
    image = vtk.vtkImageData()
    image.SetDimensions(bone.shape)
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    flat = np.ascontiguousarray(bone.transpose(2, 1, 0)).view(np.uint8).ravel()
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    components = vtk.vtkImageConnectivityFilter()
    components.SetInputData(image)
    components.SetScalarRange(1, 1)
    components.SetExtractionModeToLargestRegion()
    components.Update()
    labels = vtk_to_numpy(components.GetOutput().GetPointData().GetScalars())
    found = np.argwhere(labels.reshape(bone.shape[::-1]).transpose(2, 1, 0) > 0)
    return found if len(found) else None


def _limitToHead(axes, low, high):
    """Exclude the neck: limit the height below the vertex, along the axis nearest to superior, to that of a head."""
    axis = int(np.abs(axes[2]).argmax())
    low, high = low.copy(), high.copy()
    if axes[2, axis] > 0:
        low[axis] = max(low[axis], high[axis] - _HEAD_MM)
    else:
        high[axis] = min(high[axis], low[axis] + _HEAD_MM)
    return low, high
