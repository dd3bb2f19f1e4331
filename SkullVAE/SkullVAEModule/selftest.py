# ruff: noqa: PT009, PT027 (unittest: Slicer brings no pytest)
"""The module's self-test, for a running Slicer: Developer mode's "Test" button, and CTest in a built extension."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest
from vtk.util.numpy_support import numpy_to_vtk

from .childprocess import ChildProcess
from .completion import childEnvironment, pythonExecutable
from .dependencies import missingPackages
from .logic import SkullVAELogic
from .segments import readInput, resultSegmentIDs, segmentTag


class SkullVAETest(ScriptedLoadableModuleTest):
    """Completes a generated skull in the scene."""

    def setUp(self) -> None:
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self, **kwargs) -> None:
        """Run all tests."""
        self.setUp()
        self.test_EmptySegmentIsRefused()
        self.setUp()
        self.test_GeneratedSkullIsCompleted()

    def test_EmptySegmentIsRefused(self) -> None:
        """An empty segment is an error before anything is run."""
        from SkullVAELib.errors import SkullVAEError

        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
        segmentID = node.GetSegmentation().AddEmptySegment("", "Skull")
        logic = SkullVAELogic()
        with self.assertRaises(SkullVAEError):
            logic.start(node, segmentID)
        self.assertFalse(logic.running)

    def test_GeneratedSkullIsCompleted(self) -> None:
        """A generated skull with a defect gets an implant that lies outside its bone."""
        missing = missingPackages()
        if missing:
            self.delayDisplay("Not run: these packages are missing: {}".format(", ".join(missing)))
            return
        self.delayDisplay("Generating a skull")
        node, segmentID = _generatedSkull()
        before = readInput(node, segmentID).array.copy()
        self.delayDisplay("Completing it")
        logic = SkullVAELogic()
        logic.start(node, segmentID)
        while logic.poll():
            slicer.app.processEvents()
            time.sleep(0.05)
        self.assertIsNotNone(logic.added)
        after = readInput(node, segmentID).array
        completed = readInput(node, logic.added.completedID).array
        implant = readInput(node, logic.added.implantID).array
        self.assertTrue(np.array_equal(before, after))
        self.assertTrue(np.array_equal(before | implant, completed))
        self.assertFalse(np.any(before & implant))
        self.assertEqual(len(resultSegmentIDs(node.GetSegmentation(), segmentID)), 2)
        segment = node.GetSegmentation().GetSegment(logic.added.implantID)
        self.assertTrue(segmentTag(segment, "SkullVAE.note"))
        self.delayDisplay("Test passed")


def _generatedSkull():
    """A segmentation node with the library's generated skull, and the segment's ID."""
    import vtk

    from SkullVAELib.volume import read_volume

    with tempfile.TemporaryDirectory(prefix="SkullVAE-") as folder:
        path = Path(folder) / "sample.nrrd"
        command = [pythonExecutable(), "-m", "SkullVAELib", "sample", "-o", str(path)]
        child = ChildProcess(command, folder, childEnvironment())
        child.start()
        while child.running:
            child.poll()
            slicer.app.processEvents()
            time.sleep(0.05)
        if child.exitCode != 0:
            raise RuntimeError(child.lastErrorLine)
        volume = read_volume(path)
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(volume.array.shape)
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(volume.affine.ravel().tolist())
    image.SetGeometryFromImageToWorldMatrix(matrix)
    flat = np.ascontiguousarray(volume.array.transpose(2, 1, 0) != 0).view(np.uint8).ravel()
    scalars = numpy_to_vtk(flat, deep=True, array_type=vtk.VTK_UNSIGNED_CHAR)
    image.GetPointData().SetScalars(scalars)
    segment = slicer.vtkSegment()
    segment.SetName("Skull")
    segment.AddRepresentation(slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName(), image)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Generated skull")
    node.GetSegmentation().AddSegment(segment, "skull")
    node.CreateDefaultDisplayNodes()
    return node, "skull"
