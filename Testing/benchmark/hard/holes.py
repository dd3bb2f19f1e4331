"""Holes cut into complete skulls at places along the surface of the vault, and loose bone left in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import bounding_box, largest_component
from SkullVAELib.geometry.volume import Volume

BIN_MM = 3.0
"""Edge of the bins, along the surface, in which the outermost bone is searched."""

RIM_MM = 5.0
"""Width of the strip around a hole in which bone counts as its rim."""

RIM_BINS = 72
"""Sectors around a hole in which its rim is searched."""

_FITTED_MM, _FITTED_STEP_MM = 70.0, 2.0


@dataclass(frozen=True)
class Vault:
    """The sphere that fits the upper 70 mm of a skull best: directions are seen from its centre.

    Attributes
    ----------
    centre : (3,) array
        RAS mm.
    radius_mm : float
    """

    centre: np.ndarray
    radius_mm: float

    @classmethod
    def of(cls, bone: Volume) -> Vault:
        """The vault of a complete skull, bool, whose header is upright."""
        step = np.maximum(1, np.round(_FITTED_STEP_MM / bone.spacing)).astype(int)
        index = np.argwhere(bone.array[tuple(slice(None, None, s) for s in step)]) * step
        points = apply_affine(bone.affine, index)
        points = points[points[:, 2] > np.percentile(points[:, 2], 99.9) - _FITTED_MM]
        # |p|^2 = 2 c.p + (r^2 - |c|^2) is linear in what is wanted.
        system = np.c_[2 * points, np.ones(len(points))]
        solution = np.linalg.lstsq(system, (points**2).sum(axis=1), rcond=None)[0]
        centre = solution[:3]
        return cls(centre, float(np.sqrt(solution[3] + centre @ centre)))


@dataclass(frozen=True)
class Hole:
    """A hole in the vault, sawn through the outermost bone.

    Parameters
    ----------
    direction : (R, A, S)
        From the vault's centre; any length.
    width_mm : float
        Along the surface, horizontally (at the vertex: left to right).
    height_mm : float, optional
        Along the surface, across the width; by default the width.
    outline : str
        "ellipse" or "box".
    depth_mm : float
        Bone deeper than this below the outermost is left.
    """

    direction: tuple[float, float, float]
    width_mm: float
    height_mm: float | None = None
    outline: str = "ellipse"
    depth_mm: float = 20.0

    @property
    def half_axes(self) -> np.ndarray:
        """(2,) half width and half height, mm along the surface."""
        return np.array([self.width_mm, self.height_mm or self.width_mm]) / 2

    @property
    def frame(self) -> np.ndarray:
        """(3, 3) rows: horizontal tangent, the other tangent, outward."""
        outward = np.array(self.direction, float) / np.linalg.norm(self.direction)
        up = np.array([0.0, 1.0, 0.0] if abs(outward[2]) > 0.9 else [0.0, 0.0, 1.0])
        across = np.cross(up, outward)
        across /= np.linalg.norm(across)
        return np.stack([across, np.cross(outward, across), outward])

    def reach(self, along: np.ndarray) -> np.ndarray:
        """(N,) how far points (N, 2) in mm along the surface lie towards the outline: 0 in the middle, 1 on it."""
        scaled = np.abs(along) / self.half_axes
        return scaled.max(axis=1) if self.outline == "box" else np.linalg.norm(scaled, axis=1)


@dataclass(frozen=True)
class Patch:
    """The bone around a hole's place, in coordinates along the surface.

    Attributes
    ----------
    vault : Vault
    hole : Hole
    index : (N, 3) array
        Voxels of bone in the whole array.
    along : (N, 2) array
        mm along the surface from the hole's centre.
    depth : (N,) array
        mm below the outermost bone.
    outermost : (B, B) array
        Distance of the outermost bone from the vault's centre in bins of BIN_MM along the surface, mm.
    """

    vault: Vault
    hole: Hole
    index: np.ndarray
    along: np.ndarray
    depth: np.ndarray
    outermost: np.ndarray

    @classmethod
    def of(cls, bone: Volume, vault: Vault, hole: Hole) -> Patch:
        """The bone within the hole and about 15 mm around it. Raises ValueError where there is no bone."""
        box = box_around(bone, vault.centre + vault.radius_mm * hole.frame[2], hole.half_axes.max() + 35)
        index = np.argwhere(bone.array[box]) + [side.start for side in box]
        along, height = along_surface(apply_affine(bone.affine, index), vault, hole)
        near = np.abs(along).max(axis=1) < hole.half_axes.max() + 15
        index, along, height = index[near], along[near], height[near]
        if not len(index):
            raise ValueError(f"there is no bone in the direction {hole.direction}")
        bins = _bins(along, hole)
        outermost = np.full((2 * _half_bins(hole) + 1,) * 2, -np.inf)
        np.maximum.at(outermost, tuple(bins.T), height)
        # Bins of coarse voxels may have none of the outer surface's.
        outermost = ndimage.maximum_filter(outermost, 3)
        return cls(vault, hole, index, along, outermost[tuple(bins.T)] - height, outermost)

    def mask(self, shape: tuple[int, ...], chosen: np.ndarray) -> np.ndarray:
        """The chosen (N,) voxels of the patch as a bool array of a shape."""
        mask = np.zeros(shape, bool)
        mask[tuple(self.index[chosen].T)] = True
        return mask

    @property
    def in_hole(self) -> np.ndarray:
        """(N,) bool: the bone that the hole removes."""
        return (self.hole.reach(self.along) < 1) & (self.depth < self.hole.depth_mm)

    @property
    def rim_share(self) -> float:
        """Share of the circle around the hole in which its rim has bone, 0 to 1."""
        reach = self.hole.reach(self.along)
        rim = (reach >= 1) & (reach < 1 + RIM_MM / self.hole.half_axes.min()) & (self.depth < self.hole.depth_mm)
        angle = np.arctan2(self.along[rim, 1], self.along[rim, 0])
        sectors = np.floor((angle + np.pi) / (2 * np.pi) * RIM_BINS).astype(int) % RIM_BINS
        return len(np.unique(sectors)) / RIM_BINS

    def outer_surface(self, along: np.ndarray) -> np.ndarray:
        """(N,) distance of the outermost bone from the vault's centre at places (N, 2) in mm along the surface.

        -inf where the patch has no bone.
        """
        inside = np.abs(along).max(axis=1) < BIN_MM * _half_bins(self.hole)
        surface = np.full(len(along), -np.inf)
        surface[inside] = self.outermost[tuple(_bins(along[inside], self.hole).T)]
        return surface


def box_around(volume: Volume, centre: np.ndarray, reach_mm: float) -> tuple[slice, ...]:
    """The box of voxels within a distance of a point (3,) along each axis of the array, within the array."""
    at = apply_affine(np.linalg.inv(volume.affine), centre)
    low = np.clip(np.floor(at - reach_mm / volume.spacing), 0, volume.array.shape).astype(int)
    high = np.clip(np.ceil(at + reach_mm / volume.spacing) + 1, 0, volume.array.shape).astype(int)
    return tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))


def along_surface(points: np.ndarray, vault: Vault, hole: Hole) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) in RAS mm as (N, 2) mm along the vault's surface from a hole's centre, and (N,) mm from the vault's
    centre."""
    local = (points - vault.centre) @ hole.frame.T
    height = np.linalg.norm(local, axis=1)
    angle = np.arccos(np.clip(local[:, 2] / np.maximum(height, 1e-9), -1, 1))
    sideways = np.maximum(np.linalg.norm(local[:, :2], axis=1), 1e-9)
    return local[:, :2] * (vault.radius_mm * angle / sideways)[:, None], height


