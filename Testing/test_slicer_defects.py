"""Candidate defects in the panel: table, check boxes, points at holes, and their requests within one session."""

from __future__ import annotations

import re

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import qt  # noqa: E402
import slicer  # noqa: E402
from SkullVAEModule import candidates as defects  # noqa: E402
from SkullVAEModule.candidates import Choice  # noqa: E402
from SkullVAEModule.defectpoints import newPointsNode, pointsNode, pointsOf, toWorld  # noqa: E402
from SkullVAEModule.figures import (  # noqa: E402
    AMBER,
    GREEN,
    RED,
    RatedFigure,
    remarkText,
    resultTable,
    warningsText,
)
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402
from SkullVAEModule.meshnodes import meshData  # noqa: E402
from SkullVAEModule.parameters import runSettings  # noqa: E402
from SkullVAEModule.results import figuresOf  # noqa: E402
from slicer_scenes import (  # noqa: E402
    GRIDS,
    addSkull,
    addTransform,
    addVolume,
    exported,
    nodeIDs,
    randomMask,
    rotation,
    runWithChild,
    settle,
    shortenTimers,
)

from SkullVAELib.checks.limits import LIMITS  # noqa: E402
from SkullVAELib.core.errors import SkullVAEError  # noqa: E402

pytestmark = pytest.mark.usefixtures("scene")

GRID = GRIDS["oblique"]
MOVED = rotation(25, (1, 0.5, 0)) + np.outer([30.0, -12, 8, 0], [0, 0, 0, 1])
FILL, PROBABILITY = 0, 3


def candidate(number: int, x: float = 0.0, volume: float = 1.0, filled: bool = True) -> dict:
    return {"number": number, "volume_ml": volume, "centre_mm": [x, 0.0, 0.0], "probability": 0.5, "filled": filled}


def shifted(mask: np.ndarray, *numbers: int) -> np.ndarray:
    """The implant of the child for these candidates."""
    implant = np.zeros_like(mask)
    for number in numbers:
        implant |= np.roll(mask, number, axis=0) & (1 - mask)
    return implant


# --------------------------------------------------------------------------------------------------------------------
# Decisions


def test_a_point_is_at_the_hole_whose_edge_is_nearest():
    large, small = candidate(1, 0, volume=47), candidate(2, 52, volume=0.9)
    # 44 mm from the centre of a hole with a radius of 50 mm, 8 mm from the centre of one with a radius of 7 mm.
    assert defects.filledForPoints([large, small], [(44, 0, 0)]) == {1}
    assert defects.filledForPoints([large, small], [(53, 0, 0), (-10, 0, 0)]) == {1, 2}
    assert defects.filledForPoints([candidate(1, filled=False)], [(0, 0, 0)]) == set()


def test_a_decision_belongs_to_the_candidate_at_its_place_whatever_its_number():
    choices = defects.withChoice([], candidate(1, 10, filled=True), False)
    assert not defects.isFilled(candidate(7, 10.9, filled=True), choices)
    assert defects.isFilled(candidate(1, 20, filled=True), choices)
    assert defects.withChoice(choices, candidate(3, 10), True) == [Choice((10, 0, 0), True)]


def test_a_decision_that_the_report_contradicts_is_dropped():
    choices = [Choice((10, 0, 0), False), Choice((20, 0, 0), True)]
    assert defects.agreeing(choices, [candidate(1, 10), candidate(2, 20)]) == [choices[1]]


# --------------------------------------------------------------------------------------------------------------------
# Logic


@pytest.fixture(params=["good"])
def session(tmp_path, request):
    """(logic, node, mask, transform) after a run whose child keeps running; mode of the child by parametrize."""
    _, create = runWithChild(tmp_path, request.param)
    mask, transform = randomMask(50), addTransform(MOVED)
    node = addSkull(mask, GRID, transform=transform)
    logic = SkullVAELogic(createRun=create)
    logic.completeSkull(node, "bone")
    yield logic, node, mask, transform
    logic.closeSession()


