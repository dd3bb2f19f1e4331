"""A finished run looked at: every model on every skull, training beside held-out, with the cheap baselines beside both.

Nothing is trained here; checkpoints and prepared data are read from the run's folder.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from SkullVAELib.analysis.diagnostics import (
    AggregatedPosterior,
    ShapeModel,
    active_units,
    aggregated_posterior,
    kl_per_dimension,
    principal_components,
)
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.data.datasets import COMPLETE
from SkullVAELib.data.kinds import CLASSES
from SkullVAELib.training.config import DECODERS, METHODS
from SkullVAELib.training.losses import dice_score
from SkullVAELib.training.run import TrainingPlan, TrainingRun, make_task, runner_input
from SkullVAELib.training.trainer import Specimens
from SkullVAELib.vae.latent import Z_KINDS, deviation, inference_kind, latent_code, neighbour_deviations

GAMMAS = (0.0, 0.3, 0.5, 1.0, 5.0)
"""The paper's figure."""

ALL_KINDS = (COMPLETE, *CLASSES)

TARGET = 33.0
"""The Dice loss, of 640, that the paper's new decoder ends at."""

_PART = 8
"""Volumes decoded at once."""


@dataclass
class Decoder:
    """One way from a latent to bone: the VAE's own decoder, or one trained on its latents.

    z: the latent code that it takes; bone(z) gives (N, X, Y, Z) bool of latents (N, L).
    """

    name: str
    stage: str
    z: str
    standardised: bool
    bone: Callable[[torch.Tensor], torch.Tensor]
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Epochs:
    """A stage's log, averaged epoch by epoch; dice_loss on the paper's scale of 640."""

    epoch: np.ndarray
    dice_loss: np.ndarray
    kl_nats: np.ndarray
    seconds: np.ndarray
    held_out: list[tuple[int, float]]

    def reached(self, target: float = TARGET) -> int | None:
        """The first epoch whose mean Dice loss is at most the target."""
        found = np.flatnonzero(self.dice_loss <= target)
        return int(self.epoch[found[0]]) if len(found) else None


class BetaRun:
    """The encoder of one beta and all its decoders, with the latents of every specimen."""

    def __init__(self, run: TrainingRun, beta: float, specimens: Specimens, decoder_lengths: dict[str, int | None]):
        self.run, self.beta, self.specimens, self.task = run, beta, specimens, run.task
        self.decoder_lengths = decoder_lengths
        self.log = read_log(run.folder / "log.csv", run.task.paper_scale)
        self.vae = run.vae.network.eval()
        parts = [run.task.encode(self.vae, part) for part in specimens.inputs.split(_PART)]
        self.mu, self.logvar = (torch.cat(values).cpu() for values in zip(*parts, strict=True))

    @cached_property
    def training_posteriors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and log variances (S, L) of the training specimens alone."""
        training = ~torch.tensor(self.specimens.held_out)
        return self.mu[training], self.logvar[training]

    @cached_property
    def aggregated(self) -> AggregatedPosterior:
        """The training specimens' posteriors together, beside N(0, I)."""
        return aggregated_posterior(*self.training_posteriors)

    @cached_property
    def decoders(self) -> dict[str, Decoder]:
        """By name: "own", "new" and the further ones that were trained to their end."""
        task, vae = self.task, self.vae
        found = {
            "own": Decoder(
                "own",
                "vae",
                "mean",
                False,
                lambda z: task.to_bone(task.decode(lambda x: vae.decode_forward(x, False), z)),
            )
        }
        names = [None, *(n for n in DECODERS if (self.run.folder / f"decoder_{n}.last.safetensors").is_file())]
        for name in names:
            runner = self.run.decoder_runner(name, self.decoder_lengths.get(name))
            if runner.step < runner.steps:
                continue
            decoder = runner.network.eval()
            found[name or "new"] = Decoder(
                name or "new",
                runner.name,
                runner.options.z,
                runner.options.standardise,
                lambda z, runner=runner, decoder=decoder: task.to_bone(task.decode(decoder, runner_input(runner, z))),
            )
        return found

    def latents(self, kind: str, seed: int = 0) -> torch.Tensor:
        """(N, L) latent codes of all specimens."""
        noise = torch.randn(self.mu.shape, generator=torch.Generator().manual_seed(seed))
        return latent_code(self.mu, self.logvar, kind, noise)

    def inference_latents(self, decoder: Decoder) -> torch.Tensor:
        """(N, L) of the kind that a decoder takes; one trained on samples is given the mean."""
        return self.latents(inference_kind(decoder.z))

    @torch.no_grad()
    def bone(self, decoder: Decoder, z: torch.Tensor) -> torch.Tensor:
        """(N, X, Y, Z) bool of latents (N, L), some at a time."""
        return torch.cat([decoder.bone(part.to(self.task.device)).cpu() for part in z.split(_PART)])

    def deviations(self, z: torch.Tensor, kind: str, neighbours: int = 0) -> torch.Tensor:
        """DEV (N, L) for every specimen, from the training skulls of a class: their mean, or of the nearest few."""
        s = self.specimens
        of_class = np.flatnonzero((np.array(s.kinds) == kind) & ~s.held_out)
        complete, defective = z[s.complete[of_class]], z[of_class]
        if neighbours:
            return neighbour_deviations(z, complete, defective, neighbours)
        return deviation(complete, defective).expand(len(z), -1)


