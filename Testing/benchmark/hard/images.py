"""What scanners, segmentations and hardware do to the image of a skull."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from scipy import ndimage

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop

from .holes import Hole, Patch, Vault, along_surface, box_around

AIR_HU, SOFT_HU, BONE_HU, METAL_HU, NOISE_HU = -1000, 40, 900, 2800, 12
"""Of the synthetic CT."""

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The world axis (R, A, S) that is perpendicular to slices of a name."""

_SCALP_MM, _HEAD_MM, _BRIDGED_MM = 6.0, 3.0, 16.0


def array_axis(volume: Volume, world: int) -> int:
    """The axis of the array that runs closest to a world axis (0 R, 1 A, 2 S)."""
    return int(np.flatnonzero(nib.io_orientation(volume.affine)[:, 0] == world)[0])


def block_means(volume: Volume, spacing: Sequence[float | None], outside: float = 0.0) -> Volume:
    """The volume in voxels of another size: means of what they cover, exact for any ratio.

    spacing: (3,) mm along the array's axes, None keeps an axis. outside: the value beyond the volume, which the last
    voxel of an axis may cover in part. Returns float32 voxels.
    """
    array, affine = volume.array.astype(np.float32), volume.affine.copy()
    for axis, wanted in enumerate(spacing):
        if wanted is None:
            continue
        ratio = wanted / volume.spacing[axis]
        count = int(np.ceil(array.shape[axis] / ratio - 1e-6))
        rows = np.moveaxis(array, axis, 0)
        beyond = int(np.ceil(count * ratio)) + 1 - len(rows)
        rows = np.concatenate([rows, np.full((beyond, *rows.shape[1:]), outside, np.float32)])
        total = np.concatenate([np.zeros((1, *rows.shape[1:])), np.cumsum(rows, axis=0, dtype=float)])
        edges = np.arange(count + 1) * ratio
        whole = np.floor(edges).astype(int)
        part = (edges - whole)[:, None, None]
        means = np.diff(total[whole] + part * rows[whole], axis=0) / ratio
        array = np.moveaxis(means.astype(np.float32), 0, axis)
        affine[:3, 3] += affine[:3, axis] * (ratio - 1) / 2
        affine[:3, axis] *= ratio
    return Volume(np.ascontiguousarray(array), affine)


def in_slices(volume: Volume, plane: str, mm: float) -> Volume:
    """The volume in slices of a thickness; a mask has in each voxel what has the majority there."""
    spacing: list[float | None] = [None, None, None]
    spacing[array_axis(volume, PLANES[plane])] = mm
    return _as_before(volume, block_means(volume, spacing, _outside(volume)))


def in_voxels(volume: Volume, mm: float) -> Volume:
    """The volume in cubic voxels of an edge length, as in_slices."""
    return _as_before(volume, block_means(volume, [mm] * 3, _outside(volume)))


def refined(mask: Volume, mm: float) -> Volume:
    """A mask in smaller voxels, its surface interpolated: no steps of the larger ones."""
    zoom = mask.spacing / mm
    soft = ndimage.gaussian_filter(mask.array.astype(np.float32), 0.6)
    array = ndimage.zoom(soft, zoom, order=1, grid_mode=True, mode="nearest") > 0.5
    ratio = np.array(mask.array.shape) / array.shape
    affine = mask.affine @ np.diag([*ratio, 1.0])
    affine[:3, 3] = apply_affine(mask.affine, (ratio - 1) / 2)
    return Volume(array, affine)


def _outside(volume: Volume) -> float:
    return 0.0 if volume.array.dtype == bool else float(AIR_HU)


def _as_before(volume: Volume, means: Volume) -> Volume:
    if volume.array.dtype == bool:
        return Volume(means.array > 0.5, means.affine)
    return Volume(np.rint(means.array).astype(volume.array.dtype), means.affine)


def padded(volume: Volume, mm: float | Sequence[float]) -> Volume:
    """The volume with air around it: mm on every side, or on both sides of each world axis (R, A, S)."""
    per_world = np.broadcast_to(mm, 3)
    order = nib.io_orientation(volume.affine)[:, 0].astype(int)
    margin = np.ceil(per_world[order] / volume.spacing).astype(int)
    array = np.pad(volume.array, [(n, n) for n in margin], constant_values=_outside(volume))
    affine = volume.affine.copy()
    affine[:3, 3] = apply_affine(volume.affine, -margin)
    return Volume(array, affine)


