"""Claims about the accuracy benchmark: fair cases, no skull scored by a model that saw it, meaningful figures."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import tiny
import torch
from accuracy import main
from benchmark import (
    against,
    contest,
    craniotomy,
    folds,
    layers,
    pca,
    pictures,
    plan,
    rows,
    second_opinion,
    slices,
    tables,
)
from benchmark.cases import PLACES, SITES, SIZES, STANDARD, VAULT_ONLY, cut_place, cut_with_centre, places_of
from benchmark.hard.judge import covered
from benchmark.rows import ABLATION, TITLES, Fold
from benchmark.scores import false_defects, rim_gap, score
from scipy import ndimage
from scipy.spatial.distance import cdist

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.data.datasets import find_cases
from SkullVAELib.evaluation.metrics import boundary_dice, hd95
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.io.images import write_volume
from SkullVAELib.mesh.isosurface import mask_surface
from SkullVAELib.vae.checkpoint import load_model, save_model

HEAD = tiny.shell((70, 90, 77))


def whole_head() -> Volume:
    return HEAD.with_array(HEAD.array.astype(bool))


@pytest.mark.parametrize("number", range(len(PLACES)), ids=[place.name for place in PLACES])
def test_every_defect_takes_a_piece_and_leaves_the_rest(number):
    whole, bone, truth = cut_place(whole_head(), number)
    assert truth.any() and bone.any()
    assert not (truth & bone).any()
    assert ((truth | bone) == whole.array).all()
    again = cut_place(whole_head(), number)[2]
    assert (again == truth).all()


def test_the_large_hemicraniectomy_is_12_by_9_cm():
    number = next(n for n, place in enumerate(PLACES) if "12 x 9" in place.name)
    whole, _, truth = cut_place(whole_head(), number)
    at = np.argwhere(truth) @ whole.affine[:3, :3].T
    along, up = np.ptp(at[:, 1]), np.ptp(at[:, 2])
    assert 100 < along < 130  # of the 120 mm some go round the bend of the vault
    assert 65 < up < 100


def test_half_a_face_is_asked_for_only_where_there_is_one():
    facial = {n for n, place in enumerate(PLACES) if place.facial}
    assert facial <= set(places_of("visible_human"))
    assert not facial & set(places_of("scct_average"))
    assert len(places_of("scct_average")) >= 10


NAMES = [*plan.CT_SKULLS[1:], *(f"head{n:02d}" for n in range(20)), "usc19_average"]


def test_folds_hold_every_individual_out_once_and_ct_one_each():
    found = plan.folds_of(NAMES)
    assert sorted(name for fold in found for name in fold) == sorted(NAMES[:-1])
    assert [len(fold) for fold in found] == [5] * 5
    assert all(len(set(fold) & set(plan.CT_SKULLS)) == 1 for fold in found)


def test_the_plan_gives_every_skull_all_sizes_and_sites():
    planned = plan.plan_of(NAMES[:-1], ["head03", "head04"])
    for name, numbers in planned.items():
        assert {PLACES[n].size_class for n in numbers} == set(SIZES)
        assert {PLACES[n].site for n in numbers} == set(SITES)
        assert len(numbers) == (14 if name in plan.CT_SKULLS else plan.CASES)
        assert set(numbers) <= set(VAULT_ONLY if name in ("head03", "head04") else STANDARD)
        assert PLACES[numbers[0]].size_class == "medium"
    counts = np.bincount([n for name in NAMES[5:-1] for n in planned[name]], minlength=len(PLACES))
    assert min(counts[n] for n in STANDARD) >= 3


def test_a_skull_keeps_its_cases_when_others_are_added():
    few = plan.plan_of(NAMES[:10], [])
    assert few.items() <= plan.plan_of(NAMES[:-1], []).items()


def test_thinned_cases_differ_between_skulls():
    assert plan.thinned(range(6), 3, 0) == (0, 3)
    assert plan.thinned(range(6), 3, 4) == (1, 4)
    assert plan.thinned(range(6), 1, 4) == tuple(range(6))


def test_a_vault_is_told_from_a_whole_skull(tmp_path):
    write_volume(HEAD, tmp_path / "whole.nrrd")
    z = np.arange(76) * 2.5 - 90
    write_volume(HEAD.with_array(HEAD.array * (z > 0)), tmp_path / "vault.nrrd")
    assert not plan.is_vault_only(tmp_path / "whole.nrrd")
    assert plan.is_vault_only(tmp_path / "vault.nrrd")


@pytest.mark.parametrize("number", VAULT_ONLY, ids=[PLACES[n].name for n in VAULT_ONLY])
def test_defects_of_a_vault_lie_above_its_end(number):
    whole, _, truth = cut_place(whole_head(), number)
    heights = [np.argwhere(mask) @ whole.affine[2, :3] + whole.affine[2, 3] for mask in (whole.array, truth)]
    assert heights[1].min() > heights[0].max() - 80


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    folder = tiny.write_heads(tmp_path_factory.mktemp("benchmark") / "heads")
    (folder / "cyd.nrrd").unlink()  # two are enough for a mean, and sooner registered
    return folder


@pytest.fixture(scope="module")
def fold(heads, tmp_path_factory) -> Fold:
    """The mean of all heads but "out", on a coarse grid."""
    path = tmp_path_factory.mktemp("fold") / "model.safetensors"
    population = folds.population_of(find_cases(heads), ["out"], path, tiny.TINY)
    return Fold(folds.build(population), population.files, path.parent)


def write_model(path, heads, trained_on, holdout, networks="trained"):
    """A model of untrained networks with a record of training."""
    cases = {case.individual: case for case in find_cases(heads)}
    data = {name: contest.file_sha256(cases[file].complete) for name, file in trained_on.items()}
    shape = torch.zeros(tiny.TINY.grid_shape)
    model = folds.untrained(tiny.TINY, shape, shape)
    save_model(model, path, {"data": data, "holdout": holdout, "networks": networks, "options": {}})
    return path


def test_the_model_of_a_fold_is_the_mean_of_the_others_and_says_that_its_networks_are_untrained(fold):
    model = load_model(fold.model)
    assert model.provenance["networks"] == "untrained"
    assert model.provenance["holdout"] == ["out"]
    assert sorted(model.provenance["data"]) == ["ada.nrrd", "ben.nrrd"]
    assert torch.equal(model.mean_shape, model.mean)
    assert 0.02 < float((model.mean < 0).float().mean()) < 0.5
    assert 0 < float(model.spread[model.mean.abs() < 2].median()) < 3


def test_a_fold_is_built_once_and_again_for_other_skulls(fold, heads, monkeypatch):
    monkeypatch.setattr(folds, "register_population", lambda skulls, grid: pytest.fail("built again"))
    same = folds.population_of(find_cases(heads), ["out"], fold.model, tiny.TINY)
    assert folds.build(same) == fold.model
    assert not folds.population_of(find_cases(heads), ["ada"], fold.model, tiny.TINY).is_built
    finer = dataclasses.replace(tiny.TINY, grid_shape=(96, 112, 96), spacing_mm=2.0)
    assert not folds.population_of(find_cases(heads), ["out"], fold.model, finer).is_built


def test_rows_with_a_network_refuse_a_model_without_one(fold, heads, tmp_path):
    volume = HEAD.with_array(HEAD.array.astype(np.uint8))
    for given in (fold, dataclasses.replace(fold, trained=fold.model)):
        with pytest.raises(SkullVAEError, match="'encode' needs trained networks"):
            rows.method("encode")(volume, given)
    trained = dataclasses.replace(fold, trained=write_model(tmp_path / "t.safetensors", heads, {}, ["out"]))
    assert trained.load_trained("blend").provenance["networks"] == "trained"
    assert trained.model_of("mean-rim") == fold.model and trained.model_of("dev") == trained.trained


def test_a_model_is_not_matched_with_a_skull_that_it_saw(heads, tmp_path):
    cases = find_cases(heads)
    honest = write_model(tmp_path / "a.safetensors", heads, {"ada.nrrd": "ada", "ben.nrrd": "ben"}, ["out"])
    assert contest.match_models([honest], cases) == {"out": honest}
    by_name = write_model(tmp_path / "b.safetensors", heads, {"out.nrrd": "ada"}, ["out"])
    assert contest.match_models([by_name], cases) == {}
    renamed = write_model(tmp_path / "c.safetensors", heads, {"somebody.nrrd": "out"}, ["out"])
    assert contest.match_models([renamed], cases) == {}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--individuals", "nobody"], "no individual 'nobody'"),
        (["--rows", "encode"], "'encode' needs a trained model"),
        (["--rows", "blend", "--individuals", "ada", "--models", "MODEL"], "held out 'ada'"),
        (["--rows", "encode", "--models", "UNTRAINED"], "trained networks"),
        (["--evaluation", "HEADS"], "'ada' is in both folders"),
        (["--against", "HEADS/ada.nrrd"], "not a result of the accuracy benchmark"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_run(heads, fold, tmp_path, capsys, more, message):
    model = write_model(tmp_path / "a.safetensors", heads, {"ada.nrrd": "ada"}, ["out"])
    names = {"MODEL": str(model), "UNTRAINED": str(fold.model)}
    more = [names.get(word, word.replace("HEADS", str(heads))) for word in more]
    assert main(["--data", str(heads), "--output", str(tmp_path / "o"), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_the_run_goes_on_where_it_stopped(heads, fold, tmp_path):
    file = next(case.complete for case in find_cases(heads) if case.individual == "out")
    job = contest.Job(file, "out", 2, ("nothing", "mirror"), fold, tmp_path / "o", ct=True)
    first = contest.run_job(job)
    assert first["rows"]["nothing"]["dsc"] == 0 and first["rows"]["nothing"]["missed"]
    assert first["rows"]["mirror"]["dsc"] > 0.5  # the heads are symmetric
    assert first["ct"] and first["site"] == "frontal" and first["thickness_mm"] == pytest.approx(6, abs=1.5)
    assert contest.load_mask(job.mask("mirror")).any()
    marked = json.loads(job.record.read_text(encoding="utf-8"))
    for row in job.rows:
        marked["rows"][row]["dsc"] = 0.123
    job.record.write_text(json.dumps(marked), encoding="utf-8")
    assert contest.run_job(job)["rows"]["mirror"]["dsc"] == 0.123
    assert not contest.run_job(dataclasses.replace(job, ct=False))["ct"]  # what only describes is not computed
    other = tmp_path / "b.safetensors"
    model = load_model(fold.model)
    save_model(model, other, model.provenance | {"holdout": ["out", "another"]})
    again = contest.run_job(dataclasses.replace(job, rows=("nothing",), fold=dataclasses.replace(fold, model=other)))
    assert again["rows"]["nothing"]["dsc"] == 0


def test_every_row_has_a_method_and_a_made_up_one_has_not():
    for row in (*TITLES, *ABLATION):
        assert callable(rows.method(row))
    for row in ("meen", "mean-rum", "pca-many"):
        with pytest.raises(SkullVAEError, match="row"):
            rows.method(row)


UNDER = np.array([30.0, 30.0, -50.0])
"""The vault's centre of a plate."""


