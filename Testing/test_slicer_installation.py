"""Installation of the packages that the module needs, and the check of the installation."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
import slicer.util  # noqa: E402
from SkullVAEModule import installation  # noqa: E402
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402

from SkullVAELib.core.errors import SkullVAEError  # noqa: E402

pytestmark = pytest.mark.usefixtures("scene")


def installed(monkeypatch, versions: dict[str, str]) -> None:
    """Simulate that exactly these packages are installed."""

    def version(name: str) -> str:
        if name not in versions:
            raise installation.importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(installation.importlib.metadata, "version", version)


COMPLETE = {"torch": "2.12.0+cu130", "nibabel": "5.4.2", "safetensors": "0.8.0", "pillow": "12.0"}


def test_installed_packages_are_not_installed_again(monkeypatch):
    installed(monkeypatch, COMPLETE)
    assert installation.missingPackages() == []
    assert installation.ensurePackages()


def test_missing_and_outdated_packages_are_listed_and_not_installed_without_asking(monkeypatch):
    installed(monkeypatch, {**{key: COMPLETE[key] for key in ("safetensors", "pillow")}, "torch": "1.13"})
    slicer_standin.setMainWindow(False)
    assert installation.missingPackages() == [installation.TORCH, "nibabel"]
    # The user cannot be asked here; pip is not called, since slicer.util.pip_install needs the application.
    with pytest.raises(SkullVAEError, match=r"missing: torch\S*, nibabel\. "):
        installation.ensurePackages()


# --------------------------------------------------------------------------------------------------------------------
# Installing into a folder of the test


def wheel(folder: Path, name: str, version: str) -> Path:
    """A wheel without content."""
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def target(tmp_path, monkeypatch) -> Path:
    """Folder that pip installs to, as with Slicer before 5.12; packages in it count as installed."""
    pytest.importorskip("pip", reason="pip is not installed")
    folder = tmp_path / "site"
    folder.mkdir()
    present = {name: COMPLETE[name] for name in ("torch", "safetensors", "pillow")}

    def version(name: str) -> str:
        found = list(folder.glob(f"{name}-*.dist-info"))
        if found:
            return found[0].name.removesuffix(".dist-info").split("-")[1]
        if name in present:
            return present[name]
        raise installation.importlib.metadata.PackageNotFoundError(name)

    def pipInstall(requirements: list[str]) -> None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *requirements]
        subprocess.run(command, check=True)

    monkeypatch.setattr(installation.importlib.metadata, "version", version)
    monkeypatch.setattr(slicer.util, "pip_install", pipInstall)
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    return folder


def test_missing_package_is_installed_from_a_folder_of_wheels(target, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "nibabel", "5.4.2")
    asked = []
    assert installation.ensurePackages(lambda missing: asked.append(missing) or True, wheels)
    assert asked == [["nibabel"]]
    assert (target / "nibabel.py").is_file()
    assert installation.missingPackages() == []


def test_declining_installs_nothing(target, tmp_path):
    assert not installation.ensurePackages(lambda missing: False)
    assert list(target.iterdir()) == []


def test_folder_without_the_wheel_is_an_error(target, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with pytest.raises(SkullVAEError, match="contains no wheels"):
        installation.ensurePackages(lambda missing: True, wheels)
    wheel(wheels, "unrelated", "1.0")
    with pytest.raises(SkullVAEError, match=r"nibabel could not be installed.*contains all wheels"):
        installation.ensurePackages(lambda missing: True, wheels)


def test_torch_without_its_extension_is_an_error_with_its_name(monkeypatch):
    installed(monkeypatch, {key: value for key, value in COMPLETE.items() if key != "torch"})
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(SkullVAEError, match="Install 'PyTorch' with the Extensions Manager"):
        installation.ensurePackages(lambda missing: True)


# --------------------------------------------------------------------------------------------------------------------
# The report


def command(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "info.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return [sys.executable, str(path)]


def test_report_lists_slicer_missing_packages_and_the_librarys_lines(tmp_path, monkeypatch):
    check = SkullVAELogic(command=command(tmp_path, "import sys; print('printed', *sys.argv[1:])")).checkInstallation()
    text = check.wait()
    assert not check.running
    lines = text.splitlines()
    assert lines[0].startswith("Slicer")
    assert lines[1].startswith("Missing")
    assert lines[2].startswith("printed info")


def test_report_of_a_broken_installation_is_a_report(tmp_path):
    check = installation.InstallationCheck(command=command(tmp_path, "raise ImportError('no torch')"))
    check.start()
    text = check.wait()
    assert "ImportError: no torch" in text
    assert "code 1" in text
    check = installation.InstallationCheck(command=[str(tmp_path / "missing")])
    check.start()
    assert "cannot be started" in check.wait()


def test_report_can_be_cancelled(tmp_path):
    check = installation.InstallationCheck(command=command(tmp_path, "import time; time.sleep(600)"))
    check.start()
    assert check.running
    check.cancel()
    assert not check.running
