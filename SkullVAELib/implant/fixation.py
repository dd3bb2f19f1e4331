"""Fixation of an implant: screw tabs and a flange on the outer surface of the bone, and where screws find bone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.geometry.affines import apply_affine, as_place, perpendicular_axes
from SkullVAELib.geometry.volume import Volume, sample_volume
from SkullVAELib.implant.addition_options import FARTHEST_TAB_MM, TAB_MM, AdditionOptions
from SkullVAELib.implant.implicit_solid import FAR_MM, FineGrid, OuterSurface, rounded_intersection
from SkullVAELib.implant.rim_line import RimLine, SurfaceNodes, interpolated
from SkullVAELib.mesh.distance import BoneDistance

GAP_MM = 2.0
"""Width of a gap at which the bone below a screw ends; narrower ones, such as diploe below the threshold, do not count
as bone but do not end it."""

DEEPEST_MM = 20.0
"""Length over which bone is measured along a screw's axis."""

_SEARCH_MM = 3.0
"""Largest distance between the outer surface of the completed shape and that of the bone below a tab."""

_STEP_MM = 0.25
"""Step of the samples along a ray through bone."""

_WIDEST_SEARCH_MM = 12.0
"""Distance from the rim within which thick bone is sought for a tab."""

_ROOT_MM = 2.0
"""Distance from the rim that the middle line of a tab reaches over the plate."""

_RAMP_MM = 2.5
"""Length of the ramp from the plate to the top of a tab or flange."""

_FILLED_MM = 1.0
"""Depth that tabs and flange reach into the plate, so that they are one body."""

_EDGE_MM = 0.4
"""Radius of the upper edges of tabs and flange."""

_EVEN_MM = 0.8
"""Standard deviation of the smoothing of the upper face."""

_DEEP_MM = 2.0
"""Depth in bone below which distances are not computed."""

_CLOSE_MM = 1.0
"""Difference of an interpolated distance from the clearance below which the exact distance is computed."""

_LEFT_MM = 0.6
"""Minimum height of the cylindrical part of a screw hole below the countersink."""

_TOO_NEAR = "other screws are too near"
"""Why there is no screw where another one has no room."""

_SUPPORTED_MM = 2.5
"""Distance of the upper face from bone, beyond its own height, above which there is no flange."""


@dataclass(frozen=True)
class Site:
    """Where a screw is.

    Attributes
    ----------
    at : numpy.ndarray
        (3,) where its axis meets the outer surface of the bone, RAS mm.
    axis : numpy.ndarray
        (3,) outward unit vector.
    bone_mm : float
        Bone along the axis, without gaps, as `bone_along` measures it.
    base : numpy.ndarray
        (3,) where its axis meets the completed outer surface.
    """

    at: np.ndarray
    axis: np.ndarray
    bone_mm: float
    base: np.ndarray


