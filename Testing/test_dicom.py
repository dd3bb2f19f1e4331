"""DICOM series: each trait that real ones have is read to the right HU at the right place, or refused with its reason.

The HU of the series here are a linear function of the position in mm, which linear interpolation reproduces: values and
geometry are checked together.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import time
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import SECONDARY_CAPTURE, along_z, ct_slice, enhanced, uid, with_meta, write_series
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)
from scipy import ndimage

from SkullVAELib.batch.cohort import list_cases
from SkullVAELib.cli import main as cli
from SkullVAELib.cli.series import as_json, as_text
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.io import dicom_files as sources
from SkullVAELib.io.dicom_series import open_study
from SkullVAELib.io.dicom_volume import read_dicom
from SkullVAELib.io.images import is_dicom, read_volume

COUNT, ROWS, COLUMNS = 70, 66, 64


def expected_hu(lps: np.ndarray) -> np.ndarray:
    """HU at points (..., 3) in LPS mm."""
    return lps @ [2.0, 3.0, -4.0] + 40.0


def series_at(positions: np.ndarray, orientation=(1, 0, 0, 0, 1, 0), spacing=(1.0, 1.0)) -> np.ndarray:
    """The slices (K, rows, columns) in HU at positions in LPS mm."""
    row, column = np.array(orientation, float).reshape(2, 3)
    down, across = np.indices((ROWS, COLUMNS))
    plane = across[..., None] * spacing[1] * row + down[..., None] * spacing[0] * column
    return np.rint(expected_hu(positions[:, None, None] + plane))


def write(folder: Path, positions: np.ndarray | None = None, **more) -> list[Path]:
    """A series of the pattern; more: as for `write_series`."""
    positions = along_z(COUNT) if positions is None else positions
    orientation = more.get("ImageOrientationPatient", (1, 0, 0, 0, 1, 0))
    return write_series(folder, series_at(positions, orientation), positions, **more)


def assert_right(volume, tolerance: float = 0.51, inside: float = 1.0) -> None:
    """The volume's values are those of its positions; inside: fraction of voxels that may not be beyond a slice."""
    index = np.stack(np.indices(volume.array.shape), -1).reshape(-1, 3)
    wanted = expected_hu(apply_affine(volume.affine, index) * [-1, -1, 1]).reshape(volume.array.shape)
    within = volume.array > -1024
    assert within.mean() >= inside
    np.testing.assert_allclose(volume.array[within], wanted[within], atol=tolerance)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dicom") / "plain"
    write(folder)
    return folder


def copied(plain: Path, folder: Path) -> Path:
    shutil.copytree(plain, folder / "series")
    return folder / "series"


def each_file(folder: Path, change) -> Path:
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        change(dataset, path)
    return folder


# ----------------------------------------------------------------------------------------------------------------------
# Values and positions


def test_a_plain_series_is_read_with_its_values_and_positions(plain):
    volume = read_volume(plain)
    assert volume.array.shape == (COLUMNS, ROWS, COUNT)
    assert volume.array.dtype == np.int16
    assert volume.warnings == ()
    assert volume.name == f"DICOM series (CT, {COUNT} slices)"
    assert_right(volume)
    np.testing.assert_allclose(volume.affine @ [0, 0, 0, 1], [30, 30, -20, 1])


ORIENTATIONS = {
    "coronal": ((1, 0, 0, 0, 0, -1), (0, 1, 0)),
    "sagittal": ((0, 1, 0, 0, 0, -1), (1, 0, 0)),
    "axial, from above": ((1, 0, 0, 0, 1, 0), (0, 0, -1)),
    "oblique": ((0.6, 0.8, 0, 0, 0, -1), (-0.8, 0.6, 0)),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_slices_of_any_orientation_and_order_are_read(tmp_path, name):
    orientation, along = ORIENTATIONS[name]
    positions = np.array([-30.0, -30.0, 20.0]) + np.arange(COUNT)[:, None] * np.array(along)
    write(tmp_path / "a", positions, ImageOrientationPatient=list(orientation))
    assert_right(read_volume(tmp_path / "a"))
    with open_study(tmp_path / "a") as study:
        assert study.chosen.stack.orientation == name.split(",")[0]


def _implicit_without_meta(dataset, path):
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    del dataset.file_meta
    dataset.preamble = None
    dataset.save_as(path, implicit_vr=True, little_endian=True)
    assert path.read_bytes()[128:132] != b"DICM"


def _big_endian(dataset, path):
    values = np.frombuffer(dataset.PixelData, "<i2")
    dataset.PixelData = values.astype(">i2").tobytes()
    made = pydicom.Dataset(dataset)
    made.file_meta = dataset.file_meta
    made.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    made.save_as(path, implicit_vr=False, little_endian=False, enforce_file_format=True)


def _deflated(dataset, path):
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)


