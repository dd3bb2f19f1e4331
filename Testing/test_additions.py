"""Claims about what is added to the plate: tabs and flange lie on bone that is thick enough, holes go through, a text
reads right. The skull is the shell of test_part, known exactly; what is measured is the mesh and the bone's voxels."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache

import numpy as np
import pytest
import trimesh
from mesh_check import faults
from scipy.spatial import cKDTree
from test_part import INNER, OUTER, as_trimesh, canonical, completed, gaps, lean

from SkullVAELib.completion.result import Completion
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.implant.engraving import text_lines
from SkullVAELib.implant.fixation import Candidates, Ground, bone_along
from SkullVAELib.implant.implant_mesh import (
    PrintableImplant,
    _addition_warnings,
    _hole_warnings,
    _opening_warnings,
    make_implant,
    openings,
)
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.report.result_files import RunResult

RIM = OUTER * np.sin(0.28)
"""Radius of the hole in mm at the outer surface."""


def world(completion: Completion, angle: float, turn: float, radius: float = OUTER) -> tuple[float, ...]:
    """RAS of a point of the shell: angle from the middle of the hole, and around it."""
    point = radius * np.array([np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle)])
    matrix = np.linalg.inv(completion.proposal.alignment)
    return tuple(matrix[:3, :3] @ point + matrix[:3, 3])


@cache
def made(*options: tuple[str, object]) -> PrintableImplant:
    return make_implant(completed("1 mm"), ImplantOptions.parse(**dict(options)))


@cache
def tabbed() -> PrintableImplant:
    """Four tabs, a hole for drainage and a text."""
    hole = world(completed("1 mm"), 0.12, 2.0)
    return make_implant(
        completed("1 mm"),
        ImplantOptions.parse(clearance=0.5, tabs="4", hole_at=[[*hole, 3.0]], engrave="l", engrave_size="8,0.6"),
    )


def flanged() -> PrintableImplant:
    return made(("clearance", 0.5), ("flange", "7,1.2,6"))


def depth_of_bone(completion: Completion, screw: dict) -> float:
    """Bone in mm along a screw's axis, by the nearest voxels."""
    points = np.array(screw["at_mm"]) + np.arange(-1, 12, 0.05)[:, None] * np.array(screw["direction"])
    inverse = np.linalg.inv(completion.bone.affine)
    index = np.round(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    inside = ((index >= 0) & (index < completion.bone.array.shape)).all(1)
    return 0.05 * np.count_nonzero(completion.bone.array[tuple(index[inside].T)])


def across_axis(mesh: Mesh, place: dict) -> tuple[np.ndarray, np.ndarray]:
    """Distance of the mesh's points from a hole's axis, and their position along it."""
    offset = mesh.points - np.array(place["at_mm"])
    along = offset @ np.array(place["direction"])
    return np.linalg.norm(offset - along[:, None] * np.array(place["direction"]), axis=1), along


@pytest.mark.parametrize("make", [tabbed, flanged])
def test_an_implant_with_additions_is_one_sound_body_with_as_many_openings_as_holes(make):
    (piece,) = make().pieces
    assert make().warnings == []
    assert faults(as_trimesh(piece.mesh)) == []
    holes = len(piece.figures["screws"]) + len(piece.figures["holes_at"])
    assert as_trimesh(piece.mesh).euler_number == 2 - 2 * holes
    assert len(piece.figures["screws"]) == (4 if make is tabbed else 6)


@pytest.mark.parametrize("make", [tabbed, flanged])
def test_tabs_and_flange_keep_the_clearance_and_lie_that_far_above_the_bone(make):
    mesh = make().pieces[0].mesh
    gap = gaps("1 mm", mesh)
    assert gap.min() > 0.5 - 0.03
    points = canonical(completed("1 mm"), mesh.points)
    beside = np.linalg.norm(points[:, :2], axis=1) > RIM + 1.5
    normals = mesh.vertex_normals() @ completed("1 mm").proposal.alignment[:3, :3].T
    inwards = np.einsum("nx,nx->n", normals, points / np.linalg.norm(points, axis=1, keepdims=True)) < -0.9
    below = gap[beside & inwards]
    assert len(below) > 200
    assert np.percentile(below, [5, 50, 95]) == pytest.approx([0.5, 0.5, 0.55], abs=0.06)
    # Nothing reaches below the outer table beside the hole.
    assert np.linalg.norm(points[lean(points, 0.28) > 2.5], axis=1).min() > OUTER - 0.3


@pytest.mark.parametrize(("make", "thickness"), [(tabbed, 1.5), (flanged, 1.2)])
def test_screw_holes_run_through_and_sit_evenly_over_thick_bone(make, thickness):
    (piece,) = make().pieces
    completion = completed("1 mm")
    screws = piece.figures["screws"]
    for screw in screws:
        across, along = across_axis(piece.mesh, screw)
        near = (across < 4) & (np.abs(along) < 4)
        assert across[near].min() == pytest.approx(0.8, abs=0.08)  # the hole, open all the way
        top = along[near & (across < 1.75)].min()
        assert across[near & (along < top + 0.15)].min() == pytest.approx(1.6, abs=0.25)  # the countersink's edge
        assert screw["thickness_mm"] == pytest.approx(thickness, abs=0.2)
        assert depth_of_bone(completion, screw) >= 3.0
        assert screw["bone_mm"] == pytest.approx(depth_of_bone(completion, screw), abs=0.7)
        at = canonical(completion, np.array([screw["at_mm"]]))[0]
        assert np.linalg.norm(at) == pytest.approx(OUTER, abs=0.6)
        outwards = -completion.proposal.alignment[:3, :3] @ screw["direction"]
        assert outwards @ at / np.linalg.norm(at) > 0.99
    turns = np.sort([np.arctan2(*canonical(completion, np.array([screw["at_mm"]]))[0, :2]) for screw in screws])
    steps = np.diff([*turns, turns[0] + 2 * np.pi])
    assert steps.min() > 0.7 * 2 * np.pi / len(screws)


def test_a_given_hole_has_its_place_and_diameter_and_one_too_near_the_rim_is_left_out():
    (piece,) = tabbed().pieces
    (hole,) = piece.figures["holes_at"]
    across, along = across_axis(piece.mesh, hole)
    inside = (along > 0.8) & (along < 5)
    assert across[inside].min() == pytest.approx(1.5, abs=0.06)
    assert hole["at_mm"] == pytest.approx(world(completed("1 mm"), 0.12, 2.0), abs=0.4)
    near_rim = world(completed("1 mm"), 0.27, 0.0)
    part = make_implant(completed("1 mm"), ImplantOptions.parse(hole_at=[list(near_rim)]))
    assert part.pieces[0].figures["holes_at"] == []
    (warning,) = part.warnings
    assert "is left out" in warning and "inside the rim" in warning and "2.0 mm" in warning


def test_holes_that_would_run_into_each_other_are_not_made():
    first, second = world(completed("1 mm"), 0.1, 0.0), world(completed("1 mm"), 0.1, 0.3)
    part = make_implant(completed("1 mm"), ImplantOptions.parse(hole_at=[[*first, 3.0], [*second, 3.0]]))
    (warning,) = part.warnings
    assert "another hole is too near" in warning
    assert len(part.pieces[0].figures["holes_at"]) == 1


def test_the_text_is_cut_into_the_inner_surface_and_reads_right_from_there():
    (piece,) = tabbed().pieces
    assert piece.figures["engraved"] == "L"
    completion = completed("1 mm")
    points = canonical(completion, piece.mesh.points)
    radius = np.linalg.norm(points, axis=1)
    beside = across_axis(piece.mesh, piece.figures["holes_at"][0])[0] > 2.5
    within = np.linalg.norm(points[:, :2], axis=1) < RIM - 4
    floor = piece.mesh.points[(radius > INNER + 0.5) & (radius < INNER + 0.7) & beside & within]
    assert len(floor) > 30
    # A viewer inside the head looks at the hole, the patient's front or top upwards: his right is forward times up.
    axis = completion.proposal.alignment[2, :3]
    up = np.array([0.0, 0, 1]) if abs(axis[2]) < 0.8 else np.array([0.0, 1, 0])
    up -= (up @ axis) * axis
    right = np.cross(axis, up / np.linalg.norm(up))
    seen = np.stack([(floor - floor.mean(0)) @ right, (floor - floor.mean(0)) @ up], 1)
    low = seen[:, 1] < seen[:, 1].min() + 2.0
    assert np.ptp(seen[:, 1]) == pytest.approx(8.0, abs=1.0)
    # The foot of an L runs to the right of its stem.
    assert np.ptp(seen[low, 0]) > 3.5
    assert seen[~low, 0].mean() < seen[low, 0].mean() - 1.0
    assert np.ptp(seen[~low, 0]) < 2.5


def test_every_character_can_be_drawn_and_differs_from_every_other():
    from SkullVAELib.implant.addition_options import CHARACTERS

    drawn = {character: text_lines(character + ".", 6.0).round(3).tobytes() for character in CHARACTERS}
    assert len(set(drawn.values())) == len(CHARACTERS)
    assert np.abs(text_lines("AB", 6.0)[..., 1]).max() == pytest.approx(2.5)


def thinned() -> Completion:
    """The shell, 2 mm thick where x > 0."""
    completion = completed("1 mm")
    index = np.argwhere(completion.bone.array)
    points = canonical(completion, index @ completion.bone.affine[:3, :3].T + completion.bone.affine[:3, 3])
    thin = (points[:, 0] > 0) & (np.linalg.norm(points, axis=1) < OUTER - 2)
    bone = completion.bone.array.copy()
    bone[tuple(index[thin].T)] = False
    return dataclasses.replace(completion, bone=completion.bone.with_array(bone))


def test_a_tab_over_thin_bone_or_off_the_bone_is_left_out_with_place_and_figure():
    completion = thinned()
    thin, thick = world(completion, 0.38, 0.0), world(completion, 0.38, np.pi)
    on_the_plate = world(completion, 0.1, 0.0)
    part = make_implant(
        completion,
        ImplantOptions.parse(clearance=0.5, screws="2.4", tab_at=[list(thin), list(thick), list(on_the_plate)]),
    )
    (screw,) = part.pieces[0].figures["screws"]
    assert screw["at_mm"] == pytest.approx(thick, abs=0.8)
    first, second = part.warnings
    place = "R {:.0f}, A {:.0f}, S {:.0f} mm".format(*thin)
    assert place in first and "less than 3 mm" in first
    figure = float(first.split("at most ")[1].split(" mm")[0])
    assert 1.0 <= figure <= 2.5
    assert "from the rim" in second


def test_even_tabs_move_to_thick_bone_or_are_left_out():
    part = make_implant(thinned(), ImplantOptions.parse(clearance=0.5, tabs="4", screws="2.4"))
    screws = part.pieces[0].figures["screws"]
    assert 2 <= len(screws) <= 3
    assert len(part.warnings) == 4 - len(screws)
    assert all("bone is at most" in warning or "support" in warning for warning in part.warnings)
    assert all(depth_of_bone(thinned(), screw) >= 3.0 for screw in screws)


def test_screws_that_others_leave_no_room_for_are_named_in_one_line():
    part = make_implant(completed("1 mm"), ImplantOptions.parse(clearance=0.5, tabs="12", flange="8,1,24"))
    (warning,) = part.warnings
    missing = 12 + 24 - len(part.pieces[0].figures["screws"])
    assert missing > 4 and warning.startswith(f"{missing} screws of the flange, such as that at R ")
    assert "are left out: other screws are too near. Use fewer screws or tabs." in warning


def test_there_is_no_screw_beyond_the_end_of_the_image_or_at_another_defect():
    completion = completed("1 mm")

    class Outer:
        def normal(self, points):
            return (points - centre) / np.linalg.norm(points - centre, axis=1, keepdims=True)

    centre = np.linalg.inv(completion.proposal.alignment)[:3, 3]
    points = np.array([world(completion, 0.45, 1.0), world(completion, 0.9, 0.0), world(completion, 0.45, 4.0)])
    ground = Ground(completion.bone, points[2:] + 1.0)
    found = Candidates.of(points, Outer(), ground, 3.0)
    assert found.valid(3.0).tolist() == [True, False, False]
    assert found.reason(np.array([1]), 3.0) == "the image ends there"
    assert found.reason(np.array([2]), 3.0).startswith("another defect is 1.7 mm")


def test_bone_along_a_ray_bridges_narrow_gaps_and_ends_at_wide_ones():
    from SkullVAELib.geometry.volume import Volume

    array = np.zeros((5, 5, 40), bool)
    array[:, :, 30:33] = array[:, :, 26:29] = array[:, :, 10:20] = True  # gaps of 1 and 6 mm
    start = np.array([[2.0, 2.0, 33.1], [2.0, 2.0, 39.0]])
    entry, thick = bone_along(Volume(array, np.eye(4)), start, np.tile([0.0, 0, -1], (2, 1)))
    assert entry[0] == pytest.approx(0.6, abs=0.05)
    assert thick[0] == pytest.approx(6.0, abs=0.3)
    assert np.isinf(entry[1]) and thick[1] == 0


def test_a_build_up_raises_the_outer_face_alone_and_tapers_to_the_rim():
    completion = completed("1 mm")
    plain = made(("clearance", 0.5)).pieces[0]
    region = (*world(completion, 0.0, 0.0), 14.0, 2.0)
    beside = (*world(completion, 0.42, 0.0), 5.0, 2.0)
    part = make_implant(completion, ImplantOptions.parse(clearance=0.5, build_up=[list(region), list(beside)]))
    (piece,) = part.pieces
    (warning,) = part.warnings
    assert "does not reach the implant" in warning
    assert faults(as_trimesh(piece.mesh)) == []
    points = canonical(completion, piece.mesh.points)
    radius, across = np.linalg.norm(points, axis=1), np.linalg.norm(points[:, :2], axis=1)
    top = radius > OUTER - 0.5
    assert radius[top & (across < 6)] == pytest.approx(OUTER + 2.0, abs=0.1)
    assert radius[top & (across > 14.5)].max() < OUTER + 0.1
    ring = (across > 11) & (across < 12) & (radius > OUTER)
    assert 0.5 < radius[ring].mean() - OUTER < 1.6
    lower = points[radius < INNER + 1]
    away = cKDTree(canonical(completion, plain.mesh.points)).query(lower)[0]
    assert np.percentile(away, 99) < 0.4
    assert plain.mesh.volume_ml + 0.3 < piece.mesh.volume_ml


def test_a_build_up_far_from_the_implant_is_left_out():
    completion = completed("1 mm")
    far = (*world(completion, 0.0, 0.0, OUTER + 100.0), 14.0, 2.0)
    part = make_implant(completion, ImplantOptions.parse(clearance=0.5, build_up=[list(far)]))
    (warning,) = part.warnings
    assert "is left out: it is 100 mm from the outer surface" in warning
    assert part.mesh.volume_ml == pytest.approx(made(("clearance", 0.5)).mesh.volume_ml, rel=0.005)


def test_the_pieces_of_a_split_plate_share_its_flange_and_keep_apart():
    part = make_implant(completed("1 mm"), ImplantOptions.parse(clearance=0.5, flange="5,1", split=26.0))
    assert len(part.pieces) >= 2
    for piece in part.pieces:
        assert faults(as_trimesh(piece.mesh)) == []
    first, second = (piece.mesh.points for piece in part.pieces[:2])
    assert cKDTree(first).query(second)[0].min() > 0.3
    assert all(piece.mesh.volume_ml > piece.figures["plate_ml"] + 0.05 for piece in part.pieces)


def test_a_tab_at_the_cut_between_pieces_stays_whole_with_its_screw():
    """Of eight places around a plate in four pieces, some are at a cut."""
    completion = completed("1 mm")
    at = [list(world(completion, 0.37, turn)) for turn in np.arange(8) * np.pi / 4]
    part = make_implant(completion, ImplantOptions.parse(clearance=0.5, split=26.0, tab_at=at))
    assert len(part.pieces) == 4 and not part.warnings
    assert sum(len(piece.figures["screws"]) for piece in part.pieces) == 8
    assert not any(faults(as_trimesh(piece.mesh)) for piece in part.pieces)
    trees = [cKDTree(piece.mesh.points) for piece in part.pieces]
    gaps = [one.query(other.data)[0].min() for one, other in itertools.combinations(trees, 2)]
    assert min(gaps) > 0.3


def test_the_self_check_and_the_thickness_of_the_plate_do_not_change_with_tabs():
    completion = completed("1 mm")
    plain = RunResult.of(completion, ImplantOptions(clearance_mm=0.5), (), "x", "m").with_implant()
    other = dataclasses.replace(plain, printable_implant=None).with_implant(
        ImplantOptions.parse(clearance=0.5, tabs="4", screws="2.4")
    )
    assert other.report["checks"] == plain.report["checks"]
    thickness = [each.report["implant"]["thickness_mm"]["mean"] for each in (plain, other)]
    assert thickness[0] == pytest.approx(thickness[1], abs=0.1)
    (piece,) = other.report["printable_implant"]["pieces"]
    assert piece["volume_ml"] > piece["plate_ml"] + 0.1
    assert other.report["printable_implant"]["additions"]["tabs"] == 4
    assert len(piece["screws"]) == 4


def test_a_text_that_does_not_fit_is_left_out_with_its_size():
    part = made(("clearance", 0.5), ("engrave", "A TEXT THAT IS FAR LONG"))
    assert part.pieces[0].figures["engraved"] == ""
    assert "113 x 6 mm" in part.warnings[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tabs": "four"}, "cannot be parsed"),
        ({"tabs": "4.5"}, "not whole"),
        ({"tabs": "40"}, "out of range"),
        ({"tabs": "4,1.5,2"}, "3 numbers"),
        ({"flange": "8"}, "1 numbers"),
        ({"flange": "3,1,4"}, "too narrow"),
        ({"screws": "9"}, "out of range"),
        ({"tab_at": ["1,2"]}, "2 numbers"),
        ({"tab_at": [[1, 2, float("nan")]]}, "not finite"),
        ({"hole_at": ["1,2,3,40"]}, "out of range"),
        ({"hole_at": [5]}, "'5' cannot be parsed"),
        ({"hole_at": [None]}, "cannot be parsed"),
        ({"build_up": ["1,2,3,4"]}, "4 numbers"),
        ({"build_up": ["1,2,3,20,40"]}, "out of range"),
        ({"engrave": "ÄÖ"}, "cannot be engraved"),
        ({"engrave": "A" * 30}, "30 characters"),
        ({"engrave_size": "1"}, "out of range"),
        ({"tabs": "4", "clearance": 3.0}, "clearance"),
    ],
)
def test_options_that_make_no_sense_are_refused_with_a_remedy(options, words):
    with pytest.raises(SkullVAEError) as error:
        ImplantOptions.parse(**options)
    assert words in str(error.value)


