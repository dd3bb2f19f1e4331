"""The section "Export" of the panel: folder, files and progress."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import qt
from slicer.i18n import tr as _

from SkullVAELib.implant.options import MESH_FORMATS

from .logic import SkullVAELogic
from .parameters import SkullVAEParameterNode, partSettings, sourceOf
from .results import editedText, figuresOf


def has3MF() -> bool:
    """Whether 3MF files can be written: lib3mf is not installed with the other packages."""
    return importlib.util.find_spec("lib3mf") is not None


def wrappable(path: Path | str) -> str:
    """A path that a label may break anywhere after a separator, and within names that are longer than a line.

    >>> wrappable("/a/bc").replace("\\u200b", "|")
    '/|a/|bc'
    """
    parts = re.split(r"(?<=[/\\])", str(path))
    return _BREAK.join(piece for part in parts for piece in re.findall(f".{{1,{_LONGEST}}}", part))


# A character without width that text may be broken at, and the longest name, in characters, that is not broken.
_BREAK, _LONGEST = "\u200b", 24


class ExportSection:
    """Starts an export and polls it.

    onStart: called when an export has started, so that the panel polls it; showStatus: shows a line to the user;
    onLog: receives the log lines of the child process.
    """

    def __init__(self, ui, logic: SkullVAELogic, onStart, showStatus, onLog) -> None:
        self.ui = ui
        self._logic = logic
        self._onStart = onStart
        self._showStatus = showStatus
        self._onLog = onLog
        self._parameters: SkullVAEParameterNode | None = None
        self._run = None
        # Folder of the last export, and what was edited by hand in the implant that is exported.
        self._folder: Path | None = None
        self._edited = ""
        ui.openFolderButton.connect("clicked(bool)", self.onOpenFolder)
        ui.exportFolderPathLineEdit.connect("currentPathChanged(QString)", self.onFolderChanged)
        # The other signal is not emitted when the line is cleared.
        ui.exportFolderPathLineEdit.connect("validInputChanged(bool)", self.onFolderValid)

    @property
    def running(self) -> bool:
        """Whether an export is in progress."""
        return self._run is not None

    @property
    def hasFolder(self) -> bool:
        """Whether a folder that exists is chosen."""
        folder = "" if self._parameters is None else self._parameters.exportFolder
        return bool(folder) and Path(folder).is_dir()

    def setParameterNode(self, parameters: SkullVAEParameterNode | None) -> None:
        """Use these parameters; None while there are none."""
        self._parameters = parameters

    def onFolderChanged(self, path: str) -> None:
        """Called when the user chooses a folder."""
        if self._parameters is not None:
            self._parameters.exportFolder = path

    def onFolderValid(self, valid: bool) -> None:
        """Called when the user clears the line of the folder, or types into the cleared line."""
        if not valid:
            self.onFolderChanged("")

    def onOpenFolder(self, checked: bool = False) -> None:
        """Show the folder of the last export in the file manager of the computer."""
        if not qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._folder))):
            self._showStatus(
                _("The folder could not be opened. It is {folder}.").format(folder=wrappable(self._folder))
            )

    def update(self, present: bool, busy: bool, checked: list[int] | None = None) -> None:
        """Show the parameters.

        present: whether there is a result; busy: whether a run is in progress; checked: numbers of the defects that are
        checked in the table of the result, None where there are not several.
        """
        parameters = self._parameters
        if parameters is None:
            return
        if self.ui.exportFolderPathLineEdit.currentPath != parameters.exportFolder:
            wasBlocked = self.ui.exportFolderPathLineEdit.blockSignals(True)
            self.ui.exportFolderPathLineEdit.currentPath = parameters.exportFolder
            self.ui.exportFolderPathLineEdit.blockSignals(wasBlocked)
        missing = self._missing(present, busy)
        self.ui.exportButton.enabled = not missing
        self.ui.exportButton.toolTip = missing or _(
            "Write the selected files to the folder; existing files are not overwritten"
        )
        self._update3MF()
        opened = self._folder is not None and self._folder.is_dir()
        self.ui.openFolderButton.enabled = opened
        self.ui.openFolderButton.toolTip = str(self._folder) if opened else _("Export the result first")
        self.ui.exportSelectedButton.visible = checked is not None
        if not missing and not checked:
            missing = _("Check a defect in the table of the result")
        self.ui.exportSelectedButton.enabled = not missing
        self.ui.exportSelectedButton.toolTip = missing or _(
            "Write only the implants that are checked in the table of the result: one mesh for each, and labelmaps"
        )

    def start(self, defects: list[int] | None = None) -> None:
        """Start the export; defects: only the implants of these. Raises SkullVAEError."""
        parameters = self._parameters
        node, segmentID = sourceOf(parameters)
        self._run = self._logic.startExport(
            Path(parameters.exportFolder),
            formats=self._formats(),
            skull=parameters.exportHost,
            labelmaps=parameters.exportLabelmaps,
            report=parameters.exportReport,
            inputNode=node,
            segmentID=segmentID,
            defects=defects,
            parts=partSettings(parameters) or None,
        )
        self._edited = editedText(figuresOf(self._logic.resultOf(node, segmentID)))
        self._showStatus(_("Exporting..."))
        self._onStart()

    def poll(self) -> bool:
        """Poll the export: True while it runs. Raises SkullVAEError if it failed."""
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
        self._folder = result.folder.absolute()
        text = _("Exported {count} files to {folder}.").format(count=len(result.files), folder=wrappable(self._folder))
        meshes = [path.name for path in result.files if path.suffix[1:] in MESH_FORMATS and "_implant" in path.stem]
        notes = list(result.notes)
        if meshes and self._edited in notes:
            # What was edited is listed under Implant, Edit by hand.
            notes.remove(self._edited)
            text += " " + _("The printable implant, edited by hand, is {name}.").format(name=wrappable(meshes[0]))
        elif meshes:
            text += " " + _("The printable implant is {name}.").format(name=wrappable(meshes[0]))
        self._showStatus(" ".join([text, *notes]))
        return False

    def cancel(self) -> None:
        """Stop the export; no incomplete files are left."""
        if self._run is not None:
            self._run.cancel()
            self._run = None

    def _update3MF(self) -> None:
        box, available = self.ui.export3MFCheckBox, has3MF()
        box.enabled = available
        box.toolTip = (
            _("Millimetres, LPS; each piece is an object with name and colour. For programs of 3D printers.")
            if available
            else _(
                "The Python package lib3mf is not installed. Enter slicer.util.pip_install('lib3mf') in the Python"
                " console of Slicer, then open this module again."
            )
        )

    def _formats(self) -> list[str]:
        parameters = self._parameters
        selected = {"stl": parameters.exportSTL, "obj": parameters.exportOBJ, "ply": parameters.exportPLY}
        selected["3mf"] = parameters.export3MF and has3MF()
        return [name for name in MESH_FORMATS if selected.get(name)]

    def _missing(self, present: bool, busy: bool) -> str:
        parameters = self._parameters
        if not present:
            return _("Complete a skull first")
        if busy or self.running:
            return _("Wait until the run has finished")
        if self._logic.responsePending:
            return _("Wait until the printable implant is updated")
        if not parameters.exportFolder:
            return _("Choose a folder")
        if not self.hasFolder:
            return _("The folder does not exist: choose another one")
        if not (self._formats() or parameters.exportLabelmaps or parameters.exportReport or partSettings(parameters)):
            return _("Select at least one kind of file")
        return ""
