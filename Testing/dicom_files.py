"""DICOM series for tests: written from a volume, with the traits that real ones have, and holes cut into given ones."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

CT, ENHANCED_CT, SECONDARY_CAPTURE = (UID(f"1.2.840.10008.5.1.4.1.1.{suffix}") for suffix in ("2", "2.1", "7"))
IDENTIFIERS = {
    "PatientName": "Quitzilla^Xaveria",
    "PatientID": "ID-QX-774411",
    "PatientBirthDate": "19430217",
    "AccessionNumber": "ACC9981127",
    "InstitutionName": "Klinik Zwergental",
    "ReferringPhysicianName": "Doktor^Unverwechselbar",
    "StudyID": "STQX55",
    "DeviceSerialNumber": "SN-QX-3381",
}
"""What must not reach any result."""


def uid(*words: object) -> UID:
    """A UID that depends on the words alone."""
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(map(str, words))).int}")


def ct_slice(pixels: np.ndarray, series: str = "ct", number: int = 1, **elements) -> Dataset:
    """A CT slice of HU, uncompressed; elements: further ones or others."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = CT, uid(series, number, elements.get("AcquisitionNumber"))
    for name, value in IDENTIFIERS.items():
        setattr(made, name, value)
    made.PatientSex, made.StudyDate, made.StudyTime = "O", "20200102", "101112"
    made.Modality, made.Manufacturer, made.ImageType = "CT", "Maker", ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.StudyInstanceUID, made.SeriesInstanceUID = uid("study"), uid("series", series)
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = uid("frame"), ""
    made.SeriesNumber, made.InstanceNumber, made.SeriesDescription = 2, number, "Head"
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    made.RescaleSlope, made.RescaleIntercept, made.RescaleType = 1, -1024, "HU"
    made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    made.PixelSpacing, made.SliceThickness = [1, 1], 1
    made.KVP, made.AcquisitionNumber = 120, 1
    for name, value in elements.items():
        setattr(made, name, value)
    stored = np.rint((pixels - float(made.RescaleIntercept)) / float(made.RescaleSlope))
    made.PixelData = stored.astype("<i2" if made.PixelRepresentation else "<u2").tobytes()
    made["PixelData"].VR = "OW"
    return with_meta(made)


def with_meta(dataset: Dataset, syntax: UID = ExplicitVRLittleEndian) -> Dataset:
    """The dataset with a meta header."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def write_series(
    folder: Path,
    volume: np.ndarray,
    positions: Sequence[Sequence[float]],
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    name: str = "IM{:04d}",
    change: Callable[[int, Dataset], Dataset | None] = lambda number, made: made,
    **elements,
) -> list[Path]:
    """Write a volume (K, rows, columns) in HU as one file per slice.

    positions: (K, 3) LPS mm of the first pixels; spacing: between rows, columns and slices (thickness); change: called
    with the index and the dataset, returns the one to write, or None for none; elements: of every slice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, (pixels, position) in enumerate(zip(volume, positions, strict=True)):
        given = {"PixelSpacing": list(spacing[:2]), "SliceThickness": spacing[2]} | elements
        made = change(
            index, ct_slice(pixels, number=index + 1, ImagePositionPatient=list(map(float, position)), **given)
        )
        if made is not None:
            paths.append(folder / name.format(index + 1))
            made.save_as(paths[-1], enforce_file_format=True)
    return paths


def along_z(count: int, step: float = 1.0, start: tuple[float, float, float] = (-30.0, -30.0, -20.0)) -> np.ndarray:
    """(K, 3) positions of axial slices, LPS mm."""
    return np.array(start) + np.arange(count)[:, None] * [0.0, 0.0, step]


def enhanced(volume: np.ndarray, positions: np.ndarray, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> Dataset:
    """An enhanced multi-frame CT of a volume (K, rows, columns) in HU."""
    made = ct_slice(volume[0])
    made.SOPClassUID, made.NumberOfFrames = ENHANCED_CT, len(volume)
    for name in ("ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept"):
        delattr(made, name)
    made.PixelData = np.rint(volume + 1000.0).astype("<i2").tobytes()
    made["PixelData"].VR = "OW"
    shared, measures, plane, values = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(spacing[:2]), spacing[2]
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1000, "HU"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    shared.PixelValueTransformationSequence = [values]
    made.SharedFunctionalGroupsSequence, made.PerFrameFunctionalGroupsSequence = [shared], []
    for place in positions:
        frame, where = Dataset(), Dataset()
        where.ImagePositionPatient = list(map(float, place))
        frame.PlanePositionSequence = [where]
        made.PerFrameFunctionalGroupsSequence.append(frame)
    return with_meta(made)


def cut_hole(source: Path, target: Path, centre: Sequence[float], radius_mm: float) -> int:
    """Copy every DICOM file of a folder with the bone inside a ball replaced by soft tissue, uncompressed.

    centre: LPS mm. Returns the number of voxels that were changed.
    """
    import SimpleITK as sitk

    target.mkdir(parents=True, exist_ok=True)
    changed = 0
    for path in sorted(each for each in source.rglob("*") if each.is_file() and each.suffix != ".md"):
        dataset = pydicom.dcmread(path, force=True)
        if "ImagePositionPatient" not in dataset:
            continue
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        stored = np.rint((sitk.GetArrayFromImage(reader.Execute())[0] - intercept) / slope)
        row, column = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
        down, across = map(float, dataset.PixelSpacing)
        index = np.indices(stored.shape)
        points = (
            np.array(dataset.ImagePositionPatient, float)
            + index[1][..., None] * across * row
            + index[0][..., None] * down * column
        )
        inside = (np.linalg.norm(points - centre, axis=-1) < radius_mm) & (stored * slope + intercept > 100)
        changed += int(inside.sum())
        stored[inside] = round((40 - intercept) / slope)
        dataset.PixelData = stored.astype("<i2" if dataset.PixelRepresentation else "<u2").tobytes()
        dataset["PixelData"].VR = "OW"
        dataset["PixelData"].is_undefined_length = False
        if not hasattr(dataset, "file_meta") or "TransferSyntaxUID" not in dataset.file_meta:
            dataset.save_as(target / path.name, implicit_vr=True, little_endian=True)
            continue
        implicit = dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
        if not implicit:
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.save_as(target / path.name)
    return changed
