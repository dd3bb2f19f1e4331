"""slicer.parameterNodeWrapper: classes of typed parameters whose values are stored in a vtkMRMLScriptedModuleNode.

Values are texts and references of the node, so they are saved and loaded with the scene. A widget is connected to the
parameter in its dynamic property "SlicerParameterName".
"""

from __future__ import annotations

import pathlib
import types
import typing
import weakref

import slicer
import vtk

from . import ctk, qt

_NAME_PROPERTY = "SlicerParameterName"
_MISSING = object()


class Validator:
    def validate(self, value) -> None:
        raise NotImplementedError


class WithinRange(Validator):
    def __init__(self, minimum, maximum):
        self.minimum = minimum
        self.maximum = maximum

    def validate(self, value) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within {self.minimum} and {self.maximum}")


class Minimum(Validator):
    def __init__(self, minimum):
        self.minimum = minimum

    def validate(self, value) -> None:
        if value < self.minimum:
            raise ValueError(f"{value} is less than {self.minimum}")


class Maximum(Validator):
    def __init__(self, maximum):
        self.maximum = maximum

    def validate(self, value) -> None:
        if value > self.maximum:
            raise ValueError(f"{value} is more than {self.maximum}")


class Choice(Validator):
    def __init__(self, choices):
        self.choices = choices

    def validate(self, value) -> None:
        if value not in self.choices:
            raise ValueError(f"{value!r} is none of {self.choices}")


class Default:
    """The value of a parameter that has not been set."""

    def __init__(self, value):
        self.value = value


class Decimals:
    """Decimals of the connected widget."""

    def __init__(self, value: int):
        self.value = value


class SingleStep:
    """Step of the connected widget."""

    def __init__(self, value: float):
        self.value = value


# --------------------------------------------------------------------------------------------------------------------
# A parameter: its type and its storage in the node


class _Parameter:
    def __init__(self, name: str, annotation, default):
        self.name = name
        self.annotation = annotation
        self.kind, *self.annotations = (
            typing.get_args(annotation) if hasattr(annotation, "__metadata__") else (annotation,)
        )
        self.nodeClasses = _nodeClasses(self.kind)
        if not self.nodeClasses and self.kind not in (bool, int, float, str, pathlib.Path):
            raise TypeError(f"parameter '{name}': the stand-in cannot keep {self.kind}")
        unused = [
            each for each in self.annotations if not isinstance(each, Validator | Default | Decimals | SingleStep)
        ]
        if unused:
            raise TypeError(f"parameter '{name}': annotations without effect: {unused}")
        self.default = default if default is not _MISSING else self._defaultOfAnnotation()
        self.check(self.default)

    def _defaultOfAnnotation(self):
        given = self.find(Default)
        if given is not None:
            return given.value
        return None if self.nodeClasses else self.kind()

    def find(self, kind):
        return next((each for each in self.annotations if isinstance(each, kind)), None)

    def check(self, value) -> None:
        if self.nodeClasses:
            if value is not None and not isinstance(value, self.nodeClasses):
                raise TypeError(f"{self.name} cannot be {value!r}")
            return
        if value is None:
            raise ValueError(f"{self.name} cannot be None")
        accepted = (int, float) if self.kind is float else self.kind
        if not isinstance(value, accepted):
            raise TypeError(f"{self.name} cannot be {value!r}")
        for each in self.annotations:
            if isinstance(each, Validator):
                each.validate(value)

    def read(self, node):
        if not node.HasParameter(self.name):
            self.write(node, self.default)
        if self.nodeClasses:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        return text == "True" if self.kind is bool else self.kind(text)

    def write(self, node, value) -> None:
        self.check(value)
        if self.nodeClasses:
            node.SetParameter(self.name, "")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        else:
            node.SetParameter(self.name, str(value))


