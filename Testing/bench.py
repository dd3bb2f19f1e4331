"""Seconds and peak memory of the command line, each stage of it: `make bench`.

    make demo && make bench                            the demo patient
    make bench ARGS="--case big.nii.gz"                and a large case, for instance one of 512 x 512 x 512 voxels
    make bench ARGS="--against COMMIT --times 5"       beside an earlier version, in turns

Each case runs as a process of its own, as a user would run it. Times are also given as multiples of a fixed
computation timed in the same run, which makes figures of different machines comparable. An earlier version is checked
out into a git worktree that is removed afterwards; the versions take turns, and medians are compared. Stages of the two
may be divided differently, and what runs beside another stage counts in both; the wall and processor seconds of the
whole process do not depend on that. Writes bench/bench.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO_INPUTS = ("patient_ct.nrrd", "generated_skull.nrrd")


def reference_seconds() -> float:
    """Seconds of a fixed computation of the pipeline's kind: a distance transform, an FFT and a matrix product."""
    import numpy as np
    from scipy import fft, ndimage

    rng = np.random.default_rng(0)
    grid = np.linalg.norm(np.indices((96, 96, 96)) - 48, axis=0)
    signal = rng.random((128, 128, 128), np.float32)
    matrix = rng.random((1500, 1500), np.float32)

    def once() -> float:
        start = time.perf_counter()
        ndimage.distance_transform_edt(grid < 40)
        fft.rfftn(signal)
        matrix @ matrix
        return time.perf_counter() - start

    once()
    return statistics.median(once() for _ in range(5))


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A checkout of a commit in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder) / "earlier"
        made = subprocess.run(
            ["git", "-C", ROOT, "worktree", "add", "--detach", checkout, commit],
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        if made.returncode:
            raise SystemExit(
                f"'{commit}' cannot be checked out: {(made.stderr.strip() or 'no message').splitlines()[-1]}"
            )
        try:
            yield checkout
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", checkout], check=False)


def environment_of(checkout: Path) -> dict[str, str]:
    """The environment in which a checkout's library is imported."""
    paths = filter(None, [str(checkout), os.environ.get("PYTHONPATH")])
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def run_case(path: Path, output: Path, extra: list[str], checkout: Path = ROOT) -> dict:
    """Complete one case in a child process: wall and processor seconds, peak memory in MiB, seconds of each stage."""
    command = [sys.executable, "-m", "SkullVAELib", "complete", str(path), "-o", str(output.resolve()), *extra]
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=said, stderr=said, env=environment_of(checkout), cwd=checkout)
        peak_mib = processor_seconds = None
        if hasattr(os, "wait4"):
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            # Linux counts in KiB, macOS in bytes.
            peak_mib = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
            processor_seconds = usage.ru_utime + usage.ru_stime
        else:
            child.wait()
        wall = time.perf_counter() - start
        said.seek(0)
        text = said.read().strip()
    result = {
        "input": path.name,
        "exit_code": child.returncode,
        "wall_seconds": wall,
        "processor_seconds": processor_seconds,
        "peak_mib": peak_mib,
    }
    if child.returncode not in (0, 3):
        return {**result, "error": text.splitlines()[-1] if text else "no message"}
    seconds = json.loads((output / "report.json").read_text(encoding="utf-8"))["seconds"]
    # What the goal counts: everything after the model is in memory, and reading the file.
    libraries = seconds.get("load libraries", 0.0) + seconds.get("load model", 0.0)
    return {**result, "seconds": seconds, "seconds_without_loading": seconds["total"] - libraries}


def median_run(runs: list[dict]) -> dict:
    """The median of every number of several runs of a case; the first that failed, where one failed."""
    failed = next((run for run in runs if "error" in run), None)
    if failed is not None or len(runs) == 1:
        return failed or runs[0]
    stages = dict.fromkeys(stage for run in runs for stage in run["seconds"])
    numbers = ("wall_seconds", "processor_seconds", "peak_mib", "seconds_without_loading")
    return (
        runs[0]
        | {name: statistics.median(run[name] for run in runs) for name in numbers if runs[0][name] is not None}
        | {"seconds": {s: statistics.median(run["seconds"].get(s, 0.0) for run in runs) for s in stages}}
        | {"runs": len(runs)}
    )


