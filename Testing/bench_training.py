"""Training by the paper's method beside a faithful loop of the original: `make bench-training ARGS="--data SET"`.

    skullvae population --from SKULLS --output SET        skulls of all three classes
    make bench-training ARGS="--data SET"                             samples a second of both, on the same skulls
    make bench-training ARGS="--data SET --to-target RUN/beta_100"    and how long decoders take to the original's end

The original's loop reads and resizes two files for every skull of every epoch, encodes every batch anew for the new
decoder and prints losses. It is written here from the paper and from what its code is known to do, with MONAI's own
parts. Both loops have the same networks, batch and optimiser, and without --bfloat16 the same precision.
They take turns in one process, so that what else the machine does meets both. Writes bench/training.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from monai.data import DataLoader, Dataset, ImageReader
from monai.losses import DiceLoss
from monai.networks.nets import VarAutoEncoder
from monai.transforms import Compose, EnsureChannelFirstd, EnsureTyped, LoadImaged, Resized

from SkullVAELib.core.parsing import numbers
from SkullVAELib.data.datasets import SkullCase, find_cases, split_by_individual
from SkullVAELib.training.config import PaperOptions, parse_decoders, read_configuration
from SkullVAELib.training.distributed import Group, process_group
from SkullVAELib.training.paper import PaperTask
from SkullVAELib.training.run import TrainingPlan, TrainingRun, make_task
from SkullVAELib.vae.paper_networks import PaperArchitecture, PaperDecoder

ROOT = Path(__file__).resolve().parent.parent

TARGET = 33.0
"""The Dice loss, of 640, that the original's new decoder ends at."""

MEANINGS = {
    "raw": "raw latents, 1e-4 constant (the original)",
    "standardised": "standardised latents, 1e-4 constant",
    "fast": "standardised latents, cosine from 2e-3, plain output",
}

Turn = Callable[[float], tuple[int, float]]
"""Trains for so many seconds; returns the skulls seen and the seconds taken, without what comes before the first."""


class _Reader(ImageReader):
    """Reads with SimpleITK: the same C++ reader as that of the package itk, which MONAI takes by itself."""

    def verify_suffix(self, filename) -> bool:
        return True

    def read(self, data, **more) -> sitk.Image:
        return sitk.ReadImage(os.fspath(data if isinstance(data, str | os.PathLike) else data[0]))

    def get_data(self, img: sitk.Image) -> tuple[np.ndarray, dict]:
        array = sitk.GetArrayViewFromImage(img).T
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(img.GetDirection(), (3, 3)) * img.GetSpacing()
        affine[:3, 3] = img.GetOrigin()
        return np.array(array), {
            "affine": affine,
            "original_affine": affine,
            "spatial_shape": np.array(array.shape),
            "original_channel_dim": float("nan"),
        }


class Original:
    """The original's two training loops."""

    def __init__(
        self, cases: list[SkullCase], architecture: PaperArchitecture, beta: float, workers: int, group: Group
    ):
        files = [{"image": str(c.defective or c.complete), "label": str(c.complete)} for c in cases]
        keys = ("image", "label")
        transforms = Compose(
            [
                LoadImaged(keys, reader=_Reader()),
                EnsureChannelFirstd(keys),
                Resized(keys, spatial_size=architecture.grid_shape, mode="nearest"),
                EnsureTyped(keys),
            ]
        )
        self.loader = DataLoader(Dataset(files, transforms), batch_size=4, shuffle=True, num_workers=workers)
        self.beta, self.device = beta, group.device
        torch.manual_seed(0)
        self.vae = VarAutoEncoder(
            spatial_dims=3, in_shape=(1, *architecture.grid_shape), out_channels=2, norm="batch", use_sigmoid=False,
            latent_size=architecture.latent_size, channels=architecture.channels, strides=architecture.strides,
        ).to(self.device)  # fmt: skip
        self.decoder = PaperDecoder(architecture).to(self.device)
        self.dice = DiceLoss(to_onehot_y=True, softmax=True, reduction="sum")
        self.optimisers = [torch.optim.Adam(n.parameters(), lr=1e-4) for n in (self.vae, self.decoder)]
        self.loading = 0.0

    def vae_step(self, inputs: torch.Tensor) -> float:
        logits, mu, logvar, _ = self.vae(inputs)
        kl = torch.sum(logvar.exp() + mu.pow(2) - 1 - logvar)
        loss = 80 * self.dice(logits, inputs) + 0.5 * self.beta * kl
        return self._step(loss, 0)

    def decoder_step(self, inputs: torch.Tensor) -> float:
        with torch.no_grad():
            mu, logvar = self.vae.encode_forward(inputs)
            z = self.vae.reparameterize(mu, logvar).cpu().numpy()
        logits = self.decoder(torch.from_numpy(z).to(self.device))
        return self._step(80 * self.dice(logits, inputs), 1)

    def _step(self, loss: torch.Tensor, which: int) -> float:
        self.optimisers[which].zero_grad()
        loss.backward()
        self.optimisers[which].step()
        return loss.item()

    def turn(self, stage: str) -> Turn:
        def train(seconds: float) -> tuple[int, float]:
            step = self.vae_step if stage == "vae" else self.decoder_step
            self.vae.train(stage == "vae")
            batches, skulls = self._batches(), 0
            step(next(batches))
            begun, self.loading = time.perf_counter(), 0.0
            with open(os.devnull, "w", encoding="utf-8") as nowhere:
                while (taken := time.perf_counter() - begun) < seconds:
                    inputs = next(batches)
                    print(f"train loss: {step(inputs):.4f}", file=nowhere)
                    skulls += len(inputs)
            return skulls, taken

        return train

    def _batches(self) -> Iterator[torch.Tensor]:
        while True:
            before = time.perf_counter()
            for batch in self.loader:
                inputs = batch["image"].as_tensor().float().to(self.device)
                self.loading += time.perf_counter() - before
                yield inputs
                before = time.perf_counter()


