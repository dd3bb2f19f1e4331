"""A skull prepared for registration: bone fractions, distance field and surface, in patient and in canonical space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from SkullVAELib.geometry.affines import apply_affine, scale_of
from SkullVAELib.geometry.distance_field import downsample_mask, signed_distance, surface_points
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.volume import Volume

CLAMP_MM = 10.0
"""Signed distances are clamped to this (mm) for the networks: beyond it only the sign matters."""


@dataclass(frozen=True)
class Skull:
    """A skull at reduced resolution, in patient space.

    Attributes
    ----------
    name : str
        Name of the individual.
    fraction : Volume
        Fraction of bone (0..1) in each voxel of the reduced grid.
    distance : numpy.ndarray
        Signed distance to the bone's surface on that grid, mm, negative in bone.
    points, normals : numpy.ndarray, shape (N, 3)
        Bone surface in RAS mm and its unit normals, pointing away from bone.
    """

    name: str
    fraction: Volume
    distance: np.ndarray
    points: np.ndarray
    normals: np.ndarray


def prepare_skull(name: str, bone: Volume) -> Skull:
    """Reduce a bone mask to about 1.2 mm and compute its distance field and surface.

    Parameters
    ----------
    name : str
        Name of the individual.
    bone : Volume
        Bool mask.

    Returns
    -------
    Skull
    """
    fraction = downsample_mask(bone)
    return Skull(name, fraction, signed_distance(fraction), *surface_points(fraction))


def canonical_surface(skull: Skull, alignment: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """A skull's surface in canonical space.

    Parameters
    ----------
    skull : Skull
        The skull.
    alignment : numpy.ndarray, shape (4, 4)
        Patient RAS mm -> canonical mm.

    Returns
    -------
    points : torch.Tensor, shape (N, 3)
        Surface points in canonical mm.
    normals : torch.Tensor, shape (N, 3)
        Unit normals, pointing away from bone.
    """
    normals = torch.tensor(skull.normals @ np.linalg.inv(alignment[:3, :3])).float()
    normals = normals / normals.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return torch.tensor(apply_affine(alignment, skull.points)).float(), normals


def canonical_field(
    fraction: Volume, distance: np.ndarray, alignment: np.ndarray, grid: Grid, inverse: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A patient's signed distance on the canonical grid.

    Parameters
    ----------
    fraction : Volume
        Reduced bone, see `downsample_mask`.
    distance : numpy.ndarray
        Its signed distance in mm, see `signed_distance`.
    alignment : numpy.ndarray, shape (4, 4)
        Patient RAS mm -> canonical mm.
    grid : Grid
        The canonical grid.
    inverse : torch.Tensor, shape (3, X', Y', Z'), optional
        Inverse warp in mm that maps the patient to the mean shape: node y has the patient's value at y + inverse(y).

    Returns
    -------
    field : torch.Tensor, shape (X, Y, Z)
        Signed distance in canonical mm. Outside the field of view it is the value at the border, but at least 3 mm, so
        that there is no bone where nothing was imaged.
    seen : torch.Tensor, shape (X, Y, Z)
        Bool, nodes inside the field of view.
    """
    to_index = np.linalg.inv(alignment @ fraction.affine)
    at = grid.coordinates()
    if inverse is not None:
        at = at + F.interpolate(inverse[None], size=grid.shape, mode="trilinear", align_corners=True)[0].permute(
            1, 2, 3, 0
        )
    index = at @ torch.tensor(to_index[:3, :3].T).float() + torch.tensor(to_index[:3, 3]).float()
    where = index / (torch.tensor(fraction.array.shape).float() - 1) * 2 - 1
    field = F.grid_sample(
        torch.tensor(np.ascontiguousarray(distance))[None, None],
        where.flip(-1)[None],
        align_corners=True,
        padding_mode="border",
    )[0, 0]
    seen = (where.abs() <= 1).all(-1)
    return torch.where(seen, field, field.clamp(min=3.0)) * scale_of(alignment), seen
