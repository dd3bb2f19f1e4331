"""SkullVAE: complete a defective skull and design the implant, in 3D Slicer. The code is in SkullVAEModule."""

import slicer
from SkullVAEModule.logic import SkullVAELogic
from SkullVAEModule.parameters import SkullVAEParameterNode
from SkullVAEModule.sampledata import registerSampleData
from SkullVAEModule.selftest import SkullVAETest
from SkullVAEModule.widget import SkullVAEWidget
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule

# Slicer looks up the classes of a module by these names.
__all__ = ["SkullVAE", "SkullVAELogic", "SkullVAEParameterNode", "SkullVAETest", "SkullVAEWidget"]


class SkullVAE(ScriptedLoadableModule):
    """Title, help and acknowledgement of the module."""

    def __init__(self, parent) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "SkullVAE"
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations"]
        parent.contributors = ["The SkullVAE contributors"]
        parent.helpText = _("""
<p>Completes a skull with missing bone and designs the cranial implant, with a variational autoencoder trained on
skulls.</p>
<ol>
<li>Load a head CT, or a segmentation in which the skull is one segment. <i>Sample Data</i> offers a patient and a
generated skull under <i>SkullVAE</i>.</li>
<li><i>Input</i>: choose the CT or the segment. For a CT, preview the bone threshold in the slice views. If table,
headrest or neck are in the image, check <i>Restrict to a region of interest (ROI)</i>.</li>
<li><i>Completion</i> and <i>Implant</i>: choose the number of proposals, clearance, thickness and holes. The defaults
suit most cases. If one side of the face is missing, check <i>Also complete the face</i>.</li>
<li>Click <b>Complete skull</b>. If Python packages are missing, the module asks before it installs them.</li>
<li><i>Result</i>: the completed skull and the implant are segments, the printable implant is a model. Check the
measures, and inspect the rim from all sides.</li>
<li><i>Defects</i>: candidate defects with their probability. Check those that are to be filled. If a hole is missing,
click <i>Point at a hole</i>, then click on the hole in a slice view.</li>
<li>Select another proposal, or move <i>Gamma</i>: the implant is updated.</li>
<li>Change clearance, thickness or holes: the printable implant is updated. Colour it by thickness or uncertainty.</li>
<li><i>Export</i>: STL, OBJ or PLY of implant and skull surface, labelmaps, and a report.</li>
</ol>
<p>The input is never changed. Running again replaces the result; <i>Remove result</i> removes it.</p>
<p><b>Research software, not a medical device, not for clinical use.</b></p>
""")
        parent.acknowledgementText = _("""
The method follows work on skull reconstruction with variational autoencoders, and is built on PyTorch, SimpleITK
and VTK.
""")
        # The Sample Data module exists only after the application has started.
        slicer.app.connect("startupCompleted()", registerSampleData)
