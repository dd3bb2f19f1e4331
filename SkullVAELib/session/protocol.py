"""The requests of a parent process: JSON objects, one a line, read while other work goes on."""

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

REQUEST_KINDS = ("gamma", "proposal", "part", "host", "report")

_REMEDY = f'Send one JSON object a line, such as {{"request": 7, "gamma": 0.5}}; one of {", ".join(REQUEST_KINDS)}'

# A request is some hundred bytes; a line that does not end is no request.
_LONGEST_LINE = 1 << 16

# Between looks for a parent that has vanished, and for signals on systems whose waiting nothing interrupts.
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Request:
    """One request. number: the parent's own, None where the line tells none; kind: one of KINDS, value: what it says;
    error: why it is none; superseded: whether a newer one of its kind came before its turn."""

    number: int | None
    kind: str = ""
    value: Any = None
    error: SkullVAEError | None = None
    superseded: bool = False

    @classmethod
    def parse(cls, line: bytes | str) -> Request:
        """A request from a line; what is wrong with it is its `error`.

        >>> Request.parse('{"request": 7, "gamma": 0.5}').value
        0.5
        """
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            return cls(None, error=SkullVAEError("The request is not JSON", _REMEDY))
        if not isinstance(told, dict):
            return cls(None, error=SkullVAEError("The request is not a JSON object", _REMEDY))
        number = told.pop("request", None)
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            return cls(None, error=SkullVAEError('The request has no whole number "request"', _REMEDY))
        if len(told) != 1 or next(iter(told)) not in REQUEST_KINDS:
            named = ", ".join(map(str, told)) or "nothing"
            return cls(number, error=SkullVAEError(f"The request asks for {named[:100]}", _REMEDY))
        ((kind, value),) = told.items()
        right = {
            "gamma": _is_number(value),
            "proposal": isinstance(value, int) and not isinstance(value, bool),
            "part": isinstance(value, dict),
            "host": value is True,
            "report": value is True,
        }
        if not right[kind]:
            return cls(number, error=SkullVAEError(f"The request's {kind} has the wrong kind of value", _REMEDY))
        return cls(number, kind, value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class Requests:
    """The requests that come in on a file descriptor, until it closes; a thread of their own reads them.

    Of several that wait only the newest of each kind is worth its while: the others are marked as superseded.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._waiting: deque[Request] = deque()
        self._closed = False
        self._changed = threading.Condition()
        # The descriptor itself is read, not sys.stdin: at its end Python waits for ever for a buffered stream that a
        # thread still reads.
        threading.Thread(target=self._read, name="requests", daemon=True).start()

    @classmethod
    @contextmanager
    def from_stdin(cls) -> Iterator[Requests]:
        """The requests on stdin. While the body runs a parent process that vanishes ends this one, as SIGTERM does."""
        try:
            descriptor = sys.stdin.fileno()
        except (AttributeError, OSError, ValueError):
            raise SkullVAEError("There is no stdin to read requests from", "Leave out --interactive") from None
        over = threading.Event()
        threading.Thread(
            target=end_when_orphaned, args=(os.getppid(), over, _LOOK_SECONDS), name="parent", daemon=True
        ).start()
        try:
            yield cls(descriptor)
        finally:
            over.set()

    def take(self) -> Request | None:
        """The next request, in the order they came; waits for one. None when none will come."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait(_LOOK_SECONDS)
            return self._waiting.popleft() if self._waiting else None

    def waits(self, *kinds: str) -> bool:
        """Whether a request of one of these kinds waits."""
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
