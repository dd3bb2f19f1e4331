"""The command line: `skullvae complete INPUT -o DIR`, and the commands `evaluate`, `sample` and `population`.

Exit codes: 0 done; 2 something the user can mend, one line on stderr that says what and how; 3 no defect found;
130 and 143 when interrupted or terminated. Never a traceback (SKULLVAE_DEBUG=1 shows it) and never half a file.

Only what `--help` and a mistyped path need is imported here; torch, MONAI and VTK wait until they are used.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import math
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from . import NOTICE, __version__, latent_cli
from .arguments import words
from .errors import SkullVAEError
from .progress import Report, Stages, json_lines, silent, terminal_bar

if TYPE_CHECKING:
    import numpy as np

    from .completion import Completion
    from .part import Part
    from .part_options import PartOptions
    from .surface import Grey, Mesh

DONE, BAD_INPUT, NO_DEFECT = 0, 2, 3

DISCLAIMER = NOTICE

# In the order of publishing; the report comes last and seals the set.
RESULTS = ("completed.nrrd", "implant.nrrd", "implant.stl", "preview.png", "report.json")

# What a run writes where it is asked to; other numbers than these no run has ever given.
MESH_FORMATS = ("stl", "obj", "ply")
EXTRAS = (
    "host.stl",
    "implant.obj",
    "implant.ply",
    *(f"implant_{number}.{kind}" for kind in MESH_FORMATS for number in ("[1-9]", "[1-9][0-9]")),
)

_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}

# Expected seconds after the completion's own stages, for the progress bar.
_LAST_WEIGHTS = {"mesh": 1.0, "write": 2.0, "preview": 2.0}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (default: the process's) and return the exit code."""
    debug = os.environ.get("SKULLVAE_DEBUG", "") not in ("", "0")
    # Registration and warp are thousands of small parallel steps. Where other work holds a core, threads that spin as
    # they wait for each other made a second's work take twenty; threads that sleep do not. Read once, as torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with ExitStack() as stack:
        if not debug:
            # A library's warning is for us; the user's warnings are in the report.
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        stack.enter_context(_signals_end_the_run())
        try:
            options = _parser().parse_args(arguments)
            return options.run(options)
        except KeyboardInterrupt:
            _say("Interrupted.")
            return 128 + signal.SIGINT
        except Exception as error:
            if debug:
                traceback.print_exc()
            _say(str(explain(error)))
            return BAD_INPUT


def run_complete(options: argparse.Namespace) -> int:
    """`complete`: read, complete, write; see the contract in the module's docstring."""
    from .outputs import publishing
    from .part_options import PartOptions
    from .volume import check_readable

    part_options = PartOptions.parse(
        options.clearance,
        options.thickness,
        options.under_contour,
        options.smooth,
        options.holes,
        options.split,
        thickness_map="ply" in options.format,
    )
    path = check_readable(options.input)
    inputs = [path]
    if options.model is not None:
        inputs.append(_existing_file(options.model))
    with _progress(options.progress) as report:
        with publishing(options.output, (*RESULTS[:-1], *EXTRAS, RESULTS[-1]), inputs) as staging:
            result = _complete_into(staging, path, options, part_options, report)
        # Only now is everything in its place.
        report("done", 1.0)
    for warning in result["warnings"]:
        _say(f"Warning: {warning}")
    if not result["found"]:
        _say(f"No defect was found in '{path.name}', so the results in '{options.output}' hold no implant.")
        return NO_DEFECT
    _say(f"The results are in '{options.output}'. {DISCLAIMER}")
    return DONE


