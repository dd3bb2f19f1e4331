"""What the command lines have in common: lists with commas between their parts."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from .console import on_terminal
from .errors import SkullVAEError


def words(text: str) -> tuple[str, ...]:
    """The comma-separated names of a command-line option.

    >>> words(" raw,fast ,")
    ('raw', 'fast')
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str, kind: type, name: str) -> tuple:
    """The comma-separated numbers of the command-line option `name`; raises SkullVAEError when they are none.

    >>> numbers("64,64,32", int, "--grid")
    (64, 64, 32)
    """
    try:
        return tuple(kind(part) for part in words(text))
    except ValueError as error:
        raise SkullVAEError(f"{name} '{text}' is not a list of numbers", "Separate them by commas") from error


def number(text: str) -> float:
    """A finite number, as a type for argparse."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def count(text: str) -> int:
    """A whole number from 0, as a type for argparse."""
    value = int(text)
    if not 0 <= value < 2**63:
        raise ValueError(text)
    return value


count.__name__ = "whole number"  # argparse says "invalid whole number value"


def add_progress_option(parser: argparse.ArgumentParser) -> None:
    """Declare --progress, for console.progress."""
    parser.add_argument(
        "--progress",
        choices=("json", "bar", "none"),
        default=on_terminal(),
        help="json: one object a line on stdout; default: a bar on a terminal, else none",
    )


def existing_model(path: Path) -> Path:
    """The path of a model file that exists; raises SkullVAEError otherwise."""
    if not path.is_file():
        raise SkullVAEError(f"The model file '{path}' does not exist", "Check the path")
    return path


def joined(arguments: Sequence[str], option: str) -> list[str]:
    """The arguments with an option and its value made one, which argparse needs where a list begins with a minus.

    >>> joined(["--box", "-1,2"], "--box")
    ['--box=-1,2']
    """
    made: list[str] = []
    for argument in arguments:
        if made and made[-1] == option:
            made[-1] = f"{option}={argument}"
        else:
            made.append(argument)
    return made
