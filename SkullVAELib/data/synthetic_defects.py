"""Synthetic defects: shapes that cut a piece out of a complete skull, for training, tests and benchmarks.

A defect is a signed distance over canonical millimetres (RAS, origin at the vault's centre), so the same shape cuts a
canonical field in training and a patient-sized voxel mask in a benchmark. The kinds follow surgery and the AutoImplant
challenge's sets (SkullFix's boxes, SkullBreak's unions of spheres).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from SkullVAELib.data.kinds import DEFECT_KINDS
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.distance_field import surface_points
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.affine import initial_alignment

# Directions from the vault's centre (R, A, S); a lateral kind is mirrored at random.
_SITES = {
    "hemicraniectomy": (0.95, 0.10, 0.40),
    "bifrontal": (0.0, 0.90, 0.45),
    "fronto_orbital": (0.45, 0.90, 0.10),
    "temporal": (1.0, 0.20, -0.05),
    "occipital": (0.15, -0.95, 0.20),
    "vertex": (0.1, 0.0, 1.0),
}


@dataclass(frozen=True)
class Ellipsoid:
    """A rounded solid: half-axes in mm along its own frame's rows; exponent 2 is an ellipsoid, 6 nearly a box."""

    centre: np.ndarray
    frame: np.ndarray
    half_axes: np.ndarray
    exponent: float = 2.0

    def signed_distance(self, points: torch.Tensor) -> torch.Tensor:
        centre, frame, half_axes = (
            torch.tensor(value).float().to(points.device) for value in (self.centre, self.frame.T, self.half_axes)
        )
        local = (points - centre) @ frame
        scaled = (local / half_axes).abs()
        if self.exponent == 2:
            radius = scaled.norm(dim=-1)
        else:
            radius = (scaled**self.exponent).sum(-1) ** (1 / self.exponent)
        # The distance of a ball scaled to the half-axis that the point lies along: exact on the surface.
        return (radius - 1) * local.norm(dim=-1) / radius.clamp(min=1e-3)


@dataclass(frozen=True)
class Corner:
    """What lies beyond every one of some planes through a point, without end: rows of normals (K, 3) point into it."""

    apex: np.ndarray
    normals: np.ndarray

    def signed_distance(self, points: torch.Tensor) -> torch.Tensor:
        outwards = (torch.tensor(self.apex).float() - points) @ torch.tensor(self.normals.T).float()
        return outwards.amax(-1)


@dataclass(frozen=True)
class Defect:
    """A union of parts whose border waves gently, as a surgeon's or a fracture's does."""

    kind: str
    parts: tuple[Ellipsoid | Corner, ...]
    waves: np.ndarray  # (K, 5): wave vector (rad/mm, 3), phase (rad), amplitude (mm)

    def signed_distance(self, points: torch.Tensor) -> torch.Tensor:
        """Signed distance (...) in mm at points (..., 3) in canonical mm; negative where bone is removed."""
        distance = torch.stack([part.signed_distance(points) for part in self.parts]).amin(0)
        for wave in self.waves:
            vector = torch.tensor(wave[:3]).float().to(points.device)
            distance += wave[4] * torch.cos(points @ vector + wave[3])
        return distance


def outer_surface(direction: np.ndarray, bone: torch.Tensor) -> np.ndarray:
    """The outermost bone along a direction from the vault's centre, (3,) in canonical mm.

    bone: (N, 3) canonical surface points. Falls back to 75 mm, an ordinary vault's radius, where no bone lies near.
    """
    unit = torch.tensor(direction / np.linalg.norm(direction)).float()
    along = bone @ unit
    near = (along > 20) & ((bone - along[:, None] * unit).norm(dim=1) < 6)
    return float(along[near].quantile(0.95) if near.any() else 75.0) * unit.numpy()


def _frame(direction: np.ndarray, turn: float) -> np.ndarray:
    """Rows: two tangents turned by an angle, and the direction."""
    normal = direction / np.linalg.norm(direction)
    helper = np.array([0.0, 0.0, 1.0]) if abs(normal[2]) < 0.9 else np.array([0.0, 1.0, 0.0])
    first = np.cross(helper, normal)
    first /= np.linalg.norm(first)
    second = np.cross(normal, first)
    return np.stack(
        [np.cos(turn) * first + np.sin(turn) * second, np.cos(turn) * second - np.sin(turn) * first, normal]
    )


