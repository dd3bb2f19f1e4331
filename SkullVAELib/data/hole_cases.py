"""Holes of many sizes, shapes and places in complete skulls, as different scanners and segmentations show them.

The classifier of candidate defects is trained on them. Unlike the synthetic defects of the networks' training, several
holes may be in one skull, some are burr holes, and the image may have thick slices, large voxels, thin bone that the
segmentation lost, or an end that cuts the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.registration.affine import initial_alignment

CONDITIONS = {
    "plain": 0.36,
    "thin": 0.14,
    "thick": 0.14,
    "coarse": 0.08,
    "box": 0.08,
    "low": 0.08,
    "top": 0.06,
    "side": 0.06,
}
"""How an image was acquired, and how often: as it is; with thin bone lost by the segmentation; in thick slices; in
large voxels; cropped to the bone; and with an end of the image that cuts the head below, above or at a side.
"""

# Margin around the bone, mm.
_MARGIN_MM = 25.0
_CROP_MM = 20.0

# A vault whose lower part was cut off is lower than this, mm; its holes stay this far above the cut.
_VAULT_ONLY_MM, _ABOVE_CUT_MM = 105.0, 6.0

# Number of holes in a skull, and how often.
_COUNTS = (0.1, 0.3, 0.2, 0.2, 0.2)

# Radii in mm of burr holes, small, middle and large holes, and how often.
_RADII = ((5.5, 7.2), (8.0, 20.0), (20.0, 35.0), (35.0, 52.0))
_RADIUS_SHARES = (0.25, 0.3, 0.25, 0.2)

# Intact bone between two holes, mm.
_BETWEEN_MM = 10.0


@dataclass(frozen=True)
class Hole:
    """A solid that removes bone.

    Attributes
    ----------
    centre, direction, first, second : numpy.ndarray, shape (3,)
        Centre in RAS mm on the outer surface, outward direction, and two unit vectors across it.
    radius_mm : float
        Radius, or half of the side of a box.
    narrow : float
        Ratio of the second radius to the first.
    shape : str
        "ball", "box", "ellipsoid" or "cylinder".
    """

    centre: np.ndarray
    direction: np.ndarray
    first: np.ndarray
    second: np.ndarray
    radius_mm: float
    narrow: float
    shape: str

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Which points (..., 3) in RAS mm are inside, bool (...)."""
        offset = points - self.centre
        u, v, w = offset @ self.first, offset @ self.second / self.narrow, offset @ self.direction
        r = self.radius_mm
        if self.shape == "ball":
            return (offset * offset).sum(-1) < r * r
        if self.shape == "box":
            return (np.abs(u) < 0.9 * r) & (np.abs(v) < 0.9 * r) & (np.abs(w) < 30)
        if self.shape == "ellipsoid":
            return (u / r) ** 2 + (v / r) ** 2 + (w / max(20.0, 0.7 * r)) ** 2 < 1
        return (u * u + v * v < r * r) & (np.abs(w) < 25)


@dataclass(frozen=True)
class HoleCase:
    """A skull with holes, as an image shows it.

    Attributes
    ----------
    defective, whole : Volume
        Bool, on the same grid.
    holes : list of Hole
        The holes.
    condition : str
        One of `CONDITIONS`.
    """

    defective: Volume
    whole: Volume
    holes: list[Hole]
    condition: str


def with_margin(bone: Volume) -> Volume:
    """A mask (bool) cropped to its bone, with air around it."""
    bone = crop(bone, bounding_box(bone.array))
    margin = int(_MARGIN_MM / bone.spacing.min())
    affine = bone.affine.copy()
    affine[:3, 3] = apply_affine(bone.affine, np.full(3, -float(margin)))
    return Volume(np.pad(bone.array, margin), affine)


