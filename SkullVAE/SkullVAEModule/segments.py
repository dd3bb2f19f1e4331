"""Segments in and out of the scene, voxel by voxel.

Reading and writing happen in the input node's own coordinate system and on the segment's own lattice, so parent
transforms cancel out and nothing is ever resampled. Both work on copies or on new segments: the user's segments, and
the labelmaps they may share, are not touched.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from SkullVAELib.errors import SkullVAEError

from .completion import CompletionResult

# Tags of the segments this module adds. The source tag says which segment the result belongs to ("" for a CT):
# by it an earlier result is found again, whatever the user has renamed it to.
SOURCE_TAG = "SkullVAE.source"
ROLE_TAG = "SkullVAE.role"
# Keys of report.json that travel with each segment, and everything it says of the model.
PROVENANCE = ("software", "version", "parameters")
RESEARCH_NOTE = "Research software, not a medical device, not for clinical use."

# On a segmentation that this module made: the node it was made from, and the segment.
_INPUT_ROLE = "SkullVAE.input"
_SOURCE_ATTRIBUTE = "SkullVAE.source"

# Space around a segment that has no image geometry: the implant may reach beyond the bone that is there.
_MARGIN_MM = 20.0
# Voxel edge for a surface that has neither voxels nor an image geometry.
_SURFACE_SPACING_MM = 1.0

_ANATOMIC_CODES = "~^^~Anatomic codes - DICOM master list~^^~^^"


@dataclass(frozen=True)
class Look:
    """How a result segment presents itself: name, RGB 0..1, terminology as Slicer serialises it."""

    name: str
    color: tuple[float, float, float]
    terminology: str


def looks() -> dict[str, Look]:
    """The two result segments by role."""
    return {
        "completed": Look(
            _("Completed skull"),
            (241 / 255, 213 / 255, 144 / 255),
            "Segmentation category and type - 3D Slicer General Anatomy list"
            "~SCT^123037004^Anatomical Structure~SCT^89546000^Skull" + _ANATOMIC_CODES,
        ),
        "implant": Look(
            _("Implant"),
            (0.10, 0.62, 0.85),
            "Segmentation category and type - DICOM master list"
            "~SCT^260787004^Physical object~SCT^40388003^Implant" + _ANATOMIC_CODES,
        ),
    }


@dataclass(frozen=True)
class SkullInput:
    """What is to be completed, and where it came from.

    array: (I, J, K) voxels, uint8 0/1 of a segment or a CT's own; affine: (4, 4) from their index to the node's own
    RAS, in mm; geometry: the same grid as an image without voxels, whose extent starts where Slicer's does;
    segmentID: "" for a CT.
    """

    array: np.ndarray
    affine: np.ndarray
    geometry: slicer.vtkOrientedImageData
    nodeID: str
    segmentID: str


@dataclass(frozen=True)
class AddedSegments:
    """Where the result lies in the scene."""

    segmentationNode: slicer.vtkMRMLSegmentationNode
    completedID: str
    implantID: str


def readInput(node, segmentID: str = "") -> SkullInput:
    """The voxels of a segment or of a CT volume. Raises SkullVAEError when there is nothing to complete."""
    if node is None:
        raise SkullVAEError("No input is chosen", "Choose a segmentation or a CT volume")
    if node.IsA("vtkMRMLSegmentationNode"):
        return _readSegment(node, segmentID)
    return _readVolume(node)


def _readVolume(node) -> SkullInput:
    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0 or image.GetPointData().GetScalars() is None:
        raise SkullVAEError(f"The volume '{node.GetName()}' is empty", "Choose a volume with voxels")
    if image.GetNumberOfScalarComponents() != 1:
        raise SkullVAEError(f"The volume '{node.GetName()}' is a colour image", "Choose a CT")
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    geometry = slicer.vtkOrientedImageData()
    geometry.SetExtent(image.GetExtent())
    geometry.SetGeometryFromImageToWorldMatrix(matrix)
    return SkullInput(_voxels(image), _affine(geometry), geometry, node.GetID(), "")


def _readSegment(node, segmentID: str) -> SkullInput:
    segmentation = node.GetSegmentation()
    source = segmentation.GetSegment(segmentID) if segmentID else None
    if source is None:
        raise SkullVAEError(
            f"The segmentation '{node.GetName()}' has no segment '{segmentID}'", "Choose the segment of the skull"
        )
    # A copy outside the scene: making voxels of a surface would otherwise change the user's node.
    copy = slicer.vtkSegmentation()
    copy.SetSourceRepresentationName(segmentation.GetSourceRepresentationName())
    copy.CopyConversionParameters(segmentation)
    copy.CopySegmentFromSegmentation(segmentation, segmentID)
    segment = copy.GetSegment(segmentID)
    representation = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    if segment.GetRepresentation(representation) is None:
        if not _referenceGeometry(copy):
            _setGeometryFromBounds(copy, segment)
        copy.CreateRepresentation(representation)
        segment = copy.GetSegment(segmentID)
    labelmap = segment.GetRepresentation(representation)
    if labelmap is None or labelmap.IsEmpty() or labelmap.GetPointData().GetScalars() is None:
        mask = np.zeros((0, 0, 0), bool)
    else:
        # Segments may share one labelmap: each has its own value in it.
        mask = _voxels(labelmap) == segment.GetLabelValue()
    if not mask.any():
        raise SkullVAEError(
            f"The segment '{source.GetName()}' is empty", "Choose the segment of the skull, or segment the bone first"
        )
    own = labelmap.GetExtent()
    geometry = _newImage(labelmap, _wholeExtent(labelmap, _referenceGeometry(copy)))
    whole = np.zeros(_shape(geometry), np.uint8)
    start = np.subtract(own[::2], geometry.GetExtent()[::2])
    whole[tuple(slice(a, a + n) for a, n in zip(start, mask.shape, strict=True))] = mask
    return SkullInput(whole, _affine(geometry), geometry, node.GetID(), segmentID)


def addResult(source: SkullInput, result: CompletionResult, newSegmentation: bool = False) -> AddedSegments:
    """Put the result into the scene as two segments, in place of an earlier result of the same input.

    They go into the input's segmentation, or into a segmentation beside it: by choice (newSegmentation), for a CT,
    and where the input holds surfaces, because voxels put there would be turned into surfaces.
    Raises SkullVAEError when the input is no longer in the scene.
    """
    node = slicer.mrmlScene.GetNodeByID(source.nodeID)
    if node is None:
        raise SkullVAEError("The input was removed while its skull was being completed", "Run again with another input")
    masks = {"completed": result.completed, "implant": result.implant}
    segments = {role: _newSegment(masks[role], source, look) for role, look in looks().items()}
    for role, segment in segments.items():
        _tag(segment, role, source.segmentID, result.report)

    representation = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    if (
        not newSegmentation
        and node.IsA("vtkMRMLSegmentationNode")
        and node.GetSegmentation().GetSourceRepresentationName() == representation
    ):
        target = node
    else:
        target = _resultNode(node, source)
    segmentation = target.GetSegmentation()
    with slicer.util.NodeModify(target):
        for segmentID in resultSegmentIDs(segmentation, source.segmentID):
            segmentation.RemoveSegment(segmentID)
        ids = {}
        for role, segment in segments.items():
            # Each comes with a labelmap of its own. An empty segment would first join the labelmap of the others
            # and then be written into it, with the user's segments resampled where the grids differ.
            ids[role] = segmentation.GenerateUniqueSegmentID(f"SkullVAE_{role}")
            segmentation.AddSegment(segment, ids[role])
    target.CreateDefaultDisplayNodes()
    return AddedSegments(target, ids["completed"], ids["implant"])


def resultSegmentIDs(segmentation, sourceSegmentID: str) -> list[str]:
    """The segments of an earlier result for this source segment ("" for a CT), found by tag."""
    return [
        segmentID
        for segmentID in segmentation.GetSegmentIDs()
        if segmentTag(segmentation.GetSegment(segmentID), SOURCE_TAG) == sourceSegmentID
    ]


def segmentTag(segment, tag: str) -> str | None:
    """The value of a segment's tag, or None."""
    value = vtk.reference("")
    return value.get() if segment.GetTag(tag, value) else None


