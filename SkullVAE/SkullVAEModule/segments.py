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

from SkullVAELib import NOTICE
from SkullVAELib.core.errors import SkullVAEError

from .masks import Mask

# Tags of the segments this module adds. The source tag says which segment the result belongs to ("" for a CT):
# by it an earlier result is found again, whatever the user has renamed it to.
SOURCE_TAG = "SkullVAE.source"
ROLE_TAG = "SkullVAE.role"
# SHA-256 of the voxels and where they lie: by it a segment that was edited is told from one that was not.
VOXELS_TAG = "SkullVAE.voxels"
# Keys of report.json that travel with each segment, and everything it says of the model.
PROVENANCE = ("software", "version", "parameters")

# On a node that this module made: the node it was made from, and the segment.
INPUT_ROLE = "SkullVAE.input"
SOURCE_ATTRIBUTE = "SkullVAE.source"

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
    # In VTK's order of voxels: a large grid is filled ten times as fast.
    whole = np.zeros(_shape(geometry), np.uint8, order="F")
    start = np.subtract(own[::2], geometry.GetExtent()[::2])
    whole[tuple(slice(a, a + n) for a, n in zip(start, mask.shape, strict=True))] = mask
    return SkullInput(whole, _affine(geometry), geometry, node.GetID(), segmentID)


def targetSegmentation(source: SkullInput, newSegmentation: bool):
    """Where a result goes: the input's segmentation, or one beside it, found again or made.

    Beside it by choice (newSegmentation), for a CT, and where the input holds surfaces, because voxels put there
    would be turned into surfaces.
    """
    node = slicer.mrmlScene.GetNodeByID(source.nodeID)
    representation = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    if (
        not newSegmentation
        and node.IsA("vtkMRMLSegmentationNode")
        and node.GetSegmentation().GetSourceRepresentationName() == representation
    ):
        return node
    return _resultNode(node, source)


def addSegments(target, source: SkullInput, masks: dict[str, Mask], report: dict) -> dict[str, str]:
    """Add the completed skull and the implant in place of an earlier result of the same input; their IDs by role."""
    segments = {role: _newSegment(masks[role], source, look) for role, look in looks().items()}
    for role, segment in segments.items():
        _tag(segment, role, source, masks[role], report)
    segmentation = target.GetSegmentation()
    ids = {}
    with slicer.util.NodeModify(target):
        for segmentID in resultSegmentIDs(segmentation, source.segmentID):
            segmentation.RemoveSegment(segmentID)
        for role, segment in segments.items():
            # Each comes with a labelmap of its own. An empty segment would first join the labelmap of the others
            # and then be written into it, with the user's segments resampled where the grids differ.
            ids[role] = segmentation.GenerateUniqueSegmentID(f"SkullVAE_{role}")
            segmentation.AddSegment(segment, ids[role])
    target.CreateDefaultDisplayNodes()
    return ids


def changeSegment(target, segmentID: str, source: SkullInput, mask: Mask, report: dict) -> None:
    """Give a result segment other voxels; its name, colour and display stay as the user has them."""
    segmentation = target.GetSegmentation()
    segment = segmentation.GetSegment(segmentID)
    binary = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    surface = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
    shown = segment.GetRepresentation(surface) is not None
    with slicer.util.NodeModify(target):
        # Saving makes segments share a labelmap. Writing into it could reach others' voxels, and leaving it would
        # leave our voxels behind as nobody's.
        segmentation.SeparateSegmentLabelmap(segmentID)
        segment.RemoveRepresentation(surface)
        segment.SetLabelValue(1)
        segment.AddRepresentation(binary, newImage(mask, source))
        _tag(segment, segmentTag(segment, ROLE_TAG), source, mask, report)
        if shown:
            segmentation.CreateRepresentation(surface)
        segmentation.InvokeEvent(slicer.vtkSegmentation.SourceRepresentationModified, segmentID)


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


def segmentMask(target, segmentID: str) -> tuple[Mask, np.ndarray]:
    """(the voxels of a segment, (4, 4) from their whole grid's index to the node's own RAS).

    The whole grid is the labelmap's own here. An empty mask for a segment without voxels.
    """
    segment = target.GetSegmentation().GetSegment(segmentID)
    name = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    labelmap = segment.GetRepresentation(name) if segment is not None else None
    if labelmap is None or labelmap.IsEmpty() or labelmap.GetPointData().GetScalars() is None:
        return Mask.of(np.zeros((1, 1, 1), np.uint8)), np.eye(4)
    return Mask.of(_voxels(labelmap) == segment.GetLabelValue()), _affine(labelmap)


def maskOnGrid(target, segmentID: str, source: SkullInput) -> Mask:
    """A segment's voxels on the input's whole grid; empty for a segment that is missing or empty.

    The segments this module made lie on that grid. One that was edited on another is resampled, nearest neighbour.
    """
    segment = target.GetSegmentation().GetSegment(segmentID) if segmentID else None
    mask, affine = segmentMask(target, segmentID)
    empty = Mask(np.zeros((0, 0, 0), np.uint8), (0, 0, 0), source.array.shape)
    if segment is None or mask.empty:
        return empty
    toGrid = np.linalg.inv(source.affine) @ affine
    shift = np.rint(toGrid[:3, 3])
    if np.allclose(toGrid[:3, :3], np.eye(3), atol=1e-4) and np.allclose(toGrid[:3, 3], shift, atol=1e-2):
        start = np.add(mask.start, shift).astype(int)
        low = np.clip(start, 0, source.array.shape)
        high = np.clip(start + mask.array.shape, 0, source.array.shape)
        if np.any(low >= high):
            return empty
        inner = mask.array[tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))]
        cut = Mask.of(inner)
        return Mask(cut.array, tuple(int(a + b) for a, b in zip(low, cut.start, strict=True)), source.array.shape)
    name = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    image = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        segment.GetRepresentation(name), source.geometry, image, False
    )
    return Mask.of(_voxels(image) == segment.GetLabelValue())


