"""A case as a CT in thick slices: the errors of the printable implant's surfaces against the removed bone.

The defective skull becomes a synthetic CT in axial slices, which is completed as it is; the truth stays in the skull's
own voxels, so that what the slices lose counts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from SkullVAELib.api import complete
from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.vae.networks import SkullModel

from .hard.images import head_of, in_slices, padded, synthetic_ct
from .hard.judge import covered, surface_errors
from .scores import FOUND, measured

MARGIN_MM = 20.0

HARD = ("images.py", "holes.py", "judge.py")
"""Files of the folder `hard` that a record depends on."""


def sources() -> list[Path]:
    """The files that a record of slices depends on beside those of its row."""
    return [Path(__file__), *(Path(__file__).parent / "hard" / name for name in HARD)]


def as_ct(whole: Volume, bone: np.ndarray, slices_mm: float) -> Volume:
    """A defective skull as a CT in HU, in axial slices; whole, bone: bool on one grid, complete and defective."""
    ct = synthetic_ct(whole.with_array(bone), head_of(whole))
    return in_slices(padded(ct, MARGIN_MM), "axial", slices_mm)


def score_row(
    row: str, model: Callable[[], SkullModel], ct: Volume, truth: Volume, centre: np.ndarray
) -> dict[str, float | bool | None]:
    """Complete a CT with a prior and compare the printable implant with the removed bone.

    centre: (3,) of the vault, RAS mm.
    """
    options = CompletionOptions(prior=row, least_quality=0.0)
    loaded = model()
    kept = []

    def work() -> np.ndarray:
        kept.append(complete(ct, loaded, options, ImplantOptions(clearance_mm=0.0)))
        return kept[0].implant.array

    _, cost = measured(work)
    result = kept[0]
    share = covered(truth, result.implant) if result.found else 0.0
    names = ("outer_mean_mm", "outer_p95_mm", "inner_mean_mm", "inner_p95_mm")
    errors: dict[str, float | None] = dict.fromkeys(names)
    if result.found:
        errors = surface_errors(truth, result.printable.mesh, centre)
    renamed = {name.replace("_mean_mm", "_mm"): value for name, value in errors.items()}
    return {"found": round(share, 4), "missed": share < FOUND} | renamed | cost
