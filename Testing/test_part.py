"""Claims about the part: sound meshes, clearance and thickness to a tenth of a millimetre, on grids of every kind.

The skull is a shell whose shape is known exactly, with a hole whose wall leans; so is what should come out.
"""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mesh_check import faults, self_intersections
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.completion.result import Completion, ImplantShape
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.grey_levels import GreyLevels
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.implant.implant_mesh import ImplantPiece, make_implant
from SkullVAELib.implant.implicit_solid import FineGrid, remove_thin_features
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.mesh.isosurface import bone_surface
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.report.result_files import RunResult
from SkullVAELib.shape.warped import WarpedShape

OUTER, INNER = 62.0, 56.0
"""Radii of the shell in mm: a plate 6 mm thick."""

TURN = trimesh.transformations.euler_matrix(0.3, -0.5, 0.9)[:3, :3]


def grid(spacing, turn=None, flip=False) -> np.ndarray:
    """(4, 4) voxel index -> RAS mm, somewhere in the world."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turn is None else turn) * spacing * np.array([-1 if flip else 1, 1, 1])
    affine[:3, 3] = [40, -120, 300]
    return affine


GRIDS = {
    "0.5 mm": grid([0.5, 0.5, 0.5]),
    "1 mm": grid([1.0, 1, 1]),
    "anisotropic": grid([0.7, 0.7, 1.2]),
    "tilted": grid([0.8, 0.9, 1.0], TURN),
    "tilted, mirrored": grid([0.9, 0.7, 0.8], TURN, flip=True),
}


def lean(points: np.ndarray, half_angle: float) -> np.ndarray:
    """(N,) mm outside the wall of a conical hole about +z, negative in the hole; points (N, 3) from the centre."""
    across, along = np.linalg.norm(points[:, :2], axis=1), points[:, 2]
    return across * np.cos(half_angle) - along * np.sin(half_angle)


class Shell:
    """Stands for the conformed prior: canonical mm are mm from the centre of the shell."""

    def field(self, points: torch.Tensor) -> torch.Tensor:
        radius = points.norm(dim=1)
        return torch.maximum(radius - OUTER, INNER - radius)

    at_voxels = WarpedShape.at_voxels


@cache
def completed(name: str = "1 mm", half_angle: float = 0.28, twice: bool = False) -> Completion:
    """A shell with a hole, completed; twice: with two of them."""
    affine = GRIDS[name]
    centre = affine[:3, 3] + affine[:3, :3] @ (np.array([44.0, 44.0, -30.0]) / np.linalg.norm(affine[:3, :3], axis=0))
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.linalg.det(axes) < 0:
        axes = axes * [-1, 1, 1]
    shape = tuple(np.ceil(np.array([88, 88, 44]) / np.linalg.norm(affine[:3, :3], axis=0)).astype(int))
    index = np.indices(shape).reshape(3, -1).T
    alignment = np.eye(4)
    alignment[:3, :3], alignment[:3, 3] = axes.T, -axes.T @ centre
    points = (index @ affine[:3, :3].T + affine[:3, 3]) @ alignment[:3, :3].T + alignment[:3, 3]
    radius = np.linalg.norm(points, axis=1)
    shell = (radius < OUTER) & (radius > INNER)
    hole = lean(points, half_angle)
    if twice:
        other = points @ trimesh.transformations.rotation_matrix(0.5, [0, 1, 0])[:3, :3].T
        hole = np.minimum(lean(points @ trimesh.transformations.rotation_matrix(-0.3, [0, 1, 0])[:3, :3].T, 0.2),
                          lean(other, 0.12))  # fmt: skip
    bone = shell & (hole > 0)
    implant = shell & ~bone
    score = np.clip((3.0 - hole) / 4, -1, 1).astype(np.float32)
    volume = Volume(bone.reshape(shape), affine)
    return Completion(
        volume,
        volume.with_array(shell.reshape(shape)),
        volume.with_array(implant.reshape(shape)),
        {"bone": {"threshold_hu": None}},
        True,
        ImplantShape(Shell(), alignment, volume.with_array(score.reshape(shape)), Shell()),
    )


def canonical(completion: Completion, points: np.ndarray) -> np.ndarray:
    """Points (N, 3) in RAS mm seen from the centre of the shell, the hole about +z."""
    matrix = completion.proposal.alignment
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.points, mesh.faces, process=False)


_MADE: dict[tuple, tuple[Completion, ImplantPiece]] = {}


def one(completion: Completion, **options) -> ImplantPiece:
    """The only piece of an implant, made once for all tests that ask for the same."""
    key = (id(completion), *sorted(options.items()))
    if key not in _MADE:
        part = make_implant(completion, ImplantOptions(**options))
        assert len(part.pieces) == 1, part.warnings
        # With the completion, so that no other one gets its id.
        _MADE[key] = completion, part.pieces[0]
    return _MADE[key][1]


@cache
def bone_cloud(name: str) -> cKDTree:
    """A dense sampling of the surface of the bone near the hole, five points or more in a square millimetre."""
    completion = completed(name)
    bone = as_trimesh(bone_surface(completion.bone))
    near = np.abs(lean(canonical(completion, bone.triangles_center), 0.28)) < 8
    cloud = trimesh.sample.sample_surface(bone.submesh([near], append=True), 120_000, seed=0)[0]
    return cKDTree(np.concatenate([cloud, bone.vertices]))


def gaps(name: str, mesh: Mesh) -> np.ndarray:
    """(N,) mm from points of the mesh to the nearest of a dense sampling of the bone's surface, 3 at most."""
    return np.minimum(bone_cloud(name).query(mesh.points, distance_upper_bound=3.0)[0], 3.0)


