"""Pictures of a mesh, drawn by numpy alone: a machine without a graphics driver has them, too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .raycast import View
from .surface import Mesh

_OVERSAMPLING = 2
"""Pixels are drawn so many times finer, along either side, and averaged."""

_LIGHT = np.array([-0.45, 0.55, 0.70])
_AMBIENT = 0.42


@dataclass(frozen=True)
class Picture:
    """What a view shows of a mesh. rgb: (H, W, 3) in 0..1, premultiplied; coverage: (H, W) in 0..1."""

    rgb: np.ndarray
    coverage: np.ndarray


def draw(mesh: Mesh, colours: np.ndarray, view: View, width: int, height: int) -> Picture:
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

    nearest = np.full(rows * columns, np.inf, np.float32)
    image = np.zeros((rows * columns, 3), np.float32)
    corners = place[mesh.faces]
    longest = np.sqrt(((corners - np.roll(corners, 1, axis=1)) ** 2).sum(2)).max(1)
    faces_viewer = (mesh.face_normals() @ view.forward) < 0
    # Triangles of a like size share one set of points: 0.7 of a fine pixel apart, so that none is missed.
    for count in range(1, 200):
        lower = 0.0 if count == 1 else (count - 1) * 0.7
        chosen = np.flatnonzero(faces_viewer & (longest > lower) & (longest <= count * 0.7))
        if not len(chosen):
            continue
        weights = np.array([(a, b, count - a - b) for a in range(count + 1) for b in range(count + 1 - a)]) / count
        for part in np.array_split(chosen, max(1, len(chosen) * len(weights) // 2_000_000)):
            _splat(mesh.faces[part], weights, place, depth, shaded, nearest, image, (rows, columns))
    hit = np.isfinite(nearest).reshape(rows, columns)
    image = image.reshape(height, fine, width, fine, 3).mean(axis=(1, 3))
    return Picture(image, hit.reshape(height, fine, width, fine).mean(axis=(1, 3)))


def _splat(
    faces: np.ndarray,
    weights: np.ndarray,
    place: np.ndarray,
    depth: np.ndarray,
    shaded: np.ndarray,
    nearest: np.ndarray,
    image: np.ndarray,
    shape: tuple[int, int],
) -> None:
    """Put the points at barycentric weights (K, 3) of triangles (M, 3) into a picture, in place."""
    at = np.einsum("kc,mcx->mkx", weights, place[faces]).reshape(-1, 2)
    column, row = np.floor(at).astype(np.int64).T
    inside = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
    pixel = (row * shape[1] + column)[inside]
    far = np.einsum("kc,mc->mk", weights, depth[faces]).ravel()[inside].astype(np.float32)
    colour = np.einsum("kc,mcx->mkx", weights, shaded[faces]).reshape(-1, 3)[inside]
    order = np.lexsort((-far, pixel))
    pixel, far, colour = pixel[order], far[order], colour[order]
    # The last of a pixel's points in this order is its nearest.
    last = np.append(np.flatnonzero(np.diff(pixel)), len(pixel) - 1) if len(pixel) else np.zeros(0, int)
    pixel, far, colour = pixel[last], far[last], colour[last]
    better = far < nearest[pixel]
    nearest[pixel[better]], image[pixel[better]] = far[better], colour[better]
