"""The networks of arXiv 2209.14783 as in its published code, for comparison; our own networks are in networks.py.

Their input is a whole volume, resized to one grid without regard to spacing; the output has two classes, background and
bone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from SkullVAELib.vae.autoencoder import ConvolutionBlock, VariationalAutoencoder
from SkullVAELib.vae.latent import inference_kind, latent_code
from SkullVAELib.vae.networks import AggregatedModel, LatentDecoder, check_sizes


def resize_mask(bone: np.ndarray, shape: tuple[int, int, int]) -> torch.Tensor:
    """Resize a mask by nearest-neighbour sampling, without regard to spacing, as the paper's code does.

    Parameters
    ----------
    bone : numpy.ndarray, shape (I, J, K)
        Bool.
    shape : tuple of int
        The new shape.

    Returns
    -------
    torch.Tensor
        uint8, 0 or 1, of the new shape.
    """
    return F.interpolate(torch.tensor(bone[None, None].astype(np.uint8)), size=shape, mode="nearest")[0, 0]


def resize_back(values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Interpolate values on the network's grid at the voxels that `resize_mask` takes them from.

    Sampling the nearest voxel takes voxel floor(j N / n) for voxel j, and not the one at its centre: interpolation
    between centres would shift a skull by (N / n - 1) / 2 + 1/2 voxels.

    Parameters
    ----------
    values : torch.Tensor, shape (X, Y, Z)
        Values on the network's grid.
    shape : tuple of int
        Shape (I, J, K) of the array that was resized to that grid.

    Returns
    -------
    torch.Tensor, shape (I, J, K)
        float32; beyond the outermost voxels that were taken, their values.
    """
    values = values.float()
    for axis, size in enumerate(shape):
        count = values.shape[axis]
        # The voxels taken, as torch computes them, and the mean number j of those that took the same one.
        at = F.interpolate(torch.arange(size, dtype=torch.float32)[None, None], size=count, mode="nearest")[0, 0]
        taken, first, times = np.unique(at.numpy(), return_index=True, return_counts=True)
        index = np.interp(np.arange(size), taken, first + (times - 1) / 2)
        low = np.minimum(index.astype(int), max(count - 2, 0))
        high = np.minimum(low + 1, count - 1)
        weight = torch.tensor(index - low, dtype=torch.float32, device=values.device)
        weight = weight.reshape([-1 if a == axis else 1 for a in range(3)])
        values = values[_along(axis, low)] * (1 - weight) + values[_along(axis, high)] * weight
    return values


def _along(axis: int, index: np.ndarray) -> tuple:
    """Index of a 3D tensor that takes some of its slices along an axis."""
    return tuple(torch.tensor(index) if a == axis else slice(None) for a in range(3))


