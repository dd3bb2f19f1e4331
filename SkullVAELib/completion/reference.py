"""The patient's own earlier bone as reference: registered on intact bone or to the hole, it fills the defect.

The surface of the reference replaces the complete shape inside the defect. Near the rim the shape, which meets the
bone there, changes smoothly into it, so that an error of the registration makes no step. Where the reference has no
bone, the shape remains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop, sample_volume
from SkullVAELib.registration.known_bone import KnownBone
from SkullVAELib.registration.reference import MeanSkull
from SkullVAELib.registration.rigid import (
    PointSurface,
    mismatch_mm,
    register_part,
    register_rigid,
    rotation_of,
    surface_distances,
)
from SkullVAELib.registration.skull_match import match_skulls
from SkullVAELib.shape.known import KnownSurface
from SkullVAELib.shape.two_table import outward_directions

if TYPE_CHECKING:
    from SkullVAELib.completion.fill import FilledDefects
    from SkullVAELib.completion.result import PreparedPatient

BLEND_MM = 4.0
"""Distance from the patient's bone over which the shape changes into the reference, mm."""

GOOD_MM, ACCEPTABLE_MM = (0.5, 1.5), (0.8, 3.0)
"""Median and 95th percentile of the residual up to which a match is good and acceptable, mm."""

REFUSED_MM = 1.2
"""Median of the residual above which a reference is another bone, mm; nine other heads had 1.4 mm and more."""

REFUSED_P95_MM = 4.0
"""95th percentile above which it is so even if the median is only above that of an acceptable match, mm."""

COPY_MM = 0.02
"""95th percentile of the residual below which the reference is a copy of the input, mm; two images of one head differ
by more."""

LEAST_COVERED = 0.9
"""Fraction of the defect below which the user is told that the reference has no bone there."""

# Bone nearer to the defect than this is not compared: the cut is not there in the reference, mm.
_CUT_MM = 3.0

# Of a part, what is this near to bone is compared with the shape, which meets the bone, mm.
_RIM_MM = 10.0

# The reference covers a place if it has bone within this distance outwards or inwards, canonical mm, that is deeper
# than the second, mm; the edge of what it covers is ragged over the third, mm.
_REACH_MM, _LEAST_MM, _RAGGED_MM = 7, 0.3, 1.2

# A mirrored part that fits this much better is the right one.
_MIRRORED_PART = 0.75

# Scales of two registrations of one head to the mean skull differ by less than this.
_SCALE = 0.1


@dataclass(frozen=True)
class MatchQuality:
    """How well a reference matches a patient.

    Attributes
    ----------
    basis : str
        "intact bone", or "hole" for a part that was fitted into the hole.
    median_mm, p95_mm : float
        Median and 95th percentile of the distance between reference and patient, mm: on intact bone, or, for a part, to
        the completed shape within 10 mm of the rim.
    covered : float
        Fraction 0..1 of the defect in which the reference has bone.
    rotation_deg : float
        Rotation between the coordinates of the two files.
    mirrored : bool
        Whether the mirror image matches clearly better.
    scale : float or None
        Size of the reference relative to the patient's skull; None for a part.
    """

    basis: str
    median_mm: float
    p95_mm: float
    covered: float
    rotation_deg: float
    mirrored: bool = False
    scale: float | None = None

    @property
    def rating(self) -> str:
        """ "good", "acceptable" or "poor"."""
        for name, (median, p95) in (("good", GOOD_MM), ("acceptable", ACCEPTABLE_MM)):
            if self.median_mm <= median and self.p95_mm <= p95:
                return name
        return "poor"


