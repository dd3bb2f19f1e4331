"""Progress of a run: a bar on a terminal, or one JSON object a line for a parent process."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

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


# Least change of the fraction done that is reported within a stage: a loop may report each of its thousand steps.
_LEAST_CHANGE = 0.002

_step: ContextVar[Callable[[float], None] | None] = ContextVar("the stage in progress", default=None)


def report_step(fraction: float) -> None:
    """Report that a fraction of the present stage, or of its present part, is done.

    For code deep inside of a stage. Does nothing outside of one, and in a thread that a stage has started.

    Parameters
    ----------
    fraction : float
        0 to 1. A value below an earlier one is not reported.
    """
    report = _step.get()
    if report is not None:
        report(fraction)


@contextmanager
def stage_part(begin: float, end: float) -> Iterator[None]:
    """Let the body be a part of the present stage: its steps from 0 to 1 are those from `begin` to `end` of the stage.

    Parameters
    ----------
    begin, end : float
        Fractions of the stage, or of the part that this one is in.
    """
    outer = _step.get()
    if outer is None:
        yield
        return
    outer(begin)
    token = _step.set(lambda fraction: outer(begin + (end - begin) * min(1.0, max(0.0, fraction))))
    try:
        yield
    finally:
        _step.reset(token)
    outer(end)


def with_steps_to(report: Callable[[float], None], function: Callable, *arguments: object) -> None:
    """Call a function whose steps go to `report` instead of the present stage: for a thread beside a stage.

    Parameters
    ----------
    report : callable
        Called with each fraction done, 0 to 1.
    function : callable
        Called with the arguments.
    """
    token = _step.set(report)
    try:
        function(*arguments)
    finally:
        _step.reset(token)


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
        """Time the body as stage `name` and report its start; the body reports its progress with `report_step`."""
        last = self._done
        self._report(name, last)

        def within(fraction: float) -> None:
            nonlocal last
            done = min(1.0, self._done + self._share.get(name, 0.0) * min(1.0, max(0.0, fraction)))
            if done >= last + _LEAST_CHANGE:
                last = done
                self._report(name, done)

        start = time.perf_counter()
        token = _step.set(within)
        try:
            yield
        finally:
            _step.reset(token)
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)
        self._done = min(1.0, self._done + self._share.get(name, 0.0))

    def finish(self) -> None:
        """Report that everything is done."""
        self._report("done", 1.0)
