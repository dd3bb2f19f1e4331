"""Claims about finding skulls: every layout is read, classes come from folders or lists, a missing truth is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from SkullVAELib.datasets import Case, find_cases, stem
from SkullVAELib.errors import SkullVAEError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def kinds(cases: list[Case]) -> dict[str, int]:
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
    (tmp_path / "list.json").write_text(json.dumps(entries))
    cases = find_cases(tmp_path / "list.json")
    assert [case.individual for case in cases] == ["Ada", "Ada", "b", "a"]
    assert [case.kind for case in cases] == ["complete", "facial", "complete", "cranial"]
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
    (tmp_path / "list.json").write_text(text)
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
