"""Our own networks: a beta-VAE, an independent decoder, and both aggregated into one model.

Inputs and outputs are fields: signed distance to the bone's surface in the canonical frame in mm, clamped, negative in
bone. The raw output of a network is a correction to the mean shape in units of the clamp. Method: arXiv 2209.14783.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import nn

from SkullVAELib.geometry.grid import Grid
from SkullVAELib.vae.autoencoder import VariationalAutoencoder

_GROUPS = 4

# Model files may come from untrusted sources. These limits exceed the paper's sizes by a factor of four or more.
_MOST_VOXELS, _MOST_LATENTS, _MOST_CHANNELS, _MOST_LEVELS = 1024, 2**16, 4096, 16
_MOST_MM = 1000


def check_sizes(grid_shape: tuple[int, ...], latent_size: int, channels: tuple[int, ...]) -> None:
    """Check the sizes of an architecture.

    Parameters
    ----------
    grid_shape : tuple of int
        Three sizes, each 1 to 1,024.
    latent_size : int
        1 to 65,536.
    channels : tuple of int
        Channels of each level, 1 to 4,096, in at most 16 levels.

    Raises
    ------
    ValueError
        If a size is not an integer or out of range.
    """
    if len(grid_shape) != 3 or not channels:
        raise ValueError(f"grid_shape {grid_shape} must be three numbers, channels {channels} at least one")
    if any(type(n) is not int or n < 1 for n in (*grid_shape, latent_size, *channels)):
        raise ValueError("grid_shape, latent_size and channels must be whole numbers of 1 or more")
    if len(channels) > _MOST_LEVELS or max(channels) > _MOST_CHANNELS:
        raise ValueError(f"channels must be at most {_MOST_CHANNELS}, in at most {_MOST_LEVELS} levels")
    if max(grid_shape) > _MOST_VOXELS or latent_size > _MOST_LATENTS:
        raise ValueError(f"grid_shape must be at most {_MOST_VOXELS} each way, latent_size at most {_MOST_LATENTS}")


@dataclass(frozen=True)
class Architecture:
    """What determines the networks.

    Parameters
    ----------
    grid_shape : tuple of int
        Shape of the canonical grid.
    spacing_mm : float
        Its spacing, mm.
    clamp_mm : float
        Signed distances are clamped to this, mm.
    latent_size : int
        Size L of the latent.
    channels : tuple of int
        Channels of each level.

    Raises
    ------
    ValueError
        If sizes are out of range or do not fit each other.
    """

    grid_shape: tuple[int, int, int] = (96, 112, 96)
    spacing_mm: float = 2.0
    clamp_mm: float = 10.0
    latent_size: int = 32
    channels: tuple[int, ...] = (16, 32, 64, 32)

    def __post_init__(self):
        check_sizes(self.grid_shape, self.latent_size, self.channels)
        if any(n % _GROUPS for n in self.channels):
            raise ValueError(f"channels {self.channels} must be divisible by {_GROUPS}, the groups of normalisation")
        if not all(0 < mm <= _MOST_MM for mm in (self.spacing_mm, self.clamp_mm)):
            raise ValueError(f"spacing_mm and clamp_mm must be more than 0 and at most {_MOST_MM}")
        step = 2 ** len(self.channels)
        if any(n % step for n in self.grid_shape):
            raise ValueError(f"grid_shape {self.grid_shape} must be divisible by {step}, 2 to the number of levels")

    @property
    def grid(self) -> Grid:
        """The canonical grid."""
        return Grid(tuple(self.grid_shape), self.spacing_mm)


def start_at_mean_shape(network: nn.Module) -> None:
    """Scale the last layer down, so that the first output is nearly zero and training starts from the mean shape."""
    last = [m for m in network.modules() if isinstance(m, nn.ConvTranspose3d)][-1]
    with torch.no_grad():
        last.weight *= 0.05
        if last.bias is not None:
            last.bias.zero_()


class BetaVAE(VariationalAutoencoder):
    """The VAE of our own model, with the posterior mean as z in evaluation mode.

    Input (N, 1, X, Y, Z): a field divided by its clamp. Returns (correction, mu, logvar, z).
    """

    def __init__(self, architecture: Architecture):
        super().__init__(
            architecture.grid_shape,
            1,
            architecture.latent_size,
            architecture.channels,
            (2,) * len(architecture.channels),
            lambda channels: nn.GroupNorm(_GROUPS, channels),
            use_mean_at_inference=True,
        )
        start_at_mean_shape(self)


class LatentDecoder(nn.Module):
    """A decoder whose first layer is linear in the latent."""

    linear: nn.Linear

    @torch.no_grad()
    def fold_standardisation(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Fold the standardisation of latents into the first layer: decoder(z) becomes what decoder((z - mean) / std)
        was.

        In place. mean, std: (L,).
        """
        self.linear.weight /= std
        self.linear.bias.sub_(self.linear.weight @ mean)


