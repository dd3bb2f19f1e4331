"""What the module needs to be installed."""

from __future__ import annotations

import pytest
import slicer_env

slicer_env.prepare()

from SkullVAEModule import installation  # noqa: E402

from SkullVAELib.errors import SkullVAEError  # noqa: E402


@pytest.fixture(autouse=True)
def scene():
    """An empty scene for each test."""
    return slicer_env.newScene()


def installed(monkeypatch, versions: dict[str, str]) -> None:
    """Let the module believe that these packages are installed, and no others."""

    def version(name: str) -> str:
        if name not in versions:
            raise installation.importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(installation.importlib.metadata, "version", version)


COMPLETE = {"torch": "2.12.0+cu130", "monai": "1.6.1", "nibabel": "5.4.2", "safetensors": "0.8.0", "pillow": "12.0"}


def test_what_is_there_is_not_asked_for(monkeypatch):
    installed(monkeypatch, COMPLETE)
    assert installation.missingPackages() == []
    assert installation.ensurePackages()


def test_missing_and_outdated_packages_are_named_and_not_installed_without_asking(monkeypatch):
    installed(monkeypatch, {**{key: COMPLETE[key] for key in ("monai", "safetensors", "pillow")}, "torch": "1.13"})
    assert installation.missingPackages() == [installation.TORCH, "nibabel"]
    # There is nobody to ask here; pip is not reached, as slicer.util.pip_install needs the application.
    with pytest.raises(SkullVAEError, match=r"missing: torch\S*, nibabel\. "):
        installation.ensurePackages()