def ray_thickness(mesh: Mesh, points: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(N,) distance along rays from just outside (N, 3) between the first and the second crossing of the triangles."""
    a, b, c = (mesh.points[mesh.faces[:, k]] for k in range(3))
    middle, size = (a + b + c) / 3, np.linalg.norm(b - a, axis=1).max() + np.linalg.norm(c - a, axis=1).max()
    out = []
    for start, along in zip(points, directions, strict=True):
        offset = middle - start
        near = np.linalg.norm(offset - (offset @ along)[:, None] * along, axis=1) < size
        edge, other, to = b[near] - a[near], c[near] - a[near], start - a[near]
        p, q = np.cross(along, other), np.cross(to, edge)
        scale = (edge * p).sum(1)
        u, v, t = (to * p).sum(1) / scale, q @ along / scale, (other * q).sum(1) / scale
        hits = np.unique(np.round(t[(u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)], 6))
        out.append(hits[1] - hits[0] if len(hits) > 1 else np.nan)
    return np.array(out)


REQUESTS = {
    "as it is": {},
    "with clearance": {"clearance_mm": 0.5},
    "thin": {"thickness": "constant", "thickness_mm": 3.0, "clearance_mm": 0.5},
    "thick": {"thickness": "minimum", "thickness_mm": 8.0, "clearance_mm": 0.5},
    "lowered": {"under_contour_mm": 1.0, "clearance_mm": 0.3},
    "perforated": {"hole_diameter_mm": 2.0, "hole_pitch_mm": 8.0, "clearance_mm": 0.5},
}


@pytest.mark.parametrize(("name", "request_"), [*zip(GRIDS, REQUESTS, strict=False), ("1 mm", "perforated")])
def test_every_part_is_one_sound_body(name, request_):
    piece = one(completed(name), **REQUESTS[request_])
    assert faults(as_trimesh(piece.mesh)) == []


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(sorted(GRIDS)),
    half_angle=st.sampled_from([0.12, 0.2, 0.35]),
    clearance=st.floats(0, 2),
    thickness=st.sampled_from([("patient", None), ("constant", 2.0), ("constant", 7.0), ("minimum", 4.0)]),
    under=st.floats(0, 2),
    holes=st.one_of(st.none(), st.floats(1.0, 4.0)),
    split=st.one_of(st.none(), st.floats(20, 40)),
)
def test_whatever_is_asked_for_every_piece_is_one_sound_body(
    name, half_angle, clearance, thickness, under, holes, split
):
    options = ImplantOptions(
        clearance_mm=clearance, thickness=thickness[0], thickness_mm=thickness[1], under_contour_mm=under,
        hole_diameter_mm=holes, hole_pitch_mm=7.0, hole_margin_mm=1.0, split_mm=split,
    )  # fmt: skip
    part = make_implant(completed(name, half_angle), options)
    assert part.pieces
    for piece in part.pieces:
        assert faults(as_trimesh(piece.mesh)) == []
        assert as_trimesh(piece.mesh).euler_number == 2 - 2 * piece.figures["holes"]


def test_the_judge_of_meshes_sees_two_balls_that_cut_each_other():
    ball = trimesh.creation.icosphere(3, 10.0)
    both = trimesh.util.concatenate([ball, ball.copy().apply_translation([8.0, 0.3, 0.2])])
    assert self_intersections(both) > 20
    assert faults(both, bodies=2) != []
    assert faults(ball) == []
    assert "2 bodies instead of 1" in faults(both)
    ball.update_faces(np.arange(len(ball.faces)) > 0)
    assert "not watertight" in faults(ball)


@pytest.mark.parametrize(
    ("name", "clearance"), [*((name, 0.5) for name in GRIDS), ("1 mm", 0.3), ("tilted, mirrored", 1.0)]
)
def test_the_clearance_to_bone_is_what_was_asked_for(name, clearance):
    completion = completed(name)
    piece = one(completion, clearance_mm=clearance)
    distance = gaps(name, piece.mesh)
    assert distance.min() > clearance - 0.1
    # ... and no more than asked for: along the wall of the hole it is met, not exceeded.
    at = canonical(completion, piece.mesh.points)
    radius = np.linalg.norm(at, axis=1)
    wall = (radius > INNER + 1.5) & (radius < OUTER - 1.5) & (np.abs(lean(at, 0.28)) < 2)
    assert wall.sum() > 50
    assert np.percentile(distance[wall], 95) < clearance + 0.1
    assert piece.figures["clearance_mm"]["min"] == pytest.approx(distance.min(), abs=0.05)


@pytest.mark.parametrize("name", GRIDS)
def test_the_clearance_holds_to_the_bone_itself_not_to_its_voxels(name):
    completion = completed(name)
    at = canonical(completion, one(completion, clearance_mm=0.5).mesh.points)
    radius = np.linalg.norm(at, axis=1)
    wall = (radius > INNER + 1.5) & (radius < OUTER - 1.5) & (np.abs(lean(at, 0.28)) < 2)
    distance = -lean(at[wall], 0.28)
    assert np.median(distance) == pytest.approx(0.5, abs=0.1)
    assert np.percentile(distance, 2) > 0.5 - 0.25 * completion.bone.spacing.max()


@pytest.mark.parametrize("name", GRIDS)
def test_without_options_the_part_lies_where_the_voxels_lie(name):
    completion = completed(name)
    piece = one(completion)
    implant = completion.implant
    assert piece.mesh.volume_ml == pytest.approx(implant.array.sum() * implant.voxel_ml, rel=0.03)
    voxels = np.argwhere(implant.array) @ implant.affine[:3, :3].T + implant.affine[:3, 3]
    assert cKDTree(voxels).query(piece.mesh.points)[0].max() < 1.5 * implant.spacing.max()
    radius = np.linalg.norm(canonical(completion, piece.mesh.points), axis=1)
    assert radius.max() < OUTER + 0.05 and radius.min() > INNER - 0.05


def faces_away_from_the_rim(completion: Completion, margin: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) just over the outer face in the middle of the hole, RAS mm, and directions straight inwards."""
    rng = np.random.default_rng(0)
    angle, turn = np.arccos(rng.uniform(np.cos(0.28 - margin), 1, 60)), rng.uniform(0, 2 * np.pi, 60)
    rays = np.stack([np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle)], 1)
    inverse = np.linalg.inv(completion.proposal.alignment)
    return (rays * (OUTER + 1)) @ inverse[:3, :3].T + inverse[:3, 3], -rays @ inverse[:3, :3].T


