"""Claims about the test run itself: what cannot run fails and says why, unless conftest.py lists the reason.

The runs are real: pytest on small files, with this folder's conftest.py.
"""

from __future__ import annotations

import ast
import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import conftest
import pytest
import system_libraries
from skip_rules import SkipRules

ROOT = Path(__file__).resolve().parent.parent
TESTING = ROOT / "Testing"
ALLOWED = next(reason for reason, skip in conftest.ALLOWED_SKIPS.items() if not skip.platforms)
ELSEWHERE = "reason of another platform"
LISTED = {reason: tuple(skip) for reason, skip in conftest.ALLOWED_SKIPS.items()}
LISTED[ELSEWHERE] = ("that platform lacks what the test uses", ("no platform of this name",))

SKIPS = f"""
import unittest
import pytest

def test_that_runs():
    pass

@pytest.mark.parametrize("number", range(3))
def test_with_an_allowed_reason(number):
    pytest.skip({ALLOWED!r})

def test_call():
    pytest.skip("reason of the call")

def test_that_hides_a_missing_library():
    pytest.skip("could not import: libdbus-1.so.3: cannot open shared object file")

@pytest.mark.skipif(True, reason="reason of the mark")
def test_mark():
    pass

@pytest.mark.skip
def test_without_a_reason():
    pass

@pytest.mark.skipif(True, reason={ELSEWHERE!r})
def test_with_a_reason_of_another_platform():
    pass

def test_importorskip():
    pytest.importorskip("package_that_nobody_has")

@pytest.fixture
def absent():
    pytest.skip("reason of the fixture")

def test_fixture(absent):
    pass

@pytest.mark.xfail(reason="reason of the xfail")
def test_xfail():
    assert False

@pytest.mark.xfail(reason="reason of the xpass")
def test_xpass():
    pass

def test_imperative_xfail():
    pytest.xfail("reason of the call of xfail")

@pytest.mark.parametrize("number", [])
def test_empty(number):
    pass

class TestOfUnittest(unittest.TestCase):
    @unittest.skip("reason of unittest")
    def test_skip(self):
        pass
"""

REFUSED = {
    "test_call": "reason of the call",
    "test_that_hides_a_missing_library": "Missing system libraries: libdbus-1.so.3",
    "test_mark": "reason of the mark",
    "test_without_a_reason": "unconditional skip",
    "test_with_a_reason_of_another_platform": ELSEWHERE,
    "test_importorskip": "No module named 'package_that_nobody_has'",
    "test_fixture": "reason of the fixture",
    "test_xfail": "reason of the xfail",
    "test_xpass": "reason of the xpass",
    "test_imperative_xfail": "reason of the call of xfail",
    "test_empty": "got empty parameter set",
    "TestOfUnittest::test_skip": "reason of unittest",
}


CONFTEST = f"""
import sys
sys.path.insert(0, {str(TESTING)!r})
from skip_rules import AllowedSkip, SkipRules

def pytest_configure(config):
    config.pluginmanager.register(SkipRules({{reason: AllowedSkip(*skip) for reason, skip in {LISTED!r}.items()}}))
"""


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of a folder outside the checkout, under the rules and the list of this one."""
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -ra\n", encoding="utf-8")
    (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(folder)],
        cwd=folder,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )


def refusals(output: str) -> dict[str, str]:
    """Node id -> what a run said of a skip that is not allowed."""
    return dict(re.findall(r"^This skip is not allowed[^:]*: (\S+)\n(.*\n.*)$", output, re.MULTILINE))


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_skip_fails_the_run_unless_its_reason_is_listed(tmp_path, processes):
    (tmp_path / "test_skips.py").write_text(SKIPS, encoding="utf-8")
    run = run_pytest(tmp_path, "-n", processes)
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    counts = {outcome: int(count) for count, outcome in re.findall(r"(\d+) (\w+)", run.stdout.splitlines()[-1])}
    # What is skipped before the test itself starts is an error.
    assert counts["failed"] + counts["errors"] == len(REFUSED)
    assert counts["passed"] == 1
    assert counts["skipped"] == 3
    found = refusals(run.stdout)
    assert len(found) == len(REFUSED)
    for name, reason in REFUSED.items():
        said = next(said for node, said in found.items() if node.startswith(f"test_skips.py::{name}"))
        assert reason in said
    assert "libdbus-1-3" in found["test_skips.py::test_that_hides_a_missing_library"]
    assert f"   3 {ALLOWED} (allowed: {conftest.ALLOWED_SKIPS[ALLOWED].why})" in run.stdout


def test_a_run_whose_skips_are_all_allowed_passes(tmp_path):
    (tmp_path / "test_allowed.py").write_text(
        f"import pytest\n\ndef test_skip(): pytest.skip({ALLOWED!r})\n\ndef test(): pass\n", encoding="utf-8"
    )
    run = run_pytest(tmp_path)
    assert run.returncode == pytest.ExitCode.OK, run.stdout
    assert "1 passed, 1 skipped" in run.stdout


LACKING_EGL = """
import sys

