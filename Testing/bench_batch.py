"""Cases per core-hour of `skullvae batch` on one core and on two: `make bench-batch`.

    make demo && make bench-batch                      copies of the demo patient
    make bench-batch ARGS="--case FILE --count 8"      of another case, more of them
    make bench-batch ARGS="--against COMMIT"           beside an earlier version, in turns

One worker on one core and two workers on two complete the same cases, in turns, as a user would start them; the cores
are the only ones that the command may use (where the system can hold it to them). The ratios tell what is lost by
working side by side, and are comparable between machines; where other work holds the cores, only that of the processor
seconds means something. Writes bench/batch.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from bench import DEMO_INPUTS, ROOT, environment_of, worktree

CORES = (1, 2)


def processor_seconds() -> float:
    """Of this process's children that have ended, and theirs."""
    times = os.times()
    return times.children_user + times.children_system


def run_cohort(cohort: Path, output: Path, cores: int, checkout: Path = ROOT) -> tuple[float, float]:
    """Complete a list of cases on so many cores with a worker each; wall and processor seconds of the whole command."""
    command = [sys.executable, "-m", "SkullVAELib", "batch", str(cohort.resolve()), "-o", str(output.resolve())]
    command += ["--again", "--workers", str(cores)]
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        if before is not None:
            os.sched_setaffinity(0, sorted(before)[:cores])
        start, used = time.perf_counter(), processor_seconds()
        subprocess.run(command, env=environment_of(checkout), check=True, stdout=subprocess.DEVNULL, cwd=checkout)
        return time.perf_counter() - start, processor_seconds() - used
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)


def main() -> int:
    """Run, print the table, write the JSON; 1 when there was no case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", type=Path, metavar="FILE", help="default: that of `make demo`")
    parser.add_argument("--count", type=int, metavar="N", default=4, help="copies of it (default 4)")
    parser.add_argument("--against", metavar="COMMIT", help="an earlier version to run in turns with this one")
    parser.add_argument("--turns", type=int, metavar="N", default=2, help="how often each is measured (default 2)")
    parser.add_argument("--output", type=Path, metavar="DIR", default=ROOT / "bench", help="default: bench/")
    options = parser.parse_args()

    case = options.case or next((ROOT / "demo" / n for n in DEMO_INPUTS if (ROOT / "demo" / n).is_file()), None)
    if case is None:
        print("There is no demo case: run `make demo` first, or name a file with --case.")
        return 1
    folder = options.output / "batch"
    folder.mkdir(parents=True, exist_ok=True)
    cohort = folder / "cohort.csv"
    lines = [f'"{case.resolve()}",copy_{number}' for number in range(options.count)]
    cohort.write_text("\n".join(["path,name", *lines]) + "\n", encoding="utf-8")

    seconds: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with worktree(options.against) if options.against else nullcontext() as earlier:
        versions = {"": ROOT} | ({} if earlier is None else {"earlier": earlier})
        for _ in range(options.turns):
            for cores in CORES:
                for name, checkout in versions.items():
                    taken = run_cohort(cohort, folder / f"results{name}", cores, checkout)
                    seconds.setdefault((name, cores), []).append(taken)
    contents: dict[str, dict[int, dict]] = {name: {} for name in versions}
    for (name, cores), runs in seconds.items():
        rates = [3600 * options.count / (wall * cores) for wall, _ in runs]
        used = statistics.median(processor for _, processor in runs) / options.count
        contents[name][cores] = {"cases_per_core_hour": rates, "processor_seconds_a_case": used}
        print(
            f"{name or 'now':8} {cores} core(s), {cores} worker(s): {statistics.median(rates):.0f} cases per core-hour"
            f" ({', '.join(f'{rate:.0f}' for rate in rates)}), {used:.1f} processor seconds a case"
        )
    content = contents[""]
    for cores, before in contents.get("earlier", {}).items():
        now, then = (statistics.median(one["cases_per_core_hour"]) for one in (content[cores], before))
        less = content[cores]["processor_seconds_a_case"] / before["processor_seconds_a_case"]
        print(f"{cores} worker(s): {now / then:.2f} times the cases per core-hour, {less:.2f} of the processor seconds")
    few, many = (statistics.median(content[cores]["cases_per_core_hour"]) for cores in CORES)
    spent = content[CORES[0]]["processor_seconds_a_case"] / content[CORES[1]]["processor_seconds_a_case"]
    print(f"two by one: {many / few:.2f} of the cases per core-hour, {spent:.2f} of the cases per processor second")
    data = {
        "case": case.name,
        "count": options.count,
        "machine": {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()},
        "workers": content,
        "against": options.against,
        "earlier": contents.get("earlier"),
        "ratio": many / few,
        "ratio_by_processor": spent,
    }
    (options.output / "batch.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
