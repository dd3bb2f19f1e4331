"""What is recorded of a version: the cases and their command lines."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .process import CaseRun

# Command lines. In every version these spellings must work, if need be as aliases of newer ones.

SKULLBREAK_FILE = "defective/skullbreak_parietotemporal_001.nii.gz"
SKULLBREAK = (
    *("--clearance", "0.5", "--thickness", "constant:4", "--holes", "2,10,3", "--proposals", "2", "--uncertainty"),
    *("--format", "stl,ply,obj", "--host", "--report", "--display"),
)
FACIAL = ("--face", "--format", "stl,ply", "--report")
BATCH = ("--thickness", "minimum:3", "--clearance", "0.3", "--under-contour", "0.5", "--smooth", "1", "--split", "60")
POPULATION = ("--count", "2", "--held-out-count", "1", "--holdout", "colin27", "--seed", "1", "--spacing", "3")
SAMPLES = {
    "default": (),
    "bifrontal": ("--kind", "bifrontal", "--seed", "1"),
    "facial": ("--kind", "facial", "--seed", "2"),
}


@dataclass(frozen=True)
class Case:
    """What is recorded. patient, skulls: which inputs it needs; needs: cases whose results it works with."""

    about: str
    run: Callable[[CaseRun], None]
    patient: bool = False
    skulls: bool = False
    needs: tuple[str, ...] = ()


def _demo(case: CaseRun) -> None:
    case.skullvae("complete", "complete", case.inputs / "patient_ct.nrrd", "-o", case.out, "--device", "cpu")


def _skullbreak(case: CaseRun) -> None:
    assert case.recording.skulls is not None
    source = case.recording.skulls / SKULLBREAK_FILE
    case.skullvae("complete", "complete", source, "-o", case.out, "--device", "cpu", *SKULLBREAK)


def _facial(case: CaseRun) -> None:
    case.skullvae("complete", "complete", case.inputs / "facial.nrrd", "-o", case.out, "--device", "cpu", *FACIAL)


def _batch(case: CaseRun) -> None:
    arguments = (case.inputs / "batch/cohort.csv", "-o", case.out, "--device", "cpu", "--workers", "2", *BATCH)
    case.skullvae("batch", "batch", *arguments, codes=(2,))  # one of the four is damaged


def _session(case: CaseRun) -> None:
    arguments = (case.inputs / "patient_ct.nrrd", "-o", case.out, "--device", "cpu", "--format", "stl,ply")
    case.session("session", *arguments)


def _population(case: CaseRun) -> None:
    case.skullvae("population", "population", "--from", case.inputs / "skulls", "-o", case.out / "set", *POPULATION)


def _training_arguments(case: CaseRun, method: str) -> tuple[object, ...]:
    data = ("--data", case.recording.folder / "population/set", "--decoders", "fast:2")
    if method == "canonical":
        data = ("--data", case.inputs / "skulls", "--holdout", "colin27")
    return ("all", *data, "--config", case.inputs / f"{method}.json", "--device", "cpu", "--output", case.out / method)


def _training(case: CaseRun) -> None:
    for method in ("paper", "canonical"):
        arguments, run = _training_arguments(case, method), case.out / method
        case.killed(f"{method}-killed", run / "log.csv", "Training/train.py", *arguments)
        kept = case.recording.kept / method
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(run, kept)
        case.script(f"{method}-resumed", "Training/train.py", *arguments, "--resume")


def _analysis(case: CaseRun) -> None:
    run = case.recording.folder / "training/paper"
    case.script("report", "Training/report.py", run, "--output", case.out)


def _latent_commands(case: CaseRun, model: Path | None, name: str) -> None:
    skulls = case.inputs / "skulls"
    first, second = skulls / "mgh_dca.nii.gz", skulls / "colin27.nii.gz"
    out, more = case.out / name, ("--device", "cpu", *(() if model is None else ("--model", model)))
    out.mkdir(parents=True)
    case.skullvae(f"{name}-encode", "latent", "encode", skulls, "-o", out / "latents.csv", *more)
    case.skullvae(
        f"{name}-complete", "latent", "complete", first, "-o", out / "completed.nrrd", "--gamma", "0.5", *more
    )
    interpolate = ("interpolate", first, second, "-o", out / "between", "--steps", "3")
    case.skullvae(f"{name}-interpolate", "latent", *interpolate, *more)
    case.skullvae(f"{name}-sample", "latent", "sample", "-o", out / "drawn", "--count", "2", "--seed", "4", *more)


def _latent(case: CaseRun) -> None:
    _latent_commands(case, None, "shipped")
    _latent_commands(case, case.recording.folder / "training/paper/model.safetensors", "paper")


def _earlier(case: CaseRun) -> None:
    earlier = case.recording.earlier
    for method in ("paper", "canonical"):
        shutil.copytree(earlier / "kept" / method, case.out / method)
        case.script(f"{method}-resumed", "Training/train.py", *_training_arguments(case, method), "--resume")
        _latent_commands(case, earlier / "training" / method / "model.safetensors", f"{method}-latent")
    model = earlier / "training/canonical/model.safetensors"
    source = case.inputs / "batch/craniotomy.nrrd"
    options = ("--device", "cpu", "--model", model, "--prior", "dev", "--force")
    case.skullvae("complete", "complete", source, "-o", case.out / "completed", *options, codes=(0, 3))


def _evaluate(case: CaseRun) -> None:
    folders = ("--truth", case.inputs / "evaluate/truth", "--prediction", case.inputs / "evaluate/prediction")
    case.skullvae("evaluate", "evaluate", *folders, "--json", case.out / "scores.json", stdout="table.txt")


def _sample(case: CaseRun) -> None:
    for name, options in SAMPLES.items():
        files = ("-o", case.out / f"{name}.nrrd", "--truth", case.out / f"{name}_implant.nrrd")
        case.skullvae(name, "sample", *files, *options)
    case.skullvae("complete", "sample", "-o", case.out / "complete.nrrd", "--complete", "--seed", "3")


def _mesh(case: CaseRun) -> None:
    for kind in ("stl", "obj", "ply"):
        source = case.inputs / "evaluate/truth/implant/001.nrrd"
        case.skullvae(kind, "mesh", source, "-o", case.out / f"implant.{kind}")


def _info(case: CaseRun) -> None:
    case.skullvae("info", "info", "--json", stdout="info.json")


CASES = {
    "demo": Case("a patient's CT, default options", _demo, patient=True),
    "skullbreak": Case("a SkullBreak case with every option of the implant", _skullbreak, skulls=True),
    "facial": Case("half of a face is missing", _facial, skulls=True),
    "batch": Case("a cohort of four: two with a defect, one without, one damaged file", _batch, skulls=True),
    "session": Case("an interactive session on the patient's CT", _session, patient=True),
    "population": Case("new skulls drawn from three", _population, skulls=True),
    "training": Case("both methods, killed and resumed", _training, skulls=True, needs=("population",)),
    "analysis": Case("the report on the training", _analysis, skulls=True, needs=("training",)),
    "latent": Case("the latent commands, shipped model and paper's model", _latent, skulls=True, needs=("training",)),
    "earlier": Case("models and trainings of an earlier version", _earlier, skulls=True, needs=("training",)),
    "evaluate": Case("scores of three predictions, one of them empty", _evaluate, skulls=True),
    "sample": Case("skulls drawn from the model", _sample),
    "mesh": Case("a labelmap's surface in three formats", _mesh, skulls=True),
    "info": Case("what is installed", _info),
}
