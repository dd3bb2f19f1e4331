"""The picture shows bone and implant in their colours, the right way round, however the file stores its axes."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.report import preview
from SkullVAELib.report.preview import render_preview
from SkullVAELib.report.raycast import BONE, IMPLANT, Scene, View, _average, _average_in

COLOURS = np.stack([preview.BONE_RGB, preview.IMPLANT_RGB])
STORED = {
    "RAS, 2 mm": np.diag([2.0, 2.0, 2.0]),
    "LPS, anisotropic": np.diag([-1.5, -1.5, 2.5]),
    "left-handed": np.diag([-2.0, 2.0, 2.0]),
    "axes exchanged": np.array([[0, 0, 2.0], [-2.0, 0, 0], [0, -2.0, 0]]),
    "oblique": 2.0
    * np.array([[0.866, -0.5, 0], [0.5, 0.866, 0], [0, 0, 1]])
    @ np.array([[1, 0, 0], [0, 0.906, -0.423], [0, 0.423, 0.906]]),
    "fine": np.diag([1.0, 1.0, 0.6]),
}


@pytest.fixture(autouse=True)
def one_thread():
    """The scene is drawn in many small steps, for which threads cost more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def head(matrix: np.ndarray, plate_towards=(0.7, 0.6, 0.4), with_plate: bool = True) -> tuple[Volume, Volume]:
    """An ellipsoid shell with a nose at the front, stored with this index-to-RAS matrix, and the plate cut from it."""
    inverse = np.linalg.inv(matrix)
    half = np.array([80.0, 105.0, 85.0])
    reach = np.ceil(np.abs(inverse) @ half).astype(int)
    i, j, k = np.ogrid[tuple(slice(-r, r + 1) for r in reach)]
    x, y, z = (np.float32(row[0]) * i + np.float32(row[1]) * j + np.float32(row[2]) * k for row in matrix)
    radius = np.sqrt((x / 70) ** 2 + (y / 90) ** 2 + (z / 75) ** 2)
    solid = (radius < 1) & (radius > 0.9)
    solid |= (np.abs(x) < 7) & (np.abs(z + 20) < 12) & (y > 75) & (y < 100)
    towards = np.array(plate_towards) / np.linalg.norm(plate_towards)
    length = np.sqrt(x**2 + y**2 + z**2)
    plate = solid & (x * towards[0] + y * towards[1] + z * towards[2] > 0.93 * length) & with_plate
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = matrix @ -reach
    return Volume((solid & ~plate).astype(np.uint8), affine), Volume(plate.astype(np.uint8), affine)


def seen(bone: Volume, implant: Volume, right, up, mm_per_pixel=1.5, size=130) -> np.ndarray:
    """(H, W) of -1 nothing, BONE or IMPLANT, seen in a small picture centred on the origin."""
    scene = Scene(bone, implant, COLOURS)
    rgb, coverage = scene.draw(View(np.array(right, float), np.array(up, float), np.zeros(3), mm_per_pixel), size, size)
    return np.where(coverage < 0.5, -1, np.where(rgb[..., 2] > 1.3 * rgb[..., 0], IMPLANT, BONE))


FRONT = {"right": (-1, 0, 0), "up": (0, 0, 1)}
REAR = {"right": (1, 0, 0), "up": (0, 0, 1)}


def kinds(path) -> np.ndarray:
    """(H, W) of -1, BONE or IMPLANT by the colours of a written sheet."""
    rgb = np.asarray(Image.open(path)).astype(float)
    bright = rgb.max(axis=-1) > 60
    teal = bright & (rgb[..., 2] > 1.5 * rgb[..., 0])
    ivory = bright & (rgb[..., 0] >= rgb[..., 2]) & (rgb[..., 0] < 1.5 * rgb[..., 2])
    return np.where(teal, IMPLANT, np.where(ivory, BONE, -1))


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    path = tmp_path_factory.mktemp("preview") / "preview.png"
    render_preview(*head(STORED["RAS, 2 mm"]), path, "Patient 7", "volume 12.3 ml")
    return path


def test_sheet_shows_bone_and_implant(sheet):
    shown = kinds(sheet)
    assert (shown == BONE).sum() > 100_000
    assert 10_000 < (shown == IMPLANT).sum() < 0.5 * (shown == BONE).sum()


