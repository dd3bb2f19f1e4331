"""Where DICOM files come from: a folder, a DICOMDIR, a zip archive or one file, with limits on what is read."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.io.header_checks import unreadable

SUFFIXES = (".dcm", ".dicom", ".ima")
"""Suffixes that DICOM files often have; most have none."""

# A study of a thousand slices in each of ten series is far below.
_MOST_FILES = 100_000

# Of an archive: bytes of all members together, and how many times they may be smaller in it. Slices compress to a half.
_MOST_BYTES = 16 * 2**30
_MAX_COMPRESSION = 200
_SMALL_BYTES = 2**20
_BLOCK = 2**20

# Whatever Python's own module raises for damaged archives.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, RuntimeError)

_BEGIN = 136
_ZIP = b"PK\3\4"
_EMPTY_ZIP = b"PK\5\6"


@dataclass
class DicomFiles:
    """The files of a source.

    Attributes
    ----------
    paths : list of Path
        Files that may be DICOM, in the order of their names.
    unreadable : int
        Number of files that could not be opened.
    archives : int
        Number of zip archives among the files of a folder, which are not opened.
    only : Path or None
        The file that was given: only the series it belongs to is meant.
    """

    paths: list[Path] = field(default_factory=list)
    unreadable: int = 0
    archives: int = 0
    only: Path | None = None


def is_dicom_source(path: str | os.PathLike) -> bool:
    """Whether a path is a folder, a zip archive, a DICOMDIR or a DICOM file; False for other files and where there is
    nothing."""
    path = Path(path)
    if path.is_dir():
        return True
    if not path.is_file():
        return False
    name, begin = path.name.lower(), _begin(path) or b""
    if name == "dicomdir" or name.endswith(SUFFIXES):
        return True
    if begin.startswith((_ZIP, _EMPTY_ZIP)):
        return not name.endswith((".mrb", ".3mf"))
    return may_be_dicom(begin)


def may_be_dicom(begin: bytes) -> bool:
    """Whether a file with these first bytes (136) may be DICOM: it begins with an element of the groups 0002 or 0008,
    after the mark or, as in files without it, at once."""
    if begin[128:132] == b"DICM":
        return begin[132:134] in (b"\x02\0", b"\x08\0")
    # Group, element and the length or the two letters of the first element; either byte order.
    little, big = begin[:2] in (b"\x02\0", b"\x08\0"), begin[:2] in (b"\0\x02", b"\0\x08")
    return len(begin) == _BEGIN and ((little and begin[3] == 0) or (big and begin[2] == 0))


def holds_dicom(folder: str | os.PathLike, deep: bool = True) -> bool:
    """Whether a folder holds a file that may be DICOM; deep: whether its subfolders count, too."""
    for top, folders, names in os.walk(Path(folder)):
        folders[:] = sorted(folders) if deep else []
        for path in (Path(top) / name for name in sorted(names)):
            if _is_regular(path) and may_be_dicom(_begin(path) or b""):
                return True
    return False


@contextmanager
def dicom_files(source: str | os.PathLike) -> Iterator[DicomFiles]:
    """The DICOM files of a source.

    Parameters
    ----------
    source : str or path
        A folder (with its subfolders; links to folders are not followed), a DICOMDIR (the folder it lies in: its own
        list of files, which is often wrong, is not used), a zip archive (extracted into a private temporary folder that
        is removed at the end), or a DICOM file (its folder without subfolders).

    Yields
    ------
    DicomFiles
        The files that may be DICOM, judged by their first bytes.

    Raises
    ------
    SkullVAEError
        The source cannot be read, has too many files, or an archive is damaged, encrypted or too large.
    """
    source = Path(source)
    if source.is_dir():
        yield _in_folder(source)
    elif source.name.lower() == "dicomdir":
        yield _in_folder(source.parent)
    elif (_begin(source) or b"").startswith((_ZIP, _EMPTY_ZIP)):
        with tempfile.TemporaryDirectory(prefix="skullvae_") as folder:
            _extract(source, Path(folder))
            yield _in_folder(Path(folder))
    else:
        found = _in_folder(source.parent, deep=False)
        found.only = source
        if source not in found.paths:
            raise unreadable(source)
        yield found


def _in_folder(folder: Path, deep: bool = True) -> DicomFiles:
    """The files of a folder that may be DICOM, by their first bytes."""
    found, count = DicomFiles(), 0
    for top, folders, names in os.walk(folder, onerror=lambda error: _count_unreadable(found)):
        folders[:] = sorted(folders) if deep else []
        for name in sorted(names):
            count += 1
            if count > _MOST_FILES:
                raise SkullVAEError(
                    f"'{folder.name}' has more than {_MOST_FILES} files", "Choose the folder of one study"
                )
            path = Path(top) / name
            # The index of a medium has no image.
            if name.lower() == "dicomdir" or not _is_regular(path):
                continue
            begin = _begin(path)
            if begin is None:
                found.unreadable += 1
            elif begin.startswith(_ZIP):
                found.archives += 1
            elif may_be_dicom(begin):
                found.paths.append(path)
    if not os.access(folder, os.R_OK | os.X_OK):
        raise SkullVAEError(f"The folder '{folder.name}' is not readable", "Check its permissions")
    return found


def _count_unreadable(found: DicomFiles) -> None:
    found.unreadable += 1


def _is_regular(path: Path) -> bool:
    """Whether a path is a file: opening a pipe would wait, and reading a device would not end."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _begin(path: Path) -> bytes | None:
    """The first bytes of a file; None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_BEGIN)
    except OSError:
        return None


def _extract(archive: Path, folder: Path) -> None:
    """Extract the files of a zip archive as 000000, 000001 and so on: its own names are not used, so that none can lead
    out of the folder, and none can carry a patient's name."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            claimed = sum(member.file_size for member in members)
            _check_archive(archive, members, claimed)
            if claimed > shutil.disk_usage(folder).free:
                raise SkullVAEError(
                    f"'{archive.name}' needs {claimed / 2**30:.1f} GiB of temporary disk space to be extracted",
                    "Free some space, or set TMPDIR to a larger disk",
                )
            for number, member in enumerate(members):
                if stat.S_ISLNK(member.external_attr >> 16):
                    continue
                left = member.file_size
                with opened.open(member) as content, open(folder / f"{number:06d}", "wb") as target:
                    # The claimed size limits what is written, whatever the member holds.
                    while left > 0 and (block := content.read(min(_BLOCK, left))):
                        target.write(block)
                        left -= len(block)
    except (*_ZIP_ERRORS, OSError) as error:
        if getattr(error, "errno", None) is not None:  # of the disk, not of the archive
            raise
        if "encrypted" in str(error) or "password" in str(error):
            raise SkullVAEError(f"'{archive.name}' is encrypted", "Extract it and give the folder") from error
        raise SkullVAEError(
            f"'{archive.name}' cannot be read as a zip archive: it is damaged or incomplete", "Copy it again"
        ) from error


def _check_archive(archive: Path, members: list[zipfile.ZipInfo], claimed: int) -> None:
    """Reject an archive with too many files or with contents that no study has; raises SkullVAEError."""
    if len(members) > _MOST_FILES:
        raise SkullVAEError(f"'{archive.name}' has more than {_MOST_FILES} files", "Give the archive of one study")
    excessive = any(
        member.file_size > _SMALL_BYTES and member.file_size > _MAX_COMPRESSION * member.compress_size
        for member in members
    )
    # All members together, too: those of a malicious archive may share their bytes.
    excessive = excessive or claimed > _MAX_COMPRESSION * archive.stat().st_size + _SMALL_BYTES
    if claimed > _MOST_BYTES or excessive:
        raise SkullVAEError(
            f"'{archive.name}' claims {claimed / 2**30:.1f} GiB of files, more than a study compresses to its size",
            "Extract it and give the folder",
        )
