"""Options and helpers that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from SkullVAELib.core.console import default_progress
from SkullVAELib.core.errors import SkullVAEError

INPUT_SUFFIXES = ".nrrd, .nhdr, .nii, .nii.gz, .mha or .mhd"
"""File name suffixes of images, as the help states them."""

DICOM_INPUTS = "a DICOM folder, zip archive, DICOMDIR or file"
"""What is read as DICOM, as the help states it."""


def add_progress_option(parser: argparse.ArgumentParser) -> None:
    """Declare --progress, whose value `SkullVAELib.core.console.progress` takes."""
    parser.add_argument(
        "--progress",
        choices=("json", "bar", "none"),
        default=default_progress(),
        help="json: one JSON object per line on stdout; default: a bar on a terminal, otherwise none",
    )


def add_model_option(parser: argparse.ArgumentParser) -> argparse.Action:
    """Declare --model; its value is None for the default model."""
    return parser.add_argument(
        "--model", metavar="FILE", type=Path, help="model file to use instead of the default model"
    )


def add_device_option(parser: argparse.ArgumentParser) -> argparse.Action:
    """Declare --device, whose value `SkullVAELib.vae.device.resolve_device` takes."""
    return parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device that torch computes on (default auto: a graphics card if there is one)",
    )


def existing_model(path: Path) -> Path:
    """Return the path of a model file; raises SkullVAEError where there is no such file."""
    if not path.is_file():
        raise SkullVAEError(f"The model file '{path}' does not exist", "Check the path")
    return path


def join_option_value(arguments: Sequence[str], *options: str) -> list[str]:
    """Join each of the given options with its value.

    argparse takes a value that begins with a minus, such as "-1,2", for an option, unless it is written "--roi=-1,2".

    Parameters
    ----------
    arguments : sequence of str
        The command line.
    *options : str
        Names of the options to join.

    Returns
    -------
    list of str
        The command line with OPTION=VALUE for these options.

    Examples
    --------
    >>> join_option_value(["--roi", "-1,2"], "--roi", "--box")
    ['--roi=-1,2']
    """
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in options:
            joined[-1] = f"{joined[-1]}={argument}"
        else:
            joined.append(argument)
    return joined
