"""A child process: start, progress, log, requests and responses, cancellation.

Uses neither Qt nor Slicer, so that it can be tested without them.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from SkullVAELib.core.errors import SkullVAEError

# Largest number of bytes that a poll reads of each stream, so that much output does not freeze the panel.
_BYTES_PER_POLL = 1 << 18


class _Tail:
    """Reads the lines that were appended to a file since the last call."""

    def __init__(self, path: Path):
        self._file = path.open("rb")
        self._rest = b""

    def lines(self, final: bool) -> tuple[list[str], bool]:
        """(the new complete lines, whether there may be more); final: also return a last line without line end."""
        chunk = self._file.read(_BYTES_PER_POLL)
        more = len(chunk) == _BYTES_PER_POLL
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        if final and not more and self._rest:
            whole.append(self._rest)
            self._rest = b""
        return [line.decode("utf-8", "replace").rstrip() for line in whole], more

    def close(self) -> None:
        self._file.close()


class ChildProcess:
    """One run of a command that prints {"stage": ..., "fraction": ...} lines on stdout and anything else on stderr.

    The owner calls poll() from a timer. The child writes to two files in `folder` instead of pipes: a full pipe would
    block the child, and threads that empty a pipe rarely run in Slicer, whose main thread holds Python's global
    interpreter lock while Qt's event loop runs.

    requests: whether the child reads requests from stdin, one JSON object per line; it sends responses as lines
    {"response": ...} on stdout. Closing stdin ends the requests.

    stage, fraction: the latest progress. done: whether the child has reported the stage "done" at fraction 1, after
    which a child with requests keeps running. started: whether a preloaded child has taken its arguments, see
    `preloading`. exitCode: None until the end. lastErrorLine: the last line on stderr.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: str | os.PathLike,
        environment: Mapping[str, str] | None = None,
        requests: bool = False,
    ):
        self._command = [str(part) for part in command]
        self._folder = Path(folder)
        self._environment = dict(os.environ, **(environment or {}))
        self._requests = requests
        self._responses: deque[dict] = deque()
        self._process: subprocess.Popen | None = None
        self._tails: tuple[_Tail, ...] = ()
        self.stage = ""
        self.fraction = 0.0
        self.done = False
        self.started = False
        self.exitCode: int | None = None
        self.cancelled = False
        self.lastErrorLine = ""
        self.log: deque[str] = deque(maxlen=2000)

    def start(self) -> None:
        """Start the child as leader of its own process group. Raises SkullVAEError if it cannot be started."""
        paths = self._folder / "stdout.txt", self._folder / "stderr.txt"
        if os.name == "nt":
            options = {"creationflags": subprocess.CREATE_NO_WINDOW}
        else:
            # PythonSlicer is a launcher: the interpreter that it starts is reached through the process group only.
            options = {"start_new_session": True}
        with paths[0].open("wb") as stdout, paths[1].open("wb") as stderr:
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE if self._requests else subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    cwd=self._folder,
                    env=self._environment,
                    **options,
                )
            except OSError as error:
                raise SkullVAEError(
                    f"'{self._command[0]}' cannot be started: {error.strerror}", "Reinstall Slicer or the extension"
                ) from error
        if self._requests and os.name != "nt":
            # A child that does not read must not block the panel.
            os.set_blocking(self._process.stdin.fileno(), False)
        self._tails = _Tail(paths[0]), _Tail(paths[1])
        # The child must not outlive an application that quits without closing the module.
        atexit.register(self.cancel)

    def poll(self) -> list[str]:
        """Read what the child has printed; returns the new log lines. Sets exitCode after the end."""
        if self._process is None or self.exitCode is not None:
            return []
        # Checked before reading: the output of a child that has ended is complete.
        exitCode = self._process.poll()
        ended = exitCode is not None
        lines: list[str] = []
        stdout, moreOutput = self._tails[0].lines(final=ended)
        stderr, moreErrors = self._tails[1].lines(final=ended)
        for line in stdout:
            if not self._takeMessage(line):
                lines.append(line)
        for line in stderr:
            lines.append(line)
            if line:
                self.lastErrorLine = line
        self.log.extend(lines)
        if ended and not moreOutput and not moreErrors:
            self._finish(exitCode)
        return lines

    @property
    def running(self) -> bool:
        """Whether the child was started and poll() has not seen its end yet."""
        return self._process is not None and self.exitCode is None

    def send(self, request: Mapping) -> bool:
        """Send a request to the child; False if it has ended, takes no requests or does not read them."""
        if not self._requests or not self.running or self._process.stdin.closed:
            return False
        line = json.dumps(request, allow_nan=False).encode("ascii") + b"\n"
        try:
            # Without Python's buffer, so that a line, shorter than a pipe's capacity, is written whole or not at all.
            return os.write(self._process.stdin.fileno(), line) == len(line)
        except OSError:
            return False

    def takeResponses(self) -> list[dict]:
        """The responses that poll() has read since the last call, oldest first."""
        responses = list(self._responses)
        self._responses.clear()
        return responses

    def closeRequests(self) -> None:
        """Close the child's stdin: there are no further requests, and the child ends by itself."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def wait(self, onWait: Callable[[], None] = lambda: None) -> None:
        """Poll until the end. Blocks; onWait is called repeatedly meanwhile."""
        while self.running:
            self.poll()
            onWait()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=0.05)

    def cancel(self) -> None:
        """Kill the child and all processes that it has started. May be called at any time, also repeatedly."""
        if not self.running:
            return
        self.cancelled = True
        self._killTree()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._finish(self._process.returncode if self._process.returncode is not None else -1)

    def _takeMessage(self, line: str) -> bool:
        if not line.startswith("{"):
            return False
        try:
            message = json.loads(line)
            if "response" in message:
                self._responses.append({**message, "response": int(message["response"])})
                return True
            if message.get("ready") is True or message.get("started") is True:
                self.started = "started" in message
                return True
            self.stage, self.fraction = str(message["stage"]), min(1.0, max(0.0, float(message["fraction"])))
        except (ValueError, KeyError, TypeError):
            return False
        self.done = self.done or (self.stage == "done" and self.fraction >= 1)
        return True

    def _killTree(self) -> None:
        if os.name == "nt":
            subprocess.run(
                ["taskkill", "/F", "/T", "/PID", str(self._process.pid)],
                capture_output=True,
                creationflags=subprocess.CREATE_NO_WINDOW,
                check=False,
            )
            return
        # The child leads its session, so its id is that of the group. Its partial output is not needed, hence SIGKILL.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _finish(self, exitCode: int) -> None:
        self.exitCode = exitCode
        self.closeRequests()
        for tail in self._tails:
            tail.close()
        atexit.unregister(self.cancel)
