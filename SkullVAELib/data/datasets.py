"""Finding skulls: a plain folder of them, the AutoImplant challenges' layouts, the original code's, a JSON list.

Class and individual come from folders, names, the list or the voxels, never from file order. What is wrong or mixed up
is an error that names the file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.progress import Report, silent
from SkullVAELib.data.kinds import CASE_KINDS, CLASSES
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import SUFFIXES, read_volume
from SkullVAELib.registration.bone import bone_mask

LAYOUTS = "complete skulls in one folder; complete_skull/ with defective_skull/; train/{input,gt}/; or a JSON data list"

LIST = "datalist.json"
"""A folder's own data list; where there is one, it says everything."""

TRAINING, HELD_OUT = "training", "held-out"

COMPLETE, UNKNOWN = "complete", "unknown"

# MONAI's own lists call the second and third part so; neither is trained on.
_LIST_PARTS = {TRAINING: TRAINING, HELD_OUT: HELD_OUT, "validation": HELD_OUT, "testing": HELD_OUT, "test": HELD_OUT}

# SkullFix's, under the names that it is passed on with.
_TEST_FOLDERS = (
    "test_set_for_participants",
    "test_set_give_participants",
    "additional_test_set_for_participants",
)

# What holds something else than complete skulls.
_PARTS = ("defective_skull", "implant", "input", *_TEST_FOLDERS)

# Voxels that two files may disagree in, as a share of the bone: conversion leaves some, a mix-up leaves far more.
_NOISE = 0.001


@dataclass(frozen=True)
class SkullCase:
    """One complete skull, or one defective skull with its truth.

    individual: whose head it is, and by it cases are split; "a+b" is drawn from both a and b. split: "training" or
    "held-out" where the data say so themselves. implant: the piece that is missing, where there is a file of it.
    """

    individual: str
    complete: Path
    defective: Path | None = None
    kind: str = COMPLETE
    split: str | None = None
    implant: Path | None = None

    @property
    def parents(self) -> frozenset[str]:
        """The individuals that it was drawn from.

        >>> sorted(Case("colin27+mgh_dca", Path("000.nrrd")).parents)
        ['colin27', 'mgh_dca']
        """
        return frozenset(self.individual.split("+"))


class SkullCases(list[SkullCase]):
    """The cases of one source. layout says what it was; unpaired: skulls for evaluation only, which have no truth."""

    def __init__(self, cases: Iterable[SkullCase], layout: str = "skulls", unpaired: Iterable[Path] = ()):
        super().__init__(cases)
        self.layout = layout
        self.unpaired = tuple(unpaired)


def stem(path: Path) -> str:
    """A file's name without any of the image suffixes.

    >>> stem(Path("a/visible_human.nii.gz"))
    'visible_human'
    """
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def find_cases(data: Path) -> SkullCases:
    """Cases of a folder in any known layout, or of a JSON list of {"complete", "defective", "individual", "kind"}.

    A folder's own datalist.json comes first. No voxel is read; see check_cases.
    Raises SkullVAEError when nothing is found, a defective skull has no complete one, or a list is wrong.
    """
    data = Path(data)
    if data.is_file() and data.suffix == ".json":
        return _from_list(data)
    if not data.is_dir():
        raise SkullVAEError(f"The data folder '{data}' does not exist", "Check the path")
    if (data / LIST).is_file():
        return _from_list(data / LIST)
    if (data / "population.json").is_file():
        raise SkullVAEError(f"'{data}' lacks its {LIST}, which says whose skulls these are", "Draw the set again")
    for root in (data, data / "training_set"):
        if (root / "complete_skull").is_dir():
            return _with_tests(_from_challenge(root), data)
    for root in (data / "train", data):
        if (root / "gt").is_dir() and (root / "input").is_dir():
            return _from_original(root)
    if data.name in _PARTS:
        raise SkullVAEError(f"'{data}' is one part of a set and holds no complete skulls", "Give the folder above it")
    cases = [SkullCase(stem(p), p) for p in _by_name(data).values()]
    if not cases:
        raise SkullVAEError(f"No skulls were found in '{data}'", f"Give {LAYOUTS}")
    return SkullCases(cases, f"a folder of complete skulls, '{data}'")


