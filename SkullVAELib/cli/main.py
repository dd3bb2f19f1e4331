"""The command line `skullvae`; each command is in a module of its own in this package.

Exit codes: 0 done; 2 user-correctable error, with one line on stderr that states cause and remedy; 3 no defect found;
130 and 143 when interrupted or terminated. No traceback is printed (unless SKULLVAE_DEBUG=1), and files appear complete
or not at all.

Only what `--help` and a mistyped path need is imported at the top; torch and VTK are imported where they are used.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NoReturn

from SkullVAELib.cli import batch, compare, complete, evaluate, info, latent, mesh, population, sample, series
from SkullVAELib.cli.arguments import join_option_value
from SkullVAELib.core.console import print_message
from SkullVAELib.core.errors import SkullVAEError, explain
from SkullVAELib.core.exit_codes import BAD_INPUT
from SkullVAELib.core.memory import keep_freed_memory
from SkullVAELib.core.parent_process import end_with_parent_if_asked
from SkullVAELib.core.version import NOTICE, __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The arguments without the program's name; by default those of the process.

    Returns
    -------
    int
        The exit code, see the module's docstring.
    """
    end_with_parent_if_asked()
    debug = os.environ.get("SKULLVAE_DEBUG", "") not in ("", "0")
    if arguments is None:  # a program that calls this keeps its own way with memory
        prepare_process()
    else:
        _limit_threads()
    with ExitStack() as stack:
        if not debug:
            # Warnings of other libraries are for developers; warnings for the user are in the report.
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        stack.enter_context(_signals_end_the_run())
        try:
            options = _parser().parse_args(
                join_option_value(sys.argv[1:] if arguments is None else arguments, *_MAY_BEGIN_WITH_MINUS)
            )
            return options.run(options)
        except KeyboardInterrupt:
            print_message("Interrupted.")
            return 128 + signal.SIGINT
        except Exception as error:
            if debug:
                traceback.print_exc()
            print_message(str(explain(error)))
            return BAD_INPUT


def prepare_process() -> None:
    """Set how this process, which runs nothing else, uses threads and memory; before torch and NumPy are imported."""
    _limit_threads()
    keep_freed_memory()


def _limit_threads() -> None:
    # Registration and warp are thousands of small parallel steps. Where other work occupies a core, threads that spin
    # while they wait for each other made one second of work take twenty; threads that sleep do not. torch reads this
    # variable once, when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # The threads of NumPy and SciPy spin regardless of that: the ten regressions of the GP correction took 0.13 s with
    # two threads on free cores, 5 s on busy cores, and 0.03 s with one thread in either case. NumPy reads this variable
    # once, when it is imported.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"


# Options whose values are coordinates or free text.
_MAY_BEGIN_WITH_MINUS = (
    *("--roi", "--box", "--at", "--not-at", "--through"),
    *("--tab-at", "--hole-at", "--build-up", "--engrave"),
)


class _Parser(argparse.ArgumentParser):
    """Raises a mistake in the arguments as SkullVAEError, so that it is one line like every other error."""

    def error(self, message: str) -> NoReturn:
        raise SkullVAEError(f"{self.prog}: {message}", f"See {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="skullvae", description=f"Completes defective skulls and designs the cranial implant. {NOTICE}"
    )
    parser.add_argument("--version", action="version", version=f"SkullVAE {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    for command in (complete, batch, compare, evaluate, sample, population, mesh, info, latent, series):
        command.add_parser(commands)
    return parser


@contextmanager
def _signals_end_the_run() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit(128 + signal), so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the clean-up
        raise SystemExit(128 + number)

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # nohup ignores SIGHUP, which must stay so.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
