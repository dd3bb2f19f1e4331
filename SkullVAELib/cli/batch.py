"""The command `skullvae batch COHORT -o DIR`: completes many skulls, each as `complete` does."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from SkullVAELib.batch.cohort import SUMMARIES, CohortCase, list_cases, made_from
from SkullVAELib.batch.summary import STATUSES, CaseRow, CohortTable
from SkullVAELib.cli.arguments import add_progress_option, existing_model
from SkullVAELib.cli.case_options import add_case_options, as_arguments, parse_case_options, parse_tooling_options
from SkullVAELib.core.atomic_output import check_not_input, locked_folder
from SkullVAELib.core.console import print_message, progress
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.exit_codes import BAD_INPUT, DONE
from SkullVAELib.core.files import file_sha256
from SkullVAELib.core.parsing import count, number
from SkullVAELib.core.progress import Report, duration
from SkullVAELib.core.version import NOTICE
from SkullVAELib.report.result_names import RESULT_FILES
from SkullVAELib.vae.default_model import default_model_path

_CASE_MINUTES = 30.0

# Number of failures that are printed at the end; the table has all of them.
_SHOWN_FAILURES = 20


def add_parser(commands) -> None:
    """Add `batch` to the command line."""
    batch = commands.add_parser(
        "batch",
        help="complete many skulls",
        description="Completes every skull of COHORT as `complete` does, each in a process of its own, and writes the"
        " results into DIR/NAME and the tables DIR/summary.csv and DIR/summary.json. A second run continues the first:"
        f" finished cases are kept; changed and failed cases run again. {NOTICE}",
        epilog="Exit codes: 0 all cases are done or have no defect, 2 user-correctable error or a failed case.",
    )
    batch.add_argument(
        "cohort",
        metavar="COHORT",
        type=Path,
        help="a folder of images; a text file with one path per line; or a CSV file with the column path and"
        " optionally name, threshold and roi",
    )
    batch.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True, help="folder for the folders of the cases"
    )
    batch.add_argument("--again", action="store_true", help="also complete finished cases again")
    batch.add_argument(
        "--workers",
        metavar="N",
        type=_workers,
        help="number of cases at once on this machine (default: one per core, fewer where memory is limited)",
    )
    batch.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask scheduler whose workers complete the cases, such as tcp://HOST:8786; they need access to the same"
        " files",
    )
    batch.add_argument(
        "--case-timeout",
        metavar="MINUTES",
        type=_minutes,
        default=_CASE_MINUTES,
        help=f"maximum duration of a case in minutes (default {_CASE_MINUTES:g})",
    )
    add_progress_option(batch)
    shared = add_case_options(batch)
    batch.set_defaults(run=partial(run_batch, shared))


def _workers(text: str) -> int:
    if not 1 <= count(text) <= 1024:
        raise ValueError(text)
    return int(text)


_workers.__name__ = "number from 1 to 1024"  # argparse prints "invalid ... value"


def _minutes(text: str) -> float:
    if not 0 < number(text) <= 1e6:
        raise ValueError(text)
    return number(text)


_minutes.__name__ = "number of minutes above 0"


def run_batch(shared: Sequence[argparse.Action], options: argparse.Namespace) -> int:
    """Run `batch` and return the exit code; shared: the result of `add_case_options`."""
    from SkullVAELib.batch.cluster import require_dask

    parse_case_options(options)
    parse_tooling_options(options)
    if options.workers is not None and options.scheduler is not None:
        raise SkullVAEError("--workers and --scheduler cannot be combined: a scheduler has its own workers", "Omit one")
    if options.model is not None:
        options.model = existing_model(options.model).absolute()  # a worker may have another working directory
    if options.reference is not None:
        options.reference = str(Path(options.reference).absolute())
    cases = list_cases(options.cohort)
    for name in SUMMARIES:
        check_not_input(options.output / name, [options.cohort], "Choose another output folder")
    require_dask()
    with locked_folder(options.output.absolute()) as output, progress(options.progress) as report:
        rows, summary = _complete(cases, output, as_arguments(options, shared), options, report)
        report("done", 1.0)
    # With --progress json stdout is reserved for progress.
    stream = sys.stderr if options.progress == "json" else sys.stdout
    print("\n".join([*_by_status(rows), *_failures(rows), summary]), file=stream, flush=True)
    if failed := sum(row.failed for row in rows):
        print_message(
            f"{failed} of {_many(len(rows), 'case')} failed. See '{options.output / SUMMARIES[1]}' for the reasons."
        )
        return BAD_INPUT
    print_message(f"The results are in '{options.output}'. {NOTICE}")
    return DONE


def _complete(
    cases: Sequence[CohortCase], output: Path, arguments: tuple[str, ...], options: argparse.Namespace, report: Report
) -> tuple[list[CaseRow], str]:
    """Complete the cases whose results are not up to date; return the rows of all cases and a line on the run.

    arguments: options of `complete` for all cases.
    """
    from SkullVAELib.batch.case_process import CaseJob
    from SkullVAELib.batch.cluster import complete_cases, local_pool, new_run, scheduler_pool

    model_sha256 = file_sha256(options.model or default_model_path())
    table = CohortTable(output, [case.name for case in cases])
    made = {case.name: made_from(case, arguments, model_sha256) for case in cases}
    due = [
        case
        for case in cases
        if options.again or not table.rows[case.name].up_to_date(output / case.name, made[case.name])
    ]
    kept = "" if len(due) == len(cases) else f"Up to date: {len(cases) - len(due)} of {len(cases)} cases. "
    if not due:
        table.put()
        return list(table.rows.values()), kept.strip()

    run, begun = new_run(), time.monotonic()
    report("start workers", 0.0)
    with scheduler_pool(options.scheduler) if options.scheduler else local_pool(options.workers, len(due)) as pool:
        # Earlier results of these cases are invalid from here on, however this run ends.
        table.put(*(CaseRow(case.name) for case in due))
        jobs = [
            CaseJob(
                run=run,
                name=case.name,
                path=case.path,
                output=output / case.name,
                arguments=(*arguments, *case.arguments),
                limit_seconds=60 * options.case_timeout,
                threads=pool.threads,
            )
            for case in due
        ]
        report("complete", 0.0)
        with closing(complete_cases(pool, jobs, run)) as ended:
            for number, row in enumerate(ended, 1):
                table.put(_with_origin(row, output / row.case, made[row.case]))
                report(f"{row.case}: {row.status}", number / len(due))
        cores = pool.cores
    seconds = time.monotonic() - begun
    rate = 3600 * sum(table.rows[case.name].finished for case in due) / (seconds * cores)
    summary = f"Run: {len(due)} in {duration(seconds)} on {_many(cores, 'core')}, {rate:.0f} finished per core-hour."
    return list(table.rows.values()), kept + summary


def _with_origin(row: CaseRow, folder: Path, made_from: dict | None) -> CaseRow:
    """A row with the inputs of its result; for a failed case, with a note where an earlier result exists."""
    if row.finished:
        return replace(row, made_from=made_from)
    if (folder / RESULT_FILES[-1]).exists():
        return replace(row, sentence=f"{row.sentence} The folder contains an earlier result.")
    return row


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _by_status(rows: Sequence[CaseRow]) -> list[str]:
    """Lines of text: number of cases, duration and memory for each status."""
    lines = [f"{'status':<10}{'cases':>7}{'seconds':>9}{'MiB':>7}   (median, maximum)"]
    for status in STATUSES:
        if these := [row for row in rows if row.status == status]:
            seconds = [row.seconds for row in these if row.seconds is not None]
            peaks = [row.peak_mib for row in these if row.peak_mib is not None]
            took = f"{median(seconds):.1f}" if seconds else "-"
            lines.append(f"{status:<10}{len(these):>7}{took:>9}{max(peaks, default='-'):>7}")
    return lines


def _failures(rows: Sequence[CaseRow]) -> list[str]:
    """Lines of text: failed cases with their reasons."""
    failed = [f"{row.case}: {row.status}. {row.sentence}" for row in rows if row.failed]
    more = len(failed) - _SHOWN_FAILURES
    return [*failed[:_SHOWN_FAILURES], *([f"and {more} more"] if more > 0 else [])]
