"""A skull prepared for registration: its bone fractions, distance field and surface, and their canonical form."""

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
"""Signed distances are clamped here for the networks: beyond it a voxel knows only that it is far from the surface."""


@dataclass(frozen=True)
class Skull:
    """One complete skull made ready: its reduced bone, distance (mm) and surface, in patient space."""

    name: str
    fraction: Volume
    distance: np.ndarray
    points: np.ndarray
    normals: np.ndarray


def prepare_skull(name: str, bone: Volume) -> Skull:
    """Reduce a bone mask to about 1.2 mm and find its distance field and surface."""
    fraction = downsample_mask(bone)
    return Skull(name, fraction, signed_distance(fraction), *surface_points(fraction))


def canonical_surface(skull: Skull, alignment: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The skull's surface points and unit normals (N, 3) in canonical mm."""
    normals = torch.tensor(skull.normals @ np.linalg.inv(alignment[:3, :3])).float()
    normals = normals / normals.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return torch.tensor(apply_affine(alignment, skull.points)).float(), normals


def canonical_field(
    fraction: Volume, distance: np.ndarray, alignment: np.ndarray, grid: Grid, back: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A patient's signed distance on the canonical grid.

    fraction, distance: as from reduce_bone and signed_distance; alignment: (4, 4) patient RAS mm -> canonical mm;
    back: (3, X', Y', Z') mm, to lay the patient on the mean shape: node y shows the patient at y + back(y).
    Returns the field (X, Y, Z) in canonical mm and a bool mask (X, Y, Z) of nodes inside the field of view. Beyond it
    the field is the border's value or 3 mm, whichever is larger: no bone is claimed where nothing was imaged.
    """
    to_index = np.linalg.inv(alignment @ fraction.affine)
    at = grid.coordinates()
    if back is not None:
        at = at + F.interpolate(back[None], size=grid.shape, mode="trilinear", align_corners=True)[0].permute(
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
