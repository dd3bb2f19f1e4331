"""The parameters of the panel become the options of the command line."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

from SkullVAEModule.completion import CompletionOptions  # noqa: E402
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402
from SkullVAEModule.parameters import completionOptions  # noqa: E402
from slicer_scenes import GRIDS, SHAPE, addSkull, addVolume, randomMask  # noqa: E402

from SkullVAELib import cli  # noqa: E402


@pytest.fixture(autouse=True)
def scene():
    """An empty scene for each test."""
    return slicer_standin.newScene()


def test_parameters_become_command_line_options():
    parameters = SkullVAELogic().getParameterNode()
    options = completionOptions(parameters)
    assert options == CompletionOptions()
    parameters.inputNode = addVolume(np.zeros(SHAPE, np.int16), GRIDS["lps"])
    parameters.boneThreshold, parameters.gamma, parameters.device = 226.0, 0.75, "cpu"
    assert "--gamma" not in completionOptions(parameters).arguments()
    parameters.prior = "dev"
    arguments = completionOptions(parameters).arguments()
    assert arguments[:8] == ["--device", "cpu", "--prior", "dev", "--threshold", "226", "--gamma", "0.75"]


def test_command_line_knows_what_the_panel_asks_for():
    parameters = SkullVAELogic().getParameterNode()
    parameters.inputNode = addVolume(np.zeros(SHAPE, np.int16), GRIDS["lps"])
    parameters.boneThreshold = 226.0
    for prior, device in itertools.product(
        ("auto", "encode", "map", "dev", "mean"),
        ("auto", "cpu", "cuda"),
    ):
        parameters.prior, parameters.device = prior, device
        arguments = completionOptions(parameters).arguments()
        parsed = cli._parser().parse_args(["complete", "in.nrrd", "-o", "out", "--progress", "json", *arguments])
        assert (parsed.prior, parsed.device, parsed.threshold) == (prior, device, 226)


def test_parameters_refuse_what_the_panel_cannot_show():
    parameters = SkullVAELogic().getParameterNode()
    for name, value in (("device", "quantum"), ("gamma", 3.0), ("boneThreshold", -1.0)):
        with pytest.raises(ValueError, match=str(value)):
            setattr(parameters, name, value)
    parameters.inputNode = None


def test_title_page_says_it_is_for_research_only():
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
    assert "--threshold" not in completionOptions(parameters).arguments()
