"""Errors of an implant where the bone was thin, and holes in it.

    python Testing/benchmark/thin_bone.py RUN --data FOLDER [--evaluation FOLDER2] [--row mean]

RUN is the --output of accuracy.py: its cases' implants are read, and nothing is completed again. Rays of 1 mm spacing
from the vault's centre go through the removed bone, see benchmark/rays.py; each counts with the thickness that the
removed bone has there, along the ray. Rays within 3 mm of the rim are left out. A pinhole is a connected group of rays
that meet not a single voxel of the implant, all more than 3 mm from the rim; it counts with its mean thickness.

Figures are means over the individuals that have at least 50 rays of a thickness, with standard errors over them.
Defects that were missed as a whole are left out. Exit code: 0, or 2 for bad arguments.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from benchmark import contest
from benchmark.cases import cut_with_centre
from benchmark.rays import RIM_MM, STEP_MM, ImplantRays
from benchmark.scores import FOUND
from SkullVAELib.data.datasets import find_cases
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.volume import Volume

SPACING_MM = 1.0
CLASSES = {"< 2": (0.0, 2.0), "2 to 3": (2.0, 3.0), "3 to 5": (3.0, 5.0), "> 5": (5.0, math.inf)}
"""Thickness of the removed bone, mm."""

LEAST_RAYS = 50
"""Fewer rays of a class do not count for an individual."""

NEIGHBOUR = 1.8
"""Rays within so many spacings of each other are neighbours: a cell's faces, edges and corners."""


@dataclass(frozen=True)
class Pinhole:
    """A hole within an implant: its area in mm^2 on the sphere of the rays, and the bone's mean thickness there."""

    area_mm2: float
    thickness_mm: float


def pinholes(rays: ImplantRays, missed: np.ndarray, spacing_mm: float = SPACING_MM) -> list[Pinhole]:
    """The holes within an implant; missed: (N,) bool, which rays meet none of its voxels."""
    at = rays.directions * rays.radius
    open_rays = np.flatnonzero(rays.known & missed)
    if not len(open_rays):
        return []
    pairs = cKDTree(at[open_rays]).query_pairs(NEIGHBOUR * spacing_mm, output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(open_rays),) * 2)
    count, label = connected_components(links, directed=False)
    # The rays lie where a sphere meets the cells of a grid: as many to the area as there are.
    area = _area_of_a_ray(at)
    found = []
    for number in range(count):
        group = open_rays[label == number]
        if rays.away[group].min() > RIM_MM:
            found.append(Pinhole(len(group) * area, float(rays.thickness[group].mean())))
    return found


