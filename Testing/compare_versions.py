"""Whether two versions of SkullVAE give the same results: record what each computes, then compare the files.

    make compare-versions BASE=COMMIT SKULLS=FOLDER          # this checkout with an earlier commit, all in one

    python Testing/compare_versions.py record --checkout FOLDER --output BEFORE --skulls FOLDER
    python Testing/compare_versions.py record --output AFTER --skulls FOLDER --earlier BEFORE
    python Testing/compare_versions.py compare BEFORE AFTER

Images, meshes, pictures and weights are compared to the byte. JSON and CSV files are compared except for times,
versions, paths and texts. versions/cases.py lists the cases, versions/comparison.py the kinds of file and what is
excused in each. What was renamed on purpose stands in the tables below. Not recorded: Slicer's panel, training on
several processes, and graphics cards.

Exit codes: 0 the same, 1 a line for each difference on stdout, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from versions.cases import CASES
from versions.comparison import RECORD, Comparison, Rules, compare_recordings
from versions.inputs import RecordingError
from versions.recording import record

ROOT = Path(__file__).resolve().parent.parent

# What was renamed on purpose, old name -> new name: see versions/comparison.py for how files and fields are named.

RENAMED_FILES: dict[str, str] = {"host.stl": "skull.stl", "answers": "responses"}
"""Files and folders of results, such as {"host.stl": "skull.stl"}."""

RENAMED_FIELDS: dict[str, str] = {
    "passed_over": "rejected",
    "rejected.because": "reason",
    "part": "printable_implant",
    "parameters.box": "roi",
    "parameters.rim": "gaussian_process",
    "parameters.gap": "defects",
    "answer": "response",
}
"""Keys of JSON objects and columns of CSV files, such as {"passed_over": "rejected", "rejected.because": "reason"}."""

RENAMED_VALUES: dict[str, dict[str, str]] = {}
"""Words with a meaning for programs, such as {"status": {"no defect": "no defect found"}}."""

RENAMED_OPTIONS: dict[str, str] = {"--box": "--roi", "--host": "--skull"}
"""Options of the command line where a report repeats them."""

NEW_FIELDS: frozenset[str] = frozenset()
"""Fields and columns that only the newer version writes."""

NEW_FILES: frozenset[str] = frozenset()
"""Files and folders that only the newer version writes."""

# Captions above and left of two rows of pictures. "input, gap orange" became "input, missing: orange". With it the
# edges of other captions changed their colours, because the picture has a palette of 256 colours.
_GAMMA = ((0, 0, 1155, 23), (0, 161, 1155, 199), (0, 0, 52, 352))

EXCUSED_PIXELS: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "analysis/gamma_cranial.png": _GAMMA,
    "analysis/gamma_facial.png": _GAMMA,
    "analysis/report.html, picture 3": _GAMMA,
    "analysis/report.html, picture 4": _GAMMA,
}
"""Rectangles of pictures that hold a text that was rewritten: (left, top, right, bottom) by the end of the path."""

EXCUSED_CELLS: tuple[str, ...] = ()
"""Regular expressions of cells in HTML tables that were rewritten together with their numbers."""

EXCUSED_FIELDS = {
    "seconds": "time",
    "samples_per_second": "time",
    "trained": "date",
    "made_from.input": "size and time of change of the input file",
    "report_sha256": "hash of a file that holds times",
    "peak_mib": "memory",
    "memory_gib": "memory",
    "free_gib": "disk",
    "hardware": "machine",
    "version": "version",
    "software": "version",
    "skullvae": "version",
    "commit": "version",
    "path": "path",
    "folder": "path",
    "executable": "path",
}
"""Fields whose values say when, where or by which version, not what. They must be there."""

TEXTS = frozenset(
    (
        *("warnings", "sentence", "because", "reason", "error", "message", "notes"),
        *("disclaimer", "notice", "what", "licence"),
    )
)
"""Fields that hold texts for people: compared by their number, not by their wording."""

RULES = Rules(
    renamed_files=RENAMED_FILES,
    renamed_fields=RENAMED_FIELDS,
    renamed_values=RENAMED_VALUES,
    renamed_options=RENAMED_OPTIONS,
    excused_fields=EXCUSED_FIELDS,
    texts=TEXTS,
    new_fields=NEW_FIELDS,
    new_files=NEW_FILES,
    excused_pixels=EXCUSED_PIXELS,
    excused_cells=EXCUSED_CELLS,
)

SAME, DIFFERENT, BAD_INPUT = 0, 1, 2


def say(line: str) -> None:
    """A line for the user, beside the result on stdout."""
    print(line, file=sys.stderr, flush=True)


def run_record(options: argparse.Namespace) -> int:
    """`record`: 0 when every command ended as it should, else 1."""
    fine = record(
        options.checkout,
        options.output,
        options.skulls,
        options.cases,
        options.patient,
        options.earlier,
        options.jobs,
        say,
    )
    return SAME if fine else DIFFERENT


def run_compare(options: argparse.Namespace) -> int:
    """`compare`: the differences on stdout, a summary on stderr."""
    for folder in (options.before, options.after):
        if not (folder / RECORD).is_file():
            raise RecordingError(f"'{folder}' is no recording: it has no {RECORD}")
    _warn(options.before, options.after, options.cases)
    found = compare_recordings(options.before, options.after, RULES, options.cases)
    return tell(found)


def tell(found: Comparison) -> int:
    """Print what was found; the exit code."""
    for line in found.differences:
        print(line)
    for what, count in sorted(found.excused.items()):
        if count:
            say(f"excused {count:>5} times: {what}")
    say(f"{found.files} files compared, {len(found.differences)} differences")
    return DIFFERENT if found.differences else SAME


def _warn(before: Path, after: Path, cases: Sequence[str]) -> None:
    """Warn of what weakens a comparison: other packages, and cases of one recording that are of several commits."""
    old, new = (json.loads((folder / RECORD).read_text(encoding="utf-8")) for folder in (before, after))
    for name in {**old["packages"], **new["packages"]}:
        versions = [about["packages"].get(name) for about in (old, new)]
        if versions[0] != versions[1]:
            say(
                f"Warning: recorded with {name} {versions[0]} before and {versions[1]} now, which may change last bits."
            )
    for folder, about in ((before, old), (after, new)):
        compared = [case for name, case in about["cases"].items() if not cases or name in cases]
        commits = {str(case.get("commit"))[:10] for case in compared}
        if len(commits) > 1:
            say(f"Warning: the cases in '{folder}' are of several commits: {', '.join(sorted(commits))}.")
        if any(case.get("changes") for case in compared):
            say(f"Warning: '{folder}' was recorded from a checkout with changes that are not committed.")


def run_against(options: argparse.Namespace) -> int:
    """`against`: record a commit of this repository and this checkout, and compare."""
    output = options.output.absolute()
    before, after = output / "before", output / "after"
    for folder in (before, after):
        if (folder / RECORD).is_file():
            shutil.rmtree(folder)
    with tempfile.TemporaryDirectory(prefix="skullvae-base-") as place:
        tree = Path(place) / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        added = subprocess.run(
            [*git, "add", "--detach", str(tree), options.base], capture_output=True, text=True, encoding="utf-8"
        )
        if added.returncode:
            raise RecordingError(f"'{options.base}' cannot be checked out: {added.stderr.strip()}")
        try:
            fine = record(tree, before, options.skulls, options.cases, options.patient, None, options.jobs, say)
            patient = before / "inputs/patient_ct.nrrd"
            patient = patient if patient.is_file() else None
            fine &= record(ROOT, after, options.skulls, options.cases, patient, before, options.jobs, say)
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], capture_output=True)
    code = run_compare(argparse.Namespace(before=before, after=after, cases=options.cases))
    return code if fine else max(code, DIFFERENT)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _parser() -> argparse.ArgumentParser:
    cases = "; ".join(f"{name}: {case.about}" for name, case in CASES.items())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = argparse.ArgumentParser(add_help=False)
    recording.add_argument("--skulls", type=Path, metavar="FOLDER", help="real skulls: complete/ and defective/")
    recording.add_argument("--patient", type=Path, metavar="FILE", help="the CT of make demo (default: it is fetched)")
    recording.add_argument("--cases", type=_names, default=(), metavar="NAMES", help=f"comma-separated; {cases}")
    recording.add_argument("--jobs", type=int, default=1, metavar="N", help="cases at once (default 1)")

    one = commands.add_parser("record", parents=[recording], help="record what a checkout computes")
    one.add_argument(
        "--checkout", type=Path, default=ROOT, metavar="FOLDER", help="version to record (default: this one)"
    )
    one.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where to put the recording")
    one.add_argument("--earlier", type=Path, metavar="FOLDER", help="recording whose models the case `earlier` loads")
    one.set_defaults(run=run_record)

    two = commands.add_parser("compare", help="compare two recordings")
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    two.add_argument("--cases", type=_names, default=(), metavar="NAMES", help="comma-separated (default: all)")
    two.set_defaults(run=run_compare)

    both = commands.add_parser("against", parents=[recording], help="record a commit and this checkout, and compare")
    both.add_argument("base", metavar="COMMIT")
    both.add_argument("--output", type=Path, default=ROOT / "bench/versions", metavar="FOLDER")
    both.set_defaults(run=run_against)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (RecordingError, OSError) as error:
        say(str(error))
        return BAD_INPUT


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.exit(main())
