"""Synthetic defects.

`skullvae sample` draws a skull from the model and cuts one of ten kinds of defect out of it; training and the accuracy
benchmark use the same kinds. The figure shows six of them on six skulls. Another `--seed` gives another skull and
another defect.
"""

from common import generated_skull, rendered, show, two_colours
from matplotlib import pyplot as plt

kinds = {
    "hemicraniectomy": "side",
    "bifrontal": "front",
    "fronto_orbital": "side",
    "temporal": "side",
    "occipital": "back",
    "burr": "side",
}

figure, axes = plt.subplots(2, 3, figsize=(10, 6.4), dpi=110, layout="constrained")
for number, ((kind, view), place) in enumerate(zip(kinds.items(), axes.flat, strict=True)):
    skull, piece = generated_skull(kind, seed=number + 1)
    bone, missing = skull.array > 0, piece.array > 0
    if view == "side":
        # The first axis runs to the left.
        view = "left" if missing.nonzero()[0].mean() > missing.shape[0] / 2 else "right"
    volume = missing.sum() * skull.voxel_ml
    show(place, rendered(bone | missing, two_colours(bone, missing), view), f"{kind}, {volume:.1f} ml")
