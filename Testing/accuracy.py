"""Accuracy of the implant on real skulls: ten defects each, every prior in one run on the same cases.

    python Testing/accuracy.py --data FOLDER --model RUN/model.safetensors --output accuracy

Takes the individuals that the model's own record says were held out. Scores on each case's own grid.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from SkullVAELib.bone import bone_mask
from SkullVAELib.checkpoint import load_model
from SkullVAELib.completion import CompletionOptions, complete
from SkullVAELib.datasets import find_cases
from SkullVAELib.defects import cut
from SkullVAELib.frame import reduce_bone
from SkullVAELib.metrics import boundary_dice, dice, hd95
from SkullVAELib.progress import Stages
from SkullVAELib.volume import Volume, read_volume, to_image


@dataclasses.dataclass(frozen=True)
class Place:
    """One defect of the fixed set: its kind, direction from the vault's centre (R, A, S), size 0..1, grid."""

    name: str
    kind: str
    direction: tuple[float, float, float]
    size: float
    oblique: bool = False


PLACES = (
    Place("left temple", "temporal", (-1.0, 0.25, -0.05), 0.5),
    Place("right parietal box", "box", (0.8, -0.35, 0.6), 0.5),
    Place("frontal blob", "blob", (0.2, 0.9, 0.45), 0.7),
    Place("occipital box", "box", (-0.15, -0.95, 0.25), 0.4),
    Place("vertex blob", "blob", (0.1, 0.1, 1.0), 0.9),
    Place("left hemicraniectomy", "hemicraniectomy", (-0.95, 0.1, 0.4), 0.6),
    Place("right fronto-orbital", "fronto_orbital", (0.45, 0.9, 0.1), 0.5),
    Place("bifrontal", "bifrontal", (0.0, 0.9, 0.45), 0.4),
    Place("small left parietal blob, oblique grid", "blob", (-0.7, -0.4, 0.7), 0.0, True),
    Place("right temple box, oblique grid", "box", (0.95, 0.3, 0.1), 0.2, True),
)


def stored_obliquely(bone: Volume, angles_deg: tuple[float, float, float] = (14, -9, 20)) -> Volume:
    """The same bone at the same place in the world, on a grid turned about its centre and of unequal spacing."""
    image = to_image(bone.with_array(bone.array.astype(np.uint8)))
    turn = sitk.Euler3DTransform((0, 0, 0), *np.radians(angles_deg))
    direction = np.array(turn.GetMatrix()).reshape(3, 3)
    spacing = np.array([0.9, 1.0, 1.1])
    extent = np.array(image.GetSize()) * image.GetSpacing()
    length = float(np.linalg.norm(extent[:2]))
    size = np.ceil(np.array([length, length, np.linalg.norm(extent[1:])]) / spacing).astype(int)
    centre = np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
    origin = centre - direction @ ((size - 1) / 2 * spacing)
    resampled = sitk.Resample(
        sitk.Cast(image, sitk.sitkFloat32), size.tolist(), sitk.Transform(), sitk.sitkLinear,
        origin.tolist(), spacing.tolist(), direction.ravel().tolist(), 0.0,
    )  # fmt: skip
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = direction * spacing, origin
    array = sitk.GetArrayFromImage(resampled).transpose(2, 1, 0) >= 0.5
    return Volume(array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)


