"""Slicer's widgets that show the scene: qMRMLWidget and the selectors of nodes and segments.

Qt objects in these classes also have the interface of PythonQt: properties are attributes.
"""

from __future__ import annotations

import slicer
import vtk
from PySide6 import QtWidgets
from PySide6.QtCore import Property, Signal, Slot

from .pythonqt import pythonQt


class _qMRMLWidget(QtWidgets.QWidget):
    mrmlSceneChanged = Signal(object)
    _signatures = {"mrmlSceneChanged": [("vtkMRMLScene*",)]}  # noqa: RUF012 (read only)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


class _qSlicerScriptedLoadableModuleWidget(_qMRMLWidget):
    """The frame of a scripted module's panel in Slicer; self() returns the Python widget."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._entered = False
        self._python = None

    def self(self):
        return self._python

    def enter(self) -> None:
        self._entered = True
        self._python.enter()

    def exit(self) -> None:
        self._entered = False
        self._python.exit()

    def _isEntered(self) -> bool:
        return self._entered

    isEntered = Property(bool, _isEntered)


class _qMRMLLayoutWidget(QtWidgets.QWidget):
    """A window with the views of the scene, for an application without a main window."""

    def setMRMLScene(self, scene) -> None:
        pass

    def layoutManager(self):
        from .layout import LayoutManager

        return LayoutManager(slicer.app._views)


class _Observers:
    """VTK observers that are removed together, at the latest with their widget."""

    def __init__(self, owner):
        self._tags = []
        object.__getattribute__(owner, "destroyed").connect(lambda *_: self.clear())

    def add(self, subject, event, call) -> None:
        self._tags.append((subject, subject.AddObserver(event, call)))

    def clear(self) -> None:
        for subject, tag in self._tags:
            subject.RemoveObserver(tag)
        self._tags.clear()


class _qMRMLNodeComboBox(QtWidgets.QWidget):
    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    _signatures = {  # noqa: RUF012 (read only)
        "currentNodeChanged": [("vtkMRMLNode*",), ("bool",)],
        "nodeActivated": [("vtkMRMLNode*",)],
        "nodeAdded": [("vtkMRMLNode*",)],
        "nodeAddedByUser": [("vtkMRMLNode*",)],
    }

    def __init__(self, parent=None):
        super().__init__(parent)
        self._comboBox = QtWidgets.QComboBox(self)
        self._comboBox.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._comboBox)
        policy = QtWidgets.QSizePolicy.Policy
        self.setSizePolicy(policy.Expanding, policy.Fixed)
        self._scene = None
        self._sceneObservers = _Observers(self)
        self._nodeObservers = _Observers(self)
        self._nodes = []
        self._current = None
        self._nodeTypes = []
        self._hideChildNodeTypes = []
        self._attributes = {}
        # Slicer's defaults.
        self._flags = {
            "showHidden": False,
            "showChildNodeTypes": True,
            "noneEnabled": False,
            "addEnabled": True,
            "removeEnabled": True,
            "editEnabled": False,
            "renameEnabled": False,
            "selectNodeUponCreation": True,
        }
        self._noneDisplay = "None"
        self._baseName = ""
        self._comboBox.currentIndexChanged.connect(self._onIndex)
        self._comboBox.activated.connect(lambda index: self.nodeActivated.emit(self._current))

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene) -> None:
        if scene is self._scene:
            return
        self._sceneObservers.clear()
        self._scene = scene
        if scene is not None:
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
                self._sceneObservers.add(scene, event, lambda caller, name: self._onScene())
            self._sceneObservers.add(scene, scene.EndBatchProcessEvent, lambda caller, name: self._refresh())
        self._refresh()

    def _onScene(self) -> None:
        # As in Slicer, the list is updated after the loading or closing of a scene.
        if not self._scene.IsBatchProcessing():
            self._refresh()

    def _accepts(self, node) -> bool:
        if node.GetHideFromEditors() and not self._flags["showHidden"]:
            return False
        if any(node.IsA(kind) for kind in self._hideChildNodeTypes):
            return False
        for (kind, name), value in self._attributes.items():
            if node.IsA(kind) and (node.GetAttribute(name) is None or value not in (None, node.GetAttribute(name))):
                return False
        if self._flags["showChildNodeTypes"]:
            return any(node.IsA(kind) for kind in self._nodeTypes)
        return node.GetClassName() in self._nodeTypes

    def _refresh(self) -> None:
        scene = self._scene
        nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())] if scene is not None else []
        self._nodes = [node for node in nodes if self._accepts(node)]
        self._nodeObservers.clear()
        for node in self._nodes:
            self._nodeObservers.add(node, vtk.vtkCommand.ModifiedEvent, lambda caller, name: self._onNode())
        self._fill()
        if self._current is not None and self._current not in self._nodes:
            self._select(None)
        if self._current is None and self._nodes and not self._flags["noneEnabled"]:
            self._select(self._nodes[0])

    def _fill(self) -> None:
        self._comboBox.blockSignals(True)
        self._comboBox.clear()
        if self._flags["noneEnabled"]:
            self._comboBox.addItem(self._noneDisplay)
        for node in self._nodes:
            self._comboBox.addItem(node.GetName())
        self._comboBox.setCurrentIndex(self._indexOf(self._current))
        self._comboBox.blockSignals(False)

    def _onNode(self) -> None:
        shown = [self._comboBox.itemText(index) for index in range(self._comboBox.count())]
        if shown[int(self._flags["noneEnabled"]) :] != [node.GetName() for node in self._nodes]:
            self._fill()

    def _indexOf(self, node) -> int:
        first = int(self._flags["noneEnabled"])
        if node is None or node not in self._nodes:
            return first - 1
        return first + self._nodes.index(node)

    def _onIndex(self, index: int) -> None:
        index -= int(self._flags["noneEnabled"])
        self._select(self._nodes[index] if index >= 0 else None)

    def _select(self, node) -> None:
        if node is self._current:
            return
        self._current = node
        self._comboBox.blockSignals(True)
        self._comboBox.setCurrentIndex(self._indexOf(node))
        self._comboBox.blockSignals(False)
        self.currentNodeChanged.emit(node)
        self.currentNodeIDChanged.emit(node.GetID() if node is not None else "")

    def currentNode(self):
        return self._current

    def setCurrentNode(self, node) -> None:
        if isinstance(node, str):
            self.setCurrentNodeID(node)
        else:
            self._select(node if node in self._nodes else None)

    @Slot(str)
    def setCurrentNodeID(self, nodeID: str) -> None:
        self._select(next((node for node in self._nodes if node.GetID() == nodeID), None))

    def setCurrentNodeIndex(self, index: int) -> None:
        self._select(self._nodes[index] if 0 <= index < len(self._nodes) else None)

    def _getCurrentNodeID(self) -> str:
        return self._current.GetID() if self._current is not None else ""

    def nodeCount(self) -> int:
        return len(self._nodes)

    def nodeFromIndex(self, index: int):
        return self._nodes[index]

    def addNode(self, nodeType: str | None = None):
        """As "Create new ..." does."""
        nodeType = nodeType or self._nodeTypes[0]
        node = self._scene.AddNewNodeByClass(nodeType, self._scene.GenerateUniqueName(self._baseName or "Node"))
        if self._flags["selectNodeUponCreation"]:
            self._select(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        if self._current is not None:
            self._scene.RemoveNode(self._current)

    def addAttribute(self, nodeType: str, name: str, value: str | None = None) -> None:
        self._attributes[nodeType, name] = value
        self._refresh()

    def removeAttribute(self, nodeType: str, name: str) -> None:
        del self._attributes[nodeType, name]
        self._refresh()

    def _getNodeTypes(self) -> list:
        return self._nodeTypes

    def setNodeTypes(self, types: list) -> None:
        unknown = [name for name in types if not hasattr(slicer, name)]
        if unknown:
            raise AttributeError(f"there are no nodes of the class {unknown}")
        self._nodeTypes = list(types)
        self._refresh()

    def _getHideChildNodeTypes(self) -> list:
        return self._hideChildNodeTypes

    def setHideChildNodeTypes(self, types: list) -> None:
        self._hideChildNodeTypes = list(types)
        self._refresh()

    def _getNoneDisplay(self) -> str:
        return self._noneDisplay

    def setNoneDisplay(self, text: str) -> None:
        self._noneDisplay = text
        self._fill()

    def _getBaseName(self) -> str:
        return self._baseName

    def setBaseName(self, name: str) -> None:
        self._baseName = name

    def _flag(name):
        def read(self) -> bool:
            return self._flags[name]

        def write(self, value: bool) -> None:
            self._flags[name] = value
            self._refresh()

        return Property(bool, read, write)

    currentNodeID = Property(str, _getCurrentNodeID, setCurrentNodeID)
    nodeTypes = Property("QStringList", _getNodeTypes, setNodeTypes)
    hideChildNodeTypes = Property("QStringList", _getHideChildNodeTypes, setHideChildNodeTypes)
    noneDisplay = Property(str, _getNoneDisplay, setNoneDisplay)
    baseName = Property(str, _getBaseName, setBaseName)
    showHidden = _flag("showHidden")
    showChildNodeTypes = _flag("showChildNodeTypes")
    noneEnabled = _flag("noneEnabled")
    addEnabled = _flag("addEnabled")
    removeEnabled = _flag("removeEnabled")
    editEnabled = _flag("editEnabled")
    renameEnabled = _flag("renameEnabled")
    selectNodeUponCreation = _flag("selectNodeUponCreation")
    del _flag


qMRMLNodeComboBox = pythonQt(_qMRMLNodeComboBox)


class _qMRMLSegmentSelectorWidget(_qMRMLWidget):
    currentNodeChanged = Signal(object)
    currentSegmentChanged = Signal(str)
    _signatures = {  # noqa: RUF012 (read only)
        **_qMRMLWidget._signatures,
        "currentNodeChanged": [("vtkMRMLNode*",), ("bool",)],
    }

    def __init__(self, parent=None):
        super().__init__(parent)
        self._nodeSelector = qMRMLNodeComboBox(self)
        self._nodeSelector.nodeTypes = ["vtkMRMLSegmentationNode"]
        self._nodeSelector.addEnabled = False
        self._nodeSelector.removeEnabled = False
        self._nodeSelector.noneEnabled = True
        self._nodeLabel = QtWidgets.QLabel("Segmentation:", self)
        self._label = QtWidgets.QLabel("Segment:", self)
        self._comboBox = QtWidgets.QComboBox(self)
        self._message = QtWidgets.QLabel(self)
        layout = QtWidgets.QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setColumnStretch(1, 1)
        layout.addWidget(self._nodeLabel, 0, 0)
        layout.addWidget(self._nodeSelector, 0, 1)
        layout.addWidget(self._label, 1, 0)
        layout.addWidget(self._comboBox, 1, 1)
        layout.addWidget(self._message, 2, 0, 1, 2)
        self._node = None
        self._segmentID = ""
        self._none = False
        self._horizontal = False
        self._observers = _Observers(self)
        self._nodeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onNode)
        self._comboBox.currentIndexChanged.connect(self._onIndex)
        self._populate()

    def setMRMLScene(self, scene) -> None:
        super().setMRMLScene(scene)
        self._nodeSelector.setMRMLScene(scene)

    def _onNode(self, node) -> None:
        self._observers.clear()
        self._node = node
        if node is not None:
            segmentation = node.GetSegmentation()
            kind = slicer.vtkSegmentation
            for event in (kind.SegmentAdded, kind.SegmentRemoved, kind.SegmentModified):
                self._observers.add(segmentation, event, lambda caller, name: self._populate())
        self._populate()
        self.currentNodeChanged.emit(node)

    def _segmentIDs(self) -> list[str]:
        return list(self._node.GetSegmentation().GetSegmentIDs()) if self._node is not None else []

    def _populate(self) -> None:
        segmentIDs = self._segmentIDs()
        self._comboBox.blockSignals(True)
        self._comboBox.clear()
        for segmentID in segmentIDs:
            self._comboBox.addItem(self._node.GetSegmentation().GetSegment(segmentID).GetName(), segmentID)
        if self._none and segmentIDs:
            self._comboBox.insertItem(0, "None", "")
        self._comboBox.setCurrentIndex(-1)
        self._comboBox.blockSignals(False)
        self._label.setVisible(bool(segmentIDs))
        self._comboBox.setVisible(bool(segmentIDs))
        message = "" if segmentIDs else "No node is selected" if self._node is None else "No segments in segmentation"
        self._message.setText(message)
        self._message.setVisible(bool(message))
        if not segmentIDs:
            return
        if self._segmentID in segmentIDs or (self._none and not self._segmentID):
            self._comboBox.blockSignals(True)
            self._comboBox.setCurrentIndex(self._comboBox.findData(self._segmentID))
            self._comboBox.blockSignals(False)
        else:
            self._comboBox.setCurrentIndex(int(self._none))

    def _onIndex(self, index: int) -> None:
        if self._node is not None:
            self._segmentID = self._comboBox.itemData(index) or ""
            self.currentSegmentChanged.emit(self._segmentID)

    def currentNode(self):
        return self._nodeSelector.currentNode()

    def currentNodeID(self) -> str:
        return self._nodeSelector.currentNodeID

    def setCurrentNode(self, node) -> None:
        self._nodeSelector.setCurrentNode(node)

    @Slot(str)
    def setCurrentNodeID(self, nodeID: str) -> None:
        self._nodeSelector.setCurrentNodeID(nodeID)

    def currentSegmentID(self) -> str:
        return self._segmentID

    def segmentIDs(self) -> list[str]:
        return [self._comboBox.itemData(index) for index in range(self._comboBox.count())]

    @Slot(str)
    def setCurrentSegmentID(self, segmentID: str) -> None:
        index = self._comboBox.findData(segmentID)
        if index >= 0:
            self._comboBox.setCurrentIndex(index)

    def _getNone(self) -> bool:
        return self._none

    def _setNone(self, enabled: bool) -> None:
        self._none = enabled
        self._populate()

    def _getEdit(self) -> bool:
        return self._nodeSelector.editEnabled

    def _setEdit(self, enabled: bool) -> None:
        self._nodeSelector.editEnabled = enabled

    def _getNodeVisible(self) -> bool:
        return not QtWidgets.QWidget.isHidden(self._nodeSelector)

    def _setNodeVisible(self, visible: bool) -> None:
        self._nodeSelector.setVisible(visible)
        self._nodeLabel.setVisible(visible)

    def _getHorizontal(self) -> bool:
        return self._horizontal

    def _setHorizontal(self, horizontal: bool) -> None:
        self._horizontal = horizontal

    def _getSelect(self) -> bool:
        return self._nodeSelector.selectNodeUponCreation

    def _setSelect(self, select: bool) -> None:
        self._nodeSelector.selectNodeUponCreation = select

    noneEnabled = Property(bool, _getNone, _setNone)
    editEnabled = Property(bool, _getEdit, _setEdit)
    segmentationNodeSelectorVisible = Property(bool, _getNodeVisible, _setNodeVisible)
    horizontalLayout = Property(bool, _getHorizontal, _setHorizontal)
    selectNodeUponCreation = Property(bool, _getSelect, _setSelect)


qMRMLLayoutWidget = pythonQt(_qMRMLLayoutWidget)
qMRMLWidget = pythonQt(_qMRMLWidget)
qMRMLSegmentSelectorWidget = pythonQt(_qMRMLSegmentSelectorWidget)
qSlicerScriptedLoadableModuleWidget = pythonQt(_qSlicerScriptedLoadableModuleWidget)

__all__ = [
    "qMRMLLayoutWidget",
    "qMRMLNodeComboBox",
    "qMRMLSegmentSelectorWidget",
    "qMRMLWidget",
    "qSlicerScriptedLoadableModuleWidget",
]
