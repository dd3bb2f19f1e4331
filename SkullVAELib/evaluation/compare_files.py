"""The files of a comparison of plan and outcome: compare.json, compare.html, compare.png and difference.ply."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from SkullVAELib.core.files import as_json_text
from SkullVAELib.core.version import NOTICE, __version__
from SkullVAELib.evaluation.plan_outcome import Comparison
from SkullVAELib.mesh.colours import difference_colours
from SkullVAELib.mesh.files import VertexScalar, write_ply
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.report.html import format_number, html_image, html_page, html_table
from SkullVAELib.report.mesh_render import draw_along

COMPARISON_FILES = ("compare.html", "compare.png", "difference.ply", "compare.json")
"""The files of a comparison, in the order of publishing."""

SCALES_MM = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Ends of the colour scales: the least that holds 95 % of the differences is used."""

_CARD, _INK, _FAINT = (255, 255, 255), (23, 32, 42), (91, 103, 115)
_WIDTH, _HEIGHT, _MARGIN = 560, 430, 24

_STYLE = """
body { margin: 0; background: #fff; color: #17202a; font: 15px/1.5 "Segoe UI", system-ui, Arial, sans-serif; }
main { max-width: 1040px; margin: 24px auto; padding: 0 24px; }
h1 { font-size: 25px; margin: 0 0 4px; overflow-wrap: anywhere; } h2 { font-size: 17px; margin: 26px 0 8px; }
.notice { background: #fff4f3; border: 1px solid #f2cfcb; color: #8f1d14; padding: 9px 14px; font-weight: 600; }
img { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid #dde3e9; }
th { color: #5b6773; font-weight: 600; } th:first-child, td:first-child { text-align: left; }
p.note { color: #5b6773; font-size: 13px; }
"""

_FRAMES = {
    "intact bone": "the skulls were registered on intact bone",
    "files": "the coordinates of the files were used as they are",
    "best fit": "the part was laid on the plan; its position in the head is not known",
}


def write_comparison(made: Comparison, folder: Path, warnings: list[str]) -> dict:
    """Write all files of a comparison into an existing folder.

    Parameters
    ----------
    made : Comparison
        The comparison.
    folder : Path
        The folder.
    warnings : list of str
        What the user should know.

    Returns
    -------
    dict
        Content of compare.json.
    """
    report = {"software": f"SkullVAE {__version__}", "disclaimer": NOTICE, **made.figures, "warnings": warnings}
    meaning = "mm, signed distance from plan to outcome, positive where the outcome reaches beyond, nan where unknown"
    # Where the position in the head is not known, the difference is that of the shape.
    placed = made.shape_mm if made.difference_mm is None else made.difference_mm
    scalars = [
        VertexScalar("difference_mm", placed, scale_mm(placed), meaning, signed=True),
        VertexScalar("shape_mm", made.shape_mm, scale_mm(made.shape_mm), f"{meaning}; after the rigid motion", True),
    ]
    write_ply(made.plan.mesh, folder / "difference.ply", *scalars)
    picture(made).save(folder / "compare.png", optimize=True)
    page = _page(made, report, (folder / "compare.png").read_bytes())
    (folder / "compare.html").write_text(page, encoding="utf-8")
    (folder / "compare.json").write_text(as_json_text(report), encoding="utf-8")
    return report


def scale_mm(values: np.ndarray) -> float:
    """End of the colour scale of differences (N,) in mm, one of SCALES_MM."""
    size = np.abs(values[np.isfinite(values)])
    wanted = float(np.quantile(size, 0.95)) if len(size) else 0.0
    return next((most for most in SCALES_MM if wanted <= most), SCALES_MM[-1])


def picture(made: Comparison) -> Image.Image:
    """The planned implant, coloured by the differences, from outside and from inside, with the scales in mm."""
    rows = []
    if made.difference_mm is not None:
        rows.append(("Plan to outcome, as placed", made.difference_mm))
    rows.append(("Difference of shape, after the rigid motion", made.shape_mm))
    head, label, legend = 64, 30, 62
    size = (2 * _WIDTH + 3 * _MARGIN, head + len(rows) * (_HEIGHT + label + legend))
    sheet = Image.new("RGB", size, _CARD)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 16), "Plan and outcome", _INK, ImageFont.load_default(24))
    draw.text((_MARGIN, 44), NOTICE, _FAINT, ImageFont.load_default(13))
    top = head
    for title, values in rows:
        draw.text((_MARGIN, top + 8), title, _INK, ImageFont.load_default(16))
        most = scale_mm(values)
        colours = difference_colours(values, most) / 255
        for column, (name, inwards) in enumerate((("from outside", True), ("from inside", False))):
            left = _MARGIN + column * (_WIDTH + _MARGIN)
            shown = _view(made.plan.mesh, colours, made.plan.outward.centre, inwards)
            sheet.paste(shown, (left, top + label))
            draw.text((left + 6, top + label + _HEIGHT - 20), name, _FAINT, ImageFont.load_default(13))
        top += _HEIGHT + label
        _legend(sheet, draw, top + 10, most)
        top += legend
    return sheet


