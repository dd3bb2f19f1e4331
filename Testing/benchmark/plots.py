"""The benchmark's figure: every case of every row, and how far ours is ahead of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from SkullVAELib.core.atomic_output import atomic_file

from .tables import paired, values


def write_figure(path: Path, records: Sequence[dict], rows: Sequence[str], ours: str, titles: dict[str, str]) -> None:
    """Left: DSC of every case by row, with the mean; right: by how much ours is ahead, with two standard errors."""
    shown = [row for row in rows if row != "nothing"]
    shown.sort(key=lambda row: values(records, row, "dsc").mean())
    names = list(dict.fromkeys(record["individual"] for record in records))
    colours = dict(zip(names, colormaps["tab10"](np.linspace(0, 1, 10)), strict=False))
    figure = Figure(figsize=(11, 1.3 + 0.45 * len(shown)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1), sharey=True)
    rng = np.random.default_rng(0)
    for height, row in enumerate(shown):
        dsc = values(records, row, "dsc")
        for name in names:
            of_name = np.array([record["individual"] == name for record in records])
            left.scatter(
                dsc[of_name], height + rng.uniform(-0.22, 0.22, of_name.sum()), 11, color=colours[name], alpha=0.8,
                label=name if height == 0 else None, linewidths=0,
            )  # fmt: skip
        left.plot([dsc.mean()] * 2, [height - 0.35, height + 0.35], color="black", lw=2)
        if row != ours:
            found = paired(records, ours, row)
            for error, width in ((found["clustered_error"], 4), (found["error"], 1.5)):
                if error is not None:
                    reach = np.array([-2, 2]) * error + found["difference"]
                    right.plot(reach, [height] * 2, color="#8aa5b5" if width == 4 else "#1c5d7a", lw=width)
            right.plot(found["difference"], height, "o", color="#1c5d7a")
    left.set_yticks(range(len(shown)), [titles.get(row, row) for row in shown])
    left.set_xlabel("DSC of the implant (a dot a case, the bar their mean)")
    figure.legend(fontsize=8, frameon=False, loc="outside upper center", ncols=5)
    right.axvline(0, color="grey", lw=0.8)
    right.set_xlabel(
        "DSC of ours minus the row's, 2 standard errors\n(thin: over cases, thick: over skulls)", fontsize=8
    )
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
