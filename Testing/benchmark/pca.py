"""The PCA rows: principal components of registered skulls' distance fields, fitted to the bone that is left."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from SkullVAELib.geometry.grid import Grid
from SkullVAELib.registration.patient import AlignedSkull
from SkullVAELib.registration.skull import CLAMP_MM, Skull, canonical_field
from SkullVAELib.vae.checkpoint import read_tensors, write_tensors
from SkullVAELib.vae.networks import SkullModel

from .drawn import drawn_fields

MODES = 100
NODES = 40_000
"""Nodes of the grid that are looked at: drawn at random where the mean's surface is near."""
CUT_MM = 3.0
"""Residuals much beyond this are a hole or other bone, and no longer count."""
INDEPENDENT = 2_000
"""Neighbouring nodes tell the same: so many count as independent, each right to a millimetre."""


@dataclass(frozen=True)
class Components:
    """mean: (X, Y, Z) mm; modes: (K, X, Y, Z) orthonormal; variances: (K,) of the skulls along them."""

    mean: torch.Tensor
    modes: torch.Tensor
    variances: torch.Tensor


def components(fields: np.ndarray, count: int = MODES) -> Components:
    """Principal components of fields (N, X, Y, Z), at most N - 1, the largest first."""
    data = torch.tensor(np.asarray(fields, np.float32)).reshape(len(fields), -1)
    mean = data.mean(0)
    data -= mean
    values, vectors = torch.linalg.eigh(data @ data.T / (len(data) - 1))
    order = values.argsort(descending=True)[: min(count, len(data) - 1)]
    modes = vectors[:, order].T @ data
    modes /= modes.norm(dim=1, keepdim=True).clamp(min=1e-9)
    shape = fields.shape[1:]
    return Components(mean.reshape(shape), modes.reshape(-1, *shape), values[order].clamp(min=1e-9))


def fit(found: Components, field: torch.Tensor, seen: torch.Tensor, count: int, steps: int = 8) -> torch.Tensor:
    """The complete shape (X, Y, Z) in mm of the first `count` modes that explains a defective field best.

    field: (X, Y, Z) mm; seen: bool, where it says something. The coefficients are the most likely ones under the modes'
    own variances; Geman-McClure weights, found anew in each step, let the hole not count.
    """
    mean, field = found.mean.reshape(-1), field.clamp(-CLAMP_MM, CLAMP_MM).reshape(-1)
    near = (seen.reshape(-1) & (mean.abs() < 0.8 * CLAMP_MM)).nonzero()[:, 0]
    near = near[torch.randperm(len(near), generator=torch.Generator().manual_seed(0))[:NODES]]
    modes = found.modes[:count].reshape(min(count, len(found.modes)), -1)
    at, value = modes[:, near].double(), (field - mean)[near].double()
    ridge = torch.diag(1 / found.variances[: len(modes)].double())
    coefficients = torch.zeros(len(modes), dtype=torch.float64)
    for _ in range(steps):
        left = value - coefficients @ at
        weight = (CUT_MM**2 / (CUT_MM**2 + left**2)) ** 2 * (INDEPENDENT / len(near))
        coefficients = torch.linalg.solve((at * weight) @ at.T + ridge, (at * weight) @ value)
    return (mean + coefficients.float() @ modes).reshape(found.mean.shape)


def prepare(training: tuple[Path, ...], folder: Path, model: SkullModel, log: Callable[[str], None]) -> None:
    """Fit the components to a fold's training skulls, unless that is done."""
    path = folder / "pca.safetensors"
    if path.is_file():
        return
    found = components(drawn_fields(training, folder, model.architecture.grid, log))
    tensors = {"mean": found.mean, "modes": found.modes.half(), "variances": found.variances}
    write_tensors(path, tensors, {"training": [file.name for file in training]})


@functools.lru_cache(maxsize=1)
def load(folder: Path) -> Components:
    """A fold's components."""
    tensors, _ = read_tensors(folder / "pca.safetensors", float("inf"))
    return Components(*(tensors[name].float() for name in ("mean", "modes", "variances")))


def fitted(
    found: Components, count: int, skull: Skull, aligned: AlignedSkull, model: SkullModel
) -> tuple[torch.Tensor, Grid]:
    """The shape of a defective skull; see shapes.MakeShape."""
    grid = model.architecture.grid
    field, seen = canonical_field(skull.imaged, skull.imaged_distance, aligned.matrix, grid)
    return fit(found, field, seen, count), grid
