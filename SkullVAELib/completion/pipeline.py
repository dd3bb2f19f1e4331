"""The completion pipeline: from a patient's image to the completed skull and the implant, on the patient's own grid."""

from __future__ import annotations

import dataclasses

import numpy as np

from SkullVAELib.completion.defects import AT_SKULL_BASE, find_defects
from SkullVAELib.completion.face import FaceCompletion
from SkullVAELib.completion.measures import measure_implant
from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.completion.prior import Prior
from SkullVAELib.completion.result import Completion, PreparedPatient
from SkullVAELib.core.progress import Stages
from SkullVAELib.core.threads import one_thread
from SkullVAELib.core.version import __version__
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.patient import register_patient
from SkullVAELib.registration.plausibility import Quality
from SkullVAELib.shape.two_table import TwoTableShape
from SkullVAELib.shape.warped import WarpedShape
from SkullVAELib.vae.networks import SkullModel

STAGE_WEIGHTS = {
    "bone": 1.0,
    "register": 2.0,
    "warp": 1.5,
    "prior": 0.5,
    "gap": 1.5,
    "face": 2.0,
    "implant": 1.5,
    "measure": 1.0,
}
"""Expected shares of the computing time of the stages; "face" only runs if it is requested."""

REPORTED_FROM_ML = 5.0
"""A rejected candidate defect of at least this volume is named in the warning that no defect was found."""


@one_thread()
def complete(volume: Volume, model: SkullModel, options: CompletionOptions, stages: Stages) -> Completion:
    """Complete a skull and design its implant.

    Parameters
    ----------
    volume : Volume
        One-label segmentation, or CT in HU, on any grid.
    model : SkullModel
        The model.
    options : CompletionOptions
        The options.
    stages : Stages
        Receives the progress, see `STAGE_WEIGHTS`.

    Returns
    -------
    Completion
        The completed skull contains every bone voxel of the input, the implant none of them.

    Raises
    ------
    SkullVAEError
        If the input is not a skull, or if its plausibility score is below `options.least_quality`.
    """
    registered = register_patient(volume, model, options.threshold_hu, options.roi, options.warp, stages)
    quality = Quality.of(registered, model.mean.float().cpu())
    quality.require(options.least_quality)
    warnings = [*registered.warnings, *quality.warnings]
    with stages.stage("prior"):
        prior = Prior.of(model, registered.field, registered.points_on_mean, options.prior, options.defect_class)
        warped = WarpedShape(TwoTableShape.of(prior.shape(options.gamma), registered.grid), registered.warp)
    with stages.stage("gap"):
        skull = registered.skull
        defects = find_defects(
            warped, model.spread.cpu(), registered.alignment, skull.fraction, skull.distance, options.defects
        )
    face, rejected = None, defects.rejected
    if options.face:
        with stages.stage("face"):
            face = FaceCompletion.of(registered, defects.masks)
            if face is not None:
                rejected = face.outside_face(rejected)
    report: dict = {
        "version": __version__,
        "model": {"sha256": getattr(model, "sha256", None), "trained": getattr(model, "provenance", {}).get("trained")},
        "parameters": dataclasses.asdict(options),
        "bone": registered.about_bone,
        "registration_mm": round(registered.aligned.fit_mm, 2),
        "quality": quality.as_json(),
        "rejected": rejected[:10],
        "warnings": warnings,
    }
    if face is not None:
        report["face"] = face.as_json(volume)
    patient: PreparedPatient | None = None
    if defects.masks or face is not None:
        with stages.stage("implant"):
            patient = PreparedPatient.of(registered, quality, prior, defects, warped, options, face)
            implant, proposal, rim_gap = patient.fill_with(
                warped, defects.field[defects.box] if defects.masks else None
            )
            report["warnings"] = warnings = patient.warnings
    else:
        implant = np.zeros_like(registered.bone.array)
    found = patient is not None and bool(implant.any())
    if patient is not None and found:
        with stages.stage("measure"):
            report["implant"] = measure_implant(volume.with_array(implant), rim_gap) | {"defects": patient.defect_count}
    else:
        warnings.append(_no_defect_warning(rejected, options.face))
    return Completion(
        registered.bone,
        volume.with_array(registered.bone.array | implant),
        volume.with_array(implant),
        report,
        found,
        proposal if found else None,
        patient if found else None,
    )


def _no_defect_warning(rejected: list[dict], face: bool) -> str:
    """The warning that no defect was found; names the largest rejected candidate if it is large.

    face: whether the face was searched, too.
    """
    warning = (
        "No defect was found. If the hole was closed by the segmentation, use the CT with --threshold, or a"
        " segmentation in which the hole is open."
    )
    largest = max(rejected, key=lambda candidate: candidate["ml"], default=None)
    if largest is None or largest["ml"] < REPORTED_FROM_ML:
        return warning
    warning = f"{warning} A candidate defect of {largest['ml']:.0f} ml was rejected: {largest['reason']}."
    in_face = largest["reason"] == AT_SKULL_BASE and largest["centre_mm"][1] > 0 and not face
    if in_face:
        warning += " If one side of the face is missing, use the option that completes the face."
    return warning
