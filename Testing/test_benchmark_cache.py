"""Claims about the cached cases of the accuracy benchmark: none is taken that other code, model or data made."""

from __future__ import annotations

import ast
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from benchmark import contest, folds, rows
from benchmark.rows import ABLATION, TITLES, Fold

from SkullVAELib.vae.checkpoint import save_model

MODULES = {
    "__init__.py": "",
    "errors.py": "class Error(Exception):\n    pass\n",
    "shape/__init__.py": "",
    "shape/warped.py": "from ..errors import Error\n\nHALF_MM = 0.5\n",
    "shape/deeper/__init__.py": "",
    "shape/deeper/field.py": "def field(x):\n    return x + 1\n",
}


@pytest.fixture
def package(tmp_path) -> Path:
    folder = tmp_path / "package"
    for name, text in MODULES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def hash_of(folder: Path) -> str:
    return contest.code_hash(folder, folder.rglob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_a_change_of_any_module_changes_the_hash(package, name):
    before = hash_of(package)
    with (package / name).open("a", encoding="utf-8") as file:
        file.write("CHANGED = 1\n")
    assert hash_of(package) != before


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("to", ["renamed.py", "shape/renamed.py", "shape/deeper/renamed.py", "new/renamed.py"])
def test_a_rename_or_move_of_any_module_changes_the_hash(package, name, to):
    before = hash_of(package)
    (package / to).parent.mkdir(exist_ok=True)
    (package / name).rename(package / to)
    assert hash_of(package) != before


def test_two_modules_that_change_places_change_the_hash(package):
    before = hash_of(package)
    first, second = package / "errors.py", package / "shape" / "warped.py"
    texts = first.read_text(encoding="utf-8"), second.read_text(encoding="utf-8")
    first.write_text(texts[1], encoding="utf-8")
    second.write_text(texts[0], encoding="utf-8")
    assert hash_of(package) != before


@pytest.mark.parametrize("name", MODULES)
def test_a_removed_or_an_added_module_changes_the_hash(package, name):
    before = hash_of(package)
    (package / name).unlink()
    assert hash_of(package) != before
    (package / name).write_text(MODULES[name], encoding="utf-8")
    (package / "shape" / "added.py").write_text("", encoding="utf-8")
    assert hash_of(package) != before


def test_comments_and_the_place_of_the_checkout_do_not_change_the_hash(package, tmp_path):
    before = hash_of(package)
    path = package / "shape" / "warped.py"
    path.write_text("# A comment.\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    package.rename(tmp_path / "elsewhere")
    assert hash_of(tmp_path / "elsewhere") == before


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    """A copy of the library whose modules count instead of the library's own; changes count at once."""
    copy = tmp_path / "SkullVAELib"
    shutil.copytree(contest.LIBRARY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(contest, "LIBRARY", copy)
    monkeypatch.setattr(contest, "_library_hash", contest._library_hash.__wrapped__)
    return copy


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    return tiny.write_heads(tmp_path_factory.mktemp("benchmark") / "heads")


def model_of_a_fold(folder: Path) -> Path:
    shape = torch.zeros(tiny.TINY.grid_shape)
    path = folder / "model.safetensors"
    save_model(folds.untrained(tiny.TINY, shape, shape), path, {"networks": "untrained", "holdout": ["out"]})
    return path


@pytest.fixture
def job(heads, tmp_path) -> contest.Job:
    """The row that does nothing on one skull: its record depends on the library as every row's does."""
    skull = shutil.copy(heads / "out.nrrd", tmp_path)
    return contest.Job(
        Path(skull), "out", 2, ("nothing",), Fold(model_of_a_fold(tmp_path), (), tmp_path), tmp_path / "o"
    )


WRONG = 0.123


def is_taken(job: contest.Job) -> bool:
    """Whether a valid cached case is taken; leaves it marked by a wrong result."""
    assert json.loads(job.record.read_text(encoding="utf-8"))["rows"]["nothing"]["dsc"] == 0
    record = json.loads(job.record.read_text(encoding="utf-8"))
    record["rows"]["nothing"]["dsc"] = WRONG
    job.record.write_text(json.dumps(record), encoding="utf-8")
    return contest.run_job(job)["rows"]["nothing"]["dsc"] == WRONG


def test_a_stale_case_is_not_taken(library, job, tmp_path):
    contest.run_job(job)
    assert is_taken(job)
    # A module that no import of the completion reaches, in a package that did not exist when the record was made.
    added = library / "new" / "package" / "module.py"
    added.parent.mkdir(parents=True)
    added.write_text("", encoding="utf-8")
    assert contest.run_job(job)["rows"]["nothing"]["dsc"] == 0
    assert is_taken(job)


def deepest(library: Path) -> Path:
    return max(library.rglob("*.py"), key=lambda path: (len(path.parts), path.stat().st_size))


def changed_module(library: Path, job: contest.Job, heads: Path) -> contest.Job:
    with deepest(library).open("a", encoding="utf-8") as file:
        file.write("\nCHANGED = 1\n")
    return job


def moved_module(library: Path, job: contest.Job, heads: Path) -> contest.Job:
    (library / "moved").mkdir()
    deepest(library).rename(library / "moved" / deepest(library).name)
    return job


def another_model(library: Path, job: contest.Job, heads: Path) -> contest.Job:
    other = tiny.ROOT / "SkullVAE" / "Resources" / "Models" / "skullvae.safetensors"
    return dataclasses.replace(job, fold=dataclasses.replace(job.fold, model=other))


def another_skull(library: Path, job: contest.Job, heads: Path) -> contest.Job:
    """The file of another skull under the name of this one."""
    shutil.copy(heads / "ada.nrrd", job.file)
    return job


@pytest.mark.parametrize("change", [changed_module, moved_module, another_model, another_skull])
def test_every_change_makes_a_cached_case_stale(library, job, heads, change):
    contest.run_job(job)
    assert is_taken(job)
    assert contest.run_job(change(library, job, heads))["rows"]["nothing"]["dsc"] == 0


def test_what_was_fitted_for_a_row_is_part_of_its_key(job):
    for row in ("pca-32", "unet"):
        (fitted,) = rows.fitted(row, job.fold)
        fitted.write_bytes(b"first")
        first = contest.fingerprint(row, job.fold, job.file)
        fitted.write_bytes(b"second")
        assert contest.fingerprint(row, job.fold, job.file) != first
    assert rows.fitted("blend-rim", job.fold) == []


def test_slices_have_a_key_of_their_own(job):
    keys = {contest.fingerprint("mean", job.fold, job.file, slices_mm) for slices_mm in (None, 1.0, 2.5)}
    assert len(keys) == 3


def test_a_trained_model_is_part_of_the_key_of_rows_with_a_network_alone(job):
    trained = dataclasses.replace(job.fold, trained=job.file)
    assert contest.fingerprint("mean", trained, job.file) == contest.fingerprint("mean", job.fold, job.file)
    assert contest.fingerprint("encode", trained, job.file) != contest.fingerprint("encode", job.fold, job.file)


def imported(path: Path) -> set[str]:
    """The modules of the benchmark that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("row", [*TITLES, *ABLATION])
def test_a_row_depends_on_all_of_the_benchmark_but_what_presents_it_and_other_rows_own(row):
    folder = Path(rows.__file__).parent
    files = {path.stem for path in rows.sources(row)}
    assert {"cases", "contest", "rows", "scores"} <= files
    assert {path.stem for path in folder.glob("*.py")} - files <= {
        *rows.PRESENTING,
        "shapes",
        "drawn",
        "pca",
        "unet",
        "slices",
    }
    used = set().union(*(imported(path) for path in rows.sources(row)))
    assert not used & set(rows.PRESENTING)
    if row.startswith(("pca", "unet")):  # whose own file is counted: then what it imports counts, too
        assert used - {"pca", "unet", "slices", "hard"} <= files
