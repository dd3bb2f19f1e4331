"""The three measures computed by SimpleITK's filters alone, without evaluation/metrics.py: do they agree?"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from SkullVAELib.evaluation.metrics import boundary_dice, dice, hd95

from .cases import cut_place
from .contest import Job, load_mask, load_whole


def measures(truth: np.ndarray, prediction: np.ndarray, bone: np.ndarray, spacing: np.ndarray) -> dict[str, float]:
    """DSC, bDSC and HD95 (mm) of bool arrays of one shape, none of them empty; spacing: (3,) mm."""
    first, second, skull = (_image(mask, spacing) for mask in (truth, prediction, bone))
    near = _distance(skull) <= 10.0
    return {
        "dsc": _overlap(first, second),
        "bdsc": _overlap(first & near, second & near),
        "hd95_mm": _percentile(first, second),
    }


def _image(mask: np.ndarray, spacing: np.ndarray) -> sitk.Image:
    # A voxel of air all around: contours end at the array's edge.
    image = sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8).transpose(2, 1, 0))
    image.SetSpacing([float(s) for s in spacing])
    return image


def _distance(image: sitk.Image) -> sitk.Image:
    """Distance in mm to the nearest voxel that is not 0."""
    return sitk.Maximum(sitk.SignedMaurerDistanceMap(image, False, False, True), 0.0)


def _overlap(first: sitk.Image, second: sitk.Image) -> float:
    found = sitk.LabelOverlapMeasuresImageFilter()
    found.Execute(first, second)
    return found.GetDiceCoefficient(1)


def _percentile(first: sitk.Image, second: sitk.Image) -> float:
    # Six neighbours decide, as in the challenge.
    contours = [image - sitk.BinaryErode(image, [1] * 3, sitk.sitkCross, 0, 1, False) for image in (first, second)]
    fields = [sitk.GetArrayFromImage(_distance(contour)) for contour in contours]
    masks = [sitk.GetArrayFromImage(contour) > 0 for contour in contours]
    return float(np.percentile(np.hstack((fields[1][masks[0]], fields[0][masks[1]])), 95))


def disagreement(job: Job, row: str) -> dict[str, float]:
    """How far both computations are apart on a finished case's implant; nothing when there is none."""
    prediction = load_mask(job.mask(row))
    if not prediction.any():
        return {}
    whole, bone, truth = cut_place(load_whole(job.file), job.number)
    other = measures(truth, prediction, bone, whole.spacing)
    own = {
        "dsc": dice(truth, prediction),
        "bdsc": boundary_dice(truth, prediction, bone, whole.spacing),
        "hd95_mm": hd95(truth, prediction, whole.spacing),
    }
    return {name: abs(own[name] - other[name]) for name in own}