@pytest.mark.parametrize(("name", "thickness"), [("0.5 mm", 3.0), ("tilted, mirrored", 4.0), ("1 mm", 9.0)])
def test_a_constant_thickness_is_met_to_a_tenth_of_a_millimetre(name, thickness):
    completion = completed(name)
    piece = one(completion, thickness="constant", thickness_mm=thickness, clearance_mm=0.5)
    measured = ray_thickness(piece.mesh, *faces_away_from_the_rim(completion))
    assert np.isfinite(measured).all()
    assert np.abs(measured - thickness).max() < 0.1
    assert piece.figures["thickness_mm"]["mean"] == pytest.approx(thickness, abs=0.05)


@pytest.mark.parametrize(("least", "expected"), [(4.0, OUTER - INNER), (8.0, 8.0)])
def test_a_minimum_thickness_thickens_only_what_is_thinner(least, expected):
    completion = completed("tilted")
    piece = one(completion, thickness="minimum", thickness_mm=least)
    measured = ray_thickness(piece.mesh, *faces_away_from_the_rim(completion))
    assert np.abs(measured - expected).max() < 0.1


def test_a_wide_clearance_is_kept_as_well():
    distance = gaps("1 mm", one(completed("1 mm"), clearance_mm=2.9).mesh)
    assert distance.min() > 2.8
    wide = one(completed("1 mm", 0.35), clearance_mm=5.0)
    at = canonical(completed("1 mm", 0.35), wide.mesh.points)
    assert np.max(lean(at, 0.35)) == pytest.approx(-5.0, abs=0.3)


