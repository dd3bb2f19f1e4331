"""Tabs, flange, fit ring and template of completed cases, measured on the meshes and the bone's voxels.

    python Testing/benchmark/additions.py CASE.pkl ... > table.md

A case is a pickle of {"volume": Volume, "completion": Completion}. One row is printed for each case and part. The
checks are `mesh_check`, a dense sampling of the bone's surface for gaps, and single voxels for the bone below screws.
"""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path

import numpy as np
import trimesh
from scipy.spatial import cKDTree

sys.path.insert(0, str(Path(__file__).parents[1]))

from mesh_check import faults

from SkullVAELib.geometry.volume import Volume
from SkullVAELib.implant.implant_mesh import local_bone, make_implant
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.implant.tooling import ToolingInputs, ToolingOptions, make_tooling
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.report.result_files import RunResult

CLEARANCE_MM = 0.5
REQUESTS = {
    "tabs": {"tabs": "4", "engrave": "SN-0042"},
    "flange": {"flange": "8,1,6"},
}
PARTS = {"fit ring": ToolingOptions(ring_mm=15.0), "template": ToolingOptions(template_mm=15.0)}


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.points, mesh.faces, process=False)


def smallest_gap(mesh: Mesh, surface: trimesh.Trimesh) -> float:
    """Least distance in mm of the mesh's points to points of the bone's surface, about ten in a square millimetre."""
    near = cKDTree(mesh.points).query(surface.triangles_center, distance_upper_bound=3.0)[0] < np.inf
    part = surface.submesh([near], append=True)
    cloud = trimesh.sample.sample_surface(part, int(10 * part.area), seed=0)[0]
    return float(cKDTree(cloud).query(mesh.points, distance_upper_bound=3.0)[0].min())


def voxels_below(bone: Volume, screw: dict) -> float:
    """Bone in mm along a screw's axis by the nearest voxels, up to the first gap of more than 2 mm."""
    places = np.arange(-1.0, 20.0, 0.05)
    points = np.array(screw["at_mm"]) + places[:, None] * np.array(screw["direction"])
    index = np.round(points @ np.linalg.inv(bone.affine)[:3, :3].T + np.linalg.inv(bone.affine)[:3, 3]).astype(int)
    inside = ((index >= 0) & (index < bone.array.shape)).all(1)
    inside[inside] = bone.array[tuple(index[inside].T)]
    total, gap, started = 0.0, 0.0, False
    for solid in inside:
        started |= bool(solid)
        gap = 0.0 if solid else gap + 0.05
        if started and gap > 2.0:
            break
        total += 0.05 * solid
    return total


def main(paths: list[str]) -> None:
    print("| case | part | defects | screws | bone below, least (voxels), mm | gap, least, mm | faults | s |")
    print("|---|---|---|---|---|---|---|---|")
    for path in paths:
        with open(path, "rb") as file:
            case = pickle.load(file)
        completion = case["completion"]
        plain = ImplantOptions.parse(clearance=CLEARANCE_MM)
        grey = RunResult.of(completion, plain, (), "case", "model").grey
        around = local_bone(completion, plain, grey, 25.0)
        surface = as_trimesh(around.mesh)
        name = Path(path).stem
        warnings = []
        for request, values in REQUESTS.items():
            start = time.process_time()
            made = make_implant(completion, ImplantOptions.parse(clearance=CLEARANCE_MM, **values), grey)
            seconds = time.process_time() - start
            found = [fault for piece in made.pieces for fault in faults(as_trimesh(piece.mesh))]
            screws = [screw for piece in made.pieces for screw in piece.figures["screws"]]
            bone = min((voxels_below(completion.bone, screw) for screw in screws), default=np.nan)
            gap = smallest_gap(made.mesh, surface)
            asked = len(made.pieces) * int(values.get("tabs", "6"))
            print(
                f"| {name} | {request} | {len(made.pieces)} | {len(screws)} of {asked} | {bone:.1f} | {gap:.2f} |"
                f" {'; '.join(found) or 'none'} | {seconds:.1f} |",
                flush=True,
            )
            warnings += made.warnings
        printable = make_implant(completion, plain, grey)
        inputs = ToolingInputs(completion, printable, plain, grey)
        for kind, options in PARTS.items():
            start = time.process_time()
            tooling = make_tooling(inputs, options)
            seconds = time.process_time() - start
            found = [fault for mesh in tooling.parts.values() for fault in faults(as_trimesh(mesh))]
            gap = "-"
            if kind == "fit ring":
                parts = [as_trimesh(mesh) for mesh in tooling.parts.values()]
                gap = f"{smallest_gap(printable.mesh, trimesh.util.concatenate(parts)):.2f}"
            print(
                f"| {name} | {kind} | {len(tooling.parts)} | - | - | {gap} | {'; '.join(found) or 'none'} |"
                f" {seconds:.1f} |",
                flush=True,
            )
            warnings += tooling.warnings
        for warning in warnings:
            print(f"{name}: {warning}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
