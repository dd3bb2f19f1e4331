"""The part to be made: the implant as a solid below the voxel size, with clearance, thickness, holes and pieces.

The implant's voxels say where a defect is; the shape they were made of, which is known between voxels, says where its
surface lies. On a fine grid of its own each defect becomes

    inside the completed shape  AND  where bone is missing  AND  at least the clearance away from bone,

shelled to the thickness asked for, perforated and split. Every distance is one to a surface and not to voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from SkullVAELib.core.threads import one_thread
from SkullVAELib.geometry.affines import apply_affine, scale_of
from SkullVAELib.geometry.distance_field import downsample_mask
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop, sample_volume
from SkullVAELib.implant.implicit_solid import (
    FAR_MM,
    FineGrid,
    OuterSurface,
    contour,
    fine_grid,
    largest_solid,
    remove_thin_features,
    rounded_intersection,
)
from SkullVAELib.implant.measures import classify_points, measure_piece, size_figures, thickness_map
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.implant.perforation import HolePattern, perforate
from SkullVAELib.implant.split import split_plate
from SkullVAELib.mesh.distance import BoneDistance
from SkullVAELib.mesh.isosurface import GreyLevels, bone_surface, mask_surface
from SkullVAELib.mesh.mesh import Mesh, concatenate_meshes, largest_mesh_component

if TYPE_CHECKING:
    from SkullVAELib.completion.result import Completion, ImplantShape

SMALLEST_ML = 0.05
"""A piece smaller than this is no part."""


@dataclass(frozen=True)
class ImplantPiece:
    """One piece of the part: a closed mesh, and what was measured of it.

    thickness_mm: (N,) at each point of the mesh, None unless asked for; defect: number of its defect, from 1; figures:
    for the report.
    """

    mesh: Mesh
    thickness_mm: np.ndarray | None
    defect: int
    figures: dict


@dataclass(frozen=True)
class PrintableImplant:
    """The pieces of the part, largest defect first, and what a reader must know."""

    pieces: list[ImplantPiece]
    warnings: list[str]

    @property
    def mesh(self) -> Mesh:
        """All pieces in one."""
        return concatenate_meshes([piece.mesh for piece in self.pieces])

    @property
    def thickness_mm(self) -> np.ndarray | None:
        """(N,) at each point of `mesh`, None unless asked for."""
        maps = [piece.thickness_mm for piece in self.pieces if piece.thickness_mm is not None]
        return np.concatenate(maps) if maps and len(maps) == len(self.pieces) else None


@one_thread()
def make_implant(completion: Completion, options: ImplantOptions, grey: GreyLevels | None = None) -> PrintableImplant:
    """The part for every defect of a completion that found one.

    grey: the CT that was completed, if it was one: it tells where bone begins between two voxels.
    A request that a defect cannot bear costs its islands and, at worst, the piece; warnings say so. Where nothing is
    asked for and the shape is too thin for the grid, a piece is the surface of the implant's voxels.
    """
    implant, proposal = completion.implant, completion.proposal
    if not implant.array.any():
        return PrintableImplant([], [])
    box = bounding_box(implant.array, margin=3)
    local = crop(implant, box)
    labels, count = ndimage.label(local.array)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    host = local_bone(completion, options, grey)
    pieces: list[ImplantPiece] = []
    warnings: list[str] = []
    for number, label in enumerate(np.argsort(-sizes, kind="stable") + 1, 1):
        mask = local.with_array(labels == label)
        mask = crop(mask, bounding_box(mask.array, margin=3))
        made: list[ImplantPiece] = []
        told: list[str] = []
        if proposal is not None:
            made, told = _of_defect(mask, proposal, host, options, number)
        if not made and options.plain:
            made, told = [_of_voxels(mask, number)], []
        pieces += made
        name = f"Defect {number}: " if count > 1 else ""
        warnings += [name + text for text in told]
    return PrintableImplant(pieces, warnings)


def local_bone(completion: Completion, options: ImplantOptions, grey: GreyLevels | None) -> BoneDistance | None:
    """Distances to the surface of the bone around the implant; None where there is none."""
    reach = max(6.0, options.clearance_mm + 3.0) + options.depth_mm
    bone, implant = completion.bone, completion.implant
    box = bounding_box(implant.array, margin=np.ceil(reach / bone.spacing).astype(int) + 1)
    near = _neighbourhood(implant.array[box], bone.spacing, reach)
    here = Volume(bone.array[box] & near, crop(bone, box).affine)
    mesh = bone_surface(here, None if grey is None else grey.crop(box))
    return BoneDistance(mesh, crop(bone, box)) if len(mesh.faces) else None


def _neighbourhood(mask: np.ndarray, spacing: np.ndarray, reach_mm: float) -> np.ndarray:
    """Bool mask of what lies within about reach_mm of a mask, in blocks of 2 mm, which is all that is needed."""
    factor = np.maximum(1, np.round(2.0 / spacing)).astype(int)
    padded = np.pad(mask, [(0, -n % f) for n, f in zip(mask.shape, factor, strict=True)])
    shape = [v for n, f in zip(padded.shape, factor, strict=True) for v in (n // f, f)]
    blocks = padded.reshape(shape).any(axis=(1, 3, 5))
    near = ndimage.distance_transform_edt(~blocks, sampling=spacing * factor) <= reach_mm
    for axis, times in enumerate(factor):
        near = near.repeat(times, axis)
    return near[tuple(slice(n) for n in mask.shape)]


def _of_defect(
    mask: Volume, proposal: ImplantShape, host: BoneDistance | None, options: ImplantOptions, number: int
) -> tuple[list[ImplantPiece], list[str]]:
    """The pieces for one defect and the warnings about it; mask: its implant voxels."""
    centre = np.linalg.inv(proposal.alignment)[:3, 3]
    middle = mask.affine[:3, :3] @ np.argwhere(mask.array).mean(0) + mask.affine[:3, 3]
    reach = max(2.5, options.depth_mm + 1.5) + options.smoothing_mm
    grid = fine_grid(mask, middle - centre, reach, options.step_mm)
    field = _shape(grid, proposal, options.smoothing_mm)
    outer = OuterSurface(field, grid, centre)
    solid = _plate(grid, field, _extent(grid, mask, proposal.score), outer, host, options)
    solid = remove_thin_features(solid, grid, options.thinnest_mm)
    whole, count, share = largest_solid(solid)
    told = []
    if not count:
        return [], ["Nothing is left of the part: the clearance or the thickness leaves no room for it."]
    if share < 0.98:
        told.append(f"The part fell into {count} pieces; the largest, {share:.0%} of it, is kept.")
    solids = [whole]
    if options.split_mm is not None:
        solids = split_plate(whole, grid, options.split_mm, options.clearance_mm, options.edge_mm)
    made = []
    for solid in solids:
        solid, count, share = largest_solid(solid)
        mesh = contour(solid, grid)
        if mesh.volume_ml < SMALLEST_ML:
            told.append(f"A piece of {max(0.0, mesh.volume_ml):.2f} ml is left out: too small to be made.")
            continue
        if share < 0.98:
            told.append(f"A piece fell into {count} islands; the largest, {share:.0%} of it, is kept.")
        faces = classify_points(mesh, outer)
        holes = 0
        if options.hole_diameter_mm is not None:
            pattern = HolePattern(options.hole_diameter_mm, options.hole_pitch_mm, options.hole_margin_mm)
            solid, holes = perforate(solid, grid, mesh, faces, outer, pattern, options.edge_mm)
            mesh = contour(largest_solid(solid)[0], grid)
            faces = classify_points(mesh, outer)
            if not holes:
                told.append("There is no room for a perfusion hole.")
        tunnels = 1 - (len(mesh.points) - len(mesh.faces) // 2) // 2 - holes
        if tunnels < 0:
            told.append(f"{-tunnels} of the holes do not go through.")
        if tunnels > 0:
            told.append(f"The plate has {tunnels} openings nobody asked for, where it is too thin.")
        figures = {"defect": number, "holes": holes, **measure_piece(mesh, faces, solid, grid, host, outer, options)}
        thickness = thickness_map(mesh, faces, solid, grid) if options.thickness_map else None
        made.append(ImplantPiece(mesh, thickness, number, figures))
    return made, told


def _of_voxels(mask: Volume, number: int) -> ImplantPiece:
    """The surface of a defect's implant voxels."""
    mesh = largest_mesh_component(mask_surface(mask))
    return ImplantPiece(mesh, None, number, {"defect": number, "holes": 0, **size_figures(mesh)})


