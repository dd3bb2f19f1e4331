"""Which candidate defects are filled: those that are probably defects, and those that the user chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from SkullVAELib.completion.candidates import Candidate, MissingBone
from SkullVAELib.completion.defect_classifier import DefectClassifier
from SkullVAELib.completion.options import DefectChoice, DefectOptions
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.progress import stage_part
from SkullVAELib.geometry.affines import apply_affine, as_place
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.registration.skull import Skull
from SkullVAELib.shape.warped import WarpedShape

# Margin of the bounding box of all defects: the implant extends beyond them by a few millimetres at most.
_MARGIN_MM = 8.0

FILLED, FILLED_LARGE = 0.2, 0.4
"""Candidates are filled from this probability on; those of `LARGE_ML` and more from the second one on.

A small hole left open costs more than a natural opening that is filled, with a warning: it is left open without an
implant to check. Among 979 candidates of held-out individuals, four that are no defects lie between the two and none
between the second one and 0.5; among 360 burr holes, eight that are. A large implant where a skull was cut off is no
small matter, but the hole of one real patient, the demo's in slices of 6 mm, has 0.46 to 0.54.
"""

DOUBTFUL = 0.1
"""Candidates that are not filled are named in a warning from this probability on."""

CERTAIN = 0.9
"""Candidates that are filled are named in a warning below this probability."""

LARGE_ML = 10.0
"""A candidate of the vault of at least this volume, ml, is named in a warning if it is not filled."""

_VAULT_ELEVATION = -0.25

AUTOMATIC = DefectChoice()
"""What is filled if the user chooses nothing."""

# A candidate is listed in the report from this probability or from this volume on.
_LISTED, _LISTED_ML = 0.05, 2.0

# A candidate of at least this volume, ml, may be a hole that runs into a natural opening, or a missing face.
_PARTED_ML = 10.0

# A point chosen by the user belongs to missing bone within this distance, mm.
_POINT_MM = 15.0

CHOSEN = "chosen by the user"
"""Reason of a candidate that the user has chosen to fill."""

EXCLUDED = "excluded by the user"
"""Reason of a candidate that the user has chosen to leave open."""


@dataclass(frozen=True)
class NumberedCandidate:
    """A candidate defect as it is listed in the report.

    Attributes
    ----------
    number : int
        From 1, largest first; those that grew from a point of the user follow.
    candidate : Candidate
        The candidate.
    probability : float
        0..1, that it is a defect; 1 for one that grew from a point of the user.
    reason : str
        What the probability is due to, in plain words.
    filled : bool
        Whether it is filled.
    """

    number: int
    candidate: Candidate
    probability: float
    reason: str
    filled: bool = False

    @property
    def place(self) -> str:
        """Volume and place, for messages."""
        return f"{self.candidate.volume_ml:.1f} ml at {as_place(self.candidate.centre_mm)}"

    def as_json(self) -> dict:
        """Entry of the report."""
        features = {name: round(value, 3) for name, value in self.candidate.features.items()}
        return {
            "number": self.number,
            "volume_ml": round(self.candidate.volume_ml, 2),
            "centre_mm": [round(float(mm), 1) for mm in self.candidate.centre_mm],
            "probability": round(self.probability, 3),
            "filled": self.filled,
            "reason": self.reason,
            "features": features,
        }


@dataclass(frozen=True)
class Defects:
    """The defects of a skull on the reduced grid.

    Attributes
    ----------
    masks : list of numpy.ndarray
        Bool, one mask for each defect, largest first.
    field : numpy.ndarray
        Signed distance of the complete shape warped to the patient, canonical mm.
    cavity : numpy.ndarray
        Bool, air between two tables of intact bone or directly over intact bone; no implant may be there.
    spacing_mm : float
        Smallest spacing of the reduced grid, mm.
    candidates : tuple of NumberedCandidate
        All candidates that are worth a line, filled or not.
    chosen : bool
        Whether the user has chosen any of them.
    warnings : tuple of str
        Doubtful candidates, filled or not.
    """

    masks: list[np.ndarray]
    field: np.ndarray
    cavity: np.ndarray
    spacing_mm: float
    candidates: tuple[NumberedCandidate, ...] = ()
    chosen: bool = False
    warnings: tuple[str, ...] = ()

    @cached_property
    def box(self) -> tuple[slice, ...]:
        """Bounding box of all defects with a margin, in which an implant may be; there must be at least one defect."""
        return bounding_box(np.logical_or.reduce(self.masks), margin=int(np.ceil(_MARGIN_MM / self.spacing_mm)))


@dataclass(frozen=True)
class DefectFinder:
    """The candidate defects of a patient, found once; what is filled may be chosen again and again.

    Attributes
    ----------
    missing_bone : MissingBone
        Where bone is missing.
    candidates : tuple of NumberedCandidate
        All candidates that are worth a line.
    """

    missing_bone: MissingBone
    candidates: tuple[NumberedCandidate, ...]

    @classmethod
    def of(
        cls,
        warped: WarpedShape,
        spread: torch.Tensor,
        alignment: np.ndarray,
        skull: Skull,
        coarse_mm: float,
        classifier: DefectClassifier,
        options: DefectOptions = DefectOptions(),
    ) -> DefectFinder:
        """Find the candidate defects of a patient: where the complete shape has bone and the patient has none.

        Missing bone far from any bone is the core of a candidate, which grows to the rim of the hole.

        Parameters
        ----------
        warped : WarpedShape
            The complete shape, warped to the patient.
        spread : torch.Tensor, shape (X, Y, Z)
            Standard deviation across skulls in mm, see `Population.spread`.
        alignment : numpy.ndarray, shape (4, 4)
            Patient RAS mm -> canonical mm.
        skull : Skull
            The patient's skull.
        coarse_mm : float
            Largest voxel spacing of the image, mm.
        classifier : DefectClassifier
            Gives each candidate its probability.
        options : DefectOptions
            How candidates grow.

        Returns
        -------
        DefectFinder
        """
        with stage_part(0.0, 0.8):
            missing = MissingBone.of(warped, spread, alignment, skull, coarse_mm, options, classifier.natural_openings)
        with stage_part(0.8, 0.95):
            candidates = missing.candidates()
        found = [c for candidate in candidates for c in _judged(candidate, missing, classifier)]
        found.sort(key=lambda c: -c.candidate.volume_ml)
        listed = [c for c in found if c.probability >= _LISTED or c.candidate.volume_ml >= _LISTED_ML]
        return cls(missing, tuple(replace(c, number=number) for number, c in enumerate(listed, 1)))

    def choose(self, choice: DefectChoice = AUTOMATIC) -> Defects:
        """The defects that are filled.

        Parameters
        ----------
        choice : DefectChoice
            What the user has chosen.

        Returns
        -------
        Defects

        Raises
        ------
        SkullVAEError
            No bone is missing near a point, or there is no candidate of a number.
        """
        candidates = list(self.candidates)
        fill = [self._by_default(choice, c) for c in candidates]
        reasons = [c.reason for c in candidates]
        if isinstance(choice.numbers, tuple):
            known = {c.number for c in candidates}
            if unknown := [n for n in choice.numbers if n not in known]:
                listed = f"1 to {len(candidates)}" if candidates else "none"
                raise SkullVAEError(
                    f"There is no candidate defect {unknown[0]}", f"Choose from those in report.json ({listed})"
                )
            reasons = [
                CHOSEN if c.number in choice.numbers else reason for c, reason in zip(candidates, reasons, strict=True)
            ]
        for point in choice.at:
            which = self._at(np.asarray(point, float), candidates)
            if isinstance(which, Candidate):
                candidates.append(NumberedCandidate(len(candidates) + 1, which, 1.0, CHOSEN))
                fill.append(True)
                reasons.append(CHOSEN)
            else:
                fill[which], reasons[which] = True, CHOSEN
        warnings: list[str] = []
        for point in choice.not_at:
            away = [self._distance(c.candidate, np.asarray(point, float)) for c in candidates]
            if not away or min(away) > _POINT_MM:
                warnings.append(
                    f"There is no candidate defect to leave open within {_POINT_MM:g} mm of {_as_text(point)}."
                )
                continue
            nearest = int(np.argmin(away))
            fill[nearest], reasons[nearest] = False, EXCLUDED
        decided = tuple(
            replace(c, filled=filled, reason=reason)
            for c, filled, reason in zip(candidates, fill, reasons, strict=True)
        )
        chosen = sorted((c for c in decided if c.filled), key=lambda c: -c.candidate.volume_ml)
        masks = self._masks([c.candidate for c in chosen])
        missing = self.missing_bone
        cavity = missing.cavity | missing.both_sides
        for full in masks:
            cavity &= ~full
        return Defects(
            masks,
            missing.field,
            cavity,
            float(missing.fraction.spacing.min()),
            decided,
            choice != AUTOMATIC,
            (*warnings, *_doubts(decided)),
        )

    def _masks(self, candidates: Sequence[Candidate]) -> list[np.ndarray]:
        """Masks on the whole reduced grid; a voxel belongs to the largest candidate only."""
        taken = np.zeros(self.missing_bone.field.shape, bool)
        masks = []
        for candidate in candidates:
            full = candidate.on_grid(taken.shape) & ~taken
            if full.any():
                taken |= full
                masks.append(full)
        return masks

    @staticmethod
    def _by_default(choice: DefectChoice, candidate: NumberedCandidate) -> bool:
        if choice.numbers == "all":
            return True
        if choice.numbers == "auto":
            large = candidate.candidate.volume_ml >= LARGE_ML
            return candidate.probability >= (FILLED_LARGE if large else FILLED)
        return candidate.number in choice.numbers

    def _at(self, point: np.ndarray, candidates: Sequence[NumberedCandidate]) -> int | Candidate:
        """The candidate at a point: the index of a known one, or one that grows from there."""
        away = [self._distance(c.candidate, point) for c in candidates]
        nearest = int(np.argmin(away)) if away else -1
        if nearest >= 0 and away[nearest] <= 2.0:
            return nearest
        reach = min(_POINT_MM, away[nearest]) if nearest >= 0 else _POINT_MM
        grown = self.missing_bone.candidate_at(point, reach)
        if grown is not None:
            # It may have grown into a known candidate.
            shape = self.missing_bone.field.shape
            full = grown.on_grid(shape)
            overlap = [(full & c.candidate.on_grid(shape)).sum() / max(1, full.sum()) for c in candidates]
            if overlap and max(overlap) > 0.3:
                return int(np.argmax(overlap))
            return grown
        if nearest >= 0 and away[nearest] <= _POINT_MM:
            return nearest
        raise SkullVAEError(
            f"No bone is missing within {_POINT_MM:g} mm of {_as_text(point)}",
            "Place the point in the hole; coordinates are R,A,S in mm, as Slicer shows them",
        )

    def _distance(self, candidate: Candidate, point: np.ndarray) -> float:
        """Distance in mm from a point in patient RAS mm to the nearest voxel of a candidate."""
        start = [s.start for s in candidate.box]
        at = apply_affine(self.missing_bone.fraction.affine, np.argwhere(candidate.mask) + start)
        return float(np.linalg.norm(at - point, axis=1).min())


def _judged(candidate: Candidate, missing: MissingBone, classifier: DefectClassifier) -> list[NumberedCandidate]:
    """A candidate with its probability; or its parts, if it is taken for natural as a whole and one of them is not."""
    whole = NumberedCandidate(0, candidate, *classifier.probability(candidate.features))
    if whole.probability >= FILLED_LARGE or candidate.volume_ml < _PARTED_ML:
        return [whole]
    best, most = [whole], FILLED_LARGE
    for way in missing.parted(candidate):
        parts = [NumberedCandidate(0, part, *classifier.probability(part.features)) for part in way]
        likely = max((part.probability for part in parts if part.candidate.volume_ml >= _PARTED_ML), default=0.0)
        if likely >= most:
            best, most = parts, likely
    return best


def _doubts(candidates: Sequence[NumberedCandidate]) -> list[str]:
    """Warnings about candidates that are or may be wrongly filled or left open."""
    warnings = []
    for c in candidates:
        if c.reason in (CHOSEN, EXCLUDED):
            continue
        large = c.candidate.volume_ml >= LARGE_ML and c.candidate.features["elevation"] > _VAULT_ELEVATION
        if not c.filled and (c.probability >= DOUBTFUL or large):
            warnings.append(
                f"Candidate defect {c.number} of {c.place} was not filled: {c.reason} (probability"
                f" {c.probability:.2f}). If it is a hole, fill it with --defects or --at, or check it in the list of"
                " candidate defects in Slicer."
            )
        if c.filled and c.probability < CERTAIN:
            warnings.append(
                f"Defect {c.number} of {c.place} is doubtful: {c.reason} (probability {c.probability:.2f}). Check it;"
                " --not-at or the list of candidate defects in Slicer leaves it open."
            )
    return warnings


def _as_text(point: Sequence[float] | np.ndarray) -> str:
    return "R {:.0f}, A {:.0f}, S {:.0f} mm".format(*point)
