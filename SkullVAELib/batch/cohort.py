"""The cases of a cohort, from a folder or a list, and the inputs that the result of a case depends on."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.parsing import number
from SkullVAELib.core.version import __version__

SUMMARIES = ("summary.json", "summary.csv")
"""Names of the tables, which are next to the folders of the cases."""


# Columns of a CSV list.
_CELLS = ("path", "name", "threshold", "roi", "box", "segment", "series")


@dataclass(frozen=True)
class CohortCase:
    """One skull of a cohort.

    Attributes
    ----------
    name : str
        Name of the case and of its folder of results.
    path : Path
        The image file.
    arguments : tuple of str
        Options of `complete` for this case only.
    """

    name: str
    path: Path
    arguments: tuple[str, ...] = ()


def list_cases(source: Path) -> list[CohortCase]:
    """Return the cases of a cohort in the order of running.

    Images are not read here: an unreadable image is a failure of that case alone.

    Parameters
    ----------
    source : Path
        A folder: all image files and folders with DICOM files directly in it that are not hidden, sorted by name. A
        text file: one path per line; blank lines and lines that begin with # are skipped. A CSV file: the column `path`
        and optionally `name`, `threshold` (HU), `roi` (as for --roi; `box` in version 0.1), `segment` (as for
        --segment) and `series` (as for --series). Paths are relative to the folder of the list.

    Returns
    -------
    list of CohortCase
        The cases; by default a case has the name of its folder, or of its file without the suffix.

    Raises
    ------
    SkullVAEError
        The source cannot be read or has no cases, a name is not possible as a folder name, or two cases have the same
        name.
    """
    from SkullVAELib.io.dicom_files import holds_dicom
    from SkullVAELib.io.images import SUFFIXES

    source = Path(source)
    if source.is_dir():
        cases = [_case(path) for path in sorted(source.iterdir()) if _is_image(path)]
        if not cases and holds_dicom(source, deep=False):
            raise SkullVAEError(
                f"'{source}' is a folder of DICOM slices, not a cohort",
                "Use skullvae complete, or give the folder that holds one folder per patient",
            )
        remedy = f"Put {', '.join(SUFFIXES)} files or DICOM folders directly into it, or list them in a file"
    elif not source.is_file():
        raise SkullVAEError(f"'{source}' does not exist", "Give a folder of skulls, or a list of files")
    elif source.name.lower().endswith(SUFFIXES):
        raise SkullVAEError(f"'{source}' is one image, not a cohort", "Use skullvae complete, or give a folder")
    else:
        cases = list(_from_csv(source) if source.suffix.lower() == ".csv" else _from_text(source))
        remedy = "Write one path per line"
    if not cases:
        raise SkullVAEError(f"No skulls were found in '{source}'", remedy)
    _check_names(cases)
    return cases


def _is_image(path: Path) -> bool:
    from SkullVAELib.io.dicom_files import holds_dicom
    from SkullVAELib.io.images import SUFFIXES

    if path.name.startswith("."):
        return False
    if path.is_dir():
        return holds_dicom(path)
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def _case(path: Path, name: str | None = None, arguments: tuple[str, ...] = ()) -> CohortCase:
    if not name:
        from SkullVAELib.io.images import image_name

        name = image_name(path)
    return CohortCase(name, path.absolute(), arguments)


def _from_text(source: Path) -> Iterator[CohortCase]:
    for place, line in _lines(source):
        text = line.strip()
        if text and not text.startswith("#"):
            with _errors_with_line(source, place):
                yield _case(source.parent / text)


def _from_csv(source: Path) -> Iterator[CohortCase]:
    lines = [line for _, line in _lines(source)]
    reader = csv.DictReader(lines, skipinitialspace=True)
    if "path" not in (reader.fieldnames or ()):
        raise SkullVAEError(f"'{source}' has no column 'path'", "Write the column names in its first line: path,name")
    for row in reader:
        cells = {key: (row.get(key) or "").strip() for key in _CELLS}
        with _errors_with_line(source, reader.line_num):
            if not cells["path"]:
                raise SkullVAEError("The path is missing", "Fill it in or remove the line")
            yield _case(
                source.parent / cells["path"],
                cells["name"],
                _arguments(cells["threshold"], cells["roi"] or cells["box"], cells["segment"], cells["series"]),
            )


def _arguments(threshold: str, roi: str, segment: str, series: str) -> tuple[str, ...]:
    """The options of a case from the cells of a CSV file; raises SkullVAEError for invalid ones."""
    arguments = []
    if threshold:
        try:
            number(threshold)
        except ValueError:
            raise SkullVAEError(f"The threshold '{threshold}' is not a number", "Give it in HU, such as 300") from None
        arguments.append(f"--threshold={threshold}")
    if roi:
        from SkullVAELib.geometry.roi import ROI

        ROI.parse(roi)
        arguments.append(f"--roi={roi}")
    if segment:
        arguments.append(f"--segment={segment}")
    if series:
        arguments.append(f"--series={series}")
    return tuple(arguments)


def _lines(source: Path) -> list[tuple[int, str]]:
    """The numbered lines of a text file."""
    try:
        # Spreadsheets write a byte order mark before the text.
        return list(enumerate(source.read_text(encoding="utf-8-sig").splitlines(), 1))
    except UnicodeDecodeError as error:
        raise SkullVAEError(f"The list '{source}' is not text in UTF-8", "Save it as UTF-8") from error


@contextmanager
def _errors_with_line(source: Path, line: int) -> Iterator[None]:
    """Add file and line to errors raised in the body."""
    try:
        yield
    except SkullVAEError as error:
        raise SkullVAEError(f"'{source}', line {line}: {error.cause}", error.remedy) from error


def _check_names(cases: list[CohortCase]) -> None:
    taken: dict[str, CohortCase] = {}
    for case in cases:
        if not _may_be_a_folder(case.name):
            remedy = "Rename the file, or give another name in a CSV list"
            raise SkullVAEError(f"'{case.name}' cannot be the name of a folder", remedy)
        # On many disks, names that differ only in upper and lower case are the same folder.
        other = taken.setdefault(case.name.casefold(), case)
        if other is not case:
            cause = f"'{other.path}' and '{case.path}' have the same case name '{case.name}'"
            raise SkullVAEError(cause, "Rename one file, or give them names in a CSV list")


def _may_be_a_folder(name: str) -> bool:
    """Whether a case name is possible: printable, not hidden, without path separators and not that of a table."""
    return name.isprintable() and not name.startswith(".") and not set(name) & set("/\\") and name not in SUMMARIES


def made_from(case: CohortCase, arguments: Sequence[str], model_sha256: str) -> dict | None:
    """Return the inputs that the result of a case depends on, to detect later whether it is out of date.

    The image and its reference are represented by size and modification time of their files, because reading them would
    take a large part of the time of completing them; the model is represented by its SHA-256.

    Parameters
    ----------
    case : CohortCase
        The case.
    arguments : sequence of str
        Options of `complete` for all cases.
    model_sha256 : str
        SHA-256 of the model file.

    Returns
    -------
    dict or None
        Plain values; None where the image or its reference is missing or damaged.
    """
    try:
        used = [*_files(case.path), *_reference(case, arguments)]
        files = [[file.stat().st_size, file.stat().st_mtime_ns] for file in used]
    except (OSError, SkullVAEError):
        return None
    options = [argument for argument in (*arguments, *case.arguments) if not argument.startswith("--model=")]
    return {"input": files, "options": options, "model_sha256": model_sha256, "version": __version__}


def _reference(case: CohortCase, arguments: Sequence[str]) -> list[Path]:
    """The files of the reference of a case, if there is one."""
    from SkullVAELib.io.images import image_name

    given = [argument.partition("=")[2] for argument in arguments if argument.startswith("--reference=")]
    return [file for path in given for file in _files(Path(path.replace("{name}", image_name(case.path))))]


def _files(path: Path) -> list[Path]:
    """The files of an image: itself and, for a detached header, the file of voxels; those of a folder; raises
    SkullVAEError where a header is damaged."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if path.suffix.lower() not in (".nhdr", ".mhd"):
        return [path]
    from SkullVAELib.io.header_checks import check_meta, check_nrrd

    return [path, (check_nrrd if path.suffix.lower() == ".nhdr" else check_meta)(path).voxels]