@pytest.mark.parametrize("how", ["constant", "minimum"])
@pytest.mark.parametrize("thickness", [3.0, 8.0])
def test_the_clearance_holds_at_every_thickness(how, thickness):
    piece = one(completed("1 mm"), thickness=how, thickness_mm=thickness, clearance_mm=0.5)
    assert gaps("1 mm", piece.mesh).min() > 0.4
    assert piece.figures["clearance_mm"]["min"] > 0.4


def test_under_contour_lowers_the_outer_face_alone():
    completion = completed("tilted")
    piece = one(completion, under_contour_mm=1.0)
    radius = np.linalg.norm(canonical(completion, piece.mesh.points), axis=1)
    assert radius.max() == pytest.approx(OUTER - 1.0, abs=0.05)
    assert radius.min() == pytest.approx(INNER, abs=0.05)


def test_a_plate_thicker_than_the_bone_does_not_reach_under_it():
    completion = completed("0.5 mm")
    piece = one(completion, thickness="constant", thickness_mm=9.0, clearance_mm=0.5)
    at = canonical(completion, piece.mesh.points)
    below = np.linalg.norm(at, axis=1) < INNER - 0.5
    assert below.any()
    # The hole narrows inwards: below its inner edge the plate is no wider than that edge.
    assert np.linalg.norm(at[below, :2], axis=1).max() < INNER * np.sin(0.28)


def test_smoothing_does_not_move_the_rim():
    completion = completed("1 mm")
    for smoothing in (0.0, 2.0):
        distance = gaps("1 mm", one(completion, clearance_mm=0.5, smoothing_mm=smoothing).mesh)
        assert 0.4 < distance.min() < 0.6


@pytest.mark.parametrize(("diameter", "pitch", "margin"), [(2.0, 10.0, 3.0), (3.0, 7.0, 2.0)])
def test_holes_go_through_have_their_size_and_keep_their_distances(diameter, pitch, margin):
    completion = completed("tilted")
    options = {"hole_diameter_mm": diameter, "hole_pitch_mm": pitch, "hole_margin_mm": margin, "clearance_mm": 0.5}
    piece, plain = one(completion, **options), one(completion, clearance_mm=0.5)
    count = piece.figures["holes"]
    assert count >= 5
    assert as_trimesh(piece.mesh).euler_number == 2 - 2 * count
    # What is missing beside the plain plate are the walls of the holes; each hole's points lie together.
    at = canonical(completion, piece.mesh.points)
    radius = np.linalg.norm(at, axis=1)
    middle = np.abs(radius - (OUTER + INNER) / 2) < 1.0
    rim = lean(at, 0.28) > -1.2
    walls = at[middle & ~rim] * (OUTER / radius[middle & ~rim, None])
    groups = trimesh.grouping.clusters(walls, 0.45 * diameter)
    assert len(groups) == count
    middles = np.array([walls[group].mean(0) for group in groups])
    for group, centre in zip(groups, middles, strict=True):
        across = np.linalg.norm(walls[group] - centre, axis=1) * (OUTER + INNER) / 2 / OUTER
        assert 2 * np.median(across) == pytest.approx(diameter, abs=0.15)
    apart = cKDTree(middles).query(middles, k=2)[0][:, 1]
    assert apart.min() > 0.85 * pitch
    assert apart.max() < 1.2 * pitch
    # The wall of the hole leans: it is nearest at the inner face.
    inner = middles * (INNER / OUTER)
    edge = -lean(inner, 0.28) - 0.5
    assert edge.min() - diameter / 2 > margin - 0.2
    assert piece.mesh.volume_ml < plain.mesh.volume_ml


def test_a_plate_too_small_for_a_hole_says_so():
    part = make_implant(completed("1 mm", 0.12), ImplantOptions(hole_diameter_mm=4.0, hole_margin_mm=8.0))
    assert part.pieces[0].figures["holes"] == 0
    assert any("no room for perfusion holes" in warning for warning in part.warnings)