def _unsigned(dataset, path):
    dataset.PixelData = (np.frombuffer(dataset.PixelData, "<i2") + np.int16(500)).astype("<u2").tobytes()
    dataset.PixelRepresentation, dataset.RescaleIntercept = 0, -1524
    dataset.save_as(path)


def _twelve_bits_below_an_overlay(dataset, path):
    stored = np.frombuffer(dataset.PixelData, "<i2").astype("<u2") & 0xFFF
    dataset.PixelData = (stored | 0xA000).astype("<u2").tobytes()
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
    dataset.save_as(path)


def _slope_of_each_slice(dataset, path):
    slope = 0.5 + 0.01 * int(dataset.InstanceNumber)
    hu = np.frombuffer(dataset.PixelData, "<i2") + float(dataset.RescaleIntercept)
    dataset.RescaleSlope, dataset.RescaleIntercept = f"{slope:.4f}", f"{-900 - int(dataset.InstanceNumber)}"
    dataset.PixelData = np.rint((hu - float(dataset.RescaleIntercept)) / slope).astype("<i2").tobytes()
    dataset.save_as(path)


def _rle(dataset, path):
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(path)


def _jpeg_ls(dataset, path):
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    dataset.save_as(path)


def _by_itk(compressor):
    """Compressed by ITK: the frame of the file that it writes, in the dataset."""

    def change(dataset, path):
        stored = np.frombuffer(dataset.PixelData, "<i2").reshape(1, ROWS, COLUMNS)
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetUseCompression(True)
        writer.SetCompressor(compressor)
        writer.SetFileName(str(path.with_name("frame.dcm")))
        writer.Execute(sitk.GetImageFromArray(stored))
        made = pydicom.dcmread(path.with_name("frame.dcm"))
        path.with_name("frame.dcm").unlink()
        dataset.file_meta.TransferSyntaxUID = made.file_meta.TransferSyntaxUID
        assert dataset.file_meta.TransferSyntaxUID.is_compressed
        dataset.PixelData = encapsulate(list(generate_frames(made.PixelData, number_of_frames=1)))
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        for name in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
            dataset[name] = made[name]
        dataset.save_as(path)

    return change


STORED = {
    "implicit VR, no meta header": _implicit_without_meta,
    "big endian": _big_endian,
    "deflated": _deflated,
    "unsigned": _unsigned,
    "12 bits below an overlay": _twelve_bits_below_an_overlay,
    "a slope of each slice": _slope_of_each_slice,
    "RLE": _rle,
    "JPEG-LS": _jpeg_ls,
    "JPEG lossless": _by_itk("JPEG"),
    "JPEG 2000": _by_itk("JPEG2000"),
}


@pytest.mark.parametrize("name", STORED)
def test_pixels_are_read_as_they_are_stored(plain, tmp_path, name):
    folder = each_file(copied(plain, tmp_path), STORED[name])
    volume = read_volume(folder)
    assert volume.array.shape == (COLUMNS, ROWS, COUNT)
    # Stored values with a slope of up to 1.2 are rounded to half of that, and HU once more.
    assert_right(volume, 1.7 if "slope" in name else 0.51)


def test_a_multi_frame_file_is_read(tmp_path):
    positions = along_z(COUNT)[::-1]
    enhanced(series_at(positions), positions).save_as(tmp_path / "multi", enforce_file_format=True)
    volume = read_volume(tmp_path / "multi")
    assert volume.array.shape == (COLUMNS, ROWS, COUNT)
    assert_right(volume)


