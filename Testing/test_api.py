"""The public interface: what one import offers, and that it writes what the command line writes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

import SkullVAELib as sv
from SkullVAELib.cli.main import main
from SkullVAELib.io.images import write_volume

ROOT = Path(__file__).resolve().parent.parent


def test_every_public_name_is_there_and_documented():
    assert set(sv.__all__) <= set(dir(sv))
    for name in set(sv.__all__) - {"NOTICE", "__version__"}:
        assert getattr(sv, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sv.nothing  # noqa: B018
    assert (ROOT / "SkullVAELib" / "py.typed").is_file()


def test_importing_the_library_loads_no_other():
    code = "import sys, SkullVAELib; print(sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, encoding="utf-8"
    ).stdout
    assert not {"torch", "monai", "numpy", "scipy", "SimpleITK", "vtkmodules", "nibabel"} & set(eval(loaded))


@pytest.fixture(scope="module")
def head(sample, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("api") / "head.nrrd"
    write_volume(sample.bone, path)
    return path


@pytest.fixture(scope="module")
def result(head, model) -> sv.RunResult:
    return sv.complete(sv.read_image(head), model)


def test_the_result_keeps_every_voxel_of_the_input(result):
    assert result.found
    assert result.report["implant"]["defects"] == 1
    assert result.report["input"] == "head.nrrd"
    assert not (result.bone.array & result.implant.array).any()
    assert (result.completed.array == (result.bone.array | result.implant.array)).all()
    assert result.printable.pieces


def test_it_writes_what_the_command_line_writes(result, head, tmp_path):
    files = sv.write_result(result, tmp_path / "api")
    assert main(["complete", str(head), "-o", str(tmp_path / "cli"), "--device", "cpu", "--progress", "none"]) == 0
    assert [path.name for path in files] == [*sorted(path.name for path in files[:-1]), "report.json"]
    for path in files[:-1]:
        assert path.read_bytes() == (tmp_path / "cli" / path.name).read_bytes(), path.name
    reports = [json.loads((tmp_path / folder / "report.json").read_text(encoding="utf-8")) for folder in ("api", "cli")]
    for report in reports:
        del report["seconds"], report["model_file"]
    assert reports[0] == reports[1]


def test_another_implant_leaves_the_voxels_and_the_first_result(result, tmp_path):
    before = result.report["printable_implant"]
    other = sv.make_implant(result, sv.ImplantOptions(clearance_mm=0.5))
    assert other.report["printable_implant"]["clearance_mm"] == 0.5
    assert result.report["printable_implant"] == before
    assert other.implant is result.implant
    files = {path.name for path in sv.write_result(other, tmp_path, formats=("obj", "ply"))}
    assert {"implant.stl", "implant.obj", "implant.ply"} <= files
    assert b"property float thickness" in (tmp_path / "implant.ply").read_bytes()[:2000]


def test_a_ply_file_of_an_implant_that_has_its_thickness_holds_the_difference_to_the_other_side(result, tmp_path):
    assert len(result.difference_mm) == len(result.printable.mesh.points)
    other = sv.make_implant(result, sv.ImplantOptions(thickness_map=True))
    sv.write_result(other, tmp_path, formats=("ply",), uncertainty=True)
    head = (tmp_path / "implant.ply").read_bytes()[:2000]
    for name in (b"thickness", b"uncertainty", b"difference"):
        assert b"property float " + name in head


def test_a_written_result_replaces_an_earlier_one_and_not_its_own_input(result, tmp_path):
    (tmp_path / "host.stl").write_text("of version 0.1", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "responses" / "3").mkdir(parents=True)
    (tmp_path / "responses" / "3" / "implant.stl").write_text("of an earlier session", encoding="utf-8")
    sv.write_result(result, tmp_path)
    assert not (tmp_path / "host.stl").exists()
    assert not (tmp_path / "responses").exists()
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
    own = dataclasses.replace(result, report=result.report | {"input": "implant.nrrd"})
    before = (tmp_path / "implant.nrrd").read_bytes()
    with pytest.raises(sv.SkullVAEError, match="would overwrite the input"):
        sv.write_result(own, tmp_path)
    assert (tmp_path / "implant.nrrd").read_bytes() == before


def test_errors_name_cause_and_remedy(result, tmp_path):
    with pytest.raises(sv.SkullVAEError, match=r"does not exist\. Check the path"):
        sv.read_image(tmp_path / "none.nrrd")
    with pytest.raises(sv.SkullVAEError, match=r"'vtk' is unknown\. Use stl, obj, ply"):
        sv.write_result(result, tmp_path / "out", formats=("vtk",))
    assert not (tmp_path / "out").exists()
    with pytest.raises(sv.SkullVAEError):
        sv.load_model(tmp_path / "none.safetensors")


def test_folders_are_scored(result, head, sample, tmp_path):
    for folder, implant in (("truth", sample.truth), ("prediction", result.implant.array)):
        (tmp_path / folder).mkdir()
        write_volume(sample.bone.with_array(implant), tmp_path / folder / "a.nrrd")
    (score,) = sv.evaluate(tmp_path / "truth", tmp_path / "prediction")
    assert score.dsc > 0.8
