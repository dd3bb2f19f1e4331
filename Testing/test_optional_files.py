"""Claims about pictures, reports and files for display: where one fails, the result is written without it."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from SkullVAELib.completion.result import Completion
from SkullVAELib.core.progress import Stages
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.implant.implant_mesh import ImplantPiece, PrintableImplant
from SkullVAELib.implant.measures import size_figures
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.mesh.isosurface import mask_surface
from SkullVAELib.report import case_report, result_files
from SkullVAELib.report.result_files import OutputOptions, RunResult, write_files
from SkullVAELib.session.protocol import Request
from SkullVAELib.session.server import InteractiveSession

ALL = OutputOptions(uncertainty=True, skull=True, display=True, html_report=True)
BASIC = {"completed.nrrd", "implant.nrrd", "implant.stl", "report.json"}
# What fails -> the files that are then missing.
FAILURES = {
    "preview": ((result_files, "render_preview"), {"preview.png"}),
    "report": ((case_report, "write_case_report"), {"report.html"}),
    "pictures of the implant": ((case_report, "thickness_pictures"), set()),
    "uncertainty": ((result_files, "write_ply"), {"implant_uncertainty.ply"}),
    "display": ((RunResult, "write_display"), {"skull_display.ply"}),
    "skull": ((RunResult, "write_skull"), {"skull.stl"}),
}


@pytest.fixture(scope="module")
def result() -> RunResult:
    """A cube as the implant of a small image, with the figures that a run would give it."""
    bone, implant = np.zeros((2, 20, 20, 20), bool)
    bone[2:8, 2:18, 2:18], implant[8:14, 4:16, 4:16] = True, True
    volume = Volume(bone, np.eye(4))
    report = {
        "bone": {"kind": "labelmap", "threshold_hu": None},
        "parameters": {"prior": "auto", "device": "cpu"},
        "model": {"trained": None, "sha256": "0"},
        "registration_mm": 0.5,
        "implant": {"volume_ml": 0.86, "pieces": 1, "rim_gap_mm": 0.2, "defects": 1},
        "warnings": ["The input has a warning."],
    }
    whole = volume.with_array(bone | implant)
    proposal = SimpleNamespace(alignment=np.eye(4))
    completion = Completion(volume, whole, volume.with_array(implant), report, True, proposal)
    mesh = mask_surface(completion.implant)
    piece = ImplantPiece(mesh, np.ones(len(mesh.points)), 1, {"defect": 1, "holes": 0, **size_figures(mesh)})
    made = RunResult.of(completion, ImplantOptions(), ("stl",), "head.nrrd", "m.safetensors")
    printable = PrintableImplant([piece], [])
    return replace(made, printable_implant=printable, report=made.report | made._figures(printable, ImplantOptions()))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Files that are slow to make are replaced by marks: these tests are about which of them there are."""
    from SkullVAELib.report.preview import Image

    picture = Image.new("RGB", (8, 8))
    monkeypatch.setattr(result_files, "render_preview", lambda bone, implant, path, **texts: picture.save(path))
    monkeypatch.setattr(case_report, "thickness_pictures", lambda *values: [])
    monkeypatch.setattr(RunResult, "write_display", lambda self, folder: (folder / "skull_display.ply").touch())
    monkeypatch.setattr(RunResult, "write_skull", lambda self, folder: (folder / "skull.stl").touch())
    monkeypatch.setattr(RunResult, "band_mm", property(lambda self: np.ones(len(self.printable.mesh.points))))


def failing(monkeypatch, name: str, error: BaseException) -> None:
    (where, attribute), _ = FAILURES[name]

    def fail(*values, **options):
        raise error

    monkeypatch.setattr(where, attribute, fail)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        *((name, IndexError("out of bounds")) for name in FAILURES),
        ("preview", MemoryError()),
        ("preview", OSError("cannot open resource")),
    ],
    ids=repr,
)
def test_what_fails_is_left_out_with_a_warning(monkeypatch, result, tmp_path, name, error):
    failing(monkeypatch, name, error)
    write_files(result, tmp_path, ALL, Stages({}))
    optional = {"preview.png", "report.html", "implant_uncertainty.ply", "skull_display.ply", "skull.stl"}
    made = {path.name for path in tmp_path.iterdir()}
    assert made == BASIC | optional - FAILURES[name][1]
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert set(report["files"]) == made
    new = [text for text in report["warnings"] if text not in result.report["warnings"]]
    assert len(new) == (2 if name == "pictures of the implant" else 1)  # those of thickness and of uncertainty
    assert all("left out" in text and type(error).__name__ in text for text in new)
    assert report["implant"] == result.report["implant"]


def test_every_file_is_there_where_nothing_fails(result, tmp_path):
    written = write_files(result, tmp_path, ALL, Stages({}))
    assert written.report["warnings"] == result.report["warnings"]
    assert "preview.png" in written.report["files"]


def test_without_a_preview_nothing_is_drawn_and_the_report_does_without(monkeypatch, result, tmp_path):
    failing(monkeypatch, "preview", AssertionError("drawn"))
    written = write_files(result, tmp_path, replace(ALL, preview=False), Stages({}))
    assert "preview.png" not in written.report["files"]
    assert {"report.html", *BASIC} <= set(written.report["files"])
    assert not any("preview" in warning for warning in written.report["warnings"])


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_full_disk_and_an_interruption_end_the_run(monkeypatch, result, tmp_path, error):
    failing(monkeypatch, "preview", error)
    with pytest.raises(type(error)):
        write_files(result, tmp_path, ALL, Stages({}))


def test_a_self_check_that_fails_leaves_no_rating(monkeypatch, result):
    def fail(*values):
        raise IndexError("out of bounds")

    monkeypatch.setattr(result_files, "make_implant", lambda *values: result.printable)
    monkeypatch.setattr(result_files, "check_voxels", fail)
    made = result.with_implant()
    assert "checks" not in made.report and made.printable.pieces
    assert "The self-check of the implant is left out" in made.report["warnings"][-1]


def test_the_implant_is_made_once_for_the_html_report(monkeypatch, result, tmp_path):
    made = []
    monkeypatch.setattr(result_files, "make_implant", lambda *values: made.append(values[1]) or result.printable)
    check = SimpleNamespace(report=dict, warnings=[], difference_mm=None)
    monkeypatch.setattr(RunResult, "_check_voxels", lambda self, *parts: lambda mesh: check)
    write_files(replace(result, printable_implant=None), tmp_path, OutputOptions(html_report=True), Stages({}))
    assert [options.thickness_map for options in made] == [True]


def test_a_session_reports_without_the_picture_that_failed(monkeypatch, completion, sample, tmp_path):
    result = RunResult.of(completion, ImplantOptions(), ("stl",), "head.nrrd", "m.safetensors")
    check = SimpleNamespace(report=dict, warnings=[], difference_mm=None)
    monkeypatch.setattr(RunResult, "_check_voxels", lambda self, *parts: lambda mesh: check)
    failing(monkeypatch, "preview", IndexError("out of bounds"))
    responses: list[dict] = []
    session = InteractiveSession(result, tmp_path, responses.append)
    session.respond(Request.parse('{"request": 1, "report": true}'))
    assert responses[0]["files"] == ["report.html"]
    assert "left out" in responses[0]["report"]["warnings"][-1]
    assert "left out" in (tmp_path / "responses" / "1" / "report.html").read_text(encoding="utf-8")
