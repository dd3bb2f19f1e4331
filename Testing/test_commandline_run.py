"""Claims about the command line as a user runs it: a process of its own, the real model, a generated skull."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import trimesh
from mesh_check import faults
from scipy.spatial import cKDTree

import SkullVAELib
from SkullVAELib.cli import main as cli
from SkullVAELib.data.defect_kinds import DEFECT_KINDS
from SkullVAELib.data.generated_skull import complete_skull, generated_skull
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import read_volume, write_volume
from SkullVAELib.report.result_names import RESULT_FILES

ROOT = Path(__file__).resolve().parent.parent


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "SkullVAELib", *map(str, arguments)]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "SKULLVAE_DEBUG"}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))}


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(), timeout=300, encoding="utf-8"
    )


@dataclass(frozen=True)
class Run:
    """A finished run: the input, the folder of its results, and what the process said."""

    input: Path
    folder: Path
    process: subprocess.CompletedProcess

    @property
    def report(self) -> dict:
        return json.loads((self.folder / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def skull(tmp_path_factory, sample) -> Path:
    path = tmp_path_factory.mktemp("input") / "generated skull.nrrd"
    write_volume(sample.bone, path)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, skull, model_path) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "new" / "results"
    process = run("complete", skull, "-o", folder, "--model", model_path, "--progress", "json", "--device", "cpu")
    assert process.returncode == 0, process.stderr
    return Run(skull, folder, process)


def test_a_run_writes_the_five_files_and_nothing_else(finished):
    assert sorted(path.name for path in finished.folder.iterdir()) == sorted(RESULT_FILES)


def test_the_masks_are_uint8_on_exactly_the_grid_of_the_input(finished):
    given = sitk.ReadImage(str(finished.input))
    for name in ("completed.nrrd", "implant.nrrd"):
        image = sitk.ReadImage(str(finished.folder / name))
        assert image.GetPixelID() == sitk.sitkUInt8
        assert set(np.unique(sitk.GetArrayViewFromImage(image))) == {0, 1}
        for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(image, what)() == getattr(given, what)()


def test_the_files_keep_the_bone_and_the_implant_apart(finished, completion):
    bone, completed, implant = (
        read_volume(path).array != 0
        for path in (finished.input, finished.folder / "completed.nrrd", finished.folder / "implant.nrrd")
    )
    assert not (bone & implant).any()
    assert np.array_equal(completed, bone | implant)
    assert np.count_nonzero(implant ^ completion.implant.array) <= 0.02 * implant.sum()


def test_the_mesh_is_watertight_in_mm_and_lps(finished):
    mesh = trimesh.load(finished.folder / "implant.stl")
    implant = read_volume(finished.folder / "implant.nrrd")
    assert faults(mesh) == []
    assert mesh.volume / 1000 == pytest.approx(finished.report["implant"]["volume_ml"], rel=0.02)
    index = np.argwhere(implant.array)
    ras = index @ implant.affine[:3, :3].T + implant.affine[:3, 3]
    # An edge that thins out to one voxel may be thinner than the mesh's resolution.
    reach = 2.5 * implant.spacing.max()
    assert np.allclose(mesh.bounds[0], (ras * [-1, -1, 1]).min(0), atol=reach)
    assert np.allclose(mesh.bounds[1], (ras * [-1, -1, 1]).max(0), atol=reach)


@pytest.fixture(scope="module")
def parted(tmp_path_factory, skull, model_path) -> Run:
    """A run that asks for all that a part can be."""
    folder = tmp_path_factory.mktemp("parted")
    wishes = ("--clearance", 0.5, "--thickness", "constant:4", "--under-contour", 0.2, "--smooth", 0.4)
    wishes += ("--holes", "2,10,3", "--split", 60)
    files = ("--format", "stl,obj,ply", "--host")
    process = run("complete", skull, "-o", folder, "--model", model_path, "--device", "cpu", *wishes, *files)
    assert process.returncode == 0, process.stderr
    return Run(skull, folder, process)


def test_a_part_is_written_in_every_format_and_piece_by_piece(parted):
    names = {path.name for path in parted.folder.iterdir()}
    pieces = parted.report["printable_implant"]["pieces"]
    assert len(pieces) > 1
    numbered = {f"implant_{n}.{kind}" for n in range(1, len(pieces) + 1) for kind in ("stl", "obj", "ply")}
    assert names == set(RESULT_FILES) | numbered | {"implant.obj", "implant.ply", "skull.stl"}
    assert set(parted.report["files"]) == names
    whole = trimesh.load(parted.folder / "implant.stl")
    assert whole.body_count == len(pieces)
    for number, figures in enumerate(pieces, 1):
        piece = trimesh.load(parted.folder / f"implant_{number}.stl")
        assert faults(piece) == []
        assert piece.euler_number == 2 - 2 * figures["holes"]
        assert piece.volume / 1000 == pytest.approx(figures["volume_ml"], rel=1e-3)


def test_the_part_keeps_its_clearance_to_the_host_that_is_written_beside_it(parted):
    host = trimesh.load(parted.folder / "skull.stl")
    part = trimesh.load(parted.folder / "implant.stl")
    assert host.is_watertight
    near = np.linalg.norm(host.triangles_center - part.bounds.mean(0), axis=1) < np.ptp(part.bounds, axis=0).max()
    cloud = trimesh.sample.sample_surface(host.submesh([near], append=True), 400_000, seed=0)[0]
    assert cKDTree(cloud).query(part.vertices)[0].min() > 0.4
    assert min(piece["clearance_mm"]["min"] for piece in parted.report["printable_implant"]["pieces"]) > 0.4


def test_the_voxels_are_the_same_whatever_the_part_is(parted, finished):
    for name in ("implant.nrrd", "completed.nrrd"):
        assert np.array_equal(read_volume(parted.folder / name).array, read_volume(finished.folder / name).array)


def test_the_report_holds_every_figure(finished, model):
    report = finished.report
    implant = report["implant"]
    voxels = read_volume(finished.folder / "implant.nrrd")
    assert implant["volume_ml"] == pytest.approx(voxels.array.sum() * voxels.voxel_ml, abs=0.01)
    assert implant["thickness_mm"]["min"] <= implant["thickness_mm"]["mean"] <= implant["thickness_mm"]["max"]
    assert math.isfinite(implant["rim_gap_mm"])
    assert implant["pieces"] == implant["defects"] == 1
    assert report["mesh"]["area_mm2"] > 0
    assert report["model"]["sha256"] == model.sha256
    assert report["version"] == SkullVAELib.__version__
    assert report["parameters"]["prior"] == "auto"
    assert report["parameters"]["device"] == "cpu"
    assert report["found"] is True
    assert isinstance(report["warnings"], list)
    assert "not for clinical use" in report["disclaimer"]


def test_the_report_names_the_input_without_its_folder(finished):
    assert finished.report["input"] == finished.input.name
    assert str(finished.input.parent) not in (finished.folder / "report.json").read_text(encoding="utf-8")


def test_the_seconds_of_every_stage_are_told(finished):
    seconds = finished.report["seconds"]
    stages = {"read", "load model", "bone", "register", "prior", "warp", "gap", "implant", "measure", "mesh", "write"}
    assert stages | {"preview", "total"} <= set(seconds)
    assert seconds["total"] == pytest.approx(sum(seconds.values()) - seconds["total"], abs=0.01)


def test_progress_is_json_lines_that_rise_to_1(finished):
    lines = [json.loads(line) for line in finished.process.stdout.splitlines()]
    assert all(set(line) == {"stage", "fraction"} for line in lines)
    fractions = [line["fraction"] for line in lines]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert lines[-1] == {"stage": "done", "fraction": 1}
    assert {"register", "warp", "preview"} <= {line["stage"] for line in lines}
    assert "Traceback" not in finished.process.stderr


def test_the_picture_is_one(finished):
    from PIL import Image

    with Image.open(finished.folder / "preview.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500


@pytest.mark.skipif(os.name != "posix", reason="no permission bits here")
def test_results_are_as_readable_as_any_new_file(finished):
    other = finished.folder.parent / "other"
    other.write_text("", encoding="utf-8")
    assert {path.stat().st_mode for path in finished.folder.iterdir()} == {other.stat().st_mode}


@pytest.fixture(scope="module")
def killed_in(tmp_path_factory, skull, model_path):
    """Run `complete` and kill it without warning when it says it is in a stage; returns the folder it leaves."""

    def kill(stage: str, folder: Path | None = None) -> Path:
        folder = folder or tmp_path_factory.mktemp("killed")
        arguments = ("complete", skull, "-o", folder, "--model", model_path, "--progress", "json")
        with subprocess.Popen(
            command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
        ) as child:
            for line in child.stdout:
                if json.loads(line)["stage"] == stage:
                    child.kill()
            child.wait()
        if os.name == "posix":
            assert child.returncode == -signal.SIGKILL
        return folder

    return kill


def test_a_killed_run_leaves_no_result(killed_in):
    assert not set(RESULT_FILES) & {path.name for path in killed_in("load model").iterdir()}


def test_a_run_killed_at_the_end_leaves_an_earlier_runs_results_as_they_were_and_none_of_its_own(killed_in, finished):
    before = {path.name: path.read_bytes() for path in finished.folder.iterdir() if path.is_file()}
    assert set(RESULT_FILES) <= set(before)
    killed_in("preview", finished.folder)
    assert {path.name: path.read_bytes() for path in finished.folder.iterdir() if path.is_file()} == before


def test_a_complete_skull_is_exit_3_and_comes_back_unchanged(tmp_path, sample, model_path):
    write_volume(sample.whole, tmp_path / "whole.nii.gz")
    process = run("complete", tmp_path / "whole.nii.gz", "-o", tmp_path / "out", "--model", model_path)
    assert process.returncode == 3
    assert "No defect was found" in process.stderr
    assert np.array_equal(read_volume(tmp_path / "out" / "completed.nrrd").array != 0, sample.whole.array)
    assert not read_volume(tmp_path / "out" / "implant.nrrd").array.any()
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["found"] is False
    assert "implant" not in report
    assert any(warning.startswith("No defect was found") for warning in report["warnings"])
    assert any("--at R,A,S" in warning for warning in report["warnings"])


def speck(path: Path) -> None:
    array = np.zeros((30, 30, 30), np.uint8)
    array[10:14, 10:14, 10:14] = 1
    write_volume(Volume(array, np.eye(4)), path)


BAD_INPUTS = {
    "no bone": (lambda path: write_volume(Volume(np.zeros((9, 9, 9), np.uint8), np.eye(4)), path), "empty"),
    "too little bone": (speck, "too little bone"),
    "no image": (lambda path: path.write_bytes(b"NRRD0004\nnonsense"), "cannot be read"),
}


@pytest.mark.parametrize("bad", BAD_INPUTS)
def test_a_bad_input_is_exit_2_one_line_and_no_file(tmp_path, model_path, capfd, bad):
    make, message = BAD_INPUTS[bad]
    make(tmp_path / "input.nrrd")
    assert (
        cli.main(["complete", *map(str, (tmp_path / "input.nrrd", "-o", tmp_path / "out", "--model", model_path))]) == 2
    )
    out, error = capfd.readouterr()
    assert message in error
    assert len(error.splitlines()) == 1
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_a_foreign_model_is_exit_2_one_line_and_no_file(tmp_path, skull):
    """In a process of its own, as a user sees it."""
    (tmp_path / "m.safetensors").write_bytes(b"PK\x03\x04 a renamed archive")
    process = run("complete", skull, "-o", tmp_path / "out", "--model", tmp_path / "m.safetensors")
    assert process.returncode == 2
    assert "m.safetensors" in process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert process.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_sample_is_a_labelmap_with_a_defect_and_its_truth(tmp_path, model, model_path):
    where = ("--seed", 5, "--kind", "bifrontal", "--truth", tmp_path / "truth.nrrd", "--model", model_path)
    process = run("sample", "-o", tmp_path / "sample.nii.gz", *where)
    assert process.returncode == 0, process.stderr
    skull, truth = read_volume(tmp_path / "sample.nii.gz"), read_volume(tmp_path / "truth.nrrd")
    assert skull.array.dtype == truth.array.dtype == np.uint8
    assert np.allclose(skull.affine, truth.affine)
    assert np.allclose(skull.affine[:3, :3], np.diag([-1, -1, 1]))
    bone, missing = generated_skull(model, 5, "bifrontal")
    # Another machine's rounding may tip a voxel.
    assert np.count_nonzero((skull.array != 0) ^ bone.array) < 100
    assert np.count_nonzero((truth.array != 0) ^ missing) < 100


BAD_SAMPLES = {
    "unknown kind": (["-o", "DIR/a.nrrd", "--kind", "star"], "invalid choice: 'star'"),
    "unknown suffix": (["-o", "DIR/a.png"], "no known image suffix"),
    "truth of a complete skull": (["-o", "DIR/a.nrrd", "--complete", "--truth", "DIR/t.nrrd"], "there is no defect"),
    "truth over output": (["-o", "DIR/a.nrrd", "--truth", "DIR/a.nrrd"], "the same file"),
    "negative seed": (["-o", "DIR/a.nrrd", "--seed", "-1"], "--seed"),
    "missing folder": (["-o", "DIR/none/a.nrrd"], "does not exist"),
    "missing model": (["-o", "DIR/a.nrrd", "--model", "DIR/none.safetensors"], "does not exist"),
}


@pytest.mark.parametrize("call", BAD_SAMPLES)
def test_a_bad_sample_call_is_exit_2_one_line_and_no_file(tmp_path, model_path, capfd, call):
    arguments, message = BAD_SAMPLES[call]
    arguments = [argument.replace("DIR", str(tmp_path)) for argument in arguments]
    if "--model" not in arguments:
        arguments += ["--model", str(model_path)]
    assert cli.main(["sample", *arguments]) == 2
    _, error = capfd.readouterr()
    assert message in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_help_names_every_kind_of_defect():
    process = run("sample", "--help")
    assert process.returncode == 0
    assert all(kind in process.stdout for kind in DEFECT_KINDS)


@pytest.mark.parametrize("seed", range(4))
def test_a_sample_is_a_skull_with_a_clear_defect_whatever_the_seed(model, seed):
    bone, truth = generated_skull(model, seed, spacing_mm=2.0)
    whole = complete_skull(model, seed, spacing_mm=2.0)
    assert np.array_equal(bone.array | truth, whole.array)
    assert not (bone.array & truth).any()
    assert 15 < truth.sum() * bone.voxel_ml < 100
    assert 200 < bone.array.sum() * bone.voxel_ml < 1500
