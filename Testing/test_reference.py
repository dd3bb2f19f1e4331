"""The patient's own earlier bone as reference: it replaces the shape in the hole; what does not match is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from SkullVAELib.cli.main import main
from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.completion.reference import MatchQuality, RegisteredReference
from SkullVAELib.completion.result import PreparedPatient
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.implant.implant_mesh import make_implant
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.io.images import write_volume
from SkullVAELib.mesh.distance import SurfaceDistance
from SkullVAELib.mesh.isosurface import mask_surface
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.registration.known_bone import KnownBone
from SkullVAELib.registration.rigid import PointSurface, register_part, rotation_of
from SkullVAELib.shape.known import KnownSurface


def _dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def _pose(degrees=15.0):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, -0.64, 0.48])).as_matrix()
    matrix[:3, 3] = [30, -12, 55]
    return matrix


def _scan(mask: Volume, pose, spacing=(0.9, 0.9, 1.1), noise=60.0):
    """A CT of a mask in another pose, with voxels of another size and noise; 600 HU is where half is bone."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(mask.array.shape) - 1)
    moved = apply_affine(pose @ mask.affine, corners)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = moved.min(0)
    shape = np.ceil(np.ptp(moved, axis=0) / spacing).astype(int)
    to_mask = np.linalg.inv(pose @ mask.affine) @ affine
    soft = ndimage.gaussian_filter(mask.array.astype(np.float32), 0.5)
    share = ndimage.affine_transform(soft, to_mask[:3, :3], to_mask[:3, 3], tuple(shape), order=1)
    hu = -20 + 1240 * share + np.random.default_rng(0).normal(0, noise, shape)
    hu[0] = -1000
    return Volume(hu.astype(np.int16), affine, "before.nrrd")


def _with(completion, known, **options):
    """The patient of a completion with a reference."""
    patient = completion.patient
    return PreparedPatient.of(
        patient.registered, patient.quality, patient.prior, patient.finder, patient.defects, patient.first,
        dataclasses.replace(patient.options, **options), patient.face, known,
    )  # fmt: skip


@pytest.fixture(scope="module")
def referred(completion, sample):
    """The generated skull, completed with a CT of the whole head in another pose as reference."""
    known = KnownBone.of_volume(_scan(sample.whole, _pose()), 600.0)
    return _with(completion, known).completion()


def test_the_reference_is_registered_and_is_more_accurate_than_the_shape(referred, completion, sample):
    surface, quality = referred.patient.reference.surface, referred.patient.reference.quality
    points = apply_affine(sample.bone.affine, np.argwhere(sample.truth)[::40])
    error = np.linalg.norm(apply_affine(surface.to_known, points) - apply_affine(_pose(), points), axis=1)
    assert error.max() < 0.15
    assert quality.rating == "good" and quality.covered > 0.97 and quality.rotation_deg == pytest.approx(15, abs=0.2)
    before, after = (_dice(sample.truth, made.implant.array) for made in (completion, referred))
    assert after > before and after > 0.95, (before, after)
    assert not (referred.implant.array & sample.bone.array).any()
    assert referred.report["reference"]["rating"] == "good"
    assert referred.report["reference"]["file"] == "before.nrrd"


def test_the_printable_implant_follows_the_reference(referred, completion, sample):
    true = sample.bone.with_array(sample.truth)
    surface = SurfaceDistance(mask_surface(crop(true, bounding_box(true.array, 3))))
    error = []
    for made in (completion, referred):
        mesh = make_implant(made, ImplantOptions()).mesh
        error.append(float(np.abs(surface.signed(mesh.points[::7])).mean()))
    assert error[1] < min(error[0], 0.3), error


def test_other_defects_and_proposals_keep_the_reference(referred):
    again = referred.patient.with_points(())
    assert again.reference is referred.patient.reference
    drawn = referred.patient.completion(draw=2)
    # Where the reference has bone, a draw of the statistical tables moves nothing.
    assert _dice(drawn.implant.array, referred.implant.array) > 0.97


def test_a_bone_flap_in_any_pose_is_fitted_into_the_hole(completion, sample):
    flap = mask_surface(crop(sample.bone.with_array(sample.truth), bounding_box(sample.truth, 3)))
    pose = _pose(120.0)
    known = KnownBone.of_mesh(Mesh(apply_affine(pose, flap.points), flap.faces), "flap.stl")
    made = _with(completion, known, least_quality=0.0).completion()
    assert made.report["reference"]["registered_on"] == "hole"
    at = apply_affine(made.patient.reference.surface.to_known, flap.points)
    assert np.linalg.norm(at - apply_affine(pose, flap.points), axis=1).mean() < 1.5
    assert _dice(sample.truth, made.implant.array) > _dice(sample.truth, completion.implant.array) - 0.01


def test_a_head_of_another_size_is_refused(completion, sample):
    whole = sample.whole
    small = Volume(whole.array.astype(np.uint8), np.diag([0.8, 0.8, 0.8, 1.0]) @ whole.affine, "small.nrrd")
    with pytest.raises(SkullVAEError, match="times as large"):
        _with(completion, KnownBone.of_volume(small))


