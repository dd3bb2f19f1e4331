"""One training run and its folder: data, split, the three stages, further decoders, the models.

A run folder holds run.json (options, data with hashes, versions, commit), the prepared data, log.csv, each stage's last
and best checkpoint, TensorBoard's events and, at the end, model.safetensors. A run of several betas holds such a folder
for each, which share the prepared data.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import monai
import torch
from torch import nn

from SkullVAELib import NOTICE, __version__
from SkullVAELib.core.atomic_output import atomic_file, remove_abandoned
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.files import file_sha256
from SkullVAELib.data.datasets import SkullCase, check_cases, describe, find_cases, read_bone, split_by_individual
from SkullVAELib.geometry.distance_field import redistance
from SkullVAELib.registration.affine import register_affine
from SkullVAELib.registration.mean_skull import Population, build_population, warp_to_mean
from SkullVAELib.registration.skull import Skull, prepare_skull
from SkullVAELib.training.canonical import CanonicalTask
from SkullVAELib.training.config import PaperOptions, StageOptions, decoder_options
from SkullVAELib.training.distributed import Group
from SkullVAELib.training.paper import PaperTask, check_classes, load_volumes
from SkullVAELib.training.trainer import Batch, StageRunner
from SkullVAELib.vae.checkpoint import read_tensors, save_model, write_tensors
from SkullVAELib.vae.networks import Architecture
from SkullVAELib.vae.paper_networks import PaperArchitecture

STAGES = ("vae", "decoder", "aggregate")

PREPARED = ("population.safetensors", "volumes.safetensors")
"""What a folder's data have become once they are checked and prepared."""

LENGTHS = ("vae_steps", "decoder_steps", "vae_epochs", "decoder_epochs")
"""Options that may change when a run goes on: it can be trained for longer."""

_DECODER_LENGTH = {False: "decoder_steps", True: "decoder_epochs"}

Log = Callable[[str], None]


@dataclass(frozen=True)
class TrainingPlan:
    """What to run: data, architecture and options, of our method or the paper's, and who is held out.

    decoders: further decoders to train on the same latents, see options.DECODERS, with their epochs (with our method:
    steps) or None for the run's own; start_from: folder of a run whose weights to begin with.
    """

    data: Path
    architecture: Architecture | PaperArchitecture
    options: StageOptions
    holdout: tuple[str, ...] = ()
    decoders: tuple[tuple[str, int | None], ...] = ()
    start_from: Path | None = None

    @property
    def is_paper(self) -> bool:
        return isinstance(self.options, PaperOptions)


def write_json(path: Path, content: dict) -> None:
    """Write JSON whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _complete_skulls(cases: list[SkullCase]) -> list[SkullCase]:
    return [c for c in cases if c.defective is None]


def _prepare(case: SkullCase) -> Skull:
    return prepare_skull(case.individual, read_bone(case.complete))


def load_population(folder: Path, cases: list[SkullCase], architecture: Architecture, log: Log) -> Population:
    """The run's population: read back when it is there, else built and written."""
    path = folder / "population.safetensors"
    if path.is_file():
        tensors, metadata = read_tensors(path, math.inf)
        alignments = tensors.pop("alignments").numpy()
        tensors = {k: v.float() for k, v in tensors.items()}
        return Population(architecture.grid, tuple(metadata["names"]), alignments=alignments, **tensors)
    skulls = [_prepare(c) for c in _complete_skulls(cases)]
    population = build_population(skulls, architecture.grid, log)
    tensors = {k: getattr(population, k).half() for k in ("mean", "detail", "known")}
    tensors["alignments"] = torch.tensor(population.alignments)
    write_tensors(path, tensors, {"names": population.names})
    return load_population(folder, cases, architecture, log)  # what a resumed run will read, to the last bit


def load_held_out(folder: Path, cases: list[SkullCase], population: Population) -> tuple[torch.Tensor, torch.Tensor]:
    """The held-out complete skulls laid on the mean (H, X, Y, Z), in mm, and where they are known, 0..1; cached."""
    path = folder / "held_out.safetensors"
    if path.is_file():
        tensors, _ = read_tensors(path)
        return tensors["fields"].float(), tensors["known"].float()
    grid, skulls = population.grid, _complete_skulls(cases)
    fields, known = torch.zeros(2, len(skulls), *grid.shape)
    target = redistance(population.mean, grid)
    for number, case in enumerate(skulls):
        skull = _prepare(case)
        alignment = register_affine(skull.points, target, grid)
        fields[number], known[number] = warp_to_mean(population.mean, skull, alignment, grid)
    names = [c.individual for c in skulls]
    write_tensors(path, {"fields": fields.half(), "known": known.half()}, {"names": names})
    return load_held_out(folder, cases, population)


