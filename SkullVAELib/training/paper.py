"""Training as arXiv 2209.14783 does: three classes of skulls, each reconstructed from itself, at one grid.

The volumes are read and resized once and kept where they are trained on; the paper's code did it again at every epoch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.data.datasets import COMPLETE, UNKNOWN, SkullCase, read_bone
from SkullVAELib.data.kinds import CLASSES
from SkullVAELib.geometry.volume import to_nearest_ras
from SkullVAELib.training.config import PaperOptions
from SkullVAELib.training.distributed import Group
from SkullVAELib.training.losses import CLASS_WEIGHT, dice_score, kl_divergence, paper_dice_loss
from SkullVAELib.training.trainer import Batch, Specimens
from SkullVAELib.vae.checkpoint import read_tensors, write_tensors
from SkullVAELib.vae.latent import deviation, latent_code
from SkullVAELib.vae.networks import aggregate
from SkullVAELib.vae.paper_networks import PaperArchitecture, PaperDecoder, PaperModel, PaperVAE, resize_mask


@dataclass(frozen=True)
class Volumes:
    """Skulls of all classes on one grid.

    bone: (N, X, Y, Z) uint8, 0 or 1; kinds: "complete", "cranial" or "facial"; complete: (N,) index of the complete
    skull that each was cut from; held_out: (N,) bool.
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
    """The volumes of a run, from its cache in the folder or from the cases' files, which takes a while.

    Raises SkullVAEError when the cases do not do, see check_classes.
    """
    path = folder / "volumes.safetensors"
    if path.is_file():
        tensors, about = read_tensors(path, math.inf)
        if tuple(about["shape"]) != tuple(shape):
            raise SkullVAEError(f"'{path}' holds volumes of another grid", "Choose another --output")
        bone = torch.tensor(np.unpackbits(tensors["bits"].numpy(), axis=1)[:, : np.prod(shape)]).reshape(-1, *shape)
        complete, held = tensors["complete"].numpy(), tensors["held_out"].numpy().astype(bool)
        return Volumes(bone, tuple(about["kinds"]), tuple(about["individuals"]), complete, held)
    check_classes(training, held_out)
    cases = [*training, *held_out]
    place = {c.complete: k for k, c in enumerate(cases) if c.defective is None}
    bits = []
    for number, case in enumerate(cases):
        bone = to_nearest_ras(read_bone(case.defective or case.complete))
        bits.append(np.packbits(resize_mask(bone.array, shape).numpy().ravel()))
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
    """Raise SkullVAEError when there are no complete skulls to train on, or none with a defect of a known class."""
    cases = [*training, *held_out]
    if unknown := [c for c in cases if c.kind == UNKNOWN]:
        cause = f"Whether the defect of '{unknown[0].defective}' is cranial or facial cannot be told"
        raise SkullVAEError(cause, "Name its kind in a JSON list")
    if not any(c.defective for c in training) or all(c.defective for c in training):
        remedy = "Make such a set with skullvae population"
        raise SkullVAEError("The paper's method needs complete skulls and skulls with defects to train on", remedy)
    whole = {c.complete for c in cases if c.defective is None}
    if orphan := next((c for c in cases if c.complete not in whole), None):
        raise SkullVAEError(f"'{orphan.defective}' has no complete skull in its part of the data", "Add it to the list")


def _class(kind: str) -> str:
    """The paper's class of a kind of defect: wherever on the vault it is, cranial."""
    return kind if kind in (COMPLETE, "facial") else "cranial"


