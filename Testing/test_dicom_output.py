"""DICOM files of a result: valid, in the place of the source, and the only results with the patient's identifiers."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from bad_inputs import Skull
from dicom_files import IDENTIFIERS, enhanced, uid, write_series
from system_libraries import DCIODVFY

from SkullVAELib.cli import main as cli
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.io.dicom_series import open_study
from SkullVAELib.io.dicom_volume import DicomVolume, read_series
from SkullVAELib.io.images import read_volume
from SkullVAELib.mesh.files import write_stl
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.report import dicom_output
from SkullVAELib.report.dicom_output import ENCAPSULATED_STL, SEGMENTATION, check_dicom_output, write_dicom

TILT = 0.2
"""Displacement of a slice relative to the one below, in mm per mm."""


def tetrahedron() -> Mesh:
    points = np.array([[0, 0, 0], [0, 10, 0], [10, 0, 0], [0, 0, 10]], float)
    return Mesh.outward(points, np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]]))


def positions(count: int = 35, tilt: float = 0.0) -> np.ndarray:
    return np.array([-30.0, -30.0, -20.0]) + np.arange(count)[:, None] * [0.0, 2 * tilt, 2.0]


def masks(source: DicomVolume) -> tuple[np.ndarray, np.ndarray]:
    """A ball and a smaller part of it."""
    centre = np.array(source.volume.array.shape) / 2
    distance = np.linalg.norm((np.moveaxis(np.indices(source.volume.array.shape), 0, -1) - centre) * [1, 1, 2], axis=-1)
    ball = distance < 20
    part = ball.copy()
    part[: int(centre[0] + 8)] = False
    return ball, part


@pytest.fixture(scope="module", params=["plain", "tilted", "multi-frame"])
def written(request, tmp_path_factory):
    """The DICOM files of two masks on a series: (source, completed, implant, folder, warnings)."""
    folder, made = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("in") / "series"
    where, volume = positions(tilt=TILT if request.param == "tilted" else 0.0), np.full((35, 64, 64), -1000.0)
    if request.param == "multi-frame":
        made.mkdir()
        # The frames are in another order than the positions.
        enhanced(volume, where[::-1], (1.0, 1.0, 2.0)).save_as(made / "multi", enforce_file_format=True)
    else:
        write_series(made, volume, where, (1.0, 1.0, 2.0))
    write_stl(tetrahedron(), folder / "implant.stl")
    with open_study(made) as study:
        source = read_series(study, study.choose(None))
        completed, implant = masks(source)
        warnings = write_dicom(source, completed, implant, folder / "implant.stl", folder)
    return source, completed, implant, folder, warnings


def segments(source: DicomVolume, path: Path) -> np.ndarray:
    """The voxels of a segmentation's segments: (2, slices, rows, columns), read with pydicom alone."""
    dataset = pydicom.dcmread(path)
    first = source.slices[0]
    place = {tuple(np.round(each.position, 2)): index for index, each in enumerate(source.slices)}
    found = np.zeros((2, len(source.slices), first.rows, first.columns), bool)
    for frame, pixels in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        at = tuple(np.round([float(x) for x in frame.PlanePositionSequence[0].ImagePositionPatient], 2))
        found[frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1, place[at]] = pixels
    return found


def test_the_segments_have_the_voxels_of_the_result(written):
    source, completed, implant, folder, warnings = written
    found = segments(source, folder / SEGMENTATION)
    if not source.resampled:
        assert np.array_equal(found[0], completed.transpose(2, 1, 0))
        assert np.array_equal(found[1], implant.transpose(2, 1, 0))
        assert warnings == []
        return
    assert "interpolated back" in warnings[0]
    assert abs(found[0].sum() / completed.sum() - 1) < 0.01
    assert (found[0] | ~found[1]).all()
    # The centre of the ball in mm, by the geometry of the slices and by that of the volume.
    slices, rows, columns = np.nonzero(found[0])
    lps = np.array([each.position for each in source.slices])[slices]
    lps = lps + np.stack([columns, rows, np.zeros_like(rows)], 1)
    wanted = (source.volume.affine @ [*np.argwhere(completed).mean(0), 1])[:3] * [-1, -1, 1]
    np.testing.assert_allclose(lps.mean(0), wanted, atol=0.3)


