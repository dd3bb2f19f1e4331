"""Claims about the wheel: it contains the library and the model, and works in an environment without the checkout.

The wheel is built by setuptools and installed by pip. Only the dependencies are not installed again, which would take
minutes and gigabytes: the new environment imports them from this one's site-packages, whose .pth files, and with them
the editable install of the checkout, it does not process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = "SkullVAELib"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def call(*command: object, cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would who knows nothing of the checkout; what it prints is captured."""
    ours = ("PYTHON", "SKULLVAE", "COVERAGE")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    words = [str(word) for word in command]
    run = subprocess.run(
        words, cwd=cwd, env=clean, capture_output=True, text=True, check=False, **options, encoding="utf-8"
    )
    assert run.returncode == 0, f"{' '.join(words)}: {run.stdout}{run.stderr}"
    return run


def source_files() -> list[Path]:
    """The files of the checkout, relative to it: those that git tracks, and new ones that it does not ignore."""
    if not (ROOT / ".git").exists():  # an exported tree
        folders = (LIBRARY, "SkullVAE", "pyproject.toml", "README.md", "LICENSE")
        found = (path for name in folders for path in ((ROOT / name), *(ROOT / name).rglob("*")) if path.is_file())
        return [path.relative_to(ROOT) for path in found if "__pycache__" not in path.parts]
    listing = call("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT).stdout
    return [Path(name) for name in listing.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the checkout, since setuptools would leave files there and take old ones from it."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in source_files():
        (folder / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, folder / "source" / path)
    pip = (sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check")
    call(*pip, "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, folder / "source", cwd=folder)
    shutil.rmtree(folder / "source")
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A new virtual environment with the wheel; returns the folder of its programs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)}, scheme="venv")
    here = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (Path(paths["purelib"]) / "dependencies.pth").write_text("\n".join(here) + "\n", encoding="utf-8")
    python = Path(paths["scripts"]) / Path(sys.executable).name
    # Without the wheel the dependencies are there, and no SkullVAE.
    question = "import importlib.util as u; print([u.find_spec(name) is None for name in ('SkullVAELib', 'torch')])"
    assert call(python, "-c", question, cwd=folder).stdout == "[True, False]\n"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    call(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    return python.parent


def test_the_wheel_contains_the_library_and_the_model_and_nothing_else(wheel):
    models = Path("SkullVAE/Resources/Models")
    expected = {}
    for path in source_files():
        if path.parts[0] == LIBRARY and path.name != "CMakeLists.txt":
            expected[path.as_posix()] = path
        elif path.parent == models:
            expected[f"{LIBRARY}/models/{path.name}"] = path
    with zipfile.ZipFile(wheel) as archive:
        names = {PurePosixPath(name) for name in archive.namelist()}
        assert {path.parts[0] for path in names} == {LIBRARY, f"skullvae-{wheel.name.split('-')[1]}.dist-info"}
        assert {str(path) for path in names if path.parts[0] == LIBRARY} == set(expected)
        for name, path in expected.items():
            assert archive.read(name) == (ROOT / path).read_bytes(), name
    assert f"{LIBRARY}/models/skullvae.safetensors" in expected


def test_the_wheel_names_its_version_its_requirements_and_its_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        info = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(info).decode()
        assert any(name.endswith("/LICENSE") for name in archive.namelist())
    required = [line.removeprefix("Requires-Dist: ") for line in text.splitlines() if line.startswith("Requires-Dist")]
    assert [line for line in required if "extra ==" not in line] == PROJECT["dependencies"]
    assert f"\nVersion: {wheel.name.split('-')[1]}\n" in text


def test_info_describes_the_installed_library_and_its_model(environment, tmp_path):
    found = json.loads(call(environment / "skullvae", "info", "--json", cwd=tmp_path).stdout)
    assert found["model"]["loads"] is True
    assert found["missing"] == []
    assert Path(found["model"]["path"]).is_relative_to(environment.parent)
    question = "import SkullVAELib; print(SkullVAELib.__file__)"
    place = Path(call(environment / Path(sys.executable).name, "-c", question, cwd=tmp_path).stdout.strip())
    assert place.is_relative_to(environment.parent)


def test_a_generated_skull_is_completed(environment, tmp_path):
    program = environment / "skullvae"
    call(
        program,
        "sample",
        "--kind",
        "burr",
        "--seed",
        "1",
        "-o",
        "defective.nrrd",
        "--truth",
        "truth.nrrd",
        cwd=tmp_path,
    )
    call(program, "complete", "defective.nrrd", "-o", "out", cwd=tmp_path)
    images = (sitk.ReadImage(tmp_path / name) for name in ("out/implant.nrrd", "truth.nrrd"))
    implant, truth = (sitk.GetArrayFromImage(image) > 0 for image in images)
    assert 2 * (implant & truth).sum() > 0.7 * (implant.sum() + truth.sum())  # Dice
    assert (tmp_path / "out" / "implant.stl").stat().st_size > 10_000
