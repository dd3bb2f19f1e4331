"""The Python packages the library needs: looked for on the first click, installed only after the user has agreed.

PyTorch comes by the PyTorch extension, which picks the build for the computer's GPU; the others by Slicer's own pip
functions, with Slicer's numpy, SimpleITK and VTK held where they are. Nothing is imported here but the PyTorch
extension's helper: the library runs in another process.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from pathlib import Path
from subprocess import CalledProcessError

import slicer
from slicer.i18n import tr as _

from SkullVAELib.errors import SkullVAEError

TORCH = "torch>=2.5"
PACKAGES = ("monai>=1.4", "nibabel", "safetensors", "pillow")
# torch 2.13 unpacks paths that are too long for Windows.
_TORCH_TO_INSTALL = ">=2.5,<2.13"
# A package that asks for other versions of these would break the running application.
_KEEP = ("numpy", "scipy", "SimpleITK", "vtk", "pillow")


def missingPackages() -> list[str]:
    """The requirements that are not met in Slicer's Python; imports none of them."""
    from packaging.requirements import Requirement

    missing = []
    for text in (TORCH, *PACKAGES):
        requirement = Requirement(text)
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(text)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            missing.append(text)
    return missing


def ensurePackages() -> bool:
    """Install what is missing after asking; False when the user declines. Raises SkullVAEError."""
    missing = missingPackages()
    if not missing:
        return True
    # Without a window nobody can answer, and a test must not change the user's Python.
    if slicer.app.testingEnabled() or slicer.util.mainWindow() is None:
        raise SkullVAEError(
            f"These Python packages are missing: {', '.join(missing)}", "Install them, or run the module once by hand"
        )
    message = _("Completing skulls needs Python packages that will be downloaded and installed into Slicer. Continue?")
    if not slicer.util.confirmOkCancelDisplay(message, _("SkullVAE"), detailedText="\n".join(missing)):
        return False
    if TORCH in missing:
        _installTorch()
    others = [text for text in missing if text != TORCH]
    if others:
        _installOthers(others)
    missing = missingPackages()
    if missing:
        raise SkullVAEError(f"{', '.join(missing)} could not be installed", "Restart Slicer and try again")
    return True


def _installTorch() -> None:
    try:
        import PyTorchUtils
    except ModuleNotFoundError as error:
        raise SkullVAEError(
            "The PyTorch extension is not installed",
            "Install 'PyTorch' with the Extensions Manager, restart Slicer and try again",
        ) from error
    try:
        PyTorchUtils.PyTorchUtilsLogic().installTorch(torchVersionRequirement=_TORCH_TO_INSTALL)
    except Exception as error:
        # Whatever that extension met, the user can only act on it there.
        raise SkullVAEError(
            f"PyTorch could not be installed: {error}", "Install it with the module 'PyTorch Utils' and try again"
        ) from error


def _installOthers(requirements: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="SkullVAE-") as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in _installed(_KEEP)), encoding="utf-8")
        try:
            try:
                from slicer.packaging import pip_install
            except ImportError:
                # Slicer before 5.12
                slicer.util.pip_install([*requirements, "-c", str(constraints)])
            else:
                pip_install(requirements, constraints=constraints, requester="SkullVAE")
        except (CalledProcessError, RuntimeError) as error:
            raise SkullVAEError(
                f"{', '.join(requirements)} could not be installed",
                "Check the network connection and the Python console, then try again",
            ) from error


def _installed(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Names and versions of those packages that are there."""
    found = []
    for name in names:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
