"""The result of a completion, and the patient prepared for further ones."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from SkullVAELib.completion.defects import Defects
from SkullVAELib.completion.face import CombinedShape, FaceCompletion, MirrorImage, combined_score
from SkullVAELib.completion.fill import allowed_region, fill_defects
from SkullVAELib.completion.gaussian_process import DefectRim
from SkullVAELib.completion.measures import measure_implant
from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.completion.prior import Prior
from SkullVAELib.completion.uncertainty import Uncertainty
from SkullVAELib.core.threads import one_thread
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.registration.patient import RegisteredPatient
from SkullVAELib.registration.plausibility import Quality
from SkullVAELib.registration.skull import canonical_field
from SkullVAELib.shape.two_table import TwoTableShape
from SkullVAELib.shape.warped import PatientShape, WarpedShape

_FACE_WARNING = (
    "Bone of the face is completed by the mirror image of its other side: nothing is added where that lacks it, too,"
    " and thin walls are least certain."
)


@dataclass(frozen=True)
class ImplantShape:
    """The implant below the voxel size: what its voxels were made of.

    warped: the complete vault laid on the patient; alignment: (4, 4) patient RAS mm -> canonical mm; score: float32
    volume, positive where bone is missing; shape: the complete head, of which the vault is all but the face.
    """

    warped: WarpedShape
    alignment: np.ndarray
    score: Volume
    shape: PatientShape

    def of_face(self, points: np.ndarray) -> np.ndarray:
        """Which points (N, 3) in RAS mm the mirror image tells, (N,) bool."""
        if isinstance(self.shape, CombinedShape):
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
    proposal: ImplantShape | None = None
    patient: PreparedPatient | None = None

    @cached_property
    def uncertainty(self) -> Uncertainty | None:
        """What bone leaves open of the implant; None where there is none, or no rim correction was wanted."""
        if self.patient is None or self.proposal is None:
            return None
        return self.patient.uncertainty(self.proposal)


@dataclass(frozen=True)
class PreparedPatient:
    """A patient whose defects are found, ready for another complete shape in them: all that stays as it was is kept.

    Where bone is missing is told once, by the first shape. Another one fills the same gaps and may come out of them by
    a few millimetres, as the first; it is laid on the patient by the same warp and meets the bone at the rim by its own
    rim correction. What the face lacks is the same with every shape.
    """

    registered: RegisteredPatient
    quality: Quality
    prior: Prior
    defects: Defects
    rim: DefectRim | None
    options: CompletionOptions
    face: FaceCompletion | None = None

    @property
    def warnings(self) -> list[str]:
        """What a reader must know whatever the shape is."""
        return self.quality.warnings + ([_FACE_WARNING] if self.face is not None else [])

    @property
    def defect_count(self) -> int:
        """Defects of vault and face."""
        return len(self.defects.pieces) + (0 if self.face is None else len(self.face.defects.pieces))

    @cached_property
    def _nearer_to_face(self) -> Volume:
        """See Face.nearer; the same for every shape. There must be a defect in both."""
        assert self.face is not None
        return self.face.nearer(self.defects.pieces, self.registered.skull.fraction.spacing)

    @classmethod
    def of(
        cls,
        registered: RegisteredPatient,
        quality: Quality,
        prior: Prior,
        defects: Defects,
        first: WarpedShape,
        options: CompletionOptions,
        face: FaceCompletion | None = None,
    ) -> PreparedPatient:
        """The patient whose gaps the first shape found."""
        rim = None
        if options.gaussian_process is not None and defects.pieces:
            fraction, aligned, grid = registered.skull.fraction, registered.aligned, registered.grid
            bone, _ = canonical_field(fraction, registered.skull.distance, aligned.matrix, grid)
            at = np.concatenate([np.argwhere(piece) for piece in defects.pieces])
            at = apply_affine(aligned.matrix @ fraction.affine, at)
            rim = DefectRim.of(first, aligned.points, aligned.normals, bone, at, options.gaussian_process)
        return cls(registered, quality, prior, defects, rim, options, face)

    @one_thread()
    def completion(
        self, gamma: float | None = None, noise: torch.Tensor | None = None, draw: int | None = None
    ) -> Completion:
        """The completion with another shape, see Prior.shape; its report holds what depends on the shape: "implant" and
        "warnings". `found` is False where nothing is left of the implant.

        draw: number of a draw from what bone leaves open, see Uncertainty; None for the most likely tables.
        """
        registered = self.registered
        warped = WarpedShape(TwoTableShape.of(self.prior.shape(gamma, noise), registered.grid), registered.warp)
        field = None
        if self.defects.pieces:
            around = crop(registered.skull.fraction, self.defects.box)
            index = np.indices(around.array.shape).reshape(3, -1).T
            field = warped.at_voxels(registered.alignment @ around.affine, index).reshape(around.array.shape)
        implant, proposal, rim_gap = self.fill_with(warped, field, draw)
        mask = registered.bone.with_array(implant)
        found = bool(implant.any())
        report: dict = {"warnings": self.warnings}
        if found:
            report["implant"] = measure_implant(mask, rim_gap) | {"defects": self.defect_count}
        completed = registered.bone.with_array(registered.bone.array | implant)
        return Completion(registered.bone, completed, mask, report, found, proposal if found else None, self)

    def uncertainty(self, proposal: ImplantShape) -> Uncertainty | None:
        """What bone leaves open of a proposal; None where no rim correction was wanted."""
        if self.rim is None:
            return None
        return Uncertainty(self.registered.grid, self.rim, self.rim.regressions(proposal.warped))

    def fill_with(
        self, warped: WarpedShape, field: np.ndarray | None, draw: int | None = None
    ) -> tuple[np.ndarray, ImplantShape, float]:
        """The implant's voxels made of a shape, the shape as it was used, and the rim gap in mm.

        field: of the shape before the rim correction, canonical mm, on the gap's box of the reduced grid, None where
        the vault has no defect; draw: see completion.
        """
        registered, face, rim_gap = self.registered, self.face, float("nan")
        if field is None:
            if face is None:
                raise ValueError("a patient without a defect has no implant")
            return face.implant, ImplantShape(warped, registered.alignment, face.where.score, face.image), rim_gap
        if self.rim is not None:
            regressions = self.rim.regressions(warped)
            warped = self.rim.correct(warped, regressions)
            if draw is not None and warped.corrections is not None:
                drawn = Uncertainty(registered.grid, self.rim, regressions).draws(1, seed=draw)[0]
                warped = dataclasses.replace(warped, corrections=warped.corrections + drawn)
            rim_gap = self.rim.gap_mm(warped)
        where = allowed_region(registered.skull.fraction, self.defects, field)
        implant = fill_defects(
            warped, registered.alignment, registered.bone, self.defects, where, self.options.defects.smallest_ml
        )
        if face is None:
            return implant, ImplantShape(warped, registered.alignment, where.score, warped), rim_gap
        shape = CombinedShape(warped, face.image, self._nearer_to_face)
        score = combined_score(where.score, face.where.score, registered.skull.fraction)
        return implant | face.implant, ImplantShape(warped, registered.alignment, score, shape), rim_gap
