"""Pictures of the scene as Slicer's views show it, rendered off-screen by Slicer's own displayable managers.

renderThreeD, renderSlice and renderSlices save PNG files; screenshot combines the panel and the four views as Slicer's
window does. The pictures depend only on the display nodes, slice nodes and composite nodes of the scene.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from vtk.util.numpy_support import vtk_to_numpy

from .layout import SLICE_VIEWS

_IN_3D = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)
_IN_SLICES = (
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)
_BAR = 22

# Direction (right, anterior, superior) from which the camera looks until it is moved.
DEFAULT_LOOK_FROM = (0.55, 0.75, 0.35)


def _current():
    return slicer.app._views


class _Window:
    """An off-screen window with one view's renderer, filled by Slicer's displayable managers."""

    def __init__(self, factory, managers: tuple[str, ...], node):
        factory.SetMRMLApplicationLogic(_current().applicationLogic)
        for name in managers:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        # Suppresses VTK's warning that there is no X server; VTK then uses EGL.
        vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_ERROR)
        self.window = vtk.vtkRenderWindow()
        vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_WARNING)
        self.window.SetOffScreenRendering(True)
        self.window.SetAlphaBitPlanes(True)
        self.window.SetMultiSamples(0)
        self.renderer = vtk.vtkRenderer()
        self.window.AddRenderer(self.renderer)
        # The image of a slice view, over which Slicer's displayable managers draw in a layer of their own.
        self.image = None
        self.interactor = vtk.vtkGenericRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.group = factory.InstantiateDisplayableManagers(self.renderer)
        self.group.SetMRMLDisplayableNode(node)
        self.style = None

    @classmethod
    def of(cls, key: str, *arguments):
        """The window of that view, one per scene, since further windows would observe the scene as well."""
        windows = _current().windows
        if key not in windows:
            windows[key] = cls(*arguments)
        return windows[key]

    def picture(self) -> np.ndarray:
        """(height, width, 3) uint8, the first row at the top."""
        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _depth = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1].copy()

    def below(self):
        """The renderer of the image, in the layer below everything else."""
        if self.image is None:
            self.image = vtk.vtkRenderer()
            self.image.InteractiveOff()
            self.window.SetNumberOfLayers(2)
            self.renderer.SetLayer(1)
            self.window.AddRenderer(self.image)
        return self.image

    def listen(self, logic):
        """The interactor, whose events are processed by Slicer's own interactor style of a slice view."""
        if self.style is None:
            events = vtk.vtkInteractorStyleUser()
            self.interactor.SetInteractorStyle(events)
            self.style = slicer.vtkMRMLSliceViewInteractorStyle()
            self.style.SetSliceLogic(logic)
            self.style.SetDisplayableManagers(self.group)
            self.style.SetInteractor(self.interactor)
            self.interactor.Initialize()
        return self.interactor

    def click(self, logic, x: int, y: int, button: str) -> None:
        """Move the mouse to a pixel and click."""
        self.listen(logic)
        self.interactor.InvokeEvent("EnterEvent")
        # Two moves, since the first one makes the point that then follows the mouse.
        for event in ("MouseMoveEvent", "MouseMoveEvent", f"{button}ButtonPressEvent", f"{button}ButtonReleaseEvent"):
            self.interactor.SetEventInformation(x, y)
            self.interactor.InvokeEvent(event)
        self.interactor.InvokeEvent("LeaveEvent")

    def release(self) -> None:
        if self.style is not None:
            self.style.SetInteractor(None)
            self.style.SetDisplayableManagers(None)
        # Suppresses harmless messages of Slicer's view manager about the removed view.
        vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
        self.group.SetMRMLDisplayableNode(None)
        self.group.SetRenderer(None)
        vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_WARNING)
        self.window.Finalize()


def _threeD(size: tuple[int, int], lookFrom, zoom: float) -> np.ndarray:
    views = _current()
    node = views.viewNode
    node.SetBoxVisible(False)
    node.SetAxisLabelsVisible(False)
    view = _Window.of("1", slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance(), _IN_3D, node)
    view.window.SetSize(*size)
    renderer = view.renderer
    if not renderer.GetUseFXAA():
        renderer.SetUseFXAA(True)
        renderer.SetUseDepthPeeling(True)
        renderer.SetMaximumNumberOfPeels(20)
        lights = vtk.vtkLightKit()
        lights.SetKeyLightIntensity(0.9)
        lights.AddLightsToRenderer(renderer)
    if lookFrom is not None or views.cameraIsUntouched():
        camera = renderer.GetActiveCamera()
        direction = np.asarray(lookFrom if lookFrom is not None else DEFAULT_LOOK_FROM, float)
        centre = np.array(renderer.ComputeVisiblePropBounds()).reshape(3, 2).mean(axis=1)
        camera.SetFocalPoint(*centre)
        camera.SetPosition(*(centre + 1000 * direction / np.linalg.norm(direction)))
        camera.SetViewUp(0, 0, 1)
        renderer.ResetCamera()
        camera.Zoom(zoom)
        views.rememberCamera()
    renderer.ResetCameraClippingRange()
    return view.picture()


