"""SkullVAE: complete a defective skull and design the implant, in 3D Slicer. The rooms are in SkullVAEModule."""

import slicer
from SkullVAEModule.logic import SkullVAELogic
from SkullVAEModule.parameters import SkullVAEParameterNode
from SkullVAEModule.sampledata import registerSampleData
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
<ol>
<li>Load a head CT, or a segmentation in which the skull is one segment. <i>Sample Data</i> has a patient and a
generated skull under <i>SkullVAE</i>.</li>
<li><i>Input</i>: choose it. For a CT the slices show what the threshold takes for bone; a box leaves out what is no
head.</li>
<li><i>Completion</i> and <i>Implant</i>: clearance, thickness, holes, how many proposals. What is set is
sensible.</li>
<li>Click <b>Complete skull</b>. The first click asks before it installs the Python packages that are missing.</li>
<li><i>Result</i>: the completed skull and the implant are segments, the part is a model. Look at the figures, and at
the rim from all sides.</li>
<li>Choose among the proposals, or move <i>Gamma</i>: the implant follows.</li>
<li>Change clearance, thickness or holes: the part follows. Colour it by its thickness.</li>
<li><i>Export</i>: STL, OBJ or PLY of implant and host skull, labelmaps, a report.</li>
</ol>
<p>The input is never changed. Running again replaces the result, <i>Remove result</i> takes it away.</p>
<p><b>Research software, not a medical device, not for clinical use.</b></p>
""")
        parent.acknowledgementText = _("""
The method follows work on skull reconstruction with variational autoencoders, and is built on PyTorch, MONAI,
SimpleITK and VTK.
""")
        # The Sample Data module is there only when the application has started.
        slicer.app.connect("startupCompleted()", registerSampleData)
