"""The prior: the complete shapes that a model proposes for a skull laid on its mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from SkullVAELib.completion.map_search import search_latent
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.vae.latent import complete_latent
from SkullVAELib.vae.networks import SkullModel

BLENDED = ("auto", "blend")
"""The mean of the mean shape and of what the network tells of the head and of its mirror image."""


@dataclass(frozen=True)
class Prior:
    """A skull in the latent space, encoded once, and what is decoded from there.

    kind: one of PRIORS, see CompletionOptions; defect_class: whose DEV moves the latent; mu, sigma: (1, L) of the
    encoder's posterior; mirrored: (1, L) mu of the mirror image, for "blend" alone; points: (N, 3) the patient's bone
    surface, laid on the mean, in canonical mm, which the MAP search fits.
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
        """Encode a defective skull laid on the mean, (X, Y, Z) in mm."""
        device = model.mean.device
        mu, logvar = model.encode(field[None].to(device))
        mirrored = model.encode(field.flip(0)[None].to(device))[0] if kind in BLENDED else None
        return cls(model, kind, defect_class, mu, (0.5 * logvar).exp(), mirrored, points.to(device))

    def gamma_or_own(self, gamma: float | None) -> float:
        """gamma, or the kind's own where it is None: 1 of "dev" and 0 of all others."""
        return float(self.kind == "dev") if gamma is None else gamma

    @torch.no_grad()
    def shape(self, gamma: float | None = None, noise: torch.Tensor | None = None) -> torch.Tensor:
        """A complete shape (X, Y, Z) in mm: decoded from mu + noise * sigma + gamma * DEV.

        gamma: None for the kind's own; noise: (L,) standard normal, None for the mean.
        The kind "mean" has one shape only. Raises SkullVAEError where the model has no DEV of the class, and when
        another shape than its only one is asked of the kind "mean".
        """
        model = self.model
        if self.kind == "mean":
            if noise is not None:
                raise SkullVAEError("The prior 'mean' has one shape only", "Choose another --prior")
            return model.mean.float().cpu()
        moved = 0.0 if noise is None else noise.to(self.mu.device) * self.sigma
        gamma = self.gamma_or_own(gamma)
        if gamma and self.defect_class not in model.classes:
            raise SkullVAEError(f"The model has no DEV for '{self.defect_class}' defects", "Use --gamma 0")

        def latent(mu: torch.Tensor) -> torch.Tensor:
            if not gamma:
                return mu + moved
            return complete_latent(mu + moved, model.deviations[model.classes.index(self.defect_class)], gamma)

        z = latent(self.mu)
        if self.kind == "map":
            z = search_latent(model, z, self.points)
        field = model.decode(z)[0]
        if self.mirrored is not None:
            # What the network tells of a head and of its mirror image should be mirror images; where they are not, it
            # errs, and their mean errs less. Trained on few skulls its error and the mean shape's are partly
            # independent, too: halfway both shrink.
            field = (field + model.decode(latent(self.mirrored))[0].flip(0)) / 2
            field = (field + model.mean) / 2
        return field.float().cpu()
