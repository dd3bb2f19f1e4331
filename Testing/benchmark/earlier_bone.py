"""The patient's own earlier bone as reference: default, earlier CT and bone flap, on one set of completed cases.

    python -m benchmark.earlier_bone CASES [NAME ...]      (in Testing/)

CASES is a folder of NAME.pkl, each a pickled {"volume": Volume, "completion": Completion, "truth": bool array} of a
defect that was cut out of a complete skull. The earlier CT is the complete head scanned again: in another pose (10 to
20 degrees, 25 mm), with voxels of another size and noise of 60 HU. The flap is the part that was cut out, as
a mesh in any pose. Prints DSC and, for each table, mean and 95th percentile
in mm of the distance from the truth.
"""

from __future__ import annotations

import dataclasses
import pickle
import sys
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from SkullVAELib.completion.result import Completion, PreparedPatient
from SkullVAELib.evaluation.plan_outcome import Outward, surface_difference
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.mesh.isosurface import mask_surface
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.registration.known_bone import KnownBone

SPACINGS = ((0.6, 0.6, 1.0), (0.5, 0.5, 0.75), (0.9, 0.9, 0.9), (0.7, 0.7, 1.25), (0.55, 0.55, 0.8), (0.8, 0.8, 1.0))
NOISE_HU, THRESHOLD_HU = 60.0, 600.0


def pose(degrees: float, rng: np.random.Generator, centre: np.ndarray) -> np.ndarray:
    axis, matrix = rng.standard_normal(3), np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + rng.uniform(-25, 25, 3)
    return matrix


def scan(mask: Volume, moved: np.ndarray, spacing: tuple[float, ...], rng: np.random.Generator) -> Volume:
    """A CT of a skull in another pose; half of bone is 600 HU."""
    points = apply_affine(moved @ mask.affine, np.argwhere(mask.array[::6, ::6, ::6]) * 6)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = points.min(0) - 12
    shape = np.ceil((np.ptp(points, axis=0) + 24) / spacing).astype(int)
    to_mask = np.linalg.inv(moved @ mask.affine) @ affine
    soft = ndimage.gaussian_filter(mask.array.astype(np.float32), 0.35 / mask.spacing.clip(0.35))
    share = ndimage.affine_transform(soft, to_mask[:3, :3], to_mask[:3, 3], tuple(shape), order=1)
    share = ndimage.gaussian_filter(share, 0.4 / np.array(spacing))
    hu = -20 + 1240 * share + rng.normal(0, NOISE_HU, shape)
    hu[:2] = -1000
    return Volume(np.round(hu).astype(np.int16), affine, "before.nrrd")


def flap(mask: Volume, moved: np.ndarray) -> Mesh:
    """The part that was cut out, in another pose."""
    part = crop(mask, bounding_box(mask.array, np.ceil(4 / mask.spacing).astype(int)))
    mesh = mask_surface(part)
    return Mesh(apply_affine(moved, mesh.points), mesh.faces)


def figures(volume: Volume, truth: np.ndarray, implant: np.ndarray, centre: np.ndarray) -> str:
    """DSC and the distance of the tables from the truth."""
    dice = 2 * (truth & implant).sum() / (truth.sum() + implant.sum())
    meshes = [mask_surface(crop(volume.with_array(m), bounding_box(m, 4))) for m in (truth, implant)]
    outward = Outward(centre)
    facing = outward.facing(meshes[0].points, meshes[0].vertex_normals())
    side = np.where(facing > 0.7, 1, np.where(facing < -0.7, -1, 0))
    difference = np.abs(surface_difference(meshes[0], side, meshes[1], outward))
    tables = [difference[(side == s) & np.isfinite(difference)] for s in (1, -1)]
    return f"DSC {dice:.3f}" + "".join(
        f", {name} {t.mean():.2f}/{np.quantile(t, 0.95):.2f}"
        for name, t in zip(("outer", "inner"), tables, strict=True)
    )


def with_reference(completion: Completion, known: KnownBone) -> Completion:
    p = completion.patient
    assert p is not None
    options = dataclasses.replace(p.options, least_quality=0.0)
    made = PreparedPatient.of(p.registered, p.quality, p.prior, p.finder, p.defects, p.first, options, p.face, known)
    return made.completion()


def main(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names or sorted(path.stem for path in folder.glob("*.pkl"))):
        case = pickle.loads((folder / f"{name}.pkl").read_bytes())
        volume, completion, truth = case["volume"], case["completion"], case["truth"]
        if truth is None:
            continue
        rng = np.random.default_rng(number)
        whole = volume.with_array((volume.array != 0) | truth)
        centre = np.linalg.inv(completion.patient.registered.alignment)[:3, 3]
        moved = pose(10.0 + 2 * number, rng, centre)
        before = KnownBone.of_volume(scan(whole, moved, SPACINGS[number % 6], rng), THRESHOLD_HU)
        part = KnownBone.of_mesh(flap(volume.with_array(truth), pose(100.0, rng, centre)), "flap.stl")
        print(f"{name}: default   {figures(volume, truth, completion.implant.array, centre)}")
        for kind, known in (("before", before), ("flap", part)):
            made = with_reference(completion, known)
            print(f"{name}: {kind:9} {figures(volume, truth, made.implant.array, centre)}, {made.report['reference']}")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
