"""Names that Slicer's own Python files import but the tests do not use: they exist, but cannot be used."""

from __future__ import annotations

import sys

_CTK = (
    "ctkCheckBox",
    "ctkCheckablePushButton",
    "ctkColorPickerButton",
    "ctkComboBox",
    "ctkDirectoryButton",
    "ctkDoubleRangeSlider",
    "ctkDoubleSlider",
    "ctkDoubleSpinBox",
    "ctkRangeWidget",
)
_SLICER = ("qMRMLRangeWidget", "qMRMLSliderWidget", "qMRMLSpinBox", "qSlicerWidget")


class _NameOnly:
    def __init__(self, *arguments):
        raise AttributeError(f"{type(self).__name__} is not on the stand-in's list")


def install() -> None:
    import slicer

    for module, names in ((sys.modules["ctk"], _CTK), (slicer, _SLICER)):
        for name in names:
            setattr(module, name, type(name, (_NameOnly,), {}))
