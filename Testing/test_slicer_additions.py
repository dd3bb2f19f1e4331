"""Tabs, flange, holes, engraving, build-up and insertion in the panel, operated with mouse and keyboard."""

from __future__ import annotations

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
from SkullVAEModule.completion import ImplantPoints, RunSettings  # noqa: E402
from SkullVAEModule.defectpoints import DRAINS, TABS, pointsNode, pointsOf, toWorld  # noqa: E402
from SkullVAEModule.figures import resultTable  # noqa: E402
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402
from SkullVAEModule.parameters import implantSettings, runSettings  # noqa: E402
from slicer_scenes import addSkull, addTransform, randomMask, vtkMatrix  # noqa: E402
from test_slicer_defects import GRID, MOVED, Panel  # noqa: E402
from test_slicer_parameters import parsed  # noqa: E402

from SkullVAELib.cli.case_options import parse_case_options  # noqa: E402
from SkullVAELib.implant.options import ImplantOptions  # noqa: E402

pytestmark = pytest.mark.usefixtures("scene")

EVERYTHING = ImplantPoints(tabs=((-1.0, 2.0, 3.0),), drains=((4.0, -5.0, 6.0),), buildUps=((7.0, 8.0, -9.5),))


@pytest.fixture
def panel(widget, tmp_path):
    return Panel(widget, tmp_path, "good", addTransform(MOVED))


def requested(panel) -> dict:
    """The value of the last request for a printable implant."""
    panel.settle()
    return panel.logic.report["printable_implant"]


def openGroup(panel, *groups) -> None:
    panel.ui.implantCollapsibleButton.collapsed = False
    for group in groups:
        group.collapsed = False
    slicer_standin.processEvents(0.02)


def switchOn(parameters) -> None:
    parameters.tabs, parameters.tabThickness = 4, 1.2
    parameters.screwDiameter, parameters.screwBone = 1.5, 2.5
    parameters.flange, parameters.flangeWidth, parameters.flangeThickness, parameters.flangeScrews = True, 7.0, 1.1, 5
    parameters.drainDiameter, parameters.engraving, parameters.engravingHeight = 3.5, "-ab 12", 5.0
    parameters.buildUpRadius, parameters.buildUpThickness = 20.0, 2.5
    parameters.insertable, parameters.insertionDepth = True, 4.5


def test_the_command_line_and_the_session_are_given_the_same_implant():
    parameters = SkullVAELogic().getParameterNode()
    switchOn(parameters)
    ofRun = parse_case_options(parsed(parameters, points=EVERYTHING))[0]
    request = runSettings(parameters, points=EVERYTHING).implantRequest()
    assert ofRun == ImplantOptions.parse(**request, thickness_map=True)
    added = ofRun.additions
    assert (added.tabs, added.tab_thickness_mm, added.screw_diameter_mm, added.screw_bone_mm) == (4, 1.2, 1.5, 2.5)
    assert (added.flange_mm, added.flange_thickness_mm, added.flange_screws) == (7, 1.1, 5)
    assert (added.engraving, added.engraving_mm, added.engraving_depth_mm) == ("-AB 12", 5, 0.5)
    assert added.tab_at == EVERYTHING.tabs
    assert added.holes_at == ((4, -5, 6, 3.5),)
    assert added.build_up == ((7, 8, -9.5, 20, 2.5),)
    assert ofRun.insertable_mm == 4.5


def test_nothing_is_added_until_it_is_switched_on():
    parameters = SkullVAELogic().getParameterNode()
    before = RunSettings(**implantSettings(parameters))
    # What has no effect on the implant does not make it anew either.
    parameters.tabThickness, parameters.screwDiameter, parameters.flangeWidth = 2.0, 2.0, 12.0
    parameters.drainDiameter, parameters.engravingHeight, parameters.buildUpRadius = 5.0, 9.0, 40.0
    parameters.insertionDepth = 8.0
    assert RunSettings(**implantSettings(parameters)) == before
    assert not parse_case_options(parsed(parameters))[0].additions.any
    assert set(before.implantRequest()) == {"clearance", "thickness", "under_contour", "smooth", "holes", "split"}


def test_the_groups_are_closed_at_first(panel):
    openGroup(panel)
    for name in ("fixation", "marking", "buildUp", "insertion"):
        assert getattr(panel.ui, f"{name}Group").collapsed, name
    assert not panel.ui.tabsSpinBox.visible and not panel.ui.engravingLineEdit.visible


def test_the_implant_follows_numbers_and_check_boxes(panel):
    panel.complete()
    openGroup(panel, panel.ui.fixationGroup, panel.ui.insertionGroup)
    assert not panel.ui.tabThicknessSpinBox.enabled and not panel.ui.flangeWidget.visible
    slicer_standin.typeText(panel.ui.tabsSpinBox, "4", "\t")
    assert requested(panel)["tabs"] == "4,1.5" and requested(panel)["screws"] == "1.6,3"
    slicer_standin.typeText(panel.ui.tabThicknessSpinBox, "1.2", "\t")
    assert requested(panel)["tabs"] == "4,1.2"
    slicer_standin.click(panel.ui.flangeCheckBox)
    assert panel.ui.flangeWidget.visible and requested(panel)["flange"] == "8,1,6"
    slicer_standin.click(panel.ui.insertableCheckBox)
    assert requested(panel)["insertable"] == 3
    slicer_standin.click(panel.ui.insertableCheckBox)
    slicer_standin.click(panel.ui.flangeCheckBox)
    slicer_standin.typeText(panel.ui.tabsSpinBox, "0", "\t")
    assert not set(requested(panel)) & {"tabs", "screws", "flange", "insertable"}


