"""Inputs that are not a head, or a head in a state for which a confident result would be wrong.

Each is made from a real or generated skull's bone mask, so that nothing but what its name says is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import largest_component
from SkullVAELib.geometry.volume import Volume


@dataclass(frozen=True)
class Scene:
    """A skull's bone (bool, about 1.2 to 2 mm) and where its voxels are.

    middle: of the bone, (3,) RAS mm; at: (X, Y, Z, 3) RAS mm from there; top: the vertex, mm up from there.
    """

    bone: Volume
    middle: np.ndarray
    at: np.ndarray
    top: float

    @classmethod
    def of(cls, bone: Volume) -> Scene:
        voxels = apply_affine(bone.affine, np.argwhere(bone.array))
        middle = (voxels.min(0) + voxels.max(0)) / 2
        index = np.indices(bone.array.shape).reshape(3, -1).T
        at = apply_affine(bone.affine, index) - middle
        return cls(
            bone, middle, at.reshape(*bone.array.shape, 3).astype(np.float32), float((voxels - middle)[:, 2].max())
        )

    def mask(self, array: np.ndarray) -> Volume:
        """A mask on the same grid, uint8."""
        return self.bone.with_array(array.astype(np.uint8))

    def twice(self) -> Volume:
        """Two of the same beside each other."""
        return Volume(np.concatenate([self.bone.array] * 2, axis=0).astype(np.uint8), self.bone.affine)

    def moved(self, matrix: np.ndarray) -> Volume:
        """The skull as its file would show it with a header that turns or scales it, (3, 3), about its middle."""
        affine = np.eye(4)
        affine[:3, :3] = matrix
        affine[:3, 3] = self.middle - matrix @ self.middle
        return Volume(self.bone.array.astype(np.uint8), affine @ self.bone.affine)


def _turn(axis: int, degrees: float) -> np.ndarray:
    """(3, 3) rotation about an axis."""
    a = np.deg2rad(degrees)
    i, j = (k for k in range(3) if k != axis)
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(a)
    matrix[i, j], matrix[j, i] = -np.sin(a), np.sin(a)
    return matrix


def _shell(scene: Scene, *half_axes: float) -> np.ndarray:
    outer = ((scene.at / np.array(half_axes)) ** 2).sum(-1) < 1
    return outer & (((scene.at / (np.array(half_axes) - 6)) ** 2).sum(-1) > 1)


def _femur(scene: Scene) -> np.ndarray:
    """A shaft with its marrow, a head and two condyles, along the image's longest direction."""
    extent = np.abs(scene.at).reshape(-1, 3).max(0)
    along = int(np.argmax(extent))
    a, b = (scene.at[..., k] for k in range(3) if k != along)
    z, end = scene.at[..., along], float(extent[along])
    shaft = (np.hypot(a, b) < 14) & (np.hypot(a, b) > 7) & (np.abs(z) < end - 25)
    head = (a - 12) ** 2 + b**2 + (z - end + 28) ** 2 < 24**2
    condyles = (np.abs(a) - 20) ** 2 + b**2 + (z + end - 28) ** 2 < 23**2
    return shaft | head | condyles


def _brain(scene: Scene) -> np.ndarray:
    """What the vault holds, down to where the skull opens."""
    reach = round(25 / float(scene.bone.spacing.mean()))
    padded = np.pad(scene.bone.array, reach)
    closed = ndimage.binary_fill_holes(ndimage.binary_closing(padded, iterations=reach))
    inside = closed[(slice(reach, -reach),) * 3] & ~ndimage.binary_dilation(scene.bone.array)
    return largest_component(ndimage.binary_opening(inside, iterations=3))


def _noise(scene: Scene, blur: float) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(scene.bone.array.shape)
    noise = ndimage.gaussian_filter(noise, blur) if blur else noise
    return noise > np.percentile(noise, 92)


def _box_shell(scene: Scene) -> np.ndarray:
    far = np.abs(scene.at).max(-1)
    return (far < 75) & (far > 69)


