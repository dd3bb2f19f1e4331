"""The command `skullvae compare PLAN OUTCOME -o DIR`: compares a planned implant with a later CT or a scan."""

from __future__ import annotations

import argparse
from pathlib import Path

from SkullVAELib.cli.arguments import INPUT_SUFFIXES, add_model_option, add_progress_option, existing_model
from SkullVAELib.core.console import print_message, progress
from SkullVAELib.core.exit_codes import DONE
from SkullVAELib.core.parsing import number
from SkullVAELib.core.progress import Stages
from SkullVAELib.core.version import NOTICE

# A residual on intact bone with a larger median, mm, is worth a warning.
_DOUBTFUL_MM = 0.6


def add_parser(commands) -> None:
    """Add `compare` to the command line."""
    compare = commands.add_parser(
        "compare",
        help="compare a planned implant with a later CT or with a scan of the part",
        description="Compares the planned implant PLAN with OUTCOME and writes compare.json, compare.html, compare.png"
        " and difference.ply into DIR: displacement and rotation, differences of the surfaces, gap and step along the"
        f" rim, and volume lost or gained. {NOTICE}",
        epilog="Exit codes: 0 done, 2 user-correctable error (one line states cause and remedy).",
    )
    compare.add_argument(
        "plan", metavar="PLAN", type=Path, help="result folder of a completion, or the implant as mesh or labelmap"
    )
    compare.add_argument(
        "outcome",
        metavar="OUTCOME",
        type=Path,
        help=f"later CT or segmentation of the head ({INPUT_SUFFIXES}), or the part alone: a segmentation, or a scan as"
        " STL, PLY or OBJ in mm, in any pose",
    )
    compare.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="folder for the results")
    compare.add_argument(
        "--threshold",
        metavar="HU",
        type=number,
        help="threshold of OUTCOME in HU, at which the placed implant must be visible (default 300)",
    )
    compare.add_argument(
        "--segment", metavar="NAME_OR_NUMBER", help="segment of OUTCOME; needed only if there are several"
    )
    add_model_option(compare)
    add_progress_option(compare)
    compare.set_defaults(run=run_compare)


def run_compare(options: argparse.Namespace) -> int:
    """Run `compare` and return the exit code."""
    from SkullVAELib.core.atomic_output import publish_files
    from SkullVAELib.evaluation.compare_files import COMPARISON_FILES, write_comparison
    from SkullVAELib.evaluation.plan_outcome import Plan, compare
    from SkullVAELib.registration.known_bone import KnownBone
    from SkullVAELib.registration.reference import MeanSkull
    from SkullVAELib.vae.checkpoint import load_model
    from SkullVAELib.vae.default_model import default_model_path

    inputs = [path for path in (options.plan, options.outcome) if path.is_file()]
    if options.model is not None:
        inputs.append(existing_model(options.model))
    with progress(options.progress) as report:
        stages = Stages({"read": 2, "compare": 8, "write": 3}, report)
        with publish_files(options.output, COMPARISON_FILES, inputs) as staging:
            with stages.stage("read"):
                plan = Plan.read(options.plan)
                outcome = KnownBone.read(options.outcome, options.threshold, options.segment)
            with stages.stage("compare"):
                target = None
                if plan.bone is not None and outcome.kind == "skull":
                    target = MeanSkull.of(load_model(options.model or default_model_path(), "cpu")).target
                made = compare(plan, outcome, target)
            warnings = [*outcome.warnings]
            if plan.fixation_mm2:
                warnings.append(
                    f"Tabs or flange of the plan, {plan.fixation_mm2 / 100:.1f} cm2 of its surface, are left out of the"
                    " comparison. Check their fit in 3D."
                )
            match = made.placed.match
            if match is not None and match.median_mm > _DOUBTFUL_MM:
                warnings.append(
                    f"The skulls match poorly: {match.median_mm:.1f} mm (median) on intact bone. Check that both are of"
                    " one patient."
                )
            if made.figures["shape_mm"]["compared"] < 0.7:
                warnings.append(
                    f"Only {made.figures['shape_mm']['compared']:.0%} of the planned surface was found in the outcome."
                    " Check the threshold and the pictures."
                )
            with stages.stage("write"):
                write_comparison(made, staging, warnings)
        stages.finish()
    for warning in warnings:
        print_message(f"Warning: {warning}")
    print_message(f"The comparison is in '{options.output}'. {NOTICE}")
    return DONE
