"""Which candidate defects are filled: the report's candidates, the user's choices and points; without Qt and scene."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slicer.i18n import tr as _

from SkullVAELib.report.rating import is_doubtful

Point = tuple[float, float, float]

# A candidate is the same as one of an earlier report if their centres are this close, in mm.
_SAME_MM = 2.0
# Thickness of a plate as large as a hole, to estimate its radius from its volume, in mm.
_PLATE_MM = 6.0


@dataclass(frozen=True)
class Choice:
    """A decision of the user on one candidate. centre: its position, RAS mm in the input's own coordinates."""

    centre: Point
    filled: bool

    def isOf(self, candidate: dict) -> bool:
        """Whether this is the decision on a candidate of a report."""
        return math.dist(self.centre, candidate["centre_mm"]) <= _SAME_MM


def readChoices(text: str, source: tuple[str, str]) -> list[Choice]:
    """The choices that `writeChoices` wrote for this input; none for another input, or for text of other origin.

    >>> text = writeChoices([Choice((1.0, 2.0, 3.0), True)], ("vtkMRMLSegmentationNode1", "skull"))
    >>> readChoices(text, ("vtkMRMLSegmentationNode1", "skull"))
    [Choice(centre=(1.0, 2.0, 3.0), filled=True)]
    >>> readChoices(text, ("vtkMRMLSegmentationNode1", "other")), readChoices("", ("", ""))
    ([], [])
    """
    try:
        saved = json.loads(text)
        if tuple(saved["input"]) != source:
            return []
        return [Choice(tuple(map(float, centre)), bool(filled)) for centre, filled in saved["choices"]]
    except (ValueError, KeyError, TypeError):
        return []


def writeChoices(choices: Iterable[Choice], source: tuple[str, str]) -> str:
    """The choices as text; source: node ID and segment ID of their input. Empty without a choice."""
    saved = [[list(choice.centre), choice.filled] for choice in choices]
    return json.dumps({"input": list(source), "choices": saved}) if saved else ""


def withChoice(choices: Sequence[Choice], candidate: dict, filled: bool) -> list[Choice]:
    """The choices with another decision on one candidate."""
    others = [choice for choice in choices if not choice.isOf(candidate)]
    return [*others, Choice(tuple(map(float, candidate["centre_mm"])), filled)]


def agreeing(choices: Sequence[Choice], candidates: Sequence[dict]) -> list[Choice]:
    """The choices without those that a report contradicts, such as after an error or where a point was placed."""
    return [
        choice
        for choice in choices
        if all(choice.filled == bool(entry["filled"]) for entry in candidates if choice.isOf(entry))
    ]


def isFilled(candidate: dict, choices: Sequence[Choice]) -> bool:
    """Whether a candidate is to be filled: the user's decision, otherwise that of the report."""
    return next((choice.filled for choice in choices if choice.isOf(candidate)), bool(candidate["filled"]))


def filledForPoints(candidates: Sequence[dict], points: Iterable[Point]) -> set[int]:
    """The numbers of the filled candidates that points are at, after a run that was given these points.

    A point is at the hole whose edge is nearest, or within which it is deepest; the hole's radius is estimated from its
    volume.
    """
    filled = [entry for entry in candidates if entry["filled"]]

    def outside(entry: dict, point: Point) -> float:
        return math.dist(point, entry["centre_mm"]) - math.sqrt(1000 * entry["volume_ml"] / (_PLATE_MM * math.pi))

    return {min(filled, key=lambda entry: outside(entry, point))["number"] for point in points if filled}


# --------------------------------------------------------------------------------------------------------------------
# Texts


def placeText(candidate: dict) -> str:
    """The centre of a candidate in mm along the patient's axes.

    >>> placeText({"centre_mm": [-31.4, 62.0, 80.2]})
    'L 31, A 62, S 80'
    """
    letters = ("RL", "AP", "SI")
    parts = (f"{pair[value < 0]} {abs(value):.0f}" for pair, value in zip(letters, candidate["centre_mm"], strict=True))
    return ", ".join(parts)


def probabilityText(candidate: dict) -> str:
    """The probability of a candidate, marked if it is doubtful.

    >>> probabilityText({"probability": 0.55}), probabilityText({"probability": 0.996})
    ('55 %, doubtful', '> 99 %')
    """
    probability = candidate.get("probability")
    if probability is None:
        return "-"
    text = f"{100 * probability:.0f} %"
    if probability > 0.99:
        text = "> 99 %"
    elif probability < 0.01:
        text = "< 1 %"
    return _("{probability}, doubtful").format(probability=text) if is_doubtful(probability) else text
