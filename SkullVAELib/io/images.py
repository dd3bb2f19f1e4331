"""Volumes: an array and its affine, which never travel apart; reading and writing them."""

from __future__ import annotations

import contextlib
import gzip
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.dicom_files import is_dicom_source
from SkullVAELib.io.grids import (
    forms_warning,
    nifti_forms,
    no_orientation_warning,
    rectangular_affine,
    sheared,
)
from SkullVAELib.io.header_checks import CheckedHeader, check_meta, check_nifti, check_nrrd, cut_short, unreadable
from SkullVAELib.io.other_formats import error_for_other_format
from SkullVAELib.io.segments import choose_segment, listed_segments
from SkullVAELib.io.staged_copies import inflated_nrrd, lower_case_copy, with_sform

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

SUFFIXES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")


# Voxels must be countable with 32 bits, which component labelling relies on; it is a cube of 1290 voxels.
MAX_VOXELS = 2**31 - 1


# Otherwise ITK chooses a reader by content, and reads a TIFF or HDF5 file named head.nrrd.
_READERS = {
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}


# Deflate cannot shrink data more than 1032 times, so a file that promises more is damaged.
_MAX_COMPRESSION = 1100


# Beyond these limits sizes and positions are not anatomical, and their products overflow.
_SMALLEST_MM, _LARGEST_MM = 1e-6, 1e6


# ITK keeps world coordinates in LPS; this library, like nibabel and Slicer, in RAS.
_LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def volume_suffix(path: str | os.PathLike) -> str:
    """The image suffix of a file name, lower case; raises SkullVAEError if it is not one of SUFFIXES.

    >>> volume_suffix("head.NII.GZ")
    '.nii.gz'
    """
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return suffix
    raise SkullVAEError(f"'{name}' has no known image suffix", f"Use one of {', '.join(SUFFIXES)}")


