"""Claims about drawn sets: split by individual, various in shape, defects fixed and exact, whole or not at all."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.data import skullfix_like as skullset
from SkullVAELib.data.datasets import HELD_OUT, TRAINING, check_cases, find_cases, split_by_individual, stated_kind
from SkullVAELib.data.skullfix_like import (
    DrawnHead,
    SetOptions,
    choose_holdout,
    draw_head,
    is_set,
    register_heads,
    write_set,
)
from SkullVAELib.geometry.distance_field import redistance
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import read_volume, write_volume
from SkullVAELib.registration.affine import AffineTarget, register_affine
from SkullVAELib.registration.skull import canonical_field, prepare_skull

GRID = Grid((48, 56, 48), 4.0)
OPTIONS = SetOptions(count=3, held_out_count=2, holdout=("dan", "eve"), seed=5, spacing_mm=3.0)
HEADS = {"ada": (72, 88, 78), "ben": (68, 94, 76), "cyd": (66, 86, 80), "dan": (70, 90, 77), "eve": (74, 84, 75)}


def shell(half_axes: tuple[float, float, float]) -> Volume:
    """A vault: an ellipsoid shell 9 mm thick, open below, with a block for a face, on a grid of 3 mm."""
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = [-93, -114, -90]
    world = np.stack(np.meshgrid(*[np.arange(n) for n in (63, 77, 63)], indexing="ij"), -1) * 3 + affine[:3, 3]
    outer = np.linalg.norm(world / half_axes, axis=-1) < 1
    inner = np.linalg.norm(world / (np.array(half_axes) - 9), axis=-1) < 1
    face = (np.abs(world - [0, half_axes[1] - 18, -55]) < [35, 18, 25]).all(-1)
    return Volume(((outer & ~inner & (world[..., 2] > -60)) | face).astype(np.uint8), affine)


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    for name, half_axes in HEADS.items():
        write_volume(shell(half_axes), folder / f"{name}.nrrd")
    return folder


@pytest.fixture(scope="module", autouse=True)
def population_made_once():
    """The mean of the same skulls, to the byte, is computed once: it takes most of the time of a set."""
    build, known = skullset.build_population_with_warps, {}

    def once(skulls, grid):
        parts = [part for s in skulls for part in (s.name, s.fraction.array, s.fraction.affine, s.distance, s.points)]
        key = hashlib.sha256(repr(grid).encode())
        for part in parts:
            key.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes())
        if key.hexdigest() not in known:
            known[key.hexdigest()] = build(skulls, grid)
        return copy.deepcopy(known[key.hexdigest()])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skullset, "build_population_with_warps", once)
        yield


@pytest.fixture(scope="module")
def made_and_laid(heads, tmp_path_factory) -> tuple[Path, tuple]:
    """A whole set, and what its heads were drawn from."""
    folder, kept = tmp_path_factory.mktemp("made") / "set", []

    def keep(*arguments):
        kept.append(register_heads(*arguments))
        return kept[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skullset, "register_heads", keep)
        write_set(heads, folder, OPTIONS, grid=GRID)
    return folder, kept[0]


@pytest.fixture(scope="module")
def made(made_and_laid) -> Path:
    return made_and_laid[0]


@pytest.fixture(scope="module")
def laid(made_and_laid) -> tuple:
    return made_and_laid[1]


@pytest.fixture
def quick(monkeypatch, laid):
    """Sets without the time of laying the heads on their mean."""
    monkeypatch.setattr(skullset, "register_heads", lambda *_: laid)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_set_has_the_challenges_folders_and_a_list_of_every_case(made):
    parts = ["complete_skull", *[f"{a}/{b}" for a in ("defective_skull", "implant") for b in ("cranial", "facial")]]
    counts = {"training_set": 3, "test_set": 2}
    expected = {f"{root}/{p}/{k:03d}.nrrd" for root, n in counts.items() for p in parts for k in range(n)}
    assert set(files(made)) == expected | {"datalist.json", "population.json"}
    cases = find_cases(made)
    kinds = ("complete", "cranial", "facial")
    assert [c.kind for c in cases] == [kind for n in counts.values() for kind in kinds for _ in range(n)]
    assert is_set(made)


def test_no_sibling_of_a_held_out_skull_is_trained_on(made):
    training, held_out = split_by_individual(find_cases(made))
    assert (len(training), len(held_out)) == (9, 6)
    assert set().union(*(c.parents for c in training)) <= {"ada", "ben", "cyd"}
    assert set().union(*(c.parents for c in held_out)) <= {"dan", "eve"}
    assert all(c.complete.is_relative_to(made / "training_set") for c in training)
    assert all(c.complete.is_relative_to(made / "test_set") for c in held_out)


def test_held_out_heads_leave_no_trace_in_the_training_set_and_the_same_seed_gives_the_same_bytes(made, tmp_path):
    for name, half_axes in HEADS.items():
        write_volume(shell(half_axes if name != "eve" else (64, 98, 82)), tmp_path / f"{name}.nrrd")
    write_set(tmp_path, tmp_path / "other", OPTIONS, grid=GRID)
    first, second = files(made), files(tmp_path / "other")
    assert {n for n in first if first[n] != second[n]} == {n for n in first if n.startswith("test_set")} | {
        "population.json"
    }


def test_the_whole_set_is_the_same_to_the_byte(quick, heads, tmp_path):
    for name in ("one", "two"):
        write_set(heads, tmp_path / name, OPTIONS, grid=GRID)
    write_set(heads, tmp_path / "three", SetOptions(3, 2, ("dan", "eve"), 6, 3.0), grid=GRID)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    one, three = files(tmp_path / "one"), files(tmp_path / "three")
    assert not [name for name in one if name.endswith("000.nrrd") and one[name] == three[name]]


def test_complete_is_defective_and_implant_to_the_voxel(made):
    check_cases(find_cases(made))
    for case in find_cases(made):
        complete = read_volume(case.complete)
        assert complete.array.dtype == np.uint8
        assert set(np.unique(complete.array)) == {0, 1}
        assert np.allclose(complete.affine[:3, :3], np.diag(complete.spacing))
        assert np.all(np.abs(complete.spacing / 3 - 1) <= 0.05)
        if case.defective is not None:
            defective, implant = read_volume(case.defective), read_volume(case.implant)
            assert not (defective.array & implant.array).any()
            assert np.array_equal(defective.array | implant.array, complete.array)
            assert np.array_equal(defective.affine, complete.affine)


def test_a_drawn_skull_is_one_piece_with_air_around_it(made):
    for path in made.glob("*/complete_skull/*.nrrd"):
        bone = read_volume(path).array
        assert ndimage.label(bone, structure=np.ones((3, 3, 3)))[1] == 1
        assert not any(np.moveaxis(bone, axis, 0)[[0, -1]].any() for axis in range(3))


def test_the_defects_are_where_skullfix_has_them(made):
    for case in find_cases(made):
        if case.defective is None:
            continue
        complete, implant = read_volume(case.complete), read_volume(case.implant)
        assert stated_kind(complete, implant.array > 0) == case.kind
        share = implant.array.sum() / complete.array.sum()
        assert 0.05 < share < (0.3 if case.kind == "facial" else 0.2)
        middle = np.argwhere(implant.array).mean(0) - np.argwhere(complete.array).mean(0)
        assert middle[0] > 5 if case.kind == "facial" else abs(middle[0]) < 3


def test_a_head_drawn_without_variation_is_the_individuals_own(laid):
    base, training, held_out = laid
    points = GRID.coordinates().reshape(-1, 3)
    vault = GRID.coordinates()[..., 2] > 10
    for head in (*training, *held_out):
        skull = prepare_skull(head.name, shell(HEADS[head.name]))
        alignment = register_affine(skull.points, AffineTarget(redistance(base.mean, GRID), GRID))
        own = (canonical_field(skull.imaged, skull.imaged_distance, alignment, GRID)[0] < 0) & vault
        drawn = DrawnHead((head.name,), head.detail, head.warp, head.scales, np.eye(3), False)
        again = (drawn.signed_distance(points, GRID).reshape(GRID.shape) < 0) & vault
        assert 2 * (own & again).sum() / (own.sum() + again.sum()) > 0.9


def test_heads_differ_in_shape_and_size(laid):
    base, training, _ = laid
    drawn = [draw_head(training, base, np.random.default_rng(k)) for k in range(8)]
    images = [skullset.image_head(head, GRID, np.random.default_rng(0), 3.0)[0] for head in drawn]
    lengths = np.array([np.ptp(np.argwhere(i.array), axis=0)[:2] * i.spacing[:2] for i in images])
    assert (lengths.std(0) > 2).all()
    assert (lengths[:, 0] / lengths[:, 1]).std() > 0.01
    assert len({head.names for head in drawn}) > 1


def test_a_mirrored_head_is_cut_on_the_same_side(laid):
    base, training, _ = laid
    plain = draw_head(training, base, np.random.default_rng(1))
    for mirrored in (False, True):
        head = DrawnHead(plain.names, plain.field, plain.warp, plain.scales, np.eye(3), mirrored)
        bone, pieces = skullset.image_head(head, GRID, np.random.default_rng(0), 3.0)
        x = [np.argwhere(mask).mean(0)[0] for mask in (pieces["facial"], bone.array)]
        assert x[0] > x[1] + 5


def test_individuals_are_held_out_by_name_or_by_the_seed():
    names = [f"n{k}" for k in range(10)]
    assert choose_holdout(names, ("n3", "n1"), 0) == ("n1", "n3")
    assert len(choose_holdout(names, (), 0)) == 2
    assert len(choose_holdout(names[:3], (), 0)) == 1
    assert choose_holdout(names, (), 4) == choose_holdout(names[::-1], (), 4)
    assert len({choose_holdout(names, (), seed) for seed in range(8)}) > 1


@pytest.mark.parametrize(
    ("names", "holdout", "message"),
    [
        (["ada"], (), "one individual, 'ada'"),
        (["ada", "ada"], (), "one individual, 'ada'"),
        (["ada", "ben"], ("eve",), "There is no individual 'eve'"),
        (["ada", "ben"], ("ada", "ben"), "Every individual is held out"),
    ],
)
def test_what_cannot_be_split_is_an_error(names, holdout, message):
    with pytest.raises(SkullVAEError, match=message):
        choose_holdout(names, holdout, 0)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"held_out_count": 0}, {"spacing_mm": 0.0}, {"spacing_mm": 9.0}])
def test_options_that_give_no_set_are_an_error(wrong):
    with pytest.raises(SkullVAEError):
        SetOptions(**wrong)


def test_a_list_that_holds_out_is_obeyed(quick, heads, tmp_path):
    entries = [
        {"complete": str(heads / f"{n}.nrrd"), "split": HELD_OUT if n in ("dan", "eve") else TRAINING} for n in HEADS
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries), encoding="utf-8")
    result = write_set(tmp_path / "list.json", tmp_path / "set", SetOptions(1, 1, spacing_mm=4.0), grid=GRID)
    assert result["split"] == {TRAINING: ["ada", "ben", "cyd"], HELD_OUT: ["dan", "eve"]}


def test_one_head_under_two_names_is_an_error_that_names_the_files(quick, tmp_path):
    for name in ("ada", "ben", "twin"):
        write_volume(shell(HEADS.get(name, HEADS["ada"])), tmp_path / f"{name}.nii.gz")
    with pytest.raises(SkullVAEError, match=r"twin\.nii\.gz.*ada\.nii\.gz.*the same skull"):
        write_set(tmp_path, tmp_path / "set", SetOptions(1, 1, ("ben",)), grid=GRID)
    assert not (tmp_path / "set").exists()


def test_a_drawn_set_is_nothing_to_draw_from(quick, made, tmp_path):
    with pytest.raises(SkullVAEError, match=r"000\.nrrd' has a plus sign"):
        write_set(made, tmp_path / "again", SetOptions(1, 1), grid=GRID)


def test_a_folder_of_somebody_elses_is_left_alone(quick, heads, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(SkullVAEError, match="holds other files"):
        write_set(heads, tmp_path / "thesis", OPTIONS, grid=GRID)
    assert files(tmp_path) == {"thesis/chapter.txt": b"years of work"}


def test_an_earlier_set_is_replaced_unless_something_was_added_to_it(quick, heads, tmp_path):
    (tmp_path / "set").mkdir()  # an empty folder is as good as none
    write_set(heads, tmp_path / "set", SetOptions(2, 1, ("dan", "eve"), spacing_mm=4.0), grid=GRID)
    write_set(heads, tmp_path / "set", SetOptions(1, 1, ("dan", "eve"), spacing_mm=4.0), grid=GRID)
    assert len(list((tmp_path / "set").glob("*/complete_skull/*"))) == 2
    (tmp_path / "set" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(SkullVAEError, match="holds other files"):
        write_set(heads, tmp_path / "set", SetOptions(1, 1, ("dan", "eve"), spacing_mm=4.0), grid=GRID)
    assert (tmp_path / "set" / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError])
def test_a_set_that_fails_half_way_leaves_what_was_there(quick, heads, tmp_path, monkeypatch, error):
    out = tmp_path / "deep" / "set"
    count = 0

    def fail(*arguments):
        nonlocal count
        count += 1
        if count > 6:
            raise error
        write_volume(*arguments)

    monkeypatch.setattr(skullset, "write_volume", fail)
    with pytest.raises(error):
        write_set(heads, out, OPTIONS, grid=GRID)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(skullset, "write_volume", write_volume)
    write_set(heads, out, SetOptions(1, 1, ("dan", "eve"), spacing_mm=4.0), grid=GRID)
    before, count = files(out), 0
    monkeypatch.setattr(skullset, "write_volume", fail)
    with pytest.raises(error):
        write_set(heads, out, OPTIONS, grid=GRID)
    assert files(tmp_path / "deep") == {f"set/{name}": content for name, content in before.items()}


def test_the_provenance_names_every_source(made, heads):
    result = json.loads((made / "population.json").read_text(encoding="utf-8"))
    assert result["options"]["seed"] == 5
    assert {s["file"] for s in result["sources"]} == {f"{name}.nrrd" for name in HEADS}
    assert all(len(s["sha256"]) == 64 for s in result["sources"])
    assert result["split"] == {TRAINING: ["ada", "ben", "cyd"], HELD_OUT: ["dan", "eve"]}
    assert "not for clinical use" in result["notice"]
    assert str(heads) not in (made / "population.json").read_text(encoding="utf-8")


def test_where_nothing_is_known_the_mean_stands_in(laid):
    base, training, _ = laid
    blind = [
        skullset.RegisteredHead(h.name, torch.full_like(h.detail, 10.0), 0 * h.known, h.warp, h.scales)
        for h in training
    ]
    drawn = draw_head(blind, base, np.random.default_rng(0))
    assert (drawn.field < 0).sum() > 0.7 * (base.mean < 0).sum()
