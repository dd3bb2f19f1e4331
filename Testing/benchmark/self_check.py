#!/usr/bin/env python3
"""How well the self-check separates good implants from bad ones where the truth is known.

usage: self_check.py SKULLS [--results FOLDER ...] [--names NAME,...] [--few] [--json FILE]
       self_check.py SKULLS --complete

SKULLS is a folder of complete skulls. Holes are cut into them; the removed bone is a perfect implant, which is spoiled
in known ways. A --results folder holds inputs NAME.nrrd, truths (NAME_truth.nrrd or truth.nrrd) and results out_NAME/,
of any method. An implant is good if its Dice coefficient with the missing bone is at least 0.8, the 95th percentile of
the distances between both surfaces (HD95) is at most 2 mm, no other hole of 0.8 ml or more is open and it shares no
more than 5 % of its voxels with bone of the input.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.stats import rankdata

from SkullVAELib.checks.fractions import Fraction, block_factor
from SkullVAELib.checks.limits import LIMITS, RATINGS
from SkullVAELib.checks.self_check import SMALLEST_OPENING_ML, SelfCheck, check_implant, upper_box
from SkullVAELib.checks.vault import Vault, find_openings
from SkullVAELib.evaluation.metrics import dice, hd95
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop, to_nearest_ras
from SkullVAELib.io.images import read_volume
from SkullVAELib.mesh.mesh import Mesh

GOOD_DICE, GOOD_HD95_MM, OPEN_ML, OVERLAP = 0.8, 2.0, 0.8, 0.05
BONE_HU = 300

PLACES = {
    "right": ((0.9, 0.1, 0.45), 28.0),
    "left": ((-0.6, -0.5, 0.6), 40.0),
    "vertex": ((0.15, -0.1, 1.0), 30.0),
    "front": ((0.4, 0.9, 0.5), 22.0),
    "back": ((-0.3, -1.0, 0.45), 34.0),
    "temple": ((1.0, 0.25, 0.1), 22.0),
}


@dataclass(frozen=True)
class Sample:
    """An implant with its truth: what is missing in the skull, bool arrays on one grid."""

    name: str
    kind: str
    all_bone: Volume
    completed: Volume
    implant: Volume
    truth: np.ndarray | None
    mesh: Mesh | None = None

    def figures(self) -> tuple[float, float, float, float]:
        """Dice, HD95 in mm, the volume of bone in ml that is missing outside the largest hole, and the overlap."""
        assert self.truth is not None
        implant, spacing = self.implant.array, self.implant.spacing
        box = bounding_box(implant | self.truth, 4)
        a, b = self.truth[box], implant[box]
        left = ndimage.binary_opening(a & ~ndimage.binary_dilation(b, iterations=3))
        labels, count = ndimage.label(left)
        still = float(np.bincount(labels.ravel())[1:].max()) * self.implant.voxel_ml if count else 0.0
        overlap = float((implant & self.all_bone.array).sum() / implant.sum())
        return dice(a, b), hd95(a, b, spacing), still, overlap

    @property
    def is_good(self) -> bool:
        """Whether the implant is good by the definition of this measurement."""
        score, distance, still, overlap = self.figures()
        return score >= GOOD_DICE and distance <= GOOD_HD95_MM and still < OPEN_ML and overlap <= OVERLAP


def cut(skull: Volume, direction: tuple[float, ...], radius: float) -> np.ndarray:
    """The largest component of the bone within a radius in mm of the outermost bone in a direction, bool."""
    centre, axis = vault_middle(skull), np.array(direction) / np.linalg.norm(direction)
    line = centre + np.arange(30, 140, 0.5)[:, None] * axis
    index = np.rint(apply_affine(np.linalg.inv(skull.affine), line)).astype(int)
    inside = ((index >= 0) & (index < skull.array.shape)).all(1)
    hits = line[inside][skull.array[tuple(index[inside].T)]]
    middle = np.rint(apply_affine(np.linalg.inv(skull.affine), hits[-1])).astype(int)
    reach = np.ceil(radius / skull.spacing).astype(int) + 1
    box = tuple(slice(max(0, int(m - r)), int(m + r) + 1) for m, r in zip(middle, reach, strict=True))
    local = crop(skull, box)
    place = np.argwhere(local.array)
    near = np.linalg.norm(apply_affine(local.affine, place) - hits[-1], axis=1) < radius
    part = np.zeros_like(local.array)
    part[tuple(place[near].T)] = True
    labels, _ = ndimage.label(part)
    gone = np.zeros_like(skull.array)
    gone[box] = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return gone


def vault_middle(skull: Volume) -> np.ndarray:
    """A point in the middle of the vault, RAS mm."""
    points = apply_affine(skull.affine, np.argwhere(skull.array)[::7])
    top = np.percentile(points[:, 2], 99.9)
    low, high = np.percentile(points[points[:, 2] > top - 95], [1, 99], axis=0)
    return np.array([*(low + high)[:2] / 2, top - 75])


def moved(mask: np.ndarray, grid: Volume, by_mm: np.ndarray) -> np.ndarray:
    """A mask with each voxel's value from by_mm away (3, or 3 by the shape of the mask), RAS mm."""
    box = bounding_box(mask, np.ceil(14 / grid.spacing).astype(int))
    out = np.zeros_like(mask)
    index = np.indices(mask[box].shape).astype(float)
    by = by_mm if by_mm.ndim == 4 else by_mm[:, None, None, None]
    index -= np.einsum("ij,jxyz->ixyz", np.linalg.inv(grid.affine[:3, :3]), np.broadcast_to(by, index.shape))
    out[box] = ndimage.map_coordinates(mask[box].astype(np.float32), index, order=1) > 0.5
    return out


