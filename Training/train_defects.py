"""Train the classifier of candidate defects.

    python Training/train_defects.py --data FOLDER --output FILE [--test FOLDER] [--models FILE ...] [--jobs N]

Cuts random holes into every complete skull of --data, registers it to a model that was not trained on it where there is
one among --models (else to the included model), and measures the candidate defects. An atlas of natural openings is
made of the intact skulls. The classifier is tested and calibrated on individuals that it was not trained on, then
trained on all of --data and written. Skulls of --test are measured and never trained on. Cases are kept in the folder
FILE.cases, so that a run continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from SkullVAELib.core.threads import claim_buffers
from SkullVAELib.core.version import __version__
from SkullVAELib.training.defect_classifier import (
    ClassifierCase,
    HeldOut,
    held_out_test,
    load_case,
    natural_openings,
    outside_test,
    read_skull,
    registered_case,
    save_case,
    write_classifier,
)
from SkullVAELib.vae.checkpoint import load_model
from SkullVAELib.vae.default_model import default_model_path


@dataclass(frozen=True)
class SkullJob:
    """All cases of one skull."""

    skull: Path
    model: Path
    numbers: tuple[int, ...]
    folder: Path
    atlas: Path | None

    def run(self) -> str:
        """Make the cases that are missing; returns a line for the log."""
        torch.set_num_threads(1)
        claim_buffers()
        name = individual(self.skull)
        missing = [n for n in self.numbers if not self.file(n).exists()]
        if missing:
            model, skull = load_model(self.model), read_skull(self.skull)
            natural = None
            if self.atlas is not None:
                intact = [load_case(file) for file in sorted(self.atlas.glob("*_000.npz"))]
                natural = natural_openings(intact, without=name)
            for number in missing:
                save_case(self.file(number), registered_case(skull, name, number, model, natural))
        return f"{name}: {len(self.numbers)} cases, {len(missing)} new"

    def file(self, number: int) -> Path:
        """File of a case."""
        return self.folder / f"{individual(self.skull)}_{number:03d}.npz"


def individual(skull: Path) -> str:
    """Name of the individual in a file name."""
    return skull.name.split(".")[0]


def draw_reliability(path: Path, test: HeldOut) -> None:
    """Draw the share of defects against the predicted probability, with the number of candidates in each bin."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    bins = test.reliability()
    figure, axes = plt.subplots(figsize=(4.5, 4.5))
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, label="perfect calibration")
    axes.plot([b["probability"] for b in bins], [b["defects"] for b in bins], "o-", color="#1f6f8b", label="held out")
    for b in bins:
        at = (b["probability"], b["defects"])
        axes.annotate(f"n = {b['n']}", at, (-4, -32), textcoords="offset points", fontsize=8, rotation=60)
    axes.set(xlim=(-0.03, 1.1), ylim=(-0.15, 1.06), xlabel="predicted probability", ylabel="share of defects")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> int:
    """Run the training; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of complete skulls for training")
    parser.add_argument("--test", type=Path, help="folder of complete skulls for a test only")
    parser.add_argument("--output", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="models that hold out some of the skulls")
    parser.add_argument("--cases", type=int, default=12, help="cases for each skull, the first one intact (default 12)")
    parser.add_argument("--figure", type=Path, help="an .svg or .png file for the reliability curve")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    options = parser.parse_args()

    folder = options.output.with_name(options.output.name + ".cases")
    skulls = sorted(file for file in options.data.iterdir() if file.is_file())
    tests = sorted(file for file in options.test.iterdir() if file.is_file()) if options.test else []
    models = [*options.models, default_model_path()]
    provenance = [load_model(model).provenance.get("data", {}) for model in models]

    def unseen(skull: Path) -> Path:
        name = individual(skull)
        fits = [m for m, data in zip(models, provenance, strict=True) if not any(k.split(".")[0] == name for k in data)]
        return fits[0] if fits else models[-1]

    for kind in ("train", "test"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    atlas = folder / "train"
    with ProcessPoolExecutor(options.jobs) as pool:
        for numbers, used in (((0,), None), (tuple(range(1, options.cases)), atlas)):
            jobs = [SkullJob(s, unseen(s), numbers, folder / "train", used) for s in skulls]
            if used is not None:
                jobs += [SkullJob(s, unseen(s), numbers, folder / "test", used) for s in tests]
            for line in pool.map(SkullJob.run, jobs):
                print(line, flush=True)

    def stored(kind: str) -> list[ClassifierCase]:
        return [load_case(file) for file in sorted((folder / kind).glob("*.npz"))]

    cases, others = stored("train"), stored("test")
    test = held_out_test(cases)
    figures = {"folds": test.as_json()}
    about = {
        "version": __version__,
        "data": [skull.name for skull in skulls],
        "cases": len(cases),
        "holes": int(sum(len(case.holes_ml) for case in cases)),
        "notice": "Research software, not a medical device, not for clinical use.",
    }
    if others:
        figures["test"] = about["test"] = outside_test(cases, others, test.temperature).as_json()
    write_classifier(options.output, cases, test, about)
    if options.figure:
        draw_reliability(options.figure, test)
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
