"""The prior: the complete shapes that a model proposes for a skull warped to its mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from SkullVAELib.completion.map_search import search_latent
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.vae.latent import complete_latent
from SkullVAELib.vae.networks import SkullModel

BLENDED = ("auto", "blend")
"""Priors that average the mean shape and the decoded shapes of the skull and of its mirror image."""


@dataclass(frozen=True)
class Prior:
    """A skull in the latent space, encoded once, from which complete shapes are decoded.

    Attributes
    ----------
    model : SkullModel
        The model.
    kind : str
        One of `PRIORS`, see `CompletionOptions`.
    defect_class : str
        Class of the deviation vector that moves the latent.
    mu, sigma : torch.Tensor, shape (1, L)
        Mean and standard deviation of the encoder's posterior.
    mirrored : torch.Tensor, shape (1, L), or None
        Posterior mean of the mirror image, for "blend" only.
    points : torch.Tensor, shape (N, 3)
        The patient's bone surface in canonical mm, warped to the mean, which the prior "map" fits.
    """

    model: SkullModel
    kind: str
    defect_class: str
    mu: torch.Tensor
    sigma: torch.Tensor
    mirrored: torch.Tensor | None
    points: torch.Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: SkullModel, field: torch.Tensor, points: torch.Tensor, kind: str, defect_class: str) -> Prior:
        """Encode a defective skull.

        Parameters
        ----------
        model : SkullModel
            The model.
        field : torch.Tensor, shape (X, Y, Z)
            The skull's signed distance in mm, warped to the mean.
        points : torch.Tensor, shape (N, 3)
            Its surface in canonical mm, warped to the mean.
        kind : str
            One of `PRIORS`.
        defect_class : str
            Class of the deviation vector.

        Returns
        -------
        Prior
        """
        device = model.mean.device
        mu, logvar = model.encode(field[None].to(device))
        mirrored = model.encode(field.flip(0)[None].to(device))[0] if kind in BLENDED else None
        return cls(model, kind, defect_class, mu, (0.5 * logvar).exp(), mirrored, points.to(device))

    def gamma_or_own(self, gamma: float | None) -> float:
        """The given gamma, or the default of this kind of prior: 1 for "dev" and 0 for all others."""
        return float(self.kind == "dev") if gamma is None else gamma

    @torch.no_grad()
    def shape(self, gamma: float | None = None, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Decode a complete shape from mu + noise * sigma + gamma * DEV.

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
        model = self.model
        if self.kind == "mean":
            if noise is not None:
                raise SkullVAEError("The prior 'mean' has one shape only", "Choose another --prior")
            return model.mean.float().cpu()
        offset = 0.0 if noise is None else noise.to(self.mu.device) * self.sigma
        gamma = self.gamma_or_own(gamma)
        if gamma and self.defect_class not in model.classes:
            raise SkullVAEError(
                f"The model has no deviation vector (DEV) for '{self.defect_class}' defects", "Use --gamma 0"
            )

        def latent(mu: torch.Tensor) -> torch.Tensor:
            if not gamma:
                return mu + offset
            return complete_latent(mu + offset, model.deviations[model.classes.index(self.defect_class)], gamma)

        z = latent(self.mu)
        if self.kind == "map":
            z = search_latent(model, z, self.points)
        field = model.decode(z)[0]
        if self.mirrored is not None:
            # The decoded shapes of a head and of its mirror image should be mirror images; where they are not, the
            # network errs, and their average has a smaller error. With few training skulls the errors of the network
            # and of the mean shape are partly independent, too, so that averaging reduces both.
            field = (field + model.decode(latent(self.mirrored))[0].flip(0)) / 2
            field = (field + model.mean) / 2
        return field.float().cpu()