def plate(thickness=(20, 24), lifted=0):
    """A slab 4 mm thick with a hole of 30 mm, and what fills it, lifted by some voxels of 1 mm."""
    slab = np.zeros((60, 60, 44), bool)
    slab[5:55, 5:55, slice(*thickness)] = True
    hole = np.zeros_like(slab)
    hole[15:45, 15:45] = True
    return slab & ~hole, np.roll(slab & hole, lifted, axis=2)


def test_a_flush_implant_has_no_rim_gap_and_a_lifted_one_as_much_as_it_is_lifted():
    bone, truth = plate()
    assert rim_gap(truth, truth, bone, np.eye(4)) == 0
    for lifted in (1, 2):
        assert rim_gap(truth, plate(lifted=lifted)[1], bone, np.eye(4)) == pytest.approx(lifted, abs=0.3)
    assert rim_gap(truth, np.zeros_like(truth), bone, np.eye(4)) == math.inf


def test_scores_of_nothing_are_told_without_infinity():
    bone, truth = plate()
    content = score(truth, np.zeros_like(truth), bone, np.eye(4), UNDER)
    assert content["dsc"] == 0 and content["hd95_mm"] is None and content["outer_mm"] is None
    assert content["missed"] and not content["usable"] and content["false_defects"] == 0
    json.dumps(content, allow_nan=False)


