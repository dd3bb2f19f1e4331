"""Affine maps of points."""

from __future__ import annotations

import numpy as np


def apply_affine(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points (..., 3) by a (4, 4) affine.

    >>> apply_affine(np.diag([2.0, 1, 1, 1]), np.array([[1.0, 1, 1]])).tolist()
    [[2.0, 1.0, 1.0]]
    """
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def perpendicular_axes(direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors (..., 3) across unit vectors (..., 3), with which these form a right-handed system.

    >>> [axis.tolist() for axis in perpendicular_axes(np.array([0.0, 0, 1]))]
    [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]
    """
    first = np.cross(direction, np.eye(3)[np.abs(direction).argmin(-1)])
    first /= np.linalg.norm(first, axis=-1, keepdims=True)
    return first, np.cross(direction, first)


def as_place(point: np.ndarray) -> str:
    """The text of a place in RAS mm, for messages.

    >>> as_place(np.array([-0.4, 12.6, 30.0]))
    'R 0, A 13, S 30 mm'
    """
    right, anterior, superior = (round(float(mm)) for mm in point)
    return f"R {right}, A {anterior}, S {superior} mm"


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
