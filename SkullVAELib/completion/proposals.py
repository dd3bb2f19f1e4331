"""Further proposals: other implants that are plausible for a skull, given its intact bone.

Two things are sampled. The shape is decoded from mu + noise * sigma of the encoder's posterior, whose variance is
small. The tables are moved by a draw from the posterior of the GP correction, see uncertainty.py, which is calibrated
on held-out skulls to the size of the actual errors. So proposals differ more in the middle of the defect than at its
rim. Random shapes are often similar; of POOL draws those are chosen that differ most from each other and from the first
proposal and that fill about as much of the defect.
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
"""Number of latents that are drawn."""

SHARE = 0.9
"""A draw that fills less than this fraction of what the first shape fills of the defect is discarded as incomplete."""

_POINTS = 4000
"""Number of points at which shapes are compared."""

_NEAR_MM = 3.0
"""Shapes are compared where the first one's surface is within this distance, mm."""


@dataclass(frozen=True)
class ProposalSampler:
    """The proposals for a patient, sampled on first use; identical in every run.

    Attributes
    ----------
    patient : PreparedPatient
        The patient.
    """

    patient: PreparedPatient

    def completion(self, number: int, gamma: float | None) -> Completion:
        """The completion of a proposal.

        Parameters
        ----------
        number : int
            1 to MOST_PROPOSALS; 1 is the most likely proposal.
        gamma : float or None
            See `Prior.shape`.

        Returns
        -------
        Completion

        Raises
        ------
        SkullVAEError
            If neither shape nor tables can be sampled: for the prior "mean" without GP correction, and for a defect of
            the face only.
        """
        if number == 1:
            return self.patient.completion(gamma)
        if not self.patient.defects.masks:
            raise SkullVAEError("A defect of the face only has one proposal, the mirror image", "Choose proposal 1")
        tables_only = self.patient.prior.kind == "mean" and self.patient.rim is not None
        return self.patient.completion(gamma, None if tables_only else self._noises[number - 2], draw=number)

    def with_points(self, patient: PreparedPatient) -> ProposalSampler:
        """The same proposals for the same patient with other points on the outer surface."""
        other = ProposalSampler(patient)
        if "_noises" in self.__dict__:
            other.__dict__["_noises"] = self._noises
        return other

    @cached_property
    @one_thread()
    def _noises(self) -> list[torch.Tensor]:
        """Noise of all proposals but the first, each the draw that differs most at the defect from all before it."""
        patient, prior, registered = self.patient, self.patient.prior, self.patient.registered
        size = prior.posterior[0].shape[1]
        pool = [torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in range(POOL)]
        index = np.concatenate([np.argwhere(mask) for mask in patient.defects.masks])
        index = np.random.default_rng(0).permutation(index)[:_POINTS]
        points = torch.tensor(apply_affine(registered.alignment @ registered.skull.fraction.affine, index)).float()
        points = points + registered.grid.sample(registered.warp, points)

        def at_defect(noise: torch.Tensor | None) -> torch.Tensor:
            shape = prior.shape(patient.options.gamma, noise)
            return registered.grid.sample(shape[None], points)[:, 0]

        first = at_defect(None)
        near = first.abs() < _NEAR_MM
        fields = [at_defect(noise) for noise in pool]
        filled = torch.stack([(field < 0).float().mean() for field in fields])
        required = torch.minimum(
            SHARE * (first < 0).float().mean(), filled.sort(descending=True).values[MOST_PROPOSALS - 2]
        )
        pool = [noise for noise, share in zip(pool, filled, strict=True) if share >= required]
        drawn = [field[near] for field, share in zip(fields, filled, strict=True) if share >= required]
        chosen: list[torch.Tensor] = []
        difference = torch.stack([(field - first[near]).abs().mean() for field in drawn])
        while len(chosen) < MOST_PROPOSALS - 1:
            best = int(difference.argmax())
            chosen.append(pool[best])
            difference = torch.minimum(difference, torch.stack([(field - drawn[best]).abs().mean() for field in drawn]))
        return chosen


def mean_difference_mm(first: Mesh, second: Mesh) -> float:
    """Mean distance between two surfaces, measured in both directions.

    Parameters
    ----------
    first, second : Mesh
        The surfaces.

    Returns
    -------
    float
        mm; 0 for the same mesh.
    """
    if first is second:
        return 0.0
    means = []
    for mesh, other in ((first, second), (second, first)):
        step = max(1, len(other.points) // _POINTS)
        means.append(np.abs(SurfaceDistance(mesh).signed(other.points[::step])).mean())
    return float(np.mean(means))
