"""What failed in the application itself, where values are typed, scenes are loaded and modules are left."""

from __future__ import annotations

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
from SkullVAEModule.defectpoints import BUILD_UPS, DRAINS, setPoints  # noqa: E402
from slicer_scenes import (  # noqa: E402
    GRIDS,
    addSkull,
    addVolume,
    alive,
    exported,
    fingerprint,
    randomMask,
    runWithChild,
    settle,
    shortenTimers,
)

GRID = GRIDS["oblique"]


class Panel:
    """The panel with a child whose results are known, and the runs that it has started."""

    def __init__(self, widget, folder):
        self.widget, self.ui, self.logic = widget, widget.ui, widget.logic
        self.runs, self.logic._createRun = runWithChild(folder, "good")
        shortenTimers(widget)
        # Closed widgets take no focus.
        for section in (self.ui.implantCollapsibleButton, self.ui.advancedCollapsibleButton):
            section.collapsed = False
        slicer_standin.processEvents()

    @property
    def parameters(self):
        return self.widget._parameterNode

    def choose(self, node) -> None:
        self.ui.inputSelector.setCurrentNode(node)
        slicer_standin.processEvents(0.05)

    def complete(self, node) -> None:
        self.choose(node)
        self.ui.completeButton.click()
        slicer_standin.waitFor(lambda: not self.logic.running)
        self.settle()

    def settle(self) -> None:
        """Wait until everything that was changed was requested and is in the scene."""
        settle(self.widget)

    @property
    def status(self) -> str:
        return self.ui.statusLabel.text


@pytest.fixture
def panel(widget, tmp_path):
    return Panel(widget, tmp_path)


def spinBoxes(panel) -> dict:
    """The spin boxes of the panel by the name of their parameter."""
    boxes = [each for each in vars(panel.ui).values() if each.className() in ("QSpinBox", "QDoubleSpinBox")]
    return {box.property("SlicerParameterName"): box for box in boxes if box.property("SlicerParameterName")}


def useEverything(panel) -> None:
    """Open all sections and groups, and use everything whose numbers are disabled otherwise."""
    node, ui, parameters = addSkull(randomMask(60), GRID), panel.ui, panel.parameters
    panel.choose(node)
    for kind in (DRAINS, BUILD_UPS):
        setPoints(node, "bone", [(0.0, 0.0, 0.0)], kind)
    for each in vars(ui).values():
        if each.className() in ("ctkCollapsibleButton", "ctkCollapsibleGroupBox"):
            each.collapsed = False
    boxes = (ui.holesCheckBox, ui.flangeCheckBox, ui.insertableCheckBox, ui.mouldCheckBox, ui.ringCheckBox)
    for box in (*boxes, ui.templateCheckBox):
        box.checked = True
    ui.thicknessComboBox.currentText = "Constant"
    ui.tabsSpinBox.value = 1
    parameters.engraving, parameters.outcomeFile = "A", "later.nrrd"
    slicer_standin.processEvents(0.05)


# --------------------------------------------------------------------------------------------------------------------
# Numbers that are typed


def test_a_typed_number_becomes_the_value_of_its_parameter(panel):
    useEverything(panel)
    boxes = spinBoxes(panel)
    assert len(boxes) >= 24
    texts = {}
    for name, box in boxes.items():
        whole = box.className() == "QSpinBox" or box.decimals == 0
        within = box.minimum + min(1.7, (box.maximum - box.minimum) / 2)
        texts[name] = f"{box.maximum - 1:.0f}" if whole else f"{within:.1f}"
        slicer_standin.typeText(box, texts[name], "\r")
    assert {name: getattr(panel.parameters, name) for name in boxes} == {name: float(texts[name]) for name in texts}


def test_a_number_that_is_left_with_tab_becomes_the_value(panel):
    slicer_standin.typeText(panel.ui.clearanceSpinBox, "0.3", "\t")
    assert panel.parameters.clearance == 0.3
    assert panel.ui.clearanceSpinBox.value == 0.3


def test_a_number_typed_into_a_slider_becomes_the_value(panel):
    slicer_standin.typeText(panel.ui.gammaSlider, "1.25")
    assert panel.parameters.gamma == 1.25


def test_a_run_uses_the_number_that_was_typed_last(panel):
    panel.choose(addSkull(randomMask(60), GRID))
    slicer_standin.typeText(panel.ui.clearanceSpinBox, "1.7")
    # A click need not take the focus from the spin box.
    panel.ui.completeButton.click()
    assert [run._settings.clearance for run in panel.runs] == [1.7]
    panel.ui.cancelButton.click()


def test_an_export_waits_for_the_number_that_was_typed_last(panel, tmp_path):
    panel.complete(addSkull(randomMask(60), GRID))
    (tmp_path / "out").mkdir()
    panel.parameters.exportFolder = str(tmp_path / "out")
    slicer_standin.processEvents(0.05)
    slicer_standin.typeText(panel.ui.clearanceSpinBox, "1.7")
    panel.ui.exportButton.click()
    assert "still being updated" in panel.status
    panel.settle()
    assert panel.logic.report["printable_implant"]["clearance"] == 1.7
    assert not list((tmp_path / "out").iterdir())