def describe(cases: list[SkullCase]) -> str:
    """What was found, in one to three lines: layout, individuals, skulls of each kind, the data's own split.

    >>> print(describe([Case("a", Path("a.nrrd")), Case("a", Path("a.nrrd"), Path("b.nrrd"), "facial")]))
    Found skulls: 1 individual, 1 complete skull, 1 defective (1 facial).
    """
    individuals = len(set().union(*(c.parents for c in cases)))
    complete = len({c.complete for c in cases if c.defective is None})
    kinds = [c.kind for c in cases if c.defective is not None]
    listed = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    counts = [_count(individuals, "individual"), _count(complete, "complete skull")]
    counts += [f"{len(kinds)} defective ({listed})"] if kinds else []
    lines = [f"Found {getattr(cases, 'layout', 'skulls')}: {', '.join(counts)}."]
    sides = {side: [c for c in cases if c.split == side] for side in (TRAINING, HELD_OUT)}
    if any(sides.values()):
        parts = [
            f"{side} {_count(len(own), 'case')} of {_count(len(set().union(*(c.parents for c in own))), 'individual')}"
            for side, own in sides.items()
        ]
        lines.append(f"Split by the data themselves: {', '.join(parts)}.")
    if unpaired := len(getattr(cases, "unpaired", ())):
        lines.append(f"{_count(unpaired, 'skull')} for evaluation only, without a complete one: not trained on.")
    if UNKNOWN in kinds:
        lines.append("Neither folders nor names tell the kind of defect of those called unknown.")
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def split_by_individual(
    cases: list[SkullCase], holdout: tuple[str, ...] = (), log: Callable[[str], None] | None = None
) -> tuple[list[SkullCase], list[SkullCase]]:
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
    if mixed and log is not None:
        log(f"{len(mixed)} cases are left out: they are drawn from individuals of whom only some are held out")
    return training, held_out


def check_split(cases: list[SkullCase]) -> None:
    """Raise SkullVAEError, naming the files, when the cases' own split has an individual on both sides."""
    first: dict[str, SkullCase] = {}
    for case in cases:
        for parent in sorted(case.parents) if case.split is not None else ():
            other = first.setdefault(parent, case)
            if other.split != case.split:
                raise SkullVAEError(
                    f"The individual '{parent}' is {other.split} in '{other.complete}' and {case.split} in"
                    f" '{case.complete}'",
                    "Put all skulls of one individual on one side",
                )


def check_cases(cases: list[SkullCase], report: Report = silent) -> SkullCases:
    """Read every file once and make sure that it is what it is taken for; whoever trains calls this first.

    Returns the cases, the kind of a defect that was "unknown" told by comparing it with its complete skull where that
    tells it (SkullFix's "cranial" and "facial").

    Raises SkullVAEError, naming the file, when one cannot be read, is empty or has several labels; when a defective
    skull or an implant lies on another grid than the complete one; when a defective skull has bone that the complete
    one lacks, or lacks nothing; when an implant is not what is missing; and when one skull goes by two individuals.
    """
    order: dict[Path, list[int]] = {}
    for number, case in enumerate(cases):
        order.setdefault(case.complete, []).append(number)
    checked: list[SkullCase] = list(cases)
    seen: dict = {}
    for done, (path, numbers) in enumerate(order.items()):
        report("check the data", done / len(order))
        complete = read_bone(path)
        key = (complete.array.shape, hashlib.sha256(np.packbits(complete.array).tobytes()).digest())
        for number in numbers:
            case = checked[number]
            other = seen.setdefault(key, case)
            if other.individual != case.individual:
                raise SkullVAEError(
                    f"'{case.complete}' and '{other.complete}' are the same skull but go by two individuals,"
                    f" '{case.individual}' and '{other.individual}'",
                    "Remove one, or give both one individual in a JSON list",
                )
            if case.defective is not None:
                kind = _check_pair(case, complete)
                checked[number] = dataclasses.replace(case, kind=kind if case.kind == UNKNOWN else case.kind)
    report("check the data", 1.0)
    return SkullCases(checked, getattr(cases, "layout", "skulls"), getattr(cases, "unpaired", ()))


def read_bone(path: Path) -> Volume:
    """A file's bone (bool), from a segmentation or a CT.

    Raises SkullVAEError, naming the whole path, where read_volume and bone_mask do: no file, empty, several labels.
    """
    try:
        volume = read_volume(path)
        return volume.with_array(bone_mask(volume)[0])
    except SkullVAEError as error:
        cause = error.cause if str(path) in error.cause else f"'{path}': {error.cause}"
        raise SkullVAEError(cause, error.remedy) from error


def _check_pair(case: SkullCase, complete: Volume) -> str:
    """Check a defective skull and its implant against the complete one; returns the kind that the comparison tells."""
    if case.defective is None:
        raise ValueError("a pair has a defective skull")
    defective = _read_on_grid(case.defective, complete, case)
    allowed = _NOISE * np.count_nonzero(complete.array)
    missing = complete.array & ~defective.array
    extra = np.count_nonzero(defective.array & ~complete.array)
    lacking = np.count_nonzero(missing)
    if lacking == 0 and extra == 0:
        raise SkullVAEError(
            f"'{case.defective}' lacks nothing of '{case.complete}'", "Cut the defect, or list it complete"
        )
    if extra > allowed:
        swapped = " (are they swapped?)" if lacking <= allowed else ""
        raise SkullVAEError(
            f"'{case.defective}' has bone where '{case.complete}' has none{swapped}",
            "Pair each defective skull with its own complete one",
        )
    if case.implant is not None:
        implant = _read_on_grid(case.implant, complete, case)
        if np.count_nonzero(implant.array ^ missing) > allowed:
            raise SkullVAEError(
                f"'{case.implant}' is not what '{case.defective}' lacks of '{case.complete}'",
                "Pair each implant with its own skull",
            )
    return stated_kind(complete, missing) if case.kind == UNKNOWN else case.kind


