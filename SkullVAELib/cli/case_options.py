"""Options of `complete` that `batch` shares: how skulls are completed and which files are written."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

from SkullVAELib.cli.arguments import add_device_option, add_model_option
from SkullVAELib.completion.options import MOST_PROPOSALS, PRIORS, DefectChoice, parse_point
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.parsing import number
from SkullVAELib.data.defect_kinds import CLASSES
from SkullVAELib.implant.addition_options import FARTHEST_TAB_MM, HOLE_DIAMETER_MM
from SkullVAELib.implant.options import INSERTABLE_MM, MESH_FORMATS, THICKNESS_FORMS, THICKNESS_MODES, ImplantOptions
from SkullVAELib.implant.tooling import BENCH_MM, ToolingOptions
from SkullVAELib.registration.options import fragment_limit_mm

if TYPE_CHECKING:
    from SkullVAELib.geometry.roi import ROI


def add_case_options(parser: argparse.ArgumentParser) -> tuple[argparse.Action, ...]:
    """Declare the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of a command.

    Returns
    -------
    tuple of argparse.Action
        The declared options, for `as_arguments`.
    """
    made: list[argparse.Action] = []

    def add(*names: str, to=parser, **about: object) -> None:
        made.append(to.add_argument(*names, **about))

    add(
        "--threshold",
        metavar="HU",
        type=number,
        help="bone threshold of a CT in HU; default: 300 for an image that is detected as a CT",
    )
    add(
        "--segment",
        metavar="NAME_OR_NUMBER",
        help="segment of INPUT that is the skull: its name in a .seg.nrrd file, or its number; needed only if"
        " there are several",
    )
    add(
        "--series",
        metavar="NUMBER_OR_UID",
        help="series of a DICOM input, by its number in skullvae series or its UID; default: the most suitable one",
    )
    add(
        "--roi",
        "--box",  # its name in version 0.1
        metavar="CX,CY,CZ,SX,SY,SZ",
        help="region of interest: bone outside it, such as table, headrest and neck, is ignored; centre and full side"
        " lengths in the file's own coordinates, RAS mm; nine further numbers are the three axes of an oblique ROI",
    )
    add(
        "--defects",
        metavar="WHICH",
        default="auto",
        help="which candidate defects are filled: auto = those that are probably defects (default), all, or numbers of"
        " the candidates in report.json, such as 1,3",
    )
    add(
        "--at",
        metavar="R,A,S",
        action="append",
        default=[],
        help="also fill the hole nearest to this point, in mm of the file's own coordinates as Slicer shows them;"
        " may be repeated",
    )
    add(
        "--not-at",
        metavar="R,A,S",
        action="append",
        default=[],
        help="leave the candidate defect nearest to this point open; may be repeated",
    )
    add(
        "--through",
        metavar="R,A,S",
        action="append",
        default=[],
        help="move the outer surface of the implant smoothly so that it passes through this point; may be repeated",
    )
    add(
        "--reference",
        metavar="FILE",
        help="the patient's own bone from before the operation, whose surface fills the hole: a CT or segmentation, or"
        " a scan of the stored bone flap (image, STL, PLY or OBJ); {name} in it stands for the name of INPUT without"
        " suffix",
    )
    add(
        "--fragments",
        metavar="HOW",
        type=_fragments,
        default="keep",
        help="loose bone in the vault: keep = it is bone, and the implant avoids it (default); ignore = loose pieces, a"
        " bone flap that was put back, and metal are left out, so that the hole behind them is filled; near:MM = loose"
        " pieces within MM millimetres of the skull are kept",
    )
    made.append(add_model_option(parser))
    add(
        "--gamma",
        metavar="G",
        type=number,
        help="add G times the deviation vector (DEV) to the latent: 0 reconstructs, 1 completes (default 1 with"
        " --prior dev, otherwise 0)",
    )
    add(
        "--defect",
        choices=CLASSES,
        default=CLASSES[0],
        help=f"class of the deviation vector that --gamma scales (default {CLASSES[0]}); facial implies --face",
    )
    add(
        "--prior",
        choices=PRIORS,
        default=PRIORS[0],
        help="source of the complete shape: mean = mean skull; encode = reconstruction by the network; dev = that with"
        " the deviation vector added; map = latent fitted to the intact bone; blend = average of mean and encode, of"
        f" the head and of its mirror image (default {PRIORS[0]}: mean; --gamma and further proposals move it)",
    )
    add(
        "--face",
        action="store_true",
        help="also complete bone that is missing on one side of the face, by the mirror image of the other side",
    )
    add(
        "--proposals",
        metavar="K",
        type=_proposals,
        default=1,
        help=f"number of proposals, 1 (default) to {MOST_PROPOSALS}: the further ones, proposal_2.nrrd, proposal_2.stl"
        " and so on, are samples of the shapes that are plausible for this skull",
    )
    add(
        "--uncertainty",
        action="store_true",
        help="also write implant_uncertainty.ply: the implant's mesh with the half-width in mm of the 90 %% uncertainty"
        " band, as values and colours; other PLY files get the values",
    )
    add(
        "--force",
        action="store_true",
        help="also complete images that are not plausible as a skull, and DICOM series with several neighbouring slices"
        " missing; check the result carefully",
    )
    implant = parser.add_argument_group(
        "printable implant", "options of the meshes, lengths in mm; implant.nrrd does not change"
    )
    add(
        "--clearance",
        to=implant,
        metavar="MM",
        type=number,
        help="minimum distance between implant and bone (default 0; 0.5 for printing)",
    )
    add(
        "--thickness",
        to=implant,
        metavar="HOW",
        help=f"{THICKNESS_FORMS} (default {THICKNESS_MODES[0]}: as thick as the completed skull)",
    )
    add(
        "--under-contour",
        to=implant,
        metavar="MM",
        type=number,
        help="recess of the outer surface below the skull contour (default 0)",
    )
    add("--smooth", to=implant, metavar="MM", type=number, help="smoothing of the shape, not of the rim (default 0.5)")
    add(
        "--holes",
        to=implant,
        metavar="D,PITCH,MARGIN",
        help="perfusion holes: diameter, pitch and distance from every edge, such as 2,10,3 (default none)",
    )
    add("--split", to=implant, metavar="MM", type=number, help="split into pieces of at most this length")
    add(
        "--insertable",
        to=implant,
        metavar="MM",
        type=number,
        nargs="?",
        const=INSERTABLE_MM,
        help="remove what keeps the implant from being inserted along one straight direction, at most MM deep (default"
        f" {INSERTABLE_MM:g} where MM is omitted)",
    )
    added = parser.add_argument_group(
        "fixation and markings", "what is added to the plate of the printable implant or cut into it, lengths in mm"
    )
    add(
        "--tabs",
        to=added,
        metavar="NUMBER[,THICKNESS]",
        help="screw tabs on the outer surface of the bone, evenly around each defect where the bone is thick enough"
        " (default none; thickness 1.5)",
    )
    add(
        "--tab-at",
        to=added,
        metavar="R,A,S",
        action="append",
        default=[],
        help=f"also a tab whose screw is at this point of the bone, at most {FARTHEST_TAB_MM:g} mm from the rim; may be"
        " repeated",
    )
    add(
        "--flange",
        to=added,
        metavar="WIDTH,THICKNESS[,SCREWS]",
        help="flange all round on the outer surface of the bone, with this number of countersunk holes (default none)",
    )
    add(
        "--screws",
        to=added,
        metavar="DIAMETER[,BONE]",
        help="diameter of the screw holes of tabs and flange, and minimum thickness of the bone below them (default"
        " 1.6,3)",
    )
    add(
        "--hole-at",
        to=added,
        metavar="R,A,S[,DIAMETER]",
        action="append",
        default=[],
        help="hole through the implant at this point, for drainage, tenting or suture (default diameter"
        f" {HOLE_DIAMETER_MM:g}); may be repeated",
    )
    add(
        "--engrave",
        to=added,
        metavar="TEXT",
        help="engrave this text on the inner surface: letters, digits, '-', '.', '/' and spaces (default none)",
    )
    add(
        "--engrave-size",
        to=added,
        metavar="HEIGHT[,DEPTH]",
        help="height and depth of the engraving (default 6,0.5)",
    )
    add(
        "--build-up",
        to=added,
        metavar="R,A,S,RADIUS,THICKNESS",
        action="append",
        default=[],
        help="raise the outer surface by this thickness around a point, with a tapered edge; may be repeated",
    )
    add(
        "--format",
        to=implant,
        metavar="LIST",
        type=_formats,
        default=("stl",),
        help=f"mesh formats, comma-separated: {', '.join(MESH_FORMATS)}; PLY includes the thickness as values and"
        " colours; 3MF has one named object per piece and needs the package lib3mf; STL is always written",
    )
    add(
        "--skull",
        "--host",  # its name in version 0.1
        to=implant,
        action="store_true",
        help="also write the surface of the defective skull, skull.stl",
    )
    tooling = parser.add_argument_group("additional printed parts", "lengths in mm")
    add(
        "--mould",
        to=tooling,
        action="store_true",
        help="also write mould_a.stl and mould_b.stl, the halves of a mould for casting the implant; further pieces:"
        " mould_2_a.stl and so on",
    )
    add(
        "--mould-clearance",
        to=tooling,
        metavar="MM",
        type=number,
        help="clearance between the pins and sockets of the mould (default 0.2)",
    )
    add(
        "--mould-wall",
        to=tooling,
        metavar="MM",
        type=number,
        help="thickness of the mould around its cavity (default 5)",
    )
    add(
        "--fit-ring",
        to=tooling,
        metavar="MM",
        type=number,
        nargs="?",
        const=BENCH_MM,
        help="also write fit_ring.stl, the bone within MM of each defect, to try the printed implant in (default"
        f" {BENCH_MM:g} where MM is omitted); further defects: fit_ring_2.stl and so on",
    )
    add(
        "--template",
        to=tooling,
        metavar="MM",
        type=number,
        nargs="?",
        const=BENCH_MM,
        help="also write template.stl, a form of the completed outer surface to bend a mesh over, which reaches MM"
        f" beyond the rim (default {BENCH_MM:g} where MM is omitted); further defects: template_2.stl and so on",
    )
    add("--report", action="store_true", help="also write report.html, one file with figures and pictures")
    add(
        "--dicom",
        action="store_true",
        help="also write DICOM files for a picture archive, of a DICOM input: completed_and_implant.seg.dcm (segments"
        " of the completed skull and of the implant) and implant.stl.dcm (the printable implant). They contain the"
        " patient's name and identifiers, as the source does; no other result does",
    )
    add(
        "--display",
        action="store_true",
        help="also write skull_display.ply: the surface of the bone at about 1 mm, for fast display",
    )
    made.append(add_device_option(parser))
    return tuple(made)


def as_arguments(options: argparse.Namespace, actions: Iterable[argparse.Action]) -> tuple[str, ...]:
    """Return parsed options as command-line arguments; options at their default are left out.

    Parameters
    ----------
    options : argparse.Namespace
        The parsed options.
    actions : iterable of argparse.Action
        The options to return, as `add_case_options` declared them.

    Returns
    -------
    tuple of str
        OPTION=VALUE, or OPTION for flags.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> actions = add_case_options(parser)
    >>> as_arguments(parser.parse_args(["--skull", "--roi=-1,2,3,4,5,6", "--format", "obj,ply"]), actions)
    ('--roi=-1,2,3,4,5,6', '--format=obj,ply', '--skull')
    """
    arguments = []
    for action in actions:
        name, value = action.option_strings[0], getattr(options, action.dest)
        if value == action.default:
            continue
        if isinstance(value, list):
            arguments += [f"{name}={each}" for each in value]
            continue
        if isinstance(value, tuple):
            value = ",".join(value)
        arguments.append(name if action.nargs == 0 else f"{name}={value}")
    return tuple(arguments)


def parse_case_options(options: argparse.Namespace) -> tuple[ImplantOptions, ROI | None, DefectChoice]:
    """Return the implant options, the ROI and the choice of defects.

    Parameters
    ----------
    options : argparse.Namespace
        Parsed options that `add_case_options` declared.

    Returns
    -------
    implant_options : ImplantOptions
        Options of the printable implant.
    roi : ROI or None
        The region of interest; None without --roi.
    choice : DefectChoice
        Which candidate defects are filled.

    Raises
    ------
    SkullVAEError
        A value is invalid or out of range.
    """
    implant_options = ImplantOptions.parse(
        options.clearance,
        options.thickness,
        options.under_contour,
        options.smooth,
        options.holes,
        options.split,
        thickness_map="ply" in options.format,
        insertable=options.insertable,
        tabs=options.tabs,
        tab_at=options.tab_at,
        screws=options.screws,
        flange=options.flange,
        hole_at=options.hole_at,
        engrave=options.engrave,
        engrave_size=options.engrave_size,
        build_up=options.build_up,
    )
    if "3mf" in options.format:
        from SkullVAELib.mesh.three_mf import check_3mf

        check_3mf()
    choice = DefectChoice.parse(options.defects, options.at, options.not_at)
    for point in options.through:
        parse_point(point)
    if options.roi is None:
        return implant_options, None, choice
    from SkullVAELib.geometry.roi import ROI

    return implant_options, ROI.parse(options.roi), choice


def parse_tooling_options(options: argparse.Namespace) -> ToolingOptions:
    """Return the options of the additional printed parts.

    Parameters
    ----------
    options : argparse.Namespace
        Parsed options that `add_case_options` declared.

    Returns
    -------
    ToolingOptions
        Which parts are made, and how.

    Raises
    ------
    SkullVAEError
        A value is out of range.
    """
    return ToolingOptions.parse(
        options.mould, options.mould_clearance, options.mould_wall, options.fit_ring, options.template
    )


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(","))
    if not set(names) <= set(MESH_FORMATS):
        raise ValueError(text)
    return names


# argparse prints "invalid ... value"
_formats.__name__ = f"list of {', '.join(MESH_FORMATS[:-1])} and {MESH_FORMATS[-1]}"


def _fragments(text: str) -> str:
    try:
        fragment_limit_mm(text)
    except SkullVAEError as error:
        raise ValueError(text) from error
    return text


_fragments.__name__ = "way to treat loose bone (keep, ignore or near:MM)"


def _proposals(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MOST_PROPOSALS:
        raise ValueError(text)
    return value


_proposals.__name__ = f"number from 1 to {MOST_PROPOSALS}"