def test_an_implant_elsewhere_is_missed_and_false():
    bone, truth = plate()
    part = truth & (np.indices(truth.shape)[0] < 24)
    content = score(truth, part, bone, np.eye(4), UNDER)
    assert content["found"] == pytest.approx(0.3) and not content["missed"]
    assert score(truth, part & (np.indices(truth.shape)[0] < 23), bone, np.eye(4), UNDER)["missed"]
    elsewhere = np.zeros_like(truth)
    elsewhere[20:30, 20:30, 5:9] = elsewhere[40:52, 40:52, 5:9] = True  # 0.4 and 0.58 ml
    assert false_defects(truth, truth | elsewhere, 0.001) == 1
    reaching = truth.copy()
    reaching[20:30, 20:30, :20] = True
    assert false_defects(truth, reaching, 0.001) == 0


@pytest.mark.parametrize("number", [2, 8, 10])
def test_the_measures_agree_with_those_of_simpleitk(number):
    whole, bone, truth, centre = cut_with_centre(whole_head(), number)
    # Bone farther from the defect counts in no measure.
    box = bounding_box(truth, margin=np.ceil(30 / whole.spacing).astype(int))
    whole, bone, truth = crop(whole, box), bone[box], truth[box]
    prediction = np.roll(truth, (1, 0, 1), axis=(0, 1, 2)) & ~bone
    other = second_opinion.measures(truth, prediction, bone, whole.spacing)
    own = score(truth, prediction, bone, whole.affine, centre)
    assert own["dsc"] < 0.99
    for name, value in other.items():
        assert own[name] == pytest.approx(value, abs=1e-4)