def _fit(logic) -> None:
    """Fit a slice view to all data; the offset of the slice is kept."""
    node, composite = logic.GetSliceNode(), logic.GetSliceCompositeNode()
    offset = logic.GetSliceOffset()
    if composite.GetBackgroundVolumeID() or composite.GetForegroundVolumeID() or composite.GetLabelVolumeID():
        logic.FitSliceToAll()
        logic.SetSliceOffset(offset)
        return
    # Slicer fits slices to volumes only, so a scene with segmentations only is fitted here.
    shown = [each for each in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if each.GetDisplayVisibility()]
    boxes = []
    for segmentation in shown:
        bounds = [0.0] * 6
        segmentation.GetRASBounds(bounds)
        if bounds[0] <= bounds[1]:
            boxes.append(np.reshape(bounds, (3, 2)))
    if not boxes:
        return
    low, high = np.min([box[:, 0] for box in boxes], axis=0), np.max([box[:, 1] for box in boxes], axis=0)
    toRAS = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
    extent = np.abs(toRAS[:3, :2].T) @ (high - low) * 1.15
    columns, rows, _one = node.GetDimensions()
    millimetres = max(extent[0] / columns, extent[1] / rows)
    node.SetFieldOfView(millimetres * columns, millimetres * rows, node.GetFieldOfView()[2])
    for axis, value in enumerate((low + high) / 2):
        node.GetSliceToRAS().SetElement(axis, 3, value)
    node.UpdateMatrices()
    logic.SetSliceOffset(offset)


def _slice(name: str, size: tuple[int, int], fit: bool) -> np.ndarray:
    logic = _current().sliceLogics[name]
    node = logic.GetSliceNode()
    logic.ResizeSliceNode(*size)
    if fit:
        _fit(logic)
    view = _Window.of(name, slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), _IN_SLICES, node)
    view.window.SetSize(*size)
    logic.UpdateImageData()
    connection = logic.GetImageDataConnection()
    background = vtk.vtkActor2D()
    if connection is not None:
        mapper = vtk.vtkImageMapper()
        mapper.SetInputConnection(connection)
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        background.SetMapper(mapper)
        view.below().AddViewProp(background)
    view.below().SetBackground(0, 0, 0)
    try:
        return view.picture()
    finally:
        view.below().RemoveViewProp(background)


def interactor(name: str, size: tuple[int, int] = (400, 400)):
    """The interactor of a slice view, which processes its events."""
    _slice(name, size, fit=False)
    return _current().windows[name].listen(_current().sliceLogics[name])


def click(name: str, ras, button: str = "Left", size: tuple[int, int] = (400, 400)) -> None:
    """Click on a point (R, A, S) of a slice view, which is moved to the point."""
    node = _current().sliceLogics[name].GetSliceNode()
    node.JumpSliceByCentering(*ras)
    _slice(name, size, fit=False)
    toXY = np.linalg.inv(slicer.util.arrayFromVTKMatrix(node.GetXYToRAS()))
    x, y, _z, _one = toXY @ [*ras, 1.0]
    _current().windows[name].click(_current().sliceLogics[name], round(x), round(y), button)


# --------------------------------------------------------------------------------------------------------------------
# Files


def renderThreeD(path, size: tuple[int, int] = (900, 700), lookFrom=None, zoom: float = 1.25) -> np.ndarray:
    """Save the 3D view; returns the picture's pixels.

    lookFrom: direction (R, A, S) from which the camera shows the whole scene. Without it, a camera node that was moved
    is used as it is; zoom is for a camera that was not moved.
    """
    return _save(_threeD(size, lookFrom, zoom), path)


def renderSlice(name: str, path, size: tuple[int, int] = (500, 500), fit: bool = True) -> np.ndarray:
    """Save one slice view ("Red", "Green" or "Yellow") at its current offset."""
    return _save(_slice(name, size, fit), path)


def renderSlices(path, size: tuple[int, int] = (450, 450), fit: bool = True) -> np.ndarray:
    """Save the three slice views, each with its coloured bar."""
    width, height = size
    canvas = _canvas(3 * width + 4, height)
    painter = QtGui.QPainter(canvas)
    for index, view in enumerate(SLICE_VIEWS):
        _paintSlice(painter, view, QtCore.QRect(index * (width + 2), 0, width, height), fit)
    painter.end()
    return _saveCanvas(canvas, path)


