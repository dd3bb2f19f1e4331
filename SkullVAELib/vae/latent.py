"""Latent arithmetic: deviation vectors and z + gamma * DEV (arXiv 2209.14783)."""

from __future__ import annotations

import torch

from SkullVAELib.core.errors import SkullVAEError

Z_KINDS = ("mean", "mean+sigma", "sampled")
"""Kinds of latent code, see `latent_code`."""


def latent_code(mu: torch.Tensor, logvar: torch.Tensor, kind: str, noise: torch.Tensor | None = None) -> torch.Tensor:
    """The latent code of posteriors: their mean, mean + sigma, or mean + noise * sigma.

    Outside training MONAI's VarAutoEncoder returns mean + sigma by default, so that the paper's decoder was trained on
    that.

    Parameters
    ----------
    mu, logvar : torch.Tensor, shape (N, L)
        Mean and log variance of the posteriors.
    kind : str
        One of `Z_KINDS`.
    noise : torch.Tensor, shape (N, L), optional
        Standard normal values, required for "sampled".

    Returns
    -------
    torch.Tensor, shape (N, L)

    Raises
    ------
    SkullVAEError
        If the kind is unknown.

    Examples
    --------
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
    raise SkullVAEError(f"Unknown kind of latent code '{kind}'", f"Use {' or '.join(Z_KINDS)}")


def inference_kind(kind: str) -> str:
    """The kind of latent code to decode outside training: that of the decoder, but the mean for "sampled"."""
    return "mean" if kind == "sampled" else kind


def deviation(complete: torch.Tensor, defective: torch.Tensor) -> torch.Tensor:
    """Deviation vector (DEV): mean latent of complete skulls minus mean latent of defective skulls (arXiv 2209.14783).

    Parameters
    ----------
    complete, defective : torch.Tensor, shape (N, L)
        Latents; N may differ.

    Returns
    -------
    torch.Tensor, shape (L,)

    Examples
    --------
    >>> deviation(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 1.0]])).tolist()
    [1.0, 2.0]
    """
    return complete.mean(0) - defective.mean(0)


def complete_latent(z: torch.Tensor, dev: torch.Tensor, gamma: float) -> torch.Tensor:
    """Latent arithmetic z + gamma * DEV (arXiv 2209.14783): gamma 0 reconstructs, 1 completes.

    Parameters
    ----------
    z : torch.Tensor, shape (N, L)
        Latents of defective skulls.
    dev : torch.Tensor, shape (L,)
        Deviation vector.
    gamma : float
        Factor; values between 0 and 1 interpolate.

    Returns
    -------
    torch.Tensor, shape (N, L)

    Examples
    --------
    >>> complete_latent(torch.tensor([[1.0, 1.0]]), torch.tensor([2.0, 0.0]), 0.5).tolist()
    [[2.0, 1.0]]
    """
    return z + gamma * dev


def neighbour_deviations(
    z: torch.Tensor, complete: torch.Tensor, defective: torch.Tensor, count: int = 5
) -> torch.Tensor:
    """Deviation vectors of latents, each the mean over the nearest defective training skulls.

    Where all defects of a class are similar this is the deviation vector of the class with noise; where they differ,
    the neighbours have more similar defects.

    Parameters
    ----------
    z : torch.Tensor, shape (N, L)
        Latents.
    complete, defective : torch.Tensor, shape (S, L)
        Latents of the same training skulls.
    count : int
        Number of neighbours.

    Returns
    -------
    torch.Tensor, shape (N, L)

    Examples
    --------
    >>> zs = torch.tensor([[0.0], [9.0]])
    >>> neighbour_deviations(zs, torch.tensor([[1.0], [12.0]]), zs, 1).tolist()
    [[1.0], [3.0]]
    """
    nearest = torch.cdist(z, defective).topk(min(count, len(defective)), largest=False).indices
    return (complete - defective)[nearest].mean(1)
