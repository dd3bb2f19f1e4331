"""Running rows on cases, case by case, so that an interrupted run goes on; and who may be measured with which model."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import SkullVAELib
from SkullVAELib.completion.defect_classifier import FILE_NAME
from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.files import file_sha256
from SkullVAELib.core.memory import keep_freed_memory
from SkullVAELib.data.datasets import SkullCase
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import read_volume
from SkullVAELib.registration.bone import bone_mask
from SkullVAELib.vae.checkpoint import read_tensors
from SkullVAELib.vae.default_model import included_file

from . import rows, slices
from .cases import PLACES, cut_with_centre
from .rays import table_errors
from .rows import Fold
from .scores import measured, score

LIBRARY = Path(SkullVAELib.__file__).parent


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


def training_files(model: Path, cases: Sequence[SkullCase]) -> tuple[Path, ...]:
    """The complete skulls of a model's own training, which other rows are fitted to, too."""
    hashes = set(provenance_of(model)["data"].values())
    return tuple(sorted({c.complete for c in cases if file_sha256(c.complete) in hashes}))


def fingerprint(row: str, fold: Fold, skull: Path, slices_mm: float | None = None) -> str:
    """The key of a row's record for one skull: 16 hexadecimal digits that change with everything the record depends on.

    These are the row, the model's file and what else was fitted for the row, the skull's file, every module of the
    library, the included classifier of defects, and those modules of the benchmark that the record depends on.
    """
    files = (fold.model_of(row), *rows.fitted(row, fold), skull, included_file(FILE_NAME))
    parts = [row, *map(file_sha256, files)]
    parts += [_library_hash(), code_hash(Path(__file__).parent, rows.sources(row))]
    if slices_mm is not None:
        parts += [f"{slices_mm:g}", code_hash(Path(__file__).parent, slices.sources())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def kept_record(path: Path, key: str, make: Callable[[], dict]) -> dict:
    """The record of a file if it has this key as its fingerprint, otherwise the one that is made and kept there."""
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("fingerprint") == key:
            return record
    record = make() | {"fingerprint": key}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return record


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
    """One defect of one skull, and the rows to complete it with.

    Attributes
    ----------
    file : Path
        The complete skull.
    individual : str
    number : int
        Of the defect in PLACES.
    rows : tuple of str
    fold : Fold
    output : Path
    slices_mm : float, optional
        Thickness of the slices of a synthetic CT; by default the mask is completed.
    ct, evaluation : bool
        Whether the skull was segmented on CT, and whether it belongs to the set that is measured only.
    """

    file: Path
    individual: str
    number: int
    rows: tuple[str, ...]
    fold: Fold
    output: Path
    slices_mm: float | None = None
    ct: bool = False
    evaluation: bool = False

    @property
    def name(self) -> str:
        slices_mm = "" if self.slices_mm is None else f"_slices_{self.slices_mm:g}"
        return f"{self.individual}_{self.number:02d}{slices_mm}"

    @property
    def record(self) -> Path:
        return self.output / "cases" / f"{self.name}.json"

    def mask(self, row: str) -> Path:
        return self.output / "cases" / f"{self.name}_{row}.npz"

    def describe(self) -> dict:
        """What a record says of its case."""
        place = PLACES[self.number]
        return {
            "individual": self.individual,
            "ct": self.ct,
            "evaluation": self.evaluation,
            "place": self.number,
            "defect": place.name,
            "kind": place.kind,
            "facial": place.facial,
            "size": place.size_class,
            "site": place.site,
            "slices_mm": self.slices_mm,
        }


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
    record = json.loads(job.record.read_text(encoding="utf-8")) if job.record.is_file() else {}
    kept = record.get("rows", {})
    prints = {row: fingerprint(row, job.fold, job.file, job.slices_mm) for row in job.rows}
    left = [row for row in job.rows if kept.get(row, {}).get("fingerprint") != prints[row]]
    if not left:
        return record | job.describe()
    whole, bone, truth, centre = cut_with_centre(load_whole(job.file), job.number)
    record = job.describe() | {"truth_ml": round(truth.sum() * whole.voxel_ml, 1), "rows": kept}
    if job.slices_mm is None:
        nothing = np.zeros(truth.shape, bool)
        errors = table_errors(truth, nothing, bone, whole.affine, centre)
        record["thickness_mm"] = errors["thickness_mm"]
    volume = whole.with_array(bone.astype(np.uint8))
    if job.slices_mm is not None:
        volume = slices.as_ct(whole, bone, job.slices_mm)
    for row in left:
        model = functools.partial(job.fold.load_trained, row) if rows.needs_network(row) else job.fold.load
        model()  # reading the model is no part of a row's time
        if job.slices_mm is not None:
            kept[row] = slices.score_row(row, model, volume, whole.with_array(truth), centre)
        else:
            work = rows.method(row)
            prediction, cost = measured(lambda work=work: work(volume, job.fold))
            kept[row] = score(truth, prediction, bone, whole.affine, centre) | cost
            save_mask(job.mask(row), prediction)
        kept[row]["fingerprint"] = prints[row]
        with atomic_file(job.record) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def save_mask(path: Path, mask: np.ndarray) -> None:
    """Keep a bool array, a bit a voxel."""
    np.savez_compressed(path, bits=np.packbits(mask), shape=mask.shape)


def load_mask(path: Path) -> np.ndarray:
    """Read back what save_mask kept."""
    with np.load(path) as file:
        shape = tuple(file["shape"])
        return np.unpackbits(file["bits"], count=int(np.prod(shape))).reshape(shape).astype(bool)


def each(work: Callable, jobs: Sequence, processes: int, report: Callable[[object, float], None]) -> list:
    """What work(job) gives for all jobs, in their order; report(result, fraction) is called as each is done."""
    done: dict[int, object] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=keep_freed_memory) as pool:
        running = {pool.submit(work, job): number for number, job in enumerate(jobs)}
        try:
            for future in as_completed(running):
                done[running[future]] = future.result()
                report(future.result(), len(done) / len(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [done[number] for number in range(len(jobs))]
