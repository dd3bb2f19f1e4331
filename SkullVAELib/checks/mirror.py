"""The midsagittal plane of a skull, from its own symmetry, and an implant beside its mirror image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.checks.vault import Vault

_STEPS, _FITTED = 8, 2000
_TURNS_DEG = (-12.0, 0.0, 12.0)
_TRIMMED = 0.8  # share of the closest points that a step of the alignment uses
_REACH_MM = 15.0  # bone within this distance of the implant aligns its mirror image
_AVERAGED = 4  # points of the chart whose mean is the value of a point of the mesh
_BEYOND = 4.0  # pixels that a point of the mesh may be beside the points of the chart
_FAR_MM = 6.0  # a mirrored point further from every point of the surface has no counterpart


@dataclass(frozen=True)
class MirrorDistance:
    """How far an implant's outer surface is from the mirrored skull's.

    Attributes
    ----------
    median_mm, p95_mm : float
        Of the points with a counterpart, mm.
    share : float
        Of the implant's points that have a counterpart on the mirrored skull.
    directions : (N, 3) array
        Unit vectors from the centre of the vault to the points of the implant's outer surface.
    differences_mm : (N,) array
        Signed distance of each of these points to the mirrored skull, mm: positive where the implant is further
        outside, nan without a counterpart.
    spacing : float
        Angle between neighbouring points, rad.
    """

    median_mm: float
    p95_mm: float
    share: float
    directions: np.ndarray
    differences_mm: np.ndarray
    spacing: float

    def at(self, centre: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Differences (M,) in mm at points (M, 3) of the implant, RAS mm.

        Points below the outer surface have the value of the surface above them. nan where it is unknown.
        """
        rays = points - centre
        rays /= np.linalg.norm(rays, axis=1, keepdims=True).clip(1e-6)
        count = min(_AVERAGED, len(self.directions))
        away, near = (column.reshape(len(points), count) for column in cKDTree(self.directions).query(rays, k=count))
        values = self.differences_mm[near]
        known = np.isfinite(values)
        weights = known / (away + 0.1 * self.spacing)
        mean = (weights * np.where(known, values, 0.0)).sum(1) / weights.sum(1).clip(1e-9)
        return np.where(known[:, 0] & (away[:, 0] < _BEYOND * self.spacing), mean, np.nan)


def mirror_distance(vault: Vault, implant: np.ndarray) -> MirrorDistance | None:
    """Compare an implant with the mirrored skull.

    The skull is mirrored across its own midsagittal plane, which is found by the symmetry of the outer surface without
    the implant. What the surrounding bone itself differs from its mirror image is taken off: a linear function of
    position, fitted to the bone within 15 mm of the implant.

    Only bone is a counterpart: an implant across the midline is not compared with itself.

    Parameters
    ----------
    vault : Vault
        The completed vault.
    implant : (P, P) bool array
        Pixels of the vault's chart where the implant is the outer surface.

    Returns
    -------
    MirrorDistance or None
        None where the image holds no bone on the mirror side.
    """
    surface = vault.layer.hit & vault.known
    outer = np.where(surface, vault.layer.outer, 0.0)
    points = vault.chart.at(outer)
    normals = _normals(points, surface)
    surface &= np.isfinite(normals).all(-1)
    bone = surface & ~implant
    own = surface & implant
    if bone.sum() < 1000 or not own.any():
        return None
    matrix, shift = _reflection(points[bone], normals[bone], vault.chart.centre)
    away = ndimage.distance_transform_edt(~implant) * vault.chart.step * 85
    ring = bone & (away <= _REACH_MM)
    differences, found = _differences(points[own], points[bone], normals[bone], matrix, shift)
    if not found.any():
        return None
    around, seen = _differences(points[ring], points[bone], normals[bone], matrix, shift)
    if seen.sum() >= 30:
        differences = differences - _linear(points[ring][seen], around[seen], points[own])
    size = np.abs(differences[found])
    return MirrorDistance(
        float(np.median(size)),
        float(np.percentile(size, 95)),
        float(found.mean()),
        vault.chart.directions[own].astype(float),
        np.where(found, differences, np.nan),
        vault.chart.step,
    )


