"""A mould of two halves for casting the implant, made of implicit solids.

The parting direction is the one along which the implant has the least undercut. In its frame the parting surface is a
height field: it runs along the rim of the implant, within its wall, and continues smoothly to the sides of the block.
Half A is the block below it, half B the block above it, both without the implant:

    A = block  AND  below the parting surface  AND  outside the implant, with pins
    B = block  AND  above the parting surface  AND  outside the implant, with sockets, pouring channel and vents

Both are functions on one grid, negative inside, so that every mesh is closed and manifold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy import ndimage

from SkullVAELib.core.threads import one_thread
from SkullVAELib.geometry.affines import perpendicular_axes
from SkullVAELib.implant.directions import cone_directions, plate_normal
from SkullVAELib.implant.implicit_solid import FineGrid, contour, largest_solid, sampled_distance
from SkullVAELib.implant.tooling import Tooling, ToolingInputs, ToolingOptions, part_stem
from SkullVAELib.mesh.distance import SurfaceDistance
from SkullVAELib.mesh.mesh import Mesh, concatenate_meshes

STEP_MM = (0.35, 0.5)
"""Smallest and largest distance between the nodes of the grid."""

NODES = 4e6
"""Number of nodes above which the grid is made coarser."""

REACH = 1.5
"""Distances to the implant are exact up to this number of steps."""

# The groove takes the excess: a half circle in the parting surface of half A, around the cavity.
LAND_MM, GROOVE_MM = 2.0, 1.5
"""Width of the land between cavity and overflow groove, and radius of the groove."""

PIN_MM, LARGE_PIN_MM = 3.0, 4.0
"""Radii of the pins; one pin is larger, so that the halves fit one way only."""

PIN_HEIGHT_MM, PIN_END_MM = 5.0, 0.6
"""Height of the pins above the parting surface, and clearance at their ends."""

PIN_EDGE_MM = 2.0
"""Least distance of a pin from the groove and from the sides of the block."""

POUR_MM, POUR_TOP_MM, VENT_MM = 2.5, 6.0, 1.25
"""Radii of the pouring channel at the cavity and at the top, and of the vents."""

PROMINENCE_MM = 0.5
"""A local maximum of the cavity gets a vent if it is higher than its surroundings by this."""

LABEL_MM, LABEL_STROKE_MM, LABEL_DEPTH_MM = 10.0, 1.6, 0.8
"""Height, width of the strokes and depth of the engraved label."""

BLOCK_EDGE_MM = 3.0
"""Radius of the vertical edges of the block."""

EDGE_MM, THIN_MM = 0.3, 1.5
"""The parting surface may leave the implant by this where the implant is thinner along the parting direction than
`THIN_MM`, so that it is smooth."""

UNDERCUT_MM = 0.1
"""Undercuts less deep than this are ignored: they are within the error of the grid."""

BLOCKING_MM, BLOCKING_MM2 = 0.5, 10.0
"""Undercuts deeper than this, on a larger area, are reported as blocking the removal."""

OVERHANG = np.cos(np.radians(45.0))
"""Surfaces that face downwards by more than 45 degrees need support in printing."""

PARTING_MM = 1.0
"""Points nearer to the parting surface than this are at the edge of the halves, which the grid makes blunt."""

CAVITY_MM = 0.1
"""Largest accepted distance between cavity and implant, 95th percentile."""

SAMPLE = 20_000
"""Maximum number of points of the implant that the cavity is compared at."""

STEEPEST_DEGREES = 60.0
"""Largest angle between the parting direction and the outward direction of the implant."""


@dataclass(frozen=True)
class _Frame:
    """The frame of a mould: its third axis is the parting direction, out of half A.

    Attributes
    ----------
    axes : numpy.ndarray
        (3, 3) columns are the unit axes in RAS; right-handed.
    """

    axes: np.ndarray

    def local(self, points: np.ndarray) -> np.ndarray:
        return points @ self.axes


@one_thread()
def make_mould(inputs: ToolingInputs, options: ToolingOptions) -> Tooling:
    """Make a mould for each piece of an implant.

    Parameters
    ----------
    inputs : ToolingInputs
        The implant and what it was made from.
    options : ToolingOptions
        Clearance and wall.

    Returns
    -------
    Tooling
        Parts "mould_a" and "mould_b", for further pieces "mould_2_a" and so on; figures "mould", a list with an entry
        for each piece under "pieces".
    """
    made = Tooling()
    entries = []
    pieces = inputs.printable.pieces
    for number, piece in enumerate(pieces, 1):
        stem = part_stem("mould", number)
        tag = str(number) if len(pieces) > 1 else ""
        mould = mould_of(piece.mesh, _outwards(piece.mesh, inputs), options, tag)
        made.parts |= {f"{stem}_a": mould.a, f"{stem}_b": mould.b}
        entries.append({"piece": number, "files": [f"{stem}_a.stl", f"{stem}_b.stl"], **mould.figures})
        name = f"Mould {number}: " if len(pieces) > 1 else "Mould: "
        made.warnings += [name + text for text in mould.warnings]
        holes = sum(len(piece.figures.get(kind, ())) for kind in ("screws", "holes_at")) + piece.figures.get("holes", 0)
        if holes:
            what = "hole of the implant is a thin pin" if holes == 1 else f"{holes} holes of the implant are thin pins"
            made.warnings.append(
                f"{name}the {what} in it, which can break. Make the implant without holes and drill them."
            )
    made.figures["mould"] = {"pieces": entries}
    return made


def _outwards(mesh: Mesh, inputs: ToolingInputs) -> np.ndarray:
    """Unit direction out of the skull at a piece: that of its smallest extent, away from the centre of the vault."""
    proposal, bone = inputs.completion.proposal, inputs.completion.bone
    if proposal is not None:
        centre = np.linalg.inv(proposal.alignment)[:3, 3]
    else:
        centre = bone.affine[:3, :3] @ (np.array(bone.array.shape) / 2) + bone.affine[:3, 3]
    return plate_normal(mesh, mesh.points.mean(0) - centre)


def parting_direction(mesh: Mesh, normal: np.ndarray) -> np.ndarray:
    """Return the direction along which a plate has the least undercut.

    Parameters
    ----------
    mesh : Mesh
        The implant.
    normal : numpy.ndarray
        (3,) outward unit normal of the plate; the direction is at most `STEEPEST_DEGREES` from it.

    Returns
    -------
    numpy.ndarray
        (3,) unit vector.
    """
    middle = mesh.points[mesh.faces].mean(axis=1)
    areas = mesh.vector_areas()
    tried: dict[tuple, float] = {}

    def cost(direction: np.ndarray) -> float:
        key = tuple(np.round(direction, 4))
        if key not in tried:
            tried[key] = _hidden_mm2(mesh.points, middle, areas, _frame(direction)) + _steep_mm2(areas, direction)
        return tried[key]

    best = normal
    for rings in ({12.0: 6, 25.0: 8, 40.0: 8, 55.0: 8}, {8.0: 6}, {4.0: 6}, {2.0: 6}):
        around = cone_directions(best, rings)
        around = around[around @ normal >= np.cos(np.radians(STEEPEST_DEGREES))]
        best = min(around, key=cost)
    return best


def _steep_mm2(areas: np.ndarray, direction: np.ndarray) -> float:
    """A small cost for faces that are steep along the direction: among equal undercuts, the flat position is taken."""
    return 0.02 * float(np.linalg.norm(areas, axis=1).sum() - np.abs(areas @ direction).sum())


def _hidden_mm2(points: np.ndarray, middle: np.ndarray, areas: np.ndarray, frame: _Frame) -> float:
    """Projected area in mm2 of the triangles that other parts of the mesh cover, seen along both directions."""
    cell = 1.0
    local, at = frame.local(points), frame.local(middle)
    low = local.min(0)
    shape = tuple(((local[:, :2].max(0) - low[:2]) / cell).astype(int) + 1)
    flat = np.ravel_multi_index(tuple(((local[:, :2] - low[:2]) / cell).astype(int).T), shape)
    own = np.ravel_multi_index(tuple(((at[:, :2] - low[:2]) / cell).astype(int).T), shape)
    facing = areas @ frame.axes[:, 2]
    slope = np.linalg.norm(areas, axis=1) / np.maximum(np.abs(facing), 1e-9)
    hidden = 0.0
    for sign in (1, -1):
        top = np.full(shape[0] * shape[1], -np.inf)
        np.maximum.at(top, flat, sign * local[:, 2])
        # Within a cell, a steep surface is lower than itself by as much as it rises.
        covered = top[own] - sign * at[:, 2] > 0.4 + 1.5 * cell * np.minimum(slope, 4.0)
        hidden += float((sign * facing)[covered & (sign * facing > 0)].sum())
    return hidden


def _frame(direction: np.ndarray) -> _Frame:
    """A frame with the direction as its third axis."""
    return _Frame(np.stack([*perpendicular_axes(direction), direction], 1))


def _smallest_frame(points: np.ndarray, direction: np.ndarray) -> _Frame:
    """The frame with the direction as its third axis in which the bounding rectangle of the points is smallest."""
    frame = _frame(direction)
    flat = frame.local(points)[:, :2]
    best, least = frame, np.inf
    for turn in np.radians(np.arange(0, 90, 3)):
        axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        area = float(np.ptp(flat @ axes, axis=0).prod())
        if area < least:
            turned = np.eye(3)
            turned[:2, :2] = axes
            best, least = _Frame(frame.axes @ turned), area
    return best


@dataclass(frozen=True)
class Mould:
    """A mould of one piece.

    Attributes
    ----------
    a, b : Mesh
        The halves, RAS mm, closed; B is on the outside of the skull.
    axes : numpy.ndarray
        (3, 3) columns are the axes of the frame in RAS, the third one from half A to half B.
    pins : list of Pin
        The pins of half A.
    figures : dict
        Figures for the report.
    warnings : list of str
        Warnings, one line each.
    """

    a: Mesh
    b: Mesh
    axes: np.ndarray
    pins: list[Pin]
    figures: dict
    warnings: list[str]


@dataclass(frozen=True)
class Pin:
    """A pin at (u, v) in mm of the frame, with its radius in mm."""

    at: np.ndarray
    radius: float


@dataclass(frozen=True)
class _Channel:
    """A vertical channel at (u, v) in mm of the frame, from the height `bottom`, as a cone with radii in mm."""

    at: np.ndarray
    bottom: float
    radius: float
    top_radius: float


def mould_of(mesh: Mesh, normal: np.ndarray, options: ToolingOptions, tag: str = "") -> Mould:
    """Make a mould of a closed mesh.

    Parameters
    ----------
    mesh : Mesh
        The implant, RAS mm, fine triangles.
    normal : numpy.ndarray
        (3,) unit vector out of the skull.
    options : ToolingOptions
        Clearance and wall.
    tag : str
        Digits that follow the letters A and B of the label.

    Returns
    -------
    Mould
        The mould.
    """
    direction = parting_direction(mesh, normal)
    frame = _smallest_frame(mesh.points, direction)
    wall = options.mould_wall_mm
    margin, pins = _pins(frame.local(mesh.points)[:, :2], wall)
    block = _Block(mesh, frame, margin, wall)
    mould = block.mould(pins, options, tag)
    angle = float(np.degrees(np.arccos(np.clip(direction @ normal, -1, 1))))
    return replace(mould, figures={"angle_degrees": round(angle, 1), **mould.figures})


def _pins(flat: np.ndarray, wall_mm: float) -> tuple[float, list[Pin]]:
    """Width of the block around the silhouette of points (N, 2), and three or four pins that are far from each other,
    the first one larger."""
    low, high = flat.min(0), flat.max(0)
    groove = LAND_MM + 2 * GROOVE_MM
    for margin in np.arange(max(wall_mm, groove + 2.0), 100.0, 1.0):
        size = high - low + 2 * margin
        shape = tuple(np.ceil(size).astype(int) + 1)
        used = np.zeros(shape, bool)
        used[tuple(np.round(flat - low + margin).astype(int).T)] = True
        away = ndimage.distance_transform_edt(~used) - 0.7
        u, v = np.indices(shape)
        edge = np.minimum(np.minimum(u, size[0] - u), np.minimum(v, size[1] - v))
        far = np.hypot(u - size[0] / 2, v - size[1] / 2)
        pins: list[Pin] = []
        # The second pin is across the block from the first, the others are away from both.
        for least in (0.0, 0.7 * size.max(), 0.6 * size.min(), 0.6 * size.min()):
            radius = PIN_MM if pins else LARGE_PIN_MM
            room = (away >= groove + radius + PIN_EDGE_MM) & (edge >= radius + PIN_EDGE_MM) & (far >= least)
            if not room.any():
                break
            at = np.array(np.unravel_index(np.where(room, far, -1.0).argmax(), shape), float)
            pins.append(Pin(at + low - margin, radius))
            apart = np.hypot(u - at[0], v - at[1])
            far = apart if len(pins) == 1 else np.minimum(far, apart)
        if len(pins) >= 3:
            return float(margin), pins
    raise AssertionError("there is room for pins in a block that is wide enough")


class _Block:
    """The block around an implant on a grid in the frame of the mould."""

    def __init__(self, mesh: Mesh, frame: _Frame, margin: float, wall: float):
        self.mesh, self.frame, self.wall = mesh, frame, wall
        local = frame.local(mesh.points)
        low, high = local.min(0), local.max(0)
        self.low = np.append(low[:2] - margin, low[2] - wall)
        self.high = np.append(high[:2] + margin, high[2] + wall)
        # Pins may have to be higher than the wall above the implant; faces are not on nodes.
        room = max(0.0, PIN_HEIGHT_MM + PIN_END_MM + 2.0 - wall)
        self.step = float(
            np.clip((np.prod(self.high - self.low + np.array([0, 0, room])) / NODES) ** (1 / 3), *STEP_MM)
        )
        start = self.low - 2.4 * self.step
        shape = np.ceil((self.high - start + np.array([0, 0, room])) / self.step).astype(int) + 3
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = frame.axes * self.step, frame.axes @ start
        self.grid = FineGrid(affine, (int(shape[0]), int(shape[1]), int(shape[2])), np.zeros(0, np.int64))
        self.u, self.v, self.w = (
            start[axis] + self.step * np.arange(shape[axis], dtype=np.float32) for axis in range(3)
        )
        self.distance = SurfaceDistance(mesh)
        self.implant = sampled_distance(self.distance, self.grid, REACH * self.step)
        self._columns()
        self.height = self._parting()

    def _columns(self) -> None:
        """The lowest and the highest height of the implant in each column of the grid, and its silhouette."""
        inside = self.implant < 0
        self.silhouette = inside.any(axis=2)
        u, v = np.nonzero(self.silhouette)
        first = inside[u, v].argmax(axis=1)
        last = inside.shape[2] - 1 - inside[u, v, ::-1].argmax(axis=1)
        self.bottom = np.full(self.silhouette.shape, np.nan, np.float32)
        self.top = self.bottom.copy()
        for heights, node, beyond in ((self.bottom, first, first - 1), (self.top, last, last + 1)):
            own, other = self.implant[u, v, node], self.implant[u, v, beyond]
            share = own / (own - other)
            heights[u, v] = self.w[node] + share * (self.w[beyond] - self.w[node])

    def _parting(self) -> np.ndarray:
        """Height of the parting surface in each column: within the implant's wall, elsewhere smooth."""
        thick = self.top - self.bottom
        # At its edge the height is known to a fraction of the grid's step only, and followed no more closely than that.
        give = EDGE_MM * np.maximum(0, 1 - thick / THIN_MM)
        low, high = self.bottom + 0.2 * thick - give, self.top - 0.2 * thick + give
        middle = np.where(self.silhouette, (low + high) / 2, 0)
        nearest = ndimage.distance_transform_edt(~self.silhouette, return_distances=False, return_indices=True)
        height = middle[tuple(nearest)]
        for sigma_mm in (10.0, 7.0, 5.0, 3.5, 2.5, 1.8, 1.2, 0.8, 0.5):
            for _ in range(3):
                height = ndimage.gaussian_filter(height, sigma_mm / self.step, mode="nearest")
                height = np.where(self.silhouette, np.clip(height, low, high), height)
        return height

    def at(self, place: np.ndarray) -> tuple[int, int]:
        """Index of the column nearest to a place (u, v) in mm."""
        return (
            int(np.clip(round(float(place[0] - self.u[0]) / self.step), 0, len(self.u) - 1)),
            int(np.clip(round(float(place[1] - self.v[0]) / self.step), 0, len(self.v) - 1)),
        )

    def radius(self, place: np.ndarray) -> np.ndarray:
        """Distance in mm of each column from a place (u, v)."""
        return np.hypot(self.u[:, None] - place[0], self.v[None, :] - place[1])

    def channels(self) -> tuple[_Channel, list[_Channel]]:
        """The pouring channel, at the highest place of the implant, and the vents."""
        from_edge = ndimage.distance_transform_edt(np.pad(self.silhouette, 1))[1:-1, 1:-1] * self.step
        top = ndimage.gaussian_filter(np.where(self.silhouette, self.top, self.height), 1.0 / self.step)

        def channel(at: tuple[int, int], radius: float, top_radius: float) -> _Channel:
            place = np.array([self.u[at[0]], self.v[at[1]]])
            bottom = (self.bottom[at] + self.top[at]) / 2
            return _Channel(place, float(bottom), radius, top_radius)

        wide = from_edge >= min(POUR_MM + 0.5, 0.7 * float(from_edge.max()))
        apex = np.unravel_index(np.where(wide, top, -np.inf).argmax(), top.shape)
        pour = channel((int(apex[0]), int(apex[1])), POUR_MM, POUR_TOP_MM)
        inner = from_edge >= min(VENT_MM + 0.5, 0.7 * float(from_edge.max()))
        vents: list[_Channel] = []
        used = [pour.at]
        for peak in _peaks(np.where(inner, top, -np.inf), PROMINENCE_MM):
            place = np.array([self.u[peak[0]], self.v[peak[1]]])
            if min(np.linalg.norm(place - other) for other in used) > POUR_TOP_MM + 2 * VENT_MM:
                vents.append(channel(peak, VENT_MM, VENT_MM))
                used.append(place)
        # At the ends of the cavity that are farthest away, vents show that it is full.
        while len(vents) < 2:
            away = np.min([self.radius(place) for place in used], axis=0)
            end = np.unravel_index(np.where(inner, away, -1.0).argmax(), top.shape)
            vents.append(channel((int(end[0]), int(end[1])), VENT_MM, VENT_MM))
            used.append(vents[-1].at)
        return pour, vents

    def mould(self, pins: list[Pin], options: ToolingOptions, tag: str) -> Mould:
        """The two halves with their figures."""
        slope = np.gradient(self.height, self.step)
        stretch = np.sqrt(1 + slope[0] ** 2 + slope[1] ** 2)[:, :, None]
        above = ((self.w[None, None, :] - self.height[:, :, None]) / stretch).astype(np.float32)
        pour, vents = self.channels()
        channels = [pour, *vents]
        tops = [self._over(pin) + PIN_HEIGHT_MM for pin in pins]
        self.high[2] = max(self.high[2], max(tops) + PIN_END_MM + 2.0)
        away = ndimage.distance_transform_edt(~self.silhouette) * self.step
        away = ndimage.gaussian_filter(away, 1.0)[:, :, None].astype(np.float32)
        groove = np.hypot(away - (LAND_MM + GROOVE_MM), above) - GROOVE_MM
        groove_ml = np.count_nonzero((groove < 0) & (above < 0)) * self.step**3 / 1000
        a, b = np.maximum(above, -groove), -above
        del groove, above
        for pin, top in zip(pins, tops, strict=True):
            clearance = options.mould_clearance_mm
            here = self._around(pin.at, pin.radius + 3.0)
            a[here] = np.minimum(a[here], self._pin(here, pin.at, pin.radius, top))
            b[here] = np.maximum(b[here], -self._pin(here, pin.at, pin.radius + clearance, top + PIN_END_MM))
        channels_ml = 0.0
        for channel in channels:
            here = self._around(channel.at, channel.top_radius + 3.0)
            hole = self._channel(here, channel)
            b[here] = np.maximum(b[here], -hole)
            outside = (hole < 0) & (self.implant[here] > 0) & (self.w < self.high[2])
            channels_ml += np.count_nonzero(outside) * self.step**3 / 1000
        shared = np.maximum(self._box(), -self.implant)
        a, b = np.maximum(a, shared, out=a), np.maximum(b, shared, out=b)
        del shared
        self._engrave(a, "A" + tag, [], below=True)
        self._engrave(b, "B" + tag, channels, below=False)
        solids = [largest_solid(half)[0] for half in (a, b)]
        del a, b
        meshes = [contour(solid, self.grid) for solid in solids]
        figures = {
            "parting_direction": [round(float(x), 4) for x in self.frame.axes[:, 2]],
            "size_mm": [round(float(x), 1) for x in self.high - self.low],
            "pins": len(pins),
            "vents": len(vents),
            "implant_ml": round(self.mesh.volume_ml, 2),
            "channels_ml": round(channels_ml, 2),
            "cement_ml": round(self.mesh.volume_ml + channels_ml, 2),
            "groove_ml": round(groove_ml, 2),
            "halves_ml": [round(mesh.volume_ml, 1) for mesh in meshes],
            **self._undercut_figures(*solids),
            "overhang_mm2": round(self._overhang_mm2(meshes), 1),
            "cavity_error_mm": self._cavity_error(meshes, channels),
        }
        return Mould(meshes[0], meshes[1], self.frame.axes, pins, figures, _warnings(figures))

    def _around(self, at: np.ndarray, reach: float) -> tuple[slice, slice]:
        """The columns within a distance in mm of a place (u, v), as slices."""
        out = []
        for start, count, middle in zip((self.u[0], self.v[0]), self.silhouette.shape, at, strict=True):
            first, last = ((middle - start + sign * reach) / self.step for sign in (-1, 1))
            out.append(slice(max(0, int(first)), min(count, int(last) + 2)))
        return out[0], out[1]

    def _radius(self, here: tuple[slice, slice], at: np.ndarray) -> np.ndarray:
        """Distance in mm, (m, n, 1), of some columns from a place (u, v)."""
        return np.hypot(self.u[here[0], None] - at[0], self.v[None, here[1]] - at[1])[:, :, None].astype(np.float32)

    def _over(self, pin: Pin) -> float:
        """Highest point of the parting surface under a pin."""
        here = self._around(pin.at, pin.radius)
        return float(self.height[here].max())

    def _pin(self, here: tuple[slice, slice], at: np.ndarray, radius: float, top: float) -> np.ndarray:
        """A cylinder with a chamfer of 1 mm, from below the block up to a height."""
        side, end = self._radius(here, at) - radius, self.w[None, None, :] - np.float32(top)
        return np.maximum(np.maximum(side, end), (side + end + 1.0) / np.float32(np.sqrt(2)))

    def _channel(self, here: tuple[slice, slice], channel: _Channel) -> np.ndarray:
        """A vertical channel that widens by 45 degrees towards the top of the block."""
        wider = np.maximum(0, self.w - (self.high[2] - (channel.top_radius - channel.radius)))
        side = self._radius(here, channel.at) - (channel.radius + wider[None, None, :].astype(np.float32))
        return np.maximum(side, np.float32(channel.bottom) - self.w[None, None, :])

    def _box(self) -> np.ndarray:
        """The block, with rounded vertical edges."""
        half, middle = (self.high - self.low) / 2, (self.high + self.low) / 2
        over = [
            np.abs(axis - middle[number]) - (half[number] - BLOCK_EDGE_MM)
            for number, axis in enumerate((self.u, self.v))
        ]
        first, second = over[0][:, None], over[1][None, :]
        corner = np.hypot(np.maximum(first, 0), np.maximum(second, 0))
        sides = corner + np.minimum(np.maximum(first, second), 0) - BLOCK_EDGE_MM
        ends = np.abs(self.w - middle[2]) - half[2]
        return np.maximum(sides[:, :, None], ends[None, None, :]).astype(np.float32)

    def _engrave(self, half: np.ndarray, text: str, channels: list[_Channel], below: bool) -> None:
        """Engrave a text into the outer face of a half, as far from the openings of channels as possible."""
        width = LABEL_MM * (0.9 * len(text) - 0.3)
        box = np.array([width, LABEL_MM]) / 2
        low, high = self.low[:2] + box + 3.0, self.high[:2] - box - 3.0
        free = np.ones(self.silhouette.shape, np.float32)
        for channel in channels:
            free = np.minimum(free, self._radius((slice(None), slice(None)), channel.at)[:, :, 0] / 30.0)
        free -= 1e-3 * self._radius((slice(None), slice(None)), (low + high) / 2)[:, :, 0]
        free[(self.u < low[0]) | (self.u > high[0])] = -1e3
        free[:, (self.v < low[1]) | (self.v > high[1])] = -1e3
        at = np.unravel_index(free.argmax(), free.shape)
        place = np.array([self.u[at[0]], self.v[at[1]]])
        here = self._around(place, float(np.hypot(*box)) + LABEL_STROKE_MM)
        # From outside, the lower face is seen mirrored.
        u = (self.u[here[0]] - place[0]) * (-1 if below else 1) + box[0]
        points = (
            np.stack(np.broadcast_arrays(u[:, None], (self.v[here[1]] - place[1] + box[1])[None, :]), -1) / LABEL_MM
        )
        stroke = _text_distance(points, text) * LABEL_MM - LABEL_STROKE_MM / 2
        beyond = self.w - self.low[2] - LABEL_DEPTH_MM if below else self.high[2] - LABEL_DEPTH_MM - self.w
        letters = np.maximum(stroke[:, :, None], beyond[None, None, :]).astype(np.float32)
        half[here] = np.maximum(half[here], -letters)

    def _undercut_figures(self, a: np.ndarray, b: np.ndarray) -> dict:
        """Area and depth of the undercuts: of the material of each half that is in the way when the implant leaves it.

        The area is seen along the parting direction. The depth is how far the material reaches sideways under the
        implant.
        """
        inside = self.implant < 0
        area, depth = np.zeros(self.silhouette.shape, bool), 0.0
        blocking = np.zeros(self.silhouette.shape, bool)
        for half, order in ((a, slice(None)), (b, slice(None, None, -1))):
            swept = np.minimum.accumulate(self.implant[:, :, order], axis=2)[:, :, order]
            held = (half < 0) & (swept < -UNDERCUT_MM)
            area |= held.any(axis=2)
            for level in np.flatnonzero(held.any(axis=(0, 1))):
                layer, other = held[:, :, level], inside[:, :, level]
                box = ndimage.find_objects(layer.astype(np.uint8))[0]
                box = tuple(slice(max(0, side.start - 40), side.stop + 40) for side in box)
                # Material slides out towards what is neither held nor implant.
                reach = ndimage.distance_transform_edt(layer[box] | other[box]) * self.step - self.step / 2
                reach[~layer[box]] = 0
                depth = max(depth, float(reach.max()))
                blocking[box] |= reach > BLOCKING_MM
        cell = self.step**2
        return {
            "undercut_mm2": round(float(area.sum() * cell), 1),
            "undercut_mm": round(depth, 2),
            "blocking_mm2": round(float(blocking.sum() * cell), 1),
        }

    def _overhang_mm2(self, meshes: list[Mesh]) -> float:
        """Area of the cavity that needs support in printing, the outer face of each half on the bed."""
        total = 0.0
        for mesh, up in zip(meshes, (1, -1), strict=True):
            areas = mesh.vector_areas()
            size = np.linalg.norm(areas, axis=1)
            hanging = areas @ self.frame.axes[:, 2] * up < -OVERHANG * size
            middle = mesh.points[mesh.faces[hanging]].mean(axis=1)
            cavity = np.abs(self.grid.sample(self.implant, middle)) < 0.3 * self.step
            total += float(size[hanging][cavity].sum())
        return total

    def _cavity_error(self, meshes: list[Mesh], channels: list[_Channel]) -> dict:
        """95th percentile and maximum in mm of the distance from the implant's surface to that of the cavity, away from
        the channels; and the maximum away from the parting surface, too, where the edges of the halves are blunt."""
        points = self.mesh.points
        local = self.frame.local(points)
        clear = np.ones(len(points), bool)
        for channel in channels:
            clear &= np.linalg.norm(local[:, :2] - channel.at, axis=1) > channel.radius + 1.0
        points = points[clear]
        if len(points) > SAMPLE:
            points = np.random.default_rng(0).choice(points, SAMPLE, replace=False)
        walls = concatenate_meshes(meshes)
        near = np.abs(self.grid.sample(self.implant, walls.points)) < 0.9 * REACH * self.step
        walls = walls.of_triangles(walls.faces[near[walls.faces].any(axis=1)])
        error = np.abs(SurfaceDistance(walls).signed(points))
        local = self.frame.local(points)
        index = ((local[:, :2] - [self.u[0], self.v[0]]) / self.step).round().astype(int)
        apart = np.abs(local[:, 2] - self.height[tuple(index.T)]) > PARTING_MM
        figures = {
            "p95": np.percentile(error, 95),
            "max": error.max(),
            "max_off_parting": error.max(where=apart, initial=0),
        }
        return {name: round(float(value), 3) for name, value in figures.items()}


