"""The buffers of NumPy's and SciPy's linear algebra, claimed while it can still be told that memory lacks."""

from __future__ import annotations

import mmap

import numpy as np
from scipy import linalg

# More than both libraries ask for together.
_BUFFERS_BYTES = 2**28


def claim_buffers() -> None:
    """Let OpenBLAS take its buffers, which it keeps; raises MemoryError where there is no memory for them.

    It takes them at the first call of a routine, and where it cannot it tries again for ever, deaf to signals.
    """
    try:
        mmap.mmap(-1, _BUFFERS_BYTES).close()
    except OSError as error:
        raise MemoryError(str(error)) from error
    matrix = np.eye(64)
    linalg.cho_factor(matrix @ matrix)
