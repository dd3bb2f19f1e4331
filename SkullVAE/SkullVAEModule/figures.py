"""The measures of a result as the panel shows them, with the rating of the rim gap; without Qt and scene."""

from __future__ import annotations

import html

from slicer.i18n import tr as _

from SkullVAELib.checks.limits import LIMITS
from SkullVAELib.report.rating import rate_rim_gap

GREEN, AMBER, RED, GREY = "#2e8b57", "#d98e04", "#c0392b", "#808080"

_COLOURS = {"good": GREEN, "acceptable": AMBER, "poor": RED, "unknown": GREY}


def rimGapRating(rimGap: float | None) -> tuple[str, str]:
    """(colour, text) of a rim gap in mm, rated as in the HTML report.

    >>> rimGapRating(0.4)[0] == GREEN, rimGapRating(3)[0] == RED, rimGapRating(None)[0] == GREY
    (True, True, True)
    """
    rating, text = rate_rim_gap(rimGap)
    # Translations of the texts of `rate_rim_gap`; a text without translation is shown as it is.
    translated = {
        "good": _("good"),
        "acceptable: inspect the rim": _("acceptable: inspect the rim"),
        "poor: check the rim before use": _("poor: check the rim before use"),
        "not measured": _("not measured"),
    }
    return _COLOURS[rating], translated.get(text, text)


def figuresTable(report: dict) -> str:
    """The measures of the implant in a report as rich text for a label; empty for a report without an implant."""
    implant = report.get("implant")
    if not implant:
        return ""
    pieces = (report.get("printable_implant") or {}).get("pieces") or []
    rows = [(_("Missing bone"), _quantity(implant.get("volume_ml"), "ml"))]
    if pieces:
        size = _("{volume:.1f} ml, surface {area:.1f} cm\u00b2")
        volume, area = (sum(piece[name] for piece in pieces) for name in ("volume_ml", "area_cm2"))
        rows.append((_("Printable implant"), size.format(volume=volume, area=area)))
    thickness = (pieces[0] if len(pieces) == 1 else implant).get("thickness_mm")
    if thickness:
        text = _("{mean:.1f} mm ({low:.1f} to {high:.1f})")
        rows.append((_("Thickness"), text.format(mean=thickness["mean"], low=thickness["min"], high=thickness["max"])))
    gap = implant.get("rim_gap_mm")
    colour, text = rimGapRating(gap)
    rating = f'<span style="color:{colour}">&#9679;</span> {_quantity(gap, "mm")} ({html.escape(text)})'
    rows.append((_("Rim gap"), rating))
    rows.append((_("Pieces"), str(len(pieces) or implant.get("pieces", 1))))
    cells = "".join(f"<tr><td>{html.escape(name)}:&nbsp;&nbsp;</td><td>{value}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"


def checksTable(report: dict) -> str:
    """The self-check of the implant as rich text: overall rating, and each check with its warning; empty without one.

    Figures, ratings and warnings are those of the report, and the titles those of the library, as in the HTML report.
    """
    checked = report.get("checks")
    if not checked:
        return ""
    rows = [f"<tr><td><b>{_('Self-check')}:</b>&nbsp;&nbsp;</td><td><b>{_rating(checked['rating'])}</b></td></tr>"]
    for check in checked["checks"]:
        figure = html.escape(_figure(check.get("value"), check.get("unit")))
        value = f"{_dot(check['rating'])} {figure} ({html.escape(check['rating'])})"
        limit = LIMITS.get(check["name"])
        title = html.escape(check["name"] if limit is None else limit.title)
        rows.append(f"<tr><td>{title}:&nbsp;&nbsp;</td><td>{value}</td></tr>")
        if check.get("warning"):
            rows.append(f'<tr><td colspan="2">{_warning(check["warning"])}</td></tr>')
    return f"<table>{''.join(rows)}</table>"


def warningsText(report: dict) -> str:
    """The warnings of a report as rich text, one per line, without those of the self-check; empty if there are none."""
    checked = (report.get("checks") or {}).get("checks", [])
    shown = {check.get("warning") for check in checked}
    return "<br/>".join(_warning(text) for text in report.get("warnings", []) if text not in shown)


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


def _quantity(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.1f} {unit}"


def _figure(value, unit) -> str:
    """A figure of the self-check with its unit; it may be a number, text, or None."""
    if value is None:
        return "-"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{text} {unit}" if unit else text


def _dot(rating: str) -> str:
    return f'<span style="color:{_COLOURS.get(rating, GREY)}">&#9679;</span>'


def _rating(rating: str) -> str:
    return f"{_dot(rating)} {html.escape(rating)}"


def _warning(text: str) -> str:
    return f'<span style="color:{AMBER}">&#9650;</span> {html.escape(text)}'