def bumps(mask: np.ndarray, grid: Volume, axis: np.ndarray, amplitude: float, sigma: float, seed: int) -> np.ndarray:
    """A mask with a smooth displacement of one sign (seed 0: in its middle) or of random signs along an axis."""
    box = bounding_box(mask, np.ceil(14 / grid.spacing).astype(int))
    shape = mask[box].shape
    if seed == 0:
        points = apply_affine(grid.affine, np.argwhere(mask))
        at = apply_affine(crop(grid, box).affine, np.moveaxis(np.indices(shape), 0, -1))
        field = np.exp(-((at - points.mean(0)) ** 2).sum(-1) / (2 * sigma**2))
    else:
        field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma / grid.spacing)
        field /= np.abs(field).max()
    return moved(mask, grid, amplitude * axis[:, None, None, None] * field)


def scaled(mask: np.ndarray, factor: float) -> np.ndarray:
    """A mask scaled down about its middle."""
    out, box = np.zeros_like(mask), bounding_box(mask)
    middle = np.argwhere(mask[box]).mean(0)
    matrix = np.eye(3) / factor
    out[box] = ndimage.affine_transform(mask[box].astype(np.float32), matrix, middle - matrix @ middle, order=1) > 0.5
    return out


def dilated(mask: np.ndarray, box: tuple[slice, ...], iterations: int = 1) -> np.ndarray:
    """A mask dilated within a box, empty elsewhere."""
    out = np.zeros_like(mask)
    out[box] = ndimage.binary_dilation(mask[box], iterations=iterations)
    return out


def spoiled(skull: Volume, place: str, name: str) -> Iterator[Sample]:
    """Good and bad implants for one hole of a complete skull."""
    direction, radius = PLACES[place]
    truth = cut(skull, direction, radius)
    bone = skull.array & ~truth
    axis = apply_affine(skull.affine, np.argwhere(truth)).mean(0) - vault_middle(skull)
    axis /= np.linalg.norm(axis)

    def sample(kind: str, implant: np.ndarray, loose: np.ndarray | None = None, open_too: np.ndarray | None = None):
        kept, missing, whole = bone, truth, bone
        if open_too is not None:
            kept, missing = bone & ~open_too, truth | open_too
        whole = kept if loose is None else kept | loose
        implant = implant & ~kept
        volumes = (Volume(array, skull.affine) for array in (whole, kept | implant, implant))
        return Sample(f"{name} {place}", kind, *volumes, missing)

    yield sample("perfect", truth)
    yield sample("clearance of a voxel", truth & ~dilated(bone, bounding_box(truth, 3)))
    yield sample("waves of 1 mm", bumps(truth, skull, axis, 1.0, 12, 1))
    yield sample("0.7 mm further out", moved(truth, skull, 0.7 * axis))
    yield sample("0.7 mm further in", moved(truth, skull, -0.7 * axis))
    yield sample("2.5 mm further out", moved(truth, skull, 2.5 * axis))
    yield sample("4 mm further out", moved(truth, skull, 4 * axis))
    yield sample("3 mm further in", moved(truth, skull, -3 * axis))
    yield sample("scaled by 0.8", scaled(truth, 0.8))
    yield sample("outer half", truth & moved(truth, skull, 0.5 * median_depth(truth, skull, axis) * axis))
    yield sample("bulge of 5 mm", bumps(truth, skull, axis, 5.0, radius / 2.5, 0))
    yield sample("dent of 5 mm", bumps(truth, skull, axis, -5.0, radius / 2.5, 0))
    across = np.cross(axis, [0.3, 0.2, 1.0])
    across /= np.linalg.norm(across)
    points = np.argwhere(truth)
    along = apply_affine(skull.affine, points) @ across
    half = np.zeros_like(truth)
    half[tuple(points[along < np.median(along)].T)] = True
    yield sample("half is missing", half)
    ball = np.zeros_like(truth)
    distance = np.linalg.norm(apply_affine(skull.affine, points) - apply_affine(skull.affine, points).mean(0), axis=1)
    ball[tuple(points[distance < np.quantile(distance, 0.3)].T)] = True
    yield sample("loose bone", truth, loose=ball)
    other = "left" if place in ("right", "front", "temple") else "right"
    for small in (9.0, 20.0):
        second = cut(Volume(bone, skull.affine), PLACES[other][0], small)
        if not (dilated(second, bounding_box(second, 4), 3) & truth).any():
            yield sample(f"second hole of radius {small:g} mm open", truth, open_too=second)
    # The image ends in the defect, and the implant with it.
    end = int(np.argmax(np.abs(axis @ (skull.affine[:3, :3] / skull.spacing))))
    low, high = points[:, end].min(), points[:, end].max()
    upwards = axis @ skull.affine[:3, end] > 0
    stop = slice(0, int(low + 0.6 * (high - low))) if upwards else slice(int(high - 0.6 * (high - low)), None)
    box = tuple(stop if axis_ == end else slice(0, n) for axis_, n in enumerate(skull.array.shape))
    ended = [crop(Volume(array, skull.affine), box) for array in (bone, bone | truth, truth)]
    yield Sample(f"{name} {place}", "cut off by the end of the image", *ended, None)


