"""Configuration of a training run: options of both methods, the decoders to compare, and how they are read."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.parsing import words
from SkullVAELib.vae.latent import Z_KINDS
from SkullVAELib.vae.networks import Architecture
from SkullVAELib.vae.paper_networks import PaperArchitecture

LEARNING_RATES = ("constant", "cosine")


_TYPES = {"int": (int,), "float": (float, int), "str": (str,), "bool": (bool,)}
"""What a JSON file may give for an option. True is a whole number to Python, but not to a user."""


@dataclass(frozen=True)
class StageOptions:
    """What every training stage needs to know; printed into the run folder and the model file.

    beta: weight of KL (nats, summed over latents). schedule: "constant", or "cosine" with a warm-up of 100 steps and an
    end at a fiftieth. z: what the new decoder is given, the posterior's "mean", its "mean+sigma" (what MONAI returned
    to the paper's code) or a "sampled" point. standardise: give it to the decoder with mean 0 and deviation 1 per
    latent; when encoder and decoder are aggregated this moves into the decoder's first layer. threads: 0 leaves torch's
    own number. bfloat16: mixed precision. channels_last: memory layout. save_every: steps between checkpoints, at which
    held-out skulls are scored, too.
    """

    beta: float
    batch: int
    learning_rate: float
    schedule: str
    z: str
    standardise: bool
    seed: int = 0
    threads: int = 0
    bfloat16: bool = True
    channels_last: bool = True
    save_every: int = 100

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if type(value := getattr(self, field.name)) not in _TYPES[str(field.type)]:
                raise SkullVAEError(f"{field.name} is {value!r}, which is no {field.type}", f"Correct {field.name}")
        for name, known in (("z", Z_KINDS), ("schedule", LEARNING_RATES)):
            if getattr(self, name) not in known:
                raise SkullVAEError(f"{name} '{getattr(self, name)}' is unknown", f"Use {' or '.join(known)}")
        for name in self._counts():
            if getattr(self, name) < 1:
                raise SkullVAEError(f"{name} is {getattr(self, name)}", f"Set {name} to 1 or more")
        for name in ("seed", "threads", "beta"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SkullVAEError(f"{name} is {getattr(self, name)}", f"Set {name} to 0 or more")
        if not 0 < self.learning_rate < math.inf:
            raise SkullVAEError(f"learning_rate is {self.learning_rate}", "Set learning_rate to more than 0")

    def _counts(self) -> tuple[str, ...]:
        return ("batch", "save_every")

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, of a stage of so many steps."""
        if self.schedule == "constant":
            return self.learning_rate
        warm = min(1.0, (step + 1) / 100)
        return self.learning_rate * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))


@dataclass(frozen=True)
class TrainingOptions(StageOptions):
    """Our own method: fields in the canonical frame, defective skulls in, complete ones out.

    The reconstruction loss is 160 x (Dice loss + distance_weight x mean distance error in mm), 160 being the paper's
    weight for one skull. decoder_loss: "dice" is the paper's second stage, "dice+distance" also asks for true
    distances, which the conforming warp needs. pool: complete skulls drawn from the population.
    """

    beta: float = 0.3
    batch: int = 4
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    z: str = "mean"
    standardise: bool = True
    vae_steps: int = 1300
    decoder_steps: int = 1000
    decoder_loss: str = "dice+distance"
    distance_weight: float = 1.0
    pool: int = 500
    facial_share: float = 0.1
    complete_share: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if self.decoder_loss not in ("dice", "dice+distance"):
            raise SkullVAEError(f"decoder_loss '{self.decoder_loss}' is unknown", "Use dice or dice+distance")

    def _counts(self) -> tuple[str, ...]:
        return (*super()._counts(), "vae_steps", "decoder_steps", "pool")


