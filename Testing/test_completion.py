"""Claims about the completion: it never touches bone, fills what is missing, sees the head, not how it is stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from prepared import with_prior
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.completion.options import PRIORS, CompletionOptions
from SkullVAELib.completion.pipeline import complete
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.progress import Stages
from SkullVAELib.core.threads import one_thread
from SkullVAELib.data.synthetic_defects import cut_defect
from SkullVAELib.evaluation.metrics import dice, hd95
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.distance_field import downsample_mask
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import read_volume
from SkullVAELib.registration.bone import bone_mask
from SkullVAELib.registration.patient import align_to_mean, register_patient
from SkullVAELib.registration.skull import prepare_skull


def test_the_completed_skull_holds_the_bone_and_the_implant_none_of_it(completion, sample):
    assert completion.found
    assert np.array_equal(completion.bone.array, sample.bone.array)
    assert not (completion.implant.array & sample.bone.array).any()
    assert np.array_equal(completion.completed.array, sample.bone.array | completion.implant.array)


def test_results_lie_on_the_grid_of_the_input(completion, sample):
    for result in (completion.bone, completion.completed, completion.implant):
        assert result.array.shape == sample.bone.array.shape
        assert result.array.dtype == bool
        assert np.array_equal(result.affine, sample.bone.affine)


@pytest.fixture(scope="module")
def score(completion, sample) -> float:
    """Dice of the implant for the head as it is: what no change of circumstances may spoil."""
    return dice(sample.truth, completion.implant.array)


def test_the_missing_piece_comes_back(score):
    assert score >= 0.8


def test_the_implant_is_one_piece_where_one_is_missing(completion):
    assert ndimage.label(completion.implant.array)[1] == 1
    assert completion.report["implant"]["defects"] == 1


def test_the_figures_are_those_of_the_implant(completion):
    figures = completion.report["implant"]
    volume_ml = completion.implant.array.sum() * completion.implant.voxel_ml
    assert figures["volume_ml"] == pytest.approx(volume_ml, abs=0.01)
    assert figures["pieces"] == 1
    assert "thickness_mm" not in figures  # it is measured on the printable implant
    assert 0 <= figures["rim_gap_mm"] < 2


# Axis orders and flips: two of the mirroring kind (det -1), the file's own order turned round, and permuted ones.
# Whole runs are made of one of each kind; all others end where the affine has been used, at the registered surface.
ORIENTATIONS = [
    ((0, 1, 2), (-1, -1, -1)),
    ((0, 1, 2), (1, -1, 1)),
    ((1, 0, 2), (1, 1, 1)),
    ((2, 1, 0), (-1, 1, 1)),
    ((1, 2, 0), (1, 1, -1)),
    ((2, 0, 1), (-1, -1, 1)),
]


def stored(volume: Volume, order: tuple[int, ...], flips: tuple[int, ...]) -> Volume:
    """The same bone at the same place in the world with its axes permuted and flipped."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        matrix[old, new] = flip
        if flip < 0:
            matrix[old, 3] = volume.array.shape[old] - 1
    array = volume.array.transpose(order)[tuple(slice(None, None, flip) for flip in flips)]
    return Volume(array, volume.affine @ matrix)


