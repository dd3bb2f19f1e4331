"""The parameters of the panel's widgets, which are saved with the scene."""

# Without "from __future__ import annotations", because Slicer's wrapper evaluates the annotations.
from typing import Annotated, Union

from slicer import vtkMRMLMarkupsROINode, vtkMRMLModelNode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

from SkullVAELib.completion.options import MOST_PROPOSALS, PRIORS
from SkullVAELib.data.defect_kinds import CLASSES
from SkullVAELib.implant.addition_options import HOLE_DIAMETER_MM
from SkullVAELib.implant.options import INSERTABLE_MM, THICKNESS_MODES
from SkullVAELib.implant.tooling import BENCH_MM

from .completion import FRAGMENTS, NO_POINTS, ImplantPoints, RunSettings

# Values of the parameters, which the panel shows and scenes contain, and those of the command line.
THICKNESSES = dict(zip(("Patient's own", "Constant", "At least"), THICKNESS_MODES, strict=True))
DEFECT_CLASSES = dict(zip(("Cranial vault", "Face (experimental)"), CLASSES, strict=True))
FRAGMENT_TREATMENTS = dict(zip(("Keep", "Ignore"), FRAGMENTS, strict=True))
PLAN_KINDS = ("Present result", "Result folder", "Mesh or labelmap file")
# Default threshold of the library for a CT. For this value the option is left out: the library then also detects a
# labelmap that was loaded as a volume.
USUAL_THRESHOLD_HU = 300.0