@dataclass(frozen=True)
class PaperOptions(StageOptions):
    """arXiv 2209.14783 as its code has it: reconstruct all three classes, loss 80 x Dice (sum) + beta x KL (sum).

    An epoch sees every training volume once. plain_output: leave out the new decoder's last BatchNorm and ReLU, which
    keep its logits small, and the Dice loss high, until their scale has grown; the VAE's own decoder, MONAI's, has
    neither.
    """

    beta: float = 100.0
    batch: int = 4
    learning_rate: float = 1e-4
    schedule: str = "constant"
    z: str = "mean+sigma"
    standardise: bool = False
    bfloat16: bool = False
    plain_output: bool = False
    vae_epochs: int = 200
    decoder_epochs: int = 1200

    def _counts(self) -> tuple[str, ...]:
        return (*super()._counts(), "vae_epochs", "decoder_epochs")


_FAST = {"standardise": True, "schedule": "cosine", "learning_rate": 2e-3, "plain_output": True}


DECODERS: dict[str, dict] = {
    "raw": {"standardise": False},
    "standardised": {"standardise": True},
    "fast": _FAST,
    "mean": _FAST | {"z": "mean"},
    "sampled": _FAST | {"z": "sampled"},
}
"""Further decoders that can be trained on one encoder's latents, and how their options differ from the run's."""


def decoder_changes(name: str) -> dict:
    """How a further decoder's options differ; raises SkullVAEError for a name that DECODERS has not."""
    if name not in DECODERS:
        raise SkullVAEError(f"There is no decoder '{name}'", f"Choose from {', '.join(DECODERS)}")
    return DECODERS[name]


def decoder_options(options: StageOptions, name: str) -> StageOptions:
    """The options of a further decoder; raises SkullVAEError for a name that DECODERS has not."""
    known = {field.name for field in dataclasses.fields(options)}
    return dataclasses.replace(options, **{k: v for k, v in decoder_changes(name).items() if k in known})


METHODS = {"canonical": (Architecture, TrainingOptions), "paper": (PaperArchitecture, PaperOptions)}
"""Our method and the paper's; without changes, each is its released configuration."""


def read_configuration(
    config: str | Path = "canonical", changes: dict | None = None
) -> tuple[Architecture | PaperArchitecture, StageOptions]:
    """The architecture and options of a preset ("canonical" or "paper") or of a JSON file, with changes on top.

    The file is an object of option names and values, and "method" where it is the paper's. Raises SkullVAEError for an
    unreadable file, an unknown name or an impossible value.
    """
    try:
        told = {} if config in METHODS else json.loads(Path(config).read_text(encoding="utf-8"))
        told = dict(told) | (changes or {})
        method = told.pop("method", config if config in METHODS else "canonical")
        if method not in METHODS:
            raise ValueError(f"there is no method '{method}'")
        shape, options = METHODS[method]
        of_shape = {field.name for field in dataclasses.fields(shape)}
        told = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items()}
        known = of_shape | {field.name for field in dataclasses.fields(options)}
        if unknown := sorted(set(told) - known):
            raise ValueError(f"the {method} method has no option '{unknown[0]}'")
        architecture = shape(**{k: v for k, v in told.items() if k in of_shape})
        return architecture, options(**{k: v for k, v in told.items() if k not in of_shape})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SkullVAEError(f"The options cannot be used: {error}", "Correct --config or the option") from error


def parse_decoders(text: str) -> tuple[tuple[str, int | None], ...]:
    """Further decoders as the command line names them, "fast:60,raw": names and, where told, how long to train them.

    Raises SkullVAEError for an unknown name or an impossible number.

    >>> decoders("fast:60,raw")
    (('fast', 60), ('raw', None))
    """
    found = []
    for word in words(text):
        name, _, length = word.partition(":")
        decoder_changes(name)
        if length and not (length.isdecimal() and int(length)):
            raise SkullVAEError(f"'{word}' tells no number of epochs", f"Write {name}:60, for instance")
        found.append((name, int(length) if length else None))
    return tuple(found)
