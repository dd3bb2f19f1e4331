"""Exports a result: meshes of implant and skull surface, labelmaps, and report.

All files are written to a private folder inside the target folder and moved at the end, complete and under names that
were not in use. Coordinates are world coordinates (parent transforms applied) in LPS mm, as in Slicer's own export of
segments to files.
"""

from __future__ import annotations

import functools
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
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.exit_codes import BAD_INPUT
from SkullVAELib.implant.options import MESH_FORMATS

from .background import BackgroundStep
from .childprocess import ChildProcess
from .completion import childEnvironment, libraryCommand, writeMask
from .defectimplants import defectMeshes, defectVoxels
from .masks import Mask
from .meshfiles import MeshData, components, readPly, readStl, writeMesh
from .meshnodes import meshData
from .results import AddedResult, editedText, figuresOf, modelMatchesImplant
from .segments import isAsAdded, maskOnGrid, readInput
from .stepwork import StepWork


@dataclass(frozen=True)
class ExportResult:
    """The files written, in this order; notes: remarks for the user.

    implantFrom: "model" if the implant's mesh is the model of the printable implant; "segment" if the segment was
    edited or has no model: the mesh is then the surface of its voxels, without clearance, holes and the other settings
    of the printable implant.
    """

    folder: Path
    files: tuple[Path, ...]
    implantFrom: str
    notes: tuple[str, ...] = ()


class SessionFiles:
    """Files that a live session writes on request; this base class has no session."""

    def request(self, kind: str, value: object = True) -> bool:
        """Request the file "skull" or "report", or the parts "tooling"; False without a live session."""
        return False

    def parts(self) -> dict[str, MeshData]:
        """The additional parts, by the stems of their files, after they were taken."""
        return {}

    def take(self, kind: str) -> Path | None:
        """The file; None while it is being written. Raises SkullVAEError if it cannot be written."""
        raise SkullVAEError("The session has ended", "Run again")


