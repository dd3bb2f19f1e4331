"""Two samples for Slicer's Sample Data module: the CT of a patient, downloaded, and a generated skull."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.files import CRANIUM_SHA256, file_sha256

from .childprocess import ChildProcess
from .completion import childEnvironment, libraryCommand
from .librarypath import MODULE_FOLDER

# "Cranium" of the InVesalius project (GPL-2): a frontal defect after trauma. Pinned to a commit, verified by SHA-256.
PATIENT_URL = "https://raw.githubusercontent.com/invesalius/invesalius3/22dfef43c05bdb20f50a5e05579324af3eb12ec4/samples/Cranium.inv3"
PATIENT_SHA256 = CRANIUM_SHA256
PATIENT_BYTES = 18719455
PATIENT_NAME = "Patient with a frontal defect (CT)"
GENERATED_NAME = "Generated skull with a defect"

_CHUNK_BYTES = 1 << 18
_SECONDS = 30


def registerSampleData() -> None:
    """Add both samples to the Sample Data module. Call it once, after Slicer has started."""
    import SampleData

    icon = str(MODULE_FOLDER / "Resources" / "Icons" / "SkullVAE.png")
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="SkullVAE",
        sampleName=PATIENT_NAME,
        thumbnailFileName=icon,
        uris=PATIENT_URL,
        checksums=f"SHA256:{PATIENT_SHA256}",
        fileNames="Cranium.inv3",
        loadFileTypes=None,
        nodeNames=_("Patient with a frontal defect"),
        customDownloader=_addPatient,
    )
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="SkullVAE",
        sampleName=GENERATED_NAME,
        thumbnailFileName=icon,
        # Slicer counts the URIs, although the custom downloader needs none.
        uris="",
        customDownloader=_addGenerated,
    )


def _addPatient(source) -> list:
    return [_reported(loadPatient)]


def _addGenerated(source) -> list:
    return [_reported(loadGenerated)]


def loadPatient(
    url: str = PATIENT_URL,
    sha256: str = PATIENT_SHA256,
    folder: str | os.PathLike | None = None,
    onProgress: Callable[[float], None] = lambda fraction: None,
):
    """Add the CT of the patient as a volume node; it is downloaded unless it is in the cache folder.

    Raises SkullVAEError if the file cannot be downloaded or has another SHA-256.
    """
    from SkullVAELib.io.invesalius import read_inv3

    path = downloadFile(url, Path(folder or _cacheFolder()) / "Cranium.inv3", sha256, onProgress)
    return addVolumeNode(read_inv3(path), _("Patient with a frontal defect"))


def loadGenerated(command: list[str] | None = None, onWait: Callable[[], None] | None = None):
    """Add a skull sampled from the model, with a defect, as a segmentation node with one segment; needs no network.

    onWait: called repeatedly while the child process runs (default: processes Slicer's events). Raises SkullVAEError.
    """
    from SkullVAELib.io.images import read_volume

    with tempfile.TemporaryDirectory(prefix="SkullVAE-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "sample.nrrd"
        child = ChildProcess([*(command or libraryCommand()), "sample", "-o", str(path)], folder, childEnvironment())
        child.start()
        try:
            child.wait(onWait or slicer.app.processEvents)
        finally:
            child.cancel()
        if child.exitCode != 0:
            line = child.lastErrorLine or "The sample could not be generated"
            raise SkullVAEError.from_line(line, "Check the installation")
        volume = read_volume(path)
    return addSegmentationNode(volume, _("Generated skull"))


def downloadFile(
    url: str, path: Path, sha256: str, onProgress: Callable[[float], None] = lambda fraction: None
) -> Path:
    """Download a file to `path` unless a file with this SHA-256 is there already. Raises SkullVAEError.

    The file appears only after it is complete and verified.
    """
    if path.is_file() and file_sha256(path) == sha256:
        return path
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=_SECONDS) as response, temporary.open("xb") as file:
            size = int(response.headers.get("Content-Length") or PATIENT_BYTES)
            while chunk := response.read(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
                onProgress(min(1.0, file.tell() / size))
                slicer.app.processEvents()
        if digest.hexdigest() != sha256:
            raise SkullVAEError(f"'{path.name}' was damaged during the download or has changed", "Try again later")
        os.replace(temporary, path)
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise SkullVAEError(
            f"'{path.name}' cannot be downloaded: {reason}", "Check the network, or use the generated sample"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def addVolumeNode(volume, name: str):
    """Add a scalar volume node with voxels and position of a library volume."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", slicer.mrmlScene.GenerateUniqueName(name))
    image = vtk.vtkImageData()
    image.SetDimensions(volume.array.shape)
    image.GetPointData().SetScalars(_scalars(volume.array))
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(volume.affine))
    node.CreateDefaultDisplayNodes()
    return node


def addSegmentationNode(volume, name: str, segmentName: str = "Skull"):
    """Add a segmentation node with one segment, ID "skull", of the nonzero voxels, on the volume's whole grid."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(volume.array.shape)
    image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(volume.affine))
    image.GetPointData().SetScalars(_scalars((volume.array != 0).view("uint8")))
    segment = slicer.vtkSegment()
    segment.SetName(segmentName)
    segment.AddRepresentation(slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName(), image)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", slicer.mrmlScene.GenerateUniqueName(name))
    segmentation = node.GetSegmentation()
    segmentation.AddSegment(segment, "skull")
    segmentation.SetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName(),
        slicer.vtkSegmentationConverter.SerializeImageGeometry(image),
    )
    node.CreateDefaultDisplayNodes()
    return node


def _scalars(array):
    scalars = numpy_to_vtk(array.ravel(order="F"), deep=True)
    scalars.SetName("ImageScalars")
    return scalars


def _cacheFolder() -> str:
    return slicer.mrmlScene.GetCacheManager().GetRemoteCacheDirectory() or slicer.app.temporaryPath


def _reported(load: Callable):
    """Show the error of a sample, which Sample Data itself does not."""
    try:
        return load()
    except SkullVAEError as error:
        logging.error(str(error))
        slicer.util.errorDisplay(str(error), windowTitle="SkullVAE")
        return None
