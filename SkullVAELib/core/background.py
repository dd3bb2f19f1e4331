"""Work in a thread beside other work, such as imports while a file is read.

What is computed beside something else must not depend on it. Torch in a thread uses as many threads as were set last,
within `one_thread` one; work whose bits depend on their number is not done beside other work.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar, cast

_WAIT_SECONDS = 0.2

# More threads gain little, since other work goes on beside these.
_MOST_THREADS = 4

_S = TypeVar("_S")
_T = TypeVar("_T")


def cores() -> int:
    """Cores that the process may use; one where it is limited to one thread, as in `skullvae batch`."""
    if os.environ.get("OMP_NUM_THREADS") == "1":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_spare_core() -> bool:
    """Whether a thread may run beside another: with one core it costs time."""
    return cores() > 1


class Background(Generic[_T]):
    """A function that runs in a thread; leaving the context before it has started cancels it.

    Without a spare core, and without a delay, it is done when it is needed.

    Parameters
    ----------
    work : callable
        Called once, without arguments.
    delay_s : float
        Time until it starts, seconds.
    waits : bool
        Whether leaving the context waits for the end of a function that has started: for one that writes into a folder
        which is removed then.
    """

    def __init__(self, work: Callable[[], _T], delay_s: float = 0.0, waits: bool = False) -> None:
        self._work, self._delay_s, self._waits = work, delay_s, waits
        self._stop_waiting = threading.Event()
        self._doing = threading.Lock()
        self._started = False
        self._result: _T | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Background[_T]:
        if not self._delay_s and not has_spare_core():
            return self
        thread = threading.Thread(target=self._run, name="background")
        try:
            thread.start()
        except RuntimeError:  # no memory or no permission for another thread
            return self
        self._thread = thread
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_waiting.set()
        if self._waits and self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        if not self._stop_waiting.wait(self._delay_s):
            self._do()

    def _do(self) -> None:
        """Do the work, once; a thread that comes second waits for its end."""
        with self._doing:
            if self._started:
                return
            self._started = True
            try:
                self._result = self._work()
            except BaseException as error:
                self._error = error

    def finish(self, on_wait: Callable[[], None] | None = None) -> _T:
        """Wait until the work is done, or do it now if it has not started; returns its result, raises what it raised.

        Parameters
        ----------
        on_wait : callable, optional
            Called several times a second while the work goes on.
        """
        self._stop_waiting.set()
        if self._thread is not None:
            while on_wait is not None and self._thread.is_alive():
                self._thread.join(_WAIT_SECONDS)
                on_wait()
            self._thread.join()
        self._do()
        if self._error is not None:
            raise self._error
        return cast(_T, self._result)


def both(first: Callable[[], _S], second: Callable[[], _T]) -> tuple[_S, _T]:
    """The results of two functions, of which the first runs in a thread beside the second.

    >>> both(lambda: 1, lambda: "b")
    (1, 'b')
    """
    with Background(first, waits=True) as beside:
        result = second()
        return beside.finish(), result


def side_by_side(work: Callable[[_S], _T], parts: Iterable[_S]) -> list[_T]:
    """The results of a function for each of several parts, of which up to four are worked on at the same time.

    >>> side_by_side(abs, [-1, 2, -3])
    [1, 2, 3]
    """
    parts = list(parts)
    threads = min(len(parts), cores(), _MOST_THREADS)
    if threads < 2:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(threads) as pool:
        try:
            results = [pool.submit(work, part) for part in parts]
        except RuntimeError:  # no memory or no permission for another thread
            pool.shutdown(cancel_futures=True)
            return [work(part) for part in parts]
        return [result.result() for result in results]
