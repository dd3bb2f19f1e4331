"""The canonical frame: where every skull lies alike, and the registration that takes a patient there.

Canonical millimetres are RAS with the origin at the centre of the vault, 75 mm below the vertex. The frame is fixed by
the model's own mean shape: a patient's bone is registered to it with nine degrees of freedom.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree

from .bone import bounding_box
from .errors import SkullVAEError
from .threads import all_threads
from .volume import Volume

MARGIN_MM = 20.0
"""Room kept around the bone when an image is cropped to it."""

FAR_MM = 40.0
"""Distances are clamped here before registration: further away no surface pulls."""


@dataclass(frozen=True)
class Grid:
    """A regular grid of nodes centred on the canonical origin.

    shape: nodes along R, A, S; spacing_mm: distance between neighbours.

    >>> Grid((3, 3, 3), 2.0).coordinates()[0, 1, 2].tolist()
    [-2.0, 0.0, 2.0]
    """

    shape: tuple[int, ...] = (96, 112, 96)
    spacing_mm: float = 2.0

    @property
    def half_mm(self) -> np.ndarray:
        """(3,) canonical mm from the centre to the outermost nodes."""
        return (np.array(self.shape) - 1) / 2 * self.spacing_mm

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) node index -> canonical mm."""
        affine = np.diag([self.spacing_mm] * 3 + [1.0])
        affine[:3, 3] = -self.half_mm
        return affine

    def coordinates(self) -> torch.Tensor:
        """(X, Y, Z, 3) canonical mm of every node."""
        return _coordinates(self)

    def sample(self, field: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Trilinear values of a field at points.

        field: (C, X, Y, Z) over this grid's extent, at any resolution; points: (N, 3) canonical mm; returns (N, C).
        Beyond the extent the border's value holds.
        """
        where = (points / torch.as_tensor(self.half_mm, dtype=points.dtype)).flip(-1)
        # On a CPU grid_sample shares its work between threads by batch entries only: make as many as there are threads.
        with all_threads() if len(points) > 50_000 else nullcontext(1) as parts:
            short = -len(points) % parts
            where = F.pad(where, (0, 0, 0, short)).reshape(parts, -1, 1, 1, 3)
            source = field[None].expand(parts, *field.shape)
            value = F.grid_sample(source, where, align_corners=True, padding_mode="border")[..., 0, 0]
        # In one layout whatever the parts are: how a later sum is made depends on it.
        return value.transpose(1, 2).reshape(-1, len(field))[: len(points)].contiguous()


@lru_cache(maxsize=4)
def _coordinates(grid: Grid) -> torch.Tensor:
    axes = [torch.arange(n) * grid.spacing_mm - h for n, h in zip(grid.shape, grid.half_mm, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).float()


def apply_affine(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 3) under a (4, 4) affine.

    >>> apply_affine(np.diag([2.0, 1, 1, 1]), np.array([[1.0, 1, 1]])).tolist()
    [[2.0, 1.0, 1.0]]
    """
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def scale_of(matrix: np.ndarray) -> float:
    """Geometric mean scale of an affine: canonical mm per patient mm, for a patient-to-canonical one."""
    return float(abs(np.linalg.det(matrix[:3, :3])) ** (1 / 3))


def to_nearest_ras(volume: Volume) -> Volume:
    """The same voxels with axes permuted and flipped to run nearest to R, A, S; a view, nothing is resampled."""
    orientation = nib.io_orientation(volume.affine)
    array = nib.apply_orientation(volume.array, orientation)
    return Volume(array, volume.affine @ nib.orientations.inv_ornt_aff(orientation, volume.array.shape))


def crop(volume: Volume, box: tuple[slice, ...]) -> Volume:
    """A box of a volume, a view, still at its place in the world."""
    affine = volume.affine.copy()
    affine[:3, 3] = apply_affine(volume.affine, np.array([s.start for s in box], float))
    return Volume(volume.array[box], affine)


def reduce_bone(bone: Volume, target_mm: float = 1.2) -> Volume:
    """Block-average a bone mask to about target_mm; fractions 0..1 of bone, axes nearest to RAS, cropped near the bone.

    Block sums keep what nearest-neighbour resampling loses: a fraction places the surface below the voxel size.
    """
    bone = to_nearest_ras(bone)
    # A missing vertex lies outside the box of the bone that is left: keep room for its dome, where the image has it.
    margin = np.ceil(MARGIN_MM / bone.spacing).astype(int)
    box = bounding_box(bone.array)
    limits = zip(box, margin, bone.array.shape, strict=True)
    bone = crop(bone, tuple(slice(max(0, s.start - m), min(n, s.stop + m)) for s, m, n in limits))
    factor = np.maximum(1, np.round(target_mm / bone.spacing)).astype(int)
    if (factor == 1).all():
        return Volume(bone.array.astype(np.float32), bone.affine)
    shape = -(-np.array(bone.array.shape) // factor)
    total = np.zeros(shape, np.uint16)
    for offset in np.ndindex(*factor):
        part = bone.array[tuple(slice(o, None, f) for o, f in zip(offset, factor, strict=True))]
        total[tuple(slice(n) for n in part.shape)] += part.astype(bool)
    affine = bone.affine @ np.diag([*factor, 1.0])
    affine[:3, 3] = apply_affine(bone.affine, (factor - 1) / 2)
    return Volume(total.astype(np.float32) / np.prod(factor), affine)


def signed_distance(fraction: Volume) -> np.ndarray:
    """Signed distance in mm to the half-bone surface of a fraction volume; negative in bone; float32."""
    inside = np.ascontiguousarray((fraction.array >= 0.5).transpose(2, 1, 0)).astype(np.uint8)
    image = sitk.GetImageFromArray(inside)
    image.SetSpacing(fraction.spacing.tolist())
    distance = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    # ITK measures to the centres of bone's border voxels; the surface lies half a voxel further out.
    return sitk.GetArrayFromImage(distance).transpose(2, 1, 0) - np.float32(fraction.spacing.mean() / 2)


def surface_points(fraction: Volume, level: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Where the bone's surface crosses the grid's edges, below the voxel size.

    Returns points (N, 3) in RAS mm and outward unit normals (N, 3). Boundary voxel centres lie half a voxel inside the
    surface; pulling those to distance zero would shrink the skull, so crossings are interpolated instead. The image's
    own border is no surface: where the field of view ends, nothing is known.
    """
    f = fraction.array
    points, slopes = [], []
    gradient = [np.gradient(f, axis=axis) for axis in range(3)]
    to_world = np.linalg.inv(fraction.affine[:3, :3])  # row-vector gradients transform with the inverse
    for axis in range(3):
        low = f[tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))]
        high = f[tuple(slice(1, None) if a == axis else slice(None) for a in range(3))]
        at = np.argwhere((low >= level) != (high >= level))
        index = tuple(at.T)
        t = (level - low[index]) / (high[index] - low[index])
        step = np.eye(3, dtype=int)[axis]
        points.append(at + t[:, None] * step)
        other = tuple((at + step).T)
        slopes.append(np.stack([(1 - t) * g[index] + t * g[other] for g in gradient], -1))
    normals = -np.concatenate(slopes) @ to_world
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
    return apply_affine(fraction.affine, np.concatenate(points)), normals


def _vault(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and size (mm) of the bone within 95 mm of the vertex: where registration starts."""
    top = np.percentile(points[:, 2], 99.9)
    vault = points[points[:, 2] > top - 95]
    low, high = np.percentile(vault, 1, axis=0), np.percentile(vault, 99, axis=0)
    return np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, top - 75]), high - low


def _rotation(w: torch.Tensor) -> torch.Tensor:
    """(3, 3) rotation by the vector w (radians)."""
    zero = w[0] * 0
    return torch.linalg.matrix_exp(torch.stack([zero, -w[2], w[1], w[2], zero, -w[0], -w[1], w[0], zero]).reshape(3, 3))


def start_alignment(points: np.ndarray) -> np.ndarray:
    """(4, 4) patient RAS mm -> a frame with the same axes and scale, centred on the vault."""
    matrix = np.eye(4)
    matrix[:3, 3] = -_vault(points)[0]
    return matrix


PITCHES = (-0.6, -0.3, 0.0, 0.3, 0.6)
"""Starts of the registration, radians of nodding: a vault alone looks nearly the same at any of them."""


def register(points: np.ndarray, mean: torch.Tensor, grid: Grid, steps: int = 80, count: int = 4000) -> np.ndarray:
    """Nine-parameter registration (rotation, translation, three scales) of bone surface to the mean shape.

    points: (N, 3) RAS mm on the patient's bone surface; mean: (X, Y, Z) signed distance in mm on the canonical grid.
    Minimises the Geman-McClure distance of the points to the mean's surface with Adam, its scale annealed from 15 to
    2.7 mm, so that a hole, a neck or a table does not vote. Short runs from several nods of the head decide the start.
    Returns the (4, 4) affine patient RAS mm -> canonical mm.
    Raises SkullVAEError when there are too few points to be a skull.
    """
    if len(points) < 500:
        raise SkullVAEError(
            "There is too little bone to be a skull", "Choose the segment or threshold that shows the whole vault"
        )
    centre, size = _vault(points)
    reference_centre, reference_size = _vault(grid.coordinates()[mean < 0].numpy())
    rng = np.random.default_rng(0)
    shuffled = torch.tensor(points[rng.permutation(len(points))[:20000]] - centre).float()
    target = mean[None].clamp(-FAR_MM, FAR_MM)
    shape = surface_points(Volume((-mean).numpy(), grid.affine), level=0.0)[0]
    shape = shape[rng.permutation(len(shape))[:3000]]
    ratio = float(np.clip(np.prod(reference_size / np.maximum(size, 1)), 0.4, 2.5))
    start = (torch.zeros(3), torch.tensor(reference_centre).float(), torch.full((3,), np.log(ratio) / 3))

    starts = []
    for pitch in PITCHES:
        nodded = (torch.tensor([pitch, 0.0, 0.0]), *start[1:])
        pose = _descend(shuffled[:1500], target, grid, nodded, (15.0, 10.0), steps // 3)
        starts.append((_mismatch(shuffled, pose, target, grid, shape), pose))
    finals = []
    for _, pose in sorted(starts, key=lambda scored: scored[0])[:2]:
        pose = _descend(shuffled[:count], target, grid, pose, (8.0, 4.0, 2.7), steps)
        finals.append((_mismatch(shuffled, pose, target, grid, shape), pose))
    w, t, s = min(finals, key=lambda scored: scored[0])[1]
    matrix = np.eye(4)
    linear = (_rotation(w) @ torch.diag(s.exp())).double().numpy()
    matrix[:3, :3] = linear
    matrix[:3, 3] = t.double().numpy() - linear @ centre
    return matrix


def _descend(
    moving: torch.Tensor, target: torch.Tensor, grid: Grid, start: tuple, cuts: tuple[float, ...], steps: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Adam on rotation vector, translation (mm) and log scales; the cut (mm) tightens in equal shares of steps."""
    w, t, s = (v.clone().requires_grad_(True) for v in start)
    parameters = [{"params": [w], "lr": 0.015}, {"params": [t], "lr": 0.7}, {"params": [s], "lr": 0.007}]
    optimiser = torch.optim.Adam(parameters)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: 1.0 if i < 0.7 * steps else 0.3)
    floor = -float(grid.half_mm[2])
    for i in range(steps):
        q = (moving * s.exp()) @ _rotation(w).T + t
        distance = grid.sample(target, q)[:, 0]
        cut = cuts[i * len(cuts) // steps]
        votes = (q[:, 2].detach() > floor).float()  # what hangs below the frame, the neck, does not vote
        loss = (distance**2 / (distance**2 + cut**2) * votes).sum() / votes.sum().clamp(min=1)
        optimiser.zero_grad()
        # Skulls differ in size by a tenth, not by half: a weak prior keeps the scales near each other.
        (loss + 0.5 * (s - s.mean()).square().sum()).backward()
        optimiser.step()
        schedule.step()
    return w.detach(), t.detach(), s.detach()


def centre_symmetry(points: torch.Tensor, field: torch.Tensor, grid: Grid, steps: int = 60) -> np.ndarray:
    """(4, 4) small rigid motion in canonical mm that brings the head's own plane of symmetry to the canonical one.

    points: (N, 3) bone surface in canonical mm; field: (X, Y, Z) the same bone's signed distance in mm. With half a
    vault missing, registration may shift and stretch the other half over it; what is left of both sides shows where
    the middle is. Minimises the Geman-McClure distance of mirrored points to the bone itself over two angles and a
    shift; where the mirror image falls into the hole, it does not vote.
    """
    pick = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:6000]
    points = points[pick]
    motion = torch.zeros(3, requires_grad=True)  # roll and yaw in radians / 100, shift in mm: alike in effect
    optimiser = torch.optim.Adam([motion], lr=0.25)
    mirror = torch.tensor([-1.0, 1, 1])
    zero = torch.zeros(())
    for i in range(steps):
        turn = _rotation(torch.stack([zero, motion[0] / 100, motion[1] / 100]))
        shift = torch.stack([motion[2], zero, zero])
        image = ((points @ turn.T + shift) * mirror - shift) @ turn
        distance = grid.sample(field[None], image)[:, 0]
        cut = 6.0 if i < steps // 3 else 2.5
        inside = ((image.detach().abs() < torch.as_tensor(grid.half_mm)).all(1)).float()
        loss = (inside * distance**2 / (distance**2 + cut**2)).sum() / inside.sum().clamp(min=1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if i == int(0.7 * steps):
            optimiser.param_groups[0]["lr"] /= 4
    matrix = np.eye(4)
    roll, yaw, right = motion.detach()
    matrix[:3, :3] = _rotation(torch.stack([zero, roll / 100, yaw / 100])).double().numpy()
    matrix[0, 3] = float(right)
    return matrix


def _mismatch(points: torch.Tensor, pose: tuple, target: torch.Tensor, grid: Grid, shape: np.ndarray) -> float:
    """Robust distance both ways: bone inside the frame to the mean's surface, and the mean's surface to bone.

    The way back tells a head nodded by half a radian from one that lies right: the vault fits at either, the base not.
    """
    w, t, s = pose
    q = (points * s.exp()) @ _rotation(w).T + t
    inside = (q.abs() < torch.as_tensor(grid.half_mm).float()).all(-1)
    forth = grid.sample(target, q)[inside, 0].numpy()
    back = cKDTree(q.numpy()).query(shape, distance_upper_bound=30.0)[0].clip(0, 30.0)
    return float(sum((d**2 / (d**2 + 36.0)).mean() for d in (forth, back)))


def canonical_field(
    fraction: Volume, distance: np.ndarray, alignment: np.ndarray, grid: Grid, back: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A patient's signed distance on the canonical grid.

    fraction, distance: as from reduce_bone and signed_distance; alignment: (4, 4) patient RAS mm -> canonical mm;
    back: (3, X', Y', Z') mm, to lay the patient on the mean shape: node y shows the patient at y + back(y).
    Returns the field (X, Y, Z) in canonical mm and a bool mask (X, Y, Z) of nodes inside the field of view. Beyond it
    the field is the border's value or 3 mm, whichever is larger: no bone is claimed where nothing was imaged.
    """
    to_index = np.linalg.inv(alignment @ fraction.affine)
    at = grid.coordinates()
    if back is not None:
        at = at + F.interpolate(back[None], size=grid.shape, mode="trilinear", align_corners=True)[0].permute(
            1, 2, 3, 0
        )
    index = at @ torch.tensor(to_index[:3, :3].T).float() + torch.tensor(to_index[:3, 3]).float()
    where = index / (torch.tensor(fraction.array.shape).float() - 1) * 2 - 1
    field = F.grid_sample(
        torch.tensor(np.ascontiguousarray(distance))[None, None],
        where.flip(-1)[None],
        align_corners=True,
        padding_mode="border",
    )[0, 0]
    seen = (where.abs() <= 1).all(-1)
    return torch.where(seen, field, field.clamp(min=3.0)) * scale_of(alignment), seen


def redistance(field: torch.Tensor, grid: Grid) -> torch.Tensor:
    """A true, unclamped distance field (X, Y, Z) in mm with the zero level of a clamped one, near which it is kept."""
    volume = Volume((field < 0).float().numpy(), grid.affine)
    far = torch.tensor(np.ascontiguousarray(signed_distance(volume)))
    return torch.where(field.abs() < grid.spacing_mm, field, far)