# --------------------------------------------------------------------------------------------------------------------
# Scenes and modules


@pytest.mark.parametrize("cleared", [True, False])
def test_a_scene_loaded_while_the_panel_is_open_is_shown(panel, tmp_path, cleared):
    panel.complete(addSkull(randomMask(61), GRID))
    slicer_standin.typeText(panel.ui.clearanceSpinBox, "0.8", "\r")
    panel.settle()
    name, path = panel.parameters.inputNode.GetName(), str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    slicer_standin.processEvents(0.05)
    assert panel.ui.inputSelector.currentNode() is None
    if not cleared:
        panel.choose(addVolume(np.zeros((8, 9, 10), np.int16), GRID))
    slicer.util.loadScene(path, {"clear": cleared})
    slicer_standin.processEvents(0.05)
    assert panel.ui.inputSelector.currentNode().GetName() == name
    assert panel.parameters.inputNode is panel.ui.inputSelector.currentNode()
    assert panel.ui.clearanceSpinBox.value == 0.8
    assert panel.ui.removeResultButton.enabled
    panel.ui.removeResultButton.click()
    assert list(panel.parameters.inputNode.GetSegmentation().GetSegmentIDs()) == ["bone"]


def test_a_scene_loaded_while_another_module_is_open_is_shown_on_return(panel, tmp_path):
    panel.complete(addSkull(randomMask(61), GRID))
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer_standin.leaveModule(panel.widget)
    slicer.util.loadScene(path)
    slicer_standin.processEvents(0.05)
    assert panel.parameters is None
    slicer_standin.enterModule(panel.widget)
    assert panel.ui.removeResultButton.enabled


def test_settings_are_followed_after_a_visit_to_another_module(panel):
    panel.complete(addSkull(randomMask(62), GRID))
    slicer_standin.leaveModule(panel.widget)
    slicer_standin.enterModule(panel.widget)
    panel.settle()
    assert "printable_implant" not in panel.logic.report, "a visit changes nothing"
    panel.ui.gammaSlider.value = 2
    panel.settle()
    assert panel.logic.report["gamma"] == 2
    slicer_standin.typeText(panel.ui.clearanceSpinBox, "1.4", "\r")
    panel.settle()
    assert panel.logic.report["printable_implant"]["clearance"] == 1.4


def test_a_change_just_before_the_panel_is_left_is_followed_on_return(panel):
    panel.complete(addSkull(randomMask(62), GRID))
    timer = panel.widget._restTimer
    timer.setInterval(60000)
    slicer_standin.typeText(panel.ui.clearanceSpinBox, "1.4", "\r")
    slicer_standin.leaveModule(panel.widget)
    assert timer.active
    timer.setInterval(20)
    # Raises the exception of a timer.
    slicer_standin.processEvents(0.3)
    assert not timer.active
    assert "printable_implant" not in panel.logic.report
    slicer_standin.enterModule(panel.widget)
    panel.settle()
    assert panel.logic.report["printable_implant"]["clearance"] == 1.4


# --------------------------------------------------------------------------------------------------------------------
# Other inputs


def test_a_ct_chosen_after_a_segmentation_has_its_result(panel, tmp_path):
    panel.choose(addSkull(randomMask(63), GRID, reference=False))
    assert panel.parameters.segmentID == "bone"
    volume = addVolume(randomMask(64).astype(np.int16), GRID)
    panel.complete(volume)
    assert panel.logic.added is not None, panel.status
    assert panel.ui.showImplantCheckBox.enabled
    (tmp_path / "out").mkdir()
    panel.parameters.exportFolder = str(tmp_path / "out")
    slicer_standin.processEvents(0.05)
    assert panel.ui.exportButton.enabled, panel.ui.exportButton.toolTip
    panel.ui.exportButton.click()
    slicer_standin.waitFor(lambda: not panel.widget.exportSection.running)
    assert "Exported" in panel.status
    segmentation = panel.logic.added.segmentationNode
    panel.ui.removeResultButton.click()
    assert not slicer.mrmlScene.IsNodePresent(segmentation)


def test_the_roi_of_a_ct_chosen_after_a_segmentation_is_made_around_bone(panel):
    panel.choose(addSkull(randomMask(63), GRID, reference=False))
    voxels = np.full((40, 40, 40), 40, np.int16)
    voxels[10:30, 12:30, 20:35] = 900
    panel.choose(addVolume(voxels, np.eye(4)))
    panel.ui.boxCheckBox.click()
    assert np.array(panel.parameters.boxNode.GetSize()).max() < 45