def test_the_measures_are_those_of_every_pair_of_voxels():
    bone, truth = plate()
    prediction = plate(lifted=2)[1]
    at = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) for mask in (truth, prediction)]
    apart = cdist(*at)
    assert hd95(truth, prediction, np.ones(3)) == pytest.approx(np.percentile(np.r_[apart.min(0), apart.min(1)], 95))
    first, second = (
        {tuple(v) for v in voxels[cdist(voxels, np.argwhere(bone)).min(1) <= 10]}
        for voxels in (np.argwhere(truth), np.argwhere(prediction))
    )
    expected = 2 * len(first & second) / (len(first) + len(second))
    assert boundary_dice(truth, prediction, bone, np.ones(3)) == pytest.approx(expected)


def test_layers_tell_a_shifted_plate_from_a_thick_one():
    to_vault = np.eye(4)
    to_vault[:3, 3] = -30, -30, 40

    def plate_of(inner, outer):
        at = np.moveaxis(np.indices((60, 60, 45)), 0, -1) + to_vault[:3, 3]
        radius = np.linalg.norm(at, axis=-1)
        return (radius > inner) & (radius < outer) & (at[..., 2] > 0.93 * radius)

    truth = plate_of(74, 79)
    out = layers.layer_errors(truth, plate_of(76, 81), to_vault)
    assert out["shift"] == pytest.approx(2, abs=0.3)
    assert abs(out["thicker"]) < 0.4
    thick = layers.layer_errors(truth, plate_of(71, 79), to_vault)
    assert thick["inner"] == pytest.approx(-3, abs=0.5)
    assert thick["outer"] == pytest.approx(0, abs=0.1)
    assert layers.layer_errors(truth, truth, to_vault)["inner_size"] == 0
    half = truth & (np.indices(truth.shape)[0] > 30)
    assert layers.layer_errors(truth, half, to_vault)["lacking"] == pytest.approx(0.5, abs=0.05)


