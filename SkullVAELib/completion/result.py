"""The result of a completion, and the patient prepared for further ones."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from SkullVAELib.completion.defects import Gap
from SkullVAELib.completion.face import Face, JoinedShape, MirrorImage, joined_score
from SkullVAELib.completion.fill import allowance, fill
from SkullVAELib.completion.gaussian_process import RimSite
from SkullVAELib.completion.measures import measure
from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.completion.prior import Prior
from SkullVAELib.completion.uncertainty import Uncertainty
from SkullVAELib.core.threads import one_thread
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.registration.patient import Placement
from SkullVAELib.registration.plausibility import Quality
from SkullVAELib.registration.skull import canonical_field
from SkullVAELib.shape.two_table import Shape
from SkullVAELib.shape.warped import ConformedPrior, LaidShape

_FACE_SAYS = (
    "Bone of the face is completed by the mirror image of its other side: nothing is added where that lacks it, too,"
    " and thin walls are least certain."
)


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
