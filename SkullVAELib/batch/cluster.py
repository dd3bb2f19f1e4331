"""Many cases at once on Dask workers: of this machine, or of a scheduler that runs already.

A worker only starts each case's own process and waits for it, so that a worker is small and lives on. Where one is
killed nevertheless, Dask gives its case to another.
"""

from __future__ import annotations

import logging
import signal
import uuid
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from SkullVAELib import __version__
from SkullVAELib.batch.case_process import CaseJob, complete_case, end_cases
from SkullVAELib.batch.summary import STATUS_CRASHED, CaseRow
from SkullVAELib.core.errors import SkullVAEError

if TYPE_CHECKING:
    from distributed import Client, Future

# A case of 512 x 512 x 512 voxels peaks at 2 GiB.
_BYTES_A_CASE = 2.5 * 2**30

# A case that takes its worker with it so often is not given to a further one.
_ATTEMPTS = 3

_CONNECT_SECONDS = 20
_LOOK_AGAIN_SECONDS = 5

_DASK = {
    # Nothing but Dask's own protocol is to be had at its ports.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # A worker waits for a process: there is nothing to look at a hundred times a second.
    "distributed.worker.profile.enabled": False,
}


@dataclass(frozen=True)
class WorkerPool:
    """Workers to complete cases.

    client: Dask's; threads: of torch for each case, None for what the workers' environment says; machine_cores: how
    many the workers share, None where they are on other machines.
    """

    client: Client
    threads: int | None = None
    machine_cores: int | None = None

    @property
    def places(self) -> int:
        """How many cases can run at once; 0 while there is no worker."""
        return sum(self.client.nthreads().values())

    @property
    def cores(self) -> int:
        """How many cores the cases that run at once keep busy, as far as is known."""
        return min(max(1, self.places) * (self.threads or 1), self.machine_cores or 2**31)


def require_dask() -> None:
    """Raise SkullVAEError where Dask is not installed."""
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        cause = f"Many skulls need the Python package 'distributed' (Dask), and '{error.name}' is missing"
        raise SkullVAEError(cause, "Install it: pip install distributed") from error


def new_run() -> str:
    """A name for a run of the command, unlike any other's."""
    return uuid.uuid4().hex


@contextmanager
def local_pool(workers: int | None, cases: int) -> Iterator[WorkerPool]:
    """Workers on this machine, one case each at a time, that listen to this machine alone; ended with the body.

    workers: how many; None for one a core, but no more than memory and the number of cases suggest.
    """
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster
    from distributed.system import MEMORY_LIMIT

    if workers is None:
        workers = max(1, min(CPU_COUNT, int(MEMORY_LIMIT // _BYTES_A_CASE), cases))
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_DASK))
        with _block_terminal_signals():
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address=None,
                    # Dask serves HTTP beside the dashboard, at port 8787 unless told.
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0", "allowed_failures": _ATTEMPTS - 1},
                    # The memory is that of the cases' processes, which Dask does not watch.
                    memory_limit=None,
                    silence_logs=logging.CRITICAL,
                )
            )
            client = stack.enter_context(Client(cluster))
        yield WorkerPool(client, max(1, CPU_COUNT // workers), CPU_COUNT)


@contextmanager
def scheduler_pool(address: str) -> Iterator[WorkerPool]:
    """The workers of the Dask scheduler at an address, such as tcp://HOST:8786.

    Raises SkullVAEError where none answers, or where a worker has no SkullVAE or another version of it.
    """
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:  # asyncio's TimeoutError is an OSError, too
        cause = f"No Dask scheduler answers at '{address}'"
        raise SkullVAEError(
            cause, "Start one with `dask scheduler`, and write its address as tcp://HOST:8786"
        ) from error
    with client:
        for worker, version in client.run(_version, on_error="return").items():
            if version != __version__:
                cause = f"The worker {worker} has SkullVAE {version}, this is {__version__}"
                if isinstance(version, Exception):
                    cause = f"The worker {worker} cannot use SkullVAE ({version})"
                raise SkullVAEError(cause, f"Install SkullVAE {__version__} on every worker")
        yield WorkerPool(client)


def _version() -> str:
    return __version__


def complete_cases(crew: WorkerPool, jobs: Iterable[CaseJob], run: str) -> Generator[CaseRow, None, None]:
    """The row of each job, as each ends. Closing the iterator ends the cases that run.

    run: what the jobs are said to belong to. Raises SkullVAEError when the scheduler is gone.
    """
    from distributed import wait
    from distributed.client import FuturesCancelledError

    waiting = list(enumerate(jobs))[::-1]
    running: dict[Future, CaseJob] = {}
    try:
        while waiting or running:
            try:
                # Never more cases at a worker than it runs: Dask blames all that were there for its death.
                while waiting and len(running) < max(1, crew.places):
                    number, job = waiting.pop()
                    running[crew.client.submit(complete_case, job, key=f"skullvae-{run}-{number}", pure=False)] = job
                with suppress(TimeoutError):  # there may be more workers by then
                    wait(list(running), timeout=_LOOK_AGAIN_SECONDS, return_when="FIRST_COMPLETED")
            except (OSError, FuturesCancelledError) as error:
                remedy = "Start it, and run this again: what is finished stays"
                raise SkullVAEError("The connection to the Dask scheduler is lost", remedy) from error
            for future in [future for future in running if future.done()]:
                yield _row(future, running.pop(future))
    finally:
        if running:
            with suppress(Exception):
                crew.client.cancel(list(running))
                crew.client.run(end_cases, run, on_error="ignore")


def _row(future: Future, job: CaseJob) -> CaseRow:
    from distributed import KilledWorker

    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker):
        sentence = "Each of the workers that had it was killed. Run it by itself, or give the workers more memory."
    else:
        sentence = f"Its worker failed: {type(error).__name__}: {error}"
    return CaseRow(job.name, STATUS_CRASHED, " ".join(sentence.split()))


@contextmanager
def _block_terminal_signals() -> Iterator[None]:
    """What is started in the body does not hear Ctrl-C or the terminal closing, and neither does what that starts; we
    hear it after the body, and end them in order.

    A blocked signal stays blocked in new threads and processes. Python unblocks when it first starts its resource
    tracker, so that is done before.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
