"""Claims about the hard inputs: what is cut, sliced, moved and stored is where it is said to be, and how it is judged.

Nothing is completed here; the commands are Testing/benchmark/hard_inputs.py and found_holes.py.
"""

from __future__ import annotations

import bz2
import dataclasses
import inspect
import itertools
import json
import types

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tiny
from benchmark import found_holes, hard_inputs
from benchmark.hard import files, images, judge
from benchmark.hard.holes import (
    Hole,
    Patch,
    Vault,
    centre_of,
    cut,
    flap_with_gap,
    fragment,
    in_sectors,
    sunken,
)
from benchmark.hard.judge import Answer, Expected
from benchmark.hard.kinds import KINDS, Head
from benchmark.rays import mean_thickness
from scipy import ndimage

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import read_volume, write_volume
from SkullVAELib.mesh.files import write_stl
from SkullVAELib.mesh.isosurface import mask_surface

SHELL = tiny.shell((72, 88, 78))
BONE = SHELL.with_array(SHELL.array != 0)
VAULT = Vault.of(BONE)
HOLE = Hole((0.7, -0.3, 0.7), 60)
LEFT, REMOVED = cut(BONE, VAULT, HOLE)

_LOWEST = apply_affine(BONE.affine, np.argwhere(BONE.array))[:, 2].min()
AT_THE_END = Hole((-1.0, 0.0, float(_LOWEST - VAULT.centre[2]) / 72), 40)
"""A hole where the shell ends below."""


def test_the_vaults_sphere_fits_the_upper_part_of_the_shell():
    assert np.abs(VAULT.centre[0]) < 2
    assert 65 < VAULT.radius_mm < 90


@pytest.mark.parametrize(
    "hole", [HOLE, Hole((0, 0, 1), 50, 80, "box"), Hole((-1, 0, 0.3), 14), Hole((0, 1, 0.3), 70, 40)]
)
def test_a_hole_takes_one_piece_and_leaves_the_rest(hole):
    left, removed = cut(BONE, VAULT, hole)
    assert removed.array.any()
    assert not (left.array & removed.array).any()
    assert ((left.array | removed.array) == BONE.array).all()
    assert ndimage.label(removed.array, np.ones((3, 3, 3)))[1] == 1


@pytest.mark.parametrize("width", [40, 70])
def test_a_hole_is_as_wide_along_the_surface_as_it_is_said(width):
    bone = BONE.with_array(np.zeros_like(BONE.array))
    at = apply_affine(BONE.affine, np.indices(BONE.array.shape).reshape(3, -1).T)
    radius = np.linalg.norm(at, axis=1).reshape(BONE.array.shape)
    bone.array[(radius > 72) & (radius < 78)] = True
    _, removed = cut(bone, Vault(np.zeros(3), 78.0), Hole((0.0, 0.0, 1.0), width))
    disc = np.pi * width**2 / 4 * 6 / 1000
    assert judge.volume_ml(removed) == pytest.approx(disc, rel=0.15)  # less by the narrower inner side
    points = apply_affine(removed.affine, np.argwhere(removed.array))
    assert np.abs(centre_of(removed)[:2]).max() < 1.5
    angle = np.arccos(points[:, 2] / np.linalg.norm(points, axis=1))
    assert 2 * 78 * angle.max() == pytest.approx(width, abs=2.5)


def test_a_hole_where_there_is_no_bone_is_refused():
    with pytest.raises(ValueError, match="no bone"):
        cut(BONE, VAULT, Hole((0, 0, -1), 20))


def test_the_rim_is_whole_in_the_vault_and_not_where_the_skull_ends():
    assert Patch.of(BONE, VAULT, HOLE).rim_share == 1
    assert Patch.of(BONE, VAULT, AT_THE_END).rim_share < found_holes.RIM_SHARE


