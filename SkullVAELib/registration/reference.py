"""The model's mean skull as the target of registrations: what depends on the model alone, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import torch

from SkullVAELib.geometry.distance_field import redistance
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.registration.affine import AffineTarget
from SkullVAELib.registration.vault_shell import VaultShell
from SkullVAELib.shape.two_table import TwoTableShape
from SkullVAELib.vae.networks import SkullModel


@dataclass(frozen=True)
class MeanSkull:
    """A model's mean skull.

    Attributes
    ----------
    grid : Grid
        The canonical grid.
    field : torch.Tensor, shape (X, Y, Z)
        Signed distance of the mean shape in mm, clamped, on the CPU.
    """

    grid: Grid
    field: torch.Tensor

    @classmethod
    def of(cls, model: SkullModel) -> MeanSkull:
        """The mean skull of a model; the same object as long as the model's mean shape is the same."""
        known = _KNOWN.get(model)
        if known is not None and known[0] is model.mean and known[1] == model.mean._version:
            return known[2]
        made = cls(model.architecture.grid, model.mean.detach().float().cpu().clone())
        _KNOWN[model] = model.mean, model.mean._version, made
        return made

    def prepare(self) -> None:
        """Compute all of the following now, for completions that come later."""
        _ = self.target, self.tables, self.shell

    @cached_property
    def distance(self) -> torch.Tensor:
        """(X, Y, Z) signed distance in mm, not clamped."""
        return redistance(self.field, self.grid)

    @cached_property
    def target(self) -> AffineTarget:
        """The target of the affine registration."""
        return AffineTarget(self.distance, self.grid)

    @cached_property
    def tables(self) -> TwoTableShape:
        """The outer and the inner table."""
        return TwoTableShape.of(self.field, self.grid)

    @cached_property
    def shell(self) -> VaultShell:
        """The shell of the vault."""
        return VaultShell.of(self.distance, self.grid)


_KNOWN: WeakKeyDictionary[SkullModel, tuple[torch.Tensor, int, MeanSkull]] = WeakKeyDictionary()
