"""The models of folds: the mean and the spread of the skulls that are not held out, with networks that are untrained.

The method's default shape is the mean skull, so that a fold needs no training. Its file is a model as any other, but
its networks give the mean shape whatever they are given, and its provenance says that they are untrained.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.files import file_sha256
from SkullVAELib.data.datasets import SkullCase, read_bone
from SkullVAELib.data.skullfix_like import RegisteredHead, Template, heads_of
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.registration.mean_skull import Population as WarpedSkulls
from SkullVAELib.registration.mean_skull import build_population_with_warps
from SkullVAELib.registration.skull import Skull, prepare_skull
from SkullVAELib.vae.checkpoint import read_tensors, save_model
from SkullVAELib.vae.networks import Architecture, SkullModel

from . import contest
from .drawn import draw_fields

ARCHITECTURE = Architecture(latent_size=8, channels=(8, 8, 8, 8))
"""The canonical grid of the models that ship, and small networks, since nobody uses them."""

FITTED = ("drawn.npy", "pca.safetensors", "unet.safetensors")
"""Files beside a model that are fitted to its population."""

_POPULATION_CODE = ("geometry/*.py", "registration/*.py", "shape/two_table.py")
"""Modules of the library that decide what a population looks like."""


@dataclass(frozen=True)
class Population:
    """The skulls of a fold's model.

    Attributes
    ----------
    names : tuple of str
        Individuals, averages included.
    files : tuple of Path
        Their complete skulls.
    holdout : tuple of str
        Individuals that the model is for.
    path : Path
        The model file.
    architecture : Architecture
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]
    holdout: tuple[str, ...]
    path: Path
    architecture: Architecture = ARCHITECTURE

    @functools.cached_property
    def provenance(self) -> dict:
        """What the file says of its origin; another one means that it is made anew."""
        library = contest.LIBRARY
        files = [path for pattern in _POPULATION_CODE for path in library.glob(pattern)]
        return {
            "networks": "untrained",
            "holdout": sorted(self.holdout),
            "data": {file.name: file_sha256(file) for file in self.files},
            "code": contest.code_hash(library, files),
        }

    @property
    def is_built(self) -> bool:
        try:
            _, metadata = read_tensors(self.path)
        except SkullVAEError:
            return False
        architecture = json.loads(json.dumps(metadata.get("architecture")))
        return metadata.get("provenance") == self.provenance and architecture["grid_shape"] == list(
            self.architecture.grid_shape
        )

    @property
    def lacks_drawn(self) -> bool:
        """Whether nothing was drawn of it, nor fitted to what was drawn."""
        return not any((self.path.parent / name).is_file() for name in FITTED)


def population_of(
    cases: Sequence[SkullCase], holdout: Sequence[str], path: Path, architecture: Architecture | None = None
) -> Population:
    """The population of complete skulls without those held out."""
    chosen = sorted((c for c in cases if c.individual not in holdout), key=lambda case: case.individual)
    if not chosen:
        raise SkullVAEError("No skull is left for the mean skull of a fold", "Give at least two individuals")
    names, files = zip(*((case.individual, case.complete) for case in chosen), strict=True)
    return Population(names, files, tuple(sorted(holdout)), path, architecture or ARCHITECTURE)


def build(population: Population, drawing: bool = False) -> Path:
    """Write a population's model unless it is there; returns its file.

    drawing: also draw skulls of it, which the rows of `pca` and `unet` are fitted to; this needs the same registration.
    """
    torch.set_num_threads(1)
    folder = population.path.parent
    if population.is_built and not (drawing and population.lacks_drawn):
        return population.path
    grid: Grid = population.architecture.grid
    pairs = zip(population.names, population.files, strict=True)
    skulls = [prepare_skull(name, read_bone(file)) for name, file in pairs]
    base, heads, found = register_population(skulls, grid)
    folder.mkdir(parents=True, exist_ok=True)
    if not population.is_built:
        for name in FITTED:  # to another population
            (folder / name).unlink(missing_ok=True)
        save_model(
            untrained(population.architecture, found.mean, found.spread()), population.path, population.provenance
        )
    if drawing:
        draw_fields(heads, base, folder)
    return population.path


def register_population(skulls: list[Skull], grid: Grid) -> tuple[Template, list[RegisteredHead], WarpedSkulls]:
    """Skulls warped to their mean, as the library builds it, and the same as heads that others can be drawn from."""
    found, warps = build_population_with_warps(skulls, grid)
    return Template.of(found.mean, found.spread(), grid), heads_of(found, skulls, warps), found


def untrained(architecture: Architecture, mean: torch.Tensor, spread: torch.Tensor) -> SkullModel:
    """A model of a mean and a spread (X, Y, Z) in mm whose networks give the mean shape for every latent."""
    torch.manual_seed(0)
    model = SkullModel(architecture)
    last = [module for module in model.decoder.modules() if isinstance(module, nn.ConvTranspose3d)][-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.zero_()
        model.mean.copy_(mean)
        model.spread.copy_(spread)
    return model.eval()


def build_all(populations: Sequence[Population], drawing: bool, processes: int, log: Callable[[str], None]) -> None:
    """Build what is missing, see `build`."""
    missing = [p for p in populations if not p.is_built or (drawing and p.lacks_drawn)]
    if missing:
        log(f"{len(missing)} mean skulls of {len(missing[0].names)} skulls: minutes for each of them")
        work = functools.partial(build, drawing=drawing)
        contest.each(work, missing, processes, lambda path, fraction: log(f"{fraction:4.0%} {path}"))
