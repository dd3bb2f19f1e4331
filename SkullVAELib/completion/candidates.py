"""Candidate defects: where the complete shape has bone and the patient has none, and what distinguishes a hole from a
natural opening, a cut edge or an error of the registration.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import EllipsisType

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.completion.options import DefectOptions
from SkullVAELib.core.background import both
from SkullVAELib.core.progress import report_step
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.masks import bounding_box, largest_component
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.skull import Skull
from SkullVAELib.shape.warped import WarpedShape

BEVEL = 0.45
"""Least missing fraction within 1.5 mm at the slanted edge of a hole; it is smaller in a thin spurious layer."""

FEATURES = (
    "volume_ml",
    "radius_mm",
    "enclosed",
    "image_end",
    "air",
    "elevation",
    "around",
    "spread_mm",
    "displaced",
    "depth",
    "rim_bone",
    "rim_error_mm",
    "plate_mm",
    "mirror",
    "natural",
    "lateral",
    "frontal",
    "coarse_mm",
)
"""Names of the features of a candidate defect, see `Candidate`."""

# The least volume of a core, ml: 5 mm wide in a plate of 1.5 mm, as a burr hole in the temporal squama has.
_LEAST_CORE_ML = 0.015

# No head has more holes; thin bone in a coarse segmentation may have hundreds of pinholes.
_MOST_CANDIDATES = 30

_VOXELS_AT_ONCE = 200_000

# Coordinates in single precision are rounded by less than this, mm.
_ROUNDING_MM = 1e-3

# A Gaussian of scipy.ndimage ends after so many standard deviations.
_GAUSSIAN_REACH = 4.5

# A candidate grows this far from its core, mm, and further where bone is clearly missing.
_GROW_MM, _GROW_NARROW_MM, _GROW_SLANTED_MM = 6.0, 15.0, 8.0

# A voxel this near to the end of the image is at its end, mm.
_END_MM = 2.5

# A candidate continues this far beyond the end of the image, mm.
_BEYOND_MM = 25.0

# Where complete skulls lack bone at least this often, a natural opening or the unsegmented face begins; or below this
# elevation the face and the base, which many segmentations lack. Where exactly is not known, so all are tried.
_NATURAL, _BASE_ELEVATION = (0.05, 0.1), (-0.25, -0.4)

# The rim of a candidate, mm from it, in which bone is compared with the complete shape.
_RIM_MM = (2.0, 6.0)

# A skull was cut off at a plane if its lower ends are within this distance, mm, of one in so many of these sectors
# around the vault's axis. The plane may be tilted by so much, as a slope.
_SECTORS, _CUT_SHARE, _CUT_MM, _CUT_TILT = 36, 0.6, 1.5, 0.7

_DIRECTIONS = ndimage.generate_binary_structure(3, 1)


@dataclass(frozen=True)
class Candidate:
    """A candidate defect.

    Attributes
    ----------
    box : tuple of slice
        A part of the reduced grid that contains it.
    mask : numpy.ndarray
        Bool, its voxels in that part.
    centre_mm : numpy.ndarray, shape (3,)
        The voxel of its core that is nearest to the core's centre, patient RAS mm.
    features : dict
        Measures that distinguish defects from other candidates, one for each of `FEATURES`; lengths are mm.

        - volume_ml: volume, ml
        - radius_mm: largest distance of its core from any bone
        - enclosed: fraction of its border within the shape that is bone
        - image_end: fraction of its border at the end of the image
        - air: fraction of its border that is air outside the shape
        - elevation: sine of the angle above the horizontal plane of the canonical frame, seen from the vault's centre
        - around: fraction of the circle around the vault's axis that its low part covers
        - spread_mm: mean standard deviation across skulls at its core
        - displaced: fraction of its core with bone just further out or in
        - depth: mean fraction of the shape's bone that is missing around its voxels
        - rim_bone: fraction of the shape's bone that is present around it
        - rim_error_mm: median distance between the shape and the bone's surface around it
        - plate_mm: thickness of the shape at its core
        - mirror: fraction of it with missing bone at its mirror image
        - natural: how often complete skulls lack bone there, see `DefectClassifier`
        - lateral, frontal: components of the direction from the vault's centre, lateral without sign
        - coarse_mm: largest voxel spacing of the image
    """

    box: tuple[slice, ...]
    mask: np.ndarray
    centre_mm: np.ndarray
    features: dict[str, float]

    @property
    def volume_ml(self) -> float:
        """Volume, ml."""
        return self.features["volume_ml"]

    def on_grid(self, shape: tuple[int, ...]) -> np.ndarray:
        """Bool mask on the whole reduced grid."""
        full = np.zeros(shape, bool)
        full[self.box] = self.mask
        return full


def _on_voxels(
    field: torch.Tensor, grid: Grid, to_canonical: np.ndarray, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """A field (X, Y, Z) of the canonical grid on a volume's voxels, and which voxels are outside the grid.

    to_canonical: (4, 4) voxel index -> canonical mm.
    """
    i, j, k, offset = _terms(to_canonical, shape)
    half = torch.tensor(grid.half_mm).float()
    values, outside = np.empty(shape, np.float32), np.zeros(shape, bool)
    # In slabs that fit the processor's cache.
    depth = max(1, _VOXELS_AT_ONCE // (shape[1] * shape[2]))
    for start in range(0, shape[0], depth):
        slab = slice(start, start + depth)
        at = i[slab, None, None] + j[:, None] + k + offset
        values[slab] = grid.sample(field[None], at.reshape(-1, 3)).reshape(at.shape[:3]).numpy()
        # A slab is inside if its corners are, with room for rounding.
        corners = at[tuple(slice(None, None, max(1, n - 1)) for n in at.shape[:3])]
        if (corners.abs() > half - _ROUNDING_MM).any():
            outside[slab] = (at.abs() > half).any(-1).numpy()
    return values, outside


def _terms(to_canonical: np.ndarray, shape: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """What each axis of a volume adds to the canonical mm of its voxels, (I, 3), (J, 3), (K, 3), and those of the
    first voxel, (3,).
    """
    matrix = torch.tensor(to_canonical).float()
    i, j, k = (torch.arange(n).float()[:, None] * matrix[:3, axis] for axis, n in enumerate(shape))
    return i, j, k, matrix[:3, 3]


def _sampled_at(
    fields: Sequence[torch.Tensor], grid: Grid, to_canonical: np.ndarray, mask: np.ndarray
) -> list[np.ndarray]:
    """Fields (X, Y, Z) of the canonical grid at the voxels of a mask, each on the mask's grid; 0 elsewhere."""
    index = np.argwhere(mask)
    i, j, k, offset = _terms(to_canonical, mask.shape)
    at = i[index[:, 0]] + j[index[:, 1]] + k[index[:, 2]] + offset
    values = grid.sample(torch.stack(list(fields)), at)
    found = []
    for column in values.T:
        full = np.zeros(mask.shape, np.float32)
        full[tuple(index.T)] = column.numpy()
        found.append(full)
    return found


