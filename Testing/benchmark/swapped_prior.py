"""Another complete shape in the place of the mean skull, and how far its tables are from the true ones.

Registration, warp and defect are those of the mean skull, so that shapes on it differ by nothing else; the hole is
pointed at, so that none is missed. Each shape gets the GP correction of the method.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from calibration import TrueSurface
from scipy import ndimage

from SkullVAELib.completion.options import CompletionOptions, DefectChoice, GaussianProcessOptions
from SkullVAELib.completion.pipeline import complete
from SkullVAELib.completion.result import PreparedPatient
from SkullVAELib.core.progress import Stages
from SkullVAELib.evaluation.metrics import dice
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.shape.two_table import TwoTableShape, outward_directions
from SkullVAELib.shape.warped import WarpedShape
from SkullVAELib.vae.networks import SkullModel

from .cases import cut_place

REACH_MM = 5.0
STEP_MM = 0.25
"""A table is looked for so far along a line through the vault's centre, in steps."""

POINTS = 1500
"""Points of each true table that are measured."""


def depth_errors(shape: WarpedShape, points: torch.Tensor, outer: bool) -> np.ndarray:
    """Distance in mm from points of a true table to the shape's along lines from the vault's centre, outwards positive.

    The zero of the shape's field is searched, not the field taken: the distances of a blurred shape are too small.
    points: (N, 3) canonical mm; outer: of the outer table, else of the inner one. nan where the shape has no such table
    within REACH_MM.
    """
    steps = torch.arange(-REACH_MM, REACH_MM + STEP_MM / 2, STEP_MM)
    line = outward_directions(points)
    at = points[:, None] + steps[None, :, None] * line[:, None]
    value = shape.field(at.reshape(-1, 3)).reshape(len(points), -1)
    before, after = value[:, :-1], value[:, 1:]
    crossing = (before < 0) & (after >= 0) if outer else (before >= 0) & (after < 0)
    where = steps[:-1] + STEP_MM * before / (before - after).where(crossing, torch.ones(()))
    where = where.where(crossing, torch.full((), torch.inf))
    nearest = where.abs().argmin(1)
    found = where.gather(1, nearest[:, None])[:, 0]
    return found.where(found.isfinite(), torch.full((), torch.nan)).numpy()


@dataclass(frozen=True)
class Case:
    """A defective skull with a known truth, registered to a model's mean skull.

    Attributes
    ----------
    patient : PreparedPatient
    model : SkullModel
    surface : TrueSurface
        Of the complete skull in the hole.
    truth : Volume
        Bool, the removed bone.
    """

    patient: PreparedPatient
    model: SkullModel
    surface: TrueSurface
    truth: Volume

    @classmethod
    def of(cls, whole: Volume, number: int, model: SkullModel) -> Case:
        """Cut a benchmark's defect out of a skull (bool bone) and register what is left."""
        whole, bone, truth = cut_place(whole, number)
        point = middle_of(whole.with_array(truth))
        options = CompletionOptions(prior="mean", least_quality=0.0, choice=DefectChoice((), (point,)))
        made = complete(whole.with_array(bone.astype(np.uint8)), model, options, Stages({"all": 1.0}))
        assert made.patient is not None and made.patient.rim is not None  # one defect was pointed at
        surface = TrueSurface.of(whole, bone, truth, made.patient.registered.alignment)
        return cls(made.patient, model, surface, whole.with_array(truth))

    @property
    def grid(self) -> Grid:
        return self.patient.registered.grid

    @cached_property
    def _tables(self) -> list[tuple[bool, torch.Tensor]]:
        """Points of the outer and of the inner table, (N, 3) canonical mm."""
        rng = np.random.default_rng(0)
        sides = ((True, self.surface.outer), (False, self.surface.inner))
        chosen = [(outer, rng.permutation(np.flatnonzero(side))[:POINTS]) for outer, side in sides]
        return [(outer, self.surface.points[torch.tensor(index)]) for outer, index in chosen]

    def warped(self, shape: TwoTableShape) -> WarpedShape:
        """A shape on the mean skull, warped to the patient."""
        return WarpedShape(shape, self.patient.registered.warp)

    def corrected(self, warped: WarpedShape, options: GaussianProcessOptions | None = None) -> WarpedShape:
        """With the GP correction; options: others than those of the method."""
        rim = self.patient.rim if options is None else self.patient.rim_of(self.patient.first, options)
        assert rim is not None
        return rim.correct(warped)

    def errors(self, corrected: WarpedShape) -> dict[str, float]:
        """Mean absolute error of both tables in mm, their mean, and the share of points without a table."""
        depths = [depth_errors(corrected, points, outer) for outer, points in self._tables]
        outer, inner = (float(np.nanmean(np.abs(depth))) for depth in depths)
        found = {"outer_mm": outer, "inner_mm": inner, "mm": (outer + inner) / 2}
        found["open"] = float(np.isnan(np.concatenate(depths)).mean())
        return {name: round(value, 4) for name, value in found.items()}

    def implant_dice(self, warped: WarpedShape) -> float:
        """DSC of the implant that a shape without its correction gives."""
        box = self.patient.defects.box
        fraction = self.patient.registered.skull.fraction
        index = np.indices(fraction.array[box].shape).reshape(3, -1).T + [side.start for side in box]
        field = warped.at_voxels(self.patient.registered.alignment @ fraction.affine, index)
        filled = self.patient.fill_with(warped, field.reshape(fraction.array[box].shape))[0]
        return round(dice(self.truth.array, filled.mask), 4)


def middle_of(mask: Volume) -> tuple[float, float, float]:
    """The voxel of a mask that is deepest within it, RAS mm."""
    box = bounding_box(mask.array, margin=1)
    spacing = np.linalg.norm(mask.affine[:3, :3], axis=0)
    depth = ndimage.distance_transform_edt(mask.array[box], sampling=spacing)
    index = np.array(np.unravel_index(int(depth.argmax()), depth.shape)) + [side.start for side in box]
    right, anterior, superior = apply_affine(mask.affine, index[None].astype(float))[0]
    return float(right), float(anterior), float(superior)


def mixed(first: TwoTableShape, second: TwoTableShape, weight: torch.Tensor) -> TwoTableShape:
    """Two shapes, table by table: the share `weight` (X, Y, Z) of the second."""
    names = ("field", "outer", "inner", "plate", "side")
    tensors = {name: torch.lerp(getattr(first, name), getattr(second, name), weight) for name in names}
    return replace(first, **tensors)
