"""SkullVAE: complete a defective skull and design the implant, in 3D Slicer. The rooms are in SkullVAEModule."""

from SkullVAEModule.logic import SkullVAELogic
from SkullVAEModule.parameters import SkullVAEParameterNode
from SkullVAEModule.selftest import SkullVAETest
from SkullVAEModule.widget import SkullVAEWidget
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule

# Slicer finds the parts of a module by these names.
__all__ = ["SkullVAE", "SkullVAELogic", "SkullVAEParameterNode", "SkullVAETest", "SkullVAEWidget"]


class SkullVAE(ScriptedLoadableModule):
    """The module's title page."""

    def __init__(self, parent) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "SkullVAE"
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations"]
        parent.contributors = ["The SkullVAE contributors"]
        parent.helpText = _("""
<p>Completes a skull that lacks a piece of bone and designs the implant that fills the gap, with a variational
autoencoder that has learned how skulls vary.</p>
<p>Choose a segmentation and the segment of the skull, or a CT volume, and click <b>Complete skull</b>. Two segments
are added: the completed skull and the implant. Running again replaces them.</p>
<p><b>Research software, not a medical device, not for clinical use.</b></p>
""")
        parent.acknowledgementText = _("""
The method follows work on skull reconstruction with variational autoencoders, and is built on PyTorch, MONAI,
SimpleITK and VTK.
""")
