"""The report of a completed skull for people: one HTML file that needs nothing else, to read, print and hand on."""

from __future__ import annotations

import html
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from SkullVAELib import NOTICE
from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.mesh.colours import THICKNESS_SCALE_MM, UNCERTAINTY_SCALE_MM, length_colours
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.report.html import encode_png, format_number, html_figure, html_image, html_page, html_table
from SkullVAELib.report.mesh_render import render_mesh
from SkullVAELib.report.rating import GOOD_MM, USABLE_MM, rate_rim_gap
from SkullVAELib.report.raycast import View

_WIDTH, _HEIGHT = 760, 560
_CARD = np.array([22, 28, 36]) / 255

_STYLE = """
:root { --ink: #17202a; --soft: #5b6773; --line: #dde3e9; --card: #f6f8fa; --accent: #0b7285; }
* { box-sizing: border-box; }
body { margin: 0; background: #e9edf1; color: var(--ink);
       font: 15px/1.5 "Segoe UI", system-ui, -apple-system, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1040px; margin: 28px auto; background: #fff; border-radius: 12px; overflow: hidden;
       box-shadow: 0 1px 3px rgba(15, 25, 35, .12), 0 8px 28px rgba(15, 25, 35, .08); }
header { padding: 30px 40px 22px; border-bottom: 1px solid var(--line); }
header .over { font-size: 12.5px; letter-spacing: .09em; text-transform: uppercase; color: var(--accent);
               font-weight: 600; }
h1 { font-size: 27px; line-height: 1.25; margin: 4px 0 6px; overflow-wrap: anywhere; }
header p { margin: 0; color: var(--soft); }
section { padding: 24px 40px 6px; } section:last-of-type { padding-bottom: 30px; }
h2 { font-size: 17px; margin: 0 0 12px; }
.notice { background: #fff4f3; border-bottom: 1px solid #f2cfcb; color: #8f1d14; padding: 11px 40px; font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: 9px; padding: 12px 15px; }
.figure b { display: block; font-size: 25px; line-height: 1.2; font-weight: 650; font-variant-numeric: tabular-nums; }
.figure b small { font-size: 14px; font-weight: 500; color: var(--soft); }
.figure span { color: var(--soft); font-size: 13px; }
.light { border-left: 7px solid var(--light); } .light em { font-style: normal; font-weight: 650; color: var(--light); }
.good { --light: #2b8a3e; } .usable { --light: #b35c00; } .poor { --light: #c92a2a; } .unknown { --light: #6c757d; }
.warnings { margin: 16px 0 0; padding: 11px 16px 11px 34px; background: #fff8e6; border: 1px solid #f0dca8;
            border-radius: 9px; }
img { display: block; width: 100%; height: auto; border-radius: 9px; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: 13px; margin: 6px 2px 0; }
.scale { display: flex; align-items: center; gap: 10px; margin: 12px 2px 0; color: var(--soft); font-size: 13px; }
.scale i { flex: 1; height: 12px; border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px;
        margin-bottom: 18px; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
table.pairs td { text-align: left; overflow-wrap: anywhere; } table.pairs td:first-child { color: var(--soft);
  width: 240px; }
.columns { display: grid; grid-template-columns: 1fr 1fr; gap: 0 36px; }
.note { color: var(--soft); font-size: 13px; margin: -8px 0 18px; }
code { font: 12.5px/1.5 ui-monospace, "Cascadia Mono", Consolas, monospace; }
@media (max-width: 760px) { .columns, .pair { grid-template-columns: 1fr; } header, section, .notice {
  padding-left: 20px; padding-right: 20px; } }
@media print { body { background: #fff; } main { box-shadow: none; margin: 0; max-width: none; border-radius: 0; }
  section, figure, table { break-inside: avoid; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def thickness_pictures(
    mesh: Mesh, thickness_mm: np.ndarray, centre: np.ndarray, most_mm: float = THICKNESS_SCALE_MM
) -> list[tuple[str, bytes]]:
    """Pictures of a part coloured by its thickness or other millimetres, from outside and from inside the skull:
    captions and PNGs.

    thickness_mm: (N,) at each point of the mesh; centre: (3,) RAS mm, the middle of the skull; most_mm: yellow.
    """
    middle = (mesh.points.min(0) + mesh.points.max(0)) / 2
    outwards = mesh.points.mean(0) - centre
    outwards /= np.linalg.norm(outwards)
    colours = length_colours(thickness_mm, most_mm) / 255
    made = []
    for caption, forward in (("From outside", -outwards), ("From inside", outwards)):
        up = np.array([0.0, 0, 1]) if abs(forward[2]) < 0.85 else np.array([0.0, 1, 0])
        right = np.cross(forward, up)
        right /= np.linalg.norm(right)
        up = np.cross(right, forward)
        across = np.ptp(mesh.points @ np.stack([right, up], 1), axis=0)
        view = View(right, up, middle, float((across / [_WIDTH - 70, _HEIGHT - 70]).max()))
        shown = render_mesh(mesh, colours, view, _WIDTH, _HEIGHT)
        pixels = _CARD * (1 - shown.coverage[..., None]) + shown.rgb
        made.append((caption, encode_png(Image.fromarray(np.round(pixels.clip(0, 1) * 255).astype(np.uint8)))))
    return made


def write_case_report(
    path: Path,
    result: dict,
    preview_png: bytes,
    pictures: Iterable[tuple[str, bytes]] = (),
    day: str | None = None,
    unsure: Iterable[tuple[str, bytes]] = (),
) -> None:
    """Write the report of a run, whole or not at all.

    result: as in report.json; preview_png: the sheet of views and slices; pictures: of the thickness, captions and
    PNGs; day: of making it, today in UTC unless told; unsure: pictures of the uncertainty. Of the patient nothing is
    named but the input's file name.
    """
    day = day or datetime.now(UTC).strftime("%Y-%m-%d")
    with atomic_file(path) as temporary:
        temporary.write_text(_page(result, preview_png, list(pictures), day, list(unsure)), encoding="utf-8")


def _page(
    result: dict, preview_png: bytes, pictures: list[tuple[str, bytes]], day: str, unsure: list[tuple[str, bytes]]
) -> str:
    title = html.escape(result["input"])
    body = [
        f'<header><div class="over">Cranial implant report</div><h1>{title}</h1>'
        f"<p>{html.escape(result['software'])} &middot; model {html.escape(result['model_file'])} &middot; {day}</p>"
        "</header>",
        f'<div class="notice">{NOTICE}</div>',
        _section("Result", _figures(result) + _warnings(result)),
        _section("Skull and implant", html_image(preview_png, "Bone and implant in four views and three slices")),
    ]
    if pictures:
        body.append(_section("Thickness", _pair("Thickness", pictures) + _scale(THICKNESS_SCALE_MM)))
    if unsure:
        body.append(
            _section("Uncertainty", _pair("Uncertainty", unsure) + _scale(UNCERTAINTY_SCALE_MM) + _unsure(result))
        )
    if result.get("printable_implant"):
        body.append(
            _section(
                "Part to be made", _pieces(result["printable_implant"]["pieces"]) + _part(result["printable_implant"])
            )
        )
    if len(result.get("proposals", ())) > 1:
        body.append(_section("Proposals", _proposals(result["proposals"])))
    body.append(_section("How it was made", _provenance(result)))
    content = "<main>\n" + "\n".join(body) + "\n</main>"
    return html_page(f"{result['input']}: cranial implant report", _STYLE, content)


def _figures(result: dict) -> str:
    implant = result.get("implant", {})
    if not result["found"]:
        return '<p class="figure light unknown"><b>No defect was found</b><span>There is no implant.</span></p>'
    light, says = rate_rim_gap(implant.get("rim_gap_mm"))
    gap = implant.get("rim_gap_mm")
    thickness = implant.get("thickness_mm", {})
    cards = [
        f'<div class="figure light {light}"><b>{format_number(gap, 2)} <small>mm</small></b><span>Rim gap: <em>{says}</em>'
        "</span></div>",
        _card(format_number(implant.get("volume_ml"), 1), "ml", "Volume"),
        _card(format_number(implant.get("area_cm2"), 1), "cm&sup2;", "Area of the surface"),
    ]
    if thickness:
        spread = f"{format_number(thickness['min'], 1)} to {format_number(thickness['max'], 1)} mm"
        cards.append(_card(format_number(thickness["mean"], 1), "mm", f"Mean thickness ({spread})"))
    cards.append(_card(str(implant.get("pieces", 0)), "", "Piece" if implant.get("pieces") == 1 else "Pieces"))
    note = (
        '<p class="note" style="margin-top:12px">Rim gap: 95th percentile of how far the completed shape lies from'
        f" bone within 5 mm of the hole; up to {GOOD_MM:g} mm good, up to {USABLE_MM:g} mm usable.</p>"
    )
    return f'<div class="figures">{"".join(cards)}</div>{note}'


def _card(value: str, unit: str, name: str) -> str:
    return f'<div class="figure"><b>{value} <small>{unit}</small></b><span>{name}</span></div>'


def _warnings(result: dict) -> str:
    if not result["warnings"]:
        return ""
    return f'<ul class="warnings">{"".join(f"<li>{html.escape(text)}</li>" for text in result["warnings"])}</ul>'


def _pair(what: str, pictures: list[tuple[str, bytes]]) -> str:
    shown = "".join(html_figure(png, f"{what}, {caption.lower()}", caption) for caption, png in pictures)
    return f'<div class="pair">{shown}</div>'


def _scale(most_mm: float) -> str:
    stops = length_colours(np.linspace(0, THICKNESS_SCALE_MM, 9)).astype(int)
    colours = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b in stops.tolist())
    return (
        f'<div class="scale"><span>0 mm</span><i style="background: linear-gradient(to right, {colours})"></i>'
        f"<span>{most_mm:g} mm and more</span></div>"
    )


def _unsure(result: dict) -> str:
    figures = result["uncertainty"]
    return (
        '<p class="note" style="margin-top:12px">Nine times of ten the true surface lies within this of the one shown:'
        f" {format_number(figures['median_mm'], 1)} mm in the median, {format_number(figures['most_mm'], 1)} mm where it is least"
        " sure. Set on real skulls that the model had not seen.</p>"
    )


def _pieces(pieces: list[dict]) -> str:
    head = ("Piece", "Volume, ml", "Area, cm&sup2;", "Thickness, mm", "Clearance, mm", "Step at the rim, mm", "Holes")
    rows = []
    for number, piece in enumerate(pieces, 1):
        thickness, clearance = piece.get("thickness_mm"), piece.get("clearance_mm")
        rows.append(
            (
                str(number),
                format_number(piece["volume_ml"], 2),
                format_number(piece["area_cm2"], 1),
                f"{format_number(thickness['min'], 1)} to {format_number(thickness['max'], 1)}" if thickness else "-",
                f"{format_number(clearance['min'], 2)} least, {format_number(clearance['median'], 2)} median"
                if clearance
                else "-",
                format_number(piece.get("rim_step_mm"), 2),
                str(piece["holes"]),
            )
        )
    return html_table(head, rows)


def _part(part: dict) -> str:
    thickness = {"patient": "the patient's own", "constant": "constant", "minimum": "at least"}[part["thickness"]]
    if part["thickness_mm"] is not None:
        thickness += f" {part['thickness_mm']:g} mm"
    holes = "none"
    if part["hole_diameter_mm"] is not None:
        holes = f"{part['hole_diameter_mm']:g} mm, every {part['hole_pitch_mm']:g} mm, {part['hole_margin_mm']:g} mm"
        holes += " from every edge"
    split = "no" if part["split_mm"] is None else f"pieces no longer than {part['split_mm']:g} mm"
    left = [
        ("Clearance asked for", f"{part['clearance_mm']:g} mm"),
        ("Thickness asked for", thickness),
        ("Under-contour", f"{part['under_contour_mm']:g} mm"),
    ]
    right = [("Smoothing", f"{part['smoothing_mm']:g} mm"), ("Perfusion holes", holes), ("Split", split)]
    return f'<div class="columns">{_pairs(left)}{_pairs(right)}</div>'


def _proposals(proposals: list[dict]) -> str:
    head = ("Proposal", "Volume, ml", "Rim gap, mm", "Mean distance to the first, mm", "Files")
    rows = [
        (
            str(entry["number"]),
            format_number(entry["volume_ml"], 1),
            format_number(entry["rim_gap_mm"], 2),
            format_number(entry["difference_mm"], 2),
            ", ".join(html.escape(name) for name in entry["files"]),
        )
        for entry in proposals
    ]
    note = "Drawn from what network and bone hold possible for this skull; this report shows one of them."
    return html_table(head, rows) + f'<p class="note">{note}</p>'


def _provenance(result: dict) -> str:
    bone, parameters, model = result["bone"], result["parameters"], result["model"]
    kind = "a segmentation" if bone["kind"] == "labelmap" else f"a CT, bone from {bone['threshold_hu']:g} HU on"
    box = parameters.get("box")
    gamma = result.get("gamma", parameters.get("gamma"))
    rows = [
        ("Input", f"{html.escape(result['input'])}, {kind}"),
        ("Only the bone in a box", "no" if box is None else f"yes, {_millimetres(box['size_mm'])} mm"),
        ("Complete shape (prior)", html.escape(str(parameters["prior"]))),
        ("Moved by gamma x DEV", "as the prior has it" if gamma is None else f"gamma {gamma:g}"),
    ]
    if "proposal" in result:
        rows.append(("Proposal shown", str(result["proposal"])))
    rows += [
        ("Distance to the mean skull", f"{format_number(result['registration_mm'], 2)} mm in the median"),
        ("Quality of the placement", f"{result['quality']['score']:.2f} of 1" if "quality" in result else "-"),
        ("Computed on", html.escape(str(parameters["device"]))),
        ("Software", html.escape(result["software"])),
        ("Model", f"{html.escape(result['model_file'])}, trained {html.escape(str(model['trained'] or 'unknown'))}"),
        ("Model's SHA-256", f"<code>{html.escape(str(model['sha256']))}</code>"),
    ]
    passed = result.get("rejected", ())
    if passed:
        shown = "; ".join(f"{gap['ml']:g} ml, {html.escape(gap['reason'])}" for gap in passed[:5])
        rows.append(("Other gaps in bone, left open", shown))
    return _pairs(rows)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in rows)
    return f'<table class="pairs"><tbody>{lines}</tbody></table>'


def _millimetres(sides: Iterable[float]) -> str:
    return " x ".join(f"{side:g}" for side in sides)