def test_the_segmentation_states_what_its_segments_are(written):
    dataset = pydicom.dcmread(written[3] / SEGMENTATION)
    names = [(s.SegmentLabel, s.SegmentedPropertyTypeCodeSequence[0].CodeValue) for s in dataset.SegmentSequence]
    assert names == [("Skull, completed", "89546000"), ("Implant", "40388003")]
    assert all(s.SegmentAlgorithmType == "AUTOMATIC" for s in dataset.SegmentSequence)
    assert dataset.FrameOfReferenceUID == uid("frame")
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == uid("series", "ct")
    assert dataset.ContentDescription.endswith("not for clinical use")
    assert dataset.SeriesDescription.endswith("not for clinical use")
    assert max(len(dataset.ContentDescription), len(dataset.SeriesDescription)) <= 64


def test_another_library_reads_the_segmentation(written):
    """GDCM reads as many frames as there are slices with a segment."""
    image = sitk.ReadImage(str(written[3] / SEGMENTATION))
    dataset = pydicom.dcmread(written[3] / SEGMENTATION)
    pixels = sitk.GetArrayFromImage(image)
    assert pixels.shape == dataset.pixel_array.shape
    assert np.array_equal(pixels != 0, dataset.pixel_array != 0)


def test_the_encapsulated_stl_is_the_file_with_its_unit_and_place(written):
    source, _, _, folder, _ = written
    dataset, stl = pydicom.dcmread(folder / ENCAPSULATED_STL), (folder / "implant.stl").read_bytes()
    assert dataset.EncapsulatedDocument[: dataset.EncapsulatedDocumentLength] == stl
    facets = np.frombuffer(stl[84:], np.dtype([("n", "<f4", 3), ("p", "<f4", (3, 3)), ("a", "<u2")]))
    mesh = tetrahedron()
    np.testing.assert_allclose(facets["p"], mesh.points[mesh.faces] * [-1, -1, 1])
    unit = dataset.MeasurementUnitsCodeSequence[0]
    assert (unit.CodeValue, unit.CodingSchemeDesignator) == ("mm", "UCUM")
    assert dataset.ConceptNameCodeSequence[0].CodeMeaning == "CT 3D CAM model"
    assert (dataset.Modality, dataset.MIMETypeOfEncapsulatedDocument) == ("M3D", "model/stl")
    assert dataset.FrameOfReferenceUID == uid("frame")
    assert {each.ReferencedSOPInstanceUID for each in dataset.SourceInstanceSequence} == {
        each.instance for each in source.slices
    }
    # The patient, so that an archive files it.
    for name in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyID"):
        assert str(dataset[name].value) == IDENTIFIERS[name]
    assert dataset.StudyInstanceUID == uid("study")
    assert dataset.SeriesInstanceUID != uid("series", "ct")


@pytest.mark.parametrize("name", [SEGMENTATION, ENCAPSULATED_STL])
def test_an_independent_checker_finds_no_error(written, name):
    program = shutil.which(DCIODVFY.name)
    if program is None:
        pytest.skip("no dciodvfy on this machine")
    done = subprocess.run([program, str(written[3] / name)], capture_output=True, text=True, encoding="utf-8")
    lines = (done.stdout + done.stderr).splitlines()
    assert [line for line in lines if line.startswith("Error")] == []
    # The kind of object that it found, and whose rules it applied.
    assert {"Segmentation", "EncapsulatedSTL"} & set(lines)


def test_a_series_without_a_frame_of_reference_costs_a_warning_only(tmp_path):
    write_series(tmp_path / "in", np.full((35, 64, 64), -1000.0), positions(), (1.0, 1.0, 2.0), FrameOfReferenceUID="")
    (tmp_path / "out").mkdir()
    write_stl(tetrahedron(), tmp_path / "out" / "implant.stl")
    with open_study(tmp_path / "in") as study:
        source = read_series(study, study.choose(None))
        said = write_dicom(source, *masks(source), tmp_path / "out" / "implant.stl", tmp_path / "out")
    assert "no frame of reference" in said[0]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["implant.stl"]


