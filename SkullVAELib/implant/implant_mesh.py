"""The printable implant: a closed mesh with sub-voxel accuracy, with clearance, thickness, holes and pieces.

The implant's voxels give the location of a defect; the completed shape, which is defined between voxels, gives the
surface. On a fine grid of its own, the implant of each defect is

    inside the completed shape  AND  where bone is missing  AND  at least the clearance away from bone,

shelled to the requested thickness, perforated and split. Distances are measured to surfaces, not to voxels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.core.background import Background
from SkullVAELib.core.progress import report_step, stage_part
from SkullVAELib.core.threads import one_thread
from SkullVAELib.geometry.affines import apply_affine, scale_of
from SkullVAELib.geometry.grey_levels import GreyLevels
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop, sample_volume
from SkullVAELib.implant.additions import Additions, OwnPoints, raise_surface
from SkullVAELib.implant.directions import plate_normal
from SkullVAELib.implant.fixation import Ground
from SkullVAELib.implant.implicit_solid import (
    FAR_MM,
    FineGrid,
    OuterSurface,
    contour,
    fine_grid,
    largest_solid,
    remove_thin_features,
    rounded_intersection,
    surface_grid,
)
from SkullVAELib.implant.insertion import REACH_MM, InsertionPath, removed_figures
from SkullVAELib.implant.measures import classify_points, measure_piece, size_figures, thickness_map
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.implant.perforation import HolePattern, perforate
from SkullVAELib.implant.rim_line import interpolated
from SkullVAELib.implant.split import split_plate
from SkullVAELib.mesh.distance import BoneDistance
from SkullVAELib.mesh.isosurface import bone_surface, mask_surface
from SkullVAELib.mesh.mesh import Mesh, concatenate_meshes, largest_mesh_component

if TYPE_CHECKING:
    from SkullVAELib.completion.result import Completion, ImplantShape

SMALLEST_ML = 0.05
"""A piece smaller than this is omitted."""

BLOCKED_MM = 1.0
"""Depth up to which bone may block the insertion of an implant that is not requested to be insertable without a
warning."""

# Margin around the voxels of a defect, wider than the filters below reach, mm.
_MARGIN_MM = 3.0

# Standard deviation of the filter that makes the implant's voxels smooth, mm, and what a change of 1 of the filtered
# mask counts as distance, mm.
_SOFT_MM = 0.7
_STEEP_MM = 8.0


# Distance to bone that an implant without clearance keeps on its way in: the error of the grids.
_LEAST_MARGIN_MM = 0.1


@dataclass(frozen=True)
class ImplantPiece:
    """One piece of the printable implant.

    Attributes
    ----------
    mesh : Mesh
        Closed mesh, RAS mm, N points.
    thickness_mm : numpy.ndarray or None
        (N,) thickness at each point of the mesh; None unless `ImplantOptions.thickness_map` is set.
    defect : int
        Number of its defect, from 1, largest first.
    figures : dict
        Measures of the piece for the report.
    """

    mesh: Mesh
    thickness_mm: np.ndarray | None
    defect: int
    figures: dict


@dataclass(frozen=True)
class PrintableImplant:
    """The printable implant: its pieces, largest defect first, and warnings."""

    pieces: list[ImplantPiece]
    warnings: list[str]

    @property
    def mesh(self) -> Mesh:
        """All pieces in one mesh, RAS mm."""
        return concatenate_meshes([piece.mesh for piece in self.pieces])

    @property
    def thickness_mm(self) -> np.ndarray | None:
        """(N,) thickness at each point of `mesh`; None where it was not computed for every piece."""
        maps = [piece.thickness_mm for piece in self.pieces if piece.thickness_mm is not None]
        return np.concatenate(maps) if maps and len(maps) == len(self.pieces) else None


@one_thread()
def make_implant(
    completion: Completion, options: ImplantOptions, grey: GreyLevels | None = None, insertion: bool = False
) -> PrintableImplant:
    """Make the printable implant for every defect of a completion.

    Where the options cannot be met in part of a defect, small components or a whole piece are omitted, with a warning.
    Where the options are plain and the shape is too thin for the grid, the piece is the surface of the implant's
    voxels.

    Parameters
    ----------
    completion : Completion
        The completed skull.
    options : ImplantOptions
        Clearance, thickness, holes and so on.
    grey : GreyLevels, optional
        The CT that was completed: it locates the bone surface between voxels.
    insertion : bool
        Whether the figures of each piece include those of its insertion; they always do with
        `ImplantOptions.insertable_mm`.

    Returns
    -------
    PrintableImplant
        Without pieces where the completion has no implant.
    """
    masks, small_ml = defect_masks(completion)
    if not masks:
        return PrintableImplant([], [])
    proposal = completion.proposal
    pieces: list[ImplantPiece] = []
    warnings: list[str] = []
    if small_ml:
        warnings.append(
            f"Small components of the implant, {small_ml:.3f} ml in total, are omitted:"
            " they are too small to be manufactured."
        )
    with Background(partial(local_bone, completion, options, grey)) as around:
        for number, (mask, own) in enumerate(zip(masks, _given_points(masks, options), strict=True), 1):
            made: list[ImplantPiece] = []
            texts: list[str] = []
            if proposal is not None:
                with stage_part((number - 1) / len(masks), number / len(masks)):
                    made, texts = _defect_pieces(
                        mask, proposal, around.finish, options, number, insertion, completion, own
                    )
            if not made and options.plain:
                made, texts = [_voxel_piece(mask, number)], []
            pieces += made
            name = f"Defect {number}: " if len(masks) > 1 or small_ml else ""
            warnings += [name + text for text in texts]
    return PrintableImplant(pieces, warnings)


def defect_masks(completion: Completion) -> tuple[list[Volume], float]:
    """Return the implant voxels of each defect.

    Parameters
    ----------
    completion : Completion
        The completed skull.

    Returns
    -------
    masks : list of Volume
        Bool, cropped with a margin, the largest first; small components are omitted.
    small_ml : float
        Volume of the omitted components in ml. They come from editing by hand.
    """
    implant = _implant_voxels(completion)
    if not implant.array.any():
        return [], 0.0
    margin = np.ceil(_MARGIN_MM / implant.spacing).astype(int)
    local = crop(implant, bounding_box(implant.array, margin))
    labels, count = ndimage.label(local.array)
    sizes = np.bincount(labels[local.array], minlength=count + 1)[1:]
    small = (sizes * implant.voxel_ml < SMALLEST_ML) & (sizes < sizes.max())
    masks = []
    for label in np.argsort(-sizes, kind="stable")[: count - int(small.sum())] + 1:
        mask = local.with_array(labels == label)
        masks.append(crop(mask, bounding_box(mask.array, margin)))
    return masks, float(sizes[small].sum() * implant.voxel_ml)


def local_bone(
    completion: Completion, options: ImplantOptions, grey: GreyLevels | None, beyond_mm: float = 0.0
) -> BoneDistance | None:
    """Return distances to the surface of the bone around the implant.

    Parameters
    ----------
    completion, options, grey
        As in `make_implant`; clearance, depth and what is added determine how far around.
    beyond_mm : float
        Least distance from the implant within which the bone is included.

    Returns
    -------
    BoneDistance or None
        None where there is no bone around the implant.
    """
    reach = max(6.0, options.clearance_mm + 3.0) + options.depth_mm + options.additions.beyond_mm
    reach = max(reach, beyond_mm)
    bone, implant = completion.bone, _implant_voxels(completion)
    index = apply_affine(np.linalg.inv(bone.affine) @ implant.affine, np.argwhere(implant.array))
    index = np.round(index).astype(int)  # of the image's voxels; beyond its end where the implant is
    margin = np.ceil(reach / bone.spacing).astype(int) + 1
    low, high = index.min(0) - margin, index.max(0) + margin + 1
    near, box = _neighbourhood(index - low, high - low, bone.spacing, reach), []
    for axis, size in enumerate(bone.array.shape):
        first, last = np.clip([low[axis], high[axis]], 0, size).tolist()
        near = near.take(range(first - low[axis], last - low[axis]), axis)
        box.append(slice(first, last))
    around = crop(bone, tuple(box))
    here = around.with_array(around.array & near)
    mesh = bone_surface(here, None if grey is None else grey.crop(tuple(box)))
    return BoneDistance(mesh, around) if len(mesh.faces) else None


def _implant_voxels(completion: Completion) -> Volume:
    """The implant's voxels, whole even where the image ends."""
    return completion.implant if completion.implant_whole is None else completion.implant_whole


