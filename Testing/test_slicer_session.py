"""After a run: requests change the result in the scene in place."""

from __future__ import annotations

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
from SkullVAEModule.completion import RunSettings  # noqa: E402
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402
from SkullVAEModule.meshnodes import meshData  # noqa: E402
from SkullVAEModule.segments import isAsAdded  # noqa: E402
from slicer_scenes import (  # noqa: E402
    GRIDS,
    addSegment,
    addSkull,
    addTransform,
    exported,
    fingerprint,
    nodeIDs,
    orientedImage,
    randomMask,
    rotation,
    runWithChild,
    waitFor,
)

from SkullVAELib.core.errors import SkullVAEError  # noqa: E402

pytestmark = pytest.mark.usefixtures("scene")


@pytest.fixture
def session(tmp_path, request):
    """(logic, node, mask, grid) after a run whose child keeps running; mode of the child by parametrize."""
    _, create = runWithChild(tmp_path, getattr(request, "param", "good"))
    mask, grid = randomMask(40), GRIDS["oblique and left-handed"]
    node = addSkull(mask, grid, transform=addTransform(rotation(30, (1, 0, 1))))
    logic = SkullVAELogic(createRun=create)
    logic.completeSkull(node, "bone")
    assert logic.live
    yield logic, node, mask, grid
    logic.closeSession()


def moved(mask: np.ndarray, shift: int) -> np.ndarray:
    return np.roll(mask, shift, axis=0) & (1 - mask)


def settle(logic) -> int:
    """Wait for all responses; the number of changes."""
    changes = 0

    def poll() -> bool:
        nonlocal changes
        changes += logic.pollResponses()
        return not logic.responsePending

    waitFor(poll, "the response")
    return changes


def test_gamma_changes_segments_and_printable_implant_in_place(session):
    logic, node, mask, grid = session
    transform = node.GetParentTransformNode()
    added, nodes, before = logic.added, nodeIDs(), fingerprint(node)
    node.GetSegmentation().GetSegment(added.implantID).SetName("My implant")
    assert logic.requestGamma(3)
    assert logic.responsePending
    assert settle(logic)
    assert logic.added is added
    assert nodeIDs() == nodes
    assert np.array_equal(exported(node, added.implantID, grid, transform=transform), moved(mask, 3))
    assert np.array_equal(exported(node, added.completedID, grid, transform=transform), mask | moved(mask, 3))
    assert meshData(added.implantModelNode.GetPolyData()).points[3, 2] == 33
    assert fingerprint(node)["bone"] == before["bone"]
    assert node.GetSegmentation().GetSegment(added.implantID).GetName() == "My implant"
    assert isAsAdded(node, added.implantID)
    assert logic.report["gamma"] == 3
    # Back again: nothing of the previous shape is left.
    assert logic.requestGamma(1)
    settle(logic)
    assert np.array_equal(exported(node, added.completedID, grid, transform=transform), mask | moved(mask, 1))


def test_gamma_does_not_change_other_segments_in_the_labelmap(session):
    logic, node, mask, grid = session
    addSegment(node, "other", orientedImage(randomMask(41), grid), "Other")
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    transform = node.GetParentTransformNode()
    others = {key: exported(node, key, grid, transform=transform) for key in ("bone", "other")}
    assert logic.requestGamma(2)
    settle(logic)
    for key, voxels in others.items():
        assert np.array_equal(exported(node, key, grid, transform=transform), voxels)
    assert np.array_equal(exported(node, logic.added.implantID, grid, transform=transform), moved(mask, 2))
    assert np.array_equal(exported(node, logic.added.completedID, grid, transform=transform), mask | moved(mask, 2))


def test_gamma_updates_a_surface_that_is_shown(session):
    logic, node, _, _ = session
    node.CreateClosedSurfaceRepresentation()
    surface = node.GetClosedSurfaceInternalRepresentation(logic.added.implantID)
    before = np.array(surface.GetPoints().GetData())
    assert logic.requestGamma(3)
    settle(logic)
    surface = node.GetClosedSurfaceInternalRepresentation(logic.added.implantID)
    assert surface is not None
    assert not np.array_equal(before, np.array(surface.GetPoints().GetData()))


def test_implant_request_changes_only_the_mesh(session):
    logic, node, _, _ = session
    before = fingerprint(node)
    assert logic.requestImplant(RunSettings(clearance=0.5, thickness="constant:4"))
    assert settle(logic) == 1
    assert fingerprint(node) == before
    mesh = meshData(logic.added.implantModelNode.GetPolyData())
    assert mesh.points[3, 2] == 0.5
    assert logic.report["printable_implant"]["thickness"] == "constant:4"


def test_superseded_request_changes_nothing(session):
    logic, node, _, _ = session
    before = fingerprint(node)
    assert logic.requestProposal(2)
    assert settle(logic) == 0
    assert fingerprint(node) == before


def test_error_in_a_response_is_raised_and_the_session_continues(session):
    logic, node, mask, grid = session
    before = fingerprint(node)
    assert logic.requestGamma(9)
    with pytest.raises(SkullVAEError, match=r"^A gamma of 9 is too large\. Use 0 to 2\.$"):
        settle(logic)
    assert fingerprint(node) == before
    assert logic.requestGamma(2)
    assert settle(logic)
    transform = node.GetParentTransformNode()
    assert np.array_equal(exported(node, logic.added.implantID, grid, transform=transform), moved(mask, 2))


@pytest.mark.parametrize("session", ["dies"], indirect=True)
def test_child_that_ends_during_a_request_ends_the_session_with_an_error(session):
    logic, node, _, _ = session
    before = fingerprint(node)
    assert logic.requestGamma(1)
    with pytest.raises(SkullVAEError, match="Killed"):
        settle(logic)
    assert not logic.live
    assert not logic.responsePending
    assert fingerprint(node) == before
    assert not logic.requestGamma(1)


def test_result_removed_by_the_user_ends_the_session_quietly(session):
    logic, node, _, _ = session
    assert logic.requestGamma(2)
    node.GetSegmentation().RemoveSegment(logic.added.implantID)
    assert not logic.pollResponses()
    assert not logic.live


def test_next_run_ends_the_session_before_it(session):
    logic, node, _, _ = session
    folder = logic._session.folder
    logic.start(node, "bone")
    assert not folder.exists()
    logic.cancel()


def test_unusable_next_input_keeps_result_and_session(session):
    logic, node, _, _ = session
    with pytest.raises(SkullVAEError):
        logic.start(node, "unknown")
    assert logic.live
    assert logic.added.exists
    assert slicer.mrmlScene.IsNodePresent(logic.added.implantModelNode)
