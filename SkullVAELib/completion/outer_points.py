"""Points that the outer surface of the completed shape passes through: the shape is shifted along the rays from the
vault's centre.

The shift depends on the direction only, so that both tables move together and the thickness is kept. It is a
Gaussian-process regression along the vault: each point is an observation of how far the surface must move, and bone at
the rim of the defect is an observation of no shift. Its covariance has compact support: farther from the points than
that the shape is unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from SkullVAELib.completion.fill import AllowedRegion
from SkullVAELib.completion.gaussian_process import along_vault
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.affines import apply_affine, scale_of
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.volume import Volume, crop, sample_volume
from SkullVAELib.shape.two_table import outward_directions
from SkullVAELib.shape.warped import WarpedShape

if TYPE_CHECKING:
    from SkullVAELib.completion.gaussian_process import DefectRim

Point = tuple[float, float, float]

SUPPORT_MM = 50.0
"""Distance along the vault at which the influence of a point ends, canonical mm; it is halved at 15 mm."""

FARTHEST_MM = 15.0
"""A point farther than this from the outer surface is refused, mm."""

BESIDE_MM = 5.0
"""A point farther than this from the missing bone, along the vault, is refused, canonical mm."""

# Standard deviation of the noise of a point and of bone at the rim, relative to that of the shift.
_POINT_NOISE, _RIM_NOISE = 0.01, 0.25
_RIM_MM, _RIM_COUNT = 5.0, 200

_RAY_STEP_MM = 0.25
_NODES_MM = 5.0


@dataclass(frozen=True)
class OuterPoints:
    """Points on the outer surface, and how far they move it.

    Attributes
    ----------
    at : tuple of (float, float, float)
        Points, patient RAS mm.
    moved_mm : tuple of float
        Movement of the surface at each point along the ray from the vault's centre, patient mm, positive outwards.
    shift : torch.Tensor, shape (1, X, Y, Z)
        Shift of the shape outwards in canonical mm, over the canonical extent.
    """

    at: tuple[Point, ...]
    moved_mm: tuple[float, ...]
    shift: torch.Tensor

    @classmethod
    def of(
        cls,
        points: Sequence[Point],
        warped: WarpedShape,
        alignment: np.ndarray,
        missing: np.ndarray,
        rim: DefectRim | None,
    ) -> OuterPoints:
        """Compute the shift with which the outer surface of a shape passes through points.

        Parameters
        ----------
        points : sequence of (float, float, float)
            Patient RAS mm, at least one.
        warped : WarpedShape
            The shape with its GP correction.
        alignment : numpy.ndarray, shape (4, 4)
            Patient RAS mm -> canonical mm.
        missing : numpy.ndarray, shape (N, 3)
            Canonical mm of the missing bone.
        rim : DefectRim or None
            Bone around the defect, where the shape is not shifted.

        Returns
        -------
        OuterPoints

        Raises
        ------
        SkullVAEError
            A point is too far from the outer surface, or beside the defect.
        """
        there = apply_affine(alignment, np.asarray(points, float).reshape(-1, 3))
        scale = scale_of(alignment)
        wanted = np.array([_shift_to(warped, point, FARTHEST_MM * scale) for point in there])
        beside = _beside(there, missing)
        for point, shift, distance in zip(points, wanted, beside, strict=True):
            name = "The point at R {:.0f}, A {:.0f}, S {:.0f} mm".format(*point)
            if np.isnan(shift):
                raise SkullVAEError(
                    f"{name} is more than {FARTHEST_MM:g} mm from the outer surface of the completed skull",
                    "Move it nearer to the surface, or remove it",
                )
            if distance > BESIDE_MM:
                raise SkullVAEError(
                    f"{name} is {distance:.0f} mm beside the defect, where the implant does not reach",
                    "Move it to the implant, or remove it",
                )
        nodes = Grid(tuple(int(np.ceil(2 * h / _NODES_MM)) + 1 for h in warped.grid.half_mm), 1.0)
        at = nodes.coordinates().numpy().reshape(-1, 3) / nodes.half_mm * warped.grid.half_mm
        places = along_vault(there)
        if rim is not None:
            places = np.concatenate([places, _rim_places(rim, places)])
        noise = np.full(len(places), _RIM_NOISE**2)
        noise[: len(there)] = _POINT_NOISE**2
        factor = cho_factor(_covariance(places, places) + np.diag(noise))
        near = cKDTree(places).query(along_vault(at))[0] < SUPPORT_MM
        cross = _covariance(along_vault(at[near]), places)
        values = np.zeros(len(places))
        values[: len(there)] = wanted
        # The nodes are interpolated linearly: what this and the noise leave at the points is added to the observations.
        for _ in range(6):
            shift = torch.zeros(len(at))
            shift[torch.tensor(near)] = torch.tensor(cross @ cho_solve(factor, values)).float()
            field = shift.reshape(1, *nodes.shape)
            reached = warped.grid.sample(field, torch.tensor(there).float())[:, 0].numpy()
            values[: len(there)] += wanted - reached
        return cls(
            tuple((float(r), float(a), float(s)) for r, a, s in points),
            tuple((wanted / scale).tolist()),
            field,
        )

    def shifted(self, warped: WarpedShape) -> WarpedShape:
        """A shape with the shift."""
        return replace(warped, shift=self.shift)

    def shifted_region(
        self, where: AllowedRegion, fraction: Volume, alignment: np.ndarray, grid: Grid
    ) -> AllowedRegion:
        """The allowed region of the implant, shifted with the shape.

        Parameters
        ----------
        where : AllowedRegion
            The region for the shape before the shift.
        fraction : Volume
            The reduced grid.
        alignment : numpy.ndarray, shape (4, 4)
            Patient RAS mm -> canonical mm.
        grid : Grid
            The canonical grid.

        Returns
        -------
        AllowedRegion
            In a box larger by the shift.
        """
        margin = np.ceil(float(self.shift.abs().max()) / scale_of(alignment) / fraction.spacing).astype(int).tolist()
        box = tuple(
            slice(max(0, along.start - m), min(n, along.stop + m))
            for along, m, n in zip(where.box, margin, fraction.array.shape, strict=True)
        )
        here = crop(fraction, box)
        index = np.indices(here.array.shape).reshape(3, -1).T
        points = torch.tensor(apply_affine(alignment @ here.affine, index)).float()
        points = points - grid.sample(self.shift, points) * outward_directions(points)
        before = apply_affine(np.linalg.inv(alignment), points.double().numpy())
        score = sample_volume(where.score, before, -1.0).astype(np.float32)
        return AllowedRegion(here.with_array(score.reshape(here.array.shape)), box)

    def report(self) -> list[dict]:
        """The entries of the report."""
        return [
            {"at": [round(mm, 2) for mm in point], "moved_mm": round(moved, 2)}
            for point, moved in zip(self.at, self.moved_mm, strict=True)
        ]


def points_at_defects(points: Sequence[Point], alignment: np.ndarray, missing: np.ndarray) -> tuple[Point, ...]:
    """The points that are at defects and not beside them.

    Parameters
    ----------
    points : sequence of (float, float, float)
        Patient RAS mm.
    alignment : numpy.ndarray, shape (4, 4)
        Patient RAS mm -> canonical mm.
    missing : numpy.ndarray, shape (N, 3)
        Canonical mm of the missing bone.

    Returns
    -------
    tuple of (float, float, float)
    """
    if not points or not len(missing):
        return ()
    beside = _beside(apply_affine(alignment, np.asarray(points, float)), missing)
    return tuple(point for point, distance in zip(points, beside, strict=True) if distance <= BESIDE_MM)


def _beside(there: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Distance (N,) along the vault from points to missing bone, canonical mm."""
    return cKDTree(along_vault(missing)).query(along_vault(there))[0]


