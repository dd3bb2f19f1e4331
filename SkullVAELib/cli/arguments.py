"""What the command lines have in common: lists with commas between their parts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from SkullVAELib.core.console import default_progress
from SkullVAELib.core.errors import SkullVAEError


def add_progress_option(parser: argparse.ArgumentParser) -> None:
    """Declare --progress, for console.progress."""
    parser.add_argument(
        "--progress",
        choices=("json", "bar", "none"),
        default=default_progress(),
        help="json: one object a line on stdout; default: a bar on a terminal, else none",
    )


def existing_model(path: Path) -> Path:
    """The path of a model file that exists; raises SkullVAEError otherwise."""
    if not path.is_file():
        raise SkullVAEError(f"The model file '{path}' does not exist", "Check the path")
    return path


def join_option_value(arguments: Sequence[str], *options: str) -> list[str]:
    """Join each of these options with its value, as argparse needs where a list begins with a minus.

    >>> join_option_value(["--roi", "-1,2"], "--roi", "--box")
    ['--roi=-1,2']
    """
    made: list[str] = []
    for argument in arguments:
        if made and made[-1] in options:
            made[-1] = f"{made[-1]}={argument}"
        else:
            made.append(argument)
    return made
