"""Boxes and sums over blocks are those of the values, however an array lies in memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from SkullVAELib.geometry.masks import block_means, block_sums, bounding_box

VIEWS = [(order, flips) for order in itertools.permutations(range(3)) for flips in ((1, 1, 1), (-1, 1, 1), (-1, 1, -1))]


def view(values: np.ndarray, order: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    """The same values in an array whose axes lie in another order in memory, some of them backwards."""
    turn = tuple(slice(None, None, step) for step in flips)
    stored = np.ascontiguousarray(values[turn].transpose(order))
    return stored.transpose(np.argsort(order))[turn]


@pytest.mark.parametrize(("order", "flips"), VIEWS, ids=str)
def test_the_box_of_a_view_is_that_of_its_values(order, flips):
    values = np.zeros((9, 11, 13), bool)
    values[2:5, 0:7, 8:12] = np.random.default_rng(3).random((3, 7, 4)) < 0.3
    some = view(values, order, flips)
    assert np.array_equal(some, values)
    where = np.argwhere(values)
    expected = tuple(slice(a, b + 1) for a, b in zip(where.min(0), where.max(0), strict=True))
    assert bounding_box(some) == expected
    assert bounding_box(some, np.array([1, 1, 9])) == (slice(1, 6), slice(0, 8), slice(0, 13))
    assert bounding_box(some & False) == (slice(0, 0),) * 3


@pytest.mark.parametrize("factor", [(2, 3, 4), (1, 1, 2), (1, 1, 1), (20, 1, 5)], ids=str)
@pytest.mark.parametrize(("order", "flips"), VIEWS, ids=str)
@pytest.mark.parametrize("kind", [bool, np.float32])
def test_the_sums_of_a_view_are_those_of_its_values(kind, order, flips, factor):
    values = np.random.default_rng(5).integers(0, 2, (9, 11, 13)).astype(kind)
    blocks = itertools.product(*(range(0, n, step) for n, step in zip(values.shape, factor, strict=True)))
    parts = [values[tuple(slice(s, s + f) for s, f in zip(start, factor, strict=True))] for start in blocks]
    sums, means = block_sums(view(values, order, flips), np.array(factor)), [part.mean() for part in parts]
    assert sums.ravel().tolist() == [part.sum() for part in parts]
    assert np.allclose(block_means(view(values, order, flips), np.array(factor)).ravel(), means, atol=1e-6)