def test_loose_bone_lies_in_the_hole_and_apart_from_the_rest():
    flap = flap_with_gap(LEFT, REMOVED, 3.0)
    distance = ndimage.distance_transform_edt(~LEFT.array, LEFT.spacing)
    assert flap.array.any() and (REMOVED.array | ~flap.array).all()
    assert distance[flap.array].min() > 3
    down = sunken(flap, VAULT, 8.0)
    moved = np.linalg.norm(centre_of(flap) - VAULT.centre) - np.linalg.norm(centre_of(down) - VAULT.centre)
    assert moved == pytest.approx(8, abs=2.5)
    assert down.array.sum() == flap.array.sum()
    # Voxels of this size touch at corners across a narrow cut.
    assert ndimage.label(in_sectors(flap, VAULT, HOLE, 8, 7.0).array)[1] >= 8
    piece = fragment(REMOVED, 2.0)
    assert judge.volume_ml(piece) == pytest.approx(2, abs=0.02)
    assert (REMOVED.array | ~piece.array).all()


# Images --------------------------------------------------------------------------------------------------------------


def test_block_means_keep_the_integral_and_the_place_for_any_ratio():
    volume = REMOVED.with_array(REMOVED.array.astype(np.float32))
    for spacing in ([4.1, None, 3.0], [1.3, 2.5, 2.5]):
        means = images.block_means(volume, spacing)
        assert means.array.sum() * means.voxel_ml == pytest.approx(judge.volume_ml(REMOVED), rel=1e-4)
        weights = means.array / means.array.sum()
        centre = np.einsum("ijk,xijk->x", weights, apply_affine_grid(means))
        assert np.abs(centre - centre_of(REMOVED)).max() < 0.05


def apply_affine_grid(volume: Volume) -> np.ndarray:
    index = np.indices(volume.array.shape).reshape(3, -1).T
    return apply_affine(volume.affine, index).T.reshape(3, *volume.array.shape)


@pytest.mark.parametrize(("plane", "axis"), [("sagittal", 0), ("coronal", 1), ("axial", 2)])
def test_slices_are_thick_along_their_plane_alone_whatever_the_order_of_axes(plane, axis):
    turned = Volume(BONE.array.transpose(2, 0, 1)[::-1], BONE.affine @ np.eye(4)[:, [2, 0, 1, 3]])
    turned.affine[:3, 3] += turned.affine[:3, 0] * (turned.array.shape[0] - 1)
    turned.affine[:3, 0] *= -1
    sliced = images.in_slices(turned, plane, 6.0)
    lengths = np.abs(sliced.affine[:3, :3]).sum(axis=1)
    assert lengths == pytest.approx([6.0 if world == axis else 2.5 for world in range(3)])
    assert np.abs(centre_of(sliced) - centre_of(BONE)).max() < 1.5


def test_coarse_and_refined_masks_keep_volume_and_place():
    for other in (images.in_voxels(BONE, 3.0), images.refined(BONE, 1.7)):
        assert judge.dsc(BONE, other) > 0.8
        assert np.abs(centre_of(other) - centre_of(BONE)).max() < 1


def test_padding_and_cropping_move_no_voxel():
    wide = images.padded(LEFT, (10, 0, 5))
    assert judge.dsc(LEFT, wide) == 1
    assert wide.array.shape == tuple(n + m for n, m in zip(LEFT.array.shape, (8, 0, 4), strict=True))
    own = images.at_own_box(wide, wide)
    assert judge.dsc(LEFT, own) == 1
    assert all(own.array.any(axis=tuple({0, 1, 2} - {axis}))[[0, -1]].all() for axis in range(3))
    top = images.extreme(LEFT, "S")
    cropped = images.ending_at(wide, "S", top - 10)
    assert images.extreme(cropped, "S") <= top - 10 < images.extreme(cropped, "S") + 2.5
    left = images.extreme(LEFT, "L")
    assert images.extreme(images.ending_at(wide, "L", left + 10), "L") >= left + 10


def test_the_synthetic_ct_has_air_outside_the_head_soft_tissue_inside_and_in_the_hole():
    head = Head("tiny", BONE, VAULT)
    ct = head.as_ct(LEFT)
    assert ct.array.dtype == np.int16
    assert np.median(ct.array[LEFT.array]) > 600
    centre = np.rint(apply_affine(np.linalg.inv(BONE.affine), VAULT.centre)).astype(int)
    assert abs(ct.array[tuple(centre)] - images.SOFT_HU) < 80
    in_hole = REMOVED.array & (ndimage.distance_transform_edt(~LEFT.array, LEFT.spacing) > 6)
    assert abs(np.median(ct.array[in_hole]) - images.SOFT_HU) < 80
    assert ct.array[0, 0, 0] < -900
    assert judge.dsc(LEFT, ct.with_array(ct.array > 400)) > 0.9