def make_task(
    plan: TrainingPlan, cache: Path, training: list[SkullCase], held: list[SkullCase], group: Group | None = None,
    log: Log = lambda line: None,
) -> CanonicalTask | PaperTask:  # fmt: skip
    """The data of a plan, prepared once and kept in the folder `cache`, ready for its stages."""
    group = group or Group()
    if not group.leads:
        group.wait()  # the leading process prepares, the others read
    if plan.is_paper:
        volumes = load_volumes(cache, training, held, plan.architecture.grid_shape, log)
    else:
        population = load_population(cache, training, plan.architecture, log)
        held_out = load_held_out(cache, held, population)
    if group.leads:
        group.wait()
    if plan.is_paper:
        return PaperTask(plan.architecture, volumes, plan.options, group)
    log(f"drawing {plan.options.pool} skulls from the population")
    return CanonicalTask(plan.architecture, population, plan.options, held_out, group)


class TrainingRun:
    """A plan carried out in a folder, stage by stage."""

    def __init__(
        self, plan: TrainingPlan, folder: Path, task: CanonicalTask | PaperTask, group: Group | None = None,
        report: Callable[[dict], None] = lambda row: None,
    ):  # fmt: skip
        self.plan, self.folder, self.task, self.group, self.report = plan, folder, task, group or Group(), report
        vae, decoder = task.networks()
        self.vae = self._runner("vae", 1, vae, plan.options)
        self.decoder = self._runner("decoder", 2, decoder, plan.options)

    def _runner(self, name: str, number: int, network: nn.Module, options: StageOptions) -> StageRunner:
        steps = self.task.with_options(options).steps(name.partition("_")[0])
        runner = StageRunner(self.folder, name, number, network, steps, self.task, options, self.group, self.report)
        runner.resume()
        if self.plan.start_from is not None:
            runner.start_from(self.plan.start_from)
        return runner

    def train_vae(self) -> None:
        """Stage 1."""
        vae = self.vae.network
        self.vae.run(self.task.vae_loss, lambda batch: self.task.reconstruct_vae(vae, batch))

    def train_decoder(self, name: str | None = None, length: int | None = None) -> None:
        """Stage 2: the run's own decoder, or a further one, on the frozen encoder's latents."""
        self._need(self.vae)
        runner = self.decoder_runner(name, length)
        task, vae, decoder, options = self.task, self.vae.network.eval(), runner.network, runner.options

        def z_of(batch: Batch, noise: torch.Tensor) -> torch.Tensor:
            return runner_input(runner, task.decoder_input(vae, batch, options, noise))

        def loss_of(network: nn.Module, batch: Batch, noise: torch.Tensor) -> tuple:
            return task.decoder_loss(network, z_of(batch, noise), batch, options)

        def reconstruct(batch: Batch) -> torch.Tensor:
            some = next(iter(batch.values()))
            return task.decode(decoder, z_of(batch, torch.zeros(len(some), task.latent_size, device=some.device)))

        runner.run(loss_of, reconstruct)

    def decoder_runner(self, name: str | None = None, length: int | None = None) -> StageRunner:
        """The stage of the run's own decoder, or of a further one, with the statistics of the latents it is given."""
        runner = self.decoder
        if name is not None:
            options = decoder_options(self.plan.options, name)
            if length is not None:
                options = dataclasses.replace(options, **{_DECODER_LENGTH[self.plan.is_paper]: length})
            runner = self._runner(f"decoder_{name}", 2, self.task.with_options(options).networks()[1], options)
        if not runner.constants:
            mean, std = self.task.statistics(self.vae.network.eval(), runner.options)
            runner.constants = {"latent_mean": mean, "latent_std": std}
        return runner

    def aggregate(self, record: dict) -> Path:
        """Stage 3: one model of encoder and decoder, written to the run's folder."""
        self._need(self.vae)
        self._need(self.decoder)
        statistics = self.decoder.constants["latent_mean"], self.decoder.constants["latent_std"]
        model = self.task.aggregate(self.vae.network.eval(), self.decoder.network.eval(), statistics)
        provenance = record | {
            "trained": time.strftime("%Y-%m-%d"),
            "seconds": {"vae": round(self.vae.seconds), "decoder": round(self.decoder.seconds)},
            "hardware": f"{platform.machine()}, {os.cpu_count()} processor cores, {torch.get_num_threads()} threads",
            "licence": "weights Apache-2.0; the training data's own terms are in the model card",
            "notice": NOTICE,
        }
        save_model(model, self.folder / "model.safetensors", provenance)
        return self.folder / "model.safetensors"

    @staticmethod
    def _need(runner: StageRunner) -> None:
        if runner.step < runner.steps:
            cause = f"The {runner.name} stage has done {runner.step} of {runner.steps} steps"
            raise SkullVAEError(cause, f"Run train.py {runner.name} --resume first")


