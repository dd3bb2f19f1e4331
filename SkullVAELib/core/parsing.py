"""Numbers, names and lists with commas, read from the text of an option or a table."""

from __future__ import annotations

import math

from SkullVAELib.core.errors import SkullVAEError


def words(text: str) -> tuple[str, ...]:
    """The comma-separated names of a command-line option.

    >>> words(" raw,fast ,")
    ('raw', 'fast')
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str, kind: type, name: str) -> tuple:
    """The comma-separated numbers of the command-line option `name`; raises SkullVAEError if they are not numbers.

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


count.__name__ = "whole number"  # argparse prints "invalid whole number value"
