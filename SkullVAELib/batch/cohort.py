"""A cohort: its cases, from a folder or a list, and what a case's result is made from."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from SkullVAELib import __version__
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.parsing import number

# The tables lie beside the cases' folders.
SUMMARIES = ("summary.json", "summary.csv")


@dataclass(frozen=True)
class CohortCase:
    """One skull of a cohort.

    name: of its folder of results; path: the image file; arguments: options of `complete` for this case alone.
    """

    name: str
    path: Path
    arguments: tuple[str, ...] = ()


def list_cases(source: Path) -> list[CohortCase]:
    """The cases of a folder, a text file or a CSV file, in the order of running.

    A folder: every image file directly in it that is not hidden, by name. A text file: one path a line; blank lines and
    lines that begin with # are skipped. A CSV file: the column `path`, and optionally `name`, `threshold` (HU) and
    `roi` (as --roi takes it; version 0.1 called it `box`). Paths are relative to the list's folder. A case is named by
    its file without the suffix.

    Whether the files can be read is not looked at: that is each case's own affair. Raises SkullVAEError for a source
    that cannot be read or holds nothing, for a name that no folder can have, and for two cases of the same name.
    """
    from SkullVAELib.io.images import SUFFIXES

    source = Path(source)
    if source.is_dir():
        cases = [_case(path) for path in sorted(source.iterdir()) if _is_image(path)]
        remedy = f"Put {', '.join(SUFFIXES)} files right into it, or name them in a list"
    elif not source.is_file():
        raise SkullVAEError(f"'{source}' does not exist", "Name a folder of skulls, or a list of files")
    elif source.name.lower().endswith(SUFFIXES):
        raise SkullVAEError(f"'{source}' is one image, not a list", "Use skullvae complete, or name a folder")
    else:
        cases = list(_from_csv(source) if source.suffix.lower() == ".csv" else _from_text(source))
        remedy = "Write one path a line"
    if not cases:
        raise SkullVAEError(f"No skulls were found in '{source}'", remedy)
    _check_names(cases)
    return cases


def _is_image(path: Path) -> bool:
    from SkullVAELib.io.images import SUFFIXES

    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()


def _case(path: Path, name: str | None = None, arguments: tuple[str, ...] = ()) -> CohortCase:
    if not name:
        from SkullVAELib.io.images import volume_suffix

        name = path.name[: -len(volume_suffix(path))]
    return CohortCase(name, path.absolute(), arguments)


def _from_text(source: Path) -> Iterator[CohortCase]:
    for place, line in _lines(source):
        text = line.strip()
        if text and not text.startswith("#"):
            with _told_where(source, place):
                yield _case(source.parent / text)


def _from_csv(source: Path) -> Iterator[CohortCase]:
    lines = [line for _, line in _lines(source)]
    reader = csv.DictReader(lines, skipinitialspace=True)
    if "path" not in (reader.fieldnames or ()):
        raise SkullVAEError(f"'{source}' has no column 'path'", "Name the columns in its first line: path,name")
    for row in reader:
        told = {key: (row.get(key) or "").strip() for key in ("path", "name", "threshold", "roi", "box")}
        with _told_where(source, reader.line_num):
            if not told["path"]:
                raise SkullVAEError("It names no path", "Fill it in or remove the line")
            yield _case(
                source.parent / told["path"], told["name"], _arguments(told["threshold"], told["roi"] or told["box"])
            )


def _arguments(threshold: str, roi: str) -> tuple[str, ...]:
    """The options of a case that a CSV file tells; raises SkullVAEError where they make no sense."""
    made = []
    if threshold:
        try:
            number(threshold)
        except ValueError:
            raise SkullVAEError(f"The threshold '{threshold}' is not a number", "Write it in HU, such as 300") from None
        made.append(f"--threshold={threshold}")
    if roi:
        from SkullVAELib.geometry.roi import ROI

        ROI.parse(roi)
        made.append(f"--roi={roi}")
    return tuple(made)


def _lines(source: Path) -> list[tuple[int, str]]:
    """The numbered lines of a text file."""
    try:
        # Spreadsheets put a byte order mark before their text.
        return list(enumerate(source.read_text(encoding="utf-8-sig").splitlines(), 1))
    except UnicodeDecodeError as error:
        raise SkullVAEError(f"The list '{source}' is not text in UTF-8", "Save it as UTF-8") from error


@contextmanager
def _told_where(source: Path, line: int) -> Iterator[None]:
    """Adds file and line to an error in a list."""
    try:
        yield
    except SkullVAEError as error:
        raise SkullVAEError(f"'{source}', line {line}: {error.cause}", error.remedy) from error


def _check_names(cases: list[CohortCase]) -> None:
    taken: dict[str, CohortCase] = {}
    for case in cases:
        if not _may_be_a_folder(case.name):
            remedy = "Rename the file, or give another name in a CSV list"
            raise SkullVAEError(f"'{case.name}' cannot be the name of a case's folder", remedy)
        # Names that differ in case alone are one folder on many disks.
        other = taken.setdefault(case.name.casefold(), case)
        if other is not case:
            cause = f"'{other.path}' and '{case.path}' are both the case '{case.name}'"
            raise SkullVAEError(cause, "Rename one, or give them names in a CSV list")


def _may_be_a_folder(name: str) -> bool:
    """Whether a case may be called so: it hides nothing, leads nowhere else, and can be written into a table."""
    return name.isprintable() and not name.startswith(".") and not set(name) & set("/\\") and name not in SUMMARIES


def made_from(case: CohortCase, arguments: Sequence[str], model_sha256: str) -> dict | None:
    """What decides on a case's result, to know later whether it is still the one: plain values; None where the input
    is not there or damaged.

    arguments: options of `complete` for every case; the model file counts by its SHA-256. The input counts by size and
    time of change of all its files: to read each one through would take as long as a good part of the work.
    """
    try:
        files = [[file.stat().st_size, file.stat().st_mtime_ns] for file in _files(case.path)]
    except (OSError, SkullVAEError):
        return None
    options = [argument for argument in (*arguments, *case.arguments) if not argument.startswith("--model=")]
    return {"input": files, "options": options, "model_sha256": model_sha256, "version": __version__}


def _files(path: Path) -> list[Path]:
    """An image file, and the one that holds its voxels where it is but their header. Raises SkullVAEError when that is
    damaged."""
    if path.suffix.lower() != ".nhdr":
        return [path]
    from SkullVAELib.io.header_checks import check_nrrd

    return [path, check_nrrd(path)]
