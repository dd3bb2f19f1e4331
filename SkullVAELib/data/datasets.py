"""Finding skulls: a folder of skulls, the layouts of the AutoImplant challenges and of the original code, a JSON data
list.

Class and individual come from folders, names, the list or the voxels, never from the order of files. A wrong or
misplaced file is an error that names the file.
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
from SkullVAELib.data.defect_kinds import CASE_KINDS, CLASSES
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import SUFFIXES, read_volume
from SkullVAELib.registration.bone import bone_mask

LAYOUTS = "complete skulls in one folder; complete_skull/ with defective_skull/; train/{input,gt}/; or a JSON data list"
"""The supported layouts, in words for messages."""

LIST = "datalist.json"
"""Name of a folder's own data list, which has precedence over folders and names."""

TRAINING, HELD_OUT = "training", "held-out"

# Kinds of a case that are no kind of defect.
COMPLETE, UNKNOWN = "complete", "unknown"

# Names of the second and third group in MONAI's own lists; neither is used for training.
_LIST_PARTS = {TRAINING: TRAINING, HELD_OUT: HELD_OUT, "validation": HELD_OUT, "testing": HELD_OUT, "test": HELD_OUT}

# Names of SkullFix's test folders in its distributions.
_TEST_FOLDERS = (
    "test_set_for_participants",
    "test_set_give_participants",
    "additional_test_set_for_participants",
)

# Folders without complete skulls.
_INCOMPLETE_FOLDERS = ("defective_skull", "implant", "input", *_TEST_FOLDERS)

# Fraction of the bone's voxels in which two files may differ: conversion changes a few, a wrong file far more.
_TOLERATED_SHARE = 0.001


@dataclass(frozen=True)
class SkullCase:
    """One complete skull, or one defective skull with its ground truth.

    Attributes
    ----------
    individual : str
        The individual; cases are split by individual. "a+b" was generated from a and b.
    complete : pathlib.Path
        File of the complete skull.
    defective : pathlib.Path or None
        File of the defective skull.
    kind : str
        Kind of the defect, see `CASE_KINDS`, or "complete" or "unknown".
    split : str or None
        "training" or "held-out" if the data define it.
    implant : pathlib.Path or None
        File of the missing bone, if there is one.
    """

    individual: str
    complete: Path
    defective: Path | None = None
    kind: str = COMPLETE
    split: str | None = None
    implant: Path | None = None

    @property
    def parents(self) -> frozenset[str]:
        """The individuals that it was generated from.

        >>> sorted(SkullCase("colin27+mgh_dca", Path("000.nrrd")).parents)
        ['colin27', 'mgh_dca']
        """
        return frozenset(self.individual.split("+"))


class SkullCases(list[SkullCase]):
    """The cases of one source.

    Parameters
    ----------
    cases : iterable of SkullCase
        The cases.
    layout : str
        The layout of the source, in words.
    unpaired : iterable of pathlib.Path
        Skulls for evaluation only, without ground truth.
    """

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
    """Find the cases of a folder in any known layout, or of a JSON data list.

    A data list is a list of {"complete", "defective", "individual", "kind"}; a folder's own datalist.json has
    precedence. No voxel is read, see `check_cases`.

    Parameters
    ----------
    data : pathlib.Path
        Folder or JSON file.

    Returns
    -------
    SkullCases

    Raises
    ------
    SkullVAEError
        If nothing is found, a defective skull has no complete one, or a list is wrong.
    """
    data = Path(data)
    if data.is_file() and data.suffix == ".json":
        return _from_list(data)
    if not data.is_dir():
        raise SkullVAEError(f"The data folder '{data}' does not exist", "Check the path")
    if (data / LIST).is_file():
        return _from_list(data / LIST)
    if (data / "population.json").is_file():
        raise SkullVAEError(
            f"'{data}' has no {LIST}, which assigns the skulls to individuals", "Generate the set again"
        )
    for root in (data, data / "training_set"):
        if (root / "complete_skull").is_dir():
            return _with_tests(_from_challenge(root), data)
    for root in (data / "train", data):
        if (root / "gt").is_dir() and (root / "input").is_dir():
            return _from_original(root)
    if data.name in _INCOMPLETE_FOLDERS:
        raise SkullVAEError(
            f"'{data}' is one part of a set and contains no complete skulls", "Choose the folder that contains it"
        )
    cases = [SkullCase(stem(p), p) for p in _by_name(data).values()]
    if not cases:
        raise SkullVAEError(f"No skulls were found in '{data}'", f"Choose a folder with {LAYOUTS}")
    return SkullCases(cases, f"a folder of complete skulls, '{data}'")


