"""Errors of `skullvae compare`: implants moved by known amounts, put into the skull and scanned again.

    python -m benchmark.placed_implants CASES NAME ...      (in Testing/)

CASES as for `earlier_bone`. The printable implant (clearance 0.5 mm) is moved, united with the intact bone, and
resampled as a CT in another pose (12 degrees), with voxels of 0.6 x 0.6 x 0.9 mm and noise of 60 HU. Prints the error
of the displacement of the centre in mm and of the rotation in degrees.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from benchmark.earlier_bone import NOISE_HU, THRESHOLD_HU, pose
from SkullVAELib.evaluation.plan_outcome import Plan, compare
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.volume import Volume, sample_volume
from SkullVAELib.implant.implant_mesh import make_implant
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.mesh.reading import voxelise
from SkullVAELib.registration.known_bone import KnownBone
from SkullVAELib.registration.reference import MeanSkull
from SkullVAELib.registration.rigid import rotation_of

MOTIONS = (
    (0.0, (1, 0, 0), (0, 0, 0)),
    (2.0, (1, 0.3, 0), (1, 0.5, -1)),
    (4.0, (0, 1, 0.6), (-2, 2, 1.5)),
    (6.0, (0.5, 0.2, 1), (3, -1, 2)),
)
"""Rotation in degrees, its axis, and displacement of the centre in mm."""

SPACING = (0.6, 0.6, 0.9)


def placed(bone: Volume, mesh: Mesh, rng: np.random.Generator) -> Volume:
    """A CT of bone and implant in another pose."""
    fraction = voxelise(mesh, 0.4)
    index = apply_affine(np.linalg.inv(bone.affine), mesh.points)
    low = np.maximum(np.floor(index.min(0)).astype(int) - 3, 0)
    high = np.minimum(np.ceil(index.max(0)).astype(int) + 4, bone.array.shape)
    at = apply_affine(bone.affine, np.indices(high - low).reshape(3, -1).T + low)
    filled = sample_volume(fraction.with_array(ndimage.gaussian_filter(fraction.array, 0.7)), at, 0.0)
    soft = ndimage.gaussian_filter(bone.array.astype(np.float32), 0.5)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    soft[box] = np.maximum(soft[box], filled.reshape(high - low))
    points = apply_affine(bone.affine, np.argwhere(bone.array[::6, ::6, ::6]) * 6)
    moved = pose(12.0, rng, points.mean(0))
    points = apply_affine(moved, points)
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = points.min(0) - 12
    shape = np.ceil((np.ptp(points, axis=0) + 24) / SPACING).astype(int)
    matrix = np.linalg.inv(moved @ bone.affine) @ affine
    share = ndimage.affine_transform(soft, matrix[:3, :3], matrix[:3, 3], tuple(shape), order=1)
    hu = -20 + 1240 * share + rng.normal(0, NOISE_HU, shape)
    hu[:2] = -1000
    return Volume(np.round(hu).astype(np.int16), affine, "later.nrrd")


def main(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        case = pickle.loads((folder / f"{name}.pkl").read_bytes())
        completion = case["completion"]
        mesh = make_implant(completion, ImplantOptions(clearance_mm=0.5)).mesh
        bone = completion.completed.with_array(completion.completed.array & ~completion.implant.array)
        plan = Plan(name, mesh, KnownBone(name, "skull", bone))
        target, centre = MeanSkull.of(completion.patient.prior.model).target, mesh.points.mean(0)
        for degrees, axis, shift in MOTIONS:
            motion = np.eye(4)
            turn = np.radians(degrees) * np.array(axis) / np.linalg.norm(axis)
            motion[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
            motion[:3, 3] = centre + shift - motion[:3, :3] @ centre
            scan = placed(bone, Mesh(apply_affine(motion, mesh.points), mesh.faces), np.random.default_rng(number))
            made = compare(plan, KnownBone.of_volume(scan, THRESHOLD_HU), target)
            error = np.linalg.norm(apply_affine(made.motion, centre[None]) - apply_affine(motion, centre[None]))
            turned = rotation_of(np.linalg.inv(motion) @ made.motion)[0]
            far = f"{np.linalg.norm(shift):.1f} mm, {degrees:g} degrees"
            print(f"{name}: {far}: {error:.3f} mm, {turned:.3f} degrees; {made.figures['displacement']}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
