"""The groups "Fixation", "Holes and text", "Build-up" and "Insertion" of the section "Implant": points and text."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from .completion import ImplantPoints
from .defectpoints import (
    BUILD_UPS,
    DRAINS,
    POINT_EVENTS,
    TABS,
    interactionNode,
    isPlacing,
    newPointsNode,
    pointsNode,
    pointsOf,
    removePoint,
    startPlacing,
    stopPlacing,
)
from .parameters import SkullVAEParameterNode, sourceOf
from .results import saveStateForUndo

# Positions are compared and requested with this many decimals of a millimetre.
_DECIMALS = 2


class AdditionsSection:
    """Places the points of what is added to the printable implant, and takes its text.

    onChange: called when points or text have changed, so that the panel requests the implant.
    """

    def __init__(self, ui, onChange) -> None:
        self.ui = ui
        self._onChange = onChange
        self._parameters: SkullVAEParameterNode | None = None
        self._observers: list[tuple] = []
        self._observed: tuple = ()
        # Points, and the kind that is being placed, at the last change.
        self._state: tuple = ()
        # The text of the parameters that was shown last.
        self._text = ""
        # Kind of points: button that places one, button that removes the last one.
        self._buttons = {
            TABS: (ui.tabPointButton, ui.removeTabPointButton),
            DRAINS: (ui.drainPointButton, ui.removeDrainPointButton),
            BUILD_UPS: (ui.buildUpPointButton, ui.removeBuildUpPointButton),
        }
        for kind, (place, remove) in self._buttons.items():
            place.connect("clicked(bool)", lambda checked=False, kind=kind: self.onPlace(kind, checked))
            remove.connect("clicked(bool)", lambda checked=False, kind=kind: self.onRemove(kind))
        # Not bound to the parameter, since the implant would be requested for each key.
        ui.engravingLineEdit.connect("editingFinished()", self.takeText)

    def setParameterNode(self, parameters: SkullVAEParameterNode | None) -> None:
        """Use these parameters; None while there are none."""
        if parameters is None and self.placing:
            stopPlacing()
        self._parameters = parameters
        if parameters is None:
            self._observe(())

    @property
    def points(self) -> ImplantPoints:
        """The placed points of the current input, in its own coordinates."""
        source = sourceOf(self._parameters)
        placed = [
            tuple(tuple(round(x, _DECIMALS) for x in point) for point in pointsOf(*source, kind))
            for kind in (TABS, DRAINS, BUILD_UPS)
        ]
        return ImplantPoints(*placed)

    @property
    def placing(self) -> str:
        """The kind of points of which one is being placed; empty if none."""
        source = sourceOf(self._parameters)
        return next((kind for kind in self._buttons if isPlacing(*source, kind)), "")

    @property
    def step(self) -> str:
        """What the user does next to place a point, as one sentence; empty if none is being placed."""
        return {
            "": "",
            TABS: _("Click on the bone beside the rim, where the screw of the tab is to be."),
            DRAINS: _("Click on the implant, where the hole is to be."),
            BUILD_UPS: _("Click on the implant, where its outer surface is to be raised."),
        }[self.placing]

    def pointsAreGone(self) -> bool:
        """Whether a node of points was removed from the scene since the last update."""
        return any(node is not None and not slicer.mrmlScene.IsNodePresent(node) for node in self._observed)

    def update(self, busy: bool) -> None:
        """Show the parameters and follow the points of the current input. busy: whether a run is in progress."""
        parameters, source = self._parameters, sourceOf(self._parameters)
        self._observe(tuple(pointsNode(*source, kind) for kind in self._buttons))
        placing, points = self.placing, self.points
        self._state = points, placing
        usable = source[0] is not None and not busy
        for (kind, (place, remove)), placed in zip(self._buttons.items(), points, strict=True):
            place.enabled = usable
            place.checked = placing == kind
            remove.enabled = usable and bool(placed)
        tabs = parameters.tabs > 0 or bool(points.tabs)
        self.ui.tabThicknessSpinBox.enabled = tabs
        self.ui.flangeWidget.visible = parameters.flange
        screws = tabs or (parameters.flange and parameters.flangeScrews > 0)
        self.ui.screwDiameterSpinBox.enabled = self.ui.screwBoneSpinBox.enabled = screws
        self.ui.drainDiameterSpinBox.enabled = bool(points.drains)
        text = bool(parameters.engraving)
        self.ui.engravingHeightSpinBox.enabled = self.ui.engravingDepthSpinBox.enabled = text
        raised = bool(points.buildUps)
        self.ui.buildUpRadiusSpinBox.enabled = self.ui.buildUpThicknessSpinBox.enabled = raised
        self.ui.insertionDepthSpinBox.enabled = parameters.insertable
        if parameters.engraving != self._text:
            # Not what is being typed.
            self._text = self.ui.engravingLineEdit.text = parameters.engraving

    def takeText(self) -> None:
        """Use the text that was typed."""
        if self._parameters is not None and self._parameters.engraving != self.ui.engravingLineEdit.text:
            self._text = self._parameters.engraving = self.ui.engravingLineEdit.text

    def onPlace(self, kind: str, checked: bool) -> None:
        """Start or stop placing a point of this kind."""
        if checked:
            source = sourceOf(self._parameters)
            saveStateForUndo(newPointsNode(*source, kind))
            startPlacing(*source, kind)
        else:
            stopPlacing()
        self._onChange()

    def onRemove(self, kind: str) -> None:
        """Remove the point of this kind that was placed last."""
        source = sourceOf(self._parameters)
        saveStateForUndo(pointsNode(*source, kind))
        removePoint(*source, kind=kind)
        self._onChange()

    def _observe(self, nodes: tuple) -> None:
        """Observe these nodes of points, and the mouse mode; observe nothing if empty."""
        if nodes == self._observed:
            return
        for subject, tag in self._observers:
            subject.RemoveObserver(tag)
        self._observers, self._observed = [], nodes
        for node in nodes:
            for name in POINT_EVENTS if node is not None else ():
                self._add(node, getattr(node, name))
        if nodes:
            interaction = interactionNode()
            self._add(interaction, interaction.InteractionModeChangedEvent)

    def _add(self, subject, event) -> None:
        self._observers.append((subject, subject.AddObserver(event, lambda caller, name: self._onPoints())))

    def _onPoints(self) -> None:
        """Called at every move of the mouse while a point is placed, so that most calls must do nothing."""
        if self._parameters is not None and (self.points, self.placing) != self._state:
            self._onChange()
