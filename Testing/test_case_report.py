"""Claims about the HTML report: one self-contained file, true to the figures, without data of the patient."""

from __future__ import annotations

import base64
import copy
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from SkullVAELib import NOTICE, __version__
from SkullVAELib.checks.limits import LIMITS, RATINGS
from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.geometry.roi import ROI
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.mesh.isosurface import mask_surface
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.report.case_report import thickness_pictures, without_speckles, write_case_report
from SkullVAELib.report.mesh_render import render_mesh
from SkullVAELib.report.rating import rate_rim_gap
from SkullVAELib.report.raycast import View
from SkullVAELib.report.result_files import RunResult


class Page(HTMLParser):
    """The tags of a page that are never closed, its text and its pictures."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.text, self.pictures = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "img":
            self.pictures.append(Image.open(io.BytesIO(base64.b64decode(dict(attrs)["src"].split(",", 1)[1]))))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def outcome(completion, sample) -> RunResult:
    return RunResult.of(completion, ImplantOptions(), ("stl",), "head <1> & co.nrrd", "m.safetensors")


@pytest.fixture(scope="module")
def plain_report(outcome) -> dict:
    """The report with the plain implant made: to be copied before it is changed."""
    return outcome.with_implant().report


@pytest.fixture(scope="module")
def made(outcome) -> RunResult:
    return outcome.with_implant(ImplantOptions.parse(clearance=0.5, holes="2,10,3"))


@pytest.fixture(scope="module")
def written(made, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("report")
    made.write_preview(folder)
    made.write_report(folder, folder / "preview.png")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_needs_nothing_else(written):
    page = Page(written)
    assert page.open == []
    assert len(page.pictures) == 5  # the sheet, thickness and uncertainty from two sides
    assert not re.search(r"https?://|<script|<link|url\(", written)


def test_the_uncertainty_is_shown_and_told(made, written):
    median = made.with_uncertainty().report["uncertainty"]["median_mm"]
    assert f"{median:.1f} mm in the median" in written
    assert len(re.findall('alt="Uncertainty', written)) == 2


def test_notice_figures_model_and_input_are_on_it(written, completion):
    text, implant = Page(written).text, completion.report["implant"]
    assert NOTICE in text
    assert "head <1> & co.nrrd" in text
    assert f"{implant['volume_ml']:.1f} ml" in text
    assert f"{implant['rim_gap_mm']:.2f} mm" in text
    assert completion.report["model"]["sha256"] in text
    assert f"SkullVAE {__version__}" in text
    assert "diameter 2 mm, pitch 10 mm, distance from every edge 3 mm" in text


def test_the_page_names_no_folder_and_no_user(written, tmp_path):
    assert str(tmp_path.parent) not in written
    assert "/home/" not in written and "/root/" not in written


@pytest.mark.parametrize(
    ("gap", "rating"),
    [(0.2, "good"), (1.0, "good"), (1.01, "acceptable"), (2.0, "acceptable"), (2.01, "poor"), (None, "unknown")],
)
def test_the_rating_of_the_rim_gap(gap, rating):
    assert rate_rim_gap(gap)[0] == rating


@pytest.mark.parametrize(
    ("gap", "text"),
    [(0.4, "good"), (1.5, "acceptable"), (3.0, "poor: check the rim before use"), (float("nan"), "not measured")],
)
def test_the_rating_is_on_the_page(plain_report, tmp_path, gap, text):
    report = copy.deepcopy(plain_report)
    report["implant"] = report["implant"] | {"rim_gap_mm": gap}
    report["warnings"] = ["thin <here>"]
    pixel = io.BytesIO()
    Image.new("L", (1, 1)).save(pixel, "PNG")
    write_case_report(tmp_path / "r.html", report, pixel.getvalue(), date="2026-01-02")
    shown = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert f"Rim gap: {text}" in shown
    assert "thin <here>" in shown
    assert "2026-01-02" in shown


def test_the_roi_is_on_the_page(outcome, tmp_path):
    options = CompletionOptions(roi=ROI((0, 0, 0), (200, 220, 150)))
    pixel = io.BytesIO()
    Image.new("L", (1, 1)).save(pixel, "PNG")
    report = outcome.report | {"parameters": dataclasses.asdict(options)}
    write_case_report(tmp_path / "r.html", report, pixel.getvalue())
    assert "200 x 220 x 150 mm" in (tmp_path / "r.html").read_text(encoding="utf-8")


def ball(radius: float) -> Mesh:
    away = np.linalg.norm(np.indices((50, 50, 50)) - 25.0, axis=0)
    return mask_surface(Volume(away < radius, np.eye(4)))


def test_a_picture_covers_what_the_mesh_covers_without_holes():
    mesh = ball(20)
    view = View(np.array([1.0, 0, 0]), np.array([0.0, 0, 1]), np.full(3, 25.0), 0.25)
    picture = render_mesh(mesh, np.ones((len(mesh.points), 3)), view, 240, 200)
    assert picture.coverage.sum() * 0.25**2 == pytest.approx(np.pi * 20**2, rel=0.02)
    assert picture.coverage[60:140, 80:160].min() == 1
    assert picture.rgb[60:140, 80:160].min() > 0.3


def test_a_picture_shows_the_near_side():
    mesh = ball(20)
    near = (mesh.points[:, 1] < 25).astype(float)  # the viewer stands in front, at low y
    colours = np.stack([near, 1 - near, near * 0], 1)
    view = View(np.array([1.0, 0, 0]), np.array([0.0, 0, 1]), np.full(3, 25.0), 0.25)
    assert np.allclose(view.forward, [0, 1, 0]) or np.allclose(view.forward, [0, -1, 0])
    red, green, _ = render_mesh(mesh, colours, view, 200, 200).rgb[80:120, 80:120].mean((0, 1))
    assert (red > 5 * green) == (view.forward[1] > 0)


def test_thick_is_yellow_and_thin_is_violet():
    mesh = ball(15)
    thickness = np.where(mesh.points[:, 0] > 25, 12.0, 0.0)
    for _, png in thickness_pictures(mesh, thickness, np.array([25.0, 60, 25])):
        pixels = np.asarray(Image.open(io.BytesIO(png))).astype(int)
        halves = pixels[:, :380], pixels[:, 380:]
        greens = [half[200:360, 150:230, 1].mean() for half in halves]
        assert max(greens) > 5 * min(greens)


def test_the_self_check_is_on_the_page_with_words_and_colours(plain_report, tmp_path):
    report = copy.deepcopy(plain_report)
    checks = report["checks"]
    assert checks["rating"] == max((c["rating"] for c in checks["checks"]), key=RATINGS.index)
    warnings = [c["warning"] for c in checks["checks"] if c["rating"] != "good"]
    assert set(warnings) <= set(report["warnings"])
    poor = checks["checks"][0] | {"value": 51.2, "rating": "poor", "warning": "Open <edge>"}
    report["checks"] = {"rating": "poor", "checks": [poor, *checks["checks"][1:]]}
    pixel = io.BytesIO()
    Image.new("L", (1, 1)).save(pixel, "PNG")
    write_case_report(tmp_path / "r.html", report, pixel.getvalue())
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert 'class="rating-word poor">poor' in page
    shown = Page(page).text
    assert "Self-check" in shown
    assert "51.2 %" in shown
    assert "Open <edge>" in shown
    assert all(limit.title in shown for limit in LIMITS.values())


@pytest.mark.parametrize(("gap", "overall"), [(0.3, "acceptable"), (2.5, "poor"), (None, "acceptable")])
def test_the_overall_rating_is_the_worst_of_the_rows_and_the_counts_are_those_of_the_rows(
    plain_report, tmp_path, gap, overall
):
    report = copy.deepcopy(plain_report)
    checks = [check | {"rating": "good", "warning": None} for check in report["checks"]["checks"]]
    checks[0] |= {"rating": "acceptable", "warning": "Look there."}
    report["checks"] = {"rating": "acceptable", "checks": checks}
    report["implant"] = report["implant"] | {"rim_gap_mm": gap}
    write_case_report(tmp_path / "r.html", report, None)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert f'class="overall {overall}"' in page and f"Overall: {overall}" in page
    rows = [word for word in RATINGS for _ in range(page.count(f'class="rating-word {word}"'))]
    assert len(rows) == len(LIMITS) + (gap is not None)
    said = ", ".join(f"{rows.count(word)} {word}" for word in reversed(RATINGS) if word in rows)
    assert f"Of the rated figures, {said}." in page
    assert ("Check the rim before use." in page) == (gap == 2.5)


def test_proposals_of_which_only_the_number_is_known_are_left_out():
    from SkullVAELib.report.case_report import _proposals

    known = {"number": 1, "volume_ml": 7.5, "rim_gap_mm": 0.4, "difference_mm": 0.0, "files": ["implant.stl"]}
    assert _proposals([{"number": 1}, {"number": 2}]) == ""
    table = _proposals([known, {"number": 2}])
    assert "7.5" in table and "<td>2</td>" not in table


def test_the_overall_rating_comes_first_and_names_the_checks_that_it_comes_from(plain_report, tmp_path):
    report = copy.deepcopy(plain_report)
    report["implant"] = report["implant"] | {"rim_gap_mm": 0.3}
    first = report["checks"]["checks"][0]
    good = [check | {"rating": "good", "warning": None} for check in report["checks"]["checks"]]
    for checks, rating, reason in (
        ([good[0] | {"rating": "poor"}, *good[1:]], "poor", LIMITS[first["name"]].title),
        (good, "good", f"All {1 + len(good)} good."),
    ):
        report["checks"] = {"rating": rating, "checks": checks}
        write_case_report(tmp_path / "r.html", report, None)
        page = (tmp_path / "r.html").read_text(encoding="utf-8")
        shown = Page(page).text
        assert f'class="overall {rating}"' in page
        assert shown.index(f"Overall: {rating}") < shown.index("Rim gap: good")
        assert reason in shown


def test_additions_and_bench_parts_are_on_the_page(plain_report, tmp_path):
    report = copy.deepcopy(plain_report)
    write_case_report(tmp_path / "r.html", report, None)
    plain = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "both figures differ" in plain  # of the two steps at the rim
    assert "Plate alone" not in plain and "Fit ring" not in plain and "tabs" not in plain
    report["printable_implant"]["pieces"][0] |= {"volume_ml": 31.25, "plate_ml": 30.5}
    report["tooling"] = {
        "ring": {"parts": [{"defect": 1, "width_mm": 15.0, "triangles": 10, "volume_ml": 77.25}]},
        "template": {"parts": [{"defect": 2, "width_mm": 12.0, "triangles": 9, "volume_ml": 5.5, "height_mm": 21.5}]},
    }
    pixel = io.BytesIO()
    Image.new("L", (1, 1)).save(pixel, "PNG")
    write_case_report(tmp_path / "r.html", report, pixel.getvalue())
    shown = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "Plate alone, ml" in shown and "30.50" in shown and "31.25" in shown
    assert "The picture shows the plate in implant.nrrd" in shown
    assert "fit_ring" in shown and "77.2" in shown
    assert "template_2" in shown and "21.5" in shown


def test_speckles_are_removed_from_a_picture_but_not_the_difference_of_the_two_sides():
    up = np.stack([*np.meshgrid(np.arange(30.0), np.arange(30.0)), np.full((30, 30), 1.0)], -1).reshape(-1, 3) * 0.5
    cell = np.arange(29 * 30).reshape(29, 30)[:, :-1].ravel()
    faces = np.concatenate([np.stack([cell, cell + 1, cell + 30], 1), np.stack([cell + 1, cell + 31, cell + 30], 1)])
    plate = Mesh(np.concatenate([up, up - [0, 0, 1.0]]), np.concatenate([faces, 900 + faces[:, ::-1]]))
    sides = np.repeat([4.0, 6.0], 900)
    speckled = sides.copy()
    speckled[np.random.default_rng(0).choice(1800, 120, replace=False)] = 0.0
    assert (without_speckles(plate, speckled) == sides).all()
