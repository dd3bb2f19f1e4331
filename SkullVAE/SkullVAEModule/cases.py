"""What the module keeps for each input that was completed: result, report, process and steps of editing by hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from SkullVAELib.core.errors import SkullVAEError

from .additionalparts import AdditionalParts
from .completion import CompletionRun
from .masks import Mask
from .meshfiles import MeshData
from .results import AddedResult
from .segments import SkullInput

MOST_SESSIONS = 3
"""Number of processes that are kept; beyond it, that of the input that was used longest ago ends."""

Points = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class EditStep:
    """One step of editing by hand: the implant's voxels or the points on its surface, before and after it."""

    before: Mask | Points
    after: Mask | Points


class EditHistory:
    """Steps of editing by hand that can be undone and redone.

    A step that is replayed is requested like any other; recording it is then left out.
    """

    def __init__(self) -> None:
        self._steps: list[EditStep] = []
        self._done = 0
        self._replaying = False

    def record(self, before: Mask | Points, after: Mask | Points) -> None:
        """Add a step that was applied, unless it was replayed; steps that were undone are forgotten."""
        if self._replaying:
            self._replaying = False
            return
        self._steps[self._done :] = [EditStep(before, after)]
        self._done = len(self._steps)

    @property
    def canUndo(self) -> bool:
        """Whether there is a step to undo."""
        return self._done > 0

    @property
    def canRedo(self) -> bool:
        """Whether there is a step to redo."""
        return self._done < len(self._steps)

    def undo(self) -> Mask | Points:
        """The state before the last step, which the caller requests."""
        self._done -= 1
        self._replaying = True
        return self._steps[self._done].before

    def redo(self) -> Mask | Points:
        """The state after the step that was undone last, which the caller requests."""
        self._done += 1
        self._replaying = True
        return self._steps[self._done - 1].after

    def failed(self) -> None:
        """Called when a request was refused: a step that was replayed is not replayed any more."""
        self._replaying = False

    def clear(self) -> None:
        """Forget all steps, such as those of another shape."""
        self._steps, self._done, self._replaying = [], 0, False


@dataclass(eq=False)
class Case:
    """One input.

    source: the input, without its voxels after the run; session: the process, None after its end; skull: surface of the
    skull from the run, for a result that is added to the scene later; askedNumbers: numbers in the request that the
    result responds to, None for that of a run; files: files requested from the session, by kind, None until they
    arrive; known: the implant's voxels that the process knows; sent: edited voxels that were requested, None if the
    response has arrived; points: the points on the outer surface that the process knows; parts: additional
    printed parts of the present implant, None if they were not made; shapes: fields of the report of the shapes that
    were not edited, by their numbers; shape: the number of the present one.
    """

    source: SkullInput | None = None
    newSegmentation: bool = False
    session: CompletionRun | None = None
    skull: MeshData | None = None
    added: AddedResult | None = None
    report: dict = field(default_factory=dict)
    askedNumbers: set[int] | None = None
    files: dict[str, Path | SkullVAEError | None] = field(default_factory=dict)
    known: Mask | None = None
    sent: Mask | None = None
    points: Points = ()
    parts: AdditionalParts | None = None
    history: EditHistory = field(default_factory=EditHistory)
    shapes: dict[str, dict] = field(default_factory=dict)
    shape: str = ""

    @property
    def waiting(self) -> bool:
        """Whether the process takes requests."""
        return self.session is not None and self.session.live

    def forgetVoxels(self) -> None:
        """Release the voxels of the input: only its grid is needed after the run."""
        grid = np.broadcast_to(np.zeros((), np.uint8), self.source.array.shape)
        self.source = replace(self.source, array=grid)

    def end(self) -> None:
        """End the process and remove its folder; result and report are kept."""
        session, self.session = self.session, None
        self.files.clear()
        self.history.clear()
        self.shapes.clear()
        if session is not None:
            session.close()
        self.source = self.skull = self.known = self.sent = None
