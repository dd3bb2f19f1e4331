"""Claims about synthetic defects: they split a skull in two, cut something, and come out the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SkullVAELib.data.synthetic_defects import DEFECT_KINDS, cut_defect, random_defect, skullfix_defect
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.distance_field import downsample_mask, surface_points
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.registration.affine import initial_alignment


@pytest.fixture(scope="module")
def head() -> tuple[Volume, Volume]:
    """A shell like a vault with a lump for a face, on an LPS grid of 2 mm, and its reduced form."""
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    affine[:3, 3] = [90, 115, -110]
    index = np.stack(np.meshgrid(np.arange(90), np.arange(115), np.arange(105), indexing="ij"), -1)
    world = apply_affine(affine, index)
    radius = np.linalg.norm(world / [70, 90, 80], axis=-1)
    shell = (radius < 1) & (radius > 0.9) & (world[..., 2] > -60)
    face = (np.abs(world - [0, 75, -65]) < [40, 25, 35]).all(-1)
    bone = Volume(shell | face, affine)
    return bone, downsample_mask(bone)


@pytest.mark.parametrize("kind", DEFECT_KINDS)
def test_every_kind_cuts_the_skull_in_two_disjoint_parts(head, kind):
    bone, fraction = head
    defective, removed = cut_defect(bone, fraction, kind, seed=4)
    assert removed.any()
    assert defective.any()
    assert not (defective & removed).any()
    assert np.array_equal(defective | removed, bone.array)


@pytest.mark.parametrize("kind", DEFECT_KINDS)
def test_the_seed_decides_the_defect(head, kind):
    bone, fraction = head
    first, again, other = (cut_defect(bone, fraction, kind, seed)[1] for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_cutting_leaves_the_given_skull_as_it_was(head):
    bone, fraction = head
    before = bone.array.copy()
    cut_defect(bone, fraction, "blob", seed=0)
    assert np.array_equal(bone.array, before)


def test_direction_and_size_are_honoured(head):
    bone, fraction = head
    small, large = (
        cut_defect(bone, fraction, "blob", seed=2, direction=np.array([0.0, 0.1, 1.0]), size=size)[1]
        for size in (0.0, 1.0)
    )
    assert large.sum() > 2 * small.sum()
    points, _ = surface_points(fraction)
    place = apply_affine(initial_alignment(points) @ bone.affine, np.argwhere(small)).mean(0)
    assert place[2] > 40
    assert np.abs(place[:2]).max() < 25


def test_the_same_defect_is_cut_however_the_skull_is_stored(head):
    bone, fraction = head
    flip = np.diag([1.0, -1.0, 1.0, 1.0])
    flip[1, 3] = bone.array.shape[1] - 1
    stored = Volume(bone.array[:, ::-1], bone.affine @ flip)
    other = cut_defect(stored, downsample_mask(stored), "box", seed=3)[1][:, ::-1]
    assert np.array_equal(other, cut_defect(bone, fraction, "box", seed=3)[1])


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="unknown kind"):
        random_defect("star", np.random.default_rng(0), torch.zeros(10, 3))


@pytest.mark.parametrize("kind", DEFECT_KINDS)
def test_the_distance_is_smooth_and_signed(head, kind):
    _, fraction = head
    points, _ = surface_points(fraction)
    bone = torch.tensor(apply_affine(initial_alignment(points), points)).float()
    grid = Grid((48, 56, 48), 4.0)
    distance = random_defect(kind, np.random.default_rng(1), bone).signed_distance(grid.coordinates())
    assert torch.isfinite(distance).all()
    assert (distance < 0).any()
    assert (distance > 0).float().mean() > 0.5
    # Neighbouring nodes never differ by much more than their distance.
    steps = torch.cat([distance.diff(dim=axis).abs().flatten() for axis in range(3)])
    assert float(steps.quantile(0.99) if len(steps) < 2**24 else steps.max()) < 4 * grid.spacing_mm


def test_skullfix_cuts_a_box_through_the_vault_and_half_the_face():
    cranial, facial = skullfix_defect("cranial"), skullfix_defect("facial")
    normal = np.array([0.0, -0.70, 0.72]) / np.hypot(0.70, 0.72)
    across, along = np.array([1.0, 0, 0]), np.cross(normal, [1.0, 0, 0])

    def removed(defect, *points) -> list[bool]:
        return (defect.signed_distance(torch.tensor(np.array(points)).float()) < 0).tolist()

    through = [normal * r + across * x + along * y for r in (55, 75, 95) for x in (-30, 30) for y in (-25, 25)]
    assert all(removed(cranial, *through))
    # The pegs stand out at the corners, and only there.
    corner = normal * 78 + across * 45 + along * 38
    assert removed(cranial, corner, normal * 78 + across * 45, normal * 78 + along * 40) == [True, False, False]
    assert removed(facial, [1, 30, 70], [60, 90, -80], [-1, 60, 0], [40, 20, 0]) == [True, True, False, False]
    with pytest.raises(ValueError, match="nasal"):
        skullfix_defect("nasal")
