"""Patients whose completion goes on from a finished run's registration, which is most of a run's time."""

from __future__ import annotations

from dataclasses import replace

from SkullVAELib.completion.prior import Prior
from SkullVAELib.completion.result import PreparedPatient
from SkullVAELib.shape.warped import WarpedShape
from SkullVAELib.vae.networks import SkullModel


def without_rim_correction(patient: PreparedPatient) -> PreparedPatient:
    """As after a run with `gaussian_process=None`."""
    options = replace(patient.options, gaussian_process=None)
    return PreparedPatient.of(
        patient.registered, patient.quality, patient.prior, patient.finder, patient.defects, patient.first, options
    )


def with_prior(patient: PreparedPatient, model: SkullModel, kind: str) -> PreparedPatient:
    """As after a run with another prior, but that the defects are those of the first one."""
    registered = patient.registered
    prior = Prior(model, kind, patient.options.defect_class, registered.field, registered.points_on_mean)
    first = WarpedShape(prior.tables(), registered.warp)
    options = replace(patient.options, prior=kind)
    return PreparedPatient.of(
        registered, patient.quality, prior, patient.finder, patient.defects, first, options, patient.face
    )
