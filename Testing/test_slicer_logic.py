"""The Slicer module's logic on Slicer's real MRML and segmentations (slicer-core), without the application."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
import vtk  # noqa: E402
from SkullVAEModule import dependencies, librarypath  # noqa: E402
from SkullVAEModule.childprocess import ChildProcess  # noqa: E402
from SkullVAEModule.completion import CompletionOptions, CompletionResult, CompletionRun, childEnvironment  # noqa: E402
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402
from SkullVAEModule.parameters import completionOptions  # noqa: E402
from SkullVAEModule.segments import readInput, resultSegmentIDs, segmentTag  # noqa: E402
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy  # noqa: E402

from SkullVAELib import cli  # noqa: E402
from SkullVAELib.errors import SkullVAEError  # noqa: E402
from SkullVAELib.volume import read_volume  # noqa: E402

BINARY = "Binary labelmap"
SURFACE = "Closed surface"
SHAPE = (18, 15, 12)
REPORT = {
    "software": "SkullVAE 0.1.0",
    "disclaimer": "Research",
    "model_file": "skullvae.safetensors",
    "model_sha256": "abc",
    "parameters": {"gamma": 1.0, "prior": "a|b"},
    "seconds": {"total": 1.0},
}
PROVENANCE = ("source", "role", "note", "software", "model_file", "model_sha256", "parameters")


@pytest.fixture(autouse=True)
def scene():
    """An empty scene for each test."""
    return slicer_standin.newScene()


# --------------------------------------------------------------------------------------------------------------------
# Grids


def rotation(degrees: float, axis: tuple[float, float, float]) -> np.ndarray:
    transform = vtk.vtkTransform()
    transform.RotateWXYZ(degrees, *axis)
    return np.array([[transform.GetMatrix().GetElement(i, j) for j in range(4)] for i in range(4)])


def affine(directions: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3] = directions[:3, :3] * spacing
    result[:3, 3] = (-31.25, 47.5, 12.75)
    return result


OBLIQUE = rotation(33, (1, 2, 0.5))
GRIDS = {
    "ras": affine(np.eye(3), (1, 1, 1)),
    "lps": affine(np.diag([-1.0, -1.0, 1.0]), (1, 1, 1)),
    "axes swapped": affine(np.eye(3)[[2, 0, 1]], (1, 1, 1)),
    "oblique": affine(OBLIQUE, (1, 1, 1)),
    "oblique and anisotropic": affine(OBLIQUE, (0.49, 0.73, 2.5)),
    "left-handed": affine(np.diag([-1.0, 1.0, 1.0]), (0.8, 0.8, 1.25)),
    "oblique and left-handed": affine(OBLIQUE[:3, :3] @ np.diag([1.0, 1.0, -1.0]), (0.7, 0.9, 1.5)),
}


def vtkMatrix(array: np.ndarray):
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, float).ravel().tolist())
    return matrix


def orientedImage(array: np.ndarray, ijkToRAS: np.ndarray, start=(0, 0, 0)):
    """An image of (I, J, K) voxels whose extent starts at `start` on the lattice of ijkToRAS."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*[value for a, n in zip(start, array.shape, strict=True) for value in (a, a + n - 1)])
    image.SetGeometryFromImageToWorldMatrix(vtkMatrix(ijkToRAS))
    flat = np.ascontiguousarray(array.transpose(2, 1, 0)).ravel()
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    return image


def randomMask(seed: int, shape=SHAPE, fill: float = 0.4) -> np.ndarray:
    """Voxels with no symmetry: any shift, flip or swap of axes shows."""
    return (np.random.default_rng(seed).random(shape) < fill).astype(np.uint8)


# --------------------------------------------------------------------------------------------------------------------
# The scene


def addSegment(node, segmentID: str, image, name: str = "Bone", labelValue: int = 1) -> str:
    segment = slicer.vtkSegment()
    segment.SetName(name)
    segment.SetLabelValue(labelValue)
    segment.AddRepresentation(BINARY, image)
    assert node.GetSegmentation().AddSegment(segment, segmentID)
    return segmentID


