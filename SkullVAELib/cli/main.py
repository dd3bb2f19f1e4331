"""The command line: the commands `evaluate`, `sample` and `population`; the others have rooms of their own.

Exit codes: 0 done; 2 something the user can mend, one line on stderr that says what and how; 3 no defect found;
130 and 143 when interrupted or terminated. Never a traceback (SKULLVAE_DEBUG=1 shows it) and never half a file.

Only what `--help` and a mistyped path need is imported here; torch, MONAI and VTK wait until they are used.
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

from SkullVAELib import NOTICE, __version__
from SkullVAELib.cli import batch, complete, evaluate, info, latent, mesh, population, sample
from SkullVAELib.cli.arguments import join_option_value
from SkullVAELib.core.console import print_message
from SkullVAELib.core.errors import SkullVAEError, explain
from SkullVAELib.core.exit_codes import BAD_INPUT
from SkullVAELib.core.parent_process import end_with_parent_if_asked


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (default: the process's) and return the exit code."""
    end_with_parent_if_asked()
    debug = os.environ.get("SKULLVAE_DEBUG", "") not in ("", "0")
    # Registration and warp are thousands of small parallel steps. Where other work holds a core, threads that spin as
    # they wait for each other made a second's work take twenty; threads that sleep do not. Read once, as torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # NumPy's and SciPy's own threads spin whatever that says: the rim's ten regressions took 0.13 s with two of them
    # on free cores, 5 s beside other work, and 0.03 s with one in either case. Read once, as numpy loads.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    with ExitStack() as stack:
        if not debug:
            # A library's warning is for us; the user's warnings are in the report.
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        stack.enter_context(_signals_end_the_run())
        try:
            options = _parser().parse_args(
                join_option_value(sys.argv[1:] if arguments is None else arguments, "--roi", "--box")
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


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line, as every other error."""

    def error(self, message: str) -> NoReturn:
        raise SkullVAEError(f"{self.prog}: {message}", f"See {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="skullvae", description=f"Completes defective skulls. {NOTICE}")
    parser.add_argument("--version", action="version", version=f"SkullVAE {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    for command in (complete, batch, evaluate, sample, population, mesh, info, latent):
        command.add_parser(commands)
    return parser


@contextmanager
def _signals_end_the_run() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack, so that temporary files go; exit code 128 + signal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the clearing up
        raise SystemExit(128 + number)

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Under nohup SIGHUP is ignored and stays so.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
