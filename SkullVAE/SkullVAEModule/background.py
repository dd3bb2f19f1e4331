"""Reads and writes files in a thread, so that the event loop is not blocked."""

from __future__ import annotations

import threading
from collections.abc import Callable

# How long poll() releases Python's global interpreter lock. Slicer's main thread holds it between timer events, so the
# thread runs Python code only while poll() waits; code in C++ that releases the lock runs at any time.
_WAIT_SECONDS = 0.01


class BackgroundStep:
    """Calls a function in a thread. The function must use neither the scene nor Qt, only files and arrays."""

    def __init__(self, function: Callable[[], object]):
        self._function = function
        self._value: object = None
        self._error: BaseException | None = None
        # A daemon thread, so that an application that quits does not wait for it.
        self._thread = threading.Thread(target=self._call, name="SkullVAE", daemon=True)
        self._thread.start()

    def poll(self) -> bool:
        """Let the thread run for a moment; whether it has finished."""
        self._thread.join(_WAIT_SECONDS)
        return not self._thread.is_alive()

    def result(self):
        """Wait for the end; returns what the function returned, or raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value

    def _call(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:
            self._error = error
        finally:
            # Releases what the function refers to, often the owner of this object.
            self._function = None
