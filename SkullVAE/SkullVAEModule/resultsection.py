"""The section "Result" of the panel: measures and rating, proposals, comparison, visibility, and removal."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from SkullVAELib.report.rating import Ratings

from .defectimplants import displayedModel
from .figures import proposalText, resultTable
from .focus import showImplant
from .implanttable import ImplantTable
from .logic import SkullVAELogic
from .meshnodes import DIFFERENCE, THICKNESS, UNCERTAINTY, hasScalars, showColours, shownColours
from .results import AddedResult, figuresOf, restoreDisplays
from .viewmemory import ViewMemory, isShownInThreeD

# Opacity of the skull in 3D when it is translucent.
_TRANSLUCENT = 0.35
# Opacity of the predicted shape in the slice views under the line of the printable implant.
_PALE = 0.5


class ResultSection:
    """Shows the result of the current input.

    onStart: called when another proposal was requested, so that the panel polls for the response; onChange: called when
    the implant of a defect was shown or hidden.
    """

    def __init__(self, ui, logic: SkullVAELogic, onStart, onChange) -> None:
        self.ui = ui
        self._logic = logic
        self._onStart = onStart
        self._added = None
        self.viewMemory = ViewMemory()
        self.rating = ""
        self.implantTable = ImplantTable(ui, onChange, self.viewMemory.remember)
        ui.proposalComboBox.connect("currentIndexChanged(int)", self.onProposal)
        ui.showImplantCheckBox.connect("toggled(bool)", self.onShowImplant)
        ui.showSkullCheckBox.connect("toggled(bool)", self.onShowSkull)
        ui.showLineCheckBox.connect("toggled(bool)", self.onShowLine)
        ui.showThicknessCheckBox.connect("toggled(bool)", self.onShowThickness)
        ui.showUncertaintyCheckBox.connect("toggled(bool)", self.onShowUncertainty)
        ui.translucentCheckBox.connect("toggled(bool)", self.onTranslucent)
        ui.jumpButton.connect("clicked(bool)", self.onJump)
        ui.beforeButton.connect("clicked(bool)", self.onBefore)
        ui.afterButton.connect("clicked(bool)", self.onAfter)
        ui.differenceButton.connect("clicked(bool)", self.onDifference)

    @property
    def present(self) -> bool:
        """Whether there is a result to show."""
        return self._added is not None

    @property
    def added(self) -> AddedResult | None:
        """The result that is shown."""
        return self._added

    @property
    def segmentation(self):
        """The segmentation of the result; None without a result."""
        return self._added.segmentationNode if self.present else None

    def update(self, inputNode, segmentID: str) -> None:
        """Show the result of this input."""
        self._added = None if inputNode is None else self._logic.resultOf(inputNode, segmentID)
        if self.present:
            restoreDisplays(self._added)
        ui = self.ui
        for widget in (ui.showImplantCheckBox, ui.jumpButton, ui.beforeButton, ui.afterButton):
            widget.enabled = self.present
        ui.removeResultButton.enabled = self.present or self._logic.hasRemains(inputNode, segmentID)
        for box in (ui.showSkullCheckBox, ui.translucentCheckBox):
            box.enabled = self.present and self._added.skullModelNode is not None
        ui.showLineCheckBox.enabled = self.present and displayedModel(self._added.implantModelNode) is not None
        ui.viewsNoteLabel.visible = self.present
        compared = self.present and hasScalars(self._added.implantModelNode, DIFFERENCE)
        ui.differenceButton.enabled = compared
        ui.differenceButton.toolTip = (
            _(
                "Colour the implant by the signed distance in mm between its outer surface and the mirrored skull."
                " Positive: the implant is further outside. The asymmetry of the bone around it is subtracted."
            )
            if compared or not self.present
            else _("There is no bone on the mirrored side that the implant can be compared with.")
        )
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
        self.rating = Ratings.of(report).overall if self.present else ""
        table = resultTable(report)
        if not table:
            table = _("The scene contains a result without measures.") if self.present else _("No result yet.")
        ui.figuresLabel.text = table
        self.implantTable.update(self._added, report)
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
            _setVisible(displayedModel(self._added.implantModelNode), visible)
            self._showState()

    def onShowSkull(self, visible: bool) -> None:
        """Show or hide the surface of the skull in 3D."""
        if self.present:
            _setVisible(self._added.skullModelNode, visible)

    def onShowLine(self, visible: bool) -> None:
        """Show or hide the outline of the printable implant in the slice views, in place of that of its segment."""
        model = displayedModel(self._added.implantModelNode) if self.present else None
        if model is not None:
            model.GetDisplayNode().SetVisibility2D(visible)
            display = self._added.segmentationNode.GetDisplayNode()
            if display.GetSegmentVisibility2DFill(self._added.implantID):
                _showPredicted(display, self._added.implantID, visible)

    def onShowThickness(self, colored: bool) -> None:
        """Colour the printable implant by its thickness, or reset its colour."""
        if self.present:
            self._logic.showThickness(displayedModel(self._added.implantModelNode), colored)
            self._showState()

    def onShowUncertainty(self, colored: bool) -> None:
        """Colour the printable implant by its uncertainty band, or reset its colour."""
        if self.present:
            self._logic.showUncertainty(displayedModel(self._added.implantModelNode), colored)
            self._showState()

    def onTranslucent(self, translucent: bool) -> None:
        """Show the surface of the skull translucent or opaque in 3D."""
        if self.present and self._added.skullModelNode is not None:
            self._added.skullModelNode.GetDisplayNode().SetOpacity(_TRANSLUCENT if translucent else 1.0)

    def onBefore(self, checked: bool = False) -> None:
        """Show the defective skull without the result."""
        self._compare(False)

    def onAfter(self, checked: bool = False) -> None:
        """Show the skull with the implant in its own colour."""
        self._compare(True)

    def onDifference(self, checked: bool = False) -> None:
        """Show the implant coloured by its distance to the mirrored skull."""
        self._compare(True, DIFFERENCE)

    def onJump(self, checked: bool = False) -> None:
        """Centre the slice views and the 3D view on the implant."""
        if self.present:
            self.viewMemory.remember()
            showImplant(self._added)

    def onAdded(self, added: AddedResult, node, segmentID: str) -> None:
        """Show a result that a run has just added for this input: in the slice views and as models in 3D."""
        self._added = added
        self.viewMemory.remember()
        self.viewMemory.showThreeD()
        display = added.segmentationNode.GetDisplayNode()
        for each in (added.completedID, added.implantID):
            display.SetSegmentVisibility2DOutline(each, True)
            if added.skullModelNode is not None and isShownInThreeD(added.segmentationNode):
                display.SetSegmentVisibility3D(each, False)
        # The image stays visible: of the bone only the outline is drawn.
        display.SetSegmentVisibility2DFill(added.completedID, False)
        model = displayedModel(added.implantModelNode)
        if model is not None and model.GetDisplayNode().GetVisibility2D():
            _showPredicted(display, added.implantID, True)
        if added.skullModelNode is not None and node.IsA("vtkMRMLSegmentationNode") and isShownInThreeD(node):
            self.viewMemory.hideInThreeD(node, segmentID)
        showImplant(added)
        self._showState()

    def onRemoved(self) -> None:
        """Restore the views; called when the user has removed the result."""
        self.viewMemory.restore()

    def _compare(self, after: bool, colours: str | None = None) -> None:
        if not self.present:
            return
        added = self._added
        display = added.segmentationNode.GetDisplayNode()
        for segmentID in (added.completedID, added.implantID):
            display.SetSegmentVisibility(segmentID, after)
        model = displayedModel(added.implantModelNode)
        if model is not None:
            showColours(model, colours)
        _setVisible(model, after)
        _setVisible(added.skullModelNode, True)
        self._showState()

    def _showProposals(self, proposals: list[dict], current: int) -> None:
        combo = self.ui.proposalComboBox
        for widget in (self.ui.proposalLabel, combo):
            widget.visible = len(proposals) > 1
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
        skull, model = self._added.skullModelNode, displayedModel(self._added.implantModelNode)
        colours = shownColours(model)
        states = (
            (self.ui.beforeButton, not implant),
            (self.ui.differenceButton, bool(implant) and colours == DIFFERENCE),
            (self.ui.afterButton, bool(implant) and colours != DIFFERENCE),
            (self.ui.translucentCheckBox, skull is not None and skull.GetDisplayNode().GetOpacity() < 1),
            (self.ui.showImplantCheckBox, bool(implant)),
            (self.ui.showSkullCheckBox, skull is not None and bool(skull.GetDisplayVisibility())),
            (self.ui.showLineCheckBox, model is not None and bool(model.GetDisplayNode().GetVisibility2D())),
            (self.ui.showThicknessCheckBox, colours == THICKNESS),
            (self.ui.showUncertaintyCheckBox, colours == UNCERTAINTY),
        )
        for box, state in states:
            wasBlocked = box.blockSignals(True)
            box.checked = state
            box.blockSignals(wasBlocked)


def _showPredicted(display, implantID: str, line: bool) -> None:
    """Show the predicted shape in the slice views: pale and without a line where that is of the printable implant."""
    display.SetSegmentVisibility2DOutline(implantID, not line)
    display.SetSegmentOpacity2DFill(implantID, _PALE if line else 1.0)


def _setVisible(node: slicer.vtkMRMLDisplayableNode | None, visible: bool) -> None:
    if node is not None:
        node.SetDisplayVisibility(visible)
