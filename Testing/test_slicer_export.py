"""Exported files are in world coordinates, are named after the input and never overwrite existing files."""

from __future__ import annotations

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
import vtk  # noqa: E402
from SkullVAEModule.export import ExportRun  # noqa: E402
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402
from SkullVAEModule.masks import Mask  # noqa: E402
from SkullVAEModule.meshfiles import MeshData, readPly, readStl, writeMesh  # noqa: E402
from SkullVAEModule.results import changeResult  # noqa: E402
from SkullVAEModule.segments import readInput  # noqa: E402
from slicer_scenes import (  # noqa: E402
    BINARY,
    GRIDS,
    SHAPE,
    addSkull,
    addTransform,
    addVolume,
    alive,
    childCommand,
    complete,
    orientedImage,
    randomMask,
    rotation,
    runWithChild,
    tetrahedron,
    waitFor,
)
from vtk.util.numpy_support import vtk_to_numpy  # noqa: E402

from SkullVAELib.core.errors import SkullVAEError  # noqa: E402
from SkullVAELib.io.images import read_volume  # noqa: E402

OBLIQUE = GRIDS["oblique and left-handed"]
MOVED = rotation(35, (1, 0.5, 0)) + np.outer([12.5, -4, 7, 0], [0, 0, 0, 1])


pytestmark = pytest.mark.usefixtures("scene")


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def voxelBox(mask: np.ndarray, ijkToRAS: np.ndarray) -> np.ndarray:
    """The corners of the bounding box of the voxels' centres, which the child of these tests writes as its mesh."""
    found = np.argwhere(mask)
    low, high = found.min(0), found.max(0)
    corners = np.array([[(low, high)[i >> axis & 1][axis] for axis in range(3)] for i in range(8)])
    return moved(corners, ijkToRAS)


def sortedPoints(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, float)
    return points[np.lexsort(points.round(2).T)]