# Padding value, limit of its range, and a stored value of pixels outside the image.
PADDED = [(-2000, None, -2000), (63536, None, -2000), (30000, 31000, 30500)]


@pytest.mark.parametrize(("padding", "limit", "outside"), PADDED)
def test_padding_is_air_and_never_bone(plain, tmp_path, padding, limit, outside):
    def change(dataset, path):
        stored = np.frombuffer(dataset.PixelData, "<i2").reshape(ROWS, COLUMNS).copy()
        stored[:9] = outside
        dataset.PixelData = stored.tobytes()
        elements = {"PixelPaddingValue": padding} | ({} if limit is None else {"PixelPaddingRangeLimit": limit})
        for name, value in elements.items():
            dataset.add_new(name, "US" if value > 2**15 else "SS", value)
        dataset.save_as(path)

    volume = read_volume(each_file(copied(plain, tmp_path), change))
    assert (volume.array[:, :9] == -1024).all()
    assert_right(volume, inside=0.84)


# ----------------------------------------------------------------------------------------------------------------------
# Geometry that is corrected, and geometry that is refused


@pytest.mark.parametrize("per_slice", [0.3, -0.25])
def test_a_tilted_gantry_is_corrected_with_a_warning(tmp_path, per_slice):
    positions = along_z(COUNT) + np.arange(COUNT)[:, None] * [0.0, per_slice, 0.0]
    write(tmp_path / "a", positions)
    volume = read_volume(tmp_path / "a")
    assert volume.array.shape == (COLUMNS, ROWS + np.ceil(69 * abs(per_slice)), COUNT)
    # At the edge of a slice, values are blended with the air beyond it.
    within = ndimage.binary_erosion(volume.array > -1024, np.ones((1, 3, 1)))
    volume = replace(volume, array=np.where(within, volume.array, -1024))
    assert_right(volume, inside=ROWS / volume.array.shape[1] * 0.95)
    assert len(volume.warnings) == 1
    assert "tilted gantry" in volume.warnings[0]
    degrees = np.degrees(np.arctan(abs(per_slice)))
    assert f"({degrees:.1f} degrees)" in volume.warnings[0]


def test_masks_go_back_onto_tilted_slices(tmp_path):
    positions = along_z(COUNT) + np.arange(COUNT)[:, None] * [0.1, 0.3, 0.0]
    write(tmp_path / "a", positions)
    with open_study(tmp_path / "a") as study:
        grid = study.chosen.stack.grid
    index = np.stack(np.indices(grid.shape), -1)
    lps = apply_affine(grid.affine, index.reshape(-1, 3)).reshape(index.shape) * [-1, -1, 1]
    mask = np.linalg.norm(lps - [5.0, 8.0, 12.0], axis=-1) < 15
    back = grid.on_slices(mask, ROWS, COLUMNS)
    down, across = np.indices((ROWS, COLUMNS))
    plane = np.stack([across, down, np.zeros_like(down)], -1)
    distance = np.linalg.norm(positions[:, None, None] + plane - [5.0, 8.0, 12.0], axis=-1)
    # Voxels of 1 mm: a point half a diagonal away from the surface of the ball is on its right side.
    assert back[distance < 14.2].all()
    assert not back[distance > 15.8].any()


def test_uneven_distances_are_resampled_to_the_finer_ones_with_a_warning(tmp_path):
    places = np.concatenate([np.arange(0, 30, 1.0), np.arange(30, 70, 2.0)])
    positions = np.array([-30.0, -30.0, 0.0]) + places[:, None] * [0, 0, 1]
    write(tmp_path / "a", positions, spacing=(1.0, 1.0, 2.0))
    volume = read_volume(tmp_path / "a")
    np.testing.assert_allclose(volume.spacing, 1.0)
    assert volume.array.shape[2] == 69
    assert_right(volume)
    assert ["distances between slices differ" in warning for warning in volume.warnings] == [True]


def drop(*numbers):
    return lambda index, made: None if index in numbers else made


def test_one_missing_slice_is_interpolated_with_a_warning(tmp_path):
    write(tmp_path / "a", change=drop(30))
    volume = read_volume(tmp_path / "a")
    assert volume.array.shape == (COLUMNS, ROWS, COUNT)
    assert_right(volume)
    assert ["1 slice is missing" in warning for warning in volume.warnings] == [True]


