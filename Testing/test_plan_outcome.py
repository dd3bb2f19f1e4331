"""Plan and outcome: known displacements, rotations, losses, gaps and steps are recovered, on an analytic shell."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from SkullVAELib.cli.main import main
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.evaluation.plan_outcome import (
    Outward,
    Plan,
    compare,
    gap_and_step,
    surface_difference,
    without_fixation,
)
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.io.images import write_volume
from SkullVAELib.mesh.files import write_stl
from SkullVAELib.mesh.isosurface import level_surface, mask_surface
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.mesh.reading import read_mesh, voxelise
from SkullVAELib.registration.known_bone import KnownBone
from SkullVAELib.registration.reference import MeanSkull
from SkullVAELib.registration.rigid import rotation_of

AXES, THICK = np.array([68.0, 88.0, 72.0]), 6.0
TOWARDS = np.array([0.8, 0.2, 0.6]) / np.linalg.norm([0.8, 0.2, 0.6])


def _motion(degrees, axis, shift, centre=(0, 0, 0)):
    axis, centre, matrix = np.array(axis, float), np.array(centre, float), np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    matrix[:3, 3] = centre + shift - matrix[:3, :3] @ centre
    return matrix


def _shell(points, out=0.0, thick=THICK):
    """About the signed distance (N,) to an ellipsoidal shell with waves, which determine its pose, open below, mm."""
    points = points + 1.2 * np.sin(points[..., [1, 2, 0]] / 14)

    def beyond(axes):
        return (np.linalg.norm(points / axes, axis=-1) - 1) * axes.mean()

    return np.maximum.reduce([beyond(AXES + out), -beyond(AXES - thick), -55 - points[..., 2]])


def _side(points, gap=0.0):
    """About the signed distance (N,) from an oval hole with a corner, negative in it, mm; it has one pose only."""
    first = np.cross(TOWARDS, [0, 0, 1.0])
    first /= np.linalg.norm(first)
    second = np.cross(TOWARDS, first)
    x, y = points @ first, points @ second
    oval = np.sqrt((x / 34) ** 2 + (y / 25) ** 2) - 1
    corner = np.maximum(np.abs(x - 20) - 16, np.abs(y - 14) - 14)
    return np.maximum(np.minimum(oval * 28, corner), -(points @ TOWARDS)) + gap


def _field(low, high, spacing, field, pose=None):
    """A field on a grid, whose points a pose moves into the coordinates of the field."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing)
    affine[:3, 3] = low
    shape = np.ceil((np.array(high) - low) / spacing).astype(int)
    points = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3))
    points = points if pose is None else apply_affine(np.linalg.inv(pose), points)
    return Volume(field(points).reshape(shape).astype(np.float32), affine)


def _plate(points, gap=0.0, dent=0.0):
    """The implant: part of the shell in the hole; `dent` mm are lost from its outer surface in the middle."""
    field = np.maximum(_shell(points), _side(points, gap))
    if not dent:
        return field
    near = np.linalg.norm(np.cross(points, TOWARDS), axis=-1) < 14
    return np.where(near, np.maximum(field, _shell(points, -dent)), field)


@pytest.fixture(scope="module")
def plan():
    """A shell with a hole, and the implant in it with a gap of 1 mm."""
    bone = _field([-80, -100, -65], [80, 100, 85], np.array([1.2, 1.2, 1.2]),
                  lambda p: np.maximum(_shell(p), -_side(p)))  # fmt: skip
    box = _field([5, -45, -10], [80, 62, 85], np.array([0.8, 0.8, 0.8]), lambda p: -_plate(p, 1.0))
    mesh = level_surface(box, 0.01)
    return Plan("plan", mesh, KnownBone("plan", "skull", bone.with_array(bone.array < 0)))


def _part(plan, motion=None, name="scan.stl", **options):
    """The implant as a scan, moved."""
    box = _field([5, -45, -10], [80, 62, 85], np.array([0.7, 0.7, 0.7]), lambda p: -_plate(p, 1.0, **options))
    mesh = level_surface(box, 0.01)
    return KnownBone.of_mesh(Mesh(apply_affine(np.eye(4) if motion is None else motion, mesh.points), mesh.faces), name)


def _errors(plan, made, motion):
    """Error of the displacement of the centre, mm, and of the rotation, degrees."""
    centre = plan.mesh.points.mean(0)[None]
    shift = np.linalg.norm(apply_affine(made.motion, centre) - apply_affine(motion, centre))
    return shift, rotation_of(np.linalg.inv(motion) @ made.motion)[0]


