"""Candidate defects: where the complete shape has bone and the patient has none, and which candidates are rejected."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.completion.options import DefectOptions
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.masks import bounding_box, largest_component
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.shape.warped import WarpedShape

MISSING_ON_BOTH_SIDES = "missing on both sides"
"""Reason of a candidate defect rejected because bone is missing at its mirror image, too."""

AT_SKULL_BASE = "at the skull base"
"""Reason of a candidate defect rejected because of its position low on the skull."""

_SMALL_IN_THIN_BONE = "small, in a region of thin bone"

# Margin of the bounding box of all defects: the implant extends beyond them by a few millimetres at most.
_MARGIN_MM = 8.0

BEVEL = 0.45
"""Least missing fraction within 1.5 mm at the slanted edge of a hole; it is smaller in a thin spurious layer."""


def _on_voxels(
    fields: torch.Tensor, grid: Grid, to_canonical: np.ndarray, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Fields (C, X, Y, Z) of the canonical grid on a volume's voxels, (C, *shape), and which voxels are outside the
    grid.

    to_canonical: (4, 4) voxel index -> canonical mm.
    """
    matrix = torch.tensor(to_canonical).float()
    i, j, k = (torch.arange(n).float()[:, None] * matrix[:3, axis] for axis, n in enumerate(shape))
    at = (i[:, None, None] + j[:, None] + k + matrix[:3, 3]).reshape(-1, 3)
    outside = (at.abs() > torch.tensor(grid.half_mm).float()).any(1)
    return grid.sample(fields, at).T.reshape(-1, *shape).contiguous().numpy(), outside.reshape(shape).numpy()


@dataclass(frozen=True)
class Defects:
    """The defects of a skull on the reduced grid.

    Attributes
    ----------
    masks : list of numpy.ndarray
        Bool, one mask for each defect, largest first.
    field : numpy.ndarray
        Signed distance of the complete shape warped to the patient, canonical mm.
    cavity : numpy.ndarray
        Bool, air between two tables of intact bone or directly over intact bone; no implant may be there.
    rejected : list of dict
        Rejected candidate defects: their measures, see `DefectOptions`, and "reason". "centre_mm" is in canonical mm.
    spacing_mm : float
        Smallest spacing of the reduced grid, mm.
    """

    masks: list[np.ndarray]
    field: np.ndarray
    cavity: np.ndarray
    rejected: list[dict]
    spacing_mm: float

    @cached_property
    def box(self) -> tuple[slice, ...]:
        """Bounding box of all defects with a margin, in which an implant may be; there must be at least one defect."""
        return bounding_box(np.logical_or.reduce(self.masks), margin=int(np.ceil(_MARGIN_MM / self.spacing_mm)))


def missing_fraction(field: np.ndarray, bone: np.ndarray, spacing: np.ndarray, spread_mm: float = 2.5) -> np.ndarray:
    """Fraction of the prior's bone that is missing in a neighbourhood.

    The prior agrees with intact bone to no better than a tenth of a voxel, so that "inside the prior but not bone" is
    also true in a thin spurious layer on intact bone. There bone fills most of the neighbourhood, and the fraction is
    small.

    Parameters
    ----------
    field : numpy.ndarray, shape (I, J, K)
        Signed distance of the prior, canonical mm.
    bone : numpy.ndarray, shape (I, J, K)
        Bone fraction 0..1, or a bool mask.
    spacing : numpy.ndarray, shape (3,)
        Voxel spacing, mm.
    spread_mm : float
        Standard deviation of the Gaussian neighbourhood, mm.

    Returns
    -------
    numpy.ndarray, shape (I, J, K)
        0..1.
    """
    shell = np.clip(0.5 - field / 1.2, 0, 1)
    filled = ndimage.gaussian_filter(np.minimum(shell, bone), spread_mm / spacing)
    return 1 - filled / np.maximum(ndimage.gaussian_filter(shell, spread_mm / spacing), 0.02)


