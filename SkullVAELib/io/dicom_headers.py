"""The headers of DICOM files: the slices that each file holds, with their geometry and the kind of the image.

pydicom parses the headers. It is written in Python alone, so that a damaged header cannot end the process, and reads
the sequences of multi-frame files, which GDCM does not offer through SimpleITK.
"""

from __future__ import annotations

import logging
import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DEFLATED = "1.2.840.10008.1.2.1.99"

_PIXELS, _GROUP_LENGTH = 0x7FE00010, 0x00020000

# Bytes of a preamble, the mark, and the element with the length of the meta header's group.
_BEFORE_GROUP = 132 + 12

# The headers of enhanced files with a thousand frames have a few megabytes.
_LONGEST_HEADER = 2**25

# Of a deflated file, uncompressed: as much as its pixels may shrink, at least that of a slice.
_MOST_INFLATED = 2**31
_MAX_COMPRESSION, _SLICE_BYTES = 64, 2**23

# Numbers beyond this are no lengths, positions or HU.
_LARGEST = 1e6

# More frames than any series; a header may claim any number.
_MOST_FRAMES = 20_000

_CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT converted to multi-frame",
}
"""SOP classes of CT images."""


@dataclass(frozen=True)
class Series:
    """What the header of a file states about its series and study.

    Attributes
    ----------
    uid, study, patient : str
        Identifiers, to tell series, studies and patients apart; they are written nowhere.
    study_time : str
        Date and time of the study, to order studies.
    number : int or None
        Series number.
    description, kernel, body_part : str
        As the header states them.
    tilt_degrees : float
        Tilt of the gantry that the header states, 0 if none.
    """

    uid: str
    study: str
    patient: str
    study_time: str
    number: int | None
    description: str
    kernel: str
    body_part: str
    tilt_degrees: float


@dataclass(frozen=True)
class Slice:
    """One slice: a file, or a frame of one.

    Attributes
    ----------
    path : Path
        The file.
    frame : int
        Index of the frame.
    instance : str
        SOP instance UID of the file.
    number : int
        Instance number, or that of the frame.
    kind : str
        Why this is not a slice of a CT, or empty.
    image_type : tuple of str
        Values of Image Type, upper case.
    rows, columns : int
        Size.
    position : (3,) tuple or None
        LPS mm of the centre of the first pixel.
    orientation : (6,) tuple or None
        Direction cosines along a row and along a column, LPS.
    spacing : (2,) tuple or None
        Distance in mm between rows and between columns.
    thickness_mm : float or None
        Slice thickness.
    slope, intercept : float
        Stored value to HU.
    padding : (2,) tuple or None
        Lowest and highest stored value that stand for "outside the image".
    acquisition, phase : str
        Acquisition, and time point within it, as the header states them.
    """

    path: Path
    frame: int
    instance: str
    number: int
    kind: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness_mm: float | None
    slope: float
    intercept: float
    padding: tuple[int, int] | None
    acquisition: str
    phase: str


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Suppress what pydicom logs and warns about a bad file; it is reported in one line instead."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def read_dataset(path: Path, pixels: bool = True, tags: Sequence[str] | None = None) -> Dataset:
    """The dataset of a DICOM file, also without preamble and meta header; raises any exception for a damaged file.

    pixels: whether the pixel data are read, too; tags: keywords of the elements to read, by default all.
    """
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    chosen: list | None = None if tags is None else [Tag(name) for name in tags]
    with quiet_pydicom():
        if _transfer_syntax(path) == DEFLATED:
            return read_partial(_inflated(path), _Stop(pixels), force=True, specific_tags=chosen)
        with open(path, "rb") as file:
            stream: BinaryIO = file
            if not pixels and path.stat().st_size > _LONGEST_HEADER:
                stream = BytesIO(file.read(_LONGEST_HEADER))
            return read_partial(stream, _Stop(pixels), force=True, specific_tags=chosen)


def _transfer_syntax(path: Path) -> str:
    """The transfer syntax that the meta header states; empty without one."""
    from pydicom.filereader import read_file_meta_info

    with open(path, "rb") as file:
        if file.read(132)[128:] != b"DICM":
            return ""
        meta = read_file_meta_info(path)
        if _GROUP_LENGTH in meta:
            file.seek(_BEFORE_GROUP + int(meta[_GROUP_LENGTH].value))
            # Elements of group 0000 belong to messages. In a file that zeros pad, pydicom would read millions of them.
            if file.read(2) == b"\0\0":
                raise ValueError("no dataset")
    return str(meta.get("TransferSyntaxUID", ""))