@pytest.mark.parametrize(("degrees", "shift"), [(0.0, (0, 0, 0)), (6.0, (-2.0, 2.0, 1.0))])
def test_a_scan_in_the_coordinates_of_the_plan_gives_its_displacement(plan, degrees, shift):
    centre = plan.mesh.points.mean(0)
    motion = _motion(degrees, (0.3, 1, 0.2), shift, centre)
    made = compare(plan, _part(plan, motion))
    error_mm, error_deg = _errors(plan, made, motion)
    assert made.figures["coordinates"] == "files"
    assert error_mm < 0.1 and error_deg < 0.2, (error_mm, error_deg)
    moved = made.figures["displacement"]
    assert moved["rotation_deg"] == pytest.approx(degrees, abs=0.2)
    assert [moved["right_mm"], moved["anterior_mm"], moved["superior_mm"]] == pytest.approx(shift, abs=0.15)
    assert made.figures["shape_mm"]["outer"]["p95"] < 0.2
    assert made.figures["resorption"]["lost_ml"] < 0.3


def test_a_scan_in_any_pose_has_no_displacement_but_a_difference_of_shape(plan):
    made = compare(plan, _part(plan, _motion(140, (1, 0.4, -0.7), (300, 20, -90)), dent=1.5))
    assert made.figures["coordinates"] == "best fit"
    assert made.figures["displacement"] is None and made.figures["difference_mm"] is None
    thin = made.figures["resorption"]["thickness_change_mm"]
    assert thin["least"] == pytest.approx(-1.5, abs=0.2)
    at = np.array(thin["least_at_ras"])
    assert np.linalg.norm(np.cross(at, TOWARDS)) < 15
    # 14 mm in radius, 1.5 mm deep.
    assert made.figures["resorption"]["lost_ml"] == pytest.approx(np.pi * 14**2 * 1.5 / 1000, rel=0.15)
    assert abs(made.figures["shape_mm"]["inner"]["median"]) < 0.1


def test_a_ct_in_another_pose_with_noise_gives_the_displacement_in_the_head(sample, model):
    bone, implant = sample.bone, sample.bone.with_array(sample.truth)
    plan = Plan("plan", mask_surface(crop(implant, bounding_box(implant.array, 3))), KnownBone("plan", "skull", bone))
    motion = _motion(4, (0.2, 1, 0.5), (1.5, -1.0, 2.0), plan.mesh.points.mean(0))
    placed = voxelise(Mesh(apply_affine(motion, plan.mesh.points), plan.mesh.faces), 0.7)
    pose = _motion(12, (0.3, -0.5, 1), (12, -7, 20))
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(bone.array.shape) - 1)
    moved = apply_affine(pose @ bone.affine, corners)
    affine = np.diag([0.9, 0.9, 1.1, 1.0])
    affine[:3, 3] = moved.min(0)
    shape = np.ceil(np.ptp(moved, axis=0) / [0.9, 0.9, 1.1]).astype(int)
    share = np.zeros(shape, np.float32)
    for part in (bone.with_array(ndimage.gaussian_filter(bone.array.astype(np.float32), 0.5)), placed):
        matrix = np.linalg.inv(pose @ part.affine) @ affine
        share = np.maximum(
            share, ndimage.affine_transform(part.array, matrix[:3, :3], matrix[:3, 3], tuple(shape), order=1)
        )
    hu = -20 + 1240 * share + np.random.default_rng(0).normal(0, 60, shape)
    hu[0] = -1000
    outcome = KnownBone.of_volume(Volume(hu.astype(np.int16), affine, "later.nrrd"), 600.0)
    made = compare(plan, outcome, MeanSkull.of(model).target)
    error_mm, error_deg = _errors(plan, made, motion)
    assert made.figures["coordinates"] == "intact bone"
    assert made.figures["registration_mm"]["median"] < 0.4
    assert error_mm < 0.1 and error_deg < 0.2, (error_mm, error_deg)