def ending_at(volume: Volume, side: str, mm: float) -> Volume:
    """The volume without what lies beyond a world coordinate in mm, towards a side: one of R, L, A, P, S, I."""
    world, upwards = "RAS".find(side), True
    if world < 0:
        world, upwards = "LPI".index(side), False
    axis = array_axis(volume, world)
    at = apply_affine(volume.affine, np.arange(volume.array.shape[axis])[:, None] * np.eye(3)[axis])[:, world]
    kept = np.flatnonzero(at <= mm if upwards else at >= mm)
    box = [slice(0, n) for n in volume.array.shape]
    box[axis] = slice(int(kept[0]), int(kept[-1]) + 1)
    return crop(volume, tuple(box))


def extreme(bone: Volume, side: str) -> float:
    """World coordinate in mm of the outermost bone towards a side, as in ending_at."""
    at = apply_affine(bone.affine, np.argwhere(bone.array))
    return float(at[:, "RAS".index(side)].max() if side in "RAS" else at[:, "LPI".index(side)].min())


def at_own_box(volume: Volume, bone: Volume) -> Volume:
    """A volume cropped at the bounding box of a mask on its grid."""
    return crop(volume, bounding_box(bone.array))


# CT ------------------------------------------------------------------------------------------------------------------


def head_of(complete: Volume) -> np.ndarray:
    """Which voxels of a complete skull's grid are inside the head: bone, what it encloses, and the scalp; bool."""
    coarse = block_means(complete, [_HEAD_MM] * 3)
    margin = int(np.ceil(_BRIDGED_MM / _HEAD_MM)) + 2
    # At the neck and wherever the image ends the head goes on: its border is repeated, not closed.
    bone = np.pad(coarse.array > 0.25, margin, mode="edge")
    closed = ndimage.distance_transform_edt(~bone) * _HEAD_MM < _BRIDGED_MM
    closed = ndimage.distance_transform_edt(closed) * _HEAD_MM > _BRIDGED_MM
    below = array_axis(complete, 2)
    filled = closed | bone
    for index in range(filled.shape[below]):  # slice by slice, since a skull is open below
        one = tuple(index if axis == below else slice(None) for axis in range(3))
        filled[one] = ndimage.binary_fill_holes(filled[one])
    head = ndimage.distance_transform_edt(~filled) * _HEAD_MM <= _SCALP_MM
    head = head[tuple(slice(margin, n - margin) for n in head.shape)]
    blocks = [
        np.minimum(((np.arange(n) + 0.5) * size / _HEAD_MM).astype(int), head.shape[axis] - 1)
        for axis, (n, size) in enumerate(zip(complete.array.shape, complete.spacing, strict=True))
    ]
    return head[np.ix_(*blocks)]


def synthetic_ct(bone: Volume, head: np.ndarray, blur_mm: float = 0.5, seed: int = 0) -> Volume:
    """A CT in HU, int16: air, soft tissue within the head, bone with the partial volume of a scanner's blur, noise.

    bone: bool, with its defects; head: bool on its grid, see `head_of`.
    """
    share = ndimage.gaussian_filter(bone.array.astype(np.float32), blur_mm / bone.spacing)
    values = np.where(head, np.float32(SOFT_HU), np.float32(AIR_HU))
    values += share * (BONE_HU - values)
    values += np.random.default_rng(seed).normal(0, NOISE_HU, values.shape).astype(np.float32)
    return Volume(np.rint(values).astype(np.int16), bone.affine)


def tilted(bone: Volume, degrees: float) -> Volume:
    """A mask as a scanner with a tilted gantry stores it: slices perpendicular to the array's last axis, each moved
    along the axis that runs closest to anterior, as its header says. The affine is sheared."""
    affine = bone.affine.copy()
    forward = affine[:3, array_axis(bone, 1)]
    affine[:3, 2] += np.tan(np.radians(degrees)) * bone.spacing[2] * forward / np.linalg.norm(forward)
    middle = np.array([0, 0, (bone.array.shape[2] - 1) / 2])
    affine[:3, 3] += apply_affine(bone.affine, middle) - apply_affine(affine, middle)
    index = np.linalg.inv(bone.affine) @ affine
    moved = ndimage.affine_transform(bone.array.astype(np.float32), index[:3, :3], index[:3, 3], order=1)
    return Volume(moved > 0.5, affine)


# Hardware ------------------------------------------------------------------------------------------------------------


def with_value(ct: Volume, where: np.ndarray, value: float) -> Volume:
    """A CT in which a mask has another value, where that is denser than what was there."""
    return ct.with_array(np.where(where, np.maximum(ct.array, value), ct.array).astype(ct.array.dtype))


