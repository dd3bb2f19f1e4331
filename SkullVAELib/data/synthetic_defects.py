"""Synthetic defects: shapes that remove bone from a complete skull, for training, tests and benchmarks.

A defect is a signed distance over canonical millimetres (RAS, origin at the vault's centre), so that the same shape
cuts a canonical field in training and a voxel mask of any size in a benchmark. The kinds follow surgery and the sets of
the AutoImplant challenge (SkullFix's boxes, SkullBreak's unions of spheres).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from SkullVAELib.data.defect_kinds import DEFECT_KINDS
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
    """A rounded solid.

    Attributes
    ----------
    centre : numpy.ndarray, shape (3,)
        Canonical mm.
    frame : numpy.ndarray, shape (3, 3)
        Rows: directions of its axes.
    half_axes : numpy.ndarray, shape (3,)
        mm.
    exponent : float
        2 for an ellipsoid, 6 for nearly a box.
    """

    centre: np.ndarray
    frame: np.ndarray
    half_axes: np.ndarray
    exponent: float = 2.0

    def signed_distance(self, points: torch.Tensor) -> torch.Tensor:
        """Signed distance (...) in mm at points (..., 3) in canonical mm, negative inside."""
        centre, frame, half_axes = (
            torch.tensor(value).float().to(points.device) for value in (self.centre, self.frame.T, self.half_axes)
        )
        local = (points - centre) @ frame
        scaled = (local / half_axes).abs()
        if self.exponent == 2:
            radius = scaled.norm(dim=-1)
        else:
            radius = (scaled**self.exponent).sum(-1) ** (1 / self.exponent)
        # The distance to a ball, scaled with the solid's extent in the direction of the point: exact on the surface.
        return (radius - 1) * local.norm(dim=-1) / radius.clamp(min=1e-3)


@dataclass(frozen=True)
class Corner:
    """The unbounded region beyond all of several planes through a point.

    Attributes
    ----------
    apex : numpy.ndarray, shape (3,)
        The point, canonical mm.
    normals : numpy.ndarray, shape (K, 3)
        Rows: normals of the planes, pointing into the region.
    """

    apex: np.ndarray
    normals: np.ndarray

    def signed_distance(self, points: torch.Tensor) -> torch.Tensor:
        """Signed distance (...) in mm at points (..., 3) in canonical mm, negative inside."""
        outwards = (torch.tensor(self.apex).float() - points) @ torch.tensor(self.normals.T).float()
        return outwards.amax(-1)


@dataclass(frozen=True)
class Defect:
    """A union of solids whose border is wavy, like that of a craniotomy or of a fracture.

    Attributes
    ----------
    kind : str
        One of `DEFECT_KINDS`.
    solids : tuple of Ellipsoid or Corner
        The solids.
    waves : numpy.ndarray, shape (K, 5)
        Wave vector (rad/mm, 3 columns), phase (rad) and amplitude (mm) of each wave.
    """

    kind: str
    solids: tuple[Ellipsoid | Corner, ...]
    waves: np.ndarray  # (K, 5): wave vector (rad/mm, 3), phase (rad), amplitude (mm)

    def signed_distance(self, points: torch.Tensor) -> torch.Tensor:
        """Signed distance (...) in mm at points (..., 3) in canonical mm, negative where bone is removed."""
        distance = torch.stack([solid.signed_distance(points) for solid in self.solids]).amin(0)
        for wave in self.waves:
            vector = torch.tensor(wave[:3]).float().to(points.device)
            distance += wave[4] * torch.cos(points @ vector + wave[3])
        return distance


def outer_surface(direction: np.ndarray, bone: torch.Tensor) -> np.ndarray:
    """The outermost bone along a direction from the vault's centre.

    Parameters
    ----------
    direction : numpy.ndarray, shape (3,)
        Direction, of any length.
    bone : torch.Tensor, shape (N, 3)
        Bone surface in canonical mm.

    Returns
    -------
    numpy.ndarray, shape (3,)
        Canonical mm; at 75 mm, the radius of an average vault, if there is no bone near the line.
    """
    unit = torch.tensor(direction / np.linalg.norm(direction)).float()
    along = bone @ unit
    near = (along > 20) & ((bone - along[:, None] * unit).norm(dim=1) < 6)
    return float(along[near].quantile(0.95) if near.any() else 75.0) * unit.numpy()


def _frame(direction: np.ndarray, turn: float) -> np.ndarray:
    """Rows: two tangents rotated by an angle, and the direction."""
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
    """Sample a defect on a skull.

    Parameters
    ----------
    kind : str
        One of `DEFECT_KINDS`.
    rng : numpy.random.Generator
        Source of randomness.
    bone : torch.Tensor, shape (N, 3)
        Bone surface in canonical mm, on which the defect is placed.
    direction : numpy.ndarray, shape (3,), optional
        Direction from the vault's centre; sampled by default.
    size : float, optional
        0..1, from the smallest to the largest size of the kind; sampled by default.

    Returns
    -------
    Defect

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    if kind not in DEFECT_KINDS:
        raise ValueError(f"unknown kind of defect {kind!r}; known: {', '.join(DEFECT_KINDS)}")
    size = rng.uniform() if size is None else size
    if direction is None:
        if kind in _SITES:
            direction = np.array(_SITES[kind]) * [rng.choice([-1, 1]), 1, 1] + rng.normal(0, 0.1, 3)
        else:  # anywhere on the vault, but not at the base
            direction = np.array([0.0, 0.0, -1.0])
            while direction[2] / np.linalg.norm(direction) < -0.15:
                direction = rng.normal(size=3)
    centre = outer_surface(direction, bone)
    turn = rng.uniform(0, np.pi)
    frame = _frame(direction, turn if kind in ("blob", "box", "fronto_orbital", "temporal") else 0.15 * rng.normal())
    if kind == "burr":
        solids = [Ellipsoid(centre, frame, np.array([7.0, 7.0, 25.0]) * (0.9 + 0.4 * size), 6)]
    elif kind == "box":
        half = np.array([12 + 24 * size, 12 + 24 * size, 28.0]) * [*rng.uniform(0.75, 1.25, 2), 1]
        solids = [Ellipsoid(centre, frame, half, 8)]
        if rng.uniform() < 0.5:  # SkullFix's corner pegs
            corners = [half[0] * x * frame[0] + half[1] * y * frame[1] for x in (-0.85, 0.85) for y in (-0.85, 0.85)]
            solids += [Ellipsoid(centre + c, frame, np.array([6.0, 6.0, 28.0]), 6) for c in corners]
    elif kind == "hemicraniectomy":
        solids = [Ellipsoid(centre, frame, np.array([45 + 18 * size, 35 + 14 * size, 42.0]), 3)]
    elif kind == "bifrontal":
        solids = [Ellipsoid(centre, frame, np.array([40 + 20 * size, 22 + 14 * size, 40.0]), 3)]
    elif kind == "facial":
        side = rng.choice([-1, 1])
        low, high = -95.0, rng.uniform(-40, -15)
        middle = np.array([side * (rng.uniform(-4, 6) + 45), rng.uniform(75, 85), (low + high) / 2])
        solids = [Ellipsoid(middle, np.eye(3), np.array([45.0, rng.uniform(38, 52), (high - low) / 2]), 8)]
    else:
        radius = 12 + 18 * size
        solids = [Ellipsoid(centre, frame, radius * rng.uniform(0.85, 1.15, 3))]
        for _ in range(rng.integers(0, 5)):
            offset = radius * rng.uniform(-0.9, 0.9, 2)
            solids.append(Ellipsoid(centre + offset @ frame[:2], frame, radius * rng.uniform(0.45, 0.75, 3)))
    count = 0 if kind == "burr" else 5
    lengths = rng.uniform(20, 60, count)
    vectors = rng.normal(size=(count, 3))
    vectors *= (2 * np.pi / lengths / np.linalg.norm(vectors, axis=1))[:, None] if count else 1
    amplitude = rng.uniform(0.2, 1.0) * (0.4 if kind == "box" else 1.0)
    waves = np.column_stack([vectors, rng.uniform(0, 2 * np.pi, count), np.full(count, amplitude)])
    return Defect(kind, tuple(solids), waves)


