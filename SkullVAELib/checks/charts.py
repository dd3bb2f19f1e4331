"""Charts of the vault: rays from its centre, arranged so that every pixel has the same solid angle."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from SkullVAELib.checks.fractions import Fraction

LEVEL = 0.5
"""Fraction at which the surface lies."""

STEP_MM = 0.75
"""Distance of the samples along a ray, mm."""

BELOW_VERTEX_MM = 75.0
"""The centre of the vault lies this far below its vertex, mm."""


@dataclass(frozen=True)
class Chart:
    """Rays from a centre in a Lambert azimuthal equal-area projection about an axis.

    Parameters
    ----------
    centre : (3,) array
        RAS, mm.
    axis : (3,) array
        Unit vector of the middle of the chart.
    step : float
        Side of a pixel as an angle in the middle, rad.
    pixels : int
        From the middle to an edge.
    angle : float
        Largest angle to the axis, rad; pixels beyond are not part of the chart.
    """

    centre: np.ndarray
    axis: np.ndarray
    step: float
    pixels: int
    angle: float

    @classmethod
    def about(cls, centre: np.ndarray, axis: np.ndarray, step: float, angle: float) -> Chart:
        """A chart up to an angle in rad from the axis."""
        angle = min(angle, 0.95 * np.pi)
        return cls(centre, axis, step, int(np.ceil(2 * np.sin(angle / 2) / step)), angle)

    @cached_property
    def polar(self) -> np.ndarray:
        """(P, P) angle of each pixel to the axis in rad; of pixels beyond the chart at most pi."""
        x, y = np.meshgrid(*[np.arange(-self.pixels, self.pixels + 1) * self.step] * 2, indexing="ij")
        return 2 * np.arcsin(np.minimum(np.hypot(x, y) / 2, 1.0))

    @cached_property
    def valid(self) -> np.ndarray:
        """(P, P) bool, the pixels of the chart."""
        return self.polar <= self.angle

    @cached_property
    def directions(self) -> np.ndarray:
        """(P, P, 3) float32 unit vectors."""
        x, y = np.meshgrid(*[np.arange(-self.pixels, self.pixels + 1) * self.step] * 2, indexing="ij")
        azimuth = np.arctan2(y, x)
        first = np.cross(self.axis, [0.0, 1, 0] if abs(self.axis[1]) < 0.8 else [1.0, 0, 0])
        first /= np.linalg.norm(first)
        second = np.cross(self.axis, first)
        sine = np.sin(self.polar)[..., None]
        flat = np.cos(azimuth)[..., None] * first + np.sin(azimuth)[..., None] * second
        return (np.cos(self.polar)[..., None] * self.axis + sine * flat).astype(np.float32)

    def at(self, radius: np.ndarray) -> np.ndarray:
        """(P, P, 3) points in RAS mm at a radius (P, P) in mm on each ray."""
        return self.centre + radius[..., None] * self.directions

    def cosine(self, radius: np.ndarray) -> np.ndarray:
        """(P, P) cosine between ray and surface normal where the surface is at a radius (P, P) without gaps."""
        smooth = ndimage.gaussian_filter(radius, 2.0)
        slope = np.hypot(*np.gradient(smooth)) / (self.step * np.maximum(smooth, 1.0))
        return 1 / np.sqrt(1 + slope**2)


@dataclass(frozen=True)
class Layer:
    """Where the rays of a chart meet a mask.

    Parameters
    ----------
    inner, outer : (P, P) array
        Radius in mm where the mask starts and ends on each ray; nan where the ray misses it.
    """

    inner: np.ndarray
    outer: np.ndarray

    @property
    def hit(self) -> np.ndarray:
        """(P, P) bool, the rays that meet the mask."""
        return np.isfinite(self.outer)


def cast(
    chart: Chart, fraction: Fraction, low: np.ndarray, high: np.ndarray, where: np.ndarray, level: float = LEVEL
) -> Layer:
    """Where the rays of a chart enter and leave a mask, between two radii.

    Parameters
    ----------
    chart : Chart
        The rays.
    fraction : Fraction
        Fractions of the mask.
    low, high : (P, P) array
        Radii in mm between which a ray is followed.
    where : (P, P) bool array
        The rays to follow.
    level : float
        Fraction on the surface.

    Returns
    -------
    Layer
    """
    inner, outer = (np.full(where.shape, np.nan) for _ in range(2))
    if not where.any():
        return Layer(inner, outer)
    low, span = low[where], (high - low)[where]
    count = max(2, int(np.ceil(span.max() / STEP_MM)) + 1)
    radii = (low[:, None] + np.arange(count) * STEP_MM).astype(np.float32)
    points = chart.centre.astype(np.float32) + radii[..., None] * chart.directions[where][:, None]
    values = fraction.sample(points)
    values[radii > (low + span)[:, None] + STEP_MM] = 0
    inside = values >= level
    hit = inside.any(1)
    rows = np.flatnonzero(hit)
    first, last = inside[hit].argmax(1), count - 1 - inside[hit][:, ::-1].argmax(1)

    def crossing(here: np.ndarray, outwards: int) -> np.ndarray:
        beyond = np.clip(here + outwards, 0, count - 1)
        value, other = values[rows, here], values[rows, beyond]
        share = np.where(beyond == here, 0.0, (value - level) / np.maximum(value - other, 1e-6))
        return radii[rows, here] + outwards * STEP_MM * share

    hit = np.asarray(hit)
    inner[where] = _spread(hit, crossing(first, -1))
    outer[where] = _spread(hit, crossing(last, 1))
    return Layer(inner, outer)


def _spread(hit: np.ndarray, values: np.ndarray) -> np.ndarray:
    out = np.full(len(hit), np.nan)
    out[hit] = values
    return out


def filled(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """An array with the value of the nearest known pixel wherever it is unknown; unchanged if nothing is known."""
    if known.all() or not known.any():
        return values
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return values[tuple(nearest)]


def smoothed(values: np.ndarray, known: np.ndarray, pixels: float) -> np.ndarray:
    """Gaussian mean of the known values, continued where nothing is known."""
    weight = ndimage.gaussian_filter(known.astype(np.float32), pixels)
    mean = ndimage.gaussian_filter(np.where(known, values, 0.0), pixels) / np.maximum(weight, 1e-6)
    return filled(mean, weight > 0.02)


def vault_centre(points: np.ndarray) -> np.ndarray:
    """Centre (3,) of the vault from points of the bone (N, 3), RAS mm."""
    top = np.percentile(points[:, 2], 99.9)
    upper = points[points[:, 2] > top - 95]
    low, high = np.percentile(upper, [1, 99], axis=0)
    return np.array([*(low + high)[:2] / 2, top - BELOW_VERTEX_MM])
