"""Claims about the accuracy benchmark: fair cases, no skull scored by a model that saw it, meaningful figures."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import tiny
import torch
from accuracy import main
from benchmark import contest, layers, pca, pictures, rows, second_opinion, tables, unet
from benchmark.cases import FOLDS, PLACES, cut_place, folds_of, places_of
from benchmark.rows import ABLATION, TITLES, Fold
from benchmark.scores import rim_gap, score
from scipy import ndimage
from scipy.spatial.distance import cdist

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.data.datasets import find_cases
from SkullVAELib.evaluation.metrics import boundary_dice, hd95
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.io.images import write_volume
from SkullVAELib.vae.checkpoint import load_model, save_model
from SkullVAELib.vae.default_model import default_model_path

HEAD = tiny.shell((70, 90, 77))


def whole_head() -> Volume:
    return HEAD.with_array(HEAD.array.astype(bool))


@pytest.mark.parametrize("number", range(len(PLACES)), ids=[place.name for place in PLACES])
def test_every_defect_takes_a_piece_and_leaves_the_rest(number):
    whole, bone, truth = cut_place(whole_head(), number)
    assert truth.any() and bone.any()
    assert not (truth & bone).any()
    assert ((truth | bone) == whole.array).all()
    if not PLACES[number].oblique:  # the defect is cut there by the same code, after a resampling that takes seconds
        assert (cut_place(whole_head(), number)[2] == truth).all()


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


def test_folds_hold_every_individual_out_once():
    names = [name for fold in FOLDS for name in fold]
    folds = folds_of([*names, "of another set"])
    assert sorted(name for fold in folds for name in fold) == sorted([*names, "of another set"])
    assert len(folds) == 3


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return tiny.write_heads(tmp_path_factory.mktemp("benchmark") / "heads")


def write_model(path, heads, trained_on, holdout):
    """The shipped model's weights with another record of its training."""
    cases = {case.individual: case for case in find_cases(heads)}
    data = {name: contest.file_sha256(cases[file].complete) for name, file in trained_on.items()}
    model = load_model(default_model_path())
    save_model(model, path, model.provenance | {"data": data, "holdout": holdout})
    return path


def test_a_model_is_not_matched_with_a_skull_that_it_saw(heads, tmp_path):
    cases = find_cases(heads)
    honest = write_model(tmp_path / "a.safetensors", heads, {"ada.nrrd": "ada", "ben.nrrd": "ben"}, ["out"])
    assert contest.match_models([honest], cases) == {"out": honest}
    by_name = write_model(tmp_path / "b.safetensors", heads, {"out.nrrd": "ada"}, ["out"])
    assert contest.match_models([by_name], cases) == {}
    renamed = write_model(tmp_path / "c.safetensors", heads, {"somebody.nrrd": "out"}, ["out"])
    assert contest.match_models([renamed], cases) == {}


def test_a_seen_skull_is_refused(heads, tmp_path, capsys):
    model = write_model(tmp_path / "a.safetensors", heads, {"ada.nrrd": "ada"}, ["out"])
    content = main(
        ["--data", str(heads), "--model", str(model), "--individuals", "ada", "--output", str(tmp_path / "o")]
    )
    assert content == 2
    assert "ada" in capsys.readouterr().err


def test_the_run_goes_on_where_it_stopped(heads, tmp_path):
    model = write_model(tmp_path / "a.safetensors", heads, {"ada.nrrd": "ada"}, ["out"])
    file = next(case.complete for case in find_cases(heads) if case.individual == "out")
    job = contest.Job(file, "out", 2, ("nothing", "mirror"), Fold(model, (), tmp_path), tmp_path / "o")
    first = contest.run_job(job)
    assert first["rows"]["nothing"]["dsc"] == 0
    assert first["rows"]["mirror"]["dsc"] > 0.5  # the heads are symmetric
    assert contest.load_mask(job.mask("mirror")).any()
    marked = json.loads(job.record.read_text())
    for row, dsc in (("mirror", 0.123), ("nothing", 0.456)):
        marked["rows"][row]["dsc"] = dsc
    job.record.write_text(json.dumps(marked))
    kept = contest.run_job(job)["rows"]
    assert (kept["mirror"]["dsc"], kept["nothing"]["dsc"]) == (0.123, 0.456)
    other = write_model(tmp_path / "b.safetensors", heads, {"ben.nrrd": "ben"}, ["out"])
    again = contest.run_job(dataclasses.replace(job, rows=("nothing",), fold=Fold(other, (), tmp_path)))["rows"]
    assert (again["mirror"]["dsc"], again["nothing"]["dsc"]) == (0.123, 0)