def random_defect(
    kind: str,
    rng: np.random.Generator,
    bone: torch.Tensor,
    direction: np.ndarray | None = None,
    size: float | None = None,
) -> Defect:
    """Draw a defect of a kind (see KINDS) on a skull.

    bone: (N, 3) canonical surface points, to place it on; direction: (3,) from the vault's centre, drawn when not
    given; size: 0..1 from the kind's smallest to its largest, drawn when not given.
    Raises ValueError for an unknown kind.
    """
    if kind not in DEFECT_KINDS:
        raise ValueError(f"unknown kind of defect {kind!r}; known: {', '.join(DEFECT_KINDS)}")
    size = rng.uniform() if size is None else size
    if direction is None:
        if kind in _SITES:
            direction = np.array(_SITES[kind]) * [rng.choice([-1, 1]), 1, 1] + rng.normal(0, 0.1, 3)
        else:  # anywhere on the vault, not down at the base
            direction = np.array([0.0, 0.0, -1.0])
            while direction[2] / np.linalg.norm(direction) < -0.15:
                direction = rng.normal(size=3)
    centre = outer_surface(direction, bone)
    turn = rng.uniform(0, np.pi)
    frame = _frame(direction, turn if kind in ("blob", "box", "fronto_orbital", "temporal") else 0.15 * rng.normal())
    if kind == "burr":
        parts = [Ellipsoid(centre, frame, np.array([7.0, 7.0, 25.0]) * (0.9 + 0.4 * size), 6)]
    elif kind == "box":
        half = np.array([12 + 24 * size, 12 + 24 * size, 28.0]) * [*rng.uniform(0.75, 1.25, 2), 1]
        parts = [Ellipsoid(centre, frame, half, 8)]
        if rng.uniform() < 0.5:  # SkullFix's corner pegs
            corners = [half[0] * x * frame[0] + half[1] * y * frame[1] for x in (-0.85, 0.85) for y in (-0.85, 0.85)]
            parts += [Ellipsoid(centre + c, frame, np.array([6.0, 6.0, 28.0]), 6) for c in corners]
    elif kind == "hemicraniectomy":
        parts = [Ellipsoid(centre, frame, np.array([45 + 18 * size, 35 + 14 * size, 42.0]), 3)]
    elif kind == "bifrontal":
        parts = [Ellipsoid(centre, frame, np.array([40 + 20 * size, 22 + 14 * size, 40.0]), 3)]
    elif kind == "facial":
        side = rng.choice([-1, 1])
        low, high = -95.0, rng.uniform(-40, -15)
        middle = np.array([side * (rng.uniform(-4, 6) + 45), rng.uniform(75, 85), (low + high) / 2])
        parts = [Ellipsoid(middle, np.eye(3), np.array([45.0, rng.uniform(38, 52), (high - low) / 2]), 8)]
    else:
        radius = 12 + 18 * size
        parts = [Ellipsoid(centre, frame, radius * rng.uniform(0.85, 1.15, 3))]
        for _ in range(rng.integers(0, 5)):
            offset = radius * rng.uniform(-0.9, 0.9, 2)
            parts.append(Ellipsoid(centre + offset @ frame[:2], frame, radius * rng.uniform(0.45, 0.75, 3)))
    count = 0 if kind == "burr" else 5
    lengths = rng.uniform(20, 60, count)
    vectors = rng.normal(size=(count, 3))
    vectors *= (2 * np.pi / lengths / np.linalg.norm(vectors, axis=1))[:, None] if count else 1
    amplitude = rng.uniform(0.2, 1.0) * (0.4 if kind == "box" else 1.0)
    waves = np.column_stack([vectors, rng.uniform(0, 2 * np.pi, count), np.full(count, amplitude)])
    return Defect(kind, tuple(parts), waves)


def skullfix_defect(kind: str) -> Defect:
    """SkullFix's defect of a kind, "cranial" or "facial": the same on every skull, in canonical mm.

    Cranial: a box of 80 by 70 mm with round pegs at its corners, high at the back, through the whole vault. Facial: all
    that lies on the right and in the front third of the head, from the top to the bottom of the image.
    Raises ValueError for another kind.
    """
    if kind == "facial":
        return Defect(kind, (Corner(np.array([0.0, 27.0, 0.0]), np.eye(3)[:2]),), np.zeros((0, 5)))
    if kind != "cranial":
        raise ValueError(f"unknown kind of SkullFix defect {kind!r}")
    normal = np.array([0.0, -0.70, 0.72])
    frame = _frame(normal, 0.0)
    centre = 78.0 * frame[2]
    # At the box's corners the vault has fallen away by 20 mm, and heads differ by 10: so deep must the box be.
    half = np.array([40.0, 35.0, 45.0])
    corners = [half[0] * x * frame[0] + half[1] * y * frame[1] for x in (-1, 1) for y in (-1, 1)]
    pegs = [Ellipsoid(centre + corner, frame, np.array([9.0, 9.0, half[2]]), 4.0) for corner in corners]
    return Defect(kind, (Ellipsoid(centre, frame, half, 12.0), *pegs), np.zeros((0, 5)))


def cut_defect(bone: Volume, fraction: Volume, kind: str, seed: int, **where) -> tuple[np.ndarray, np.ndarray]:
    """Cut a defect of a kind out of a complete skull's voxels.

    bone: bool mask; fraction: the same as from reduce_bone; where: direction and size as for random_defect.
    Returns the defective mask and the implant's (their union is the input, they share no voxel), both on bone's grid.
    """
    points, _ = surface_points(fraction)
    alignment = initial_alignment(points)
    defect = random_defect(
        kind, np.random.default_rng(seed), torch.tensor(apply_affine(alignment, points)).float(), **where
    )
    index = np.argwhere(bone.array)
    removed = np.zeros(bone.array.shape, bool)
    for chunk in np.array_split(index, max(1, len(index) // 1_000_000)):
        at = apply_affine(alignment, apply_affine(bone.affine, chunk))
        hit = chunk[(defect.signed_distance(torch.tensor(at).float()) < 0).numpy()]
        removed[tuple(hit.T)] = True
    return bone.array & ~removed, removed
