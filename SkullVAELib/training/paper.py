"""The method of arXiv 2209.14783: volumes of three classes of skulls on one grid, each reconstructed as it is.

The volumes are read and resized once and kept near the device that trains; the paper's code did so in every epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import nn

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.data.datasets import COMPLETE, UNKNOWN, SkullCase, read_bone
from SkullVAELib.data.defect_kinds import CLASSES
from SkullVAELib.geometry.volume import to_nearest_ras
from SkullVAELib.training.config import PaperOptions
from SkullVAELib.training.distributed import Group
from SkullVAELib.training.losses import LossAndTerms, beta_vae_loss, dice_score, kl_loss, paper_reconstruction_loss
from SkullVAELib.training.task import Batch, Specimens, Task
from SkullVAELib.vae.autoencoder import VariationalAutoencoder
from SkullVAELib.vae.checkpoint import read_tensors, write_tensors
from SkullVAELib.vae.latent import deviation, latent_code
from SkullVAELib.vae.networks import LatentDecoder, aggregate
from SkullVAELib.vae.paper_networks import PaperArchitecture, PaperDecoder, PaperModel, PaperVAE, resize_mask

_CHUNK = 8
"""Volumes encoded or decoded at once outside training, which bounds the memory needed."""


@dataclass(frozen=True)
class Volumes:
    """Skulls of all classes on one grid.

    Attributes
    ----------
    bone : torch.Tensor
        (N, X, Y, Z) uint8, 0 or 1.
    kinds : tuple of str
        N classes: "complete", "cranial" or "facial".
    individuals : tuple of str
        N names of the individuals.
    complete : numpy.ndarray
        (N,) index of the complete skull that each was cut from.
    held_out : numpy.ndarray
        (N,) bool, true for skulls that are not trained on.
    """

    bone: torch.Tensor
    kinds: tuple[str, ...]
    individuals: tuple[str, ...]
    complete: np.ndarray
    held_out: np.ndarray


def load_volumes(
    folder: Path, training: list[SkullCase], held_out: list[SkullCase], shape: tuple[int, int, int],
    log: Callable[[str], None] = lambda line: None,
) -> Volumes:  # fmt: skip
    """Read the volumes that were prepared in a run's folder, or prepare them from the cases' files.

    Parameters
    ----------
    folder : Path
        Folder of volumes.safetensors.
    training, held_out : list of SkullCase
        The cases; used only when nothing is prepared yet.
    shape : tuple of int
        Grid (X, Y, Z); every image is resized to it without regard to spacing.
    log : callable
        Called with a line of progress now and then.

    Raises
    ------
    SkullVAEError
        When the prepared volumes have a different grid, or the cases cannot be used; see `check_classes`.
    """
    path = folder / "volumes.safetensors"
    if path.is_file():
        tensors, about = read_tensors(path, math.inf)
        if tuple(about["shape"]) != tuple(shape):
            raise SkullVAEError(f"'{path}' was prepared for a different grid", "Choose another --output")
        bone = torch.tensor(np.unpackbits(tensors["bits"].numpy(), axis=1)[:, : np.prod(shape)]).reshape(-1, *shape)
        complete, held = tensors["complete"].numpy(), tensors["held_out"].numpy().astype(bool)
        return Volumes(bone, tuple(about["kinds"]), tuple(about["individuals"]), complete, held)
    check_classes(training, held_out)
    cases = [*training, *held_out]
    place = {c.complete: k for k, c in enumerate(cases) if c.defective is None}
    bits = []
    for number, case in enumerate(cases):
        volume = to_nearest_ras(read_bone(case.defective or case.complete))
        bits.append(np.packbits(resize_mask(volume.array, shape).numpy().ravel()))
        if (number + 1) % 50 == 0:
            log(f"{number + 1} of {len(cases)} volumes prepared")
    tensors = {
        "bits": torch.tensor(np.stack(bits)),
        "complete": torch.tensor([place[c.complete] for c in cases]),
        "held_out": torch.tensor([0] * len(training) + [1] * len(held_out), dtype=torch.uint8),
    }
    about = {"shape": shape, "kinds": [_class(c.kind) for c in cases], "individuals": [c.individual for c in cases]}
    write_tensors(path, tensors, about)
    return load_volumes(folder, training, held_out, shape, log)


def check_classes(training: list[SkullCase], held_out: list[SkullCase]) -> None:
    """Check that the cases have the classes that the method needs.

    Raises
    ------
    SkullVAEError
        When a defect is of unknown class, the training cases have no complete or no defective skull, or the complete
        skull of a defective one is missing.
    """
    cases = [*training, *held_out]
    if unknown := [c for c in cases if c.kind == UNKNOWN]:
        cause = f"The defect of '{unknown[0].defective}' could not be classified as cranial or facial"
        raise SkullVAEError(cause, "Give its kind in a JSON data list")
    if not any(c.defective for c in training) or all(c.defective for c in training):
        remedy = "Create such a data set with skullvae population"
        raise SkullVAEError("The paper's method needs complete skulls and skulls with defects to train on", remedy)
    whole = {c.complete for c in cases if c.defective is None}
    if orphan := next((c for c in cases if c.complete not in whole), None):
        cause = f"The complete skull of '{orphan.defective}' is not among the cases"
        raise SkullVAEError(cause, "Add it to the data list")


def _class(kind: str) -> str:
    """The paper's class of a kind of defect: every defect of the vault is cranial."""
    return kind if kind in (COMPLETE, "facial") else "cranial"


