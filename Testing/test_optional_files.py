"""Claims about pictures, reports and files for display: where one fails, the result is written without it."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest

from SkullVAELib.core.progress import Stages
from SkullVAELib.implant.options import ImplantOptions
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
def result(completion, sample) -> RunResult:
    return RunResult.of(completion, sample.bone, ImplantOptions(), ("stl",), "head.nrrd", "m.safetensors").with_implant(
        ImplantOptions(thickness_map=True)
    )


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
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["files"]) == made
    new = [text for text in report["warnings"] if text not in result.report["warnings"]]
    assert len(new) == (2 if name == "pictures of the implant" else 1)  # those of thickness and of uncertainty
    assert all("left out" in text and type(error).__name__ in text for text in new)
    assert report["implant"] == result.report["implant"]


def test_every_file_is_there_where_nothing_fails(result, tmp_path):
    written = write_files(result, tmp_path, ALL, Stages({}))
    assert written.report["warnings"] == result.report["warnings"]
    assert "preview.png" in written.report["files"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_full_disk_and_an_interruption_end_the_run(monkeypatch, result, tmp_path, error):
    failing(monkeypatch, "preview", error)
    with pytest.raises(type(error)):
        write_files(result, tmp_path, ALL, Stages({}))


def test_a_self_check_that_fails_leaves_no_rating(monkeypatch, result):
    def fail(*values):
        raise IndexError("out of bounds")

    monkeypatch.setattr(result_files, "check_implant", fail)
    made = result.with_implant()
    assert "checks" not in made.report and made.printable.pieces
    assert "The self-check of the implant is left out" in made.report["warnings"][-1]


def test_the_implant_is_made_once_for_the_html_report(monkeypatch, result, tmp_path):
    made = []
    make = result_files.make_implant
    monkeypatch.setattr(result_files, "make_implant", lambda *values: made.append(values) or make(*values))
    fresh = RunResult.of(result.completion, result.bone, ImplantOptions(), ("stl",), "head.nrrd", "m.safetensors")
    write_files(fresh, tmp_path, OutputOptions(html_report=True), Stages({}))
    assert len(made) == 1


def test_a_session_reports_without_the_picture_that_failed(monkeypatch, result, tmp_path):
    failing(monkeypatch, "preview", IndexError("out of bounds"))
    responses: list[dict] = []
    session = InteractiveSession(result, tmp_path, responses.append)
    session.respond(Request.parse('{"request": 1, "report": true}'))
    assert responses[0]["files"] == ["report.html"]
    assert "left out" in responses[0]["report"]["warnings"][-1]
    assert "left out" in (tmp_path / "responses" / "1" / "report.html").read_text()
