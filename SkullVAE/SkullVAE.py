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
<p>Completes a skull with missing bone and designs the cranial implant: the mean skull and a variational autoencoder
predict the complete shape, which is fitted to the intact bone.</p>
<ol>
<li>Load a head CT, or a segmentation in which the skull is one segment. <i>Sample Data</i> offers a patient and a
generated skull under <i>SkullVAE</i>. The line at the top of the panel says what to do next.</li>
<li><i>Input</i>: choose the CT or the segment. For a CT, preview the bone threshold in the slice views. If table,
headrest or neck are in the image, check <i>Restrict to a region of interest (ROI)</i>.</li>
<li>Click <b>Complete skull</b>. If Python packages are missing, the module asks before it installs them. The defaults
of <i>Defects</i>, <i>Implant</i> and <i>Advanced</i> suit most cases.</li>
<li><i>Result</i>: figures with their ratings and warnings, what is not good first. The slice views show the predicted
shape filled and the printable implant, which is exported, as a line. <i>Before</i>, <i>After</i> and
<i>Difference</i> compare the skull without and with the implant, and the implant with the mirrored side in mm. The
skull can be shown translucent. Inspect the rim from all sides and in slices. If several defects are filled, a table
lists the implant of each with volume, thickness and rating: uncheck one to hide it, click on a row to see it in the
slice views.</li>
<li><i>Defects</i>: candidate defects with their probability. Check those that are to be filled. If a hole is missing,
click <i>Point at a hole</i>, then click on the hole in a slice view. If one side of the face is missing, check <i>Also
complete the face</i> and run again.</li>
<li><i>Implant</i>: change clearance, thickness or holes; the printable implant is updated. <i>Edit by hand</i>: paint
the implant segment, or place points that its outer surface must pass through. With several proposals, select one under
<i>Result</i>.</li>
<li><i>Export</i>: choose a folder; STL, OBJ or PLY of implant and skull surface, labelmaps, and a report. <i>Export
selected</i> writes only the implants that are checked in the table of <i>Result</i>, and <i>Open folder</i> shows the
files.</li>
</ol>
<p>The input is never changed. Running again replaces the result, and keeps a copy of an implant that was edited by hand
as a segment; <i>Remove result</i> removes it and restores the views. Sections open as the work proceeds; those that you
open or close stay so.</p>
<p><b>Research software, not a medical device, not for clinical use.</b></p>
""")
        parent.acknowledgementText = _("""
The method follows work on skull reconstruction with variational autoencoders, and is built on PyTorch, SimpleITK
and VTK.
""")
        # The Sample Data module exists only after the application has started.
        slicer.app.connect("startupCompleted()", registerSampleData)
