"""Training our own method: fields in the canonical frame, defective skulls in, complete ones out.

Skulls are drawn once from a population and kept; defects are cut anew at every step, on the device that trains.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from SkullVAELib.data.augmentation import draw_skull
from SkullVAELib.data.datasets import COMPLETE
from SkullVAELib.data.kinds import CLASSES, CRANIAL_KINDS
from SkullVAELib.data.synthetic_defects import random_defect
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.registration.mean_skull import Population
from SkullVAELib.training.config import TrainingOptions
from SkullVAELib.training.distributed import Group
from SkullVAELib.training.losses import PAPER_WEIGHT, distance_loss, kl_divergence, soft_dice_loss
from SkullVAELib.training.trainer import Batch, Specimens
from SkullVAELib.vae.latent import deviation, latent_code
from SkullVAELib.vae.networks import Architecture, BetaVAE, IndependentDecoder, SkullModel, aggregate


class SkullPool:
    """Complete skulls drawn once from a population, kept in half precision, and defective ones made from them.

    They are kept on the device that trains, if it has room. A batch depends on its key alone, so a resumed run sees
    what an uninterrupted one would have seen, and processes that share a batch each make their own part.
    """

    def __init__(
        self, population: Population, count: int, seed: int, group: Group | None = None,
        progress: Callable[[int], None] = lambda n: None,
    ):  # fmt: skip
        group = group or Group()
        self.population, self.device = population, group.device
        shape = population.grid.shape
        home = group.home(3 * count * int(np.prod(shape)))
        self.fields = torch.empty(count, *shape, dtype=torch.float16, device=home)
        self.known = torch.empty(count, *shape, dtype=torch.uint8, device=home)
        for k in range(count):
            field, known = draw_skull(population, np.random.default_rng([seed, 0, k]))
            self.fields[k], self.known[k] = field.half(), (known * 255).byte()
            progress(k + 1)

    def batch(self, key: list[int], size: int, options: TrainingOptions, part: slice = slice(None)) -> Batch:
        """A part of a batch of defective skulls and their truth, each (N, X, Y, Z); see make_defective."""
        chosen = np.random.default_rng(key).integers(len(self.fields), size=size)
        items = []
        for place in range(size)[part]:
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
    """Cut a random defect into a complete canonical field (X, Y, Z), and at times its lower part away.

    Returns defective, complete and known (as given), removed: 1 where bone was cut, and defect: its distance in mm.
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
        # Defects are smooth: evaluated on every other node they lose nothing, at an eighth of the cost.
        distance = _enlarged(defect.signed_distance(at[::2, ::2, ::2]), grid)
    clamp = float(field.abs().max())
    defective = torch.maximum(field, -distance)
    if rng.uniform() < 0.25:  # a field of view that ends at the base, not quite level
        normal = torch.tensor([*rng.normal(0, 0.1, 2), 1.0]).float().to(device)
        below = -(at @ normal) - rng.uniform(20, 85)
        defective = torch.maximum(defective, below.clamp(max=3.0))
    if rng.uniform() < 0.3:  # thresholds and slices roughen real masks
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
    """A coarse (x, y, z) tensor on the grid's nodes."""
    return F.interpolate(coarse[None, None], size=grid.shape, mode="trilinear")[0, 0]


_KIND_SHARES = np.array([0.3, 0.14, 0.04, 0.1, 0.08, 0.14, 0.12, 0.05, 0.03])


