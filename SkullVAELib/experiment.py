"""One training run and its folder: data, split, population, the three stages, the model.

A run folder holds run.json (options, data with hashes, versions), population.safetensors, log.csv, each stage's last
checkpoint and, at the end, model.safetensors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from . import __version__
from .bone import bone_mask
from .checkpoint import read_tensors, save_model, write_tensors
from .datasets import Case, find_cases
from .errors import SkullVAEError
from .frame import redistance, register
from .networks import Architecture, BetaVAE, IndependentDecoder
from .population import Population, build_population, lay_on, prepare_skull
from .training import (
    SkullPool,
    StageRunner,
    TrainingOptions,
    aggregate,
    latent_statistics,
    make_defective,
    train_decoder,
    train_vae,
)
from .volume import read_volume

STAGES = ("vae", "decoder", "aggregate")


def split(cases: list[Case], holdout: tuple[str, ...]) -> tuple[list[Case], list[Case]]:
    """Training and held-out cases, split by individual.

    Raises SkullVAEError when an individual to hold out is unknown or none would be left to train on.
    """
    known = {c.individual for c in cases}
    if unknown := set(holdout) - known:
        raise SkullVAEError(f"There is no individual '{sorted(unknown)[0]}'", f"Choose from {', '.join(sorted(known))}")
    training = [c for c in cases if c.individual not in holdout]
    if not training:
        raise SkullVAEError("Every individual is held out", "Hold out fewer")
    return training, [c for c in cases if c.individual in holdout]


def write_json(path: Path, content: dict) -> None:
    """Write JSON whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def _complete_skulls(cases: list[Case]) -> list[Case]:
    return [c for c in cases if c.defective is None]


def _prepare(case: Case):
    volume = read_volume(case.complete)
    return prepare_skull(case.individual, volume.with_array(bone_mask(volume)[0]))


def load_population(
    folder: Path, cases: list[Case], architecture: Architecture, log: Callable[[str], None]
) -> Population:
    """The run's population: read back when it is there, else built and written."""
    path = folder / "population.safetensors"
    if path.is_file():
        tensors, metadata = read_tensors(path)
        alignments = tensors.pop("alignments").numpy()
        tensors = {k: v.float() for k, v in tensors.items()}
        return Population(architecture.grid, tuple(metadata["names"]), alignments=alignments, **tensors)
    skulls = [_prepare(c) for c in _complete_skulls(cases)]
    population = build_population(skulls, architecture.grid, log)
    tensors = {k: getattr(population, k).half() for k in ("mean", "detail", "known")}
    tensors["alignments"] = torch.tensor(population.alignments)
    write_tensors(path, tensors, {"names": population.names})
    return load_population(folder, cases, architecture, log)  # what a resumed run will read, to the last bit


def held_out_batches(cases: list[Case], population: Population, options: TrainingOptions, each: int = 6) -> list[dict]:
    """Held-out skulls laid on the mean, each with the same few defects at every evaluation."""
    grid, batches = population.grid, []
    target = redistance(population.mean, grid)
    only = dataclasses.replace(options, complete_share=0.0, facial_share=0.0)
    for number, case in enumerate(_complete_skulls(cases)):
        skull = _prepare(case)
        alignment = register(skull.points, target, grid)
        field, known = lay_on(population.mean, skull, alignment, grid)
        for k in range(each):
            rng = np.random.default_rng([7, number, k])
            batches.append(make_defective(field, known, population, rng, only))
    return batches


