"""Reads a DICOM series as a volume in Hounsfield units on a rectangular grid."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.dicom_headers import Slice
from SkullVAELib.io.dicom_pixels import hounsfield
from SkullVAELib.io.dicom_series import Candidate, Study, open_study
from SkullVAELib.io.dicom_stack import MORE_MISSING, Stack, StackGrid

MAX_VOXELS = 2**31 - 1
"""As for other images, see `SkullVAELib.io.images`."""

# A series of which more is damaged is not completed.
_MOST_DAMAGED = 0.1


@dataclass(frozen=True)
class DicomVolume:
    """A series that was read.

    Attributes
    ----------
    volume : Volume
        HU, int16; its name states the kind and the number of slices and nothing of the patient.
    slices : tuple of Slice
        The slices that it was made of, in the order of `grid.places`.
    grid : StackGrid
        Where they lie on the volume's grid.
    resampled : bool
        Whether the volume was interpolated, so that it is not on the grid of the slices.
    """

    volume: Volume
    slices: tuple[Slice, ...]
    grid: StackGrid
    resampled: bool


def read_dicom(source: str | os.PathLike, series: str | None = None, force: bool = False) -> Volume:
    """Read a CT series.

    Parameters
    ----------
    source : str or path
        A folder, a zip archive, a DICOMDIR or a DICOM file, see `dicom_files`.
    series : str, optional
        Key, number or UID of the series; by default the most suitable one is taken, see `Study`.
    force : bool
        Interpolate also where more than one neighbouring slice is missing.

    Returns
    -------
    Volume
        HU, int16, with warnings about what was corrected.

    Raises
    ------
    SkullVAEError
        There is no usable series, or its pixels are damaged.
    """
    with open_study(source) as study:
        return read_series(study, study.choose(series, force), series is not None, force).volume


def read_series(study: Study, candidate: Candidate, explicit: bool = False, force: bool = False) -> DicomVolume:
    """Read a candidate of a study.

    Parameters
    ----------
    study : Study
        The study, within its context.
    candidate : Candidate
        One of its candidates, with a stack.
    explicit : bool
        Whether the user chose it; otherwise the warnings name the choice where there were several.
    force : bool
        As for `read_dicom`.

    Returns
    -------
    DicomVolume
        The volume and the slices.

    Raises
    ------
    SkullVAEError
        Slices are damaged or missing, or there are too many voxels.
    """
    stack = candidate.stack
    if stack is None:
        raise SkullVAEError(f"Series {candidate.key} is not usable: {candidate.reason}", "Choose another series")
    warnings = [*study.notes, *candidate.notes]
    if not explicit and sum(each.usable for each in study.candidates) > 1:
        warnings.append(
            f"Series {candidate.key} of {len(study.candidates)} was taken ({study.why}); choose another with --series."
        )
    _check_size(stack)
    pixels: list[np.ndarray | None] = [None] * len(stack.slices)
    for index, image in hounsfield(stack.slices):
        pixels[index] = image
    stack, images, damaged = _without_damaged(candidate, stack, pixels, force)
    warnings += damaged
    grid = stack.grid
    if int(np.prod(grid.shape, dtype=object)) > MAX_VOXELS:
        raise _too_large(grid.shape)
    warnings += _corrections(stack, candidate)
    if stack.is_resampled:
        array = grid.volume(images)
    else:
        array = np.stack(images).transpose(2, 1, 0)
    name = f"DICOM series (CT, {len(stack.slices)} slices)"
    volume = Volume(array, grid.affine, name, tuple(warnings))
    return DicomVolume(volume, stack.slices, grid, stack.is_resampled)


def _check_size(stack: Stack) -> None:
    first = stack.slices[0]
    if first.rows * first.columns * len(stack.slices) > MAX_VOXELS:
        raise _too_large((first.columns, first.rows, len(stack.slices)))


def _too_large(shape: tuple[int, ...]) -> SkullVAEError:
    return SkullVAEError(
        f"The series needs {' x '.join(map(str, shape))} voxels, which is too large",
        "Choose a series of the head alone, or crop it in 3D Slicer",
    )


def _without_damaged(
    candidate: Candidate, stack: Stack, pixels: list[np.ndarray | None], force: bool
) -> tuple[Stack, list[np.ndarray], list[str]]:
    """The stack without slices whose pixels cannot be read, their pixels, and warnings; raises SkullVAEError where too
    many are missing then."""
    damaged = sum(image is None for image in pixels)
    kept = [(each, image) for each, image in zip(stack.slices, pixels, strict=True) if image is not None]
    if len(kept) < 2:
        raise SkullVAEError(
            f"The pixels of series {candidate.key} cannot be read: damaged, or in a compression that is not supported",
            "Copy the files again, or choose another series",
        )
    left = Stack(tuple(each for each, _ in kept))
    if damaged:
        many = damaged > _MOST_DAMAGED * len(stack.slices)
        # The usual step is that of all slices: with every second one damaged, it would double.
        gaps = (left.steps_mm > MORE_MISSING * stack.step_mm) & ~left.covered
        if many or (gaps.any() and not force):
            raise SkullVAEError(
                f"{damaged} of {len(stack.slices)} slices of series {candidate.key} are damaged or truncated",
                "Copy or export the series again, or choose another with --series"
                + ("" if many else "; --force interpolates the missing slices"),
            )
        warning = f"{damaged} {'slice is' if damaged == 1 else 'slices are'} damaged and"
        return left, [image for _, image in kept], [f"{warning} {'was' if damaged == 1 else 'were'} left out."]
    return left, [image for _, image in kept], []


def _corrections(stack: Stack, candidate: Candidate) -> list[str]:
    """Warnings about what is interpolated."""
    warnings = []
    if stack.is_shifted:
        shift = float(np.linalg.norm(stack.offsets_mm[:, :2], axis=1).max())
        warnings.append(
            f"The slices are displaced within their plane, by up to {shift:.1f} mm ({abs(stack.tilt_degrees):.1f}"
            " degrees), as by a tilted gantry: the image was resampled to a rectangular grid. Check the result"
            " carefully."
        )
    missing = stack.missing
    if missing.any():
        count, worst = int(missing.sum()), float(stack.steps_mm[missing > 0].max())
        warnings.append(
            f"{count} {'slice is' if count == 1 else 'slices are'} missing and"
            f" {'was' if count == 1 else 'were'} interpolated (gaps of up to {worst:.1f} mm): check the result there."
        )
    elif stack.is_uneven:
        low, high = float(stack.steps_mm.min()), float(stack.steps_mm.max())
        warnings.append(
            f"The distances between slices differ ({low:.2f} to {high:.2f} mm): the image was resampled to even ones."
        )
    if not candidate.usable:
        warnings.append(f"Series {candidate.key} was chosen although it is not recommended: {candidate.reason}.")
    return warnings