@parameterNodeWrapper
class SkullVAEParameterNode:
    """The parameters of a run. Lengths in mm.

    inputNode - Segmentation that contains the skull, or a CT volume.
    segmentID - Segment of the skull; unused for a CT.
    boneThreshold - Bone threshold of a CT in HU.
    showThreshold - Whether the slice views show a preview of the threshold.
    useBox, boxNode - Whether bone outside this ROI is ignored.
    referenceNode, referenceSegmentID, referenceFile - The patient's earlier bone: a node, with its segment if it is a
        segmentation, or a file.
    model - SHA-256 of the model file; empty for the shipped one.
    defectKind - Class of the deviation vector that gamma scales.
    gamma - Factor of the deviation vector.
    proposals - Number of proposals.
    face - Whether the face is completed as well.
    defectChoices - The user's decisions on candidate defects, see candidates.writeChoices. Points at holes are a node
        of their own, see defectpoints.py.
    settingsOfInputs - Settings of the inputs that are not selected, see inputsettings.py.
    fragments - Whether loose pieces of bone are part of the skull.
    label - Label to use of a volume with several labels.
    clearance, thickness, thicknessMillimetres, underContour, smoothing, split - Options of the printable implant.
    holes, holeDiameter, holePitch, holeMargin - Perfusion holes.
    tabs, tabThickness, screwDiameter, screwBone, flange, flangeWidth, flangeThickness, flangeScrews - Fixation.
    drainDiameter, engraving, engravingHeight, engravingDepth - Holes at points, and engraved text.
    buildUpRadius, buildUpThickness - Where the outer surface is raised at points.
    insertable, insertionDepth - Whether the implant can be inserted along a straight line, and what is removed for it.
    exportFolder, exportSTL, exportOBJ, exportPLY, export3MF, exportHost, exportLabelmaps, exportReport - Files to
        export; exportHost is the skull surface.
    mould, mouldClearance, mouldWall, fitRing, ringWidth, template, templateWidth - Additional printed parts.
    showParts - Whether these are shown in 3D.
    planKind, planFolder, planFile - What is compared with the outcome: the present result, a result folder or a file.
    outcomeNode, outcomeSegmentID, outcomeFile, outcomeThreshold - The outcome, as the earlier bone, and the threshold
        of its CT in HU.
    prior - Source of the complete shape; see the command line's --prior.
    device - Device that the network runs on.
    newSegmentation - Whether the result is added to a new segmentation.
    """

    # None must be one of the types, so that Slicer's wrapper can represent that no node is selected.
    inputNode: Union[vtkMRMLSegmentationNode, vtkMRMLScalarVolumeNode, None]  # noqa: UP007 (what Slicer 5.10 reads)
    segmentID: str = ""
    boneThreshold: Annotated[float, WithinRange(-1000, 3000)] = USUAL_THRESHOLD_HU
    showThreshold: bool = False
    useBox: bool = False
    boxNode: Union[vtkMRMLMarkupsROINode, None]  # noqa: UP007
    referenceNode: Union[vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode, vtkMRMLModelNode, None]  # noqa: UP007
    referenceSegmentID: str = ""
    referenceFile: str = ""

    model: str = ""
    defectKind: Annotated[str, Choice(list(DEFECT_CLASSES))] = "Cranial vault"
    gamma: Annotated[float, WithinRange(0, 2)] = 0.0
    proposals: Annotated[int, WithinRange(1, MOST_PROPOSALS)] = 1
    face: bool = False
    defectChoices: str = ""
    settingsOfInputs: str = ""
    fragments: Annotated[str, Choice(list(FRAGMENT_TREATMENTS))] = "Keep"
    label: str = ""

    # The clearance that the guide for printing recommends. The implant segment fills the whole defect regardless.
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

    # Nothing is added to the implant until the user asks for it; points are nodes of their own, see defectpoints.py.
    tabs: Annotated[int, WithinRange(0, 12)] = 0
    tabThickness: Annotated[float, WithinRange(0.8, 3)] = 1.5
    screwDiameter: Annotated[float, WithinRange(1, 3)] = 1.6
    screwBone: Annotated[float, WithinRange(0, 15)] = 3.0
    flange: bool = False
    flangeWidth: Annotated[float, WithinRange(2, 25)] = 8.0
    flangeThickness: Annotated[float, WithinRange(0.8, 3)] = 1.0
    flangeScrews: Annotated[int, WithinRange(0, 24)] = 6
    drainDiameter: Annotated[float, WithinRange(0.8, 10)] = HOLE_DIAMETER_MM
    engraving: str = ""
    engravingHeight: Annotated[float, WithinRange(3, 15)] = 6.0
    engravingDepth: Annotated[float, WithinRange(0.2, 1)] = 0.5
    buildUpRadius: Annotated[float, WithinRange(5, 80)] = 25.0
    buildUpThickness: Annotated[float, WithinRange(0.5, 15)] = 3.0
    insertable: bool = False
    insertionDepth: Annotated[float, WithinRange(0.1, 20)] = INSERTABLE_MM

    exportFolder: str = ""
    exportSTL: bool = True
    exportOBJ: bool = False
    exportPLY: bool = False
    exportHost: bool = True
    exportLabelmaps: bool = True
    exportReport: bool = True
    export3MF: bool = False

    mould: bool = False
    mouldClearance: Annotated[float, WithinRange(0.05, 1)] = 0.2
    mouldWall: Annotated[float, WithinRange(3, 30)] = 5.0
    fitRing: bool = False
    ringWidth: Annotated[float, WithinRange(5, 40)] = BENCH_MM
    template: bool = False
    templateWidth: Annotated[float, WithinRange(5, 40)] = BENCH_MM
    showParts: bool = False

    planKind: Annotated[str, Choice(list(PLAN_KINDS))] = PLAN_KINDS[0]
    planFolder: str = ""
    planFile: str = ""
    outcomeNode: Union[vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode, vtkMRMLModelNode, None]  # noqa: UP007
    outcomeSegmentID: str = ""
    outcomeFile: str = ""
    outcomeThreshold: Annotated[float, WithinRange(-1000, 3000)] = USUAL_THRESHOLD_HU

    prior: Annotated[str, Choice(list(PRIORS))] = PRIORS[0]
    device: Annotated[str, Choice(["auto", "cpu", "cuda"])] = "auto"
    newSegmentation: bool = False


def isVolume(node) -> bool:
    """Whether the input is a CT volume, and not a segmentation."""
    return node is not None and not node.IsA("vtkMRMLSegmentationNode")


def sourceOf(parameters: Union[SkullVAEParameterNode, None]) -> tuple:  # noqa: UP007
    """(input node, segment ID); the segment ID of a CT is "", whatever segment was selected before.

    (None, "") without parameters.
    """
    if parameters is None:
        return None, ""
    node = parameters.inputNode
    return node, "" if isVolume(node) else parameters.segmentID