def screenshot(
    widget,
    path,
    size: tuple[int, int] = (1680, 1000),
    scrollTo: str | None = None,
    lookFrom=None,
    zoom: float = 1.25,
    fit: bool = True,
    panelWidth: int = 460,
) -> np.ndarray:
    """Save panel and views in the arrangement of Slicer's window.

    scrollTo: name of the panel's widget to scroll to if the panel is higher than the window.
    """
    width, height = size
    canvas = _canvas(width, height)
    painter = QtGui.QPainter(canvas)
    painter.setRenderHint(QtGui.QPainter.RenderHint.Antialiasing)
    _paintPanel(painter, widget, QtCore.QRect(0, 0, panelWidth, height), scrollTo)
    left = panelWidth + 3
    sliceWidth = (width - left - 4) // 3
    sliceHeight = min(sliceWidth + _BAR, height // 2)
    top = height - sliceHeight - 2
    _paintBar(painter, QtCore.QRect(left, 0, width - left, _BAR), QtGui.QColor(150, 160, 220), "1", "", None)
    pixels = _threeD((width - left, top - _BAR), lookFrom, zoom)
    painter.drawImage(left, _BAR, _image(pixels))
    for index, view in enumerate(SLICE_VIEWS):
        place = QtCore.QRect(left + index * (sliceWidth + 2), top + 2, sliceWidth, sliceHeight)
        _paintSlice(painter, view, place, fit)
    painter.end()
    return _saveCanvas(canvas, path)


# --------------------------------------------------------------------------------------------------------------------
# Painting


def _canvas(width: int, height: int) -> QtGui.QImage:
    canvas = QtGui.QImage(width, height, QtGui.QImage.Format.Format_RGB888)
    canvas.fill(QtGui.QColor(70, 70, 74))
    return canvas


def _image(pixels: np.ndarray) -> QtGui.QImage:
    height, width, _channels = pixels.shape
    return QtGui.QImage(pixels.tobytes(), width, height, 3 * width, QtGui.QImage.Format.Format_RGB888).copy()


def _panel(widget, width: int) -> QtGui.QImage:
    frame = widget.parent
    layout = QtWidgets.QWidget.layout(frame)
    QtWidgets.QWidget.resize(frame, width, 100)
    QtWidgets.QApplication.processEvents()
    layout.activate()
    QtWidgets.QWidget.resize(frame, width, max(layout.totalSizeHint().height(), layout.totalHeightForWidth(width)))
    QtWidgets.QApplication.processEvents()
    return QtWidgets.QWidget.grab(frame).toImage()


def _paintPanel(painter: QtGui.QPainter, widget, place: QtCore.QRect, scrollTo: str | None) -> None:
    """Draw the module's name and the panel below it, with a scroll bar if the panel does not fit."""
    header = 36
    palette = QtGui.QGuiApplication.palette()
    painter.fillRect(place, palette.window())
    _paintHeader(painter, QtCore.QRect(place.left(), place.top(), place.width(), header))
    room = QtCore.QRect(place.left(), place.top() + header + 2, place.width(), place.height() - header - 2)
    panel = _panel(widget, place.width())
    if panel.height() <= room.height():
        painter.drawImage(room.left(), room.top(), panel)
        return
    bar = 12
    panel = _panel(widget, place.width() - bar)
    hidden = max(0, panel.height() - room.height())
    start = 0
    if scrollTo is not None:
        target = getattr(widget.ui, scrollTo)
        start = QtWidgets.QWidget.mapTo(target, widget.parent, QtCore.QPoint(0, 0)).y() - 10
        start = min(max(start, 0), hidden)
    painter.drawImage(room.left(), room.top(), panel, 0, start, panel.width(), room.height())
    groove = QtCore.QRect(room.right() - bar + 1, room.top(), bar, room.height())
    painter.fillRect(groove, palette.window().color().darker(108))
    length = room.height() * room.height() // panel.height()
    handle = QtCore.QRectF(groove.left() + 2, groove.top(), bar - 4, length)
    handle.translate(0, start * (room.height() - length) / hidden if hidden else 0)
    painter.setPen(QtCore.Qt.PenStyle.NoPen)
    painter.setBrush(palette.window().color().darker(145))
    painter.drawRoundedRect(handle, 4, 4)


def _paintHeader(painter: QtGui.QPainter, place: QtCore.QRect) -> None:
    """Draw the line above the panel with the selector of modules."""
    palette = QtGui.QGuiApplication.palette()
    painter.setRenderHint(QtGui.QPainter.RenderHint.Antialiasing)
    painter.fillRect(place, palette.window())
    painter.setPen(palette.windowText().color())
    painter.drawText(place.adjusted(12, 0, 0, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, "Modules:")
    box = place.adjusted(76, 6, -12, -5)
    painter.setPen(QtGui.QColor(170, 170, 170))
    painter.setBrush(palette.base())
    painter.drawRoundedRect(box, 3, 3)
    icon = Path(slicer.modules.skullvae.path).parent / "Resources" / "Icons" / "SkullVAE.png"
    if icon.is_file():
        painter.setRenderHint(QtGui.QPainter.RenderHint.SmoothPixmapTransform)
        painter.drawImage(QtCore.QRect(box.left() + 5, box.top() + 3, 19, 19), QtGui.QImage(str(icon)))
    painter.setPen(palette.windowText().color())
    title = slicer.modules.skullvae.title
    painter.drawText(box.adjusted(30, 0, 0, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, title)
    painter.setPen(QtGui.QColor(200, 200, 200))
    painter.drawLine(place.left(), place.bottom() + 1, place.right(), place.bottom() + 1)


def _paintSlice(painter: QtGui.QPainter, view, place: QtCore.QRect, fit: bool) -> None:
    pixels = _slice(view.name, (place.width(), place.height() - _BAR), fit)
    logic = _current().sliceLogics[view.name]
    low, high = _offsets(logic)
    offset = logic.GetSliceOffset()
    part = (offset - low) / (high - low) if high > low else 0.5
    toRAS = slicer.util.arrayFromVTKMatrix(logic.GetSliceNode().GetSliceToRAS())
    axis = int(np.abs(toRAS[:3, 2]).argmax())
    position = offset * np.sign(toRAS[axis, 2])
    text = f"{('LR', 'PA', 'IS')[axis][int(position >= 0)]}: {abs(position):.1f} mm"
    bar = QtCore.QRect(place.left(), place.top(), place.width(), _BAR)
    _paintBar(painter, bar, QtGui.QColor.fromRgbF(*view.colour), view.label, text, part)
    painter.drawImage(place.left(), place.top() + _BAR, _image(pixels))


def _offsets(logic) -> tuple[float, float]:
    bounds = [0.0] * 6
    logic.GetLowestVolumeSliceBounds(bounds)
    return bounds[4], bounds[5]


def _paintBar(painter, place: QtCore.QRect, colour: QtGui.QColor, label: str, text: str, part: float | None) -> None:
    """Draw the coloured bar of a view: label, slider at the fraction `part`, offset."""
    painter.setRenderHint(QtGui.QPainter.RenderHint.Antialiasing)
    painter.fillRect(place, colour)
    font = painter.font()
    bold = QtGui.QFont(font)
    bold.setBold(True)
    painter.setFont(bold)
    painter.setPen(QtGui.QColor(20, 20, 20))
    painter.drawText(place.adjusted(8, 0, 0, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, label)
    painter.setFont(font)
    if part is None:
        return
    box = QtCore.QRect(place.right() - 92, place.top() + 2, 88, place.height() - 4)
    painter.setPen(QtGui.QColor(120, 120, 120))
    painter.setBrush(QtGui.QColor(255, 255, 255))
    painter.drawRoundedRect(box, 2, 2)
    painter.setPen(QtGui.QColor(20, 20, 20))
    painter.drawText(
        box.adjusted(0, 0, -6, 0), QtCore.Qt.AlignmentFlag.AlignRight | QtCore.Qt.AlignmentFlag.AlignVCenter, text
    )
    left, right, middle = place.left() + 34, box.left() - 12, place.center().y() + 1
    painter.setPen(QtGui.QPen(QtGui.QColor(90, 90, 90), 3))
    painter.drawLine(left, middle, right, middle)
    painter.setPen(QtGui.QColor(90, 90, 90))
    painter.setBrush(QtGui.QColor(245, 245, 245))
    at = left + min(max(part, 0.0), 1.0) * (right - left)
    painter.drawRoundedRect(QtCore.QRectF(at - 5, middle - 7, 10, 14), 3, 3)


def _save(pixels: np.ndarray, path) -> np.ndarray:
    _saveCanvas(_image(pixels), path)
    return pixels


def _saveCanvas(canvas: QtGui.QImage, path) -> np.ndarray:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if not canvas.save(str(path)):
        raise OSError(f"{path} could not be written")
    raw = np.frombuffer(canvas.constBits(), np.uint8).reshape(canvas.height(), canvas.bytesPerLine())
    return raw[:, : 3 * canvas.width()].reshape(canvas.height(), canvas.width(), 3).copy()
