"""Evaluation of a finished run: every decoder and two baselines, on training and on held-out skulls.

Nothing is trained here; checkpoints and prepared data are read from the run's folder.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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
from SkullVAELib.data.defect_kinds import CLASSES
from SkullVAELib.training.config import DECODERS, METHODS, with_tuples
from SkullVAELib.training.losses import dice_score
from SkullVAELib.training.run import TrainingPlan, TrainingRun, make_task, standardise
from SkullVAELib.training.task import AnyTask, Specimens
from SkullVAELib.training.trainer import StageRunner
from SkullVAELib.vae.latent import Z_KINDS, deviation, inference_kind, latent_code, neighbour_deviations
from SkullVAELib.vae.networks import LatentDecoder

GAMMAS = (0.0, 0.3, 0.5, 1.0, 5.0)
"""Values of gamma in the paper's figure."""

ALL_KINDS = (COMPLETE, *CLASSES)
"""Classes of skulls."""

TARGET = 33.0
"""The final Dice loss (of 640) of the paper's independent decoder."""

_CHUNK = 8
"""Volumes encoded or decoded at once, which bounds the memory needed."""


@dataclass
class Decoder:
    """A way from a latent to bone: the VAE's own decoder, or one trained on its latents.

    Attributes
    ----------
    name : str
        "own" (the VAE's), "new" (the run's independent decoder) or the name of an additional decoder.
    stage : str
        Name of its stage in the log.
    z : str
        Kind of latent code that it was trained on; see `vae.latent.Z_KINDS`.
    standardised : bool
        Whether it takes standardised latents.
    bone : callable
        bone(z) returns the bone (N, X, Y, Z) bool of latents (N, L), which it standardises itself.
    """

    name: str
    stage: str
    z: str
    standardised: bool
    bone: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Epochs:
    """A stage's log, averaged over each epoch.

    Attributes
    ----------
    epoch, dice_loss, kl_nats, seconds : numpy.ndarray
        (E,) number of the epoch, and means over it; dice_loss on the paper's scale of 640.
    held_out : list of (int, float)
        Epochs and held-out Dice of skulls, where they were measured.
    """

    epoch: np.ndarray
    dice_loss: np.ndarray
    kl_nats: np.ndarray
    seconds: np.ndarray
    held_out: list[tuple[int, float]]

    def first_at(self, target: float = TARGET) -> int | None:
        """The first epoch whose mean Dice loss is at most the target; None if there is none."""
        reached = np.flatnonzero(self.dice_loss <= target)
        return int(self.epoch[reached[0]]) if len(reached) else None


