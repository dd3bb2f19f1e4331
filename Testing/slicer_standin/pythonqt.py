"""The interface of PythonQt, which Slicer's Python uses for Qt objects, implemented with PySide6.

Properties are read and written as attributes (`label.text = "..."`; `label.text()` is an error, as in Slicer),
`widget.connect("clicked(bool)", f)` finds signals by their C++ signatures, and signals can be called. Reading or
writing an unknown attribute is an AttributeError. An exception in a slot is printed and stored, see uncaught.py.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import numbers
import sys

from PySide6 import QtCore, QtGui, QtWidgets

from .uncaught import record

Signature = tuple[str, tuple[str, ...]]


def keepConstants() -> None:
    """Make None, True and False immortal on Python 3.11, as they are from 3.12 on.

    PySide6 6.12 depends on it: each call that returns nothing releases a reference to None, and after some ten thousand
    calls Python 3.11 would abort with "deallocating None".
    """
    if sys.version_info < (3, 12):
        for constant in (None, True, False, NotImplemented, Ellipsis):
            ctypes.c_ssize_t.from_address(id(constant)).value += 1 << 40


# --------------------------------------------------------------------------------------------------------------------
# Properties


def _metaProperty(native, name: str):
    meta = QtCore.QObject.metaObject(native)
    index = meta.indexOfProperty(name)
    return meta.property(index) if index >= 0 else None


def _coerced(prop, value):
    """The value converted as by PythonQt; TypeError if it cannot be converted."""
    kind = prop.typeName()
    number = isinstance(value, numbers.Real)
    if kind == "bool" and number:
        return bool(value)
    if kind in ("int", "uint", "qlonglong") and number:
        return int(value)
    if kind in ("double", "float") and number:
        return float(value)
    if kind == "QString" and isinstance(value, str):
        return richToolTip(value) if prop.name() == "toolTip" else value
    if kind == "QStringList" and isinstance(value, list | tuple) and all(isinstance(text, str) for text in value):
        return list(value)
    if kind in ("bool", "int", "uint", "qlonglong", "double", "float", "QString", "QStringList"):
        raise TypeError(f"property '{prop.name()}' of type {kind} cannot be {value!r}")
    return unwrapped(value)


def richToolTip(text: str) -> str:
    """The tool tip that a widget has after this one was set: Slicer makes rich text of it, which breaks lines."""
    if not text or QtGui.Qt.mightBeRichText(text):
        return text
    return QtGui.Qt.convertFromPlainText(text, QtCore.Qt.WhiteSpaceMode.WhiteSpaceNormal)


def _enumAccess(native, prop):
    """Getter and setter of a property of enumerators or flags; PySide cannot convert some of them."""
    name = prop.name()
    return (
        object.__getattribute__(native, name),
        object.__getattribute__(native, f"set{name[0].upper()}{name[1:]}"),
    )


def _pythonProperty(native, name: str):
    """A property declared in Python, for which PySide would look up the attribute of the object recursively."""
    return _pythonPropertyOf(type(native), name)


@functools.cache
def _pythonPropertyOf(cls: type, name: str):
    found = inspect.getattr_static(cls, name, None)
    return found if isinstance(found, QtCore.Property) else None


def readProperty(native, name: str):
    declared = _pythonProperty(native, name)
    if declared is not None:
        return declared.fget(native)
    prop = _metaProperty(native, name)
    if prop.isEnumType():
        return _enumAccess(native, prop)[0]()
    if name in _virtualGetters(type(native)):
        return wrapped(object.__getattribute__(native, name)())
    return wrapped(QtCore.QObject.property(native, name))


# Virtual in C++, so that PySide looks the getter up in the Python object, where it would find the property again.
_VIRTUAL = {
    QtWidgets.QWidget: ("sizeHint", "minimumSizeHint"),
    QtWidgets.QLayout: ("spacing",),
    QtWidgets.QProgressBar: ("text",),
}


@functools.cache
def _virtualGetters(cls: type) -> frozenset[str]:
    return frozenset(name for base, names in _VIRTUAL.items() if issubclass(cls, base) for name in names)


def writeProperty(native, name: str, value) -> None:
    """Raises AttributeError for an unknown or read-only property, TypeError for a wrong value."""
    prop = _metaProperty(native, name)
    if prop is None:
        raise AttributeError(f"{type(native).__name__} has no property '{name}'")
    if not prop.isWritable():
        raise AttributeError(f"property '{name}' of {type(native).__name__} is read-only")
    declared = _pythonProperty(native, name)
    if declared is not None:
        declared.fset(native, _coerced(prop, value))
        return
    if prop.isEnumType():
        getter, setter = _enumAccess(native, prop)
        setter(type(getter())(value))
        return
    if not prop.write(native, _coerced(prop, value)):
        raise TypeError(f"property '{name}' of {type(native).__name__} cannot be {value!r}")


# --------------------------------------------------------------------------------------------------------------------
# Signals


def _signature(text: str) -> Signature:
    name, bracket, rest = text.replace(" ", "").partition("(")
    if not bracket or not rest.endswith(")"):
        raise ValueError(f"'{text}' is not a signal's signature, such as 'clicked(bool)'")
    kinds = tuple(kind.removeprefix("const").removesuffix("&") for kind in rest[:-1].split(",") if kind)
    return name, kinds


def _signals(native) -> dict[str, list[tuple[str, ...]]]:
    """Names and argument types of all signals, those with most arguments first."""
    meta = QtCore.QObject.metaObject(native)
    # Objects that Qt has made itself may be of a C++ class that Python does not have.
    key = type(native), meta.className()
    if key not in _signalsOf:
        _signalsOf[key] = _readSignals(meta, getattr(type(native), "_signatures", {}))
    return _signalsOf[key]


# By class in Python and in C++, since reading them takes most of the time in which a panel is opened.
_signalsOf: dict[tuple[type, str], dict[str, list[tuple[str, ...]]]] = {}


def _readSignals(meta, declared: dict) -> dict[str, list[tuple[str, ...]]]:
    found: dict[str, list[tuple[str, ...]]] = {}
    for index in range(meta.methodCount()):
        method = meta.method(index)
        if method.methodType() == QtCore.QMetaMethod.MethodType.Signal:
            name, kinds = _signature(bytes(method.methodSignature()).decode())
            # Signals of the stand-in's own classes have Python objects as arguments, but C++ types in Slicer.
            overloads = declared.get(name, [kinds])
            found.setdefault(name, []).extend(kinds for kinds in overloads if kinds not in found.get(name, []))
    for overloads in found.values():
        overloads.sort(key=len, reverse=True)
    return found


def _acceptedArguments(slot) -> int:
    """Number of positional arguments of a callable; further arguments of a signal are dropped, as in PythonQt."""
    try:
        parameters = inspect.signature(slot).parameters.values()
    except (TypeError, ValueError):
        return 100
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return 100
    return sum(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) for parameter in parameters
    )


class Signal:
    """A signal of a widget: connect, disconnect, emit, and callable."""

    def __init__(self, native, name: str, kinds: tuple[str, ...]):
        self._owner = native
        self._name = name
        self._kinds = kinds

    def _bound(self):
        signal = object.__getattribute__(self._owner, self._name)
        if self._name in getattr(type(self._owner), "_signatures", {}):
            return signal
        # By itself PySide would choose clicked() for a callable with arbitrary arguments.
        return signal[self._kinds[0] if len(self._kinds) == 1 else self._kinds]

    def connect(self, slot) -> bool:
        if not callable(slot):
            raise TypeError(f"{slot!r} cannot be called")
        count = min(len(self._kinds), _acceptedArguments(slot))
        # currentNodeChanged(bool) and currentNodeChanged(vtkMRMLNode*) are one signal here.
        convert = bool if self._kinds == ("bool",) else wrapped

        def call(*arguments):
            try:
                slot(*[convert(argument) for argument in arguments[:count]])
            except Exception as error:
                record(error)

        self._bound().connect(call)
        _connections(self._owner).append((self._name, slot, call))
        return True

    def disconnect(self, slot) -> bool:
        connections = _connections(self._owner)
        for entry in connections:
            if entry[0] == self._name and entry[1] == slot:
                self._bound().disconnect(entry[2])
                connections.remove(entry)
                return True
        return False

    def emit(self, *arguments) -> None:
        if len(arguments) > len(self._kinds):
            raise TypeError(f"{self._name} has {len(self._kinds)} arguments, not {len(arguments)}")
        # Default arguments of Qt's own signals, as of clicked(bool).
        defaults = {"bool": False}
        missing = [defaults[kind] for kind in self._kinds[len(arguments) :]]
        self._bound().emit(*[unwrapped(argument) for argument in arguments], *missing)

    __call__ = emit


# Connections of objects that are not the stand-in's; attributes would be lost with their short-lived Python wrapper.
_foreignConnections: dict[object, list] = {}


def _connections(native) -> list:
    if isinstance(native, PythonQt):
        return native.__dict__.setdefault("_connections", [])
    return _foreignConnections.setdefault(native, [])


def _signal(native, name: str, kinds: tuple[str, ...] | None = None) -> Signal:
    overloads = _signals(native).get(name, [])
    if not overloads or (kinds is not None and kinds not in overloads):
        known = ", ".join(f"{name}({','.join(overload)})" for overload in overloads)
        wanted = name if kinds is None else f"{name}({','.join(kinds)})"
        raise AttributeError(f"{type(native).__name__} has no signal '{wanted}'" + (f", only {known}" if known else ""))
    return Signal(native, name, overloads[0] if kinds is None else kinds)


def connect(native, signature: str, slot) -> bool:
    return _signal(native, *_signature(signature)).connect(slot)


def disconnect(native, signature: str, slot) -> bool:
    return _signal(native, *_signature(signature)).disconnect(slot)


# --------------------------------------------------------------------------------------------------------------------
# Objects

# Classes of objects that Qt makes itself, such as the header of a table, or that are part of a widget of CTK. Other
# classes have the common attributes only.
HANDED_OUT = {
    "QClipboard",
    "QComboBox",
    "QDoubleSpinBox",
    "QHeaderView",
    "QLineEdit",
    "QScrollBar",
    "QSlider",
    "QStatusBar",
    "QTextDocument",
}
_OF_ALL = {"children", "className", "inherits", "isWidgetType", "name", "objectName", "parent", "property"}


def _attribute(native, name: str):
    """The attribute of this name in PythonQt: value of a property, signal, or method."""
    if name == "name":
        return QtCore.QObject.objectName(native)
    if name == "connect":
        return lambda signature, slot: connect(native, signature, slot)
    if name == "disconnect":
        return lambda signature, slot: disconnect(native, signature, slot)
    if name == "className":
        return lambda: _className(native)
    if _metaProperty(native, name) is not None:
        return readProperty(native, name)
    if name == "setToolTip":
        return lambda text: writeProperty(native, "toolTip", text)
    if name in _signals(native):
        return _signal(native, name)
    value = object.__getattribute__(native, name)
    if inspect.isbuiltin(value):
        return lambda *arguments, **named: wrapped(
            value(*[unwrapped(a) for a in arguments], **{key: unwrapped(a) for key, a in named.items()})
        )
    return value


def _className(native) -> str:
    for cls in type(native).__mro__:
        if not cls.__name__.startswith("_"):
            return cls.__name__
    raise AssertionError


def _write(native, name: str, value) -> None:
    writeProperty(native, "objectName" if name == "name" else name, value)


class Foreign:
    """An object that Qt has made itself, with the interface of PythonQt."""

    __slots__ = ("_native",)

    def __init__(self, native):
        object.__setattr__(self, "_native", native)

    def _check(self, name: str) -> None:
        kind = type(self._native).__name__
        if name not in _OF_ALL and kind not in HANDED_OUT:
            raise AttributeError(f"'{name}': {kind} is not on the stand-in's list")

    def __getattr__(self, name: str):
        self._check(name)
        return _attribute(self._native, name)

    def __setattr__(self, name: str, value) -> None:
        self._check(name)
        _write(self._native, name, value)

    def __dir__(self):
        return dir(self._native)

    def __eq__(self, other):
        return self._native is unwrapped(other)

    def __hash__(self):
        return hash(self._native)


def wrapped(value):
    """The value with the interface of PythonQt for objects that are not of the stand-in's classes."""
    if isinstance(value, QtCore.QObject) and not isinstance(value, PythonQt):
        return Foreign(value)
    if isinstance(value, list):
        return [wrapped(item) for item in value]
    return value


