"""Search of the latent whose decoded surface fits intact bone."""

from __future__ import annotations

import torch

from SkullVAELib.core.adam import Adam
from SkullVAELib.vae.networks import SkullModel


def search_latent(
    model: SkullModel,
    z: torch.Tensor,
    points: torch.Tensor,
    steps: int = 40,
    cut_mm: float = 3.0,
    weight: float = 0.002,
) -> torch.Tensor:
    """Find the latent whose decoded surface fits intact bone (prior "map").

    Adam minimises the robust distance of the points to the decoded surface plus a penalty on the standardised latent.
    The weight of that penalty is a heuristic, so the result is a maximum a posteriori estimate only approximately.

    Parameters
    ----------
    model : SkullModel
        The model.
    z : torch.Tensor, shape (1, L)
        Start of the search.
    points : torch.Tensor, shape (N, 3)
        Bone surface in canonical mm, warped to the mean skull.
    steps : int
        Number of Adam steps.
    cut_mm : float
        Scale of the robust distance, mm.
    weight : float
        Weight of the mean square of the standardised latent.

    Returns
    -------
    torch.Tensor, shape (1, L)
    """
    grid = model.architecture.grid
    chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:8000].to(points.device)
    points = points[chosen]
    with torch.enable_grad():
        start = (z.detach() - model.latent_mean) / model.latent_std
        standardised = start.clone().requires_grad_(True)
        optimiser = Adam([(standardised, 0.05)])
        for _ in range(steps):
            field = model.decode(standardised * model.latent_std + model.latent_mean)
            distance = grid.sample(field, points)[:, 0]
            loss = (distance**2 / (distance**2 + cut_mm**2)).mean() + weight * standardised.square().mean()
            optimiser.minimise(loss)
    return standardised.detach() * model.latent_std + model.latent_mean
