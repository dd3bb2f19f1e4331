"""Colour scales of lengths on an implant (thickness, uncertainty), the same in files, in the report and in Slicer."""

from __future__ import annotations

import numpy as np

THICKNESS_SCALE_MM = 10.0
"""Upper end of the colour scale of the thickness."""

UNCERTAINTY_SCALE_MM = 3.0
"""Upper end of the colour scale of the uncertainty."""

DIFFERENCE_SCALE_MM = 4.0
"""Ends of the colour scale of the difference to the mirrored side, which is symmetric about 0."""

# Five colours of viridis, whose lightness increases: readable in grey and by colour-blind readers.
_COLOURS = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], float)


def length_colours(thickness_mm: np.ndarray, most_mm: float = THICKNESS_SCALE_MM) -> np.ndarray:
    """RGB (N, 3), whole numbers 0..255, of lengths (N,) in mm, from violet at 0 to yellow at `most_mm` and above."""
    shade = np.clip(np.asarray(thickness_mm) / most_mm, 0, 1) * (len(_COLOURS) - 1)
    return np.stack([np.round(np.interp(shade, np.arange(len(_COLOURS)), channel)) for channel in _COLOURS.T], 1)


# Blue, white, orange: distinguishable by colour-blind readers, and symmetric in lightness.
_DIVERGING = np.array([[33, 102, 172], [146, 197, 222], [247, 247, 247], [253, 184, 99], [179, 88, 6]], float)


# Of points without a value.
_UNKNOWN = np.array([150.0, 150.0, 150.0])


def difference_colours(difference_mm: np.ndarray, most_mm: float = DIFFERENCE_SCALE_MM) -> np.ndarray:
    """RGB (N, 3), whole numbers 0..255, of signed lengths (N,) in mm: blue below 0, white at 0, orange above 0; grey
    where it is nan."""
    known = np.isfinite(difference_mm)
    shade = np.clip(np.where(known, difference_mm, 0.0) / most_mm, -1, 1) * 2 + 2
    rgb = np.stack([np.round(np.interp(shade, np.arange(len(_DIVERGING)), channel)) for channel in _DIVERGING.T], 1)
    return np.where(known[:, None], rgb, _UNKNOWN)
