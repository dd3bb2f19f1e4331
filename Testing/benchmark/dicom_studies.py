"""Real DICOM studies: a hole is cut into the slices, and every usable series is completed.

    python Testing/benchmark/dicom_studies.py FOLDER      # one subfolder per study

Prints a table: series, slices, DSC of the implant against the bone that was cut out, and seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dicom_files import cut_hole

from SkullVAELib import api
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.dicom_series import open_study
from SkullVAELib.io.dicom_volume import read_dicom

BONE_HU = 300
RADIUS_MM, BELOW_VERTEX_MM = 25.0, 45.0


def parietal_point(volume: Volume) -> np.ndarray:
    """A point on the right parietal bone, 45 mm below the vertex, RAS mm."""
    labels, _ = ndimage.label(volume.array > BONE_HU)
    skull = np.argwhere(labels == np.bincount(labels.ravel())[1:].argmax() + 1)
    points = apply_affine(volume.affine, skull)
    middle = (points[:, 1].min() + points[:, 1].max()) / 2
    level = points[:, 2].max() - BELOW_VERTEX_MM
    near = points[(np.abs(points[:, 2] - level) < 3) & (np.abs(points[:, 1] - middle) < 4)]
    return near[np.argsort(near[:, 0])[-50:]].mean(0)


def rows(study: Path) -> list[tuple]:
    """Study, series, orientation, slices, step in mm, tilt in degrees, DSC and seconds of each usable series."""
    made = []
    with open_study(study) as listed, tempfile.TemporaryDirectory() as folder:
        usable = [each for each in listed.candidates if each.usable]
        finest = min(usable, key=lambda each: each.stack.step_mm)
        centre = parietal_point(read_dicom(study, finest.key)) * [-1, -1, 1]
        cut_hole(study, Path(folder), centre, RADIUS_MM)
        for each in usable:
            whole, cut = (read_dicom(source, each.key) for source in (study, folder))
            truth = (whole.array > BONE_HU) & (cut.array <= BONE_HU)
            begin = time.monotonic()
            implant = api.complete(cut).implant.array
            seconds = time.monotonic() - begin
            dsc = 2 * (implant & truth).sum() / max(1, implant.sum() + truth.sum())
            stack = each.stack
            chosen = " (chosen)" if each is listed.chosen else ""
            made.append(
                (
                    *(study.name, each.key + chosen, stack.orientation, len(stack.slices)),
                    *(f"{stack.step_mm:.1f}", f"{stack.tilt_degrees:.1f}", f"{dsc:.2f}", f"{seconds:.0f}"),
                )
            )
            print("| " + " | ".join(map(str, made[-1])) + " |", flush=True)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for study in sorted(path for path in parser.parse_args().folder.iterdir() if path.is_dir()):
        rows(study)
    return 0


if __name__ == "__main__":
    sys.exit(main())
