"""A population of skulls laid on their mean shape, and new ones drawn from it.

Few real skulls are at hand, so variety is made where it is anatomical: every skull is laid on the mean, first by an
affine and then by the conforming warp, as a patient will be. There blending two skulls is sound. A new skull is a blend
of details, a smooth random deformation, a change of thickness and a mirror.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.distance_field import redistance
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.registration.affine import initial_alignment, register_affine
from SkullVAELib.registration.free_form import fit_warp, inverse_warp
from SkullVAELib.registration.options import WarpOptions
from SkullVAELib.registration.skull import CLAMP_MM, Skull, canonical_field, canonical_surface
from SkullVAELib.shape.two_table import TwoTableShape

TRAINING_WARP = WarpOptions(spacing_mm=20.0, symmetry=0.3)
"""How a complete skull is laid on the mean for training: more closely than a defective one, which has nothing to tell
across its hole. The shipped models were trained so."""


def _symmetric(field: torch.Tensor) -> torch.Tensor:
    return (field + field.flip(0)) / 2


def mean_shape(skulls: list[Skull], grid: Grid, passes: int = 2) -> tuple[torch.Tensor, list[np.ndarray]]:
    """The symmetric mean shape (X, Y, Z) in mm and every skull's (4, 4) alignment to it.

    Starts from the skull that shows most bone inside the frame, base and face included; each pass registers all skulls
    to the mean and averages anew. Where a skull's field of view or segmentation ends, it does not vote.
    """
    starts = [initial_alignment(s.points) for s in skulls]
    area = [
        (apply_affine(start, s.points)[:, 2] > -grid.half_mm[2]).sum() * s.fraction.spacing.mean() ** 2
        for s, start in zip(skulls, starts, strict=True)
    ]
    first = skulls[int(np.argmax(area))]
    mean = canonical_field(first.fraction, first.distance, initial_alignment(first.points), grid)[0]
    mean = _symmetric(mean.clamp(-2 * CLAMP_MM, 2 * CLAMP_MM))
    alignments: list[np.ndarray] = []
    for _ in range(passes):
        target = redistance(mean, grid)
        alignments = [register_affine(s.points, target, grid) for s in skulls]
        total, weight = torch.zeros(grid.shape), torch.zeros(grid.shape)
        for skull, alignment in zip(skulls, alignments, strict=True):
            field, seen = canonical_field(skull.fraction, skull.distance, alignment, grid)
            valid = known_region(field, seen, mean, grid).float()
            total += valid * field.clamp(-CLAMP_MM, CLAMP_MM)
            weight += valid
        mean = _symmetric(torch.where(weight > 0, total / weight.clamp(min=1), torch.tensor(CLAMP_MM)))
    return mean, alignments


def known_region(field: torch.Tensor, seen: torch.Tensor, mean: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Where a complete skull says something: inside its field of view, and not where its segmentation was cut short.

    Bone of the mean shape with none of the skull's own bone within 15 mm is taken as cut away, with 15 mm around it.
    """
    near = ((mean < 1.5) & (field > 15.0)).float()[None, None]
    radius = int(15.0 / grid.spacing_mm)
    for axis in range(3):  # a cube is separable: three passes instead of (2 radius + 1)^3 comparisons
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = 2 * radius + 1, radius
        near = F.max_pool3d(near, kernel, stride=1, padding=padding)
    return seen & (near[0, 0] == 0)


@dataclass(frozen=True)
class Population:
    """Skulls laid on their mean.

    mean: (X, Y, Z) mm; detail: (S, X, Y, Z) mm each skull's field laid on the mean, by the affine and the conforming
    warp; known: (S, X, Y, Z) 0..1 where it speaks; alignments: (S, 4, 4) patient RAS mm -> canonical mm.
    """

    grid: Grid
    names: tuple[str, ...]
    mean: torch.Tensor
    detail: torch.Tensor
    known: torch.Tensor
    alignments: np.ndarray

    def spread(self) -> torch.Tensor:
        """(X, Y, Z) standard deviation in mm between the skulls once laid on the mean; 10 where fewer than two speak.

        Small on the vault, large where heads are built differently or segmentations end: how far to trust a prior.
        """
        known = (self.known > 0.5).float()
        count = known.sum(0)
        mean = (self.detail * known).sum(0) / count.clamp(min=1)
        variance = ((self.detail - mean) ** 2 * known).sum(0) / (count - 1).clamp(min=1)
        return torch.where(count > 1, variance.sqrt(), torch.tensor(CLAMP_MM)).clamp(max=CLAMP_MM)


