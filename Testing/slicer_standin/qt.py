"""The module `qt`: the classes of Qt that this extension may use. Any other name is an AttributeError."""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import QEvent, QFile, QPoint, QPointF, QSettings, QSize, Qt, QUrl
from PySide6.QtGui import QBrush, QColor, QCursor, QFont, QIcon, QImage, QKeyEvent, QMouseEvent, QPalette, QPixmap

from . import dialogs
from .pythonqt import pythonQt, unwrapped, wrapped
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
QTextDocument = pythonQt(QtGui.QTextDocument)


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


class QCoreApplication:
    """The static functions that send an event, or those that were posted, at once."""

    @staticmethod
    def sendEvent(receiver, event) -> bool:
        return QtCore.QCoreApplication.sendEvent(unwrapped(receiver), event)

    @staticmethod
    def sendPostedEvents(receiver=None, kind: int = 0) -> None:
        QtCore.QCoreApplication.sendPostedEvents(unwrapped(receiver), int(kind))


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


QFileDialog = dialogs.FileDialog


QDesktopServices = dialogs.DesktopServices


__all__ = [
    *WIDGETS,
    "QAbstractItemView",
    "QApplication",
    "QBrush",
    "QColor",
    "QCoreApplication",
    "QCursor",
    "QDesktopServices",
    "QEvent",
    "QFile",
    "QFileDialog",
    "QFont",
    "QHeaderView",
    "QIcon",
    "QImage",
    "QKeyEvent",
    "QMessageBox",
    "QMouseEvent",
    "QPalette",
    "QPixmap",
    "QPoint",
    "QPointF",
    "QSettings",
    "QSize",
    "QSizePolicy",
    "QStyle",
    "QTableWidgetItem",
    "QTextDocument",
    "QTimer",
    "QUiLoader",
    "QUrl",
    "Qt",
]
