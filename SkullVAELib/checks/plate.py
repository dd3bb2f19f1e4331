"""One component of an implant on its own chart: its edge, its thickness and its outer surface beside the bone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from SkullVAELib.checks.charts import LEVEL, Chart, Layer, cast, filled
from SkullVAELib.checks.fractions import Fraction

NEAR_MM = 3.0
"""Bone within this distance of the edge, mm, closes it."""

SURROUNDING_MM = 15.0
"""Bone within this distance of the implant, mm, is what its thickness is compared with."""

LEAST_STEPS = 10
"""Fewest places at the rim whose steps are judged."""

_FINE_MM, _COARSE_MM, _FINE_EXTENT_MM = 1.25, 2.0, 60.0
_RADIAL_MM = 12.0  # followed inside and outside of the implant
_OVERLAP_MM = 2.0  # bone this far inside or outside of the implant's edge still lies beside it
_BLOCK_MM = 1.5
_FIT_MM = 5.0  # standard deviation of the weights of a local plane
# Where the bone departs from its plane by more (RMS), no step is judged. It is 0.2 to 0.5 mm but at the brow.
_PLANE_MM = 1.0

# A skull's own surface differs from the continuation of the bone around a hole by more, the larger the hole is: mm for
# each mm of radius, measured on holes of 20 to 40 mm in seven skulls.
_USUAL_BULGE = 0.047
# Further from the vertex than this angle, and in front, are the brow and the orbits, which no smooth surface continues.
_BROW_DEG, _BROW_FRONT = 78.0, 0.5
_LEAST_RING, _SPLINE_POINTS, _SPLINE_SMOOTHING = 40, 500, 20.0


@dataclass(frozen=True)
class Plate:
    """A component of an implant, and the bone about it, on a chart about its middle.

    Attributes
    ----------
    chart : Chart
        The rays.
    pixel_mm : float
        Side of a pixel at the implant, mm.
    implant, bone : Layer
        Where the rays meet the implant and the bone of the completed skull.
    inside : (P, P) bool array
        Pixels of the implant.
    beside : (P, P) bool array
        Pixels with bone beside the implant, not further in or out than its edge.
    cosine : (P, P) array
        Between ray and surface normal.
    slack_mm : float
        Added to the distances that count as near: half the coarsest voxel.
    solid : (P, P) bool array
        Pixels where the implant is solid half way between its faces.
    """

    chart: Chart
    pixel_mm: float
    implant: Layer
    bone: Layer
    inside: np.ndarray
    beside: np.ndarray
    cosine: np.ndarray
    slack_mm: float
    solid: np.ndarray

    @classmethod
    def of(cls, centre: np.ndarray, points: np.ndarray, implant: Fraction, bone: Fraction, coarsest_mm: float) -> Plate:
        """The chart of a component.

        Parameters
        ----------
        centre : (3,) array
            Centre of the vault, RAS mm.
        points : (N, 3) array
            Points of the component, RAS mm.
        implant, bone : Fraction
            Of the implant and of the completed skull without it.
        coarsest_mm : float
            Longest side of a voxel of the input.

        Returns
        -------
        Plate
        """
        rays = points - centre
        radii = np.linalg.norm(rays, axis=1)
        rays /= radii[:, None]
        axis = rays.mean(0)
        axis /= np.linalg.norm(axis)
        reach = float(np.arccos(np.clip(rays @ axis, -1, 1)).max())
        middle = float(np.median(radii))
        pixel = _FINE_MM if reach * middle < _FINE_EXTENT_MM / 2 else _COARSE_MM
        chart = Chart.about(centre, axis, pixel / middle, reach + (SURROUNDING_MM + 3) / middle)
        # Radii of the implant on the chart from its own points first, so that rays are followed near it only.
        low = np.full(chart.valid.shape, radii.min() - _RADIAL_MM)
        high = np.full(chart.valid.shape, radii.max() + _RADIAL_MM)
        plate = cast(chart, implant, low, high, chart.valid)
        inside = plate.hit
        if not inside.any():
            return cls(chart, pixel, plate, plate, inside, inside, np.ones(inside.shape), 0.0, inside)
        near_in, near_out = filled(plate.inner, inside), filled(plate.outer, inside)
        found = cast(chart, bone, near_in - _RADIAL_MM, near_out + _RADIAL_MM, chart.valid)
        slack = coarsest_mm / 2
        beside = (
            found.hit & (found.inner <= near_out + _OVERLAP_MM + slack) & (found.outer >= near_in - _OVERLAP_MM - slack)
        )
        surface = np.where(inside, plate.outer, np.where(beside, found.outer, np.nan))
        cosine = chart.cosine(filled(surface, np.isfinite(surface)))
        solid = inside.copy()
        solid[inside] = implant.sample(chart.at((near_in + near_out) / 2)[inside]) >= LEVEL
        return cls(chart, pixel, plate, found, inside, beside, cosine, slack, solid)

    @cached_property
    def away_mm(self) -> np.ndarray:
        """(P, P) distance of each pixel from the implant, mm."""
        return ndimage.distance_transform_edt(~self.inside) * self.pixel_mm

    @property
    def edge(self) -> np.ndarray:
        """(P, P) bool, the outermost pixels of the implant."""
        return self.inside & ~ndimage.binary_erosion(self.inside, np.ones((3, 3)))

    def open_edge(self) -> tuple[int, int]:
        """Pixels of the edge without bone near them, and pixels of the edge."""
        edge = self.edge
        distance = ndimage.distance_transform_edt(~self.beside) * self.pixel_mm
        return int((edge & (distance > NEAR_MM + self.slack_mm + self.pixel_mm)).sum()), int(edge.sum())

    def open_place(self) -> np.ndarray | None:
        """(3,) middle of the open part of the edge, RAS mm; None where the edge is closed."""
        edge = self.edge
        distance = ndimage.distance_transform_edt(~self.beside) * self.pixel_mm
        bare = edge & (distance > NEAR_MM + self.slack_mm + self.pixel_mm)
        return self.chart.at(self.implant.outer)[bare].mean(0) if bare.any() else None

    @cached_property
    def core(self) -> np.ndarray:
        """(P, P) bool, the pixels of the implant away from its edge."""
        depth = ndimage.distance_transform_edt(self.inside) * self.pixel_mm
        return self.inside & (depth > min(4.0, 0.5 * depth.max()))

    @cached_property
    def own_mm(self) -> np.ndarray:
        """(P, P) thickness of the implant along its normal, mm."""
        return (self.implant.outer - self.implant.inner) * self.cosine

    def thickness(self) -> tuple[np.ndarray, np.ndarray]:
        """Thickness in mm along the normal of the implant away from its edge, and of the bone around it."""
        around = self.beside & ~self.inside & (self.away_mm > 3) & (self.away_mm <= SURROUNDING_MM)
        return self.own_mm[self.core], ((self.bone.outer - self.bone.inner) * self.cosine)[around]

    def thickest(self) -> tuple[float, np.ndarray]:
        """Where the implant is thickest and solid, away from its edge.

        Returns
        -------
        thickness : float
            95th percentile, mm; 0 where nothing is solid.
        middle : (N, 3) array
            Points half way between the faces where it is that thick, RAS mm.
        """
        core = self.core & self.solid
        if not core.any():
            return 0.0, np.zeros((0, 3))
        own = self.own_mm[core]
        thickness = float(np.percentile(own, 95))
        middle = self.chart.at((self.implant.outer + self.implant.inner) / 2)[core]
        return thickness, middle[own >= thickness]

    def bulge_mm(self) -> float | None:
        """How far the outer surface bulges or dents, beyond what is usual for an implant of this size.

        The bone within 15 mm is continued by a thin-plate spline. The figure is the 95th percentile of the distance to
        it, less `_USUAL_BULGE` times the radius of a disc of the implant's area. The brow and the orbits are left out.
        None with too little bone around, or where most of the implant is there.
        """
        right, front, up = np.moveaxis(self.chart.directions, -1, 0)
        brow = (up < np.cos(np.radians(_BROW_DEG))) & (front > _BROW_FRONT * np.hypot(right, front))
        measured = self.inside & ~brow
        ring = self.beside & ~self.inside & ~brow & (self.away_mm > _BLOCK_MM) & (self.away_mm <= SURROUNDING_MM)
        if np.count_nonzero(ring) < _LEAST_RING or 2 * np.count_nonzero(measured) < np.count_nonzero(self.inside):
            return None
        places = np.argwhere(ring)
        chosen = np.random.default_rng(0).permutation(len(places))[:_SPLINE_POINTS]
        at, values = places[chosen] * self.pixel_mm, self.bone.outer[ring][chosen]
        continued = _thin_plate(at, values, np.argwhere(measured) * self.pixel_mm)
        distance = np.abs(self.implant.outer[measured] - continued) * self.cosine[measured]
        radius = np.sqrt(np.count_nonzero(self.inside) / np.pi) * self.pixel_mm
        return max(0.0, float(np.percentile(distance, 95)) - _USUAL_BULGE * radius)

    def rim_steps(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps between the outer surface of the implant at its edge and that of the bone, continued.

        Left out are places where the bone itself is not nearly plane, such as the rim of an orbit, unless few others
        are left.

        Returns
        -------
        steps : (N,) array
            Distances in mm.
        places : (N, 3) array
            Where they are, RAS mm.
        """
        # Within a block of an edge the surface of a fraction is rounded.
        margin = max(_BLOCK_MM, 2 * self.slack_mm)
        depth = ndimage.distance_transform_edt(self.inside) * self.pixel_mm
        bone = self.beside & (self.away_mm > margin)
        if not bone.any():
            return np.zeros(0), np.zeros((0, 3))
        away = ndimage.distance_transform_edt(~bone) * self.pixel_mm
        half = self.pixel_mm / 2  # distances on the chart are between centres of pixels
        rim = self.inside & (depth - half > min(margin, 0.4 * depth.max())) & (away - half <= 2.0 + 2 * margin)
        # Under a bevel of the bone the implant is not the outer surface.
        rim &= ~(self.bone.hit & (np.nan_to_num(self.bone.outer) > np.nan_to_num(self.implant.outer)))
        expected, weight, departure = _local_plane(self.bone.outer, bone, _FIT_MM / self.pixel_mm)
        rim &= weight > 0.2
        nearly_plane = rim & (departure * self.cosine < _PLANE_MM)
        if np.count_nonzero(nearly_plane) >= LEAST_STEPS:
            rim = nearly_plane
        steps = np.abs(self.implant.outer - expected) * self.cosine
        return steps[rim], self.chart.at(self.implant.outer)[rim]


