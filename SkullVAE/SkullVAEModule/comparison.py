"""Compares a planned implant with the outcome in a child process, and adds the coloured plan to the scene."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.exit_codes import BAD_INPUT

from .background import BackgroundStep
from .bonefile import BoneFile
from .childprocess import ChildProcess
from .completion import childEnvironment, libraryCommand, writeMask
from .librarypath import shippedModel
from .masks import Mask
from .meshfiles import MeshData, readPly, writeMesh
from .meshnodes import DEVIATION, meshData, polyData, removeModel, showColours
from .results import AddedResult, modelMatchesImplant
from .segments import madeNodes, markAsMade, maskOnGrid, readInput
from .stepwork import StepWork

# Attribute of the model: content of compare.json.
_REPORT_ATTRIBUTE = "SkullVAE.comparison"

# Ends of the colour scale in mm: the least that holds 95 % of the differences is used.
_SCALES_MM = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)


@dataclass(frozen=True, eq=False)
class PlannedImplant:
    """A plan: a result folder or file, or the masks of a result and its printable implant, if it has one.

    name: what the user knows it by; affine: (4, 4) voxel index -> RAS mm; node, segmentID: the input whose coordinates
    the plan is in, None and "" for the world.
    """

    name: str
    path: Path | None = None
    completed: Mask | None = None
    implant: Mask | None = None
    affine: np.ndarray | None = None
    mesh: MeshData | None = None
    node: object = None
    segmentID: str = ""

    @classmethod
    def ofResult(cls, added: AddedResult, inputNode, segmentID: str) -> PlannedImplant:
        """The present result of an input. Raises SkullVAEError if the implant is empty."""
        source = readInput(inputNode, segmentID)
        implant = maskOnGrid(added.segmentationNode, added.implantID, source)
        completed = maskOnGrid(added.segmentationNode, added.completedID, source)
        if implant.empty:
            raise SkullVAEError("The segment of the implant is empty", "Run again, or undo the changes to the segment")
        mesh = None
        if modelMatchesImplant(added):
            shown = meshData(added.implantModelNode.GetPolyData())
            mesh = MeshData(shown.points.copy(), shown.faces.copy())
        return cls(inputNode.GetName(), None, completed, implant, source.affine, mesh, inputNode, segmentID)

    def write(self, folder: Path) -> Path:
        """The plan as the library reads it; called in a thread. Raises SkullVAEError."""
        if self.path is not None:
            return self.path
        folder.mkdir()
        writeMask(self.implant, self.affine, folder / "implant.nrrd")
        if self.mesh is not None:
            writeMesh(self.mesh, folder / "implant.stl")
        if self.completed.empty:
            return folder / ("implant.nrrd" if self.mesh is None else "implant.stl")
        writeMask(self.completed, self.affine, folder / "completed.nrrd")
        return folder


class ComparisonRun(StepWork):
    """Compares plan and outcome: start(), poll() until running is False, then result().

    threshold: bone threshold of the outcome in HU, None for the default; command: the library's command line.
    """

    def __init__(
        self,
        plan: PlannedImplant,
        outcome: BoneFile,
        threshold: float | None = None,
        command: Sequence[str] | None = None,
    ):
        super().__init__()
        self._plan, self._outcome, self._threshold = plan, outcome, threshold
        self._command = list(command) if command else libraryCommand()
        self._result: tuple[dict, MeshData] | None = None

    @property
    def fraction(self) -> float:
        """The fraction done, 0 to 1."""
        return self._current.fraction if isinstance(self._current, ChildProcess) else 0.0

    def start(self) -> None:
        """Start."""
        self._work = self._steps(Path(self._makeTemporary()))

    def result(self) -> tuple[dict, MeshData]:
        """(content of compare.json, the planned implant with the differences). Raises SkullVAEError."""
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise SkullVAEError("The comparison was cancelled", "Compare again")
        return self._result

    def cancel(self) -> None:
        """Stop the comparison and all its processes."""
        if self._work is not None:
            self._finish()

    def _steps(self, folder: Path) -> Iterator:
        writing = BackgroundStep(lambda: (self._plan.write(folder / "plan"), self._outcome.write(folder, "outcome")))
        yield writing
        plan, outcome = writing.result()
        command = [*self._command, "compare", str(plan), str(outcome), "-o", str(folder / "compared")]
        command += ["--progress", "json"]
        if self._threshold is not None:
            command.append(f"--threshold={self._threshold:g}")
        model = shippedModel()
        if model is not None:
            command += ["--model", str(model)]
        child = ChildProcess(command, folder, childEnvironment())
        child.start()
        yield child
        if child.exitCode == BAD_INPUT and child.lastErrorLine:
            raise SkullVAEError.from_line(child.lastErrorLine)
        if child.exitCode != 0:
            raise SkullVAEError(
                f"The comparison ended unexpectedly with exit code {child.exitCode}: {child.lastErrorLine}",
                "See the log. If memory ran out, close other data",
            )
        reading = BackgroundStep(lambda: _read(folder / "compared"))
        yield reading
        report, mesh = reading.result()
        self._result = report | {"plan": self._plan.name, "outcome": self._outcome.name}, mesh


def _read(folder: Path) -> tuple[dict, MeshData]:
    return json.loads((folder / "compare.json").read_text(encoding="utf-8")), readPly(folder / "difference.ply")


def addComparison(report: dict, mesh: MeshData, inputNode=None, segmentID: str = ""):
    """Add the plan, coloured by the differences; replaces an earlier comparison.

    inputNode, segmentID: the input of the result that was the plan, with which it is removed; None for a file.
    """
    for earlier in _comparisons():
        removeModel(earlier)
    name = _("{name} plan and outcome").format(name=report["plan"])
    model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", slicer.mrmlScene.GenerateUniqueName(name))
    model.SetAndObserveMesh(polyData(mesh))
    model.CreateDefaultDisplayNodes()
    model.SetAttribute(_REPORT_ATTRIBUTE, json.dumps(report))
    if inputNode is not None:
        markAsMade(model, inputNode, segmentID)
        model.SetAndObserveTransformNodeID(inputNode.GetTransformNodeID())
    showColours(model, DEVIATION, scaleMillimetres(mesh.deviation))
    return model


def removeComparison(inputNode, segmentID: str) -> bool:
    """Remove the comparison whose plan was the result of this input; whether there was one."""
    own = madeNodes("vtkMRMLModelNode", inputNode, segmentID)
    found = [model for model in _comparisons() if model in own]
    for model in found:
        removeModel(model)
    return bool(found)


def comparisonReport() -> dict:
    """Content of compare.json of the comparison in the scene; empty without one."""
    for model in _comparisons():
        try:
            report = json.loads(model.GetAttribute(_REPORT_ATTRIBUTE))
        except ValueError:
            continue
        if isinstance(report, dict):
            return report
    return {}


def scaleMillimetres(deviation: np.ndarray | None) -> float:
    """The end of the colour scale of differences in mm.

    >>> scaleMillimetres(np.array([0.2, -1.7, np.nan]))
    2.0
    """
    size = np.abs(deviation[np.isfinite(deviation)]) if deviation is not None else np.zeros(0)
    wanted = float(np.quantile(size, 0.95)) if len(size) else 0.0
    return next((most for most in _SCALES_MM if wanted <= most), _SCALES_MM[-1])


def _comparisons() -> list:
    return [node for node in slicer.util.getNodesByClass("vtkMRMLModelNode") if node.GetAttribute(_REPORT_ATTRIBUTE)]
