"""Parts for the bench: a ring of the patient's bone to try the implant in, and a template to bend a mesh over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.core.threads import one_thread
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.implant.implant_mesh import completed_shape, defect_masks, lateral_extent, local_bone
from SkullVAELib.implant.implicit_solid import FAR_MM, FineGrid, OuterSurface, contour, fine_grid, largest_solid
from SkullVAELib.implant.rim_line import RimLine
from SkullVAELib.implant.tooling import Tooling, ToolingInputs, ToolingOptions, part_stem
from SkullVAELib.mesh.distance import BoneDistance
from SkullVAELib.mesh.mesh import Mesh

GROOVE_MM = 0.6
"""Depth, and half the width, of the groove along the rim on a template."""

BASE_MM = 5.0
"""Thickness of a template below the lowest point of its surface."""

_STEP_MM = 0.5
"""Distance between the nodes of the grid; larger where there would be too many."""

_MOST_NODES = 20_000_000

_NEAR_MM = 2.0
"""Distance from the surface of bone within which the function is the distance to it."""

_OVER_MM = 1.0
"""Distance that the completed shape reaches over the bone on a template, so that there is no groove between them."""


@dataclass(frozen=True)
class _Place:
    """Where the parts of one defect are made.

    Attributes
    ----------
    mask : Volume
        Its implant voxels.
    grid : FineGrid
        The grid; all nodes are active.
    away : numpy.ndarray
        (*shape) distance from the implant voxels in mm.
    bone : numpy.ndarray
        (*shape) distance from the surface of bone in mm, negative in bone, at most `_NEAR_MM`.
    """

    mask: Volume
    grid: FineGrid
    away: np.ndarray
    bone: np.ndarray


@one_thread()
def make_fit_ring(inputs: ToolingInputs, options: ToolingOptions) -> Tooling:
    """Make the bone around each defect as a printable body, to try the printed implant in.

    Parameters
    ----------
    inputs : ToolingInputs
        The implant and what it was made from.
    options : ToolingOptions
        `ring_mm` is the distance from the implant up to which bone is included.

    Returns
    -------
    Tooling
        fit_ring, fit_ring_2 and so on; in the figures, for each the defect, triangles and volume.
    """
    made, figures = Tooling(), []
    width = float(options.ring_mm or 0.0)
    bone = local_bone(inputs.completion, inputs.options, inputs.grey, width + 3.0)
    for number, mask in _masks(inputs):
        what = _name("fit ring", number)
        if bone is None:
            made.warnings.append(f"The {what} is left out: there is no bone around the implant.")
            continue
        place = _place(inputs, mask, bone, width + 2.0, 0.0)
        solid, _, share = largest_solid(np.maximum(place.bone, place.away - width))
        mesh = contour(solid, place.grid)
        if not len(mesh.faces):
            made.warnings.append(f"The {what} is left out: there is no bone within {width:g} mm. Use a wider ring.")
            continue
        if share < 0.98:
            made.warnings.append(
                f"The {what} is only the largest component of the bone there, {share:.0%} of its volume. Use a"
                " wider ring."
            )
        made.parts[part_stem("fit_ring", number)] = mesh
        figures.append({"defect": number, "width_mm": width, **_size(mesh)})
    made.figures["ring"] = {"parts": figures}
    return made


@one_thread()
def make_template(inputs: ToolingInputs, options: ToolingOptions) -> Tooling:
    """Make the completed outer surface of each defect as a solid form with a flat base, to bend a mesh over.

    The line of the rim is a groove, so that a mesh lies on the surface itself.

    Parameters
    ----------
    inputs : ToolingInputs
        The implant and what it was made from.
    options : ToolingOptions
        `template_mm` is how far the form reaches beyond the rim.

    Returns
    -------
    Tooling
        template, template_2 and so on; in the figures, for each the defect, triangles, volume and height.
    """
    made, figures = Tooling(), []
    completion, width = inputs.completion, float(options.template_mm or 0.0)
    proposal = completion.proposal
    bone = local_bone(completion, inputs.options, inputs.grey, width + 5.0)
    for number, mask in _masks(inputs):
        what = _name("template", number)
        if proposal is None or bone is None:
            made.warnings.append(f"The {what} is left out: the completed shape or the bone around it is not known.")
            continue
        place = _place(inputs, mask, bone, width + 3.0, BASE_MM + 3.0, covered=True)
        near = _near_mask(place, width)
        shape = completed_shape(near, proposal, inputs.options.smoothing_mm)
        every = completion.implant if completion.implant_whole is None else completion.implant_whole
        extent = near.spread(lateral_extent(near, _around(every, mask, width + 5.0), proposal.score))
        plate = np.maximum(shape, extent)
        # Everything below the outermost surface is filled: the plate's inner face and the inner table disappear.
        whole = np.minimum(place.bone, np.maximum(shape, extent - _OVER_MM))
        whole = np.minimum.accumulate(whole[:, :, ::-1], axis=2)[:, :, ::-1]
        edge = _columns(whole, place.away, width)
        top = np.where(edge < 0, (whole < 0).sum(2), np.iinfo(np.int64).max)
        lowest = int(top.min())
        if lowest == np.iinfo(np.int64).max:
            made.warnings.append(f"The {what} is left out: there is no surface within {width:g} mm. Use a wider one.")
            continue
        step = place.grid.step_mm
        bottom = lowest - BASE_MM / step
        levels = np.arange(place.grid.shape[2])
        solid = np.maximum(whole, np.maximum(edge[:, :, None], ((bottom - levels) * step)[None, None]))
        outer = OuterSurface(shape, near, np.linalg.inv(proposal.alignment)[:3, 3])
        rim = RimLine(plate, place.grid, outer, 0.0)
        if len(rim.points):
            _cut_groove(solid, whole, place.grid, rim.points, outer.normal(rim.points))
        mesh = contour(largest_solid(solid)[0], place.grid)
        made.parts[part_stem("template", number)] = mesh
        height = float(np.ptp(mesh.points @ (place.grid.affine[:3, 2] / step)))
        figures.append({"defect": number, "width_mm": width, **_size(mesh), "height_mm": round(height, 1)})
    made.figures["template"] = {"parts": figures}
    return made


def _cut_groove(solid: np.ndarray, surface: np.ndarray, grid: FineGrid, line: np.ndarray, normals: np.ndarray) -> None:
    """Cut a groove along points (N, 3) with outward normals into a solid below a surface, functions (*shape)."""
    flat = np.flatnonzero(grid.near(line, _NEAR_MM + 1.0).ravel())
    points = grid.points(flat)
    # Seen along the normal, because the line may lie above or below the bone's surface.
    at = cKDTree(line).query(points)[1]
    offset = points - line[at]
    height = np.einsum("nx,nx->n", offset, normals[at])
    across = np.linalg.norm(offset - height[:, None] * normals[at], axis=1)
    values = solid.ravel()
    groove = np.maximum(across - GROOVE_MM, -surface.ravel()[flat] - GROOVE_MM)
    values[flat] = np.maximum(values[flat], -groove)


def _masks(inputs: ToolingInputs) -> list[tuple[int, Volume]]:
    """Number and implant voxels of each defect that has a printable implant."""
    present = {piece.defect for piece in inputs.printable.pieces}
    masks, _ = defect_masks(inputs.completion)
    return [(number, mask) for number, mask in enumerate(masks, 1) if number in present]


def _name(name: str, number: int) -> str:
    return name if number == 1 else f"{name} of defect {number}"


def _size(mesh: Mesh) -> dict:
    return {"triangles": len(mesh.faces), "volume_ml": round(mesh.volume_ml, 2)}


def _around(implant: Volume, mask: Volume, reach_mm: float) -> Volume:
    """The implant voxels of all defects around one of them."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(mask.array.shape) - 1)
    index = apply_affine(np.linalg.inv(implant.affine) @ mask.affine, corners)
    margin = np.ceil(reach_mm / implant.spacing)
    low = np.clip(np.floor(index.min(0) - margin).astype(int), 0, None)
    high = np.ceil(index.max(0) + margin).astype(int) + 1
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    affine = implant.affine.copy()
    affine[:3, 3] = apply_affine(implant.affine, low.astype(float)[None])[0]
    return Volume(implant.array[box], affine)


