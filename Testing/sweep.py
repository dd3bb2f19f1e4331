"""Settings of the warp and of the Gaussian-process correction, chosen by nested cross-validation over individuals.

    python Testing/sweep.py --data FOLDER [--evaluation FOLDER] [--thin N] [--output FOLDER]

Takes the cases and the folds' mean skulls of accuracy.py. In each case one setting at a time is changed, and the
surface that results is compared with the true one: the mean distance in mm of the points of the true outer and inner
table in the hole. The shape is measured before it becomes voxels, so that a setting costs seconds.

For each individual the setting is chosen on all others, and measured on that individual; `chosen` is the mean of that,
which no setting that was chosen by looking at its own cases can have. Finished cases are kept in OUTPUT/sweep.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import calibration
from accuracy import measure_ours
from benchmark import contest
from benchmark.cases import cut_place
from benchmark.contest import Job, load_whole
from benchmark.rows import OURS
from calibration import TrueSurface

from SkullVAELib.completion.options import CompletionOptions, GaussianProcessOptions
from SkullVAELib.completion.pipeline import complete
from SkullVAELib.completion.result import PreparedPatient
from SkullVAELib.core.progress import Stages
from SkullVAELib.registration.options import WarpOptions
from SkullVAELib.registration.patient import fit_warp_to_mean
from SkullVAELib.shape.warped import WarpedShape
from SkullVAELib.vae.networks import SkullModel

SHIPPED = "as shipped"

CODE = (Path(__file__), Path(calibration.__file__))
"""What a record depends on beside a row's own."""

WARPS = {
    "spacing_mm": (30.0, 50.0),
    "stiffness": (0.01, 0.1),
    "symmetry": (1.0, 9.0),
    "steps": (30, 100),
    "count": (3000, 15000),
}
"""Other values of each option of the warp; the shipped one lies between them."""

CORRECTIONS = {
    "length_mm": (35.0, 70.0),
    "short_mm": (10.0, 22.0),
    "short_share": (0.2, 0.6),
    "symmetry": (0.5, 0.9),
    "noise": (0.2, 0.45),
    "outlier_mm": (0.6, 2.0),
    "limit_mm": (2.0, 5.0),
    "cut_mm": (3.0, 6.0),
}
"""Other values of each option of the Gaussian-process correction."""


def variants() -> dict[str, tuple[WarpOptions, GaussianProcessOptions]]:
    """Name -> options of the warp and of the correction, one option changed in each but the first."""
    warp, correction = WarpOptions(), GaussianProcessOptions()
    found = {SHIPPED: (warp, correction)}
    for name, values in WARPS.items():
        found |= {f"warp {name} {value:g}": (replace(warp, **{name: value}), correction) for value in values}
    for name, values in CORRECTIONS.items():
        found |= {f"GP {name} {value:g}": (warp, replace(correction, **{name: value})) for value in values}
    return found


def corrected(
    patient: PreparedPatient, model: SkullModel, warp: WarpOptions, correction: GaussianProcessOptions
) -> WarpedShape:
    """The complete shape of a patient whose defects are known, with other settings."""
    first = patient.first
    if warp != patient.options.warp:
        first = WarpedShape(first.shape, fit_warp_to_mean(patient.registered.aligned, model, warp))
    return patient.rim_of(first, correction).correct(first)


def run_job(job: Job) -> dict:
    """Errors of a case in mm for every setting; none where no defect was found."""
    torch.set_num_threads(1)
    here = Path(__file__).parent
    key = contest.fingerprint(OURS, job.fold, job.file) + contest.code_hash(here, CODE)[:16]
    return contest.kept_record(job.output / "sweep" / f"{job.name}.json", key, lambda: measured(job))


def measured(job: Job) -> dict:
    """As run_job, without looking for a record."""
    whole, bone, truth = cut_place(load_whole(job.file), job.number)
    model = job.fold.load()
    made = complete(whole.with_array(bone.astype(np.uint8)), model, CompletionOptions(), Stages({"all": 1.0}))
    record: dict = {"individual": job.individual, "place": job.number, "ct": job.ct, "errors": {}}
    if made.found and made.patient is not None:
        surface = TrueSurface.of(whole, bone, truth, made.patient.registered.alignment)
        for name, settings in variants().items():
            error = corrected(made.patient, model, *settings).field(surface.points).abs().numpy()
            record["errors"][name] = [round(float(error[side].mean()), 4) for side in (surface.outer, surface.inner)]
    return record


def by_individual(records: Sequence[dict]) -> tuple[list[str], np.ndarray]:
    """Names, and mean errors (individuals, settings, 2) in mm of outer and inner table."""
    names = sorted({record["individual"] for record in records if record["errors"]})
    means = []
    for name in names:
        errors = [list(r["errors"].values()) for r in records if r["individual"] == name and r["errors"]]
        means.append(np.nanmean(np.array(errors, float), axis=0))
    return names, np.array(means)


def summary(records: Sequence[dict]) -> dict:
    """The effect of each setting over individuals, and what nested cross-validation chooses."""
    names, errors = by_individual(records)
    settings = list(variants())
    total = errors.mean(2)
    difference = total - total[:, :1]
    spread = difference.std(0, ddof=1) / np.sqrt(len(names))
    # For each individual the setting with the least mean error of all others.
    others = (total.sum(0)[None] - total) / (len(names) - 1)
    picked = others.argmin(1)
    return {
        "individuals": len(names),
        "cases": sum(bool(record["errors"]) for record in records),
        "settings": {
            name: {
                "outer_mm": round(float(errors[:, n, 0].mean()), 4),
                "inner_mm": round(float(errors[:, n, 1].mean()), 4),
                "change_mm": round(float(difference[:, n].mean()), 4),
                "standard_error_mm": round(float(spread[n]), 4),
            }
            for n, name in enumerate(settings)
        },
        "nested": {
            "shipped_mm": round(float(total[:, 0].mean()), 4),
            "chosen_mm": round(float(total[np.arange(len(names)), picked].mean()), 4),
            "chosen": {settings[n]: int((picked == n).sum()) for n in sorted(set(picked.tolist()))},
        },
    }


def as_text(found: dict) -> str:
    """Markdown."""
    lines = [
        f"{found['cases']} cases, {found['individuals']} individuals; mean of both tables, change to the shipped"
        " setting with its standard error over individuals.\n",
        "| setting | outer, mm | inner, mm | change, mm |",
        "|---|---|---|---|",
    ]
    for name, row in found["settings"].items():
        change = f"{row['change_mm']:+.3f} ± {row['standard_error_mm']:.3f}" if name != SHIPPED else ""
        lines.append(f"| {name} | {row['outer_mm']:.3f} | {row['inner_mm']:.3f} | {change} |")
    nested = found["nested"]
    chosen = ", ".join(f"{name} ({count})" for name, count in nested["chosen"].items())
    lines.append(
        f"\nNested cross-validation: {nested['chosen_mm']:.3f} mm with what the other individuals choose ({chosen}),"
        f" {nested['shipped_mm']:.3f} mm as shipped."
    )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run the sweep; 0 done, 2 bad input."""
    arguments, records = measure_ours(argv, "sweep.py", run_job)
    if not records:
        return 2
    found = summary(records)
    (arguments.output / "sweep.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(as_text(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