def median_depth(mask: np.ndarray, grid: Volume, axis: np.ndarray) -> float:
    """Thickness of a mask in mm: its volume over its area across an axis."""
    points = apply_affine(grid.affine, np.argwhere(mask))
    first = np.cross(axis, [0.3, 0.2, 1.0])
    first /= np.linalg.norm(first)
    plane = np.stack([points @ first, points @ np.cross(axis, first)], 1)
    area = len(np.unique(np.floor(plane / 2).astype(int), axis=0)) * 4
    return len(points) * grid.voxel_ml * 1000 / area


def results(folder: Path) -> Iterator[Sample]:
    """The results in a folder and the folders in it."""
    for report in sorted(folder.glob("**/report.json")):
        out = report.parent
        stem = out.name.removeprefix("out_")
        if not (out / "implant.nrrd").exists():
            continue
        implant, completed = (read_volume(out / name) for name in ("implant.nrrd", "completed.nrrd"))
        # A harness may cut the name of an input at its last dot: the shape tells which one it is.
        images = [read_volume(path) for path in sorted(out.parent.glob(f"{stem}*.nrrd")) if "truth" not in path.name]
        images = [image for image in images if image.array.shape == implant.array.shape]
        if not images or not implant.array.any():
            continue
        image = images[0]
        threshold = json.loads(report.read_text(encoding="utf-8"))["bone"]["threshold_hu"]
        all_bone = image.array >= threshold if threshold is not None else image.array != 0
        truths = [path for path in (out.parent / f"{stem}_truth.nrrd", out.parent / "truth.nrrd") if path.exists()]
        truth = read_volume(truths[0]).array != 0 if truths else None
        if truth is not None and truth.shape != implant.array.shape:
            truth = None
        yield Sample(
            f"{out.parent.name} {stem}",
            "result",
            implant.with_array(all_bone),
            implant.with_array(completed.array != 0),
            implant.with_array(implant.array != 0),
            truth,
        )


def auc(values: np.ndarray, bad: np.ndarray) -> float:
    """Probability that a bad implant has a larger value than a good one."""
    if not bad.any() or bad.all():
        return float("nan")
    ranks = rankdata(values)
    return float((ranks[bad].sum() - bad.sum() * (bad.sum() + 1) / 2) / (bad.sum() * (~bad).sum()))


def score(check: SelfCheck) -> float:
    """One number for all figures: the largest, each in units of its limit of "good"."""
    sizes = [0.0]
    for entry in check.checks:
        limit = LIMITS[entry.name]
        if entry.value is None:
            continue
        if limit.ratio:
            value = abs(np.log(max(entry.value, 1e-3))) / np.log(limit.good)
        else:
            value = entry.value / limit.good if limit.good else 1.5 * entry.value / limit.acceptable + (entry.value > 0)
        sizes.append(float(value))
    return max(sizes)