def implant_scores(prediction: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Mean Dice of the implant (near the defect, on the canonical grid) and of the whole known skull."""
    bone, truth = prediction < 0, batch["complete"] < 0
    gap = (batch["defect"] < 0) & (batch["known"] > 0.5)
    skull = batch["known"] > 0.5
    scores = []
    for region in (gap, skull):
        both = (bone & truth & region).flatten(1).sum(1)
        total = (bone & region).flatten(1).sum(1) + (truth & region).flatten(1).sum(1)
        has = (truth & region).flatten(1).sum(1) > 10
        scores.append(float((2 * both / total.clamp(min=1))[has].mean()) if has.any() else float("nan"))
    return scores[0], scores[1]


class CanonicalTask:
    """Our method's stages: a population's skulls with defects cut anew, scored on held-out skulls; see trainer.Task."""

    paper_scale = 320.0
    reconstructs_complete = True

    def __init__(
        self, architecture: Architecture, population: Population, options: TrainingOptions,
        held_out: tuple[torch.Tensor, torch.Tensor], group: Group, progress: Callable[[int], None] = lambda n: None,
    ):  # fmt: skip
        """held_out: complete skulls laid on the mean (H, X, Y, Z) and where they are known, see load_held_out."""
        self.architecture, self.options, self.device = architecture, options, group.device
        self.latent_size = architecture.latent_size
        self.steps_per_epoch = max(1, options.pool // options.batch)
        self.pool = SkullPool(population, options.pool, options.seed, group, progress)
        self.mean = population.mean.to(group.device)
        self.held_out = held_out
        # The same few defects at every evaluation; only the leading process scores them.
        self.held_out_cases = [
            self._cut(field, known, [7, number, k], complete_share=0.0, facial_share=0.0)
            for number, (field, known) in enumerate(zip(*held_out, strict=True))
            for k in range(6 if group.leads else 0)
        ]

    def _cut(self, field: torch.Tensor, known: torch.Tensor, key: list[int], **shares: float) -> Batch:
        only = dataclasses.replace(self.options, **shares)
        rng = np.random.default_rng(key)
        return make_defective(field.to(self.device), known.to(self.device), self.pool.population.grid, rng, only)

    def specimens(self, count: int = 24) -> Specimens:
        """Fixed skulls to look at: `count` of training and all held-out ones, each complete, cranial and facial."""
        drawn = zip(self.pool.fields[:count], self.pool.known[:count], strict=True)
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

    def networks(self) -> tuple[BetaVAE, IndependentDecoder]:
        """A beta-VAE and a decoder, as the seed starts them."""
        torch.manual_seed(self.options.seed)
        return BetaVAE(self.architecture), IndependentDecoder(self.architecture)

    def with_options(self, options: TrainingOptions) -> CanonicalTask:
        """The same data under other options, such as another beta."""
        other = copy.copy(self)
        other.options = options
        return other

    def steps(self, stage: str) -> int:
        return self.options.vae_steps if stage == "vae" else self.options.decoder_steps

    def batch(self, stage: int, step: int, group: Group) -> Batch:
        size = self.options.batch
        return self.pool.batch([self.options.seed, stage, step], size, self.options, group.share(size))

    def _autocast(self, options: TrainingOptions) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=options.bfloat16)

    def _input(self, fields: torch.Tensor) -> torch.Tensor:
        clamp = self.architecture.clamp_mm
        return (fields.clamp(-clamp, clamp) / clamp)[:, None]

    def _field(self, correction: torch.Tensor) -> torch.Tensor:
        return self.mean + self.architecture.clamp_mm * correction[:, 0].float()

    def vae_loss(self, network: nn.Module, batch: Batch, noise: torch.Tensor) -> tuple:
        """Reconstruction + beta x KL (nats, summed over latents, mean over skulls), and the terms."""
        with self._autocast(self.options):
            correction, mu, logvar, _ = network(self._input(batch["defective"]), noise)
        loss, terms = _reconstruction(self._field(correction), batch, self.options, True)
        kl = kl_divergence(mu.float(), logvar.float()).sum(1).mean()
        return loss + self.options.beta * kl, terms | {"kl_nats": kl}

    @torch.no_grad()
    def encode(self, vae: BetaVAE, fields: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and log variance (N, L) of fields (N, X, Y, Z) in mm."""
        mu, logvar = vae.encode_forward(self._input(fields))
        return mu.float(), logvar.float()

    def decoder_input(self, vae: BetaVAE, batch: Batch, options: TrainingOptions, noise: torch.Tensor) -> torch.Tensor:
        """The frozen latents (N, L) of a batch."""
        with self._autocast(options):
            return latent_code(*self.encode(vae, batch["defective"]), options.z, noise)

    def decoder_loss(self, network: nn.Module, z: torch.Tensor, batch: Batch, options: TrainingOptions) -> tuple:
        """The reconstruction loss of the independent decoder alone, and its terms."""
        with self._autocast(options):
            correction = network(z)
        return _reconstruction(self._field(correction), batch, options, options.decoder_loss != "dice")

    def reconstruct_vae(self, vae: BetaVAE, batch: Batch) -> torch.Tensor:
        """Fields (N, X, Y, Z) in mm by the VAE's own decoder, of the posterior mean."""
        return self.decode(lambda z: vae.decode_forward(z, False), self.encode(vae, batch["defective"])[0])

    @torch.no_grad()
    def decode(self, decoder: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> torch.Tensor:
        """Fields (N, X, Y, Z) in mm of latents as the decoder takes them."""
        return self._field(decoder(z))

    def to_bone(self, output: torch.Tensor) -> torch.Tensor:
        """Bone, bool (N, X, Y, Z), of what decode gives."""
        return output < 0

    def held_out_figures(self, reconstruct: Callable[[Batch], torch.Tensor], batch: Batch) -> dict[str, float]:
        """Implant and skull Dice of a training batch and of the held-out skulls' fixed defects."""
        figures = dict(zip(("implant_dice", "skull_dice"), implant_scores(reconstruct(batch), batch), strict=True))
        scores = []
        for case in self.held_out_cases:
            case = {name: value[None] for name, value in case.items()}
            scores.append(implant_scores(reconstruct(case), case))
        if scores:
            names = ("held_out_implant_dice", "held_out_skull_dice")
            figures |= dict(zip(names, np.nanmean(scores, axis=0).tolist(), strict=True))
        return figures

    def statistics(self, vae: BetaVAE, options: TrainingOptions, batches: int = 25) -> tuple:
        """Mean and standard deviation (L,) of the latents of training skulls."""
        latents = []
        for k in range(batches):
            batch = self.pool.batch([options.seed, 3, k], 4, options)
            mu, logvar = self.encode(vae, batch["defective"])
            noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(k)).to(mu.device)
            latents.append(latent_code(mu, logvar, options.z, noise))
        latents = torch.cat(latents)
        return latents.mean(0), latents.std(0).clamp(min=1e-6)

    @torch.no_grad()
    def aggregate(self, vae: BetaVAE, decoder: IndependentDecoder, statistics: tuple) -> SkullModel:
        """Stage 3: encoder and new decoder as one model, standardisation folded in, a DEV vector per defect class."""
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


def _reconstruction(prediction: torch.Tensor, batch: Batch, options: TrainingOptions, with_distance: bool) -> tuple:
    """160 x (Dice loss [+ distance]), and its terms."""
    dice = soft_dice_loss(prediction, batch["complete"], batch["known"])
    distance = distance_loss(prediction, batch["complete"], batch["known"], batch["removed"])
    loss = PAPER_WEIGHT * (dice + (options.distance_weight * distance if with_distance else 0))
    return loss, {"dice_loss": dice, "distance_mm": distance}
