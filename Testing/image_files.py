"""Image files as they come, and with what may be wrong with them, for tests of what is read."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import write_volume

SHAPE = (7, 9, 11)


def numbered_voxels() -> np.ndarray:
    """Voxels that all differ, so that none can be mistaken for another."""
    return np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def nifti(
    folder: Path,
    name: str = "bad.nii.gz",
    array: np.ndarray | None = None,
    affine: np.ndarray | None = None,
    **fields: tuple,
) -> Path:
    """A NIfTI file whose header fields, given as byte offset and struct format, are patched after writing."""
    array = numbered_voxels() if array is None else array
    raw = bytearray(nib.Nifti1Image(array, np.eye(4) if affine is None else affine).to_bytes())
    for offset, form, *values in fields.values():
        struct.pack_into("<" + form, raw, offset, *values)
    path = folder / name
    path.write_bytes(gzip.compress(bytes(raw)) if name.endswith(".gz") else bytes(raw))
    return path


def nrrd(
    folder: Path, sizes: str = "11 9 7", directions: str = "(1,0,0) (0,1,0) (0,0,1)", name: str = "bad.nrrd"
) -> Path:
    """An NRRD file of numbered voxels, whatever its header says."""
    path = folder / name
    head = (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n"
        f"space directions: {directions}\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
        "space origin: (0,0,0)\n\n"
    )
    path.write_bytes(head.encode() + numbered_voxels().tobytes())
    return path


def cut(path: Path, keep: int | None) -> Path:
    """A file of which only the first bytes are kept."""
    path.write_bytes(path.read_bytes()[:keep])
    return path


def written(folder: Path, name: str) -> Path:
    """A small image of voxels that do not compress, so that a cut takes some away."""
    rng = np.random.default_rng(0)
    write_volume(Volume(rng.integers(0, 9999, (30, 30, 30)).astype(np.int16), np.eye(4)), folder / name)
    return folder / name


def several_values(path: Path) -> Path:
    """An image of three values a voxel."""
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6, 7, 3), np.uint8), isVector=True), str(path))
    return path
