"""Keeps a process ready that has loaded libraries and model, so that a run need not wait for them.

The process is `SkullVAELib.cli.preloaded`. It ends by itself after ten minutes without a run, and when this process
ends.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

from SkullVAELib.core.errors import SkullVAEError

from .childprocess import ChildProcess
from .completion import RunSettings, childEnvironment, pythonExecutable
from .installation import missingPackages
from .librarypath import shippedModel

SWITCH = "SKULLVAE_PRELOAD"
"""Environment variable: 0 for no process before a run."""


class PreloadedProcess:
    """A process that loads libraries and model and then waits for the arguments of a run.

    child: the process. temporary: its private folder, which belongs to the run that takes it. Raises SkullVAEError if
    it cannot be started. It is ended when this object is discarded.
    """

    def __init__(self, command: Sequence[str]):
        self.temporary = tempfile.TemporaryDirectory(prefix="SkullVAE-", ignore_cleanup_errors=True)
        self.child = ChildProcess(command, Path(self.temporary.name), childEnvironment(), requests=True)
        self.child.start()
        weakref.finalize(self, self.child.cancel)

    @property
    def usable(self) -> bool:
        """Whether the process loads or waits."""
        self.child.poll()
        return self.child.running

    @property
    def failed(self) -> bool:
        """Whether the process has ended for another reason than that it was not used."""
        return not self.usable and self.child.exitCode != 0

    def run(self, arguments: Sequence[str]) -> bool:
        """Let the process run the library's command line with these arguments; False if it has ended."""
        return self.usable and self.child.send({"arguments": list(arguments)})

    def end(self) -> None:
        """End the process and remove its folder."""
        self.child.cancel()
        self.temporary.cleanup()


class Preloader:
    """Keeps at most one preloaded process, for the model and the device of the next run.

    command: start of the command; the options for model and device follow (for tests).
    """

    def __init__(self, command: Sequence[str] | None = None):
        self._command = command
        self._process: PreloadedProcess | None = None
        # The command that the process was started with, and the one that failed and is not tried again.
        self._started: list[str] = []
        self._failed: list[str] | None = None

    def prepare(self, settings: RunSettings) -> None:
        """Start a process for a run with these settings, unless there is one; ends a process for other settings.

        Does nothing while packages are missing. A process that cannot be started is no error: the run has its own.
        """
        command = self._commandFor(settings)
        if self._process is not None:
            if self._process.failed:
                self._failed = self._started
            elif self._process.usable and command == self._started:
                return
            self.end()
        if command == self._failed or os.environ.get(SWITCH) == "0" or missingPackages():
            return
        try:
            self._process = PreloadedProcess(command)
        except (SkullVAEError, OSError):
            self._failed = command
        self._started = command

    def take(self, settings: RunSettings) -> PreloadedProcess | None:
        """Give away the process for a run with these settings; None if there is none."""
        if self._process is None or not self._process.usable or self._commandFor(settings) != self._started:
            self.end()
        process, self._process, self._failed = self._process, None, None
        return process

    def end(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def _commandFor(self, settings: RunSettings) -> list[str]:
        model = settings.model or shippedModel()
        command = list(self._command or [pythonExecutable(), "-m", "SkullVAELib.cli.preloaded"])
        return [*command, "--device", settings.device, *(["--model", str(model)] if model else [])]
