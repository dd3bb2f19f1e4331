"""Builds the widgets of a .ui file from its XML; anything that allowed.py does not list is an error."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from functools import reduce
from itertools import pairwise
from operator import or_
from pathlib import Path

from PySide6 import QtCore, QtGui, QtWidgets

from . import allowed
from .pythonqt import connect, writeProperty


class UiError(ValueError):
    """The .ui file contains something that is not listed, or is inconsistent."""


class QUiLoader:
    """Slicer's loader of .ui files: load(an open QFile) -> the top widget."""

    def load(self, file):
        return _Form(Path(file.fileName())).build()


def _classes() -> dict[str, type]:
    from . import ctk, mrmlwidgets, qt

    modules = (qt, ctk, mrmlwidgets)
    return {name: getattr(module, name) for module in modules for name in allowed.WIDGETS if hasattr(module, name)}


class _Form:
    def __init__(self, path: Path):
        self.path = path
        self.root = ElementTree.parse(path).getroot()
        self.classes = _classes()
        self.named: dict[str, object] = {}
        declared = {entry.findtext("class") for entry in self.root.iter("customwidget")}
        used = {entry.get("class") for entry in self.root.iter("widget")}
        undeclared = {name for name in used if not name.startswith("Q")} - declared
        if undeclared:
            raise UiError(f"{path.name} uses custom widgets that it does not declare: {sorted(undeclared)}")

    def build(self):
        known = {"class", "widget", "customwidgets", "resources", "connections", "tabstops", "layoutdefault"}
        for element in self.root:
            if element.tag not in known:
                raise UiError(f"<{element.tag}> is not on the stand-in's list")
        top = self.widget(self.root.find("widget"), None)
        stops = [self.named[stop.text] for stop in self.root.findall("tabstops/tabstop")]
        for first, second in pairwise(stops):
            QtWidgets.QWidget.setTabOrder(first, second)
        for connection in self.root.findall("connections/connection"):
            sender, receiver = (self.named[connection.findtext(end)] for end in ("sender", "receiver"))
            slot = connection.findtext("slot").partition("(")[0]
            connect(sender, connection.findtext("signal"), getattr(receiver, slot))
        return top

    def remember(self, element, made):
        name = element.get("name")
        if not name:
            return
        if name in self.named:
            raise UiError(f"the name '{name}' is used twice")
        self.named[name] = made
        QtCore.QObject.setObjectName(made, name)

    # ----------------------------------------------------------------------------------------------------------------

    def widget(self, element, parent):
        name = element.get("class")
        if name not in allowed.WIDGETS:
            raise UiError(f"class '{name}' is not on the stand-in's list")
        made = self.classes[name](parent) if parent is not None else self.classes[name]()
        self.remember(element, made)
        later = []
        for child in element:
            if child.tag == "property":
                # Values are set last, because a range may follow its value in the file.
                (later if child.get("name") in ("value", "currentIndex", "collapsed") else [None]).append(child)
                if child not in later:
                    self.property(made, child, allowed.WIDGETS[name] | allowed.DYNAMIC)
            elif child.tag == "widget":
                self.widget(child, made)
            elif child.tag == "layout":
                made.setLayout(self.layout(child, made))
            elif child.tag == "item" and name == "QComboBox":
                made.addItem(_text(child.find("property[@name='text']")))
            elif child.tag == "column" and name == "QTableWidget":
                self.column(made, child)
            elif child.tag == "attribute" and name == "QTableWidget":
                self.tableAttribute(made, child)
            else:
                raise UiError(f"<{child.tag}> in {name} '{element.get('name')}' is not on the stand-in's list")
        for child in later:
            self.property(made, child, allowed.WIDGETS[name])
        return made

    def property(self, made, element, known: set[str]) -> None:
        name = element.get("name")
        if name not in known:
            raise UiError(f"property '{name}' of {type(made).__name__} is not on the stand-in's list")
        value = _value(element[0], made)
        if name in allowed.DYNAMIC:
            made.setProperty(name, value)
        else:
            writeProperty(made, name, value)

    def column(self, table, element) -> None:
        index = table.columnCount
        table.setColumnCount(index + 1)
        table.setHorizontalHeaderItem(index, QtWidgets.QTableWidgetItem(_text(element.find("property[@name='text']"))))

    def tableAttribute(self, table, element) -> None:
        name = element.get("name")
        if name not in allowed.TABLE_ATTRIBUTES:
            raise UiError(f"attribute '{name}' of a table is not on the stand-in's list")
        header = table.horizontalHeader() if name.startswith("horizontal") else table.verticalHeader()
        rest = name.removeprefix("horizontalHeader").removeprefix("verticalHeader")
        setattr(header, rest[0].lower() + rest[1:], _value(element[0], header))

    # ----------------------------------------------------------------------------------------------------------------

    def layout(self, element, parent):
        name = element.get("class")
        if name not in allowed.LAYOUTS:
            raise UiError(f"layout '{name}' is not on the stand-in's list")
        made = self.classes_layout(name)
        self.remember(element, made)
        margins = {}
        for child in element:
            if child.tag == "property":
                key = child.get("name")
                if key not in allowed.LAYOUTS[name]:
                    raise UiError(f"property '{key}' of {name} is not on the stand-in's list")
                if key.endswith("Margin"):
                    margins[key] = _value(child[0], made)
                else:
                    writeProperty(made, key, _value(child[0], made))
            elif child.tag == "item":
                self.item(made, name, child, parent)
            else:
                raise UiError(f"<{child.tag}> in {name} is not on the stand-in's list")
        if margins:
            sides = ("leftMargin", "topMargin", "rightMargin", "bottomMargin")
            default = QtWidgets.QWidget.style(parent).pixelMetric(QtWidgets.QStyle.PixelMetric.PM_LayoutLeftMargin)
            made.setContentsMargins(*[margins.get(side, default) for side in sides])
        stretch = [int(part) for part in (element.get("stretch") or "").split(",") if part]
        for index, value in enumerate(stretch):
            made.setStretch(index, value)
        columns = [int(part) for part in (element.get("columnstretch") or "").split(",") if part]
        for index, value in enumerate(columns):
            made.setColumnStretch(index, value)
        return made

    def classes_layout(self, name: str):
        from . import qt

        return getattr(qt, name)()

    def item(self, layout, layoutName: str, element, parent) -> None:
        content = element[0]
        if content.tag == "widget":
            made = self.widget(content, parent)
        elif content.tag == "layout":
            made = self.layout(content, parent)
        elif content.tag == "spacer":
            made = _spacer(content)
        else:
            raise UiError(f"<{content.tag}> in a layout is not on the stand-in's list")
        if layoutName in ("QVBoxLayout", "QHBoxLayout"):
            add = {"widget": layout.addWidget, "layout": layout.addLayout, "spacer": layout.addItem}[content.tag]
            add(made)
            return
        row, column = int(element.get("row")), int(element.get("column"))
        columns = int(element.get("colspan", 1))
        if layoutName == "QGridLayout":
            add = {"widget": layout.addWidget, "layout": layout.addLayout, "spacer": layout.addItem}[content.tag]
            add(made, row, column, int(element.get("rowspan", 1)), columns)
            return
        roles = QtWidgets.QFormLayout.ItemRole
        role = roles.SpanningRole if columns == 2 else (roles.LabelRole, roles.FieldRole)[column]
        set_ = {"widget": layout.setWidget, "layout": layout.setLayout, "spacer": layout.setItem}[content.tag]
        set_(row, role, made)


