"""The command `skullvae complete INPUT -o DIR`: completes a skull and writes it with its implant and a report."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from SkullVAELib.cli.arguments import DICOM_INPUTS, INPUT_SUFFIXES, add_progress_option, existing_model
from SkullVAELib.cli.case_options import add_case_options, parse_case_options, parse_tooling_options
from SkullVAELib.completion.options import parse_point
from SkullVAELib.core.background import Background
from SkullVAELib.core.console import print_message, progress_on, reserved_stdout
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.exit_codes import DONE, NO_DEFECT
from SkullVAELib.core.memory import uncollected
from SkullVAELib.core.progress import Report, Stages
from SkullVAELib.core.version import NOTICE
from SkullVAELib.report.result_names import PUBLISHED_FILES

if TYPE_CHECKING:
    import torch

    from SkullVAELib.completion.options import DefectChoice
    from SkullVAELib.geometry.roi import ROI
    from SkullVAELib.geometry.volume import Volume
    from SkullVAELib.implant.options import ImplantOptions
    from SkullVAELib.implant.tooling import ToolingOptions
    from SkullVAELib.io.dicom_volume import DicomVolume
    from SkullVAELib.registration.segmented_image import SegmentedImage
    from SkullVAELib.report.result_files import RunResult
    from SkullVAELib.vae.networks import SkullModel


# Expected seconds of the stages after the completion, for the progress bar.
_LAST_WEIGHTS = {"mesh": 4.0, "write": 0.3, "preview": 1.0}
_SECONDS_OF_REPORT = 1.6
_SECONDS_PER_PROPOSAL = 1.5
_SECONDS_OF_TOOLING = 5.0
_REFERENCE_SECONDS = 5.0

# An unusable header is found sooner than this after the reader has been imported; then the libraries are not loaded.
_HEADER_SECONDS = 0.03


def add_parser(commands) -> None:
    """Add `complete` to the command line."""
    complete = commands.add_parser(
        "complete",
        help="complete a skull and design its implant",
        description="Completes the skull in INPUT and writes completed.nrrd, implant.nrrd, implant.stl (mm, LPS),"
        f" preview.png and report.json into DIR. {NOTICE}",
        epilog="Exit codes: 0 done, 2 user-correctable error (one line states cause and remedy), 3 no defect found.",
    )
    complete.add_argument(
        "input",
        metavar="INPUT",
        type=Path,
        help=f"{INPUT_SUFFIXES}: a skull segmentation with one label, or a CT in HU; or {DICOM_INPUTS}: the most"
        " suitable CT series, see --series",
    )
    complete.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="folder for the results")
    add_case_options(complete)
    add_progress_option(complete)
    complete.add_argument(
        "--no-preview",
        action="store_true",
        help="do not draw preview.png, for a program that shows the result itself",
    )
    complete.add_argument(
        "--interactive",
        action="store_true",
        help="after the run, keep running and respond to requests on stdin, one JSON object per line, until stdin is"
        ' closed. Requests: {"request": 7, "gamma": 0.5} for another shape; {"request": 7, "proposal": 3} for another'
        ' proposal; {"request": 7, "defects": {"filled": [1, 3], "at": [[R, A, S]]}} to fill the candidate defects with'
        ' these numbers and the holes nearest to the points; {"request": 7, "edited": "FILE.nrrd"} for the implant of'
        ' voxels edited by hand; {"request": 7, "points": [[R, A, S]]} to move the outer surface through points;'
        ' {"request": 7, "implant": {"clearance": 0.5, "thickness":'
        ' "constant:4", "under_contour": 0, "smooth": 0.5, "holes": "2,10,3", "split": null, "insertable": null}} for'
        " another printable implant of the shape;"
        ' {"request": 7, "tooling": {"mould": true}} for additional printed parts of the implant;'
        ' {"request": 7, "skull": true} for skull.stl; {"request": 7, "report": true} for report.html. Files are'
        ' written to DIR/responses/7, followed by a line {"response": 7, ...} on stdout; after a line with "more": true'
        " another line follows, with the mesh. If no defect is found, the process waits for a request for defects",
    )
    complete.set_defaults(run=run_complete)


def run_complete(options: argparse.Namespace) -> int:
    """Run `complete` and return the exit code, see `SkullVAELib.cli.main`."""
    from SkullVAELib.core.atomic_output import publish_files
    from SkullVAELib.io.images import check_readable, is_dicom
    from SkullVAELib.report.rating import Ratings
    from SkullVAELib.session.cleanup import remove_responses

    implant_options, roi, choice = parse_case_options(options)
    tooling = parse_tooling_options(options)
    path = check_readable(options.input)
    if options.dicom:
        from SkullVAELib.report.dicom_output import check_dicom_output

        check_dicom_output(path)
    inputs = [path]
    if options.model is not None:
        inputs.append(existing_model(options.model))
    if options.reference is not None:
        inputs.append(_existing_reference(options, path))
    with ExitStack() as stack:
        keeps_stdout = options.interactive or options.progress == "json"
        stream = stack.enter_context(reserved_stdout()) if keeps_stdout else None
        requests = None
        if options.interactive:
            from SkullVAELib.session.protocol import Requests

            requests = stack.enter_context(Requests.from_stdin())
        report = stack.enter_context(progress_on(stream, options.progress))
        with publish_files(options.output, PUBLISHED_FILES, inputs) as staging, ExitStack() as opened:
            result = _complete_into(staging, path, options, implant_options, tooling, roi, choice, report, opened)
            remove_responses(options.output)  # before the new results appear: responses belong to the earlier ones
        # The files are in place only now.
        report("done", 1.0)
        for warning in result.report["warnings"]:
            print_message(f"Warning: {warning}")
        if not result.report["found"]:
            # The name of a folder of DICOM files may be that of a patient.
            what = result.report["input"] if is_dicom(path) else f"'{path.name}'"
            print_message(f"No defect was found in {what}: the results in '{options.output}' contain no implant.")
        else:
            ratings = Ratings.of(result.report)
            if ratings.overall:
                print_message(f"Overall rating: {ratings.overall}. Of the rated figures, {ratings.text}.")
            print_message(f"The results are in '{options.output}'. {NOTICE}")
        if requests is not None and stream is not None and result.completion.patient is not None:
            from SkullVAELib.session.server import serve

            serve(result, requests, options.output, stream)
    return DONE if result.report["found"] else NO_DEFECT


def _existing_reference(options: argparse.Namespace, path: Path) -> Path:
    """The path of --reference with the name of the input put in; raises SkullVAEError where it is missing."""
    from SkullVAELib.io.images import check_readable, image_name

    options.reference = options.reference.replace("{name}", image_name(path))
    reference = Path(options.reference)
    if reference.suffix.lower() in (".stl", ".ply", ".obj"):
        if not reference.is_file():
            raise SkullVAEError(f"The reference '{reference}' does not exist", "Check the path of --reference")
        return reference
    return check_readable(reference)


def _complete_into(
    staging: Path,
    path: Path,
    options: argparse.Namespace,
    implant_options: ImplantOptions,
    tooling: ToolingOptions,
    roi: ROI | None,
    choice: DefectChoice,
    report: Report,
    opened: ExitStack,
) -> RunResult:
    """Complete the skull in the file `path`, write all files into `staging` and return the result.

    opened: keeps DICOM files of an archive until the results are written.
    """
    # torch takes a second to import, beside which the file is read; until then the bar stays at its start.
    start = Stages({"read": 1, "load libraries": 1}, lambda stage, fraction: report(stage, 0.0))
    with Background(_load_libraries, _HEADER_SECONDS) as libraries:
        with start.stage("read"):
            volume, source = _read(path, options, opened)
        with start.stage("load libraries"):
            # Beside the rest of the import; what is wrong with the image is told by `complete`.
            segmenting = opened.enter_context(Background(partial(_segment, volume, options.threshold, roi)))
            libraries.finish()
            from SkullVAELib.completion.options import CompletionOptions
            from SkullVAELib.completion.pipeline import STAGE_WEIGHTS, complete
            from SkullVAELib.core.threads import claim_buffers
            from SkullVAELib.registration.options import REFUSE_BELOW
            from SkullVAELib.vae.checkpoint import load_model
            from SkullVAELib.vae.default_model import default_model_path
            from SkullVAELib.vae.device import resolve_device

            claim_buffers()

    weights = {"load model": 0.2, **STAGE_WEIGHTS, **_LAST_WEIGHTS}
    face = options.face or options.defect == "facial"
    if not face:
        weights.pop("face", None)
    if options.report:
        weights["preview"] += _SECONDS_OF_REPORT
    if options.reference is not None:
        weights["implant"] += _REFERENCE_SECONDS
    if options.proposals > 1:
        weights["proposals"] = _SECONDS_PER_PROPOSAL * (options.proposals - 1)
    if tooling.any:
        weights["tooling"] = _SECONDS_OF_TOOLING
    if options.no_preview and not options.report:
        weights["preview"] = 0.05
    stages = Stages(weights, report)
    with stages.stage("load model"):
        device = resolve_device(options.device)
        model_path = default_model_path() if options.model is None else options.model
        model = _preloaded_model(model_path, device) or load_model(model_path, device)
    completion_options = CompletionOptions(
        threshold_hu=options.threshold,
        roi=roi,
        fragments=options.fragments,
        gamma=options.gamma,
        prior=options.prior,
        defect_class=options.defect,
        device=str(device),
        face=face,
        choice=choice,
        through=tuple(map(parse_point, options.through)),
        least_quality=0.0 if options.force else REFUSE_BELOW,
        reference=options.reference,
    )
    # What writes the results is imported beside the completion: VTK and Pillow take a quarter of a second.
    with Background(_load_output_libraries) as output_libraries:
        completion = complete(volume, model, completion_options, stages, segmenting.finish)
        output_libraries.finish()
    from SkullVAELib.report.result_files import OutputOptions, RunResult, write_files

    result = RunResult.of(completion, implant_options, options.format, volume.name, model_path.name)
    result = dataclasses.replace(result, uncertain=options.uncertainty)
    outputs = OutputOptions(
        options.proposals,
        options.uncertainty,
        options.skull,
        options.display,
        html_report=options.report,
        preview=not options.no_preview,
        dicom_source=source if options.dicom else None,
        tooling=tooling,
    )
    return write_files(result, staging, outputs, stages, start.seconds)


@dataclass(frozen=True)
class _Preloaded:
    """A model that was loaded before a run, with the state of its file and its device."""

    file: tuple
    device: str
    model: SkullModel


_preloaded: _Preloaded | None = None


def preload(model_path: Path, device: str) -> None:
    """Load libraries and model, and compute what depends on the model alone, for a run of `complete` in this process.

    Parameters
    ----------
    model_path : Path
        The model file; a run with another model loads that one.
    device : {"auto", "cpu", "cuda"}
        Device of the model.

    Raises
    ------
    SkullVAEError
        If the model or the device cannot be used.
    """
    global _preloaded
    load_libraries()
    import SkullVAELib.session.server  # noqa: F401
    from SkullVAELib.completion.defect_classifier import default_classifier
    from SkullVAELib.core.threads import claim_buffers, one_thread
    from SkullVAELib.registration.reference import MeanSkull
    from SkullVAELib.vae.checkpoint import load_model
    from SkullVAELib.vae.device import resolve_device

    claim_buffers()
    where = resolve_device(device)
    file = _state_of(model_path)
    model = load_model(model_path, where)
    with one_thread():  # as in a completion, so that the bits are the same
        MeanSkull.of(model).prepare()
    default_classifier()
    _preloaded = _Preloaded(file, str(where), model)


def _preloaded_model(path: Path, device: torch.device) -> SkullModel | None:
    """The model that was loaded before the run, if it is of this file as the file is now, and on this device."""
    if _preloaded is None or _preloaded.device != str(device):
        return None
    try:
        return _preloaded.model if _preloaded.file == _state_of(path) else None
    except OSError:
        return None


def _state_of(path: Path) -> tuple:
    """Identifies a file and its content, without reading it."""
    status = path.stat()
    return path.resolve(), status.st_size, status.st_mtime_ns


def load_libraries() -> None:
    """Import all that a completion and its results need, for a process that runs several."""
    _load_libraries()
    _load_output_libraries()


def _read(path: Path, options: argparse.Namespace, opened: ExitStack) -> tuple[Volume, DicomVolume | None]:
    """The volume of a file, or of a DICOM series with its slices; files of an archive are kept in `opened`."""
    from SkullVAELib.io.images import check_dicom_options, is_dicom, read_volume

    if not is_dicom(path):
        return read_volume(path, options.segment, options.series), None
    from SkullVAELib.io.dicom_series import open_study
    from SkullVAELib.io.dicom_volume import read_series

    check_dicom_options(options.segment)
    study = opened.enter_context(open_study(path))
    chosen = study.choose(options.series, options.force)
    source = read_series(study, chosen, options.series is not None, options.force)
    return source.volume, source


def _segment(volume: Volume, threshold_hu: float | None, roi: ROI | None) -> SegmentedImage:
    from SkullVAELib.registration.segmented_image import SegmentedImage

    return SegmentedImage.of(volume, threshold_hu, roi)


def _load_libraries() -> None:
    """Import what a completion needs."""
    # Only for the first import: what a longer program has created by then may still become garbage.
    with nullcontext() if "torch" in sys.modules else uncollected():
        import SkullVAELib.completion.pipeline
        import SkullVAELib.vae.checkpoint  # noqa: F401


def _load_output_libraries() -> None:
    """Import what writes the results."""
    import SkullVAELib.report.result_files  # noqa: F401
