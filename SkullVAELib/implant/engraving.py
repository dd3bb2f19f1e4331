"""An engraved text on the inner surface of an implant, in a font of strokes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from SkullVAELib.implant.fixation import grid_box
from SkullVAELib.implant.implicit_solid import FineGrid, path_through
from SkullVAELib.mesh.mesh import Mesh

STROKE = 1 / 6
"""Width of a stroke as a fraction of the height of the characters."""

MARGIN_MM = 1.0
"""Minimum distance between a stroke and any edge or hole."""

LEFT_MM = 1.0
"""Minimum thickness of the plate below a stroke."""

_ANGLES = (0, 15, -15, 30, -30, 45, -45, 60, -60, 75, -75, 90)
"""Slopes of the line of text that are tried, degrees."""

# Strokes of each character on a grid 4 wide and 6 high, from the lower left: lines of points XY, separated by spaces.
_STROKES = {
    "A": "00 26 40|12 32",
    "B": "00 06 36 45 44 33 03|33 42 41 30 00",
    "C": "45 36 16 05 01 10 30 41",
    "D": "00 06 26 44 42 20 00",
    "E": "46 06 00 40|03 33",
    "F": "46 06 00|03 33",
    "G": "45 36 16 05 01 10 30 41 43 23",
    "H": "00 06|40 46|03 43",
    "I": "16 36|26 20|10 30",
    "J": "46 41 30 10 01",
    "K": "00 06|46 03 40",
    "L": "06 00 40",
    "M": "00 06 23 46 40",
    "N": "00 06 40 46",
    "O": "10 01 05 16 36 45 41 30 10",
    "P": "00 06 36 45 44 33 03",
    "Q": "10 01 05 16 36 45 41 30 10|22 40",
    "R": "00 06 36 45 44 33 03|23 40",
    "S": "45 36 16 05 04 13 33 42 41 30 10 01",
    "T": "06 46|26 20",
    "U": "06 01 10 30 41 46",
    "V": "06 20 46",
    "W": "06 10 23 30 46",
    "X": "00 46|06 40",
    "Y": "06 23 46|23 20",
    "Z": "06 46 00 40",
    "0": "10 01 05 16 36 45 41 30 10|01 45",
    "1": "05 26 20|10 30",
    "2": "05 16 36 45 44 00 40",
    "3": "05 16 36 45 44 33 13|33 42 41 30 10 01",
    "4": "30 36 02 42",
    "5": "46 06 03 33 42 41 30 10 01",
    "6": "45 36 16 05 01 10 30 41 42 33 03",
    "7": "06 46 10",
    "8": "13 04 05 16 36 45 44 33 13 02 01 10 30 41 42 33",
    "9": "01 10 30 41 45 36 16 05 04 13 43",
    "-": "13 33",
    ".": "20 20",
    "/": "00 46",
    " ": "",
}


@dataclass(frozen=True)
class TextPlace:
    """Where a text is engraved.

    Attributes
    ----------
    lines : numpy.ndarray
        (N, 2, 2) ends of the strokes in the plane of the text, mm, the middle of the text at the origin.
    centre, right, up : numpy.ndarray
        (3,) the origin, RAS mm, and the unit axes of that plane, as seen by a viewer who looks at the inner surface.
    surface : numpy.ndarray
        (M, 3) points of the inner surface below the text.
    normals : numpy.ndarray
        (M, 3) its unit normals, away from the plate.
    """

    lines: np.ndarray
    centre: np.ndarray
    right: np.ndarray
    up: np.ndarray
    surface: np.ndarray
    normals: np.ndarray

    def surface_below(self) -> np.ndarray:
        """Points (K, 3) of the surface within the rectangle of the text, RAS mm."""
        half = np.abs(self.lines).max((0, 1)) + 0.5
        offset = self.surface - self.centre
        flat = np.stack([offset @ self.right, offset @ self.up], 1)
        return self.surface[(np.abs(flat) <= half).all(1)]


def text_lines(text: str, height_mm: float) -> np.ndarray:
    """Return the strokes of a text.

    Parameters
    ----------
    text : str
        Of `SkullVAELib.implant.addition_options.CHARACTERS`.
    height_mm : float
        Height of the characters.

    Returns
    -------
    numpy.ndarray
        (N, 2, 2) ends of lines, mm, x to the right and y upwards, centred.
    """
    unit = height_mm * (1 - STROKE) / 6
    lines = []
    for number, character in enumerate(text):
        for stroke in _STROKES[character].split("|"):
            points = [(int(point[0]) + 6 * number, int(point[1])) for point in stroke.split()]
            lines += list(itertools.pairwise(points))
    out = np.array(lines, float).reshape(-1, 2, 2) * unit
    width = (6 * len(text) - 2) * unit
    return out - [width / 2, 3 * unit]


def place_text(
    text: str,
    height_mm: float,
    depth_mm: float,
    mesh: Mesh,
    faces: np.ndarray,
    solid: np.ndarray,
    grid: FineGrid,
    avoided: np.ndarray,
) -> TextPlace | None:
    """Find a place for a text on the inner surface.

    Parameters
    ----------
    text : str
        The text.
    height_mm, depth_mm : float
        Height of the characters and depth of the engraving.
    mesh : Mesh
        The plate, N points.
    faces : numpy.ndarray
        (N,) as from `SkullVAELib.implant.measures.classify_points`.
    solid, grid
        The function of the plate on its grid.
    avoided : numpy.ndarray
        (K, 3) points to stay away from, such as the edges of holes that are cut later, RAS mm.

    Returns
    -------
    TextPlace or None
        The place farthest from edges of those where the text fits; None where it fits nowhere. Lines that run from the
        patient's right to left or upright are preferred in the order of `_ANGLES`.
    """
    lines = text_lines(text, height_mm)
    inner = np.flatnonzero(faces == -1)
    if not len(inner) or not len(lines):
        return None
    points, normals = mesh.points[inner], mesh.vertex_normals()[inner]
    edges = np.concatenate([mesh.points[faces == 0], avoided])
    # Without compact nodes, queries far from the edges take a quarter of the time.
    room = cKDTree(edges, 32, False).query(points)[0] if len(edges) else np.full(len(points), 100.0)
    thick = path_through(solid, grid, points, normals, depth_mm + LEFT_MM + 0.5)
    room = np.where(thick >= depth_mm + LEFT_MM, room, 0.0)
    tree = cKDTree(points)
    stroke = height_mm * STROKE
    shares = np.linspace(0, 1, 6)[:, None]
    marks = np.concatenate([first + shares * (last - first) for first, last in lines])
    half = np.abs(marks).max(0)
    grid_marks = np.stack(np.meshgrid(*(np.linspace(-h, h, max(3, int(2 * h / 2.0))) for h in half)), -1).reshape(-1, 2)
    marks = np.concatenate([marks, grid_marks])
    cells = np.floor(points / 3.0).astype(np.int64)
    order = np.argsort(-room, kind="stable")
    _, first_of = np.unique(cells[order], axis=0, return_index=True)
    centres = order[np.sort(first_of)]
    centres = centres[room[centres] > height_mm / 2][:150]
    for angle in np.radians(_ANGLES):
        best: tuple[float, TextPlace] | None = None
        for number in centres:
            around = tree.query_ball_point(points[number], height_mm)
            inward = normals[around].mean(0)
            inward /= np.linalg.norm(inward)
            up = np.array([0.0, 0.0, 1.0]) if abs(inward[2]) < 0.8 else np.array([0.0, 1.0, 0.0])
            up = up - (up @ inward) * inward
            up /= np.linalg.norm(up)
            # A viewer who faces the inner surface looks against its normal; right is his forward times up.
            right = np.cross(-inward, up)
            right, up = np.cos(angle) * right + np.sin(angle) * up, np.cos(angle) * up - np.sin(angle) * right
            flat = points[number] + marks[:, :1] * right + marks[:, 1:] * up
            at = tree.query(flat)[1]
            for _ in range(2):  # to the foot along the normal of the text's plane
                height = (points[at] - flat) @ inward
                at = tree.query(flat + height[:, None] * inward)[1]
            offset = points[at] - flat
            lateral = np.linalg.norm(offset - (offset @ inward)[:, None] * inward, axis=1)
            least = float(room[at].min())
            fits = least >= stroke / 2 + MARGIN_MM and lateral.max() < 1.0 and (normals[at] @ inward).min() > 0.8
            if fits and (best is None or least > best[0]):
                span = float(np.linalg.norm(half)) + stroke + 2.0
                below = tree.query_ball_point(points[number], span * 1.3)
                best = least, TextPlace(lines, points[number], right, up, points[below], normals[below])
        if best is not None:
            return best[1]
    return None


def engrave(solid: np.ndarray, grid: FineGrid, where: TextPlace, height_mm: float, depth_mm: float) -> None:
    """Cut a text into a solid.

    Parameters
    ----------
    solid : numpy.ndarray
        Function (*shape), negative inside; it is changed.
    grid : FineGrid
        The grid.
    where : TextPlace
        The place of the text.
    height_mm, depth_mm : float
        Height of the characters, as in `place_text`, and depth.
    """
    box, nodes = grid_box(grid, where.surface, depth_mm + 2.0)
    points = nodes.reshape(-1, 3)
    flat = np.stack([(points - where.centre) @ where.right, (points - where.centre) @ where.up], 1)
    half = np.abs(where.lines).max((0, 1)) + height_mm * STROKE
    near = np.flatnonzero((np.abs(flat) < half).all(1))
    away, at = cKDTree(where.surface).query(points[near], distance_upper_bound=depth_mm + 1.5)
    near, at = near[np.isfinite(away)], at[np.isfinite(away)]
    points, flat = points[near], flat[near]
    height = np.einsum("nx,nx->n", points - where.surface[at], where.normals[at])
    across = np.full(len(points), np.inf)
    for first, last in where.lines:
        along = last - first
        share = np.clip((flat - first) @ along / max(along @ along, 1e-9), 0, 1)
        across = np.minimum(across, np.linalg.norm(flat - first - share[:, None] * along, axis=1))
    groove = np.maximum(across - height_mm * STROKE / 2, -height - depth_mm)
    local = solid[box].ravel()
    local[near] = np.maximum(local[near], -groove)
    solid[box] = local.reshape(solid[box].shape)