@pytest.mark.parametrize("degrees", [10.0, -15.0])
def test_a_tilted_scan_has_a_sheared_grid_and_the_same_bone(degrees):
    scan = images.tilted(BONE, degrees)
    cosine = scan.affine[:3, 1] @ scan.affine[:3, 2] / np.prod(scan.spacing[1:])
    assert np.degrees(np.arcsin(cosine)) == pytest.approx(degrees, abs=0.01)
    assert judge.dsc(BONE, scan) > 0.8


def test_hardware_lies_beside_bone_and_not_on_it():
    mesh = images.titanium_mesh(BONE, VAULT, HOLE)
    assert mesh.any() and not (mesh & BONE.array).any()
    assert ndimage.distance_transform_edt(~BONE.array, BONE.spacing)[mesh].max() < 10
    tube = images.shunt(BONE, VAULT, (-0.5, 0.4, 0.8), (-0.9, -0.4, 0.3))
    assert tube.any() and (tube & BONE.array).sum() < 0.1 * tube.sum()
    wide = images.padded(BONE, (100, 30, 0))
    rest = images.headrest(wide, VAULT)
    assert rest.any() and not (rest & wide.array).any()
    shafts, flesh = images.arms(wide, VAULT)
    assert ndimage.label(shafts)[1] == 2
    assert not (flesh & wide.array).any() and (flesh | ~shafts).all()


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_nifti_file_has_the_forms_that_it_is_given(tmp_path):
    other = BONE.affine.copy()
    other[:3, 3] += 20
    path = files.store_nifti(BONE, tmp_path / "a.nii.gz", BONE.affine, other)
    image = nib.load(path)
    assert np.allclose(image.get_sform(), BONE.affine) and np.allclose(image.get_qform(), other)
    header = nib.load(files.store_nifti(BONE, tmp_path / "b.nii.gz")).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 0)
    sheared = images.tilted(BONE, 10)
    assert np.allclose(
        nib.load(files.store_nifti(sheared, tmp_path / "c.nii.gz", sheared.affine)).affine, sheared.affine
    )


def test_rarer_files_hold_the_same_voxels_at_the_same_place(tmp_path):
    for path in (
        files.store_nrrd(LEFT, tmp_path / "a.nrrd"),
        files.store(LEFT, tmp_path / "B.NRRD"),
        files.store(LEFT, tmp_path / "Head.Nii.Gz"),
    ):
        assert path in list(tmp_path.iterdir())
        volume = read_volume(path.rename(path.with_name(path.name.lower())))
        assert (volume.array == LEFT.array).all() and np.allclose(volume.affine, LEFT.affine)
    for path in (
        files.store_mhd(LEFT, tmp_path / "c.mhd"),
        files.store_mhd(LEFT, tmp_path / "d.mhd", compressed=True),
    ):
        image = sitk.ReadImage(str(path))
        assert (sitk.GetArrayFromImage(image).transpose(2, 1, 0) == LEFT.array).all()
        assert np.allclose(image.GetOrigin(), LEFT.affine[:3, 3] * [-1, -1, 1])
    # ITK has no bzip2.
    head, _, data = files.store_nrrd(LEFT, tmp_path / "e.nrrd", "bzip2").read_bytes().partition(b"\n\n")
    assert b"encoding: bzip2" in head
    assert bz2.decompress(data) == LEFT.array.astype(np.uint8).tobytes(order="F")


def test_a_layered_segmentation_names_its_segments(tmp_path):
    path = files.store_segmentation([REMOVED, LEFT], [["Brain"], ["Skull"]], tmp_path / "a.seg.nrrd")
    image = sitk.ReadImage(str(path))
    assert image.GetNumberOfComponentsPerPixel() == 2
    layers = sitk.GetArrayFromImage(image).transpose(2, 1, 0, 3)
    assert (layers[..., 0] == REMOVED.array).all() and (layers[..., 1] == LEFT.array).all()
    assert image.GetMetaData("Segment1_Name") == "Skull" and image.GetMetaData("Segment1_Layer") == "1"


