"""What an image file's header asks for, checked before ITK is asked.

ITK's readers trust what they read. A long line in an NRRD header overruns a buffer and ends the process, an infinite
number in a NIfTI header is iterated over for ever, and the header of either NRRD or MetaImage may name any file of the
machine as its voxels: a pipe that waits, a device, somebody's document. Docs/robustness.md tells what else was found.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import nibabel as nib
import numpy as np

from SkullVAELib.core.errors import SkullVAEError

# Of an NRRD header: Slicer's segmentations keep some hundred lines on each segment in theirs.
_LONGEST_HEADER = 2**22

# From about a thousand characters on, an NRRD field that cannot be understood overruns the buffer of ITK's message
# about it, and so does the path of a file that cannot be.
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

_MOST_META_FIELDS = 1000
_META_TYPES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?"
# What the numbers look like, and of the dimensions the power that is their count.
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


def check_nrrd(path: Path) -> Path:
    """Check an NRRD header (.nrrd, .nhdr); returns the file that holds the voxels. Raises SkullVAEError."""
    if len(os.fsencode(os.path.abspath(path))) > _LONGEST_PATH:
        raise SkullVAEError(f"'{path.name}' lies in too many folders", "Move it to a shorter path")
    with open(path, "rb") as file:
        begin = file.read(_LONGEST_HEADER).replace(b"\r\n", b"\n")
    head, ended, _ = begin.partition(b"\n\n")
    if not head.startswith(b"NRRD000") or b"\r" in head or not (ended or path.stat().st_size <= _LONGEST_HEADER):
        raise unreadable(path)
    voxels = path
    for line in head.rstrip(b"\n").split(b"\n")[1:]:
        field, found, value = line.partition(b": ")
        name = field.decode("latin-1").lower().replace(" ", "")
        if line.startswith(b"#") or (name not in _NRRD_FIELDS and b":=" in line):
            continue
        if not found or name not in _NRRD_FIELDS or (len(line) > _LONGEST_FIELD and name != "content"):
            raise unreadable(path)
        if name == "sizes" and any(len(size) > _MOST_DIGITS for size in value.split()):
            raise unreadable(path)  # one that 32 bits cannot hold is taken for another
        if name == "datafile":
            voxels = _data_file(path, value)
    return voxels


def check_meta(path: Path) -> Path:
    """Check a MetaImage header (.mha) and that all voxels are there; returns the file that holds them.

    Stricter than the format: MetaIO runs over its arrays where a field is told twice, or has other numbers than the
    dimensions, and leaves voxels that compressed data lack to chance. Raises SkullVAEError.
    """
    told: dict[str, str] = {}
    with open(path, "rb") as file:
        while "ElementDataFile" not in told:
            line = file.readline(_LONGEST_FIELD)
            name, found, value = line.decode("latin-1").replace(":", "=", 1).partition("=")
            name = name.strip()
            if not found or not line.endswith(b"\n") or name in told or len(told) > _MOST_META_FIELDS:
                raise unreadable(path)
            told[name] = value.strip()
        begin = file.tell()
    if not re.fullmatch("[1-9]", told.get("NDims", "")) or told.get("ObjectType") != "Image":
        raise unreadable(path)
    dimensions = int(told["NDims"])
    for name, (pattern, power) in _META_NUMBERS.items():
        numbers = told.get(name, "").split()
        if name in told and not (len(numbers) == dimensions**power and all(re.fullmatch(pattern, n) for n in numbers)):
            raise unreadable(path)
    size, channels = told.get("DimSize"), told.get("ElementNumberOfChannels", "1")
    item, compressed = _META_TYPES.get(told.get("ElementType", "")), told.get("CompressedData", "False")
    if size is None or item is None or channels != "1" or told.get("BinaryData", "True") != "True":
        raise unreadable(path)
    if compressed not in ("True", "False"):
        raise unreadable(path)
    needed = math.prod(map(int, size.split())) * item
    voxels = path
    if told["ElementDataFile"].lower() != "local":
        voxels, begin = _data_file(path, told["ElementDataFile"].encode("latin-1")), 0
    stored = voxels.stat().st_size - max(begin, int(told.get("HeaderSize", "0")))
    if compressed == "False":
        whole = stored >= needed
    elif "HeaderSize" in told or not 0 < int(told.get("CompressedDataSize", "0")) <= stored:
        whole = False
    else:
        whole = _inflated_bytes(voxels, begin, int(told["CompressedDataSize"]), needed) >= needed
    if not whole:
        raise cut_short(path)
    return voxels


def check_nifti(path: Path, zipped: bool) -> nib.Nifti1Header:
    """Check a NIfTI header; returns it as it is in the file. Raises SkullVAEError."""
    try:
        with cast(BinaryIO, gzip.open(path) if zipped else open(path, "rb")) as file:
            raw = file.read(_NIFTI_VOXELS)
            if len(raw) < _NIFTI_VOXELS:
                raise cut_short(path)
            order = "<" if struct.unpack("<i", raw[:4])[0] == _NIFTI_HEADER else ">"
            if struct.unpack(order + "i", raw[:4])[0] != _NIFTI_HEADER or raw[344:348] != b"n+1\0":
                raise SkullVAEError(f"'{path.name}' is no NIfTI-1 image in one file", "Save it as .nii.gz again")
            header = nib.Nifti1Header(raw[:_NIFTI_HEADER], order, check=False)
            _check_nifti_numbers(path, header)
            if raw[_NIFTI_HEADER]:
                _check_extensions(path, file, int(header["vox_offset"]) - _NIFTI_VOXELS, order)
    except (OSError, EOFError, zlib.error) as error:
        raise cut_short(path) from error
    return header


def _check_nifti_numbers(path: Path, header: nib.Nifti1Header) -> None:
    """Raise SkullVAEError for numbers that are none where ITK computes with them."""
    used = [header["pixdim"][:4]]
    if header["qform_code"] > 0:
        used += [header[f"quatern_{axis}"] for axis in "bcd"] + [header[f"qoffset_{axis}"] for axis in "xyz"]
    if header["sform_code"] > 0:
        used += [header[f"srow_{axis}"] for axis in "xyz"]
    if not all(np.isfinite(numbers).all() for numbers in used):
        raise SkullVAEError(f"'{path.name}' has a grid that is not made of numbers", "Correct its header")
    offset = float(header["vox_offset"])
    if not (1 <= header["dim"][0] <= 7 and _NIFTI_VOXELS <= offset <= _MAX_NIFTI_OFFSET):
        raise unreadable(path)


def _check_extensions(path: Path, file: BinaryIO, room: int, order: str) -> None:
    """Raise SkullVAEError unless the header's extensions lie one after the other before the voxels."""
    while room >= 16:
        size, _ = struct.unpack(order + "ii", file.read(8).ljust(8, b"\0"))
        if size % 16 or not 16 <= size <= room:
            raise unreadable(path)
        file.read(size - 8)
        room -= size


