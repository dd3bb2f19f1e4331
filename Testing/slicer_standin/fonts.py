"""A font for off-screen Qt on a machine without fonts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from PySide6 import QtGui

FAMILY = "DejaVu Sans"


def useFonts() -> None:
    """Set the application's font to DejaVu Sans, from the system or from matplotlib's files.

    PySide6 contains no fonts, and without any font all characters are drawn as boxes. matplotlib is located, but not
    imported.
    """
    if FAMILY not in QtGui.QFontDatabase.families():
        found = importlib.util.find_spec("matplotlib")
        if found is not None:
            for path in (Path(found.origin).parent / "mpl-data" / "fonts" / "ttf").glob("DejaVuSans*.ttf"):
                QtGui.QFontDatabase.addApplicationFont(str(path))
    if FAMILY in QtGui.QFontDatabase.families():
        QtGui.QGuiApplication.setFont(QtGui.QFont(FAMILY, 9))
