"""The module `ctk`: the widgets of CTK that this extension may use. Any other name is an AttributeError.

Qt objects in these classes also have the interface of PythonQt: properties are attributes.
"""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal, Slot

from . import dialogs
from .pythonqt import pythonQt


class _Collapsing:
    """Base class of both collapsible widgets: hides the children, and stores which ones were hidden already."""

    def _initCollapsing(self) -> None:
        self._collapsed = False
        self._collapsedHeight = 10
        self._hidden = []
        self._hiding = False

    def _headerHeight(self) -> int:
        return QtGui.QFontMetrics(QtWidgets.QWidget.font(self)).height() + 8

    def _onToggled(self, checked: bool) -> None:
        self._setCollapsed(not checked)

    def _getCollapsed(self) -> bool:
        return self._collapsed

    def _setCollapsed(self, collapsed: bool) -> None:
        if collapsed == self._collapsed:
            return
        self._collapse(collapsed, self._headerHeight())
        self.setChecked(not collapsed)

    def _getCollapsedHeight(self) -> int:
        return self._collapsedHeight

    def _setCollapsedHeight(self, height: int) -> None:
        self._collapsedHeight = height

    def _children(self) -> list[QtWidgets.QWidget]:
        return [child for child in QtCore.QObject.children(self) if isinstance(child, QtWidgets.QWidget)]

    def _collapse(self, collapsed: bool, height: int) -> None:
        if collapsed == self._collapsed:
            return
        self._hiding = True
        if collapsed:
            self._hidden = [child for child in self._children() if child.isHidden()]
            for child in self._children():
                QtWidgets.QWidget.setVisible(child, False)
            self._tall = QtWidgets.QWidget.maximumHeight(self)
            self.setMaximumHeight(height)
        else:
            for child in self._children():
                QtWidgets.QWidget.setVisible(child, child not in self._hidden)
            self.setMaximumHeight(self._tall)
        self._collapsed = collapsed
        self._hiding = False
        self.updateGeometry()
        self.update()

    def childEvent(self, event) -> None:
        child = event.child()
        if event.added() and child.isWidgetType():
            child.installEventFilter(self)

    def eventFilter(self, watched, event) -> bool:
        # A child that is shown or hidden while the widget is collapsed changes only when the widget is expanded.
        if self._collapsed and not self._hiding and event.type() == QtCore.QEvent.Type.ShowToParent:
            self._hiding = True
            QtWidgets.QWidget.setVisible(watched, False)
            self._hiding = False
            self._hidden = [child for child in self._hidden if child is not watched]
        return False


