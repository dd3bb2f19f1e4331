"""Where the library SkullVAELib lies: beside the installed module, or beside the module's folder in a checkout."""

from __future__ import annotations

import sys
from pathlib import Path

MODULE_FOLDER = Path(__file__).resolve().parent.parent

_SHIPPED_MODEL = MODULE_FOLDER / "Resources" / "Models" / "skullvae.safetensors"


def libraryFolder() -> Path | None:
    """The folder that holds SkullVAELib and belongs to this module, or None when the library is installed by pip.

    Slicer puts the module's own folder on sys.path: enough for the built extension, where both lie in one folder,
    but not for a checkout, where the library is one level up.
    """
    for folder in (MODULE_FOLDER, MODULE_FOLDER.parent):
        if (folder / "SkullVAELib" / "__init__.py").is_file():
            return folder
    return None


def addLibraryToPath() -> None:
    """Make `import SkullVAELib` find the library of this module."""
    folder = libraryFolder()
    if folder is not None and str(folder) not in sys.path:
        # At the end: the checkout's other folders must not shadow anybody's package.
        sys.path.append(str(folder))


def shippedModel() -> Path | None:
    """The model file that came with the module, or None when there is none."""
    return _SHIPPED_MODEL if _SHIPPED_MODEL.is_file() else None
