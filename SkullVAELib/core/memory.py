"""How the process keeps and returns memory.

By default glibc maps each large array anew and unmaps it when it is freed, so that the kernel clears the same pages
again and again. A completion allocates about 200 arrays of 10 to 100 MB one after the other.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # parameters of mallopt in glibc's malloc.h
_TOP_PAD_BYTES = 2**26


def keep_freed_memory() -> None:
    """Let the process keep freed memory for its next arrays, of all threads.

    Does nothing where the C library is not glibc.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_TOP_PAD, _TOP_PAD_BYTES)
        library.mallopt(_ARENA_MAX, 1)  # otherwise each thread keeps what it has freed for itself


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause the garbage collector for the first import of large libraries, and exempt what exists then from it.

    Libraries consist of hundreds of thousands of objects that last until the process ends; searching them for garbage
    takes a tenth of the time of their import.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def return_freed_memory() -> None:
    """Return freed memory to the system, before the process waits. Does nothing where the C library is not glibc."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
