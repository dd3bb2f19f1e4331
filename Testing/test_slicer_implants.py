"""The implants of several defects of one result: their table, showing and hiding, export of some, and what is saved."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import qt  # noqa: E402
import slicer  # noqa: E402
from SkullVAEModule.completion import CompletionResult  # noqa: E402
from SkullVAEModule.defectimplants import (  # noqa: E402
    defectMeshes,
    defectVoxels,
    displayedModel,
    showDefects,
    shownDefects,
)
from SkullVAEModule.figures import GREEN, RED  # noqa: E402
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402
from SkullVAEModule.masks import Mask  # noqa: E402
from SkullVAEModule.meshfiles import joined, readPly  # noqa: E402
from SkullVAEModule.meshnodes import THICKNESS, meshData, shownColours  # noqa: E402
from SkullVAEModule.results import changeResult, figuresOf  # noqa: E402
from SkullVAEModule.segments import readInput  # noqa: E402
from slicer_scenes import (  # noqa: E402
    GRIDS,
    REPORT,
    SHAPE,
    KnownRun,
    addSkull,
    addTransform,
    nodeIDs,
    randomMask,
    rotation,
    tetrahedron,
)
from test_slicer_results import saveScene  # noqa: E402

from SkullVAELib.core.errors import SkullVAEError  # noqa: E402
from SkullVAELib.io.images import read_volume  # noqa: E402

GRID = GRIDS["oblique and anisotropic"]
SHOW, VOLUME, THICK, RATING = range(4)

# The bone is in between: the first implant in one corner, the other in two blocks in the opposite corner.
BLOCKS = {1: [(slice(0, 4), slice(0, 4), slice(0, 4))], 2: [(slice(12, 15), slice(9, 12), slice(8, 10))]}
BLOCKS[2].append((slice(12, 15), slice(13, 15), slice(8, 10)))
DEFECTS = [
    {"defect": 1, "candidate": 3, "volume_ml": 8.21, "thickness_mm": {"mean": 4.04}, "rating": "good", "warnings": []},
    {"defect": 2, "volume_ml": 3.0, "rating": "poor", "warnings": ["The rim gap is <large>.", "Thin."]},
]
# The implant of the second defect has two pieces.
PIECES = [{"defect": number, "triangles": 4, "volume_ml": 4.0, "area_cm2": 9.0} for number in (1, 2, 2)]
TWO = {**REPORT, "printable_implant": {"pieces": PIECES, "defects": DEFECTS}}


def blocks(number: int) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    for block in BLOCKS[number]:
        array[block] = 1
    return array


def bone() -> np.ndarray:
    array = randomMask(80)
    array[:5, :5, :5] = array[11:, 8:, 7:] = 0
    return array


def pieceAt(block, seed: int):
    """A small mesh in the middle of a block of voxels."""
    middle = [(along.start + along.stop - 1) / 2 for along in block]
    mesh = tetrahedron(seed)
    return dataclasses.replace(mesh, points=(mesh.points / 50 + GRID[:3, :3] @ middle + GRID[:3, 3]).astype(np.float32))


def meshes() -> list:
    return [pieceAt(block, seed) for seed, block in enumerate((*BLOCKS[1], *BLOCKS[2]), 30)]


class TwoDefects(KnownRun):
    """Ends with the implants of two defects."""

    def result(self) -> CompletionResult:
        implant = blocks(1) | blocks(2)
        completed = (self.array > 0) | (implant > 0)
        masks = Mask.of(completed), Mask.of(implant)
        return CompletionResult(*masks, TWO, joined(meshes()), tetrahedron(8))


def complete(transform=None):
    """(the input, the result) of a skull with two defects, without the panel."""
    node = addSkull(bone(), GRID, transform=transform)
    return node, SkullVAELogic(createRun=TwoDefects()).completeSkull(node, "bone")


class Panel:
    def __init__(self, widget):
        self.widget, self.ui, self.table = widget, widget.ui, widget.ui.implantTable
        widget.logic._createRun = TwoDefects()
        self.transform = addTransform(rotation(25, (0, 1, 1)))
        self.node = addSkull(bone(), GRID, transform=self.transform)
        slicer_standin.processEvents()
        parameters = widget.logic.getParameterNode()
        parameters.inputNode, parameters.segmentID = self.node, "bone"
        slicer_standin.processEvents()
        assert not self.table.visible and not self.ui.exportSelectedButton.visible
        self.ui.completeButton.click()
        slicer_standin.waitFor(lambda: not widget.logic.running)
        slicer_standin.processEvents()
        self.added = widget.logic.resultOf(self.node, "bone")

    def toggle(self, row: int) -> None:
        slicer_standin.clickOnCell(self.table, row, SHOW, onBox=True)

    @property
    def checked(self) -> list[bool]:
        return [self.table.item(row, SHOW).checkState() == qt.Qt.Checked for row in range(self.table.rowCount)]

    def checkOnlyFirstIsShown(self):
        """Check that the implant of the second defect is hidden in panel and views; the result."""
        added = self.widget.logic.resultOf(self.node, "bone")
        assert self.table.visible and self.checked == [True, False]
        assert inView(added) == [("Printable implant, shown defects", 4)]
        assert displayedModel(added.implantModelNode).GetDisplayNode().GetVisibility2D()
        assert not added.segmentationNode.GetDisplayNode().GetSegmentVisibility2DFill(added.implantID)
        return added


@pytest.fixture
def panel(widget):
    return Panel(widget)


def inView(added) -> list[tuple[str, int]]:
    """Names and numbers of triangles of the visible models of the implant."""
    models = {added.implantModelNode.GetID(): added.implantModelNode}
    models[displayedModel(added.implantModelNode).GetID()] = displayedModel(added.implantModelNode)
    return [
        (model.GetName(), model.GetPolyData().GetNumberOfPolys())
        for model in models.values()
        if model.GetDisplayVisibility()
    ]


# --------------------------------------------------------------------------------------------------------------------
# In the panel


def test_each_implant_has_a_row_with_its_figures_rating_and_warnings(panel):
    table = panel.table
    assert table.visible and panel.checked == [True, True]
    texts = [[table.item(row, column).text() for column in range(4)] for row in range(2)]
    assert texts == [["1", "8.2 ml", "4.0 mm", "good"], ["2", "3.0 ml", "-", "poor"]]
    assert [table.item(row, RATING).foreground().color().name() for row in range(2)] == [GREEN, RED]
    assert [table.item(row, VOLUME).toolTip() for row in range(2)] == [
        "Number 3 in the table of Defects.",
        "The rim gap is <large>.\nThin.",
    ]


def test_headers_and_ratings_fit_into_a_narrow_panel(panel):
    entries = [{**entry, "rating": "acceptable"} for entry in DEFECTS]
    report = {**TWO, "printable_implant": {**TWO["printable_implant"], "defects": entries}}
    panel.widget.parent.resize(300, 1500)
    panel.widget.resultSection.implantTable.update(panel.added, report)
    slicer_standin.processEvents()
    header = panel.table.horizontalHeader()
    assert 200 < panel.table.width < 300
    for column in range(4):
        assert header.sectionSize(column) >= header.sectionSizeHint(column)
        assert header.sectionSize(column) >= panel.table.sizeHintForColumn(column)


def test_a_click_on_a_row_centres_the_views_on_its_implant(panel):
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    both = meshes()
    for row, of in ((1, both[1:]), (0, both[:1])):
        slicer_standin.clickOnCell(panel.table, row, VOLUME)
        points = joined(of).points
        expected = [0.0] * 3
        panel.node.TransformPointToWorld(((points.min(0) + points.max(0)) / 2).tolist(), expected)
        np.testing.assert_allclose(crosshair.GetCrosshairRAS(), expected, atol=1e-3)
    assert panel.checked == [True, True]


def test_an_implant_is_hidden_and_shown_and_the_buttons_act_on_what_is_shown(panel):
    ui, model = panel.ui, panel.added.implantModelNode
    nodes = nodeIDs()
    display = panel.added.segmentationNode.GetDisplayNode()
    ui.showThicknessCheckBox.checked = True
    panel.toggle(1)
    shown = displayedModel(model)
    assert panel.checked == [True, False]
    assert inView(panel.added) == [("Printable implant, shown defects", 4)]
    assert model.GetPolyData().GetNumberOfPolys() == 12, "the model of all implants is complete"
    assert shown.GetParentTransformNode() is panel.transform and shown.GetDisplayNode().GetVisibility2D()
    assert not display.GetSegmentVisibility2DFill(panel.added.implantID), "the voxels are those of both"
    assert shownColours(shown) == THICKNESS and ui.showThicknessCheckBox.checked
    assert slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(shown) is not None
    assert slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(model) is None
    ui.beforeButton.click()
    assert inView(panel.added) == []
    ui.afterButton.click()
    assert inView(panel.added) == [("Printable implant, shown defects", 4)] and shownColours(shown) is None
    panel.toggle(0)
    assert panel.checked == [False, False] and inView(panel.added) == [("Printable implant, shown defects", 0)]
    panel.toggle(1)
    assert panel.checked == [False, True] and inView(panel.added) == [("Printable implant, shown defects", 8)]
    ui.showThicknessCheckBox.checked = True
    panel.toggle(0)
    assert inView(panel.added) == [("Printable implant", 12)]
    assert display.GetSegmentVisibility2DFill(panel.added.implantID)
    assert not display.GetSegmentVisibility2DOutline(panel.added.implantID), "the line is that of the model"
    assert shownColours(model) == THICKNESS and len(nodeIDs() - nodes) == 2, "legend and colours"
    ui.showThicknessCheckBox.checked = False
    assert nodeIDs() == nodes
    panel.toggle(0)
    slicer.mrmlScene.RemoveNode(displayedModel(model))
    slicer_standin.processEvents()
    assert panel.checked == [True, True] and inView(panel.added) == [("Printable implant", 12)]
    assert display.GetSegmentVisibility2DFill(panel.added.implantID)


def test_only_the_checked_implants_are_exported_by_export_selected(panel, tmp_path):
    ui = panel.ui
    panel.widget.logic.getParameterNode().exportFolder = str(tmp_path)
    for name in ("exportHost", "exportReport"):
        setattr(panel.widget.logic.getParameterNode(), name, False)
    slicer_standin.processEvents()
    assert ui.exportSelectedButton.visible and ui.exportSelectedButton.enabled
    panel.toggle(0)
    panel.toggle(1)
    assert not ui.exportSelectedButton.enabled and "Check a defect" in ui.exportSelectedButton.toolTip
    assert ui.exportButton.enabled
    panel.toggle(1)
    ui.exportSelectedButton.click()
    slicer_standin.waitFor(lambda: not panel.widget.exportSection.running)
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["Head_completed_2.nrrd", "Head_implant_2.nrrd", "Head_implant_2.stl"]
    assert np.array_equal(read_volume(tmp_path / "Head_implant_2.nrrd").array, blocks(2))
    assert np.array_equal(read_volume(tmp_path / "Head_completed_2.nrrd").array, bone() | blocks(2))
    assert "defects 2" in ui.statusLabel.text


def test_the_next_step_is_another_folder_while_that_of_the_export_cannot_be_used(panel, tmp_path):
    ui = panel.ui
    slicer_standin.click(ui.exportReportCheckBox)
    for folder, step in ((tmp_path, "then click Export"), (tmp_path / "none", "then choose a folder and click Export")):
        slicer_standin.typeText(ui.exportFolderPathLineEdit, str(folder))
        slicer_standin.processEvents()
        assert step in ui.nextLabel.text
    assert not ui.exportButton.enabled and "does not exist" in ui.exportButton.toolTip
    slicer_standin.typeText(ui.exportFolderPathLineEdit, str(tmp_path))
    slicer_standin.click(ui.exportButton)
    slicer_standin.waitFor(lambda: "Inspect the exported files" in ui.nextLabel.text)
    (tmp_path / "file").write_text("", encoding="utf-8")
    panel.widget.logic.getParameterNode().exportFolder = str(tmp_path / "file" / "inside")
    slicer_standin.processEvents()
    panel.widget.onExportButton()
    slicer_standin.waitFor(lambda: not panel.widget.exportSection.running)
    slicer_standin.processEvents()
    assert "Exported" not in ui.statusLabel.text and "Inspect" not in ui.nextLabel.text


def test_removing_the_result_removes_the_model_of_the_implants_shown(panel):
    panel.toggle(1)
    panel.ui.removeResultButton.click()
    slicer_standin.processEvents()
    assert [node for node in slicer.util.getNodesByClass("vtkMRMLModelNode") if not node.GetHideFromEditors()] == []
    assert not panel.table.visible and not panel.ui.exportSelectedButton.visible


def shownModels() -> list[str]:
    nodes = slicer.util.getNodesByClass("vtkMRMLModelNode")
    return [node.GetName() for node in nodes if not node.GetHideFromEditors() and node.GetDisplayVisibility()]


def test_undo_and_redo_keep_an_implant_hidden(widget):
    slicer.mrmlScene.SetUndoOn()
    panel = Panel(widget)
    panel.toggle(1)
    slicer.mrmlScene.Undo()
    slicer_standin.processEvents()
    assert not panel.table.visible and shownModels() == []
    slicer.mrmlScene.Redo()
    slicer_standin.processEvents()
    panel.checkOnlyFirstIsShown()
    panel.ui.removeResultButton.click()
    slicer_standin.processEvents()
    assert not panel.table.visible and shownModels() == []
    # Displays are not restored by undo.
    slicer.mrmlScene.Undo()
    slicer_standin.processEvents()
    added = panel.checkOnlyFirstIsShown()
    assert added.skullModelNode.GetDisplayNode().GetVisibility()
    panel.toggle(1)
    assert panel.checked == [True, True] and inView(added) == [("Printable implant", 12)]
    assert added.segmentationNode.GetDisplayNode().GetSegmentVisibility2DFill(added.implantID)
    panel.toggle(0)
    panel.ui.removeResultButton.click()
    slicer_standin.processEvents()
    assert shownModels() == [] and not panel.ui.removeResultButton.enabled


def test_a_result_whose_implant_segment_was_removed_by_hand_is_removed_or_replaced(panel):
    segmentation, ui = panel.node.GetSegmentation(), panel.ui
    panel.toggle(1)
    segmentation.RemoveSegment(panel.added.implantID)
    slicer_standin.processEvents()
    assert not panel.table.visible and not ui.jumpButton.enabled
    ui.completeButton.click()
    slicer_standin.waitFor(lambda: not panel.widget.logic.running)
    slicer_standin.processEvents()
    panel.checkOnlyFirstIsShown()
    assert sorted(shownModels()) == ["Printable implant, shown defects", "Skull surface"], "not those of the first run"
    segmentation.RemoveSegment(panel.widget.logic.resultOf(panel.node, "bone").implantID)
    slicer_standin.processEvents()
    assert ui.removeResultButton.enabled
    ui.removeResultButton.click()
    slicer_standin.processEvents()
    assert list(segmentation.GetSegmentIDs()) == ["bone"] and shownModels() == []
    assert not ui.removeResultButton.enabled


def test_displays_that_were_removed_are_added_again(panel):
    added, ui = panel.added, panel.ui
    colour = added.implantModelNode.GetDisplayNode().GetColor()
    for node in (added.implantModelNode, added.skullModelNode, added.segmentationNode):
        slicer.mrmlScene.RemoveNode(node.GetDisplayNode())
    slicer_standin.processEvents()
    assert added.implantModelNode.GetDisplayNode().GetColor() == colour
    for button in (ui.beforeButton, ui.afterButton, ui.showThicknessCheckBox, ui.translucentCheckBox):
        button.click()
    panel.toggle(0)
    assert inView(added) == [("Printable implant, shown defects", 8)]
    assert added.skullModelNode.GetDisplayNode().GetOpacity() < 1


# --------------------------------------------------------------------------------------------------------------------
# Without the panel


@pytest.mark.usefixtures("scene")
def test_what_is_shown_is_saved_with_the_scene(tmp_path):
    _node, added = complete()
    showDefects(added.implantModelNode, TWO, {2})
    path = saveScene(tmp_path)
    slicer_standin.newScene()
    slicer.mrmlScene.SetURL(str(path))
    assert slicer.mrmlScene.Connect()
    (loaded,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    added = SkullVAELogic().resultOf(loaded, "bone")
    report, model = figuresOf(added), added.implantModelNode
    assert report["printable_implant"] == TWO["printable_implant"]
    assert shownDefects(model, report) == {2}
    assert inView(added) == [("Printable implant, shown defects", 8)]
    showDefects(model, report, {1, 2})
    assert inView(added) == [("Printable implant", 12)]


@pytest.mark.usefixtures("scene")
def test_the_same_implants_are_shown_of_another_shape_and_all_of_other_defects():
    node, added = complete()
    model, source = added.implantModelNode, readInput(node, "bone")
    showDefects(model, TWO, {1})
    other = joined([pieceAt(BLOCKS[1][0], 40), *meshes()[1:]])
    changeResult(added, source, TWO, printableImplant=other)
    np.testing.assert_allclose(meshData(displayedModel(model).GetPolyData()).points, other.points[:4], atol=1e-4)
    one = {**REPORT, "printable_implant": {"pieces": PIECES[:1]}}
    changeResult(added, source, one, printableImplant=pieceAt(BLOCKS[1][0], 41))
    assert displayedModel(model) is model and model.GetDisplayVisibility()
    assert added.segmentationNode.GetDisplayNode().GetSegmentVisibility2DFill(added.implantID)


@pytest.mark.usefixtures("scene")
def test_meshes_of_all_and_of_each_defect_are_exported_by_number(tmp_path):
    node, _added = complete()
    options = {"inputNode": node, "segmentID": "bone", "formats": ("ply",), "skull": False, "report": False}
    files = SkullVAELogic().exportResult(tmp_path, labelmaps=False, **options).files
    assert [path.name for path in files] == ["Head_implant.ply", "Head_implant_1.ply", "Head_implant_2.ply"]
    assert [len(readPly(path).faces) for path in files] == [12, 4, 8]
    done = SkullVAELogic().exportResult(tmp_path / "some", labelmaps=False, defects=[2, 1], **options)
    assert [path.name for path in done.files] == ["Head_implant_1.ply", "Head_implant_2.ply"]
    for chosen in ([], [3], [1, 3]):
        with pytest.raises(SkullVAEError, match="not known"):
            SkullVAELogic().exportResult(tmp_path / "none", defects=chosen, **options)
    assert not (tmp_path / "none").exists()


def test_meshes_and_voxels_are_divided_by_defect():
    whole = joined(meshes())
    divided = defectMeshes(whole, TWO)
    np.testing.assert_array_equal(divided[1].points, meshes()[0].points)
    np.testing.assert_array_equal(divided[2].thickness, np.concatenate([m.thickness for m in meshes()[1:]]))
    voxels = defectVoxels(Mask.of(blocks(1) | blocks(2)), GRID, divided)
    assert all(np.array_equal(voxels[number].whole(), blocks(number)) for number in (1, 2))


@pytest.mark.parametrize(
    "figures",
    [
        {},
        {"pieces": PIECES, "defects": DEFECTS[:1]},
        {"pieces": PIECES[:2], "defects": DEFECTS},
        {"pieces": [{"volume_ml": 4.0}] * 3, "defects": DEFECTS},
    ],
)
def test_a_mesh_that_the_report_does_not_describe_is_not_divided(figures):
    assert defectMeshes(joined(meshes()), {"printable_implant": figures}) == {}
