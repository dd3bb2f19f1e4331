"""Checks of an image file's header, made before ITK reads the file.

ITK's readers trust the file. A long line in an NRRD header overruns a buffer and ends the process, an infinite number
in a NIfTI header causes an endless loop, and the header of an NRRD or MetaImage file may name any file of the machine
as its voxels: a pipe, a device, another document. The robustness page of the documentation lists further findings.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.io.other_formats import error_for_other_format

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

# Bytes of an NRRD header: those of Slicer's segmentations have about a hundred lines for each segment.
_LONGEST_HEADER = 2**22

# An invalid NRRD field of about a thousand characters overruns the buffer of ITK's message about it, and so does the
# path of an invalid file.
_LONGEST_FIELD = 500
_LONGEST_PATH = 800

_MOST_DIGITS = 9

_NRRD_FIELDS = frozenset(
    (
        *("content", "number", "type", "dimension", "space", "sizes", "kinds", "labels", "units", "endian", "encoding"),
        *("spacings", "thicknesses", "centers", "centerings", "min", "max", "oldmin", "oldmax", "axismins", "axismaxs"),
        *("blocksize", "lineskip", "byteskip", "sampleunits", "spacedimension", "spaceunits", "spaceorigin"),
        *("spacedirections", "measurementframe", "datafile"),
    )
)

# The spaces of NRRD that state where the patient's right, front and top are; ITK follows these alone.
_NRRD_SPACES = frozenset(
    (
        *("right-anterior-superior", "left-anterior-superior", "left-posterior-superior", "ras", "las", "lps"),
        *("right-anterior-superior-time", "left-anterior-superior-time", "left-posterior-superior-time"),
        *("rast", "last", "lpst"),
    )
)

_MOST_META_FIELDS = 1000
_META_TYPES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?"
# The pattern of each number, and the power of the number of dimensions that is their count.
_META_NUMBERS = {
    "DimSize": (r"\d{1,9}", 1),
    **dict.fromkeys(
        ("ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation"), (_NUMBER, 1)
    ),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), (_NUMBER, 2)),
    **dict.fromkeys(("ElementMin", "ElementMax"), (_NUMBER, 0)),
    **dict.fromkeys(("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"), (_NUMBER, 0)),
    "CompressedDataSize": (r"\d{1,12}", 0),
    "HeaderSize": (r"-1|\d{1,10}", 0),
}

_NIFTI_HEADER, _NIFTI_VOXELS = 348, 352
_MAX_NIFTI_OFFSET = 2**24


@dataclass(frozen=True)
class CheckedHeader:
    """What the checks of an NRRD or MetaImage header found.

    Attributes
    ----------
    voxels : Path
        The file that holds the voxels: the file itself, or a data file beside it.
    begin : int
        Size of the header in the file itself, bytes.
    unstated : str
        What the header lacks to state the orientation; empty if it states it.
    fields : dict
        Fields of an NRRD header: name in lower case without spaces -> value.
    keys : dict
        Key-value pairs of an NRRD header.
    """

    voxels: Path
    begin: int = 0
    unstated: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def is_bzip2(self) -> bool:
        """Whether the voxels of an NRRD file are compressed by bzip2."""
        return self.fields.get("encoding", "").strip().lower() in ("bzip2", "bz2")

    @property
    def has_layers(self) -> bool:
        """Whether the first of four axes of an NRRD file is a list, as in a segmentation with several layers."""
        first = self.fields.get("kinds", "").split()[:1]
        return self.fields.get("dimension", "").strip() == "4" and first == ["list"]


def check_nrrd(path: Path) -> CheckedHeader:
    """Check an NRRD header (.nrrd, .nhdr). Raises SkullVAEError."""
    if len(os.fsencode(os.path.abspath(path))) > _LONGEST_PATH:
        raise SkullVAEError(f"The path of '{path.name}' is too long", "Move the file to a shorter path")
    with open(path, "rb") as file:
        raw = file.read(_LONGEST_HEADER)
    head, ended, _ = raw.replace(b"\r\n", b"\n").partition(b"\n\n")
    if not head.startswith(b"NRRD000") or b"\r" in head or not (ended or path.stat().st_size <= _LONGEST_HEADER):
        raise error_for_other_format(path) or unreadable(path)
    voxels, fields, keys = path, {}, {}
    for line in head.rstrip(b"\n").split(b"\n")[1:]:
        field, found, value = line.partition(b": ")
        name = field.decode("latin-1").lower().replace(" ", "")
        if line.startswith(b"#"):
            continue
        if name not in _NRRD_FIELDS and b":=" in line:
            key, _, text = line.partition(b":=")
            keys[key.decode("utf-8", "replace")] = text.decode("utf-8", "replace")
            continue
        if not found or name not in _NRRD_FIELDS or (len(line) > _LONGEST_FIELD and name != "content"):
            raise unreadable(path)
        if name == "sizes" and any(len(size) > _MOST_DIGITS for size in value.split()):
            raise unreadable(path)  # a size above 32 bits would be misread
        fields[name] = value.decode("latin-1")
        if name == "datafile":
            voxels = _data_file(path, value)
    space, unstated = fields.get("space", "").strip(), ""
    if space.lower() not in _NRRD_SPACES:
        unstated = f"its space is '{space[:40]}'" if space else "no space"
    elif "spacedirections" not in fields:
        unstated = "no space directions"
    # The empty line that ends the header, with either kind of line end.
    end = re.search(rb"\r?\n\r?\n", raw)
    return CheckedHeader(voxels, end.end() if end else len(raw), unstated, fields, keys)


def check_meta(path: Path) -> CheckedHeader:
    """Check a MetaImage header (.mha, .mhd) and that all voxels are there.

    Stricter than the format: MetaIO overruns its arrays if a field is repeated or has another count of numbers than
    dimensions, and leaves voxels undefined if compressed data are incomplete. Raises SkullVAEError.
    """
    fields: dict[str, str] = {}
    with open(path, "rb") as file:
        while "ElementDataFile" not in fields:
            line = file.readline(_LONGEST_FIELD)
            name, found, value = line.decode("latin-1").replace(":", "=", 1).partition("=")
            name = name.strip()
            if not found or not line.endswith(b"\n") or name in fields or len(fields) > _MOST_META_FIELDS:
                raise error_for_other_format(path) or unreadable(path)
            fields[name] = value.strip()
        begin = file.tell()
    if not re.fullmatch("[1-9]", fields.get("NDims", "")) or fields.get("ObjectType") != "Image":
        raise unreadable(path)
    dimensions = int(fields["NDims"])
    for name, (pattern, power) in _META_NUMBERS.items():
        numbers = fields.get(name, "").split()
        if name in fields and not (
            len(numbers) == dimensions**power and all(re.fullmatch(pattern, n) for n in numbers)
        ):
            raise unreadable(path)
    size, channels = fields.get("DimSize"), fields.get("ElementNumberOfChannels", "1")
    item, compressed = _META_TYPES.get(fields.get("ElementType", "")), fields.get("CompressedData", "False")
    if size is None or item is None or channels != "1" or fields.get("BinaryData", "True") != "True":
        raise unreadable(path)
    if compressed not in ("True", "False"):
        raise unreadable(path)
    needed = math.prod(map(int, size.split())) * item
    voxels = path
    if fields["ElementDataFile"].lower() != "local":
        voxels, begin = _data_file(path, fields["ElementDataFile"].encode("latin-1")), 0
    stored = voxels.stat().st_size - max(begin, int(fields.get("HeaderSize", "0")))
    if compressed == "False":
        whole = stored >= needed
    elif "HeaderSize" in fields or not 0 < int(fields.get("CompressedDataSize", "0")) <= stored:
        whole = False
    else:
        whole = _inflated_bytes(voxels, begin, int(fields["CompressedDataSize"]), needed) >= needed
    if not whole:
        raise cut_short(path)
    stated = fields.keys() & {"TransformMatrix", "Rotation", "Orientation"}
    return CheckedHeader(voxels, begin, "" if stated else "no TransformMatrix")


def check_nifti(path: Path, zipped: bool) -> Nifti1Header:
    """Check a NIfTI header; returns it as it is in the file. Raises SkullVAEError."""
    from nibabel.nifti1 import Nifti1Header  # imported here since most images are not NIfTI

    try:
        with cast(BinaryIO, gzip.open(path) if zipped else open(path, "rb")) as file:
            raw = file.read(_NIFTI_VOXELS)
            if len(raw) < _NIFTI_VOXELS:
                raise cut_short(path)
            order = "<" if struct.unpack("<i", raw[:4])[0] == _NIFTI_HEADER else ">"
            if struct.unpack(order + "i", raw[:4])[0] != _NIFTI_HEADER or raw[344:348] != b"n+1\0":
                raise error_for_other_format(path) or SkullVAEError(
                    f"'{path.name}' is not a NIfTI-1 image in one file", "Save it as .nii.gz again"
                )
            header = Nifti1Header(raw[:_NIFTI_HEADER], order, check=False)
            _check_nifti_numbers(path, header)
            if raw[_NIFTI_HEADER]:
                _check_extensions(path, file, int(header["vox_offset"]) - _NIFTI_VOXELS, order)
    except (OSError, EOFError, zlib.error) as error:
        raise cut_short(path) from error
    return header


def _check_nifti_numbers(path: Path, header: Nifti1Header) -> None:
    """Raise SkullVAEError for numbers that are not finite where ITK computes with them."""
    used = [header["pixdim"][:4]]
    if header["qform_code"] > 0:
        used += [header[f"quatern_{axis}"] for axis in "bcd"] + [header[f"qoffset_{axis}"] for axis in "xyz"]
    if header["sform_code"] > 0:
        used += [header[f"srow_{axis}"] for axis in "xyz"]
    if not all(np.isfinite(numbers).all() for numbers in used):
        raise SkullVAEError(f"'{path.name}' has a grid with values that are not finite", "Correct its header")
    offset = float(header["vox_offset"])
    if not (1 <= header["dim"][0] <= 7 and _NIFTI_VOXELS <= offset <= _MAX_NIFTI_OFFSET):
        raise unreadable(path)


def _check_extensions(path: Path, file: BinaryIO, room: int, order: str) -> None:
    """Raise SkullVAEError unless the header's extensions are contiguous before the voxels."""
    while room >= 16:
        size, _ = struct.unpack(order + "ii", file.read(8).ljust(8, b"\0"))
        if size % 16 or not 16 <= size <= room:
            raise unreadable(path)
        file.read(size - 8)
        room -= size