def _text(element) -> str:
    return (element.findtext("string") or "") if element is not None else ""


def _spacer(element):
    values = {}
    for child in element:
        name = child.get("name")
        if child.tag != "property" or name not in allowed.SPACER:
            raise UiError(f"'{name}' of a spacer is not on the stand-in's list")
        values[name] = child[0]
    vertical = values["orientation"].text.endswith("Vertical")
    width, height = (int(values["sizeHint"].findtext(side)) for side in ("width", "height"))
    policy = QtWidgets.QSizePolicy.Policy
    stretch = getattr(policy, values["sizeType"].text.rpartition("::")[2]) if "sizeType" in values else policy.Expanding
    return QtWidgets.QSpacerItem(
        width, height, policy.Minimum if vertical else stretch, stretch if vertical else policy.Minimum
    )


def _enumerator(text: str, made):
    """The value of 'Qt::AlignLeft' or 'QFrame::HLine'; 'Qt::AlignmentFlag::AlignLeft' in newer files."""
    scope, *_middle, key = text.split("::")
    owner = made if scope == type(made).__name__ else getattr(QtCore, scope, None) or getattr(QtWidgets, scope, None)
    if owner is None:
        raise UiError(f"'{text}' is not known")
    return object.__getattribute__(owner, key) if owner is made else getattr(owner, key)


def _value(element, made):
    tag = element.tag
    if tag == "string":
        return element.text or ""
    if tag == "bool":
        return {"true": True, "false": False}[element.text]
    if tag == "number":
        return int(element.text)
    if tag == "double":
        return float(element.text)
    if tag == "stringlist":
        return [entry.text or "" for entry in element.findall("string")]
    if tag == "enum":
        return _enumerator(element.text, made)
    if tag == "set":
        return reduce(or_, [_enumerator(part, made) for part in element.text.split("|")])
    if tag == "size":
        return QtCore.QSize(int(element.findtext("width")), int(element.findtext("height")))
    if tag == "rect":
        return QtCore.QRect(*[int(element.findtext(part)) for part in ("x", "y", "width", "height")])
    if tag == "sizepolicy":
        policy = QtWidgets.QSizePolicy.Policy
        result = QtWidgets.QSizePolicy(*[getattr(policy, element.get(way)) for way in ("hsizetype", "vsizetype")])
        result.setHorizontalStretch(int(element.findtext("horstretch", "0")))
        result.setVerticalStretch(int(element.findtext("verstretch", "0")))
        return result
    if tag == "font":
        return _font(element)
    raise UiError(f"a value of the kind <{tag}> is not on the stand-in's list")


def _font(element):
    font = QtGui.QFont(QtGui.QGuiApplication.font())
    setters = {
        "pointsize": lambda text: font.setPointSize(int(text)),
        "bold": lambda text: font.setBold(text == "true"),
        "italic": lambda text: font.setItalic(text == "true"),
    }
    for child in element:
        if child.tag not in setters:
            raise UiError(f"<{child.tag}> of a font is not on the stand-in's list")
        setters[child.tag](child.text)
    return font
