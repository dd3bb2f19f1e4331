"""Bone from a node of the scene or from a file, which a run or a comparison reads: an earlier or a later CT, or a
part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from slicer.i18n import tr as _

from SkullVAELib.core.errors import SkullVAEError

from .export import rigidToWorld
from .meshfiles import MeshData, writeMesh
from .meshnodes import meshData
from .parameters import SkullVAEParameterNode, isVolume
from .segments import readInput


@dataclass(frozen=True, eq=False)
class BoneFile:
    """Bone that is written to a file unless it is in one: voxels with affine (4, 4), or a mesh, RAS mm.

    name: what the user knows it by.
    """

    name: str
    path: Path | None = None
    voxels: np.ndarray | None = None
    affine: np.ndarray | None = None
    mesh: MeshData | None = None

    @classmethod
    def ofNode(cls, node, segmentID: str = "", inNode=None) -> BoneFile:
        """The voxels of a volume or segment, or the mesh of a model, in the coordinates of another node, or the world.

        The voxels of a volume are not copied. Raises SkullVAEError if there are none, or if a transform is not rigid.
        """
        moved = _rigid(node) if inNode is None else np.linalg.inv(_rigid(inNode)) @ _rigid(node)
        if node.IsA("vtkMRMLModelNode"):
            if node.GetPolyData() is None or node.GetPolyData().GetNumberOfPolys() == 0:
                raise SkullVAEError(f"The model '{node.GetName()}' is empty", "Choose a model with a surface")
            mesh = _triangles(node.GetPolyData())
            points = mesh.points.astype(float) @ moved[:3, :3].T + moved[:3, 3]
            return cls(node.GetName(), mesh=MeshData(points.astype(np.float32), mesh.faces.copy()))
        source = readInput(node, "" if isVolume(node) else segmentID)
        return cls(node.GetName(), voxels=source.array, affine=moved @ source.affine)

    def write(self, folder: Path, stem: str) -> Path:
        """The file, which is written into a folder if there is none; called in a thread. Raises SkullVAEError."""
        if self.path is not None:
            return self.path
        if self.mesh is not None:
            writeMesh(self.mesh, folder / f"{stem}.stl")
            return folder / f"{stem}.stl"
        # Imported here and not when Slicer starts: SimpleITK is slow to import, and nibabel may not be installed yet.
        import SimpleITK as sitk

        from SkullVAELib.geometry.volume import Volume
        from SkullVAELib.io.images import to_image

        try:
            sitk.WriteImage(to_image(Volume(self.voxels, self.affine)), str(folder / f"{stem}.nrrd"), False)
        except RuntimeError as error:
            raise SkullVAEError(
                f"'{self.name}' cannot be written to '{folder}'", "Check that the temporary folder has free space"
            ) from error
        return folder / f"{stem}.nrrd"


class BoneSelector:
    """A node of the scene or a file, which the user selects with three widgets.

    nodeSelector: a node, bound to its parameter; segmentSelector: a segment of it; fileLineEdit: a file, which is used
    if no node is selected. What it does with segment and file is that of the derived class.
    """

    def __init__(self, nodeSelector, segmentSelector, fileLineEdit) -> None:
        self._nodeSelector, self._segmentSelector, self._fileLineEdit = nodeSelector, segmentSelector, fileLineEdit
        self._parameters: SkullVAEParameterNode | None = None
        segmentSelector.connect("currentSegmentChanged(QString)", self._onSegment)
        fileLineEdit.connect("currentPathChanged(QString)", self._onFile)
        # The other signal is not emitted when the line is cleared.
        fileLineEdit.connect("validInputChanged(bool)", lambda valid: None if valid else self._onFile(""))

    def setParameterNode(self, parameters: SkullVAEParameterNode | None) -> None:
        """Use these parameters; None while there are none."""
        self._parameters = parameters

    @property
    def node(self):
        """The selected node; None if none is."""
        raise NotImplementedError

    @property
    def segmentID(self) -> str:
        """The selected segment."""
        raise NotImplementedError

    @property
    def file(self) -> str:
        """The selected file; empty if none is."""
        raise NotImplementedError

    def setSegmentID(self, segmentID: str) -> None:
        """Change the parameter of the segment."""
        raise NotImplementedError

    def setFile(self, path: str) -> None:
        """Change the parameter of the file."""
        raise NotImplementedError

    @property
    def isSelected(self) -> bool:
        """Whether a node or a file is selected."""
        return self.node is not None or bool(self.file)

    @property
    def isImage(self) -> bool:
        """Whether a CT may be selected, to which a threshold applies."""
        if self.node is not None:
            return self.node.IsA("vtkMRMLScalarVolumeNode")
        return bool(self.file) and not self.file.lower().endswith((".stl", ".ply", ".obj"))

    def update(self) -> None:
        """Show the parameters."""
        node = self.node
        segmented = node is not None and node.IsA("vtkMRMLSegmentationNode")
        self._fileLineEdit.enabled = node is None
        _show(self._fileLineEdit, self.file)
        selector = self._segmentSelector
        selector.visible = segmented
        wasBlocked = selector.blockSignals(True)
        selector.setCurrentNode(node if segmented else None)
        if segmented:
            if self.segmentID and node.GetSegmentation().GetSegment(self.segmentID):
                selector.setCurrentSegmentID(self.segmentID)
            elif selector.currentSegmentID() != self.segmentID:
                self.setSegmentID(selector.currentSegmentID())
        selector.blockSignals(wasBlocked)

    def missing(self) -> str:
        """What is wrong with the selection; empty if nothing, or if nothing is selected."""
        if self.node is None and self.file and not Path(self.file).exists():
            return _("The file '{name}' does not exist: choose another one").format(name=Path(self.file).name)
        return ""

    def read(self, inNode=None) -> BoneFile | None:
        """The selected bone in the coordinates of a node, or the world; None if nothing is selected.

        Raises SkullVAEError.
        """
        if self.node is not None:
            return BoneFile.ofNode(self.node, self.segmentID, inNode)
        # Absolute, since the process works in another folder.
        return BoneFile(Path(self.file).name, Path(self.file).absolute()) if self.file else None

    def _onSegment(self, segmentID: str) -> None:
        if self._parameters is not None:
            self.setSegmentID(segmentID)

    def _onFile(self, path: str) -> None:
        if self._parameters is not None:
            self.setFile(path)


class ReferenceSelector(BoneSelector):
    """Selects the patient's earlier bone in the section "Input"."""

    @property
    def node(self):
        return self._parameters.referenceNode

    @property
    def segmentID(self) -> str:
        return self._parameters.referenceSegmentID

    @property
    def file(self) -> str:
        return self._parameters.referenceFile

    def setSegmentID(self, segmentID: str) -> None:
        self._parameters.referenceSegmentID = segmentID

    def setFile(self, path: str) -> None:
        self._parameters.referenceFile = path

    def missing(self) -> str:
        if self.node is not None and self.node is self._parameters.inputNode and isVolume(self.node):
            return _("The earlier bone is the input itself: choose another image")
        return super().missing()


