"""The parameters of the panel are translated to options of the command line."""

from __future__ import annotations

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

from SkullVAEModule.completion import RunSettings  # noqa: E402
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402
from SkullVAEModule.parameters import runSettings  # noqa: E402
from slicer_scenes import GRIDS, SHAPE, addSkull, addVolume, randomMask  # noqa: E402

from SkullVAELib.cli import main as cli  # noqa: E402
from SkullVAELib.completion.options import PRIORS  # noqa: E402

pytestmark = pytest.mark.usefixtures("scene")


def parsed(parameters, **more):
    """The options that the command line parses from the parameters of the panel."""
    arguments = runSettings(parameters, **more).arguments()
    return cli._parser().parse_args(["complete", "in.nrrd", "-o", "out", "--progress", "json", *arguments])


def test_default_parameters_are_the_defaults_of_the_command_line_and_a_clearance():
    parameters = SkullVAELogic().getParameterNode()
    assert runSettings(parameters) == RunSettings(clearance=0.5, thickness="patient", underContour=0, smooth=0.5)


def test_parameters_become_command_line_options():
    parameters = SkullVAELogic().getParameterNode()
    parameters.inputNode = addVolume(np.zeros(SHAPE, np.int16), GRIDS["lps"])
    assert parsed(parameters).threshold is None, "the default threshold is left to the library"
    parameters.boneThreshold, parameters.gamma, parameters.device = 226.0, 0.75, "cpu"
    parameters.defectKind, parameters.proposals, parameters.face = "Face (experimental)", 3, True
    roi = (1.0, -2.0, 3.0, 100.0, 110.0, 120.0)
    options = parsed(parameters, roi=roi)
    assert (options.threshold, options.gamma, options.device) == (226, 0.75, "cpu")
    assert (options.defect, options.proposals, options.face) == ("facial", 3, True)
    assert [float(number) for number in options.roi.split(",")] == list(roi)
    assert options.interactive and options.display and options.no_preview


def test_gamma_0_is_left_to_the_prior_but_for_dev_where_it_means_no_move():
    parameters = SkullVAELogic().getParameterNode()
    assert parsed(parameters).gamma is None
    parameters.prior = "dev"
    assert parsed(parameters).gamma == 0


def test_options_of_the_printable_implant_reach_the_command_line():
    parameters = SkullVAELogic().getParameterNode()
    parameters.clearance, parameters.thickness, parameters.thicknessMillimetres = 0.8, "Constant", 3.5
    parameters.underContour, parameters.smoothing, parameters.split = 0.4, 1.0, 90.0
    parameters.holes, parameters.holeDiameter, parameters.holePitch, parameters.holeMargin = True, 2.5, 12.0, 4.0
    options = parsed(parameters)
    assert (options.clearance, options.thickness, options.holes) == (0.8, "constant:3.5", "2.5,12,4")
    assert (options.under_contour, options.smooth, options.split) == (0.4, 1.0, 90)
    parameters.holes, parameters.split, parameters.thickness = False, 5.0, "At least"
    options = parsed(parameters)
    assert (options.holes, options.split, options.thickness) == (None, None, "minimum:3.5")


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
@pytest.mark.parametrize("prior", PRIORS)
def test_command_line_accepts_every_prior_and_device_of_the_panel(prior, device):
    parameters = SkullVAELogic().getParameterNode()
    parameters.prior, parameters.device = prior, device
    assert (parsed(parameters).prior, parsed(parameters).device) == (prior, device)


def test_parameters_reject_values_that_the_panel_cannot_show():
    parameters = SkullVAELogic().getParameterNode()
    for name, value in (("device", "quantum"), ("gamma", 3.0), ("boneThreshold", -1001.0)):
        with pytest.raises(ValueError, match=str(value)):
            setattr(parameters, name, value)
    parameters.inputNode = None


def test_help_text_contains_the_notice():
    import SkullVAE

    parent = slicer_standin.moduleRecord()
    SkullVAE.SkullVAE(parent)
    assert parent.title == "SkullVAE"
    assert "not for clinical use" in parent.helpText
    assert parent.acknowledgementText


def test_threshold_is_for_a_ct_only():
    parameters = SkullVAELogic().getParameterNode()
    parameters.inputNode = addSkull(randomMask(29), GRIDS["lps"])
    parameters.boneThreshold = 226.0
    assert "--threshold" not in runSettings(parameters).arguments()
