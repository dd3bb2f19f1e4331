"""Generated skulls: shapes decoded from the model, with a synthetic defect, where no patient's data may be used."""

from __future__ import annotations

import numpy as np
import torch

from SkullVAELib.completion.latent_space import skull_from_latent
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.data.defect_kinds import DEFAULT_KIND, DEFECT_KINDS
from SkullVAELib.data.synthetic_defects import cut_defect
from SkullVAELib.geometry.distance_field import downsample_mask
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.vae.networks import SkullModel

# Factor of the standard deviation of the latents. At 1, many latents are of shapes that a decoder trained on a few
# skulls does not represent well.
_SPREAD = 0.5

# Clearly visible in a picture; about 40 ml where bone is 5 mm thick.
_SIZE = 0.4


@torch.no_grad()
def complete_skull(model: SkullModel, seed: int, spacing_mm: float = 1.0) -> Volume:
    """Decode a complete skull from a random latent.

    The latent is latent_mean + latent_std times half a standard normal draw. The decoded field, not its mask, is
    resampled to `spacing_mm`, so that the surface is exact below the model's own spacing; small components are removed.
    The volume ends at the model's frame, like a field of view cut at the base.

    Parameters
    ----------
    model : SkullModel
        The model.
    seed : int
        Seed of the latent.
    spacing_mm : float
        Spacing of the result, mm.

    Returns
    -------
    Volume
        Bool; its axes run L, P, S, as those of most CTs.

    Raises
    ------
    SkullVAEError
        If the model decodes to no bone.
    """
    noise = torch.randn(model.latent_mean.shape, generator=torch.Generator().manual_seed(seed))
    z = model.latent_mean + _SPREAD * model.latent_std * noise.to(model.latent_mean.device)
    return skull_from_latent(model, z, spacing_mm)


def generated_skull(
    model: SkullModel, seed: int, kind: str = DEFAULT_KIND, spacing_mm: float = 1.0
) -> tuple[Volume, np.ndarray]:
    """Decode a skull from a random latent and cut a synthetic defect.

    The same model, seed, kind and spacing give the same voxels.

    Parameters
    ----------
    model : SkullModel
        The model.
    seed : int
        Seed of the latent and of the defect.
    kind : str
        One of `DEFECT_KINDS`.
    spacing_mm : float
        Spacing of the result, mm.

    Returns
    -------
    defective : Volume
        Bool.
    implant : numpy.ndarray
        Bool, the removed bone, on the same grid. The union of both is `complete_skull` of the same seed.

    Raises
    ------
    SkullVAEError
        If the kind is unknown, or if the defect removes no bone.
    """
    if kind not in DEFECT_KINDS:
        raise SkullVAEError(f"Unknown kind of defect '{kind}'", f"Use one of {', '.join(DEFECT_KINDS)}")
    whole = complete_skull(model, seed, spacing_mm)
    where = {"size": _SIZE} if kind == DEFAULT_KIND else {}
    defective, truth = cut_defect(whole, downsample_mask(whole), kind, seed, **where)
    if not truth.any():
        raise SkullVAEError(f"The '{kind}' defect removes no bone of this skull", "Choose another kind or seed")
    return whole.with_array(defective), truth
