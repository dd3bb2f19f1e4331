"""Testing/run_in_slicer.py and its adapter, with the stand-in as the application that they run in."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import slicer_standin
from slicer_standin import application

TESTING = Path(__file__).resolve().parent
SCRIPT = TESTING / "run_in_slicer.py"

# The application, with the module loaded, runs the script as Slicer does: by exec, in __main__, with its own arguments.
APPLICATION = """
    import sys
    script, mainWindow, without, *arguments = sys.argv[1:]
    sys.path.insert(0, {testing!r})
    import slicer_standin
    slicer_standin.prepare()
    import SkullVAE, slicer
    SkullVAE.SkullVAE(slicer_standin.moduleRecord())
    slicer.app.finishStartup()
    slicer_standin.setMainWindow(mainWindow == "True")
    slicer_standin.setTesting(True)
    former = slicer.app, slicer.util.mainWindow
    sys.path.remove({testing!r})
    if without:
        sys.modules[without] = None
    sys.argv = [script, "--", *arguments] if arguments else [script]
    exec(open(script).read(), {{"__name__": "__main__", "__file__": script}})
    assert (slicer.app, slicer.util.mainWindow) == former, "the application is left as it was"
    assert slicer.app.testingEnabled()
    sys.exit(slicer.app._exitCode)
"""


def run(*arguments: object, mainWindow: bool = False, without: str = "", folder: Path = TESTING):
    code = textwrap.dedent(APPLICATION).format(testing=str(TESTING))
    command = [sys.executable, "-c", code, str(folder / SCRIPT.name), str(mainWindow), without, *map(str, arguments)]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, encoding="utf-8")


CHOSEN = (
    "typed_number_becomes",
    "run_uses_the_number",
    "slider_becomes",
    "loaded_while_the_panel_is_open",
    "change_just_before",
    "a_new_layout_show",
    "unexpected_error",
    "already_says_so",
    "points_fill_holes",
    "every_group",
    "narrow_panel and 420",
    "closed_panel",
    "check_box_fills",
    "registered_once",
    "help_text",
    "without_asking",
    "buttons_are_disabled",
    "without_undo",
)
"""Tests that use every function of the adapter."""


@pytest.mark.parametrize(("mainWindow", "chosen"), [(False, CHOSEN), (True, CHOSEN[-5:])], ids=["none", "main window"])
def test_tests_of_the_panel_pass_in_an_application(tmp_path, mainWindow, chosen):
    done = run("-k", " or ".join(chosen), f"--junitxml={tmp_path / 'slicer.xml'}", mainWindow=mainWindow)
    assert done.returncode == 0, done.stdout + done.stderr
    suite = ElementTree.parse(tmp_path / "slicer.xml").find("testsuite")
    assert int(suite.get("tests")) >= len(chosen)
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("0", "0", "0")


def test_exit_code_and_file_report_a_failure(tmp_path):
    failing = tmp_path / "test_slicer_failing.py"
    failing.write_text("def test_fails():\n    assert 1 == 2\n", encoding="utf-8")
    done = run(failing, f"--junitxml={tmp_path / 'slicer.xml'}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert ElementTree.parse(tmp_path / "slicer.xml").find("testsuite").get("failures") == "1"
    assert "exit code 1" in done.stderr


def test_without_pytest_the_message_names_the_remedy():
    done = run(without="pytest")
    assert done.returncode == 6, done.stdout + done.stderr
    assert "lacks pytest. Run slicer.util.pip_install('pytest') in Slicer's Python console." in done.stderr
    assert "Complete skull" not in done.stderr


def test_ctest_reports_missing_packages_as_a_skipped_test():
    text = (TESTING / "CMakeLists.txt").read_text(encoding="utf-8")
    assert f"/{SCRIPT.name}" in text
    assert "set_tests_properties(py_run_in_slicer PROPERTIES SKIP_RETURN_CODE 6 " in text


IN_APPLICATION = (*TESTING.glob("test_slicer_*.py"), TESTING / "slicer_scenes.py", TESTING / "conftest.py")
"""The files that run in the application."""


def test_every_function_that_the_tests_use_is_in_the_adapter():
    used = set()
    for path in IN_APPLICATION:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "slicer_standin":
                used.add(node.attr)
    same = {"answer", "answerFile", "dialogs", "plainText", "shown", "enterModule", "leaveModule", "errors", "waitFor"}
    assert used <= {*application.__all__, *same}
    assert all(hasattr(slicer_standin, name) for name in {*application.__all__, *same} - {"restore"})


def test_the_tests_import_nothing_that_the_application_lacks():
    found = set()
    for path in IN_APPLICATION:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            found |= {(path.name, name) for name in names if name.split(".")[0] in ("PySide6", "shiboken6", "pytestqt")}
            found |= {(path.name, name) for name in names if name.startswith("slicer_standin.")}
    assert found == set()


def test_script_is_ascii_since_slicer_reads_it_in_the_encoding_of_the_locale():
    assert SCRIPT.read_bytes().isascii()