def _half_bins(hole: Hole) -> int:
    return int(np.ceil((hole.half_axes.max() + 15) / BIN_MM))


def _bins(along: np.ndarray, hole: Hole) -> np.ndarray:
    return np.floor(along / BIN_MM).astype(int) + _half_bins(hole)


def cut(bone: Volume, vault: Vault, hole: Hole) -> tuple[Volume, Volume]:
    """A complete skull without the bone of a hole, and that bone: bool on the skull's grid, they share no voxel."""
    patch = Patch.of(bone, vault, hole)
    removed = patch.mask(bone.array.shape, patch.in_hole)
    if not removed.any():
        raise ValueError(f"there is no bone in the direction {hole.direction}")
    box = bounding_box(removed)
    removed[box] = largest_component(removed[box])
    return bone.with_array(bone.array & ~removed), bone.with_array(removed)


def centre_of(mask: Volume) -> np.ndarray:
    """(3,) centre of a mask's voxels, RAS mm."""
    return apply_affine(mask.affine, np.argwhere(mask.array)).mean(axis=0)


# Loose bone ----------------------------------------------------------------------------------------------------------


def flap_with_gap(left: Volume, removed: Volume, gap_mm: float) -> Volume:
    """A bone flap put back: the removed bone without what is nearer than a saw's width to the rest."""
    box = bounding_box(removed.array, np.ceil((gap_mm + 1) / removed.spacing).astype(int))
    far = ndimage.distance_transform_edt(~left.array[box], removed.spacing) > gap_mm
    flap = np.zeros_like(removed.array)
    flap[box] = removed.array[box] & far
    return removed.with_array(flap)


def sunken(flap: Volume, vault: Vault, depth_mm: float) -> Volume:
    """A flap moved towards the vault's centre, by whole voxels."""
    inward = vault.centre - centre_of(flap)
    step = np.rint(np.linalg.inv(flap.affine[:3, :3]) @ (depth_mm * inward / np.linalg.norm(inward))).astype(int)
    index = np.argwhere(flap.array) + step
    index = index[((index >= 0) & (index < flap.array.shape)).all(axis=1)]
    moved = np.zeros_like(flap.array)
    moved[tuple(index.T)] = True
    return flap.with_array(moved)


def in_sectors(flap: Volume, vault: Vault, hole: Hole, count: int, gap_mm: float) -> Volume:
    """A resorbed flap: an even number of pieces, divided from the hole's centre outwards by gaps."""
    index = np.argwhere(flap.array)
    along, _ = along_surface(apply_affine(flap.affine, index), vault, hole)
    angles = np.pi * np.arange(count // 2) / (count // 2)
    from_cuts = np.abs(along @ np.array([-np.sin(angles), np.cos(angles)]))
    kept = index[(from_cuts > gap_mm / 2).all(axis=1)]
    pieces = np.zeros_like(flap.array)
    pieces[tuple(kept.T)] = True
    return flap.with_array(pieces)


def fragment(removed: Volume, ml: float) -> Volume:
    """The part of the removed bone that is nearest to its middle, of a volume."""
    index = np.argwhere(removed.array)
    distance = np.linalg.norm(apply_affine(removed.affine, index) - centre_of(removed), axis=1)
    nearest = index[np.argsort(distance, kind="stable")[: round(ml / removed.voxel_ml)]]
    piece = np.zeros_like(removed.array)
    piece[tuple(nearest.T)] = True
    return removed.with_array(piece)
