"""Running rows on cases, case by case, so that an interrupted run goes on; and who may be measured with which model."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import SkullVAELib
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.files import file_sha256
from SkullVAELib.data.datasets import SkullCase
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import read_volume
from SkullVAELib.registration.bone import bone_mask
from SkullVAELib.vae.checkpoint import read_tensors

from . import rows
from .cases import PLACES, cut_place, folds_of
from .rows import Fold
from .scores import measured, score

LIBRARY = Path(SkullVAELib.__file__).parent
TRAIN = Path(__file__).resolve().parents[2] / "Training" / "train.py"


def saw(provenance: dict, case: SkullCase) -> bool:
    """Whether a model was trained on a case's individual, by the model's own record: by name, or by the file itself.

    A model that does not name whom it held out may have seen anybody.
    """
    names = {Path(name).name.split(".")[0] for name in provenance["data"]}
    if case.individual in names or case.individual not in provenance.get("holdout", ()):
        return True
    return file_sha256(case.complete) in provenance["data"].values()


def provenance_of(model: Path) -> dict:
    """A model file's record of its training. Raises SkullVAEError when it has none."""
    _, metadata = read_tensors(model)
    if not isinstance(metadata.get("provenance", {}).get("data"), dict):
        raise SkullVAEError(f"'{model.name}' does not say what it was trained on", "Choose a model of train.py")
    return metadata["provenance"]


def match_models(models: Iterable[Path], cases: Sequence[SkullCase]) -> dict[str, Path]:
    """Individual -> the first of the models that held it out and never saw it."""
    found: dict[str, Path] = {}
    for model in models:
        provenance = provenance_of(model)
        for case in cases:
            if case.individual not in found and not saw(provenance, case):
                found[case.individual] = model
    return found


def train_missing(
    missing: set[str], individuals: Sequence[str], data: Path, folder: Path, threads: int, log: Callable[[str], None]
) -> list[Path]:
    """Train the models of the folds that missing individuals belong to, each in folder/NAMES; returns their files.

    Goes on where an interrupted training stopped. Raises SkullVAEError when one fails.
    """
    models = []
    for fold in folds_of(individuals):
        if not missing & set(fold):
            continue
        run = folder / "+".join(fold)
        command = [sys.executable, str(TRAIN), "all", "--data", str(data), "--output", str(run)]
        command += ["--holdout", ",".join(fold), "--threads", str(threads)]
        if (run / "run.json").is_file():
            command.append("--resume")
        log(f"training without {', '.join(fold)}, into {run}")
        if subprocess.run(command).returncode:
            raise SkullVAEError(f"The training in '{run}' failed", "See what it said above")
        models.append(run / "model.safetensors")
    return models


def training_files(model: Path, cases: Sequence[SkullCase]) -> tuple[Path, ...]:
    """The complete skulls of a model's own training, which other rows are fitted to, too."""
    hashes = set(provenance_of(model)["data"].values())
    return tuple(sorted({c.complete for c in cases if file_sha256(c.complete) in hashes}))


def fingerprint(row: str, fold: Fold, skull: Path) -> str:
    """The key of a row's record for one skull: 16 hexadecimal digits that change with everything the record depends on.

    These are the row, the model's file and what else was fitted for the row, the skull's file, every module of the
    library, and those modules of the benchmark that the record depends on.
    """
    parts = [row, *(file_sha256(path) for path in (fold.model, *rows.fitted(row, fold), skull))]
    parts += [_library_hash(), code_hash(Path(__file__).parent, rows.sources(row))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def code_hash(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 of Python files, by their paths relative to a folder and their contents; comments do not count."""
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        digest.update(f"{name}\n{ast.dump(ast.parse(path.read_text(encoding='utf-8')))}\n".encode())
    return digest.hexdigest()


@functools.cache  # a process runs the code that it has loaded
def _library_hash() -> str:
    return code_hash(LIBRARY, LIBRARY.rglob("*.py"))


@dataclass(frozen=True)
class Job:
    """One defect of one skull, and the rows to complete it with."""

    file: Path
    individual: str
    number: int
    rows: tuple[str, ...]
    fold: Fold
    output: Path

    @property
    def record(self) -> Path:
        return self.output / "cases" / f"{self.individual}_{self.number:02d}.json"

    def mask(self, row: str) -> Path:
        return self.output / "cases" / f"{self.individual}_{self.number:02d}_{row}.npz"


def load_whole(file: Path) -> Volume:
    """A complete skull's bone."""
    volume = read_volume(file)
    return volume.with_array(bone_mask(volume)[0])


def run_job(job: Job) -> dict:
    """Complete a case with each row that its record does not hold yet, and score it; returns the record.

    The record is written after each row, so nothing is computed twice; a row is computed again when its fingerprint
    has changed.
    """
    torch.set_num_threads(1)  # one case a process: the same figures whatever the number of processes
    job.record.parent.mkdir(parents=True, exist_ok=True)
    record = json.loads(job.record.read_text()) if job.record.is_file() else {}
    kept = record.get("rows", {})
    prints = {row: fingerprint(row, job.fold, job.file) for row in job.rows}
    left = [row for row in job.rows if kept.get(row, {}).get("fingerprint") != prints[row]]
    if not left:
        return record
    whole, bone, truth = cut_place(load_whole(job.file), job.number)
    volume = whole.with_array(bone.astype(np.uint8))
    record = {
        "individual": job.individual,
        "place": job.number,
        "defect": PLACES[job.number].name,
        "kind": PLACES[job.number].kind,
        "facial": PLACES[job.number].facial,
        "truth_ml": round(truth.sum() * whole.voxel_ml, 1),
        "rows": kept,
    }
    job.fold.load()  # reading the model is no part of a row's time
    for row in left:
        work = rows.method(row)
        prediction, cost = measured(lambda work=work: work(volume, job.fold))
        kept[row] = score(truth, prediction, bone, whole.affine) | cost | {"fingerprint": prints[row]}
        save_mask(job.mask(row), prediction)
        job.record.write_text(json.dumps(record, indent=1) + "\n")
    return record


def save_mask(path: Path, mask: np.ndarray) -> None:
    """Keep a bool array, a bit a voxel."""
    np.savez_compressed(path, bits=np.packbits(mask), shape=mask.shape)


def load_mask(path: Path) -> np.ndarray:
    """Read back what save_mask kept."""
    with np.load(path) as file:
        shape = tuple(file["shape"])
        return np.unpackbits(file["bits"], count=int(np.prod(shape))).reshape(shape).astype(bool)


def each(work: Callable, jobs: Sequence[Job], processes: int, report: Callable[[object, float], None]) -> list:
    """What work(job) gives for all jobs, in their order; report(result, fraction) is called as each is done."""
    done: dict[int, object] = {}
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(work, job): number for number, job in enumerate(jobs)}
        for future in as_completed(running):
            done[running[future]] = future.result()
            report(future.result(), len(done) / len(jobs))
    return [done[number] for number in range(len(jobs))]
