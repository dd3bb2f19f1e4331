"""Claims about data: every layout is read and described, no class is guessed, mismatched files are named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.data import synthetic_defects as defects
from SkullVAELib.data.datasets import (
    CASE_KINDS,
    HELD_OUT,
    TRAINING,
    SkullCase,
    check_cases,
    describe,
    find_cases,
    split_by_individual,
    stated_kind,
    stem,
)
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import read_volume, write_volume


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def kinds(cases: list[SkullCase]) -> dict[str, int]:
    found = [case.kind for case in cases]
    return {kind: found.count(kind) for kind in sorted(set(found))}


def test_a_plain_folder_holds_complete_skulls(tmp_path):
    touch(tmp_path, "b.nii.gz", "a.nrrd", "c.mha", "notes.txt", ".hidden.nrrd", "deeper/d.nrrd")
    cases = find_cases(tmp_path)
    assert [case.individual for case in cases] == ["a", "b", "c"]
    assert all(case.defective is None and case.kind == "complete" for case in cases)


@pytest.mark.parametrize("inside", ["", "training_set/"])
def test_skullfix_pairs_each_defective_skull_with_its_complete_one(tmp_path, inside):
    names = [
        f"{inside}{folder}/00{k}.nrrd" for folder in ("complete_skull", "defective_skull", "implant") for k in range(3)
    ]
    cases = find_cases(touch(tmp_path, *names))
    assert kinds(cases) == {"complete": 3, "cranial": 3}
    for case in cases:
        assert case.individual == stem(case.complete)
        if case.defective:
            assert case.defective.parent.name == "defective_skull"
            assert case.defective.name == case.complete.name


def test_skullbreak_takes_the_kind_from_the_folder_and_keeps_one_head_together(tmp_path):
    sites = ("bilateral", "frontoorbital", "parietotemporal", "random_1", "random_2")
    touch(tmp_path, *[f"complete_skull/00{k}.nrrd" for k in range(2)])
    touch(
        tmp_path,
        *[f"{part}/{site}/00{k}.nrrd" for part in ("defective_skull", "implant") for site in sites for k in range(2)],
    )
    cases = find_cases(tmp_path)
    assert kinds(cases) == {"complete": 2} | dict.fromkeys(sites, 2)
    assert {case.individual for case in cases} == {"000", "001"}
    assert all(case.defective.parent.name == case.kind for case in cases if case.defective)


def test_the_original_codes_folders_make_no_claim_about_class(tmp_path):
    names = [f"train/{part}/{k:03d}.nii.gz" for part in ("input", "gt") for k in range(4)]
    cases = find_cases(touch(tmp_path, *names))
    # Its file order stands for cranial, facial, complete; order is no evidence.
    assert kinds(cases) == {"complete": 4, "unknown": 4}
    assert all(case.complete.parent.name == "gt" for case in cases)


@pytest.mark.parametrize(
    ("names", "orphan"),
    [
        (("complete_skull/000.nrrd", "defective_skull/000.nrrd", "defective_skull/007.nrrd"), "007.nrrd"),
        (("complete_skull/000.nrrd", "defective_skull/bilateral/008.nrrd"), "008.nrrd"),
        (("train/gt/000.nii.gz", "train/input/000.nii.gz", "train/input/009.nii.gz"), "009.nii.gz"),
    ],
)
def test_a_defective_skull_without_its_complete_one_is_an_error_that_names_it(tmp_path, names, orphan):
    with pytest.raises(SkullVAEError, match=orphan):
        find_cases(touch(tmp_path, *names))


def test_a_json_list_says_everything_itself(tmp_path):
    touch(tmp_path, "images/a.nrrd", "images/a_cut.nrrd", "images/b.nrrd")
    entries = [
        {"complete": "images/a.nrrd", "individual": "Ada"},
        {"complete": "images/a.nrrd", "defective": "images/a_cut.nrrd", "individual": "Ada", "kind": "facial"},
        {"complete": "images/b.nrrd"},
        {"complete": "images/a.nrrd", "defective": "images/a_cut.nrrd"},
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries), encoding="utf-8")
    cases = find_cases(tmp_path / "list.json")
    assert [case.individual for case in cases] == ["Ada", "Ada", "b", "a"]
    assert [case.kind for case in cases] == ["complete", "facial", "complete", "unknown"]
    assert cases[1].defective == tmp_path / "images" / "a_cut.nrrd"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "not a data list"),
        ('{"a": 1}', "not a data list"),
        ("5", "not a data list"),
        ('[{"defective": "a.nrrd"}]', "not a data list"),
        ('["a.nrrd"]', "not a data list"),
        ("[]", "no skull"),
        ('[{"complete": "gone.nrrd"}]', r"gone\.nrrd"),
    ],
)
def test_a_wrong_list_is_an_error_with_a_remedy(tmp_path, text, message):
    (tmp_path / "list.json").write_text(text, encoding="utf-8")
    with pytest.raises(SkullVAEError, match=message):
        find_cases(tmp_path / "list.json")


def test_nothing_to_find_is_an_error(tmp_path):
    with pytest.raises(SkullVAEError, match="does not exist"):
        find_cases(tmp_path / "none")
    with pytest.raises(SkullVAEError, match="No skulls were found"):
        find_cases(tmp_path)
    (tmp_path / "complete_skull").mkdir()
    with pytest.raises(SkullVAEError, match="No skulls were found"):
        find_cases(tmp_path)


def head(number: int = 0) -> np.ndarray:
    """A shell whose size tells heads apart; nose at the end of the second axis, vertex at that of the third."""
    i, j, k = np.ogrid[:30, :36, :30]
    radius = np.sqrt(
        ((i - 14.5) / (11 + number % 3)) ** 2 + ((j - 17.5) / (14 + number // 3)) ** 2 + ((k - 14) / 12) ** 2
    )
    return (radius < 1) & (radius > 0.75) & (k > 5)


def cranial(bone: np.ndarray) -> np.ndarray:
    place = np.zeros_like(bone)
    place[9:21, 5:16, 17:] = True
    return bone & place


def facial(bone: np.ndarray) -> np.ndarray:
    place = np.zeros_like(bone)
    place[15:, 20:, :] = True
    return bone & place


CUTS = {"cranial": cranial, "facial": facial}


def write(path: Path, mask: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine
    write_volume(Volume(mask.astype(np.uint8) if mask.dtype == bool else mask, affine), path)
    return path


@pytest.fixture
def skullfix(tmp_path) -> Path:
    """Two heads in the challenge's folders."""
    for number in range(2):
        bone = head(number)
        parts = {"complete_skull": bone, "defective_skull": bone & ~cranial(bone), "implant": cranial(bone)}
        for part, mask in parts.items():
            write(tmp_path / "training_set" / part / f"00{number}.nrrd", mask)
    return tmp_path