class _Stop:
    """Tells pydicom where to stop: before or after the pixels, and at an element that is not in order: what pads a file
    would be read as millions of elements."""

    def __init__(self, pixels: bool):
        self._pixels, self._last = pixels, -1

    def __call__(self, tag: int, vr: str | None, length: int) -> bool:
        ordered, self._last = int(tag) > self._last, int(tag)
        return not ordered or tag > _PIXELS or (tag == _PIXELS and not self._pixels)


def _inflated(path: Path) -> BytesIO:
    """The dataset of a deflated file, without meta header. pydicom itself inflates without a limit."""
    from pydicom.filereader import read_file_meta_info

    raw = path.read_bytes()
    begin = _BEFORE_GROUP + int(read_file_meta_info(path)[_GROUP_LENGTH].value)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    most = min(_MOST_INFLATED, max(_SLICE_BYTES, _MAX_COMPRESSION * len(raw)))
    return BytesIO(inflater.decompress(raw[begin:], most))


_SERIES_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "SeriesInstanceUID", "StudyInstanceUID", "PatientID"),
    *("PatientName", "PatientBirthDate", "StudyDate", "StudyTime", "SeriesNumber", "SeriesDescription"),
    *("ConvolutionKernel", "BodyPartExamined", "GantryDetectorTilt", "InstanceNumber", "Rows", "Columns"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope"),
    *("RescaleIntercept", "RescaleType", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelRepresentation"),
    *("BitsAllocated", "AcquisitionNumber", "TemporalPositionIdentifier", "TriggerTime", "NumberOfFrames"),
    *("SamplesPerPixel", "PhotometricInterpretation", "SharedFunctionalGroupsSequence", "SpecificCharacterSet"),
    *("PerFrameFunctionalGroupsSequence", "FrameOfReferenceUID"),
)


def read_header(path: Path) -> tuple[Series, list[Slice]] | None:
    """The series of a file and the slices that it holds.

    Returns None for a file that is not DICOM, or is but has no image (a report, a directory); raises any exception for
    a damaged file.
    """
    dataset = read_dataset(path, pixels=False, tags=_SERIES_TAGS)
    uid, sop_class = _text(dataset, "SeriesInstanceUID"), _text(dataset, "SOPClassUID")
    if not (uid and sop_class and _text(dataset, "StudyInstanceUID")):
        return None
    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    if not rows or not columns:
        return None
    shared = _item(dataset, "SharedFunctionalGroupsSequence")
    frames = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])[:_MOST_FRAMES]
    kernel = _text(dataset, "ConvolutionKernel")
    tilt = _number(dataset, "GantryDetectorTilt", 0.0)
    if frames:
        groups: list[Dataset | None] = [shared, frames[0]]
        kernel = kernel or _text(_of(groups, "CTReconstructionSequence"), "ConvolutionKernel")
        tilt = tilt or _number(_of(groups, "CTGeometrySequence"), "GantryDetectorTilt", 0.0)
        tilt = tilt or _number(_of(groups, "CTAcquisitionDetailsSequence"), "GantryDetectorTilt", 0.0)
    series = Series(
        uid,
        _text(dataset, "StudyInstanceUID"),
        "\n".join(_text(dataset, name) for name in ("PatientID", "PatientName", "PatientBirthDate")),
        _text(dataset, "StudyDate") + _text(dataset, "StudyTime"),
        _whole(dataset, "SeriesNumber"),
        _text(dataset, "SeriesDescription"),
        kernel,
        _text(dataset, "BodyPartExamined").upper(),
        tilt,
    )
    kind = _kind(dataset, sop_class, bool(frames))
    if not frames:
        return series, [_slice(path, 0, kind, dataset, [dataset], _whole(dataset, "InstanceNumber") or 0)]
    return series, [
        _slice(path, index, kind, dataset, [frame, shared, dataset], index + 1) for index, frame in enumerate(frames)
    ]


def _kind(dataset: Dataset, sop_class: str, has_groups: bool) -> str:
    """Why a file is not a slice of a CT, in words for the list of series; empty if it is one."""
    modality = _text(dataset, "Modality").upper()
    if modality and modality != "CT":
        return f"not CT but {modality[:8]}"
    if sop_class not in _CT_CLASSES:
        return "secondary capture or other object, not a CT image"
    if (_whole(dataset, "SamplesPerPixel") or 1) != 1:
        return "a colour picture"
    if (_whole(dataset, "NumberOfFrames") or 1) > 1 and not has_groups:
        return "several frames without positions"
    return ""


