"""One run of the library's command line: the skull goes into a private folder, the result comes out of it.

The process stays after the result, holding the completion, and answers requests for another shape or part.
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

import numpy as np

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.exit_codes import BAD_INPUT, NO_DEFECT

from .background import BackgroundStep
from .childprocess import ChildProcess
from .librarypath import libraryFolder, shippedModel
from .masks import Mask
from .meshfiles import MeshData, readPly

PART_FILE, SKULL_FILE = "implant.ply", "skull_display.ply"


@dataclass(frozen=True)
class CompletionOptions:
    """What the user chose; None leaves the choice to the library.

    thresholdHU: bone threshold of a CT; box: six or fifteen numbers, RAS mm in the input's own coordinates, outside
    which nothing is bone (see cropbox.boxArgument); prior: auto, encode, map, dev or mean; gamma: how far to move
    along the deviation vector of defect, "cranial" or "facial"; proposals: how many shapes to propose, 1 to 5;
    face: whether bone that one side of the face lacks is completed, too.
    The part, in mm: clearance: least distance to bone; thickness: "patient", "constant:MM" or "minimum:MM";
    underContour: how much lower the outer surface; smooth: of the shape; holes: "DIAMETER,PITCH,MARGIN" of perfusion
    holes; split: no piece longer than this.
    device: auto, cpu or cuda; model: path of a model file.
    """

    thresholdHU: float | None = None
    box: tuple[float, ...] | None = None
    prior: str = "auto"
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
    device: str = "auto"
    model: str | os.PathLike | None = None

    def arguments(self) -> list[str]:
        """The command line's options for these choices."""
        arguments = ["--device", self.device, "--prior", self.prior, "--defect", self.defect]
        for option, value in (
            ("--threshold", self.thresholdHU),
            ("--gamma", self.gamma),
            ("--clearance", self.clearance),
            ("--under-contour", self.underContour),
            ("--smooth", self.smooth),
            ("--split", self.split),
        ):
            if value is not None:
                arguments += [option, f"{value:g}"]
        for option, text in (("--thickness", self.thickness), ("--holes", self.holes)):
            if text:
                arguments += [option, text]
        if self.box is not None:
            # In one word: the first number may begin with a minus.
            arguments.append("--box=" + ",".join(f"{value:.9g}" for value in self.box))
        if self.proposals != 1:
            arguments += ["--proposals", str(self.proposals)]
        if self.face:
            arguments.append("--face")
        model = self.model or shippedModel()
        if model is not None:
            arguments += ["--model", str(model)]
        return [*arguments, "--interactive", "--display", "--report", "--uncertainty", "--format", "stl,ply"]

    def part(self) -> dict:
        """The part's choices as a request names them."""
        return {
            "clearance": self.clearance,
            "thickness": self.thickness,
            "under_contour": self.underContour,
            "smooth": self.smooth,
            "holes": self.holes,
            "split": self.split,
        }


@dataclass(frozen=True)
class CompletionResult:
    """What the library returned: completed and implant on the input's grid, the report, and the meshes it made."""

    completed: Mask
    implant: Mask
    report: dict
    part: MeshData | None = None
    skull: MeshData | None = None


@dataclass(frozen=True)
class Answer:
    """What a request has brought. kind: gamma, proposal, part, host or report; value: what was asked for.

    completed, implant: the new voxels, where they changed; part: the new mesh; files: all that was written;
    report: the figures that changed; error: why there is nothing; more: another answer to this request follows.
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
    part: MeshData | None = None


def pythonExecutable() -> str:
    """The Python that has the library's dependencies: PythonSlicer inside Slicer, else the running interpreter."""
    return shutil.which("PythonSlicer") or sys.executable


def libraryCommand() -> list[str]:
    """The library's command line, to be followed by a command and its options."""
    return [pythonExecutable(), "-m", "SkullVAELib"]


def childEnvironment() -> dict[str, str]:
    """What the child needs on top of the present environment."""
    environment = {"PYTHONIOENCODING": "utf-8"}
    folder = libraryFolder()
    if folder is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return environment


