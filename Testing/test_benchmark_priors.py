"""Claims about the experiments with other priors, the mirrored half and thin bone; nothing is completed here."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from benchmark import plan
from benchmark.cases import PLACES, STANDARD, VAULT_ONLY
from benchmark.learning_curve import DEFECT_SIZES, by_individual, chosen_cases, mean_and_error, order_of
from benchmark.mirrored_half import mirror_weight, nested
from benchmark.rays import ImplantRays
from benchmark.swapped_prior import depth_errors, middle_of, mixed
from benchmark.thin_bone import missing_voxels, pinholes

from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.shape.two_table import TwoTableShape
from SkullVAELib.shape.warped import WarpedShape

GRID = Grid((72, 72, 72), 2.5)
OUTER_MM, INNER_MM = 70.0, 64.0


def sphere(outer: float = OUTER_MM, inner: float = INNER_MM) -> torch.Tensor:
    """Signed distance of a spherical shell."""
    radius = GRID.coordinates().norm(dim=-1)
    return torch.maximum(radius - outer, inner - radius)


@pytest.fixture(scope="module")
def shell() -> TwoTableShape:
    return TwoTableShape.of(sphere(), GRID)


def points(radius: float) -> torch.Tensor:
    """Points of a sphere, away from its poles."""
    drawn = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    return drawn / drawn.norm(dim=1, keepdim=True) * radius


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("blurred", [1.0, 0.7])
def test_errors_are_true_millimetres_even_of_a_blurred_field(shell, outer, blurred):
    shape = dataclasses.replace(shell, **{n: blurred * getattr(shell, n) for n in ("field", "outer", "inner")})
    radius = OUTER_MM if outer else INNER_MM
    warped = WarpedShape(shape, torch.zeros(3, 2, 2, 2))
    for off in (-1.5, 0.0, 0.8):
        error = depth_errors(warped, points(radius + off), outer)
        assert np.abs(error + off).max() < 0.15


def test_a_table_that_is_not_there_has_no_error(shell):
    warped = WarpedShape(shell, torch.zeros(3, 2, 2, 2))
    assert np.isnan(depth_errors(warped, points(OUTER_MM + 12), True)).all()


def test_two_shapes_are_mixed_table_by_table(shell):
    thick = TwoTableShape.of(sphere(OUTER_MM + 2, INNER_MM - 1), GRID)
    warped = WarpedShape(mixed(shell, thick, torch.full(GRID.shape, 0.25)), torch.zeros(3, 2, 2, 2))
    assert np.abs(depth_errors(warped, points(OUTER_MM), True) - 0.5).max() < 0.15
    assert np.abs(depth_errors(warped, points(INNER_MM), False) + 0.25).max() < 0.15


def test_the_mirror_image_has_no_weight_where_it_is_a_hole(shell):
    at = GRID.coordinates()
    opened = torch.where(at[..., 0] > 30, 10.0, sphere().clamp(-10, 10))
    weight = mirror_weight(shell, TwoTableShape.of(opened, GRID))
    far, there = (at[..., 0] > 50) & (sphere() < 0), (at[..., 0] < -20) & (sphere() < 0)
    assert weight[far].max() == 0
    assert weight[there].min() > 0.99


def test_the_middle_of_a_mask_is_deep_within_it():
    mask = np.zeros((20, 20, 20), bool)
    mask[2:9, 3:10, 4:11] = True
    mask[9:18, 6, 7] = True
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    assert middle_of(Volume(mask, affine)) == (-5.0, 6.0, 7.0)


def test_subsets_are_nested_and_one_in_five_is_ct():
    others = [f"mri{n}" for n in range(20)]
    ordered = order_of([*plan.CT_SKULLS[1:], *others, "all_average"])
    assert sorted(ordered) == sorted([*plan.CT_SKULLS[1:], *others])
    assert [sum(name in plan.CT_SKULLS for name in ordered[:size]) for size in (4, 8, 16, 25)] == [1, 2, 3, 5]
    assert ordered == order_of(list(reversed([*plan.CT_SKULLS[1:], *others])))


def test_each_individual_gets_a_defect_of_each_size_that_its_skull_has():
    cases = chosen_cases(["a", "b", "flat"], {"flat"})
    for name in ("a", "b", "flat"):
        numbers = [number for who, number in cases if who == name]
        assert [PLACES[number].size_class for number in numbers] == list(DEFECT_SIZES)
        assert set(numbers) <= set(VAULT_ONLY if name == "flat" else STANDARD)
    assert len({number for who, number in cases if who in "ab"}) == 6


def test_figures_are_of_individuals():
    records = [{"individual": who, "rows": {"mean": {"mm": mm}}} for who, mm in (("a", 1.0), ("a", 3.0), ("b", 4.0))]
    values = by_individual(records, "mean", "mm")
    assert values.tolist() == [2.0, 4.0]
    assert mean_and_error(values) == (3.0, 1.0)


def test_nested_choice_never_looks_at_its_own_individual():
    # The second variant is better on the first individual alone, and there by more than it loses on both others.
    errors = np.array([[1.0, 0.1], [1.0, 1.2], [1.0, 1.2]])
    change, picked = nested(errors, [0, 1])
    assert picked.tolist() == [0, 1, 1]
    assert change == pytest.approx([0.0, 0.2, 0.2])


@pytest.mark.parametrize(("hole", "expected"), [(1, 1), (3, 1), (0, 0)])
def test_a_hole_within_a_plate_counts_and_a_notch_at_its_rim_does_not(hole, expected):
    whole = np.zeros((60, 60, 90), bool)
    whole[5:55, 5:55, 70:72] = True
    truth = np.zeros_like(whole)
    truth[15:45, 15:45, 70:72] = True
    implant = truth.copy()
    implant[30 : 30 + hole, 30 : 30 + hole] = False
    implant[15:19, 20:24] = False
    centre = np.array([30.0, 30.0, 0.0])
    rays = ImplantRays.of(truth, implant, whole & ~truth, np.eye(4), centre, 1.0)
    found = pinholes(rays, missing_voxels(Volume(implant, np.eye(4)), centre, rays))
    assert len(found) == expected
    if expected:
        assert found[0].thickness_mm == pytest.approx(2.0, abs=0.4)
        assert 0.5 * hole**2 < found[0].area_mm2 < 2.5 * hole**2
