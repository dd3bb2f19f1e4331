"""One run of the library's command line: writes the input into a private folder and reads the result from it.

After the result the process keeps the completion and responds to requests for another shape or printable implant.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from SkullVAELib.completion.options import PRIORS
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.exit_codes import BAD_INPUT, NO_DEFECT

from .background import BackgroundStep
from .childprocess import ChildProcess
from .librarypath import libraryFolder, shippedModel
from .masks import Mask
from .meshfiles import MeshData, readPly, readStl

if TYPE_CHECKING:
    from .preloading import PreloadedProcess

IMPLANT_FILE, SKULL_FILE = "implant.ply", "skull_display.ply"

FRAGMENTS = ("keep", "ignore")
"""What becomes of loose pieces of bone; the first is the default."""


class ImplantPoints(NamedTuple):
    """Points of the printable implant, RAS mm in the input's own coordinates.

    tabs: screws of tabs; drains: holes; buildUps: places where the outer surface is raised.
    """

    tabs: tuple = ()
    drains: tuple = ()
    buildUps: tuple = ()


NO_POINTS = ImplantPoints()


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run; None selects the default of the library.

    Attributes
    ----------
    thresholdHU : float or None
        Bone threshold of a CT in HU.
    roi : tuple of float or None
        Region of interest: 6 or 15 numbers, RAS mm in the input's own coordinates, see `roi.roiArgument`.
    prior : str
        Source of the complete shape, one of `SkullVAELib.completion.options.PRIORS`.
    defect : {"cranial", "facial"}
        Class of the deviation vector that gamma scales.
    gamma : float or None
        Factor of the deviation vector.
    proposals : int
        Number of proposals, 1 to `SkullVAELib.completion.options.MOST_PROPOSALS`.
    face : bool
        Whether bone that is missing on one side of the face is completed as well.
    clearance, underContour, smooth, split : float or None
        Minimum distance to bone, recess of the outer surface, smoothing and maximum length of a piece of the printable
        implant, in mm.
    thickness : str or None
        "patient", "constant:MM" or "minimum:MM".
    holes : str or None
        "DIAMETER,PITCH,MARGIN" of the perfusion holes in mm.
    tabs, screws, flange, engrave, engraveSize : str or None
        Tabs, screws, flange and engraving of the printable implant, as on the command line.
    tabAt, holeAt, buildUp : tuple of tuple of float
        Points of tabs, of holes with their diameter, and of build-ups with radius and thickness, RAS mm in the input's
        own coordinates.
    insertable : float or None
        Depth in mm that may be removed so that the implant can be inserted along a straight line.
    device : {"auto", "cpu", "cuda"}
        Device that the network runs on.
    model : path or None
        Model file; None for the shipped one.
    at, notAt : tuple of (float, float, float)
        Points, RAS mm in the input's own coordinates: the hole nearest to each is a defect, or is not.
    fragments : {"keep", "ignore"}
        Whether loose pieces of bone are part of the skull.
    reference : BoneFile or None
        The patient's earlier bone, which fills the defects.
    label : str
        Number or name of the label to use of a volume with several labels; empty for a volume with one.
    """

    thresholdHU: float | None = None
    roi: tuple[float, ...] | None = None
    prior: str = PRIORS[0]
    defect: str = "cranial"
    gamma: float | None = None
    proposals: int = 1
    face: bool = False
    clearance: float | None = None
    thickness: str | None = None
    underContour: float | None = None
    smooth: float | None = None
    holes: str | None = None
    split: float | None = None
    tabs: str | None = None
    tabAt: tuple[tuple[float, ...], ...] = ()
    screws: str | None = None
    flange: str | None = None
    holeAt: tuple[tuple[float, ...], ...] = ()
    engrave: str | None = None
    engraveSize: str | None = None
    buildUp: tuple[tuple[float, ...], ...] = ()
    insertable: float | None = None
    device: str = "auto"
    model: str | os.PathLike | None = None
    at: tuple[tuple[float, float, float], ...] = ()
    notAt: tuple[tuple[float, float, float], ...] = ()
    fragments: str = FRAGMENTS[0]
    label: str = ""
    reference: Any = None

    def arguments(self) -> list[str]:
        """Return these settings as options of the command line."""
        arguments = ["--device", self.device, "--prior", self.prior, "--defect", self.defect]
        for option, value in (
            ("--threshold", self.thresholdHU),
            ("--gamma", self.gamma),
            ("--clearance", self.clearance),
            ("--under-contour", self.underContour),
            ("--smooth", self.smooth),
            ("--split", self.split),
            ("--insertable", self.insertable),
        ):
            if value is not None:
                arguments += [option, f"{value:g}"]
        for option, text in (
            ("--thickness", self.thickness),
            ("--holes", self.holes),
            ("--tabs", self.tabs),
            ("--screws", self.screws),
            ("--flange", self.flange),
            ("--engrave-size", self.engraveSize),
        ):
            if text:
                arguments += [option, text]
        if self.engrave:
            # As one argument, because the text may start with a minus sign.
            arguments.append(f"--engrave={self.engrave}")
        if self.roi is not None:
            # As one argument, because the first number may start with a minus sign.
            arguments.append("--roi=" + ",".join(f"{value:.9g}" for value in self.roi))
        for option, points in (
            ("--at", self.at),
            ("--not-at", self.notAt),
            ("--tab-at", self.tabAt),
            ("--hole-at", self.holeAt),
            ("--build-up", self.buildUp),
        ):
            arguments += [f"{option}=" + ",".join(f"{value:.6g}" for value in point) for point in points]
        if self.fragments != FRAGMENTS[0]:
            arguments += ["--fragments", self.fragments]
        if self.label:
            arguments.append(f"--segment={self.label}")
        if self.proposals != 1:
            arguments += ["--proposals", str(self.proposals)]
        if self.face:
            arguments.append("--face")
        model = self.model or shippedModel()
        if model is not None:
            arguments += ["--model", str(model)]
        return [*arguments, "--interactive", "--display", "--no-preview", "--uncertainty", "--format", "stl,ply"]

    def implantRequest(self) -> dict:
        """Return the settings of the printable implant as the value of an "implant" request."""
        added = {
            "tabs": self.tabs,
            "tab_at": [list(point) for point in self.tabAt],
            "screws": self.screws,
            "flange": self.flange,
            "hole_at": [list(hole) for hole in self.holeAt],
            "engrave": self.engrave,
            "engrave_size": self.engraveSize,
            "build_up": [list(raised) for raised in self.buildUp],
            "insertable": self.insertable,
        }
        return {
            "clearance": self.clearance,
            "thickness": self.thickness,
            "under_contour": self.underContour,
            "smooth": self.smooth,
            "holes": self.holes,
            "split": self.split,
            **{name: value for name, value in added.items() if value},
        }