def skullfix_defect(kind: str) -> Defect:
    """SkullFix's defect of a kind, the same on every skull, in canonical mm.

    The cranial defect is a box of 80 by 70 mm with round pegs at its corners, high at the back, through the whole
    vault. The facial defect is everything on the right in the front third of the head, from the top to the bottom of
    the image.

    Parameters
    ----------
    kind : str
        "cranial" or "facial".

    Returns
    -------
    Defect

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    if kind == "facial":
        return Defect(kind, (Corner(np.array([0.0, 27.0, 0.0]), np.eye(3)[:2]),), np.zeros((0, 5)))
    if kind != "cranial":
        raise ValueError(f"unknown kind of SkullFix defect {kind!r}")
    normal = np.array([0.0, -0.70, 0.72])
    frame = _frame(normal, 0.0)
    centre = 78.0 * frame[2]
    # The box is deep: at its corners the vault is 20 mm lower than at its centre, and heads differ by 10 mm.
    half = np.array([40.0, 35.0, 45.0])
    corners = [half[0] * x * frame[0] + half[1] * y * frame[1] for x in (-1, 1) for y in (-1, 1)]
    pegs = [Ellipsoid(centre + corner, frame, np.array([9.0, 9.0, half[2]]), 4.0) for corner in corners]
    return Defect(kind, (Ellipsoid(centre, frame, half, 12.0), *pegs), np.zeros((0, 5)))


def cut_defect(bone: Volume, fraction: Volume, kind: str, seed: int, **where) -> tuple[np.ndarray, np.ndarray]:
    """Cut a defect into the voxels of a complete skull.

    Parameters
    ----------
    bone : Volume
        Bool, the complete skull.
    fraction : Volume
        The same at reduced resolution, see `downsample_mask`.
    kind : str
        One of `DEFECT_KINDS`.
    seed : int
        Seed of the defect.
    **where
        `direction` and `size` of `random_defect`.

    Returns
    -------
    defective, implant : numpy.ndarray
        Bool, on the grid of `bone`. Their union is the input, and they share no voxel.
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
