"""Progress of a run: a bar on a terminal, or one JSON object a line for a parent process."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, float], None]


def silent(stage: str, fraction: float) -> None:
    """Report nothing."""


def json_lines(stage: str, fraction: float) -> None:
    """One JSON object a line on stdout, flushed, for a parent process to read."""
    print(json.dumps({"stage": stage, "fraction": round(fraction, 4)}), flush=True)


def terminal_bar(stage: str, fraction: float) -> None:
    """A bar on stderr, redrawn in place; ends its line at fraction 1."""
    filled = round(30 * fraction)
    print(f"\r{'#' * filled}{'-' * (30 - filled)} {fraction:4.0%}  {stage:<28}", end="", file=sys.stderr, flush=True)
    if fraction >= 1:
        print(file=sys.stderr)


def duration(seconds: float) -> str:
    """A time span in words, rounded.

    >>> [duration(s) for s in (12, 150, 7380)]
    ['12 s', '2 min', '2 h 3 min']
    """
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Stages:
    """The stages of a run: reports the current stage and the fraction done, and records the seconds of each stage.

    Parameters
    ----------
    weights : dict
        Expected time of each stage, in order, relative to the others. A stage that is not named is timed only.
    report : callable
        Called with the stage's name and the fraction done, 0 to 1.
    """

    def __init__(self, weights: dict[str, float], report: Report = silent):
        total = sum(weights.values())
        self._share = {name: weight / total for name, weight in weights.items()}
        self._report = report
        self._done = 0.0
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body as stage `name` and report its start and end."""
        self._report(name, self._done)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)
        self._done = min(1.0, self._done + self._share.get(name, 0.0))

    def finish(self) -> None:
        """Report that everything is done."""
        self._report("done", 1.0)
