"""The inputs of the recorded cases: cut out of real skulls by code that is independent of the library."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

SOURCE_SKULLS = ("complete/mgh_angel001.nii.gz", "complete/mgh_dca.nii.gz", "complete/colin27.nii.gz")
"""What new skulls are drawn from and models are trained on; the last one is held out."""


PAPER = {
    "method": "paper",
    "grid_shape": [32, 32, 16],
    "latent_size": 8,
    "vae_epochs": 5,
    "decoder_epochs": 5,
    "learning_rate": 0.001,
    "beta": 1.0,
    "save_every": 2,
    "seed": 3,
    "threads": 1,
}
"""The paper's method on two skulls in three classes, batch 4: two steps an epoch, ten steps a stage."""

CANONICAL = {
    "grid_shape": [48, 56, 48],
    "spacing_mm": 4.0,
    "latent_size": 8,
    "channels": [8, 8, 16],
    "vae_steps": 8,
    "decoder_steps": 4,
    "batch": 2,
    "pool": 6,
    "save_every": 2,
    "learning_rate": 0.01,
    "facial_share": 0.1,
    "seed": 3,
    "threads": 1,
}
"""Our own method, smaller and shorter."""

BATCH_COLUMNS = ("path", "name", "threshold", "box")
"""The columns of a cohort in a CSV file."""


class RecordingError(Exception):
    """A case that cannot be recorded, in one line."""


def _points(image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Array indices (N, 3) of the bone voxels of a labelmap, and where they are, RAS mm."""
    index = np.argwhere(sitk.GetArrayViewFromImage(image) > 0)
    direction = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    return index, (index[:, ::-1] @ direction.T + image.GetOrigin()) * [-1, -1, 1]


def _vault_centre(points: np.ndarray) -> np.ndarray:
    vault = points[points[:, 2] > points[:, 2].max() - 95]
    return (vault.min(0) + vault.max(0)) / 2


def _in_sphere(points: np.ndarray, direction: Sequence[float], radius_mm: float) -> np.ndarray:
    """Which points (N, 3) lie in a sphere about the outermost bone in a direction (R, A, S) from the vault's centre."""
    unit, centre = np.array(direction) / np.linalg.norm(direction), _vault_centre(points)
    along = (points - centre) @ unit
    near = np.linalg.norm(points - centre - along[:, None] * unit, axis=1) < 6
    middle = centre + along[near].max() * unit
    return np.linalg.norm(points - middle, axis=1) < radius_mm


def _in_half_face(points: np.ndarray) -> np.ndarray:
    """Which points (N, 3) lie in the left half of the face, from below the orbits to the upper teeth."""
    below = points[:, 2].max() - points[:, 2]
    front = points[:, 1].max() - points[:, 1]
    return (points[:, 0] < _vault_centre(points)[0] - 3) & (below > 105) & (below < 175) & (front < 60)


def _cut(source: Path, where: Callable[[np.ndarray], np.ndarray], defective: Path, implant: Path | None = None) -> None:
    """Cut a piece out of a complete skull and write what is left, and the piece."""
    image = sitk.ReadImage(str(source))
    index, points = _points(image)
    piece = np.zeros(image.GetSize()[::-1], np.uint8)
    piece[tuple(index[where(points)].T)] = 1
    if not piece.any():
        raise RecordingError(f"The cut meets no bone of '{source}'")
    bone = (sitk.GetArrayFromImage(image) > 0).astype(np.uint8)
    for path, array in ((defective, bone - piece), (implant, piece)):
        if path is not None:
            _write(array, image, path)


def _write(array: np.ndarray, like: sitk.Image, path: Path) -> None:
    made = sitk.GetImageFromArray(array)
    made.CopyInformation(like)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(made, str(path), useCompression=True)


def make_inputs(folder: Path, skulls: Path) -> None:
    """Cut and copy the inputs of the cases out of a folder of real skulls (complete/ and defective/)."""
    for name in SOURCE_SKULLS:
        copy(skulls / name, folder / "skulls" / Path(name).name)
    angel = skulls / SOURCE_SKULLS[0]
    _cut(angel, _in_half_face, folder / "facial.nrrd")

    batch, small = folder / "batch", skulls / "complete/scatterbrains05.nrrd"
    copy(skulls / "defective/real_craniotomy.nrrd", batch / "craniotomy.nrrd")
    copy(small, batch / "whole.nrrd")
    _cut(small, lambda points: _in_sphere(points, (0.8, -0.35, 0.6), 28), batch / "parietal.nrrd")
    (batch / "damaged.nrrd").write_bytes((batch / "craniotomy.nrrd").read_bytes()[:20_000])
    centre = _vault_centre(_points(sitk.ReadImage(str(small)))[1])
    box = ",".join(f"{number:.0f}" for number in (*centre, 200, 240, 180))
    with open(batch / "cohort.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(BATCH_COLUMNS)
        table.writerow(("craniotomy.nrrd", "", "", ""))
        table.writerow(("parietal.nrrd", "in_a_box", "", box))
        table.writerow(("whole.nrrd", "", "0.5", ""))
        table.writerow(("damaged.nrrd", "", "", ""))

    truth, predicted = folder / "evaluate/truth", folder / "evaluate/prediction"
    for number, (direction, radius) in enumerate(
        (((0.2, 0.9, 0.45), 25), ((-0.95, 0.1, 0.4), 40), ((0, -0.7, 0.72), 15))
    ):
        name = f"{number:03d}.nrrd"
        _cut(
            small,
            lambda points, d=direction, r=radius: _in_sphere(points, d, r),
            truth / "defective_skull" / name,
            truth / "implant" / name,
        )
        image = sitk.ReadImage(str(truth / "implant" / name))
        moved = np.roll(sitk.GetArrayFromImage(image), (number, 1), (0, 2)) * (number < 2)  # the last one is empty
        _write(moved.astype(np.uint8), image, predicted / name)
    for name, options in (("paper", PAPER), ("canonical", CANONICAL)):
        (folder / f"{name}.json").write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")


def copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)


def fetch_patient(destination: Path) -> None:
    """The patient's CT of `make demo`: the one fetched earlier, else fetched now."""
    from demo import ROOT
    from demo import fetch_patient as fetch

    earlier = ROOT / "demo" / destination.name
    if earlier.is_file():
        copy(earlier, destination)
    elif not fetch(destination):
        raise RecordingError("The patient's CT cannot be fetched. Name it with --patient, or leave out its cases")