def _inflated_bytes(path: Path, begin: int, length: int, enough: int) -> int:
    """Bytes that `length` deflated ones from `begin` on hold, 0 when they are damaged; counting stops at `enough`."""
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
    """The file of voxels that a header names: a plain name of a regular file beside it, else raises SkullVAEError."""
    remedy = "Keep header and data together, or export it as one file"
    try:
        told = name.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise unreadable(header) from None
    words = told.split()
    if not told or words[0] == "LIST" or "%" in told:
        raise SkullVAEError(f"'{header.name}' spreads its voxels over several files", "Export it as one file")
    if told in (".", "..") or any(mark in told for mark in "/\\:\0"):
        raise SkullVAEError(f"'{header.name}' names a data file outside its folder", remedy)
    path = header.parent / told
    if not os.path.isfile(path):  # unlike Path's it says no of a name that is too long
        raise SkullVAEError(f"The data file that '{header.name}' names is missing", remedy)
    return path


def cut_short(path: Path) -> SkullVAEError:
    """The error for a file that lacks a part."""
    return SkullVAEError(f"'{path.name}' is damaged or was cut short", "Export or copy it again")


def unreadable(path: Path) -> SkullVAEError:
    """The error for a file that is no image of its kind."""
    return SkullVAEError(f"'{path.name}' cannot be read as an image", "Check that the file is whole")