def titanium_mesh(
    complete: Volume, vault: Vault, hole: Hole, pitch_mm: float = 5.0, overlap_mm: float = 10.0
) -> np.ndarray:
    """A mesh of struts 1.5 mm wide and 1 mm thick on the outer surface, over a hole and beyond its rim; bool array."""
    patch = Patch.of(complete, vault, hole)
    box = box_around(complete, vault.centre + vault.radius_mm * hole.frame[2], hole.half_axes.max() + 35)
    thickness = max(1.0, 1.1 * float(complete.spacing.max()))
    # What is near bone, since coordinates along the surface are needed of all that is looked at.
    away = ndimage.distance_transform_edt(~complete.array[box], complete.spacing)
    index = np.argwhere((away > 0) & (away < thickness + 5)) + [side.start for side in box]
    along, height = along_surface(apply_affine(complete.affine, index), vault, hole)
    above = height - patch.outer_surface(along)
    covered = hole.reach(along) < 1 + overlap_mm / hole.half_axes.min()
    strut = (np.mod(along, pitch_mm) < 1.5).any(axis=1)
    mesh = np.zeros(complete.array.shape, bool)
    mesh[tuple(index[covered & strut & (above > 0) & (above < thickness)].T)] = True
    return mesh


def tube(grid: Volume, path: np.ndarray, radius_mm: float) -> np.ndarray:
    """Which voxels of a grid are within a radius of a path (N, 3) in RAS mm; bool array."""
    steps = np.maximum(1, np.ceil(np.linalg.norm(np.diff(path, axis=0), axis=1) / 0.5).astype(int))
    dense = np.concatenate(
        [np.linspace(a, b, n, endpoint=False) for a, b, n in zip(path, path[1:], steps, strict=False)]
    )
    index = np.unique(np.rint(apply_affine(np.linalg.inv(grid.affine), dense)).astype(int), axis=0)
    index = index[((index >= 0) & (index < grid.array.shape)).all(axis=1)]
    line = np.zeros(grid.array.shape, bool)
    line[tuple(index.T)] = True
    box = bounding_box(line, np.ceil(radius_mm / grid.spacing).astype(int) + 1)
    line[box] = ndimage.distance_transform_edt(~line[box], grid.spacing) <= radius_mm
    return line


def shunt(complete: Volume, vault: Vault, first: Sequence[float], last: Sequence[float]) -> np.ndarray:
    """A tube of 2.5 mm under the scalp from one direction to another, 3 mm above the outermost bone; bool array."""
    start, end = (np.array(d, float) / np.linalg.norm(d) for d in (first, last))
    path = []
    for share in np.linspace(0, 1, 40):
        direction = (1 - share) * start + share * end
        patch = Patch.of(complete, vault, Hole(tuple(direction), 6.0))
        height = patch.outer_surface(np.zeros((1, 2)))[0] + 3
        path.append(vault.centre + height * direction / np.linalg.norm(direction))
    return tube(complete, np.array(path), 1.25)


def headrest(bone: Volume, vault: Vault, gap_mm: float = 14.0, thickness_mm: float = 4.0) -> np.ndarray:
    """A shell around the back of the head, along the whole image, as a scanner's headrest; bool array."""
    right, forward = (_coordinate(bone, world) - vault.centre[world] for world in (0, 1))
    distance = np.hypot(right, forward)
    behind = np.abs(np.arctan2(right, -forward)) < np.radians(60)
    radius = vault.centre[1] - extreme(bone, "P") + gap_mm
    return behind & (distance > radius) & (distance < radius + thickness_mm)


def arms(bone: Volume, vault: Vault, beside_mm: float = 60.0) -> tuple[np.ndarray, np.ndarray]:
    """The arms of a patient who holds them up: two hollow bones beside the head, and the flesh around them; bool."""
    right, forward = (_coordinate(bone, world) for world in (0, 1))
    middles = (extreme(bone, "R") + beside_mm, extreme(bone, "L") - beside_mm)
    shafts, flesh = (np.zeros(bone.array.shape, bool) for _ in range(2))
    for middle in middles:
        distance = np.hypot(right - middle, forward - vault.centre[1])
        shafts |= (distance > 6) & (distance < 11)
        flesh |= distance < 38
    return shafts, flesh


def _coordinate(volume: Volume, world: int) -> np.ndarray:
    """One world coordinate of every voxel in mm, float32."""
    rows = np.ogrid[tuple(slice(0, n) for n in volume.array.shape)]
    steps = volume.affine[world]
    return sum((np.float32(step) * row.astype(np.float32) for step, row in zip(steps, rows, strict=False)), steps[3])
