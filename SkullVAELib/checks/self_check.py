"""The self-check of an implant: nine figures with ratings and warnings, independent of the method that made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage

from SkullVAELib.checks.fractions import Fraction, block_factor, outside_mm
from SkullVAELib.checks.limits import LIMITS, RATINGS, SLICE_ERROR_MM
from SkullVAELib.checks.mirror import MirrorDistance, mirror_distance
from SkullVAELib.checks.plate import LEAST_STEPS, Plate
from SkullVAELib.checks.vault import ANGLE_DEG, RANGE_MM, Vault, find_openings
from SkullVAELib.geometry.affines import apply_affine, as_place
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop, to_nearest_ras
from SkullVAELib.mesh.distance import SurfaceDistance
from SkullVAELib.mesh.mesh import Mesh

SMALLEST_OPENING_ML = 0.3
"""Openings below this are pinholes in thin bone and not reported, ml."""

IMAGE_END_MM = 1.0
"""An implant within this distance of the end of the image touches it, mm."""

SOLID_MM, THICKER = 12.0, 1.4
"""Where a solid implant is thicker than this, mm, and this many times as thick as the bone around it (median), complete
skulls mostly have a cavity. Of 28 implants in real skulls nine over the frontal sinus were 14 to 18 mm thick; the
others were 9.8 mm at most, but for one of 13.6 mm in bone of 11 mm.
"""

COARSE_MM, THICK_SLICES_MM = 2.0, 2.0
"""Voxels of this side and more, and slices thicker than this, are coarse; mm."""

_VAULT_MM = 150.0  # below the top of the bone, the part of the image that the checks read
_MARGIN_MM = 20.0
_COUNTERPART = 0.75  # least share of an implant that has bone on the mirror side
_PLATES = 6  # the largest components of an implant that are measured
_PLATE_ML = 0.2


@dataclass(frozen=True)
class Check:
    """One figure of the self-check.

    Attributes
    ----------
    name : str
        One of `LIMITS`.
    value : float or None
        The figure; None where it could not be measured.
    rating : str
        One of `RATINGS`; "acceptable" where the figure could not be measured.
    warning : str
        What is wrong, then what to do; empty where the rating is good.
    """

    name: str
    value: float | None
    rating: str
    warning: str = ""

    def report(self) -> dict:
        """The entry of report.json."""
        unit = LIMITS[self.name].unit
        return {
            "name": self.name,
            "value": self.value,
            "unit": unit,
            "rating": self.rating,
            "warning": self.warning,
        }


@dataclass(frozen=True)
class SelfCheck:
    """All figures of the self-check of an implant.

    Attributes
    ----------
    checks : tuple of Check
        In the order of `LIMITS`.
    difference_mm : (N,) array or None
        Signed distance to the mirrored skull at each point of the mesh, see `MirrorDistance`; None where the other side
        has no bone, or without a mesh.
    """

    checks: tuple[Check, ...]
    difference_mm: np.ndarray | None = field(default=None, compare=False)

    @property
    def rating(self) -> str:
        """The worst rating of all checks."""
        return max((check.rating for check in self.checks), key=RATINGS.index)

    @property
    def warnings(self) -> list[str]:
        """Warnings of the checks that are not good, the poor ones first."""
        ranked = sorted(self.checks, key=lambda check: -RATINGS.index(check.rating))
        return [check.warning for check in ranked if check.warning]

    def report(self) -> dict:
        """The field "checks" of report.json."""
        return {"rating": self.rating, "checks": [check.report() for check in self.checks]}


def check_implant(all_bone: Volume, completed: Volume, implant: Volume, mesh: Mesh | None = None) -> SelfCheck:
    """Check an implant.

    Parameters
    ----------
    all_bone : Volume
        Bool, the bone of the input before any of it was discarded: of a CT every voxel at or above the threshold.
    completed : Volume
        Bool, bone and implant, on the same grid.
    implant : Volume
        Bool, the implant, on the same grid.
    mesh : Mesh, optional
        The printable implant, RAS mm.

    Returns
    -------
    SelfCheck

    Raises
    ------
    ValueError
        The volumes have different shapes, or the implant is empty.
    """
    return check_voxels(all_bone, completed, implant)(mesh)


def check_voxels(all_bone: Volume, completed: Volume, implant: Volume) -> Callable[[Mesh | None], SelfCheck]:
    """Check an implant's voxels, beside which the mesh may be made.

    Parameters
    ----------
    all_bone, completed, implant
        See `check_implant`.

    Returns
    -------
    callable
        Gives the self-check for a mesh or None.

    Raises
    ------
    ValueError
        See `check_implant`.
    """
    if not all_bone.array.shape == completed.array.shape == implant.array.shape:
        raise ValueError("the self-check needs volumes on one grid")
    all_bone, completed, implant = (to_nearest_ras(volume) for volume in (all_bone, completed, implant))
    place = bounding_box(implant.array)
    if place[0].stop == 0:
        raise ValueError("the self-check needs an implant")
    local, local_bone = crop(implant, place), all_bone.array[place]
    spacing = implant.spacing
    # One box of blocks for every step: the vault of the completed skull, and the implant wherever it lies.
    factor = block_factor(spacing)
    box = upper_box(completed, factor)
    whole = Fraction.of(completed.array, completed, box, factor)
    plate = Fraction(np.zeros_like(whole.array), whole.affine)
    inner = tuple(
        slice(max(0, p.start - b.start) // f * f + b.start, min(p.stop, b.stop))
        for p, b, f in zip(place, box, factor.tolist(), strict=True)
    )
    if all(s.stop > s.start for s in inner):
        part = Fraction.of(implant.array, implant, inner, factor)
        at = tuple(slice((s.start - b.start) // f, None) for s, b, f in zip(inner, box, factor.tolist(), strict=True))
        plate.array[tuple(slice(s.start, s.start + n) for s, n in zip(at, part.array.shape, strict=True))] = part.array
    bone = Fraction(whole.array - plate.array, whole.affine)
    vault = Vault.of(whole, completed)
    plates = [] if vault is None else _plates(vault, plate, bone, float(spacing.max()))
    mirrored = _mirrored(vault, plate)
    open_edge, overlap = _open_edge(plates), _bone_overlap(local, local_bone)
    after_thickness = (
        _rim_step(plates),
        _bulge(plates),
        _missing_bone(vault),
        _voxel_size(spacing, plates),
        _symmetry(mirrored),
    )

    def judged(mesh: Mesh | None) -> SelfCheck:
        checks = (
            open_edge,
            overlap,
            _image_end(implant, place, mesh),
            _thickness(plates, mesh),
            *after_thickness,
        )
        difference = None
        if vault is not None and mirrored is not None and mesh is not None and len(mesh.points):
            difference = mirrored.at(vault.chart.centre, mesh.points)
        return SelfCheck(checks, difference)

    return judged


def upper_box(bone: Volume, factor: np.ndarray) -> tuple[slice, ...]:
    """The box of the upper part of the bone, with a margin, starting at whole blocks."""
    box = bounding_box(bone.array, np.ceil(_MARGIN_MM / bone.spacing).astype(int))
    # The axes run closest to R, A and S, but may be oblique: a tilted axis needs more voxels for the same depth.
    upright = abs(float(bone.affine[2, 2])) / float(bone.spacing[2])
    depth = int(np.ceil((_VAULT_MM + _MARGIN_MM) / max(upright, 0.7) / bone.spacing[2]))
    starts = (box[0].start, box[1].start, max(box[2].start, box[2].stop - depth))
    return tuple(slice(s // f * f, b.stop) for s, b, f in zip(starts, box, factor.tolist(), strict=True))


def _plates(vault: Vault, implant: Fraction, bone: Fraction, coarsest_mm: float) -> list[Plate]:
    """The components of an implant that lie in the vault, the largest first."""
    box = bounding_box(implant.array >= 0.3)
    labels, count = ndimage.label(implant.array[box] >= 0.3, np.ones((3, 3, 3)))
    if not count:
        return []
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    block_ml = abs(float(np.linalg.det(implant.affine[:3, :3]))) / 1000
    start = np.array([s.start for s in box])
    found: list[Plate] = []
    for label in np.argsort(-sizes)[: min(count, _PLATES)]:
        if sizes[label] * block_ml < _PLATE_ML and found:
            break
        points = apply_affine(implant.affine, np.argwhere(labels == label) + start)
        rays = points.mean(0) - vault.chart.centre
        radius = np.linalg.norm(rays)
        if not RANGE_MM[0] < radius < RANGE_MM[1] or rays[2] < np.cos(np.radians(ANGLE_DEG)) * radius:
            continue
        plate = Plate.of(vault.chart.centre, points, implant, bone, coarsest_mm)
        if plate.inside.any():
            found.append(plate)
    return found


_OUTSIDE = "The implant lies outside the cranial vault: {what} could not be checked. Inspect it in 3D before use."


def _unmeasured(name: str, what: str) -> Check:
    return Check(name, None, "acceptable", _OUTSIDE.format(what=what))


def _rated(name: str, value: float, warning: str) -> Check:
    limit = LIMITS[name]
    value = round(float(value), limit.digits)
    rating = limit.rating(value)
    return Check(name, value, rating, "" if rating == "good" else warning)


def _open_edge(plates: list[Plate]) -> Check:
    if not plates:
        return _unmeasured("open_edge", "its edge")
    counts = [plate.open_edge() for plate in plates]
    total = sum(edge for _, edge in counts)
    bare = sum(count for count, _ in counts)
    share = 100 * bare / max(total, 1)
    worst = plates[int(np.argmax([count for count, _ in counts]))]
    place = worst.open_place()
    where = "" if place is None else f", at {as_place(place)}"
    warning = (
        f"Open edge: {share:.0f} % of the implant's edge has no bone within 3 mm{where}. Check there whether the"
        " implant fills the whole defect."
    )
    return _rated("open_edge", share, warning)


def _bone_overlap(implant: Volume, bone: np.ndarray) -> Check:
    overlap = implant.array & bone
    count = int(np.count_nonzero(overlap))
    share = 100 * count / int(np.count_nonzero(implant.array))
    middle = apply_affine(implant.affine, np.argwhere(overlap).mean(0)) if count else np.zeros(3)
    warning = (
        f"The implant overlaps {count * implant.voxel_ml:.1f} ml of loose bone that was left out of the skull (such as"
        f" a bone flap or a fragment; {share:.0f} % of the implant), at {as_place(middle)}. Keep this bone, or confirm"
        " that it is removed in surgery."
    )
    return _rated("bone_overlap", share, warning)


def _image_end(implant: Volume, box: tuple[slice, ...], mesh: Mesh | None) -> Check:
    mask = np.ascontiguousarray(implant.array[box])
    spacing = implant.spacing
    face = np.prod(spacing) / spacing
    surface = ends = 0.0
    for axis in range(3):
        along = np.moveaxis(mask, axis, 0)
        surface += face[axis] * int(
            np.count_nonzero(along[1:] != along[:-1]) + np.count_nonzero(along[0]) + np.count_nonzero(along[-1])
        )
        # A layer of voxels belongs to the end while its outer face is within the limit.
        layers = int(IMAGE_END_MM / spacing[axis]) + 1
        first, last = box[axis].start, implant.array.shape[axis] - box[axis].stop
        if first < layers:
            ends += face[axis] * int(np.count_nonzero(along[: layers - first].any(0)))
        if last < layers:
            ends += face[axis] * int(np.count_nonzero(along[-(layers - last) :].any(0)))
    share = 100 * ends / surface
    beyond = mesh is not None and len(mesh.points) > 0 and bool((outside_mm(implant, mesh.points) > 0.5).any())
    what = "continues beyond it, where no bone is known" if beyond else "is cut off there"
    warning = (
        f"The implant touches the end of the image ({share:.1f} % of its surface) and {what}. Use an image whose field"
        " of view includes the whole defect."
    )
    return _rated("image_end", share, warning)


def _thickness(plates: list[Plate], mesh: Mesh | None) -> Check:
    pairs = [plate.thickness() for plate in plates]
    pairs = [(own, bone) for own, bone in pairs if len(own) and len(bone) >= 20]
    if not pairs:
        if not plates:
            return _unmeasured("thickness", "its thickness")
        return Check(
            "thickness",
            None,
            "acceptable",
            "The thickness could not be compared with the bone around the implant. Compare both in slices.",
        )
    medians = [(float(np.median(own)), float(np.median(bone))) for own, bone in pairs]
    own_mm, bone_mm = max(medians, key=lambda pair: abs(np.log(max(pair[0], 0.1) / max(pair[1], 0.1))))
    warning = (
        f"The implant is {own_mm:.1f} mm thick and the bone around it {bone_mm:.1f} mm (medians). Compare both in"
        " slices; choose another thickness if it is not intended."
    )
    check = _rated("thickness", own_mm / max(bone_mm, 0.1), warning)
    thickest, middle = max((plate.thickest() for plate in plates), key=lambda found: found[0])
    if thickest <= max(SOLID_MM, THICKER * bone_mm):
        return check
    if mesh is not None and len(mesh.faces) and np.mean(SurfaceDistance(mesh).signed(middle) < 0) < 0.5:
        return check  # the printable implant, of constant thickness say, leaves the cavity open
    place = middle[len(middle) // 2]
    cavity = (
        f"The implant is solid and up to {thickest:.0f} mm thick, at {as_place(place)}; skulls of that thickness mostly"
        " have a cavity there, such as the frontal sinus. Compare in slices; a constant thickness leaves it open."
    )
    worst = max(check.rating, "acceptable", key=RATINGS.index)
    return replace(check, rating=worst, warning=f"{check.warning} {cavity}".strip())


def _rim_step(plates: list[Plate]) -> Check:
    steps = [found for plate in plates if len((found := plate.rim_steps())[0]) >= LEAST_STEPS]
    if not steps:
        if not plates:
            return _unmeasured("rim_step", "the step at its rim")
        return Check(
            "rim_step", None, "acceptable", "The step at the rim could not be measured here. Inspect the rim in slices."
        )
    distances, places = (np.concatenate(parts) for parts in zip(*steps, strict=True))
    value = float(np.percentile(distances, 95))
    warning = (
        f"Step at the rim: the implant's outer surface is up to {value:.1f} mm (95th percentile) above or below the"
        f" bone there, most at {as_place(places[distances.argmax()])}. Inspect the rim in slices."
    )
    return _rated("rim_step", value, warning)


def _bulge(plates: list[Plate]) -> Check:
    values = [value for plate in plates if (value := plate.bulge_mm()) is not None]
    if not values:
        if not plates:
            return _unmeasured("bulge", "its curvature")
        return Check(
            "bulge",
            None,
            "acceptable",
            "There is too little bone around the implant to judge its curvature. Inspect its shape in 3D.",
        )
    warning = (
        f"The implant bulges or dents by {max(values):.1f} mm more than is usual for its size. Compare its curvature"
        " with the bone around it in 3D."
    )
    return _rated("bulge", max(values), warning)


def _missing_bone(vault: Vault | None) -> Check:
    if vault is None:
        return Check(
            "missing_bone",
            None,
            "acceptable",
            "The image holds too little of the vault to search it for other holes. Inspect the skull in 3D.",
        )
    openings = find_openings(vault, SMALLEST_OPENING_ML)
    listed = "; ".join(f"{hole.volume_ml:.1f} ml at {as_place(np.array(hole.centre_mm))}" for hole in openings[:4])
    more = f" and {len(openings) - 4} more" if len(openings) > 4 else ""
    warning = (
        f"Bone is still missing after completion: {listed}{more}. Check whether this is a hole that must be filled."
    )
    return _rated("missing_bone", sum(hole.volume_ml for hole in openings), warning)


def _voxel_size(spacing: np.ndarray, plates: list[Plate]) -> Check:
    coarsest = float(spacing.max())
    other = float(np.sort(spacing)[1])
    slices = coarsest > THICK_SLICES_MM and coarsest > 1.5 * other
    if slices:
        cost = next((error for mm, error in sorted(SLICE_ERROR_MM.items()) if mm >= coarsest - 0.25), None)
        expected = "" if cost is None else f"; expect a mean error of about {cost:g} mm"
        warning = (
            f"Thick slices: slices of {coarsest:.2g} mm are coarse{expected}. Use the thinnest slices of the CT, 1 mm"
            " or less."
        )
    else:
        warning = (
            f"The voxel size is coarse: voxels of {coarsest:.2g} mm blur the rim and thin bone. Use an image with"
            " voxels of 1 mm or less."
        )
    check = _rated("voxel_size", coarsest, warning)
    thickness = [own for plate in plates if len(own := plate.thickness()[0])]
    if check.rating == "acceptable" and thickness and coarsest > float(np.median(np.concatenate(thickness))):
        return Check(check.name, check.value, "poor", warning)
    return check


def _mirrored(vault: Vault | None, implant: Fraction) -> MirrorDistance | None:
    if vault is None:
        return None
    hit = vault.layer.hit
    depth = np.where(hit, vault.layer.outer - 1.5, 0.0)
    return mirror_distance(vault, hit & (implant.nearest(vault.chart.at(depth).astype(np.float32)) >= 0.5))


def _symmetry(measured: MirrorDistance | None) -> Check:
    if measured is None or measured.share < _COUNTERPART:
        return Check(
            "symmetry",
            None,
            "acceptable",
            "The implant could not be compared with the other side of the skull, where bone is missing, too."
            " Inspect its shape in 3D.",
        )
    warning = (
        f"The implant differs from the mirrored skull by {measured.median_mm:.1f} mm in the median and"
        f" {measured.p95_mm:.1f} mm at the 95th percentile. Compare both sides; a natural asymmetry is possible."
    )
    return _rated("symmetry", measured.p95_mm, warning)