def isAsAdded(target, segmentID: str) -> bool:
    """Whether a result segment's voxels are still those this module put there, by their SHA-256 and place."""
    segment = target.GetSegmentation().GetSegment(segmentID)
    tag = segmentTag(segment, VOXELS_TAG) if segment is not None else None
    if not tag:
        return False
    sha256, *place = tag.split()
    mask, affine = segmentMask(target, segmentID)
    if mask.sha256() != sha256:
        return False
    return mask.empty or np.allclose(_place(mask, affine), [float(value) for value in place], atol=1e-2)


def newImage(mask: Mask, source: SkullInput):
    """The mask as an image on the input's lattice, cropped to what it contains as Slicer's own segments are."""
    if mask.shape != source.array.shape:
        raise ValueError(f"the mask has shape {mask.shape}, the input has {source.array.shape}")
    image = slicer.vtkOrientedImageData()
    if mask.empty:
        return image
    first = np.add(source.geometry.GetExtent()[::2], mask.start)
    last = first + mask.array.shape - 1
    image = _newImage(source.geometry, [int(value) for pair in zip(first, last, strict=True) for value in pair])
    scalars = numpy_to_vtk(mask.array.ravel(order="F"), deep=True, array_type=vtk.VTK_UNSIGNED_CHAR)
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    return image


def _newSegment(mask: Mask, source: SkullInput, look: Look):
    segment = slicer.vtkSegment()
    segment.SetName(look.name)
    segment.SetNameAutoGenerated(False)
    segment.SetColor(look.color)
    segment.SetColorAutoGenerated(False)
    segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), look.terminology)
    name = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    segment.AddRepresentation(name, newImage(mask, source))
    return segment


def _place(mask: Mask, affine: np.ndarray) -> np.ndarray:
    """RAS of the first and of the last voxel of what the mask contains: six numbers."""
    corners = np.array([mask.start, np.add(mask.start, mask.array.shape) - 1])
    return (corners @ affine[:3, :3].T + affine[:3, 3]).ravel()


def _tag(segment, role: str, source: SkullInput, mask: Mask, report: dict) -> None:
    place = "" if mask.empty else "".join(f" {value:.4f}" for value in _place(mask, source.affine))
    tags = {
        ROLE_TAG: role,
        SOURCE_TAG: source.segmentID,
        VOXELS_TAG: mask.sha256() + place,
        "SkullVAE.note": report.get("disclaimer", NOTICE),
    }
    for key, value in report.items():
        if key in PROVENANCE or key.startswith("model"):
            tags[f"SkullVAE.{key}"] = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    for tag, value in tags.items():
        # Segmentation files separate the tags by "|".
        segment.SetTag(tag, " ".join(value.replace("|", "/").split()))


def madeSegmentation(node, segmentID: str):
    """The segmentation this module made for the result of this input, or None."""
    return next(iter(madeNodes("vtkMRMLSegmentationNode", node, segmentID)), None)


def madeNodes(className: str, node, segmentID: str) -> list:
    """The nodes of a class that this module made for this input, found again by what is saved with them."""
    return [
        candidate
        for candidate in slicer.util.getNodesByClass(className)
        if candidate.GetNodeReference(INPUT_ROLE) is node
        and (candidate.GetAttribute(SOURCE_ATTRIBUTE) or "") == segmentID
    ]


def markAsMade(made, node, segmentID: str) -> None:
    """Let madeNodes() find a node."""
    made.SetNodeReferenceID(INPUT_ROLE, node.GetID())
    made.SetAttribute(SOURCE_ATTRIBUTE, segmentID)


def _resultNode(node, source: SkullInput):
    """The segmentation this module made from this input before, or a new one beside the input."""
    target = madeSegmentation(node, source.segmentID)
    if target is None:
        name = slicer.mrmlScene.GenerateUniqueName(_("{name} completed").format(name=node.GetName()))
        target = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        markAsMade(target, node, source.segmentID)
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


def removeNode(node) -> None:
    """Remove a node with its display and storage nodes and its place in the subject hierarchy."""
    scene = slicer.mrmlScene
    own = [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())]
    own += [node.GetNthStorageNode(i) for i in range(node.GetNumberOfStorageNodes())]
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.RemoveItem(item, False)
    scene.RemoveNode(node)
    for other in own:
        if other is not None and scene.IsNodePresent(other):
            scene.RemoveNode(other)


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
    return slicer.util.arrayFromVTKMatrix(matrix)


def _affine(image) -> np.ndarray:
    """(4, 4) array index -> node's RAS: the array starts where the extent starts."""
    start = np.eye(4)
    start[:3, 3] = image.GetExtent()[::2]
    return _matrix(image) @ start
