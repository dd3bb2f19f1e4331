"""Options of the registration, without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WarpOptions:
    """How the warp is fitted.

    spacing_mm: distance between control points; steps: Adam steps; stiffness: weight of bending; symmetry: that of
    asymmetry, relative to it, a turn or a shift of the whole left out; cut_mm: the robust distance beyond which bone
    stops pulling; count: surface points used.
    """

    spacing_mm: float = 40.0
    steps: int = 100
    stiffness: float = 0.03
    symmetry: float = 3.0
    cut_mm: float = 6.0
    count: int = 15000


REFUSE_BELOW = 0.15


WARN_BELOW = 0.8
"""Scores at which an input is refused, and at which the user is warned. Measured, see Docs/robustness.md."""