def _newSegment(mask: np.ndarray, source: SkullInput, look: Look):
    """A segment that holds `mask`, (I, J, K), cropped to what it contains as Slicer's own segments are."""
    if mask.shape != source.array.shape:
        raise ValueError(f"the mask has shape {mask.shape}, the input has {source.array.shape}")
    occupied = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    image = slicer.vtkOrientedImageData()
    if all(len(indices) for indices in occupied):
        low = [int(indices[0]) for indices in occupied]
        high = [int(indices[-1]) for indices in occupied]
        first = source.geometry.GetExtent()[::2]
        extent = [first[axis] + index for axis in range(3) for index in (low[axis], high[axis])]
        image = _newImage(source.geometry, extent)
        crop = mask[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))]
        flat = np.ascontiguousarray(crop.transpose(2, 1, 0) != 0).view(np.uint8).ravel()
        scalars = numpy_to_vtk(flat, deep=True, array_type=vtk.VTK_UNSIGNED_CHAR)
        scalars.SetName("ImageScalars")
        image.GetPointData().SetScalars(scalars)
    segment = slicer.vtkSegment()
    segment.SetName(look.name)
    segment.SetNameAutoGenerated(False)
    segment.SetColor(look.color)
    segment.SetColorAutoGenerated(False)
    segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), look.terminology)
    segment.AddRepresentation(slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName(), image)
    return segment


