"""What Slicer's application gives a module, on top of slicer-core: a scene, `slicer.app`, and base classes.

slicer-core brings Slicer's real MRML, segmentations and slicer.util, but no Qt and none of the Python base classes.
What stands in for those here is as small as the module's logic allows and strict: any other attribute is an error.
"""

from __future__ import annotations

import sys
import types
import typing
import unittest
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULE_FOLDER = ROOT / "SkullVAE"


class App:
    """slicer.app: as much of it as the logic asks for."""

    def testingEnabled(self) -> bool:
        return True

    def processEvents(self) -> None:
        pass


class SegmentationsModule:
    """slicer.modules.segmentations: slicer.util exports segments through its logic."""

    def __init__(self, logic):
        self._logic = logic

    def logic(self):
        return self._logic


class ScriptedLoadableModule:
    def __init__(self, parent):
        self.parent = parent


class ScriptedLoadableModuleWidget:
    pass


class ScriptedLoadableModuleLogic:
    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self):
        import slicer

        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    def delayDisplay(self, message: str) -> None:
        print(message)


class WithinRange:
    def __init__(self, minimum, maximum):
        self.accepts = lambda value: minimum <= value <= maximum


class Choice:
    def __init__(self, choices):
        self.accepts = lambda value: value in choices


def parameterNodeWrapper(wrapped):
    """Typed, checked parameters; unlike Slicer's, they live in the wrapper and not in the node."""
    hints = typing.get_type_hints(wrapped, include_extras=True)

    class Wrapper:
        def __init__(self, node):
            object.__setattr__(self, "parameterNode", node)
            for name in hints:
                setattr(self, name, getattr(wrapped, name, None))

        def __setattr__(self, name, value):
            kind, *checks = typing.get_args(hints[name]) if hasattr(hints[name], "__metadata__") else [hints[name]]
            kinds = typing.get_args(kind) or (kind,)
            if not isinstance(value, (*kinds, int) if float in kinds else kinds):
                raise TypeError(f"{name} cannot be {value!r}")
            if not all(check.accepts(value) for check in checks):
                raise ValueError(f"{name} cannot be {value!r}")
            object.__setattr__(self, name, value)

    Wrapper.__name__ = wrapped.__name__
    return Wrapper


def _install(name: str, **attributes) -> None:
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module


def prepare() -> None:
    """Make `import SkullVAE` and its rooms work in this process; skips the test where slicer-core is missing."""
    slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
    if "slicer.i18n" not in sys.modules:
        _install("qt")
        _install("slicer.i18n", tr=lambda text: text, translate=lambda context, text: text)
        _install("slicer.parameterNodeWrapper", **{f.__name__: f for f in (parameterNodeWrapper, WithinRange, Choice)})
        bases = (
            ScriptedLoadableModule,
            ScriptedLoadableModuleWidget,
            ScriptedLoadableModuleLogic,
            ScriptedLoadableModuleTest,
        )
        _install("slicer.ScriptedLoadableModule", **{base.__name__: base for base in bases})
        slicer.app = App()
        slicer.modules = types.SimpleNamespace()
        # As Slicer does: the module's own folder, not the library's.
        sys.path.insert(0, str(MODULE_FOLDER))


def newScene():
    """An empty scene, known to slicer.mrmlScene, with the segmentation logic that registers the conversions."""
    import slicer

    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    slicer.mrmlScene = scene
    slicer.modules.segmentations = SegmentationsModule(logic)
    return scene
