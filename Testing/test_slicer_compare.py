"""Comparison of plan and outcome in the panel, and the patient's earlier bone as reference of a run."""

from __future__ import annotations

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
from SkullVAEModule.bonefile import BoneFile  # noqa: E402
from SkullVAEModule.comparison import comparisonReport, scaleMillimetres  # noqa: E402
from SkullVAEModule.figures import comparisonTable, resultTable  # noqa: E402
from SkullVAEModule.meshfiles import writeMesh  # noqa: E402
from SkullVAEModule.meshnodes import DEVIATION, polyData, shownColours  # noqa: E402
from SkullVAEModule.results import changeResult, figuresOf  # noqa: E402
from slicer_scenes import (  # noqa: E402
    GRIDS,
    SHAPE,
    addSegment,
    addSkull,
    addTransform,
    addVolume,
    alive,
    childCommand,
    orientedImage,
    randomMask,
    rotation,
    tetrahedron,
)
from test_slicer_defects import GRID, MOVED, Panel, shifted  # noqa: E402
from test_slicer_export import moved  # noqa: E402

from SkullVAELib.core.errors import SkullVAEError  # noqa: E402
from SkullVAELib.io.images import read_volume  # noqa: E402

pytestmark = pytest.mark.usefixtures("scene")

OTHER = rotation(-15, (0, 1, 0.2)) + np.outer([5.0, 3, -9, 0], [0, 0, 0, 1])


@pytest.fixture
def panel(widget, tmp_path):
    panel = Panel(widget, tmp_path, "good", addTransform(MOVED))
    panel.logic._command = childCommand(tmp_path, "good")
    panel.ui.compareCollapsibleButton.collapsed = False
    panel.ui.referenceGroup.collapsed = False
    slicer_standin.processEvents(0.02)
    return panel


def laterCT(transform=None):
    voxels = np.random.default_rng(5).integers(0, 900, SHAPE).astype(np.int16)
    node = addVolume(voxels, GRIDS["oblique and anisotropic"], transform=transform)
    node.SetName("Later CT")
    return node, voxels


def model(transform=None):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "Scan of the part")
    node.SetAndObserveMesh(polyData(tetrahedron(4)))
    if transform is not None:
        node.SetAndObserveTransformNodeID(transform.GetID())
    return node


def compare(panel) -> dict:
    slicer_standin.click(panel.ui.compareButton)
    slicer_standin.waitFor(lambda: not panel.widget.compareSection.running)
    slicer_standin.processEvents(0.05)
    return comparisonReport()


def toolTip(panel) -> str:
    panel.widget._onParametersModified()
    return slicer_standin.plainText(panel.ui.compareButton.toolTip)


def test_the_section_is_closed_at_first_and_asks_for_plan_and_outcome(widget, tmp_path):
    assert widget.ui.compareCollapsibleButton.collapsed and widget.ui.referenceGroup.collapsed
    panel = Panel(widget, tmp_path, "good")
    assert not panel.ui.compareButton.enabled and not panel.ui.comparisonLabel.visible
    assert toolTip(panel) == "Complete a skull first, or choose a folder or file as plan"
    panel.complete()
    assert toolTip(panel).startswith("Choose the outcome")
    panel.parameters.outcomeFile = str(tmp_path / "missing.nrrd")
    assert toolTip(panel) == "The file 'missing.nrrd' does not exist: choose another one"
    panel.parameters.planKind = "Result folder"
    assert toolTip(panel) == "Choose the result folder of the plan"


def test_the_present_result_is_compared_with_a_ct_in_the_scene(panel):
    panel.complete()
    voxels = laterCT(addTransform(OTHER))[1]
    slicer_standin.choose(panel.ui.outcomeSelector, "Later CT")
    assert panel.ui.outcomeThresholdSpinBox.enabled and not panel.ui.outcomeFilePathLineEdit.enabled
    slicer_standin.typeText(panel.ui.outcomeThresholdSpinBox, "250")
    report = compare(panel)
    read = report["read"]
    assert read["plan"]["files"] == ["completed.nrrd", "implant.nrrd", "implant.stl"]
    assert read["plan"]["implant"]["voxels"] == panel.implant().sum()
    np.testing.assert_allclose(read["plan"]["implant"]["affine"], GRID, atol=1e-4)
    assert read["outcome"]["voxels"] == np.count_nonzero(voxels)
    # In the coordinates of the plan, whatever the transforms.
    expected = np.linalg.inv(MOVED) @ OTHER @ GRIDS["oblique and anisotropic"]
    np.testing.assert_allclose(read["outcome"]["affine"], expected, atol=1e-4)
    assert "--threshold=250" in read["options"]
    text = panel.ui.comparisonLabel.text
    assert "Later CT compared with the plan of Head" in text
    for part in (
        "4.14&nbsp;mm",
        "-1.20&nbsp;mm",
        "6.2\u00b0",
        "-0.41",
        "3.20",
        "6.11",
        "2.31&nbsp;ml",
        "&lt;little&gt;",
    ):
        assert part in text, part
    assert panel.ui.comparisonLabel.visible and panel.ui.compareButton.enabled


