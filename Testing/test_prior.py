"""Claims about the complete shape that a completion starts from: the mean skull unless a latent is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import TINY

from SkullVAELib.completion.options import PRIORS
from SkullVAELib.completion.prior import Prior
from SkullVAELib.registration.affine import PITCHES, AffineTarget, Poses, _descend, rotation_matrices
from SkullVAELib.registration.reference import MeanSkull
from SkullVAELib.vae.networks import SkullModel

LONGER = [1.1, 0.9, 1.0]
"""Factors of the coordinates that make a ball of the head."""


@pytest.fixture
def ball() -> SkullModel:
    """An untrained model whose mean skull is a shell of 60 to 66 mm, longer than wide."""
    torch.manual_seed(0)
    model = SkullModel(TINY, ("cranial",)).eval()
    radius = (TINY.grid.coordinates() * torch.tensor(LONGER)).norm(dim=-1)
    model.mean.copy_(torch.maximum(radius - 66, 60 - radius).clamp(-10, 10))
    model.deviations.copy_(torch.randn(1, TINY.latent_size))
    return model


def prior(model: SkullModel, kind: str) -> Prior:
    return Prior(model, kind, "cranial", model.mean + 0.5, torch.randn(500, 3) * 40)


def encodes(made: Prior) -> bool:
    return "posterior" in made.__dict__


@pytest.mark.parametrize("kind", ["auto", "mean"])
def test_the_mean_skull_needs_no_network(ball, kind):
    made = prior(ball, kind)
    assert torch.equal(made.shape(), ball.mean)
    assert made.tables() is MeanSkull.of(ball).tables
    assert not encodes(made)


def test_a_gamma_or_noise_moves_the_mean_skull_as_it_moves_the_decoded_shape(ball):
    made, blend = prior(ball, "auto"), prior(ball, "blend")
    noise = torch.ones(TINY.latent_size)
    for given in ({"gamma": 0.5}, {"noise": noise}, {"gamma": 1.0, "noise": noise}):
        moved = blend.shape(**given) - blend.shape()
        assert float(moved.abs().max()) > 0
        assert torch.allclose(made.shape(**given), ball.mean + moved, atol=1e-4)
    assert encodes(made)


@pytest.mark.parametrize("kind", sorted(set(PRIORS) - {"auto", "mean"}))
def test_every_other_prior_decodes(ball, kind):
    made = prior(ball, kind)
    assert not torch.equal(made.shape(), ball.mean)
    assert encodes(made)


def test_the_mean_skull_is_measured_once_and_anew_when_it_changes(ball):
    first = MeanSkull.of(ball)
    assert MeanSkull.of(ball) is first
    ball.mean.add_(1.0)
    second = MeanSkull.of(ball)
    assert second is not first
    assert float((second.distance - first.distance)[24, 28, 24:].abs().mean()) > 0.5


def test_poses_side_by_side_go_where_each_goes_alone(ball):
    target = AffineTarget(MeanSkull.of(ball).distance, TINY.grid)
    points = torch.tensor(np.random.default_rng(0).normal(size=(800, 3))).float()
    points = 66 * points / points.norm(dim=1, keepdim=True) / torch.tensor(LONGER)
    turns = torch.tensor([[pitch, 0.0, 0.0] for pitch in PITCHES])
    start = Poses(turns, torch.full_like(turns, 4.0), torch.full_like(turns, 0.05))
    together = _descend(points, target, start, (15.0, 10.0), 20)
    for number, alone in enumerate(start.each()):
        found = _descend(points, target, alone, (15.0, 10.0), 20)
        for name in ("turns", "shifts", "scales"):
            assert torch.allclose(getattr(found, name)[0], getattr(together, name)[number], atol=0.01)


def test_rotations_turn_about_their_vector_by_its_length():
    turned = rotation_matrices(torch.tensor([[0.0, 0.0, np.pi / 2], [0.0, 0.0, 0.0]])) @ torch.tensor([1.0, 0.0, 0.0])
    assert torch.allclose(turned, torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), atol=1e-6)
