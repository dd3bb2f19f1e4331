"""Options of the registration; importing them does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from SkullVAELib.core.errors import SkullVAEError

_FRAGMENT_LIMITS = {"keep": float("inf"), "ignore": -1.0}


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
    steps: int = 60
    stiffness: float = 0.03
    symmetry: float = 3.0
    cut_mm: float = 6.0
    count: int = 6000


REFUSE_BELOW = 0.15
"""Plausibility score (0 to 1) below which an input is rejected. Measured, see Docs/explanation/robustness.md."""

WARN_BELOW = 0.8
"""Plausibility score (0 to 1) below which the user is warned. Measured, see Docs/explanation/robustness.md."""


def fragment_limit_mm(fragments: str) -> float:
    """The distance to the rest of the skull up to which loose bone in the vault is kept.

    Parameters
    ----------
    fragments : str
        "keep": every piece is kept; "ignore": none is, and neither are bone flaps that touch the skull at few points
        or metal; "near:MM": pieces within MM millimetres are kept.

    Returns
    -------
    float
        mm; infinite for "keep" and -1 for "ignore".

    Raises
    ------
    SkullVAEError
        If the text is none of these.

    >>> fragment_limit_mm("near:2.5")
    2.5
    """
    if fragments in _FRAGMENT_LIMITS:
        return _FRAGMENT_LIMITS[fragments]
    name, _, number = fragments.partition(":")
    try:
        limit = float(number)
    except ValueError:
        limit = -1.0
    if name != "near" or not 0 <= limit < float("inf"):
        raise SkullVAEError(
            f"'{fragments}' is not a way to treat loose bone", "Use keep, ignore, or near:MM, such as near:3"
        )
    return limit