def test_a_large_plate_is_split_into_pieces_that_are_short_enough():
    completion = completed("tilted", 0.35)
    part = make_implant(completion, ImplantOptions(split_mm=25.0, clearance_mm=0.5))
    assert len(part.pieces) >= 2
    for piece in part.pieces:
        points = piece.mesh.points - piece.mesh.points.mean(0)
        along = points @ np.linalg.eigh(np.cov(points.T))[1][:, -1]
        assert np.ptp(along) <= 25.0 + 0.5
    first, second = part.pieces[0].mesh.points, part.pieces[1].mesh.points
    assert cKDTree(first).query(second)[0].min() > 0.4
    whole = one(completion, clearance_mm=0.5).mesh.volume_ml
    assert 0.9 * whole < part.mesh.volume_ml < whole


def test_two_defects_give_two_pieces_the_larger_first():
    part = make_implant(completed("1 mm", twice=True), ImplantOptions(clearance_mm=0.5))
    assert [piece.defect for piece in part.pieces] == [1, 2]
    assert part.pieces[0].mesh.volume_ml > part.pieces[1].mesh.volume_ml
    for piece in part.pieces:
        assert faults(as_trimesh(piece.mesh)) == []


def test_where_the_clearance_parts_a_plate_the_larger_piece_stays_and_the_report_says_so():
    # A ridge of bone under the plate, not all the way up: the voxels hang together above it, what is left of them
    # after the clearance does not.
    completion = completed("1 mm", 0.3)
    at = canonical(completion, np.argwhere(completion.completed.array) + np.array([40, -120, 300]))
    ridge = (np.abs(at[:, 0] + 3) < 1.5) & (np.linalg.norm(at, axis=1) < OUTER - 1.2)
    bone, implant = completion.bone.array.copy(), completion.implant.array.copy()
    index = np.argwhere(completion.completed.array)[ridge]
    bone[tuple(index.T)], implant[tuple(index.T)] = True, False
    assert ndimage.label(implant)[1] == 1
    completion = dataclasses.replace(
        completion, bone=completion.bone.with_array(bone), implant=completion.implant.with_array(implant)
    )
    part = make_implant(completion, ImplantOptions(clearance_mm=1.5))
    assert len(part.pieces) == 1
    assert any("separate components" in warning for warning in part.warnings)
    assert faults(as_trimesh(part.pieces[0].mesh)) == []


def test_an_impossible_request_is_a_warning_and_no_crash():
    part = make_implant(completed("1 mm", 0.05), ImplantOptions(clearance_mm=5.0))
    assert part.pieces == []
    assert any("No implant remains" in warning for warning in part.warnings)
    assert part.mesh.volume_ml == 0
    assert part.thickness_mm is None


def test_the_part_does_not_depend_on_how_the_head_lay_in_the_scanner():
    volumes = [one(completed(name), clearance_mm=0.5).mesh.volume_ml for name in GRIDS]
    assert np.ptp(volumes) < 0.03 * np.mean(volumes)


def burr_hole_mm(name: str) -> dict:
    """The thickness of a plate that is hardly wider than thick: every point is nearer to the rim than it is thick."""
    return one(completed(name, 0.11)).figures["thickness_mm"]


@pytest.mark.parametrize("name", ["1 mm", *list(GRIDS)[-1:]])
def test_the_thickness_of_a_plate_for_a_burr_hole_is_measured(name):
    thickness = burr_hole_mm(name)
    assert thickness["mean"] == pytest.approx(OUTER - INNER, abs=0.3)
    assert thickness["min"] <= thickness["mean"] <= thickness["max"]


def test_the_report_has_the_thickness_of_the_printable_implant():
    report = {"implant": {"volume_ml": 1.0}, "warnings": []}
    result = RunResult(completed("1 mm", twice=True), None, ImplantOptions(), ("stl",), report)
    made = result.with_implant().report
    thickness = made["implant"]["thickness_mm"]
    pieces = [piece["thickness_mm"] for piece in made["printable_implant"]["pieces"]]
    assert len(pieces) == 2
    assert thickness["min"] == min(piece["min"] for piece in pieces)
    assert thickness["max"] == max(piece["max"] for piece in pieces)
    assert thickness["mean"] == pytest.approx(OUTER - INNER, abs=0.2)
    thick = result.with_implant(ImplantOptions(thickness="constant", thickness_mm=3.0)).report["implant"][
        "thickness_mm"
    ]
    assert thick["mean"] == pytest.approx(3.0, abs=0.1)