def _place(
    inputs: ToolingInputs,
    mask: Volume,
    bone: BoneDistance,
    reach_mm: float,
    below_mm: float,
    covered: bool = False,
) -> _Place:
    """The grid of a part, reaching below_mm further inwards, with its distances.

    covered: whether distances to surfaces below other bone, along the third axis, are left out.
    """
    proposal = inputs.completion.proposal
    middle = apply_affine(mask.affine, np.argwhere(mask.array).mean(0)[None])[0]
    outwards = np.array([0.0, 0.0, 1.0]) if proposal is None else middle - np.linalg.inv(proposal.alignment)[:3, 3]
    step = _STEP_MM
    grid = fine_grid(mask, outwards, reach_mm, step)
    while np.prod(grid.shape) > _MOST_NODES and step < 1.0:
        step += 0.1
        grid = fine_grid(mask, outwards, reach_mm, step)
    more = round(below_mm / step)
    affine = grid.affine.copy()
    affine[:3, 3] -= more * affine[:3, 2]
    shape = (grid.shape[0], grid.shape[1], grid.shape[2] + more)
    grid = FineGrid(affine, shape, np.arange(int(np.prod(shape))))
    away = _distance_to(mask, grid)
    inside = _inside(bone, grid)
    distance = np.where(inside, np.float32(-_NEAR_MM), np.float32(_NEAR_MM))
    wanted = grid.near(bone.mesh.points, step) & (away < reach_mm)
    if covered:
        below = np.maximum.accumulate(inside[:, :, ::-1], axis=2)[:, :, ::-1]
        deep = np.zeros_like(below)
        apart = round(_NEAR_MM / step)
        deep[:, :, :-apart] = below[:, :, apart:]
        wanted &= ~deep
        distance[deep] = -_NEAR_MM
    flat = np.flatnonzero(wanted.ravel())
    points = grid.points(flat)
    close = bone.nearby(points, 2 * step + bone.triangle_mm) < np.inf
    flat, points = flat[close], points[close]
    distance.ravel()[flat] = np.clip(bone.signed(points), -_NEAR_MM, _NEAR_MM)
    return _Place(mask, grid, away, distance)