def _near(mask: np.ndarray, reach_mm: float, spacing: np.ndarray) -> tuple[slice, ...]:
    """The part of an array that contains all voxels of a mask and their neighbourhood; all of it for an empty mask."""
    if not mask.any():
        return tuple(slice(0, n) for n in mask.shape)
    return bounding_box(mask, np.ceil(reach_mm / spacing).astype(int))


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
    index: np.ndarray, fraction: Volume, to_canonical: np.ndarray, reach_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distance in mm from voxels (N, 3) of missing bone to bone, outwards and inwards, on the line through the vault's
    centre.

    Returns two arrays (N,), infinite where there is no bone within reach_mm.
    """
    at = apply_affine(to_canonical, index)
    away = at / np.linalg.norm(at, axis=1, keepdims=True).clip(1)
    step = away @ np.linalg.inv(to_canonical)[:3, :3].T  # one canonical mm along the line, in voxels
    shape = fraction.array.shape
    bone, strides = (fraction.array >= 0.5).ravel(), np.cumprod([1, *shape[:0:-1]])[::-1]
    found = []
    for sign in (1.0, -1.0):
        first = np.full(len(index), np.inf, np.float32)
        left = np.arange(len(index))
        start, along = index, step
        for far in np.arange(reach_mm, 0.5, -1.0)[::-1]:
            there = np.round(start + sign * far * along).astype(int)
            inside = np.flatnonzero(((there >= 0) & (there < shape)).all(1))
            hit = inside[bone[there[inside] @ strides]]
            first[left[hit]] = far
            rest = np.ones(len(left), bool)
            rest[hit] = False
            left, start, along = left[rest], start[rest], along[rest]
        found.append(first)
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
    index = np.argwhere(missing)
    at = apply_affine(to_canonical, index)
    low = (at[:, 2] < options.thin_elevation * np.linalg.norm(at, axis=1)) & (np.abs(at[:, 0]) > options.mirror_mm)
    index, at = index[low], at[low]
    found = np.zeros(field.shape, bool)
    holes = at[distance[tuple(index.T)] > options.core_mm]
    if len(holes):
        mirrored = at * [-1, 1, 1]
        near, _ = cKDTree(holes).query(mirrored, distance_upper_bound=options.both_mm)
        index, mirrored = index[np.isfinite(near)], mirrored[np.isfinite(near)]
        there = apply_affine(np.linalg.inv(to_canonical), mirrored)
        share = _missing_fraction_at(there, field, closed)
        found[tuple(index[share > options.both_lack].T)] = True
    return found


def _missing_fraction_at(index: np.ndarray, field: np.ndarray, bone: Volume) -> np.ndarray:
    """`missing_fraction` at points (N, 3) in voxels, interpolated; 0 outside of the grid."""
    shape, spread_mm = np.array(field.shape), 2.5
    inside = np.all((index >= 0) & (index <= shape - 1), axis=1)
    if not inside.any():
        return np.zeros(len(index))
    reach = np.ceil(_GAUSSIAN_REACH * spread_mm / bone.spacing).astype(int) + 1
    low = np.maximum(np.floor(index[inside].min(0)).astype(int) - reach, 0)
    high = np.minimum(np.ceil(index[inside].max(0)).astype(int) + reach + 1, shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    share = missing_fraction(field[box], bone.array[box], bone.spacing, spread_mm)
    at = np.where(inside[:, None], index - low, -9.0)
    return ndimage.map_coordinates(share, at.T, order=1, mode="constant", cval=0.0)


@dataclass(frozen=True)
class MissingBone:
    """Bone that the complete shape has and the patient does not, on the voxels of the reduced grid.

    Candidate defects grow in it.

    Attributes
    ----------
    skull : Skull
        The patient's skull.
    to_canonical : numpy.ndarray, shape (4, 4)
        Voxel index -> canonical mm.
    natural : numpy.ndarray or None
        How often complete skulls lack bone there, 0..1, at each voxel inside the shape; None without an atlas.
    field, deviation : numpy.ndarray
        Signed distance of the complete shape, and standard deviation across skulls at each voxel inside it, canonical
        mm.
    inside, missing, cavity, both_sides, bevel, displaced : numpy.ndarray
        Bool: inside the shape; where a candidate may grow; air that stays open, see `DefectOptions`; bone missing on
        both sides; the slanted edge of a hole; bone just further out or in.
    end : numpy.ndarray
        Bool, at the end of the image or beyond it.
    coarse_mm : float
        Largest voxel spacing of the image, mm.
    options : DefectOptions
        How candidates grow.
    """

    skull: Skull
    to_canonical: np.ndarray
    natural: np.ndarray | None
    field: np.ndarray
    deviation: np.ndarray
    inside: np.ndarray
    missing: np.ndarray
    cavity: np.ndarray
    both_sides: np.ndarray
    bevel: np.ndarray
    displaced: np.ndarray
    end: np.ndarray
    coarse_mm: float
    options: DefectOptions

    @property
    def fraction(self) -> Volume:
        """The patient's bone on the reduced grid, 0..1."""
        return self.skull.fraction

    @property
    def distance(self) -> np.ndarray:
        """Signed distance to the patient's bone, mm."""
        return self.skull.distance

    @classmethod
    def of(
        cls,
        warped: WarpedShape,
        spread: torch.Tensor,
        alignment: np.ndarray,
        skull: Skull,
        coarse_mm: float,
        options: DefectOptions,
        natural: torch.Tensor | None = None,
    ) -> MissingBone:
        """Compare a complete shape with the patient's bone.

        Parameters
        ----------
        warped : WarpedShape
            The complete shape, warped to the patient.
        spread : torch.Tensor, shape (X, Y, Z)
            Standard deviation across skulls in mm, see `Population.spread`.
        alignment : numpy.ndarray, shape (4, 4)
            Patient RAS mm -> canonical mm.
        skull : Skull
            The patient's skull.
        coarse_mm : float
            Largest voxel spacing of the image, mm.
        options : DefectOptions
            How candidates grow.
        natural : torch.Tensor, shape (X', Y', Z'), optional
            Atlas of natural openings over the extent of the canonical grid, 0..1, on the mean skull.

        Returns
        -------
        MissingBone
        """
        fraction, distance, grid = skull.fraction, skull.distance, warped.grid
        to_canonical = alignment @ fraction.affine

        def cut_off() -> np.ndarray | None:
            plane = cut_plane(apply_affine(alignment, skull.points))
            return None if plane is None else _below(plane, to_canonical, fraction.array.shape)

        below, (field, outside) = both(
            cut_off, lambda: _on_voxels(warped.on_grid(), grid, to_canonical, fraction.array.shape)
        )
        field[outside] = 99.0
        report_step(0.35)
        # Interpolation on the grid loses thin bone between its nodes, so the shape is evaluated at the voxels near it.
        close = np.abs(field) < 1.5 * grid.spacing_mm
        field[close] = warped.at_voxels(to_canonical, np.argwhere(close))
        inside = field < 0
        report_step(0.5)
        fields = [spread]
        if natural is not None:
            nodes = grid.coordinates().reshape(-1, 3)
            on_mean = nodes + grid.sample(warped.warp, nodes)
            fields.append(grid.sample(natural[None], on_mean)[:, 0].reshape(grid.shape))
        deviation, *openings = _sampled_at(fields, grid, to_canonical, inside)
        report_step(0.65)
        end = outside | ~_inside_image(skull)
        missing = inside & (fraction.array < 0.5)
        if below is not None:
            end |= below
            missing &= ~below
        # Growth stops where skulls vary: through the open skull base a candidate would grow from temple to nose.
        missing &= deviation < options.grow_spread_mm
        report_step(0.75)
        index = np.argwhere(missing)
        outwards, inwards = _bone_along_line(index, fraction, to_canonical, options.cavity_mm)
        report_step(0.85)
        cavity, displaced = np.zeros_like(missing), np.zeros_like(missing)
        cavity[tuple(index.T)] = np.isfinite(outwards) & np.isfinite(inwards)
        displaced[tuple(index.T)] = np.minimum(outwards, inwards) < options.displaced_mm
        # Where bone is just below or above all around, the prior is displaced and nothing is missing; at a slanted cut
        # edge this is true in a narrow strip only.
        blur_mm = 3.0
        box = _near(missing, _GAUSSIAN_REACH * blur_mm, fraction.spacing)

        def blurred(found: np.ndarray) -> np.ndarray:
            return ndimage.gaussian_filter(found[box].astype(np.float32), blur_mm / fraction.spacing)

        around, over_bone = both(lambda: blurred(missing), lambda: blurred(displaced))
        over = np.zeros_like(missing)
        over[box] = over_bone > 0.7 * np.maximum(around, 1e-3)
        bevel = missing & over & ~cavity
        cavity = (cavity | over) & missing
        missing &= ~cavity
        closed = fraction.with_array(np.maximum(fraction.array, cavity))
        both_sides = _missing_on_both_sides(field, missing, distance, closed, to_canonical, options)
        return cls(
            skull=skull,
            to_canonical=to_canonical,
            natural=openings[0] if openings else None,
            field=field,
            deviation=deviation,
            inside=inside,
            missing=missing,
            cavity=cavity,
            both_sides=both_sides,
            bevel=bevel,
            displaced=displaced,
            end=end,
            coarse_mm=coarse_mm,
            options=options,
        )

    def candidates(self) -> list[Candidate]:
        """All candidate defects, largest first; no two of them overlap."""
        shape = self.fraction.array.shape
        labels = np.zeros(shape, np.int32)
        seeds: dict[int, list[tuple[tuple[slice, ...], np.ndarray]]] = {}
        for number, (box, seed) in enumerate(self._cores(), 1):
            grown = self._grown(box, seed)
            if not (seed & grown).any():
                # All of it is missing on both sides, which its features say.
                grown = seed
            own = [(box, seed & grown)]
            # A hole with two cores is one defect.
            for other in np.unique(labels[box][grown]):
                if other:
                    own += seeds.pop(int(other))
                    labels[labels == other] = number
            labels[box][grown] = number
            seeds[number] = own
        found = []
        boxes = ndimage.find_objects(labels)
        for place, (number, own) in enumerate(seeds.items()):
            report_step(0.3 + 0.7 * place / len(seeds))
            core = np.zeros(shape, bool)
            for box, seed in own:
                core[box] |= seed
            found.append(self._candidate(labels == number, core, boxes[number - 1]))
        return sorted(found, key=lambda candidate: -candidate.volume_ml)

    def parted(self, candidate: Candidate) -> Iterator[tuple[Candidate, ...]]:
        """Ways to part a candidate where complete skulls often lack bone, or where face and base begin.

        A large hole that is low on a skull with an incomplete face or base is one candidate with what is missing there,
        and its rim tells little. The part where complete skulls have bone can be judged by itself.

        Parameters
        ----------
        candidate : Candidate
            Any candidate.

        Yields
        ------
        tuple of Candidate
            The part where complete skulls have bone, and what is left of it if that has a core. Nothing if all of the
            candidate is on one side.
        """
        box = candidate.box
        at = apply_affine(self.to_canonical, np.argwhere(candidate.mask) + [side.start for side in box])
        elevation = np.zeros(candidate.mask.shape)
        elevation[candidate.mask] = at[:, 2] / np.linalg.norm(at, axis=1).clip(1)
        beyond = [elevation < least for least in _BASE_ELEVATION]
        if self.natural is not None:
            beyond += [self.natural[box] >= most for most in _NATURAL]
        for often in beyond:
            kept = candidate.mask & ~often
            if not kept.any() or kept.sum() == candidate.mask.sum():
                continue
            kept = largest_component(kept)
            parts: list[Candidate] = []
            for part in (kept, candidate.mask & ~kept):
                full, core = np.zeros(self.field.shape, bool), np.zeros(self.field.shape, bool)
                full[box] = part
                core[box] = part & self._core(box)
                if not core.any() and not parts:
                    break
                if core.any():
                    parts.append(self._candidate(full, core, bounding_box(full)))
            if parts:
                yield tuple(parts)

    def candidate_at(self, point_mm: np.ndarray, reach_mm: float) -> Candidate | None:
        """The candidate defect that grows from missing bone near a point, whatever its size.

        Parameters
        ----------
        point_mm : numpy.ndarray, shape (3,)
            Patient RAS mm.
        reach_mm : float
            Largest distance of missing bone from the point.

        Returns
        -------
        Candidate or None
            None if no bone is missing there.
        """
        to_index = np.linalg.inv(self.fraction.affine)
        at = apply_affine(to_index, np.asarray(point_mm, float))
        margin = (reach_mm + _GROW_NARROW_MM) / self.fraction.spacing
        low = np.clip(np.floor(at - margin), 0, self.field.shape).astype(int)
        high = np.clip(np.ceil(at + margin) + 1, 0, self.field.shape).astype(int)
        if (high - low < 2).any():
            return None
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        missing = self.inside[box] & (self.fraction.array[box] < 0.5) & (self.distance[box] > 0.5) & ~self.end[box]
        index = np.argwhere(missing)
        if not len(index):
            return None
        away = np.linalg.norm((index + low - at) * self.fraction.spacing, axis=1)
        if away.min() > reach_mm:
            return None
        # From the widest place near the nearest missing bone, not from the thin layer on a cut edge.
        score = self.distance[box][missing] - np.maximum(away - max(4.0, away.min() + 2.0), 0)
        seed = np.zeros(missing.shape, bool)
        seed[tuple(index[np.argmax(score)])] = True
        near = ndimage.distance_transform_edt(~seed, sampling=self.fraction.spacing)
        seed = ndimage.binary_propagation(
            seed, mask=missing & (near < 3.0) & (self.field[box] < 0), structure=_DIRECTIONS
        )
        allowed = self.missing[box] | (missing & (near < _GROW_MM))
        grown = self._grown(box, seed, allowed, keep_both_sides=True) | seed
        full = np.zeros(self.field.shape, bool)
        full[box] = grown
        core = np.zeros(self.field.shape, bool)
        core[box] = seed
        return self._candidate(full, core, bounding_box(full))

    def _cores(self) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
        """Cores of candidate defects, largest first: a box of the grid with a margin, and the core's mask in it."""
        core = self._core(...)
        whole = bounding_box(core)
        labels, _ = ndimage.label(core[whole], np.ones((3, 3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=1)
        sizes[0] = 0
        reach = np.ceil((_GROW_NARROW_MM + 3.0) / self.fraction.spacing).astype(int)
        boxes = ndimage.find_objects(labels)
        for label in np.argsort(sizes)[::-1][:_MOST_CANDIDATES]:
            if sizes[label] * self.fraction.voxel_ml < _LEAST_CORE_ML:
                break
            own = tuple(
                slice(w.start + s.start, w.start + s.stop) for w, s in zip(whole, boxes[label - 1], strict=True)
            )
            box = tuple(slice(max(0, s.start - n), s.stop + n) for s, n in zip(own, reach, strict=True))
            seed = np.zeros([s.stop - s.start for s in self._clipped(box)], bool)
            seed[tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(own, box, strict=True))] = (
                labels[boxes[label - 1]] == label
            )
            yield box, seed

    def _core(self, box: tuple[slice, ...] | EllipsisType) -> np.ndarray:
        """Bool, in a part of the grid: missing bone far from any bone."""
        core = (self.field[box] < -0.3) & (self.distance[box] > self.options.core_mm) & self.missing[box]
        return core & ~self.end[box]

    def _grown(
        self,
        box: tuple[slice, ...],
        seed: np.ndarray,
        allowed: np.ndarray | None = None,
        keep_both_sides: bool = False,
    ) -> np.ndarray:
        """The candidate defect that grows from a core, up to the rim of the hole and beyond the end of the image."""
        allowed = self.missing[box] if allowed is None else allowed
        field, bone, spacing = self.field[box], self.fraction.array[box], self.fraction.spacing
        near = ndimage.distance_transform_edt(~seed, sampling=spacing)
        # The narrow end of a hole has no voxel far from bone: growth continues there unless it is a thin spurious layer
        # on intact bone.
        narrow = (near < _GROW_NARROW_MM) & (missing_fraction(field, bone, spacing) > 0.4)
        # A slanted edge is over bone, as a thin spurious layer is, but bone is missing to some depth near the hole.
        slanted = self.bevel[box] & (missing_fraction(field, bone, spacing, 1.5) > BEVEL) & (near < _GROW_SLANTED_MM)
        mask = (allowed & ((near < _GROW_MM) | narrow)) | slanted
        beyond = self._beyond(box)
        grown = ndimage.binary_propagation(seed, mask=mask & ~beyond if beyond is not None else mask)
        if beyond is not None:
            grown = self._continued(box, grown, beyond)
        both_sides = grown & self.both_sides[box]
        if keep_both_sides or not both_sides.any() or self._crosses_midline(box, grown, both_sides):
            return grown
        remaining = grown & ~both_sides
        return largest_component(remaining) if remaining.any() else remaining

    def _beyond(self, box: tuple[slice, ...]) -> np.ndarray | None:
        """Bool, the voxels of a box that are beyond the image; None if there are none."""
        beyond = np.ones([s.stop - s.start for s in self._clipped(box)], bool)
        inside = tuple(
            slice(max(0, part.start - b.start), max(0, part.stop - b.start))
            for part, b in zip(self.skull.seen, self._clipped(box), strict=True)
        )
        beyond[inside] = False
        return beyond if beyond.any() else None

    def _clipped(self, box: tuple[slice, ...]) -> tuple[slice, ...]:
        return tuple(slice(b.start, min(b.stop, n)) for b, n in zip(box, self.field.shape, strict=True))

    def _continued(self, box: tuple[slice, ...], grown: np.ndarray, beyond: np.ndarray) -> np.ndarray:
        """Continue a candidate beyond the end of the image.

        Nothing is known there. A voxel of the shape belongs to the candidate if the nearest known voxel of the shape
        at the end of the image is missing bone of the candidate, and not bone.
        """
        spacing = self.fraction.spacing
        edge = (ndimage.distance_transform_edt(~beyond, sampling=spacing) < _END_MM) & ~beyond
        known = edge & (grown | ((self.fraction.array[box] >= 0.5) & (self.field[box] < 2.0)))
        unknown = np.argwhere(beyond & self.inside[box])
        if not len(unknown) or not (edge & grown).any():
            return grown
        at = np.argwhere(known)
        away, nearest = cKDTree(at * spacing).query(unknown * spacing, distance_upper_bound=_BEYOND_MM)
        found = np.isfinite(away)
        own = np.zeros(len(unknown), bool)
        own[found] = grown[tuple(at[nearest[found]].T)]
        more = np.zeros_like(grown)
        more[tuple(unknown[own].T)] = True
        return ndimage.binary_propagation(grown, mask=grown | more, structure=np.ones((3, 3, 3)))

    def _crosses_midline(self, box: tuple[slice, ...], grown: np.ndarray, low: np.ndarray) -> bool:
        """Whether a candidate contains most of the mirror image of its low part, as one across the midline does."""
        start = [s.start for s in box]
        at = apply_affine(self.to_canonical, np.argwhere(low) + start) * [-1, 1, 1]
        there = np.round(apply_affine(np.linalg.inv(self.to_canonical), at) - start).astype(int)
        there = there[((there >= 0) & (there < grown.shape)).all(1)]
        return int(grown[tuple(there.T)].sum()) > len(at) / 2

    @cached_property
    def _closed_bone(self) -> np.ndarray:
        """The bone with its cavities filled, 0..1."""
        return np.maximum(self.fraction.array, self.cavity)

    def _candidate(self, full: np.ndarray, core: np.ndarray, box: tuple[slice, ...]) -> Candidate:
        """A candidate with its features; full, core: bool on the whole grid; box: around it."""
        spacing = self.fraction.spacing
        margin = np.ceil((_RIM_MM[1] + 1.0) / spacing).astype(int)
        box = tuple(
            slice(max(0, s.start - n), min(size, s.stop + n))
            for s, n, size in zip(box, margin, full.shape, strict=True)
        )
        mask, seed, start = full[box], core[box], [s.start for s in box]
        if not seed.any():
            seed = mask
        bone, field, end = self.fraction.array[box], self.field[box], self.end[box]
        border = ndimage.binary_dilation(mask, _DIRECTIONS) & ~mask
        rim = border & self.inside[box]
        known = border & ~end
        away = ndimage.distance_transform_edt(~mask, sampling=spacing)
        around = (away > _RIM_MM[0]) & (away < _RIM_MM[1]) & ~end
        shell = around & (field < 0)
        # Surface of the bone around it: voxels beside it, whose distances are accurate.
        surface = around & (np.abs(self.distance[box]) < 1.0) & (np.abs(field) < 6.0)
        at = apply_affine(self.to_canonical, np.argwhere(mask) + start)
        of_core = apply_affine(self.to_canonical, np.argwhere(seed) + start)
        centre, whole = of_core.mean(0), at.mean(0)
        # A core may be higher than the candidate it grows into, for example along the wall of the orbit.
        elevation = min(c[2] / max(1.0, np.linalg.norm(c)) for c in (centre, whole))
        low = at[:, 2] < self.options.around_elevation * np.linalg.norm(at, axis=1)
        direction = whole / max(1.0, np.linalg.norm(whole))
        depth = missing_fraction(field, bone, spacing)
        features = {
            "volume_ml": float(mask.sum() * self.fraction.voxel_ml),
            "radius_mm": float(self.distance[box][seed].max()),
            "enclosed": _share(bone[rim] >= 0.5),
            "image_end": _share(end[border]),
            "air": _share((~self.inside[box] & (bone < 0.5))[known]),
            "elevation": float(elevation),
            "around": _share_of_circle(at[low]),
            "spread_mm": float(np.minimum(self.deviation[box][seed], 9.0).mean()),
            "displaced": _share(self.displaced[box][seed]),
            "depth": float(depth[mask].mean()),
            "rim_bone": float(np.minimum(bone[shell], 1.0).mean()) if shell.any() else 0.0,
            "rim_error_mm": float(np.median(np.abs((field - self.distance[box])[surface]))) if surface.any() else 6.0,
            "plate_mm": float(2 * np.percentile(-field[seed], 90)),
            "mirror": self._missing_at_mirror_image(at),
            "natural": 0.0 if self.natural is None else float(self.natural[box][mask].mean()),
            "lateral": float(abs(direction[0])),
            "frontal": float(direction[1]),
            "coarse_mm": float(self.coarse_mm),
        }
        index = np.argwhere(seed) + start
        nearest = index[np.argmin(np.linalg.norm((index - index.mean(0)) * spacing, axis=1))]
        return Candidate(box, mask, apply_affine(self.fraction.affine, nearest.astype(float)), features)

    def _missing_at_mirror_image(self, at: np.ndarray) -> float:
        """Fraction of points (N, 3) in canonical mm, of those away from the midline, with missing bone opposite."""
        at = at[np.abs(at[:, 0]) > self.options.mirror_mm]
        if not len(at):
            return 0.0
        to_index = np.linalg.inv(self.to_canonical)
        opposite = apply_affine(to_index, at[:: max(1, len(at) // 3000)] * [-1, 1, 1]).T
        field = ndimage.map_coordinates(self.field, opposite, order=1, mode="constant", cval=99.0)
        bone = ndimage.map_coordinates(self._closed_bone, opposite, order=1, mode="constant", cval=0.0)
        return _share((field < 0.5) & (bone < 0.5))


def cut_plane(points: np.ndarray) -> np.ndarray | None:
    """The plane at which the lower part of a skull was cut off, as some segmentations are.

    A whole skull ends below in an irregular way; there is no such plane.

    Parameters
    ----------
    points : numpy.ndarray, shape (N, 3)
        Bone surface in canonical mm.

    Returns
    -------
    numpy.ndarray, shape (3,) or None
        a, b and c of the plane z = a + b x + c y; None if most of the lower ends of the bone are on no plane.
    """
    sector = _sectors(points)
    ends = []
    for number in range(_SECTORS):
        inside = points[sector == number]
        if len(inside) > 20:
            ends.append(inside[np.argpartition(inside[:, 2], 5)[:6]].mean(0))
    if len(ends) < _CUT_SHARE * _SECTORS:
        return None
    at = np.array(ends)
    terms = np.stack([np.ones(len(at)), at[:, 0], at[:, 1]], axis=1)
    near = np.ones(len(at), bool)
    plane = np.zeros(3)
    for keep in (1.0, 0.7, 0.6, 0.6):
        plane = np.linalg.lstsq(terms[near], at[near, 2], rcond=None)[0]
        away = np.abs(terms @ plane - at[:, 2])
        near = away <= np.quantile(away, keep)
    on_plane = away < _CUT_MM
    tilt = np.hypot(plane[1], plane[2])
    return plane if on_plane.sum() >= _CUT_SHARE * _SECTORS and tilt < _CUT_TILT else None


def _below(plane: np.ndarray, to_canonical: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bool, the voxels below a plane, see `cut_plane`."""
    normal = np.array([-plane[1], -plane[2], 1.0])
    row, offset = normal @ to_canonical[:3, :3], normal @ to_canonical[:3, 3] - plane[0]
    i, j, k = (np.arange(n) * part for n, part in zip(shape, row.tolist(), strict=True))
    below = np.empty(shape, bool)
    for layer, start in zip(below, i, strict=True):  # sums that fit the processor's cache
        layer[:] = start + j[:, None] + k + offset < 1.0
    return below


def _inside_image(skull: Skull) -> np.ndarray:
    """Bool, the voxels of the reduced grid inside the image that are not at its end.

    The margin of the grid is as wide as bone needs; only where the image has less than that is its end near.
    """
    inside = np.zeros(skull.fraction.array.shape, bool)
    part: list[slice] = []
    for axis, seen in enumerate(skull.seen):
        depth = int(np.ceil(_END_MM / skull.fraction.spacing[axis]))
        part.append(slice(seen.start + depth * (seen.start > 0), seen.stop - depth * (seen.stop < inside.shape[axis])))
    inside[tuple(part)] = True
    return inside


def _share(found: np.ndarray) -> float:
    """Fraction that is True; 0 for no values."""
    return float(found.mean()) if len(found) else 0.0


def _sectors(points: np.ndarray) -> np.ndarray:
    """Sector (N,) of the circle around the vault's axis, 0 to _SECTORS - 1, of points (N, 3) in canonical mm."""
    angle = np.arctan2(points[:, 1], points[:, 0])
    return np.floor(angle / (2 * np.pi) * _SECTORS).astype(int) % _SECTORS


def _share_of_circle(points: np.ndarray) -> float:
    """Fraction of the circle around the vault's axis that points (N, 3) in canonical mm cover, 0..1."""
    return len(np.unique(_sectors(points))) / _SECTORS
