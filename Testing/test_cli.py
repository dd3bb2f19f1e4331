"""Claims about the command line: its exit codes, its one line on stderr, its progress, its whole-or-nothing results.

The completion itself is a stand-in of a few lines here, so that each way to fail can be had at will.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import SkullVAELib
from SkullVAELib.checks.limits import LIMITS
from SkullVAELib.cli import main as cli
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import read_volume, write_volume
from SkullVAELib.report import result_names
from SkullVAELib.report.rating import Ratings

RESULTS = set(result_names.RESULT_FILES)


def skull() -> np.ndarray:
    i, j, k = np.ogrid[:24, :26, :28]
    radius = np.sqrt((i - 12) ** 2 + (j - 13) ** 2 + (k - 14) ** 2)
    return (radius < 11) & (radius > 8)


def hole() -> np.ndarray:
    box = np.zeros(skull().shape, bool)
    box[8:16, 9:17, 20:] = True
    return skull() & box


@pytest.fixture
def head(tmp_path) -> Path:
    path = tmp_path / "head.nrrd"
    write_volume(Volume((skull() & ~hole()).astype(np.uint8), np.diag([-1.0, 1.5, 2, 1])), path)
    return path


def stand_in(complete) -> types.ModuleType:
    module = types.ModuleType("SkullVAELib.completion.pipeline")
    module.STAGE_WEIGHTS = {"register": 1.0, "decode": 2.0}
    module.complete = complete
    return module


def fill_the_hole(volume, model, options, stages, *beside):
    with stages.stage("register"):
        bone = volume.array != 0
    with stages.stage("decode"):
        implant = hole()
    return types.SimpleNamespace(
        bone=volume.with_array(bone),
        completed=volume.with_array(bone | implant),
        implant=volume.with_array(implant),
        found=True,
        proposal=None,
        patient=None,
        implant_whole=None,
        uncertainty=None,
        report={
            "bone": {"kind": "labelmap", "threshold_hu": None},
            "volume_ml": np.float64(1.5),
            "rim_gap_mm": float("nan"),
            "warnings": ["thin"],
            "options": vars(options),
        },
    )


def find_nothing(volume, model, options, stages, *beside):
    bone = volume.with_array(volume.array != 0)
    nothing = volume.with_array(np.zeros_like(bone.array))
    return types.SimpleNamespace(bone=bone, completed=bone, implant=nothing, found=False, patient=None, report={})


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Run the command line in this process with a completion of one's own; returns exit code, stdout and stderr."""
    import SkullVAELib.vae.checkpoint
    import SkullVAELib.vae.default_model

    (tmp_path / "m.safetensors").write_bytes(b"")
    monkeypatch.setattr(SkullVAELib.vae.checkpoint, "load_model", lambda path, device: None)
    monkeypatch.setattr(SkullVAELib.vae.default_model, "default_model_path", lambda: tmp_path / "m.safetensors")

    def call(*arguments, complete=fill_the_hole):
        monkeypatch.setitem(sys.modules, "SkullVAELib.completion.pipeline", stand_in(complete))
        capfd.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return call


