"""Heads, options and runs of train.py small enough for tests."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import write_volume
from SkullVAELib.training.config import PaperOptions, TrainingOptions
from SkullVAELib.vae.networks import Architecture
from SkullVAELib.vae.paper_networks import PaperArchitecture

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ROOT / "Training" / "train.py"

TINY = Architecture(grid_shape=(48, 56, 48), spacing_mm=4.0, latent_size=8, channels=(8, 8, 16))
OPTIONS = TrainingOptions(
    vae_steps=12, decoder_steps=6, batch=2, pool=6, save_every=4, learning_rate=0.01, facial_share=0.1, seed=3,
    threads=1,
)  # fmt: skip

TINY_PAPER = PaperArchitecture(grid_shape=(16, 16, 16), latent_size=4, channels=(8, 8, 8))
PAPER_OPTIONS = PaperOptions(
    beta=0.1, batch=2, vae_epochs=3, decoder_epochs=2, save_every=2, learning_rate=0.01, seed=3, threads=1
)


def shell(half_axes: tuple[float, float, float]) -> Volume:
    """A vault: an ellipsoid shell 6 mm thick, open below, with a block for a face, on a grid of 2.5 mm."""
    affine = np.diag([2.5, 2.5, 2.5, 1.0])
    affine[:3, 3] = [-95, -115, -90]
    index = np.stack(np.meshgrid(*[np.arange(n) for n in (76, 92, 76)], indexing="ij"), -1)
    world = index * 2.5 + affine[:3, 3]
    outer = np.linalg.norm(world / half_axes, axis=-1) < 1
    inner = np.linalg.norm(world / (np.array(half_axes) - 6), axis=-1) < 1
    face = (np.abs(world - [0, half_axes[1] - 18, -55]) < [35, 18, 25]).all(-1)
    return Volume(((outer & ~inner & (world[..., 2] > -60)) | face).astype(np.uint8), affine)


HEADS = {"ada": (72, 88, 78), "ben": (68, 94, 76), "cyd": (66, 86, 80), "out": (70, 90, 77)}


def write_heads(folder: Path, names: Iterable[str] = tuple(HEADS)) -> Path:
    """Complete heads, by default four: round, long, narrow, and one to hold out."""
    folder.mkdir()
    for name in names:
        write_volume(shell(HEADS[name]), folder / f"{name}.nrrd")
    return folder


def write_paper_set(folder: Path) -> Path:
    """The same heads, each complete and with a cranial and a facial defect, as the paper's method needs them."""
    folder.mkdir()
    entries = []
    for name, half_axes in HEADS.items():
        whole = shell(half_axes)
        coarse = Volume(np.ascontiguousarray(whole.array[::3, ::3, ::3]), whole.affine @ np.diag([3, 3, 3, 1]))
        nx, ny, nz = coarse.array.shape
        holes = {"cranial": np.s_[nx // 2 :, : ny // 2, nz // 2 :], "facial": np.s_[:, ny // 2 :, : nz // 2]}
        split = "held-out" if name == "out" else "training"
        write_volume(coarse, folder / f"{name}.nrrd")
        entry = {"complete": f"{name}.nrrd", "individual": name, "split": split}
        entries.append(entry)
        for kind, hole in holes.items():
            defective = coarse.array.copy()
            defective[hole] = 0
            write_volume(coarse.with_array(defective), folder / f"{name}_{kind}.nrrd")
            entries.append(entry | {"defective": f"{name}_{kind}.nrrd", "kind": kind})
    (folder / "datalist.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def write_config(path: Path, *parts: object, **changes: object) -> Path:
    """A --config file of an architecture and options, or of the names and values in `changes` alone."""
    content = {} if not any(isinstance(part, PaperOptions) for part in parts) else {"method": "paper"}
    for part in parts:
        content |= dataclasses.asdict(part)
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


def environment(**more: str) -> dict[str, str]:
    """Of a child process: this checkout's library, one thread, so that sums are made in one order."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


def train_py(*arguments: object, timeout: float = 300, **more: object) -> subprocess.CompletedProcess:
    """Run train.py as a user does and wait for it."""
    command = [sys.executable, TRAIN, *arguments]
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(),
        **more,
        encoding="utf-8",
    )


def rows(folder: Path, stage: str | None = None) -> list[dict[str, str]]:
    """Rows of a run's log.csv."""
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if stage in (None, row["stage"])]