def test_other_defects_are_filled_in_place_and_reported(session):
    logic, node, mask, transform = session
    added, nodes = logic.added, nodeIDs()
    assert logic.requestDefects([2], [(118, 0, 0)])
    assert logic.waitForResponses()
    assert logic.added is added and nodeIDs() == nodes
    assert np.array_equal(exported(node, added.implantID, GRID, transform=transform), shifted(mask, 2, 3))
    assert np.array_equal(exported(node, added.completedID, GRID, transform=transform), mask | shifted(mask, 2, 3))
    assert meshData(added.implantModelNode.GetPolyData()).points[3, 2] == 35
    assert logic.report["asked"] == {"filled": [2], "at": [[118, 0, 0]]}
    assert [entry["filled"] for entry in figuresOf(added)["candidates"]] == [False, True, True]


def test_without_a_defect_the_result_is_removed_and_the_process_keeps_waiting(session):
    logic, node, mask, transform = session
    before = node.GetSegmentation().GetNumberOfSegments()
    assert before == 3
    logic.requestDefects()
    assert logic.waitForResponses()
    assert logic.added is None and not logic.live and logic.waiting
    assert node.GetSegmentation().GetNumberOfSegments() == 1
    assert not slicer.util.getNodesByClass("vtkMRMLModelNode") or all(
        model.GetHideFromEditors() for model in slicer.util.getNodesByClass("vtkMRMLModelNode")
    )
    logic.requestDefects([1])
    logic.waitForResponses()
    assert np.array_equal(exported(node, logic.added.implantID, GRID, transform=transform), shifted(mask, 1))
    assert logic.live


@pytest.mark.parametrize("session", ["nothing"], indirect=True)
def test_a_run_that_finds_nothing_waits_for_a_defect_and_adds_its_result(session):
    logic, node, mask, transform = session
    assert logic.added is None and logic.waiting and not logic.live
    assert logic.report["found"] is False
    assert node.GetSegmentation().GetNumberOfSegments() == 1
    assert not logic.requestGamma(1)
    assert logic.requestDefects([], [(81, 0, 0)])
    assert logic.waitForResponses()
    added = logic.added
    assert np.array_equal(exported(node, added.implantID, GRID, transform=transform), shifted(mask, 2))
    assert meshData(added.implantModelNode.GetPolyData()).points[3, 2] == 32
    assert meshData(added.skullModelNode.GetPolyData()).points[3, 2] == 60
    assert added.implantModelNode.GetParentTransformNode() is transform
    assert logic.resultOf(node, "bone") == added
    assert logic.requestGamma(3), "the session can be used as after any other run"
    logic.waitForResponses()
    assert logic.removeResult(node, "bone")
    assert node.GetSegmentation().GetNumberOfSegments() == 1


def test_a_point_without_a_hole_is_an_error_and_changes_nothing(session):
    logic, node, mask, transform = session
    logic.requestDefects([1], [(20, 0, 0)])
    with pytest.raises(SkullVAEError, match="no hole near the point"):
        logic.waitForResponses()
    assert np.array_equal(exported(node, logic.added.implantID, GRID, transform=transform), shifted(mask, 1))


# --------------------------------------------------------------------------------------------------------------------
# Points in the scene


@pytest.mark.parametrize("moved", [None, MOVED], ids=["input free", "input moved"])
def test_points_are_in_the_inputs_coordinates_under_any_transform(moved):
    node = addVolume(np.zeros((8, 9, 10), np.int16), GRID, transform=None if moved is None else addTransform(moved))
    assert pointsNode(node) is None and pointsOf(node) == ()
    points = newPointsNode(node)
    assert newPointsNode(node) is points
    assert points.GetTransformNodeID() == node.GetTransformNodeID()
    points.SetAndObserveTransformNodeID(addTransform(rotation(70, (0, 1, 3))).GetID())
    points.AddControlPointWorld([7.0, 8.0, -9.0])
    (place,) = pointsOf(node)
    expected = np.linalg.inv(np.eye(4) if moved is None else moved) @ [7, 8, -9, 1]
    np.testing.assert_allclose(place, expected[:3], atol=1e-6)
    np.testing.assert_allclose(toWorld(node, place), (7, 8, -9), atol=1e-6)
    assert pointsOf(addVolume(np.zeros((8, 9, 10), np.int16), GRID)) == ()


