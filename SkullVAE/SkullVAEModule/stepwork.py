"""Work in steps, each in a thread or in a child process, that the panel polls."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from .background import BackgroundStep
from .childprocess import ChildProcess


class StepWork:
    """Work that poll() advances until running is False.

    A subclass sets _work in start(): a generator that yields each step to wait for, or None to continue at the next
    poll.
    """

    def __init__(self) -> None:
        self._work: Iterator | None = None
        self._current: BackgroundStep | ChildProcess | None = None
        self._temporary: tempfile.TemporaryDirectory | None = None
        self._error: Exception | None = None

    @property
    def running(self) -> bool:
        """Whether the work is in progress."""
        return self._work is not None

    def poll(self) -> list[str]:
        """Advance; returns the new log lines. result() raises the error of work that failed."""
        lines: list[str] = []
        if self._work is None:
            return lines
        try:
            if isinstance(self._current, ChildProcess):
                lines = self._current.poll()
                if self._current.running:
                    return lines
            elif self._current is not None and not self._current.poll():
                return lines
            self._current = next(self._work)
        except StopIteration:
            self._finish()
        except Exception as error:
            self._error = error
            self._finish()
        return lines

    def _makeTemporary(self) -> str:
        """A folder that is removed at the end."""
        self._temporary = tempfile.TemporaryDirectory(prefix="SkullVAE-", ignore_cleanup_errors=True)
        return self._temporary.name

    def _finish(self) -> None:
        """End what is running and remove the temporary folder."""
        self._work = None
        current, self._current = self._current, None
        if isinstance(current, ChildProcess):
            current.cancel()
        elif current is not None:
            while not current.poll():
                pass
        self._temporary.cleanup()