class BetaRun:
    """The encoder of one beta and all its decoders, with the latents of every specimen.

    Parameters
    ----------
    run : TrainingRun
        The run, whose VAE is trained to its end.
    beta : float
        Its beta.
    specimens : Specimens
        The N skulls to evaluate.
    decoder_lengths : dict
        Epochs (our method: steps) of the additional decoders by name; None: as the run's own.

    Attributes
    ----------
    mu, logvar : torch.Tensor
        (N, L) posterior mean and log variance of every specimen.
    log : dict of Epochs
        The log by stage.
    """

    def __init__(self, run: TrainingRun, beta: float, specimens: Specimens, decoder_lengths: dict[str, int | None]):
        self.run, self.beta, self.specimens, self.task = run, beta, specimens, run.task
        self.decoder_lengths = decoder_lengths
        self.log = read_log(run.folder / "log.csv", run.task.paper_scale)
        self.vae = run.vae.network.eval()
        parts = [run.task.encode(self.vae, part) for part in specimens.inputs.split(_CHUNK)]
        self.mu, self.logvar = (torch.cat(values).cpu() for values in zip(*parts, strict=True))

    @cached_property
    def training_posteriors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and log variance (S, L) of the training specimens."""
        training = ~torch.tensor(self.specimens.held_out)
        return self.mu[training], self.logvar[training]

    @cached_property
    def aggregated(self) -> AggregatedPosterior:
        """The mixture of the training specimens' posteriors, compared with N(0, I)."""
        return aggregated_posterior(*self.training_posteriors)

    @cached_property
    def decoders(self) -> dict[str, Decoder]:
        """The decoders by name: "own", "new" and the additional ones, as far as they were trained to their end."""
        task, vae = self.task, self.vae

        def own_bone(z: torch.Tensor) -> torch.Tensor:
            return task.to_bone(task.decode(vae.decode_forward, z))

        decoders = {"own": Decoder("own", "vae", "mean", False, own_bone)}
        names = [n for n in DECODERS if (self.run.folder / f"decoder_{n}.last.safetensors").is_file()]
        runners = {"new": self.run.decoder_runner()}
        runners |= {name: self.run.decoder_runner(name, self.decoder_lengths.get(name)) for name in names}
        for name, runner in runners.items():
            if runner.step >= runner.steps:
                options = runner.options
                decoders[name] = Decoder(name, runner.name, options.z, options.standardise, self._bone_by(runner))
        return decoders

    def _bone_by(self, runner: StageRunner[LatentDecoder]) -> Callable[[torch.Tensor], torch.Tensor]:
        """The function from latents (N, L) to bone by the decoder of a stage."""
        decoder = runner.network.eval()
        return lambda z: self.task.to_bone(self.task.decode(decoder, standardise(runner, z)))

    def latents(self, kind: str, seed: int = 0) -> torch.Tensor:
        """Latent codes (N, L) of all specimens, of a kind of `vae.latent.Z_KINDS`."""
        noise = torch.randn(self.mu.shape, generator=torch.Generator().manual_seed(seed))
        return latent_code(self.mu, self.logvar, kind, noise)

    def inference_latents(self, decoder: Decoder) -> torch.Tensor:
        """Latent codes (N, L) of all specimens for a decoder; the mean for a decoder trained on samples."""
        return self.latents(inference_kind(decoder.z))

    @torch.no_grad()
    def bone(self, decoder: Decoder, z: torch.Tensor) -> torch.Tensor:
        """Bone (N, X, Y, Z) bool that a decoder makes of latents (N, L), on the CPU."""
        return torch.cat([decoder.bone(part.to(self.task.device)).cpu() for part in z.split(_CHUNK)])

    def deviations(self, z: torch.Tensor, kind: str, neighbours: int = 0) -> torch.Tensor:
        """DEV for every specimen.

        Parameters
        ----------
        z : torch.Tensor
            (N, L) latents of all specimens.
        kind : str
            Class of defects; its training skulls give DEV.
        neighbours : int
            0: the mean over the class; otherwise the mean over this number of nearest training skulls.

        Returns
        -------
        torch.Tensor
            (N, L).
        """
        s = self.specimens
        of_class = np.flatnonzero((np.array(s.kinds) == kind) & ~s.held_out)
        complete, defective = z[s.complete[of_class]], z[of_class]
        if neighbours:
            return neighbour_deviations(z, complete, defective, neighbours)
        return deviation(complete, defective).expand(len(z), -1)


