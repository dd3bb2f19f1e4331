"""How well a skull lies on the model's mean skull: whether what follows can be right, as measures and one score.

A shape that is no skull, or a skull in a wrong position, is completed as readily as any other; what comes out is wrong
and looks sure of itself. So every input is measured where it lies on the mean skull, before anything is completed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.distance_field import surface_points
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.options import WARN_BELOW
from SkullVAELib.registration.patient import RegisteredPatient
from SkullVAELib.shape.two_table import gradient, outward_directions

_VAULT = -0.1  # the sine of the angle down to which bone counts as vault, seen from the vault's centre


_NEAR_MM = 3.0


_THERE_MM = 2.5


_LEAST_POINTS = 200


@dataclass(frozen=True)
class QualityCheck:
    """One measure's part in the score: 1 up to `good`, 0 from `bad` on, linear between; what it means when it is bad.

    measure: field of Measures; cause, remedy: the sentence, in which {} is the measure.
    """

    measure: str
    good: float
    bad: float
    cause: str
    remedy: str

    def score(self, value: float) -> float:
        """0..1; 0 where the value is not a number."""
        if not np.isfinite(value):
            return 0.0
        return float(np.clip((value - self.bad) / (self.good - self.bad), 0, 1))


_UPRIGHT = "Check that it is one whole head, and that the file says rightly which way is up"


_SKULL = "Segment the bone of the skull alone"


_VOXELS = "Check the voxel size in the file's header, and its unit"


# First: where several measures are as bad, the first one's cause is told, and a wrong voxel size spoils all others.
CHECKS = (
    QualityCheck("length_mm", 1300, 1800, "The bone is {:.0f} mm long", _VOXELS),
    QualityCheck("length_mm", 90, 60, "The bone is {:.0f} mm long", _VOXELS),
    QualityCheck(
        "vault_share", 0.80, 0.40, "Only {:.0%} of a vault is there", "Choose an image that shows the whole vault"
    ),
    QualityCheck("solid_share", 0.02, 0.30, "{:.0%} of the cranial cavity is bone, as in an inverted image", _SKULL),
    QualityCheck("outside_share", 0.15, 0.50, "{:.0%} of the space around the vault is bone", _SKULL),
    QualityCheck("roughness_mm", 0.55, 0.4, "The vault is as smooth as a ball ({:.2f} mm), which no skull is", _SKULL),
    QualityCheck("size", 0.83, 0.55, "The head has {:.0%} of an adult's size", _VOXELS),
    QualityCheck("size", 1.2, 1.65, "The head has {:.0%} of an adult's size", _VOXELS),
    QualityCheck(
        "stretch", 1.3, 1.75, "The head is stretched, {:.2f} times more in one direction than in another", _VOXELS
    ),
    QualityCheck("fit_mm", 1.3, 4.0, "The bone lies {:.1f} mm from the mean skull in the median", _UPRIGHT),
    QualityCheck("warp_mm", 3.2, 10.0, "The mean skull must be bent by {:.1f} mm to lie on the bone", _UPRIGHT),
    QualityCheck("near_share", 0.97, 0.75, "Only {:.0%} of the bone lies where a vault can be", _UPRIGHT),
)


@dataclass(frozen=True)
class QualityMeasures:
    """What is measured of a skull laid on the mean skull; mm are canonical.

    length_mm: the longest side of the bone's bounding box, in the patient's space; a whole body's passes;
    fit_mm: median distance of the vault's surface to the mean skull's after registration; warp_mm: median displacement
    of the vault by the warp; near_share: part of the vault's surface within 3 mm of the mean skull's after the warp;
    vault_share: part of the mean vault's outer surface that has bone; solid_share, outside_share: bone's part of the
    cranial cavity's middle and of the space around the vault; roughness_mm: median distance of the vault's outer
    surface to the best ellipsoid; size: of the head by the mean skull's, in length; stretch: the largest of
    registration's three scales by the smallest.
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
    def of(cls, place: RegisteredPatient, mean: torch.Tensor) -> QualityMeasures:
        """mean: (X, Y, Z) signed distance of the mean skull, mm, on the placement's grid."""
        grid, bone = place.grid, place.field.reshape(-1)
        points, normals, laid = place.aligned.points, place.aligned.normals, place.points_on_mean
        scales = np.linalg.svd(place.alignment[:3, :3], compute_uv=False)
        size = float(np.prod(scales) ** (-1 / 3))

        surface = torch.tensor(surface_points(Volume((-mean).numpy(), grid.affine), level=0.0)[0]).float()
        facing = grid.sample(gradient(mean, grid.spacing_mm), surface)
        outer = surface[_is_vault(surface) & ((facing * outward_directions(surface)).sum(1) > 0.5 * facing.norm(dim=1))]
        there = grid.sample(place.field[None], outer)[:, 0].abs() < _THERE_MM

        vault = _is_vault(laid)
        off = grid.sample(mean[None], laid[vault])[:, 0].abs()
        upper = points[:, 2] > 0
        moved = (laid - points)[upper].norm(dim=1)

        nodes, field = grid.coordinates().reshape(-1, 3), mean.reshape(-1)
        far = nodes.norm(dim=1)
        cavity = (field > 8) & (far < 50) & (nodes[:, 2] > -15)
        around = (field > 8) & (field < 40) & (far > 80) & (nodes[:, 2] > -_VAULT * far)
        outer_bone = points[(points[:, 2] > 10) & ((normals * outward_directions(points)).sum(1) > 0.7)]
        return cls(
            length_mm=float(np.ptp(place.skull.points, axis=0).max()),
            fit_mm=place.aligned.fit_mm,
            warp_mm=_median(moved),
            near_share=_share(off < _NEAR_MM),
            vault_share=_share(there),
            solid_share=_share(bone[cavity] < 0),
            outside_share=_share(bone[around] < 0),
            roughness_mm=_off_ellipsoid(outer_bone.double().numpy()),
            size=size,
            stretch=float(scales[0] / scales[-1]),
        )


