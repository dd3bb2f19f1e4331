"""The figures of a result as the panel shows them, with their ratings and reasons; without Qt and scene."""

from __future__ import annotations

import html
from dataclasses import dataclass

from slicer.i18n import tr as _

from SkullVAELib.checks.limits import LIMITS, RATINGS
from SkullVAELib.report.rating import Ratings, rate_rim_gap

from .panelwords import inPanel

GREEN, AMBER, RED, GREY = "#2e8b57", "#d98e04", "#c0392b", "#808080"

# In the warning of the library about an earlier bone that is rated poor.
_MATCHES_POORLY = "matches poorly"

_COLOURS = {"good": GREEN, "acceptable": AMBER, "poor": RED, "unknown": GREY}


@dataclass(frozen=True)
class RatedFigure:
    """A figure with its rating as the table shows it.

    name: of the check, as in report.json; "rim_gap" and "reference" for the others. warning: what is wrong, then what
    to do, in the words of the library; empty if there is none.
    """

    name: str
    title: str
    figure: str
    rating: str
    warning: str = ""


def resultTable(report: dict) -> str:
    """The figures of a result as rich text for a label: overall rating, rated figures, remarks, measures.

    The rated figures that are not good come first, each with its remark, the worst at the top.
    Empty for a report without an implant and without warnings. Figures, ratings and warnings are those of the report.
    """
    rated = ratedFigures(report)
    doubtful = sorted(
        (each for each in rated if each.rating in RATINGS[1:]), key=lambda each: -RATINGS.index(each.rating)
    )
    parts = [_overall(report)]
    for each in doubtful:
        # A cell across all columns would distort their widths, so that text interrupts the table.
        parts.append(_table([_ratedRow(each)]))
        remark = remarkText(each)
        if remark:
            parts.append(f"<div>{_triangle(each.rating)} {remark}</div>")
    warnings = warningsText(report)
    if warnings:
        # Otherwise they would seem to belong to the last row.
        heading = f"<b>{_('Other remarks:')}</b> " if rated else ""
        parts.append(f"<div>{heading}{warnings}</div>")
    parts.append(_table([*_measures(report), *(_ratedRow(each) for each in rated if each not in doubtful)]))
    return "".join(parts)


def ratedFigures(report: dict) -> list[RatedFigure]:
    """All figures of a report that are rated, in its order; those that were not measured with the rating "unknown"."""
    implant, reference = report.get("implant"), report.get("reference")
    figures = []
    if implant:
        gap = implant.get("rim_gap_mm")
        rating = rate_rim_gap(gap)[0]
        warning = _("The rim gap is acceptable: inspect the rim.") if rating == "acceptable" else ""
        if rating == "poor":
            text = _("The predicted shape is up to {gap:.1f} mm from the bone around the defect. Inspect the rim.")
            warning = text.format(gap=gap)
        figures.append(RatedFigure("rim_gap", _("Rim gap"), _quantity(gap, "mm"), rating, warning))
    if implant and reference:
        median = _quantity(reference["residual_mm"]["median"], "mm")
        warning = ""
        if reference["rating"] == "acceptable":
            warning = _("The earlier bone does not match everywhere. Compare its outline with the bone in slices.")
        elif reference["rating"] == "poor":
            warning = next((text for text in report.get("warnings", []) if _MATCHES_POORLY in text), "")
        title = _("Match of the earlier bone")
        figures.append(RatedFigure("reference", title, median, reference["rating"], warning))
    for check in (report.get("checks") or {}).get("checks", []):
        limit = LIMITS.get(check["name"])
        title = check["name"] if limit is None else limit.title
        figure = _figure(check.get("value"), check.get("unit"))
        figures.append(RatedFigure(check["name"], title, figure, check["rating"], check.get("warning") or ""))
    return figures


def remarkText(figure: RatedFigure) -> str:
    """The remark on a rated figure as rich text: if it is poor, first the repair, then what is wrong.

    Otherwise what is wrong, then what to inspect, as in the report.
    """
    remedy = _repair(figure.name) if figure.rating == "poor" else ""
    if not remedy:
        return html.escape(inPanel(figure.warning))
    return f"<b>{html.escape(remedy)}</b> {html.escape(inPanel(_cause(figure.warning)))}".rstrip()


def _cause(warning: str) -> str:
    """A warning without its last sentence, which says what to do.

    >>> _cause("5 mm thick, at R 2, A 3. Compare both. Choose another thickness.")
    '5 mm thick, at R 2, A 3. Compare both.'
    """
    start, separator, _last = warning.rpartition(". ")
    return f"{start}." if separator else warning


