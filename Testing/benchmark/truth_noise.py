"""How far the truth itself is uncertain: two segmentations of the same head, compared as the implants are.

    python Testing/benchmark/truth_noise.py STUDY [--only KEY,...] [--thresholds 200,300,400]

STUDY is a folder of DICOM files with several series of one head. Each series is resampled to the same grid of 1 mm and
segmented at each threshold in HU. Of each pair of segmentations, one plays the removed bone and the other the implant,
within balls of 35 mm around places of the vault: what is printed is the least error that a method could reach which
knows the bone of one series and is judged by the other. Places that are not bone in both are left out.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmark.rays import table_errors
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.distance_field import downsample_mask, surface_points
from SkullVAELib.geometry.masks import largest_component
from SkullVAELib.geometry.volume import Volume, sample_volume
from SkullVAELib.io.dicom_series import open_study
from SkullVAELib.io.dicom_volume import read_dicom
from SkullVAELib.registration.affine import initial_alignment

BALL_MM = 35.0
PLACES = {
    "forehead": (0.2, 0.9, 0.45),
    "right parietal": (0.8, -0.35, 0.6),
    "left parietal": (-0.7, -0.4, 0.7),
    "right temple": (0.95, 0.2, 0.25),
    "left temple": (-0.95, 0.2, 0.25),
    "occipital": (-0.15, -0.95, 0.25),
}
"""Directions from the vault's centre, R, A, S."""

AIR_HU = -1000.0


def on_grid(volume: Volume, grid: Volume) -> Volume:
    """A volume in HU, interpolated at the voxels of another grid."""
    index = np.stack(np.indices(grid.array.shape), -1).reshape(-1, 3)
    parts = np.array_split(index, max(1, len(index) // 1_000_000))
    values = [sample_volume(volume, apply_affine(grid.affine, part), AIR_HU) for part in parts]
    return grid.with_array(np.concatenate(values).reshape(grid.array.shape))


def grid_of(volumes: list[Volume]) -> Volume:
    """A grid of 1 mm, along the patient's axes, over what all volumes cover."""
    ends = []
    for volume in volumes:
        corners = np.array(list(itertools.product(*[(0, side - 1) for side in volume.array.shape])), float)
        placed = apply_affine(volume.affine, corners)
        ends.append((placed.min(0), placed.max(0)))
    low, high = np.max([end[0] for end in ends], 0), np.min([end[1] for end in ends], 0)
    affine = np.eye(4)
    affine[:3, 3] = low
    return Volume(np.zeros(np.floor(high - low).astype(int) + 1, np.uint8), affine)


def differences(first: np.ndarray, second: np.ndarray, affine: np.ndarray) -> list[dict]:
    """Errors of one segmentation against another at each place that has bone in both, see `table_errors`."""
    points, _ = surface_points(downsample_mask(Volume(first, affine)))
    alignment = initial_alignment(points)
    centre = apply_affine(np.linalg.inv(alignment), np.zeros(3))
    canonical = apply_affine(alignment, points)
    voxels = np.stack(np.indices(first.shape), -1)
    found = []
    for direction in PLACES.values():
        unit = np.array(direction) / np.linalg.norm(direction)
        along = canonical @ unit
        beside = np.linalg.norm(canonical - along[:, None] * unit, axis=1)
        ray = (beside < 8) & (along > 0)
        if not ray.any():
            continue
        middle = points[np.flatnonzero(ray)[along[ray].argmax()]]
        ball = np.linalg.norm(apply_affine(affine, voxels.reshape(-1, 3)) - middle, axis=1) < BALL_MM
        ball = ball.reshape(first.shape)
        truth, other = first & ball, second & ball
        if truth.any() and other.any():
            found.append(table_errors(truth, other, first & ~ball, affine, centre))
    return [errors for errors in found if errors["open"] is not None and errors["open"] < 0.1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--only", help="keys of series, as skullvae series lists them")
    parser.add_argument("--thresholds", default="200,300,400")
    options = parser.parse_args()
    with open_study(options.study) as listed:
        keys = [each.key for each in listed.candidates if each.usable]
    if options.only:
        keys = options.only.split(",")
    volumes = {key: read_dicom(options.study, key) for key in keys}
    grid = grid_of(list(volumes.values()))
    masks = {}
    for key, volume in volumes.items():
        sampled = on_grid(volume, grid)
        for threshold in map(float, options.thresholds.split(",")):
            masks[key, threshold] = largest_component(sampled.array > threshold)
    print("| truth | the other | n | outer, mm | P95 | inner, mm | P95 | step at the rim, mm |")
    print("|---|---|---|---|---|---|---|---|")
    for (one, low), (two, high) in itertools.combinations(masks, 2):
        if one != two and low != high:
            continue
        errors = differences(masks[one, low], masks[two, high], grid.affine)
        names = ("outer_mm", "outer_p95_mm", "inner_mm", "inner_p95_mm", "step_mm")
        means = [np.mean([each[name] for each in errors if each[name] is not None]) for name in names]
        figures = " | ".join(f"{mean:.2f}" for mean in means)
        print(f"| {one} at {low:g} HU | {two} at {high:g} HU | {len(errors)} | {figures} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