def _complete_into(
    staging: Path, path: Path, options: argparse.Namespace, part_options: PartOptions, report: Report
) -> dict:
    """Complete the skull in the file `path`, prepare every result in `staging` and return the report."""
    from .volume import read_volume, write_volume

    # torch and MONAI take seconds to import, so a bad file is found before them; the bar stays at its start so long.
    start = Stages({"read": 1, "load libraries": 1}, lambda stage, fraction: report(stage, 0.0))
    with start.stage("read"):
        volume = read_volume(path)
    with start.stage("load libraries"):
        import torch._dynamo  # noqa: F401  what the first optimiser would import, a second in the midst of its work

        from .checkpoint import default_model_path, load_model
        from .completion import STAGE_WEIGHTS, CompletionOptions, complete
        from .part import make_part
        from .preview import render_preview
        from .surface import Grey

    stages = Stages({"load model": 1, **STAGE_WEIGHTS, **_LAST_WEIGHTS}, report)
    with stages.stage("load model"):
        device = resolve_device(options.device)
        model_path = default_model_path() if options.model is None else options.model
        model = load_model(model_path, device)
    wishes = CompletionOptions(
        threshold_hu=options.threshold, gamma=options.gamma, prior=options.prior, device=str(device)
    )
    completion = complete(volume, model, wishes, stages)
    result = {
        "software": f"SkullVAE {__version__}",
        "disclaimer": DISCLAIMER,
        "input": path.name,
        "model_file": model_path.name,
        "found": completion.found,
        "mesh": None,
        **completion.report,
    }
    result["warnings"] = list(result.get("warnings", []))
    with stages.stage("mesh"):
        if completion.found:
            about = completion.report["bone"]
            grey = Grey.of(volume, completion.bone, about["threshold_hu"]) if about["kind"] == "ct" else None
            part = make_part(completion, part_options, grey)
            result["warnings"] += part.warnings
            _write_meshes(staging, completion, part, grey, options)
            mesh = part.mesh
            result["mesh"] = {"triangles": len(mesh.faces), "area_mm2": mesh.area_mm2, "volume_ml": mesh.volume_ml}
            result["part"] = {**dataclasses.asdict(part_options), "pieces": [piece.figures for piece in part.pieces]}
            result["implant"] = {**result.get("implant", {}), "area_cm2": round(mesh.area_mm2 / 100, 2)}
        else:
            result["warnings"].append(
                "completed.nrrd is the input's bone, implant.nrrd is empty, and there is no implant.stl,"
                " since an empty mesh cannot be watertight."
            )
    with stages.stage("write"):
        write_volume(completion.completed, staging / "completed.nrrd")
        write_volume(completion.implant, staging / "implant.nrrd")
    with stages.stage("preview"):
        footer = f"{result['software']}, model {result['model_file']}"
        render_preview(completion.bone, completion.implant, staging / "preview.png", title=path.name, footer=footer)
    made = {file.name for file in staging.iterdir() if file.suffix}
    result["files"] = sorted(made | {RESULTS[-1]}, key=lambda name: (name == RESULTS[-1], name))
    seconds = {**start.seconds, **stages.seconds}
    result["seconds"] = {**seconds, "total": round(sum(seconds.values()), 3)}
    (staging / RESULTS[-1]).write_text(as_json_text(result), encoding="utf-8")
    return result


def _write_meshes(
    staging: Path, completion: Completion, part: Part, grey: Grey | None, options: argparse.Namespace
) -> None:
    """The part as implant.*, each piece of several as implant_1.* and so on, and the host's bone where asked for."""
    from .meshfile import write_obj, write_ply, write_stl

    def write(mesh: Mesh, thickness: np.ndarray | None, name: str) -> None:
        write_stl(mesh, staging / f"{name}.stl")
        if "obj" in options.format:
            write_obj(mesh, staging / f"{name}.obj")
        if "ply" in options.format:
            write_ply(mesh, staging / f"{name}.ply", thickness)

    if part.pieces:
        write(part.mesh, part.thickness_mm, "implant")
    if len(part.pieces) > 1:
        for number, piece in enumerate(part.pieces, 1):
            write(piece.mesh, piece.thickness_mm, f"implant_{number}")
    if options.host:
        from .host import host_surface

        write_stl(host_surface(completion, grey), staging / "host.stl")


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
    model_path = None if options.model is None else _existing_file(options.model)

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
    _say(f"'{options.output}' is {what}, drawn from the model with seed {options.seed}: no patient. {DISCLAIMER}")
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
        _say(f"{result['skulls'][split]} {split} skulls, each complete and with two defects, from {', '.join(names)}.")
    _say(f"The set is in '{options.output}'. {DISCLAIMER}")
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
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "bad_alloc" in text:
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