def test_a_point_that_follows_the_mouse_is_not_placed_yet():
    node = addVolume(np.zeros((8, 9, 10), np.int16), GRID)
    points = newPointsNode(node)
    points.AddControlPointWorld([1.0, 2.0, 3.0])
    points.AddControlPointWorld([4.0, 5.0, 6.0])
    points.SetNthControlPointPositionWorld(1, 4.0, 5.0, 6.0, points.PositionPreview)
    assert pointsOf(node) == ((1.0, 2.0, 3.0),)


# --------------------------------------------------------------------------------------------------------------------
# The panel, operated with the mouse


class Panel:
    """The panel with a child that has three candidates, and the runs that it has started."""

    def __init__(self, widget, folder, mode: str, transform=None):
        self.widget, self.ui, self.logic = widget, widget.ui, widget.logic
        self.runs, self.logic._createRun = runWithChild(folder, mode)
        shortenTimers(widget)
        self.mask, self.transform = randomMask(51), transform
        self.node = addSkull(self.mask, GRID, transform=transform)
        self.parameters = self.logic.getParameterNode()
        self.parameters.inputNode, self.parameters.segmentID = self.node, "bone"
        slicer_standin.processEvents(0.05)

    def complete(self) -> None:
        self.ui.completeButton.click()
        slicer_standin.waitFor(lambda: not self.logic.running)

    def settle(self) -> None:
        """Wait until everything that was changed was requested and is in the scene."""
        settle(self.widget)

    def toggle(self, row: int) -> None:
        slicer_standin.clickOnCell(self.ui.defectTable, row, FILL, onBox=True)

    @property
    def checked(self) -> list[bool]:
        table = self.ui.defectTable
        return [table.item(row, FILL).checkState() == qt.Qt.Checked for row in range(table.rowCount)]

    @property
    def asked(self) -> dict:
        return self.logic.report["asked"]

    def point(self, inInput, view: str = "Red") -> None:
        """Point at a place in the input's coordinates, with the button and the mouse."""
        self.ui.pointButton.click()
        slicer_standin.processEvents()
        assert self.ui.pointButton.checked
        slicer_standin.clickInSlice(view, toWorld(self.node, inInput))
        assert not self.ui.pointButton.checked, "one click places one point"

    def implant(self) -> np.ndarray:
        return exported(self.node, self.logic.added.implantID, GRID, transform=self.transform)


@pytest.fixture
def panel(widget, tmp_path):
    return Panel(widget, tmp_path, "good", addTransform(MOVED))


@pytest.fixture
def nothing(widget, tmp_path):
    return Panel(widget, tmp_path, "nothing", addTransform(MOVED))


def test_the_table_lists_candidates_with_reasons_and_marks_doubtful_ones(panel):
    assert not panel.ui.defectTable.visible
    assert "after a run" in panel.ui.defectsLabel.text
    panel.complete()
    assert not panel.ui.defectsLabel.visible, "no empty line above the table"
    table = panel.ui.defectTable
    texts = [[table.item(row, column).text() for column in range(4)] for row in range(3)]
    assert texts == [
        ["1", "10.0 ml", "R 40, A 5, I 7", "> 99 %"],
        ["2", "20.0 ml", "R 80, A 5, I 7", "40 %, doubtful"],
        ["3", "30.0 ml", "R 120, A 5, I 7", "2 %"],
    ]
    assert panel.checked == [True, False, False]
    assert [table.item(row, FILL).toolTip() for row in range(3)] == ["large & <open>", "small", "at the skull base"]
    assert [table.item(row, 1).foreground().color().name() == AMBER for row in range(3)] == [False, True, False]


