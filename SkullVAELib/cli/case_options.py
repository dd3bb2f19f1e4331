"""The options of `complete` that may hold for many skulls: how they are completed and what is written."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from SkullVAELib.completion.options import MOST_PROPOSALS
from SkullVAELib.core.parsing import number
from SkullVAELib.implant.options import MESH_FORMATS, ImplantOptions

if TYPE_CHECKING:
    from SkullVAELib.geometry.roi import ROI


def add_case_options(parser: argparse.ArgumentParser) -> tuple[argparse.Action, ...]:
    """Declare the options; returns them, for `as_arguments`."""
    made = []

    def add(*names: str, to=parser, **about: object) -> None:
        made.append(to.add_argument(*names, **about))

    add("--threshold", metavar="HU", type=number, help="bone begins here; a CT is recognised and cut at 300 without it")
    add(
        "--roi",
        "--box",  # its name in version 0.1
        metavar="CX,CY,CZ,SX,SY,SZ",
        help="nothing outside this box is bone, such as table, headrest and neck: centre and full side lengths in the"
        " file's own coordinates, RAS mm; nine more numbers are the three axes of an oblique box",
    )
    add("--model", metavar="FILE", type=Path, help="model file instead of the shipped one")
    add(
        "--gamma",
        metavar="G",
        type=number,
        help="move the latent by G deviation vectors: 0 reconstructs, 1 completes (default 1 with --prior dev, else 0)",
    )
    add(
        "--defect",
        choices=("cranial", "facial"),
        default="cranial",
        help="whose deviation vector gamma moves along (default cranial); facial implies --face",
    )
    add(
        "--prior",
        choices=("auto", "blend", "encode", "map", "dev", "mean"),
        default="auto",
        help="where the complete shape comes from (default: the way that measured best)",
    )
    add(
        "--face",
        action="store_true",
        help="complete bone that one side of the face lacks, too, by the mirror image of the other side",
    )
    add(
        "--proposals",
        metavar="K",
        type=_proposals,
        default=1,
        help=f"1 (default) to {MOST_PROPOSALS}: further implants, proposal_2.nrrd, proposal_2.stl and so on, drawn from"
        " what network and bone hold possible for this skull",
    )
    add(
        "--uncertainty",
        action="store_true",
        help="write implant_uncertainty.ply, too: the implant's mesh with the distance in mm within which the true"
        " surface lies nine times of ten, as numbers and as colours; other PLY files get the numbers",
    )
    add(
        "--force",
        action="store_true",
        help="complete what is refused as no head, too; look closely at what comes out",
    )
    part = parser.add_argument_group("the part", "what the meshes shall be, in mm; implant.nrrd stays as it is")
    add("--clearance", to=part, metavar="MM", type=number, help="least distance to bone (default 0; 0.5 to print)")
    add(
        "--thickness",
        to=part,
        metavar="HOW",
        help="patient (default): as thick as the completed skull; constant:MM; minimum:MM, thicker where that is",
    )
    add("--under-contour", to=part, metavar="MM", type=number, help="lower the outer surface by this (default 0)")
    add("--smooth", to=part, metavar="MM", type=number, help="smooth the shape, not the rim (default 0.5)")
    add("--holes", to=part, metavar="D,PITCH,MARGIN", help="perfusion holes, such as 2,10,3 (default none)")
    add("--split", to=part, metavar="MM", type=number, help="divide into pieces no longer than this")
    add(
        "--format",
        to=part,
        metavar="LIST",
        type=_formats,
        default=("stl",),
        help="stl, obj, ply (with the thickness as colours), comma-separated; STL is always written",
    )
    add("--skull", "--host", to=part, action="store_true", help="write the skull's surface as skull.stl, too")
    add("--report", action="store_true", help="write report.html, too: one file, with pictures")
    add("--display", action="store_true", help="write skull_display.ply, too: the bone at about 1 mm, quick to show")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where torch computes")
    return tuple(made)


def as_arguments(options: argparse.Namespace, actions: Iterable[argparse.Action]) -> tuple[str, ...]:
    """The options back as a command line has them; those at their default are left out.

    >>> parser = argparse.ArgumentParser()
    >>> actions = add_case_options(parser)
    >>> as_arguments(parser.parse_args(["--skull", "--roi=-1,2,3,4,5,6", "--format", "obj,ply"]), actions)
    ('--roi=-1,2,3,4,5,6', '--format=obj,ply', '--skull')
    """
    made = []
    for action in actions:
        name, value = action.option_strings[0], getattr(options, action.dest)
        if value == action.default:
            continue
        if isinstance(value, tuple):
            value = ",".join(value)
        made.append(name if action.nargs == 0 else f"{name}={value}")
    return tuple(made)


def parse_case_options(options: argparse.Namespace) -> tuple[ImplantOptions, ROI | None]:
    """What shall be made and where bone may be; raises SkullVAEError for values that make no sense."""
    part = ImplantOptions.parse(
        options.clearance,
        options.thickness,
        options.under_contour,
        options.smooth,
        options.holes,
        options.split,
        thickness_map="ply" in options.format,
    )
    if options.roi is None:
        return part, None
    from SkullVAELib.geometry.roi import ROI

    return part, ROI.parse(options.roi)


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(","))
    if not set(names) <= set(MESH_FORMATS):
        raise ValueError(text)
    return names


_formats.__name__ = "list of stl, obj and ply"  # argparse says "invalid ... value"


def _proposals(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MOST_PROPOSALS:
        raise ValueError(text)
    return value


_proposals.__name__ = f"number from 1 to {MOST_PROPOSALS}"
