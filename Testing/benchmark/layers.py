"""Where an implant is wrong: its outer and its inner table apart, seen along lines from the vault's centre.

A Dice says how much is wrong, not what. Both tables too far out is a plate in the wrong place, the inner one alone a
wrong thickness, and lines on which one of the two implants has nothing are a wrong outline.
"""

from __future__ import annotations

import numpy as np

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.distance_field import downsample_mask, surface_points
from SkullVAELib.registration.affine import initial_alignment

from .cases import cut_place
from .contest import Job, load_mask, load_whole

LINES = 30
"""Lines are distinguished by their unit vectors, rounded to 1 / LINES: 2 to 3 mm at the vault."""


def layer_errors(truth: np.ndarray, prediction: np.ndarray, to_vault: np.ndarray) -> dict[str, float]:
    """Errors of an implant in mm, outwards positive, over the lines on which both implants lie.

    truth, prediction: bool arrays, neither empty; to_vault: (4, 4) index -> mm from the vault's centre. outer, inner:
    mean error of either table, outer_size, inner_size: mean of its absolute value; shift: of the plate's middle;
    thicker: of its thickness; lacking, extra: share of lines that only the truth or only the prediction meets.
    """
    first, second = _ends(truth, to_vault), _ends(prediction, to_vault)
    both = [line for line in first if line in second]
    if not both:
        return {}
    ends = np.array([(*first[line], *second[line]) for line in both])
    inner, outer = ends[:, 2] - ends[:, 0], ends[:, 3] - ends[:, 1]
    content = {
        "outer": outer.mean(), "outer_size": np.abs(outer).mean(), "inner": inner.mean(),
        "inner_size": np.abs(inner).mean(), "shift": (outer + inner).mean() / 2, "thicker": (outer - inner).mean(),
        "thickness": (ends[:, 1] - ends[:, 0]).mean(), "lacking": 1 - len(both) / len(first),
        "extra": 1 - len(both) / len(second),
    }  # fmt: skip
    return {name: round(float(value), 3) for name, value in content.items()}


def _ends(mask: np.ndarray, to_vault: np.ndarray) -> dict[tuple[int, ...], tuple[float, float]]:
    """Line -> distance of its innermost and outermost voxel from the vault's centre."""
    at = apply_affine(to_vault, np.argwhere(mask))
    radius = np.linalg.norm(at, axis=1)
    lines = np.round(at / radius[:, None] * LINES).astype(int)
    order = np.lexsort((radius, *lines.T))
    lines, radius = lines[order], radius[order]
    starts = np.r_[True, (lines[1:] != lines[:-1]).any(1)]
    ends = np.r_[starts[1:], True]
    return {
        tuple(line): (low, high)
        for line, low, high in zip(lines[starts].tolist(), radius[starts], radius[ends], strict=True)
    }


def of_job(job: Job, row: str) -> dict[str, float]:
    """The errors of a finished case's implant; nothing when there is none."""
    prediction = load_mask(job.mask(row))
    if not prediction.any():
        return {}
    whole, _, truth = cut_place(load_whole(job.file), job.number)
    to_vault = initial_alignment(surface_points(downsample_mask(whole))[0]) @ whole.affine
    return layer_errors(truth, prediction, to_vault)


def as_text(records: list[dict], errors: list[dict[str, float]]) -> str:
    """A line a case, Markdown."""
    names = ("outer", "outer_size", "inner", "inner_size", "shift", "thicker", "thickness", "lacking", "extra")
    lines = ["| case, mm | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 1)]
    for record, found in zip(records, errors, strict=True):
        if found:
            cells = [f"{found[name]:.0%}" if name in names[-2:] else f"{found[name]:+.2f}" for name in names]
            lines.append(f"| {record['individual']}, {record['defect']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