def _shape(grid: FineGrid, proposal: ImplantShape, smoothing_mm: float) -> np.ndarray:
    """The completed shape on the grid, about mm in the patient's space, negative inside; (*shape)."""
    matrix = proposal.alignment @ grid.affine
    values = proposal.shape.at_voxels(matrix, grid.index(grid.active)) / scale_of(proposal.alignment)
    limit = FAR_MM - 1
    field = grid.spread(np.clip(values, -limit, limit), limit)
    # Between the nodes of its own 2 mm grid the shape has creases, which smoothing by less than they are apart removes.
    return ndimage.gaussian_filter(field, smoothing_mm / grid.step_mm, truncate=3) if smoothing_mm > 0 else field


def _extent(grid: FineGrid, mask: Volume, score: Volume) -> np.ndarray:
    """Where the implant may be along the skull, about mm, negative inside, on the grid's active nodes (M,).

    Two functions, the score of missing bone, and a distance to the implant's own voxels, which leave out what was no
    implant: threads that were cut, and other defects.
    """
    points = grid.points(grid.active)
    smooth = score.with_array(ndimage.gaussian_filter(score.array, 0.7))
    lacking = -4.0 * sample_volume(smooth, points, -1.0)  # the score rises by about a quarter in a millimetre
    coarse = downsample_mask(mask)
    soft = coarse.with_array(ndimage.gaussian_filter(coarse.array, 0.7))
    # Steep, for this is a stop and no wall to be rounded against: on the plate's faces it must be far from zero.
    beside = (0.15 - sample_volume(soft, points, 0.0)) * 8.0 * float(coarse.spacing.mean())
    return np.maximum(lacking, beside)


