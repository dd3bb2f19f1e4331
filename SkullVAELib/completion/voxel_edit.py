"""The implant's voxels edited by hand: what was added and removed, applied to a completion.

Near the edited voxels the completed shape follows the surface of the voxels, smoothed; elsewhere it is unchanged. So
the printable implant is as smooth and as accurate as before where nothing was edited.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from SkullVAELib.completion.fill import FilledDefects
from SkullVAELib.completion.measures import measure_implant
from SkullVAELib.geometry.affines import apply_affine, scale_of
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, sample_volume
from SkullVAELib.shape.warped import PatientShape

if TYPE_CHECKING:
    from SkullVAELib.completion.result import Completion

# The surface is that of the voxels within the first distance of an edited voxel, and that of the completed shape
# beyond the second, mm.
_EDITED_MM, _UNCHANGED_MM = 1.5, 3.5

# Distances of the voxels' surface are limited to this, mm.
_LIMIT_MM = 5.0

# Standard deviation of the filter that makes the surface of the voxels smooth, mm, and at least in voxels.
_SMOOTH_MM, _SMOOTH_VOXELS = 0.7, 0.5

# The score of missing bone falls by this per mm, and is positive up to this distance from an added voxel, mm.
_SCORE_PER_MM, _ALLOWED_MM = 0.25, 4.0


@dataclass(frozen=True)
class EditedShape:
    """A completed shape that follows edited voxels.

    Attributes
    ----------
    base : PatientShape
        The shape before the edit.
    alignment : numpy.ndarray, shape (4, 4)
        Patient RAS mm -> canonical mm.
    weight : Volume
        Weight of the edited voxels, 0 to 1; 0 beyond.
    distance : Volume
        Signed distance to the surface of bone and edited implant, patient mm, negative inside; on the same grid.
    """

    base: PatientShape
    alignment: np.ndarray
    weight: Volume
    distance: Volume

    def at_voxels(self, to_canonical: np.ndarray, index: np.ndarray) -> np.ndarray:
        """See `PatientShape.at_voxels`."""
        values = self.base.at_voxels(to_canonical, index)
        points = apply_affine(np.linalg.inv(self.alignment) @ to_canonical, index)
        weight = sample_volume(self.weight, points, 0.0)
        near = np.flatnonzero(weight > 0)
        distance = sample_volume(self.distance, points[near], 0.0) * scale_of(self.alignment)
        values[near] += (weight[near] * (distance - values[near])).astype(values.dtype)
        return values


@dataclass(frozen=True)
class VoxelEdit:
    """Voxels that were added to an implant and removed from it.

    Attributes
    ----------
    box : tuple of slice
        Part of the image's grid with all of them.
    added, removed : numpy.ndarray
        Bool, in the box.
    over_bone_ml : float
        Volume of the edited implant over bone, ml: it is left out.
    """

    box: tuple[slice, ...]
    added: np.ndarray
    removed: np.ndarray
    over_bone_ml: float = 0.0

    @classmethod
    def of(cls, completion: Completion, edited: np.ndarray) -> VoxelEdit:
        """The edit that leads from the implant of a completion to another one.

        Parameters
        ----------
        completion : Completion
            A completion before the edit.
        edited : numpy.ndarray
            Bool, the edited implant on the image's grid.

        Returns
        -------
        VoxelEdit
        """
        bone, implant = completion.bone, completion.implant.array
        over_bone = float((edited & bone.array).sum() * bone.voxel_ml)
        box = bounding_box((edited & ~bone.array) ^ implant)
        wanted = edited[box] & ~bone.array[box]
        return cls(box, wanted & ~implant[box], implant[box] & ~wanted, over_bone)

    @property
    def empty(self) -> bool:
        """Whether no voxel is edited."""
        return not (self.added.any() or self.removed.any())

    def connected_to(self, implant: np.ndarray) -> VoxelEdit:
        """The edit without added voxels that are not connected with an implant, bool on the image's grid."""
        labels, _ = ndimage.label(self.added, np.ones((3, 3, 3)))
        around = tuple(slice(max(0, along.start - 1), along.stop + 1) for along in self.box)
        touching = ndimage.binary_dilation(implant[around], np.ones((3, 3, 3)))
        inner = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(self.box, around, strict=True))
        kept = np.unique(labels[touching[inner]])
        return dataclasses.replace(self, added=np.isin(labels, kept[kept > 0]))

    def applied(self, completion: Completion) -> Completion:
        """A completion with this edit: its voxels, its shape and its report.

        Parameters
        ----------
        completion : Completion
            A completion of the same image before the edit, of any shape.

        Returns
        -------
        Completion
            `found` is False if no voxel is left. Its report has the fields "implant" and "edited".
        """
        bone, implant = completion.bone, completion.implant.array.copy()
        here = implant[self.box]
        added = self.added & ~here & ~bone.array[self.box]
        removed = self.removed & here
        if not (added.any() or removed.any()):
            return completion
        implant[self.box] = (here | added) & ~removed
        whole = self._whole(completion, added, removed)
        outside_ml = max(0.0, float(whole.array.sum() * whole.voxel_ml - implant.sum() * bone.voxel_ml))
        beyond = completion.report.get("implant", {}).get("outside_image_ml", 0.0)
        filled = FilledDefects(implant, whole, min(outside_ml, beyond))
        figures = completion.report.get("implant", {})
        measured = measure_implant(bone, filled, figures.get("rim_gap_mm", float("nan")))
        edited = completion.report.get("edited", {})
        report = completion.report | {
            "implant": figures | measured,
            "edited": edited_report(
                float(added.sum() * bone.voxel_ml), float(removed.sum() * bone.voxel_ml), edited.get("points", [])
            ),
            "warnings": [*completion.report.get("warnings", []), *self._warnings()],
        }
        proposal = completion.proposal
        if proposal is not None:
            shape = self._shape(bone, implant, added | removed, proposal.shape, proposal.alignment)
            proposal = dataclasses.replace(proposal, score=self._score(bone, added, proposal.score), shape=shape)
        return dataclasses.replace(
            completion,
            completed=bone.with_array(bone.array | implant),
            implant=bone.with_array(implant),
            report=report,
            found=bool(implant.any()),
            proposal=proposal,
            implant_whole=whole,
        )

    def _warnings(self) -> list[str]:
        if self.over_bone_ml < 0.005:
            return []
        return [f"{self.over_bone_ml:.2f} ml were painted over bone and are left out of the implant."]

    def _whole(self, completion: Completion, added: np.ndarray, removed: np.ndarray) -> Volume:
        """The whole implant after the edit, see `FilledDefects.whole`."""
        bone = completion.bone
        before = completion.implant if completion.implant_whole is None else completion.implant_whole
        times = np.round(bone.spacing / before.spacing).astype(int)
        first = apply_affine(np.linalg.inv(bone.affine) @ before.affine, np.zeros(3)) - (1 / times - 1) / 2
        start = np.round(first).astype(int)
        low = np.minimum(start, [along.start for along in self.box])
        high = np.maximum(start + np.array(before.array.shape) // times, [along.stop for along in self.box])
        array = np.zeros((high - low) * times, bool)
        own = (start - low) * times
        array[tuple(slice(a, a + n) for a, n in zip(own, before.array.shape, strict=True))] = before.array
        inner = tuple(
            slice((along.start - b) * t, (along.stop - b) * t)
            for along, b, t in zip(self.box, low.tolist(), times.tolist(), strict=True)
        )
        for axis, parts in enumerate(times.tolist()):
            if parts > 1:
                added, removed = added.repeat(parts, axis), removed.repeat(parts, axis)
        array[inner] = (array[inner] | added) & ~removed
        affine = before.affine.copy()
        affine[:3, 3] = apply_affine(before.affine, -own)
        return Volume(array, affine)

    def _shape(
        self, bone: Volume, implant: np.ndarray, changed: np.ndarray, base: PatientShape, alignment: np.ndarray
    ) -> EditedShape:
        margin = np.ceil((_UNCHANGED_MM + 1) / bone.spacing).astype(int) + 2
        # Edited voxels at the end of the image need a margin, too: there is neither bone nor implant.
        low = np.array([along.start for along in self.box]) - margin
        shape = np.array([along.stop for along in self.box]) + margin - low
        inside = tuple(
            slice(max(0, a), min(n, a + m))
            for a, n, m in zip(low.tolist(), bone.array.shape, shape.tolist(), strict=True)
        )
        here = tuple(slice(i.start - a, i.stop - a) for i, a in zip(inside, low.tolist(), strict=True))
        solid, edited = np.zeros(shape, bool), np.zeros(shape, bool)
        solid[here] = bone.array[inside] | implant[inside]
        edited[tuple(slice(m, m + n) for m, n in zip(margin.tolist(), changed.shape, strict=True))] = changed
        away = ndimage.distance_transform_edt(~edited, sampling=bone.spacing)
        weight = np.clip((_UNCHANGED_MM - away) / (_UNCHANGED_MM - _EDITED_MM), 0, 1)
        half = bone.spacing.min() / 2
        outside = ndimage.distance_transform_edt(~solid, sampling=bone.spacing)
        inwards = ndimage.distance_transform_edt(solid, sampling=bone.spacing)
        distance = np.clip(np.where(solid, half - inwards, outside - half), -_LIMIT_MM, _LIMIT_MM)
        distance = ndimage.gaussian_filter(distance, np.maximum(_SMOOTH_VOXELS, _SMOOTH_MM / bone.spacing))
        affine = bone.affine.copy()
        affine[:3, 3] = apply_affine(bone.affine, low)
        return EditedShape(
            base,
            alignment,
            Volume(weight.astype(np.float32), affine),
            Volume(distance.astype(np.float32), affine),
        )

    def _score(self, bone: Volume, added: np.ndarray, score: Volume) -> Volume:
        """The score of missing bone, positive around the added voxels, too."""
        if not added.any():
            return score
        at = apply_affine(bone.affine, np.argwhere(added) + [along.start for along in self.box])
        index = np.round(apply_affine(np.linalg.inv(score.affine), at)).astype(int)
        margin = np.ceil(2 * _ALLOWED_MM / score.spacing).astype(int)
        low = np.minimum(0, index.min(0) - margin)
        high = np.maximum(score.array.shape, index.max(0) + 1 + margin)
        array = np.full(high - low, -1.0, np.float32)
        array[tuple(slice(-a, n - a) for a, n in zip(low, score.array.shape, strict=True))] = score.array
        marked = np.zeros(array.shape, bool)
        marked[tuple((index - low).T)] = True
        away = ndimage.distance_transform_edt(~marked, sampling=score.spacing)
        raised = np.clip(_SCORE_PER_MM * (_ALLOWED_MM - away), -1, 1).astype(np.float32)
        affine = score.affine.copy()
        affine[:3, 3] = apply_affine(score.affine, low)
        return Volume(np.maximum(array, raised), affine)


def edited_report(added_ml: float, removed_ml: float, points: list[dict]) -> dict:
    """The field "edited" of the report.

    Parameters
    ----------
    added_ml, removed_ml : float
        Volume of the added and of the removed voxels, ml.
    points : list of dict
        Entries of the points that the outer surface passes through, see `OuterPoints.report`.

    Returns
    -------
    dict
    """
    return {"voxels_added_ml": round(added_ml, 3), "voxels_removed_ml": round(removed_ml, 3), "points": points}