class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name == "PySide6.QtWidgets":
            raise ImportError("libEGL.so.1: cannot open shared object file: No such file or directory")

sys.meta_path.insert(0, Lacking())
import slicer_standin
slicer_standin.prepare()
"""


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_file_that_cannot_run_fails_the_run(tmp_path, processes):
    """Each of two files that a common helper skips is named, and the system library that the panel's tests lack."""
    helper = 'import pytest\n\ndef need():\n    pytest.skip("reason of the file", allow_module_level=True)\n'
    (tmp_path / "helper.py").write_text(helper, encoding="utf-8")
    for name in ("test_first.py", "test_second.py"):
        (tmp_path / name).write_text("import helper\nhelper.need()\n\ndef test(): pass\n", encoding="utf-8")
    source = 'import pytest\npytest.importorskip("package_that_nobody_has")\n\ndef test(): pass\n'
    (tmp_path / "test_third.py").write_text(source, encoding="utf-8")
    (tmp_path / "test_panel.py").write_text(LACKING_EGL + "\ndef test(): pass\n", encoding="utf-8")
    (tmp_path / "test_passes.py").write_text("def test(): pass\n", encoding="utf-8")
    run = run_pytest(tmp_path, "-n", processes)
    assert run.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED), run.stdout
    found = refusals(run.stdout)
    assert set(found) == {"test_first.py", "test_second.py", "test_third.py"}
    assert all("Reason: reason of the file" in found[name] for name in ("test_first.py", "test_second.py"))
    assert "No module named 'package_that_nobody_has'" in found["test_third.py"]
    assert "ERROR collecting test_panel.py" in run.stdout
    assert "libEGL.so.1: cannot open shared object file" in run.stdout
    assert "On Debian and Ubuntu: apt-get install --no-install-recommends libegl1" in run.stdout


def test_the_rules_hold_in_this_very_run(request):
    plugins = request.config.pluginmanager.get_plugins()
    assert [plugin.allowed for plugin in plugins if isinstance(plugin, SkipRules)] == [conftest.ALLOWED_SKIPS]


def test_every_listed_reason_is_one_that_a_test_gives():
    given = set()
    for path in TESTING.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".skip", ".skipif", ".importorskip")):
                given |= {inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant)}
    assert set(conftest.ALLOWED_SKIPS) <= given


@pytest.fixture
def without_egl_and_programs(monkeypatch):
    """A Linux machine that has every library but one, and no program."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(system_libraries.shutil, "which", lambda name: None)

    def load(name: str) -> None:
        if name == "libEGL.so.1":
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", load)


def test_missing_libraries_are_reported_with_their_packages(without_egl_and_programs, capsys):
    assert system_libraries.main([]) == 2
    shown = capsys.readouterr()
    lines = {line.split()[1]: line for line in shown.out.splitlines()}
    assert set(lines) == {requirement.name for requirement in system_libraries.REQUIREMENTS}
    missing = {name for name, line in lines.items() if line.startswith("MISSING")}
    assert missing == {"libEGL.so.1", "chromium", "dciodvfy"}
    assert "libegl1" in lines["libEGL.so.1"]
    assert "apt-get install --no-install-recommends libegl1 chromium dicom3tools\n" in shown.err
    assert system_libraries.main(["--packages"]) == 0
    assert capsys.readouterr().out == "libegl1 chromium dicom3tools\n"


def test_nothing_is_missing_where_all_is_there(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(system_libraries.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert system_libraries.main([]) == 0
    assert "MISSING" not in capsys.readouterr().out


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_platforms_pass_with_a_note(without_egl_and_programs, monkeypatch, capsys, platform):
    monkeypatch.setattr(sys, "platform", platform)
    assert system_libraries.main([]) == 0
    assert f"not checked on {platform}" in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix", reason="no shell scripts here")
def test_make_test_checks_the_system_before_anything_is_installed(tmp_path):
    """With a `python3` that lacks every library, make stops before it sets the environment up."""
    make = shutil.which("make")
    assert make, "make is required"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\nexit 2\n', encoding="utf-8")
    python.chmod(0o755)
    for target in ("test", "coverage"):
        command = [make, target, f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, encoding="utf-8")
        assert run.returncode == 2, run.stdout + run.stderr
        assert (tmp_path / "calls").read_text(encoding="utf-8").split() == ["Testing/system_libraries.py"]
        (tmp_path / "calls").unlink()
        assert not (tmp_path / "venv").exists()
