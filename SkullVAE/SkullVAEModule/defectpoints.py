"""Points at holes, on the implant's surface and of what is added to it: Markups nodes of each input, positions in the
input's coordinates, and the mouse mode."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from .segments import madeNodes, markAsMade

Point = tuple[float, float, float]

_CLASS = "vtkMRMLMarkupsFiducialNode"
# Kinds of points: at holes, on the outer surface of the implant; at screws of tabs, at holes to make in the implant,
# and where its outer surface is raised.
HOLES, SURFACE = "", "surface"
TABS, DRAINS, BUILD_UPS = "tabs", "drains", "buildUps"
_KIND_ATTRIBUTE = "SkullVAE.points"

# Events of a Markups node after which the positions may differ.
POINT_EVENTS = ("PointPositionDefinedEvent", "PointModifiedEvent", "PointRemovedEvent")


def pointsNode(inputNode, segmentID: str = "", kind: str = HOLES):
    """The points of an input, also after saving and loading; None without any."""
    if inputNode is None:
        return None
    made = madeNodes(_CLASS, inputNode, segmentID)
    return next((node for node in made if (node.GetAttribute(_KIND_ATTRIBUTE) or HOLES) == kind), None)


def newPointsNode(inputNode, segmentID: str = "", kind: str = HOLES):
    """The points of an input; if there are none, an empty node that follows its transform is added."""
    node = pointsNode(inputNode, segmentID, kind)
    if node is None:
        name, label = {
            HOLES: ("SkullVAE holes", _("Hole")),
            SURFACE: ("SkullVAE surface points", _("Surface")),
            TABS: ("SkullVAE tabs", _("Tab")),
            DRAINS: ("SkullVAE implant holes", _("Implant hole")),
            BUILD_UPS: ("SkullVAE build-ups", _("Build-up")),
        }[kind]
        node = slicer.mrmlScene.AddNewNodeByClass(_CLASS, slicer.mrmlScene.GenerateUniqueName(name))
        markAsMade(node, inputNode, segmentID)
        if kind != HOLES:
            node.SetAttribute(_KIND_ATTRIBUTE, kind)
        node.SetControlPointLabelFormat(label + " %d")
        node.CreateDefaultDisplayNodes()
        node.SetAndObserveTransformNodeID(inputNode.GetTransformNodeID())
    return node


def pointsOf(inputNode, segmentID: str = "", kind: str = HOLES) -> tuple[Point, ...]:
    """The placed points of an input, RAS mm in its own coordinates, under any transforms.

    A point that still follows the mouse is not included.
    """
    node = pointsNode(inputNode, segmentID, kind)
    if node is None:
        return ()
    return tuple(_fromWorld(inputNode, node.GetNthControlPointPositionWorld(index)) for index in _placed(node))


def setPoints(inputNode, segmentID: str, points, kind: str = HOLES) -> None:
    """Replace the points of an input, RAS mm in its own coordinates."""
    node = newPointsNode(inputNode, segmentID, kind)
    with slicer.util.NodeModify(node):
        node.RemoveAllControlPoints()
        for point in points:
            node.AddControlPointWorld(toWorld(inputNode, point))


def removePoint(inputNode, segmentID: str = "", near: Point | None = None, kind: str = HOLES) -> bool:
    """Remove the placed point nearest to a position in the input's coordinates, by default the last one.

    Returns whether there was a point.
    """
    points = pointsOf(inputNode, segmentID, kind)
    if not points:
        return False
    index = len(points) - 1 if near is None else min(range(len(points)), key=lambda k: _squared(points[k], near))
    node = pointsNode(inputNode, segmentID, kind)
    node.RemoveNthControlPoint(_placed(node)[index])
    return True


def toWorld(inputNode, point: Point) -> Point:
    """A position in an input's own coordinates in those of the scene."""
    world = [0.0, 0.0, 0.0]
    inputNode.TransformPointToWorld(list(point), world)
    return tuple(world)


def interactionNode():
    """The node with the mouse mode of the application."""
    return slicer.app.applicationLogic().GetInteractionNode()


def startPlacing(inputNode, segmentID: str = "", kind: str = HOLES) -> None:
    """Switch the mouse to placing one point of an input, in any slice view or on a surface in 3D."""
    logic = slicer.modules.markups.logic()
    logic.SetActiveList(newPointsNode(inputNode, segmentID, kind))
    logic.StartPlaceMode(False)


def stopPlacing() -> None:
    """Switch the mouse back."""
    interactionNode().SwitchToViewTransformMode()


def isPlacing(inputNode, segmentID: str = "", kind: str = HOLES) -> bool:
    """Whether a click in a view places a point of this input."""
    node, interaction = pointsNode(inputNode, segmentID, kind), interactionNode()
    if node is None or interaction.GetCurrentInteractionMode() != interaction.Place:
        return False
    return slicer.modules.markups.logic().GetActiveListID() == node.GetID()


def _placed(node) -> list[int]:
    return [
        index
        for index in range(node.GetNumberOfControlPoints())
        if node.GetNthControlPointPositionStatus(index) == node.PositionDefined
    ]


def _fromWorld(inputNode, world) -> Point:
    local = [0.0, 0.0, 0.0]
    inputNode.TransformPointFromWorld(list(world), local)
    return tuple(local)


def _squared(first: Point, second: Point) -> float:
    return sum((a - b) ** 2 for a, b in zip(first, second, strict=True))
