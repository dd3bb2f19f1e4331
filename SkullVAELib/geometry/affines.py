"""Affine maps of points."""

from __future__ import annotations

import numpy as np


def apply_affine(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points (..., 3) by a (4, 4) affine.

    >>> apply_affine(np.diag([2.0, 1, 1, 1]), np.array([[1.0, 1, 1]])).tolist()
    [[2.0, 1.0, 1.0]]
    """
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def nearest_axes(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The anatomical axis that each axis of an array runs closest to, and whether in its direction.

    Ties and sheared grids are decided as nibabel's `io_orientation` decides them, whose import would take a tenth of a
    second.

    Parameters
    ----------
    affine : (4, 4) array
        Voxel index to RAS, of full rank.

    Returns
    -------
    axes : (3,) int array
        0, 1 or 2 for R, A or S, each once.
    signs : (3,) int array
        1 towards R, A or S, -1 towards L, P or I.

    >>> [values.tolist() for values in nearest_axes(np.diag([-0.5, 1, 2, 1])[[1, 0, 2, 3]])]
    [[1, 0, 2], [-1, 1, 1]]
    """
    columns = affine[:3, :3]
    left, _, right = np.linalg.svd(columns / np.sqrt((columns * columns).sum(0)), full_matrices=False)
    rotation = left @ right
    axes, signs = np.zeros(3, int), np.zeros(3, int)
    for axis in np.argsort(-(rotation**2).max(0), kind="stable"):
        nearest = int(np.abs(rotation[:, axis]).argmax())
        axes[axis], signs[axis] = nearest, -1 if rotation[nearest, axis] < 0 else 1
        rotation[nearest] = 0
    return axes, signs


def scale_of(matrix: np.ndarray) -> float:
    """Geometric mean scale of an affine; of a patient-to-canonical one: canonical mm per patient mm."""
    return float(abs(np.linalg.det(matrix[:3, :3])) ** (1 / 3))
