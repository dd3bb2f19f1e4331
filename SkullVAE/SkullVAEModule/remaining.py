"""How long something will still take, told from how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable

# Before this the guess would jump about.
_LEAST_SECONDS = 2.0
_LEAST_FRACTION = 0.05


class RemainingTime:
    """Guesses the seconds left from the fraction done and the time it took. clock: seconds, for tests.

    What happens before the fraction first moves, such as the loading of libraries, is no measure of the rest.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._begin: tuple[float, float] | None = None
        self._fraction = 0.0
        self._end: float | None = None

    def update(self, fraction: float) -> None:
        """Take in the present fraction, 0 to 1. Between two changes of it the time left runs down."""
        if fraction == self._fraction:
            return
        self._fraction = fraction
        now = self._clock()
        if self._begin is None:
            self._begin = now, fraction
        elapsed, done = now - self._begin[0], fraction - self._begin[1]
        if elapsed >= _LEAST_SECONDS and done >= _LEAST_FRACTION:
            self._end = now + elapsed * (1 - fraction) / done

    @property
    def seconds(self) -> float | None:
        """Seconds left, at least 0; None until they can be told."""
        return None if self._end is None else max(0.0, self._end - self._clock())
