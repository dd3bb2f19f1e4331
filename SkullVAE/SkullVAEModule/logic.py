"""The module's logic: usable from Python without the panel.

logic = SkullVAELogic()
added = logic.completeSkull(segmentationNode, segmentID)
print(added.segmentationNode.GetName(), added.implantID)
"""

from __future__ import annotations

import time
from collections.abc import Callable

from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from .completion import CompletionOptions, CompletionRun
from .parameters import SkullVAEParameterNode
from .segments import AddedSegments, SkullInput, addResult, readInput


class SkullVAELogic(ScriptedLoadableModuleLogic):
    """Reads the input from the scene, has it completed in a child process, puts the result into the scene.

    createRun: makes the run for (array, affine, options), as CompletionRun does; a test puts a known result there.
    added: the last result; None before the first run and where no defect was found. report: its report.json.
    """

    def __init__(self, createRun: Callable = CompletionRun) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self._createRun = createRun
        self._run = None
        self._source: SkullInput | None = None
        self._newSegmentation = False
        self.added: AddedSegments | None = None
        self.report: dict = {}

    def getParameterNode(self) -> SkullVAEParameterNode:
        """The parameters, which are saved with the scene."""
        return SkullVAEParameterNode(super().getParameterNode())

    def start(
        self,
        inputNode,
        segmentID: str = "",
        options: CompletionOptions | None = None,
        newSegmentation: bool = False,
    ) -> None:
        """Start completing a segment of a segmentation node, or a CT volume node; poll() until it returns False.

        Raises SkullVAEError before anything is run when the input cannot be used.
        """
        if self.running:
            raise RuntimeError("a run is in progress")
        self.added, self.report = None, {}
        self._source = readInput(inputNode, segmentID)
        self._newSegmentation = newSegmentation
        self._run = self._createRun(self._source.array, self._source.affine, options or CompletionOptions())
        try:
            self._run.start()
        except BaseException:
            self._close()
            raise

    def poll(self, onLog: Callable[[list[str]], None] = lambda lines: None) -> bool:
        """Follow the run: True while it goes on. At its end the result is put into the scene.

        onLog: gets the lines the child has printed since the last call. Raises SkullVAEError when the run failed.
        """
        if self._run is None:
            return False
        lines = self._run.poll()
        if lines:
            onLog(lines)
        if self._run.running:
            return True
        try:
            result = self._run.result()
            if result is not None:
                self.added = addResult(self._source, result, self._newSegmentation)
                self.report = result.report
        finally:
            self._close()
        return False

    def completeSkull(
        self,
        inputNode,
        segmentID: str = "",
        options: CompletionOptions | None = None,
        newSegmentation: bool = False,
    ) -> AddedSegments | None:
        """As start(), but waits for the end; None when no defect was found. Not for the panel: it blocks."""
        self.start(inputNode, segmentID, options, newSegmentation)
        try:
            while self.poll():
                time.sleep(0.05)
        finally:
            self.cancel()
        return self.added

    @property
    def running(self) -> bool:
        """Whether a run is in progress."""
        return self._run is not None

    @property
    def stage(self) -> str:
        """What the run is doing."""
        return self._run.stage if self._run else ""

    @property
    def fraction(self) -> float:
        """The part done, 0 to 1."""
        return self._run.fraction if self._run else 0.0

    def cancel(self) -> None:
        """End the run and all its processes; the scene stays as it is. Does nothing when nothing runs."""
        if self._run is not None:
            self._close()

    def _close(self) -> None:
        self._run.close()
        self._run = None
        self._source = None
