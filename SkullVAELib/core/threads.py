"""Threads and buffers of the numerical libraries.

The last bits of a sum depend on how it is divided between threads, and so do those of a vectorised loop. Registration
and warp are optimisers of many small steps, which amplify such differences. A completion is therefore computed with one
thread: the same input, model and version give the same bits on any number of cores. Its steps are too small to gain
from more threads. What computes each point independently, such as interpolation, works on parts beside each other, see
`background.side_by_side`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread, as a context manager or as the decorator @one_thread()."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# More than both libraries allocate together.
_BUFFERS_BYTES = 2**28


def claim_buffers() -> None:
    """Let OpenBLAS allocate its buffers, which it keeps; raises MemoryError if there is no memory for them.

    Otherwise it allocates them at the first call of a routine and, without memory, retries forever and ignores signals.
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