def record(individual, place, **dsc):
    found = {}
    for row, value in dsc.items():
        far = None if value == 0 else 2 - value
        found[row] = {
            "dsc": value, "bdsc": 0.5, "rim_gap_mm": 1.0, "hd95_mm": far, "outer_mm": far, "outer_p95_mm": far,
            "inner_mm": far, "inner_p95_mm": far, "step_mm": far, "usable": value > 0.85, "missed": value == 0,
            "false_defects": 0, "processor_seconds": 1.0, "peak_mib": None,
        }  # fmt: skip
    return {
        "individual": individual, "defect": place, "rows": found, "ct": individual < "c", "size": "small",
        "site": "vertex", "thickness_mm": 4.0, "slices_mm": None, "truth_ml": 10.0,
    }  # fmt: skip


def test_every_individual_counts_once():
    records = [record("a", str(n), x=0.9) for n in range(9)] + [record("b", "1", x=0.7)]
    found = tables.summary(records, "x")["dsc"]
    assert found["mean"] == pytest.approx(0.8) and found["individuals"] == 2
    assert (found["low"], found["high"]) == pytest.approx((0.7, 0.9))


def test_the_interval_is_that_of_the_mean_over_individuals():
    rng = np.random.default_rng(5)
    means = rng.normal(0.9, 0.05, 25)
    names = [f"{n:02d}" for n in range(25) for _ in range(6)]
    found = tables.bootstrap(names, np.repeat(means, 6))
    error = means.std(ddof=1) / 5
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert found["mean"] == pytest.approx(means.mean())
    assert tables.bootstrap(names, np.repeat(means, 6)) == found
    assert tables.bootstrap(["a"], np.array([0.5]))["low"] is None


def test_paired_differences_are_those_of_the_individuals():
    records = [record(str(n), "1", x=0.9, y=0.9 - 0.01 * (n + 1)) for n in range(8)]
    content = tables.paired([*records, record("9", "1", x=0.1)], "x", "y")
    assert content["cases"] == content["ahead"] == 8
    assert content["difference"] == pytest.approx(0.045)
    assert 0.01 < content["low"] < 0.045 < content["high"] < 0.08
    assert content["p"] == pytest.approx(2 / 2**8)  # every sign the same
    assert tables.paired(records, "x", "x")["p"] == 1
    assert tables.paired(records, "x", "y", "hd95_mm")["ahead"] == 8


def test_a_missed_case_counts_as_nothing_and_is_reported():
    records = [record("a", "1", x=0.8), record("b", "2", x=0.0)]
    content = tables.summary(records, "x")
    assert content["dsc"]["mean"] == pytest.approx(0.4)
    assert content["missed"] == 1
    assert content["hd95_mm"]["mean"] == pytest.approx(1.2)
    text = tables.as_text(tables.report(records, ["x"], "x", {}), "x")
    assert "| x " in text and "| 3 to 5 mm" in text and "| vertex" in text


@pytest.mark.parametrize(("thickness", "name"), [(2.9, "below 3 mm"), (3.0, "3 to 5 mm"), (9.0, "above 5 mm")])
def test_cases_are_classed_by_the_thickness_of_the_bone(thickness, name):
    assert tables.thickness_class({"thickness_mm": thickness}) == name


def test_a_former_run_is_compared_case_by_case(tmp_path):
    before = [record("a", "1", old=0.9), record("a", "2", old=0.8), record("b", "1", old=0.7), record("c", "1", old=0)]
    now = [record("a", "1", x=0.88), record("a", "2", x=0.79), record("b", "1", x=0.8), record("d", "1", x=0.9)]
    now.append(record("c", "1", x=0.9) | {"truth_ml": 12.0})  # not the same hole
    (tmp_path / "accuracy.json").write_text(json.dumps({"cases": before, "ours": "old"}), encoding="utf-8")
    content = against.compare(now, "x", *against.read_former(tmp_path / "accuracy.json"))
    assert content["cases"] == 3 and content["not_paired"] == 2
    assert content["individuals"]["a"]["dsc"] == pytest.approx(-0.015)
    assert content["all"]["dsc"]["mean"] == pytest.approx((0.1 - 0.015) / 2)
    assert content["worse_individuals"] == ["a"]
    assert [case["defect"] for case in content["worse_cases"]] == ["1"]
    text = against.as_text(content)
    assert "| b " in text and "Worse by more than 0.01 DSC: a" in text