class CompletionRun:
    """Completes one skull in a child process.

    array: (I, J, K) voxels of a CT in HU or of a skull labelmap, which must not change until the child runs;
    affine: (4, 4) voxel index -> RAS mm; command: what to run in place of `python -m SkullVAELib` (for tests).
    poll() until running is False, then take result(). While live is true, request() and pollAnswers() go on.
    The private folder disappears with close(), at the latest with the object itself.
    """

    def __init__(
        self,
        array: np.ndarray,
        affine: np.ndarray,
        options: CompletionOptions,
        command: Sequence[str] | None = None,
    ):
        self._array: np.ndarray | None = array
        self._shape = array.shape
        self._affine = affine
        self._options = options
        self._command = list(command) if command else libraryCommand()
        self._temporary = tempfile.TemporaryDirectory(prefix="SkullVAE-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self.child: ChildProcess | None = None
        self._writing: BackgroundStep | None = None
        self._reading: BackgroundStep | None = None
        self._closed = False
        # The bone without implant, to which each new implant is added.
        self._bone: Mask | None = None
        self._requests: dict[int, tuple[str, object]] = {}
        self._lastNumber = 0
        self._unread: deque[Answer] = deque()
        self._answer: BackgroundStep | None = None

    @property
    def outputFolder(self) -> Path:
        """Where the library puts what it makes."""
        return self.folder / "result"

    def start(self) -> None:
        """Begin: the input is written beside the event loop, then the child is started by poll()."""
        self.outputFolder.mkdir()
        self._writing = BackgroundStep(self._writeInput)

    def poll(self) -> list[str]:
        """Go on; returns the new log lines. Raises SkullVAEError when the child cannot be started."""
        if self._closed:
            return []
        if self.child is None:
            if self._writing.poll():
                self._writing.result()
                self._array = None
                self._startChild()
            return []
        lines = self.child.poll()
        if self._reading is None and (self.child.done or self.child.exitCode is not None):
            self._reading = BackgroundStep(self._readResult)
        if self._reading is not None:
            self._reading.poll()
        return lines

    @property
    def running(self) -> bool:
        """Whether the result is still on its way."""
        return not self._closed and (self._reading is None or not self._reading.poll())

    @property
    def stage(self) -> str:
        """The stage the child last reported."""
        return self.child.stage if self.child else ""

    @property
    def fraction(self) -> float:
        """The part done, 0 to 1."""
        return self.child.fraction if self.child else 0.0

    def cancel(self) -> None:
        """End the child and all it has started."""
        if self.child is not None:
            self.child.cancel()

    def result(self) -> CompletionResult | None:
        """The result of a run that has ended; None when the library found no defect. Raises SkullVAEError."""
        return self._reading.result()

    @property
    def live(self) -> bool:
        """Whether the child holds the completion and takes requests."""
        return self.child is not None and self.child.done and self.child.running

    @property
    def answering(self) -> bool:
        """Whether a request has not been answered yet."""
        return bool(self._requests or self._unread or self._answer)

    def request(self, kind: str, value: object) -> bool:
        """Ask for {kind: value}, as the command line's --interactive reads it; False when nobody listens."""
        number = self._lastNumber + 1
        if not self.live or not self.child.send({"request": number, kind: value}):
            return False
        self._lastNumber = number
        self._requests[number] = (kind, value)
        return True

    def pollAnswers(self) -> tuple[list[Answer], list[str]]:
        """(the answers that have come, read and ready for the scene; the new log lines)."""
        if self.child is None or self._closed:
            return [], []
        lines = self.child.poll()
        for message in self.child.takeAnswers():
            answer = self._understand(message)
            if answer is not None:
                self._unread.append(answer)
        if not self.child.running and self._requests:
            # It died over them.
            error = _childError(self.child.exitCode, self.child.lastErrorLine)
            self._unread += [Answer(n, kind, value, error=error) for n, (kind, value) in self._requests.items()]
            self._requests.clear()
        answers = []
        while self._unread or self._answer:
            if self._answer is None:
                answer = self._unread[0]
                self._answer = BackgroundStep(lambda answer=answer: self._readAnswer(answer))
            if not self._answer.poll():
                break
            step, self._answer = self._answer, None
            answer = self._unread.popleft()
            try:
                answers.append(step.result())
            except SkullVAEError as error:
                answers.append(Answer(answer.number, answer.kind, answer.value, error=error))
        return answers, lines

    def close(self) -> None:
        """End whatever still runs and remove the private folder."""
        self._closed = True
        self.cancel()
        for step in (self._writing, self._reading, self._answer):
            # What it is about to write must not outlive the folder.
            while step is not None and not step.poll():
                pass
        self._array = None
        self._requests.clear()
        self._unread.clear()
        self._answer = None
        self._temporary.cleanup()

    def _writeInput(self) -> None:
        # Not when Slicer starts: SimpleITK takes a while, and nibabel may not be installed yet.
        import SimpleITK as sitk

        from SkullVAELib.geometry.volume import Volume
        from SkullVAELib.io.images import to_image

        try:
            # Uncompressed: packing a 512^3 CT takes longer than the disk.
            image = to_image(Volume(self._array, self._affine))
            sitk.WriteImage(image, str(self.folder / "input.nrrd"), useCompression=False)
        except RuntimeError as error:
            raise SkullVAEError(
                f"The input cannot be written to '{self.folder}'", "Check that the temporary folder has free space"
            ) from error

    def _startChild(self) -> None:
        source, output = self.folder / "input.nrrd", self.outputFolder
        command = [*self._command, "complete", str(source), "-o", str(output), "--progress", "json"]
        command += self._options.arguments()
        self.child = ChildProcess(command, self.folder, childEnvironment(), requests=True)
        self.child.start()
        # Who loses a run without closing it leaves no process behind; the folder has such a guard of its own.
        weakref.finalize(self, self.child.cancel)

    def _readResult(self) -> CompletionResult | None:
        code = self.child.exitCode
        if code == NO_DEFECT:
            return None
        if code not in (0, None):
            raise _childError(code, self.child.lastErrorLine)
        folder = self.outputFolder
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        if report.get("found") is False:
            return None
        implant = self._readMask(folder / "implant.nrrd")
        completed = self._readMask(folder / "completed.nrrd")
        self._bone = completed.without(implant)
        meshes = [readPly(folder / name) if (folder / name).is_file() else None for name in (PART_FILE, SKULL_FILE)]
        return CompletionResult(completed, implant, report, *meshes)

    def _understand(self, message: dict) -> Answer | None:
        number = message["answer"]
        if number not in self._requests:
            return None
        kind, value = self._requests[number]
        more = bool(message.get("more"))
        if not more:
            del self._requests[number]
        text = message.get("error")
        folder = Path(message.get("folder") or self.outputFolder / "answers" / str(number))
        return Answer(
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

    def _readAnswer(self, answer: Answer) -> Answer:
        changes = {}
        if answer.kind in ("gamma", "proposal", "part") and not answer.error:
            for path in answer.files:
                if path.name == "implant.nrrd":
                    changes["implant"] = self._readMask(path)
                    changes["completed"] = self._bone.union(changes["implant"])
                elif path.name == PART_FILE:
                    changes["part"] = readPly(path)
                elif path.name == "implant.stl" and path.with_name(PART_FILE).is_file():
                    changes["part"] = readPly(path.with_name(PART_FILE))
        return Answer(**{**vars(answer), **changes})

    def _readMask(self, path: Path) -> Mask:
        from SkullVAELib.io.images import read_volume

        volume = read_volume(path)
        # Slicer would take an array of the wrong shape in silence and show it in the wrong place.
        if volume.array.shape != self._shape or not np.allclose(volume.affine, self._affine, atol=1e-3):
            raise SkullVAEError(f"'{path.name}' does not lie on the input's grid", "Reinstall the extension")
        return Mask.of(volume.array)


def _childError(code: int, line: str) -> SkullVAEError:
    """The child's own cause and remedy, unchanged; or, when it died without a word, what is known."""
    if code == BAD_INPUT and line:
        return SkullVAEError.from_line(line)
    detail = f": {line}" if line else ""
    return SkullVAEError(
        f"The completion ended unexpectedly with code {code}{detail}",
        "See the log; if memory ran out, close other data or choose the device 'cpu'",
    )
