"""Claims about insertion: the direction is found, what blocks it is measured and removed, and nothing else is.

The skull is a shell with a round hole about +z. Its wall leans: where the hole narrows outwards, bone blocks the
implant by a known amount.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import trimesh
from mesh_check import faults
from test_part import INNER, OUTER, as_trimesh, canonical, completed
from vtkmodules.vtkFiltersCore import vtkImplicitPolyDataDistance

from SkullVAELib.completion.result import Completion
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.implant.implant_mesh import BLOCKED_MM, ImplantPiece, _insertion_warnings, make_implant
from SkullVAELib.implant.insertion import TOLERANCE_MM
from SkullVAELib.implant.options import INSERTABLE_MM, ImplantOptions
from SkullVAELib.mesh.isosurface import bone_surface
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.mesh.vtk_conversion import polydata_from_mesh
from SkullVAELib.report.case_report import _insertion

RADIUS = 16.0
"""Radius of the hole half-way through the shell, mm."""

TILT = trimesh.transformations.rotation_matrix(0.35, [0, 1, 0])[:3, :3]


def wall(points: np.ndarray, slope: float, turn: np.ndarray) -> np.ndarray:
    """(N,) mm outside the hole's wall, negative in the hole; the radius grows outwards by `slope` for each mm."""
    turned = points @ turn
    across, along = np.linalg.norm(turned[:, :2], axis=1), turned[:, 2] - (OUTER + INNER) / 2
    return (across - RADIUS - slope * along) / np.hypot(1, slope)


@cache
def holed(slope: float, tilted: bool = False) -> Completion:
    """A shell with a hole whose wall has a slope, completed; tilted: the axis of the hole is not that of the plate."""
    base = completed()
    assert base.proposal is not None
    turn = TILT if tilted else np.eye(3)
    index = np.indices(base.bone.array.shape).reshape(3, -1).T
    points = canonical(base, apply_affine(base.bone.affine, index))
    if tilted:  # through the middle of the plate
        points = points - np.array([0, 0, (OUTER + INNER) / 2])
        points = points + turn @ np.array([0, 0, (OUTER + INNER) / 2])
    outside = wall(points, slope, turn).reshape(base.bone.array.shape)
    shell = base.completed.array
    bone = base.bone.with_array(shell & (outside > 0))
    score = np.clip((3.0 - outside) / 4, -1, 1).astype(np.float32)
    return replace(
        base,
        bone=bone,
        implant=bone.with_array(shell & (outside <= 0)),
        proposal=replace(base.proposal, score=bone.with_array(score)),
    )


@cache
def made(slope: float, tilted: bool = False, **options: float) -> ImplantPiece:
    implant = make_implant(holed(slope, tilted), ImplantOptions(**options), insertion=True)
    assert len(implant.pieces) == 1
    assert all("blocks the insertion" in warning for warning in implant.warnings)
    return implant.pieces[0]


@cache
def bone(slope: float) -> vtkImplicitPolyDataDistance:
    distance = vtkImplicitPolyDataDistance()
    distance.SetInput(polydata_from_mesh(bone_surface(holed(slope).bone)))
    return distance


