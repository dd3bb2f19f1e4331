"""The section "Input" of the panel: input node, bone threshold and ROI."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from SkullVAELib.core.errors import SkullVAEError

from .bonefile import BoneFile, ReferenceSelector
from .parameters import SkullVAEParameterNode, isVolume, sourceOf
from .roi import headROI, roiArgument
from .segments import ROLE_TAG, isMade, segmentTag
from .thresholdpreview import ThresholdPreview

# Classes of the input selector in the .ui file; the first is preferred.
_INPUT_CLASSES = ("vtkMRMLSegmentationNode", "vtkMRMLScalarVolumeNode")


class InputSection:
    """Shows the parameters of the input in the widgets, and threshold and ROI in the views.

    showStatus: shows a line to the user.
    """

    def __init__(self, ui, showStatus) -> None:
        self.ui = ui
        self._showStatus = showStatus
        self._parameters: SkullVAEParameterNode | None = None
        self._preview: ThresholdPreview | None = None
        self._previewNode = None
        self._reference = ReferenceSelector(
            ui.referenceSelector, ui.referenceSegmentSelector, ui.referenceFilePathLineEdit
        )  # fmt: skip
        # Slicer's parameter nodes have no connector for a segment selector.
        ui.segmentSelector.connect("currentSegmentChanged(QString)", self.onSegmentChanged)

    def setParameterNode(self, parameters: SkullVAEParameterNode | None) -> None:
        """Use these parameters; None removes the preview from the views."""
        self._parameters = parameters
        self._reference.setParameterNode(parameters)
        if parameters is None:
            self._hidePreview()

    def onSegmentChanged(self, segmentID: str) -> None:
        """Called when the user, or a change of the segmentation, selects another segment."""
        if self._parameters is not None:
            self._parameters.segmentID = segmentID

    def update(self) -> None:
        """Show the parameters."""
        parameters = self._parameters
        node = parameters.inputNode
        volume = isVolume(node)
        self.ui.segmentSelector.visible = node is not None and not volume
        for widget in (self.ui.thresholdLabel, self.ui.thresholdSlider, self.ui.thresholdPreviewCheckBox):
            widget.visible = volume
        for widget in (self.ui.volumeLabelLabel, self.ui.volumeLabelLineEdit):
            widget.enabled = volume
        self._reference.update()
        self.ui.boxCheckBox.enabled = not self.missing()
        self.ui.newSegmentationCheckBox.enabled = node is not None and not volume
        self._showSegment(None if volume else node)
        if parameters.showThreshold and volume and not self.missing():
            self._showPreview(node, parameters.boneThreshold)
        else:
            self._hidePreview()
        self._showROI(parameters.useBox and not self.missing())

    def missing(self) -> str:
        """What the user has to do before a run can start; empty if nothing."""
        node = self._parameters.inputNode
        if node is None:
            return _("Choose a CT or a segmentation of the skull")
        if isVolume(node):
            return "" if node.GetImageData() else _("The selected volume is empty: choose another one")
        if node.GetSegmentation().GetNumberOfSegments() == 0:
            return _("The selected segmentation has no segments: segment the bone first")
        segment = node.GetSegmentation().GetSegment(self._parameters.segmentID)
        if segment is None:
            return _("Choose the segment of the skull")
        if segmentTag(segment, ROLE_TAG):
            return _("The selected segment is a result: choose the segment of the skull")
        return ""

    def missingReference(self) -> str:
        """What is wrong with the earlier bone that is selected; empty if nothing."""
        return self._reference.missing()

    def reference(self) -> BoneFile | None:
        """The earlier bone, in the input's own coordinates; None if none is selected. Raises SkullVAEError."""
        return self._reference.read(self._parameters.inputNode)

    def roi(self) -> tuple[float, ...] | None:
        """The ROI as numbers in the input's own coordinates, see `roi.roiArgument`; None without an ROI."""
        parameters = self._parameters
        if not parameters.useBox or parameters.boxNode is None:
            return None
        return roiArgument(parameters.boxNode, parameters.inputNode)

    def _showSegment(self, node) -> None:
        """Select the segment of the parameters; if it does not exist, use the one that is selected."""
        selector = self.ui.segmentSelector
        wasBlocked = selector.blockSignals(True)
        selector.setCurrentNode(node)
        if node is not None:
            segmentID = self._parameters.segmentID
            if segmentID and node.GetSegmentation().GetSegment(segmentID):
                selector.setCurrentSegmentID(segmentID)
            elif selector.currentSegmentID() != segmentID:
                self._parameters.segmentID = selector.currentSegmentID()
        selector.blockSignals(wasBlocked)

    def _showPreview(self, node, threshold: float) -> None:
        if self._previewNode is not node:
            self._hidePreview()
            self._preview, self._previewNode = ThresholdPreview(node), node
        self._preview.show(threshold)

    def _hidePreview(self) -> None:
        if self._preview is not None:
            self._preview.hide()
        self._preview = self._previewNode = None

    def _showROI(self, visible: bool) -> None:
        parameters = self._parameters
        if visible and parameters.boxNode is None:
            threshold = parameters.boneThreshold if isVolume(parameters.inputNode) else None
            try:
                parameters.boxNode = headROI(*sourceOf(parameters), threshold)
            except SkullVAEError as error:
                parameters.useBox = False
                self._showStatus(str(error))
                return
        if parameters.boxNode is not None and parameters.boxNode.GetDisplayNode() is not None:
            parameters.boxNode.GetDisplayNode().SetVisibility(visible)


def firstInput(nodes=None):
    """The input that is selected by default: the first segmentation among these nodes, otherwise the first volume.

    nodes: those of the scene if None. Segmentations that this module made, nodes that selectors hide, and volumes that
    are not loaded yet are left out.
    """
    for className in _INPUT_CLASSES:
        for node in slicer.util.getNodesByClass(className) if nodes is None else nodes:
            # As the selector: without derived classes, such as labelmaps and colour images.
            if node.GetClassName() != className or node.GetHideFromEditors() or isMade(node):
                continue
            if node.IsA("vtkMRMLSegmentationNode") or node.GetImageData() is not None:
                return node
    return None
