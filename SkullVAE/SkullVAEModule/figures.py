"""The figures of a result as the panel shows them: a small table with a traffic light for the rim. No Qt, no scene."""

from __future__ import annotations

import html

from slicer.i18n import tr as _

from SkullVAELib.report.rating import rate_rim_gap

GREEN, AMBER, RED, GREY = "#2e8b57", "#d98e04", "#c0392b", "#808080"


def trafficLight(rimGap: float | None) -> tuple[str, str]:
    """(colour, what it means) for a rim gap in mm.

    >>> trafficLight(0.4)[0] == GREEN, trafficLight(3)[0] == RED, trafficLight(None)[0] == GREY
    (True, True, True)
    """
    return {
        "good": (GREEN, _("good")),
        "acceptable": (AMBER, _("acceptable: inspect the rim")),
        "poor": (RED, _("poor: check the rim before use")),
        "unknown": (GREY, _("not measured")),
    }[rate_rim_gap(rimGap)[0]]


def figuresTable(report: dict) -> str:
    """The report's figures of the implant as rich text for a label; an empty text for a report without an implant."""
    implant = report.get("implant")
    if not implant:
        return ""
    pieces = (report.get("printable_implant") or {}).get("pieces") or []
    rows = [(_("Missing bone"), _quantity(implant.get("volume_ml"), "ml"))]
    if pieces:
        size = _("{volume:.1f} ml, surface {area:.1f} cm\u00b2")
        volume, area = (sum(piece[name] for piece in pieces) for name in ("volume_ml", "area_cm2"))
        rows.append((_("Part"), size.format(volume=volume, area=area)))
    thickness = (pieces[0] if len(pieces) == 1 else implant).get("thickness_mm")
    if thickness:
        text = _("{mean:.1f} mm ({low:.1f} to {high:.1f})")
        rows.append((_("Thickness"), text.format(mean=thickness["mean"], low=thickness["min"], high=thickness["max"])))
    gap = implant.get("rim_gap_mm")
    color, meaning = trafficLight(gap)
    light = f'<span style="color:{color}">&#9679;</span> {_quantity(gap, "mm")} ({html.escape(meaning)})'
    rows.append((_("Rim gap"), light))
    rows.append((_("Pieces"), str(len(pieces) or implant.get("pieces", 1))))
    cells = "".join(f"<tr><td>{html.escape(name)}:&nbsp;&nbsp;</td><td>{value}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"


def warningsText(report: dict) -> str:
    """The report's warnings, a line each, as rich text; empty when there are none."""
    lines = [f'<span style="color:{AMBER}">&#9650;</span> {html.escape(text)}' for text in report.get("warnings", [])]
    return "<br/>".join(lines)


def proposalText(proposal: dict) -> str:
    """One entry of the proposal chooser.

    >>> proposalText({"number": 2, "volume_ml": 41.26, "rim_gap_mm": 0.52, "difference_mm": 0.8})
    '2: 41.3 ml, rim 0.5 mm, 0.8 mm from the first'
    """
    text = _("{number}: {volume:.1f} ml").format(number=proposal["number"], volume=proposal["volume_ml"])
    if proposal.get("rim_gap_mm") is not None:
        text += _(", rim {gap:.1f} mm").format(gap=proposal["rim_gap_mm"])
    if proposal.get("difference_mm"):
        text += _(", {distance:.1f} mm from the first").format(distance=proposal["difference_mm"])
    return text


def _quantity(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.1f} {unit}"