def _read_on_grid(path: Path, complete: Volume, case: SkullCase) -> Volume:
    volume = read_bone(path)
    if volume.array.shape != complete.array.shape:
        sizes = [" x ".join(map(str, v.array.shape)) for v in (volume, complete)]
        raise SkullVAEError(
            f"'{path}' has {sizes[0]} voxels and '{case.complete}' {sizes[1]}", "Export both on one grid"
        )
    # A tenth of a voxel at the far corner: headers lose that much by rounding.
    corner = np.array([*volume.array.shape, 1.0])
    apart = np.abs((volume.affine - complete.affine) * corner).sum(1).max()
    if apart > 0.1 * complete.spacing.min():
        raise SkullVAEError(f"'{path}' lies elsewhere in space than '{case.complete}'", "Export both on one grid")
    return volume


def stated_kind(complete: Volume, missing: np.ndarray) -> str:
    """Which of SkullFix's defects a missing piece is, by its place on the head: "cranial", "facial" or "unknown".

    The facial one runs down the front from the top to the bottom of the image, the cranial one lies high at the back.
    """
    axes = np.argmax(np.abs(complete.affine[:3, :3]), axis=1)  # which array axis runs along R, A and S
    whole, piece = bounding_box(complete.array), bounding_box(missing)

    def reach(world: int) -> tuple[float, float]:
        """How far the piece reaches in a direction: 0 is the bone's lower end, 1 its upper."""
        bone, part = whole[axes[world]], piece[axes[world]]
        ends = [(end - bone.start) / (bone.stop - bone.start) for end in (part.start, part.stop)]
        turned = complete.affine[world, axes[world]] < 0
        return (1 - ends[1], 1 - ends[0]) if turned else (ends[0], ends[1])

    (back, front), (bottom, top) = reach(1), reach(2)
    if back > 0.4 and front > 0.9 and bottom < 0.15 and top > 0.6:
        return "facial"
    if bottom > 0.35 and top > 0.7 and front < 0.7:
        return "cranial"
    return UNKNOWN


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(SUFFIXES) and p.name[0] != ".")


def _by_name(folder: Path) -> dict[str, Path]:
    """A folder's images by stem; raises SkullVAEError when two share one."""
    found: dict[str, Path] = {}
    for path in _images(folder):
        if (other := found.setdefault(stem(path), path)) != path:
            raise SkullVAEError(f"'{path}' and '{other.name}' have one name for two files", "Remove one of them")
    return found


def _sites(folder: Path) -> list[tuple[str, Path]]:
    """A part's folders by kind: itself, which has SkullFix's cranial defect, and one for each site below it."""
    if not folder.is_dir():
        return []
    return [("cranial", folder)] + [(sub.name, sub) for sub in sorted(folder.iterdir()) if sub.is_dir()]


def _from_challenge(root: Path, prefix: str = "", side: str | None = None) -> SkullCases:
    complete = _by_name(root / "complete_skull")
    cases = [SkullCase(prefix + name, path, split=side) for name, path in complete.items()]
    implants: dict[tuple[str, str], Path] = {}
    for part in ("implant", "defective_skull"):
        for kind, folder in _sites(root / part):
            for name, path in _by_name(folder).items():
                if name not in complete:
                    raise SkullVAEError(f"'{path}' has no complete skull of the same name", "Add it or remove the file")
                if part == "implant":
                    implants[kind, name] = path
                else:
                    case = SkullCase(prefix + name, complete[name], path, kind, side, implants.get((kind, name)))
                    cases.append(case)
    if not cases:
        raise SkullVAEError(f"No skulls were found in '{root}'", f"Give {LAYOUTS}")
    layout = "SkullBreak's" if any(c.kind not in (COMPLETE, *CLASSES) for c in cases) else "SkullFix's"
    return SkullCases(cases, f"{layout} layout in '{root}'")