def _inside(bone: BoneDistance, grid: FineGrid) -> np.ndarray:
    """Whether each node is in bone, (*shape) bool."""
    matrix = np.linalg.inv(bone.voxels.affine) @ grid.affine
    values = ndimage.affine_transform(
        bone.voxels.array.astype(np.float32), matrix[:3, :3], matrix[:3, 3], grid.shape, order=1, cval=0.0
    )
    return values >= 0.5


def _distance_to(mask: Volume, grid: FineGrid) -> np.ndarray:
    """Distance (*shape) in mm from the voxels of a mask, computed at every fourth node along each axis."""
    tree = cKDTree(apply_affine(mask.affine, np.argwhere(mask.array)))
    coarse = tuple(-(-n // 4) + 1 for n in grid.shape)
    nodes = np.stack(np.meshgrid(*(4 * np.arange(n) for n in coarse), indexing="ij"), -1)
    values = tree.query(apply_affine(grid.affine, nodes.reshape(-1, 3)))[0].reshape(coarse).astype(np.float32)
    return ndimage.affine_transform(values, np.full(3, 0.25), output_shape=grid.shape, order=1, mode="nearest")


def _near_mask(place: _Place, width_mm: float) -> FineGrid:
    """The grid with only the nodes active on which the completed shape is needed."""
    near = place.away < width_mm + 2.0
    return FineGrid(place.grid.affine, place.grid.shape, np.flatnonzero(near.ravel()))


def _columns(whole: np.ndarray, away: np.ndarray, width_mm: float) -> np.ndarray:
    """(a, b) mm of each column of the grid beyond the edge of a template, negative within: by the distance of its
    topmost point from the implant."""
    count = (whole < 0).sum(2)
    top = np.clip(count - 1, 0, whole.shape[2] - 1)
    reach = np.take_along_axis(away, top[:, :, None], 2)[:, :, 0] - width_mm
    reach = np.where(count > 0, reach, FAR_MM)
    return ndimage.gaussian_filter(np.clip(reach, -FAR_MM, FAR_MM), 1.5).astype(np.float32)
