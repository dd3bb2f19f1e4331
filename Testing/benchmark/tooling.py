"""Measures moulds and insertion on completed cases, and prints the tables of Docs/how-to/mould.md and printing.md.

    python Testing/benchmark/tooling.py FOLDER [NAME ...]

FOLDER has NAME.pkl, each a pickled dict with the "volume" that was completed and its "completion". Read only files that
you wrote yourself: a pickle can run code. Seconds are processor time.
"""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path

import numpy as np
import trimesh

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from mesh_check import faults

from SkullVAELib.implant.implant_mesh import local_bone
from SkullVAELib.implant.mould import Mould, mould_of
from SkullVAELib.implant.options import ImplantOptions
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


def least_on_the_way(result: RunResult, mesh: Mesh, direction: np.ndarray) -> float:
    """Least distance in mm between the moved mesh and the bone's surface, in steps of 0.5 mm, up to 60 mm."""
    bone = local_bone(result.completion, result.options, result.grey)
    points = mesh.points[:: max(1, len(mesh.points) // 4000)]
    least = np.inf
    for along in np.arange(0.0, 60.0, 0.5):
        moved = points - along * direction
        near = moved[(bone.nearby(moved, 3.0) < np.inf) | bone.in_bone(moved)]
        if len(near):
            least = min(least, float(bone.signed(near).min()))
    return least


def rows(path: Path) -> tuple[str, str]:
    """The rows of a case in the two tables."""
    case = pickle.loads(path.read_bytes())
    options = ImplantOptions(clearance_mm=CLEARANCE_MM)
    result = RunResult.of(case["completion"], case["volume"], options, (), path.stem, "model")
    start = time.process_time()
    plain = result.with_implant().printable
    first = time.process_time()
    asked = result.with_implant(insertion=True).printable
    second = time.process_time()
    cut = result.with_implant(ImplantOptions(clearance_mm=CLEARANCE_MM, insertable_mm=3.0)).printable
    before, after = (printable.pieces[0].figures["insertion"] for printable in (asked, cut))
    direction = np.array(after["direction"])
    removed = after["removed"]
    gap = f"{removed['mean_mm']} / {removed['max_mm']}, {removed['area_mm2']:.0f}" if removed["max_mm"] else "-"
    insertion = (
        f"| {path.stem} | {before['angle_degrees']:.0f} | {'yes' if before['insertable'] else 'no'} |"
        f" {before['blocked_mm2']:.0f} | {before['undercut_mm']:.1f} |"
        f" {'yes' if after['insertable'] else 'no'} | {gap} |"
        f" {least_on_the_way(result, cut.pieces[0].mesh, direction):.2f} | {second - first - (first - start):.1f} |"
    )
    piece = plain.pieces[0].mesh
    start = time.process_time()
    mould = mould_of(piece, -direction, ToolingOptions(mould=True))
    taken = time.process_time() - start
    sound = not any(faults(as_trimesh(half)) for half in (mould.a, mould.b))
    figures, error, pins = mould.figures, mould.figures["cavity_error_mm"], pin_clearance(mould)
    cast = (
        f"| {path.stem} | {'yes' if sound else 'NO'} | {error['p95']:.2f} / {error['max_off_parting']:.2f} /"
        f" {error['max']:.2f} | {len(mould.pins)}: {pins[0]:.2f} to {pins[1]:.2f} |"
        f" {figures['undercut_mm2']:.0f}, {figures['undercut_mm']:.1f} | {figures['overhang_mm2']:.0f} |"
        f" {figures['implant_ml']:.1f} / {figures['cement_ml']:.1f} |"
        f" {' x '.join(f'{side:.0f}' for side in figures['size_mm'])} | {taken:.1f} |"
    )
    return insertion, cast


def main() -> None:
    folder, *names = sys.argv[1:]
    paths = sorted(path for path in Path(folder).glob("*.pkl") if not names or path.stem in names)
    made = []
    for path in paths:
        made.append(rows(path))
        print(*made[-1], sep="\n", flush=True)
    for number in (0, 1):
        print("", *(row[number] for row in made), sep="\n")


if __name__ == "__main__":
    main()
