"""A two-table shape warped to a patient, evaluated anywhere in canonical space or on the patient's voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from SkullVAELib.geometry.grid import Grid
from SkullVAELib.shape.two_table import TwoTableShape

_VOXELS_AT_ONCE = 2_000_000


class PatientShape(Protocol):
    """A complete shape laid on a patient."""

    def at_voxels(self, to_canonical: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Signed distance (N,) in canonical mm at voxel indices (N, 3), negative in bone.

        to_canonical: (4, 4) voxel index -> canonical mm.
        """


@dataclass(frozen=True)
class WarpedShape:
    """A shape laid on the patient: at x in canonical mm it is the shape at x + u(x), its tables moved by corrections.

    warp: u, (3, X', Y', Z') mm; corrections: (2, X'', Y'', Z'') mm that the outer and the inner table are moved by,
    outwards from bone, over the canonical extent, or None before the rim correction.
    """

    shape: TwoTableShape
    warp: torch.Tensor
    corrections: torch.Tensor | None = None

    @property
    def grid(self) -> Grid:
        return self.shape.grid

    def field(self, points: torch.Tensor) -> torch.Tensor:
        """Signed distance (N,) in canonical mm at points (N, 3); negative in bone."""
        moved = points + self.grid.sample(self.warp, points)
        plain, outer, inner, plate, side = self.grid.sample(self.shape.channels, moved).T
        if self.corrections is not None:
            moves = self.grid.sample(self.corrections, points)
            outer, inner = outer - moves[:, 0], inner - moves[:, 1]
            plain = plain - side * moves[:, 0] - (1 - side) * moves[:, 1]
        return plate * torch.maximum(outer, inner) + (1 - plate) * plain

    def on_grid(self) -> torch.Tensor:
        """The field (X, Y, Z) in mm on the canonical grid's own nodes."""
        return self.field(self.grid.coordinates().reshape(-1, 3)).reshape(self.grid.shape)

    def at_voxels(self, to_canonical: np.ndarray, index: np.ndarray) -> np.ndarray:
        """See LaidShape."""
        matrix = torch.tensor(to_canonical).float()
        out = np.empty(len(index), np.float32)
        for start in range(0, len(index), _VOXELS_AT_ONCE):
            part = slice(start, start + _VOXELS_AT_ONCE)
            points = torch.tensor(index[part]).float() @ matrix[:3, :3].T + matrix[:3, 3]
            out[part] = self.field(points).numpy()
        return out
