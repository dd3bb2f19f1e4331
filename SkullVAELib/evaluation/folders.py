"""Scores folders of predicted implants against folders of true implants, as a table and as JSON."""

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

# Maximum distance of corresponding corners of one grid, in voxels. Headers differ by rounding: NIfTI stores 32 bits,
# which can move a far corner by a few hundredths of a voxel.
_SAME_GRID = 0.1

_MEASURES = ("dsc", "bdsc", "hd95_mm")

_IMPLANT = "implant"
_SKULL = ("defective_skull", "defective", "input")
_OTHER = ("complete_skull", "complete", "completed")


@dataclass(frozen=True)
class CaseScore:
    """The measures of one case.

    Attributes
    ----------
    case : str
        Name of the case.
    dsc : float
        Dice similarity coefficient, 0 to 1.
    bdsc : float or None
        Boundary Dice, 0 to 1; None without a defective skull.
    hd95_mm : float
        95th percentile Hausdorff distance in mm; infinite for an empty prediction.
    truth_ml, prediction_ml : float
        Volumes of the implants.
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
    """Score the implants in one folder against those of the same names in another.

    Nothing is resampled.

    Parameters
    ----------
    truth, prediction : Path
        Folders in any layout of `find_implants`: flat (NNN.nrrd), one folder per case (NNN/implant.nrrd, as `complete`
        writes), or that of SkullFix and SkullBreak (implant/[site/]NNN.nrrd). The defective skull for bDSC is
        defective_skull/[site/]NNN in `truth`, or next to the implant there.
    report : callable, optional
        Called with the name of each case and the fraction done when the case begins.

    Returns
    -------
    list of CaseScore
        The scores, in the order of `find_implants`.

    Raises
    ------
    SkullVAEError
        There are no implants, a case has no prediction (omitting it would bias the mean), or grids differ.
    """
    truths, predictions = find_implants(truth), find_implants(prediction)
    if not truths:
        raise SkullVAEError(f"No implants were found in '{truth}'", f"Put {', '.join(SUFFIXES)} files there")
    missing = [case for case in truths if case not in predictions]
    if missing:
        raise SkullVAEError(
            f"{len(missing)} of {len(truths)} cases have no prediction in '{prediction}'; the first is '{missing[0]}'",
            "Predict them, or remove them from the folder of true implants",
        )
    skulls = _find_skulls(Path(truth))
    scores = []
    for index, (case, path) in enumerate(truths.items()):
        report(case, index / len(truths))
        scores.append(_score(case, path, predictions[case], skulls.get(case)))
    return scores


def find_implants(folder: Path) -> dict[str, Path]:
    """Return the implants in a folder; completed and defective skulls in it are ignored.

    Parameters
    ----------
    folder : Path
        Flat, with a folder per case, or in the layout of SkullFix and SkullBreak.

    Returns
    -------
    dict of str to Path
        File by case name, sorted by name. The name is the path below the folder (below its folder `implant`, if it has
        one) without the suffix and without a file name `implant`.

    Raises
    ------
    SkullVAEError
        The folder does not exist, or two files are of one case.
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
        # Hidden folders contain unfinished results of a run.
        if suffix is None or not path.is_file() or any(part.startswith(".") for part in parts):
            continue
        parts = (*parts[:-1], path.name[: -len(suffix)])
        if not wanted(parts):
            continue
        case = "/".join(parts[:-1] if parts[-1] in (_IMPLANT, *_SKULL) else parts) or _IMPLANT
        if case in found:
            raise SkullVAEError(
                f"'{found[case]}' and '{path}' have the same case name '{case}'", "Keep one of the files"
            )
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
    """Raise SkullVAEError unless both volumes are on the same grid."""
    corners = np.array(list(product((0, 1), repeat=3))) * truth.array.shape
    apart_mm = np.abs((truth.affine - other.affine) @ np.column_stack((corners, np.ones(8))).T).max()
    if truth.array.shape != other.array.shape or apart_mm > _SAME_GRID * truth.spacing.min():
        raise SkullVAEError(
            f"'{path}' is not on the same grid as '{truth_path}'",
            "Write the prediction on the grid of the input; nothing is resampled here",
        )


def summary(scores: list[CaseScore], statistic: Callable[[list[float]], float]) -> dict[str, float | None]:
    """Return a statistic of each measure.

    Parameters
    ----------
    scores : list of CaseScore
        The scores.
    statistic : callable
        Such as `statistics.fmean` or `statistics.median`.

    Returns
    -------
    dict of str to float or None
        By measure; None for bDSC unless every case has it.
    """
    columns = {measure: [getattr(score, measure) for score in scores] for measure in _MEASURES}
    return {measure: None if None in values else statistic(values) for measure, values in columns.items()}


def notes(scores: list[CaseScore]) -> list[str]:
    """Return remarks on the scores: cases without bDSC, and empty implants."""
    remarks = []
    without = sum(score.bdsc is None for score in scores)
    if without:
        remarks.append(
            f"bDSC is missing for {without} of {len(scores)} cases: there is no defective skull in the folder of true"
            " implants (defective_skull/CASE or CASE/defective_skull)."
        )
    empty = sum(math.isinf(score.hd95_mm) for score in scores)
    if empty:
        remarks.append(
            f"{empty} of {len(scores)} cases have an empty prediction or truth: their HD95 and its mean are infinite."
        )
    return remarks


def score_table(scores: list[CaseScore]) -> str:
    """Return the scores as a text table: one line per case, then mean and median."""
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
    """Return the scores as plain values.

    Parameters
    ----------
    scores : list of CaseScore
        The scores.

    Returns
    -------
    dict
        {"cases": [...], "mean": {...}, "median": {...}, "notes": [...]}. JSON has no infinity, so an infinite HD95 is
        None, as is a missing bDSC; "notes" states which.
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
        raise SkullVAEError(f"'{folder}' is not a folder", "Give a folder with implants")
    return folder
