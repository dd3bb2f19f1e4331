"""One training run and its folder: data, split, the three stages, additional decoders, the models.

A run folder holds run.json (options, data with hashes, versions, commit), the prepared data, log.csv, each stage's last
and best checkpoint, TensorBoard events and, at the end, model.safetensors. A run of several betas holds such a folder
for each; they share the prepared data.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from SkullVAELib.core.atomic_output import atomic_file, remove_abandoned
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.files import file_sha256
from SkullVAELib.core.version import NOTICE, __version__
from SkullVAELib.data.datasets import SkullCase, check_cases, describe, find_cases, split_by_individual
from SkullVAELib.training.canonical import CanonicalTask
from SkullVAELib.training.config import LENGTHS, METHODS, StageOptions, decoder_options
from SkullVAELib.training.distributed import Group
from SkullVAELib.training.losses import LossAndTerms
from SkullVAELib.training.paper import PaperTask
from SkullVAELib.training.task import AnyTask, Batch
from SkullVAELib.training.trainer import NetworkT, StageRunner
from SkullVAELib.vae.autoencoder import VariationalAutoencoder
from SkullVAELib.vae.checkpoint import save_model
from SkullVAELib.vae.networks import Architecture, LatentDecoder
from SkullVAELib.vae.paper_networks import PaperArchitecture

STAGES = ("vae", "decoder", "aggregate")
"""The stages of a run, in their order."""

TASKS: dict[str, type[AnyTask]] = {task.method: task for task in (CanonicalTask, PaperTask)}
"""The task of each method."""

PREPARED = ("population.safetensors", "volumes.safetensors")
"""Files that exist once the data of a run have been checked and prepared."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class TrainingPlan:
    """What to train on which data.

    Attributes
    ----------
    data : Path
        Folder or JSON list of skulls; see `data.datasets.find_cases`.
    architecture : Architecture or PaperArchitecture
        Architecture of the method.
    options : StageOptions
        Options of the method.
    holdout : tuple of str
        Individuals to hold out, where the data do not give a split.
    decoders : tuple of (str, int or None)
        Additional decoders to train on the same latents, see `config.DECODERS`, with their epochs (our method: steps)
        or None for the run's own.
    start_from : Path, optional
        Folder of a run whose weights to begin with.
    """

    data: Path
    architecture: Architecture | PaperArchitecture
    options: StageOptions
    holdout: tuple[str, ...] = ()
    decoders: tuple[tuple[str, int | None], ...] = ()
    start_from: Path | None = None

    @property
    def task(self) -> type[AnyTask]:
        """The class of the method's task."""
        return TASKS[self.options.method]

    def with_beta(self, beta: float) -> TrainingPlan:
        """The same plan with another beta."""
        return dataclasses.replace(self, options=self.options.changed(beta=beta))