def test_done_writes_all_files_on_the_grid_of_the_input(run, head, tmp_path):
    code, _, err = run("complete", head, "-o", tmp_path / "out")
    assert code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS
    given = sitk.ReadImage(str(head))
    for name in ("completed.nrrd", "implant.nrrd"):
        image = sitk.ReadImage(str(tmp_path / "out" / name))
        assert image.GetPixelIDTypeAsString() == "8-bit unsigned integer"
        for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert np.allclose(getattr(image, what)(), getattr(given, what)())
    assert np.array_equal(read_volume(tmp_path / "out" / "implant.nrrd").array, hole())
    assert (tmp_path / "out" / "preview.png").read_bytes().startswith(b"\x89PNG")
    assert "Warning: thin" in err
    assert "not for clinical use" in err
    ratings = Ratings.of(json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")))
    assert sum(ratings.counts.values()) == len(LIMITS)
    assert f"Overall rating: {ratings.overall}. Of the rated figures, {ratings.text}." in err


def test_the_report_is_strict_json_with_seconds_and_disclaimer(run, head, tmp_path):
    run(
        "complete",
        head,
        "-o",
        tmp_path / "out",
        "--gamma",
        "0.5",
        "--prior",
        "dev",
        "--defect",
        "facial",
        "--device",
        "cpu",
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert report["found"] is True
    assert report["volume_ml"] == 1.5
    assert report["rim_gap_mm"] is None
    chosen = {"gamma": 0.5, "prior": "dev", "defect_class": "facial", "device": "cpu", "face": True}
    expected = {"threshold_hu": None, "roi": None, **chosen, "least_quality": 0.15}
    assert {name: report["options"][name] for name in expected} == expected
    assert {"read", "load model", "register", "decode", "mesh", "write", "preview", "total"} <= set(report["seconds"])
    assert set(report["files"]) == RESULTS
    assert SkullVAELib.__version__ in report["software"]
    assert "not for clinical use" in report["disclaimer"]


def test_no_defect_is_exit_3_without_a_mesh_even_where_one_was(run, head, tmp_path):
    assert run("complete", head, "-o", tmp_path / "out")[0] == 0
    code, _, err = run("complete", head, "-o", tmp_path / "out", complete=find_nothing)
    assert code == 3
    assert "No defect was found" in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS - {"implant.stl"}
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert "implant.stl" not in report["files"]
    assert any("implant.stl" in warning for warning in report["warnings"])
    assert not read_volume(tmp_path / "out" / "implant.nrrd").array.any()
    assert np.array_equal(read_volume(tmp_path / "out" / "completed.nrrd").array, read_volume(head).array)


def test_a_bar_ends_its_line_before_an_error_is_said(run, head, tmp_path):
    def fail(*_):
        raise SkullVAEError("Too small", "Take another")

    code, out, err = run("complete", head, "-o", tmp_path / "out", "--progress", "bar", complete=fail)
    assert code == 2
    assert out == ""
    assert err.splitlines()[-1] == "Too small. Take another."


class OutOfMemoryError(RuntimeError):
    """What torch raises when the graphics card is full, by name."""


FAILURES = {
    "ours": (SkullVAEError("Odd\nfile", "Mend it"), "Odd file. Mend it."),
    "memory": (MemoryError(), "not enough memory"),
    "torch memory": (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 GB"), "not enough memory"),
    "graphics memory": (OutOfMemoryError("CUDA out of memory"), "--device cpu"),
    "disk": (OSError(28, "No space left on device", "x"), "disk is full"),
    "permission": (PermissionError(13, "Permission denied", "/x"), "Permission denied"),
    "package": (ModuleNotFoundError("No module named 'nibabel'", name="nibabel"), "pip install nibabel"),
    "a mistake of ours": (KeyError("z"), "SKULLVAE_DEBUG=1"),
    "an assertion with many lines": (AssertionError("a\nb\nc"), "Unexpected AssertionError: a b c"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_is_one_line_exit_2_and_no_file(run, head, tmp_path, failure, monkeypatch):
    monkeypatch.delenv("SKULLVAE_DEBUG", raising=False)
    error, expected = FAILURES[failure]

    def fail(*_):
        raise error

    code, out, err = run("complete", head, "-o", tmp_path / "out", complete=fail)
    assert code == 2
    assert expected in err
    assert len(err.splitlines()) == 1
    assert out == ""
    assert not (tmp_path / "out").exists()


BAD_PARTS = (
    ("--clearance", "-1"),
    ("--clearance", "near"),
    ("--thickness", "thin"),
    ("--thickness", "constant"),
    ("--thickness", "constant:thick"),
    ("--under-contour", "nan"),
    ("--holes", "2,10"),
    ("--holes", "5,5,1"),
    ("--split", "3"),
    ("--format", "stp"),
)


@pytest.mark.parametrize("wish", BAD_PARTS, ids=" ".join)
def test_a_part_that_makes_no_sense_is_exit_2_one_line_and_no_file(run, head, tmp_path, wish):
    code, out, err = run("complete", head, "-o", tmp_path / "out", *wish)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_meshes_of_an_earlier_run_do_not_stay_as_if_they_belonged_to_this_one(run, head, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("implant_1.stl", "implant_12.obj", "implant.ply", "skull.stl", "implant_mine.stl"):
        (tmp_path / "out" / name).write_text("earlier", encoding="utf-8")
    assert run("complete", head, "-o", tmp_path / "out")[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS | {"implant_mine.stl"}


def test_further_formats_are_written_where_asked_for(run, head, tmp_path):
    assert run("complete", head, "-o", tmp_path / "out", "--format", "OBJ,ply", "--host")[0] == 0
    extras = {"implant.obj", "implant.ply", "skull.stl"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS | extras
    assert set(json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["files"]) == RESULTS | extras


def test_the_traceback_shows_only_when_asked_for(run, head, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyError("z")

    monkeypatch.setenv("SKULLVAE_DEBUG", "1")
    assert "Traceback" in run("complete", head, "-o", tmp_path / "out", complete=fail)[2]


# "DIR" stands for the test's folder.
HEAD, OUT = "DIR/head.nrrd", ("-o", "DIR/out")
BAD_CALLS = {
    "nothing": ([], "required"),
    "unknown command": (["repair"], "invalid choice"),
    "no output": (["complete", HEAD], "-o/--output"),
    "unknown option": (["complete", HEAD, *OUT, "--fast"], "--fast"),
    "threshold that is no number": (["complete", HEAD, *OUT, "--threshold", "bone"], "--threshold"),
    "threshold NaN": (["complete", HEAD, *OUT, "--threshold", "nan"], "--threshold"),
    "gamma infinite": (["complete", HEAD, *OUT, "--gamma", "inf"], "--gamma"),
    "unknown prior": (["complete", HEAD, *OUT, "--prior", "best"], "--prior"),
    "half a box": (["complete", HEAD, *OUT, "--box", "-1,2,3"], "neither 6 numbers nor 15"),
    "six proposals": (["complete", HEAD, *OUT, "--proposals", "6"], "--proposals"),
    "mesh of a missing labelmap": (["mesh", "DIR/none.nrrd", "-o", "DIR/m.stl"], "does not exist"),
    "mesh of another kind": (["mesh", HEAD, "-o", "DIR/m.step"], ".stl, .obj, .ply"),
    "mesh into a missing folder": (["mesh", HEAD, "-o", "DIR/none/m.stl"], "does not exist"),
    "missing input": (["complete", "DIR/none.nrrd", *OUT], "does not exist"),
    "folder as input": (["complete", "DIR", *OUT], "holds no DICOM files"),
    "not an image": (["complete", "DIR/text.nrrd", *OUT], "cannot be read"),
    "missing model": (["complete", HEAD, *OUT, "--model", "DIR/none.safetensors"], "model file"),
    "output is a file": (["complete", HEAD, "-o", "DIR/file"], "not a folder"),
    "output would overwrite input": (["complete", "DIR/same/implant.nrrd", "-o", "DIR/same"], "overwrite the input"),
    "population without a source": (["population", *OUT], "--from"),
    "population without an output": (["population", "--from", "DIR"], "--output"),
    "population of a missing folder": (["population", "--from", "DIR/none", *OUT], "does not exist"),
    "population of no skulls": (["population", "--from", "DIR/empty", *OUT], "No skulls were found"),
    "population of one individual": (["population", "--from", "DIR/same", *OUT], "one individual, 'implant'"),
    "population of a text": (["population", "--from", "DIR", "--holdout", "head", *OUT], "text.nrrd"),
    "population without a stranger": (
        ["population", "--from", "DIR", "--holdout", "eve", *OUT],
        "individual 'eve'",
    ),
    "population without all": (
        ["population", "--from", "DIR", "--holdout", "head, text", *OUT],
        "Every individual",
    ),
    "population of none": (["population", "--from", "DIR", "--count", "0", *OUT], "--count 0"),
    "population less than none": (["population", "--from", "DIR", "--count", "-3", *OUT], "--count"),
    "population with none held out": (
        ["population", "--from", "DIR", "--held-out-count", "0", *OUT],
        "--held-out-count",
    ),
    "population with a spacing of zero": (["population", "--from", "DIR", "--spacing", "0", *OUT], "spacing of 0 mm"),
    "population over other files": (["population", "--from", "DIR", "-o", "DIR/same"], "holds other files"),
    "missing truth": (["evaluate", "--truth", "DIR/none", "--prediction", "DIR"], "is not a folder"),
}


@pytest.mark.parametrize("call", BAD_CALLS)
def test_a_bad_call_is_one_line_and_exit_2(run, head, tmp_path, call):
    (tmp_path / "text.nrrd").write_text("not an image", encoding="utf-8")
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "same").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "same" / "implant.nrrd").write_bytes(head.read_bytes())
    arguments, expected = BAD_CALLS[call]
    arguments = [argument.replace("DIR", str(tmp_path)) for argument in arguments]
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*arguments)
    assert code == 2
    assert expected in err
    assert len(err.splitlines()) == 1
    assert out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_model_is_exit_2(head, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "SkullVAELib.completion.pipeline", stand_in(fill_the_hole))
    (tmp_path / "bad.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    code = cli.main(["complete", str(head), "-o", str(tmp_path / "out"), "--model", str(tmp_path / "bad.safetensors")])
    assert code == 2
    assert "bad.safetensors" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_population_says_what_it_drew_and_from_whom(run, head, tmp_path, monkeypatch):
    from SkullVAELib.data import skullfix_like as skullset

    def write_set(source, output, options, report):
        report("draw", 0.5)
        return {"split": {"training": ["ada", "ben"], "held-out": ["cyd"]}, "skulls": options.counts()}

    monkeypatch.setattr(skullset, "write_set", write_set)
    code, out, err = run("population", "--from", tmp_path, "--count", "7", "-o", tmp_path / "set")
    assert code == 0
    assert out == ""
    assert "7 training skulls, each complete and with two defects, from ada, ben." in err
    assert "1 held-out skulls, each complete and with two defects, from cyd." in err
    assert "not for clinical use" in err


def test_evaluate_prints_a_table_and_writes_json(run, tmp_path):
    for folder in ("truth", "prediction"):
        (tmp_path / folder).mkdir()
        write_volume(Volume(hole(), np.eye(4)), tmp_path / folder / "007.nrrd")
    where = ["--truth", tmp_path / "truth", "--prediction", tmp_path / "prediction"]
    code, out, err = run("evaluate", *where, "--json", tmp_path / "scores.json")
    assert code == 0
    assert err == ""
    assert "007" in out
    assert "1.000" in out
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert scores["mean"]["dsc"] == 1
    assert json.loads(run("evaluate", *where, "--json")[1]) == scores


CHILD = """
    import os, sys, time, types
    from pathlib import Path
    from SkullVAELib.cli import main as cli
    from SkullVAELib.vae import device
    device.resolve_device = lambda name: name  # torch would take seconds to import
    checkpoint = types.ModuleType("SkullVAELib.vae.checkpoint")
    checkpoint.load_model = lambda path, device: None
    sys.modules["SkullVAELib.vae.checkpoint"] = checkpoint
    default_model = types.ModuleType("SkullVAELib.vae.default_model")
    default_model.default_model_path = lambda: Path("m")
    default_model.included_file = lambda name: Path("m") / name
    sys.modules["SkullVAELib.vae.default_model"] = default_model
    def pause(seconds):  # in short sleeps: a signal that arrives just before one does not end it
        for _ in range(10 * seconds):
            time.sleep(0.1)
    module = types.ModuleType("SkullVAELib.completion.pipeline")
    module.STAGE_WEIGHTS = {"wait": 1.0}
    def complete(volume, model, options, stages, *beside):
        with stages.stage("wait"):
            pause(600)
        bone = volume.with_array(volume.array != 0)
        nothing = volume.with_array(bone.array & False)
        return types.SimpleNamespace(bone=bone, completed=bone, implant=nothing, found=False, patient=None, report={})
    module.complete = complete
    sys.modules["SkullVAELib.completion.pipeline"] = module
    sys.exit(cli.main())
"""


def waiting_child(head, out) -> subprocess.Popen:
    """The command line as a process of its own, in the midst of completing."""
    arguments = ["complete", str(head), "-o", str(out), "--progress", "json"]
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    for line in child.stdout:
        if json.loads(line)["stage"] == "wait":
            return child
    raise AssertionError(child.stderr.read())


def test_json_progress_is_all_there_is_on_stdout(head, tmp_path):
    code = textwrap.dedent(CHILD).replace("pause(600)", "print('a library speaks'); os.write(1, b'a C library')")
    arguments = ["complete", str(head), "-o", str(tmp_path / "out"), "--progress", "json"]
    child = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, encoding="utf-8")
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 3, child.stderr
    assert all(set(line) == {"stage", "fraction"} for line in lines)
    fractions = [line["fraction"] for line in lines]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert lines[-1] == {"stage": "done", "fraction": 1.0}
    assert {"read", "wait", "preview"} <= {line["stage"] for line in lines}
    assert "a library speaks" in child.stderr
    assert "a C library" in child.stderr


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_nothing(head, tmp_path, number, code):
    child = waiting_child(head, tmp_path / "out")
    child.send_signal(number)
    _, err = child.communicate(timeout=300)
    assert child.returncode == code
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_a_killed_run_leaves_no_result_and_the_next_run_clears_up(run, head, tmp_path):
    child = waiting_child(head, tmp_path / "out")
    child.kill()
    child.communicate()
    assert not RESULTS & {path.name for path in (tmp_path / "out").iterdir()}
    assert run("complete", head, "-o", tmp_path / "out")[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_parent_that_stops_listening_ends_the_run_without_a_traceback(head, tmp_path):
    arguments = ["complete", str(head), "-o", str(tmp_path / "out"), "--progress", "json"]
    code = textwrap.dedent(CHILD).replace("pause(600)", "time.sleep(1)")
    child = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    err = child.stderr.read().decode()
    assert child.wait(timeout=300) == 2
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert not (tmp_path / "out").exists()


def test_help_and_version_need_no_large_library():
    code = "import sys; from SkullVAELib.cli.main import _parser; _parser(); print(sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    ).stdout
    # Not NumPy either: how many threads it uses is set before it is imported.
    assert not {"'numpy'", "'torch'", "'monai'", "'vtkmodules'", "'scipy'", "'SimpleITK'"} & set(
        loaded.strip("[]\n").split(", ")
    )
    version = subprocess.run(
        [sys.executable, "-m", "SkullVAELib", "--version"], capture_output=True, text=True, encoding="utf-8"
    )
    assert version.returncode == 0
    assert SkullVAELib.__version__ in version.stdout


def test_an_error_crosses_from_one_process_to_another_unchanged():
    error = SkullVAEError("Odd file", "Mend it")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.cause, again.remedy) == (str(error), "Odd file", "Mend it")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--tab-at", "-30,80,95"),
        ("--hole-at", "-30,80,95,3"),
        ("--build-up", "-30,80,95,20,4"),
        ("--engrave", "-L-"),
    ],
)
def test_a_point_on_the_left_or_a_text_may_begin_with_a_minus(option, value, tmp_path, capsys):
    assert cli.main(["complete", str(tmp_path / "none.nrrd"), "-o", str(tmp_path / "out"), option, value]) == 2
    assert "does not exist" in capsys.readouterr().err
