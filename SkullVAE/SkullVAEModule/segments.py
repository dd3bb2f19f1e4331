"""Reads the voxels of the input from the scene, and adds segments of a result to it.

Voxels are read and written in the input node's own coordinate system and on the segment's own lattice, so parent
transforms cancel out and nothing is resampled. Only copies and new segments are used: the user's segments, and the
labelmaps that they may share, are not changed.
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

# Tags of the segments that this module adds. The source tag is the ID of the input segment ("" for a CT), so that an
# earlier result is found even if the user has renamed it.
SOURCE_TAG = "SkullVAE.source"
ROLE_TAG = "SkullVAE.role"
# SHA-256 and position of the voxels, to detect whether a segment was edited.
VOXELS_TAG = "SkullVAE.voxels"
# Fields of report.json that are stored in each segment, besides those of the model.
PROVENANCE = ("software", "version", "parameters")
# Volumes and points that were edited by hand, as in report.json; missing on an implant that was not edited.
EDITED_TAG = "SkullVAE.edited"
# Number of the shape, which undo of the scene restores with the voxels.
SHAPE_TAG = "SkullVAE.shape"

# Node reference and attribute of the nodes that this module adds: input node and input segment.
INPUT_ROLE = "SkullVAE.input"
SOURCE_ATTRIBUTE = "SkullVAE.source"

# Margin around a segment without image geometry, since the implant may extend beyond the bone.
_MARGIN_MM = 20.0
# Voxel edge for a surface that has neither voxels nor an image geometry.
_SURFACE_SPACING_MM = 1.0

_ANATOMIC_CODES = "~^^~Anatomic codes - DICOM master list~^^~^^"


@dataclass(frozen=True)
class Look:
    """Appearance of a result segment: name, RGB 0..1, terminology as Slicer serialises it."""

    name: str
    color: tuple[float, float, float]
    terminology: str


def looks() -> dict[str, Look]:
    """The appearance of the two result segments, by role."""
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
    """The voxels to complete and their source.

    array: (I, J, K) voxels, uint8 0/1 of a segment, or those of a CT; affine: (4, 4) voxel index -> RAS mm of the node;
    geometry: the same grid as an image without voxels, with the start of its extent as in Slicer; segmentID: "" for a
    CT.
    """

    array: np.ndarray
    affine: np.ndarray
    geometry: slicer.vtkOrientedImageData
    nodeID: str
    segmentID: str


def readInput(node, segmentID: str = "") -> SkullInput:
    """Read the voxels of a segment or of a CT volume. Raises SkullVAEError if there is nothing to complete."""
    if node is None:
        raise SkullVAEError("No input is selected", "Choose a CT or a segmentation of the skull")
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
    # A copy outside the scene, since converting a surface to voxels would change the user's node.
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
        # Segments may share one labelmap, in which each has its own value.
        mask = _voxels(labelmap) == segment.GetLabelValue()
    if not mask.any():
        raise SkullVAEError(
            f"The segment '{source.GetName()}' is empty", "Choose the segment of the skull, or segment the bone first"
        )
    own = labelmap.GetExtent()
    geometry = _newImage(labelmap, _wholeExtent(labelmap, _referenceGeometry(copy)))
    # In VTK's order of voxels, which makes filling a large grid ten times as fast.
    whole = np.zeros(_shape(geometry), np.uint8, order="F")
    start = np.subtract(own[::2], geometry.GetExtent()[::2])
    whole[tuple(slice(a, a + n) for a, n in zip(start, mask.shape, strict=True))] = mask
    return SkullInput(whole, _affine(geometry), geometry, node.GetID(), segmentID)


def targetSegmentation(source: SkullInput, newSegmentation: bool):
    """The segmentation that a result is added to: the input's, or one beside it, which is added if there is none.

    The result is added beside the input if newSegmentation is set, for a CT, and if the source representation of the
    input is a surface, because Slicer would convert added voxels to surfaces.
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
    """Add completed skull and implant, and replace an earlier result of the same input; returns the IDs by role."""
    segments = {role: _newSegment(masks[role], source, look) for role, look in looks().items()}
    for role, segment in segments.items():
        _tag(segment, role, source, masks[role], report)
    segmentation = target.GetSegmentation()
    ids = {}
    with slicer.util.NodeModify(target):
        for segmentID in resultSegmentIDs(segmentation, source.segmentID):
            segmentation.RemoveSegment(segmentID)
        for role, segment in segments.items():
            # Each segment has its own labelmap. An empty segment would be added to the shared labelmap first and then
            # be written into it, which resamples the user's segments if the grids differ.
            ids[role] = segmentation.GenerateUniqueSegmentID(f"SkullVAE_{role}")
            segmentation.AddSegment(segment, ids[role])
    target.CreateDefaultDisplayNodes()
    return ids