def addVolume(array: np.ndarray, ijkToRAS: np.ndarray, className="vtkMRMLScalarVolumeNode", transform=None):
    node = slicer.mrmlScene.AddNewNodeByClass(className, "CT")
    image = vtk.vtkImageData()
    image.SetDimensions(array.shape)
    flat = np.ascontiguousarray(array.transpose(2, 1, 0)).ravel()
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(vtkMatrix(ijkToRAS))
    if transform is not None:
        node.SetAndObserveTransformNodeID(transform.GetID())
    return node


def addTransform(matrix: np.ndarray):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Moved")
    node.SetMatrixTransformToParent(vtkMatrix(matrix))
    return node


def addSkull(mask: np.ndarray, ijkToRAS: np.ndarray, reference: bool = True, transform=None):
    """A segmentation node with one segment "bone", drawn on a CT with this grid where reference is true."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Head")
    if transform is not None:
        node.SetAndObserveTransformNodeID(transform.GetID())
    if reference:
        volume = addVolume(np.zeros(mask.shape, np.int16), ijkToRAS, transform=transform)
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    addSegment(node, "bone", orientedImage(mask, ijkToRAS))
    return node


def exported(node, segmentID: str, ijkToRAS: np.ndarray, shape=SHAPE, transform=None) -> np.ndarray:
    """What Slicer itself finds in a segment on a given grid: the judge of where a segment lies."""
    reference = addVolume(np.zeros(shape, np.uint8), ijkToRAS, transform=transform)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentID, reference).transpose(2, 1, 0).copy()
    slicer.mrmlScene.RemoveNode(reference)
    return array


def fingerprint(node) -> dict:
    """Everything of a node's segments that must not change: names, label values, voxels or points, geometry."""
    segmentation = node.GetSegmentation()
    result = {}
    for segmentID in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segmentID)
        entry = [segment.GetName(), segment.GetLabelValue()]
        image = segment.GetRepresentation(BINARY)
        if image is not None:
            matrix = vtk.vtkMatrix4x4()
            image.GetImageToWorldMatrix(matrix)
            scalars = image.GetPointData().GetScalars()
            elements = [matrix.GetElement(i, j) for i in range(4) for j in range(4)]
            entry += [image.GetExtent(), elements, vtk_to_numpy(scalars).tobytes() if scalars else b""]
        surface = segment.GetRepresentation(SURFACE)
        if surface is not None:
            entry.append(vtk_to_numpy(surface.GetPoints().GetData()).tobytes())
        result[segmentID] = entry
    return result


def nodeIDs() -> set[str]:
    nodes = slicer.mrmlScene.GetNodes()
    return {nodes.GetItemAsObject(i).GetID() for i in range(nodes.GetNumberOfItems())}


# --------------------------------------------------------------------------------------------------------------------
# A run with a known result


class KnownRun:
    """Takes the place of CompletionRun: two polls, then an implant of random voxels outside the bone.

    seed: which implant; noDefect: end as the library does for a whole skull; failure: end with this error.
    """

    def __init__(self, seed: int = 7, noDefect: bool = False, failure: Exception | None = None):
        self._seed, self._noDefect, self._failure = seed, noDefect, failure
        self.stage, self.fraction = "", 0.0
        self.started = self.closed = False

    def __call__(self, array: np.ndarray, grid: np.ndarray, options: CompletionOptions) -> KnownRun:
        self.array, self.affine, self.options = np.array(array), grid, options
        bone = self.array > 0
        self.implant = ((randomMask(self._seed, bone.shape, 0.2) > 0) & ~bone).astype(np.uint8)
        self.completed = (bone | (self.implant > 0)).astype(np.uint8)
        return self

    def start(self) -> None:
        self.started, self._left = True, 2

    def poll(self) -> list[str]:
        self._left -= 1
        self.stage, self.fraction = "completing", 0.5
        return ["a line"]

    @property
    def running(self) -> bool:
        return self._left > 0

    def result(self) -> CompletionResult | None:
        if self._failure:
            raise self._failure
        return None if self._noDefect else CompletionResult(self.completed, self.implant, REPORT)

    def close(self) -> None:
        self.closed = True


