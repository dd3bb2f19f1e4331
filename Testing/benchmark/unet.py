"""The U-Net row: a plain supervised 3D U-Net, from the defective field to the complete one, in the canonical frame."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets import UNet
from torch import nn

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.registration.patient import AlignedSkull
from SkullVAELib.registration.skull import CLAMP_MM, Skull
from SkullVAELib.training.canonical import make_defective
from SkullVAELib.training.config import TrainingOptions
from SkullVAELib.training.losses import distance_loss, soft_dice_loss
from SkullVAELib.vae.checkpoint import read_tensors, write_tensors
from SkullVAELib.vae.networks import SkullModel

from .drawn import drawn_fields
from .shapes import defective_field

RATE = 1e-3
BATCH = 2

COARSER = 2
"""The network sees means of so many nodes of the canonical grid each way: 4 mm, for more steps in the same time."""


def network() -> nn.Sequential:
    """MONAI's U-Net of four levels with residual units, and a last layer that tells the distance.

    MONAI normalises the U-Net's own output, so it cannot be a distance; a convolution of one voxel makes it one.
    """
    net = UNet(
        spatial_dims=3, in_channels=1, out_channels=16, channels=(16, 32, 64, 128), strides=(2, 2, 2),
        num_res_units=2, norm="instance",
    )  # fmt: skip
    return nn.Sequential(net, nn.Conv3d(16, 1, 1))


def complete_field(net: nn.Module, field: torch.Tensor) -> torch.Tensor:
    """Complete fields (N, X, Y, Z) in mm of defective ones.

    The network draws the whole skull. One that was asked for a correction alone stayed at none at all for half an hour:
    most places want none, and what wants one is small.
    """
    coarse = F.avg_pool3d(field.clamp(-CLAMP_MM, CLAMP_MM)[:, None], COARSER) / CLAMP_MM
    answer = CLAMP_MM * net(coarse)
    return F.interpolate(answer, size=field.shape[1:], mode="trilinear", align_corners=False)[:, 0]


def train(
    fields: np.ndarray, grid: Grid, minutes: float, log: Callable[[str], None], seed: int = 0
) -> tuple[nn.Module, int]:
    """Train for so many minutes on complete fields (N, X, Y, Z) in mm, defects cut anew; returns network and steps.

    The loss, the defects and the mirroring are ours. The learning rate warms up and falls with the time that is left.
    """
    torch.manual_seed(seed)
    net, options = network(), TrainingOptions()
    optimiser = torch.optim.Adam(net.parameters(), lr=RATE)
    known = torch.ones(grid.shape)
    begun, step, said = time.monotonic(), 0, 0.0
    net.train()
    while (done := (time.monotonic() - begun) / 60 / minutes) < 1 or step == 0:
        rng = np.random.default_rng([seed, 1, step])
        batch = []
        for _ in range(BATCH):
            field = torch.tensor(np.asarray(fields[rng.integers(len(fields))], np.float32))
            field = field.flip(0) if rng.uniform() < 0.5 else field
            batch.append(make_defective(field, known, grid, rng, options))
        batch = {name: torch.stack([item[name] for item in batch]) for name in batch[0]}
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 50) * (0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, done))))
        # In full precision: bfloat16's gradients of convolutions became nan on a processor after some ten steps.
        answer = complete_field(net, batch["defective"])
        loss = soft_dice_loss(answer, batch["complete"], batch["known"])
        loss = loss + distance_loss(answer, batch["complete"], batch["known"], batch["removed"])
        if not torch.isfinite(loss):
            raise SkullVAEError(f"The U-Net's loss became {float(loss.detach())} at step {step}", "Lower its RATE")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        if done - said > 0.05:
            said = done
            log(f"U-Net {done:4.0%}, step {step}, loss {float(loss.detach()):.3f}")
    return net.eval(), step


def prepare(
    training: tuple[Path, ...], folder: Path, model: SkullModel, log: Callable[[str], None], minutes: float
) -> None:
    """Train a fold's U-Net, unless that is done."""
    path = folder / "unet.safetensors"
    if path.is_file():
        return
    grid = model.architecture.grid
    net, steps = train(drawn_fields(training, folder, grid, log), grid, minutes, log)
    content = {"training": [file.name for file in training], "minutes": minutes, "steps": steps}
    write_tensors(path, net.state_dict(), content)
    log(f"U-Net: {json.dumps(content)}")


@functools.lru_cache(maxsize=1)
def load(folder: Path) -> nn.Module:
    """A fold's U-Net."""
    net = network()
    net.load_state_dict(read_tensors(folder / "unet.safetensors")[0])
    return net.eval()


@torch.no_grad()
def completed(net: nn.Module, skull: Skull, aligned: AlignedSkull, model: SkullModel) -> tuple[torch.Tensor, Grid]:
    """The shape of a defective skull; see shapes.MakeShape."""
    grid = model.architecture.grid
    return complete_field(net, defective_field(skull, aligned, grid)[None])[0].float(), grid