def test_every_row_has_a_method_and_a_made_up_one_has_not():
    for row in (*TITLES, *ABLATION):
        assert callable(rows.method(row))
    for row in ("meen", "mean-rum", "pca-many"):
        with pytest.raises(SkullVAEError, match="row"):
            rows.method(row)


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
    content = score(truth, np.zeros_like(truth), bone, np.eye(4))
    assert content["dsc"] == 0 and content["hd95_mm"] is None
    json.dumps(content, allow_nan=False)


@pytest.mark.parametrize("number", [2, 8, 10])
def test_the_measures_agree_with_those_of_simpleitk(number):
    whole, bone, truth = cut_place(whole_head(), number)
    # Bone farther from the defect counts in no measure.
    box = bounding_box(truth, margin=np.ceil(30 / whole.spacing).astype(int))
    whole, bone, truth = crop(whole, box), bone[box], truth[box]
    prediction = np.roll(truth, (1, 0, 1), axis=(0, 1, 2)) & ~bone
    other = second_opinion.measures(truth, prediction, bone, whole.spacing)
    own = score(truth, prediction, bone, whole.affine)
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
    cost = {"bdsc": 0.5, "rim_gap_mm": 1.0, "processor_seconds": 1.0, "peak_mib": None}
    found = {row: cost | {"dsc": value, "hd95_mm": None if value == 0 else 2 - value} for row, value in dsc.items()}
    return {"individual": individual, "defect": place, "rows": found}


def test_paired_differences_are_those_of_the_cases():
    records = [record("a", str(n), x=0.9, y=0.9 - 0.01 * (n + 1)) for n in range(8)]
    content = tables.paired(records, "x", "y")
    assert content["difference"] == pytest.approx(0.045)
    assert content["error"] == pytest.approx(np.std(np.arange(1, 9) / 100, ddof=1) / math.sqrt(8))
    assert content["ahead"] == 8
    assert content["p"] == pytest.approx(2 / 2**8)  # every sign the same
    assert tables.paired(records, "x", "x")["p"] == 1
    assert tables.paired(records, "x", "y", "hd95_mm")["ahead"] == 8


def test_a_missed_case_counts_as_nothing_and_is_told():
    records = [record("a", "1", x=0.8), record("b", "2", x=0.0)]
    content = tables.summary(records, "x")
    assert content["dsc"] == pytest.approx(0.4)
    assert content["missed"] == 1
    assert content["hd95_mean_mm"] == pytest.approx(1.2)
    assert content["hd95_median_mm"] is None
    assert "| x " in tables.as_text(tables.report(records, ["x"], "x", {}), "x")


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
    whole, bone, truth = cut_place(whole_head(), 2)
    strips = []
    for name, prediction in (("good", truth), ("none", np.zeros_like(truth))):
        file = tmp_path / f"{name}.png"
        image = pictures.strip(whole.with_array(bone), truth, prediction)
        image.save(file)
        content = score(truth, prediction, bone, whole.affine)
        strips.append(({"individual": name, "defect": "blob", "truth_ml": 1.0, "rows": {"x": content}}, file))
    pictures.write_page(tmp_path / "page.html", strips, "x")
    text = (tmp_path / "page.html").read_text()
    assert text.index("none.png") < text.index("good.png")
    pictures.write_contact_sheet(tmp_path / "sheet.png", strips, "x")
    good, none = (np.asarray(pictures.Image.open(file), int) for _, file in strips)
    panel = slice(2 * pictures.PANEL, 3 * pictures.PANEL)
    assert np.abs(good[:, panel] - none[:, panel]).max() > 50  # the implant shows


def test_the_command_measures_and_writes(heads, tmp_path, capsys):
    model = write_model(tmp_path / "a.safetensors", heads, {"ada.nrrd": "ada"}, ["out"])
    arguments = ["--data", str(heads), "--model", str(model), "--rows", "nothing,mean", "--places", "2"]
    assert main([*arguments, "--output", str(tmp_path / "o"), "--jobs", "1"]) == 0
    content = json.loads((tmp_path / "o" / "accuracy.json").read_text())
    assert content["cranial"]["rows"]["mean"]["dsc"] > content["cranial"]["rows"]["nothing"]["dsc"]
    assert "| mean" in capsys.readouterr().out


def test_a_volume_of_a_case_is_read_as_bone(tmp_path):
    write_volume(HEAD, tmp_path / "head.nrrd")
    assert (contest.load_whole(tmp_path / "head.nrrd").array == HEAD.array.astype(bool)).all()
