"""The implant: where bone is missing, which voxels fill it, and what the result measures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from .bone import bounding_box
from .conformed import ConformedPrior
from .frame import Grid, apply_affine, crop, surface_points
from .volume import Volume


@dataclass(frozen=True)
class GapOptions:
    """What counts as a defect, and what does not.

    core_mm: a voxel of missing bone this far from any bone starts a gap. A gap is no defect when it is
    smaller than smallest_ml, or than `share` of the largest;
    at the end of the image: more than open_edge of its border is, so the field of view ends there;
    a cavity in bone, such as a frontal sinus: less than `air` of its border is air. Air with bone on both sides within
    cavity_mm stays open, too;
    bone elsewhere: more than `displaced` of it has bone within displaced_mm further out or in, so the prior is wrong;
    where skulls differ among themselves by more than spread_mm, as in the nasal cavity and at the mastoid tips;
    a gap does not grow to where they differ by grow_spread_mm;
    at the skull base: seen from the vault's centre it lies below base_elevation (the sine of the angle), or at the
    side, where the vault reaches lower, below temple_elevation; there heads and segmentations differ most. Facial
    defects lie there, too: they are not completed yet;
    small and low: below thin_elevation it is smaller than thin_ml. Squama and orbital roof are so thin there that
    segmentations often have a hole where the bone has none. Measured on fifty-six cases of four skulls: such holes are
    up to 1.7 ml, true defects of that height 2.7 ml and more;
    on both sides: as low, and within mirror_mm of its mirror image there is another one of about its size;
    bone that ends: less than `closed` of its rim is bone, as where a segmentation was cut short.
    """

    core_mm: float = 2.8
    smallest_ml: float = 0.5
    share: float = 0.15
    open_edge: float = 0.2
    air: float = 0.35
    spread_mm: float = 2.2
    grow_spread_mm: float = 3.0
    cavity_mm: float = 20.0
    displaced: float = 0.4
    displaced_mm: float = 8.0
    base_elevation: float = -0.35
    temple_elevation: float = -0.45
    thin_elevation: float = -0.1
    thin_ml: float = 2.2
    mirror_mm: float = 12.0
    closed: float = 0.5


_ROOM_MM = 8.0

BEVEL = 0.45
"""Share of the shell within 1.5 mm that is lacking where a hole's edge is slanted; in a skin over bone it is less."""


def _chunks(count: int, size: int = 2_000_000):
    return [slice(start, min(count, start + size)) for start in range(0, count, size)]


