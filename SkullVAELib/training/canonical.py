"""Our method: fields in the canonical frame, defective skulls in, complete ones out.

Complete skulls are drawn from a population once and kept. Defects are cut anew at every step, on the training device.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from SkullVAELib.data.augmentation import draw_skull
from SkullVAELib.data.datasets import COMPLETE, SkullCase, read_bone
from SkullVAELib.data.defect_kinds import CLASSES, CRANIAL_KINDS
from SkullVAELib.data.synthetic_defects import random_defect
from SkullVAELib.geometry.distance_field import redistance
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.registration.affine import AffineTarget, register_affine
from SkullVAELib.registration.mean_skull import Population, build_population, warp_to_mean
from SkullVAELib.registration.skull import Skull, prepare_skull
from SkullVAELib.training.config import TrainingOptions
from SkullVAELib.training.distributed import Group
from SkullVAELib.training.losses import LossAndTerms, beta_vae_loss, canonical_reconstruction_loss, kl_loss
from SkullVAELib.training.task import Batch, Specimens, Task
from SkullVAELib.vae.autoencoder import VariationalAutoencoder
from SkullVAELib.vae.checkpoint import read_tensors, write_tensors
from SkullVAELib.vae.latent import deviation, latent_code
from SkullVAELib.vae.networks import (
    Architecture,
    BetaVAE,
    IndependentDecoder,
    LatentDecoder,
    SkullModel,
    aggregate,
)

_KIND_SHARES = np.array([0.3, 0.14, 0.04, 0.1, 0.08, 0.14, 0.12, 0.05, 0.03])
"""Fractions of the cranial defects, in the order of CRANIAL_KINDS."""

_HELD_OUT_DEFECTS = 6
"""Fixed defects for each held-out skull that the training is scored on."""


# Data


def _complete_skulls(cases: list[SkullCase]) -> list[SkullCase]:
    return [c for c in cases if c.defective is None]


def _read_skull(case: SkullCase) -> Skull:
    return prepare_skull(case.individual, read_bone(case.complete))


def load_population(
    folder: Path, cases: list[SkullCase], architecture: Architecture, log: Callable[[str], None]
) -> Population:
    """Read the population that was prepared in a run's folder, or build it from the complete skulls of the cases.

    Parameters
    ----------
    folder : Path
        Folder of population.safetensors.
    cases : list of SkullCase
        The training cases; used only when nothing is prepared yet.
    architecture : Architecture
        Gives the canonical grid.
    log : callable
        Called with lines of progress.

    Returns
    -------
    Population
        Fields and mean in half precision as read from the file, so that a resumed run has the same bits.
    """
    path = folder / "population.safetensors"
    if path.is_file():
        tensors, metadata = read_tensors(path, math.inf)
        alignments = tensors.pop("alignments").numpy()
        tensors = {k: v.float() for k, v in tensors.items()}
        return Population(architecture.grid, tuple(metadata["names"]), alignments=alignments, **tensors)
    skulls = [_read_skull(c) for c in _complete_skulls(cases)]
    population = build_population(skulls, architecture.grid, log)
    tensors = {k: getattr(population, k).half() for k in ("mean", "detail", "known")}
    tensors["alignments"] = torch.tensor(population.alignments)
    write_tensors(path, tensors, {"names": population.names})
    return load_population(folder, cases, architecture, log)


def load_held_out(folder: Path, cases: list[SkullCase], population: Population) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the held-out skulls that were prepared in a run's folder, or warp those of the cases to the mean skull.

    Returns the complete skulls' fields (H, X, Y, Z) in mm, and where they are known (H, X, Y, Z), 0..1.
    """
    path = folder / "held_out.safetensors"
    if path.is_file():
        tensors, _ = read_tensors(path)
        return tensors["fields"].float(), tensors["known"].float()
    grid, skulls = population.grid, _complete_skulls(cases)
    fields, known = torch.zeros(2, len(skulls), *grid.shape)
    target = AffineTarget(redistance(population.mean, grid), grid)
    for number, case in enumerate(skulls):
        skull = _read_skull(case)
        alignment = register_affine(skull.points, target)
        fields[number], known[number] = warp_to_mean(population.mean, skull, alignment, grid)
    names = [c.individual for c in skulls]
    write_tensors(path, {"fields": fields.half(), "known": known.half()}, {"names": names})
    return load_held_out(folder, cases, population)


