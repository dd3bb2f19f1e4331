"""Claims about reading and writing volumes: every voxel keeps its place, and no bad file is read in silence."""

from __future__ import annotations

import os
import zlib

import fuzz_inputs
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from image_files import SHAPE, cut, nifti, nrrd, numbered_voxels, several_values, written
from scipy.spatial.transform import Rotation

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import read_volume, to_image, volume_suffix, write_volume


def affine_of(spacing, rotation=((1, 0, 0), (0, 1, 0), (0, 0, 1)), origin=(-31.5, 12.25, 80.0)) -> np.ndarray:
    """(4, 4) voxel -> RAS mm from a voxel size, the axes' directions as columns, and the first voxel's place."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(rotation) * np.asarray(spacing)
    affine[:3, 3] = origin
    return affine


GRIDS = {
    "plain": affine_of((1, 1, 1)),
    "anisotropic": affine_of((0.4, 0.5, 3)),
    "flipped": affine_of((1, 1, 1), np.diag([-1, -1, 1])),
    "mirrored, det -1": affine_of((0.49, 0.49, 0.5), np.diag([1, -1, 1])),
    "axes exchanged": affine_of((1, 2, 3), np.eye(3)[[2, 0, 1]]),
    "oblique": affine_of((0.7, 0.8, 1.9), Rotation.from_euler("xyz", (20, -35, 10), degrees=True).as_matrix()),
    "oblique, det -1": affine_of(
        (1, 0.6, 2), Rotation.from_euler("xyz", (5, 40, -70), degrees=True).as_matrix() @ np.diag([1, 1, -1])
    ),
}


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd"])
@pytest.mark.parametrize("grid", GRIDS)
def test_round_trip_keeps_every_voxel_in_place(tmp_path, grid, suffix):
    volume = Volume(numbered_voxels(), GRIDS[grid])
    write_volume(volume, tmp_path / f"volume{suffix}")
    again = read_volume(tmp_path / f"volume{suffix}")
    assert np.array_equal(again.array, volume.array)
    assert np.allclose(again.affine, volume.affine, atol=1e-4)  # NIfTI keeps 32-bit numbers
    assert np.allclose(again.spacing, np.linalg.norm(volume.affine[:3, :3], axis=0), rtol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_result_written_on_the_grid_of_an_input_has_exactly_its_header(tmp_path, grid):
    write_volume(Volume(numbered_voxels(), GRIDS[grid]), tmp_path / "input.nrrd")
    volume = read_volume(tmp_path / "input.nrrd")
    write_volume(volume.with_array(volume.array > 100), tmp_path / "result.nrrd")
    there, here = (sitk.ReadImage(str(tmp_path / name)) for name in ("input.nrrd", "result.nrrd"))
    assert here.GetSize() == there.GetSize()
    assert np.allclose(here.GetSpacing(), there.GetSpacing(), rtol=1e-12)
    assert np.allclose(here.GetOrigin(), there.GetOrigin(), rtol=1e-12)
    assert np.allclose(here.GetDirection(), there.GetDirection(), atol=1e-12)
    assert here.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    assert set(np.unique(sitk.GetArrayViewFromImage(here))) == {0, 1}


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles=arrays(float, 3, elements=st.floats(-180, 180)),
    spacing=arrays(float, 3, elements=st.floats(0.2, 8)),
    origin=arrays(float, 3, elements=st.floats(-500, 500)),
    mirror=st.sampled_from([(1, 1, 1), (-1, 1, 1), (1, -1, 1), (-1, -1, -1)]),
)
def test_nibabel_reads_the_same_affine_from_our_nifti_as_we_do(tmp_path, angles, spacing, origin, mirror):
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(mirror)
    volume = Volume(numbered_voxels(), affine_of(spacing, rotation, origin))
    write_volume(volume, tmp_path / "volume.nii")
    other = nib.load(tmp_path / "volume.nii")
    corners = np.array([[0, 0, 0, 1], [*np.array(SHAPE) - 1, 1]]).T
    assert np.allclose(other.affine @ corners, volume.affine @ corners, atol=2e-3)
    assert np.allclose(read_volume(tmp_path / "volume.nii").affine @ corners, other.affine @ corners, atol=2e-3)
    assert np.array_equal(np.asanyarray(other.dataobj), volume.array)


def test_a_trailing_fourth_dimension_of_one_is_read_as_3d(tmp_path):
    nib.save(nib.Nifti1Image(numbered_voxels()[..., None], GRIDS["oblique"]), tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(volume.array, numbered_voxels())
    assert np.allclose(volume.affine, GRIDS["oblique"], atol=1e-4)


def test_scaled_nifti_values_are_read_as_hounsfield_units(tmp_path):
    path = nifti(tmp_path, "ct.nii.gz", scaling=(112, "ff", 2.0, -1024.0))
    assert np.array_equal(read_volume(path).array, numbered_voxels() * 2.0 - 1024)


def shear():
    affine = np.eye(4)
    affine[0, 1] = 0.3
    return affine


BAD_FILES = {
    "missing": (lambda d: d / "missing.nrrd", "does not exist"),
    "a folder": (lambda d: d, "holds no DICOM files"),
    "unknown suffix": (lambda d: cut(nrrd(d), None).rename(d / "a.txt"), "no known image suffix"),
    "no bytes": (lambda d: cut(nrrd(d), 0), "is empty"),
    "not an image": (lambda d: cut(nrrd(d), 9), "cannot be read"),
    "cut .nrrd": (lambda d: cut(written(d, "a.nrrd"), 20000), "Check that the file is complete"),
    "cut .mha": (lambda d: cut(written(d, "a.mha"), 20000), "is damaged or truncated"),
    "cut .nii": (lambda d: cut(written(d, "a.nii"), -1), "is damaged or truncated"),
    "cut .nii.gz": (lambda d: cut(written(d, "a.nii.gz"), 20000), "is damaged or truncated"),
    "cut trailer of .nii.gz": (lambda d: cut(written(d, "a.nii.gz"), -4), "is damaged or truncated"),
    ".nhdr without its data": (lambda d: (written(d, "a.nhdr"), (d / "a.raw.gz").unlink())[0], "is missing"),
    "2D": (lambda d: nifti(d, array=np.zeros((9, 9), np.int16)), "has 2 dimensions"),
    "one slice": (lambda d: nifti(d, array=np.zeros((9, 9, 1), np.int16)), "single slice"),
    "4D": (lambda d: nifti(d, array=np.zeros((9, 9, 9, 2), np.int16)), "has 4 dimensions"),
    "several values per voxel": (lambda d: several_values(d / "a.nrrd"), "several values"),
    "terabytes in .nrrd": (lambda d: nrrd(d, sizes="100000 100000 100000"), "too large"),
    "terabytes in .nii.gz": (lambda d: nifti(d, size=(42, "hhh", 32000, 32000, 32000)), "too large"),
    "a gigabyte in a kilobyte": (lambda d: nrrd(d, sizes="1000 1000 1000"), "is damaged or truncated"),
    "sheared sform": (lambda d: nifti(d, affine=shear()), "not perpendicular"),
    "sheared .nrrd": (lambda d: nrrd(d, directions="(1,0.3,0) (0,1,0) (0,0,1)"), "not perpendicular"),
    "singular .nrrd": (lambda d: nrrd(d, directions="(1,0,0) (1,0,0) (0,0,1)"), "not perpendicular"),
    "zero spacing in .nrrd": (lambda d: nrrd(d, directions="(0,0,0) (0,1,0) (0,0,1)"), "voxel size"),
    "zero spacing in .nii.gz": (lambda d: nifti(d, zoom=(80, "f", 0.0)), "voxel size"),
    "negative spacing in .nii.gz": (lambda d: nifti(d, zoom=(80, "f", -1.0)), "voxel size"),
    "spacing that is not a number": (lambda d: nifti(d, row=(280, "f", float("nan"))), "grid"),
    "two voxel sizes": (lambda d: nifti(d, zoom=(80, "f", 3.0)), "voxel size"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_gives_one_sentence_and_a_remedy_and_nothing_on_stderr(tmp_path, capfd, kind):
    make, expected = BAD_FILES[kind]
    path = make(tmp_path)
    capfd.readouterr()
    with pytest.raises(SkullVAEError) as caught:
        read_volume(path)
    assert expected in str(caught.value)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def file(folder, name, content):
    (folder / name).write_bytes(content)
    return folder / name


def detached(folder, data_file, sizes=b"6 5 4"):
    """An .nhdr in a folder with whole and short data, a pipe, a link to a device and a folder, all to be named."""
    fuzz_inputs.prepare_folder(folder)
    head = fuzz_inputs.nrrd_head(b"encoding: raw", b"data file: " + data_file).replace(b"6 5 4", sizes)
    return file(folder, "a.nhdr", head)


def meta(folder, *fields, data=None, more=b"", **options):
    data = fuzz_inputs.voxels().tobytes() if data is None else data
    head = fuzz_inputs.meta_head(*fields, **options)
    return file(folder, "a.mha", head.replace(b"ElementDataFile", more + b"ElementDataFile") + data)


def nrrd_with(folder, *fields, name="a.nrrd"):
    return file(folder, name, fuzz_inputs.nrrd_head(b"encoding: raw", *fields) + b"\n" + fuzz_inputs.voxels().tobytes())


def deep(folder):
    """A damaged file in so many folders that its path alone has more than a thousand characters."""
    for _ in range(5):
        folder = folder / ("x" * 240)
    folder.mkdir(parents=True)
    return file(folder, "a.nrrd", b"NRRD0004\ntype: zz\n\n")


def another_format(folder):
    sitk.WriteImage(sitk.GetImageFromArray(fuzz_inputs.voxels()), str(folder / "a.tif"))
    return (folder / "a.tif").rename(folder / "a.nrrd")


HALF = zlib.compress(fuzz_inputs.voxels().tobytes()[:100])

# Each of these once ended the process, or kept it for ever, or had ITK read what it should not, or asked for all the
# machine's memory, or gave voxels that are in no file: see Docs/explanation/robustness.md.
HOSTILE_FILES = {
    "a long field": lambda d: nrrd_with(d, b'labels: "%s"' % (b"x" * 2000)),
    "an unknown long field": lambda d: nrrd_with(d, b"x" * 2000),
    "a long field behind a bare carriage return": lambda d: nrrd_with(d, b"labels: x\r#" + b"x" * 2000),
    "a long field behind a long header": lambda d: nrrd_with(d, b"#" + b"x" * 2**22, b"labels: " + b"x" * 2000),
    "a long path": deep,
    "a size beyond 32 bits": lambda d: file(
        d, "a.nrrd", b"NRRD0001\ntype: short\ndimension: 3\nsizes: 4294967696 5 4\nspacings: 1 1 1\nencoding: raw\n\n"
    ),
    "another format by the name of .nrrd": another_format,
    "more voxels than the data file can hold": lambda d: detached(d, b"short.raw", b"1000 1000 1000"),
    "infinite sform": lambda d: nifti(d, "a.nii", row=(296, "ff", 1e9, float("inf"))),
    "not a number in the qform": lambda d: nifti(d, "a.nii", code=(252, "hh", 1, 0), place=(268, "f", float("nan"))),
    "a qform that is no rotation": lambda d: nifti(d, "a.nii", code=(252, "hh", 1, 0), turn=(256, "ff", 9.0, 9.0)),
    "a negative extension": lambda d: nifti(d, "a.nii", at=(108, "f", 400.0), extension=(348, "iii", 1, -16, 0)),
    "an unknown type of voxels": lambda d: nifti(d, "a.nii", type=(70, "h", 99)),
    "dimensions in .mha that are none": lambda d: meta(d, b"NDims = 1e30"),
    "dimensions in .mha given twice": lambda d: meta(d, more=b"NDims = 65536\n"),
    "more numbers in .mha than dimensions": lambda d: meta(d, b"Offset = " + b"0 " * 200),
    "another object in .mha": lambda d: meta(d, b"ObjectType = Tube"),
    "a voxel size in .mha that overflows": lambda d: meta(d, b"ElementSpacing = 1e300 1e300 1e300"),
    "compressed voxels that are lacking": lambda d: meta(
        d, b"CompressedData = True", b"CompressedDataSize = %d" % len(HALF), data=HALF
    ),
    "compressed voxels of unknown size": lambda d: meta(d, b"CompressedData = True", data=HALF),
    "a compressed size beyond 64 bits": lambda d: meta(
        d, b"CompressedData = True", b"CompressedDataSize = 18446744073709551616", data=HALF
    ),
    ".mha without a header": lambda d: file(d, "a.mha", b"\0" * 100),
}


@pytest.mark.parametrize("kind", HOSTILE_FILES)
def test_a_hostile_file_gives_one_sentence_and_no_more(tmp_path, capfd, kind):
    path = HOSTILE_FILES[kind](tmp_path)
    capfd.readouterr()
    with pytest.raises(SkullVAEError) as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(os.name != "posix", reason="no pipes and devices with names here")
@pytest.mark.parametrize(
    "name", sorted({*fuzz_inputs.FILE_NAMES} - {b"data.raw", b"data.raw.gz", b"./data.raw", b"LOCAL"})
)
@pytest.mark.parametrize("suffix", [".nhdr", ".mha"])
def test_a_header_may_name_no_file_but_a_whole_plain_one_beside_it(tmp_path, suffix, name):
    path = detached(tmp_path, name)
    if suffix == ".mha":
        path = meta(tmp_path, file=name, data=b"")
    with pytest.raises(SkullVAEError):
        read_volume(path)


@pytest.mark.skipif(os.name != "posix", reason="no pipes with names here")
@pytest.mark.parametrize("name", [b"data.raw", b"./data.raw"])
def test_a_plain_data_file_beside_its_header_is_read(tmp_path, name):
    for path in (detached(tmp_path, name), meta(tmp_path, file=name, data=b"")):
        assert np.array_equal(read_volume(path).array, fuzz_inputs.voxels().ravel().reshape(4, 5, 6).transpose(2, 1, 0))


def test_nothing_remains_when_writing_fails(tmp_path):
    broken = Volume(np.zeros(SHAPE, np.complex128).astype(object), np.eye(4))
    with pytest.raises((SkullVAEError, TypeError, KeyError)):
        write_volume(broken, tmp_path / "a.nrrd")
    assert list(tmp_path.iterdir()) == []


def test_writing_into_a_missing_folder_names_the_folder(tmp_path):
    with pytest.raises(SkullVAEError, match="nowhere"):
        write_volume(Volume(numbered_voxels(), np.eye(4)), tmp_path / "nowhere" / "a.nrrd")


def test_with_array_refuses_another_shape():
    with pytest.raises(ValueError, match="shape"):
        Volume(numbered_voxels(), np.eye(4)).with_array(np.zeros((1, 2, 3)))


def test_to_image_keeps_bool_voxels():
    volume = Volume(numbered_voxels() % 3 == 0, GRIDS["oblique"])
    image = to_image(volume)
    assert np.array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0) != 0, volume.array)


@pytest.mark.parametrize("name", ["a.NRRD", "b.nii.GZ", "c.d.mha"])
def test_suffixes_are_known_in_any_case(name):
    assert name.lower().endswith(volume_suffix(name))