def write_json(path: Path, content: dict) -> None:
    """Write JSON completely or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def make_task(
    plan: TrainingPlan, cache: Path, training: list[SkullCase], held: list[SkullCase], group: Group | None = None,
    log: Log = lambda line: None,
) -> AnyTask:  # fmt: skip
    """The task of a plan with its data, ready for the stages.

    Parameters
    ----------
    plan : TrainingPlan
        Gives method, architecture and options.
    cache : Path
        Folder of the prepared data; they are prepared there where they are missing.
    training, held : list of SkullCase
        Training and held-out cases; used only when nothing is prepared yet.
    group : Group, optional
        The processes that train together; default: this one alone.
    log : callable
        Called with lines of progress.
    """
    return plan.task.prepare(plan.architecture, plan.options, cache, training, held, group or Group(), log)


class TrainingRun:
    """The stages of a plan in the folder of one run; they continue from the checkpoints found there.

    Parameters
    ----------
    plan : TrainingPlan
        What to train.
    folder : Path
        Folder of the run.
    task : Task
        The prepared data, under the options of the plan.
    group : Group, optional
        The processes that train together; default: this one alone.
    report : callable
        Called with rows of the log; see `trainer.StageRunner`.
    """

    def __init__(
        self, plan: TrainingPlan, folder: Path, task: AnyTask, group: Group | None = None,
        report: Callable[[dict], None] = lambda row: None,
    ):  # fmt: skip
        self.plan, self.folder, self.task, self.group, self.report = plan, folder, task, group or Group(), report
        vae, decoder = task.networks()
        self.vae: StageRunner[VariationalAutoencoder] = self._runner("vae", 1, vae, plan.options)
        self.decoder: StageRunner[LatentDecoder] = self._runner("decoder", 2, decoder, plan.options)

    def _runner(self, name: str, number: int, network: NetworkT, options: StageOptions) -> StageRunner[NetworkT]:
        steps = self.task.with_options(options).steps(name.partition("_")[0])
        runner = StageRunner(self.folder, name, number, network, steps, self.task, options, self.group, self.report)
        runner.resume()
        if self.plan.start_from is not None:
            runner.start_from(self.plan.start_from)
        return runner

    def train_vae(self) -> None:
        """Stage 1: the beta-VAE."""
        vae = self.vae.network
        self.vae.run(self.task.vae_loss, lambda batch: self.task.reconstruct_vae(vae, batch))

    def train_decoder(self, name: str | None = None, length: int | None = None) -> None:
        """Stage 2: an independent decoder on the latents of the frozen encoder.

        name: an additional decoder of `config.DECODERS`, default: the run's own; length: its epochs (our method:
        steps), default: as the run's own. Raises SkullVAEError when the VAE is not trained to its end.
        """
        self._require_complete(self.vae)
        runner = self.decoder_runner(name, length)
        task, vae, decoder, options = self.task, self.vae.network.eval(), runner.network, runner.options

        def z_of(batch: Batch, noise: torch.Tensor) -> torch.Tensor:
            return standardise(runner, task.decoder_input(vae, batch, options, noise))

        def loss_of(network: nn.Module, batch: Batch, noise: torch.Tensor) -> LossAndTerms:
            return task.decoder_loss(network, z_of(batch, noise), batch, options)

        def reconstruct(batch: Batch) -> torch.Tensor:
            first = next(iter(batch.values()))
            return task.decode(decoder, z_of(batch, torch.zeros(len(first), task.latent_size, device=first.device)))

        runner.run(loss_of, reconstruct)

    def decoder_runner(self, name: str | None = None, length: int | None = None) -> StageRunner[LatentDecoder]:
        """The stage of the run's own or an additional decoder, with its latents' statistics; see train_decoder."""
        runner = self.decoder
        if name is not None:
            options = decoder_options(self.plan.options, name, length)
            runner = self._runner(f"decoder_{name}", 2, self.task.with_options(options).networks()[1], options)
        if not runner.constants:
            mean, std = self.task.statistics(self.vae.network.eval(), runner.options)
            runner.constants = {"latent_mean": mean, "latent_std": std}
        return runner

    def aggregate(self, record: dict) -> Path:
        """Stage 3: write encoder and decoder as one model.safetensors to the run's folder; returns its path.

        record: content of run.json, which the model's provenance repeats. Raises SkullVAEError when the VAE or the
        decoder is not trained to its end.
        """
        self._require_complete(self.vae)
        self._require_complete(self.decoder)
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
    def _require_complete(runner: StageRunner) -> None:
        if runner.step < runner.steps:
            cause = f"The {runner.name} stage has completed {runner.step} of {runner.steps} steps"
            raise SkullVAEError(cause, f"Run train.py {runner.name} --resume first")


def standardise(runner: StageRunner, z: torch.Tensor) -> torch.Tensor:
    """Latents (N, L) as a decoder's stage takes them: standardised by its statistics if its options require it."""
    if not runner.options.standardise:
        return z
    return (z - runner.constants["latent_mean"]) / runner.constants["latent_std"]


def run_training(
    plan: TrainingPlan, folder: Path, stages: tuple[str, ...] = STAGES, betas: tuple[float, ...] = (),
    resume: bool = False, group: Group | None = None, report: Callable[[dict], None] = lambda row: None,
    log: Log = lambda line: None,
) -> Path:  # fmt: skip
    """Run stages of a plan in a folder, once or for several betas.

    Parameters
    ----------
    plan : TrainingPlan
        What to train on which data.
    folder : Path
        Folder of the run.
    stages : tuple of str
        Stages to run, of `STAGES` and in their order.
    betas : tuple of float
        Betas to train with, each in its own folder beta_*; default: the plan's own, in `folder`.
    resume : bool
        Whether to continue a run found in the folder.
    group : Group, optional
        The processes that train together; default: this one alone.
    report : callable
        Called with rows of the log; see `trainer.StageRunner`.
    log : callable
        Called with lines of progress.

    Returns
    -------
    Path
        The file that the last stage wrote.

    Raises
    ------
    SkullVAEError
        When the data cannot be used, the folder contains another run or `resume` is off, an earlier stage is missing,
        or the processes cannot share a batch equally.
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
    if not prepared:
        plan.task.check_data(training, held)
    individuals = sorted(set().union(*(c.parents for c in training)))
    log(f"Training data: {_few(individuals)} (cases: {len(training)}). Held-out cases: {len(held)}.")
    folders = {beta: folder / f"beta_{beta:g}" for beta in betas} or {plan.options.beta: folder}
    plans = {beta: plan.with_beta(beta) for beta in folders}
    root = plan.data if plan.data.is_dir() else plan.data.parent
    used, used_held = (plan.task.used_files(cases) for cases in (training, held))
    names = _names([*used, *used_held], root)
    data, held_data = ({names[path]: file_sha256(path) for path in paths} for paths in (used, used_held))
    holdout = sorted(set().union(*(c.parents for c in held)))
    records = {beta: _record(plans[beta], data, held_data, holdout) for beta in folders}
    if group.leads:
        for beta, place in folders.items():
            place.mkdir(parents=True, exist_ok=True)
            _check_other_betas(folder, place, records[beta])
            _record_run(place, records[beta], stages, resume)
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


def _run_stages(run: TrainingRun, stages: tuple[str, ...], record: dict) -> Path:
    """Run stages and return the file that the last of them wrote."""
    written = run.folder
    if "vae" in stages:
        run.train_vae()
        written = run.vae.checkpoint
    if "decoder" in stages:
        run.train_decoder()
        for name, length in run.plan.decoders:
            run.train_decoder(name, length)
        written = run.decoder.checkpoint
    if "aggregate" in stages and run.group.leads:
        written = run.aggregate(record)
    return written


def _few(names: list[str], most: int = 12) -> str:
    """The first names of a list, and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _commit() -> str | None:
    """The git commit of the code, with "+changes" where the checkout differs from it; None outside a checkout."""
    library = Path(__file__).resolve().parents[1]
    if not (library.parent / ".git").exists():
        return None
    try:
        commit = _git(library, "rev-parse", "HEAD").strip()
        changed = _git(library, "status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed.strip() else "")


def _git(folder: Path, *arguments: str) -> str:
    """Output of a git command in a folder."""
    process = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, encoding="utf-8", timeout=20, check=True
    )
    return process.stdout


