"""The training loop that every stage shares: steps, log, held-out scores, checkpoints, resuming.

A step depends on its number alone: the data, the noise and the learning rate are drawn from (seed, stage, step). So a
run that was killed goes on from its last checkpoint to the same weights, to the last bit on a processor.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.training.config import StageOptions
from SkullVAELib.training.distributed import Group
from SkullVAELib.training.tensorboard import EventFile
from SkullVAELib.vae.checkpoint import read_tensors, write_tensors

LOG_FIELDS = (
    "stage", "step", "epoch", "seconds", "samples_per_second", "loss", "dice_loss", "distance_mm", "kl_nats",
    "learning_rate", "implant_dice", "skull_dice", "held_out_implant_dice", "held_out_skull_dice",
)  # fmt: skip
"""Columns of log.csv. dice_loss is a mean over skulls, 0..1; the Dice figures are of bone inside and outside."""

WATCHED = ("held_out_implant_dice", "held_out_skull_dice")
"""The best checkpoint is that of the highest of the first of these that a stage reports."""

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Specimens:
    """Skulls of a run to look at, training and held-out ones, each complete and with defects.

    inputs: (N, X, Y, Z) as the encoder takes them; bone, complete_bone: (N, X, Y, Z) bool, of the skull as given and
    of the whole one; kinds: "complete", "cranial" or "facial"; complete: (N,) index of each one's complete skull;
    held_out: (N,) bool.
    """

    inputs: torch.Tensor
    bone: torch.Tensor
    complete_bone: torch.Tensor
    kinds: tuple[str, ...]
    individuals: tuple[str, ...]
    complete: np.ndarray
    held_out: np.ndarray


class Task(Protocol):
    """What a stage trains on. The canonical fields and the paper's volumes are the two there are.

    reconstructs_complete: whether a defective skull is asked to come out complete, or as it is. paper_scale: from the
    logged Dice loss to the paper's, whose worst is 640: four skulls, two classes, weight 80.
    """

    latent_size: int
    steps_per_epoch: int
    reconstructs_complete: bool
    paper_scale: float

    def batch(self, stage: int, step: int, group: Group) -> Batch:
        """This process's part of the batch of a step."""

    def held_out_figures(self, reconstruct: Callable[[Batch], torch.Tensor], batch: Batch) -> dict[str, float]:
        """Dice figures of a training batch and of the held-out skulls, see LOG_FIELDS."""


