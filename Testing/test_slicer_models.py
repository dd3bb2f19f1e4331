"""The model store accepts only complete, readable models, never overwrites one and keeps the shipped one."""

from __future__ import annotations

import hashlib
import json
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import slicer_standin

slicer_standin.prepare()

from safetensors.numpy import save_file  # noqa: E402
from SkullVAEModule.librarypath import shippedModel  # noqa: E402
from SkullVAEModule.models import ModelStore  # noqa: E402

from SkullVAELib.core.errors import SkullVAEError  # noqa: E402

# `info --model FILE --json` of a library that reads every model but those called "other".
INFO = """
    import json, pathlib, sys
    command, option, path, style = sys.argv[1:]
    assert (command, option, style) == ("info", "--model", "--json"), sys.argv
    bad = pathlib.Path(path).stem == "other"
    error = "The file 'other' is not a model of skulls. Choose another."
    print(json.dumps({"software": "SkullVAE", "model": {"loads": not bad, "error": error if bad else None}}, indent=2))
    sys.exit(2 if bad else 0)
"""


def modelFile(folder: Path, name: str = "mine", seed: int = 1) -> Path:
    """A safetensors file of random numbers."""
    path = folder / f"{name}.safetensors"
    save_file({"weights": np.random.default_rng(seed).random((4, 5)).astype(np.float32)}, path)
    return path


@pytest.fixture
def store(tmp_path) -> ModelStore:
    script = tmp_path / "info.py"
    script.write_text(textwrap.dedent(INFO), encoding="utf-8")
    return ModelStore(tmp_path / "models", [sys.executable, str(script)])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def added(store: ModelStore) -> list:
    return [entry for entry in store.list() if not entry.shipped]


def test_added_model_is_listed_with_size_and_hash(store, tmp_path):
    source = modelFile(tmp_path)
    entry = store.add(source)
    assert (entry.name, entry.sha256, entry.shipped) == ("mine", sha256(source), False)
    assert entry.sizeMB == pytest.approx(source.stat().st_size / 1e6)
    assert entry.path.parent == store.folder
    assert entry.path.read_bytes() == source.read_bytes()
    assert added(store) == [entry]
    assert added(ModelStore(store.folder)) == [entry]
    assert store.verify(entry)


@pytest.mark.skipif(shippedModel() is None, reason="the shipped model file is missing")
def test_shipped_model_is_first_and_cannot_be_removed(store, tmp_path):
    store.add(modelFile(tmp_path, "aaa"))
    first = store.list()[0]
    assert first.shipped
    assert first.sha256 == sha256(shippedModel())
    assert store.verify(first)
    with pytest.raises(SkullVAEError, match="part of the module"):
        store.remove(first)
    assert shippedModel().is_file()
    # It is not added a second time.
    assert first.path.name == "skullvae.safetensors"
    assert store.add(shippedModel()) == first
    assert len(added(store)) == 1


def test_same_file_again_returns_the_existing_entry(store, tmp_path):
    entry = store.add(modelFile(tmp_path, "mine"))
    assert store.add(modelFile(tmp_path, "copy")) == entry
    assert added(store) == [entry]


def test_another_file_of_the_same_name_gets_a_number(store, tmp_path):
    first = store.add(modelFile(tmp_path, seed=1))
    second = store.add(modelFile(tmp_path, seed=2))
    third = store.add(modelFile(tmp_path, seed=3))
    assert [entry.name for entry in (first, second, third)] == ["mine", "mine_2", "mine_3"]
    assert all(store.verify(entry) for entry in (first, second, third))


def test_file_that_was_not_added_is_neither_listed_nor_overwritten(store, tmp_path):
    store.folder.mkdir()
    stranger = modelFile(store.folder, "mine", seed=9)
    before = stranger.read_bytes()
    assert added(store) == []
    assert store.add(modelFile(tmp_path)).name == "mine_2"
    assert stranger.read_bytes() == before


def test_removing_a_model_keeps_the_original_file(store, tmp_path):
    source = modelFile(tmp_path)
    store.remove(store.add(source))
    assert added(store) == []
    assert list(store.folder.iterdir()) == []
    assert source.is_file()


def test_changed_or_missing_file_does_not_verify(store, tmp_path):
    entry = store.add(modelFile(tmp_path))
    content = bytearray(entry.path.read_bytes())
    content[-1] ^= 1
    entry.path.write_bytes(content)
    assert not store.verify(entry)
    assert added(store)[0].sha256 == entry.sha256
    entry.path.unlink()
    assert not store.verify(entry)


def test_unexpected_hash_is_rejected(store, tmp_path):
    source = modelFile(tmp_path)
    with pytest.raises(SkullVAEError, match="not the expected file"):
        store.add(source, "0" * 64)
    assert added(store) == []
    assert store.add(source, sha256(source).upper()).sha256 == sha256(source)


def damaged(source: Path, kind: str) -> Path:
    content = source.read_bytes()
    path = source.with_name(f"bad.{'pt' if kind == 'another suffix' else 'safetensors'}")
    path.write_bytes(
        {
            "empty": b"",
            "a pickle": b"\x80\x04\x95" + bytes(100),
            "truncated": content[:-1],
            "trailing bytes": content + b"!",
            "a huge header": (1 << 62).to_bytes(8, "little") + content[8:],
            "without header": (4).to_bytes(8, "little") + b"[[[[" + bytes(50),
            "a list": (4).to_bytes(8, "little") + b"[1] ",
            "no tensors": (2).to_bytes(8, "little") + b"{}",
            "another suffix": content,
        }[kind]
    )
    return path


KINDS = (
    "empty", "a pickle", "truncated", "trailing bytes", "a huge header", "without header", "a list", "no tensors",
    "another suffix",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_file_that_is_not_a_complete_safetensors_file_is_rejected(store, tmp_path, kind):
    with pytest.raises(SkullVAEError, match=r"bad\."):
        store.add(damaged(modelFile(tmp_path), kind))
    assert added(store) == []


def test_missing_file_is_rejected(store, tmp_path):
    with pytest.raises(SkullVAEError, match="cannot be read"):
        store.add(tmp_path / "none.safetensors")


def test_model_the_library_cannot_read_is_rejected_with_its_message(store, tmp_path):
    with pytest.raises(SkullVAEError, match=r"^The file 'other' is not a model of skulls\. Choose another\.$"):
        store.add(modelFile(tmp_path, "other"))
    assert not store.folder.exists()


def test_store_leaves_no_half_written_files(store, tmp_path):
    entry = store.add(modelFile(tmp_path))
    assert sorted(path.name for path in store.folder.iterdir()) == ["mine.safetensors", "mine.safetensors.json"]
    assert (
        json.loads(entry.path.with_name("mine.safetensors.json").read_text(encoding="utf-8"))["sha256"] == entry.sha256
    )


def test_name_of_the_source_cannot_leave_the_folder(store, tmp_path):
    source = modelFile(tmp_path, "..;mine")
    assert store.add(source).path.parent == store.folder