def _bone_along_line(
    missing: np.ndarray, fraction: Volume, to_canonical: np.ndarray, reach_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distance in mm from each voxel of missing bone to bone, outwards and inwards, on the line through the vault's
    centre.

    Returns two arrays like `missing`, infinite where there is no bone within reach_mm.
    """
    index = np.argwhere(missing)
    at = apply_affine(to_canonical, index)
    away = at / np.linalg.norm(at, axis=1, keepdims=True).clip(1)
    step = away @ np.linalg.inv(to_canonical)[:3, :3].T  # one canonical mm along the line, in voxels
    found = []
    for sign in (1.0, -1.0):
        first = np.full(len(index), np.inf)
        for far in np.arange(reach_mm, 0.5, -1.0):
            there = np.round(index + sign * far * step).astype(int)
            inside = np.flatnonzero(((there >= 0) & (there < missing.shape)).all(1))
            hit = inside[fraction.array[tuple(there[inside].T)] >= 0.5]
            first[hit] = far
        distance = np.full(missing.shape, np.inf, np.float32)
        distance[tuple(index.T)] = first
        found.append(distance)
    return found[0], found[1]


def _missing_on_both_sides(
    field: np.ndarray,
    missing: np.ndarray,
    distance: np.ndarray,
    closed: Volume,
    to_canonical: np.ndarray,
    options: DefectOptions,
) -> np.ndarray:
    """Which voxels of missing bone are low on the skull where bone is missing at the mirror image, too.

    These are holes in the temporal squama and the orbit, which many segmentations have on both sides. A surgical defect
    is on one side, or crosses the midline higher up. The mirror image must have a real hole: a thin spurious layer on
    intact bone does not count.

    distance: from bone, mm; closed: the bone with its cavities filled.
    """
    missing_here = missing_fraction(field, closed.array, closed.spacing)
    index = np.argwhere(missing)
    at = apply_affine(to_canonical, index)
    low = (at[:, 2] < options.thin_elevation * np.linalg.norm(at, axis=1)) & (np.abs(at[:, 0]) > options.mirror_mm)
    index, at = index[low], at[low]
    found = np.zeros(field.shape, bool)
    holes = at[distance[tuple(index.T)] > options.core_mm]
    if len(holes):
        mirrored = at * [-1, 1, 1]
        there = apply_affine(np.linalg.inv(to_canonical), mirrored)
        mirror_missing = (
            ndimage.map_coordinates(missing_here, there.T, order=1, mode="constant", cval=0.0) > options.both_lack
        )
        near, _ = cKDTree(holes).query(mirrored, distance_upper_bound=options.both_mm)
        found[tuple(index[mirror_missing & np.isfinite(near)].T)] = True
    return found


def find_defects(
    warped: WarpedShape,
    spread: torch.Tensor,
    alignment: np.ndarray,
    fraction: Volume,
    distance: np.ndarray,
    options: DefectOptions = DefectOptions(),
) -> Defects:
    """Find the defects: where the complete shape has bone and the patient has none.

    Missing bone far from any bone is the core of a candidate defect, which grows to the rim of the hole. A candidate is
    rejected for one of the reasons that `DefectOptions` lists.

    Parameters
    ----------
    warped : WarpedShape
        The complete shape, warped to the patient.
    spread : torch.Tensor, shape (X, Y, Z)
        Standard deviation across skulls in mm, see `Population.spread`.
    alignment : numpy.ndarray, shape (4, 4)
        Patient RAS mm -> canonical mm.
    fraction : Volume
        The patient's bone at reduced resolution, 0..1.
    distance : numpy.ndarray
        Its signed distance in mm, on the same grid.
    options : DefectOptions
        Criteria.

    Returns
    -------
    Defects
    """
    missing_bone = _MissingBone.of(warped, spread, alignment @ fraction.affine, fraction, distance, options)
    candidates, rejected = [], []
    for box, seed in missing_bone.cores():
        grown = missing_bone.grown(box, seed)
        if not (seed & grown).any():
            rejected.append(missing_bone.measure(box, seed, seed) | {"reason": MISSING_ON_BOTH_SIDES})
            continue
        measured = missing_bone.measure(box, seed & grown, grown)
        if reason := _rejection_reason(measured, options):
            rejected.append(measured | {"reason": reason})
        else:
            full = np.zeros(fraction.array.shape, bool)
            full[box] = grown
            candidates.append((measured, full))
    both_sides = _on_both_sides([measured for measured, _ in candidates], options)
    checked = list(zip(candidates, both_sides, strict=True))
    rejected += [measured | {"reason": MISSING_ON_BOTH_SIDES} for (measured, _), both in checked if both]
    candidates = sorted((found for found, both in checked if not both), key=lambda c: -c[0]["ml"])
    masks: list[np.ndarray] = []
    for measured, full in candidates:
        if measured["ml"] < options.share * candidates[0][0]["ml"]:
            rejected.append(measured | {"reason": "much smaller than the largest defect"})
        elif masks and measured["elevation"] < options.beside_elevation and measured["ml"] < options.thin_ml:
            rejected.append(measured | {"reason": _SMALL_IN_THIN_BONE})
        else:
            masks.append(full)
    cavity = missing_bone.cavity | missing_bone.both_sides
    for full in masks:
        cavity &= ~full
    return Defects(masks, missing_bone.field, cavity, rejected, float(fraction.spacing.min()))


@dataclass(frozen=True)
class _MissingBone:
    """Bone that the prior has and the patient does not, on the voxels of the reduced grid; candidate defects grow in
    it.

    field, deviation: the prior and the standard deviation across skulls, mm; inside: bool, inside the prior; missing:
    bool, where a candidate may grow; cavity, bevel, displaced: bool, see DefectOptions; both_sides: bool, missing on
    both sides; at_border: bool, border of the image; to_canonical: (4, 4) voxel index -> canonical mm.
    """

    fraction: Volume
    distance: np.ndarray
    to_canonical: np.ndarray
    field: np.ndarray
    deviation: np.ndarray
    inside: np.ndarray
    missing: np.ndarray
    cavity: np.ndarray
    both_sides: np.ndarray
    bevel: np.ndarray
    displaced: np.ndarray
    at_border: np.ndarray
    options: DefectOptions

    @classmethod
    def of(
        cls,
        warped: WarpedShape,
        spread: torch.Tensor,
        to_canonical: np.ndarray,
        fraction: Volume,
        distance: np.ndarray,
        options: DefectOptions,
    ) -> _MissingBone:
        """Compare a complete shape with the patient's bone, see `find_defects`."""
        grid: Grid = warped.grid
        fields = torch.stack([warped.on_grid(), spread])
        (field, deviation), at_border = _on_voxels(fields, grid, to_canonical, fraction.array.shape)
        field[at_border], deviation[at_border] = 99.0, 99.0
        for axis in range(3):
            index = [slice(None)] * 3
            for index[axis] in (slice(0, 2), slice(-2, None)):
                at_border[tuple(index)] = True
        # Interpolation on the grid loses thin bone between its nodes, so the shape is evaluated at the voxels near it.
        close = np.abs(field) < 1.5 * grid.spacing_mm
        field[close] = warped.at_voxels(to_canonical, np.argwhere(close))
        inside = field < 0
        missing = inside & (fraction.array < 0.5)
        # Growth stops where skulls vary: through the open skull base a candidate would grow from temple to nose.
        missing &= deviation < options.grow_spread_mm
        outwards, inwards = _bone_along_line(missing, fraction, to_canonical, options.cavity_mm)
        cavity = np.isfinite(outwards) & np.isfinite(inwards)
        displaced = np.minimum(outwards, inwards) < options.displaced_mm
        # Where bone is just below or above all around, the prior is displaced and nothing is missing; at a slanted cut
        # edge this is true in a narrow strip only.
        blur = 3.0 / fraction.spacing
        around = ndimage.gaussian_filter(missing.astype(np.float32), blur)
        over = ndimage.gaussian_filter(displaced.astype(np.float32), blur) > 0.7 * np.maximum(around, 1e-3)
        bevel = missing & over & ~cavity
        cavity = (cavity | over) & missing
        missing &= ~cavity
        closed = fraction.with_array(np.maximum(fraction.array, cavity))
        both_sides = _missing_on_both_sides(field, missing, distance, closed, to_canonical, options)
        return cls(
            fraction=fraction,
            distance=distance,
            to_canonical=to_canonical,
            field=field,
            deviation=deviation,
            inside=inside,
            missing=missing,
            cavity=cavity,
            both_sides=both_sides,
            bevel=bevel,
            displaced=displaced,
            at_border=at_border,
            options=options,
        )

    def cores(self) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
        """Cores of candidate defects, largest first: a box of the grid with a margin, and the core's mask in it."""
        core = (self.field < -0.3) & (self.distance > self.options.core_mm) & self.missing
        labels, _ = ndimage.label(core, np.ones((3, 3, 3)))
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        reach = int(np.ceil(18.0 / self.fraction.spacing.min()))
        boxes = ndimage.find_objects(labels)
        for label in np.argsort(sizes)[::-1]:
            if sizes[label] * self.fraction.voxel_ml < 0.08:
                break
            box = tuple(slice(max(0, s.start - reach), s.stop + reach) for s in boxes[label - 1])
            yield box, labels[box] == label

    def grown(self, box: tuple[slice, ...], seed: np.ndarray) -> np.ndarray:
        """The candidate defect that grows from a core, up to the rim of the hole."""
        field, bone, spacing = self.field[box], self.fraction.array[box], self.fraction.spacing
        near = ndimage.distance_transform_edt(~seed, sampling=spacing)
        # The narrow end of a hole has no voxel far from bone: growth continues there unless it is a thin spurious layer
        # on intact bone.
        narrow = (near < 15.0) & (missing_fraction(field, bone, spacing) > 0.4)
        # A slanted edge is over bone, as a thin spurious layer is, but bone is missing to some depth near the hole.
        slanted = self.bevel[box] & (missing_fraction(field, bone, spacing, 1.5) > BEVEL) & (near < 8.0)
        grown = ndimage.binary_propagation(seed, mask=(self.missing[box] & ((near < 6.0) | narrow)) | slanted)
        both_sides = grown & self.both_sides[box]
        if not both_sides.any() or self._crosses_midline(box, grown, both_sides):
            return grown
        remaining = grown & ~both_sides
        return largest_component(remaining) if remaining.any() else remaining

    def _crosses_midline(self, box: tuple[slice, ...], grown: np.ndarray, low: np.ndarray) -> bool:
        """Whether a candidate contains most of the mirror image of its low part, as one across the midline does."""
        start = [s.start for s in box]
        at = apply_affine(self.to_canonical, np.argwhere(low) + start) * [-1, 1, 1]
        there = np.round(apply_affine(np.linalg.inv(self.to_canonical), at) - start).astype(int)
        there = there[((there >= 0) & (there < grown.shape)).all(1)]
        return int(grown[tuple(there.T)].sum()) > len(at) / 2

    def measure(self, box: tuple[slice, ...], seed: np.ndarray, grown: np.ndarray) -> dict:
        """Measures that separate defects from other candidates, see DefectOptions."""
        bone, start = self.fraction.array[box], [s.start for s in box]
        border = ndimage.binary_dilation(grown) & ~grown
        air = border & ~self.inside[box] & (bone < 0.5)
        rim = border & self.inside[box]
        # A core may be higher than the candidate it grows into, for example along the wall of the orbit.
        at = apply_affine(self.to_canonical, np.argwhere(grown) + start)
        centre, whole = apply_affine(self.to_canonical, np.argwhere(seed) + start).mean(0), at.mean(0)
        elevation = min(c[2] / np.linalg.norm(c) for c in (centre, whole))
        low = at[:, 2] < self.options.around_elevation * np.linalg.norm(at, axis=1)
        return {
            "ml": round(float(grown.sum() * self.fraction.voxel_ml), 2),
            "centre_mm": [round(float(c)) for c in centre],
            "radius_mm": round(float(self.distance[box][seed].max()), 1),
            "elevation": round(float(elevation), 2),
            "closed": round(float((bone[rim] >= 0.5).mean()) if rim.any() else 0.0, 2),
            "open_edge": round(float((border & self.at_border[box]).sum() / max(1, border.sum())), 2),
            "around": round(_share_of_circle(at[low]), 2),
            "air": round(float(air.sum() / max(1, border.sum())), 2),
            "spread_mm": round(float(self.deviation[box][seed].mean()), 2),
            "displaced": round(float(self.displaced[box][seed].mean()), 2),
        }


def _share_of_circle(points: np.ndarray, sectors: int = 36) -> float:
    """Fraction of the circle around the vault's axis that points (N, 3) in canonical mm cover, 0..1."""
    angle = np.arctan2(points[:, 1], points[:, 0])
    return len(np.unique(np.floor(angle / (2 * np.pi) * sectors) % sectors)) / sectors


def _rejection_reason(measured: dict, options: DefectOptions) -> str | None:
    """Why a measured candidate is not a defect, in words for the report; None if it may be a defect."""
    x, y, _ = np.abs(measured["centre_mm"])
    low = measured["elevation"] < options.thin_elevation
    reasons = {
        "below the minimum volume of a defect": measured["ml"] < options.smallest_ml,
        "narrower than a burr hole": measured["radius_mm"] < options.radius_mm,
        "at the border of the image": measured["open_edge"] > options.open_edge,
        "skull cut off all around, not a hole": measured["around"] > options.around,
        AT_SKULL_BASE: measured["elevation"] < (options.temple_elevation if x > y else options.base_elevation),
        _SMALL_IN_THIN_BONE: low and measured["ml"] < options.thin_ml,
        "open edge of the bone, not a hole": measured["closed"] < options.closed,
        "a cavity in intact bone": measured["air"] < options.air,
        "bone is present but displaced": measured["displaced"] > options.displaced,
        "in a region of high variability across skulls": measured["spread_mm"] > options.spread_mm,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _on_both_sides(measured: list[dict], options: DefectOptions) -> list[bool]:
    """Which candidates are low on the skull and have a similar one at their mirror image.

    There the patient's bone, or its segmentation, ends earlier than the prior. A surgical defect is on one side, or
    crosses the midline higher up.
    """

    def similar(first: dict, second: dict) -> bool:
        a, b = np.array(first["centre_mm"]) * [-1, 1, 1], np.array(second["centre_mm"])
        small, large = sorted((first["ml"], second["ml"]))
        return bool(np.linalg.norm(a - b) < options.mirror_mm and large < 2 * small)

    low = [this["elevation"] < options.thin_elevation for this in measured]
    return [
        low[i] and any(low[k] and k != i and similar(this, other) for k, other in enumerate(measured))
        for i, this in enumerate(measured)
    ]
