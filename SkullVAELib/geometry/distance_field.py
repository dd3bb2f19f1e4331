"""Signed distance fields and surface points of bone, below the voxel size."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.grey_levels import GreyLevels
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.masks import block_sums, block_voxels, bounding_box, neighbours
from SkullVAELib.geometry.volume import Volume, crop, to_nearest_ras

MARGIN_MM = 20.0
"""Margin around the bone when an image is cropped to it, mm."""

REDUCED_MM = 1.2
"""Voxel size of the reduced grid, about; it lies between 0.8 and 1.5 times this, whatever the image's grid is."""

# Axes with larger voxels than this many times the reduced ones are refined, smaller ones are averaged.
_COARSE = 1.5

# A grid whose voxels are longer than wide by no more than this is treated as isotropic; so is every reduced grid.
_ISOTROPIC = 2.3

# Distances within a slice are limited to this, mm, before slices are interpolated: beyond it only the sign matters, and
# a slice without bone has no distance at all.
_SLICE_LIMIT_MM = 20.0

# Spacing that takes slices so far apart that none is near another. A larger one would cost single precision.
_APART_MM = 1000.0

# Mean distance, in voxels, from the surface to the nearest voxel centre on its inner side, as seen from far away, where
# the nearest of many centres counts. Measured on balls at spacings of 0.9 to 1.5 mm: 0.18 to 0.21.
_FAR_OFFSET = 0.2


def downsample_mask(bone: Volume, target_mm: float = REDUCED_MM) -> Volume:
    """Block-average a bone mask to about `target_mm`, with axes closest to RAS, cropped near the bone.

    Returns
    -------
    Volume
        float32 bone fractions 0..1, which locate the surface below the voxel size; nearest-neighbour resampling would
        lose that.
    """
    bone = to_nearest_ras(bone)
    # A missing vertex is outside the bounding box of the remaining bone: keep a margin for it, within the image.
    return _block_averages(
        crop(bone, bounding_box(bone.array, np.ceil(MARGIN_MM / bone.spacing).astype(int))), target_mm
    )


def _block_averages(bone: Volume, target_mm: float) -> Volume:
    """Averages of a mask over blocks of about target_mm; axes with larger voxels keep them."""
    factor = np.maximum(1, np.round(target_mm / bone.spacing)).astype(int)
    if (factor == 1).all():
        return Volume(bone.array.astype(np.float32), bone.affine)
    average = block_sums(bone.array.astype(bool, copy=False), factor).astype(np.float32, order="C")
    for voxels in block_voxels(bone.array.shape, factor):
        average /= voxels
    affine = bone.affine @ np.diag([*factor, 1.0])
    affine[:3, 3] = apply_affine(bone.affine, (factor - 1) / 2)
    return Volume(average, affine)


def _with_partial_bone(averages: Volume, bone: Volume, grey: GreyLevels) -> Volume:
    """Averages of a mask over blocks, beside its surface by the fraction of bone in each voxel; grey: on its grid."""
    average, mask = averages.array.copy(), bone.array
    factor = np.round(averages.spacing / bone.spacing).astype(int)
    beside = np.zeros(average.shape, bool)
    for axis in range(3):
        low, high = neighbours(axis)
        changes = average[low] != average[high]
        beside[low] |= changes
        beside[high] |= changes
    blocks = np.argwhere(beside)
    total, count = (np.zeros(len(blocks), np.float32) for _ in range(2))
    for offset in np.ndindex(*factor):
        index = blocks * factor + offset
        there = (index < mask.shape).all(1)  # the last block of an axis may have fewer voxels
        at = tuple(index[there].T)
        total[there] += grey.fractions(grey.image.array[at], mask[at])
        count[there] += 1
    average[tuple(blocks.T)] = total / count
    return averages.with_array(average)