def test_sound_data_pass_the_check_and_are_read_once(skullfix, monkeypatch):
    from SkullVAELib.data import datasets

    read, content = [], []
    monkeypatch.setattr(datasets, "read_volume", lambda path: read.append(path) or read_volume(path))
    cases = find_cases(skullfix)
    assert check_cases(cases, lambda stage, fraction: content.append(fraction)) == cases
    assert len(read) == len(set(read)) == 6
    assert content == sorted(content)
    assert content[-1] == 1


FILES = {part: f"training_set/{part}/001.nrrd" for part in ("complete_skull", "defective_skull", "implant")}
BONE = head(1)
SPECK = np.zeros_like(BONE)
SPECK[14:17, 17:20, 14:17] = True

# The files to write anew, and what the error must say, with the file it must name.
WRONG = {
    "an empty complete skull": ({"complete_skull": BONE & False}, "complete_skull/001.nrrd': .*empty"),
    "an empty defective skull": ({"defective_skull": BONE & False}, "defective_skull/001.nrrd': .*empty"),
    "an empty implant": ({"implant": BONE & False}, "implant/001.nrrd': .*empty"),
    "several labels": (
        {"complete_skull": BONE * np.uint8(1) + SPECK * np.uint8(7)},
        "complete_skull/001.nrrd': .*labels",
    ),
    "another size": ({"defective_skull": BONE[:-1]}, "defective_skull/001.nrrd' has 29 x 36 x 30 voxels"),
    "swapped files": (
        {"complete_skull": BONE & ~cranial(BONE), "defective_skull": BONE},
        "defective_skull/001.nrrd' has bone where .*swapped",
    ),
    "another head's defective skull": (
        {"defective_skull": head(5) & ~cranial(head(5))},
        "defective_skull/001.nrrd' has bone where .*complete_skull/001.nrrd' has none",
    ),
    "nothing missing": ({"defective_skull": BONE}, "defective_skull/001.nrrd' has no missing bone"),
    "another defect's implant": ({"implant": facial(BONE)}, "implant/001.nrrd' is not the bone"),
    "an implant that overlaps bone": ({"implant": cranial(BONE) | facial(BONE)}, "implant/001.nrrd' is not the bone"),
    "the same head twice": (
        {
            "complete_skull": head(0),
            "defective_skull": head(0) & ~cranial(head(0)),
            "implant": cranial(head(0)),
        },
        "complete_skull/001.nrrd' and .*complete_skull/000.nrrd' are the same skull",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_voxels_are_an_error_that_names_the_file(skullfix, mistake):
    changed, message = WRONG[mistake]
    for part, mask in changed.items():
        write(skullfix / FILES[part], mask)
    with pytest.raises(SkullVAEError, match=message) as caught:
        check_cases(find_cases(skullfix))
    assert "\n" not in str(caught.value)


def test_a_damaged_file_and_one_that_lies_elsewhere_are_named(skullfix):
    moved = np.diag([2.0, 2.0, 2.0, 1.0])
    moved[2, 3] = 4
    write(skullfix / FILES["defective_skull"], BONE & ~cranial(BONE), moved)
    with pytest.raises(SkullVAEError, match=r"defective_skull/001\.nrrd' has another position in space"):
        check_cases(find_cases(skullfix))
    (skullfix / FILES["complete_skull"]).write_text("no image", encoding="utf-8")
    with pytest.raises(SkullVAEError, match=r"complete_skull/001\.nrrd"):
        check_cases(find_cases(skullfix))


def test_a_voxel_lost_in_conversion_is_no_mix_up(skullfix):
    implant = cranial(BONE)
    implant[tuple(np.argwhere(implant)[0])] = False
    write(skullfix / FILES["implant"], implant)
    check_cases(find_cases(skullfix))


def test_one_skull_in_two_formats_is_still_one(tmp_path):
    write(tmp_path / "ada.nrrd", head(0))
    write(tmp_path / "bea.nii.gz", head(0))
    with pytest.raises(SkullVAEError, match=r"bea\.nii\.gz' and .*ada\.nrrd' are the same skull"):
        check_cases(find_cases(tmp_path))


def test_skullfix_test_skulls_are_counted_and_not_trained_on(skullfix):
    for folder, count in (("test_set_for_participants", 3), ("additional_test_set_for_participants", 2)):
        touch(skullfix / folder, *[f"10{k}.nrrd" for k in range(count)])
    cases = find_cases(skullfix)
    assert kinds(cases) == {"complete": 2, "cranial": 2}
    assert len(cases.unpaired) == 5
    assert "5 skulls for evaluation only" in describe(cases)
    # Given by itself, such a folder must not pass for complete skulls.
    for name in ("test_set_for_participants", "training_set/defective_skull", "training_set/implant"):
        with pytest.raises(SkullVAEError, match="one part of a set"):
            find_cases(skullfix / name)


def test_a_test_set_with_its_truth_is_held_out_and_its_000_is_another_head(skullfix):
    touch(skullfix / "test_set_give_participants", "complete_skull/000.nrrd", "defective_skull/000.nrrd")
    training, held_out = split_by_individual(find_cases(skullfix))
    assert {c.individual for c in training} == {"000", "001"}
    assert {c.individual for c in held_out} == {"test_set_give_participants/000"}


def original(root: Path, names: dict[str, tuple[int, str]]) -> Path:
    """The original code's folders: name -> (whose head, kind)."""
    for name, (number, kind) in names.items():
        bone = head(number)
        write(root / "train" / "gt" / name, bone)
        write(root / "train" / "input" / name, bone & ~CUTS[kind](bone) if kind in CUTS else bone)
    return root


def test_the_original_codes_classes_are_found_by_comparing_and_its_heads_by_their_truth(tmp_path):
    # In its order (cranial, facial, complete) and out of it.
    names = {"000.nii.gz": (0, "cranial"), "001.nii.gz": (0, "facial"), "002.nii.gz": (0, "complete")}
    names |= {"003.nii.gz": (4, "complete"), "004.nii.gz": (4, "facial"), "005.nii.gz": (4, "cranial")}
    found = find_cases(original(tmp_path, names))
    assert kinds(found) == {"complete": 2, "unknown": 4}
    assert {c.individual for c in found} == {"000", "003"}
    assert "The kind of the unknown defects" in describe(found)
    cases = check_cases(found)
    assert {c.defective.name: c.kind for c in cases if c.defective} == {
        "000.nii.gz": "cranial",
        "001.nii.gz": "facial",
        "004.nii.gz": "facial",
        "005.nii.gz": "cranial",
    }
    assert "4 defective (2 cranial, 2 facial)" in describe(cases)


def test_the_original_codes_names_and_subfolders_are_believed(tmp_path):
    names = {"facial/a.nii.gz": (0, "facial"), "b_cranial.nii.gz": (1, "cranial"), "c.nii.gz": (2, "complete")}
    cases = find_cases(original(tmp_path, names))
    assert [(c.individual, c.kind) for c in cases if c.defective] == [("b_cranial", "cranial"), ("facial/a", "facial")]


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (1, 1, -1)])
def test_a_kind_is_told_by_the_place_on_the_head_whatever_the_axes(flips):
    affine = np.diag([*flips, 1.0])
    for kind, cut in CUTS.items():
        bone, missing = (m[:: flips[0], :: flips[1], :: flips[2]] for m in (head(), cut(head())))
        assert stated_kind(Volume(bone, affine), missing) == kind
        turned = affine[:, [2, 0, 1, 3]]
        assert stated_kind(Volume(bone.transpose(2, 0, 1), turned), missing.transpose(2, 0, 1)) == kind
    low = head() & (np.arange(30) < 12)
    assert stated_kind(Volume(head(), np.eye(4)), low) == "unknown"


