"""The grid of a file: whether it is rectangular, and what its header states about the orientation."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.affines import nearest_axes

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

TOLERANCE_MM = 0.1
"""Two grids are the same if no corner of the volume is displaced by more than this."""

# Below this a grid is rectangular but for the rounding of its numbers, and is left as it is.
_EXACT_MM = 1e-3

# The least singular value of unit axes that are still those of a volume; 0 if two are parallel.
_LEAST_SINGULAR = 0.5

_UNIT_MM = {"meter": 1000.0, "micron": 0.001}
_DIRECTIONS = (("left", "right"), ("back", "front"), ("bottom", "top"))


def displacement_mm(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance in mm between the corners of a volume under two affines (4, 4)."""
    corners = np.array(list(itertools.product(*((0, n - 1) for n in shape))))
    difference = one - other
    return float(np.linalg.norm(corners @ difference[:3, :3].T + difference[:3, 3], axis=1).max())


def rectangular_affine(name: str, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The affine of the rectangular grid that is nearest to a file's.

    Header numbers are often rounded to four digits or fewer, so that the axes are not quite perpendicular. The nearest
    rectangular grid has the rotation of the polar decomposition and the same centre.

    Parameters
    ----------
    name : str
        Name of the file, for the message.
    affine : numpy.ndarray, shape (4, 4)
        Voxel index to mm, as the file states it.
    shape : tuple of int
        Number of voxels along the axes.

    Returns
    -------
    numpy.ndarray, shape (4, 4)
        `affine` itself where it is rectangular within 0.001 mm.

    Raises
    ------
    SkullVAEError
        A corner of the volume would be displaced by more than 0.1 mm.
    """
    columns = affine[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if not (np.isfinite(columns).all() and lengths.min() > 0):
        raise sheared(name)
    left, singular, right = np.linalg.svd(columns / lengths)
    if singular.min() < _LEAST_SINGULAR:
        raise sheared(name)
    direction = left @ right
    nearest = affine.copy()
    nearest[:3, :3] = direction * (direction * columns).sum(axis=0)
    nearest[:3, 3] += (columns - nearest[:3, :3]) @ ((np.array(shape) - 1) / 2)
    moved = displacement_mm(affine, nearest, shape)
    if moved > TOLERANCE_MM:
        raise sheared(name, moved)
    return affine if moved <= _EXACT_MM else nearest


def sheared(name: str, moved_mm: float | None = None) -> SkullVAEError:
    """The error for a grid that is not rectangular; moved_mm: distance to the nearest rectangular one."""
    extent = "" if moved_mm is None else f" by up to {moved_mm:.1f} mm over the volume"
    return SkullVAEError(
        f"'{name}' has a sheared or degenerate grid{extent}: its axes are not perpendicular, as in a CT with a tilted"
        " gantry",
        "Resample it to a rectangular grid: give the folder of the original DICOM series instead, or load the series in"
        " 3D Slicer with acquisition geometry regularization, harden the transform and save the volume as .nrrd",
    )


def nifti_forms(header: Nifti1Header) -> dict[str, np.ndarray]:
    """The affines in mm that a NIfTI header states: "sform", "qform", both or none.

    Raises ValueError or HeaderDataError for a qform that is not a rotation.
    """
    unit = _UNIT_MM.get(header.get_xyzt_units()[0], 1.0)
    forms = {}
    for name, matrix in (("sform", header.get_sform(coded=True)[0]), ("qform", header.get_qform(coded=True)[0])):
        if matrix is not None:
            forms[name] = np.diag([unit, unit, unit, 1.0]) @ np.asarray(matrix, float)
    return forms


def forms_warning(name: str, header: Nifti1Header, followed: np.ndarray, shape: tuple[int, ...]) -> str | None:
    """A warning if the sform and the qform of a NIfTI file differ by more than the tolerance.

    followed : (4, 4), the affine that was read, RAS mm.
    """
    forms = nifti_forms(header)
    if len(forms) < 2:
        return None
    apart = displacement_mm(forms["sform"], forms["qform"], shape)
    if apart <= TOLERANCE_MM:
        return None
    used, ignored = sorted(forms, key=lambda form: displacement_mm(forms[form], followed, shape))
    turn = forms["qform"][:3, :3] @ np.linalg.pinv(forms["sform"][:3, :3])
    how = ""
    if np.linalg.det(turn) < 0:
        # The mirrored direction is the eigenvector of the negative eigenvalue; axis 0 is right to left.
        along = np.abs(np.diag(turn) - np.array([1, 1, 1])).argmax()
        how = ", and left and right are swapped" if along == 0 else ", and one is the mirror image of the other"
    return (
        f"The sform and the qform of '{name}' differ by up to {apart:.1f} mm{how}. The {used} was followed, as in 3D"
        f" Slicer, and not the {ignored}: check the side and the place of the implant, or save the image from its"
        " source again."
    )


def no_orientation_warning(name: str, affine: np.ndarray, what: str) -> str:
    """The warning for a file that states no orientation.

    affine : (4, 4), RAS, that was assumed; what : the fields of the header that are missing.
    """
    towards = [_DIRECTIONS[axis][int(sign > 0)] for axis, sign in zip(*nearest_axes(affine), strict=True)]
    return (
        f"'{name}' states no orientation ({what}): it was assumed that its axes run to the {towards[0]}, the"
        f" {towards[1]} and the {towards[2]}. The image may be turned or mirrored: check it in 3D Slicer, or convert"
        " the original DICOM series again."
    )