class OutcomeSelector(BoneSelector):
    """Selects the outcome that a plan is compared with."""

    @property
    def node(self):
        return self._parameters.outcomeNode

    @property
    def segmentID(self) -> str:
        return self._parameters.outcomeSegmentID

    @property
    def file(self) -> str:
        return self._parameters.outcomeFile

    def setSegmentID(self, segmentID: str) -> None:
        self._parameters.outcomeSegmentID = segmentID

    def setFile(self, path: str) -> None:
        self._parameters.outcomeFile = path


def _show(lineEdit, path: str) -> None:
    if lineEdit.currentPath != path:
        wasBlocked = lineEdit.blockSignals(True)
        lineEdit.currentPath = path
        lineEdit.blockSignals(wasBlocked)


def _rigid(node) -> np.ndarray:
    matrix = rigidToWorld(node)
    if matrix is None:
        raise SkullVAEError(
            f"The transform of '{node.GetName()}' is not rigid", "Harden it, or choose data without a transform"
        )
    return matrix


def _triangles(polydata) -> MeshData:
    """The triangles of a model, which may consist of other cells."""
    import vtk

    filtered = vtk.vtkTriangleFilter()
    filtered.PassVertsOff()
    filtered.PassLinesOff()
    filtered.SetInputData(polydata)
    filtered.Update()
    return meshData(filtered.GetOutput())
