"""Judging an answer of the command line: right, explained, wrong in silence, or an internal error; and errors in mm."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmark.rays import mean_thickness
from SkullVAELib.core.exit_codes import BAD_INPUT, DONE, NO_DEFECT
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.mesh.distance import SurfaceDistance
from SkullVAELib.mesh.isosurface import mask_surface
from SkullVAELib.mesh.mesh import Mesh

RIGHT, TOLD, REFUSED = "right", "explained", "refused"
SILENT, INTERNAL = "WRONG IN SILENCE", "internal error"
OUTCOMES = (RIGHT, TOLD, REFUSED, SILENT, INTERNAL)
"""REFUSED: the message names the cause, but this input has to be completed."""

OVERLAP = 0.02
"""Share of the implant that may lie on loose bone: what voxels of its surface have in common with it."""

COVERED = 0.5
"""Share of a hole's bone that an implant covers at least where the hole counts as filled."""

TOUCHED = 0.1
"""Share of a hole's bone that an implant may cover where the hole has to stay open."""

WHOLE = 0.8
"""Share of the missing bone's volume that a whole printable implant has at least, with its clearance at the rim."""

THICKNESS = 0.25
"""Relative error that the reported thickness may have."""

FACING = 0.5
"""Least cosine between a surface's normal and the direction from the vault's centre on the outer surface."""


@dataclass(frozen=True)
class Expected:
    """What a right answer is.

    Parameters
    ----------
    truth : Volume, optional
        Missing bone, bool, on the input's grid or, whole, on another.
    surface : Volume, optional
        The same bone on a finer grid or beyond the image, to measure surfaces against; by default the truth.
    least_dsc : float
        Of a right implant.
    holes : sequence of Volume
        Parts of the truth that all have to be filled, however small beside the others.
    left_open : Volume, optional
        Missing bone that has to stay missing.
    clear_of : Volume, optional
        Bone of the input that the implant must not lie on.
    volume_ml : (float, float), optional
        Limits of a right implant where there is no truth.
    whole_mesh : bool
        The printable implant has to have the volume of `surface`, wherever the image ends.
    thickness : bool
        The reported thickness has to be the truth's.
    explained : str
        Regular expression of warnings and refusals that name the cause; "" where none is acceptable instead of a right
        implant.
    must_tell : bool
        A right implant needs the warning as well.
    must_complete : bool
        A refusal is not acceptable.
    centre : (3,) array, optional
        Of the vault, RAS mm; without it no surface errors are measured.
    """

    truth: Volume | None = None
    surface: Volume | None = None
    least_dsc: float = 0.8
    holes: Sequence[Volume] = ()
    left_open: Volume | None = None
    clear_of: Volume | None = None
    volume_ml: tuple[float, float] | None = None
    whole_mesh: bool = False
    thickness: bool = False
    explained: str = ""
    must_tell: bool = False
    must_complete: bool = False
    centre: np.ndarray | None = None

    @property
    def bone(self) -> Volume | None:
        """The missing bone to measure surfaces against."""
        return self.truth if self.surface is None else self.surface


@dataclass(frozen=True)
class Answer:
    """What the command line answered.

    Attributes
    ----------
    exit_code : int or None
        None: it did not end in time.
    stderr : str
    report : dict
        Content of report.json, empty without one.
    implant : Volume or None
        Its voxels, bool.
    mesh : Mesh or None
        The printable implant.
    """

    exit_code: int | None
    stderr: str = ""
    report: dict = field(default_factory=dict)
    implant: Volume | None = None
    mesh: Mesh | None = None

    @property
    def internal_error(self) -> bool:
        expected = self.exit_code in (DONE, BAD_INPUT, NO_DEFECT)
        return not expected or "Traceback" in self.stderr or "Unexpected" in self.stderr

    @property
    def said(self) -> str:
        """Warnings and, where it was refused, the message; without paths, whose words name no cause."""
        text = " ".join(self.report.get("warnings", ()))
        if self.exit_code not in (DONE, NO_DEFECT):
            text += " " + self.stderr
        return re.sub(r"(?<!\w)'[^']*'(?!\w)", "''", text)


def judge(answer: Answer, expected: Expected) -> tuple[str, str]:
    """The outcome, one of OUTCOMES, and what is wrong in words."""
    if answer.internal_error:
        return INTERNAL, answer.stderr.strip().splitlines()[-1] if answer.stderr.strip() else "no message"
    explained = bool(expected.explained) and re.search(expected.explained, answer.said, re.IGNORECASE) is not None
    faults = faults_of(answer, expected)
    rated_poor = (answer.report.get("checks") or {}).get("rating") == "poor"
    if faults and (explained or rated_poor):
        refused = answer.exit_code == BAD_INPUT and expected.must_complete
        return REFUSED if refused else TOLD, "; ".join(faults)
    if not faults and expected.must_tell and not explained:
        faults = ["the cause is not named"]
    return (SILENT, "; ".join(faults)) if faults else (RIGHT, "")


