"""The result of a completion, and the patient prepared for further proposals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from SkullVAELib.completion.defects import DefectFinder, Defects
from SkullVAELib.completion.face import CombinedShape, FaceCompletion, MirrorImage, combined_score
from SkullVAELib.completion.fill import FilledDefects, allowed_region, fill_defects
from SkullVAELib.completion.gaussian_process import DefectRim
from SkullVAELib.completion.measures import measure_implant, outside_warnings
from SkullVAELib.completion.options import CompletionOptions, DefectChoice, GaussianProcessOptions
from SkullVAELib.completion.outer_points import OuterPoints, points_at_defects
from SkullVAELib.completion.prior import Prior
from SkullVAELib.completion.reference import RegisteredReference, register_reference
from SkullVAELib.completion.uncertainty import Uncertainty
from SkullVAELib.completion.voxel_edit import EditedShape, edited_report
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.threads import one_thread
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import empty_mask
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.registration.known_bone import KnownBone
from SkullVAELib.registration.patient import RegisteredPatient
from SkullVAELib.registration.plausibility import Quality
from SkullVAELib.registration.skull import canonical_field
from SkullVAELib.shape.warped import PatientShape, WarpedShape

_FACE_WARNING = (
    "The face was completed with the mirror image of its other side. Bone missing on both sides is not added, and thin"
    " walls are least certain. Check the face."
)


@dataclass(frozen=True)
class ImplantShape:
    """The implant at a resolution finer than the voxels: the shape that its voxels were made from.

    Attributes
    ----------
    warped : WarpedShape
        The complete vault, warped to the patient.
    alignment : numpy.ndarray, shape (4, 4)
        Patient RAS mm -> canonical mm.
    score : Volume
        float32, positive where bone is missing, see `AllowedRegion`.
    shape : PatientShape
        The complete shape of vault and face.
    points : OuterPoints or None
        Points that its outer surface passes through.
    """

    warped: WarpedShape
    alignment: np.ndarray
    score: Volume
    shape: PatientShape
    points: OuterPoints | None = None

    def of_face(self, points: np.ndarray) -> np.ndarray:
        """Which points are represented by the mirror image of the face.

        Parameters
        ----------
        points : numpy.ndarray, shape (N, 3)
            RAS mm.

        Returns
        -------
        numpy.ndarray, shape (N,)
            Bool.
        """
        shape = self.shape.base if isinstance(self.shape, EditedShape) else self.shape
        if isinstance(shape, CombinedShape):
            return shape.of_face(apply_affine(self.alignment, points))
        return np.full(len(points), isinstance(shape, MirrorImage))


@dataclass(frozen=True)
class Completion:
    """A completed skull.

    Attributes
    ----------
    bone, completed, implant : Volume
        Bool, on the input's grid.
    report : dict
        Content of report.json.
    found : bool
        Whether a defect was found.
    proposal : ImplantShape or None
        The shape that the implant was made from; None if no defect was found.
    patient : PreparedPatient or None
        The patient, for further proposals and for other defects.
    implant_whole : Volume or None
        Bool, the whole implant, even beyond the end of the image, see `FilledDefects`; None if no defect was found.
    """

    bone: Volume
    completed: Volume
    implant: Volume
    report: dict
    found: bool
    proposal: ImplantShape | None = None
    patient: PreparedPatient | None = None
    implant_whole: Volume | None = None

    @cached_property
    def uncertainty(self) -> Uncertainty | None:
        """Uncertainty of the implant; None without an implant or without GP correction."""
        if self.patient is None or self.proposal is None:
            return None
        return self.patient.uncertainty(self.proposal)


@dataclass(frozen=True)
class PreparedPatient:
    """A patient whose defects have been found, prepared for further complete shapes: what does not change is computed
    once.

    The first shape determines where bone is missing. Further shapes fill the same defects, may extend beyond them by a
    few millimetres as the first one does, use the same warp, and get their own GP correction at the rim. The completion
    of the face is the same for all shapes.

    Attributes
    ----------
    registered : RegisteredPatient
        The registered patient.
    quality : Quality
        Plausibility of the input.
    prior : Prior
        Source of complete shapes.
    finder : DefectFinder
        Candidate defects of the vault.
    defects : Defects
        Those that are filled.
    first : WarpedShape
        The shape that the candidates were found with.
    rim : DefectRim or None
        Bone around the defects of the vault; None without GP correction or without a defect there.
    options : CompletionOptions
        The options.
    face : FaceCompletion or None
        Completion of the face; None if nothing is missing there or if it was not requested.
    reference : RegisteredReference or None
        The patient's own earlier bone, which fills the defects of the vault; None without one, or without such a
        defect.
    known : KnownBone or None
        The same before its registration; None without one.
    """

    registered: RegisteredPatient
    quality: Quality
    prior: Prior
    finder: DefectFinder
    defects: Defects
    first: WarpedShape
    rim: DefectRim | None
    options: CompletionOptions
    face: FaceCompletion | None = None
    reference: RegisteredReference | None = None
    known: KnownBone | None = None

    @property
    def warnings(self) -> list[str]:
        """Warnings that apply to every shape."""
        face = [_FACE_WARNING] if self.face is not None else []
        reference = [] if self.reference is None else self.reference.warnings
        return [*self.registered.warnings, *self.quality.warnings, *self.defects.warnings, *face, *reference]

    @property
    def candidates(self) -> list[dict]:
        """The candidate defects of the vault, for the report."""
        listed = self.defects.candidates
        return [c.as_json() for c in (listed if self.face is None else self.face.outside_face(listed))]

    @property
    def defect_count(self) -> int:
        """Number of defects of vault and face."""
        return len(self.defects.masks) + (0 if self.face is None else len(self.face.defects.masks))

    @cached_property
    def _distance_difference(self) -> Volume:
        """See FaceCompletion.distance_difference; requires a defect in vault and face."""
        assert self.face is not None
        return self.face.distance_difference(self.defects.masks, self.registered.skull.fraction.spacing)

    @classmethod
    def of(
        cls,
        registered: RegisteredPatient,
        quality: Quality,
        prior: Prior,
        finder: DefectFinder,
        defects: Defects,
        first: WarpedShape,
        options: CompletionOptions,
        face: FaceCompletion | None = None,
        known: KnownBone | None = None,
    ) -> PreparedPatient:
        """Prepare a patient whose defects were found with the first shape.

        Parameters
        ----------
        registered, quality, prior, finder, defects, first, options, face, known
            See the attributes.

        Returns
        -------
        PreparedPatient

        Raises
        ------
        SkullVAEError
            If the known bone is not this patient's, unless `options.least_quality` is 0.
        """
        patient = cls(registered, quality, prior, finder, defects, first, None, options, face, None, known)
        if not defects.masks:
            return patient
        if options.gaussian_process is not None:
            patient = dataclasses.replace(patient, rim=patient.rim_of(first, options.gaussian_process))
        return patient if known is None else patient._with_reference(known)

    def _with_reference(self, known: KnownBone) -> PreparedPatient:
        """The same patient with known bone registered to it."""
        implant = None
        if known.kind == "part":
            alone = dataclasses.replace(self, options=dataclasses.replace(self.options, through=()))
            implant = alone.fill_with(self.first, self.defects.field[self.defects.box])[0]
        reference = register_reference(self, known, self.options.least_quality <= 0, implant)
        return dataclasses.replace(self, reference=reference)

    def rim_of(self, first: WarpedShape, options: GaussianProcessOptions) -> DefectRim:
        """The bone around the defects, of which there must be one, for shapes with the warp of `first`."""
        registered = self.registered
        fraction, aligned, grid = registered.skull.fraction, registered.aligned, registered.grid
        bone, _ = canonical_field(registered.skull.imaged, registered.skull.imaged_distance, aligned.matrix, grid)
        at = np.concatenate([np.argwhere(mask) for mask in self.defects.masks])
        at = apply_affine(aligned.matrix @ fraction.affine, at)
        return DefectRim.of(first, aligned.points, aligned.normals, bone, at, options)

    @one_thread()
    def with_defects(self, filled: Sequence[int], at: Sequence[tuple[float, float, float]] = ()) -> PreparedPatient:
        """The same patient with other defects filled.

        Parameters
        ----------
        filled : sequence of int
            Numbers of candidates, see `NumberedCandidate`.
        at : sequence of tuples of 3 floats
            Points in patient RAS mm; the hole nearest to each is filled, too.

        Returns
        -------
        PreparedPatient

        Raises
        ------
        SkullVAEError
            There is no candidate of a number, or no bone is missing near a point.
        """
        choice = DefectChoice(tuple(filled), tuple(at))
        options = dataclasses.replace(self.options, choice=choice)
        defects = self.finder.choose(choice)
        return PreparedPatient.of(
            self.registered, self.quality, self.prior, self.finder, defects, self.first, options, self.face, self.known
        )

    def with_points(self, points: Sequence[tuple[float, float, float]]) -> PreparedPatient:
        """The same patient with other points that the outer surface passes through, patient RAS mm."""
        return dataclasses.replace(self, options=dataclasses.replace(self.options, through=tuple(points)))

    def points_at_defects(self, points: Sequence[tuple[float, float, float]]) -> tuple[tuple[float, float, float], ...]:
        """The points, patient RAS mm, that are at the defects of the vault and not beside them."""
        return points_at_defects(points, self.registered.alignment, self._missing())

    def _missing(self) -> np.ndarray:
        """Canonical mm (N, 3) of the missing bone of the vault."""
        at = np.concatenate([np.zeros((0, 3)), *(np.argwhere(mask) for mask in self.defects.masks)])
        return apply_affine(self.registered.alignment @ self.registered.skull.fraction.affine, at)

    @one_thread()
    def completion(
        self, gamma: float | None = None, noise: torch.Tensor | None = None, draw: int | None = None
    ) -> Completion:
        """Complete the skull with another shape.

        Parameters
        ----------
        gamma : float, optional
            See `Prior.shape`.
        noise : torch.Tensor, shape (L,), optional
            See `Prior.shape`.
        draw : int, optional
            Number of the draw of the tables, see `Uncertainty.draws`; by default the most likely tables.

        Returns
        -------
        Completion
            Its report has the parts that depend on the shape: "implant" and "warnings". `found` is False if no implant
            is left.
        """
        registered = self.registered
        if not self.defects.masks and self.face is None:
            nothing = registered.bone.with_array(empty_mask(registered.bone.array))
            report = {"warnings": self.warnings, "candidates": self.candidates}
            return Completion(registered.bone, registered.bone, nothing, report, False, None, self)
        own = self.prior.gamma_or_own(self.options.gamma)
        if noise is None and self.prior.gamma_or_own(gamma) == own:
            warped = self.first
        else:
            warped = WarpedShape(self.prior.tables(gamma, noise), registered.warp)
        field = None
        if self.defects.masks:
            field = self._field(warped)
        filled, proposal, rim_gap = self.fill_with(warped, field, draw)
        has_implant = bool(filled.whole.array.any())
        report = {"warnings": self.warnings, "candidates": self.candidates}
        if has_implant:
            report["implant"] = measure_implant(registered.bone, filled, rim_gap) | {"defects": self.defect_count}
            report["warnings"] = [*self.warnings, *outside_warnings(registered.bone, filled)]
            report |= edited_by_points(proposal)
        if self.reference is not None:
            report["reference"] = self.reference.as_json()
        return Completion(
            registered.bone,
            registered.bone.with_array(registered.bone.array | filled.mask),
            registered.bone.with_array(filled.mask),
            report,
            has_implant,
            proposal if has_implant else None,
            self,
            filled.whole,
        )

    def _field(self, warped: WarpedShape) -> np.ndarray:
        """Signed distance of a shape in `defects.box` of the reduced grid, canonical mm."""
        region = crop(self.registered.skull.fraction, self.defects.box)
        index = np.indices(region.array.shape).reshape(3, -1).T
        return warped.at_voxels(self.registered.alignment @ region.affine, index).reshape(region.array.shape)

    def uncertainty(self, proposal: ImplantShape) -> Uncertainty | None:
        """Uncertainty of a proposal; None without GP correction."""
        if self.rim is None:
            return None
        return Uncertainty(self.registered.grid, self.rim, self.rim.regressions(proposal.warped))

    def fill_with(
        self, warped: WarpedShape, field: np.ndarray | None, draw: int | None = None
    ) -> tuple[FilledDefects, ImplantShape, float]:
        """Fill the defects with a shape.

        Parameters
        ----------
        warped : WarpedShape
            The shape before the GP correction.
        field : numpy.ndarray or None
            Its signed distance in canonical mm in `defects.box` of the reduced grid; None if the vault has no defect.
        draw : int, optional
            See `completion`.

        Returns
        -------
        filled : FilledDefects
            The implant's voxels.
        shape : ImplantShape
            The shape with its GP correction.
        rim_gap_mm : float
            The rim gap, mm; nan for a defect of the face only.

        Raises
        ------
        ValueError
            If the patient has no defect.
        SkullVAEError
            If the outer surface cannot pass through a point.
        """
        registered, face, rim_gap = self.registered, self.face, float("nan")
        if field is None:
            if face is None:
                raise ValueError("a patient without a defect has no implant")
            if self.options.through:
                raise SkullVAEError(
                    "A defect of the face has no outer surface that passes through points", "Remove the points"
                )
            return face.implant, ImplantShape(warped, registered.alignment, face.where.score, face.image), rim_gap
        if self.rim is not None:
            regressions = self.rim.regressions(warped)
            warped = self.rim.correct(warped, regressions)
            if draw is not None and warped.corrections is not None:
                drawn = Uncertainty(registered.grid, self.rim, regressions).draws(1, seed=draw)[0]
                warped = dataclasses.replace(warped, corrections=warped.corrections + drawn)
            rim_gap = self.rim.rim_gap_mm(warped)
        more = None
        if self.reference is not None:
            warped = dataclasses.replace(warped, known=self.reference.surface)
            field, more = self._field(warped), self.reference.region_in(self.defects.box)
        where = allowed_region(registered.skull.fraction, self.defects, field, more=more)
        points = None
        if self.options.through:
            fraction, alignment = registered.skull.fraction, registered.alignment
            points = OuterPoints.of(self.options.through, warped, alignment, self._missing(), self.rim)
            warped = points.shifted(warped)
            where = points.shifted_region(where, fraction, alignment, registered.grid)
        smallest_ml = 0.0 if self.defects.chosen else self.options.defects.smallest_ml
        filled = fill_defects(warped, registered.alignment, registered.bone, self.defects, where, smallest_ml)
        if face is None:
            return filled, ImplantShape(warped, registered.alignment, where.score, warped, points), rim_gap
        shape = CombinedShape(warped, face.image, self._distance_difference)
        score = combined_score(where.score, face.where.score, registered.skull.fraction)
        return filled | face.implant, ImplantShape(warped, registered.alignment, score, shape, points), rim_gap


def edited_by_points(proposal: ImplantShape) -> dict:
    """The field "edited" of the report of a shape; empty if it passes through no points."""
    return {} if proposal.points is None else {"edited": edited_report(0.0, 0.0, proposal.points.report())}
