"""The outer surface of the whole vault, and openings that remain in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from SkullVAELib.checks.charts import Chart, Layer, cast, filled, smoothed, vault_centre
from SkullVAELib.checks.fractions import Fraction, outside_mm
from SkullVAELib.geometry.masks import largest_component
from SkullVAELib.geometry.volume import Volume

PIXEL_MM = 2.0
"""Side of a pixel of the vault's chart at a radius of 85 mm."""

ANGLE_DEG = 110.0
"""The chart reaches this far from the vertex; the skull base, the orbits and the neck lie further down."""

RANGE_MM = (40.0, 130.0)
"""Bone closer to the centre of the vault, or further from it, is not part of the vault."""

NEAR_SHELL_MM = 12.0
"""Bone further inside or outside than this from the surface around it does not close an opening."""

_PRESENT = 0.25  # a fraction of bone that closes a pixel: thin bone fills only part of a block
_UPPER_DEG = 88.0  # what is called higher up: angle to the vertex
_ENCLOSED = 0.6  # least share of its rim that is bone, of the upper part of an opening that is open below
_OPEN_BELOW_ML = 3.0  # least volume of that part
_SUNKEN_MM = 3.0  # a floor of bone this far below the surface around it, and thinner than that, does not close a hole
_SUNKEN_DEG = 80.0  # further down the brow and the muscles' attachments are natural steps
_AROUND_PIXELS = 9  # of the surface around a place, in pairs of pixels
_WIDTH_MM = 3.0  # cracks, sutures and saw lines up to about this width are not openings


@dataclass(frozen=True)
class Vault:
    """The outer surface of a completed vault on a chart about the vertex.

    Attributes
    ----------
    chart : Chart
        The rays.
    radius : (P, P) array
        Smooth radius of the vault's inner surface in mm, without gaps.
    layer : Layer
        Bone near that radius.
    known : (P, P) bool array
        Pixels where the image holds the vault.
    """

    chart: Chart
    radius: np.ndarray
    layer: Layer
    known: np.ndarray

    @classmethod
    def of(cls, bone: Fraction, grid: Volume) -> Vault | None:
        """The vault of completed bone in an image; None where there is too little bone for one."""
        # Loose bone, arms and headrests must not move the centre; every second block suffices to tell them apart.
        coarse = bone.array[::2, ::2, ::2] >= 0.5
        if not coarse.any():
            return None
        points = 2.0 * np.argwhere(largest_component(coarse)) @ bone.affine[:3, :3].T + bone.affine[:3, 3]
        centre = vault_centre(points)
        chart = Chart.about(centre, np.array([0.0, 0, 1]), PIXEL_MM / 85, np.radians(ANGLE_DEG))
        where = chart.valid
        few = np.zeros_like(where)
        few[::2, ::2] = where[::2, ::2]
        radii = np.arange(*RANGE_MM, 1.25, dtype=np.float32)
        inside = bone.nearest(centre.astype(np.float32) + radii[:, None] * chart.directions[few][:, None]) >= _PRESENT
        hit, first = np.zeros_like(where), np.zeros(where.shape)
        first[few] = radii[inside.argmax(1)]
        hit[few] = inside.any(1)
        if hit.sum() < 0.2 * few.sum():
            return None
        radius = ndimage.median_filter(filled(first, hit)[::2, ::2], 7)
        radius = smoothed(radius.repeat(2, 0).repeat(2, 1)[: len(where), : len(where)], where, 3.0)
        layer = cast(chart, bone, radius - NEAR_SHELL_MM, radius + NEAR_SHELL_MM, where, _PRESENT)
        known = where & (outside_mm(grid, chart.at(radius).reshape(-1, 3)).reshape(where.shape) < 0)
        return cls(chart, radius, layer, known)

    @property
    def pixel_mm2(self) -> np.ndarray:
        """(P, P) area of the surface in each pixel, mm²."""
        return (self.radius * self.chart.step) ** 2 / self.chart.cosine(self.radius)


@dataclass(frozen=True)
class Opening:
    """An opening of a completed vault.

    Attributes
    ----------
    volume_ml : float
        Area times the thickness of the bone around it, ml.
    centre_mm : tuple of 3 floats
        Its middle, RAS mm.
    """

    volume_ml: float
    centre_mm: tuple[float, float, float]


def find_openings(vault: Vault, smallest_ml: float) -> list[Opening]:
    """Openings of a completed vault with bone all around, the largest first.

    An opening that reaches the lower edge of the chart, or the end of the image, may be the skull base, an orbit or the
    neck: of such an opening only what is higher up counts, and only if it is large and has bone around most of it.

    Parameters
    ----------
    vault : Vault
        The vault.
    smallest_ml : float
        Smaller openings are left out, ml.

    Returns
    -------
    list of Opening
    """
    chart, bone = vault.chart, vault.layer.hit
    disc = _disc(_WIDTH_MM / 2 / PIXEL_MM)
    thickness = (vault.layer.outer - vault.layer.inner) * chart.cosine(vault.radius)
    # A hole that a thin floor of bone closes is a hole, too: the outer surface is missing there.
    outer = filled(vault.layer.outer, bone)
    around = ndimage.median_filter(outer[::2, ::2], _AROUND_PIXELS).repeat(2, 0).repeat(2, 1)[: len(bone), : len(bone)]
    depth = smoothed(around, np.isfinite(around), 2.0) - outer
    sunken = bone & (chart.polar < np.radians(_SUNKEN_DEG)) & (depth > _SUNKEN_MM) & (np.nan_to_num(thickness) < depth)
    closed = ndimage.binary_closing(bone & ~sunken, disc) | (bone & ~sunken)
    opening = vault.known & ~closed
    labels, _ = ndimage.label(opening)
    border = ndimage.binary_dilation(~vault.known, np.ones((3, 3)))
    bone = bone & ~sunken
    area = vault.pixel_mm2
    found = []
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        window = tuple(slice(max(0, s.start - 6), s.stop + 6) for s in box)
        inside = labels[window] == label
        least = smallest_ml
        if (inside & border[window]).any():
            inside &= chart.polar[window] < np.radians(_UPPER_DEG)
            ring = ndimage.binary_dilation(inside, _disc(1)) & ~inside
            if not inside.any() or (bone[window] & ring).sum() < _ENCLOSED * ring.sum():
                continue
            least = max(least, _OPEN_BELOW_ML)
        around = ndimage.binary_dilation(inside, _disc(10 / PIXEL_MM)) & bone[window]
        thick = float(np.median(thickness[window][around])) if around.any() else 0.0
        volume = float((area[window] * inside).sum()) * thick / 1000
        if volume >= least:
            at = chart.at(vault.radius + thick / 2)[window][inside].mean(0)
            found.append(Opening(volume, (float(at[0]), float(at[1]), float(at[2]))))
    return sorted(found, key=lambda opening: -opening.volume_ml)


def _disc(radius: float) -> np.ndarray:
    reach = max(1, int(np.ceil(radius)))
    x, y = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return x**2 + y**2 <= max(radius, 1) ** 2 + 0.01
