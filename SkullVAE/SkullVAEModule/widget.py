"""The panel: binds its parts to the parameters, starts and follows a run, says what is missing and what went wrong."""

from __future__ import annotations

import contextlib
import logging

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from SkullVAELib.core.errors import SkullVAEError

from .advancedsection import AdvancedSection
from .completion import CompletionOptions
from .exportsection import ExportSection
from .focus import showImplant
from .inputsection import InputSection, firstInput
from .installation import ensurePackages
from .logic import SkullVAELogic
from .parameters import SkullVAEParameterNode, completionOptions, partOptions
from .resultsection import ResultSection

_POLL_MS = 100
# A slider that moves asks for a new shape when it rests this long.
_REST_MS = 150


class SkullVAEWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel of the module."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: SkullVAELogic | None = None
        self._parameterNode: SkullVAEParameterNode | None = None
        self._parameterNodeGuiTag = None
        self._timer = None
        self._restTimer = None
        # What the result on view was made with: what differs from it is asked for anew.
        self._shown: tuple | None = None
        self._runGamma = 0.0
        self._prior = "auto"

    def setup(self) -> None:
        """Build the panel; called once, when the module is first shown."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/SkullVAE.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)

        self.logic = SkullVAELogic()
        self.inputSection = InputSection(self.ui)
        self.resultSection = ResultSection(self.ui, self.logic, self._onProposal)
        self.exportSection = ExportSection(self.ui, self.logic, self._follow, self._showStatus, self._appendLog)
        self.advancedSection = AdvancedSection(self.ui, self.logic, self._follow, self._appendLog)
        self._timer = self._newTimer(_POLL_MS, self.onPoll)
        self._restTimer = self._newTimer(_REST_MS, self.onRest)
        self._restTimer.setSingleShot(True)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.ui.completeButton.connect("clicked(bool)", self.onCompleteButton)
        self.ui.cancelButton.connect("clicked(bool)", self.onCancelButton)
        self.ui.removeResultButton.connect("clicked(bool)", self.onRemoveResultButton)
        self.ui.exportButton.connect("clicked(bool)", self.onExportButton)
        self.ui.addModelButton.connect("clicked(bool)", self.onAddModelButton)
        self.ui.removeModelButton.connect("clicked(bool)", self.onRemoveModelButton)
        self.ui.checkInstallationButton.connect("clicked(bool)", self.onCheckInstallationButton)
        self._showRunning(False)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the module is closed or reloaded, and when Slicer quits."""
        self._stop()
        if self.logic is not None:
            self.logic.closeSession()
            self.setParameterNode(None)
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
        self.logic.closeSession()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event) -> None:
        """Make new parameters when the panel is on view."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Take the scene's parameters, with the first input there is when none is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        if self._parameterNode.inputNode is None:
            node = firstInput()
            if node is not None:
                self._parameterNode.inputNode = node

    def setParameterNode(self, parameterNode: SkullVAEParameterNode | None) -> None:
        """Bind the widgets to these parameters, or to none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersModified)
        self._parameterNode = parameterNode
        self._parameterNodeGuiTag = None
        self._shown = None
        for section in (self.inputSection, self.exportSection, self.advancedSection):
            section.setParameterNode(parameterNode)
        if parameterNode is not None:
            # The .ui file names each widget's parameter in the dynamic property "SlicerParameterName".
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersModified)
            self.advancedSection.update()
            self._prior = parameterNode.prior
            self._onParametersModified()

    # ------------------------------------------------------------------ what the user does

    def onCompleteButton(self, checked: bool = False) -> None:
        """Start a run."""
        parameters = self._parameterNode
        self.ui.logTextEdit.clear()
        # An installation lets clicks through.
        self.ui.completeButton.enabled = False
        with self._errorsShown(_("The skull could not be completed.")):
            try:
                if not self._ensurePackages():
                    return
                self._stop()
                # The preview has done its work, and would lie over the result.
                parameters.showThreshold = False
                self._shown, self._runGamma = self._wishes(), parameters.gamma
                self.logic.start(
                    parameters.inputNode,
                    parameters.segmentID,
                    completionOptions(parameters, self.inputSection.box(), self.advancedSection.modelPath()),
                    parameters.newSegmentation,
                )
                self._showStatus(_("Starting..."))
                self._follow()
            finally:
                self._showRunning(self.logic.running)

    def onCancelButton(self, checked: bool = False) -> None:
        """End the run or the export; the scene stays as it is."""
        if self.logic.running or self.exportSection.running:
            self._stop()
            self._showStatus(_("Cancelled. The scene is as it was."))

    def onRemoveResultButton(self, checked: bool = False) -> None:
        """Take away what was added for this input."""
        with self._errorsShown(_("The result could not be removed.")):
            self.logic.removeResult(self._parameterNode.inputNode, self._parameterNode.segmentID)
            self._showStatus(_("The result was removed."))
            self._onParametersModified()

    def onExportButton(self, checked: bool = False) -> None:
        """Start an export."""
        with self._errorsShown(_("The result could not be exported.")):
            try:
                self.exportSection.start()
            finally:
                self._showRunning(self.exportSection.running)

    def onAddModelButton(self, checked: bool = False) -> None:
        """Add a model from a file."""
        with self._errorsShown(_("The model could not be added.")):
            if self.advancedSection.addModel():
                self.advancedSection.update()

    def onRemoveModelButton(self, checked: bool = False) -> None:
        """Remove the chosen model."""
        with self._errorsShown(_("The model could not be removed.")):
            if self.advancedSection.removeModel():
                self.advancedSection.update()

    def onCheckInstallationButton(self, checked: bool = False) -> None:
        """List what is installed."""
        with self._errorsShown(_("The installation could not be checked.")):
            self.advancedSection.startCheck()

    # ------------------------------------------------------------------ what time brings

    def onPoll(self) -> None:
        """Follow what is at work; called by the timer."""
        with self._errorsShown(_("The skull could not be completed."), self._stop):
            if self.logic.running:
                if self.logic.poll(self._appendLog):
                    self._showProgress()
                else:
                    self._showResult()
            elif self.logic.pollAnswers(self._appendLog):
                self._onParametersModified()
            exporting = self.exportSection.running
            if exporting and not self.exportSection.poll():
                self._showRunning(False)
            checking = self.advancedSection.poll()
            if not (self.logic.running or self.logic.answering or self.exportSection.running or checking):
                self._timer.stop()
                self._onParametersModified()

    def onRest(self) -> None:
        """A slider has come to rest: ask for what differs from what is shown; called by the timer."""
        wishes = self._wishes()
        if self._shown is None or not self.logic.live or self.logic.running or wishes == self._shown:
            return
        (gamma, part), (shownGamma, shownPart) = wishes, self._shown
        self._shown = wishes
        if gamma != shownGamma:
            self.logic.requestGamma(gamma)
        if part != shownPart:
            self.logic.requestPart(part)
        self._follow()

    def _onProposal(self) -> None:
        """Another proposal was asked for: it comes with the gamma of the run."""
        self._shown = (self._runGamma, self._shown[1] if self._shown else self._wishes()[1])
        self._parameterNode.gamma = self._runGamma
        self._follow()

    def _showProgress(self) -> None:
        self.ui.progressBar.value = round(100 * self.logic.fraction)
        if self.logic.stage:
            text = self.logic.stage.capitalize()
            left = self.logic.secondsLeft
            if left is not None:
                text += _(", about {seconds:.0f} s left").format(seconds=max(1.0, left))
            self._showStatus(text)

    def _showResult(self) -> None:
        if self.logic.added is None:
            self._showStatus(_("No defect was found: nothing was added. If a tool closed the hole, try the CT."))
        else:
            name = self.logic.added.segmentationNode.GetName()
            text = _("Done: the completed skull and the implant are in '{name}'.").format(name=name)
            self._showStatus(" ".join(filter(None, [text, self.logic.notice])))
        self._showRunning(False)
        if self.logic.added is not None:
            showImplant(self.logic.added)

    # ------------------------------------------------------------------ what the panel shows

    def _onParametersModified(self, caller=None, event=None) -> None:
        parameters = self._parameterNode
        if parameters is None:
            return
        if parameters.prior == "dev" != self._prior and parameters.gamma == 0:
            # Chosen just now: without a move along it, it would only reconstruct the defect.
            parameters.gamma = 1.0
        self._prior = parameters.prior
        busy = self._busy
        self.inputSection.update()
        self.ui.thicknessSpinBox.enabled = parameters.thickness != "Patient's own"
        for widget in (
            self.ui.holesLabel, self.ui.holeDiameterSpinBox, self.ui.holePitchSpinBox, self.ui.holeMarginSpinBox
        ):  # fmt: skip
            widget.visible = parameters.holes
        self.ui.removeModelButton.enabled = parameters.model != ""
        missing = self.inputSection.missing() or self.advancedSection.missing()
        self.ui.completeButton.enabled = not missing and not busy
        self.ui.completeButton.toolTip = missing or _("Complete the skull and design the implant")
        if not busy:
            self.resultSection.update(parameters.inputNode, parameters.segmentID)
        self.exportSection.update(self.resultSection.present, busy)
        if self.logic.live and not self.logic.running:
            self._restTimer.start()

    @property
    def _busy(self) -> bool:
        return self.logic.running or self.exportSection.running

    def _wishes(self) -> tuple:
        return self._parameterNode.gamma, CompletionOptions(**partOptions(self._parameterNode))

    def _ensurePackages(self) -> bool:
        if ensurePackages(wheelFolder=self.ui.wheelFolderPathLineEdit.currentPath or None):
            return True
        self._showStatus(_("Nothing was installed, so nothing was done."))
        return False

    def _follow(self) -> None:
        self._timer.start()
        # What is not there yet cannot be exported.
        self.exportSection.update(self.resultSection.present, self._busy)

    def _stop(self) -> None:
        """End what is at work, but keep a result and its session."""
        if self.logic is None:
            return
        self._timer.stop()
        self._restTimer.stop()
        self.logic.cancel()
        self.exportSection.cancel()
        self.advancedSection.cancel()
        self._showRunning(False)

    def _showRunning(self, running: bool) -> None:
        for section in (
            self.ui.inputCollapsibleButton, self.ui.completionCollapsibleButton, self.ui.implantCollapsibleButton,
            self.ui.resultCollapsibleButton, self.ui.exportCollapsibleButton, self.ui.advancedCollapsibleButton,
        ):  # fmt: skip
            section.enabled = not running
        self.ui.cancelButton.enabled = running
        self.ui.progressBar.visible = running
        self.ui.progressBar.value = 0
        self._onParametersModified()

    def _showStatus(self, text: str) -> None:
        self.ui.statusLabel.text = text

    def _appendLog(self, lines: list[str] | str) -> None:
        # In one call: one call a line would hold up the panel when the child is talkative.
        text = lines if isinstance(lines, str) else "\n".join(lines)
        if text:
            self.ui.logTextEdit.appendPlainText(text)

    @contextlib.contextmanager
    def _errorsShown(self, title: str, onError=lambda: None):
        """Show an error of the library in the status line, and any other as Slicer does, in a dialog.

        onError: called first, to end what would raise it again and again.
        """
        try:
            yield
        except SkullVAEError as error:
            onError()
            logging.error(str(error))
            self._showStatus(str(error))
        except Exception:
            onError()
            with slicer.util.tryWithErrorDisplay(title):
                raise

    def _newTimer(self, milliseconds: int, onTimeout):
        timer = qt.QTimer(self.parent)
        timer.setInterval(milliseconds)
        timer.connect("timeout()", onTimeout)
        return timer