class _Enough(Exception):
    """Ends a turn of our trainer, whose steps are reported one by one."""


class Ours:
    """The trainer of this repository on the same skulls, from a folder of its own."""

    def __init__(self, plan: TrainingPlan, task: PaperTask, folder: Path, group: Group):
        self.run = TrainingRun(plan, folder, task, group, report=lambda row: self.report(row))
        self.run._require_complete = lambda runner: None  # what the decoder is trained on does not matter here
        self.batch, self.report = plan.options.batch, lambda row: None

    def turn(self, stage: str) -> Turn:
        def train(seconds: float) -> tuple[int, float]:
            rows = []

            def report(row: dict) -> None:
                rows.append((time.perf_counter(), row["step"]))
                if rows[-1][0] - rows[0][0] >= seconds:
                    raise _Enough

            self.report = report
            with contextlib.suppress(_Enough):
                self.run.train_vae() if stage == "vae" else self.run.train_decoder()
            return (rows[-1][1] - rows[0][1]) * self.batch, rows[-1][0] - rows[0][0]

        return train


def alternate(turns: dict[str, Turn], seconds: float, rounds: int) -> dict[str, float]:
    """Skulls a second of each, which train in turns for `seconds` altogether."""
    sums = {name: [0, 0.0] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            skulls, taken = turn(seconds / rounds)
            sums[name][0] += skulls
            sums[name][1] += taken
    return {name: skulls / taken for name, (skulls, taken) in sums.items()}


def throughput(options: argparse.Namespace, group: Group) -> dict:
    """Skulls a second of both loops in both stages, and what ours costs once."""
    architecture = PaperArchitecture(numbers(options.grid, int, "--grid"))
    cases = find_cases(options.data)
    training, held = split_by_individual(cases)
    plan = TrainingPlan(
        options.data, architecture, PaperOptions(vae_epochs=10**6, decoder_epochs=10**6, bfloat16=options.bfloat16)
    )
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        task = make_task(plan, Path(folder), training, held, group)
        result = {"prepare_once_seconds": time.perf_counter() - begun, "skulls": len(training), "stages": {}}
        theirs = Original(training, architecture, plan.options.beta, options.workers, group)
        ours = Ours(plan, task, Path(folder), group)
        for stage in ("vae", "decoder"):
            turns = {"original": theirs.turn(stage), "ours": ours.turn(stage)}
            rates = alternate(turns, options.seconds, options.rounds)
            result["stages"][stage] = rates | {"times": rates["ours"] / rates["original"]}
            print(f"  {stage}: {rates['original']:.2f} and {rates['ours']:.2f} skulls/s", flush=True)
    return result


def to_target(options: argparse.Namespace, group: Group) -> dict:
    """Epochs and seconds until each decoder, trained on a run's encoder, has the original's final Dice loss."""
    run = options.to_target
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    content = record["architecture"] | {k: v for k, v in record["options"].items() if k in ("seed", "batch", "beta")}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(content | {"method": "paper", "vae_epochs": 1}), encoding="utf-8")
        plan = TrainingPlan(run, *read_configuration(config))
        cache = next((p for p in (run, run.parent) if (p / "volumes.safetensors").is_file()), run)
        task = make_task(plan, cache, [], [], group)
        for name, length in parse_decoders(options.decoders):
            meaning = MEANINGS.get(name, name)
            place = Path(folder) / name
            place.mkdir()
            (place / "vae.last.safetensors").symlink_to((run / "vae.last.safetensors").resolve())
            losses: list[list[float]] = []
            begun = time.perf_counter()

            def report(row: dict, losses: list = losses, begun: float = begun, meaning: str = meaning) -> None:
                if row["epoch"] > len(losses):
                    if losses and 640 * np.mean(losses[-1]) <= TARGET:
                        raise _Enough
                    losses.append([])
                    if row["epoch"] % 25 == 2:
                        loss, taken = 640 * np.mean(losses[-2]), time.perf_counter() - begun
                        print(f"  {meaning}: epoch {row['epoch'] - 1}, {loss:.1f}/640, {taken:.0f} s", flush=True)
                losses[-1].append(row["dice_loss"])

            with contextlib.suppress(_Enough):
                TrainingRun(plan, place, task, group, report).train_decoder(name, length)
            taken = time.perf_counter() - begun
            means = [640 * float(np.mean(epoch)) for epoch in losses]
            reached = next((n for n, loss in enumerate(means, 1) if loss <= TARGET), None)
            found[name] = {"meaning": meaning, "reached": reached, "epochs": len(means), "seconds": taken}
            found[name] |= {"last": means[-1], "curve": [round(loss, 2) for loss in means]}
            print(f"  {meaning}: {_when(found[name])}", flush=True)
    return {"run": run.name, "beta": record["options"]["beta"], "target": TARGET, "decoders": found}


