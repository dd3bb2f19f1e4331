"""The benchmark's figures: every case of every row, how far ours is ahead of each, and ours by size and thickness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from SkullVAELib.core.atomic_output import atomic_file

from .cases import SIZES
from .tables import bootstrap, having, paired, values

CT_COLOUR, MRI_COLOUR = "#c8553d", "#8aa5b5"


def _from_ct(records: Sequence[dict]) -> np.ndarray:
    return np.array([bool(record["ct"]) for record in records])


def write_figure(path: Path, records: Sequence[dict], rows: Sequence[str], ours: str, titles: dict[str, str]) -> None:
    """Left: DSC of every case by row, with the mean; right: how far ours is ahead, with the 95 % interval."""
    shown = [row for row in rows if row != "nothing" and having(records, row)]
    shown.sort(key=lambda row: values(records, row, "dsc").mean())
    figure = Figure(figsize=(11, 1.3 + 0.45 * len(shown)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1), sharey=True)
    rng = np.random.default_rng(0)
    for height, row in enumerate(shown):
        dsc, ct = values(records, row, "dsc"), _from_ct(having(records, row))
        for chosen, colour, name in ((~ct, MRI_COLOUR, "MRI-based"), (ct, CT_COLOUR, "CT")):
            left.scatter(
                dsc[chosen], height + rng.uniform(-0.22, 0.22, chosen.sum()), 11, color=colour, alpha=0.8,
                label=name if height == 0 else None, linewidths=0,
            )  # fmt: skip
        left.plot([dsc.mean()] * 2, [height - 0.35, height + 0.35], color="black", lw=2)
        if row != ours and ours in shown:
            found = paired(records, ours, row)
            if found["difference"] is not None:
                right.plot(found["difference"], height, "o", color="#1c5d7a")
            if found["low"] is not None:
                right.plot([found["low"], found["high"]], [height] * 2, color="#1c5d7a", lw=2)
    left.set_yticks(range(len(shown)), [titles.get(row, row) for row in shown])
    left.set_xlabel("DSC of the implant (each dot is a case, the bar their mean)")
    figure.legend(fontsize=8, frameon=False, loc="outside upper center", ncols=5)
    right.axvline(0, color="grey", lw=0.8)
    right.set_xlabel("DSC of ours minus the row's,\n95 % interval over individuals", fontsize=8)
    _write(figure, (left, right), path)


def write_errors(path: Path, records: Sequence[dict], ours: str) -> None:
    """Errors of ours in mm: left, of both tables by the size of the defect; right, of both by its bone's thickness."""
    mine = having(records, ours)
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for measure, marker, shift in (("outer_mm", "o", -0.08), ("inner_mm", "s", 0.08)):
        for ct, colour in ((False, MRI_COLOUR), (True, CT_COLOUR)):
            label = f"{measure.removesuffix('_mm')} table, {'CT' if ct else 'MRI-based'}"
            for place, size in enumerate(SIZES):
                of_size = [r for r in mine if r.get("size") == size and bool(r["ct"]) == ct]
                names = [record["individual"] for record in of_size]
                found = bootstrap(names, values(of_size, ours, measure))
                at = place + shift + (0.04 if ct else -0.04)
                if found["mean"] is not None:
                    left.plot(at, found["mean"], marker, color=colour)
                if found["low"] is not None:
                    left.plot([at, at], [found["low"], found["high"]], color=colour, lw=1.5)
            chosen = [r for r in mine if bool(r["ct"]) == ct and r.get("thickness_mm") is not None]
            thickness = [record["thickness_mm"] for record in chosen]
            error = values(chosen, ours, measure)
            right.scatter(thickness, error, 14, color=colour, marker=marker, alpha=0.7, linewidths=0, label=label)
    left.set_ylim(bottom=0)
    left.set_xticks(range(len(SIZES)), SIZES)
    left.set_xlabel("size of the defect (mean and 95 % interval over individuals)")
    left.set_ylabel("mean error, mm")
    right.set_xlabel("mean thickness of the removed bone, mm (each dot is a case)")
    right.legend(fontsize=8, frameon=False)
    _write(figure, (left, right), path)


def _write(figure: Figure, panels: tuple, path: Path) -> None:
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
