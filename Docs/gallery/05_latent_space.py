"""Skulls drawn from the latent space.

`skullvae latent sample` decodes latents that are drawn where the training skulls lie. With 27 training skulls the
shapes differ little: a model trained on more skulls would show more.
"""

from common import BONE, rendered, show, skullvae
from matplotlib import pyplot as plt

import SkullVAELib as sv

skullvae("latent", "sample", "-o", "drawn", "--count", "3", "--seed", "1")

figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), dpi=110, layout="constrained")
for number, place in enumerate(axes):
    skull = sv.read_image(f"drawn/{number:02d}.nrrd")
    show(place, rendered(skull.array > 0, BONE), f"draw {number + 1}")