def test_points_of_a_request_and_of_the_command_line_are_the_same():
    text = ImplantOptions.parse(tab_at=["1,2,3"], hole_at=["1,2,3"], build_up=["1,2,3,20,4"], engrave="a-1")
    lists = ImplantOptions.parse(tab_at=[[1, 2, 3]], hole_at=[[1, 2, 3, 2]], build_up=[[1, 2, 3, 20, 4]], engrave="A-1")
    assert text == lists
    assert ImplantOptions.parse(tabs=None, tab_at=[], engrave=None) == ImplantOptions()


def test_openings_of_a_body_are_counted_and_told_apart_by_what_made_them():
    for shape, count in ((trimesh.creation.icosphere(), 0), (trimesh.creation.torus(5.0, 1.0), 1)):
        assert openings(Mesh(shape.vertices, shape.faces)) == count
    assert _opening_warnings(0) == [] and "too thin" in _opening_warnings(2)[0]
    # Openings that holes make are not a fault.
    assert _addition_warnings([0, 6, 0], 6) == []
    assert _hole_warnings("perfusion holes", 9, 9) == []
    # Each cause has its own warning.
    assert [("enclose" in text, "pass through" in text) for text in _addition_warnings([1, 6, 0], 6)] == [(True, False)]
    assert [("enclose" in text, "2 of the" in text) for text in _addition_warnings([0, 4, 0], 6)] == [(False, True)]
    (text,) = _addition_warnings([-1, 6, 1], 6)
    assert text.startswith("The engraving cuts through")
