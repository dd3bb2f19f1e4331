"""Affine maps of points."""

from __future__ import annotations

import numpy as np


def apply_affine(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points (..., 3) by a (4, 4) affine.

    >>> apply_affine(np.diag([2.0, 1, 1, 1]), np.array([[1.0, 1, 1]])).tolist()
    [[2.0, 1.0, 1.0]]
    """
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def scale_of(matrix: np.ndarray) -> float:
    """Geometric mean scale of an affine; of a patient-to-canonical one: canonical mm per patient mm."""
    return float(abs(np.linalg.det(matrix[:3, :3])) ** (1 / 3))
