"""A small, strict stand-in for the Slicer application, for tests.

slicer-core provides Slicer's MRML, segmentations and slicer.util; PySide6 (off-screen) provides the widgets. This
package adds the other objects that a module uses of the application: `qt`, `ctk` and qMRML widgets with the interface
of PythonQt, the loader of .ui files, slicer.app, slicer.modules, the views, the items of the subject hierarchy, and
Slicer's Python base classes. Only the classes, properties and attributes listed in its modules exist; any other is an
error.

If the environment variable SLICER_SOURCE_DIR is the path of Slicer's sources, their Python files replace base.py,
i18n.py, parameternode.py and slicer-core's slicer.util. The tests must pass with both.

Inside Slicer itself, Testing/run_in_slicer.py calls useApplication(): the functions of application.py then take the
place of those of this file, and the tests run unchanged in the application.

    import slicer_standin
    slicer_standin.prepare()              # before `import SkullVAE`; fails the test where a package is missing
    slicer_standin.newScene()
    module, widget = slicer_standin.openModule()
    widget.ui.completeButton.click()
    slicer_standin.processEvents(0.5)     # raises exceptions of slots and observers
    slicer_standin.grabPanel(widget, "panel.png")
"""

from __future__ import annotations

import html
import importlib
import importlib.util
import os
import re
import sys
import time
import types
from pathlib import Path

import pytest
import system_libraries

from . import dialogs, uncaught

ROOT = Path(__file__).resolve().parent.parent.parent
MODULE_FOLDER = ROOT / "SkullVAE"

answer = dialogs.answer
answerFile = dialogs.answerFile
shown = dialogs.shown

_views = None
_hierarchy = None
_mainWindow = None


def useApplication() -> None:
    """Replace the functions of this package by those for the application that this process is, before any test."""
    from . import application

    globals().update({name: getattr(application, name) for name in application.__all__})


def sourceFolder() -> Path | None:
    """Folder of Slicer's own Python files if SLICER_SOURCE_DIR is set, otherwise None."""
    source = os.environ.get("SLICER_SOURCE_DIR")
    return Path(source) / "Base" / "Python" / "slicer" if source else None


def prepare() -> None:
    """Make `import SkullVAE` and its packages work in this process.

    Fails the test where slicer-core or PySide6 cannot be imported, and names the system libraries that they lack.
    """
    try:
        importlib.import_module("PySide6.QtWidgets")
        slicer = importlib.import_module("slicer")
    except ImportError as error:
        remedy = system_libraries.remedy(str(error)) or "Install the extra 'slicer' of pyproject.toml: make venv"
        reason = f"The tests of the Slicer module cannot run: {error}. {remedy}"
        raise pytest.fail.Exception(reason, pytrace=False) from None
    if "qt" in sys.modules:
        return
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from PySide6 import QtCore, QtWidgets

    def printMessage(kind, context, message: str) -> None:
        # The off-screen platform prints this message for every window.
        if "propagateSizeHints" not in message:
            print(message, file=sys.stderr)

    QtCore.qInstallMessageHandler(printMessage)
    global _application
    _application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
    QtWidgets.QApplication.setStyle("Fusion")
    from . import app, ctk, fonts, mrmlwidgets, pythonqt, qt, sampledata

    fonts.useFonts()
    pythonqt.keepConstants()
    uncaught.recordUncaught()
    _install("qt", {name: getattr(qt, name) for name in qt.__all__})
    _install("ctk", {name: getattr(ctk, name) for name in ctk.__all__})
    _install("SampleData", {"SampleDataLogic": sampledata.SampleDataLogic})
    for name in mrmlwidgets.__all__:
        setattr(slicer, name, getattr(mrmlwidgets, name))
    slicer.qSlicerScriptedLoadableModule = app.ModuleRecord
    slicer.modules = app.Modules()
    slicer.app = app.App(slicer.modules)
    if sourceFolder() is None:
        _installOwn()
    else:
        _installSlicers(sourceFolder())
    # As Slicer does: the module's own folder, not that of the library.
    sys.path.insert(0, str(MODULE_FOLDER))
    newScene()


def _install(name: str, attributes: dict) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module
    return module


def _installOwn() -> None:
    import slicer

    from . import i18n

    slicer.i18n = _install("slicer.i18n", {"tr": i18n.tr, "translate": i18n.translate})
    from . import base, parameternode

    names = [name for name in vars(base) if name.startswith("ScriptedLoadableModule")]
    slicer.ScriptedLoadableModule = _install(
        "slicer.ScriptedLoadableModule", {"__all__": names, **{name: getattr(base, name) for name in names}}
    )
    names = (
        "Choice",
        "Decimals",
        "Default",
        "Maximum",
        "Minimum",
        "SingleStep",
        "WithinRange",
        "isParameterNodeWrapper",
        "parameterNodeWrapper",
    )
    slicer.parameterNodeWrapper = _install(
        "slicer.parameterNodeWrapper", {name: getattr(parameternode, name) for name in names}
    )


