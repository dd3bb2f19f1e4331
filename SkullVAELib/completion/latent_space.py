"""Latent space of both kinds of model: encode skulls, move latents, and decode back to the skulls' own grids.

Our own model encodes a skull registered to its mean skull; the paper's model encodes the volume resized to its grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import nibabel as nib
import numpy as np
import torch
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
from SkullVAELib.vae.paper_networks import PaperModel, resize_back, resize_mask

_MARGIN_MM = 6.0

# The decoder leaves small spurious components; real separate components, such as a condyle in the last slices, are
# larger.
_MIN_COMPONENT_ML = 0.3


@one_thread()
@torch.no_grad()
def skull_from_latent(model: SkullModel, z: torch.Tensor, spacing_mm: float = 1.0) -> Volume:
    """The skull that a latent decodes to.

    Parameters
    ----------
    model : SkullModel
        The model.
    z : torch.Tensor, shape (L,)
        Latent code.
    spacing_mm : float
        Spacing of the result, mm.

    Returns
    -------
    Volume
        Bool, without small components, cropped to the bone with a margin. Its axes run L, P, S.

    Raises
    ------
    SkullVAEError
        If the model decodes to no bone.
    """
    z = z.to(model.latent_mean.device)
    grid = model.architecture.grid
    field = model.decode(z[None])[0].float().cpu()
    shape = WarpedShape(TwoTableShape.of(field, grid), torch.zeros(3, 2, 2, 2))
    fine = Grid(tuple(int(n) for n in 2 * grid.half_mm // spacing_mm + 1), spacing_mm)
    values = shape.field(fine.coordinates().reshape(-1, 3))
    bone_voxels = (values < 0).reshape(fine.shape).numpy()
    labels, _ = ndimage.label(bone_voxels)
    sizes_ml = np.bincount(labels.ravel()) * spacing_mm**3 / 1000
    sizes_ml[0] = 0
    bone = (sizes_ml >= _MIN_COMPONENT_ML)[labels]
    if not bone.any():
        raise SkullVAEError("The model decodes to no bone", "Choose another model or another seed")
    bone = crop(Volume(bone, fine.affine), bounding_box(bone, margin=round(_MARGIN_MM / spacing_mm)))
    to_flipped = np.diag([-1.0, -1.0, 1.0, 1.0])
    to_flipped[:2, 3] = np.array(bone.array.shape[:2]) - 1
    return Volume(np.ascontiguousarray(bone.array[::-1, ::-1]), bone.affine @ to_flipped)


DEVIATIONS = ("class", "neighbours")
"""Deviation vectors: of a class of defects, or of the nearest training skulls of that class."""

NEIGHBOURS = 5
"""Number of nearest training skulls whose deviations are averaged."""

# The paper's volumes have no physical size; sampled skulls get the size of a head.
_HEAD_MM = (160.0, 200.0, 150.0)


@dataclass(frozen=True)
class Encoded:
    """A skull in the latent space.

    Attributes
    ----------
    mu, logvar : torch.Tensor, shape (L,)
        Mean and log variance of the posterior.
    place : RegisteredPatient or Volume
        What maps a decoded skull back to the grid of this one, see `LatentSpace.decode`.
    """

    mu: torch.Tensor
    logvar: torch.Tensor
    place: RegisteredPatient | Volume


class _Method(Protocol):
    """What differs between the two kinds of model."""

    z_kind: str

    def prepare(self, volume: Volume) -> tuple[torch.Tensor, RegisteredPatient | Volume]:
        """The network's input (X, Y, Z), and what maps a decoded skull back to the volume's grid."""

    def training_pairs(self, defect_class: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Latents (S, L) of complete and of defective training skulls of a class; None if the model stores none."""

    def to_patient(self, decoded: torch.Tensor, place: RegisteredPatient | Volume) -> Volume:
        """Bone, bool on a skull's own grid, of a decoder output (X, Y, Z)."""

    def new_skull(self, z: torch.Tensor) -> Volume:
        """The skull, bool, that a latent (L,) decodes to, on a grid of its own."""