def image_name(path: str | os.PathLike) -> str:
    """The name of an image without its suffix; of a DICOM folder its name."""
    path = Path(path)
    if is_dicom(path):
        return path.stem if path.is_file() else path.name
    return path.name[: -len(volume_suffix(path))]


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a path is read as DICOM: a folder, a zip archive, a DICOMDIR or a DICOM file. A file with the suffix of
    an image file is read as such."""
    path = Path(path)
    return path.is_dir() or (not path.name.lower().endswith(SUFFIXES) and is_dicom_source(path))


def check_readable(path: str | os.PathLike) -> Path:
    """The path of an image file that exists, has a known suffix and may be read, or of DICOM; otherwise raises
    SkullVAEError."""
    path = Path(path)
    if is_dicom(path):
        return path
    if not path.is_file():
        raise SkullVAEError(f"The file '{path}' does not exist", "Check the path")
    if not path.name.lower().endswith(SUFFIXES) and (error := error_for_other_format(path)):
        raise error
    volume_suffix(path)
    if not os.access(path, os.R_OK):
        raise SkullVAEError(f"The file '{path}' is not readable", "Check its permissions")
    if path.stat().st_size == 0:
        raise SkullVAEError(f"The file '{path}' is empty", "Export or copy it again")
    return path


def read_volume(path: str | os.PathLike, segment: str | int | None = None, series: str | None = None) -> Volume:
    """Read a 3D image (.nrrd, .nhdr, .nii, .nii.gz, .mha, .mhd), one segment of a segmentation, or a DICOM series.

    The orientation is the one that ITK, and thus Slicer, reads from the file. Axes that are perpendicular but for
    rounding, at most 0.1 mm over the volume, are made perpendicular.

    Parameters
    ----------
    path : str or path
    segment : str or int, optional
        Name of a segment that a .seg.nrrd file lists, or its number. Not needed if there is one segment only.
    series : str, optional
        Number or UID of a DICOM series; by default the most suitable one is taken, see `io.dicom_series`.

    Returns
    -------
    Volume
        With the name of the file, and warnings about its header. A chosen segment is uint8, 0 and 1. The name of a
        DICOM series states nothing of the patient.

    Raises
    ------
    SkullVAEError
        The file is missing, damaged or truncated, is not a 3D image with one value per voxel, its axes are not
        perpendicular, or it has several segments and `segment` chooses none. Nothing is corrected without notice.
    """
    path = check_readable(path)
    if is_dicom(path):
        from SkullVAELib.io.dicom_volume import read_dicom  # imported here since most images are not DICOM

        check_dicom_options(segment)
        return read_dicom(path, series)
    if series is not None:
        raise SkullVAEError(f"'{path.name}' is not DICOM and has no series", "Omit --series")
    suffix = volume_suffix(path)
    nifti, checked = None, CheckedHeader(path)
    if suffix.startswith(".nii"):
        nifti = check_nifti(path, zipped=suffix == ".nii.gz")
    else:
        checked = check_meta(path) if suffix in (".mha", ".mhd") else check_nrrd(path)
    with ExitStack() as stack:
        stack.enter_context(_quiet_stderr())
        source = stack.enter_context(
            inflated_nrrd(path, checked, MAX_VOXELS) if checked.is_bzip2 else lower_case_copy(path, suffix)
        )
        stored = (source if checked.is_bzip2 else checked.voxels).stat().st_size
        try:
            reader = _reader(source, suffix)
            try:
                reader.ReadImageInformation()
            except RuntimeError as error:
                if nifti is None or "orthonormal" not in str(error):
                    raise
                reader = _reader(stack.enter_context(_rectangular_copy(path, suffix, nifti)), ".nii")
                reader.ReadImageInformation()
            affine = _check_header(path, reader, stored, checked.has_layers)
            voxels = None if nifti is None else _check_nifti(path, nifti, np.array(reader.GetSpacing())[:3])
            layers = _layers(reader.Execute()) if voxels is None else voxels[None]
        except RuntimeError as error:
            raise _reading_error(path, error) from error
        except MemoryError as error:
            raise _too_large(path) from error
    chosen = choose_segment(path.name, layers, listed_segments(checked.keys), segment)
    warnings = _header_warnings(path.name, nifti, checked, affine, layers.shape[1:])
    return Volume(layers[0] if chosen is None else chosen, affine, path.name, warnings)


def _layers(image: sitk.Image) -> np.ndarray:
    """The voxels (L, I, J, K) of an image with L values per voxel, which only the layers of a segmentation are."""
    array = sitk.GetArrayFromImage(image)
    return (np.moveaxis(array, -1, 0) if array.ndim == 4 else array[None]).transpose(0, 3, 2, 1)


def check_dicom_options(segment: str | int | None) -> None:
    """Raise SkullVAEError if a segment of a DICOM CT is asked for."""
    if segment is not None:
        raise SkullVAEError("A DICOM CT has no segments", "Omit --segment")


def _reader(path: Path, suffix: str) -> sitk.ImageFileReader:
    """ITK's reader of a file, with the format that the suffix determines."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_READERS[suffix])
    reader.SetFileName(str(path))
    return reader


def _rectangular_copy(path: Path, suffix: str, header: Nifti1Header) -> contextlib.AbstractContextManager[Path]:
    """A copy of a NIfTI file whose sform ITK rejects, with the nearest rectangular sform; raises SkullVAEError where
    that is too far away."""
    shape, form = header.get_data_shape()[:3], nifti_forms(header).get("sform")
    if form is None or len(shape) < 3 or int(np.prod(header.get_data_shape(), dtype=object)) > MAX_VOXELS:
        raise sheared(path.name)
    nearest = rectangular_affine(path.name, form, shape)
    unit = np.linalg.norm(header.get_sform()[:3, 0]) / np.linalg.norm(form[:3, 0])
    return with_sform(path, suffix == ".nii.gz", header, nearest * np.array([[unit], [unit], [unit], [1.0]]))


def _header_warnings(
    name: str, nifti: Nifti1Header | None, checked: CheckedHeader, affine: np.ndarray, shape: tuple[int, ...]
) -> tuple[str, ...]:
    """What the user should know about a header that was read."""
    if nifti is not None and nifti_forms(nifti):
        warning = forms_warning(name, nifti, affine, shape)
        return () if warning is None else (warning,)
    unstated = checked.unstated if nifti is None else "no sform and no qform"
    return (no_orientation_warning(name, affine, unstated),) if unstated else ()