@dataclass(frozen=True)
class Quality:
    """Measures, and the score 0..1 that they make: the product of the checks."""

    measures: QualityMeasures
    score: float
    worst: QualityCheck

    @classmethod
    def of(cls, place: RegisteredPatient, mean: torch.Tensor) -> Quality:
        """Of a skull laid on the mean skull, see Measures.of."""
        return cls.from_measures(QualityMeasures.of(place, mean))

    @classmethod
    def from_measures(cls, measures: QualityMeasures) -> Quality:
        """Of what was measured before."""
        scores = [check.score(getattr(measures, check.measure)) for check in CHECKS]
        return cls(measures, float(np.prod(scores)), CHECKS[int(np.argmin(scores))])

    def require(self, least: float) -> None:
        """Raise SkullVAEError, which says what is worst, when the score is below `least`."""
        if self.score < least:
            raise SkullVAEError(f"This is no head that could be completed: {self._cause}", self.worst.remedy)

    @property
    def warnings(self) -> list[str]:
        """For the report: none where all is well."""
        if self.score >= WARN_BELOW:
            return []
        return [
            f"Look closely, the result may be wrong: {self._cause} (quality {self.score:.2f}). {self.worst.remedy}."
        ]

    @property
    def _cause(self) -> str:
        cause = self.worst.cause.format(getattr(self.measures, self.worst.measure))
        return cause[0].lower() + cause[1:]

    def as_json(self) -> dict:
        """For the report."""
        measures = {name: round(value, 3) for name, value in asdict(self.measures).items()}
        return {"score": round(self.score, 3), **measures}


def _is_vault(points: torch.Tensor) -> torch.Tensor:
    return points[:, 2] > _VAULT * points.norm(dim=1)


def _share(found: torch.Tensor) -> float:
    return float(found.float().mean()) if len(found) else 0.0


def _median(values: torch.Tensor) -> float:
    return float(values.median()) if len(values) else float("inf")


def _off_ellipsoid(points: np.ndarray) -> float:
    """Median distance in mm of points (N, 3) to the quadric that fits them best, robustly; 0 with too few of them.

    The distance is the algebraic one by its gradient's length, exact to first order.
    """
    if len(points) < _LEAST_POINTS:
        return 0.0
    unit = 80.0  # about a vault's radius, so that all coefficients are of like size
    x, y, z = (points[:: max(1, len(points) // 5000)] / unit).T
    terms = np.stack([x * x, y * y, z * z, x * y, x * z, y * z, x, y, z], axis=1)
    weights = np.ones(len(x))
    off = np.zeros(len(x))
    for _ in range(4):
        a, b, c, d, e, f, g, h, i = np.linalg.lstsq(terms * weights[:, None], weights, rcond=None)[0]
        slopes = np.stack(
            [2 * a * x + d * y + e * z + g, 2 * b * y + d * x + f * z + h, 2 * c * z + e * x + f * y + i], axis=1
        )
        off = (terms @ np.array([a, b, c, d, e, f, g, h, i]) - 1) / np.linalg.norm(slopes, axis=1).clip(1e-3) * unit
        weights = 1 / (1 + (off / 3) ** 2)
    return float(np.median(np.abs(off)))
