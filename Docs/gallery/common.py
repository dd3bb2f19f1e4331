"""What the gallery's scripts share: a skull to work on, and ways to draw it."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LightSource, Normalize
from scipy import ndimage

import SkullVAELib as sv
from SkullVAELib.__main__ import main

BONE = (0.93, 0.89, 0.80)
IMPLANT = (0.25, 0.62, 0.70)


def skullvae(*arguments: str) -> None:
    """Run the command line, as in a shell."""
    code = main(arguments)
    if code != 0:
        raise RuntimeError(f"skullvae {' '.join(arguments)} ended with exit code {code}")


def generated_skull(kind: str, seed: int = 1) -> tuple:
    """A skull drawn from the model, with a defect, and the bone that was cut out of it."""
    skullvae("sample", "-o", "head.nrrd", "--kind", kind, "--seed", str(seed), "--truth", "truth.nrrd")
    return sv.read_image("head.nrrd"), sv.read_image("truth.nrrd")


def rendered(mask: np.ndarray, colours: np.ndarray | tuple, view: str = "left") -> np.ndarray:
    """A labelmap seen from one side, (rows, columns, 3), shaded by its depth.

    mask: bool, axes L, P, S as `skullvae sample` writes them; colours: one colour, or one for each voxel (I, J, K, 3).
    """
    axis, from_end = {"left": (0, True), "right": (0, False), "front": (1, False), "back": (1, True)}[view]
    if from_end:
        mask = np.flip(mask, axis)
    seen = mask.any(axis)
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 1.2)
    first = mask.argmax(axis)
    # Where the smoothed mask crosses one half, between the first voxel of bone and the one before it.
    here = np.take_along_axis(soft, np.expand_dims(first, axis), axis).squeeze(axis)
    before = np.take_along_axis(soft, np.expand_dims(np.maximum(first - 1, 0), axis), axis).squeeze(axis)
    depth = np.where(seen, first - np.clip((here - 0.5) / np.maximum(here - before, 0.05), -1, 1), np.nan)
    light = LightSource(azdeg=315, altdeg=50).hillshade(-_filled(depth).T[::-1], vert_exag=1.0)
    colour = np.broadcast_to(np.asarray(colours, np.float32), (*mask.shape, 3))
    if from_end:
        colour = np.flip(colour, axis)
    index = np.expand_dims(np.expand_dims(first, axis), -1)
    flat = np.take_along_axis(colour, np.broadcast_to(index, (*index.shape[:-1], 3)), axis).squeeze(axis)
    image = flat.transpose(1, 0, 2)[::-1] * (0.35 + 0.75 * light[..., None])
    image = np.where(seen.T[::-1, :, None], image, 1.0)
    # Columns run to the back or to the left of the patient, which is right for two of the views.
    return np.clip(image[:, ::-1] if view in ("right", "back") else image, 0, 1)


def two_colours(bone: np.ndarray, implant: np.ndarray) -> np.ndarray:
    """The colours of a completed skull, (I, J, K, 3)."""
    return np.where(implant[..., None], np.float32(IMPLANT), np.float32(BONE))


def show(axes, image: np.ndarray, title: str = "") -> None:
    """An image without a frame."""
    axes.imshow(image)
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def colour_bar(figure, axes, largest: float, label: str) -> None:
    """The scale of `shaded_mesh`, beside it."""
    figure.colorbar(ScalarMappable(Normalize(0, largest), "viridis"), ax=axes, label=label, shrink=0.7)


def shaded_mesh(
    axes, points: np.ndarray, faces: np.ndarray, values: np.ndarray, largest: float, title: str = ""
) -> None:
    """A mesh seen from the left, coloured from violet (0) to yellow (`largest`), shaded by its normals.

    points: (N, 3) RAS mm; faces: (M, 3); values: (N,).
    """
    corners = points[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-9)
    front = np.flatnonzero(normals[:, 0] < 0)
    front = front[np.argsort(-corners[front, :, 0].mean(1))]
    light = 0.45 + 0.65 * (normals[front] @ np.array([-0.7, 0.4, 0.6])).clip(0)
    colours = colormaps["viridis"](values[faces[front]].mean(1) / largest)[:, :3] * light[:, None]
    seen = corners[front][..., [1, 2]] * [-1, 1]
    axes.add_collection(PolyCollection(seen, facecolors=colours.clip(0, 1), edgecolors="face", linewidths=0.2))
    axes.autoscale_view()
    axes.set_aspect("equal")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def _filled(depth: np.ndarray) -> np.ndarray:
    """The depth with the background set behind the skull, so that its outline is shaded as an edge."""
    return np.where(np.isnan(depth), np.nanmax(depth) + 3, depth)
