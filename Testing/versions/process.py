"""Running a version as a user runs it: child processes of its command line and its scripts.

They run in an empty folder, on the processor, with one thread. Nothing of the library is imported here, so this file
works with every version. The library's version is drawn into pictures and written into reports. So that these stay
comparable to the byte, a child process sees the version 0.0.0 whichever it has (PINNED_VERSION).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from .inputs import RecordingError, copy

PINNED_VERSION = "0.0.0"

# Loaded by every child process before the library.
PIN = f'''
import importlib.abc
import sys


class Pin(importlib.abc.MetaPathFinder):
    """Gives the library one version, whichever it has."""

    def find_spec(self, name, path=None, target=None):
        if name not in ("SkullVAELib", "SkullVAELib.core.version"):  # where it has been, where it is now
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module):
                load(module)
                module.__version__ = "{PINNED_VERSION}"

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Pin())
'''

SESSION = (
    {"gamma": 0.5},
    {"proposal": 2},
    {"part": {"clearance": 0.5, "thickness": "constant:4", "holes": "2,10,3"}},
    {"host": True},
    {"report": True},
    {"proposal": 9},
)
"""Requests to `complete --interactive`, each sent when the one before is answered. The last one is an error."""

SESSION_MORE = "more"
"""The field that says that a further answer to the same request follows."""

KILL_AFTER_ROWS = 5
"""A training is killed once its log has so many rows, between two checkpoints or just after one."""


@dataclass
class Recording:
    """A recording under way.

    folder: where it is written; checkout: the version recorded; skulls: folder of real skulls; earlier: the recording
    whose models and interrupted trainings the case `earlier` loads.
    """

    folder: Path
    checkout: Path
    skulls: Path | None
    earlier: Path
    python: str = sys.executable
    pin: Path = field(default_factory=Path)
    empty: Path = field(default_factory=Path)

    @property
    def inputs(self) -> Path:
        return self.folder / "inputs"

    @property
    def kept(self) -> Path:
        """Interrupted trainings, for the case `earlier` of this and later versions. Not compared."""
        return self.folder / "kept"

    def environment(self) -> dict[str, str]:
        """Of a child process: this checkout's library at the pinned version, one thread, no graphics card."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SKULLVAE_", "COV"))}
        return clean | {
            "PYTHONPATH": os.pathsep.join(map(str, (self.pin, self.checkout))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
            "PYTHONUTF8": "1",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }

    def check(self) -> None:
        """Raise RecordingError unless child processes run the checkout's library, under the pinned version."""
        where = self._output("-c", "import SkullVAELib; print(SkullVAELib.__file__)").strip()
        if Path(where).resolve().parents[1] != self.checkout.resolve():
            raise RecordingError(f"'{where}' was imported instead of the library of '{self.checkout}'")
        version = self._output("-m", "SkullVAELib", "--version")
        if PINNED_VERSION not in version:
            raise RecordingError(f"The library says '{version.strip()}', not {PINNED_VERSION}: correct the pin")

    def _output(self, *arguments: str) -> str:
        command = [self.python, *arguments]
        child = subprocess.run(
            command, capture_output=True, text=True, env=self.environment(), cwd=self.empty, encoding="utf-8"
        )
        if child.returncode:
            raise RecordingError(f"The library of '{self.checkout}' cannot be run: {child.stderr.strip()[-300:]}")
        return child.stdout


@dataclass
class CaseRun:
    """A case being recorded: runs commands and keeps their exit codes and what they print."""

    recording: Recording
    name: str
    commands: list[dict] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.recording.folder / self.name

    @property
    def inputs(self) -> Path:
        return self.recording.inputs

    def skullvae(self, name: str, *arguments: object, stdout: str | None = None, codes: tuple[int, ...] = (0,)) -> None:
        """Run a command of the command line; stdout: name of a file of the case for what it prints."""
        self._run(name, ["-m", "SkullVAELib", *arguments], codes, stdout)

    def script(self, name: str, script: str, *arguments: object) -> None:
        """Run a script of the checkout."""
        self._run(name, [self.recording.checkout / script, *arguments], (0,))

    def _run(self, name: str, arguments: Iterable[object], codes: tuple[int, ...], stdout: str | None = None) -> None:
        with self._printed(name) as (out, err):
            process = self._start(arguments, out, err)
            code = process.wait()
        if stdout is not None:
            copy(Path(out.name), self.out / stdout)
        self._note(name, arguments, code, codes)

    def killed(self, name: str, log: Path, script: str, *arguments: object) -> None:
        """Run a training script and kill it once its log has KILL_AFTER_ROWS rows."""
        command = [self.recording.checkout / script, *arguments]
        with self._printed(name) as (out, err):
            process = self._start(command, out, err)
            while process.poll() is None and _rows(log) < KILL_AFTER_ROWS:
                time.sleep(0.005)
            alive = process.poll() is None
            process.kill()
            code = process.wait()
        self._note(name, command, code, (code,) if alive else ())

    def session(self, name: str, *arguments: object) -> None:
        """Run `complete --interactive` and send SESSION; the answers go into answers.jsonl of the case."""
        command = ["-m", "SkullVAELib", "complete", *arguments, "--interactive"]
        answers: list[dict] = []
        with self._printed(name) as (_, err):
            process = self._start(command, subprocess.PIPE, err, stdin=subprocess.PIPE, text=True, encoding="utf-8")
            assert process.stdin is not None and process.stdout is not None
            try:
                for number, request in enumerate(SESSION, 1):
                    process.stdin.write(json.dumps({"request": number, **request}) + "\n")
                    process.stdin.flush()
                    answers += _answers(process.stdout, number)
                process.stdin.close()
                process.stdout.read()
                code = process.wait()
            finally:
                process.kill()
        lines = "".join(json.dumps(answer) + "\n" for answer in answers)
        (self.out / "answers.jsonl").write_text(lines, encoding="utf-8")
        self._note(name, command, code, (0,))

    @contextmanager
    def _printed(self, name: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """Files for what a command prints on stdout and stderr."""
        log = self.recording.folder / "log"
        log.mkdir(exist_ok=True)
        with (
            open(log / f"{self.name}.{name}.stdout", "wb") as out,
            open(log / f"{self.name}.{name}.stderr", "wb") as err,
        ):
            yield out, err

    def _start(self, arguments: Iterable[object], stdout, stderr, **more) -> subprocess.Popen:
        command = [self.recording.python, *map(str, arguments)]
        environment, cwd = self.recording.environment(), self.recording.empty
        more.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment, cwd=cwd, **more)

    def _note(self, name: str, arguments: Iterable[object], code: int, codes: tuple[int, ...]) -> None:
        self.commands.append({"name": name, "arguments": [str(argument) for argument in arguments], "code": code})
        if code not in codes:
            log = self.recording.folder / "log" / f"{self.name}.{name}.stderr"
            last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
            raise RecordingError(f"{name} ended with exit code {code}: {last[:300]}")


def _answers(lines: Iterable[str], number: int) -> Iterator[dict]:
    """The answers to a request, up to the last one."""
    for line in lines:
        answer = json.loads(line)
        if number in answer.values():
            yield answer
            if not answer.get(SESSION_MORE):
                return


def _rows(log: Path) -> int:
    """Whole rows of a training's log, without its header."""
    try:
        return max(0, log.read_bytes().count(b"\n") - 1)
    except OSError:
        return 0
