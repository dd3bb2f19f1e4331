"""Implicit solids: functions on a fine grid that are negative inside and distances in mm near the surface.

The patient's voxels are too coarse for a clearance of 0.5 mm. Solids are cut, joined and shelled on nodes 0.5 mm apart.
Because the function is a distance near the surface, the surface is far more accurate than the node spacing: a plane is
exact, and a hole 2 mm wide is accurate to a few hundredths of a millimetre.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, sample_volume
from SkullVAELib.mesh.distance import SurfaceDistance
from SkullVAELib.mesh.isosurface import level_surface
from SkullVAELib.mesh.mesh import Mesh, component_labels, largest_mesh_component

FAR_MM = 5.0
"""Value of the function at nodes where it is not computed: far outside."""

SNAP = 0.02
"""Minimum distance of a node from the surface, as a fraction of a step: mesh points must differ in single precision."""

OUTWARDS = 0.4
"""Minimum cosine between the normal of an outer surface and the direction away from the centre of the vault.

The roof of the orbit is not an outer surface: an implant of constant thickness has to end at the brow.
"""

SMALL_COMPONENT = 0.1
"""Components of the outer surface smaller than this fraction of the largest are ignored."""

_CHUNK = 4000
"""Points whose distances are computed at a time: their arrays fit into the cache of a processor."""

_BLOCK = 4
"""Nodes along the edge of the blocks in which the neighbourhood of a defect is selected."""


@dataclass(frozen=True)
class FineGrid:
    """An isotropic grid aligned with a defect, of which only the nodes near the defect are used.

    Attributes
    ----------
    affine : numpy.ndarray
        (4, 4) node index -> RAS mm, right-handed, third axis outwards.
    shape : tuple of int
        Nodes along each axis.
    active : numpy.ndarray
        (M,) int64 flat indices (C order) of the nodes near the defect.
    """

    affine: np.ndarray
    shape: tuple[int, int, int]
    active: np.ndarray

    @property
    def step_mm(self) -> float:
        """Distance between neighbouring nodes in mm."""
        return float(np.linalg.norm(self.affine[:3, 0]))

    def index(self, flat: np.ndarray) -> np.ndarray:
        """Return the (N, 3) indices, int32, of nodes with flat indices (N,)."""
        small = np.prod(self.shape, dtype=float) < 2**31
        out = np.empty((len(flat), 3), np.int32)
        # Divisions of 32-bit integers take half the time of `np.unravel_index`.
        rest, out[:, 2] = np.divmod(flat.astype(np.int32 if small else np.int64), self.shape[2])
        out[:, 0], out[:, 1] = np.divmod(rest, self.shape[1])
        return out

    def points(self, flat: np.ndarray) -> np.ndarray:
        """Return the (N, 3) positions, RAS mm, of nodes with flat indices (N,)."""
        return apply_affine(self.affine, self.index(flat))

    def spread(self, values: np.ndarray, outside: float = FAR_MM) -> np.ndarray:
        """Return values (M,) of the active nodes as an array (*shape) of float32, with `outside` at the other nodes."""
        out = np.full(self.shape, outside, np.float32)
        out.ravel()[self.active] = values
        return out

    def sample(self, array: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Return (N,) trilinear values of an array (*shape) at points (N, 3) in RAS mm; `FAR_MM` outside the grid."""
        return sample_volume(Volume(array, self.affine), points, FAR_MM)

    def near(self, points: np.ndarray, reach_mm: float) -> np.ndarray:
        """Return a bool array (*shape) that is True at least within reach_mm, and at most two steps further, of points
        (N, 3), RAS mm."""
        inverse = np.linalg.inv(self.affine)
        index = np.floor((points @ inverse[:3, :3].T + inverse[:3, 3]) / 2 + 0.25).astype(int)
        shape = -(-np.array(self.shape) // 2)
        index = index[((index >= 0) & (index < shape)).all(1)]
        out = np.zeros(self.shape, bool)
        if not len(index):
            return out
        room = int(np.ceil(reach_mm / (2 * self.step_mm))) + 2
        low, high = np.maximum(index.min(0) - room, 0), np.minimum(index.max(0) + room + 1, shape)
        blocks = np.zeros(high - low, bool)
        blocks[tuple((index - low).T)] = True
        away = ndimage.distance_transform_edt(~blocks)
        near = away * 2 * self.step_mm <= reach_mm + 2 * self.step_mm
        for axis in range(3):
            near = near.repeat(2, axis)
        box = tuple(slice(2 * int(a), min(2 * int(b), n)) for a, b, n in zip(low, high, self.shape, strict=True))
        out[box] = near[tuple(slice(s.stop - s.start) for s in box)]
        return out


def fine_grid(mask: Volume, outwards: np.ndarray, reach_mm: float, step_mm: float) -> FineGrid:
    """Return a grid along the principal axes of a mask.

    Parameters
    ----------
    mask : Volume
        Bool mask of the implant of one defect.
    outwards : numpy.ndarray
        (3,) RAS direction out of the skull. The principal axis nearest to it becomes the third axis of the grid, so
        that the result does not depend on the orientation of the head in the scanner.
    reach_mm : float
        Nodes within this distance of the mask's voxels are active.
    step_mm : float
        Distance between nodes.

    Returns
    -------
    FineGrid
        The grid.
    """
    affine, near, _ = _wide_blocks(mask, outwards, reach_mm, step_mm)
    near = _nodes_of(near)
    return FineGrid(affine, near.shape, np.flatnonzero(near.ravel()))


def _wide_blocks(
    mask: Volume, outwards: np.ndarray, reach_mm: float, step_mm: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The affine of the grid for `fine_grid`, which of its blocks are near the mask, (a, b, c) bool, and the mask's
    voxels (N, 3), RAS mm."""
    voxels = apply_affine(mask.affine, np.argwhere(mask.array))
    axes = np.linalg.eigh(np.cov((voxels - voxels.mean(0)).T) + 1e-6 * np.eye(3))[1][:, ::-1].T
    third = axes[np.argmax(np.abs(axes @ outwards))]
    third = third * np.sign(third @ outwards)
    first = next(axis for axis in axes if abs(axis @ third) < 0.5)
    # The sign of an eigenvector is arbitrary: it is fixed by its largest component, so that runs agree.
    first = first * np.sign(first[np.abs(first).argmax()])
    frame = np.stack([first, np.cross(third, first), third], 1) * step_mm
    local = voxels @ np.linalg.inv(frame).T
    margin = (reach_mm + 0.5 * float(np.linalg.norm(mask.spacing))) / step_mm + 1
    low = local.min(0) - margin
    blocks = np.ceil((local.max(0) + margin - low) / _BLOCK).astype(int)
    near = np.zeros(blocks, bool)
    near[tuple(((local - low) / _BLOCK).astype(int).T)] = True
    away = ndimage.distance_transform_edt(~near) * (_BLOCK * step_mm)
    near = away <= reach_mm + 0.5 * float(np.linalg.norm(mask.spacing)) + 0.9 * _BLOCK * step_mm
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = frame, frame @ low
    return affine, near, voxels


def _nodes_of(blocks: np.ndarray) -> np.ndarray:
    """Bool array of the nodes of blocks (a, b, c)."""
    for axis in range(3):
        blocks = blocks.repeat(_BLOCK, axis)
    return blocks


def surface_grid(
    mask: Volume,
    outwards: np.ndarray,
    reach_mm: tuple[float, float],
    step_mm: float,
    shape: Callable[[np.ndarray], np.ndarray],
    highest_mm: float,
) -> FineGrid:
    """Return a grid as `fine_grid` does, with nodes along the surface of a shape far beyond the mask.

    Parameters
    ----------
    mask, outwards, step_mm
        As in `fine_grid`.
    reach_mm : (float, float)
        Nodes within the first distance of the mask's voxels are active, and those within the second that are near the
        surface.
    shape : callable
        Gives the signed distance (N,) in mm of points (N, 3), RAS mm.
    highest_mm : float
        Distance above the surface of the nodes that are active.

    Returns
    -------
    FineGrid
        The grid.
    """
    affine, blocks, voxels = _wide_blocks(mask, outwards, max(reach_mm), step_mm)
    at = np.argwhere(blocks)
    values = shape(apply_affine(affine, at * _BLOCK + (_BLOCK - 1) / 2))
    half = _BLOCK * step_mm
    surface = np.zeros_like(blocks)
    surface[tuple(at.T)] = (values > -5.0 - half) & (values < highest_mm + 3.0 + half)
    # What is not needed is cut off in blocks. Two are left: smoothing reaches beyond the active nodes.
    wide = FineGrid(affine, tuple(_BLOCK * n for n in blocks.shape), np.zeros(0, np.int64))
    near = wide.near(voxels, reach_mm[0] + 0.5 * float(np.linalg.norm(mask.spacing)))
    shape3 = tuple(part for n in blocks.shape for part in (n, _BLOCK))
    used = surface | (near.reshape(shape3).any((1, 3, 5)) & blocks)
    box = bounding_box(used, np.full(3, 2))
    nodes = tuple(slice(_BLOCK * part.start, _BLOCK * part.stop) for part in box)
    active = (_nodes_of(surface[box]) | near[nodes]) & _nodes_of(blocks[box])
    affine[:3, 3] = apply_affine(affine, np.array([part.start for part in nodes], float))
    return FineGrid(affine, active.shape, np.flatnonzero(active.ravel()))


def rounded_intersection(functions: list[np.ndarray], radius_mm: float) -> np.ndarray:
    """Return the intersection of solids with edges rounded inwards: nothing is added to the sharp intersection.

    More than radius_mm from an edge the result is the maximum of the functions, so faces do not move. The radius is
    exact for faces at right angles.

    Parameters
    ----------
    functions : list of numpy.ndarray
        Functions of the solids, arrays of one shape, negative inside.
    radius_mm : float
        Radius of the edges.

    Returns
    -------
    numpy.ndarray
        Function of the intersection.
    """
    deepest = functions[0]
    for function in functions[1:]:
        deepest = np.maximum(deepest, function)
    total = sum(np.square(np.maximum(function + radius_mm, 0)) for function in functions)
    return np.minimum(deepest, -radius_mm) + np.sqrt(total)


def largest_solid(solid: np.ndarray) -> tuple[np.ndarray, int, float]:
    """Keep the largest connected component of a solid and fill its internal voids.

    Parameters
    ----------
    solid : numpy.ndarray
        Function (*shape), negative inside.

    Returns
    -------
    solid : numpy.ndarray
        Function of the component.
    count : int
        Number of components of the given solid.
    share : float
        Fraction of the inner nodes in the largest component; 0 for an empty solid.
    """
    box = inner_box(solid, 1)
    if box is None:
        return solid, 0, 0.0
    if any(part.start == 0 or part.stop == n for part, n in zip(box, solid.shape, strict=True)):
        box = tuple(slice(0, n) for n in solid.shape)  # what is around the solid may be connected outside the box
    given = local = solid[box]
    inside = local < 0
    labels, count = ndimage.label(inside)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    if count > 1:
        local = np.where(inside & (labels != sizes.argmax()), np.abs(local), local)
    around, bubbles = ndimage.label(local >= 0, np.ones((3, 3, 3)))
    if bubbles > 1:
        local = np.where((around > 0) & (around != around[0, 0, 0]), -np.abs(local), local)
    if local is not given:
        out = solid.copy()
        out[box] = local
        solid = out
    return solid, count, float(sizes.max() / sizes.sum())


def inner_box(solid: np.ndarray, room: int) -> tuple[slice, ...] | None:
    """Return the box of the nodes inside a solid.

    Parameters
    ----------
    solid : numpy.ndarray
        Function (*shape), negative inside.
    room : int
        Nodes around them that are in the box, too, where the grid has them.

    Returns
    -------
    tuple of slice, or None
        None for an empty solid.
    """
    inside = solid < 0
    return bounding_box(inside, np.full(3, room)) if inside.any() else None


def remove_thin_features(solid: np.ndarray, grid: FineGrid, thinnest_mm: float) -> np.ndarray:
    """Remove sheets and threads thinner than a length; the surface of thicker parts does not change.

    This is a morphological opening: nodes that are deep enough inside are kept, and nodes near them.

    Parameters
    ----------
    solid : numpy.ndarray
        Function (*shape), negative inside.
    grid : FineGrid
        The grid.
    thinnest_mm : float
        Thickness in mm below which features are removed.

    Returns
    -------
    numpy.ndarray
        Function of the remaining solid.
    """
    slices = inner_box(solid, 2)
    if slices is None:
        return solid
    local, radius = solid[slices], thinnest_mm / 2
    core = local < -radius
    out = solid.copy()
    if not core.any():
        out[slices] = np.abs(local)
        return out
    away = ndimage.distance_transform_edt(~core, sampling=grid.step_mm)
    # The margin of one step ensures that thick parts do not change: the core is only known to the nearest node.
    out[slices] = np.maximum(local, away - radius - grid.step_mm)
    return out


def sampled_distance(distance: SurfaceDistance, grid: FineGrid, reach_mm: float) -> np.ndarray:
    """Sample the signed distance to a closed mesh at all nodes of a grid.

    Parameters
    ----------
    distance : SurfaceDistance
        Distances to the mesh.
    grid : FineGrid
        The grid; all of its nodes are used, not only the active ones.
    reach_mm : float
        Distances are exact up to this; nodes farther away have it, with the sign of their side.

    Returns
    -------
    numpy.ndarray
        (*shape) float32 in mm, negative inside.
    """
    mesh = distance.mesh
    corners = mesh.points[mesh.faces]
    triangle_mm = float(np.linalg.norm(corners - corners.mean(axis=1)[:, None], axis=2).max())
    near = np.flatnonzero(grid.near(mesh.points, reach_mm + triangle_mm).ravel())
    near = near[distance.nearby(grid.points(near), reach_mm + triangle_mm) < np.inf]
    far = np.ones(grid.shape, bool)
    far.ravel()[near] = False
    # Nodes far from the surface are on the same side of it where they are connected.
    labels, count = ndimage.label(far)
    one_of = np.zeros(count + 1, int)
    one_of[labels.ravel()] = np.arange(labels.size)
    side = np.where(distance.signed(grid.points(one_of)) < 0, -reach_mm, reach_mm).astype(np.float32)
    out = side[labels]
    out.ravel()[near] = np.clip(distance.signed(grid.points(near), _CHUNK), -reach_mm, reach_mm)
    return out


def contour(solid: np.ndarray, grid: FineGrid) -> Mesh:
    """Return the surface of the largest component of a solid.

    Parameters
    ----------
    solid : numpy.ndarray
        Function (*shape), negative inside.
    grid : FineGrid
        The grid.

    Returns
    -------
    Mesh
        Closed and manifold, RAS mm; empty for an empty solid.
    """
    return largest_mesh_component(all_shells(solid, grid))


def all_shells(solid: np.ndarray, grid: FineGrid) -> Mesh:
    """Return the surface of a solid, that of all components and voids, in RAS mm; arguments as in `contour`."""
    slices = inner_box(solid, 1)
    if slices is None:
        return Mesh.empty()
    affine = grid.affine.copy()
    affine[:3, 3] += grid.affine[:3, :3] @ [s.start for s in slices]
    return level_surface(Volume(-solid[slices], affine), SNAP * grid.step_mm)


def path_through(
    solid: np.ndarray, grid: FineGrid, points: np.ndarray, normals: np.ndarray, limit_mm: float
) -> np.ndarray:
    """Return the length of rays through a solid.

    Parameters
    ----------
    solid : numpy.ndarray
        Function (*shape), negative inside.
    grid : FineGrid
        The grid.
    points, normals : numpy.ndarray
        (N, 3) surface points, RAS mm, and outward unit normals; the rays run against the normals.
    limit_mm : float
        Maximum length.

    Returns
    -------
    numpy.ndarray
        (N,) mm from each point to where its ray leaves the solid, at most limit_mm.
    """
    step = grid.step_mm
    length = np.full(len(points), limit_mm)
    inside = np.arange(len(points))
    before = np.full(len(points), -step)
    for far in np.arange(1.5, limit_mm / step) * step:
        if not len(inside):
            break
        value = grid.sample(solid, points[inside] - far * normals[inside])
        left = value >= 0
        share = before[left] / (before[left] - value[left])
        length[inside[left]] = far - step + np.clip(share, 0, 1) * step
        inside, before = inside[~left], value[~left]
    return length


class OuterSurface:
    """The outer surface of a shape on a fine grid: an open surface that continues beyond the defect, over the bone.

    Parameters
    ----------
    field : numpy.ndarray
        Signed distance (*shape) in mm, negative inside.
    grid : FineGrid
        The grid.
    centre : numpy.ndarray
        (3,) centre of the vault, RAS mm; outwards is away from it.

    Attributes
    ----------
    points : numpy.ndarray
        (N, 3) RAS mm.
    normals : numpy.ndarray
        (N, 3) outward unit normals.
    """

    def __init__(self, field: np.ndarray, grid: FineGrid, centre: np.ndarray):
        mesh = all_shells(field, grid)
        normals = mesh.vertex_normals()
        away = mesh.points - centre
        away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9)
        # At the border of the active nodes the mesh is closed by faces that are not a surface of the shape.
        known = grid.sample(grid.spread(np.ones(len(grid.active)), 0.0), mesh.points) > 0.999
        keep = known & (np.einsum("nx,nx->n", normals, away) > OUTWARDS)
        # Small components, on the roof of the orbit or in a sinus, are not part of the outer surface.
        pieces = component_labels(len(mesh.points), mesh.faces[keep[mesh.faces].all(axis=1)])
        sizes = np.bincount(pieces[keep], minlength=len(keep))
        keep &= sizes[pieces] > SMALL_COMPONENT * sizes.max()
        if not keep.any():  # far from any vault the whole surface is taken as the outer one
            keep[:] = True
        self.points, self.normals = mesh.points[keep], normals[keep]
        self._step_mm = grid.step_mm
        self._tree = cKDTree(self.points)
        self._every = max(1, round(2.0 / grid.step_mm**2))
        self._rough = cKDTree(self.points[:: self._every])

    def roughly_nearest(self, points: np.ndarray) -> np.ndarray:
        """Return (N,) indices as `nearest`, to within 1 to 2 mm.

        Far from the surface many of its points are nearly equally near, which makes the exact query slow.
        """
        return self._rough.query(points)[1] * self._every

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """Return (N,) indices of the surface points nearest to points (N, 3), RAS mm, or next to the nearest.

        The search has two steps for speed: `roughly_nearest`, then the point nearest to the foot on the surface.
        """
        rough = self.roughly_nearest(points)
        height = np.einsum("nx,nx->n", points - self.points[rough], self.normals[rough])
        return self._tree.query(points - height[:, None] * self.normals[rough])[1]

    def depth(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return depth below the surface and lateral distance from it.

        The depth is measured from the tangent plane at the nearest point. That point is at most 0.25 mm from the true
        foot, which at the curvature of a skull is less than 0.01 mm in depth.

        Parameters
        ----------
        points : numpy.ndarray
            (N, 3) RAS mm.

        Returns
        -------
        depth, lateral : numpy.ndarray
            (N,) mm each.
        """
        return self.foot(points)[1:]

    def foot(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (N,) indices as `nearest`, and depth and lateral distance as `depth`, of points (N, 3), RAS mm."""
        at = self.nearest(points)
        offset = points - self.points[at]
        depth = -np.einsum("nx,nx->n", offset, self.normals[at])
        return at, depth, np.linalg.norm(offset + depth[:, None] * self.normals[at], axis=1)

    def _count(self, area_mm2: float) -> int:
        """About how many points the surface has on an area: two and a half for each face of a cell of the grid."""
        return min(max(4, round(2.5 * area_mm2 / self._step_mm**2)), len(self.points))

    def neighbours(self, area_mm2: float) -> np.ndarray:
        """Return (N, K) indices of the surface points nearest to each surface point, on about an area."""
        return self._tree.query(self.points, k=self._count(area_mm2))[1].reshape(len(self.points), -1)

    def normal(self, points: np.ndarray) -> np.ndarray:
        """Return (N, 3) unit normals of the surface near points (N, 3), RAS mm, averaged over about 3 mm2 each."""
        around = self._tree.query(points, k=self._count(3.0))[1].reshape(len(points), -1)
        mean = self.normals[around].mean(axis=1)
        return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)