def _neighbourhood(index: np.ndarray, shape: np.ndarray, spacing: np.ndarray, reach_mm: float) -> np.ndarray:
    """Bool mask (*shape) of the voxels within about reach_mm of some voxels (N, 3).

    It is computed in blocks of 2 mm, which is accurate enough.
    """
    factor = np.maximum(1, np.round(2.0 / spacing)).astype(int)
    blocks = np.zeros(-(-shape // factor), bool)
    blocks[tuple((index // factor).T)] = True
    near = ndimage.distance_transform_edt(~blocks, sampling=spacing * factor) <= reach_mm
    for axis, times in enumerate(factor):
        near = near.repeat(times, axis)
    return near[tuple(slice(n) for n in shape)]


def _given_points(masks: list[Volume], options: ImplantOptions) -> list[OwnPoints]:
    """The points of the options that belong to each defect: that with the nearest implant voxel."""
    given = (options.additions.tab_at, options.additions.holes_at, options.additions.build_up)
    own: list[list[list]] = [[[], [], []] for _ in masks]
    if any(given):
        trees = [cKDTree(apply_affine(mask.affine, np.argwhere(mask.array))) for mask in masks]
        for kind, places in enumerate(given):
            for values in places:
                own[int(np.argmin([tree.query(values[:3])[0] for tree in trees]))][kind].append(values)
    return [
        OwnPoints(*(np.array(rows, float).reshape(-1, n) for rows, n in zip(kinds, (3, 4, 5), strict=True)))
        for kinds in own
    ]


def _grid(
    mask: Volume, proposal: ImplantShape, outwards: np.ndarray, reach: float, options: ImplantOptions
) -> FineGrid:
    """The grid for one defect, which reaches over the bone around it where something is added there."""
    added = options.additions
    if not added.any:
        return fine_grid(mask, outwards, reach, options.step_mm)
    raised = max([0.0, *(region[4] for region in added.build_up)])
    highest = options.clearance_mm + max(added.tab_thickness_mm, added.flange_thickness_mm)

    def shape(points: np.ndarray) -> np.ndarray:
        return proposal.shape.at_voxels(proposal.alignment, points) / scale_of(proposal.alignment)

    near = max(reach, raised + 3.0 if raised else 0.0)
    # Beyond the rim as far as the farthest screw, and the distance at which the rim may be from the voxels.
    return surface_grid(mask, outwards, (near, max(near, added.beyond_mm + 4.0)), options.step_mm, shape, highest)


def _defect_pieces(
    mask: Volume,
    proposal: ImplantShape,
    bone_around: Callable[[], BoneDistance | None],
    options: ImplantOptions,
    number: int,
    insertion: bool,
    completion: Completion,
    own: OwnPoints | None,
) -> tuple[list[ImplantPiece], list[str]]:
    """The pieces for one defect and the warnings about it.

    mask: its implant voxels; bone_around: returns the bone around the implant, see `local_bone`, and may have to wait
    for it; own: points given for the defect.
    """
    centre = np.linalg.inv(proposal.alignment)[:3, 3]
    middle = mask.affine[:3, :3] @ np.argwhere(mask.array).mean(0) + mask.affine[:3, 3]
    reach = max(2.5, options.depth_mm + 1.5) + options.smoothing_mm
    grid = _grid(mask, proposal, middle - centre, reach, options)
    field = completed_shape(grid, proposal, options.smoothing_mm)
    report_step(0.1)
    outer = OuterSurface(field, grid, centre)
    report_step(0.15)
    extent = _extent(grid, mask, proposal.score, options)
    bone = bone_around()
    solid = _plate(grid, field, extent, outer, bone, options)
    report_step(0.35)
    solid = remove_thin_features(solid, grid, options.thinnest_mm)
    report_step(0.4)
    whole, count, share = largest_solid(solid)
    warnings = []
    if not count:
        return [], ["No implant remains with this clearance and thickness. Reduce them."]
    if share < 0.98:
        warnings.append(
            f"The implant has {count} separate components with these options: only the largest, {share:.0%} of its"
            " volume, is kept. Check its shape."
        )
    way: _WayIn | None = None
    if bone is not None and (insertion or options.insertable_mm is not None):
        with stage_part(0.4, 0.75):
            way = _WayIn.find(whole, grid, bone, middle - centre)
        if options.insertable_mm is not None:
            whole, way = way.cut_back(whole, grid, options)
            if way.removed is not None and way.removed["max_mm"] > options.insertable_mm + 2 * grid.step_mm:
                warnings.append(
                    f"Up to {way.removed['max_mm']:.1f} mm of the implant was removed for its insertion, more than the"
                    f" {options.insertable_mm:g} mm allowed, because what would remain is too thin. Check its rim."
                )
    additions = None
    if options.additions.any and own is not None:
        if len(own.build_up):
            whole, texts = raise_surface(whole, grid, outer, options.under_contour_mm, own.build_up)
            warnings += texts
        additions = _additions(whole, grid, outer, bone, options, completion, mask, own)
        warnings += additions.warnings
    solids = [whole]
    if options.split_mm is not None:
        solids = split_plate(whole, grid, options.split_mm, options.clearance_mm, options.edge_mm)
    made = []
    pieces = solids
    for place, solid in enumerate(pieces):
        solid, count, share = largest_solid(solid)
        mesh = way.mesh if way is not None and way.solid is solid else contour(solid, grid)
        if mesh.volume_ml < SMALLEST_ML:
            warnings.append(
                f"A piece of {max(0.0, mesh.volume_ml):.2f} ml is omitted: it is too small to be manufactured."
            )
            continue
        if share < 0.98:
            warnings.append(
                f"A piece has {count} separate components: only the largest, {share:.0%} of its volume, is kept. Check"
                " its shape."
            )
        faces = classify_points(mesh, outer)
        holes, obstacles, text = 0, None, None
        warnings += _opening_warnings(openings(mesh))
        if additions is not None:
            obstacles = additions.obstacles(solid)
            text, texts = additions.text_place(mesh, faces, solid, obstacles)
            warnings += texts
            if text is not None:
                obstacles = np.concatenate([obstacles, text.surface_below()])
        if options.hole_diameter_mm is not None:
            pattern = HolePattern(options.hole_diameter_mm, options.hole_pitch_mm, options.hole_margin_mm)
            solid, holes = perforate(solid, grid, mesh, faces, outer, pattern, options.edge_mm, obstacles)
            before = openings(mesh)
            mesh = contour(largest_solid(solid)[0], grid)
            faces = classify_points(mesh, outer)
            if not holes:
                warnings.append("There is no room for perfusion holes. Reduce their diameter or margin.")
            warnings += _hole_warnings("perfusion holes", holes, openings(mesh) - before)
        report_step(0.75 + 0.2 * (place + 0.5) / len(pieces))
        figures = {"defect": number, "holes": holes, **measure_piece(mesh, faces, solid, grid, bone, outer, options)}
        if way is not None:
            figures["insertion"] = way.figures(mesh)
            warnings += _insertion_warnings(figures["insertion"], options.insertable_mm)
        if additions is not None:
            # The figures above are those of the plate; its size is that of what is printed.
            solid, added, texts, steps = additions.apply(solid, pieces, place, options.clearance_mm, text)
            before = openings(mesh)
            mesh = contour(largest_solid(solid)[0], grid)
            faces = classify_points(mesh, outer)
            expected = len(added["screws"]) + len(added["holes_at"])
            if openings(mesh) - before != expected:
                # Each step is counted by itself only here, because that takes a second.
                counts = [before, *(openings(contour(largest_solid(step)[0], grid)) for step in steps), openings(mesh)]
                warnings += _addition_warnings(np.diff(counts).tolist(), expected)
            warnings += texts
            figures |= {"plate_ml": figures["volume_ml"]} | size_figures(mesh) | added
        thickness = thickness_map(mesh, faces, solid, grid) if options.thickness_map else None
        made.append(ImplantPiece(mesh, thickness, number, figures))
    if additions is not None:
        lost = len(additions.fixation.screws) - sum(len(piece.figures["screws"]) for piece in made)
        if lost > 0:
            warnings.append(
                f"{lost} of the screws of tabs or flange are left out where pieces meet or are omitted. Move the tabs"
                " with --tab-at, or choose another --split."
            )
    return made, warnings


def _insertion_warnings(insertion: dict, insertable_mm: float | None) -> list[str]:
    """The warning about a piece that bone blocks; insertable_mm: see `ImplantOptions`.

    As the implant is made by default, a shallow overlap is left to the surgeon, who can tilt the implant.
    """
    if insertion["insertable"] or (insertable_mm is None and insertion["undercut_mm"] <= BLOCKED_MM):
        return []
    what = "Bone {} the insertion along a straight line on {blocked_mm2:.0f} mm2, up to {undercut_mm:.1f} mm deep. {}"
    if insertable_mm is None:
        remedy = "Use --insertable (in Slicer: Insertable along a straight line), or split the implant."
        return [what.format("blocks", remedy, **insertion)]
    return [what.format("still blocks", "Allow a deeper cut, or split the implant.", **insertion)]


def openings(mesh: Mesh) -> int:
    """Return the number of openings through a closed mesh of one body."""
    return 1 - (len(mesh.points) - len(mesh.faces) // 2) // 2


def _opening_warnings(count: int) -> list[str]:
    """The warning about openings of a plate into which nothing has been cut."""
    if count <= 0:
        return []
    what = "an unintended opening" if count == 1 else f"{count} unintended openings"
    return [
        f"The plate has {what} where it is too thin, besides any holes, tabs and text. Request a minimum thickness."
    ]


def _hole_warnings(name: str, requested: int, made: int) -> list[str]:
    """The warning where holes do not each make one opening."""
    if made == requested:
        return []
    if made < requested:
        return [f"{requested - made} of the {name} do not pass through, or run into an edge or each other. Check them."]
    return [f"The {name} cut {made - requested} openings too many, where the body is thin. Check them."]


def _addition_warnings(changes: list[int], holes: int) -> list[str]:
    """Warnings by the number of openings that tabs and flange, the drilled holes, and the text each add.

    holes: number of the drilled ones.
    """
    joined, drilled, engraved = changes
    warnings = []
    if joined > 0:
        what = "an opening" if joined == 1 else f"{joined} openings"
        warnings.append(
            f"Tabs or flange enclose {what} beside the plate, as where its rim has a notch or no bone supports them."
            " Check them in 3D."
        )
    warnings += _hole_warnings("screw holes and further holes", holes, drilled)
    if engraved > 0:
        warnings.append("The engraving cuts through the plate. Reduce its depth with --engrave-size.")
    return warnings


@dataclass(frozen=True)
class _WayIn:
    """The direction in which the implant of a defect is inserted, and what was removed for it."""

    path: InsertionPath
    direction: np.ndarray
    solid: np.ndarray
    mesh: Mesh
    removed: dict | None = None

    @classmethod
    def find(cls, solid: np.ndarray, grid: FineGrid, bone: BoneDistance, outwards: np.ndarray) -> _WayIn:
        mesh = contour(solid, grid)
        report_step(0.05)
        path = InsertionPath(bone, mesh, plate_normal(mesh, outwards))
        report_step(0.6)
        return cls(path, path.search(mesh), solid, mesh)

    def cut_back(self, solid: np.ndarray, grid: FineGrid, options: ImplantOptions) -> tuple[np.ndarray, _WayIn]:
        """The solid without what bone blocks, and this with the figures of what was removed."""
        assert options.insertable_mm is not None
        margin = max(_LEAST_MARGIN_MM, min(options.clearance_mm, REACH_MM) / 2)
        less = self.path.cut_back(solid, grid, self.direction, margin, options.insertable_mm)
        less = largest_solid(remove_thin_features(less, grid, options.thinnest_mm))[0]
        return less, replace(self, removed=removed_figures(self.mesh, less, grid))

    def figures(self, mesh: Mesh) -> dict:
        """Figures of a piece for the report."""
        figures = self.path.insertion(mesh, self.direction).figures()
        return figures if self.removed is None else figures | {"removed": self.removed}


def _additions(
    plate: np.ndarray,
    grid: FineGrid,
    outer: OuterSurface,
    bone: BoneDistance | None,
    options: ImplantOptions,
    completion: Completion,
    mask: Volume,
    own: OwnPoints,
) -> Additions:
    """The additions to the plate of one defect; mask: its implant voxels; own: points given for it."""
    implant = _implant_voxels(completion)
    index = np.argwhere(implant.array)
    if options.additions.fixed and len(index):
        at = np.round(apply_affine(np.linalg.inv(mask.affine) @ implant.affine, index)).astype(int)
        inside = np.all((at >= 0) & (at < mask.array.shape), axis=1)
        inside[inside] = mask.array[tuple(at[inside].T)]
        index = index[~inside]
    ground = Ground(completion.bone, apply_affine(implant.affine, index))

    def deficit(wanted: np.ndarray) -> np.ndarray:
        return _clearance_deficit(grid, bone, options, wanted)

    return Additions.of(
        plate,
        grid,
        outer,
        ground,
        bone,
        deficit,
        options.clearance_mm,
        options.under_contour_mm,
        options.additions,
        own,
    )


def _voxel_piece(mask: Volume, number: int) -> ImplantPiece:
    """The surface of a defect's implant voxels."""
    mesh = largest_mesh_component(mask_surface(mask))
    return ImplantPiece(mesh, None, number, {"defect": number, "holes": 0, **size_figures(mesh)})


def completed_shape(grid: FineGrid, proposal: ImplantShape, smoothing_mm: float) -> np.ndarray:
    """The completed shape on the grid, (*shape): approximate signed distance in mm, negative inside."""
    matrix = proposal.alignment @ grid.affine
    values = proposal.shape.at_voxels(matrix, grid.index(grid.active)) / scale_of(proposal.alignment)
    limit = FAR_MM - 1
    field = grid.spread(np.clip(values, -limit, limit), limit)
    # The shape has creases at the nodes of its own 2 mm grid; smoothing by less than their distance removes them.
    return ndimage.gaussian_filter(field, smoothing_mm / grid.step_mm, truncate=3) if smoothing_mm > 0 else field


def lateral_extent(grid: FineGrid, mask: Volume, score: Volume) -> np.ndarray:
    """Lateral extent of the implant, (M,) on the grid's active nodes: approximate mm, negative inside.

    It combines the score of missing bone and the distance to the implant's voxels, which exclude removed thin features
    and other defects.
    """
    points = grid.points(grid.active)
    smooth = score.with_array(ndimage.gaussian_filter(score.array, _SOFT_MM / score.spacing))
    missing = -4.0 * sample_volume(smooth, points, -1.0)  # the score rises by about 0.25 per mm
    soft = mask.with_array(ndimage.gaussian_filter(mask.array.astype(np.float32), _SOFT_MM / mask.spacing))
    # Steep, because this is a limit and not a wall whose edges are rounded: on the plate's faces it must be far from 0.
    outside = (0.15 - sample_volume(soft, points, 0.0)) * _STEEP_MM
    return np.maximum(missing, outside)


def _extent(grid: FineGrid, mask: Volume, score: Volume, options: ImplantOptions) -> np.ndarray:
    """`lateral_extent`; on a grid that reaches over the bone, of the nodes near the mask alone."""
    if not options.additions.any:
        return lateral_extent(grid, mask, score)
    voxels = apply_affine(mask.affine, np.argwhere(mask.array))
    near = grid.near(voxels, 3.0 + float(mask.spacing.max())).ravel()[grid.active]
    extent = np.full(len(grid.active), FAR_MM)
    extent[near] = lateral_extent(FineGrid(grid.affine, grid.shape, grid.active[near]), mask, score)
    return extent


def _plate(
    grid: FineGrid,
    field: np.ndarray,
    extent: np.ndarray,
    outer: OuterSurface,
    bone: BoneDistance | None,
    options: ImplantOptions,
) -> np.ndarray:
    """The solid: function on the grid, (*shape), negative inside.

    The edges between its faces and its walls are rounded. Faces are not rounded against each other: where two of them
    nearly coincide, the rounding would move both.
    """
    own, edge = field.ravel()[grid.active], options.edge_mm
    if options.depth_mm or options.under_contour_mm:
        depth, beyond = _depth(grid, outer)
        top, bottom = options.under_contour_mm - depth, depth - options.depth_mm
        own = np.maximum(own, top)
    if not options.depth_mm:
        near_bone = _clearance_deficit(grid, bone, options, np.maximum(own, extent) < 1.5 * grid.step_mm)
        return grid.spread(rounded_intersection([own, np.maximum(extent, near_bone)], edge))
    deep, above = _straight_above(grid, field, outer, depth, options)
    below = extent.copy()
    below[deep] = grid.sample(grid.spread(extent), above)
    room = 1.5 * grid.step_mm
    wanted = (np.minimum(extent, below) < room) & (depth > -room) & (bottom < room)
    if options.thickness == "minimum":
        wanted |= np.maximum(own, extent) < room  # the completed shape may be thicker
    near_bone = _clearance_deficit(grid, bone, options, wanted)
    walls = np.maximum(extent, near_bone)
    below[deep] = grid.sample(grid.spread(walls), above)
    below = np.maximum(below, near_bone)
    shell = rounded_intersection([np.maximum(top, bottom), np.maximum(below, beyond - 1.5)], edge)
    if options.thickness == "constant":
        own = np.maximum(own, bottom)
    return grid.spread(np.minimum(rounded_intersection([own, walls], edge), shell))


def _depth(grid: FineGrid, outer: OuterSurface) -> tuple[np.ndarray, np.ndarray]:
    """Depth below the outer surface and lateral distance from it, mm, at the active nodes: two arrays (M,).

    They are computed at every second node along each axis and interpolated: distances are smooth, and this needs an
    eighth of the queries.
    """
    depth, beyond = interpolated(grid, grid.active, lambda points: list(outer.depth(points)))
    return depth, beyond


def _straight_above(
    grid: FineGrid, field: np.ndarray, outer: OuterSurface, depth: np.ndarray, options: ImplantOptions
) -> tuple[np.ndarray, np.ndarray]:
    """The active nodes deeper than the completed shape's inner surface, (N,), and for each the point (N, 3) straight
    above it, just inside the shape.

    An implant thicker than the skull continues below the inner table. Where the defect narrows inwards, it must not
    extend under the bone, because it could not be inserted; so its extent there is that of the shape above.
    """
    own = _own_thickness(grid, field, outer, options.depth_mm + 1.0)
    ask = np.flatnonzero((depth > 0.5) & (depth < options.depth_mm + 1.5 * grid.step_mm))
    points = grid.points(grid.active[ask])
    at = outer.nearest(points)
    over = depth[ask] - np.maximum(own[at] - 0.4, 0.3)
    moved = over > 0
    return ask[moved], points[moved] + over[moved, None] * outer.normals[at[moved]]


_MEDIAN_MM2 = 1.6
"""Area over which single measurements of the thickness are replaced by their median, mm2."""


def _own_thickness(grid: FineGrid, field: np.ndarray, outer: OuterSurface, limit_mm: float) -> np.ndarray:
    """Thickness (N,) of the completed shape below each point of its outer surface, along the normal, up to limit_mm."""
    thickness = np.full(len(outer.points), limit_mm, np.float32)
    for down in np.arange(limit_mm, 0.4, -0.5):
        outside = grid.sample(field, outer.points - down * outer.normals) > 0
        thickness[outside] = down
    if not len(thickness):
        return thickness
    # The median, because single rays pass through pinholes.
    return np.median(thickness[outer.neighbours(_MEDIAN_MM2)], axis=1)


def _clearance_deficit(
    grid: FineGrid, bone: BoneDistance | None, options: ImplantOptions, wanted: np.ndarray
) -> np.ndarray:
    """Clearance minus distance to bone at the active nodes, (M,) mm, negative where there is room.

    wanted: (M,) bool, nodes that may be inside the implant; values at other nodes are not used.
    """
    room = options.clearance_mm + FAR_MM
    distance = np.full(len(grid.active), room)
    if bone is not None:
        ask = np.flatnonzero(wanted)
        points = grid.points(grid.active[ask])
        found = np.where(bone.in_bone(points), -FAR_MM, room)
        # Distances need to be exact only near the surface at the clearance.
        reach = options.clearance_mm + options.edge_mm + 0.2 * grid.step_mm + bone.triangle_mm
        near = np.flatnonzero(grid.near(bone.mesh.points, reach).ravel()[grid.active[ask]])
        near = near[bone.nearby(points[near], reach) < np.inf]
        exact = bone.signed(points[near])
        found[near] = _conservative(grid, grid.active[ask[near]], exact, bone, options.clearance_mm)
        distance[ask] = found
    return options.clearance_mm - distance


def _conservative(
    grid: FineGrid, flat: np.ndarray, distance: np.ndarray, bone: BoneDistance, clearance_mm: float
) -> np.ndarray:
    """Distances (N,) to bone at nodes (N,), reduced by the error of interpolation near the surface at the clearance.

    Around a ridge of bone that surface has a radius of curvature equal to the clearance, and interpolation on the grid
    cuts the bend short: by 0.15 mm at a clearance of 0.3 mm. The error is measured at the centres of the cells that the
    surface passes through.
    """
    known = np.full(int(np.prod(grid.shape)), np.nan, np.float32)
    known[flat] = distance
    base = flat[(grid.index(flat) + 1 < grid.shape).all(1)]
    strides = np.array([grid.shape[1] * grid.shape[2], grid.shape[2], 1])
    corners = base[:, None] + np.array(list(np.ndindex(2, 2, 2))) @ strides
    values = known[corners]
    passed = (values.min(1) < clearance_mm) & (values.max(1) > clearance_mm)  # false where a corner is unknown
    middles = grid.points(base[passed]) + grid.affine[:3, :3].sum(1) / 2
    excess = np.clip(values[passed].mean(1) - bone.signed(middles), 0, grid.step_mm / 2)
    less = np.zeros(len(known), np.float32)
    for corner in range(8):
        np.maximum.at(less, corners[passed, corner], excess)
    return distance - less[flat]