def runner_input(runner: StageRunner, z: torch.Tensor) -> torch.Tensor:
    """Latents (N, L) as a decoder's stage takes them: standardised if its options say so."""
    if not runner.options.standardise:
        return z
    return (z - runner.constants["latent_mean"]) / runner.constants["latent_std"]


def run_training(
    plan: TrainingPlan, folder: Path, stages: tuple[str, ...] = STAGES, betas: tuple[float, ...] = (),
    resume: bool = False, group: Group | None = None, report: Callable[[dict], None] = lambda row: None,
    log: Log = lambda line: None,
) -> Path:  # fmt: skip
    """Run stages of a plan in a folder, once or for several betas. Returns the path of what the last stage wrote.

    Raises SkullVAEError when the folder holds another run and resume is off, an earlier stage is missing, or the
    processes cannot share a batch equally.
    """
    group = group or Group()
    group.share(plan.options.batch)
    if plan.options.threads:
        torch.set_num_threads(plan.options.threads)
    cases = find_cases(plan.data)
    log(describe(cases))
    prepared = any((folder / name).is_file() for name in PREPARED)
    if not prepared:
        cases = check_cases(cases)
    training, held = split_by_individual(cases, plan.holdout, log)
    if plan.is_paper and not prepared:
        check_classes(training, held)
    individuals = sorted(set().union(*(c.parents for c in training)))
    log(f"To train on: {len(training)} cases, of {_few(individuals)}. Held out: {len(held)} cases.")
    folders = {beta: folder / f"beta_{beta:g}" for beta in betas} or {plan.options.beta: folder}
    plans = {beta: dataclasses.replace(plan, options=dataclasses.replace(plan.options, beta=beta)) for beta in folders}
    root = plan.data if plan.data.is_dir() else plan.data.parent
    used = [_files(side if plan.is_paper else _complete_skulls(side)) for side in (training, held)]
    names = _names([*used[0], *used[1]], root)
    hashes = [{names[path]: file_sha256(path) for path in side} for side in used]
    holdout = sorted(set().union(*(c.parents for c in held)))
    records = {beta: _record(plans[beta], *hashes, holdout) for beta in folders}
    if group.leads:
        for beta, place in folders.items():
            place.mkdir(parents=True, exist_ok=True)
            _check_neighbours(folder, place, records[beta])
            _claim(place, records[beta], stages, resume)
        for place in {folder, *folders.values()}:
            remove_abandoned(place)
    group.wait()
    task = make_task(plan, folder, training, held, group, log)
    for beta, place in folders.items():
        task = task.with_options(plans[beta].options)
        if betas:
            log(f"beta {beta:g}")
        written = _run_stages(TrainingRun(plans[beta], place, task, group, report), stages, records[beta])
    return written


def _run_stages(running: TrainingRun, stages: tuple[str, ...], record: dict) -> Path:
    written = running.folder
    if "vae" in stages:
        running.train_vae()
        written = running.vae.checkpoint
    if "decoder" in stages:
        running.train_decoder()
        for name, length in running.plan.decoders:
            running.train_decoder(name, length)
        written = running.decoder.checkpoint
    if "aggregate" in stages and running.group.leads:
        written = running.aggregate(record)
    return written


