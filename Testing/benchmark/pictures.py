"""A strip of pictures of each case, the page that gathers them, and a sheet of the worst.

A strip shows, from straight above the defect: the defective skull, the true implant, the predicted one, and how far
apart the two are, in mm, on the surface of both together; then the slice with most wrong voxels in it.
"""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.report.preview import BONE_RGB, IMPLANT_RGB
from SkullVAELib.report.raycast import IMPLANT, Scene, View, _sample

from .cases import cut_place
from .contest import Job, load_mask, load_whole

PANEL, LINE = 300, 20
"""Pixels of a picture's side, and of the line of captions above."""
RANGE_MM = 3.0
"""The difference at which the map's colour is full."""

_INK, _PAGE = (236, 240, 244), (13, 17, 23)
_EXTRA_RGB, _LACK_RGB, _SAME_RGB = (
    np.array([0.90, 0.22, 0.16]),
    np.array([0.18, 0.38, 0.95]),
    np.array([0.80, 0.84, 0.80]),
)
_CAPTIONS = ("defect", "truth", "prediction", f"red too much, blue too little (full at {RANGE_MM:.0f} mm)", "")


def difference(truth: np.ndarray, prediction: np.ndarray, affine: np.ndarray) -> Volume:
    """Signed difference in mm around both implants, positive where the prediction has too much.

    On the surface of both together it is the distance from what stands out to the other's surface. truth, prediction:
    bool arrays of which one may be empty; affine: (4, 4) index -> mm.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    box = bounding_box(truth | prediction, margin=np.ceil(8.0 / spacing).astype(int))
    here = crop(Volume(truth, affine), box)

    def signed(mask: np.ndarray) -> np.ndarray:
        if not mask.any():
            return np.full(mask.shape, 4 * RANGE_MM)
        out, within = (ndimage.distance_transform_edt(m, sampling=spacing) for m in (~mask, mask))
        return out - within

    return here.with_array((signed(truth[box]) - signed(prediction[box])).astype(np.float32))


class DifferenceScene(Scene):
    """A scene whose implant is coloured by a volume in mm: blue below 0, red above."""

    def __init__(self, bone: Volume, implant: Volume, map_mm: Volume):
        super().__init__(bone, implant, np.stack([BONE_RGB, np.ones(3)]))
        self._map = torch.from_numpy(ndimage.gaussian_filter(map_mm.array, 0.6))
        self._to_map = torch.tensor(np.linalg.inv(map_mm.affine) @ self._affine).float()

    def _shade(self, view: View, points: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        colour = super()._shade(view, points, which)
        there = points @ self._to_map[:3, :3].T + self._to_map[:3, 3]
        rgb = torch.tensor(_colours(_sample(self._map, there).numpy())).float()
        return torch.where((which == IMPLANT)[:, None], colour * rgb, colour)


def _colours(values_mm: np.ndarray) -> np.ndarray:
    """RGB (N, 3) in 0..1 of differences (N,) in mm."""
    share = np.clip(np.abs(values_mm) / RANGE_MM, 0, 1)[..., None]
    return (1 - share) * _SAME_RGB + share * np.where(values_mm[..., None] > 0, _EXTRA_RGB, _LACK_RGB)


def strip(bone: Volume, truth: np.ndarray, prediction: np.ndarray) -> Image.Image:
    """The five pictures of a case side by side, under their captions.

    bone: the defective skull, bool; truth, prediction: bool arrays on its grid.
    """
    either = truth | prediction
    at = np.argwhere(truth) @ bone.affine[:3, :3].T + bone.affine[:3, 3]
    view = _view_of(bone, at)
    scenes = [
        Scene(bone, bone.with_array(mask), np.stack([BONE_RGB, IMPLANT_RGB]))
        for mask in (np.zeros_like(truth), truth, prediction)
    ]
    scenes.append(DifferenceScene(bone, bone.with_array(either), difference(truth, prediction, bone.affine)))
    sheet = Image.new("RGB", (5 * PANEL, LINE + PANEL), _PAGE)
    draw = ImageDraw.Draw(sheet)
    for column, scene in enumerate(scenes):
        colour, coverage = scene.draw(view, PANEL, PANEL)
        pixels = colour + (1 - coverage[..., None]) * np.array(_PAGE) / 255
        sheet.paste(_image(pixels), (column * PANEL, LINE))
    pixels, name = _slice(bone, truth, prediction)
    sheet.paste(_image(pixels), (4 * PANEL, LINE))
    for column, caption in enumerate((*_CAPTIONS[:4], name)):
        draw.text((column * PANEL + 6, 4), caption, _INK, ImageFont.load_default(13))
    return sheet


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))


def _view_of(bone: Volume, at: np.ndarray) -> View:
    """Straight towards the defect's points (N, 3) RAS mm, from outside; a little room around it."""
    index = np.argwhere(bone.array)[::50]
    surface = index @ bone.affine[:3, :3].T + bone.affine[:3, 3]
    vault = surface[surface[:, 2] > np.percentile(surface[:, 2], 99.9) - 95]
    centre = (vault.min(0) + vault.max(0)) / 2 + [0, 0, -20]
    forward = centre - at.mean(0)
    forward /= np.linalg.norm(forward)
    up = np.array([0.0, 0.0, 1.0]) if abs(forward[2]) < 0.9 else np.array([0.0, 1.0, 0.0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    across = np.stack([at @ right, at @ up], 1)
    low, high = across.min(0), across.max(0)
    middle = at.mean(0) + ((low + high) / 2 - at.mean(0) @ np.stack([right, up], 1)) @ np.stack([right, up])
    return View(right, up, middle, float((high - low).max() + 45) / PANEL)


def _slice(bone: Volume, truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, str]:
    """The axial, coronal or sagittal slice with most wrong voxels: pixels (S, S, 3) in 0..1, and what it is."""
    wrong = np.argwhere(truth ^ prediction)
    if not len(wrong):
        wrong = np.argwhere(truth)
    wrong = wrong @ bone.affine[:3, :3].T + bone.affine[:3, 3]
    at = np.argwhere(truth | prediction) @ bone.affine[:3, :3].T + bone.affine[:3, 3]
    best = (-1, 0, 0.0)
    for axis in range(3):
        layers, count = np.unique(np.round(wrong[:, axis]), return_counts=True)
        best = max(best, (int(count.max()), axis, float(layers[count.argmax()])))
    _, axis, layer = best
    # Through the voxels' middle, not between two layers.
    position = float(np.median(wrong[np.round(wrong[:, axis]) == layer, axis]))
    name, right, up = (
        ("sagittal", (0, 1, 0), (0, 0, 1)), ("coronal", (-1, 0, 0), (0, 0, 1)), ("axial", (-1, 0, 0), (0, 1, 0)),
    )[axis]  # fmt: skip
    right, up = np.array(right, float), np.array(up, float)
    cut = at[np.abs(at[:, axis] - position) < 1]
    low, high = cut.min(0), cut.max(0)
    middle = np.where(np.arange(3) == axis, position, (low + high) / 2)
    step = max(60.0, float((high - low).max()) + 25) / PANEL
    line = (np.arange(PANEL) - (PANEL - 1) / 2) * step
    points = middle + line[None, :, None] * right - line[:, None, None] * up
    index = np.moveaxis((points - bone.affine[:3, 3]) @ np.linalg.inv(bone.affine[:3, :3]).T, -1, 0)
    b, t, p = (_plane(mask, index) for mask in (bone.array, truth, prediction))
    pixels = np.zeros((PANEL, PANEL, 3)) + np.array(_PAGE) / 255
    for where, colour in ((b, 0.62), (t & p, 0.95), (p & ~t, _EXTRA_RGB), (t & ~p, _LACK_RGB)):
        pixels[where] = colour
    return pixels, f"{name}: white right, red too much, blue too little"


def _plane(mask: np.ndarray, index: np.ndarray) -> np.ndarray:
    """A bool array's values at fractional indices (3, S, S)."""
    low = np.clip(np.floor(index.min((1, 2))).astype(int) - 1, 0, mask.shape)
    high = np.clip(np.ceil(index.max((1, 2))).astype(int) + 2, 0, mask.shape)
    part = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float32)
    return ndimage.map_coordinates(part, index - low[:, None, None], order=1) >= 0.5


def draw_job(job: Job, row: str) -> Path:
    """The file of a case's strip; drawn unless it is there and newer than what it shows."""
    torch.set_num_threads(1)
    path = job.output / "pictures" / f"{job.name}_{row}.png"
    mask = job.mask(row)
    if path.is_file() and path.stat().st_mtime >= mask.stat().st_mtime:
        return path
    whole, bone, truth = cut_place(load_whole(job.file), job.number)
    path.parent.mkdir(exist_ok=True)
    with atomic_file(path) as temporary:
        strip(whole.with_array(bone), truth, load_mask(mask)).save(temporary, "PNG")
    return path


def caption(record: dict, row: str) -> str:
    """A case and its figures in one line."""
    figures = record["rows"][row]
    distance = "no implant" if figures["hd95_mm"] is None else f"HD95 {figures['hd95_mm']:.1f} mm"
    volume = f"{record['truth_ml']:.1f} ml, predicted {figures['volume_ml']:.1f}"
    return f"{record['individual']}, {record['defect']}: DSC {figures['dsc']:.3f}, {distance}, {volume}"


def write_page(path: Path, strips: Sequence[tuple[dict, Path]], row: str) -> None:
    """The page of all strips, the worst first."""
    parts = [
        '<!doctype html><meta charset="utf-8"><title>SkullVAE: every benchmark case</title>',
        "<style>body{background:#0d1117;color:#ecf0f4;font:15px sans-serif;margin:24px}img{width:100%;max-width:1500px}"
        "p{margin:18px 0 4px}</style><h1>Every case of the benchmark, the worst first</h1>",
        "<p>Research software, not a medical device, not for clinical use.</p>",
    ]
    for record, image in _worst_first(strips, row):
        source = html.escape(Path(os.path.relpath(image, path.parent)).as_posix())
        parts.append(f'<p>{html.escape(caption(record, row))}</p><img loading="lazy" src="{source}" alt="">')
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")


def write_contact_sheet(
    path: Path, strips: Sequence[tuple[dict, Path]], row: str, count: int = 10, width: int = 1200
) -> None:
    """The worst cases' strips below one another, as one PNG."""
    chosen = _worst_first(strips, row)[:count]
    height, line = width * (PANEL + LINE) // (5 * PANEL), 24
    sheet = Image.new("RGB", (width, len(chosen) * (height + line)), _PAGE)
    draw = ImageDraw.Draw(sheet)
    for number, (record, file) in enumerate(chosen):
        top = number * (height + line)
        draw.text((6, top + 4), caption(record, row), _INK, ImageFont.load_default(15))
        with Image.open(file) as image:
            sheet.paste(image.resize((width, height), Image.Resampling.LANCZOS), (0, top + line))
    with atomic_file(path) as temporary:
        sheet.quantize(256).save(temporary, "PNG", optimize=True)


def _worst_first(strips: Sequence[tuple[dict, Path]], row: str) -> list[tuple[dict, Path]]:
    return sorted(strips, key=lambda pair: pair[0]["rows"][row]["dsc"])