def describe(cases: list[SkullCase]) -> str:
    """Summary of cases in one to four lines: layout, individuals, skulls of each kind, and the split given by the data.

    >>> print(describe([SkullCase("a", Path("a.nrrd")), SkullCase("a", Path("a.nrrd"), Path("b.nrrd"), "facial")]))
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
        lines.append(f"Split given by the data: {', '.join(parts)}.")
    if unpaired := len(getattr(cases, "unpaired", ())):
        lines.append(
            f"{_count(unpaired, 'skull')} for evaluation only, without a complete skull: not used in training."
        )
    if UNKNOWN in kinds:
        lines.append("The kind of the unknown defects is given neither by folders nor by names.")
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    """A number with its noun."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def split_by_individual(
    cases: list[SkullCase], holdout: tuple[str, ...] = (), log: Callable[[str], None] | None = None
) -> tuple[list[SkullCase], list[SkullCase]]:
    """Split cases by individual into training and held-out cases.

    No skull generated from a held-out individual is used in training. A skull generated from individuals on both sides
    (of "a+b" only a is held out) is left out.

    Parameters
    ----------
    cases : list of SkullCase
        The cases.
    holdout : tuple of str
        Individuals to hold out, in addition to those held out by the cases' own split.
    log : callable, optional
        Receives a line of text if cases are left out; without it, such a case is an error.

    Returns
    -------
    training, held_out : list of SkullCase

    Raises
    ------
    SkullVAEError
        If an individual to hold out is unknown, no individual is left for training, or the cases' own split has an
        individual on both sides.
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
            f"'{mixed[0].complete}' was generated from '{mixed[0].individual}', of whom only some are held out",
            "Hold out all of them, or generate a set with this --holdout",
        )
    if not training:
        raise SkullVAEError("Every individual is held out", "Hold out fewer individuals")
    if mixed and log is not None:
        log(f"{len(mixed)} cases are left out: they were generated from individuals of whom only some are held out")
    return training, held_out


def check_split(cases: list[SkullCase]) -> None:
    """Raise SkullVAEError, naming the files, if the cases' own split has an individual on both sides."""
    first: dict[str, SkullCase] = {}
    for case in cases:
        for parent in sorted(case.parents) if case.split is not None else ():
            other = first.setdefault(parent, case)
            if other.split != case.split:
                raise SkullVAEError(
                    f"The individual '{parent}' is {other.split} in '{other.complete}' and {case.split} in"
                    f" '{case.complete}'",
                    "Put all skulls of one individual on the same side of the split",
                )


