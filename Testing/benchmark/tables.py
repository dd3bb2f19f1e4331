"""The figures as tables: by row, by kind of defect, by individual, and row against row, case by case."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

MEASURES = ("dsc", "bdsc", "hd95_mm", "rim_gap_mm")


def values(records: Sequence[dict], row: str, measure: str) -> np.ndarray:
    """A measure of a row on all cases; what a missing implant leaves undefined is infinite."""
    found = [record["rows"][row][measure] for record in records]
    return np.array([math.inf if value is None else value for value in found], float)


def summary(records: Sequence[dict], row: str) -> dict[str, float | int | None]:
    """A row's figures over cases.

    missed: cases without an implant, whose DSC is 0. Their distances are infinite: they count in the median, and
    the mean is that of the other cases. Seconds are the processor's, since others may use the machine.
    """
    dsc, bdsc, hd95, rim = (values(records, row, name) for name in MEASURES)
    missed = np.isinf(hd95)
    costs = [record["rows"][row] for record in records]
    peaks = [cost["peak_mib"] for cost in costs if cost["peak_mib"] is not None]
    return {
        "cases": len(records),
        "dsc": float(dsc.mean()),
        "dsc_worst": float(dsc.min()),
        "bdsc": float(bdsc.mean()),
        "hd95_median_mm": _finite(float(np.median(hd95))),
        "hd95_mean_mm": float(hd95[~missed].mean()) if not missed.all() else None,
        "rim_gap_median_mm": _finite(float(np.median(rim))),
        "missed": int(missed.sum()),
        "seconds": float(np.mean([cost["processor_seconds"] for cost in costs])),
        "peak_mib": float(max(peaks)) if peaks else None,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def paired(records: Sequence[dict], row: str, other: str, measure: str = "dsc") -> dict[str, float | int | None]:
    """How far a row is ahead of another on the same cases.

    difference: mean of row minus other, with its standard error over cases; p: of Wilcoxon's signed-rank test,
    two-sided; clustered_error: the standard error over individuals' mean differences, which is the honest one where the
    cases of one skull are alike. Cases on which either has no value are left out.
    """
    first, second = values(records, row, measure), values(records, other, measure)
    both = np.isfinite(first) & np.isfinite(second)
    delta = first[both] - second[both]
    if not len(delta):
        return {"cases": 0, "difference": None, "error": None, "clustered_error": None, "ahead": 0, "p": None}
    names = np.array([record["individual"] for record in records])[both]
    means = np.array([delta[names == name].mean() for name in sorted(set(names))])
    ties = not np.any(delta)
    sign = 1 if measure in ("dsc", "bdsc") else -1
    return {
        "cases": len(delta),
        "difference": float(delta.mean()),
        "error": _error(delta),
        "clustered_error": _error(means),
        "ahead": int((sign * delta > 0).sum()),
        "p": 1.0 if ties else float(stats.wilcoxon(delta).pvalue),
    }


def _error(sample: np.ndarray) -> float | None:
    return float(sample.std(ddof=1) / math.sqrt(len(sample))) if len(sample) > 1 else None


def report(records: Sequence[dict], rows: Sequence[str], ours: str, titles: dict[str, str]) -> dict:
    """Statistics of a group of cases: each row's summary, by defect, by individual, ours against the others."""

    def by(key: str) -> dict[str, dict[str, float]]:
        groups = dict.fromkeys(record[key] for record in records)
        return {
            group: {row: float(values([r for r in records if r[key] == group], row, "dsc").mean()) for row in rows}
            for group in groups
        }

    return {
        "rows": {row: {"title": titles.get(row, row)} | summary(records, row) for row in rows},
        "dsc_by_defect": by("defect"),
        "dsc_by_individual": by("individual"),
        "ours_against": {
            row: {measure: paired(records, ours, row, measure) for measure in MEASURES}
            for row in rows
            if row != ours and ours in rows
        },
    }


def as_text(content: dict, ours: str) -> str:
    """A report as Markdown tables, which a terminal shows as well."""
    rows = content["rows"]
    count = next(iter(rows.values()))["cases"]
    lines = [f"{count} cases", ""]
    head = ("row", "", "DSC", "worst", "bDSC", "HD95 median", "mean", "rim gap P95", "missed", "s", "MiB")
    body = [
        (row, f["title"], _n(f["dsc"]), _n(f["dsc_worst"]), _n(f["bdsc"]), _n(f["hd95_median_mm"], 2),
         _n(f["hd95_mean_mm"], 2), _n(f["rim_gap_median_mm"], 2), str(f["missed"]), _n(f["seconds"], 1),
         _n(f["peak_mib"], 0))
        for row, f in rows.items()
    ]  # fmt: skip
    lines += [*_markdown(head, body), ""]
    for name, key in (("DSC by defect", "dsc_by_defect"), ("DSC by individual", "dsc_by_individual")):
        body = [(group, *(_n(found[row]) for row in rows)) for group, found in content[key].items()]
        lines += [*_markdown((name, *rows), body), ""]
    if content["ours_against"]:
        head = (
            f"{ours} minus",
            "DSC",
            "error",
            "by skull",
            "ahead",
            "p",
            "HD95, mm",
            "error",
            "by skull",
            "ahead",
            "p",
        )
        body = []
        for row, found in content["ours_against"].items():
            cells = [row]
            for measure, digits in (("dsc", 4), ("hd95_mm", 2)):
                f = found[measure]
                cells += [_n(f["difference"], digits, True), _n(f["error"], digits), _n(f["clustered_error"], digits)]
                cells += [f"{f['ahead']} of {f['cases']}", _p(f["p"])]
            body.append(tuple(cells))
        lines += [*_markdown(head, body), ""]
    return "\n".join(lines)


def _n(value: float | None, digits: int = 3, signed: bool = False) -> str:
    return "-" if value is None else f"{value:{'+' if signed else ''}.{digits}f}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    rule = [("-" if column == 0 else "") + "-" * (width - (column == 0)) for column, width in enumerate(widths)]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (head, rule, *body)
    ]
