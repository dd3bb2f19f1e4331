"""Locates the library SkullVAELib: in the folder of the installed module, or beside that folder in a checkout."""

from __future__ import annotations

import sys
from pathlib import Path

MODULE_FOLDER = Path(__file__).resolve().parent.parent

_SHIPPED_MODEL = MODULE_FOLDER / "Resources" / "Models" / "skullvae.safetensors"


def libraryFolder() -> Path | None:
    """The folder of this module that contains SkullVAELib, or None if the library is installed by pip.

    Slicer adds the module's own folder to sys.path. That suffices for the built extension, where both are in one
    folder, but not for a checkout, where the library is one level up.
    """
    for folder in (MODULE_FOLDER, MODULE_FOLDER.parent):
        if (folder / "SkullVAELib" / "__init__.py").is_file():
            return folder
    return None


def addLibraryToPath() -> None:
    """Add the folder of the library to sys.path."""
    folder = libraryFolder()
    if folder is not None and str(folder) not in sys.path:
        # At the end, so that other folders of the checkout do not shadow installed packages.
        sys.path.append(str(folder))


def shippedModel() -> Path | None:
    """The model file that is shipped with the module, or None if it is missing."""
    return _SHIPPED_MODEL if _SHIPPED_MODEL.is_file() else None
