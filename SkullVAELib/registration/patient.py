"""Laying a patient on the model's mean skull, where its network sees and answers, and going back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch

from SkullVAELib.core.progress import Stages
from SkullVAELib.geometry.distance_field import redistance
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.roi import ROI
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import to_image
from SkullVAELib.registration.affine import register_affine
from SkullVAELib.registration.bone import bone_mask
from SkullVAELib.registration.free_form import fit_warp, inverse_warp
from SkullVAELib.registration.options import WarpOptions
from SkullVAELib.registration.skull import CLAMP_MM, Skull, canonical_field, canonical_surface, prepare_skull
from SkullVAELib.registration.symmetry import align_midsagittal_plane
from SkullVAELib.shape.two_table import TwoTableShape
from SkullVAELib.shape.warped import WarpedShape
from SkullVAELib.vae.networks import SkullModel


@dataclass(frozen=True)
class AlignedSkull:
    """A skull registered to the model's mean skull.

    matrix: (4, 4) patient RAS mm -> canonical mm; points, normals: (N, 3) its bone surface in canonical mm; fit_mm:
    median distance of the vault's surface to the mean skull's.
    """

    matrix: np.ndarray
    points: torch.Tensor
    normals: torch.Tensor
    fit_mm: float


def align_to_mean(skull: Skull, model: SkullModel) -> AlignedSkull:
    """Register a skull to the model, its own plane of symmetry in the middle."""
    grid = model.architecture.grid
    mean = redistance(model.mean_shape.cpu(), grid)
    matrix = register_affine(skull.points, mean, grid)
    field, _ = canonical_field(skull.fraction, skull.distance, matrix, grid)
    matrix = align_midsagittal_plane(canonical_surface(skull, matrix)[0], field, grid) @ matrix
    points, normals = canonical_surface(skull, matrix)
    vault = points[points[:, 2] > 0]
    fit = float(grid.sample(mean[None], vault)[:, 0].abs().median()) if len(vault) else float("inf")
    return AlignedSkull(matrix, points, normals, fit)


def fit_warp_to_mean(aligned: AlignedSkull, model: SkullModel, options: WarpOptions | None = None) -> torch.Tensor:
    """The warp that lays a skull on the mean skull, see warp.py."""
    shape = TwoTableShape.of(model.mean.cpu(), model.architecture.grid)
    return fit_warp(shape, aligned.points, aligned.normals, options or WarpOptions())


def warped_field(skull: Skull, aligned: AlignedSkull, warp: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The skull's own field (X, Y, Z) in mm, clamped, laid on the mean skull: what the network is shown."""
    field, _ = canonical_field(skull.fraction, skull.distance, aligned.matrix, grid, inverse_warp(warp, grid))
    return field.clamp(-CLAMP_MM, CLAMP_MM)


@dataclass(frozen=True)
class RegisteredPatient:
    """A skull laid on the model's mean skull, and what brings a field from there back to the patient: all of a
    completion that depends on the patient alone and on no complete shape.

    bone: bool, on the input's grid; about_bone: how it was found, see bone_mask; aligned: its registration; warp: what
    lays it on the mean skull; field: its own field (X, Y, Z) in mm there.
    """

    bone: Volume
    about_bone: dict
    skull: Skull
    grid: Grid
    aligned: AlignedSkull
    warp: torch.Tensor
    field: torch.Tensor

    @property
    def alignment(self) -> np.ndarray:
        """(4, 4) patient RAS mm -> canonical mm."""
        return self.aligned.matrix

    @property
    def points_on_mean(self) -> torch.Tensor:
        """(N, 3) the bone's surface, laid on the mean skull, in canonical mm."""
        return self.aligned.points + self.grid.sample(self.warp, self.aligned.points)


def register_patient(
    volume: Volume,
    model: SkullModel,
    threshold_hu: float | None = None,
    box: ROI | None = None,
    options: WarpOptions | None = None,
    stages: Stages | None = None,
) -> RegisteredPatient:
    """Lay a skull (a CT in HU or a mask) on the model's mean skull.

    threshold_hu, box: see bone_mask. Raises SkullVAEError when it is no skull.
    """
    stages = stages or Stages({"bone": 1.0})
    with stages.stage("bone"):
        mask, about_bone = bone_mask(volume, threshold_hu, box)
        bone = volume.with_array(mask)
        skull = prepare_skull("patient", bone)
    with stages.stage("register"):
        aligned = align_to_mean(skull, model)
    grid = model.architecture.grid
    with stages.stage("warp"):
        warp = fit_warp_to_mean(aligned, model, options)
        field = warped_field(skull, aligned, warp, grid)
    return RegisteredPatient(bone, about_bone, skull, grid, aligned, warp, field)


def bone_on_patient_grid(field: torch.Tensor, placement: RegisteredPatient) -> Volume:
    """Bone, bool on the patient's own grid, of a field (X, Y, Z) in mm on the mean skull.

    The field is taken at about 1.2 mm, on the reduced grid, and interpolated: it is smooth. Beyond that grid, which the
    patient's bone and a margin fill, there is none.
    """
    fraction = placement.skull.fraction
    conformed = WarpedShape(TwoTableShape.of(field, placement.grid), placement.warp)
    index = np.indices(fraction.array.shape).reshape(3, -1).T
    values = conformed.at_voxels(placement.alignment @ fraction.affine, index).reshape(fraction.array.shape)
    image = sitk.Resample(
        to_image(Volume(values, fraction.affine)), to_image(placement.bone), sitk.Transform(), sitk.sitkLinear, CLAMP_MM
    )
    return placement.bone.with_array(sitk.GetArrayFromImage(image).transpose(2, 1, 0) < 0)
