"""Claims about latent arithmetic: DEV, the way along it, and the search for the latent that fits intact bone."""

from __future__ import annotations

import pytest
import torch

from SkullVAELib.completion.map_search import search_latent
from SkullVAELib.geometry.distance_field import surface_points
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.vae.latent import complete_latent, deviation
from SkullVAELib.vae.networks import Architecture, SkullModel


def latents(seed: int, count: int = 7) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def test_dev_is_what_takes_the_defective_mean_to_the_complete_one():
    complete, defective = latents(0), latents(1, 4)
    dev = deviation(complete, defective)
    assert dev.shape == (5,)
    assert torch.allclose(defective.mean(0) + dev, complete.mean(0), atol=1e-6)


def test_gamma_0_reconstructs_1_completes_and_a_half_lies_between():
    z, dev = latents(2), latents(3, 1)[0]
    assert torch.equal(complete_latent(z, dev, 0.0), z)
    assert torch.equal(complete_latent(z, dev, 1.0), z + dev)
    assert torch.allclose(complete_latent(z, dev, 0.5), (z + (z + dev)) / 2)


def test_two_halves_make_a_whole_way():
    z, dev = latents(4), latents(5, 1)[0]
    assert torch.allclose(complete_latent(complete_latent(z, dev, 0.5), dev, 0.5), complete_latent(z, dev, 1.0))


@pytest.fixture
def balls() -> SkullModel:
    """A model whose first latent is a ball's radius beyond 40 mm, in units of 2 mm; the second does nothing."""
    model = SkullModel(Architecture((16, 16, 16), 8.0, latent_size=2, channels=(4, 4)))
    model.mean.copy_(model.architecture.grid.coordinates().norm(dim=-1) - 40)
    model.decoder.forward = lambda z: -0.2 * z[:, :1, None, None, None].expand(-1, 1, 16, 16, 16)
    return model.eval()


def test_the_search_finds_the_latent_whose_surface_the_bone_lies_on(balls):
    with torch.no_grad():
        field = balls.decode(torch.tensor([[1.5, 0.0]]))[0]
    points, _ = surface_points(Volume(-field.numpy(), balls.architecture.grid.affine), level=0.0)
    half = torch.tensor(points[points[:, 0] > 0]).float()  # the other half is the defect
    start = torch.tensor([[0.0, 0.3]])
    found = search_latent(balls, start, half, steps=60)
    assert abs(float(found[0, 0]) - 1.5) < 0.3
    # What bone cannot tell stays plausible: it is drawn towards the mean, not away.
    assert abs(float(found[0, 1])) <= 0.3
    assert torch.equal(start, torch.tensor([[0.0, 0.3]]))


def test_the_search_stays_on_the_device_of_the_model(balls):
    """The device "meta" computes nothing, but refuses tensors of another device as a graphics card does."""
    balls.to("meta")
    balls.decoder.forward = lambda z: -0.2 * z[:, :1, None, None, None].expand(-1, 1, 16, 16, 16)
    found = search_latent(balls, torch.zeros(1, 2, device="meta"), torch.zeros(50, 3, device="meta"), steps=2)
    assert found.shape == (1, 2) and found.device.type == "meta"
