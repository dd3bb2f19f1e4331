"""Claims about the face: what one side lacks comes back as the mirror image of the other, where it is asked for."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import trimesh
from benchmark.cases import PLACES, cut_place
from benchmark.contest import load_whole

from SkullVAELib.cli.main import main
from SkullVAELib.completion.face import FACE_ERROR_MM, FaceCompletion
from SkullVAELib.completion.pipeline import _no_defect_warning
from SkullVAELib.completion.result import Completion
from SkullVAELib.data.generated_skull import generated_skull
from SkullVAELib.evaluation.metrics import dice
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.implant.implant_mesh import make_implant
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.io.images import write_volume
from SkullVAELib.registration.patient import register_patient

SEED = 3


@pytest.fixture(scope="module")
def halved(model) -> tuple[Volume, np.ndarray]:
    """A generated skull that lacks a part of one side of its face, and that part."""
    return generated_skull(model, SEED, "facial")


@pytest.fixture(scope="module")
def completed_face(completed, halved) -> Completion:
    return completed(halved[0], face=True)


def test_half_a_face_comes_back(completed_face, halved):
    assert dice(halved[1], completed_face.implant.array) >= 0.7


def test_nothing_is_added_to_bone_or_taken_from_it(completed_face, halved):
    bone = halved[0].array
    assert not (completed_face.implant.array & bone).any()
    assert np.array_equal(completed_face.completed.array, bone | completed_face.implant.array)


def test_the_report_says_what_was_done(completed_face):
    content = completed_face.report
    assert content["face"]["volume_ml"] == content["implant"]["volume_ml"]
    assert content["face"]["defects"] == content["implant"]["defects"]
    assert 0 < content["face"]["mirror_fit_mm"] < 1
    assert any("mirror image" in text for text in content["warnings"])


def face_of(model, bone: Volume) -> FaceCompletion | None:
    """The stage "face" of a run for a head without a defect of its vault."""
    volume = bone.with_array(bone.array.astype(np.uint8))
    return FaceCompletion.of(register_patient(volume, model), [])


def test_a_whole_face_gets_nothing(model, halved):
    bone, lost = halved
    assert face_of(model, bone) is not None
    assert face_of(model, bone.with_array(bone.array | lost)) is None


def test_a_head_without_a_face_gets_none(model, halved):
    bone, lost = halved
    vault = bone.array | lost
    vault[..., : int(0.6 * vault.shape[2])] = False
    assert face_of(model, bone.with_array(vault)) is None


def test_what_both_sides_lack_stays_open(model, halved):
    bone, lost = halved
    at = np.argwhere(lost)
    middle = (bone.array.shape[0] - 1) / 2  # a generated skull is cropped to its bone, about its own middle
    both = lost.copy()
    mirrored = at.copy()
    mirrored[:, 0] = np.round(2 * middle - at[:, 0])
    both[tuple(mirrored.T)] = True
    both[:, at[:, 1].min() : at[:, 1].max() + 1, at[:, 2].min() : at[:, 2].max() + 1] = True
    face = face_of(model, bone.with_array(bone.array & ~both))
    assert face is None or face.implant.mask.sum() < 0.1 * lost.sum()


@pytest.fixture(scope="module")
def twice(model, halved) -> tuple[Volume, np.ndarray, np.ndarray]:
    """The same skull without a piece of its vault, too: its bone, the vault's lost piece and the face's."""
    vault = generated_skull(model, SEED)[1]
    bone, lost = halved
    return bone.with_array(bone.array & ~vault), vault, lost & ~vault


@pytest.fixture(scope="module")
def completed_twice(completed, twice) -> Completion:
    return completed(twice[0], face=True)


def test_vault_and_face_are_both_completed(completed_twice, twice):
    _, vault, lost = twice
    assert dice(vault | lost, completed_twice.implant.array) >= 0.7
    for piece in (vault, lost):
        assert (completed_twice.implant.array & piece).sum() >= 0.6 * piece.sum()
    assert completed_twice.report["implant"]["defects"] >= 2


@pytest.fixture(scope="module")
def vault_alone(completed, twice) -> Completion:
    """Without being asked to complete the face."""
    return completed(twice[0])


def test_without_being_asked_the_face_stays_as_it_is(vault_alone, twice):
    assert "face" not in vault_alone.report
    assert not (vault_alone.implant.array & twice[2]).any()


def test_where_nothing_is_found_the_way_to_complete_a_face_is_named_unless_it_was_searched():
    for face in (False, True):
        assert ("use --face" in _no_defect_warning([], face, None)) != face


@pytest.mark.parametrize(("probabilities", "complete"), [((), True), ((0.02, 0.09), True), ((0.02, 0.1), False)])
def test_where_nothing_is_found_a_complete_skull_is_named_as_the_reason_unless_a_candidate_is_likely(
    probabilities, complete
):
    candidates = [SimpleNamespace(number=n, place="", probability=p, reason="") for n, p in enumerate(probabilities)]
    for threshold in (None, 300.0):
        assert ("the skull is complete" in _no_defect_warning(candidates, True, threshold)) == complete


def test_the_vaults_implant_is_the_one_it_gets_alone(vault_alone, completed_twice, twice):
    _, vault, _ = twice
    alone = vault_alone.implant.array
    assert alone.sum() > 0.7 * vault.sum()
    assert not (alone & ~completed_twice.implant.array).any()


def test_each_shape_tells_its_own_defect(completed_twice, twice):
    bone, vault, lost = twice
    proposal = completed_twice.proposal
    for piece, of_face in ((vault, False), (lost, True)):
        points = apply_affine(bone.affine, np.argwhere(piece & completed_twice.implant.array))
        assert (proposal.of_face(points) == of_face).mean() > 0.95


def test_the_part_of_vault_and_face_is_closed(completed_twice):
    part = make_implant(completed_twice, ImplantOptions())
    assert part.pieces
    for piece in part.pieces:
        assert trimesh.Trimesh(piece.mesh.points, piece.mesh.faces, process=False).is_watertight
    made = sum(piece.mesh.volume_ml for piece in part.pieces)
    assert made == pytest.approx(completed_twice.report["implant"]["volume_ml"], rel=0.1)


def test_another_shape_leaves_the_face_as_it_is(completed_twice, twice):
    other = completed_twice.patient.completion(gamma=1.0)
    _, _, lost = twice
    assert np.array_equal(other.implant.array & lost, completed_twice.implant.array & lost)
    assert other.report["warnings"] == completed_twice.patient.warnings


def test_a_facial_defect_is_one_of_the_face_which_alone_has_one_proposal_and_no_band(halved, tmp_path, capsys):
    file = tmp_path / "head.nrrd"
    write_volume(halved[0].with_array(halved[0].array.astype(np.uint8)), file)
    wishes = ("--defect", "facial", "--proposals", "3", "--uncertainty", "--report")
    assert main(["complete", str(file), "-o", str(tmp_path / "out"), *wishes]) == 0
    content = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert content["face"]["defects"] >= 1
    assert [proposal["number"] for proposal in content["proposals"]] == [1]
    assert content["implant"]["rim_gap_mm"] is None
    assert {"implant.nrrd", "implant.stl", "report.html"} <= set(content["files"])
    assert not {"proposal_2.nrrd", "implant_uncertainty.ply"} & set(content["files"])


def test_where_the_face_is_told_the_band_is_what_was_measured_for_it(completed_twice, sample_outcome):
    outcome = sample_outcome(completed_twice).with_implant(ImplantOptions())
    of_face = completed_twice.proposal.of_face(outcome.printable.mesh.points)
    assert of_face.any() and not of_face.all()
    assert (outcome.band_mm[of_face] == FACE_ERROR_MM).all()
    assert len(np.unique(outcome.band_mm[~of_face])) > 100


@pytest.fixture(scope="module")
def sample_outcome():
    from SkullVAELib.report.result_files import RunResult

    return lambda completion: RunResult.of(completion, ImplantOptions(), ("stl",), "head.nrrd", "model")


def test_half_of_a_real_face_comes_back(completed, real_skulls):
    number = next(n for n, place in enumerate(PLACES) if place.facial)
    whole, bone, truth = cut_place(load_whole(real_skulls / "complete" / "mgh_angel001.nii.gz"), number)
    completion = completed(whole.with_array(bone), face=True)
    assert dice(truth, completion.implant.array) >= 0.6
