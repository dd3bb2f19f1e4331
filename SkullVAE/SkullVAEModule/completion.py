"""One run of the library's command line: the skull goes into a private folder, the result comes out of it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SkullVAELib.errors import SkullVAEError

from .childprocess import ChildProcess
from .librarypath import libraryFolder, shippedModel

NO_DEFECT_EXIT_CODE = 3


@dataclass(frozen=True)
class CompletionOptions:
    """What the user chose; None leaves the choice to the library.

    thresholdHU: bone threshold of a CT; prior: auto, encode, map, dev or mean; gamma: how far to move along the
    deviation vector, with dev; device: auto, cpu or cuda; model: path of a model file.
    """

    thresholdHU: float | None = None
    prior: str = "auto"
    gamma: float | None = None
    device: str = "auto"
    model: str | os.PathLike | None = None

    def arguments(self) -> list[str]:
        """The command line's options for these choices."""
        arguments = ["--device", self.device, "--prior", self.prior]
        if self.thresholdHU is not None:
            arguments += ["--threshold", f"{self.thresholdHU:g}"]
        if self.gamma is not None:
            arguments += ["--gamma", f"{self.gamma:g}"]
        model = self.model or shippedModel()
        if model is not None:
            arguments += ["--model", str(model)]
        return arguments


@dataclass(frozen=True)
class CompletionResult:
    """What the library returned: completed and implant, (I, J, K) uint8 0/1 on the input's grid, and its report."""

    completed: np.ndarray
    implant: np.ndarray
    report: dict


def pythonExecutable() -> str:
    """The Python that has the library's dependencies: PythonSlicer inside Slicer, else the running interpreter."""
    return shutil.which("PythonSlicer") or sys.executable


def childEnvironment() -> dict[str, str]:
    """What the child needs on top of the present environment."""
    environment = {"PYTHONIOENCODING": "utf-8"}
    folder = libraryFolder()
    if folder is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return environment


class CompletionRun:
    """Completes one skull in a child process.

    array: (I, J, K) voxels of a CT in HU or of a skull labelmap; affine: (4, 4) voxel index -> RAS mm;
    command: what to run in place of `python -m SkullVAELib` (for tests).
    The private folder disappears with close(), at the latest with the object itself.
    """

    def __init__(
        self,
        array: np.ndarray,
        affine: np.ndarray,
        options: CompletionOptions,
        command: Sequence[str] | None = None,
    ):
        self._array = array
        self._affine = affine
        self._options = options
        self._command = list(command) if command else [pythonExecutable(), "-m", "SkullVAELib"]
        self._temporary = tempfile.TemporaryDirectory(prefix="SkullVAE-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self.child: ChildProcess | None = None

    def start(self) -> None:
        """Write the input and start the child. Raises SkullVAEError."""
        # Not when Slicer starts: SimpleITK takes a while, and nibabel may not be installed yet.
        import SimpleITK as sitk

        from SkullVAELib.volume import Volume, to_image

        source = self.folder / "input.nrrd"
        try:
            # Uncompressed: packing a 512^3 CT would hold up the panel for seconds.
            sitk.WriteImage(to_image(Volume(self._array, self._affine)), str(source), useCompression=False)
        except RuntimeError as error:
            raise SkullVAEError(
                f"The input cannot be written to '{self.folder}'", "Check that the temporary folder has free space"
            ) from error
        output = self.folder / "result"
        output.mkdir()
        command = [*self._command, "complete", str(source), "-o", str(output), "--progress", "json"]
        self.child = ChildProcess([*command, *self._options.arguments()], self.folder, childEnvironment())
        self.child.start()

    def poll(self) -> list[str]:
        """Take in what the child has said; returns the new log lines."""
        return self.child.poll()

    @property
    def running(self) -> bool:
        """Whether the child is at work."""
        return self.child is not None and self.child.running

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
        """The result of an ended run; None when the library found no defect. Raises SkullVAEError."""
        code = self.child.exitCode
        if code == NO_DEFECT_EXIT_CODE:
            return None
        if code != 0:
            raise _childError(code, self.child.lastErrorLine)
        folder = self.folder / "result"
        return CompletionResult(
            completed=self._readMask(folder / "completed.nrrd"),
            implant=self._readMask(folder / "implant.nrrd"),
            report=json.loads((folder / "report.json").read_text(encoding="utf-8")),
        )

    def close(self) -> None:
        """End whatever still runs and remove the private folder."""
        self.cancel()
        self._temporary.cleanup()

    def _readMask(self, path: Path) -> np.ndarray:
        from SkullVAELib.volume import read_volume

        volume = read_volume(path)
        # Slicer would take an array of the wrong shape in silence and show it in the wrong place.
        if volume.array.shape != self._array.shape or not np.allclose(volume.affine, self._affine, atol=1e-3):
            raise SkullVAEError(f"'{path.name}' does not lie on the input's grid", "Reinstall the extension")
        return (volume.array != 0).astype(np.uint8)


def _childError(code: int, line: str) -> SkullVAEError:
    """The child's own cause and remedy, unchanged; or, when it died without a word, what is known."""
    if code == 2 and line:
        cause, _, remedy = line.partition(". ")
        return SkullVAEError(cause, remedy or "See the log")
    detail = f": {line}" if line else ""
    return SkullVAEError(
        f"The completion ended unexpectedly with code {code}{detail}",
        "See the log; if memory ran out, close other data or choose the device 'cpu'",
    )
