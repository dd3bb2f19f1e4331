"""The module `qt`: the classes of Qt that this extension may use. Any other name is an AttributeError."""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import QFile, QSettings, QSize, Qt, QUrl
from PySide6.QtGui import QBrush, QColor, QCursor, QFont, QIcon, QImage, QPalette, QPixmap

from . import dialogs
from .pythonqt import pythonQt, wrapped
from .uiloader import QUiLoader

WIDGETS = (
    "QWidget",
    "QLabel",
    "QPushButton",
    "QToolButton",
    "QCheckBox",
    "QRadioButton",
    "QComboBox",
    "QSpinBox",
    "QDoubleSpinBox",
    "QSlider",
    "QProgressBar",
    "QPlainTextEdit",
    "QTextEdit",
    "QTableWidget",
    "QLineEdit",
    "QFrame",
    "QScrollArea",
    "QMainWindow",
    "QVBoxLayout",
    "QHBoxLayout",
    "QFormLayout",
    "QGridLayout",
)
for _name in WIDGETS:
    globals()[_name] = pythonQt(getattr(QtWidgets, _name))

# Not QObjects: they have methods only, also in Slicer.
QTableWidgetItem = QtWidgets.QTableWidgetItem
QSizePolicy = QtWidgets.QSizePolicy
QAbstractItemView = QtWidgets.QAbstractItemView
QHeaderView = QtWidgets.QHeaderView
QStyle = QtWidgets.QStyle

QTimer = pythonQt(QtCore.QTimer)


class QApplication:
    """The static functions of QApplication; the application itself is slicer.app."""

    @staticmethod
    def clipboard():
        return wrapped(QtGui.QGuiApplication.clipboard())

    @staticmethod
    def processEvents() -> None:
        QtWidgets.QApplication.processEvents()

    @staticmethod
    def overrideCursor():
        return QtGui.QGuiApplication.overrideCursor()

    @staticmethod
    def setOverrideCursor(cursor) -> None:
        QtGui.QGuiApplication.setOverrideCursor(QtGui.QCursor(cursor))

    @staticmethod
    def restoreOverrideCursor() -> None:
        QtGui.QGuiApplication.restoreOverrideCursor()


class QMessageBox:
    """Constants of buttons and icons; the display functions of slicer.util show the box."""

    Ok = 0x400
    Cancel = 0x400000
    Yes = 0x4000
    No = 0x10000
    Retry = 0x80000
    Close = 0x200000
    Information = 1
    Warning = 2
    Critical = 3
    Question = 4


class QFileDialog:
    """Static file dialogs; the test sets their answers."""

    ShowDirsOnly = QtWidgets.QFileDialog.Option.ShowDirsOnly

    @staticmethod
    def getExistingDirectory(parent=None, caption: str = "", directory: str = "", options=None) -> str:
        return dialogs.takeFile(caption)

    @staticmethod
    def getOpenFileName(parent=None, caption: str = "", directory: str = "", filter: str = "") -> str:
        return dialogs.takeFile(caption)

    @staticmethod
    def getOpenFileNames(parent=None, caption: str = "", directory: str = "", filter: str = "") -> list[str]:
        return dialogs.takeFile(caption)

    @staticmethod
    def getSaveFileName(parent=None, caption: str = "", directory: str = "", filter: str = "") -> str:
        return dialogs.takeFile(caption)


class QDesktopServices:
    """Records URLs instead of opening them."""

    @staticmethod
    def openUrl(url: QUrl) -> bool:
        dialogs.opened(url.toString())
        return True


__all__ = [
    *WIDGETS,
    "QAbstractItemView",
    "QApplication",
    "QBrush",
    "QColor",
    "QCursor",
    "QDesktopServices",
    "QFile",
    "QFileDialog",
    "QFont",
    "QHeaderView",
    "QIcon",
    "QImage",
    "QMessageBox",
    "QPalette",
    "QPixmap",
    "QSettings",
    "QSize",
    "QSizePolicy",
    "QStyle",
    "QTableWidgetItem",
    "QTimer",
    "QUiLoader",
    "QUrl",
    "Qt",
]
