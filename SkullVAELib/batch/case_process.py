"""Completes a case in its own process, `python -m SkullVAELib complete`, so that a crash affects that case alone."""

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
from typing import IO

from SkullVAELib.batch.summary import STATUS_BAD_INPUT, STATUS_CRASHED, STATUS_DONE, STATUS_NO_DEFECT, CaseRow
from SkullVAELib.core import exit_codes
from SkullVAELib.core.parent_process import ENDS_WITH_PARENT, GRACE_SECONDS


@dataclass(frozen=True)
class CaseJob:
    """A case to complete.

    Attributes
    ----------
    run : str
        Identifier of the run of the command that the case belongs to.
    name : str
        Name of the case.
    path, output : Path
        Input file and folder for the results, absolute.
    arguments : tuple of str
        Options of `complete`.
    limit_seconds : float
        The process is terminated after this time.
    threads : int or None
        Threads of torch; None for the setting of the environment.
    """

    run: str
    name: str
    path: Path
    output: Path
    arguments: tuple[str, ...]
    limit_seconds: float
    threads: int | None = None


class _Running:
    """The case processes that this process has started, by run."""

    def __init__(self):
        self._lock = threading.Lock()
        self._children: dict[subprocess.Popen, str] = {}
        self._ended: set[str] = set()

    def start(self, job: CaseJob, output: IO) -> subprocess.Popen | None:
        """Start the process of a case; None where its run has been ended."""
        with self._lock:
            if job.run in self._ended:
                return None
            child = _start(job, output)
            self._children[child] = job.run
            return child

    def remove(self, child: subprocess.Popen) -> None:
        """Forget a process that has ended."""
        with self._lock:
            del self._children[child]

    def end(self, run: str) -> None:
        """End the processes of a run and start no further ones of it."""
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
    """End the case processes of a run that this process has started; it starts no further ones of that run.

    Parameters
    ----------
    run : str
        Identifier of the run, see `CaseJob`.
    """
    _running.end(run)


def complete_case(job: CaseJob) -> CaseRow | None:
    """Complete a case in a process of its own.

    Parameters
    ----------
    job : CaseJob
        The case.

    Returns
    -------
    CaseRow or None
        The result, also where the case fails; None where the run has been ended.
    """
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        child = _running.start(job, output)
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
            _running.remove(child)
            if child.stdin is not None:
                child.stdin.close()
        output.seek(0)
        # Only the last line of the output is reported. A folder may name a person; the file's name is known anyway.
        said = output.read().replace(str(job.path), job.path.name)
        if job.path.is_dir():
            # A folder of DICOM files may be called after the patient, where a list gives the case another name.
            said = said.replace(f"'{job.path.name}'", f"'{job.name}'")
        lines = said.split("\n")
    last = next((" ".join(line.split()) for line in reversed(lines) if line.strip()), "")
    row = CaseRow(job.name, seconds=round(time.monotonic() - begun, 2), peak_mib=peak_mib)
    return _with_outcome(row, job, child.returncode, last, late.is_set())


def _with_outcome(row: CaseRow, job: CaseJob, code: int, last: str, late: bool) -> CaseRow:
    """The row with status and sentence from the exit code and the last line of output."""
    if code in (exit_codes.DONE, exit_codes.NO_DEFECT):
        status, sentence = (STATUS_DONE, "") if code == exit_codes.DONE else (STATUS_NO_DEFECT, "No defect was found.")
        try:
            return replace(row.with_report(job.output), status=status, sentence=sentence)
        except (OSError, ValueError, KeyError) as error:
            sentence = f"The report of the case cannot be read: {type(error).__name__}."
            return replace(row, status=STATUS_CRASHED, sentence=sentence)
    if late:
        minutes = f"{job.limit_seconds / 60:g} minutes"
        sentence = f"The case was not done after {minutes} and was ended. Run it alone, or raise --case-timeout."
        return replace(row, status=STATUS_CRASHED, sentence=sentence)
    if code == exit_codes.BAD_INPUT:
        return replace(row, status=STATUS_BAD_INPUT, sentence=last)
    if code == -getattr(signal, "SIGKILL", 9):
        sentence = "The process was killed, probably because memory ran out. Use fewer --workers or crop the volume."
    elif code < 0:
        sentence = f"The process crashed ({_signal_name(-code)}). Run the case alone with SKULLVAE_DEBUG=1."
    else:
        sentence = f"The process ended with exit code {code}: {last}"
    return replace(row, status=STATUS_CRASHED, sentence=sentence)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _start(job: CaseJob, output: IO) -> subprocess.Popen:
    # The library may be on the path of this process only, as in Slicer.
    places = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places)), ENDS_WITH_PARENT: "1"}
    if job.threads is not None:
        environment["OMP_NUM_THREADS"] = str(job.threads)
    arguments = (str(job.path), "-o", str(job.output), *job.arguments, "--progress", "none")
    command = [sys.executable, "-m", "SkullVAELib", "complete", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment)


def _wait(child: subprocess.Popen) -> int | None:
    """Wait for a process and return its peak memory in MiB; None where the system does not report it."""
    if not hasattr(os, "wait4"):
        child.wait()
        return None
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    # Linux reports KiB, macOS bytes.
    return round(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


def _end(child: subprocess.Popen) -> None:
    """Send SIGTERM, and SIGKILL after a grace period; another thread waits for the process."""
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
            # Not Popen.send_signal, which polls the process and so takes its resource usage away from wait4.
            os.kill(child.pid, getattr(signal, name))
        else:
            child.terminate()