def _with_tests(cases: SkullCases, data: Path) -> SkullCases:
    """Add what the challenge's test folders beside the training set hold, never to be trained on."""
    unpaired: list[Path] = []
    for name in _TEST_FOLDERS:
        folder = data / name
        if (folder / "complete_skull").is_dir():
            # Its 000 is another head than the training set's.
            cases = SkullCases([*cases, *_from_challenge(folder, f"{name}/", HELD_OUT)], cases.layout)
        elif folder.is_dir():
            unpaired += _tree(folder)
    return SkullCases(cases, cases.layout, unpaired)


def _from_original(root: Path) -> SkullCases:
    """Input and truth of the same relative path; one head occurs several times and is known by its truth's content."""
    truth, given = ({p.relative_to(root / part): p for p in _tree(root / part)} for part in ("gt", "input"))
    individuals: dict[tuple, str] = {}
    cases, defective = [], []
    for name, path in truth.items():
        key = _content(path)
        individual = "/".join((*name.parts[:-1], stem(path)))
        if individuals.setdefault(key, individual) == individual:
            cases.append(SkullCase(individual, path))
    for name, path in given.items():
        if name not in truth:
            raise SkullVAEError(f"'{path}' has no file of the same name in gt/", "Add it or remove the file")
        key = _content(truth[name])
        if _content(path)[1:] == key[1:] and key[1]:
            continue  # a complete skull given as its own truth
        said = [kind for kind in CLASSES if any(kind in part.lower() for part in name.parts)]
        kind = said[0] if len(said) == 1 else UNKNOWN
        defective.append(SkullCase(individuals[key], truth[name], path, kind))
    if not cases:
        raise SkullVAEError(f"No skulls were found in '{root}'", f"Give {LAYOUTS}")
    return SkullCases(cases + defective, f"the original code's layout in '{root}'")


def _tree(folder: Path) -> list[Path]:
    return [p for sub in (folder, *sorted(f for f in folder.rglob("*") if f.is_dir())) for p in _images(sub)]


def _content(path: Path) -> tuple:
    """What tells one file's content from another's; an empty file is like no other.

    A gzip file ends with its content's CRC and length, so that it need not be read, and its header's date is no matter.
    """
    size = path.stat().st_size
    if size == 0:
        return (str(path), 0, b"")
    if path.name.lower().endswith(".gz") and size > 18:
        with open(path, "rb") as file:
            file.seek(-8, 2)
            return ("", 1, file.read(8))
    return ("", 1, hashlib.sha256(path.read_bytes()).digest())


def _from_list(path: Path) -> SkullCases:
    """Entries in one list, or lists of them under "training" and "held-out"."""
    remedy = 'Write [{"complete": "a.nrrd", "individual": "a"}, ...]; defective, implant, kind and split are optional'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            unknown = set(content) - set(_LIST_PARTS)
            parts = [] if unknown else [({"split": _LIST_PARTS[part]}, content[part]) for part in content]
            if not parts:
                raise ValueError(f"unknown parts {unknown}")
        else:
            parts = [({}, content)]
        cases = [_entry(path, n, given | entry) for given, entries in parts for n, entry in enumerate(entries)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SkullVAEError(f"'{path}' is not a data list", remedy) from error
    if not cases:
        raise SkullVAEError(f"'{path}' names no skull, which is not there", "Correct the list")
    check_split(cases)
    return SkullCases(cases, f"the data list '{path}'")


def _entry(path: Path, number: int, entry: dict) -> SkullCase:
    """One entry of a list; raises SkullVAEError when it names a missing file or an unknown kind or split."""
    files = {key: path.parent / entry[key] for key in ("complete", "defective", "implant") if entry.get(key)}
    complete, defective = files["complete"], files.get("defective")
    individual = entry.get("individual", stem(complete))
    kind = entry.get("kind", COMPLETE if defective is None else UNKNOWN)
    where = f"entry {number + 1} of '{path}', '{(defective or complete).name}',"
    if not isinstance(individual, str) or not all(individual.split("+")):
        raise SkullVAEError(f"{where} has no usable name as its individual", "Give a text, or several with + between")
    for file in files.values():
        if not file.is_file():
            raise SkullVAEError(f"'{path}' names '{file}', which is not there", "Correct the list")
    if kind not in (COMPLETE, UNKNOWN, *CASE_KINDS):
        raise SkullVAEError(
            f"{where} has the unknown kind '{kind}'", f"Use {COMPLETE}, {UNKNOWN}, {', '.join(CASE_KINDS)}"
        )
    if (kind == COMPLETE) != (defective is None):
        says = "a defective skull" if defective else "no defective skull"
        raise SkullVAEError(f"{where} is of kind '{kind}' but names {says}", "Correct the kind or the files")
    if entry.get("split") not in (None, TRAINING, HELD_OUT):
        raise SkullVAEError(f"{where} has the unknown split '{entry['split']}'", f"Use {TRAINING} or {HELD_OUT}")
    return SkullCase(individual, complete, defective, kind, entry.get("split"), files.get("implant"))
