"""Editing by hand in the panel: voxels, points on the surface, undo; and the results of several inputs."""

from __future__ import annotations

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
from SkullVAEModule.cases import MOST_SESSIONS, EditHistory  # noqa: E402
from SkullVAEModule.defectpoints import SURFACE, pointsOf, toWorld  # noqa: E402
from SkullVAEModule.meshnodes import meshData  # noqa: E402
from SkullVAEModule.results import editedText, isEdited  # noqa: E402
from SkullVAEModule.segments import EDITED_TAG, segmentTag  # noqa: E402
from slicer_scenes import addSkull, addTransform, alive, exported, orientedImage, randomMask  # noqa: E402
from test_slicer_defects import GRID, MOVED, Panel, shifted  # noqa: E402

pytestmark = pytest.mark.usefixtures("scene")


@pytest.fixture
def panel(widget, tmp_path):
    panel = Panel(widget, tmp_path, "good", addTransform(MOVED))
    panel.complete()
    return panel


def paint(panel, implant: np.ndarray) -> None:
    """Set the voxels of the implant's segment as the Segment Editor does."""
    slicer.vtkSlicerSegmentationsModuleLogic.SetBinaryLabelmapToSegment(
        orientedImage(implant, GRID),
        panel.node,
        panel.logic.added.implantID,
        slicer.vtkSlicerSegmentationsModuleLogic.MODE_REPLACE,
    )


def size(panel) -> float:
    """The size of the child's printable implant: it tells what it was made for."""
    return float(meshData(panel.logic.added.implantModelNode.GetPolyData()).points[3, 2])


def corner(panel) -> np.ndarray:
    """Voxels in a corner that are neither bone nor implant."""
    free = np.zeros_like(panel.mask)
    free[:4, :4, :4] = 1
    return free & (1 - panel.mask) & (1 - shifted(panel.mask, 1))


def test_the_printable_implant_follows_painted_voxels_and_the_result_is_marked(panel):
    before, more = panel.implant(), corner(panel)
    paint(panel, before | more)
    panel.settle()
    assert size(panel) == 100 + more.sum()
    assert np.array_equal(panel.implant(), before | more)
    added = panel.logic.added
    assert np.array_equal(
        exported(panel.node, added.completedID, GRID, transform=panel.transform), panel.mask | before | more
    )
    assert isEdited(added)
    assert segmentTag(panel.node.GetSegmentation().GetSegment(added.implantID), EDITED_TAG)
    assert panel.logic.report["edited"]["voxels_added_ml"] == more.sum() / 1000
    assert "ml added" in panel.ui.editLabel.text
    texts = [each.text for each in vars(panel.ui).values() if each.className() == "QLabel"]
    assert sum(text.count("ml added") for text in texts) == 1, "the remark is shown once"
    assert panel.ui.statusLabel.text == "The printable implant follows what was edited by hand."
    # Nothing is requested again.
    last = panel.logic._session._lastNumber
    panel.settle()
    assert panel.logic._session._lastNumber == last


def test_voxels_are_followed_in_another_module(panel):
    more = corner(panel)
    slicer_standin.leaveModule(panel.widget)
    paint(panel, panel.implant() | more)
    panel.settle()
    assert size(panel) == 100 + more.sum()
    slicer_standin.enterModule(panel.widget)
    assert "ml added" in panel.ui.editLabel.text


def test_voxels_over_bone_are_left_to_the_user_and_out_of_the_implant(panel):
    paint(panel, panel.implant() | panel.mask)
    panel.settle()
    assert size(panel) == 100
    assert np.array_equal(panel.implant(), shifted(panel.mask, 1) | panel.mask)
    assert "edited" not in panel.logic.report


def test_edits_are_kept_in_another_shape_and_this_is_announced(panel):
    more = corner(panel) & (1 - shifted(panel.mask, 2))
    paint(panel, panel.implant() | more)
    panel.settle()
    assert panel.logic.requestGamma(2)
    panel.widget._follow()
    panel.settle()
    assert np.array_equal(panel.implant(), shifted(panel.mask, 2) | more)
    assert "What was edited by hand is kept in every shape." in panel.ui.statusLabel.text
    assert panel.logic.report["edited"]["voxels_added_ml"] == more.sum() / 1000