def test_a_check_box_fills_and_empties_within_the_running_session(panel):
    panel.complete()
    panel.toggle(1)
    slicer_standin.waitFor(lambda: np.array_equal(panel.implant(), shifted(panel.mask, 1, 2)))
    panel.settle()
    assert panel.asked == {"filled": [1, 2], "at": []}
    panel.toggle(0)
    panel.settle()
    assert panel.asked == {"filled": [2], "at": []}
    assert panel.checked == [False, True, False]
    assert np.array_equal(panel.implant(), shifted(panel.mask, 2))
    assert "Done: defects filled: 1." in panel.ui.statusLabel.text
    assert len(panel.runs) == 1, "without a new run"


def test_without_a_checked_defect_the_result_is_removed_and_comes_back(panel):
    panel.complete()
    panel.toggle(0)
    panel.settle()
    assert panel.logic.added is None
    assert "No defect is filled" in panel.ui.statusLabel.text
    assert panel.ui.figuresLabel.text == "No result yet."
    assert not panel.ui.exportButton.enabled
    panel.toggle(2)
    panel.settle()
    assert np.array_equal(panel.implant(), shifted(panel.mask, 3))
    assert len(panel.runs) == 1


def test_a_click_on_a_row_centres_every_slice_view_and_the_crosshair(panel):
    panel.complete()
    slicer_standin.clickOnCell(panel.ui.defectTable, 2, PROBABILITY)
    expected = (MOVED @ [120, 5, -7, 1])[:3]
    nodes = slicer.util.getNodesByClass("vtkMRMLSliceNode")
    assert len(nodes) == 3
    for node in nodes:
        np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())[:3, 3], expected, atol=1e-6)
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    np.testing.assert_allclose(crosshair.GetCrosshairRAS(), expected, atol=1e-6)
    assert panel.checked == [True, False, False]
    slicer_standin.processEvents(0.3)
    assert "asked" not in panel.logic.report, "a look changes nothing"


def test_points_fill_holes_and_their_removal_empties_them(panel):
    panel.complete()
    panel.point((84, 5, -7), "Green")
    panel.settle()
    assert panel.asked["filled"] == [1]
    # One pixel of the view is about 0.6 mm.
    np.testing.assert_allclose(panel.asked["at"], [(84, 5, -7)], atol=1)
    assert panel.checked == [True, True, False]
    panel.point((118, 5, -7))
    panel.settle()
    assert len(panel.asked["at"]) == 2
    assert np.array_equal(panel.implant(), shifted(panel.mask, 1, 2, 3))
    panel.ui.removePointButton.click()
    panel.settle()
    assert panel.checked == [True, True, False]
    pointsNode(panel.node, "bone").RemoveNthControlPoint(0)  # as by the menu of the point in a view
    panel.settle()
    assert panel.asked == {"filled": [1], "at": []}
    assert panel.checked == [True, False, False]
    assert not panel.ui.removePointButton.enabled
    assert len(panel.runs) == 1


def test_moving_a_point_moves_the_defect_and_removing_its_node_empties_it(panel):
    panel.complete()
    panel.point((84, 5, -7))
    panel.settle()
    points = pointsNode(panel.node, "bone")
    points.SetNthControlPointPosition(0, 121.0, 5.0, -7.0)
    panel.settle()
    assert panel.checked == [True, False, True]
    slicer.mrmlScene.RemoveNode(points)
    panel.settle()
    assert panel.checked == [True, False, False]


def test_unchecking_a_hole_that_was_pointed_at_removes_its_point(panel):
    panel.complete()
    panel.point((84, 5, -7))
    panel.point((118, 5, -7))
    panel.settle()
    assert panel.checked == [True, True, True]
    panel.toggle(1)
    panel.settle()
    assert panel.checked == [True, False, True]
    assert len(pointsOf(panel.node, "bone")) == 1
    assert panel.asked["filled"] == [1]


