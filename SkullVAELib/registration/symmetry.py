"""Alignment of the head's midsagittal plane with the canonical one."""

from __future__ import annotations

import numpy as np
import torch

from SkullVAELib.core.adam import Adam
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.registration.affine import rotation_matrix


def align_midsagittal_plane(points: torch.Tensor, field: torch.Tensor, grid: Grid, steps: int = 60) -> np.ndarray:
    """Small rigid motion that brings the head's plane of symmetry to the midsagittal plane of the canonical frame.

    With half of the vault missing, the affine registration may shift and stretch the remaining half over the hole; bone
    present on both sides determines the true plane. Minimises the Geman-McClure distance of the mirrored points to the
    bone itself over roll, yaw and a lateral shift; points whose mirror image falls into the hole have little influence.

    Parameters
    ----------
    points : torch.Tensor, shape (N, 3)
        Bone surface in canonical mm.
    field : torch.Tensor, shape (X, Y, Z)
        Signed distance of the same bone in mm.
    grid : Grid
        The canonical grid.
    steps : int
        Number of Adam steps.

    Returns
    -------
    numpy.ndarray, shape (4, 4)
        Rigid motion, canonical mm -> canonical mm.
    """
    chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:6000]
    points = points[chosen]
    motion = torch.zeros(3, requires_grad=True)  # roll and yaw in radians / 100, shift in mm: similar in effect
    optimiser = Adam([(motion, 0.25)])
    mirror = torch.tensor([-1.0, 1, 1])
    zero = torch.zeros(())
    for i in range(steps):
        turn = rotation_matrix(torch.stack([zero, motion[0] / 100, motion[1] / 100]))
        shift = torch.stack([motion[2], zero, zero])
        image = ((points @ turn.T + shift) * mirror - shift) @ turn
        distance = grid.sample(field[None], image)[:, 0]
        cut = 6.0 if i < steps // 3 else 2.5
        inside = ((image.detach().abs() < torch.as_tensor(grid.half_mm)).all(1)).float()
        loss = (inside * distance**2 / (distance**2 + cut**2)).sum() / inside.sum().clamp(min=1)
        optimiser.minimise(loss, 1.0 if i <= int(0.7 * steps) else 0.25)
    matrix = np.eye(4)
    roll, yaw, right = motion.detach()
    matrix[:3, :3] = rotation_matrix(torch.stack([zero, roll / 100, yaw / 100])).double().numpy()
    matrix[0, 3] = float(right)
    return matrix
