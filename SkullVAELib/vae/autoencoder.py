"""A variational autoencoder of 3D convolutions in plain torch.

Layers, names of parameters, initial weights and outputs are those of MONAI's `VarAutoEncoder` (version 1.6), which a
test compares with it. MONAI itself takes longer to import than torch.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import nn

Normalisation = Callable[[int], nn.Module]
"""Makes the normalisation of a number of channels."""


class ConvolutionBlock(nn.Sequential):
    """A convolution of kernel 3 or its transpose, then normalisation and PReLU.

    Parameters
    ----------
    here, there : int
        Channels of input and output.
    stride : int
        The grid is divided, or if transposed multiplied, by this.
    normalisation : callable
        Makes the normalisation; None for the convolution alone.
    transposed : bool
        Whether the convolution is transposed.
    """

    def __init__(
        self, here: int, there: int, stride: int, normalisation: Normalisation | None, transposed: bool = False
    ):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if transposed:
            layers["conv"] = nn.ConvTranspose3d(here, there, 3, stride, padding=1, output_padding=stride - 1)
        else:
            layers["conv"] = nn.Conv3d(here, there, 3, stride, padding=1)
        if normalisation is not None:
            layers["adn"] = nn.Sequential(OrderedDict(N=normalisation(there), A=nn.PReLU()))
        super().__init__(layers)


class VariationalAutoencoder(nn.Module):
    """Encoder of convolutions, posterior mean and log variance, decoder of transposed convolutions.

    Parameters
    ----------
    grid_shape : sequence of int
        Shape of the input, divisible by the product of the strides.
    out_channels : int
        Channels of the output; the input has one.
    latent_size : int
        Size L of the latent.
    channels, strides : sequence of int
        Channels and stride of each level.
    normalisation : callable
        Makes the normalisation of a level from its channels.
    use_mean_at_inference : bool
        Whether z in evaluation mode is the posterior mean; otherwise it is mean + standard deviation.
    """

    def __init__(
        self,
        grid_shape: Sequence[int],
        out_channels: int,
        latent_size: int,
        channels: Sequence[int],
        strides: Sequence[int],
        normalisation: Normalisation,
        use_mean_at_inference: bool = False,
    ):
        super().__init__()
        self.use_mean_at_inference = use_mean_at_inference
        self.start_shape = (channels[-1], *(n // math.prod(strides) for n in grid_shape))
        self.encode = nn.Sequential()
        for place, ((here, there), stride) in enumerate(zip(itertools.pairwise((1, *channels)), strides, strict=True)):
            self.encode.add_module(f"encode_{place}", ConvolutionBlock(here, there, stride, normalisation))
        self.decode = nn.Sequential()
        pairs = itertools.pairwise((*channels[::-1], out_channels))
        for place, ((here, there), stride) in enumerate(zip(pairs, strides[::-1], strict=True), 1):
            norm = None if place == len(strides) else normalisation
            block = ConvolutionBlock(here, there, stride, norm, transposed=True)
            self.decode.add_module(f"decode_{place - 1}", nn.Sequential(OrderedDict(conv=block)))
        size = math.prod(self.start_shape)
        self.mu = nn.Linear(size, latent_size)
        self.logvar = nn.Linear(size, latent_size)
        self.decodeL = nn.Linear(latent_size, size)

    def encode_forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and log variance (N, L) of volumes (N, 1, X, Y, Z)."""
        x = self.encode(x).flatten(1)
        return self.mu(x), self.logvar(x)

    def decode_forward(self, z: torch.Tensor) -> torch.Tensor:
        """Outputs (N, C, X, Y, Z) of latents (N, L), without a final activation."""
        return self.decode(torch.relu(self.decodeL(z)).reshape(-1, *self.start_shape))

    def sample(self, mu: torch.Tensor, logvar: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Latents (N, L) of posteriors; see `forward`."""
        if noise is not None:
            return mu + noise * (0.5 * logvar).exp()
        if self.use_mean_at_inference and not self.training:
            return mu
        sigma = (0.5 * logvar).exp()
        return (torch.randn_like(sigma) * sigma if self.training else sigma) + mu

    def forward(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """Output, mu, logvar and z of volumes (N, 1, X, Y, Z).

        With noise, (N, L) standard normal, z = mu + noise * sigma in training and evaluation mode, so that a training
        step depends on its number only. Without it z is drawn in training mode, and see `use_mean_at_inference`.
        """
        mu, logvar = self.encode_forward(x)
        z = self.sample(mu, logvar, noise)
        return self.decode_forward(z), mu, logvar, z
