"""The prior: the complete shapes that a model proposes for a skull warped to its mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from SkullVAELib.completion.map_search import search_latent
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.registration.reference import MeanSkull
from SkullVAELib.shape.two_table import TwoTableShape
from SkullVAELib.vae.latent import complete_latent
from SkullVAELib.vae.networks import SkullModel

BLENDED = ("auto", "blend")
"""Priors that, where they decode, average the mean shape and the decoded shapes of the skull and its mirror image."""


@dataclass(frozen=True)
class Prior:
    """A skull in the latent space, from which complete shapes are decoded; it is encoded when that is first needed.

    Attributes
    ----------
    model : SkullModel
        The model.
    kind : str
        One of `PRIORS`, see `CompletionOptions`.
    defect_class : str
        Class of the deviation vector that moves the latent.
    field : torch.Tensor, shape (X, Y, Z)
        The defective skull's signed distance in mm, warped to the mean.
    points : torch.Tensor, shape (N, 3)
        Its bone surface in canonical mm, warped to the mean, which the prior "map" fits.
    """

    model: SkullModel
    kind: str
    defect_class: str
    field: torch.Tensor
    points: torch.Tensor

    @cached_property
    @torch.no_grad()
    def posterior(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the encoder's posterior, (1, L) each."""
        mu, logvar = self.model.encode(self.field[None].to(self.model.mean.device))
        return mu, (0.5 * logvar).exp()

    @cached_property
    @torch.no_grad()
    def _mirrored(self) -> torch.Tensor:
        """Posterior mean of the mirror image, (1, L)."""
        return self.model.encode(self.field.flip(0)[None].to(self.model.mean.device))[0]

    def gamma_or_own(self, gamma: float | None) -> float:
        """The given gamma, or the default of this kind of prior: 1 for "dev" and 0 for all others."""
        return float(self.kind == "dev") if gamma is None else gamma

    @torch.no_grad()
    def shape(self, gamma: float | None = None, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Decode a complete shape from mu + noise * sigma + gamma * DEV.

        The prior "mean" has one shape and no latent. "auto" is the mean skull plus the difference that gamma and noise
        make to "blend"; without them nothing is encoded.

        Parameters
        ----------
        gamma : float, optional
            Factor of the deviation vector; by default that of this kind of prior.
        noise : torch.Tensor, shape (L,), optional
            Standard normal values; by default the posterior mean is decoded.

        Returns
        -------
        torch.Tensor, shape (X, Y, Z)
            Signed distance in mm.

        Raises
        ------
        SkullVAEError
            If the model has no deviation vector of the class, or if the prior "mean" is given noise: it has one shape
            only.
        """
        model, kind = self.model, self.kind
        gamma = self.gamma_or_own(gamma)
        if kind == "mean" and noise is not None:
            raise SkullVAEError("The prior 'mean' has one shape only", "Choose another --prior")
        if self._is_mean(gamma, noise):
            return MeanSkull.of(model).field
        if kind == "auto":
            # The further gamma and noise are from 0, the further the shape is from the mean skull, without a step.
            return MeanSkull.of(model).field + self._decoded(gamma, noise) - self._own
        return self._decoded(gamma, noise)

    @cached_property
    def _own(self) -> torch.Tensor:
        """(X, Y, Z) decoded shape of the posterior mean, mm."""
        return self._decoded(0.0, None)

    @torch.no_grad()
    def _decoded(self, gamma: float, noise: torch.Tensor | None) -> torch.Tensor:
        """The decoded shape (X, Y, Z) in mm, see `shape`."""
        model, kind = self.model, self.kind
        if gamma and self.defect_class not in model.classes:
            raise SkullVAEError(
                f"The model has no deviation vector (DEV) for '{self.defect_class}' defects", "Use --gamma 0"
            )
        mu, sigma = self.posterior
        offset = 0.0 if noise is None else noise.to(mu.device) * sigma

        def latent(mu: torch.Tensor) -> torch.Tensor:
            if not gamma:
                return mu + offset
            return complete_latent(mu + offset, model.deviations[model.classes.index(self.defect_class)], gamma)

        z = latent(mu)
        if kind == "map":
            z = search_latent(model, z, self.points.to(mu.device))
        field = model.decode(z)[0]
        if kind in BLENDED:
            # The decoded shapes of a head and of its mirror image should be mirror images; where they are not, the
            # network errs, and their average has a smaller error. With few training skulls the errors of the network
            # and of the mean shape are partly independent, too, so that averaging reduces both.
            field = (field + model.decode(latent(self._mirrored))[0].flip(0)) / 2
            field = (field + model.mean) / 2
        return field.float().cpu()

    def tables(self, gamma: float | None = None, noise: torch.Tensor | None = None) -> TwoTableShape:
        """The outer and the inner table of `shape`, which has the same parameters and errors."""
        mean = MeanSkull.of(self.model)
        if self._is_mean(self.gamma_or_own(gamma), noise):
            return mean.tables
        return TwoTableShape.of(self.shape(gamma, noise), mean.grid)

    def _is_mean(self, gamma: float, noise: torch.Tensor | None) -> bool:
        return noise is None and (self.kind == "mean" or (self.kind == "auto" and not gamma))
