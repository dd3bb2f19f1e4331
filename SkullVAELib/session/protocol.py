"""Requests of a parent process: JSON objects, one per line, read in a thread."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.parent_process import end_when_orphaned

REQUEST_KINDS = ("gamma", "proposal", "defects", "edited", "points", "implant", "tooling", "skull", "report")
"""Kinds of requests: another gamma, proposal, selection of defects, edited implant, points on the outer surface or
printable implant; additional printed parts; the file skull.stl or report.html."""

SHAPE_KINDS = ("gamma", "proposal", "defects", "edited", "points")
"""Kinds of requests that change the implant's voxels."""

# Names of version 0.1, which are still accepted.
_FORMER_KINDS = {"part": "implant", "host": "skull"}

_REMEDY = (
    f'Send one JSON object per line, for example {{"request": 7, "gamma": 0.5}}, with one of {", ".join(REQUEST_KINDS)}'
)

# A request has some hundred bytes. A line that exceeds this length is parsed as it is, so that memory stays bounded.
_LONGEST_LINE = 1 << 16

# Interval of the checks whether the parent process still runs, and for signals on systems where these do not interrupt
# waiting.
_CHECK_SECONDS = 0.5


@dataclass(frozen=True)
class DefectSelection:
    """Which holes are to be filled: exactly the numbered candidates, and the holes nearest to the points.

    Attributes
    ----------
    filled : tuple of int
        Numbers of candidates in the report, ascending, each once.
    at : tuple of (float, float, float)
        Points, patient RAS mm.
    """

    filled: tuple[int, ...] = ()
    at: tuple[tuple[float, float, float], ...] = ()

    @classmethod
    def parse(cls, value: object) -> DefectSelection | None:
        """Return the selection in the value of a request, None if it is invalid.

        >>> DefectSelection.parse({"filled": [3, 1]})
        DefectSelection(filled=(1, 3), at=())
        >>> DefectSelection.parse({"at": [[1, 2]]}) is None
        True
        """
        if not isinstance(value, dict) or not value or not set(value) <= {"filled", "at"}:
            return None
        filled, at = value.get("filled", []), value.get("at", [])
        if not isinstance(filled, list) or not all(_is_whole(number) and number >= 1 for number in filled):
            return None
        if _points(at) is None:
            return None
        return cls(tuple(sorted(set(filled))), _points(at) or ())


@dataclass(frozen=True)
class Request:
    """A request.

    Attributes
    ----------
    number : int or None
        Number that the parent process has chosen; None for a line without a valid number.
    kind : str
        One of `REQUEST_KINDS`; empty for an invalid request.
    value : object
        Value of the request: number for "gamma" and "proposal", `DefectSelection` for "defects", path for "edited",
        tuple of points (RAS mm) for "points", dict for "implant" and "tooling", True for "skull" and "report".
    error : SkullVAEError or None
        Why the request is invalid.
    superseded : bool
        Whether a newer request of the same kind arrived before this one was processed.
    """

    number: int | None
    kind: str = ""
    value: Any = None
    error: SkullVAEError | None = None
    superseded: bool = False

    @classmethod
    def parse(cls, line: bytes | str) -> Request:
        """Return the request in a line; an invalid line gives a request with an `error`.

        Parameters
        ----------
        line : bytes or str
            A JSON object with "request", a number that is not negative, and one of `REQUEST_KINDS`.

        Returns
        -------
        Request
            The request.

        Examples
        --------
        >>> Request.parse('{"request": 7, "gamma": 0.5}').value
        0.5
        """
        try:
            message = json.loads(line, parse_int=_whole)
        except (ValueError, RecursionError):
            return cls(None, error=SkullVAEError("The request is not valid JSON", _REMEDY))
        if not isinstance(message, dict):
            return cls(None, error=SkullVAEError("The request is not a JSON object", _REMEDY))
        number = message.pop("request", None)
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            return cls(None, error=SkullVAEError('The request has no valid number "request"', _REMEDY))
        kinds = [_FORMER_KINDS.get(str(name), str(name)) for name in message]
        if len(kinds) != 1 or kinds[0] not in REQUEST_KINDS:
            named = ", ".join(map(str, message)) or "nothing"
            cause = f"The request must contain one kind of request and contains {named[:100]}"
            return cls(number, error=SkullVAEError(cause, _REMEDY))
        (kind,), (value,) = kinds, message.values()
        if kind == "defects":
            value = DefectSelection.parse(value)
        elif kind == "points":
            value = _points(value)
        valid = {
            "gamma": _is_number(value),
            "proposal": _is_whole(value),
            "defects": value is not None,
            "edited": isinstance(value, str) and bool(value),
            "points": value is not None,
            "implant": isinstance(value, dict),
            "tooling": isinstance(value, dict),
            "skull": value is True,
            "report": value is True,
        }
        if not valid[kind]:
            return cls(number, error=SkullVAEError(f"The value of '{kind}' in the request has the wrong type", _REMEDY))
        return cls(number, kind, value)