def run(
    data: Path, folder: Path, stages: tuple[str, ...], architecture: Architecture, options: TrainingOptions,
    holdout: tuple[str, ...] = (), resume: bool = False, start_from: Path | None = None,
    report: Callable[[dict], None] = lambda row: None, log: Callable[[str], None] = lambda line: None,
) -> Path:  # fmt: skip
    """Run stages of a training run in a folder. Returns the path of what the last stage wrote.

    Raises SkullVAEError when the folder holds another run and resume is off, or an earlier stage is missing.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    training, held = split(find_cases(data), holdout)
    individuals = sorted({c.individual for c in training})
    log(f"{len(individuals)} individuals to train on: {', '.join(individuals)}; {len(held)} cases held out")
    record = {
        "architecture": dataclasses.asdict(architecture),
        "options": dataclasses.asdict(options),
        "holdout": sorted(holdout),
        "start_from": _origin(start_from),
        "data": {
            c.complete.name: hashlib.sha256(c.complete.read_bytes()).hexdigest() for c in _complete_skulls(training)
        },
        "versions": {"skullvae": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    if start_from is not None and (seen := set(record["start_from"]["data"]) & {c.complete.name for c in held}):
        raise SkullVAEError(
            f"The run to start from was trained on '{sorted(seen)[0]}', which is held out", "Start afresh"
        )
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, record, stages, resume)
    population = load_population(folder, training, architecture, log)
    held_out = held_out_batches(held, population, options)
    torch.manual_seed(options.seed)
    vae, decoder = BetaVAE(architecture), IndependentDecoder(architecture)
    log(f"drawing {options.pool} skulls from the population")
    pool = SkullPool(population, options.pool, options.seed)

    def runner(name: str, network: torch.nn.Module, steps: int) -> StageRunner:
        made = StageRunner(folder, name, network, steps, options, pool, held_out, report)
        made.resume()
        if start_from is not None:
            made.start_from(start_from)
        return made

    started = time.strftime("%Y-%m-%d")
    first = runner("vae", vae, options.vae_steps)
    if "vae" in stages:
        train_vae(first, population.mean, architecture, options)
    if stages == ("vae",):
        return first.checkpoint
    _need(first, "vae")
    statistics = latent_statistics(vae, pool, options, architecture.clamp_mm)
    second = runner("decoder", decoder, options.decoder_steps)
    if "decoder" in stages:
        train_decoder(second, vae, statistics, population.mean, architecture, options)
    if stages == ("decoder",):
        return second.checkpoint
    _need(second, "decoder")
    model = aggregate(vae, decoder, statistics, pool, architecture, options)
    provenance = record | {
        "trained": started,
        "seconds": {"vae": round(first.seconds), "decoder": round(second.seconds)},
        "hardware": f"{platform.machine()}, {os.cpu_count()} processor cores, {torch.get_num_threads()} threads",
        "licence": "weights Apache-2.0; the training data's own terms are in the model card",
        "notice": "Research software, not a medical device, not for clinical use.",
    }
    save_model(model, folder / "model.safetensors", provenance)
    return folder / "model.safetensors"


def _origin(run: Path | None) -> dict | None:
    """What the weights that a run starts from had seen."""
    if run is None:
        return None
    path = run / "run.json"
    if not path.is_file():
        raise SkullVAEError(f"'{run}' holds no training run", "Give the folder of a run to --start-from")
    before = json.loads(path.read_text())
    return {"run": run.name, "options": before["options"], "data": before["data"]}


def _claim(folder: Path, record: dict, stages: tuple[str, ...], resume: bool) -> None:
    """Write run.json, or check that the folder's is the same run."""
    path = folder / "run.json"
    if not path.is_file():
        write_json(path, record)
        return
    before = json.loads(path.read_text())
    if any(
        before.get(key) != json.loads(json.dumps(record[key]))
        for key in ("architecture", "options", "holdout", "start_from", "data")
    ):
        raise SkullVAEError(f"'{folder}' holds a run with other options or data", "Choose another --output")
    begins = stages[0] == "vae"
    if begins and not resume and (folder / "vae.last.safetensors").is_file():
        raise SkullVAEError(
            f"'{folder}' already holds a run", "Add --resume to continue it, or choose another --output"
        )


def _need(runner: StageRunner, name: str) -> None:
    if runner.step < runner.steps:
        raise SkullVAEError(
            f"The {name} stage has done {runner.step} of {runner.steps} steps", f"Run train.py {name} --resume first"
        )