def _repair(name: str) -> str:
    """What to do in the panel about a figure that is rated poor; empty for a figure that is not known."""
    edit = _("paint or erase with 'Edit implant segment', or move the surface with 'Place a surface point'")
    where = _("under Implant, Edit by hand")
    edit = f"{edit}, {where}."
    texts = {
        "rim_gap": _(
            "Inspect the rim in slices: if bone is missing there, change 'Threshold' under Input, or the segmentation,"
            " then click Complete skull."
        ),
        "reference": _("Choose another image or model under Input, Earlier bone, or None, then click Complete skull."),
        "open_edge": _(
            "Fill the rest of the hole: check it under Defects, click 'Point at a hole', or paint it with 'Edit implant"
            " segment' under Implant, Edit by hand."
        ),
        "bone_overlap": _(
            "Confirm that this bone is removed in surgery, or choose 'Keep' in the list 'Loose bone' under Advanced and"
            " click Complete skull."
        ),
        "image_end": _("Load an image that shows the whole defect."),
        "thickness": _(
            "Choose 'Constant' or 'At least' in the list 'Thickness' under Implant. This figure stays, since it is that"
            " of the predicted shape."
        ),
        "rim_step": _("Level the outer surface at the rim: {edit}").format(edit=edit),
        "bulge": _("Reshape the outer surface: {edit}").format(edit=edit),
        "missing_bone": _("Fill the hole, if it must be: check it under Defects, or click 'Point at a hole'."),
        "voxel_size": _("Load the thinnest slices of the CT, 1 mm or less, and click Complete skull."),
        "symmetry": _("Click 'Difference' to see where. Unless the asymmetry is natural, {edit}").format(edit=edit),
    }
    return texts.get(name, "")


def warningsText(report: dict) -> str:
    """The warnings of a report as rich text, one per line, without those of rated figures; empty if there are none."""
    shown = {figure.warning for figure in ratedFigures(report)}
    others = dict.fromkeys(text for text in report.get("warnings", []) if text not in shown)
    return "<br/>".join(_warning(text) for text in others)


def ratingSummary(report: dict) -> str:
    """How many rated figures have which rating, the worst first: the number of rows with each dot."""
    return ", ".join(f"{count} {ratingText(rating)}" for rating, count in Ratings.of(report).counts.items())


def _overall(report: dict) -> str:
    overall = Ratings.of(report).overall
    if not overall:
        return ""
    return f"<div><b>{_('Overall rating')}: {_rating(overall)}</b> ({ratingSummary(report)})</div>"


def _measures(report: dict) -> list[str]:
    """The figures that are not rated."""
    implant = report.get("implant")
    if not implant:
        return []
    pieces = (report.get("printable_implant") or {}).get("pieces") or []
    rows = [_row(_("Missing bone"), _quantity(implant.get("volume_ml"), "ml"))]
    if pieces:
        volume, area = (sum(piece[name] for piece in pieces) for name in ("volume_ml", "area_cm2"))
        rows.append(_row(_("Printable implant"), _("{volume:.1f} ml").format(volume=volume)))
        rows.append(_row(_("Surface of the implant"), _("{area:.1f} cm\u00b2").format(area=area)))
    thickness = (pieces[0] if len(pieces) == 1 else implant).get("thickness_mm")
    if thickness:
        rows.append(_row(_("Mean thickness"), _quantity(thickness["mean"], "mm")))
        rows.append(_row(_("Thickness, 2nd percentile"), _quantity(thickness["min"], "mm")))
    screws = [screw for piece in pieces for screw in piece.get("screws") or ()]
    if screws:
        rows.append(_row(_("Screws"), str(len(screws))))
        rows.append(_row(_("Bone at the screws, least"), _quantity(min(screw["bone_mm"] for screw in screws), "mm")))
    if report.get("reference"):
        rows.append(_row(_("Covered by the earlier bone"), f"{100 * report['reference']['covered']:.0f} %"))
    count = len(pieces) or implant.get("pieces", 1)
    if count != 1:
        rows.append(_row(_("Pieces"), str(count)))
    return rows


def _ratedRow(figure: RatedFigure) -> str:
    return _row(figure.title, figure.figure, figure.rating)


def comparisonTable(report: dict) -> str:
    """The figures of a comparison of plan and outcome as rich text for a label; empty for an empty report."""
    if not report:
        return ""
    title = _("{outcome} compared with the plan of {plan}").format(outcome=report["outcome"], plan=report["plan"])
    moved, found = report.get("displacement"), report.get("registration_mm")
    first = []
    if moved:
        first.append(_row(_("Displacement"), _millimetres(moved["mm"])))
        first.append(_row(_("of it outwards"), _millimetres(moved["outward_mm"])))
        first.append(_row(_("Rotation"), f"{moved['rotation_deg']:.1f}\u00b0"))
    else:
        first.append(_remark(html.escape(_("The position of the part in the head is not known."))))
    if found:
        first.append(_row(_("Residual on intact bone, median"), _millimetres(found["median"])))
    lost = report.get("resorption") or {}
    last = [
        _row(title, f"{lost[name]:.2f} ml")
        for title, name in ((_("Volume lost"), "lost_ml"), (_("Volume gained"), "gained_ml"))
        if lost.get(name) is not None
    ]
    thin = lost.get("thickness_change_mm")
    if thin:
        last.append(_row(_("Change of thickness, mean"), _millimetres(thin["mean"])))
        last.append(_row(_("Thinner by more than 1 mm"), f"{100 * thin['thinner_by_1_mm']:.0f} %"))
    warnings = "<br/>".join(_warning(text) for text in report.get("warnings") or ())
    parts = [f"<div><b>{html.escape(title)}</b></div>", _table(first), _distances(report), _table(last)]
    return "".join([*parts, f"<div>{warnings}</div>" if warnings else ""])


