"""Complete a skull, and compare with the truth.

A skull is drawn from the model and a piece is cut out of its vault. The piece is known, so the implant can be compared
with it. The skull comes from the model that completes it: the figure shows how the result is read, and measures no
accuracy. For that see [Accuracy](../explanation/accuracy.md).
"""

from common import BONE, generated_skull, rendered, show, two_colours
from matplotlib import pyplot as plt

import SkullVAELib as sv

skull, truth = generated_skull("blob", seed=5)
result = sv.complete(skull)

bone, implant, true = skull.array > 0, result.implant.array > 0, truth.array > 0

# The first axis runs to the left.
view = "left" if true.nonzero()[0].mean() > true.shape[0] / 2 else "right"
figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), dpi=110, layout="constrained")
show(axes[0], rendered(bone, BONE, view), "defective skull")
show(axes[1], rendered(bone | implant, two_colours(bone, implant), view), "completed, with the implant in colour")

# The coronal slice through the middle of the defect: what agrees, what is too much, what is missing.
middle = round(true.nonzero()[1].mean())
names = {(0.75, 0.75, 0.75): bone, (0.25, 0.62, 0.70): implant & true}
names |= {(0.95, 0.55, 0.15): implant & ~true, (0.75, 0.1, 0.3): true & ~implant}
cut = rendered(bone[:, middle : middle + 1], (1, 1, 1), "front") * 0 + 1
for colour, mask in names.items():
    cut[mask[:, middle].T[::-1]] = colour
show(axes[2], cut, "slice: grey bone, blue agrees,\norange too much, red missing")

dsc = 2 * (implant & true).sum() / (implant.sum() + true.sum())
figure.suptitle(f"implant {result.report['implant']['volume_ml']:.1f} ml, DSC {dsc:.3f}", fontsize=10)
