"""Volumes: an array and its affine, which never travel apart; reading and writing them."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import SkullVAEError

SUFFIXES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha")

# ITK keeps world coordinates in LPS; this library, like nibabel and Slicer, in RAS.
_LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Volume:
    """A 3D image and where it lies.

    array: (I, J, K) voxels, in the file's own axis order; affine: (4, 4) float64, voxel index -> RAS mm.
    """

    array: np.ndarray
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        """(3,) edge lengths of a voxel in mm along the array's axes."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000

    def with_array(self, array: np.ndarray) -> Volume:
        """The same grid with other voxels."""
        if array.shape != self.array.shape:
            raise ValueError(f"array has shape {array.shape}, the grid has {self.array.shape}")
        return Volume(array, self.affine)


def read_volume(path: str | os.PathLike) -> Volume:
    """Read a 3D image (.nrrd, .nhdr, .nii, .nii.gz, .mha).

    Raises SkullVAEError when the file is missing, unreadable or not a 3D scalar image.
    """
    path = Path(path)
    if not path.is_file():
        raise SkullVAEError(f"The file '{path}' does not exist", "Check the path")
    if not path.name.lower().endswith(SUFFIXES):
        raise SkullVAEError(f"'{path.name}' has no known image suffix", f"Use one of {', '.join(SUFFIXES)}")
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise SkullVAEError(f"'{path.name}' cannot be read as an image", "Check that the file is whole") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise SkullVAEError(f"'{path.name}' is not a 3D image with one value per voxel", "Choose a CT or a labelmap")
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).transpose(2, 1, 0), _LPS_RAS @ affine)


def to_image(volume: Volume) -> sitk.Image:
    """The volume as a SimpleITK image, whose world coordinates are LPS mm."""
    affine = _LPS_RAS @ volume.affine
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.transpose(2, 1, 0)))
    image.SetSpacing(volume.spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / volume.spacing).ravel().tolist())
    return image


def write_volume(volume: Volume, path: str | os.PathLike) -> None:
    """Write a volume, compressed; the file appears whole or not at all (temporary file, then rename)."""
    path = Path(path)
    suffix = next(s for s in (*SUFFIXES[::-1],) if path.name.lower().endswith(s))
    handle, temporary = tempfile.mkstemp(suffix=suffix, prefix=".", dir=path.parent)
    os.close(handle)
    try:
        sitk.WriteImage(to_image(volume), temporary, useCompression=True, compressionLevel=1)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
