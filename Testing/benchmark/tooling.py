"""Measures moulds and insertion on completed cases, and prints the tables of Docs/how-to/mould.md and printing.md.

    python Testing/benchmark/tooling.py FOLDER [NAME ...] [--quick]

FOLDER has NAME.pkl, each a pickled dict with the "volume" that was completed and its "completion". Read only files that
you wrote yourself: a pickle can run code. Seconds are processor time.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import trimesh

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from mesh_check import faults

from SkullVAELib.implant.directions import plate_normal
from SkullVAELib.implant.implant_mesh import local_bone, make_implant
from SkullVAELib.implant.mould import Mould, mould_of
from SkullVAELib.implant.options import INSERTABLE_MM, ImplantOptions
from SkullVAELib.implant.tooling import ToolingOptions
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.report.result_files import RunResult

CLEARANCE_MM = 0.5


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.points, mesh.faces, process=False)


def pin_clearance(mould: Mould) -> tuple[float, float]:
    """Least and largest difference in mm between the radii of a socket and of its pin, measured on the meshes."""
    found = []
    for pin in mould.pins:
        radii = []
        for half in (mould.a, mould.b):
            across = np.linalg.norm((half.points @ mould.axes)[:, :2] - pin.at, axis=1)
            upright = np.abs(half.vertex_normals() @ mould.axes[:, 2]) < 0.05
            radii.append(np.median(across[(across < pin.radius + 1) & upright]))
        found.append(radii[1] - radii[0])
    return min(found), max(found)


def least_on_the_way(result: RunResult, mesh: Mesh, direction: np.ndarray, options: ImplantOptions) -> float:
    """Least distance in mm between the moved mesh and the bone's surface, in steps of 0.5 mm, up to 40 mm."""
    bone = local_bone(result.completion, options, result.grey)
    points = mesh.points[:: max(1, len(mesh.points) // 3000)]
    least = np.inf
    for along in np.arange(0.0, 40.0, 0.5):
        moved = points - along * direction
        near = moved[(bone.nearby(moved, 3.0) < np.inf) | bone.in_bone(moved)]
        if len(near):
            least = min(least, float(bone.signed(near).min()))
    return least


def insertion_row(case: Path, result: RunResult) -> str:
    """The row of a case in the table of the insertion, of its implant with a clearance."""
    options = ImplantOptions(clearance_mm=CLEARANCE_MM)
    before = make_implant(result.completion, options, result.grey, insertion=True).pieces[0].figures["insertion"]
    cut = make_implant(result.completion, replace(options, insertable_mm=INSERTABLE_MM), result.grey).pieces[0]
    after, removed = cut.figures["insertion"], cut.figures["insertion"]["removed"]
    gap = f"{removed['mean_mm']:.1f} / {removed['max_mm']:.1f}, {removed['area_mm2']:.0f}"
    least = least_on_the_way(result, cut.mesh, np.array(after["direction"]), options)
    return (
        f"| {case.stem} | {before['angle_degrees']:.0f} | {'yes' if before['insertable'] else 'no'} |"
        f" {before['blocked_mm2']:.0f} | {before['undercut_mm']:.1f} | {'yes' if after['insertable'] else 'no'} |"
        f" {gap if removed['area_mm2'] else '-'} | {least:.2f} |"
    )


def mould_row(case: Path, result: RunResult, judged: bool) -> str:
    """The row of a case in the table of the mould, of its implant with default options."""
    mesh = make_implant(result.completion, ImplantOptions(), result.grey).pieces[0].mesh
    centre = np.linalg.inv(result.completion.proposal.alignment)[:3, 3]
    start = time.process_time()
    mould = mould_of(mesh, plate_normal(mesh, mesh.points.mean(0) - centre), ToolingOptions(mould=True))
    taken = time.process_time() - start
    sound = "-"
    if judged:
        sound = "NO" if any(faults(as_trimesh(half)) for half in (mould.a, mould.b)) else "yes"
    figures, error, pins = mould.figures, mould.figures["cavity_error_mm"], pin_clearance(mould)
    return (
        f"| {case.stem} | {sound} | {error['p95']:.2f} / {error['max']:.2f} | {len(mould.pins)} |"
        f" {pins[0]:.2f} to {pins[1]:.2f} | {figures['undercut_mm2']:.0f}, {figures['undercut_mm']:.1f} |"
        f" {figures['overhang_mm2']:.0f} | {figures['implant_ml']:.1f} / {figures['cement_ml']:.1f} |"
        f" {' x '.join(f'{side:.0f}' for side in figures['size_mm'])} | {taken:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument(
        "--quick", action="store_true", help="do not judge the meshes of the mould, which takes longest"
    )
    options = parser.parse_args()
    made = []
    for path in sorted(options.folder.glob("*.pkl")):
        if options.names and path.stem not in options.names:
            continue
        case = pickle.loads(path.read_bytes())
        result = RunResult.of(case["completion"], ImplantOptions(), (), path.stem, "model")
        made.append((insertion_row(path, result), mould_row(path, result, not options.quick)))
        print(*made[-1], sep="\n", flush=True)
    for number in (0, 1):
        print("", *(row[number] for row in made), sep="\n")


if __name__ == "__main__":
    main()
