"""What the command lines have in common: lists with commas between their parts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from SkullVAELib.core.console import on_terminal
from SkullVAELib.core.errors import SkullVAEError


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
