"""Names of the files of a result; without torch and VTK."""

from __future__ import annotations

from SkullVAELib.implant.options import MESH_FORMATS

RESULT_FILES = ("completed.nrrd", "implant.nrrd", "implant.stl", "preview.png", "report.json")
"""Files that every completion with a defect writes, in the order of publishing.

The report is last: where it is present, the set is complete.
"""

TOOLING_FILES = (
    *(f"mould{number}_{half}.stl" for number in ("", "_[2-9]", "_[1-9][0-9]") for half in "ab"),
    *(f"{part}{number}.stl" for part in ("fit_ring", "template") for number in ("", "_[2-9]", "_[1-9][0-9]")),
)
"""Patterns of the additional printed parts, see `SkullVAELib.implant.tooling`."""

OPTIONAL_FILES = (
    "skull.stl",
    "skull_display.ply",
    "report.html",
    "implant.obj",
    "implant.ply",
    "implant.3mf",
    "implant_uncertainty.ply",
    "completed_and_implant.seg.dcm",
    "implant.stl.dcm",
    *(f"implant_{number}.{kind}" for kind in MESH_FORMATS for number in ("[1-9]", "[1-9][0-9]")),
    *TOOLING_FILES,
    *(f"proposal_[2-5].{kind}" for kind in ("nrrd", *MESH_FORMATS)),
)
"""Patterns (as in `fnmatch`) of the files that a completion writes where they are requested."""

FORMER_FILES = ("host.stl",)
"""Names that version 0.1 gave to files of a result: removed with an earlier result, never written."""

PUBLISHED_FILES = (*RESULT_FILES[:-1], *OPTIONAL_FILES, *FORMER_FILES, RESULT_FILES[-1])
"""All of these, in the order of publishing, for `publish_files`."""
