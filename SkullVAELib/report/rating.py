"""Ratings that are the same on the command line, in the HTML report and in Slicer's panel.

Of the rim gap, of candidate defects, and of an implant as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from SkullVAELib.checks.limits import RATINGS

GOOD_MM = 1.0
"""A rim gap up to this is rated good."""

ACCEPTABLE_MM = 2.0
"""A rim gap above `GOOD_MM` and up to this is rated acceptable; a larger one is rated poor."""

DOUBTFUL_FROM, DOUBTFUL_TO = 0.1, 0.9
"""A candidate defect from the first probability on and below the second is doubtful, as in the warnings of a run."""


def is_doubtful(probability: float) -> bool:
    """Whether a candidate defect is doubtful: the user should inspect it, filled or not.

    Parameters
    ----------
    probability : float
        Calibrated probability that the candidate is a defect, 0 to 1.

    Returns
    -------
    bool

    Examples
    --------
    >>> [is_doubtful(probability) for probability in (0.02, 0.1, 0.6, 0.9, 0.99)]
    [False, True, True, False, False]
    """
    return DOUBTFUL_FROM <= probability < DOUBTFUL_TO


def rate_rim_gap(rim_gap_mm: float | None) -> tuple[str, str]:
    """Rate a rim gap.

    Parameters
    ----------
    rim_gap_mm : float or None
        95th percentile, in mm, of the distance between the completed shape and the bone within 5 mm of the defect.

    Returns
    -------
    rating : {"good", "acceptable", "poor", "unknown"}
        The rating; "unknown" for None and for values that are not finite. Also the CSS class in the HTML report.
    text : str
        The rating in words, with the action it asks for.

    Examples
    --------
    >>> [rate_rim_gap(gap)[0] for gap in (1.0, 2.0, 2.1, None)]
    ['good', 'acceptable', 'poor', 'unknown']
    >>> rate_rim_gap(3.0)[1]
    'poor: check the rim before use'
    """
    if rim_gap_mm is None or not math.isfinite(rim_gap_mm):
        return "unknown", "not measured"
    if rim_gap_mm <= GOOD_MM:
        return "good", "good"
    if rim_gap_mm <= ACCEPTABLE_MM:
        return "acceptable", "acceptable: inspect the rim"
    return "poor", "poor: check the rim before use"


@dataclass(frozen=True)
class Ratings:
    """The ratings of all figures of a report that are rated.

    Attributes
    ----------
    rim_gap : str
        Rating of the rim gap, see `rate_rim_gap`; "unknown" where it was not measured.
    reference : str
        Rating of the match of the patient's earlier bone; empty without one.
    checks : tuple of str
        Ratings of the self-check, in its order.
    """

    rim_gap: str
    reference: str
    checks: tuple[str, ...]

    @classmethod
    def of(cls, report: Mapping) -> Ratings:
        """The ratings of a report.json."""
        checks = (report.get("checks") or {}).get("checks", ())
        return cls(
            rate_rim_gap((report.get("implant") or {}).get("rim_gap_mm"))[0],
            (report.get("reference") or {}).get("rating", ""),
            tuple(check["rating"] for check in checks),
        )

    @property
    def counts(self) -> dict[str, int]:
        """Number of figures by rating, the worst rating first; ratings that no figure has are left out."""
        every = [self.rim_gap, self.reference, *self.checks]
        return {rating: every.count(rating) for rating in reversed(RATINGS) if rating in every}

    @property
    def overall(self) -> str:
        """The worst rating of all; empty where there was no self-check."""
        return next(iter(self.counts), "") if self.checks else ""

    @property
    def text(self) -> str:
        """The numbers of figures in words.

        >>> Ratings("good", "", ("good", "acceptable", "poor", "good")).text
        '1 poor, 1 acceptable, 3 good'
        """
        return ", ".join(f"{count} {rating}" for rating, count in self.counts.items())