def evaluate(conformed: ConformedPrior, to_canonical: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The conformed field (N,) in canonical mm at voxel indices (N, 3); to_canonical: (4, 4) index -> canonical mm."""
    matrix = torch.tensor(to_canonical).float()
    out = np.empty(len(index), np.float32)
    for part in _chunks(len(index)):
        points = torch.tensor(index[part]).float() @ matrix[:3, :3].T + matrix[:3, 3]
        out[part] = conformed.field(points).numpy()
    return out


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
class Gap:
    """Missing bone on the reduced grid.

    pieces: bool masks, one defect each, largest first; field: the conformed prior there, canonical mm; cavity: bool,
    air between two tables of sound bone, or just over sound bone; passed_over: what was measured of other gaps, and why
    they are no defects; spacing_mm: the grid's least spacing.
    """

    pieces: list[np.ndarray]
    field: np.ndarray
    cavity: np.ndarray
    passed_over: list[dict]
    spacing_mm: float

    @cached_property
    def box(self) -> tuple[slice, slice, slice]:
        """The piece of the reduced grid around all gaps in which an implant may lie; there must be a gap."""
        return bounding_box(np.logical_or.reduce(self.pieces), margin=int(np.ceil(_ROOM_MM / self.spacing_mm)))


def _lack(field: np.ndarray, bone: np.ndarray, spacing: np.ndarray, spread_mm: float = 2.5) -> np.ndarray:
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


def find_gaps(
    conformed: ConformedPrior,
    spread: torch.Tensor,
    alignment: np.ndarray,
    fraction: Volume,
    distance: np.ndarray,
    options: GapOptions = GapOptions(),
) -> Gap:
    """Where the conformed prior has bone and the patient has none.

    spread: (X, Y, Z) mm by which skulls differ; fraction, distance: the patient's reduced bone and its signed distance
    in mm; alignment: (4, 4) patient RAS mm -> canonical mm.
    """
    grid: Grid = conformed.grid
    shape = fraction.array.shape
    to_canonical = alignment @ fraction.affine
    (field, differ), outside = _on_voxels(torch.stack([conformed.on_grid(), spread]), grid, to_canonical, shape)
    field[outside], differ[outside] = 99.0, 99.0
    # Between its nodes thin bone is told by the shape itself, not by the grid.
    close = np.abs(field) < 1.5 * grid.spacing_mm
    field[close] = evaluate(conformed, to_canonical, np.argwhere(close))
    shell = field < 0
    missing = shell & (fraction.array < 0.5)
    # Growth stops where skulls differ: through the open skull base a gap would run from the temple into the nose.
    missing &= differ < options.grow_spread_mm
    outwards, inwards = _bone_along_line(missing, fraction, to_canonical, options.cavity_mm)
    cavity = np.isfinite(outwards) & np.isfinite(inwards)
    displaced = np.minimum(outwards, inwards) < options.displaced_mm
    # Where bone lies just beneath or above all around, the prior is off and nothing is missing; at a slanted cut edge
    # that is so in a narrow strip only.
    blur = 3.0 / fraction.spacing
    around = ndimage.gaussian_filter(missing.astype(np.float32), blur)
    over = ndimage.gaussian_filter(displaced.astype(np.float32), blur) > 0.7 * np.maximum(around, 1e-3)
    bevel = missing & over & ~cavity
    cavity = (cavity | over) & missing
    missing &= ~cavity
    core = (field < -0.3) & (distance > options.core_mm) & missing
    labels, _ = ndimage.label(core, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    edge = outside
    for axis in range(3):
        index = [slice(None)] * 3
        for index[axis] in (slice(0, 2), slice(-2, None)):
            edge[tuple(index)] = True
    reach = int(np.ceil(18.0 / fraction.spacing.min()))
    boxes = ndimage.find_objects(labels)
    candidates, passed = [], []
    for label in np.argsort(sizes)[::-1]:
        if sizes[label] * fraction.voxel_ml < 0.08:
            break
        box = tuple(slice(max(0, s.start - reach), s.stop + reach) for s in boxes[label - 1])
        seed = labels[box] == label
        near = ndimage.distance_transform_edt(~seed, sampling=fraction.spacing)
        # A hole's narrow end has no voxel far from bone: it is followed further, where it is no skin over sound bone.
        narrow = (near < 15.0) & (_lack(field[box], fraction.array[box], fraction.spacing) > 0.4)
        # A slanted edge lies over bone as a skin does, but is no skin: bone lacks in some depth, and the hole is near.
        deep = _lack(field[box], fraction.array[box], fraction.spacing, 1.5) > BEVEL
        slanted = bevel[box] & deep & (near < 8.0)
        grown = ndimage.binary_propagation(seed, mask=(missing[box] & ((near < 6.0) | narrow)) | slanted)
        border = ndimage.binary_dilation(grown) & ~grown
        air = border & ~shell[box] & (fraction.array[box] < 0.5)
        at = apply_affine(to_canonical, np.argwhere(seed) + [s.start for s in box])
        rim = border & shell[box]
        centre = at.mean(0)
        lowest = options.temple_elevation if abs(centre[0]) > abs(centre[1]) else options.base_elevation
        # A core may lie higher than what it grows into, as where a gap runs along the orbit's wall.
        whole = apply_affine(to_canonical, np.argwhere(grown) + [s.start for s in box]).mean(0)
        elevation = min(c[2] / np.linalg.norm(c) for c in (centre, whole))
        note = {
            "ml": round(float(grown.sum() * fraction.voxel_ml), 2),
            "centre_mm": [round(float(c)) for c in centre],
            "elevation": round(float(elevation), 2),
            "closed": round(float((fraction.array[box][rim] >= 0.5).mean()) if rim.any() else 0.0, 2),
            "open_edge": round(float((border & edge[box]).sum() / max(1, border.sum())), 2),
            "air": round(float(air.sum() / max(1, border.sum())), 2),
            "spread_mm": round(float(differ[box][seed].mean()), 2),
            "displaced": round(float(displaced[box][seed].mean()), 2),
        }
        wrong = [
            name
            for name, bad in (
                ("smaller than a defect", note["ml"] < options.smallest_ml),
                ("at the end of the image", note["open_edge"] > options.open_edge),
                ("at the skull base", note["elevation"] < lowest),
                (
                    "small, where bone is thin",
                    note["elevation"] < options.thin_elevation and note["ml"] < options.thin_ml,
                ),
                ("bone that ends, not a hole", note["closed"] < options.closed),
                ("a cavity in bone", note["air"] < options.air),
                ("bone is there, but elsewhere", note["displaced"] > options.displaced),
                ("where skulls differ", note["spread_mm"] > options.spread_mm),
            )
            if bad
        ]
        if wrong:
            passed.append(note | {"because": wrong[0]})
        else:
            full = np.zeros(shape, bool)
            full[box] = grown
            candidates.append((note, full))
    both_sides = _on_both_sides([note for note, _ in candidates], options)
    judged = list(zip(candidates, both_sides, strict=True))
    passed += [note | {"because": "lacking on both sides"} for (note, _), both in judged if both]
    candidates = [found for found, both in judged if not both]
    candidates.sort(key=lambda c: -c[0]["ml"])
    limit = options.share * candidates[0][0]["ml"] if candidates else 0.0
    passed += [note | {"because": "much smaller than the largest"} for note, _ in candidates if note["ml"] < limit]
    pieces = [full for note, full in candidates if note["ml"] >= limit]
    for full in pieces:
        cavity &= ~full
    return Gap(pieces, field, cavity, passed, float(fraction.spacing.min()))


def _on_both_sides(notes: list[dict], options: GapOptions) -> list[bool]:
    """Which gaps lie low and have a like one at their mirror image: there this head, or its segmentation, ends sooner
    than the prior. A surgeon's defect is on one side, or crosses the middle higher up."""

    def alike(first: dict, second: dict) -> bool:
        a, b = np.array(first["centre_mm"]) * [-1, 1, 1], np.array(second["centre_mm"])
        small, large = sorted((first["ml"], second["ml"]))
        return np.linalg.norm(a - b) < options.mirror_mm and large < 2 * small

    low = [note["elevation"] < options.thin_elevation for note in notes]
    return [
        low[i] and any(low[k] and k != i and alike(note, other) for k, other in enumerate(notes))
        for i, note in enumerate(notes)
    ]


@dataclass(frozen=True)
class Allowance:
    """Where the implant may be: a smooth score, positive where a voxel may be implant: bone is lacking here, and a
    found gap is near.

    score: float32, the score on a piece of the reduced grid; box: that piece.
    """

    score: Volume
    box: tuple[slice, slice, slice]


def allowance(fraction: Volume, gap: Gap, field: np.ndarray | None = None, full: float = 0.62) -> Allowance:
    """The score of where bone really is missing: bone fills less than `full` of the prior's shell nearby.

    field: of another shape than the one whose gaps were found, canonical mm, on the gap's box.
    """
    box = gap.box
    region, bone_here = np.logical_or.reduce(gap.pieces)[box], fraction.array[box]
    field = gap.field[box] if field is None else field
    lack = _lack(field, bone_here, fraction.spacing)
    near = ndimage.distance_transform_edt(~region, sampling=fraction.spacing)
    close = _lack(field, bone_here, fraction.spacing, 1.5)
    allowed = np.minimum(np.maximum(lack - (1 - full), close - BEVEL), (4.0 - near) / 4.0).astype(np.float32)
    allowed[gap.cavity[box]] = -1.0
    return Allowance(crop(fraction, box).with_array(allowed), box)


def fill(
    conformed: ConformedPrior,
    alignment: np.ndarray,
    bone: Volume,
    gap: Gap,
    where: Allowance,
    smallest_ml: float = 0.5,
) -> np.ndarray:
    """Implant voxels on the patient's own grid: inside the conformed prior, not bone, and where bone really is missing.

    where: the score of missing bone. Pieces smaller than smallest_ml are no defects.
    """
    here, box, allowed = where.score, where.box, where.score.array
    to_here = np.linalg.inv(here.affine) @ bone.affine
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * np.array(here.array.shape)
    native = apply_affine(np.linalg.inv(to_here), corners)
    low = np.clip(np.floor(native.min(0)).astype(int), 0, bone.array.shape)
    high = np.clip(np.ceil(native.max(0)).astype(int) + 1, 0, bone.array.shape)
    native_box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    local = crop(bone, native_box)
    to_here = np.linalg.inv(here.affine) @ local.affine
    score = ndimage.affine_transform(
        allowed, to_here[:3, :3], to_here[:3, 3], output_shape=local.array.shape, order=1, cval=-1.0, prefilter=False
    )
    index = np.argwhere((score > 0) & ~local.array)
    implant = np.zeros_like(bone.array)  # in the same memory order: mixed orders cost seconds at 512^3
    if len(index):
        values = evaluate(conformed, alignment @ local.affine, index)
        part = np.zeros(local.array.shape, bool)
        part[tuple(index[values < 0].T)] = True
        # Pinholes, where the shape is thinner than it can be told, are closed; bone and what must stay open are not.
        part |= ndimage.binary_closing(part, iterations=2) & (score > 0) & ~local.array
        implant[native_box] = _tidy(part, local, here, gap, box, smallest_ml)
    return implant


def _tidy(part: np.ndarray, local: Volume, here: Volume, gap: Gap, box: tuple, smallest_ml: float) -> np.ndarray:
    """One connected piece per gap, without crumbs: threads thinner than a voxel's opening are cut, then regrown.

    A piece that ends up smaller than smallest_ml was no defect.
    """
    opened = ndimage.binary_opening(part) if min(part.shape) > 2 else part
    labels, count = ndimage.label(opened)
    keep = np.zeros_like(part)
    if not count:
        return keep
    to_local = np.linalg.inv(local.affine) @ here.affine
    for piece in gap.pieces:
        index = np.argwhere(piece[box])
        at = np.round(apply_affine(to_local, index)).astype(int)
        at = at[((at >= 0) & (at < part.shape)).all(1)]
        votes = np.bincount(labels[tuple(at.T)], minlength=count + 1)
        votes[0] = 0
        chosen = labels == votes.argmax() if votes.max() else keep
        if chosen.sum() * local.voxel_ml >= 0.8 * smallest_ml:
            keep |= chosen
    grown = ndimage.binary_dilation(keep, ndimage.generate_binary_structure(3, 1)) & part
    # Regrowing may touch a crumb's neighbour: only what hangs together with the opened piece by faces stays.
    labels, count = ndimage.label(grown)
    held = np.unique(labels[keep])
    return np.isin(labels, held[held > 0])


def measure(implant: Volume, rim_gap_mm: float) -> dict:
    """Volume (ml), thickness (mm), pieces and rim gap (mm) of an implant mask.

    Thickness is the distance from a point of the outer surface to the nearest of the inner one, away from the rim.
    """
    box = bounding_box(implant.array, margin=3)
    local = crop(implant, box)
    pieces = ndimage.label(local.array)[1]
    soft = ndimage.gaussian_filter(local.array.astype(np.float32), np.minimum(0.6, 0.6 / local.spacing))
    points, normals = surface_points(Volume(soft, local.affine))
    result = {
        "volume_ml": round(float(implant.array.sum() * implant.voxel_ml), 3),
        "pieces": int(pieces),
        "rim_gap_mm": round(rim_gap_mm, 3),
    }
    step = max(1, len(points) // 12000)
    points, normals = points[::step], normals[::step]
    tree = cKDTree(points)
    chosen = np.random.default_rng(0).permutation(len(points))[:4000]
    distances, neighbours = tree.query(points[chosen], k=min(256, len(points)), distance_upper_bound=25.0)
    # The far side: points whose surface faces the other way, straight behind this one.
    valid = np.isfinite(distances)
    towards = np.einsum("nx,nkx->nk", normals[chosen], normals[np.where(valid, neighbours, 0)])
    thickness = np.where(valid & (towards < -0.7), distances, np.inf).min(axis=1)
    thickness = thickness[np.isfinite(thickness)]
    if len(thickness):
        low, high = np.percentile(thickness, [2, 98])
        result["thickness_mm"] = {
            "mean": round(float(np.mean(thickness)), 2), "min": round(float(low), 2), "max": round(float(high), 2),
        }  # fmt: skip
    return result
