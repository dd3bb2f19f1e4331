"""Claims about training our own method: it learns, tells every loss term and held-out figure, ends in a model."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import OPTIONS, TINY, rows

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.data.augmentation import draw_skull
from SkullVAELib.data.datasets import find_cases, split_by_individual
from SkullVAELib.registration.mean_skull import Population
from SkullVAELib.registration.skull import CLAMP_MM
from SkullVAELib.training.canonical import SkullPool, implant_scores, load_population, make_defective
from SkullVAELib.training.config import TrainingOptions
from SkullVAELib.training.losses import distance_loss, soft_dice_loss
from SkullVAELib.training.run import STAGES, TrainingPlan, run_training
from SkullVAELib.vae.checkpoint import load_model, read_tensors
from SkullVAELib.vae.networks import IndependentDecoder

HOLDOUT = ("out",)


def train(data: Path, folder: Path, stages=STAGES, options: TrainingOptions = OPTIONS, **more) -> Path:
    return run_training(TrainingPlan(data, TINY, options, HOLDOUT), folder, stages, **more)


@pytest.fixture(scope="module")
def data(canonical_run) -> Path:
    """Four heads: round, long, narrow, and one to hold out."""
    return canonical_run.data


@pytest.fixture(scope="module")
def finished(canonical_run) -> Path:
    """The folder of a run through all stages."""
    return canonical_run.folder


@pytest.fixture(scope="module")
def population(data, finished) -> Population:
    return load_population(finished, find_cases(data), TINY, lambda line: None)


def test_the_log_tells_every_loss_term_of_every_step(finished):
    for stage, steps in (("vae", OPTIONS.vae_steps), ("decoder", OPTIONS.decoder_steps)):
        logged = rows(finished, stage)
        assert [int(row["step"]) for row in logged] == list(range(1, steps + 1))
        for row in logged:
            terms = ["loss", "dice_loss", "distance_mm", "learning_rate"] + (["kl_nats"] if stage == "vae" else [])
            assert all(np.isfinite(float(row[term])) for term in terms)
            assert 0 <= float(row["dice_loss"]) <= 1


def test_the_loss_is_the_sum_of_its_terms(finished):
    for row in rows(finished, "vae"):
        weighted = 160 * (float(row["dice_loss"]) + OPTIONS.distance_weight * float(row["distance_mm"]))
        assert float(row["loss"]) == pytest.approx(weighted + OPTIONS.beta * float(row["kl_nats"]), rel=1e-3)


def test_held_out_figures_stand_beside_those_of_training(finished):
    for stage, steps in (("vae", OPTIONS.vae_steps), ("decoder", OPTIONS.decoder_steps)):
        evaluated = [row for row in rows(finished, stage) if row["held_out_skull_dice"]]
        assert int(evaluated[-1]["step"]) == steps
        for row in evaluated:
            for figure in ("skull_dice", "held_out_skull_dice", "held_out_implant_dice"):
                assert 0 <= float(row[figure]) <= 1
    assert float(rows(finished, "decoder")[-1]["held_out_skull_dice"]) > 0.5


def test_a_few_steps_lower_the_loss_on_the_same_skulls(population):
    from SkullVAELib.vae.networks import BetaVAE

    torch.manual_seed(0)
    vae = BetaVAE(TINY).eval()  # the posterior mean: sampling would hide the fall in noise
    optimiser = torch.optim.Adam(vae.parameters(), lr=0.01)
    batch = SkullPool(population, 2, 0).batch([0], 2, OPTIONS)
    losses = []
    for _ in range(80):
        out = population.mean + CLAMP_MM * vae((batch["defective"] / CLAMP_MM)[:, None])[0][:, 0]
        loss = distance_loss(out, batch["complete"], batch["known"], batch["removed"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_the_end_is_a_model_that_loads_and_knows_its_origin(finished):
    model = load_model(finished / "model.safetensors")
    assert model.architecture == TINY
    assert model.classes == ("cranial", "facial")
    assert model.deviations.abs().sum() > 0
    assert (model.latent_std > 0).all()
    assert sorted(model.provenance["data"]) == ["ada.nrrd", "ben.nrrd", "cyd.nrrd"]
    assert model.provenance["holdout"] == ["out"]
    assert model.provenance["options"] == json.loads(json.dumps(dataclasses.asdict(OPTIONS)))
    assert "not for clinical use" in model.provenance["notice"]
    assert str(finished) not in json.dumps(model.provenance)


def test_the_model_is_encoder_and_decoder_put_together(finished):
    model = load_model(finished / "model.safetensors")
    vae = read_tensors(finished / "vae.last.safetensors")[0]
    for name, tensor in model.encoder.state_dict().items():
        assert torch.allclose(tensor, vae[f"net.{name}"], atol=1e-2)
    decoder = read_tensors(finished / "decoder.last.safetensors")[0]
    # All but the first layer, into which the standardisation is folded.
    for name, tensor in model.decoder.layers.state_dict().items():
        assert torch.allclose(tensor, decoder[f"net.layers.{name}"], atol=1e-2)


def test_the_model_decodes_a_latent_as_the_decoder_did_its_standardised_one(finished):
    model = load_model(finished / "model.safetensors")
    decoder = IndependentDecoder(TINY)
    tensors = read_tensors(finished / "decoder.last.safetensors")[0]
    decoder.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
    standard = torch.randn(4, TINY.latent_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        apart = model.mean + TINY.clamp_mm * decoder(standard)[:, 0]
        whole = model.decode(model.latent_mean + model.latent_std * standard)
    assert float((apart - model.mean).abs().max()) > 0.5
    # The file holds half precision.
    assert float((apart - whole).abs().max()) < 0.05


def test_a_folder_with_a_run_is_not_overwritten(data, finished):
    before = (finished / "log.csv").read_bytes()
    with pytest.raises(SkullVAEError, match="--resume"):
        train(data, finished)
    with pytest.raises(SkullVAEError, match="different options"):
        train(data, finished, options=dataclasses.replace(OPTIONS, beta=1.0), resume=True)
    assert (finished / "log.csv").read_bytes() == before


def test_a_run_may_go_on_for_longer_but_not_its_encoder_under_its_decoders(finished, data, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    longer = dataclasses.replace(OPTIONS, decoder_steps=OPTIONS.decoder_steps + 1)
    train(data, tmp_path / "run", ("decoder",), longer, resume=True)
    assert [int(row["step"]) for row in rows(tmp_path / "run", "decoder")] == list(range(1, 8))
    longer = dataclasses.replace(OPTIONS, vae_steps=OPTIONS.vae_steps + 1)
    with pytest.raises(SkullVAEError, match=r"decoders in .* were trained on its encoder, which must not change"):
        train(data, tmp_path / "run", ("vae",), longer, resume=True)
    assert (
        json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["options"]["vae_steps"]
        == OPTIONS.vae_steps
    )


def test_a_later_stage_asks_for_the_one_before(data, finished, tmp_path):
    (tmp_path / "population.safetensors").write_bytes((finished / "population.safetensors").read_bytes())
    with pytest.raises(SkullVAEError, match=r"vae stage has completed 0 of 12 steps.*train\.py vae"):
        train(data, tmp_path, stages=("decoder",))


def test_the_split_goes_by_individual(data):
    training, held = split_by_individual(find_cases(data), ("out",))
    assert {case.individual for case in training} == {"ada", "ben", "cyd"}
    assert {case.individual for case in held} == {"out"}
    with pytest.raises(SkullVAEError, match="no individual 'eve'"):
        split_by_individual(find_cases(data), ("eve",))
    with pytest.raises(SkullVAEError, match="Every individual"):
        split_by_individual(find_cases(data), ("ada", "ben", "cyd", "out"))


def test_skulls_laid_on_the_mean_differ_little_on_the_vault(population):
    vault = (population.mean.abs() < 2) & (TINY.grid.coordinates()[..., 2] > 20)
    assert float(population.spread()[vault].median()) < 1.0
    assert torch.isfinite(population.detail).all()


def test_a_drawn_skull_is_a_skull_and_decided_by_its_seed(population):
    (field, known), (again, _), (other, _) = (draw_skull(population, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert field.shape == TINY.grid_shape
    assert float(field.abs().max()) <= CLAMP_MM
    assert float(known.min()) >= 0 and float(known.max()) <= 1 + 1e-5
    assert torch.equal(field, again)
    assert not torch.equal(field, other)
    bone, mean = (field < 0).sum().item(), (population.mean < 0).sum().item()
    assert 0.3 < bone / mean < 3


def test_a_defect_takes_bone_away_and_adds_none(population):
    field, known = population.detail[0], population.known[0]
    for seed in range(12):
        made = make_defective(field, known, population.grid, np.random.default_rng(seed), OPTIONS)
        removed = made["removed"] > 0
        assert torch.equal(made["complete"], field)
        assert (field[removed] < 0).all()
        assert (made["defect"][removed] < 0).all()
        # Roughness may move the surface a little; the piece as a whole is gone.
        assert not removed.any() or (made["defective"][removed] > 0).float().mean() > 0.9
        assert torch.isfinite(made["defective"]).all()


def test_a_batch_depends_on_its_key_alone(population):
    pool = SkullPool(population, 3, 0)
    first = pool.batch([3, 1, 7], 2, OPTIONS)
    pool.batch([3, 1, 8], 2, OPTIONS)
    again, other = pool.batch([3, 1, 7], 2, OPTIONS), pool.batch([3, 1, 9], 2, OPTIONS)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["defective"], other["defective"])


def test_the_losses_are_0_for_the_truth_and_large_for_its_opposite(population):
    truth = population.detail[:2]
    known, removed = torch.ones_like(truth), torch.zeros_like(truth)
    assert float(soft_dice_loss(truth, truth, known)) == pytest.approx(0, abs=1e-3)
    assert float(soft_dice_loss(-truth, truth, known)) > 0.5
    assert float(distance_loss(truth, truth, known, removed)) == 0
    assert float(distance_loss(truth + 2, truth, known, removed)) == pytest.approx(2, rel=1e-3)
    # What is not known is not judged.
    assert float(distance_loss(truth + 5, truth, known * 0, removed)) == 0


def test_implant_dice_is_1_for_the_truth_and_0_for_doing_nothing(population):
    made = make_defective(
        population.detail[0],
        torch.ones(TINY.grid_shape),
        population.grid,
        np.random.default_rng(0),
        dataclasses.replace(OPTIONS, complete_share=0.0, facial_share=0.0),
    )
    batch = {name: value[None] for name, value in made.items()}
    assert implant_scores(batch["complete"], batch) == (1.0, 1.0)
    implant, skull = implant_scores(torch.maximum(batch["complete"], -batch["defect"]), batch)
    assert implant == 0
    assert skull > 0.5  # why whole-skull Dice misleads
