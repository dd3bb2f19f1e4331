"""The face: what one side lacks, told by the mirror image of the other.

Faces differ too much for a mean of few skulls to complete one. The two sides of one face differ by a millimetre or two:
its own mirror image, laid on the bone that is left by a stiff warp, completes what is missing on one side. What crosses
the middle is missing in the mirror image, too, and stays open.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.completion.defects import Defects
from SkullVAELib.completion.fill import AllowedRegion, allowed_region, fill_defects
from SkullVAELib.completion.options import FaceOptions
from SkullVAELib.geometry.affines import apply_affine, scale_of
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop, sample_volume
from SkullVAELib.registration.free_form import fit_warp
from SkullVAELib.registration.patient import RegisteredPatient
from SkullVAELib.registration.skull import canonical_field
from SkullVAELib.shape.two_table import TwoTableShape
from SkullVAELib.shape.warped import PatientShape

FACE_ERROR_MM = 2.0
"""So near to the mirror image's surface the true one lies nine times of ten: 1.8, 2.0 and 1.0 mm on three faces."""


_GRID = Grid((96, 112, 132), 2.0)
"""Where the warp is fitted: it reaches down to the chin, 130 mm below the vault's centre."""


_OUTSIDE_MM = 9.0
"""What the mirror image's distance is where nothing was imaged."""


_AROUND_MM = 20.0
"""So far from the gaps it is told which is nearer: farther than any part reaches."""


FEWEST = 500
"""Points on a face's bone without which there is no face to lay a mirror image on."""


@dataclass(frozen=True)
class MirrorImage:
    """A head's mirror image, laid on the head.

    skull: signed distance in canonical mm on the reduced grid, negative in bone, and (4, 4) index -> canonical mm;
    warp: (3, X, Y, Z) mm over the extent of the face's grid: at x the image is the head at the mirror image of
    x + warp(x); fit_mm: median distance between the two on the face's bone.
    """

    skull: Volume
    warp: torch.Tensor
    fit_mm: float

    @classmethod
    def of(cls, place: RegisteredPatient, options: FaceOptions = FaceOptions()) -> MirrorImage:
        """The mirror image at the plane in the middle of the canonical frame, laid on the bone of the face."""
        fraction, matrix = place.skull.fraction, place.alignment
        head, _ = canonical_field(fraction, place.skull.distance, matrix, _GRID)
        mirrored = head.flip(0).clamp(-10.0, 10.0)
        nowhere = torch.zeros_like(mirrored)
        # Walls of orbit and sinus are no plate between two tables: the field alone tells them.
        shape = TwoTableShape(_GRID, mirrored, mirrored, mirrored, nowhere, nowhere)
        points, normals = place.aligned.points, place.aligned.normals
        face = _of_face(points, options)
        warp = fit_warp(shape, points[face], normals[face], options.warp)
        # A binary distance has the voxels' terraces.
        smooth = ndimage.gaussian_filter(place.skull.distance, 0.6) * scale_of(matrix)
        made = cls(Volume(smooth, matrix @ fraction.affine), warp, float("inf"))
        left = np.abs(made.distance(points[face].numpy()))
        left = left[left < options.core_mm]
        return replace(made, fit_mm=float(np.median(left))) if len(left) else made

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Signed distance (N,), float32, in canonical mm at points (N, 3); negative in what should be bone."""
        at = torch.tensor(points).float()
        at = (at + _GRID.sample(self.warp, at)) * torch.tensor([-1.0, 1, 1])
        return sample_volume(self.skull, at.numpy().astype(float), _OUTSIDE_MM)

    def at_voxels(self, to_canonical: np.ndarray, index: np.ndarray) -> np.ndarray:
        """See LaidShape."""
        return self.distance(apply_affine(to_canonical, index))


@dataclass(frozen=True)
class FaceCompletion:
    """What a face lacks and its mirror image has.

    gap: its pieces, on the reduced grid; implant: bool, on the input's grid; where: the score of missing bone, see
    implant.py.
    """

    image: MirrorImage
    defects: Defects
    implant: np.ndarray
    where: AllowedRegion

    @classmethod
    def of(
        cls, place: RegisteredPatient, others: list[np.ndarray], options: FaceOptions = FaceOptions()
    ) -> FaceCompletion | None:
        """What a placed skull's face lacks, None for nothing; others: gaps of the vault, which are filled already."""
        if _of_face(place.aligned.points, options).sum() < FEWEST:
            return None
        image = MirrorImage.of(place, options)
        gap = find_facial_defects(image, place, others, options)
        if not gap.pieces:
            return None
        where = allowed_region(place.skull.fraction, gap)
        implant = fill_defects(image, place.alignment, place.bone, gap, where, options.smallest_ml)
        return cls(image, gap, implant, where) if implant.any() else None

    def nearer(self, others: list[np.ndarray], spacing: np.ndarray) -> Volume:
        """How much nearer a place is to the face's gaps than to others, mm: on the reduced grid, of that spacing in mm,
        around all of them, index -> canonical mm."""
        both = [np.logical_or.reduce(gaps) for gaps in (others, self.defects.pieces)]
        box = bounding_box(both[0] | both[1], margin=np.ceil(_AROUND_MM / spacing).astype(int))
        to_others, to_face = (ndimage.distance_transform_edt(~gaps[box], sampling=spacing) for gaps in both)
        return crop(self.image.skull, box).with_array((to_others - to_face).astype(np.float32))

    def outside(self, notes: list[dict]) -> list[dict]:
        """Those notes of gaps, see Gap.rejected, whose centre lies neither in a gap of the face nor within 8 mm."""
        at = np.concatenate([np.argwhere(piece) for piece in self.defects.pieces])
        gaps = cKDTree(apply_affine(self.image.skull.affine, at))
        return [note for note in notes if gaps.query(note["centre_mm"])[0] >= 8.0]

    def as_json(self, bone: Volume) -> dict:
        """What the report says."""
        return {
            "volume_ml": round(float(self.implant.sum() * bone.voxel_ml), 3),
            "defects": len(self.defects.pieces),
            "mirror_fit_mm": round(self.image.fit_mm, 2),
        }


