"""Laying a patient on the model's mean skull, where its network sees and answers, and going back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch

from .bone import bone_mask
from .conformed import ConformedPrior, Shape
from .frame import (
    Grid,
    canonical_field,
    centre_symmetry,
    redistance,
    reduce_bone,
    register,
    signed_distance,
    surface_points,
)
from .implant import evaluate
from .networks import SkullModel
from .population import CLAMP_MM, Skull, canonical_surface
from .volume import Volume, to_image
from .warp import fit_warp, inverse_warp


@dataclass(frozen=True)
class Placement:
    """A skull laid on the model's mean skull.

    alignment: (4, 4) patient RAS mm -> canonical mm; warp: canonical patient -> mean, see warp.py; field: (X, Y, Z)
    clamped mm, the patient's own on the mean.
    """

    bone: Volume
    skull: Skull
    grid: Grid
    alignment: np.ndarray
    warp: torch.Tensor
    field: torch.Tensor


def place(volume: Volume, model: SkullModel) -> Placement:
    """Register a skull (a CT in HU or a mask) to the model and lay it on the mean, as completion does.

    Raises SkullVAEError when it is no skull.
    """
    bone = volume.with_array(bone_mask(volume)[0])
    fraction = reduce_bone(bone)
    skull = Skull("patient", fraction, signed_distance(fraction), *surface_points(fraction))
    grid = model.architecture.grid
    alignment = register(skull.points, redistance(model.mean_shape.cpu(), grid), grid)
    own, _ = canonical_field(fraction, skull.distance, alignment, grid)
    alignment = centre_symmetry(canonical_surface(skull, alignment)[0], own, grid) @ alignment
    points, normals = canonical_surface(skull, alignment)
    warp = fit_warp(Shape.of(model.mean.cpu(), grid), points, normals)
    laid, _ = canonical_field(fraction, skull.distance, alignment, grid, inverse_warp(warp, grid))
    return Placement(bone, skull, grid, alignment, warp, laid.clamp(-CLAMP_MM, CLAMP_MM))


def bone_in_place(field: torch.Tensor, placement: Placement) -> Volume:
    """Bone, bool on the patient's own grid, of a field (X, Y, Z) in mm on the mean skull.

    The field is taken at about 1.2 mm, on the reduced grid, and interpolated: it is smooth. Beyond that grid, which the
    patient's bone and a margin fill, there is none.
    """
    fraction = placement.skull.fraction
    conformed = ConformedPrior(Shape.of(field, placement.grid), placement.warp)
    index = np.indices(fraction.array.shape).reshape(3, -1).T
    values = evaluate(conformed, placement.alignment @ fraction.affine, index).reshape(fraction.array.shape)
    image = sitk.Resample(
        to_image(Volume(values, fraction.affine)), to_image(placement.bone), sitk.Transform(), sitk.sitkLinear, CLAMP_MM
    )
    return placement.bone.with_array(sitk.GetArrayFromImage(image).transpose(2, 1, 0) < 0)