def _shift_to(warped: WarpedShape, point: np.ndarray, reach_mm: float) -> float:
    """Distance from the outer surface to a point, canonical (3,), along its ray, positive outwards; nan if beyond."""
    t = np.arange(-reach_mm, reach_mm + _RAY_STEP_MM, _RAY_STEP_MM)
    outwards = outward_directions(torch.tensor(point[None]))[0].numpy()
    field = warped.field(torch.tensor(point + t[:, None] * outwards).float()).numpy()
    crossing = np.flatnonzero((field[:-1] < 0) & (field[1:] >= 0))
    if not len(crossing):
        return float("nan")
    last = crossing[-1]
    return -float(t[last] + _RAY_STEP_MM * field[last] / (field[last] - field[last + 1]))


def _rim_places(rim: DefectRim, places: np.ndarray) -> np.ndarray:
    """(K, 3) outer bone at the rim near points, on the sphere of the vault."""
    chosen = rim.points.numpy()[(rim.distance < _RIM_MM) & (rim.facing > 0.3).numpy()].astype(float)
    if not len(chosen):
        return np.zeros((0, 3))
    chosen = along_vault(chosen)
    chosen = chosen[cKDTree(places).query(chosen)[0] < SUPPORT_MM]
    if len(chosen) > _RIM_COUNT:
        chosen = np.random.default_rng(0).permutation(chosen)[:_RIM_COUNT]
    return chosen


def _covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Wendland's function, smooth and zero from SUPPORT_MM on, of the distances between points (N, 3) and (M, 3)."""
    r = np.minimum(cdist(a, b) / SUPPORT_MM, 1.0)
    return (1 - r) ** 4 * (4 * r + 1)
