"""The canonical frame, and the affine registration of a patient's bone to it.

Canonical coordinates are RAS millimetres with the origin at the centre of the vault, 75 mm below the vertex. The frame
is defined by the model's mean shape: a patient's bone surface is registered to it with nine degrees of freedom.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.spatial import cKDTree

from SkullVAELib.core.adam import Adam
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.progress import report_step, stage_part
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


def rotation_matrices(turns: torch.Tensor) -> torch.Tensor:
    """Rotation matrices of rotation vectors.

    Parameters
    ----------
    turns : torch.Tensor, shape (N, 3)
        Rotation vectors in radians: the direction is the axis, the length the angle.

    Returns
    -------
    torch.Tensor, shape (N, 3, 3)
        Rotation matrices, of the dtype of `turns`; differentiable.
    """
    x, y, z = turns.unbind(1)
    zero = x * 0
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1)
    return torch.linalg.matrix_exp(skew.reshape(-1, 3, 3))


def rotation_matrix(w: torch.Tensor) -> torch.Tensor:
    """The rotation matrix (3, 3) of one rotation vector (3,), see `rotation_matrices`."""
    return rotation_matrices(w[None])[0]


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


@dataclass(frozen=True)
class AffineTarget:
    """A mean shape as the target of an affine registration.

    Attributes
    ----------
    distance : torch.Tensor, shape (X, Y, Z)
        Signed distance of the mean shape in mm on the canonical grid, negative in bone.
    grid : Grid
        The canonical grid.
    """

    distance: torch.Tensor
    grid: Grid

    @cached_property
    def near(self) -> torch.Tensor:
        """(1, X, Y, Z) distance in mm, clamped at FAR_MM."""
        return self.distance[None].clamp(-FAR_MM, FAR_MM)

    @cached_property
    def surface(self) -> np.ndarray:
        """(N, 3) points of the surface in canonical mm, at most 3000."""
        points = surface_points(Volume((-self.distance).numpy(), self.grid.affine), level=0.0)[0]
        return points[np.random.default_rng(0).permutation(len(points))[:3000]]

    @cached_property
    def vault(self) -> tuple[np.ndarray, np.ndarray]:
        """Centre and size of the vault in mm, (3,) each."""
        return _vault(self.grid.coordinates()[self.distance < 0].numpy())


def register_affine(points: np.ndarray, target: AffineTarget, steps: int = 80, count: int = 4000) -> np.ndarray:
    """Register a bone surface to the mean shape with nine parameters: rotation, translation and three scales.

    Minimises the Geman-McClure distance of the points to the mean's surface with Adam; the scale of that distance is
    annealed from 15 to 2.7 mm, so that a hole, the neck or a headrest has little influence. Short runs from several
    pitch angles choose the start.

    Parameters
    ----------
    points : numpy.ndarray, shape (N, 3)
        Bone surface in patient RAS mm.
    target : AffineTarget
        The mean shape.
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
    reference_centre, reference_size = target.vault
    rng = np.random.default_rng(0)
    shuffled = torch.tensor(points[rng.permutation(len(points))[:20000]] - centre).float()
    ratio = float(np.clip(np.prod(reference_size / np.maximum(size, 1)), 0.4, 2.5))
    start = Poses(
        torch.tensor([[pitch, 0.0, 0.0] for pitch in PITCHES]),
        torch.tensor(reference_centre).float().repeat(len(PITCHES), 1),
        torch.full((len(PITCHES), 3), float(np.log(ratio) / 3)),
    )
    with stage_part(0.0, 0.4):
        short = _descend(shuffled[:1500], target, start, (15.0, 10.0), steps // 3)
    best = np.argsort([_mismatch(shuffled, pose, target) for pose in short.each()], kind="stable")[:2]
    with stage_part(0.4, 1.0):
        finals = _descend(shuffled[:count], target, short.some(best), (8.0, 4.0, 2.7), steps)
    final = min(finals.each(), key=lambda pose: _mismatch(shuffled, pose, target))
    matrix = np.eye(4)
    linear = (rotation_matrix(final.turns[0]) @ torch.diag(final.scales[0].exp())).double().numpy()
    matrix[:3, :3] = linear
    matrix[:3, 3] = final.shifts[0].double().numpy() - linear @ centre
    return matrix


@dataclass(frozen=True)
class Poses:
    """P poses, tried side by side.

    Attributes
    ----------
    turns, shifts, scales : torch.Tensor, shape (P, 3)
        Rotation vectors in radians, translations in mm and logarithms of the scales.
    """

    turns: torch.Tensor
    shifts: torch.Tensor
    scales: torch.Tensor

    def some(self, index: np.ndarray) -> Poses:
        """The poses of an index."""
        chosen = torch.as_tensor(index)
        return Poses(self.turns[chosen], self.shifts[chosen], self.scales[chosen])

    def each(self) -> list[Poses]:
        """Every pose by itself."""
        return [self.some(np.array([n])) for n in range(len(self.turns))]

    def move(self, points: torch.Tensor) -> torch.Tensor:
        """Points (N, 3) in all poses, (P, N, 3)."""
        return (points * self.scales.exp()[:, None]) @ rotation_matrices(self.turns).mT + self.shifts[:, None]


def _descend(moving: torch.Tensor, target: AffineTarget, start: Poses, cuts: tuple[float, ...], steps: int) -> Poses:
    """Adam on all poses at once; the cut-off (mm) tightens in equal shares of steps."""
    poses = Poses(*(v.clone().requires_grad_(True) for v in (start.turns, start.shifts, start.scales)))
    optimiser = Adam([(poses.turns, 0.015), (poses.shifts, 0.7), (poses.scales, 0.007)])
    floor = -float(target.grid.half_mm[2])
    for i in range(steps):
        report_step(i / steps)
        q = poses.move(moving)
        distance = target.grid.sample(target.near, q.reshape(-1, 3))[:, 0].reshape(q.shape[:2])
        cut = cuts[i * len(cuts) // steps]
        weight = (q[..., 2].detach() > floor).float()  # bone below the frame, such as the neck, has weight 0
        losses = (distance**2 / (distance**2 + cut**2) * weight).sum(1) / weight.sum(1).clamp(min=1)
        # Skulls differ in size by about 10 %, not 50 %: a weak prior keeps the three scales near each other.
        unequal = (poses.scales - poses.scales.mean(1, keepdim=True)).square().sum()
        # Poses are independent, and so are Adam's steps.
        optimiser.minimise(losses.sum() + 0.5 * unequal, 1.0 if i < 0.7 * steps else 0.3)
    return Poses(poses.turns.detach(), poses.shifts.detach(), poses.scales.detach())


def _mismatch(points: torch.Tensor, pose: Poses, target: AffineTarget) -> float:
    """Robust distance in both directions: bone inside the frame to the mean's surface, and the mean's surface to bone.

    The second direction separates a correct pose from one pitched by half a radian: the vault fits either, the skull
    base only the correct one.
    """
    grid = target.grid
    q = pose.move(points)[0]
    inside = (q.abs() < torch.as_tensor(grid.half_mm).float()).all(-1)
    to_mean = grid.sample(target.near, q)[inside, 0].numpy()
    to_bone = cKDTree(q.numpy()).query(target.surface, distance_upper_bound=30.0)[0].clip(0, 30.0)
    return float(sum((d**2 / (d**2 + 36.0)).mean() for d in (to_mean, to_bone)))
