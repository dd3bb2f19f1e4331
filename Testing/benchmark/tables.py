"""The figures as tables: by row, by size, site and thickness of the defect, by individual, and row against row.

Cases of one skull are alike. A mean is therefore that of the individuals' means, and an interval that of 2,000 draws of
individuals with replacement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy import stats

DRAWS, SEED = 2000, 0
"""Of the bootstrap."""

MEASURES = (
    "outer_mm", "outer_p95_mm", "inner_mm", "inner_p95_mm", "step_mm", "rim_gap_mm", "dsc", "bdsc", "hd95_mm", "usable",
)  # fmt: skip
"""Measures of a row that are averaged; those in mm have no value where nothing was found."""

PAIRED = ("dsc", "outer_mm", "inner_mm", "hd95_mm")

THICKNESSES = {"below 3 mm": (0.0, 3.0), "3 to 5 mm": (3.0, 5.0), "above 5 mm": (5.0, math.inf)}
"""Classes by the mean thickness of the removed bone."""

SLICES = ("outer_mm", "outer_p95_mm", "inner_mm", "inner_p95_mm")

Records = Sequence[dict]
Interval = dict[str, float | int | None]


def having(records: Iterable[dict], row: str) -> list[dict]:
    """The records that a row was run on."""
    return [record for record in records if row in record["rows"]]


def values(records: Records, row: str, measure: str) -> np.ndarray:
    """A measure of a row on the cases that it was run on; nan where it is undefined."""
    found = [record["rows"][row].get(measure) for record in having(records, row)]
    return np.array([math.nan if value is None else value for value in found], float)


def bootstrap(names: Sequence[str], found: np.ndarray) -> Interval:
    """Mean of the individuals' means, and its 95 % interval over draws of individuals.

    names: individual of each value; found: values, nan ones are left out.
    """
    known = np.isfinite(found)
    individuals = sorted(set(np.array(names)[known].tolist()))
    if not individuals:
        return {"mean": None, "low": None, "high": None, "individuals": 0}
    means = np.array([found[known & (np.array(names) == name)].mean() for name in individuals])
    low = high = None
    if len(means) > 1:
        drawn = np.random.default_rng(SEED).integers(len(means), size=(DRAWS, len(means)))
        low, high = (float(value) for value in np.percentile(means[drawn].mean(axis=1), (2.5, 97.5)))
    return {"mean": float(means.mean()), "low": low, "high": high, "individuals": len(means)}


def summary(records: Records, row: str) -> dict:
    """A row's figures over cases.

    Seconds are the processor's, since others may use the machine.
    """
    mine = having(records, row)
    names = [record["individual"] for record in mine]
    costs = [record["rows"][row] for record in mine]
    peaks = [cost["peak_mib"] for cost in costs if cost["peak_mib"] is not None]
    dsc = values(mine, row, "dsc")
    return {
        "cases": len(mine),
        "missed": sum(bool(cost["missed"]) for cost in costs),
        "false_defects": sum(cost["false_defects"] for cost in costs),
        "dsc_worst": float(dsc.min()) if len(dsc) else None,
        "seconds": float(np.mean([cost["processor_seconds"] for cost in costs])) if costs else None,
        "peak_mib": float(max(peaks)) if peaks else None,
    } | {measure: bootstrap(names, values(mine, row, measure)) for measure in MEASURES}


def paired(records: Records, row: str, other: str, measure: str = "dsc") -> Interval:
    """How far a row is ahead of another on the cases that both were run on and have a value for.

    difference: mean over individuals of row minus other, with its 95 % interval; p: of Wilcoxon's signed-rank test of
    the individuals' mean differences, two-sided.
    """
    both = having(having(records, row), other)
    delta = values(both, row, measure) - values(both, other, measure)
    known = np.isfinite(delta)
    names = np.array([record["individual"] for record in both])
    found = bootstrap(names.tolist(), delta)
    means = np.array([delta[known & (names == name)].mean() for name in sorted(set(names[known].tolist()))])
    sign = 1 if measure in ("dsc", "bdsc", "usable") else -1
    return {
        "cases": int(known.sum()),
        "difference": found["mean"],
        "low": found["low"],
        "high": found["high"],
        "individuals": found["individuals"],
        "ahead": int((sign * delta[known] > 0).sum()),
        "p": None if not len(means) else float(stats.wilcoxon(means).pvalue) if means.any() else 1.0,
    }


def thickness_class(record: dict) -> str | None:
    """The class of THICKNESSES that a case belongs to."""
    thickness = record.get("thickness_mm")
    if thickness is None:
        return None
    return next(name for name, (low, high) in THICKNESSES.items() if low <= thickness < high)


def report(records: Records, rows: Sequence[str], ours: str, titles: dict[str, str]) -> dict:
    """Statistics of a group of cases: each row's summary, ours by class of cases, and ours against the others."""

    def by(key: Callable[[dict], str | None], order: Sequence[str] = ()) -> dict[str, dict]:
        mine = having(records, ours)
        names = [name for name in dict.fromkeys(key(record) for record in mine) if name]
        names.sort(key=lambda name: order.index(name) if name in order else len(order))
        return {name: summary([r for r in mine if key(r) == name], ours) for name in names}

    return {
        "rows": {row: {"title": titles.get(row, row)} | summary(records, row) for row in rows},
        "by_size": by(lambda record: record.get("size"), ("small", "medium", "large", "very large")),
        "by_site": by(lambda record: record.get("site")),
        "by_thickness": by(thickness_class, tuple(THICKNESSES)),
        "by_defect": by(lambda record: record["defect"]),
        "by_individual": by(lambda record: record["individual"]),
        "ours_against": {
            row: {measure: paired(records, ours, row, measure) for measure in PAIRED}
            for row in rows
            if row != ours and ours in rows
        },
    }


