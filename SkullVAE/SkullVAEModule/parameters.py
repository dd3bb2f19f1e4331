"""What the panel's widgets stand for; saved with the scene."""

# No "from __future__ import annotations" here: Slicer's wrapper reads the annotations.
from typing import Annotated, Union

from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

from .completion import CompletionOptions

# What the panel shows, and what the command line calls it.
THICKNESSES = {"Patient's own": "patient", "Constant": "constant", "At least": "minimum"}
DEFECT_KINDS = {"Cranial vault": "cranial", "Face (experimental)": "facial"}
# What the library takes of itself for a CT. Left to it, it also recognises a labelmap that was loaded as a volume.
USUAL_THRESHOLD_HU = 300.0


@parameterNodeWrapper
class SkullVAEParameterNode:
    """The parameters of a run. Lengths in mm.

    inputNode - The segmentation that holds the skull, or a CT volume.
    segmentID - The segment of the skull; unused for a CT.
    boneThreshold - HU from which on a CT's voxels are bone.
    showThreshold - Whether the slices show in colour what the threshold takes for bone.
    useBox, boxNode - Whether only what lies in this box counts as bone.
    model - SHA-256 of the model file; empty for the shipped one.
    defectKind - Which deviation vector gamma moves along.
    gamma - How far to move along it.
    proposals - How many implants to propose.
    face - Whether the face is completed, too.
    clearance, thickness, thicknessMillimetres, underContour, smoothing, split - What the part shall be.
    holes, holeDiameter, holePitch, holeMargin - Perfusion holes.
    exportFolder, exportSTL, exportOBJ, exportPLY, exportHost, exportLabelmaps, exportReport - What goes into files.
    prior - Where the complete shape comes from; see the command line's --prior.
    device - Where the network runs.
    newSegmentation - Whether the result goes into a segmentation of its own.
    """

    # Without None among them Slicer's wrapper cannot hold "nothing chosen".
    inputNode: Union[vtkMRMLSegmentationNode, vtkMRMLScalarVolumeNode, None]  # noqa: UP007 (what Slicer 5.10 reads)
    segmentID: str = ""
    boneThreshold: Annotated[float, WithinRange(-1000, 3000)] = USUAL_THRESHOLD_HU
    showThreshold: bool = False
    useBox: bool = False
    boxNode: Union[vtkMRMLMarkupsROINode, None]  # noqa: UP007

    model: str = ""
    defectKind: Annotated[str, Choice(list(DEFECT_KINDS))] = "Cranial vault"
    gamma: Annotated[float, WithinRange(0, 2)] = 0.0
    proposals: Annotated[int, WithinRange(1, 5)] = 1
    face: bool = False

    # What the guide for printing recommends; the voxels of the segments fill the whole gap all the same.
    clearance: Annotated[float, WithinRange(0, 5)] = 0.5
    thickness: Annotated[str, Choice(list(THICKNESSES))] = "Patient's own"
    thicknessMillimetres: Annotated[float, WithinRange(1, 12)] = 4.0
    underContour: Annotated[float, WithinRange(0, 5)] = 0.0
    smoothing: Annotated[float, WithinRange(0, 3)] = 0.5
    holes: bool = False
    holeDiameter: Annotated[float, WithinRange(1, 10)] = 2.0
    holePitch: Annotated[float, WithinRange(2, 100)] = 10.0
    holeMargin: Annotated[float, WithinRange(0.5, 50)] = 3.0
    split: Annotated[float, WithinRange(0, 500)] = 0.0

    exportFolder: str = ""
    exportSTL: bool = True
    exportOBJ: bool = False
    exportPLY: bool = False
    exportHost: bool = True
    exportLabelmaps: bool = True
    exportReport: bool = True

    prior: Annotated[str, Choice(["auto", "blend", "encode", "map", "dev", "mean"])] = "auto"
    device: Annotated[str, Choice(["auto", "cpu", "cuda"])] = "auto"
    newSegmentation: bool = False


def isVolume(node) -> bool:
    """Whether the input is a CT volume, and not a segmentation."""
    return node is not None and not node.IsA("vtkMRMLSegmentationNode")


def completionOptions(parameters: SkullVAEParameterNode, box=None, modelPath=None) -> CompletionOptions:
    """The options of the command line for the panel's choices.

    box: the numbers of --box, in the input's own coordinates, or None; modelPath: of another model than the shipped.
    """
    chosen = isVolume(parameters.inputNode) and parameters.boneThreshold != USUAL_THRESHOLD_HU
    return CompletionOptions(
        thresholdHU=parameters.boneThreshold if chosen else None,
        box=box,
        prior=parameters.prior,
        defect=DEFECT_KINDS[parameters.defectKind],
        gamma=parameters.gamma if parameters.gamma > 0 or parameters.prior == "dev" else None,
        proposals=parameters.proposals,
        face=parameters.face,
        device=parameters.device,
        model=modelPath,
        **partOptions(parameters),
    )


def partOptions(parameters: SkullVAEParameterNode) -> dict:
    """What the part shall be, by the names that CompletionOptions has for it."""
    thickness = THICKNESSES[parameters.thickness]
    hole = (parameters.holeDiameter, parameters.holePitch, parameters.holeMargin)
    return {
        "clearance": parameters.clearance,
        "thickness": thickness if thickness == "patient" else f"{thickness}:{parameters.thicknessMillimetres:g}",
        "underContour": parameters.underContour,
        "smooth": parameters.smoothing,
        "holes": ",".join(f"{number:g}" for number in hole) if parameters.holes else None,
        # Shorter pieces than this nobody asks for: below it means one piece.
        "split": parameters.split if parameters.split >= 20 else None,
    }