class PaperTask:
    """The paper's stages: every volume once an epoch, its own reconstruction asked for; see trainer.Task."""

    paper_scale = 640.0
    reconstructs_complete = False

    def __init__(self, architecture: PaperArchitecture, volumes: Volumes, options: PaperOptions, group: Group):
        self.architecture, self.options, self.device, self.volumes = architecture, options, group.device, volumes
        self.latent_size = architecture.latent_size
        self.bone = volumes.bone.to(group.home(volumes.bone.nbytes))
        self.training = np.flatnonzero(~volumes.held_out)
        self.held = np.flatnonzero(volumes.held_out)
        self.steps_per_epoch = -(-len(self.training) // options.batch)
        self._frozen: tuple[torch.Tensor, torch.Tensor] | None = None

    def networks(self) -> tuple[PaperVAE, PaperDecoder]:
        """A beta-VAE and a decoder, as the seed starts them."""
        torch.manual_seed(self.options.seed)
        return PaperVAE(self.architecture), PaperDecoder(self.architecture, self.options.plain_output)

    def with_options(self, options: PaperOptions) -> PaperTask:
        """The same data under other options, such as another beta."""
        other = copy.copy(self)
        other.options = options
        other._frozen = None  # latents of another encoder
        return other

    def steps(self, stage: str) -> int:
        epochs = self.options.vae_epochs if stage == "vae" else self.options.decoder_epochs
        return epochs * self.steps_per_epoch

    def batch(self, stage: int, step: int, group: Group) -> Batch:
        """Bone (N, X, Y, Z) and which volumes they are; the last batch of an epoch is filled up from its beginning."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.options.seed, stage, epoch]).permutation(self.training)
        order = np.resize(order, self.steps_per_epoch * self.options.batch)
        chosen = order[place * self.options.batch :][: self.options.batch][group.share(self.options.batch)]
        return self._take(chosen)

    def _take(self, chosen: np.ndarray | list[int]) -> Batch:
        """Volumes by number, on the device that trains."""
        index = torch.tensor(chosen)
        bone = self.bone[index.to(self.bone.device)].to(self.device)
        return {"bone": bone, "index": index.to(self.device)}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bfloat16)

    def _loss(self, logits: torch.Tensor, bone: torch.Tensor) -> tuple:
        dice = paper_dice_loss(logits, bone)
        # The paper sums over the batch; a mean times its size is the same, and may be shared by processes.
        return CLASS_WEIGHT * self.options.batch * dice.sum(1).mean(), {"dice_loss": dice.mean()}

    def vae_loss(self, network: nn.Module, batch: Batch, noise: torch.Tensor) -> tuple:
        """80 x Dice + beta x KL, both summed over the batch, and the terms as means over skulls."""
        with self._autocast():
            logits, mu, logvar, _ = network(batch["bone"][:, None].float(), noise)
        loss, terms = self._loss(logits, batch["bone"])
        kl = kl_divergence(mu.float(), logvar.float()).sum(1).mean()
        return loss + self.options.beta * self.options.batch * kl, terms | {"kl_nats": kl}

    @torch.no_grad()
    def encode(self, vae: PaperVAE, bone: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and log variance (N, L) of volumes (N, X, Y, Z)."""
        parts = [vae.encode_forward(part[:, None].to(self.device).float()) for part in bone.split(8)]
        mu, logvar = (torch.cat(values).float() for values in zip(*parts, strict=True))
        return mu, logvar

    def decoder_input(self, vae: PaperVAE, batch: Batch, options: PaperOptions, noise: torch.Tensor) -> torch.Tensor:
        """The frozen latents (N, L) of a batch: encoded once, since neither volumes nor encoder change any more."""
        if self._frozen is None:
            self._frozen = self.encode(vae, self.bone)
        mu, logvar = self._frozen
        return latent_code(mu[batch["index"]], logvar[batch["index"]], options.z, noise)

    def decoder_loss(self, network: nn.Module, z: torch.Tensor, batch: Batch, options: PaperOptions) -> tuple:
        """80 x Dice, summed over the batch: the independent decoder's only loss."""
        with self._autocast():
            logits = network(z)
        return self._loss(logits, batch["bone"])

    def reconstruct_vae(self, vae: PaperVAE, batch: Batch) -> torch.Tensor:
        """Logits (N, 2, X, Y, Z) by the VAE's own decoder, of the posterior mean."""
        return vae.decode_forward(self.encode(vae, batch["bone"])[0], False)

    @torch.no_grad()
    def decode(self, decoder: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> torch.Tensor:
        """Logits of latents as the decoder takes them."""
        return decoder(z)

    def to_bone(self, output: torch.Tensor) -> torch.Tensor:
        """Bone, bool (N, X, Y, Z), of what decode gives: the likelier class."""
        return likelier(output)

    def specimens(self) -> Specimens:
        """All volumes of the run."""
        inputs, volumes = self.volumes.bone, self.volumes
        bone = inputs > 0
        return Specimens(
            inputs, bone, bone[volumes.complete], volumes.kinds, volumes.individuals, volumes.complete, volumes.held_out
        )

    def held_out_figures(self, reconstruct: Callable[[Batch], torch.Tensor], batch: Batch) -> dict[str, float]:
        """Mean Dice of the reconstructed bone, of a training batch and of the held-out volumes."""
        figures = {"skull_dice": float(bone_dice(reconstruct(batch), batch["bone"]).mean())}
        scores = []
        for part in np.array_split(self.held, -(-len(self.held) // 8)) if len(self.held) else []:
            held = self._take(part)
            scores.append(bone_dice(reconstruct(held), held["bone"]))
        if scores:
            figures["held_out_skull_dice"] = float(torch.cat(scores).mean())
        return figures

    def statistics(self, vae: PaperVAE, options: PaperOptions) -> tuple:
        """Mean and standard deviation (L,) of the training volumes' latents."""
        mu, logvar = self.encode(vae, self.bone[torch.tensor(self.training, device=self.bone.device)])
        noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(options.seed)).to(mu.device)
        z = latent_code(mu, logvar, options.z, noise)
        return z.mean(0), z.std(0).clamp(min=1e-8)

    @torch.no_grad()
    def aggregate(self, vae: PaperVAE, decoder: PaperDecoder, statistics: tuple) -> PaperModel:
        """Stage 3: encoder and new decoder as one model, with DEV per class from the training volumes."""
        kinds = np.array(self.volumes.kinds)
        pairs = [k for k in self.training if kinds[k] != "complete"]
        model = PaperModel(self.architecture, CLASSES, len(pairs), self.options.z, self.options.plain_output)
        aggregate(model, vae, decoder, statistics, self.options.standardise)
        whole = [k for k in self.training if kinds[k] == "complete"]
        model.mean.copy_(self.bone[torch.tensor(whole, device=self.bone.device)].float().mean(0))
        model.eval().to(self.device)
        z = torch.cat([model.latent(part.to(self.device)) for part in self.bone.split(8)])
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
    """(N,) Dice of the likelier class's bone with the truth (N, X, Y, Z)."""
    return dice_score(likelier(logits), bone > 0)
