"""Seconds from the start of `skullvae complete` until it computes, beside other checkouts.

    git worktree add ../before v0.1.0
    python Testing/bench_loading.py demo/patient_ct.nrrd --against ../before

Start of Python, libraries, reading of the file and model: everything before the stage "bone". The checkouts take turns.
Needs Linux, whose /proc states the processor seconds of a running process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def load_once(checkout: Path, image: Path) -> tuple[float, float]:
    """Processor seconds (user and system) and wall seconds of one start, which is then ended."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "SkullVAELib", "complete", str(image.resolve()), "-o", f"{folder}/out"]
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        start = time.perf_counter()
        with subprocess.Popen(
            [*command, "--progress", "json"],
            stdout=subprocess.PIPE,
            env=environment,
            cwd=folder,
            text=True,
            encoding="utf-8",
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if json.loads(line)["stage"] == "bone":
                    wall = time.perf_counter() - start
                    fields = Path(f"/proc/{child.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                    child.terminate()
                    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK"), wall
    raise SystemExit(f"{checkout}: skullvae complete ended before the stage 'bone'")


def main() -> int:
    """Print median and minimum for each checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--against", type=Path, action="append", default=[], metavar="CHECKOUT")
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    checkouts = [ROOT, *(path.resolve() for path in options.against)]
    seconds: dict[Path, list[tuple[float, float]]] = {checkout: [] for checkout in checkouts}
    for _ in range(options.times):
        for checkout in checkouts:
            seconds[checkout].append(load_once(checkout, options.image))
    for checkout, values in seconds.items():
        for name, column in zip(("processor", "wall"), zip(*values, strict=True), strict=True):
            print(
                f"{checkout.name:20} {name:10} median {statistics.median(column):6.2f} s, least {min(column):6.2f} s,"
                f" n = {len(column)}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
