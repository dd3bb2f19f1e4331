"""A run against a former one, case by case: what has changed for each individual, and what has become worse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from SkullVAELib.core.errors import SkullVAEError

from .tables import _i, _markdown, _n, bootstrap, having

WORSE_DSC = 0.01
"""An individual or a case is worse if its DSC has fallen by more than this."""

SAME_ML = 0.03
"""The removed bone of one case differs by less than this share in two runs."""

MEASURES = ("dsc", "outer_mm", "inner_mm")

_Key = tuple[str, str, float | None]


def read_former(path: Path) -> tuple[list[dict], str]:
    """Records of a former run, and its row that counts as ours. Raises SkullVAEError where it is not such a file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["cases"], content["ours"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SkullVAEError(
            f"'{path}' is not a result of the accuracy benchmark", "Choose an accuracy.json of make bench-accuracy"
        ) from error


def _key(record: dict) -> _Key:
    return record["individual"], record["defect"], record["slices_mm"]


def compare(records: Sequence[dict], ours: str, former: Sequence[dict], former_ours: str) -> dict:
    """Changes of ours from a former run to this one, paired by case.

    Cases whose removed bone differs in volume are not the same and are left out, as are those of one run alone.
    """
    before = {_key(record): record for record in having(former, former_ours)}
    pairs, other = [], 0
    for record in having(records, ours):
        old = before.get(_key(record))
        if old is None or abs(old["truth_ml"] - record["truth_ml"]) > max(0.1, SAME_ML * record["truth_ml"]):
            other += 1
        else:
            pairs.append((record, record["rows"][ours], old["rows"][former_ours]))
    names = [record["individual"] for record, _, _ in pairs]

    def change(measure: str, chosen: str | None = None) -> np.ndarray:
        found = [
            new[measure] - old[measure]
            if (chosen in (None, record["individual"])) and None not in (new.get(measure), old.get(measure))
            else np.nan
            for record, new, old in pairs
        ]
        return np.array(found, float)

    def mean(measure: str, name: str) -> float | None:
        found = change(measure, name)
        return float(np.nanmean(found)) if np.isfinite(found).any() else None

    individuals = {
        name: {"cases": names.count(name)} | {measure: mean(measure, name) for measure in MEASURES}
        for name in sorted(set(names))
    }
    cases = [
        {"individual": r["individual"], "defect": r["defect"], "before": old["dsc"], "now": new["dsc"]}
        for r, new, old in pairs
        if "dsc" in new and new["dsc"] < old["dsc"] - WORSE_DSC
    ]
    return {
        "cases": len(pairs),
        "not_paired": other,
        "all": {measure: bootstrap(names, change(measure)) for measure in MEASURES},
        "individuals": individuals,
        "worse_individuals": [n for n, f in individuals.items() if f["dsc"] is not None and f["dsc"] < -WORSE_DSC],
        "worse_cases": sorted(cases, key=lambda case: case["now"] - case["before"]),
        "missed_before": sum(bool(old["missed"]) for _, _, old in pairs),
        "missed_now": sum(bool(new["missed"]) for _, new, _ in pairs),
    }


def as_text(content: dict) -> str:
    """Markdown tables of the changes."""
    lines = [
        f"Against the former run: {content['cases']} cases of both, {content['not_paired']} of this one alone; missed"
        f" {content['missed_before']} before, {content['missed_now']} now",
        "",
    ]
    head = ("change of", "n", "DSC", "outer, mm", "inner, mm")
    everyone = [_i(content["all"][measure], 3, True) for measure in MEASURES]
    body = [("all", str(content["cases"]), *everyone)]
    body += [
        (name, str(f["cases"]), *(_n(f[measure], 3, True) for measure in MEASURES))
        for name, f in content["individuals"].items()
    ]
    lines += [*_markdown(head, body), ""]
    lines += [f"Worse by more than {WORSE_DSC} DSC: {', '.join(content['worse_individuals']) or 'no individual'}", ""]
    if content["worse_cases"]:
        body = [
            (f"{c['individual']}, {c['defect']}", _n(c["before"]), _n(c["now"]), _n(c["now"] - c["before"], 3, True))
            for c in content["worse_cases"]
        ]
        lines += [*_markdown(("case that is worse", "before", "now", "change"), body), ""]
    return "\n".join(lines)
