"""Whether the quality score tells failed completions from good ones, on skulls that the model never saw.

    python Testing/quality.py --data FOLDER --folds FOLDER [--output bench/quality] [accuracy.py's choices]

Completes the cases of accuracy.py and, with the first skull of each model, inputs that are not a head and heads that
were damaged after a defect was cut (broken.py); no input is rejected. A completion failed if its implant's DSC is
below 0.6, and any implant for an input that is not a head is a failure. Prints the area under the ROC curve of the
score, and the effect of rejecting and warning by it. Finished cases are kept in OUTPUT/quality.json, so that an
interrupted run goes on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from accuracy import jobs_of, parse, say
from benchmark import contest
from benchmark.cases import PLACES, cut_place
from benchmark.contest import Fold, load_whole
from benchmark.rows import OURS
from broken import HEAD, NO_HEAD, Scene
from scipy.stats import rankdata

from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.completion.pipeline import complete
from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.files import as_json_text
from SkullVAELib.core.progress import Stages
from SkullVAELib.evaluation.metrics import dice
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.distance_field import downsample_mask
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.options import REFUSE_BELOW, WARN_BELOW
from SkullVAELib.registration.plausibility import Quality, QualityMeasures

FAILED_BELOW = 0.6
CUT = (1, 6)
"""Places of the defects that are cut out of heads before something is done to them: parietal box, fronto-orbital."""


@dataclass(frozen=True)
class Trial:
    """A skull with a defect (place, or None), and what is done to it; None: it is a case of the benchmark."""

    file: Path
    individual: str
    fold: Fold
    place: int | None
    done: str | None = None

    @property
    def name(self) -> str:
        words = (self.individual, self.place is not None and PLACES[self.place].name, self.done)
        return ", ".join(word for word in words if word)


def run(trial: Trial) -> dict:
    """Complete one: its measures (None where it was refused anyway) and its DSC (None where no implant is right)."""
    torch.set_num_threads(1)
    whole, truth = load_whole(trial.file), None
    given = whole
    if trial.place is not None:
        whole, bone, truth = cut_place(whole, trial.place)
        given = whole.with_array(bone)
    if trial.done is not None:
        fraction = downsample_mask(given)
        scene = Scene.of(Volume(fraction.array > 0.5, fraction.affine))
        given = (HEAD | NO_HEAD)[trial.done](scene)
        if truth is not None:
            truth = _taken_at(whole.with_array(truth), scene.bone) & (given.array == 0)
    record: dict = {"name": trial.name, "dsc": None}
    try:
        # The registration of an input that is not a head may fail, which rejects it, too.
        volume = given.with_array(given.array.astype(np.uint8))
        made = complete(volume, trial.fold.load(), CompletionOptions(least_quality=0.0), Stages({}))
    except SkullVAEError:
        return record | {"measures": None}
    if truth is not None and trial.done not in NO_HEAD:
        record["dsc"] = round(float(dice(truth, made.implant.array)), 3)
    return record | {"measures": {k: v for k, v in made.report["quality"].items() if k != "score"}}


def _taken_at(mask: Volume, grid: Volume) -> np.ndarray:
    """A mask's values at the voxels of another grid, bool; outside of it False."""
    index = np.indices(grid.array.shape).reshape(3, -1).T
    there = np.round(apply_affine(np.linalg.inv(mask.affine) @ grid.affine, index)).astype(int)
    inside = ((there >= 0) & (there < mask.array.shape)).all(1)
    taken = np.zeros(len(index), bool)
    taken[inside] = mask.array[tuple(there[inside].T)]
    return taken.reshape(grid.array.shape)


def trials_of(jobs: Iterable[contest.Job]) -> list[Trial]:
    """The benchmark's cranial cases, and what is done to the first skull of each model."""
    jobs = [job for job in jobs if not PLACES[job.number].facial]
    trials = [Trial(job.file, job.individual, job.fold, job.number) for job in jobs]
    for first in {job.fold: job for job in reversed(jobs)}.values():
        trials += [Trial(first.file, first.individual, first.fold, None, done) for done in NO_HEAD]
        trials += [Trial(first.file, first.individual, first.fold, place, done) for done in HEAD for place in CUT]
    return trials


def area_under_curve(good: np.ndarray, bad: np.ndarray) -> float:
    """How often a good case's score is above a bad one's, a draw being half."""
    ranks = rankdata(np.concatenate([good, bad]))[: len(good)]
    return float((ranks.sum() - len(good) * (len(good) + 1) / 2) / (len(good) * len(bad)))


def judged(record: dict) -> dict:
    """A record with its score, as it would be now, and whether the completion has failed."""
    measures, dsc = record["measures"], record["dsc"]
    score = 0.0 if measures is None else Quality.from_measures(QualityMeasures(**measures)).score
    return record | {"score": score, "failed": dsc is None or dsc < FAILED_BELOW}


def as_text(found: list[dict]) -> str:
    """The outcome in words."""
    good, bad = (np.array([r["score"] for r in found if r["failed"] == failed]) for failed in (False, True))
    lines = [f"{len(good)} good and {len(bad)} failed: area under the curve {area_under_curve(good, bad):.3f}"]
    for what, limit in (("refused", REFUSE_BELOW), ("refused or warned of", WARN_BELOW)):
        counts = (int((scores < limit).sum()) for scores in (good, bad))
        lines.append("{} below {:g}: {} of the good, {} of the failed".format(what, limit, *counts))
    for failed, what in ((True, "failed, and nothing said"), (False, "good, and refused or warned of")):
        lines.append(f"{what}:")
        these = [r for r in found if r["failed"] == failed and (r["score"] >= WARN_BELOW) == failed]
        lines += [f"  {r['name']}: score {r['score']:.2f}, DSC {r['dsc']}" for r in these]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run the campaign; 0 done, 2 bad input."""
    arguments = parse(argv)
    try:
        trials = trials_of(jobs_of(arguments, (OURS,)))
    except SkullVAEError as error:
        say(f"quality.py: {error}")
        return 2
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / "quality.json"
    kept = {r["name"]: r for r in json.loads(file.read_text(encoding="utf-8"))} if file.is_file() else {}

    def keep(record: dict, fraction: float) -> None:
        kept[record["name"]] = record
        with atomic_file(file) as temporary:
            temporary.write_text(as_json_text(list(kept.values())), encoding="utf-8")
        say("{:4.0%} score {score:.3f} DSC {dsc} {name}".format(fraction, **judged(record)))

    contest.each(run, [trial for trial in trials if trial.name not in kept], arguments.jobs, keep)
    print(as_text([judged(kept[trial.name]) for trial in trials]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