NO_HEAD: dict[str, Callable[[Scene], Volume]] = {
    "solid ball": lambda s: s.mask(np.linalg.norm(s.at, axis=-1) < 70),
    "hollow ball": lambda s: s.mask(_shell(s, 75, 75, 75)),
    "hollow ellipsoid": lambda s: s.mask(_shell(s, 72, 90, 70)),
    "half an ellipsoid": lambda s: s.mask(_shell(s, 72, 90, 70) & (s.at[..., 2] > -20)),
    "box": lambda s: s.mask(_box_shell(s)),
    "noise": lambda s: s.mask(_noise(s, 0)),
    "smooth noise": lambda s: s.mask(_noise(s, 3)),
    "brain mask": lambda s: s.mask(_brain(s)),
    "femur": lambda s: s.mask(_femur(s)),
    "inverted mask": lambda s: s.mask(~s.bone.array),
    "two heads side by side": lambda s: s.twice(),
    "no vault, only what lies 70 mm below": lambda s: s.mask(s.bone.array & (s.at[..., 2] < s.top - 70)),
    "voxels ten times too large": lambda s: s.moved(10 * np.eye(3)),
    "voxels ten times too small": lambda s: s.moved(0.1 * np.eye(3)),
}
"""Inputs that are not a head, or that cannot be completed: any implant for them is wrong."""

HEAD: dict[str, Callable[[Scene], Volume]] = {
    "as it is": lambda s: s.mask(s.bone.array),
    "mirrored": lambda s: s.moved(np.diag([-1.0, 1, 1])),
    "upside down": lambda s: s.moved(_turn(0, 180)),
    "face down": lambda s: s.moved(_turn(0, 90)),
    "face up": lambda s: s.moved(_turn(0, -90)),
    "on its ear": lambda s: s.moved(_turn(1, 90)),
    "back to front": lambda s: s.moved(_turn(2, 180)),
    "turned to the side": lambda s: s.moved(_turn(2, 90)),
    "of a small child, 60 %": lambda s: s.moved(0.6 * np.eye(3)),
    "of a child, 80 %": lambda s: s.moved(0.8 * np.eye(3)),
    "giant, 130 %": lambda s: s.moved(1.3 * np.eye(3)),
    "half as high": lambda s: s.moved(np.diag([1, 1, 0.5])),
    "squeezed, 70 % as long": lambda s: s.moved(np.diag([1, 0.7, 1])),
    "vault's upper 60 mm": lambda s: s.mask(s.bone.array & (s.at[..., 2] > s.top - 60)),
    "vault's upper 35 mm": lambda s: s.mask(s.bone.array & (s.at[..., 2] > s.top - 35)),
    "cut 30 mm below the vertex": lambda s: s.mask(s.bone.array & (s.at[..., 2] < s.top - 30)),
    "right half": lambda s: s.mask(s.bone.array & (s.at[..., 0] > 0)),
    "back half": lambda s: s.mask(s.bone.array & (s.at[..., 1] < 0)),
    "metal streaks": lambda s: s.mask(s.bone.array | _streaks(s)),
    "a table behind": lambda s: s.mask(s.bone.array | _table(s)),
    "grown by 3 voxels": lambda s: s.mask(ndimage.binary_dilation(s.bone.array, iterations=3)),
    "speckled": lambda s: s.mask(s.bone.array & (np.random.default_rng(0).random(s.bone.array.shape) < 0.5)),
}
"""A head that something was done to; whether its defects are still completed is to be measured."""


def _streaks(scene: Scene) -> np.ndarray:
    """Rays from a filling, through ten millimetres of height."""
    x, y, z = np.moveaxis(scene.at, -1, 0)
    return (np.abs(z - scene.top + 100) < 5) & (np.sin(np.arctan2(y - 40, x) * 14) > 0.8) & (np.hypot(x, y) < 110)


def _table(scene: Scene) -> np.ndarray:
    lowest = scene.at[..., 1][scene.bone.array].min()
    return (scene.at[..., 1] < lowest + 8) & (np.abs(scene.at[..., 0]) < 90)
