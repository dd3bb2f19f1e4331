"""The three stages of arXiv 2209.14783: train a beta-VAE, retrain a decoder on frozen latents, aggregate the two."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .checkpoint import read_tensors, write_tensors
from .defects import CRANIAL, random_defect
from .errors import SkullVAEError
from .latent import deviation
from .networks import Architecture, BetaVAE, IndependentDecoder, SkullModel
from .population import Population, draw_skull

LOG_FIELDS = ("stage", "step", "seconds", "loss", "dice_loss", "distance_mm", "kl_nats", "learning_rate")
HELD_OUT_FIELDS = ("implant_dice", "skull_dice", "held_out_implant_dice", "held_out_skull_dice")


@dataclass(frozen=True)
class TrainingOptions:
    """How a model is trained; printed into the run folder and the model file.

    beta weighs KL (nats, summed over latents) against the reconstruction: 160 x (Dice loss + distance_weight x mean
    distance error in mm), 160 being the paper's weight for one skull. decoder_loss: "dice" is the paper's second stage,
    "dice+distance" also asks for true distances, which the conforming warp needs.
    """

    beta: float = 0.3
    vae_steps: int = 1300
    decoder_steps: int = 1000
    batch: int = 4
    learning_rate: float = 1e-3
    decoder_loss: str = "dice+distance"
    distance_weight: float = 1.0
    pool: int = 500
    facial_share: float = 0.1
    complete_share: float = 0.1
    seed: int = 0
    threads: int = 0
    bfloat16: bool = True
    save_every: int = 100

    def __post_init__(self):
        if self.decoder_loss not in ("dice", "dice+distance"):
            raise SkullVAEError(f"decoder_loss '{self.decoder_loss}' is unknown", "Use dice or dice+distance")
        for name in ("vae_steps", "decoder_steps", "batch", "pool", "save_every"):
            if getattr(self, name) < 1:
                raise SkullVAEError(f"{name} is {getattr(self, name)}", f"Set {name} to 1 or more")
        if self.beta < 0 or self.learning_rate <= 0:
            raise SkullVAEError("beta or learning_rate is negative", "Set beta >= 0 and learning_rate > 0")


def soft_dice_loss(prediction: torch.Tensor, target: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of 1 - Dice between the bone of two fields (N, X, Y, Z) in mm, where known (0..1)."""
    a, b = (torch.sigmoid(-field / 0.75) * known for field in (prediction, target))
    axes = (1, 2, 3)
    return (1 - (2 * (a * b).sum(axes) + 1) / ((a * a).sum(axes) + (b * b).sum(axes) + 1)).mean()


def distance_loss(
    prediction: torch.Tensor, target: torch.Tensor, known: torch.Tensor, removed: torch.Tensor
) -> torch.Tensor:
    """Mean absolute error in mm near the surface; threefold where bone was removed, for that is what is asked for."""
    weight = known * (0.1 + torch.exp(-((target / 3) ** 2))) * (1 + 2 * removed)
    return (weight * (prediction - target).abs()).sum() / weight.sum().clamp(min=1)


