"""Claims about what an image header states: the orientation, the grid, the format and the segments."""

from __future__ import annotations

import bz2
import gzip
import os
import struct
import tarfile
import threading

import nibabel as nib
import numpy as np
import pytest
from image_files import numbered_voxels
from scipy.spatial.transform import Rotation

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io import images
from SkullVAELib.io.grids import displacement_mm, rectangular_affine
from SkullVAELib.io.images import read_volume, write_volume

SHAPE = (60, 50, 40)
TURN = Rotation.from_euler("xyz", (12.3, -7.1, 3.3), degrees=True).as_matrix()


def voxels(shape=SHAPE) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.int32).reshape(shape).astype(np.int16)


def affine_of(columns, origin=(-20.0, 5.0, 30.0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, origin
    return affine


def nifti(path, sform=None, qform=None, shape=SHAPE):
    """A NIfTI file with these forms, each None if the file does not state it."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.int16)
    header.set_xyzt_units("mm")
    some = sform if sform is not None else qform if qform is not None else np.eye(4)
    header["pixdim"][1:4] = np.linalg.norm(some[:3, :3], axis=0)
    header.set_qform(some if qform is None else qform, code=1)
    header.set_sform(some if sform is None else sform, code=2)
    header["qform_code"], header["sform_code"] = int(qform is not None), 2 * int(sform is not None)
    nib.save(nib.Nifti1Image(voxels(shape), None, header), path)
    return path


def nrrd(path, *fields, array=None, sizes=None, dimension=3, encoding="raw", data=None, kinds=None):
    """An NRRD file of an array (I, J, K), with these further lines in its header."""
    array = numbered_voxels().astype(np.uint8) if array is None else array
    head = [
        *("NRRD0004", "type: uchar", f"dimension: {dimension}"),
        f"sizes: {sizes or ' '.join(map(str, array.shape))}",
        *fields,
        *([] if kinds is None else [f"kinds: {kinds}"]),
        *(f"encoding: {encoding}", "endian: little"),
    ]
    raw = array.tobytes("F") if data is None else data
    path.write_bytes("\n".join([*head, "", ""]).encode() + raw)
    return path


LPS = ("space: left-posterior-superior", "space directions: (1,0,0) (0,1,0) (0,0,1)", "space origin: (0,0,0)")


def test_forms_that_agree_give_no_warning(tmp_path):
    affine = affine_of(TURN * [0.5, 0.5, 2])
    assert read_volume(nifti(tmp_path / "a.nii", affine, affine)).warnings == ()
    near = affine_of(TURN * [0.5, 0.5, 2], origin=(-20.0, 5.05, 30.0))
    assert read_volume(nifti(tmp_path / "a.nii", affine, near)).warnings == ()


@pytest.mark.parametrize("kind", ["u1", "i1", "<i2", ">i2", "<u2", ">i4", "u4", "<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("scale", [(0, 0), (1, 0), (2.5, -7)], ids=str)
def test_a_compressed_nifti_file_is_read_as_an_uncompressed_one(tmp_path, kind, scale):
    dtype = np.dtype(kind)
    header = nib.Nifti1Header(endianness="<" if dtype.isnative else ">")
    header.set_data_dtype(dtype)
    header.set_data_shape(SHAPE)
    header.set_sform(affine_of(TURN), code=1)
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, *scale
    header["magic"] = b"n+1"
    stored = voxels().astype(dtype)
    if dtype.kind == "f":
        stored[0, 0, :3] = np.nan, np.inf, -np.inf
    plain = header.binaryblock + bytes(4) + stored.tobytes("F")
    (tmp_path / "a.nii").write_bytes(plain)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(plain))
    one, other = (read_volume(tmp_path / name) for name in ("a.nii", "a.nii.gz"))
    assert other.array.dtype == one.array.dtype and other.array.dtype.isnative
    assert np.array_equal(other.array, one.array)
    assert other.array.flags.writeable and np.array_equal(other.affine, one.affine)


@pytest.mark.parametrize("scale", [(0, 0), (2, 1)], ids=str)
@pytest.mark.parametrize("damage", ["a wrong CRC", "cut at the end", "cut in the voxels"])
def test_a_damaged_compressed_file_is_refused(tmp_path, damage, scale):
    path = nifti(tmp_path / "a.nii.gz", affine_of(np.eye(3)))
    raw = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<ff", raw, 112, *scale)
    data = bytearray(gzip.compress(bytes(raw)))
    if damage == "a wrong CRC":
        data[-8] ^= 1
    path.write_bytes(data[: {"cut at the end": -5, "cut in the voxels": len(data) // 2}.get(damage)])
    with pytest.raises(SkullVAEError, match=r"truncated|cannot be read"):
        read_volume(path)


def test_shifted_forms_give_a_warning_that_says_which_was_followed(tmp_path):
    sform, qform = affine_of(np.eye(3)), affine_of(np.eye(3), origin=(10.0, 35.0, 60.0))
    volume = read_volume(nifti(tmp_path / "a.nii.gz", sform, qform))
    (warning,) = volume.warnings
    assert "52.0 mm" in warning  # 30 mm along each axis
    followed = "qform" if np.allclose(volume.affine, qform) else "sform"
    assert np.allclose(volume.affine, {"qform": qform, "sform": sform}[followed])
    assert f"The {followed} was followed" in warning
    assert "swapped" not in warning


def test_mirrored_forms_give_a_warning_about_left_and_right(tmp_path):
    sform = affine_of(np.eye(3))
    qform = np.diag([-1.0, 1, 1, 1]) @ sform
    volume = read_volume(nifti(tmp_path / "a.nii", sform, qform))
    (warning,) = volume.warnings
    assert "left and right are swapped" in warning
    assert "sform" in warning
    assert "qform" in warning


@pytest.mark.parametrize("digits", [3, 4])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_rounded_sform_is_read_on_the_nearest_rectangular_grid(tmp_path, digits, suffix):
    exact = affine_of(TURN * 0.5)
    rounded = affine_of(np.round(TURN * 0.5, digits))
    shape = (40, 50, 30) if digits == 3 else (240, 220, 200)
    assert not np.allclose(np.linalg.det(rounded[:3, :3] / 0.5), 1, atol=1e-6)
    volume = read_volume(nifti(tmp_path / f"a{suffix}", rounded, shape=shape))
    assert np.array_equal(volume.array, voxels(shape))
    direction = volume.affine[:3, :3] / volume.spacing
    assert np.allclose(direction.T @ direction, np.eye(3), atol=1e-6)
    assert displacement_mm(volume.affine, rounded, shape) < 0.1
    assert displacement_mm(volume.affine, exact, shape) < 0.2


def test_a_sform_in_metres_that_itk_rejects_is_read_in_millimetres(tmp_path):
    path = nifti(tmp_path / "a.nii", affine_of(np.round(TURN * 0.5, 3)), shape=(40, 50, 30))
    expected = read_volume(path)
    raw = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]))
    header.set_xyzt_units("meter")
    for name in ("srow_x", "srow_y", "srow_z"):
        header[name] = header[name] / 1000
    header["pixdim"][1:4] /= 1000
    path.write_bytes(header.binaryblock + raw[348:])
    assert np.allclose(read_volume(path).affine, expected.affine, atol=1e-3)


def test_nrrd_and_nifti_have_the_same_tolerance(tmp_path):
    rounded = np.round(TURN * 0.5, 3)
    text = " ".join(f"({c[0]},{c[1]},{c[2]})" for c in (np.diag([-1, -1, 1]) @ rounded).T)
    small, large = np.zeros((40, 50, 30), np.uint8), np.zeros((400, 500, 20), np.uint8)
    for array in (small, large):
        fields = ("space: left-posterior-superior", f"space directions: {text}", "space origin: (20,-5,30)")
        path = nrrd(tmp_path / "a.nrrd", *fields, array=array)
        other = nifti(tmp_path / "a.nii", affine_of(rounded), shape=array.shape)
        if array is small:
            assert np.allclose(read_volume(path).affine, read_volume(other).affine, atol=1e-4)
            continue
        for file in (path, other):
            with pytest.raises(SkullVAEError, match="not perpendicular") as caught:
                read_volume(file)
            assert "gantry" in str(caught.value)
            assert "Resample" in caught.value.remedy


def test_the_rectangular_grid_keeps_an_exact_affine_bit_by_bit():
    affine = affine_of(TURN * [0.4, 0.4, 5])
    assert rectangular_affine("a", affine, SHAPE) is affine
    mirrored = affine @ np.diag([-1.0, 1, 1, 1])
    assert rectangular_affine("a", mirrored, SHAPE) is mirrored


def test_a_file_without_orientation_is_read_with_a_warning(tmp_path):
    files = [
        nifti(tmp_path / "a.nii"),
        nrrd(tmp_path / "a.nrrd", "spacings: 1 1 2"),
        nrrd(tmp_path / "b.nrrd", "space: 3D-right-handed", LPS[1]),
        nrrd(tmp_path / "c.nrrd", "space dimension: 3", LPS[1]),
    ]
    write_volume(Volume(numbered_voxels(), np.eye(4)), tmp_path / "a.mha")
    whole = (tmp_path / "a.mha").read_bytes()
    start, end = whole.index(b"TransformMatrix"), whole.index(b"Offset")
    (tmp_path / "b.mha").write_bytes(whole[:start] + whole[end:])
    for path in (*files, tmp_path / "b.mha"):
        volume = read_volume(path)
        (warning,) = volume.warnings
        assert "states no orientation" in warning
        assert path.name in warning
        assert np.allclose(np.sign(np.diag(volume.affine)[:3]), [-1, -1, 1])
        assert "left, the back and the top" in warning


def test_a_file_with_an_orientation_has_no_warning(tmp_path):
    for name in ("a.nrrd", "a.nhdr", "a.nii", "a.mha", "a.mhd"):
        write_volume(Volume(numbered_voxels(), np.eye(4)), tmp_path / name)
        assert read_volume(tmp_path / name).warnings == ()
    assert read_volume(nrrd(tmp_path / "b.nrrd", *LPS)).warnings == ()


@pytest.mark.parametrize("suffix", [".Nii.Gz", ".NII.GZ", ".Nii", ".NRRD", ".Nrrd", ".MHA", ".Mhd", ".NHDR"])
def test_suffixes_in_any_case_are_read(tmp_path, suffix):
    volume = Volume(numbered_voxels(), affine_of(TURN))
    write_volume(volume, tmp_path / f"a{suffix.lower()}")
    path = (tmp_path / f"a{suffix.lower()}").rename(tmp_path / f"Head{suffix}")
    assert np.array_equal(read_volume(path).array, volume.array)
    assert np.allclose(read_volume(path).affine, volume.affine, atol=1e-4)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_bzip2_voxels_are_read(tmp_path, line_end):
    array = numbered_voxels().astype(np.uint8)
    path = nrrd(tmp_path / "a.nrrd", *LPS, encoding="bzip2", data=bz2.compress(array.tobytes("F")))
    head, _, data = path.read_bytes().partition(b"\n\n")
    path.write_bytes((head + b"\n\n").replace(b"\n", line_end.encode()) + data)
    assert np.array_equal(read_volume(path).array, array)
    assert np.allclose(read_volume(path).affine, np.diag([-1, -1, 1, 1]))
    (tmp_path / "a.raw.bz2").write_bytes(data)
    detached = nrrd(tmp_path / "b.nhdr", *LPS, "data file: a.raw.bz2", encoding="bz2", data=b"")
    assert np.array_equal(read_volume(detached).array, array)


def test_damaged_bzip2_voxels_are_rejected(tmp_path):
    data = bz2.compress(np.random.default_rng(0).integers(0, 255, 7 * 9 * 11).astype(np.uint8).tobytes())
    bomb = bz2.compress(bytes(2**22))
    bad = {
        "truncated": (data[:-20], None),
        "not bzip2": (b"x" * 500, None),
        "too few voxels": (bz2.compress(bytes(20)), None),
        "more voxels than the data can hold": (bomb, "1200 1200 1000"),
        "terabytes": (bomb, "100000 100000 100000"),
    }
    for name, (content, sizes) in bad.items():
        path = nrrd(tmp_path / "a.nrrd", *LPS, encoding="bzip2", data=content, sizes=sizes)
        with pytest.raises(SkullVAEError):
            read_volume(path)
            pytest.fail(name)


def layered(path, *keys, one=None, layers=2):
    """A .seg.nrrd file of two layers: labels 1 and 2 in the first, 1 in the second."""
    array = np.zeros((layers, 6, 7, 8), np.uint8)
    array[0, :3], array[0, 4:], array[-1, 2:5] = 1, 2, 1
    if one:
        array[0], array[-1] = 0, one
    directions = "space directions: none (1,0,0) (0,1,0) (0,0,1)"
    fields = (LPS[0], directions, LPS[2], *keys)
    return nrrd(path, *fields, array=array, dimension=4, kinds="list domain domain domain"), array


THREE = (
    *("Segment0_Name:=Skull", "Segment0_LabelValue:=1", "Segment0_Layer:=0"),
    *("Segment1_Name:=Mandible", "Segment1_LabelValue:=2", "Segment1_Layer:=0"),
    *("Segment2_Name:=Bone flap", "Segment2_LabelValue:=1", "Segment2_Layer:=1"),
)


def test_a_layered_segmentation_lists_its_segments_and_gives_the_chosen_one(tmp_path):
    path, array = layered(tmp_path / "a.seg.nrrd", *THREE)
    with pytest.raises(SkullVAEError, match=r"several segments: 'Skull' .*'Mandible' .*'Bone flap'") as caught:
        read_volume(path)
    assert "--segment" in caught.value.remedy
    assert np.array_equal(read_volume(path, "Skull").array, array[0] == 1)
    assert np.array_equal(read_volume(path, "bone FLAP").array, array[1] == 1)
    assert np.array_equal(read_volume(path, 2).array, array[0] == 2)
    assert read_volume(path, "2").array.dtype == np.uint8
    # Two segments have label 1: the numbers are those of their order, as the messages list them.
    assert np.array_equal(read_volume(path, "1").array, array[0] == 1)
    assert np.array_equal(read_volume(path, 3).array, array[1] == 1)
    with pytest.raises(
        SkullVAEError, match=r"no segment '4'. Choose one of 'Skull' .1., 'Mandible' .2., 'Bone flap' .3"
    ):
        read_volume(path, 4)
    empty = ("Segment3_Name:=Empty", "Segment3_LabelValue:=7", "Segment3_Layer:=1")
    last = (key.replace("Segment1", "Segment4") for key in THREE[3:6])
    some, _ = layered(tmp_path / "some.seg.nrrd", *THREE[:3], *THREE[6:], *empty, *last)
    with pytest.raises(SkullVAEError, match=r"several segments: .*'Bone flap' .2., 'Mandible' .4."):
        read_volume(some)
    assert np.array_equal(read_volume(some, 4).array, array[0] == 2), "an empty segment has a number, too"
    twice, _ = layered(
        tmp_path / "twice.seg.nrrd", *THREE[:6], *(key.replace("Bone flap", "Skull") for key in THREE[6:])
    )
    with pytest.raises(SkullVAEError, match=r"2 segments that 'skull' may mean.*'Skull' .1., .* 'Skull' .3."):
        read_volume(twice, "skull")
    with pytest.raises(SkullVAEError, match=r"no segment 'Tooth'.*'Mandible'"):
        read_volume(path, "Tooth")


def test_one_segment_is_taken_whatever_the_number_of_layers(tmp_path):
    path, array = layered(tmp_path / "a.seg.nrrd", *THREE[-3:], one=1)
    assert np.array_equal(read_volume(path).array, array[1] == 1)
    # Layers without names, of which one is empty; and one layer in a file of four dimensions.
    path, array = layered(tmp_path / "b.seg.nrrd", one=3)
    assert np.array_equal(read_volume(path).array, array[1] == 3)
    path, array = layered(tmp_path / "c.seg.nrrd", layers=1, one=5)
    assert np.array_equal(read_volume(path).array != 0, array[0] != 0)
    path, _ = layered(tmp_path / "d.seg.nrrd")
    with pytest.raises(SkullVAEError, match="several segments: 1, 2, 3"):
        read_volume(path)


def test_labels_are_chosen_by_value_or_name_in_a_file_of_one_layer(tmp_path):
    array = np.zeros((6, 7, 8), np.uint8)
    array[:2], array[3:] = 1, 4
    path = nrrd(tmp_path / "a.nrrd", *LPS, array=array)
    assert np.array_equal(read_volume(path).array, array)
    assert np.array_equal(read_volume(path, 4).array, array == 4)
    with pytest.raises(SkullVAEError, match=r"no segment '3'. Choose one of 1, 4"):
        read_volume(path, "3")
    named = nrrd(
        tmp_path / "b.seg.nrrd", *LPS, *THREE[:2], "Segment1_Name:=Table: top", "Segment1_LabelValue:=4", array=array
    )
    assert np.array_equal(read_volume(named, "Table: top").array, array == 4)
    with pytest.raises(SkullVAEError, match=r"'Skull' .1., 'Table: top' .4."):
        read_volume(named)
    write_volume(Volume(voxels(), np.eye(4)), tmp_path / "ct.nrrd")
    with pytest.raises(SkullVAEError, match="not a segmentation"):
        read_volume(tmp_path / "ct.nrrd", 1)


def test_old_segmentations_with_a_layer_for_each_segment_are_read(tmp_path):
    path, array = layered(tmp_path / "a.seg.nrrd", "Segment0_Name:=Skull", "Segment1_Name:=Flap")
    assert np.array_equal(read_volume(path, "Flap").array, array[1] == 1)


def other_files(folder):
    with tarfile.open(folder / "study.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.dcm"))
    (folder / "renamed.nrrd").write_bytes(bytes(128) + b"DICM" + bytes(64))
    for name in ("a.stl", "a.OBJ", "a.ply"):
        (folder / name).write_bytes(b"solid a\n")
    (folder / "a.png").write_bytes(b"\x89PNG")
    return folder


@pytest.mark.parametrize(
    ("name", "cause", "remedy"),
    [
        ("study.tar.gz", "archive", "Extract it and give the folder of the DICOM series"),
        ("renamed.nrrd", "DICOM", "Rename it without the suffix of an image file"),
        ("a.stl", "surface model", "convert the model to a segmentation"),
        ("a.OBJ", "surface model", "convert the model to a segmentation"),
        ("a.ply", "surface model", "convert the model to a segmentation"),
        ("a.png", "picture", "Give the folder of the DICOM series"),
    ],
)
def test_files_of_other_kinds_are_named_with_the_way_to_convert_them(tmp_path, name, cause, remedy):
    with pytest.raises(SkullVAEError) as caught:
        read_volume(other_files(tmp_path) / name)
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy


def test_stderr_is_restored_after_reads_that_overlap(tmp_path):
    """The first reader ends before the second, which began while stderr was redirected."""
    before = os.fstat(2)
    inside, leave = threading.Event(), threading.Event()

    def first():
        with images._quiet_stderr():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(10)
    with images._quiet_stderr():
        leave.set()
        thread.join()
        assert os.path.samestat(os.fstat(2), os.stat(os.devnull))
    assert os.path.samestat(os.fstat(2), before)