def _of_face(points: torch.Tensor, options: FaceOptions) -> torch.Tensor:
    """Which points (N, 3) in canonical mm lie on the face, or just behind it."""
    inside = (points.abs() < torch.tensor(_GRID.half_mm)).all(1)
    return inside & (points[:, 2] < options.top_mm) & (points[:, 1] > options.back_mm - 10.0)


def find_facial_defects(
    image: MirrorImage, place: RegisteredPatient, others: list[np.ndarray], options: FaceOptions
) -> Defects:
    """Where the mirror image has bone and the face has none, largest first."""
    fraction = place.skull.fraction
    shape = fraction.array.shape
    here = _face_box(image.skull, options)
    index = np.indices([side.stop - side.start for side in here]).reshape(3, -1).T + [side.start for side in here]
    at = apply_affine(image.skull.affine, index)
    face = (at[:, 2] < options.top_mm) & (at[:, 2] > options.low_mm) & (at[:, 1] > options.back_mm)
    distance = place.skull.distance[here]
    local = np.full(distance.shape, _OUTSIDE_MM, np.float32)
    local[face.reshape(local.shape)] = image.distance(at[face])
    field = np.full(shape, _OUTSIDE_MM, np.float32)
    field[here] = local
    missing = (local < 0) & (fraction.array[here] < 0.5)
    for other in others:
        missing &= ~ndimage.binary_dilation(other[here], iterations=2)
    labels, _ = ndimage.label((local < -0.3) & (distance > options.core_mm) & missing, np.ones((3, 3, 3)))
    reach = np.ceil((options.core_mm + options.grow_mm) / fraction.spacing).astype(int)
    pieces = []
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        core = labels[box] == label
        if core.sum() * fraction.voxel_ml < 0.2 * options.smallest_ml:
            continue
        if distance[box][core].max() < options.radius_mm:
            continue
        room = tuple(slice(max(0, s.start - n), s.stop + n) for s, n in zip(box, reach, strict=True))
        core = labels[room] == label
        near = ndimage.distance_transform_edt(~core, sampling=fraction.spacing) < options.core_mm + options.grow_mm
        piece = np.zeros(shape, bool)
        piece[here][room] = ndimage.binary_propagation(core, mask=missing[room] & near)
        if piece.sum() * fraction.voxel_ml >= options.smallest_ml:
            pieces.append(piece)
    pieces.sort(key=lambda piece: -int(piece.sum()))
    pieces = [piece for piece in pieces if piece.sum() >= options.share * pieces[0].sum()]
    return Defects(pieces, field, np.zeros(shape, bool), [], float(fraction.spacing.min()))


def _face_box(skull: Volume, options: FaceOptions) -> tuple[slice, ...]:
    """The piece of the reduced grid that holds the face, and some around it."""
    side, front = _GRID.half_mm[0], _GRID.half_mm[1]
    low, high = [-side, options.back_mm, options.low_mm], [side, front, options.top_mm]
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
    index = apply_affine(np.linalg.inv(skull.affine), corners)
    ends = zip(index.min(0), index.max(0), skull.array.shape, strict=True)
    return tuple(slice(max(0, min(int(a), n)), max(0, min(int(b) + 2, n))) for a, b, n in ends)


@dataclass(frozen=True)
class CombinedShape:
    """The complete shape of a head whose vault and whose face are both filled: each tells what is nearer to its gap.

    nearer: see Face.nearer.
    """

    vault: PatientShape
    face: MirrorImage
    nearer: Volume

    def of_face(self, points: np.ndarray) -> np.ndarray:
        """Which points (N, 3) in canonical mm the face tells, (N,) bool."""
        return sample_volume(self.nearer, points, -1.0) > 0

    def at_voxels(self, to_canonical: np.ndarray, index: np.ndarray) -> np.ndarray:
        """See LaidShape."""
        at = apply_affine(to_canonical, index)
        faces = self.of_face(at)
        out = np.empty(len(index), np.float32)
        out[~faces] = self.vault.at_voxels(to_canonical, index[~faces])
        out[faces] = self.face.distance(at[faces])
        return out


def combined_score(first: Volume, second: Volume, whole: Volume) -> Volume:
    """Two scores on pieces of the reduced grid as one on the whole of it; -1 where neither says anything."""
    out = np.full(whole.array.shape, -1.0, np.float32)
    for score in (first, second):
        start = np.round(np.linalg.inv(whole.affine) @ score.affine[:, 3])[:3].astype(int)
        here = tuple(slice(s, s + n) for s, n in zip(start, score.array.shape, strict=True))
        out[here] = np.maximum(out[here], score.array)
    return whole.with_array(out)