def check_cases(cases: list[SkullCase], report: Report = silent) -> SkullCases:
    """Read every file once and check it; call this before training.

    Parameters
    ----------
    cases : list of SkullCase
        The cases.
    report : callable
        Receives the progress.

    Returns
    -------
    SkullCases
        The cases. An "unknown" kind of defect is replaced where the comparison with the complete skull determines it
        (SkullFix's "cranial" and "facial").

    Raises
    ------
    SkullVAEError
        Names the file, if one cannot be read, is empty or has several labels; if a defective skull or an implant is on
        another grid than the complete skull; if a defective skull has bone that is missing in the complete skull, or
        has no missing bone; if an implant is not the missing bone; or if one skull belongs to two individuals.
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
                    f"'{case.complete}' and '{other.complete}' are the same skull but belong to two individuals,"
                    f" '{case.individual}' and '{other.individual}'",
                    "Remove one of them, or assign both to one individual in a JSON data list",
                )
            if case.defective is not None:
                kind = _check_pair(case, complete)
                checked[number] = dataclasses.replace(case, kind=kind if case.kind == UNKNOWN else case.kind)
    report("check the data", 1.0)
    return SkullCases(checked, getattr(cases, "layout", "skulls"), getattr(cases, "unpaired", ()))


def read_bone(path: Path) -> Volume:
    """Read the bone of a file.

    Parameters
    ----------
    path : pathlib.Path
        A segmentation or a CT.

    Returns
    -------
    Volume
        Bool.

    Raises
    ------
    SkullVAEError
        As read_volume and bone_mask do, with the whole path: no file, empty, several labels.
    """
    try:
        volume = read_volume(path)
        return volume.with_array(bone_mask(volume)[0])
    except SkullVAEError as error:
        cause = error.cause if str(path) in error.cause else f"'{path}': {error.cause}"
        raise SkullVAEError(cause, error.remedy) from error


def _check_pair(case: SkullCase, complete: Volume) -> str:
    """Check a defective skull and its implant against the complete skull; returns the kind that the comparison
    determines.
    """
    if case.defective is None:
        raise ValueError("a pair has a defective skull")
    defective = _read_on_grid(case.defective, complete, case)
    allowed = _TOLERATED_SHARE * np.count_nonzero(complete.array)
    missing = complete.array & ~defective.array
    extra = np.count_nonzero(defective.array & ~complete.array)
    missing_count = np.count_nonzero(missing)
    if missing_count == 0 and extra == 0:
        raise SkullVAEError(
            f"'{case.defective}' has no missing bone compared with '{case.complete}'",
            "Cut the defect, or list the file as a complete skull",
        )
    if extra > allowed:
        swapped = " (are they swapped?)" if missing_count <= allowed else ""
        raise SkullVAEError(
            f"'{case.defective}' has bone where '{case.complete}' has none{swapped}",
            "Pair each defective skull with its own complete skull",
        )
    if case.implant is not None:
        implant = _read_on_grid(case.implant, complete, case)
        if np.count_nonzero(implant.array ^ missing) > allowed:
            raise SkullVAEError(
                f"'{case.implant}' is not the bone of '{case.complete}' that is missing in '{case.defective}'",
                "Pair each implant with its own skull",
            )
    return stated_kind(complete, missing) if case.kind == UNKNOWN else case.kind


def _read_on_grid(path: Path, complete: Volume, case: SkullCase) -> Volume:
    """Read the bone of a file that must be on the grid of the complete skull."""
    volume = read_bone(path)
    if volume.array.shape != complete.array.shape:
        sizes = [" x ".join(map(str, v.array.shape)) for v in (volume, complete)]
        raise SkullVAEError(
            f"'{path}' has {sizes[0]} voxels and '{case.complete}' {sizes[1]}", "Export both on the same grid"
        )
    # Headers lose up to a tenth of a voxel at the far corner by rounding.
    corner = np.array([*volume.array.shape, 1.0])
    apart = np.abs((volume.affine - complete.affine) * corner).sum(1).max()
    if apart > 0.1 * complete.spacing.min():
        raise SkullVAEError(
            f"'{path}' has another position in space than '{case.complete}'", "Export both on the same grid"
        )
    return volume


def stated_kind(complete: Volume, missing: np.ndarray) -> str:
    """The kind of a SkullFix defect, determined by its position on the head.

    The facial defect extends along the front from the top to the bottom of the image, the cranial one is high at the
    back.

    Parameters
    ----------
    complete : Volume
        Bool, the complete skull.
    missing : numpy.ndarray
        Bool, the missing bone on the same grid.

    Returns
    -------
    str
        "cranial", "facial" or "unknown".
    """
    axes = np.argmax(np.abs(complete.affine[:3, :3]), axis=1)  # which array axis runs along R, A and S
    whole, piece = bounding_box(complete.array), bounding_box(missing)

    def reach(world: int) -> tuple[float, float]:
        """How far the piece reaches in a direction: 0 is the bone's lower end, 1 its upper."""
        bone, piece_slice = whole[axes[world]], piece[axes[world]]
        ends = [(end - bone.start) / (bone.stop - bone.start) for end in (piece_slice.start, piece_slice.stop)]
        turned = complete.affine[world, axes[world]] < 0
        return (1 - ends[1], 1 - ends[0]) if turned else (ends[0], ends[1])

    (back, front), (bottom, top) = reach(1), reach(2)
    if back > 0.4 and front > 0.9 and bottom < 0.15 and top > 0.6:
        return "facial"
    if bottom > 0.35 and top > 0.7 and front < 0.7:
        return "cranial"
    return UNKNOWN


def _images(folder: Path) -> list[Path]:
    """The image files of a folder, sorted."""
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(SUFFIXES) and p.name[0] != ".")


def _by_name(folder: Path) -> dict[str, Path]:
    """A folder's images by stem; raises SkullVAEError if two files share one."""
    found: dict[str, Path] = {}
    for path in _images(folder):
        if (other := found.setdefault(stem(path), path)) != path:
            raise SkullVAEError(
                f"'{path}' and '{other.name}' differ only in their suffix", "Remove or rename one of them"
            )
    return found


def _sites(folder: Path) -> list[tuple[str, Path]]:
    """Subfolders by kind of defect: the folder itself has SkullFix's cranial defect, each subfolder one site."""
    if not folder.is_dir():
        return []
    return [("cranial", folder)] + [(sub.name, sub) for sub in sorted(folder.iterdir()) if sub.is_dir()]


def _from_challenge(root: Path, prefix: str = "", side: str | None = None) -> SkullCases:
    """Cases in the layout of the AutoImplant challenges."""
    complete = _by_name(root / "complete_skull")
    cases = [SkullCase(prefix + name, path, split=side) for name, path in complete.items()]
    implants: dict[tuple[str, str], Path] = {}
    for folder_name in ("implant", "defective_skull"):
        for kind, folder in _sites(root / folder_name):
            for name, path in _by_name(folder).items():
                if name not in complete:
                    raise SkullVAEError(
                        f"'{path}' has no complete skull of the same name", "Add the complete skull or remove the file"
                    )
                if folder_name == "implant":
                    implants[kind, name] = path
                else:
                    case = SkullCase(prefix + name, complete[name], path, kind, side, implants.get((kind, name)))
                    cases.append(case)
    if not cases:
        raise SkullVAEError(f"No skulls were found in '{root}'", f"Give {LAYOUTS}")
    layout = "SkullBreak's" if any(c.kind not in (COMPLETE, *CLASSES) for c in cases) else "SkullFix's"
    return SkullCases(cases, f"{layout} layout in '{root}'")


