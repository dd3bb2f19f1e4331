"""Calibration of the uncertainty: how often the true surface of held-out skulls lies within the 90 % band.

    python Testing/calibration.py --data FOLDER [--evaluation FOLDER] [--thin N] [--output FOLDER]

Takes the cases and the folds' mean skulls of accuracy.py. Points of the true surface count where they face outwards or
inwards and lie more than 1 mm from bone that was left; a case counts as one, whatever its size. The amplitudes of
completion/uncertainty.py are fitted to all individuals but one in turn, and the coverage of that one is measured, so
that no figure is of an individual that the amplitudes were fitted to. Prints that coverage, the coverage of the
amplitudes in the code, and the amplitudes that all individuals together give. Finished cases are kept in
OUTPUT/calibration.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from accuracy import measure_ours
from benchmark import contest
from benchmark.cases import cut_place
from benchmark.contest import Job, load_whole
from benchmark.rows import OURS
from scipy.optimize import brentq, minimize
from scipy.spatial import cKDTree

from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.completion.pipeline import complete
from SkullVAELib.completion.uncertainty import AMPLITUDES, BAND, Amplitudes
from SkullVAELib.core.progress import Stages
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.distance_field import downsample_mask, surface_points
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.shape.two_table import outward_directions

CODE = (Path(__file__),)
"""What a record depends on beside a row's own."""

REACH_MM = 2.0
MOST_POINTS = 200_000
KEPT = 600
"""Points of a table that are kept of a case."""

QUANTILES = (0.5, 0.68, 0.8, 0.9, 0.95)
"""Nominal coverages of the reliability plot."""


