"""Finding skulls: a plain folder of them, the AutoImplant challenges' layouts, the original code's, a JSON list.

Class and individual come from folders or the list, never from file order.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import SkullVAEError
from .volume import SUFFIXES

LAYOUTS = "complete skulls in one folder; complete_skull/ with defective_skull/; train/{input,gt}/; or a JSON data list"

LIST = "datalist.json"
"""A folder's own data list; where there is one, it says everything."""

TRAINING, HELD_OUT = "training", "held-out"


@dataclass(frozen=True)
class Case:
    """One complete skull, or one defective skull with its truth.

    individual: whose head it is, and by it cases are split; "a+b" is drawn from both a and b. split: "training" or
    "held-out" where the data say so themselves.
    """

    individual: str
    complete: Path
    defective: Path | None = None
    kind: str = "complete"
    split: str | None = None

    @property
    def parents(self) -> frozenset[str]:
        """The individuals that it was drawn from.

        >>> sorted(Case("colin27+mgh_dca", Path("000.nrrd")).parents)
        ['colin27', 'mgh_dca']
        """
        return frozenset(self.individual.split("+"))


def stem(path: Path) -> str:
    """A file's name without any of the image suffixes.

    >>> stem(Path("a/visible_human.nii.gz"))
    'visible_human'
    """
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(SUFFIXES) and p.name[0] != ".")


def find_cases(data: Path) -> list[Case]:
    """Cases of a folder in any known layout, or of a JSON list of {"complete", "defective", "individual", "kind"}.

    Raises SkullVAEError when nothing is found or a defective skull has no complete one.
    """
    data = Path(data)
    if data.is_file() and data.suffix == ".json":
        return _from_list(data)
    if not data.is_dir():
        raise SkullVAEError(f"The data folder '{data}' does not exist", "Check the path")
    if (data / LIST).is_file():
        return _from_list(data / LIST)
    for root in (data, data / "training_set"):
        if (root / "complete_skull").is_dir():
            return _from_challenge(root)
    if (data / "train" / "gt").is_dir():
        return _from_original(data / "train")
    cases = [Case(stem(p), p) for p in _images(data)]
    if not cases:
        raise SkullVAEError(f"No skulls were found in '{data}'", f"Give {LAYOUTS}")
    return cases


def split(
    cases: list[Case], holdout: tuple[str, ...] = (), log: Callable[[str], None] | None = None
) -> tuple[list[Case], list[Case]]:
    """Training and held-out cases, split by individual: no skull drawn from a held-out head is trained on.

    Held out is whom `holdout` names and whom the cases' own split holds out. A skull drawn from heads on both sides
    (of "a+b" only a is held out) belongs to neither: it is left out and `log` is told; without a log it is an error.

    Raises SkullVAEError when an individual to hold out is unknown, when none would be left to train on, and when the
    cases' own split has an individual on both sides.
    """
    known = set().union(*(c.parents for c in cases))
    if unknown := set(holdout) - known:
        raise SkullVAEError(f"There is no individual '{sorted(unknown)[0]}'", f"Choose from {', '.join(sorted(known))}")
    check_split(cases)
    held = set(holdout).union(*(c.parents for c in cases if c.split == HELD_OUT))
    training = [c for c in cases if not c.parents & held]
    held_out = [c for c in cases if c.parents <= held]
    mixed = [c for c in cases if c.parents & held and c.parents - held]
    if mixed and log is None:
        raise SkullVAEError(
            f"'{mixed[0].complete}' is drawn from '{mixed[0].individual}', of whom only some are held out",
            "Hold out all of them, or draw a set with this --holdout",
        )
    if not training:
        raise SkullVAEError("Every individual is held out", "Hold out fewer")
    if mixed:
        log(f"{len(mixed)} cases are left out: they are drawn from individuals of whom only some are held out")
    return training, held_out


def check_split(cases: list[Case]) -> None:
    """Raise SkullVAEError, naming the file, when the cases' own split has an individual on both sides."""
    first: dict[str, Case] = {}
    for case in cases:
        for parent in sorted(case.parents) if case.split is not None else ():
            other = first.setdefault(parent, case)
            if other.split != case.split:
                raise SkullVAEError(
                    f"The individual '{parent}' is {other.split} in '{other.complete}' and {case.split} in"
                    f" '{case.complete}'",
                    "Put all skulls of one individual on one side",
                )


def _from_challenge(root: Path) -> list[Case]:
    complete = {stem(p): p for p in _images(root / "complete_skull")}
    cases = [Case(name, path) for name, path in complete.items()]
    defective = root / "defective_skull"
    folders = [(defective, "cranial")] if defective.is_dir() else []
    folders += [(sub, sub.name) for sub in sorted(defective.iterdir()) if sub.is_dir()] if folders else []
    for folder, kind in folders:
        for path in _images(folder):
            if stem(path) not in complete:
                raise SkullVAEError(f"'{path}' has no complete skull of the same name", "Add it or remove the file")
            cases.append(Case(stem(path), complete[stem(path)], path, kind))
    if not cases:
        raise SkullVAEError(f"No skulls were found in '{root}'", f"Give {LAYOUTS}")
    return cases


def _from_original(root: Path) -> list[Case]:
    truth = {p.name: p for p in _images(root / "gt")}
    cases = []
    for path in _images(root / "input"):
        if path.name not in truth:
            raise SkullVAEError(f"'{path}' has no file of the same name in gt/", "Add it or remove the file")
        cases.append(Case(stem(path), truth[path.name], path, "unknown"))
    return [Case(stem(p), p) for p in truth.values()] + cases


def _from_list(path: Path) -> list[Case]:
    try:
        entries = json.loads(path.read_text())
        cases = []
        for entry in entries:
            complete = path.parent / entry["complete"]
            defective = path.parent / entry["defective"] if entry.get("defective") else None
            kind = entry.get("kind", "complete" if defective is None else "cranial")
            cases.append(Case(entry.get("individual", stem(complete)), complete, defective, kind, entry.get("split")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        remedy = 'Write [{"complete": "a.nrrd", "individual": "a"}, ...]; defective and kind are optional'
        raise SkullVAEError(f"'{path}' is not a data list", remedy) from error
    missing = [p for c in cases for p in (c.complete, c.defective) if p is not None and not p.is_file()]
    if missing or not cases:
        raise SkullVAEError(
            f"'{path}' names {missing[0] if missing else 'no skull'}, which is not there", "Correct the list"
        )
    return cases