def test_where_one_file_cannot_be_written_there_is_none(tmp_path, monkeypatch):
    write_series(tmp_path / "in", np.full((35, 64, 64), -1000.0), positions(), (1.0, 1.0, 2.0))
    (tmp_path / "out").mkdir()
    write_stl(tetrahedron(), tmp_path / "out" / "implant.stl")

    class Unwritable:
        def save_as(self, path, **options):
            path.write_bytes(b"half")
            raise ValueError("an element of the source")

    monkeypatch.setattr(dicom_output, "_encapsulated_stl", lambda *given: Unwritable())
    with open_study(tmp_path / "in") as study:
        source = read_series(study, study.choose(None))
        with pytest.raises(ValueError, match="an element"):
            write_dicom(source, *masks(source), tmp_path / "out" / "implant.stl", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["implant.stl"]


def test_without_highdicom_the_remedy_is_stated_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_output.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SkullVAEError, match=r'pip install "skullvae\[dicom\]"'):
        check_dicom_output(tmp_path)


@pytest.fixture(scope="module")
def completed_series(tmp_path_factory):
    """A skull as a tilted series in a zip archive, with the patient's name in paths, completed with all files."""
    folder, skull = tmp_path_factory.mktemp("run"), Skull.golden()
    hu, affine = skull.ct().astype(float), skull.defective.affine
    assert np.allclose(np.abs(affine[:3, :3]), np.diag(np.diag(np.abs(affine[:3, :3]))))
    # The slices are displaced as by a tilted gantry, and what they show with them: the skull is sheared by 2 degrees.
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing, start = np.abs(np.diag(lps)[:3]), lps[:3, 3]
    for axis, sign in enumerate(np.sign(np.diag(lps)[:3])):
        if sign < 0:
            hu = np.flip(hu, axis)
            start[axis] -= (hu.shape[axis] - 1) * spacing[axis]
    where = start + np.arange(hu.shape[2])[:, None] * [0.0, 0.035 * spacing[2], spacing[2]]
    series = folder / "Quitzilla^Xaveria" / "ACC9981127"
    write_series(series, hu.transpose(2, 1, 0), where, (spacing[1], spacing[0], spacing[2]))
    archive = shutil.make_archive(str(folder / "Quitzilla^Xaveria ID-QX-774411"), "zip", folder / "Quitzilla^Xaveria")
    out = folder / "out"
    options = ["--dicom", "--report", "--format", "obj,3mf", "--progress", "none", "--device", "cpu"]
    code = cli.main(["complete", archive, "-o", str(out), *options])
    return code, out


def test_a_zipped_study_is_completed_with_all_files(completed_series):
    code, out = completed_series
    assert code == 0
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert re.fullmatch(r"DICOM series \(CT, \d+ slices\)", report["input"])
    assert "tilted gantry" in " ".join(report["warnings"])
    assert "interpolated back" in " ".join(report["warnings"])
    assert {SEGMENTATION, ENCAPSULATED_STL, "implant.3mf"} <= set(report["files"])
    assert set(report["files"]) == {path.name for path in out.iterdir()}
    assert np.linalg.norm(read_volume(out / "implant.nrrd").array) > 0


def test_no_identifier_reaches_a_result_other_than_the_dicom_files(completed_series):
    _, out = completed_series
    words = [word for value in IDENTIFIERS.values() for word in value.split("^")]
    words += [uid("study"), uid("series", "ct"), uid("frame"), uid("ct", 1, 1), "20200102"]
    wanted = [word.lower().encode(coding) for word in words for coding in ("utf-8", "utf-16-le")]
    for path in out.iterdir():
        content = contents(path).lower()
        found = [word for word in wanted if word in content]
        assert bool(found) == path.name.endswith(".dcm"), f"{path.name}: {found}"


def contents(path: Path) -> bytes:
    """The bytes of a file, and what its compressed parts hold."""
    raw = path.read_bytes()
    if path.suffix == ".nrrd":
        head, _, voxels = raw.partition(b"\n\n")
        return head + gzip.decompress(voxels)
    if path.suffix == ".3mf":
        with zipfile.ZipFile(path) as archive:
            return raw + b"".join(archive.read(name) for name in archive.namelist())
    return raw
