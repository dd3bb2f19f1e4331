"""The functions of this package inside Slicer itself, where the application takes the place of the stand-in.

Testing/run_in_slicer.py installs them with slicer_standin.useApplication(). They use only `slicer`, `qt`, `ctk` and
`vtk` of the application, with or without a main window. For the time of the tests

- the application is not in testing mode, so that the panel behaves as for a user,
- message boxes and file dialogs take the answers that the tests set,
- exceptions of slots and observers are stored for the tests,
- without a main window, the views of the default layout are in a window of their own.

restore() ends that.
"""

from __future__ import annotations

import sys
import time
import types
from pathlib import Path

from . import dialogs, uncaught

MODULE = "SkullVAE"
MODULE_FOLDER = Path(__file__).resolve().parent.parent.parent / MODULE

# (object, name, former value) of everything that prepare() has replaced.
_replaced: list[tuple] = []
_state = types.SimpleNamespace(testing=False, mainWindow=True, ownWindow=None, layoutWidget=None)


class _Application:
    """slicer.app, but in the mode that the test selects, and with a layout manager also without a main window."""

    def __init__(self, app):
        object.__setattr__(self, "_app", app)

    def __getattr__(self, name: str):
        return getattr(self._app, name)

    def __setattr__(self, name: str, value) -> None:
        setattr(self._app, name, value)

    def testingEnabled(self) -> bool:
        return _state.testing

    def layoutManager(self):
        return self._app.layoutManager() or _layoutWidget().layoutManager()


def _layoutWidget():
    """A window with the views of the default layout, for an application without a main window."""
    import slicer

    if _state.layoutWidget is None:
        _state.layoutWidget = slicer.qMRMLLayoutWidget()
        _state.layoutWidget.setMRMLScene(slicer.mrmlScene)
        _state.layoutWidget.resize(900, 700)
        _state.layoutWidget.show()
    return _state.layoutWidget


def _replace(owner, name: str, value) -> None:
    _replaced.append((owner, name, getattr(owner, name)))
    setattr(owner, name, value)


# --------------------------------------------------------------------------------------------------------------------
# The functions of slicer_standin


def sourceFolder() -> Path | None:
    """Slicer's own Python files are used: their folder."""
    import slicer

    return Path(slicer.util.__file__).resolve().parent


def prepare() -> None:
    """Load the module unless the application has loaded it, and replace dialogs and mode; may be called repeatedly."""
    if _replaced:
        return
    import ctk
    import qt
    import slicer
    import slicer.util

    if slicer.app.moduleManager().module(MODULE) is None:
        factory = slicer.app.moduleManager().factoryManager()
        factory.registerModule(qt.QFileInfo(str(MODULE_FOLDER / f"{MODULE}.py")))
        if not factory.loadModules([MODULE]):
            raise RuntimeError(f"the application cannot load the module from {MODULE_FOLDER}")
    folder = str(Path(slicer.app.moduleManager().module(MODULE).path).parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    _replace(sys, "excepthook", sys.excepthook)
    uncaught.recordUncaught()
    _replace(ctk, "ctkMessageBox", dialogs.MessageBox)
    _replace(qt, "QFileDialog", dialogs.FileDialog)
    _replace(qt, "QDesktopServices", dialogs.DesktopServices)
    _replace(slicer, "app", _Application(slicer.app))
    formerMainWindow = slicer.util.mainWindow

    def mainWindow():
        if not _state.mainWindow:
            return None
        found = formerMainWindow()
        if found is None:
            if _state.ownWindow is None:
                _state.ownWindow = qt.QMainWindow()
            found = _state.ownWindow
        return found

    _replace(slicer.util, "mainWindow", mainWindow)
    newScene()


def restore() -> None:
    """Undo what prepare() has replaced."""
    while _replaced:
        owner, name, value = _replaced.pop()
        setattr(owner, name, value)
    for name in ("ownWindow", "layoutWidget"):
        window = getattr(_state, name)
        setattr(_state, name, None)
        if window is not None:
            window.close()
            window.deleteLater()


def newScene():
    """Close the scene and show the default layout; the application has one scene."""
    import slicer

    dialogs.reset()
    setTesting(False)
    setMainWindow(True)
    scene = slicer.mrmlScene
    scene.Clear()
    scene.SetUndoOff()
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
    interaction = slicer.app.applicationLogic().GetInteractionNode()
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)
    slicer.app.processEvents()
    return scene


