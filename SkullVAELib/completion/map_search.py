"""Maximum a posteriori search of the latent that fits intact bone."""

from __future__ import annotations

import torch

from SkullVAELib.vae.networks import SkullModel


def search_latent(
    model: SkullModel,
    z: torch.Tensor,
    points: torch.Tensor,
    steps: int = 40,
    cut_mm: float = 3.0,
    weight: float = 0.002,
) -> torch.Tensor:
    """Maximum a posteriori latent (1, L): the decoded surface fits intact bone, the latent stays plausible.

    z: (1, L) where the search starts; points: (N, 3) bone surface in canonical mm. Adam on the robust distance of the
    points to the decoded surface, plus weight * squared standardised latent.
    """
    grid = model.architecture.grid
    pick = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:8000].to(points.device)
    points = points[pick]
    with torch.enable_grad():
        start = (z.detach() - model.latent_mean) / model.latent_std
        standard = start.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([standard], lr=0.05)
        for _ in range(steps):
            field = model.decode(standard * model.latent_std + model.latent_mean)
            distance = grid.sample(field, points)[:, 0]
            loss = (distance**2 / (distance**2 + cut_mm**2)).mean() + weight * standard.square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return standard.detach() * model.latent_std + model.latent_mean
