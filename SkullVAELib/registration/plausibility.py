"""Plausibility of an input: measures of how well a skull fits the model's mean skull, and one score made of them.

An object that is not a skull, or a skull in a wrong pose, would be completed like any other and give a wrong result
without a sign of it. So every input is measured after registration, before anything is completed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.registration.options import WARN_BELOW
from SkullVAELib.registration.patient import RegisteredPatient
from SkullVAELib.registration.reference import MeanSkull, is_vault
from SkullVAELib.shape.two_table import outward_directions

# After the warp the vault's surface is near the mean's within this distance.
_NEAR_MM = 3.0

# The mean's surface has bone where the patient's surface is within this distance.
_COVERED_MM = 2.5

# Fewest points to which an ellipsoid is fitted.
_MIN_POINTS = 200

# From this ratio of the scales on the distance between slices is suspected, if the direction is that of the slices
# (cosine of the angle).
_STRETCHED = 1.3
_ALONG_SLICES = 0.9

# Bone whose extent along the slices is less than this share of its smaller extent across them is flat.
_FLAT = 0.75


@dataclass(frozen=True)
class QualityCheck:
    """The contribution of one measure to the score, and its message.

    Attributes
    ----------
    measure : str
        Name of a field of `QualityMeasures`.
    good, bad : float
        Values at which the score is 1 and 0; it is linear between them.
    cause, remedy : str
        Message: what is wrong, in which {} is the measure, and what to do.
    """

    measure: str
    good: float
    bad: float
    cause: str
    remedy: str

    def score(self, value: float) -> float:
        """Score 0..1 of a value; 0 if the value is not finite."""
        if not np.isfinite(value):
            return 0.0
        return float(np.clip((value - self.bad) / (self.good - self.bad), 0, 1))


_UPRIGHT = (
    "Check that the image shows one whole head (leave out a headrest, a table or arms with --roi), and that the"
    " orientation and slice distance in the file's header are correct"
)
_SLICES = (
    "The distance between slices in the file's header is the likely cause, since the head is {} along the slices: check"
    " it ({:g} mm)"
)
_SKULL = "Segment the bone of the skull alone"
_VOXELS = "Check the voxel size and its unit in the file's header"

CHECKS = (
    QualityCheck("length_mm", 1300, 1800, "The bone is {:.0f} mm long", _VOXELS),
    QualityCheck("length_mm", 90, 60, "The bone is {:.0f} mm long", _VOXELS),
    QualityCheck(
        "vault_share",
        0.80,
        0.40,
        "Only {:.0%} of the cranial vault is present",
        "Choose an image that shows the whole vault",
    ),
    QualityCheck("solid_share", 0.02, 0.30, "{:.0%} of the cranial cavity is bone, as in an inverted image", _SKULL),
    QualityCheck("outside_share", 0.15, 0.50, "{:.0%} of the space around the vault is bone", _SKULL),
    QualityCheck(
        "roughness_mm",
        0.55,
        0.4,
        "The vault deviates from an ellipsoid by only {:.2f} mm, less than any skull",
        _SKULL,
    ),
    QualityCheck("size", 0.83, 0.55, "The head has {:.0%} of an adult's size", _VOXELS),
    QualityCheck("size", 1.2, 1.65, "The head has {:.0%} of an adult's size", _VOXELS),
    QualityCheck("stretch", 1.3, 1.75, "The head is stretched {:.2f} times more in one direction", _VOXELS),
    QualityCheck("fit_mm", 1.3, 4.0, "The median distance of the bone to the mean skull is {:.1f} mm", _UPRIGHT),
    QualityCheck("warp_mm", 3.2, 10.0, "The mean skull must be deformed by {:.1f} mm to fit the bone", _UPRIGHT),
    QualityCheck("near_share", 0.97, 0.75, "Only {:.0%} of the bone is where a vault can be", _UPRIGHT),
)
"""All checks. Where several scores are equally low the first check gives the message; the check of the voxel size is
first, because a wrong voxel size affects all other measures.
"""


@dataclass(frozen=True)
class QualityMeasures:
    """Measures of a skull registered to the mean skull; mm are canonical unless stated otherwise.

    Attributes
    ----------
    length_mm : float
        Longest side of the bone's bounding box in patient mm. The limits admit a whole body.
    fit_mm : float
        Median distance of the vault's surface to the mean skull's after the affine registration.
    warp_mm : float
        Median displacement of the vault's surface by the warp.
    near_share : float
        Fraction of the vault's surface within 3 mm of the mean skull's after the warp.
    vault_share : float
        Fraction of the mean vault's outer surface where the input has bone.
    solid_share : float
        Fraction of the middle of the cranial cavity that is bone.
    outside_share : float
        Fraction of the space around the vault that is bone.
    roughness_mm : float
        Median distance of the vault's outer surface to its best-fitting ellipsoid.
    size : float
        Linear size of the head relative to the mean skull.
    stretch : float
        Ratio of the largest to the smallest of the three scales of the registration.
    """

    length_mm: float
    fit_mm: float
    warp_mm: float
    near_share: float
    vault_share: float
    solid_share: float
    outside_share: float
    roughness_mm: float
    size: float
    stretch: float

    @classmethod
    def of(cls, patient: RegisteredPatient, mean: MeanSkull) -> QualityMeasures:
        """Measure a registered patient.

        Parameters
        ----------
        patient : RegisteredPatient
            The patient.
        mean : MeanSkull
            The mean skull that it is registered to.

        Returns
        -------
        QualityMeasures
        """
        grid, bone = patient.grid, patient.field.reshape(-1)
        points, normals, on_mean = patient.aligned.points, patient.aligned.normals, patient.points_on_mean
        scales = np.linalg.svd(patient.alignment[:3, :3], compute_uv=False)
        size = float(np.prod(scales) ** (-1 / 3))

        covered = grid.sample(patient.field[None], mean.outer_vault)[:, 0].abs() < _COVERED_MM
        distance = grid.sample(mean.field[None], on_mean[is_vault(on_mean)])[:, 0].abs()
        upper = points[:, 2] > 0
        moved = (on_mean - points)[upper].norm(dim=1)
        cavity, around = mean.beside_vault
        outer_bone = points[(points[:, 2] > 10) & ((normals * outward_directions(points)).sum(1) > 0.7)]
        return cls(
            length_mm=float(np.ptp(patient.skull.points, axis=0).max()),
            fit_mm=patient.aligned.fit_mm,
            warp_mm=_median(moved),
            near_share=_share(distance < _NEAR_MM),
            vault_share=_share(covered),
            solid_share=_share(bone[cavity] < 0),
            outside_share=_share(bone[around] < 0),
            roughness_mm=_distance_to_ellipsoid(outer_bone.double().numpy()),
            size=size,
            stretch=float(scales[0] / scales[-1]),
        )


@dataclass(frozen=True)
class Quality:
    """Measures and their score.

    Attributes
    ----------
    measures : QualityMeasures
        The measures.
    score : float
        0..1, the product of the scores of all checks.
    worst : QualityCheck
        The check with the lowest score.
    along_slices : str
        Remedy if the head is stretched or squeezed along the slices; otherwise empty.
    flat : str
        Further remedy if the bone is flat along the slices, as if their distance were lost; otherwise empty.
    """

    measures: QualityMeasures
    score: float
    worst: QualityCheck
    along_slices: str = ""
    flat: str = ""

    @classmethod
    def of(cls, patient: RegisteredPatient, mean: MeanSkull) -> Quality:
        """Quality of a registered patient, see `QualityMeasures.of`."""
        quality = cls.from_measures(QualityMeasures.of(patient, mean))
        affine = patient.bone.affine
        flat = _flat_remedy(patient.skull.points, affine)
        return replace(quality, along_slices=_slice_remedy(patient.alignment, affine), flat=flat)

    @classmethod
    def from_measures(cls, measures: QualityMeasures) -> Quality:
        """Quality of given measures."""
        scores = [check.score(getattr(measures, check.measure)) for check in CHECKS]
        return cls(measures, float(np.prod(scores)), CHECKS[int(np.argmin(scores))])

    def require(self, least: float, warnings: Sequence[str] = ()) -> None:
        """Reject an input whose score is too low.

        Parameters
        ----------
        least : float
            Lowest accepted score; 0 accepts every input.
        warnings : sequence of str
            Warnings about the file, which may name the cause; the message ends with them.

        Raises
        ------
        SkullVAEError
            If the score is below `least`; the message names the worst check.
        """
        if self.score < least:
            raise SkullVAEError(f"Input rejected: {self._cause}", " ".join([f"{self._remedy}.", *warnings]))

    @property
    def warnings(self) -> list[str]:
        """Warnings for the report; empty if the score is at least WARN_BELOW."""
        if self.score >= WARN_BELOW:
            return []
        return [
            f"Low input quality: {self._cause} (score {self.score:.2f}), so the result may be wrong. {self._remedy}."
        ]

    @property
    def _remedy(self) -> str:
        """Remedy of the worst check; where it concerns the voxel size, of the distance between slices."""
        if self.along_slices and self.worst.remedy == _VOXELS:
            return self.along_slices
        return ". ".join(filter(None, (self.worst.remedy, self.flat)))

    @property
    def _cause(self) -> str:
        """Message of the worst check, in lower case to follow a colon."""
        # Python's percent format has no space before the sign.
        cause = self.worst.cause.format(getattr(self.measures, self.worst.measure)).replace("%", " %")
        return cause[0].lower() + cause[1:]

    def as_json(self) -> dict:
        """Score and measures, rounded, for report.json."""
        measures = {name: round(value, 3) for name, value in asdict(self.measures).items()}
        return {"score": round(self.score, 3), **measures}


def _slice_remedy(alignment: np.ndarray, affine: np.ndarray) -> str:
    """The remedy if one direction is scaled otherwise than the other two, and that is the direction of the slices.

    Slices are along the third axis of the file (of all formats that are read), which a wrong slice distance stretches.
    """
    _, scales, directions = np.linalg.svd(alignment[:3, :3])
    odd = int(np.argmax(np.abs(np.log(scales / np.median(scales)))))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    along = abs(float(directions[odd] @ affine[:3, 2])) / spacing[2]
    if scales[0] / scales[2] < _STRETCHED or along < _ALONG_SLICES:
        return ""
    # The alignment enlarges what is too short in the patient's image.
    return _SLICES.format("squeezed" if odd == 0 else "stretched", spacing[2])


def _flat_remedy(points: np.ndarray, affine: np.ndarray) -> str:
    """A further remedy if bone, points (N, 3) in RAS mm, is much shorter along the slices than across them."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    extents = np.ptp(points @ (affine[:3, :3] / lengths), axis=0)
    if extents[2] > _FLAT * min(extents[0], extents[1]):
        return ""
    return (
        f"The bone is only {extents[2]:.0f} mm long along the slices: if the whole head was scanned, the distance"
        f" between slices in the file's header ({lengths[2]:g} mm) is wrong"
    )