def random_case(skull: Volume, rng: np.random.Generator, intact: bool = False) -> HoleCase:
    """Cut random holes into a complete skull and acquire a random image of it.

    Parameters
    ----------
    skull : Volume
        Bool, axes nearest to RAS, with a margin of air, see `with_margin`.
    rng : numpy.random.Generator
        Source of everything random.
    intact : bool
        Whether the skull stays as it is, without holes.

    Returns
    -------
    HoleCase
    """
    condition = "plain" if intact else str(rng.choice(list(CONDITIONS), p=list(CONDITIONS.values())))
    whole = _without_thin_bone(skull, rng) if condition == "thin" else skull
    index = np.argwhere(whole.array)
    points = apply_affine(whole.affine, index[:: max(1, len(index) // 60000)])
    centre = -initial_alignment(points)[:3, 3]
    holes: list[Hole] = []
    for _ in range(0 if intact else int(rng.choice(len(_COUNTS), p=_COUNTS))):
        hole = _random_hole(rng, centre, points)
        if hole is None:
            continue
        gaps = [np.linalg.norm(hole.centre - other.centre) - hole.radius_mm - other.radius_mm for other in holes]
        if min(gaps, default=np.inf) > _BETWEEN_MM:
            holes.append(hole)
    # Two very large holes leave too little bone for a registration.
    large = [number for number, hole in enumerate(holes) if hole.radius_mm > _RADII[2][1]]
    holes = [hole for number, hole in enumerate(holes) if number not in large[1:]]
    defective = whole.with_array(_cut(whole, holes))
    defective, whole = _acquired(defective, whole, condition, rng)
    return HoleCase(defective, whole, holes, condition)


def _cut(whole: Volume, holes: list[Hole]) -> np.ndarray:
    array = whole.array.copy()
    to_index = np.linalg.inv(whole.affine)
    for hole in holes:
        reach = np.ceil(max(1.3 * hole.radius_mm, 32.0) * 1.2 / whole.spacing).astype(int)
        centre = apply_affine(to_index, hole.centre).astype(int)
        box = tuple(
            slice(max(0, c - r), min(n, c + r)) for c, r, n in zip(centre.tolist(), reach, array.shape, strict=True)
        )
        axes = [np.arange(s.start, s.stop) for s in box]
        index = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        array[box] &= ~hole.contains(apply_affine(whole.affine, index))
    return array


def _random_hole(rng: np.random.Generator, centre: np.ndarray, points: np.ndarray) -> Hole | None:
    """A hole in the vault; None if no place was found. points: voxels of the bone, RAS mm."""
    rel = points - centre
    away = np.linalg.norm(rel, axis=1)
    vault_only = np.ptp(points[:, 2]) < _VAULT_ONLY_MM
    for _ in range(20):
        direction = _random_direction(rng)
        if direction[2] < (-0.05 if abs(direction[1]) < 0.8 or direction[1] > 0 else -0.25):
            continue
        radius = float(rng.uniform(*_RADII[int(rng.choice(len(_RADII), p=_RADIUS_SHARES))]))
        near = rel @ direction / away.clip(1) > np.cos(np.radians(3))
        if not near.any():
            continue
        place = centre + direction * away[near].max()
        if vault_only and place[2] - radius < points[:, 2].min() + _ABOVE_CUT_MM:
            continue
        burr = radius <= _RADII[0][1]
        shape = "cylinder" if burr else str(rng.choice(["ball", "box", "ellipsoid", "cylinder"]))
        first = np.cross(direction, rng.normal(size=3))
        first /= np.linalg.norm(first)
        narrow = 1.0 if burr else float(rng.uniform(0.6, 1.0))
        return Hole(place, direction, first, np.cross(direction, first), radius, narrow, shape)
    return None


def _random_direction(rng: np.random.Generator) -> np.ndarray:
    """A direction from the vault's centre; forehead and temples, where holes are hardest to judge, more often."""
    kind = rng.choice(["any", "front", "side"], p=[0.6, 0.25, 0.15])
    if kind == "front":
        direction = np.array([rng.uniform(-0.7, 0.7), 1, rng.uniform(-0.15, 0.6)])
    elif kind == "side":
        direction = np.array([rng.choice([-1, 1]), rng.uniform(-0.7, 0.7), rng.uniform(-0.2, 0.3)])
    else:
        direction = rng.normal(size=3)
    return direction / np.linalg.norm(direction)


def _without_thin_bone(skull: Volume, rng: np.random.Generator) -> Volume:
    """A segmentation whose threshold was too high for thin bone."""
    soft = ndimage.gaussian_filter(skull.array.astype(np.float32), rng.uniform(0.6, 1.2) / skull.spacing)
    return skull.with_array((soft > rng.uniform(0.5, 0.66)) & skull.array)


def _acquired(defective: Volume, whole: Volume, condition: str, rng: np.random.Generator) -> tuple[Volume, Volume]:
    """Both masks as the image of a condition shows them."""
    if condition == "thick":
        mm, axis = float(rng.choice([2.5, 3, 4, 5])), int(rng.choice(3, p=[0.15, 0.15, 0.7]))
        defective, whole = in_thick_slices(defective, mm, axis), in_thick_slices(whole, mm, axis)
    elif condition == "coarse":
        mm = float(rng.choice([1.5, 2, 2.5, 3]))
        defective, whole = in_large_voxels(defective, mm), in_large_voxels(whole, mm)
    elif condition == "box":
        box = bounding_box(defective.array)
        defective, whole = crop(defective, box), crop(whole, box)
    spacing = defective.spacing
    part = list(bounding_box(defective.array, (_CROP_MM / spacing).astype(int)))
    if condition == "low":
        height = _CROP_MM + rng.uniform(60, 100)
        part[2] = slice(max(0, part[2].stop - int(height / spacing[2])), part[2].stop)
    elif condition == "top":
        part[2] = slice(part[2].start, part[2].stop - int((_CROP_MM + rng.uniform(-6, 30)) / spacing[2]))
    elif condition == "side":
        axis, voxels = int(rng.integers(2)), int((_CROP_MM + rng.uniform(-6, 30)) / spacing.min())
        first = rng.random() < 0.5
        part[axis] = slice(part[axis].start + voxels * first, part[axis].stop - voxels * (not first))
    here = tuple(part)
    return _contiguous(crop(defective, here)), _contiguous(crop(whole, here))


def _contiguous(mask: Volume) -> Volume:
    return Volume(np.ascontiguousarray(mask.array), mask.affine)


def in_thick_slices(bone: Volume, mm: float, axis: int) -> Volume:
    """A mask (bool) in slices of about mm along an axis: the majority of whole slices."""
    times = max(1, round(mm / bone.spacing[axis]))
    count = bone.array.shape[axis] // times
    slices = np.moveaxis(bone.array, axis, 0)[: count * times].astype(np.float32)
    mean = slices.reshape(count, times, *slices.shape[1:]).mean(1)
    affine = bone.affine.copy()
    affine[:3, 3] += affine[:3, axis] * (times - 1) / 2
    affine[:3, axis] *= times
    return Volume(np.moveaxis(mean > 0.5, 0, axis), affine)


def in_large_voxels(bone: Volume, mm: float) -> Volume:
    """A mask (bool) in voxels of mm."""
    zoomed = ndimage.zoom(bone.array.astype(np.float32), bone.spacing / mm, order=1, grid_mode=True, mode="nearest")
    ratio = np.array(bone.array.shape) / zoomed.shape
    affine = bone.affine.copy()
    affine[:3, 3] = apply_affine(bone.affine, (ratio - 1) / 2)
    affine[:3, :3] = affine[:3, :3] * ratio
    return Volume(zoomed > 0.5, affine)
