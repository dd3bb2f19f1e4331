"""The command `skullvae mesh`: writes the surface of a labelmap, such as an implant edited by hand."""

from __future__ import annotations

import argparse
from pathlib import Path

from SkullVAELib.cli.arguments import INPUT_SUFFIXES, add_progress_option
from SkullVAELib.core.console import progress
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.progress import Stages
from SkullVAELib.core.version import NOTICE
from SkullVAELib.implant.options import MESH_FORMATS

SUFFIXES = tuple(f".{kind}" for kind in MESH_FORMATS)


def add_parser(commands) -> None:
    """Add `mesh` to the command line."""
    mesh = commands.add_parser(
        "mesh",
        help=f"write the surface of a labelmap as {', '.join(MESH_FORMATS[:-1]).upper()} or {MESH_FORMATS[-1].upper()}",
        description="Writes the surface of a labelmap (non-zero voxels are inside) as a closed mesh in mm, LPS, smooth"
        f" at the scale of a voxel, for example of an implant that was edited by hand. {NOTICE}",
    )
    mesh.add_argument("input", metavar="LABELMAP", type=Path, help=f"{INPUT_SUFFIXES}, one label")
    mesh.add_argument(
        "-o", "--output", metavar="FILE", type=Path, required=True, help=f"mesh file to write: {', '.join(SUFFIXES)}"
    )
    add_progress_option(mesh)
    mesh.set_defaults(run=run_mesh)


def run_mesh(options: argparse.Namespace) -> int:
    """Run `mesh` and return the exit code."""
    suffix = options.output.suffix.lower()
    if suffix not in SUFFIXES:
        raise SkullVAEError(f"The mesh format of '{options.output.name}' is unknown", f"Use {', '.join(SUFFIXES)}")
    if not options.output.parent.is_dir():
        raise SkullVAEError(
            f"The folder '{options.output.parent}' does not exist", "Create it or choose another folder"
        )

    from SkullVAELib.io.images import check_readable, read_volume
    from SkullVAELib.registration.bone import labelmap_mask

    path = check_readable(options.input)
    with progress(options.progress) as report:
        stages = Stages({"read": 1, "surface": 6, "write": 1}, report)
        with stages.stage("read"):
            volume = read_volume(path)
            mask = volume.with_array(labelmap_mask(volume, f"'{path.name}'"))
        with stages.stage("surface"):
            from SkullVAELib.mesh.isosurface import mask_surface

            mesh = mask_surface(mask)
        with stages.stage("write"):
            from SkullVAELib.mesh.files import write_mesh

            write_mesh(mesh, options.output)
        stages.finish()
    return 0