def reduced_bone(bone: Volume, grey: GreyLevels | None = None) -> tuple[Volume, Volume, tuple[slice, ...]]:
    """Bone fractions on a nearly isotropic grid of about 1.2 mm that has a margin around the bone on every side.

    Small voxels are averaged over blocks. Large ones, such as those of thick slices, are refined by shape-based
    interpolation: signed distances within each slice are interpolated between the slices (Raya and Udupa 1990,
    doi:10.1109/42.52980). The margin goes beyond the image where bone is near its end; nothing is known there.

    Parameters
    ----------
    bone : Volume
        Bool mask on any grid, with at least one voxel of bone.
    grey : GreyLevels, optional
        The CT on the same grid. A mask contains only whether a voxel is bone; the values give how much of it is.

    Returns
    -------
    fraction : Volume
        float32, 0..1; 0 beyond the image.
    surface : Volume
        The same by the values of the CT: its level one half is the surface. `fraction` itself without a CT.
    seen : tuple of slice
        The part of the grid that lies inside the image.
    """
    bone = to_nearest_ras(bone)
    margin = np.ceil(MARGIN_MM / bone.spacing).astype(int)
    box = bounding_box(bone.array)
    limits = zip(box, margin, bone.array.shape, strict=True)
    wanted = [(s.start - m, s.stop + m, n) for s, m, n in limits]
    inside = tuple(slice(max(0, low), min(n, high)) for low, high, n in wanted)
    part = crop(bone, inside)
    averages = _block_averages(part, REDUCED_MM)
    fraction = _refined(averages, REDUCED_MM)
    # Voxels of margin that the image does not have, in voxels of the reduced grid.
    ratio = bone.spacing / fraction.spacing
    before = [int(np.ceil(max(0, -low) * r)) for (low, _, _), r in zip(wanted, ratio, strict=True)]
    after = [int(np.ceil(max(0, high - n) * r)) for (_, high, n), r in zip(wanted, ratio, strict=True)]
    seen = tuple(slice(b, b + n) for b, n in zip(before, fraction.array.shape, strict=True))
    affine = fraction.affine.copy()
    affine[:3, 3] = apply_affine(fraction.affine, -np.array(before, float))

    def with_margin(reduced: Volume) -> Volume:
        return Volume(np.pad(reduced.array, list(zip(before, after, strict=True))), affine)

    padded = with_margin(fraction)
    if grey is None:
        return padded, padded, seen
    averages = _with_partial_bone(averages, part, grey.to_nearest_ras().crop(inside))
    return padded, with_margin(_refined(averages, REDUCED_MM)), seen


def _refined(fraction: Volume, target_mm: float) -> Volume:
    """Refine the axes with voxels that are large compared with target_mm by interpolation of signed distances."""
    spacing = fraction.spacing
    times = np.where(spacing > _COARSE * target_mm, np.round(spacing / target_mm), 1).astype(int)
    coarse = [int(axis) for axis in np.argsort(-spacing) if times[axis] > 1]
    if spacing.max() <= _ISOTROPIC * spacing.min():
        return _interpolated(fraction, coarse, times, spacing, target_mm) if coarse else fraction
    for axis in coarse:
        apart = fraction.spacing.copy()
        apart[axis] = _APART_MM  # distances within each slice
        fraction = _interpolated(fraction, [axis], times, apart, target_mm)
    return fraction


def _interpolated(fraction: Volume, axes: list[int], times: np.ndarray, spacing: np.ndarray, width_mm: float) -> Volume:
    """Divide the voxels of some axes into `times` by interpolation of the distances measured with a spacing."""
    distance = np.clip(_distance(fraction.array, spacing), -_SLICE_LIMIT_MM, _SLICE_LIMIT_MM)
    affine = fraction.affine.copy()
    for axis in axes:
        count, n = distance.shape[axis], int(times[axis])
        at = np.clip((np.arange(count * n) + 0.5) / n - 0.5, 0, count - 1)
        low = np.clip(at.astype(int), 0, max(0, count - 2))
        high = np.minimum(low + 1, count - 1)
        weight = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        distance = distance.take(low, axis) * (1 - weight) + distance.take(high, axis) * weight
        affine[:3, axis] /= n
        affine[:3, 3] -= affine[:3, axis] * (n - 1) / 2
    return Volume(np.clip(0.5 - distance / width_mm, 0, 1).astype(np.float32), affine)


def signed_distance(fraction: Volume) -> np.ndarray:
    """Signed distance in mm, float32, negative in bone, everywhere on a grid of bone fractions, isotropic or not.

    Next to the surface it is the distance to where the fraction crosses one half, below the voxel size.
    """
    spacing = fraction.spacing
    if spacing.max() <= _ISOTROPIC * spacing.min():
        return _distance(fraction.array, spacing)
    fine = _refined(fraction, float(spacing.min()))
    if fine.array.shape == fraction.array.shape:
        return _distance(fraction.array, spacing)
    distance = _distance(fine.array, fine.spacing)
    index = np.indices(fraction.array.shape).reshape(3, -1)
    at = apply_affine(np.linalg.inv(fine.affine) @ fraction.affine, index.T).T
    return ndimage.map_coordinates(distance, at, np.float32, order=1, mode="nearest").reshape(fraction.array.shape)