def setMainWindow(present: bool) -> None:
    """Whether slicer.util.mainWindow() finds a main window until the next newScene()."""
    _state.mainWindow = present


def setTesting(enabled: bool) -> None:
    """Set what slicer.app.testingEnabled() returns until the next newScene()."""
    _state.testing = enabled


def moduleRecord():
    """A record like that of the module, whose title and help the module sets."""
    import slicer

    path = slicer.app.moduleManager().module(MODULE).path
    return types.SimpleNamespace(name=MODULE, path=path)


def openModule():
    """Open a new panel of the module: (module, panel). Close it with closeModule."""
    import slicer

    module = slicer.app.moduleManager().module(MODULE)
    widget = slicer.util.getNewModuleWidget(MODULE)
    widget.parent.resize(440, 900)
    widget.parent.show()
    widget.parent.enter()
    processEvents()
    return module, widget


def closeModule(widget) -> None:
    """Close a panel of openModule; raises exceptions of slots that were not handled yet."""
    import qt
    import slicer

    frame = widget.parent
    if frame.isEntered:
        frame.exit()
    widget.cleanup()
    # Otherwise it would be cleaned up again when the application quits.
    onUnload = getattr(widget, "_onModuleAboutToBeUnloaded", None)
    if onUnload is not None:
        slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", onUnload)
    frame.setMRMLScene(None)
    frame.close()
    frame.deleteLater()
    # processEvents alone does not delete objects after deleteLater(), so that each panel would stay in memory.
    qt.QCoreApplication.sendPostedEvents(frame, qt.QEvent.DeferredDelete)
    processEvents()


def processEvents(seconds: float = 0.0) -> None:
    """Process events for this time; then raise the first exception of a slot or observer, if any."""
    import slicer

    end = time.monotonic() + seconds
    while True:
        slicer.app.processEvents()
        if time.monotonic() >= end:
            break
        time.sleep(0.002)
    raised = uncaught.errors()
    if raised:
        raise raised[0]


def drag(slider, *values: float) -> None:
    """Drag a ctkSliderWidget over these values and release it at the last one."""
    import qt

    inner = slider.findChildren(qt.QSlider)[0]
    inner.setSliderDown(True)
    for value in values:
        inner.value = round((value - slider.minimum) / slider.singleStep)
        processEvents()
    inner.setSliderDown(False)
    processEvents()


def clickInSlice(name: str, ras, button: str = "Left") -> None:
    """Move the mouse to a point of a slice view ("Red", "Green" or "Yellow") and click."""
    import numpy as np
    import slicer

    widget = slicer.app.layoutManager().sliceWidget(name)
    node = widget.mrmlSliceNode()
    node.JumpSliceByCentering(*ras)
    processEvents()
    interactor = widget.sliceView().interactor()
    toXY = np.linalg.inv(slicer.util.arrayFromVTKMatrix(node.GetXYToRAS()))
    x, y, _z, _one = toXY @ [*ras, 1.0]
    interactor.InvokeEvent("EnterEvent")
    # Two moves, since the first one makes the point that then follows the mouse.
    for event in ("MouseMoveEvent", "MouseMoveEvent", f"{button}ButtonPressEvent", f"{button}ButtonReleaseEvent"):
        interactor.SetEventInformation(round(x), round(y))
        interactor.InvokeEvent(event)
    interactor.InvokeEvent("LeaveEvent")
    processEvents()


def clickOnCell(table, row: int, column: int, onBox: bool = False) -> None:
    """Click on a cell of a table with the mouse, or on the check box at its left edge."""
    import qt

    item = table.item(row, column)
    table.scrollToItem(item)
    place = table.visualItemRect(item)
    centre = place.center()
    at = qt.QPointF(place.left() + _BOX_PIXELS if onBox else centre.x(), centre.y())
    _clickAt(table.viewport(), at)


