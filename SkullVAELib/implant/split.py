"""Splitting of an implant into pieces that can be inserted one after the other."""

from __future__ import annotations

import numpy as np

from SkullVAELib.implant.implicit_solid import FineGrid, largest_solid, rounded_intersection


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
    index = np.stack(np.meshgrid(*(np.arange(n) for n in solid.shape), indexing="ij"), -1)
    where = (index @ axis * grid.step_mm).astype(np.float32)
    edges = np.linspace(along.min(), along.max(), count + 1)
    pieces = []
    for number in range(count):
        cuts = [solid]
        if number > 0:
            cuts.append(edges[number] + half - where)
        if number < count - 1:
            cuts.append(where - edges[number + 1] + half)
        pieces += split_plate(largest_solid(rounded_intersection(cuts, edge_mm))[0], grid, longest_mm, gap_mm, edge_mm)
    return pieces
