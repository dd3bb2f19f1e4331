"""Segments are read from and added to a real MRML scene without changing voxels (slicer-core)."""

from __future__ import annotations

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
import vtk  # noqa: E402
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402
from SkullVAEModule.segments import resultSegmentIDs, segmentTag  # noqa: E402
from slicer_scenes import (  # noqa: E402
    BINARY,
    GRIDS,
    PROVENANCE,
    REPORT,
    SHAPE,
    KnownRun,
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
    vtkMatrix,
)

from SkullVAELib.core.errors import SkullVAEError  # noqa: E402

pytestmark = pytest.mark.usefixtures("scene")


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_segments_land_on_the_inputs_voxels(grid):
    mask = randomMask(1)
    node = addSkull(mask, grid)
    run, added = complete(node)
    assert np.array_equal(run.array, mask)
    assert run.array.dtype == np.uint8
    np.testing.assert_allclose(run.affine, grid, atol=1e-9)
    assert added.segmentationNode is node
    assert np.array_equal(exported(node, added.completedID, grid), run.completed)
    assert np.array_equal(exported(node, added.implantID, grid), run.implant)


@pytest.mark.parametrize("grid", [GRIDS["lps"], GRIDS["oblique and left-handed"]], ids=["lps", "oblique"])
@pytest.mark.parametrize("newSegmentation", [False, True])
def test_parent_transform_moves_input_and_result_alike(grid, newSegmentation):
    transform = addTransform(rotation(25, (0, 1, 1)) + np.outer([5.5, -8, 3, 0], [0, 0, 0, 1]))
    mask = randomMask(2)
    node = addSkull(mask, grid, transform=transform)
    run, added = complete(node, newSegmentation=newSegmentation)
    assert np.array_equal(run.array, mask)
    np.testing.assert_allclose(run.affine, grid, atol=1e-9)
    assert added.segmentationNode.GetParentTransformNode() is transform
    for segmentID, expected in ((added.completedID, run.completed), (added.implantID, run.implant)):
        assert np.array_equal(exported(added.segmentationNode, segmentID, grid, transform=transform), expected)
        # The same in world coordinates, with a grid that is transformed itself.
        matrix = vtk.vtkMatrix4x4()
        transform.GetMatrixTransformToWorld(matrix)
        moved = np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)]) @ grid
        assert np.array_equal(exported(added.segmentationNode, segmentID, moved), expected)


def test_hardened_transform_is_followed():
    mask, grid = randomMask(3), GRIDS["oblique and anisotropic"]
    node = addSkull(mask, grid)
    matrix = rotation(40, (1, 0, 1))
    node.ApplyTransformMatrix(vtkMatrix(matrix))
    run, added = complete(node)
    assert np.array_equal(run.array, mask)
    assert np.array_equal(exported(node, added.implantID, matrix @ grid), run.implant)


def test_whole_grid_is_completed_though_the_segment_is_stored_cropped():
    shape, start = (30, 28, 26), (9, 6, 4)
    grid = GRIDS["oblique and left-handed"]
    small = randomMask(4)
    whole = np.zeros(shape, np.uint8)
    whole[tuple(slice(a, a + n) for a, n in zip(start, SHAPE, strict=True))] = small
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Head")
    node.SetReferenceImageGeometryParameterFromVolumeNode(addVolume(np.zeros(shape, np.int16), grid))
    addSegment(node, "bone", orientedImage(small, grid, start))
    run, added = complete(node)
    assert np.array_equal(run.array, whole)
    assert np.array_equal(exported(node, added.implantID, grid, shape), run.implant)


def test_bone_outside_the_reference_geometry_is_not_cut():
    grid = GRIDS["lps"]
    mask = randomMask(5)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Head")
    node.SetReferenceImageGeometryParameterFromVolumeNode(addVolume(np.zeros((6, 6, 6), np.int16), grid))
    addSegment(node, "bone", orientedImage(mask, grid, (-4, 2, -3)))
    run, _ = complete(node)
    assert run.array.sum() == mask.sum()


