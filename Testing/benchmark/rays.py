"""Errors of an implant's outer and inner table in mm, along rays from the vault's centre through the defect.

A Dice coefficient says how much is wrong, not what. Both tables too far out are a plate in the wrong place, the inner
one alone a wrong thickness; rays that meet no implant are a hole that is left. Surfaces are found between voxels: where
the mask, blurred by 0.6 voxels, crosses one half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume

SPACING_MM = 1.5
"""Distance between rays, on a sphere of the defect's mean distance from the vault's centre."""

RIM_MM = 3.0
"""Rays this near to the rim meet its walls, not the tables: the step at the rim is measured apart."""

STEP_MM = 0.25
BLUR_VOXELS = 0.6

USABLE_OUTER_MM = 1.5
USABLE_STEP_MM = 1.0
USABLE_OPEN = 0.02
USABLE_BESIDE = 0.02
"""An implant is usable as it is if the 95th percentile of the outer table's error is at most 1.5 mm, the step at the
rim at most 1 mm, its edge is closed (at most 2 % of the rays have no implant), and at most 2 % of its volume is
elsewhere than in the removed bone or within 3 mm of it, as in the orbit or a sinus."""


@dataclass(frozen=True)
class Rays:
    """Where rays meet the outer and the inner table.

    Attributes
    ----------
    outer, inner : numpy.ndarray, shape (N,)
        Distance from the vault's centre in mm; nan where there is no bone.
    """

    outer: np.ndarray
    inner: np.ndarray

    @classmethod
    def of(
        cls, mask: np.ndarray, affine: np.ndarray, centre: np.ndarray, directions: np.ndarray, span: tuple[float, float]
    ) -> Rays:
        """Meet a mask's surface between two distances from the centre.

        mask: bool; affine: (4, 4) index -> RAS mm; centre: (3,) RAS mm; directions: (N, 3) unit vectors.
        """
        soft = ndimage.gaussian_filter(mask.astype(np.float32), BLUR_VOXELS)
        radius = np.arange(span[0], span[1] + STEP_MM, STEP_MM)
        inverse = np.linalg.inv(affine)
        step = directions @ inverse[:3, :3].T
        at = apply_affine(inverse, centre)[:, None, None] + step.T[:, :, None] * radius
        value = ndimage.map_coordinates(soft, at, order=1, mode="constant", cval=0.0)
        inside = value >= 0.5
        met = inside.any(1) & ~inside[:, 0] & ~inside[:, -1]
        first = np.argmax(inside, axis=1)
        last = inside.shape[1] - 1 - np.argmax(inside[:, ::-1], axis=1)
        rows = np.arange(len(directions))
        inner, outer = (
            _crossing(value[rows, near], value[rows, np.clip(far, 0, len(radius) - 1)], radius[near], sign * STEP_MM)
            for near, far, sign in ((first, first - 1, -1.0), (last, last + 1, 1.0))
        )
        return cls(np.where(met, outer, math.nan), np.where(met, inner, math.nan))


def _crossing(inside: np.ndarray, outside: np.ndarray, radius: np.ndarray, step: float) -> np.ndarray:
    return radius + step * (inside - 0.5) / np.maximum(inside - outside, 1e-6)


@dataclass(frozen=True)
class ImplantRays:
    """An implant and the removed bone along rays through the removed bone, in mm; nan where there is none.

    Attributes
    ----------
    directions : numpy.ndarray, shape (N, 3)
        Unit vectors from the vault's centre.
    outer, inner : numpy.ndarray, shape (N,)
        Errors of the implant's tables, outwards positive.
    thickness : numpy.ndarray, shape (N,)
        Of the removed bone.
    away : numpy.ndarray, shape (N,)
        Distance from the rim, on a sphere of the defect's mean distance from the centre.
    radius : float
        Of that sphere.
    """

    directions: np.ndarray
    outer: np.ndarray
    inner: np.ndarray
    thickness: np.ndarray
    away: np.ndarray
    radius: float

    @property
    def known(self) -> np.ndarray:
        """Which rays meet removed bone."""
        return np.isfinite(self.thickness)

    @property
    def both(self) -> np.ndarray:
        """Which rays meet removed bone and implant."""
        return np.isfinite(self.outer)

    @classmethod
    def of(
        cls,
        truth: np.ndarray,
        prediction: np.ndarray,
        bone: np.ndarray,
        affine: np.ndarray,
        centre: np.ndarray,
        spacing_mm: float = SPACING_MM,
    ) -> ImplantRays:
        """Parameters as of `table_errors`; spacing_mm: distance between rays."""
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        box = bounding_box(truth | prediction, np.ceil(8.0 / spacing).astype(int))
        truth, prediction, bone = truth[box], prediction[box], bone[box]
        here = affine.copy()
        here[:3, 3] = apply_affine(affine, np.array([side.start for side in box], float))
        places = apply_affine(here, np.argwhere(truth)) - centre
        radius = np.linalg.norm(places, axis=1)
        mean = float(radius.mean())
        span = (max(0.0, float(radius.min()) - 20.0), float(radius.max()) + 20.0)
        on_sphere = places / radius[:, None] * mean
        cells = np.unique(np.round(on_sphere / spacing_mm).astype(int), axis=0) * spacing_mm
        directions = cells / np.linalg.norm(cells, axis=1, keepdims=True)
        true = Rays.of(truth, here, centre, directions, span)
        made = Rays.of(prediction, here, centre, directions, span)
        rim = apply_affine(here, np.argwhere(bone & ndimage.binary_dilation(truth))) - centre
        away = np.full(len(directions), np.inf)
        if len(rim):
            rim *= mean / np.linalg.norm(rim, axis=1, keepdims=True)
            away = cKDTree(rim).query(directions * mean)[0]
        outer, inner = made.outer - true.outer, made.inner - true.inner
        return cls(directions, outer, inner, true.outer - true.inner, away, mean)


def table_errors(
    truth: np.ndarray, prediction: np.ndarray, bone: np.ndarray, affine: np.ndarray, centre: np.ndarray
) -> dict[str, float | None]:
    """Errors of an implant along rays through the removed bone.

    Parameters
    ----------
    truth, prediction, bone : numpy.ndarray, shape (I, J, K)
        Bool: the removed bone, the implant and the bone that is left.
    affine : numpy.ndarray, shape (4, 4)
        Index -> RAS mm.
    centre : numpy.ndarray, shape (3,)
        Of the vault, RAS mm.

    Returns
    -------
    dict
        Mean and 95th percentile of the absolute errors of the outer and the inner table in mm, and their mean, outwards
        positive; `step_mm`: 95th percentile of the outer table's error within 3 mm of the rim; `open`: share of the
        rays without an implant; `beside`: share of the implant's volume more than 3 mm from the removed bone;
        `thickness_mm`: mean thickness of the removed bone. None where it cannot be measured.
    """
    rays = ImplantRays.of(truth, prediction, bone, affine, centre)
    known, both, outer, inner = rays.known, rays.both, rays.outer, rays.inner
    middle, near = both & (rays.away > RIM_MM), both & (rays.away <= RIM_MM)
    errors: dict[str, float | None] = {}
    for name, error in (("outer", outer[middle]), ("inner", inner[middle])):
        errors[f"{name}_mm"] = _rounded(np.abs(error).mean() if len(error) else None)
        errors[f"{name}_p95_mm"] = _rounded(np.percentile(np.abs(error), 95) if len(error) else None)
        errors[f"{name}_bias_mm"] = _rounded(error.mean() if len(error) else None)
    errors["step_mm"] = _rounded(np.percentile(np.abs(outer[near]), 95) if near.any() else None)
    errors["open"] = _rounded(1 - both.sum() / known.sum() if known.any() else None)
    box = bounding_box(truth | prediction)
    errors["beside"] = _rounded(_beside(truth[box], prediction[box], np.linalg.norm(affine[:3, :3], axis=0)))
    errors["thickness_mm"] = _rounded(rays.thickness[known].mean() if known.any() else None)
    return errors


def mean_thickness(mask: Volume, centre: np.ndarray) -> float:
    """Mean thickness in mm of a plate of bone along rays, pores within it included; centre: of the vault, RAS mm."""
    nothing = np.zeros(mask.array.shape, bool)
    found = table_errors(mask.array != 0, mask.array != 0, nothing, mask.affine, centre)["thickness_mm"]
    return math.nan if found is None else found


def _beside(truth: np.ndarray, prediction: np.ndarray, spacing: np.ndarray) -> float | None:
    if not prediction.any():
        return None
    away = ndimage.distance_transform_edt(~truth, sampling=spacing)
    return float((away[prediction] > RIM_MM).mean())


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def usable(errors: dict[str, float | None]) -> bool:
    """Whether an implant could be used as it is, see USABLE_OUTER_MM."""
    limits = (
        ("outer_p95_mm", USABLE_OUTER_MM),
        ("step_mm", USABLE_STEP_MM),
        ("open", USABLE_OPEN),
        ("beside", USABLE_BESIDE),
    )
    values = [(errors.get(name), limit) for name, limit in limits]
    return all(value is not None and value <= limit for value, limit in values)
