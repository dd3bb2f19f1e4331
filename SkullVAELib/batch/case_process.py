"""Completes a case in its own process, so that a crash affects that case alone.

On Linux that process is a fork of one that has loaded the libraries, see `SkullVAELib.cli.case_server`; elsewhere it is
`python -m SkullVAELib complete`.
"""

from __future__ import annotations

import atexit
import json
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


class _NewProcess:
    """The process of a case, started from nothing."""

    def __init__(self, job: CaseJob):
        self._output = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115, closed by wait
        command = [sys.executable, "-m", "SkullVAELib", *_arguments(job)]
        environment = _environment(job) | {ENDS_WITH_PARENT: "1"}
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._output, stderr=self._output, env=environment
        )
        self.pid = self._child.pid
        self.code: int | None = None

    def wait(self) -> tuple[int | None, str]:
        """Wait for the end; return peak memory in MiB (None where the system does not report it) and the output."""
        peak_mib = None
        if hasattr(os, "wait4"):
            _, status, usage = os.wait4(self.pid, 0)
            self._child.returncode = os.waitstatus_to_exitcode(status)
            # Linux reports KiB, macOS bytes.
            peak_mib = round(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
        else:
            self._child.wait()
        self.code = self._child.returncode
        if self._child.stdin is not None:
            self._child.stdin.close()
        with self._output:
            self._output.seek(0)
            return peak_mib, self._output.read()

    def terminate(self, name: str) -> None:
        """Send a signal, or end the process where there are none."""
        if os.name == "posix":
            # Not Popen.send_signal, which polls the process and so takes its resource usage away from wait4.
            os.kill(self.pid, getattr(signal, name))
        else:
            self._child.terminate()


class _Server:
    """A process that forks those of cases, one at a time: `SkullVAELib.cli.case_server`."""

    def __init__(self, job: CaseJob):
        self.threads = job.threads
        self._process = subprocess.Popen(
            [sys.executable, "-m", "SkullVAELib.cli.case_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(job),
        )
        self.usable = bool(self.read().get("ready"))

    def read(self) -> dict:
        """The next reply; empty where the process has ended."""
        assert self._process.stdout is not None
        try:
            return json.loads(self._process.stdout.readline())
        except ValueError:
            return {}

    def fork(self, job: CaseJob) -> _Fork | None:
        """Start the process of a case; None where this one has ended."""
        assert self._process.stdin is not None
        request = json.dumps({"name": job.name, "arguments": _arguments(job)}) + "\n"
        try:
            self._process.stdin.write(request.encode())
            self._process.stdin.flush()
        except OSError:
            self.close()
            return None
        pid = self.read().get("pid")
        if pid is None:
            self.close()
            return None
        return _Fork(self, pid)

    def close(self) -> int:
        """End the process, and with it the case that it has forked; return its exit code."""
        self.usable = False
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait()


class _Fork:
    """The process of a case, forked from a server; as `_NewProcess`."""

    def __init__(self, server: _Server, pid: int):
        self._server, self.pid = server, pid
        self.code: int | None = None

    def wait(self) -> tuple[int | None, str]:
        """See `_NewProcess.wait`."""
        reply = self._server.read()
        if not reply:
            self.code = self._server.close() or -getattr(signal, "SIGKILL", 9)
            return None, ""
        self.code = reply["code"]
        _servers.put(self._server)
        return reply["peak_mib"], reply["output"]

    def terminate(self, name: str) -> None:
        """Send a signal."""
        os.kill(self.pid, getattr(signal, name))


class _Servers:
    """The servers of this process that have no case."""

    def __init__(self):
        self._lock = threading.Lock()
        self._idle: list[_Server] = []

    def take(self, job: CaseJob) -> _Server | None:
        """A server for a case, started if none is idle; None where there can be none."""
        if not sys.platform.startswith("linux"):
            return None
        with self._lock:
            found = next((server for server in self._idle if server.threads == job.threads), None)
            if found is not None:
                self._idle.remove(found)
                return found
        server = _Server(job)
        if not server.usable:
            server.close()
            return None
        return server

    def put(self, server: _Server) -> None:
        """Keep a server for the next case."""
        with self._lock:
            self._idle.append(server)

    def close(self) -> None:
        """End all that have no case."""
        with self._lock:
            idle, self._idle = self._idle, []
        for server in idle:
            server.close()


_servers = _Servers()
atexit.register(_servers.close)


class _Running:
    """The case processes that this process has started, by run."""

    def __init__(self):
        self._lock = threading.Lock()
        self._children: dict[_NewProcess | _Fork, str] = {}
        self._ended: set[str] = set()

    def start(self, job: CaseJob) -> _NewProcess | _Fork | None:
        """Start the process of a case; None where its run has been ended."""
        server = _servers.take(job)
        with self._lock:
            if job.run in self._ended:
                if server is not None:
                    _servers.put(server)
                return None
            child: _NewProcess | _Fork = (None if server is None else server.fork(job)) or _NewProcess(job)
            self._children[child] = job.run
            return child

    def remove(self, child: _NewProcess | _Fork) -> None:
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
    child = _running.start(job)
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
        peak_mib, output = child.wait()
    finally:
        timer.cancel()
        _running.remove(child)
    # Only the last line of the output is reported. A folder may name a person; the file's name is known anyway.
    said = output.replace(str(job.path), job.path.name)
    if job.path.is_dir():
        # A folder of DICOM files may be called after the patient, where a list gives the case another name.
        said = said.replace(f"'{job.path.name}'", f"'{job.name}'")
    lines = said.split("\n")
    last = next((" ".join(line.split()) for line in reversed(lines) if line.strip()), "")
    row = CaseRow(job.name, seconds=round(time.monotonic() - begun, 2), peak_mib=peak_mib)
    assert child.code is not None
    return _with_outcome(row, job, child.code, last, late.is_set())


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


def _arguments(job: CaseJob) -> list[str]:
    return ["complete", str(job.path), "-o", str(job.output), *job.arguments, "--progress", "none"]


def _environment(job: CaseJob) -> dict[str, str]:
    # The library may be on the path of this process only, as in Slicer.
    places = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    if job.threads is not None:
        environment["OMP_NUM_THREADS"] = str(job.threads)
    return environment


def _end(child: _NewProcess | _Fork) -> None:
    """Send SIGTERM, and SIGKILL after a grace period; another thread waits for the process."""
    _signal(child, "SIGTERM")
    deadline = time.monotonic() + GRACE_SECONDS
    while child.code is None and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal(child, "SIGKILL")


def _signal(child: _NewProcess | _Fork, name: str) -> None:
    if child.code is None:
        with suppress(OSError):
            child.terminate(name)
