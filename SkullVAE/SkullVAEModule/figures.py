"""The figures of a result as the panel shows them, with their ratings and reasons; without Qt and scene."""

from __future__ import annotations

import html
from itertools import groupby

from slicer.i18n import tr as _

from SkullVAELib.checks.limits import LIMITS
from SkullVAELib.report.rating import rate_rim_gap

from .panelwords import inPanel

GREEN, AMBER, RED, GREY = "#2e8b57", "#d98e04", "#c0392b", "#808080"

_COLOURS = {"good": GREEN, "acceptable": AMBER, "poor": RED, "unknown": GREY}


def _rimGapText(text: str) -> str:
    """The translation of a text of `rate_rim_gap`; a text without translation is shown as it is."""
    translated = {
        "acceptable: inspect the rim": _("The rim gap is acceptable: inspect the rim."),
        "poor: check the rim before use": _("The rim gap is poor: check the rim before use."),
    }
    return translated.get(text, text)


def resultTable(report: dict) -> str:
    """The figures of a result as one table of rich text for a label: overall rating, measures, self-check, warnings.

    Empty for a report without an implant and without warnings. Figures, ratings and warnings are those of the report.
    """
    parts = []
    # A cell across all columns would distort their widths, so that text interrupts the table.
    for isRow, group in groupby([*_measures(report), *_checks(report)], key=lambda part: part.startswith("<tr>")):
        content = "".join(group)
        parts.append(f'<table width="100%" cellspacing="0" cellpadding="1">{content}</table>' if isRow else content)
    warnings = warningsText(report)
    # Otherwise they would seem to belong to the last row.
    heading = f"<b>{_('Other remarks:')}</b> " if parts else ""
    return "".join([_overall(report), *parts, f"<div>{heading}{warnings}</div>" if warnings else ""])


def warningsText(report: dict) -> str:
    """The warnings of a report as rich text, one per line, without those of the self-check; empty if there are none."""
    checked = (report.get("checks") or {}).get("checks", [])
    shown = {check.get("warning") for check in checked}
    return "<br/>".join(_warning(text) for text in report.get("warnings", []) if text not in shown)


def _overall(report: dict) -> str:
    checked = report.get("checks")
    if not checked:
        return ""
    ratings = [check["rating"] for check in checked["checks"]]
    concerns = sum(rating != "good" for rating in ratings)
    text = _("no remarks")
    if concerns:
        text = _("{concerns} of {count} with remarks").format(concerns=concerns, count=len(ratings))
    return f"<div><b>{_('Self-check')}: {_rating(checked['rating'])}</b> ({text})</div>"


def _measures(report: dict) -> list[str]:
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
    gap = implant.get("rim_gap_mm")
    rating, advice = rate_rim_gap(gap)
    rows.append(_row(_("Rim gap"), _quantity(gap, "mm"), rating))
    if rating in ("acceptable", "poor"):
        rows.append(_remark(_warning(_rimGapText(advice))))
    rows += _reference(report.get("reference"))
    count = len(pieces) or implant.get("pieces", 1)
    if count != 1:
        rows.append(_row(_("Pieces"), str(count)))
    return rows


def _reference(reference: dict | None) -> list[str]:
    """How well the patient's earlier bone matches."""
    if not reference:
        return []
    match = _row(
        _("Match of the earlier bone"), _quantity(reference["residual_mm"]["median"], "mm"), reference["rating"]
    )
    return [match, _row(_("Covered by the earlier bone"), f"{100 * reference['covered']:.0f} %")]


def _checks(report: dict) -> list[str]:
    rows = []
    for check in (report.get("checks") or {}).get("checks", []):
        limit = LIMITS.get(check["name"])
        title = check["name"] if limit is None else limit.title
        rows.append(_row(title, _figure(check.get("value"), check.get("unit")), check["rating"]))
        if check.get("warning"):
            rows.append(_remark(_warning(check["warning"])))
    return rows


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
    return f"{_dot(rating)}&nbsp;{html.escape(ratingText(rating))}"


def _warning(text: str) -> str:
    return f'<span style="color:{AMBER}">&#9650;</span> {html.escape(inPanel(text))}'
