"""Claims about the mould: closed halves whose cavity is the implant, that fit one way only and release the cast.

The plates are spherical shells, so that direction, undercut and volume are known.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import trimesh
from mesh_check import faults, read
from test_part import completed
from vtkmodules.vtkFiltersCore import vtkImplicitPolyDataDistance

from SkullVAELib.cli.main import main
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.exit_codes import BAD_INPUT
from SkullVAELib.core.progress import Stages
from SkullVAELib.implant import mould
from SkullVAELib.implant.implicit_solid import FineGrid, contour, rounded_intersection
from SkullVAELib.implant.mould import Mould, mould_of, parting_direction
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.implant.tooling import ToolingOptions
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.mesh.vtk_conversion import polydata_from_mesh
from SkullVAELib.report.case_report import _moulds
from SkullVAELib.report.result_files import OutputOptions, RunResult, write_files

OUTER, INNER = 24.0, 20.0
"""Radii of the shell that the plates are cut from, mm."""

TURN = trimesh.transformations.euler_matrix(0.4, -0.7, 1.1)[:3, :3]
CENTRE = np.array([40.0, -20.0, 130.0])
AXIS = TURN @ [0, 0, 1.0]


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """The coarsest grid that the mould is made on, to be fast."""
    monkeypatch.setattr(mould, "STEP_MM", (0.5, 0.5))


def plate(half_angle: float) -> Mesh:
    """A spherical plate about the axis, up to an angle from it."""
    grid_shape = (108, 108, 108)
    affine = np.eye(4)
    affine[:3, :3] = TURN * 0.5
    affine[:3, 3] = CENTRE - TURN @ [27.0, 27.0, 27.0]
    x, y, z = (np.indices(grid_shape) * 0.5 - 27.0).astype(np.float32)
    radius, across = np.sqrt(x * x + y * y + z * z), np.hypot(x, y)
    shell = np.maximum(radius - OUTER, INNER - radius)
    cone = across * np.cos(half_angle) - z * np.sin(half_angle)
    if half_angle > np.pi / 2:
        cone = radius * np.sin(np.arctan2(across, z) - half_angle)
    return contour(rounded_intersection([shell, cone], 0.8), FineGrid(affine, grid_shape, np.zeros(0, int)))


@cache
def cap() -> tuple[Mesh, Mould]:
    mesh = plate(0.75)
    return mesh, mould_of(mesh, AXIS, ToolingOptions(mould=True, mould_clearance_mm=0.3, mould_wall_mm=6.0))


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.points, mesh.faces, process=False)


def signed(mesh: Mesh, points: np.ndarray) -> np.ndarray:
    """(N,) mm outside a closed mesh, by VTK."""
    distance = vtkImplicitPolyDataDistance()
    distance.SetInput(polydata_from_mesh(mesh))
    return np.array([distance.EvaluateFunction(point) for point in points])


def test_the_halves_are_closed_and_their_cavity_is_the_implant():
    mesh, made = cap()
    for half in (made.a, made.b):
        assert faults(as_trimesh(half)) == []
    local = (mesh.points - CENTRE) @ made.axes
    # The pouring channel is at the apex; vents are anywhere, but small.
    away = mesh.points[np.linalg.norm(local[:, :2], axis=1) > 5.0][::20]
    error = np.abs([signed(half, away) for half in (made.a, made.b)]).min(axis=0)
    assert np.percentile(error, 95) < 0.1
    figures = made.figures["cavity_error_mm"]
    assert figures["p95"] < 0.07 and figures["max_off_parting"] < 0.12 and figures["max"] < 0.5
    # Neither half fills the implant.
    assert min(signed(half, away).min() for half in (made.a, made.b)) > -0.3


def test_a_cap_parts_along_its_axis_and_comes_out():
    mesh, made = cap()
    assert made.axes[:, 2] @ AXIS > np.cos(np.radians(3))
    assert made.figures["undercut_mm2"] < 3 and made.figures["blocking_mm2"] == 0
    assert made.figures["overhang_mm2"] < 1
    assert made.warnings == []
    points = mesh.points[::200]
    for half, sign in ((made.a, 1), (made.b, -1)):
        for along in np.arange(0.0, 14.0, 2.0):
            assert signed(half, points + sign * along * made.axes[:, 2]).min() > -0.3


def test_the_cement_is_that_of_the_implant_and_its_channels():
    _, made = cap()
    figures = made.figures
    cone = 2 * np.pi * (1 - np.cos(0.75)) / 3 * (OUTER**3 - INNER**3) / 1000
    assert figures["implant_ml"] == pytest.approx(cone, rel=0.03)
    # A pouring channel through 6 mm, with a funnel 3.5 mm high, and two vents.
    r, top, high = mould.POUR_MM, mould.POUR_TOP_MM, mould.POUR_TOP_MM - mould.POUR_MM
    funnel = np.pi * (r * r * (6.0 - high) + (r * r + r * top + top * top) * high / 3) / 1000
    assert funnel < figures["channels_ml"] < funnel + 0.3
    assert figures["cement_ml"] == pytest.approx(figures["implant_ml"] + figures["channels_ml"], abs=0.011)
    assert figures["vents"] == 2


def test_pins_have_the_clearance_and_the_halves_fit_one_way_only():
    _, made = cap()
    assert len(made.pins) >= 3
    for pin in made.pins:
        radii = []
        for half in (made.a, made.b):
            local = half.points @ made.axes
            across = np.linalg.norm(local[:, :2] - pin.at, axis=1)
            near = across < pin.radius + 1.0
            # Walls of the pin and of its socket: between their ends, seen from the side.
            upright = np.abs(half.vertex_normals() @ made.axes[:, 2]) < 0.05
            radii.append(np.median(across[near & upright]))
        assert radii[0] == pytest.approx(pin.radius, abs=0.03)
        assert radii[1] - radii[0] == pytest.approx(0.3, abs=0.04)
    # Turned by half a turn, a pin does not meet a socket that it fits into.
    places = np.array([pin.at for pin in made.pins])
    middle = (made.a.points @ made.axes)[:, :2]
    middle = (middle.min(0) + middle.max(0)) / 2
    for turn in (np.pi / 2, np.pi, 3 * np.pi / 2):
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        moved = (places - middle) @ rotation.T + middle
        fits = [
            any(np.linalg.norm(at - pin.at) + own.radius <= pin.radius + 0.3 for pin in made.pins)
            for at, own in zip(moved, made.pins, strict=True)
        ]
        assert not all(fits)


def test_a_plate_that_reaches_around_has_an_undercut():
    mesh = plate(2.2)  # 126 degrees from the axis: the inner core is held
    made = mould_of(mesh, AXIS, ToolingOptions(mould=True))
    assert as_trimesh(made.a).is_watertight and as_trimesh(made.b).is_watertight
    # Whichever way it parts, the plate closes over a part of the inside.
    assert made.figures["blocking_mm2"] > 100
    assert made.figures["undercut_mm"] > 2
    assert any("hold the cast" in text for text in made.warnings)


def test_the_direction_does_not_depend_on_where_the_search_starts():
    mesh = plate(0.75)
    for start in (AXIS, TURN @ [np.sin(0.5), 0, np.cos(0.5)]):
        assert parting_direction(mesh, start) @ AXIS > np.cos(np.radians(5))


@cache
def two_pieces() -> RunResult:
    completion = completed(twice=True)
    options = ImplantOptions(clearance_mm=0.5)
    return RunResult.of(completion, options, ("stl",), "head.nrrd", "m.safetensors").with_implant()


def test_each_piece_has_a_mould_of_its_own(tmp_path):
    result = two_pieces()
    assert len(result.printable.pieces) == 2
    made = result.write_tooling(tmp_path, ToolingOptions(mould=True))
    names = ["mould_2_a.stl", "mould_2_b.stl", "mould_a.stl", "mould_b.stl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert faults(read(tmp_path / name)) == []
    pieces = made.report["tooling"]["mould"]["pieces"]
    assert [piece["files"] for piece in pieces] == [names[2:], names[:2]]
    for piece, entry in zip(result.printable.pieces, pieces, strict=True):
        assert entry["implant_ml"] == pytest.approx(piece.mesh.volume_ml, abs=0.01)
        assert entry["cavity_error_mm"]["p95"] < 0.1
    json.dumps(made.report["tooling"], allow_nan=False)
    page = _moulds(pieces)
    assert all(name in page for name in names) and f"{pieces[0]['cement_ml']:.1f}" in page


def test_a_mould_that_cannot_be_made_never_costs_the_implant(tmp_path, monkeypatch):
    def fail(*arguments):
        raise ArithmeticError("no mould today")

    monkeypatch.setattr(mould, "mould_of", fail)
    result = write_files(two_pieces(), tmp_path, OutputOptions(tooling=ToolingOptions(mould=True)), Stages({}))
    assert (tmp_path / "implant.stl").exists() and not list(tmp_path.glob("mould*"))
    assert any("The mould is left out" in text and "no mould today" in text for text in result.report["warnings"])
    assert result.report["tooling"] == {}


def test_holes_become_thin_pins_and_a_warning(tmp_path):
    result = two_pieces().with_implant(ImplantOptions(hole_diameter_mm=3.0, hole_pitch_mm=8.0, hole_margin_mm=2.0))
    made = result.write_tooling(tmp_path, ToolingOptions(mould=True))
    assert any("holes of the implant are thin pins" in text for text in made.report["warnings"])


BAD = {"clearance": {"mould_clearance": 2.0}, "wall": {"mould_wall": 1.0}, "not a number": {"mould_wall": float("nan")}}


@pytest.mark.parametrize("values", BAD.values(), ids=BAD)
def test_options_out_of_range_are_rejected(values):
    with pytest.raises(SkullVAEError):
        ToolingOptions.parse(mould=True, **values)


def test_the_command_line_rejects_them_in_one_line(tmp_path, capsys):
    assert main(["complete", "head.nrrd", "-o", str(tmp_path), "--mould", "--mould-wall", "1"]) == BAD_INPUT
    assert "wall of 1 mm is out of range" in capsys.readouterr().err


def test_each_requested_part_is_made_by_itself():
    options = ToolingOptions.parse(mould=True, mould_wall=8.0, ring=10.0)
    parts = dict(options.each())
    assert parts["mould"] == replace(options, ring_mm=None)
    assert parts["ring"] == replace(options, mould=False)
    assert not ToolingOptions().any and options.any


def test_the_label_is_not_mirrored():
    """Seen from outside, the straight stem of the B is on its left."""
    _, made = cap()
    local, upwards = made.b.points @ made.axes, made.b.vertex_normals() @ made.axes[:, 2]
    floor = np.abs(local[:, 2] - (local[:, 2].max() - mould.LABEL_DEPTH_MM)) < 0.05
    across = local[floor & (upwards > 0.9), 0]
    width = mould.LABEL_STROKE_MM
    left, right = np.mean(across < across.min() + width), np.mean(across > across.max() - width)
    assert left > 1.3 * right > 0