def warp_to_mean(
    mean: torch.Tensor, skull: Skull, alignment: np.ndarray, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor]:
    """A complete skull's field laid on a mean shape by the conforming warp, and where it speaks.

    mean: (X, Y, Z) mm; alignment: (4, 4) patient RAS mm -> canonical mm. Returns the clamped field (X, Y, Z) in mm and
    0..1 (X, Y, Z).
    """
    return warp_to_mean_with_field(mean, skull, alignment, grid)[:2]


def warp_to_mean_with_field(
    mean: torch.Tensor, skull: Skull, alignment: np.ndarray, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As lay_on, and the warp that did it: (3, X', Y', Z') mm, skull(x) = laid(x + warp(x)) at canonical x.

    So the warp that lays a skull on the mean also brings a field that lies on the mean into this skull's shape.
    """
    target = redistance(mean, grid)
    plain, seen = canonical_field(skull.fraction, skull.distance, alignment, grid)
    valid = known_region(plain, seen, target, grid).float()
    warp = fit_warp(TwoTableShape.of(mean, grid), *canonical_surface(skull, alignment), TRAINING_WARP)
    # Where the skull is silent the fitted warp is arbitrary; it must not bend what is near.
    trust = F.interpolate(valid[None, None], size=warp.shape[1:], mode="trilinear", align_corners=True)[0]
    warp = warp.clamp(-12, 12) * F.avg_pool3d(trust[None], 5, stride=1, padding=2)[0]
    back = inverse_warp(warp, grid)
    field, _ = canonical_field(skull.fraction, skull.distance, alignment, grid, back)
    moved = grid.coordinates().reshape(-1, 3)
    known = grid.sample(valid[None], moved + grid.sample(back, moved)).reshape(grid.shape)
    return field.clamp(-CLAMP_MM, CLAMP_MM), known, warp


def build_population(
    skulls: list[Skull], grid: Grid, log: Callable[[str], None] = lambda line: None, passes: int = 2
) -> Population:
    """Lay skulls on their mean and average them there, `passes` times.

    A mean of skulls that are registered by an affine alone is blurred: thin bone fades in it and thick bone grows. Laid
    on the mean by the warp, skulls differ by half a millimetre, and so sharp is their mean.
    """
    return build_population_with_warps(skulls, grid, log, passes)[0]


def build_population_with_warps(
    skulls: list[Skull], grid: Grid, log: Callable[[str], None] = lambda line: None, passes: int = 2
) -> tuple[Population, torch.Tensor]:
    """As build_population, and the skulls' warps onto the mean, (S, 3, X', Y', Z') mm; see lay_on_with_warp."""
    mean, alignments = mean_shape(skulls, grid)
    for number in range(passes):
        pairs = zip(skulls, alignments, strict=True)
        laid = [warp_to_mean_with_field(mean, skull, alignment, grid) for skull, alignment in pairs]
        detail, known, warps = (torch.stack(tensors) for tensors in zip(*laid, strict=True))
        if number < passes - 1:
            speaks = (known > 0.5).float()
            count = speaks.sum(0)
            average = (detail * speaks).sum(0) / count.clamp(min=1)
            mean = _symmetric(torch.where(count > 0, average, torch.tensor(CLAMP_MM)))
    for skull, share in zip(skulls, known.flatten(1).mean(1), strict=True):
        log(f"{skull.name}: {share:.0%} of the canonical frame known")
    return Population(grid, tuple(s.name for s in skulls), mean, detail, known, np.stack(alignments)), warps
