"""Skulls drawn from a fold's training individuals, in the canonical frame, each in its own shape: not laid on the mean.

Ours sees skulls that are laid on the mean by the warp. Rows that do without the warp are fitted to the same skulls with
the same variation of detail and thickness, and with what the warp takes away from ours: shape and size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.data.datasets import read_bone
from SkullVAELib.data.skullfix_like import RegisteredHead, Template, draw_head, register_heads
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.registration.skull import CLAMP_MM, prepare_skull

COUNT = 101

NAME = "drawn.npy"
"""Of the file in a fold's folder."""


def drawn_fields(
    training: tuple[Path, ...], folder: Path, grid: Grid, log: Callable[[str], None], count: int = COUNT
) -> np.ndarray:
    """Complete skulls' signed distances (count, X, Y, Z) in mm, float16, clamped; made once, then read from the folder.

    training: files of complete skulls.
    """
    path = folder / NAME
    if path.is_file():
        fields = np.load(path, mmap_mode="r")
        if fields.shape == (count, *grid.shape):
            return fields
    log(f"drawing {count} skulls from {len(training)}")
    base, heads, _ = register_heads(
        [prepare_skull(file.name.split(".")[0], read_bone(file)) for file in training], [], grid
    )
    return draw_fields(heads, base, folder, count)


def draw_fields(heads: list[RegisteredHead], base: Template, folder: Path, count: int = COUNT) -> np.ndarray:
    """As `drawn_fields`, of heads that are registered already."""
    grid = base.grid
    folder.mkdir(parents=True, exist_ok=True)
    at = grid.coordinates().reshape(-1, 3)
    fields = np.empty((count, *grid.shape), np.float16)
    for number in range(count):
        head = draw_head(heads, base, np.random.default_rng([0, number]))
        fields[number] = head.signed_distance(at, grid).clamp(-CLAMP_MM, CLAMP_MM).reshape(grid.shape).half().numpy()
    with atomic_file(folder / NAME) as temporary, temporary.open("wb") as file:
        np.save(file, fields)
    return fields