class ExportRun(StepWork):
    """Writes one result into a folder: start(), poll() until running is False, then result().

    added, inputNode, segmentID: the result and its input; formats: mesh formats, of `MESH_FORMATS`; skull, labelmaps,
    report: whether these are written as well; sessionFiles: source of skull surface and report; command: the library's
    command line; parts: value of a request for additional printed parts, None for none; defects: numbers of the
    defects, as in the report, whose implants are written; None for all.

    Files are named after the input: NAME_implant.stl, of several defects or pieces also each by itself as
    NAME_implant_1.stl and so on, NAME_skull.stl, NAME_mould_a.stl and so on, NAME_completed.nrrd, NAME_implant.nrrd,
    NAME_report.html. Of chosen defects, such as 2 and 3, NAME_implant_2.stl, NAME_implant_3.stl,
    NAME_completed_2_3.nrrd and NAME_implant_2_3.nrrd are written in their place. Existing files are not overwritten: if
    one of the names is in use, all names get a number, NAME-2_... The meshes are in world coordinates under any
    transform. The labelmaps are on the input's whole grid, moved with the transform; if the transform is not rigid,
    they are in the input's own coordinates and a note reports it.
    """

    def __init__(
        self,
        added: AddedResult,
        inputNode,
        segmentID: str,
        folder: str | os.PathLike,
        formats: Sequence[str] = ("stl",),
        skull: bool = True,
        labelmaps: bool = True,
        report: bool = True,
        sessionFiles: SessionFiles | None = None,
        command: Sequence[str] | None = None,
        defects: Sequence[int] | None = None,
        parts: dict | None = None,
    ):
        super().__init__()
        if not formats and not (labelmaps or report or parts):
            raise SkullVAEError("Nothing is selected for export", "Select a mesh format, the labelmaps or the report")
        unknown = set(formats) - set(MESH_FORMATS)
        if unknown:
            raise SkullVAEError(f"The mesh format '{sorted(unknown)[0]}' is unknown", f"Use {', '.join(MESH_FORMATS)}")
        self._added, self._inputNode, self._segmentID = added, inputNode, segmentID
        self._target = Path(folder)
        self._formats = tuple(formats)
        self._parts = parts
        self._defects = None if defects is None else sorted(set(defects))
        self._selected = {"skull": skull and bool(formats), "labelmaps": labelmaps, "report": report}
        self._sessionFiles = sessionFiles or SessionFiles()
        self._command = list(command) if command else libraryCommand()
        self._staging: Path | None = None
        self._notes: list[str] = []
        self._sessionError = ""
        self._result: ExportResult | None = None
        self.stage, self.fraction = "", 0.0
        self.cancelled = False

    def start(self) -> None:
        """Read the result from the scene and start. Raises SkullVAEError if result or folder cannot be used."""
        if not self._added.exists:
            raise SkullVAEError("The result is no longer in the scene", "Run again")
        node = self._added.segmentationNode
        source = readInput(self._inputNode, self._segmentID)
        self._affine = source.affine
        implant = maskOnGrid(node, self._added.implantID, source)
        # The implant can be exported even if the user has removed the completed skull.
        completed = maskOnGrid(node, self._added.completedID, source)
        if implant.empty:
            raise SkullVAEError("The segment of the implant is empty", "Run again, or undo the changes to the segment")
        matches = modelMatchesImplant(self._added)
        figures = figuresOf(self._added)
        edited = editedText(figures)
        if edited:
            self._notes.append(edited)
        # Points and faces are copied: the next request may change the model during the export.
        model = (
            MeshData(*map(_copied, vars(meshData(self._added.implantModelNode.GetPolyData())).values()))
            if matches
            else None
        )
        # Of several defects, by their numbers.
        self._meshes = {} if model is None else defectMeshes(model, figures)
        if self._defects is not None:
            self._checkDefects()
        unedited = matches and isAsAdded(node, self._added.completedID)
        self._toWorld, self._linear = _pointsToWorld(node)
        self._labelmapAffine = self._affine if (m := rigidToWorld(node)) is None else m @ self._affine
        if m is None and self._selected["labelmaps"]:
            self._notes.append("The transform is not rigid: the labelmaps are in the input's own coordinates.")
        try:
            self._target.mkdir(parents=True, exist_ok=True)
            self._staging = Path(tempfile.mkdtemp(prefix=".skullvae-", dir=self._target))
        except OSError as error:
            raise SkullVAEError(
                f"'{self._target}' cannot be written to: {error.strerror}", "Choose another folder"
            ) from error
        self._makeTemporary()
        self._work = self._steps(implant, completed, model, unedited)

    def result(self) -> ExportResult:
        """The files written. Raises SkullVAEError if the export failed or was cancelled."""
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise SkullVAEError("The export was cancelled", "Export again")
        return self._result

    def wait(self, onProgress: Callable[[str, float], None] = lambda stage, fraction: None) -> ExportResult:
        """Wait for the end and return the result. Blocks, so the panel must not call it."""
        try:
            while self.running:
                self.poll()
                onProgress(self.stage, self.fraction)
        finally:
            self.cancel()
        return self.result()

    def cancel(self) -> None:
        """Stop the export and all its processes; the target folder is not changed. May be called at any time."""
        if self._work is not None:
            self.cancelled = True
            self._finish()

    def _steps(self, implant: Mask, completed: Mask, model: MeshData | None, unedited: bool) -> Iterator:
        """The steps of the export; yields each step to wait for, or None to continue at the next poll."""
        names: list[str] = []
        if self._formats:
            self.stage, self.fraction = "implant", 0.05
            mesh = model
            if mesh is None:
                self._notes.append(
                    "The implant was edited, or has no model: the exported mesh is the surface of its voxels."
                )
                mesh = yield from self._surface(implant)
            parts = self._meshes
            if self._defects is None:
                yield from self._write(mesh, "implant", names)
            if not parts:
                step = BackgroundStep(lambda: components(mesh))
                yield step
                parts = dict(enumerate(step.result(), 1))
            for number, part in parts.items() if len(parts) > 1 else ():
                if self._defects is None or number in self._defects:
                    yield from self._write(part, f"implant_{number}", names)
        if self._selected["skull"] and completed.empty:
            self._notes.append("The skull surface was not exported: the completed skull is missing.")
        elif self._selected["skull"]:
            self.stage, self.fraction = "skull surface", 0.3
            mesh = (yield from self._sessionSkull()) if unedited else None
            if mesh is None:
                mesh = yield from self._surface(completed.without(implant))
            yield from self._write(mesh, "skull", names)
        if self._parts:
            yield from self._writeParts(names)
        chosen = ""
        if self._selected["labelmaps"] and self._defects is not None:
            step = BackgroundStep(lambda: self._voxelsOfDefects(implant))
            yield step
            voxels = step.result()
            completed, implant = completed.without(implant.without(voxels)), voxels
            chosen = "".join(f"_{number}" for number in self._defects)
        if self._selected["labelmaps"]:
            for role, mask, fraction in (("completed", completed, 0.7), ("implant", implant, 0.85)):
                self.stage, self.fraction = "labelmaps", fraction
                if mask.empty:
                    continue
                path = self._staging / f"{role}{chosen}.nrrd"
                step = BackgroundStep(lambda mask=mask, path=path: writeMask(mask, self._labelmapAffine, path, True))
                yield step
                step.result()
                names.append(path.name)
        if self._selected["report"]:
            self.stage, self.fraction = "report", 0.95
            path = yield from self._sessionFile("report")
            if path is None:
                cause = self._sessionError or "The session has ended. Run again to get a report"
                self._notes.append(f"The report was not exported. {cause.rstrip('.')}.")
            else:
                shutil.copyfile(path, self._staging / "report.html")
                names.append("report.html")
        self._publish(names, "segment" if model is None else "model")
        self.stage, self.fraction = "done", 1.0

    def _checkDefects(self) -> None:
        """Raise SkullVAEError if the implants of the chosen defects are not known; otherwise a note names them."""
        if not self._defects or not set(self._defects) <= set(self._meshes):
            raise SkullVAEError(
                "The implants of the selected defects are not known in the present result", "Export all, or run again"
            )
        numbers = ", ".join(map(str, self._defects))
        self._notes.append(_("Exported implants: those of defects {numbers}.").format(numbers=numbers))
        if self._selected["report"]:
            self._notes.append(_("The report is on all defects."))

    def _voxelsOfDefects(self, implant: Mask) -> Mask:
        voxels = defectVoxels(implant, self._affine, self._meshes)
        return functools.reduce(Mask.union, [voxels[number] for number in self._defects])

    def _surface(self, mask: Mask) -> Iterator:
        """The surface of a mask, computed by the library in a child process, in the input's own coordinates."""
        folder = Path(tempfile.mkdtemp(dir=self._temporary.name))
        step = BackgroundStep(lambda: writeMask(mask, self._affine, folder / "labelmap.nrrd"))
        yield step
        step.result()
        command = [*self._command, "mesh", str(folder / "labelmap.nrrd"), "-o", str(folder / "surface.ply")]
        child = ChildProcess([*command, "--progress", "json"], folder, childEnvironment())
        child.start()
        yield child
        if child.exitCode != 0:
            cause, _dot, remedy = child.lastErrorLine.partition(". ")
            if child.exitCode != BAD_INPUT or not remedy:
                cause = f"The mesh could not be computed (exit code {child.exitCode}): {child.lastErrorLine}"
                remedy = "See the log. If memory ran out, close other data"
            raise SkullVAEError(cause, remedy)
        step = BackgroundStep(lambda: readPly(folder / "surface.ply"))
        yield step
        return step.result()

    def _sessionSkull(self) -> Iterator:
        """The skull surface from the session, which uses the CT's grey values; None without a session."""
        path = yield from self._sessionFile("skull")
        if path is None:
            return None
        step = BackgroundStep(lambda: readStl(path))
        yield step
        return step.result()

    def _writeParts(self, names: list[str]) -> Iterator:
        """Write the additional parts, which the session makes for the present implant unless it has done so."""
        self.stage, self.fraction = "additional parts", 0.5
        done = yield from self._sessionFile("tooling", self._parts)
        if done is None:
            cause = self._sessionError or "The session has ended. Run again to get them"
            self._notes.append(f"The additional parts were not exported. {cause.rstrip('.')}.")
            return
        for name, mesh in self._sessionFiles.parts().items():
            yield from self._write(mesh, name, names, self._formats or (MESH_FORMATS[0],))
        if self._defects is not None:
            self._notes.append(_("The additional parts are those of all defects."))

    def _sessionFile(self, kind: str, value: object = True) -> Iterator:
        self._sessionError = ""
        if not self._sessionFiles.request(kind, value):
            return None
        while True:
            try:
                path = self._sessionFiles.take(kind)
            except SkullVAEError as error:
                self._sessionError = str(error)
                return None
            if path is not None:
                return path
            yield None

    def _write(self, mesh: MeshData, role: str, names: list[str], formats: Sequence[str] | None = None) -> Iterator:
        if not self._linear:
            # A nonlinear transform belongs to the scene, which a thread must not use.
            mesh = replace(mesh, points=self._toWorld(mesh.points))
        for kind in self._formats if formats is None else formats:
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
        super()._finish()
        shutil.rmtree(self._staging, ignore_errors=True)


def _pointsToWorld(node) -> tuple[Callable[[np.ndarray], np.ndarray], bool]:
    """(function that maps (N, 3) points of a node to world RAS mm, whether it is linear)."""
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
    """(4, 4) matrix from a transform node's children to the world; None if the transform is not linear."""
    if transform is None:
        return np.eye(4)
    matrix = vtk.vtkMatrix4x4()
    if not slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(transform, None, matrix):
        return None
    return slicer.util.arrayFromVTKMatrix(matrix)


def rigidToWorld(node) -> np.ndarray | None:
    """(4, 4) matrix from a node to the world if it preserves angles (uniform scaling is allowed), else None."""
    array = _matrixToWorld(node.GetParentTransformNode())
    if array is None:
        return None
    square = array[:3, :3].T @ array[:3, :3]
    return array if np.allclose(square, square[0, 0] * np.eye(3), rtol=1e-4, atol=1e-6) else None


def _fileName(name: str) -> str:
    """A node's name as the start of a file name."""
    return re.sub(r"[^\w. +()-]+", "_", name).strip(" ._")[:80] or "skull"


def _copied(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else array.copy()