def _thin_plate(at: np.ndarray, values: np.ndarray, query: np.ndarray) -> np.ndarray:
    """A smoothing thin-plate spline (Duchon 1977) through values at points (N, 2) in mm, at other points (M, 2)."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = ((a[:, None] - b) ** 2).sum(-1)
        return 0.5 * squared * np.log(np.maximum(squared, 1e-12))

    def terms(a: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ones((len(a), 1)), (a - middle) / 30.0], 1)

    middle = at.mean(0)
    plane = terms(at)
    matrix = np.block([[kernel(at, at) + _SPLINE_SMOOTHING * np.eye(len(at)), plane], [plane.T, np.zeros((3, 3))]])
    weights = np.linalg.solve(matrix, np.concatenate([values, np.zeros(3)]))
    return kernel(query, at) @ weights[:-3] + terms(query) @ weights[-3:]


def _local_plane(values: np.ndarray, known: np.ndarray, pixels: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A plane fitted to the known values about each pixel.

    Returns
    -------
    at, weight, departure : (P, P) arrays
        The plane at that pixel, the share of weight that is known, and the root mean square of the known values'
        distance from the plane.
    """
    w = known.astype(float)
    h = np.where(known, values, 0.0)
    offset = h[known].mean()
    h = (h - offset) * w
    x, y = np.meshgrid(*(np.arange(n) - n / 2 for n in w.shape), indexing="ij")

    def mean(array: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(array, pixels)

    m, mx, my, mxx, mxy, myy = (mean(a) for a in (w, w * x, w * y, w * x * x, w * x * y, w * y * y))
    mh, mhx, mhy, mhh = (mean(a) for a in (h, h * x, h * y, h * h))
    # Moments about the pixel itself, so that the plane's value there is its constant term.
    ax, ay = mx - x * m, my - y * m
    axx, axy, ayy = mxx - 2 * x * mx + x * x * m, mxy - x * my - y * mx + x * y * m, myy - 2 * y * my + y * y * m
    hx, hy = mhx - x * mh, mhy - y * mh
    matrix = np.stack([m, ax, ay, ax, axx, axy, ay, axy, ayy], -1).reshape(*w.shape, 3, 3)
    right = np.stack([mh, hx, hy], -1)[..., None]
    ridge = np.maximum(m, 1e-9)[..., None, None] * np.diag([1e-6, 0.1 * pixels**2, 0.1 * pixels**2])
    plane = np.linalg.solve(matrix + ridge + 1e-12 * np.eye(3), right)
    squares = mhh - (plane * (2 * right - matrix @ plane)).sum((-2, -1))
    departure = np.sqrt(np.maximum(squares, 0) / np.maximum(m, 1e-9))
    return plane[..., 0, 0] + offset, m, departure
