"""The section "Defects" of the panel: table of candidate defects, and points at holes."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

from . import candidates as defects
from .candidates import Choice
from .defectpoints import (
    POINT_EVENTS,
    Point,
    interactionNode,
    isPlacing,
    pointsNode,
    pointsOf,
    removePoint,
    startPlacing,
    stopPlacing,
    toWorld,
)
from .figures import AMBER
from .focus import showPoint
from .logic import SkullVAELogic
from .parameters import SkullVAEParameterNode, inputKey, sourceOf
from .results import figuresOf
from .tables import fitColumns

_FILL, _VOLUME, _PLACE, _PROBABILITY = range(4)


class DefectSection:
    """Shows the candidate defects of the current input, and requests those that the user selects.

    Decisions and points are kept in the scene. While the process of the last run waits for requests, they are applied
    at once, otherwise at the next run.

    onChange: called when decisions or points have changed; showStatus: shows a line to the user.
    """

    def __init__(self, ui, logic: SkullVAELogic, onChange, showStatus) -> None:
        self.ui = ui
        self._logic = logic
        self._onChange = onChange
        self._showStatus = showStatus
        self._parameters: SkullVAEParameterNode | None = None
        # Candidates of the current report, and those that the rows of the table were made for.
        self._shown: list[dict] = []
        self._inTable: list[dict] = []
        self._observers: list[tuple] = []
        self._observed = None
        # By input: what the last run or request was given.
        self._requests: dict[tuple[str, str], tuple[tuple[int, ...], tuple[Point, ...]]] = {}
        self._filling = False
        # Placed points, and whether one is being placed, at the last change.
        self._state: tuple = ()
        # By input: numbers of the run's candidates, and of those that it filled because a point is at them.
        self._ofRun: dict[tuple[str, str], tuple[set[int], set[int]]] = {}
        fitColumns(ui.defectTable, narrow=(_FILL, _VOLUME), wide=(_PLACE, _PROBABILITY))
        ui.defectTable.connect("cellChanged(int,int)", self.onCellChanged)
        ui.defectTable.connect("cellClicked(int,int)", self.onCellClicked)
        ui.pointButton.connect("clicked(bool)", self.onPointButton)
        ui.removePointButton.connect("clicked(bool)", self.onRemovePointButton)

    # ----------------------------------------------------------------------------------------------------------------
    # State

    def setParameterNode(self, parameters: SkullVAEParameterNode | None) -> None:
        """Use these parameters; None while there are none."""
        if parameters is None and self.placing:
            stopPlacing()
        self._parameters = parameters
        if parameters is None:
            self._observe(None)

    def forRun(self) -> tuple[list[Point], list[Point]]:
        """(points at holes that are defects, points at holes that are not) for the next run of the current input."""
        at = [*pointsOf(*self._source), *(choice.centre for choice in self._choices if choice.filled)]
        return at, [choice.centre for choice in self._choices if not choice.filled]

    def onRunStarted(self) -> None:
        """Called when a run was started with `forRun`."""
        self._requested = (), pointsOf(*self._source)

    def onRunEnded(self) -> None:
        """Called when a run has ended and its result is in the scene."""
        if self._parameters is None or not self._ours or self._requested is None:
            self._requested = None
            return
        self._shown = self._report.get("candidates", [])
        points = self._requested[1]
        numbers = {entry["number"] for entry in self._shown}
        self._ofRun[self._key] = numbers, defects.filledForPoints(self._shown, points)
        self._dropContradicted()
        self._requested = self._wanted()[0], points

    def request(self) -> bool:
        """Request the selected defects if they differ from those of the result; whether a request was sent."""
        if not self._live or self._requested is None:
            return False
        wanted = self._wanted()
        if wanted == self._requested or not self._logic.requestDefects(*wanted):
            return False
        self._requested, self._filling = wanted, True
        self._showStatus(_("Filling the selected defects..."))
        return True

    def onResponses(self) -> None:
        """Called after responses of the process were applied, or have failed."""
        if self._parameters is None or not self._ours or self._logic.responsePending or self._requested is None:
            return
        self._shown = found = self._report.get("candidates", [])
        if self._wanted() != self._requested:
            return  # The user has decided otherwise meanwhile, which will be requested.
        self._dropContradicted()
        self._requested = self._wanted()
        if self._filling:
            self._filling = False
            if self._report.get("found") is False:
                self._showStatus(_("No defect is filled: the result was removed from the scene."))
            else:
                self._showStatus(_("Done: defects filled: {count}.").format(count=len(_filled(found))))

    @property
    def placing(self) -> bool:
        """Whether a point at a hole of the current input is being placed."""
        return isPlacing(*self._source)

    @property
    def nothingFilled(self) -> bool:
        """Whether the last run was that of the current input and no defect is filled, which the user can change."""
        return self._live and self._report.get("found") is False

    @property
    def undecided(self) -> bool:
        """Whether the current input has a candidate defect that the user should decide on, or none that is filled."""
        return self.nothingFilled or any(_isDoubtful(entry) for entry in self._shown)

    def pointsAreGone(self) -> bool:
        """Whether the node of the points was removed from the scene since the last update."""
        return self._observed is not None and not slicer.mrmlScene.IsNodePresent(self._observed)

    def choose(self, candidates: list[dict]) -> None:
        """Decide on the candidates as an earlier report of this input did."""
        choices = self._choices
        present = {entry["number"]: defects.isFilled(entry, choices) for entry in self._shown}
        for entry in candidates:
            if present.get(entry["number"], entry["filled"]) != entry["filled"]:
                choices = defects.withChoice(choices, entry, bool(entry["filled"]))
        if choices != self._choices:
            self._write(choices)

    def forget(self) -> None:
        """Forget the decisions on candidates; called when the result was removed."""
        self._requested = None
        if self._parameters is not None:
            self._parameters.defectChoices = ""

    # ----------------------------------------------------------------------------------------------------------------
    # Display

    def update(self, busy: bool) -> None:
        """Show the candidates of the current input. busy: whether a run is in progress."""
        node, segmentID = self._source
        self._observe(pointsNode(node, segmentID))
        self._shown = self._report.get("candidates", [])
        self._fillTable()
        points = pointsOf(node, segmentID)
        placing = self.placing
        self.ui.pointButton.enabled = node is not None and not busy
        self.ui.pointButton.checked = placing
        self.ui.removePointButton.enabled = bool(points) and not busy
        hint = self._hint(len(points), placing)
        self.ui.defectsLabel.text = hint
        self.ui.defectsLabel.visible = bool(hint)

    def _hint(self, points: int, placing: bool) -> str:
        if placing:
            return _("Click on the hole, in a slice view or on a surface in the 3D view. Press Escape to cancel.")
        parts = []
        if not self._ours and not self._shown:
            parts.append(_("Candidate defects are listed after a run. To name a hole before it, point at it."))
        elif self.nothingFilled:
            parts.append(
                _("No defect is filled. Click 'Point at a hole', then click on the hole in a slice view: it is filled.")
            )
        elif not self._shown:
            parts.append(_("The result has no list of candidate defects."))
        if self._shown and not self._live:
            parts.append(_("The process of this result has ended: changes apply to the next run."))
        if points:
            parts.append(_("Points at holes: {count}.").format(count=points))
        return " ".join(parts)

    def _fillTable(self) -> None:
        table, choices = self.ui.defectTable, self._choices
        wasBlocked = table.blockSignals(True)
        other = self._shown != self._inTable
        if other:
            self._makeRows()
        for row, entry in enumerate(self._shown):
            checked = qt.Qt.Checked if defects.isFilled(entry, choices) else qt.Qt.Unchecked
            table.item(row, _FILL).setCheckState(checked)
        table.visible = bool(self._shown)
        table.blockSignals(wasBlocked)

    def _makeRows(self) -> None:
        table = self.ui.defectTable
        table.setRowCount(len(self._shown))
        for row, entry in enumerate(self._shown):
            texts = (
                str(entry["number"]),
                _("{volume:.1f} ml").format(volume=entry["volume_ml"]),
                defects.placeText(entry),
                defects.probabilityText(entry),
            )
            doubtful = _isDoubtful(entry)
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(entry.get("reason") or "")
                flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
                item.setFlags(flags | qt.Qt.ItemIsUserCheckable if column == _FILL else flags)
                if doubtful:
                    item.setForeground(qt.QBrush(qt.QColor(AMBER)))
                table.setItem(row, column, item)
        self._inTable = [dict(entry) for entry in self._shown]

    # ----------------------------------------------------------------------------------------------------------------
    # Actions of the user

    def onCellChanged(self, row: int, column: int) -> None:
        """Called when the user checks or unchecks a candidate."""
        if self._parameters is None or column != _FILL or not 0 <= row < len(self._shown):
            return
        entry = self._shown[row]
        filled = self.ui.defectTable.item(row, _FILL).checkState() == qt.Qt.Checked
        if not filled and self._live and entry["number"] in self._pointed:
            removePoint(*self._source, near=entry["centre_mm"])
        elif filled != defects.isFilled(entry, self._choices):
            self._write(defects.withChoice(self._choices, entry, filled))
        self._onChange()

    def onCellClicked(self, row: int, column: int) -> None:
        """Centre the slice views and the crosshair on a candidate."""
        node, _segmentID = self._source
        if node is not None and 0 <= row < len(self._shown):
            showPoint(toWorld(node, self._shown[row]["centre_mm"]))

    def onPointButton(self, checked: bool) -> None:
        """Start or stop placing a point."""
        if checked:
            startPlacing(*self._source)
        else:
            stopPlacing()
        self._onChange()

    def onRemovePointButton(self, checked: bool = False) -> None:
        """Remove the point that was placed last."""
        removePoint(*self._source)
        self._onChange()

    # ----------------------------------------------------------------------------------------------------------------

    @property
    def _source(self) -> tuple:
        return sourceOf(self._parameters)

    @property
    def _key(self) -> tuple[str, str]:
        return inputKey(*self._source)

    @property
    def _requested(self) -> tuple[tuple[int, ...], tuple[Point, ...]] | None:
        """What the last run or request of this input was given: numbers and points; None without one."""
        return self._requests.get(self._key)

    @_requested.setter
    def _requested(self, value: tuple[tuple[int, ...], tuple[Point, ...]] | None) -> None:
        self._requests.pop(self._key, None)
        if value is not None:
            self._requests[self._key] = value

    @property
    def _ours(self) -> bool:
        """Whether the last run was that of the current input."""
        return self._logic.isOf(*self._source) and bool(self._logic.report)

    @property
    def _live(self) -> bool:
        """Whether decisions and points are applied at once."""
        return self._ours and self._logic.waiting

    @property
    def _report(self) -> dict:
        if self._ours:
            return self._logic.report
        added = self._logic.resultOf(*self._source)
        return {} if added is None else figuresOf(added)

    @property
    def _choices(self) -> list[Choice]:
        return [] if self._parameters is None else defects.readChoices(self._parameters.defectChoices, self._key)

    @property
    def _pointed(self) -> set[int]:
        """Numbers of the candidates that are filled because a point is at them."""
        if self._logic.askedNumbers is None:
            return self._ofRun.get(self._key, (set(), set()))[1]
        return _filled(self._report.get("candidates", [])) - self._logic.askedNumbers

    def _wanted(self) -> tuple[tuple[int, ...], tuple[Point, ...]]:
        """What is to be requested: numbers of the run's candidates, without those that points are at, and points."""
        choices = self._choices
        numbers = {entry["number"] for entry in self._shown if defects.isFilled(entry, choices)}
        return tuple(sorted((numbers & self._ofRun.get(self._key, (set(), set()))[0]) - self._pointed)), pointsOf(
            *self._source
        )

    def _write(self, choices: list[Choice]) -> None:
        self._parameters.defectChoices = defects.writeChoices(choices, self._key)

    def _dropContradicted(self) -> None:
        """Drop decisions that the report contradicts, so that the table shows what is in the scene."""
        choices = self._choices
        kept = defects.agreeing(choices, self._report.get("candidates", []))
        if kept != choices:
            self._write(kept)

    def _observe(self, node) -> None:
        """Observe the points of the current input, and the mouse mode; None: observe nothing."""
        if node is not self._observed:
            for subject, tag in self._observers:
                subject.RemoveObserver(tag)
            self._observers, self._observed = [], node
            if node is not None:
                for name in POINT_EVENTS:
                    self._addObserver(node, getattr(node, name))
                interaction = interactionNode()
                self._addObserver(interaction, interaction.InteractionModeChangedEvent)

    def _addObserver(self, subject, event) -> None:
        self._observers.append((subject, subject.AddObserver(event, lambda caller, name: self._onPoints())))

    def _onPoints(self) -> None:
        """Called at every move of the mouse while a point is placed, so that most calls must do nothing."""
        state = pointsOf(*self._source), self.placing
        if state != self._state:
            self._state = state
            self._onChange()


def _filled(found: list[dict]) -> set[int]:
    return {entry["number"] for entry in found if entry["filled"]}


def _isDoubtful(entry: dict) -> bool:
    return entry.get("probability") is not None and defects.is_doubtful(entry["probability"])