def test_the_plan_is_added_in_colour_in_place_of_the_implant_and_only_once(panel):
    panel.complete()
    panel.parameters.outcomeNode = laterCT()[0]
    implant = panel.logic.added.implantModelNode
    for _ in range(2):
        compare(panel)
        (shown,) = [each for each in slicer.util.getNodesByClass("vtkMRMLModelNode") if "outcome" in each.GetName()]
    assert shownColours(shown) == DEVIATION and shown.GetParentTransformNode() is panel.transform
    assert shown.GetDisplayNode().GetScalarRange() == (-2, 2), "95 % of the differences are below 2 mm"
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(shown)
    assert legend is not None and "mm" in legend.GetTitleText()
    assert not implant.GetDisplayVisibility()
    panel.ui.showImplantCheckBox.click()
    slicer.mrmlScene.RemoveNode(shown)
    slicer_standin.processEvents(0.05)
    panel.widget._onParametersModified()
    assert not panel.ui.comparisonLabel.visible


def test_the_comparison_goes_with_its_result(panel):
    panel.complete()
    panel.parameters.outcomeNode = laterCT()[0]
    implant = panel.logic.added.implantModelNode
    assert compare(panel) and not implant.GetDisplayVisibility()
    panel.complete()
    assert not comparisonReport() and implant.GetDisplayVisibility()
    assert compare(panel)
    panel.ui.removeResultButton.click()
    assert not comparisonReport()


def test_files_are_compared_without_a_result_and_a_model_in_the_scene_is_the_outcome(panel, tmp_path):
    plan = tmp_path / "plan.stl"
    writeMesh(tetrahedron(9), plan)
    slicer_standin.choose(panel.ui.planComboBox, "Mesh or labelmap file")
    assert panel.ui.planFilePathLineEdit.visible and not panel.ui.planFolderPathLineEdit.visible
    panel.ui.planFilePathLineEdit.currentPath = str(plan)
    slicer_standin.processEvents(0.05)
    model(addTransform(OTHER))
    slicer_standin.choose(panel.ui.outcomeSelector, "Scan of the part")
    assert not panel.ui.outcomeThresholdSpinBox.enabled
    report = compare(panel)
    assert (report["plan"], report["outcome"]) == ("plan.stl", "Scan of the part")
    np.testing.assert_allclose(report["read"]["plan"]["mesh"], tetrahedron(9).points.mean(0), atol=1e-3)
    expected = moved(tetrahedron(4).points.astype(float), OTHER).mean(0)
    np.testing.assert_allclose(report["read"]["outcome"]["mesh"], expected, atol=1e-3)
    assert not [option for option in report["read"]["options"] if option.startswith("--threshold")]


def test_a_segment_is_the_outcome(panel):
    panel.complete()
    mask = randomMask(8)
    outcome = addSkull(mask, GRIDS["lps"])
    outcome.SetName("Outcome")
    addSegment(outcome, "other", orientedImage(randomMask(9), GRIDS["lps"]), "Other")
    panel.parameters.outcomeNode, panel.parameters.outcomeSegmentID = outcome, "bone"
    slicer_standin.processEvents(0.05)
    assert panel.ui.outcomeSegmentSelector.visible
    assert compare(panel)["read"]["outcome"]["voxels"] == mask.sum()
    assert panel.parameters.segmentID == "bone", "the segment of the input stays as it is"


def test_the_message_of_the_library_is_shown_and_nothing_is_added(panel, tmp_path):
    panel.complete()
    panel.parameters.outcomeNode = laterCT()[0]
    panel.logic._command = childCommand(tmp_path, "bad")
    slicer_standin.processEvents(0.05)
    assert compare(panel) == {}
    assert panel.ui.statusLabel.text == "The skulls do not match. Check that both are of one patient."
    assert panel.ui.compareButton.enabled


def test_a_comparison_is_cancelled_with_its_process(panel, tmp_path):
    panel.complete()
    panel.parameters.outcomeNode = laterCT()[0]
    panel.logic._command = childCommand(tmp_path, "slow")
    slicer_standin.processEvents(0.05)
    slicer_standin.click(panel.ui.compareButton)
    section = panel.widget.compareSection
    slicer_standin.waitFor(lambda: hasattr(section._run._current, "_process") and section._run._current._process)
    pid = section._run._current._process.pid
    assert "Wait for the comparison" in panel.ui.nextLabel.text and not panel.ui.completeButton.enabled
    slicer_standin.click(panel.ui.cancelButton)
    assert not section.running and not alive(pid)
    assert panel.ui.compareButton.enabled and panel.logic.live


