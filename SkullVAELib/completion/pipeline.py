"""Completion: from a patient's volume to the completed skull and the implant, on the patient's own grid."""

from __future__ import annotations

import dataclasses

import numpy as np

from SkullVAELib import __version__
from SkullVAELib.completion.defects import AT_BASE, find_gaps
from SkullVAELib.completion.face import Face
from SkullVAELib.completion.measures import measure
from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.completion.prior import Prior
from SkullVAELib.completion.result import Completion, Patient
from SkullVAELib.core.progress import Stages
from SkullVAELib.core.threads import one_thread
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.patient import place as lay_on_mean
from SkullVAELib.registration.plausibility import Quality
from SkullVAELib.shape.two_table import Shape
from SkullVAELib.shape.warped import ConformedPrior
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
"""Expected shares of the stages; "face" runs where it is wanted."""


TELL_ML = 5.0
"""A gap that was passed over is named from this size on where nothing else was found."""


@one_thread()
def complete(volume: Volume, model: SkullModel, options: CompletionOptions, stages: Stages) -> Completion:
    """Complete a skull and design its implant.

    volume: a one-label segmentation or a CT in HU, on any grid. The completed skull holds every bone voxel of the input
    and the implant none of them. Raises SkullVAEError when the input is no skull, or one whose quality is too low.
    """
    place = lay_on_mean(volume, model, options.threshold_hu, options.box, options.warp, stages)
    quality = Quality.of(place, model.mean.float().cpu())
    quality.require(options.least_quality)
    warnings = quality.warnings
    with stages.stage("prior"):
        prior = Prior.of(model, place.field, place.points_on_mean, options.prior, options.defect_class)
        conformed = ConformedPrior(Shape.of(prior.shape(options.gamma), place.grid), place.warp)
    with stages.stage("gap"):
        skull = place.skull
        gap = find_gaps(conformed, model.spread.cpu(), place.alignment, skull.fraction, skull.distance, options.gap)
    face, passed_over = None, gap.passed_over
    if options.face:
        with stages.stage("face"):
            face = Face.of(place, gap.pieces)
            if face is not None:
                passed_over = face.outside(passed_over)
    report: dict = {
        "version": __version__,
        "model": {"sha256": getattr(model, "sha256", None), "trained": getattr(model, "provenance", {}).get("trained")},
        "parameters": dataclasses.asdict(options),
        "bone": place.about_bone,
        "registration_mm": round(place.aligned.fit_mm, 2),
        "quality": quality.as_json(),
        "passed_over": passed_over[:10],
        "warnings": warnings,
    }
    if face is not None:
        report["face"] = face.as_json(volume)
    patient: Patient | None = None
    if gap.pieces or face is not None:
        with stages.stage("implant"):
            patient = Patient.of(place, quality, prior, gap, conformed, options, face)
            implant, proposal, rim_gap = patient.fill_with(conformed, gap.field[gap.box] if gap.pieces else None)
            report["warnings"] = warnings = patient.warnings
    else:
        implant = np.zeros_like(place.bone.array)
    found = patient is not None and bool(implant.any())
    if patient is not None and found:
        with stages.stage("measure"):
            report["implant"] = measure(volume.with_array(implant), rim_gap) | {"defects": patient.defects}
    else:
        warnings.append(_nothing_found(passed_over, options.face))
    return Completion(
        place.bone,
        volume.with_array(place.bone.array | implant),
        volume.with_array(implant),
        report,
        found,
        proposal if found else None,
        patient if found else None,
    )


def _nothing_found(passed_over: list[dict], face: bool) -> str:
    """The warning that there is no defect; a large gap that was held to be none is named.

    face: whether the face was looked at, too.
    """
    said = "No defect was found. Some segmentation tools close the hole: threshold the CT instead."
    largest = max(passed_over, key=lambda note: note["ml"], default=None)
    if largest is None or largest["ml"] < TELL_ML:
        return said
    said = f"{said} A gap of {largest['ml']:.0f} ml was passed over: {largest['because']}."
    in_face = largest["because"] == AT_BASE and largest["centre_mm"][1] > 0 and not face
    return f"{said} If one side of the face is missing, ask for the face, too." if in_face else said