def back(array: np.ndarray, order: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    return array[tuple(slice(None, None, flip) for flip in flips)].transpose(np.argsort(order))


@pytest.fixture(scope="module")
def aligned(model):
    """Prepare a bone volume and register it to the mean skull: aligned(bone) -> AlignedSkull."""

    def run(bone: Volume):
        return align_to_mean(prepare_skull("", bone), model)

    return run


@pytest.fixture(scope="module")
def own_alignment(aligned, sample):
    return aligned(sample.bone)


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_bone_is_where_it_was_however_the_file_stores_its_axes(own_alignment, aligned, sample, order, flips):
    turned = stored(sample.bone, order, flips)
    corner = apply_affine(turned.affine, np.argwhere(turned.array)[:1])
    assert sample.bone.array[tuple(np.round(apply_affine(np.linalg.inv(sample.bone.affine), corner)).astype(int)[0])]
    assert np.array_equal(back(turned.array, order, flips), sample.bone.array)
    apart = cKDTree(own_alignment.points).query(aligned(turned).points[::20])[0]
    assert np.percentile(apart, 95) < 1.0


@pytest.mark.parametrize(("order", "flips"), [ORIENTATIONS[3], ORIENTATIONS[4]])
def test_the_implant_does_not_depend_on_how_the_file_stores_its_axes(completed, completion, sample, order, flips):
    implant = back(completed(stored(sample.bone, order, flips)).implant.array, order, flips)
    assert dice(implant, completion.implant.array) >= 0.97
    assert hd95(implant, completion.implant.array, sample.bone.spacing) <= 1.0


def tilted(volume: Volume, axis: int, degrees: float) -> Volume:
    """The head turned in the scanner, about a point far from it."""
    angle, (i, j) = np.radians(degrees), [a for a in range(3) if a != axis]
    turn = np.eye(4)
    turn[i, i] = turn[j, j] = np.cos(angle)
    turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
    turn[:3, 3] = [30, 250, -700]
    return Volume(volume.array, turn @ volume.affine)


@pytest.mark.parametrize(("axis", "degrees"), [(0, 20), (0, -20), (1, 20), (2, -20)])
def test_a_head_tilted_20_degrees_lies_on_the_mean_all_the_same(own_alignment, aligned, sample, axis, degrees):
    found = aligned(tilted(sample.bone, axis, degrees))
    assert found.fit_mm < own_alignment.fit_mm + 0.3
    assert np.percentile(cKDTree(own_alignment.points).query(found.points[::20])[0], 95) < 2.0


@pytest.mark.parametrize(("axis", "degrees"), [(0, -20), (1, 20)])
def test_a_head_tilted_20_degrees_is_completed_all_the_same(completed, sample, score, axis, degrees):
    result = completed(tilted(sample.bone, axis, degrees))
    assert dice(sample.truth, result.implant.array) >= score - 0.1


def with_neck(bone: Volume) -> Volume:
    """Six rings and blocks like vertebrae hung below the skull, in a volume made longer for them (axes L, P, S)."""
    added = int(120 / bone.spacing[2])
    affine = bone.affine.copy()
    affine[:3, 3] = apply_affine(affine, np.array([0.0, 0.0, -added]))
    array = np.pad(bone.array, ((0, 0), (0, 0), (added, 0)))
    index = np.stack(np.meshgrid(*[np.arange(n) for n in array.shape], indexing="ij"), -1)
    at = index * bone.spacing - (np.array(array.shape) * [0.5, 0.55, 0] * bone.spacing)
    radius = np.hypot(at[..., 0], at[..., 1])
    body = (np.hypot(at[..., 0], at[..., 1] + 12) < 13) | ((radius < 24) & (radius > 17))
    return Volume(array | (body & (at[..., 2] < 115) & (at[..., 2] % 19 < 15)), affine)


def test_a_neck_does_not_disturb(completed, sample, score):
    result = completed(with_neck(sample.bone))
    added = result.implant.array.shape[2] - sample.bone.array.shape[2]
    assert not result.implant.array[:, :, :added].any()
    assert dice(sample.truth, result.implant.array[:, :, added:]) >= score - 0.1


def test_a_field_of_view_that_ends_at_the_base_is_no_defect(completed, sample, score):
    height = sample.bone.array.shape[2]
    start = height - int(105 / sample.bone.spacing[2])
    affine = sample.bone.affine.copy()
    affine[:3, 3] = apply_affine(affine, np.array([0.0, 0.0, start]))
    result = completed(Volume(sample.bone.array[:, :, start:], affine))
    assert result.report["implant"]["defects"] == 1
    assert dice(sample.truth[:, :, start:], result.implant.array) >= score - 0.1


def test_two_defects_give_two_pieces(completed, sample):
    front = {"direction": np.array([0.0, 0.9, 0.45]), "size": 0.3}
    back_of_head = {"direction": np.array([0.0, -0.9, 0.5]), "size": 0.3}
    bone = sample.whole
    for seed, where in enumerate((front, back_of_head)):
        bone = bone.with_array(cut_defect(bone, downsample_mask(bone), "blob", seed, **where)[0])
    truth = sample.whole.array & ~bone.array
    result = completed(bone)
    assert result.report["implant"]["defects"] == 2
    assert result.report["implant"]["pieces"] == 2
    assert dice(truth, result.implant.array) >= 0.8


@pytest.mark.parametrize("prior", ["blend", "encode", "dev", "map"])
def test_every_prior_completes(completion, sample, model, prior):
    """What comes before the prior is that of the whole run, see test_a_run_has_the_prior_that_was_asked_for."""
    patient = with_prior(completion.patient, model, prior)
    points = patient.registered.points_on_mean
    assert (patient.first.field(points) != completion.patient.first.field(points)).any()
    result = patient.completion()
    assert not (result.implant.array & sample.bone.array).any()
    assert dice(sample.truth, result.implant.array) >= 0.6


def test_a_run_has_the_prior_that_was_asked_for(completed, completion, sample):
    result = completed(sample.bone, prior="dev")
    assert result.report["parameters"]["prior"] == "dev"
    assert (result.implant.array ^ completion.implant.array).any()
    assert dice(sample.truth, result.implant.array) >= 0.6


def test_an_unknown_prior_is_an_error_that_lists_the_known_ones():
    with pytest.raises(SkullVAEError, match=", ".join(PRIORS)):
        CompletionOptions(prior="best")


def test_bone_that_is_no_skull_is_an_error(completed):
    speck = np.zeros((40, 40, 40), bool)
    speck[18:22, 18:22, 18:22] = True
    with pytest.raises(SkullVAEError, match="too little bone"):
        completed(Volume(speck, np.eye(4)))


def test_a_bone_that_is_no_head_is_refused(completed):
    """What follows where the user insists is in test_bad_inputs.py: "not a head, with --force"."""
    i, j, k = np.ogrid[:60, :60, :240]
    shaft = np.hypot(i - 30, j - 30)
    bone = Volume((shaft < 14) & (shaft > 7) & (k > 5) & (k < 235), np.eye(4))
    with pytest.raises(SkullVAEError, match="Input rejected"):
        completed(bone)


def test_a_ct_is_registered_as_its_segmentation_is(model, sample):
    """All that follows sees the registered patient alone; a CT is run to its end in test_bad_inputs.py."""
    values = np.where(sample.bone.array, 900, -40).astype(np.int16)
    values[:3] = -1000
    ct = sample.bone.with_array(values)
    with one_thread():
        found, segmented = (
            register_patient(volume, model) for volume in (ct, ct.with_array(bone_mask(ct)[0].astype(np.uint8)))
        )
    assert (found.about_bone["kind"], segmented.about_bone["kind"]) == ("ct", "labelmap")
    assert np.array_equal(found.bone.array, segmented.bone.array)
    assert np.array_equal(found.alignment, segmented.alignment)
    assert torch.equal(found.warp, segmented.warp)
    assert torch.equal(found.field, segmented.field)


def test_the_skullbreak_case_is_completed(model, real_skulls):
    # 512 x 512 x 512 voxels of 0.4 mm, stored L, A, S and cut at the skull base; there is no truth.
    volume = read_volume(real_skulls / "defective" / "skullbreak_parietotemporal_001.nii.gz")
    result = complete(volume, model, CompletionOptions(), Stages({}))
    assert result.report["implant"]["defects"] == 1
    assert 20 < result.report["implant"]["volume_ml"] < 60
    assert not (result.implant.array & (volume.array != 0)).any()


REAL_CASES = {
    "frontal blob": ("blob", (0.2, 0.9, 0.45), 0.7, 0.85),
    "right parietal box": ("box", (0.8, -0.35, 0.6), 0.5, 0.85),
}


@pytest.mark.parametrize("place", REAL_CASES)
def test_a_skull_the_model_never_saw_gets_its_missing_piece_back(model, real_skulls, place):
    individual = "cerebrix"
    assert not any(name.startswith(individual) for name in model.provenance["data"])
    kind, direction, size, least = REAL_CASES[place]
    volume = read_volume(real_skulls / "evaluation" / f"{individual}.nrrd")
    whole = volume.with_array(bone_mask(volume)[0])
    defective, truth = cut_defect(whole, downsample_mask(whole), kind, seed=2, direction=np.array(direction), size=size)
    given = whole.with_array(defective.astype(np.uint8))
    result = complete(given, model, CompletionOptions(), Stages({}))
    assert dice(truth, result.implant.array) >= least
    assert hd95(truth, result.implant.array, whole.spacing) <= 4
