"""Options of a training run, with units and defaults, for both methods; presets, JSON files and additional decoders."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.parsing import words
from SkullVAELib.vae.latent import Z_KINDS
from SkullVAELib.vae.networks import Architecture
from SkullVAELib.vae.paper_networks import PaperArchitecture

LEARNING_RATES = ("constant", "cosine")
"""Learning-rate schedules."""

DECODER_LOSSES = ("dice", "dice+distance")
"""Losses of the independent decoder of our method."""

_TYPES = {
    "int": ((int,), "a whole number"),
    "float": ((float, int), "a number"),
    "str": ((str,), "a text"),
    "bool": ((bool,), "true or false"),
}
"""Accepted Python types of an option by its annotation, and their name in messages. Compared exactly, since True is an
int to Python."""

_WARM_UP_STEPS = 100


@dataclass(frozen=True)
class StageOptions:
    """Options that every training stage of both methods has; written to run.json and into the model file.

    Attributes
    ----------
    beta : float
        Weight of the KL divergence (nats, summed over latents) of one skull, 0 or more.
    batch : int
        Skulls in a step.
    learning_rate : float
        Learning rate of Adam; the highest of the schedule.
    schedule : str
        "constant"; or "cosine" with a linear warm-up of 100 steps and an end at a fiftieth of `learning_rate`.
    z : str
        Latent code that the independent decoder is trained on: the posterior's "mean", its "mean+sigma" (what MONAI
        returned to the paper's code) or a "sampled" point.
    standardise : bool
        Whether the independent decoder takes latents with mean 0 and standard deviation 1 per latent. The aggregated
        model has this folded into the decoder's first layer.
    seed : int
        Seed of weights, data order, defects and noise, 0 or more.
    threads : int
        Processor threads of torch; 0 keeps torch's own number.
    bfloat16 : bool
        Mixed precision.
    channels_last : bool
        Memory layout of the networks.
    save_every : int
        Steps between checkpoints; held-out skulls are scored at each.
    method, vae_length, decoder_length : str
        Of the class: name of the method, and names of its options for the length of the two stages.
    """

    method: ClassVar[str]
    vae_length: ClassVar[str]
    decoder_length: ClassVar[str]

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
            types, expected = _TYPES[str(field.type)]
            if type(value := getattr(self, field.name)) not in types:
                raise SkullVAEError(f"{field.name} is {value!r}, which is not {expected}", f"Correct {field.name}")
        for name, known in (("z", Z_KINDS), ("schedule", LEARNING_RATES)):
            self._check_choice(name, known)
        for name in self._counts():
            if getattr(self, name) < 1:
                raise SkullVAEError(f"{name} is {getattr(self, name)}", f"Set {name} to 1 or more")
        for name in ("seed", "threads", "beta"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SkullVAEError(f"{name} is {getattr(self, name)}", f"Set {name} to a number of 0 or more")
        if not 0 < self.learning_rate < math.inf:
            raise SkullVAEError(f"learning_rate is {self.learning_rate}", "Set learning_rate to a number above 0")

    def _check_choice(self, name: str, known: tuple[str, ...]) -> None:
        if getattr(self, name) not in known:
            raise SkullVAEError(f"{name} '{getattr(self, name)}' is unknown", f"Use {' or '.join(known)}")

    def _counts(self) -> tuple[str, ...]:
        """Names of the options that must be 1 or more."""
        return ("batch", "save_every", self.vae_length, self.decoder_length)

    def changed(self, **changes: Any) -> Self:
        """A copy with some options changed. Raises SkullVAEError for an impossible value."""
        return dataclasses.replace(self, **changes)

    def for_report(self) -> Self:
        """The options with which a finished run's data are prepared again for a report on it."""
        return self

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step (from 0) of a stage with this number of steps."""
        if self.schedule == "constant":
            return self.learning_rate
        warm = min(1.0, (step + 1) / _WARM_UP_STEPS)
        return self.learning_rate * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))


@dataclass(frozen=True)
class TrainingOptions(StageOptions):
    """Options of our method: fields in the canonical frame, defective skulls in, complete ones out.

    The losses are in `training.losses`.

    Attributes
    ----------
    vae_steps, decoder_steps : int
        Length of the two stages in steps.
    decoder_loss : str
        "dice", the paper's second stage; or "dice+distance", which also asks for true distances. The registration of
        a patient by free-form deformation needs them.
    distance_weight : float
        Weight of 1 mm of distance error relative to a Dice loss of 1.
    pool : int
        Number of complete skulls drawn from the population.
    facial_share, complete_share : float
        Fractions 0..1 of the training skulls that get a facial defect, and none; the others get a cranial one.
    """

    method = "canonical"
    vae_length = "vae_steps"
    decoder_length = "decoder_steps"

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
        self._check_choice("decoder_loss", DECODER_LOSSES)

    def _counts(self) -> tuple[str, ...]:
        return (*super()._counts(), "pool")

    def for_report(self) -> Self:
        """As the base class; with the 24 drawn skulls that a report evaluates and no more."""
        return self.changed(pool=24)


@dataclass(frozen=True)
class PaperOptions(StageOptions):
    """Options of arXiv 2209.14783, as in its code: every skull of three classes is reconstructed as it is.

    The losses are in `training.losses`. In an epoch every training volume is used once.

    Attributes
    ----------
    plain_output : bool
        Leave out the last BatchNorm and ReLU of the independent decoder. They keep its logits small, and so the Dice
        loss high, until their scale has grown. The VAE's own decoder, MONAI's, has neither.
    vae_epochs, decoder_epochs : int
        Length of the two stages in epochs.
    """

    method = "paper"
    vae_length = "vae_epochs"
    decoder_length = "decoder_epochs"

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


METHODS: dict[str, tuple[type[Architecture] | type[PaperArchitecture], type[StageOptions]]] = {
    TrainingOptions.method: (Architecture, TrainingOptions),
    PaperOptions.method: (PaperArchitecture, PaperOptions),
}
"""Architecture and options of our method and of the paper's. Their defaults are the released configurations."""

