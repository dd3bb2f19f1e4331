"""The mean skull of a population, and the population warped to it.

Every skull is registered to the mean by an affine and then by the warp, as a patient is. There skulls correspond point
by point, so that their fields can be averaged and blended.
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
from SkullVAELib.registration.affine import AffineTarget, initial_alignment, register_affine
from SkullVAELib.registration.free_form import fit_warp, inverse_warp
from SkullVAELib.registration.options import WarpOptions
from SkullVAELib.registration.skull import CLAMP_MM, Skull, canonical_field, canonical_surface
from SkullVAELib.shape.two_table import TwoTableShape

TRAINING_WARP = WarpOptions(spacing_mm=20.0, symmetry=0.3, steps=100, count=15000)
"""Warp of a complete skull to the mean in training: it follows the surface more closely than that of a defective skull,
which has no data across its hole. The shipped models were trained with it.
"""


def _symmetric(field: torch.Tensor) -> torch.Tensor:
    """Average of a field and its mirror image."""
    return (field + field.flip(0)) / 2


def mean_shape(skulls: list[Skull], grid: Grid, passes: int = 2) -> tuple[torch.Tensor, list[np.ndarray]]:
    """The symmetric mean shape of skulls registered by an affine, and their alignments.

    Starts from the skull with the most bone inside the frame, base and face included; each pass registers all skulls to
    the mean and averages them again. A skull has weight 0 outside its field of view and where its segmentation ends.

    Parameters
    ----------
    skulls : list of Skull
        Complete skulls.
    grid : Grid
        The canonical grid.
    passes : int
        Number of passes.

    Returns
    -------
    mean : torch.Tensor, shape (X, Y, Z)
        Signed distance in mm, clamped.
    alignments : list of numpy.ndarray, shape (4, 4)
        Patient RAS mm -> canonical mm, one for each skull.
    """
    starts = [initial_alignment(s.points) for s in skulls]
    area = [
        (apply_affine(start, s.points)[:, 2] > -grid.half_mm[2]).sum() * s.fraction.spacing.mean() ** 2
        for s, start in zip(skulls, starts, strict=True)
    ]
    first = skulls[int(np.argmax(area))]
    mean = canonical_field(first.imaged, first.imaged_distance, initial_alignment(first.points), grid)[0]
    mean = _symmetric(mean.clamp(-2 * CLAMP_MM, 2 * CLAMP_MM))
    alignments: list[np.ndarray] = []
    for _ in range(passes):
        target = AffineTarget(redistance(mean, grid), grid)
        alignments = [register_affine(s.points, target) for s in skulls]
        total, weight = torch.zeros(grid.shape), torch.zeros(grid.shape)
        for skull, alignment in zip(skulls, alignments, strict=True):
            field, seen = canonical_field(skull.imaged, skull.imaged_distance, alignment, grid)
            valid = known_region(field, seen, mean, grid).float()
            total += valid * field.clamp(-CLAMP_MM, CLAMP_MM)
            weight += valid
        mean = _symmetric(torch.where(weight > 0, total / weight.clamp(min=1), torch.tensor(CLAMP_MM)))
    return mean, alignments


def known_region(field: torch.Tensor, seen: torch.Tensor, mean: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Where a complete skull has data: inside its field of view, and not where its segmentation was cut off.

    Bone of the mean shape that is more than 15 mm away from the skull's own bone is taken as cut off, together with 15
    mm around it.

    Parameters
    ----------
    field : torch.Tensor, shape (X, Y, Z)
        The skull's signed distance in mm.
    seen : torch.Tensor, shape (X, Y, Z)
        Bool, nodes inside the field of view.
    mean : torch.Tensor, shape (X, Y, Z)
        Signed distance of the mean shape in mm.
    grid : Grid
        The canonical grid.

    Returns
    -------
    torch.Tensor, shape (X, Y, Z)
        Bool.
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
    """Skulls warped to their mean.

    Attributes
    ----------
    grid : Grid
        The canonical grid.
    names : tuple of str
        Names of the S skulls.
    mean : torch.Tensor, shape (X, Y, Z)
        Signed distance of the mean shape in mm.
    detail : torch.Tensor, shape (S, X, Y, Z)
        Each skull's signed distance in mm, warped to the mean (affine and warp).
    known : torch.Tensor, shape (S, X, Y, Z)
        0..1, where each skull has data.
    alignments : numpy.ndarray, shape (S, 4, 4)
        Patient RAS mm -> canonical mm.
    """

    grid: Grid
    names: tuple[str, ...]
    mean: torch.Tensor
    detail: torch.Tensor
    known: torch.Tensor
    alignments: np.ndarray

    def spread(self) -> torch.Tensor:
        """Standard deviation across the skulls after the warp: small on the vault, large where anatomy or segmentation
        varies.

        It limits where the prior is trusted. The method has the name of the model's buffer that stores its result.

        Returns
        -------
        torch.Tensor, shape (X, Y, Z)
            Standard deviation in mm, at most 10; 10 where fewer than two skulls have data.
        """
        known = (self.known > 0.5).float()
        count = known.sum(0)
        mean = (self.detail * known).sum(0) / count.clamp(min=1)
        variance = ((self.detail - mean) ** 2 * known).sum(0) / (count - 1).clamp(min=1)
        return torch.where(count > 1, variance.sqrt(), torch.tensor(CLAMP_MM)).clamp(max=CLAMP_MM)


def warp_to_mean(
    mean: torch.Tensor, skull: Skull, alignment: np.ndarray, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor]:
    """A complete skull's field warped to a mean shape.

    Parameters
    ----------
    mean : torch.Tensor, shape (X, Y, Z)
        Signed distance of the mean shape in mm.
    skull : Skull
        The skull.
    alignment : numpy.ndarray, shape (4, 4)
        Patient RAS mm -> canonical mm.
    grid : Grid
        The canonical grid.

    Returns
    -------
    field : torch.Tensor, shape (X, Y, Z)
        Clamped signed distance in mm.
    known : torch.Tensor, shape (X, Y, Z)
        0..1, where the skull has data.
    """
    return warp_to_mean_with_field(mean, skull, alignment, grid)[:2]


def warp_to_mean_with_field(
    mean: torch.Tensor, skull: Skull, alignment: np.ndarray, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `warp_to_mean`, with the warp.

    The warp that maps a skull to the mean also maps a field on the mean into this skull's shape.

    Parameters
    ----------
    mean, skull, alignment, grid
        See `warp_to_mean`.

    Returns
    -------
    field : torch.Tensor, shape (X, Y, Z)
        Clamped signed distance in mm.
    known : torch.Tensor, shape (X, Y, Z)
        0..1, where the skull has data.
    warp : torch.Tensor, shape (3, X', Y', Z')
        Displacement in mm: skull(x) = field(x + warp(x)) at canonical x.
    """
    target = redistance(mean, grid)
    plain, seen = canonical_field(skull.imaged, skull.imaged_distance, alignment, grid)
    valid = known_region(plain, seen, target, grid).float()
    warp = fit_warp(TwoTableShape.of(mean, grid), *canonical_surface(skull, alignment), TRAINING_WARP)
    # Where the skull has no data the fitted warp is arbitrary; it must not deform the surroundings.
    weight = F.interpolate(valid[None, None], size=warp.shape[1:], mode="trilinear", align_corners=True)[0]
    warp = warp.clamp(-12, 12) * F.avg_pool3d(weight[None], 5, stride=1, padding=2)[0]
    inverse = inverse_warp(warp, grid)
    field, _ = canonical_field(skull.imaged, skull.imaged_distance, alignment, grid, inverse)
    moved = grid.coordinates().reshape(-1, 3)
    known = grid.sample(valid[None], moved + grid.sample(inverse, moved)).reshape(grid.shape)
    return field.clamp(-CLAMP_MM, CLAMP_MM), known, warp


