"""A result as files: the implant and the host skull as meshes, the labelmaps, the report.

Everything is prepared in a private folder beside the target and appears there at the end, whole and under names that
were free. Coordinates are world coordinates (parent transforms applied) in LPS mm, as Slicer's own export of
segments to files writes them.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.exit_codes import BAD_INPUT
from SkullVAELib.implant.options import MESH_FORMATS

from .background import BackgroundStep
from .childprocess import ChildProcess
from .completion import childEnvironment, libraryCommand
from .masks import Mask
from .meshfiles import MeshData, readPly, readStl, writeMesh
from .meshnodes import meshData
from .results import AddedResult, partMatchesImplant
from .segments import isAsAdded, maskOnGrid, readInput


@dataclass(frozen=True)
class ExportResult:
    """What was written. files: in the order of writing; notes: what the user should know of them.

    implantFrom: "part" where the implant's mesh is the precise part, "segment" where the segment was edited (or had
    no part), so that the mesh is the surface of its voxels: without clearance, holes and the other choices of a part.
    """

    folder: Path
    files: tuple[Path, ...]
    implantFrom: str
    notes: tuple[str, ...] = ()


class SessionFiles:
    """Files a live session makes on request; this one makes none. request(): whether it will; take(): the file."""

    def request(self, kind: str) -> bool:
        """Ask for the file "host" or "report"; False when there is nobody to make it."""
        return False

    def take(self, kind: str) -> Path | None:
        """The file, or None while it is being made. Raises SkullVAEError when it will not come."""
        raise SkullVAEError("The session has ended", "Run again")


class ExportRun:
    """Writes one result into a folder; start(), then poll() until running is False, then result().

    added, inputNode, segmentID: the result and what it was made from; formats: of the meshes, "stl", "obj", "ply";
    host, labelmaps, report: what else; sessionFiles: where host and report come from; command: the library's.

    Files are named after the input: NAME_implant.stl, NAME_skull.stl, NAME_completed.nrrd, NAME_implant.nrrd,
    NAME_report.html. Nothing is ever overwritten: where one of the names is taken, all get a number, NAME-2_...
    The meshes are in world coordinates under any transform. The labelmaps are on the input's whole grid, moved with
    the transform; under one that is not rigid they stay in the input's own coordinates, and notes say so.
    """

    def __init__(
        self,
        added: AddedResult,
        inputNode,
        segmentID: str,
        folder: str | os.PathLike,
        formats: Sequence[str] = ("stl",),
        host: bool = True,
        labelmaps: bool = True,
        report: bool = True,
        sessionFiles: SessionFiles | None = None,
        command: Sequence[str] | None = None,
    ):
        if not formats and not (labelmaps or report):
            raise SkullVAEError("Nothing is chosen for export", "Choose a mesh format, the labelmaps or the report")
        unknown = set(formats) - set(MESH_FORMATS)
        if unknown:
            raise SkullVAEError(f"The mesh format '{sorted(unknown)[0]}' is unknown", "Use stl, obj or ply")
        self._added, self._inputNode, self._segmentID = added, inputNode, segmentID
        self._target = Path(folder)
        self._formats = tuple(formats)
        self._wants = {"host": host and bool(formats), "labelmaps": labelmaps, "report": report}
        self._sessionFiles = sessionFiles or SessionFiles()
        self._command = list(command) if command else libraryCommand()
        self._work: Iterator | None = None
        self._current: BackgroundStep | ChildProcess | None = None
        self._staging: Path | None = None
        self._temporary: tempfile.TemporaryDirectory | None = None
        self._notes: list[str] = []
        self._result: ExportResult | None = None
        self._error: Exception | None = None
        self.stage, self.fraction = "", 0.0
        self.cancelled = False

    @property
    def running(self) -> bool:
        """Whether there is more to do."""
        return self._work is not None

    def start(self) -> None:
        """Read the result from the scene and begin. Raises SkullVAEError when it, or the folder, cannot be used."""
        if not self._added.exists:
            raise SkullVAEError("The result is no longer in the scene", "Run again")
        node = self._added.segmentationNode
        source = readInput(self._inputNode, self._segmentID)
        self._affine = source.affine
        implant = maskOnGrid(node, self._added.implantID, source)
        # Without the completed skull, as when the user removed it, there are still the implant's files.
        completed = maskOnGrid(node, self._added.completedID, source)
        if implant.empty:
            raise SkullVAEError("The implant's segment is empty", "Run again, or undo what was done to it")
        isPart = partMatchesImplant(self._added)
        # Points and faces are copied: the next request may change the model meanwhile.
        part = (
            MeshData(*map(_copied, vars(meshData(self._added.implantModelNode.GetPolyData())).values()))
            if isPart
            else None
        )
        unedited = isPart and isAsAdded(node, self._added.completedID)
        self._toWorld, self._linear = _pointsToWorld(node)
        self._labelmapAffine = self._affine if (m := _rigidToWorld(node)) is None else m @ self._affine
        if m is None and self._wants["labelmaps"]:
            self._notes.append("The transform is not rigid: the labelmaps are in the input's own coordinates.")
        try:
            self._target.mkdir(parents=True, exist_ok=True)
            self._staging = Path(tempfile.mkdtemp(prefix=".skullvae-", dir=self._target))
        except OSError as error:
            raise SkullVAEError(
                f"'{self._target}' cannot be written to: {error.strerror}", "Choose another folder"
            ) from error
        self._temporary = tempfile.TemporaryDirectory(prefix="SkullVAE-", ignore_cleanup_errors=True)
        self._work = self._steps(implant, completed, part, unedited)

    def poll(self) -> list[str]:
        """Go on; returns the new log lines. What goes wrong is raised by result()."""
        lines: list[str] = []
        if self._work is None:
            return lines
        try:
            if isinstance(self._current, ChildProcess):
                lines = self._current.poll()
                if self._current.running:
                    return lines
            elif self._current is not None and not self._current.poll():
                return lines
            self._current = next(self._work)
        except StopIteration:
            self._finish()
        except Exception as error:
            self._error = error
            self._finish()
        return lines

    def result(self) -> ExportResult:
        """What was written. Raises SkullVAEError when it could not be, and when it was cancelled."""
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise SkullVAEError("The export was cancelled", "Export again")
        return self._result

    def wait(self, onProgress: Callable[[str, float], None] = lambda stage, fraction: None) -> ExportResult:
        """Go on to the end and return the result. Not for the panel: it blocks."""
        try:
            while self.running:
                self.poll()
                onProgress(self.stage, self.fraction)
        finally:
            self.cancel()
        return self.result()

    def cancel(self) -> None:
        """End it, with all its processes; the target folder stays as it was. Safe to call at any time."""
        if self._work is not None:
            self.cancelled = True
            self._finish()

    def _steps(self, implant: Mask, completed: Mask, part: MeshData | None, unedited: bool) -> Iterator:
        """The work, one thing after another: yields what is to be waited for (None: nothing, go on)."""
        names: list[str] = []
        if self._formats:
            self.stage, self.fraction = "implant", 0.05
            mesh = part
            if mesh is None:
                self._notes.append("No part fits the implant's voxels (edited by hand?): the mesh is their surface.")
                mesh = yield from self._surface(implant)
            yield from self._write(mesh, "implant", names)
        if self._wants["host"] and completed.empty:
            self._notes.append("There is no completed skull, so no host skull was written.")
        elif self._wants["host"]:
            self.stage, self.fraction = "host skull", 0.3
            mesh = (yield from self._sessionHost()) if unedited else None
            if mesh is None:
                mesh = yield from self._surface(completed.without(implant))
            yield from self._write(mesh, "host", names)
        if self._wants["labelmaps"]:
            for role, mask, fraction in (("completed", completed, 0.7), ("implant", implant, 0.85)):
                self.stage, self.fraction = "labelmaps", fraction
                if mask.empty:
                    continue
                path = self._staging / f"{role}.nrrd"
                step = BackgroundStep(lambda mask=mask, path=path: _writeMask(mask, self._labelmapAffine, path, True))
                yield step
                step.result()
                names.append(path.name)
        if self._wants["report"]:
            self.stage, self.fraction = "report", 0.95
            path = yield from self._sessionFile("report")
            if path is None:
                self._notes.append("There is no report: the session that could write it has ended. Run again for one.")
            else:
                shutil.copyfile(path, self._staging / "report.html")
                names.append("report.html")
        self._publish(names, "segment" if part is None else "part")
        self.stage, self.fraction = "done", 1.0

    def _surface(self, mask: Mask) -> Iterator:
        """The surface of a mask, by the library in a child process, in the input's own coordinates."""
        folder = Path(tempfile.mkdtemp(dir=self._temporary.name))
        step = BackgroundStep(lambda: _writeMask(mask, self._affine, folder / "labelmap.nrrd", False))
        yield step
        step.result()
        command = [*self._command, "mesh", str(folder / "labelmap.nrrd"), "-o", str(folder / "surface.ply")]
        child = ChildProcess([*command, "--progress", "json"], folder, childEnvironment())
        child.start()
        yield child
        if child.exitCode != 0:
            cause, _dot, remedy = child.lastErrorLine.partition(". ")
            if child.exitCode != BAD_INPUT or not remedy:
                cause = f"The mesh could not be made (code {child.exitCode}): {child.lastErrorLine}"
                remedy = "See the log; if memory ran out, close other data"
            raise SkullVAEError(cause, remedy)
        step = BackgroundStep(lambda: readPly(folder / "surface.ply"))
        yield step
        return step.result()

    def _sessionHost(self) -> Iterator:
        """The host skull as the session makes it, from a CT's grey values; None without a session."""
        path = yield from self._sessionFile("host")
        if path is None:
            return None
        step = BackgroundStep(lambda: readStl(path))
        yield step
        return step.result()

    def _sessionFile(self, kind: str) -> Iterator:
        if not self._sessionFiles.request(kind):
            return None
        while True:
            try:
                path = self._sessionFiles.take(kind)
            except SkullVAEError:
                return None
            if path is not None:
                return path
            yield None

    def _write(self, mesh: MeshData, role: str, names: list[str]) -> Iterator:
        if not self._linear:
            # A warp is the scene's: not for a thread.
            mesh = replace(mesh, points=self._toWorld(mesh.points))
        for kind in self._formats:
            path = self._staging / f"{role}.{kind}"
            step = BackgroundStep(lambda path=path: self._moveAndWrite(mesh, path))
            yield step
            step.result()
            names.append(path.name)

    def _moveAndWrite(self, mesh: MeshData, path: Path) -> None:
        points = self._toWorld(mesh.points) if self._linear else mesh.points
        writeMesh(replace(mesh, points=points), path)

    def _publish(self, names: list[str], implantFrom: str) -> None:
        stem = _fileName(self._inputNode.GetName())
        number = 1
        while True:
            base = stem if number == 1 else f"{stem}-{number}"
            targets = [self._target / f"{base}_{name}" for name in names]
            if not any(os.path.lexists(target) for target in targets):
                break
            number += 1
        for name, target in zip(names, targets, strict=True):
            os.rename(self._staging / name, target)
        self._result = ExportResult(self._target, tuple(targets), implantFrom, tuple(self._notes))

    def _finish(self) -> None:
        self._work = None
        current, self._current = self._current, None
        if isinstance(current, ChildProcess):
            current.cancel()
        elif current is not None:
            while not current.poll():
                pass
        shutil.rmtree(self._staging, ignore_errors=True)
        self._temporary.cleanup()