def test_moving_the_mouse_while_placing_does_not_update_the_panel(panel):
    panel.complete()
    panel.ui.pointButton.click()
    slicer_standin.processEvents()
    updates = []
    update = panel.widget.defectSection.update
    panel.widget.defectSection.update = lambda busy: (updates.append(busy), update(busy))
    points = pointsNode(panel.node, "bone")
    points.AddControlPointWorld([1.0, 2.0, 3.0])
    points.SetNthControlPointPositionWorld(0, 1.0, 2.0, 3.0, points.PositionPreview)
    slicer_standin.processEvents()
    updates.clear()
    for x in range(20):
        points.SetNthControlPointPositionWorld(0, float(x), 2.0, 3.0, points.PositionPreview)
    assert updates == []
    points.SetNthControlPointPositionWorld(0, 80.0, 5.0, -7.0, points.PositionDefined)
    assert updates


def test_the_button_stops_placing(panel):
    panel.ui.pointButton.click()
    slicer_standin.processEvents()
    assert "Click on the hole" in panel.ui.defectsLabel.text
    panel.ui.pointButton.click()
    slicer_standin.processEvents()
    assert not panel.ui.pointButton.checked
    slicer_standin.clickInSlice("Red", (0, 0, 0))
    assert pointsOf(panel.node, "bone") == ()


def test_where_nothing_is_found_the_panel_explains_pointing_and_a_point_adds_the_result(nothing):
    nothing.complete()
    assert nothing.logic.waiting and nothing.logic.added is None
    assert "No defect was found" in nothing.ui.statusLabel.text
    assert "'Point at a hole'" in nothing.ui.statusLabel.text
    assert "'Point at a hole'" in nothing.ui.defectsLabel.text
    assert "Point at it." in nothing.ui.figuresLabel.text, "the warnings of the run"
    assert nothing.checked == [False, False, False]
    nothing.point((42, 5, -7))
    nothing.settle()
    assert np.array_equal(nothing.implant(), shifted(nothing.mask, 1))
    assert nothing.checked == [True, False, False]
    assert "Point at it." not in nothing.ui.figuresLabel.text
    assert nothing.ui.removeResultButton.enabled
    nothing.ui.removePointButton.click()
    nothing.settle()
    assert nothing.logic.added is None and nothing.logic.waiting
    assert nothing.node.GetSegmentation().GetNumberOfSegments() == 1
    assert len(nothing.runs) == 1


def test_points_placed_before_a_run_are_given_to_it_and_can_be_removed_after_it(nothing):
    nothing.point((84, 5, -7))
    nothing.complete()
    (place,) = nothing.runs[0]._settings.at
    np.testing.assert_allclose(place, (84, 5, -7), atol=1)
    assert nothing.checked == [False, True, False]
    slicer_standin.processEvents(0.3)
    assert "asked" not in nothing.logic.report, "the run has filled the hole already"
    nothing.ui.removePointButton.click()
    nothing.settle()
    assert nothing.logic.added is None


def test_decisions_are_given_to_the_next_run_by_place(panel):
    panel.complete()
    panel.toggle(0)
    panel.toggle(1)
    panel.settle()
    panel.complete()
    settings = panel.runs[1]._settings
    assert (settings.at, settings.notAt) == (((80, 5, -7),), ((40, 5, -7),))
    assert panel.checked == [False, True, False]
    assert np.array_equal(panel.implant(), shifted(panel.mask, 2))


def test_decisions_without_a_running_process_apply_to_the_next_run(panel):
    panel.complete()
    panel.logic.closeSession()
    panel.widget._onParametersModified()
    assert "next run" in panel.ui.defectsLabel.text
    panel.toggle(2)
    slicer_standin.processEvents(0.3)
    assert panel.checked == [True, False, True]
    assert np.array_equal(panel.implant(), shifted(panel.mask, 1))
    panel.complete()
    assert np.array_equal(panel.implant(), shifted(panel.mask, 1, 3))


def test_an_error_unchecks_what_was_not_filled_and_shows_the_reason(panel):
    panel.complete()
    panel.toggle(1)
    panel.settle()
    newPointsNode(panel.node, "bone").AddControlPoint([20.0, 0.0, 0.0])
    panel.toggle(2)
    panel.settle()
    assert "no hole near the point" in panel.ui.statusLabel.text
    assert panel.checked == [True, True, False]
    assert np.array_equal(panel.implant(), shifted(panel.mask, 1, 2))


