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
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.io.images import read_volume
from SkullVAELib.mesh.distance import SurfaceDistance
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.vae.networks import SkullModel

from .hard.holes import Vault
from .hard.judge import Surfaces
from .rays import SPACING_MM, Rays

STEPS = 60

EDGE_MM = 2.0
"""Rays with no flap in part of this distance around them meet its edge."""


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
    """The rigid motion of points (N, 3) in mm onto a surface, by iterated closest points and planes, least squares."""
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
        centre = about + found.shift
        system = np.hstack([np.cross(here - centre, normal), normal])
        step = np.linalg.lstsq(system, -off, rcond=None)[0]
        turn = Rotation.from_rotvec(step[:3]).as_matrix()
        found = Rigid(turn @ found.rotation, about, found.shift + step[3:])
        if np.abs(step).max() < 1e-6:
            break
    return found


def flap_surfaces(flap: Volume, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) in mm where rays from the vault's centre leave a flap and where they enter it.

    Surfaces between them are pores of the diploe. Rays near the flap's edge, where the sawn wall is met, are left out.
    """
    places = apply_affine(flap.affine, np.argwhere(flap.array)) - centre
    radius = np.linalg.norm(places, axis=1)
    mean = float(radius.mean())
    cells = np.unique(np.round(places / radius[:, None] * mean / SPACING_MM).astype(int), axis=0) * SPACING_MM
    directions = cells / np.linalg.norm(cells, axis=1, keepdims=True)
    span = max(0.0, float(radius.min()) - 10.0), float(radius.max()) + 10.0
    met = Rays.of(flap.array, flap.affine, centre, directions, span)
    on_sphere = directions[np.isfinite(met.outer)] * mean
    tree = cKDTree(on_sphere)
    around = tree.query_ball_point(directions * mean, EDGE_MM, return_length=True)
    inside = np.isfinite(met.outer) & (around > 0.85 * np.median(around))
    return tuple(centre + distance[inside, None] * directions[inside] for distance in (met.outer, met.inner))


def compare(flap: Volume, implant: Mesh, centre: np.ndarray) -> dict[str, float]:
    """Median and 90th percentile in mm of the distance of a flap's surfaces from an implant's after the alignment.

    flap: bool; implant: closed mesh, RAS mm; centre: (3,) of the vault, RAS mm.
    """
    made = Surfaces.of_mesh(implant, centre)
    outer, inner = flap_surfaces(flap, centre)
    motion = aligned(outer, made.outer)
    found = {"turned_degrees": motion.degrees, "moved_mm": float(np.linalg.norm(motion.shift))}
    for name, points, surface in (("outer", outer, made.outer), ("inner", inner, made.inner)):
        distance = np.abs(SurfaceDistance(surface).signed(motion(points)))
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
