"""What an image file's header asks for, checked before ITK is asked.

ITK's readers trust what they read. A long line in an NRRD header overruns a buffer and ends the process, an infinite
number in a NIfTI header is iterated over for ever, and the header of either NRRD or MetaImage may name any file of the
machine as its voxels: a device that never ends, a pipe that waits, somebody's document. `make fuzz` found these.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np

from .errors import SkullVAEError

# Of an NRRD header: Slicer's segmentations keep some hundred lines on each segment in theirs.
_LONGEST_HEADER = 2**22

# From about a thousand characters on, an NRRD field that cannot be understood overruns the buffer of ITK's message
# about it, and so does the path of a file that cannot be.
_LONGEST_FIELD = 500
_LONGEST_PATH = 800

_NRRD_FIELDS = frozenset(
    (
        *("content", "number", "type", "dimension", "space", "sizes", "kinds", "labels", "units", "endian", "encoding"),
        *("spacings", "thicknesses", "centers", "centerings", "min", "max", "oldmin", "oldmax", "axismins", "axismaxs"),
        *("blocksize", "lineskip", "byteskip", "sampleunits", "spacedimension", "spaceunits", "spaceorigin"),
        *("spacedirections", "measurementframe", "datafile"),
    )
)

_NIFTI_HEADER, _NIFTI_VOXELS = 348, 352
_MAX_NIFTI_OFFSET = 2**24


def check_nrrd(path: Path) -> Path:
    """Check an NRRD header (.nrrd, .nhdr); returns the file that holds the voxels. Raises SkullVAEError."""
    if len(os.fsencode(os.path.abspath(path))) > _LONGEST_PATH:
        raise SkullVAEError(f"'{path.name}' lies in too many folders", "Move it to a shorter path")
    with open(path, "rb") as file:
        lines = file.read(_LONGEST_HEADER).split(b"\n\n", 1)[0].split(b"\r\n\r\n", 1)[0].splitlines()
    if not lines or not lines[0].startswith(b"NRRD000"):
        raise unreadable(path)
    voxels = path
    for line in lines[1:]:
        name, found, value = line.partition(b": ")
        name = name.decode("latin-1").lower().replace(" ", "")
        if line.startswith(b"#") or (name not in _NRRD_FIELDS and b":=" in line):
            continue
        if not found or name not in _NRRD_FIELDS or (len(line) > _LONGEST_FIELD and name != "content"):
            raise unreadable(path)
        if name == "datafile":
            voxels = _data_file(path, value)
    return voxels


def check_meta(path: Path) -> Path:
    """Check a MetaImage header (.mha); returns the file that holds the voxels. Raises SkullVAEError."""
    with open(path, "rb") as file:
        for line in _meta_lines(file):
            name, found, value = line.replace(b":", b"=", 1).partition(b"=")
            name = name.strip()
            if not found or (len(line) > _LONGEST_FIELD and name not in (b"Name", b"Comment")):
                raise unreadable(path)
            if name == b"ElementDataFile":
                value = value.strip()
                return path if value in (b"LOCAL", b"Local", b"local") else _data_file(path, value)
    raise unreadable(path)


def check_nifti(path: Path, zipped: bool) -> nib.Nifti1Header:
    """Check a NIfTI header; returns it as it is in the file. Raises SkullVAEError."""
    try:
        with gzip.open(path) if zipped else open(path, "rb") as file:
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


def _meta_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines up to the first that is far too long for a header, or the end of as many as there may be."""
    for _ in range(1000):
        line = file.readline(_LONGEST_HEADER)
        if not line:
            return
        yield line.rstrip(b"\r\n")


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