ENTRY = {"complete": "a.nrrd", "individual": "Ada"}
CUT = ENTRY | {"defective": "a_cut.nrrd", "kind": "facial"}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([ENTRY | {"split": "train"}], "'a.nrrd', has the unknown split 'train'"),
        ([CUT | {"kind": "nasal"}], "'a_cut.nrrd', has the unknown kind 'nasal'"),
        ([CUT | {"kind": "complete"}], "'a_cut.nrrd', is of kind 'complete' but lists a defective skull"),
        ([ENTRY | {"kind": "facial"}], "'a.nrrd', is of kind 'facial' but lists no defective skull"),
        ([ENTRY | {"individual": "a+"}], "'a.nrrd', has no valid individual"),
        ([ENTRY | {"individual": 7}], "'a.nrrd', has no valid individual"),
        ([CUT | {"defective": "gone.nrrd"}], r"gone\.nrrd', which does not exist"),
        ([CUT | {"implant": "gone.nrrd"}], r"gone\.nrrd', which does not exist"),
        (
            [ENTRY | {"split": "training"}, {"complete": "b.nrrd", "individual": "Ada+Bea", "split": "held-out"}],
            "individual 'Ada' is training in '.*a.nrrd' and held-out in '.*b.nrrd'",
        ),
        ({"training": [ENTRY], "validation": [CUT]}, "individual 'Ada' is training in .* held-out in"),
        ({"traning": [ENTRY]}, "not a data list"),
    ],
)
def test_a_wrong_entry_is_an_error_that_names_it(tmp_path, entries, message):
    touch(tmp_path, "a.nrrd", "a_cut.nrrd", "b.nrrd")
    (tmp_path / "datalist.json").write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(SkullVAEError, match=message):
        find_cases(tmp_path)