def assertSamePoints(points: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(sortedPoints(points), sortedPoints(expected), atol=1e-3)


def editImplant(node, added) -> np.ndarray:
    """Erase half of the implant, as the Segment Editor does; the remaining voxels, on the whole grid."""
    image = slicer.vtkOrientedImageData()
    image.DeepCopy(node.GetSegmentation().GetSegment(added.implantID).GetRepresentation(BINARY))
    voxels = vtk_to_numpy(image.GetPointData().GetScalars())
    voxels[: len(voxels) // 2] = 0
    node.GetSegmentation().GetSegment(added.implantID).AddRepresentation(BINARY, image)
    extent = image.GetExtent()
    whole = np.zeros(SHAPE, np.uint8)
    whole[tuple(slice(extent[2 * axis], extent[2 * axis + 1] + 1) for axis in range(3))] = voxels.reshape(
        image.GetDimensions()[::-1]
    ).transpose(2, 1, 0)
    return whole


def export(tmp_path, node, **options):
    """Export the result of "bone" into tmp_path/out with the tests' child."""
    logic = SkullVAELogic(command=childCommand(tmp_path, options.pop("mode", "good")))
    segmentID = "" if node.IsA("vtkMRMLScalarVolumeNode") else "bone"
    return logic.exportResult(tmp_path / "out", inputNode=node, segmentID=segmentID, **options)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --------------------------------------------------------------------------------------------------------------------
# Coordinates


@pytest.mark.parametrize("transformed", [False, True])
@pytest.mark.parametrize("isCT", [False, True], ids=["segment", "CT"])
def test_files_are_in_world_coordinates(tmp_path, transformed, isCT):
    transform = addTransform(MOVED) if transformed else None
    world = MOVED if transformed else np.eye(4)
    if isCT:
        voxels = np.random.default_rng(3).integers(-1000, 2000, SHAPE).astype(np.int16)
        node = addVolume(voxels, OBLIQUE, transform=transform)
    else:
        node = addSkull(randomMask(60), OBLIQUE, transform=transform)
    run, _ = complete(node, "" if isCT else "bone", meshes=True)
    done = export(tmp_path, node, formats=("stl", "ply"), report=False)
    assert done.implantFrom == "model"
    stem = node.GetName()
    out = tmp_path / "out"
    assert [path.name for path in done.files] == [
        f"{stem}_{name}"
        for name in ("implant.stl", "implant.ply", "skull.stl", "skull.ply", "completed.nrrd", "implant.nrrd")
    ]
    assert names(out) == sorted(path.name for path in done.files)
    implant = moved(tetrahedron(7).points, world)
    assertSamePoints(readStl(out / f"{stem}_implant.stl").points, implant)
    ply = readPly(out / f"{stem}_implant.ply")
    np.testing.assert_allclose(ply.points, implant, atol=1e-3)
    np.testing.assert_allclose(ply.thickness, tetrahedron(7).thickness)
    np.testing.assert_allclose(ply.uncertainty, tetrahedron(7).uncertainty)
    skull = (run.completed > 0) & (run.implant == 0)
    assertSamePoints(readPly(out / f"{stem}_skull.ply").points, voxelBox(skull, world @ OBLIQUE))
    for role, expected in (("completed", run.completed), ("implant", run.implant)):
        volume = read_volume(out / f"{stem}_{role}.nrrd")
        assert np.array_equal(volume.array, expected)
        np.testing.assert_allclose(volume.affine, world @ OBLIQUE, atol=1e-4)


def test_slicer_itself_loads_the_meshes_where_the_scene_has_them(tmp_path):
    node = addSkull(randomMask(61), OBLIQUE, transform=addTransform(MOVED))
    _, added = complete(node, meshes=True)
    export(tmp_path, node, formats=("stl", "obj", "ply"), skull=False, labelmaps=False, report=False)
    inScene = moved(vtk_to_numpy(added.implantModelNode.GetPolyData().GetPoints().GetData()), MOVED)
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelStorageNode")
    for suffix in ("stl", "obj", "ply"):
        loaded = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode")
        storage.SetFileName(str(tmp_path / "out" / f"Head_implant.{suffix}"))
        assert storage.ReadData(loaded)
        assertSamePoints(np.unique(vtk_to_numpy(loaded.GetPolyData().GetPoints().GetData()), axis=0), inScene)


def test_mirroring_transform_keeps_the_faces_outside(tmp_path):
    node = addSkull(randomMask(62), OBLIQUE, transform=addTransform(np.diag([-1.0, 1, 1, 1])))
    complete(node, meshes=True)
    export(tmp_path, node, skull=False, labelmaps=False, report=False)
    reader = vtk.vtkSTLReader()
    reader.SetFileName(str(tmp_path / "out" / "Head_implant.stl"))
    reader.Update()
    mesh = readStl(tmp_path / "out" / "Head_implant.stl")
    corners = mesh.points.astype(float)[mesh.faces]
    assert np.einsum("ni,ni->n", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() > 0


def test_labelmaps_under_a_shear_stay_in_their_own_coordinates_and_a_note_reports_it(tmp_path):
    shear = np.eye(4)
    shear[0, 1] = 0.3
    node = addSkull(randomMask(63), OBLIQUE, transform=addTransform(shear))
    complete(node, meshes=True)
    done = export(tmp_path, node, skull=False, report=False)
    assert any("not rigid" in note for note in done.notes)
    np.testing.assert_allclose(read_volume(tmp_path / "out" / "Head_implant.nrrd").affine, OBLIQUE, atol=1e-4)
    implant = moved(tetrahedron(7).points, shear)
    assertSamePoints(readStl(tmp_path / "out" / "Head_implant.stl").points, implant)


# --------------------------------------------------------------------------------------------------------------------
# Edited by hand


def test_edited_implant_is_meshed_from_its_voxels_and_a_note_reports_it(tmp_path):
    node = addSkull(randomMask(64), OBLIQUE, transform=addTransform(MOVED))
    run, added = complete(node, meshes=True)
    left = editImplant(node, added)
    assert 0 < left.sum() < run.implant.sum()
    done = export(tmp_path, node, formats=("ply",), report=False)
    assert done.implantFrom == "segment"
    assert any("edited" in note for note in done.notes)
    assertSamePoints(readPly(tmp_path / "out" / "Head_implant.ply").points, voxelBox(left, MOVED @ OBLIQUE))
    assert np.array_equal(read_volume(tmp_path / "out" / "Head_implant.nrrd").array, left)


def test_implant_edited_on_another_grid_is_resampled_to_the_inputs(tmp_path):
    node = addSkull(randomMask(65), OBLIQUE)
    run, added = complete(node, meshes=True)
    # Half the spacing: each voxel becomes eight.
    fine = OBLIQUE @ np.diag([0.5, 0.5, 0.5, 1])
    fine[:3, 3] = (OBLIQUE @ [-0.25, -0.25, -0.25, 1])[:3]
    image = orientedImage(run.implant.repeat(2, 0).repeat(2, 1).repeat(2, 2), fine)
    node.GetSegmentation().GetSegment(added.implantID).AddRepresentation(BINARY, image)
    export(tmp_path, node, skull=False, report=False)
    assert np.array_equal(read_volume(tmp_path / "out" / "Head_implant.nrrd").array, run.implant)


def test_result_without_meshes_is_meshed_from_its_voxels(tmp_path):
    node = addSkull(randomMask(66), OBLIQUE)
    run, _ = complete(node)
    done = export(tmp_path, node, formats=("ply",), skull=False, labelmaps=False, report=False)
    assert done.implantFrom == "segment"
    assertSamePoints(readPly(done.files[0]).points, voxelBox(run.implant, OBLIQUE))


# --------------------------------------------------------------------------------------------------------------------
# Names


def test_implants_of_several_defects_are_exported_each_by_itself_too(tmp_path):
    node = addSkull(randomMask(74), GRIDS["lps"])
    _, added = complete(node, meshes=True)
    first = tetrahedron(7)
    # The second has two faces more.
    middle = first.points.mean(0)
    more = [[0, 2, 4], [2, 1, 4], [1, 0, 4]]
    faces = np.concatenate([first.faces[1:], more]) + len(first.points)
    points = np.concatenate([first.points, first.points + 100, [middle + 100]])
    both = MeshData(points, np.concatenate([first.faces, faces]), np.arange(len(points), dtype=float))
    changeResult(added, readInput(node, "bone"), {}, printableImplant=both)
    result = export(tmp_path, node, formats=("ply",), skull=False, labelmaps=False, report=False)
    assert [file.name.partition("_")[2] for file in result.files] == ["implant.ply", "implant_1.ply", "implant_2.ply"]
    large, small = (readPly(file) for file in result.files[1:])
    assert (len(large.faces), len(small.faces)) == (len(first.faces) + 2, len(first.faces))
    assert np.array_equal(small.thickness, np.arange(len(first.points)))


def test_nothing_is_overwritten(tmp_path):
    node = addSkull(randomMask(67), OBLIQUE)
    complete(node, meshes=True)
    out = tmp_path / "out"
    out.mkdir()
    (out / "Head_implant.nrrd").write_text("the user's", encoding="utf-8")
    for stem in ("Head-2", "Head-3"):
        done = export(tmp_path, node, report=False)
        assert all(path.name.startswith(f"{stem}_") for path in done.files)
    assert (out / "Head_implant.nrrd").read_text(encoding="utf-8") == "the user's"
    assert len(names(out)) == 9


def test_name_of_the_input_becomes_a_file_name(tmp_path):
    node = addSkull(randomMask(68), OBLIQUE)
    node.SetName("../Ward 7: skull?")
    complete(node, meshes=True)
    done = export(tmp_path, node, skull=False, labelmaps=False, report=False)
    assert [path.name for path in done.files] == ["Ward 7_ skull_implant.stl"]
    assert done.files[0].parent == tmp_path / "out"


# --------------------------------------------------------------------------------------------------------------------
# With the session


def test_report_and_skull_come_from_the_live_session(tmp_path):
    _, create = runWithChild(tmp_path, "good")
    transform = addTransform(MOVED)
    node = addSkull(randomMask(69), OBLIQUE, transform=transform)
    logic = SkullVAELogic(createRun=create, command=childCommand(tmp_path, "good"))
    logic.completeSkull(node, "bone")
    done = logic.exportResult(tmp_path / "out")
    assert (tmp_path / "out" / "Head_report.html").read_text(encoding="utf-8") == "<p>newer report</p>"
    expected = np.array([[0, 0, 0], [10, 0, 0], [0, 20, 0], [0, 0, 77]], float)
    assertSamePoints(readStl(tmp_path / "out" / "Head_skull.stl").points, moved(expected, MOVED))
    assert done.notes == ()
    # The session continues.
    assert logic.requestGamma(1)
    logic.closeSession()
    done = logic.exportResult(tmp_path / "out")
    assert [path.name for path in done.files] == [
        f"Head-2_{name}" for name in ("implant.stl", "skull.stl", "completed.nrrd", "implant.nrrd")
    ]
    assert any("report was not exported" in note for note in done.notes)


def test_export_waits_for_the_printable_implant_that_was_requested(tmp_path):
    _, create = runWithChild(tmp_path, "good")
    node = addSkull(randomMask(74), OBLIQUE)
    logic = SkullVAELogic(createRun=create, command=childCommand(tmp_path, "good"))
    logic.completeSkull(node, "bone")
    assert logic.requestGamma(3)
    with pytest.raises(SkullVAEError, match="still being updated"):
        logic.startExport(tmp_path / "out")
    done = logic.exportResult(tmp_path / "out", skull=False, labelmaps=False, report=False)
    assert done.implantFrom == "model"
    assert readStl(done.files[0]).points[:, 2].max() == 33
    logic.closeSession()


def test_printable_implant_of_another_shape_is_not_exported(tmp_path):
    """For example if the child ends between the voxels and the mesh of a response."""
    _, create = runWithChild(tmp_path, "good")
    node = addSkull(randomMask(75), OBLIQUE)
    logic = SkullVAELogic(createRun=create, command=childCommand(tmp_path, "good"))
    added = logic.completeSkull(node, "bone")
    implant = np.roll(randomMask(75), 2, axis=0) & (1 - randomMask(75))
    changeResult(added, logic._source, logic.report, implant=Mask.of(implant))
    done = logic.exportResult(tmp_path / "out", formats=("ply",), skull=False, labelmaps=False, report=False)
    assert done.implantFrom == "segment"
    assertSamePoints(readPly(done.files[0]).points, voxelBox(implant, OBLIQUE))
    logic.closeSession()


def test_warped_result_is_exported_where_slicer_shows_it(tmp_path):
    warp = vtk.vtkThinPlateSplineTransform()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for index, point in enumerate(np.random.default_rng(5).uniform(-60, 60, (8, 3))):
        source.InsertNextPoint(point)
        target.InsertNextPoint(point + np.array([index, -index, 3]))
    warp.SetSourceLandmarks(source)
    warp.SetTargetLandmarks(target)
    warp.SetBasisToR()
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    transform.SetAndObserveTransformToParent(warp)
    node = addSkull(randomMask(76), OBLIQUE, transform=transform)
    complete(node, meshes=True)
    done = export(tmp_path, node, skull=False, report=False)
    expected = [warp.TransformPoint(point) for point in tetrahedron(7).points.astype(float)]
    assertSamePoints(readStl(done.files[0]).points, np.array(expected))
    np.testing.assert_allclose(read_volume(done.files[-1]).affine, OBLIQUE, atol=1e-4)
    assert any("not rigid" in note for note in done.notes)


# --------------------------------------------------------------------------------------------------------------------
# Errors


def test_mesh_that_cannot_be_made_leaves_the_folder_as_it_was(tmp_path):
    node = addSkull(randomMask(70), OBLIQUE)
    complete(node, meshes=True)
    with pytest.raises(SkullVAEError, match=r"^The disk is full\. Free some space\.$"):
        export(tmp_path, node, mode="bad_mesh", report=False)
    assert names(tmp_path / "out") == []


def test_cancel_ends_the_child_and_leaves_the_folder_as_it_was(tmp_path):
    node = addSkull(randomMask(71), OBLIQUE)
    complete(node, meshes=True)
    run = SkullVAELogic(command=childCommand(tmp_path, "slow_mesh")).startExport(
        tmp_path / "out", inputNode=node, segmentID="bone"
    )
    waitFor(lambda: run.poll() or getattr(run._current, "stage", "") == "surface", "the child's first message")
    pid = run._current._process.pid
    assert run.running
    run.cancel()
    assert not run.running
    assert run.cancelled
    assert not alive(pid)
    assert names(tmp_path / "out") == []
    with pytest.raises(SkullVAEError, match="cancelled"):
        run.result()


def test_export_without_a_result_is_an_error(tmp_path):
    node = addSkull(randomMask(72), OBLIQUE)
    with pytest.raises(SkullVAEError, match="no result"):
        export(tmp_path, node)
    assert not (tmp_path / "out").exists()
    _, added = complete(node)
    with pytest.raises(SkullVAEError, match="format 'step'"):
        ExportRun(added, node, "bone", tmp_path, formats=("step",))
    node.GetSegmentation().RemoveSegment(added.implantID)
    with pytest.raises(SkullVAEError, match="no longer"):
        ExportRun(added, node, "bone", tmp_path).start()


def test_folder_that_cannot_be_made_is_an_error(tmp_path):
    node = addSkull(randomMask(73), OBLIQUE)
    complete(node)
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    with pytest.raises(SkullVAEError, match="cannot be written to"):
        export(tmp_path, node)


@pytest.mark.parametrize("content", [b"", b"solid x\n", b"ply\nformat ascii 1.0\nend_header\n", b"ply\n" * 40])
def test_damaged_mesh_is_an_error(tmp_path, content):
    for name, read in (("a.ply", readPly), ("a.stl", readStl)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SkullVAEError, match=name):
            read(tmp_path / name)
    whole = tmp_path / "b.ply"
    writeMesh(tetrahedron(1), whole)
    (tmp_path / "a.ply").write_bytes(whole.read_bytes()[:-3])
    with pytest.raises(SkullVAEError, match=r"a\.ply"):
        readPly(tmp_path / "a.ply")


def test_mesh_files_come_back_as_they_were_written(tmp_path):
    mesh = tetrahedron(5)
    writeMesh(mesh, tmp_path / "a.ply")
    back = readPly(tmp_path / "a.ply")
    np.testing.assert_allclose(back.points, mesh.points)
    np.testing.assert_allclose(back.thickness, mesh.thickness)
    turned = MeshData(mesh.points, mesh.faces[:, ::-1])
    for written in (mesh, turned):
        writeMesh(written, tmp_path / "a.stl")
        stl = readStl(tmp_path / "a.stl")
        assertSamePoints(stl.points, mesh.points)
        assert stl.points[stl.faces].shape == (4, 3, 3)
