"""The section "Result" of the panel: measures and rating, proposals, visibility, and removal."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from .figures import checksTable, figuresTable, proposalText, warningsText
from .focus import showImplant
from .logic import SkullVAELogic
from .meshnodes import THICKNESS, UNCERTAINTY, hasScalars, shownColours
from .results import figuresOf


class ResultSection:
    """Shows the result of the current input.

    onStart: called when another proposal was requested, so that the panel polls for the response.
    """

    def __init__(self, ui, logic: SkullVAELogic, onStart) -> None:
        self.ui = ui
        self._logic = logic
        self._onStart = onStart
        self._added = None
        ui.proposalComboBox.connect("currentIndexChanged(int)", self.onProposal)
        ui.showImplantCheckBox.connect("toggled(bool)", self.onShowImplant)
        ui.showSkullCheckBox.connect("toggled(bool)", self.onShowSkull)
        ui.showThicknessCheckBox.connect("toggled(bool)", self.onShowThickness)
        ui.showUncertaintyCheckBox.connect("toggled(bool)", self.onShowUncertainty)
        ui.jumpButton.connect("clicked(bool)", self.onJump)

    @property
    def present(self) -> bool:
        """Whether there is a result to show."""
        return self._added is not None

    def update(self, inputNode, segmentID: str) -> None:
        """Show the result of this input."""
        self._added = None if inputNode is None else self._logic.resultOf(inputNode, segmentID)
        ui = self.ui
        for widget in (ui.showImplantCheckBox, ui.jumpButton, ui.removeResultButton):
            widget.enabled = self.present
        ui.showSkullCheckBox.enabled = self.present and self._added.skullModelNode is not None
        for box, name in ((ui.showThicknessCheckBox, THICKNESS), (ui.showUncertaintyCheckBox, UNCERTAINTY)):
            box.enabled = self.present and hasScalars(self._added.implantModelNode, name)
        report = {}
        if self.present:
            # Proposals are available only while the process of the result runs, so not for other or loaded results.
            report = self._logic.report if self._added == self._logic.added else figuresOf(self._added)
        elif self._logic.isOf(inputNode, segmentID):
            # The warnings of a run that found nothing.
            report = self._logic.report
        self._showProposals(report.get("proposals", []), report.get("proposal", 1))
        table = "<br/>".join(filter(None, [figuresTable(report), checksTable(report), warningsText(report)]))
        if not table:
            table = _("The scene contains a result without measures.") if self.present else _("No result yet.")
        ui.figuresLabel.text = table
        if self.present:
            self._showState()

    def onProposal(self, index: int) -> None:
        """Called when another proposal is selected."""
        if index >= 0 and self._logic.requestProposal(index + 1):
            self._onStart()

    def onShowImplant(self, visible: bool) -> None:
        """Show or hide the implant in all views."""
        if self.present:
            node = self._added.segmentationNode
            node.GetDisplayNode().SetSegmentVisibility(self._added.implantID, visible)
            _setVisible(self._added.implantModelNode, visible)

    def onShowSkull(self, visible: bool) -> None:
        """Show or hide the surface of the skull in 3D."""
        if self.present:
            _setVisible(self._added.skullModelNode, visible)

    def onShowThickness(self, colored: bool) -> None:
        """Colour the printable implant by its thickness, or reset its colour."""
        if self.present:
            self._logic.showThickness(self._added.implantModelNode, colored)
            self._showState()

    def onShowUncertainty(self, colored: bool) -> None:
        """Colour the printable implant by its uncertainty band, or reset its colour."""
        if self.present:
            self._logic.showUncertainty(self._added.implantModelNode, colored)
            self._showState()

    def onJump(self, checked: bool = False) -> None:
        """Centre the slice views and the 3D view on the implant."""
        if self.present:
            showImplant(self._added)

    def _showProposals(self, proposals: list[dict], current: int) -> None:
        combo = self.ui.proposalComboBox
        combo.enabled = len(proposals) > 1 and self._logic.live
        texts = [proposalText(proposal) for proposal in proposals]
        wasBlocked = combo.blockSignals(True)
        if texts != [combo.itemText(index) for index in range(combo.count)]:
            combo.clear()
            combo.addItems(texts)
        if texts:
            combo.currentIndex = current - 1
        combo.blockSignals(wasBlocked)

    def _showState(self) -> None:
        """Set the check boxes to the state of the views, which may be changed outside the panel."""
        display = self._added.segmentationNode.GetDisplayNode()
        implant = display is not None and display.GetSegmentVisibility(self._added.implantID)
        skull = self._added.skullModelNode
        states = (
            (self.ui.showImplantCheckBox, bool(implant)),
            (self.ui.showSkullCheckBox, skull is not None and bool(skull.GetDisplayVisibility())),
            (self.ui.showThicknessCheckBox, shownColours(self._added.implantModelNode) == THICKNESS),
            (self.ui.showUncertaintyCheckBox, shownColours(self._added.implantModelNode) == UNCERTAINTY),
        )
        for box, state in states:
            wasBlocked = box.blockSignals(True)
            box.checked = state
            box.blockSignals(wasBlocked)


def _setVisible(node: slicer.vtkMRMLDisplayableNode | None, visible: bool) -> None:
    if node is not None:
        node.SetDisplayVisibility(visible)
