"""Bone that is known from another image or from a scan: a CT, a segmentation, or a mesh of a skull or of a part."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import ndimage

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.distance_field import signed_distance, surface_points
from SkullVAELib.geometry.grey_levels import GreyLevels
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.io.images import read_volume
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.registration.bone import segment_bone
from SkullVAELib.registration.intensities import resolve_threshold
from SkullVAELib.registration.rigid import PointSurface
from SkullVAELib.registration.skull import Skull, prepare_skull

SMALLEST_MM, LARGEST_MM = 16.0, 700.0
"""Extent below which a part is not measured in millimetres, and above which nothing is."""

# A bone flap is a plate: its extent along the thinnest axis, and its volume, are smaller than those of any skull.
_PLATE_MM = 75.0
_PART_ML = 200.0

# What is smaller than the first, mm, and thicker than the second times its length, is a skull in another unit.
_SMALL_MM, _THICK = 40.0, 0.55

# Voxels of a mesh, and finest voxels of an image, on which distances are computed, mm.
_PART_MM, _SKULL_MM = 0.5, 1.0
_FINEST_MM = 0.45

# Standard deviation of the filter that removes the steps of the voxels of a segmentation, mm, and at least in voxels.
_SMOOTH_MM, _SMOOTH_VOXELS = 0.5, 0.6

# HU per unit of fraction: only where the value crosses the threshold matters.
_STEEP_HU = 1000.0


@dataclass(frozen=True)
class KnownBone:
    """Known bone.

    Attributes
    ----------
    name : str
        Name of its file.
    kind : str
        "skull", or "part" for a bone flap, an implant or another plate.
    bone : Volume
        Bool.
    fraction : Volume or None
        Fraction of bone 0..1 on the same grid, of a mesh; None for an image.
    grey : GreyLevels or None
        The CT that the bone was segmented in; None otherwise.
    mesh : Mesh or None
        The mesh; None for an image.
    warnings : tuple of str
        About the file.
    """

    name: str
    kind: str
    bone: Volume
    fraction: Volume | None = None
    grey: GreyLevels | None = None
    mesh: Mesh | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def read(
        cls, path: str | os.PathLike, threshold_hu: float | None = None, segment: str | int | None = None
    ) -> KnownBone:
        """Read known bone from an image or from a mesh file.

        Parameters
        ----------
        path : str or path
            An image (CT in HU or segmentation, see `read_volume`) or a mesh (see `read_mesh`).
        threshold_hu : float, optional
            Bone threshold of a CT; by default 300 HU.
        segment : str or int, optional
            See `read_volume`.

        Returns
        -------
        KnownBone

        Raises
        ------
        SkullVAEError
            The file cannot be read, has no bone, or is not measured in millimetres.
        """
        from SkullVAELib.mesh.reading import is_mesh_file, read_mesh  # VTK, here since most runs have no known bone

        path = Path(path)
        if is_mesh_file(path):
            return cls.of_mesh(read_mesh(path), path.name)
        if (path / "completed.nrrd").is_file():
            raise SkullVAEError(f"'{path.name}' is a folder of results", "Give its completed.nrrd or its implant.stl")
        return cls.of_volume(read_volume(path, segment), threshold_hu)

    @classmethod
    def of_volume(cls, volume: Volume, threshold_hu: float | None = None) -> KnownBone:
        """Known bone of a CT or of a segmentation; a threshold is not applied to a segmentation."""
        values = volume.array
        if threshold_hu is not None and values.dtype.kind in "bui" and len(np.unique(values[::3, ::3, ::3])) <= 2:
            threshold_hu = None
        volume, threshold_hu = resolve_threshold(volume, threshold_hu)
        segmentation = segment_bone(volume, threshold_hu)
        bone = volume.with_array(segmentation.mask)
        box = bounding_box(bone.array)
        index = np.argwhere(bone.array[box][::2, ::2, ::2])
        points = index * bone.spacing * 2
        kind = _kind(volume.name, points, float(bone.array[box].sum() * bone.voxel_ml))
        return cls(volume.name, kind, bone, grey=segmentation.grey_levels(volume), warnings=volume.warnings)

    @classmethod
    def of_mesh(cls, mesh: Mesh, name: str) -> KnownBone:
        """Known bone of a closed mesh."""
        from SkullVAELib.mesh.reading import voxelise

        kind = _kind(name, mesh.points, mesh.volume_ml)
        fraction = voxelise(mesh, _PART_MM if kind == "part" else _SKULL_MM)
        bone = fraction.with_array(fraction.array >= 0.5)
        if not bone.array.any():
            raise SkullVAEError(f"The mesh '{name}' encloses nothing", "Export it as a closed surface with volume")
        return cls(name, kind, bone, fraction=fraction, mesh=mesh)

    @property
    def volume_ml(self) -> float:
        """Volume of the bone, ml."""
        if self.mesh is not None:
            return self.mesh.volume_ml
        return float(self.bone.array.sum() * self.bone.voxel_ml)

    @cached_property
    def skull(self) -> Skull:
        """The bone at reduced resolution."""
        return prepare_skull(self.name, self.bone, self.grey)

    @cached_property
    def surface(self) -> PointSurface:
        """Points of the surface, below the voxel size; of a skull at reduced resolution."""
        if self.kind == "skull":
            return PointSurface(self.skull.points, self.skull.normals)
        distance = self.distance_around(None, 3.0)
        return PointSurface(*surface_points(distance.with_array(-distance.array), 0.0))

    def distance_around(self, points: np.ndarray | None, margin_mm: float) -> Volume:
        """Signed distance to the surface, below the voxel size, in a box.

        Parameters
        ----------
        points : numpy.ndarray, shape (N, 3), or None
            RAS mm, around which the distance is wanted; None for all of the bone.
        margin_mm : float
            Margin of the box around them, mm.

        Returns
        -------
        Volume
            float32, mm, negative in bone. Beyond the end of the image there is no bone. Empty where the points are
            outside the image.
        """
        bone = self.bone
        margin = np.ceil(margin_mm / bone.spacing).astype(int) + 2
        if points is None:
            box = bounding_box(bone.array)
            low = np.array([along.start for along in box]) - margin
            high = np.array([along.stop for along in box]) + margin
        else:
            index = apply_affine(np.linalg.inv(bone.affine), points)
            low, high = np.floor(index.min(0)).astype(int) - margin, np.ceil(index.max(0)).astype(int) + 1 + margin
        inside = tuple(
            slice(max(0, a), max(0, a, min(n, b)))
            for a, b, n in zip(low.tolist(), high.tolist(), bone.array.shape, strict=True)
        )
        fraction = crop(self._fraction(inside), tuple(slice(0, along.stop - along.start) for along in inside))
        if not fraction.array.size:
            return fraction
        # There is no bone beyond the image, so that a plate that ends there is closed.
        padding = [
            (along.start - a, b - along.stop) for along, a, b in zip(inside, low.tolist(), high.tolist(), strict=True)
        ]
        affine = fraction.affine.copy()
        affine[:3, 3] = apply_affine(affine, -np.array([before for before, _ in padding], float))
        fraction = Volume(np.pad(fraction.array, padding, mode="constant"), affine)
        fraction = _not_too_fine(fraction)
        if not (fraction.array >= 0.5).any():
            return fraction.with_array(np.full(fraction.array.shape, np.float32(margin_mm + 10.0)))
        distance = signed_distance(fraction).astype(np.float32)
        if self.grey is None:
            sigma = np.maximum(_SMOOTH_VOXELS, _SMOOTH_MM / fraction.spacing)
            distance = ndimage.gaussian_filter(distance, sigma * (0.5 if self.fraction is not None else 1.0))
        return fraction.with_array(distance)

    def _fraction(self, box: tuple[slice, ...]) -> Volume:
        """Bone fractions in a box, of which only where they cross one half matters."""
        bone = crop(self.bone, box)
        if self.fraction is not None:
            return crop(self.fraction, box)
        if self.grey is None:
            return bone.with_array(bone.array.astype(np.float32))
        grey = self.grey
        level = grey.image.array[box].astype(np.float32) - np.float32(grey.threshold_hu - 0.5)
        # What is over the threshold without being bone, such as small components, is outside.
        level = np.where(bone.array, np.maximum(level * grey.balance, 1.0), np.minimum(level, -1.0))
        return bone.with_array(0.5 + level / _STEEP_HU)


def _not_too_fine(fraction: Volume) -> Volume:
    """Fractions averaged over pairs of voxels along axes with very small ones."""
    times = np.where(fraction.spacing < _FINEST_MM, np.round(0.6 / fraction.spacing), 1).astype(int)
    if (times == 1).all():
        return fraction
    shape = np.array(fraction.array.shape) // times
    array = fraction.array[tuple(slice(0, n * t) for n, t in zip(shape, times, strict=True))]
    array = array.reshape(shape[0], times[0], shape[1], times[1], shape[2], times[2]).mean(axis=(1, 3, 5))
    affine = fraction.affine @ np.diag([*times, 1.0])
    affine[:3, 3] = apply_affine(fraction.affine, (times - 1) / 2)
    return Volume(array, affine)


def _kind(name: str, points: np.ndarray, volume_ml: float) -> str:
    """ "skull" or "part", by the extent of bone points (N, 3) in mm and its volume.

    Raises SkullVAEError for what is not measured in millimetres.
    """
    _, axes = np.linalg.eigh(np.cov((points - points.mean(0))[:: max(1, len(points) // 50000)].T))
    low, high = np.percentile((points - points.mean(0)) @ axes, [0.5, 99.5], axis=0)
    extent = high - low
    small = extent.max() < SMALLEST_MM or (extent.max() < _SMALL_MM and extent.min() > _THICK * extent.max())
    if small or extent.max() > LARGEST_MM:
        unit = "centimetres or metres" if small else "micrometres"
        length = f"{extent.max():.3g}" if small else f"{extent.max():.0f}"
        raise SkullVAEError(
            f"'{name}' is {length} mm long, so that its unit is probably {unit}",
            "Scale it to millimetres and export it again",
        )
    return "part" if extent.min() < _PLATE_MM and volume_ml < _PART_ML else "skull"
