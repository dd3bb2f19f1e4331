"""The panel driven by mouse and keys alone, from loaded files to exported ones, in every section and group; and inputs
that choose themselves."""

from __future__ import annotations

import numpy as np
import pytest
import slicer_standin
from slicer_standin import dialogs

slicer_standin.prepare()

import qt  # noqa: E402
import slicer  # noqa: E402
from SkullVAEModule.meshfiles import readStl, writeMesh  # noqa: E402
from slicer_scenes import (  # noqa: E402
    GRIDS,
    addSkull,
    addVolume,
    childCommand,
    orientedImage,
    randomMask,
    runWithChild,
    shortenTimers,
    tetrahedron,
)

from SkullVAELib.geometry.volume import Volume  # noqa: E402
from SkullVAELib.io.images import read_volume, write_volume  # noqa: E402

GRID = GRIDS["oblique"]
FILL = 0


def saveCT(path, seed: int) -> np.ndarray:
    voxels = randomMask(seed)
    write_volume(Volume(voxels.astype(np.int16), GRID), path)
    return voxels


@pytest.fixture
def ui(widget, tmp_path):
    """The widgets of a panel whose runs have known results."""
    _runs, widget.logic._createRun = runWithChild(tmp_path, "good")
    widget.logic._command = childCommand(tmp_path, "good")
    shortenTimers(widget)
    return widget.ui


# --------------------------------------------------------------------------------------------------------------------
# From loading to export, as a user does it


def next_(ui) -> str:
    return slicer_standin.plainText(ui.nextLabel.text)


def waitForStatus(ui, start: str) -> None:
    slicer_standin.waitFor(lambda: ui.statusLabel.text.startswith(start))
    slicer_standin.waitFor(lambda: "Wait" not in next_(ui))


def table(ui) -> str:
    assert ui.figuresLabel.visible
    return " ".join(slicer_standin.plainText(ui.figuresLabel.text.replace("</td>", " ")).split())


def test_a_loaded_ct_is_completed_changed_and_exported_by_mouse_and_keys_alone(ui, tmp_path, monkeypatch):
    saveCT(tmp_path / "First.nrrd", 90)
    bone = saveCT(tmp_path / "Patient.nrrd", 91)
    folder = tmp_path / "Exported files"
    folder.mkdir()
    assert "Load a head CT" in next_(ui) and not ui.completeButton.enabled
    for name in ("First", "Patient"):
        assert slicer.util.loadVolume(str(tmp_path / f"{name}.nrrd")) is not None
        slicer_standin.processEvents(0.05)
    assert "click Complete skull" in next_(ui)

    slicer_standin.choose(ui.inputSelector, "Patient")
    assert ui.inputSelector.currentNode().GetName() == "Patient"
    slicer_standin.click(ui.thresholdPreviewCheckBox)
    assert "bone is green" in next_(ui)
    slicer_standin.click(ui.completeButton)
    waitForStatus(ui, "Done")
    assert "Missing bone 10.0 ml" in table(ui) and "0.4 mm" in table(ui)
    assert "Check the implant" in next_(ui)

    # A doubtful candidate opens the section of the defects.
    filled = [ui.defectTable.item(row, FILL).checkState() == qt.Qt.Checked for row in range(3)]
    assert filled == [True, False, False]
    for row, status in ((1, "Done: defects filled: 2."), (0, "Done: defects filled: 1.")):
        slicer_standin.clickOnCell(ui.defectTable, row, FILL, onBox=True)
        waitForStatus(ui, status)
    assert "Missing bone 20.0 ml" in table(ui)

    slicer_standin.click(ui.implantCollapsibleButton)
    slicer_standin.typeText(ui.clearanceSpinBox, "0.3", "\r")
    slicer_standin.choose(ui.thicknessComboBox, "Constant")
    slicer_standin.typeText(ui.thicknessSpinBox, "3.5", "\t")
    slicer_standin.processEvents(0.1)
    slicer_standin.waitFor(lambda: "Wait" not in next_(ui))

    for box in (ui.exportHostCheckBox, ui.exportReportCheckBox):
        slicer_standin.click(box)
    assert "choose a folder" in next_(ui)
    slicer_standin.typeText(ui.exportFolderPathLineEdit, str(folder))
    slicer_standin.processEvents(0.1)
    assert not ui.openFolderButton.enabled
    slicer_standin.click(ui.exportButton)
    waitForStatus(ui, "Exported")
    assert "Inspect the exported files" in next_(ui)
    assert "The printable implant is Patient_implant.stl." in ui.statusLabel.text
    assert f"to {folder}." in ui.statusLabel.text.replace("\u200b", "")
    slicer_standin.click(ui.openFolderButton)
    assert dialogs.openedUrls() == [qt.QUrl.fromLocalFile(str(folder)).toString()]
    monkeypatch.setattr(dialogs.DesktopServices, "fails", True)
    slicer_standin.click(ui.openFolderButton)
    assert "could not be opened" in ui.statusLabel.text
    files = {path.name.removeprefix("Patient_"): path for path in folder.iterdir()}
    assert sorted(files) == ["completed.nrrd", "implant.nrrd", "implant.stl"]
    # The second defect, which is filled by the bone shifted by two voxels.
    expected = np.roll(bone, 2, axis=0) & (1 - bone)
    assert np.array_equal(read_volume(files["implant.nrrd"]).array > 0, expected > 0)
    # The height of the child's mesh is the clearance.
    points = readStl(files["implant.stl"]).points
    np.testing.assert_allclose(np.ptp(points, axis=0), (10, 20, 0.3), atol=1e-4)


