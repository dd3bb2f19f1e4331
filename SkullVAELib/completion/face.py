"""Completion of the face: bone missing on one side is replaced by the mirror image of the other side.

Faces vary too much for the mean of a few skulls to complete one. The two sides of one face differ by a millimetre or
two: the skull's own mirror image, registered to the remaining bone by a stiff warp, completes what is missing on one
side. Bone missing at the midline is missing in the mirror image, too, and stays open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.completion.defects import Defects, NumberedCandidate
from SkullVAELib.completion.fill import AllowedRegion, FilledDefects, allowed_region, fill_defects
from SkullVAELib.completion.options import FaceOptions
from SkullVAELib.core.progress import report_step, stage_part
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
"""Half-width (mm) of the 90 % band around the mirror image's surface: 1.8, 2.0 and 1.0 mm on three faces."""

_GRID = Grid((96, 112, 132), 2.0)
"""Grid on which the warp is fitted: it extends to the chin, 130 mm below the vault's centre."""

_OUTSIDE_MM = 9.0
"""Signed distance (mm) of the mirror image where nothing was imaged."""

_AROUND_MM = 20.0
"""Margin (mm) around the defects in which face and vault are separated: wider than any implant extends."""

# Defects of the face keep this distance from those of the vault, mm.
_CLEAR_MM = 2.5

MIN_POINTS = 500
"""Fewest surface points on the bone of the face for which its mirror image is registered."""