class PaperTask(Task[PaperArchitecture, PaperOptions]):
    """The stages of arXiv 2209.14783: every volume once an epoch, reconstructed as it is. See `task.Task`.

    Parameters
    ----------
    architecture : PaperArchitecture
        Grid, latents and channels of the networks.
    volumes : Volumes
        Training and held-out skulls on that grid.
    options : PaperOptions
        Options of the run.
    group : Group
        The processes that train together.
    """

    method = PaperOptions.method
    title = "The method of arXiv 2209.14783"
    defects = "All defects of a class have the same place and shape here, as in the paper, so one vector fits them all."
    reconstructs_complete = False
    decoders_after_vae = True
    paper_scale = 640.0

    def __init__(self, architecture: PaperArchitecture, volumes: Volumes, options: PaperOptions, group: Group):
        super().__init__(architecture, options, group.device)
        self.volumes = volumes
        self.bone = volumes.bone.to(group.storage(volumes.bone.nbytes))
        self.training = np.flatnonzero(~volumes.held_out)
        self.held = np.flatnonzero(volumes.held_out)
        self.steps_per_epoch = -(-len(self.training) // options.batch)
        self._frozen: tuple[torch.Tensor, torch.Tensor] | None = None

    @classmethod
    def used_files(cls, cases: list[SkullCase]) -> list[Path]:
        """Every volume: the defective skulls and the complete ones."""
        return sorted({c.defective or c.complete for c in cases})

    @classmethod
    def check_data(cls, training: list[SkullCase], held_out: list[SkullCase]) -> None:
        """See `check_classes`."""
        check_classes(training, held_out)

    @classmethod
    def prepare(
        cls, architecture: PaperArchitecture, options: PaperOptions, folder: Path, training: list[SkullCase],
        held_out: list[SkullCase], group: Group, log: Callable[[str], None],
    ) -> Self:  # fmt: skip
        """See `load_volumes`."""
        with group.leader_first():
            volumes = load_volumes(folder, training, held_out, architecture.grid_shape, log)
        return cls(architecture, volumes, options, group)

    @property
    def voxel_mm(self) -> np.ndarray:
        """Images are resized without regard to spacing: estimated from the size of a head."""
        return np.array([155, 190, 150]) / np.array(self.architecture.grid_shape)

    def networks(self) -> tuple[VariationalAutoencoder, LatentDecoder]:
        torch.manual_seed(self.options.seed)
        return PaperVAE(self.architecture), PaperDecoder(self.architecture, self.options.plain_output)

    def with_options(self, options: PaperOptions) -> Self:
        other = super().with_options(options)
        other._frozen = None  # these are latents of another encoder
        return other

    def steps(self, stage: str) -> int:
        epochs = self.options.vae_epochs if stage == "vae" else self.options.decoder_epochs
        return epochs * self.steps_per_epoch

    def batch(self, stage: int, step: int, group: Group) -> Batch:
        """Bone (N, X, Y, Z) and indices of the volumes; an epoch's last batch is filled up from its beginning."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.options.seed, stage, epoch]).permutation(self.training)
        order = np.resize(order, self.steps_per_epoch * self.options.batch)
        chosen = order[place * self.options.batch :][: self.options.batch][group.share(self.options.batch)]
        return self._take(chosen)

    def _take(self, chosen: np.ndarray | list[int]) -> Batch:
        """Volumes by index, on the device that trains."""
        index = torch.tensor(chosen)
        bone = self.bone[index.to(self.bone.device)].to(self.device)
        return {"bone": bone, "index": index.to(self.device)}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bfloat16)

    def vae_loss(self, network: nn.Module, batch: Batch, noise: torch.Tensor) -> LossAndTerms:
        """80 x Dice loss + beta x KL, both summed over the batch; the terms are means over skulls."""
        with self._autocast():
            logits, mu, logvar, _ = network(batch["bone"][:, None].float(), noise)
        loss, terms = paper_reconstruction_loss(logits, batch["bone"], self.options.batch)
        kl = kl_loss(mu, logvar)
        return beta_vae_loss(loss, kl, self.options.beta, self.options.batch), terms | {"kl_nats": kl}

    @torch.no_grad()
    def encode(self, vae: VariationalAutoencoder, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and log variance (N, L) of volumes (N, X, Y, Z)."""
        parts = [vae.encode_forward(part[:, None].to(self.device).float()) for part in inputs.split(_CHUNK)]
        mu, logvar = (torch.cat(values).float() for values in zip(*parts, strict=True))
        return mu, logvar

    def decoder_input(
        self, vae: VariationalAutoencoder, batch: Batch, options: PaperOptions, noise: torch.Tensor
    ) -> torch.Tensor:
        """Latents (N, L) of a batch, encoded once, since neither the volumes nor the encoder change any more."""
        if self._frozen is None:
            self._frozen = self.encode(vae, self.bone)
        mu, logvar = self._frozen
        return latent_code(mu[batch["index"]], logvar[batch["index"]], options.z, noise)

    def decoder_loss(self, network: nn.Module, z: torch.Tensor, batch: Batch, options: PaperOptions) -> LossAndTerms:
        """80 x Dice loss, summed over the batch."""
        with self._autocast():
            logits = network(z)
        return paper_reconstruction_loss(logits, batch["bone"], self.options.batch)

    def reconstruct_vae(self, vae: VariationalAutoencoder, batch: Batch) -> torch.Tensor:
        """Logits (N, 2, X, Y, Z) of background and bone."""
        return vae.decode_forward(self.encode(vae, batch["bone"])[0])

    @torch.no_grad()
    def decode(self, decoder: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> torch.Tensor:
        """Logits (N, 2, X, Y, Z) of background and bone."""
        return decoder(z)

    def to_bone(self, output: torch.Tensor) -> torch.Tensor:
        """See `likelier`."""
        return likelier(output)

    def specimens(self) -> Specimens:
        """All volumes of the run."""
        inputs, volumes = self.volumes.bone, self.volumes
        bone = inputs > 0
        return Specimens(
            inputs, bone, bone[volumes.complete], volumes.kinds, volumes.individuals, volumes.complete, volumes.held_out
        )

    def dice_scores(self, reconstruct: Callable[[Batch], torch.Tensor], batch: Batch) -> dict[str, float]:
        """Mean Dice of the reconstructed bone, of a training batch and of the held-out volumes."""
        scores = {"skull_dice": float(bone_dice(reconstruct(batch), batch["bone"]).mean())}
        held_out = []
        for part in np.array_split(self.held, -(-len(self.held) // _CHUNK)) if len(self.held) else []:
            held = self._take(part)
            held_out.append(bone_dice(reconstruct(held), held["bone"]))
        if held_out:
            scores["held_out_skull_dice"] = float(torch.cat(held_out).mean())
        return scores

    def statistics(self, vae: VariationalAutoencoder, options: PaperOptions) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (L,) of the latents of all training volumes."""
        mu, logvar = self.encode(vae, self.bone[torch.tensor(self.training, device=self.bone.device)])
        noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(options.seed)).to(mu.device)
        z = latent_code(mu, logvar, options.z, noise)
        return z.mean(0), z.std(0).clamp(min=1e-8)

    @torch.no_grad()
    def aggregate(
        self, vae: VariationalAutoencoder, decoder: LatentDecoder, statistics: tuple[torch.Tensor, torch.Tensor]
    ) -> PaperModel:
        """Stage 3; the model also holds the latents of all training pairs, for DEV of the nearest neighbours."""
        kinds = np.array(self.volumes.kinds)
        pairs = [int(k) for k in self.training if kinds[k] != "complete"]
        model = PaperModel(self.architecture, CLASSES, len(pairs), self.options.z, self.options.plain_output)
        aggregate(model, vae, decoder, statistics, self.options.standardise)
        whole = [k for k in self.training if kinds[k] == "complete"]
        model.mean.copy_(self.bone[torch.tensor(whole, device=self.bone.device)].float().mean(0))
        model.eval().to(self.device)
        z = torch.cat([model.latent(part.to(self.device)) for part in self.bone.split(_CHUNK)])
        for number, name in enumerate(CLASSES):
            of_class = [k for k in pairs if kinds[k] == name]
            if of_class:
                model.deviations[number] = deviation(z[self.volumes.complete[of_class]], z[of_class])
        model.latents_complete.copy_(z[self.volumes.complete[pairs]])
        model.latents_defective.copy_(z[pairs])
        model.defective_class.copy_(torch.tensor([float(CLASSES.index(kinds[k])) for k in pairs]))
        return model.cpu()


def likelier(logits: torch.Tensor) -> torch.Tensor:
    """Bone, bool (N, X, Y, Z), where it is the likelier of the two classes of logits (N, 2, X, Y, Z)."""
    return logits[:, 1] > logits[:, 0]


def bone_dice(logits: torch.Tensor, bone: torch.Tensor) -> torch.Tensor:
    """Dice (N,) of the likelier class's bone in logits (N, 2, X, Y, Z) with the truth (N, X, Y, Z)."""
    return dice_score(likelier(logits), bone > 0)
