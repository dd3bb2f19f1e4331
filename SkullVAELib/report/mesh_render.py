"""Renders a mesh with numpy alone, so that no graphics driver is needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.report.raycast import View

_OVERSAMPLING = 2
"""Factor by which each side is rendered finer, before pixels are averaged."""

_POINT_STEP = 0.9
"""Distance in pixels between the points that a triangle is covered with."""

_MOST_POINTS = 2**21
"""Points processed at a time; their indices must fit into 22 bits."""

_LIGHT = np.array([-0.45, 0.55, 0.70])
_AMBIENT = 0.42


@dataclass(frozen=True)
class MeshPicture:
    """A rendered view of a mesh.

    Attributes
    ----------
    rgb : numpy.ndarray
        (H, W, 3) in 0..1, premultiplied by the coverage.
    coverage : numpy.ndarray
        (H, W) in 0..1.
    """

    rgb: np.ndarray
    coverage: np.ndarray


def render_mesh(mesh: Mesh, colours: np.ndarray, view: View, width: int, height: int) -> MeshPicture:
    """Render a mesh, lit from above left.

    Every triangle is covered with points closer together than the pixels, and each pixel keeps the nearest of them.

    Parameters
    ----------
    mesh : Mesh
        The mesh, RAS mm, N points.
    colours : numpy.ndarray
        (N, 3) RGB in 0..1 of the points.
    view : View
        Direction and scale.
    width, height : int
        Size of the picture in pixels.

    Returns
    -------
    MeshPicture
        The picture.
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
    # Triangles of similar size share one set of barycentric points, closer together than the pixels, so that no pixel
    # is missed.
    counts = np.maximum(1, np.ceil(longest / _POINT_STEP)).astype(int)
    best = np.full(rows * columns, np.inf, np.float32)
    image = np.zeros((rows * columns, 3), np.float32)
    for count in np.unique(counts):
        chosen = faces[counts == count]
        weights = np.array([(a, b, count - a - b) for a in range(count + 1) for b in range(count + 1 - a)]) / count
        size = max(1, _MOST_POINTS // len(weights))
        for start in range(0, len(chosen), size):
            block = chosen[start : start + size]
            at = np.einsum("kc,mcx->mkx", weights, place[block]).reshape(-1, 2)
            pixel, far, winner = _nearest(at, np.einsum("kc,mc->mk", weights, depth[block]).ravel(), (rows, columns))
            better = far < best[pixel]
            pixel, winner = pixel[better], winner[better]
            best[pixel] = far[better]
            triangle, point = np.divmod(winner, len(weights))
            image[pixel] = np.einsum("nc,ncx->nx", weights[point], shaded[block[triangle]])
    hit = np.isfinite(best).reshape(rows, columns)
    image = image.reshape(height, fine, width, fine, 3).mean(axis=(1, 3))
    return MeshPicture(image, hit.reshape(height, fine, width, fine).mean(axis=(1, 3)))


def draw_along(
    mesh: Mesh,
    colours: np.ndarray,
    forward: np.ndarray,
    size: tuple[int, int],
    margin: tuple[int, int],
    background: np.ndarray,
) -> Image.Image:
    """Draw a whole mesh seen along a direction, upright, on a background.

    Parameters
    ----------
    mesh, colours
        As in `render_mesh`.
    forward : numpy.ndarray
        (3,) unit vector of the viewing direction, RAS.
    size : tuple of int
        Width and height of the picture in pixels.
    margin : tuple of int
        Pixels of the width and of the height that stay free.
    background : numpy.ndarray
        (3,) RGB in 0..1.

    Returns
    -------
    PIL.Image.Image
        The picture.
    """
    up = np.array([0.0, 0, 1]) if abs(forward[2]) < 0.85 else np.array([0.0, 1, 0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    across = np.ptp(mesh.points @ np.stack([right, up], 1), axis=0)
    middle = (mesh.points.min(0) + mesh.points.max(0)) / 2
    view = View(right, up, middle, float((across / (np.array(size) - np.array(margin))).max()))
    shown = render_mesh(mesh, colours, view, *size)
    pixels = background * (1 - shown.coverage[..., None]) + shown.rgb
    return Image.fromarray(np.round(pixels.clip(0, 1) * 255).astype(np.uint8))


def _nearest(at: np.ndarray, depth: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels hit by points at (N, 2) columns and rows with depths (N,), and depth and index of the nearest point of
    each."""
    column, row = np.floor(at).astype(np.int64).T
    inside = np.flatnonzero((column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0]))
    if not len(inside):
        return np.zeros(0, int), np.zeros(0, np.float32), np.zeros(0, int)
    pixel, far = (row * shape[1] + column)[inside], depth[inside]
    # One integer key for each point, from pixel, depth and index: integers are sorted many times faster than rows.
    low, high = far.min(), far.max()
    level = ((far - low) / max(high - low, 1e-6) * (2**20 - 1)).astype(np.int64)
    key = np.sort((pixel << 42) | (level << 22) | np.arange(len(inside)))
    pixel = key >> 42
    first = np.append(0, np.flatnonzero(np.diff(pixel)) + 1)
    winner = key[first] & (2**22 - 1)
    return pixel[first], far[winner].astype(np.float32), inside[winner]