def test_several_missing_neighbours_are_refused_and_interpolated_by_force_only(tmp_path):
    write(tmp_path / "a", change=drop(30, 31, 32))
    with pytest.raises(SkullVAEError, match=r"3 neighbouring slices are missing in one place \(gap of 4.0 mm\)"):
        read_volume(tmp_path / "a")
    with pytest.raises(SkullVAEError, match="--force"):
        read_dicom(tmp_path / "a", "2")
    assert read_dicom(tmp_path / "a", force=True).array.shape[2] == COUNT
    volume = read_dicom(tmp_path / "a", "2", force=True)
    assert_right(volume)
    assert "3 slices are missing" in " ".join(volume.warnings)


def test_a_few_outer_slices_behind_a_gap_are_left_out(tmp_path):
    write(tmp_path / "a", change=drop(1, 2, 3, 4, 66, 67))
    volume = read_volume(tmp_path / "a")
    assert volume.array.shape[2] == COUNT - 1 - 4 - 2 - 2
    assert_right(volume)
    assert ["3 outermost slices behind a gap" in warning for warning in volume.warnings] == [True]


def test_copies_of_files_change_nothing(plain, tmp_path):
    folder = copied(plain, tmp_path)
    for path in list(folder.iterdir())[::7]:
        shutil.copy(path, folder / f"copy of {path.name}")
    volume = read_volume(folder)
    assert volume.array.shape == (COLUMNS, ROWS, COUNT)
    assert volume.warnings == ()


def test_a_few_slices_at_the_position_of_another_are_left_out_with_a_warning(plain, tmp_path):
    folder = copied(plain, tmp_path)
    for path in sorted(folder.iterdir())[:3]:
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID, dataset.InstanceNumber = uid("another", path.name), 900
        dataset.PixelData = bytes(len(dataset.PixelData))
        with_meta(dataset).save_as(folder / f"again{path.name}", enforce_file_format=True)
    volume = read_volume(folder)
    assert_right(volume)
    assert ["3 slices have the position of another" in warning for warning in volume.warnings] == [True]


def test_two_acquisitions_in_one_series_are_two_stacks(plain, tmp_path):
    folder = copied(plain, tmp_path)
    write(folder, name="second{:04d}", AcquisitionNumber=2)
    with open_study(folder) as study:
        assert [(each.key, len(each.slices), each.usable) for each in study.candidates] == [
            ("2.1", COUNT, True),
            ("2.2", COUNT, True),
        ]
    volume = read_volume(folder)
    assert_right(volume)
    assert f"{COUNT} of its slices were left out" in " ".join(volume.warnings)


def test_of_a_series_with_time_points_one_is_taken(tmp_path):
    for phase in range(3):
        volume = series_at(along_z(COUNT))
        write_series(
            tmp_path / "a",
            volume,
            along_z(COUNT),
            name=f"{phase}_{{:04d}}",
            change=lambda index, made, phase=phase: at(made, phase),
        )
    with open_study(tmp_path / "a") as study:
        assert [len(each.slices) for each in study.candidates] == [COUNT] * 3
    assert_right(read_volume(tmp_path / "a"))


def at(dataset, phase):
    dataset.SOPInstanceUID = uid(dataset.SOPInstanceUID, phase)
    dataset.InstanceNumber = int(dataset.InstanceNumber) + 1000 * phase
    return with_meta(dataset)


def test_slices_of_another_size_or_orientation_are_left_out_with_a_warning(plain, tmp_path):
    folder = copied(plain, tmp_path)
    write_series(folder, np.zeros((12, 32, 32)), along_z(12, 2.0), name="small{:03d}", InstanceNumber=500)
    for number, path in enumerate(sorted(folder.glob("small*"))):
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = uid("small", number)
        with_meta(dataset).save_as(path, enforce_file_format=True)
    volume = read_volume(folder)
    assert volume.array.shape == (COLUMNS, ROWS, COUNT)
    assert_right(volume)
    assert "12 of its slices were left out" in " ".join(volume.warnings)


# ----------------------------------------------------------------------------------------------------------------------
# Damage


