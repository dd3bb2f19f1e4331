"""The section "Advanced" of the panel: list of models, and check of the installation."""

from __future__ import annotations

from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from .logic import SkullVAELogic
from .models import ModelEntry, ModelStore
from .parameters import SkullVAEParameterNode


class AdvancedSection:
    """Manages the list of models and runs the check of the installation.

    onStart: called when a check has started, so that the panel polls it; showText: shows text in the log.
    """

    def __init__(self, ui, logic: SkullVAELogic, onStart, showText) -> None:
        self.ui = ui
        self._logic = logic
        self._onStart = onStart
        self._showText = showText
        self._parameters: SkullVAEParameterNode | None = None
        self.models = ModelStore(_modelFolder())
        self._entries: list[ModelEntry] = []
        self._run = None
        self._report = ""
        ui.modelComboBox.connect("currentIndexChanged(int)", self.onModelChosen)
        ui.copyReportButton.connect("clicked(bool)", self.onCopyReport)

    def setParameterNode(self, parameters: SkullVAEParameterNode | None) -> None:
        """Use these parameters; None while there are none."""
        self._parameters = parameters

    def update(self) -> None:
        """Update the list of models and select the one of the parameters."""
        self._entries = self.models.list()
        combo = self.ui.modelComboBox
        wasBlocked = combo.blockSignals(True)
        combo.clear()
        combo.addItems([_label(entry) for entry in self._entries])
        chosen = self.entry()
        if chosen is not None:
            combo.currentIndex = self._entries.index(chosen)
        combo.blockSignals(wasBlocked)
        self.ui.removeModelButton.enabled = chosen is not None and not chosen.shipped
        self.ui.modelInfoLabel.text = "" if chosen is None else _information(chosen)

    def entry(self) -> ModelEntry | None:
        """The selected model; the shipped one if the selected file no longer exists."""
        wanted = self._parameters.model if self._parameters is not None else ""
        for entry in self._entries:
            if entry.sha256 == wanted or (not wanted and entry.shipped):
                return entry
        return next((entry for entry in self._entries if entry.shipped), None)

    def missing(self) -> str:
        """What the user has to do before a run can start; empty if nothing."""
        return "" if self.entry() is not None else _("No model is available: add one from a file under Advanced")

    def modelPath(self) -> Path | None:
        """The file of the selected model; None for the shipped one, which the library finds itself."""
        entry = self.entry()
        return None if entry is None or entry.shipped else entry.path

    def onModelChosen(self, index: int) -> None:
        """Called when the user selects another model."""
        if self._parameters is not None and 0 <= index < len(self._entries):
            entry = self._entries[index]
            self._parameters.model = "" if entry.shipped else entry.sha256

    def addModel(self) -> str:
        """Ask for a file, add a copy of it and select it; returns what was done, empty if the user cancels.

        Raises SkullVAEError.
        """
        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("Add a model"), "", _("Model files (*.safetensors)")
        )
        if not path:
            return ""
        # The library loads the file in a child process, which takes seconds.
        before = {entry.sha256 for entry in self.models.list()}
        entry = self.models.add(Path(path), onWait=slicer.app.processEvents)
        self._parameters.model = "" if entry.shipped else entry.sha256
        if entry.sha256 in before:
            return _("The model '{name}' is in the list already. It was selected.").format(name=entry.name)
        return _("The model '{name}' was added and selected.").format(name=entry.name)

    def removeModel(self) -> bool:
        """Remove the copy of the selected model after asking; False if the user cancels. Raises SkullVAEError."""
        entry = self.entry()
        question = _("Remove the model '{name}' from the list? The original file is not deleted.")
        if not slicer.util.confirmOkCancelDisplay(question.format(name=entry.name), _("SkullVAE")):
            return False
        self.models.remove(entry)
        self._parameters.model = ""
        return True

    def startCheck(self) -> None:
        """Start the check of the installation. Raises SkullVAEError."""
        self._run = self._logic.checkInstallation()
        self._onStart()

    def poll(self) -> bool:
        """Poll the check: True while it runs."""
        if self._run is None:
            return False
        self._run.poll()
        if self._run.running:
            return True
        self._report = self._run.text
        self._run = None
        self.ui.copyReportButton.enabled = True
        self.ui.logCollapsibleButton.collapsed = False
        self._showText(self._report)
        return False

    def cancel(self) -> None:
        """Stop the check."""
        if self._run is not None:
            self._run.cancel()
            self._run = None

    def onCopyReport(self, checked: bool = False) -> None:
        """Copy the last report to the clipboard."""
        qt.QApplication.clipboard().setText(self._report)


def _modelFolder() -> Path:
    """Beside the user's settings, where files are kept when Slicer is updated."""
    return Path(slicer.app.slicerUserSettingsFilePath).parent / "SkullVAE" / "Models"


def _label(entry: ModelEntry) -> str:
    return _("{name} (shipped)").format(name=entry.name) if entry.shipped else entry.name


def _information(entry: ModelEntry) -> str:
    text = _("{name}: {size:.1f} MB, SHA-256 {hash}...")
    return text.format(name=entry.name, size=entry.sizeMB, hash=entry.sha256[:16])