@dataclass
class Fixation:
    """Tabs and flange of one defect's plate.

    Attributes
    ----------
    solid : numpy.ndarray
        Function (*shape), negative inside; without the screw holes.
    screws : list of Site
        The screws.
    lines : list of (start, end)
        For each screw the middle line of its tab, (3,) points; the same point twice for a screw in the flange.
    warnings : list of str
        What could not be placed.
    """

    solid: np.ndarray
    screws: list[Site] = field(default_factory=list)
    lines: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def bone_along(bone: Volume, points: np.ndarray, inward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure bone along rays.

    Parameters
    ----------
    bone : Volume
        Bool voxels.
    points : numpy.ndarray
        (N, 3) on the completed outer surface, RAS mm.
    inward : numpy.ndarray
        (N, 3) unit directions; a ray starts `_SEARCH_MM` before its point.

    Returns
    -------
    entry : numpy.ndarray
        (N,) mm from the point to where the ray enters bone, infinite where it does not within `_SEARCH_MM`.
    bone_mm : numpy.ndarray
        (N,) bone from there to the first gap wider than `GAP_MM`, without gaps; 0 where there is none.
    """
    places = np.arange(-_SEARCH_MM, DEEPEST_MM, _STEP_MM)
    rays = points[:, None] + places[:, None] * inward[:, None]
    values = sample_volume(bone, rays.reshape(-1, 3), 0.0).reshape(len(points), -1)
    inside = values >= 0.5
    first = inside.argmax(1)
    rows = np.arange(len(points))
    before = values[rows, np.maximum(first - 1, 0)]
    share = np.where(first > 0, (0.5 - before) / np.maximum(values[rows, first] - before, 1e-6), 1.0)
    entry = places[first] - (1 - share) * _STEP_MM
    found = inside.any(1) & (entry <= _SEARCH_MM) & (first > 0)
    total, gap = np.zeros(len(points)), np.zeros(len(points))
    going = found.copy()
    for column in range(inside.shape[1]):
        now = inside[:, column]
        started = going & (column >= first)
        total += np.where(started & now, _STEP_MM, 0.0)
        gap = np.where(now, 0.0, gap + _STEP_MM)
        going &= ~((column >= first) & (gap > GAP_MM))
    return np.where(found, entry, np.inf), np.where(found, total, 0.0)


class Ground:
    """The bone around a plate that tabs and flange lie on.

    Parameters
    ----------
    bone : Volume
        Bool voxels of the bone of the input.
    others : numpy.ndarray
        (N, 3) voxels of the implants of other defects, RAS mm.
    """

    def __init__(self, bone: Volume, others: np.ndarray):
        self.bone = bone
        self._others = cKDTree(others) if len(others) else None
        self._inverse = np.linalg.inv(bone.affine)

    def in_image(self, points: np.ndarray) -> np.ndarray:
        """Whether points (N, 3) are within the image, (N,) bool."""
        index = apply_affine(self._inverse, points)
        return np.all((index >= 0) & (index <= np.array(self.bone.array.shape) - 1), axis=1)

    def other_defect(self, points: np.ndarray, limit_mm: float) -> np.ndarray:
        """Distances (N,) of points (N, 3) to the implants of other defects, infinite beyond a limit."""
        if self._others is None:
            return np.full(len(points), np.inf)
        return self._others.query(points, distance_upper_bound=limit_mm)[0]


@dataclass(frozen=True)
class Candidates:
    """Possible positions of screws, N of them; attributes as the figures of a position.

    Attributes
    ----------
    base, normals : numpy.ndarray
        (N, 3) on the completed outer surface, and outward.
    entry, bone_mm : numpy.ndarray
        (N,) as from `bone_along`.
    in_image, supported : numpy.ndarray
        (N,) bool; supported: there is bone below all of the tab's pad.
    other_mm : numpy.ndarray
        (N,) distance to another defect.
    occupied : numpy.ndarray
        (N,) bool, whether a tab is too near for another one.
    """

    base: np.ndarray
    normals: np.ndarray
    entry: np.ndarray
    bone_mm: np.ndarray
    in_image: np.ndarray
    supported: np.ndarray
    other_mm: np.ndarray
    occupied: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, outer: OuterSurface, ground: Ground, pad_mm: float) -> Candidates:
        """Examine positions (N, 3) on the completed outer surface."""
        normals = outer.normal(points)
        first, second = perpendicular_axes(normals)
        entry, bone_mm = bone_along(ground.bone, points, -normals)
        in_image = ground.in_image(points)
        supported = np.isfinite(entry)
        for angle in np.arange(8) * np.pi / 4:
            around = points + pad_mm * (np.cos(angle) * first + np.sin(angle) * second)
            in_image &= ground.in_image(around)
            there, thick = bone_along(ground.bone, around, -normals)
            supported &= np.isfinite(there) & (thick >= 1.0)
        other = ground.other_defect(points, pad_mm + 2.0)
        return cls(points, normals, entry, bone_mm, in_image, supported, other, np.zeros(len(points), bool))

    def valid(self, least_mm: float) -> np.ndarray:
        """Which positions have room and enough bone, (N,) bool."""
        free = self.in_image & ~self.occupied & np.isinf(self.other_mm)
        return free & self.supported & (self.bone_mm >= least_mm)

    def site(self, number: int) -> Site:
        """The screw at a position."""
        axis = self.normals[number]
        at = self.base[number] - self.entry[number] * axis
        return Site(at, axis, float(self.bone_mm[number]), self.base[number])

    def reason(self, which: np.ndarray, least_mm: float) -> str:
        """Why none of some positions (indices) is valid."""
        if not len(which) or not self.in_image[which].any():
            return "the image ends there"
        which = which[self.in_image[which]]
        if self.occupied[which].all() or self.valid(least_mm)[which].any():
            return _TOO_NEAR
        which = which[~self.occupied[which]]
        if np.isfinite(self.other_mm[which]).all():
            return f"another defect is {self.other_mm[which].max():.1f} mm away"
        thick = self.bone_mm[which].max()
        if thick < least_mm:
            return f"the bone is at most {thick:.1f} mm thick there, less than {least_mm:g} mm"
        return f"the bone does not support all of it ({np.mean(self.supported[which]):.0%} of the positions there do)"


def make_fixation(
    plate: np.ndarray,
    grid: FineGrid,
    outer: OuterSurface,
    rim: RimLine,
    ground: Ground,
    bone: BoneDistance | None,
    deficit: Callable[[np.ndarray], np.ndarray],
    clearance_mm: float,
    under_mm: float,
    options: AdditionOptions,
    tab_at: np.ndarray,
) -> Fixation:
    """Make tabs and flange of a plate.

    Parameters
    ----------
    plate : numpy.ndarray
        Function (*shape) of the plate, negative inside.
    grid, outer, rim, ground
        The grid, the completed outer surface, the plate's rim on it, and the bone around.
    bone : BoneDistance or None
        Distances to the bone.
    deficit : callable
        Gives the clearance minus the distance to bone, (M,) at the active nodes, for a bool array (M,) of the nodes
        that are needed.
    clearance_mm, under_mm : float
        Clearance to bone, and recess of the plate's outer face.
    options : AdditionOptions
        What is made.
    tab_at : numpy.ndarray
        (N, 3) screws of tabs at given points, RAS mm.

    Returns
    -------
    Fixation
        The solid without screw holes, the screws and the warnings.
    """
    made = Fixation(np.full(grid.shape, FAR_MM, np.float32))
    if bone is None or not len(rim.points):
        made.warnings.append("There is no bone around the implant for tabs or a flange. They are left out.")
        return made
    tabs = _tab_sites(outer, rim, ground, options, tab_at, made.warnings)
    screws: list[Site] = []
    if options.flange_mm and options.flange_screws:
        screws = _flange_sites(outer, rim, ground, options, [site.base for site in tabs], made.warnings)
    made.screws = [*tabs, *screws]
    if not made.screws and not options.flange_mm:
        return made
    heights = [options.tab_thickness_mm] * bool(tabs) + [options.flange_thickness_mm] * bool(options.flange_mm)
    highest = clearance_mm + max(heights)
    near = np.zeros(grid.shape, bool)
    if options.flange_mm:
        near |= grid.near(rim.points, options.flange_mm + 2.0 + highest)
    segments = [_segment(site, outer, rim) for site in tabs]
    made.lines = [*segments, *((site.base, site.base) for site in screws)]
    for start, end in segments:
        steps = np.linspace(0, 1, 12)[:, None]
        near |= grid.near(start + steps * (end - start), options.pad_mm + highest + 2.5)
    wanted = grid.active[near.ravel()[grid.active]]
    nodes = SurfaceNodes.of(grid, outer, rim, wanted, (-under_mm - _FILLED_MM - 2.5, highest + 3.0))
    distance = _to_bone(bone, grid, nodes, highest + 2.0)
    blocked = _outward(grid, nodes, distance, deficit, clearance_mm)
    base = _even_base(grid, nodes, distance)
    allowed = np.where(ground.in_image(nodes.points), -FAR_MM, FAR_MM)
    limit = clearance_mm + 1.5
    other = ground.other_defect(nodes.points, limit + FAR_MM)
    allowed = np.maximum(allowed, limit - np.minimum(other, limit + FAR_MM))
    lower = -(under_mm + _FILLED_MM) - np.clip(nodes.rim, 0, 2.0) - nodes.height
    bottom = np.maximum(blocked, np.maximum(lower, allowed))
    function = np.full(len(nodes.flat), FAR_MM)
    if options.flange_mm:
        height = clearance_mm + options.flange_thickness_mm
        unsupported = np.where(nodes.rim > 2.0, distance - height - _SUPPORTED_MM, -FAR_MM)
        side = np.maximum(nodes.rim - options.flange_mm, -nodes.rim - under_mm - _RAMP_MM - 1.5)
        ramp = np.clip((nodes.rim + 1.5 + _RAMP_MM) / _RAMP_MM, 0, 1)
        top = base - (height + under_mm) * ramp + under_mm
        function = np.maximum(rounded_intersection([side, top], _EDGE_MM), np.maximum(unsupported, bottom))
        _check_flange(outer, rim, ground, options.flange_mm, made.warnings)
    height = clearance_mm + options.tab_thickness_mm
    for site, (start, end) in zip(tabs, segments, strict=True):
        room = float(np.linalg.norm(end - start)) / 2 + options.pad_mm + FAR_MM + height
        own = np.flatnonzero(np.linalg.norm(nodes.points - (start + end) / 2, axis=1) < room)
        across, along = capsule(nodes.points[own], start, end, site.axis)
        ramp = np.clip((along + options.pad_mm) / _RAMP_MM, 0, 1)
        top = base[own] - (height + under_mm) * ramp + under_mm
        part = np.maximum(rounded_intersection([across - options.pad_mm, top], _EDGE_MM), bottom[own])
        function[own] = np.minimum(function[own], part)
    made.solid.ravel()[nodes.flat] = np.clip(function, -FAR_MM, FAR_MM)
    return made


def _outward(
    grid: FineGrid,
    nodes: SurfaceNodes,
    distance: np.ndarray,
    deficit: Callable[[np.ndarray], np.ndarray],
    clearance_mm: float,
) -> np.ndarray:
    """Clearance minus distance to bone, (M,), the largest of a node and those outwards of it along the third axis.

    Material below an overhang of bone, or in an open cell of the diploe, would keep the implant from being inserted.
    distance: as from `_to_bone`; it is replaced by the exact one where that decides.
    """
    close = np.abs(distance - clearance_mm) < _CLOSE_MM
    needed = np.isin(grid.active, nodes.flat[close], assume_unique=True)
    array = np.full(grid.shape, -FAR_MM, np.float32)
    flat = array.ravel()
    flat[nodes.flat] = clearance_mm - distance
    flat[grid.active[needed]] = deficit(needed)[needed]
    return np.maximum.accumulate(array[:, :, ::-1], axis=2)[:, :, ::-1].ravel()[nodes.flat]


def _to_bone(bone: BoneDistance, grid: FineGrid, nodes: SurfaceNodes, reach_mm: float) -> np.ndarray:
    """Distances (M,) of nodes to bone, mm, interpolated; negative in bone, limited where they do not matter."""

    def distances(points: np.ndarray) -> list[np.ndarray]:
        inside = bone.in_bone(points)
        distance = np.where(inside, -_DEEP_MM, reach_mm)
        near = np.flatnonzero(bone.nearby(points, reach_mm + bone.triangle_mm) < np.inf)
        near = near[~inside[near] | (bone.nearby(points[near], _DEEP_MM) < np.inf)]
        distance[near] = np.clip(bone.signed(points[near]), -_DEEP_MM, reach_mm)
        return [distance]

    return interpolated(grid, nodes.flat, distances)[0]


def _even_base(grid: FineGrid, nodes: SurfaceNodes, distance: np.ndarray) -> np.ndarray:
    """Height (M,) of nodes above bone and plate together, smoothed, mm."""
    array = grid.spread(np.full(len(grid.active), FAR_MM, np.float32))
    array.ravel()[nodes.flat] = np.minimum(nodes.height, distance)
    box = tuple(
        slice(max(0, low - 1), high + 2)
        for low, high in zip(grid.index(nodes.flat).min(0), grid.index(nodes.flat).max(0), strict=True)
    )
    known = np.zeros(grid.shape, np.float32)
    known.ravel()[nodes.flat] = 1.0
    sigma = _EVEN_MM / grid.step_mm
    weight = ndimage.gaussian_filter(known[box], sigma, truncate=2)
    smooth = ndimage.gaussian_filter(array[box] * known[box], sigma, truncate=2) / np.maximum(weight, 1e-6)
    array[box] = smooth
    return array.ravel()[nodes.flat]


def capsule(points: np.ndarray, start: np.ndarray, end: np.ndarray, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance (N,) from the line between two points and position (N,) along it, both seen along an axis."""
    flat = (end - start) - ((end - start) @ axis) * axis
    length = float(np.linalg.norm(flat))
    along_axis = flat / max(length, 1e-6)
    offset = points - start
    offset = offset - (offset @ axis)[:, None] * axis
    along = offset @ along_axis
    foot = np.clip(along, 0, length)
    return np.linalg.norm(offset - foot[:, None] * along_axis, axis=1), along


def _segment(site: Site, outer: OuterSurface, rim: RimLine) -> tuple[np.ndarray, np.ndarray]:
    """The middle line of a tab from the plate to its screw, on the outer surface."""
    at = rim.nearest(site.base[None])[0]
    inwards = at - site.base
    inwards /= max(float(np.linalg.norm(inwards)), 1e-6)
    start = outer.points[outer.nearest((at + _ROOT_MM * inwards)[None])[0]]
    return (start if rim.signed(start[None])[0] < 0 else at), site.base


def _some(points: np.ndarray, apart_mm: float) -> np.ndarray:
    """Points (N, 3) thinned to about one for each cube of a size; deterministic."""
    cells = np.floor(points / apart_mm).astype(np.int64)
    _, first = np.unique(cells, axis=0, return_index=True)
    return points[np.sort(first)]


def _ring(outer: OuterSurface, rim: RimLine, low_mm: float, high_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) of the outer surface at a distance from the rim, about 1 mm apart, and that distance (N,)."""
    near = cKDTree(rim.points).query(outer.points, distance_upper_bound=high_mm)[0]
    points = _some(outer.points[(near < np.inf) & (near >= low_mm)], 1.0)
    away = rim.signed(points)
    return points[away > 0], away[away > 0]


def _spread_evenly(ring: np.ndarray, count: int, first: int) -> np.ndarray:
    """(count, 3) centres of groups of equal size of the points (N, 3) of a ring, by Lloyd's method."""
    chosen = [ring[first]]
    away = np.linalg.norm(ring - chosen[0], axis=1)
    for _ in range(count - 1):
        chosen.append(ring[away.argmax()])
        away = np.minimum(away, np.linalg.norm(ring - chosen[-1], axis=1))
    centres = np.array(chosen)
    for _ in range(25):
        own = cKDTree(centres).query(ring)[1]
        means = np.array([ring[own == k].mean(0) if (own == k).any() else centres[k] for k in range(count)])
        moved = ring[cKDTree(ring).query(means)[1]]
        if np.allclose(moved, centres):
            break
        centres = moved
    return centres


def _choose(
    candidates: Candidates, cost: np.ndarray, ring: np.ndarray, count: int, apart_mm: float, least_mm: float
) -> tuple[list[int], list[np.ndarray]]:
    """Numbers of the candidates for screws evenly along a ring, and the places where there is none.

    Of several rotations of the even pattern, that is taken which places most, with the least shifts. cost: (N,) mm,
    added to the shift of each candidate.
    """
    valid = np.flatnonzero(candidates.valid(least_mm))
    best: tuple[tuple[int, float], list[int], list[np.ndarray]] | None = None
    middle = ring.mean(0)
    starts = np.unique(np.linspace(0, len(ring) - 1, 6).astype(int))
    starts = np.concatenate([[np.linalg.norm(ring - middle, axis=1).argmax()], starts])
    for first in starts:
        targets = _spread_evenly(ring, count, int(first))
        if count > 1:
            gaps = cKDTree(targets).query(targets, k=2)[0][:, 1]
            room = float(np.median(gaps)) * 0.4
        else:
            room = FARTHEST_TAB_MM
        taken: list[int] = []
        missed: list[np.ndarray] = []
        shifts = 0.0
        for target in targets:
            away = np.linalg.norm(candidates.base[valid] - target, axis=1)
            free = away <= max(room, 3.0)
            for number in taken:
                free &= np.linalg.norm(candidates.base[valid] - candidates.base[number], axis=1) >= apart_mm
            if not free.any():
                missed.append(target)
                continue
            total = np.where(free, away + cost[valid], np.inf)
            taken.append(int(valid[total.argmin()]))
            shifts += float(total.min())
        key = (len(missed), shifts)
        if best is None or key < best[0]:
            best = key, taken, missed
    return ([], []) if best is None else best[1:]


def _tab_sites(
    outer: OuterSurface,
    rim: RimLine,
    ground: Ground,
    options: AdditionOptions,
    tab_at: np.ndarray,
    warnings: list[str],
) -> list[Site]:
    """The screws of all tabs."""
    pad, least = options.pad_mm, options.screw_bone_mm
    sites: list[Site] = []
    nearest_mm = max(TAB_MM, pad + 1.0)
    for point in tab_at:
        base = outer.points[outer.nearest(point[None])]
        from_rim = float(rim.signed(base)[0])
        at = Candidates.of(base, outer, ground, pad)
        off = float(np.linalg.norm(base[0] - point))
        if not pad < from_rim <= FARTHEST_TAB_MM or off > 10.0:
            figure = f"{off:.1f} mm from the outer surface" if off > 10.0 else f"{from_rim:.1f} mm from the rim"
            warnings.append(
                f"The tab at {as_place(point)} is left out: it is {figure}. Give a point on the bone, {pad:.1f} to"
                f" {FARTHEST_TAB_MM:g} mm from the rim."
            )
        elif not at.valid(least)[0]:
            warnings.append(
                f"The tab at {as_place(point)} is left out: {at.reason(np.arange(1), least)}. Give another point, or"
                " reduce the thickness of bone with --screws."
            )
        else:
            sites.append(at.site(0))
    if not options.tabs:
        return sites
    points, away = _ring(outer, rim, nearest_mm, max(_WIDEST_SEARCH_MM, nearest_mm + 1.5))
    if not len(points):
        warnings.append("There is no room for tabs around the implant. Use an image that shows more of the skull.")
        return sites
    candidates = Candidates.of(points, outer, ground, pad)
    for site in sites:
        candidates.occupied[np.linalg.norm(points - site.base, axis=1) < 2 * pad + 2.0] = True
    ring = points[away < nearest_mm + 1.2]
    taken, missed = _choose(candidates, 0.7 * (away - nearest_mm), ring, options.tabs, 2 * pad + 2.0, least)
    sites += [candidates.site(number) for number in taken]
    _warn_of_missed(
        ("A tab", "tabs"),
        missed,
        candidates,
        (6.0, least),
        ("Use fewer tabs", "Give a point with --tab-at, or reduce the thickness of bone with --screws"),
        warnings,
    )
    return sites


def _warn_of_missed(
    names: tuple[str, str],
    missed: list[np.ndarray],
    candidates: Candidates,
    near_least_mm: tuple[float, float],
    remedies: tuple[str, str],
    warnings: list[str],
) -> None:
    """Warn of places without a screw, in one line for each cause.

    names: of one and of several; near_least_mm: radius of a place, and least thickness of bone; remedies: where other
    screws are too near, and otherwise.
    """
    by_cause: dict[str, list[np.ndarray]] = {}
    for target in missed:
        which = np.flatnonzero(np.linalg.norm(candidates.base - target, axis=1) < near_least_mm[0])
        by_cause.setdefault(candidates.reason(which, near_least_mm[1]), []).append(target)
    for cause, places in by_cause.items():
        if len(places) == 1:
            what = f"{names[0]} at {as_place(places[0])} is"
        else:
            what = f"{len(places)} {names[1]}, such as that at {as_place(places[0])}, are"
        warnings.append(f"{what} left out: {cause}. {remedies[cause != _TOO_NEAR]}.")


def _flange_sites(
    outer: OuterSurface,
    rim: RimLine,
    ground: Ground,
    options: AdditionOptions,
    tabs: list[np.ndarray],
    warnings: list[str],
) -> list[Site]:
    """The screws in the flange, in the middle of its width, away from those of the tabs."""
    width, least = float(options.flange_mm or 0.0), options.screw_bone_mm
    points, away = _ring(outer, rim, width / 2 - 0.6, width / 2 + 0.6)
    if not len(points):
        return []
    head = options.screw_diameter_mm + 0.8
    candidates = Candidates.of(points, outer, ground, head)
    for base in tabs:
        near = np.linalg.norm(candidates.base - base, axis=1) < 2 * head + options.pad_mm
        candidates.occupied[near] = True
    taken, missed = _choose(candidates, np.abs(away - width / 2), points, options.flange_screws, 2 * head + 1.0, least)
    remedies = "Use fewer screws or tabs", "Use fewer screws, or reduce the thickness of bone with --screws"
    names = "A screw of the flange", "screws of the flange"
    _warn_of_missed(names, missed, candidates, (5.0, least), remedies, warnings)
    return [candidates.site(number) for number in taken]


def _check_flange(outer: OuterSurface, rim: RimLine, ground: Ground, width_mm: float, warnings: list[str]) -> None:
    """Warn where there is no bone for the flange to lie on."""
    points, _ = _ring(outer, rim, width_mm - 1.5, width_mm)
    if not len(points):
        return
    entry, _ = bone_along(ground.bone, points, -outer.normal(points))
    missing = np.isinf(entry) | ~ground.in_image(points)
    if missing.mean() > 0.02:
        at = points[missing]
        middle = at[np.linalg.norm(at - at.mean(0), axis=1).argmin()]
        warnings.append(
            f"The flange is left out over {missing.mean():.0%} of its edge, where there is no bone below it, such as at"
            f" {as_place(middle)}. Use a narrower flange, or tabs."
        )


def drill_screw(solid: np.ndarray, grid: FineGrid, site: Site, diameter_mm: float, deepest_mm: float) -> float | None:
    """Cut a countersunk hole for a screw.

    Parameters
    ----------
    solid : numpy.ndarray
        Function (*shape), negative inside; it is changed.
    grid : FineGrid
        The grid.
    site : Site
        The screw.
    diameter_mm : float
        Diameter of the hole; the countersink is twice as wide at the top.
    deepest_mm : float
        Depth of the drill below the outer surface of the bone.

    Returns
    -------
    float or None
        Thickness of the tab or flange there, mm; None where the solid has nothing at the screw.
    """
    heights = np.arange(8.0, -deepest_mm, -0.05)
    values = grid.sample(solid, site.at + heights[:, None] * site.axis)
    inside = values < 0
    if not inside.any():
        return None
    top = float(heights[inside.argmax()])
    below = np.flatnonzero(~inside & (heights < top))
    bottom = float(heights[below[0]]) if len(below) else -deepest_mm
    sink = min(diameter_mm / 2, max(top - bottom - _LEFT_MM, 0.0))
    radius = diameter_mm / 2
    ends = site.at + np.array([[top + 2.0], [-deepest_mm]]) * site.axis
    box, points = grid_box(grid, ends, diameter_mm + 2.0)
    offset = points - site.at
    along = offset @ site.axis
    across = np.linalg.norm(offset - along[..., None] * site.axis, axis=-1)
    cone = np.maximum((across - radius - (along - top + sink)) / np.sqrt(2), across - radius - sink - 0.1)
    # Within the plate, should the hole be so near to it, the drill ends above the completed outer surface.
    drill = np.maximum(np.minimum(across - radius, cone), np.maximum(along - top - 2.0, -along - deepest_mm))
    solid[box] = cut_rounded(solid[box], drill, grid.step_mm)
    return top - bottom


def cut_rounded(solid: np.ndarray, tool: np.ndarray, edge_mm: float) -> np.ndarray:
    """Cut a tool, a function that is negative inside, out of a solid, with rounded edges."""
    cut = rounded_intersection([solid, -tool], edge_mm)
    return np.where(tool < 2 * edge_mm, cut, solid).astype(np.float32)


def grid_box(grid: FineGrid, points: np.ndarray, room_mm: float) -> tuple[tuple[slice, slice, slice], np.ndarray]:
    """The part of a grid around points (N, 3): its slices, and the positions (a, b, c, 3) of its nodes, RAS mm."""
    index = apply_affine(np.linalg.inv(grid.affine), points)
    room = room_mm / grid.step_mm
    low = np.clip(np.floor(index.min(0) - room).astype(int), 0, np.array(grid.shape) - 1)
    high = np.clip(np.ceil(index.max(0) + room).astype(int) + 1, low + 1, grid.shape)
    first, second, third = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    axes = (np.arange(a, b) for a, b in zip(low, high, strict=True))
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    return (first, second, third), apply_affine(grid.affine, nodes)