def to_image(volume: Volume) -> sitk.Image:
    """The volume as a SimpleITK image, whose world coordinates are LPS mm; bool voxels become uint8."""
    affine = _LPS_RAS @ volume.affine
    array = volume.array.view(np.uint8) if volume.array.dtype == bool else volume.array
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(volume.spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / volume.spacing).ravel().tolist())
    return image


def write_volume(volume: Volume, path: str | os.PathLike) -> None:
    """Write a volume, compressed; the file is complete or absent. Raises SkullVAEError if it cannot be written."""
    path = Path(path)
    volume_suffix(path)
    try:
        with atomic_file(path) as temporary, _quiet_stderr():
            sitk.WriteImage(to_image(volume), str(temporary), useCompression=True, compressionLevel=1)
    except RuntimeError as error:
        raise SkullVAEError(f"'{path}' cannot be written", "Check the free space and the permissions") from error


def _check_header(path: Path, reader: sitk.ImageFileReader, stored: int, layers: bool) -> np.ndarray:
    """Reject, before any voxel is read, files that would be misread; sets `reader` to read three dimensions.

    stored: bytes of the file that holds the voxels. layers: whether several values per voxel are layers of a
    segmentation. Returns the affine, RAS mm, of the rectangular grid.

    ITK itself fills a truncated NIfTI file with zeros, turns a negative spacing into a mirrored axis, and accepts
    sheared grids and header sizes of terabytes.
    """
    size = np.array(reader.GetSize())
    if len(size) == 4 and size[3] == 1:
        reader.SetExtractSize([*size[:3].tolist(), 0])
    elif len(size) != 3:
        raise SkullVAEError(f"'{path.name}' is not a 3D image but has {len(size)} dimensions", "Choose a 3D volume")
    if reader.GetNumberOfComponents() != 1 and not layers:
        raise SkullVAEError(f"'{path.name}' has several values per voxel", "Choose a CT or a labelmap")
    size = size[:3]
    if size.min() < 2:
        raise SkullVAEError(f"'{path.name}' is a single slice, not a volume", "Choose a 3D volume")

    voxels = int(np.prod(size, dtype=object)) * reader.GetNumberOfComponents()
    if voxels > MAX_VOXELS:
        shape = " x ".join(map(str, size))
        raise SkullVAEError(f"'{path.name}' claims {shape} voxels, which is too large", "Crop or resample the volume")
    if voxels > _MAX_COMPRESSION * stored:
        raise cut_short(path)

    dimensions = reader.GetDimension()
    spacing = np.array(reader.GetSpacing())[:3]
    direction = np.array(reader.GetDirection()).reshape(dimensions, dimensions)[:3, :3]
    if not ((spacing > _SMALLEST_MM) & (spacing < _LARGEST_MM)).all():  # also catches NaN
        numbers = ", ".join(f"{s:g}" for s in spacing)
        raise SkullVAEError(f"'{path.name}' has the impossible voxel size {numbers} mm", "Correct its header")
    if not (np.abs(reader.GetOrigin()) < _LARGEST_MM).all():
        raise SkullVAEError(f"'{path.name}' has an origin that is not a valid position in mm", "Correct its header")
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing
    affine[:3, 3] = np.array(reader.GetOrigin())[:3]
    return rectangular_affine(path.name, _LPS_RAS @ affine, tuple(size.tolist()))


