"""DICOM files of a result, for a picture archive: a segmentation on the source series, and the implant's STL.

They are the only results that contain the patient's name and identifiers: an archive sorts files by them. All is copied
from the source series, and nothing is written unless it was asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.version import __version__
from SkullVAELib.io.dicom_headers import quiet_pydicom, read_dataset

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from SkullVAELib.io.dicom_volume import DicomVolume

SEGMENTATION = "completed_and_implant.seg.dcm"
"""Name of the DICOM segmentation."""

ENCAPSULATED_STL = "implant.stl.dcm"
"""Name of the printable implant as an encapsulated STL."""

_MAKER, _MODEL = "SkullVAE contributors", "SkullVAE"

# Short enough for a long string (LO) of DICOM, which has 64 characters.
_NOTICE = "research only, not for clinical use"

# Series numbers that no scanner reaches.
_SEGMENTATION_SERIES, _STL_SERIES = 9101, 9102

# Attributes of patient and study that an archive sorts by; those of the standard's type 2 are written empty.
_PATIENT_AND_STUDY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime"),
    *("ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
_ALSO_COPIED = ("SpecificCharacterSet", "IssuerOfPatientID", "StudyDescription", "TimezoneOffsetFromUTC")

# CIELab of bone and of the implant in this project's pictures.
_BONE_COLOUR, _IMPLANT_COLOUR = (88.0, 2.0, 14.0), (62.0, 40.0, 55.0)


def check_dicom_output(source: Path) -> None:
    """Raise SkullVAEError unless DICOM files can be written for an input: it is DICOM, and highdicom is installed."""
    from SkullVAELib.io.images import is_dicom

    if not is_dicom(source):
        raise SkullVAEError(
            "--dicom needs a DICOM input, whose patient and geometry the files refer to",
            "Give the folder of the DICOM series, or omit --dicom",
        )
    if importlib.util.find_spec("highdicom") is None:
        raise SkullVAEError(
            "--dicom needs the Python package highdicom, which is not installed", 'Run pip install "skullvae[dicom]"'
        )


def write_dicom(source: DicomVolume, completed: np.ndarray, implant: np.ndarray, stl: Path, folder: Path) -> list[str]:
    """Write the segmentation, and the encapsulated STL where there is an implant, into an existing folder.

    Parameters
    ----------
    source : DicomVolume
        The series that was completed; its files must exist.
    completed, implant : (I, J, K) bool array
        On the grid of `source.volume`.
    stl : Path
        implant.stl.
    folder : Path
        Existing folder.

    Returns
    -------
    list of str
        Warnings.
    """
    with quiet_pydicom():
        images = _source_images(source)
        first = images[0]
        if not first.get("FrameOfReferenceUID"):
            return [
                "DICOM files were left out: the series has no frame of reference, so that they could not be placed in"
                " it. Export the series again from its archive."
            ]
        made = {
            SEGMENTATION: _segmentation(source, images, completed | implant, implant),
            ENCAPSULATED_STL: _encapsulated_stl(images, stl.read_bytes()),
        }
        try:
            for name, dataset in made.items():
                dataset.save_as(folder / name, enforce_file_format=True)
        except BaseException:
            # Both or none: a part of a file is written where an element of the source cannot be.
            for name in made:
                (folder / name).unlink(missing_ok=True)
            raise
    if not source.resampled:
        return []
    return [
        f"The image was resampled, but a DICOM segmentation has the slices of its series: the masks in {SEGMENTATION}"
        " were interpolated back onto these, and differ from completed.nrrd and implant.nrrd by up to half a voxel."
    ]


def _source_images(source: DicomVolume) -> list[Dataset]:
    """The headers of the source files, one each, in the order of the slices; elements that must exist are added
    empty."""
    images = []
    for path in dict.fromkeys(each.path for each in source.slices):
        dataset = read_dataset(path, pixels=False)
        for name in _PATIENT_AND_STUDY:
            if name not in dataset:
                setattr(dataset, name, "")
        images.append(dataset)
    return images


def _segmentation(source: DicomVolume, images: Sequence[Dataset], completed: np.ndarray, implant: np.ndarray) -> Any:
    """The DICOM segmentation with the segments "Skull, completed" and "Implant"; they overlap."""
    from highdicom.color import CIELabColor
    from highdicom.content import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    first = source.slices[0]
    masks = np.stack([source.grid.on_slices(mask, first.rows, first.columns) for mask in (completed, implant)], -1)
    frames = int(images[0].get("NumberOfFrames") or 1)
    if frames > 1:
        # The frames of a multi-frame source are listed in its own order, all of them.
        whole = np.zeros((frames, *masks.shape[1:]), bool)
        whole[[each.frame for each in source.slices]] = masks
        masks = whole
    algorithm = AlgorithmIdentificationSequence(_MODEL, codes.DCM.ArtificialIntelligence, __version__)
    structure, thing = codes.SCT.AnatomicalStructure, codes.SCT.PhysicalObject
    described = [
        (1, "Skull, completed", structure, codes.SCT.Skull, _BONE_COLOUR, None),
        (2, "Implant", thing, codes.SCT.Implant, _IMPLANT_COLOUR, [codes.SCT.Skull]),
    ]
    segments = [
        SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=generate_uid(prefix=None),
            tracking_id=f"{_MODEL} {label}",
            anatomic_regions=regions,
            display_color=CIELabColor(*colour),
        )
        for number, label, category, kind, colour, regions in described
    ]
    return Segmentation(
        source_images=images,
        pixel_array=masks.astype(np.uint8),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=generate_uid(prefix=None),
        series_number=_SEGMENTATION_SERIES,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=_MAKER,
        manufacturer_model_name=_MODEL,
        software_versions=__version__,
        device_serial_number="0",
        content_label="SKULLVAE",
        content_description=f"Completed skull and implant: {_NOTICE}",
        series_description=f"{_MODEL} segmentation: {_NOTICE}",
        omit_empty_frames=True,
    )


def _encapsulated_stl(images: Sequence[Dataset], stl: bytes) -> Dataset:
    """The Encapsulated STL object (PS3.3, A.85.1): its points are in the frame of reference of the source, mm."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sr.codedict import codes
    from pydicom.uid import EncapsulatedSTLStorage, ExplicitVRLittleEndian, generate_uid

    first, now = images[0], datetime.now()
    made = Dataset()
    for name in (*_ALSO_COPIED[:2], *_PATIENT_AND_STUDY, *_ALSO_COPIED[2:]):
        if name in first:
            made[name] = first[name]
    made.SOPClassUID, made.SOPInstanceUID = EncapsulatedSTLStorage, generate_uid(prefix=None)
    made.Modality, made.SeriesInstanceUID, made.SeriesNumber = "M3D", generate_uid(prefix=None), _STL_SERIES
    made.SeriesDescription = f"{_MODEL} implant: {_NOTICE}"
    made.FrameOfReferenceUID = first.FrameOfReferenceUID
    made.PositionReferenceIndicator = first.get("PositionReferenceIndicator", "")
    made.Manufacturer, made.ManufacturerModelName = _MAKER, _MODEL
    made.DeviceSerialNumber, made.SoftwareVersions = "0", __version__
    made.InstanceNumber = 1
    made.ContentDate, made.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.AcquisitionDateTime = ""
    made.BurnedInAnnotation, made.RecognizableVisualFeatures = "NO", "NO"
    made.DocumentTitle = "Cranial implant"
    made.ConceptNameCodeSequence = [_code(codes.cid7061.CT3DCAMModel)]
    made.SourceInstanceSequence = [_reference(image, _code(codes.cid7060.SourceImage)) for image in images]
    references = [_reference(image) for image in images]
    related = Dataset()
    related.SeriesInstanceUID, related.ReferencedInstanceSequence = first.SeriesInstanceUID, references
    made.ReferencedSeriesSequence = [related]
    made.MIMETypeOfEncapsulatedDocument = "model/stl"
    made.EncapsulatedDocumentLength = len(stl)
    made.EncapsulatedDocument = stl + b"\0" * (len(stl) % 2)
    made.MeasurementUnitsCodeSequence = [_code(codes.UCUM.Millimeter)]
    made.ModelModification, made.ModelMirroring = "YES", "NO"
    made.ContentDescription = f"Cranial implant: {_NOTICE}"
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [_code(codes.DCM.ArtificialIntelligence)]
    algorithm.AlgorithmName, algorithm.AlgorithmVersion = _MODEL, __version__
    made.DerivationAlgorithmSequence = [algorithm]
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def _code(concept: Any) -> Dataset:
    """An item of a code sequence."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = (
        concept.value,
        concept.scheme_designator,
        concept.meaning,
    )
    return item


def _reference(image: Dataset, purpose: Dataset | None = None) -> Dataset:
    """An item that refers to a source image, with the purpose as a code."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    if purpose is not None:
        item.PurposeOfReferenceCodeSequence = [purpose]
    return item