def complete(node, segmentID: str = "bone", newSegmentation: bool = False, **known):
    """(the run that was made, what it added) of completing this input with a known result."""
    run = KnownRun(**known)
    added = SkullVAELogic(createRun=run).completeSkull(node, segmentID, newSegmentation=newSegmentation)
    assert run.closed
    return run, added


# --------------------------------------------------------------------------------------------------------------------
# Voxels land where they belong


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
        # The same in world coordinates, by a grid that is moved itself.
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


def test_segmentation_without_reference_gets_room_for_an_implant():
    mask, grid = randomMask(8), GRIDS["oblique and anisotropic"]
    node = addSkull(mask, grid, reference=False)
    run, added = complete(node)
    margin = np.ceil(20 / np.linalg.norm(grid[:3, :3], axis=0)).astype(int)
    inner = tuple(slice(m, m + n) for m, n in zip(margin, SHAPE, strict=True))
    assert np.array_equal(run.array[inner], mask)
    assert run.array.sum() == mask.sum()
    np.testing.assert_allclose((run.affine @ [*margin, 1])[:3], grid[:3, 3], atol=1e-9)
    assert np.array_equal(exported(node, added.implantID, run.affine, run.array.shape), run.implant)


def test_segment_in_a_shared_labelmap_is_told_from_its_neighbours():
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


def test_overlapping_segments_stay_as_they_are():
    grid = GRIDS["oblique and left-handed"]
    node = addSkull(randomMask(10), grid)
    addSegment(node, "other", orientedImage(randomMask(11), grid), "Other")
    # On a lattice of its own: writing into it would resample it.
    addSegment(node, "third", orientedImage(randomMask(12), grid @ np.diag([0.9, 1.1, 1, 1])), "Third")
    before = fingerprint(node)
    times = {key: node.GetSegmentation().GetSegment(key).GetRepresentation(BINARY).GetMTime() for key in before}
    run, added = complete(node)
    after = fingerprint(node)
    assert {key: after[key] for key in before} == before
    assert times == {key: node.GetSegmentation().GetSegment(key).GetRepresentation(BINARY).GetMTime() for key in before}
    assert list(after) == [*before, added.completedID, added.implantID]
    # completed covers bone and implant: each has a layer of its own.
    assert np.array_equal(exported(node, added.completedID, grid), run.completed)
    assert np.array_equal(exported(node, added.implantID, grid), run.implant)


def addSphere(geometry: bool):
    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(12)
    sphere.SetCenter(7, -4, 30)
    sphere.SetThetaResolution(24)
    sphere.SetPhiResolution(24)
    sphere.Update()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Printed")
    node.GetSegmentation().SetSourceRepresentationName(SURFACE)
    if geometry:
        grid = affine(OBLIQUE, (1.5, 1, 1))
        grid[:3, 3] = (7, -4, 30) - grid[:3, :3] @ [15, 20, 20]
        node.SetReferenceImageGeometryParameterFromVolumeNode(addVolume(np.zeros((31, 41, 41), np.int16), grid))
    segment = slicer.vtkSegment()
    segment.SetName("Bone")
    segment.AddRepresentation(SURFACE, sphere.GetOutput())
    node.GetSegmentation().AddSegment(segment, "bone")
    return node


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
    # Voxels put among surfaces would become surfaces.
    assert added.segmentationNode is not node
    assert np.array_equal(exported(added.segmentationNode, added.implantID, run.affine, run.array.shape), run.implant)


@pytest.mark.parametrize("transformed", [False, True])
@pytest.mark.parametrize("grid", [GRIDS["lps"], GRIDS["oblique and left-handed"]], ids=["lps", "oblique"])
def test_ct_goes_in_as_it_is_and_gets_a_segmentation_beside_it(grid, transformed):
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


# --------------------------------------------------------------------------------------------------------------------
# What the result is, and running again


def test_result_says_what_it_is():
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


