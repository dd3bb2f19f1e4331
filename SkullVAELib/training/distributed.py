"""The processes that train together: one alone, or several started by torchrun (DistributedDataParallel)."""

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
    """The processes that train together, seen from one of them.

    Attributes
    ----------
    rank : int
        Number of this process. Rank 0 leads: it alone prepares data, writes files and reports progress.
    world : int
        Number of processes.
    device : torch.device
        Device that this process computes on.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this is the leading process, rank 0."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's share of a batch. Raises SkullVAEError when the batch cannot be divided equally."""
        if count % self.world:
            cause = f"A batch of {count} cannot be divided equally among {self.world} processes"
            raise SkullVAEError(cause, f"Set batch to a multiple of {self.world}")
        each = count // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def storage(self, bytes_needed: int) -> torch.device:
        """Device to keep training data on: this process's, or the CPU if they need over half of its free memory."""
        if self.device.type == "cuda" and bytes_needed > torch.cuda.mem_get_info(self.device)[0] / 2:
            return torch.device("cpu")
        return self.device

    def wait(self) -> None:
        """Return when every process has made this call."""
        if self.world > 1:
            distributed.barrier()

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """A block that the leading process runs first and the others after it: they read the files that it prepares."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over all processes."""
        if self.world > 1:
            distributed.all_reduce(value)
            value = value / self.world
        return value

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network itself, or with several processes one whose gradients are averaged over them.

        On graphics cards batch normalisation uses the whole batch; torch offers this for graphics cards only.
        """
        if self.world == 1:
            return network
        if self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=devices)


@contextmanager
def process_group(device: str = "auto") -> Iterator[Group]:
    """Join the processes that torchrun started; without torchrun this process is alone.

    Parameters
    ----------
    device : str
        "auto" (a graphics card if there is one), "cpu" or "cuda".

    Yields
    ------
    Group
        The group, which ends with the block.

    Raises
    ------
    SkullVAEError
        When "cuda" is asked for without a graphics card, or there are more processes than graphics cards.
    """
    rank, local, world = (int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)))
    cards = torch.cuda.device_count()
    if device == "cuda" and cards == 0:
        raise SkullVAEError("No graphics card that torch can use was found", "Use --device cpu")
    on_cards = device != "cpu" and cards > 0
    if on_cards and local >= cards:
        cause = f"More processes were started on this machine than it has graphics cards ({cards})"
        raise SkullVAEError(cause, f"Start at most {cards} processes on it")
    place = torch.device("cuda", local) if on_cards else torch.device("cpu")
    if on_cards:
        torch.cuda.set_device(place)
    if world == 1:
        yield Group(device=place)
        return
    # The other processes wait while the first prepares the data, which can take longer than torch's default timeout.
    distributed.init_process_group("nccl" if on_cards else "gloo", timeout=timedelta(days=1))
    try:
        yield Group(rank, world, place)
    finally:
        distributed.destroy_process_group()