class StageRunner:
    """One stage of a run: trains a network to its last step, or on from its last checkpoint.

    folder: the run's; name: of the stage, for files and log; number: of the stage, for its random draws.
    """

    def __init__(
        self, folder: Path, name: str, number: int, network: nn.Module, steps: int, task: Task, options: StageOptions,
        group: Group | None = None, report: Callable[[dict], None] = lambda row: None,
    ):  # fmt: skip
        self.folder, self.name, self.number, self.steps, self.task = folder, name, number, steps, task
        self.options, self.group, self.report = options, group or Group(), report
        layout = torch.channels_last_3d if options.channels_last else torch.contiguous_format
        # torch's own annotations know of a layout or a device, not of both.
        self.network = network.to(self.group.device, memory_format=layout)  # type: ignore[call-overload]
        self.optimiser = torch.optim.Adam(network.parameters(), lr=options.learning_rate)
        self.checkpoint = folder / f"{name}.last.safetensors"
        self.best_checkpoint = folder / f"{name}.best.safetensors"
        self.log = folder / "log.csv"
        self.step, self.seconds, self.best = 0, 0.0, -math.inf
        self.constants: Batch = {}
        """Tensors that the stage found before its first step and that belong to its network, kept in checkpoints."""

    def resume(self) -> None:
        """Continue from the last checkpoint, if there is one."""
        if not self.checkpoint.is_file():
            return
        tensors, metadata = read_tensors(self.checkpoint, math.inf)
        self.step, self.seconds = metadata["step"], metadata["seconds"]
        self.best = -math.inf if metadata["best"] is None else metadata["best"]
        self._load_network(tensors)
        # Copies, since what is read may be the file itself, which Windows then would not let us replace.
        constants = {k[6:]: v for k, v in tensors.items() if k.startswith("const.")}
        self.constants = {name: value.to(self.group.device, copy=True) for name, value in constants.items()}
        state, parameters = self.optimiser.state_dict(), list(self.network.parameters())
        for key in (k for k in tensors if k.startswith("adam.")):
            _, index, moment = key.split(".")
            # Moments lie in memory as their parameters do, as if the run had not been interrupted.
            like = parameters[int(index)] if tensors[key].ndim else tensors[key]
            value = torch.empty_like(like, device="cpu", requires_grad=False).copy_(tensors[key])
            state["state"].setdefault(int(index), {})[moment] = value
        self.optimiser.load_state_dict(state)

    def start_from(self, run: Path) -> None:
        """Begin with another run's weights of this stage; a resumed stage keeps its own.

        Raises SkullVAEError when that run has none, or of another architecture.
        """
        if self.step:
            return
        try:
            self._load_network(read_tensors(run / self.checkpoint.name, math.inf)[0])
        except RuntimeError as error:
            raise SkullVAEError(f"The run '{run}' has another architecture", "Start from a run of the same") from error

    def _load_network(self, tensors: Batch) -> None:
        self.network.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})

    def _weights(self) -> Batch:
        network = {f"net.{k}": v for k, v in self.network.state_dict().items()}
        return network | {f"const.{k}": v for k, v in self.constants.items()}

    def save(self) -> None:
        """Write network and optimiser, so that a resumed run goes on exactly."""
        tensors = self._weights()
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{moment}": torch.as_tensor(value) for moment, value in state.items()}
        best = self.best if math.isfinite(self.best) else None
        metadata = {"step": self.step, "steps": self.steps, "seconds": self.seconds, "best": best}
        write_tensors(self.checkpoint, tensors, metadata)

    def run(
        self, loss_of: Callable[[nn.Module, Batch, torch.Tensor], tuple], reconstruct: Callable[[Batch], torch.Tensor]
    ) -> None:
        """Train to the last step.

        loss_of(network, batch, noise (N, L)) gives the loss and its named terms, as tensors; reconstruct(batch) gives
        what the task's held_out_figures judges. Raises SkullVAEError when the loss is no longer a number.
        """
        if self.step >= self.steps:
            return
        network = self.group.wrap(self.network)
        if self.group.leads:
            self._forget_lost_steps()
        waiting: list[dict] = []
        begun, before, first = time.perf_counter(), self.seconds, self.step
        with contextlib.closing(self._event_file()) as events:
            while self.step < self.steps:
                self.network.train()
                waiting.append(self._train_step(network, loss_of))
                elapsed = time.perf_counter() - begun
                self.seconds = before + elapsed
                waiting[-1]["seconds"] = self.seconds
                if self._is_due(len(waiting)):
                    self._check(waiting)
                    figures = self._evaluate(reconstruct) if self._saves() else {}
                    waiting[-1] |= figures
                    # The log comes first: a resumed run drops the rows after its checkpoint, but can make none again.
                    self._write(waiting, (self.step - first) * self.options.batch / elapsed, events)
                    if self._saves():
                        events.flush()
                        self._save_all(figures)
                    if self.group.leads:
                        self.report(waiting[-1] | {"steps": self.steps})
                    waiting = []
        self.group.wait()

    def _train_step(self, network: nn.Module, loss_of: Callable) -> dict:
        batch = self.task.batch(self.number, self.step, self.group)
        rate = self.options.learning_rate_at(self.step, self.steps)
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = rate
        size = len(next(iter(batch.values()))) * self.group.world
        loss, terms = loss_of(network, batch, self._noise(size)[self.group.share(size)].to(self.group.device))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self._batch = batch
        self.step += 1
        epoch = (self.step - 1) // self.task.steps_per_epoch + 1
        terms = {"loss": loss.detach()} | {name: value.detach() for name, value in terms.items()}
        return {"stage": self.name, "step": self.step, "epoch": epoch, **terms, "learning_rate": rate}

    def _noise(self, count: int) -> torch.Tensor:
        """Standard normal (count, L) of this step: the same for one process and for several, on any device."""
        seed = np.random.SeedSequence([self.options.seed, 100 + self.number, self.step]).generate_state(1)[0]
        return torch.randn(count, self.task.latent_size, generator=torch.Generator().manual_seed(int(seed)))

    def _saves(self) -> bool:
        return self.step == self.steps or self.step % self.options.save_every == 0

    def _is_due(self, waiting: int) -> bool:
        """Whether to look at the loss: always on a processor, seldom where looking would stop a graphics card."""
        return self._saves() or self.group.device.type == "cpu" or waiting >= 20

    def _check(self, rows: list[dict]) -> None:
        """Turn tensors into numbers, means over the processes; stop when the loss is none."""
        names = [name for name, value in rows[0].items() if isinstance(value, torch.Tensor)]
        values = torch.stack([torch.stack([row[name].float() for name in names]) for row in rows])
        for row, numbers in zip(rows, self.group.mean(values).tolist(), strict=True):
            row |= dict(zip(names, numbers, strict=True))
            if not math.isfinite(row["loss"]):
                terms = ", ".join(f"{name} {row[name]:g}" for name in names if name != "loss")
                raise self._diverged(f"loss became {row['loss']} at step {row['step']} ({terms})")

    def _diverged(self, what: str) -> SkullVAEError:
        remedy = "Lower learning_rate or beta in another --output, which may --start-from this run's last checkpoint"
        return SkullVAEError(f"The {self.name} {what}", remedy)

    def _evaluate(self, reconstruct: Callable) -> dict[str, float]:
        """Score the held-out skulls, the leading process alone. Raises SkullVAEError for weights that are no numbers.

        A loss that was still a number may leave such weights behind, and they must not become a checkpoint.
        """
        if not all(torch.isfinite(weights).all() for weights in self.network.state_dict().values()):
            raise self._diverged(f"weights became nan at step {self.step}")
        if not self.group.leads:
            return {}
        self.network.eval()
        with torch.no_grad():
            return self.task.held_out_figures(reconstruct, self._batch)

    def _save_all(self, figures: dict[str, float]) -> None:
        """Write the checkpoints, the leading process alone."""
        if self.group.leads:
            watched = next((figures[name] for name in WATCHED if math.isfinite(figures.get(name, math.nan))), None)
            if watched is not None and watched > self.best:
                self.best = watched
                write_tensors(self.best_checkpoint, self._weights(), {"step": self.step, "best": watched})
            self.save()
        self.group.wait()

    def _forget_lost_steps(self) -> None:
        """Drop the log's rows of steps that an interruption lost, and a line that it cut, since they come again."""
        if not self.log.exists():
            return
        lines = self.log.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and not self._lost(line)]
        if len(kept) < len(lines):
            with atomic_file(self.log) as temporary:
                temporary.write_text("".join(kept))

    def _lost(self, line: str) -> bool:
        stage, step, *_ = line.split(",")
        return stage == self.name and int(step) > self.step

    def _write(self, rows: list[dict], rate: float, events: EventFile) -> None:
        """Append to log.csv and tell TensorBoard, the leading process alone."""
        if not self.group.leads:
            return
        text = "" if self.log.exists() and self.log.stat().st_size else ",".join(LOG_FIELDS) + "\n"
        for row in rows:
            row["samples_per_second"] = rate
            text += ",".join(_cell(row.get(field, "")) for field in LOG_FIELDS) + "\n"
            events.write(row)
        with self.log.open("a") as file:
            file.write(text)

    def _event_file(self) -> EventFile:
        return EventFile(self.folder / "tensorboard" / self.name, self.step + 1, self.group.leads)


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
