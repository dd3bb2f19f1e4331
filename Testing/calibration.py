"""Calibration of the uncertainty: how often the true surface of held-out skulls lies within the band of nine in ten.

    python Testing/calibration.py --data FOLDER --folds FOLDER [--individuals NAMES] [--places NUMBERS]

Takes the cases and models of accuracy.py. A case counts as one, whatever its size. Points of the true surface count
where they face outwards or inwards and lie more than 1 mm from bone that was left.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from accuracy import jobs_of, parse, say
from benchmark import contest
from benchmark.cases import PLACES, cut_place
from benchmark.contest import Job, load_whole
from benchmark.rows import OURS
from scipy.spatial import cKDTree

from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.completion.pipeline import complete
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.progress import Stages
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.distance_field import downsample_mask, surface_points
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.shape.two_table import outward_directions

REACH_MM = 2.0
MOST_POINTS = 200_000


@dataclass(frozen=True)
class Covered:
    """A case's shares of the true surface within the band, and medians in mm; None where there was no implant."""

    individual: str
    defect: str
    outer: float | None = None
    inner: float | None = None
    error_mm: float | None = None
    band_mm: float | None = None


def true_surface(whole: Volume, bone: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) and normals (N, 3), RAS mm, of the complete skull's surface where the implant should be."""
    points, normals = surface_points(downsample_mask(whole))
    lost = apply_affine(whole.affine, np.argwhere(truth))
    box = (lost.min(0) - 10, lost.max(0) + 10)
    points, normals = (found[((points > box[0]) & (points < box[1])).all(1)] for found in (points, normals))
    left = apply_affine(whole.affine, np.argwhere(bone))
    left = left[((left > box[0]) & (left < box[1])).all(1)]
    to_lost, to_left = (cKDTree(there[:: max(1, len(there) // MOST_POINTS)]).query(points)[0] for there in (lost, left))
    there = (to_lost < REACH_MM) & (to_left > to_lost) & (to_left > 1.0)
    return points[there], normals[there]


def run_job(job: Job) -> Covered:
    """Complete a case and see how much of the true surface lies within the band."""
    torch.set_num_threads(1)
    whole, bone, truth = cut_place(load_whole(job.file), job.number)
    volume = whole.with_array(bone.astype(np.uint8))
    made = complete(volume, job.fold.load(), CompletionOptions(prior=OURS), Stages({"all": 1.0}))
    if not made.found:
        return Covered(job.individual, PLACES[job.number].name)
    points, normals = true_surface(whole, bone, truth)
    matrix = made.proposal.alignment
    at = torch.tensor(apply_affine(matrix, points)).float()
    away = torch.nn.functional.normalize(torch.tensor(normals @ np.linalg.inv(matrix[:3, :3])).float(), dim=1)
    facing = (away * outward_directions(at)).sum(1).numpy()
    error = made.proposal.warped.field(at).abs().numpy()
    band = made.uncertainty.band_mm(at, away)
    shares = [float((error < band)[side].mean()) for side in (facing > 0.5, facing < -0.5)]
    table = np.abs(facing) > 0.5
    return Covered(
        job.individual, PLACES[job.number].name, *shares, float(np.median(error[table])), float(np.median(band[table]))
    )


def as_text(found: list[Covered]) -> str:
    """A line a skull and one for all, Markdown."""
    lines = [
        "| skull | cases | outer table within | inner table within | error, mm, median | band, mm, median |",
        "|---|---|---|---|---|---|",
    ]
    for name in (*dict.fromkeys(case.individual for case in found), "all"):
        of_it = [case for case in found if name in (case.individual, "all") and case.band_mm is not None]
        keys = ("outer", "inner", "error_mm", "band_mm")
        means = [np.nanmean([getattr(case, key) for case in of_it]) for key in keys]
        lines.append(f"| {name} | {len(of_it)} | {means[0]:.1%} | {means[1]:.1%} | {means[2]:.2f} | {means[3]:.2f} |")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run the calibration; 0 done, 2 bad input."""
    arguments = parse(argv)
    try:
        jobs = [job for job in jobs_of(arguments, (OURS,)) if not PLACES[job.number].facial]
    except SkullVAEError as error:
        say(f"calibration.py: {error}")
        return 2
    found = contest.each(run_job, jobs, arguments.jobs, lambda case, fraction: say(f"{fraction:4.0%} {case}"))
    print(as_text(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
