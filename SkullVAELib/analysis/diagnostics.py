"""Diagnostics of a VAE's latent space that loss curves do not show, and the linear shape model to compare it with.

Definitions: KL per dimension and active units as in Burda et al. 2016 (variance of mu over the data > 0.01); the
aggregated posterior as in Hoffman & Johnson 2016, "ELBO surgery".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from SkullVAELib.training.losses import kl_divergence

ACTIVE_VARIANCE = 0.01
"""Variance of the posterior mean over the data above which a latent is active."""


def kl_per_dimension(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """Mean KL divergence of posteriors to N(0, 1) for each latent.

    Parameters
    ----------
    mu, logvar : torch.Tensor
        (N, L) mean and log variance of the posteriors.

    Returns
    -------
    torch.Tensor
        (L,) in nats.

    Examples
    --------
    >>> kl_per_dimension(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2)).tolist()
    [0.0, 2.0]
    """
    return kl_divergence(mu, logvar).mean(0)


def active_units(mu: torch.Tensor, threshold: float = ACTIVE_VARIANCE) -> int:
    """Number of latents whose posterior mean (N, L) has a variance over the data above the threshold.

    Examples
    --------
    >>> active_units(torch.tensor([[0.0, 1.0], [0.01, -1.0]]))
    1
    """
    return int((mu.var(0, unbiased=False) > threshold).sum())


@dataclass(frozen=True)
class AggregatedPosterior:
    """The mixture of the posteriors of all skulls, compared with N(0, I).

    Attributes
    ----------
    mean, std : numpy.ndarray
        (L,) mean and standard deviation of the mixture.
    kl_nats : float
        KL divergence to N(0, I) of the Gaussian with the mixture's mean and full covariance.
    ks : numpy.ndarray
        (L,) Kolmogorov-Smirnov distance to N(0, 1) of one draw for each skull.
    rejected : int
        Latents whose draws are not standard normal: p < 0.05 after Bonferroni's correction.
    """

    mean: np.ndarray
    std: np.ndarray
    kl_nats: float
    ks: np.ndarray
    rejected: int


def aggregated_posterior(mu: torch.Tensor, logvar: torch.Tensor, seed: int = 0) -> AggregatedPosterior:
    """Compare the mixture of posteriors with N(0, I).

    Parameters
    ----------
    mu, logvar : torch.Tensor
        (N, L) mean and log variance of the posteriors.
    seed : int
        Seed of the draw for each skull.
    """
    from scipy import stats  # imported here since it takes half a second and training does not need it

    mu, variance = mu.double(), logvar.double().exp()
    count, size = mu.shape
    mean = mu.mean(0)
    covariance = (mu - mean).T @ (mu - mean) / count + torch.diag(variance.mean(0))
    kl = 0.5 * (torch.trace(covariance) + mean @ mean - size - torch.logdet(covariance))
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    draws = (mu + noise * variance.sqrt()).numpy()
    tests = [stats.kstest(column, "norm") for column in draws.T]
    rejected = sum(test.pvalue * size < 0.05 for test in tests)
    ks = np.array([test.statistic for test in tests])
    return AggregatedPosterior(mean.numpy(), covariance.diag().sqrt().numpy(), float(kl), ks, int(rejected))


def principal_plane(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Project two point sets to the plane of the first set's two principal directions.

    Parameters
    ----------
    points, others : numpy.ndarray
        (N, L) and (M, L).

    Returns
    -------
    tuple of numpy.ndarray
        Coordinates (N, 2) and (M, 2), and the fractions (2,) of the variance of `points` along both directions.
    """
    centre = points.mean(0)
    _, singular, directions = np.linalg.svd(points - centre, full_matrices=False)
    share = singular**2 / max(float((singular**2).sum()), 1e-30)
    return (points - centre) @ directions[:2].T, (others - centre) @ directions[:2].T, share[:2]


@dataclass(frozen=True)
class ShapeModel:
    """Mean and principal components of training volumes: the linear baseline of a VAE.

    Attributes
    ----------
    mean : torch.Tensor
        (V,).
    components : torch.Tensor
        (K, V), orthonormal.
    """

    mean: torch.Tensor
    components: torch.Tensor

    def reconstruct(self, volumes: torch.Tensor) -> torch.Tensor:
        """The nearest volumes (N, V) in the span of mean and components."""
        return self.mean + (volumes - self.mean) @ self.components.T @ self.components


def principal_components(volumes: torch.Tensor, count: int = 32) -> ShapeModel:
    """Principal component analysis, computed from the N x N products since V is large.

    Parameters
    ----------
    volumes : torch.Tensor
        (N, V) float.
    count : int
        Number of components; there are N - 1 at most.
    """
    mean = volumes.mean(0)
    centred = volumes - mean
    values, vectors = torch.linalg.eigh((centred @ centred.T).double())
    keep = [k for k in range(len(values) - 1, -1, -1) if values[k] > 1e-6 * values[-1]][: min(count, len(values) - 1)]
    scale = values[keep].sqrt().clamp(min=1e-12)
    return ShapeModel(mean, ((vectors[:, keep] / scale).T.float() @ centred))
