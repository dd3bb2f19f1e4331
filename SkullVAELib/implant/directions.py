"""Directions of a plate: its outward normal, and directions around it to search among."""

from __future__ import annotations

import numpy as np

from SkullVAELib.geometry.affines import perpendicular_axes
from SkullVAELib.mesh.mesh import Mesh


def plate_normal(mesh: Mesh, outwards: np.ndarray) -> np.ndarray:
    """Return the unit normal of a plate: the mean normal of the points that face outwards.

    Parameters
    ----------
    mesh : Mesh
        A plate.
    outwards : numpy.ndarray
        (3,) a direction that is roughly outwards.

    Returns
    -------
    numpy.ndarray
        (3,) unit vector.
    """
    normals, area = mesh.face_normals(), mesh.face_areas()
    normal = outwards / np.linalg.norm(outwards)
    for _ in range(5):
        facing = normals @ normal > 0.5
        mean = (normals[facing] * area[facing, None]).sum(0)
        if not mean.any():
            break
        normal = mean / np.linalg.norm(mean)
    return normal


def cone_directions(axis: np.ndarray, ring_degrees: dict[float, int]) -> np.ndarray:
    """Return unit vectors on cones around an axis.

    Parameters
    ----------
    axis : numpy.ndarray
        (3,) unit vector.
    ring_degrees : dict
        Half-angle of each cone in degrees: number of directions on it.

    Returns
    -------
    numpy.ndarray
        (N, 3), the axis first.
    """
    first, second = perpendicular_axes(axis)
    out = [axis]
    for degrees, count in ring_degrees.items():
        turn = np.arange(count) * 2 * np.pi / count
        around = np.cos(turn)[:, None] * first + np.sin(turn)[:, None] * second
        out += list(np.cos(np.radians(degrees)) * axis + np.sin(np.radians(degrees)) * around)
    return np.array(out)