def inputKey(inputNode, segmentID: str) -> tuple[str, str]:
    """(ID of the input node, segment ID), which identifies an input; the first is "" without an input."""
    return ("" if inputNode is None else inputNode.GetID()), segmentID


def runSettings(
    parameters: SkullVAEParameterNode, roi=None, modelPath=None, at=(), notAt=(), points=NO_POINTS, reference=None
) -> RunSettings:
    """The settings of a run with these parameters.

    roi: numbers in the input's own coordinates, see roi.roiArgument, or None; modelPath: model file, None for the
    shipped one; at, notAt: points in the input's own coordinates at holes that are defects, and that are not; points:
    those of the printable implant; reference: the patient's earlier bone, None for none.
    """
    volume = isVolume(parameters.inputNode)
    chosen = volume and parameters.boneThreshold != USUAL_THRESHOLD_HU
    return RunSettings(
        thresholdHU=parameters.boneThreshold if chosen else None,
        roi=roi,
        prior=parameters.prior,
        defect=DEFECT_CLASSES[parameters.defectKind],
        gamma=parameters.gamma if parameters.gamma > 0 or parameters.prior == "dev" else None,
        proposals=parameters.proposals,
        face=parameters.face,
        device=parameters.device,
        model=modelPath,
        at=tuple(at),
        notAt=tuple(notAt),
        fragments=FRAGMENT_TREATMENTS[parameters.fragments],
        label=parameters.label.strip() if volume else "",
        reference=reference,
        **implantSettings(parameters, points),
    )


def implantSettings(parameters: SkullVAEParameterNode, points: ImplantPoints = NO_POINTS) -> dict:
    """The settings of the printable implant, as arguments of RunSettings."""
    thickness = THICKNESSES[parameters.thickness]
    hole = (parameters.holeDiameter, parameters.holePitch, parameters.holeMargin)
    settings = {
        "clearance": parameters.clearance,
        "thickness": thickness if thickness == "patient" else f"{thickness}:{parameters.thicknessMillimetres:g}",
        "underContour": parameters.underContour,
        "smooth": parameters.smoothing,
        "holes": _listed(*hole) if parameters.holes else None,
        # Values below 20 mm mean one piece; the library does not accept them.
        "split": parameters.split if parameters.split >= 20 else None,
    }
    # Of what is not added, the settings are left out, so that changing them does not make the implant anew.
    tabs = parameters.tabs > 0 or bool(points.tabs)
    if tabs:
        settings["tabs"] = _listed(parameters.tabs, parameters.tabThickness)
        settings["tabAt"] = points.tabs
    if parameters.flange:
        settings["flange"] = _listed(parameters.flangeWidth, parameters.flangeThickness, parameters.flangeScrews)
    if tabs or (parameters.flange and parameters.flangeScrews):
        settings["screws"] = _listed(parameters.screwDiameter, parameters.screwBone)
    if points.drains:
        settings["holeAt"] = tuple((*point, parameters.drainDiameter) for point in points.drains)
    if parameters.engraving.strip():
        settings["engrave"] = parameters.engraving.strip()
        settings["engraveSize"] = _listed(parameters.engravingHeight, parameters.engravingDepth)
    if points.buildUps:
        raised = (parameters.buildUpRadius, parameters.buildUpThickness)
        settings["buildUp"] = tuple((*point, *raised) for point in points.buildUps)
    if parameters.insertable:
        settings["insertable"] = parameters.insertionDepth
    return settings


def partSettings(parameters: SkullVAEParameterNode) -> dict:
    """The additional parts that are selected, as the value of a "tooling" request; empty for none."""
    settings: dict = {}
    if parameters.mould:
        settings |= {"mould": True, "mould_clearance": parameters.mouldClearance, "mould_wall": parameters.mouldWall}
    if parameters.fitRing:
        settings["ring"] = parameters.ringWidth
    if parameters.template:
        settings["template"] = parameters.templateWidth
    return settings


def _listed(*numbers: float) -> str:
    return ",".join(f"{number:g}" for number in numbers)
