"""Uncertainty and further proposals.

`--uncertainty` writes the implant's surface with the half-width of the 90 % band at each point: the true surface lies
within this distance at 90 % of the points, as measured on skulls that the scale was not set on
([Accuracy](../explanation/accuracy.md)). `--proposals 3` adds two draws from what the network and the bone around the
defect leave open.
"""

import numpy as np
from common import colour_bar, generated_skull, shaded_mesh, show, skullvae
from matplotlib import pyplot as plt

import SkullVAELib as sv

skull, _ = generated_skull("blob", seed=5)
skullvae("complete", "head.nrrd", "-o", "result", "--uncertainty", "--proposals", "3")

with open("result/implant_uncertainty.ply", "rb") as file:
    header = [line.decode().split() for line in iter(file.readline, b"end_header\n")]
    count = {line[1]: int(line[2]) for line in header if line[0] == "element"}
    kinds = {"float": "<f4", "uchar": "u1"}
    columns = [(line[2], kinds[line[1]]) for line in header if line[0] == "property" and line[1] in kinds]
    vertices = np.fromfile(file, columns, count["vertex"])
    faces = np.fromfile(file, [("corners", "u1"), ("index", "<i4", 3)], count["face"])["index"]
points = np.stack([-vertices["x"], -vertices["y"], vertices["z"]], axis=1)  # the file has LPS

figure, axes = plt.subplots(1, 2, figsize=(10, 4), dpi=110, layout="constrained")
shaded_mesh(axes[0], points, faces, vertices["uncertainty"], 2.0)
colour_bar(figure, axes[0], 2.0, "half-width of the 90 % band, mm")

files = ["implant.nrrd", "proposal_2.nrrd", "proposal_3.nrrd"]
proposals = [sv.read_image(f"result/{name}").array > 0 for name in files]
bone = skull.array > 0
_, row, _ = (round(index.mean()) for index in proposals[0].nonzero())
low, high = (proposals[0].any((0, 1)).nonzero()[0][[0, -1]] + [-12, 12]).clip(0)
side = (proposals[0].any((1, 2)).nonzero()[0][[0, -1]] + [-12, 12]).clip(0)
window = (slice(*side), row, slice(low, high))
show(axes[1], np.where(bone[window].T[::-1, :, None], 0.75, 1.0) * np.ones(3), "three proposals in a coronal slice")
for proposal, colour in zip(proposals, ("tab:blue", "tab:orange", "tab:red"), strict=True):
    axes[1].contour(proposal[window].T[::-1].astype(float), [0.5], colors=[colour], linewidths=1.2)
