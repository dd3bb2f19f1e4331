"""Estimates the remaining time of a run from its progress."""

from __future__ import annotations

import time
from collections.abc import Callable

# Before this time and progress the estimate is not stable.
_LEAST_SECONDS = 2.0
_LEAST_FRACTION = 0.05
# Weight of a new estimate: the parts of a run take somewhat more or less time than expected.
_WEIGHT = 0.25


class RemainingTime:
    """Estimates the remaining seconds from the fraction done and the elapsed time. clock: seconds, for tests.

    The time before the first change of the fraction, such as for loading libraries, is not used.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._begin: tuple[float, float] | None = None
        self._fraction = 0.0
        self._end: float | None = None

    def update(self, fraction: float) -> None:
        """Set the current fraction, 0 to 1. Between two changes the remaining time counts down."""
        if fraction == self._fraction:
            return
        self._fraction = fraction
        now = self._clock()
        if self._begin is None:
            self._begin = now, fraction
        elapsed, done = now - self._begin[0], fraction - self._begin[1]
        if elapsed >= _LEAST_SECONDS and done >= _LEAST_FRACTION:
            end = now + elapsed * (1 - fraction) / done
            self._end = end if self._end is None else self._end + _WEIGHT * (end - self._end)

    @property
    def seconds(self) -> float | None:
        """Remaining seconds, at least 0; None while there is no estimate."""
        return None if self._end is None else max(0.0, self._end - self._clock())
