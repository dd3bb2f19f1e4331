"""The prior: the complete shapes that a model proposes for a skull laid on its mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .errors import SkullVAEError
from .latent import complete_latent, search_latent
from .networks import SkullModel

PRIORS = ("auto", "blend", "encode", "map", "dev", "mean")


@dataclass(frozen=True)
class Prior:
    """A skull in the latent space, encoded once, and what is decoded from there.

    kind: one of PRIORS, see CompletionOptions; defect_class: whose DEV moves the latent; mu, sigma: (1, L) of the
    encoder's posterior; points: (N, 3) the patient's bone surface, laid on the mean, in canonical mm, which the MAP
    search fits.
    """

    model: SkullModel
    kind: str
    defect_class: str
    mu: torch.Tensor
    sigma: torch.Tensor
    points: torch.Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: SkullModel, field: torch.Tensor, points: torch.Tensor, kind: str, defect_class: str) -> Prior:
        """Encode a defective skull laid on the mean, (X, Y, Z) in mm."""
        device = model.mean.device
        mu, logvar = model.encode(field[None].to(device))
        return cls(model, kind, defect_class, mu, (0.5 * logvar).exp(), points.to(device))

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
        z = self.mu if noise is None else self.mu + noise.to(self.mu.device) * self.sigma
        gamma = self.gamma_or_own(gamma)
        if gamma:
            if self.defect_class not in model.classes:
                raise SkullVAEError(f"The model has no DEV for '{self.defect_class}' defects", "Use --gamma 0")
            z = complete_latent(z, model.deviations[model.classes.index(self.defect_class)], gamma)
        if self.kind == "map":
            z = search_latent(model, z, self.points)
        field = model.decode(z)[0]
        # Trained on few skulls the network's error and the mean shape's are partly independent: halfway both shrink.
        return ((field + model.mean) / 2 if self.kind in ("auto", "blend") else field).float().cpu()