def slices_report(records: Records, ours: str) -> dict[str, dict]:
    """Statistics of the cases in slices, by their thickness in mm."""
    found = {}
    for thickness in sorted({record["slices_mm"] for record in records}):
        mine = having((record for record in records if record["slices_mm"] == thickness), ours)
        names = [record["individual"] for record in mine]
        found[f"{thickness:g}"] = {
            "cases": len(mine),
            "missed": sum(bool(record["rows"][ours]["missed"]) for record in mine),
        } | {measure: bootstrap(names, values(mine, ours, measure)) for measure in SLICES}
    return found


# Text ----------------------------------------------------------------------------------------------------------------


_HEAD = (
    "n", "missed", "false", "outer, mm", "P95", "inner, mm", "P95", "step", "gap", "DSC", "worst", "bDSC", "HD95, mm",
    "usable", "s",
)  # fmt: skip


def _cells(f: dict) -> list[str]:
    return [
        str(f["cases"]), str(f["missed"]), str(f["false_defects"]), _i(f["outer_mm"], 2), _m(f["outer_p95_mm"], 2),
        _i(f["inner_mm"], 2), _m(f["inner_p95_mm"], 2), _m(f["step_mm"], 2), _m(f["rim_gap_mm"], 2), _i(f["dsc"], 3),
        _n(f["dsc_worst"]), _m(f["bdsc"], 3), _i(f["hd95_mm"], 2), _share(f["usable"]), _n(f["seconds"], 1),
    ]  # fmt: skip


def as_text(content: dict, ours: str) -> str:
    """A report as Markdown tables, which a terminal shows as well."""
    rows = content["rows"]
    body = [(row, f["title"], *_cells(f)) for row, f in rows.items()]
    lines = [*_markdown(("row", "", *_HEAD), body), ""]
    classes = (("size", "by_size"), ("site", "by_site"), ("thickness", "by_thickness"), ("defect", "by_defect"))
    for name, key in (*classes, ("individual", "by_individual")):
        body = [(group, *_cells(found)) for group, found in content[key].items()]
        if body:
            lines += [*_markdown((f"`{ours}` by {name}", *_HEAD), body), ""]
    if content["ours_against"]:
        head = [f"`{ours}` minus", "n"]
        for measure in PAIRED:
            head += [measure.replace("_mm", ", mm"), "ahead", "p"]
        body = []
        for row, found in content["ours_against"].items():
            cells = [row, str(found["dsc"]["cases"])]
            for measure in PAIRED:
                f = found[measure]
                interval = {"mean": f["difference"], "low": f["low"], "high": f["high"]}
                cells += [_i(interval, 3, True), f"{f['ahead']} of {f['cases']}", _p(f["p"])]
            body.append(tuple(cells))
        lines += [*_markdown(head, body), ""]
    return "\n".join(lines)


def slices_as_text(content: dict[str, dict], title: str) -> str:
    """A report of slices as a Markdown table."""
    head = (f"{title}, slices, mm", "n", "missed", "outer, mm", "P95", "inner, mm", "P95")
    body = [
        (name, str(f["cases"]), str(f["missed"]), _i(f["outer_mm"], 2), _m(f["outer_p95_mm"], 2),
         _i(f["inner_mm"], 2), _m(f["inner_p95_mm"], 2))
        for name, f in content.items()
    ]  # fmt: skip
    return "\n".join([*_markdown(head, body), ""])


def _n(value: float | None, digits: int = 3, signed: bool = False) -> str:
    return "-" if value is None else f"{value:{'+' if signed else ''}.{digits}f}"


def _m(found: Interval, digits: int) -> str:
    return _n(found["mean"], digits)


def _i(found: Interval, digits: int, signed: bool = False) -> str:
    """A mean with its interval."""
    mean = _n(found["mean"], digits, signed)
    if found["low"] is None:
        return mean
    return f"{mean} ({_n(found['low'], digits, signed)} to {_n(found['high'], digits, signed)})"


def _share(found: Interval) -> str:
    if found["mean"] is None:
        return "-"
    interval = "" if found["low"] is None else f" ({found['low']:.0%} to {found['high']:.0%})"
    return f"{found['mean']:.0%}{interval}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    rule = [("-" if column == 0 else "") + "-" * (width - (column == 0)) for column, width in enumerate(widths)]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (head, rule, *body)
    ]
