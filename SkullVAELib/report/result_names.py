"""Names of the files of a result; without torch and VTK."""

from __future__ import annotations

from SkullVAELib.implant.options import MESH_FORMATS

# In the order of publishing; the report comes last and seals the set.
RESULTS = ("completed.nrrd", "implant.nrrd", "implant.stl", "preview.png", "report.json")

# What a run writes where it is asked to; other numbers than these no run has ever given.
EXTRAS = (
    "skull.stl",
    "skull_display.ply",
    "report.html",
    "implant.obj",
    "implant.ply",
    "implant_uncertainty.ply",
    *(f"implant_{number}.{kind}" for kind in MESH_FORMATS for number in ("[1-9]", "[1-9][0-9]")),
    *(f"proposal_[2-5].{kind}" for kind in ("nrrd", *MESH_FORMATS)),
)