# A point in the input's field of view, RAS mm.
PLACE = (-20.0, 52.0, 20.0)


def requested(ui) -> dict:
    """The values of the last request for a printable implant, as the process has received them."""
    slicer_standin.processEvents(0.1)
    slicer_standin.waitFor(lambda: "Wait" not in next_(ui))
    return slicer.modules.SkullVAEWidget.logic.report["printable_implant"]


def place(ui, button, point=PLACE) -> None:
    """Place a point with a button of the panel and the mouse in a slice view."""
    slicer_standin.click(button)
    assert "Click on the" in next_(ui) or "Click where" in ui.editLabel.text
    slicer_standin.clickInSlice("Red", point)
    assert not button.checked


def test_every_group_is_used_by_mouse_and_keys_alone(ui, tmp_path, monkeypatch):
    # Short names, since the panel follows each key.
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("Patient", "Later"), 90):
        saveCT(tmp_path / f"{name}.nrrd", seed)
    (tmp_path / "Files").mkdir()
    for name in ("flap.stl", "plan.stl"):
        writeMesh(tetrahedron(9), tmp_path / name)
    for name in ("Patient", "Later"):
        slicer.util.loadVolume(str(tmp_path / f"{name}.nrrd"))
        slicer_standin.processEvents(0.05)
    slicer_standin.choose(ui.inputSelector, "Patient")

    # The earlier bone: a CT of the scene, none, and then a file.
    slicer_standin.click(ui.referenceGroup)
    slicer_standin.choose(ui.referenceSelector, "Later")
    assert not ui.referenceFilePathLineEdit.enabled
    slicer_standin.choose(ui.referenceSelector, "None")
    slicer_standin.typeText(ui.referenceFilePathLineEdit, "flap.stl")
    slicer_standin.typeText(ui.thresholdSlider, "1", "\r")
    slicer_standin.click(ui.boxCheckBox)
    slicer_standin.click(ui.implantCollapsibleButton)
    slicer_standin.typeText(ui.proposalsSpinBox, "3", "\t")
    slicer_standin.click(ui.advancedCollapsibleButton)
    slicer_standin.choose(ui.priorComboBox, "encode")
    slicer_standin.typeText(ui.underContourSpinBox, "0.4", "\t")
    slicer_standin.click(ui.completeButton)
    waitForStatus(ui, "Done")
    options = " ".join(slicer.modules.SkullVAEWidget.logic.report["options"]).replace("=", " ")
    for text in (f"--reference {tmp_path / 'flap.stl'}", "--threshold 1", "--roi ", "--proposals 3", "--prior encode"):
        assert text in options, text
    assert "--under-contour 0.4" in options

    slicer_standin.click(ui.fixationGroup)
    slicer_standin.typeText(ui.tabsSpinBox, "4", "\t")
    place(ui, ui.tabPointButton)
    slicer_standin.click(ui.flangeCheckBox)
    slicer_standin.typeText(ui.flangeWidthSpinBox, "6.5", "\t")
    slicer_standin.typeText(ui.screwDiameterSpinBox, "1.8", "\t")
    asked = requested(ui)
    assert (asked["tabs"], asked["flange"], asked["screws"]) == ("4,1.5", "6.5,1,6", "1.8,3")
    np.testing.assert_allclose(asked["tab_at"], [PLACE], atol=1)
    slicer_standin.click(ui.removeTabPointButton)
    assert "tab_at" not in requested(ui)

    slicer_standin.click(ui.markingGroup)
    place(ui, ui.drainPointButton)
    slicer_standin.typeText(ui.engravingLineEdit, "L 3", "\r")
    slicer_standin.click(ui.buildUpGroup)
    place(ui, ui.buildUpPointButton)
    slicer_standin.typeText(ui.buildUpRadiusSpinBox, "12", "\t")
    slicer_standin.click(ui.insertionGroup)
    slicer_standin.click(ui.insertableCheckBox)
    asked = requested(ui)
    assert (asked["engrave"], asked["insertable"]) == ("L 3", 3)
    assert (asked["hole_at"][0][3:], asked["build_up"][0][3:]) == ([2], [12, 3])

    slicer_standin.click(ui.editGroup)
    place(ui, ui.surfacePointButton)
    for button, edited in ((None, True), (ui.undoEditButton, False), (ui.redoEditButton, True)):
        if button is not None:
            slicer_standin.click(button)
        slicer_standin.waitFor(lambda edited=edited: ("surface: 1" in ui.editLabel.text) == edited)
        slicer_standin.waitFor(lambda: "Wait" not in next_(ui))

    slicer_standin.choose(ui.thicknessComboBox, "At least")
    slicer_standin.typeText(ui.gammaSlider, "1.25", "\r")
    assert requested(ui)["thickness"] == "minimum:4"
    slicer_standin.waitFor(lambda: slicer.modules.SkullVAEWidget.logic.report["gamma"] == 1.25)

    # Result: each button and box changes what the views show.
    for button in (ui.beforeButton, ui.afterButton, ui.translucentCheckBox, ui.showThicknessCheckBox):
        slicer_standin.click(button)
        assert button.checked, button.objectName
    for button in (ui.showSkullCheckBox, ui.jumpButton):
        slicer_standin.click(button)

    slicer_standin.click(ui.partsGroup)
    for box in (ui.mouldCheckBox, ui.ringCheckBox, ui.templateCheckBox):
        slicer_standin.click(box)
    slicer_standin.typeText(ui.ringSpinBox, "20", "\t")
    slicer_standin.click(ui.makePartsButton)
    waitForStatus(ui, "Done: additional parts: 3.")
    slicer_standin.click(ui.showPartsCheckBox)
    names = {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLModelNode")}
    assert {"Fit ring", "Template"} <= names and any("Mould" in name for name in names)
    slicer_standin.click(ui.exportPLYCheckBox)
    slicer_standin.typeText(ui.exportFolderPathLineEdit, "Files")
    slicer_standin.processEvents(0.1)
    slicer_standin.click(ui.exportButton)
    waitForStatus(ui, "Exported")
    files = {path.name.removeprefix("Patient_") for path in (tmp_path / "Files").iterdir()}
    assert {"implant.stl", "implant.ply", "mould_a.stl", "mould_b.stl", "fit_ring.stl", "template.stl"} <= files

    slicer_standin.click(ui.compareCollapsibleButton)
    slicer_standin.choose(ui.outcomeSelector, "Later")
    slicer_standin.typeText(ui.outcomeThresholdSpinBox, "250", "\t")
    slicer_standin.click(ui.compareButton)
    waitForStatus(ui, "Done: the plan")
    assert "Later compared with the plan of Patient" in ui.comparisonLabel.text
    slicer_standin.choose(ui.planComboBox, "Mesh or labelmap file")
    slicer_standin.typeText(ui.planFilePathLineEdit, "plan.stl")
    slicer_standin.choose(ui.outcomeSelector, "None")
    slicer_standin.typeText(ui.outcomeFilePathLineEdit, "flap.stl")
    slicer_standin.click(ui.compareButton)
    slicer_standin.waitFor(lambda: "flap.stl compared with the plan of plan.stl" in ui.comparisonLabel.text)

    slicer_standin.click(ui.removeResultButton)
    assert "removed" in ui.statusLabel.text and not ui.exportButton.enabled
    assert "Preview the threshold" in next_(ui)


def test_a_folder_that_is_cleared_by_hand_is_no_longer_that_of_the_export(ui, tmp_path):
    parameters = slicer.modules.SkullVAEWidget._parameterNode
    slicer_standin.click(ui.exportCollapsibleButton)
    slicer_standin.typeText(ui.exportFolderPathLineEdit, str(tmp_path))
    assert parameters.exportFolder == str(tmp_path)
    slicer_standin.typeText(ui.exportFolderPathLineEdit, "", "\b")
    slicer_standin.processEvents(0.05)
    assert (ui.exportFolderPathLineEdit.currentPath, parameters.exportFolder) == ("", "")


# --------------------------------------------------------------------------------------------------------------------
# What is loaded while the panel is open


def chosen(ui):
    slicer_standin.processEvents(0.05)
    return ui.inputSelector.currentNode()


def test_what_is_loaded_while_no_input_is_chosen_becomes_the_input(ui):
    assert chosen(ui) is None
    labels = addVolume(randomMask(92), GRID, className="vtkMRMLLabelMapVolumeNode")
    assert chosen(ui) is None, "the selector does not list it"
    volume = addVolume(randomMask(92).astype(np.int16), GRID)
    assert chosen(ui) is volume
    skull = addSkull(randomMask(93), GRID)
    assert chosen(ui) is volume, "the user may be working on it"
    slicer.mrmlScene.RemoveNode(labels)
    slicer.mrmlScene.RemoveNode(volume)
    assert chosen(ui) is None, "nothing was loaded"
    both = addSkull(randomMask(94), GRID)
    assert chosen(ui) is both and both is not skull
    assert ui.segmentSelector.currentSegmentID() == "bone" and ui.completeButton.enabled


def test_a_volume_is_chosen_when_its_image_is_there(ui):
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    assert chosen(ui) is None
    image = orientedImage(randomMask(92), np.eye(4))
    volume.SetAndObserveImageData(image)
    volume.CreateDefaultDisplayNodes()
    assert chosen(ui) is volume


def test_none_that_the_user_chose_stays_until_something_is_loaded(ui):
    first = addVolume(randomMask(92).astype(np.int16), GRID)
    assert chosen(ui) is first
    slicer_standin.choose(ui.inputSelector, "None")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "Other")
    assert chosen(ui) is None
    second = addVolume(randomMask(93).astype(np.int16), GRID)
    assert chosen(ui) is second


