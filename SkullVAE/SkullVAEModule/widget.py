"""The panel: connects widgets and parameters, starts and polls runs, shows missing input and errors."""

from __future__ import annotations

import contextlib
import html
import logging

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from SkullVAELib.core.errors import SkullVAEError

from .additionssection import AdditionsSection
from .advancedsection import AdvancedSection
from .comparesection import CompareSection
from .completion import RunSettings
from .defectsection import DefectSection
from .editsection import EditSection
from .exportsection import ExportSection
from .guidance import Situation, defectsNote, implantNote, nextStep, replacementNote, stageText
from .inputsection import InputSection, firstInput
from .inputsettings import InputSettings
from .installation import ensurePackages
from .logic import SkullVAELogic
from .panelwords import inPanel
from .parameters import SkullVAEParameterNode, implantSettings, inputKey, isVolume, runSettings, sourceOf
from .partssection import PartsSection
from .resultsection import ResultSection
from .sections import Sections, sectionsToShow

_POLL_MS = 100
# A new shape is requested after a slider has not moved for this time.
_REST_MS = 150
# Labels are laid out again when their section has had time to grow with a longer text.
_LAYOUT_MS = 50
# Libraries are loaded for the next run after the panel has not changed for this time.
_PRELOAD_MS = 300


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
        self._sceneTimer = None
        self._preloadTimer = None
        self._layoutTimer = None
        # Labels that wrap, and their texts when they were laid out last.
        self._wrapping: list = []
        self._texts: list[str] = []
        # Settings of the result that is shown; settings that differ from these are requested.
        self._shown: tuple | None = None
        self._runGamma = 0.0
        self._runSource: tuple = (None, "")
        self._prior = "auto"
        # What the status line was about when it was set, and whether the present result was exported.
        self._statusAbout: tuple | None = None
        self._exported = False
        # Nodes that were added while no input was chosen, one of which may become the input.
        self._loaded: list = []
        # The segmentations that are observed.
        self._observed: list = []

    def setup(self) -> None:
        """Build the panel; called once, when the module is first opened."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/SkullVAE.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        widgets = vars(self.ui).values()
        self._spinBoxes = [each for each in widgets if each.className() in ("QSpinBox", "QDoubleSpinBox")]
        for box in self._spinBoxes:
            # Otherwise each key would change the parameter, and Slicer's wrapper would write the value back under the
            # cursor: "0.3" would become 0.0.
            box.keyboardTracking = False
        self._wrapping = [each for each in widgets if each.className() == "QLabel" and each.wordWrap]

        self.logic = SkullVAELogic()
        self.sections = Sections(self.ui, self._onSectionToggled)
        self.inputSection = InputSection(self.ui, self._showStatus)
        self.resultSection = ResultSection(self.ui, self.logic, self._onProposal, self._onParametersModified)
        self.defectSection = DefectSection(self.ui, self.logic, self._onDefectsChanged, self._showStatus)
        self.additionsSection = AdditionsSection(self.ui, self._onAdditionsChanged)
        self.editSection = EditSection(
            self.ui, self.logic, self._follow, self._onShapeRestored, self._showStatus
        )  # fmt: skip
        self.inputSettings = InputSettings()
        self.exportSection = ExportSection(self.ui, self.logic, self._follow, self._showStatus, self._appendLog)
        self.compareSection = CompareSection(self.ui, self.logic, self._follow, self._showStatus, self._appendLog)
        self.partsSection = PartsSection(self.ui, self.logic, self._follow, self._showStatus)
        self.advancedSection = AdvancedSection(self.ui, self.logic, self._follow, self._appendLog)
        self._timer = self._newTimer(_POLL_MS, self.onPoll)
        self._restTimer = self._newTimer(_REST_MS, self.onRest)
        self._restTimer.setSingleShot(True)
        self._sceneTimer = self._newTimer(0, self.onSceneChanged)
        self._sceneTimer.setSingleShot(True)
        self._preloadTimer = self._newTimer(_PRELOAD_MS, self.onPreload)
        self._preloadTimer.setSingleShot(True)
        self._layoutTimer = self._newTimer(_LAYOUT_MS, self.onTextsChanged)
        self._layoutTimer.setSingleShot(True)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartImportEvent, self.onSceneStartImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAddedEvent, self.onNodeAdded)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self.onNodeRemoved)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAddedEvent, self.onSceneChanging)
        self.ui.completeButton.connect("clicked(bool)", self.onCompleteButton)
        self.ui.cancelButton.connect("clicked(bool)", self.onCancelButton)
        self.ui.removeResultButton.connect("clicked(bool)", self.onRemoveResultButton)
        self.ui.exportButton.connect("clicked(bool)", self.onExportButton)
        self.ui.exportSelectedButton.connect("clicked(bool)", self.onExportSelectedButton)
        self.ui.compareButton.connect("clicked(bool)", self.onCompareButton)
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
            self.editSection.close()
        self.removeObservers()

    def enter(self) -> None:
        """Called each time the module is opened."""
        self.initializeParameterNode()

    def exit(self) -> None:
        """Called each time another module is opened; a run continues."""
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event) -> None:
        """Stop the run, because the scene with its input is about to be closed."""
        self._stop()
        self.logic.closeSession()
        self._shown = None
        self._showStatus("")
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event) -> None:
        """Make new parameters if the panel is open."""
        self.sections.forget()
        self.resultSection.viewMemory.forget()
        self._showStatus("")
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneStartImport(self, caller, event) -> None:
        """Leave the parameters, because the import overwrites them before the nodes that they refer to are there."""
        self.setParameterNode(None)

    def onSceneEndImport(self, caller, event) -> None:
        """Show what was loaded if the panel is open."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAdded(self, caller, event, node) -> None:
        """Show the threshold preview in the slice views of a new layout as well; note what may become the input."""
        if node.IsA("vtkMRMLSliceCompositeNode"):
            # When the new view is complete.
            qt.QTimer.singleShot(0, self.onViewAdded)
        mayBeInput = node.IsA("vtkMRMLSegmentationNode") or node.IsA("vtkMRMLScalarVolumeNode")
        if mayBeInput and self._parameterNode is not None and self._parameterNode.inputNode is None:
            self._loaded.append(node)

    def onViewAdded(self) -> None:
        """Called after a slice view was added."""
        if self._parameterNode is not None:
            self.inputSection.update()

    def onNodeRemoved(self, caller, event) -> None:
        """Fill other defects if the points at holes were removed, and show that a result was removed."""
        if self.defectSection.pointsAreGone() or self.additionsSection.pointsAreGone():
            self._onParametersModified()
        self.onSceneChanging(caller, event)

    def onSceneChanging(self, caller, event) -> None:
        """Update the panel once when nodes or segments were added, removed or renamed."""
        if self._parameterNode is not None:
            self._sceneTimer.start()

    def onSceneChanged(self) -> None:
        """Choose what was loaded, and update the panel; called after nodes or segments have changed."""
        self._chooseLoaded()
        self._update()

    def initializeParameterNode(self) -> None:
        """Use the parameters of the scene; without a selected input, select the first one."""
        self.setParameterNode(self.logic.getParameterNode())
        if self._parameterNode.inputNode is None:
            node = firstInput()
            if node is not None:
                self._parameterNode.inputNode = node

    def _chooseLoaded(self) -> None:
        """Use a CT or segmentation as input that was loaded while the panel is open and no input is chosen."""
        if self._parameterNode is None or self._parameterNode.inputNode is not None:
            self._loaded = []
            return
        self._loaded = [node for node in self._loaded if slicer.mrmlScene.IsNodePresent(node)]
        node = firstInput(self._loaded)
        if node is not None:
            self._loaded = []
            self._parameterNode.inputNode = node

    def setParameterNode(self, parameterNode: SkullVAEParameterNode | None) -> None:
        """Connect the widgets to these parameters; None disconnects them."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersModified)
        self._parameterNode = parameterNode
        self._parameterNodeGuiTag = None
        self._loaded = []
        if parameterNode is None:
            self.inputSettings.leave((self._shown, self._runGamma))
        for section in (
            self.inputSection, self.defectSection, self.additionsSection, self.editSection, self.exportSection,
            self.partsSection, self.compareSection, self.advancedSection,
        ):  # fmt: skip
            section.setParameterNode(parameterNode)
        self._observeSegmentations()
        if parameterNode is not None:
            # The dynamic property "SlicerParameterName" in the .ui file is the name of the widget's parameter.
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersModified)
            self.advancedSection.update()
            self._prior = parameterNode.prior
            self._onParametersModified()

    # ------------------------------------------------------------------ actions of the user

    def onCompleteButton(self, checked: bool = False) -> None:
        """Start a run."""
        parameters = self._parameterNode
        self._takeTyped()
        self.ui.logTextEdit.clear()
        # Events are processed during an installation, so the button must be disabled.
        self.ui.completeButton.enabled = False
        with self._errorsShown(_("The skull could not be completed.")):
            try:
                if not self._ensurePackages():
                    return
                self._stop()
                # The preview would cover the result.
                parameters.showThreshold = False
                self._shown, self._runGamma = self._settings(), parameters.gamma
                self._runSource = sourceOf(parameters)
                self._exported = False
                roi, model = self.inputSection.roi(), self.advancedSection.modelPath()
                points, reference = self.additionsSection.points, self.inputSection.reference()
                self.logic.start(
                    *sourceOf(parameters),
                    runSettings(parameters, roi, model, *self.defectSection.forRun(), points, reference),
                    parameters.newSegmentation,
                )
                self.defectSection.onRunStarted()
                self._showStatus(_("Starting..."))
                self._follow()
            finally:
                self._showRunning(self.logic.running)

    def onCancelButton(self, checked: bool = False) -> None:
        """Stop the run or the export; the scene is not changed."""
        if self._busy:
            self._stop()
            self._showStatus(_("Cancelled. The scene was not changed."))

    def onRemoveResultButton(self, checked: bool = False) -> None:
        """Remove everything that was added for this input."""
        with self._errorsShown(_("The result could not be removed.")):
            self.logic.removeResult(*sourceOf(self._parameterNode))
            self.defectSection.forget()
            self.resultSection.onRemoved()
            self._showStatus(_("The result was removed."))
            self._onParametersModified()

    def onExportButton(self, checked: bool = False) -> None:
        """Start an export."""
        self._export(None)

    def onExportSelectedButton(self, checked: bool = False) -> None:
        """Start an export of the implants that are checked in the table of the filled defects."""
        self._export(self.resultSection.implantTable.checked)

    def _export(self, defects: list[int] | None) -> None:
        with self._errorsShown(_("The result could not be exported.")):
            try:
                self._exported = False
                self._takeTyped()
                # Requests what has changed just before, for which the export then waits.
                self.onRest()
                self.exportSection.start(defects)
            finally:
                self._showRunning(self.exportSection.running)

    def onCompareButton(self, checked: bool = False) -> None:
        """Compare plan and outcome."""
        with self._errorsShown(_("Plan and outcome could not be compared.")):
            try:
                self._takeTyped()
                if self._ensurePackages():
                    self.compareSection.start()
            finally:
                self._showRunning(self.compareSection.running)

    def onAddModelButton(self, checked: bool = False) -> None:
        """Add a model from a file."""
        with self._errorsShown(_("The model could not be added.")):
            added = self.advancedSection.addModel()
            if added:
                self.advancedSection.update()
                self._showStatus(added)

    def onRemoveModelButton(self, checked: bool = False) -> None:
        """Remove the selected model."""
        with self._errorsShown(_("The model could not be removed.")):
            if self.advancedSection.removeModel():
                self.advancedSection.update()

    def onCheckInstallationButton(self, checked: bool = False) -> None:
        """Check the installation."""
        with self._errorsShown(_("The installation could not be checked.")):
            self.advancedSection.startCheck()

    # ------------------------------------------------------------------ timers

    def onPoll(self) -> None:
        """Poll everything that is in progress; called by the timer."""
        with self._errorsShown(_("The skull could not be completed."), self._stop):
            if self.logic.running:
                if self.logic.poll(self._appendLog):
                    self._showProgress()
                else:
                    self._showResult()
            elif self._pollResponses():
                self._exported = False
                self._onParametersModified()
            exporting = self.exportSection.running
            if exporting and not self.exportSection.poll():
                self._exported = True
                self._showRunning(False)
            comparing = self.compareSection.running
            if comparing and not self.compareSection.poll():
                self._showRunning(False)
            checking = self.advancedSection.poll()
            if not (self._busy or self.logic.responsePending or checking):
                self._timer.stop()
                self._onParametersModified()

    def onRest(self) -> None:
        """Request the settings that differ from those of the result; called when a slider has stopped moving."""
        if self._parameterNode is None or self.logic.running:
            return
        if self.defectSection.request():
            self._follow()
        settings = self._settings()
        ours = self.logic.live and self.logic.isOf(*sourceOf(self._parameterNode))
        if self._shown is None or not ours or settings == self._shown:
            return
        (gamma, implant), (shownGamma, shownImplant) = settings, self._shown
        self._shown = settings
        if gamma != shownGamma:
            self.logic.requestGamma(gamma)
        if implant != shownImplant:
            self.logic.requestImplant(implant)
        self._follow()

    def onTextsChanged(self) -> None:
        """Give labels the height of their texts: Qt's form layouts keep the former one until another change."""
        for label in self._wrapping:
            label.updateGeometry()

    def onPreload(self) -> None:
        """Load what the next run needs; called when the panel with an input has not changed for a moment."""
        if self._parameterNode is not None and not (self.inputSection.missing() or self.advancedSection.missing()):
            device, model = self._parameterNode.device, self.advancedSection.modelPath()
            self.logic.preload(RunSettings(device=device, model=model))

    def _onProposal(self) -> None:
        """Called when another proposal was requested; proposals have the gamma of the run."""
        self._shown = (self._runGamma, self._shown[1] if self._shown else self._settings()[1])
        self._parameterNode.gamma = self._runGamma
        self._follow()

    def _onShapeRestored(self, shape: dict) -> None:
        """Set gamma, proposal and defects to those of a shape that undo of the scene has shown again."""
        proposal, present = shape.get("proposal") or 1, self.logic.report.get("proposal") or 1
        if proposal != present and self.logic.requestProposal(proposal):
            self._onProposal()
        gamma = shape.get("gamma")
        self._parameterNode.gamma = self._runGamma if gamma is None else gamma
        self.defectSection.choose(shape.get("candidates") or [])
        self.onRest()

    def _pollResponses(self) -> bool:
        """Apply the responses that have arrived; whether anything has changed."""
        try:
            return self.logic.pollResponses(self._appendLog)
        finally:
            self.defectSection.onResponses()
            self.editSection.onResponses()
            self.partsSection.onResponses()

    def _showProgress(self) -> None:
        # Until a fraction is known the bar moves by itself: the input is written, or libraries are loaded.
        self.ui.progressBar.maximum = 100 if self.logic.fraction > 0 else 0
        self.ui.progressBar.value = round(100 * self.logic.fraction)
        if self.logic.stage:
            text = stageText(self.logic.stage)
            left = self.logic.secondsLeft
            if left is not None:
                text += _(", about {seconds:.0f} s left").format(seconds=max(1.0, left))
            self._showStatus(text)

    def _showResult(self) -> None:
        self.defectSection.onRunEnded()
        self.editSection.onRunEnded()
        if self.logic.added is None:
            text = _("No defect was found: nothing was added. If the segmentation has closed the hole, use the CT.")
            point = _("To fill a hole, click 'Point at a hole' under Defects, then click on the hole.")
            self._showStatus(" ".join(filter(None, [text, point if self.logic.waiting else ""])))
        else:
            text = _("Done: the completed skull and the implant were added to the scene.")
            self._showStatus(" ".join(filter(None, [text, self.logic.notice])))
        self._showRunning(False)
        if self.logic.added is not None:
            self.compareSection.onRunEnded(*self._runSource)
            self.resultSection.onAdded(self.logic.added, *self._runSource)

    # ------------------------------------------------------------------ display

    def _onParametersModified(self, caller=None, event=None) -> None:
        self._update()
        if self._parameterNode is not None and self.logic.waiting and not self.logic.running:
            self._restTimer.start()

    def _update(self) -> None:
        """Show parameters, result and next step."""
        parameters = self._parameterNode
        if parameters is None:
            return
        if parameters.prior == "dev" != self._prior and parameters.gamma == 0:
            # Just selected: with gamma 0 this prior would reconstruct the defective skull.
            parameters.gamma = 1.0
        self._prior = parameters.prior
        self._followInput()
        busy = self._busy
        self.inputSection.update()
        chosen = parameters.thickness != "Patient's own"
        self.ui.thicknessSpinBox.enabled = self.ui.thicknessSpinBox.visible = chosen
        self.ui.holesWidget.visible = parameters.holes
        self.ui.removeModelButton.enabled = parameters.model != ""
        missing = self._missing()
        self.ui.completeButton.enabled = not missing and not busy
        if not missing and not busy:
            self._preloadTimer.start()
        self.ui.completeButton.toolTip = missing or _("Complete the skull and design the implant.")
        self.defectSection.update(busy)
        if not busy:
            self.resultSection.update(*sourceOf(parameters))
        self.additionsSection.update(busy)
        self.editSection.update(busy)
        self.exportSection.update(self.resultSection.present, busy, self.resultSection.implantTable.checked)
        self.partsSection.update(self.resultSection.present, busy)
        self.compareSection.update(self.resultSection.present, busy)
        if not busy:
            self._showNotes()
        self._observeSegmentations()
        if not busy:
            if self._statusAbout != self._about():
                # What the line reports is no longer what the panel shows.
                self._exported = False
                self._showStatus("")
            undecided = self.defectSection.undecided
            self.sections.show(sectionsToShow(missing, self.resultSection.present, undecided))
        self._showNextStep()
        texts = [label.text for label in self._wrapping]
        if texts != self._texts:
            self._texts = texts
            self._layoutTimer.start()

    def _missing(self) -> str:
        """What the user has to do before a run can start; empty if nothing."""
        return self.inputSection.missing() or self.inputSection.missingReference() or self.advancedSection.missing()

    def _followInput(self) -> None:
        """Use the result, the process and the settings of the selected input."""
        node, segmentID = sourceOf(self._parameterNode)
        self.logic.select(node, segmentID)
        if node is not None and not self.logic.running:
            state = self._shown, self._runGamma
            key = inputKey(node, segmentID)
            self._shown, self._runGamma = self.inputSettings.switch(self._parameterNode, key, state, (None, 0.0))

    def _onDefectsChanged(self) -> None:
        # Only what depends on the defects, since this is called while a point is dragged.
        if self._parameterNode is None:
            return
        self.defectSection.update(self._busy)
        self._showNextStep()
        if self.logic.waiting and not self.logic.running:
            self._restTimer.start()

    def _onAdditionsChanged(self) -> None:
        # Only what depends on them, since this is called while a point is dragged.
        if self._parameterNode is None:
            return
        self.additionsSection.update(self._busy)
        self._showNextStep()
        if self.logic.waiting and not self.logic.running:
            self._restTimer.start()

    def _onSectionToggled(self, collapsed: bool) -> None:
        """Update the panel, since a section that opens shows all its widgets, also those hidden while it was closed."""
        if self._parameterNode is not None and not collapsed:
            self._sceneTimer.start()

    def _showNextStep(self) -> None:
        parameters = self._parameterNode
        step = nextStep(
            Situation(
                missing=self._missing(),
                loaded=parameters.inputNode is not None or firstInput() is not None,
                volume=isVolume(parameters.inputNode),
                preview=isVolume(parameters.inputNode) and parameters.showThreshold,
                running=self.logic.running,
                exporting=self.exportSection.running,
                comparing=self.compareSection.running,
                makingParts=self.logic.partsPending,
                updating=self.logic.responsePending and self.resultSection.present,
                placing=self.defectSection.placing,
                marking=self.additionsSection.step,
                nothingFilled=self.defectSection.nothingFilled,
                present=self.resultSection.present,
                rating=self.resultSection.rating,
                folder=self.exportSection.hasFolder,
                exported=self._exported,
            )
        )
        text = _("Next: {step}").format(step=html.escape(step))
        self.ui.nextLabel.text = f"<b>{text}</b>"

    def _showNotes(self) -> None:
        """When changes apply, and what becomes of an edited implant."""
        present = self.resultSection.present
        ours = self.logic.isOf(*sourceOf(self._parameterNode))
        implant = implantNote(present, ours and self.logic.live)
        defects = defectsNote(present, ours and self.logic.waiting)
        for label, text in ((self.ui.implantNoteLabel, implant), (self.ui.defectsNoteLabel, defects)):
            label.text = f"<i>{html.escape(text)}</i>"
        text = replacementNote(*self.editSection.replaced(self.resultSection.added))
        self.ui.completeNoteLabel.text = text
        self.ui.completeNoteLabel.visible = bool(text)

    def _about(self) -> tuple:
        """What a status line is about: input, segment, and whether there is a result of them."""
        if self._parameterNode is None:
            return ()
        node, segmentID = sourceOf(self._parameterNode)
        return *inputKey(node, segmentID), self.logic.hasResult(node, segmentID)

    def _observeSegmentations(self) -> None:
        """Observe the segments of input and result, which may be removed or renamed outside the panel."""
        nodes = [] if self._parameterNode is None else [self._parameterNode.inputNode, self.resultSection.segmentation]
        wanted = []
        for node in nodes:
            if node is not None and node.IsA("vtkMRMLSegmentationNode") and node.GetSegmentation() not in wanted:
                wanted.append(node.GetSegmentation())
        if wanted == self._observed:
            return
        events = slicer.vtkSegmentation.SegmentRemoved, slicer.vtkSegmentation.SegmentModified
        for segmentation in self._observed:
            for event in events:
                self.removeObserver(segmentation, event, self.onSceneChanging)
        for segmentation in wanted:
            for event in events:
                self.addObserver(segmentation, event, self.onSceneChanging)
        self._observed = wanted

    @property
    def _busy(self) -> bool:
        return self.logic.running or self.exportSection.running or self.compareSection.running

    def _settings(self) -> tuple:
        implant = implantSettings(self._parameterNode, self.additionsSection.points)
        return self._parameterNode.gamma, RunSettings(**implant)

    def _takeTyped(self) -> None:
        """Use numbers and text that were typed but not left yet: a click on a button need not take the focus."""
        self.additionsSection.takeText()
        for box in self._spinBoxes:
            box.interpretText()

    def _ensurePackages(self) -> bool:
        if ensurePackages(wheelFolder=self.ui.wheelFolderPathLineEdit.currentPath or None):
            return True
        self._showStatus(_("The installation was declined, so the run was not started."))
        return False

    def _follow(self) -> None:
        self._timer.start()
        # Disables the export until the result is complete.
        checked = self.resultSection.implantTable.checked
        self.exportSection.update(self.resultSection.present, self._busy, checked)
        if self._parameterNode is not None:
            self._showNextStep()

    def _stop(self) -> None:
        """Stop everything that is in progress, but keep a result and its session."""
        if self.logic is None:
            return
        self._timer.stop()
        self._restTimer.stop()
        self._sceneTimer.stop()
        self._preloadTimer.stop()
        self._layoutTimer.stop()
        self.logic.cancel()
        self.exportSection.cancel()
        self.compareSection.cancel()
        self.advancedSection.cancel()
        self._showRunning(False)

    def _showRunning(self, running: bool) -> None:
        for section in (
            self.ui.inputCollapsibleButton, self.ui.defectsCollapsibleButton, self.ui.implantCollapsibleButton,
            self.ui.resultCollapsibleButton, self.ui.exportCollapsibleButton, self.ui.compareCollapsibleButton,
            self.ui.advancedCollapsibleButton,
        ):  # fmt: skip
            section.enabled = not running
        self.ui.cancelButton.enabled = running
        self.ui.progressBar.visible = running
        self.ui.progressBar.maximum, self.ui.progressBar.value = 100, 0
        self._onParametersModified()

    def _showStatus(self, text: str) -> None:
        self.ui.statusLabel.text = text
        self.ui.statusLabel.visible = bool(text)
        self._statusAbout = self._about()

    def _appendLog(self, lines: list[str] | str) -> None:
        # In one call, because one call per line would block the panel for a child with much output.
        text = lines if isinstance(lines, str) else "\n".join(lines)
        if text:
            self.ui.logTextEdit.appendPlainText(text)

    @contextlib.contextmanager
    def _errorsShown(self, title: str, onError=lambda: None):
        """Show a SkullVAEError in the status line, any other error in Slicer's dialog and its title in the status line.

        onError: called first, to stop whatever would raise the error repeatedly.
        """
        try:
            yield
        except SkullVAEError as error:
            onError()
            logging.error(str(error))
            self._showStatus(inPanel(str(error)))
        except Exception:
            onError()
            self._showStatus(title)
            with slicer.util.tryWithErrorDisplay(title):
                raise

    def _newTimer(self, milliseconds: int, onTimeout):
        timer = qt.QTimer(self.parent)
        timer.setInterval(milliseconds)
        timer.connect("timeout()", onTimeout)
        return timer