@dataclass(frozen=True)
class RegisteredReference:
    """A reference that is registered to a patient.

    Attributes
    ----------
    source : KnownBone
        The reference.
    surface : KnownSurface
        Its surface around the defects, and its weight.
    quality : MatchQuality
        How well it matches.
    region : numpy.ndarray
        Bool, in `box`: where the reference has bone in or near the defects.
    box : tuple of slice
        The part of the reduced grid in which the reference is used.
    """

    source: KnownBone
    surface: KnownSurface
    quality: MatchQuality
    region: np.ndarray
    box: tuple[slice, ...]

    def region_in(self, box: tuple[slice, ...]) -> np.ndarray:
        """The region in another box (tuple of slice) of the reduced grid, bool."""
        low = [min(a.start, b.start) for a, b in zip(self.box, box, strict=True)]
        high = [max(a.stop, b.stop) for a, b in zip(self.box, box, strict=True)]
        both = np.zeros([b - a for a, b in zip(low, high, strict=True)], bool)
        both[tuple(slice(s.start - a, s.stop - a) for s, a in zip(self.box, low, strict=True))] = self.region
        return both[tuple(slice(s.start - a, s.stop - a) for s, a in zip(box, low, strict=True))]

    @property
    def warnings(self) -> list[str]:
        """Warnings about the match."""
        quality, name = self.quality, self.source.name
        where = "intact bone" if quality.basis == "intact bone" else "the rim of the hole"
        warnings = [*self.source.warnings]
        if quality.rating == "poor":
            warnings.append(
                f"The reference '{name}' matches poorly: {quality.median_mm:.1f} mm (median) and {quality.p95_mm:.1f}"
                f" mm (95th percentile) from {where}. Check that it is this patient's, or complete without it."
            )
        if quality.basis == "intact bone" and quality.p95_mm < COPY_MM:
            warnings.append(
                f"The reference '{name}' equals the input outside the defect: it is not an image of its own, but"
                " perhaps a completed skull. Choose an image from before the operation."
            )
        if quality.covered < LEAST_COVERED:
            warnings.append(
                f"The reference '{name}' has bone in {quality.covered:.0%} of the defect only; the statistical shape"
                " fills the rest. Check the transition."
            )
        return warnings

    def as_json(self) -> dict:
        """The field "reference" of the report."""
        quality = self.quality
        return {
            "file": self.source.name,
            "kind": self.source.kind,
            "registered_on": quality.basis,
            "residual_mm": {"median": round(quality.median_mm, 2), "p95": round(quality.p95_mm, 2)},
            "covered": round(quality.covered, 3),
            "rotation_deg": round(quality.rotation_deg, 1),
            "rating": quality.rating,
        }


def register_reference(
    patient: PreparedPatient, source: KnownBone, accept_any: bool, implant: FilledDefects | None
) -> RegisteredReference:
    """Register a reference to a patient with defects in the vault.

    Parameters
    ----------
    patient : PreparedPatient
        The patient.
    source : KnownBone
        The reference.
    accept_any : bool
        Whether a reference that does not match is used nevertheless.
    implant : FilledDefects or None
        The implant of the shape alone, into whose place a part is fitted; not needed for a skull.

    Returns
    -------
    RegisteredReference

    Raises
    ------
    SkullVAEError
        The reference does not match.
    """
    if source.kind == "skull":
        to_known, median, p95, mirrored, scale = _on_intact_bone(patient, source)
        basis = "intact bone"
    else:
        if implant is None or not implant.whole.array.any():
            raise SkullVAEError(
                f"The reference '{source.name}' is a part of a skull, and there is no hole that it could fill",
                "Point to the hole with --at R,A,S, or remove --reference",
            )
        to_known, median, p95, mirrored = _in_hole(patient, source, implant)
        basis, scale = "hole", None
    surface, covered, region, box = _known_surface(patient, source, to_known)
    quality = MatchQuality(basis, median, p95, covered, rotation_of(to_known)[0], mirrored, scale)
    if not accept_any:
        _require(quality, source)
    return RegisteredReference(source, surface, quality, region, box)