def test_the_segmentation_of_a_result_is_not_chosen(ui, widget):
    volume = addVolume(randomMask(92).astype(np.int16), GRID)
    assert chosen(ui) is volume
    slicer_standin.click(ui.completeButton)
    waitForStatus(ui, "Done")
    slicer.mrmlScene.RemoveNode(volume)
    slicer_standin.processEvents(0.05)
    slicer_standin.leaveModule(widget)
    slicer_standin.enterModule(widget)
    assert chosen(ui) is None
    assert "Load a head CT" in next_(ui)


def test_the_result_is_not_the_input_after_the_segment_of_the_skull_was_removed(ui):
    node = addSkull(randomMask(95), GRID)
    slicer_standin.processEvents(0.05)
    slicer_standin.click(ui.completeButton)
    waitForStatus(ui, "Done")
    node.GetSegmentation().RemoveSegment("bone")
    slicer_standin.processEvents(0.05)
    assert "result: choose the segment of the skull" in next_(ui) and not ui.completeButton.enabled


def test_a_run_whose_segment_is_removed_ends_without_a_result(ui):
    node = addSkull(randomMask(95), GRID)
    slicer_standin.processEvents(0.05)
    slicer_standin.click(ui.completeButton)
    node.GetSegmentation().RemoveSegment("bone")
    waitForStatus(ui, "The input was removed")
    assert node.GetSegmentation().GetNumberOfSegments() == 0
    assert "no segments" in next_(ui)


def test_an_roi_of_a_ct_without_bone_is_refused_and_the_panel_goes_on(ui):
    volume = addVolume(np.zeros((8, 9, 10), np.int16), GRID)
    assert chosen(ui) is volume
    slicer_standin.click(ui.boxCheckBox)
    slicer_standin.processEvents(0.05)
    assert "contains no bone. Choose a lower" in ui.statusLabel.text and not ui.boxCheckBox.checked
    slicer_standin.typeText(ui.thresholdSlider, "-10", "\r")
    slicer_standin.click(ui.boxCheckBox)
    slicer_standin.processEvents(0.05)
    assert ui.boxCheckBox.checked and slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
