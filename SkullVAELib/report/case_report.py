"""The HTML report of a completed skull: one self-contained file with figures and pictures."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from SkullVAELib.checks.limits import LIMITS, RATINGS
from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.core.progress import report_step
from SkullVAELib.core.version import NOTICE
from SkullVAELib.implant.tooling import part_stem
from SkullVAELib.mesh.colours import THICKNESS_SCALE_MM, UNCERTAINTY_SCALE_MM, length_colours
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.report.html import encode_png, format_number, html_figure, html_image, html_page, html_table
from SkullVAELib.report.mesh_render import draw_along
from SkullVAELib.report.rating import ACCEPTABLE_MM, GOOD_MM, Ratings, rate_rim_gap

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
.rating { border-left: 7px solid var(--rating); }
.rating em { font-style: normal; font-weight: 650; color: var(--rating); }
.good { --rating: #2b8a3e; } .acceptable { --rating: #b35c00; } .poor { --rating: #c92a2a; }
.unknown { --rating: #6c757d; }
.rating-word { font-weight: 650; color: var(--rating); }
.overall { background: var(--rating); color: #fff; border-radius: 9px; padding: 14px 18px; margin: 0 0 14px; }
.overall b { font-size: 25px; line-height: 1.2; } .overall span { display: block; }
.checks td:nth-child(2) { white-space: nowrap; } .checks td:last-child, .checks th:last-child { text-align: left; }
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
    """Draw an implant coloured by thickness, or by another length, from outside and from inside the skull.

    Parameters
    ----------
    mesh : Mesh
        The implant, RAS mm, N points.
    thickness_mm : numpy.ndarray
        (N,) length in mm at each point of the mesh.
    centre : numpy.ndarray
        (3,) centre of the skull, RAS mm; "outside" is away from it.
    most_mm : float
        Length in mm at which the colour scale ends.

    Returns
    -------
    list of (str, bytes)
        Caption and PNG of each picture.
    """
    outwards = mesh.points.mean(0) - centre
    outwards /= np.linalg.norm(outwards)
    colours = length_colours(thickness_mm, most_mm) / 255
    pictures: list[tuple[str, bytes]] = []
    for caption, forward in (("From outside", -outwards), ("From inside", outwards)):
        report_step(len(pictures) / 2)
        pictures.append((caption, encode_png(draw_along(mesh, colours, forward, (_WIDTH, _HEIGHT), (70, 70), _CARD))))
    return pictures


def without_speckles(mesh: Mesh, values: np.ndarray) -> np.ndarray:
    """Return values (N,) at the points of a mesh as medians over about 8 mm2 of the side that each point is on.

    Next to an edge, single rays through a plate pass along its wall or leave it at once.
    """
    if len(mesh.points) < 2:
        return values
    area = mesh.point_areas()
    count = int(np.clip(8.0 / max(float(np.median(area)), 1e-6), 1, min(64, len(area))))
    # Points of the other side of a thin plate are as far as their normals differ.
    places = np.concatenate([mesh.points, 3.0 * mesh.vertex_normals()], axis=1)
    near = cKDTree(places).query(places, k=count)[1].reshape(len(places), -1)
    return np.median(values[near], axis=1)


def write_case_report(
    path: Path,
    report: dict,
    preview_png: bytes | None,
    thickness: Iterable[tuple[str, bytes]] = (),
    date: str | None = None,
    uncertainty: Iterable[tuple[str, bytes]] = (),
) -> None:
    """Write the HTML report of a run; the file appears complete or not at all.

    The only information on the patient in it is the name of the input file.

    Parameters
    ----------
    path : Path
        File to write.
    report : dict
        Content of report.json.
    preview_png : bytes or None
        The picture preview.png; None where it could not be drawn.
    thickness, uncertainty : iterable of (str, bytes), optional
        Captions and PNGs of the thickness and of the 90 % uncertainty band, see `thickness_pictures`.
    date : str, optional
        Date shown in the report, by default today's in UTC.
    """
    date = date or datetime.now(UTC).strftime("%Y-%m-%d")
    with atomic_file(path) as temporary:
        temporary.write_text(_page(report, preview_png, list(thickness), date, list(uncertainty)), encoding="utf-8")


def _page(
    report: dict,
    preview_png: bytes | None,
    thickness: list[tuple[str, bytes]],
    date: str,
    uncertainty: list[tuple[str, bytes]],
) -> str:
    title = html.escape(report["input"])
    body = [
        f'<header><div class="over">Cranial implant report</div><h1>{title}</h1>'
        f"<p>{html.escape(report['software'])} &middot; model {html.escape(report['model_file'])} &middot; {date}</p>"
        "</header>",
        f'<div class="notice">{NOTICE}</div>',
        _section("Result", _figures(report) + _warnings(report)),
        *([_section("Edited by hand", _edited(report["edited"]))] if report.get("edited") else []),
        *([_section("Self-check", _self_check(report))] if report.get("checks") else []),
    ]
    if preview_png is not None:
        picture = html_image(preview_png, "Bone and implant in four views and three slices")
        body.append(_section("Skull and implant", picture + _picture_note(report)))
    if thickness:
        pictures = _pair("Thickness of the printable implant", thickness) + _scale(THICKNESS_SCALE_MM)
        body.append(_section("Thickness of the printable implant", pictures))
    if uncertainty:
        pictures = _pair("Uncertainty", uncertainty) + _scale(UNCERTAINTY_SCALE_MM)
        body.append(_section("Uncertainty", pictures + _uncertainty_note(report)))
    if printable := report.get("printable_implant"):
        body.append(_section("Printable implant", _pieces(printable["pieces"]) + _implant_options(printable)))
    if mould := report.get("tooling", {}).get("mould"):
        body.append(_section("Mould", _moulds(mould["pieces"])))
    for kind, (stem, title, use) in _BENCH_PARTS.items():
        if parts := report.get("tooling", {}).get(kind, {}).get("parts"):
            body.append(_section(title, _bench_parts(stem, parts) + f'<p class="note">{use}</p>'))
    if len(report.get("proposals", ())) > 1 and (proposals := _proposals(report["proposals"])):
        body.append(_section("Proposals", proposals))
    if candidates := _candidates(report):
        body.append(_section("Candidate defects", candidates))
    body.append(_section("Method and provenance", _provenance(report)))
    content = "<main>\n" + "\n".join(body) + "\n</main>"
    return html_page(f"{report['input']}: cranial implant report", _STYLE, content)


def _figures(report: dict) -> str:
    implant = report.get("implant", {})
    if not report["found"]:
        return '<p class="figure rating unknown"><b>No defect was found</b><span>There is no implant.</span></p>'
    rating, text = rate_rim_gap(implant.get("rim_gap_mm"))
    gap = implant.get("rim_gap_mm")
    thickness = implant.get("thickness_mm", {})
    cards = [
        f'<div class="figure rating {rating}"><b>{format_number(gap, 2)} <small>mm</small></b>'
        f"<span>Rim gap: <em>{text}</em></span></div>",
        _card(format_number(implant.get("volume_ml"), 1), "ml", "Volume"),
        _card(format_number(implant.get("area_cm2"), 1), "cm&sup2;", "Surface area"),
    ]
    if thickness:
        span = f"{format_number(thickness['min'], 1)} to {format_number(thickness['max'], 1)} mm"
        cards.append(_card(format_number(thickness["mean"], 1), "mm", f"Mean thickness ({span})"))
    cards.append(_card(str(implant.get("pieces", 0)), "", "Piece" if implant.get("pieces") == 1 else "Pieces"))
    note = (
        '<p class="note" style="margin-top:12px">Rim gap: 95th percentile of the distance between the completed shape'
        f" and the bone within 5 mm of the defect. Good: up to {GOOD_MM:g} mm; acceptable: up to {ACCEPTABLE_MM:g} mm;"
        " poor: above. It is one of several figures: the overall rating is the worst of all.</p>"
    )
    if _has_additions(report):
        note += (
            '<p class="note">Volume: of the plate in implant.nrrd. Surface area: of the printable implant with its'
            " tabs, flange, holes and text.</p>"
        )
    return f'{_overall(report)}<div class="figures">{"".join(cards)}</div>{note}'


def _overall(report: dict) -> str:
    """The overall rating, how many figures have which rating, and the worst ones; nothing without a self-check."""
    ratings = Ratings.of(report)
    rating = ratings.overall
    if not rating:
        return ""
    rated = [("Rim gap", ratings.rim_gap), ("Match of the earlier bone", ratings.reference)]
    rated += [(LIMITS[check["name"]].title, check["rating"]) for check in report["checks"]["checks"]]
    worst = "; ".join(html.escape(title) for title, own in rated if own == rating)
    text = f"All {ratings.text}." if rating == "good" else f"Of the rated figures, {ratings.text}. Worst: {worst}."
    return f'<div class="overall {rating}"><b>Overall: {rating}</b><span>{text}</span></div>'


def _has_additions(report: dict) -> bool:
    """Whether the printable implant differs from its plate."""
    pieces = report.get("printable_implant", {}).get("pieces", [])
    return any("plate_ml" in piece or piece.get("holes") for piece in pieces)


def _picture_note(report: dict) -> str:
    """What the picture of the voxels does not show; nothing where there is nothing else."""
    if not _has_additions(report):
        return ""
    return (
        '<p class="note" style="margin-top:12px">The picture shows the plate in implant.nrrd. Tabs, flange, holes, text'
        " and build-up are only in the printable implant; the pictures of its thickness show them.</p>"
    )


def _self_check(report: dict) -> str:
    """The table of all figures that are rated."""
    rows, ratings = [], Ratings.of(report)
    if ratings.rim_gap in RATINGS:
        gap = report["implant"]["rim_gap_mm"]
        remark = "-" if ratings.rim_gap == "good" else rate_rim_gap(gap)[1].partition(": ")[2].capitalize() + "."
        rows.append(_rated_row("Rim gap", f"{format_number(gap, 2)} mm", ratings.rim_gap, remark))
    if ratings.reference:
        median = f"{format_number(report['reference']['residual_mm']['median'], 2)} mm"
        rows.append(_rated_row("Match of the earlier bone", median, ratings.reference, "-"))
    for check in report["checks"]["checks"]:
        limit = LIMITS[check["name"]]
        value = "not measured" if check["value"] is None else format_number(check["value"], limit.digits)
        unit = "" if check["value"] is None else html.escape(f" {limit.unit}".rstrip())
        rows.append(_rated_row(html.escape(limit.title), value + unit, check["rating"], check["warning"] or "-"))
    table = html_table(("Check", "Figure", "Rating", "Warning"), rows)
    note = (
        '<p class="note">Rim gap and match of the earlier bone are measured while the implant is made. The other'
        " figures are measured on the input and the result alone, whatever made the implant.</p>"
    )
    return f'<div class="checks">{table}</div>{note}'


def _rated_row(title: str, figure: str, rating: str, warning: str) -> tuple[str, str, str, str]:
    return title, figure, f'<span class="rating-word {rating}">{rating}</span>', html.escape(warning)


def _edited(edited: dict) -> str:
    volumes = [
        ("Voxels added", f"{format_number(edited['voxels_added_ml'], 2)} ml"),
        ("Voxels removed", f"{format_number(edited['voxels_removed_ml'], 2)} ml"),
        ("Points on the outer surface", str(len(edited["points"]))),
    ]
    rows = [
        (
            _place(point["at"]),
            f"{format_number(point['moved_mm'], 1)} mm",
            f"{format_number(point.get('distance_mm'), 2)} mm",
        )
        for point in edited["points"]
    ]
    table = html_table(("Point", "Surface moved outwards by", "Distance to the implant"), rows) if rows else ""
    note = '<p class="note">The figures, the printable implant and the self-check are those of the edited implant.</p>'
    return _pairs(volumes) + table + note


def _card(value: str, unit: str, name: str) -> str:
    return f'<div class="figure"><b>{value} <small>{unit}</small></b><span>{name}</span></div>'


def _warnings(report: dict) -> str:
    if not report["warnings"]:
        return ""
    return f'<ul class="warnings">{"".join(f"<li>{html.escape(text)}</li>" for text in report["warnings"])}</ul>'


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


def _uncertainty_note(report: dict) -> str:
    figures = report["uncertainty"]
    median, most = format_number(figures["median_mm"], 1), format_number(figures["most_mm"], 1)
    return (
        '<p class="note" style="margin-top:12px">90 % band: the true surface is expected within this distance of the'
        f" surface shown, {median} mm in the median, {most} mm at most. Calibrated on real skulls that were not used in"
        " training.</p>"
    )


def _pieces(pieces: list[dict]) -> str:
    head = ["Piece", "Volume, ml", "Area, cm&sup2;", "Thickness, mm", "Clearance, mm", "Step at the rim, mm", "Holes"]
    rows = []
    inserted = any("insertion" in piece for piece in pieces)
    own_plate = any("plate_ml" in piece for piece in pieces)
    if own_plate:
        head.insert(2, "Plate alone, ml")
    if inserted:
        head.append("Insertion along a straight line")
    for number, piece in enumerate(pieces, 1):
        thickness, clearance = "-", "-"
        if limits := piece.get("thickness_mm"):
            thickness = f"{format_number(limits['min'], 1)} to {format_number(limits['max'], 1)}"
        if found := piece.get("clearance_mm"):
            clearance = f"{format_number(found['min'], 2)} minimum, {format_number(found['median'], 2)} median"
        row = [
            str(number),
            format_number(piece["volume_ml"], 2),
            format_number(piece["area_cm2"], 1),
            thickness,
            clearance,
            format_number(piece.get("rim_step_mm"), 2),
            str(piece["holes"]),
        ]
        if own_plate:
            row.insert(2, format_number(piece.get("plate_ml"), 2))
        rows.append([*row, _insertion(piece.get("insertion"))] if inserted else row)
    note = (
        "Step at the rim: 95th percentile between the outer surface of this mesh, continued, and the bone within 3 mm"
        " of its rim. The self-check measures the step again, on the voxels of implant.nrrd and of the bone, so that"
        " both figures differ. Inspect the rim where either is large."
    )
    if own_plate:
        note = (
            "Volume and area are those of the printed body with tabs, flange, holes and text; thickness, clearance and"
            f" step are those of its plate. {note}"
        )
    return html_table(head, rows) + f'<p class="note">{note}</p>'


def _insertion(figures: dict | None) -> str:
    if figures is None:
        return "-"
    if figures["insertable"]:
        text = f"free at {figures['angle_degrees']:.0f}&deg; to the normal"
    else:
        area, depth = format_number(figures["blocked_mm2"], 0), format_number(figures["undercut_mm"], 1)
        text = f"blocked on {area} mm&sup2;, up to {depth} mm deep"
    if removed := figures.get("removed"):
        text += f"; gap of up to {format_number(removed['max_mm'], 1)} mm on {removed['area_mm2']:.0f} mm&sup2;"
    return text


def _moulds(pieces: list[dict]) -> str:
    head = ("Files", "Size, mm", "Cement, ml", "Cavity error (95th percentile), mm", "Undercut")
    rows = []
    for piece in pieces:
        undercut = (
            f"{format_number(piece['undercut_mm2'], 0)} mm&sup2;, {format_number(piece['undercut_mm'], 1)} mm deep"
        )
        rows.append(
            (
                ", ".join(html.escape(name) for name in piece["files"]),
                _millimetres(piece["size_mm"]),
                format_number(piece["cement_ml"], 1),
                format_number(piece["cavity_error_mm"]["p95"], 2),
                undercut,
            )
        )
    return html_table(head, rows)


_BENCH_PARTS = {
    "ring": ("fit_ring", "Fit ring", "The bone around the defect, to try the printed implant in."),
    "template": (
        "template",
        "Template",
        "The completed outer surface as a solid form, to bend a mesh over. The groove is the rim.",
    ),
}


def _bench_parts(stem: str, parts: list[dict]) -> str:
    head = ["File", "Defect", "Width around the implant, mm", "Volume, ml"] + ["Height, mm"] * (stem == "template")
    rows = []
    for part in parts:
        row = [
            part_stem(stem, part["defect"]),
            str(part["defect"]),
            format_number(part["width_mm"], 0),
            format_number(part["volume_ml"], 1),
        ]
        rows.append([*row, format_number(part.get("height_mm"), 1)] if stem == "template" else row)
    return html_table(head, rows)


_THICKNESS_TEXTS = {"patient": "patient-specific", "constant": "constant", "minimum": "at least"}


def _implant_options(printable: dict) -> str:
    thickness = _THICKNESS_TEXTS[printable["thickness"]]
    if printable["thickness_mm"] is not None:
        thickness += f" {printable['thickness_mm']:g} mm"
    holes = "none"
    if printable["hole_diameter_mm"] is not None:
        diameter, pitch, margin = (printable[f"hole_{name}_mm"] for name in ("diameter", "pitch", "margin"))
        holes = f"diameter {diameter:g} mm, pitch {pitch:g} mm, distance from every edge {margin:g} mm"
    split = "no" if printable["split_mm"] is None else f"pieces of at most {printable['split_mm']:g} mm"
    left = [
        ("Requested clearance", f"{printable['clearance_mm']:g} mm"),
        ("Requested thickness", thickness),
        ("Under-contour", f"{printable['under_contour_mm']:g} mm"),
    ]
    right = [("Smoothing", f"{printable['smoothing_mm']:g} mm"), ("Perfusion holes", holes), ("Split", split)]
    return f'<div class="columns">{_pairs(left)}{_pairs(right)}</div>{_screws(printable)}'


def _screws(printable: dict) -> str:
    """The table of the screw holes, and the engraving; nothing without them."""
    rows = [
        (
            str(number),
            "R {:.1f}, A {:.1f}, S {:.1f}".format(*screw["at_mm"]),
            format_number(screw["diameter_mm"], 1),
            format_number(screw["thickness_mm"], 1),
            format_number(screw["bone_mm"], 1),
        )
        for number, screw in enumerate((s for piece in printable["pieces"] for s in piece.get("screws", [])), 1)
    ]
    engraved = sorted({piece["engraved"] for piece in printable["pieces"] if piece.get("engraved")})
    text = f'<p class="note">Engraved: {html.escape(", ".join(engraved))}</p>' if engraved else ""
    if not rows:
        return text
    head = ("Screw", "Place, mm", "Diameter, mm", "Tab or flange, mm", "Bone below, mm")
    return html_table(head, rows) + text


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
        if "volume_ml" in entry  # after another choice of defects only their numbers are known
    ]
    if not rows:
        return ""
    note = (
        "Proposals are samples of the shapes that are plausible given the network and the surrounding bone. This report"
        " shows one of them."
    )
    return html_table(head, rows) + f'<p class="note">{note}</p>'


def _provenance(report: dict) -> str:
    bone, parameters, model = report["bone"], report["parameters"], report["model"]
    kind = "segmentation" if bone["kind"] == "labelmap" else f"CT, bone threshold {bone['threshold_hu']:g} HU"
    roi = parameters.get("roi")
    gamma = report.get("gamma", parameters.get("gamma"))
    rows = [
        ("Input", f"{html.escape(report['input'])}, {kind}"),
        ("ROI", "none" if roi is None else f"{_millimetres(roi['size_mm'])} mm"),
        ("Complete shape (prior)", html.escape(str(parameters["prior"]))),
        ("Latent shift, gamma x DEV", "default of the prior" if gamma is None else f"gamma {gamma:g}"),
    ]
    if "proposal" in report:
        rows.append(("Proposal shown", str(report["proposal"])))
    rows += [
        ("Registration residual", f"{format_number(report['registration_mm'], 2)} mm in the median"),
        ("Plausibility of the input", f"{report['quality']['score']:.2f} of 1" if "quality" in report else "-"),
        ("Device", html.escape(str(parameters["device"]))),
        ("Software", html.escape(report["software"])),
        ("Model", f"{html.escape(report['model_file'])}, trained {html.escape(str(model['trained'] or 'unknown'))}"),
        ("SHA-256 of the model", f"<code>{html.escape(str(model['sha256']))}</code>"),
    ]
    return _pairs(rows)


def _candidates(report: dict) -> str:
    """Table of the candidate defects, filled or not."""
    listed = report.get("candidates", ())
    if not listed:
        return ""
    rows = "".join(
        f"<tr><td>{c['number']}</td><td>{c['volume_ml']:.1f}</td><td>{_place(c['centre_mm'])}</td>"
        f"<td>{c['probability']:.2f}</td><td>{'filled' if c['filled'] else 'left open'}</td>"
        f"<td>{html.escape(c['reason'])}</td></tr>"
        for c in listed
    )
    head = "<th>Number</th><th>Volume, ml</th><th>Centre, mm</th><th>Probability</th><th></th><th>Reason</th>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _place(centre_mm: Sequence[float]) -> str:
    right, anterior, superior = centre_mm
    return f"R {right:.0f}, A {anterior:.0f}, S {superior:.0f}"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in rows)
    return f'<table class="pairs"><tbody>{lines}</tbody></table>'


def _millimetres(sides: Iterable[float]) -> str:
    return " x ".join(f"{side:g}" for side in sides)
