"""Whether the part is what was asked for, on real cases: sound meshes, clearance and thickness, measured independently.

    python Testing/part_accuracy.py --data FOLDER_OF_COMPLETE_SKULLS FILE ...
    python Testing/part_accuracy.py --data FOLDER --every --requests "as it is,constant 4"

Cuts defects of Testing/accuracy.py out of complete skulls, six or every one, and takes the files of defective ones as
they are. The clearance is the distance from points all over the part's surface to a dense sampling of the bone's, the
thickness the length of a ray through the triangles (vtkOBBTree); neither shares code with what made the part. As a
second opinion on where the bone's surface is, the distance to the half level of the mask, blurred by 0.7 voxels, is
reported as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import trimesh
from scipy import ndimage
from scipy.spatial import cKDTree
from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
from vtkmodules.vtkCommonCore import vtkIdList, vtkPoints
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
from vtkmodules.vtkFiltersGeneral import vtkOBBTree

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark.cases import PLACES, cut_place, places_of
from benchmark.contest import load_whole
from mesh_check import faults, read

from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.completion.pipeline import complete
from SkullVAELib.completion.result import Completion
from SkullVAELib.core.progress import Stages
from SkullVAELib.data.datasets import find_cases
from SkullVAELib.geometry.grey_levels import GreyLevels
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.implant.implant_mesh import make_implant
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.io.images import read_volume
from SkullVAELib.mesh.files import write_stl
from SkullVAELib.mesh.isosurface import bone_surface, level_surface
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.vae.checkpoint import load_model
from SkullVAELib.vae.default_model import default_model_path

CUTS = (
    ("visible_human", 5),
    ("visible_human", 6),
    ("mgh_angel001", 0),
    ("mgh_angel001", 9),
    ("colin27", 2),
    ("mgh_dca", 7),
)
"""Skull and number of the defect: hemicraniectomy, fronto-orbital, temple, temple box on an oblique grid, frontal blob,
bifrontal."""

REQUESTS = {
    "as it is": ImplantOptions(),
    "clearance 0.3": ImplantOptions(clearance_mm=0.3),
    "clearance 0.5": ImplantOptions(clearance_mm=0.5),
    "clearance 1.0": ImplantOptions(clearance_mm=1.0),
    "constant 3": ImplantOptions(clearance_mm=0.5, thickness="constant", thickness_mm=3.0),
    "constant 4": ImplantOptions(clearance_mm=0.5, thickness="constant", thickness_mm=4.0),
    "constant 4 and holes": ImplantOptions(
        clearance_mm=0.5, thickness="constant", thickness_mm=4.0, hole_diameter_mm=2.0
    ),
}


def cloud_near(surface: Mesh, voxels: np.ndarray, reach_mm: float = 6.0, density: float = 40.0) -> np.ndarray:
    """(N, 3) points all over a surface where it lies within reach_mm of voxels (M, 3): so many a square millimetre."""
    mesh = trimesh.Trimesh(surface.points, surface.faces, process=False)
    near = np.isfinite(cKDTree(voxels).query(mesh.triangles_center, distance_upper_bound=reach_mm)[0])
    piece = mesh.submesh([near], append=True)
    return trimesh.sample.sample_surface(piece, int(density * piece.area), seed=0)[0]


def rays_through(mesh: trimesh.Trimesh, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(N,) mm from points on the surface straight in to where the ray comes out of a face opposite, else NaN."""
    data, places, cells = vtkPolyData(), vtkPoints(), vtkCellArray()
    places.SetData(numpy_to_vtk(np.asarray(mesh.vertices, float), deep=True))
    cells.SetData(3, numpy_to_vtkIdTypeArray(np.asarray(mesh.faces, np.int64).ravel(), deep=True))
    data.SetPoints(places)
    data.SetPolys(cells)
    tree = vtkOBBTree()
    tree.SetDataSet(data)
    tree.BuildLocator()
    out = np.full(len(points), np.nan)
    for number, (point, normal) in enumerate(zip(points, normals, strict=True)):
        hits, ids = vtkPoints(), vtkIdList()
        tree.IntersectWithLine(point - 0.05 * normal, point - 30 * normal, hits, ids)
        if hits.GetNumberOfPoints() and mesh.face_normals[ids.GetId(0)] @ normal < -0.9:
            out[number] = np.linalg.norm(np.array(hits.GetPoint(0)) - point)
    return out


def on_a_face(mesh: trimesh.Trimesh, points: np.ndarray, normals: np.ndarray, reach_mm: float = 2.0) -> np.ndarray:
    """(N,) whether the surface within reach_mm of points faces the same way: no edge and no wall of a hole is near."""
    around = cKDTree(mesh.vertices).query_ball_point(points, reach_mm)
    facing = mesh.vertex_normals
    return np.array([(facing[near] @ normal).min() > 0.8 for near, normal in zip(around, normals, strict=True)])


