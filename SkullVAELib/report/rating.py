"""How good a rim gap is: the traffic light of the report and of Slicer's panel."""

from __future__ import annotations

import math

GOOD_MM, USABLE_MM = 1.0, 2.0
"""A rim gap up to the first is good, up to the second usable."""


def rate_rim_gap(rim_gap_mm: float | None) -> tuple[str, str]:
    """The traffic light of a rim gap: its class and what it says.

    >>> [rim_light(gap)[0] for gap in (1.0, 2.0, 2.1, None)]
    ['good', 'usable', 'poor', 'unknown']
    """
    if rim_gap_mm is None or not math.isfinite(rim_gap_mm):
        return "unknown", "not measured"
    if rim_gap_mm <= GOOD_MM:
        return "good", "good"
    return ("usable", "usable, look at the rim") if rim_gap_mm <= USABLE_MM else ("poor", "poor, do not rely on it")
