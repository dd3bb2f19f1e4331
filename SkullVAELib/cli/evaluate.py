"""The command `skullvae evaluate`: scores predicted implants."""

from __future__ import annotations

import argparse
from pathlib import Path

from SkullVAELib.core.console import progress_bar
from SkullVAELib.core.exit_codes import DONE
from SkullVAELib.core.files import as_json_text


def add_parser(commands) -> None:
    """Add `evaluate` to the command line."""
    evaluate = commands.add_parser(
        "evaluate",
        help="score predicted implants: DSC, bDSC and HD95",
        description="Scores the implants in the folder --prediction against those of the same names in --truth. Flat"
        " folders, one folder per case (CASE/implant.nrrd) and the layouts of SkullFix and SkullBreak are supported.",
    )
    evaluate.add_argument("--truth", metavar="DIR", type=Path, required=True, help="folder of true implants")
    evaluate.add_argument("--prediction", metavar="DIR", type=Path, required=True, help="folder of predicted implants")
    evaluate.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        nargs="?",
        const=Path("-"),
        help="also write the scores as JSON to FILE; without FILE, print JSON instead of the table",
    )
    evaluate.set_defaults(run=run_evaluate)


def run_evaluate(options: argparse.Namespace) -> int:
    """Run `evaluate` and return the exit code."""
    from SkullVAELib.evaluation.folders import evaluate_folders, score_table, scores_as_json

    with progress_bar() as report:
        scores = evaluate_folders(options.truth, options.prediction, report)
        report("evaluated", 1.0)
    if options.json is not None and str(options.json) != "-":
        _write_text(options.json, as_json_text(scores_as_json(scores)))
    print(as_json_text(scores_as_json(scores)) if str(options.json) == "-" else score_table(scores))
    return DONE


def _write_text(path: Path, text: str) -> None:
    """Write a text file; it appears complete or not at all."""
    from SkullVAELib.core.atomic_output import atomic_file

    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
