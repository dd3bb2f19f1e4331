"""Comparison of a planned implant with the outcome: a later CT, a segmentation, or a scan of the part.

Both are brought into the coordinates of the plan: by intact bone where both have a skull, otherwise by the coordinates
of the files where these agree, or by the parts themselves. Then the planned implant is moved as a rigid body onto the
outcome: the motion is its displacement, what remains is the difference of shape.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.threads import one_thread
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.volume import Volume, sample_volume
from SkullVAELib.io.images import read_volume
from SkullVAELib.mesh.distance import SurfaceDistance
from SkullVAELib.mesh.isosurface import level_surface
from SkullVAELib.mesh.mesh import Mesh, component_labels
from SkullVAELib.mesh.reading import read_mesh
from SkullVAELib.registration.affine import AffineTarget, register_affine
from SkullVAELib.registration.known_bone import KnownBone
from SkullVAELib.registration.rigid import PointSurface, register_part, register_rigid, rotation_of, surface_distances
from SkullVAELib.registration.skull_match import SkullMatch, match_skulls

FACE = 0.6
"""Cosine to the outward direction from which on a point belongs to the outer or inner surface and not to the edge."""

# Bone of the outcome within this distance of the intact bone is intact bone, and what is farther than the second from
# the planned implant is something else, mm.
_INTACT_MM, _REACH_MM = 0.8, 12.0

# A difference is not measured where the nearest point is farther aside than this, mm: one of the surfaces ends there.
_ASIDE_MM = 1.5

# Nor where the way back is shorter than half of the way there by more than this, mm.
_BACK_MM = 0.3

# Nor where the two surfaces face different ways, by the cosine of the angle between them.
_AGREE = 0.7

# Skulls whose residual on intact bone has a larger median do not belong to one head, mm.
_REFUSED_MM = 1.2

# Files share coordinates if their parts are at most this far and this much turned apart, mm and degrees.
_SAME_MM, _SAME_DEG = 25.0, 30.0

# Smaller differences are not counted as lost or gained, mm.
_TOLERANCE_MM = 0.3

# Width of the strips along the rim through which planes are fitted, and distance of the places along it, mm.
_STRIP_MM, _PLACES_MM = 6.0, 2.0

# Where the outer surface of plate or bone deviates more from a plane, mm, there is no step to be measured.
_ROUGH_MM = 0.4

# Spread of points across a strip from which on they determine its slope, mm.
_SLOPE_MM = 0.7

# Loss of thickness from which on an area counts as resorbed, mm.
_RESORBED_MM = 1.0

# Height over the voxels of the implant from which on the mesh of a plan is a tab or a flange: a length in mm, and a
# share of a voxel, because the outer surface is about half a voxel above the centres.
_RAISED_MM, _RAISED_VOXELS = 0.7, 0.7

# Components of a surface with a smaller area are left out, mm2.
_SMALL_MM2 = 100.0


@dataclass(frozen=True)
class Plan:
    """A planned implant.

    Attributes
    ----------
    name : str
        Name of its file or folder.
    mesh : Mesh
        The implant, RAS mm.
    bone : KnownBone or None
        The intact bone around it; None for an implant alone.
    fixation_mm2 : float
        Area of tabs and flange, which `mesh` does not contain and is therefore open; 0 for a plan without.
    plate_ml : float or None
        Volume of a plate whose mesh is open.
    """

    name: str
    mesh: Mesh
    bone: KnownBone | None = None
    fixation_mm2: float = 0.0
    plate_ml: float | None = None

    @classmethod
    def read(cls, path: str | os.PathLike, threshold_hu: float | None = None) -> Plan:
        """Read a plan: a result folder of a completion, a mesh or a labelmap of the implant.

        Raises
        ------
        SkullVAEError
            The files are missing or damaged, or there is no implant.
        """
        path = Path(path)
        if not path.is_dir():
            known = KnownBone.read(path, threshold_hu)
            if known.kind == "skull":
                raise SkullVAEError(
                    f"The plan '{path.name}' is a whole skull, not an implant",
                    "Name the result folder of its completion, or a mesh or labelmap of the implant alone",
                )
            return cls(known.name, part_mesh(known))
        missing = [name for name in ("completed.nrrd", "implant.nrrd") if not (path / name).is_file()]
        if missing:
            raise SkullVAEError(
                f"The folder '{path}' has no {missing[0]}", "Name the result folder of a completion, or a mesh"
            )
        completed, implant = (read_volume(path / name) for name in ("completed.nrrd", "implant.nrrd"))
        if not implant.array.any():
            raise SkullVAEError(f"The result in '{path}' has no implant", "Complete the skull with a defect filled")
        if implant.array.shape != completed.array.shape or not np.allclose(implant.affine, completed.affine):
            raise SkullVAEError(
                f"implant.nrrd and completed.nrrd in '{path}' have different grids", "Complete the skull again"
            )
        stl = path / "implant.stl"
        solid = KnownBone(path.name, "part", implant.with_array(implant.array != 0))
        mesh = read_mesh(stl) if stl.is_file() else part_mesh(solid)
        bone = completed.with_array((completed.array != 0) & (implant.array == 0))
        plan = cls(path.name, mesh, KnownBone(path.name, "skull", bone))
        fixed, plate_ml = _fixation(path / "report.json")
        if not fixed or not stl.is_file():
            return plan
        plate = without_fixation(mesh, solid.bone, bone, plan.outward)
        return replace(plan, mesh=plate, fixation_mm2=mesh.area_mm2 - plate.area_mm2, plate_ml=plate_ml)

    @property
    def volume_ml(self) -> float:
        """Volume of the plate in ml."""
        return self.mesh.volume_ml if self.plate_ml is None else self.plate_ml

    @property
    def centre(self) -> np.ndarray:
        """Centre of mass (3,), RAS mm; of the surface where that is open."""
        if not self.fixation_mm2:
            return _centroid(self.mesh)
        return np.average(self.mesh.points[self.mesh.faces].mean(1), axis=0, weights=self.mesh.face_areas())

    @cached_property
    def outward(self) -> Outward:
        """Which way is out of the head."""
        if self.bone is None:
            return Outward.of_plate(self.mesh)
        points = self.bone.surface.points
        vault = points[points[:, 2] > np.percentile(points[:, 2], 99.9) - 95]
        low, high = np.percentile(vault, [1, 99], axis=0)
        return Outward((low + high) / 2 * [1, 1, 0] + [0, 0, float(np.percentile(points[:, 2], 99.9)) - 75])


def _fixation(report: Path) -> tuple[bool, float | None]:
    """Whether a result has tabs or a flange by its report, and the volume of its plates in ml, None if not known."""
    try:
        printable = json.loads(report.read_text(encoding="utf-8"))["printable_implant"]
        added = printable["additions"]
        fixed = bool(added["tabs"] or added["tab_at"] or added["flange_mm"])
        return fixed, float(sum(piece["plate_ml"] for piece in printable["pieces"])) if fixed else None
    except (OSError, ValueError, KeyError, TypeError):
        return False, None


def without_fixation(mesh: Mesh, implant: Volume, bone: Volume, outward: Outward) -> Mesh:
    """Leave tabs and flange out of the mesh of an implant.

    Parameters
    ----------
    mesh : Mesh
        The printable implant, RAS mm.
    implant, bone : Volume
        Bool voxels of the implant, which has neither, and of the intact bone, on one grid.
    outward : Outward
        The outward direction.

    Returns
    -------
    Mesh
        The mesh without what lies on the outer surface of bone, or stands out of that of the implant; it is open there.
    """
    index = apply_affine(np.linalg.inv(implant.affine), mesh.points)
    margin, size = np.ceil(_REACH_MM / implant.spacing), np.array(implant.array.shape)
    low = np.clip(np.floor(index.min(0) - margin), 0, size).astype(int)
    high = np.clip(np.ceil(index.max(0) + margin) + 1, 0, size).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    own, around = (np.argwhere(volume.array[box]) + low for volume in (implant, bone))
    places = apply_affine(implant.affine, np.concatenate([own, around]))
    at = cKDTree(places).query(mesh.points)[1]
    height = ((mesh.points - places[at]) * outward.at(mesh.points)).sum(1)
    voxel_mm, over_bone = float(implant.spacing.max()), at >= len(own)
    below = outward.facing(mesh.points, mesh.vertex_normals()) < -0.3  # the lower side of a tab
    fixation = height > _RAISED_MM + _RAISED_VOXELS * voxel_mm
    fixation |= over_bone & ((height > 0.5 + 0.5 * voxel_mm) | (below & (height > 0.3 * voxel_mm)))
    plate = mesh.of_triangles(mesh.faces[~fixation[mesh.faces].any(1)])
    return _large_components(plate, min(_SMALL_MM2, 0.2 * plate.area_mm2))


def part_mesh(known: KnownBone) -> Mesh:
    """The surface of a part, RAS mm."""
    if known.mesh is not None and len(known.mesh.points) > 5000:
        return known.mesh
    distance = known.distance_around(None, 3.0)
    return level_surface(distance.with_array(-distance.array), 0.01)


@dataclass(frozen=True)
class Outward:
    """Directions out of the head, seen from a centre.

    Attributes
    ----------
    centre : numpy.ndarray, shape (3,)
        RAS mm.
    """

    centre: np.ndarray

    @classmethod
    def of_plate(cls, mesh: Mesh) -> Outward:
        """Seen from the centre of curvature of a plate; a flat one is seen from its own middle's side nearest to the
        origin."""
        points = mesh.points[:: max(1, len(mesh.points) // 20000)]
        middle = points.mean(0)
        relative = points - middle
        system = np.hstack([2 * relative, np.ones((len(points), 1))])
        centre = np.linalg.lstsq(system, (relative**2).sum(1), rcond=None)[0][:3]
        radius = float(np.linalg.norm(centre))
        axis = np.linalg.eigh(np.cov(relative.T))[1][:, 0]
        if not 20.0 < radius < 400.0:
            centre = axis * (300.0 if axis @ middle < 0 else -300.0)
        return cls(middle + centre)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Unit vectors (N, 3)."""
        away = points - self.centre
        return away / np.linalg.norm(away, axis=1, keepdims=True).clip(1e-6)

    def facing(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Cosines (N,) of normals to the outward direction."""
        return (self.at(points) * normals).sum(1)


@dataclass(frozen=True)
class Placed:
    """The outcome in the coordinates of the plan.

    Attributes
    ----------
    mesh : Mesh
        Surface of the part, RAS mm of the plan; of a CT without intact bone, so that it may be open.
    frame : str
        How it came there: "intact bone", "files" or "best fit".
    match : SkullMatch or None
        The registration of the skulls.
    bone : KnownBone or None
        The outcome's skull; None for a part.
    volume_ml : float or None
        Volume of the part; None where it is not separate from bone.
    """

    mesh: Mesh
    frame: str
    match: SkullMatch | None = None
    volume_ml: float | None = None

    @cached_property
    def surface(self) -> PointSurface:
        """The points of the mesh."""
        return PointSurface(self.mesh.points, self.mesh.vertex_normals())


@dataclass(frozen=True)
class Comparison:
    """A plan compared with its outcome; lengths in mm, in the coordinates of the plan.

    Attributes
    ----------
    plan : Plan
        The plan.
    placed : Placed
        The outcome.
    motion : numpy.ndarray, shape (4, 4)
        Rigid motion of the planned implant onto the outcome.
    side : numpy.ndarray, shape (N,)
        1 at points of the outer surface of the plan, -1 of the inner surface, 0 of its edge.
    difference_mm : numpy.ndarray or None, shape (N,)
        Signed distance from the plan, where it was planned, to the outcome: positive where the outcome reaches beyond
        the planned surface. nan where it is not measured; None where the files have no coordinates in common.
    shape_mm : numpy.ndarray, shape (N,)
        The same after the rigid motion: the difference of shape.
    figures : dict
        Content of compare.json.
    """

    plan: Plan
    placed: Placed
    motion: np.ndarray
    side: np.ndarray
    difference_mm: np.ndarray | None
    shape_mm: np.ndarray
    figures: dict


@one_thread()
def compare(plan: Plan, outcome: KnownBone, target: AffineTarget | None = None) -> Comparison:
    """Compare a planned implant with the outcome.

    Parameters
    ----------
    plan : Plan
        The plan.
    outcome : KnownBone
        A skull with the implant, or the part alone, in any pose.
    target : AffineTarget, optional
        The mean skull, needed where both have a skull.

    Returns
    -------
    Comparison

    Raises
    ------
    SkullVAEError
        The outcome does not belong to the plan, or has no bone where the implant was planned.
    """
    own = PointSurface(plan.mesh.points, plan.mesh.vertex_normals())
    if outcome.kind == "skull":
        placed = _placed_skull(plan, outcome, target)
        motion = register_rigid(own.some(5000), placed.surface.some(60000), np.eye(4), (6.0, 3.0, 1.5, 0.8), 25, 5000)
    else:
        placed, motion = _placed_part(plan, own, outcome)
    facing = plan.outward.facing(own.points, own.normals)
    side = np.where(facing > FACE, 1, np.where(facing < -FACE, -1, 0))
    difference = None
    if placed.frame != "best fit":
        difference = surface_difference(plan.mesh, side, placed.mesh, plan.outward)
    moved = Mesh(apply_affine(motion, plan.mesh.points), plan.mesh.faces)
    there = Outward(apply_affine(motion, plan.outward.centre[None])[0])
    shape = surface_difference(moved, side, placed.mesh, there)
    made = Comparison(plan, placed, motion, side, difference, shape, {})
    return replace(made, figures=_figures(made, outcome))


def _placed_skull(plan: Plan, outcome: KnownBone, target: AffineTarget | None) -> Placed:
    """The part in a skull, in the coordinates of the plan."""
    match, to_outcome = None, np.eye(4)
    if plan.bone is not None and target is not None:
        bone = plan.bone.surface
        match = match_skulls(bone, register_affine(bone.points, target), outcome, target)
        if match.mirrored:
            raise SkullVAEError(
                f"The outcome '{outcome.name}' matches the plan better as a mirror image, so that left and right are"
                " swapped in one of the files",
                "Correct the orientation in its header, or export it again",
            )
        if match.median_mm > _REFUSED_MM:
            raise SkullVAEError(
                f"The outcome '{outcome.name}' is {match.median_mm:.1f} mm (median) from the plan's intact bone",
                "Check that both are of one patient and measured in millimetres",
            )
        to_outcome = match.matrix
    around = apply_affine(to_outcome, plan.mesh.points)
    distance = outcome.distance_around(around, _REACH_MM + 3.0)
    if not distance.array.size or not (distance.array < 0).any():
        raise SkullVAEError(
            f"The outcome '{outcome.name}' has no bone where the implant was planned",
            "Name the result folder as the plan, so that the skulls are registered, or choose a lower --threshold",
        )
    mesh = level_surface(distance.with_array(-distance.array), 0.01)
    mesh = Mesh(apply_affine(np.linalg.inv(to_outcome), mesh.points), mesh.faces)
    keep = SurfaceDistance(plan.mesh).nearby(mesh.points, _REACH_MM) < _REACH_MM
    if plan.bone is not None:
        intact = plan.bone.distance_around(plan.mesh.points, _REACH_MM + 6.0)
        keep &= sample_volume(intact, mesh.points, 99.0) > _INTACT_MM
    faces = mesh.faces[keep[mesh.faces].all(1)]
    part = mesh.of_triangles(faces) if len(faces) else Mesh.empty()
    part = _large_components(part, _SMALL_MM2)
    if part.area_mm2 < 0.2 * plan.mesh.area_mm2:
        raise SkullVAEError(
            f"The outcome '{outcome.name}' has no implant where it was planned",
            "Choose a --threshold that shows the implant, or segment it and compare the segmentation",
        )
    return Placed(part, "intact bone" if match is not None else "files", match)


def _large_components(mesh: Mesh, least_mm2: float) -> Mesh:
    """The mesh without components of a smaller area."""
    if not len(mesh.faces):
        return mesh
    label = component_labels(len(mesh.points), mesh.faces)[mesh.faces[:, 0]]
    return mesh.of_triangles(mesh.faces[np.bincount(label, mesh.face_areas())[label] >= least_mm2])


def _placed_part(plan: Plan, own: PointSurface, outcome: KnownBone) -> tuple[Placed, np.ndarray]:
    """A part in the coordinates of the plan, and the motion of the planned implant onto it."""
    mesh = part_mesh(outcome)
    surface = PointSurface(mesh.points, mesh.vertex_normals())
    motion = register_part(own, surface, [np.eye(4)])
    motion = register_rigid(own.some(6000), surface.some(80000), motion, (1.5, 0.8), 20, 6000)
    residual = surface_distances(own.some(5000), surface.some(80000), motion)
    if np.median(residual) > 3.0:
        raise SkullVAEError(
            f"The part '{outcome.name}' does not resemble the planned implant: {np.median(residual):.1f} mm (median)"
            " apart in the best position",
            "Check that it is the same part and measured in millimetres",
        )
    centre = own.points.mean(0)
    apart = float(np.linalg.norm(apply_affine(motion, centre[None])[0] - centre))
    if apart < _SAME_MM and rotation_of(motion)[0] < _SAME_DEG:
        return Placed(mesh, "files", volume_ml=mesh.volume_ml), motion
    back = np.linalg.inv(motion)
    moved = Mesh(apply_affine(back, mesh.points), mesh.faces)
    return Placed(moved, "best fit", volume_ml=mesh.volume_ml), np.eye(4)


def surface_difference(mesh: Mesh, side: np.ndarray, other: Mesh, outward: Outward) -> np.ndarray:
    """Signed distance from a plate to another one, of its outer surface to the outer one and of the inner to the inner.

    Parameters
    ----------
    mesh : Mesh
        The plate, N points.
    side : numpy.ndarray, shape (N,)
        1 outer, -1 inner, 0 edge.
    other : Mesh
        The other plate, in the same coordinates.
    outward : Outward
        The outward direction.

    Returns
    -------
    numpy.ndarray, shape (N,)
        mm, positive where the other one reaches beyond the surface; nan where one of them ends.
    """
    difference = np.full(len(mesh.points), np.nan)
    normals = mesh.vertex_normals()
    facing = outward.facing(other.points[other.faces].mean(1), other.face_normals())
    for which, chosen in ((1, facing > 0.3), (-1, facing < -0.3), (0, np.abs(facing) < 0.8)):
        at = np.flatnonzero(side == which)
        if not len(at) or chosen.sum() < 20:
            continue
        surface = SurfaceDistance(other.of_triangles(other.faces[chosen]))
        points = mesh.points[at]
        signed = -surface.signed(points)
        # Where the nearest point is not across from the point, or faces another way, the other surface has ended.
        aside, agree, there = _beside(surface, points, normals[at], signed)
        known = (aside < _ASIDE_MM) & (agree > _AGREE) & (np.abs(signed) < _REACH_MM)
        # Nor is it a counterpart if it is much nearer to another place of the plate, as where that is grown over.
        own = mesh.of_triangles(mesh.faces[(side[mesh.faces] == which).all(1)])
        if len(own.faces):
            known &= np.abs(SurfaceDistance(own).signed(there)) > 0.5 * np.abs(signed) - _BACK_MM
        difference[at] = np.where(known, signed, np.nan)
    return difference


def _beside(
    surface: SurfaceDistance, points: np.ndarray, normals: np.ndarray, signed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far beside points (N, 3) the nearest triangle is, mm, the cosine of its normal and the points', and where."""
    centres = surface.mesh.points[surface.mesh.faces].mean(1)
    _, at = cKDTree(centres).query(points)
    towards = surface.mesh.face_normals()[at]
    plane = np.abs(((points - centres[at]) * towards).sum(1))
    aside = np.sqrt(np.maximum(signed**2 - np.minimum(plane, np.abs(signed)) ** 2, 0))
    return aside, (towards * normals).sum(1), centres[at]


def _summary(values: np.ndarray) -> dict | None:
    """Figures of signed distances, without nan; None without any."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    size = np.abs(values)
    return {
        "mean": round(float(values.mean()), 3),
        "rms": round(float(np.sqrt((values**2).mean())), 3),
        "median": round(float(np.median(values)), 3),
        "p90": round(float(np.quantile(size, 0.9)), 3),
        "p95": round(float(np.quantile(size, 0.95)), 3),
        "max": round(float(size.max()), 3),
    }


def _place(point: np.ndarray) -> list[float]:
    return [round(float(mm), 1) for mm in point]


def _by_side(made: Comparison, values: np.ndarray) -> dict:
    """Figures of the outer and of the inner surface, and the share of both that was compared."""
    faces = made.side != 0
    return {
        "outer": _summary(values[made.side == 1]),
        "inner": _summary(values[made.side == -1]),
        "compared": round(float(np.isfinite(values[faces]).mean()), 3) if faces.any() else 0.0,
    }


def _figures(made: Comparison, outcome: KnownBone) -> dict:
    plan, placed, motion = made.plan, made.placed, made.motion
    figures: dict = {
        "plan": plan.name,
        "outcome": outcome.name,
        "outcome_kind": outcome.kind,
        "coordinates": placed.frame,
        "left_out_cm2": round(plan.fixation_mm2 / 100, 2),
        "registration_mm": None,
        "displacement": None,
        "difference_mm": None if made.difference_mm is None else _by_side(made, made.difference_mm),
        "shape_mm": _by_side(made, made.shape_mm),
        "resorption": _resorption(made),
        "rim": None,
    }
    if placed.match is not None:
        figures["registration_mm"] = {
            "median": round(placed.match.median_mm, 2),
            "p95": round(placed.match.p95_mm, 2),
        }
    if placed.frame != "best fit":
        centre = plan.centre
        shift = apply_affine(motion, centre[None])[0] - centre
        angle, axis = rotation_of(motion)
        figures["displacement"] = {
            "mm": round(float(np.linalg.norm(shift)), 2),
            "right_mm": round(float(shift[0]), 2),
            "anterior_mm": round(float(shift[1]), 2),
            "superior_mm": round(float(shift[2]), 2),
            "outward_mm": round(float(shift @ plan.outward.at(centre[None])[0]), 2),
            "rotation_deg": round(angle, 2),
            "axis_ras": [round(float(value), 3) for value in axis],
        }
        if plan.bone is not None:
            figures["rim"] = _rim(made)
    return figures


def _centroid(mesh: Mesh) -> np.ndarray:
    """Centre of mass (3,) of a closed mesh."""
    corners = mesh.points[mesh.faces] - mesh.points.mean(0)
    volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    return mesh.points.mean(0) + (corners.sum(1) * volume[:, None]).sum(0) / (4 * volume.sum())


def _resorption(made: Comparison) -> dict:
    """Volume lost and gained relative to the plan, and the change of thickness, after the rigid motion."""
    mesh, shape = made.plan.mesh, made.shape_mm
    area = mesh.point_areas()
    known = np.isfinite(shape)
    if made.placed.volume_ml is None:
        known &= made.side != 0  # the edge may be one with bone
    depth = np.where(known & (np.abs(shape) > _TOLERANCE_MM), shape, 0.0)
    figures: dict = {
        "lost_ml": round(float(-(area * np.minimum(depth, 0)).sum() / 1000), 2),
        "gained_ml": round(float((area * np.maximum(depth, 0)).sum() / 1000), 2),
        "planned_ml": round(made.plan.volume_ml, 2),
        "outcome_ml": None if made.placed.volume_ml is None else round(made.placed.volume_ml, 2),
        "thickness_change_mm": None,
    }
    outer, inner = (np.flatnonzero((made.side == side) & known) for side in (1, -1))
    if len(outer) < 50 or len(inner) < 50:
        return figures
    # What is opposite of a point is found along the outward direction, so that depth does not matter.
    towards = made.plan.outward.at(mesh.points)
    apart, at = cKDTree(towards[inner]).query(towards[outer])
    across = apart * np.linalg.norm(mesh.points[outer] - made.plan.outward.centre, axis=1) < 2.0
    if across.sum() < 50:
        return figures
    outer, at = outer[across], inner[at[across]]
    change, weight = shape[outer] + shape[at], area[outer]
    # Over about a tenth of a square centimetre, since single points may meet another surface.
    near = min(len(outer), max(3, round(10 / float(np.median(weight)))))
    some = np.random.default_rng(0).permutation(len(outer))[:3000]
    change[some] = np.median(change[cKDTree(mesh.points[outer]).query(mesh.points[outer[some]], k=near)[1]], axis=1)
    outer, change, weight = outer[some], change[some], weight[some]
    least = int(change.argmin())
    figures["thickness_change_mm"] = {
        "mean": round(float(np.average(change, weights=weight)), 3),
        "median": round(float(np.median(change)), 3),
        "p5": round(float(np.quantile(change, 0.05)), 3),
        "least": round(float(change[least]), 3),
        "least_at_ras": _place(mesh.points[outer[least]]),
        "thinner_by_1_mm": round(float(weight[change < -_RESORBED_MM].sum() / weight.sum()), 3),
    }
    return figures


def rim_points(mesh: Mesh, side: np.ndarray) -> np.ndarray:
    """Indices (K,) of points where the outer surface of a plate meets its edge, about 2 mm apart."""
    inside = side[mesh.faces] == 1
    at = np.unique(mesh.faces[inside.any(1) & ~inside.all(1)][inside[inside.any(1) & ~inside.all(1)]])
    # Small islands within the edge are no rim.
    chosen: list[int] = []
    if len(at):
        tree, free = cKDTree(mesh.points[at]), np.ones(len(at), bool)
        for n in range(len(at)):
            if free[n]:
                chosen.append(n)
                free[tree.query_ball_point(mesh.points[at[n]], _PLACES_MM)] = False
    return at[chosen]


def _rim(made: Comparison) -> dict:
    """Gap and step along the rim, as it was planned and as it is."""
    plan, placed = made.plan, made.placed
    assert plan.bone is not None
    distance = plan.bone.distance_around(plan.mesh.points, 2 * _REACH_MM)
    bone = level_surface(distance.with_array(-distance.array), 0.01)
    figures = {"planned": gap_and_step(plan.mesh, made.side, bone, plan.outward)}
    if placed.volume_ml is None:
        actual = Mesh(apply_affine(made.motion, plan.mesh.points), plan.mesh.faces)
        side = made.side
    else:
        actual = placed.mesh
        facing = plan.outward.facing(actual.points, actual.vertex_normals())
        side = np.where(facing > FACE, 1, np.where(facing < -FACE, -1, 0))
    return figures | {"outcome": gap_and_step(actual, side, bone, plan.outward)}


def gap_and_step(mesh: Mesh, side: np.ndarray, bone: Mesh, outward: Outward) -> dict | None:
    """Gap and step between a plate and the bone around it.

    At places along the rim of the plate's outer surface, planes are fitted to the outer surfaces of plate and bone
    within 6 mm. The step is the height of the plate over the bone, the gap is the way to the nearest bone along the
    surface.

    Parameters
    ----------
    mesh : Mesh
        The plate, N points.
    side : numpy.ndarray, shape (N,)
        1 outer, -1 inner, 0 edge.
    bone : Mesh
        The bone.
    outward : Outward
        The outward direction.

    Returns
    -------
    dict or None
        "gap_mm" and "step_mm", each with "mean", "p95" and "max" of the size, and "max_at_ras"; None where there is no
        bone near the rim.
    """
    places = rim_points(mesh, side)
    facing = outward.facing(bone.points, bone.vertex_normals())
    bone_outer, plate_outer = bone.points[facing > FACE], mesh.points[side == 1]
    if not len(places) or len(bone_outer) < 20:
        return None
    surface = SurfaceDistance(bone)
    bone_tree, plate_tree = cKDTree(bone_outer), cKDTree(plate_outer)
    away = surface.nearby(mesh.points[places], _STRIP_MM + 2.0)
    edge = cKDTree(bone.points)
    found = []
    inside = surface.signed(mesh.points[places]) < 0
    for place, near, buried in zip(places, np.isfinite(away), inside, strict=True):
        if not near:
            continue
        at = mesh.points[place]
        own = plate_outer[plate_tree.query_ball_point(at, _STRIP_MM)]
        other = bone_outer[bone_tree.query_ball_point(at, _STRIP_MM + 1.0)]
        if len(own) < 12:
            continue
        normal = _plane_normal(own, outward.at(at[None])[0])
        # Bone far above or below is not the outer table at this place.
        other = other[np.abs((other - at) @ normal) < _STRIP_MM]
        if len(other) < 12:
            continue
        (plate, rough), (skull, uneven) = _height(own, at, normal), _height(other, at, normal)
        if max(rough, uneven) > _ROUGH_MM:
            continue
        step = plate - skull
        way = bone.points[edge.query(at)[1]] - at
        along = way - (way @ normal) * normal
        found.append([0.0 if buried else float(np.linalg.norm(along)), step, *at])
    if not found:
        return None
    table = np.array(found)
    figures: dict = {}
    for name, values in (("gap_mm", table[:, 0]), ("step_mm", table[:, 1])):
        size = np.abs(values)
        most = int(size.argmax())
        figures[name] = {
            "mean": round(float(size.mean()), 2),
            "p95": round(float(np.quantile(size, 0.95)), 2),
            "max": round(float(values[most]), 2),
            "max_at_ras": _place(table[most, 2:]),
        }
    return figures | {"places": len(table)}


def _plane_normal(points: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Unit normal (3,) of the plane through points, on the side of `up`."""
    normal = np.linalg.eigh(np.cov((points - points.mean(0)).T))[1][:, 0]
    return normal if normal @ up > 0 else -normal


def _height(points: np.ndarray, at: np.ndarray, normal: np.ndarray) -> tuple[float, float]:
    """Height over `at`, along a normal, of the plane through points, and the median distance of the points to it."""
    relative = points - at
    height = relative @ normal
    flat = relative - height[:, None] * normal
    # Two axes across the normal.
    first = np.cross(normal, [1.0, 0, 0] if abs(normal[0]) < 0.8 else [0, 1.0, 0])
    first /= np.linalg.norm(first)
    system = np.stack([flat @ first, flat @ np.cross(normal, first), np.ones(len(points))], 1)
    # Few points in a narrow strip do not determine the slope: it is expected to be small.
    penalty = np.diag([1.0, 1.0, 0.0]) * len(points) * _SLOPE_MM**2
    weight = 1 / (1 + (height / 1.5) ** 2)  # of two sheets of bone, the one near the plate counts
    for _ in range(4):
        scaled = system * weight[:, None]
        solved = np.linalg.solve(system.T @ scaled + penalty, scaled.T @ height)
        residual = height - system @ solved
        weight = 1 / (1 + (residual / 0.5) ** 2)
    return float(solved[2]), float(np.median(np.abs(residual)))
