"""What a prediction is judged by, and the record of what has been judged."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.evaluation.metrics import boundary_dice, dice, hd95
from SkullVAELib.geometry.distance_field import surface_points
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume

from .rays import table_errors, usable

RIM_MM = 5.0

FOUND = 0.3
"""Least share of the removed bone that an implant fills where the defect counts as found."""

FALSE_ML = 0.5
"""Least volume of a part of an implant, apart from the removed bone, that counts as a false defect."""


def rim_gap(truth: np.ndarray, prediction: np.ndarray, bone: np.ndarray, affine: np.ndarray) -> float:
    """95th percentile in mm of the mismatch of the completed skull's surface at the rim; infinite without an implant.

    The surfaces of bone with the true and with the predicted implant are compared within RIM_MM of the bone that the
    true implant touches, both ways. What is intact lies there in both, so 0 is a flush fit, whatever the voxel size.
    truth, prediction, bone: bool arrays; affine: (4, 4) index -> mm.
    """
    if not prediction.any():
        return math.inf
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    box = bounding_box(truth, margin=np.ceil((RIM_MM + 5) / spacing).astype(int))
    truth, prediction, bone = truth[box], prediction[box], bone[box]
    here = affine.copy()
    here[:3, 3] = affine[:3, :3] @ [side.start for side in box] + affine[:3, 3]
    rim = np.argwhere(bone & ndimage.binary_dilation(truth)) @ here[:3, :3].T + here[:3, 3]
    if not len(rim):
        return math.inf
    near_rim = cKDTree(rim)
    surfaces = []
    for implant in (truth, prediction):
        soft = ndimage.gaussian_filter((bone | implant).astype(np.float32), 0.6)
        points, _ = surface_points(Volume(soft, here))
        surfaces.append((points, np.isfinite(near_rim.query(points, distance_upper_bound=RIM_MM)[0])))
    (first, first_near), (second, second_near) = surfaces
    there = cKDTree(second).query(first[first_near])[0]
    back = cKDTree(first).query(second[second_near])[0]
    return float(np.percentile(np.hstack((there, back)), 95))


def false_defects(truth: np.ndarray, prediction: np.ndarray, voxel_ml: float) -> int:
    """Number of connected parts of an implant above FALSE_ML that do not touch the removed bone."""
    labels, count = ndimage.label(prediction)
    if not count:
        return 0
    sizes = np.bincount(labels.ravel(), minlength=count + 1) * voxel_ml
    box = bounding_box(truth, margin=1)
    touching = np.unique(labels[box][ndimage.binary_dilation(truth[box])])
    apart = np.setdiff1d(np.arange(1, count + 1), touching)
    return int((sizes[apart] > FALSE_ML).sum())


def score(
    truth: np.ndarray, prediction: np.ndarray, bone: np.ndarray, affine: np.ndarray, centre: np.ndarray
) -> dict[str, float | None]:
    """All measures of an implant; those that an empty prediction leaves infinite are None, for JSON knows no infinity.

    truth, prediction, bone: bool arrays; bone: the defective skull; affine: (4, 4) index -> mm; centre: (3,) of the
    vault, RAS mm.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    voxel_ml = float(abs(np.linalg.det(affine[:3, :3]))) / 1000
    found = float((truth & prediction).sum() / truth.sum())
    measures = {
        "dsc": dice(truth, prediction),
        "bdsc": boundary_dice(truth, prediction, bone, spacing),
        "hd95_mm": hd95(truth, prediction, spacing),
        "rim_gap_mm": rim_gap(truth, prediction, bone, affine),
        "volume_ml": int(prediction.sum()) * voxel_ml,
        "found": found,
    }
    errors = table_errors(truth, prediction, bone, affine, centre)
    return (
        {name: round(value, 4) if math.isfinite(value) else None for name, value in measures.items()}
        | {"missed": found < FOUND, "false_defects": false_defects(truth, prediction, voxel_ml)}
        | errors
        | {"usable": usable(errors)}
    )


def measured(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, dict[str, float | None]]:
    """What a call returns, its wall and processor seconds, and the process's peak memory meanwhile.

    Linux alone can tell the peak of a stretch of time; elsewhere it is None.
    """
    watched = _forget_peak()
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    cost = {
        "seconds": round(time.perf_counter() - wall, 2),
        "processor_seconds": round(time.process_time() - processor, 2),
        "peak_mib": _peak_mib() if watched else None,
    }
    return result, cost


def _forget_peak() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def _peak_mib() -> float | None:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024)
    return None
