"""Reading and writing beside the event loop: one function in a thread that the panel's timer lets run."""

from __future__ import annotations

import threading
from collections.abc import Callable

# How long poll() lets go of Python's lock. Slicer's main thread keeps it between timer events, so a thread gets on
# only while somebody waits for it; what it does in C++ goes on regardless.
_WAIT_SECONDS = 0.01


class BackgroundStep:
    """Calls a function in a thread. It must touch neither the scene nor Qt: only files and arrays."""

    def __init__(self, function: Callable[[], object]):
        self._function = function
        self._value: object = None
        self._error: BaseException | None = None
        # A daemon, so that an application that quits does not wait for it.
        self._thread = threading.Thread(target=self._call, name="SkullVAE", daemon=True)
        self._thread.start()

    def poll(self) -> bool:
        """Let the thread get on; whether it has finished."""
        self._thread.join(_WAIT_SECONDS)
        return not self._thread.is_alive()

    def result(self):
        """Wait for the end and return what the function returned, or raise what it raised."""
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
            # With what it holds, often its owner.
            self._function = None
