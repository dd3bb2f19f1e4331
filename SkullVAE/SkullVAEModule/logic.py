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
import itertools
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
from .additionalparts import AdditionalParts, removeParts
from .bonefile import BoneFile
from .cases import MOST_SESSIONS, Case, Points
from .comparison import ComparisonRun, PlannedImplant
from .completion import CompletionResult, CompletionRun, Response, RunSettings
from .export import ExportResult, ExportRun, SessionFiles
from .installation import InstallationCheck
from .masks import Mask
from .meshfiles import MeshData
from .parameters import SkullVAEParameterNode, inputKey
from .preloading import Preloader
from .remaining import RemainingTime
from .results import AddedResult
from .segments import SkullInput, maskOnGrid, readInput

# Messages of the library and of torch if the memory of the graphics card is insufficient.
_OUT_OF_GPU_MEMORY = ("graphics card has not enough memory", "cuda out of memory", "outofmemoryerror")

# What the panel sets to request a shape again that undo of the scene has restored.
_SHAPE_FIELDS = ("gamma", "proposal", "candidates")
_shapeNumbers = itertools.count(1)


class SkullVAELogic(ScriptedLoadableModuleLogic):
    """Reads the input from the scene, completes it in a child process and adds the result to the scene.

    After a run the child keeps running: requestGamma(), requestProposal(), requestDefects() and requestImplant()
    request another shape, other defects or another printable implant, requestParts() additional printed parts,
    requestEdited() and requestPoints() the implant that was edited by hand, and pollResponses() updates the scene,
    until closeSession() or the scene is closed. After a run that found no defect, requestDefects() can name one.

    preload() makes the next start() quicker.

    Each input that was completed has its own result and child; at most `cases.MOST_SESSIONS` children are kept.
    Requests and the attributes below are those of the last run, or of the input that was chosen with select().

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
        # By node ID and segment ID of the input; the one that was used last is the last.
        self._cases: dict[tuple[str, str], Case] = {}
        # That of the current input, and that of the run in progress.
        self._case = Case()
        self._running = self._case
        self._settings = RunSettings()
        self._remaining = RemainingTime()
        self._sceneObserver = None
        self._preloader = Preloader()
        self.notice = ""

    @property
    def added(self) -> AddedResult | None:
        """The result of the current input in the scene."""
        return self._case.added

    @property
    def report(self) -> dict:
        """The report of the current input."""
        return self._case.report

    @report.setter
    def report(self, report: dict) -> None:
        self._case.report = report

    @property
    def askedNumbers(self) -> set[int] | None:
        """Numbers in the request that the current result responds to; None for the result of a run."""
        return self._case.askedNumbers

    @property
    def parts(self) -> AdditionalParts | None:
        """Additional printed parts of the present implant; None if they were not made."""
        return self._case.parts

    @property
    def partsPending(self) -> bool:
        """Whether additional parts of the current input were requested and are not made yet."""
        return self._session is not None and self._session.isPending("tooling")

    @property
    def _session(self) -> CompletionRun | None:
        return self._case.session

    @property
    def _source(self) -> SkullInput | None:
        return self._case.source

    def select(self, inputNode, segmentID: str = "") -> None:
        """Make this input (segmentID "" for a CT) the current one; nothing happens while a run is in progress."""
        if self.running:
            return
        key = inputKey(inputNode, segmentID)
        if key in self._cases:
            # It is used last now.
            self._cases[key] = self._cases.pop(key)
            self._case = self._cases[key]
        elif self._case in self._cases.values():
            self._case = Case()

    def getParameterNode(self) -> SkullVAEParameterNode:
        """The parameters, which are saved with the scene."""
        return SkullVAEParameterNode(super().getParameterNode())

    # ----------------------------------------------------------------------------------------------------------------
    # A run

    def preload(self, settings: RunSettings) -> None:
        """Let a process load libraries and model for the next run with these settings, and wait for it.

        Does nothing during a run, and while the process of the current input takes requests.
        """
        if not (self.running or self.waiting):
            self._observeScene()
            self._preloader.prepare(settings)

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
        self._forget((source.nodeID, source.segmentID))
        self.notice = ""
        self._case = self._running = Case(source, newSegmentation)
        self._settings = settings or RunSettings()
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
            source = self._running.source
            node = slicer.mrmlScene.GetNodeByID(source.nodeID)
            if node is None or (source.segmentID and node.GetSegmentation().GetSegment(source.segmentID) is None):
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
                self._keepResult(result)
        except BaseException:
            self._closeRun()
            raise
        self._closeRun()
        return False

    def _keepResult(self, result: CompletionResult) -> None:
        """Add the result of the run to the scene, and keep its process."""
        case, run = self._running, self._run
        key = case.source.nodeID, case.source.segmentID
        if result.found:
            earlier = results.resultOf(slicer.mrmlScene.GetNodeByID(key[0]), key[1])
            kept = "" if earlier is None else results.keepEdited(earlier)
            if kept:
                text = _("The implant that was edited by hand is kept as segment '{name}'.").format(name=kept)
                self.notice = " ".join(filter(None, [self.notice, text]))
            case.added = results.addResult(case.source, result, case.newSegmentation)
        case.report, case.skull, case.known = result.report, result.skull, result.implant
        self._numberShape(case)
        case.forgetVoxels()
        self._cases[key] = case
        if run.live:
            case.session, self._run = run, None
            live = [other for other in self._cases.values() if other.session is not None]
            for other in live[:-MOST_SESSIONS]:
                other.end()
        else:
            case.source = case.skull = case.known = None

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
        return self._case.waiting

    def isOf(self, inputNode, segmentID: str = "") -> bool:
        """Whether this input (segmentID "" for a CT) is the current one, and was completed."""
        return self._cases.get(inputKey(inputNode, segmentID)) is self._case

    @property
    def responsePending(self) -> bool:
        """Whether a response is still missing, of any input."""
        return any(case.session is not None and case.session.responsePending for case in self._cases.values())

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

    def requestParts(self, value: dict) -> bool:
        """Request additional printed parts of the present implant, see parameters.partSettings(); False if not live."""
        return bool(value) and self._request("tooling", value)

    def editedImplant(self) -> Mask | None:
        """The implant's voxels if they were edited since the last request or response; None if they were not."""
        return self._editedImplant(self._case) if self.live else None

    def requestEdited(self) -> bool:
        """Request the printable implant of the implant's segment as it is now, if it was edited; whether it was.

        Without a live session nothing is requested.
        """
        implant = self.editedImplant()
        if implant is None or not self._case.session.requestEdited(implant):
            return False
        # What is edited after this is requested anew.
        self._case.sent = implant
        return True

    def requestPoints(self, points: Sequence[tuple[float, float, float]]) -> bool:
        """Request the shape whose outer surface passes through these points; False without a live session.

        points: RAS mm in the input's own coordinates; none for the shape without points.
        """
        return self._request("points", [[float(x) for x in point] for point in points])

    @property
    def canUndoEdit(self) -> bool:
        """Whether a step of editing by hand can be undone."""
        return self.live and not self.responsePending and self._case.history.canUndo

    @property
    def canRedoEdit(self) -> bool:
        """Whether a step of editing by hand can be redone."""
        return self.live and not self.responsePending and self._case.history.canRedo

    def undoEdit(self) -> Points | None:
        """Undo a step of editing by hand: voxels in the scene at once; points, which are returned, by the caller."""
        return self._replay(self._case.history.undo()) if self.canUndoEdit else None

    def redoEdit(self) -> Points | None:
        """Redo a step of editing by hand, see undoEdit()."""
        return self._replay(self._case.history.redo()) if self.canRedoEdit else None

    def _replay(self, state: Mask | Points) -> Points | None:
        if not isinstance(state, Mask):
            return state
        case = self._case
        results.showVoxels(case.added, case.source, state)
        self.requestEdited()
        return None

    @property
    def restoredShape(self) -> dict | None:
        """Gamma, proposal and candidates in the report of the shape that undo or redo of the scene has shown again.

        None if the implant's segment has the shape that the process has, or voxels that the user has edited.
        """
        return self._restoredShape(self._case) if self.live else None

    def _restoredShape(self, case: Case) -> dict | None:
        shape = self._earlierShape(case)
        # The same fields: the shapes differ by what was edited only, such as points.
        if shape is None or shape == self._shapeFields(case) or results.isEdited(case.added):
            return None
        return shape

    def _earlierShape(self, case: Case) -> dict | None:
        number = "" if case.added is None else results.shapeOf(case.added)
        return None if number == case.shape else case.shapes.get(number)

    def _shapeFields(self, case: Case) -> dict:
        return {name: case.report.get(name) for name in _SHAPE_FIELDS}

    def _numberShape(self, case: Case) -> None:
        """Give the shape in the scene a number, by which it is recognised when undo shows it again."""
        case.shape = str(next(_shapeNumbers))
        if case.added is not None:
            results.markShape(case.added, case.shape)
            if not case.report.get("edited"):
                case.shapes[case.shape] = self._shapeFields(case)

    def _editedImplant(self, case: Case) -> Mask | None:
        if case.known is None or case.added is None or not case.added.exists:
            return None
        if self._restoredShape(case) is not None:
            return None
        implant = maskOnGrid(case.added.segmentationNode, case.added.implantID, case.source)
        return None if implant.same(case.known if case.sent is None else case.sent) else implant

    def pollResponses(self, onLog: Callable[[list[str]], None] = lambda lines: None) -> bool:
        """Update the results in the scene from the responses; whether a result or report has changed.

        Raises SkullVAEError if the last response is an error; the result is then as before the request.
        """
        changed = False
        error = None
        for case in list(self._cases.values()):
            if case.session is None:
                continue
            removed = case.added is not None and not case.added.exists
            if removed or slicer.mrmlScene.GetNodeByID(case.source.nodeID) is None:
                case.end()
                continue
            responses, lines = case.session.pollResponses()
            if lines:
                onLog(lines)
            failed = None
            for response in responses:
                if response.kind not in case.files:
                    failed = response.error
                    if failed is not None:
                        case.sent = None if response.kind == "edited" else case.sent
                        case.history.failed()
                changed = self._apply(case, response) or changed
            error = error or failed
            if not case.session.live and not case.session.responsePending:
                case.end()
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
        """End the children that keep completions or wait for a run, and remove their folders; results stay."""
        self._preloader.end()
        for case in self._cases.values():
            case.end()

    # ----------------------------------------------------------------------------------------------------------------
    # Results in the scene

    def hasResult(self, inputNode, segmentID: str = "") -> bool:
        """Whether the scene contains a result of this input (segmentID "" for a CT)."""
        return results.resultOf(inputNode, segmentID) is not None

    def resultOf(self, inputNode, segmentID: str = "") -> AddedResult | None:
        """The result of an input in the scene, also after the scene was saved and loaded; None without one."""
        return results.resultOf(inputNode, segmentID)

    def hasRemains(self, inputNode, segmentID: str = "") -> bool:
        """Whether there is anything to remove for this input, also parts of a result that the user has removed."""
        return results.hasRemains(inputNode, segmentID)

    def removeResult(self, inputNode, segmentID: str = "") -> bool:
        """Remove everything that was added for this input; whether there was anything."""
        removed = results.removeResult(inputNode, segmentID)
        if not self.running:
            self._forget(inputKey(inputNode, segmentID))
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
        defects: Sequence[int] | None = None,
        parts: dict | None = None,
    ) -> ExportRun:
        """Start exporting the result of an input (default: of the last run) to a folder; see export.ExportRun.

        Poll the returned run until its end; its result() lists the files written. Raises SkullVAEError.
        """
        if inputNode is None:
            for key, case in self._cases.items():
                if case is self._case:
                    inputNode, segmentID = slicer.mrmlScene.GetNodeByID(key[0]), key[1]
        added = results.resultOf(inputNode, segmentID)
        if added is None:
            raise SkullVAEError("There is no result to export", "Complete the skull first")
        case = self._cases.get(inputKey(inputNode, segmentID), Case())
        if case.session is not None and case.session.responsePending:
            raise SkullVAEError("The printable implant is still being updated", "Export when it is done")
        files = _SessionFiles(self, case) if case.waiting and case.added is not None else None
        run = ExportRun(
            added, inputNode, segmentID, folder, formats, skull, labelmaps, report, files, self._command, defects, parts
        )
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
        defects: Sequence[int] | None = None,
        parts: dict | None = None,
    ) -> ExportResult:
        """As startExport(), but waits for the end and returns the result. Blocks, so the panel must not call it."""
        self.waitForResponses()
        run = self.startExport(folder, formats, skull, labelmaps, report, inputNode, segmentID, defects, parts)
        return run.wait(onProgress)

    def comparison(self, plan: PlannedImplant, outcome: BoneFile, threshold: float | None = None) -> ComparisonRun:
        """A comparison: start() it, then poll() it until its end. threshold: that of the outcome in HU."""
        return ComparisonRun(plan, outcome, threshold, self._command)

    def checkInstallation(self) -> InstallationCheck:
        """Start collecting a report on the installation; poll() it until its end, then show its text."""
        check = InstallationCheck(command=self._command)
        check.start()
        return check

    def _startRun(self) -> None:
        self._remaining = RemainingTime()
        source = self._running.source
        preloaded = self._preloader.take(self._settings)
        more = {} if preloaded is None else {"preloaded": preloaded}
        self._run = self._createRun(source.array, source.affine, self._settings, **more)
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
            if self._running.session is None:
                # Releases the voxels of the input.
                self._running.source = None

    def _forget(self, key: tuple[str, str]) -> None:
        """End the process of an input and forget its report."""
        case = self._cases.pop(key, None)
        if case is not None:
            case.end()
            if case is self._case:
                self._case = Case()

    def _request(self, kind: str, value: object) -> bool:
        return self.live and self._session.request(kind, value)

    def _apply(self, case: Case, response: Response) -> bool:
        """Update result and files of an input from a response; whether result or report have changed."""
        mesh = response.printableImplant
        if response.kind == "tooling":
            return self._keepParts(case, response)
        if response.kind in case.files:
            missing = SkullVAEError(f"The session has not written the file '{response.kind}'", "Run again")
            case.files[response.kind] = response.error or (response.files[0] if response.files else missing)
            return False
        if response.error is not None or response.superseded:
            return False
        if case.parts is not None:
            # They do not fit another implant.
            case.parts = None
            removeParts(slicer.mrmlScene.GetNodeByID(case.source.nodeID), case.source.segmentID)
        if "implant" in response.report:
            # That of the shape before, if this one was not edited.
            case.report.pop("edited", None)
        case.report = {**case.report, **response.report}
        if response.kind == "defects":
            case.askedNumbers = set(response.value["filled"])
        if case.report.get("found") is False:
            self._removeUnfilled(case)
        elif case.added is None:
            self._addFilled(case, response.completed, response.implant)
        else:
            implant = response.implant if response.implant is None else self._followed(case, response)
            case.added = results.changeResult(case.added, case.source, case.report, response.completed, implant, mesh)
            if response.implant is not None:
                results.markKnown(case.added, case.source, case.known)
        if response.implant is not None:
            self._numberShape(case)
        return bool(response.report) or response.implant is not None or mesh is not None

    def _keepParts(self, case: Case, response: Response) -> bool:
        """Keep additional parts, for the panel and for an export that waits for them; whether they have changed."""
        if response.superseded:
            return False
        if response.error is None:
            figures, warnings = response.report.get("tooling") or {}, response.report.get("warnings") or ()
            case.parts = AdditionalParts(response.value, response.number, response.parts, figures, tuple(warnings))
        if "tooling" in case.files:
            case.files["tooling"] = response.error or _MADE
        return response.error is None

    def _followed(self, case: Case, response: Response) -> Mask | None:
        """What the implant's segment is to be replaced by after a response with voxels; None to leave it as it is.

        Voxels that were edited by hand stay in the segment as they are; what was edited and not requested yet is
        applied to another shape, and is then requested.
        """
        before, case.known = case.known, response.implant
        if response.kind == "edited":
            # The segment of the user has these voxels, or newer ones.
            case.known = response.value
            if case.sent is response.value:
                case.sent = None
            case.history.record(before, case.known)
            return None
        if response.kind == "points":
            points = tuple(tuple(point) for point in response.value)
            case.history.record(case.points, points)
            case.points = points
        else:
            case.history.clear()
        target, segmentID = case.added.segmentationNode, case.added.implantID
        if self._earlierShape(case) is None:
            # Otherwise undo has shown this shape already, and another step would end redo.
            results.saveStateForUndo(target, *filter(None, [case.added.implantModelNode]))
        shown = maskOnGrid(target, segmentID, case.source)
        if before is None or shown.same(before):
            return response.implant
        return response.implant.union(shown.without(before)).without(before.without(shown))

    def _addFilled(self, case: Case, completed: Mask | None, implant: Mask | None) -> None:
        """Add the result of a session that had none; its mesh follows with the next response."""
        if implant is not None and not implant.empty:
            result = CompletionResult(completed, implant, case.report, None, case.skull)
            case.added = results.addResult(case.source, result, case.newSegmentation)
            case.known = implant

    def _removeUnfilled(self, case: Case) -> None:
        """Remove the result, since no defect is filled; the session continues. An edited implant is kept."""
        for name in ("implant", "printable_implant", "checks", "uncertainty", "edited"):
            case.report.pop(name, None)
        if case.added is not None:
            kept = results.keepEdited(case.added)
            self.notice = (
                _("The implant that was edited by hand is kept as segment '{name}'.").format(name=kept) if kept else ""
            )
            node = slicer.mrmlScene.GetNodeByID(case.source.nodeID)
            results.removeResult(node, case.source.segmentID)
            case.added = None
            case.points, case.sent = (), None
            case.history.clear()

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
                logic._cases.clear()
                logic._case = Case()

        def onNodeRemoved(caller, event) -> None:
            logic = this()
            # A run ends with an error at the next poll().
            for case in list(logic._cases.values()) if logic is not None else ():
                if case.session is not None and scene.GetNodeByID(case.source.nodeID) is None:
                    case.end()

        for event, call in ((scene.StartCloseEvent, onClose), (scene.NodeRemovedEvent, onNodeRemoved)):
            weakref.finalize(self, scene.RemoveObserver, scene.AddObserver(event, call))
        self._sceneObserver = scene


# Stands for the files of additional parts, whose meshes are kept.
_MADE = Path()


class _SessionFiles(SessionFiles):
    """Skull surface, report and additional parts from the session of an input, while it is live."""

    def __init__(self, logic: SkullVAELogic, case: Case):
        self._logic, self._case = logic, case

    def request(self, kind: str, value: object = True) -> bool:
        if kind == "tooling" and self._case.parts is not None and self._case.parts.value == value:
            self._case.files[kind] = _MADE
            return True
        if not self._case.waiting or not self._case.session.request(kind, value):
            return False
        self._case.files[kind] = None
        return True

    def parts(self) -> dict[str, MeshData]:
        return {} if self._case.parts is None else self._case.parts.meshes

    def take(self, kind: str) -> Path | None:
        # The panel polls as well: either of the two calls stores the files of a response.
        self._logic.pollResponses()
        files = self._case.files
        if kind not in files:
            return super().take(kind)
        found = files[kind]
        if found is not None:
            del files[kind]
        if isinstance(found, SkullVAEError):
            raise found
        return found


def _isOutOfGPUMemory(error: SkullVAEError) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in _OUT_OF_GPU_MEMORY)
