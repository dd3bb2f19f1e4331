"""Gaps: where the complete shape has bone and the patient has none, and which of that is a defect."""

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

MISSING_ON_BOTH_SIDES = "lacking on both sides"


AT_SKULL_BASE = "at the skull base"


_ROOM_MM = 8.0


BEVEL = 0.45
"""Share of the shell within 1.5 mm that is lacking where a hole's edge is slanted; in a skin over bone it is less."""


def _on_voxels(
    fields: torch.Tensor, grid: Grid, to_canonical: np.ndarray, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Fields (C, X, Y, Z) of the canonical grid on a volume's voxels, (C, *shape), and which voxels lie beyond it.

    to_canonical: (4, 4) voxel index -> canonical mm.
    """
    matrix = torch.tensor(to_canonical).float()
    i, j, k = (torch.arange(n).float()[:, None] * matrix[:3, axis] for axis, n in enumerate(shape))
    at = (i[:, None, None] + j[:, None] + k + matrix[:3, 3]).reshape(-1, 3)
    outside = (at.abs() > torch.tensor(grid.half_mm).float()).any(1)
    return grid.sample(fields, at).T.reshape(-1, *shape).contiguous().numpy(), outside.reshape(shape).numpy()


@dataclass(frozen=True)
class Defects:
    """Missing bone on the reduced grid.

    pieces: bool masks, one defect each, largest first; field: the conformed prior there, canonical mm; cavity: bool,
    air between two tables of sound bone, or just over sound bone; rejected: what was measured of other gaps, and why
    they are no defects; spacing_mm: the grid's least spacing.
    """

    pieces: list[np.ndarray]
    field: np.ndarray
    cavity: np.ndarray
    rejected: list[dict]
    spacing_mm: float

    @cached_property
    def box(self) -> tuple[slice, ...]:
        """The piece of the reduced grid around all gaps in which an implant may lie; there must be a gap."""
        return bounding_box(np.logical_or.reduce(self.pieces), margin=int(np.ceil(_ROOM_MM / self.spacing_mm)))


def missing_fraction(field: np.ndarray, bone: np.ndarray, spacing: np.ndarray, spread_mm: float = 2.5) -> np.ndarray:
    """How much of the prior's shell within about spread_mm is not filled by bone, 0..1.

    The prior never meets intact bone to the last tenth of a voxel, so "inside but not bone" also holds for a skin over
    sound bone; there bone fills most of the shell nearby, and this is small.
    """
    shell = np.clip(0.5 - field / 1.2, 0, 1)
    filled = ndimage.gaussian_filter(np.minimum(shell, bone), spread_mm / spacing)
    return 1 - filled / np.maximum(ndimage.gaussian_filter(shell, spread_mm / spacing), 0.02)


def _bone_along_line(
    missing: np.ndarray, fraction: Volume, to_canonical: np.ndarray, reach_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """From each voxel of missing bone, the distance in mm to bone outwards and inwards on the line through the vault's
    centre: two arrays like `missing`, infinite where there is none within reach_mm."""
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


def _open_on_both_sides(
    field: np.ndarray,
    missing: np.ndarray,
    distance: np.ndarray,
    closed: Volume,
    to_canonical: np.ndarray,
    options: DefectOptions,
) -> np.ndarray:
    """Which voxels of missing bone lie low where bone lacks at their mirror image, too.

    These are holes of squama and orbit, which segmentations have on both sides. A surgeon's defect is on one side, or
    crosses the middle higher up. There must be such a hole: a skin over sound bone, where the prior is off, is none.

    distance: from bone, mm; closed: the bone, its cavities filled.
    """
    lack = missing_fraction(field, closed.array, closed.spacing)
    index = np.argwhere(missing)
    at = apply_affine(to_canonical, index)
    low = (at[:, 2] < options.thin_elevation * np.linalg.norm(at, axis=1)) & (np.abs(at[:, 0]) > options.mirror_mm)
    index, at = index[low], at[low]
    found = np.zeros(field.shape, bool)
    holes = at[distance[tuple(index.T)] > options.core_mm]
    if len(holes):
        mirrored = at * [-1, 1, 1]
        there = apply_affine(np.linalg.inv(to_canonical), mirrored)
        lacking = ndimage.map_coordinates(lack, there.T, order=1, mode="constant", cval=0.0) > options.both_lack
        near, _ = cKDTree(holes).query(mirrored, distance_upper_bound=options.both_mm)
        found[tuple(index[lacking & np.isfinite(near)].T)] = True
    return found


def find_defects(
    conformed: WarpedShape,
    spread: torch.Tensor,
    alignment: np.ndarray,
    fraction: Volume,
    distance: np.ndarray,
    options: DefectOptions = DefectOptions(),
) -> Defects:
    """Where the conformed prior has bone and the patient has none.

    spread: (X, Y, Z) mm by which skulls differ; fraction, distance: the patient's reduced bone and its signed distance
    in mm; alignment: (4, 4) patient RAS mm -> canonical mm.
    """
    lacking = _MissingBone.of(conformed, spread, alignment @ fraction.affine, fraction, distance, options)
    candidates, passed = [], []
    for box, seed in lacking.cores():
        grown = lacking.grown(box, seed)
        if not (seed & grown).any():
            passed.append(lacking.measure(box, seed, seed) | {"reason": MISSING_ON_BOTH_SIDES})
            continue
        note = lacking.measure(box, seed & grown, grown)
        if reason := _rejection_reason(note, options):
            passed.append(note | {"reason": reason})
        else:
            full = np.zeros(fraction.array.shape, bool)
            full[box] = grown
            candidates.append((note, full))
    both_sides = _on_both_sides([note for note, _ in candidates], options)
    judged = list(zip(candidates, both_sides, strict=True))
    passed += [note | {"reason": MISSING_ON_BOTH_SIDES} for (note, _), both in judged if both]
    candidates = sorted((found for found, both in judged if not both), key=lambda c: -c[0]["ml"])
    pieces: list[np.ndarray] = []
    for note, full in candidates:
        if note["ml"] < options.share * candidates[0][0]["ml"]:
            passed.append(note | {"reason": "much smaller than the largest"})
        elif pieces and note["elevation"] < options.beside_elevation and note["ml"] < options.thin_ml:
            passed.append(note | {"reason": "small, where bone is thin"})
        else:
            pieces.append(full)
    cavity = lacking.cavity | lacking.both
    for full in pieces:
        cavity &= ~full
    return Defects(pieces, lacking.field, cavity, passed, float(fraction.spacing.min()))


@dataclass(frozen=True)
class _MissingBone:
    """Bone that the prior has and the patient has not, voxel by voxel on the reduced grid; gaps grow in it.

    field, differ: the prior and the spread there, mm; inside: bool, of the prior; missing: bool, what a gap may be
    made of; cavity, bevel, displaced: bool, see GapOptions; both: bool, what lacks on both sides; beyond: bool, the
    image's end; to_canonical: (4, 4) voxel index -> canonical mm.
    """

    fraction: Volume
    distance: np.ndarray
    to_canonical: np.ndarray
    field: np.ndarray
    differ: np.ndarray
    inside: np.ndarray
    missing: np.ndarray
    cavity: np.ndarray
    both: np.ndarray
    bevel: np.ndarray
    displaced: np.ndarray
    beyond: np.ndarray
    options: DefectOptions

    @classmethod
    def of(
        cls,
        conformed: WarpedShape,
        spread: torch.Tensor,
        to_canonical: np.ndarray,
        fraction: Volume,
        distance: np.ndarray,
        options: DefectOptions,
    ) -> _MissingBone:
        grid: Grid = conformed.grid
        fields = torch.stack([conformed.on_grid(), spread])
        (field, differ), beyond = _on_voxels(fields, grid, to_canonical, fraction.array.shape)
        field[beyond], differ[beyond] = 99.0, 99.0
        for axis in range(3):
            index = [slice(None)] * 3
            for index[axis] in (slice(0, 2), slice(-2, None)):
                beyond[tuple(index)] = True
        # Between its nodes thin bone is told by the shape itself, not by the grid.
        close = np.abs(field) < 1.5 * grid.spacing_mm
        field[close] = conformed.at_voxels(to_canonical, np.argwhere(close))
        inside = field < 0
        missing = inside & (fraction.array < 0.5)
        # Growth stops where skulls differ: through the open skull base a gap would run from the temple into the nose.
        missing &= differ < options.grow_spread_mm
        outwards, inwards = _bone_along_line(missing, fraction, to_canonical, options.cavity_mm)
        cavity = np.isfinite(outwards) & np.isfinite(inwards)
        displaced = np.minimum(outwards, inwards) < options.displaced_mm
        # Where bone lies just beneath or above all around, the prior is off and nothing is missing; at a slanted cut
        # edge that is so in a narrow strip only.
        blur = 3.0 / fraction.spacing
        around = ndimage.gaussian_filter(missing.astype(np.float32), blur)
        over = ndimage.gaussian_filter(displaced.astype(np.float32), blur) > 0.7 * np.maximum(around, 1e-3)
        bevel = missing & over & ~cavity
        cavity = (cavity | over) & missing
        missing &= ~cavity
        closed = fraction.with_array(np.maximum(fraction.array, cavity))
        both = _open_on_both_sides(field, missing, distance, closed, to_canonical, options)
        return cls(
            fraction=fraction,
            distance=distance,
            to_canonical=to_canonical,
            field=field,
            differ=differ,
            inside=inside,
            missing=missing,
            cavity=cavity,
            both=both,
            bevel=bevel,
            displaced=displaced,
            beyond=beyond,
            options=options,
        )

    def cores(self) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
        """What gaps grow from, largest first: a piece of the grid with room around, and the core's mask in it."""
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
        """The gap that a core grows to, as far as its rim."""
        field, bone, spacing = self.field[box], self.fraction.array[box], self.fraction.spacing
        near = ndimage.distance_transform_edt(~seed, sampling=spacing)
        # A hole's narrow end has no voxel far from bone: it is followed further, where it is no skin over sound bone.
        narrow = (near < 15.0) & (missing_fraction(field, bone, spacing) > 0.4)
        # A slanted edge lies over bone as a skin does, but is no skin: bone lacks in some depth, and the hole is near.
        slanted = self.bevel[box] & (missing_fraction(field, bone, spacing, 1.5) > BEVEL) & (near < 8.0)
        grown = ndimage.binary_propagation(seed, mask=(self.missing[box] & ((near < 6.0) | narrow)) | slanted)
        both = grown & self.both[box]
        if not both.any() or self._reaches_its_mirror_image(box, grown, both):
            return grown
        left = grown & ~both
        return largest_component(left) if left.any() else left

    def _reaches_its_mirror_image(self, box: tuple[slice, ...], grown: np.ndarray, part: np.ndarray) -> bool:
        """Whether a gap holds most of the mirror image of a part of it, as one does that crosses the middle."""
        start = [s.start for s in box]
        at = apply_affine(self.to_canonical, np.argwhere(part) + start) * [-1, 1, 1]
        there = np.round(apply_affine(np.linalg.inv(self.to_canonical), at) - start).astype(int)
        there = there[((there >= 0) & (there < grown.shape)).all(1)]
        return int(grown[tuple(there.T)].sum()) > len(at) / 2

    def measure(self, box: tuple[slice, ...], seed: np.ndarray, grown: np.ndarray) -> dict:
        """What tells a defect from another gap, see GapOptions."""
        bone, start = self.fraction.array[box], [s.start for s in box]
        border = ndimage.binary_dilation(grown) & ~grown
        air = border & ~self.inside[box] & (bone < 0.5)
        rim = border & self.inside[box]
        # A core may lie higher than what it grows into, as where a gap runs along the orbit's wall.
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
            "open_edge": round(float((border & self.beyond[box]).sum() / max(1, border.sum())), 2),
            "around": round(_share_of_circle(at[low]), 2),
            "air": round(float(air.sum() / max(1, border.sum())), 2),
            "spread_mm": round(float(self.differ[box][seed].mean()), 2),
            "displaced": round(float(self.displaced[box][seed].mean()), 2),
        }


