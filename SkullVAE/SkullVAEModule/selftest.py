# ruff: noqa: PT009, PT027 (unittest, because Slicer does not include pytest)
"""Self-test of the module in a running Slicer: "Test" button of the developer mode, and CTest of a built extension.

It runs the steps of the tutorial on a generated skull with the widgets of the panel and checks voxels and files.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

from SkullVAELib.core.errors import SkullVAEError

from .installation import missingPackages
from .logic import SkullVAELogic
from .sampledata import loadGenerated
from .segments import readInput, resultSegmentIDs, segmentTag

# A run takes seconds; the first run on a slow machine takes longer, because files are read from disk.
_PATIENCE_S = 300


class SkullVAETest(ScriptedLoadableModuleTest):
    """Completes a generated skull in the scene."""

    def setUp(self) -> None:
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self, **kwargs) -> None:
        """Run all tests."""
        for test in (self.test_EmptySegmentIsRefused, self.test_Tutorial):
            self.setUp()
            test()

    def test_EmptySegmentIsRefused(self) -> None:
        """A segment without voxels is an error before the run starts."""
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
        segmentID = node.GetSegmentation().AddEmptySegment("", "Skull")
        logic = SkullVAELogic()
        with self.assertRaises(SkullVAEError):
            logic.start(node, segmentID)
        self.assertFalse(logic.running)

    def test_Tutorial(self) -> None:
        """Load the sample, cancel a run, complete the skull, move gamma, export, remove the result."""
        missing = missingPackages()
        if missing:
            self.delayDisplay("Not run, because packages are missing: {}".format(", ".join(missing)))
            return
        # Without selecting the module, since tests may run without a main window.
        widget = slicer.util.getModuleWidget("SkullVAE")
        widget.enter()
        ui = widget.ui

        self.delayDisplay("Generating a skull")
        node = loadGenerated()
        segmentID = node.GetSegmentation().GetNthSegmentID(0)
        before = readInput(node, segmentID).array.copy()
        nodesBefore = _nodeIDs()
        parameters = widget.logic.getParameterNode()
        parameters.inputNode = node
        parameters.segmentID = segmentID
        self.assertTrue(ui.completeButton.enabled, ui.completeButton.toolTip)

        self.delayDisplay("Cancelling a run")
        ui.completeButton.click()
        self.assertTrue(widget.logic.running, ui.statusLabel.text)
        self._wait(lambda: widget.logic.stage)
        ui.cancelButton.click()
        self.assertFalse(widget.logic.running)
        self.assertEqual(_nodeIDs(), nodesBefore)

        self.delayDisplay("Completing the skull")
        ui.completeButton.click()
        self._wait(lambda: not widget.logic.running)
        added = widget.logic.added
        self.assertIsNotNone(added, ui.statusLabel.text)
        self._checkVoxels(node, segmentID, before, added)
        first = readInput(node, added.implantID).array.copy()

        self.delayDisplay("Moving gamma")
        ui.gammaSlider.value = 1.0
        self._wait(lambda: widget.logic.responsePending)
        self._wait(lambda: not widget.logic.responsePending)
        self._checkVoxels(node, segmentID, before, added)
        self.assertFalse(np.array_equal(first, readInput(node, added.implantID).array))

        self.delayDisplay("Exporting")
        with tempfile.TemporaryDirectory(prefix="SkullVAE-") as folder:
            parameters.exportFolder = folder
            self.assertTrue(ui.exportButton.enabled, ui.exportButton.toolTip)
            ui.exportButton.click()
            self._wait(lambda: not widget.exportSection.running)
            suffixes = sorted(path.suffix for path in Path(folder).rglob("*") if path.is_file())
            self.assertEqual(suffixes, [".html", ".nrrd", ".nrrd", ".stl", ".stl"], ui.statusLabel.text)

        self.delayDisplay("Removing the result")
        ui.removeResultButton.click()
        self.assertEqual(resultSegmentIDs(node.GetSegmentation(), segmentID), [])
        self.assertEqual(_nodeIDs(), nodesBefore)
        self.assertTrue(np.array_equal(before, readInput(node, segmentID).array))
        self.delayDisplay("Test passed")

    def _checkVoxels(self, node, segmentID: str, before: np.ndarray, added) -> None:
        """The input is unchanged, the implant is outside its bone, and their union is the completed skull."""
        completed = readInput(node, added.completedID).array
        implant = readInput(node, added.implantID).array
        self.assertTrue(np.array_equal(before, readInput(node, segmentID).array))
        self.assertTrue(np.array_equal(before | implant, completed))
        self.assertFalse(np.any(before & implant))
        self.assertGreater(np.count_nonzero(implant), 1000)
        self.assertEqual(len(resultSegmentIDs(node.GetSegmentation(), segmentID)), 2)
        segment = node.GetSegmentation().GetSegment(added.implantID)
        self.assertTrue(segmentTag(segment, "SkullVAE.note"))

    def _wait(self, condition) -> None:
        """Process events until the condition is true."""
        end = time.monotonic() + _PATIENCE_S
        while not condition():
            self.assertLess(time.monotonic(), end, "timeout")
            slicer.app.processEvents()
            time.sleep(0.02)


def _nodeIDs() -> set[str]:
    """The nodes that are visible to the user; Slicer adds other nodes by itself."""
    classes = ("vtkMRMLSegmentationNode", "vtkMRMLVolumeNode", "vtkMRMLModelNode", "vtkMRMLMarkupsNode")
    nodes = (node for name in classes for node in slicer.util.getNodesByClass(name))
    return {node.GetID() for node in nodes if not node.GetHideFromEditors()}
