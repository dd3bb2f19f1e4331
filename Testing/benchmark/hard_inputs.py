"""Hard inputs and how they are answered: right, explained, wrong in silence, or an internal error.

    python Testing/benchmark/hard_inputs.py OUT --skulls FOLDER [--patient CT] [--only KIND,...] [--most N] [--jobs 1]
        [--resume]

Makes each input of hard/kinds.py from complete skulls, completes it by the command line, and judges the answer:

    right             the implant is right, and what has to be said is said
    explained         it is not, but a warning or the refusal names the cause, or the self-check rates it poor
    refused           the refusal names the cause, but this input has to be completed
    WRONG IN SILENCE  neither
    internal error    a traceback, an unexpected exception, another exit code, or no end in time

FOLDER has the complete skulls; the real craniotomy is looked for in `defective` beside it. Kinds without their skulls
are skipped. OUT/hard_inputs.json has for each case the exit code, DSC, errors of the implant's surfaces in mm,
warnings, the ratings of the report's checks and seconds; it is written after every case, and --resume goes on with it.
Inputs and results are kept where the answer is neither right nor explained, or with --keep. Exit code: 0 if every
answer is right or explained, 1 otherwise, 2 for bad arguments.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tiny import ROOT, environment

from benchmark import contest
from benchmark.hard import judge
from benchmark.hard.judge import INTERNAL, OUTCOMES, REFUSED, RIGHT, SILENT, TOLD, Answer
from benchmark.hard.kinds import KINDS, HardInput, Skulls
from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.exit_codes import DONE, NO_DEFECT
from SkullVAELib.core.files import as_json_text
from SkullVAELib.io.images import read_volume

SECONDS = 900
"""A run that takes longer has not ended in time."""

ACCEPTABLE = (RIGHT, TOLD)


@dataclass(frozen=True)
class Case:
    """One variant of a kind, and where it is made."""

    kind: str
    variant: str
    skulls: Skulls
    output: Path
    keep: bool = False

    @property
    def key(self) -> str:
        return f"{self.kind}: {self.variant}"

    @property
    def folder(self) -> Path:
        return self.output / self.kind / "".join(c if c.isalnum() or c in "-." else "_" for c in self.variant)


def run(case: Case) -> dict:
    """Make, complete and judge one case: its record."""
    record: dict = {"kind": case.kind, "variant": case.variant}
    try:
        made = KINDS[case.kind].input(case.skulls, case.variant)
    except FileNotFoundError as error:
        return record | {"outcome": "skipped", "note": str(error)}
    shutil.rmtree(case.folder, ignore_errors=True)
    case.folder.mkdir(parents=True)
    path = made.write(case.folder)
    start = time.perf_counter()
    answer = answered(path, made.arguments, case.folder / "out")
    record |= {"seconds": round(time.perf_counter() - start, 1)} | judged(answer, made)
    (case.folder / "stderr.txt").write_text(answer.stderr, encoding="utf-8")
    if record["outcome"] in ACCEPTABLE and not case.keep:
        shutil.rmtree(case.folder)
    return record


def answered(path: Path, arguments: Sequence[str], output: Path) -> Answer:
    """What `skullvae complete` answers."""
    command = [sys.executable, "-m", "SkullVAELib", "complete", str(path), "-o", str(output), *arguments]
    try:
        process = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            errors="replace",
            encoding="utf-8",
        )
    except subprocess.TimeoutExpired:
        return Answer(None, f"no end within {SECONDS} s")
    report, implant, mesh = {}, None, None
    if process.returncode in (DONE, NO_DEFECT):
        report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    if process.returncode == DONE:
        voxels = read_volume(output / "implant.nrrd")
        implant = voxels.with_array(voxels.array != 0)
        if (output / "implant.stl").is_file():
            mesh = judge.read_stl(output / "implant.stl")
    return Answer(process.returncode, process.stderr, report, implant, mesh)


def judged(answer: Answer, made: HardInput) -> dict:
    """The record of an answer."""
    expected = made.expected
    outcome, note = judge.judge(answer, expected)
    checks = answer.report.get("checks") or {}
    record = {
        "outcome": outcome,
        "note": note,
        "exit_code": answer.exit_code,
        "dsc": None if expected.truth is None else round(judge.dsc(expected.truth, answer.implant), 4),
        "truth_ml": None if expected.bone is None else round(judge.volume_ml(expected.bone), 1),
        "implant_ml": None if answer.implant is None else round(judge.volume_ml(answer.implant), 1),
        "quality": answer.report.get("quality", {}).get("score"),
        "rating": checks.get("rating"),
        "checks": {check["name"]: check["rating"] for check in checks.get("checks", ())},
        "warnings": answer.report.get("warnings", []),
        "stderr": answer.stderr.strip()[-500:] if answer.exit_code not in (DONE, NO_DEFECT) else "",
    }
    if expected.bone is not None and expected.centre is not None and answer.mesh is not None:
        record |= judge.surface_errors(expected.bone, answer.mesh, np.asarray(expected.centre))
    return record


def cases_of(arguments: argparse.Namespace) -> list[Case]:
    """The cases to run: the first variants of all kinds, then the second ones. Raises SkullVAEError for an unknown
    kind.
    """
    chosen = [name for name in arguments.only.split(",") if name] or list(KINDS)
    if unknown := sorted(set(chosen) - set(KINDS)):
        raise SkullVAEError(f"There is no kind '{unknown[0]}'", f"Choose from {', '.join(KINDS)}")
    skulls = Skulls(arguments.skulls, arguments.patient)
    numbered = [(n, name, variant) for name in chosen for n, variant in enumerate(KINDS[name].variants)]
    return [
        Case(name, variant, skulls, arguments.output, arguments.keep)
        for n, name, variant in sorted(numbered, key=lambda entry: entry[0])
        if arguments.most is None or n < arguments.most
    ]


def table(records: Sequence[dict]) -> str:
    """The cases one a line, and the number of each outcome by kind."""
    form = "{:<17} {:>5} {:>6} {:>6} {:>6} {:>6} {:<11} {:>5}  {}"
    lines = [form.format("outcome", "DSC", "outer", "p95", "inner", "p95", "rating", "s", "case")]
    lines += [
        form.format(
            record["outcome"],
            *(
                "" if record.get(name) is None else f"{record[name]:.2f}"
                for name in ("dsc", "outer_mean_mm", "outer_p95_mm", "inner_mean_mm", "inner_p95_mm")
            ),
            record.get("rating") or "",
            "" if record.get("seconds") is None else f"{record['seconds']:.0f}",
            f"{record['kind']}: {record['variant']}" + (f" ({record['note']})" if record["note"] else ""),
        ).rstrip()
        for record in records
    ]
    lines.append("")
    for kind in dict.fromkeys(record["kind"] for record in records):
        counts = Counter(record["outcome"] for record in records if record["kind"] == kind)
        lines.append(
            f"{kind}: " + ", ".join(f"{counts[name]} {name}" for name in (*OUTCOMES, "skipped") if counts[name])
        )
    counts = Counter(record["outcome"] for record in records)
    lines.append(f"all {len(records)}: " + ", ".join(f"{n} {name}" for name, n in counts.most_common()))
    misrated = [r for r in records if r.get("rating") == "good" and r["outcome"] not in (*ACCEPTABLE, "skipped")]
    lines.append(f"rated good by the self-check, although neither right nor explained: {len(misrated)}")
    return "\n".join(lines)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUT", type=Path, help="folder for inputs, results and hard_inputs.json")
    parser.add_argument("--skulls", type=Path, required=True, help="folder of complete skulls")
    parser.add_argument("--patient", type=Path, help="CT of a real patient, such as the demo's")
    parser.add_argument("--only", default="", metavar="KIND,...", help=f"kinds to run: {', '.join(KINDS)}")
    parser.add_argument("--most", type=int, metavar="N", help="at most N variants of each kind; default all")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time (default 1)")
    parser.add_argument("--resume", action="store_true", help="keep the records that OUT has, and run the others")
    parser.add_argument("--keep", action="store_true", help="keep all inputs and results")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 all right or explained, 1 not, 2 bad arguments."""
    arguments = parse(argv)
    try:
        cases = cases_of(arguments)
    except SkullVAEError as error:
        print(f"hard_inputs.py: {error}", file=sys.stderr)
        return 2
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / "hard_inputs.json"
    kept: dict[str, dict] = {}
    if arguments.resume and file.is_file():
        kept = {
            f"{r['kind']}: {r['variant']}": r
            for r in json.loads(file.read_text(encoding="utf-8"))
            if r["outcome"] != "skipped"
        }

    def keep(record: dict, fraction: float) -> None:
        kept[f"{record['kind']}: {record['variant']}"] = record
        with atomic_file(file) as temporary:
            temporary.write_text(as_json_text(list(kept.values())), encoding="utf-8")
        said = f"{record['kind']}: {record['variant']} {record['note']}"
        print(f"{fraction:4.0%} {record['outcome']:<17} {said}", file=sys.stderr, flush=True)

    contest.each(run, [case for case in cases if case.key not in kept], arguments.jobs, keep)
    records = [kept[case.key] for case in cases]
    print(table(records))
    return int(any(record["outcome"] in (SILENT, INTERNAL, REFUSED) for record in records))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