def test_a_truncated_slice_is_interpolated_with_a_warning(plain, tmp_path):
    folder = copied(plain, tmp_path)
    path = sorted(folder.iterdir())[20]
    path.write_bytes(path.read_bytes()[:-3000])
    volume = read_volume(folder)
    assert volume.array.shape[2] == COUNT
    assert_right(volume)
    assert ["damaged" in warning for warning in volume.warnings] == [True, False]


def test_neighbouring_truncated_slices_are_refused(plain, tmp_path):
    folder = copied(plain, tmp_path)
    for path in sorted(folder.iterdir())[20:23]:
        path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(SkullVAEError, match=f"3 of {COUNT} slices of series 2 are damaged"):
        read_volume(folder)
    assert_right(read_dicom(folder, "2", force=True))


def test_a_series_of_damaged_slices_is_refused(plain, tmp_path):
    folder = copied(plain, tmp_path)
    for path in sorted(folder.iterdir())[::2]:
        path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(SkullVAEError, match=r"damaged or truncated\. Copy or export the series again"):
        read_dicom(folder, "2", force=True)


def test_headers_of_noise_are_counted_and_other_files_ignored(plain, tmp_path):
    folder = copied(plain, tmp_path)
    (folder / "notes.txt").write_text("no DICOM", encoding="utf-8")
    (folder / "empty").touch()
    (folder / "other.nrrd").write_bytes(b"NRRD0004\n")
    random = np.random.default_rng(0)
    (folder / "noise1").write_bytes(bytes(128) + b"DICM" + random.bytes(4000))
    (folder / "noise2").write_bytes(b"\x08\0\x05\0" + random.bytes(4000))
    volume = read_volume(folder)
    assert_right(volume)


def test_files_that_zeros_pad_are_not_read_as_millions_of_elements(plain, tmp_path):
    folder = copied(plain, tmp_path)
    first = next(iter(folder.iterdir())).read_bytes()
    begin = 144 + int(pydicom.dcmread(io.BytesIO(first)).file_meta.FileMetaInformationGroupLength)
    (folder / "mark").write_bytes(bytes(128) + b"DICM" + bytes(2**26))
    (folder / "meta").write_bytes(first[:begin] + bytes(2**26))
    begun = time.monotonic()
    assert_right(read_volume(folder))
    assert time.monotonic() - begun < 30  # 8 million elements take longer than a minute