def test_segment_finer_than_the_reference_keeps_its_voxels():
    coarse = GRIDS["oblique"]
    fine = coarse @ np.diag([0.5, 0.5, 0.5, 1])
    fine[:3, 3] = (coarse @ [-0.25, -0.25, -0.25, 1])[:3]
    mask = randomMask(6, (24, 20, 16))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Head")
    node.SetReferenceImageGeometryParameterFromVolumeNode(addVolume(np.zeros((12, 10, 8), np.int16), coarse))
    addSegment(node, "bone", orientedImage(mask, fine))
    run, added = complete(node)
    assert run.array.sum() == mask.sum()
    start = np.rint(np.linalg.inv(fine) @ run.affine[:, 3]).astype(int)[:3]
    crop = run.array[tuple(slice(-a, -a + n) for a, n in zip(start, mask.shape, strict=True))]
    assert np.array_equal(crop, mask)
    assert np.array_equal(exported(node, added.implantID, run.affine, run.array.shape), run.implant)


def test_segmentation_without_reference_gets_a_margin_for_the_implant():
    mask, grid = randomMask(8), GRIDS["oblique and anisotropic"]
    node = addSkull(mask, grid, reference=False)
    run, added = complete(node)
    margin = np.ceil(20 / np.linalg.norm(grid[:3, :3], axis=0)).astype(int)
    inner = tuple(slice(m, m + n) for m, n in zip(margin, SHAPE, strict=True))
    assert np.array_equal(run.array[inner], mask)
    assert run.array.sum() == mask.sum()
    np.testing.assert_allclose((run.affine @ [*margin, 1])[:3], grid[:3, 3], atol=1e-9)
    assert np.array_equal(exported(node, added.implantID, run.affine, run.array.shape), run.implant)


def test_segment_in_a_shared_labelmap_is_separated_from_the_others():
    grid = GRIDS["lps"]
    labels = np.random.default_rng(9).integers(0, 4, SHAPE).astype(np.uint8)
    node = addSkull(np.ones(SHAPE, np.uint8), grid)
    node.GetSegmentation().RemoveSegment("bone")
    shared = orientedImage(labels, grid)
    for value, name in ((1, "brain"), (2, "bone"), (3, "skin")):
        addSegment(node, name, shared, name, value)
    before = fingerprint(node)
    run, added = complete(node, "bone")
    assert np.array_equal(run.array, labels == 2)
    after = fingerprint(node)
    assert {key: after[key] for key in before} == before
    assert np.array_equal(exported(node, added.completedID, grid), run.completed)


def test_overlapping_segments_are_unchanged():
    grid = GRIDS["oblique and left-handed"]
    node = addSkull(randomMask(10), grid)
    addSegment(node, "other", orientedImage(randomMask(11), grid), "Other")
    # On another lattice: writing into it would resample it.
    addSegment(node, "third", orientedImage(randomMask(12), grid @ np.diag([0.9, 1.1, 1, 1])), "Third")
    before = fingerprint(node)
    times = {key: node.GetSegmentation().GetSegment(key).GetRepresentation(BINARY).GetMTime() for key in before}
    run, added = complete(node)
    after = fingerprint(node)
    assert {key: after[key] for key in before} == before
    assert times == {key: node.GetSegmentation().GetSegment(key).GetRepresentation(BINARY).GetMTime() for key in before}
    assert list(after) == [*before, added.completedID, added.implantID]
    # The completed skull overlaps bone and implant, so each has its own layer.
    assert np.array_equal(exported(node, added.completedID, grid), run.completed)
    assert np.array_equal(exported(node, added.implantID, grid), run.implant)


@pytest.mark.parametrize("geometry", [True, False], ids=["with image geometry", "without"])
def test_surface_is_completed_and_left_a_surface(geometry):
    node = addSphere(geometry)
    before = fingerprint(node)
    run, added = complete(node)
    assert fingerprint(node) == before
    assert node.GetSegmentation().GetSegment("bone").GetRepresentation(BINARY) is None
    volume = run.array.sum() * abs(np.linalg.det(run.affine[:3, :3]))
    assert volume == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.05)
    centre = run.affine[:3] @ [*np.argwhere(run.array).mean(axis=0), 1]
    np.testing.assert_allclose(centre, (7, -4, 30), atol=0.5)
    # Voxels added to a segmentation of surfaces would be converted to surfaces.
    assert added.segmentationNode is not node
    assert np.array_equal(exported(added.segmentationNode, added.implantID, run.affine, run.array.shape), run.implant)