@dataclass(frozen=True)
class CompletionResult:
    """Result of the library: masks on the input's grid, report, and the meshes of printable implant and skull.

    Without a defect the implant is empty.
    """

    completed: Mask
    implant: Mask
    report: dict
    printableImplant: MeshData | None = None
    skull: MeshData | None = None

    @property
    def found(self) -> bool:
        """Whether there is an implant."""
        return not self.implant.empty


@dataclass(frozen=True)
class Response:
    """Response to a request. kind: see `SkullVAELib.session.protocol.REQUEST_KINDS`; value: the value requested, for
    "edited" the voxels.

    completed, implant: the new masks if they changed; printableImplant: the new mesh if it changed; parts: additional
    printed parts by the stems of their files; files: all files written; report: the report fields that changed; error:
    why the request failed; more: whether another response to this request follows.
    """

    number: int
    kind: str
    value: object
    files: tuple[Path, ...] = ()
    report: dict = field(default_factory=dict)
    seconds: float | None = None
    error: SkullVAEError | None = None
    superseded: bool = False
    more: bool = False
    completed: Mask | None = None
    implant: Mask | None = None
    printableImplant: MeshData | None = None
    parts: dict[str, MeshData] = field(default_factory=dict)


def pythonExecutable() -> str:
    """The Python with the library's dependencies: PythonSlicer inside Slicer, otherwise the running interpreter."""
    return shutil.which("PythonSlicer") or sys.executable


