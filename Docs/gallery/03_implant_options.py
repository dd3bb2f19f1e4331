"""Options of the printable implant.

One completion, four printable implants: as the completed skull is, 4 mm thick with a clearance of 0.5 mm, with holes,
and divided into pieces of at most 30 mm. `implant.nrrd` is the same for all of them. [Choose implant options for
printing](../how-to/printing.md) explains the options.
"""

from common import colour_bar, generated_skull, shaded_mesh
from matplotlib import pyplot as plt

import SkullVAELib as sv

skull, _ = generated_skull("blob", seed=5)
result = sv.complete(skull)

plate = {"clearance_mm": 0.5, "thickness": "constant", "thickness_mm": 4.0}
requests = {
    "as the completed skull": {},
    "4 mm, clearance 0.5 mm": plate,
    "holes of 2 mm every 8 mm": {**plate, "hole_diameter_mm": 2.0, "hole_pitch_mm": 8.0},
    "pieces up to 30 mm": {**plate, "split_mm": 30.0},
}

figure, axes = plt.subplots(1, 4, figsize=(10, 3), dpi=110, layout="constrained")
for (title, options), place in zip(requests.items(), axes, strict=True):
    implant = sv.make_implant(result, sv.ImplantOptions(**options, thickness_map=True)).printable
    mesh = implant.mesh
    shaded_mesh(place, mesh.points, mesh.faces, implant.thickness_mm, 8.0, title)
colour_bar(figure, axes, 8.0, "thickness, mm")
