"""Evaluation: folders of predicted implants against folders of true ones, as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, median

import numpy as np

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.evaluation.metrics import boundary_dice, dice, hd95
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import SUFFIXES, read_volume
from SkullVAELib.registration.bone import bone_mask, labelmap_mask

# Headers of one grid differ by rounding only: NIfTI keeps 32 bits, which can move a far corner by some hundredths of a
# voxel.
_SAME_GRID = 0.1

_MEASURES = ("dsc", "bdsc", "hd95_mm")

_IMPLANT = "implant"
_SKULL = ("defective_skull", "defective", "input")
_OTHER = ("complete_skull", "complete", "completed")


@dataclass(frozen=True)
class CaseScore:
    """The measures of one case.

    dsc, bdsc: 0 to 1; hd95_mm: mm, infinite for an empty prediction. bdsc is None when the case has no defective
    skull beside it.
    """

    case: str
    dsc: float
    bdsc: float | None
    hd95_mm: float
    truth_ml: float
    prediction_ml: float


def evaluate_folders(
    truth: Path, prediction: Path, report: Callable[[str, float], None] = lambda case, fraction: None
) -> list[CaseScore]:
    """Score every implant in the folder `truth` by the one of the same name in the folder `prediction`.

    Both may be flat (NNN.nrrd), hold a folder for each case (NNN/implant.nrrd, as `complete` writes), or be laid out
    as SkullFix and SkullBreak are (implant/[site/]NNN.nrrd); see `find_implants`. The defective skull for bDSC is
    looked for in `truth`, in defective_skull/[site/]NNN or beside the implant. `report(case, fraction)` is called
    as each case begins.

    Raises SkullVAEError when a case has no prediction (to drop it would flatter the mean) or when grids differ;
    nothing is ever resampled.
    """
    truths, predictions = find_implants(truth), find_implants(prediction)
    if not truths:
        raise SkullVAEError(f"No implant was found in '{truth}'", f"Put {', '.join(SUFFIXES)} files there")
    missing = [case for case in truths if case not in predictions]
    if missing:
        raise SkullVAEError(
            f"{len(missing)} of {len(truths)} cases have no prediction in '{prediction}', the first is '{missing[0]}'",
            "Predict them, or leave them out of the truth folder",
        )
    skulls = _find_skulls(Path(truth))
    scores = []
    for index, (case, path) in enumerate(truths.items()):
        report(case, index / len(truths))
        scores.append(_score(case, path, predictions[case], skulls.get(case)))
    return scores


def find_implants(folder: Path) -> dict[str, Path]:
    """The implants in a folder: case name -> file, sorted by name.

    The name is the path below the folder (below its `implant` folder, if it has one) without the suffix, and without
    a file name that only says `implant`; completed and defective skulls that lie beside are passed over.
    """
    folder = _existing(folder)
    base = folder / _IMPLANT if (folder / _IMPLANT).is_dir() else folder
    return _by_case(base, lambda parts: not {*_SKULL, *_OTHER} & set(parts))


def _find_skulls(folder: Path) -> dict[str, Path]:
    """The defective skulls that belong to the cases of `find_implants`: case name -> file."""
    if (folder / _SKULL[0]).is_dir():
        return _by_case(folder / _SKULL[0], lambda parts: True)
    return _by_case(folder, lambda parts: parts[-1] in _SKULL)


def _by_case(base: Path, wanted: Callable[[tuple[str, ...]], bool]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(base.rglob("*")):
        suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
        parts = path.relative_to(base).parts
        # Hidden folders hold what a run has not finished.
        if suffix is None or not path.is_file() or any(part.startswith(".") for part in parts):
            continue
        parts = (*parts[:-1], path.name[: -len(suffix)])
        if not wanted(parts):
            continue
        case = "/".join(parts[:-1] if parts[-1] in (_IMPLANT, *_SKULL) else parts) or _IMPLANT
        if case in found:
            raise SkullVAEError(f"'{found[case]}' and '{path}' are both the case '{case}'", "Keep one of them")
        found[case] = path
    return found


def _score(case: str, truth_path: Path, prediction_path: Path, skull_path: Path | None) -> CaseScore:
    truth, prediction = read_volume(truth_path), read_volume(prediction_path)
    _check_grid(truth, truth_path, prediction, prediction_path)
    true = labelmap_mask(truth, f"'{truth_path}'")
    predicted = labelmap_mask(prediction, f"'{prediction_path}'")
    boundary = None
    if skull_path is not None:
        skull = read_volume(skull_path)
        _check_grid(truth, truth_path, skull, skull_path)
        boundary = boundary_dice(true, predicted, bone_mask(skull)[0], truth.spacing)
    return CaseScore(
        case=case,
        dsc=dice(true, predicted),
        bdsc=boundary,
        hd95_mm=hd95(true, predicted, truth.spacing),
        truth_ml=int(true.sum()) * truth.voxel_ml,
        prediction_ml=int(predicted.sum()) * truth.voxel_ml,
    )


def _check_grid(truth: Volume, truth_path: Path, other: Volume, path: Path) -> None:
    """Raise SkullVAEError unless both volumes have the same voxels in the same places."""
    corners = np.array(list(product((0, 1), repeat=3))) * truth.array.shape
    apart_mm = np.abs((truth.affine - other.affine) @ np.column_stack((corners, np.ones(8))).T).max()
    if truth.array.shape != other.array.shape or apart_mm > _SAME_GRID * truth.spacing.min():
        raise SkullVAEError(
            f"'{path}' is not on the grid of '{truth_path}'",
            "Write the prediction on the input's own grid; nothing is resampled here",
        )


def summary(scores: list[CaseScore], statistic: Callable[[list[float]], float]) -> dict[str, float | None]:
    """`statistic` (fmean, median) of each measure; None for bDSC unless every case has it."""
    columns = {measure: [getattr(score, measure) for score in scores] for measure in _MEASURES}
    return {measure: None if None in values else statistic(values) for measure, values in columns.items()}


def notes(scores: list[CaseScore]) -> list[str]:
    """What a reader must know beside the numbers."""
    said = []
    without = sum(score.bdsc is None for score in scores)
    if without:
        said.append(
            f"bDSC is not given for {without} of {len(scores)} cases: their defective skull is not beside the truth"
            " (defective_skull/CASE or CASE/defective_skull)."
        )
    empty = sum(math.isinf(score.hd95_mm) for score in scores)
    if empty:
        said.append(f"{empty} of {len(scores)} predictions or truths are empty: their HD95 is infinite, and its mean.")
    return said


def score_table(scores: list[CaseScore]) -> str:
    """The scores as text: one line a case, then mean and median."""
    rows = [("case", "DSC", "bDSC", "HD95 mm", "true ml", "pred. ml")]
    for score in scores:
        volumes = (f"{score.truth_ml:.1f}", f"{score.prediction_ml:.1f}")
        rows.append((score.case, *_texts(score.dsc, score.bdsc, score.hd95_mm), *volumes))
    for name, statistic in (("mean", fmean), ("median", median)):
        rows.append((name, *_texts(**summary(scores, statistic)), "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join((row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))))
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join(line.rstrip() for line in (lines[0], rule, *lines[1:-2], rule, *lines[-2:], *notes(scores)))


def scores_as_json(scores: list[CaseScore]) -> dict:
    """The scores for json.dumps: {"cases": [...], "mean": {...}, "median": {...}, "notes": [...]}.

    JSON knows no infinity, so an infinite HD95 is null there, as is an unknown bDSC; "notes" says which.
    """

    def plain(value: float | str | None) -> float | str | None:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {
        "cases": [{name: plain(value) for name, value in vars(score).items()} for score in scores],
        "mean": {name: plain(value) for name, value in summary(scores, fmean).items()},
        "median": {name: plain(value) for name, value in summary(scores, median).items()},
        "notes": notes(scores),
    }


def _texts(dsc: float | None, bdsc: float | None, hd95_mm: float | None) -> tuple[str, str, str]:
    dsc_text, bdsc_text = ("-" if value is None else f"{value:.3f}" for value in (dsc, bdsc))
    return dsc_text, bdsc_text, "-" if hd95_mm is None else f"{hd95_mm:.2f}"


def _existing(folder: Path) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise SkullVAEError(f"'{folder}' is not a folder", "Name a folder with implants")
    return folder
