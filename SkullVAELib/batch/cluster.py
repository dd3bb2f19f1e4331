"""Completes cases in parallel on Dask workers, on this machine or of an existing scheduler.

A worker only starts the process of each case and waits for it, so it stays small and survives a crash of the case.
Where a worker is killed nevertheless, Dask gives its case to another one.
"""

from __future__ import annotations

import logging
import signal
import uuid
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from SkullVAELib.batch.case_process import CaseJob, complete_case, end_cases
from SkullVAELib.batch.summary import STATUS_CRASHED, CaseRow
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.version import __version__

if TYPE_CHECKING:
    from distributed import Client, Future

# The memory of a case of 512 x 512 x 512 voxels peaks at 2 GiB.
_BYTES_PER_CASE = 2.5 * 2**30

# After this many workers were killed with a case, it is not given to another one.
_ATTEMPTS = 3

_CONNECT_SECONDS = 20
_LOOK_AGAIN_SECONDS = 5

_DASK = {
    # The ports serve Dask's own protocol only.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # A worker waits for a process, so there is nothing to profile a hundred times per second.
    "distributed.worker.profile.enabled": False,
}


@dataclass(frozen=True)
class WorkerPool:
    """Workers that complete cases.

    Attributes
    ----------
    client : distributed.Client
        Connection to the scheduler.
    threads : int or None
        Threads of torch for each case; None for the setting of the workers' environment.
    machine_cores : int or None
        Cores that the workers share; None where they are on other machines.
    """

    client: Client
    threads: int | None = None
    machine_cores: int | None = None

    @property
    def places(self) -> int:
        """Number of cases that can run at once; 0 while there is no worker."""
        return sum(self.client.nthreads().values())

    @property
    def cores(self) -> int:
        """Number of cores that the cases running at once use, as far as is known."""
        return min(max(1, self.places) * (self.threads or 1), self.machine_cores or 2**31)


def require_dask() -> None:
    """Raise SkullVAEError where Dask is not installed."""
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        cause = f"A batch needs the Python package 'distributed' (Dask), but '{error.name}' is missing"
        raise SkullVAEError(cause, "Install it: pip install distributed") from error


def new_run() -> str:
    """Return a unique identifier for a run of the command."""
    return uuid.uuid4().hex


@contextmanager
def local_pool(workers: int | None, cases: int) -> Iterator[WorkerPool]:
    """Start workers on this machine for the body of a with statement; their ports accept only local connections.

    Parameters
    ----------
    workers : int or None
        Number of workers, each of which runs one case at a time; None for one per core, but no more than memory and the
        number of cases allow.
    cases : int
        Number of cases.

    Yields
    ------
    WorkerPool
        The workers.
    """
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster
    from distributed.system import MEMORY_LIMIT

    if workers is None:
        workers = max(1, min(CPU_COUNT, int(MEMORY_LIMIT // _BYTES_PER_CASE), cases))
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
                    # Besides the dashboard Dask serves HTTP, by default at port 8787.
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0", "allowed_failures": _ATTEMPTS - 1},
                    # Memory is used by the processes of the cases, which Dask does not monitor.
                    memory_limit=None,
                    silence_logs=logging.CRITICAL,
                )
            )
            client = stack.enter_context(Client(cluster))
        yield WorkerPool(client, max(1, CPU_COUNT // workers), CPU_COUNT)


@contextmanager
def scheduler_pool(address: str) -> Iterator[WorkerPool]:
    """Connect to the workers of an existing Dask scheduler for the body of a with statement.

    Parameters
    ----------
    address : str
        Address of the scheduler, such as tcp://HOST:8786.

    Yields
    ------
    WorkerPool
        The workers.

    Raises
    ------
    SkullVAEError
        No scheduler answers, or a worker has no SkullVAE or another version of it.
    """
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:  # asyncio's TimeoutError is an OSError
        cause = f"No Dask scheduler answers at '{address}'"
        raise SkullVAEError(
            cause, "Start one with `dask scheduler`, and give its address as tcp://HOST:8786"
        ) from error
    with client:
        for worker, version in client.run(_version, on_error="return").items():
            if version != __version__:
                cause = f"The worker {worker} has SkullVAE {version}, but this machine has {__version__}"
                if isinstance(version, Exception):
                    cause = f"The worker {worker} cannot use SkullVAE ({version})"
                raise SkullVAEError(cause, f"Install SkullVAE {__version__} on every worker")
        yield WorkerPool(client)


def _version() -> str:
    return __version__


def complete_cases(pool: WorkerPool, jobs: Iterable[CaseJob], run: str) -> Generator[CaseRow, None, None]:
    """Complete cases on the workers of a pool. Closing the generator ends the cases that are running.

    Parameters
    ----------
    pool : WorkerPool
        The workers.
    jobs : iterable of CaseJob
        The cases.
    run : str
        Identifier of the run, as in the jobs.

    Yields
    ------
    CaseRow
        The result of each case, in the order of finishing.

    Raises
    ------
    SkullVAEError
        The connection to the scheduler is lost.
    """
    from distributed import wait
    from distributed.client import FuturesCancelledError

    waiting = list(enumerate(jobs))[::-1]
    running: dict[Future, CaseJob] = {}
    try:
        while waiting or running:
            try:
                # No more cases are submitted than can run: Dask holds every case at a worker responsible for its death.
                while waiting and len(running) < max(1, pool.places):
                    number, job = waiting.pop()
                    running[pool.client.submit(complete_case, job, key=f"skullvae-{run}-{number}", pure=False)] = job
                with suppress(TimeoutError):  # afterwards there may be more workers
                    wait(list(running), timeout=_LOOK_AGAIN_SECONDS, return_when="FIRST_COMPLETED")
            except (OSError, FuturesCancelledError) as error:
                remedy = "Start the scheduler and run the command again: finished cases are kept"
                raise SkullVAEError("The connection to the Dask scheduler is lost", remedy) from error
            for future in [future for future in running if future.done()]:
                yield _row(future, running.pop(future))
    finally:
        if running:
            with suppress(Exception):
                pool.client.cancel(list(running))
                pool.client.run(end_cases, run, on_error="ignore")


def _row(future: Future, job: CaseJob) -> CaseRow:
    from distributed import KilledWorker

    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker):
        sentence = "Every worker that ran the case was killed. Run it alone, or give the workers more memory."
    else:
        sentence = f"The worker failed: {type(error).__name__}: {error}"
    return CaseRow(job.name, STATUS_CRASHED, " ".join(sentence.split()))


@contextmanager
def _block_terminal_signals() -> Iterator[None]:
    """Processes started in the body, and their children, ignore Ctrl-C and the closing of the terminal.

    This process receives such signals after the body and then ends the others in order. A blocked signal stays blocked
    in new threads and processes. Python unblocks signals when it first starts its resource tracker, so that is done
    before.
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