class _CanonicalMethod:
    """Our own model: the skull is registered to the mean skull, and the network sees its distance field there."""

    z_kind = "mean"

    def __init__(self, model: SkullModel):
        self._model = model

    def prepare(self, volume: Volume) -> tuple[torch.Tensor, RegisteredPatient | Volume]:
        patient = register_patient(volume, self._model)
        return patient.field, patient

    def training_pairs(self, defect_class: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        return None

    def to_patient(self, decoded: torch.Tensor, place: RegisteredPatient | Volume) -> Volume:
        if not isinstance(place, RegisteredPatient):
            raise TypeError("this model decodes to a registered patient")
        return bone_on_patient_grid(decoded, place)

    def new_skull(self, z: torch.Tensor) -> Volume:
        return skull_from_latent(self._model, z)


class _PaperMethod:
    """The paper's model: the network sees the volume resized to its own grid, and gives the probability of bone."""

    def __init__(self, model: PaperModel):
        self._model = model
        self.z_kind = model.z

    def prepare(self, volume: Volume) -> tuple[torch.Tensor, RegisteredPatient | Volume]:
        bone = volume.with_array(bone_mask(volume)[0])
        return resize_mask(to_nearest_ras(bone).array, self._model.architecture.grid_shape), bone

    def training_pairs(self, defect_class: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        pairs = self._model.defective_class == defect_class
        if not pairs.any():
            return None
        return self._model.latents_complete[pairs].cpu(), self._model.latents_defective[pairs].cpu()

    def to_patient(self, decoded: torch.Tensor, place: RegisteredPatient | Volume) -> Volume:
        if not isinstance(place, Volume):
            raise TypeError("a model of the paper's method decodes to a volume")
        ras = to_nearest_ras(place)
        full = resize_back(decoded, ras.array.shape) > 0.5
        back = nib.orientations.ornt_transform(nib.io_orientation(ras.affine), nib.io_orientation(place.affine))
        return place.with_array(np.ascontiguousarray(nib.apply_orientation(full.numpy(), back)))

    def new_skull(self, z: torch.Tensor) -> Volume:
        model = self._model
        shape = model.architecture.grid_shape
        affine = np.diag([*(size / n for size, n in zip(_HEAD_MM, shape, strict=True)), 1.0])
        return Volume((model.decode(z[None].to(model.latent_mean.device))[0] > 0.5).cpu().numpy(), affine)


class LatentSpace:
    """The latent space of a model: encoding, latent arithmetic (arXiv 2209.14783), decoding and sampling.

    Parameters
    ----------
    model : SkullModel or PaperModel
        Our own model, or one of the paper's method.
    """

    def __init__(self, model: SkullModel | PaperModel):
        self.model = model
        self._method: _Method = _PaperMethod(model) if isinstance(model, PaperModel) else _CanonicalMethod(model)
        self._device = next(model.parameters()).device

    @one_thread()
    def encode(self, volume: Volume) -> Encoded:
        """Encode a skull.

        Parameters
        ----------
        volume : Volume
            CT in HU, or a segmentation.

        Returns
        -------
        Encoded
            Its posterior.

        Raises
        ------
        SkullVAEError
            If the volume is not a skull.
        """
        shown, place = self._method.prepare(volume)
        with torch.no_grad():
            mu, logvar = self.model.encode(shown[None].to(self._device))
        return Encoded(mu[0].cpu(), logvar[0].cpu(), place)

    def code(self, encoded: Encoded) -> torch.Tensor:
        """The latent code (L,) of an encoded skull, of the kind that the model's decoder was trained on."""
        return latent_code(encoded.mu, encoded.logvar, inference_kind(self._method.z_kind))

    def complete(self, z: torch.Tensor, gamma: float, kind: str = "cranial", deviation: str = "class") -> torch.Tensor:
        """Latent arithmetic: z + gamma * DEV.

        Parameters
        ----------
        z : torch.Tensor, shape (L,)
            Latent code of a defective skull.
        gamma : float
            0 reconstructs, 1 completes.
        kind : str
            Defect class.
        deviation : str
            "class" for the deviation vector of the class, "neighbours" for that of the nearest training skulls of the
            class.

        Returns
        -------
        torch.Tensor, shape (L,)

        Raises
        ------
        SkullVAEError
            If the model has no such deviation vector.
        """
        if not gamma:
            return z
        model = self.model
        if kind not in model.classes:
            known = ", ".join(model.classes) or "none"
            raise SkullVAEError(
                f"The model has no deviation vector (DEV) for the defect class '{kind}'",
                f"Choose from {known}, or use --gamma 0",
            )
        number = model.classes.index(kind)
        if deviation == "class":
            return complete_latent(z, model.deviations[number].cpu(), gamma)
        pairs = self._method.training_pairs(number)
        if pairs is None:
            raise SkullVAEError("The model stores no latents of training skulls", "Use --deviation class")
        near = neighbour_deviations(z[None], *pairs, NEIGHBOURS)
        return complete_latent(z, near[0], gamma)

    @one_thread()
    def decode(self, z: torch.Tensor, place: RegisteredPatient | Volume) -> Volume:
        """Decode a latent to the grid of a skull.

        Parameters
        ----------
        z : torch.Tensor, shape (L,)
            Latent code.
        place : RegisteredPatient or Volume
            The `place` of the encoded skull.

        Returns
        -------
        Volume
            Bool, on the grid of that skull.
        """
        with torch.no_grad():
            decoded = self.model.decode(z[None].to(self._device))[0].float().cpu()
        return self._method.to_patient(decoded, place)

    @torch.no_grad()
    def sample(self, seed: int, prior: str = "aggregated") -> Volume:
        """Sample a new skull.

        Parameters
        ----------
        seed : int
            Seed of the random latent.
        prior : str
            "aggregated" for the aggregated posterior of the training skulls, "standard" for N(0, I).

        Returns
        -------
        Volume
            Bool.
        """
        model = self.model
        z = torch.randn(model.latent_mean.shape, generator=torch.Generator().manual_seed(seed))
        if prior == "aggregated":
            z = model.latent_mean.cpu() + model.latent_std.cpu() * z
        return self._method.new_skull(z)
