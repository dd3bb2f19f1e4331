"""Division of a plate into pieces that can be inserted one after the other."""

from __future__ import annotations

import numpy as np

from SkullVAELib.implant.implicit_solid import FineGrid, largest_solid, rounded_intersection


def split_plate(
    solid: np.ndarray, grid: FineGrid, longest_mm: float, gap_mm: float, edge_mm: float
) -> list[np.ndarray]:
    """A plate cut across until no piece is longer than longest_mm; gap_mm is left between neighbours.

    solid: function (*shape), negative inside. A piece's length is the extent along its own longest axis; edge_mm:
    radius of the cuts' edges.
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