def read_log(path: Path, scale: float) -> dict[str, Epochs]:
    """A run's log.csv, stage by stage; scale: from its Dice loss to the paper's 640."""
    stages: dict[str, list[dict]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            stages.setdefault(row["stage"], []).append(row)
    result = {}
    for stage, rows in stages.items():
        epoch = np.array([int(r["epoch"]) for r in rows])
        numbers = np.unique(epoch)

        def mean_of(name: str, rows=rows, epoch=epoch, numbers=numbers) -> np.ndarray:
            values = np.array([float(r[name]) if r[name] else np.nan for r in rows])
            return np.array([values[epoch == n].mean() for n in numbers])

        held = [(int(r["epoch"]), float(r["held_out_skull_dice"])) for r in rows if r["held_out_skull_dice"]]
        result[stage] = Epochs(numbers, scale * mean_of("dice_loss"), mean_of("kl_nats"), mean_of("seconds"), held)
    return result


class RunAnalysis:
    """All betas of a run folder and the baselines; `results` holds every number of the report, ready for JSON."""

    def __init__(self, folder: Path, log: Callable[[str], None] = lambda line: None):
        self.folder, self.say = Path(folder), log
        places = sorted(self.folder.glob("beta_*/run.json")) or [self.folder / "run.json"]
        if not places[0].is_file():
            raise SkullVAEError(
                f"'{folder}' holds no training run", "Name the folder that train.py was given as --output"
            )
        self.records = {place.parent: json.loads(place.read_text()) for place in places}
        task, self.runs = None, []
        for place, record in self.records.items():
            plan = _plan(record)
            if task is None:
                task = make_task(plan, self.folder, [], [], log=log)
                self.specimens = task.specimens()
            run = TrainingRun(plan, place, task.with_options(plan.options))
            if run.vae.step < run.vae.steps:
                log(f"{place.name}: the VAE is not trained to its end, left out")
                continue
            log(f"{place.name}: encoding {len(self.specimens.kinds)} skulls")
            self.runs.append(BetaRun(run, plan.options.beta, self.specimens, record["decoders"]))
        if not self.runs:
            raise SkullVAEError(f"No VAE of '{folder}' is trained to its end", "Go on with train.py --resume")
        self.runs.sort(key=lambda run: -run.beta)
        self.task, self.record = task, next(iter(self.records.values()))
        s = self.specimens
        self.kinds = np.array(s.kinds)
        self.gap = s.complete_bone & ~s.bone
        self.near_gap = torch.cat([F.max_pool3d(g[:, None].float(), 5, 1, 2)[:, 0] > 0 for g in self.gap.split(_PART)])
        self.target = s.complete_bone if task.reconstructs_complete else s.bone

    def select(self, kind: str | None = None, held_out: bool | None = None) -> np.ndarray:
        """Indices of specimens."""
        chosen = np.ones(len(self.kinds), bool) if kind is None else self.kinds == kind
        return np.flatnonzero(chosen if held_out is None else chosen & (self.specimens.held_out == held_out))

    def _summary(self, values: torch.Tensor, kinds: tuple[str, ...]) -> dict[str, float | None]:
        """Means over training and held-out specimens, of all kinds and by kind."""
        result = {}
        for part, held in (("training", False), ("held_out", True)):
            for kind in (None, *kinds):
                chosen = [k for k in self.select(kind, held) if self.kinds[k] in kinds]
                name = part if kind is None else f"{part}_{kind}"
                result[name] = float(values[chosen].mean()) if chosen else None
        return result

    def implant_dice(self, completed: torch.Tensor, chosen: np.ndarray | slice = slice(None)) -> torch.Tensor:
        """(N,) Dice of what is added to the chosen specimens' bone, within two voxels of what they lack."""
        return dice_score(completed & ~self.specimens.bone[chosen] & self.near_gap[chosen], self.gap[chosen])

    def score(self, run: BetaRun, decoder: Decoder) -> dict:
        """Reconstruction and completion of all specimens by one decoder."""
        z = run.inference_latents(decoder)
        result = {"reconstruction": self._summary(dice_score(run.bone(decoder, z), self.target), ALL_KINDS)}
        for name, gamma, neighbours in (("gamma 0", 0, 0), ("DEV", 1, 0), ("DEV of 5 neighbours", 1, 5)):
            values = torch.zeros(len(self.kinds))
            for kind in CLASSES:
                chosen = self.select(kind)
                shifted = z[chosen] + gamma * run.deviations(z, kind, neighbours)[chosen]
                values[chosen] = self.implant_dice(run.bone(decoder, shifted), chosen)
            result[f"implant, {name}"] = self._summary(values, CLASSES)
        return result

    def baselines(self, components: int = 32) -> dict[str, dict]:
        """The mean skull and PCA, scored as the decoders are."""
        s = self.specimens
        whole = s.complete_bone[self.select("complete", False)].flatten(1).float()
        mean = (whole.mean(0) > 0.5).reshape(s.bone.shape[1:])
        everywhere = mean[None].expand(len(self.kinds), -1, -1, -1)
        result = {
            "mean skull": {
                "reconstruction": self._summary(dice_score(everywhere, self.target), ALL_KINDS),
                "implant": self._summary(self.implant_dice(everywhere), CLASSES),
            }
        }
        shapes = principal_components(whole, components)
        training = self.select(None, False)
        all_classes = principal_components(self.target[training].flatten(1).float(), components)
        projected = _projected(all_classes, s.bone)
        result[f"PCA-{components}"] = {
            "reconstruction": self._summary(dice_score(projected, self.target), ALL_KINDS),
            "implant": self._summary(self.implant_dice(_projected(shapes, s.bone)), CLASSES),
        }
        return result

    @cached_property
    def results(self) -> dict:
        """Every number of the report."""
        s = self.specimens
        result = {
            "method": self.record["method"],
            "grid": list(self.record["architecture"]["grid_shape"]),
            "skulls": {"training": int((~s.held_out).sum()), "held_out": int(s.held_out.sum())},
            "individuals": sorted({part for name in s.individuals for part in name.split("+")}),
            "held_out_individuals": self.record["holdout"],
            "versions": self.record["versions"],
            "baselines": self.baselines(),
            "betas": {},
        }
        for run in self.runs:
            self.say(f"beta {run.beta:g}: scoring {', '.join(run.decoders)}")
            result["betas"][f"{run.beta:g}"] = self._of_beta(run)
        return result

    def of(self, run: BetaRun) -> dict:
        """The results of one beta."""
        return self.results["betas"][f"{run.beta:g}"]

    def _of_beta(self, run: BetaRun) -> dict:
        mu, logvar = run.training_posteriors
        posterior = run.aggregated
        kl = kl_per_dimension(mu, logvar)
        result = {
            "kl_nats": float(kl.sum()),
            "kl_per_dimension": kl.tolist(),
            "active_units": active_units(mu),
            "aggregated_posterior": {
                "kl_nats": posterior.kl_nats,
                "rejected": posterior.rejected,
                "mean_abs_mean": float(np.abs(posterior.mean).mean()),
                "mean_std": float(posterior.std.mean()),
            },
            "spread_of_mean": float(mu.std(0).mean()),
            "spread_of_mean_plus_sigma": float(latent_code(mu, logvar, "mean+sigma").std(0).mean()),
            "own_decoder_given": {
                kind: self._summary(
                    dice_score(run.bone(run.decoders["own"], run.latents(kind)), self.target), ALL_KINDS
                )
                for kind in Z_KINDS
            },
            "decoders": {},
        }
        for name, decoder in run.decoders.items():
            epochs = run.log[decoder.stage]
            result["decoders"][name] = {
                "z": decoder.z,
                "standardised": decoder.standardised,
                "final_dice_loss": float(epochs.dice_loss[-1]),
                "lowest_dice_loss": float(epochs.dice_loss.min()),
                "epochs": int(epochs.epoch[-1]),
                "epoch_at_33": epochs.reached(),
                "seconds": float(epochs.seconds[-1]),
                **self.score(run, decoder),
            }
        return result


def _projected(shapes: ShapeModel, bone: torch.Tensor) -> torch.Tensor:
    parts = [shapes.reconstruct(part.flatten(1).float()) > 0.5 for part in bone.split(_PART)]
    return torch.cat(parts).reshape(bone.shape)


def _plan(record: dict) -> TrainingPlan:
    shape, options = METHODS[record["method"]]
    told = {k: tuple(v) if isinstance(v, list) else v for k, v in record["architecture"].items()}
    made = options(**record["options"])
    if record["method"] == "canonical":
        made = dataclasses.replace(made, pool=24)  # enough to look at
    return TrainingPlan(Path(), shape(**told), made)
