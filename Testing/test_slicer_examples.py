"""The examples of the documentation, run unchanged."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import slicer_standin

from SkullVAELib.io.images import read_volume, write_volume

EXAMPLE = Path(__file__).resolve().parent.parent / "Docs" / "examples" / "complete_folder.py"


@pytest.fixture
def slicerRunning():
    slicer_standin.prepare()
    slicer_standin.newScene()
    slicer_standin.moduleRecord()


def test_a_folder_is_completed_and_failures_are_listed(slicerRunning, sample, tmp_path, capsys):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    bone = sample.bone.with_array(sample.bone.array.astype(np.uint8))
    write_volume(bone, source / "head.nrrd")
    write_volume(bone.with_array(np.zeros_like(bone.array)), source / "nothing.nrrd")
    (source / "notes.txt").write_text("no image", encoding="utf-8")
    example = runpy.run_path(str(EXAMPLE))
    assert example["main"]([str(source), str(output)]) == 1
    output_text = capsys.readouterr().out
    assert "head.nrrd: implant of" in output_text
    assert "nothing.nrrd: " in output_text and "empty" in output_text
    assert "Traceback" not in output_text
    assert len(output_text.splitlines()) == 2
    implant = read_volume(output / "head_implant.nrrd")
    assert implant.array.shape == bone.array.shape
    assert not np.any((implant.array != 0) & sample.bone.array)
    assert (output / "head_implant.stl").stat().st_size > 1000


def test_wrong_arguments_are_reported_in_one_line(slicerRunning, capsys):
    assert runpy.run_path(str(EXAMPLE))["main"](["one"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