def as_json_text(value: object) -> str:
    """Strict JSON text: numpy values as plain ones, paths as text, numbers JSON does not know (NaN, inf) as null."""

    def plain(item: object) -> object:
        if isinstance(item, dict):
            return {str(key): plain(entry) for key, entry in item.items()}
        if isinstance(item, list | tuple):
            return [plain(entry) for entry in item]
        if hasattr(item, "tolist"):  # a numpy array or number, or a tensor
            return plain(item.tolist())
        if isinstance(item, float) and not math.isfinite(item):
            return None
        return item if isinstance(item, str | int | float | bool | None) else str(item)

    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line, as every other error."""

    def error(self, message: str) -> NoReturn:
        raise SkullVAEError(f"{self.prog}: {message}", f"See {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="skullvae", description=f"Completes defective skulls. {DISCLAIMER}")
    parser.add_argument("--version", action="version", version=f"SkullVAE {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    complete = commands.add_parser(
        "complete",
        help="complete a skull and design its implant",
        description="Completes the skull in INPUT and writes completed.nrrd, implant.nrrd, implant.stl (mm, LPS),"
        f" preview.png and report.json into DIR. {DISCLAIMER}",
        epilog="Exit codes: 0 done, 2 bad input (one line says what and how to mend it), 3 no defect found.",
    )
    complete.add_argument(
        "input",
        metavar="INPUT",
        type=Path,
        help=".nrrd, .nhdr, .nii, .nii.gz or .mha: a skull segmentation with one label, or a CT in HU",
    )
    complete.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="folder for the results")
    complete.add_argument(
        "--threshold", metavar="HU", type=_number, help="bone begins here; a CT is recognised and cut at 300 without it"
    )
    complete.add_argument("--model", metavar="FILE", type=Path, help="model file instead of the shipped one")
    complete.add_argument(
        "--gamma",
        metavar="G",
        type=_number,
        help="move the latent by G deviation vectors: 0 reconstructs, 1 completes (default 1 with --prior dev, else 0)",
    )
    complete.add_argument(
        "--prior",
        choices=("auto", "blend", "encode", "map", "dev", "mean"),
        default="auto",
        help="where the complete shape comes from (default: the way that measured best)",
    )
    _add_part_options(complete)
    complete.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where torch computes")
    complete.add_argument(
        "--progress",
        choices=("json", "bar", "none"),
        default="bar" if sys.stderr is not None and sys.stderr.isatty() else "none",
        help="json: one object a line on stdout; default: a bar on a terminal, else none",
    )
    complete.set_defaults(run=run_complete)

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
    sample.add_argument("--seed", metavar="N", type=_count, default=0, help="another number, another skull and defect")
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
    population.add_argument("--count", metavar="N", type=_count, default=100, help="training skulls (default 100)")
    population.add_argument(
        "--held-out-count", metavar="M", type=_count, help="skulls of held-out individuals (default: a fifth of N)"
    )
    population.add_argument(
        "--holdout",
        metavar="NAMES",
        type=words,
        default=(),
        help="individuals to hold out, with commas between them (default: a fifth of all, drawn by the seed)",
    )
    population.add_argument("--seed", metavar="N", type=_count, default=0, help="another number, another set")
    population.add_argument("--spacing", metavar="MM", type=_number, default=1.5, help="voxel size (default 1.5 mm)")
    population.set_defaults(run=run_population)

    latent_cli.add_parser(commands, _number, _count, DISCLAIMER)
    return parser


def _add_part_options(complete: argparse.ArgumentParser) -> None:
    """The options that say how the implant's mesh shall be made; the voxels stay as they are."""
    part = complete.add_argument_group("the part", "what the meshes shall be, in mm; implant.nrrd stays as it is")
    part.add_argument(
        "--clearance", metavar="MM", type=_number, help="least distance to bone (default 0; 0.5 to print)"
    )
    part.add_argument(
        "--thickness",
        metavar="HOW",
        help="patient (default): as thick as the completed skull; constant:MM; minimum:MM, thicker where that is",
    )
    part.add_argument("--under-contour", metavar="MM", type=_number, help="lower the outer surface by this (default 0)")
    part.add_argument("--smooth", metavar="MM", type=_number, help="smooth the shape, not the rim (default 0.5)")
    part.add_argument("--holes", metavar="D,PITCH,MARGIN", help="perfusion holes, such as 2,10,3 (default none)")
    part.add_argument("--split", metavar="MM", type=_number, help="divide into pieces no longer than this")
    part.add_argument(
        "--format",
        metavar="LIST",
        type=_formats,
        default=("stl",),
        help="stl, obj, ply (with the thickness as colours), comma-separated; STL is always written",
    )
    part.add_argument("--host", action="store_true", help="write the skull's surface as host.stl, too")


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(","))
    if not set(names) <= set(MESH_FORMATS):
        raise ValueError(text)
    return names


_formats.__name__ = "list of stl, obj and ply"  # argparse says "invalid ... value"


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_number.__name__ = "number"  # argparse says "invalid number value"


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise ValueError(text)
    return value


_count.__name__ = "whole number"


def progress_bar():
    """A reporter that draws a bar on a terminal and is silent elsewhere, for a with statement."""
    return _progress("bar" if sys.stderr is not None and sys.stderr.isatty() else "none")


@contextmanager
def _progress(kind: str) -> Iterator[Report]:
    """The progress reporter of a kind. With "json" stdout carries nothing else: what libraries print goes to stderr."""
    if kind == "none":
        yield silent
    elif kind == "bar":
        with _bar() as report:
            yield report
    else:
        with _stdout_kept() as stream:

            def report(stage: str, fraction: float) -> None:
                with redirect_stdout(stream):
                    json_lines(stage, fraction)

            yield report


@contextmanager
def _bar() -> Iterator[Report]:
    """The bar on stderr, whose line is ended before anything else is said there."""
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
def _stdout_kept() -> Iterator:
    """A stream to the real stdout, while descriptor 1 and sys.stdout lead to stderr for everybody else."""
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


def _existing_file(path: Path) -> Path:
    if not path.is_file():
        raise SkullVAEError(f"The model file '{path}' does not exist", "Check the path")
    return path


def _write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    from .outputs import whole_file

    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _say(text: str) -> None:
    """One line on stderr, which may be absent (a windowed program) or closed."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(" ".join(text.split()), file=sys.stderr, flush=True)