@pytest.mark.parametrize("seed", range(12))
def test_damaged_bytes_give_one_sentence(plain, tmp_path, seed, capsys):
    """Bytes of headers and pixels are changed, files are cut: whatever pydicom raises, a user gets one sentence."""
    random, folder = np.random.default_rng(seed), tmp_path / "few"
    folder.mkdir()
    for path in sorted(plain.iterdir())[:30]:
        raw = bytearray(path.read_bytes())
        for place in random.integers(0, 1200, 6):
            raw[place] = random.integers(256)
        (folder / path.name).write_bytes(raw[: random.integers(100, len(raw))] if random.random() < 0.2 else raw)
    assert cli.main(["complete", str(folder), "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# ----------------------------------------------------------------------------------------------------------------------
# Which series is taken


def series(folder: Path, number: int, step: float = 2.0, count: int = 35, **elements) -> None:
    """A small series with a number; its images are all air."""
    given = {"SeriesNumber": number, "SeriesInstanceUID": uid("s", number), "StudyInstanceUID": uid("study")} | elements
    write_series(
        folder,
        np.full((count, 64, 64), -1000),
        along_z(count, step) + np.arange(count)[:, None] * [given.pop("shift", 0.0), 0.0, 0.0],
        (1.0, 1.0, given.pop("thickness", step)),
        name=f"{number}_{{:04d}}",
        change=lambda index, made: at(made, number),
        **given,
    )


def taken(folder: Path) -> tuple[str | None, dict[str, str]]:
    with open_study(folder) as study:
        return study.chosen and study.chosen.key, {each.key: each.reason for each in study.candidates}


NOT_USABLE = {
    "a localizer": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
    "few slices": ({"count": 9}, "only 9 slices"),
    "a short stack": ({"count": 20}, "covers only 40 mm"),
    "an MR": ({"Modality": "MR"}, "not CT but MR"),
    "a secondary capture": ({"SOPClassUID": SECONDARY_CAPTURE}, "secondary capture"),
    "a projection": ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "projection"),
    "a reformat of thick slabs": ({"ImageType": ["DERIVED", "PRIMARY", "MPR"], "thickness": 8}, "thick slabs"),
    "coarse slices": ({"step": 8.0}, "8.0 mm apart"),
    "of the chest": ({"BodyPartExamined": "CHEST"}, "not of the head"),
    "a subtraction": ({"ImageType": ["DERIVED", "PRIMARY", "SUBTRACTION"]}, "subtraction"),
    "no positions": ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no position"),
    "displaced slices": ({"shift": 3.0}, "displaced by 102 mm within their plane"),
    "other units": ({"RescaleType": "MGML"}, "not Hounsfield units"),
}


@pytest.mark.parametrize("name", NOT_USABLE)
def test_what_is_not_a_ct_of_the_head_is_left_out_with_its_reason(tmp_path, name):
    elements, reason = NOT_USABLE[name]
    series(tmp_path, 1, **elements)
    key, reasons = taken(tmp_path)
    assert key is None
    assert reason in reasons["1"]
    with pytest.raises(SkullVAEError, match="its only series is not usable"):
        read_volume(tmp_path)


MPR = ["DERIVED", "SECONDARY", "MPR"]
CHOICES = {
    "bone before soft tissue": ({"ConvolutionKernel": "H30s"}, {"ConvolutionKernel": "H70h"}),
    "bone by its description": ({"SeriesDescription": "Head"}, {"SeriesDescription": "Head BONE"}),
    "finer slices": ({"step": 2.5, "count": 28}, {"step": 1.25, "count": 56}),
    "original before a reformat": ({"ImageType": MPR}, {}),
    "a reformat that is much finer": ({"step": 5.0, "count": 14}, {"ImageType": MPR}),
    "fine soft tissue before coarse bone": (
        {"step": 5.0, "count": 14, "ConvolutionKernel": "BONE"},
        {"ConvolutionKernel": "STANDARD"},
    ),
    "all of the head before a fine part": ({"step": 1.5, "count": 45}, {"step": 5.0, "count": 28}),
    "what is usable": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, {"step": 5.0, "count": 14}),
}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", CHOICES)
def test_the_better_series_is_taken(tmp_path, name, reverse):
    worse, better = CHOICES[name]
    numbers = (3, 2) if reverse else (2, 3)
    series(tmp_path, numbers[0], **worse)
    series(tmp_path, numbers[1], **better)
    assert taken(tmp_path)[0] == str(numbers[1])


def test_a_series_is_chosen_by_its_number_or_uid(tmp_path):
    series(tmp_path, 2)
    series(tmp_path, 3, BodyPartExamined="CHEST")
    series(tmp_path, 4, count=20)
    assert read_dicom(tmp_path).warnings == ()
    assert "not of the head" in read_dicom(tmp_path, "3").warnings[-1]
    assert read_dicom(tmp_path, str(uid("s", 2))).array.shape == (64, 64, 35)
    for wanted, said in (("4", "covers only 40 mm"), ("9", "Choose one of 2, 3, 4")):
        with pytest.raises(SkullVAEError, match=said):
            read_dicom(tmp_path, wanted, force=True)


def test_of_several_studies_the_latest_is_taken_and_of_several_patients_none(tmp_path):
    series(tmp_path, 2, StudyInstanceUID=uid("early"), StudyDate="20190101")
    series(tmp_path, 3, StudyInstanceUID=uid("late"), StudyDate="20210101", ConvolutionKernel="STANDARD")
    assert taken(tmp_path)[0] == "3"
    assert "2 studies" in read_dicom(tmp_path).warnings[0]
    series(tmp_path, 4, PatientID="another", StudyInstanceUID=uid("other"))
    with pytest.raises(SkullVAEError, match=r"several patients\. .*--series"):
        read_dicom(tmp_path)
    assert read_dicom(tmp_path, "4").array.shape == (64, 64, 35)