def least_distance(mesh: Mesh, direction: np.ndarray, slope: float) -> float:
    """Least distance in mm between the mesh on its way out and the surface of the bone, by VTK, in steps of 0.5 mm."""
    points = mesh.points[:: max(1, len(mesh.points) // 500)]
    return min(
        bone(slope).EvaluateFunction(point) for along in np.arange(0, 10, 0.5) for point in points - along * direction
    )


def test_a_plate_in_a_hole_that_widens_is_insertable_along_its_normal():
    figures = made(0.3, clearance_mm=0.3).figures["insertion"]
    assert figures["insertable"] and figures["blocked_mm2"] == 0 and figures["undercut_mm"] == 0
    inwards = -np.array([0, 0, 1.0]) @ holed(0.3).proposal.alignment[:3, :3]
    assert np.dot(figures["direction"], inwards) > np.cos(np.radians(3))
    assert least_distance(made(0.3, clearance_mm=0.3).mesh, np.array(figures["direction"]), 0.3) > 0.15


def test_the_direction_follows_the_axis_of_the_hole():
    completion = holed(0.05, True)
    figures = made(0.05, True, clearance_mm=0.3).figures["insertion"]
    axis = (TILT @ [0, 0, 1.0]) @ completion.proposal.alignment[:3, :3]
    # The play of the clearance, and the slope of the wall, leave it a cone of 9 degrees.
    assert np.dot(figures["direction"], -axis) > np.cos(np.radians(12))
    assert figures["angle_degrees"] == pytest.approx(15, abs=8)
    assert figures["insertable"]


def test_what_blocks_is_measured():
    """A hole that narrows outwards by 0.3 mm for each mm: at the inner face the plate is too wide by 1.8 mm."""
    figures = made(-0.3).figures["insertion"]
    assert not figures["insertable"]
    height, slant = OUTER - INNER, np.hypot(1, 0.3)
    assert figures["undercut_mm"] == pytest.approx(0.3 * height, abs=0.6)
    # The wall is blocked, but for what overlaps by less than the tolerance.
    blocked = 2 * np.pi * RADIUS * (height - TOLERANCE_MM / 0.3) * slant
    assert figures["blocked_mm2"] == pytest.approx(blocked, rel=0.3)


@pytest.mark.parametrize("clearance", [0.0, 0.5])
def test_after_the_cut_it_goes_in_without_collision(clearance):
    before, after = made(-0.3, clearance_mm=clearance), made(-0.3, clearance_mm=clearance, insertable_mm=3.0)
    figures = after.figures["insertion"]
    assert figures["insertable"]
    assert least_distance(before.mesh, np.array(before.figures["insertion"]["direction"]), -0.3) < -0.3
    assert least_distance(after.mesh, np.array(figures["direction"]), -0.3) > -0.15
    assert faults(as_trimesh(after.mesh)) == []
    # Not much more is removed than has to be: a wedge at the rim.
    height = OUTER - INNER
    wedge = 2 * np.pi * (RADIUS + 0.5) * 0.3 * height**2 / 2 / 1000
    lost = before.mesh.volume_ml - after.mesh.volume_ml
    assert 0.3 * wedge < lost < 1.4 * wedge
    removed = figures["removed"]
    assert removed["max_mm"] == pytest.approx(0.3 * height - clearance / 2, abs=0.6)
    assert 0.1 < removed["mean_mm"] < removed["max_mm"]
    assert removed["area_mm2"] > 100
    assert _insertion(figures).startswith("free at 0&deg; to the normal; gap of up to")
    assert _insertion(before.figures["insertion"]).startswith("blocked on ")


def test_what_does_not_block_stays_as_it_is():
    plain = made(0.3, clearance_mm=0.3)
    cut = made(0.3, clearance_mm=0.3, insertable_mm=3.0)
    assert cut.mesh.volume_ml == pytest.approx(plain.mesh.volume_ml, rel=1e-4)
    assert cut.figures["insertion"]["removed"] == {"area_mm2": 0.0, "mean_mm": 0.0, "max_mm": 0.0}


def test_no_more_is_removed_than_allowed_and_the_rest_is_a_warning():
    implant = make_implant(holed(-0.3), ImplantOptions(insertable_mm=0.6))
    figures = implant.pieces[0].figures["insertion"]
    assert not figures["insertable"]
    assert figures["removed"]["mean_mm"] < 0.8
    assert any("still blocks the insertion" in text for text in implant.warnings)


def test_an_implant_that_bone_blocks_deeply_is_warned_of_by_default_and_the_remedy_named():
    blocked = {"insertable": False, "blocked_mm2": 177.0, "undercut_mm": BLOCKED_MM + 0.1}
    (text,) = _insertion_warnings(blocked, None)
    assert "blocks the insertion" in text and "177 mm2, up to 1.1 mm deep" in text and "--insertable" in text
    assert _insertion_warnings(blocked | {"undercut_mm": BLOCKED_MM}, None) == []
    assert _insertion_warnings(blocked | {"insertable": True}, None) == []
    (text,) = _insertion_warnings(blocked | {"undercut_mm": 0.4}, 3.0)
    assert "still blocks the insertion" in text and "--insertable" not in text


def test_without_the_option_the_mesh_is_the_same_and_the_figures_are_left_out():
    implant = make_implant(holed(-0.3), ImplantOptions())
    assert "insertion" not in implant.pieces[0].figures
    assert np.array_equal(implant.mesh.points, made(-0.3).mesh.points)


def test_the_option_is_read_with_and_without_a_length():
    from argparse import ArgumentParser

    from SkullVAELib.cli.case_options import add_case_options, as_arguments, parse_case_options

    parser = ArgumentParser()
    actions = add_case_options(parser)
    for given, expected in (([], None), (["--insertable"], INSERTABLE_MM), (["--insertable", "1.5"], 1.5)):
        options = parser.parse_args(given)
        assert parse_case_options(options)[0].insertable_mm == expected
        assert parser.parse_args(as_arguments(options, actions)) == options
    with pytest.raises(SkullVAEError, match="cut for the insertion of 50 mm"):
        ImplantOptions.parse(insertable=50)