def test_every_view_and_slice_shows_the_implant(sheet):
    shown = kinds(sheet)
    small, left, top = preview._SMALL, preview._MARGIN + preview._LARGE + preview._GAP, preview._HEADER
    for column in range(3):
        for y in (top, top + preview._LARGE - small):
            x = left + column * (small + preview._GAP)
            card = shown[y : y + small, x : x + small]
            assert (card == IMPLANT).sum() > 150 and (card == BONE).sum() > 3000


def test_letters_title_and_disclaimer_are_written(tmp_path, monkeypatch):
    written = []
    text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda s, xy, t, *a, **k: (written.append(t), text(s, xy, t, *a, **k))
    )
    render_preview(*head(STORED["RAS, 2 mm"]), tmp_path / "a.png", "Patient 7", "volume 12.3 ml")
    assert set("RLAPSI") <= set(written)
    assert {"Front", "Right side", "Top", "Axial", "Coronal", "Sagittal", "Bone", "Implant", "50 mm"} <= set(written)
    assert "Patient 7" in written and "volume 12.3 ml" in written
    assert "Research software, not a medical device, not for clinical use" in written


def test_picture_without_defect_says_so(tmp_path, monkeypatch):
    written = []
    text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda s, xy, t, *a, **k: (written.append(t), text(s, xy, t, *a, **k))
    )
    render_preview(*head(STORED["RAS, 2 mm"], with_plate=False), tmp_path / "a.png", "Patient 7")
    shown = kinds(tmp_path / "a.png")
    assert "no defect found" in written and "Implant" not in written
    assert (shown == IMPLANT).sum() == 0 and (shown == BONE).sum() > 100_000


def test_patients_right_is_on_the_viewers_left_in_the_front_view():
    rows, columns = np.nonzero(seen(*head(STORED["RAS, 2 mm"]), **FRONT) == IMPLANT)
    assert len(rows) > 100
    assert columns.max() < 65 and rows.mean() < 65  # left half; and above the middle: right side up


def test_implant_in_front_is_hidden_from_behind():
    bone, implant = head(STORED["RAS, 2 mm"], plate_towards=(0.3, 1, 0.3))
    assert (seen(bone, implant, **FRONT) == IMPLANT).sum() > 300
    assert (seen(bone, implant, **REAR) == IMPLANT).sum() == 0


@pytest.mark.parametrize("stored", [name for name in STORED if name != "RAS, 2 mm"])
def test_storage_of_the_axes_does_not_change_the_view(stored):
    reference = seen(*head(STORED["RAS, 2 mm"]), **FRONT)
    view = seen(*head(STORED[stored]), **FRONT)
    for kind in (BONE, IMPLANT):
        one, two = reference == kind, view == kind
        assert 2 * (one & two).sum() / (one.sum() + two.sum()) > 0.95


def test_bone_and_implant_part_where_the_labelmaps_do():
    bone, implant = head(STORED["fine"], plate_towards=(0, 0, 1))
    view = seen(bone, implant, right=(1, 0, 0), up=(0, 1, 0), mm_per_pixel=0.5, size=300)
    i, j, _ = np.nonzero(implant.array)
    ras = np.stack([i, j], 1) * 1.0 + implant.affine[:2, 3]
    expected = (ras.min(axis=0), ras.max(axis=0))
    rows, columns = np.nonzero(view == IMPLANT)
    assert np.allclose([(columns.min() - 149.5) / 2, (149.5 - rows.max()) / 2], expected[0], atol=1.0)
    assert np.allclose([(columns.max() - 149.5) / 2, (149.5 - rows.min()) / 2], expected[1], atol=1.0)


def test_outline_lies_where_the_bone_ends():
    bone, implant = head(STORED["RAS, 2 mm"], with_plate=False)
    rows, columns = np.nonzero(seen(bone, implant, **FRONT, mm_per_pixel=1.0, size=200) >= 0)
    assert columns.max() - columns.min() + 1 == pytest.approx(2 * 70, abs=3)
    assert rows.max() - rows.min() + 1 == pytest.approx(2 * 75, abs=3)