class IndependentDecoder(LatentDecoder):
    """The decoder that is retrained on frozen latents: (N, L) -> correction (N, 1, X, Y, Z).

    A linear layer, then transposed convolutions of kernel 4 and stride 2, whose even overlap avoids checkerboard
    artefacts.
    """

    def __init__(self, architecture: Architecture):
        super().__init__()
        channels = architecture.channels[::-1]
        self.start = (channels[0], *(n // 2 ** len(channels) for n in architecture.grid_shape))
        self.linear = nn.Linear(architecture.latent_size, math.prod(self.start))
        layers: list[nn.Module] = []
        for here, there in itertools.pairwise(channels):
            layers += [nn.ConvTranspose3d(here, there, 4, 2, 1), nn.GroupNorm(_GROUPS, there), nn.PReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose3d(channels[-1], 1, 4, 2, 1))
        start_at_mean_shape(self)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Corrections (N, 1, X, Y, Z) of latents (N, L)."""
        return self.layers(self.linear(z).reshape(-1, *self.start))


class AggregatedModel(nn.Module):
    """An encoder and an independent decoder in one model, with the statistics of the latents.

    Attributes
    ----------
    encoder : VariationalAutoencoder
        The VAE without its decoding half.
    decoder : LatentDecoder
        The independent decoder.
    classes : tuple of str
        Names of the C defect classes.
    latent_mean, latent_std : torch.Tensor, shape (L,)
        Aggregated posterior over the training skulls.
    deviations : torch.Tensor, shape (C, L)
        Deviation vector of each class: mean latent of complete minus mean latent of defective skulls.
    provenance : dict
        Origin, only of a model loaded from a file.
    sha256 : str
        Checksum of the file, only of a model loaded from a file.
    """

    encoder: VariationalAutoencoder
    decoder: LatentDecoder
    classes: tuple[str, ...]
    latent_mean: torch.Tensor
    latent_std: torch.Tensor
    deviations: torch.Tensor
    provenance: dict  # of a model from a file, as are its SHA-256 and the name of the file
    sha256: str
    file_name: str


def aggregate(
    model: AggregatedModel,
    vae: nn.Module,
    decoder: nn.Module,
    statistics: tuple[torch.Tensor, torch.Tensor],
    fold: bool,
) -> None:
    """Copy a VAE's encoder and an independent decoder into an aggregated model, in place.

    Parameters
    ----------
    model : AggregatedModel
        The model to fill.
    vae : torch.nn.Module
        The trained VAE.
    decoder : torch.nn.Module
        The trained decoder.
    statistics : tuple of torch.Tensor, shape (L,)
        Mean and standard deviation of the latents that the decoder was trained on.
    fold : bool
        Whether these latents were standardised, so that the standardisation is folded into the decoder's first layer.
    """
    encoder = {k: v for k, v in vae.state_dict().items() if not k.startswith(("decode.", "decodeL."))}
    model.encoder.load_state_dict(encoder)
    model.decoder.load_state_dict(decoder.state_dict())
    if fold:
        model.decoder.fold_standardisation(*(value.cpu() for value in statistics))
    model.latent_mean.copy_(statistics[0])
    model.latent_std.copy_(statistics[1])


class SkullModel(AggregatedModel):
    """Our own aggregated model: the beta-VAE's encoder and the independent decoder, with the data that inference needs.

    Attributes
    ----------
    mean : torch.Tensor, shape (X, Y, Z)
        Signed distance of the mean shape, mm.
    spread : torch.Tensor, shape (X, Y, Z)
        Standard deviation across skulls warped to the mean, mm.
    latent_mean, latent_std, deviations
        See `AggregatedModel`.
    """

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, architecture: Architecture, classes: tuple[str, ...] = ()):
        super().__init__()
        self.architecture = architecture
        self.classes = tuple(classes)
        self.encoder = BetaVAE(architecture)
        # The aggregated model contains the encoding half only.
        del self.encoder.decode, self.encoder.decodeL
        self.decoder = IndependentDecoder(architecture)
        self.register_buffer("mean", torch.zeros(architecture.grid_shape))
        self.register_buffer("spread", torch.zeros(architecture.grid_shape))
        self.register_buffer("latent_mean", torch.zeros(architecture.latent_size))
        self.register_buffer("latent_std", torch.ones(architecture.latent_size))
        self.register_buffer("deviations", torch.zeros(len(self.classes), architecture.latent_size))

    def encode(self, field: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode fields.

        Parameters
        ----------
        field : torch.Tensor, shape (N, X, Y, Z)
            Signed distance in mm.

        Returns
        -------
        mu, logvar : torch.Tensor, shape (N, L)
            Mean and log variance of the posterior.
        """
        clamp = self.architecture.clamp_mm
        return self.encoder.encode_forward((field.clamp(-clamp, clamp) / clamp)[:, None])

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Fields (N, X, Y, Z) in mm of latents (N, L)."""
        return self.mean + self.architecture.clamp_mm * self.decoder(z)[:, 0]

    @property
    def mean_shape(self) -> torch.Tensor:
        """The decoded mean latent (X, Y, Z) in mm."""
        with torch.no_grad():
            return self.decode(self.latent_mean[None])[0]
