"""Claims about the message for a head whose distance between slices is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.registration.plausibility import CHECKS, Quality, QualityMeasures, _flat_remedy, _slice_remedy

AFFINE = np.diag([0.5, 0.5, 1.25, 1.0])


@pytest.mark.parametrize(("factor", "said"), [(0.5, "stretched"), (2.0, "squeezed")])
def test_a_head_scaled_along_the_slices_names_their_distance(factor, said):
    alignment = np.diag([1.0, 1.05, factor, 1.0])
    assert said in _slice_remedy(alignment, AFFINE)
    assert "distance between slices" in _slice_remedy(alignment, AFFINE)
    assert "1.25 mm" in _slice_remedy(alignment, AFFINE)


def test_a_head_scaled_across_the_slices_or_hardly_does_not():
    assert _slice_remedy(np.diag([2.0, 1.0, 1.0, 1.0]), AFFINE) == ""
    assert _slice_remedy(np.diag([1.0, 1.0, 1.2, 1.0]), AFFINE) == ""


def test_flat_bone_names_the_distance_between_slices():
    points = np.random.default_rng(0).uniform(-1, 1, (500, 3)) * [75, 90, 40]
    assert "80 mm long along the slices" in _flat_remedy(points, AFFINE)
    assert _flat_remedy(points * [1, 1, 2], AFFINE) == ""
    # The slices of a coronal series are along the second axis of the patient.
    coronal = AFFINE[:, [0, 2, 1, 3]][[0, 1, 2, 3]]
    assert _flat_remedy(points, coronal) == ""


def test_a_rejected_input_names_slices_and_what_the_header_lacks():
    measures = QualityMeasures(180, 1, 2, 1, 1, 0, 0.1, 1, 1.2, 1.7)
    quality = Quality(measures, 0.1, next(check for check in CHECKS if check.measure == "stretch"), "Check the slices")
    with pytest.raises(SkullVAEError, match=r"Check the slices\. 'a' states no orientation\.$"):
        quality.require(0.15, ["'a' states no orientation."])
    assert "Check the slices." in quality.warnings[0]
    other = Quality(measures, 0.1, next(check for check in CHECKS if check.measure == "fit_mm"), "no", "It is flat")
    with pytest.raises(SkullVAEError, match="It is flat"):
        other.require(0.15)