def _when(result: dict) -> str:
    if result["reached"] is None:
        return f"not reached in {result['epochs']} epochs (the last at {result['last']:.1f})"
    return f"epoch {result['reached']}, {result['seconds']:.0f} s"


def table(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def tables(data: dict) -> str:
    """What was measured, for a reader."""
    speed = data["throughput"]
    rows = [["skulls a second", "original", "ours", "times"]]
    for stage, rates in speed["stages"].items():
        rows.append([stage, f"{rates['original']:.2f}", f"{rates['ours']:.2f}", f"{rates['times']:.1f}"])
    text = table(rows) + f"\nOurs prepares {speed['skulls']} skulls once, in {speed['prepare_once_seconds']:.1f} s."
    if "to_target" not in data:
        return text
    rate = speed["stages"]["decoder"]["original"]
    rows = [[f"decoder until {TARGET:g}/640", "epochs and our seconds", "at the original loop's pace"]]
    for result in data["to_target"]["decoders"].values():
        paced = "-" if result["reached"] is None else f"{result['reached'] * speed['skulls'] / rate:.0f} s"
        rows.append([result["meaning"], _when(result), paced])
    return f"{text}\n\nOn the encoder of beta {data['to_target']['beta']:g}:\n{table(rows)}"


def main() -> int:
    """Measure, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a set with all three classes of skulls")
    parser.add_argument("--grid", default="64,64,32", help="the networks' grid (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="processor threads of both (default: torch's own)")
    parser.add_argument("--workers", type=int, default=0, help="the original's loading processes (it had 4; here 0)")
    parser.add_argument("--bfloat16", action="store_true", help="ours in mixed precision; the original in float32")
    parser.add_argument("--seconds", type=float, default=60, help="of each measurement (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="turns that a measurement is cut into")
    parser.add_argument(
        "--to-target", type=Path, metavar="RUN", help="folder of a run whose encoder to train decoders on"
    )
    parser.add_argument(
        "--decoders",
        default="raw:1200,standardised:1200,fast:60",
        help="which, and the most epochs of each (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", default=ROOT / "bench", help="default: bench/")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with process_group(options.device) as group:
        card = torch.cuda.get_device_name(group.device) if group.device.type == "cuda" else None
        machine = {"system": platform.platform(), "cores": os.cpu_count(), "card": card, "torch": torch.__version__}
        content = {
            name: getattr(options, name) for name in ("grid", "workers", "seconds", "rounds", "decoders", "bfloat16")
        }
        data = {"machine": machine, "options": content | {"threads": torch.get_num_threads()}}
        print(f"{torch.get_num_threads()} threads, {options.workers} loading processes, {card or 'no graphics card'}")
        data["throughput"] = throughput(options, group)
        if options.to_target is not None:
            data["to_target"] = to_target(options, group)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "training.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    print(tables(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