@dataclass(frozen=True)
class PaperArchitecture:
    """What determines the paper's networks; on a smaller grid, levels have stride 1 once the grid cannot be halved
    further.

    Parameters
    ----------
    grid_shape : tuple of int
        Shape of the input.
    latent_size : int
        Size L of the latent.
    channels : tuple of int
        Channels of each level.

    Raises
    ------
    ValueError
        If sizes are out of range or do not fit each other.
    """

    grid_shape: tuple[int, int, int] = (256, 256, 128)
    latent_size: int = 32
    channels: tuple[int, ...] = (32, 64, 64, 128, 128, 256)

    def __post_init__(self):
        check_sizes(self.grid_shape, self.latent_size, self.channels)
        if any(n % self.reduction or n < self.reduction for n in self.grid_shape):
            raise ValueError(f"grid_shape {self.grid_shape} must be divisible by {self.reduction}")

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each level: 2 as in the paper, 1 once the grid cannot be halved further."""
        shortest, strides = min(self.grid_shape), []
        for _ in self.channels:
            strides.append(2 if shortest % 2 == 0 and shortest > 1 else 1)
            shortest //= strides[-1]
        return tuple(strides)

    @property
    def reduction(self) -> int:
        """Factor by which the grid is reduced along each axis."""
        return math.prod(self.strides)

    @property
    def start_shape(self) -> tuple[int, ...]:
        """Channels and grid of the encoder's last layer: (256, 4, 4, 2) in the paper."""
        return (self.channels[-1], *(n // self.reduction for n in self.grid_shape))


def _apply_layers(layers: Iterable[nn.Module], strides: Iterable[int], x: torch.Tensor) -> torch.Tensor:
    """Apply layers in mixed precision where it is enabled, except layers of stride 1, which are computed in float32.

    On grids that are used up in one direction (2x2x1), the gradients of oneDNN's bfloat16 convolutions of stride 1 are
    occasionally NaN or infinite: in 80 of 300 calls, and never for stride 2 (torch 2.13, CPU).
    """
    kind = x.device.type
    for layer, stride in zip(layers, strides, strict=True):
        mixed = torch.is_autocast_enabled(kind) and stride > 1
        with torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=mixed):
            x = layer(x if mixed else x.float())
    return x


class PaperVAE(VariationalAutoencoder):
    """Stage 1, the VAE: (N, 1, X, Y, Z), 0 or 1 -> logits (N, 2, X, Y, Z), mu, logvar and z.

    The paper's code returned mu + sigma as z outside training, which is MONAI's default and the one here; latent_code
    computes the desired kind from mu and logvar. The sigmoid before the softmax, a later default of MONAI, is absent,
    as the loss requires.
    """

    def __init__(self, architecture: PaperArchitecture):
        super().__init__(
            architecture.grid_shape,
            2,
            architecture.latent_size,
            architecture.channels,
            architecture.strides,
            nn.BatchNorm3d,
        )
        self.architecture = architecture

    def encode_forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and log variance (N, L) of volumes (N, 1, X, Y, Z)."""
        x = _apply_layers(self.encode, self.architecture.strides, x).flatten(1)
        return self.mu(x), self.logvar(x)

    def decode_forward(self, z: torch.Tensor) -> torch.Tensor:
        """Logits (N, 2, X, Y, Z) of latents (N, L)."""
        x = torch.relu(self.decodeL(z)).reshape(-1, *self.start_shape)
        return _apply_layers(self.decode, self.architecture.strides[::-1], x)


class PaperDecoder(LatentDecoder):
    """Stage 2, the independent decoder: (N, L) -> logits (N, 2, X, Y, Z).

    A linear layer and six transposed convolutions, each followed by BatchNorm, PReLU and ReLU, including the last one,
    as in the paper's code. plain_output: no normalisation or activation after the last one.
    """

    def __init__(self, architecture: PaperArchitecture, plain_output: bool = False):
        super().__init__()
        self.start, self.strides = architecture.start_shape, architecture.strides[::-1]
        self.linear = nn.Linear(architecture.latent_size, math.prod(self.start))
        channels = (*architecture.channels[::-1], 2)
        steps = list(zip(channels[:-1], channels[1:], architecture.strides[::-1], strict=True))
        self.plain_output = plain_output
        self.layers = nn.ModuleList(
            ConvolutionBlock(
                here, there, stride, None if plain_output and place == len(steps) else nn.BatchNorm3d, transposed=True
            )
            for place, (here, there, stride) in enumerate(steps, 1)
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Logits (N, 2, X, Y, Z) of latents (N, L)."""
        x = torch.relu(self.linear(z)).reshape(-1, *self.start)
        for layer, stride in zip(self.layers[:-1], self.strides[:-1], strict=True):
            x = torch.relu(_apply_layers([layer], [stride], x))
        x = self.layers[-1](x)
        return x if self.plain_output else torch.relu(x)


class PaperModel(AggregatedModel):
    """Stage 3, the aggregated model of the paper: the VAE's encoder and the independent decoder, with the latents'
    statistics.

    Attributes
    ----------
    z : str
        Kind of latent code that the decoder was trained on, see `latent_code`.
    mean : torch.Tensor, shape (X, Y, Z)
        Mean of the complete training skulls, 0..1.
    latent_mean, latent_std : torch.Tensor, shape (L,)
        Aggregated posterior of z over the training volumes.
    deviations : torch.Tensor, shape (C, L)
        Deviation vector of each class.
    latents_complete, latents_defective : torch.Tensor, shape (S, L)
        Latents of the training pairs, for the deviation vectors of near neighbours.
    defective_class : torch.Tensor, shape (S,)
        Class of each training pair.
    """

    mean: torch.Tensor
    latents_complete: torch.Tensor
    latents_defective: torch.Tensor
    defective_class: torch.Tensor

    def __init__(
        self, architecture: PaperArchitecture, classes: tuple[str, ...] = (), pairs: int = 0, z: str = "mean",
        plain_output: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.architecture, self.classes, self.z = architecture, tuple(classes), z
        self.encoder = PaperVAE(architecture)
        # The aggregated model contains the encoding half only.
        del self.encoder.decode, self.encoder.decodeL
        self.decoder = PaperDecoder(architecture, plain_output)
        size = architecture.latent_size
        self.register_buffer("mean", torch.zeros(architecture.grid_shape))
        self.register_buffer("latent_mean", torch.zeros(size))
        self.register_buffer("latent_std", torch.ones(size))
        self.register_buffer("deviations", torch.zeros(len(self.classes), size))
        self.register_buffer("latents_complete", torch.zeros(pairs, size))
        self.register_buffer("latents_defective", torch.zeros(pairs, size))
        self.register_buffer("defective_class", torch.zeros(pairs))

    def encode(self, volumes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and log variance (N, L) of volumes (N, X, Y, Z), 0 or 1."""
        return self.encoder.encode_forward(volumes[:, None].float())

    def latent(self, volumes: torch.Tensor) -> torch.Tensor:
        """Latent codes (N, L) of volumes (N, X, Y, Z), of the kind that the decoder was trained on; the mean for
        "sampled".
        """
        return latent_code(*self.encode(volumes), inference_kind(self.z))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Probability of bone (N, X, Y, Z) of latents (N, L)."""
        return self.decoder(z).float().softmax(1)[:, 1]