def _distance(fraction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Signed distance on a nearly isotropic grid, or, with one very large spacing, within each slice."""
    bone = fraction >= 0.5
    voxel = np.float32(np.sort(spacing)[:2].mean())
    if spacing.max() == _APART_MM:
        # ITK would count all of a slice as surface here, because it has no bone above.
        outside, inside = (ndimage.distance_transform_edt(mask, sampling=spacing) for mask in (~bone, bone))
        distance = np.where(bone, _FAR_OFFSET * voxel - inside, outside - _FAR_OFFSET * voxel)
    else:
        image = sitk.GetImageFromArray(np.ascontiguousarray(bone.transpose(2, 1, 0)).view(np.uint8))
        image.SetSpacing(spacing.tolist())
        found = sitk.SignedMaurerDistanceMap(image, False, False, True)
        distance = np.ascontiguousarray(sitk.GetArrayViewFromImage(found).transpose(2, 1, 0))
        # ITK measures to the centres of the outermost voxels of bone. From outside the nearest of them is the one that
        # is closest to the surface, from inside the one that is deepest.
        distance -= np.where(bone, np.float32(1 - _FAR_OFFSET) * voxel, np.float32(_FAR_OFFSET) * voxel)
    return _with_crossings(distance, fraction, bone, spacing)


def _with_crossings(distance: np.ndarray, fraction: np.ndarray, bone: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Replace the distance of every voxel beside the surface by that to the plane through its crossings.

    Along each axis the surface crosses the edge to a neighbour where the fraction is one half. The plane through the
    nearest crossings at distances a, b, c along the axes is 1 / sqrt(1/a^2 + 1/b^2 + 1/c^2) away.
    """
    flat, shape = np.ascontiguousarray(fraction).ravel(), fraction.shape
    total = np.zeros(flat.size)
    for axis, mm in enumerate(spacing):
        if mm == _APART_MM:
            continue
        step = int(np.prod(shape[axis + 1 :]))
        low, high = neighbours(axis)
        first = np.flatnonzero(bone[low] != bone[high])
        first += first // (step * (shape[axis] - 1)) * step  # counted in the whole array
        part = np.clip((0.5 - flat[first]) / (flat[first + step] - flat[first]), 0.02, 0.98)
        # A voxel between two crossings has the nearer one.
        ahead, behind = (mm * part) ** -2.0, (mm * (1 - part)) ** -2.0
        place = np.searchsorted(first, first + step)
        between = place < len(first)
        between[between] = first[place[between]] == first[between] + step
        ahead[place[between]] = np.maximum(ahead[place[between]], behind[between])
        total[first] += ahead
        total[first[~between] + step] += behind[~between]
    voxels = np.flatnonzero(total)
    away = 1 / np.sqrt(total[voxels])
    result = np.ascontiguousarray(distance, np.float32)
    result.ravel()[voxels] = np.where(flat[voxels] >= 0.5, -away, away)
    return result


def surface_points(fraction: Volume, level: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Points where the bone surface crosses the grid's edges, below the voxel size.

    Boundary voxel centres are half a voxel inside the surface, and pulling those to distance zero would shrink the
    skull; crossings are interpolated instead. The border of the image is not a surface: nothing is known beyond it.

    Parameters
    ----------
    fraction : Volume
        Bone fractions 0..1, or another scalar field.
    level : float
        Value on the surface.

    Returns
    -------
    points : (N, 3) array
        RAS, mm.
    normals : (N, 3) array
        Outward unit normals.
    """
    f = fraction.array
    points, slopes = [], []
    to_world = np.linalg.inv(fraction.affine[:3, :3])  # row-vector gradients transform with the inverse
    inside = f >= level
    for axis in range(3):
        low, high = (inside[part] for part in neighbours(axis))
        index = np.unravel_index(np.flatnonzero(low != high), low.shape)
        step = np.eye(3, dtype=int)[axis]
        other = tuple(i + s for i, s in zip(index, step.tolist(), strict=True))
        t = (level - f[index]) / (f[other] - f[index])
        points.append(np.stack(index, -1) + t[:, None] * step)
        parts = [(1 - t) * _slope(f, index, a) + t * _slope(f, other, a) for a in range(3)]
        slopes.append(np.stack(parts, -1))
    normals = -np.concatenate(slopes) @ to_world
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
    return apply_affine(fraction.affine, np.concatenate(points)), normals


def _slope(array: np.ndarray, index: tuple[np.ndarray, ...], axis: int) -> np.ndarray:
    """Differences along an axis at some voxels (N,): as `np.gradient`, which computes them everywhere."""
    at, last = index[axis], array.shape[axis] - 1
    high, low = np.minimum(at + 1, last), np.maximum(at - 1, 0)
    above, below = (array[tuple(i if a == axis else index[a] for a in range(3))] for i in (high, low))
    return (above - below) / (high - low).astype(array.dtype)


def redistance(field: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Unclamped distance field (X, Y, Z) in mm with the zero level of a clamped one, whose values near it are kept."""
    volume = Volume((field < 0).float().numpy(), grid.affine)
    far = torch.tensor(np.ascontiguousarray(signed_distance(volume)))
    return torch.where(field.abs() < grid.spacing_mm, field, far)
