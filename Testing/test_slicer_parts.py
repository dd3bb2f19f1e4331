"""Additional printed parts in the panel: mould, fit ring and template; the table, the models and the export; 3MF."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
from SkullVAEModule import exportsection  # noqa: E402
from SkullVAEModule.additionalparts import partModels, partName  # noqa: E402
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402
from SkullVAEModule.meshfiles import readStl  # noqa: E402
from SkullVAEModule.meshnodes import meshData  # noqa: E402
from SkullVAEModule.parameters import partSettings  # noqa: E402
from slicer_scenes import addTransform, nodeIDs  # noqa: E402
from test_slicer_defects import MOVED, Panel  # noqa: E402
from test_slicer_edit import corner, paint  # noqa: E402
from test_slicer_export import moved  # noqa: E402

from SkullVAELib.implant.tooling import ToolingOptions  # noqa: E402

pytestmark = pytest.mark.usefixtures("scene")


@pytest.fixture
def panel(widget, tmp_path):
    panel = Panel(widget, tmp_path, "good", addTransform(MOVED))
    panel.complete()
    panel.ui.exportCollapsibleButton.collapsed = False
    panel.ui.partsGroup.collapsed = False
    slicer_standin.processEvents(0.02)
    return panel


def make(panel, *boxes) -> None:
    for box in boxes:
        slicer_standin.click(box)
    slicer_standin.click(panel.ui.makePartsButton)
    panel.settle()


def rows(panel) -> list[list[str]]:
    table = panel.ui.partsTable
    return [[table.item(row, column).text() for column in range(4)] for row in range(table.rowCount)]


def models(panel) -> dict:
    return {model.GetName(): model for model in partModels(panel.node, "bone")}


def export(panel, folder) -> list[str]:
    folder.mkdir(exist_ok=True)
    panel.parameters.exportFolder = str(folder)
    slicer_standin.processEvents(0.05)
    slicer_standin.click(panel.ui.exportButton)
    slicer_standin.waitFor(lambda: not panel.widget.exportSection.running)
    return sorted(path.name.removeprefix("Head_") for path in folder.iterdir())


def test_the_parameters_are_the_options_of_the_library():
    parameters = SkullVAELogic().getParameterNode()
    assert partSettings(parameters) == {}
    parameters.mould, parameters.mouldClearance, parameters.mouldWall = True, 0.3, 8.0
    parameters.fitRing, parameters.ringWidth = True, 12.0
    parameters.template, parameters.templateWidth = True, 18.0
    assert ToolingOptions.parse(**partSettings(parameters)) == ToolingOptions(True, 0.3, 8, 12, 18)


def test_the_group_is_closed_at_first_and_nothing_is_selected(widget):
    assert widget.ui.partsGroup.collapsed
    boxes = widget.ui.mouldCheckBox, widget.ui.ringCheckBox, widget.ui.templateCheckBox, widget.ui.showPartsCheckBox
    assert not any(box.checked for box in boxes)


def test_parts_are_made_on_request_and_their_figures_are_listed(panel):
    assert not panel.ui.makePartsButton.enabled and panel.ui.makePartsButton.toolTip.endswith("Select a part</p>")
    assert not panel.ui.partsTable.visible and not panel.ui.mouldWidget.visible
    warnings = list(panel.logic.report["warnings"])
    make(panel, panel.ui.mouldCheckBox, panel.ui.ringCheckBox, panel.ui.templateCheckBox)
    assert panel.ui.mouldWidget.visible
    assert rows(panel) == [
        ["Mould", "50.3 ml", "60 x 50 x 40", "12.3 ml"],
        ["Fit ring", "7.8 ml", "10 x 20 x 52", ""],
        ["Template", "7.8 ml", "10 x 20 x 53", ""],
    ]
    assert panel.ui.partsLabel.text == "Undercuts &lt;hold&gt; the cast."
    assert panel.ui.statusLabel.text == "Done: additional parts: 3."
    assert panel.logic.report["warnings"] == warnings, "they are not those of the implant"
    assert not panel.ui.makePartsButton.enabled, "they are made"
    assert models(panel) == {}
    slicer_standin.typeText(panel.ui.ringSpinBox, "20", "\t")
    assert panel.ui.makePartsButton.enabled and "other settings" in panel.ui.partsLabel.text


def test_parts_of_another_implant_are_forgotten(panel):
    slicer_standin.click(panel.ui.showPartsCheckBox)
    make(panel, panel.ui.ringCheckBox)
    assert len(rows(panel)) == len(models(panel)) == 1
    panel.ui.clearanceSpinBox.value = 1.5
    panel.settle()
    assert rows(panel) == [] and models(panel) == {} and panel.ui.makePartsButton.enabled
    make(panel)
    paint(panel, panel.implant() | corner(panel))
    panel.settle()
    assert rows(panel) == [] and models(panel) == {}


def test_parts_are_shown_in_3d_where_the_input_is_and_are_removed_with_the_result(panel):
    before = nodeIDs()
    make(panel, panel.ui.mouldCheckBox, panel.ui.templateCheckBox)
    slicer_standin.click(panel.ui.showPartsCheckBox)
    assert set(models(panel)) == {"Mould half A", "Mould half B", "Template"}
    half, template = models(panel)["Mould half A"], models(panel)["Template"]
    assert half.GetDisplayNode().GetOpacity() < 1 == template.GetDisplayNode().GetOpacity()
    assert meshData(half.GetPolyData()).points[:, 2].max() == 50
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(half)) == panel.logic.added.folderItemID
    assert all(model.GetParentTransformNode() is panel.transform for model in models(panel).values())
    shown = nodeIDs()
    panel.widget._onParametersModified()
    slicer_standin.processEvents(0.05)
    assert nodeIDs() == shown, "they are not added twice"
    slicer_standin.click(panel.ui.showPartsCheckBox)
    assert models(panel) == {} and nodeIDs() == before
    slicer_standin.click(panel.ui.showPartsCheckBox)
    assert len(models(panel)) == 3
    panel.ui.removeResultButton.click()
    slicer_standin.processEvents(0.05)
    assert models(panel) == {} and rows(panel) == []
    assert not slicer.util.getNodesByClass("vtkMRMLModelNode") or all(
        model.GetHideFromEditors() for model in slicer.util.getNodesByClass("vtkMRMLModelNode")
    )


def test_another_run_removes_the_parts(panel):
    slicer_standin.click(panel.ui.showPartsCheckBox)
    make(panel, panel.ui.ringCheckBox)
    panel.complete()
    slicer_standin.processEvents(0.05)
    assert models(panel) == {} and rows(panel) == []


def test_export_makes_the_parts_and_writes_them_in_world_coordinates(panel, tmp_path):
    for box in (panel.ui.mouldCheckBox, panel.ui.ringCheckBox, panel.ui.exportOBJCheckBox):
        slicer_standin.click(box)
    names = export(panel, tmp_path / "out")
    wanted = [f"{part}.{kind}" for part in ("fit_ring", "mould_a", "mould_b") for kind in ("obj", "stl")]
    assert set(wanted) <= set(names) and "implant.stl" in names
    mesh = panel.logic.parts.meshes["mould_b"]
    exported = readStl(tmp_path / "out" / "Head_mould_b.stl").points
    expected = moved(mesh.points.astype(float), MOVED)
    np.testing.assert_allclose(np.sort(exported, axis=0), np.sort(expected, axis=0), atol=1e-3)
    assert len(rows(panel)) == 2
    last = panel.logic._session._lastNumber
    export(panel, tmp_path / "again")
    assert panel.logic._session._lastNumber == last + 2, "only skull surface and report are requested again"


def test_parts_alone_are_written_as_stl(panel, tmp_path):
    parameters = panel.parameters
    parameters.exportSTL = parameters.exportHost = parameters.exportLabelmaps = parameters.exportReport = False
    slicer_standin.processEvents(0.05)
    slicer_standin.click(panel.ui.templateCheckBox)
    assert export(panel, tmp_path / "out") == ["template.stl"]


def test_parts_that_cannot_be_made_do_not_cost_the_export(panel, tmp_path):
    slicer_standin.click(panel.ui.mouldCheckBox)
    slicer_standin.typeText(panel.ui.mouldWallSpinBox, "30", "\t")
    names = export(panel, tmp_path / "out")
    assert "implant.stl" in names and "report.html" in names and "mould_a.stl" not in names
    assert "The additional parts were not exported. The mould is too large. Use a thinner wall." in (
        panel.ui.statusLabel.text
    )
    make(panel)
    assert panel.ui.statusLabel.text == "The mould is too large. Use a thinner wall."
    assert panel.ui.makePartsButton.enabled


def test_without_a_process_the_parts_are_not_exported_and_the_reason_is_shown(panel, tmp_path):
    slicer_standin.click(panel.ui.ringCheckBox)
    panel.logic.closeSession()
    panel.widget._onParametersModified()
    assert "has ended" in panel.ui.makePartsButton.toolTip
    assert "fit_ring.stl" not in export(panel, tmp_path / "out")
    assert "The additional parts were not exported. The session has ended" in panel.ui.statusLabel.text


def test_names_of_parts():
    stems = ("mould_a", "mould_12_b", "fit_ring", "fit_ring_2", "template_3")
    assert [partName(stem) for stem in stems] == [
        "Mould half A", "Mould 12 half B", "Fit ring", "Fit ring 2", "Template 3"
    ]  # fmt: skip


# --------------------------------------------------------------------------------------------------------------------
# 3MF


@pytest.mark.skipif(importlib.util.find_spec("lib3mf") is None, reason="lib3mf is not installed")
def test_3mf_is_exported(panel, tmp_path):
    slicer_standin.click(panel.ui.export3MFCheckBox)
    names = export(panel, tmp_path / "out")
    assert {"implant.3mf", "skull.3mf", "implant.stl"} <= set(names)
    assert (tmp_path / "out" / "Head_implant.3mf").read_bytes()[:2] == b"PK"


def test_without_lib3mf_the_box_is_disabled_and_says_how_to_install_it(panel, tmp_path, monkeypatch):
    panel.parameters.export3MF = True
    monkeypatch.setattr(exportsection, "has3MF", lambda: False)
    panel.widget._onParametersModified()
    assert not panel.ui.export3MFCheckBox.enabled
    assert "slicer.util.pip_install('lib3mf')" in slicer_standin.plainText(panel.ui.export3MFCheckBox.toolTip)
    assert not [name for name in export(panel, tmp_path / "out") if name.endswith(".3mf")]