@pytest.mark.parametrize("transformed", [False, True])
@pytest.mark.parametrize("grid", [GRIDS["lps"], GRIDS["oblique and left-handed"]], ids=["lps", "oblique"])
def test_ct_is_read_unchanged_and_gets_a_segmentation_beside_it(grid, transformed):
    transform = addTransform(rotation(-70, (1, 1, 0))) if transformed else None
    voxels = np.random.default_rng(13).integers(-1000, 2000, SHAPE).astype(np.int16)
    node = addVolume(voxels, grid, transform=transform)
    run, added = complete(node, "")
    assert np.array_equal(run.array, voxels)
    assert run.array.dtype == np.int16
    np.testing.assert_allclose(run.affine, grid, atol=1e-9)
    assert added.segmentationNode.GetParentTransformNode() is transform
    assert np.array_equal(exported(added.segmentationNode, added.implantID, grid, transform=transform), run.implant)
    # Slicer's own functions, which need the reference volume, work on the result.
    array = slicer.util.arrayFromSegmentBinaryLabelmap(added.segmentationNode, added.completedID)
    assert np.array_equal(array.transpose(2, 1, 0), run.completed)


def test_result_has_terminology_and_provenance():
    node = addSkull(randomMask(14), GRIDS["lps"])
    _, added = complete(node)
    segmentation = node.GetSegmentation()
    expected = {
        added.completedID: ("Completed skull", "Skull", "89546000", (241 / 255, 213 / 255, 144 / 255)),
        added.implantID: ("Implant", "Implant", "40388003", None),
    }
    for segmentID, (name, meaning, code, color) in expected.items():
        segment = segmentation.GetSegment(segmentID)
        assert segment.GetName() == name
        if color:
            assert segment.GetColor() == pytest.approx(color)
        entry = slicer.vtkSlicerTerminologyEntry()
        logic = slicer.vtkSlicerTerminologiesModuleLogic()
        assert logic.DeserializeTerminologyEntry(segmentTag(segment, "TerminologyEntry"), entry)
        assert (entry.GetTypeObject().GetCodeMeaning(), entry.GetTypeObject().GetCodeValue()) == (meaning, code)
        assert segmentTag(segment, "SkullVAE.source") == "bone"
        assert segmentTag(segment, "SkullVAE.software") == "SkullVAE 0.1.0"
        assert segmentTag(segment, "SkullVAE.model_sha256") == "abc"
        assert "gamma" in segmentTag(segment, "SkullVAE.parameters")
        assert segmentTag(segment, "SkullVAE.note") == "Research"


def test_notice_is_added_if_the_report_has_none(monkeypatch):
    monkeypatch.delitem(REPORT, "disclaimer")
    node = addSkull(randomMask(14), GRIDS["lps"])
    _, added = complete(node)
    segment = node.GetSegmentation().GetSegment(added.implantID)
    assert "not for clinical use" in segmentTag(segment, "SkullVAE.note")


def test_provenance_survives_saving(tmp_path):
    node = addSkull(randomMask(15), GRIDS["lps"])
    _, added = complete(node)
    tags = [
        {tag: segmentTag(node.GetSegmentation().GetSegment(segmentID), f"SkullVAE.{tag}") for tag in PROVENANCE}
        for segmentID in (added.completedID, added.implantID)
    ]
    path = str(tmp_path / "saved.seg.nrrd")
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(path)
    assert storage.WriteData(node)
    loaded = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Loaded")
    assert storage.ReadData(loaded)
    ids = resultSegmentIDs(loaded.GetSegmentation(), "bone")
    assert len(ids) == 2
    assert all(all(values.values()) for values in tags)
    assert tags == [
        {tag: segmentTag(loaded.GetSegmentation().GetSegment(segmentID), f"SkullVAE.{tag}") for tag in PROVENANCE}
        for segmentID in ids
    ]


