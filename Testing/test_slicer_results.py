"""A result in the scene: segments, models and folder are added, found, replaced and removed together."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
import vtk  # noqa: E402
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402
from SkullVAEModule.meshnodes import THICKNESS, UNCERTAINTY, changeModel, meshData, shownColours  # noqa: E402
from SkullVAEModule.results import figuresOf  # noqa: E402
from SkullVAEModule.segments import isAsAdded  # noqa: E402
from slicer_scenes import (  # noqa: E402
    BINARY,
    GRIDS,
    REPORT,
    SHAPE,
    addSegment,
    addSkull,
    addSphere,
    addTransform,
    addVolume,
    complete,
    exported,
    fingerprint,
    nodeIDs,
    orientedImage,
    randomMask,
    rotation,
    tetrahedron,
)


@pytest.fixture(autouse=True)
def scene():
    """An empty scene for each test, with the subject hierarchy that Slicer always has."""
    made = slicer_standin.newScene()
    hierarchy()
    return made


def hierarchy():
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


def items() -> int:
    return hierarchy().GetNumberOfItems()


def models() -> list:
    """The models that are visible to the user; the slice views have hidden models."""
    return [node for node in slicer.util.getNodesByClass("vtkMRMLModelNode") if not node.GetHideFromEditors()]


def skullInPatient(seed: int = 50, **kwargs):
    """(node, the item of its patient)."""
    node = addSkull(randomMask(seed), GRIDS["oblique"], **kwargs)
    patient = hierarchy().CreateSubjectItem(hierarchy().GetSceneItemID(), "Patient")
    hierarchy().CreateItem(patient, node)
    return node, patient


INPUTS = {
    "segment": lambda: (skullInPatient()[0], "bone"),
    "CT": lambda: (addVolume(np.random.default_rng(1).integers(-1000, 2000, SHAPE).astype(np.int16), GRIDS["lps"]), ""),
    "surface": lambda: (addSphere(False), "bone"),
}


# --------------------------------------------------------------------------------------------------------------------
# Meshes


def test_meshes_are_in_a_folder_beside_the_input_under_its_transform():
    transform = addTransform(rotation(25, (0, 1, 1)))
    node, patient = skullInPatient(transform=transform)
    _, added = complete(node, meshes=True)
    tree = hierarchy()
    assert tree.GetItemName(added.folderItemID) == "Head SkullVAE result"
    assert tree.GetItemParent(added.folderItemID) == patient
    for model, name, seed in (
        (added.implantModelNode, "Printable implant", 7),
        (added.skullModelNode, "Skull surface", 8),
    ):
        assert model.GetName() == name
        assert tree.GetItemParent(tree.GetItemByDataNode(model)) == added.folderItemID
        assert model.GetParentTransformNode() is transform
        mesh, expected = meshData(model.GetPolyData()), tetrahedron(seed)
        np.testing.assert_allclose(mesh.points, expected.points)
        assert np.array_equal(mesh.faces, expected.faces)
        np.testing.assert_allclose(mesh.thickness, expected.thickness)
        np.testing.assert_allclose(mesh.uncertainty, expected.uncertainty)
    assert not added.implantModelNode.GetDisplayNode().GetScalarVisibility()


COLOURINGS = {THICKNESS: (SkullVAELogic.showThickness, 10), UNCERTAINTY: (SkullVAELogic.showUncertainty, 3)}


@pytest.mark.parametrize("name", COLOURINGS)
def test_printable_implant_is_coloured_by_its_scalars_and_reset(name):
    node, _ = skullInPatient()
    _, added = complete(node, meshes=True)
    model, before = added.implantModelNode, nodeIDs()
    color = model.GetDisplayNode().GetColor()
    logic = SkullVAELogic()
    show, most = COLOURINGS[name]
    show(logic, model, True)
    display = model.GetDisplayNode()
    assert display.GetScalarVisibility()
    assert display.GetActiveScalarName() == name
    assert display.GetScalarRange() == (0, most)
    colors = display.GetColorNode()
    thin, thick = [0.0] * 4, [0.0] * 4
    colors.GetColor(0, thin)
    colors.GetColor(255, thick)
    # From violet to yellow.
    assert thin[2] > thin[1] and thick[1] > thick[2]
    show(logic, model, False)
    assert not display.GetScalarVisibility()
    assert display.GetColor() == color
    assert nodeIDs() == before


def test_one_colouring_takes_the_place_of_the_other():
    node, _ = skullInPatient()
    _, added = complete(node, meshes=True)
    model, logic, before = added.implantModelNode, SkullVAELogic(), nodeIDs()
    logic.showThickness(model, True)
    made = len(nodeIDs() - before)
    logic.showUncertainty(model, True)
    assert model.GetDisplayNode().GetActiveScalarName() == UNCERTAINTY
    assert len(nodeIDs() - before) == made, "the colours of the first one are removed"
    logic.showUncertainty(model, False)
    assert nodeIDs() == before


def test_another_mesh_without_the_scalars_shown_gets_its_own_colour():
    node, _ = skullInPatient()
    _, added = complete(node, meshes=True)
    model, mesh = added.implantModelNode, tetrahedron(9)
    SkullVAELogic().showUncertainty(model, True)
    changeModel(model, mesh)
    assert shownColours(model) == UNCERTAINTY
    changeModel(model, dataclasses.replace(mesh, uncertainty=None))
    assert shownColours(model) is None


def test_mesh_without_thickness_keeps_its_colour():
    node, _ = skullInPatient()
    _, added = complete(node, meshes=True)
    added.skullModelNode.GetPolyData().GetPointData().RemoveArray(THICKNESS)
    SkullVAELogic().showThickness(added.skullModelNode, True)
    assert not added.skullModelNode.GetDisplayNode().GetScalarVisibility()


# --------------------------------------------------------------------------------------------------------------------
# Replacing, removing, undo


@pytest.mark.parametrize("newSegmentation", [False, True])
@pytest.mark.parametrize("case", INPUTS.values(), ids=INPUTS.keys())
def test_removing_a_result_leaves_what_was_there_before(case, newSegmentation):
    node, segmentID = case()
    before, nodes, tree = fingerprint(node) if segmentID else None, nodeIDs(), items()
    _, added = complete(node, segmentID, newSegmentation=newSegmentation, meshes=True)
    logic = SkullVAELogic()
    logic.showThickness(added.implantModelNode, True)
    assert logic.hasResult(node, segmentID)
    # Saving adds a storage node.
    added.implantModelNode.AddDefaultStorageNode()
    assert logic.removeResult(node, segmentID)
    if segmentID:
        assert fingerprint(node) == before
    displays = {node.GetDisplayNode().GetID()} if segmentID and node.GetDisplayNode() else set()
    assert nodeIDs() - displays == nodes - displays
    assert items() == tree
    assert not logic.hasResult(node, segmentID)
    assert not logic.removeResult(node, segmentID)


def test_removing_a_result_keeps_items_of_the_user():
    node, _ = skullInPatient()
    _, added = complete(node, newSegmentation=True, meshes=True)
    target = added.segmentationNode
    addSegment(target, "mine", orientedImage(randomMask(51), GRIDS["oblique"]), "Mine")
    voxels = exported(target, "mine", GRIDS["oblique"])
    drawing = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "Drawing")
    hierarchy().CreateItem(added.folderItemID, drawing)
    assert SkullVAELogic().removeResult(node, "bone")
    assert list(target.GetSegmentation().GetSegmentIDs()) == ["mine"]
    assert np.array_equal(exported(target, "mine", GRIDS["oblique"]), voxels)
    assert slicer.mrmlScene.IsNodePresent(drawing)
    assert hierarchy().GetItemName(hierarchy().GetItemParent(hierarchy().GetItemByDataNode(drawing))) != ""


def test_running_again_reuses_models_and_folder_and_how_they_are_shown():
    node, _ = skullInPatient()
    _, first = complete(node, meshes=True)
    first.implantModelNode.SetName("My implant")
    first.implantModelNode.GetDisplayNode().SetOpacity(0.3)
    nodes, tree = nodeIDs(), items()
    _, second = complete(node, seed=70, meshes=True)
    assert second.implantModelNode is first.implantModelNode
    assert second.folderItemID == first.folderItemID
    assert (nodeIDs(), items()) == (nodes, tree)
    assert second.implantModelNode.GetName() == "My implant"
    assert second.implantModelNode.GetDisplayNode().GetOpacity() == pytest.approx(0.3)
    np.testing.assert_allclose(meshData(second.implantModelNode.GetPolyData()).points, tetrahedron(70).points)


def test_running_again_without_meshes_leaves_no_old_ones():
    node, _ = skullInPatient()
    complete(node, meshes=True)
    _, second = complete(node, seed=70)
    assert (second.implantModelNode, second.skullModelNode, second.folderItemID) == (None, None, 0)
    assert models() == []


def test_choosing_another_segmentation_moves_the_result():
    node, _ = skullInPatient()
    before = fingerprint(node)
    _, first = complete(node, newSegmentation=False, meshes=True)
    _, second = complete(node, newSegmentation=True, seed=71, meshes=True)
    assert fingerprint(node) == before
    assert second.segmentationNode is not node
    assert second.folderItemID == first.folderItemID
    run, third = complete(node, newSegmentation=False, seed=72, meshes=True)
    assert third.segmentationNode is node
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    assert np.array_equal(exported(node, third.implantID, GRIDS["oblique"]), run.implant)


def test_results_of_two_segments_are_removed_one_by_one():
    node, _ = skullInPatient()
    addSegment(node, "second", orientedImage(randomMask(52), GRIDS["oblique"]), "Second")
    complete(node, "bone", meshes=True)
    _, second = complete(node, "second", meshes=True)
    logic = SkullVAELogic()
    assert logic.removeResult(node, "bone")
    assert logic.hasResult(node, "second")
    assert slicer.mrmlScene.IsNodePresent(second.implantModelNode)
    assert logic.resultOf(node, "second") == second


@pytest.mark.parametrize("newSegmentation", [False, True])
def test_one_undo_removes_the_result(newSegmentation):
    node, _ = skullInPatient()
    slicer.mrmlScene.SetUndoOn()
    node.SetUndoEnabled(True)
    before = list(node.GetSegmentation().GetSegmentIDs())
    levels = slicer.mrmlScene.GetNumberOfUndoLevels()
    complete(node, newSegmentation=newSegmentation, meshes=True)
    assert slicer.mrmlScene.GetNumberOfUndoLevels() == levels + 1
    slicer.mrmlScene.Undo()
    assert list(node.GetSegmentation().GetSegmentIDs()) == before
    assert models() == []
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    assert not SkullVAELogic().hasResult(node, "bone")


def test_without_undo_no_state_is_kept():
    node, _ = skullInPatient()
    levels = slicer.mrmlScene.GetNumberOfUndoLevels()
    complete(node, meshes=True)
    assert slicer.mrmlScene.GetNumberOfUndoLevels() == levels


# --------------------------------------------------------------------------------------------------------------------
# After saving and loading


@pytest.mark.parametrize("newSegmentation", [False, True])
@pytest.mark.parametrize("intoAnother", [False, True], ids=["alone", "among others"])
def test_result_is_found_after_saving_and_loading(tmp_path, newSegmentation, intoAnother):
    node, _ = skullInPatient()
    run, _ = complete(node, newSegmentation=newSegmentation, meshes=True)
    path = saveScene(tmp_path)
    slicer_standin.newScene()
    if intoAnother:
        # So that the node IDs differ from those in the file.
        hierarchy()
        addSkull(randomMask(53), GRIDS["lps"])
        complete(addSkull(randomMask(54), GRIDS["lps"]), meshes=True)
    before = nodeIDs()
    slicer.mrmlScene.SetURL(str(path))
    assert slicer.mrmlScene.Import() if intoAnother else slicer.mrmlScene.Connect()
    loaded = [
        candidate
        for candidate in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        if candidate.GetID() not in (before if intoAnother else ()) and candidate.GetSegmentation().GetSegment("bone")
    ]
    assert len(loaded) == 1
    logic = SkullVAELogic()
    added = logic.resultOf(loaded[0], "bone")
    assert added.exists
    assert (added.segmentationNode is loaded[0]) != newSegmentation
    assert np.array_equal(exported(added.segmentationNode, added.implantID, GRIDS["oblique"]), run.implant)
    np.testing.assert_allclose(meshData(added.implantModelNode.GetPolyData()).points, tetrahedron(7).points, atol=1e-4)
    assert added.skullModelNode is not None
    assert hierarchy().GetItemName(added.folderItemID) == "Head SkullVAE result"
    assert isAsAdded(added.segmentationNode, added.implantID)
    assert figuresOf(added) == {key: REPORT[key] for key in ("implant", "warnings")}
    logic.showThickness(added.implantModelNode, True)
    assert added.implantModelNode.GetDisplayNode().GetScalarVisibility()
    assert logic.removeResult(loaded[0], "bone")
    assert not logic.hasResult(loaded[0], "bone")
    assert not slicer.mrmlScene.IsNodePresent(added.implantModelNode)


def test_measures_of_a_scene_saved_by_version_0_1_are_shown():
    node, _ = skullInPatient()
    _, added = complete(node, meshes=True)
    former = {"implant": REPORT["implant"], "part": {"pieces": [{"volume_ml": 7.5}]}, "warnings": []}
    added.implantModelNode.SetAttribute("SkullVAE.figures", json.dumps(former))
    assert figuresOf(added)["printable_implant"] == former["part"]
    assert "part" not in figuresOf(added)


def saveScene(folder):
    """Save a scene as Slicer does: the data of each node to its own file, then the scene."""
    scene = slicer.mrmlScene
    for number, (className, suffix) in enumerate(
        (("vtkMRMLSegmentationNode", ".seg.nrrd"), ("vtkMRMLModelNode", ".vtk"), ("vtkMRMLScalarVolumeNode", ".nrrd"))
    ):
        for index, node in enumerate(slicer.util.getNodesByClass(className)):
            node.AddDefaultStorageNode()
            node.GetStorageNode().SetFileName(str(folder / f"{number}-{index}{suffix}"))
            assert node.GetStorageNode().WriteData(node)
    path = folder / "scene.mrml"
    scene.SetURL(str(path))
    scene.SetRootDirectory(str(folder))
    assert scene.Commit()
    return path


# --------------------------------------------------------------------------------------------------------------------
# Detection of edits


def test_edited_segment_is_detected():
    node, _ = skullInPatient()
    _, added = complete(node, meshes=True)
    assert isAsAdded(node, added.implantID)
    assert isAsAdded(node, added.completedID)
    assert not isAsAdded(node, "bone")
    image = slicer.vtkOrientedImageData()
    image.DeepCopy(node.GetSegmentation().GetSegment(added.implantID).GetRepresentation(BINARY))
    scalars = image.GetPointData().GetScalars()
    scalars.SetTuple1(0, 1 - scalars.GetTuple1(0))
    node.GetSegmentation().GetSegment(added.implantID).AddRepresentation(BINARY, image)
    assert not isAsAdded(node, added.implantID)
    assert isAsAdded(node, added.completedID)


def test_moved_segment_is_detected():
    node, _ = skullInPatient()
    _, added = complete(node, meshes=True)
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 2.5)
    node.ApplyTransformMatrix(matrix)
    assert not isAsAdded(node, added.implantID)


def test_sharing_a_labelmap_is_not_an_edit():
    node, _ = skullInPatient()
    _, added = complete(node, meshes=True)
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    assert isAsAdded(node, added.implantID)
    assert isAsAdded(node, added.completedID)
