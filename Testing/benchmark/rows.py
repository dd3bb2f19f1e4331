"""The table's rows: methods that make an implant of a defective skull, by name."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SkullVAELib.completion.options import PRIORS, CompletionOptions, GaussianProcessOptions
from SkullVAELib.completion.pipeline import complete
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.progress import Stages
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.options import WarpOptions
from SkullVAELib.vae.checkpoint import load_model
from SkullVAELib.vae.networks import SkullModel

from . import pca, shapes

OURS = "mean"

TITLES = {
    "nothing": "do nothing",
    "mean-rim-warp": "mean shape",
    "mirror": "mirrored half",
    "pca-32": "PCA, 32 modes",
    "mean-rim": "mean shape + warp",
    OURS: "ours: mean shape + warp + GP",
    "encode": "VAE + warp + GP",
    "blend": "VAE and mean shape + warp + GP",
    "pca-100": "PCA, 100 modes",
    "dev-rim-warp": "plain VAE (z + DEV)",
    "unet": "3D U-Net",
}
"""Rows and their descriptions for readers."""

DEFAULT = ("nothing", "mean-rim-warp", "mirror", "pca-32", "mean-rim", OURS)
"""The rows that are run unless others are asked for."""

TRAINED = ("encode", "blend")
"""The rows that are added to the default ones where trained models are given."""

ABLATION = tuple(
    f"{prior}{without}" for prior in ("mean", "encode", "blend") for without in ("", "-rim", "-warp", "-rim-warp")
)
"""The method taken apart: each prior with and without the warp and the GP correction."""


@dataclass(frozen=True)
class Fold:
    """What a row may use.

    Attributes
    ----------
    model : Path
        Model file with the mean and the spread of a population that the skull is not in; its networks may be untrained.
    training : tuple of Path
        The complete skulls of that population.
    folder : Path
        For what else is fitted to them.
    trained : Path, optional
        Model with trained networks that never saw the skull.
    """

    model: Path
    training: tuple[Path, ...]
    folder: Path
    trained: Path | None = None

    def load(self) -> SkullModel:
        return _load(self.model)

    def load_trained(self, row: str) -> SkullModel:
        """The model with trained networks. Raises SkullVAEError without one."""
        if self.trained is None:
            raise _untrained(row)
        model = _load(self.trained)
        if model.provenance.get("networks") == "untrained":
            raise _untrained(row, self.trained.name)
        return model

    def model_of(self, row: str) -> Path:
        """The model file that a row uses."""
        return self.trained if needs_network(row) and self.trained is not None else self.model


def _untrained(row: str, name: str = "the model of this fold") -> SkullVAEError:
    return SkullVAEError(
        f"The row '{row}' needs trained networks, which {name} does not have",
        "Give models of Training/train.py with --holdout: --models FOLDER",
    )


def needs_network(row: str) -> bool:
    """Whether a row uses the networks of a model and not its mean shape alone."""
    prior = row.split("-")[0]
    return prior in PRIORS and prior != "mean"


@functools.lru_cache(maxsize=2)
def _load(path: Path) -> SkullModel:
    return load_model(path)


Method = Callable[[Volume, Fold], np.ndarray]


def method(row: str) -> Method:
    """The method of a row: its name in TITLES, or a prior of ours with -rim, -warp or both for doing without, and with
    -face for completing the face, too.

    A method takes a defective skull's labelmap and the fold, and gives the implant, bool on the same grid.
    Raises SkullVAEError for an unknown row.
    """
    if row == "nothing":
        return lambda volume, fold: np.zeros(volume.array.shape, bool)
    if row == "mirror":
        return lambda volume, fold: shapes.complete_by(shapes.mirrored, volume, fold.load())
    if row.startswith("pca-") and row[4:].isdecimal():
        return lambda volume, fold: shapes.complete_by(
            functools.partial(pca.fitted, pca.load(fold.folder), int(row[4:])), volume, fold.load()
        )
    if row == "unet":
        return _by_unet
    prior, *changes = row.split("-")
    if prior not in PRIORS or set(changes) - {"rim", "warp", "face"}:
        known = ", ".join((*TITLES, *(p for p in PRIORS if p not in TITLES)))
        raise SkullVAEError(
            f"There is no row '{row}'", f"Choose from {known}; add -rim or -warp to do without, -face for the face"
        )
    options = CompletionOptions(
        least_quality=0.0,  # what would be refused is measured all the same
        prior=prior,
        gaussian_process=None if "rim" in changes else GaussianProcessOptions(),
        face="face" in changes,
        warp=WarpOptions(steps=0) if "warp" in changes else WarpOptions(),
    )

    def implant(volume: Volume, fold: Fold) -> np.ndarray:
        model = fold.load_trained(row) if needs_network(row) else fold.load()
        return complete(volume, model, options, Stages({"all": 1.0})).implant.array

    return implant


def _by_unet(volume: Volume, fold: Fold) -> np.ndarray:
    from . import unet  # MONAI takes many seconds to import

    return shapes.complete_by(functools.partial(unet.completed, unet.load(fold.folder)), volume, fold.load())


PRESENTING = (
    "against", "craniotomy", "folds", "found_holes", "hard_inputs", "layers", "learning_curve", "mirrored_half",
    "pictures", "plan", "plots", "second_opinion", "self_check", "slice_errors", "swapped_prior", "tables", "thin_bone",
)  # fmt: skip
"""Modules of the benchmark that only read records and implants, or are other commands; no record depends on them, or,
as for the models of folds, on their files alone."""

_OF_SOME_ROWS = {
    "shapes": ("mirror", "pca", "unet"),
    "drawn": ("pca", "unet"),
    "pca": ("pca",),
    "unet": ("unet",),
    "slices": (),
}


def sources(row: str) -> list[Path]:
    """The benchmark's own files that a row's record depends on: all but those that present it and other rows' own."""
    kind = row.split("-")[0]
    left_out = {*PRESENTING, *(name for name, kinds in _OF_SOME_ROWS.items() if kind not in kinds)}
    return [path for path in Path(__file__).parent.glob("*.py") if path.stem not in left_out]


def is_fitted(row: str) -> bool:
    """Whether a row is fitted to skulls that are drawn from a fold's population."""
    return row.split("-")[0] in ("pca", "unet")


def fitted(row: str, fold: Fold) -> list[Path]:
    """The files that prepare() has written for a row, beside the model."""
    names = {"pca": "pca.safetensors", "unet": "unet.safetensors"}
    return [fold.folder / name for kind, name in names.items() if row.split("-")[0] == kind]


def prepare(row: str, fold: Fold, log: Callable[[str], None], minutes: float) -> None:
    """Fit what a row needs to the fold's training skulls, unless it is there; minutes: for the U-Net's training."""
    if row.startswith("pca-"):
        pca.prepare(fold.training, fold.folder, fold.load(), log)
    if row == "unet":
        from . import unet

        unet.prepare(fold.training, fold.folder, fold.load(), log, minutes)


def prepare_all(fold: Fold, chosen: Sequence[str], minutes: float) -> None:
    """As `prepare`, for all rows; in a process of its own."""
    for row in chosen:
        prepare(row, fold, lambda line: print(line, file=sys.stderr, flush=True), minutes)
