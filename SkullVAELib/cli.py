"""The command line: the commands `evaluate`, `sample` and `population`; the others have rooms of their own.

Exit codes: 0 done; 2 something the user can mend, one line on stderr that says what and how; 3 no defect found;
130 and 143 when interrupted or terminated. Never a traceback (SKULLVAE_DEBUG=1 shows it) and never half a file.

Only what `--help` and a mistyped path need is imported here; torch, MONAI and VTK wait until they are used.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

from . import NOTICE, __version__, batch_cli, complete_cli, info, latent_cli, mesh_cli
from .arguments import count, existing_model, joined, number, words
from .complete_cli import EXTRAS, RESULTS
from .console import progress_bar, say
from .errors import SkullVAEError
from .exit_codes import BAD_INPUT, DONE, NO_DEFECT
from .json_text import as_json_text

__all__ = ("BAD_INPUT", "DONE", "EXTRAS", "NO_DEFECT", "RESULTS", "explain", "main", "progress_bar", "resolve_device")

DISCLAIMER = NOTICE

_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (default: the process's) and return the exit code."""
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
            options = _parser().parse_args(joined(sys.argv[1:] if arguments is None else arguments, "--box"))
            return options.run(options)
        except KeyboardInterrupt:
            say("Interrupted.")
            return 128 + signal.SIGINT
        except Exception as error:
            if debug:
                traceback.print_exc()
            say(str(explain(error)))
            return BAD_INPUT


def run_evaluate(options: argparse.Namespace) -> int:
    """`evaluate`: the table on stdout, and JSON where asked."""
    from .evaluation import as_json, evaluate_folders, table

    with progress_bar() as report:
        scores = evaluate_folders(options.truth, options.prediction, report)
        report("evaluated", 1.0)
    if options.json is not None and str(options.json) != "-":
        _write_text(options.json, as_json_text(as_json(scores)))
    print(as_json_text(as_json(scores)) if str(options.json) == "-" else table(scores))
    return DONE


def run_sample(options: argparse.Namespace) -> int:
    """`sample`: a skull drawn from the model, with a defect cut out or without."""
    from .volume import volume_suffix, write_volume

    files = [options.output] if options.truth is None else [options.truth, options.output]
    for path in files:
        volume_suffix(path)
        if not path.parent.is_dir():
            raise SkullVAEError(f"The folder '{path.parent}' does not exist", "Make it first or choose another")
    if options.truth is not None and options.complete:
        raise SkullVAEError("A complete skull has no implant to write", "Leave out --truth or --complete")
    if options.truth is not None and options.truth.resolve() == options.output.resolve():
        raise SkullVAEError("--truth and --output name the same file", "Choose two names")
    model_path = None if options.model is None else existing_model(options.model)

    from .checkpoint import default_model_path, load_model
    from .sample import DEFAULT_KIND, complete_skull, generated_skull

    model = load_model(model_path or default_model_path())
    if options.complete:
        skull, what = complete_skull(model, options.seed), "a complete skull"
    else:
        kind = options.kind or DEFAULT_KIND
        skull, truth = generated_skull(model, options.seed, kind)
        what = f"a skull with a {kind.replace('_', '-')} defect of {truth.sum() * skull.voxel_ml:.1f} ml"
        if options.truth is not None:
            write_volume(skull.with_array(truth), options.truth)
    write_volume(skull, options.output)
    say(f"'{options.output}' is {what}, drawn from the model with seed {options.seed}: no patient. {DISCLAIMER}")
    return DONE


def run_population(options: argparse.Namespace) -> int:
    """`population`: a SkullFix-like set drawn from complete skulls."""
    from .datasets import find_cases

    find_cases(options.source)  # torch takes seconds to import; a mistyped folder is found before

    from .skullset import SetOptions, write_set

    wishes = SetOptions(options.count, options.held_out_count, options.holdout, options.seed, options.spacing)
    with progress_bar() as report:
        result = write_set(options.source, options.output, wishes, report)
        report("done", 1.0)
    for split, names in result["split"].items():
        say(f"{result['skulls'][split]} {split} skulls, each complete and with two defects, from {', '.join(names)}.")
    say(f"The set is in '{options.output}'. {DISCLAIMER}")
    return DONE