def _area_of_a_ray(at: np.ndarray) -> float:
    """Mean area in mm^2 of the sphere for each ray: of a disc of 6 mm around rays in the middle of the defect."""
    tree = cKDTree(at)
    near = tree.query_ball_point(at[:: max(1, len(at) // 500)], 6.0, return_length=True)
    return math.pi * 36.0 / float(np.percentile(near, 90))


def missing_voxels(implant: Volume, centre: np.ndarray, rays: ImplantRays) -> np.ndarray:
    """Which rays (N,) meet no voxel of an implant, blurred in no way: a hole of one voxel is one."""
    inside = np.linalg.norm(apply_affine(implant.affine, np.argwhere(implant.array)) - centre, axis=1)
    radius = np.arange(inside.min() - 1, inside.max() + 1, STEP_MM)
    met = np.zeros(len(rays.directions), bool)
    inverse = np.linalg.inv(implant.affine)
    for part in np.array_split(np.arange(len(met)), max(1, len(met) // 5000)):
        places = centre + rays.directions[part, None] * radius[:, None]
        index = np.round(apply_affine(inverse, places.reshape(-1, 3))).astype(int)
        valid = ((index >= 0) & (index < implant.array.shape)).all(1)
        hit = np.zeros(len(index), bool)
        hit[valid] = implant.array[tuple(index[valid].T)]
        met[part] = hit.reshape(len(part), -1).any(1)
    return ~met


def rays_of_case(record: dict, mask: Path, skull: Path) -> tuple[ImplantRays, list[Pinhole]] | None:
    """The rays of a case of accuracy.py and its pinholes; None where its defect was missed."""
    whole, bone, truth, centre = cut_with_centre(contest.load_whole(skull), record["place"])
    implant = contest.load_mask(mask)
    if (implant & truth).sum() < FOUND * truth.sum():
        return None
    rays = ImplantRays.of(truth, implant, bone, whole.affine, centre, SPACING_MM)
    return rays, pinholes(rays, missing_voxels(whole.with_array(implant), centre, rays))


def as_text(rays: Sequence[tuple[str, ImplantRays]], holes: Sequence[tuple[str, Pinhole]]) -> str:
    """Markdown: errors and share of rays without implant by thickness, and the pinholes."""
    lines = [
        "| removed bone, mm | individuals | rays | outer, mm | inner, mm | thickness error, mm | no implant on rays |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (low, high) in CLASSES.items():
        rows, total = [], 0
        for individual in sorted({who for who, _ in rays}):
            mine = [
                (r, r.known & (r.away > RIM_MM) & (r.thickness >= low) & (r.thickness < high))
                for w, r in rays
                if w == individual
            ]
            count = sum(int(inside.sum()) for _, inside in mine)
            if count < LEAST_RAYS:
                continue
            total += count
            outer, inner = (np.concatenate([getattr(r, side)[i] for r, i in mine]) for side in ("outer", "inner"))
            error = outer - inner
            rows.append(
                [np.nanmean(np.abs(outer)), np.nanmean(np.abs(inner)), np.nanmean(error), np.isnan(outer).mean()]
            )
        if len(rows) < 2:
            continue
        mean, error = np.mean(rows, 0), np.std(rows, 0, ddof=1) / math.sqrt(len(rows))
        cells = [f"{mean[n]:{sign}.2f} ± {error[n]:.2f}" for n, sign in ((0, ""), (1, ""), (2, "+"))]
        cells.append(f"{100 * mean[3]:.2f} ± {100 * error[3]:.2f} %")
        lines.append(f"| {name} | {len(rows)} | {total} | {' | '.join(cells)} |")
    lines += [
        "",
        "| removed bone, mm | pinholes | of them above 4 mm² | largest, mm² | individuals |",
        "|---|---|---|---|---|",
    ]
    for name, (low, high) in (*CLASSES.items(), ("1 to 3", (1.0, 3.0))):
        mine = [(who, hole) for who, hole in holes if low <= hole.thickness_mm < high]
        areas = [hole.area_mm2 for _, hole in mine]
        large = sum(area > 4 for area in areas)
        lines.append(f"| {name} | {len(mine)} | {large} | {max(areas, default=0):.0f} | {len({w for w, _ in mine})} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 done, 2 bad arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of accuracy.py")
    parser.add_argument("--data", type=Path, required=True, help="folder of complete skulls")
    parser.add_argument("--evaluation", type=Path, help="the same, of those that are only measured")
    parser.add_argument("--row", default="mean", help="row of accuracy.py (default mean)")
    arguments = parser.parse_args(argv)
    folders = [folder for folder in (arguments.data, arguments.evaluation) if folder is not None]
    skulls = {case.individual: case.complete for folder in folders for case in find_cases(folder)}
    rays, holes, missed = [], [], []
    for path in sorted((arguments.run / "cases").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        mask = path.with_name(f"{path.stem}_{arguments.row}.npz")
        if record["slices_mm"] is not None or not mask.is_file() or record["individual"] not in skulls:
            continue
        found = rays_of_case(record, mask, skulls[record["individual"]])
        if found is None:
            missed.append(path.stem)
        else:
            rays.append((record["individual"], found[0]))
            holes += [(record["individual"], hole) for hole in found[1]]
    if not rays:
        print(f"thin_bone.py: no case of the row '{arguments.row}' in {arguments.run}", file=sys.stderr)
        return 2
    print(f"{len(rays)} cases, {len({who for who, _ in rays})} individuals; missed: {', '.join(missed) or 'none'}\n")
    print(as_text(rays, holes))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