def _require(quality: MatchQuality, source: KnownBone) -> None:
    """Raise SkullVAEError for a reference that is not of this patient."""
    cause = f"The reference '{source.name}' does not match: "
    force = "; --force uses it nevertheless"
    if quality.mirrored:
        raise SkullVAEError(
            cause + "its mirror image matches better, so that left and right are swapped in one of the files",
            f"Correct the orientation in its header, or export it again without mirroring{force}",
        )
    another = quality.median_mm > REFUSED_MM or (
        quality.median_mm > ACCEPTABLE_MM[0] and quality.p95_mm > REFUSED_P95_MM
    )
    if not another:
        if quality.covered < 0.05:
            raise SkullVAEError(
                f"The reference '{source.name}' has no bone in the defect", "Choose an image from before the operation"
            )
        return
    if quality.scale is not None and abs(np.log(quality.scale)) > _SCALE:
        raise SkullVAEError(
            f"{cause}it is {quality.scale:.2f} times as large as the patient's skull",
            f"Check the unit and the voxel size, and that it is of this patient{force}",
        )
    where = "intact bone" if quality.basis == "intact bone" else "the rim of the hole"
    raise SkullVAEError(
        f"{cause}its bone is {quality.median_mm:.1f} mm (median) from {where}",
        f"Check that it is of this patient and that its unit is mm{force}",
    )


def _on_intact_bone(patient: PreparedPatient, source: KnownBone) -> tuple[np.ndarray, float, float, bool, float]:
    """Register a skull: patient mm -> reference mm, median and p95 of the residual, mirrored, scale."""
    registered = patient.registered
    skull, fraction = registered.skull, registered.skull.fraction
    defect = np.logical_or.reduce(patient.defects.masks)
    away = ndimage.distance_transform_edt(~defect, sampling=fraction.spacing).astype(np.float32)
    intact = sample_volume(fraction.with_array(away), skull.points, 99.0) > _CUT_MM
    bone = PointSurface(skull.points[intact], skull.normals[intact])
    match = match_skulls(bone, registered.alignment, source, MeanSkull.of(patient.prior.model).target)
    return match.matrix, match.median_mm, match.p95_mm, match.mirrored, match.scale


def _in_hole(
    patient: PreparedPatient, source: KnownBone, implant: FilledDefects
) -> tuple[np.ndarray, float, float, bool]:
    """Fit a part into the hole: patient mm -> reference mm, median and p95 of the residual, mirrored."""
    from SkullVAELib.mesh.isosurface import mask_surface  # VTK, here since most runs have no reference

    labels, _ = ndimage.label(implant.whole.array)
    sizes = np.bincount(labels.ravel())[1:] * implant.whole.voxel_ml
    order = [n for n in np.argsort(-sizes)[:3] if n == sizes.argmax() or sizes[n] > 0.4 * source.volume_ml]
    moving = source.surface.some(80000)
    mirror = PointSurface(moving.points * [-1, 1, 1], moving.normals * [-1, 1, 1])
    found = []
    for label in order:
        mask = implant.whole.with_array(labels == label + 1)
        margin = np.ceil(3 / mask.spacing).astype(int)
        mesh = mask_surface(crop(mask, bounding_box(mask.array, margin)))
        fixed = PointSurface(mesh.points, mesh.vertex_normals())
        matrix = register_part(moving, fixed, [np.eye(4)])
        found.append((mismatch_mm(moving, fixed, matrix), matrix, fixed))
    mismatch, matrix, fixed = min(found, key=lambda each: each[0])
    # At the rim the shape meets the bone: there it is where the part has to be, more exactly than in the middle.
    rim = fixed.where(_bone_distance(patient, fixed.points) < _RIM_MM)
    if len(rim.points) > 500:
        matrix = register_rigid(moving.some(10000), rim, matrix, (2.0, 1.0), 15, back=6000)
    other = mismatch_mm(mirror, fixed, register_part(mirror, fixed))
    mirrored = other < _MIRRORED_PART * mismatch
    distance = _rim_residual(patient, moving.moved(matrix), fixed)
    if len(distance) < 100:
        distance = surface_distances(moving.some(6000), fixed, matrix)
    return np.linalg.inv(matrix), float(np.median(distance)), float(np.quantile(distance, 0.95)), mirrored