def unwrapped(value):
    return value._native if isinstance(value, Foreign) else value


class _Meta(type(QtCore.QObject)):
    """Makes isinstance(button, qt.QWidget) true, although the stand-in's classes do not derive from one another."""

    def __instancecheck__(cls, instance) -> bool:
        base = cls.__dict__.get("_base")
        return isinstance(unwrapped(instance), base) if base else type.__instancecheck__(cls, instance)


class PythonQt:
    """Mixin that gives a PySide6 class the interface of PythonQt."""

    def __getattribute__(self, name: str):
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        return _attribute(self, name)

    def __setattr__(self, name: str, value) -> None:
        if name.startswith("_") or not type(self).__dict__.get("_base"):
            # A Python class that derives from the stand-in's classes may have its own attributes.
            if not name.startswith("_") and _metaProperty(self, name) is not None:
                writeProperty(self, name, value)
            else:
                super().__setattr__(name, value)
        else:
            _write(self, name, value)

    def findChildren(self, kind, name: str | None = None) -> list:
        base = kind.__dict__.get("_base", kind)
        found = (
            QtCore.QObject.findChildren(self, base) if name is None else QtCore.QObject.findChildren(self, base, name)
        )
        return wrapped(list(found))

    def findChild(self, kind, name: str | None = None):
        found = self.findChildren(kind, name)
        return found[0] if found else None


def pythonQt(base, name: str | None = None, **attributes):
    """Make the class of this name in Slicer's `qt` or `ctk` from a PySide6 class."""
    name = name or base.__name__.lstrip("_")
    return _Meta(name, (PythonQt, base), {"_base": base, "__module__": __name__, **attributes})
