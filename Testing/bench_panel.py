"""Seconds from the click on "Complete skull" to the implant in the scene, with and without preloaded libraries.

    python Testing/bench_panel.py demo/patient_ct.nrrd
    python Testing/bench_panel.py demo/patient_ct.nrrd --against COMMIT      beside an earlier version, in turns

The logic of the panel completes the CT in the test environment of Slicer, with the options of the panel. Each run is a
process of its own, and runs with and without a process that has loaded the libraries before take turns. Needs Linux,
whose /proc states the processor seconds of a running process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PANEL_SECONDS = 0.1  # the panel polls this often
_ROWS = {"computes": "click to the stage 'bone', wall", "wall": "click to the implant, wall"}
_ROWS["processor"] = "click to the implant, processor"


def processor_seconds(pid: int) -> float:
    """Of a running process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def run_once(image: Path, preloaded: bool) -> dict[str, float]:
    """Seconds of one run, see `_ROWS`; processor seconds are those of the child, after the click."""
    import slicer_standin

    slicer_standin.prepare()
    from SkullVAEModule.completion import RunSettings
    from SkullVAEModule.logic import SkullVAELogic
    from slicer_scenes import addVolume

    from SkullVAELib.io.images import read_volume

    volume = read_volume(image)
    slicer_standin.newScene()
    node = addVolume(volume.array, volume.affine)
    settings = RunSettings(device="cpu", clearance=0.3)
    logic = SkullVAELogic()
    before = 0.0
    if preloaded:
        from SkullVAEModule import preloading

        os.environ[preloading.SWITCH] = "1"
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


def in_process(image: Path, kind: str, checkout: Path) -> dict[str, float]:
    """`run_once` with the code of a checkout."""
    paths = [str(checkout / part) for part in ("Testing", "SkullVAE", ".")]
    # -P: without the folder of this file, which belongs to the present version.
    command = [sys.executable, "-P", __file__, str(image.resolve()), "--one", kind]
    said = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "QT_QPA_PLATFORM": "offscreen"},
        cwd=checkout,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    if said.returncode:
        raise SystemExit(f"A run failed with exit code {said.returncode}")
    return json.loads(said.stdout.splitlines()[-1])


def main() -> int:
    """Print the medians without and with preloading, and of an earlier version, and the ratios to those with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--against", metavar="COMMIT", help="an earlier version to run in turns with this one")
    parser.add_argument("--one", choices=("earlier", "without", "preloaded"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_once(options.image, options.one == "preloaded")))
        return 0
    from bench import worktree

    kinds = ["without", "preloaded"]
    rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in [*(["earlier"] if options.against else []), *kinds]}
    with worktree(options.against) if options.against else nullcontext() as earlier:
        for _ in range(options.times):
            for kind, runs in rows.items():
                runs.append(in_process(options.image, kind, earlier if kind == "earlier" and earlier else ROOT))
                print(kind, runs[-1], file=sys.stderr)
    print(
        f"{'median seconds':36} "
        + " ".join(f"{kind:>9} {'ratio':>6}" for kind in rows)
        + f"   n = {options.times} each"
    )
    for key, name in _ROWS.items():
        medians = {kind: statistics.median(run.get(key, float("nan")) for run in runs) for kind, runs in rows.items()}
        columns = (f"{value:9.2f} {medians['preloaded'] / value:6.2f}" for value in medians.values())
        print(f"{name:36} " + " ".join(columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
