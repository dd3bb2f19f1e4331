"""Registration of a patient to the model's mean skull, and the mapping of a field from there back to the patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import SimpleITK as sitk
import torch

from SkullVAELib.core.background import Background
from SkullVAELib.core.progress import Stages, report_step, stage_part
from SkullVAELib.geometry.grey_levels import GreyLevels
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.roi import ROI
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import to_image
from SkullVAELib.registration.affine import register_affine
from SkullVAELib.registration.fragments import choose_fragments, registration_bone, with_added_bone
from SkullVAELib.registration.free_form import fit_warp, inverse_warp
from SkullVAELib.registration.options import WarpOptions
from SkullVAELib.registration.reference import MeanSkull
from SkullVAELib.registration.segmented_image import SegmentedImage
from SkullVAELib.registration.skull import (
    CLAMP_MM,
    Skull,
    SkullSurface,
    canonical_field,
    canonical_surface,
    prepare_skull,
)
from SkullVAELib.registration.symmetry import align_midsagittal_plane
from SkullVAELib.shape.two_table import TwoTableShape
from SkullVAELib.shape.warped import WarpedShape
from SkullVAELib.vae.networks import SkullModel


@dataclass(frozen=True)
class AlignedSkull:
    """A skull registered to the model's mean skull by an affine.

    Attributes
    ----------
    matrix : numpy.ndarray, shape (4, 4)
        Patient RAS mm -> canonical mm.
    points : torch.Tensor, shape (N, 3)
        Bone surface in canonical mm.
    normals : torch.Tensor, shape (N, 3)
        Unit normals of the surface, pointing away from bone.
    fit_mm : float
        Median distance of the vault's surface to the mean skull's, mm; infinite without a vault.
    """

    matrix: np.ndarray
    points: torch.Tensor
    normals: torch.Tensor
    fit_mm: float


def align_to_mean(skull: Skull, model: SkullModel, matrix: np.ndarray | None = None) -> AlignedSkull:
    """Register a skull to the model's mean skull and align its midsagittal plane with the canonical one.

    Parameters
    ----------
    skull : Skull
        The patient's skull.
    model : SkullModel
        The model whose mean shape defines the canonical frame.
    matrix : numpy.ndarray, shape (4, 4), optional
        Result of `register_affine` for the skull's points, if it is known.

    Returns
    -------
    AlignedSkull

    Raises
    ------
    SkullVAEError
        If there is too little bone for a skull.
    """
    mean = MeanSkull.of(model)
    grid = mean.grid
    if matrix is None:
        matrix = register_affine(skull.points, mean.target)
    field, _ = canonical_field(skull.imaged, skull.imaged_distance, matrix, grid)
    report_step(0.75)
    matrix = align_midsagittal_plane(canonical_surface(skull, matrix)[0], field, grid) @ matrix
    points, normals = canonical_surface(skull, matrix)
    vault = points[points[:, 2] > 0]
    fit = float(grid.sample(mean.distance[None], vault)[:, 0].abs().median()) if len(vault) else float("inf")
    return AlignedSkull(matrix, points, normals, fit)


def fit_warp_to_mean(aligned: AlignedSkull, model: SkullModel, options: WarpOptions | None = None) -> torch.Tensor:
    """The warp of a registered skull to the mean skull, see `fit_warp`.

    Parameters
    ----------
    aligned : AlignedSkull
        The registered skull.
    model : SkullModel
        The model.
    options : WarpOptions, optional
        Options of the warp.

    Returns
    -------
    torch.Tensor, shape (3, X', Y', Z')
        Displacements in mm.
    """
    return fit_warp(MeanSkull.of(model).tables, aligned.points, aligned.normals, options or WarpOptions())


def warped_field(skull: Skull, aligned: AlignedSkull, warp: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The skull's own signed distance warped to the mean skull: the input of the network.

    Parameters
    ----------
    skull : Skull
        The skull.
    aligned : AlignedSkull
        Its registration.
    warp : torch.Tensor, shape (3, X', Y', Z')
        Its warp, mm.
    grid : Grid
        The canonical grid.

    Returns
    -------
    torch.Tensor, shape (X, Y, Z)
        Signed distance in mm, clamped.
    """
    field, _ = canonical_field(skull.imaged, skull.imaged_distance, aligned.matrix, grid, inverse_warp(warp, grid))
    return field.clamp(-CLAMP_MM, CLAMP_MM)


@dataclass(frozen=True)
class RegisteredPatient:
    """A patient registered to the model's mean skull: everything of a completion that does not depend on a complete
    shape.

    Attributes
    ----------
    bone : Volume
        Bool, on the input's grid.
    about_bone : dict
        How the bone was segmented, see `bone_mask`, with the list "fragments", see `Fragment`.
    skull : Skull
        The skull at reduced resolution.
    grid : Grid
        The canonical grid.
    aligned : AlignedSkull
        Affine registration.
    warp : torch.Tensor, shape (3, X', Y', Z')
        Displacements in mm that map the aligned skull to the mean skull.
    field : torch.Tensor, shape (X, Y, Z)
        The skull's own signed distance in mm, warped to the mean skull.
    warnings : tuple of str
        Warnings about the file and about the segmentation of the bone.
    everything : numpy.ndarray
        Bool, what was bone before anything was left out, see `BoneSegmentation`.
    grey : GreyLevels or None
        The CT that the bone was segmented in; None for a segmentation.
    """

    bone: Volume
    about_bone: dict
    skull: Skull
    grid: Grid
    aligned: AlignedSkull
    warp: torch.Tensor
    field: torch.Tensor
    warnings: tuple[str, ...] = ()
    everything: np.ndarray | None = None
    grey: GreyLevels | None = None

    @property
    def alignment(self) -> np.ndarray:
        """(4, 4) patient RAS mm -> canonical mm."""
        return self.aligned.matrix

    @property
    def points_on_mean(self) -> torch.Tensor:
        """(N, 3) bone surface in canonical mm, warped to the mean skull."""
        return self.aligned.points + self.grid.sample(self.warp, self.aligned.points)


def register_patient(
    volume: Volume,
    model: SkullModel,
    threshold_hu: float | None = None,
    roi: ROI | None = None,
    options: WarpOptions | None = None,
    stages: Stages | None = None,
    fragments: str = "keep",
    segmented: Callable[[], SegmentedImage] | None = None,
) -> RegisteredPatient:
    """Segment the bone of an image and register it to the model's mean skull.

    Parameters
    ----------
    volume : Volume
        CT in HU, or a segmentation.
    model : SkullModel
        The model.
    threshold_hu, roi
        See `bone_mask`.
    options : WarpOptions, optional
        Options of the warp.
    stages : Stages, optional
        Receives the progress of the stages "bone", "register" and "warp".
    fragments : str
        How loose bone is treated, see `choose_fragments`.
    segmented : callable, optional
        Returns `SegmentedImage.of(volume, threshold_hu, roi)`, which may have been computed already.

    Returns
    -------
    RegisteredPatient

    Raises
    ------
    SkullVAEError
        If the input is not a skull, see `bone_mask` and `register_affine`.
    """
    stages = stages or Stages({"bone": 1.0})
    grid, mean = model.architecture.grid, MeanSkull.of(model)

    def prepare() -> None:
        targeting.finish()
        mean.prepare()

    with (
        Background(mean.prepare_target, waits=True) as targeting,
        Background(prepare, waits=True) as preparing,
    ):
        with stages.stage("bone"):
            image = SegmentedImage.of(volume, threshold_hu, roi) if segmented is None else segmented()
            volume, segmentation = image.volume, image.bone
            report_step(0.2)
            registered, left_out = registration_bone(segmentation, volume)
            with stage_part(0.3, 1.0):
                grey = segmentation.grey_levels(volume)
                surface = SkullSurface.of(volume.with_array(registered), grey)
            targeting.finish()
        with stages.stage("register"), Background(partial(surface.skull, "patient"), waits=True) as measuring:
            with stage_part(0.0, 0.6):
                matrix = register_affine(surface.points, mean.target)
            skull = measuring.finish()
            aligned = align_to_mean(skull, model, matrix)
            preparing.finish()
    choose = partial(choose_fragments, volume, segmentation, left_out, skull, aligned.matrix, mean.shell, fragments)
    # The warp hardly ever depends on the choice; then it is fitted again.
    with stages.stage("warp"), Background(choose, waits=True) as choosing:
        with stage_part(0.0, 0.8):
            warp = fit_warp_to_mean(aligned, model, options)
        choice = choosing.finish()
        bone = volume.with_array(choice.mask)
        if choice.removed:
            with stage_part(0.8, 1.0):
                skull = prepare_skull("patient", bone, grey)
                aligned = align_to_mean(skull, model)
                warp = fit_warp_to_mean(aligned, model, options)
        elif len(choice.added):
            skull = with_added_bone(skull, choice.added, volume)
        field = warped_field(skull, aligned, warp, grid)
    about_bone = segmentation.info | {
        "bone_voxels": int(np.count_nonzero(choice.mask)),
        "left_out_voxels": int(np.count_nonzero(segmentation.everything) - np.count_nonzero(choice.mask)),
        "fragments": choice.as_json(),
    }
    warnings = (*volume.warnings, *choice.warnings)
    return RegisteredPatient(
        bone, about_bone, skull, grid, aligned, warp, field, warnings, segmentation.everything, grey
    )


def bone_on_patient_grid(field: torch.Tensor, patient: RegisteredPatient) -> Volume:
    """Bone on the patient's own grid, of a field on the mean skull.

    The field is evaluated on the reduced grid, at about 1.2 mm, and interpolated. There is no bone outside the reduced
    grid, which covers the patient's bone and a margin.

    Parameters
    ----------
    field : torch.Tensor, shape (X, Y, Z)
        Signed distance in mm on the mean skull, negative in bone.
    patient : RegisteredPatient
        The patient.

    Returns
    -------
    Volume
        Bool, on the grid of the patient's image.
    """
    fraction = patient.skull.fraction
    warped = WarpedShape(TwoTableShape.of(field, patient.grid), patient.warp)
    index = np.indices(fraction.array.shape).reshape(3, -1).T
    values = warped.at_voxels(patient.alignment @ fraction.affine, index).reshape(fraction.array.shape)
    image = sitk.Resample(
        to_image(Volume(values, fraction.affine)), to_image(patient.bone), sitk.Transform(), sitk.sitkLinear, CLAMP_MM
    )
    return patient.bone.with_array(sitk.GetArrayFromImage(image).transpose(2, 1, 0) < 0)
