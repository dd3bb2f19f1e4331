"""What the trainer needs to know of a training method: its data, networks, losses, scores and final model."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from torch import nn

from SkullVAELib.data.datasets import SkullCase
from SkullVAELib.training.config import StageOptions
from SkullVAELib.training.distributed import Group
from SkullVAELib.training.losses import LossAndTerms
from SkullVAELib.vae.autoencoder import VariationalAutoencoder
from SkullVAELib.vae.networks import Architecture, LatentDecoder, SkullModel
from SkullVAELib.vae.paper_networks import PaperArchitecture, PaperModel

Batch = dict[str, torch.Tensor]
"""Tensors (N, ...) of the skulls of one training step."""

ArchitectureT = TypeVar("ArchitectureT", bound=Architecture | PaperArchitecture)
OptionsT = TypeVar("OptionsT", bound=StageOptions)


@dataclass(frozen=True)
class Specimens:
    """Fixed skulls that a report evaluates: training and held-out ones, each complete and with defects.

    Attributes
    ----------
    inputs : torch.Tensor
        (N, X, Y, Z) as the encoder takes them.
    bone, complete_bone : torch.Tensor
        (N, X, Y, Z) bool, bone of the skull as given and of the complete skull.
    kinds : tuple of str
        N names: "complete", "cranial" or "facial".
    individuals : tuple of str
        N names of the individuals.
    complete : numpy.ndarray
        (N,) index of each skull's complete skull.
    held_out : numpy.ndarray
        (N,) bool, true for skulls that were not trained on.
    """

    inputs: torch.Tensor
    bone: torch.Tensor
    complete_bone: torch.Tensor
    kinds: tuple[str, ...]
    individuals: tuple[str, ...]
    complete: np.ndarray
    held_out: np.ndarray


class Task(ABC, Generic[ArchitectureT, OptionsT]):
    """A training method with its prepared data; `canonical.CanonicalTask` and `paper.PaperTask` are the two there are.

    Attributes
    ----------
    method : str
        Name of the method, as in run.json and ``--config``.
    title : str
        The method in words, for reports.
    defects : str
        One sentence about the defects of its training data, for reports.
    reconstructs_complete : bool
        Whether a defective skull is reconstructed as the complete skull (True) or as it is (False).
    decoders_after_vae : bool
        Whether curves show the decoders' epochs after those of the VAE, as the paper does.
    paper_scale : float
        Factor from ``dice_loss`` of the log (0..1) to the paper's scale (four skulls, two classes, weight 80).
    latent_size : int
        Number of latents.
    steps_per_epoch : int
        Steps in which every training skull is used once.
    """

    method: ClassVar[str]
    title: ClassVar[str]
    defects: ClassVar[str]
    reconstructs_complete: ClassVar[bool]
    decoders_after_vae: ClassVar[bool]
    paper_scale: ClassVar[float]
    steps_per_epoch: int

    def __init__(self, architecture: ArchitectureT, options: OptionsT, device: torch.device):
        self.architecture, self.options, self.device = architecture, options, device
        self.latent_size = architecture.latent_size

    # Data

    @classmethod
    @abstractmethod
    def used_files(cls, cases: list[SkullCase]) -> list[Path]:
        """The image files of the cases that the method reads, sorted, each once."""

    @classmethod
    @abstractmethod
    def check_data(cls, training: list[SkullCase], held_out: list[SkullCase]) -> None:
        """Raise SkullVAEError when the method cannot be trained on these cases."""

    @classmethod
    @abstractmethod
    def prepare(
        cls, architecture: ArchitectureT, options: OptionsT, folder: Path, training: list[SkullCase],
        held_out: list[SkullCase], group: Group, log: Callable[[str], None],
    ) -> Self:  # fmt: skip
        """The task with its data, read from the files prepared in a folder, or prepared and written there.

        Raises SkullVAEError when the cases cannot be used.
        """

    @abstractmethod
    def batch(self, stage: int, step: int, group: Group) -> Batch:
        """This process's share of the batch of a step (from 0) of a stage (1: VAE, 2: decoders)."""

    @abstractmethod
    def specimens(self) -> Specimens:
        """The skulls that a report evaluates."""

    @property
    @abstractmethod
    def voxel_mm(self) -> np.ndarray:
        """(3,) size of a voxel of the grid in mm; an estimate where images are resized without regard to spacing."""

    # Options and networks

    def with_options(self, options: OptionsT) -> Self:
        """The same data under other options, such as another beta."""
        other = copy.copy(self)
        other.options = options
        return other

    @abstractmethod
    def steps(self, stage: str) -> int:
        """Number of steps of the stage "vae" or "decoder"."""

    @abstractmethod
    def networks(self) -> tuple[VariationalAutoencoder, LatentDecoder]:
        """A beta-VAE and an independent decoder, initialised from the seed."""

    # Losses

    @abstractmethod
    def vae_loss(self, network: nn.Module, batch: Batch, noise: torch.Tensor) -> LossAndTerms:
        """Loss of stage 1, the beta-VAE; noise (N, L): standard normal."""

    @abstractmethod
    def decoder_input(
        self, vae: VariationalAutoencoder, batch: Batch, options: OptionsT, noise: torch.Tensor
    ) -> torch.Tensor:
        """Latents (N, L) of a batch by the frozen encoder, of the kind options.z; noise (N, L): standard normal."""

    @abstractmethod
    def decoder_loss(self, network: nn.Module, z: torch.Tensor, batch: Batch, options: OptionsT) -> LossAndTerms:
        """Loss of stage 2, an independent decoder on latents z (N, L): the reconstruction loss alone."""

    @abstractmethod
    def statistics(self, vae: VariationalAutoencoder, options: OptionsT) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (L,) of the latents of training skulls, of the kind options.z."""

    # Results

    @abstractmethod
    def encode(self, vae: VariationalAutoencoder, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and log variance (N, L) of inputs (N, X, Y, Z)."""

    @abstractmethod
    def decode(self, decoder: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> torch.Tensor:
        """Output of a decoder for latents z (N, L), which are standardised already if the decoder needs it."""

    @abstractmethod
    def reconstruct_vae(self, vae: VariationalAutoencoder, batch: Batch) -> torch.Tensor:
        """Output of the VAE's own decoder for the posterior means of a batch."""

    @abstractmethod
    def to_bone(self, output: torch.Tensor) -> torch.Tensor:
        """Bone, bool (N, X, Y, Z), of a decoder's output."""

    @abstractmethod
    def dice_scores(self, reconstruct: Callable[[Batch], torch.Tensor], batch: Batch) -> dict[str, float]:
        """Dice of a training batch and of the held-out skulls, by column of log.csv; see trainer.LOG_FIELDS."""

    @abstractmethod
    def aggregate(
        self, vae: VariationalAutoencoder, decoder: LatentDecoder, statistics: tuple[torch.Tensor, torch.Tensor]
    ) -> SkullModel | PaperModel:
        """Stage 3: encoder and independent decoder in one model, with a DEV vector for each defect class.

        statistics: mean and standard deviation (L,) of the latents that the decoder was trained on.
        """


AnyTask = Task[Any, Any]
"""A task of either method. Its options and architecture belong together, since run.TASKS chooses the class by them."""