def test_research_note_is_there_though_the_report_has_none(monkeypatch):
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
    # What writing a file does: segments that do not overlap share a labelmap from then on.
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    layers = [node.GetSegmentation().GetLayerIndex(key) for key in ("bone", first.completedID, first.implantID)]
    assert layers == [0, 1, 0]
    bone = exported(node, "bone", grid)
    run, second = complete(node, seed=98)
    assert np.array_equal(run.array, bone)
    assert np.array_equal(exported(node, "bone", grid), bone)
    assert np.array_equal(exported(node, second.implantID, grid), run.implant)
    assert len(node.GetSegmentation().GetSegmentIDs()) == 3


def test_results_of_two_segments_live_side_by_side():
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
    # Slicer makes the item of a new node itself; without the application this observer does.
    tag = slicer.mrmlScene.AddObserver(slicer.mrmlScene.NodeAddedEvent, _createItem)
    _, added = complete(node, newSegmentation=True)
    slicer.mrmlScene.RemoveObserver(tag)
    assert fingerprint(node) == before
    assert added.segmentationNode is not node
    assert added.segmentationNode.GetName() == "Head completed"
    item = hierarchy.GetItemByDataNode(added.segmentationNode)
    assert hierarchy.GetItemParent(item) == patient


@vtk.calldata_type(vtk.VTK_OBJECT)
def _createItem(scene, event, node):
    if node.IsA("vtkMRMLSegmentationNode"):
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)


# --------------------------------------------------------------------------------------------------------------------
# What cannot be done


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


def test_whole_skull_adds_nothing():
    node = addSkull(randomMask(24), GRIDS["lps"])
    before, nodes = fingerprint(node), nodeIDs()
    _, added = complete(node, noDefect=True)
    assert added is None
    assert fingerprint(node) == before
    assert nodeIDs() == nodes


def test_failed_run_shows_its_error_unchanged_and_adds_nothing():
    node = addSkull(randomMask(25), GRIDS["lps"])
    before = fingerprint(node)
    run = KnownRun(failure=SkullVAEError("The bone is a single voxel", "Segment the skull"))
    logic = SkullVAELogic(createRun=run)
    with pytest.raises(SkullVAEError, match=r"^The bone is a single voxel\. Segment the skull\.$"):
        logic.completeSkull(node, "bone")
    assert run.closed
    assert not logic.running
    assert fingerprint(node) == before


def test_input_removed_during_a_run_is_an_error():
    node = addSkull(randomMask(26), GRIDS["lps"])
    run = KnownRun()
    logic = SkullVAELogic(createRun=run)
    logic.start(node, "bone")
    slicer.mrmlScene.RemoveNode(node)
    with pytest.raises(SkullVAEError, match="removed"):
        while logic.poll():
            pass
    assert run.closed


def test_cancel_leaves_the_scene_as_it_was():
    node = addSkull(randomMask(27), GRIDS["lps"])
    before, nodes = fingerprint(node), nodeIDs()
    run = KnownRun()
    logic = SkullVAELogic(createRun=run)
    lines = []
    logic.start(node, "bone")
    assert logic.poll(lines.extend)
    assert (logic.stage, logic.fraction, lines) == ("completing", 0.5, ["a line"])
    logic.cancel()
    assert run.closed
    assert not logic.running
    assert not logic.poll()
    assert fingerprint(node) == before
    assert nodeIDs() == nodes


def test_second_run_waits_for_the_first():
    node = addSkull(randomMask(28), GRIDS["lps"])
    logic = SkullVAELogic(createRun=KnownRun())
    logic.start(node, "bone")
    with pytest.raises(RuntimeError):
        logic.start(node, "bone")


# --------------------------------------------------------------------------------------------------------------------
# Parameters and the command line


def test_parameters_become_command_line_options():
    parameters = SkullVAELogic().getParameterNode()
    options = completionOptions(parameters)
    assert options == CompletionOptions()
    parameters.inputNode = addVolume(np.zeros(SHAPE, np.int16), GRIDS["lps"])
    parameters.boneThreshold, parameters.gamma, parameters.device = 226.0, 0.75, "cpu"
    assert "--gamma" not in completionOptions(parameters).arguments()
    parameters.prior = "dev"
    arguments = completionOptions(parameters).arguments()
    assert arguments[:8] == ["--device", "cpu", "--prior", "dev", "--threshold", "226", "--gamma", "0.75"]