# Judging -------------------------------------------------------------------------------------------------------------


def answer(implant: Volume = REMOVED, code: int = 0, stderr: str = "", warnings: tuple[str, ...] = (), **report):
    return Answer(code, stderr, {"warnings": list(warnings), **report}, implant if code == 0 else None)


EXPECTED = Expected(REMOVED, explained="slices")
PART = REMOVED.with_array(REMOVED.array & (np.indices(REMOVED.array.shape)[1] < 35))


@pytest.mark.parametrize(
    ("given", "expected", "outcome"),
    [
        (answer(), EXPECTED, judge.RIGHT),
        (answer(PART), EXPECTED, judge.SILENT),
        (answer(PART, warnings=("The slices are 5 mm thick.",)), EXPECTED, judge.TOLD),
        (answer(PART, warnings=("'thick slices.nrrd' is old.",)), EXPECTED, judge.SILENT),
        (answer(), dataclasses.replace(EXPECTED, must_tell=True), judge.SILENT),
        (answer(warnings=("Thick slices.",)), dataclasses.replace(EXPECTED, must_tell=True), judge.RIGHT),
        (answer(code=2, stderr="The slices are too thick."), EXPECTED, judge.TOLD),
        (answer(code=2, stderr="Thick slices."), dataclasses.replace(EXPECTED, must_complete=True), judge.REFUSED),
        (answer(code=2, stderr="The file is bad."), EXPECTED, judge.SILENT),
        (answer(code=2, stderr="Unexpected IndexError: slices"), EXPECTED, judge.INTERNAL),
        (answer(code=1, stderr="Traceback (most recent call last):"), EXPECTED, judge.INTERNAL),
        (answer(code=3), EXPECTED, judge.SILENT),
        (answer(code=3), Expected(clear_of=REMOVED), judge.RIGHT),
        (answer(), Expected(clear_of=REMOVED, explained="loose"), judge.SILENT),
        (answer(), Expected(clear_of=LEFT), judge.RIGHT),
        (answer(), Expected(left_open=PART), judge.SILENT),
        (answer(), Expected(holes=[REMOVED, PART]), judge.RIGHT),
        (answer(), Expected(holes=[REMOVED, fragment(LEFT, 1.0)]), judge.SILENT),
        (answer(), Expected(volume_ml=(1.0, 2.0)), judge.SILENT),
        (answer(), Expected(REMOVED, whole_mesh=True), judge.SILENT),
    ],
)  # fmt: skip
def test_an_answer_is_right_told_or_wrong_in_silence(given, expected, outcome):
    assert judge.judge(given, expected)[0] == outcome


def test_dsc_counts_in_the_world():
    assert judge.dsc(REMOVED, images.padded(REMOVED, 10)) == 1
    assert judge.dsc(REMOVED, None) == 0
    half = fragment(REMOVED, judge.volume_ml(REMOVED) / 2)
    assert judge.dsc(REMOVED, half) == pytest.approx(2 / 3, abs=0.01)


def test_surface_errors_are_those_of_the_tables_in_millimetres(tmp_path):
    mesh = mask_surface(REMOVED)
    write_stl(mesh, tmp_path / "implant.stl")
    read = judge.read_stl(tmp_path / "implant.stl")
    assert read.volume_ml == pytest.approx(mesh.volume_ml, rel=1e-4)
    same = judge.surface_errors(REMOVED, read, VAULT.centre)
    assert max(same.values()) < 0.01
    outward = np.array(HOLE.direction) / np.linalg.norm(HOLE.direction)
    shifted = judge.surface_errors(REMOVED, dataclasses.replace(read, points=read.points + 2 * outward), VAULT.centre)
    assert 1.5 < shifted["outer_mean_mm"] < 2.1 and 1.5 < shifted["inner_mean_mm"] < 2.1
    assert mean_thickness(REMOVED, VAULT.centre) == pytest.approx(6, abs=1)


def test_paths_name_no_cause_but_words_between_apostrophes_do():
    said = Answer(2, "'/a/slices.nrrd' is rejected: the file's slice distance and the header's date are wrong").said
    assert "slices" not in said and "slice distance" in said