def changeSegment(target, segmentID: str, source: SkullInput, mask: Mask, report: dict) -> None:
    """Replace the voxels of a result segment; name, colour and display are kept."""
    segmentation = target.GetSegmentation()
    segment = segmentation.GetSegment(segmentID)
    binary = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    surface = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
    shown = segment.GetRepresentation(surface) is not None
    with slicer.util.NodeModify(target):
        # Slicer makes segments share a labelmap when it saves. Writing into it could change voxels of other segments,
        # and only leaving it would keep the old voxels in it without a segment.
        segmentation.SeparateSegmentLabelmap(segmentID)
        segment.RemoveRepresentation(surface)
        segment.SetLabelValue(1)
        segment.AddRepresentation(binary, newImage(mask, source))
        _tag(segment, segmentTag(segment, ROLE_TAG), source, mask, report)
        if shown:
            segmentation.CreateRepresentation(surface)
        segmentation.InvokeEvent(slicer.vtkSegmentation.SourceRepresentationModified, segmentID)


def markVoxels(target, segmentID: str, source: SkullInput, mask: Mask) -> None:
    """Mark these voxels as those of a result segment, so that isAsAdded() compares with them."""
    target.GetSegmentation().GetSegment(segmentID).SetTag(VOXELS_TAG, _voxelsTag(source, mask))


def markEdited(target, segmentID: str, edited: dict | None) -> None:
    """Mark a result segment as edited by hand, or not."""
    segment = target.GetSegmentation().GetSegment(segmentID)
    if edited:
        segment.SetTag(EDITED_TAG, json.dumps(edited, sort_keys=True))
    else:
        segment.RemoveTag(EDITED_TAG)


def resultSegmentIDs(segmentation, sourceSegmentID: str) -> list[str]:
    """IDs of the result segments of this source segment ("" for a CT), found by tag."""
    return [
        segmentID
        for segmentID in segmentation.GetSegmentIDs()
        if segmentTag(segmentation.GetSegment(segmentID), SOURCE_TAG) == sourceSegmentID
    ]


def segmentTag(segment, tag: str) -> str | None:
    """The value of a tag of a segment, or None."""
    value = vtk.reference("")
    return value.get() if segment.GetTag(tag, value) else None


def segmentMask(target, segmentID: str) -> tuple[Mask, np.ndarray]:
    """(voxels of a segment, (4, 4) voxel index of their grid -> RAS mm of the node).

    The grid is that of the labelmap. The mask is empty for a segment without voxels.
    """
    segment = target.GetSegmentation().GetSegment(segmentID)
    name = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    labelmap = segment.GetRepresentation(name) if segment is not None else None
    if labelmap is None or labelmap.IsEmpty() or labelmap.GetPointData().GetScalars() is None:
        return Mask.of(np.zeros((1, 1, 1), np.uint8)), np.eye(4)
    return Mask.of(_voxels(labelmap) == segment.GetLabelValue()), _affine(labelmap)