def test_a_transform_that_is_not_rigid_is_refused(panel):
    panel.complete()
    panel.parameters.outcomeNode = laterCT(addTransform(np.diag([1.0, 2, 1, 1])))[0]
    slicer_standin.processEvents(0.05)
    slicer_standin.click(panel.ui.compareButton)
    assert panel.ui.statusLabel.text == (
        "The transform of 'Later CT' is not rigid. Harden it, or choose data without a transform."
    )
    assert not panel.widget.compareSection.running


def test_the_end_of_the_scale_holds_95_percent():
    assert scaleMillimetres(np.array([0.1, -0.2, np.nan])) == 1
    assert scaleMillimetres(np.array([-30.0, 30.0])) == 8
    assert scaleMillimetres(np.full(3, np.nan)) == 1


def test_a_comparison_without_a_position_in_the_head_says_so():
    report = {"plan": "a", "outcome": "b", "displacement": None, "shape_mm": {"outer": {"mean": 1, "p95": 2, "max": 3}}}
    text = comparisonTable(report)
    assert "not known" in text and "Displacement" not in text and "Outer surface, shape" in text
    assert comparisonTable({}) == ""


# --------------------------------------------------------------------------------------------------------------------
# The patient's earlier bone


def referenceFile(panel):
    (name,) = [
        panel.logic.report["options"][place + 1]
        for place, option in enumerate(panel.logic.report["options"])
        if option == "--reference"
    ]
    return name


def test_the_earlier_ct_goes_to_the_run(panel):
    _, voxels = laterCT(addTransform(OTHER))
    slicer_standin.choose(panel.ui.referenceSelector, "Later CT")
    panel.complete()
    volume = read_volume(referenceFile(panel))
    assert np.array_equal(volume.array, voxels)
    expected = np.linalg.inv(MOVED) @ OTHER @ GRIDS["oblique and anisotropic"]
    np.testing.assert_allclose(volume.affine, expected, atol=1e-4)
    assert np.array_equal(panel.implant(), shifted(panel.mask, 1))


def test_a_file_or_a_model_goes_to_the_run(panel, tmp_path):
    flap = tmp_path / "flap.stl"
    assert "--reference" not in panel.parameters.referenceFile
    writeMesh(tetrahedron(9), flap)
    panel.ui.referenceFilePathLineEdit.currentPath = str(flap)
    slicer_standin.processEvents(0.05)
    panel.complete()
    assert referenceFile(panel) == str(flap)
    panel.parameters.referenceNode = model()
    panel.complete()
    assert referenceFile(panel).endswith("reference.stl")


def test_a_missing_file_or_the_input_itself_is_refused_before_the_run(panel, tmp_path):
    panel.parameters.referenceFile = str(tmp_path / "gone.nrrd")
    slicer_standin.processEvents(0.05)
    assert not panel.ui.completeButton.enabled and "gone.nrrd" in panel.ui.completeButton.toolTip
    node = laterCT()[0]
    panel.parameters.inputNode = panel.parameters.referenceNode = node
    slicer_standin.processEvents(0.05)
    assert "is the input itself" in panel.ui.nextLabel.text


def test_the_earlier_bone_belongs_to_its_input(panel):
    earlier = laterCT()[0]
    panel.parameters.referenceNode = earlier
    slicer_standin.processEvents(0.05)
    other = addSkull(randomMask(77), GRID)
    panel.parameters.inputNode, panel.parameters.segmentID = other, "bone"
    slicer_standin.processEvents(0.05)
    assert panel.parameters.referenceNode is None and panel.ui.referenceSelector.currentNode() is None
    panel.parameters.inputNode, panel.parameters.segmentID = panel.node, "bone"
    slicer_standin.processEvents(0.05)
    assert panel.parameters.referenceNode is earlier


def test_the_quality_of_the_match_is_shown_and_kept_with_the_scene(panel):
    panel.complete()
    reference = {"residual_mm": {"median": 0.31, "p95": 0.9}, "covered": 0.973, "rating": "acceptable"}
    table = resultTable({"implant": {"volume_ml": 8.2}, "reference": reference})
    for part in ("Match of the earlier bone", "0.3&nbsp;mm", "acceptable", "97&nbsp;%"):
        assert part in table
    logic = panel.logic
    changeResult(logic.added, logic._source, logic.report | {"reference": reference})
    assert figuresOf(logic.added)["reference"] == reference


def test_an_empty_model_is_refused():
    with pytest.raises(SkullVAEError, match="is empty"):
        BoneFile.ofNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "Nothing"))
