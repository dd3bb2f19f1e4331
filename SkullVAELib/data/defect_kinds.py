"""Names of the kinds and classes of defects, one list of each; without torch."""

from __future__ import annotations

CLASSES = ("cranial", "facial")
"""Classes of defects that a deviation vector (DEV) is trained for; SkullFix's two kinds of defect."""

CRANIAL_KINDS = (
    "blob",
    "box",
    "burr",
    "hemicraniectomy",
    "bifrontal",
    "fronto_orbital",
    "temporal",
    "occipital",
    "vertex",
)
"""Kinds of synthetic defects of the cranial vault, see `SkullVAELib.data.synthetic_defects`."""

DEFECT_KINDS = (*CRANIAL_KINDS, "facial")
"""Kinds of synthetic defects."""

DEFAULT_KIND = "hemicraniectomy"
"""Kind of the synthetic defect of a generated skull, unless another is requested."""

CASE_KINDS = (
    # SkullFix, SkullBreak, synthetic
    *CLASSES,
    *("bilateral", "frontoorbital", "parietotemporal", "random_1", "random_2"),
    *CRANIAL_KINDS,
)
"""Kinds of defects that a data set may name."""