def test_a_wrong_implant_that_the_self_check_rates_poor_is_not_silent():
    half = fragment(REMOVED, judge.volume_ml(REMOVED) / 4)
    for rating, outcome in (("good", judge.SILENT), ("acceptable", judge.SILENT), ("poor", judge.TOLD)):
        given = Answer(0, "", {"checks": {"rating": rating, "checks": []}}, half)
        assert judge.judge(given, Expected(REMOVED))[0] == outcome


def test_the_reported_thickness_is_compared_with_the_truths():
    expected = Expected(REMOVED, thickness=True, centre=VAULT.centre)
    assert judge.judge(answer(implant=REMOVED), expected)[0] == judge.SILENT
    given = Answer(0, "", {"implant": {"thickness_mm": {"mean": 6.0}}}, REMOVED)
    assert judge.judge(given, expected)[0] == judge.RIGHT


# The catalogue and the commands ---------------------------------------------------------------------------------------


def test_every_kind_has_three_variants_on_at_least_two_skulls():
    for kind in KINDS.values():
        assert len(kind.variants) >= 3, kind.name
        for arguments in kind.variants.values():
            inspect.signature(kind.make).bind(None, *arguments)
        names = {arguments[0] for arguments in kind.variants.values() if isinstance(arguments[0], str)}
        if kind.name not in ("thick_slices_patient", "real_craniotomy"):
            assert len(names) >= 2, kind.name


def test_the_records_table_counts_outcomes_and_misrated_implants():
    records = [
        {"kind": "a", "variant": "b", "outcome": judge.SILENT, "note": "DSC 0.10", "dsc": 0.1, "rating": "good"},
        {"kind": "a", "variant": "c", "outcome": judge.RIGHT, "note": "", "dsc": None, "seconds": 3.2},
    ]
    text = hard_inputs.table(records)
    assert "a: 1 right, 1 WRONG IN SILENCE" in text
    assert "neither right nor explained: 1" in text


