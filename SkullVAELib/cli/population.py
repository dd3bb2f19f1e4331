"""The command `skullvae population`."""

from __future__ import annotations

import argparse
from pathlib import Path

from SkullVAELib import NOTICE
from SkullVAELib.core.console import print_message, progress_bar
from SkullVAELib.core.exit_codes import DONE
from SkullVAELib.core.parsing import count, number, words


def add_parser(commands) -> None:
    """Add `population` to the command line."""
    population = commands.add_parser(
        "population",
        help="write a SkullFix-like set drawn from complete skulls",
        description="Draws new skulls from complete ones and writes them complete, with SkullFix's cranial and"
        f" with its facial defect, split by individual, with a data list. {NOTICE}",
    )
    population.add_argument(
        "--from",
        dest="source",
        metavar="DIR",
        type=Path,
        required=True,
        help="complete skulls: folder or JSON list",
    )
    population.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="new folder for the set")
    population.add_argument("--count", metavar="N", type=count, default=100, help="training skulls (default 100)")
    population.add_argument(
        "--held-out-count", metavar="M", type=count, help="skulls of held-out individuals (default: a fifth of N)"
    )
    population.add_argument(
        "--holdout",
        metavar="NAMES",
        type=words,
        default=(),
        help="individuals to hold out, with commas between them (default: a fifth of all, drawn by the seed)",
    )
    population.add_argument("--seed", metavar="N", type=count, default=0, help="another number, another set")
    population.add_argument("--spacing", metavar="MM", type=number, default=1.5, help="voxel size (default 1.5 mm)")
    population.set_defaults(run=run_population)


def run_population(options: argparse.Namespace) -> int:
    """`population`: a SkullFix-like set drawn from complete skulls."""
    from SkullVAELib.data.datasets import find_cases

    find_cases(options.source)  # torch takes seconds to import; a mistyped folder is found before

    from SkullVAELib.data.skullfix_like import SetOptions, write_set

    wishes = SetOptions(options.count, options.held_out_count, options.holdout, options.seed, options.spacing)
    with progress_bar() as report:
        result = write_set(options.source, options.output, wishes, report)
        report("done", 1.0)
    for split, names in result["split"].items():
        print_message(
            f"{result['skulls'][split]} {split} skulls, each complete and with two defects, from {', '.join(names)}."
        )
    print_message(f"The set is in '{options.output}'. {NOTICE}")
    return DONE