def _share_of_circle(points: np.ndarray, sectors: int = 36) -> float:
    """How much of the circle about the vault's axis points (N, 3) in canonical mm reach over, 0..1."""
    angle = np.arctan2(points[:, 1], points[:, 0])
    return len(np.unique(np.floor(angle / (2 * np.pi) * sectors) % sectors)) / sectors


def _rejection_reason(note: dict, options: DefectOptions) -> str | None:
    """Why a gap, as measured, is no defect; None when it may be one. Reasons are in words that a report can show."""
    x, y, _ = np.abs(note["centre_mm"])
    low = note["elevation"] < options.thin_elevation
    reasons = {
        "smaller than a defect": note["ml"] < options.smallest_ml,
        "narrower than a burr hole": note["radius_mm"] < options.radius_mm,
        "at the end of the image": note["open_edge"] > options.open_edge,
        "bone that ends all around, not a hole": note["around"] > options.around,
        AT_SKULL_BASE: note["elevation"] < (options.temple_elevation if x > y else options.base_elevation),
        "small, where bone is thin": low and note["ml"] < options.thin_ml,
        "bone that ends, not a hole": note["closed"] < options.closed,
        "a cavity in bone": note["air"] < options.air,
        "bone is there, but elsewhere": note["displaced"] > options.displaced,
        "where skulls differ": note["spread_mm"] > options.spread_mm,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _on_both_sides(notes: list[dict], options: DefectOptions) -> list[bool]:
    """Which gaps lie low and have a like one at their mirror image: there this head, or its segmentation, ends sooner
    than the prior. A surgeon's defect is on one side, or crosses the middle higher up."""

    def alike(first: dict, second: dict) -> bool:
        a, b = np.array(first["centre_mm"]) * [-1, 1, 1], np.array(second["centre_mm"])
        small, large = sorted((first["ml"], second["ml"]))
        return bool(np.linalg.norm(a - b) < options.mirror_mm and large < 2 * small)

    low = [note["elevation"] < options.thin_elevation for note in notes]
    return [
        low[i] and any(low[k] and k != i and alike(note, other) for k, other in enumerate(notes))
        for i, note in enumerate(notes)
    ]
