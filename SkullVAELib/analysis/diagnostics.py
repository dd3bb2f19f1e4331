"""What a VAE's latent space really holds: figures that are expected beside every loss curve.

Definitions: KL per dimension and active units as in Burda et al. 2016 (variance of mu over the data > 0.01); the
aggregated posterior as in Hoffman & Johnson 2016, "ELBO surgery".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from SkullVAELib.training.losses import kl_divergence

ACTIVE_VARIANCE = 0.01


def kl_per_dimension(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """Mean KL (L,) in nats of posteriors (N, L) to N(0, 1), latent by latent.

    >>> kl_per_dimension(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2)).tolist()
    [0.0, 2.0]
    """
    return kl_divergence(mu, logvar).mean(0)


def active_units(mu: torch.Tensor, threshold: float = ACTIVE_VARIANCE) -> int:
    """Latents whose posterior mean (N, L) varies over the data by more than the threshold.

    >>> active_units(torch.tensor([[0.0, 1.0], [0.01, -1.0]]))
    1
    """
    return int((mu.var(0, unbiased=False) > threshold).sum())


@dataclass(frozen=True)
class AggregatedPosterior:
    """How far the posteriors of all skulls together are from N(0, I).

    mean, std: (L,) of the mixture of posteriors; kl_nats: of the Gaussian of these moments with full covariance to
    N(0, I); ks: (L,) Kolmogorov-Smirnov distance of one draw for each skull to N(0, 1); rejected: latents for which
    that draw is not normal, p < 0.05 after Bonferroni's correction.
    """

    mean: np.ndarray
    std: np.ndarray
    kl_nats: float
    ks: np.ndarray
    rejected: int


def aggregated_posterior(mu: torch.Tensor, logvar: torch.Tensor, seed: int = 0) -> AggregatedPosterior:
    """The mixture of posteriors (N, L) beside N(0, I)."""
    from scipy import stats  # half a second to import, and training has no use for it

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
    """Both point sets (N, L), (M, L) in the plane (2) of the first one's two main directions, and the share of its
    variance (2,) that these carry."""
    centre = points.mean(0)
    _, singular, directions = np.linalg.svd(points - centre, full_matrices=False)
    share = singular**2 / max(float((singular**2).sum()), 1e-30)
    return (points - centre) @ directions[:2].T, (others - centre) @ directions[:2].T, share[:2]


@dataclass(frozen=True)
class ShapeModel:
    """Mean and principal components of training volumes: the linear model that a VAE has to beat.

    mean: (V,), components: (K, V), orthonormal.
    """

    mean: torch.Tensor
    components: torch.Tensor

    def reconstruct(self, volumes: torch.Tensor) -> torch.Tensor:
        """The nearest volumes (N, V) that the model can express."""
        return self.mean + (volumes - self.mean) @ self.components.T @ self.components


def principal_components(volumes: torch.Tensor, count: int = 32) -> ShapeModel:
    """PCA of volumes (N, V), float; of N - 1 components at most. By way of the N x N products, since V is large."""
    mean = volumes.mean(0)
    centred = volumes - mean
    values, vectors = torch.linalg.eigh((centred @ centred.T).double())
    keep = [k for k in range(len(values) - 1, -1, -1) if values[k] > 1e-6 * values[-1]][: min(count, len(values) - 1)]
    scale = values[keep].sqrt().clamp(min=1e-12)
    return ShapeModel(mean, ((vectors[:, keep] / scale).T.float() @ centred))
