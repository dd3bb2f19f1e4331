"""The ROI is given to the library in the input's own coordinates: the same voxels are inside as in Slicer."""

from __future__ import annotations

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
import vtk  # noqa: E402
from SkullVAEModule.completion import RunSettings  # noqa: E402
from SkullVAEModule.roi import headROI, removeROI, roiArgument, roiOf  # noqa: E402
from slicer_scenes import GRIDS, addSkull, addTransform, addVolume, nodeIDs, rotation, vtkMatrix  # noqa: E402

from SkullVAELib.core.errors import SkullVAEError  # noqa: E402

POSE = rotation(50, (0.3, 1, -0.4)) + np.outer([10.0, 25, -5, 0], [0, 0, 0, 1])
MOVED = rotation(-35, (1, 0.2, 0.7)) + np.outer([-7.0, 3, 40, 0], [0, 0, 0, 1])
SCALED = np.diag([1.5, 1.5, 1.5, 1.0])
SHEARED = np.eye(4) + np.outer([0.4, 0, 0, 0], [0, 1, 0, 0])
HEAD = (40, 44, 60)


pytestmark = pytest.mark.usefixtures("scene")


def addROI(pose: np.ndarray, size, transform=None):
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "ROI")
    roi.SetAndObserveObjectToNodeMatrix(vtkMatrix(pose))
    roi.SetSize(*size)
    if transform is not None:
        roi.SetAndObserveTransformNodeID(transform.GetID())
    return roi


def insideArgument(numbers, points: np.ndarray) -> np.ndarray:
    """Which points (RAS, in the input's coordinates) are in the region of the command line's --roi."""
    centre, size, axes = np.array(numbers[:3]), np.array(numbers[3:6]), np.array(numbers[6:]).reshape(3, 3)
    return np.all(np.abs((points - centre) @ axes.T) <= size / 2, axis=1)


def insideSlicer(roi, world: np.ndarray) -> np.ndarray:
    """Which points (world) are in the ROI that Slicer shows: its sides are Size in object coordinates."""
    matrix = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(roi.GetObjectToWorldMatrix(), matrix)
    toObject = np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])
    inObject = world @ toObject[:3, :3].T + toObject[:3, 3]
    return np.all(np.abs(inObject) <= np.array(roi.GetSize()) / 2, axis=1)


@pytest.mark.parametrize(
    "roiMoved", [None, MOVED, SCALED, SHEARED], ids=["ROI free", "ROI moved", "ROI scaled", "ROI sheared"]
)
@pytest.mark.parametrize("inputMoved", [None, POSE], ids=["input free", "input moved"])
def test_argument_contains_the_points_of_the_roi(roiMoved, inputMoved):
    inputTransform = None if inputMoved is None else addTransform(inputMoved)
    node = addVolume(np.zeros(HEAD, np.int16), GRIDS["oblique"], transform=inputTransform)
    roi = addROI(POSE, (60, 40, 90), None if roiMoved is None else addTransform(roiMoved))
    numbers = roiArgument(roi, node)
    assert len(numbers) == 15
    world = np.random.default_rng(81).uniform(-80, 120, (3000, 3))
    toNode = np.eye(4) if inputMoved is None else np.linalg.inv(inputMoved)
    inNode = world @ toNode[:3, :3].T + toNode[:3, 3]
    inside = insideSlicer(roi, world)
    assert 20 < inside.sum() < 2500
    assert np.array_equal(insideArgument(numbers, inNode), inside)


def test_roi_becomes_one_argument_of_the_command_line():
    node = addVolume(np.zeros(HEAD, np.int16), GRIDS["lps"])
    roi = addROI(np.eye(4) + np.outer([-10.5, 0, 0, 0], [0, 0, 0, 1]), (60, 40, 90))
    arguments = RunSettings(roi=roiArgument(roi, node)).arguments()
    (option,) = [argument for argument in arguments if argument.startswith("--roi")]
    numbers = [float(text) for text in option.removeprefix("--roi=").split(",")]
    np.testing.assert_allclose(numbers, [-10.5, 0, 0, 60, 40, 90, 1, 0, 0, 0, 1, 0, 0, 0, 1], atol=1e-9)