def test_command_line_knows_what_the_panel_asks_for():
    parameters = SkullVAELogic().getParameterNode()
    parameters.inputNode = addVolume(np.zeros(SHAPE, np.int16), GRIDS["lps"])
    parameters.boneThreshold = 226.0
    for prior, device in itertools.product(
        ("auto", "encode", "map", "dev", "mean"),
        ("auto", "cpu", "cuda"),
    ):
        parameters.prior, parameters.device = prior, device
        arguments = completionOptions(parameters).arguments()
        parsed = cli._parser().parse_args(["complete", "in.nrrd", "-o", "out", "--progress", "json", *arguments])
        assert (parsed.prior, parsed.device, parsed.threshold) == (prior, device, 226)


def test_parameters_refuse_what_the_panel_cannot_show():
    parameters = SkullVAELogic().getParameterNode()
    for name, value in (("device", "quantum"), ("gamma", 3.0), ("boneThreshold", -1.0)):
        with pytest.raises(ValueError, match=str(value)):
            setattr(parameters, name, value)
    parameters.inputNode = None


def test_title_page_says_it_is_for_research_only():
    import SkullVAE

    parent = slicer_standin.moduleRecord()
    SkullVAE.SkullVAE(parent)
    assert parent.title == "SkullVAE"
    assert "not for clinical use" in parent.helpText
    assert parent.acknowledgementText


def test_threshold_is_for_a_ct_only():
    parameters = SkullVAELogic().getParameterNode()
    parameters.inputNode = addSkull(randomMask(29), GRIDS["lps"])
    parameters.boneThreshold = 226.0
    assert "--threshold" not in completionOptions(parameters).arguments()


CHILD = """
    import json, pathlib, sys
    import numpy as np
    from SkullVAELib.volume import read_volume, write_volume
    command, source, _, folder, *options = sys.argv[1:]
    assert command == "complete" and options[:2] == ["--progress", "json"], sys.argv
    volume = read_volume(source)
    mode = pathlib.Path(__file__).stem
    if mode == "bad":
        print("a warning", file=sys.stderr)
        print("The bone is a single voxel. Segment the skull. Then run again.", file=sys.stderr)
        sys.exit(2)
    if mode == "crash":
        raise MemoryError("no room")
    if mode == "whole":
        sys.exit(3)
    implant = np.roll(volume.array, 1, axis=0) & (1 - volume.array)
    write_volume(volume.with_array(volume.array | implant), folder + "/completed.nrrd")
    write_volume(volume.with_array(implant), folder + "/implant.nrrd")
    pathlib.Path(folder, "report.json").write_text(json.dumps({"version": "1", "options": options}))
    print(json.dumps({"stage": "done", "fraction": 1}), flush=True)
"""


def runWithChild(tmp_path: Path, mode: str):
    """A factory of runs whose command is a script that behaves in this mode."""
    script = tmp_path / f"{mode}.py"
    script.write_text(textwrap.dedent(CHILD))
    runs = []

    def create(array, grid, options):
        runs.append(CompletionRun(array, grid, options, [sys.executable, str(script)]))
        return runs[-1]

    return runs, create


@pytest.mark.parametrize("grid", [GRIDS["lps"], GRIDS["oblique and left-handed"]], ids=["lps", "oblique"])
def test_voxels_survive_the_way_through_the_child_process(tmp_path, grid):
    runs, create = runWithChild(tmp_path, "good")
    mask = randomMask(30)
    node = addSkull(mask, grid)
    added = SkullVAELogic(createRun=create).completeSkull(node, "bone", CompletionOptions(gamma=0.5, device="cpu"))
    implant = np.roll(mask, 1, axis=0) & (1 - mask)
    assert np.array_equal(exported(node, added.implantID, grid), implant)
    assert np.array_equal(exported(node, added.completedID, grid), mask | implant)
    assert not runs[0].folder.exists()


