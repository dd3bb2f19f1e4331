"""Claims about connected components made of runs of voxels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from SkullVAELib.geometry.components import Components

LAYOUTS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "flipped": lambda a: np.ascontiguousarray(a[::-1, :, ::-1])[::-1, :, ::-1],
    "permuted": lambda a: np.ascontiguousarray(a.transpose(1, 2, 0)).transpose(2, 0, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("share", [0.03, 0.1, 0.5, 1.0])
def test_components_are_those_of_a_label_for_every_voxel(layout, share):
    mask = LAYOUTS[layout](np.random.default_rng(3).random((13, 9, 11)) < share)
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    found = Components.of(mask)
    assert len(found) == count
    assert sorted(found.voxels) == sorted(np.bincount(labels.ravel())[1:])
    again = np.zeros(mask.shape, bool)
    for component in range(count):
        index = found.indices(component)
        assert len(index) == found.voxels[component]
        assert len(np.unique(labels[tuple(index.T)])) == 1
        assert np.allclose(found.centre(component), index.mean(0))
        cells = found.cells(component, np.array([2, 3, 2]))
        assert {tuple(c) for c in cells} == {tuple(c) for c in index // [2, 3, 2]}
        again[tuple(index.T)] = True
    assert np.array_equal(again, mask)
    assert len(found.indices(range(count))) == mask.sum()


def test_rows_that_follow_each_other_in_memory_are_not_connected():
    mask = np.zeros((3, 4, 5), bool)
    mask[1, 0, 4] = mask[1, 1, 0] = mask[0, 3, 4] = True
    assert len(Components.of(mask)) == 3
