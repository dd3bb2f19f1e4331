"""Seconds from the click on "Complete skull" to the implant in the scene, with and without preloaded libraries.

    python Testing/bench_panel.py demo/patient_ct.nrrd

The logic of the panel completes the CT in the test environment of Slicer, with the options of the panel. Runs with and
without a process that has loaded the libraries before take turns. Needs Linux, whose /proc states the processor seconds
of a running process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import slicer_standin

slicer_standin.prepare()

from SkullVAEModule import preloading  # noqa: E402
from SkullVAEModule.completion import RunSettings  # noqa: E402
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402
from slicer_scenes import addVolume  # noqa: E402

from SkullVAELib.geometry.volume import Volume  # noqa: E402
from SkullVAELib.io.images import read_volume  # noqa: E402

_PANEL_SECONDS = 0.1  # the panel polls this often
_ROWS = {"computes": "click to the stage 'bone', wall", "wall": "click to the implant, wall"}
_ROWS["processor"] = "click to the implant, processor"


def processor_seconds(pid: int) -> float:
    """Of a running process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def run_once(volume: Volume, preloaded: bool) -> dict[str, float]:
    """Seconds of one run, see `_ROWS`; processor seconds are those of the child, after the click."""
    slicer_standin.newScene()
    node = addVolume(volume.array, volume.affine)
    settings = RunSettings(device="cpu", clearance=0.3)
    logic = SkullVAELogic()
    before = 0.0
    if preloaded:
        logic.preload(settings)
        process = logic._preloader._process
        if process is None:
            raise SystemExit("No process was preloaded: packages are missing")
        while "ready" not in (Path(process.temporary.name) / "stdout.txt").read_text(encoding="utf-8"):
            if not process.usable:
                raise SystemExit(f"The process has ended: {process.child.lastErrorLine}")
            time.sleep(_PANEL_SECONDS)
        before = processor_seconds(process.child._process.pid)
    click = time.perf_counter()
    computes = None
    logic.start(node, "", settings)
    while logic.poll():
        if computes is None and logic.stage == "bone":
            computes = time.perf_counter() - click
        time.sleep(_PANEL_SECONDS)
    wall = time.perf_counter() - click
    if logic.added is None or computes is None:
        raise SystemExit("No defect was found: choose another CT")
    used = processor_seconds(logic._session.child._process.pid) - before
    logic.closeSession()
    return {"computes": computes, "wall": wall, "processor": used}


def main() -> int:
    """Print the medians without and with preloading, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    os.environ[preloading.SWITCH] = "1"
    volume = read_volume(options.image)
    rows: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for _ in range(options.times):
        for preloaded, runs in rows.items():
            runs.append(run_once(volume, preloaded))
            print("preloaded" if preloaded else "not preloaded", runs[-1], file=sys.stderr)
    print(f"{'median seconds':36} {'without':>8} {'preloaded':>9} {'ratio':>6}   n = {options.times} each")
    for key, name in _ROWS.items():
        without, preloaded = (statistics.median(run[key] for run in rows[which]) for which in (False, True))
        print(f"{name:36} {without:8.2f} {preloaded:9.2f} {preloaded / without:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
