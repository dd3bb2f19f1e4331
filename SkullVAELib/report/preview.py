"""The picture preview.png of a result: bone and implant in four views and three slices."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.core.background import has_spare_core
from SkullVAELib.core.progress import report_step
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.report.raycast import Scene, View

DISCLAIMER = "Research software, not a medical device, not for clinical use"

# Ivory and teal differ in hue and in lightness, so that colour-blind readers and grey prints can tell them apart.
BONE_RGB = np.array([0.91, 0.85, 0.74])
IMPLANT_RGB = np.array([0.07, 0.60, 0.68])

_PAGE, _CARD, _INK, _FAINT = (13, 17, 23), (22, 28, 36), (236, 240, 244), (139, 150, 162)
_ACCENT = (236, 186, 92)
_MARGIN, _GAP, _HEADER, _FOOTER, _LARGE, _SMALL = 32, 14, 92, 62, 790, 388
_CAPTION = 34

# Bone farther than this below the vertex is neck: it is drawn where it fits, but does not determine the scale.
_HEAD_MM = 240.0


# Of the time that the picture takes, for its progress.
_SCENE_SHARE = 0.12


def render_preview(bone: Volume, implant: Volume, path: Path, title: str = "", footer: str = "") -> None:
    """Write a PNG of bone and implant; the file appears complete or not at all.

    On the left is a three-quarter view of the implant's side. At the top right are the views from the front, from the
    side of the implant and from above; below them the axial, coronal and sagittal slices through the implant in
    radiological orientation (the patient's right on the viewer's left). R, L, A, P, S, I are the patient's directions.

    Parameters
    ----------
    bone, implant : Volume
        Labelmaps on one grid of any orientation and spacing; non-zero voxels are inside. With an empty implant the
        picture states that no defect was found.
    path : Path
        PNG file to write.
    title, footer : str
        One line each, truncated where too long.

    Raises
    ------
    SkullVAEError
        There is no bone.
    """
    scene = Scene(bone, implant, np.stack([BONE_RGB, IMPLANT_RGB]))
    report_step(_SCENE_SHARE)
    sheet = _sheet(scene, title, footer)
    report_step(0.95)
    with atomic_file(Path(path)) as temporary:
        sheet.save(temporary, compress_level=3)


def _sheet(scene: Scene, title: str, footer: str) -> Image.Image:
    """The whole sheet: header, four views, three slices, footer."""
    width = 2 * _MARGIN + _LARGE + 3 * (_SMALL + _GAP)
    height = _HEADER + _LARGE + _FOOTER
    sheet = Image.new("RGB", (width, height), _PAGE)
    draw = ImageDraw.Draw(sheet)

    surface = scene.surface_points
    head = surface[surface[:, 2] > surface[:, 2].max() - _HEAD_MM]
    low, high = head.min(axis=0), head.max(axis=0)
    centre = (low + high) / 2
    plate = scene.implant_points()
    # The centroid of a curved plate is outside it; the slices need a point inside.
    focus = plate[np.linalg.norm(plate - plate.mean(axis=0), axis=1).argmin()] if len(plate) else centre
    towards = plate.mean(axis=0) - _vault_centre(head) if len(plate) else np.array([1.0, 1.0, 0.5])
    side = 1.0 if towards[0] >= 0 else -1.0

    large = _fitted(_three_quarter(towards), head, _LARGE)
    small_mm = float((high - low).max()) / (_SMALL - 2 * _CAPTION - 4)
    views = (
        ("Front", (0, -1, 0), (0, 0, 1)),
        ("Right side" if side > 0 else "Left side", (-side, 0, 0), (0, 0, 1)),
        ("Top", (0, 0, -1), (0, 1, 0)),
    )
    slices = (
        ("Axial", (0, 0, 1), (0, 1, 0), 2),
        ("Coronal", (0, -1, 0), (0, 0, 1), 1),
        ("Sagittal", (1, 0, 0), (0, 0, 1), 0),
    )
    jobs: list[tuple] = [(_view_card, scene, large, _LARGE, _three_quarter_name(large.forward))]
    places = [(_MARGIN, _HEADER)]
    for column in range(3):
        left = _MARGIN + _LARGE + _GAP + column * (_SMALL + _GAP)
        name, forward, up = views[column]
        jobs.append((_view_card, scene, _view(forward, up, centre, small_mm), _SMALL, name))
        name, forward, up, axis = slices[column]
        view = _view(forward, up, np.where(np.arange(3) == axis, focus, centre), small_mm)
        jobs.append((_slice_card, scene, view, _SMALL, name, focus if len(plate) else None))
        places += [(left, _HEADER), (left, _HEADER + _LARGE - _SMALL)]
    # One card per thread, each on one core: torch's own threads synchronise at every small step, which takes twenty
    # times as long on a machine that is busy with other work.
    workers = min(4, os.cpu_count() or 1) if has_spare_core() else 1
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        cards = [pool.submit(*job) for job in jobs]
        # The share of a card is its area; views take several times as long as slices.
        cost = {card: job[3] ** 2 * (5 if job[0] is _view_card else 1) for card, job in zip(cards, jobs, strict=True)}
        done = 0
        for card in as_completed(cards):
            done += cost[card]
            report_step(_SCENE_SHARE + (0.95 - _SCENE_SHARE) * done / sum(cost.values()))
        for place, card in zip(places, (card.result() for card in cards), strict=True):
            sheet.paste(card, place, _rounded(card.width))

    _header(sheet, title or "SkullVAE", scene.has_implant)
    baseline = height - _FOOTER // 2 + 4
    disclaimer = _font(19)
    draw.text((width - _MARGIN, baseline), DISCLAIMER, _ACCENT, disclaimer, anchor="rm")
    room = width - 2 * _MARGIN - int(disclaimer.getlength(DISCLAIMER)) - 40
    draw.text((_MARGIN, baseline), _shortened(footer, _font(19), room), _FAINT, _font(19), anchor="lm")
    return sheet


def _header(sheet: Image.Image, title: str, has_implant: bool) -> None:
    """Title on the left, legend on the right."""
    draw = ImageDraw.Draw(sheet)
    middle = _HEADER // 2
    right = sheet.width - _MARGIN
    legend = [("Implant", IMPLANT_RGB)] if has_implant else []
    for name, colour in (*legend, ("Bone", BONE_RGB)):
        draw.text((right, middle), name, _INK, _font(21), anchor="rm")
        right -= int(_font(21).getlength(name)) + 34
        sheet.paste(_bytes(colour), (right, middle - 11, right + 22, middle + 11), _rounded(22, 7))
        right -= 26
    finding = "" if has_implant else "no defect found"
    room = right - _MARGIN - (int(_font(34).getlength(finding)) + 44 if finding else 0)
    shown = _shortened(title, _font(34), room)
    draw.text((_MARGIN, middle), shown, _INK, _font(34), anchor="lm")
    if finding:
        draw.text((_MARGIN + _font(34).getlength(shown) + 26, middle), finding, _ACCENT, _font(34), anchor="lm")


def _view_card(scene: Scene, view: View, size: int, name: str) -> Image.Image:
    """One rendered view on its square card of `size` pixels."""
    colour, coverage = scene.draw(view, size, size)
    pixels = _lit_card(size) * (1 - coverage[..., None]) + colour
    return _labelled(pixels, view, name)


def _slice_card(scene: Scene, view: View, size: int, name: str, focus: np.ndarray | None) -> Image.Image:
    """One slice on its square card; with an implant, also the lines of the other two slices."""
    union, plate = scene.slice(view, size, size)
    # A smoothed edge rises over about 2 mm; it is steepened to fade over about 1.5 pixels.
    sharp = 2.2 * max(1.0, 0.9 / view.mm_per_pixel)
    solid = np.clip((union - 0.45) * sharp + 0.5, 0, 1)[..., None]
    inner = np.clip((plate - 0.5 * union) * sharp * 1.5 + 0.5, 0, 1)[..., None] * (plate > 0.02)[..., None]
    pixels = np.broadcast_to(np.array(_CARD, np.float32) / 255 * 0.72, (size, size, 3)).copy()
    if focus is not None:
        row = (size - 1) / 2 - (focus - view.centre) @ view.up / view.mm_per_pixel
        column = (size - 1) / 2 + (focus - view.centre) @ view.right / view.mm_per_pixel
        dashes = np.arange(size) % 9 < 5
        for line in (pixels[min(max(round(row), 0), size - 1)], pixels[:, min(max(round(column), 0), size - 1)]):
            line[dashes] = np.array(_ACCENT) / 255 * 0.55
    colour = (1 - inner) * BONE_RGB * 0.96 + inner * IMPLANT_RGB * 1.18
    return _labelled(pixels * (1 - solid) + colour * solid, view, name)


def _labelled(pixels: np.ndarray, view: View, name: str) -> Image.Image:
    """A card (S, S, 3) in 0..1 with its caption, the patient's directions at its edges, and a scale bar."""
    card = Image.fromarray((pixels * 255 + 0.5).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(card)
    size = card.width
    big = size > 600
    inset = 22 if big else 14
    draw.text((inset, inset), name, _INK, _font(24 if big else 17), anchor="lt")
    if abs(view.forward).max() > 0.99:
        far, middle = size - inset - 4, size / 2
        spots: tuple[tuple[np.ndarray, float, float], ...] = (
            (view.right, far, middle),
            (-view.right, size - far, middle),
        )
        spots += ((view.up, middle, size - far), (-view.up, middle, far))
        for vector, x, y in spots:
            draw.text((x, y), _letter(vector), _ACCENT, _font(18), anchor="mm", stroke_width=3, stroke_fill=_CARD)
    else:
        _compass(draw, view, (74, size - 84))
    bar_mm = 50 if size * view.mm_per_pixel > 120 else 10
    length = bar_mm / view.mm_per_pixel
    left, y = size - inset - length, size - inset - 2
    draw.line((left, y, left + length, y), _INK, 2)
    for end in (left, left + length):
        draw.line((end, y - 5, end, y), _INK, 2)
    draw.text((left + length / 2, y - 8), f"{bar_mm} mm", _INK, _font(17 if big else 14), anchor="mb")
    return card


def _letter(vector: np.ndarray) -> str:
    """The letter of the patient's direction nearest to a RAS vector.

    >>> _letter(np.array([-1.0, 0.1, 0.0]))
    'L'
    """
    axis = int(np.abs(vector).argmax())
    return ("RL", "AP", "SI")[axis][int(vector[axis] < 0)]


def _compass(draw: ImageDraw.ImageDraw, view: View, middle: tuple[float, float]) -> None:
    """Draw those of the patient's axes that point towards the viewer of an oblique view."""
    for axis in (*np.eye(3), *-np.eye(3)):
        if axis @ view.forward < 0:
            x, y = (46 * float(axis @ v) for v in (view.right, -view.up))
            draw.line((*middle, middle[0] + x, middle[1] + y), _FAINT, 2)
            draw.text((middle[0] + 1.34 * x, middle[1] + 1.34 * y), _letter(axis), _ACCENT, _font(20), anchor="mm")


def _view(forward, up, centre: np.ndarray, mm_per_pixel: float) -> View:
    """A view along `forward` (RAS) with `up`, projected into the picture, upwards."""
    forward = np.asarray(forward, float) / np.linalg.norm(forward)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return View(right, np.cross(right, forward), centre, mm_per_pixel)


def _fitted(forward: np.ndarray, points: np.ndarray, size: int) -> View:
    """The view along `forward` in which all points (N, 3) fit into a square of `size` pixels."""
    view = _view(forward, (0, 0, 1), np.zeros(3), 1.0)
    across = np.stack([points @ view.right, points @ view.up], 1)
    low, high = across.min(axis=0), across.max(axis=0)
    a, b = (low + high) / 2
    return _view(forward, (0, 0, 1), a * view.right + b * view.up, float((high - low).max()) / (size - 130))


def _vault_centre(head: np.ndarray) -> np.ndarray:
    """Centre (3,) of the vault from surface points (N, 3), RAS mm; the direction of the implant is seen from here."""
    vault = head[head[:, 2] > head[:, 2].max() - 95]
    return (vault.min(axis=0) + vault.max(axis=0)) / 2 + [0, 0, -15]


def _three_quarter(towards: np.ndarray) -> np.ndarray:
    """Viewing direction (3,) of the three-quarter view, for an implant in the direction `towards` (3,).

    It is rotated from the implant's direction towards the face, never along an axis, and slightly from above.
    """
    side = 1.0 if towards[0] >= 0 else -1.0
    azimuth = np.degrees(np.arctan2(abs(towards[0]), towards[1]))
    azimuth = np.radians(np.clip(azimuth - 20, 34, 64) if azimuth < 115 else np.clip(azimuth - 8, 116, 146))
    elevation = np.degrees(np.arctan2(towards[2], np.hypot(*towards[:2])))
    elevation = np.radians(np.clip(0.55 * elevation, 12, 42))
    stand = [side * np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation), np.sin(elevation)]
    return -np.array(stand)


