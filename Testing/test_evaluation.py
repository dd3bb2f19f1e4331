"""Claims about scoring folders: the right files are paired, nothing is resampled, nothing is left out in silence."""

from __future__ import annotations

import json
import math
from statistics import fmean

import numpy as np
import pytest

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.evaluation.folders import evaluate_folders, find_implants, score_table, scores_as_json
from SkullVAELib.evaluation.metrics import boundary_dice, dice, hd95
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import write_volume

AFFINE = np.diag([-1.0, -1.5, 2.0, 1.0])


def box(start, shape=(24, 24, 24)) -> np.ndarray:
    array = np.zeros(shape, bool)
    array[start : start + 8, 6:14, 4:16] = True
    return array


def put(array, path, affine=AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(Volume(array, affine), path)


def skull() -> np.ndarray:
    array = np.zeros((24, 24, 24), bool)
    array[:3] = True
    return array


def lay_out(layout, root):
    """Two cases, stored as `layout` says; returns the folders of truth and prediction and the names expected."""
    truth, prediction = root / "truth", root / "prediction"
    cases = {"000": 5, "001": 7}
    for name, start in cases.items():
        if layout == "flat":
            put(box(start), truth / f"{name}.nrrd")
            put(box(start + 1), prediction / f"{name}.nii.gz")
        elif layout == "a folder for each case":
            put(box(start), truth / name / "implant.nrrd")
            put(skull(), truth / name / "defective_skull.nrrd")
            put(box(start + 1), prediction / name / "implant.nrrd")
            put(skull() | box(start), prediction / name / "completed.nrrd")
        elif layout == "SkullFix":
            put(box(start), truth / "implant" / f"{name}.nrrd")
            put(skull(), truth / "defective_skull" / f"{name}.nrrd")
            put(skull() | box(start), truth / "complete_skull" / f"{name}.nrrd")
            put(box(start + 1), prediction / name / "implant.nrrd")
        elif layout == "SkullBreak":
            for site in ("bilateral", "random_1"):
                put(box(start), truth / "implant" / site / f"{name}.nrrd")
                put(skull(), truth / "defective_skull" / site / f"{name}.nrrd")
                put(box(start + 1), prediction / site / name / "implant.nrrd")
            put(skull() | box(start), truth / "complete_skull" / f"{name}.nrrd")
    names = [f"{site}/{n}" for site in ("bilateral", "random_1") for n in cases]
    return truth, prediction, names if layout == "SkullBreak" else list(cases)


@pytest.mark.parametrize("layout", ["flat", "a folder for each case", "SkullFix", "SkullBreak"])
def test_each_layout_is_paired_and_scored(tmp_path, layout):
    truth, prediction, names = lay_out(layout, tmp_path)
    scores = evaluate_folders(truth, prediction)
    assert [score.case for score in scores] == names
    for score in scores:
        start = 5 if score.case.endswith("000") else 7
        spacing = np.array([1, 1.5, 2])
        assert score.dsc == dice(box(start), box(start + 1))
        assert score.hd95_mm == hd95(box(start), box(start + 1), spacing)
        expected = None if layout == "flat" else boundary_dice(box(start), box(start + 1), skull(), spacing)
        assert score.bdsc == expected
        assert score.truth_ml == pytest.approx(8 * 8 * 12 * 3 / 1000)


def test_the_mean_is_the_mean_and_everything_is_in_table_and_json(tmp_path):
    truth, prediction, names = lay_out("SkullFix", tmp_path)
    put(box(7), prediction / "001" / "implant.nrrd")  # a perfect one, so that the cases differ
    scores = evaluate_folders(truth, prediction)
    data = json.loads(json.dumps(scores_as_json(scores), allow_nan=False))
    assert [case["case"] for case in data["cases"]] == names
    assert data["cases"][1] == pytest.approx(
        {"case": "001", "dsc": 1, "bdsc": 1, "hd95_mm": 0, "truth_ml": 2.304, "prediction_ml": 2.304}
    )
    for measure in ("dsc", "bdsc", "hd95_mm"):
        assert data["mean"][measure] == pytest.approx(fmean(case[measure] for case in data["cases"]))
    text = score_table(scores)
    assert all(name in text for name in (*names, "DSC", "bDSC", "HD95", "mean", "median"))
    assert f"{data['mean']['dsc']:.3f}" in text


def test_an_empty_prediction_scores_zero_and_infinite_and_is_mentioned(tmp_path):
    truth, prediction, _ = lay_out("SkullFix", tmp_path)
    put(np.zeros((24, 24, 24), bool), prediction / "000" / "implant.nrrd")
    scores = evaluate_folders(truth, prediction)
    assert (scores[0].dsc, scores[0].bdsc) == (0, 0)
    assert math.isinf(scores[0].hd95_mm)
    data = scores_as_json(scores)
    assert data["cases"][0]["hd95_mm"] is None
    assert data["mean"]["hd95_mm"] is None
    assert "infinite" in " ".join(data["notes"])
    assert "inf" in score_table(scores)


def test_a_missing_defective_skull_is_null_and_mentioned(tmp_path):
    truth, prediction, _ = lay_out("SkullFix", tmp_path)
    (truth / "defective_skull" / "001.nrrd").unlink()
    scores = evaluate_folders(truth, prediction)
    assert scores[0].bdsc is not None
    assert scores[1].bdsc is None
    data = scores_as_json(scores)
    assert data["mean"]["bdsc"] is None
    assert "1 of 2" in data["notes"][0]


def shifted() -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += 1.0
    return affine


@pytest.mark.parametrize(
    ("array", "affine"),
    [(box(6, (24, 24, 25)), AFFINE), (box(6), shifted()), (box(6), np.diag([1.0, -1.5, 2, 1])), (box(6), np.eye(4))],
    ids=["another shape", "another origin", "a flipped axis", "another spacing"],
)
def test_another_grid_is_an_error_that_names_the_file(tmp_path, array, affine):
    truth, prediction, _ = lay_out("flat", tmp_path)
    put(array, prediction / "001.nii.gz", affine)
    with pytest.raises(SkullVAEError, match=r"001\.nii\.gz.*not on the same grid"):
        evaluate_folders(truth, prediction)


def test_a_case_without_a_prediction_is_an_error(tmp_path):
    truth, prediction, _ = lay_out("flat", tmp_path)
    (prediction / "001.nii.gz").unlink()
    with pytest.raises(SkullVAEError, match="'001'"):
        evaluate_folders(truth, prediction)


def test_a_prediction_without_a_truth_does_no_harm(tmp_path):
    truth, prediction, names = lay_out("flat", tmp_path)
    put(box(3), prediction / "extra.nrrd")
    assert [score.case for score in evaluate_folders(truth, prediction)] == names


def test_two_files_for_one_case_are_an_error(tmp_path):
    _, prediction, _ = lay_out("flat", tmp_path)
    put(box(3), prediction / "001.nrrd")
    with pytest.raises(SkullVAEError, match="the same case name '001'"):
        find_implants(prediction)


def test_what_a_run_has_not_finished_is_passed_over(tmp_path):
    _, prediction, names = lay_out("a folder for each case", tmp_path)
    put(box(3), prediction / "000" / ".unfinished" / "implant.nrrd")
    assert list(find_implants(prediction)) == names


def test_a_missing_or_empty_folder_is_an_error(tmp_path):
    with pytest.raises(SkullVAEError, match="is not a folder"):
        evaluate_folders(tmp_path / "nowhere", tmp_path)
    with pytest.raises(SkullVAEError, match="No implant"):
        evaluate_folders(tmp_path, tmp_path)


def test_an_image_that_is_no_segmentation_is_an_error_that_names_the_file(tmp_path):
    truth, prediction, _ = lay_out("flat", tmp_path)
    put(np.arange(24**3, dtype=np.int16).reshape(24, 24, 24), prediction / "001.nii.gz")
    with pytest.raises(SkullVAEError, match=r"001\.nii\.gz.*one label"):
        evaluate_folders(truth, prediction)


def test_one_case_in_each_folder_is_a_pair(tmp_path):
    put(box(5), tmp_path / "truth" / "implant.nrrd")
    put(box(6), tmp_path / "result" / "implant.nrrd")
    put(box(6), tmp_path / "result" / "completed.nrrd")
    (score,) = evaluate_folders(tmp_path / "truth", tmp_path / "result")
    assert score.dsc == dice(box(5), box(6))
