"""Completion: from a patient's volume to the completed skull and the implant, on the patient's own grid."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from . import __version__
from .box import Box
from .conformed import ConformedPrior, LaidShape, Shape
from .errors import SkullVAEError
from .face import Face, JoinedShape, MirrorImage, joined_score
from .frame import apply_affine, canonical_field, crop
from .gaps import AT_BASE, Gap, GapOptions, find_gaps
from .implant import allowance, fill, measure
from .networks import SkullModel
from .placement import Placement
from .placement import place as lay_on_mean
from .prior import PRIORS, Prior
from .progress import Stages
from .quality import REFUSE_BELOW, Quality
from .rim import RimOptions, RimSite
from .threads import one_thread
from .uncertainty import Uncertainty
from .volume import Volume
from .warp import WarpOptions

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

_FACE_SAYS = (
    "Bone of the face is completed by the mirror image of its other side: nothing is added where that lacks it, too,"
    " and thin walls are least certain."
)


@dataclass(frozen=True)
class CompletionOptions:
    """How a skull is completed.

    threshold_hu: bone threshold for a CT, None to detect; box: outside of it nothing is bone; prior: where the complete
    shape comes from: "encode" the defective skull's own latent; "dev" that latent moved by gamma * DEV, gamma 1 unless
    told (0 reconstructs); "map" a search for the latent that fits intact bone; "mean" the training skulls' mean shape;
    "blend" the mean of mean and encode, of the head and of its mirror image; "auto" what measured best, blend;
    face: whether bone that one side of the face lacks is completed, too, by its mirror image;
    least_quality: what scores less, see quality.py, is refused; 0 refuses nothing.
    """

    threshold_hu: float | None = None
    box: Box | None = None
    gamma: float | None = None
    prior: str = "auto"
    defect_class: str = "cranial"
    device: str = "auto"
    face: bool = False
    least_quality: float = REFUSE_BELOW
    warp: WarpOptions = field(default_factory=WarpOptions)
    rim: RimOptions | None = field(default_factory=RimOptions)
    gap: GapOptions = field(default_factory=GapOptions)

    def __post_init__(self):
        if self.prior not in PRIORS:
            raise SkullVAEError(f"The prior '{self.prior}' is unknown", f"Use one of {', '.join(PRIORS)}")


@dataclass(frozen=True)
class Proposal:
    """The implant below the voxel size: what its voxels were made of.

    conformed: the complete vault laid on the patient; alignment: (4, 4) patient RAS mm -> canonical mm; score: float32
    volume, positive where bone is missing; shape: the complete head, of which the vault is all but the face.
    """

    conformed: ConformedPrior
    alignment: np.ndarray
    score: Volume
    shape: LaidShape

    def of_face(self, points: np.ndarray) -> np.ndarray:
        """Which points (N, 3) in RAS mm the mirror image tells, (N,) bool."""
        if isinstance(self.shape, JoinedShape):
            return self.shape.of_face(apply_affine(self.alignment, points))
        return np.full(len(points), isinstance(self.shape, MirrorImage))


@dataclass(frozen=True)
class Completion:
    """A completed skull: bool volumes on the input's grid, figures for the report, and whether a defect was found.

    proposal: what the implant was made of, patient: what makes others, None when no defect was found.
    """

    bone: Volume
    completed: Volume
    implant: Volume
    report: dict
    found: bool
    proposal: Proposal | None = None
    patient: Patient | None = None

    @cached_property
    def uncertainty(self) -> Uncertainty | None:
        """What bone leaves open of the implant; None where there is none, or no rim correction was wanted."""
        if self.patient is None or self.proposal is None:
            return None
        return self.patient.uncertainty(self.proposal)


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


@dataclass(frozen=True)
class Patient:
    """A patient whose defects are found, ready for another complete shape in them: all that stays as it was is kept.

    Where bone is missing is told once, by the first shape. Another one fills the same gaps and may come out of them by
    a few millimetres, as the first; it is laid on the patient by the same warp and meets the bone at the rim by its own
    rim correction. What the face lacks is the same with every shape.
    """

    place: Placement
    quality: Quality
    prior: Prior
    gap: Gap
    site: RimSite | None
    options: CompletionOptions
    face: Face | None = None

    @property
    def warnings(self) -> list[str]:
        """What a reader must know whatever the shape is."""
        return self.quality.warnings + ([_FACE_SAYS] if self.face is not None else [])

    @property
    def defects(self) -> int:
        """Defects of vault and face."""
        return len(self.gap.pieces) + (0 if self.face is None else len(self.face.gap.pieces))

    @cached_property
    def _nearer_to_face(self) -> Volume:
        """See Face.nearer; the same for every shape. There must be a gap in both."""
        assert self.face is not None
        return self.face.nearer(self.gap.pieces, self.place.skull.fraction.spacing)

    @classmethod
    def of(
        cls,
        place: Placement,
        quality: Quality,
        prior: Prior,
        gap: Gap,
        first: ConformedPrior,
        options: CompletionOptions,
        face: Face | None = None,
    ) -> Patient:
        """The patient whose gaps the first shape found."""
        site = None
        if options.rim is not None and gap.pieces:
            fraction, aligned, grid = place.skull.fraction, place.aligned, place.grid
            bone, _ = canonical_field(fraction, place.skull.distance, aligned.matrix, grid)
            at = np.concatenate([np.argwhere(piece) for piece in gap.pieces])
            at = apply_affine(aligned.matrix @ fraction.affine, at)
            site = RimSite.of(first, aligned.points, aligned.normals, bone, at, options.rim)
        return cls(place, quality, prior, gap, site, options, face)

    @one_thread()
    def completion(
        self, gamma: float | None = None, noise: torch.Tensor | None = None, draw: int | None = None
    ) -> Completion:
        """The completion with another shape, see Prior.shape; its report holds what depends on the shape: "implant" and
        "warnings". `found` is False where nothing is left of the implant.

        draw: number of a draw from what bone leaves open, see Uncertainty; None for the most likely tables.
        """
        place = self.place
        conformed = ConformedPrior(Shape.of(self.prior.shape(gamma, noise), place.grid), place.warp)
        field = None
        if self.gap.pieces:
            around = crop(place.skull.fraction, self.gap.box)
            index = np.indices(around.array.shape).reshape(3, -1).T
            field = conformed.at_voxels(place.alignment @ around.affine, index).reshape(around.array.shape)
        implant, proposal, rim_gap = self.fill_with(conformed, field, draw)
        mask = place.bone.with_array(implant)
        found = bool(implant.any())
        report: dict = {"warnings": self.warnings}
        if found:
            report["implant"] = measure(mask, rim_gap) | {"defects": self.defects}
        completed = place.bone.with_array(place.bone.array | implant)
        return Completion(place.bone, completed, mask, report, found, proposal if found else None, self)

    def uncertainty(self, proposal: Proposal) -> Uncertainty | None:
        """What bone leaves open of a proposal; None where no rim correction was wanted."""
        if self.site is None:
            return None
        return Uncertainty(self.place.grid, self.site, self.site.regressions(proposal.conformed))

    def fill_with(
        self, conformed: ConformedPrior, field: np.ndarray | None, draw: int | None = None
    ) -> tuple[np.ndarray, Proposal, float]:
        """The implant's voxels made of a shape, the shape as it was used, and the rim gap in mm.

        field: of the shape before the rim correction, canonical mm, on the gap's box of the reduced grid, None where
        the vault has no gap; draw: see completion.
        """
        place, face, rim_gap = self.place, self.face, float("nan")
        if field is None:
            if face is None:
                raise ValueError("a patient without a gap has no implant")
            return face.implant, Proposal(conformed, place.alignment, face.where.score, face.image), rim_gap
        if self.site is not None:
            regressions = self.site.regressions(conformed)
            conformed = self.site.correct(conformed, regressions)
            if draw is not None and conformed.corrections is not None:
                drawn = Uncertainty(place.grid, self.site, regressions).draws(1, seed=draw)[0]
                conformed = dataclasses.replace(conformed, corrections=conformed.corrections + drawn)
            rim_gap = self.site.gap_mm(conformed)
        where = allowance(place.skull.fraction, self.gap, field)
        implant = fill(conformed, place.alignment, place.bone, self.gap, where, self.options.gap.smallest_ml)
        if face is None:
            return implant, Proposal(conformed, place.alignment, where.score, conformed), rim_gap
        shape = JoinedShape(conformed, face.image, self._nearer_to_face)
        score = joined_score(where.score, face.where.score, place.skull.fraction)
        return implant | face.implant, Proposal(conformed, place.alignment, score, shape), rim_gap