def _whole(digits: str) -> int | float:
    """A whole number; infinite where it exceeds what a float can hold, which no value may."""
    return int(digits) if len(digits) < 300 else float(digits)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _points(value: object) -> tuple[tuple[float, float, float], ...] | None:
    """Points in RAS mm; None if the value is not a list of points."""
    if not isinstance(value, list) or not all(_is_point(point) for point in value):
        return None
    return tuple((float(right), float(anterior), float(superior)) for right, anterior, superior in value)


def _is_point(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


class Requests:
    """Queue of the requests on a file descriptor, which a thread reads until it is closed.

    When a request arrives, queued requests of the same kind are marked as superseded.

    Parameters
    ----------
    descriptor : int
        File descriptor to read.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._waiting: deque[Request] = deque()
        self._closed = False
        self._changed = threading.Condition()
        # The descriptor is read instead of sys.stdin: Python would hang at exit on a buffered stream that a thread
        # still reads.
        threading.Thread(target=self._read, name="requests", daemon=True).start()

    @classmethod
    @contextmanager
    def from_stdin(cls) -> Iterator[Requests]:
        """Context manager: the requests on stdin. If the parent process ends, this process ends as by SIGTERM.

        Yields
        ------
        Requests
            The requests.

        Raises
        ------
        SkullVAEError
            This process has no stdin.
        """
        try:
            descriptor = sys.stdin.fileno()
        except (AttributeError, OSError, ValueError):
            raise SkullVAEError("Requests cannot be read: there is no stdin", "Run without --interactive") from None
        over = threading.Event()
        threading.Thread(
            target=end_when_orphaned, args=(os.getppid(), over, _CHECK_SECONDS), name="parent", daemon=True
        ).start()
        try:
            yield cls(descriptor)
        finally:
            over.set()

    def take(self) -> Request | None:
        """Wait for the next request and remove it from the queue; None at the end of the requests."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait(_CHECK_SECONDS)
            return self._waiting.popleft() if self._waiting else None

    def waits(self, *kinds: str) -> bool:
        """Whether a request of one of these kinds is queued and not superseded."""
        with self._changed:
            return any(request.kind in kinds and not request.superseded for request in self._waiting)

    def _read(self) -> None:
        rest = b""
        while True:
            try:
                block = os.read(self._descriptor, 1 << 16)
            except OSError:
                block = b""
            *lines, rest = (rest + block).split(b"\n")
            if not block or len(rest) > _LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                if line.strip():
                    self._add(Request.parse(line))
            if not block:
                with self._changed:
                    self._closed = True
                    self._changed.notify()
                return

    def _add(self, request: Request) -> None:
        with self._changed:
            if request.error is None:
                for at, other in enumerate(self._waiting):
                    if other.kind == request.kind:
                        self._waiting[at] = replace(other, superseded=True)
            self._waiting.append(request)
            self._changed.notify()
