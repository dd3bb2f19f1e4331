"""A run of the module's logic: how it goes, how it ends and what it leaves."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import slicer_env

slicer_env.prepare()

import slicer  # noqa: E402
from SkullVAEModule import librarypath  # noqa: E402
from SkullVAEModule.completion import CompletionOptions, childEnvironment  # noqa: E402
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402
from SkullVAEModule.segments import readInput, segmentTag  # noqa: E402
from slicer_scenes import (  # noqa: E402
    GRIDS,
    KnownRun,
    addSkull,
    addTransform,
    addVolume,
    complete,
    exported,
    fingerprint,
    nodeIDs,
    randomMask,
    rotation,
    runWithChild,
)

from SkullVAELib.errors import SkullVAEError  # noqa: E402
from SkullVAELib.volume import read_volume  # noqa: E402


@pytest.fixture(autouse=True)
def scene():
    """An empty scene for each test."""
    return slicer_env.newScene()


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
