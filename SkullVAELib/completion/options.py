"""Options of a completion, without torch; the command line, the session and the panel derive theirs from here."""

from __future__ import annotations

from dataclasses import dataclass, field

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.roi import ROI
from SkullVAELib.registration.options import REFUSE_BELOW, WarpOptions

PRIORS = ("auto", "blend", "encode", "map", "dev", "mean")


MOST_PROPOSALS = 5


@dataclass(frozen=True)
class DefectOptions:
    """What counts as a defect, and what does not.

    core_mm: a voxel of missing bone this far from any bone starts a gap. A gap is no defect when it is
    smaller than smallest_ml, or than `share` of the largest;
    narrow: no voxel of it is farther than radius_mm from bone. The smallest burr hole has 11 mm; in a hundred and
    twenty-six defects the least was 6.7 mm, pinholes and thin spots reached 4.9 mm;
    at the end of the image: more than open_edge of its border is, so the field of view ends there;
    a cavity in bone, such as a frontal sinus: less than `air` of its border is air. Air with bone on both sides within
    cavity_mm stays open, too;
    bone elsewhere: more than `displaced` of it has bone within displaced_mm further out or in, so the prior is wrong;
    where skulls differ among themselves by more than spread_mm, as in the nasal cavity and at the mastoid tips;
    a gap does not grow to where they differ by grow_spread_mm;
    at the skull base: seen from the vault's centre it lies below base_elevation (the sine of the angle), or at the
    side, where the vault reaches lower, below temple_elevation; there heads and segmentations differ most. Facial
    defects lie there, too, see face.py;
    small and low: below thin_elevation it is smaller than thin_ml, and beside a larger gap below beside_elevation.
    Squama and orbital roof are so thin there that segmentations often have a hole where the bone has none. Measured on
    fifty-six cases of four skulls: such holes are up to 1.7 ml, true defects of that height 2.7 ml and more;
    on both sides: as low, and within mirror_mm of its mirror image there is another one of about its size. What of a
    gap is as low, farther than mirror_mm from the middle and lacks at its mirror image by more than both_lack, within
    both_mm of the core of a hole there, is cut off, so that a defect does not run on into a hole that is there by
    nature; not where the gap holds the mirror image;
    bone that ends: less than `closed` of its rim is bone, as where a segmentation was cut short;
    bone that ends all around: below around_elevation it reaches over more than `around` of the circle about the
    vault's axis, as where a head was cut off level. Of a hundred and twenty-six defects none reached over a third.
    """

    core_mm: float = 2.8
    smallest_ml: float = 0.5
    radius_mm: float = 5.5
    share: float = 0.15
    open_edge: float = 0.2
    air: float = 0.35
    spread_mm: float = 2.2
    grow_spread_mm: float = 3.0
    cavity_mm: float = 20.0
    displaced: float = 0.4
    displaced_mm: float = 8.0
    base_elevation: float = -0.35
    temple_elevation: float = -0.45
    thin_elevation: float = -0.1
    thin_ml: float = 2.2
    beside_elevation: float = 0.1
    mirror_mm: float = 12.0
    both_lack: float = 0.5
    both_mm: float = 6.0
    closed: float = 0.5
    around_elevation: float = 0.26
    around: float = 0.6


@dataclass(frozen=True)
class GaussianProcessOptions:
    """How residuals are carried across the hole.

    length_mm, short_mm: the two distances over which residuals stay alike, the shorter with the share short_share;
    symmetry: how much alike they are to those of the mirror image, 0..1; noise: standard deviation of a residual that
    is noise, relative to one that is not; reach_mm: how far from the hole bone is listened to; edge_mm: the band in
    which an edge may be rounded off, rounding: how strongly that is held against it beyond rounded_mm, by which voxels
    alone round off any edge; cut_mm: larger residuals are not errors of thickness but other bone; outlier_mm: misfit
    beyond which a point counts less; limit_mm: the largest correction; count: points a table.
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
    """Where a face may lack bone, and what of it is a defect; canonical mm.

    top_mm, back_mm, low_mm: the face lies below, before and above these, seen from the vault's centre; core_mm: what
    the mirror image has this far from any bone starts a gap, which grows by grow_mm more; a gap is no defect when it
    is smaller than smallest_ml or than `share` of the largest, or when no voxel is farther than radius_mm from bone.
    In nine complete skulls there was one, a jaw that its segmentation has on one side only, and without the last
    condition another of 2.5 ml; halves of faces that were cut out had 12 to 43 ml.
    warp: how the mirror image is laid on the bone; asymmetry is what it is for, and is not held back.
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

    threshold_hu: bone threshold for a CT, None to detect; roi: outside of it nothing is bone; prior: where the complete
    shape comes from: "encode" the defective skull's own latent; "dev" that latent moved by gamma * DEV, gamma 1 unless
    told (0 reconstructs); "map" a search for the latent that fits intact bone; "mean" the training skulls' mean shape;
    "blend" the mean of mean and encode, of the head and of its mirror image; "auto" what measured best, blend;
    face: whether bone that one side of the face lacks is completed, too, by its mirror image;
    least_quality: what scores less, see quality.py, is refused; 0 refuses nothing.
    """

    threshold_hu: float | None = None
    roi: ROI | None = None
    gamma: float | None = None
    prior: str = "auto"
    defect_class: str = "cranial"
    device: str = "auto"
    face: bool = False
    least_quality: float = REFUSE_BELOW
    warp: WarpOptions = field(default_factory=WarpOptions)
    gaussian_process: GaussianProcessOptions | None = field(default_factory=GaussianProcessOptions)
    defects: DefectOptions = field(default_factory=DefectOptions)

    def __post_init__(self):
        if self.prior not in PRIORS:
            raise SkullVAEError(f"The prior '{self.prior}' is unknown", f"Use one of {', '.join(PRIORS)}")