def test_what_is_painted_while_another_shape_is_computed_is_not_lost(panel):
    more = corner(panel) & (1 - shifted(panel.mask, 2))
    assert panel.logic.requestGamma(2)
    paint(panel, panel.implant() | more)
    assert panel.logic.waitForResponses()
    assert np.array_equal(panel.implant(), shifted(panel.mask, 2) | more)
    panel.settle()
    assert size(panel) == 100 + more.sum()


def test_each_step_of_editing_is_undone_and_redone(panel):
    before, more = panel.implant(), corner(panel)
    paint(panel, before | more)
    panel.settle()
    paint(panel, more)
    panel.settle()
    assert size(panel) == 100 + more.sum() - before.sum()
    assert not panel.ui.redoEditButton.enabled
    for expected in (before | more, before):
        panel.ui.undoEditButton.click()
        panel.settle()
        assert np.array_equal(panel.implant(), expected)
    assert size(panel) == 100 and "edited" not in panel.logic.report
    assert not panel.ui.undoEditButton.enabled
    for expected in (before | more, more):
        panel.ui.redoEditButton.click()
        panel.settle()
        assert np.array_equal(panel.implant(), expected)
    assert not panel.ui.redoEditButton.enabled


def state(panel) -> tuple:
    """Candidates that fill the present implant, the size of its mesh, gamma of the panel and of the report."""
    implant = panel.implant()
    (shift,) = [number for number in (1, 2, 3) if np.array_equal(implant, shifted(panel.mask, number))]
    return shift, size(panel), panel.ui.gammaSlider.value, panel.logic.report["gamma"]


def test_undo_of_the_scene_after_a_change_of_gamma(widget, tmp_path):
    slicer.mrmlScene.SetUndoOn()
    panel = Panel(widget, tmp_path, "good", addTransform(MOVED))
    panel.complete()
    # The last two have the same voxels.
    for gamma in (2, 1, 1.25):
        panel.ui.gammaSlider.value = gamma
        panel.settle()
    assert state(panel) == (1, 31.25, 1.25, 1.25)
    steps = (slicer.mrmlScene.Undo, 1.0), (slicer.mrmlScene.Undo, 2.0), (slicer.mrmlScene.Redo, 1.0)
    for step, gamma in (*steps, (slicer.mrmlScene.Redo, 1.25)):
        step()
        panel.settle()
        panel.settle()
        assert state(panel) == (int(gamma), 30 + gamma, gamma, gamma)
        assert "edited" not in panel.logic.report and not isEdited(panel.logic.added)
        assert "edited" not in panel.ui.statusLabel.text and not panel.ui.undoEditButton.enabled
    paint(panel, panel.implant() | corner(panel))
    panel.settle()
    assert isEdited(panel.logic.added), "what is edited after it is found"


def test_undo_of_the_scene_after_another_choice_of_defects(widget, tmp_path):
    slicer.mrmlScene.SetUndoOn()
    panel = Panel(widget, tmp_path, "good", addTransform(MOVED))
    panel.complete()
    panel.toggle(1)
    panel.settle()
    panel.toggle(0)
    panel.settle()
    assert panel.checked == [False, True, False]
    for step, checked, implant in (
        (slicer.mrmlScene.Undo, [True, True, False], (1, 2)),
        (slicer.mrmlScene.Undo, [True, False, False], (1,)),
        (slicer.mrmlScene.Redo, [True, True, False], (1, 2)),
    ):
        step()
        panel.settle()
        panel.settle()
        assert panel.checked == checked and not isEdited(panel.logic.added)
        assert np.array_equal(panel.implant(), shifted(panel.mask, *implant)) and size(panel) == 30 + sum(implant)


