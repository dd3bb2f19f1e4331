"""The autoencoder in plain torch is MONAI's: names of parameters, initial weights and outputs, bit by bit."""

from __future__ import annotations

import pytest
import torch
from monai.networks.blocks import Convolution
from monai.networks.nets import VarAutoEncoder
from torch import nn

from SkullVAELib.vae.autoencoder import ConvolutionBlock
from SkullVAELib.vae.networks import Architecture, BetaVAE, start_at_mean_shape
from SkullVAELib.vae.paper_networks import PaperArchitecture, PaperVAE

OURS = Architecture(grid_shape=(16, 24, 16), spacing_mm=8.0, latent_size=6, channels=(4, 8, 12))
PAPERS = PaperArchitecture((16, 16, 8), 5, (4, 6, 8, 8, 10))  # the last two levels have stride 1


def _monais(architecture: Architecture | PaperArchitecture) -> VarAutoEncoder:
    common = {"latent_size": architecture.latent_size, "channels": architecture.channels, "use_sigmoid": False}
    common |= {"spatial_dims": 3, "in_shape": (1, *architecture.grid_shape)}
    if isinstance(architecture, PaperArchitecture):
        return VarAutoEncoder(out_channels=2, strides=architecture.strides, norm="batch", **common)
    network = VarAutoEncoder(
        out_channels=1,
        strides=(2,) * len(architecture.channels),
        norm=("group", {"num_groups": 4}),
        use_mean_at_inference=True,
        **common,
    )
    start_at_mean_shape(network)
    return network


@pytest.fixture(params=[OURS, PAPERS], ids=["ours", "the paper's"])
def pair(request) -> tuple[nn.Module, nn.Module]:
    """Our network and MONAI's, each made under the same seed, on a small grid."""
    torch.manual_seed(3)
    ours = BetaVAE(OURS) if request.param is OURS else PaperVAE(PAPERS)
    after = torch.rand(3)
    torch.manual_seed(3)
    theirs = _monais(request.param)
    assert torch.equal(torch.rand(3), after), "both draw as many random numbers, so that later ones agree, too"
    return ours, theirs


def _volumes(network: nn.Module) -> torch.Tensor:
    grid = (OURS if isinstance(network, BetaVAE) else PAPERS).grid_shape
    return torch.randn(3, 1, *grid, generator=torch.Generator().manual_seed(7))


def test_parameters_have_the_same_order_names_and_initial_values(pair):
    ours, theirs = (network.state_dict() for network in pair)
    assert list(ours) == list(theirs)
    assert [name for name, _ in pair[0].named_parameters()] == [name for name, _ in pair[1].named_parameters()]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert len({tensor.shape for tensor in ours.values()}) > 5


@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_are_the_same_bits(pair, training):
    results = []
    for network in pair:
        network.train(training)
        torch.manual_seed(11)
        outputs = network(_volumes(pair[0]))
        gradients = []
        if training:  # in evaluation mode MONAI's z of the paper's network has no gradient: it is changed in place
            sum(value.square().sum() for value in outputs).backward()
            gradients = [parameter.grad for parameter in network.parameters()]
        results.append([*outputs, *gradients, *network.buffers()])
    assert len(results[0]) == len(results[1])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results, strict=True))
    assert results[0][0].abs().max() > 0 and all(gradient.isfinite().all() for gradient in results[0])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("norm", [None, "batch"])
def test_a_block_is_monais(stride, transposed, norm):
    torch.manual_seed(5)
    ours = ConvolutionBlock(3, 5, stride, nn.BatchNorm3d if norm else None, transposed)
    torch.manual_seed(5)
    theirs = Convolution(3, 3, 5, stride, norm=norm, is_transposed=transposed, conv_only=norm is None)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 3, 6, 4, 8, generator=torch.Generator().manual_seed(2))
    assert torch.equal(ours(x), theirs(x))
