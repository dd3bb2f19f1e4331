"""A solid on a fine grid of its own, told by a function that is negative inside and in millimetres near its surface.

The patient's voxels are too coarse for a clearance of half a millimetre. Here shapes are cut, joined and shelled on
nodes half a millimetre apart, and since the function is a distance near the surface, the surface lies far more exactly
than the nodes: a plane exactly where it is, a hole 2 mm wide to a few hundredths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.volume import Volume, sample_volume
from SkullVAELib.mesh.isosurface import level_surface
from SkullVAELib.mesh.mesh import Mesh, component_labels, largest_mesh_component

FAR_MM = 5.0
"""What the function is where nobody computed it: far outside."""

SNAP = 0.02
"""Share of a step that a node keeps from the surface: no two points of the mesh may coincide in single precision."""

OUTWARDS = 0.4
"""Cosine between a surface's normal and the way out of the vault from which on it is an outer surface. The orbit's roof
is none: a plate of one thickness has to end at the brow."""

SMALL_COMPONENT = 0.1
"""Share of the outer surface's largest piece below which a piece is no outer surface."""

_BLOCK = 4
"""Nodes along the edge of the blocks by which the neighbourhood of a defect is chosen."""


@dataclass(frozen=True)
class FineGrid:
    """An isotropic grid laid along a defect, of which only the nodes near the defect are used.

    affine: (4, 4) node index -> RAS mm, right-handed, its third axis outwards; shape: nodes along each axis;
    active: (M,) int64 flat (C order) indices of the nodes near the defect.
    """

    affine: np.ndarray
    shape: tuple[int, int, int]
    active: np.ndarray

    @property
    def step_mm(self) -> float:
        """Distance between neighbouring nodes."""
        return float(np.linalg.norm(self.affine[:3, 0]))

    def index(self, flat: np.ndarray) -> np.ndarray:
        """(N, 3) indices of nodes given by their flat ones (N,)."""
        return np.stack(np.unravel_index(flat, self.shape), -1)

    def points(self, flat: np.ndarray) -> np.ndarray:
        """(N, 3) RAS mm of nodes given by their flat indices (N,)."""
        return apply_affine(self.affine, self.index(flat))

    def spread(self, values: np.ndarray, outside: float = FAR_MM) -> np.ndarray:
        """Values (M,) of the active nodes as a whole array (*shape), `outside` elsewhere; float32."""
        out = np.full(self.shape, outside, np.float32)
        out.ravel()[self.active] = values
        return out

    def sample(self, array: np.ndarray, points: np.ndarray) -> np.ndarray:
        """(N,) trilinear values of an array (*shape) at points (N, 3) in RAS mm; FAR_MM beyond the grid."""
        return sample_volume(Volume(array, self.affine), points, FAR_MM)

    def near(self, points: np.ndarray, reach_mm: float) -> np.ndarray:
        """Bool array (*shape): nodes within reach_mm of a point (N, 3), and some up to two steps further."""
        inverse = np.linalg.inv(self.affine)
        index = np.floor((points @ inverse[:3, :3].T + inverse[:3, 3]) / 2 + 0.25).astype(int)
        shape = -(-np.array(self.shape) // 2)
        index = index[((index >= 0) & (index < shape)).all(1)]
        blocks = np.zeros(shape, bool)
        blocks[tuple(index.T)] = True
        away = ndimage.distance_transform_edt(~blocks) if blocks.any() else np.full(shape, np.inf)
        near = away * 2 * self.step_mm <= reach_mm + 2 * self.step_mm
        for axis in range(3):
            near = near.repeat(2, axis)
        return near[tuple(slice(n) for n in self.shape)]


def fine_grid(mask: Volume, outwards: np.ndarray, reach_mm: float, step_mm: float) -> FineGrid:
    """A grid along the mask's own axes, its nodes active within reach_mm of the mask's voxels.

    outwards: (3,) RAS direction that the third axis shall have as far as the mask's shape allows: a plate then lies
    flat in its grid, however the head lay in the scanner.
    """
    voxels = apply_affine(mask.affine, np.argwhere(mask.array))
    axes = np.linalg.eigh(np.cov((voxels - voxels.mean(0)).T) + 1e-6 * np.eye(3))[1][:, ::-1].T
    third = axes[np.argmax(np.abs(axes @ outwards))]
    third = third * np.sign(third @ outwards)
    first = next(axis for axis in axes if abs(axis @ third) < 0.5)
    # An eigenvector has no sign: it is taken the way it points along the head's own axes, so that runs agree.
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
    for axis in range(3):
        near = near.repeat(_BLOCK, axis)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = frame, frame @ low
    return FineGrid(affine, near.shape, np.flatnonzero(near.ravel()))


def rounded_intersection(functions: list[np.ndarray], radius_mm: float) -> np.ndarray:
    """The common part of solids, its edges rounded from within: nothing is added to the sharp intersection.

    Faces stay where they are: more than radius_mm from an edge the result is the largest of the functions. Exact for
    faces at right angles.
    """
    deepest = functions[0]
    for function in functions[1:]:
        deepest = np.maximum(deepest, function)
    total = sum(np.square(np.maximum(function + radius_mm, 0)) for function in functions)
    return np.minimum(deepest, -radius_mm) + np.sqrt(total)


def largest_solid(solid: np.ndarray) -> tuple[np.ndarray, int, float]:
    """A solid with its largest connected piece alone, without voids in it.

    solid: function (*shape), negative inside. Returns it, the number of pieces and the share of the nodes kept.
    """
    labels, count = ndimage.label(solid < 0)
    if not count:
        return solid, 0, 0.0
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    keep = labels == sizes.argmax()
    solid = np.where((solid < 0) & ~keep, np.abs(solid), solid)
    around, bubbles = ndimage.label(solid >= 0, np.ones((3, 3, 3)))
    if bubbles > 1:
        solid = np.where((around > 0) & (around != around[0, 0, 0]), -np.abs(solid), solid)
    return solid, count, float(sizes.max() / sizes.sum())


def remove_thin_features(solid: np.ndarray, grid: FineGrid, thinnest_mm: float) -> np.ndarray:
    """A solid without sheets and threads thinner than thinnest_mm; what is thicker keeps its surface as it was.

    An opening: nodes that lie deep enough are kept, and what is near them.
    """
    box = ndimage.find_objects((solid < 0).astype(np.uint8))
    if not box:
        return solid
    slices = tuple(slice(max(0, s.start - 2), s.stop + 2) for s in box[0])
    local, radius = solid[slices], thinnest_mm / 2
    core = local < -radius
    out = solid.copy()
    if not core.any():
        out[slices] = np.abs(local)
        return out
    away = ndimage.distance_transform_edt(~core, sampling=grid.step_mm)
    # The deepest nodes may lie up to a step below the depth asked for, so no thick place is touched.
    out[slices] = np.maximum(local, away - radius - grid.step_mm)
    return out


def contour(solid: np.ndarray, grid: FineGrid) -> Mesh:
    """The surface of the solid's largest piece, closed and manifold, in RAS mm; empty when nothing is inside."""
    return largest_mesh_component(all_shells(solid, grid))


def all_shells(solid: np.ndarray, grid: FineGrid) -> Mesh:
    """The surface of a solid, of all its pieces and voids."""
    box = ndimage.find_objects((solid < 0).astype(np.uint8))
    if not box:
        return Mesh.empty()
    slices = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box[0])
    affine = grid.affine.copy()
    affine[:3, 3] += grid.affine[:3, :3] @ [s.start for s in slices]
    return level_surface(Volume(-solid[slices], affine), SNAP * grid.step_mm)


