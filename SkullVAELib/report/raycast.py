"""Renders bone and implant by casting rays through the volume, without OpenGL, display or mesh.

A new machine, a hospital's server or a child process of Slicer may have no OpenGL; numpy and torch are always there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.masks import block_means, bounding_box
from SkullVAELib.geometry.volume import Volume

BONE, IMPLANT = 0, 1

# Below 0.5, so that bone one voxel thick (orbit, squama) survives the smoothing instead of breaking into holes.
_ISO = 0.42
# Standard deviations, as fractions of the edges of a voxel, that hide the steps between voxels; along an axis that is
# interpolated less is enough.
_SMOOTHING, _SMOOTHING_BETWEEN = 0.8, 0.5
_RELIEF, _RELIEF_BETWEEN = 1.5, 1.0
# Finer voxels are averaged first: the picture does not show them, and they cost time and memory.
_FINEST_MM = 0.65
_MARGIN_MM = 3.0
_BLOCK = 2
_FOG_PAD = 4


@dataclass(frozen=True)
class View:
    """An orthographic view.

    Attributes
    ----------
    right, up : numpy.ndarray
        (3,) RAS unit vectors along the picture's width and height.
    centre : numpy.ndarray
        (3,) point in the middle of the picture, RAS mm.
    mm_per_pixel : float
        Side length of a pixel in mm.
    """

    right: np.ndarray
    up: np.ndarray
    centre: np.ndarray
    mm_per_pixel: float

    @property
    def forward(self) -> np.ndarray:
        """(3,) RAS unit vector from the viewer into the picture."""
        return np.cross(self.up, self.right)


@dataclass(frozen=True)
class Light:
    """A distant light source.

    Attributes
    ----------
    direction : tuple of float
        Direction towards the source: right, up, towards the viewer.
    colour : tuple of float
        RGB intensity.
    """

    direction: tuple[float, float, float]
    colour: tuple[float, float, float]


KEY = Light((-0.55, 0.62, 0.56), (0.84, 0.81, 0.76))
FILL = Light((0.75, 0.05, 0.65), (0.17, 0.20, 0.25))
HEAD = Light((0.0, 0.0, 1.0), (0.13, 0.13, 0.13))


class Scene:
    """Bone and implant, lightly smoothed on a nearly isotropic grid along the axes of the input's, cropped to the bone.

    Fine voxels are averaged over blocks, and axes with much longer voxels than the others, such as that across thick
    slices, are interpolated: every length in the scene is then short compared with its blocks.

    Parameters
    ----------
    bone, implant : Volume
        Labelmaps on one grid of any orientation; non-zero voxels are inside. The implant may be empty.
    colours : numpy.ndarray
        (2, 3) RGB in 0..1 of bone and implant.

    Attributes
    ----------
    has_implant : bool
        Whether the implant has voxels.
    surface_points : numpy.ndarray
        (N, 3) RAS mm, centres of the blocks of voxels that may hold a surface.

    Raises
    ------
    SkullVAEError
        The bone is empty.
    """

    def __init__(self, bone: Volume, implant: Volume, colours: np.ndarray):
        inside, plate = _mask(bone.array), _mask(implant.array)
        bone_box, plate_box = bounding_box(inside), bounding_box(plate)
        if not bone_box[0].stop:
            raise SkullVAEError(
                "The picture cannot be drawn: there is no bone", "Check the segmentation or the threshold"
            )
        self.has_implant = plate_box[0].stop > 0
        factor = np.maximum(1, np.ceil(_FINEST_MM / bone.spacing - 1e-6).astype(int))
        edges = bone.spacing * factor
        times = np.round(edges / edges.min()).astype(int)
        smoothing = np.where(times > 1, _SMOOTHING_BETWEEN, _SMOOTHING) * times
        relief = np.where(times > 1, _RELIEF_BETWEEN, _RELIEF) * times
        margin = np.ceil(_MARGIN_MM / edges).astype(int) * factor
        box = _joined(bone_box, plate_box, margin, inside.shape)
        union = _refine(_average(inside[box] | plate[box], factor), times)
        # Index i of the averaged grid is the mean position of the `factor` voxels it was made of, and the middle of the
        # `times` nodes that it was divided into.
        grid = np.eye(4)
        grid[:3, :3] = np.diag(factor / times)
        grid[:3, 3] = [s.start for s in box] + (factor / times - 1) / 2
        self._affine = bone.affine @ grid
        self._inverse = np.linalg.inv(self._affine)
        self._shape = np.array(union.shape)
        self._spacing = np.linalg.norm(self._affine[:3, :3], axis=0)
        self._voxel_mm = float(self._spacing.min())
        self._colours = torch.as_tensor(np.asarray(colours, np.float32))

        self._union = torch.from_numpy(ndimage.gaussian_filter(union, smoothing, truncate=3))
        # Normals come from a smoother field than the outline: otherwise every voxel's step becomes a contour line.
        self._relief = torch.from_numpy(ndimage.gaussian_filter(self._union.numpy(), relief, truncate=2))
        self._plate, self._plate_start = None, np.zeros(3)
        if self.has_implant:
            plate_mean = _average_in(plate[box], _shifted(plate_box, box), factor)
            near = bounding_box(plate_mean > 0, margin=np.ceil(3 * smoothing / times).astype(int) + 1)
            self._plate_start = np.array([s.start for s in near], float) * times
            smooth = ndimage.gaussian_filter(_refine(plate_mean[near], times), smoothing, truncate=3)
            self._plate = torch.from_numpy(smooth)

        # Blocks of voxels that may hold a surface, and the distance (mm) that a ray can advance from a block before it
        # may meet one. A block includes the first voxels of the next, so that it bounds the values interpolated in it.
        blocks = torch.nn.functional.max_pool3d(self._union[None, None], _BLOCK + 1, _BLOCK, ceil_mode=True)[0, 0]
        occupied = blocks.numpy() > _ISO
        self.surface_points = (np.argwhere(occupied) * _BLOCK + 1) @ self._affine[:3, :3].T + self._affine[:3, 3]
        steps = ndimage.distance_transform_cdt(~occupied, "chessboard").astype(np.float32)
        free = np.maximum((steps - 1) * np.float32(_BLOCK * self._spacing.min()), 0.7 * np.float32(self._voxel_mm))
        free[occupied] = 0
        # Rays start and end outside the volume by up to three cells of the raster of `_start`: one along the ray, and
        # two across it in both directions.
        self._cell_mm = 1.5 * _BLOCK * float(self._spacing.max())
        self._pad = np.ceil(3 * self._cell_mm / (_BLOCK * self._spacing)).astype(int) + 2
        padding = [(int(n), int(n)) for n in self._pad]
        self._free_mm = torch.from_numpy(np.pad(free, padding, constant_values=np.float32(_BLOCK * self._voxel_mm)))

        # Bone density on a coarse grid: it darkens points near bone (ambient occlusion) and points in its shadow.
        self._fog_factor = np.maximum(1, np.round(3.0 / self._spacing).astype(int))
        fog = np.pad(_average(self._union.numpy(), self._fog_factor), _FOG_PAD)
        self._fog = torch.from_numpy(ndimage.gaussian_filter(fog, 0.8, truncate=2.5))

    def implant_points(self) -> np.ndarray:
        """Return the centres of the voxels inside the implant.

        Returns
        -------
        numpy.ndarray
            (N, 3) RAS mm; (0, 3) without an implant.
        """
        if self._plate is None:
            return np.zeros((0, 3))
        index = np.argwhere(self._plate.numpy() > 0.5)
        if not len(index):
            index = np.argwhere(self._plate.numpy() >= float(self._plate.max()))
        return (index + self._plate_start) @ self._affine[:3, :3].T + self._affine[:3, 3]

    @torch.inference_mode()
    def slice(self, view: View, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample the densities in the view's plane.

        Parameters
        ----------
        view : View
            The plane and the scale.
        width, height : int
            Size of the picture in pixels.

        Returns
        -------
        union, implant : numpy.ndarray
            (height, width) in 0..1, density of bone and implant together, and of the implant.
        """
        a, b = _pixels(view, width, height)
        origin, along, up, _ = self._ray(view)
        points = origin + a[:, None] * along + b[:, None] * up
        union = _sample(self._union, points)
        plate = self._sample_plate(points)
        return union.reshape(height, width).numpy(), plate.reshape(height, width).numpy()

    @torch.inference_mode()
    def draw(self, view: View, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Render a view.

        One ray is cast for each pixel, and four more where neighbours differ in surface, depth or brightness: smooth
        outlines at little cost.

        Parameters
        ----------
        view : View
            Direction and scale.
        width, height : int
            Size of the picture in pixels.

        Returns
        -------
        colour : numpy.ndarray
            (height, width, 3) RGB in 0..1, premultiplied by the coverage.
        coverage : numpy.ndarray
            (height, width) in 0..1.
        """
        a, b = _pixels(view, width, height)
        start = self._start(view, a, b)
        colour, depth, kind = self._trace(view, a, b, start)
        image = colour.reshape(height, width, 3)
        depth, kind = depth.reshape(height, width), kind.reshape(height, width)
        rough = torch.zeros(height, width, dtype=torch.bool)
        tone = image.sum(-1)
        steep = max(1.5, 4 * view.mm_per_pixel)
        for axis in (0, 1):
            n = depth.shape[axis] - 1
            one, two = ([t.narrow(axis, first, n) for t in (kind, depth, tone, rough)] for first in (0, 1))
            differ = (one[0] != two[0]) | ((one[1] - two[1]).abs() > steep) | ((one[2] - two[2]).abs() > 0.30)
            one[3].logical_or_(differ)
            two[3].logical_or_(differ)
        pick = rough.reshape(-1).nonzero()[:, 0]
        coverage = (kind >= 0).float().reshape(-1)
        if len(pick):
            # A rotated square resolves an edge of any direction in four steps.
            shift = torch.tensor([(-3, -1), (-1, 3), (1, -3), (3, 1)]) * (view.mm_per_pixel / 8)
            right, up = ((axis[pick] + shift[:, c, None]).reshape(-1) for c, axis in enumerate((a, b)))
            colour, _, kind = self._trace(view, right, up, start[pick].repeat(4, 1))
            image.reshape(-1, 3)[pick] = colour.reshape(4, -1, 3).mean(0)
            coverage[pick] = (kind >= 0).float().reshape(4, -1).mean(0)
        return image.numpy(), coverage.reshape(height, width).numpy()

    def _ray(self, view: View) -> tuple[torch.Tensor, ...]:
        """Voxel index of the view's centre, and the index steps for 1 mm right, up and forward; each (3,) float32."""
        origin = self._inverse[:3, :3] @ view.centre + self._inverse[:3, 3]
        steps = (self._inverse[:3, :3] @ vector for vector in (view.right, view.up, view.forward))
        return tuple(torch.as_tensor(v, dtype=torch.float32) for v in (origin, *steps))

    def _start(self, view: View, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """(N, 2) mm along each ray where the occupied blocks start and end; an empty interval where it meets none.

        The occupied blocks are projected onto a coarse raster, each grown by more than its own radius.
        """
        cell = self._cell_mm
        offset = self.surface_points - view.centre
        across = np.stack([offset @ view.right, offset @ view.up], 1)
        low = across.min(axis=0) - 2 * cell
        size = np.ceil((across.max(axis=0) + 2 * cell - low) / cell).astype(int) + 1
        place = ((across - low) / cell).astype(int) @ [size[1], 1]
        depth = torch.from_numpy((offset @ view.forward).astype(np.float32))
        near = torch.full((int(size.prod()),), 1e6)
        far = torch.full((int(size.prod()),), -1e6)
        near.scatter_reduce_(0, torch.from_numpy(place), depth, "amin")
        far.scatter_reduce_(0, torch.from_numpy(place), depth, "amax")
        near = ndimage.minimum_filter(near.numpy().reshape(size), 3) - cell
        far = ndimage.maximum_filter(far.numpy().reshape(size), 3) + cell
        i = ((a - low[0]) / cell).long()
        j = ((b - low[1]) / cell).long()
        valid = (a >= low[0]) & (b >= low[1]) & (i < int(size[0])) & (j < int(size[1]))
        place = torch.where(valid, i * int(size[1]) + j, 0)
        span = torch.from_numpy(np.stack([near.ravel(), far.ravel()], 1))[place]
        span[~valid] = torch.tensor([1e6, -1e6])
        return span

    def _trace(self, view: View, a: torch.Tensor, b: torch.Tensor, span: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Colour (N, 3), depth (N,) in mm and kind (N,) (-1 nothing, BONE or IMPLANT) seen by N rays."""
        origin, along, up, forward = self._ray(view)
        colour = torch.zeros(len(a), 3)
        depth = torch.full((len(a),), 1e6)
        kind = torch.full((len(a),), -1, dtype=torch.int8)
        ray = (span[:, 0] < span[:, 1]).nonzero()[:, 0]
        base = origin + a[ray, None] * along + b[ray, None] * up
        t, end = span[ray].T.contiguous()
        before = torch.zeros(len(ray))  # density one step earlier, to interpolate the crossing between two samples
        size = torch.tensor(self._union.shape, dtype=torch.float32)
        # One row per axis: every operation then runs over contiguous memory.
        start, ahead = _normalised(base, size).T.contiguous(), (2 * forward / (size - 1)).flip(-1)[:, None]
        to_block = ((size - 1) / (2 * _BLOCK)).flip(-1)[:, None]
        shift = to_block + torch.tensor(self._pad.astype(np.float32)).flip(-1)[:, None]
        free, count = self._free_mm.reshape(-1), self._free_mm.shape
        hits = []
        while len(ray):
            points = (ahead * t).add_(start)
            column, row, plane = (points * to_block).add_(shift).floor_()
            place = plane.mul_(count[1] * count[2]).add_(row.mul_(count[2])).add_(column)
            step = free.index_select(0, place.int())
            close = (step == 0).nonzero()[:, 0]
            sampled = _lookup(self._union, points.index_select(1, close).T)
            density = torch.zeros(len(ray)).index_copy_(0, close, sampled)
            hit = density > _ISO
            found = hit.nonzero()[:, 0]
            if len(found):
                inside, earlier = density[found], before[found]
                back = (inside - _ISO) / (inside - earlier).clamp_min(1e-3)
                hits.append((ray[found], t[found] - back.clamp_(0, 1) * self._stride(earlier)))
            step.index_copy_(0, close, self._stride(sampled))
            t = t + step
            keep = (~hit & (t < end)).nonzero()[:, 0]
            ray, t, end, before = (values.index_select(0, keep) for values in (ray, t, end, density))
            start = start.index_select(1, keep)
        if not hits:
            return colour, depth, kind
        ray, t = (torch.cat(parts) for parts in zip(*hits, strict=True))
        base = origin + a[ray, None] * along + b[ray, None] * up
        points = base + t[:, None] * forward
        # One Newton step: the crossing was interpolated linearly over a whole step, but the density is not linear.
        slope = (_sample(self._union, points + 0.3 * forward) - _sample(self._union, points - 0.3 * forward)) / 0.6
        t = t + ((_ISO - _sample(self._union, points)) / slope.clamp_min(0.05)).clamp(-0.4, 0.4)
        points = base + t[:, None] * forward
        union = _sample(self._union, points)
        which = (self._sample_plate(points) > 0.5 * union).to(torch.int8)
        colour[ray] = self._shade(view, points, which)
        depth[ray] = t
        kind[ray] = which
        return colour, depth, kind

    def _stride(self, density: torch.Tensor) -> torch.Tensor:
        """(N,) mm that a ray may advance from a density below the surface's: further where the density is low."""
        return self._voxel_mm * (1.3 - density * (0.75 / _ISO)).clamp_min(0.55)

    def _shade(self, view: View, points: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """(N, 3) RGB of surface points (N, 3) in voxel indices."""
        # Density at the corners of a tetrahedron around the point: the gradient for four samples instead of six.
        gradient = torch.zeros(len(points), 3)
        for signs in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)):
            corner = torch.tensor(signs, dtype=torch.float32)
            gradient += corner * _sample(self._relief, points + corner)[:, None]
        # Normals transform with the inverse transpose.
        basis = np.stack([view.right, view.up, -view.forward])
        normal = -gradient @ torch.as_tensor(self._inverse[:3, :3] @ basis.T, dtype=torch.float32)
        normal = torch.nn.functional.normalize(normal, dim=1)
        to_index = torch.as_tensor(basis @ self._inverse[:3, :3].T, dtype=torch.float32)

        fog = torch.zeros(len(points))
        for distance_mm, weight in ((4.0, 0.9), (9.0, 0.9), (18.0, 0.9)):
            fog += weight * self._sample_fog(points + (distance_mm * normal) @ to_index)
        ambient = torch.exp(-1.5 * fog)
        key = torch.nn.functional.normalize(torch.tensor(KEY.direction), dim=0)
        shadow = torch.zeros(len(points))
        lifted = points + (3.0 * normal) @ to_index
        for distance_mm in (5.0, 10.0, 17.0, 27.0, 40.0):
            shadow += self._sample_fog(lifted + (distance_mm * key) @ to_index)
        shadow = torch.exp(-1.6 * (shadow - 0.15).clamp_min(0))

        albedo = self._colours[which.long()]
        light = 0.17 + 0.15 * (0.5 + 0.5 * normal[:, 1:2]) * torch.tensor([0.92, 0.98, 1.08])
        light = light * ambient[:, None]
        for lamp, seen in ((KEY, 0.25 + 0.75 * shadow), (FILL, ambient), (HEAD, ambient.sqrt())):
            towards = torch.nn.functional.normalize(torch.tensor(lamp.direction), dim=0)
            wrapped = ((normal @ towards + 0.12) / 1.12).clamp_min(0) * seen * (0.35 + 0.65 * ambient)
            light = light + wrapped[:, None] * torch.tensor(lamp.colour)
        half = torch.nn.functional.normalize(key + torch.tensor([0.0, 0.0, 1.0]), dim=0)
        shine = (normal @ half).clamp_min(0) ** 40 * shadow * torch.where(which == IMPLANT, 0.22, 0.10)
        colour = albedo * light * 1.16 + shine[:, None]
        # Highlights roll off instead of burning out.
        return torch.where(colour > 0.7, 0.7 + 0.3 * torch.tanh((colour - 0.7) / 0.45), colour)

    def _sample_plate(self, points: torch.Tensor) -> torch.Tensor:
        """(N,) smoothed density of the implant at (N, 3) voxel indices."""
        if self._plate is None:
            return torch.zeros(len(points))
        return _sample(self._plate, points - torch.as_tensor(self._plate_start, dtype=torch.float32))

    def _sample_fog(self, points: torch.Tensor) -> torch.Tensor:
        """(N,) density of the coarse fog at (N, 3) voxel indices."""
        factor = torch.as_tensor(self._fog_factor, dtype=torch.float32)
        return _sample(self._fog, (points - (factor - 1) / 2) / factor + _FOG_PAD)


def _pixels(view: View, width: int, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Millimetres right (N,) and up (N,) from the view's centre of all pixel centres, row by row from the top."""
    a = (torch.arange(width, dtype=torch.float32) - (width - 1) / 2) * view.mm_per_pixel
    b = ((height - 1) / 2 - torch.arange(height, dtype=torch.float32)) * view.mm_per_pixel
    b, a = torch.meshgrid(b, a, indexing="ij")
    return a.reshape(-1), b.reshape(-1)


def _sample(field: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(N,) trilinear values of a (I, J, K) field at (N, 3) indices; 0 outside."""
    if not len(points):
        return torch.zeros(0)
    return _lookup(field, _normalised(points, torch.tensor(field.shape, dtype=torch.float32)))


def _normalised(points: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Voxel indices (N, 3) as torch's grid_sample takes them: last axis first, -1..1 from first to last voxel."""
    return (points * (2 / (size - 1).clamp_min(1)) - 1).flip(-1)


def _lookup(field: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(N,) trilinear values of a (I, J, K) field at (N, 3) normalised points; 0 outside."""
    if not len(points):
        return torch.zeros(0)
    return torch.nn.functional.grid_sample(field[None, None], points[None, None, None], align_corners=True).reshape(-1)


def _average(array: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Means over blocks of `factor` voxels per axis, see `block_means`, in C order."""
    return np.ascontiguousarray(block_means(array, factor))


def _average_in(array: np.ndarray, box: tuple[slice, ...], factor: np.ndarray) -> np.ndarray:
    """`_average` of an array that is 0 outside of a box."""
    blocks = tuple(slice(s.start // f, -(-s.stop // f)) for s, f in zip(box, factor.tolist(), strict=True))
    result = np.zeros(-(-np.array(array.shape) // factor), np.float32)
    part = tuple(slice(s.start * f, s.stop * f) for s, f in zip(blocks, factor.tolist(), strict=True))
    result[blocks] = _average(array[part], factor)
    return result


def _mask(array: np.ndarray) -> np.ndarray:
    """The voxels that are not 0; no copy of a mask."""
    return array if array.dtype == bool else np.asarray(array, order="K") != 0


def _joined(
    first: tuple[slice, ...], second: tuple[slice, ...], margin: np.ndarray, shape: tuple[int, ...]
) -> tuple[slice, ...]:
    """The box around a box and another one, which may be empty, grown by a margin (3,) within an array's shape."""
    boxes = (first, second) if second[0].stop else (first,)
    return tuple(
        slice(max(0, min(s.start for s in along) - m), min(n, max(s.stop for s in along) + m))
        for along, m, n in zip(zip(*boxes, strict=True), margin.tolist(), shape, strict=True)
    )


def _shifted(box: tuple[slice, ...], within: tuple[slice, ...]) -> tuple[slice, ...]:
    """A box, counted from the start of another one that contains it."""
    return tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(box, within, strict=True))


def _refine(array: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Voxels divided along each axis into `times` nodes by linear interpolation; constant beyond the outer centres."""
    for axis, parts in enumerate(times.tolist()):
        size = array.shape[axis]
        if parts == 1:
            continue
        if size == 1:
            array = array.repeat(parts, axis)
            continue
        at = ((np.arange(size * parts) + 0.5) / parts - 0.5).clip(0, size - 1)
        low = np.minimum(at.astype(int), size - 2)
        share = (at - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
        array = array.take(low, axis) * (1 - share) + array.take(low + 1, axis) * share
    return np.ascontiguousarray(array)