def _slice(path: Path, index: int, kind: str, dataset: Dataset, groups: Sequence[Dataset | None], number: int) -> Slice:
    """A slice from the header and, for frames, the functional groups; the first of `groups` that states a thing
    counts."""
    measures, frame = _of(groups, "PixelMeasuresSequence"), _of(groups, "FrameContentSequence")
    values = _of(groups, "PixelValueTransformationSequence")
    kinds = _of(groups, "CTImageFrameTypeSequence")
    image_type = _texts(kinds, "FrameType") or _texts(dataset, "ImageType")
    units = (_text(values, "RescaleType") or _text(dataset, "RescaleType")).upper()
    if not kind and units not in ("", "HU", "US", "HU_MOD"):
        kind = f"values are not Hounsfield units but {units[:16]}"
    spacing = _numbers(measures, "PixelSpacing", 2) or _numbers(dataset, "PixelSpacing", 2)
    if spacing is not None and not all(0.01 < length < 100 for length in spacing):
        spacing = None
    return Slice(
        path=path,
        frame=index,
        instance=_text(dataset, "SOPInstanceUID"),
        number=number,
        kind=kind,
        image_type=tuple(word.upper() for word in image_type),
        rows=_whole(dataset, "Rows") or 0,
        columns=_whole(dataset, "Columns") or 0,
        position=_numbers(_of(groups, "PlanePositionSequence"), "ImagePositionPatient", 3)
        or _numbers(dataset, "ImagePositionPatient", 3),
        orientation=_direction(
            _numbers(_of(groups, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
            or _numbers(dataset, "ImageOrientationPatient", 6)
        ),
        spacing=spacing,
        thickness_mm=_number(measures, "SliceThickness") or _number(dataset, "SliceThickness"),
        slope=_number(values, "RescaleSlope") or _number(dataset, "RescaleSlope") or 1.0,
        intercept=_number(values, "RescaleIntercept", _number(dataset, "RescaleIntercept", 0.0)),
        padding=_padding(dataset),
        acquisition=_text(frame, "FrameAcquisitionNumber") or _text(dataset, "AcquisitionNumber"),
        phase=_text(frame, "TemporalPositionIndex")
        or _text(dataset, "TemporalPositionIdentifier")
        or _text(dataset, "TriggerTime"),
    )


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    """The range of stored values that stand for "outside", with the sign of the pixels, whatever the element's VR."""
    value = _whole(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = _whole(dataset, "PixelPaddingRangeLimit")
    bits = _whole(dataset, "BitsAllocated") or 16
    signed = _whole(dataset, "PixelRepresentation") == 1

    def stored(number: int) -> int:
        number &= (1 << bits) - 1
        return number - (1 << bits) if signed and number >> (bits - 1) else number

    ends = sorted((stored(value), stored(value if limit is None else limit)))
    return ends[0], ends[1]


def _direction(cosines: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Direction cosines that are perpendicular unit vectors, rounded numbers corrected; None if they are not."""
    if cosines is None:
        return None
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not all(0.9 < length < 1.1 for length in lengths):
        return None
    row, column = row / lengths[0], column / lengths[1]
    if abs(row @ column) > 0.01:
        return None
    column -= (row @ column) * row
    return (*row.tolist(), *(column / np.linalg.norm(column)).tolist())


def _item(dataset: Dataset | None, name: str) -> Dataset | None:
    """The first item of a sequence."""
    items = None if dataset is None else dataset.get(name)
    return items[0] if items else None


def _of(groups: Sequence[Dataset | None], name: str) -> Dataset | None:
    """The first item of a functional group, of the frame or shared by all."""
    return next((found for group in groups if (found := _item(group, name)) is not None), None)


def _text(dataset: Dataset | None, name: str) -> str:
    value = None if dataset is None else dataset.get(name)
    return "" if value is None else " ".join(str(value).replace("\0", " ").split())


def _texts(dataset: Dataset | None, name: str) -> tuple[str, ...]:
    value = None if dataset is None else dataset.get(name)
    if value is None:
        return ()
    return tuple(str(each).strip() for each in ([value] if isinstance(value, str) else value))


def _numbers(dataset: Dataset | None, name: str, count: int) -> tuple[float, ...] | None:
    """An element of so many finite numbers; None if it is missing or has others."""
    value: Any = None if dataset is None else dataset.get(name)
    try:
        numbers = tuple(float(each) for each in ([value] if count == 1 else value))
    except (TypeError, ValueError, OverflowError):
        return None
    finite = all(math.isfinite(each) and abs(each) < _LARGEST for each in numbers)
    return numbers if finite and len(numbers) == count else None


def _number(dataset: Dataset | None, name: str, default: float | None = None):
    found = _numbers(dataset, name, 1)
    return default if found is None else found[0]


def _whole(dataset: Dataset | None, name: str) -> int | None:
    value: Any = None if dataset is None else dataset.get(name)
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None