def test_the_parts_of_a_list_are_its_split(tmp_path):
    touch(tmp_path, "a.nrrd", "b.nrrd")
    (tmp_path / "list.json").write_text(
        json.dumps({"training": [ENTRY], "testing": [{"complete": "b.nrrd"}]}), encoding="utf-8"
    )
    assert [c.split for c in find_cases(tmp_path / "list.json")] == [TRAINING, HELD_OUT]


def test_a_drawn_set_without_its_list_is_not_read_by_its_folders(tmp_path):
    touch(tmp_path, "population.json", "training_set/complete_skull/000.nrrd")
    with pytest.raises(SkullVAEError, match=r"has no datalist\.json"):
        find_cases(tmp_path)


def test_two_files_of_one_name_and_an_orphan_implant_are_errors(tmp_path):
    touch(tmp_path / "one", "a.nrrd", "a.nii.gz")
    with pytest.raises(SkullVAEError, match=r"a\.nrrd' and 'a\.nii\.gz'"):
        find_cases(tmp_path / "one")
    touch(tmp_path / "two", "complete_skull/000.nrrd", "implant/003.nrrd")
    with pytest.raises(SkullVAEError, match=r"implant/003\.nrrd"):
        find_cases(tmp_path / "two")


def drawn(*individuals: str, **more) -> list[SkullCase]:
    return [SkullCase(name, Path(f"{k:03d}.nrrd"), **more) for k, name in enumerate(individuals)]


