"""The section "Compare with a later CT" of the panel: plan, outcome, and the figures of the comparison."""

from __future__ import annotations

from pathlib import Path

from slicer.i18n import tr as _

from .bonefile import OutcomeSelector
from .comparison import ComparisonRun, PlannedImplant, addComparison, comparisonReport, removeComparison
from .defectimplants import displayedModel
from .figures import comparisonTable
from .logic import SkullVAELogic
from .parameters import PLAN_KINDS, USUAL_THRESHOLD_HU, SkullVAEParameterNode, sourceOf

_RESULT, _FOLDER, _FILE = PLAN_KINDS


class CompareSection:
    """Starts a comparison of plan and outcome, polls it, and shows its result.

    onStart: called when a comparison has started, so that the panel polls it; showStatus: shows a line to the user;
    onLog: receives the log lines of the child process.
    """

    def __init__(self, ui, logic: SkullVAELogic, onStart, showStatus, onLog) -> None:
        self.ui = ui
        self._logic = logic
        self._onStart = onStart
        self._showStatus = showStatus
        self._onLog = onLog
        self._parameters: SkullVAEParameterNode | None = None
        self._run: ComparisonRun | None = None
        self._plan: PlannedImplant | None = None
        self._outcome = OutcomeSelector(
            ui.outcomeSelector, ui.outcomeSegmentSelector, ui.outcomeFilePathLineEdit
        )  # fmt: skip
        ui.planFolderPathLineEdit.connect("currentPathChanged(QString)", self.onFolder)
        ui.planFolderPathLineEdit.connect("validInputChanged(bool)", lambda valid: None if valid else self.onFolder(""))
        ui.planFilePathLineEdit.connect("currentPathChanged(QString)", self.onFile)
        ui.planFilePathLineEdit.connect("validInputChanged(bool)", lambda valid: None if valid else self.onFile(""))

    @property
    def running(self) -> bool:
        """Whether a comparison is in progress."""
        return self._run is not None

    def setParameterNode(self, parameters: SkullVAEParameterNode | None) -> None:
        """Use these parameters; None while there are none."""
        self._parameters = parameters
        self._outcome.setParameterNode(parameters)

    def onFolder(self, path: str) -> None:
        """Called when the user chooses the result folder of the plan."""
        if self._parameters is not None:
            self._parameters.planFolder = path

    def onFile(self, path: str) -> None:
        """Called when the user chooses the file of the plan."""
        if self._parameters is not None:
            self._parameters.planFile = path

    def update(self, present: bool, busy: bool) -> None:
        """Show the parameters and the comparison in the scene. present: whether there is a result; busy: whether a run
        is in progress."""
        parameters = self._parameters
        if parameters is None:
            return
        ui = self.ui
        for line, kind, path in (
            (ui.planFolderPathLineEdit, _FOLDER, parameters.planFolder),
            (ui.planFilePathLineEdit, _FILE, parameters.planFile),
        ):
            line.visible = parameters.planKind == kind
            if line.currentPath != path:
                wasBlocked = line.blockSignals(True)
                line.currentPath = path
                line.blockSignals(wasBlocked)
        self._outcome.update()
        ui.outcomeThresholdSpinBox.enabled = self._outcome.isImage
        missing = self._missing(present, busy)
        ui.compareButton.enabled = not missing
        ui.compareButton.toolTip = missing or _("Measure how the outcome differs from the plan.")
        ui.comparisonLabel.text = comparisonTable(comparisonReport())
        ui.comparisonLabel.visible = bool(ui.comparisonLabel.text)

    def start(self) -> None:
        """Start the comparison. Raises SkullVAEError."""
        parameters = self._parameters
        plan = self._readPlan()
        outcome = self._outcome.read(plan.node)
        threshold = parameters.outcomeThreshold if self._outcome.isImage else None
        if threshold == USUAL_THRESHOLD_HU:
            # That of the library, which then also detects labelmaps.
            threshold = None
        run = self._logic.comparison(plan, outcome, threshold)
        run.start()
        self._run, self._plan = run, plan
        self._showStatus(_("Comparing plan and outcome..."))
        self._onStart()

    def poll(self) -> bool:
        """Poll the comparison: True while it runs. Raises SkullVAEError if it failed."""
        if self._run is None:
            return False
        try:
            self._onLog(self._run.poll())
            if self._run.running:
                self.ui.progressBar.value = round(100 * self._run.fraction)
                return True
            report, mesh = self._run.result()
        except Exception:
            self.cancel()
            raise
        self._run = None
        addComparison(report, mesh, self._plan.node, self._plan.segmentID)
        if self._plan.node is not None:
            # It has the same surface.
            self._showImplant(self._plan.node, self._plan.segmentID, False)
        self._plan = None
        self._showStatus(_("Done: the plan, coloured by its distance to the outcome, was added to the scene."))
        return False

    def onRunEnded(self, inputNode, segmentID: str) -> None:
        """Called when another result was added for this input: a comparison of the former one is removed."""
        if removeComparison(inputNode, segmentID):
            self._showImplant(inputNode, segmentID, True)

    def cancel(self) -> None:
        """Stop the comparison; the scene is not changed."""
        if self._run is not None:
            self._run.cancel()
            self._run = self._plan = None

    def _readPlan(self) -> PlannedImplant:
        parameters = self._parameters
        if parameters.planKind == _RESULT:
            source = sourceOf(parameters)
            return PlannedImplant.ofResult(self._logic.resultOf(*source), *source)
        path = Path(parameters.planFolder if parameters.planKind == _FOLDER else parameters.planFile)
        # Absolute, since the process works in another folder.
        return PlannedImplant(path.name, path.absolute())

    def _showImplant(self, inputNode, segmentID: str, visible: bool) -> None:
        added = self._logic.resultOf(inputNode, segmentID)
        model = None if added is None else displayedModel(added.implantModelNode)
        if model is not None:
            model.SetDisplayVisibility(visible)

    def _missing(self, present: bool, busy: bool) -> str:
        parameters = self._parameters
        if busy or self.running:
            return _("Wait until the run has finished")
        if parameters.planKind == _RESULT:
            if not present:
                return _("Complete a skull first, or choose a folder or file as plan")
            if self._logic.responsePending:
                return _("Wait until the printable implant is updated")
        elif parameters.planKind == _FOLDER and not _exists(parameters.planFolder, Path.is_dir):
            return _("Choose the result folder of the plan")
        elif parameters.planKind == _FILE and not _exists(parameters.planFile, Path.is_file):
            return _("Choose the file of the planned implant")
        if not self._outcome.isSelected:
            return _("Choose the outcome: a later CT, a segmentation or a scan of the part")
        return self._outcome.missing()


def _exists(path: str, check) -> bool:
    return bool(path) and check(Path(path))
