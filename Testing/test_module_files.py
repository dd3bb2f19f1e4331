"""What nobody else checks about the module's files: CMake's lists, the .ui's names, and what is imported when."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "SkullVAE"
SOURCES = sorted(MODULE.rglob("*.py"))
UI = MODULE / "Resources" / "UI" / "SkullVAE.ui"

# Not in Slicer, or slow to import: nothing of it may be needed to show the module.
HEAVY = {"torch", "monai", "nibabel", "safetensors", "scipy", "SimpleITK"}

# Drawn and trained by commands of the repository, so a checkout may be without them for a while.
MADE_BY_COMMANDS = {
    "Resources/Icons/SkullVAE.png",
    "Resources/Models/skullvae.md",
    "Resources/Models/skullvae.safetensors",
}

# Widgets that PythonQt or the designer plugins know.
WIDGETS = {
    "QCheckBox",
    "QComboBox",
    "QDoubleSpinBox",
    "QLabel",
    "QPlainTextEdit",
    "QProgressBar",
    "QPushButton",
    "ctkCollapsibleButton",
    "ctkSliderWidget",
    "qMRMLNodeComboBox",
    "qMRMLSegmentSelectorWidget",
    "qMRMLWidget",
}
# Which parameter types Slicer binds to which widgets.
CONNECTORS = {
    "QCheckBox": {"bool"},
    "QComboBox": {"Annotated[str"},
    "QDoubleSpinBox": {"Annotated[float"},
    "ctkSliderWidget": {"Annotated[float"},
    "qMRMLNodeComboBox": {"Union["},
}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def widgets() -> dict[str, ElementTree.Element]:
    return {widget.get("name"): widget for widget in ElementTree.parse(UI).iter("widget")}


def parameters() -> dict[str, str]:
    """Names and annotations of the parameter node."""
    module = tree(MODULE / "SkullVAEModule" / "parameters.py")
    wrapped = next(node for node in module.body if isinstance(node, ast.ClassDef))
    return {node.target.id: ast.unparse(node.annotation) for node in wrapped.body if isinstance(node, ast.AnnAssign)}


def cmakeList(name: str) -> set[str]:
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    body = re.search(rf"set\({name}\s([^)]*)\)", text).group(1)
    return set(body.replace("${MODULE_NAME}", "SkullVAE").split())


def test_cmake_lists_every_file_of_the_module():
    scripts = {path.relative_to(MODULE).as_posix() for path in SOURCES}
    resources = {
        path.relative_to(MODULE).as_posix()
        for path in (MODULE / "Resources").rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert cmakeList("MODULE_PYTHON_SCRIPTS") == scripts
    listed = cmakeList("MODULE_PYTHON_RESOURCES")
    assert resources <= listed
    assert listed - resources <= MADE_BY_COMMANDS
    if resources != listed:
        pytest.skip(f"not made yet: {', '.join(sorted(listed - resources))}")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_source_is_ascii(path):
    assert path.read_bytes().isascii()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_heavy_is_imported_at_file_scope(path):
    imported = set()
    for node in tree(path).body:
        for inner in ast.walk(node) if not isinstance(node, ast.FunctionDef | ast.ClassDef) else ():
            if isinstance(inner, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in inner.names}
            elif isinstance(inner, ast.ImportFrom) and inner.level == 0:
                imported.add(inner.module.split(".")[0])
    assert not imported & HEAVY


def test_module_loads_without_the_librarys_dependencies():
    code = """
        import sys
        blocked = {blocked}
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in blocked:
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Refuse())
        sys.path.insert(0, {testing!r})
        import slicer_standin
        slicer_standin.prepare()
        slicer_standin.newScene()
        import SkullVAE, slicer
        from SkullVAELib.errors import SkullVAEError
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
        try:
            SkullVAE.SkullVAELogic().start(node, "none")
        except SkullVAEError as error:
            print(error)
    """.format(blocked=HEAVY, testing=str(ROOT / "Testing"))
    pytest.importorskip("slicer", reason="slicer-core is not installed")
    lines = [line.removeprefix("        ") for line in code.splitlines()]
    # From elsewhere and without the checkout on the path: the module must find its library by itself.
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "has no segment 'none'. Choose" in done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_translated_texts_are_plain_strings(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_", "translate"):
            assert all(isinstance(argument, ast.Constant) for argument in node.args), ast.unparse(node)


def test_every_widget_the_code_uses_is_in_the_ui():
    used = set()
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self.ui":
                used.add(node.attr)
    assert used
    assert used <= set(widgets())


def test_ui_uses_known_widgets_only():
    assert {widget.get("class") for widget in widgets().values()} <= WIDGETS


def test_every_bound_widget_has_its_parameter_and_a_connector():
    bound = {}
    for widget in widgets().values():
        for prop in widget.findall("property[@name='SlicerParameterName']"):
            bound[prop.findtext("string")] = widget.get("class")
    # The segment has no connector: the widget wires it by hand.
    assert set(bound) == set(parameters()) - {"segmentID"}
    for name, widgetClass in bound.items():
        assert any(parameters()[name].startswith(kind) for kind in CONNECTORS[widgetClass]), name


def test_scene_reaches_every_mrml_widget():
    receivers = {connection.findtext("receiver") for connection in ElementTree.parse(UI).iter("connection")}
    top = ElementTree.parse(UI).find("widget").get("name")
    mrml = {name for name, widget in widgets().items() if widget.get("class").startswith("qMRML")} - {top}
    assert receivers == mrml


def test_custom_widgets_are_declared():
    declared = {widget.findtext("class") for widget in ElementTree.parse(UI).iter("customwidget")}
    used = {widget.get("class") for widget in widgets().values()}
    assert declared == {name for name in used if not name.startswith("Q")}