def test_decisions_and_points_are_saved_with_the_scene_and_restored(panel, tmp_path):
    panel.complete()
    panel.toggle(0)
    panel.point((118, 5, -7))
    panel.settle()
    before = pointsOf(panel.node, "bone")
    path = tmp_path / "scene.mrb"
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear()
    slicer_standin.processEvents(0.05)
    assert not panel.ui.defectTable.visible
    slicer.util.loadScene(str(path))
    slicer_standin.processEvents(0.05)
    panel.widget.initializeParameterNode()
    slicer_standin.processEvents(0.05)
    node = panel.logic.getParameterNode().inputNode
    np.testing.assert_allclose(pointsOf(node, "bone"), before, atol=1e-3)
    assert panel.checked == [False, False, True]
    at, notAt = panel.widget.defectSection.forRun()
    np.testing.assert_allclose(at, before, atol=1e-3)
    assert notAt == [(40, 5, -7)]


def test_another_input_has_its_own_decisions_and_points(panel):
    panel.complete()
    panel.toggle(0)
    panel.toggle(1)
    panel.point((118, 5, -7))
    panel.settle()
    other = addVolume(np.zeros((8, 9, 10), np.int16), GRID)
    panel.parameters.inputNode = other
    panel.settle()
    assert not panel.ui.defectTable.visible
    assert panel.widget.defectSection.forRun() == ([], [])
    assert not panel.logic.live and panel.logic.report == {}
    panel.parameters.inputNode = panel.node
    panel.settle()
    assert panel.asked["filled"] == [2], "nothing was requested for the other input"
    assert panel.checked == [False, True, True]


def test_removing_the_result_forgets_the_decisions(panel):
    panel.complete()
    panel.toggle(1)
    panel.settle()
    panel.ui.removeResultButton.click()
    slicer_standin.processEvents(0.05)
    assert panel.widget.defectSection.forRun() == ([], [])


def test_a_point_is_followed_after_a_visit_to_another_module(panel):
    panel.complete()
    slicer_standin.leaveModule(panel.widget)
    newPointsNode(panel.node, "bone").AddControlPoint([80.0, 5.0, -7.0])
    slicer_standin.enterModule(panel.widget)
    panel.settle()
    assert panel.checked == [True, True, False]


# --------------------------------------------------------------------------------------------------------------------
# Options, and the self-check


def test_points_fragments_and_label_become_options_of_the_command_line():
    parameters = SkullVAELogic().getParameterNode()
    arguments = runSettings(parameters).arguments()
    assert not [each for each in arguments if each.startswith(("--at", "--not-at", "--fragments", "--segment"))]
    parameters.inputNode = addVolume(np.zeros((8, 9, 10), np.int16), GRID)
    parameters.fragments, parameters.label = "Ignore", " 2 "
    arguments = runSettings(parameters, at=[(-1.5, 2, 3), (4, 5, 6)], notAt=[(7, 8, -9)]).arguments()
    assert [each for each in arguments if each.startswith(("--at", "--not-at"))] == [
        "--at=-1.5,2,3",
        "--at=4,5,6",
        "--not-at=7,8,-9",
    ]
    assert arguments[arguments.index("--fragments") + 1] == "ignore"
    assert "--segment=2" in arguments
    parameters.inputNode = addSkull(randomMask(52), GRID)
    assert "--segment=2" not in runSettings(parameters).arguments()


CHECKS = {
    "rating": "poor",
    "checks": [
        {"name": "open_edge", "value": 31.2, "unit": "%", "rating": "poor", "warning": "31 % is <open>. Look."},
        {"name": "missing_bone", "value": 0.0, "unit": "ml", "rating": "good", "warning": ""},
        {"name": "thickness", "value": 0.85, "unit": "", "rating": "good", "warning": ""},
        {"name": "rim_step", "value": None, "unit": "mm", "rating": "acceptable", "warning": "Not measured."},
        {"name": "later & other", "value": 1.5, "unit": "mm", "rating": "good", "warning": ""},
    ],
}