def _view(mesh: Mesh, colours: np.ndarray, centre: np.ndarray, from_outside: bool) -> Image.Image:
    forward = centre - mesh.points.mean(0)
    forward *= (1 if from_outside else -1) / np.linalg.norm(forward)
    return draw_along(mesh, colours, forward, (_WIDTH, _HEIGHT), (40, 50), np.array(_CARD) / 255)


def _legend(sheet: Image.Image, draw: ImageDraw.ImageDraw, top: int, most: float) -> None:
    """The colour scale with its ends and their meaning."""
    width = sheet.width - 2 * _MARGIN - 160
    values = np.linspace(-most, most, width)
    bar = np.repeat(difference_colours(values, most)[None].astype(np.uint8), 16, axis=0)
    sheet.paste(Image.fromarray(bar), (_MARGIN, top))
    font = ImageFont.load_default(13)
    for share, text in (
        (0.0, f"-{most:g} mm: outcome lower"),
        (0.25, f"-{most / 2:g}"),
        (0.5, "0"),
        (0.75, f"+{most / 2:g}"),
        (1.0, f"+{most:g} mm: outcome beyond"),
    ):
        at = _MARGIN + share * width - share * font.getlength(text)
        draw.text((at, top + 20), text, _INK, font)
    left = _MARGIN + width + 24
    draw.rectangle((left, top, left + 16, top + 16), (150, 150, 150))
    draw.text((left + 24, top + 1), "not measured", _INK, font)


def _page(made: Comparison, report: dict, png: bytes) -> str:
    """The HTML report."""
    plan, outcome = html.escape(str(report["plan"])), html.escape(str(report["outcome"]))
    parts = [
        f"<main><h1>Plan and outcome</h1><p>Plan: {plan}. Outcome: {outcome}; {_FRAMES[report['coordinates']]}.</p>",
        f'<p class="notice">{html.escape(NOTICE)}</p>',
    ]
    if report["warnings"]:
        parts.append("<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in report["warnings"]) + "</ul>")
    parts += [html_image(png, "Differences on the planned implant"), *_tables(report), "</main>"]
    return html_page("Plan and outcome", _STYLE, "\n".join(parts))


def _tables(report: dict) -> list[str]:
    parts = []
    moved = report["displacement"]
    if moved is not None:
        rows = [
            ["displacement of the centre of mass, mm", format_number(moved["mm"], 2)],
            [
                "to the right, to the front, upwards, mm",
                _list(moved[f"{d}_mm"] for d in ("right", "anterior", "superior")),
            ],
            ["outwards, mm", format_number(moved["outward_mm"], 2)],
            ["rotation, degrees", format_number(moved["rotation_deg"], 2)],
            ["its axis (R, A, S)", _list(moved["axis_ras"])],
        ]
        if report["registration_mm"] is not None:
            of = report["registration_mm"]
            rows.append(["residual on intact bone, median and 95th percentile, mm", _list([of["median"], of["p95"]])])
        parts += ["<h2>Displacement</h2>", html_table(["", ""], rows)]
    rows = []
    for name, title in (("difference_mm", "as placed"), ("shape_mm", "shape, after the rigid motion")):
        for side in ("outer", "inner"):
            figures = (report[name] or {}).get(side)
            if figures is not None:
                keys = ("mean", "rms", "median", "p90", "p95", "max")
                rows.append([f"{side} surface, {title}", *(format_number(figures[key], 2) for key in keys)])
    head = ["signed distance, mm", "mean", "RMS", "median", "90th pct", "95th pct", "max"]
    parts += ["<h2>Differences</h2>", html_table(head, rows)]
    parts.append(
        '<p class="note">Positive: the outcome reaches beyond the planned surface. Percentiles and maximum are'
        " of the size.</p>"
    )
    rim = report["rim"]
    rows = []
    for which in ("planned", "outcome"):
        for name, title in (("gap_mm", "gap"), ("step_mm", "step")):
            figures = None if rim is None or rim[which] is None else rim[which][name]
            if figures is not None:
                values = [format_number(figures[key], 2) for key in ("mean", "p95", "max")]
                rows.append([f"{title}, {which}", *values, _list(figures["max_at_ras"], 0)])
    if rows:
        parts += ["<h2>Rim</h2>", html_table(["mm", "mean", "95th pct", "max", "largest at R, A, S"], rows)]
    lost = report["resorption"]
    rows = [
        ["volume lost, ml", format_number(lost["lost_ml"], 2)],
        ["volume gained, ml", format_number(lost["gained_ml"], 2)],
        ["volume of the plan and of the outcome, ml", _list([lost["planned_ml"], lost["outcome_ml"]])],
    ]
    thin = lost["thickness_change_mm"]
    if thin is not None:
        rows += [
            ["change of thickness, mean, mm", format_number(thin["mean"], 2)],
            ["largest loss, mm", format_number(thin["least"], 2)],
            ["at R, A, S", _list(thin["least_at_ras"], 0)],
            ["area that is thinner by more than 1 mm", f"{thin['thinner_by_1_mm']:.1%}"],
        ]
    return [*parts, "<h2>Resorption</h2>", html_table(["", ""], rows)]


def _list(values, digits: int = 2) -> str:
    return ", ".join(format_number(value, digits) for value in values)