def test_a_lifted_plate_has_the_step_and_the_gap_that_it_was_given(plan):
    bone = level_surface(_field([-5, -65, -30], [85, 75, 90], np.array([0.8, 0.8, 0.8]),
                                lambda p: -np.maximum(_shell(p), -_side(p))), 0.01)  # fmt: skip
    normals = plan.mesh.vertex_normals()
    facing = plan.outward.facing(plan.mesh.points, normals)
    side = np.where(facing > 0.6, 1, np.where(facing < -0.6, -1, 0))
    before = gap_and_step(plan.mesh, side, bone, plan.outward)
    assert before["step_mm"]["mean"] < 0.15 and before["step_mm"]["p95"] < 0.4, before
    assert before["gap_mm"]["mean"] == pytest.approx(1.0, abs=0.4)
    lifted = Mesh(plan.mesh.points + 1.5 * TOWARDS, plan.mesh.faces)
    after = gap_and_step(lifted, side, bone, plan.outward)
    assert after["step_mm"]["mean"] == pytest.approx(1.5 * 0.93, abs=0.25), after
    assert after["step_mm"]["max"] == pytest.approx(1.5, abs=0.4)


def test_differences_have_the_sign_of_what_is_added(plan):
    facing = plan.outward.facing(plan.mesh.points, plan.mesh.vertex_normals())
    side = np.where(facing > 0.6, 1, np.where(facing < -0.6, -1, 0))
    moved = Mesh(plan.mesh.points + 0.5 * TOWARDS, plan.mesh.faces)
    difference = surface_difference(plan.mesh, side, moved, plan.outward)
    assert np.nanmedian(difference[side == 1]) == pytest.approx(0.5, abs=0.06)
    assert np.nanmedian(difference[side == -1]) == pytest.approx(-0.5, abs=0.06)


def test_another_part_is_refused_and_so_is_a_head_without_an_implant(plan, model):
    ball = _field([-15, -15, -15], [15, 15, 15], np.array([0.8, 0.8, 0.8]), lambda p: 12 - np.linalg.norm(p, axis=1))
    with pytest.raises(SkullVAEError, match="does not resemble the planned implant"):
        compare(plan, KnownBone("ball", "part", ball.with_array(ball.array > 0)))
    with pytest.raises(SkullVAEError, match="has no implant where it was planned"):
        compare(plan, plan.bone, MeanSkull.of(model).target)


def test_outward_of_a_plate_is_away_from_its_centre_of_curvature(plan):
    outward = Outward.of_plate(plan.mesh)
    assert (outward.at(plan.mesh.points.mean(0)[None])[0] @ TOWARDS) > 0.95


@pytest.fixture
def files(plan, tmp_path):
    """The planned implant and a scan of it as STL files."""
    write_stl(plan.mesh, tmp_path / "plan.stl")
    motion = _motion(2, (0, 1, 0), (0.5, 0.5, 0), plan.mesh.points.mean(0))
    write_stl(Mesh(apply_affine(motion, plan.mesh.points), plan.mesh.faces), tmp_path / "scan.stl")
    return tmp_path


def test_the_command_writes_report_page_picture_and_mesh(files, capsys):
    assert main(["compare", str(files / "plan.stl"), str(files / "scan.stl"), "-o", str(files / "out")]) == 0
    names = sorted(path.name for path in (files / "out").iterdir())
    assert names == ["compare.html", "compare.json", "compare.png", "difference.ply"]
    report = json.loads((files / "out" / "compare.json").read_text(encoding="utf-8"))
    assert report["displacement"]["rotation_deg"] == pytest.approx(2, abs=0.2)
    head = (files / "out" / "difference.ply").read_bytes()[:1200]
    assert b"property float difference_mm" in head and b"property float shape_mm" in head
    page = (files / "out" / "compare.html").read_text(encoding="utf-8")
    assert "Displacement" in page and "data:image/png;base64," in page and 'src="http' not in page