class SkullPool:
    """Complete skulls drawn once from a population, kept in half precision, and defective ones made from them.

    A batch depends on (seed, stage, step) alone, so a resumed run sees what an uninterrupted one would have seen.
    """

    def __init__(self, population: Population, count: int, seed: int, progress: Callable[[int], None] = lambda n: None):
        self.population = population
        shape = population.grid.shape
        self.fields = torch.empty(count, *shape, dtype=torch.float16)
        self.known = torch.empty(count, *shape, dtype=torch.uint8)
        for k in range(count):
            field, known = draw_skull(population, np.random.default_rng([seed, 0, k]))
            self.fields[k], self.known[k] = field.half(), (known * 255).byte()
            progress(k + 1)

    def batch(self, key: list[int], size: int, options: TrainingOptions) -> dict[str, torch.Tensor]:
        """A batch of defective skulls and their truth, each (N, X, Y, Z); see make_defective."""
        rng = np.random.default_rng(key)
        items = []
        for k in rng.integers(len(self.fields), size=size):
            field, known = self.fields[k].float(), self.known[k].float() / 255
            if rng.uniform() < 0.5:
                field, known = field.flip(0), known.flip(0)
            items.append(make_defective(field, known, self.population, rng, options))
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def make_defective(
    field: torch.Tensor, known: torch.Tensor, population: Population, rng: np.random.Generator, options: TrainingOptions
) -> dict[str, torch.Tensor]:
    """Cut a random defect into a complete canonical field (X, Y, Z), and at times its lower part away.

    Returns defective, complete and known (as given), removed: 1 where bone was cut, and defect: its distance in mm.
    """
    grid = population.grid
    draw = rng.uniform()
    coarse = grid.coordinates()[::2, ::2, ::2]
    if draw < options.complete_share:
        distance = torch.full(grid.shape, 50.0)
    else:
        facial = draw < options.complete_share + options.facial_share
        bone = grid.coordinates()[(field.abs() < 1.2)]
        kind = "facial" if facial else str(rng.choice(CRANIAL, p=_KIND_SHARES))
        sampled = random_defect(kind, rng, bone[:: max(1, len(bone) // 20000)]).signed_distance(coarse)
        # Defects are smooth: evaluated on every other node they lose nothing, at an eighth of the cost.
        distance = torch.nn.functional.interpolate(sampled[None, None], size=grid.shape, mode="trilinear")[0, 0]
    clamp = float(field.abs().max())
    defective = torch.maximum(field, -distance)
    if rng.uniform() < 0.25:  # a field of view that ends at the base, not quite level
        normal = torch.tensor([*rng.normal(0, 0.1, 2), 1.0]).float()
        below = -(grid.coordinates() @ normal) - rng.uniform(20, 85)
        defective = torch.maximum(defective, below.clamp(max=3.0))
    if rng.uniform() < 0.3:  # thresholds and slices roughen real masks
        knots = torch.tensor(rng.normal(0, rng.uniform(0, 0.8), (1, 1, 24, 28, 24))).float()
        defective = defective + torch.nn.functional.interpolate(knots, size=grid.shape, mode="trilinear")[0, 0]
    removed = ((field < 0) & (distance < 0)).float()
    return {
        "defective": defective.clamp(-clamp, clamp),
        "complete": field,
        "known": known,
        "removed": removed,
        "defect": distance,
    }


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


class StageRunner:
    """Runs one stage: steps, learning-rate schedule, log, held-out figures, atomic checkpoints, resume.

    folder: the run's; name: "vae" or "decoder"; loss_of(batch) gives the loss and its named terms; predict(defective)
    gives complete fields in mm.
    """

    def __init__(
        self, folder: Path, name: str, network: torch.nn.Module, steps: int, options: TrainingOptions,
        pool: SkullPool, held_out: list[dict], report: Callable[[dict], None],
    ):  # fmt: skip
        self.folder, self.name, self.network, self.steps = folder, name, network, steps
        self.options, self.pool, self.held_out, self.report = options, pool, held_out, report
        self.optimiser = torch.optim.Adam(network.parameters(), lr=options.learning_rate)
        self.checkpoint = folder / f"{name}.last.safetensors"
        self.log = folder / "log.csv"
        self.step, self.seconds = 0, 0.0

    def learning_rate(self, step: int) -> float:
        """Linear warm-up over 100 steps, then a cosine to a fiftieth."""
        warm = min(1.0, (step + 1) / 100)
        return self.options.learning_rate * warm * float(0.02 + 0.49 * (1 + np.cos(np.pi * step / self.steps)))

    def resume(self) -> None:
        """Continue from the last checkpoint, if there is one."""
        if not self.checkpoint.is_file():
            return
        tensors, metadata = read_tensors(self.checkpoint)
        self.step, self.seconds = metadata["step"], metadata["seconds"]
        self.network.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
        state = self.optimiser.state_dict()
        names = [k for k in tensors if k.startswith("adam.")]
        for key in names:
            _, index, moment = key.split(".")
            state["state"].setdefault(int(index), {})[moment] = tensors[key]
        self.optimiser.load_state_dict(state)

    def start_from(self, run: Path) -> None:
        """Begin with another run's weights of this stage; a resumed stage keeps its own.

        Raises SkullVAEError when that run has none, or of another architecture.
        """
        if self.step:
            return
        tensors, _ = read_tensors(run / self.checkpoint.name)
        try:
            self.network.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
        except RuntimeError as error:
            raise SkullVAEError(f"The run '{run}' has another architecture", "Start from a run of the same") from error

    def save(self) -> None:
        """Write network and optimiser, so that a resumed run goes on exactly."""
        tensors = {f"net.{k}": v for k, v in self.network.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{moment}": torch.as_tensor(value) for moment, value in state.items()}
        write_tensors(self.checkpoint, tensors, {"step": self.step, "steps": self.steps, "seconds": self.seconds})

    def run(self, loss_of: Callable, predict: Callable) -> None:
        """Train to the last step."""
        stage_number = {"vae": 1, "decoder": 2}[self.name]
        self._forget_lost_steps()
        started = time.perf_counter() - self.seconds
        while self.step < self.steps:
            self.network.train()
            batch = self.pool.batch([self.options.seed, stage_number, self.step], self.options.batch, self.options)
            torch.manual_seed(self.options.seed * 1_000_003 + self.step)
            for group in self.optimiser.param_groups:
                group["lr"] = self.learning_rate(self.step)
            loss, terms = loss_of(batch)
            if not np.isfinite(float(loss.detach())):
                raise SkullVAEError(
                    f"The {self.name} loss became {float(loss.detach())} at step {self.step}",
                    "Lower learning_rate or beta",
                )
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            self.step += 1
            self.seconds = time.perf_counter() - started
            row = {
                "stage": self.name,
                "step": self.step,
                "seconds": round(self.seconds, 1),
                "loss": float(loss.detach()),
            }
            row |= terms | {"learning_rate": self.learning_rate(self.step - 1)}
            last = self.step == self.steps
            if last or self.step % self.options.save_every == 0:
                row |= self.evaluate(batch, predict)
                self.save()
            self._write(row)
            self.report(row | {"steps": self.steps})

    @torch.no_grad()
    def evaluate(self, batch: dict, predict: Callable) -> dict:
        """Implant and skull Dice on this training batch and on the held-out skulls' fixed defects."""
        self.network.eval()
        row = dict(zip(HELD_OUT_FIELDS[:2], implant_scores(predict(batch["defective"]), batch), strict=True))
        scores = [
            implant_scores(predict(case["defective"][None]), {k: v[None] for k, v in case.items()})
            for case in self.held_out
        ]
        if scores:
            row |= dict(zip(HELD_OUT_FIELDS[2:], np.nanmean(scores, axis=0).tolist(), strict=True))
        return row

    def _forget_lost_steps(self) -> None:
        """Drop the log's rows of steps that an interruption lost, since they are about to be done again."""
        if not self.log.exists():
            return
        lines = self.log.read_text().splitlines(keepends=True)
        kept = [ln for ln in lines if not (ln.startswith(f"{self.name},") and int(ln.split(",")[1]) > self.step)]
        if len(kept) < len(lines):
            temporary = self.log.with_name(f".{self.log.name}.part")
            temporary.write_text("".join(kept))
            temporary.replace(self.log)

    def _write(self, row: dict) -> None:
        fields = (*LOG_FIELDS, *HELD_OUT_FIELDS)
        new = not self.log.exists()
        with self.log.open("a") as file:
            if new:
                file.write(",".join(fields) + "\n")
            file.write(
                ",".join(f"{row[f]:.6g}" if isinstance(row.get(f), float) else str(row.get(f, "")) for f in fields)
                + "\n"
            )


def reconstruction(prediction: torch.Tensor, batch: dict, options: TrainingOptions, with_distance: bool) -> tuple:
    """160 x (Dice loss [+ distance]), and its terms."""
    dice = soft_dice_loss(prediction, batch["complete"], batch["known"])
    distance = distance_loss(prediction, batch["complete"], batch["known"], batch["removed"])
    loss = 160 * (dice + (options.distance_weight * distance if with_distance else 0))
    return loss, {"dice_loss": float(dice.detach()), "distance_mm": float(distance.detach())}


def train_vae(runner: StageRunner, mean: torch.Tensor, architecture: Architecture, options: TrainingOptions) -> None:
    """Stage 1: the beta-VAE, fed defective fields and asked for complete ones. runner.network is a BetaVAE."""
    vae, clamp = runner.network, architecture.clamp_mm

    def loss_of(batch: dict) -> tuple:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
            correction, mu, logvar, _ = vae((batch["defective"] / clamp)[:, None])
        loss, terms = reconstruction(mean + clamp * correction[:, 0].float(), batch, options, True)
        mu, logvar = mu.float(), logvar.float()
        kl = 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(1).mean()
        return loss + options.beta * kl, terms | {"kl_nats": float(kl.detach())}

    def predict(defective: torch.Tensor) -> torch.Tensor:
        return mean + clamp * vae((defective / clamp)[:, None])[0][:, 0]

    runner.run(loss_of, predict)


def train_decoder(
    runner: StageRunner,
    vae: BetaVAE,
    statistics: tuple,
    mean: torch.Tensor,
    architecture: Architecture,
    options: TrainingOptions,
) -> None:
    """Stage 2: an independent decoder on the frozen encoder's standardised posterior means."""
    decoder, clamp = runner.network, architecture.clamp_mm
    latent_mean, latent_std = statistics
    vae.eval()

    def latents(defective: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            mu, _ = vae.encode_forward((defective / clamp)[:, None])
        return (mu.float() - latent_mean) / latent_std

    def loss_of(batch: dict) -> tuple:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
            correction = decoder(latents(batch["defective"]))
        prediction = mean + clamp * correction[:, 0].float()
        return reconstruction(prediction, batch, options, options.decoder_loss != "dice")

    def predict(defective: torch.Tensor) -> torch.Tensor:
        return mean + clamp * decoder(latents(defective))[:, 0]

    runner.run(loss_of, predict)


@torch.no_grad()
def latent_statistics(
    vae: BetaVAE, pool: SkullPool, options: TrainingOptions, clamp: float, batches: int = 25
) -> tuple:
    """Mean and standard deviation (L,) of the posterior means over training skulls."""
    vae.eval()
    latents = [
        vae.encode_forward((pool.batch([options.seed, 3, k], 4, options)["defective"] / clamp)[:, None])[0]
        for k in range(batches)
    ]
    latents = torch.cat(latents)
    return latents.mean(0), latents.std(0).clamp(min=1e-6)


@torch.no_grad()
def aggregate(
    vae: BetaVAE,
    decoder: IndependentDecoder,
    statistics: tuple,
    pool: SkullPool,
    architecture: Architecture,
    options: TrainingOptions,
) -> SkullModel:
    """Stage 3: encoder and new decoder as one model, standardisation folded in, with a DEV vector per defect class."""
    model = SkullModel(architecture, ("cranial", "facial"))
    encoder = {k: v for k, v in vae.state_dict().items() if not k.startswith(("decode.", "decodeL."))}
    model.encoder.load_state_dict(encoder)
    model.decoder.load_state_dict(decoder.state_dict())
    model.decoder.fold_standardisation(*statistics)
    model.mean.copy_(pool.population.mean)
    model.spread.copy_(pool.population.spread())
    model.latent_mean.copy_(statistics[0])
    model.latent_std.copy_(statistics[1])
    model.eval()
    for index, facial in enumerate((False, True)):
        only = dataclasses.replace(options, complete_share=0.0, facial_share=float(facial))
        complete, defective = [], []
        for k in range(12):
            batch = pool.batch([options.seed, 4 + index, k], 4, only)
            complete.append(model.encode(batch["complete"])[0])
            defective.append(model.encode(batch["defective"])[0])
        model.deviations[index] = deviation(torch.cat(complete), torch.cat(defective))
    return model
