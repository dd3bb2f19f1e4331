"""The shell of the cranial vault: between which radii, seen from the vault's centre, a registered skull has bone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from SkullVAELib.geometry.grid import Grid

LOWEST = -0.25
"""Sine of the elevation, seen from the vault's centre, above which bone counts as vault."""

# Radii at which the mean skull is searched, mm; the vault's centre is 75 mm below the vertex.
_RADII_MM = np.arange(125.0, 34.0, -1.0)

# The map's spacing: 2.1 mm on a sphere with a radius of 85 mm.
_STEP = 0.025


def directions(step: float) -> tuple[np.ndarray, np.ndarray]:
    """Directions of the vault, equally spaced in Lambert's azimuthal equal-area projection around the vertex.

    Parameters
    ----------
    step : float
        Spacing on the unit sphere.

    Returns
    -------
    directions : numpy.ndarray, shape (N, N, 3)
        Unit vectors, RAS.
    valid : numpy.ndarray, shape (N, N)
        Bool, which of them are in the vault.
    """
    reach = np.sqrt(2 * (1 - LOWEST))
    at = np.arange(-np.ceil(reach / step), np.ceil(reach / step) + 1) * step
    x, y = np.meshgrid(at, at, indexing="ij")
    squared = x**2 + y**2
    length = np.sqrt(np.maximum(1 - squared / 4, 0))
    return np.stack([x * length, y * length, 1 - squared / 2], axis=-1), squared <= 2 * (1 - LOWEST)


@dataclass(frozen=True)
class VaultShell:
    """Outer and inner radius of the vault of a complete skull, by direction from the canonical origin.

    Attributes
    ----------
    outer, inner : numpy.ndarray, shape (N, N)
        Radii in canonical mm, on the projection of `directions`.
    """

    outer: np.ndarray
    inner: np.ndarray

    @classmethod
    def of(cls, field: torch.Tensor, grid: Grid) -> VaultShell:
        """The shell of a complete skull.

        Parameters
        ----------
        field : torch.Tensor, shape (X, Y, Z)
            Signed distance in mm on the canonical grid, negative in bone.
        grid : Grid
            The canonical grid.

        Returns
        -------
        VaultShell
        """
        ray, valid = directions(_STEP)
        points = torch.tensor(ray[valid][:, None] * _RADII_MM[:, None]).float().reshape(-1, 3)
        bone = grid.sample(field[None], points)[:, 0].reshape(-1, len(_RADII_MM)).numpy() < 0
        outermost = bone.argmax(1)
        beyond = np.arange(bone.shape[1]) > outermost[:, None]
        air = ~bone & beyond
        innermost = np.where(air.any(1), air.argmax(1), bone.shape[1] - 1)
        maps = []
        for index in (outermost, innermost):
            radii = np.full(valid.shape, np.nan)
            radii[valid] = np.where(bone.any(1), _RADII_MM[index], np.nan)
            # Directions without bone, such as openings of the mean skull, get the nearest radius.
            near = ndimage.distance_transform_edt(np.isnan(radii), return_distances=False, return_indices=True)
            maps.append(radii[tuple(near)])
        return cls(*maps)

    def radii(self, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outer and inner radius (N,) in canonical mm along directions (N, 3) of any length; below the vault those of
        its lowest part.
        """
        unit = direction / np.linalg.norm(direction, axis=1, keepdims=True).clip(1e-6)
        scale = np.sqrt(2 / (1 + unit[:, 2]).clip(0.1))
        middle = (self.outer.shape[0] - 1) / 2
        at = np.round((unit[:, :2] * scale[:, None]) / _STEP + middle).astype(int).clip(0, self.outer.shape[0] - 1)
        return self.outer[tuple(at.T)], self.inner[tuple(at.T)]

    def offset(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance of points to the shell along the line through the vault's centre.

        Below the vault the distance to the vault's outline in the horizontal plane is returned, as though the shell
        continued downwards as a cylinder.

        Parameters
        ----------
        points : numpy.ndarray, shape (N, 3)
            Canonical mm.

        Returns
        -------
        offset : numpy.ndarray, shape (N,)
            mm: 0 in the shell, positive outside the head, negative on the side of the brain.
        vault : numpy.ndarray, shape (N,)
            Bool, which points are at the height of the vault.
        """
        radius = np.linalg.norm(points, axis=1)
        vault = points[:, 2] > LOWEST * radius
        seen = np.where(vault[:, None], points, points * [1, 1, 0])
        radius = np.linalg.norm(seen, axis=1)
        outer, inner = self.radii(seen)
        return np.where(radius > outer, radius - outer, np.minimum(radius - inner, 0)), vault
