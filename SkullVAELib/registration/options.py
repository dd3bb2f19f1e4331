"""Options of the registration; importing them does not import torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WarpOptions:
    """How the warp is fitted.

    Parameters
    ----------
    spacing_mm : float
        Distance between control points, mm.
    steps : int
        Number of Adam steps.
    stiffness : float
        Weight of the bending energy.
    symmetry : float
        Weight of asymmetric displacement relative to `stiffness`; a lateral shift, a roll and a yaw of the whole head
        are not penalised.
    cut_mm : float
        Scale of the robust loss in mm: bone farther from the shape than this has little influence.
    count : int
        Number of surface points used.
    """

    spacing_mm: float = 40.0
    steps: int = 100
    stiffness: float = 0.03
    symmetry: float = 3.0
    cut_mm: float = 6.0
    count: int = 15000


REFUSE_BELOW = 0.15
"""Plausibility score (0 to 1) below which an input is rejected. Measured, see Docs/explanation/robustness.md."""

WARN_BELOW = 0.8
"""Plausibility score (0 to 1) below which the user is warned. Measured, see Docs/explanation/robustness.md."""
