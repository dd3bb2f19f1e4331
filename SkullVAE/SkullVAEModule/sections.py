"""Opens and closes the sections of the panel as the work proceeds."""

from __future__ import annotations

INPUT, DEFECTS, IMPLANT, RESULT, EXPORT = "input", "defects", "implant", "result", "export"


class Section:
    """A collapsible section of the panel, which the user and the panel open and close."""

    def __init__(self, button) -> None:
        self.button = button
        self._wanted = not button.collapsed
        # The state that the user has chosen, if it differs from what the panel would show.
        self._chosen: bool | None = None
        # Unlike "toggled", this signal is emitted only for the user.
        button.connect("clicked(bool)", self.onClicked)

    def onClicked(self, checked: bool = False) -> None:
        """Called when the user opens or closes the section."""
        isOpen = not self.button.collapsed
        self._chosen = None if isOpen == self._wanted else isOpen

    def update(self, wanted: bool) -> None:
        """Open or close the section if another state is wanted than before, unless the user has chosen otherwise."""
        if wanted == self._wanted:
            return
        self._wanted = wanted
        if self._chosen == wanted:
            self._chosen = None
        collapsed = not (wanted if self._chosen is None else self._chosen)
        if self.button.collapsed != collapsed:
            self.button.collapsed = collapsed

    def forget(self) -> None:
        """Forget what the user has chosen."""
        self._chosen = None
        self.button.collapsed = not self._wanted


class Sections:
    """The sections of the panel that follow the work. What the user opens or closes stays so.

    A section that the user has opened and closed again follows the work as before.

    onToggled: called with whether a section is now closed.
    """

    def __init__(self, ui, onToggled) -> None:
        self._sections = {
            INPUT: Section(ui.inputCollapsibleButton),
            DEFECTS: Section(ui.defectsCollapsibleButton),
            IMPLANT: Section(ui.implantCollapsibleButton),
            RESULT: Section(ui.resultCollapsibleButton),
            EXPORT: Section(ui.exportCollapsibleButton),
        }
        # The two that follow nothing also have widgets that only apply to some settings.
        every = [section.button for section in self._sections.values()]
        for button in (*every, ui.compareCollapsibleButton, ui.advancedCollapsibleButton):
            button.connect("contentsCollapsed(bool)", onToggled)
        for group in (
            ui.referenceGroup, ui.fixationGroup, ui.markingGroup, ui.buildUpGroup, ui.insertionGroup, ui.editGroup,
            ui.partsGroup,
        ):  # fmt: skip
            group.connect("toggled(bool)", lambda isOpen: onToggled(not isOpen))

    def show(self, names: set[str]) -> None:
        """Open the sections with these names and close the others."""
        for name, section in self._sections.items():
            section.update(name in names)

    def forget(self) -> None:
        """Forget what the user has chosen; called when the scene was closed."""
        for section in self._sections.values():
            section.forget()


def sectionsToShow(missing: str, present: bool, undecided: bool) -> set[str]:
    """The names of the sections that matter now.

    missing: what the input lacks; present: whether there is a result; undecided: whether a candidate defect needs the
    user's decision.

    >>> sorted(sectionsToShow("", True, False))
    ['export', 'result']
    """
    if missing:
        return {INPUT}
    shown = {RESULT, EXPORT} if present else {INPUT}
    return shown | {DEFECTS} if undecided else shown
