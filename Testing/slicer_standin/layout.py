"""The application's default layout in the scene: three slice views and a 3D view, with Slicer's own slice logics."""

from __future__ import annotations

from dataclasses import dataclass

import slicer
import vtk


@dataclass(frozen=True)
class SliceView:
    """Name, label, colour and orientation of a slice view in the default layout."""

    name: str
    label: str
    colour: tuple[float, float, float]
    orientation: str


SLICE_VIEWS = (
    SliceView("Red", "R", (0.952, 0.290, 0.202), "Axial"),
    SliceView("Green", "G", (0.431, 0.690, 0.294), "Coronal"),
    SliceView("Yellow", "Y", (0.929, 0.836, 0.298), "Sagittal"),
)


class Views:
    """Nodes and logics of the views of one scene."""

    def __init__(self, scene):
        self.scene = scene
        self.applicationLogic = slicer.vtkMRMLApplicationLogic()
        self.applicationLogic.SetMRMLScene(scene)
        self.sliceLogics = {}
        collection = vtk.vtkCollection()
        for view in SLICE_VIEWS:
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLScene(scene)
            node = logic.AddSliceNode(view.name)
            node.SetLayoutLabel(view.label)
            node.SetLayoutColor(*view.colour)
            node.SetOrientation(view.orientation)
            self.sliceLogics[view.name] = logic
            collection.AddItem(logic)
        self.applicationLogic.SetSliceLogics(collection)
        self.viewLogic = slicer.vtkMRMLViewLogic()
        self.viewLogic.SetMRMLScene(scene)
        self.viewNode = self.viewLogic.AddViewNode("1")
        self.arrange(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetName("Crosshair")
        crosshair.SetSingletonTag("default")
        scene.AddNode(crosshair)
        camera = slicer.vtkMRMLCameraNode()
        camera.SetLayoutName(self.viewNode.GetLayoutName())
        scene.AddNode(camera)
        self._camera = None
        self.rememberCamera()
        # The off-screen windows of views.py, by view.
        self.windows = {}

    def arrange(self, arrangement: int) -> None:
        """Choose a layout; the 3D view is mapped in all but those with a single slice view."""
        layouts = slicer.vtkMRMLLayoutNode
        single = (
            layouts.SlicerLayoutOneUpRedSliceView,
            layouts.SlicerLayoutOneUpGreenSliceView,
            layouts.SlicerLayoutOneUpYellowSliceView,
        )
        self.arrangement = arrangement
        self.viewNode.SetMappedInLayout(arrangement not in single)

    def camera(self):
        """The camera node of the 3D view; None if the scene has none."""
        nodes = slicer.util.getNodesByClass("vtkMRMLCameraNode", self.scene)
        return next((node for node in nodes if node.GetLayoutName() == self.viewNode.GetLayoutName()), None)

    def _cameraPlace(self):
        node = self.camera()
        return None if node is None else (node.GetPosition(), node.GetFocalPoint())

    def rememberCamera(self) -> None:
        """Store the camera position as the default one, for which pictures show the whole scene."""
        self._camera = self._cameraPlace()

    def cameraIsUntouched(self) -> bool:
        return self._cameraPlace() in (None, self._camera)

    def release(self) -> None:
        """Release the scene before another one replaces it."""
        for window in self.windows.values():
            window.release()
        self.windows.clear()
        for logic in (*self.sliceLogics.values(), self.viewLogic, self.applicationLogic):
            logic.SetMRMLScene(None)


class SliceView2D:
    """layoutManager().sliceWidget(name).sliceView()."""

    def __init__(self, logic):
        self._logic = logic

    def interactor(self):
        from . import views

        return views.interactor(self._logic.GetSliceNode().GetLayoutName())


class SliceWidget:
    """layoutManager().sliceWidget(name)."""

    def __init__(self, logic):
        self._logic = logic

    def sliceLogic(self):
        return self._logic

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def sliceView(self) -> SliceView2D:
        return SliceView2D(self._logic)

    def fitSliceToBackground(self) -> None:
        self._logic.FitSliceToBackground()


class ThreeDView:
    """layoutManager().threeDWidget(0).threeDView()."""

    def __init__(self, views: Views):
        self._views = views

    def mrmlViewNode(self):
        return self._views.viewNode

    def resetFocalPoint(self) -> None:
        self._views.rememberCamera()

    def forceRender(self) -> None:
        pass


class ThreeDWidget:
    """layoutManager().threeDWidget(0)."""

    def __init__(self, views: Views):
        self._view = ThreeDView(views)

    def threeDView(self) -> ThreeDView:
        return self._view

    def mrmlViewNode(self):
        return self._view.mrmlViewNode()


class LayoutManager:
    """slicer.app.layoutManager()."""

    threeDViewCount = 1

    def __init__(self, views: Views):
        self._views = views

    def sliceViewNames(self) -> list[str]:
        return [view.name for view in SLICE_VIEWS]

    def sliceWidget(self, name: str) -> SliceWidget:
        return SliceWidget(self._views.sliceLogics[name])

    def mrmlSliceLogics(self):
        return self._views.applicationLogic.GetSliceLogics()

    def threeDWidget(self, index: int) -> ThreeDWidget:
        if index != 0:
            raise IndexError("the default layout has one 3D view")
        return ThreeDWidget(self._views)

    def setLayout(self, arrangement: int) -> None:
        self._views.arrange(arrangement)

    @property
    def layout(self) -> int:
        return self._views.arrangement

    def resetThreeDViews(self) -> None:
        self._views.rememberCamera()

    def resetSliceViews(self) -> None:
        for logic in self._views.sliceLogics.values():
            logic.FitSliceToBackground()