class SkullPool:
    """Complete skulls drawn once from a population, kept in half precision; defective skulls are made from them.

    They are kept on the device that trains if its memory allows. A batch depends on its key alone, so a resumed run
    has the batches of an uninterrupted one, and processes that share a batch each make their own share.

    Parameters
    ----------
    population : Population
        The population to draw from.
    count : int
        Number of skulls.
    seed : int
        Seed of the draws.
    group : Group, optional
        The processes that train together; default: this one alone.
    progress : callable
        Called with the number of skulls drawn so far.
    """

    def __init__(
        self, population: Population, count: int, seed: int, group: Group | None = None,
        progress: Callable[[int], None] = lambda n: None,
    ):  # fmt: skip
        group = group or Group()
        self.population, self.device = population, group.device
        shape = population.grid.shape
        storage = group.storage(3 * count * int(np.prod(shape)))
        self.fields = torch.empty(count, *shape, dtype=torch.float16, device=storage)
        self.known = torch.empty(count, *shape, dtype=torch.uint8, device=storage)
        for k in range(count):
            field, known = draw_skull(population, np.random.default_rng([seed, 0, k]))
            self.fields[k], self.known[k] = field.half(), (known * 255).byte()
            progress(k + 1)

    def batch(self, key: list[int], size: int, options: TrainingOptions, share: slice = slice(None)) -> Batch:
        """Defective skulls and their complete ones.

        Parameters
        ----------
        key : list of int
            Decides every random draw of the batch.
        size : int
            Size of the whole batch.
        options : TrainingOptions
            Give the shares of the kinds of defects.
        share : slice
            The share of the batch to make.

        Returns
        -------
        Batch
            Tensors (N, X, Y, Z) as of `make_defective`.
        """
        chosen = np.random.default_rng(key).integers(len(self.fields), size=size)
        items = []
        for place in range(size)[share]:
            rng = np.random.default_rng([*key, place])
            field = self.fields[chosen[place]].to(self.device).float()
            known = self.known[chosen[place]].to(self.device).float() / 255
            if rng.uniform() < 0.5:
                field, known = field.flip(0), known.flip(0)
            items.append(make_defective(field, known, self.population.grid, rng, options))
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def make_defective(
    field: torch.Tensor, known: torch.Tensor, grid: Grid, rng: np.random.Generator, options: TrainingOptions
) -> Batch:
    """Cut a random defect into a complete skull; in a quarter of the draws also end the field of view at the base.

    Parameters
    ----------
    field : torch.Tensor
        (X, Y, Z) signed distance in mm, negative in bone, in the canonical frame.
    known : torch.Tensor
        (X, Y, Z) 0..1: where the field is known.
    grid : Grid
        The canonical grid.
    rng : numpy.random.Generator
        Decides the defect.
    options : TrainingOptions
        complete_share and facial_share: fractions of draws without a defect and with a facial one.

    Returns
    -------
    Batch
        Tensors (X, Y, Z): defective, the field with the defect; complete and known, as given; removed, 1 where the
        defect removed bone; defect, signed distance to the defect in mm, negative inside.
    """
    draw, device = rng.uniform(), field.device
    at = grid.coordinates().to(device)
    if draw < options.complete_share:
        distance = torch.full(grid.shape, 50.0, device=device)
    else:
        facial = draw < options.complete_share + options.facial_share
        bone = at[field.abs() < 1.2]
        kind = "facial" if facial else str(rng.choice(CRANIAL_KINDS, p=_KIND_SHARES))
        defect = random_defect(kind, rng, bone[:: max(1, len(bone) // 20000)].cpu())
        # Defects are smooth: every other node is enough, at an eighth of the cost.
        distance = _enlarged(defect.signed_distance(at[::2, ::2, ::2]), grid)
    clamp = float(field.abs().max())
    defective = torch.maximum(field, -distance)
    if rng.uniform() < 0.25:  # a field of view that ends at the skull base, slightly tilted
        normal = torch.tensor([*rng.normal(0, 0.1, 2), 1.0]).float().to(device)
        below = -(at @ normal) - rng.uniform(20, 85)
        defective = torch.maximum(defective, below.clamp(max=3.0))
    if rng.uniform() < 0.3:  # roughness, as thresholds and thick slices give it to masks of patients
        knots = torch.tensor(rng.normal(0, rng.uniform(0, 0.8), (24, 28, 24))).float()
        defective = defective + _enlarged(knots.to(device), grid)
    return {
        "defective": defective.clamp(-clamp, clamp),
        "complete": field,
        "known": known,
        "removed": ((field < 0) & (distance < 0)).float(),
        "defect": distance,
    }


def _enlarged(coarse: torch.Tensor, grid: Grid) -> torch.Tensor:
    """A coarse (x, y, z) tensor interpolated to the grid's nodes."""
    return F.interpolate(coarse[None, None], size=grid.shape, mode="trilinear")[0, 0]


def implant_scores(prediction: torch.Tensor, batch: Batch) -> tuple[float, float]:
    """Mean Dice of the implant (bone inside the defect) and of the whole skull, where known, on the canonical grid.

    Parameters
    ----------
    prediction : torch.Tensor
        Fields (N, X, Y, Z) in mm.
    batch : Batch
        As of `make_defective`, (N, X, Y, Z).

    Returns
    -------
    tuple of float
        Both means over the skulls with more than 10 bone voxels in the region; nan where there are none.
    """
    bone, truth = prediction < 0, batch["complete"] < 0
    defect = (batch["defect"] < 0) & (batch["known"] > 0.5)
    skull = batch["known"] > 0.5
    scores = []
    for region in (defect, skull):
        both = (bone & truth & region).flatten(1).sum(1)
        total = (bone & region).flatten(1).sum(1) + (truth & region).flatten(1).sum(1)
        has = (truth & region).flatten(1).sum(1) > 10
        scores.append(float((2 * both / total.clamp(min=1))[has].mean()) if has.any() else float("nan"))
    return scores[0], scores[1]


# The task


class CanonicalTask(Task[Architecture, TrainingOptions]):
    """The stages of our method: skulls of a population with defects cut anew, scored on held-out skulls.

    See `task.Task`.

    Parameters
    ----------
    architecture : Architecture
        Grid, latents and channels of the networks.
    population : Population
        The training skulls, warped to their mean.
    options : TrainingOptions
        Options of the run.
    held_out : tuple of torch.Tensor
        Fields (H, X, Y, Z) in mm of held-out skulls, and where they are known, 0..1; see `load_held_out`.
    group : Group
        The processes that train together.
    progress : callable
        Called with the number of skulls drawn so far.
    """

    method = TrainingOptions.method
    title = "Our method"
    defects = "Defects differ in place and shape here, and defective skulls are decoded to complete ones without DEV."
    reconstructs_complete = True
    decoders_after_vae = False
    paper_scale = 320.0

    def __init__(
        self, architecture: Architecture, population: Population, options: TrainingOptions,
        held_out: tuple[torch.Tensor, torch.Tensor], group: Group, progress: Callable[[int], None] = lambda n: None,
    ):  # fmt: skip
        super().__init__(architecture, options, group.device)
        self.steps_per_epoch = max(1, options.pool // options.batch)
        self.pool = SkullPool(population, options.pool, options.seed, group, progress)
        self.mean = population.mean.to(group.device)
        self.held_out = held_out
        # The same defects at every evaluation; the leading process alone scores them.
        self.held_out_cases = [
            self._cut(field, known, [7, number, k], complete_share=0.0, facial_share=0.0)
            for number, (field, known) in enumerate(zip(*held_out, strict=True))
            for k in range(_HELD_OUT_DEFECTS if group.leads else 0)
        ]

    @classmethod
    def used_files(cls, cases: list[SkullCase]) -> list[Path]:
        """The complete skulls; defects are synthetic."""
        return sorted({c.complete for c in _complete_skulls(cases)})

    @classmethod
    def check_data(cls, training: list[SkullCase], held_out: list[SkullCase]) -> None:
        """Any complete skulls will do."""

    @classmethod
    def prepare(
        cls, architecture: Architecture, options: TrainingOptions, folder: Path, training: list[SkullCase],
        held_out: list[SkullCase], group: Group, log: Callable[[str], None],
    ) -> Self:  # fmt: skip
        """See `load_population` and `load_held_out`; the skulls are drawn anew."""
        with group.leader_first():
            population = load_population(folder, training, architecture, log)
            fields = load_held_out(folder, held_out, population)
        log(f"Drawing {options.pool} skulls from the population")
        return cls(architecture, population, options, fields, group)

    @property
    def voxel_mm(self) -> np.ndarray:
        return np.full(3, self.architecture.spacing_mm)

    def _cut(
        self, field: torch.Tensor, known: torch.Tensor, key: list[int], complete_share: float, facial_share: float
    ) -> Batch:
        """A skull with a defect that the key decides, under the given shares of kinds of defects."""
        options = dataclasses.replace(self.options, complete_share=complete_share, facial_share=facial_share)
        rng = np.random.default_rng(key)
        return make_defective(field.to(self.device), known.to(self.device), self.pool.population.grid, rng, options)

    def specimens(self) -> Specimens:
        """The first 24 drawn skulls and all held-out ones, each complete, with a cranial and with a facial defect."""
        drawn = zip(self.pool.fields[:24], self.pool.known[:24], strict=True)
        stock = [(field.float(), known.float() / 255) for field, known in drawn]
        names, held = ["drawn"] * len(stock), [False] * len(stock)
        for number in range(len(self.held_out[0])):
            stock += [(self.held_out[0][number], self.held_out[1][number])]
            names, held = [*names, f"held-out {number + 1}"], [*held, True]
        batches = []
        for number, (field, known) in enumerate(stock):
            for shares in ((1.0, 0.0), (0.0, 0.0), (0.0, 1.0)):
                key = [self.options.seed, 9, number]
                batches.append(self._cut(field, known, key, complete_share=shares[0], facial_share=shares[1]))
        fields = torch.stack([b["defective"] for b in batches])
        region = torch.stack([b["known"] > 0.5 for b in batches])
        return Specimens(
            fields,
            (fields < 0) & region,
            torch.stack([b["complete"] < 0 for b in batches]) & region,
            (COMPLETE, *CLASSES) * len(stock),
            tuple(name for name in names for _ in range(3)),
            np.repeat(np.arange(len(stock)) * 3, 3),
            np.repeat(held, 3),
        )

    def networks(self) -> tuple[VariationalAutoencoder, LatentDecoder]:
        torch.manual_seed(self.options.seed)
        return BetaVAE(self.architecture), IndependentDecoder(self.architecture)

    def steps(self, stage: str) -> int:
        return self.options.vae_steps if stage == "vae" else self.options.decoder_steps

    def batch(self, stage: int, step: int, group: Group) -> Batch:
        """Defective and complete skulls (N, X, Y, Z); see `make_defective`."""
        size = self.options.batch
        return self.pool.batch([self.options.seed, stage, step], size, self.options, group.share(size))

    def _autocast(self, options: TrainingOptions) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=options.bfloat16)

    def _input(self, fields: torch.Tensor) -> torch.Tensor:
        """Fields (N, X, Y, Z) in mm as the encoder takes them."""
        clamp = self.architecture.clamp_mm
        return (fields.clamp(-clamp, clamp) / clamp)[:, None]

    def _field(self, correction: torch.Tensor) -> torch.Tensor:
        """Fields (N, X, Y, Z) in mm of a decoder's output."""
        return self.mean + self.architecture.clamp_mm * correction[:, 0].float()

    def _reconstruction_loss(
        self, correction: torch.Tensor, batch: Batch, distance_weight: float | None
    ) -> LossAndTerms:
        prediction = self._field(correction)
        return canonical_reconstruction_loss(
            prediction, batch["complete"], batch["known"], batch["removed"], distance_weight
        )

    def vae_loss(self, network: nn.Module, batch: Batch, noise: torch.Tensor) -> LossAndTerms:
        """160 x (Dice loss + distance error) + beta x KL, all means over the batch."""
        with self._autocast(self.options):
            correction, mu, logvar, _ = network(self._input(batch["defective"]), noise)
        loss, terms = self._reconstruction_loss(correction, batch, self.options.distance_weight)
        kl = kl_loss(mu, logvar)
        return beta_vae_loss(loss, kl, self.options.beta), terms | {"kl_nats": kl}

    @torch.no_grad()
    def encode(self, vae: VariationalAutoencoder, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and log variance (N, L) of fields (N, X, Y, Z) in mm."""
        mu, logvar = vae.encode_forward(self._input(inputs))
        return mu.float(), logvar.float()

    def decoder_input(
        self, vae: VariationalAutoencoder, batch: Batch, options: TrainingOptions, noise: torch.Tensor
    ) -> torch.Tensor:
        with self._autocast(options):
            return latent_code(*self.encode(vae, batch["defective"]), options.z, noise)

    def decoder_loss(self, network: nn.Module, z: torch.Tensor, batch: Batch, options: TrainingOptions) -> LossAndTerms:
        """160 x (Dice loss + distance error), or of the Dice loss alone; see options.decoder_loss."""
        with self._autocast(options):
            correction = network(z)
        return self._reconstruction_loss(
            correction, batch, options.distance_weight if options.decoder_loss != "dice" else None
        )

    def reconstruct_vae(self, vae: VariationalAutoencoder, batch: Batch) -> torch.Tensor:
        """Fields (N, X, Y, Z) in mm."""
        return self.decode(vae.decode_forward, self.encode(vae, batch["defective"])[0])

    @torch.no_grad()
    def decode(self, decoder: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> torch.Tensor:
        """Fields (N, X, Y, Z) in mm."""
        return self._field(decoder(z))

    def to_bone(self, output: torch.Tensor) -> torch.Tensor:
        return output < 0

    def dice_scores(self, reconstruct: Callable[[Batch], torch.Tensor], batch: Batch) -> dict[str, float]:
        """Dice of implants and skulls, of a training batch and of the held-out skulls with their fixed defects."""
        scores = dict(zip(("implant_dice", "skull_dice"), implant_scores(reconstruct(batch), batch), strict=True))
        held_out = []
        for case in self.held_out_cases:
            case = {name: value[None] for name, value in case.items()}
            held_out.append(implant_scores(reconstruct(case), case))
        if held_out:
            names = ("held_out_implant_dice", "held_out_skull_dice")
            scores |= dict(zip(names, np.nanmean(held_out, axis=0).tolist(), strict=True))
        return scores

    def statistics(self, vae: VariationalAutoencoder, options: TrainingOptions) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (L,) of the latents of 25 batches of four training skulls."""
        latents = []
        for k in range(25):
            batch = self.pool.batch([options.seed, 3, k], 4, options)
            mu, logvar = self.encode(vae, batch["defective"])
            noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(k)).to(mu.device)
            latents.append(latent_code(mu, logvar, options.z, noise))
        z = torch.cat(latents)
        return z.mean(0), z.std(0).clamp(min=1e-6)

    @torch.no_grad()
    def aggregate(
        self, vae: VariationalAutoencoder, decoder: LatentDecoder, statistics: tuple[torch.Tensor, torch.Tensor]
    ) -> SkullModel:
        """Stage 3; DEV of a class is taken from 12 batches of four training skulls with defects of that class."""
        model = SkullModel(self.architecture, CLASSES)
        aggregate(model, vae, decoder, statistics, self.options.standardise)
        model.mean.copy_(self.pool.population.mean)
        model.spread.copy_(self.pool.population.spread())
        model.eval().to(self.device)
        for index, facial in enumerate((False, True)):
            only = dataclasses.replace(self.options, complete_share=0.0, facial_share=float(facial))
            complete, defective = [], []
            for k in range(12):
                batch = self.pool.batch([self.options.seed, 4 + index, k], 4, only)
                complete.append(model.encode(batch["complete"])[0])
                defective.append(model.encode(batch["defective"])[0])
            model.deviations[index] = deviation(torch.cat(complete), torch.cat(defective))
        return model.cpu()
