"""The group "Additional parts" of the section "Export": mould, fit ring and template."""

from __future__ import annotations

import html

import qt
from slicer.i18n import tr as _

from .additionalparts import partRows, removeParts, showParts
from .logic import SkullVAELogic
from .panelwords import inPanel
from .parameters import SkullVAEParameterNode, partSettings, sourceOf
from .tables import fitColumns

_PART, _VOLUME, _SIZE, _CAST = range(4)


class PartsSection:
    """Requests additional parts of the present implant, and shows their figures and models.

    onStart: called when parts were requested, so that the panel polls for the response; showStatus: shows a line to the
    user.
    """

    def __init__(self, ui, logic: SkullVAELogic, onStart, showStatus) -> None:
        self.ui = ui
        self._logic = logic
        self._onStart = onStart
        self._showStatus = showStatus
        self._parameters: SkullVAEParameterNode | None = None
        # The parts that the rows of the table were made for.
        self._inTable = None
        self._requested = False
        fitColumns(ui.partsTable, narrow=(_VOLUME, _CAST), wide=(_PART, _SIZE))
        ui.makePartsButton.connect("clicked(bool)", self.onMake)

    def setParameterNode(self, parameters: SkullVAEParameterNode | None) -> None:
        """Use these parameters; None while there are none."""
        self._parameters = parameters

    def update(self, present: bool, busy: bool) -> None:
        """Show parameters and parts. present: whether there is a result; busy: whether a run is in progress."""
        parameters = self._parameters
        if parameters is None:
            return
        self.ui.mouldWidget.visible = parameters.mould
        self.ui.ringSpinBox.enabled, self.ui.templateSpinBox.enabled = parameters.fitRing, parameters.template
        parts = self._parts
        wanted = partSettings(parameters)
        missing = self._missing(present, busy, wanted)
        self.ui.makePartsButton.enabled = not missing
        self.ui.makePartsButton.toolTip = missing or _(
            "Make the selected parts for the present implant and list their volumes and sizes. Export does so, too."
        )
        self._fillTable(parts)
        remarks = [] if parts is None else [html.escape(inPanel(text)) for text in parts.warnings]
        if parts is not None and wanted != parts.value:
            remarks.insert(0, _("These parts have other settings than those selected now."))
        self.ui.partsLabel.text = "<br/>".join(remarks)
        self.ui.partsLabel.visible = bool(remarks)
        self._showModels(parts)

    def onMake(self, checked: bool = False) -> None:
        """Request the selected parts."""
        if self._logic.requestParts(partSettings(self._parameters)):
            self._requested = True
            self._showStatus(_("Making the additional parts..."))
            self._onStart()

    def onResponses(self) -> None:
        """Called after responses were applied, or have failed."""
        if self._requested and not self._logic.responsePending:
            self._requested = False
            parts = self._parts
            if parts is not None:
                self._showStatus(_("Done: additional parts: {count}.").format(count=len(partRows(parts))))

    @property
    def _parts(self):
        """The parts of the present implant of the current input; None if they were not made yet."""
        return self._logic.parts if self._logic.isOf(*sourceOf(self._parameters)) else None

    def _missing(self, present: bool, busy: bool, wanted: dict) -> str:
        parts = self._parts
        if not present:
            return _("Complete a skull first")
        if not wanted:
            return _("Select a part")
        if busy or self._logic.responsePending:
            return _("Wait until the implant is updated")
        if not self._logic.live:
            return _("The process of this result has ended: complete the skull again")
        if parts is not None and parts.value == wanted:
            return _("The selected parts are made")
        return ""

    def _fillTable(self, parts) -> None:
        table = self.ui.partsTable
        if parts is not self._inTable:
            self._inTable = parts
            rows = [] if parts is None else partRows(parts)
            table.setRowCount(len(rows))
            for number, row in enumerate(rows):
                for column, text in enumerate((row.name, row.volume, row.size, row.cast)):
                    item = qt.QTableWidgetItem(text)
                    item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
                    table.setItem(number, column, item)
            table.setColumnHidden(_CAST, not any(row.cast for row in rows))
        table.visible = table.rowCount > 0

    def _showModels(self, parts) -> None:
        source = sourceOf(self._parameters)
        if not self._parameters.showParts:
            removeParts(*source)
        elif parts is not None:
            # Those of a scene that was loaded are left as they are.
            added = self._logic.added
            showParts(parts, *source, 0 if added is None else added.folderItemID)