def test_a_point_on_the_surface_is_placed_with_the_mouse_undone_and_redone(panel):
    panel.ui.surfacePointButton.click()
    slicer_standin.processEvents()
    assert panel.ui.surfacePointButton.checked
    slicer_standin.clickInSlice("Red", toWorld(panel.node, (40.0, 5.0, -7.0)))
    assert not panel.ui.surfacePointButton.checked
    panel.settle()
    assert size(panel) == 201
    assert np.array_equal(panel.implant(), shifted(panel.mask, 2))
    (entry,) = panel.logic.report["edited"]["points"]
    np.testing.assert_allclose(entry["at"][:2], (40.0, 5.0), atol=1)
    # They are no points at holes.
    assert pointsOf(panel.node, "bone") == ()
    panel.ui.undoEditButton.click()
    panel.settle()
    assert pointsOf(panel.node, "bone", SURFACE) == ()
    assert size(panel) == 200 and np.array_equal(panel.implant(), shifted(panel.mask, 1))
    panel.ui.redoEditButton.click()
    panel.settle()
    assert size(panel) == 201 and len(pointsOf(panel.node, "bone", SURFACE)) == 1
    panel.ui.removeSurfacePointButton.click()
    panel.settle()
    assert size(panel) == 200


def test_the_text_on_edits_names_only_what_was_edited():
    voxels = {"voxels_added_ml": 0.256, "voxels_removed_ml": 0.0}
    points = {"voxels_added_ml": 0.0, "voxels_removed_ml": 0.001, "points": [{"at": [1, 2, 3]}]}
    start = "The implant was edited by hand: "
    assert editedText({"edited": voxels}) == start + "0.26 ml added, 0.00 ml removed."
    assert editedText({"edited": points}) == start + "points on the surface: 1."
    both = {**points, **voxels}
    assert editedText({"edited": both}) == start + "0.26 ml added, 0.00 ml removed, points on the surface: 1."
    assert editedText({}) == ""


def test_a_point_that_is_refused_shows_why_and_is_requested_once(panel):
    from SkullVAEModule.defectpoints import setPoints

    setPoints(panel.node, "bone", [(200.0, 0.0, 0.0)], SURFACE)
    panel.widget._onParametersModified()
    panel.settle()
    assert "beside the defect" in panel.ui.statusLabel.text
    last = panel.logic._session._lastNumber
    panel.settle()
    assert panel.logic._session._lastNumber == last
    assert np.array_equal(panel.implant(), shifted(panel.mask, 1))


def test_an_edited_implant_is_kept_when_another_run_replaces_it(panel):
    more = corner(panel)
    edited = panel.implant() | more
    note = panel.ui.completeNoteLabel
    assert note.text == "" and not note.visible
    paint(panel, edited)
    panel.settle()
    assert note.visible and "A copy is kept as segment 'Implant, edited by hand'." in note.text
    assert "points" not in note.text
    panel.complete()
    assert not note.visible, "the new implant is not edited"
    assert np.array_equal(panel.implant(), shifted(panel.mask, 1))
    segmentation = panel.node.GetSegmentation()
    (kept,) = [
        each for each in segmentation.GetSegmentIDs() if "edited by hand" in segmentation.GetSegment(each).GetName()
    ]
    assert np.array_equal(exported(panel.node, kept, GRID, transform=panel.transform), edited)
    assert panel.node.GetSegmentation().GetSegment(kept).GetName() == "Implant, edited by hand"
    assert "edited by hand is kept as segment" in panel.ui.statusLabel.text
    panel.ui.removeResultButton.click()
    assert segmentation.GetSegment(kept) is not None


def test_points_on_the_surface_are_kept_for_the_next_result_as_the_note_says(panel):
    from SkullVAEModule.defectpoints import setPoints

    setPoints(panel.node, "bone", [(1.0, 2.0, 3.0)], SURFACE)
    panel.widget._onParametersModified()
    panel.settle()
    assert "Its surface points are applied to the new implant." in panel.ui.completeNoteLabel.text
    panel.complete()
    panel.settle()
    assert len(panel.logic.report["edited"]["points"]) == 1


def test_the_export_in_the_panel_says_that_the_implant_was_edited_but_not_again_how(panel, tmp_path):
    paint(panel, panel.implant() | corner(panel))
    panel.settle()
    panel.parameters.exportFolder = str(tmp_path)
    slicer_standin.processEvents(0.05)
    panel.ui.exportButton.click()
    slicer_standin.waitFor(lambda: not panel.widget.exportSection.running)
    assert "The printable implant, edited by hand, is Head_implant.stl." in panel.ui.statusLabel.text
    assert "ml added" not in panel.ui.statusLabel.text