def test_childs_own_line_is_shown_unchanged_and_nothing_stays(tmp_path):
    runs, create = runWithChild(tmp_path, "bad")
    node = addSkull(randomMask(31), GRIDS["lps"])
    with pytest.raises(SkullVAEError) as caught:
        SkullVAELogic(createRun=create).completeSkull(node, "bone")
    assert str(caught.value) == "The bone is a single voxel. Segment the skull. Then run again."
    assert not runs[0].folder.exists()


def test_crash_of_the_child_names_code_and_last_line(tmp_path):
    runs, create = runWithChild(tmp_path, "crash")
    with pytest.raises(SkullVAEError, match=r"code 1: MemoryError: no room.*cpu"):
        SkullVAELogic(createRun=create).completeSkull(addSkull(randomMask(32), GRIDS["lps"]), "bone")
    assert not runs[0].folder.exists()


def test_exit_3_is_no_error(tmp_path):
    _, create = runWithChild(tmp_path, "whole")
    assert SkullVAELogic(createRun=create).completeSkull(addSkull(randomMask(33), GRIDS["lps"]), "bone") is None


# --------------------------------------------------------------------------------------------------------------------
# Dependencies


def installed(monkeypatch, versions: dict[str, str]) -> None:
    """Let the module believe that these packages are installed, and no others."""

    def version(name: str) -> str:
        if name not in versions:
            raise dependencies.importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(dependencies.importlib.metadata, "version", version)


COMPLETE = {"torch": "2.12.0+cu130", "monai": "1.6.1", "nibabel": "5.4.2", "safetensors": "0.8.0", "pillow": "12.0"}


def test_what_is_there_is_not_asked_for(monkeypatch):
    installed(monkeypatch, COMPLETE)
    assert dependencies.missingPackages() == []
    assert dependencies.ensurePackages()


def test_missing_and_outdated_packages_are_named_and_not_installed_without_asking(monkeypatch):
    installed(monkeypatch, {**{key: COMPLETE[key] for key in ("monai", "safetensors", "pillow")}, "torch": "1.13"})
    assert dependencies.missingPackages() == [dependencies.TORCH, "nibabel"]
    # There is nobody to ask here; pip is not reached, as slicer.util.pip_install needs the application.
    with pytest.raises(SkullVAEError, match=r"missing: torch\S*, nibabel\. "):
        dependencies.ensurePackages()


# --------------------------------------------------------------------------------------------------------------------
# The child process


def script(tmp_path: Path, text: str, *arguments: str) -> ChildProcess:
    path = tmp_path / "child.py"
    path.write_text(textwrap.dedent(text))
    return ChildProcess([sys.executable, "-u", str(path), *arguments], tmp_path)


def waitFor(condition, what: str) -> None:
    """Wait for something that must happen; how long it takes is not the claim."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail(f"{what} did not happen")


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and only waits for its parent to notice does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def test_progress_and_log_are_told_apart(tmp_path):
    child = script(
        tmp_path,
        """
        import sys
        print('{"stage": "registration", "fraction": 0.25}')
        print("not json"); print("{neither"); print('{"stage": "no fraction"}')
        print("warned \\u00e9", file=open(2, "w", encoding="utf-8", closefd=False))
        print('{"stage": "implant", "fraction": 7}', end="")
        """,
    )
    child.start()
    lines = []
    waitFor(lambda: lines.extend(child.poll()) or not child.running, "the end")
    assert child.exitCode == 0
    assert (child.stage, child.fraction) == ("implant", 1.0)
    assert sorted(lines) == sorted(["not json", "{neither", '{"stage": "no fraction"}', "warned \u00e9"])
    assert child.lastErrorLine == "warned \u00e9"


def test_much_output_neither_blocks_the_child_nor_gets_lost(tmp_path):
    child = script(
        tmp_path,
        """
        import sys
        for i in range(40000):
            print("x" * 60, i); print("y" * 60, i, file=sys.stderr)
        """,
    )
    child.start()
    # Not polled until the child has ended: nobody needs to empty anything for it to go on.
    child._process.wait(timeout=120)
    counts = [0, 0]

    def poll():
        for line in child.poll():
            counts[line.startswith("y")] += 1
        return not child.running

    waitFor(poll, "the end")
    assert counts == [40000, 40000]
    assert child.lastErrorLine == "y" * 60 + " 39999"
    assert len(child.log) == 2000


GRANDCHILDREN = """
    import pathlib, subprocess, sys, time
    sleeper = "import time; time.sleep(600)"
    middle = (
        "import pathlib, subprocess, sys, time\\n"
        f"child = subprocess.Popen([sys.executable, '-c', {sleeper!r}])\\n"
        "pathlib.Path(sys.argv[1]).write_text(str(child.pid))\\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", middle, sys.argv[1]])
    pathlib.Path(sys.argv[2]).write_text(str(process.pid))
    time.sleep(600)
