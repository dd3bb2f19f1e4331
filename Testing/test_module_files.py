"""Files of the module: lists of CMake, names in the .ui file, and imports."""

from __future__ import annotations

import ast
import json
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from slicer_standin import allowed

ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "SkullVAE"
SOURCES = sorted(MODULE.rglob("*.py"))
UI = MODULE / "Resources" / "UI" / "SkullVAE.ui"

# Packages that Slicer does not contain or that are slow to import; showing the module must not need them.
HEAVY = {"torch", "monai", "nibabel", "safetensors", "scipy", "SimpleITK"}

# Files that commands of the repository make, so that a checkout may not contain them.
MADE_BY_COMMANDS = {
    "Resources/Icons/SkullVAE.png",
    "Resources/Models/skullvae.md",
    "Resources/Models/skullvae.safetensors",
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
        from SkullVAELib.core.errors import SkullVAEError
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
        try:
            SkullVAE.SkullVAELogic().start(node, "none")
        except SkullVAEError as error:
            print(error)
    """.format(blocked=HEAVY, testing=str(ROOT / "Testing"))
    pytest.importorskip("slicer", reason="slicer-core is not installed")
    lines = [line.removeprefix("        ") for line in code.splitlines()]
    # In another folder and without the checkout on the path: the module must find its library by itself.
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd="/", capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert "has no segment 'none'. Choose" in done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_translated_texts_are_plain_strings(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_", "tr", "translate"):
            assert all(isinstance(argument, ast.Constant) for argument in node.args), ast.unparse(node)


# --------------------------------------------------------------------------------------------------------------------
# The .ui file


def properties() -> list[tuple[str, str, ElementTree.Element]]:
    """(class, property, element) of every widget, layout and spacer."""
    found = []
    for kind in ("widget", "layout", "spacer"):
        for element in ElementTree.parse(UI).iter(kind):
            name = element.get("class") or kind
            found += [(name, child.get("name"), child) for child in element.findall("property")]
    return found


def bound() -> dict[str, str]:
    """The parameter of each bound widget: name of the parameter -> class of the widget."""
    pairs = [(child.findtext("string"), name) for name, prop, child in properties() if prop == "SlicerParameterName"]
    assert len(dict(pairs)) == len(pairs), "two widgets show one parameter"
    return dict(pairs)


def kind(annotation: str) -> str:
    """Type of a parameter: bool, int, float, str, Path or node."""
    plain = annotation.removeprefix("Annotated[").partition(",")[0]
    return "node" if plain.startswith(("Union[", "vtkMRML")) else plain.rpartition(".")[2]


def test_every_widget_the_code_uses_is_in_the_ui():
    used = set()
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self.ui", "ui"):
                used.add(node.attr)
    assert used
    assert used <= set(widgets())


def test_every_name_in_the_ui_is_there_once():
    names = [element.get("name") for element in ElementTree.parse(UI).iter() if element.tag in ("widget", "layout")]
    assert len(set(names)) == len(names)


def test_every_class_of_the_ui_is_on_the_list():
    assert {widget.get("class") for widget in widgets().values()} <= set(allowed.WIDGETS)
    layouts = {layout.get("class") for layout in ElementTree.parse(UI).iter("layout")}
    assert layouts <= set(allowed.LAYOUTS)


def test_every_property_of_the_ui_is_on_the_list():
    known = {**allowed.LAYOUTS, "spacer": allowed.SPACER}
    known |= {name: names | allowed.DYNAMIC for name, names in allowed.WIDGETS.items()}
    unknown = {(name, prop) for name, prop, _element in properties() if prop not in known.get(name, set())}
    assert not unknown


def test_every_bound_widget_has_its_parameter_and_a_connector():
    declared = parameters()
    for name, widgetClass in bound().items():
        assert name in declared, f"there is no parameter '{name}'"
        assert kind(declared[name]) in allowed.CONNECTORS[widgetClass], f"{widgetClass} cannot show '{name}'"
        if widgetClass == "QComboBox":
            assert "Choice(" in declared[name], f"'{name}' has no choices"
        if widgetClass == "ctkSliderWidget":
            assert "WithinRange(" in declared[name], f"'{name}' has no bounds"


def test_every_parameter_without_a_bound_widget_is_set_by_the_code():
    written = set()
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            targets = node.targets if isinstance(node, ast.Assign) else ()
            written |= {target.attr for target in targets if isinstance(target, ast.Attribute)}
    assert set(parameters()) - set(bound()) <= written


def test_scene_reaches_every_mrml_widget():
    receivers = {connection.findtext("receiver") for connection in ElementTree.parse(UI).iter("connection")}
    top = ElementTree.parse(UI).find("widget").get("name")
    mrml = {name for name, widget in widgets().items() if widget.get("class").startswith("qMRML")} - {top}
    assert receivers == mrml


def test_custom_widgets_are_declared():
    declared = {widget.findtext("class") for widget in ElementTree.parse(UI).iter("customwidget")}
    used = {widget.get("class") for widget in widgets().values()}
    assert declared == {name for name in used if not name.startswith("Q")}


# --------------------------------------------------------------------------------------------------------------------
# The Extensions Index


def cmakeValue(name: str) -> str:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return re.search(rf'set\({name} "([^"]*)"\)', text).group(1)


INDEX_ENTRY = ROOT / "Docs" / "SkullVAE.json"


def test_index_entry_agrees_with_cmake():
    entry = json.loads(INDEX_ENTRY.read_text(encoding="utf-8"))
    project = re.search(r"project\((\w+)\)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")).group(1)
    assert project == INDEX_ENTRY.stem
    assert entry["category"] == cmakeValue("EXTENSION_CATEGORY")
    assert entry["build_dependencies"] == cmakeValue("EXTENSION_DEPENDS").split()
    assert entry["scm_url"].removesuffix(".git") == cmakeValue("EXTENSION_HOMEPAGE")
    assert entry["tier"] in (1, 3, 5)


def test_readme_agrees_with_cmake():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {INDEX_ENTRY.stem}\n")
    for dependency in cmakeValue("EXTENSION_DEPENDS").split():
        assert f"extension *{dependency}*" in " ".join(readme.split())
    for text in (readme, cmakeValue("EXTENSION_DESCRIPTION")):
        assert "Research software, not a medical device, not for clinical use." in text


def test_pictures_of_the_extension_are_in_the_repository():
    start = cmakeValue("EXTENSION_HOMEPAGE").replace("https://github.com", "https://raw.githubusercontent.com")
    branch = json.loads(INDEX_ENTRY.read_text(encoding="utf-8"))["scm_revision"]
    urls = [cmakeValue("EXTENSION_ICONURL"), *cmakeValue("EXTENSION_SCREENSHOTURLS").split()]
    for url in urls:
        path = ROOT / url.removeprefix(f"{start}/{branch}/")
        assert url.startswith(f"{start}/{branch}/")
        assert path.is_file(), path
    icon = (ROOT / urls[0].removeprefix(f"{start}/{branch}/")).read_bytes()
    assert icon.startswith(b"\x89PNG")
    assert struct.unpack(">II", icon[16:24]) == (128, 128)