def _warnings(figures: dict) -> list[str]:
    """Warnings about the figures of a mould."""
    warnings = []
    if figures["blocking_mm2"] > BLOCKING_MM2:
        warnings.append(
            f"undercuts of {figures['undercut_mm2']:.0f} mm2, up to {figures['undercut_mm']:.1f} mm deep, hold the"
            " cast. Cast silicone, which bends, or split the implant into pieces."
        )
    if figures["cavity_error_mm"]["p95"] > CAVITY_MM:
        warnings.append(
            f"the cavity differs from the implant by {figures['cavity_error_mm']['p95']:.2f} mm (95th percentile)."
            " Compare them before casting."
        )
    return warnings


def _peaks(values: np.ndarray, least: float) -> list[tuple[int, int]]:
    """Local maxima of an array (M, N) with a prominence of at least `least`, highest first; -inf is outside.

    Prominence by union-find over the values in descending order: H. Edelsbrunner, J. Harer, Computational Topology
    (2010), section VII.1.
    """
    flat = np.pad(values, 1, constant_values=-np.inf)
    columns = flat.shape[1]
    flat = flat.ravel()
    order = np.argsort(-flat, kind="stable")
    order = order[np.isfinite(flat[order])].tolist()
    level = flat.tolist()
    parent: dict[int, int] = {}
    peaks = []

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node in order:
        parent[node] = node
        for other in (node - 1, node + 1, node - columns, node + columns):
            if other not in parent:
                continue
            one, two = root(node), root(other)
            if one == two:
                continue
            low, high = (one, two) if level[one] <= level[two] else (two, one)
            if level[low] - level[node] >= least:
                peaks.append(low)
            parent[low] = high
    peaks += {root(node) for node in order}
    peaks.sort(key=lambda node: -level[node])
    return [(node // columns - 1, node % columns - 1) for node in peaks]


# Strokes of the label's characters in a box 0.6 wide and 1 high: polylines of (x, y).
_STROKES: dict[str, list[list[tuple[float, float]]]] = {
    "A": [[(0, 0), (0.3, 1), (0.6, 0)], [(0.12, 0.38), (0.48, 0.38)]],
    "B": [
        [(0, 0), (0, 1), (0.38, 1), (0.54, 0.88), (0.54, 0.66), (0.38, 0.54), (0, 0.54)],
        [(0.38, 0.54), (0.6, 0.4), (0.6, 0.14), (0.4, 0), (0, 0)],
    ],
    "0": [[(0.15, 0), (0, 0.2), (0, 0.8), (0.15, 1), (0.45, 1), (0.6, 0.8), (0.6, 0.2), (0.45, 0), (0.15, 0)]],
    "1": [[(0.1, 0.78), (0.35, 1), (0.35, 0)]],
    "2": [[(0, 0.78), (0.15, 1), (0.45, 1), (0.6, 0.8), (0.6, 0.62), (0, 0), (0.6, 0)]],
    "3": [[(0, 1), (0.6, 1), (0.28, 0.6), (0.5, 0.52), (0.6, 0.35), (0.6, 0.15), (0.45, 0), (0.15, 0), (0, 0.15)]],
    "4": [[(0.42, 0), (0.42, 1), (0, 0.3), (0.6, 0.3)]],
    "5": [[(0.56, 1), (0.06, 1), (0, 0.55), (0.4, 0.6), (0.6, 0.42), (0.6, 0.18), (0.42, 0), (0.12, 0), (0, 0.12)]],
    "6": [[(0.5, 1), (0.15, 0.7), (0, 0.35), (0, 0.15), (0.15, 0), (0.45, 0), (0.6, 0.18), (0.6, 0.38), (0.42, 0.54),
           (0.12, 0.5), (0, 0.35)]],
    "7": [[(0, 1), (0.6, 1), (0.2, 0)]],
    "8": [[(0.3, 0.54), (0.06, 0.7), (0.06, 0.88), (0.2, 1), (0.4, 1), (0.54, 0.88), (0.54, 0.7), (0.3, 0.54),
           (0.6, 0.38), (0.6, 0.14), (0.42, 0), (0.18, 0), (0, 0.14), (0, 0.38), (0.3, 0.54)]],
    "9": [[(0.1, 0), (0.45, 0.3), (0.6, 0.65), (0.6, 0.85), (0.45, 1), (0.15, 1), (0, 0.82), (0, 0.62), (0.18, 0.46),
           (0.48, 0.5), (0.6, 0.65)]],
}  # fmt: skip


def _text_distance(points: np.ndarray, text: str) -> np.ndarray:
    """Distance of points (..., 2) from the strokes of a text whose characters are 0.6 wide, 1 high and 0.3 apart."""
    best = np.full(points.shape[:-1], np.inf)
    for number, character in enumerate(text):
        for line in _STROKES[character]:
            corners = np.array(line) + np.array([0.9 * number, 0])
            for start, end in pairwise(corners):
                along = end - start
                share = np.clip(((points - start) @ along) / (along @ along), 0, 1)
                best = np.minimum(best, np.linalg.norm(points - start - share[..., None] * along, axis=-1))
    return best
