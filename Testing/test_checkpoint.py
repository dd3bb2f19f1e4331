"""Claims about model files from strangers: whatever they say, a whole model or one sentence, and nothing is run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import fuzz_inputs
import numpy as np
import pytest
import torch
from tiny import TINY

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.vae.checkpoint import load_any_model, read_tensors, save_model, write_tensors
from SkullVAELib.vae.networks import SkullModel


@pytest.fixture(scope="module", params=[0, 1], ids=["ours", "the paper's"])
def valid(request) -> bytes:
    """A small model file of either method."""
    return fuzz_inputs.seeds(fuzz_inputs.MODELS)[request.param]


def parts(content: bytes) -> tuple[dict, bytes]:
    """Header and data of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: dict | bytes, data: bytes) -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + data


def with_header(content: bytes, **changes: object) -> bytes:
    """The file with other metadata; a dict changes parts of what is there."""
    header, data = parts(content)
    for name, change in changes.items():
        if isinstance(change, dict):
            change = json.loads(header["__metadata__"][name]) | change
        header["__metadata__"][name] = json.dumps(change)
    return joined(header, data)


def refused(folder: Path, content: bytes) -> str:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(SkullVAEError) as caught:
        load_any_model(path)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    return str(caught.value)


def test_a_small_model_is_read(valid, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(valid)
    assert load_any_model(tmp_path / "model.safetensors").architecture.latent_size == 2


def test_the_standard_deviation_is_stored_at_every_other_node(tmp_path):
    torch.manual_seed(0)
    model = SkullModel(TINY, ("cranial",))
    x, y, z = TINY.grid.coordinates().unbind(-1)
    model.spread.copy_(2 + (x / 60).sin() * (y / 70).cos() + z / 200)
    save_model(model, tmp_path / "model.safetensors", {})
    stored = read_tensors(tmp_path / "model.safetensors")[0]["spread"]
    assert tuple(stored.shape) == tuple(n // 2 for n in TINY.grid_shape)
    read = load_any_model(tmp_path / "model.safetensors")
    assert read.spread.shape == model.spread.shape
    assert float((read.spread - model.spread)[1:-1, 1:-1, 1:-1].abs().max()) < 0.02
    assert torch.equal(read.mean, model.mean.half().float())


@pytest.mark.parametrize("shape", [(24, 28), (24, 28, 12), (2, 24, 28, 24)])
def test_a_standard_deviation_of_another_size_is_refused(tmp_path, shape):
    model = SkullModel(TINY, ("cranial",))
    save_model(model, tmp_path / "whole.safetensors", {})
    tensors, metadata = read_tensors(tmp_path / "whole.safetensors")
    write_tensors(tmp_path / "other.safetensors", tensors | {"spread": torch.zeros(shape)}, metadata)
    refused(tmp_path, (tmp_path / "other.safetensors").read_bytes())


@pytest.mark.parametrize(
    "architecture",
    [
        {"channels": [10**9, 10**9]},
        {"channels": [4] * 100_000},
        {"channels": []},
        {"grid_shape": [2**40] * 3},
        {"grid_shape": [10**30] * 3},
        {"grid_shape": [1024] * 3},
        {"latent_size": 10**12},
        {"latent_size": 65536},
        {"latent_size": 2.0},
        {"latent_size": None},
        {"spacing_mm": math.nan},
        {"spacing_mm": 1e308},
        {"strides": [1]},
    ],
    ids=str,
)
def test_sizes_that_the_file_does_not_hold_are_refused_before_they_are_allocated(valid, tmp_path, architecture):
    assert "not a SkullVAE model" in refused(tmp_path, with_header(valid, architecture=architecture))


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ["x"] * 10**5},
        {"classes": [1, 2]},
        {"classes": "ab"},
        {"provenance": "os.system"},
        {"format": ["SkullVAE model 1"]},
        {"architecture": [1]},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_metadata_of_another_kind_are_refused(valid, tmp_path, changes):
    assert "not a SkullVAE model" in refused(tmp_path, with_header(valid, **changes))


@pytest.mark.parametrize("changes", [{"pairs": 10**12}, {"pairs": True}, {"pairs": -1}, {"z": "other"}, {"z": []}])
def test_so_are_the_papers_own(tmp_path, changes):
    valid = fuzz_inputs.seeds(fuzz_inputs.MODELS)[1]
    assert "not a SkullVAE model" in refused(tmp_path, with_header(valid, **changes))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(valid, tmp_path, value):
    header, data = parts(valid)
    name, entry = next((n, e) for n, e in header.items() if n != "__metadata__" and e["dtype"] in ("F16", "F32"))
    weight = np.array(value, {"F16": np.float16, "F32": np.float32}[entry["dtype"]]).tobytes()
    begin = entry["data_offsets"][0]
    assert "NaN or infinite" in refused(
        tmp_path, joined(header, data[:begin] + weight + data[begin + len(weight) :])
    ), name


def test_whole_numbers_for_weights_are_refused(valid, tmp_path):
    header, data = parts(valid)
    entry = next(e for n, e in header.items() if n != "__metadata__" and e["dtype"] in ("F16", "F32"))
    entry["dtype"] = {"F16": "I16", "F32": "I32"}[entry["dtype"]]
    assert "not a SkullVAE model" in refused(tmp_path, joined(header, data))


def test_headers_that_would_be_costly_to_read_are_refused(valid, tmp_path):
    header, data = parts(valid)
    assert "not a readable model file" in refused(tmp_path, (2**40).to_bytes(8, "little") + valid[8:])
    assert "not a readable model file" in refused(tmp_path, joined(json.dumps(header).encode() + b" " * 2**24, data))
    header["__metadata__"]["provenance"] = "[" * 100_000
    assert "not a readable model file" in refused(tmp_path, joined(header, data))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, -1])
def test_a_file_cut_short_is_refused(valid, tmp_path, length):
    refused(tmp_path, valid[:length])
    with pytest.raises(SkullVAEError):
        read_tensors(tmp_path / "model.safetensors", math.inf)
