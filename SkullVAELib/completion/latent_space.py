"""Working with latents: encode skulls, move in the latent space, and decode back onto the skulls' own grids.

One face for both kinds of model: our own, which lays a skull on its mean first, and the paper's, which sees the volume
resized to its grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.threads import one_thread
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop, to_nearest_ras
from SkullVAELib.registration.bone import bone_mask
from SkullVAELib.registration.patient import RegisteredPatient, bone_on_patient_grid, register_patient
from SkullVAELib.shape.two_table import TwoTableShape
from SkullVAELib.shape.warped import WarpedShape
from SkullVAELib.vae.latent import complete_latent, inference_kind, latent_code, neighbour_deviations
from SkullVAELib.vae.networks import SkullModel
from SkullVAELib.vae.paper_networks import PaperModel, resize_mask

_MARGIN_MM = 6.0


# The decoder leaves specks in the air; real pieces apart, such as a condyle in the last slices, are larger.
_CRUMB_ML = 0.3


@one_thread()
@torch.no_grad()
def skull_from_latent(model: SkullModel, z: torch.Tensor, spacing_mm: float = 1.0) -> Volume:
    """The skull that a latent (L,) decodes to, as complete_skull gives it.

    Raises SkullVAEError when the model decodes to no bone.
    """
    z = z.to(model.latent_mean.device)
    grid = model.architecture.grid
    field = model.decode(z[None])[0].float().cpu()
    shape = WarpedShape(TwoTableShape.of(field, grid), torch.zeros(3, 2, 2, 2))
    fine = Grid(tuple(int(n) for n in 2 * grid.half_mm // spacing_mm + 1), spacing_mm)
    values = shape.field(fine.coordinates().reshape(-1, 3))
    inside = (values < 0).reshape(fine.shape).numpy()
    labels, _ = ndimage.label(inside)
    sizes_ml = np.bincount(labels.ravel()) * spacing_mm**3 / 1000
    sizes_ml[0] = 0
    bone = (sizes_ml >= _CRUMB_ML)[labels]
    if not bone.any():
        raise SkullVAEError("The model decodes to no bone", "Choose another model or another seed")
    bone = crop(Volume(bone, fine.affine), bounding_box(bone, margin=round(_MARGIN_MM / spacing_mm)))
    to_flipped = np.diag([-1.0, -1.0, 1.0, 1.0])
    to_flipped[:2, 3] = np.array(bone.array.shape[:2]) - 1
    return Volume(np.ascontiguousarray(bone.array[::-1, ::-1]), bone.affine @ to_flipped)


DEVIATIONS = ("class", "neighbours")


NEIGHBOURS = 5


# The paper's volumes have no size of their own; drawn skulls are given a head's.
_HEAD_MM = (160.0, 200.0, 150.0)


@dataclass(frozen=True)
class Encoded:
    """A skull in the latent space, and what is needed to bring a decoded one back to its grid.

    mu, logvar: (L,) of the posterior.
    """

    mu: torch.Tensor
    logvar: torch.Tensor
    place: RegisteredPatient | Volume


class LatentSpace:
    """A model's latent space; see the module's docstring."""

    def __init__(self, model: SkullModel | PaperModel):
        self.model = model
        self.is_paper = isinstance(model, PaperModel)
        self.device = next(model.parameters()).device

    @one_thread()
    def encode(self, volume: Volume) -> Encoded:
        """The posterior of a skull, a CT in HU or a mask. Raises SkullVAEError when it is none."""
        if self.is_paper:
            where: RegisteredPatient | Volume = volume.with_array(bone_mask(volume)[0])
            shown = resize_mask(to_nearest_ras(where).array, self.model.architecture.grid_shape)
        else:
            where = register_patient(volume, self.model)
            shown = where.field
        with torch.no_grad():
            mu, logvar = self.model.encode(shown[None].to(self.device))
        return Encoded(mu[0].cpu(), logvar[0].cpu(), where)

    def code(self, encoded: Encoded) -> torch.Tensor:
        """The latent code (L,) that the model's decoder understands."""
        kind = self.model.z if self.is_paper else "mean"
        return latent_code(encoded.mu, encoded.logvar, inference_kind(kind))

    def complete(self, z: torch.Tensor, gamma: float, kind: str = "cranial", deviation: str = "class") -> torch.Tensor:
        """z + gamma * DEV (L,) of a class of defects, or of the nearest training skulls of that class.

        Raises SkullVAEError when the model knows neither.
        """
        if not gamma:
            return z
        model = self.model
        if kind not in model.classes:
            known = ", ".join(model.classes) or "none"
            raise SkullVAEError(f"The model has no DEV of class '{kind}'", f"Choose from {known}, or use --gamma 0")
        number = model.classes.index(kind)
        if deviation == "class":
            return complete_latent(z, model.deviations[number].cpu(), gamma)
        pairs = model.defective_class == number if self.is_paper else torch.zeros(0)
        if not pairs.any():
            raise SkullVAEError("The model keeps no latents of training skulls", "Use --deviation class")
        near = neighbour_deviations(
            z[None], model.latents_complete[pairs].cpu(), model.latents_defective[pairs].cpu(), NEIGHBOURS
        )
        return complete_latent(z, near[0], gamma)

    @one_thread()
    def decode(self, z: torch.Tensor, place: RegisteredPatient | Volume) -> Volume:
        """Bone, bool on the grid of the skull that `place` is of, for a latent (L,)."""
        with torch.no_grad():
            decoded = self.model.decode(z[None].to(self.device))[0].float().cpu()
        if not self.is_paper:
            return bone_on_patient_grid(decoded, place)
        ras = to_nearest_ras(place)
        full = F.interpolate(decoded[None, None], size=ras.array.shape, mode="trilinear")[0, 0] > 0.5
        back = nib.orientations.ornt_transform(nib.io_orientation(ras.affine), nib.io_orientation(place.affine))
        return place.with_array(np.ascontiguousarray(nib.apply_orientation(full.numpy(), back)))

    @torch.no_grad()
    def sample(self, seed: int, prior: str = "aggregated") -> Volume:
        """A skull, bool, drawn from the training skulls' latents ("aggregated") or from N(0, I) ("standard")."""
        model = self.model
        z = torch.randn(model.latent_mean.shape, generator=torch.Generator().manual_seed(seed))
        if prior == "aggregated":
            z = model.latent_mean.cpu() + model.latent_std.cpu() * z
        if not self.is_paper:
            return skull_from_latent(model, z)
        shape = model.architecture.grid_shape
        affine = np.diag([*(size / n for size, n in zip(_HEAD_MM, shape, strict=True)), 1.0])
        return Volume((model.decode(z[None].to(self.device))[0] > 0.5).cpu().numpy(), affine)
