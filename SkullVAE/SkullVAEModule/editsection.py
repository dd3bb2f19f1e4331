"""The group "Edit by hand" of the section "Implant": voxels in the Segment Editor, points on the surface, undo."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

from .defectpoints import (
    POINT_EVENTS,
    SURFACE,
    interactionNode,
    isPlacing,
    newPointsNode,
    pointsNode,
    pointsOf,
    removePoint,
    setPoints,
    startPlacing,
    stopPlacing,
)
from .logic import SkullVAELogic
from .parameters import SkullVAEParameterNode, inputKey, sourceOf
from .results import AddedResult, editedText, isEdited, keptName, saveStateForUndo, voxelsState

# Voxels are compared when the segment was not changed for this time.
_REST_MS = 500

_SEGMENT_EVENTS = ("SourceRepresentationModified", "RepresentationModified", "SegmentModified")


class EditSection:
    """Follows what the user edits on the implant of the current input, and requests its printable implant.

    The segment is followed in other modules, too, as long as the process of its result runs.

    onStart: called when something was requested, so that the panel polls for the response; onRestored: called with the
    fields of a shape that undo of the scene has shown again, so that the panel requests it; showStatus: shows a line to
    the user.
    """

    def __init__(self, ui, logic: SkullVAELogic, onStart, onRestored, showStatus) -> None:
        self.ui = ui
        self._logic = logic
        self._onStart = onStart
        self._onRestored = onRestored
        self._showStatus = showStatus
        self._parameters: SkullVAEParameterNode | None = None
        self._observed: tuple = (None, None)
        self._observers: list[tuple] = []
        # Points that were requested last, by input: a request that has failed is not repeated.
        self._requested: dict[tuple, tuple] = {}
        # Whether the implant was edited at the last response.
        self._edited: dict[tuple, bool] = {}
        # What was compared last, see _isEdited(), and whether it was edited.
        self._compared: tuple = (None, False)
        # With a parent, whose end releases the connection, which would otherwise keep this object for ever.
        self._timer = qt.QTimer(ui.editGroup)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REST_MS)
        self._timer.connect("timeout()", self.onRest)
        ui.editButton.connect("clicked(bool)", self.onEditButton)
        ui.surfacePointButton.connect("clicked(bool)", self.onSurfacePointButton)
        ui.removeSurfacePointButton.connect("clicked(bool)", self.onRemoveSurfacePointButton)
        ui.undoEditButton.connect("clicked(bool)", self.onUndoEditButton)
        ui.redoEditButton.connect("clicked(bool)", self.onRedoEditButton)

    def setParameterNode(self, parameters: SkullVAEParameterNode | None) -> None:
        """Use these parameters; None while there are none: the segment is still followed."""
        if parameters is None and self._placing:
            stopPlacing()
        self._parameters = parameters

    def close(self) -> None:
        """Follow nothing any more."""
        self._timer.stop()
        self._observe(None, None)

    def update(self, busy: bool) -> None:
        """Show the state, and follow implant and points of the current input. busy: whether a run is in progress."""
        added = self._logic.added if self._logic.live else None
        self._observe(added.segmentationNode if added is not None else None, pointsNode(*self._source, SURFACE))
        usable = added is not None and not busy
        points = pointsOf(*self._source, SURFACE)
        placing = self._placing
        self.ui.editButton.enabled = self.ui.surfacePointButton.enabled = usable
        self.ui.surfacePointButton.checked = placing
        self.ui.removeSurfacePointButton.enabled = usable and bool(points)
        self.ui.undoEditButton.enabled = usable and self._logic.canUndoEdit
        self.ui.redoEditButton.enabled = usable and self._logic.canRedoEdit
        self.ui.editLabel.text = self._hint(placing)
        if usable:
            self._timer.start()

    def replaced(self, added: AddedResult | None) -> tuple[str, int]:
        """(name under which another run keeps this result's edited implant, "" if not edited; number of points)."""
        if added is None or not self._isEdited(added):
            return "", 0
        return keptName(added), len(pointsOf(*self._source, SURFACE))

    def onResponses(self) -> None:
        """Called after responses were applied: announce what became of the edits."""
        if self._logic.responsePending or not self._logic.isOf(*self._source):
            return
        key, text = self._key, editedText(self._logic.report)
        before, self._edited[key] = self._edited.get(key, False), bool(text)
        # What was edited is listed in the group.
        if text and before:
            self._showStatus(_("The printable implant was updated. What was edited by hand is kept in every shape."))
        elif text:
            self._showStatus(_("The printable implant follows what was edited by hand."))
        elif before:
            self._showStatus(_("The implant is not edited any more.") + f" {self._logic.notice}".rstrip())

    # ----------------------------------------------------------------------------------------------------------------
    # Actions of the user

    def onEditButton(self, checked: bool = False) -> None:
        """Open the Segment Editor with the implant's segment."""
        added = self._logic.added
        editor = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
        if editor is None:
            editor = slicer.vtkMRMLSegmentEditorNode()
            editor.SetSingletonTag("SegmentEditor")
            editor = slicer.mrmlScene.AddNode(editor)
        editor.SetAndObserveSegmentationNode(added.segmentationNode)
        editor.SetSelectedSegmentID(added.implantID)
        # Otherwise painting the implant would erase bone from the segments of the skull.
        editor.SetOverwriteMode(editor.OverwriteNone)
        slicer.util.selectModule("SegmentEditor")

    def onSurfacePointButton(self, checked: bool) -> None:
        """Start or stop placing a point that the outer surface is to pass through."""
        if checked:
            saveStateForUndo(newPointsNode(*self._source, SURFACE))
            startPlacing(*self._source, SURFACE)
        else:
            stopPlacing()
        self.update(False)

    def onRemoveSurfacePointButton(self, checked: bool = False) -> None:
        """Remove the point that was placed last."""
        saveStateForUndo(pointsNode(*self._source, SURFACE))
        removePoint(*self._source, kind=SURFACE)
        self.update(False)

    def onUndoEditButton(self, checked: bool = False) -> None:
        """Undo the last step of editing."""
        self._replayed(self._logic.undoEdit())

    def onRedoEditButton(self, checked: bool = False) -> None:
        """Redo the step that was undone last."""
        self._replayed(self._logic.redoEdit())

    def onRest(self) -> None:
        """Request what was edited; called when nothing was changed for a moment."""
        if not self._logic.live or self._logic.running:
            return
        shape = self._logic.restoredShape
        if shape is not None and not self._logic.responsePending:
            if self._parameters is not None and self._logic.isOf(*self._source):
                self._onRestored(shape)
            return
        requested = self._logic.requestEdited()
        if self._parameters is not None and self._logic.isOf(*self._source):
            points = pointsOf(*self._source, SURFACE)
            if points != self._requested.get(self._key, ()) and not self._placing:
                requested = self._logic.requestPoints(points) or requested
                self._requested[self._key] = points
        if requested:
            self._showStatus(_("Updating the printable implant..."))
            self._onStart()

    def onRunEnded(self) -> None:
        """Called when a run has ended: points on the surface are requested anew."""
        self._requested.pop(self._key, None)
        self._edited.pop(self._key, None)

    # ----------------------------------------------------------------------------------------------------------------

    def _isEdited(self, added: AddedResult) -> bool:
        # The voxels are compared only if the segment has changed, since this is called often.
        state = (added, voxelsState(added))
        if self._compared[0] != state:
            self._compared = state, isEdited(added)
        return self._compared[1]

    def _replayed(self, points) -> None:
        if points is not None:
            setPoints(*self._source, points, SURFACE)
            self._timer.start()
        self._onStart()

    @property
    def _source(self) -> tuple:
        return sourceOf(self._parameters)

    @property
    def _key(self) -> tuple[str, str]:
        return inputKey(*self._source)

    @property
    def _placing(self) -> bool:
        return isPlacing(*self._source, SURFACE)

    def _hint(self, placing: bool) -> str:
        if placing:
            return _("Click where the outer surface of the implant must be. Press Escape to cancel.")
        if self._logic.live:
            return editedText(self._logic.report) or _("The implant is not edited.")
        if self._logic.hasResult(*self._source):
            return _("The process of this result has ended. To edit the implant, complete the skull again.")
        return ""

    def _observe(self, segmentation, points) -> None:
        if (segmentation, points) == self._observed:
            return
        for subject, tag in self._observers:
            subject.RemoveObserver(tag)
        self._observers, self._observed = [], (segmentation, points)
        if segmentation is not None:
            data = segmentation.GetSegmentation()
            for name in _SEGMENT_EVENTS:
                self._add(data, getattr(slicer.vtkSegmentation, name), self._onChanged)
        if points is not None:
            for name in POINT_EVENTS:
                self._add(points, getattr(points, name), self._onChanged)
        if segmentation is not None:
            interaction = interactionNode()
            self._add(interaction, interaction.InteractionModeChangedEvent, self._onMode)

    def _add(self, subject, event, call) -> None:
        self._observers.append((subject, subject.AddObserver(event, lambda caller, name: call())))

    def _onChanged(self) -> None:
        if self._logic.live:
            self._timer.start()

    def _onMode(self) -> None:
        if self._parameters is not None:
            self.ui.surfacePointButton.checked = self._placing
            self._onChanged()