def measure(completion: Completion, grey: GreyLevels | None, name: str, options: ImplantOptions, clouds: tuple) -> dict:
    """One request on one case: what is wrong with the meshes, clearance and thickness."""
    start = time.perf_counter()
    part = make_implant(completion, options, grey)
    line = {"request": name, "seconds": round(time.perf_counter() - start, 2), "pieces": len(part.pieces)}
    line |= {"warnings": part.warnings, "faults": [], "holes": 0}
    surface, blurred = (cKDTree(cloud) for cloud in clouds)
    gaps, others, thickness = [], [], []
    for piece in part.pieces:
        with tempfile.TemporaryDirectory() as folder:
            write_stl(piece.mesh, Path(folder) / "a.stl")
            mesh = read(Path(folder) / "a.stl")
        line["faults"] += faults(mesh)
        line["holes"] += piece.figures["holes"]
        mesh.vertices *= [-1, -1, 1]
        points, face = trimesh.sample.sample_surface(mesh, 60_000, seed=0)
        points = np.concatenate([points, mesh.vertices])
        gap = surface.query(points, distance_upper_bound=8.0)[0]
        gaps.append(gap)
        others.append(blurred.query(points, distance_upper_bound=8.0)[0])
        inner = np.flatnonzero(gap[: len(face)] > 5.0)[:2000]
        inner = inner[on_a_face(mesh, points[inner], mesh.face_normals[face[inner]])][:400]
        thickness.append(rays_through(mesh, points[inner], mesh.face_normals[face[inner]]))
    if part.pieces:
        gap, other, through = (np.concatenate(values) for values in (gaps, others, thickness))
        wall = gap < options.clearance_mm + 0.3
        line["clearance_min"] = round(float(gap.min()), 3)
        line["clearance_p1"] = round(float(np.percentile(gap[wall], 1)), 3)
        line["clearance_median"] = round(float(np.median(gap[wall])), 3)
        line["other_surface_median"] = round(float(np.median(other[wall])), 3)
        through = through[np.isfinite(through)]
        if options.thickness_mm is not None and len(through):
            error = np.abs(through - options.thickness_mm)
            line["thickness_mean"] = round(float(through.mean()), 3)
            line["thickness_error_p95"] = round(float(np.percentile(error, 95)), 3)
            line["thickness_error_max"] = round(float(error.max()), 3)
            line["rays"] = len(through)
    return line


def run_case(name: str, volume: Volume, model: torch.nn.Module, requests: list[str]) -> list[dict]:
    """Some requests on one volume."""
    completion = complete(volume, model, CompletionOptions(), Stages({}))
    if not completion.found:
        return [{"case": name, "request": "none", "faults": ["no defect found"]}]
    bone, implant = completion.bone, completion.implant
    about = completion.report["bone"]
    grey = GreyLevels.of(volume, bone, about["threshold_hu"]) if about["kind"] == "ct" else None
    box = bounding_box(implant.array, margin=int(np.ceil(12 / bone.spacing.min())))
    local = crop(bone, box)
    voxels = np.argwhere(implant.array) @ implant.affine[:3, :3].T + implant.affine[:3, 3]
    surface = bone_surface(local, None if grey is None else grey.crop(box))
    blurred = local.with_array(ndimage.gaussian_filter(local.array.astype(np.float32), 0.7) - 0.5)
    clouds = cloud_near(surface, voxels), cloud_near(level_surface(blurred, 0.01), voxels)
    return [{"case": name} | measure(completion, grey, request, REQUESTS[request], clouds) for request in requests]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="defective skulls or CTs of patients")
    parser.add_argument("--data", type=Path, help="folder of complete skulls")
    parser.add_argument("--model", type=Path, help="default: the shipped one")
    parser.add_argument("--requests", default=",".join(REQUESTS), help="which, by name, comma-separated; default all")
    parser.add_argument("--every", action="store_true", help="every defect of the benchmark in place of six")
    parser.add_argument("--output", type=Path, default=Path("bench/part_accuracy.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(arguments.model or default_model_path())
    jobs = [(file.name.split(".")[0], file, None) for file in arguments.files]
    if arguments.data is not None:
        skulls = {case.individual: case.complete for case in find_cases(arguments.data)}
        every = [(name, n) for name in sorted(skulls) for n in places_of(name) if not PLACES[n].facial]
        chosen = every if arguments.every else CUTS
        jobs += [(f"{name}, {PLACES[n].name}", skulls[name], n) for name, n in chosen if name in skulls]
    lines = []
    for name, file, number in jobs:
        if number is None:
            volume = read_volume(file)
        else:
            whole, defective, _ = cut_place(load_whole(file), number)
            volume = whole.with_array(defective.astype(np.uint8))
        for line in run_case(name, volume, model, arguments.requests.split(",")):
            lines.append(line)
            keys = [key for key in line if key not in ("case", "request", "faults", "warnings")]
            content = "  ".join(f"{key} {line[key]}" for key in keys)
            print(f"{name:44} {line['request']:18} {'; '.join(line['faults']) or 'sound'}  {content}", flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    print(
        f"\n{'request':18} {'pieces':>6} {'sound':>5} {'least':>7} {'p1':>7} {'median':>7} {'thick':>7} {'p95 off':>7}"
    )
    for request in REQUESTS:
        of = [line for line in lines if line["request"] == request and line.get("pieces")]
        if of:
            values = {
                key: [line[key] for line in of if key in line]
                for key in (
                    "clearance_min",
                    "clearance_p1",
                    "clearance_median",
                    "thickness_mean",
                    "thickness_error_p95",
                )
            }
            thick = values["thickness_mean"]
            print(
                f"{request:18} {sum(line['pieces'] for line in of):6} {sum(not line['faults'] for line in of):5}"
                f" {min(values['clearance_min']):7.3f} {min(values['clearance_p1']):7.3f}"
                f" {np.mean(values['clearance_median']):7.3f}"
                + (f" {np.mean(thick):7.3f} {max(values['thickness_error_p95']):7.3f}" if thick else "")
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
