"""The public functions of the library, which `SkullVAELib` itself offers: read, complete, design, write, evaluate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from SkullVAELib.completion import pipeline
from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.core.atomic_output import publish_files
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.progress import Report, Stages, silent
from SkullVAELib.core.threads import claim_buffers
from SkullVAELib.evaluation.folders import CaseScore, evaluate_folders
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.implant.options import MESH_FORMATS, ImplantOptions
from SkullVAELib.io.images import read_volume
from SkullVAELib.mesh.three_mf import check_3mf
from SkullVAELib.report.result_files import OutputOptions, RunResult, write_files
from SkullVAELib.report.result_names import PUBLISHED_FILES
from SkullVAELib.session.cleanup import remove_responses
from SkullVAELib.vae import checkpoint
from SkullVAELib.vae.default_model import default_model_path
from SkullVAELib.vae.device import resolve_device
from SkullVAELib.vae.networks import SkullModel


def read_image(path: str | os.PathLike, segment: str | int | None = None, series: str | None = None) -> Volume:
    """Read a head CT in Hounsfield units or a skull segmentation.

    Parameters
    ----------
    path : str or path
        A 3D image: .nrrd, .nhdr, .nii, .nii.gz, .mha or .mhd; or DICOM: a folder, a zip archive, a DICOMDIR or a file.
    segment : str or int, optional
        Name of a segment of a .seg.nrrd file, or its number; not needed if there is one segment only.
    series : str, optional
        Number or UID of a DICOM series; by default the most suitable CT series is taken.

    Returns
    -------
    Volume
        `array` (I, J, K) in the file's own axis order; `affine` (4, 4), voxel index to RAS in mm; `name` of the file;
        `warnings` about its header, which `complete` adds to those of the report.

    Raises
    ------
    SkullVAEError
        The file is missing, damaged, not a 3D image with one value per voxel, its axes are not perpendicular, or it has
        several segments and `segment` chooses none.
    """
    return read_volume(path, segment, series)


def load_model(path: str | os.PathLike | None = None, device: str = "auto") -> SkullModel:
    """Load a model.

    Parameters
    ----------
    path : str or path, optional
        A .safetensors file written by Training/train.py; the model that ships with SkullVAE by default.
    device : {"auto", "cpu", "cuda"}
        Where torch computes; "auto" takes a graphics card if there is one.

    Returns
    -------
    SkullModel
        `sha256` and `provenance` identify it.

    Raises
    ------
    SkullVAEError
        The file is missing or not a model of this method, or there is no graphics card for "cuda".
    """
    return checkpoint.load_model(default_model_path() if path is None else Path(path), resolve_device(device))


def complete(
    image: Volume,
    model: SkullModel | None = None,
    options: CompletionOptions | None = None,
    implant_options: ImplantOptions | None = None,
    progress: Report = silent,
) -> RunResult:
    """Complete a skull and design its implant.

    Parameters
    ----------
    image : Volume
        A CT in Hounsfield units or a segmentation with one label, on any grid.
    model : SkullModel, optional
        The default model, loaded anew, if omitted: pass one to complete several skulls.
    options : CompletionOptions, optional
        How the skull is completed.
    implant_options : ImplantOptions, optional
        Clearance, thickness, perforation and splitting of the printable implant.
    progress : callable, optional
        Called with the name of the stage and the fraction done, 0 to 1.

    Returns
    -------
    RunResult
        `found`: whether a defect was found; `bone`, `completed`, `implant`: bool volumes on the grid of `image`;
        `printable`: the implant's mesh in RAS mm; `report`: figures and warnings, see the reference of report.json.
        `completed` holds every bone voxel of the input, `implant` none of them.

    Raises
    ------
    SkullVAEError
        The image has no bone, is not plausible as a skull, or the model lacks what the options ask for.
    """
    claim_buffers()
    model = load_model() if model is None else model
    device: torch.device = model.mean.device
    options = replace(options or CompletionOptions(), device=str(device))
    stages = Stages({**pipeline.STAGE_WEIGHTS, "mesh": 1.0}, progress)
    completion = pipeline.complete(image, model, options, stages)
    name = image.name or "image"
    result = RunResult.of(completion, implant_options or ImplantOptions(), ("stl",), name, model.file_name)
    if result.found:
        with stages.stage("mesh"):
            result = result.with_implant(insertion=True)
    stages.finish()
    return replace(result, report=result.report | {"seconds": stages.seconds})


def make_implant(result: RunResult, options: ImplantOptions) -> RunResult:
    """Make another printable implant of a result; its voxels stay as they are.

    Parameters
    ----------
    result : RunResult
        Of `complete`, with a defect.
    options : ImplantOptions
        Clearance, thickness, perforation and splitting.

    Returns
    -------
    RunResult
        A copy with another `printable` and its figures in `report["printable_implant"]`.

    Raises
    ------
    ValueError
        The result has no defect.
    """
    if not result.found:
        raise ValueError("a result without a defect has no implant")
    return result.with_implant(options)


def write_result(
    result: RunResult,
    folder: str | os.PathLike,
    formats: Sequence[str] = ("stl",),
    skull: bool = False,
    html_report: bool = False,
    uncertainty: bool = False,
) -> list[Path]:
    """Write the files of a result, as the command line does: all of them, or none where one fails.

    Parameters
    ----------
    result : RunResult
        Of `complete` or `make_implant`.
    folder : str or path
        Made where it is missing; an earlier result there is replaced, other files stay.
    formats : sequence of {"stl", "obj", "ply", "3mf"}
        Mesh formats; STL is always written, and 3MF needs the package lib3mf.
    skull : bool
        Write the surface of the defective skull as skull.stl.
    html_report : bool
        Write report.html, one file with figures and pictures.
    uncertainty : bool
        Write implant_uncertainty.ply, the implant's surface with its 90 % uncertainty band in mm.

    Returns
    -------
    list of Path
        The files, the report last.

    Raises
    ------
    SkullVAEError
        A format is unknown, the folder cannot be written to, or a file there may be the input.
    """
    if unknown := sorted(set(formats) - set(MESH_FORMATS)):
        raise SkullVAEError(f"The mesh format '{unknown[0]}' is unknown", f"Use {', '.join(MESH_FORMATS)}")
    if "3mf" in formats:
        check_3mf()
    folder = Path(folder)
    result = replace(result, formats=tuple(formats), uncertain=uncertainty)
    if "ply" in formats and not result.options.thickness_map:
        # A PLY stores the thickness at every vertex.
        result = replace(result, options=replace(result.options, thickness_map=True), printable_implant=None)
    outputs = OutputOptions(uncertainty=uncertainty, skull=skull, html_report=html_report)
    # Of the input only the name is known.
    source = folder / result.report["input"]
    inputs = [source] if source.name in PUBLISHED_FILES and source.exists() else []
    with publish_files(folder, PUBLISHED_FILES, inputs) as staging:
        files = write_files(result, staging, outputs, Stages({}), result.report["seconds"]).report["files"]
        remove_responses(folder)  # they belong to the earlier result
    return [folder / name for name in files]


def evaluate(truth: str | os.PathLike, prediction: str | os.PathLike) -> list[CaseScore]:
    """Score predicted implants against true ones: DSC, bDSC and HD95, on the truth's own grid.

    Parameters
    ----------
    truth, prediction : str or path
        Folders of implant masks, flat, one folder a case, or laid out as SkullFix and SkullBreak.

    Returns
    -------
    list of CaseScore
        `dsc`, `bdsc` (None without a defective skull), `hd95_mm` (infinite for an empty prediction) of each case.

    Raises
    ------
    SkullVAEError
        A case has no prediction, or two grids differ.

    Notes
    -----
    The measures are those of the AutoImplant challenge (https://autoimplant2021.grand-challenge.org).
    """
    return evaluate_folders(Path(truth), Path(prediction))
