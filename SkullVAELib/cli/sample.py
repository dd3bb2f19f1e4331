"""The command `skullvae sample`: writes a skull drawn from the model, with a synthetic defect."""

from __future__ import annotations

import argparse
from pathlib import Path

from SkullVAELib.cli.arguments import add_model_option, existing_model
from SkullVAELib.core.console import print_message
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.exit_codes import DONE
from SkullVAELib.core.parsing import count
from SkullVAELib.core.version import NOTICE
from SkullVAELib.data.defect_kinds import DEFAULT_KIND, DEFECT_KINDS


def add_parser(commands) -> None:
    """Add `sample` to the command line."""
    sample = commands.add_parser(
        "sample",
        help="write a skull drawn from the model, with a synthetic defect",
        description="Draws a skull from the model, cuts a synthetic defect into it and writes the rest as a labelmap"
        " (0 and 1, voxels of 1 mm), as test data where no patient data are available.",
    )
    sample.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="image file to write")
    sample.add_argument(
        "--kind",
        metavar="KIND",
        choices=DEFECT_KINDS,
        default=DEFAULT_KIND,
        help=f"kind of the defect: {', '.join(DEFECT_KINDS)} (default {DEFAULT_KIND})",
    )
    sample.add_argument("--seed", metavar="N", type=count, default=0, help="seed of the random numbers (default 0)")
    sample.add_argument("--complete", action="store_true", help="write the complete skull, without a defect")
    sample.add_argument("--truth", metavar="FILE", type=Path, help="also write the bone that was cut out")
    add_model_option(sample)
    sample.set_defaults(run=run_sample)


def run_sample(options: argparse.Namespace) -> int:
    """Run `sample` and return the exit code."""
    from SkullVAELib.io.images import volume_suffix, write_volume

    files = [options.output] if options.truth is None else [options.truth, options.output]
    for path in files:
        volume_suffix(path)
        if not path.parent.is_dir():
            raise SkullVAEError(f"The folder '{path.parent}' does not exist", "Create it or choose another folder")
    if options.truth is not None and options.complete:
        raise SkullVAEError(
            "--truth is not possible with --complete: there is no defect", "Omit one of the two options"
        )
    if options.truth is not None and options.truth.resolve() == options.output.resolve():
        raise SkullVAEError("--truth and --output are the same file", "Choose two file names")
    model_path = None if options.model is None else existing_model(options.model)

    from SkullVAELib.data.generated_skull import complete_skull, generated_skull
    from SkullVAELib.vae.checkpoint import load_model
    from SkullVAELib.vae.default_model import default_model_path

    model = load_model(model_path or default_model_path())
    if options.complete:
        skull, what = complete_skull(model, options.seed), "a complete skull"
    else:
        skull, truth = generated_skull(model, options.seed, options.kind)
        what = f"a skull with a {options.kind.replace('_', '-')} defect of {truth.sum() * skull.voxel_ml:.1f} ml"
        if options.truth is not None:
            write_volume(skull.with_array(truth), options.truth)
    write_volume(skull, options.output)
    print_message(
        f"'{options.output}' is {what}, drawn from the model with seed {options.seed}; it is not a patient. {NOTICE}"
    )
    return DONE
