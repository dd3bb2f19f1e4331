"""Generated skulls: shapes drawn from the model itself, with a defect cut out, where no patient's data may be used."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from .bone import bounding_box
from .conformed import ConformedPrior, Shape
from .defects import KINDS, cut
from .errors import SkullVAEError
from .frame import Grid, crop, reduce_bone
from .networks import SkullModel
from .threads import one_thread
from .volume import Volume

DEFAULT_KIND = "hemicraniectomy"

# A plain prior sample (1) strays into shapes that no decoder trained on a handful of skulls draws well.
_SPREAD = 0.5

# Seen at once in a picture, and some 40 ml where bone is 5 mm thick.
_SIZE = 0.4

_MARGIN_MM = 6.0

# The decoder leaves specks in the air; real pieces apart, such as a condyle in the last slices, are larger.
_CRUMB_ML = 0.3


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
    return skull_of_latent(model, z, spacing_mm)


@one_thread()
@torch.no_grad()
def skull_of_latent(model: SkullModel, z: torch.Tensor, spacing_mm: float = 1.0) -> Volume:
    """The skull that a latent (L,) decodes to, as complete_skull gives it.

    Raises SkullVAEError when the model decodes to no bone.
    """
    z = z.to(model.latent_mean.device)
    grid = model.architecture.grid
    field = model.decode(z[None])[0].float().cpu()
    shape = ConformedPrior(Shape.of(field, grid), torch.zeros(3, 2, 2, 2))
    fine = Grid(tuple(int(n) for n in 2 * grid.half_mm // spacing_mm + 1), spacing_mm)
    values = shape.field(fine.coordinates().reshape(-1, 3))
    inside = (values < 0).reshape(fine.shape).numpy()
    labels, _ = ndimage.label(inside)
    sizes_ml = np.bincount(labels.ravel()) * spacing_mm**3 / 1000
    sizes_ml[0] = 0
    bone = (sizes_ml >= _CRUMB_ML)[labels]
    if not bone.any():
        raise SkullVAEError("The model decodes to no bone", "Choose another model or another seed")
    bone = crop(Volume(bone, fine.affine), bounding_box(bone, margin=round(_MARGIN_MM / spacing_mm)))
    to_flipped = np.diag([-1.0, -1.0, 1.0, 1.0])
    to_flipped[:2, 3] = np.array(bone.array.shape[:2]) - 1
    return Volume(np.ascontiguousarray(bone.array[::-1, ::-1]), bone.affine @ to_flipped)


def generated_skull(
    model: SkullModel, seed: int, kind: str = DEFAULT_KIND, spacing_mm: float = 1.0
) -> tuple[Volume, np.ndarray]:
    """A skull decoded from a random latent with a defect of a kind (see defects.KINDS) cut out.

    Returns the defective bone (bool) and the true implant's mask on its grid; they share no voxel, and their union is
    `complete_skull` of the same seed. The same model, seed, kind and spacing give the same voxels.

    Raises SkullVAEError when the kind is unknown or meets no bone.
    """
    if kind not in KINDS:
        raise SkullVAEError(f"The kind of defect '{kind}' is unknown", f"Use one of {', '.join(KINDS)}")
    whole = complete_skull(model, seed, spacing_mm)
    where = {"size": _SIZE} if kind == DEFAULT_KIND else {}
    defective, truth = cut(whole, reduce_bone(whole), kind, seed, **where)
    if not truth.any():
        raise SkullVAEError(f"A '{kind}' defect meets no bone of this skull", "Choose another kind or seed")
    return whole.with_array(defective), truth
