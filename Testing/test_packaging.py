"""Claims about the repository as a package and as an extension: lists that must agree do."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

import SkullVAELib

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "SkullVAELib"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = sorted(LIBRARY.rglob("*.py"))


def requirements(*lists: list[str]) -> set[str]:
    """Distribution names, normalised as pip does."""
    names = (re.match(r"[A-Za-z0-9._-]+", entry).group() for entries in lists for entry in entries)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def imports(path: Path) -> set[str]:
    """Every top-level package a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def test_cmake_lists_every_file_of_the_library_and_no_other():
    text = (LIBRARY / "CMakeLists.txt").read_text(encoding="utf-8")
    listed = re.search(r"set\(MODULE_PYTHON_SCRIPTS\s+(.*?)\)", text, re.DOTALL).group(1).split()
    assert listed == sorted(listed)
    assert listed == [path.relative_to(LIBRARY).as_posix() for path in MODULES]


def test_cmake_descends_only_into_folders_that_have_a_cmake_file():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    folders = re.findall(r"add_subdirectory\((\w+)\)", text)
    assert {"SkullVAE", "SkullVAELib"} <= set(folders)
    assert all((ROOT / folder / "CMakeLists.txt").is_file() for folder in folders)
    assert 'set(EXTENSION_DEPENDS "PyTorch")' in text


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_the_library_knows_neither_slicer_nor_qt_and_loads_no_pickle(path):
    assert not imports(path) & {"slicer", "qt", "ctk", "vtkSegmentationCorePython", "pickle", "dill", "joblib"}
    assert "torch.load(" not in path.read_text(encoding="utf-8")
    assert "allow_pickle=True" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_whatever_the_library_imports_is_required_or_of_an_extra(path):
    distributions = {"PIL": "pillow", "SimpleITK": "simpleitk", "vtkmodules": "vtk", "tensorboardX": "tensorboardx"}
    ours = {"SkullVAELib"}
    third_party = {name for name in imports(path) if name not in sys.stdlib_module_names} - ours
    extras = PROJECT["project"]["optional-dependencies"]
    used = (extras[name] for name in ("training", "batch", "dicom", "3mf"))
    known = requirements(PROJECT["project"]["dependencies"], *used)
    assert {distributions.get(name, name) for name in third_party} <= known


def test_every_requirement_is_pinned_without_local_versions_or_hosts():
    extras = PROJECT["project"]["optional-dependencies"]
    assert requirements(PROJECT["project"]["dependencies"], *extras.values()) <= set(pins())
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins().values())
    for name in ("constraints.txt", "Makefile"):
        assert "://" not in (ROOT / name).read_text(encoding="utf-8")
    listed = re.sub(r"(?ms)^\[project\.urls\]$.*?^$", "", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "://" not in listed


def test_vtk_is_the_one_slicer_core_is_built_with():
    try:
        required = importlib.metadata.requires("slicer-core")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("slicer-core is not installed")
    assert f"vtk=={pins()['vtk']}" in required


def test_the_installed_version_is_the_librarys():
    try:
        installed = importlib.metadata.version("skullvae")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed by pip")
    assert installed == SkullVAELib.__version__


def test_the_console_script_is_there():
    module, function = PROJECT["project"]["scripts"]["skullvae"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_a_wheel_carries_library_and_model_and_nothing_else():
    tool = PROJECT["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in MODULES}
    assert set(tool["packages"]) == {".".join(folder.parts) for folder in folders} | {"SkullVAELib.models"}
    models = ROOT / tool["package-dir"]["SkullVAELib.models"]
    assert models == ROOT / "SkullVAE" / "Resources" / "Models"
    assert "*.safetensors" in tool["package-data"]["SkullVAELib.models"]


def test_testing_is_not_a_package():
    # As a top-level package it would shadow another extension's.
    assert not (ROOT / "Testing" / "__init__.py").exists()


def test_continuous_integration_calls_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").splitlines()[-1] == "make test"


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


# With a plain torch on Linux come CUDA's libraries, and with torch setuptools: no environment of ours pins them.
OF_TORCH = ("nvidia-", "cuda-", "triton", "setuptools")


def locked() -> dict[str, str]:
    """The entries of requirements.lock: a package's name and version, and the lines that belong to it."""
    entries = re.split(r"^(?=[a-z0-9])", (ROOT / "requirements.lock").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.match(r"[a-z0-9-]+==[^ ]+", entry).group(): entry for entry in entries if entry}


def test_the_lock_holds_the_versions_that_are_tested_and_all_that_is_required():
    versions = dict(entry.split("==") for entry in locked())
    assert requirements(PROJECT["project"]["dependencies"]) <= set(versions)
    assert {n: v for n, v in versions.items() if not n.startswith(OF_TORCH)}.items() <= pins().items()


def test_every_entry_of_the_lock_has_hashes_and_none_names_a_host():
    for name, entry in locked().items():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), name
        assert "://" not in entry
        assert " @ " not in entry


# Permissive, or without conditions on what uses the package. "MPL" and "LGPL" are no match, and nothing ends in "GPL".
PERMISSIVE = re.compile(
    r"(Apache( Software)?( License)?([- ]2\.0)?( WITH LLVM-exception)?|BSD( License)?|BSD-[23]-Clause|0BSD|MIT(-CMU)?"
    r"( License)?|ISC|Zlib|CC0-1\.0|BSL-1\.0|HPND|PSF-2\.0|Python Software Foundation License)"
)


def test_every_licence_of_what_users_install_agrees_with_ours():
    text = (ROOT / "Docs" / "licences.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z0-9-]+) \| ([^ ]+) \| (.+) \|$", text, re.MULTILINE)
    content = {f"{name}=={version}": licence for name, version, licence in rows if name != "package"}
    assert set(content) == {entry for entry in locked() if not entry.startswith(("nvidia-", "cuda-", "triton"))}
    for name, licence in content.items():
        for part in re.split(r" AND | OR |; ", licence):
            assert PERMISSIVE.fullmatch(part), f"{name}: {part}"
