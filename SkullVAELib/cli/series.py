"""The command `skullvae series FOLDER`: lists the DICOM series of a study, and which would be completed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from SkullVAELib.cli.arguments import DICOM_INPUTS
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.exit_codes import DONE
from SkullVAELib.core.files import as_json_text

if TYPE_CHECKING:
    from SkullVAELib.io.dicom_series import Candidate, Study

_COLUMNS = ("", "number", "description", "orientation", "slices", "step mm", "pixel mm", "kernel", "tilt", "remark")
_LONGEST_DESCRIPTION = 32


def add_parser(commands) -> None:
    """Add `series` to the command line."""
    series = commands.add_parser(
        "series",
        help="list the series of a DICOM study",
        description="Lists the DICOM series in INPUT, which of them `complete` takes and why, and why others are not"
        " usable. The number is the value of --series. The list shows what the headers state, such as descriptions: it"
        " is printed, and written to no file.",
    )
    series.add_argument("input", metavar="INPUT", type=Path, help=DICOM_INPUTS)
    series.add_argument("--json", action="store_true", help="print JSON instead of a table")
    series.set_defaults(run=run_series)


def run_series(options: argparse.Namespace) -> int:
    """Run `series` and return the exit code."""
    from SkullVAELib.io.dicom_series import open_study
    from SkullVAELib.io.images import is_dicom

    path = options.input
    if not path.exists():
        raise SkullVAEError(f"'{path}' does not exist", "Check the path")
    if not is_dicom(path):
        raise SkullVAEError(f"'{path.name}' is not DICOM", f"Give {DICOM_INPUTS}")
    with open_study(path) as study:
        print(as_json_text(as_json(study)) if options.json else as_text(study), end="" if options.json else "\n")
    return DONE


def as_json(study: Study) -> dict:
    """The series as plain values: "series", "chosen" (number or None), "why" and "warnings"."""
    return {
        "series": [_entry(each) for each in study.candidates],
        "chosen": None if study.chosen is None else study.chosen.key,
        "why": study.why,
        "warnings": list(study.notes),
    }


def _entry(candidate: Candidate) -> dict:
    """A series as plain values."""
    stack, series = candidate.stack, candidate.series
    geometry: dict = {"orientation": None, "slice_step_mm": None, "pixel_mm": None, "tilt_degrees": None}
    if stack is not None:
        geometry = {
            "orientation": stack.orientation,
            "slice_step_mm": round(stack.step_mm, 3),
            "pixel_mm": [round(float(length), 4) for length in stack.pixel_mm],
            "tilt_degrees": round(stack.tilt_degrees, 1),
        }
    return {
        "number": candidate.key,
        "uid": series.uid,
        "description": series.description,
        "slices": len(candidate.slices),
        **geometry,
        "kernel": series.kernel,
        "kernel_kind": candidate.kernel,
        "reformat": candidate.is_reformat,
        "usable": candidate.usable,
        "reason": candidate.reason,
        "warnings": list(candidate.notes),
    }


def as_text(study: Study) -> str:
    """The series as a table, and the choice."""
    rows = [_COLUMNS]
    for each in study.candidates:
        entry, chosen = _entry(each), each is study.chosen
        step, pixel, tilt = entry["slice_step_mm"], entry["pixel_mm"], entry["tilt_degrees"]
        remark = entry["reason"] or ("reformat" if entry["reformat"] else "")
        rows.append(
            (
                "*" if chosen else "",
                entry["number"],
                _printable(entry["description"])[:_LONGEST_DESCRIPTION],
                entry["orientation"] or "",
                str(entry["slices"]),
                "" if step is None else f"{step:.2f}",
                "" if pixel is None else f"{pixel[0]:.2f}",
                _printable(entry["kernel"])[:16],
                "" if not tilt else f"{tilt:.1f}",
                study.why if chosen else f"not usable: {remark}" if entry["reason"] else remark,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if study.chosen is None:
        lines.append(f"No series is taken: {study.why}.")
    return "\n".join([*lines, *study.notes])


def _printable(text: str) -> str:
    """Text of a header without control characters, which could change what a terminal shows."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
