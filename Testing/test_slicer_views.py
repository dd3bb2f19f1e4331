"""Sections, next step and status line of the panel, and the views that show the result."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
import vtk  # noqa: E402
from SkullVAEModule.figures import resultTable  # noqa: E402
from SkullVAEModule.guidance import Situation, defectsNote, implantNote, nextStep, stageText  # noqa: E402
from SkullVAEModule.meshnodes import DIFFERENCE, THICKNESS, shownColours  # noqa: E402
from SkullVAEModule.panelwords import inPanel  # noqa: E402
from SkullVAEModule.sections import sectionsToShow  # noqa: E402
from slicer_scenes import GRIDS, KnownRun, addSkull, addVolume, nodeIDs, randomMask  # noqa: E402

import SkullVAELib  # noqa: E402
from SkullVAELib.mesh.colours import difference_colours  # noqa: E402

pytestmark = pytest.mark.usefixtures("scene")

SECTIONS = ("input", "defects", "implant", "result", "export")
CHECKS = {
    "rating": "acceptable",
    "checks": [
        {"name": "thickness", "value": 0.79, "unit": "", "rating": "good", "warning": ""},
        {"name": "rim_step", "value": 12.17, "unit": "mm", "rating": "acceptable", "warning": "Inspect the rim there."},
    ],
}


@pytest.fixture
def panel(widget):
    """The panel whose runs end at once with a known result."""
    widget.logic._createRun = KnownRun(meshes=True)
    return widget


def choose(panel, node, segmentID: str = "bone"):
    parameters = panel.logic.getParameterNode()
    parameters.inputNode, parameters.segmentID = node, segmentID
    slicer_standin.processEvents()
    return node


def complete(panel):
    """Click on the button and wait for the result."""
    panel.ui.completeButton.click()
    slicer_standin.waitFor(lambda: not panel.logic.running)
    slicer_standin.processEvents()
    return panel.logic.added


def skull(seed: int = 60):
    return addSkull(randomMask(seed), GRIDS["oblique"])


def opened(panel) -> set[str]:
    return {name for name in SECTIONS if not getattr(panel.ui, f"{name}CollapsibleButton").collapsed}


def clickOnHeader(panel, name: str) -> None:
    slicer_standin.click(getattr(panel.ui, f"{name}CollapsibleButton"))


# --------------------------------------------------------------------------------------------------------------------
# Sections


@pytest.mark.parametrize(
    ("missing", "present", "undecided", "names"),
    [
        ("Choose a CT", False, False, {"input"}),
        ("", False, False, {"input"}),
        ("", False, True, {"input", "defects"}),
        ("", True, False, {"result", "export"}),
        ("", True, True, {"result", "export", "defects"}),
    ],
)
def test_only_the_sections_that_matter_now_are_open(missing, present, undecided, names):
    assert sectionsToShow(missing, present, undecided) == names


def test_sections_open_as_the_work_proceeds(panel):
    assert opened(panel) == {"input"}
    choose(panel, skull())
    assert opened(panel) == {"input"}
    complete(panel)
    assert opened(panel) == {"result", "export"}
    panel.ui.removeResultButton.click()
    slicer_standin.processEvents()
    assert opened(panel) == {"input"}


def test_what_the_user_opens_or_closes_stays_so(panel):
    choose(panel, skull())
    clickOnHeader(panel, "implant")
    clickOnHeader(panel, "export")
    clickOnHeader(panel, "export")
    complete(panel)
    assert opened(panel) == {"implant", "result", "export"}, "opened and closed again is no choice"
    clickOnHeader(panel, "result")
    complete(panel)
    assert opened(panel) == {"implant", "export"}
    panel.ui.removeResultButton.click()
    slicer_standin.processEvents()
    assert opened(panel) == {"input", "implant"}
    slicer.mrmlScene.Clear()
    slicer_standin.processEvents()
    assert opened(panel) == {"input"}, "another scene starts anew"


def test_a_section_that_opens_shows_only_what_applies(panel):
    choose(panel, skull())
    clickOnHeader(panel, "implant")
    assert panel.ui.clearanceSpinBox.visible
    assert not panel.ui.thicknessSpinBox.visible and not panel.ui.holeDiameterSpinBox.visible
    panel.ui.thicknessComboBox.currentText = "Constant"
    assert panel.ui.thicknessSpinBox.visible


def test_a_run_that_ends_while_another_module_is_open_is_shown_as_well(panel):
    choose(panel, skull())
    complete(panel)
    panel.ui.completeButton.click()
    slicer_standin.leaveModule(panel)
    slicer_standin.waitFor(lambda: not panel.logic.running)
    added = panel.logic.added
    assert not added.segmentationNode.GetDisplayNode().GetSegmentVisibility2DFill(added.completedID)
    slicer_standin.enterModule(panel)
    assert opened(panel) == {"result", "export"}


def test_a_section_that_code_opens_stays_open_until_the_next_step(panel):
    choose(panel, skull())
    panel.ui.implantCollapsibleButton.collapsed = False
    panel.ui.clearanceSpinBox.value = 1.2
    slicer_standin.processEvents()
    assert "implant" in opened(panel)


# --------------------------------------------------------------------------------------------------------------------
# Next step


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (Situation(running=True, missing="x"), "Wait for the result"),
        (Situation(present=True, exporting=True), "Wait for the export"),
        (Situation(placing=True), "Click on the hole"),
        (Situation(loaded=False, missing="Choose"), "Sample Data"),
        (Situation(missing="Choose the segment of the skull"), "Choose the segment of the skull."),
        (Situation(present=True, updating=True), "is updated"),
        (Situation(volume=True), "check the bone, then click Complete skull"),
        (Situation(volume=True, preview=True), "bone is green"),
        (Situation(), "Click Complete skull."),
        (Situation(nothingFilled=True), "Click Point at a hole"),
        (Situation(present=True, rating="good"), "choose a folder"),
        (Situation(present=True, rating="poor", folder=True), "Correct what Result rates as poor"),
        (Situation(present=True, rating="poor"), "then choose a folder and click Export."),
        (Situation(present=True, folder=True), "then click Export."),
        (Situation(present=True, folder=True, exported=True), "before printing"),
    ],
)
def test_the_next_step_follows_the_situation(now, text):
    assert text in nextStep(now)


def test_every_stage_of_a_run_is_shown_in_words():
    library = Path(SkullVAELib.__file__).parent
    folders = ("cli/complete.py", "registration/*.py", "completion/*.py", "report/*.py")
    sources = [path for pattern in folders for path in library.glob(pattern)]
    named = [name for path in sources for name in re.findall(r"\.stage\(\"([a-z ]+)\"\)", path.read_text("utf-8"))]
    assert len(named) > 10
    assert [name for name in named if len(stageText(name).split()) < 2] == []
    assert stageText("another") == "Another"


def test_the_next_step_is_shown_from_an_empty_scene_to_the_export(panel, tmp_path):
    label = panel.ui.nextLabel
    assert "Load a head CT" in label.text
    node = skull()
    slicer_standin.processEvents()
    assert "Click Complete skull" in label.text, "what is loaded is chosen"
    choose(panel, None)
    assert "Choose a CT or a segmentation of the skull" in label.text
    choose(panel, node)
    assert "Click Complete skull" in label.text
    complete(panel)
    assert "choose a folder" in label.text
    panel.logic.getParameterNode().exportFolder = str(tmp_path)
    slicer_standin.processEvents()
    assert "then click Export" in label.text
    slicer.mrmlScene.Clear()
    slicer_standin.processEvents()
    assert "Load a head CT" in label.text


# --------------------------------------------------------------------------------------------------------------------
# Status line


def otherInput(panel, added):
    choose(panel, skull(61))


def removedSegment(panel, added):
    added.segmentationNode.GetSegmentation().RemoveSegment(added.implantID)


def removedFromOutside(panel, added):
    panel.logic.removeResult(panel.logic.getParameterNode().inputNode, "bone")


def closedScene(panel, added):
    slicer.mrmlScene.Clear()


def removedInput(panel, added):
    slicer.mrmlScene.RemoveNode(panel.logic.getParameterNode().inputNode)


@pytest.mark.parametrize("change", [otherInput, removedSegment, removedFromOutside, closedScene, removedInput])
def test_status_line_is_cleared_when_it_contradicts_the_scene(panel, change):
    choose(panel, skull())
    added = complete(panel)
    assert "Done" in panel.ui.statusLabel.text and panel.ui.removeResultButton.enabled
    change(panel, added)
    slicer_standin.processEvents(0.05)
    assert panel.ui.statusLabel.text == "" and not panel.ui.statusLabel.visible
    assert "result" not in opened(panel)
    # The other segment and the models of the result are still there.
    assert panel.ui.removeResultButton.enabled == (change is removedSegment)


def test_status_line_of_a_removal_and_of_an_error_stays(panel):
    choose(panel, skull())
    complete(panel)
    panel.ui.removeResultButton.click()
    slicer_standin.processEvents()
    assert panel.ui.statusLabel.text == "The result was removed."
    panel.ui.clearanceSpinBox.value = 1.1
    slicer_standin.processEvents()
    assert panel.ui.statusLabel.text == "The result was removed."


def test_no_text_of_the_panel_keeps_a_name_that_was_changed(panel):
    node = choose(panel, skull())
    complete(panel)
    node.SetName("Renamed")
    assert "Head" not in panel.ui.statusLabel.text + panel.ui.nextLabel.text


# What the panel cannot do, or what it never requests.
ONLY_COMMAND_LINE = {
    "--deviation", "--dicom", "--force", "--grid", "--interactive", "--series", "--through",
}  # fmt: skip


def test_messages_of_the_library_name_what_the_panel_has():
    """Every option in a text of the packages whose messages reach the panel."""
    library = Path(SkullVAELib.__file__).parent
    found = set()
    for package in ("checks", "completion", "core", "implant", "io", "registration", "session", "vae"):
        for path in (library / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found |= {(path.name, option) for option in re.findall("--[a-z][a-z-]+", inPanel(node.value))}
    assert {option for _name, option in found} <= ONLY_COMMAND_LINE, found
    text = "The implant has an unintended opening where it is too thin. Request a minimum thickness."
    table = resultTable({"implant": {"volume_ml": 8.0}, "warnings": [text]})
    assert "At least" in table and "Other remarks" in table and "Request" not in table


# --------------------------------------------------------------------------------------------------------------------
# Comparison


def shown(added) -> tuple[bool, bool, bool]:
    """Whether implant segment, implant model and skull model are visible."""
    display = added.segmentationNode.GetDisplayNode()
    models = (added.implantModelNode, added.skullModelNode)
    return (display.GetSegmentVisibility(added.implantID), *(bool(model.GetDisplayVisibility()) for model in models))


def test_before_after_and_difference_are_one_click_each(panel):
    choose(panel, skull())
    ui = panel.ui
    assert not ui.beforeButton.enabled and not ui.differenceButton.enabled
    added = complete(panel)
    nodes = nodeIDs()
    buttons = (ui.beforeButton, ui.afterButton, ui.differenceButton)
    assert [button.checked for button in buttons] == [False, True, False]
    ui.beforeButton.click()
    assert shown(added) == (False, False, True)
    assert [button.checked for button in buttons] == [True, False, False] and not ui.showImplantCheckBox.checked
    ui.differenceButton.click()
    assert shown(added) == (True, True, True)
    assert shownColours(added.implantModelNode) == DIFFERENCE
    assert [button.checked for button in buttons] == [False, False, True]
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(added.implantModelNode)
    assert "mm" in legend.GetTitleText()
    ui.showThicknessCheckBox.checked = True
    assert shownColours(added.implantModelNode) == THICKNESS
    assert [button.checked for button in buttons] == [False, True, False]
    ui.afterButton.click()
    assert shownColours(added.implantModelNode) is None and not ui.showThicknessCheckBox.checked
    assert nodeIDs() == nodes, "legend and colours are removed"


def test_an_implant_without_a_mirrored_side_cannot_be_compared(panel):
    choose(panel, skull())
    added = complete(panel)
    added.implantModelNode.GetPolyData().GetPointData().RemoveArray(DIFFERENCE)
    panel._onParametersModified()
    assert panel.ui.beforeButton.enabled and not panel.ui.differenceButton.enabled
    assert "no bone on the mirrored side" in panel.ui.differenceButton.toolTip


def test_the_scale_of_the_difference_is_symmetric_and_unknown_values_are_grey(panel):
    blue, white, orange = difference_colours(np.array([-4.0, 0.0, 4.0]))
    assert white.min() > 240 and blue[2] > blue[0] and orange[0] > orange[2]
    choose(panel, skull())
    added = complete(panel)
    panel.ui.differenceButton.click()
    display = added.implantModelNode.GetDisplayNode()
    assert display.GetScalarRange() == (-4, 4)
    unknown = display.GetColorNode().GetLookupTable().GetNanColor()
    assert unknown[0] == unknown[1] == unknown[2]


def test_the_skull_is_translucent_on_demand(panel):
    choose(panel, skull())
    added = complete(panel)
    display = added.skullModelNode.GetDisplayNode()
    panel.ui.translucentCheckBox.checked = True
    assert 0.1 < display.GetOpacity() < 0.6
    panel._onParametersModified()
    assert panel.ui.translucentCheckBox.checked
    panel.ui.translucentCheckBox.checked = False
    assert display.GetOpacity() == 1


def test_models_are_shaded_smoothly(panel):
    choose(panel, skull())
    added = complete(panel)
    for model in (added.implantModelNode, added.skullModelNode):
        mesh = model.GetPolyData()
        assert mesh.GetPointData().GetNormals().GetNumberOfTuples() == mesh.GetNumberOfPoints() == 4
        assert model.GetDisplayNode().GetInterpolation() == slicer.vtkMRMLDisplayNode.PhongInterpolation


@pytest.mark.parametrize("surfaces", [False, True])
def test_slice_views_show_outlines_and_3d_only_the_models(panel, surfaces):
    node = choose(panel, skull())
    if surfaces:
        node.CreateClosedSurfaceRepresentation()
    added = complete(panel)
    display = added.segmentationNode.GetDisplayNode()
    for segmentID in (added.completedID, added.implantID):
        assert display.GetSegmentVisibility3D(segmentID) != surfaces, "Show 3D of the Segment Editor works"
    assert display.GetSegmentVisibility2DOutline(added.completedID)
    assert not display.GetSegmentVisibility2DFill(added.completedID), "the image stays visible"
    assert display.GetSegmentVisibility2DFill(added.implantID)


def test_slice_views_show_what_is_exported_as_a_line(panel):
    ui = panel.ui
    choose(panel, skull())
    assert not ui.showLineCheckBox.enabled and not ui.viewsNoteLabel.visible
    added = complete(panel)
    line, shape = added.implantModelNode.GetDisplayNode(), added.segmentationNode.GetDisplayNode()
    assert line.GetVisibility2D() and not added.skullModelNode.GetDisplayNode().GetVisibility2D()
    assert not shape.GetSegmentVisibility2DOutline(added.implantID) and shape.GetSegmentVisibility2DFill(
        added.implantID
    )
    assert ui.showLineCheckBox.checked and "the line what is printed" in ui.viewsNoteLabel.text
    slicer_standin.click(ui.showLineCheckBox)
    assert not line.GetVisibility2D() and shape.GetSegmentVisibility2DOutline(added.implantID)
    assert shape.GetSegmentOpacity2DFill(added.implantID) == 1
    line.SetVisibility2D(True)
    panel._onParametersModified()
    assert ui.showLineCheckBox.checked, "as it is in the scene"


def test_every_section_says_when_a_change_applies(panel):
    ui = panel.ui
    labels = (ui.inputNoteLabel, ui.defectsNoteLabel, ui.implantNoteLabel)
    choose(panel, skull())
    before = [slicer_standin.plainText(label.text) for label in labels]
    complete(panel)
    ended = [slicer_standin.plainText(label.text) for label in labels]
    next_ = "hanges apply with the next Complete skull."
    assert before[0] == ended[0] == f"C{next_}"
    assert "after Complete skull" in before[2] and "lists the holes" in before[1]
    assert all(text == f"The process of this result has ended: c{next_}" for text in ended[1:]), (
        "no process of a session"
    )
    assert implantNote(True, True).startswith("Changes apply at once") and "at once" in defectsNote(True, True)


# --------------------------------------------------------------------------------------------------------------------
# Views


def views() -> tuple:
    """Everything of the views that the module may change."""
    places = [slicer.app.layoutManager().layout]
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        matrix = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
        places.append(np.round([*matrix.ravel(), *node.GetFieldOfView(), *node.GetXYZOrigin()], 6).tolist())
    for node in slicer.util.getNodesByClass("vtkMRMLCameraNode"):
        places.append(np.round([*node.GetPosition(), *node.GetFocalPoint(), *node.GetViewUp()], 6).tolist())
    return tuple(map(str, places))


def moveViews() -> None:
    """As the user does: oblique slices, zoom, camera."""
    for index, node in enumerate(slicer.util.getNodesByClass("vtkMRMLSliceNode")):
        node.SetSliceOffset(11.0 + index)
        node.SetFieldOfView(123.0, 124.0 + index, 1.0)
        turn = vtk.vtkTransform()
        turn.SetMatrix(node.GetSliceToRAS())
        turn.RotateX(20)
        node.GetSliceToRAS().DeepCopy(turn.GetMatrix())
        node.UpdateMatrices()
    for node in slicer.util.getNodesByClass("vtkMRMLCameraNode"):
        node.SetPosition(300.0, 40.0, 50.0)
        node.SetFocalPoint(1.0, 2.0, 3.0)


def test_views_are_centred_on_the_implant_and_come_back_when_the_result_is_removed(panel):
    node = choose(panel, skull())
    layouts = slicer.vtkMRMLLayoutNode
    slicer.app.layoutManager().setLayout(layouts.SlicerLayoutOneUpRedSliceView)
    node.CreateDefaultDisplayNodes()
    node.CreateClosedSurfaceRepresentation()
    node.GetDisplayNode().SetSegmentVisibility3D("bone", True)
    moveViews()
    before = views()
    added = complete(panel)
    assert slicer.app.layoutManager().layout == layouts.SlicerLayoutFourUpView, "with a 3D view"
    assert not node.GetDisplayNode().GetSegmentVisibility3D("bone"), "the model shows it"
    bounds = [0.0] * 6
    added.segmentationNode.GetSegmentation().GetSegment(added.implantID).GetBounds(bounds)
    centre = np.reshape(bounds, (3, 2)).mean(1)
    (camera,) = slicer.util.getNodesByClass("vtkMRMLCameraNode")
    np.testing.assert_allclose(camera.GetFocalPoint(), centre, atol=1e-3)
    moveViews()
    complete(panel)
    panel.ui.jumpButton.click()
    panel.ui.removeResultButton.click()
    slicer_standin.processEvents()
    assert views() == before
    assert node.GetDisplayNode().GetSegmentVisibility3D("bone")


def test_the_zoom_of_a_slice_view_is_restored_also_if_its_size_has_changed(panel):
    choose(panel, skull())
    red = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed")
    red.SetDimensions(200, 100, 1)
    red.SetFieldOfView(100.0, 50.0, 1.0)
    complete(panel)
    red.SetFieldOfView(70.0, 35.0, 1.0)
    red.SetDimensions(400, 300, 1)
    panel.ui.removeResultButton.click()
    assert red.GetFieldOfView()[:2] == pytest.approx((200, 150)), "0.5 mm per pixel as before"


def test_a_layout_with_a_3d_view_and_one_that_the_user_chooses_later_are_kept(panel):
    choose(panel, skull())
    manager, layouts = slicer.app.layoutManager(), slicer.vtkMRMLLayoutNode
    before = manager.layout
    complete(panel)
    assert manager.layout == before
    panel.ui.removeResultButton.click()
    manager.setLayout(layouts.SlicerLayoutOneUpGreenSliceView)
    complete(panel)
    manager.setLayout(layouts.SlicerLayoutOneUp3DView)
    panel.ui.removeResultButton.click()
    assert manager.layout == layouts.SlicerLayoutOneUp3DView


def test_views_of_a_closed_scene_are_not_restored(panel):
    choose(panel, skull())
    complete(panel)
    slicer.mrmlScene.Clear()
    slicer_standin.processEvents()
    choose(panel, skull())
    moveViews()
    before = views()
    complete(panel)
    panel.ui.removeResultButton.click()
    slicer_standin.processEvents()
    assert views() == before


# --------------------------------------------------------------------------------------------------------------------
# Layout of the panel


def openEverything(panel) -> None:
    """Open all sections and groups, and show what only applies to some settings."""
    ui = panel.ui
    for each in vars(ui).values():
        if each.className() in ("ctkCollapsibleButton", "ctkCollapsibleGroupBox"):
            each.collapsed = False
    for box in (ui.holesCheckBox, ui.flangeCheckBox, ui.mouldCheckBox, ui.ringCheckBox, ui.templateCheckBox):
        box.checked = True
    ui.thicknessComboBox.currentText = "At least"
    slicer_standin.processEvents()


def test_a_section_that_is_opened_keeps_hidden_what_does_not_apply(panel):
    choose(panel, skull())
    complete(panel)
    ui = panel.ui
    for name in ("compare", "advanced"):
        clickOnHeader(panel, name)
    assert not ui.planFolderPathLineEdit.visible and not ui.planFilePathLineEdit.visible
    for group in (ui.partsGroup, ui.fixationGroup):
        if not group.visible:
            clickOnHeader(panel, "implant")
        slicer_standin.click(group)
    assert ui.tabsSpinBox.visible and ui.mouldCheckBox.visible
    assert not ui.mouldWidget.visible and not ui.flangeWidget.visible


@pytest.mark.parametrize("width", [300, 340, 420])
@pytest.mark.parametrize("kind", ["segment", "CT"])
def test_nothing_is_cut_off_in_a_narrow_panel(panel, width, kind):
    if kind == "CT":
        choose(panel, addVolume(np.random.default_rng(1).integers(-1000, 2000, (8, 9, 10)).astype(np.int16), np.eye(4)))
    else:
        choose(panel, skull())
    complete(panel)
    panel.logic.report = {**panel.logic.report, "checks": CHECKS}
    panel._onParametersModified()
    openEverything(panel)
    panel.parent.resize(width, 3600)
    slicer_standin.processEvents(0.05)
    assert panel.parent.width == width, "the panel is not wider than the window"
    assert slicer_standin.cutOff(panel) == []


@pytest.mark.parametrize("width", [300, 440])
def test_a_text_that_becomes_longer_is_shown_whole(panel, width):
    panel.parent.resize(width, 2400)
    choose(panel, skull())
    complete(panel)
    panel.logic.report = {**panel.logic.report, "checks": CHECKS, "warnings": ["Something is wrong. Do this."] * 9}
    panel._onParametersModified()
    slicer_standin.processEvents(0.2)
    assert panel.ui.figuresLabel.visible and slicer_standin.cutOff(panel) == []


def test_slice_views_are_zoomed_in_on_the_implant_and_a_closer_view_is_kept(panel):
    choose(panel, skull())
    red, green = (slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceNode{name}") for name in ("Red", "Green"))
    red.SetFieldOfView(400.0, 300.0, 1.0)
    green.SetFieldOfView(60.0, 50.0, 1.0)
    complete(panel)
    assert red.GetFieldOfView()[:2] == pytest.approx((160, 120)), "the implant is small"
    assert green.GetFieldOfView()[:2] == pytest.approx((60, 50))
