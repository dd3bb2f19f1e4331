"""Installs the Python packages that the library needs, after the user has agreed, and checks the installation.

PyTorch is installed by the PyTorch extension, which selects the build for the computer's GPU; the other packages by
Slicer's own pip functions, with the versions of Slicer's numpy, SimpleITK and VTK pinned. Without a network, all of
them are installed from a folder of wheels (`pip download` on another computer). No package is imported here except
the helper of the PyTorch extension, because the library runs in another process.
"""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CalledProcessError

import slicer
from slicer.i18n import tr as _

from SkullVAELib.core.errors import SkullVAEError

from .childprocess import ChildProcess
from .completion import childEnvironment, libraryCommand
from .librarypath import shippedModel

TORCH = "torch>=2.5"
PACKAGES = ("nibabel", "safetensors", "pillow")
# torch 2.13 contains paths that are too long for Windows.
_TORCH_TO_INSTALL = ">=2.5,<2.13"
# Other versions of these packages would break the running application.
_KEEP = ("numpy", "scipy", "SimpleITK", "vtk", "pillow")


def missingPackages() -> list[str]:
    """The requirements that Slicer's Python does not meet; imports none of the packages."""
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


def ensurePackages(
    confirm: Callable[[list[str]], bool] | None = None, wheelFolder: str | os.PathLike | None = None
) -> bool:
    """Install missing packages after asking the user; False if the user declines. Raises SkullVAEError.

    confirm: asks the user about these requirements (default: Slicer's dialog); wheelFolder: folder of wheels to install
    from instead of downloading. Without a main window, and in tests, missing packages are an error unless confirm is
    given: the user cannot be asked, and a test must not change the user's Python.
    """
    missing = missingPackages()
    if not missing:
        return True
    if wheelFolder is not None and not list(Path(wheelFolder).glob("*.whl")):
        raise SkullVAEError(
            f"The folder '{wheelFolder}' contains no wheels", "Choose the folder that 'pip download' has written"
        )
    if confirm is None:
        if slicer.app.testingEnabled() or slicer.util.mainWindow() is None:
            raise SkullVAEError(
                f"These Python packages are missing: {', '.join(missing)}",
                "Install them, or run the module once in Slicer's main window",
            )
        confirm = _askUser
    if not confirm(missing):
        return False
    folder = None if wheelFolder is None else Path(wheelFolder).resolve()
    others = [text for text in missing if text != TORCH]
    if TORCH in missing:
        if folder is not None and list(folder.glob("torch-*.whl")):
            others.insert(0, f"torch{_TORCH_TO_INSTALL}")
        else:
            _installTorch()
    if others:
        _installOthers(others, folder)
    missing = missingPackages()
    if missing:
        raise SkullVAEError(f"{', '.join(missing)} could not be installed", "Restart Slicer and try again")
    return True


def _askUser(missing: list[str]) -> bool:
    message = _("Python packages are missing. They will be downloaded and installed into Slicer. Continue?")
    return slicer.util.confirmOkCancelDisplay(message, _("SkullVAE"), detailedText="\n".join(missing))


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
        # The user can correct any error of that extension only in its own module.
        raise SkullVAEError(
            f"PyTorch could not be installed: {error}", "Install it with the module 'PyTorch Utils' and try again"
        ) from error


def _installOthers(requirements: list[str], wheelFolder: Path | None) -> None:
    source = [] if wheelFolder is None else ["--no-index", "--find-links", str(wheelFolder)]
    with tempfile.TemporaryDirectory(prefix="SkullVAE-") as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in _installed(_KEEP)), encoding="utf-8")
        try:
            try:
                from slicer.packaging import pip_install
            except ImportError:
                # Slicer before 5.12
                slicer.util.pip_install([*requirements, *source, "-c", str(constraints)])
            else:
                pip_install([*requirements, *source], constraints=constraints, requester="SkullVAE")
        except (CalledProcessError, RuntimeError) as error:
            where = "the network connection" if wheelFolder is None else f"that '{wheelFolder}' contains all wheels"
            raise SkullVAEError(
                f"{', '.join(requirements)} could not be installed",
                f"Check {where} and the messages in the Python console, then try again",
            ) from error


def _installed(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Names and versions of those of the packages that are installed."""
    found = []
    for name in names:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class InstallationCheck:
    """Collects a report on Slicer, packages, device, disk and model: start(), then poll().

    command: the library's command line. text: the report, complete when running is False. The check does not raise:
    errors are lines of the report.
    """

    def __init__(self, model: str | os.PathLike | None = None, command: Sequence[str] | None = None):
        model = model or shippedModel()
        self._command = [*(command or libraryCommand()), "info", *(["--model", str(model)] if model else [])]
        self._temporary = tempfile.TemporaryDirectory(prefix="SkullVAE-", ignore_cleanup_errors=True)
        self._child = ChildProcess(self._command, self._temporary.name, childEnvironment())
        self._lines: list[str] = []

    def start(self) -> None:
        """Start the check."""
        self._lines = [f"Slicer         {_slicerVersion()}"]
        missing = missingPackages()
        self._lines.append(f"Missing        {', '.join(missing) or 'nothing'}")
        try:
            self._child.start()
        except SkullVAEError as error:
            self._lines.append(str(error))

    def poll(self) -> list[str]:
        """Advance the check; returns the new lines of the report."""
        lines = self._child.poll()
        self._lines += lines
        if not self.running:
            if self._child.exitCode not in (0, None):
                self._lines.append(f"Ended with exit code {self._child.exitCode}")
            self._temporary.cleanup()
        return lines

    @property
    def running(self) -> bool:
        """Whether the report is not complete yet."""
        return self._child.running

    @property
    def text(self) -> str:
        """The report."""
        return "\n".join(self._lines)

    def cancel(self) -> None:
        """Stop the check; the lines collected so far are kept."""
        self._child.cancel()
        self._temporary.cleanup()

    def wait(self) -> str:
        """Wait for the complete report. Blocks, so the panel must not call it."""
        while self.running:
            self.poll()
            time.sleep(0.05)
        return self.text


def _slicerVersion() -> str:
    app = slicer.app
    version = getattr(app, "applicationVersion", None) or "unknown (no application)"
    revision = getattr(app, "revision", None)
    return f"{version}, revision {revision}" if revision else str(version)
