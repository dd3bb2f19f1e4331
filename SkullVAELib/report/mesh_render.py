"""Pictures of a mesh, drawn by numpy alone: a machine without a graphics driver has them, too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.report.raycast import View

_OVERSAMPLING = 2
"""Pixels are drawn so many times finer, along either side, and averaged."""

_POINT_STEP = 0.9
"""Pixels between the points a triangle is covered with."""

_MOST_POINTS = 2**21
"""Points at a time; their numbers must fit into 22 bits."""

_LIGHT = np.array([-0.45, 0.55, 0.70])
_AMBIENT = 0.42


@dataclass(frozen=True)
class MeshPicture:
    """What a view shows of a mesh. rgb: (H, W, 3) in 0..1, premultiplied; coverage: (H, W) in 0..1."""

    rgb: np.ndarray
    coverage: np.ndarray


def render_mesh(mesh: Mesh, colours: np.ndarray, view: View, width: int, height: int) -> MeshPicture:
    """Draw a mesh whose points have colours (N, 3) in 0..1, lit from above left.

    Every triangle is covered with points closer than the pixels, and each pixel keeps the nearest of them.
    """
    fine = _OVERSAMPLING
    columns, rows = width * fine, height * fine
    step = view.mm_per_pixel / fine
    relative = mesh.points - view.centre
    place = np.stack([relative @ view.right, -(relative @ view.up)], 1) / step + np.array([columns, rows]) / 2
    depth = relative @ view.forward
    normals = mesh.vertex_normals()
    light = _LIGHT / np.linalg.norm(_LIGHT)
    bright = np.stack([normals @ view.right, normals @ view.up, -(normals @ view.forward)], 1) @ light
    shaded = colours * (_AMBIENT + (1 - _AMBIENT) * np.clip(bright, 0, 1))[:, None]

    faces = mesh.faces[(mesh.face_normals() @ view.forward) < 0]
    corners = place[faces]
    longest = np.sqrt(((corners - np.roll(corners, 1, axis=1)) ** 2).sum(2)).max(1)
    # Triangles of a like size share one set of points, closer than the pixels, so that none is missed.
    counts = np.maximum(1, np.ceil(longest / _POINT_STEP)).astype(int)
    best = np.full(rows * columns, np.inf, np.float32)
    image = np.zeros((rows * columns, 3), np.float32)
    for count in np.unique(counts):
        chosen = faces[counts == count]
        weights = np.array([(a, b, count - a - b) for a in range(count + 1) for b in range(count + 1 - a)]) / count
        size = max(1, _MOST_POINTS // len(weights))
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            at = np.einsum("kc,mcx->mkx", weights, place[part]).reshape(-1, 2)
            pixel, far, winner = _nearest(at, np.einsum("kc,mc->mk", weights, depth[part]).ravel(), (rows, columns))
            better = far < best[pixel]
            pixel, winner = pixel[better], winner[better]
            best[pixel] = far[better]
            triangle, point = np.divmod(winner, len(weights))
            image[pixel] = np.einsum("nc,ncx->nx", weights[point], shaded[part[triangle]])
    hit = np.isfinite(best).reshape(rows, columns)
    image = image.reshape(height, fine, width, fine, 3).mean(axis=(1, 3))
    return MeshPicture(image, hit.reshape(height, fine, width, fine).mean(axis=(1, 3)))


def _nearest(at: np.ndarray, depth: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of points at (N, 2) places, column and row, with depths (N,): the pixels they hit, and of each pixel the depth
    and the number of its nearest point."""
    column, row = np.floor(at).astype(np.int64).T
    inside = np.flatnonzero((column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0]))
    if not len(inside):
        return np.zeros(0, int), np.zeros(0, np.float32), np.zeros(0, int)
    pixel, far = (row * shape[1] + column)[inside], depth[inside]
    # One number for a point, pixel before depth before number: numbers alone are sorted many times faster.
    low, high = far.min(), far.max()
    level = ((far - low) / max(high - low, 1e-6) * (2**20 - 1)).astype(np.int64)
    key = np.sort((pixel << 42) | (level << 22) | np.arange(len(inside)))
    pixel = key >> 42
    first = np.append(0, np.flatnonzero(np.diff(pixel)) + 1)
    winner = key[first] & (2**22 - 1)
    return pixel[first], far[winner].astype(np.float32), inside[winner]