def _check_nifti(path: Path, header: Nifti1Header, spacing: np.ndarray) -> np.ndarray | None:
    """Check what ITK does not check in a NIfTI file: its sform, its voxel size and the number of voxels.

    Returns the voxels (I, J, K) of a compressed file, which is thus decompressed once; None where ITK reads them: from
    a file that is not compressed, or whose values are scaled.
    """
    from nibabel.spatialimages import HeaderDataError

    try:
        columns = header.get_best_affine()[:3, :3]
        nifti_forms(header)
        shape, kind = header.get_data_shape(), header.get_data_dtype()
    except (ValueError, HeaderDataError) as error:  # an invalid rotation or voxel type
        raise unreadable(path) from error
    lengths = np.linalg.norm(columns, axis=0)
    zooms = np.asarray(header["pixdim"][1:4], dtype=float)
    if not (np.isfinite(lengths).all() and lengths.min() > 0 and (zooms > 0).all()):
        raise SkullVAEError(f"'{path.name}' has a voxel size of zero or less in its header", "Correct its header")
    for form in nifti_forms(header).values():
        rectangular_affine(path.name, form, shape[:3])
    # Compared without unit: ITK converts metres and micrometres to millimetres, nibabel does not.
    if not np.allclose(spacing / spacing[0], lengths / lengths[0], rtol=0.01):
        raise SkullVAEError(f"'{path.name}' has two different voxel sizes (pixdim, sform)", "Correct its header")

    begin, length = int(header["vox_offset"]), int(np.prod(shape, dtype=object)) * kind.itemsize
    if volume_suffix(path) == ".nii":
        if path.stat().st_size < begin + length:
            raise cut_short(path)
        return None
    as_stored = float(header["scl_slope"]) in (0.0, 1.0) and float(header["scl_inter"]) == 0.0
    simple = kind.kind in "iuf" and kind.itemsize <= 8 and set(shape[3:]) <= {1}
    into = np.empty(length, np.uint8) if as_stored and simple else None
    if not _inflate(path, begin, length, into):
        raise cut_short(path)
    if into is None:
        return None
    voxels = into.view(kind).reshape(shape[:3], order="F")
    if not kind.isnative:
        voxels = voxels.byteswap(inplace=True).view(kind.newbyteorder("="))
    if kind.kind == "f":
        voxels[~np.isfinite(voxels)] = 0  # as ITK does
    return voxels


def _inflate(path: Path, begin: int, length: int, into: np.ndarray | None) -> bool:
    """Read `length` uncompressed bytes from `begin` of a gzip file into an array of bytes, or count them without one.

    Returns whether they are all there and the file is not damaged. It is read to its end, which checks its CRC, but for
    at most 16 MiB beyond the bytes: that limits the cost of a decompression bomb.
    """
    count = 0
    try:
        with gzip.open(path) as stream:
            if stream.seek(begin) < begin:
                return False
            if into is not None:
                while count < length and (got := stream.readinto(into.data[count : count + 2**22])):
                    count += got
            while count <= length + 2**24 and (block := stream.read(2**22)):
                count += len(block)
    except (OSError, EOFError, zlib.error):
        return False
    return count >= length


def _reading_error(path: Path, error: RuntimeError) -> SkullVAEError:
    """ITK's error in terms of the user."""
    text = str(error)
    if "orthonormal" in text or "determinant" in text:
        return sheared(path.name)
    if "spacing" in text:
        return SkullVAEError(f"'{path.name}' has a voxel size of zero or less in its header", "Correct its header")
    if "llocate" in text or "bad_alloc" in text:
        return _too_large(path)
    return unreadable(path)


def _too_large(path: Path) -> SkullVAEError:
    return SkullVAEError(f"'{path.name}' does not fit into memory", "Crop or resample the volume")


class _Silence:
    """How many readers and writers have stderr redirected at this moment, and the file descriptor to restore."""

    lock = threading.Lock()
    users = 0
    saved: int | None = None


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Suppress what ITK's C libraries print to stderr about a bad file, which is reported in one line instead.

    They write to the file descriptor (MetaIO, niftilib and VNL ignore ITK's warning switch), so the descriptor is
    redirected; without one, as in a windowed program, nothing is done. The descriptor belongs to the whole process: of
    threads that read at the same time, the first redirects it and the last restores it.
    """
    with _Silence.lock:
        if _Silence.users == 0:
            _Silence.saved = _redirect_stderr()
        _Silence.users += 1
    try:
        yield
    finally:
        with _Silence.lock:
            _Silence.users -= 1
            if _Silence.users == 0 and _Silence.saved is not None:
                os.dup2(_Silence.saved, 2)
                os.close(_Silence.saved)
                _Silence.saved = None


def _redirect_stderr() -> int | None:
    """Redirect the file descriptor 2 to the null device; a copy of it, or None if there is none."""
    try:
        saved = os.dup(2)
    except OSError:
        return None
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    return saved
