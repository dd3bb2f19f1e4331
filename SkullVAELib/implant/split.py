"""Splitting of an implant into pieces that can be inserted one after the other."""

from __future__ import annotations

import numpy as np

from SkullVAELib.implant.implicit_solid import FineGrid, inner_box, largest_solid, rounded_intersection

_ROOM = 4
"""Nodes around a solid in which it is cut; farther out its function does not affect the surface."""


def split_plate(
    solid: np.ndarray, grid: FineGrid, longest_mm: float, gap_mm: float, edge_mm: float
) -> list[np.ndarray]:
    """Cut an implant across its longest axis until no piece is longer than a length.

    Parameters
    ----------
    solid : numpy.ndarray
        Function (*shape), negative inside.
    grid : FineGrid
        The grid.
    longest_mm : float
        Maximum length of a piece, measured along its own longest principal axis.
    gap_mm : float
        Distance left between neighbouring pieces, at least 0.2 mm.
    edge_mm : float
        Radius of the edges of the cuts.

    Returns
    -------
    list of numpy.ndarray
        Function (*shape) of each piece; empty for an empty solid.
    """
    inside = np.argwhere(solid < 0)
    if not len(inside):
        return []
    points = inside * grid.step_mm
    axis = np.linalg.eigh(np.cov((points - points.mean(0)).T) + 1e-9 * np.eye(3))[1][:, -1]
    along = points @ axis
    length = along.max() - along.min() + grid.step_mm
    if length <= longest_mm:
        return [solid]
    half = max(gap_mm, 0.2) / 2
    count = int(np.ceil((length + 2 * half) / longest_mm))
    box = inner_box(solid, _ROOM)
    assert box is not None
    index = np.stack(np.meshgrid(*(np.arange(part.start, part.stop) for part in box), indexing="ij"), -1)
    where = (index @ axis * grid.step_mm).astype(np.float32)
    edges = np.linspace(along.min(), along.max(), count + 1)
    pieces = []
    for number in range(count):
        cuts = [solid[box]]
        if number > 0:
            cuts.append(edges[number] + half - where)
        if number < count - 1:
            cuts.append(where - edges[number + 1] + half)
        piece = solid.copy()
        piece[box] = rounded_intersection(cuts, edge_mm)
        pieces += split_plate(largest_solid(piece)[0], grid, longest_mm, gap_mm, edge_mm)
    return pieces
