"""The latent space's figures: known answers for known distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SkullVAELib.analysis.diagnostics import (
    active_units,
    aggregated_posterior,
    kl_per_dimension,
    principal_components,
    principal_plane,
)
from SkullVAELib.training.losses import dice_score


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_kl_is_that_of_torch():
    mu, logvar = normal(7, 5), normal(7, 5, seed=1)
    posterior = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0, 1)).mean(0)
    assert torch.allclose(kl_per_dimension(mu, logvar), expected, atol=1e-5)


def test_a_latent_that_never_moves_is_not_active():
    mu = normal(50, 4)
    mu[:, 1] = 3.0
    mu[:, 2] *= 0.05
    assert active_units(mu) == 2


def test_posteriors_that_tile_the_prior_are_not_rejected():
    mu = normal(400, 6) * np.sqrt(0.75)
    found = aggregated_posterior(mu, torch.full((400, 6), np.log(0.25)))
    assert found.rejected == 0
    assert found.kl_nats < 0.1
    assert np.allclose(found.std, 1, atol=0.1)


def test_posteriors_off_the_prior_are_rejected_and_their_kl_is_the_gaussians():
    mu = 2 + 0.01 * normal(400, 3)
    found = aggregated_posterior(mu, torch.full((400, 3), 2 * np.log(0.5)))
    assert found.rejected == 3
    by_hand = 3 * 0.5 * (0.25 + 4 - 1 - np.log(0.25))
    assert found.kl_nats == pytest.approx(by_hand, rel=0.01)


def test_the_plane_holds_what_varies_most():
    points = np.zeros((40, 5))
    points[:, 3] = np.linspace(-10, 10, 40)
    points[:, 0] = np.tile([-1, 1], 20)
    inside, outside, share = principal_plane(points, points[:3])
    assert np.allclose(np.abs(inside[:, 0]), np.abs(points[:, 3]), atol=0.2)
    assert np.allclose(outside, inside[:3])
    assert share.sum() == pytest.approx(1)


def test_pca_reproduces_what_it_saw_and_explains_less_of_the_rest():
    basis = normal(3, 200, seed=2)
    seen = 5 + normal(12, 3) @ basis
    shapes = principal_components(seen, 32)
    assert shapes.components.shape == (3, 200)  # no more directions than there are
    assert torch.allclose(shapes.components @ shapes.components.T, torch.eye(3), atol=1e-4)
    assert torch.allclose(shapes.reconstruct(seen), seen, atol=1e-3)
    other = normal(4, 200, seed=3)
    assert (shapes.reconstruct(other) - other).norm() > 5


def test_dice_counts_two_empty_ones_as_equal():
    a = torch.tensor([[True, True, False], [False, False, False], [True, False, False]])
    b = torch.tensor([[True, False, False], [False, False, False], [False, True, False]])
    assert dice_score(a, b).tolist() == pytest.approx([2 / 3, 1.0, 0.0])