def _names(paths: list[Path], root: Path) -> dict[Path, str]:
    """Names of files: paths relative to the data's folder, or for files outside it to their common folder.

    So a model file contains no absolute path of the user's machine, and no two files have the same name.
    """
    whole = {path: Path(os.path.abspath(path)) for path in paths}
    root = Path(os.path.abspath(root))
    outside = [path.parent for path in whole.values() if not path.is_relative_to(root)]
    base = Path(os.path.commonpath(outside)) if outside else root
    return {p: w.relative_to(root if w.is_relative_to(root) else base).as_posix() for p, w in whole.items()}


def _record(plan: TrainingPlan, data: dict[str, str], held_data: dict[str, str], holdout: list[str]) -> dict:
    """Content of run.json; data, held_data: names and SHA-256 of the files trained on and held out."""
    origin = _origin(plan.start_from)
    if origin is not None and (seen := set(origin["data"]) & set(held_data)):
        cause = f"The run to start from was trained on '{sorted(seen)[0]}', which is held out"
        raise SkullVAEError(cause, "Train without --start-from")
    return {
        "method": plan.options.method,
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
            "python": platform.python_version(),
        },
    }


def _origin(run: Path | None) -> dict | None:
    """The run whose weights a run starts from, with its options and training data."""
    if run is None:
        return None
    path = run / "run.json"
    if not path.is_file():
        raise SkullVAEError(f"'{run}' contains no training run", "Give the folder of a run to --start-from")
    before = json.loads(path.read_text(encoding="utf-8"))
    return {"run": run.name, "options": before["options"], "data": before["data"]}


def _check_other_betas(folder: Path, place: Path, record: dict) -> None:
    """Raise SkullVAEError when a run of another beta, which shares the prepared data, has other data or networks."""
    others = {folder / "run.json", *folder.glob("beta_*/run.json")} - {place / "run.json"}
    for path in sorted(path for path in others if path.is_file()):
        before, now = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(record))
        if any(before[key] != now[key] for key in ("method", "architecture", "holdout", "data")):
            raise SkullVAEError(f"'{folder}' contains runs with different data or networks", "Choose another --output")


def _record_run(folder: Path, record: dict, stages: tuple[str, ...], resume: bool) -> None:
    """Write run.json. Raises SkullVAEError when the folder has one that this run cannot continue."""
    path = folder / "run.json"
    if not path.is_file():
        write_json(path, record)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if _identity(before) != _identity(json.loads(json.dumps(record))):
        cause = f"'{folder}' contains a run with different options or data"
        raise SkullVAEError(cause, "Choose another --output")
    begins = stages[0] == "vae"
    if begins and not resume and (folder / "vae.last.safetensors").is_file():
        raise SkullVAEError(
            f"'{folder}' already contains a run", "Add --resume to continue it, or choose another --output"
        )
    length = METHODS[record["method"]][1].vae_length
    if record["options"][length] > before["options"][length] and any(folder.glob("decoder*.last.safetensors")):
        cause = f"The decoders in '{folder}' were trained on its encoder, which must not change"
        remedy = "To train the encoder for longer, choose another --output and give this run to --start-from"
        raise SkullVAEError(cause, remedy)
    record["decoders"] = before["decoders"] | record["decoders"]
    write_json(path, record)


def _identity(record: dict) -> tuple:
    """The parts of run.json that must be equal for a run to be continued."""
    options = {name: value for name, value in record["options"].items() if name not in LENGTHS}
    return options, [record.get(key) for key in ("method", "architecture", "holdout", "start_from", "data")]
