"""Claims about the networks and the model file: what MONAI's defaults get wrong is set right, and no file runs code."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.vae.checkpoint import load_model, read_tensors, save_model, write_tensors
from SkullVAELib.vae.networks import Architecture, BetaVAE, IndependentDecoder, SkullModel

SMALL = Architecture(grid_shape=(16, 16, 24), spacing_mm=8.0, latent_size=6, channels=(4, 8))


@pytest.fixture
def small_model() -> SkullModel:
    torch.manual_seed(0)
    model = SkullModel(SMALL, ("cranial", "facial"))
    for buffer in (model.mean, model.latent_mean, model.deviations):
        buffer.normal_()
    model.latent_std.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture
def fields() -> torch.Tensor:
    return torch.randn(2, *SMALL.grid_shape, generator=torch.Generator().manual_seed(1)) * 8


def test_the_output_is_not_squashed_by_a_sigmoid(fields):
    vae = BetaVAE(SMALL).eval()
    last = [m for m in vae.modules() if isinstance(m, torch.nn.ConvTranspose3d)][-1]
    with torch.no_grad():
        last.bias.fill_(-3.0)
        assert float(vae(fields[:, None])[0].mean()) == pytest.approx(-3, abs=0.5)


def test_z_is_the_posterior_mean_at_inference_and_a_sample_in_training(fields):
    torch.manual_seed(0)
    vae = BetaVAE(SMALL)
    with torch.no_grad():
        _, mu, _, z = vae.eval()(fields[:, None])
        assert torch.equal(z, mu)
        _, mu, _, z = vae.train()(fields[:, None])
        assert not torch.allclose(z, mu, atol=1e-3)


@pytest.mark.parametrize("network", [BetaVAE, IndependentDecoder])
def test_training_starts_near_the_mean_shape(network, fields):
    torch.manual_seed(0)
    made = network(SMALL).eval()
    with torch.no_grad():
        out = made(fields[:, None])[0] if network is BetaVAE else made(torch.randn(2, SMALL.latent_size))
    assert out.shape == (2, 1, *SMALL.grid_shape)
    assert float(out.abs().mean()) < 0.2


def test_folding_the_standardisation_leaves_the_output_as_it_was():
    torch.manual_seed(0)
    decoder = IndependentDecoder(SMALL).eval()
    folded = copy.deepcopy(decoder)
    mean, std = torch.randn(SMALL.latent_size), torch.rand(SMALL.latent_size) * 0.03 + 0.001
    folded.fold_standardisation(mean, std)
    z = mean + std * torch.randn(5, SMALL.latent_size)
    with torch.no_grad():
        assert torch.allclose(folded(z), decoder((z - mean) / std), atol=1e-4)


def test_the_mean_shape_is_the_decoded_mean_latent(small_model):
    with torch.no_grad():
        assert torch.equal(small_model.mean_shape, small_model.decode(small_model.latent_mean[None])[0])


def test_fields_are_clamped_before_encoding(small_model, fields):
    with torch.no_grad():
        far = small_model.encode(fields.clamp(-10, 10))[0]
        assert torch.equal(small_model.encode(torch.where(fields.abs() > 10, fields * 5, fields))[0], far)


def test_a_grid_that_the_levels_cannot_halve_is_an_error():
    with pytest.raises(ValueError, match="divisible by 8"):
        Architecture(grid_shape=(48, 50, 48), channels=(8, 8, 16))


def test_a_model_comes_back_from_its_file(small_model, fields, tmp_path):
    save_model(small_model, tmp_path / "m.safetensors", {"trained": "today"})
    loaded = load_model(tmp_path / "m.safetensors")
    assert not loaded.training
    assert loaded.architecture == SMALL
    assert loaded.classes == ("cranial", "facial")
    assert loaded.provenance == {"trained": "today"}
    assert len(loaded.sha256) == 64
    with torch.no_grad():
        z = small_model.encode(fields)[0]
        assert torch.allclose(loaded.encode(fields)[0], z, atol=0.02)
        assert torch.allclose(loaded.decode(z), small_model.decode(z), atol=0.05)
    # Half precision is lost once, not at every round.
    save_model(loaded, tmp_path / "again.safetensors", {"trained": "today"})
    before, after = (read_tensors(tmp_path / name)[0] for name in ("m.safetensors", "again.safetensors"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.safetensors", "m.safetensors"]


class Bomb:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_pickle_is_refused_and_never_run(tmp_path):
    path, target = tmp_path / "m.safetensors", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(SkullVAEError, match=r"'m\.safetensors' is not a readable model file"):
        load_model(path)
    assert not target.exists()


def test_a_torch_checkpoint_is_refused(small_model, tmp_path):
    torch.save(small_model.state_dict(), tmp_path / "m.safetensors")
    with pytest.raises(SkullVAEError, match="not a readable model file"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_cut_short_is_refused(small_model, tmp_path, share):
    path = tmp_path / "m.safetensors"
    save_model(small_model, path, {})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(SkullVAEError, match="not a readable model file"):
        load_model(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(SkullVAEError, match=r"none\.safetensors.*does not exist"):
        load_model(tmp_path / "none.safetensors")


def test_another_programs_safetensors_file_is_refused(tmp_path):
    save_file({"weight": torch.ones(3)}, tmp_path / "m.safetensors")
    with pytest.raises(SkullVAEError, match="not a SkullVAE model"):
        load_model(tmp_path / "m.safetensors")
    save_file({"weight": torch.ones(3)}, tmp_path / "m.safetensors", {"format": "pt"})
    with pytest.raises(SkullVAEError, match="not a"):
        load_model(tmp_path / "m.safetensors")


WRONG = {
    "format": "SkullVAE model 99",
    "architecture": dataclasses.asdict(SMALL) | {"latent_size": 7},
    "classes": ["cranial"],
}
WRONG_ARCHITECTURES = {
    "huge": dataclasses.asdict(SMALL) | {"grid_shape": [2**16, 2**16, 2**16]},
    "unknown field": dataclasses.asdict(SMALL) | {"layers": 3},
    "text for a number": dataclasses.asdict(SMALL) | {"latent_size": "six"},
    "indivisible": dataclasses.asdict(SMALL) | {"grid_shape": [15, 16, 24]},
    "no object": [1, 2, 3],
}


@pytest.mark.parametrize("change", [*WRONG, *WRONG_ARCHITECTURES, "no architecture", "no classes", "no provenance"])
def test_metadata_that_do_not_fit_the_weights_are_refused(small_model, tmp_path, change):
    path = tmp_path / "m.safetensors"
    save_model(small_model, path, {})
    tensors, metadata = read_tensors(path)
    if change in WRONG:
        metadata[change] = WRONG[change]
    elif change in WRONG_ARCHITECTURES:
        metadata["architecture"] = WRONG_ARCHITECTURES[change]
    else:
        del metadata[change.removeprefix("no ")]
    write_tensors(path, tensors, metadata)
    with pytest.raises(SkullVAEError, match="not a SkullVAE model"):
        load_model(path)


def test_a_model_without_one_of_its_tensors_is_refused(small_model, tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(small_model, path, {})
    tensors, metadata = read_tensors(path)
    del tensors["spread"]
    write_tensors(path, tensors, metadata)
    with pytest.raises(SkullVAEError, match="not a SkullVAE model"):
        load_model(path)


def test_the_shipped_model_is_small_and_says_where_it_comes_from(model_path, model):
    assert model_path.stat().st_size <= 20e6
    assert {"cranial", "facial"} <= set(model.classes)
    assert json.dumps(model.provenance)
    assert torch.isfinite(model.mean_shape).all()
    # Bone: a skull fills some hundreds of millilitres.
    assert 200 < float((model.mean_shape < 0).sum()) * model.architecture.spacing_mm**3 / 1000 < 1500