def _distances(report: dict) -> str:
    """The distances of a comparison as a table with mean, 95th percentile and maximum in mm."""
    rows = []
    surfaces = (("outer", _("Outer surface")), ("inner", _("Inner surface")))
    for name, when in (("difference_mm", _("as placed")), ("shape_mm", _("shape"))):
        for side, title in surfaces:
            rows.append((f"{title}, {when}", (report.get(name) or {}).get(side)))
    rim = report.get("rim") or {}
    for name, title in (("gap_mm", _("Gap at the rim")), ("step_mm", _("Step at the rim"))):
        for which, when in (("planned", _("planned")), ("outcome", _("outcome"))):
            rows.append((f"{title}, {when}", (rim.get(which) or {}).get(name)))
    cells = [
        f'<tr><td width="49%">{html.escape(title)}</td>'
        + "".join(f'<td width="17%" align="right">{_plain(figures.get(key))}</td>' for key in ("mean", "p95", "max"))
        + "</tr>"
        for title, figures in rows
        if figures
    ]
    if not cells:
        return ""
    heads = (_("mean"), "95&nbsp;%", _("largest"))
    head = (
        f"<tr><td>{_('Distances in mm')}</td>" + "".join(f'<td align="right">{each}</td>' for each in heads) + "</tr>"
    )
    return _table([head, *cells])


def _table(rows: list[str]) -> str:
    return f'<table width="100%" cellspacing="0" cellpadding="1">{"".join(rows)}</table>' if rows else ""


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _millimetres(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} mm"


def proposalText(proposal: dict) -> str:
    """The text of a proposal in the list of proposals.

    >>> proposalText({"number": 2, "volume_ml": 41.26, "rim_gap_mm": 0.52, "difference_mm": 0.8})
    '2: 41.3 ml, rim gap 0.5 mm, 0.8 mm from proposal 1'
    >>> proposalText({"number": 3})
    '3'
    """
    text = str(proposal["number"])
    if proposal.get("volume_ml") is not None:
        text += _(": {volume:.1f} ml").format(volume=proposal["volume_ml"])
    if proposal.get("rim_gap_mm") is not None:
        text += _(", rim gap {gap:.1f} mm").format(gap=proposal["rim_gap_mm"])
    if proposal.get("difference_mm"):
        text += _(", {distance:.1f} mm from proposal 1").format(distance=proposal["difference_mm"])
    return text


def ratingText(rating: str) -> str:
    """The word for a rating in the panel; a rating that is not known is shown as it is."""
    words = {"good": _("good"), "acceptable": _("acceptable"), "poor": _("poor"), "unknown": _("not measured")}
    return words.get(rating, rating)


def ratingColour(rating: str) -> str:
    """The colour of a rating, as #rrggbb."""
    return _COLOURS.get(rating, GREY)


def _quantity(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.1f} {unit}"


def _figure(value, unit) -> str:
    """A figure of the self-check with its unit; it may be a number, text, or None."""
    if value is None:
        return "-"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{text} {unit}" if unit else text


def _row(title: str, value: str, rating: str = "") -> str:
    """A row of the table: title, figure that is not wrapped, rating."""
    figure = html.escape(value).replace(" ", "&nbsp;")
    cells = f'<td width="44%">{html.escape(title)}</td><td width="21%" align="right">{figure}</td>'
    return f'<tr>{cells}<td width="35%">{"&nbsp;" + _rating(rating) if rating else ""}</td></tr>'


def _remark(content: str) -> str:
    return f"<div>{content}</div>"


def _dot(rating: str) -> str:
    return f'<span style="color:{ratingColour(rating)}">&#9679;</span>'


def _rating(rating: str) -> str:
    """A dot and a word; without a dot where nothing is rated."""
    dot = "" if rating == "unknown" else f"{_dot(rating)}&nbsp;"
    return f"{dot}{html.escape(ratingText(rating))}"


def _triangle(rating: str) -> str:
    return f'<span style="color:{ratingColour(rating)}">&#9650;</span>'


def _warning(text: str) -> str:
    return f"{_triangle('acceptable')} {html.escape(inPanel(text))}"