def _rim_residual(patient: PreparedPatient, part: PointSurface, fixed: PointSurface) -> np.ndarray:
    """Distance (N,) of the implant's outer surface near bone to the outer surface of a part in its place, mm.

    Where the part ends before the rim, as a bone flap does at the cut of the saw, there is nothing to compare.
    """
    bone = _bone_distance(patient, fixed.points)
    centre = np.linalg.inv(patient.registered.alignment)[:3, 3]

    def outwards(surface: PointSurface) -> np.ndarray:
        away = surface.points - centre
        return (surface.normals * away).sum(1) / np.linalg.norm(away, axis=1) > 0.7

    own, other = fixed.where(outwards(fixed) & (bone < _RIM_MM)), part.where(outwards(part))
    if len(own.points) < 30 or len(other.points) < 30:
        return np.zeros(0)
    distance, at = other.tree.query(own.points, distance_upper_bound=_RIM_MM)
    own, at = own.where(np.isfinite(distance)), at[np.isfinite(distance)]
    apart = own.points - other.points[at]
    plane = np.abs((apart * other.normals[at]).sum(1))
    aside = np.sqrt(np.maximum((apart**2).sum(1) - plane**2, 0))
    return plane[aside < 1.5]


def _bone_distance(patient: PreparedPatient, points: np.ndarray) -> np.ndarray:
    """Distance (N,) of points (N, 3) to the patient's bone, mm."""
    skull = patient.registered.skull
    return sample_volume(skull.fraction.with_array(skull.distance.astype(np.float32)), points, 99.0)


def _smooth_step(values: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth in between."""
    t = np.clip(values, 0, 1)
    return t * t * (3 - 2 * t)


def _known_surface(
    patient: PreparedPatient, source: KnownBone, to_known: np.ndarray
) -> tuple[KnownSurface, float, np.ndarray, tuple[slice, ...]]:
    """The surface around the defects with its weight, the covered fraction of the defects, and where it has bone."""
    registered, defects = patient.registered, patient.defects
    alignment, skull = registered.alignment, registered.skull
    masks = np.logical_or.reduce(defects.masks)
    margin = np.ceil(12.0 / skull.fraction.spacing).astype(int)
    box = bounding_box(masks, margin)
    here = crop(skull.fraction, box)
    shape = here.array.shape
    index = np.indices(shape).reshape(3, -1).T
    near = ndimage.distance_transform_edt(~masks[box], sampling=here.spacing).ravel() < 11.0
    index = index[near]
    points = apply_affine(here.affine, index)
    distance = source.distance_around(apply_affine(to_known, points), 4.0)
    surface = KnownSurface(distance, to_known, here, alignment)
    covered = np.ones(shape, bool)
    least = np.full(len(points), 99.0, np.float32)
    if distance.array.size:
        canonical = apply_affine(alignment, points)
        away = outward_directions(torch.tensor(canonical)).numpy() @ np.linalg.inv(alignment)[:3, :3].T
        for offset in range(-_REACH_MM, _REACH_MM + 1):
            np.minimum(least, surface.distance_at(points + offset * away), out=least)
    covered[tuple(index.T)] = least < -_LEAST_MM
    field = registered_field(patient, here, index)
    missing = np.zeros(shape, bool)
    missing[tuple(index.T)] = field < 0
    missing &= masks[box]
    share = float(covered[missing].mean()) if missing.any() else 0.0
    inside = ndimage.distance_transform_edt(covered, sampling=here.spacing) - _RAGGED_MM
    # The weight changes over BLEND_MM from bone, and from the edge of what the reference covers.
    weight = _smooth_step(skull.distance[box] / BLEND_MM) * _smooth_step(inside / BLEND_MM)
    weight[~near.reshape(shape)] = 0.0
    region = np.zeros(shape, bool)
    if distance.array.size:
        region[tuple(index.T)] = surface.distance_at(points) < 0
    region &= (weight > 0.5) & (skull.fraction.array[box] < 0.5)
    return KnownSurface(distance, to_known, here.with_array(weight.astype(np.float32)), alignment), share, region, box


def registered_field(patient: PreparedPatient, here: Volume, index: np.ndarray) -> np.ndarray:
    """Signed distance (N,) of the patient's first shape at voxels (N, 3) of a part of the reduced grid."""
    return patient.first.at_voxels(patient.registered.alignment @ here.affine, index)