"""


@pytest.mark.skipif(os.name == "nt", reason="looks for processes in POSIX's way")
def test_cancel_ends_the_whole_process_tree(tmp_path):
    files = tmp_path / "grandchild", tmp_path / "child"
    child = script(tmp_path, GRANDCHILDREN, *map(str, files))
    child.start()
    waitFor(lambda: all(file.exists() and file.read_text() for file in files), "the start of the tree")
    pids = [child._process.pid, *(int(file.read_text()) for file in files)]
    assert all(map(alive, pids))
    child.cancel()
    assert child.cancelled
    assert not child.running
    waitFor(lambda: not any(map(alive, pids)), "the end of the tree")
    child.cancel()
    assert child.poll() == []


def test_closing_a_run_ends_its_child_and_removes_its_folder(tmp_path):
    path = tmp_path / "sleep.py"
    path.write_text("import time; time.sleep(600)")
    run = CompletionRun(randomMask(34), GRIDS["lps"], CompletionOptions(), [sys.executable, str(path)])
    run.start()
    assert (run.folder / "input.nrrd").is_file()
    if os.name != "nt":
        assert run.folder.stat().st_mode & 0o077 == 0
    run.close()
    assert not run.running
    assert not run.folder.exists()


def test_command_that_cannot_be_started_is_an_error(tmp_path):
    with pytest.raises(SkullVAEError, match="cannot be started"):
        ChildProcess([str(tmp_path / "missing")], tmp_path).start()


# --------------------------------------------------------------------------------------------------------------------
# End to end


@pytest.mark.skipif(librarypath.shippedModel() is None, reason="the shipped model file is missing")
def test_generated_skull_is_completed_by_the_real_command_line(tmp_path):
    sample = tmp_path / "sample.nrrd"
    command = [sys.executable, "-m", "SkullVAELib", "sample", "-o", str(sample)]
    subprocess.run(command, check=True, env={**os.environ, **childEnvironment()})
    volume = read_volume(sample)
    skull = (volume.array != 0).astype(np.uint8)
    node = addSkull(skull, volume.affine, transform=addTransform(rotation(20, (0, 0, 1))))
    before = fingerprint(node)
    logic = SkullVAELogic()
    added = logic.completeSkull(node, "bone", CompletionOptions(device="cpu"))
    assert {key: fingerprint(node)[key] for key in before} == before
    completed = readInput(node, added.completedID).array
    implant = readInput(node, added.implantID).array
    assert np.array_equal(skull | implant, completed)
    assert not np.any(skull & implant)
    assert implant.any()
    segment = node.GetSegmentation().GetSegment(added.implantID)
    assert segmentTag(segment, "SkullVAE.software") == logic.report["software"]


def test_every_test_grid_is_different():
    for first, second in itertools.combinations(GRIDS.values(), 2):
        assert not np.allclose(first, second)


def test_readInput_keeps_the_volumes_voxels_without_copying_them():
    node = addVolume(randomMask(35).astype(np.int16), GRIDS["lps"])
    voxels = readInput(node).array
    assert np.shares_memory(voxels, slicer.util.arrayFromVolume(node))
