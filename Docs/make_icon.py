"""Draw the module's icon, a skull in profile with an implant plate: `python Docs/make_icon.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIZE, SCALE = 128, 8
IVORY, SHADE, TEAL, TEAL_LIGHT, NIGHT = (240, 228, 204), (196, 176, 140), (14, 150, 170), (64, 200, 214), (20, 27, 38)
TARGET = Path(__file__).resolve().parent.parent / "SkullVAE" / "Resources" / "Icons" / "SkullVAE.png"

# Outlines in a 128 x 128 square, facing right: cranium with face, lower jaw, and the holes that make it a skull.
CRANIUM = [
    (116, 58), (114, 40), (103, 22), (83, 10), (59, 7), (35, 13), (17, 29), (9, 50), (13, 70), (24, 83), (39, 87),
    (52, 87), (60, 91), (67, 98), (84, 101), (103, 101), (108, 95), (106, 88), (110, 85), (112, 79), (117, 76),
    (115, 69), (113, 64),
]  # fmt: skip
JAW = [
    (46, 82), (58, 84), (67, 101), (86, 105), (103, 104), (106, 113), (101, 121), (87, 122), (70, 120), (58, 112),
    (51, 98),
]  # fmt: skip
ORBIT = [(85, 58), (92, 52), (103, 53), (108, 60), (105, 69), (96, 72), (87, 68)]
NOSE = [(113, 71), (121, 80), (113, 87), (107, 84), (109, 77)]
PLATE = [(40, 0), (90, 2), (103, 24), (93, 39), (72, 46), (52, 42), (40, 27)]


def smooth(points: list[tuple[float, float]], steps: int = 16) -> list[tuple[float, float]]:
    """A closed Catmull-Rom curve through the points, in pixels of the large canvas."""
    p = np.array(points, float)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    curve = []
    for a, b, c, d in zip(np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0), strict=True):
        curve.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * (b - c) + d - a) * t**3))
    return [tuple(v) for v in np.concatenate(curve) * SCALE]


def shape(*outlines: list[tuple[float, float]]) -> Image.Image:
    """Mask of the union of smooth outlines on the large canvas."""
    mask = Image.new("L", (SIZE * SCALE,) * 2, 0)
    for outline in outlines:
        ImageDraw.Draw(mask).polygon(smooth(outline), fill=255)
    return mask


def lit(mask: Image.Image, light: tuple[int, int, int], dark: tuple[int, int, int]) -> Image.Image:
    """A surface that bulges: light where light from the upper left falls, dark towards its lower right edge."""
    inner = np.asarray(mask.filter(ImageFilter.GaussianBlur(7 * SCALE)), float) / 255
    y, x = np.mgrid[0 : SIZE * SCALE, 0 : SIZE * SCALE] / (SIZE * SCALE)
    tone = np.clip(0.55 * inner + 0.75 - 0.55 * y - 0.15 * x, 0, 1)[..., None]
    return Image.fromarray((tone * np.array(light) + (1 - tone) * np.array(dark)).astype(np.uint8))


def icon() -> Image.Image:
    """The icon, RGBA, 128 x 128."""
    width = SIZE * SCALE
    canvas = Image.new("RGBA", (width, width), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).rounded_rectangle((0, 0, width - 1, width - 1), 26 * SCALE, fill=NIGHT)
    cranium = shape(CRANIUM)
    jaw = ImageChops.subtract(shape(JAW), cranium.filter(ImageFilter.MaxFilter(2 * SCALE + 1)))
    plate = ImageChops.multiply(shape(PLATE), cranium)
    # A dark seam keeps plate and bone apart at 24 pixels, too.
    seam = ImageChops.multiply(plate.filter(ImageFilter.MaxFilter(5 * SCALE // 2 * 2 + 1)), cranium)
    bone = ImageChops.subtract(ImageChops.lighter(cranium, jaw), seam)
    for hole in (ORBIT, NOSE):
        bone = ImageChops.subtract(bone, shape(hole))
    teeth = ImageDraw.Draw(bone)
    for x in (79, 87, 95):
        teeth.line((x * SCALE, 96 * SCALE, (x + 0.4) * SCALE, 109 * SCALE), fill=0, width=int(1.3 * SCALE))
    canvas.paste(lit(cranium, IVORY, SHADE), (0, 0), bone)
    canvas.paste(lit(plate, TEAL_LIGHT, TEAL), (0, 0), plate)
    return canvas.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    icon().save(TARGET, optimize=True)
    print(TARGET)