def test_no_sibling_of_a_held_out_head_is_trained_on():
    cases = drawn("a", "a+b", "b+c", "c", "d", "c+d")
    lines = []
    training, held_out = split_by_individual(cases, ("a", "b"), lines.append)
    assert [c.individual for c in training] == ["c", "d", "c+d"]
    assert [c.individual for c in held_out] == ["a", "a+b"]
    assert lines == ["1 cases are left out: they were generated from individuals of whom only some are held out"]
    with pytest.raises(SkullVAEError, match=r"002\.nrrd' was generated from 'b\+c', of whom only some"):
        split_by_individual(cases, ("a", "b"))


def test_the_datas_own_split_is_obeyed_and_only_added_to():
    cases = drawn("a", "b", split=TRAINING) + drawn("c", "c+d", split=HELD_OUT)
    training, held_out = split_by_individual(cases)
    assert [c.individual for c in training] == ["a", "b"]
    assert [c.individual for c in held_out] == ["c", "c+d"]
    training, held_out = split_by_individual(cases, ("b",))
    assert [c.individual for c in training] == ["a"]
    assert [c.individual for c in held_out] == ["b", "c", "c+d"]


def test_a_split_that_cannot_be_is_an_error():
    cases = drawn("a", "b+c")
    with pytest.raises(SkullVAEError, match="There is no individual 'x'"):
        split_by_individual(cases, ("x",))
    with pytest.raises(SkullVAEError, match="There is no individual 'b\\+c'"):
        split_by_individual(cases, ("b+c",))
    with pytest.raises(SkullVAEError, match="Every individual is held out"):
        split_by_individual(cases, ("a", "b", "c"))
    with pytest.raises(SkullVAEError, match=r"'b' is training in '001\.nrrd' and held-out in '000\.nrrd'"):
        split_by_individual([*(dataclasses.replace(c, split=TRAINING) for c in cases), *drawn("b", split=HELD_OUT)])


def test_every_kind_of_defect_that_is_cut_here_is_a_known_one():
    assert set(defects.DEFECT_KINDS) <= set(CASE_KINDS)


def test_what_was_found_is_told_in_plain_lines(skullfix):
    content = describe(find_cases(skullfix))
    assert "SkullFix's layout" in content
    assert "2 individuals, 2 complete skulls, 2 defective (2 cranial)" in content
    cases = drawn("a", "b", split=TRAINING) + drawn("c+d", split=HELD_OUT)
    assert "training 2 cases of 2 individuals, held-out 1 case of 2 individuals" in describe(cases)
