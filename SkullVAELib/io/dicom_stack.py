"""The geometry of a stack of parallel DICOM slices, and its pixels on a rectangular grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from SkullVAELib.io.dicom_headers import Slice
from SkullVAELib.io.dicom_pixels import AIR_HU
from SkullVAELib.io.grids import TOLERANCE_MM

MORE_MISSING = 2.1
"""A step between two slices that is longer than this many usual ones lacks more than one slice."""

# One that is longer than this many lacks at least one.
_ONE_MISSING = 1.5

# The step of the grid of an uneven stack is that of its finer part, but not less than this fraction of the usual one.
_LEAST_STEP = 0.5

# Slices at least this thick, relative to the step to the next, leave nothing out.
_COVERING = 0.9

# Slices at an end that a gap separates may be left out if they are no more than this many.
_MOST_OUTER = 3

_LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """Parallel slices of one size and pixel spacing, ordered along their normal, one at each position.

    Attributes
    ----------
    slices : tuple of Slice
        At least two.
    """

    slices: tuple[Slice, ...]

    @cached_property
    def axes(self) -> np.ndarray:
        """(3, 3), LPS: directions along a row, along a column, and the normal, as rows."""
        row, column = np.array(self.slices[0].orientation).reshape(2, 3)
        return np.array([row, column, np.cross(row, column)])

    @cached_property
    def offsets_mm(self) -> np.ndarray:
        """(K, 3) positions of the slices relative to the first, along `axes`."""
        positions = np.array([each.position for each in self.slices])
        return (positions - positions[0]) @ self.axes.T

    @property
    def pixel_mm(self) -> np.ndarray:
        """(2,) distance between pixels along a row and along a column."""
        rows, columns = self.slices[0].spacing or (1.0, 1.0)
        return np.array([columns, rows])

    @cached_property
    def steps_mm(self) -> np.ndarray:
        """(K - 1,) distances between neighbouring slices along the normal."""
        return np.diff(self.offsets_mm[:, 2])

    @property
    def step_mm(self) -> float:
        """The usual distance between slices."""
        return float(np.median(self.steps_mm))

    @property
    def extent_mm(self) -> np.ndarray:
        """(3,) size of the stack along `axes`."""
        size = np.array([self.slices[0].columns, self.slices[0].rows]) * self.pixel_mm
        return np.array([*size, float(self.offsets_mm[-1, 2]) + self.step_mm])

    @property
    def tilt_degrees(self) -> float:
        """Angle between the normal and the direction in which the slices follow each other; 0 for a rectangular
        stack."""
        *across, along = self.offsets_mm[-1]
        return math.degrees(math.atan2(math.hypot(*across), along)) if self.is_shifted else 0.0

    @property
    def is_shifted(self) -> bool:
        """Whether slices are displaced within their plane, as by a tilted gantry."""
        return bool(np.abs(self.offsets_mm[:, :2]).max() > TOLERANCE_MM)

    @property
    def is_uneven(self) -> bool:
        """Whether the distances between slices differ."""
        along = self.offsets_mm[:, 2]
        return bool(np.abs(along - np.linspace(0.0, along[-1], len(along))).max() > TOLERANCE_MM)

    @property
    def orientation(self) -> str:
        """axial, coronal or sagittal, or oblique where the normal is more than 30 degrees from all axes."""
        normal = np.abs(self.axes[2])
        if normal.max() < math.cos(math.radians(30)):
            return "oblique"
        return ("sagittal", "coronal", "axial")[int(normal.argmax())]

    @property
    def covered(self) -> np.ndarray:
        """(K - 1,) bool, whether neighbouring slices are so thick that they leave nothing out."""
        thickness = np.array([each.thickness_mm or 0.0 for each in self.slices])
        return np.minimum(thickness[1:], thickness[:-1]) >= _COVERING * self.steps_mm

    @cached_property
    def missing(self) -> np.ndarray:
        """(K - 1,) int, number of slices that are missing between neighbours."""
        relative = self.steps_mm / self.step_mm
        count = np.where(relative > MORE_MISSING, np.maximum(np.rint(relative) - 1, 2), relative > _ONE_MISSING)
        return np.where(self.covered, 0, count).astype(int)

    def without_outer(self) -> Stack:
        """The stack without up to three slices at each end that a gap of more than one slice separates from it."""
        gaps = np.flatnonzero(self.missing > 1) + 1
        first = max((gap for gap in gaps if gap <= _MOST_OUTER), default=0)
        last = min((gap for gap in gaps if gap >= len(self.slices) - _MOST_OUTER), default=len(self.slices))
        return Stack(self.slices[first:last]) if last - first > 2 * _MOST_OUTER else self

    @property
    def _grid_step_mm(self) -> float:
        """Distance between slices of the rectangular grid: that of the finer part where distances differ."""
        if not self.is_uneven:
            return float(self.offsets_mm[-1, 2]) / (len(self.slices) - 1)
        finer = float(np.quantile(self.steps_mm, 0.2, method="lower"))
        return max(finer, _LEAST_STEP * self.step_mm)

    @cached_property
    def grid(self) -> StackGrid:
        """The rectangular grid that covers all slices."""
        step, along = self._grid_step_mm, self.offsets_mm[:, 2]
        shifts = self.offsets_mm[:, :2] / self.pixel_mm if self.is_shifted else np.zeros((len(self.slices), 2))
        low, high = np.floor(shifts.min(0) + 1e-6).astype(int), np.ceil(shifts.max(0) - 1e-6).astype(int)
        size = np.array([self.slices[0].columns, self.slices[0].rows]) + high - low
        count = math.floor(along[-1] / step + 0.01) + 1
        affine = np.eye(4)
        affine[:3, :3] = self.axes.T * [*self.pixel_mm, step]
        affine[:3, 3] = np.array(self.slices[0].position) + affine[:3, :2] @ low
        return StackGrid((int(size[0]), int(size[1]), count), _LPS_RAS @ affine, shifts - low, along / step)

    @property
    def is_resampled(self) -> bool:
        """Whether the slices do not lie on a rectangular grid as they are."""
        return self.is_shifted or self.is_uneven


@dataclass(frozen=True)
class StackGrid:
    """A rectangular grid, and where slices lie on it.

    Attributes
    ----------
    shape : tuple of int
        (I, J, K): pixels along a row, along a column, slices.
    affine : (4, 4) array
        Voxel index to RAS, mm.
    shifts : (N, 2) array
        Index of the first pixel of each slice along I and J.
    places : (N,) array
        Index of each slice along K.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    shifts: np.ndarray
    places: np.ndarray

    def volume(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Slices (rows, columns) interpolated linearly onto the grid: (I, J, K) int16, -1024 outside the slices."""
        columns, rows, count = self.shape
        volume = np.empty((count, rows, columns), np.int16)
        # Neighbours of each plane of the grid; planes and slices that coincide within 0.1 % are copied.
        after = np.searchsorted(self.places, np.arange(count) - 1e-3).clip(0, len(pixels) - 1)
        placed: dict[int, np.ndarray] = {}
        for plane, upper in enumerate(after):
            lower = upper if upper == 0 or self.places[upper] - plane < 1e-3 else upper - 1
            for unused in [each for each in placed if each not in (lower, upper)]:
                del placed[unused]
            for needed in (lower, upper):
                if needed not in placed:
                    placed[needed] = _shifted(pixels[needed], self.shifts[needed], (rows, columns), AIR_HU)
            if lower == upper:
                volume[plane] = np.rint(placed[upper])
                continue
            weight = (plane - self.places[lower]) / (self.places[upper] - self.places[lower])
            volume[plane] = np.rint((1 - weight) * placed[lower] + weight * placed[upper])
        return volume.transpose(2, 1, 0)

    def on_slices(self, mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
        """A mask (I, J, K) on the slices: (N, rows, columns) bool, where its linear interpolation is at least 0.5."""
        made = np.zeros((len(self.places), rows, columns), bool)
        for index, (place, shift) in enumerate(zip(self.places, self.shifts, strict=True)):
            plane = int(np.clip(math.floor(place + 1e-3), 0, self.shape[2] - 1))
            weight = max(0.0, place - plane) if place - plane > 1e-3 else 0.0
            near = mask[:, :, plane].T
            if weight and plane + 1 < self.shape[2]:
                beyond = mask[:, :, plane + 1].T
                if not (near.any() or beyond.any()):
                    continue
                values = (1 - weight) * near + weight * beyond
            elif not near.any():
                continue
            else:
                values = near.astype(np.float32)
            made[index] = _shifted(values, -shift, (rows, columns), 0.0) >= 0.5 - 1e-6
        return made


def _shifted(image: np.ndarray, shift: np.ndarray, shape: tuple[int, int], beyond: float) -> np.ndarray:
    """An image (rows, columns) displaced by `shift` pixels (along a row, along a column) on a canvas of a shape;
    between pixels it is interpolated linearly."""
    whole = np.floor(np.asarray(shift) + 1e-3).astype(int)
    part = np.where(np.abs(shift - whole) < 1e-3, 0.0, shift - whole)
    result = np.asarray(image, np.float32)
    for axis, fraction in ((1, part[0]), (0, part[1])):
        if fraction:
            widths = [(0, 0), (0, 0)]
            widths[axis] = (1, 1)
            padded = np.pad(result, widths, constant_values=beyond)
            before, after = np.split(padded, [1], axis)[1], np.delete(padded, -1, axis)
            result = ((1 - fraction) * before + fraction * after).astype(np.float32)
    canvas = np.full(shape, beyond, np.float32)
    # The part of the canvas that the image covers, along rows and columns of the array.
    (top, left), size = (whole[1], whole[0]), result.shape
    rows = slice(max(top, 0), max(min(top + size[0], shape[0]), 0))
    columns = slice(max(left, 0), max(min(left + size[1], shape[1]), 0))
    canvas[rows, columns] = result[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return canvas
