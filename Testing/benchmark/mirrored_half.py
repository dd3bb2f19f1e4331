"""Does the patient's own other half help, beyond what the GP correction takes from it? Large, one-sided defects.

    python Testing/benchmark/mirrored_half.py OUT --data FOLDER [--evaluation FOLDER2] [--folds FOLDER] [--most 2]

Takes the plan of cases and the folds' mean skulls of accuracy.py: of each individual, at most --most defects of the
classes large and very large that lie on one side of the head. The hole is pointed at. Two ideas are measured:

    symmetry S      the GP correction, with the correlation S of a residual with that at its mirror image (as shipped:
                    0.75)
    mirror W        the shape is the mean skull and the patient's own mirror image, both warped to the mean skull and
                    mixed table by table with the weight W of the mirror image where that is bone, before the GP
    mirror W, S=0   the same, with a GP correction that does not use the mirror image a second time

Errors are those of benchmark/swapped_prior.py, in mm, before anything becomes voxels. For each individual the variant
that is best on all others is chosen and measured on it (nested). Each case is a line of OUT/mirrored_half.jsonl, and is
not run again. Exit code: 0, or 2 for bad arguments.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import accuracy
import numpy as np
import torch
import torch.nn.functional as F

from benchmark import contest
from benchmark.cases import PLACES
from benchmark.contest import Job
from benchmark.found_holes import read_records
from benchmark.rows import OURS
from benchmark.swapped_prior import Case, mixed
from SkullVAELib.completion.options import GaussianProcessOptions
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.shape.two_table import TwoTableShape
from SkullVAELib.shape.warped import WarpedShape

SHIPPED = "symmetry 0.75"
SYMMETRIES = (0.0, 0.5, 0.9)
WEIGHTS = (0.25, 0.5, 0.75)

ONE_SIDED = 0.95
"""Least share of the removed bone on one side of the head."""

NUMBERS = (5, 6, 11, 13, 19, 20)
"""Large and very large defects that may lie on one side."""

OTHER_MM = 4.0
"""Where a table of the mirror image is further from the mean skull's than this, it is a hole or other bone."""

NEAR_MM = 2.0
"""Nodes up to this far from the mean skull's bone belong to its plate."""


def one_sided(case: Case) -> float:
    """Share of the removed bone that is on its side of the midsagittal plane."""
    to_canonical = case.patient.registered.alignment @ case.truth.affine
    right = float((apply_affine(to_canonical, np.argwhere(case.truth.array))[:, 0] > 0).mean())
    return max(right, 1 - right)


def mirror_weight(mean: TwoTableShape, mirror: TwoTableShape) -> torch.Tensor:
    """(X, Y, Z) 0..1, where the mirror image is bone as in the mean skull; smooth over 10 mm to make no step."""
    difference = torch.maximum((mirror.outer - mean.outer).abs(), (mirror.inner - mean.inner).abs())
    same = ((difference < OTHER_MM) & (mirror.plate > 0.5)).float()
    # Away from the plate the tables mean nothing: the average is over nodes of the plate alone.
    near = ((mean.plate > 0.5) & (mean.field < NEAR_MM)).float()
    share, count = (F.avg_pool3d(each[None, None], 5, stride=1, padding=2)[0, 0] for each in (same * near, near))
    return share / count.clamp(min=1e-6)


def variants(case: Case) -> Iterator[tuple[str, WarpedShape]]:
    """Name and corrected shape of every variant, the shipped one first."""
    patient = case.patient
    mean = patient.first
    shipped = GaussianProcessOptions()
    alone = replace(shipped, symmetry=0.0)
    yield SHIPPED, case.corrected(mean)
    for symmetry in SYMMETRIES:
        yield f"symmetry {symmetry:g}", case.corrected(mean, replace(shipped, symmetry=symmetry))
    mirror = TwoTableShape.of(patient.registered.field.flip(0), case.grid)
    weight = mirror_weight(mean.shape, mirror)
    without = patient.rim_of(mean, alone)
    for share in WEIGHTS:
        both = case.warped(mixed(mean.shape, mirror, share * weight))
        yield f"mirror {share:g}", case.corrected(both)
        yield f"mirror {share:g}, S=0", without.correct(both)


