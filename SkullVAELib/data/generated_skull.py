"""Generated skulls: shapes drawn from the model itself, with a defect cut out, where no patient's data may be used."""

from __future__ import annotations

import numpy as np
import torch

from SkullVAELib.completion.latent_space import skull_from_latent
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.data.kinds import DEFAULT_KIND, DEFECT_KINDS
from SkullVAELib.data.synthetic_defects import cut_defect
from SkullVAELib.geometry.distance_field import downsample_mask
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.vae.networks import SkullModel

# A plain prior sample (1) strays into shapes that no decoder trained on a handful of skulls draws well.
_SPREAD = 0.5


# Seen at once in a picture, and some 40 ml where bone is 5 mm thick.
_SIZE = 0.4


@torch.no_grad()
def complete_skull(model: SkullModel, seed: int, spacing_mm: float = 1.0) -> Volume:
    """A complete skull decoded from a random latent: a bool mask whose axes run L, P, S, as a CT's usually do.

    The latent is latent_mean + latent_std times half a standard normal draw. The decoded field, not its mask, is
    resampled to `spacing_mm`, so the surface keeps its place below the model's own spacing; crumbs are left out. Where
    the model's frame ends, so does the volume, like a field of view cut at the base.

    Raises SkullVAEError when the model decodes to no bone.
    """
    noise = torch.randn(model.latent_mean.shape, generator=torch.Generator().manual_seed(seed))
    z = model.latent_mean + _SPREAD * model.latent_std * noise.to(model.latent_mean.device)
    return skull_from_latent(model, z, spacing_mm)


def generated_skull(
    model: SkullModel, seed: int, kind: str = DEFAULT_KIND, spacing_mm: float = 1.0
) -> tuple[Volume, np.ndarray]:
    """A skull decoded from a random latent with a defect of a kind (see defects.KINDS) cut out.

    Returns the defective bone (bool) and the true implant's mask on its grid; they share no voxel, and their union is
    `complete_skull` of the same seed. The same model, seed, kind and spacing give the same voxels.

    Raises SkullVAEError when the kind is unknown or meets no bone.
    """
    if kind not in DEFECT_KINDS:
        raise SkullVAEError(f"The kind of defect '{kind}' is unknown", f"Use one of {', '.join(DEFECT_KINDS)}")
    whole = complete_skull(model, seed, spacing_mm)
    where = {"size": _SIZE} if kind == DEFAULT_KIND else {}
    defective, truth = cut_defect(whole, downsample_mask(whole), kind, seed, **where)
    if not truth.any():
        raise SkullVAEError(f"A '{kind}' defect meets no bone of this skull", "Choose another kind or seed")
    return whole.with_array(defective), truth