def _three_quarter_name(forward: np.ndarray) -> str:
    """Caption of a three-quarter view: the viewer's position, such as 'From the right front'."""
    return f"From the {'right' if forward[0] < 0 else 'left'} {'front' if forward[1] < 0 else 'back'}"


def _lit_card(size: int) -> np.ndarray:
    """(S, S, 3) in 0..1, a card's background: slightly lighter in the middle, so that dark bone edges stand out."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / (size - 1) - 0.5
    glow = np.clip(1.4 - 1.2 * np.hypot(x, y + 0.05), 0.6, 1.4)[..., None]
    return np.array(_CARD, np.float32) / 255 * glow


def _rounded(size: int, radius: int = 14) -> Image.Image:
    """Mask of a square with rounded corners."""
    mask = Image.new("L", (4 * size, 4 * size), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * size - 1, 4 * size - 1), 4 * radius, fill=255)
    return mask.resize((size, size), Image.Resampling.BOX)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's built-in scalable font, which is the same on every machine."""
    return ImageFont.load_default(size)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text on one line, truncated with three dots where it is wider than `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _bytes(colour: np.ndarray) -> tuple[int, int, int]:
    """RGB in 0..1 as Pillow takes it: integers in 0..255."""
    red, green, blue = (int(v) for v in (np.clip(colour, 0, 1) * 255).round())
    return red, green, blue
