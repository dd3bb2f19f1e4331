"""The threshold preview shares the CT's voxels and restores the slice views."""

from __future__ import annotations

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

import slicer  # noqa: E402
import vtk  # noqa: E402
from SkullVAEModule.segments import looks  # noqa: E402
from SkullVAEModule.thresholdpreview import ThresholdPreview  # noqa: E402
from slicer_scenes import GRIDS, SHAPE, addTransform, addVolume, nodeIDs, rotation  # noqa: E402
from vtk.util.numpy_support import vtk_to_numpy  # noqa: E402

pytestmark = pytest.mark.usefixtures("scene")


@pytest.fixture
def ct():
    voxels = np.random.default_rng(80).integers(-1000, 2000, SHAPE).astype(np.int16)
    return addVolume(voxels, GRIDS["oblique"], transform=addTransform(rotation(20, (0, 1, 0))))


@pytest.fixture
def views():
    """Three slice views: empty, with a background, and linked with another volume in the foreground."""
    other = addVolume(np.zeros(SHAPE, np.int16), GRIDS["lps"])
    nodes = []
    for name in ("Red", "Green", "Yellow"):
        node = slicer.vtkMRMLSliceCompositeNode()
        node.SetLayoutName(name)
        nodes.append(slicer.mrmlScene.AddNode(node))
    nodes[1].SetBackgroundVolumeID(other.GetID())
    nodes[2].SetForegroundVolumeID(other.GetID())
    nodes[2].SetForegroundOpacity(0.25)
    nodes[2].SetCompositing(slicer.vtkMRMLSliceCompositeNode.Add)
    nodes[2].SetLinkedControl(True)
    return nodes


def state(node) -> tuple:
    return (
        node.GetBackgroundVolumeID(),
        node.GetForegroundVolumeID(),
        node.GetForegroundOpacity(),
        node.GetCompositing(),
        node.GetLinkedControl(),
    )


def shownVolume(view):
    return slicer.mrmlScene.GetNodeByID(view.GetForegroundVolumeID())


def test_preview_shares_voxels_position_and_transform(ct, views):
    preview = ThresholdPreview(ct)
    preview.show(300)
    assert preview.shown
    node = shownVolume(views[0])
    assert node is not ct
    assert node.GetImageData() is ct.GetImageData()
    for view in views:
        assert shownVolume(view) is node
        assert view.GetForegroundOpacity() == 0.5
    ours, theirs = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(ours)
    ct.GetIJKToRASMatrix(theirs)
    assert [ours.GetElement(i, j) for i in range(4) for j in range(4)] == [
        theirs.GetElement(i, j) for i in range(4) for j in range(4)
    ]
    assert node.GetParentTransformNode() is ct.GetParentTransformNode()


def picture(node) -> np.ndarray:
    """(N, 4) colours of the voxels as the display node passes them to the slice views."""
    display = node.GetDisplayNode()
    display.SetInputImageDataConnection(node.GetImageDataConnection())
    display.GetOutputImageDataConnection().GetProducer().Update()
    return vtk_to_numpy(display.GetOutputImageData().GetPointData().GetScalars())


@pytest.mark.parametrize("threshold", [300, -200, 1500])
def test_voxels_at_or_above_the_threshold_are_shown_in_one_colour(ct, views, threshold):
    preview = ThresholdPreview(ct)
    preview.show(100)
    preview.show(threshold)
    colors = picture(shownVolume(views[0]))
    voxels = vtk_to_numpy(ct.GetImageData().GetPointData().GetScalars())
    assert np.array_equal(colors[:, 3] > 0, voxels >= threshold)
    (color,) = np.unique(colors[voxels >= threshold], axis=0)
    for look in looks().values():
        # Bone of the CT must not be taken for the implant or the completed skull.
        assert np.abs(color[:3] / 255 - look.color).max() > 0.3


def test_display_and_voxels_of_the_ct_are_unchanged(ct, views):
    ct.CreateDefaultDisplayNodes()
    display = ct.GetDisplayNode()
    before = (display.GetWindow(), display.GetLevel(), display.GetApplyThreshold(), ct.GetImageData().GetMTime())
    preview = ThresholdPreview(ct)
    preview.show(300)
    preview.hide()
    assert (
        display.GetWindow(),
        display.GetLevel(),
        display.GetApplyThreshold(),
        ct.GetImageData().GetMTime(),
    ) == before


def test_hiding_restores_the_views(ct, views):
    nodes, before = nodeIDs(), [state(view) for view in views]
    preview = ThresholdPreview(ct)
    preview.show(300)
    preview.show(400)
    preview.hide()
    assert not preview.shown
    assert [state(view) for view in views] == before
    assert nodeIDs() == nodes
    preview.hide()
    preview.show(500)
    assert preview.shown
    preview.hide()
    assert [state(view) for view in views] == before


def test_foreground_that_the_user_chose_meanwhile_is_kept(ct, views):
    preview = ThresholdPreview(ct)
    preview.show(300)
    views[0].SetForegroundVolumeID(ct.GetID())
    preview.hide()
    assert views[0].GetForegroundVolumeID() == ct.GetID()


def test_view_that_is_opened_meanwhile_shows_the_preview_and_is_restored(ct, views):
    preview = ThresholdPreview(ct)
    preview.show(300)
    late = slicer.vtkMRMLSliceCompositeNode()
    late.SetLayoutName("Late")
    late = slicer.mrmlScene.AddNode(late)
    before = state(late)
    preview.show(310)
    assert shownVolume(late) is shownVolume(views[0])
    preview.hide()
    assert state(late) == before


def test_preview_is_hidden_from_lists_and_not_saved(ct, views):
    before = nodeIDs()
    ThresholdPreview(ct).show(300)
    made = [slicer.mrmlScene.GetNodeByID(identifier) for identifier in nodeIDs() - before]
    assert len(made) == 3
    for node in made:
        assert node.GetHideFromEditors()
        assert not node.GetSaveWithScene()


def test_closing_the_scene_while_it_is_shown_is_safe(ct, views):
    preview = ThresholdPreview(ct)
    preview.show(300)
    slicer.mrmlScene.Clear(0)
    assert not preview.shown
    preview.hide()
    preview.show(300)
    assert not preview.shown


def test_volume_without_voxels_shows_nothing(views):
    preview = ThresholdPreview(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"))
    before = [state(view) for view in views]
    preview.show(300)
    assert not preview.shown
    assert [state(view) for view in views] == before