def _installSlicers(folder: Path) -> None:
    """Install Slicer's own files instead of the stand-in's; other names that they import only exist."""
    import slicer

    from . import namesonly

    namesonly.install()
    for name in ("util", "i18n", "ScriptedLoadableModule", "parameterNodeWrapper"):
        path = folder / name / "__init__.py" if (folder / name).is_dir() else folder / f"{name}.py"
        search = [str(path.parent)] if path.name == "__init__.py" else None
        spec = importlib.util.spec_from_file_location(f"slicer.{name}", path, submodule_search_locations=search)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        setattr(slicer, name, module)
        spec.loader.exec_module(module)


def newScene():
    """Set slicer.mrmlScene to an empty scene with the default layout's views and the logics of Slicer's modules.

    There is a main window, so that dialogs are shown, and the scene has undo levels of earlier work.
    """
    global _views, _hierarchy
    import slicer

    from . import app, dialogs, layout, subjecthierarchy

    if _views is not None:
        _hierarchy.release()
        _views.release()
    dialogs.reset()
    scene = slicer.vtkMRMLScene()
    # Bundles (.mrb) are unpacked in the cache.
    cache = slicer.vtkCacheManager()
    cache.SetRemoteCacheDirectory(slicer.app.temporaryPath)
    scene.SetCacheManager(cache)
    dataIO = slicer.vtkDataIOManager()
    dataIO.SetCacheManager(cache)
    scene.SetDataIOManager(dataIO)
    slicer.mrmlScene = scene
    # Registered here, since the logic of the Colors module would also add a hundred colour tables to the scene.
    scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    _views = layout.Views(scene)
    slicer.app._views = _views
    for name, kind in (
        # First, because the display nodes of the others use its colour tables.
        ("colors", slicer.vtkMRMLColorLogic),
        ("segmentations", slicer.vtkSlicerSegmentationsModuleLogic),
        ("volumes", slicer.vtkSlicerVolumesLogic),
        ("models", slicer.vtkSlicerModelsLogic),
        ("markups", slicer.vtkSlicerMarkupsLogic),
    ):
        logic = kind()
        logic.SetMRMLScene(scene)
        setattr(slicer.modules, name, app.CppModule(name.capitalize(), logic))
        # Slicer's displayable managers find the logics of modules here.
        _views.applicationLogic.SetModuleLogic(name.capitalize(), logic)
    _hierarchy = subjecthierarchy.Follower(scene)
    scene.SetUndoOn()
    scene.SaveStateForUndo()
    scene.SetUndoOff()
    setMainWindow(True)
    return scene


def setMainWindow(present: bool) -> None:
    """Whether there is a main window until the next newScene(); without it, as with --no-main-window, messages are
    logged instead of shown."""
    global _mainWindow
    import qt
    import slicer

    slicer.app._mainWindow = present
    if _mainWindow is None:
        _mainWindow = qt.QMainWindow()
    _mainWindow.objectName = "qSlicerMainWindow" if present else ""


def moduleRecord():
    """The record of the module, slicer.modules.skullvae, whose title and help the module sets."""
    import slicer

    from . import app

    slicer.modules.skullvae = app.ModuleRecord("SkullVAE", MODULE_FOLDER / "SkullVAE.py")
    return slicer.modules.skullvae


def openModule():
    """Open the module as Slicer does: (module, panel). Close it with closeModule."""
    import slicer

    import SkullVAE

    record = moduleRecord()
    module = SkullVAE.SkullVAE(record)
    slicer.app.finishStartup()
    record._widget = frame = record.createNewWidgetRepresentation()
    frame.resize(440, 900)
    frame.show()
    frame.enter()
    processEvents()
    return module, frame.self()


def leaveModule(widget) -> None:
    """As when the user opens another module."""
    widget.parent.exit()
    processEvents()


def enterModule(widget) -> None:
    """As when the user returns to the module."""
    widget.parent.enter()
    processEvents()


