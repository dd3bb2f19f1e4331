"""Signed distance fields and surface points of bone, below the voxel size."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop, to_nearest_ras

MARGIN_MM = 20.0
"""Margin around the bone when an image is cropped to it, mm."""


def downsample_mask(bone: Volume, target_mm: float = 1.2) -> Volume:
    """Block-average a bone mask to about `target_mm`, with axes closest to RAS, cropped near the bone.

    Returns
    -------
    Volume
        float32 bone fractions 0..1, which locate the surface below the voxel size; nearest-neighbour resampling would
        lose that.
    """
    bone = to_nearest_ras(bone)
    # A missing vertex is outside the bounding box of the remaining bone: keep a margin for it, within the image.
    margin = np.ceil(MARGIN_MM / bone.spacing).astype(int)
    box = bounding_box(bone.array)
    limits = zip(box, margin, bone.array.shape, strict=True)
    bone = crop(bone, tuple(slice(max(0, s.start - m), min(n, s.stop + m)) for s, m, n in limits))
    factor = np.maximum(1, np.round(target_mm / bone.spacing)).astype(int)
    if (factor == 1).all():
        return Volume(bone.array.astype(np.float32), bone.affine)
    shape = -(-np.array(bone.array.shape) // factor)
    total = np.zeros(shape, np.uint16)
    for offset in np.ndindex(*factor):
        part = bone.array[tuple(slice(o, None, f) for o, f in zip(offset, factor, strict=True))]
        total[tuple(slice(n) for n in part.shape)] += part.astype(bool)
    affine = bone.affine @ np.diag([*factor, 1.0])
    affine[:3, 3] = apply_affine(bone.affine, (factor - 1) / 2)
    return Volume(total.astype(np.float32) / np.prod(factor), affine)


def signed_distance(fraction: Volume) -> np.ndarray:
    """Signed distance in mm to the surface where the bone fraction is one half; float32, negative in bone."""
    inside = np.ascontiguousarray((fraction.array >= 0.5).transpose(2, 1, 0)).astype(np.uint8)
    image = sitk.GetImageFromArray(inside)
    image.SetSpacing(fraction.spacing.tolist())
    distance = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    # ITK measures to the centres of the border voxels of bone; the surface is half a voxel further out.
    return sitk.GetArrayFromImage(distance).transpose(2, 1, 0) - np.float32(fraction.spacing.mean() / 2)


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
    gradient = [np.gradient(f, axis=axis) for axis in range(3)]
    to_world = np.linalg.inv(fraction.affine[:3, :3])  # row-vector gradients transform with the inverse
    for axis in range(3):
        low = f[tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))]
        high = f[tuple(slice(1, None) if a == axis else slice(None) for a in range(3))]
        at = np.argwhere((low >= level) != (high >= level))
        index = tuple(at.T)
        t = (level - low[index]) / (high[index] - low[index])
        step = np.eye(3, dtype=int)[axis]
        points.append(at + t[:, None] * step)
        other = tuple((at + step).T)
        slopes.append(np.stack([(1 - t) * g[index] + t * g[other] for g in gradient], -1))
    normals = -np.concatenate(slopes) @ to_world
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
    return apply_affine(fraction.affine, np.concatenate(points)), normals


def redistance(field: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Unclamped distance field (X, Y, Z) in mm with the zero level of a clamped one, whose values near it are kept."""
    volume = Volume((field < 0).float().numpy(), grid.affine)
    far = torch.tensor(np.ascontiguousarray(signed_distance(volume)))
    return torch.where(field.abs() < grid.spacing_mm, field, far)
