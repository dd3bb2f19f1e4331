"""One process, or one of several that train together (torchrun, DistributedDataParallel)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from torch import distributed, nn

from SkullVAELib.core.errors import SkullVAEError


@dataclass(frozen=True)
class Group:
    """The processes that train together, and which of them this one is (rank 0 writes the files)."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of a batch; raises SkullVAEError when the batch cannot be divided equally."""
        if count % self.world:
            raise SkullVAEError(f"A batch of {count} cannot be shared by {self.world} processes", "Change batch")
        each = count // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def home(self, bytes_needed: int) -> torch.device:
        """Where to keep training data of this size: beside the network, unless they would take half a card's memory."""
        if self.device.type == "cuda" and bytes_needed > torch.cuda.mem_get_info(self.device)[0] / 2:
            return torch.device("cpu")
        return self.device

    def wait(self) -> None:
        """Until every process has come here."""
        if self.world > 1:
            distributed.barrier()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over all processes."""
        if self.world > 1:
            distributed.all_reduce(value)
            value = value / self.world
        return value

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network as it is, or one whose gradients are averaged over the processes.

        On graphics cards batch normalisation sees the whole batch; torch has nothing of the kind for processors.
        """
        if self.world == 1:
            return network
        if self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=devices)


@contextmanager
def process_group(device: str = "auto") -> Iterator[Group]:
    """The group that torchrun started this process in, or this process alone.

    device: "auto" (a graphics card if there is one), "cpu" or "cuda"; raises SkullVAEError when there is none.
    """
    rank, local, world = (int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)))
    cards = torch.cuda.device_count()
    if device == "cuda" and cards == 0:
        raise SkullVAEError("No graphics card that torch can use was found", "Use --device cpu")
    on_cards = device != "cpu" and cards > 0
    if on_cards and local >= cards:
        raise SkullVAEError(f"This machine has {cards} graphics cards", f"Start at most {cards} processes on it")
    place = torch.device("cuda", local) if on_cards else torch.device("cpu")
    if on_cards:
        torch.cuda.set_device(place)
    if world == 1:
        yield Group(device=place)
        return
    # The others wait while the first prepares the data, which takes longer than torch's own limits.
    distributed.init_process_group("nccl" if on_cards else "gloo", timeout=timedelta(days=1))
    try:
        yield Group(rank, world, place)
    finally:
        distributed.destroy_process_group()