LENGTHS = tuple(name for _, options in METHODS.values() for name in (options.vae_length, options.decoder_length))
"""Options that may change when a run is resumed, so that it is trained for longer."""

_FAST = {"standardise": True, "schedule": "cosine", "learning_rate": 2e-3, "plain_output": True}

DECODERS: dict[str, dict[str, Any]] = {
    "raw": {"standardise": False},
    "standardised": {"standardise": True},
    "fast": _FAST,
    "mean": _FAST | {"z": "mean"},
    "sampled": _FAST | {"z": "sampled"},
}
"""Additional decoders that can be trained on one encoder's latents, and how their options differ from the run's."""


def decoder_changes(name: str) -> dict[str, Any]:
    """How an additional decoder's options differ from the run's. Raises SkullVAEError for a name not in DECODERS."""
    if name not in DECODERS:
        raise SkullVAEError(f"There is no decoder '{name}'", f"Choose from {', '.join(DECODERS)}")
    return DECODERS[name]


def decoder_options(options: StageOptions, name: str, length: int | None = None) -> StageOptions:
    """Options of an additional decoder.

    Parameters
    ----------
    options : StageOptions
        Options of the run.
    name : str
        Name of the decoder; see DECODERS.
    length : int, optional
        Its epochs (our method: steps); default: as the run's own decoder.

    Raises
    ------
    SkullVAEError
        When there is no such decoder.
    """
    known = {field.name for field in dataclasses.fields(options)}
    changes = {k: v for k, v in decoder_changes(name).items() if k in known}
    return options.changed(**changes, **({} if length is None else {options.decoder_length: length}))


def read_configuration(
    config: str | Path = "canonical", changes: dict[str, Any] | None = None
) -> tuple[Architecture | PaperArchitecture, StageOptions]:
    """Architecture and options of a preset or of a JSON file.

    Parameters
    ----------
    config : str or Path
        The preset "canonical" (our method) or "paper"; or a JSON file with one object of option names and values, in
        which "method" chooses the method (default: "canonical").
    changes : dict, optional
        Option names and values that replace those of the preset or file.

    Returns
    -------
    tuple
        The architecture of the networks and the options of the method.

    Raises
    ------
    SkullVAEError
        For an unreadable file, an unknown name or an impossible value.
    """
    try:
        given = {} if config in METHODS else json.loads(Path(config).read_text(encoding="utf-8"))
        given = dict(given) | (changes or {})
        method = given.pop("method", config if config in METHODS else "canonical")
        if method not in METHODS:
            raise ValueError(f"there is no method '{method}'")
        shape, options = METHODS[method]
        of_shape = {field.name for field in dataclasses.fields(shape)}
        given = with_tuples(given)
        known = of_shape | {field.name for field in dataclasses.fields(options)}
        if unknown := sorted(set(given) - known):
            raise ValueError(f"the {method} method has no option '{unknown[0]}'")
        architecture = shape(**{k: v for k, v in given.items() if k in of_shape})
        return architecture, options(**{k: v for k, v in given.items() if k not in of_shape})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SkullVAEError(
            f"The training options cannot be used: {error}", "Correct --config or the option"
        ) from error


def with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Values from JSON with tuples for lists, as the architectures hold them."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def parse_decoders(text: str) -> tuple[tuple[str, int | None], ...]:
    """Additional decoders as the command line gives them: comma-separated names, each with a length where given.

    Parameters
    ----------
    text : str
        Such as "fast:60,raw".

    Returns
    -------
    tuple of (str, int or None)
        Names, and epochs (our method: steps) or None.

    Raises
    ------
    SkullVAEError
        For an unknown name or an impossible length.

    Examples
    --------
    >>> parse_decoders("fast:60,raw")
    (('fast', 60), ('raw', None))
    """
    decoders = []
    for word in words(text):
        name, _, length = word.partition(":")
        decoder_changes(name)
        if length and not (length.isdecimal() and int(length)):
            raise SkullVAEError(
                f"'{length}' in '{word}' is not a valid number of epochs", f"Write {name}:60, for example"
            )
        decoders.append((name, int(length) if length else None))
    return tuple(decoders)