def measured(job: Job) -> dict:
    """Errors of every variant on a case."""
    case = Case.of(contest.load_whole(job.file), job.number, job.fold.load())
    record = {"individual": job.individual, "place": job.number, "size": PLACES[job.number].size_class, "ct": job.ct}
    record["one_sided"] = round(one_sided(case), 3)
    return record | {"variants": {name: case.errors(shape) for name, shape in variants(case)}}


def chosen_jobs(jobs: Sequence[Job], most: int) -> list[Job]:
    """At most so many large, one-sided defects of each individual, other ones for each."""
    found = []
    for turn, name in enumerate(sorted({job.individual for job in jobs})):
        mine = [job for job in jobs if job.individual == name and job.number in NUMBERS]
        found += [mine[(turn + n) % len(mine)] for n in range(min(most, len(mine)))]
    return found


def errors_of(records: Sequence[dict], measure: str = "mm") -> tuple[list[str], np.ndarray]:
    """Names of the variants, and means (individuals, variants) of a measure."""
    names = list(records[0]["variants"])
    people = sorted({record["individual"] for record in records})
    rows = [[[r["variants"][n][measure] for n in names] for r in records if r["individual"] == p] for p in people]
    return names, np.array([np.mean(row, axis=0) for row in rows])


def nested(errors: np.ndarray, candidates: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Change against the first variant of each individual with what is best on the others; what that is."""
    total = errors[:, list(candidates)]
    others = (total.sum(0)[None] - total) / (len(errors) - 1)
    picked = np.array(candidates)[others.argmin(1)]
    return errors[np.arange(len(errors)), picked] - errors[:, 0], picked


def as_text(records: Sequence[dict]) -> str:
    """Markdown: the change of each variant by class of size, and nested cross-validation."""
    lines = []
    for size in ("large", "very large", "all"):
        mine = [r for r in records if r["one_sided"] >= ONE_SIDED and size in ("all", r["size"])]
        if not mine:
            continue
        names, errors = errors_of(mine)
        tables = [errors_of(mine, side)[1].mean(0) for side in ("outer_mm", "inner_mm")]
        change = errors - errors[:, :1]
        standard = change.std(0, ddof=1) / math.sqrt(len(errors))
        lines += [
            f"{size}: {len(mine)} cases, {len(errors)} individuals\n",
            "| variant | outer, mm | inner, mm | change of both, mm |",
            "|---|---|---|---|",
        ]
        for n, name in enumerate(names):
            said = f"{change[:, n].mean():+.4f} ± {standard[n]:.4f}" if n else "as shipped"
            lines.append(f"| {name} | {tables[0][n]:.3f} | {tables[1][n]:.3f} | {said} |")
        for title, kind in (("symmetry", "symmetry"), ("mirror", "mirror"), ("all", "")):
            gain, picked = nested(errors, [0, *(n for n, name in enumerate(names) if n and name.startswith(kind))])
            count = ", ".join(f"{names[n]} ({c})" for n, c in Counter(picked.tolist()).most_common())
            error = gain.std(ddof=1) / math.sqrt(len(gain))
            lines.append(f"\nNested, {title}: {gain.mean():+.4f} ± {error:.4f} mm with {count}.")
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 done, 2 bad arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUT", type=Path, help="folder of mirrored_half.jsonl")
    parser.add_argument("--most", type=int, default=2, help="cases of an individual (default 2)")
    parser.add_argument("--no-run", action="store_true", help="print what is there")
    arguments, others = parser.parse_known_args(argv)
    lines = arguments.output / "mirrored_half.jsonl"
    kept = read_records(lines)
    if not arguments.no_run:
        torch.set_num_threads(1)
        arguments.output.mkdir(parents=True, exist_ok=True)
        try:
            jobs = accuracy.jobs_of(accuracy.parse([*others, "--output", str(arguments.output)]), (OURS,))
        except SkullVAEError as error:
            print(f"mirrored_half.py: {error}", file=sys.stderr)
            return 2
        for job in chosen_jobs(jobs, arguments.most):
            if job.name in kept:
                continue
            kept[job.name] = record = {"key": job.name} | measured(job)
            with open(lines, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print(job.name, record["one_sided"], record["variants"][SHIPPED], file=sys.stderr, flush=True)
    if kept:
        print(as_text(list(kept.values())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
