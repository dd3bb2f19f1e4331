"""The stand-in for Slicer: it rejects unknown names, behaves as PythonQt and MRML, and renders correct pictures.

The panel of the module is tested in test_slicer_panel.py.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Annotated, Union

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import ctk  # noqa: E402
import qt  # noqa: E402
import slicer  # noqa: E402
import vtk  # noqa: E402
from slicer.parameterNodeWrapper import (  # noqa: E402
    Choice,
    Default,
    Maximum,
    Minimum,
    WithinRange,
    parameterNodeWrapper,
)
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic  # noqa: E402
from vtk.util.numpy_support import numpy_to_vtk  # noqa: E402

OWN = slicer_standin.sourceFolder() is None


@pytest.fixture(autouse=True)
def scene():
    yield slicer_standin.newScene()
    slicer_standin.processEvents()


# --------------------------------------------------------------------------------------------------------------------
# qt and ctk


def test_properties_are_attributes_and_getters_are_hidden_by_them():
    label = qt.QLabel("before")
    label.text = "after"
    assert label.text == "after"
    with pytest.raises(TypeError):
        label.text()


@pytest.mark.parametrize("name", ["txt", "setTxt", "minimumHeigth"])
def test_unknown_attribute_is_an_error(name):
    label = qt.QLabel()
    with pytest.raises(AttributeError):
        getattr(label, name)
    with pytest.raises(AttributeError):
        setattr(label, name, 1)


@pytest.mark.parametrize(("module", "name"), [(qt, "QDial"), (ctk, "ctkRangeSlider"), (slicer, "qMRMLTreeView")])
def test_class_that_is_not_listed_is_an_error(module, name):
    with pytest.raises(AttributeError):
        getattr(module, name)


def test_unknown_name_of_the_application_is_an_error():
    for owner in (slicer.app, slicer.modules, slicer.app.layoutManager()):
        with pytest.raises(AttributeError):
            owner.doWhatIMean  # noqa: B018


def test_read_only_property_cannot_be_written():
    with pytest.raises(AttributeError):
        qt.QComboBox().count = 3


def test_values_are_converted_as_in_pythonqt_and_others_rejected():
    bar = qt.QProgressBar()
    bar.value = 41.7
    assert bar.value == 41
    bar.enabled = 0
    assert bar.enabled is False
    for name, value in (("value", "40"), ("enabled", "yes"), ("format", None)):
        with pytest.raises(TypeError):
            setattr(bar, name, value)


def test_signals_connect_by_signature_and_by_name_and_can_be_called():
    button = qt.QPushButton()
    got = []

    def withArgument(checked):
        got.append(checked)

    def without():
        got.append("clicked")

    button.connect("clicked(bool)", withArgument)
    button.clicked.connect(without)
    button.click()
    assert got == [False, "clicked"]
    button.clicked()
    assert got == [False, "clicked"] * 2
    assert button.disconnect("clicked(bool)", withArgument)
    button.click()
    assert got == [False, "clicked"] * 2 + ["clicked"]


@pytest.mark.parametrize("signature", ["clicked(int)", "pressed(bool)", "clicked"])
def test_unknown_signal_is_an_error(signature):
    with pytest.raises((AttributeError, ValueError)):
        qt.QPushButton().connect(signature, lambda: None)


def test_exception_in_a_slot_reaches_the_test():
    button = qt.QPushButton()

    def slot():
        raise ZeroDivisionError

    button.connect("clicked()", slot)
    button.click()
    with pytest.raises(ZeroDivisionError):
        slicer_standin.processEvents()


def test_exception_in_an_observer_reaches_the_test(scene):
    def observer(caller, event):
        raise ZeroDivisionError

    scene.AddObserver(scene.NodeAddedEvent, observer)
    scene.AddNewNodeByClass("vtkMRMLModelNode")
    with pytest.raises(ZeroDivisionError):
        slicer_standin.processEvents()


def test_timer_runs_in_the_event_loop():
    ticks = []
    timer = qt.QTimer()
    timer.setInterval(5)
    timer.connect("timeout()", lambda: ticks.append(timer.active))
    timer.start()
    slicer_standin.waitFor(lambda: len(ticks) >= 3, 5)
    timer.stop()
    assert all(ticks)
    assert not timer.active


def test_collapsed_children_are_hidden_and_restored():
    button = ctk.ctkCollapsibleButton()
    layout = qt.QVBoxLayout(button)
    shown, hidden = qt.QLabel("shown"), qt.QLabel("hidden")
    for label in (shown, hidden):
        layout.addWidget(label)
    hidden.visible = False
    button.show()
    button.collapsed = True
    assert (shown.visible, hidden.visible) == (False, False)
    button.click()
    assert not button.collapsed
    assert (shown.visible, hidden.visible) == (True, False)
    button.deleteLater()


def test_dragging_a_slider_emits_every_step_and_without_tracking_only_the_last_value():
    slider = ctk.ctkSliderWidget()
    slider.maximum = 2
    slider.singleStep = 0.1
    changing, changed = [], []
    slider.connect("valueIsChanging(double)", changing.append)
    slider.connect("valueChanged(double)", changed.append)
    slider.tracking = False
    slicer_standin.drag(slider, 0.3, 0.7)
    assert changing == pytest.approx([0.3, 0.7])
    assert changed == pytest.approx([0.7])
    slider.tracking = True
    slicer_standin.drag(slider, 0.3, 1.2)
    assert changed == pytest.approx([0.7, 0.3, 1.2])


def test_typed_keys_reach_a_spin_box_one_by_one():
    box = qt.QDoubleSpinBox()
    values = []
    box.connect("valueChanged(double)", values.append)
    box.show()
    slicer_standin.typeText(box, "12.5")
    assert values == [1, 12, 12.5]
    box.keyboardTracking = False
    slicer_standin.typeText(box, "7.25", "\r")
    assert values[3:] == [7.25]
    slider = ctk.ctkSliderWidget()
    slider.show()
    slicer_standin.typeText(slider, "1.5")
    assert slider.value == 1.5
    for each in (box, slider):
        each.deleteLater()


@pytest.mark.parametrize(("kind", "name", "value"), [("QVBoxLayout", "spacing", 7), ("QProgressBar", "text", "50%")])
def test_a_property_with_a_virtual_getter_is_read_without_recursion(kind, name, value):
    thing = getattr(qt, kind)()
    if name == "spacing":
        thing.spacing = value
    else:
        thing.value = 50
    depth, frame, limit = 0, sys._getframe(), sys.getrecursionlimit()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    raised, hook = [], sys.unraisablehook
    sys.unraisablehook = raised.append
    sys.setrecursionlimit(depth + 30)
    try:
        assert getattr(thing, name) == value
    finally:
        sys.setrecursionlimit(limit)
        sys.unraisablehook = hook
    assert not raised


def test_clipboard_takes_a_text():
    qt.QApplication.clipboard().setText("report")
    assert slicer.app.clipboard().text() == "report"


# --------------------------------------------------------------------------------------------------------------------
# Dialogs


@pytest.mark.parametrize("agreed", [True, False])
def test_question_gets_the_tests_answer(agreed):
    slicer_standin.answer("Replace", agreed)
    assert slicer.util.confirmOkCancelDisplay("Replace the result?", detailedText="Implant") is agreed
    assert [(box.text, box.detailedText) for box in slicer_standin.shown()] == [("Replace the result?", "Implant")]


def test_unanswered_dialog_is_a_failure():
    with pytest.raises(slicer_standin.dialogs.UnansweredDialog):
        slicer.util.confirmYesNoDisplay("Really?")
    with pytest.raises(slicer_standin.dialogs.UnansweredDialog):
        slicer.util.errorDisplay("Broken")
    with pytest.raises(slicer_standin.dialogs.UnansweredDialog):
        qt.QFileDialog.getExistingDirectory(None, "Where to?")


def test_without_a_main_window_messages_are_only_logged():
    assert slicer.util.mainWindow() is not None
    slicer_standin.setMainWindow(False)
    assert slicer.util.mainWindow() is None
    slicer.util.errorDisplay("Broken")
    assert slicer_standin.shown() == []


# --------------------------------------------------------------------------------------------------------------------
# .ui files

FORM = """<ui version="4.0"><class>Form</class><widget class="qMRMLWidget" name="Form">
<layout class="QVBoxLayout" name="layout"><item>{}</item></layout></widget>
<customwidgets><customwidget><class>qMRMLWidget</class><extends>QWidget</extends></customwidget></customwidgets></ui>"""


def load(tmp_path, content: str):
    path = tmp_path / "form.ui"
    path.write_text(FORM.format(content), encoding="utf-8")
    return slicer.util.loadUI(str(path))


def test_widgets_have_the_properties_of_the_file(tmp_path):
    form = load(
        tmp_path,
        """<widget class="QSpinBox" name="count">
        <property name="value"><number>150</number></property>
        <property name="maximum"><number>200</number></property>
        <property name="toolTip"><string>How many</string></property>
        <property name="SlicerParameterName" stdset="0"><string>number</string></property></widget>""",
    )
    box = slicer.util.childWidgetVariables(form).count
    assert (box.value, box.maximum, box.property("SlicerParameterName")) == (150, 200, "number")
    # As Slicer makes rich text of tool tips.
    assert box.toolTip == "<p>How many</p>"
    assert slicer_standin.plainText(box.toolTip) == "How many"
    assert form.findChild(qt.QSpinBox, "count") is box


@pytest.mark.parametrize(
    "content",
    [
        '<widget class="QDial" name="dial"/>',
        '<widget class="ctkSliderWidget" name="undeclared"/>',
        '<widget class="QLabel" name="label"><property name="txt"><string>a</string></property></widget>',
        '<widget class="QLabel" name="label"><property name="Other" stdset="0"><string>a</string></property></widget>',
        '<widget class="QLabel" name="label"><property name="alignment"><set>Qt::AlignMiddle</set></property></widget>',
        '<layout class="QStackedLayout" name="stack"/>',
        '<widget class="QLabel" name="layout"/>',
    ],
)
def test_ui_file_with_unlisted_content_is_an_error(tmp_path, content):
    with pytest.raises((ValueError, AttributeError)):
        load(tmp_path, content)


# --------------------------------------------------------------------------------------------------------------------
# Selectors of nodes and segments


def test_node_selector_follows_the_scene(scene):
    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    box.showChildNodeTypes = False
    box.noneEnabled = True
    box.setMRMLScene(scene)
    chosen = []
    box.connect("currentNodeChanged(vtkMRMLNode*)", chosen.append)
    for name in ("vtkMRMLScalarVolumeNode", "vtkMRMLLabelMapVolumeNode", "vtkMRMLModelNode"):
        scene.AddNewNodeByClass(name)
    assert box.nodeCount() == 1
    assert box.currentNode() is None
    box.setCurrentNode(box.nodeFromIndex(0))
    scene.RemoveNode(box.currentNode())
    assert [node is None for node in chosen] == [False, True]
    box.setMRMLScene(None)


def test_segment_selector_selects_the_first_segment_and_emits_a_signal(scene):
    selector = slicer.qMRMLSegmentSelectorWidget()
    selector.setMRMLScene(scene)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    selected = []
    selector.connect("currentSegmentChanged(QString)", selected.append)
    selector.setCurrentNode(node)
    first = node.GetSegmentation().AddEmptySegment("a", "A")
    second = node.GetSegmentation().AddEmptySegment("b", "B")
    assert selected == [first]
    selector.setCurrentSegmentID(second)
    node.GetSegmentation().RemoveSegment(second)
    assert selected == [first, second, first]
    selector.setMRMLScene(None)


# --------------------------------------------------------------------------------------------------------------------
# The parameter node


@parameterNodeWrapper
class Parameters:
    node: Union[slicer.vtkMRMLSegmentationNode, slicer.vtkMRMLModelNode, None]  # noqa: UP007 (what Slicer 5.10 reads)
    text: str = "nothing"
    share: Annotated[float, WithinRange(0, 2)] = 1
    count: Annotated[int, Minimum(1), Maximum(5)] = 1
    kind: Annotated[str, Choice(["one", "two"]), Default("two")]
    on: bool = True
    folder: pathlib.Path = pathlib.Path("/tmp")


class ThingLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return Parameters(super().getParameterNode())


def test_parameters_have_their_defaults():
    parameters = ThingLogic().getParameterNode()
    assert (parameters.node, parameters.text, parameters.share, parameters.count) == (None, "nothing", 1, 1)
    assert (parameters.kind, parameters.on, parameters.folder) == ("two", True, pathlib.Path("/tmp"))


def test_parameters_are_stored_in_the_scene():
    first = ThingLogic().getParameterNode()
    first.share = 0.25
    first.on = False
    second = ThingLogic().getParameterNode()
    assert (second.share, second.on) == (0.25, False)


@pytest.mark.parametrize("extension", ["mrml", "mrb"])
def test_parameters_are_loaded_with_the_scene(scene, tmp_path, extension):
    parameters = ThingLogic().getParameterNode()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Head")
    node.GetSegmentation().AddEmptySegment("bone", "Bone")
    parameters.node = node
    parameters.share = 0.75
    parameters.kind = "one"
    path = str(tmp_path / f"scene.{extension}")
    if extension == "mrml":
        slicer.util.saveNode(node, str(tmp_path / "head.seg.nrrd"))
    assert slicer.util.saveScene(path)
    scene.Clear()
    assert ThingLogic().getParameterNode().node is None
    slicer.util.loadScene(path)
    restored = ThingLogic().getParameterNode()
    assert (restored.node.GetName(), restored.share, restored.kind) == ("Head", 0.75, "one")


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("share", 2.5, ValueError),
        ("share", "1", TypeError),
        ("count", 0, ValueError),
        ("count", 6, ValueError),
        ("kind", "three", ValueError),
        ("on", "yes", TypeError),
        ("text", None, ValueError),
    ],
)
def test_wrong_values_are_rejected(name, value, error):
    parameters = ThingLogic().getParameterNode()
    before = getattr(parameters, name)
    with pytest.raises(error):
        setattr(parameters, name, value)
    assert getattr(parameters, name) == before


def test_a_value_that_is_typed_is_written_back_under_the_cursor(scene):
    parameters = ThingLogic().getParameterNode()
    box = qt.QDoubleSpinBox()
    box.setProperty("SlicerParameterName", "share")
    tag = parameters.connectParametersToGui({"share": box})
    box.show()
    slicer_standin.typeText(box, "0.7")
    assert parameters.share == 0
    box.keyboardTracking = False
    slicer_standin.typeText(box, "0.7", "\r")
    assert parameters.share == 0.7
    parameters.disconnectGui(tag)
    box.deleteLater()


@pytest.mark.parametrize("extension", ["mrml", "mrb"])
def test_a_wrapper_misses_the_node_that_an_import_adds_later(scene, tmp_path, extension):
    # The parameter node is first in the file; its contents are copied before the model is in the scene.
    parameters = ThingLogic().getParameterNode()
    parameters.node = scene.AddNewNodeByClass("vtkMRMLModelNode", "Part")
    parameters.node.SetAndObserveMesh(sphere(3))
    path = str(tmp_path / f"scene.{extension}")
    slicer.util.saveNode(parameters.node, str(tmp_path / "part.vtk"))
    assert slicer.util.saveScene(path)
    scene.Clear()
    kept = ThingLogic().getParameterNode()
    slicer.util.loadScene(path)
    assert kept.node is None
    assert ThingLogic().getParameterNode().node.GetName() == "Part"


def test_node_of_another_class_is_rejected(scene):
    with pytest.raises((TypeError, ValueError)):
        ThingLogic().getParameterNode().node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")


def form() -> qt.QWidget:
    """A widget for each of the parameters."""
    top = qt.QWidget()
    layout = qt.QVBoxLayout(top)
    selector = slicer.qMRMLNodeComboBox()
    selector.noneEnabled = True
    for name, widget in (
        ("node", selector),
        ("text", qt.QLineEdit()),
        ("share", ctk.ctkSliderWidget()),
        ("count", qt.QSpinBox()),
        ("kind", qt.QComboBox()),
        ("on", qt.QCheckBox()),
        ("folder", ctk.ctkPathLineEdit()),
    ):
        widget.objectName = name
        widget.setProperty("SlicerParameterName", name)
        layout.addWidget(widget)
    selector.setMRMLScene(slicer.mrmlScene)
    return top


def test_widgets_and_parameters_update_each_other(scene):
    top = form()
    ui = slicer.util.childWidgetVariables(top)
    parameters = ThingLogic().getParameterNode()
    tag = parameters.connectGui(ui)
    assert (ui.share.maximum, ui.count.maximum, ui.kind.count) == (2, 5, 2)
    assert (ui.text.text, ui.share.value, ui.kind.currentText, ui.on.checked) == ("nothing", 1, "two", True)
    ui.text.text = "skull"
    ui.share.value = 0.5
    ui.count.value = 4
    ui.kind.currentIndex = 0
    ui.on.click()
    ui.folder.currentPath = "/elsewhere"
    node = scene.AddNewNodeByClass("vtkMRMLModelNode")
    ui.node.setCurrentNode(node)
    assert (parameters.text, parameters.share, parameters.count, parameters.kind) == ("skull", 0.5, 4, "one")
    assert (parameters.on, parameters.folder, parameters.node) == (False, pathlib.Path("/elsewhere"), node)
    parameters.share = 1.75
    parameters.node = None
    assert (ui.share.value, ui.node.currentNode()) == (1.75, None)
    parameters.disconnectGui(tag)
    ui.share.value = 0.1
    assert parameters.share == 1.75
    ui.node.setMRMLScene(None)


def test_change_of_a_parameter_is_a_modified_event():
    parameters = ThingLogic().getParameterNode()
    events = []
    tag = parameters.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: events.append(parameters.share))
    parameters.share = 0.5
    with slicer.util.NodeModify(parameters):
        parameters.share = 0.6
        parameters.count = 2
    parameters.RemoveObserver(tag)
    parameters.share = 0.9
    assert events == [0.5, 0.6]


# --------------------------------------------------------------------------------------------------------------------
# The scene


def test_scene_has_undo_levels_of_earlier_work(scene):
    assert scene.GetNumberOfUndoLevels() == 1
    assert not scene.GetUndoFlag()


def test_roi_hides_its_rotation_handles_by_default(scene):
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    roi.CreateDefaultDisplayNodes()
    assert not roi.GetDisplayNode().GetRotationHandleVisibility()


def test_every_data_node_has_its_item_in_the_subject_hierarchy(scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Head")
    hidden = slicer.vtkMRMLModelNode()
    hidden.SetHideFromEditors(True)
    scene.AddNode(hidden)
    item = hierarchy.GetItemByDataNode(node)
    assert hierarchy.GetItemName(item) == "Head"
    assert not hierarchy.GetItemByDataNode(hidden)
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Result")
    hierarchy.SetItemParent(item, folder)
    assert hierarchy.GetItemParent(item) == folder
    count = hierarchy.GetNumberOfItems()
    scene.RemoveNode(node)
    assert hierarchy.GetNumberOfItems() == count - 1


def test_folders_are_loaded_with_the_scene(scene, tmp_path):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    node = scene.AddNewNodeByClass("vtkMRMLModelNode", "Part")
    node.SetAndObserveMesh(sphere(3))
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Result")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), folder)
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.util.loadScene(path)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(slicer.util.getNode("Part"))
    assert hierarchy.GetItemName(hierarchy.GetItemParent(item)) == "Result"


def test_default_layout_is_in_the_scene(scene):
    names = slicer.app.layoutManager().sliceViewNames()
    assert sorted(names) == ["Green", "Red", "Yellow"]
    for name in names:
        assert scene.GetNodeByID(f"vtkMRMLSliceNode{name}").GetLayoutName() == name
        assert scene.GetNodeByID(f"vtkMRMLSliceCompositeNode{name}") is not None
    assert scene.GetFirstNodeByClass("vtkMRMLViewNode") is not None


def test_click_in_a_slice_places_a_point_by_slicers_own_code(scene):
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    node.CreateDefaultDisplayNodes()
    logic, interaction = slicer.modules.markups.logic(), slicer.app.applicationLogic().GetInteractionNode()
    slicer_standin.clickInSlice("Red", (1, 2, 3))
    assert node.GetNumberOfControlPoints() == 0, "the mouse does not place points"
    logic.SetActiveList(node)
    logic.StartPlaceMode(False)
    slicer_standin.clickInSlice("Yellow", (10, -20, 30))
    assert node.GetNumberOfControlPoints() == 1
    assert node.GetNthControlPointPositionStatus(0) == node.PositionDefined
    assert np.allclose(node.GetNthControlPointPositionWorld(0), (10, -20, 30), atol=1)
    assert interaction.GetCurrentInteractionMode() == interaction.ViewTransform
    slicer_standin.clickInSlice("Green", (0, 0, 0))
    assert node.GetNumberOfControlPoints() == 1


def test_click_on_the_check_box_of_a_cell_toggles_it_and_a_click_beside_it_does_not():
    table = qt.QTableWidget(2, 2)
    for row in range(2):
        item = qt.QTableWidgetItem("number")
        item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
        item.setCheckState(qt.Qt.Unchecked)
        table.setItem(row, 0, item)
        table.setItem(row, 1, qt.QTableWidgetItem("text"))
    table.resize(300, 200)
    table.show()
    slicer_standin.processEvents()
    clicked = []
    table.connect("cellClicked(int,int)", lambda row, column: clicked.append((row, column)))
    slicer_standin.clickOnCell(table, 1, 0, onBox=True)
    slicer_standin.clickOnCell(table, 0, 1)
    assert [table.item(row, 0).checkState() == qt.Qt.Checked for row in range(2)] == [False, True]
    assert clicked == [(1, 0), (0, 1)]
    table.close()


@pytest.mark.parametrize("name", ["head.nrrd", "head.nii.gz", "part.stl", "part.ply", "head.seg.nrrd"])
def test_files_are_read_as_written(scene, tmp_path, name):
    if name.startswith("part"):
        node = scene.AddNewNodeByClass("vtkMRMLModelNode")
        node.SetAndObserveMesh(sphere(5))
    elif name.endswith("seg.nrrd"):
        node = ball(scene)
    else:
        node = slicer.util.addVolumeFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    assert slicer.util.saveNode(node, str(tmp_path / name))
    read = slicer.util.loadNodeFromFile(str(tmp_path / name))
    assert read.GetClassName() == node.GetClassName()
    if node.IsA("vtkMRMLVolumeNode"):
        assert np.array_equal(slicer.util.arrayFromVolume(read), slicer.util.arrayFromVolume(node))
    elif node.IsA("vtkMRMLModelNode"):
        assert read.GetMesh().GetBounds() == pytest.approx(node.GetMesh().GetBounds(), abs=1e-3)


# --------------------------------------------------------------------------------------------------------------------
# Pictures


def sphere(radius: float, centre=(0.0, 0.0, 0.0)):
    source = vtk.vtkSphereSource()
    source.SetRadius(radius)
    source.SetCenter(*centre)
    source.SetThetaResolution(40)
    source.SetPhiResolution(40)
    source.Update()
    return source.GetOutput()


def ball(scene, colour=(0.0, 1.0, 0.0)):
    """A segmentation with a ball of 20 mm about the origin."""
    grid = np.mgrid[:50, :50, :50] - 24.5
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(50, 50, 50)
    image.SetOrigin(-24.5, -24.5, -24.5)
    mask = ((grid**2).sum(axis=0) < 20**2).astype(np.uint8)
    image.GetPointData().SetScalars(numpy_to_vtk(mask.ravel(), deep=True))
    segment = slicer.vtkSegment()
    segment.SetName("Ball")
    segment.SetColor(*colour)
    segment.AddRepresentation("Binary labelmap", image)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Ball")
    node.CreateDefaultDisplayNodes()
    node.GetSegmentation().AddSegment(segment, "ball")
    node.CreateClosedSurfaceRepresentation()
    return node


def green(pixels) -> int:
    red, greenish, blue = np.moveaxis(pixels.astype(int), -1, 0)
    return int(((greenish > red + 40) & (greenish > blue + 40)).sum())


def test_three_d_shows_visible_segments_in_their_colour(scene, tmp_path):
    node = ball(scene)
    shown = green(slicer_standin.views.renderThreeD(tmp_path / "3d.png", (300, 300)))
    assert shown > 300 * 300 * 0.1
    node.GetDisplayNode().SetSegmentVisibility("ball", False)
    assert green(slicer_standin.views.renderThreeD(tmp_path / "3d.png", (300, 300))) == 0
    assert (tmp_path / "3d.png").stat().st_size > 0


def test_three_d_shows_models_under_their_parent_transform(scene, tmp_path):
    for x, colour in ((-30, (1, 0, 0)), (0, (0, 1, 0))):
        node = scene.AddNewNodeByClass("vtkMRMLModelNode")
        node.SetAndObserveMesh(sphere(10, (x, 0, 0)))
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetColor(*colour)

    def middleOfGreen() -> float:
        pixels = slicer_standin.views.renderThreeD(tmp_path / "3d.png", (300, 200), lookFrom=(0, 1, 0)).astype(int)
        mask = (pixels[..., 1] > pixels[..., 0] + 40) & (pixels[..., 1] > pixels[..., 2] + 40)
        return float(np.nonzero(mask)[1].mean())

    # In the view from the front, the patient's right side is on the left.
    before = middleOfGreen()
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, -60)
    transform.SetMatrixTransformToParent(matrix)
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert (before - 150) * (middleOfGreen() - 150) < 0


def test_three_d_uses_the_camera_of_the_scene(scene, tmp_path):
    ball(scene)
    whole = green(slicer_standin.views.renderThreeD(tmp_path / "3d.png", (300, 300)))
    camera = scene.GetFirstNodeByClass("vtkMRMLCameraNode")
    camera.SetFocalPoint(0, 0, 0)
    camera.SetPosition(0, 500, 0)
    far = green(slicer_standin.views.renderThreeD(tmp_path / "3d.png", (300, 300)))
    assert 0 < far < whole / 4
    slicer.util.resetThreeDViews()
    assert green(slicer_standin.views.renderThreeD(tmp_path / "3d.png", (300, 300))) == pytest.approx(whole, rel=0.1)


def test_slice_of_a_lone_segmentation_is_fitted_to_it(scene, tmp_path):
    node = ball(scene)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    for axis in range(3):
        matrix.SetElement(axis, 3, 300)
    transform.SetMatrixTransformToParent(matrix)
    node.SetAndObserveTransformNodeID(transform.GetID())
    scene.GetNodeByID("vtkMRMLSliceNodeGreen").SetSliceOffset(300)
    pixels = slicer_standin.views.renderSlice("Green", tmp_path / "green.png", (200, 200))
    assert 0.3 * 200 * 200 < green(pixels) < 0.8 * 200 * 200


def test_slices_show_the_volume_and_the_segments_at_the_slice_offset(scene, tmp_path):
    ball(scene)
    node = scene.GetNodeByID("vtkMRMLSliceNodeRed")
    areas = []
    for offset in (0, 15, 23):
        node.SetSliceOffset(offset)
        pixels = slicer_standin.views.renderSlice("Red", tmp_path / "red.png", (200, 200), fit=False)
        areas.append(green(pixels))
    assert areas[0] > areas[1] > areas[2] == 0


def test_a_segment_is_blended_with_the_image_below_it(scene, tmp_path):
    volume = slicer.util.addVolumeFromArray(np.full((80, 80, 80), 1000, np.int16), np.diag([1.0, 1, 1, 1]), "CT")
    volume.SetOrigin(-40, -40, -40)
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().AutoWindowLevelOff()
    volume.GetDisplayNode().SetWindowLevel(2000, 1000)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    ball(scene).GetDisplayNode().SetVisibility2DOutline(False)
    scene.GetNodeByID("vtkMRMLSliceNodeRed").SetSliceOffset(0)
    pixels = slicer_standin.views.renderSlice("Red", tmp_path / "red.png", (200, 200)).astype(int)
    grey, blended = pixels[60, 60], pixels[100, 100]
    assert grey == pytest.approx([127, 127, 127], abs=3)
    assert blended[1] > 150 and blended[0] == pytest.approx(64, abs=40), blended


def test_foreground_is_blended_and_thresholded(scene, tmp_path):
    values = np.zeros((40, 40, 40), np.int16)
    values[:, :, 20:] = 1000
    volume = slicer.util.addVolumeFromArray(values, np.diag([1.0, 1, 1, 1]), "CT")
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    preview = slicer.vtkMRMLScalarVolumeNode()
    preview.SetHideFromEditors(True)
    preview = scene.AddNode(preview)
    preview.SetAndObserveImageData(volume.GetImageData())
    preview.CreateDefaultDisplayNodes()
    display = preview.GetDisplayNode()
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGreen")
    display.AutoWindowLevelOff()
    display.SetWindowLevel(2, 500)
    display.AutoThresholdOff()
    display.SetThreshold(500, 3000)
    display.ApplyThresholdOn()

    def pictured() -> np.ndarray:
        return slicer_standin.views.renderSlice("Red", tmp_path / "red.png", (200, 200))

    plain = pictured()
    assert green(plain) == 0
    slicer.util.setSliceViewerLayers(foreground=preview, foregroundOpacity=0.5)
    half = green(pictured())
    assert 0.1 * 200 * 200 < half < 0.6 * 200 * 200
    display.SetThreshold(1500, 3000)
    assert np.array_equal(pictured(), plain)


# --------------------------------------------------------------------------------------------------------------------
# The module's panel in the stand-in


@pytest.fixture
def panel(scene):
    _module, widget = slicer_standin.openModule()
    yield widget
    slicer_standin.closeModule(widget)


def test_panel_opens_and_shows_what_is_missing(scene, panel):
    button = panel.ui.completeButton
    assert not button.enabled
    assert slicer_standin.plainText(button.toolTip) == "Choose a CT or a segmentation of the skull"
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Head")
    panel.ui.inputSelector.setCurrentNode(node)
    slicer_standin.processEvents()
    assert not button.enabled
    assert "no segments" in button.toolTip
    node.GetSegmentation().AddEmptySegment("bone", "Bone")
    slicer_standin.processEvents()
    assert button.enabled


def test_picture_of_the_panel_contains_text(panel, tmp_path):
    slicer_standin.grabPanel(panel, tmp_path / "panel.png")
    image = qt.QImage(str(tmp_path / "panel.png"))
    assert image.width() == 440
    dark = sum(image.pixelColor(x, y).lightness() < 90 for x in range(440) for y in range(image.height()))
    assert dark > 1000


def test_run_ends_with_a_picture_of_the_result(scene, panel, completion, tmp_path):
    from SkullVAEModule.completion import CompletionResult
    from SkullVAEModule.masks import Mask
    from slicer_scenes import KnownRun

    class Completed(KnownRun):
        """Ends with a completion that other tests use as well."""

        def result(self) -> CompletionResult:
            masks = Mask.of(completion.completed.array), Mask.of(completion.implant.array)
            return CompletionResult(*masks, completion.report)

    panel.logic._createRun = Completed()
    node = skull(scene, completion.bone)
    bone = node.GetSegmentation().GetSegment("skull").GetRepresentation("Binary labelmap")
    converter = slicer.vtkSegmentationConverter
    node.GetSegmentation().SetConversionParameter(
        converter.GetReferenceImageGeometryParameterName(), converter.SerializeImageGeometry(bone)
    )
    panel.ui.inputSelector.setCurrentNode(node)
    panel.ui.completeButton.click()
    slicer_standin.waitFor(lambda: not panel.logic.running, 300)
    assert panel.logic.added is not None, panel.ui.statusLabel.text
    node.CreateClosedSurfaceRepresentation()
    picture = slicer_standin.views.screenshot(panel, tmp_path / "window.png")
    assert picture.shape[1] == 1680
    # Panel, 3D view and slices have different colours, so no area is empty.
    assert len(np.unique(picture.reshape(-1, 3)[::7], axis=0)) > 300


def skull(scene, volume):
    """The bone of a volume as a segmentation node with the segment "skull"."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(volume.array.shape)
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(volume.affine, float).ravel().tolist())
    image.SetGeometryFromImageToWorldMatrix(matrix)
    flat = np.ascontiguousarray(volume.array.transpose(2, 1, 0)).astype(np.uint8).ravel()
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    segment = slicer.vtkSegment()
    segment.SetName("Skull")
    segment.SetColor(241 / 255, 213 / 255, 144 / 255)
    segment.AddRepresentation("Binary labelmap", image)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Generated skull")
    node.CreateDefaultDisplayNodes()
    node.GetSegmentation().AddSegment(segment, "skull")
    return node


@pytest.mark.skipif(not OWN, reason="Slicer's own parameter nodes support other types as well")
def test_own_wrapper_rejects_a_type_it_cannot_store():
    with pytest.raises(TypeError):

        @parameterNodeWrapper
        class Other:
            thing: complex = 1j