def _plate(
    grid: FineGrid,
    field: np.ndarray,
    extent: np.ndarray,
    outer: OuterSurface,
    host: BoneDistance | None,
    options: ImplantOptions,
) -> np.ndarray:
    """The solid: function on the grid, (*shape), negative inside.

    The edges between its faces and its walls are rounded, its faces not against each other: where two of them nearly
    coincide, both would give way.
    """
    own, edge = field.ravel()[grid.active], options.edge_mm
    if options.depth_mm or options.under_contour_mm:
        depth, beyond = _depth(grid, outer)
        top, bottom = options.under_contour_mm - depth, depth - options.depth_mm
        own = np.maximum(own, top)
    if not options.depth_mm:
        near_bone = _too_near(grid, host, options, np.maximum(own, extent) < 1.5 * grid.step_mm)
        return grid.spread(rounded_intersection([own, np.maximum(extent, near_bone)], edge))
    deep, above = _straight_above(grid, field, outer, depth, options)
    below = extent.copy()
    below[deep] = grid.sample(grid.spread(extent), above)
    room = 1.5 * grid.step_mm
    wanted = (np.minimum(extent, below) < room) & (depth > -room) & (bottom < room)
    if options.thickness == "minimum":
        wanted |= np.maximum(own, extent) < room  # the patient's own may be thicker
    near_bone = _too_near(grid, host, options, wanted)
    walls = np.maximum(extent, near_bone)
    below[deep] = grid.sample(grid.spread(walls), above)
    below = np.maximum(below, near_bone)
    shell = rounded_intersection([np.maximum(top, bottom), np.maximum(below, beyond - 1.5)], edge)
    if options.thickness == "constant":
        own = np.maximum(own, bottom)
    return grid.spread(np.minimum(rounded_intersection([own, walls], edge), shell))


