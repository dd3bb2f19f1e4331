"""Volume: an array with its affine; cropping, reorientation and interpolation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from SkullVAELib.geometry.affines import apply_affine, nearest_axes


@dataclass(frozen=True)
class Volume:
    """A 3D image with its position in the patient.

    Parameters
    ----------
    array : (I, J, K) array
        Voxels in the file's own axis order.
    affine : (4, 4) float64 array
        Voxel index to RAS, mm.
    name : str
        Of the file that it was read from; empty for other volumes.
    warnings : tuple of str
        What the user should know about the file's header, for the report.
    """

    array: np.ndarray
    affine: np.ndarray
    name: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def spacing(self) -> np.ndarray:
        """(3,) edge lengths of a voxel in mm along the array's axes."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000

    def with_array(self, array: np.ndarray) -> Volume:
        """A volume on the same grid with other voxels; raises ValueError for another shape."""
        if array.shape != self.array.shape:
            raise ValueError(f"array has shape {array.shape}, the grid has {self.array.shape}")
        return Volume(array, self.affine)


def sample_volume(volume: Volume, points: np.ndarray, beyond: float) -> np.ndarray:
    """Trilinear values (N,), float32, of a volume at points (N, 3) in RAS mm; `beyond` outside the volume."""
    matrix = np.linalg.inv(volume.affine)
    index = points @ matrix[:3, :3].T + matrix[:3, 3]
    return ndimage.map_coordinates(volume.array, index.T, np.float32, order=1, mode="constant", cval=beyond)


def to_nearest_ras(volume: Volume) -> Volume:
    """The volume with axes permuted and flipped to run closest to R, A, S; a view, nothing is resampled."""
    axes, signs = nearest_axes(volume.affine)
    array = volume.array[tuple(slice(None, None, sign) for sign in signs)].transpose(np.argsort(axes))
    unflip = np.diag([*signs, 1.0])
    unflip[:3, 3] = np.where(signs < 0, np.array(volume.array.shape) - 1.0, 0.0)
    return Volume(array, volume.affine @ (unflip @ np.eye(4)[[*axes, 3]]))


def crop(volume: Volume, box: tuple[slice, ...]) -> Volume:
    """A box of a volume, as a view, with its affine adapted: it keeps its position in the patient."""
    affine = volume.affine.copy()
    affine[:3, 3] = apply_affine(volume.affine, np.array([s.start for s in box], float))
    return Volume(volume.array[box], affine)
