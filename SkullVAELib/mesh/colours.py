"""The colours of millimetres on a part, its thickness or its uncertainty, in files, in the report and in Slicer."""

from __future__ import annotations

import numpy as np

THICKNESS_SCALE_MM = 10.0
"""From here on the colours of the thickness stay the same."""

UNCERTAINTY_SCALE_MM = 3.0
"""From here on the colours of the uncertainty stay the same."""

# Viridis, five of its colours: it rises in lightness, so that it is read alike in grey and by colour-blind readers.
_COLOURS = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], float)


def length_colours(thickness_mm: np.ndarray, most_mm: float = THICKNESS_SCALE_MM) -> np.ndarray:
    """(N, 3) RGB, whole numbers 0..255, of lengths (N,) in mm, from violet at 0 to yellow at most_mm and more."""
    shade = np.clip(np.asarray(thickness_mm) / most_mm, 0, 1) * (len(_COLOURS) - 1)
    return np.stack([np.round(np.interp(shade, np.arange(len(_COLOURS)), channel)) for channel in _COLOURS.T], 1)