def maskOnGrid(target, segmentID: str, source: SkullInput) -> Mask:
    """The voxels of a segment on the input's whole grid; empty for a segment that is missing or empty.

    The segments of this module are on that grid. A segment that was edited on another grid is resampled (nearest
    neighbour).
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
    """Whether a result segment is unedited: SHA-256 and position of its voxels are those that were added."""
    segment = target.GetSegmentation().GetSegment(segmentID)
    tag = segmentTag(segment, VOXELS_TAG) if segment is not None else None
    if not tag:
        return False
    sha256, *position = tag.split()
    mask, affine = segmentMask(target, segmentID)
    if mask.sha256() != sha256:
        return False
    return mask.empty or np.allclose(_position(mask, affine), [float(value) for value in position], atol=1e-2)


def newImage(mask: Mask, source: SkullInput):
    """The mask as an image on the input's lattice, cropped to its occupied region as Slicer's own segments."""
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


def imageOf(mask: Mask, affine: np.ndarray):
    """A mask as an image of its own, from the affine of its whole grid, see segmentMask()."""
    image = slicer.vtkOrientedImageData()
    if mask.empty:
        return image
    image.SetExtent([int(x) for a, n in zip(mask.start, mask.array.shape, strict=True) for x in (a, a + n - 1)])
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(affine, float).ravel().tolist())
    image.SetGeometryFromImageToWorldMatrix(matrix)
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


def _position(mask: Mask, affine: np.ndarray) -> np.ndarray:
    """(6,) RAS mm of the first and of the last voxel of the occupied region."""
    corners = np.array([mask.start, np.add(mask.start, mask.array.shape) - 1])
    return (corners @ affine[:3, :3].T + affine[:3, 3]).ravel()


def _voxelsTag(source: SkullInput, mask: Mask) -> str:
    position = "" if mask.empty else "".join(f" {value:.4f}" for value in _position(mask, source.affine))
    return mask.sha256() + position


def _tag(segment, role: str, source: SkullInput, mask: Mask, report: dict) -> None:
    tags = {
        ROLE_TAG: role,
        SOURCE_TAG: source.segmentID,
        VOXELS_TAG: _voxelsTag(source, mask),
        "SkullVAE.note": report.get("disclaimer", NOTICE),
    }
    for key, value in report.items():
        if key in PROVENANCE or key.startswith("model"):
            tags[f"SkullVAE.{key}"] = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    for tag, value in tags.items():
        # "|" separates the tags in segmentation files.
        segment.SetTag(tag, " ".join(value.replace("|", "/").split()))


def madeSegmentation(node, segmentID: str):
    """The segmentation that this module has added for the result of this input, or None."""
    return next(iter(madeNodes("vtkMRMLSegmentationNode", node, segmentID)), None)


def madeNodes(className: str, node, segmentID: str) -> list:
    """The nodes of a class that this module has added for this input, found by saved references and attributes."""
    return [
        candidate
        for candidate in slicer.util.getNodesByClass(className)
        if candidate.GetNodeReference(INPUT_ROLE) is node
        and (candidate.GetAttribute(SOURCE_ATTRIBUTE) or "") == segmentID
    ]


def isMade(node) -> bool:
    """Whether this module has added a node for an input, which may have been removed since."""
    return node.GetAttribute(SOURCE_ATTRIBUTE) is not None or node.GetNodeReferenceID(INPUT_ROLE) is not None


def markAsMade(made, node, segmentID: str) -> None:
    """Set reference and attribute of an added node, so that madeNodes() finds it."""
    made.SetNodeReferenceID(INPUT_ROLE, node.GetID())
    made.SetAttribute(SOURCE_ATTRIBUTE, segmentID)


def _resultNode(node, source: SkullInput):
    """The segmentation of an earlier result of this input, or a new one beside the input."""
    target = madeSegmentation(node, source.segmentID)
    if target is None:
        name = slicer.mrmlScene.GenerateUniqueName(_("{name} completed").format(name=node.GetName()))
        target = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        markAsMade(target, node, source.segmentID)
    target.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    # Slicer's editor then uses the input's whole grid instead of the cropped result.
    target.GetSegmentation().SetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName(),
        slicer.vtkSegmentationConverter.SerializeImageGeometry(source.geometry),
    )
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    reference = node.GetNodeReferenceID(role) if node.IsA("vtkMRMLSegmentationNode") else node.GetID()
    target.SetNodeReferenceID(role, reference)
    return target


def removeNode(node) -> None:
    """Remove a node with its display and storage nodes and its item in the subject hierarchy."""
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
    """The reference image geometry of a segmentation, or None."""
    name = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    text = segmentation.GetConversionParameter(name)
    image = slicer.vtkOrientedImageData()
    if not text or not slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False):
        return None
    return None if _isEmptyExtent(image.GetExtent()) else image


def _setGeometryFromBounds(segmentation, segment) -> None:
    """Set a grid for the conversion of a segment that is a surface only."""
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
    """The extent on the labelmap's lattice of labelmap and reference geometry, or of the labelmap with a margin."""
    own = labelmap.GetExtent()
    if reference is None:
        margin = [math.ceil(_MARGIN_MM / spacing) for spacing in labelmap.GetSpacing()]
        return [own[i] + (margin[i // 2] if i % 2 else -margin[i // 2]) for i in range(6)]
    extent = reference.GetExtent()
    corners = np.array([(*corner, 1.0) for corner in product(extent[0:2], extent[2:4], extent[4:6])])
    toLattice = np.linalg.inv(_matrix(labelmap)) @ _matrix(reference)
    indices = (corners @ toLattice.T)[:, :3]
    # On the same lattice the indices are integers except for rounding errors.
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
    """(4, 4) lattice index -> RAS mm of the node."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _affine(image) -> np.ndarray:
    """(4, 4) array index -> RAS mm of the node; the first voxel of the array is the start of the extent."""
    start = np.eye(4)
    start[:3, 3] = image.GetExtent()[::2]
    return _matrix(image) @ start
