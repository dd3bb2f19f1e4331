"""The model's mean skull as the target of registrations: what depends on the model alone, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import torch

from SkullVAELib.geometry.distance_field import redistance, surface_points
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.affine import AffineTarget
from SkullVAELib.registration.vault_shell import VaultShell
from SkullVAELib.shape.two_table import TwoTableShape, gradient, outward_directions
from SkullVAELib.vae.networks import SkullModel

# Sine of the elevation, seen from the vault's centre, above which bone counts as vault.
_VAULT = -0.1


def is_vault(points: torch.Tensor) -> torch.Tensor:
    """Which points (N, 3) in canonical mm belong to the vault."""
    return points[:, 2] > _VAULT * points.norm(dim=1)


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

    def prepare_target(self) -> None:
        """Compute now what the affine registration needs."""
        _ = self.target.near, self.target.surface, self.target.vault

    def prepare(self) -> None:
        """Compute all of the following now, for completions that come later."""
        self.prepare_target()
        _ = self.tables.channels, self.tables.by_side, self.tables.slopes_by_side
        _ = self.shell, self.outer_vault, self.beside_vault

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

    @cached_property
    def outer_vault(self) -> torch.Tensor:
        """(N, 3) points of the outer surface of the vault in canonical mm."""
        points = surface_points(Volume((-self.field).numpy(), self.grid.affine), level=0.0)[0]
        surface = torch.tensor(points).float()
        facing = self.grid.sample(gradient(self.field, self.grid.spacing_mm), surface)
        outwards = (facing * outward_directions(surface)).sum(1) > 0.5 * facing.norm(dim=1)
        return surface[is_vault(surface) & outwards]

    @cached_property
    def beside_vault(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(X * Y * Z,) bool each: the nodes in the middle of the cranial cavity, and those around the vault."""
        nodes, field = self.grid.coordinates().reshape(-1, 3), self.field.reshape(-1)
        radius = nodes.norm(dim=1)
        cavity = (field > 8) & (radius < 50) & (nodes[:, 2] > -15)
        around = (field > 8) & (field < 40) & (radius > 80) & (nodes[:, 2] > -_VAULT * radius)
        return cavity, around


_KNOWN: WeakKeyDictionary[SkullModel, tuple[torch.Tensor, int, MeanSkull]] = WeakKeyDictionary()
