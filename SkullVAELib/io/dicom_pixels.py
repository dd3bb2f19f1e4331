"""The pixels of DICOM slices in Hounsfield units.

Uncompressed pixels are decoded here; compressed ones (JPEG, JPEG lossless, JPEG-LS, JPEG 2000, RLE) by GDCM, which
SimpleITK contains. GDCM is given a minimal file with the frame alone: the rest of a header cannot reach its C++ code.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from SkullVAELib.io.dicom_headers import DEFLATED, Slice, quiet_pydicom, read_dataset

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

AIR_HU = -1024
"""Value of pixels outside the image, and the least value of a CT."""

_HIGHEST_HU = 32767

# Elements that say how pixels are stored.
_STORAGE = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
    "PhotometricInterpretation",
)
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", DEFLATED, "")


def hounsfield(slices: Sequence[Slice]) -> Iterator[tuple[int, np.ndarray | None]]:
    """The pixels of slices, file by file.

    Parameters
    ----------
    slices : sequence of Slice
        In any order; the slices of a file with several are decoded together.

    Yields
    ------
    index : int
        Of the slice in `slices`.
    pixels : (rows, columns) int16 array or None
        HU, -1024 where the image has padding or lower values; None if the pixels are damaged or missing.
    """
    by_file: dict[Path, list[int]] = {}
    for index, each in enumerate(slices):
        by_file.setdefault(each.path, []).append(index)
    for path, indices in by_file.items():
        try:
            dataset = read_dataset(path)
        except Exception:  # pydicom raises whatever a damaged file leads to
            yield from ((index, None) for index in indices)
            continue
        for index in indices:
            try:
                with quiet_pydicom():
                    yield index, _in_hounsfield(_stored(dataset, slices[index]), slices[index])
            except Exception:
                yield index, None


def _in_hounsfield(stored: np.ndarray, of: Slice) -> np.ndarray:
    """Stored values in HU, int16."""
    values = stored.astype(np.float32) * np.float32(of.slope) + np.float32(of.intercept)
    if of.padding is not None:
        values[(stored >= of.padding[0]) & (stored <= of.padding[1])] = AIR_HU
    return np.rint(np.nan_to_num(values, nan=AIR_HU).clip(AIR_HU, _HIGHEST_HU)).astype(np.int16)


def _stored(dataset: Dataset, of: Slice) -> np.ndarray:
    """The stored values (rows, columns) of a frame; raises any exception where they are damaged."""
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", "")) if hasattr(dataset, "file_meta") else ""
    if syntax in _UNCOMPRESSED:
        return _uncompressed(dataset, of, big=syntax == "1.2.840.10008.1.2.2")
    return _decompressed(dataset, of, syntax)


def _uncompressed(dataset: Dataset, of: Slice, big: bool) -> np.ndarray:
    """A frame of pixels that are stored as numbers."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high = int(dataset.get("HighBit", stored - 1))
    if allocated not in (8, 16, 32) or not 0 < stored <= high + 1 <= allocated:
        raise ValueError("bits")
    item, count = allocated // 8, of.rows * of.columns
    raw = dataset.PixelData[of.frame * count * item : (of.frame + 1) * count * item]
    values = np.frombuffer(raw, np.dtype(f"{'>' if big else '<'}u{item}"), count).astype(np.uint32)
    # The bits of a value may be followed by those of an overlay; shifts remove them and extend the sign.
    values = values << np.uint32(31 - high)
    signed = values.view(np.int32) if int(dataset.PixelRepresentation) == 1 else values
    return (signed >> (32 - stored)).astype(np.int64).reshape(of.rows, of.columns)


def _decompressed(dataset: Dataset, of: Slice, syntax: str) -> np.ndarray:
    """A frame of compressed pixels, by GDCM."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate, get_frame
    from pydicom.uid import UID

    if int(dataset.get("SamplesPerPixel", 1)) != 1:
        raise ValueError("colour")
    frames = int(dataset.get("NumberOfFrames") or 1)
    one = Dataset()
    for name in _STORAGE:
        one[name] = dataset[name]
    one.SOPClassUID, one.SOPInstanceUID = UID(_SECONDARY_CAPTURE), UID("2.25.1")
    one.PixelData = encapsulate([get_frame(dataset.PixelData, of.frame, number_of_frames=frames)])
    one["PixelData"].VR = "OB"
    one["PixelData"].is_undefined_length = True
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = UID(syntax)
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    with tempfile.TemporaryDirectory(prefix="skullvae_") as folder:
        path = os.path.join(folder, "frame")
        one.save_as(path, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(path)
        pixels = sitk.GetArrayFromImage(reader.Execute())
    return pixels.reshape(of.rows, of.columns).astype(np.int64)
