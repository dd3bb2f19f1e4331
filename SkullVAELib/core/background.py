"""Work in a thread beside other work, such as imports while a file is read."""

from __future__ import annotations

import threading
from collections.abc import Callable

_WAIT_SECONDS = 0.2


class Background:
    """A function that runs in a thread; leaving the context before it has started cancels it.

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

    def __init__(self, work: Callable[[], None], delay_s: float = 0.0, waits: bool = False) -> None:
        self._work, self._delay_s, self._waits = work, delay_s, waits
        self._stop_waiting = threading.Event()
        self._started = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Background:
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
        if self._stop_waiting.wait(self._delay_s):
            return
        self._started = True
        try:
            self._work()
        except BaseException as error:
            self._error = error

    def finish(self, on_wait: Callable[[], None] | None = None) -> None:
        """Wait until the work is done, or do it now if it has not started; raises what the work raised.

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
        if not self._started:
            self._started = True
            self._work()
        if self._error is not None:
            raise self._error