def _share(found: torch.Tensor) -> float:
    """Fraction that is True; 0 for no values."""
    return float(found.float().mean()) if len(found) else 0.0


def _median(values: torch.Tensor) -> float:
    """Median; infinite for no values."""
    return float(values.median()) if len(values) else float("inf")


def _distance_to_ellipsoid(points: np.ndarray) -> float:
    """Median distance in mm of points (N, 3) to the quadric that fits them best, robustly; 0 if there are too few
    points.

    The distance is the algebraic distance divided by the length of its gradient, exact to first order.
    """
    if len(points) < _MIN_POINTS:
        return 0.0
    unit = 80.0  # about a vault's radius, so that all coefficients have a similar magnitude
    x, y, z = (points[:: max(1, len(points) // 5000)] / unit).T
    terms = np.stack([x * x, y * y, z * z, x * y, x * z, y * z, x, y, z], axis=1)
    weights = np.ones(len(x))
    distance = np.zeros(len(x))
    for _ in range(4):
        a, b, c, d, e, f, g, h, i = np.linalg.lstsq(terms * weights[:, None], weights, rcond=None)[0]
        slopes = np.stack(
            [2 * a * x + d * y + e * z + g, 2 * b * y + d * x + f * z + h, 2 * c * z + e * x + f * y + i], axis=1
        )
        distance = (
            (terms @ np.array([a, b, c, d, e, f, g, h, i]) - 1) / np.linalg.norm(slopes, axis=1).clip(1e-3) * unit
        )
        weights = 1 / (1 + (distance / 3) ** 2)
    return float(np.median(np.abs(distance)))