def test_an_edited_implant_is_kept_when_no_defect_is_filled(panel):
    paint(panel, panel.implant() | corner(panel))
    panel.settle()
    panel.toggle(0)
    panel.settle()
    names = [
        panel.node.GetSegmentation().GetSegment(each).GetName() for each in panel.node.GetSegmentation().GetSegmentIDs()
    ]
    assert [name for name in names if "edited by hand" in name]


def test_the_export_says_what_was_edited(panel, tmp_path):
    paint(panel, panel.implant() | corner(panel))
    panel.settle()
    result = panel.logic.exportResult(tmp_path / "out")
    assert result.implantFrom == "model"
    assert any(note.startswith("The implant was edited by hand") for note in result.notes)


def test_the_editor_is_opened_with_the_implant_and_leaves_other_segments_alone(panel, monkeypatch):
    opened = []
    monkeypatch.setattr(slicer.util, "selectModule", opened.append)
    panel.ui.editButton.click()
    editor = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    assert opened == ["SegmentEditor"]
    assert editor.GetSegmentationNode() is panel.node
    assert editor.GetSelectedSegmentID() == panel.logic.added.implantID
    assert editor.GetOverwriteMode() == editor.OverwriteNone


# --------------------------------------------------------------------------------------------------------------------
# Several inputs


def choose(panel, node) -> None:
    panel.parameters.inputNode = node
    panel.parameters.segmentID = "bone"
    slicer_standin.processEvents(0.05)


def another(panel, seed: int):
    node = addSkull(randomMask(seed), GRID)
    choose(panel, node)
    panel.complete()
    return node


def test_each_input_has_its_own_result_process_and_settings(panel):
    panel.ui.clearanceSpinBox.value = 1.5
    panel.settle()
    first, pid = panel.node, panel.logic._session.child._process.pid
    second = another(panel, 77)
    panel.ui.clearanceSpinBox.value = 2.5
    panel.settle()
    assert size(panel) == 2.5 and panel.logic.added.segmentationNode is second
    choose(panel, first)
    panel.settle()
    assert alive(pid)
    assert panel.logic.added.segmentationNode is first
    assert panel.ui.clearanceSpinBox.value == 1.5 and size(panel) == 1.5
    panel.toggle(1)
    panel.settle()
    assert np.array_equal(panel.implant(), shifted(panel.mask, 1, 2))
    other = panel.logic.resultOf(second, "bone")
    assert np.array_equal(exported(second, other.implantID, GRID), shifted(randomMask(77), 1))
    choose(panel, second)
    panel.settle()
    assert panel.checked == [True, False, False]
    assert panel.ui.clearanceSpinBox.value == 2.5
    panel.parameters.gamma = 2.0
    panel.settle()
    assert np.array_equal(exported(second, other.implantID, GRID), shifted(randomMask(77), 2))
    choose(panel, first)
    panel.settle()
    assert panel.parameters.gamma == 0
    assert np.array_equal(panel.implant(), shifted(panel.mask, 1, 2))


def test_the_process_that_was_used_longest_ago_ends(panel):
    first = panel.logic._session.child._process.pid
    nodes = [another(panel, 80 + k) for k in range(MOST_SESSIONS - 1)]
    choose(panel, panel.node)
    another(panel, 90)
    assert alive(first)
    choose(panel, nodes[0])
    assert not panel.logic.live and panel.logic.report
    assert panel.widget.resultSection.present
    choose(panel, panel.node)
    assert panel.logic.live


def test_removing_one_result_keeps_the_other(panel):
    second = another(panel, 77)
    panel.ui.removeResultButton.click()
    slicer_standin.processEvents(0.05)
    assert not panel.logic.hasResult(second, "bone") and panel.logic.added is None
    choose(panel, panel.node)
    assert panel.logic.live and panel.logic.hasResult(panel.node, "bone")


def test_steps_that_are_replayed_are_not_recorded():
    history = EditHistory()
    history.record("a", "b")
    history.record("b", "c")
    assert history.undo() == "b"
    history.record("c", "b")
    assert history.canUndo and history.canRedo
    assert history.redo() == "c"
    history.record("b", "c")
    assert history.undo() == "b"
    history.failed()
    history.record("b", "d")
    assert not history.canRedo and history.undo() == "b"