def test_the_command_lists_every_series_with_its_reason(tmp_path, capsys):
    series(tmp_path, 2, ConvolutionKernel="BONE", SeriesDescription="Bone\x1b[2J 1.0")
    series(tmp_path, 1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert cli.main(["series", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:1] == ["1"]
    assert "not usable: localizer" in lines[1]
    assert lines[2].startswith("*")
    assert {"axial", "2.00", "35"} <= set(lines[2].split())
    assert "\x1b" not in "".join(lines)
    with open_study(tmp_path) as study:
        listed = as_json(study)
        assert as_text(study).count("\n") == 2
    assert listed["chosen"] == "2"
    assert [entry["usable"] for entry in listed["series"]] == [False, True]
    assert listed["series"][1]["uid"] == uid("s", 2)
    assert cli.main(["series", str(tmp_path), "--json"]) == 0
    assert '"chosen": "2"' in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------------------
# Sources


def zipped(folder: Path, archive: Path, top: str = "") -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(folder.iterdir()):
            opened.write(path, f"{top}{path.name}")
    return archive


@pytest.fixture
def own_temporary(tmp_path, monkeypatch) -> Path:
    """A folder of temporary files, which must be empty at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def test_an_archive_is_read_and_its_files_are_removed(plain, tmp_path, own_temporary):
    archive = zipped(plain, tmp_path / "study.zip", "Quitzilla/a/")
    assert is_dicom(archive)
    assert_right(read_volume(archive))


def test_no_name_in_an_archive_leads_out_of_it(plain, tmp_path, own_temporary):
    archive = zipped(plain, tmp_path / "study.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        for name in ("../../escaped", "/escaped", "C:\\escaped", "..\\escaped"):
            opened.writestr(name, b"x" * 200)
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        opened.writestr(link, "/etc/passwd")
    assert_right(read_volume(archive))
    assert not list(tmp_path.rglob("*escaped*"))
    assert not Path("/escaped").exists()


def test_bombs_are_refused_before_they_are_extracted(tmp_path, own_temporary, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a", bytes(2**25))
    with pytest.raises(SkullVAEError, match="more than a study compresses to"):
        read_volume(tmp_path / "bomb.zip")
    monkeypatch.setattr(sources, "_MOST_FILES", 5)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as opened:
        for number in range(6):
            opened.writestr(str(number), b"")
    with pytest.raises(SkullVAEError, match="more than 5 files"):
        read_volume(tmp_path / "many.zip")


def test_a_deflated_bomb_is_inflated_to_its_limit_only(plain, tmp_path):
    """A dataset of a few kilobytes that inflates to a gigabyte: its tail is not inflated."""
    folder = copied(plain, tmp_path)
    path = sorted(folder.iterdir())[0]
    dataset = pydicom.dcmread(path)
    _deflated(dataset, path)
    dataset, raw = pydicom.dcmread(path), path.read_bytes()
    begin = 132 + 12 + int(dataset.file_meta.FileMetaInformationGroupLength)
    content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw[begin:])
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = deflater.compress(content)
    for _ in range(64):
        packed += deflater.compress(bytes(2**22))
    path.write_bytes(raw[:begin] + packed + deflater.flush())
    assert_right(read_volume(folder))


@pytest.mark.parametrize("content", [b"PK\3\4", b"PK\3\4" + bytes(300), b"PK\5\6" + bytes(18)])
def test_a_damaged_or_empty_archive_is_refused_in_one_sentence(tmp_path, own_temporary, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(SkullVAEError, match=r"'a.zip'|holds no DICOM files"):
        read_volume(tmp_path / "a.zip")


def test_a_dicomdir_stands_for_its_folder_whatever_it_lists(plain, tmp_path):
    folder = copied(plain, tmp_path)
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"names of files in the wrong case")
    assert folder.parent == tmp_path
    assert_right(read_volume(tmp_path / "DICOMDIR"))
    (tmp_path / "DICOMDIR").rename(tmp_path / "dicomdir")
    assert_right(read_volume(tmp_path / "dicomdir"))


def test_a_file_stands_for_its_series(plain, tmp_path):
    folder = copied(plain, tmp_path)
    series(folder, 7)
    assert_right(read_volume(folder / "IM0003"))
    assert read_volume(folder / "7_0003").array.shape == (64, 64, 35)


def test_links_that_lead_in_circles_and_pipes_are_no_trap(plain, tmp_path):
    folder = copied(plain, tmp_path)
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes with names here")
    os.mkfifo(folder / "pipe")
    (folder / "circle").symlink_to(folder)
    (folder / "dangling").symlink_to(folder / "nothing")
    assert_right(read_volume(folder))


def test_files_that_cannot_be_opened_are_counted(plain, tmp_path):
    folder = copied(plain, tmp_path)
    path = sorted(folder.iterdir())[-1]
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may write anywhere")
    assert "1 file could not be read" in read_volume(folder).warnings[0]


def test_a_folder_without_images_is_refused_with_what_it_holds(plain, tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(SkullVAEError, match="holds no DICOM files"):
        read_volume(tmp_path / "a")
    zipped(plain, tmp_path / "a" / "study.zip")
    with pytest.raises(SkullVAEError, match="but an archive"):
        read_volume(tmp_path / "a")
    report = ct_slice(np.zeros((8, 8)))
    del report.Rows, report.Columns, report.PixelData
    report.save_as(tmp_path / "a" / "report", enforce_file_format=True)
    (tmp_path / "a" / "study.zip").unlink()
    with pytest.raises(SkullVAEError, match="but no images"):
        read_volume(tmp_path / "a")


def test_a_batch_takes_folders_of_slices_as_cases(plain, tmp_path):
    for name in ("case_a", "case_b"):
        shutil.copytree(plain, tmp_path / "cohort" / name)
    (tmp_path / "cohort" / "notes").mkdir()
    assert [case.name for case in list_cases(tmp_path / "cohort")] == ["case_a", "case_b"]
    (tmp_path / "list.csv").write_text("path,name,series\ncohort/case_a,one,2\n", encoding="utf-8")
    (case,) = list_cases(tmp_path / "list.csv")
    assert (case.name, case.arguments) == ("one", ("--series=2",))
    with pytest.raises(SkullVAEError, match="folder of DICOM slices, not a cohort"):
        list_cases(plain)


def test_options_of_other_inputs_are_refused(plain, tmp_path):
    with pytest.raises(SkullVAEError, match="no segments"):
        read_volume(plain, segment="1")
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\n\n")
    with pytest.raises(SkullVAEError, match="has no series"):
        read_volume(tmp_path / "a.nrrd", series="2")


# ----------------------------------------------------------------------------------------------------------------------
# Real studies


@pytest.fixture(scope="module")
def studies(real_skulls) -> Path:
    folder = real_skulls.parent / "dicom"
    if not folder.is_dir():
        pytest.skip("no real skulls: SKULLVAE_SKULLS is not set")
    return folder


def test_of_the_real_study_the_axial_bone_series_is_taken(studies):
    with open_study(studies / "study_several_series") as study:
        usable = {each.key: each.stack.orientation for each in study.candidates if each.usable}
        assert usable == {"2": "axial", "3": "axial", "5": "coronal", "6": "sagittal"}
        assert study.chosen.series.description == "Brain Bone 5.0"
        assert {each.key: each.reason for each in study.candidates if not each.usable} == {"1": "localizer (scout)"}


def test_the_series_of_the_real_study_show_the_same_bone_at_the_same_place(studies):
    """The tilted axial slices after their correction, and the reformats that the scanner computed."""
    axial, coronal = (read_dicom(studies / "study_several_series", number) for number in ("2", "5"))
    index = np.argwhere(coronal.array > 600)[::500]
    points = apply_affine(coronal.affine, index)
    place = apply_affine(np.linalg.inv(axial.affine), points)
    inside = ((place > 1) & (place < np.array(axial.array.shape) - 2)).all(1)
    values = ndimage.map_coordinates(axial.array.astype(np.float32), place[inside].T, order=1)
    assert inside.sum() > 500
    assert np.mean(values > 150) > 0.9


def test_the_output_of_the_list_goes_nowhere_else(plain, capsys):
    """Descriptions are printed, and nothing else is."""
    assert cli.main(["series", str(plain)]) == 0
    printed = capsys.readouterr()
    assert "Quitzilla" not in printed.out + printed.err