def libraryCommand() -> list[str]:
    """Start of the library's command line; a command and its options follow."""
    return [pythonExecutable(), "-m", "SkullVAELib"]


def childEnvironment() -> dict[str, str]:
    """Environment variables that the child needs in addition to the current ones."""
    environment = {"PYTHONIOENCODING": "utf-8"}
    folder = libraryFolder()
    if folder is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return environment


class CompletionRun:
    """Completes one skull in a child process.

    array: (I, J, K) voxels of a CT in HU or of a skull labelmap, which must not change until the child runs;
    affine: (4, 4) voxel index -> RAS mm; command: command to run instead of `python -m SkullVAELib` (for tests);
    preloaded: a process that has loaded the libraries, which this run uses and ends. If it has ended before it has
    taken the arguments, the command is started instead.
    Call poll() until running is False, then result(). While live is true, use request() and pollResponses().
    The private folder is removed by close(), at the latest with the object itself.
    """

    def __init__(
        self,
        array: np.ndarray,
        affine: np.ndarray,
        settings: RunSettings,
        command: Sequence[str] | None = None,
        preloaded: PreloadedProcess | None = None,
    ):
        self._array: np.ndarray | None = array
        self._shape = array.shape
        self._affine = affine
        self._settings = settings
        # The file of the patient's earlier bone.
        self._reference: Path | None = None
        self._command = list(command) if command else libraryCommand()
        self._preloaded = preloaded
        if preloaded is not None:
            # The process writes its output there.
            self._temporary = preloaded.temporary
        else:
            self._temporary = tempfile.TemporaryDirectory(prefix="SkullVAE-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self.child: ChildProcess | None = None
        self._writing: BackgroundStep | None = None
        self._reading: BackgroundStep | None = None
        self._closed = False
        # The bone without implant; each new implant is added to it.
        self._bone: Mask | None = None
        self._requests: dict[int, tuple[str, object]] = {}
        # Edited implants that are being written: (step, file, voxels).
        self._edits: deque[tuple[BackgroundStep, Path, Mask]] = deque()
        self._lastNumber = 0
        self._editCount = 0
        self._unread: deque[Response] = deque()
        self._readingResponse: BackgroundStep | None = None

    @property
    def outputFolder(self) -> Path:
        """Folder that the library writes the result to."""
        return self.folder / "result"

    def start(self) -> None:
        """Start writing the input in a thread; poll() then starts the child."""
        self.outputFolder.mkdir()
        self._writing = BackgroundStep(self._writeInput)

    def poll(self) -> list[str]:
        """Advance the run; returns the new log lines. Raises SkullVAEError if the child cannot be started."""
        if self._closed:
            return []
        if self.child is None:
            if self._writing.poll():
                self._writing.result()
                self._array = None
                self._startChild()
            return []
        lines = self._logLines()
        if self._preloaded is not None and self.child.exitCode is not None and not self.child.started:
            self._startChild()
            return []
        if self._reading is None and (self.child.done or self.child.exitCode is not None):
            self._reading = BackgroundStep(self._readResult)
        if self._reading is not None:
            self._reading.poll()
        return lines

    @property
    def running(self) -> bool:
        """Whether the result is not available yet."""
        return not self._closed and (self._reading is None or not self._reading.poll())

    @property
    def stage(self) -> str:
        """The stage that the child reported last."""
        return self.child.stage if self.child else ""

    @property
    def fraction(self) -> float:
        """The fraction done, 0 to 1."""
        return self.child.fraction if self.child else 0.0

    def cancel(self) -> None:
        """Kill the child and all processes that it has started."""
        for owner in (self, self._preloaded):
            if owner is not None and owner.child is not None:
                owner.child.cancel()

    def result(self) -> CompletionResult | None:
        """The result of a run; None if the library wrote none because it found no defect. Raises SkullVAEError."""
        return self._reading.result()

    @property
    def live(self) -> bool:
        """Whether the child keeps the completion and takes requests."""
        return self.child is not None and self.child.done and self.child.running

    @property
    def responsePending(self) -> bool:
        """Whether a response to a request is still missing."""
        return bool(self._requests or self._unread or self._readingResponse or self._edits)

    def isPending(self, kind: str) -> bool:
        """Whether a response to a request of this kind is still missing."""
        return any(pending == kind for pending, _value in self._requests.values())

    def request(self, kind: str, value: object) -> bool:
        """Send the request {kind: value}, see the command line's --interactive; False if the child takes none."""
        return self._send(kind, value, value)

    def requestEdited(self, implant: Mask) -> bool:
        """Request the implant of edited voxels, which are written in a thread; False if the child takes no requests."""
        if not self.live:
            return False
        self._editCount += 1
        path = self.folder / f"edited_{self._editCount}.nrrd"
        self._edits.append((BackgroundStep(lambda: writeMask(implant, self._affine, path)), path, implant))
        return True

    def _send(self, kind: str, sent: object, value: object) -> bool:
        number = self._lastNumber + 1
        if not self.live or not self.child.send({"request": number, kind: sent}):
            return False
        self._lastNumber = number
        self._requests[number] = (kind, value)
        return True

    def _sendEdits(self) -> None:
        while self._edits and self._edits[0][0].poll():
            step, path, implant = self._edits.popleft()
            try:
                step.result()
                if self._send("edited", str(path), implant):
                    continue
                error = SkullVAEError("The process of this result has ended", "Complete the skull again")
            except SkullVAEError as failure:
                error = failure
            self._unread.append(Response(0, "edited", implant, error=error))

    def pollResponses(self) -> tuple[list[Response], list[str]]:
        """(the responses that have arrived, with their files read; the new log lines)."""
        if self.child is None or self._closed:
            return [], []
        self._sendEdits()
        lines = self._logLines()
        for message in self.child.takeResponses():
            response = self._parseResponse(message)
            if response is not None:
                self._unread.append(response)
        if not self.child.running and self._requests:
            # The child ended before it responded.
            error = _childError(self.child.exitCode, self.child.lastErrorLine)
            self._unread += [Response(n, kind, value, error=error) for n, (kind, value) in self._requests.items()]
            self._requests.clear()
        responses = []
        while self._unread or self._readingResponse:
            if self._readingResponse is None:
                response = self._unread[0]
                self._readingResponse = BackgroundStep(lambda response=response: self._readFiles(response))
            if not self._readingResponse.poll():
                break
            step, self._readingResponse = self._readingResponse, None
            response = self._unread.popleft()
            try:
                responses.append(step.result())
            except SkullVAEError as error:
                responses.append(Response(response.number, response.kind, response.value, error=error))
        return responses, lines

    def close(self) -> None:
        """Stop everything that still runs and remove the private folder."""
        self._closed = True
        self.cancel()
        for step in (self._writing, self._reading, self._readingResponse, *(edit[0] for edit in self._edits)):
            # A step must not write after the folder was removed.
            while step is not None and not step.poll():
                pass
        self._array = None
        self._requests.clear()
        self._edits.clear()
        self._unread.clear()
        self._readingResponse = None
        self._temporary.cleanup()

    def _logLines(self) -> list[str]:
        """The new log lines of the child, without the name of the private folder, which is removed after the run."""
        return [line.replace(str(self.folder), "(temporary folder)") for line in self.child.poll()]

    def _writeInput(self) -> None:
        # Imported here and not when Slicer starts: SimpleITK is slow to import, and nibabel may not be installed yet.
        import SimpleITK as sitk

        from SkullVAELib.geometry.volume import Volume
        from SkullVAELib.io.images import to_image

        if self._settings.reference is not None:
            self._reference = self._settings.reference.write(self.folder, "reference")
        try:
            # Uncompressed: compressing a CT of 512 x 512 x 512 voxels takes longer than writing it.
            image = to_image(Volume(self._array, self._affine))
            sitk.WriteImage(image, str(self.folder / "input.nrrd"), useCompression=False)
        except RuntimeError as error:
            raise SkullVAEError(
                f"The input cannot be written to '{self.folder}'", "Check that the temporary folder has free space"
            ) from error

    def _startChild(self) -> None:
        source, output = self.folder / "input.nrrd", self.outputFolder
        arguments = ["complete", str(source), "-o", str(output), "--progress", "json", *self._settings.arguments()]
        if self._reference is not None:
            arguments += ["--reference", str(self._reference)]
        if self._preloaded is not None and self._preloaded.run(arguments):
            self.child = self._preloaded.child
            return
        # Whatever was the matter with it, this one reports it.
        self._preloaded = None
        self.child = ChildProcess([*self._command, *arguments], self.folder, childEnvironment(), requests=True)
        self.child.start()
        # Ends the process of a run that is discarded without close(); the temporary folder has its own finalizer.
        weakref.finalize(self, self.child.cancel)

    def _readResult(self) -> CompletionResult | None:
        code, folder = self.child.exitCode, self.outputFolder
        if code == NO_DEFECT and not (folder / "report.json").is_file():
            return None
        if code not in (0, None, NO_DEFECT):
            raise _childError(code, self.child.lastErrorLine)
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        implant = self._readMask(folder / "implant.nrrd")
        completed = self._readMask(folder / "completed.nrrd")
        self._bone = completed.without(implant)
        meshes = [readPly(folder / name) if (folder / name).is_file() else None for name in (IMPLANT_FILE, SKULL_FILE)]
        return CompletionResult(completed, implant, report, *meshes)

    def _parseResponse(self, message: dict) -> Response | None:
        number = message["response"]
        if number not in self._requests:
            return None
        kind, value = self._requests[number]
        more = bool(message.get("more"))
        if not more:
            del self._requests[number]
        text = message.get("error")
        folder = Path(message.get("folder") or self.outputFolder / "responses" / str(number))
        return Response(
            number,
            kind,
            value,
            files=tuple(folder / str(name) for name in message.get("files") or ()),
            report=message.get("report") or {},
            seconds=message.get("seconds"),
            error=SkullVAEError.from_line(str(text)) if text else None,
            superseded=bool(message.get("superseded")),
            more=more,
        )

    def _readFiles(self, response: Response) -> Response:
        changes = {}
        if response.kind == "tooling":
            changes["parts"] = {path.stem: readStl(path) for path in response.files if path.suffix == ".stl"}
        elif response.kind not in ("skull", "report") and not response.error:
            for path in response.files:
                if path.name == "implant.nrrd":
                    changes["implant"] = self._readMask(path)
                    changes["completed"] = self._bone.union(changes["implant"])
                elif path.name == IMPLANT_FILE:
                    changes["printableImplant"] = readPly(path)
                elif path.name == "implant.stl" and path.with_name(IMPLANT_FILE).is_file():
                    changes["printableImplant"] = readPly(path.with_name(IMPLANT_FILE))
        return Response(**{**vars(response), **changes})

    def _readMask(self, path: Path) -> Mask:
        from SkullVAELib.io.images import read_volume

        volume = read_volume(path)
        # Slicer would accept an array of the wrong shape and show it in the wrong place.
        if volume.array.shape != self._shape or not np.allclose(volume.affine, self._affine, atol=1e-3):
            raise SkullVAEError(f"'{path.name}' is not on the grid of the input", "Reinstall the extension")
        return Mask.of(volume.array)


def writeMask(mask: Mask, affine: np.ndarray, path: Path, compressed: bool = False) -> None:
    """Write a mask as a labelmap on its whole grid. Raises SkullVAEError."""
    import SimpleITK as sitk

    from SkullVAELib.geometry.volume import Volume
    from SkullVAELib.io.images import to_image

    try:
        sitk.WriteImage(to_image(Volume(mask.whole(), affine)), str(path), compressed, 1)
    except RuntimeError as error:
        raise SkullVAEError(
            f"'{path.name}' cannot be written to '{path.parent.parent}'", "Check free space and permissions"
        ) from error


def _childError(code: int, line: str) -> SkullVAEError:
    """Cause and remedy as the child printed them; without them, exit code and last line."""
    if code == BAD_INPUT and line:
        return SkullVAEError.from_line(line)
    detail = f": {line}" if line else ""
    return SkullVAEError(
        f"The completion ended unexpectedly with exit code {code}{detail}",
        "See the log. If memory ran out, close other data or choose the device 'cpu'",
    )
