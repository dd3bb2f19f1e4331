"""Copies of files that ITK cannot read as they are, in a private temporary folder: what they contain is the same."""

from __future__ import annotations

import bz2
import gzip
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np

from SkullVAELib.io.header_checks import CheckedHeader, cut_short, unreadable

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

# bzip2 can shrink empty images more than a hundred thousand times; no image that has content comes near this.
_MAX_COMPRESSION = 5000

_LARGEST_VOXEL = 8
_BLOCK = 2**22

# Fields that say where and how the voxels are stored, which the copy has in another way.
_STORAGE = ("encoding", "datafile", "lineskip", "byteskip")


@contextmanager
def lower_case_copy(path: Path, suffix: str) -> Iterator[Path]:
    """The file under a name that ITK accepts: niftilib rejects suffixes of mixed case such as .Nii.Gz."""
    written = path.name[-len(suffix) :]
    if not suffix.startswith(".nii") or written in (suffix, suffix.upper()):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="skullvae_") as folder:
        copy = Path(folder) / f"image{suffix}"
        try:
            os.symlink(path.absolute(), copy)
        except OSError:  # Windows allows links to administrators only
            shutil.copyfile(path, copy)
        yield copy


@contextmanager
def inflated_nrrd(path: Path, header: CheckedHeader, most_voxels: int) -> Iterator[Path]:
    """The NRRD file with its bzip2 voxels uncompressed, which ITK cannot do; raises SkullVAEError if damaged."""
    sizes = header.fields.get("sizes", "").split()
    if not sizes or not all(size.isdigit() for size in sizes) or math.prod(map(int, sizes)) > most_voxels:
        raise unreadable(path)
    if any(header.fields.get(name, "0").strip() != "0" for name in ("lineskip", "byteskip")):
        raise unreadable(path)
    begin = header.begin if header.voxels == path else 0
    most = min(math.prod(map(int, sizes)) * _LARGEST_VOXEL, _MAX_COMPRESSION * header.voxels.stat().st_size)
    with tempfile.TemporaryDirectory(prefix="skullvae_") as folder:
        copy = Path(folder) / "image.nrrd"
        with open(copy, "wb") as target, open(path, "rb") as source:
            for line in source.read(header.begin).splitlines():
                name = line.partition(b": ")[0].decode("latin-1").lower().replace(" ", "")
                if line and name not in _STORAGE:
                    target.write(line + b"\n")
            target.write(b"encoding: raw\n\n")
            with open(header.voxels, "rb") as stored:
                stored.seek(begin)
                try:
                    _copy(cast(BinaryIO, bz2.BZ2File(stored)), target, most)
                except (OSError, EOFError) as error:
                    if getattr(error, "errno", None) is not None:  # of the disk, not of the data
                        raise
                    raise cut_short(path) from error
        yield copy


@contextmanager
def with_sform(path: Path, zipped: bool, header: Nifti1Header, sform: np.ndarray) -> Iterator[Path]:
    """The NIfTI file, uncompressed, with another sform (4, 4), in the unit of the file."""
    changed = header.copy()
    for axis, row in zip("xyz", sform, strict=False):
        changed[f"srow_{axis}"] = row
    voxels = math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
    with tempfile.TemporaryDirectory(prefix="skullvae_") as folder:
        copy = Path(folder) / "image.nii"
        try:
            with cast(BinaryIO, gzip.open(path) if zipped else open(path, "rb")) as source, open(copy, "wb") as target:
                block = changed.binaryblock
                source.read(len(block))
                target.write(block)
                _copy(source, target, int(header["vox_offset"]) + voxels)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise cut_short(path) from error
        yield copy


def _copy(source: BinaryIO, target: BinaryIO, most: int) -> None:
    """Copy at most so many bytes."""
    while most > 0 and (block := source.read(min(_BLOCK, most))):
        target.write(block)
        most -= len(block)
