"""A real craniotomy: the proposed implant beside the patient's own bone flap.

The flap was put back by a surgeon, turned and out of place, so that its shape is compared after a rigid alignment: its
outer surface is moved onto the implant's by translation and rotation, and the distances of the flap's outer and inner
surface from the implant's are measured. A saw's cut is missing around the flap, so that it is smaller than the implant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from SkullVAELib.api import complete
from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.io.images import read_volume
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.vae.networks import SkullModel

from .hard.holes import Vault
from .hard.judge import Surfaces, _distances

STEPS = 60
SAMPLED_MM = 0.5
"""Distance between the points of the implant's surface on which the nearest one is searched first."""


@dataclass(frozen=True)
class Rigid:
    """A rotation about a point and a translation: x -> rotation (x - about) + about + shift, mm."""

    rotation: np.ndarray
    about: np.ndarray
    shift: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return (points - self.about) @ self.rotation.T + self.about + self.shift

    @property
    def degrees(self) -> float:
        return float(np.degrees(Rotation.from_matrix(self.rotation).magnitude()))


def aligned(points: np.ndarray, surface: Mesh, steps: int = STEPS) -> Rigid:
    """The rigid motion of points (N, 3) in mm onto a surface, by iterated closest points and planes.

    Weights fall beyond three times the median distance: wires on a flap and its edge count little.
    """
    corners = surface.points[surface.faces]
    target, normals = corners.mean(axis=1), surface.face_normals()
    tree = cKDTree(target)
    about = points.mean(axis=0)
    found = Rigid(np.eye(3), about, np.zeros(3))
    for _ in range(steps):
        here = found(points)
        near = tree.query(here)[1]
        normal = normals[near]
        off = np.einsum("nx,nx->n", here - target[near], normal)
        limit = 3 * np.median(np.abs(off)) + 0.05
        weight = np.sqrt(1 / (1 + (off / limit) ** 2))[:, None]
        centre = about + found.shift
        system = np.hstack([np.cross(here - centre, normal), normal]) * weight
        step = np.linalg.lstsq(system, -off * weight[:, 0], rcond=None)[0]
        turn = Rotation.from_rotvec(step[:3]).as_matrix()
        found = Rigid(turn @ found.rotation, about, found.shift + step[3:])
        if np.abs(step).max() < 1e-6:
            break
    return found


def compare(flap: Volume, implant: Mesh, centre: np.ndarray) -> dict[str, float]:
    """Median and 90th percentile in mm of the distance of a flap's surfaces from an implant's after the alignment.

    flap: bool; implant: closed mesh, RAS mm; centre: (3,) of the vault, RAS mm.
    """
    own, made = Surfaces.of_mask(flap, centre), Surfaces.of_mesh(implant, centre)
    used = {name: np.unique(mesh.faces) for name, mesh in (("outer", own.outer), ("inner", own.inner))}
    outer, inner = own.outer.points[used["outer"]], own.inner.points[used["inner"]]
    motion = aligned(outer, made.outer)
    found = {"turned_degrees": motion.degrees, "moved_mm": float(np.linalg.norm(motion.shift))}
    for name, points, surface in (("outer", outer, made.outer), ("inner", inner, made.inner)):
        distance = _distances(motion(points), surface)
        found[f"{name}_median_mm"] = float(np.median(distance))
        found[f"{name}_p90_mm"] = float(np.percentile(distance, 90))
    return {name: round(value, 3) for name, value in found.items()}


def run(defective: Path, flap: Path, model: SkullModel, prior: str) -> dict[str, float | bool | str]:
    """Complete a real patient's skull and compare the implant with the patient's own flap."""
    skull, own = read_volume(defective), read_volume(flap)
    result = complete(skull, model, CompletionOptions(prior=prior), ImplantOptions(clearance_mm=0.0))
    record: dict[str, float | bool | str] = {"defective": defective.name, "flap": flap.name, "found": result.found}
    if not result.found:
        return record
    flap_bone = own.with_array(own.array != 0)
    both = skull.with_array(result.completed.array)
    return record | compare(flap_bone, result.printable.mesh, Vault.of(both).centre)


def as_text(record: dict) -> str:
    """The figures in one line."""
    if not record["found"]:
        return f"{record['defective']}: no defect was found"
    return (
        f"{record['defective']} against the patient's own flap, aligned ({record['turned_degrees']:.1f} degrees,"
        f" {record['moved_mm']:.1f} mm): outer {record['outer_median_mm']:.2f} mm (90th percentile"
        f" {record['outer_p90_mm']:.2f}), inner {record['inner_median_mm']:.2f} ({record['inner_p90_mm']:.2f})"
    )