def _depth(grid: FineGrid, outer: OuterSurface) -> tuple[np.ndarray, np.ndarray]:
    """Depth below the outer surface and distance beside it, mm, at the active nodes: two arrays (M,).

    Found on every other node and interpolated: a distance is smooth, and eight times fewer nodes are asked.
    """
    coarse_shape = tuple(-(-n // 2) + 1 for n in grid.shape)
    wanted = np.zeros(coarse_shape, bool)
    index = grid.index(grid.active)
    for corner in np.ndindex(2, 2, 2):
        wanted[tuple((index // 2 + corner).T)] = True
    nodes = np.argwhere(wanted)
    depth, beyond = outer.depth(apply_affine(grid.affine, 2 * nodes))
    out = []
    for values in (depth, beyond):
        array = np.zeros(coarse_shape, np.float32)
        array[wanted] = values
        out.append(ndimage.map_coordinates(array, index.T / 2, np.float32, order=1))
    return out[0], out[1]


def _straight_above(
    grid: FineGrid, field: np.ndarray, outer: OuterSurface, depth: np.ndarray, options: ImplantOptions
) -> tuple[np.ndarray, np.ndarray]:
    """The active nodes deeper than the patient's own inner surface, (N,), and for each the point (N, 3) straight above,
    just within the shape.

    A plate thicker than the patient's own goes on below the bone's inner table, and where the hole narrows inwards it
    must not go under the bone: it could not be put in. So there it may be where the shape above it is.
    """
    own = _own_thickness(grid, field, outer, options.depth_mm + 1.0)
    ask = np.flatnonzero((depth > 0.5) & (depth < options.depth_mm + 1.5 * grid.step_mm))
    points = grid.points(grid.active[ask])
    at = outer.nearest(points)
    over = depth[ask] - np.maximum(own[at] - 0.4, 0.3)
    moved = over > 0
    return ask[moved], points[moved] + over[moved, None] * outer.normals[at[moved]]


def _own_thickness(grid: FineGrid, field: np.ndarray, outer: OuterSurface, limit_mm: float) -> np.ndarray:
    """Thickness (N,) of the shape itself below each point of its outer surface, along the normal, at most limit_mm."""
    thickness = np.full(len(outer.points), limit_mm, np.float32)
    for down in np.arange(limit_mm, 0.4, -0.5):
        outside = grid.sample(field, outer.points - down * outer.normals) > 0
        thickness[outside] = down
    if not len(thickness):
        return thickness
    # Single rays slip through pinholes.
    return np.median(thickness[outer.neighbours(16)], axis=1)


def _too_near(grid: FineGrid, host: BoneDistance | None, options: ImplantOptions, wanted: np.ndarray) -> np.ndarray:
    """How much nearer to bone than the clearance the active nodes are, (M,) mm, negative where there is room.

    wanted: (M,) bool, nodes that may come to lie in the part; the others' values do not count.
    """
    room = options.clearance_mm + FAR_MM
    distance = np.full(len(grid.active), room)
    if host is not None:
        ask = np.flatnonzero(wanted)
        points = grid.points(grid.active[ask])
        found = np.where(host.in_bone(points), -FAR_MM, room)
        # Only next to the surface that the clearance makes does a distance have to be exact.
        reach = options.clearance_mm + options.edge_mm + 0.2 * grid.step_mm + host.triangle_mm
        near = np.flatnonzero(grid.near(host.mesh.points, reach).ravel()[grid.active[ask]])
        near = near[host.nearby(points[near], reach) < np.inf]
        found[near] = _safe(grid, grid.active[ask[near]], host.signed(points[near]), host, options.clearance_mm)
        distance[ask] = found
    return options.clearance_mm - distance


def _safe(
    grid: FineGrid, flat: np.ndarray, distance: np.ndarray, host: BoneDistance, clearance_mm: float
) -> np.ndarray:
    """Distances (N,) to bone at nodes (N,), less what interpolation between them would add where the clearance is met.

    Around a ridge of bone the surface at a clearance is curved as sharply as the clearance is small, and a grid cuts
    the bend short: by 0.15 mm at 0.3 mm. The middles of the cells that it passes through tell by how much.
    """
    known = np.full(int(np.prod(grid.shape)), np.nan, np.float32)
    known[flat] = distance
    base = flat[(grid.index(flat) + 1 < grid.shape).all(1)]
    strides = np.array([grid.shape[1] * grid.shape[2], grid.shape[2], 1])
    corners = base[:, None] + np.array(list(np.ndindex(2, 2, 2))) @ strides
    values = known[corners]
    passed = (values.min(1) < clearance_mm) & (values.max(1) > clearance_mm)  # false where a corner is not known
    middles = grid.points(base[passed]) + grid.affine[:3, :3].sum(1) / 2
    excess = np.clip(values[passed].mean(1) - host.signed(middles), 0, grid.step_mm / 2)
    less = np.zeros(len(known), np.float32)
    for corner in range(8):
        np.maximum.at(less, corners[passed, corner], excess)
    return distance - less[flat]
