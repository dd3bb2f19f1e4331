"""A known surface of bone, such as the patient's own from before an operation, that takes the place of a shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from SkullVAELib.geometry.affines import apply_affine, scale_of
from SkullVAELib.geometry.volume import Volume, sample_volume

_FAR_MM = 12.0
"""Distance from the known surface beyond the volume in which it is known, mm."""


@dataclass(frozen=True)
class KnownSurface:
    """A known surface, and where it replaces a shape.

    Attributes
    ----------
    distance : Volume
        Signed distance to the surface in mm, negative in bone, in the known bone's own coordinates.
    to_known : numpy.ndarray, shape (4, 4)
        Patient RAS mm -> the known bone's RAS mm.
    weight : Volume
        0..1, in patient RAS: 1 where the known surface is used, 0 where the shape is; 0 beyond.
    alignment : numpy.ndarray, shape (4, 4)
        Patient RAS mm -> canonical mm.
    """

    distance: Volume
    to_known: np.ndarray
    weight: Volume
    alignment: np.ndarray

    def distance_at(self, points: np.ndarray) -> np.ndarray:
        """Signed distance (N,) in mm to the known surface at points (N, 3) in patient RAS mm."""
        return sample_volume(self.distance, apply_affine(self.to_known, points), _FAR_MM)

    def weight_at(self, points: np.ndarray) -> np.ndarray:
        """Weight (N,) of the known surface at points (N, 3) in patient RAS mm."""
        return sample_volume(self.weight, points, 0.0)

    def blended(self, points: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Signed distances of a shape, replaced by those of the known surface according to its weight.

        Parameters
        ----------
        points : torch.Tensor, shape (N, 3)
            Canonical mm.
        values : torch.Tensor, shape (N,)
            Signed distance of the shape there, canonical mm.

        Returns
        -------
        torch.Tensor, shape (N,)
            Canonical mm.
        """
        at = apply_affine(np.linalg.inv(self.alignment), points.double().numpy())
        weight = self.weight_at(at)
        near = np.flatnonzero(weight > 0)
        if not len(near):
            return values
        known = self.distance_at(at[near]) * scale_of(self.alignment)
        blended = values.clone()
        share = torch.tensor(weight[near])
        blended[near] = values[near] * (1 - share) + torch.tensor(known.astype(np.float32)) * share
        return blended
