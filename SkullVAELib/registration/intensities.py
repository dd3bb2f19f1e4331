"""The scale of a CT's values, recognised by the peaks of air and soft tissue and the range of bone in its histogram.

A CT in Hounsfield units has two narrow peaks, air at -1000 and soft tissue (brain, muscle) at about 40, a few percent
of bone above them and little between them. Stored values without the rescaling of the DICOM header have the same peaks
1024 higher; other errors change their distance. Where the peaks are not clear, as in a CT whose air was masked, nothing
is concluded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.volume import Volume

AIR_HU, SOFT_HU, BONE_HU = -1000.0, 40.0, 300.0
"""Values of air and of soft tissue, and the default threshold of bone."""

# Sampled voxels are sufficient for a histogram.
_MOST_SAMPLES = 400_000
_MOST_LABELS = 64

# Ranges of the peaks of a CT in HU: the air of sharp kernels is at -1040, and soft tissue that is mostly fat at -100.
_PLAIN_AIR = (-1100.0, -880.0)
_PLAIN_SOFT = (-130.0, 120.0)

# A slope this near to 1 is that of a CT with another offset, and offsets up to this many HU are not corrected.
_PURE_OFFSET = 0.07
_SMALLEST_OFFSET = 150.0

# Scales whose slope is between these are used as they are, with a warning: cone-beam CT is calibrated no better.
_NEARLY = (0.75, 1.35)

# The offsets of customary scales, by preference: an offset this near to one is taken to be that.
_CUSTOMARY = (1024.0, 1000.0, -1000.0, -1024.0, 2048.0)
_NEAR_CUSTOMARY = 30.0

_BINS = 400
_SMOOTHING_BINS = 3.0
# Least shares of all samples in the peaks, and the depth of the valley between them relative to the lower peak.
_LEAST_AIR, _LEAST_SOFT = 0.02, 0.06
_VALLEY = 0.4
# A peak is one value if this share of its voxels has it: padding, or air that was clipped.
_ONE_VALUE = 0.8
# Largest share of voxels below the value of padding.
_BELOW_PADDING = 0.01
# Greatest full width at half maximum of the soft tissue's peak, relative to the distance of the peaks, and the shares
# of voxels between and above the peaks, relative to the soft tissue.
_WIDEST = 0.25
_MOST_BETWEEN = 0.5
_LEAST_BONE, _MOST_BONE = 0.02, 0.8
# Median of the bone above soft tissue, relative to the distance of the peaks: 0.45 to 1.15 of 1040 HU. It is larger if
# the lower peak is not air but padding that is nearer, or clipped values.
_BONE_MEDIAN = (0.35, 1.2)
_CLIPPED_MEDIAN = 1.0


@dataclass(frozen=True)
class Scale:
    """How the values of a CT depend on Hounsfield units: value = slope * HU + offset.

    Attributes
    ----------
    air, soft : float
        Values of the two peaks.
    """

    air: float
    soft: float

    @property
    def slope(self) -> float:
        """Values per HU."""
        return (self.soft - self.air) / (SOFT_HU - AIR_HU)

    @property
    def is_plain(self) -> bool:
        """Whether the values are Hounsfield units."""
        plain = _PLAIN_AIR[0] <= self.air <= _PLAIN_AIR[1] and _PLAIN_SOFT[0] <= self.soft <= _PLAIN_SOFT[1]
        return plain or (self.is_pure_offset and abs(self._mean_offset) < _SMALLEST_OFFSET)

    @property
    def is_pure_offset(self) -> bool:
        """Whether the values differ from Hounsfield units by an offset alone."""
        return abs(self.slope - 1) <= _PURE_OFFSET

    @property
    def offset(self) -> float:
        """The offset of values whose slope is 1, in whole HU."""
        near = [offset for offset in _CUSTOMARY if abs(offset - self._mean_offset) <= _NEAR_CUSTOMARY]
        return near[0] if near else float(round(self._mean_offset))

    @property
    def _mean_offset(self) -> float:
        return ((self.air - AIR_HU) + (self.soft - SOFT_HU)) / 2

    def value_of(self, hounsfield: float) -> float:
        """The value that a number of HU has on this scale."""
        return hounsfield + self.offset if self.is_pure_offset else self.soft + (hounsfield - SOFT_HU) * self.slope

    def __str__(self) -> str:
        return (
            f"air is at {self.air:.0f} instead of {AIR_HU:.0f}, and soft tissue at {self.soft:.0f} instead of"
            f" {SOFT_HU:.0f}"
        )


def resolve_threshold(volume: Volume, threshold_hu: float | None) -> tuple[Volume, float | None]:
    """The threshold of bone on the scale of an image's own values.

    Parameters
    ----------
    volume : Volume
        CT or segmentation.
    threshold_hu : float, optional
        The threshold that the user gave, which is never changed.

    Returns
    -------
    volume : Volume
        With a warning if its values are not Hounsfield units.
    threshold : float or None
        300 HU in the values of a CT that differ from Hounsfield units by an offset; otherwise `threshold_hu`.

    Raises
    ------
    SkullVAEError
        No threshold was given, and the values of the CT are clearly on another scale.
    """
    scale = recognised_scale(volume.array)
    if scale is None or scale.is_plain:
        return volume, threshold_hu
    bone = scale.value_of(BONE_HU)
    if threshold_hu is not None:
        warning = (
            f"The values are not Hounsfield units: {scale}. The threshold of {threshold_hu:g} was applied to them as"
            f" they are; 300 HU is about {bone:.0f} on this scale."
        )
    elif scale.is_pure_offset:
        warning = (
            f"The values are Hounsfield units with an offset of {scale.offset:+.0f}: {scale}. This was corrected: bone"
            f" is from {bone:.0f} on, which is 300 HU. Check the threshold, or give another with --threshold."
        )
        threshold_hu = bone
    elif _NEARLY[0] <= scale.slope <= _NEARLY[1] and _PLAIN_SOFT[0] <= scale.soft <= _PLAIN_SOFT[1]:
        warning = (
            f"The values are not exact Hounsfield units, as in a cone-beam CT: {scale}. The threshold of {BONE_HU:g}"
            f" was applied to them as they are; 300 HU is about {bone:.0f} here. Check it, or give --threshold."
        )
    elif volume.array.min() >= 0:
        # An MRI may have two such peaks, too.
        return volume, threshold_hu
    else:
        raise SkullVAEError(
            f"The values are not Hounsfield units but about {scale.slope:.2g} times as large: {scale}",
            f"Rescale them, or give the threshold of bone on their scale: 300 HU is about --threshold {bone:.0f}",
        )
    return replace(volume, warnings=(*volume.warnings, warning)), threshold_hu


def recognised_scale(array: np.ndarray) -> Scale | None:
    """The scale of an image's values.

    Parameters
    ----------
    array : numpy.ndarray
        Voxels of a CT, finite numbers.

    Returns
    -------
    Scale or None
        None where the histogram is not clearly that of a CT of a head with air.
    """
    every = max(1, int(np.ceil((array.size / _MOST_SAMPLES) ** (1 / 3))))
    # One of the upper voxels of each block, so that a last incomplete block at the image's edge does not matter.
    samples = array[::every, ::every, ::every].astype(np.float64).ravel()
    if not np.isfinite(samples).all():
        return None
    low, high = np.percentile(samples, (0, 99.8))
    if not _is_range(low, high):
        return None
    values, counts = np.unique(samples, return_counts=True)
    if len(values) <= _MOST_LABELS:
        return None
    # Padding below air is so far away that it would coarsen the bins: it is left out, and kept if nothing else is air.
    common = counts.argmax()
    below = counts[:common].sum() / counts.sum()
    padded = counts[common] / counts.sum() > _LEAST_AIR and below < _BELOW_PADDING and common < len(values) - 1
    scale = _two_peaks(samples[samples > values[common]], high) if padded else None
    return scale or _two_peaks(samples, high)


def _two_peaks(samples: np.ndarray, high: float) -> Scale | None:
    """The peaks of air and soft tissue in a histogram up to `high`, if they are those of a CT of a head."""
    low = float(samples.min())
    if not _is_range(low, high):
        return None
    counts, edges = np.histogram(samples[samples <= high], bins=_BINS, range=(low, high))
    centres, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    padding = 4 * int(_SMOOTHING_BINS)
    smooth = ndimage.gaussian_filter1d(np.pad(counts.astype(float), padding), _SMOOTHING_BINS)[padding:-padding]
    peaks = _separate_peaks(smooth)
    if len(peaks) < 2:
        return None
    parts = [_Peak.of(samples, centres, smooth, peak, width) for peak in peaks]
    soft = max(parts[1:], key=lambda part: part.share)
    air = max(parts[: parts.index(soft)], key=lambda part: part.share)
    gap = soft.value - air.value
    between = _share(samples, air.value + 0.15 * gap, soft.value - 0.2 * gap)
    bone = samples[samples > soft.value + 0.25 * gap]
    bone_share = len(bone) / len(samples)
    if not bone_share or _is_one_value(bone):  # padding of an inverted image, or bone of a windowed one
        return None
    if not (
        air.share >= _LEAST_AIR
        and soft.share >= _LEAST_SOFT
        and soft.width <= _WIDEST * gap
        and not soft.is_one_value
        and between <= _MOST_BETWEEN * soft.share
        and _LEAST_BONE * soft.share <= bone_share <= _MOST_BONE * soft.share
        and _BONE_MEDIAN[0] <= (float(np.median(bone)) - soft.value) / gap <= _BONE_MEDIAN[1]
    ):
        return None
    scale = Scale(air.value, soft.value)
    # A single value below soft tissue may be padding, which is lower than air, or the end of a range that was clipped
    # above air: then bone is higher relative to the distance of the peaks.
    clipped = (float(np.median(bone)) - soft.value) / gap > _CLIPPED_MEDIAN
    if air.is_one_value and (scale.slope > 1 + _PURE_OFFSET or clipped):
        return None
    return scale


def _is_range(low: float, high: float) -> bool:
    """Whether a histogram can be made of a range."""
    size = max(abs(low), abs(high))
    return 1e-100 < size < 1e100 and high - low > 1e-6 * size


@dataclass(frozen=True)
class _Peak:
    """A peak of the histogram: its value, share of all samples, full width at half maximum, and whether nearly all of
    its voxels have one value."""

    value: float
    share: float
    width: float
    is_one_value: bool

    @classmethod
    def of(cls, samples: np.ndarray, centres: np.ndarray, smooth: np.ndarray, peak: int, width: float) -> _Peak:
        half = smooth[peak] / 2
        left, right = peak, peak
        while left > 0 and smooth[left - 1] > half:
            left -= 1
        while right < len(smooth) - 1 and smooth[right + 1] > half:
            right += 1
        inside = samples[(samples >= centres[left] - width) & (samples <= centres[right] + width)]
        _, counts = np.unique(inside, return_counts=True)
        share = len(inside) / len(samples)
        return cls(
            float(np.median(inside)), share, (right - left + 1) * width, counts.max() >= _ONE_VALUE * len(inside)
        )


def _is_one_value(samples: np.ndarray) -> bool:
    """Whether nearly all samples have the same value."""
    _, counts = np.unique(samples, return_counts=True)
    return bool(counts.max() >= _ONE_VALUE * len(samples))


def _separate_peaks(smooth: np.ndarray) -> list[int]:
    """Bins of the maxima that are separated by valleys, ascending."""
    padded = np.pad(smooth, 1, constant_values=-1.0)
    maxima = np.flatnonzero((padded[1:-1] > padded[:-2]) & (padded[1:-1] >= padded[2:]))
    kept: list[int] = []
    for peak in (int(peak) for peak in maxima):
        if not kept:
            kept.append(peak)
            continue
        valley = smooth[kept[-1] : peak].min()
        if valley <= _VALLEY * min(smooth[kept[-1]], smooth[peak]):
            kept.append(peak)
        elif smooth[peak] > smooth[kept[-1]]:
            kept[-1] = peak
    return kept


def _share(samples: np.ndarray, low: float, high: float) -> float:
    """Share of the samples between two values."""
    return float(np.count_nonzero((samples > low) & (samples < high)) / len(samples))
