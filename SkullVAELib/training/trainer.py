"""The training loop of every stage: steps, log, scores of held-out skulls, checkpoints, resuming.

A step depends on its number alone: data, noise and learning rate follow from (seed, stage, step). A run that was killed
therefore continues from its last checkpoint to the same weights, bit for bit on a processor.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import nn

from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.training.config import StageOptions
from SkullVAELib.training.distributed import Group
from SkullVAELib.training.losses import LossAndTerms
from SkullVAELib.training.task import AnyTask, Batch
from SkullVAELib.training.tensorboard import EventFile
from SkullVAELib.vae.checkpoint import read_tensors, write_tensors

LOG_FIELDS = (
    "stage", "step", "epoch", "seconds", "samples_per_second", "loss", "dice_loss", "distance_mm", "kl_nats",
    "learning_rate", "implant_dice", "skull_dice", "held_out_implant_dice", "held_out_skull_dice",
)  # fmt: skip
"""Columns of log.csv. dice_loss is a mean over skulls, 0..1; the Dice scores compare bone and background voxels."""

SELECTION_SCORES = ("held_out_implant_dice", "held_out_skull_dice")
"""The best checkpoint is the one with the highest value of the first of these scores that a stage reports."""

NetworkT = TypeVar("NetworkT", bound=nn.Module)


class StageRunner(Generic[NetworkT]):
    """One stage of a run: trains a network to its last step, from the beginning or from its last checkpoint.

    Parameters
    ----------
    folder : Path
        Folder of the run, for checkpoints, log.csv and TensorBoard events.
    name : str
        Name of the stage, for files and log: "vae", "decoder" or "decoder_NAME".
    number : int
        Number of the stage, for its random draws: 1 VAE, 2 decoders.
    network : torch.nn.Module
        The network to train.
    steps : int
        Number of steps after which the stage is complete.
    task : Task
        The data and scores.
    options : StageOptions
        Options of the stage.
    group : Group, optional
        The processes that train together; default: this one alone.
    report : callable
        Called with a row of the log and "steps" whenever rows were written.
    """

    def __init__(
        self, folder: Path, name: str, number: int, network: NetworkT, steps: int, task: AnyTask,
        options: StageOptions, group: Group | None = None, report: Callable[[dict], None] = lambda row: None,
    ):  # fmt: skip
        self.folder, self.name, self.number, self.steps, self.task = folder, name, number, steps, task
        self.options, self.group, self.report = options, group or Group(), report
        layout = torch.channels_last_3d if options.channels_last else torch.contiguous_format
        # torch's annotations allow a device or a memory format, not both.
        self.network = network.to(self.group.device, memory_format=layout)  # type: ignore[call-overload]
        self.optimiser = torch.optim.Adam(network.parameters(), lr=options.learning_rate)
        self.checkpoint = folder / f"{name}.last.safetensors"
        self.best_checkpoint = folder / f"{name}.best.safetensors"
        self.log = folder / "log.csv"
        self.step, self.seconds, self.best = 0, 0.0, -math.inf
        self.constants: Batch = {}
        """Tensors computed before the first step that the network is used with; stored in the checkpoints."""

    def resume(self) -> None:
        """Load the last checkpoint, if there is one."""
        if not self.checkpoint.is_file():
            return
        tensors, metadata = read_tensors(self.checkpoint, math.inf)
        self.step, self.seconds = metadata["step"], metadata["seconds"]
        self.best = -math.inf if metadata["best"] is None else metadata["best"]
        self._load_network(tensors)
        # Copies: tensors read may be mapped from the file, which Windows would then not allow to be replaced.
        constants = {k[6:]: v for k, v in tensors.items() if k.startswith("const.")}
        self.constants = {name: value.to(self.group.device, copy=True) for name, value in constants.items()}
        state, parameters = self.optimiser.state_dict(), list(self.network.parameters())
        for key in (k for k in tensors if k.startswith("adam.")):
            _, index, moment = key.split(".")
            # Moments get the memory layout of their parameters, as in a run without interruption.
            like = parameters[int(index)] if tensors[key].ndim else tensors[key]
            value = torch.empty_like(like, device="cpu", requires_grad=False).copy_(tensors[key])
            state["state"].setdefault(int(index), {})[moment] = value
        self.optimiser.load_state_dict(state)

    def start_from(self, run: Path) -> None:
        """Load the weights of this stage from another run's folder, unless this stage has been resumed.

        Raises SkullVAEError when that run has no such weights, or they are of a different architecture.
        """
        if self.step:
            return
        try:
            self._load_network(read_tensors(run / self.checkpoint.name, math.inf)[0])
        except RuntimeError as error:
            cause = f"The run '{run}' has a different architecture"
            raise SkullVAEError(cause, "Give a run of the same architecture to --start-from") from error

    def _load_network(self, tensors: Batch) -> None:
        self.network.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})

    def _weights(self) -> Batch:
        network = {f"net.{k}": v for k, v in self.network.state_dict().items()}
        return network | {f"const.{k}": v for k, v in self.constants.items()}

    def save(self) -> None:
        """Write the network and the state of the optimiser, from which a resumed run continues exactly."""
        tensors = self._weights()
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{moment}": torch.as_tensor(value) for moment, value in state.items()}
        best = self.best if math.isfinite(self.best) else None
        metadata = {"step": self.step, "steps": self.steps, "seconds": self.seconds, "best": best}
        write_tensors(self.checkpoint, tensors, metadata)

    def run(
        self,
        loss_of: Callable[[nn.Module, Batch, torch.Tensor], LossAndTerms],
        reconstruct: Callable[[Batch], torch.Tensor],
    ) -> None:
        """Train to the last step.

        Parameters
        ----------
        loss_of : callable
            loss_of(network, batch, noise), with standard normal noise (N, L), returns the loss and its terms.
        reconstruct : callable
            reconstruct(batch) returns the reconstructions that the task's dice_scores takes.

        Raises
        ------
        SkullVAEError
            When the loss or the weights are no longer finite.
        """
        if self.step >= self.steps:
            return
        network = self.group.wrap(self.network)
        if self.group.leads:
            self._drop_later_rows()
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
                    scores = self._evaluate(reconstruct) if self._saves() else {}
                    waiting[-1] |= scores
                    # The log before the checkpoint: a resumed run can drop rows after its checkpoint, but not restore
                    # rows before it.
                    self._write(waiting, (self.step - first) * self.options.batch / elapsed, events)
                    if self._saves():
                        events.flush()
                        self._save_all(scores)
                    if self.group.leads:
                        self.report(waiting[-1] | {"steps": self.steps})
                    waiting = []
        self.group.wait()

    def _train_step(self, network: nn.Module, loss_of: Callable) -> dict:
        """One step; returns its row of the log, whose losses are tensors still."""
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
        """Standard normal noise (count, L) of this step; the same for one process and several, on any device."""
        seed = np.random.SeedSequence([self.options.seed, 100 + self.number, self.step]).generate_state(1)[0]
        return torch.randn(count, self.task.latent_size, generator=torch.Generator().manual_seed(int(seed)))

    def _saves(self) -> bool:
        """Whether this step ends with a checkpoint."""
        return self.step == self.steps or self.step % self.options.save_every == 0

    def _is_due(self, waiting: int) -> bool:
        """Whether to read the losses: at every step on a processor, rarely on a graphics card, which waits for it."""
        return self._saves() or self.group.device.type == "cpu" or waiting >= 20

    def _check(self, rows: list[dict]) -> None:
        """Turn tensors into numbers, means over the processes; raise SkullVAEError when a loss is not finite."""
        names = [name for name, value in rows[0].items() if isinstance(value, torch.Tensor)]
        values = torch.stack([torch.stack([row[name].float() for name in names]) for row in rows])
        for row, numbers in zip(rows, self.group.mean(values).tolist(), strict=True):
            row |= dict(zip(names, numbers, strict=True))
            if not math.isfinite(row["loss"]):
                terms = ", ".join(f"{name} {row[name]:g}" for name in names if name != "loss")
                raise self._diverged(f"loss became {row['loss']} at step {row['step']} ({terms})")

    def _diverged(self, what: str) -> SkullVAEError:
        remedy = (
            "Lower learning_rate or beta and use another --output; --start-from continues from this run's checkpoint"
        )
        return SkullVAEError(f"The {self.name} {what}", remedy)

    def _evaluate(self, reconstruct: Callable) -> dict[str, float]:
        """Dice scores, computed by the leading process alone. Raises SkullVAEError when a weight is not finite.

        A finite loss can have a gradient that is not. Such weights must not be saved in a checkpoint.
        """
        if not all(torch.isfinite(weights).all() for weights in self.network.state_dict().values()):
            raise self._diverged(f"weights became nan at step {self.step}")
        if not self.group.leads:
            return {}
        self.network.eval()
        with torch.no_grad():
            return self.task.dice_scores(reconstruct, self._batch)

    def _save_all(self, scores: dict[str, float]) -> None:
        """Write the checkpoints, in the leading process alone."""
        if self.group.leads:
            score = next((scores[k] for k in SELECTION_SCORES if math.isfinite(scores.get(k, math.nan))), None)
            if score is not None and score > self.best:
                self.best = score
                write_tensors(self.best_checkpoint, self._weights(), {"step": self.step, "best": score})
            self.save()
        self.group.wait()

    def _drop_later_rows(self) -> None:
        """Remove rows after the checkpoint from log.csv, and an incomplete line: these steps are repeated."""
        if not self.log.exists():
            return
        lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and not self._is_later(line)]
        if len(kept) < len(lines):
            with atomic_file(self.log) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")

    def _is_later(self, line: str) -> bool:
        stage, step, *_ = line.split(",")
        return stage == self.name and int(step) > self.step

    def _write(self, rows: list[dict], rate: float, events: EventFile) -> None:
        """Append rows to log.csv and to the events, in the leading process alone."""
        if not self.group.leads:
            return
        text = "" if self.log.exists() and self.log.stat().st_size else ",".join(LOG_FIELDS) + "\n"
        for row in rows:
            row["samples_per_second"] = rate
            text += ",".join(_cell(row.get(field, "")) for field in LOG_FIELDS) + "\n"
            events.write(row)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(text)

    def _event_file(self) -> EventFile:
        return EventFile(self.folder / "tensorboard" / self.name, self.step + 1, self.group.leads)


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