def build_population(
    skulls: list[Skull], grid: Grid, log: Callable[[str], None] = lambda line: None, passes: int = 2
) -> Population:
    """Warp skulls to their mean and average them there, `passes` times.

    A mean of skulls registered by an affine alone is blurred: thin bone disappears and thick bone grows. After the warp
    skulls differ by half a millimetre, so that their mean is about as sharp.

    Parameters
    ----------
    skulls : list of Skull
        Complete skulls.
    grid : Grid
        The canonical grid.
    log : callable
        Called with one line of text for each skull.
    passes : int
        Number of passes.

    Returns
    -------
    Population
    """
    return build_population_with_warps(skulls, grid, log, passes)[0]


def build_population_with_warps(
    skulls: list[Skull], grid: Grid, log: Callable[[str], None] = lambda line: None, passes: int = 2
) -> tuple[Population, torch.Tensor]:
    """As `build_population`, with the warps of the skulls to the mean.

    Returns
    -------
    population : Population
    warps : torch.Tensor, shape (S, 3, X', Y', Z')
        Displacements in mm, see `warp_to_mean_with_field`.
    """
    mean, alignments = mean_shape(skulls, grid)
    for number in range(passes):
        pairs = zip(skulls, alignments, strict=True)
        warped = [warp_to_mean_with_field(mean, skull, alignment, grid) for skull, alignment in pairs]
        detail, known, warps = (torch.stack(tensors) for tensors in zip(*warped, strict=True))
        if number < passes - 1:
            valid = (known > 0.5).float()
            count = valid.sum(0)
            average = (detail * valid).sum(0) / count.clamp(min=1)
            mean = _symmetric(torch.where(count > 0, average, torch.tensor(CLAMP_MM)))
    for skull, share in zip(skulls, known.flatten(1).mean(1), strict=True):
        log(f"{skull.name}: {share:.0%} of the canonical frame known")
    return Population(grid, tuple(s.name for s in skulls), mean, detail, known, np.stack(alignments)), warps