def _inflated_bytes(path: Path, begin: int, length: int, enough: int) -> int:
    """Uncompressed size of `length` deflated bytes from `begin`, 0 if they are damaged; stops at `enough`."""
    count, inflater = 0, zlib.decompressobj(47)  # zlib's or gzip's header
    try:
        with open(path, "rb") as file:
            file.seek(begin)
            while count < enough and not inflater.eof:
                block = inflater.unconsumed_tail
                if not block:
                    block = file.read(min(length, 2**20))
                    length -= len(block)
                if not block:
                    break
                count += len(inflater.decompress(block, 2**22))
    except zlib.error:
        return 0
    return count


def _data_file(header: Path, name: bytes) -> Path:
    """The data file that a header names: a regular file in the same folder, else raises SkullVAEError."""
    remedy = "Keep header and data together, or export it as one file"
    try:
        named = name.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise unreadable(header) from None
    words = named.split()
    if not named or words[0] == "LIST" or "%" in named:
        raise SkullVAEError(f"'{header.name}' spreads its voxels over several files", "Export it as one file")
    named = re.sub(r"^(\./)+", "", named)
    if named in ("", ".", "..") or any(mark in named for mark in "/\\:\0"):
        raise SkullVAEError(f"'{header.name}' names a data file outside its folder", remedy)
    path = header.parent / named
    if not os.path.isfile(path):  # unlike Path.is_file it returns False for a name that is too long
        raise SkullVAEError(f"The data file that '{header.name}' names is missing", remedy)
    return path


def cut_short(path: Path) -> SkullVAEError:
    """The error for an incomplete file."""
    return SkullVAEError(f"'{path.name}' is damaged or truncated", "Export or copy it again")


def unreadable(path: Path) -> SkullVAEError:
    """The error for a file that is not a valid image of its format."""
    return SkullVAEError(f"'{path.name}' cannot be read as an image", "Check that the file is complete")