def run_case(file: Path, individual: str, number: int, rows: list[str], model_file: Path, save: Path | None) -> dict:
    """Cut one defect out of one skull, complete it with every row's prior, and score each implant."""
    torch.set_num_threads(1)  # one case a process: the same figures whatever the number of processes
    model = load_model(model_file)
    place = PLACES[number]
    volume = read_volume(file)
    whole = volume.with_array(bone_mask(volume)[0])
    if place.oblique:
        whole = stored_obliquely(whole)
    defective, truth = cut(
        whole, reduce_bone(whole), place.kind, seed=number, direction=np.array(place.direction), size=place.size
    )
    line = {"individual": individual, "defect": place.name, "truth_ml": round(truth.sum() * whole.voxel_ml, 1)}
    for row in rows:
        prior, _, without = row.partition("-")
        options = CompletionOptions(prior=prior, **({"rim": None} if without == "rim" else {}))
        start = time.perf_counter()
        result = complete(whole.with_array(defective.astype(np.uint8)), model, options, Stages({}))
        prediction = result.implant.array
        line[row] = {
            "dsc": round(dice(truth, prediction), 4),
            "bdsc": round(boundary_dice(truth, prediction, defective, whole.spacing), 4),
            "hd95_mm": round(hd95(truth, prediction, whole.spacing), 3),
            "volume_ml": round(float(prediction.sum() * whole.voxel_ml), 1),
            "seconds": round(time.perf_counter() - start, 1),
            "defects": result.report.get("implant", {}).get("defects", 0),
            "rim_gap_mm": result.report.get("implant", {}).get("rim_gap_mm"),
        }
        if save is not None:
            name = f"{individual}_{number}_{row}.npz"
            np.savez_compressed(save / name, truth=truth, prediction=prediction, bone=defective, affine=whole.affine)
    return line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("bench/accuracy"))
    parser.add_argument(
        "--rows",
        default="mean-rim,mean,encode,blend",
        help="priors to compare, comma-separated; add '-rim' to one for no rim correction",
    )
    parser.add_argument("--individuals", default="", help="default: those the model held out")
    parser.add_argument("--places", default="", help="numbers of the defects to run, comma-separated; default all")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--save", action="store_true", help="write the masks of each case")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    wanted = [n for n in arguments.individuals.split(",") if n] or model.provenance["holdout"]
    seen = set(wanted) & {Path(n).name.split(".")[0] for n in model.provenance["data"]}
    if seen:
        print(
            f"NOTE: the model was trained on {', '.join(sorted(seen))}: these are no held-out figures", file=sys.stderr
        )
    numbers = [int(n) for n in arguments.places.split(",") if n] or range(len(PLACES))
    rows = arguments.rows.split(",")
    arguments.output.mkdir(parents=True, exist_ok=True)
    cases = [c for c in find_cases(arguments.data) if c.individual in wanted and c.defective is None]
    save = arguments.output if arguments.save else None
    results = []
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [
            pool.submit(run_case, case.complete, case.individual, number, rows, arguments.model, save)
            for case in cases
            for number in numbers
        ]
        for run in runs:
            line = run.result()
            results.append(line)
            scores = "  ".join(f"{r} {line[r]['dsc']:.3f}/{line[r]['hd95_mm']:.2f}" for r in rows)
            print(f"{line['individual']:14} {line['defect']:40} {line['truth_ml']:6.1f} ml  {scores}", flush=True)
    summary = {}
    print(f"\n{'':20}{'DSC mean':>10}{'min':>8}{'bDSC':>8}{'HD95 median':>13}{'mean':>8}  (mm)")
    for row in rows:
        values = {k: np.array([line[row][k] for line in results]) for k in ("dsc", "bdsc", "hd95_mm")}
        summary[row] = {
            "dsc_mean": float(values["dsc"].mean()), "dsc_min": float(values["dsc"].min()),
            "bdsc_mean": float(values["bdsc"].mean()), "hd95_median_mm": float(np.median(values["hd95_mm"])),
            "hd95_mean_mm": float(values["hd95_mm"].mean()),
        }  # fmt: skip
        print(
            f"{row:20}{values['dsc'].mean():10.3f}{values['dsc'].min():8.3f}{values['bdsc'].mean():8.3f}"
            f"{np.median(values['hd95_mm']):13.2f}{values['hd95_mm'].mean():8.2f}"
        )
    record = {"model": model.sha256, "rows": summary, "cases": results}
    (arguments.output / "accuracy.json").write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
