"""The command `skullvae population`: writes a SkullFix-like data set of skulls drawn from complete ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from SkullVAELib.core.console import print_message, progress_bar
from SkullVAELib.core.exit_codes import DONE
from SkullVAELib.core.parsing import count, number, words
from SkullVAELib.core.version import NOTICE


def add_parser(commands) -> None:
    """Add `population` to the command line."""
    population = commands.add_parser(
        "population",
        help="write a SkullFix-like data set drawn from complete skulls",
        description="Draws new skulls from complete ones. Each is written complete, with SkullFix's cranial defect and"
        f" with its facial defect; a data list holds the split by individual. {NOTICE}",
    )
    population.add_argument(
        "--from",
        dest="source",
        metavar="DIR",
        type=Path,
        required=True,
        help="complete skulls: a folder or a JSON data list",
    )
    population.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True, help="new folder for the data set"
    )
    population.add_argument(
        "--count", metavar="N", type=count, default=100, help="number of training skulls (default 100)"
    )
    population.add_argument(
        "--held-out-count", metavar="M", type=count, help="number of skulls of held-out individuals (default: N/5)"
    )
    population.add_argument(
        "--holdout",
        metavar="NAMES",
        type=words,
        default=(),
        help="individuals to hold out, comma-separated (default: one fifth, drawn with the seed)",
    )
    population.add_argument("--seed", metavar="N", type=count, default=0, help="seed of the random numbers (default 0)")
    population.add_argument("--spacing", metavar="MM", type=number, default=1.5, help="voxel size in mm (default 1.5)")
    population.set_defaults(run=run_population)


def run_population(options: argparse.Namespace) -> int:
    """Run `population` and return the exit code."""
    from SkullVAELib.data.datasets import find_cases

    find_cases(options.source)  # torch takes seconds to import; a mistyped folder is reported before that

    from SkullVAELib.data.skullfix_like import SetOptions, write_set

    set_options = SetOptions(options.count, options.held_out_count, options.holdout, options.seed, options.spacing)
    with progress_bar() as report:
        result = write_set(options.source, options.output, set_options, report)
        report("done", 1.0)
    for split, names in result["split"].items():
        print_message(
            f"{result['skulls'][split]} {split} skulls, each complete and with two defects, from {', '.join(names)}."
        )
    print_message(f"The data set is in '{options.output}'. {NOTICE}")
    return DONE
