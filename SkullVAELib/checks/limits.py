"""What the figures of the self-check are rated by.

The limits were set on implants with a known truth of ten skulls and measured on 27, see
Docs/explanation/self_check.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

RATINGS = ("good", "acceptable", "poor")
"""From the best to the worst."""


@dataclass(frozen=True)
class Limit:
    """The limits of a figure of the self-check.

    Attributes
    ----------
    title : str
        The figure in plain words.
    unit : str
        Its unit; empty for a ratio.
    good, acceptable : float
        Largest figure that is rated so; a larger one is rated poor.
    digits : int
        Decimals of the figure in the report.
    ratio : bool
        The figure is a ratio, best at 1: its factor above or below 1 is rated.
    """

    title: str
    unit: str
    good: float
    acceptable: float
    digits: int = 1
    ratio: bool = False

    def rating(self, value: float) -> str:
        """The rating of a figure.

        >>> [Limit("", "", 1.25, 2.0, ratio=True).rating(value) for value in (0.9, 0.6, 0.4)]
        ['good', 'acceptable', 'poor']
        """
        size = max(value, 1 / max(value, 1e-6)) if self.ratio else value
        if not math.isfinite(size):
            return "poor"
        return RATINGS[int(size > self.good) + int(size > self.acceptable)]


LIMITS = {
    "open_edge": Limit("Edge without bone", "%", 4.0, 15.0),
    "bone_overlap": Limit("Overlap with bone of the input", "%", 1.0, 5.0),
    "image_end": Limit("Surface at the end of the image", "%", 0.0, 1.0),
    "thickness": Limit("Thickness relative to the bone around it", "", 1.35, 1.8, 2, ratio=True),
    "rim_step": Limit("Step at the rim", "mm", 1.5, 2.5, 2),
    "bulge": Limit("Bulge or dent beyond the usual", "mm", 1.15, 4.2, 2),
    "missing_bone": Limit("Missing bone that remains", "ml", 0.0, 1.5, 2),
    "voxel_size": Limit("Largest side of a voxel", "mm", 1.99, 5.0, 2),
    "symmetry": Limit("Distance to the mirrored skull", "mm", 2.5, 5.0, 2),
}
"""The checks by their names in report.json, in the order of the report."""

SLICE_ERROR_MM: dict[float, float] = {2.5: 0.7, 5.0: 0.7}
"""Mean error of the outer surface in mm by slice thickness in mm: two holes in each of three skulls,
`Testing/benchmark/slice_errors.py`. At slices of 1 mm it is 0.65 mm.
"""