def read_log(path: Path, scale: float) -> dict[str, Epochs]:
    """Read a run's log.csv by stage; scale: factor from its Dice loss to the paper's scale of 640."""
    stages: dict[str, list[dict]] = {}
    with path.open(newline="", encoding="utf-8") as file:
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
    """All betas of a run folder, and the baselines, evaluated on the run's skulls.

    Parameters
    ----------
    folder : Path
        Folder of a run, of one beta or of several.
    log : callable
        Called with lines of progress.

    Attributes
    ----------
    runs : list of BetaRun
        One for each beta whose VAE is trained to its end, largest beta first.
    specimens : Specimens
        The N skulls evaluated.
    missing, near_missing : torch.Tensor
        (N, X, Y, Z) bool, missing bone of the skulls, and the same grown by two voxels.
    target : torch.Tensor
        (N, X, Y, Z) bool, bone that a reconstruction is compared with.

    Raises
    ------
    SkullVAEError
        When the folder contains no run, or no VAE trained to its end.
    """

    def __init__(self, folder: Path, log: Callable[[str], None] = lambda line: None):
        self.folder, self.log = Path(folder), log
        places = sorted(self.folder.glob("beta_*/run.json")) or [self.folder / "run.json"]
        if not places[0].is_file():
            raise SkullVAEError(
                f"'{folder}' contains no training run", "Give the folder that train.py was given as --output"
            )
        self.records = {place.parent: json.loads(place.read_text(encoding="utf-8")) for place in places}
        self.record = next(iter(self.records.values()))
        self.task: AnyTask = make_task(_plan(self.record), self.folder, [], [], log=log)
        self.specimens = s = self.task.specimens()
        self.runs: list[BetaRun] = []
        for place, record in self.records.items():
            plan = _plan(record)
            run = TrainingRun(plan, place, self.task.with_options(plan.options))
            if run.vae.step < run.vae.steps:
                log(f"{place.name}: skipped, since its VAE is not trained to its end")
                continue
            log(f"{place.name}: encoding {len(s.kinds)} skulls")
            self.runs.append(BetaRun(run, plan.options.beta, s, record["decoders"]))
        if not self.runs:
            raise SkullVAEError(f"No VAE in '{folder}' is trained to its end", "Continue with train.py --resume")
        self.runs.sort(key=lambda run: -run.beta)
        self.kinds = np.array(s.kinds)
        self.missing = s.complete_bone & ~s.bone
        grown = [F.max_pool3d(m[:, None].float(), 5, 1, 2)[:, 0] > 0 for m in self.missing.split(_CHUNK)]
        self.near_missing = torch.cat(grown)
        self.target = s.complete_bone if self.task.reconstructs_complete else s.bone

    def select(self, kind: str | None = None, held_out: bool | None = None) -> np.ndarray:
        """Indices of the specimens of a kind and of one side of the split; None: of all."""
        chosen = np.ones(len(self.kinds), bool) if kind is None else self.kinds == kind
        return np.flatnonzero(chosen if held_out is None else chosen & (self.specimens.held_out == held_out))

    def _summary(self, values: torch.Tensor, kinds: tuple[str, ...]) -> dict[str, float | None]:
        """Means of values (N,) over training and held-out specimens, of all kinds and by kind; None without any."""
        result: dict[str, float | None] = {}
        for part, held in (("training", False), ("held_out", True)):
            for kind in (None, *kinds):
                chosen = [k for k in self.select(kind, held) if self.kinds[k] in kinds]
                name = part if kind is None else f"{part}_{kind}"
                result[name] = float(values[chosen].mean()) if chosen else None
        return result

    def implant_dice(self, completed: torch.Tensor, chosen: np.ndarray | slice = slice(None)) -> torch.Tensor:
        """Dice (N,) of the implants of the chosen specimens: bone added within two voxels of the missing bone."""
        return dice_score(completed & ~self.specimens.bone[chosen] & self.near_missing[chosen], self.missing[chosen])

    def score(self, run: BetaRun, decoder: Decoder) -> dict:
        """Dice of one decoder: of reconstructions, and of implants by z, z + DEV and z + DEV of five neighbours."""
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
        """Dice of the mean skull and of PCA, as of the decoders."""
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
        """Every number of the report, ready for JSON."""
        s = self.specimens
        result: dict[str, Any] = {
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
            self.log(f"beta {run.beta:g}: scoring {', '.join(run.decoders)}")
            result["betas"][f"{run.beta:g}"] = self._beta_results(run)
        return result

    def results_of(self, run: BetaRun) -> dict:
        """The results of one beta."""
        return self.results["betas"][f"{run.beta:g}"]

    def _beta_results(self, run: BetaRun) -> dict:
        mu, logvar = run.training_posteriors
        posterior = run.aggregated
        kl = kl_per_dimension(mu, logvar)
        result: dict[str, Any] = {
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
                "epoch_at_33": epochs.first_at(),
                "seconds": float(epochs.seconds[-1]),
                **self.score(run, decoder),
            }
        return result


def _projected(shapes: ShapeModel, bone: torch.Tensor) -> torch.Tensor:
    """Bone volumes (N, X, Y, Z) as a linear model reconstructs them."""
    parts = [shapes.reconstruct(part.flatten(1).float()) > 0.5 for part in bone.split(_CHUNK)]
    return torch.cat(parts).reshape(bone.shape)


def _plan(record: dict) -> TrainingPlan:
    """The plan of a run by its run.json."""
    architecture, options = METHODS[record["method"]]
    made = options(**record["options"]).for_report()
    return TrainingPlan(Path(), architecture(**with_tuples(record["architecture"])), made)