def test_the_text_is_requested_when_it_is_complete(panel):
    panel.complete()
    openGroup(panel, panel.ui.markingGroup)
    last = panel.logic._session._lastNumber
    slicer_standin.typeText(panel.ui.engravingLineEdit, "Ab 7")
    panel.settle()
    assert panel.logic._session._lastNumber == last, "not for each key"
    slicer_standin.typeText(panel.ui.engravingLineEdit, "Ab 7", "\r")
    assert requested(panel)["engrave"] == "Ab 7" and requested(panel)["engrave_size"] == "6,0.5"
    assert panel.logic._session._lastNumber == last + 1
    assert panel.ui.engravingLineEdit.text == "Ab 7"


def test_text_that_was_typed_but_not_left_is_part_of_a_run(panel):
    openGroup(panel, panel.ui.markingGroup)
    slicer_standin.typeText(panel.ui.engravingLineEdit, "L 3")
    panel.complete()
    assert "--engrave=L 3" in panel.logic.report["options"]


@pytest.mark.parametrize(
    ("kind", "button", "group", "name", "more"),
    [
        ("tabs", "tab", "fixation", "tab_at", []),
        ("drains", "drain", "marking", "hole_at", [2]),
        ("buildUps", "buildUp", "buildUp", "build_up", [25, 3]),
    ],
)
def test_points_are_placed_with_the_mouse_in_the_coordinates_of_the_input(panel, kind, button, group, name, more):
    panel.complete()
    openGroup(panel, getattr(panel.ui, f"{group}Group"))
    place = getattr(panel.ui, f"{button}PointButton")
    remove = getattr(panel.ui, f"remove{button[0].upper()}{button[1:]}PointButton")
    assert not remove.enabled
    slicer_standin.click(place)
    assert place.checked and "Click on the" in panel.ui.nextLabel.text
    slicer_standin.clickInSlice("Red", toWorld(panel.node, (40.0, 5.0, -7.0)))
    assert not place.checked, "one click places one point"
    (point,) = requested(panel)[name]
    np.testing.assert_allclose(point[:2], (40.0, 5.0), atol=1)
    assert point[3:] == more
    # The input is moved with its points: the implant stays the same.
    last = panel.logic._session._lastNumber
    panel.transform.SetMatrixTransformToParent(vtkMatrix(np.eye(4)))
    panel.settle()
    assert panel.logic._session._lastNumber == last
    slicer_standin.click(remove)
    assert name not in requested(panel) and pointsOf(panel.node, "bone", kind) == ()
    assert panel.checked[0], "they are no points at holes"


def test_escape_stops_placing(panel):
    openGroup(panel, panel.ui.fixationGroup)
    slicer_standin.click(panel.ui.tabPointButton)
    slicer_standin.click(panel.ui.tabPointButton)
    assert not panel.ui.tabPointButton.checked and "Click on the bone" not in panel.ui.nextLabel.text


def test_a_node_of_points_that_is_removed_outside_the_panel_is_followed(panel):
    panel.complete()
    openGroup(panel, panel.ui.fixationGroup)
    slicer_standin.click(panel.ui.tabPointButton)
    slicer_standin.clickInSlice("Red", toWorld(panel.node, (40.0, 5.0, -7.0)))
    assert "tab_at" in requested(panel)
    slicer.mrmlScene.RemoveNode(pointsNode(panel.node, "bone", TABS))
    assert "tab_at" not in requested(panel)


def test_points_and_settings_belong_to_their_input_and_are_part_of_its_next_run(panel):
    openGroup(panel, panel.ui.markingGroup)
    slicer_standin.click(panel.ui.drainPointButton)
    slicer_standin.clickInSlice("Red", toWorld(panel.node, (40.0, 5.0, -7.0)))
    panel.parameters.engraving = "A1"
    panel.complete()
    options = panel.logic.report["options"]
    assert "--engrave=A1" in options
    assert any(option.startswith("--hole-at=") and option.endswith(",2") for option in options)
    other = addSkull(randomMask(77), GRID)
    panel.parameters.engraving = "B2"
    panel.parameters.inputNode, panel.parameters.segmentID = other, "bone"
    slicer_standin.processEvents(0.05)
    assert pointsOf(other, "bone", DRAINS) == () and not panel.ui.removeDrainPointButton.enabled
    panel.parameters.engraving = ""
    panel.parameters.inputNode, panel.parameters.segmentID = panel.node, "bone"
    slicer_standin.processEvents(0.05)
    assert panel.parameters.engraving == "B2" == panel.ui.engravingLineEdit.text
    assert panel.ui.removeDrainPointButton.enabled


def test_the_result_shows_the_screws_and_the_least_bone_at_them():
    screws = [[{"bone_mm": 4.2}, {"bone_mm": 3.14}], [{"bone_mm": 6.0}]]
    pieces = [{"volume_ml": 7.5, "area_cm2": 33.9, "screws": each} for each in screws]
    report = {"implant": {"volume_ml": 8.24}, "printable_implant": {"pieces": pieces}}
    assert "Screws</td>" in resultTable(report) and ">3</td>" in resultTable(report)
    assert "3.1&nbsp;mm" in resultTable(report)
    report["printable_implant"]["pieces"] = [{**piece, "screws": []} for piece in pieces]
    assert "Screws</td>" not in resultTable(report)
