"""The canonical frame, and the affine registration of a patient's bone to it.

Canonical coordinates are RAS millimetres with the origin at the centre of the vault, 75 mm below the vertex. The frame
is defined by the model's mean shape: a patient's bone surface is registered to it with nine degrees of freedom.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree

from SkullVAELib.core.adam import Adam
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.distance_field import surface_points
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.volume import Volume

FAR_MM = 40.0
"""Distances are clamped to this (mm) before registration: a surface farther away has no gradient."""


def _vault(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and size (mm) of the bone within 95 mm of the vertex: the start of the registration."""
    top = np.percentile(points[:, 2], 99.9)
    vault = points[points[:, 2] > top - 95]
    low, high = np.percentile(vault, 1, axis=0), np.percentile(vault, 99, axis=0)
    return np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, top - 75]), high - low


def rotation_matrix(w: torch.Tensor) -> torch.Tensor:
    """Rotation matrix of a rotation vector.

    Parameters
    ----------
    w : torch.Tensor, shape (3,)
        Rotation vector in radians: its direction is the axis, its length the angle.

    Returns
    -------
    torch.Tensor, shape (3, 3)
        Rotation matrix, of the dtype of `w`; differentiable.
    """
    zero = w[0] * 0
    return torch.linalg.matrix_exp(torch.stack([zero, -w[2], w[1], w[2], zero, -w[0], -w[1], w[0], zero]).reshape(3, 3))


def initial_alignment(points: np.ndarray) -> np.ndarray:
    """Affine that centres the vault, without rotation or scaling.

    Parameters
    ----------
    points : numpy.ndarray, shape (N, 3)
        Bone surface in patient RAS mm.

    Returns
    -------
    numpy.ndarray, shape (4, 4)
        Patient RAS mm -> a frame with the same axes and scale, centred on the vault.
    """
    matrix = np.eye(4)
    matrix[:3, 3] = -_vault(points)[0]
    return matrix


PITCHES = (-0.6, -0.3, 0.0, 0.3, 0.6)
"""Initial pitch angles of the registration, in radians: a vault alone fits almost equally well at any of them."""


def register_affine(
    points: np.ndarray, mean: torch.Tensor, grid: Grid, steps: int = 80, count: int = 4000
) -> np.ndarray:
    """Register a bone surface to the mean shape with nine parameters: rotation, translation and three scales.

    Minimises the Geman-McClure distance of the points to the mean's surface with Adam; the scale of that distance is
    annealed from 15 to 2.7 mm, so that a hole, the neck or a headrest has little influence. Short runs from several
    pitch angles choose the start.

    Parameters
    ----------
    points : numpy.ndarray, shape (N, 3)
        Bone surface in patient RAS mm.
    mean : torch.Tensor, shape (X, Y, Z)
        Signed distance of the mean shape in mm on the canonical grid, negative in bone.
    grid : Grid
        The canonical grid.
    steps : int
        Adam steps of a full run; a short run has a third of them.
    count : int
        Number of surface points used in a full run.

    Returns
    -------
    numpy.ndarray, shape (4, 4)
        Affine, patient RAS mm -> canonical mm.

    Raises
    ------
    SkullVAEError
        If there are fewer than 500 points, too few for a skull.
    """
    if len(points) < 500:
        raise SkullVAEError(
            "Input rejected: there is too little bone for a skull",
            "Choose a segment or a threshold that shows the whole vault",
        )
    centre, size = _vault(points)
    reference_centre, reference_size = _vault(grid.coordinates()[mean < 0].numpy())
    rng = np.random.default_rng(0)
    shuffled = torch.tensor(points[rng.permutation(len(points))[:20000]] - centre).float()
    target = mean[None].clamp(-FAR_MM, FAR_MM)
    shape = surface_points(Volume((-mean).numpy(), grid.affine), level=0.0)[0]
    shape = shape[rng.permutation(len(shape))[:3000]]
    ratio = float(np.clip(np.prod(reference_size / np.maximum(size, 1)), 0.4, 2.5))
    start = (torch.zeros(3), torch.tensor(reference_centre).float(), torch.full((3,), np.log(ratio) / 3))

    starts = []
    for pitch in PITCHES:
        pitched = (torch.tensor([pitch, 0.0, 0.0]), *start[1:])
        pose = _descend(shuffled[:1500], target, grid, pitched, (15.0, 10.0), steps // 3)
        starts.append((_mismatch(shuffled, pose, target, grid, shape), pose))
    finals = []
    for _, pose in sorted(starts, key=lambda scored: scored[0])[:2]:
        pose = _descend(shuffled[:count], target, grid, pose, (8.0, 4.0, 2.7), steps)
        finals.append((_mismatch(shuffled, pose, target, grid, shape), pose))
    w, t, s = min(finals, key=lambda scored: scored[0])[1]
    matrix = np.eye(4)
    linear = (rotation_matrix(w) @ torch.diag(s.exp())).double().numpy()
    matrix[:3, :3] = linear
    matrix[:3, 3] = t.double().numpy() - linear @ centre
    return matrix


def _descend(
    moving: torch.Tensor, target: torch.Tensor, grid: Grid, start: tuple, cuts: tuple[float, ...], steps: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Adam on rotation vector, translation (mm) and log scales; the cut-off (mm) tightens in equal shares of steps."""
    w, t, s = (v.clone().requires_grad_(True) for v in start)
    optimiser = Adam([(w, 0.015), (t, 0.7), (s, 0.007)])
    floor = -float(grid.half_mm[2])
    for i in range(steps):
        q = (moving * s.exp()) @ rotation_matrix(w).T + t
        distance = grid.sample(target, q)[:, 0]
        cut = cuts[i * len(cuts) // steps]
        weight = (q[:, 2].detach() > floor).float()  # bone below the frame, such as the neck, has weight 0
        loss = (distance**2 / (distance**2 + cut**2) * weight).sum() / weight.sum().clamp(min=1)
        # Skulls differ in size by about 10 %, not 50 %: a weak prior keeps the three scales near each other.
        optimiser.minimise(loss + 0.5 * (s - s.mean()).square().sum(), 1.0 if i < 0.7 * steps else 0.3)
    return w.detach(), t.detach(), s.detach()


def _mismatch(points: torch.Tensor, pose: tuple, target: torch.Tensor, grid: Grid, shape: np.ndarray) -> float:
    """Robust distance in both directions: bone inside the frame to the mean's surface, and the mean's surface to bone.

    The second direction separates a correct pose from one pitched by half a radian: the vault fits either, the skull
    base only the correct one.
    """
    w, t, s = pose
    q = (points * s.exp()) @ rotation_matrix(w).T + t
    inside = (q.abs() < torch.as_tensor(grid.half_mm).float()).all(-1)
    to_mean = grid.sample(target, q)[inside, 0].numpy()
    to_bone = cKDTree(q.numpy()).query(shape, distance_upper_bound=30.0)[0].clip(0, 30.0)
    return float(sum((d**2 / (d**2 + 36.0)).mean() for d in (to_mean, to_bone)))