def _nodeClasses(kind) -> tuple[type, ...]:
    """The node classes of a type; empty for other types. A Union must contain None, as in Slicer."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    members = typing.get_args(kind) if union else (kind,)
    classes = tuple(each for each in members if isinstance(each, type) and issubclass(each, slicer.vtkMRMLNode))
    if union and (type(None) not in members or len(classes) != len(members) - 1):
        raise TypeError(f"{kind} is not a union of node classes and None")
    return classes


# --------------------------------------------------------------------------------------------------------------------
# Connection of widgets and parameters


class _Connector:
    def __init__(self, widget, signal: str, read, write):
        self.widget = widget
        self.signal = getattr(widget, signal)
        self.read = read
        self.write = write

    def connect(self, call) -> None:
        self.call = call
        self.signal.connect(call)

    def disconnect(self) -> None:
        self.signal.disconnect(self.call)


def _attributeConnector(widget, signal: str, name: str, kind=lambda value: value) -> _Connector:
    return _Connector(
        widget, signal, lambda: kind(getattr(widget, name)), lambda value: setattr(widget, name, kind(value))
    )


def _bounds(parameter: _Parameter) -> tuple[float | None, float | None]:
    within, low, high = (parameter.find(kind) for kind in (WithinRange, Minimum, Maximum))
    if within is not None:
        return within.minimum, within.maximum
    return (low.minimum if low is not None else None), (high.maximum if high is not None else None)


def _numberConnector(widget, parameter: _Parameter) -> _Connector:
    low, high = _bounds(parameter)
    if type(widget) is ctk.ctkSliderWidget and (low is None or high is None):
        raise RuntimeError(f"a slider cannot show '{parameter.name}', which has no bounds")
    if type(widget) is qt.QSpinBox:
        widget.setRange(-(2**31) if low is None else low, 2**31 - 1 if high is None else high)
    else:
        if parameter.kind is int:
            widget.decimals = 0
        elif parameter.find(Decimals) is not None:
            widget.decimals = parameter.find(Decimals).value
        widget.minimum = float("-inf") if low is None else low
        widget.maximum = float("inf") if high is None else high
    if parameter.find(SingleStep) is not None:
        widget.singleStep = parameter.find(SingleStep).value
    return _attributeConnector(widget, "valueChanged", "value", parameter.kind)


def _choiceConnector(widget, parameter: _Parameter) -> _Connector:
    choice = parameter.find(Choice)
    if choice is None:
        raise RuntimeError(f"a combo box cannot show '{parameter.name}', which has no Choice")
    widget.clear()
    for each in choice.choices:
        widget.addItem(str(each))

    def write(value) -> None:
        widget.currentIndex = choice.choices.index(value)

    return _Connector(widget, "currentIndexChanged", lambda: choice.choices[widget.currentIndex], write)


def _nodeConnector(widget, parameter: _Parameter) -> _Connector:
    widget.nodeTypes = [kind().GetClassName() for kind in parameter.nodeClasses]
    return _Connector(widget, "currentNodeChanged", widget.currentNode, widget.setCurrentNode)


def _connector(widget, parameter: _Parameter) -> _Connector:
    kind = parameter.kind
    match type(widget).__name__:
        case "QCheckBox" if kind is bool:
            return _attributeConnector(widget, "toggled", "checked")
        case "QPushButton" if kind is bool:
            return _attributeConnector(widget, "toggled", "checked")
        case "QSpinBox" if kind is int:
            return _numberConnector(widget, parameter)
        case "QDoubleSpinBox" | "ctkSliderWidget" if kind in (int, float):
            return _numberConnector(widget, parameter)
        case "QComboBox" if kind in (int, float, str, bool):
            return _choiceConnector(widget, parameter)
        case "QLineEdit" if kind is str:
            return _attributeConnector(widget, "textChanged", "text")
        case "ctkPathLineEdit" if kind is pathlib.Path:
            return _Connector(
                widget,
                "currentPathChanged",
                lambda: kind(widget.currentPath),
                lambda value: setattr(widget, "currentPath", str(value)),
            )
        case "qMRMLNodeComboBox" if parameter.nodeClasses:
            return _nodeConnector(widget, parameter)
    raise RuntimeError(f"a {type(widget).__name__} cannot show '{parameter.name}' of type {kind}")


# --------------------------------------------------------------------------------------------------------------------
# The wrapper


class _Wrapper:
    """Base class of the classes that parameterNodeWrapper makes.

    As in Slicer, values are kept and read again at a ModifiedEvent of the node: a reference to a node that is not in
    the scene yet, as during the import of a scene, stays None until the next event.
    """

    def __init__(self, parameterNode):
        self.parameterNode = parameterNode
        self._connected = {}
        self._writingGui = False
        self._writing = set()
        self._values = {}
        for parameter in self.allParameters.values():
            if not parameterNode.HasParameter(parameter.name):
                parameter.write(parameterNode, parameter.default)
        self._read()
        this = weakref.ref(self)

        def onModified(caller, event) -> None:
            wrapper = this()
            if wrapper is not None:
                wrapper._read()

        tag = parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, onModified)
        weakref.finalize(self, parameterNode.RemoveObserver, tag)

    def _read(self) -> None:
        for name, parameter in self.allParameters.items():
            if name not in self._writing:
                self._values[name] = parameter.read(self.parameterNode)

    def __setattr__(self, name: str, value) -> None:
        if name in self.allParameters:
            self.setValue(name, value)
        elif name == "parameterNode" or name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            raise AttributeError(f"there is no parameter '{name}'")

    def __getattr__(self, name: str):
        if name in type(self).allParameters:
            return self.getValue(name)
        raise AttributeError(f"there is no parameter '{name}'")

    def getValue(self, name: str):
        self._parameter(name)
        return self._values[name]

    def setValue(self, name: str, value) -> None:
        parameter = self._parameter(name)
        self._writing.add(name)
        try:
            with slicer.util.NodeModify(self.parameterNode):
                parameter.write(self.parameterNode, value)
                self._values[name] = parameter.read(self.parameterNode)
        finally:
            self._writing.discard(name)

    def default(self, name: str) -> Default:
        return Default(self._parameter(name).default)

    @classmethod
    def dataType(cls, name: str):
        return cls._parameter(name).annotation

    @classmethod
    def _parameter(cls, name: str) -> _Parameter:
        if name not in cls.allParameters:
            raise ValueError(f"there is no parameter '{name}'")
        return cls.allParameters[name]

    def connectGui(self, gui) -> int:
        """Connect the widgets of `gui` (a widget, or an object with widgets as attributes); returns a tag."""
        isWidget = isinstance(gui, qt.QWidget)
        widgets = gui.findChildren(qt.QWidget) if isWidget else list(vars(gui).values())
        mapping = {widget.property(_NAME_PROPERTY): widget for widget in widgets if widget.property(_NAME_PROPERTY)}
        return self.connectParametersToGui(mapping)

    def connectParametersToGui(self, mapping: dict) -> int:
        connectors = {name: _connector(widget, self._parameter(name)) for name, widget in mapping.items()}
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.connect(self._callback(name, connector))
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._updateGui())
        tag = max(self._connected, default=-1) + 1
        self._connected[tag] = (connectors, observer)
        return tag

    def disconnectGui(self, tag: int) -> None:
        if tag in self._connected:
            connectors, observer = self._connected.pop(tag)
            for connector in connectors.values():
                connector.disconnect()
            self.RemoveObserver(observer)

    def _callback(self, name: str, connector: _Connector):
        def onWidget() -> None:
            if not self._writingGui:
                with slicer.util.NodeModify(self):
                    self.setValue(name, connector.read())

        return onWidget

    def _updateGui(self) -> None:
        if self._writingGui:
            return
        self._writingGui = True
        try:
            with slicer.util.NodeModify(self):
                for connectors, _observer in list(self._connected.values()):
                    for name, connector in connectors.items():
                        connector.write(self.getValue(name))
        finally:
            self._writingGui = False

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified):
        return self.parameterNode.EndModify(wasModified)

    def AddObserver(self, event, callback, priority: float = 0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag) -> None:
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        self.parameterNode.Modified()


def parameterNodeWrapper(described: type) -> type:
    """Decorator of a class that declares parameters by annotations."""
    parameters = {}
    for name, annotation in typing.get_type_hints(described, include_extras=True).items():
        if hasattr(_Wrapper, name):
            raise ValueError(f"'{name}' is a name parameter nodes need themselves")
        parameters[name] = _Parameter(name, annotation, vars(described).get(name, _MISSING))
    kept = {
        name: value
        for name, value in vars(described).items()
        if name not in parameters and name not in ("__dict__", "__weakref__", "__annotations__")
    }
    return type(described.__name__, (_Wrapper,), {**kept, "allParameters": parameters})


def isParameterNodeWrapper(something) -> bool:
    kind = something if isinstance(something, type) else type(something)
    return issubclass(kind, _Wrapper)
