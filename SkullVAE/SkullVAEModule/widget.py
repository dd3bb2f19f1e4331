"""The panel: shows the parameters, starts and follows a run, says what is missing and what went wrong."""

from __future__ import annotations

import logging

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from SkullVAELib.errors import SkullVAEError

from .dependencies import ensurePackages
from .logic import SkullVAELogic
from .parameters import SkullVAEParameterNode, completionOptions

_POLL_MS = 100


class SkullVAEWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel of the module."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: SkullVAELogic | None = None
        self._parameterNode: SkullVAEParameterNode | None = None
        self._parameterNodeGuiTag = None
        self._timer = None

    def setup(self) -> None:
        """Build the panel; called once, when the module is first shown."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/SkullVAE.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)

        self.logic = SkullVAELogic()
        self._timer = qt.QTimer(self.parent)
        self._timer.setInterval(_POLL_MS)
        self._timer.connect("timeout()", self.onPoll)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.ui.completeButton.connect("clicked(bool)", self.onCompleteButton)
        self.ui.cancelButton.connect("clicked(bool)", self.onCancelButton)
        # Slicer's parameter nodes have no connector for a segment selector.
        self.ui.segmentSelector.connect("currentSegmentChanged(QString)", self.onSegmentChanged)
        self._showRunning(False)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the module is closed or reloaded, and when Slicer quits."""
        self._stop()
        self.removeObservers()

    def enter(self) -> None:
        """Called each time the module is opened."""
        self.initializeParameterNode()

    def exit(self) -> None:
        """Called each time another module is opened; a run goes on."""
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event) -> None:
        """The input is about to disappear: end the run."""
        self._stop()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event) -> None:
        """Make new parameters when the panel is on view."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Take the scene's parameters, with the first input there is when none is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        if self._parameterNode.inputNode is None:
            for className in ("vtkMRMLSegmentationNode", "vtkMRMLScalarVolumeNode"):
                node = slicer.mrmlScene.GetFirstNodeByClass(className)
                if node is not None:
                    self._parameterNode.inputNode = node
                    break

    def setParameterNode(self, parameterNode: SkullVAEParameterNode | None) -> None:
        """Bind the widgets to these parameters, or to none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersModified)
        self._parameterNode = parameterNode
        self._parameterNodeGuiTag = None
        if parameterNode is not None:
            # The .ui file names each widget's parameter in the dynamic property "SlicerParameterName".
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersModified)
            self._onParametersModified()

    def onSegmentChanged(self, segmentID: str) -> None:
        """The user, or a change of the segmentation, has chosen another segment."""
        if self._parameterNode is not None:
            self._parameterNode.segmentID = segmentID

    def onCompleteButton(self, checked: bool = False) -> None:
        """Start a run."""
        parameters = self._parameterNode
        self.ui.logTextEdit.clear()
        # An installation lets clicks through.
        self.ui.completeButton.enabled = False
        with slicer.util.tryWithErrorDisplay(_("The skull could not be completed.")):
            try:
                if not ensurePackages():
                    self._showStatus(_("Nothing was installed, so nothing was done."))
                    return
                self.logic.start(
                    parameters.inputNode,
                    parameters.segmentID,
                    completionOptions(parameters),
                    parameters.newSegmentation,
                )
                self._showStatus(_("Starting..."))
                self._timer.start()
            except SkullVAEError as error:
                self._showError(error)
            finally:
                self._showRunning(self.logic.running)

    def onCancelButton(self, checked: bool = False) -> None:
        """End the run; the scene stays as it is."""
        if self.logic.running:
            self._stop()
            self._showStatus(_("Cancelled. The scene is as it was."))

    def onPoll(self) -> None:
        """Follow the run; called by the timer."""
        with slicer.util.tryWithErrorDisplay(_("The skull could not be completed.")):
            try:
                if self.logic.poll(self._appendLog):
                    self.ui.progressBar.value = round(100 * self.logic.fraction)
                    if self.logic.stage:
                        self._showStatus(self.logic.stage)
                    return
                if self.logic.added is None:
                    self._showStatus(
                        _("No defect was found: nothing was added. If a tool closed the hole, try the CT.")
                    )
                else:
                    name = self.logic.added.segmentationNode.GetName()
                    done = _("Done: the completed skull and the implant are in '{name}'.").format(name=name)
                    self._showStatus("\n".join([done, *self.logic.report.get("warnings", [])]))
            except SkullVAEError as error:
                self._stop()
                self._showError(error)
            except Exception:
                # The timer would raise it again and again.
                self._stop()
                raise
            self._stop()

    def _onParametersModified(self, caller=None, event=None) -> None:
        node = self._parameterNode.inputNode
        isSegmentation = node is not None and node.IsA("vtkMRMLSegmentationNode")
        self.ui.segmentSelector.visible = isSegmentation
        self.ui.thresholdLabel.visible = node is not None and not isSegmentation
        self.ui.thresholdSpinBox.visible = node is not None and not isSegmentation
        self.ui.newSegmentationCheckBox.enabled = isSegmentation
        self.ui.gammaSlider.enabled = self._parameterNode.prior == "dev"
        self._showSegment(node if isSegmentation else None)
        missing = self._whatIsMissing()
        self.ui.completeButton.enabled = not missing and not self.logic.running
        self.ui.completeButton.toolTip = missing or _("Complete the skull and design the implant")

    def _showSegment(self, node) -> None:
        """Let the selector show the parameters' segment, or take the selector's where that one does not exist."""
        selector = self.ui.segmentSelector
        wasBlocked = selector.blockSignals(True)
        selector.setCurrentNode(node)
        if node is not None:
            segmentID = self._parameterNode.segmentID
            if segmentID and node.GetSegmentation().GetSegment(segmentID):
                selector.setCurrentSegmentID(segmentID)
            elif selector.currentSegmentID() != segmentID:
                self._parameterNode.segmentID = selector.currentSegmentID()
        selector.blockSignals(wasBlocked)

    def _whatIsMissing(self) -> str:
        """What the user has to do before a run can start; empty when nothing."""
        node = self._parameterNode.inputNode
        if node is None:
            return _("Choose a segmentation or a CT volume")
        if not node.IsA("vtkMRMLSegmentationNode"):
            return "" if node.GetImageData() else _("The chosen volume is empty: choose another one")
        if node.GetSegmentation().GetNumberOfSegments() == 0:
            return _("The chosen segmentation has no segments: segment the bone first")
        if not node.GetSegmentation().GetSegment(self._parameterNode.segmentID):
            return _("Choose the segment of the skull")
        return ""

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        if self.logic is not None:
            self.logic.cancel()
            self._showRunning(False)

    def _showRunning(self, running: bool) -> None:
        self.ui.inputCollapsibleButton.enabled = not running
        self.ui.advancedCollapsibleButton.enabled = not running
        self.ui.cancelButton.enabled = running
        self.ui.progressBar.visible = running
        self.ui.progressBar.value = 0
        if self._parameterNode is not None:
            self._onParametersModified()

    def _showStatus(self, text: str) -> None:
        self.ui.statusLabel.text = text

    def _showError(self, error: SkullVAEError) -> None:
        logging.error(str(error))
        self._showStatus(str(error))

    def _appendLog(self, lines: list[str]) -> None:
        # In one call: one call a line would hold up the panel when the child is talkative.
        self.ui.logTextEdit.appendPlainText("\n".join(lines))