def test_roi_of_a_sheared_or_warped_input_is_an_error():
    roi = addROI(POSE, (60, 40, 90))
    with pytest.raises(SkullVAEError, match="shearing"):
        roiArgument(roi, addVolume(np.zeros(HEAD, np.int16), GRIDS["lps"], transform=addTransform(SHEARED)))
    warped = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    warped.SetAndObserveTransformFromParent(vtk.vtkThinPlateSplineTransform())
    with pytest.raises(SkullVAEError, match="nonlinear"):
        roiArgument(roi, addVolume(np.zeros(HEAD, np.int16), GRIDS["lps"], transform=warped))


def head() -> np.ndarray:
    """HU of a head, with a separate table of similar HU below it."""
    voxels = np.full(HEAD, -1000, np.int16)
    voxels[10:30, 12:30, 20:50] = 900
    voxels[2:38, 40:42, 2:58] = 700
    voxels[10:30, 12:30, 20:50][3:-3, 3:-3, 3:-3] = 40
    return voxels


@pytest.mark.parametrize("grid", ["ras", "lps", "oblique and anisotropic", "oblique and left-handed"])
@pytest.mark.parametrize("transformed", [False, True])
def test_roi_is_made_around_the_largest_component_of_bone(grid, transformed):
    transform = addTransform(MOVED) if transformed else None
    node = addVolume(head(), GRIDS[grid], transform=transform)
    roi = headROI(node)
    assert roi.GetParentTransformNode() is transform
    numbers = roiArgument(roi, node)
    matrix = np.array(numbers[6:]).reshape(3, 3)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(matrix) == pytest.approx(1)
    indices = np.argwhere(head() > 300)
    points = indices @ GRIDS[grid][:3, :3].T + GRIDS[grid][:3, 3]
    isTable = indices[:, 1] >= 38
    inside = insideArgument(numbers, points)
    assert inside[~isTable].all()
    # A margin of 10 mm around the bone.
    spacing = np.linalg.norm(GRIDS[grid][:3, :3], axis=0)
    expected = [19, 17, 29] * spacing + 20
    np.testing.assert_allclose(numbers[3:6], expected, atol=1e-3)


def test_roi_excludes_the_neck():
    # 420 mm of spine and skull along the third axis, with the head at its upper end.
    voxels = np.zeros((30, 30, 105), np.uint8)
    voxels[8:22, 8:22] = 1
    grid = np.diag([4.0, 4, 4, 1])
    node = addSkull(voxels, grid)
    numbers = roiArgument(headROI(node, "bone"), node)
    top = 4 * 104
    assert numbers[2] + numbers[5] / 2 == pytest.approx(top + 10)
    assert numbers[2] - numbers[5] / 2 == pytest.approx(top - 260 - 10)


def test_roi_is_made_once_and_removed_with_its_display():
    node = addVolume(head(), GRIDS["lps"])
    before = nodeIDs()
    assert roiOf(node) is None
    roi = headROI(node)
    assert roi.GetName() == "SkullVAE ROI"
    roi.SetSize(1, 2, 3)
    assert headROI(node) is roi
    assert roi.GetSize() == (1, 2, 3)
    assert roiOf(addVolume(head(), GRIDS["lps"])) is None
    removeROI(node)
    assert roiOf(node) is None
    assert len(nodeIDs()) == len(before) + 1
    removeROI(node)


def test_input_without_bone_gets_no_roi():
    node = addVolume(np.full(HEAD, -1000, np.int16), GRIDS["lps"])
    before = nodeIDs()
    with pytest.raises(SkullVAEError, match="no bone"):
        headROI(node)
    assert nodeIDs() == before
