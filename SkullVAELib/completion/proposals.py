"""Further proposals: other implants that are possible for a skull, given the bone that is left.

Two things are drawn. The shape is decoded from mu + noise * sigma, where mu and sigma are what the encoder tells of the
defective skull; its spread is the network's own, and small. And the tables are moved by a draw from what the bone
around the hole leaves open, see uncertainty.py, which is set on held-out skulls to be as wide as errors are. So
proposals differ in the middle of the hole more than at its rim. Draws of the shape at random are often alike; of POOL
draws those are taken that differ most from one another and from the first proposal, and that fill the gap about as far
as it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from SkullVAELib.completion.options import MOST_PROPOSALS
from SkullVAELib.completion.result import Completion, PreparedPatient
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.threads import one_thread
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.mesh.distance import SurfaceDistance
from SkullVAELib.mesh.mesh import Mesh

POOL = 16
"""Latents that are drawn."""


SHARE = 0.9
"""A draw that fills less than this share of what the first shape fills of the gap is no completion, and left out."""


_POINTS = 4000


_NEAR_MM = 3.0


@dataclass(frozen=True)
class ProposalSampler:
    """What makes a patient's proposals, drawn when it is first asked for; the same in every run."""

    patient: PreparedPatient

    def completion(self, number: int, gamma: float | None) -> Completion:
        """The completion of a proposal, 1 to MOST_PROPOSALS; the first is the most likely one.

        Raises SkullVAEError where neither shape nor tables can be drawn: the prior "mean" without a rim correction, or
        a defect of the face alone.
        """
        if number == 1:
            return self.patient.completion(gamma)
        if not self.patient.defects.pieces:
            raise SkullVAEError("A defect of the face alone has one proposal, its mirror image", "Choose 1")
        one_shape = self.patient.prior.kind == "mean" and self.patient.rim is not None
        return self.patient.completion(gamma, None if one_shape else self._noises[number - 2], draw=number)

    @cached_property
    @one_thread()
    def _noises(self) -> list[torch.Tensor]:
        """The draws of all but the first, each the one that differs most from all before it at the gap's surface."""
        patient, prior, place = self.patient, self.patient.prior, self.patient.registered
        size = prior.mu.shape[1]
        pool = [torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in range(POOL)]
        index = np.concatenate([np.argwhere(piece) for piece in patient.defects.pieces])
        index = np.random.default_rng(0).permutation(index)[:_POINTS]
        points = torch.tensor(apply_affine(place.alignment @ place.skull.fraction.affine, index)).float()
        points = points + place.grid.sample(place.warp, points)

        def at_gap(noise: torch.Tensor | None) -> torch.Tensor:
            shape = prior.shape(patient.options.gamma, noise)
            return place.grid.sample(shape[None], points)[:, 0]

        first = at_gap(None)
        near = first.abs() < _NEAR_MM
        fields = [at_gap(noise) for noise in pool]
        filled = torch.stack([(field < 0).float().mean() for field in fields])
        enough = torch.minimum(
            SHARE * (first < 0).float().mean(), filled.sort(descending=True).values[MOST_PROPOSALS - 2]
        )
        pool = [noise for noise, share in zip(pool, filled, strict=True) if share >= enough]
        drawn = [field[near] for field, share in zip(fields, filled, strict=True) if share >= enough]
        chosen: list[torch.Tensor] = []
        unlike = torch.stack([(field - first[near]).abs().mean() for field in drawn])
        while len(chosen) < MOST_PROPOSALS - 1:
            best = int(unlike.argmax())
            chosen.append(pool[best])
            unlike = torch.minimum(unlike, torch.stack([(field - drawn[best]).abs().mean() for field in drawn]))
        return chosen


def mean_difference_mm(first: Mesh, second: Mesh) -> float:
    """Mean distance in mm between two surfaces, each measured to the other's triangles; 0 for the same."""
    if first is second:
        return 0.0
    found = []
    for mesh, other in ((first, second), (second, first)):
        step = max(1, len(other.points) // _POINTS)
        found.append(np.abs(SurfaceDistance(mesh).signed(other.points[::step])).mean())
    return float(np.mean(found))
