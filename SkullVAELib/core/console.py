"""Console output of a command: progress on stdout or as a bar, warnings and errors on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TextIO

from SkullVAELib.core.progress import Report, json_lines, silent, terminal_bar


def default_progress() -> str:
    """The default kind of progress output: "bar" on a terminal, else "none"."""
    return "bar" if sys.stderr is not None and sys.stderr.isatty() else "none"


def progress_bar():
    """A reporter that draws a bar on a terminal and is silent elsewhere, for a with statement."""
    return progress(default_progress())


@contextmanager
def progress(kind: str) -> Iterator[Report]:
    """The progress reporter of a kind. With "json" stdout carries nothing else: what libraries print goes to stderr."""
    if kind == "json":
        with reserved_stdout() as stream, progress_on(stream, kind) as report:
            yield report
    else:
        with progress_on(None, kind) as report:
            yield report


@contextmanager
def progress_on(stream: TextIO | None, kind: str) -> Iterator[Report]:
    """The progress reporter of a kind where stdout is already reserved: "json" goes to that stream."""
    if kind == "none":
        yield silent
    elif kind == "bar":
        with _bar() as report:
            yield report
    else:

        def report(stage: str, fraction: float) -> None:
            with redirect_stdout(stream):
                json_lines(stage, fraction)

        yield report


@contextmanager
def _bar() -> Iterator[Report]:
    """The bar on stderr; its line is ended before anything else is printed there."""
    unfinished = False

    def report(stage: str, fraction: float) -> None:
        nonlocal unfinished
        terminal_bar(stage, fraction)
        unfinished = fraction < 1

    try:
        yield report
    finally:
        if unfinished:
            print(file=sys.stderr)


@contextmanager
def reserved_stdout() -> Iterator[TextIO]:
    """A stream to the real stdout; everything else that is printed to stdout goes to stderr meanwhile."""
    sys.stdout.flush()
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # not a real file: a test or a notebook captures it
        stream = sys.stdout
        with redirect_stdout(sys.stderr):
            yield stream
        return
    kept = os.dup(descriptor)
    try:
        os.dup2(sys.stderr.fileno(), descriptor)
        with open(kept, "w", encoding="utf-8", closefd=False) as stream, redirect_stdout(sys.stderr):
            yield stream
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


def print_message(text: str) -> None:
    """One line on stderr, which may be absent (a windowed program) or closed."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(" ".join(text.split()), file=sys.stderr, flush=True)