def _tag(segment, role: str, sourceSegmentID: str, report: dict) -> None:
    tags = {ROLE_TAG: role, SOURCE_TAG: sourceSegmentID, "SkullVAE.note": report.get("disclaimer", RESEARCH_NOTE)}
    for key, value in report.items():
        if key in PROVENANCE or key.startswith("model"):
            tags[f"SkullVAE.{key}"] = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    for tag, value in tags.items():
        # Segmentation files separate the tags by "|".
        segment.SetTag(tag, " ".join(value.replace("|", "/").split()))


def _resultNode(node, source: SkullInput):
    """The segmentation this module made from this input before, or a new one beside the input."""
    target = next(
        (
            candidate
            for candidate in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
            if candidate.GetNodeReference(_INPUT_ROLE) is node
            and (candidate.GetAttribute(_SOURCE_ATTRIBUTE) or "") == source.segmentID
        ),
        None,
    )
    if target is None:
        name = slicer.mrmlScene.GenerateUniqueName(_("{name} completed").format(name=node.GetName()))
        target = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        target.SetNodeReferenceID(_INPUT_ROLE, node.GetID())
        target.SetAttribute(_SOURCE_ATTRIBUTE, source.segmentID)
        _placeBeside(target, node)
    target.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    # So that Slicer's editor works on the input's whole grid, not on the cropped result.
    target.GetSegmentation().SetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName(),
        slicer.vtkSegmentationConverter.SerializeImageGeometry(source.geometry),
    )
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    reference = node.GetNodeReferenceID(role) if node.IsA("vtkMRMLSegmentationNode") else node.GetID()
    target.SetNodeReferenceID(role, reference)
    return target


def _placeBeside(target, node) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item, neighbour = hierarchy.GetItemByDataNode(target), hierarchy.GetItemByDataNode(node)
    if item and neighbour:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(neighbour))


def _referenceGeometry(segmentation):
    """The image geometry a segmentation was made on, or None when it has none."""
    name = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    text = segmentation.GetConversionParameter(name)
    image = slicer.vtkOrientedImageData()
    if not text or not slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False):
        return None
    return None if _isEmptyExtent(image.GetExtent()) else image


def _setGeometryFromBounds(segmentation, segment) -> None:
    """Give a segment that is only a surface a grid to be turned into voxels on."""
    bounds = [0.0] * 6
    segment.GetBounds(bounds)
    low, high = np.array(bounds[::2]), np.array(bounds[1::2])
    if np.any(low > high):
        return
    image = slicer.vtkOrientedImageData()
    image.SetSpacing([_SURFACE_SPACING_MM] * 3)
    image.SetOrigin(low - _MARGIN_MM)
    last = np.ceil((high - low + 2 * _MARGIN_MM) / _SURFACE_SPACING_MM).astype(int)
    image.SetExtent(0, int(last[0]), 0, int(last[1]), 0, int(last[2]))
    segmentation.SetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName(),
        slicer.vtkSegmentationConverter.SerializeImageGeometry(image),
    )


def _wholeExtent(labelmap, reference) -> list[int]:
    """The extent on the labelmap's lattice that holds the labelmap and the reference geometry, or some margin."""
    own = labelmap.GetExtent()
    if reference is None:
        margin = [math.ceil(_MARGIN_MM / spacing) for spacing in labelmap.GetSpacing()]
        return [own[i] + (margin[i // 2] if i % 2 else -margin[i // 2]) for i in range(6)]
    extent = reference.GetExtent()
    corners = np.array([(*corner, 1.0) for corner in product(extent[0:2], extent[2:4], extent[4:6])])
    toLattice = np.linalg.inv(_matrix(labelmap)) @ _matrix(reference)
    indices = (corners @ toLattice.T)[:, :3]
    # On the same lattice the indices are whole but for rounding.
    low = np.minimum(np.floor(indices.min(axis=0) + 0.01), own[::2]).astype(int)
    high = np.maximum(np.ceil(indices.max(axis=0) - 0.01), own[1::2]).astype(int)
    return [int(value) for pair in zip(low, high, strict=True) for value in pair]


def _newImage(geometry, extent):
    """An image without voxels on the lattice of `geometry`."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*extent)
    image.SetSpacing(geometry.GetSpacing())
    image.SetOrigin(geometry.GetOrigin())
    image.CopyDirections(geometry)
    return image


def _isEmptyExtent(extent) -> bool:
    return any(low > high for low, high in zip(extent[::2], extent[1::2], strict=True))


def _shape(image) -> tuple[int, int, int]:
    extent = image.GetExtent()
    return tuple(high - low + 1 for low, high in zip(extent[::2], extent[1::2], strict=True))


def _voxels(image) -> np.ndarray:
    """(I, J, K) view of an image's voxels."""
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(_shape(image)[::-1]).transpose(2, 1, 0)


def _matrix(image) -> np.ndarray:
    """(4, 4) lattice index -> node's RAS."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])


def _affine(image) -> np.ndarray:
    """(4, 4) array index -> node's RAS: the array starts where the extent starts."""
    start = np.eye(4)
    start[:3, 3] = image.GetExtent()[::2]
    return _matrix(image) @ start