class _ctkCollapsibleButton(_Collapsing, QtWidgets.QAbstractButton):
    contentsCollapsed = Signal(bool)

    def __init__(self, *arguments):
        text = next((argument for argument in arguments if isinstance(argument, str)), "")
        parent = next((argument for argument in arguments if isinstance(argument, QtWidgets.QWidget)), None)
        super().__init__(parent)
        self._initCollapsing()
        self._contentsFrameShape = QtWidgets.QFrame.Shape.NoFrame
        self.setText(text)
        self.setCheckable(True)
        self.setChecked(True)
        policy = QtWidgets.QSizePolicy.Policy
        self.setSizePolicy(policy.Preferred, policy.Preferred)
        self.setContentsMargins(0, self._headerHeight(), 0, 0)
        QtWidgets.QAbstractButton.toggled.__get__(self).connect(self._onToggled)

    @Slot(bool)
    def setCollapsed(self, collapsed: bool) -> None:
        self._setCollapsed(collapsed)

    def _setCollapsed(self, collapsed: bool) -> None:
        changed = collapsed != self._collapsed
        super()._setCollapsed(collapsed)
        if changed:
            self.contentsCollapsed.emit(collapsed)

    def sizeHint(self):
        hint = QtCore.QSize(200, self._headerHeight())
        layout = QtWidgets.QWidget.layout(self)
        if layout is not None and not self._collapsed:
            # The size hint of the layout includes the margins of the widget, and thus the header.
            hint = layout.sizeHint()
        return hint

    def minimumSizeHint(self):
        return self.sizeHint()

    def paintEvent(self, event) -> None:
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        height = self._headerHeight()
        option.rect = QtCore.QRect(0, 0, QtWidgets.QWidget.width(self), height)
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(6, (height - 9) // 2, 9, 9)
        primitive = QtWidgets.QStyle.PrimitiveElement
        painter.drawPrimitive(
            primitive.PE_IndicatorArrowRight if self._collapsed else primitive.PE_IndicatorArrowDown, arrow
        )
        text = QtCore.QRect(22, 0, QtWidgets.QWidget.width(self) - 26, height)
        flags = QtCore.Qt.AlignmentFlag.AlignVCenter | QtCore.Qt.TextFlag.TextShowMnemonic
        painter.drawItemText(
            text,
            int(flags),
            QtWidgets.QWidget.palette(self),
            QtWidgets.QWidget.isEnabled(self),
            QtWidgets.QAbstractButton.text(self),
            QtGui.QPalette.ColorRole.ButtonText,
        )

    def hitButton(self, position) -> bool:
        return position.y() < self._headerHeight()

    def _getContentsFrameShape(self) -> int:
        return int(self._contentsFrameShape)

    def _setContentsFrameShape(self, shape) -> None:
        self._contentsFrameShape = QtWidgets.QFrame.Shape(shape)

    collapsed = Property(bool, _Collapsing._getCollapsed, _setCollapsed)
    collapsedHeight = Property(int, _Collapsing._getCollapsedHeight, _Collapsing._setCollapsedHeight)
    contentsFrameShape = Property(int, _getContentsFrameShape, _setContentsFrameShape)


class _ctkCollapsibleGroupBox(_Collapsing, QtWidgets.QGroupBox):
    """A group box with an arrow instead of the check box, which expands and collapses it."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._initCollapsing()
        self.setCheckable(True)
        self.setChecked(True)
        QtWidgets.QGroupBox.toggled.__get__(self).connect(self._onToggled)

    @Slot(bool)
    def setCollapsed(self, collapsed: bool) -> None:
        self._setCollapsed(collapsed)

    def paintEvent(self, event) -> None:
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionGroupBox()
        self.initStyleOption(option)
        control = QtWidgets.QStyle.SubControl
        option.subControls = control.SC_GroupBoxLabel | control.SC_GroupBoxCheckBox
        if not self._collapsed:
            option.subControls |= control.SC_GroupBoxFrame
        # The arrow is drawn at the position of the check box, which is not drawn.
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtWidgets.QWidget.style(self).subControlRect(
            QtWidgets.QStyle.ComplexControl.CC_GroupBox, option, control.SC_GroupBoxCheckBox, self
        )
        # The title beside it, which the style would draw over an arrow.
        label = QtWidgets.QWidget.style(self).subControlRect(
            QtWidgets.QStyle.ComplexControl.CC_GroupBox, option, control.SC_GroupBoxLabel, self
        )
        option.subControls &= ~(control.SC_GroupBoxCheckBox | control.SC_GroupBoxLabel)
        painter.drawComplexControl(QtWidgets.QStyle.ComplexControl.CC_GroupBox, option)
        painter.drawItemText(
            label,
            int(QtCore.Qt.AlignmentFlag.AlignVCenter | QtCore.Qt.TextFlag.TextShowMnemonic),
            QtWidgets.QWidget.palette(self),
            QtWidgets.QWidget.isEnabled(self),
            QtWidgets.QGroupBox.title(self),
            QtGui.QPalette.ColorRole.WindowText,
        )
        primitive = QtWidgets.QStyle.PrimitiveElement
        arrow.rect = arrow.rect.adjusted(2, 2, -2, -2)
        painter.drawPrimitive(
            primitive.PE_IndicatorArrowRight if self._collapsed else primitive.PE_IndicatorArrowDown, arrow
        )

    collapsed = Property(bool, _Collapsing._getCollapsed, _Collapsing._setCollapsed)
    collapsedHeight = Property(int, _Collapsing._getCollapsedHeight, _Collapsing._setCollapsedHeight)


class _ctkSliderWidget(QtWidgets.QWidget):
    """A slider and a spin box with a common value."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    rangeChanged = Signal(float, float)
    _signatures = {  # noqa: RUF012 (read only)
        "valueChanged": [("double",)],
        "valueIsChanging": [("double",)],
        "rangeChanged": [("double", "double")],
    }

    def __init__(self, parent=None):
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal, self)
        self._spinBox = QtWidgets.QDoubleSpinBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._spinBox)
        policy = QtWidgets.QSizePolicy.Policy
        self.setSizePolicy(policy.MinimumExpanding, policy.Fixed)
        self._tracking = True
        self._value = 0.0
        self._step = 1.0
        self._page = 10.0
        self._spinBox.setDecimals(2)
        self._spinBox.setRange(0, 99)
        self._updateSlider()
        self._slider.valueChanged.connect(self._onSlider)
        self._slider.sliderReleased.connect(self._onReleased)
        self._spinBox.valueChanged.connect(self._onSpinBox)

    def _updateSlider(self) -> None:
        low, high = self._spinBox.minimum(), self._spinBox.maximum()
        self._slider.blockSignals(True)
        self._slider.setRange(0, max(1, round((high - low) / self._step)))
        self._slider.setValue(round((self._value - low) / self._step))
        self._slider.blockSignals(False)

    def _onSlider(self, position: int) -> None:
        value = min(self._spinBox.minimum() + position * self._step, self._spinBox.maximum())
        self._spinBox.blockSignals(True)
        self._spinBox.setValue(value)
        self._spinBox.blockSignals(False)
        value = self._spinBox.value()
        dragged = self._slider.isSliderDown()
        if dragged:
            self.valueIsChanging.emit(value)
        if not dragged or self._tracking:
            self._change(value)

    def _onReleased(self) -> None:
        self._change(self._spinBox.value())

    def _onSpinBox(self, value: float) -> None:
        self._change(value)
        self._updateSlider()

    def _change(self, value: float) -> None:
        if value != self._value:
            self._value = value
            self.valueChanged.emit(value)

    def _getValue(self) -> float:
        return self._value

    @Slot(float)
    def setValue(self, value: float) -> None:
        # As in CTK, so that a value that is typed is not written back under the cursor.
        if value != self._value:
            self._spinBox.setValue(value)

    def _setRange(self, low: float, high: float) -> None:
        self._spinBox.setRange(low, high)
        self._updateSlider()
        self.rangeChanged.emit(low, high)

    @Slot(float, float)
    def setRange(self, low: float, high: float) -> None:
        self._setRange(low, high)

    def _getMinimum(self) -> float:
        return self._spinBox.minimum()

    @Slot(float)
    def setMinimum(self, low: float) -> None:
        self._setRange(low, max(low, self._spinBox.maximum()))

    def _getMaximum(self) -> float:
        return self._spinBox.maximum()

    @Slot(float)
    def setMaximum(self, high: float) -> None:
        self._setRange(min(high, self._spinBox.minimum()), high)

    def _getSingleStep(self) -> float:
        return self._step

    @Slot(float)
    def setSingleStep(self, step: float) -> None:
        self._step = step
        self._spinBox.setSingleStep(step)
        self._updateSlider()

    def _getPageStep(self) -> float:
        return self._page

    @Slot(float)
    def setPageStep(self, step: float) -> None:
        self._page = step
        self._slider.setPageStep(max(1, round(step / self._step)))

    def _getDecimals(self) -> int:
        return self._spinBox.decimals()

    @Slot(int)
    def setDecimals(self, decimals: int) -> None:
        self._spinBox.setDecimals(decimals)

    def _getTracking(self) -> bool:
        return self._tracking

    def setTracking(self, tracking: bool) -> None:
        self._tracking = tracking

    def _getSuffix(self) -> str:
        return self._spinBox.suffix()

    def setSuffix(self, text: str) -> None:
        self._spinBox.setSuffix(text)

    def _getPrefix(self) -> str:
        return self._spinBox.prefix()

    def setPrefix(self, text: str) -> None:
        self._spinBox.setPrefix(text)

    def _getSpinBoxVisible(self) -> bool:
        return not self._spinBox.isHidden()

    def setSpinBoxVisible(self, visible: bool) -> None:
        self._spinBox.setVisible(visible)

    value = Property(float, _getValue, setValue)
    minimum = Property(float, _getMinimum, setMinimum)
    maximum = Property(float, _getMaximum, setMaximum)
    singleStep = Property(float, _getSingleStep, setSingleStep)
    pageStep = Property(float, _getPageStep, setPageStep)
    decimals = Property(int, _getDecimals, setDecimals)
    tracking = Property(bool, _getTracking, setTracking)
    suffix = Property(str, _getSuffix, setSuffix)
    prefix = Property(str, _getPrefix, setPrefix)
    spinBoxVisible = Property(bool, _getSpinBoxVisible, setSpinBoxVisible)


