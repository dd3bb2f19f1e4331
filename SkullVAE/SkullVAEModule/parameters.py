"""What the panel's widgets stand for; saved with the scene."""

# No "from __future__ import annotations" here: Slicer's wrapper reads the annotations.
from typing import Annotated, Union

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

from .completion import CompletionOptions


@parameterNodeWrapper
class SkullVAEParameterNode:
    """The parameters of a run.

    inputNode - The segmentation that holds the skull, or a CT volume.
    segmentID - The segment of the skull; unused for a CT.
    boneThreshold - HU above which a CT's voxels are bone; 0 leaves the choice to the library.
    newSegmentation - Whether the result goes into a segmentation of its own.
    prior - Where the complete shape comes from; see the command line's --prior.
    gamma - How far to move along the deviation vector; for the prior "dev" only.
    device - Where the network runs.
    """

    # Without None among them Slicer's wrapper cannot hold "nothing chosen".
    inputNode: Union[vtkMRMLSegmentationNode, vtkMRMLScalarVolumeNode, None]  # noqa: UP007 (what Slicer 5.10 reads)
    segmentID: str = ""
    boneThreshold: Annotated[float, WithinRange(0, 3000)] = 0
    newSegmentation: bool = False
    prior: Annotated[str, Choice(["auto", "encode", "map", "dev", "mean"])] = "auto"
    gamma: Annotated[float, WithinRange(0, 2)] = 1
    device: Annotated[str, Choice(["auto", "cpu", "cuda"])] = "auto"


def completionOptions(parameters: SkullVAEParameterNode) -> CompletionOptions:
    """The options of the command line for the panel's choices."""
    isVolume = parameters.inputNode is not None and not parameters.inputNode.IsA("vtkMRMLSegmentationNode")
    return CompletionOptions(
        thresholdHU=parameters.boneThreshold if isVolume and parameters.boneThreshold > 0 else None,
        prior=parameters.prior,
        gamma=parameters.gamma if parameters.prior == "dev" else None,
        device=parameters.device,
    )