def _few(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _commit() -> str | None:
    """The git commit of the code, with "+changes" where the checkout differs from it; None outside a checkout."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    try:
        call = {"cwd": here, "capture_output": True, "text": True, "timeout": 20, "check": True}
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **call).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no", "."], **call).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed.strip() else "")


def _files(cases: list[SkullCase]) -> list[Path]:
    """The volumes themselves, each once."""
    return sorted({c.defective or c.complete for c in cases})


def _names(paths: list[Path], root: Path) -> dict[Path, str]:
    """What to call files: as the data's folder does, or from the folder that those outside it share.

    So no path of the user's machine goes into a model file, and no two files have one name.
    """
    whole = {path: Path(os.path.abspath(path)) for path in paths}
    root = Path(os.path.abspath(root))
    outside = [path.parent for path in whole.values() if not path.is_relative_to(root)]
    base = Path(os.path.commonpath(outside)) if outside else root
    return {p: w.relative_to(root if w.is_relative_to(root) else base).as_posix() for p, w in whole.items()}


def _record(plan: TrainingPlan, data: dict[str, str], held_data: dict[str, str], holdout: list[str]) -> dict:
    """What run.json and the model tell of a run; data: names and SHA-256 of the files trained on and held out."""
    origin = _origin(plan.start_from)
    if origin is not None and (seen := set(origin["data"]) & set(held_data)):
        cause = f"The run to start from was trained on '{sorted(seen)[0]}', which is held out"
        raise SkullVAEError(cause, "Start afresh")
    return {
        "method": "paper" if plan.is_paper else "canonical",
        "architecture": dataclasses.asdict(plan.architecture),
        "options": dataclasses.asdict(plan.options),
        "holdout": holdout,
        "decoders": dict(plan.decoders),
        "start_from": origin,
        "data": data,
        "held_out_data": held_data,
        "versions": {
            "skullvae": __version__,
            "commit": _commit(),
            "torch": torch.__version__,
            "monai": monai.__version__,
            "python": platform.python_version(),
        },
    }


def _origin(run: Path | None) -> dict | None:
    """What the weights that a run starts from had seen."""
    if run is None:
        return None
    path = run / "run.json"
    if not path.is_file():
        raise SkullVAEError(f"'{run}' holds no training run", "Give the folder of a run to --start-from")
    before = json.loads(path.read_text())
    return {"run": run.name, "options": before["options"], "data": before["data"]}


def _check_neighbours(folder: Path, place: Path, record: dict) -> None:
    """Raise SkullVAEError where another beta's run, with which the prepared data are shared, has other data."""
    others = {folder / "run.json", *folder.glob("beta_*/run.json")} - {place / "run.json"}
    for path in sorted(path for path in others if path.is_file()):
        before, now = json.loads(path.read_text()), json.loads(json.dumps(record))
        if any(before[key] != now[key] for key in ("method", "architecture", "holdout", "data")):
            raise SkullVAEError(f"'{folder}' holds runs with other data or networks", "Choose another --output")


def _claim(folder: Path, record: dict, stages: tuple[str, ...], resume: bool) -> None:
    """Write run.json, or check that the folder's is the same run."""
    path = folder / "run.json"
    if not path.is_file():
        write_json(path, record)
        return
    before = json.loads(path.read_text())
    if _identity(before) != _identity(json.loads(json.dumps(record))):
        raise SkullVAEError(f"'{folder}' holds a run with other options or data", "Choose another --output")
    begins = stages[0] == "vae"
    if begins and not resume and (folder / "vae.last.safetensors").is_file():
        raise SkullVAEError(
            f"'{folder}' already holds a run", "Add --resume to continue it, or choose another --output"
        )
    longer = any(record["options"].get(n, 0) > before["options"].get(n, 0) for n in ("vae_steps", "vae_epochs"))
    if longer and any(folder.glob("decoder*.last.safetensors")):
        cause = f"The decoders in '{folder}' were trained on its encoder as it is"
        raise SkullVAEError(cause, "To train the encoder for longer, --start-from this run in another --output")
    record["decoders"] = before["decoders"] | record["decoders"]
    write_json(path, record)


def _identity(record: dict) -> tuple:
    """What must be the same for a run to go on."""
    options = {name: value for name, value in record["options"].items() if name not in LENGTHS}
    return options, [record.get(key) for key in ("method", "architecture", "holdout", "start_from", "data")]