def test_settings_do_not_change_the_result_of_another_input(panel):
    first, second = addSkull(randomMask(65), GRID), addSkull(randomMask(66), GRID)
    panel.complete(first)
    added = panel.logic.added
    before = exported(first, added.implantID, GRID)
    panel.choose(second)
    untouched = fingerprint(second)
    panel.ui.gammaSlider.value = 2
    slicer_standin.typeText(panel.ui.clearanceSpinBox, "1.4", "\r")
    panel.settle()
    assert panel.logic.report == {}
    assert np.array_equal(exported(first, added.implantID, GRID), before)
    assert fingerprint(second) == untouched
    # Each input has its own settings.
    panel.choose(first)
    panel.settle()
    assert (panel.ui.gammaSlider.value, panel.ui.clearanceSpinBox.value) == (0, 0.5)
    assert panel.logic.report["gamma"] is None and "printable_implant" not in panel.logic.report
    assert np.array_equal(exported(first, added.implantID, GRID), before)
    panel.choose(second)
    assert (panel.ui.gammaSlider.value, panel.ui.clearanceSpinBox.value) == (2, 1.4)


def test_removing_the_input_ends_its_session_at_once(panel):
    node = addSkull(randomMask(67), GRID)
    panel.complete(node)
    pid, folder = panel.logic._session.child._process.pid, panel.logic._session.folder
    other = addSkull(randomMask(66), GRID)
    slicer.mrmlScene.RemoveNode(other)
    assert alive(pid)
    slicer.mrmlScene.RemoveNode(node)
    assert not alive(pid)
    assert not folder.exists()


# --------------------------------------------------------------------------------------------------------------------
# Views


def test_the_roi_of_the_panel_can_be_rotated_in_the_views(panel):
    voxels = np.full((40, 40, 40), -1000, np.int16)
    voxels[10:30, 12:30, 20:35] = 900
    panel.choose(addVolume(voxels, GRID))
    panel.ui.boxCheckBox.click()
    display = panel.parameters.boxNode.GetDisplayNode()
    assert display.GetVisibility() and display.GetHandlesInteractive()
    assert display.GetRotationHandleVisibility()


def foregrounds() -> list:
    return [node.GetForegroundVolumeID() for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")]


def test_slice_views_of_a_new_layout_show_the_threshold_at_once(panel):
    panel.choose(addVolume(np.zeros((8, 9, 10), np.int16), GRID))
    panel.ui.thresholdPreviewCheckBox.click()
    slicer_standin.processEvents(0.05)
    views = len(foregrounds())
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLScene(slicer.mrmlScene)
    node = logic.AddSliceNode("Slice4")
    composite = logic.GetSliceCompositeNode()
    slicer_standin.processEvents(0.05)
    assert len(foregrounds()) == views + 1 and len(set(foregrounds())) == 1 and foregrounds()[0]
    panel.ui.thresholdPreviewCheckBox.click()
    slicer_standin.processEvents(0.05)
    assert not any(foregrounds())
    logic.SetMRMLScene(None)
    # The views of the application outlive the scene.
    for each in (node, composite):
        slicer.mrmlScene.RemoveNode(each)


# --------------------------------------------------------------------------------------------------------------------
# The status line and the log


def test_an_unexpected_error_is_named_in_the_status_line(panel, monkeypatch):
    def start(*arguments):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(panel.logic, "start", start)
    panel.choose(addSkull(randomMask(68), GRID))
    panel.widget._showStatus("Starting...")
    slicer_standin.answer("The skull could not be completed.")
    panel.ui.completeButton.click()
    assert panel.status == "The skull could not be completed."
    assert panel.ui.completeButton.enabled
    (dialog,) = slicer_standin.shown()
    assert "by nothing" in dialog.text + dialog.detailedText
    # As Slicer prints it.
    assert [type(error) for error in slicer_standin.errors()] == [ZeroDivisionError]


def test_closing_the_scene_clears_the_status_line(panel):
    panel.complete(addSkull(randomMask(68), GRID))
    assert panel.status.startswith("Done")
    slicer.mrmlScene.Clear()
    slicer_standin.processEvents(0.05)
    assert panel.status == ""


def test_the_log_does_not_name_the_private_folder_of_a_run(panel):
    node = addSkull(randomMask(69), GRID)
    panel.choose(node)
    panel.ui.completeButton.click()
    folder = panel.runs[0].folder
    slicer_standin.waitFor(lambda: panel.runs[0].child is not None)
    with (folder / "stderr.txt").open("a", encoding="utf-8") as file:
        file.write(f"No defect was found: the results in '{panel.runs[0].outputFolder}' contain no implant.\n")
    slicer_standin.waitFor(lambda: not panel.logic.running)
    log = panel.ui.logTextEdit.plainText
    assert "contain no implant" in log
    assert str(folder) not in log


def test_adding_a_model_that_is_listed_already_says_so(panel, monkeypatch):
    section = panel.widget.advancedSection
    entry = section.models.list()[0]
    monkeypatch.setattr(section.models, "add", lambda path, onWait=None: entry)
    slicer_standin.answerFile(str(entry.path))
    panel.ui.addModelButton.click()
    assert "already" in panel.status and entry.name in panel.status
    slicer_standin.answerFile("")
    panel.widget._showStatus("before")
    panel.ui.addModelButton.click()
    assert panel.status == "before"
