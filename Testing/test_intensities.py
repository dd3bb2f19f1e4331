"""Claims about the scale of a CT's values."""

from __future__ import annotations

import numpy as np
import pytest

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.bone import bone_mask
from SkullVAELib.registration.intensities import recognised_scale, resolve_threshold


@pytest.fixture(scope="module")
def ct() -> np.ndarray:
    """A CT of a ball-shaped head in HU, float32: air, skin and fat, brain, and bone of 300 to 1700 HU, with noise."""
    i, j, k = np.ogrid[:72, :72, :64]
    radius = np.sqrt((i - 36.0) ** 2 + (j - 36) ** 2 + (k - 30) ** 2)
    rng = np.random.default_rng(0)
    values = np.full(radius.shape, -1000.0)
    values[radius < 30] = -100
    values[radius < 29] = 50
    shell = (radius < 27) & (radius > 24)
    values[shell] = rng.gamma(4, 190, np.count_nonzero(shell)) + 150
    values[radius <= 24] = 32
    return (values + rng.normal(0, 15, values.shape)).round().astype(np.float32)


def volume_of(array: np.ndarray) -> Volume:
    return Volume(array, np.eye(4), "a.nrrd", ("earlier",))


def bone_of(array: np.ndarray, threshold: float | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """The bone of an image, and the warnings about its values."""
    volume, threshold = resolve_threshold(volume_of(array), threshold)
    return bone_mask(volume, threshold)[0], volume.warnings[1:]


def corners_filled(array: np.ndarray, value: float) -> np.ndarray:
    """The image with padding outside a circle, as scanners write it."""
    i, j = np.ogrid[: array.shape[0], : array.shape[1]]
    padded = array.copy()
    padded[(i - 36) ** 2 + (j - 36) ** 2 > 35**2] = value
    return padded


PLAIN = {
    "as it is": lambda a: a,
    "int16": lambda a: a.astype(np.int16),
    "padding of -2048": lambda a: corners_filled(a, -2048),
    "padding of -3024": lambda a: corners_filled(a, -3024),
    "padding of 0": lambda a: corners_filled(a, 0),
    "clipped at -1024": lambda a: np.clip(a, -1024, None),
    "clipped at -1000 and 1000": lambda a: np.clip(a, -1000, 1000),
    "clipped at -500 and 1500": lambda a: np.clip(a, -500, 1500),
    "clipped at -200 and 600": lambda a: np.clip(a, -200, 600),
    "air masked by 0": lambda a: np.where(a > -300, a, 0),
    "air masked by -1000": lambda a: np.where(a > -300, a, -1000),
    "air masked by -2000": lambda a: np.where(a > -300, a, -2000),
    "air masked by -3024": lambda a: np.where(a > -300, a, -3024),
    "bone alone": lambda a: np.where(a > 300, a, -1000),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_hounsfield_units_are_used_as_they_are_with_and_without_air(ct, kind):
    array = PLAIN[kind](ct)
    volume, threshold = resolve_threshold(volume_of(array), None)
    assert threshold is None
    assert volume.warnings == ("earlier",)


OFFSET = {
    "stored values, int16": (lambda a: (a + 1024).astype(np.int16), 1024),
    "stored values, unsigned": (lambda a: np.clip(a + 1024, 0, None).astype(np.uint16), 1024),
    "stored values with padding of -2000": (lambda a: corners_filled(a, -2000) + 1024, 1024),
    "stored values with padding of 0": (lambda a: corners_filled(a + 1024, 0), 1024),
    "1000 too high": (lambda a: a + 1000, 1000),
    "1000 too low": (lambda a: a - 1000, -1000),
    "8192 too high": (lambda a: a + 8192, 8192),
}


@pytest.mark.parametrize("kind", OFFSET)
def test_an_offset_is_corrected_with_a_warning(ct, kind):
    change, offset = OFFSET[kind]
    bone, warnings = bone_of(change(ct))
    (warning,) = warnings
    assert "offset" in warning
    assert "--threshold" in warning
    exact = bone_of(ct)[0]
    differing = np.count_nonzero(bone != exact) / np.count_nonzero(exact)
    # 1000 cannot be told from 1024 by a peak of 32 HU; other offsets are those of the peaks.
    assert differing <= (0.0 if abs(offset) == 1024 else 0.05)


@pytest.mark.parametrize(("factor", "said"), [(0.5, "0.5 times"), (2.0, "2 times"), (0.1, "0.1 times")])
def test_another_slope_is_rejected_with_the_threshold_on_that_scale(ct, factor, said):
    array = np.floor(ct * factor) if factor > 0.2 else ct * np.float32(factor)
    with pytest.raises(SkullVAEError, match="not Hounsfield units") as caught:
        resolve_threshold(volume_of(array), None)
    assert said in caught.value.cause
    proposed = float(caught.value.remedy.rpartition(" ")[2])
    assert proposed == pytest.approx(300 * factor, abs=12 * factor + 1)
    # The proposed threshold gives nearly the bone of the CT in HU, still with a warning.
    bone, warnings = bone_of(array, proposed)
    exact = bone_of(ct)[0]
    assert np.count_nonzero(bone != exact) < 0.05 * np.count_nonzero(exact)
    assert "applied to them as they are" in warnings[0]


def test_a_scale_that_is_nearly_right_is_used_with_a_warning(ct):
    volume, threshold = resolve_threshold(volume_of(ct * np.float32(0.82)), None)
    assert threshold is None
    assert "cone-beam" in volume.warnings[-1]


def test_a_given_threshold_is_never_changed(ct):
    volume, threshold = resolve_threshold(volume_of(ct), 250.0)
    assert threshold == 250
    assert volume.warnings == ("earlier",)
    volume, threshold = resolve_threshold(volume_of(ct + 1024), 250.0)
    assert threshold == 250
    assert "1324" in volume.warnings[-1]


def test_an_8_bit_ct_an_mri_and_labels_are_no_ct(ct):
    window = np.floor(np.clip((ct + 160) / 400, 0, 1) * 255).astype(np.uint8)
    wide = np.floor(np.clip((ct + 1000) / 3000, 0, 1) * 255).astype(np.uint8)
    for array in (window, wide):
        with pytest.raises(SkullVAEError, match="8 bits") as caught:
            bone_of(array)
        assert "original CT" in caught.value.remedy
    # An MRI: white matter at the value that soft tissue has in stored values, grey matter and fluid below it.
    rng = np.random.default_rng(1)
    mri = np.where(
        ct < -500, 10, np.where(ct > 200, 60, rng.choice([300, 700, 1060, 1500], ct.shape, p=[0.2, 0.3, 0.4, 0.1]))
    )
    mri = np.abs(mri + rng.normal(0, 20, ct.shape))
    assert recognised_scale(mri) is None
    labels = np.where(ct > -500, rng.integers(1000, 1100, ct.shape), 0)
    labels[ct > 300] = 2000
    assert recognised_scale(labels) is None


def test_an_inverted_ct_is_not_taken_for_an_offset(ct):
    for array in (-ct, -corners_filled(ct, -2048)):
        assert recognised_scale(array) is None


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 5, 5)),
        np.full((5, 5, 5), np.nan),
        np.array([np.inf, 0, 1] * 9).reshape(3, 3, 3),
        np.geomspace(1e-310, 1e308, 1000).reshape(10, 10, 10),
        np.linspace(1e15, 1e15 + 100, 1000).reshape(10, 10, 10),
        np.random.default_rng(0).normal(0, 300, (20, 20, 20)),
    ],
)
def test_nothing_is_concluded_from_other_values(array):
    assert recognised_scale(array) is None


def test_recognition_does_not_read_the_whole_of_a_large_image(ct):
    large = np.broadcast_to(ct[:, :, None, :], (*ct.shape[:2], 200, ct.shape[2])).reshape(72, 72, -1)
    assert recognised_scale(large).is_plain