def _writeMask(mask: Mask, affine: np.ndarray, path: Path, compressed: bool) -> None:
    import SimpleITK as sitk

    from SkullVAELib.geometry.volume import Volume
    from SkullVAELib.io.images import to_image

    try:
        sitk.WriteImage(to_image(Volume(mask.whole(), affine)), str(path), compressed, 1)
    except RuntimeError as error:
        raise SkullVAEError(
            f"'{path.name}' cannot be written to '{path.parent.parent}'", "Check the free space and the permissions"
        ) from error


def _pointsToWorld(node) -> tuple[Callable[[np.ndarray], np.ndarray], bool]:
    """(what brings (N, 3) points of a node to world RAS mm, whether that is linear)."""
    transform = node.GetParentTransformNode()
    matrix = _matrixToWorld(transform)
    if matrix is not None:
        return lambda points: np.asarray(points, np.float64) @ matrix[:3, :3].T + matrix[:3, 3], True
    general = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(transform, None, general)

    def toWorld(points: np.ndarray) -> np.ndarray:
        before, after = vtk.vtkPoints(), vtk.vtkPoints()
        after.SetDataTypeToDouble()
        before.SetData(numpy_to_vtk(np.ascontiguousarray(points, np.float64), deep=True))
        general.TransformPoints(before, after)
        return vtk_to_numpy(after.GetData()).copy()

    return toWorld, False


def _matrixToWorld(transform) -> np.ndarray | None:
    """(4, 4) from below a transform node to the world; None where that is no matrix."""
    if transform is None:
        return np.eye(4)
    matrix = vtk.vtkMatrix4x4()
    if not slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(transform, None, matrix):
        return None
    return slicer.util.arrayFromVTKMatrix(matrix)


def _rigidToWorld(node) -> np.ndarray | None:
    """(4, 4) from a node to the world where that keeps right angles (a scale will do), else None."""
    array = _matrixToWorld(node.GetParentTransformNode())
    if array is None:
        return None
    square = array[:3, :3].T @ array[:3, :3]
    return array if np.allclose(square, square[0, 0] * np.eye(3), rtol=1e-4, atol=1e-6) else None


def _fileName(name: str) -> str:
    """A node's name as the beginning of a file's."""
    return re.sub(r"[^\w. +()-]+", "_", name).strip(" ._")[:80] or "skull"


def _copied(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else array.copy()