def click(widget) -> None:
    """Click with the mouse on a button, a check box or the header of a section."""
    import qt

    _checkUsable(widget)
    # There is the box of a check box and the header of a section.
    _clickAt(widget, qt.QPointF(min(10, widget.width // 2), min(10, widget.height // 2)))


def choose(box, text: str) -> None:
    """Open a combo box or node selector with the mouse and choose the item with this text with the keyboard."""
    import qt

    inner = box.findChildren(qt.QComboBox)
    combo = inner[0] if inner else box
    _checkUsable(combo)
    row, current = combo.findText(text), combo.currentIndex
    if row < 0:
        raise ValueError(f"there is no item '{text}'")
    _clickAt(combo, qt.QPointF(combo.width // 2, combo.height // 2))
    step = qt.Qt.Key_Down if row > current else qt.Qt.Key_Up
    for code in [step] * abs(row - max(current, 0)) + [qt.Qt.Key_Return]:
        for kind in (qt.QEvent.KeyPress, qt.QEvent.KeyRelease):
            _send(combo.view(), qt.QKeyEvent(kind, code, qt.Qt.NoModifier))
        processEvents()


def _clickAt(widget, at) -> None:
    import qt

    left, no = qt.Qt.LeftButton, qt.Qt.NoButton
    for kind, buttons in ((qt.QEvent.MouseButtonPress, left), (qt.QEvent.MouseButtonRelease, no)):
        _send(widget, qt.QMouseEvent(kind, at, at, left, buttons, qt.Qt.NoModifier))
    processEvents()


def _checkUsable(widget) -> None:
    """Raise an error if the user could not use a widget."""
    if not (widget.visible and widget.enabled):
        raise ValueError(f"{widget.objectName} is hidden or disabled")


# Within the check box of a cell in every style of Slicer.
_BOX_PIXELS = 9


def typeText(box, text: str, keys: str = "") -> None:
    """Select all text of a spin box, line edit, ctkSliderWidget or ctkPathLineEdit and type another one, key by key.

    keys: "\\t", "\\r" or "\\b" to press Tab, Return or Backspace afterwards.
    """
    import qt

    inner = box.findChildren(qt.QDoubleSpinBox)
    if box.className() == "ctkPathLineEdit":
        inner = box.findChildren(qt.QLineEdit)
    field = inner[0] if inner else box
    _checkUsable(field)
    field.window().activateWindow()
    field.setFocus()
    processEvents()
    field.selectAll()
    codes = {"\t": qt.Qt.Key_Tab, "\r": qt.Qt.Key_Return, "\b": qt.Qt.Key_Backspace}
    codes |= {".": qt.Qt.Key_Period, "-": qt.Qt.Key_Minus}
    for key in text + keys:
        code = codes.get(key) or ord(key.upper())
        for kind in (qt.QEvent.KeyPress, qt.QEvent.KeyRelease):
            _send(field, qt.QKeyEvent(kind, code, qt.Qt.NoModifier, "" if key == "\t" else key))
        if key == "\t":
            # A window that is not active does not move the focus.
            field.clearFocus()
        processEvents()


def cutOff(widget) -> list[str]:
    """The visible widgets of a panel whose text or content does not fit, with what they need and have in pixels."""
    import qt

    found, frame = [], widget.parent
    kinds = "QLabel", "QPushButton", "QCheckBox", "QSpinBox", "QDoubleSpinBox", "QComboBox"
    for each in vars(widget.ui).values():
        if each.className() not in kinds or not each.visible:
            continue
        own, needed = each.width, each.minimumSizeHint.width()
        right = each.mapTo(frame, qt.QPoint(own, 0)).x()
        if each.className() == "QLabel" and each.textFormat == qt.Qt.RichText:
            document = qt.QTextDocument()
            document.setDefaultFont(each.font)
            document.setHtml(each.text)
            document.setTextWidth(own)
            needed = document.size.width()
        if needed > own + 1 or right > frame.width:
            found.append(f"{each.objectName}: {needed} of {own}, right edge {right} of {frame.width}")
    return found


def grabPanel(widget, path, width: int = 440, height: int | None = None) -> None:
    """Save a picture of the panel as PNG; height None: the preferred height of the panel."""
    frame = widget.parent
    frame.resize(width, height or max(200, frame.sizeHint.height()))
    processEvents()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if not frame.grab().save(str(path)):
        raise OSError(f"{path} could not be written")


def _send(receiver, event) -> None:
    import qt

    qt.QCoreApplication.sendEvent(receiver, event)


__all__ = [
    "choose",
    "click",
    "clickInSlice",
    "clickOnCell",
    "closeModule",
    "cutOff",
    "drag",
    "grabPanel",
    "moduleRecord",
    "newScene",
    "openModule",
    "prepare",
    "processEvents",
    "restore",
    "setMainWindow",
    "setTesting",
    "sourceFolder",
    "typeText",
]
