"""A case in a process of its own, `python -m SkullVAELib complete`: a crash costs that case alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from SkullVAELib.batch.summary import STATUS_BAD_INPUT, STATUS_CRASHED, STATUS_DONE, STATUS_NO_DEFECT, CaseRow
from SkullVAELib.core import exit_codes
from SkullVAELib.core.parent_process import ENDS_WITH_PARENT, GRACE_SECONDS


@dataclass(frozen=True)
class CaseJob:
    """A case to complete.

    run: which run of the command it belongs to; name: the case's; path, output: input file and folder of results,
    absolute; arguments: options of `complete`; limit_seconds: it is ended after that; threads: of torch, None for what
    the environment says.
    """

    run: str
    name: str
    path: Path
    output: Path
    arguments: tuple[str, ...]
    limit_seconds: float
    threads: int | None = None


class _Running:
    """The case processes of this process, by run."""

    def __init__(self):
        self._lock = threading.Lock()
        self._children: dict[subprocess.Popen, str] = {}
        self._ended: set[str] = set()

    def start(self, job: CaseJob, said) -> subprocess.Popen | None:
        """The process of a case; None where its run has been ended."""
        with self._lock:
            if job.run in self._ended:
                return None
            child = _start(job, said)
            self._children[child] = job.run
            return child

    def gone(self, child: subprocess.Popen) -> None:
        with self._lock:
            del self._children[child]

    def end(self, run: str) -> None:
        """End a run's processes, and start none of its any more."""
        with self._lock:
            self._ended.add(run)
            children = [child for child, of in self._children.items() if of == run]
        enders = [threading.Thread(target=_end, args=(child,)) for child in children]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()


_running = _Running()


def end_cases(run: str) -> None:
    """End the processes of a run's cases in this process, which take no further ones of it."""
    _running.end(run)


def complete_case(job: CaseJob) -> CaseRow | None:
    """Complete a case in a process of its own; None where the run was ended meanwhile. Raises nothing of the case's."""
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        child = _running.start(job, said)
        if child is None:
            return None
        late = threading.Event()

        def end_late() -> None:
            late.set()
            _end(child)

        timer = threading.Timer(job.limit_seconds, end_late)
        timer.daemon = True
        timer.start()
        try:
            peak_mib = _wait(child)
        finally:
            timer.cancel()
            _running.gone(child)
            if child.stdin is not None:
                child.stdin.close()
        said.seek(0)
        # Of what a library wrote there the last line is told; a path may name a person, the file's name is known.
        lines = said.read().replace(str(job.path), job.path.name).split("\n")
    last = next((" ".join(line.split()) for line in reversed(lines) if line.strip()), "")
    row = CaseRow(job.name, seconds=round(time.monotonic() - begun, 2), peak_mib=peak_mib)
    return _told(row, job, child.returncode, last, late.is_set())


def _told(row: CaseRow, job: CaseJob, code: int, last: str, late: bool) -> CaseRow:
    """The row with what an exit code and a last line say."""
    if code in (exit_codes.DONE, exit_codes.NO_DEFECT):
        status, sentence = (STATUS_DONE, "") if code == exit_codes.DONE else (STATUS_NO_DEFECT, "No defect was found.")
        try:
            return replace(row.with_report(job.output), status=status, sentence=sentence)
        except (OSError, ValueError, KeyError) as error:
            return replace(row, status=STATUS_CRASHED, sentence=f"Its report cannot be read: {type(error).__name__}.")
    if late:
        minutes = f"{job.limit_seconds / 60:g} minutes"
        sentence = f"It was not done after {minutes} and was ended. Look at it by itself, or raise --case-timeout."
        return replace(row, status=STATUS_CRASHED, sentence=sentence)
    if code == exit_codes.BAD_INPUT:
        return replace(row, status=STATUS_BAD_INPUT, sentence=last)
    if code == -getattr(signal, "SIGKILL", 9):
        sentence = "Its process was killed, as happens where memory runs out. Use fewer --workers or crop the volume."
    elif code < 0:
        sentence = f"Its process crashed ({_signal_name(-code)}). Run it by itself with SKULLVAE_DEBUG=1."
    else:
        sentence = f"Its process ended with code {code}: {last}"
    return replace(row, status=STATUS_CRASHED, sentence=sentence)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _start(job: CaseJob, said) -> subprocess.Popen:
    # The library may be on this process's path alone, as in Slicer.
    places = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places)), ENDS_WITH_PARENT: "1"}
    if job.threads is not None:
        environment["OMP_NUM_THREADS"] = str(job.threads)
    arguments = (str(job.path), "-o", str(job.output), *job.arguments, "--progress", "none")
    command = [sys.executable, "-m", "SkullVAELib", "complete", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said, env=environment)


def _wait(child: subprocess.Popen) -> int | None:
    """Wait for a process and return its peak memory in MiB, where the system tells it of one child."""
    if not hasattr(os, "wait4"):
        child.wait()
        return None
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    # Linux counts in KiB, macOS in bytes.
    return round(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


def _end(child: subprocess.Popen) -> None:
    """Ask a process to end, and make it; another thread waits for it."""
    _signal(child, "SIGTERM")
    deadline = time.monotonic() + GRACE_SECONDS
    while child.returncode is None and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal(child, "SIGKILL")


def _signal(child: subprocess.Popen, name: str) -> None:
    if child.returncode is not None:
        return
    with suppress(OSError):
        if os.name == "posix":
            # Popen.send_signal would look whether the process has ended, and take its usage away from wait4.
            os.kill(child.pid, getattr(signal, name))
        else:
            child.terminate()
