"""The command `skullvae sample`."""

from __future__ import annotations

import argparse
from pathlib import Path

from SkullVAELib import NOTICE
from SkullVAELib.cli.arguments import existing_model
from SkullVAELib.core.console import print_message
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.exit_codes import DONE
from SkullVAELib.core.parsing import count


def add_parser(commands) -> None:
    """Add `sample` to the command line."""
    sample = commands.add_parser(
        "sample",
        help="write a skull drawn from the model, with a defect",
        description="Draws a skull from the model, cuts a defect out and writes what is left as a labelmap (0 and 1,"
        " 1 mm). For trying things out where no patient's data is at hand.",
    )
    sample.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="image file to write")
    sample.add_argument(
        "--kind",
        metavar="KIND",
        help="the defect: hemicraniectomy (default), bifrontal, fronto_orbital, temporal, occipital, vertex, blob, box,"
        " burr or facial",
    )
    sample.add_argument("--seed", metavar="N", type=count, default=0, help="another number, another skull and defect")
    sample.add_argument("--complete", action="store_true", help="cut no defect")
    sample.add_argument("--truth", metavar="FILE", type=Path, help="write the piece that was cut out, too")
    sample.add_argument("--model", metavar="FILE", type=Path, help="model file instead of the shipped one")
    sample.set_defaults(run=run_sample)


def run_sample(options: argparse.Namespace) -> int:
    """`sample`: a skull drawn from the model, with a defect cut out or without."""
    from SkullVAELib.io.images import volume_suffix, write_volume

    files = [options.output] if options.truth is None else [options.truth, options.output]
    for path in files:
        volume_suffix(path)
        if not path.parent.is_dir():
            raise SkullVAEError(f"The folder '{path.parent}' does not exist", "Make it first or choose another")
    if options.truth is not None and options.complete:
        raise SkullVAEError("A complete skull has no implant to write", "Leave out --truth or --complete")
    if options.truth is not None and options.truth.resolve() == options.output.resolve():
        raise SkullVAEError("--truth and --output name the same file", "Choose two names")
    model_path = None if options.model is None else existing_model(options.model)

    from SkullVAELib.data.generated_skull import DEFAULT_KIND, complete_skull, generated_skull
    from SkullVAELib.vae.checkpoint import load_model
    from SkullVAELib.vae.default_model import default_model_path

    model = load_model(model_path or default_model_path())
    if options.complete:
        skull, what = complete_skull(model, options.seed), "a complete skull"
    else:
        kind = options.kind or DEFAULT_KIND
        skull, truth = generated_skull(model, options.seed, kind)
        what = f"a skull with a {kind.replace('_', '-')} defect of {truth.sum() * skull.voxel_ml:.1f} ml"
        if options.truth is not None:
            write_volume(skull.with_array(truth), options.truth)
    write_volume(skull, options.output)
    print_message(f"'{options.output}' is {what}, drawn from the model with seed {options.seed}: no patient. {NOTICE}")
    return DONE
