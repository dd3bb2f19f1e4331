"""Exceptions of slots and observers, which VTK and the binding of Qt print instead of raising."""

from __future__ import annotations

import sys
import traceback

_raised: list[BaseException] = []


def record(error: BaseException) -> None:
    """Print an exception that was not caught and store it for the test."""
    traceback.print_exception(error)
    _raised.append(error)


def errors() -> list[BaseException]:
    """The exceptions of slots and observers since the last call, for a test that expects one."""
    taken = list(_raised)
    _raised.clear()
    return taken


def recordUncaught() -> None:
    """Also record the exceptions that VTK and the binding of Qt would only print."""

    def hook(kind, error, trace):
        record(error)

    sys.excepthook = hook