@dataclass(frozen=True)
class MirrorImage:
    """The mirror image of a skull, registered to the skull itself.

    Attributes
    ----------
    skull : Volume
        Signed distance in canonical mm on the reduced grid, negative in bone; its affine maps index -> canonical mm.
    warp : torch.Tensor, shape (3, X, Y, Z)
        Displacement in mm over the extent of the face's grid: at x the image is the skull at the mirror point of
        x + warp(x).
    fit_mm : float
        Median distance in mm between the mirror image and the bone of the face; infinite without any.
    """

    skull: Volume
    warp: torch.Tensor
    fit_mm: float

    @classmethod
    def of(cls, patient: RegisteredPatient, options: FaceOptions = FaceOptions()) -> MirrorImage:
        """Mirror a patient at the canonical midsagittal plane and warp the image to the bone of the face.

        Parameters
        ----------
        patient : RegisteredPatient
            The patient.
        options : FaceOptions
            Extent of the face, and the warp.

        Returns
        -------
        MirrorImage
        """
        fraction, matrix = patient.skull.fraction, patient.alignment
        head, _ = canonical_field(patient.skull.imaged, patient.skull.imaged_distance, matrix, _GRID)
        mirrored = head.flip(0).clamp(-10.0, 10.0)
        zeros = torch.zeros_like(mirrored)
        # The walls of orbit and sinus have no two separate tables: they are represented by the distance field alone.
        shape = TwoTableShape(_GRID, mirrored, mirrored, mirrored, zeros, zeros)
        points, normals = patient.aligned.points, patient.aligned.normals
        face = _on_face(points, options)
        warp = fit_warp(shape, points[face], normals[face], options.warp)
        # The distance field of a binary mask has steps of a voxel; smoothing removes them.
        smooth = ndimage.gaussian_filter(patient.skull.distance, 0.6) * scale_of(matrix)
        fitted = cls(Volume(smooth, matrix @ fraction.affine), warp, float("inf"))
        residual = np.abs(fitted.distance(points[face].numpy()))
        residual = residual[residual < options.core_mm]
        return replace(fitted, fit_mm=float(np.median(residual))) if len(residual) else fitted

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Signed distance of the mirror image.

        Parameters
        ----------
        points : numpy.ndarray, shape (N, 3)
            Canonical mm.

        Returns
        -------
        numpy.ndarray, shape (N,)
            float32, canonical mm, negative where there should be bone.
        """
        at = torch.tensor(points).float()
        at = (at + _GRID.sample(self.warp, at)) * torch.tensor([-1.0, 1, 1])
        return sample_volume(self.skull, at.numpy().astype(float), _OUTSIDE_MM)

    def at_voxels(self, to_canonical: np.ndarray, index: np.ndarray) -> np.ndarray:
        """See `PatientShape.at_voxels`."""
        return self.distance(apply_affine(to_canonical, index))


@dataclass(frozen=True)
class FaceCompletion:
    """Bone missing in a face that its mirror image has.

    Attributes
    ----------
    image : MirrorImage
        The mirror image.
    defects : Defects
        The defects of the face, on the reduced grid.
    implant : FilledDefects
        The implant's voxels.
    where : AllowedRegion
        The score of missing bone.
    affine : numpy.ndarray, shape (4, 4)
        Voxel index of the reduced grid -> patient RAS mm.
    """

    image: MirrorImage
    defects: Defects
    implant: FilledDefects
    where: AllowedRegion
    affine: np.ndarray

    @classmethod
    def of(
        cls, patient: RegisteredPatient, vault_defects: list[np.ndarray], options: FaceOptions = FaceOptions()
    ) -> FaceCompletion | None:
        """Complete the face of a patient.

        Parameters
        ----------
        patient : RegisteredPatient
            The patient.
        vault_defects : list of numpy.ndarray
            Masks of the defects of the vault on the reduced grid, which are filled already.
        options : FaceOptions
            Criteria.

        Returns
        -------
        FaceCompletion or None
            None if nothing is missing, or if there is no face.
        """
        if _on_face(patient.aligned.points, options).sum() < MIN_POINTS:
            return None
        with stage_part(0.0, 0.6):
            image = MirrorImage.of(patient, options)
        defects = find_facial_defects(image, patient, vault_defects, options)
        if not defects.masks:
            return None
        report_step(0.8)
        where = allowed_region(patient.skull.fraction, defects)
        implant = fill_defects(image, patient.alignment, patient.bone, defects, where, options.smallest_ml)
        return cls(image, defects, implant, where, patient.skull.fraction.affine) if implant.whole.array.any() else None

    def distance_difference(self, vault_defects: list[np.ndarray], spacing: np.ndarray) -> Volume:
        """Distance to the nearest defect of the vault minus that to the nearest defect of the face.

        Parameters
        ----------
        vault_defects : list of numpy.ndarray
            Masks of the defects of the vault, on the reduced grid.
        spacing : numpy.ndarray, shape (3,)
            Spacing of the reduced grid, mm.

        Returns
        -------
        Volume
            mm, positive where the face is nearer, on the part of the reduced grid around all defects; its affine maps
            index -> canonical mm.
        """
        both = [np.logical_or.reduce(masks) for masks in (vault_defects, self.defects.masks)]
        box = bounding_box(both[0] | both[1], margin=np.ceil(_AROUND_MM / spacing).astype(int))
        to_vault, to_face = (ndimage.distance_transform_edt(~masks[box], sampling=spacing) for masks in both)
        return crop(self.image.skull, box).with_array((to_vault - to_face).astype(np.float32))

    def outside_face(self, candidates: Sequence[NumberedCandidate]) -> tuple[NumberedCandidate, ...]:
        """Candidates whose centre is neither in a defect of the face nor within 8 mm of one."""
        at = np.concatenate([np.argwhere(mask) for mask in self.defects.masks])
        to_canonical = self.image.skull.affine
        voxels = cKDTree(apply_affine(to_canonical, at))
        to_canonical = to_canonical @ np.linalg.inv(self.affine)
        return tuple(
            c
            for c in candidates
            if c.filled or voxels.query(apply_affine(to_canonical, c.candidate.centre_mm))[0] >= 8.0
        )

    def as_json(self, bone: Volume) -> dict:
        """Volume (ml), number of defects and fit (mm), for the report."""
        return {
            "volume_ml": round(float(self.implant.mask.sum() * bone.voxel_ml), 3),
            "defects": len(self.defects.masks),
            "mirror_fit_mm": round(self.image.fit_mm, 2),
        }


def _on_face(points: torch.Tensor, options: FaceOptions) -> torch.Tensor:
    """Which points (N, 3) in canonical mm are on the face, or just behind it."""
    inside = (points.abs() < torch.tensor(_GRID.half_mm)).all(1)
    return inside & (points[:, 2] < options.top_mm) & (points[:, 1] > options.back_mm - 10.0)


def find_facial_defects(
    image: MirrorImage, patient: RegisteredPatient, vault_defects: list[np.ndarray], options: FaceOptions
) -> Defects:
    """Find where the mirror image has bone and the face has none.

    Parameters
    ----------
    image : MirrorImage
        The mirror image.
    patient : RegisteredPatient
        The patient.
    vault_defects : list of numpy.ndarray
        Masks of the defects of the vault on the reduced grid; they are excluded with a margin.
    options : FaceOptions
        Criteria.

    Returns
    -------
    Defects
        Largest first.
    """
    fraction = patient.skull.fraction
    shape = fraction.array.shape
    here = _face_box(image.skull, options)
    index = np.indices([side.stop - side.start for side in here]).reshape(3, -1).T + [side.start for side in here]
    at = apply_affine(image.skull.affine, index)
    face = (at[:, 2] < options.top_mm) & (at[:, 2] > options.low_mm) & (at[:, 1] > options.back_mm)
    distance = patient.skull.distance[here]
    local = np.full(distance.shape, _OUTSIDE_MM, np.float32)
    local[face.reshape(local.shape)] = image.distance(at[face])
    field = np.full(shape, _OUTSIDE_MM, np.float32)
    field[here] = local
    missing = (local < 0) & (fraction.array[here] < 0.5)
    for defect in vault_defects:
        missing &= ndimage.distance_transform_edt(~defect[here], sampling=fraction.spacing) > _CLEAR_MM
    labels, _ = ndimage.label((local < -0.3) & (distance > options.core_mm) & missing, np.ones((3, 3, 3)))
    reach = np.ceil((options.core_mm + options.grow_mm) / fraction.spacing).astype(int)
    masks = []
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        core = labels[box] == label
        if core.sum() * fraction.voxel_ml < 0.2 * options.smallest_ml:
            continue
        if distance[box][core].max() < options.radius_mm:
            continue
        grown_box = tuple(slice(max(0, s.start - n), s.stop + n) for s, n in zip(box, reach, strict=True))
        core = labels[grown_box] == label
        near = ndimage.distance_transform_edt(~core, sampling=fraction.spacing) < options.core_mm + options.grow_mm
        mask = np.zeros(shape, bool)
        mask[here][grown_box] = ndimage.binary_propagation(core, mask=missing[grown_box] & near)
        if mask.sum() * fraction.voxel_ml >= options.smallest_ml:
            masks.append(mask)
    masks.sort(key=lambda mask: -int(mask.sum()))
    masks = [mask for mask in masks if mask.sum() >= options.share * masks[0].sum()]
    return Defects(masks, field, np.zeros(shape, bool), float(fraction.spacing.min()))


def _face_box(skull: Volume, options: FaceOptions) -> tuple[slice, ...]:
    """The part of the reduced grid that contains the face, with a margin."""
    side, front = _GRID.half_mm[0], _GRID.half_mm[1]
    low, high = [-side, options.back_mm, options.low_mm], [side, front, options.top_mm]
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
    index = apply_affine(np.linalg.inv(skull.affine), corners)
    ends = zip(index.min(0), index.max(0), skull.array.shape, strict=True)
    return tuple(slice(max(0, min(int(a), n)), max(0, min(int(b) + 2, n))) for a, b, n in ends)


@dataclass(frozen=True)
class CombinedShape:
    """The complete shape of a skull with defects in vault and face: each point belongs to the nearer defect.

    Attributes
    ----------
    vault : PatientShape
        Shape at the defects of the vault.
    face : MirrorImage
        Shape at the defects of the face.
    distance_difference : Volume
        See `FaceCompletion.distance_difference`.
    """

    vault: PatientShape
    face: MirrorImage
    distance_difference: Volume

    def of_face(self, points: np.ndarray) -> np.ndarray:
        """Which points the mirror image represents.

        Parameters
        ----------
        points : numpy.ndarray, shape (N, 3)
            Canonical mm.

        Returns
        -------
        numpy.ndarray, shape (N,)
            Bool.
        """
        return sample_volume(self.distance_difference, points, -1.0) > 0

    def at_voxels(self, to_canonical: np.ndarray, index: np.ndarray) -> np.ndarray:
        """See `PatientShape.at_voxels`."""
        at = apply_affine(to_canonical, index)
        faces = self.of_face(at)
        out = np.empty(len(index), np.float32)
        out[~faces] = self.vault.at_voxels(to_canonical, index[~faces])
        out[faces] = self.face.distance(at[faces])
        return out


def combined_score(first: Volume, second: Volume, whole: Volume) -> Volume:
    """Combine two scores of missing bone, each on a part of the reduced grid.

    Parameters
    ----------
    first, second : Volume
        Scores, see `AllowedRegion`.
    whole : Volume
        Any volume on the whole reduced grid.

    Returns
    -------
    Volume
        The larger score, on the whole reduced grid; -1 outside both parts.
    """
    out = np.full(whole.array.shape, -1.0, np.float32)
    for score in (first, second):
        start = np.round(np.linalg.inv(whole.affine) @ score.affine[:, 3])[:3].astype(int)
        here = tuple(slice(s, s + n) for s, n in zip(start, score.array.shape, strict=True))
        out[here] = np.maximum(out[here], score.array)
    return whole.with_array(out)