def _with_tests(cases: SkullCases, data: Path) -> SkullCases:
    """Add the challenge's test folders next to the training set, as held out."""
    unpaired: list[Path] = []
    for name in _TEST_FOLDERS:
        folder = data / name
        if (folder / "complete_skull").is_dir():
            # Individual 000 of the test set is not individual 000 of the training set.
            cases = SkullCases([*cases, *_from_challenge(folder, f"{name}/", HELD_OUT)], cases.layout)
        elif folder.is_dir():
            unpaired += _tree(folder)
    return SkullCases(cases, cases.layout, unpaired)


def _from_original(root: Path) -> SkullCases:
    """Input and ground truth with the same relative path; a head that occurs several times is known by its truth's
    content.
    """
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
            raise SkullVAEError(f"'{path}' has no file of the same name in gt/", "Add that file or remove this one")
        key = _content(truth[name])
        if _content(path)[1:] == key[1:] and key[1]:
            continue  # a complete skull with itself as ground truth
        found_kinds = [kind for kind in CLASSES if any(kind in part.lower() for part in name.parts)]
        kind = found_kinds[0] if len(found_kinds) == 1 else UNKNOWN
        defective.append(SkullCase(individuals[key], truth[name], path, kind))
    if not cases:
        raise SkullVAEError(f"No skulls were found in '{root}'", f"Give {LAYOUTS}")
    return SkullCases(cases + defective, f"the original code's layout in '{root}'")


def _tree(folder: Path) -> list[Path]:
    """The image files of a folder and its subfolders."""
    return [p for sub in (folder, *sorted(f for f in folder.rglob("*") if f.is_dir())) for p in _images(sub)]


def _content(path: Path) -> tuple:
    """A key of a file's content; the key of an empty file is unique.

    A gzip file ends with the CRC and the length of its content, so that it need not be read, and the date in its header
    does not matter.
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
    """Entries in one list, or lists of entries under "training" and "held-out"."""
    remedy = 'Write [{"complete": "a.nrrd", "individual": "a"}, ...]; defective, implant, kind and split are optional'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            unknown = set(content) - set(_LIST_PARTS)
            groups = [] if unknown else [({"split": _LIST_PARTS[name]}, content[name]) for name in content]
            if not groups:
                raise ValueError(f"unknown parts {unknown}")
        else:
            groups = [({}, content)]
        cases = [_entry(path, n, given | entry) for given, entries in groups for n, entry in enumerate(entries)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SkullVAEError(f"'{path}' is not a data list", remedy) from error
    if not cases:
        raise SkullVAEError(f"'{path}' lists no skull", "Correct the list")
    check_split(cases)
    return SkullCases(cases, f"the data list '{path}'")


def _entry(path: Path, number: int, entry: dict) -> SkullCase:
    """One entry of a list; raises SkullVAEError if it lists a missing file or an unknown kind or split."""
    files = {key: path.parent / entry[key] for key in ("complete", "defective", "implant") if entry.get(key)}
    complete, defective = files["complete"], files.get("defective")
    individual = entry.get("individual", stem(complete))
    kind = entry.get("kind", COMPLETE if defective is None else UNKNOWN)
    where = f"entry {number + 1} of '{path}', '{(defective or complete).name}',"
    if not isinstance(individual, str) or not all(individual.split("+")):
        raise SkullVAEError(
            f"{where} has no valid individual", "Give a name, or several names separated by + for a generated skull"
        )
    for file in files.values():
        if not file.is_file():
            raise SkullVAEError(f"'{path}' lists '{file}', which does not exist", "Correct the list")
    if kind not in (COMPLETE, UNKNOWN, *CASE_KINDS):
        raise SkullVAEError(
            f"{where} has the unknown kind '{kind}'", f"Use {COMPLETE}, {UNKNOWN}, {', '.join(CASE_KINDS)}"
        )
    if (kind == COMPLETE) != (defective is None):
        named = "a defective skull" if defective else "no defective skull"
        raise SkullVAEError(f"{where} is of kind '{kind}' but lists {named}", "Correct the kind or the files")
    if entry.get("split") not in (None, TRAINING, HELD_OUT):
        raise SkullVAEError(f"{where} has the unknown split '{entry['split']}'", f"Use {TRAINING} or {HELD_OUT}")
    return SkullCase(individual, complete, defective, kind, entry.get("split"), files.get("implant"))