def closeModule(widget) -> None:
    """Unload the module as Slicer does when it quits; raises exceptions of slots that were not handled yet."""
    import slicer
    from PySide6 import QtWidgets

    frame = widget.parent
    if frame.isEntered:
        frame.exit()
    unloading = slicer.app.moduleManager()
    # Slicer's own base class observes the module manager; that of the stand-in is called directly.
    if sourceFolder() is None:
        widget.cleanup()
    else:
        unloading.aboutToUnload("SkullVAE")
    frame.setMRMLScene(None)
    QtWidgets.QWidget.close(frame)
    frame.deleteLater()
    processEvents()


def processEvents(seconds: float = 0.0) -> None:
    """Process events for this time; then raise the first exception of a slot or observer, if any."""
    from PySide6 import QtCore, QtWidgets

    end = time.monotonic() + seconds
    while True:
        QtWidgets.QApplication.processEvents(QtCore.QEventLoop.ProcessEventsFlag.AllEvents, 20)
        if time.monotonic() >= end:
            break
        time.sleep(0.002)
    # processEvents alone does not delete objects after deleteLater().
    QtWidgets.QApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)
    raised = errors()
    if raised:
        raise raised[0]


def errors() -> list[BaseException]:
    """The exceptions of slots and observers since the last call; for a test that expects one."""
    return uncaught.errors()


