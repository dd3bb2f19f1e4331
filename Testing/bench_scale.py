"""Time and memory of `complete` by the number of voxels: `make bench-scale`.

Completes a CT of the same generated head on grids of 128^3 to 768^3 voxels, and of 512 x 512 x 1000, each in a
process of its own. Prints a table, and writes bench/scale/scale.json and scale.png. Seconds are the processor's, so
that other work on the machine counts less; those that every run needs, whatever its size, are the fit's constant.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import run_case

from SkullVAELib.data.generated_skull import generated_skull
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import write_volume
from SkullVAELib.vae.checkpoint import load_model
from SkullVAELib.vae.default_model import default_model_path

ROOT = Path(__file__).resolve().parents[1]
SIZES = ((128,) * 3, (192,) * 3, (256,) * 3, (384,) * 3, (512,) * 3, (640,) * 3, (768,) * 3, (512, 512, 1000))
SEED = 5


def head_ct() -> Volume:
    """A generated skull with a defect as a CT in HU, at 1 mm: air, soft tissue, bone, and what noise a scanner adds."""
    bone, _ = generated_skull(load_model(default_model_path()), SEED, spacing_mm=1.0)
    mask = bone.array != 0
    # Closed at 3 mm, which takes a moment instead of minutes.
    closed = ndimage.binary_closing(np.pad(mask[::3, ::3, ::3], 8), iterations=6)
    head = ndimage.binary_fill_holes(ndimage.binary_dilation(closed, iterations=2))[(slice(8, -8),) * 3]
    head = np.kron(head, np.ones((3, 3, 3), bool))[tuple(slice(n) for n in mask.shape)]
    values = np.where(mask, 900, np.where(head, 40, -1000)).astype(np.float32)
    return bone.with_array(values + np.random.default_rng(0).normal(0, 12, mask.shape).astype(np.float32))


def at_size(ct: Volume, shape: tuple[int, int, int]) -> Volume:
    """The CT on a grid of another number of voxels over the same field of view, int16."""
    step = (np.array(ct.array.shape) - 1) / (np.array(shape) - 1)
    array = ndimage.affine_transform(ct.array, step, output_shape=shape, order=1, prefilter=False)
    return Volume(np.round(array).astype(np.int16), ct.affine @ np.diag([*step, 1.0]))


def write_at_size(ct: Volume, shape: tuple[int, int, int], path: Path) -> None:
    """Write the CT on a grid of another number of voxels."""
    write_volume(at_size(ct, shape), path)


def fit(results: list[dict], key: str) -> tuple[float, float]:
    """The line through a figure by millions of voxels: slope and constant."""
    slope, constant = np.polyfit([r["voxels"] / 1e6 for r in results], [r[key] for r in results], 1)
    return float(slope), float(constant)


def draw(results: list[dict], path: Path) -> None:
    """Seconds and memory by the number of voxels, with the line that fits them."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (key, title) in zip(
        figure.subplots(1, 2),
        (("processor_seconds", "processor seconds"), ("peak_mib", "peak memory, MiB")),
        strict=True,
    ):
        millions = np.array([r["voxels"] / 1e6 for r in results])
        slope, constant = fit(results, key)
        ends = np.array([0, millions.max()])
        axes.plot(ends, constant + slope * ends, color="#8aa5b5", lw=1.5)
        axes.plot(millions, [r[key] for r in results], "o", color="#1c5d7a", ms=5)
        for r, million in zip(results, millions, strict=True):
            if million < 0.1 * millions.max():
                continue  # so close to one another that their names would overlap
            place = {"xytext": (6, -9)} if r["size"].endswith("^3") else {"xytext": (-6, 6), "ha": "right"}
            axes.annotate(r["size"], (million, r[key]), textcoords="offset points", fontsize=8, **place)
        axes.set(xlabel="millions of voxels", ylabel=title, ylim=(0, None), xlim=(0, 1.12 * millions.max()))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> int:
    """Run all sizes; 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "scale")
    parser.add_argument("--most", type=int, default=768**3, help="leave out grids of more voxels")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the cases' processes
    options.output.mkdir(parents=True, exist_ok=True)
    ct, results = head_ct(), []
    # A process's largest memory counts that of the one it was started from: this one must stay small.
    writer = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    for shape in SIZES:
        if np.prod(shape) > options.most:
            continue
        name = f"{shape[0]}^3" if len(set(shape)) == 1 else " x ".join(map(str, shape))
        with tempfile.TemporaryDirectory(dir=options.output) as folder:
            writer.submit(write_at_size, ct, shape, Path(folder) / "ct.nrrd").result()
            made = run_case(Path(folder) / "ct.nrrd", Path(folder), ["--device", "cpu"])
            results.append({"size": name, "voxels": int(np.prod(shape)), **made})
        print(
            "{size:>16}  exit {exit_code}  {processor_seconds:6.1f} s  {peak_mib:6.0f} MiB".format(**results[-1]),
            flush=True,
        )
    for key, unit in (("processor_seconds", "s"), ("peak_mib", "MiB")):
        slope, constant = fit(results, key)
        print(f"{key}: {constant:.1f} {unit} and {slope:.3f} {unit} a million voxels")
    (options.output / "scale.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, options.output / "scale.png")
    return int(any(r["exit_code"] != 0 for r in results))


if __name__ == "__main__":
    sys.exit(main())