def faults_of(answer: Answer, expected: Expected) -> list[str]:
    """What is wrong with an answer's implant, in words; empty where it is right."""
    if answer.exit_code == BAD_INPUT:
        return ["refused"]
    faults = []
    implant = answer.implant
    if expected.truth is not None:
        found = dsc(expected.truth, implant)
        if found < expected.least_dsc:
            faults.append(f"DSC {found:.2f} of at least {expected.least_dsc:.2f}")
    for number, hole in enumerate(expected.holes, start=1):
        share = covered(hole, implant)
        if share < COVERED:
            faults.append(f"hole {number} of {volume_ml(hole):.1f} ml covered by {share:.0%}")
    if expected.left_open is not None and covered(expected.left_open, implant) > TOUCHED:
        faults.append("filled a hole that has to stay open")
    if expected.clear_of is not None and implant is not None and implant.array.any():
        share = covered(implant, expected.clear_of)
        if share > OVERLAP:
            faults.append(f"{share:.0%} of the implant lies on bone")
    if expected.volume_ml is not None:
        low, high = expected.volume_ml
        ml = 0.0 if implant is None else volume_ml(implant)
        if not low <= ml <= high:
            faults.append(f"{ml:.1f} ml, not between {low:g} and {high:g}")
    if expected.whole_mesh and expected.bone is not None:
        share = (0.0 if answer.mesh is None else answer.mesh.volume_ml) / volume_ml(expected.bone)
        if share < WHOLE:
            faults.append(f"the printable implant has {share:.0%} of the missing bone")
    if expected.thickness and expected.bone is not None and expected.centre is not None:
        reported = answer.report.get("implant", {}).get("thickness_mm", {}).get("mean")
        true = mean_thickness(expected.bone, expected.centre)
        if reported is None or abs(reported / true - 1) > THICKNESS:
            faults.append(f"thickness {reported} mm reported, {true:.1f} mm true")
    return faults


def volume_ml(mask: Volume) -> float:
    """Volume of a mask in millilitres."""
    return int(np.count_nonzero(mask.array)) * mask.voxel_ml


def covered(mask: Volume, other: Volume | None) -> float:
    """Share of a mask's voxels whose centre is in another mask, on any grid; 0 for an empty one."""
    index = np.argwhere(mask.array)
    if other is None or not len(index):
        return 0.0
    return float(_values_at(other, apply_affine(mask.affine, index)).mean())


def dsc(truth: Volume, implant: Volume | None) -> float:
    """Dice similarity coefficient of two masks in the world; their common part is counted on truth's voxels."""
    both = volume_ml(truth) + (0.0 if implant is None else volume_ml(implant))
    return 2 * covered(truth, implant) * volume_ml(truth) / both if both else 1.0


def _values_at(mask: Volume, points: np.ndarray) -> np.ndarray:
    index = np.rint(apply_affine(np.linalg.inv(mask.affine), points)).astype(int)
    inside = ((index >= 0) & (index < mask.array.shape)).all(axis=1)
    values = np.zeros(len(points), bool)
    values[inside] = mask.array[tuple(index[inside].T)] != 0
    return values


# Errors of the surfaces in mm ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Surfaces:
    """The outer and the inner surface of a plate of bone, without the walls of its edge; RAS mm."""

    outer: Mesh
    inner: Mesh

    @classmethod
    def of_mesh(cls, mesh: Mesh, centre: np.ndarray) -> Surfaces:
        """Those of a closed mesh that faces outwards; centre: of the vault, (3,)."""
        away = mesh.points[mesh.faces].mean(axis=1) - centre
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        facing = np.einsum("nx,nx->n", mesh.face_normals(), away)
        return cls(mesh.of_triangles(mesh.faces[facing > FACING]), mesh.of_triangles(mesh.faces[facing < -FACING]))

    @classmethod
    def of_mask(cls, mask: Volume, centre: np.ndarray) -> Surfaces:
        return cls.of_mesh(mask_surface(crop(mask, bounding_box(mask.array))), centre)


def surface_errors(truth: Volume, mesh: Mesh, centre: np.ndarray) -> dict[str, float | None]:
    """Mean and 95th percentile in mm of the distance between the printable implant's surfaces and the truth's.

    Both directions count, so that what lacks counts as much as what is too much. None where there is no such surface.
    """
    true, made = Surfaces.of_mask(truth, centre), Surfaces.of_mesh(mesh, centre)
    errors: dict[str, float | None] = {}
    for name, one, other in (("outer", true.outer, made.outer), ("inner", true.inner, made.inner)):
        distances = np.hstack([_distances(one.points, other), _distances(other.points, one)])
        measured = len(one.faces) and len(other.faces)
        errors[f"{name}_mean_mm"] = round(float(distances.mean()), 3) if measured else None
        errors[f"{name}_p95_mm"] = round(float(np.percentile(distances, 95)), 3) if measured else None
    return errors


def _distances(points: np.ndarray, surface: Mesh) -> np.ndarray:
    if not len(surface.faces) or not len(points):
        return np.full(len(points), np.nan)
    step = max(1, len(points) // 20_000)
    return np.abs(SurfaceDistance(surface).signed(points[::step]))


def read_stl(path: Path) -> Mesh:
    """The mesh of a binary STL file in LPS mm, as the command line writes it: equal corners are one point."""
    data = path.read_bytes()
    facets = np.frombuffer(
        data, np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("rest", "<u2")]), offset=84
    )
    points, faces = np.unique(facets["corners"].reshape(-1, 3), axis=0, return_inverse=True)
    return Mesh(points.astype(float) * [-1.0, -1.0, 1.0], faces.reshape(-1, 3).astype(np.int64))