def path_through(
    solid: np.ndarray, grid: FineGrid, points: np.ndarray, normals: np.ndarray, limit_mm: float
) -> np.ndarray:
    """How far a ray goes from each surface point (N, 3) against its outward normal (N, 3) until it leaves the solid,
    (N,) mm, at most limit_mm."""
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
    """The outer surface of a shape on a fine grid: an open sheet that runs on beyond the defect, over the bone.

    points: (N, 3) RAS mm; normals: (N, 3) unit vectors outwards.
    """

    def __init__(self, field: np.ndarray, grid: FineGrid, centre: np.ndarray):
        """field: (*shape) in mm, negative inside; centre: (3,) RAS mm that outwards is away from."""
        mesh = all_shells(field, grid)
        normals = mesh.vertex_normals()
        away = mesh.points - centre
        away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9)
        # Where the nodes end, so does the field, and what closes the mesh there is no surface of the shape.
        known = grid.sample(grid.spread(np.ones(len(grid.active)), 0.0), mesh.points) > 0.999
        keep = known & (np.einsum("nx,nx->n", normals, away) > OUTWARDS)
        # Scraps, on the orbit's roof or in a sinus, are no outer surface.
        pieces = component_labels(len(mesh.points), mesh.faces[keep[mesh.faces].all(axis=1)])
        sizes = np.bincount(pieces[keep], minlength=len(keep))
        keep &= sizes[pieces] > SMALL_COMPONENT * sizes.max()
        if not keep.any():  # far from any vault: the whole surface is its outer one
            keep[:] = True
        self.points, self.normals = mesh.points[keep], normals[keep]
        self._tree = cKDTree(self.points)
        self._every = max(1, round(2.0 / grid.step_mm**2))
        self._rough = cKDTree(self.points[:: self._every])

    def roughly_nearest(self, points: np.ndarray) -> np.ndarray:
        """As `nearest`, up to a millimetre or two: far from a sheet many of its points are nearly the nearest, and
        finding out which one takes long."""
        return self._rough.query(points)[1] * self._every

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """(N,) index of the sheet's point nearest to each point (N, 3), or of one beside it.

        Found in two steps, for the same reason: roughly, and then nearest to the foot on the sheet.
        """
        rough = self.roughly_nearest(points)
        height = np.einsum("nx,nx->n", points - self.points[rough], self.normals[rough])
        return self._tree.query(points - height[:, None] * self.normals[rough])[1]

    def depth(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How deep points (N, 3) lie below the sheet, and how far beside it: two arrays (N,) in mm.

        The depth is that below the tangent plane at the nearest point: a point of the mesh is at most a quarter of a
        millimetre from the true foot, which on a skull's curvature is less than a hundredth of a millimetre in depth.
        """
        at = self.nearest(points)
        offset = points - self.points[at]
        depth = -np.einsum("nx,nx->n", offset, self.normals[at])
        return depth, np.linalg.norm(offset + depth[:, None] * self.normals[at], axis=1)

    def neighbours(self, count: int) -> np.ndarray:
        """(N, count) indices of the sheet's points nearest to each of its own."""
        return self._tree.query(self.points, k=min(count, len(self.points)))[1].reshape(len(self.points), -1)

    def normal(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) unit normals of the sheet near points (N, 3), each the mean over about three square millimetres."""
        around = self._tree.query(points, k=min(30, len(self.points)))[1].reshape(len(points), -1)
        mean = self.normals[around].mean(axis=1)
        return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)
