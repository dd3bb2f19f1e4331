"""Latent arithmetic: deviation vectors and z + gamma * DEV (arXiv 2209.14783)."""

from __future__ import annotations

import torch

from SkullVAELib.core.errors import SkullVAEError

Z_KINDS = ("mean", "mean+sigma", "sampled")


def latent_code(mu: torch.Tensor, logvar: torch.Tensor, kind: str, noise: torch.Tensor | None = None) -> torch.Tensor:
    """The latent code z (N, L) of posteriors: their mean, mean + sigma, or mean + noise * sigma.

    MONAI's VarAutoEncoder gives mean + sigma outside training unless told otherwise, so that is what the paper's
    decoder was trained on. noise (N, L) is needed for "sampled". Raises SkullVAEError for an unknown kind.

    >>> latent_code(torch.tensor([[1.0]]), torch.tensor([[0.0]]), "mean+sigma").tolist()
    [[2.0]]
    """
    if kind == "mean":
        return mu
    sigma = (0.5 * logvar).exp()
    if kind == "mean+sigma":
        return mu + sigma
    if kind == "sampled" and noise is not None:
        return mu + noise * sigma
    raise SkullVAEError(f"z '{kind}' is unknown", f"Use {' or '.join(Z_KINDS)}")


def inference_kind(kind: str) -> str:
    """The latent code to decode outside training: as the decoder's own, but of "sampled" ones the mean."""
    return "mean" if kind == "sampled" else kind


def deviation(complete: torch.Tensor, defective: torch.Tensor) -> torch.Tensor:
    """DEV (L,): mean latent of complete skulls minus mean latent of defective ones, each (N, L).

    >>> deviation(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 1.0]])).tolist()
    [1.0, 2.0]
    """
    return complete.mean(0) - defective.mean(0)


def complete_latent(z: torch.Tensor, dev: torch.Tensor, gamma: float) -> torch.Tensor:
    """z + gamma * DEV: gamma 0 reconstructs, 1 completes, between interpolates. z (N, L), dev (L,).

    >>> complete_latent(torch.tensor([[1.0, 1.0]]), torch.tensor([2.0, 0.0]), 0.5).tolist()
    [[2.0, 1.0]]
    """
    return z + gamma * dev


def neighbour_deviations(
    z: torch.Tensor, complete: torch.Tensor, defective: torch.Tensor, count: int = 5
) -> torch.Tensor:
    """DEV (N, L) of latents z (N, L), each the mean over its nearest defective training skulls.

    complete, defective: (S, L) latents of the same training skulls. Where all defects of a class look alike this is
    the class's DEV with noise; where they differ, the neighbours' defects are more alike.

    >>> zs = torch.tensor([[0.0], [9.0]])
    >>> neighbour_deviations(zs, torch.tensor([[1.0], [12.0]]), zs, 1).tolist()
    [[1.0], [3.0]]
    """
    nearest = torch.cdist(z, defective).topk(min(count, len(defective)), largest=False).indices
    return (complete - defective)[nearest].mean(1)