def test_an_unknown_kind_is_refused(tmp_path, capsys):
    assert hard_inputs.main([str(tmp_path), "--skulls", str(tmp_path), "--only", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_holes_that_share_a_completion_are_far_apart(tmp_path):
    (tmp_path / "someone.nrrd").touch()
    runs = found_holes.runs_of([tmp_path], [], 1, None)
    assert len(runs) == 1 + 3 + 4 + 12 + 12
    by_size = {size: [p for run in runs if run.size == size for p in run.places] for size in found_holes.SIZES}
    assert all(sorted(places) == sorted(found_holes.PLACES) for places in by_size.values())
    for run in runs:
        directions = [np.array(found_holes.PLACES[place]) for place in run.places]
        for one, other in itertools.combinations(directions, 2):
            cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
            assert 80 * np.arccos(cosine) > 70
    burr = {hole.width_mm for run in runs if run.size == "burr hole" for hole in run.holes().values()}
    assert burr == set(found_holes.BURR_MM)
    assert len(found_holes.runs_of([tmp_path], ["someone"], 4, None)) == 1 + 8
    assert {run.size for run in found_holes.runs_of([tmp_path], [], 1, None, ["4 cm", "7 cm"])} == {"4 cm", "7 cm"}
    assert found_holes.main(["out", "--skulls", str(tmp_path), "--sizes", "5 cm"]) == 2


def test_a_vault_only_skull_gets_only_holes_with_bone_all_around():
    holes = {"low": AT_THE_END, "high": Hole((0, 0, 1), 40)}
    left, removed, excluded = found_holes.with_holes(Head("scatterbrains99", BONE, VAULT), holes)
    assert list(removed) == ["high"] and list(excluded) == ["low"]
    assert (left.array == (BONE.array & ~removed["high"].array)).all()
    _, removed, excluded = found_holes.with_holes(Head("whole", BONE, VAULT), holes)
    assert len(removed) == 2 and not excluded


def test_shares_are_given_by_size_and_source_of_the_skull():
    found, missed = ({"ml": 3.0, "covered": share, "candidate": None} for share in (0.9, 0.2))
    records = [
        {"skull": "cisc881", "size": "4 cm", "excluded": {}, "candidates": [], "holes": {"vertex": found}},
        {"skull": "cisc881", "size": "4 cm", "excluded": {}, "candidates": [], "holes": {"lambda": missed}},
        {
            "skull": "colin27", "size": found_holes.NOTHING, "excluded": {}, "holes": {}, "filled_ml": 1.5,
            "candidates": [{"volume_ml": 1.5, "probability": 0.55, "filled": True, "reason": "doubtful"}],
        },
    ]  # fmt: skip
    text = found_holes.summary(records)
    assert "1 of    2 found,  50.0%" in text
    assert "cisc881, lambda, 4 cm" in text
    assert "colin27: 1.5 ml; candidate of 1.5 ml, probability 0.55, doubtful" in text


def test_the_nearest_candidate_belongs_to_a_hole():
    near = {"centre_mm": centre_of(REMOVED).tolist(), "number": 2}
    far = {"centre_mm": (centre_of(REMOVED) + 90).tolist(), "number": 1}
    assert found_holes.candidate_at(REMOVED, [far, near]) is near
    assert found_holes.candidate_at(REMOVED, [far]) is None


def test_a_record_cut_off_by_a_kill_is_computed_again(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"key": "one"}\n{"key": "tw', encoding="utf-8")
    assert list(found_holes.read_records(path)) == ["one"]


def test_a_completion_is_compared_with_every_hole_that_was_cut(tmp_path, monkeypatch):
    write_volume(SHELL, tmp_path / "someone.nrrd")
    runs = found_holes.runs_of([tmp_path], [], 1, None)
    run = next(run for run in runs if run.size == "4 cm" and "left frontal" in run.places)

    def complete(volume, model, options, stages):
        """Fills what is missing in front of the vault's centre only."""
        missing = BONE.array & (volume.array == 0)
        index = np.indices(BONE.array.shape).reshape(3, -1).T
        ahead = (apply_affine(BONE.affine, index)[:, 1] > VAULT.centre[1]).reshape(BONE.array.shape)
        candidate = {"centre_mm": VAULT.centre.tolist(), "filled": True}
        report = {"candidates": [candidate], "warnings": []}
        return types.SimpleNamespace(implant=volume.with_array(missing & ahead), report=report)

    monkeypatch.setattr(found_holes, "complete", complete)
    monkeypatch.setattr(found_holes, "_model", lambda path: None)
    record = json.loads(json.dumps(found_holes.completed(run)))
    assert list(record["holes"]) == list(run.places)
    for place, hole in record["holes"].items():
        assert hole["ml"] > 3
        assert hole["covered"] == pytest.approx(float(found_holes.PLACES[place][1] > 0), abs=0.2)
    assert found_holes.summary([record])


def test_a_case_is_made_answered_and_recorded(tmp_path, monkeypatch):
    write_volume(SHELL, tmp_path / "elgabrielc.nrrd")
    arguments = hard_inputs.parse([str(tmp_path / "out"), "--skulls", str(tmp_path), "--only=temporal"])
    case = next(one for one in hard_inputs.cases_of(arguments) if one.variant.startswith("elgabrielc"))
    seen = {}

    def answered(path, arguments, output):
        volume = read_volume(path)
        implant = volume.with_array(BONE.array & (volume.array == 0))
        seen["path"] = path
        checks = {"rating": "good", "checks": [{"name": "open edge", "rating": "good"}]}
        return Answer(0, "", {"warnings": [], "checks": checks}, implant, mask_surface(implant))

    monkeypatch.setattr(hard_inputs, "answered", answered)
    record = json.loads(json.dumps(hard_inputs.run(case)))
    assert (record["outcome"], record["dsc"], record["rating"]) == (judge.RIGHT, 1, "good")
    assert record["outer_mean_mm"] < 0.1 and record["checks"] == {"open edge": "good"}
    assert seen["path"].name == "input.nrrd" and not case.folder.exists()
    assert case.key in hard_inputs.table([record])


def test_a_case_without_its_skull_is_skipped(tmp_path):
    arguments = hard_inputs.parse([str(tmp_path / "out"), "--skulls", str(tmp_path), "--only=real_craniotomy"])
    assert {hard_inputs.run(case)["outcome"] for case in hard_inputs.cases_of(arguments)} == {"skipped"}