def test_the_implant_is_whole_beyond_the_end_of_the_image():
    completion = completed("1 mm")
    index = np.argwhere(completion.implant.array)
    end = int(np.median(index[:, 0]))
    cropped = {
        name: crop(volume, (slice(0, end), *(slice(0, n) for n in volume.array.shape[1:])))
        for name in ("bone", "completed", "implant")
        for volume in (getattr(completion, name),)
    }
    part = make_implant(dataclasses.replace(completion, **cropped, implant_whole=completion.implant), ImplantOptions())
    assert part.mesh.volume_ml == pytest.approx(one(completion).mesh.volume_ml, rel=0.05)


def test_no_defect_no_part():
    completion = completed("1 mm")
    nothing = completion.implant.with_array(np.zeros_like(completion.implant.array))
    completion = dataclasses.replace(completion, implant=nothing, found=False, proposal=None)
    assert make_implant(completion, ImplantOptions()).pieces == []


def test_the_thickness_map_is_the_thickness_at_every_point():
    completion = completed("1 mm")
    piece = one(completion, thickness_map=True)
    assert piece.thickness_mm.shape == (len(piece.mesh.points),)
    at = canonical(completion, piece.mesh.points)
    middle = np.linalg.norm(at[:, :2], axis=1) < 8
    assert np.abs(piece.thickness_mm[middle] - (OUTER - INNER)).max() < 0.1
    assert one(completion).thickness_mm is None


def test_the_grey_values_of_a_ct_place_the_surface_below_the_voxel():
    index = np.indices((40, 40, 40)).reshape(3, -1).T
    radius = np.linalg.norm(index - 19.7, axis=1).reshape(40, 40, 40)
    image = Volume(np.clip(300 + 1000 * (15.3 - radius), -1000, 1600), np.eye(4))
    mask = image.with_array(image.array >= 300)
    for surface, error in ((bone_surface(mask, GreyLevels.of(image, mask, 300.0)), 0.01), (bone_surface(mask), 0.2)):
        assert np.abs(np.linalg.norm(surface.points - 19.7, axis=1) - 15.3).mean() < error


BAD = {
    "negative": {"clearance_mm": -0.1},
    "not a number": {"clearance_mm": float("nan")},
    "unknown": {"thickness": "thin"},
    "without millimetres": {"thickness": "constant"},
    "with millimetres it has not": {"thickness": "patient", "thickness_mm": 3.0},
    "too thin": {"thickness": "constant", "thickness_mm": 0.1},
    "no bridge": {"hole_diameter_mm": 5.0, "hole_pitch_mm": 5.0},
    "crumbs": {"split_mm": 5.0},
}


@pytest.mark.parametrize("options", BAD.values(), ids=BAD)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(SkullVAEError):
        ImplantOptions(**options)


@pytest.mark.parametrize("text", [{"thickness": "constant:x"}, {"holes": "2,10"}, {"holes": "2,10,x"}])
def test_text_that_cannot_be_read_is_refused(text):
    with pytest.raises(SkullVAEError):
        ImplantOptions.parse(**text)


def test_options_are_read_as_the_command_line_has_them():
    options = ImplantOptions.parse(clearance=0.5, thickness="minimum:3.5", holes="2,10,3", split=60.0)
    assert (options.thickness, options.thickness_mm) == ("minimum", 3.5)
    assert (options.hole_diameter_mm, options.hole_pitch_mm, options.hole_margin_mm) == (2, 10, 3)
    assert ImplantOptions.parse() == ImplantOptions()


def test_sheets_too_thin_to_be_made_are_left_out_and_nothing_else():
    grid = FineGrid(np.diag([0.5, 0.5, 0.5, 1.0]), (60, 60, 60), np.arange(60**3))
    x, y, z = (np.indices(grid.shape) * 0.5 - 15.0).astype(np.float32)
    block = np.maximum.reduce([abs(x) - 8, abs(y) - 8, abs(z) - 3])
    for half, stays in ((0.3, False), (1.0, True)):
        fin = np.maximum.reduce([abs(x) - 12, abs(y) - 4, abs(z) - half])
        opened = remove_thin_features(np.minimum(block, fin), grid, 0.8)
        assert (opened[(abs(x) > 10.5) & (abs(x) < 11.5) & (abs(y) < 3) & (abs(z) < half)] < 0).all() == stays
        thick = (abs(x) < 7) & (abs(y) < 7) & (abs(block) < 0.5)
        assert np.array_equal(opened[thick], block[thick])
