"""From a preset's name or a JSON file, and what the command line changes, to the architecture and options of a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from .arguments import words
from .errors import SkullVAEError
from .networks import Architecture
from .options import PaperOptions, StageOptions, TrainingOptions, decoder_changes
from .paper import PaperArchitecture

METHODS = {"canonical": (Architecture, TrainingOptions), "paper": (PaperArchitecture, PaperOptions)}
"""Our method and the paper's; without changes, each is its released configuration."""


def read_settings(
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


def decoders(text: str) -> tuple[tuple[str, int | None], ...]:
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
