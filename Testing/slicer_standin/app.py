"""slicer.app and slicer.modules: the application that a module runs in."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

from PySide6 import QtCore, QtWidgets

from .inputoutput import CoreIOManager
from .layout import LayoutManager, Views
from .pythonqt import wrapped


class CommandOptions:
    """slicer.app.commandOptions()."""

    noMainWindow = False
    testingEnabled = False
    runPythonAndExit = False


class ModuleManager:
    """slicer.app.moduleManager(): the modules, and a signal before one is unloaded."""

    def __init__(self, modules: Modules):
        self._modules = modules
        self._unloading = []

    def module(self, name: str):
        return getattr(self._modules, name.lower(), None)

    def modulesNames(self) -> list[str]:
        return sorted(record.name for record in vars(self._modules).values() if hasattr(record, "name"))

    def connect(self, signature: str, slot) -> bool:
        if signature != "moduleAboutToBeUnloaded(QString)":
            raise AttributeError(f"the module manager has no signal '{signature}'")
        self._unloading.append(slot)
        return True

    def disconnect(self, signature: str, slot) -> bool:
        self._unloading.remove(slot)
        return True

    def aboutToUnload(self, name: str) -> None:
        """Call the slots of the signal; in Slicer it calls the cleanup() of a panel."""
        for slot in list(self._unloading):
            slot(name)


class App:
    """slicer.app with the attributes that modules use; any other name is an AttributeError."""

    applicationName = "Slicer"
    applicationVersion = "5.12.0-standin"
    majorVersion = 5
    minorVersion = 12
    revision = "0"

    def __init__(self, modules: Modules):
        self._testing = False
        self._mainWindow = True
        # Set by exit(), for a test of a script that ends the application.
        self._exitCode: int | None = None
        self._modules = ModuleManager(modules)
        self._startup = []
        self._temporary = tempfile.TemporaryDirectory(prefix="SlicerStandin-")
        self._views: Views | None = None
        self._ioManager = CoreIOManager()
        # The settings of the user are neither read nor written.
        QtCore.QCoreApplication.setOrganizationName("SlicerStandin")
        QtCore.QCoreApplication.setApplicationName("Slicer")
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
        QtCore.QSettings.setPath(
            QtCore.QSettings.Format.IniFormat, QtCore.QSettings.Scope.UserScope, self._temporary.name
        )

    # The application

    def testingEnabled(self) -> bool:
        return self._testing

    def commandOptions(self) -> CommandOptions:
        return CommandOptions()

    def exit(self, code: int = 0) -> None:
        self._exitCode = code

    def processEvents(self) -> None:
        QtWidgets.QApplication.processEvents()

    def topLevelWidgets(self) -> list:
        return wrapped(QtWidgets.QApplication.topLevelWidgets())

    def translate(self, context: str, text: str) -> str:
        return text

    @property
    def temporaryPath(self) -> str:
        return self._temporary.name

    @property
    def slicerUserSettingsFilePath(self) -> str:
        return str(Path(self._temporary.name) / "settings" / "Slicer.ini")

    @property
    def slicerHome(self) -> str:
        return str(Path(self._temporary.name))

    def settings(self):
        return QtCore.QSettings()

    userSettings = settings

    def clipboard(self):
        return wrapped(QtWidgets.QApplication.clipboard())

    def setOverrideCursor(self, cursor) -> None:
        QtWidgets.QApplication.setOverrideCursor(cursor)

    def restoreOverrideCursor(self) -> None:
        QtWidgets.QApplication.restoreOverrideCursor()

    def pauseRender(self) -> None:
        pass

    def resumeRender(self) -> None:
        pass

    def connect(self, signature: str, slot) -> bool:
        if signature != "startupCompleted()":
            raise AttributeError(f"the application has no signal '{signature}'")
        self._startup.append(slot)
        return True

    def finishStartup(self) -> None:
        """Emit startupCompleted(), which modules connect to for actions after the start of the application."""
        waiting, self._startup = self._startup, []
        for slot in waiting:
            slot()

    # Its parts

    def moduleManager(self) -> ModuleManager:
        return self._modules

    def coreIOManager(self) -> CoreIOManager:
        return self._ioManager

    ioManager = coreIOManager

    def applicationLogic(self):
        return self._views.applicationLogic

    def layoutManager(self) -> LayoutManager | None:
        """The main window makes it."""
        return LayoutManager(self._views) if self._mainWindow else None

    def mrmlScene(self):
        return self._views.scene


class ModuleRecord:
    """slicer.modules.<name>: the qSlicerScriptedLoadableModule of a Python module."""

    __slots__ = (
        "_widget",
        "acknowledgementText",
        "associatedNodeTypes",
        "categories",
        "contributors",
        "dependencies",
        "helpText",
        "hidden",
        "icon",
        "index",
        "name",
        "path",
        "title",
        "widgetRepresentationCreationEnabled",
    )

    def __init__(self, name: str, path: Path):
        self.name = name
        self.title = name
        self.path = str(path)
        self.hidden = False
        self._widget = None

    def widgetRepresentation(self):
        if self._widget is None:
            self._widget = self.createNewWidgetRepresentation()
        return self._widget

    def createNewWidgetRepresentation(self):
        """A new frame with the panel, which is set up but not entered."""
        import slicer

        from . import qt

        frame = slicer.qSlicerScriptedLoadableModuleWidget()
        frame.setLayout(qt.QVBoxLayout())
        frame.setMRMLScene(slicer.mrmlScene)
        frame._python = getattr(importlib.import_module(self.name), f"{self.name}Widget")(frame)
        setattr(slicer.modules, f"{self.name}Widget", frame.self())
        frame.self().setup()
        return frame


class CppModule:
    """A module of Slicer itself, with its logic only."""

    def __init__(self, name: str, logic):
        self.name = name
        self._logic = logic

    def logic(self):
        return self._logic


class Modules:
    """slicer.modules: its attributes are the modules by their lower-case names."""
