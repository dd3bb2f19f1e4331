"""Options of a completion; importing them does not import torch.

The command line, the session and the panel derive their options from these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.registration.options import REFUSE_BELOW, WarpOptions, fragment_limit_mm

if TYPE_CHECKING:
    from SkullVAELib.geometry.roi import ROI

PRIORS = ("auto", "blend", "encode", "map", "dev", "mean")
"""Sources of the complete shape, see `CompletionOptions`."""

MOST_PROPOSALS = 5
"""Largest number of proposals for one defect."""


@dataclass(frozen=True)
class DefectOptions:
    """How candidate defects are grown.

    A candidate grows from a core of missing bone to the rim of the hole. Whether it is a defect is a matter of
    probability, see completion/defect_classifier.py. "Elevation" is the sine of the angle above the horizontal plane
    of the canonical frame, seen from the vault's centre. Measures are made on the reduced grid (about 1.2 mm).

    Parameters
    ----------
    core_mm : float
        mm. A voxel of missing bone at least this far from any bone is the core of a candidate.
    smallest_ml : float
        ml. Smaller components of an implant are removed, unless the user has chosen the defect.
    grow_spread_mm : float
        mm. A candidate does not grow where the standard deviation across skulls is larger.
    cavity_mm : float
        mm. Missing bone with bone on both sides within this distance, along the line through the vault's centre, is a
        cavity and stays open.
    displaced_mm : float
        mm. Missing bone with bone within this distance further out or in is displaced.
    thin_elevation : float
        Elevation. Lower candidates are in a region of thin bone (temporal squama and orbital roof), where segmentations
        often have a hole although the bone has none.
    mirror_mm : float
        mm. Distance from the midsagittal plane beyond which voxels are compared with their mirror image.
    both_lack : float
        Missing fraction. Where more bone than this is missing at the mirror image of a voxel in a region of thin bone,
        the voxel is removed from its candidate, so that a defect does not grow into a hole that is there by nature.
        This does not apply to a candidate that contains its own mirror image.
    both_mm : float
        mm. Only voxels whose mirror image is this near to the core of a hole are removed.
    around_elevation : float
        Elevation below which the fraction of the circle around the vault's axis is measured.
    """

    core_mm: float = 2.8
    smallest_ml: float = 0.1
    grow_spread_mm: float = 3.0
    cavity_mm: float = 20.0
    displaced_mm: float = 8.0
    thin_elevation: float = -0.1
    mirror_mm: float = 12.0
    both_lack: float = 0.5
    both_mm: float = 6.0
    around_elevation: float = 0.26


@dataclass(frozen=True)
class DefectChoice:
    """Which candidate defects are filled.

    Parameters
    ----------
    numbers : str or tuple of int
        "auto", those that are probably defects; "all", every candidate in the report; or the numbers of the report.
    at : tuple of tuples of 3 floats
        Points in patient RAS mm; the hole nearest to each is filled, too.
    not_at : tuple of tuples of 3 floats
        Points in patient RAS mm; the candidate nearest to each stays open.

    Raises
    ------
    SkullVAEError
        A point is not three finite numbers, or a number is not positive.
    """

    numbers: str | tuple[int, ...] = "auto"
    at: tuple[tuple[float, float, float], ...] = ()
    not_at: tuple[tuple[float, float, float], ...] = ()

    def __post_init__(self):
        points = [*self.at, *self.not_at]
        if not all(len(point) == 3 and all(math.isfinite(mm) for mm in point) for point in points):
            raise SkullVAEError("A point is not three finite numbers", "Write R,A,S in mm, such as --at 30,80,95")
        if isinstance(self.numbers, str):
            valid = self.numbers in ("auto", "all")
        else:
            valid = all(number > 0 for number in self.numbers)
        if not valid:
            raise SkullVAEError(
                f"The choice of defects '{self.numbers}' is unknown", "Use auto, all or numbers from report.json"
            )

    @classmethod
    def parse(cls, numbers: str = "auto", at: Sequence[str] = (), not_at: Sequence[str] = ()) -> DefectChoice:
        """A choice from the texts of the command line.

        >>> DefectChoice.parse("1,3", ["30,80,95"]).at
        ((30.0, 80.0, 95.0),)
        """
        if numbers in ("auto", "all"):
            chosen: str | tuple[int, ...] = numbers
        else:
            try:
                chosen = tuple(int(part) for part in numbers.split(","))
            except ValueError:
                raise SkullVAEError(
                    f"The choice of defects '{numbers}' is unknown", "Use auto, all or numbers such as 1,3"
                ) from None
        return cls(chosen, tuple(map(parse_point, at)), tuple(map(parse_point, not_at)))


def parse_point(text: str) -> tuple[float, float, float]:
    """A point from the text of the command line, R,A,S in mm.

    >>> parse_point("30,80,95")
    (30.0, 80.0, 95.0)
    """
    try:
        right, anterior, superior = (float(part) for part in text.split(","))
    except ValueError:
        raise SkullVAEError(f"The point '{text}' is not three numbers", "Write R,A,S in mm, such as 30,80,95") from None
    return right, anterior, superior


@dataclass(frozen=True)
class GaussianProcessOptions:
    """The Gaussian-process (GP) correction: how residuals are carried across the defect.

    Parameters
    ----------
    length_mm, short_mm : float
        mm. The two length scales of the Matern 3/2 kernel.
    short_share : float
        0..1. Share of the variance with the shorter length scale.
    symmetry : float
        0..1. Correlation of a residual with that at the mirror image.
    noise : float
        Standard deviation of the noise relative to that of the residuals.
    reach_mm : float
        mm. Bone farther from the defect is not used.
    edge_mm : float
        mm. Width of the band around the defect in which the edge may be rounded off by healing.
    rounding : float
        Noise added per mm of rounding beyond rounded_mm.
    rounded_mm : float
        mm. Rounding of any edge that comes from the voxel size alone.
    cut_mm : float
        mm. Residuals that differ more than this from the median are excluded: they belong to other bone, not to an
        error of thickness.
    outlier_mm : float
        mm. An observation that deviates more than this from the prediction loses weight.
    limit_mm : float
        mm. Largest difference of a correction from the median residual.
    count : int
        Number of observations for each table.
    """

    length_mm: float = 50.0
    short_mm: float = 15.0
    short_share: float = 0.4
    symmetry: float = 0.75
    noise: float = 0.3
    reach_mm: float = 60.0
    edge_mm: float = 5.0
    rounding: float = 4.0
    rounded_mm: float = 0.5
    cut_mm: float = 4.0
    outlier_mm: float = 1.0
    limit_mm: float = 3.0
    count: int = 600


@dataclass(frozen=True)
class FaceOptions:
    """Completion of the face; lengths are canonical mm.

    Parameters
    ----------
    top_mm, back_mm, low_mm : float
        Extent of the face: below top_mm, in front of back_mm and above low_mm, from the vault's centre.
    core_mm : float
        Bone of the mirror image at least this far from any bone is the core of a candidate defect.
    grow_mm : float
        A candidate grows by this much more than core_mm.
    smallest_ml : float
        ml. Smaller candidates are rejected.
    share : float
        Fraction of the volume of the largest defect. Smaller candidates are rejected.
    radius_mm : float
        Candidates without a voxel this far from bone are rejected. In nine complete skulls one candidate remained, a
        jaw that its segmentation has on one side only; without this criterion there was another of 2.5 ml. Halves of
        faces that were cut out had 12 to 43 ml.
    warp : WarpOptions
        Warp of the mirror image to the bone; asymmetry is not penalised, because the warp has to represent it.
    """

    top_mm: float = 20.0
    back_mm: float = 0.0
    low_mm: float = -128.0
    core_mm: float = 4.0
    grow_mm: float = 3.0
    smallest_ml: float = 2.0
    share: float = 0.05
    radius_mm: float = 9.0
    warp: WarpOptions = field(default_factory=lambda: WarpOptions(stiffness=0.1, symmetry=0.0, count=20000))


@dataclass(frozen=True)
class CompletionOptions:
    """How a skull is completed.

    Parameters
    ----------
    threshold_hu : float, optional
        Bone threshold of a CT in Hounsfield units; by default a CT is detected by its values and thresholded at 300 HU.
    roi : ROI, optional
        Region of interest; nothing outside it is bone.
    fragments : str
        How loose bone in the vault is treated: "keep", it is bone; "ignore", loose pieces, bone flaps that touch the
        skull at few points, and metal are left out, so that the hole behind them is found; "near:MM", loose pieces
        within MM millimetres of the rest are kept.
    gamma : float, optional
        Factor of the deviation vector (DEV); by default 1 for the prior "dev" and 0 for all others. 0 reconstructs.
    prior : str
        Source of the complete shape: "encode", the defective skull's own latent; "dev", that latent plus gamma * DEV;
        "map", a search for the latent that fits intact bone; "mean", the mean shape of the training skulls; "blend",
        the average of the mean shape and the decoded shapes of the skull and its mirror image; "auto", the mean shape,
        which is as accurate in the benchmark as any other; gamma and further proposals move it as they move "blend".
    defect_class : str
        Class of the deviation vector.
    device : str
        "auto", "cpu" or "cuda".
    face : bool
        Whether bone missing on one side of the face is completed by the mirror image, too.
    least_quality : float
        0..1. Inputs with a lower plausibility score are rejected, see registration/plausibility.py; 0 accepts every
        input.
    warp : WarpOptions
        The warp to the patient.
    gaussian_process : GaussianProcessOptions or None
        The GP correction; None for no correction.
    defects : DefectOptions
        How candidate defects are grown.
    choice : DefectChoice
        Which of them are filled.
    through : tuple of (float, float, float)
        Points in patient RAS mm that the outer surface of the implant passes through, see completion/outer_points.py.
    reference : str, optional
        File of the patient's own bone from before the operation, a CT, a segmentation or a mesh of the skull or of the
        bone flap; its surface fills the defects, see completion/reference.py.

    Raises
    ------
    SkullVAEError
        If the prior or `fragments` is unknown, or a point is not three finite numbers.
    """

    threshold_hu: float | None = None
    roi: ROI | None = None
    fragments: str = "keep"
    gamma: float | None = None
    prior: str = "auto"
    defect_class: str = "cranial"
    device: str = "auto"
    face: bool = False
    least_quality: float = REFUSE_BELOW
    warp: WarpOptions = field(default_factory=WarpOptions)
    gaussian_process: GaussianProcessOptions | None = field(default_factory=GaussianProcessOptions)
    defects: DefectOptions = field(default_factory=DefectOptions)
    choice: DefectChoice = field(default_factory=DefectChoice)
    through: tuple[tuple[float, float, float], ...] = ()
    reference: str | None = None

    def __post_init__(self):
        if not all(len(point) == 3 and all(math.isfinite(mm) for mm in point) for point in self.through):
            raise SkullVAEError("A point is not three finite numbers", "Write R,A,S in mm, such as --through 30,80,95")
        if self.prior not in PRIORS:
            raise SkullVAEError(f"Unknown prior '{self.prior}'", f"Use one of {', '.join(PRIORS)}")
        fragment_limit_mm(self.fragments)
