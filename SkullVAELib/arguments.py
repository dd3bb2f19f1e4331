"""What the command lines have in common: lists with commas between their parts."""

from __future__ import annotations

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