def test_the_self_check_is_shown_in_the_words_of_the_report_and_its_warnings_once():
    report = {"checks": CHECKS, "warnings": ["31 % is <open>. Look.", "5 mm slices", "Not measured."]}
    table = resultTable(report)
    texts = ("31.2&nbsp;%", "31 % is &lt;open&gt;.", "0&nbsp;ml", "0.85", "1 poor, 1 acceptable, 3 good")
    for text in ("Overall rating", LIMITS["open_edge"].title, *texts, "later &amp; other", RED, GREEN):
        assert text in table
    assert "<open>" not in table and table.count("31 % is") == 1
    assert "open" not in warningsText(report) and "measured" not in warningsText(report)
    assert "5 mm slices" in warningsText(report)
    assert resultTable({"checks": None}) == resultTable({}) == ""
    assert "5 mm slices" in warningsText({"checks": None, "warnings": ["5 mm slices"]})


DOT = "&#9679;</span>&nbsp;"


@pytest.mark.parametrize(
    ("more", "summary"),
    [
        ({}, "1 poor, 1 acceptable, 3 good"),
        ({"implant": {"volume_ml": 8.2, "rim_gap_mm": 0.7}}, "1 poor, 1 acceptable, 4 good"),
        ({"implant": {"volume_ml": 8.2, "rim_gap_mm": 2.7}}, "2 poor, 1 acceptable, 3 good"),
        ({"implant": {"volume_ml": 8.2, "rim_gap_mm": None}}, "1 poor, 1 acceptable, 3 good"),
    ],
)
def test_the_summary_counts_the_rows_and_the_overall_rating_is_the_worst_of_them(more, summary):
    report = {"checks": CHECKS, **more}
    table = resultTable(report)
    start, rows = table.split("</div>", 1)
    assert f"({summary})" in start and f"{DOT}poor" not in rows.partition("acceptable")[2], "the worst comes first"
    said = ", ".join(f"{rows.count(DOT + word)} {word}" for word in ("poor", "acceptable", "good"))
    assert said == summary
    mild = {"rating": "good", "checks": [CHECKS["checks"][1]]}
    gap = {"volume_ml": 8.2, "rim_gap_mm": 2.7}
    assert f"{DOT}poor</b> (1 poor, 1 good)" in resultTable({"checks": mild, "implant": gap}).split("</div>")[0]


@pytest.mark.parametrize("name", [*LIMITS, "rim_gap", "reference"])
def test_a_poor_figure_names_the_repair_first_then_what_is_wrong(name):
    warning = "It is 5 mm off, at R 2, A 3. Inspect it."
    poor = remarkText(RatedFigure(name, name, "5 mm", "poor", warning))
    repair, cause = poor.split("</b> ")
    assert repair.startswith("<b>") and len(repair) > 20 and cause == "It is 5 mm off, at R 2, A 3."
    assert not re.search(r"--\w|\bSlicer\b", repair), "in the words of the panel"
    assert remarkText(RatedFigure(name, name, "5 mm", "acceptable", warning)) == warning
    assert remarkText(RatedFigure(name, name, "5 mm", "good")) == ""


def test_the_poor_match_of_an_earlier_bone_is_named_once():
    warning = "The reference 'x' matches poorly: 2.0 mm from intact bone. Check that it is this patient's."
    reference = {"residual_mm": {"median": 2.0, "p95": 9.0}, "covered": 0.5, "rating": "poor"}
    table = resultTable({"implant": {"volume_ml": 8.2}, "reference": reference, "warnings": [warning, "Thin."]})
    assert table.count("matches poorly") == 1 and table.index("matches poorly") < table.index("Thin.")


def test_a_warning_that_is_listed_twice_is_shown_once():
    assert warningsText({"warnings": ["Thin.", "Wide.", "Thin."]}).count("Thin.") == 1


def test_the_result_section_shows_the_self_check(panel):
    panel.complete()
    panel.logic.report = {**panel.logic.report, "checks": CHECKS, "implant": {"volume_ml": 8.2, "rim_gap_mm": 0.7}}
    panel.widget._onParametersModified()
    assert LIMITS["open_edge"].title in panel.ui.figuresLabel.text