def dome(radius, half_angle, thickness=5.0):
    """A plate of a sphere around the vertex, bool, on a grid of 1 mm, and its affine; not symmetric about its axis."""
    affine = np.eye(4)
    affine[:3, 3] = -50, -50, 20
    at = np.moveaxis(np.indices((101, 101, 70)), 0, -1) + affine[:3, 3]
    distance = np.linalg.norm(at * [0.8, 0.9, 1.0], axis=-1)
    angle = np.degrees(np.arccos(np.clip(at[..., 2] / np.linalg.norm(at, axis=-1), -1, 1)))
    return Volume((distance < radius) & (distance > radius - thickness) & (angle < half_angle), affine)


def test_a_flap_out_of_place_is_aligned_before_it_is_compared():
    implant = mask_surface(dome(80, 33))
    turn = np.eye(4)
    angle = np.radians(5)
    turn[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    turn[:3, 3] = 1.5, -1.0, 2.0
    flap = dome(80, 25, 6.0)
    flap = Volume(flap.array, turn @ flap.affine)
    found = craniotomy.compare(flap, implant, np.zeros(3))
    assert found["outer_median_mm"] < 0.15 and found["outer_p90_mm"] < 0.4
    assert found["inner_median_mm"] == pytest.approx(1.0, abs=0.2)
    before = craniotomy.SurfaceDistance(implant).signed(craniotomy.flap_surfaces(flap, np.zeros(3))[0])
    assert np.median(np.abs(before)) > 1


def test_a_case_in_slices_is_measured_against_the_skulls_own_voxels():
    whole, bone, truth, _ = cut_with_centre(whole_head(), 4)
    ct = slices.as_ct(whole, bone, 5.0)
    assert ct.spacing[2] == pytest.approx(5.0) and ct.spacing[0] == pytest.approx(2.5)
    assert ct.array.max() > 700 and ct.array.min() < -900
    inside = covered(whole.with_array(truth), ct.with_array(ct.array > 500))
    assert inside < 0.2  # the hole is open


def ellipsoids(count, grid):
    """Signed distances (count, X, Y, Z) of shells whose three half-axes vary."""
    rng = np.random.default_rng(0)
    at = grid.coordinates().numpy()
    fields = []
    for _ in range(count):
        half = np.array([60.0, 75.0, 65.0]) * (1 + 0.08 * rng.normal(size=3))
        radius = np.linalg.norm(at / half, axis=-1)
        outer = (radius - 1) * np.linalg.norm(at, axis=-1) / np.maximum(radius, 1e-3)
        fields.append(np.abs(outer + 3) - 3)
    return np.clip(fields, -10, 10).astype(np.float16)


def test_components_complete_a_shape_of_their_kind_around_a_hole():
    grid = Grid((24, 28, 24), 8.0)
    fields = ellipsoids(41, grid)
    found = pca.components(fields[1:], 32)
    whole = torch.tensor(fields[0]).float()
    at = grid.coordinates()
    hole = (at - torch.tensor([50.0, 20.0, 40.0])).norm(dim=-1) - 35
    defective = torch.maximum(whole, -hole)
    shape = pca.fit(found, defective, torch.ones(grid.shape, dtype=torch.bool), 32)
    there = (hole < 0) & (whole.abs() < 4)
    error = (shape - whole)[there].abs().mean()
    assert error < 0.5 * (found.mean - whole)[there].abs().mean()
    assert error < 1.0


def test_the_unet_learns_to_draw_a_skull():
    from benchmark import unet  # MONAI takes many seconds to import

    grid = Grid((32, 32, 32), 6.0)
    fields = ellipsoids(4, grid)
    given = torch.tensor(fields[:1]).float()

    def off(net) -> float:
        with torch.no_grad():
            answer = unet.complete_field(net.eval(), given)
        assert answer.shape == given.shape
        return float((answer - given).abs().mean())

    torch.manual_seed(0)  # the start of its training
    start = off(unet.network())
    net, steps = unet.train(fields, grid, minutes=0.1, log=lambda line: None)
    assert steps >= 1
    assert off(net) < start


def test_the_difference_is_positive_where_there_is_too_much():
    _, truth = plate()
    _, lifted = plate(lifted=2)
    found = pictures.difference(truth, lifted, np.eye(4))
    place = np.round(np.linalg.inv(found.affine) @ [30, 30, 25, 1]).astype(int)[:3]
    assert found.array[tuple(place)] > 1.5
    place = np.round(np.linalg.inv(found.affine) @ [30, 30, 20, 1]).astype(int)[:3]
    assert found.array[tuple(place)] < -1.5


def test_a_case_is_drawn_and_the_page_shows_the_worst_first(tmp_path):
    whole, bone, truth, centre = cut_with_centre(whole_head(), 2)
    strips = []
    for name, prediction in (("good", truth), ("none", np.zeros_like(truth))):
        file = tmp_path / f"{name}.png"
        image = pictures.strip(whole.with_array(bone), truth, prediction)
        image.save(file)
        content = score(truth, prediction, bone, whole.affine, centre)
        strips.append(({"individual": name, "defect": "blob", "truth_ml": 1.0, "rows": {"x": content}}, file))
    pictures.write_page(tmp_path / "page.html", strips, "x")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.index("none.png") < text.index("good.png")
    pictures.write_contact_sheet(tmp_path / "sheet.png", strips, "x")
    good, none = (np.asarray(pictures.Image.open(file), int) for _, file in strips)
    panel = slice(2 * pictures.PANEL, 3 * pictures.PANEL)
    assert np.abs(good[:, panel] - none[:, panel]).max() > 50  # the implant shows


def test_the_command_measures_and_writes(heads, fold, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(folds, "ARCHITECTURE", tiny.TINY)
    monkeypatch.setattr(plan, "CT_SKULLS", ("out",))
    held = next(n for n, names in enumerate(plan.folds_of(["ada", "ben", "out"], ["out"]), start=1) if "out" in names)
    (tmp_path / "folds" / f"fold{held}").mkdir(parents=True)
    shutil.copy(fold.model, tmp_path / "folds" / f"fold{held}")
    arguments = ["--data", str(heads), "--rows", "nothing,mean", "--places", "2", "--individuals", "out", "--ct", "out"]
    arguments += ["--slices", "2.5", "--folds", str(tmp_path / "folds"), "--output", str(tmp_path / "o")]
    arguments += ["--jobs", "1", "--baselines-every", "1"]
    assert main(arguments) == 0
    content = json.loads((tmp_path / "o" / "accuracy.json").read_text(encoding="utf-8"))
    found = content["CT, cross-validated"]["rows"]
    assert found["mean"]["dsc"]["mean"] > 0.6 and found["nothing"]["missed"] == 1
    assert found["mean"]["outer_mm"]["mean"] < 2.5
    assert content["slices, CT, cross-validated"]["2.5"]["outer_mm"]["mean"] < 2.5
    assert "| mean" in capsys.readouterr().out
    assert (tmp_path / "o" / "errors.png").stat().st_size and (tmp_path / "o" / "accuracy.png").stat().st_size
    assert "out_02_mean.png" in (tmp_path / "o" / "pictures.html").read_text(encoding="utf-8")


def test_a_volume_of_a_case_is_read_as_bone(tmp_path):
    write_volume(HEAD, tmp_path / "head.nrrd")
    assert (contest.load_whole(tmp_path / "head.nrrd").array == HEAD.array.astype(bool)).all()