def main() -> int:
    """Print a row for each implant, and the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("skulls", type=Path)
    parser.add_argument("--results", type=Path, nargs="*", default=())
    parser.add_argument("--names", help="skulls to take, as words separated by commas; all without it")
    parser.add_argument("--few", action="store_true", help="one place for each skull")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--complete", action="store_true", help="only what is called missing in the skulls themselves")
    arguments = parser.parse_args()
    if arguments.complete:
        return complete_skulls(arguments.skulls)
    names = arguments.names.split(",") if arguments.names else None
    rows = []
    for sample in _samples(arguments.skulls, names, arguments.few, arguments.results):
        good = None if sample.truth is None and sample.kind == "result" else sample.truth is not None and sample.is_good
        start = time.process_time()
        check = check_implant(sample.all_bone, sample.completed, sample.implant, sample.mesh)
        seconds = time.process_time() - start
        values = {entry.name: entry.value for entry in check.checks}
        rows.append(
            {
                "name": sample.name,
                "kind": sample.kind,
                "good": good,
                "rating": check.rating,
                "score": score(check),
                "seconds": round(seconds, 2),
                "values": values,
                "ratings": {entry.name: entry.rating for entry in check.checks},
            }
        )
        shown = " ".join(
            f"{value}" + ("" if entry.rating == "good" else entry.rating[0])
            for entry in check.checks
            for value in [entry.value]
        )
        print(f"{sample.name:32} {sample.kind:34} {good!s:5} {check.rating:10} {seconds:.2f} s  {shown}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    summarise(rows)
    return 0


def complete_skulls(folder: Path) -> int:
    """Print the openings that the self-check reports in complete skulls, where there are none."""
    wrong = count = 0
    for path in sorted(folder.glob("*.n*")):
        volume = read_volume(path)
        skull = to_nearest_ras(Volume(volume.array != 0, volume.affine))
        factor = block_factor(skull.spacing)
        box = upper_box(skull, factor)
        vault = Vault.of(Fraction.of(skull.array, skull, box, factor), skull)
        found = [] if vault is None else find_openings(vault, SMALLEST_OPENING_ML)
        total = sum(opening.volume_ml for opening in found)
        count, wrong = count + 1, wrong + bool(found)
        print(f"{path.name:32} {total:6.2f} ml  {LIMITS['missing_bone'].rating(total)}", flush=True)
    print(f"{wrong} of {count} complete skulls with an opening")
    return 0


def _samples(folder: Path, names: list[str] | None, few: bool, more: list[Path]) -> Iterator[Sample]:
    for path in more:
        yield from results(path)
    for number, path in enumerate(sorted(folder.glob("*.n*"))):
        name = path.name.split(".")[0]
        if names is not None and name not in names:
            continue
        volume = read_volume(path)
        skull = Volume(np.ascontiguousarray(volume.array != 0), volume.affine)
        box = bounding_box(skull.array, np.ceil(20 / skull.spacing).astype(int))
        skull = crop(skull, box)
        skull = Volume(np.pad(skull.array, 12), skull.affine @ _shift(-12))
        places = [place for place in PLACES if place != "temple" or "scatterbrains" not in name]
        for place in [places[(number + k) % len(places)] for k in ((0,) if few else (0, 3))]:
            yield from spoiled(skull, place, name)


def _shift(voxels: int) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = voxels
    return matrix


def summarise(rows: list[dict]) -> None:
    """Print AUC and the ratings of good and bad implants, in all and by kind."""
    known = [row for row in rows if row["good"] is not None]
    bad = np.array([not row["good"] for row in known])
    print(f"\n{len(known)} implants, {int(bad.sum())} bad")
    print(f"AUC of the overall score: {auc(np.array([row['score'] for row in known]), bad):.3f}")
    for name, limit in LIMITS.items():
        values = [row["values"][name] for row in known]
        chosen = np.array([value is not None for value in values])
        sizes = np.array([abs(np.log(max(v, 1e-3))) if limit.ratio else v for v in values if v is not None])
        kept = sizes[~bad[chosen]]
        quantiles = np.percentile(kept, [50, 90, 98]) if len(kept) else [np.nan] * 3
        of_good = f"good implants: median, 90 %, 98 %: {np.round(quantiles, 2)}"
        print(f"  {name:14} AUC {auc(sizes, bad[chosen]):.3f}; {of_good}")
    for label, wanted in (("good", True), ("bad", False)):
        counts = {rating: sum(row["rating"] == rating for row in known if row["good"] is wanted) for rating in RATINGS}
        print(f"{label} implants rated: {counts}")
    for kind in sorted({row["kind"] for row in known}):
        of = [row for row in known if row["kind"] == kind]
        counts = [sum(row["rating"] == rating for row in of) for rating in RATINGS]
        truly = sum(row["good"] for row in of)
        print(f"  {kind:34} n {len(of):3}, truly good {truly:3}; rated good/acceptable/poor {counts}")


if __name__ == "__main__":
    sys.exit(main())
