"""A run of the module's logic: progress, end, and clean-up."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from SkullVAEModule import librarypath  # noqa: E402
from SkullVAEModule.completion import RunSettings  # noqa: E402
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402
from SkullVAEModule.meshfiles import readPly  # noqa: E402
from SkullVAEModule.meshnodes import meshData  # noqa: E402
from SkullVAEModule.models import ModelStore  # noqa: E402
from SkullVAEModule.remaining import RemainingTime  # noqa: E402
from SkullVAEModule.segments import readInput, segmentTag  # noqa: E402
from slicer_scenes import (  # noqa: E402
    GRIDS,
    KnownRun,
    addSkull,
    addTransform,
    addVolume,
    alive,
    complete,
    exported,
    fingerprint,
    nodeIDs,
    randomMask,
    rotation,
    runWithChild,
    waitFor,
)

from SkullVAELib.core.errors import SkullVAEError  # noqa: E402
from SkullVAELib.io.images import read_volume  # noqa: E402

pytestmark = pytest.mark.usefixtures("scene")


def test_intact_skull_adds_nothing():
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


def test_cancel_does_not_change_the_scene():
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


def test_second_run_during_the_first_is_an_error():
    node = addSkull(randomMask(28), GRIDS["lps"])
    logic = SkullVAELogic(createRun=KnownRun())
    logic.start(node, "bone")
    with pytest.raises(RuntimeError):
        logic.start(node, "bone")


@pytest.mark.parametrize("grid", [GRIDS["lps"], GRIDS["oblique and left-handed"]], ids=["lps", "oblique"])
def test_voxels_are_unchanged_by_the_way_through_the_child_process(tmp_path, grid):
    runs, create = runWithChild(tmp_path, "good")
    mask = randomMask(30)
    node = addSkull(mask, grid)
    logic = SkullVAELogic(createRun=create)
    added = logic.completeSkull(node, "bone", RunSettings(gamma=0.5, device="cpu"))
    implant = np.roll(mask, 1, axis=0) & (1 - mask)
    assert np.array_equal(exported(node, added.implantID, grid), implant)
    assert np.array_equal(exported(node, added.completedID, grid), mask | implant)
    assert runs[0].folder.exists()
    logic.closeSession()
    assert not runs[0].folder.exists()


def test_message_of_the_child_is_shown_unchanged_and_its_folder_is_removed(tmp_path):
    runs, create = runWithChild(tmp_path, "bad")
    node = addSkull(randomMask(31), GRIDS["lps"])
    with pytest.raises(SkullVAEError) as caught:
        SkullVAELogic(createRun=create).completeSkull(node, "bone")
    assert str(caught.value) == "The bone is a single voxel. Segment the skull. Then run again."
    assert not runs[0].folder.exists()


def test_crash_of_the_child_is_reported_with_exit_code_and_last_line(tmp_path):
    runs, create = runWithChild(tmp_path, "crash")
    with pytest.raises(SkullVAEError, match=r"code 1: MemoryError: no room.*cpu"):
        SkullVAELogic(createRun=create).completeSkull(addSkull(randomMask(32), GRIDS["lps"]), "bone")
    assert not runs[0].folder.exists()


def test_exit_code_3_is_not_an_error(tmp_path):
    _, create = runWithChild(tmp_path, "whole")
    assert SkullVAELogic(createRun=create).completeSkull(addSkull(randomMask(33), GRIDS["lps"]), "bone") is None


def test_a_run_is_repeated_on_the_cpu_if_gpu_memory_is_insufficient(tmp_path):
    runs, create = runWithChild(tmp_path, "small_card")
    node = addSkull(randomMask(36), GRIDS["lps"])
    logic = SkullVAELogic(createRun=create)
    added = logic.completeSkull(node, "bone", RunSettings(device="auto"))
    assert added.exists
    assert "repeated on the CPU" in logic.notice
    assert [run._settings.device for run in runs] == ["auto", "cpu"]
    assert not runs[0].folder.exists()
    logic.closeSession()


def test_insufficient_memory_on_the_cpu_is_an_error(tmp_path):
    _, create = runWithChild(tmp_path, "crash")
    logic = SkullVAELogic(createRun=create)
    with pytest.raises(SkullVAEError, match="no room"):
        logic.completeSkull(addSkull(randomMask(36), GRIDS["lps"]), "bone", RunSettings(device="cpu"))
    assert logic.notice == ""


# --------------------------------------------------------------------------------------------------------------------
# Closing the scene, removing the input


def startedRun(tmp_path, mode: str):
    """(logic, run, node) with a running child."""
    runs, create = runWithChild(tmp_path, mode)
    node = addSkull(randomMask(37), GRIDS["lps"])
    logic = SkullVAELogic(createRun=create)
    logic.start(node, "bone")
    waitFor(lambda: logic.poll() and logic.stage == "completing", "the child's first message")
    return logic, runs[0], node


def test_closing_the_scene_ends_a_run(tmp_path):
    logic, run, _ = startedRun(tmp_path, "slow")
    pid = run.child._process.pid
    slicer.mrmlScene.Clear(0)
    assert not logic.running
    assert not alive(pid)
    assert not run.folder.exists()
    assert not logic.poll()


def test_closing_the_scene_ends_a_session(tmp_path):
    runs, create = runWithChild(tmp_path, "good")
    logic = SkullVAELogic(createRun=create)
    logic.completeSkull(addSkull(randomMask(38), GRIDS["lps"]), "bone")
    assert logic.live
    slicer.mrmlScene.Clear(0)
    assert not logic.live
    assert logic.added is None
    assert not runs[0].folder.exists()
    assert not logic.requestGamma(0.5)
    assert not logic.pollResponses()


def test_removed_input_ends_a_run_with_an_error(tmp_path):
    logic, run, node = startedRun(tmp_path, "slow")
    slicer.mrmlScene.RemoveNode(node)
    with pytest.raises(SkullVAEError, match="removed"):
        logic.poll()
    assert not logic.running
    assert not run.folder.exists()


def test_removed_input_ends_a_session_quietly(tmp_path):
    runs, create = runWithChild(tmp_path, "good")
    logic = SkullVAELogic(createRun=create)
    node = addSkull(randomMask(38), GRIDS["lps"])
    logic.completeSkull(node, "bone")
    assert logic.requestGamma(2)
    slicer.mrmlScene.RemoveNode(node)
    assert not logic.pollResponses()
    assert not runs[0].folder.exists()


def test_a_discarded_logic_leaves_neither_child_nor_folder(tmp_path):
    runs, create = runWithChild(tmp_path, "good")
    logic = SkullVAELogic(createRun=create)
    logic.completeSkull(addSkull(randomMask(38), GRIDS["lps"]), "bone")
    folder, pid = runs.pop().folder, logic._session.child._process.pid
    del logic
    gc.collect()
    assert not folder.exists()
    assert not alive(pid)


# --------------------------------------------------------------------------------------------------------------------
# Remaining time


def test_remaining_time_is_estimated_from_the_fraction_done():
    now = [0.0]
    remaining = RemainingTime(clock=lambda: now[0])
    # The time for loading libraries is not used.
    now[0] = 50
    remaining.update(0.1)
    assert remaining.seconds is None
    now[0] = 51
    remaining.update(0.2)
    assert remaining.seconds is None
    now[0] = 60
    remaining.update(0.5)
    assert remaining.seconds == pytest.approx(12.5)
    now[0] = 64
    remaining.update(0.5)
    assert remaining.seconds == pytest.approx(8.5)
    now[0] = 100
    assert remaining.seconds == 0


@pytest.mark.skipif(librarypath.shippedModel() is None, reason="the shipped model file is missing")
def test_generated_skull_is_completed_by_the_real_command_line(tmp_path, sample):
    volume = sample.bone
    skull = volume.array.astype(np.uint8)
    node = addSkull(skull, volume.affine, transform=addTransform(rotation(20, (0, 0, 1))))
    before = fingerprint(node)
    logic = SkullVAELogic()
    added = logic.completeSkull(node, "bone", RunSettings(device="cpu"))
    assert {key: fingerprint(node)[key] for key in before} == before
    completed = readInput(node, added.completedID).array
    implant = readInput(node, added.implantID).array
    assert np.array_equal(skull | implant, completed)
    assert not np.any(skull & implant)
    assert implant.any()
    segment = node.GetSegmentation().GetSegment(added.implantID)
    assert segmentTag(segment, "SkullVAE.software") == logic.report["software"]
    # The bounds of the printable implant are those of the implant's voxels, within a voxel.
    indices = np.argwhere(implant)
    points = indices @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    mesh = meshData(added.implantModelNode.GetPolyData())
    np.testing.assert_allclose(mesh.points.min(0), points.min(0), atol=3)
    np.testing.assert_allclose(mesh.points.max(0), points.max(0), atol=3)
    assert mesh.thickness.max() > 2
    assert 0 < np.median(mesh.uncertainty) < 3

    # Another shape from the session.
    assert logic.requestGamma(0.5)
    assert logic.waitForResponses()
    other = readInput(node, added.implantID).array
    assert not np.array_equal(other, implant)
    assert not np.any(skull & other)
    assert np.array_equal(skull | other, readInput(node, added.completedID).array)
    assert {key: fingerprint(node)[key] for key in before} == before

    done = logic.exportResult(tmp_path / "out", formats=("stl", "ply"))
    assert done.notes == ()
    assert {path.name.partition("_")[2] for path in done.files} == {
        "implant.stl", "implant.ply", "skull.stl", "skull.ply", "completed.nrrd", "implant.nrrd", "report.html"
    }  # fmt: skip
    exportedImplant = read_volume(next(path for path in done.files if path.name.endswith("implant.nrrd")))
    assert np.array_equal(exportedImplant.array, other)
    np.testing.assert_allclose(exportedImplant.affine, rotation(20, (0, 0, 1)) @ volume.affine, atol=1e-3)
    # Without the session, the surfaces are computed from the voxels.
    logic.closeSession()
    again = logic.exportResult(tmp_path / "again", formats=("ply",), labelmaps=False, report=False)
    first, second = (
        readPly(next(path for path in files if path.name.endswith("skull.ply"))) for files in (done.files, again.files)
    )
    np.testing.assert_allclose(first.points.min(0), second.points.min(0), atol=1.5)
    np.testing.assert_allclose(first.points.max(0), second.points.max(0), atol=1.5)


@pytest.mark.skipif(librarypath.shippedModel() is None, reason="the shipped model file is missing")
def test_real_library_checks_models_and_reports_on_the_installation(tmp_path):
    store = ModelStore(tmp_path / "models")
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(librarypath.shippedModel().read_bytes())
    # The same file as the shipped one: nothing to add.
    assert store.add(copy).shipped
    other = tmp_path / "other.safetensors"
    save_file({"weights": np.zeros(3, np.float32)}, other)
    with pytest.raises(SkullVAEError):
        store.add(other)
    assert not store.folder.exists()
    renamed = tmp_path / "renamed.safetensors"
    content = copy.read_bytes()
    length = int.from_bytes(content[:8], "little")
    # The same tensors with additional spaces in the header: a different file with the same model.
    renamed.write_bytes((length + 8).to_bytes(8, "little") + content[8 : 8 + length] + b" " * 8 + content[8 + length :])
    entry = store.add(renamed)
    assert (entry.name, entry.shipped) == ("renamed", False)
    text = SkullVAELogic().checkInstallation().wait()
    assert "torch" in text
    assert store.list()[0].sha256 in text


def test_every_test_grid_is_different():
    for first, second in itertools.combinations(GRIDS.values(), 2):
        assert not np.allclose(first, second)


def test_readInput_keeps_the_volumes_voxels_without_copying_them():
    node = addVolume(randomMask(35).astype(np.int16), GRIDS["lps"])
    voxels = readInput(node).array
    assert np.shares_memory(voxels, slicer.util.arrayFromVolume(node))