@dataclass(frozen=True)
class TrueSurface:
    """The complete skull's surface where the implant should be, canonical mm.

    Attributes
    ----------
    points, normals : torch.Tensor, shape (N, 3)
    outer, inner : numpy.ndarray, shape (N,)
        Bool, which points are on the outer and on the inner table.
    """

    points: torch.Tensor
    normals: torch.Tensor
    outer: np.ndarray
    inner: np.ndarray

    @classmethod
    def of(cls, whole: Volume, bone: np.ndarray, truth: np.ndarray, alignment: np.ndarray) -> TrueSurface:
        """whole, bone, truth: complete skull, what is left and what was removed; alignment: RAS -> canonical mm."""
        points, normals = surface_points(downsample_mask(whole))
        lost = apply_affine(whole.affine, np.argwhere(truth))
        box = (lost.min(0) - 10, lost.max(0) + 10)
        points, normals = (found[((points > box[0]) & (points < box[1])).all(1)] for found in (points, normals))
        left = apply_affine(whole.affine, np.argwhere(bone))
        left = left[((left > box[0]) & (left < box[1])).all(1)]
        to_lost, to_left = (
            cKDTree(there[:: max(1, len(there) // MOST_POINTS)]).query(points)[0] for there in (lost, left)
        )
        there = (to_lost < REACH_MM) & (to_left > to_lost) & (to_left > 1.0)
        at = torch.tensor(apply_affine(alignment, points[there])).float()
        away = torch.tensor(normals[there] @ np.linalg.inv(alignment[:3, :3])).float()
        away = torch.nn.functional.normalize(away, dim=1)
        facing = (away * outward_directions(at)).sum(1).numpy()
        return cls(at, away, facing > 0.5, facing < -0.5)


def run_job(job: Job) -> dict:
    """Errors of a case's tables in mm, with the variances that its uncertainty is made of; see `Uncertainty.parts`."""
    torch.set_num_threads(1)
    here = Path(__file__).parent
    key = contest.fingerprint(OURS, job.fold, job.file) + contest.code_hash(here, CODE)[:16]
    return contest.kept_record(job.output / "calibration" / f"{job.name}.json", key, lambda: measured(job))


def measured(job: Job) -> dict:
    """As run_job, without looking for a record."""
    whole, bone, truth = cut_place(load_whole(job.file), job.number)
    made = complete(whole.with_array(bone.astype(np.uint8)), job.fold.load(), CompletionOptions(), Stages({"all": 1.0}))
    record: dict = {"individual": job.individual, "place": job.number, "ct": job.ct, "tables": []}
    uncertainty = made.uncertainty if made.found else None
    if uncertainty is not None and made.proposal is not None:
        surface = TrueSurface.of(whole, bone, truth, made.proposal.alignment)
        rng = np.random.default_rng(0)
        for table, side in enumerate((surface.outer, surface.inner)):
            chosen = rng.permutation(np.flatnonzero(side))[:KEPT]
            points = surface.points[torch.tensor(chosen)]
            parts = uncertainty.grid.sample(uncertainty.parts(table), points).numpy().T
            columns = [made.proposal.warped.field(points).numpy(), *parts]
            record["tables"].append([[round(float(v), 4) for v in column] for column in columns])
    return record


@dataclass(frozen=True)
class Table:
    """One table of one case: errors (N,) in mm, and parts (P, N) of its variance, see `Uncertainty.parts`."""

    individual: str
    table: int
    error: np.ndarray
    parts: np.ndarray

    def deviation(self, amplitudes: Amplitudes) -> np.ndarray:
        """Standard deviation (N,) in mm."""
        return np.sqrt(amplitudes.variance(self.parts, self.table))

    def coverage(self, amplitudes: Amplitudes, half_width: float = BAND) -> float:
        """Fraction of the points within so many standard deviations."""
        return float((np.abs(self.error) < half_width * self.deviation(amplitudes)).mean())


def tables_of(records: Sequence[dict]) -> list[Table]:
    """Tables with points, of all cases."""
    found = []
    for record in records:
        for table, columns in enumerate(record["tables"]):
            values = np.array(columns, float)
            if values.shape[1]:
                found.append(Table(record["individual"], table, values[0], values[1:]))
    return found


def fit(tables: Sequence[Table]) -> Amplitudes:
    """The amplitudes of greatest likelihood under a Laplace law, cases weighted alike, widened to cover 90 %.

    Errors have longer tails than a Gaussian; its likelihood would be decided by a few points far off.
    """
    start = np.log(np.array(AMPLITUDES.as_vector()))

    def cost(logarithms: np.ndarray) -> float:
        amplitudes = Amplitudes.from_vector(np.exp(logarithms))
        total = 0.0
        for table in tables:
            deviation = table.deviation(amplitudes)
            total += float((np.log(deviation) + np.sqrt(2) * np.abs(table.error) / deviation).mean())
        return total / len(tables) + 1e-3 * float(((logarithms - start) ** 2).sum())

    found = minimize(cost, start, method="Nelder-Mead", options={"maxiter": 600, "xatol": 0.02, "fatol": 1e-4}).x
    amplitudes = Amplitudes.from_vector(np.exp(found))
    scale = []
    for table in (0, 1):
        ratio = [np.quantile(np.abs(t.error) / t.deviation(amplitudes), 0.9) for t in tables if t.table == table]
        scale.append(float(np.mean(ratio)) / BAND)
    return amplitudes.scaled(*scale)


def held_out(tables: Sequence[Table]) -> dict[str, Amplitudes]:
    """Individual -> amplitudes fitted to all others."""
    names = sorted({table.individual for table in tables})
    return {name: fit([table for table in tables if table.individual != name]) for name in names}


def by_individual(tables: Sequence[Table], amplitudes: dict[str, Amplitudes] | Amplitudes) -> dict[str, dict]:
    """Individual -> coverage of both tables and of each, mean error and mean band in mm."""
    found = {}
    for name in sorted({table.individual for table in tables}):
        own = amplitudes[name] if isinstance(amplitudes, dict) else amplitudes
        mine = [table for table in tables if table.individual == name]
        shares = [[t.coverage(own) for t in mine if t.table == table] for table in (0, 1)]
        outer, inner = (float(np.mean(values)) if values else float("nan") for values in shares)
        found[name] = {
            "cases": max(map(len, shares)),
            "coverage": round(float(np.nanmean([outer, inner])), 4),
            "outer": round(outer, 4),
            "inner": round(inner, 4),
            "error_mm": round(float(np.mean([np.abs(t.error).mean() for t in mine])), 3),
            "band_mm": round(float(np.mean([BAND * t.deviation(own).mean() for t in mine])), 3),
        }
    return found


def reliability(tables: Sequence[Table], amplitudes: dict[str, Amplitudes]) -> list[dict]:
    """Measured coverage of bands of different nominal coverage under a Gaussian law."""
    from scipy.stats import norm

    found = []
    for nominal in QUANTILES:
        width = float(norm.ppf((1 + nominal) / 2))
        shares = [t.coverage(amplitudes[t.individual], width) for t in tables]
        found.append({"nominal": nominal, "measured": round(float(np.mean(shares)), 4)})
    return found


def half_width(tables: Sequence[Table], amplitudes: dict[str, Amplitudes]) -> float:
    """Standard deviations within which 90 % of the surface lies, with the amplitudes of the other individuals.

    More than the 1.645 of a normal distribution: a few defects are far worse than the bone around them tells.
    """

    def missing(width: float) -> float:
        return float(np.mean([t.coverage(amplitudes[t.individual], width) for t in tables])) - 0.9

    return float(brentq(missing, 0.5, 6.0, xtol=1e-3))


def draw_reliability(path: Path, bins: Sequence[dict], individuals: dict[str, dict]) -> None:
    """Measured against nominal coverage, and the coverage of the 90 % band of each individual."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2))
    left.plot([0, 1], [0, 1], color="#999999", linewidth=1, label="perfect")
    left.plot([b["nominal"] for b in bins], [b["measured"] for b in bins], "o-", color="#1f6f8b", label="held out")
    left.set(xlim=(0.4, 1.02), ylim=(0.4, 1.02), xlabel="nominal coverage", ylabel="measured coverage")
    left.legend(frameon=False, loc="upper left")
    shares = sorted(100 * found["coverage"] for found in individuals.values())
    right.axhspan(80, 97, color="#e6eef2")
    right.axhline(90, color="#999999", linewidth=1)
    right.plot(range(1, len(shares) + 1), shares, "o", color="#1f6f8b")
    right.set(xlabel="individuals, sorted", ylabel="within the 90 % band, %", ylim=(min(60, *shares) - 2, 101))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def as_text(found: dict[str, dict]) -> str:
    """A line for each individual, and one for all."""
    lines = [
        "| individual | cases | within the band | outer | inner | error, mm | band, mm |",
        "|---|---|---|---|---|---|---|",
    ]
    keys = ("coverage", "outer", "inner", "error_mm", "band_mm")
    mean = {key: float(np.nanmean([row[key] for row in found.values()])) for key in keys}
    mean["cases"] = sum(row["cases"] for row in found.values())
    for name, row in (*found.items(), ("mean", mean)):
        shares = " | ".join(f"{row[key]:.1%}" for key in keys[:3])
        lines.append(f"| {name} | {row['cases']} | {shares} | {row['error_mm']:.2f} | {row['band_mm']:.2f} |")
    inside = sum(0.8 <= row["coverage"] <= 0.97 for row in found.values())
    lines.append(f"\n80 to 97 % in {inside} of {len(found)} individuals.")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run the calibration; 0 done, 2 bad input."""
    arguments, records = measure_ours(argv, "calibration.py", run_job)
    if not records:
        return 2
    tables = tables_of(records)
    fitted = held_out(tables)
    result = {
        "held out": by_individual(tables, fitted),
        "code": by_individual(tables, AMPLITUDES),
        "reliability": reliability(tables, fitted),
        "amplitudes": [round(value, 4) for value in fit(tables).as_vector()],
        "half-width, standard deviations": round(half_width(tables, fitted), 3),
    }
    (arguments.output / "calibration.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw_reliability(arguments.output / "calibration.svg", result["reliability"], result["held out"])
    for title in ("held out", "code"):
        print(f"## {title}\n\n{as_text(result[title])}\n")
    for name in ("amplitudes", "half-width, standard deviations", "reliability"):
        print(f"{name}: {result[name]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