def _normals(points: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """Outward normals (P, P, 3) of a surface on a chart; nan at its border."""
    smooth = np.stack([ndimage.uniform_filter(points[..., axis], 3) for axis in range(3)], -1)
    inner = ndimage.binary_erosion(surface, np.ones((3, 3)))
    smooth[~inner] = np.nan
    normal = np.cross(np.gradient(smooth, axis=0), np.gradient(smooth, axis=1))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    outward = np.nanmean(np.einsum("ijk,ijk->ij", normal, points - np.nanmean(smooth, axis=(0, 1))))
    return normal if outward > 0 else -normal


def _reflection(points: np.ndarray, normals: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The improper rigid map x -> matrix x + shift that maps a surface to itself best."""
    every = max(1, len(points) // _FITTED)
    moving, tree = points[::every], cKDTree(points)
    best: tuple[float, np.ndarray, np.ndarray] = (np.inf, np.eye(3), np.zeros(3))
    few = moving[::5]
    for yaw in np.radians(_TURNS_DEG):
        for roll in np.radians(_TURNS_DEG):
            axis = np.array([np.cos(yaw) * np.cos(roll), np.sin(yaw) * np.cos(roll), np.sin(roll)])
            matrix = np.eye(3) - 2 * np.outer(axis, axis)
            matrix, shift, error = _aligned(few, points, normals, tree, matrix, centre - matrix @ centre, 3)
            if error < best[0]:
                best = (error, matrix, shift)
    return _aligned(moving, points, normals, tree, best[1], best[2], _STEPS)[:2]


def _aligned(
    moving: np.ndarray,
    points: np.ndarray,
    normals: np.ndarray,
    tree: cKDTree,
    matrix: np.ndarray,
    shift: np.ndarray,
    steps: int,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Point-to-plane alignment of mirrored points with the surface; the map and the mean error in mm."""
    error = np.inf
    for _ in range(steps):
        at = moving @ matrix.T + shift
        distance, near = tree.query(at)
        used = distance <= np.quantile(distance, _TRIMMED)
        at, target, normal = at[used], points[near[used]], normals[near[used]]
        residual = ((target - at) * normal).sum(1)
        error = float(np.abs(residual).mean())
        middle = at.mean(0)
        rows = np.concatenate([np.cross(at - middle, normal), normal], 1)
        normal_matrix = rows.T @ rows + 1e-6 * len(rows) * np.eye(6)
        turn, move = np.split(np.linalg.solve(normal_matrix, rows.T @ residual), 2)
        angle = float(np.linalg.norm(turn))
        cross = np.cross(np.eye(3), turn / max(angle, 1e-12))
        rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        matrix, shift = rotation @ matrix, rotation @ (shift - middle) + middle + move
    return matrix, shift, error


def _differences(
    points: np.ndarray, surface: np.ndarray, normals: np.ndarray, matrix: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Signed distances (N,) in mm of mirrored points to a surface along its normals, and which have a counterpart."""
    at = points @ matrix.T + shift
    _, near = cKDTree(surface).query(at)
    offset = at - surface[near]
    along = (offset * normals[near]).sum(1)
    across = np.linalg.norm(offset - along[:, None] * normals[near], axis=1)
    return along, across < _FAR_MM


def _linear(points: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A linear function of position fitted to values at points, without the extreme tenth, at other points."""
    middle, scale = points.mean(0), np.maximum(points.std(0), 1.0)

    def rows(where: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ones((len(where), 1)), (where - middle) / scale], 1)

    low, high = np.percentile(values, [5, 95])
    kept = (values >= low) & (values <= high)
    basis = rows(points[kept])
    gram = basis.T @ basis + 1e-3 * len(basis) * np.diag([0.0, 1, 1, 1])
    return rows(at) @ np.linalg.solve(gram, basis.T @ values[kept])