@pytest.mark.parametrize(
    ("median", "p95", "rating"),
    [(0.2, 0.6, "good"), (0.2, 2.0, "acceptable"), (0.7, 2.9, "acceptable"), (0.9, 1.0, "poor")],
)
def test_a_match_is_rated_by_its_residual(median, p95, rating):
    assert MatchQuality("intact bone", median, p95, 1.0, 0.0).rating == rating


def test_files_in_another_unit_and_without_bone_are_named(tmp_path):
    ball = np.linalg.norm(np.indices((40, 40, 40)) - 20, axis=0)
    for name, array, spacing, said in (
        ("cm", ball < 12, 0.8, "unit is probably centimetres"),
        ("empty", ball < -1, 1.0, "is empty"),
    ):
        volume = Volume(array.astype(np.uint8), np.diag([spacing, spacing, spacing, 1]))
        write_volume(volume, tmp_path / f"{name}.nrrd")
        with pytest.raises(SkullVAEError, match=said):
            KnownBone.read(tmp_path / f"{name}.nrrd")


def _slab(offset=0.0, weight=None):
    """A known plate, 0 to 4 mm in z, moved by an offset; the weight rises along x from 0 at 10 mm to 1 at 14 mm."""
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    z = np.indices((60, 8, 40))[2] * 0.5 - 8 - offset
    x = np.indices((60, 8, 40))[0] * 0.5
    affine[2, 3] = -8
    distance = np.maximum(-z, z - 4).astype(np.float32)
    weight = np.clip((x - 10) / 4, 0, 1).astype(np.float32)
    return KnownSurface(Volume(distance, affine), np.eye(4), Volume(weight, affine), np.eye(4))


def test_a_misplaced_reference_makes_no_step_at_the_rim():
    known = _slab(offset=0.3)
    x = np.arange(2, 26, 0.5)
    z = np.arange(3, 6, 0.05)
    points = np.array([[a, 2.0, b] for a in x for b in z])
    base = torch.tensor(np.maximum(-points[:, 2], points[:, 2] - 4)).float()
    field = known.blended(torch.tensor(points).float(), base).numpy().reshape(len(x), len(z))
    top = np.array([np.interp(0, row, z) for row in field])
    assert top[x < 10] == pytest.approx(4.0, abs=0.01)
    assert top[x > 14.5] == pytest.approx(4.3, abs=0.02)
    assert np.abs(np.diff(top)).max() < 0.05


def test_a_part_is_registered_from_any_pose():
    rng = np.random.default_rng(1)
    angle = rng.uniform(0, 2 * np.pi, 8000)
    radius = np.sqrt(rng.uniform(0, 1, 8000)) * np.where(np.abs(angle - 1) < 0.5, 38.0, 30.0)
    x, y = radius * np.cos(angle), radius * np.sin(angle) * 0.8
    points, normals = [], []
    for depth, sign in ((0.0, 1), (5.0, -1)):
        ball = np.stack([x, y, np.sqrt((80 - depth) ** 2 - x**2 - y**2)], 1)
        points.append(ball)
        normals.append(sign * ball / (80 - depth))
    fixed = PointSurface(np.concatenate(points), np.concatenate(normals))
    pose = _pose(160.0)
    found = register_part(fixed.moved(pose), fixed)
    assert rotation_of(found @ pose)[0] < 0.3
    assert np.linalg.norm(apply_affine(found @ pose, fixed.points) - fixed.points, axis=1).max() < 0.3


def test_the_options_carry_the_reference():
    assert CompletionOptions(reference="before.nrrd").reference == "before.nrrd"
    assert CompletionOptions().reference is None


def test_a_missing_reference_is_one_line_before_anything_is_computed(tmp_path, capsys):
    skull = Path(__file__).parent / "data" / "golden" / "skull.nrrd"
    code = main(["complete", str(skull), "-o", str(tmp_path / "out"), "--reference", str(tmp_path / "{name}.stl")])
    error = capsys.readouterr().err.strip()
    assert code == 2 and len(error.splitlines()) == 1
    assert "skull.stl' does not exist" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", ["patient 1", "patient.1"])
def test_the_name_of_a_dicom_folder_stands_in_that_of_its_reference(folder, tmp_path, capsys):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "1.dcm").write_bytes(bytes(128) + b"DICM")
    arguments = ["complete", str(tmp_path / folder), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--reference", str(tmp_path / "{name}.stl")]) == 2
    assert f"{folder}.stl' does not exist" in capsys.readouterr().err


def test_a_copy_of_the_input_is_no_earlier_image():
    source = KnownBone("completed.nrrd", "skull", Volume(np.zeros((2, 2, 2), bool), np.eye(4)))
    for residual, warned in ((0.0, True), (0.06, False)):
        quality = MatchQuality("intact bone", residual / 3, residual, 1.0, 0.0)
        warnings = RegisteredReference(source, None, quality, np.zeros(0, bool), ()).warnings
        assert ["equals the input" in text for text in warnings] == [True] * warned