class _ctkPathLineEdit(QtWidgets.QWidget):
    """A line edit with the path of a file or folder, and a button to browse for it."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    Dirs = 0x001
    Files = 0x002
    Drives = 0x004
    NoDot = 0x2000
    NoDotDot = 0x4000
    Readable = 0x010
    Writable = 0x020
    Executable = 0x040
    Modified = 0x080
    Hidden = 0x100
    System = 0x200
    AllDirs = 0x400

    def __init__(self, parent=None):
        super().__init__(parent)
        self._lineEdit = QtWidgets.QLineEdit(self)
        self._button = QtWidgets.QToolButton(self)
        self._button.setText("...")
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(1)
        layout.addWidget(self._lineEdit)
        layout.addWidget(self._button)
        self._path = ""
        self._filters = self.Files
        self._nameFilters = []
        self._settingKey = ""
        self._history = True
        self._lineEdit.textChanged.connect(self._onText)
        self._button.clicked.connect(lambda: self.browse())

    def _onText(self, text: str) -> None:
        if text != self._path:
            wasEmpty, self._path = not self._path, text
            # As in CTK, an empty path is not valid, and only its validity changes.
            if text:
                self.currentPathChanged.emit(text)
            if wasEmpty == bool(text):
                self.validInputChanged.emit(bool(text))

    @Slot()
    def browse(self) -> None:
        """Ask for a path; the test sets the answer."""
        path = dialogs.takeFile("Select a file or folder")
        if path:
            self._lineEdit.setText(path)

    def addCurrentPathToHistory(self) -> None:
        if self._settingKey:
            QtCore.QSettings().setValue(self._settingKey, self._path)

    def _getPath(self) -> str:
        return self._path

    @Slot(str)
    def setCurrentPath(self, path: str) -> None:
        self._lineEdit.setText(path)

    def _getFilters(self) -> int:
        return self._filters

    def _setFilters(self, filters: int) -> None:
        self._filters = filters

    def _getNameFilters(self) -> list:
        return self._nameFilters

    def _setNameFilters(self, filters: list) -> None:
        self._nameFilters = filters

    def _getSettingKey(self) -> str:
        return self._settingKey

    def _setSettingKey(self, key: str) -> None:
        self._settingKey = key
        saved = QtCore.QSettings().value(key)
        if saved and not self._path:
            self._lineEdit.setText(saved)

    def _getBrowse(self) -> bool:
        return not self._button.isHidden()

    def _setBrowse(self, visible: bool) -> None:
        self._button.setVisible(visible)

    def _getHistory(self) -> bool:
        return self._history

    def _setHistory(self, visible: bool) -> None:
        self._history = visible

    currentPath = Property(str, _getPath, setCurrentPath)
    filters = Property(int, _getFilters, _setFilters)
    nameFilters = Property("QStringList", _getNameFilters, _setNameFilters)
    settingKey = Property(str, _getSettingKey, _setSettingKey)
    showBrowseButton = Property(bool, _getBrowse, _setBrowse)
    showHistoryButton = Property(bool, _getHistory, _setHistory)


ctkMessageBox = dialogs.MessageBox
ctkCollapsibleButton = pythonQt(_ctkCollapsibleButton)
ctkCollapsibleGroupBox = pythonQt(_ctkCollapsibleGroupBox)
ctkSliderWidget = pythonQt(_ctkSliderWidget)
ctkPathLineEdit = pythonQt(_ctkPathLineEdit)

__all__ = [
    "ctkCollapsibleButton",
    "ctkCollapsibleGroupBox",
    "ctkMessageBox",
    "ctkPathLineEdit",
    "ctkSliderWidget",
]