def waitFor(condition, seconds: float = 60.0) -> None:
    """Process events until the condition is true; raises TimeoutError."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s")
        processEvents(0.01)


def setTesting(enabled: bool) -> None:
    """Set slicer.app.testingEnabled(), as with --testing: messages are then logged instead of shown."""
    import slicer

    slicer.app._testing = enabled


def drag(slider, *values: float) -> None:
    """Drag a ctkSliderWidget with the mouse over these values and release it at the last one."""
    from PySide6 import QtWidgets

    inner = slider._slider
    QtWidgets.QAbstractSlider.setSliderDown(inner, True)
    for value in values:
        inner.setValue(round((value - slider.minimum) / slider.singleStep))
        processEvents()
    QtWidgets.QAbstractSlider.setSliderDown(inner, False)
    processEvents()


def typeText(box, text: str, keys: str = "") -> None:
    """Select all text of a spin box, line edit, ctkSliderWidget or ctkPathLineEdit and type another one, key by key.

    keys: "\\t", "\\r" or "\\b" to press Tab, Return or Backspace afterwards.
    """
    from PySide6 import QtCore, QtTest, QtWidgets

    field = box
    if not isinstance(box, QtWidgets.QAbstractSpinBox | QtWidgets.QLineEdit):
        find = QtWidgets.QWidget.findChild
        field = find(box, QtWidgets.QAbstractSpinBox) or find(box, QtWidgets.QLineEdit)
    _checkUsable(field)
    QtWidgets.QWidget.activateWindow(QtWidgets.QWidget.window(field))
    QtWidgets.QWidget.setFocus(field)
    processEvents()
    type(field).selectAll(field)
    for key in text:
        QtTest.QTest.keyClicks(field, key)
        processEvents()
    for key in keys:
        names = {"\t": QtCore.Qt.Key.Key_Tab, "\r": QtCore.Qt.Key.Key_Return, "\b": QtCore.Qt.Key.Key_Backspace}
        code = names[key]
        QtTest.QTest.keyClick(field, code)
        processEvents()


def click(widget) -> None:
    """Click with the mouse on a button, a check box or the header of a section."""
    from PySide6 import QtCore, QtTest, QtWidgets

    _checkUsable(widget)
    size = QtWidgets.QWidget.size(widget)
    # There is the box of a check box and the header of a section.
    at = QtCore.QPoint(min(10, size.width() // 2), min(10, size.height() // 2))
    QtTest.QTest.mouseClick(widget, QtCore.Qt.MouseButton.LeftButton, QtCore.Qt.KeyboardModifier.NoModifier, at)
    processEvents()


def choose(box, text: str) -> None:
    """Open a combo box or node selector with the mouse and choose the item with this text with the keyboard."""
    from PySide6 import QtCore, QtTest, QtWidgets

    combo = box if isinstance(box, QtWidgets.QComboBox) else QtWidgets.QWidget.findChild(box, QtWidgets.QComboBox)
    _checkUsable(combo)
    kind, key = QtWidgets.QComboBox, QtCore.Qt.Key
    row, current = kind.findText(combo, text), kind.currentIndex.__get__(combo)()
    if row < 0:
        raise ValueError(f"there is no item '{text}'")
    QtTest.QTest.mouseClick(combo, QtCore.Qt.MouseButton.LeftButton)
    processEvents()
    view = kind.view(combo)
    for _ in range(abs(row - max(current, 0))):
        QtTest.QTest.keyClick(view, key.Key_Down if row > current else key.Key_Up)
    QtTest.QTest.keyClick(view, key.Key_Return)
    processEvents()


def _checkUsable(widget) -> None:
    """Raise an error if the user could not use a widget."""
    from PySide6 import QtWidgets

    if not (QtWidgets.QWidget.isVisible(widget) and QtWidgets.QWidget.isEnabled(widget)):
        raise ValueError(f"{QtWidgets.QWidget.objectName(widget)} is hidden or disabled")


def plainText(text: str) -> str:
    """A tool tip as it was set: Slicer makes rich text of it."""
    return html.unescape(re.sub("<[^>]*>", "", text))


def clickInSlice(name: str, ras, button: str = "Left") -> None:
    """Move the mouse to a point of a slice view ("Red", "Green" or "Yellow") and click.

    ras: world coordinates; the slice is moved to the point first. Slicer's own interactor style and displayable
    managers process the events, for example to place a point.
    """
    from . import views

    views.click(name, ras, button)
    processEvents()


def clickOnCell(table, row: int, column: int, onBox: bool = False) -> None:
    """Click on a cell of a table with the mouse, or on the check box in it."""
    from PySide6 import QtCore, QtTest, QtWidgets

    item = QtWidgets.QTableWidget.item(table, row, column)
    QtWidgets.QTableWidget.scrollToItem(table, item)
    place = QtWidgets.QTableWidget.visualItemRect(table, item)
    at = place.center()
    if onBox:
        option = QtWidgets.QStyleOptionViewItem()
        option.initFrom(table)
        option.rect = place
        option.features |= QtWidgets.QStyleOptionViewItem.ViewItemFeature.HasCheckIndicator
        style = QtWidgets.QWidget.style(table)
        box = style.subElementRect(QtWidgets.QStyle.SubElement.SE_ItemViewItemCheckIndicator, option, table)
        at = box.center()
    viewport = QtWidgets.QTableWidget.viewport(table)
    QtTest.QTest.mouseClick(viewport, QtCore.Qt.MouseButton.LeftButton, QtCore.Qt.KeyboardModifier.NoModifier, at)
    processEvents()


def cutOff(widget) -> list[str]:
    """The visible widgets of a panel whose text or content does not fit, with what they need and have in pixels."""
    from PySide6 import QtCore, QtGui, QtWidgets

    found, frame = [], widget.parent
    width = QtWidgets.QWidget.width(frame)
    for kind in (QtWidgets.QLabel, QtWidgets.QAbstractButton, QtWidgets.QAbstractSpinBox, QtWidgets.QComboBox):
        for each in QtWidgets.QWidget.findChildren(frame, kind):
            if not QtWidgets.QWidget.isVisible(each):
                continue
            own = QtWidgets.QWidget.width(each)
            right = QtWidgets.QWidget.mapTo(each, frame, QtCore.QPoint(own, 0)).x()
            needed = QtWidgets.QWidget.minimumSizeHint(each).width()
            if kind is QtWidgets.QLabel and each.textFormat == QtCore.Qt.TextFormat.RichText.value:
                document = QtGui.QTextDocument()
                document.setDefaultFont(QtWidgets.QWidget.font(each))
                document.setHtml(QtWidgets.QLabel.text(each))
                document.setTextWidth(own)
                needed = document.size().width()
            if kind is QtWidgets.QLabel and QtWidgets.QLabel.wordWrap(each) and each.text:
                tall, given = QtWidgets.QLabel.heightForWidth(each, own), QtWidgets.QWidget.height(each)
                if tall > given + 1:
                    found.append(f"{QtCore.QObject.objectName(each)}: height {tall} of {given}")
            if needed > own + 1 or right > width:
                found.append(f"{QtCore.QObject.objectName(each)}: {needed} of {own}, right edge {right} of {width}")
    return found


def grabPanel(widget, path, width: int = 440, height: int | None = None) -> None:
    """Save a picture of the panel as PNG; height None: the preferred height of the panel."""
    from PySide6 import QtWidgets

    frame = widget.parent
    if height is None:
        QtWidgets.QWidget.resize(frame, width, 100)
        processEvents()
        QtWidgets.QWidget.layout(frame).activate()
        height = max(200, QtWidgets.QWidget.layout(frame).totalHeightForWidth(width), frame.sizeHint.height())
    QtWidgets.QWidget.resize(frame, width, height)
    processEvents()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if not QtWidgets.QWidget.grab(frame).save(str(path)):
        raise OSError(f"{path} could not be written")


def __getattr__(name: str):
    # Imported on demand, since it needs VTK's rendering, which most tests do not use.
    if name == "views":
        return importlib.import_module(".views", __name__)
    raise AttributeError(name)
