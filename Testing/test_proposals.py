"""Claims about proposals: the first is the run's own, the others differ, meet the bone, and are the same again."""

from __future__ import annotations

import json

import numpy as np
import pytest
from prepared import without_rim_correction

from SkullVAELib.completion.proposals import ProposalSampler, mean_difference_mm
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.io.images import read_volume
from SkullVAELib.mesh.isosurface import mask_surface
from SkullVAELib.report.result_files import RunResult, write_proposals


@pytest.fixture(scope="module")
def written(completion, sample, tmp_path_factory):
    """Three proposals: their folder and what the report says of them."""
    folder = tmp_path_factory.mktemp("proposals")
    options = ImplantOptions.parse(thickness_map=True)
    outcome = RunResult.of(completion, options, ("stl", "ply"), "head.nrrd", "m.safetensors").with_implant()
    outcome.write_implant(folder)
    return folder, write_proposals(outcome, 3, folder)


def test_another_shape_of_no_other_latent_is_the_first_one_voxel_for_voxel(completion):
    again = completion.patient.completion()
    assert np.array_equal(again.implant.array, completion.implant.array)
    assert again.report["implant"] == completion.report["implant"]


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_the_further_gamma_is_moved_the_more_the_implant_moves(completion):
    first = completion.implant.array
    moved = [dice(first, completion.patient.completion(gamma=gamma).implant.array) for gamma in (1e-4, 0.5, 2.0)]
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > 0.9995
    assert moved[1] > 0.99
    assert moved[2] < 1


def test_a_whole_run_with_another_gamma_comes_to_about_the_same(completion, completed, sample):
    """Only about: a whole run finds gap and rim by that shape anew."""
    moved = completion.patient.completion(gamma=1.0).implant.array
    assert dice(moved, completed(sample.bone, gamma=1.0).implant.array) > 0.95


def test_proposals_share_no_voxel_with_bone_and_differ_from_one_another(written, completion):
    folder, content = written
    masks = [completion.implant.array] + [read_volume(folder / f"proposal_{k}.nrrd").array != 0 for k in (2, 3)]
    assert not any((mask & completion.bone.array).any() for mask in masks)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert 0.7 < dice(masks[first], masks[second]) < 0.97
    assert [entry["number"] for entry in content] == [1, 2, 3]
    assert content[0]["difference_mm"] == 0
    assert all(0.15 < entry["difference_mm"] < 2 for entry in content[1:])
    assert all(entry["rim_gap_mm"] < 2 for entry in content)
    for entry, mask in zip(content, masks, strict=True):
        assert entry["volume_ml"] == pytest.approx(mask.sum() * completion.bone.voxel_ml, abs=0.001)


def test_every_file_a_proposal_names_is_there_on_the_inputs_grid(written, completion):
    folder, content = written
    json.dumps(content)
    assert content[1]["files"] == ["proposal_2.nrrd", "proposal_2.stl", "proposal_2.ply"]
    assert {name for entry in content[1:] for name in entry["files"]} == {
        path.name for path in folder.iterdir() if path.name.startswith("proposal")
    }
    assert np.allclose(read_volume(folder / "proposal_2.nrrd").affine, completion.bone.affine)


def test_draws_are_the_same_again_and_the_first_is_the_runs_own(completion):
    first, second = ProposalSampler(completion.patient), ProposalSampler(completion.patient)
    made = [first.completion(number, None).implant.array for number in (1, 2, 3)]
    assert np.array_equal(made[0], completion.implant.array)
    assert np.array_equal(made[1], second.completion(2, None).implant.array)
    assert not np.array_equal(made[1], made[2])


def test_of_a_prior_without_a_latent_only_the_tables_are_drawn(completed, sample):
    found = completed(sample.bone, prior="mean")
    assert 0.7 < dice(found.implant.array, ProposalSampler(found.patient).completion(2, None).implant.array) < 0.99
    with pytest.raises(SkullVAEError, match="one shape only"):
        ProposalSampler(without_rim_correction(found.patient)).completion(2, None)


def test_the_difference_of_two_balls_is_that_of_their_radii():
    away = np.linalg.norm(np.indices((60, 60, 60)) - 30.0, axis=0)
    small, large = (mask_surface(Volume(away < radius, np.eye(4))) for radius in (18, 20.5))
    assert mean_difference_mm(small, large) == pytest.approx(2.5, abs=0.15)
    assert mean_difference_mm(small, small) == 0
