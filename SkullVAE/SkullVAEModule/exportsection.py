"""The panel's export: into which folder, which files, and how far it has got."""

from __future__ import annotations

from pathlib import Path

from slicer.i18n import tr as _

from .logic import SkullVAELogic
from .parameters import SkullVAEParameterNode


class ExportSection:
    """Writes the result to files in a child process.

    onStart: called when an export has begun, so that the panel follows it; showStatus: shows a line to the user;
    onLog: takes the lines of the child process.
    """

    def __init__(self, ui, logic: SkullVAELogic, onStart, showStatus, onLog) -> None:
        self.ui = ui
        self._logic = logic
        self._onStart = onStart
        self._showStatus = showStatus
        self._onLog = onLog
        self._parameters: SkullVAEParameterNode | None = None
        self._run = None
        ui.exportFolderPathLineEdit.connect("currentPathChanged(QString)", self.onFolderChanged)

    @property
    def running(self) -> bool:
        """Whether an export is at work."""
        return self._run is not None

    def setParameterNode(self, parameters: SkullVAEParameterNode | None) -> None:
        """Show these parameters, or none."""
        self._parameters = parameters

    def onFolderChanged(self, path: str) -> None:
        """The user has chosen a folder."""
        if self._parameters is not None:
            self._parameters.exportFolder = path

    def update(self, present: bool, busy: bool) -> None:
        """Show what the parameters say; present: there is a result; busy: a run is at work."""
        parameters = self._parameters
        if parameters is None:
            return
        if self.ui.exportFolderPathLineEdit.currentPath != parameters.exportFolder:
            wasBlocked = self.ui.exportFolderPathLineEdit.blockSignals(True)
            self.ui.exportFolderPathLineEdit.currentPath = parameters.exportFolder
            self.ui.exportFolderPathLineEdit.blockSignals(wasBlocked)
        missing = self._missing(present, busy)
        self.ui.exportButton.enabled = not missing
        self.ui.exportButton.toolTip = missing or _("Write the chosen files there; nothing is overwritten")

    def start(self) -> None:
        """Begin. Raises SkullVAEError."""
        parameters = self._parameters
        self._run = self._logic.startExport(
            Path(parameters.exportFolder),
            formats=self._formats(),
            host=parameters.exportHost,
            labelmaps=parameters.exportLabelmaps,
            report=parameters.exportReport,
            inputNode=parameters.inputNode,
            segmentID=parameters.segmentID,
        )
        self._showStatus(_("Exporting..."))
        self._onStart()

    def poll(self) -> bool:
        """Follow the export: True while it goes on. Raises SkullVAEError when it failed."""
        if self._run is None:
            return False
        try:
            self._onLog(self._run.poll())
            if self._run.running:
                self.ui.progressBar.value = round(100 * self._run.fraction)
                return True
            result = self._run.result()
        except Exception:
            self.cancel()
            raise
        self._run = None
        text = _("{count} files are in {folder}.").format(count=len(result.files), folder=result.folder)
        self._showStatus(" ".join([text, *result.notes]))
        return False

    def cancel(self) -> None:
        """End the export; nothing half-written is left."""
        if self._run is not None:
            self._run.cancel()
            self._run = None

    def _formats(self) -> list[str]:
        parameters = self._parameters
        chosen = {"stl": parameters.exportSTL, "obj": parameters.exportOBJ, "ply": parameters.exportPLY}
        return [name for name, wanted in chosen.items() if wanted]

    def _missing(self, present: bool, busy: bool) -> str:
        parameters = self._parameters
        if not present:
            return _("Complete a skull first")
        if busy or self.running:
            return _("Wait for the end of the run")
        if self._logic.answering:
            return _("Wait until the part is made")
        if not parameters.exportFolder:
            return _("Choose a folder")
        if not Path(parameters.exportFolder).is_dir():
            return _("The folder does not exist: choose another one")
        if not (self._formats() or parameters.exportLabelmaps or parameters.exportReport):
            return _("Choose at least one kind of file")
        return ""
