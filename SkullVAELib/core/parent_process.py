"""Processes that end with the one that started them, however that one has ended."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

ENDS_WITH_PARENT = "SKULLVAE_ENDS_WITH_PARENT"
"""Environment variable: a command line that finds it set ends when its stdin closes."""

GRACE_SECONDS = 10.0
"""A process that is asked to end removes its unfinished files first, but may be deep in a library."""


def end_with_parent_if_asked() -> None:
    """End this process when its stdin, a pipe from the parent process, closes; only where the parent asks for it."""
    # Not inherited: a process started from here has another stdin.
    if os.environ.pop(ENDS_WITH_PARENT, "") == "1":
        threading.Thread(target=_watch_stdin, name="parent", daemon=True).start()


def _watch_stdin() -> None:
    # The descriptor itself: Python cannot shut down while a thread holds the lock of sys.stdin.
    with suppress(OSError):
        while os.read(0, 1024):
            pass
    os.kill(os.getpid(), signal.SIGTERM)  # the command line removes its unfinished files
    time.sleep(GRACE_SECONDS)
    os._exit(128 + signal.SIGTERM)


def read_line(descriptor: int) -> bytes:
    """The next line of a pipe, without anything beyond it, which another reader may expect; empty at its end."""
    line = b""
    while not line.endswith(b"\n"):
        read = os.read(descriptor, 1)
        if not read:
            return b""
        line += read
    return line


def end_when_orphaned(parent: int, over: threading.Event, every_seconds: float) -> None:
    """End this process when another than `parent` becomes its parent, as happens when that one vanishes.

    Looks every few seconds until `over` is set; to be run in a thread.
    """
    while not over.wait(every_seconds):
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return
