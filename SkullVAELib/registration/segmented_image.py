"""The bone of an image before its registration. It needs no torch, so that it is found while torch is imported."""

from __future__ import annotations

from dataclasses import dataclass

from SkullVAELib.core.progress import report_step
from SkullVAELib.geometry.roi import ROI
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.bone import BoneSegmentation, segment_bone
from SkullVAELib.registration.intensities import resolve_threshold


@dataclass(frozen=True)
class SegmentedImage:
    """An image and its bone.

    Attributes
    ----------
    volume : Volume
        The image, with a warning if its values are not Hounsfield units.
    bone : BoneSegmentation
        Its bone.
    """

    volume: Volume
    bone: BoneSegmentation

    @classmethod
    def of(cls, volume: Volume, threshold_hu: float | None = None, roi: ROI | None = None) -> SegmentedImage:
        """Segment the bone of an image.

        Parameters
        ----------
        volume : Volume
            CT in HU, or a segmentation.
        threshold_hu, roi
            See `bone_mask`.

        Returns
        -------
        SegmentedImage

        Raises
        ------
        SkullVAEError
            If the input has no bone, see `bone_mask` and `resolve_threshold`.
        """
        volume, threshold_hu = resolve_threshold(volume, threshold_hu)
        report_step(0.05)
        return cls(volume, segment_bone(volume, threshold_hu, roi))
