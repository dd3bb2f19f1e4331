"""The completion pipeline: from a patient's image to the completed skull and the implant, on the patient's own grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from SkullVAELib.completion.defect_classifier import default_classifier
from SkullVAELib.completion.defects import DOUBTFUL, DefectFinder, NumberedCandidate
from SkullVAELib.completion.face import FaceCompletion
from SkullVAELib.completion.fill import FilledDefects
from SkullVAELib.completion.measures import measure_implant, outside_warnings
from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.completion.prior import Prior
from SkullVAELib.completion.result import Completion, PreparedPatient, edited_by_points
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.progress import Stages, report_step
from SkullVAELib.core.threads import one_thread
from SkullVAELib.core.version import __version__
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.known_bone import KnownBone
from SkullVAELib.registration.patient import register_patient
from SkullVAELib.registration.plausibility import Quality
from SkullVAELib.registration.reference import MeanSkull
from SkullVAELib.registration.segmented_image import SegmentedImage
from SkullVAELib.shape.warped import WarpedShape
from SkullVAELib.vae.networks import SkullModel

STAGE_WEIGHTS = {
    "bone": 1.4,
    "register": 1.2,
    "warp": 0.8,
    "prior": 0.1,
    "gap": 2.0,
    "face": 2.0,
    "implant": 0.8,
    "measure": 0.3,
}
"""Expected shares of the computing time of the stages; "face" only runs if it is requested."""

THICK_MM = 2.0
"""Voxel spacing in mm above which the user is warned."""

MOST_SLICE_MM = 6.5
"""Voxel spacing in mm above which an image is refused: slices farther apart than the bone is thick show no shape."""


@one_thread()
def complete(
    volume: Volume,
    model: SkullModel,
    options: CompletionOptions,
    stages: Stages,
    segmented: Callable[[], SegmentedImage] | None = None,
) -> Completion:
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
    segmented : callable, optional
        Returns the bone of the volume, see `register_patient`.

    Returns
    -------
    Completion
        The completed skull contains every bone voxel of the input, the implant none of them.

    Raises
    ------
    SkullVAEError
        If the input is not a skull, or if its plausibility score is below `options.least_quality`.
    """
    coarse = _resolution_warnings(volume, options.least_quality)
    known = None if options.reference is None else KnownBone.read(options.reference, options.threshold_hu)
    registered = register_patient(
        volume, model, options.threshold_hu, options.roi, options.warp, stages, options.fragments, segmented
    )
    quality = Quality.of(registered, MeanSkull.of(model))
    quality.require(options.least_quality, volume.warnings)
    with stages.stage("prior"):
        prior = Prior(model, options.prior, options.defect_class, registered.field, registered.points_on_mean)
        warped = WarpedShape(prior.tables(options.gamma), registered.warp)
    with stages.stage("gap"):
        finder = DefectFinder.of(
            warped,
            model.spread.cpu(),
            registered.alignment,
            registered.skull,
            float(volume.spacing.max()),
            default_classifier(),
            options.defects,
        )
        defects = finder.choose(options.choice)
    face = None
    if options.face:
        with stages.stage("face"):
            face = FaceCompletion.of(registered, defects.masks)
    report: dict = {
        "version": __version__,
        "model": {"sha256": getattr(model, "sha256", None), "trained": getattr(model, "provenance", {}).get("trained")},
        "parameters": _parameters(options),
        "bone": registered.about_bone,
        "registration_mm": round(registered.aligned.fit_mm, 2),
        "quality": quality.as_json(),
    }
    if face is not None:
        report["face"] = face.as_json(volume)
    with stages.stage("implant"):
        patient = PreparedPatient.of(registered, quality, prior, finder, defects, warped, options, face, known)
        report_step(0.7)
        report["candidates"] = patient.candidates
        if patient.reference is not None:
            report["reference"] = patient.reference.as_json()
        proposal, rim_gap = None, float("nan")
        if defects.masks or face is not None:
            filled, proposal, rim_gap = patient.fill_with(warped, defects.field[defects.box] if defects.masks else None)
        else:
            filled = FilledDefects.nothing(registered.bone)
    report["warnings"] = warnings = list(patient.warnings)
    found = bool(filled.whole.array.any())
    if found:
        with stages.stage("measure"):
            report["implant"] = measure_implant(registered.bone, filled, rim_gap) | {"defects": patient.defect_count}
        warnings += outside_warnings(registered.bone, filled)
        if proposal is not None:
            report |= edited_by_points(proposal)
    else:
        # The voxel size is part of the self-check of an implant.
        warnings += coarse
        warnings.append(_no_defect_warning(defects.candidates, options.face, registered.about_bone["threshold_hu"]))
    return Completion(
        registered.bone,
        volume.with_array(registered.bone.array | filled.mask),
        volume.with_array(filled.mask),
        report,
        found,
        proposal if found else None,
        patient,
        filled.whole if found else None,
    )


def _parameters(options: CompletionOptions) -> dict:
    """The options for the report, in which a file has its name only."""
    parameters = dataclasses.asdict(options)
    if options.reference is not None:
        parameters["reference"] = Path(options.reference).name
    return parameters


def _resolution_warnings(volume: Volume, least_quality: float) -> list[str]:
    """Warnings about large voxels.

    Raises
    ------
    SkullVAEError
        Slices are too far apart, unless every input is accepted.
    """
    coarse = float(volume.spacing.max())
    if coarse <= THICK_MM:
        return []
    thick = coarse > 1.5 * volume.spacing.min()
    what = f"Slices of {coarse:.1f} mm" if thick else f"Voxels of {coarse:.1f} mm"
    if coarse > MOST_SLICE_MM and least_quality > 0:
        raise SkullVAEError(
            f"{what} are too coarse for an implant, which is as thick as one of them",
            "Choose a series with slices of at most 1 mm, or correct the voxel size in the file's header; --force"
            f" completes images above {MOST_SLICE_MM:g} mm",
        )
    return [
        f"{what} are coarse: the surface between {'slices' if thick else 'them'} is interpolated, so the implant is"
        " less accurate. Choose a series with a voxel size of at most 1 mm if there is one."
    ]


def _no_defect_warning(candidates: Sequence[NumberedCandidate], face: bool, threshold_hu: float | None) -> str:
    """The warning that no defect was found; names the most probable candidate.

    face: whether the face was searched, too; threshold_hu: of a CT, None for a segmentation.
    """
    likely = max(candidates, key=lambda c: c.probability, default=None)
    complete = likely is None or likely.probability < DOUBTFUL
    reason = " Most likely the skull is complete." if complete else ""
    see = "if you see the hole, point to it with --at R,A,S (in Slicer: Point at a hole)."
    if threshold_hu is None:
        warning = (
            f"No defect was found.{reason} If the segmentation closes the hole, use the CT or a segmentation in which"
            f" the hole is open; if a bone flap closes it, use --fragments ignore; {see}"
        )
    else:
        warning = (
            f"No defect was found at the threshold of {threshold_hu:g} HU.{reason} If a bone flap, a mesh or noise"
            f" closes the hole, use --fragments ignore or a higher --threshold; {see}"
        )
    if likely is not None:
        warning += (
            f" The most probable candidate is number {likely.number} of {likely.place} (probability"
            f" {likely.probability:.2f}): {likely.reason}."
        )
    if not face:
        warning += " If one side of the face is missing, use --face (in Slicer: Also complete the face)."
    return warning