@pytest.mark.parametrize("newSegmentation", [False, True])
def test_running_again_replaces_the_result_whatever_it_is_called_now(newSegmentation):
    grid = GRIDS["oblique"]
    node = addSkull(randomMask(16), grid)
    addSegment(node, "mine", orientedImage(randomMask(17), grid), "Implant")
    _, first = complete(node, newSegmentation=newSegmentation)
    result = first.segmentationNode
    result.GetSegmentation().GetSegment(first.implantID).SetName("Renamed by the user")
    before = fingerprint(node)
    nodes = nodeIDs()
    run, second = complete(node, newSegmentation=newSegmentation, seed=99)
    assert second.segmentationNode is result
    assert nodeIDs() == nodes
    assert resultSegmentIDs(result.GetSegmentation(), "bone") == [second.completedID, second.implantID]
    assert np.array_equal(exported(result, second.implantID, grid), run.implant)
    assert {key: fingerprint(node)[key] for key in ("bone", "mine")} == {key: before[key] for key in ("bone", "mine")}


def test_running_again_replaces_a_result_that_saving_has_merged_with_the_input():
    grid = GRIDS["lps"]
    node = addSkull(randomMask(18), grid)
    _, first = complete(node)
    # As after writing a file: segments that do not overlap share a labelmap.
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    layers = [node.GetSegmentation().GetLayerIndex(key) for key in ("bone", first.completedID, first.implantID)]
    assert layers == [0, 1, 0]
    bone = exported(node, "bone", grid)
    run, second = complete(node, seed=98)
    assert np.array_equal(run.array, bone)
    assert np.array_equal(exported(node, "bone", grid), bone)
    assert np.array_equal(exported(node, second.implantID, grid), run.implant)
    assert len(node.GetSegmentation().GetSegmentIDs()) == 3


def test_results_of_two_segments_can_coexist():
    grid = GRIDS["lps"]
    node = addSkull(randomMask(19), grid)
    addSegment(node, "second", orientedImage(randomMask(20), grid), "Second")
    complete(node, "bone")
    complete(node, "second")
    assert [len(resultSegmentIDs(node.GetSegmentation(), key)) for key in ("bone", "second")] == [2, 2]


def test_new_segmentation_by_choice_leaves_the_input_alone():
    node = addSkull(randomMask(21), GRIDS["lps"])
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    hierarchy.CreateItem(patient, node)
    before = fingerprint(node)
    # The application adds the item of a new node; here this observer does.
    tag = slicer.mrmlScene.AddObserver(slicer.mrmlScene.NodeAddedEvent, _createItem)
    _, added = complete(node, newSegmentation=True)
    slicer.mrmlScene.RemoveObserver(tag)
    assert fingerprint(node) == before
    assert added.segmentationNode is not node
    assert added.segmentationNode.GetName() == "Head completed"
    item = hierarchy.GetItemByDataNode(added.segmentationNode)
    assert hierarchy.GetItemName(hierarchy.GetItemParent(item)) == "Head SkullVAE result"
    assert hierarchy.GetItemParent(hierarchy.GetItemParent(item)) == patient


@vtk.calldata_type(vtk.VTK_OBJECT)
def _createItem(scene, event, node):
    if node.IsA("vtkMRMLSegmentationNode"):
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)


def emptySegment():
    node = addSkull(randomMask(22), GRIDS["lps"])
    return node, node.GetSegmentation().AddEmptySegment("", "Nothing")


def blankSegment():
    return addSkull(np.zeros(SHAPE, np.uint8), GRIDS["lps"]), "bone"


UNUSABLE = {
    "no input": lambda: (None, ""),
    "unknown segment": lambda: (addSkull(randomMask(23), GRIDS["lps"]), "skull"),
    "no segment chosen": lambda: (addSkull(randomMask(23), GRIDS["lps"]), ""),
    "segment without voxels": emptySegment,
    "segment of zeros": blankSegment,
    "volume without voxels": lambda: (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT"), ""),
}


@pytest.mark.parametrize("case", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_unusable_input_is_an_error_before_anything_runs(case):
    node, segmentID = case()
    nodes = nodeIDs()
    run = KnownRun()
    logic = SkullVAELogic(createRun=run)
    with pytest.raises(SkullVAEError, match=r"Choose"):
        logic.start(node, segmentID)
    assert not run.started
    assert not logic.running
    assert nodeIDs() == nodes