def test_thin_plate_of_bone_is_not_torn():
    array = np.zeros((60, 60, 60), np.uint8)
    array[10:50, 30, 10:50] = 1
    bone = Volume(array, np.array([[1, 0, 0, -29.5], [0, 1, 0, -29.5], [0, 0, 1, -29.5], [0, 0, 0, 1.0]]))
    view = seen(bone, bone.with_array(np.zeros_like(array)), **FRONT, mm_per_pixel=0.5, size=60)
    assert (view == BONE).all()


def test_bone_cut_by_the_edge_of_the_scan_is_drawn():
    array = np.ones((40, 40, 40), np.uint8)
    bone = Volume(array, np.array([[1, 0, 0, -19.5], [0, 1, 0, -19.5], [0, 0, 1, -19.5], [0, 0, 0, 1.0]]))
    shown = seen(bone, bone.with_array(np.zeros_like(array)), **FRONT, mm_per_pixel=0.5, size=120) == BONE
    assert shown.sum() == pytest.approx(80 * 80, rel=0.05)


def test_long_title_is_cut_not_overprinted():
    font = preview._font(34)
    assert font.getlength(preview._shortened("a long name " * 40, font, 500)) <= 500


def test_picture_of_nothing_is_refused_and_leaves_no_file(tmp_path):
    empty = Volume(np.zeros((5, 5, 5), np.uint8), np.eye(4))
    with pytest.raises(SkullVAEError, match="no bone"):
        render_preview(empty, empty, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


VOXELS = [(0.4, 0.4, 0.6), (0.9, 0.9, 2.5), (0.5, 0.5, 5.0)]
SLICES = {"axial": [0, 1, 2], "coronal": [0, 2, 1], "sagittal": [2, 1, 0]}
TURNED = {"straight": np.eye(3), "flipped": np.diag([-1.0, -1.0, 1.0]), "oblique": STORED["oblique"] / 2.0}


@pytest.mark.parametrize("voxel", VOXELS, ids=str)
@pytest.mark.parametrize(("slices", "turned"), [*zip(SLICES, TURNED, strict=True), ("axial", "oblique")])
def test_slices_of_any_thickness_and_direction_are_drawn_in_their_size_and_place(voxel, slices, turned):
    matrix = TURNED[turned] @ np.diag(voxel)[:, SLICES[slices]]
    reach = np.ceil(28 / np.linalg.norm(matrix, axis=0)).astype(int)
    at = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij"), -1) @ matrix.T
    length = np.linalg.norm(at, axis=-1)
    shell = (length < 25) & (length > 18)
    plate = shell & (at[..., 0] > 0.8 * length)  # a cap on the right
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, matrix @ -reach
    bone, implant = Volume(shell & ~plate, affine), Volume(plate, affine)
    for right, up in (((0, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 1, 0)), ((0.6, 0.8, 0), (0, 0, 1))):
        picture = seen(bone, implant, right, up, mm_per_pixel=1.0, size=60)
        assert (picture >= 0).sum() == pytest.approx(np.pi * 25**2, rel=0.08)
        assert np.abs(np.argwhere(picture >= 0).mean(0) - 29.5).max() < 1.0
    assert 300 < (seen(bone, implant, (0, 1, 0), (0, 0, 1), 1.0, 60) == IMPLANT).sum() < 1000


@pytest.mark.parametrize("order", ["C", "F"])
def test_averages_in_a_box_are_those_of_the_whole_array(order):
    array = np.zeros((9, 10, 11), bool, order)
    box = (slice(1, 6), slice(3, 10), slice(0, 4))
    array[box] = np.random.default_rng(0).random((5, 7, 4)) > 0.5
    factor = np.array([2, 3, 1])
    assert np.array_equal(_average_in(array, box, factor), _average(array, factor))


def test_an_implant_beyond_the_bone_is_in_the_scene():
    bone, implant = np.zeros((30, 30, 30), bool), np.zeros((30, 30, 30), np.uint8)
    bone[5:12, 5:20, 5:20], implant[20:24, 6:18, 6:18] = True, 1
    scene = Scene(Volume(bone, np.diag([2.0, 2, 2, 1])), Volume(implant, np.diag([2.0, 2, 2, 1])), COLOURS)
    assert scene.implant_points()[:, 0].max() == 46
