"""The table of the filled defects in the section "Result" of the panel, where there are several."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from .defectimplants import centreOf, defectFigures, followScene, isDivisible, showDefects, shownDefects
from .figures import ratingColour, ratingText
from .focus import showPoint
from .panelwords import inPanel
from .results import AddedResult
from .tables import fitColumns

_SHOW, _VOLUME, _THICKNESS, _RATING = range(4)


class ImplantTable:
    """One row for the implant of each filled defect: its figures, and whether it is shown.

    onChange: called when the user has shown or hidden an implant; beforeMoving: called before the views are moved.
    """

    def __init__(self, ui, onChange, beforeMoving) -> None:
        self.ui = ui
        self._onChange = onChange
        self._beforeMoving = beforeMoving
        self._added: AddedResult | None = None
        self._report: dict = {}
        self._entries: list[dict] = []
        # The figures that the rows were made for.
        self._inTable: list[dict] = []
        fitColumns(ui.implantTable, narrow=(_SHOW, _VOLUME), wide=(_THICKNESS, _RATING))
        ui.implantTable.connect("cellChanged(int,int)", self.onCellChanged)
        ui.implantTable.connect("cellClicked(int,int)", self.onCellClicked)

    @property
    def checked(self) -> list[int] | None:
        """Numbers of the defects whose implants are shown; None where there are not several that can be told apart."""
        if not self._divisible:
            return None
        return sorted(shownDefects(self._added.implantModelNode, self._report))

    def update(self, added: AddedResult | None, report: dict) -> None:
        """Show the implants of a result; None without one."""
        self._added, self._report = added, report
        self._entries = [] if added is None else defectFigures(report)
        if added is not None:
            followScene(added.implantModelNode)
        table = self.ui.implantTable
        wasBlocked = table.blockSignals(True)
        if self._entries != self._inTable:
            self._makeRows()
        shown, divisible = set(self.checked or ()), self._divisible
        for row, entry in enumerate(self._entries):
            item = table.item(row, _SHOW)
            flags = qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable
            # Until the mesh of another shape has arrived, its implants cannot be told apart.
            item.setFlags(flags | qt.Qt.ItemIsEnabled if divisible else flags)
            item.setCheckState(qt.Qt.Checked if entry["defect"] in shown or not divisible else qt.Qt.Unchecked)
        table.visible = bool(self._entries)
        table.blockSignals(wasBlocked)

    def onCellChanged(self, row: int, column: int) -> None:
        """Show or hide the implant that the user has checked or unchecked."""
        if column != _SHOW or not self._divisible or not 0 <= row < len(self._entries):
            return
        number = self._entries[row]["defect"]
        numbers = shownDefects(self._added.implantModelNode, self._report) - {number}
        if self.ui.implantTable.item(row, _SHOW).checkState() == qt.Qt.Checked:
            numbers.add(number)
        showDefects(self._added.implantModelNode, self._report, numbers)
        self._onChange()

    def onCellClicked(self, row: int, column: int) -> None:
        """Centre the slice views and the crosshair on an implant."""
        if column == _SHOW or not self._divisible or not 0 <= row < len(self._entries):
            return
        model = self._added.implantModelNode
        world = [0.0, 0.0, 0.0]
        model.TransformPointToWorld(centreOf(model, self._report, self._entries[row]["defect"]).tolist(), world)
        self._beforeMoving()
        showPoint(world)

    @property
    def _divisible(self) -> bool:
        return bool(self._entries) and isDivisible(self._added.implantModelNode, self._report)

    def _makeRows(self) -> None:
        table = self.ui.implantTable
        table.setRowCount(len(self._entries))
        for row, entry in enumerate(self._entries):
            thickness = (entry.get("thickness_mm") or {}).get("mean")
            texts = (
                str(entry["defect"]),
                _("{volume:.1f} ml").format(volume=entry["volume_ml"]),
                "-" if thickness is None else _("{thickness:.1f} mm").format(thickness=thickness),
                ratingText(entry["rating"]),
            )
            remarks = [inPanel(text) for text in entry.get("warnings") or ()]
            if entry.get("candidate") is not None:
                remarks.insert(0, _("Number {number} in the table of Defects.").format(number=entry["candidate"]))
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip("\n".join(remarks))
                item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
                if column == _RATING:
                    item.setForeground(qt.QBrush(qt.QColor(ratingColour(entry["rating"]))))
                table.setItem(row, column, item)
        self._inTable = [dict(entry) for entry in self._entries]
