"""Completion: from a patient's volume to the completed skull and the implant, on the patient's own grid."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import torch

from . import __version__
from .bone import bone_mask
from .conformed import ConformedPrior, Shape
from .errors import SkullVAEError
from .frame import Grid, apply_affine, canonical_field
from .implant import GapOptions, allowance, fill, find_gaps, measure
from .latent import complete_latent, search_latent
from .networks import SkullModel
from .placement import align, conform, laid_field
from .population import prepare_skull
from .progress import Stages
from .rim import RimOptions, correct_rim
from .volume import Volume
from .warp import WarpOptions

PRIORS = ("auto", "blend", "encode", "map", "dev", "mean")
STAGE_WEIGHTS = {"bone": 1.0, "register": 2.0, "warp": 1.5, "prior": 0.5, "gap": 1.5, "implant": 1.5, "measure": 1.0}
FAR_FROM_SKULL_MM = 3.5


@dataclass(frozen=True)
class CompletionOptions:
    """How a skull is completed.

    threshold_hu: bone threshold for a CT, None to detect; prior: where the complete shape comes from: "encode" the
    defective skull's own latent; "dev" that latent moved by gamma * DEV, gamma 1 unless told (0 reconstructs);
    "map" a search for the latent that fits intact bone; "mean" the training skulls' mean shape; "blend" the mean
    of encode and mean; "auto" what measured best, blend.
    """

    threshold_hu: float | None = None
    gamma: float | None = None
    prior: str = "auto"
    defect_class: str = "cranial"
    device: str = "auto"
    warp: WarpOptions = field(default_factory=WarpOptions)
    rim: RimOptions | None = field(default_factory=RimOptions)
    gap: GapOptions = field(default_factory=GapOptions)

    def __post_init__(self):
        if self.prior not in PRIORS:
            raise SkullVAEError(f"The prior '{self.prior}' is unknown", f"Use one of {', '.join(PRIORS)}")


@dataclass(frozen=True)
class Proposal:
    """The implant below the voxel size: what its voxels were made of.

    conformed: the complete shape laid on the patient; alignment: (4, 4) patient RAS mm -> canonical mm; score: float32
    volume, positive where bone is missing.
    """

    conformed: ConformedPrior
    alignment: np.ndarray
    score: Volume


@dataclass(frozen=True)
class Completion:
    """A completed skull: bool volumes on the input's grid, figures for the report, and whether a defect was found.

    proposal: what the implant was made of, None when no defect was found.
    """

    bone: Volume
    completed: Volume
    implant: Volume
    report: dict
    found: bool
    proposal: Proposal | None = None


@torch.no_grad()
def prior_shape(
    model: SkullModel, field: torch.Tensor, points: torch.Tensor, options: CompletionOptions
) -> torch.Tensor:
    """The complete shape the model proposes, (X, Y, Z) in mm, for a defective skull laid on the mean, (X, Y, Z) in mm.

    points: (N, 3) the patient's bone surface, laid on the mean, in canonical mm, which the MAP search fits.
    """
    if options.prior == "mean":
        return model.mean
    z, _ = model.encode(field[None])
    gamma = options.gamma if options.gamma is not None else float(options.prior == "dev")
    if gamma:
        if options.defect_class not in model.classes:
            raise SkullVAEError(f"The model has no DEV for '{options.defect_class}' defects", "Use --gamma 0")
        z = complete_latent(z, model.deviations[model.classes.index(options.defect_class)], gamma)
    if options.prior == "map":
        z = search_latent(model, z, points)
    field = model.decode(z)[0]
    # Trained on few skulls the network's error and the mean shape's are partly independent: halfway both shrink.
    return (field + model.mean) / 2 if options.prior in ("auto", "blend") else field


def complete(volume: Volume, model: SkullModel, options: CompletionOptions, stages: Stages) -> Completion:
    """Complete a skull and design its implant.

    volume: a one-label segmentation or a CT in HU, on any grid. The completed skull holds every bone voxel of the input
    and the implant none of them. Raises SkullVAEError when the input is no skull.
    """
    warnings: list[str] = []
    device = next(model.parameters()).device
    with stages.stage("bone"):
        mask, about_bone = bone_mask(volume, options.threshold_hu)
        bone = volume.with_array(mask)
        skull = prepare_skull("patient", bone)
    fraction = skull.fraction
    grid: Grid = model.architecture.grid
    spread = model.spread.cpu()
    with stages.stage("register"):
        aligned = align(skull, model)
        alignment, points, normals, fit = aligned.matrix, aligned.points, aligned.normals, aligned.fit_mm
    if fit > FAR_FROM_SKULL_MM:
        warnings.append(f"The bone lies {fit:.1f} mm from the mean skull in the median: check that it is a whole head.")
    with stages.stage("warp"):
        warp = conform(aligned, model, options.warp)
    with stages.stage("prior"):
        laid = laid_field(skull, aligned, warp, grid)
        on_mean = points + grid.sample(warp, points)
        prior = prior_shape(model, laid.to(device), on_mean.to(device), options).float().cpu()
        conformed = ConformedPrior(Shape.of(prior, grid), warp)
    with stages.stage("gap"):
        gap = find_gaps(conformed, spread, alignment, fraction, skull.distance, options.gap)
    report = {
        "version": __version__,
        "model": {"sha256": getattr(model, "sha256", None), "trained": getattr(model, "provenance", {}).get("trained")},
        "parameters": dataclasses.asdict(options),
        "bone": about_bone,
        "registration_mm": round(fit, 2),
        "passed_over": gap.passed_over[:10],
        "warnings": warnings,
    }
    implant = np.zeros_like(mask)
    if gap.pieces:
        with stages.stage("implant"):
            rim_gap = float("nan")
            if options.rim is not None:
                defective, _ = canonical_field(fraction, skull.distance, alignment, grid)
                at = np.concatenate([np.argwhere(piece) for piece in gap.pieces])
                at = apply_affine(alignment @ fraction.affine, at)
                conformed, rim_gap = correct_rim(conformed, points, normals, defective, at, options.rim)
            where = allowance(fraction, gap)
            implant = fill(conformed, alignment, bone, gap, where, options.gap.smallest_ml)
    found = bool(implant.any())
    if found:
        with stages.stage("measure"):
            report["implant"] = measure(volume.with_array(implant), rim_gap)
            report["implant"]["defects"] = len(gap.pieces)
    else:
        warnings.append("No defect was found. Some segmentation tools close the hole: threshold the CT instead.")
    completed = mask | implant
    return Completion(
        bone,
        volume.with_array(completed),
        volume.with_array(implant),
        report,
        found,
        Proposal(conformed, alignment, where.score) if found else None,
    )
