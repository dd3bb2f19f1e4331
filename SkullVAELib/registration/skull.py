"""A skull prepared for registration: bone fractions, distance field and surface, in patient and in canonical space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from SkullVAELib.core.progress import report_step
from SkullVAELib.geometry.affines import apply_affine, scale_of
from SkullVAELib.geometry.distance_field import reduced_bone, signed_distance, surface_points
from SkullVAELib.geometry.grey_levels import GreyLevels
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.volume import Volume, crop

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
        Fraction of bone (0..1) in each voxel of the reduced grid, by the mask; the grid has a margin around the bone,
        even beyond the image; 0 there.
    seen : tuple of slice
        The part of the reduced grid inside the image.
    distance : numpy.ndarray
        Signed distance to the bone's surface on the reduced grid, mm, negative in bone; beyond the image never less
        than the distance to it.
    points, normals : numpy.ndarray, shape (N, 3)
        Bone surface in RAS mm and its unit normals, pointing away from bone.
    """

    name: str
    fraction: Volume
    seen: tuple[slice, ...]
    distance: np.ndarray
    points: np.ndarray
    normals: np.ndarray

    @property
    def imaged(self) -> Volume:
        """The bone fractions inside the image."""
        return crop(self.fraction, self.seen)

    @property
    def imaged_distance(self) -> np.ndarray:
        """The signed distance inside the image, mm."""
        return self.distance[self.seen]


def prepare_skull(name: str, bone: Volume, grey: GreyLevels | None = None) -> Skull:
    """Reduce a bone mask to about 1.2 mm and compute its distance field and surface.

    Parameters
    ----------
    name : str
        Name of the individual.
    bone : Volume
        Bool mask.
    grey : GreyLevels, optional
        The CT on the same grid: it locates the bone's surface between voxels.

    Returns
    -------
    Skull
    """
    return SkullSurface.of(bone, grey).skull(name)


@dataclass(frozen=True)
class SkullSurface:
    """The bone of a skull and its surface.

    With it a registration starts, beside which `skull` computes the distances.

    Attributes
    ----------
    fraction, seen, points, normals
        As those of `Skull`.
    located : Volume
        Fractions whose level one half is the surface, see `reduced_bone`; inside the image.
    """

    fraction: Volume
    seen: tuple[slice, ...]
    points: np.ndarray
    normals: np.ndarray
    located: Volume

    @classmethod
    def of(cls, bone: Volume, grey: GreyLevels | None = None) -> SkullSurface:
        """Reduce a bone mask to about 1.2 mm and find its surface, see `prepare_skull`."""
        fraction, surface, seen = reduced_bone(bone, grey)
        report_step(0.6)
        # The end of the image is not a surface, so distances and points are those of the image alone.
        located = crop(surface, seen)
        return cls(fraction, seen, *surface_points(located), located)

    def skull(self, name: str) -> Skull:
        """The skull with its signed distances."""
        distance = _beyond_image(signed_distance(self.located), self.fraction, self.seen)
        return Skull(name, self.fraction, self.seen, distance, self.points, self.normals)


def _beyond_image(distance: np.ndarray, fraction: Volume, seen: tuple[slice, ...]) -> np.ndarray:
    """Continue signed distances beyond the image: there is no bone, and what is near its end is unknown."""
    shape = fraction.array.shape
    padding = [(s.start, n - s.stop) for s, n in zip(seen, shape, strict=True)]
    if not np.any(padding):
        return distance
    padded = np.pad(distance, padding, mode="edge")
    away = np.zeros(shape, np.float32)
    for axis, (part, n, mm) in enumerate(zip(seen, shape, fraction.spacing, strict=True)):
        index = np.arange(n)
        out = np.maximum(np.maximum(part.start - index, index - part.stop + 1), 0) * mm
        away += out.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)]) ** 2
    beyond = np.sqrt(np.maximum(padded, 0) ** 2 + away)
    return np.where(away > 0, beyond, padded)


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
        Bone fractions inside the image, see `Skull.imaged`.
    distance : numpy.ndarray
        Their signed distance in mm, see `Skull.imaged_distance`.
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
