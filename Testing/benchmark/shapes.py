"""Rows that complete a skull by a shape alone: registered, not warped, bone where the shape has it and the patient not.

They share registration, gap finding and filling with ours, so that a row differs by its shape; the largest gap is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from SkullVAELib.completion.defect_classifier import default_classifier
from SkullVAELib.completion.defects import DefectFinder
from SkullVAELib.completion.fill import allowed_region, fill_defects
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.bone import bone_mask
from SkullVAELib.registration.patient import AlignedSkull, align_to_mean
from SkullVAELib.registration.skull import Skull, canonical_field, prepare_skull
from SkullVAELib.shape.two_table import TwoTableShape
from SkullVAELib.shape.warped import WarpedShape
from SkullVAELib.vae.networks import SkullModel

MakeShape = Callable[[Skull, AlignedSkull, SkullModel], tuple[torch.Tensor, Grid]]
"""From a registered defective skull to a complete shape: signed distance (X, Y, Z) in mm on a canonical grid."""


def complete_by(make_shape: MakeShape, volume: Volume, model: SkullModel) -> np.ndarray:
    """The implant, bool on the volume's grid: the shape minus bone in the largest gap, or nothing where none is found.

    Raises SkullVAEError when the volume is no skull.
    """
    bone = volume.with_array(bone_mask(volume)[0])
    skull = prepare_skull("patient", bone)
    aligned = align_to_mean(skull, model)
    field, grid = make_shape(skull, aligned, model)
    spread = model.spread.cpu()
    if grid.shape != tuple(spread.shape):
        spread = torch.nn.functional.interpolate(
            spread[None, None], size=grid.shape, mode="trilinear", align_corners=True
        )[0, 0]
    conformed = WarpedShape(TwoTableShape.of(field, grid), torch.zeros(3, 2, 2, 2))
    coarse = float(volume.spacing.max())
    gap = DefectFinder.of(conformed, spread, aligned.matrix, skull, coarse, default_classifier()).choose()
    if not gap.masks:
        return np.zeros_like(bone.array)
    gap = dataclasses.replace(gap, masks=gap.masks[:1])
    return fill_defects(conformed, aligned.matrix, bone, gap, allowed_region(skull.fraction, gap)).mask


def defective_field(skull: Skull, aligned: AlignedSkull, grid: Grid) -> torch.Tensor:
    """The defective skull's own signed distance (X, Y, Z) in mm in the canonical frame, registered and not warped."""
    return canonical_field(skull.imaged, skull.imaged_distance, aligned.matrix, grid)[0]


def mirrored(skull: Skull, aligned: AlignedSkull, model: SkullModel) -> tuple[torch.Tensor, Grid]:
    """The patient's own mirror image at the registered mid-sagittal plane, at 1 mm: finer than the model's grid."""
    coarse = model.architecture.grid
    grid = Grid(tuple(round(2 * half) + 1 for half in coarse.half_mm), 1.0)
    return defective_field(skull, aligned, grid).flip(0), grid
