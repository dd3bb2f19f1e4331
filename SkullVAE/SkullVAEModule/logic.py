"""The module's logic: usable from Python without the panel.

logic = SkullVAELogic()
added = logic.completeSkull(segmentationNode, segmentID)
print(added.segmentationNode.GetName(), added.implantID)
print(logic.report["implant"])
if logic.requestGamma(0.5):
    logic.waitForAnswers()
print(logic.exportResult("folder", formats=("stl",)).files)
logic.closeSession()
"""

from __future__ import annotations

import dataclasses
import os
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from SkullVAELib.core.errors import SkullVAEError

from . import meshnodes, results
from .completion import Answer, CompletionOptions, CompletionRun
from .export import ExportResult, ExportRun, SessionFiles
from .installation import InstallationCheck
from .parameters import SkullVAEParameterNode
from .remaining import RemainingTime
from .results import AddedResult
from .segments import SkullInput, readInput

# What the library says when the graphics card's memory does not suffice, and what torch says.
_OUT_OF_GPU_MEMORY = ("graphics card has not enough memory", "cuda out of memory", "outofmemoryerror")


class SkullVAELogic(ScriptedLoadableModuleLogic):
    """Reads the input from the scene, has it completed in a child process, puts the result into the scene.

    After a result the child stays: requestGamma(), requestProposal() and requestPart() ask it for another shape or
    part, and pollAnswers() puts what comes into the scene, until closeSession(), the next start() or the scene's end.

    createRun: makes the run for (array, affine, options), as CompletionRun does; a test puts a known result there.
    command: what to run in place of `python -m SkullVAELib` for everything else.
    added: the last result; None before the first run and where no defect was found. report: its report.json.
    notice: what the user should know of the run besides, such as that it was done again on the processor.
    """

    def __init__(self, createRun: Callable = CompletionRun, command: Sequence[str] | None = None) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self._createRun = createRun
        self._command = command
        self._run = None
        self._session = None
        self._source: SkullInput | None = None
        # Of the last result: its input's node and segment.
        self._key: tuple[str, str] | None = None
        self._options = CompletionOptions()
        self._newSegmentation = False
        self._remaining = RemainingTime()
        # Files asked of the session, by kind: None while they are awaited.
        self._files: dict[str, Path | SkullVAEError | None] = {}
        self._sceneObserver: tuple | None = None
        self.added: AddedResult | None = None
        self.report: dict = {}
        self.notice = ""

    def getParameterNode(self) -> SkullVAEParameterNode:
        """The parameters, which are saved with the scene."""
        return SkullVAEParameterNode(super().getParameterNode())

    # ----------------------------------------------------------------------------------------------------------------
    # A run

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
        source = readInput(inputNode, segmentID)
        self.closeSession()
        self.added, self.report, self.notice = None, {}, ""
        self._source = source
        self._options = options or CompletionOptions()
        self._newSegmentation = newSegmentation
        self._observeScene()
        self._startRun()

    def poll(self, onLog: Callable[[list[str]], None] = lambda lines: None) -> bool:
        """Follow the run: True while it goes on. At its end the result is put into the scene.

        onLog: gets the lines the child has printed since the last call. Raises SkullVAEError when the run failed.
        """
        if self._run is None:
            return False
        try:
            lines = self._run.poll()
            if lines:
                onLog(lines)
            if slicer.mrmlScene.GetNodeByID(self._source.nodeID) is None:
                raise SkullVAEError(
                    "The input was removed while its skull was being completed", "Run again with another input"
                )
            if self._run.running:
                self._remaining.update(self._run.fraction)
                return True
            try:
                result = self._run.result()
            except SkullVAEError as error:
                if self._options.device == "cpu" or not _isOutOfGPUMemory(error):
                    raise
                self._startAgainOnCPU()
                return True
            if result is not None:
                self.added = results.addResult(self._source, result, self._newSegmentation)
                self.report = result.report
                self._key = self._source.nodeID, self._source.segmentID
                if self._run.live:
                    self._session, self._run = self._run, None
        except BaseException:
            self._closeRun()
            raise
        self._closeRun()
        return False

    def completeSkull(
        self,
        inputNode,
        segmentID: str = "",
        options: CompletionOptions | None = None,
        newSegmentation: bool = False,
        onLog: Callable[[list[str]], None] = lambda lines: None,
    ) -> AddedResult | None:
        """As start(), but waits for the end; None when no defect was found. Not for the panel: it blocks."""
        self.start(inputNode, segmentID, options, newSegmentation)
        try:
            while self.poll(onLog):
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

    @property
    def secondsLeft(self) -> float | None:
        """How long the run will probably take still; None until that can be told."""
        return self._remaining.seconds if self._run else None

    def cancel(self) -> None:
        """End the run and all its processes; the scene stays as it is. Does nothing when nothing runs."""
        self._closeRun()

    # ----------------------------------------------------------------------------------------------------------------
    # The session after a run

    @property
    def live(self) -> bool:
        """Whether the result of the last run can be changed by requests."""
        return self._session is not None and self._session.live and self.added is not None

    @property
    def answering(self) -> bool:
        """Whether an answer is awaited."""
        return self._session is not None and self._session.answering

    def requestGamma(self, gamma: float) -> bool:
        """Ask for the shape at gamma deviation vectors from the prior's; False when there is no live session."""
        return self._request("gamma", float(gamma))

    def requestProposal(self, number: int) -> bool:
        """Ask for the proposal of this number, from 1, as the result's shape; False without a live session."""
        return self._request("proposal", int(number))

    def requestPart(self, options: CompletionOptions) -> bool:
        """Ask for the present shape's part with these options' part choices; False without a live session."""
        return self._request("part", options.part())

    def pollAnswers(self, onLog: Callable[[list[str]], None] = lambda lines: None) -> bool:
        """Put the answers that have come into the scene, in place; whether result or report have changed.

        Raises SkullVAEError when the last answer is an error; the result is then as before the request.
        """
        if self._session is None:
            return False
        if self.added is None or not self.added.exists or slicer.mrmlScene.GetNodeByID(self._source.nodeID) is None:
            self.closeSession()
            return False
        answers, lines = self._session.pollAnswers()
        if lines:
            onLog(lines)
        changed = False
        error = None
        for answer in answers:
            if answer.kind not in self._files:
                error = answer.error
            changed = self._take(answer) or changed
        if not self._session.live and not self._session.answering:
            self.closeSession()
        if error is not None:
            raise error
        return changed

    def waitForAnswers(self) -> bool:
        """pollAnswers() until all have come; whether anything has changed. Not for the panel: it blocks."""
        changed = False
        while self.answering:
            changed = self.pollAnswers() or changed
            time.sleep(0.02)
        return changed

    def closeSession(self) -> None:
        """End the child that holds the completion and remove its folder; the result stays as it is in the scene."""
        session, self._session = self._session, None
        self._files.clear()
        if session is not None:
            session.close()
        self._forgetSource()

    # ----------------------------------------------------------------------------------------------------------------
    # Results in the scene

    def hasResult(self, inputNode, segmentID: str = "") -> bool:
        """Whether the scene holds a result of this input ("" for a CT)."""
        return results.resultOf(inputNode, segmentID) is not None

    def resultOf(self, inputNode, segmentID: str = "") -> AddedResult | None:
        """The result of an input that is in the scene, also of a scene that was saved and loaded; None without."""
        return results.resultOf(inputNode, segmentID)

    def removeResult(self, inputNode, segmentID: str = "") -> bool:
        """Remove exactly what was added for this input; whether there was anything."""
        removed = results.removeResult(inputNode, segmentID)
        ours = inputNode is not None and self._key == (inputNode.GetID(), segmentID)
        if ours and not self.running:
            self.closeSession()
            self.added, self.report = None, {}
        return removed

    def showThickness(self, modelNode, shown: bool) -> None:
        """Colour a part's model by its thickness in mm, or show it in its own colour again."""
        meshnodes.showColours(modelNode, meshnodes.THICKNESS if shown else None)

    def showUncertainty(self, modelNode, shown: bool) -> None:
        """Colour a part's model by how near the true surface lies in mm, nine times of ten, or no longer."""
        meshnodes.showColours(modelNode, meshnodes.UNCERTAINTY if shown else None)

    def startExport(
        self,
        folder: str | os.PathLike,
        formats: Sequence[str] = ("stl",),
        host: bool = True,
        labelmaps: bool = True,
        report: bool = True,
        inputNode=None,
        segmentID: str = "",
    ) -> ExportRun:
        """Begin to write the result of an input (default: of the last run) into a folder; see export.ExportRun.

        Poll the run that is returned until it has ended; its result() says what was written. Raises SkullVAEError.
        """
        if inputNode is None and self._key is not None:
            inputNode, segmentID = slicer.mrmlScene.GetNodeByID(self._key[0]), self._key[1]
        added = results.resultOf(inputNode, segmentID)
        if added is None:
            raise SkullVAEError("There is no result to export", "Complete the skull first")
        if self.answering:
            raise SkullVAEError("The part is still being made", "Export when it is done")
        ours = self.live and self._key == (inputNode.GetID(), segmentID)
        files = _SessionFiles(self) if ours else None
        run = ExportRun(added, inputNode, segmentID, folder, formats, host, labelmaps, report, files, self._command)
        run.start()
        return run

    def exportResult(
        self,
        folder: str | os.PathLike,
        formats: Sequence[str] = ("stl",),
        host: bool = True,
        labelmaps: bool = True,
        report: bool = True,
        onProgress: Callable[[str, float], None] = lambda stage, fraction: None,
        inputNode=None,
        segmentID: str = "",
    ) -> ExportResult:
        """As startExport(), but waits for the end and returns what was written. Not for the panel: it blocks."""
        self.waitForAnswers()
        return self.startExport(folder, formats, host, labelmaps, report, inputNode, segmentID).wait(onProgress)

    def checkInstallation(self) -> InstallationCheck:
        """Begin to gather a report of the installation; poll() it until it has ended, then show its text."""
        check = InstallationCheck(command=self._command)
        check.start()
        return check

    def _startRun(self) -> None:
        self._remaining = RemainingTime()
        self._run = self._createRun(self._source.array, self._source.affine, self._options)
        try:
            self._run.start()
        except BaseException:
            self._closeRun()
            raise

    def _startAgainOnCPU(self) -> None:
        self._run.close()
        self._options = dataclasses.replace(self._options, device="cpu")
        self.notice = _("The graphics card has not enough memory: done again on the processor.")
        self._startRun()

    def _closeRun(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.close()
        self._forgetSource()

    def _forgetSource(self) -> None:
        # It holds the input's voxels.
        if self._run is None and self._session is None:
            self._source = None

    def _request(self, kind: str, value: object) -> bool:
        return self.live and self._session.request(kind, value)

    def _take(self, answer: Answer) -> bool:
        if answer.kind in self._files:
            missing = SkullVAEError(f"The session made no {answer.kind}", "Run again")
            self._files[answer.kind] = answer.error or (answer.files[0] if answer.files else missing)
            return False
        if answer.error is not None or answer.superseded:
            return False
        self.report = {**self.report, **answer.report}
        results.changeResult(self.added, self._source, self.report, answer.completed, answer.implant, answer.part)
        return bool(answer.report) or answer.implant is not None or answer.part is not None

    def _observeScene(self) -> None:
        """End run and session with the scene they belong to, whether or not there is a panel."""
        scene = slicer.mrmlScene
        if self._sceneObserver is not None and self._sceneObserver[0] is scene:
            return
        this = weakref.ref(self)

        def onClose(caller, event) -> None:
            logic = this()
            if logic is not None:
                logic.cancel()
                logic.closeSession()
                logic.added, logic.report = None, {}

        tag = scene.AddObserver(scene.StartCloseEvent, onClose)
        self._sceneObserver = scene, tag
        weakref.finalize(self, scene.RemoveObserver, tag)


class _SessionFiles(SessionFiles):
    """The host skull and the report, from the logic's session while it lives."""

    def __init__(self, logic: SkullVAELogic):
        self._logic = logic

    def request(self, kind: str) -> bool:
        if not self._logic._request(kind, True):
            return False
        self._logic._files[kind] = None
        return True

    def take(self, kind: str) -> Path | None:
        # The panel polls, too: whoever comes first puts the answers where they belong.
        self._logic.pollAnswers()
        if kind not in self._logic._files:
            return super().take(kind)
        found = self._logic._files[kind]
        if found is not None:
            del self._logic._files[kind]
        if isinstance(found, SkullVAEError):
            raise found
        return found


def _isOutOfGPUMemory(error: SkullVAEError) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in _OUT_OF_GPU_MEMORY)