def resolve_device(name: str):
    """The torch.device for "auto" (the graphics card if there is one), "cpu" or "cuda".

    Raises SkullVAEError when a graphics card is asked for and torch finds none.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise SkullVAEError("No graphics card that torch can use was found", "Use --device cpu")
    return torch.device(name)


def explain(error: Exception) -> SkullVAEError:
    """Any exception as what is wrong and what to do about it."""
    if isinstance(error, SkullVAEError):
        return error
    text = str(error)[:400]
    if type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in text:
        return SkullVAEError("The graphics card has not enough memory", "Use --device cpu")
    if isinstance(error, MemoryError) or any(sign in text for sign in _NO_MEMORY):
        return SkullVAEError("There is not enough memory", "Close other programs or crop the volume")
    if isinstance(error, ModuleNotFoundError):
        return SkullVAEError(f"The Python package '{error.name}' is missing", f"Install it: pip install {error.name}")
    if isinstance(error, BrokenPipeError):
        return SkullVAEError("The program that read the progress has ended", "Start again")
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return SkullVAEError("The disk is full", "Free some space or choose another output folder")
    if isinstance(error, OSError) and error.strerror:
        where = f" '{error.filename}'" if error.filename else ""
        return SkullVAEError(f"{error.strerror}:{where or ' a file'}", "Check the path and its permissions")
    return SkullVAEError(
        f"Unexpected {type(error).__name__}: {text}", "Please report this with what SKULLVAE_DEBUG=1 prints"
    )


# In the words of torch, C++, ITK, and of the loader of shared libraries.
_NO_MEMORY = ("allocate memory", "bad_alloc", "failed to map segment")


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line, as every other error."""

    def error(self, message: str) -> NoReturn:
        raise SkullVAEError(f"{self.prog}: {message}", f"See {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="skullvae", description=f"Completes defective skulls. {DISCLAIMER}")
    parser.add_argument("--version", action="version", version=f"SkullVAE {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    complete_cli.add_parser(commands, DISCLAIMER)
    batch_cli.add_parser(commands, DISCLAIMER)
    evaluate = commands.add_parser(
        "evaluate",
        help="score predicted implants: DSC, bDSC and HD95",
        description="Scores every implant in the folder --truth by the one of the same name in --prediction. Flat"
        " folders, a folder for each case (CASE/implant.nrrd) and the layouts of SkullFix and SkullBreak are read.",
    )
    evaluate.add_argument("--truth", metavar="DIR", type=Path, required=True)
    evaluate.add_argument("--prediction", metavar="DIR", type=Path, required=True)
    evaluate.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        nargs="?",
        const=Path("-"),
        help="write the scores as JSON, too; without FILE on stdout instead of the table",
    )
    evaluate.set_defaults(run=run_evaluate)

    sample = commands.add_parser(
        "sample",
        help="write a skull drawn from the model, with a defect",
        description="Draws a skull from the model, cuts a defect out and writes what is left as a labelmap (0 and 1,"
        " 1 mm). For trying things out where no patient's data is at hand.",
    )
    sample.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="image file to write")
    sample.add_argument(
        "--kind",
        metavar="KIND",
        help="the defect: hemicraniectomy (default), bifrontal, fronto_orbital, temporal, occipital, vertex, blob, box,"
        " burr or facial",
    )
    sample.add_argument("--seed", metavar="N", type=count, default=0, help="another number, another skull and defect")
    sample.add_argument("--complete", action="store_true", help="cut no defect")
    sample.add_argument("--truth", metavar="FILE", type=Path, help="write the piece that was cut out, too")
    sample.add_argument("--model", metavar="FILE", type=Path, help="model file instead of the shipped one")
    sample.set_defaults(run=run_sample)

    population = commands.add_parser(
        "population",
        help="write a SkullFix-like set drawn from complete skulls",
        description="Draws new skulls from complete ones and writes them complete, with SkullFix's cranial and"
        f" with its facial defect, split by individual, with a data list. {DISCLAIMER}",
    )
    population.add_argument(
        "--from",
        dest="source",
        metavar="DIR",
        type=Path,
        required=True,
        help="complete skulls: folder or JSON list",
    )
    population.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="new folder for the set")
    population.add_argument("--count", metavar="N", type=count, default=100, help="training skulls (default 100)")
    population.add_argument(
        "--held-out-count", metavar="M", type=count, help="skulls of held-out individuals (default: a fifth of N)"
    )
    population.add_argument(
        "--holdout",
        metavar="NAMES",
        type=words,
        default=(),
        help="individuals to hold out, with commas between them (default: a fifth of all, drawn by the seed)",
    )
    population.add_argument("--seed", metavar="N", type=count, default=0, help="another number, another set")
    population.add_argument("--spacing", metavar="MM", type=number, default=1.5, help="voxel size (default 1.5 mm)")
    population.set_defaults(run=run_population)

    mesh_cli.add_parser(commands, DISCLAIMER)
    info.add_parser(commands)
    latent_cli.add_parser(commands, number, count, DISCLAIMER)
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


def _write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    from .outputs import whole_file

    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
