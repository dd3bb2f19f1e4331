"""The logic of the module, which can be used from Python without the panel.

logic = SkullVAELogic()
added = logic.completeSkull(segmentationNode, segmentID)
print(added.segmentationNode.GetName(), added.implantID)
print(logic.report["implant"])
if logic.requestGamma(0.5):
    logic.waitForResponses()
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
from .completion import CompletionResult, CompletionRun, Response, RunSettings
from .export import ExportResult, ExportRun, SessionFiles
from .installation import InstallationCheck
from .masks import Mask
from .meshfiles import MeshData
from .parameters import SkullVAEParameterNode
from .remaining import RemainingTime
from .results import AddedResult
from .segments import SkullInput, readInput

# Messages of the library and of torch if the memory of the graphics card is insufficient.
_OUT_OF_GPU_MEMORY = ("graphics card has not enough memory", "cuda out of memory", "outofmemoryerror")


class SkullVAELogic(ScriptedLoadableModuleLogic):
    """Reads the input from the scene, completes it in a child process and adds the result to the scene.

    After a run the child keeps running: requestGamma(), requestProposal(), requestDefects() and requestImplant()
    request another shape, other defects or another printable implant, and pollResponses() updates the scene, until
    closeSession(), the next start() or the scene is closed. After a run that found no defect, requestDefects() can name
    one.

    createRun: makes the run for (array, affine, settings), as CompletionRun does; tests pass a run with a known result.
    command: command to run instead of `python -m SkullVAELib` for everything else.
    added: the last result; None before the first run and while no defect is filled. report: its report.json.
    notice: a remark on the run for the user, such as that it was repeated on the CPU.
    """

    def __init__(self, createRun: Callable = CompletionRun, command: Sequence[str] | None = None) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self._createRun = createRun
        self._command = command
        self._run = None
        self._session = None
        self._source: SkullInput | None = None
        # Node ID and segment ID of the input of the last run.
        self._key: tuple[str, str] | None = None
        # Surface of the skull from the last run, for a result that is added to the scene later.
        self._skull: MeshData | None = None
        self._settings = RunSettings()
        self._newSegmentation = False
        self._remaining = RemainingTime()
        # Files requested from the session, by kind: None until the response arrives.
        self._files: dict[str, Path | SkullVAEError | None] = {}
        self._sceneObserver = None
        self.added: AddedResult | None = None
        self.report: dict = {}
        # Numbers in the request that the current result responds to; None for the result of a run.
        self.askedNumbers: set[int] | None = None
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
        settings: RunSettings | None = None,
        newSegmentation: bool = False,
    ) -> None:
        """Start completing a segment of a segmentation node, or a CT volume node; poll() until it returns False.

        Raises SkullVAEError before anything is run if the input cannot be used.
        """
        if self.running:
            raise RuntimeError("a run is in progress")
        source = readInput(inputNode, segmentID)
        self.closeSession()
        self.added, self.report, self.notice = None, {}, ""
        self._source = source
        self._settings = settings or RunSettings()
        self._newSegmentation = newSegmentation
        self._observeScene()
        self._startRun()

    def poll(self, onLog: Callable[[list[str]], None] = lambda lines: None) -> bool:
        """Poll the run: True while it runs. At its end the result is added to the scene.

        onLog: receives the lines that the child has printed since the last call.
        Raises SkullVAEError if the run failed.
        """
        if self._run is None:
            return False
        try:
            lines = self._run.poll()
            if lines:
                onLog(lines)
            if slicer.mrmlScene.GetNodeByID(self._source.nodeID) is None:
                raise SkullVAEError(
                    "The input was removed from the scene during the run", "Run again with another input"
                )
            if self._run.running:
                self._remaining.update(self._run.fraction)
                return True
            try:
                result = self._run.result()
            except SkullVAEError as error:
                if self._settings.device == "cpu" or not _isOutOfGPUMemory(error):
                    raise
                self._startAgainOnCPU()
                return True
            if result is not None:
                if result.found:
                    self.added = results.addResult(self._source, result, self._newSegmentation)
                self.report, self._skull, self.askedNumbers = result.report, result.skull, None
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
        settings: RunSettings | None = None,
        newSegmentation: bool = False,
        onLog: Callable[[list[str]], None] = lambda lines: None,
    ) -> AddedResult | None:
        """As start(), but waits for the end; None if no defect was found. Blocks, so the panel must not call it."""
        self.start(inputNode, segmentID, settings, newSegmentation)
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
        """The current stage of the run."""
        return self._run.stage if self._run else ""

    @property
    def fraction(self) -> float:
        """The fraction done, 0 to 1."""
        return self._run.fraction if self._run else 0.0

    @property
    def secondsLeft(self) -> float | None:
        """Estimated seconds until the end of the run; None while there is no estimate."""
        return self._remaining.seconds if self._run else None

    def cancel(self) -> None:
        """Stop the run and all its processes; the scene is not changed. Does nothing without a run."""
        self._closeRun()

    # ----------------------------------------------------------------------------------------------------------------
    # The session after a run

    @property
    def live(self) -> bool:
        """Whether the result of the last run can be changed by requests."""
        return self.waiting and self.added is not None

    @property
    def waiting(self) -> bool:
        """Whether the process of the last run takes requests, also if it found no defect."""
        return self._session is not None and self._session.live

    def isOf(self, inputNode, segmentID: str = "") -> bool:
        """Whether the last run was that of this input (segmentID "" for a CT)."""
        return inputNode is not None and self._key == (inputNode.GetID(), segmentID)

    @property
    def responsePending(self) -> bool:
        """Whether a response is still missing."""
        return self._session is not None and self._session.responsePending

    def requestGamma(self, gamma: float) -> bool:
        """Request the shape with gamma times the deviation vector added; False without a live session."""
        return self._request("gamma", float(gamma))

    def requestProposal(self, number: int) -> bool:
        """Request the proposal with this number, from 1; False without a live session."""
        return self._request("proposal", int(number))

    def requestDefects(self, filled: Sequence[int] = (), at: Sequence[tuple[float, float, float]] = ()) -> bool:
        """Request an implant for the candidate defects with these numbers and the holes nearest to these points.

        filled: numbers in the report of the run; at: RAS mm in the input's own coordinates. With neither, the result is
        removed from the scene. Returns False without a session.
        """
        value = {"filled": [int(number) for number in filled], "at": [[float(x) for x in point] for point in at]}
        return self.waiting and self._session.request("defects", value)

    def requestImplant(self, settings: RunSettings) -> bool:
        """Request the printable implant of the current shape with these settings; False without a live session."""
        return self._request("implant", settings.implantRequest())

    def pollResponses(self, onLog: Callable[[list[str]], None] = lambda lines: None) -> bool:
        """Update the result in the scene from the responses; whether result or report have changed.

        Raises SkullVAEError if the last response is an error; the result is then as before the request.
        """
        if self._session is None:
            return False
        removed = self.added is not None and not self.added.exists
        if removed or slicer.mrmlScene.GetNodeByID(self._source.nodeID) is None:
            self.closeSession()
            return False
        responses, lines = self._session.pollResponses()
        if lines:
            onLog(lines)
        changed = False
        error = None
        for response in responses:
            if response.kind not in self._files:
                error = response.error
            changed = self._apply(response) or changed
        if not self._session.live and not self._session.responsePending:
            self.closeSession()
        if error is not None:
            raise error
        return changed

    def waitForResponses(self) -> bool:
        """Wait for all responses; whether anything has changed. Blocks, so the panel must not call it."""
        changed = False
        while self.responsePending:
            changed = self.pollResponses() or changed
            time.sleep(0.02)
        return changed

    def closeSession(self) -> None:
        """End the child that keeps the completion and remove its folder; the result stays in the scene."""
        session, self._session = self._session, None
        self._files.clear()
        if session is not None:
            session.close()
        self._forgetSource()

    # ----------------------------------------------------------------------------------------------------------------
    # Results in the scene

    def hasResult(self, inputNode, segmentID: str = "") -> bool:
        """Whether the scene contains a result of this input (segmentID "" for a CT)."""
        return results.resultOf(inputNode, segmentID) is not None

    def resultOf(self, inputNode, segmentID: str = "") -> AddedResult | None:
        """The result of an input in the scene, also after the scene was saved and loaded; None without one."""
        return results.resultOf(inputNode, segmentID)

    def removeResult(self, inputNode, segmentID: str = "") -> bool:
        """Remove everything that was added for this input; whether there was anything."""
        removed = results.removeResult(inputNode, segmentID)
        if self.isOf(inputNode, segmentID) and not self.running:
            self.closeSession()
            self.added, self.report = None, {}
        return removed

    def showThickness(self, modelNode, shown: bool) -> None:
        """Colour the model of a printable implant by its thickness in mm, or reset its colour."""
        meshnodes.showColours(modelNode, meshnodes.THICKNESS if shown else None)

    def showUncertainty(self, modelNode, shown: bool) -> None:
        """Colour the model by the half-width of the 90 % uncertainty band in mm, or reset its colour."""
        meshnodes.showColours(modelNode, meshnodes.UNCERTAINTY if shown else None)

    def startExport(
        self,
        folder: str | os.PathLike,
        formats: Sequence[str] = ("stl",),
        skull: bool = True,
        labelmaps: bool = True,
        report: bool = True,
        inputNode=None,
        segmentID: str = "",
    ) -> ExportRun:
        """Start exporting the result of an input (default: of the last run) to a folder; see export.ExportRun.

        Poll the returned run until its end; its result() lists the files written. Raises SkullVAEError.
        """
        if inputNode is None and self._key is not None:
            inputNode, segmentID = slicer.mrmlScene.GetNodeByID(self._key[0]), self._key[1]
        added = results.resultOf(inputNode, segmentID)
        if added is None:
            raise SkullVAEError("There is no result to export", "Complete the skull first")
        if self.responsePending:
            raise SkullVAEError("The printable implant is still being updated", "Export when it is done")
        ours = self.live and self._key == (inputNode.GetID(), segmentID)
        files = _SessionFiles(self) if ours else None
        run = ExportRun(added, inputNode, segmentID, folder, formats, skull, labelmaps, report, files, self._command)
        run.start()
        return run

    def exportResult(
        self,
        folder: str | os.PathLike,
        formats: Sequence[str] = ("stl",),
        skull: bool = True,
        labelmaps: bool = True,
        report: bool = True,
        onProgress: Callable[[str, float], None] = lambda stage, fraction: None,
        inputNode=None,
        segmentID: str = "",
    ) -> ExportResult:
        """As startExport(), but waits for the end and returns the result. Blocks, so the panel must not call it."""
        self.waitForResponses()
        return self.startExport(folder, formats, skull, labelmaps, report, inputNode, segmentID).wait(onProgress)

    def checkInstallation(self) -> InstallationCheck:
        """Start collecting a report on the installation; poll() it until its end, then show its text."""
        check = InstallationCheck(command=self._command)
        check.start()
        return check

    def _startRun(self) -> None:
        self._remaining = RemainingTime()
        self._run = self._createRun(self._source.array, self._source.affine, self._settings)
        try:
            self._run.start()
        except BaseException:
            self._closeRun()
            raise

    def _startAgainOnCPU(self) -> None:
        self._run.close()
        self._settings = dataclasses.replace(self._settings, device="cpu")
        self.notice = _("The memory of the graphics card is insufficient: the run was repeated on the CPU.")
        self._startRun()

    def _closeRun(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.close()
        self._forgetSource()

    def _forgetSource(self) -> None:
        # Releases the voxels of the input.
        if self._run is None and self._session is None:
            self._source = self._skull = None

    def _request(self, kind: str, value: object) -> bool:
        return self.live and self._session.request(kind, value)

    def _apply(self, response: Response) -> bool:
        """Update result and files from a response; whether result or report have changed."""
        mesh = response.printableImplant
        if response.kind in self._files:
            missing = SkullVAEError(f"The session has not written the file '{response.kind}'", "Run again")
            self._files[response.kind] = response.error or (response.files[0] if response.files else missing)
            return False
        if response.error is not None or response.superseded:
            return False
        self.report = {**self.report, **response.report}
        if response.kind == "defects":
            self.askedNumbers = set(response.value["filled"])
        if self.report.get("found") is False:
            self._removeUnfilled()
        elif self.added is None:
            self._addFilled(response.completed, response.implant)
        else:
            self.added = results.changeResult(
                self.added, self._source, self.report, response.completed, response.implant, mesh
            )
        return bool(response.report) or response.implant is not None or mesh is not None

    def _addFilled(self, completed: Mask | None, implant: Mask | None) -> None:
        """Add the result of a session that had none; its mesh follows with the next response."""
        if implant is not None and not implant.empty:
            result = CompletionResult(completed, implant, self.report, None, self._skull)
            self.added = results.addResult(self._source, result, self._newSegmentation)

    def _removeUnfilled(self) -> None:
        """Remove the result, since no defect is filled; the session continues."""
        for name in ("implant", "printable_implant", "checks", "uncertainty"):
            self.report.pop(name, None)
        if self.added is not None:
            node = slicer.mrmlScene.GetNodeByID(self._source.nodeID)
            results.removeResult(node, self._source.segmentID)
            self.added = None

    def _observeScene(self) -> None:
        """End run and session when their scene is closed or their input is removed, with or without a panel."""
        scene = slicer.mrmlScene
        if self._sceneObserver is scene:
            return
        this = weakref.ref(self)

        def onClose(caller, event) -> None:
            logic = this()
            if logic is not None:
                logic.cancel()
                logic.closeSession()
                logic.added, logic.report = None, {}

        def onNodeRemoved(caller, event) -> None:
            logic = this()
            # A run ends with an error at the next poll().
            if logic is not None and logic._session is not None and scene.GetNodeByID(logic._source.nodeID) is None:
                logic.closeSession()

        for event, call in ((scene.StartCloseEvent, onClose), (scene.NodeRemovedEvent, onNodeRemoved)):
            weakref.finalize(self, scene.RemoveObserver, scene.AddObserver(event, call))
        self._sceneObserver = scene


class _SessionFiles(SessionFiles):
    """Skull surface and report from the session of the logic, while it is live."""

    def __init__(self, logic: SkullVAELogic):
        self._logic = logic

    def request(self, kind: str) -> bool:
        if not self._logic._request(kind, True):
            return False
        self._logic._files[kind] = None
        return True

    def take(self, kind: str) -> Path | None:
        # The panel polls as well: either of the two calls stores the files of a response.
        self._logic.pollResponses()
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