@pytest.mark.parametrize("case", ["missing", "empty", "folder", "results", "centimetres", "cut", "open"])
def test_what_cannot_be_compared_is_one_line_and_nothing_is_written(files, case, capsys, plan):
    scan = files / "scan.stl"
    if case == "missing":
        scan.unlink()
    elif case == "empty":
        scan.write_bytes(b"")
    elif case == "folder":
        scan = files
    elif case == "results":
        scan = files
        (files / "completed.nrrd").touch()
        (files / "completed_and_implant.seg.dcm").touch()
    elif case == "centimetres":
        write_stl(Mesh(plan.mesh.points / 10, plan.mesh.faces), scan)
    elif case == "cut":
        scan.write_bytes(scan.read_bytes()[:4000])
    elif case == "open":
        write_stl(Mesh(plan.mesh.points, plan.mesh.faces[::2]), scan)
    assert main(["compare", str(files / "plan.stl"), str(scan), "-o", str(files / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and "Traceback" not in error
    assert not (files / "out").exists()
    named = {"centimetres": "centimetres", "results": "Give its completed.nrrd"}
    assert named.get(case, "") in error


def test_meshes_are_read_in_the_coordinates_that_their_header_states(plan, tmp_path):
    write_stl(plan.mesh, tmp_path / "lps.stl")
    read = read_mesh(tmp_path / "lps.stl")
    assert read.volume_ml == pytest.approx(plan.mesh.volume_ml, rel=1e-4)
    assert np.abs(read.points.mean(0) - plan.mesh.points.mean(0)).max() < 0.01
    content = (tmp_path / "lps.stl").read_bytes()
    (tmp_path / "ras.stl").write_bytes(content.replace(b"SPACE=LPS", b"SPACE=RAS"))
    flipped = read_mesh(tmp_path / "ras.stl").points.mean(0)
    assert flipped == pytest.approx(read.points.mean(0) * [-1, -1, 1], abs=0.01)


def test_voxels_of_a_mesh_have_its_volume(plan):
    fraction = voxelise(plan.mesh, 0.7)
    assert fraction.array.sum() * fraction.voxel_ml == pytest.approx(plan.mesh.volume_ml, rel=0.01)


def test_a_result_folder_without_its_files_is_named(tmp_path):
    with pytest.raises(SkullVAEError, match=r"has no completed\.nrrd"):
        Plan.read(tmp_path)
    empty = Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    write_volume(empty, tmp_path / "completed.nrrd")
    write_volume(empty, tmp_path / "implant.nrrd")
    with pytest.raises(SkullVAEError, match="has no implant"):
        Plan.read(tmp_path)


@pytest.fixture(scope="module")
def flanged():
    """The voxels of an implant and of bone, and the implant's mesh with a flange 2 mm high."""

    def layers(points):
        side = _side(points, 0.0)
        over_bone = np.maximum(_shell(points, 2.0, -0.5), np.maximum(side - 6, -side - 1))
        root = np.maximum(_shell(points, 2.0, 1.0), np.maximum(side + 0.5, -side - 6))
        return np.minimum(_plate(points, 0.5), np.minimum(over_bone, root))

    low, high = [10, -55, -20], [85, 72, 95]
    voxels = _field(low, high, np.array([1.0, 1.0, 1.0]), lambda p: np.maximum(_shell(p), _side(p)))
    shell = _field(low, high, np.array([1.0, 1.0, 1.0]), _shell)
    implant = voxels.with_array(voxels.array < 0)
    bone = shell.with_array((shell.array < 0) & ~implant.array)
    mesh = level_surface(_field(low, high, np.array([1.0, 1.0, 1.0]), lambda p: -layers(p)), 0.01)
    return implant, bone, mesh


def test_a_flange_is_left_out_of_a_plan_and_a_plate_alone_is_not_changed(flanged, plan):
    implant, bone, mesh = flanged
    plate = without_fixation(mesh, implant, bone, plan.outward)
    height = _shell(plate.points)
    assert height.max() < 1.7 < _shell(mesh.points).max()
    over_bone = (_side(plate.points) > 1.0) & (height > 0)
    assert not over_bone.any() and ((_side(mesh.points) > 1.0).sum() > 500)
    flat = without_fixation(plan.mesh, implant, bone, plan.outward)
    assert len(flat.faces) == len(plan.mesh.faces)
    # What is left of the plate: its inner face and its middle, as those of the plate alone.
    inner = -_shell(plate.points) < 0.3
    assert plate.area_mm2 > 0.7 * plan.mesh.area_mm2 and inner.any()


def test_the_plan_of_a_result_with_a_flange_is_its_plate(flanged, tmp_path):
    implant, bone, mesh = flanged
    write_volume(implant.with_array((implant.array | bone.array).astype(np.uint8)), tmp_path / "completed.nrrd")
    write_volume(implant.with_array(implant.array.astype(np.uint8)), tmp_path / "implant.nrrd")
    write_stl(mesh, tmp_path / "implant.stl")
    whole = Plan.read(tmp_path)
    assert whole.fixation_mm2 == 0 and len(whole.mesh.faces) == len(mesh.faces)
    additions = {"tabs": 0, "tab_at": [], "flange_mm": 6.0}
    report = {"printable_implant": {"additions": additions, "pieces": [{"plate_ml": 12.5}]}}
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    read = Plan.read(tmp_path)
    assert read.fixation_mm2 == pytest.approx(mesh.area_mm2 - read.mesh.area_mm2, rel=1e-6) and read.fixation_mm2 > 500
    assert read.volume_ml == 12.5
    assert np.linalg.norm(read.centre - whole.centre) < 3