def comparison(now: dict, earlier: dict) -> str:
    """Three columns: now, earlier, and their ratio, of each stage and of the whole process."""
    rows = [["seconds", "now", "earlier", "ratio"]]
    stages = list(dict.fromkeys([*earlier.get("seconds", {}), *now.get("seconds", {})]))
    lines = [(stage, now["seconds"].get(stage), earlier["seconds"].get(stage), 2) for stage in stages]
    for label, key, digits in (
        ("total without loading", "seconds_without_loading", 2),
        ("wall", "wall_seconds", 2),
        ("processor", "processor_seconds", 2),
        ("peak memory, MiB", "peak_mib", 0),
    ):
        lines.append((label, now[key], earlier[key], digits))
    for label, a, b, digits in lines:
        ratio = a / b if a is not None and b else None
        rows.append([label, _number(a, digits), _number(b, digits), _number(ratio, 2)])
    return _aligned(rows)


def table(results: dict[str, dict], reference: float) -> str:
    """One column a case: seconds of each stage, totals, memory."""
    stages = list(dict.fromkeys(stage for result in results.values() for stage in result.get("seconds", {})))
    rows = [["seconds", *results]]
    for stage in stages:
        rows.append([stage, *(_number(result.get("seconds", {}).get(stage), 2) for result in results.values())])
    for label, key, digits in (
        ("total without loading", "seconds_without_loading", 2),
        ("wall", "wall_seconds", 2),
        ("peak memory, MiB", "peak_mib", 0),
    ):
        rows.append([label, *(_number(result.get(key), digits) for result in results.values())])
    walls = (_number(result["wall_seconds"] / reference, 1) for result in results.values())
    rows.append([f"wall / reference ({reference:.3f} s)", *walls])
    return _aligned(rows)


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join((row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))))
        for row in rows
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def main() -> int:
    """Run the cases, print the table, write the JSON; 1 when a case failed or there was none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, metavar="FILE", help="demo input (default: that of `make demo`)")
    parser.add_argument("--case", type=Path, metavar="FILE", action="append", default=[], help="a further case")
    parser.add_argument("--output", type=Path, metavar="DIR", default=ROOT / "bench", help="default: bench/")
    parser.add_argument("--against", metavar="COMMIT", help="an earlier version to run in turns with this one")
    parser.add_argument(
        "--times", type=int, default=1, metavar="N", help="runs of each case, of which medians are taken"
    )
    parser.add_argument("rest", nargs="*", metavar="-- OPTION", help="options passed to `complete`, after --")
    options = parser.parse_args()

    demo = options.demo or next((ROOT / "demo" / n for n in DEMO_INPUTS if (ROOT / "demo" / n).is_file()), None)
    cases = {}
    if demo is None:
        print("The demo case is skipped: run `make demo` first, or name a file with --demo.")
    else:
        cases["demo"] = demo
    if not options.case:
        print("The 512 x 512 x 512 case is skipped: name a file with --case (make bench ARGS='--case FILE').")
    for path in options.case:
        cases[path.name.split(".")[0]] = path
    if not cases:
        return 1

    options.output.mkdir(parents=True, exist_ok=True)
    reference = reference_seconds()
    results: dict[str, dict] = {}
    earlier: dict[str, dict] = {}
    with worktree(options.against) if options.against else nullcontext() as checkout:
        for name, path in cases.items():
            print(f"Completing {path} ...", flush=True)
            runs: dict[str, list[dict]] = {"": [], "earlier": []}
            for _ in range(options.times):
                runs[""].append(run_case(path.resolve(), options.output / name, options.rest))
                if checkout is not None:
                    folder = options.output / f"{name}_earlier"
                    runs["earlier"].append(run_case(path.resolve(), folder, options.rest, checkout))
            results[name] = median_run(runs[""])
            if checkout is not None:
                earlier[name] = median_run(runs["earlier"])
            for result in (results[name], earlier.get(name, {})):
                if "error" in result:
                    print(f"  failed: {result['error']}")
    data = {
        "reference_seconds": reference,
        "machine": {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()},
        "options": options.rest,
        "cases": {
            name: {**result, "wall_relative": result["wall_seconds"] / reference} for name, result in results.items()
        },
        "against": options.against,
        "earlier": earlier,
    }
    (options.output / "bench.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    print(table(results, reference))
    for name, before in earlier.items():
        if "error" not in before and "error" not in results[name]:
            print(f"\n{name}, beside {options.against} (n = {options.times})\n{comparison(results[name], before)}")
    return int(any("error" in result for result in [*results.values(), *earlier.values()]))


if __name__ == "__main__":
    sys.exit(main())
