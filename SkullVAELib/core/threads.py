"""Threads and buffers of the numerical libraries.

How many threads torch computes with is fixed, so that an answer does not depend on the machine's number of cores.

A sum's last bits depend on how threads share it out, and so do a vectorised loop's where a thread's share ends.
Registration and warp are optimisers of many small steps, which make much of such bits. So a completion is computed with
one thread: the same input, model and version give the same bits however many cores a processor has. Its steps are too
small to gain by more. Only sampling, which does gain, is given all threads back: it computes every point by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_held_back: ContextVar[int] = ContextVar("threads outside of one_thread", default=0)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread in the body, for a with statement or as @one_thread() of a function."""
    import torch

    before = torch.get_num_threads()
    token = _held_back.set(_held_back.get() or before)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _held_back.reset(token)


@contextmanager
def all_threads() -> Iterator[int]:
    """Give back, in the body, the threads that one_thread holds back; yields how many there are.

    For what computes each of its values by itself and without vectors, in whatever share.
    """
    import torch

    before = torch.get_num_threads()
    count = _held_back.get() or before
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


# More than both libraries ask for together.
_BUFFERS_BYTES = 2**28


def claim_buffers() -> None:
    """Let OpenBLAS take its buffers, which it keeps; raises MemoryError where there is no memory for them.

    It takes them at the first call of a routine, and where it cannot it tries again for ever, deaf to signals.
    """
    import mmap

    import numpy as np
    from scipy import linalg

    try:
        mmap.mmap(-1, _BUFFERS_BYTES).close()
    except OSError as error:
        raise MemoryError(str(error)) from error
    matrix = np.eye(64)
    linalg.cho_factor(matrix @ matrix)
