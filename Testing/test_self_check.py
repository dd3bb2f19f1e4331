"""The self-check of implants: each figure on a shell with a known hole, on all kinds of grid."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from scipy import ndimage

from SkullVAELib.checks.limits import LIMITS, RATINGS
from SkullVAELib.checks.self_check import check_implant
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.mesh.isosurface import mask_surface
from SkullVAELib.mesh.mesh import Mesh

AXES = np.array([68.0, 88.0, 72.0])
THICK = 6.0


def _grid(spacing=(2.0, 2.0, 2.0), turn=None, top=100.0, low=-70.0):
    """An affine whose grid holds the shell, and its points."""
    spacing, turn = np.array(spacing, float), np.eye(3) if turn is None else turn
    lower, upper = np.array([-90.0, -110, low]), np.array([90.0, 110, top])
    shape = np.ceil((upper - lower) / spacing).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = turn @ (lower + spacing / 2) + [5, -7, 11]
    return affine, np.moveaxis(np.indices(shape), 0, -1)


def _shell(affine, index, out=0.0, thick=THICK):
    """An ellipsoidal shell, open below, and what lies inside."""
    points = apply_affine(affine, index) - [5, -7, 11]
    radius = np.linalg.norm(points / (AXES + out), axis=-1)
    return (radius <= 1) & (np.linalg.norm(points / (AXES + out - thick), axis=-1) > 1) & (points[..., 2] > -55), points


def _hole(points, direction=(0.8, 0.2, 0.6), half_deg=22.0):
    axis = np.array(direction) / np.linalg.norm(direction)
    return points @ axis > np.cos(np.radians(half_deg)) * np.linalg.norm(points, axis=-1)


def _check(bone, implant, affine, loose=None):
    kept = bone & ~implant
    everything = kept if loose is None else kept | loose
    return check_implant(Volume(everything, affine), Volume(kept | implant, affine), Volume(implant, affine))


def _of(result, name):
    return next(check for check in result.checks if check.name == name)


@pytest.fixture(scope="module")
def case():
    affine, index = _grid()
    skull, points = _shell(affine, index)
    hole = _hole(points)
    return affine, index, skull, points, hole


def _fine(result):
    """All checks but the one of the voxel size, which is coarse in these small volumes, are good."""
    return [check for check in result.checks if check.rating != "good" and check.name != "voxel_size"] == []


def test_a_perfect_implant_is_good_and_the_voxel_size_alone_is_named(case):
    affine, _, skull, _, hole = case
    result = _check(skull, skull & hole, affine)
    assert _fine(result), result.report()
    voxels = _of(result, "voxel_size")
    assert (voxels.value, voxels.rating, result.rating) == (2.0, "acceptable", "acceptable")
    assert result.warnings == [voxels.warning]
    assert "voxel size is coarse" in voxels.warning


def test_fine_voxels_make_the_overall_rating_good():
    affine, index = _grid((1.8, 1.8, 1.8))
    skull, points = _shell(affine, index)
    result = _check(skull, skull & _hole(points), affine)
    assert result.rating == "good", result.report()
    assert result.warnings == []


def test_the_report_is_strict_json_with_the_agreed_fields(case):
    affine, _, skull, _, hole = case
    report = json.loads(json.dumps(_check(skull, skull & hole, affine).report(), allow_nan=False))
    assert report["rating"] in RATINGS
    assert [check["name"] for check in report["checks"]] == list(LIMITS)
    assert all(set(check) == {"name", "value", "unit", "rating", "warning"} for check in report["checks"])
    assert all(bool(check["warning"]) == (check["rating"] != "good") for check in report["checks"])


def test_an_implant_that_fills_half_of_the_hole_has_an_open_edge_and_leaves_bone_missing(case):
    affine, _, skull, points, hole = case
    half = skull & hole & (points[..., 1] < 20)
    defective = skull & ~hole
    result = check_implant(Volume(defective, affine), Volume(defective | half, affine), Volume(half, affine))
    assert _of(result, "open_edge").rating == "poor"
    assert _of(result, "missing_bone").rating == "poor"
    assert result.warnings[0].startswith("Open edge")


def test_a_clearance_is_not_an_open_edge(case):
    affine, _, skull, _, hole = case
    bone = skull & ~hole
    implant = skull & hole & ~ndimage.binary_dilation(bone)
    result = check_implant(Volume(bone, affine), Volume(bone | implant, affine), Volume(implant, affine))
    assert _of(result, "open_edge").value == 0


def test_loose_bone_under_the_implant_is_reported_with_volume_and_place(case):
    affine, _, skull, points, hole = case
    implant = skull & hole
    middle = points[implant].mean(0)
    loose = implant & (np.linalg.norm(points - middle, axis=-1) < 14)
    check = _of(_check(skull, implant, affine, loose), "bone_overlap")
    assert check.rating == "poor"
    assert check.value == pytest.approx(100 * loose.sum() / implant.sum(), abs=0.06)
    at = apply_affine(affine, np.argwhere(loose)).mean(0)
    assert f"{loose.sum() * 0.008:.1f} ml" in check.warning
    assert f"R {round(at[0])}, A {round(at[1])}, S {round(at[2])} mm" in check.warning


def test_a_second_hole_is_found_with_its_volume_and_place(case):
    affine, _, skull, points, hole = case
    second = skull & _hole(points, (-0.7, 0.4, 0.6), 12)
    result = _check(skull & ~second, skull & hole, affine)
    check = _of(result, "missing_bone")
    assert check.rating == "poor"
    assert check.value == pytest.approx(second.sum() * 0.008, rel=0.2)
    right, front, up = apply_affine(affine, np.argwhere(second)).mean(0)
    named = [float(word) for word in re.findall(r"[RAS] (-?\d+)", check.warning)]
    assert np.linalg.norm(np.subtract(named, [right, front, up])) < 4


def test_a_burr_hole_of_10_mm_is_found_and_one_of_4_mm_is_not():
    affine, index = _grid((1.25, 1.25, 1.25), low=-60, top=80)
    skull, points = _shell(affine, index)
    hole = _hole(points)
    axis = np.array([-0.7, 0.4, 0.6]) / np.linalg.norm([-0.7, 0.4, 0.6])
    across = np.linalg.norm(points - (points @ axis)[..., None] * axis, axis=-1)
    for diameter, found in ((10, True), (4, False)):
        burr = (across < diameter / 2) & (points @ axis > 0)
        assert bool(_of(_check(skull & ~burr, skull & hole, affine), "missing_bone").value) == found


def test_an_implant_that_the_image_cuts_off_is_not_good(case):
    affine, index = _grid(top=66.0)
    skull, points = _shell(affine, index)
    vertex = _hole(points, (0, 0, 1), 25)
    check = _of(_check(skull, skull & vertex, affine), "image_end")
    assert check.rating == "poor"
    assert "end of the image" in check.warning
    whole_affine, _, whole, whole_points, _ = case
    assert _of(_check(whole, whole & _hole(whole_points, (0, 0, 1), 25), whole_affine), "image_end").value == 0


def test_a_thin_implant_a_step_and_a_bulge_are_told_apart():
    affine, index = _grid((1.8, 1.8, 1.8))
    skull, points = _shell(affine, index)
    hole = _hole(points)
    defective = skull & ~hole

    def result(shape):
        implant = shape & hole & ~defective
        return check_implant(Volume(defective, affine), Volume(defective | implant, affine), Volume(implant, affine))

    thin = result(_shell(affine, index, thick=2.8)[0])
    assert _of(thin, "thickness").rating != "good"
    assert _of(thin, "rim_step").rating == "good"
    raised = result(_shell(affine, index, out=4.0)[0])
    assert _of(raised, "thickness").rating == "good"
    assert _of(raised, "rim_step").rating == "poor"
    assert _of(raised, "symmetry").value == pytest.approx(4, abs=1.2)


def test_the_rim_is_judged_where_the_bone_around_it_is_nearly_plane():
    affine, index = _grid((1.5, 1.5, 1.5))
    points = apply_affine(affine, index) - [5, -7, 11]
    rough = 5.0 * (np.sin(points[..., 1] / 5) > 0) * (points[..., 2] < 45)  # a brow: folds of 5 mm beside half the rim
    skull, _ = _shell(affine, index, rough[..., None], THICK + rough[..., None])
    hole = _hole(points)
    assert _of(_check(skull, skull & hole, affine), "rim_step").rating == "good"
    outwards = skull & hole | _shell(affine, index, rough[..., None] + 4.0, THICK)[0] & hole
    step = _of(_check(skull & ~hole | outwards, outwards, affine), "rim_step")
    assert step.rating == "poor"
    assert step.value > 3
    named = [float(word) for word in re.findall(r"[RAS] (-?\d+)", step.warning)]
    edge = apply_affine(affine, np.argwhere(hole & skull & ndimage.binary_dilation(skull & ~hole, iterations=3)))
    assert np.linalg.norm(edge - named, axis=1).min() < 6, "a place at the rim, raised by 4 mm"


def test_a_plate_that_fills_a_cavity_is_told_from_one_that_leaves_it_open():
    affine, index = _grid((1.8, 1.8, 1.8))
    skull, points = _shell(affine, index)
    hole = _hole(points)
    deep, air = _shell(affine, index, thick=18.0)[0], _shell(affine, index, out=-5.0, thick=8.0)[0]
    defective = skull & ~hole

    def check(implant, printed=None):
        given = [Volume(mask, affine) for mask in (defective, defective | implant, implant)]
        mesh = None if printed is None else mask_surface(Volume(printed, affine))
        return _of(check_implant(*given, mesh), "thickness")

    solid, hollow = check(deep & hole), check(deep & hole & ~air)
    assert "solid" in check(deep & hole, printed=deep & hole).warning
    assert "solid" not in check(deep & hole, printed=skull & hole).warning, "a plate of 6 mm is printed"
    assert "solid and up to 1" in solid.warning
    assert solid.rating != "good"
    assert "solid" not in hollow.warning


@pytest.mark.parametrize("out", [5.0, -4.0])
def test_a_bulge_in_the_middle_is_named_though_the_rim_is_flush(out):
    affine, index = _grid((1.8, 1.8, 1.8))
    skull, points = _shell(affine, index)
    axis = np.array((0.8, 0.2, 0.6)) / np.linalg.norm((0.8, 0.2, 0.6))
    angle = np.degrees(np.arccos(np.clip(points @ axis / np.linalg.norm(points, axis=-1), -1, 1)))
    hole = angle < 22
    bulged, _ = _shell(affine, index, out=(out * np.exp(-((angle / 10) ** 2)))[..., None])
    defective = skull & ~hole
    implant = bulged & hole
    result = check_implant(Volume(defective, affine), Volume(defective | implant, affine), Volume(implant, affine))
    assert _of(result, "rim_step").rating == "good"
    assert _of(result, "bulge").rating != "good"
    assert 1.2 < _of(result, "bulge").value < abs(out)
    assert "bulges or dents" in _of(result, "bulge").warning


@pytest.mark.parametrize("out", [4.0, -3.0])
def test_the_difference_to_the_mirrored_side_is_signed_and_unknown_beside_the_implant(case, out):
    affine, index, skull, _points, hole = case
    defective = skull & ~hole
    implant = _shell(affine, index, out=out)[0] & hole & ~defective
    rays = np.array([[0.8, 0.2, 0.6], [0.75, 0.3, 0.6], [0.8, 0.1, 0.65], [-0.8, 0.2, 0.6]])
    outer = rays / np.linalg.norm(rays / (AXES + out), axis=1, keepdims=True) + [5, -7, 11]
    inner = rays[:1] / np.linalg.norm(rays[:1] / (AXES + out - THICK), axis=1, keepdims=True) + [5, -7, 11]
    mesh = Mesh(np.concatenate([outer, inner]), np.array([[0, 1, 2], [0, 1, 3], [2, 1, 4]]))
    volumes = Volume(defective, affine), Volume(defective | implant, affine), Volume(implant, affine)
    difference = check_implant(*volumes, mesh).difference_mm
    assert difference[[0, 1, 2, 4]] == pytest.approx(out, abs=1.2), "the inner surface as the outer one above it"
    assert np.isnan(difference[3]), "there is no implant on the other side"
    assert check_implant(*volumes).difference_mm is None


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("spacing", "degrees"), [((1.8, 1.8, 3.0), 0), ((1.8, 3.0, 1.8), 0), ((1.9, 1.9, 1.9), 20), ((1.8, 1.8, 5.0), 12)]
)
def test_grids_of_all_kinds_give_the_same_answers(spacing, degrees, flip):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    affine, index = _grid(spacing, turn)
    skull, points = _shell(affine, index)
    hole = _hole(points)
    if flip:
        last = np.array(skull.shape) - 1
        affine = affine @ np.block([[np.diag([-1.0, 1, -1]), (last * [1, 0, 1])[:, None]], [np.zeros((1, 3)), 1]])
        skull, hole = skull[::-1, :, ::-1], hole[::-1, :, ::-1]
    result = _check(skull, skull & hole, affine)
    for name in ("open_edge", "bone_overlap", "image_end", "thickness", "missing_bone", "symmetry"):
        assert _of(result, name).rating == "good", result.report()
    assert ("slices of" in _of(result, "voxel_size").warning) == (max(spacing) > 2)


def test_an_empty_implant_and_other_grids_are_refused(case):
    affine, _, skull, _, _ = case
    with pytest.raises(ValueError, match="needs an implant"):
        _check(skull, np.zeros_like(skull), affine)
    with pytest.raises(ValueError, match="one grid"):
        check_implant(Volume(skull[1:], affine), Volume(skull, affine), Volume(skull, affine))
