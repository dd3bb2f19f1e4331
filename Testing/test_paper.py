"""Claims about the paper's method: its networks, its loss and its latent codes are those of its code; the aggregate."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import tiny
import torch
from monai.losses import DiceLoss
from monai.networks.nets import VarAutoEncoder
from torch import nn

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.data.datasets import SkullCase, find_cases, split_by_individual
from SkullVAELib.training.config import PaperOptions
from SkullVAELib.training.distributed import Group
from SkullVAELib.training.losses import paper_dice_loss
from SkullVAELib.training.paper import PaperTask, Volumes, bone_dice, check_classes, load_volumes
from SkullVAELib.vae.checkpoint import load_any_model, load_model, read_tensors
from SkullVAELib.vae.latent import Z_KINDS, latent_code
from SkullVAELib.vae.paper_networks import PaperArchitecture, PaperDecoder, PaperVAE, resize_mask

SMALL = tiny.TINY_PAPER
PAPER = PaperArchitecture()
OPTIONS = PaperOptions(beta=0.5, batch=4, seed=1)


def monai_vae(architecture: PaperArchitecture, **more) -> VarAutoEncoder:
    """The paper's network as MONAI makes it."""
    return VarAutoEncoder(
        spatial_dims=3, in_shape=(1, *architecture.grid_shape), out_channels=2, latent_size=architecture.latent_size,
        channels=architecture.channels, strides=architecture.strides, norm="batch", **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def volumes() -> Volumes:
    """Seven heads of noise in each class, of which two are held out."""
    complete = (torch.rand(7, *SMALL.grid_shape, generator=torch.Generator().manual_seed(0)) > 0.5).byte()
    cranial, facial = complete.clone(), complete.clone()
    cranial[:, :, :, 8:] = 0
    facial[:, 8:] = 0
    head = np.arange(21) % 7
    kinds = ("complete",) * 7 + ("cranial",) * 7 + ("facial",) * 7
    return Volumes(torch.cat([complete, cranial, facial]), kinds, tuple("abcdefg") * 3, head, head > 4)


@pytest.fixture(scope="module")
def task(volumes) -> PaperTask:
    return PaperTask(SMALL, volumes, OPTIONS, Group())


def trained(kind: type[nn.Module] = PaperVAE, seed: int = 5) -> nn.Module:
    """A network with running means and variances as training would leave them, and not 0 and 1."""
    torch.manual_seed(seed)
    network = kind(SMALL)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


# Networks


def test_the_released_architecture_is_the_papers():
    decoder = PaperDecoder(PAPER)
    assert (decoder.linear.in_features, decoder.linear.out_features) == (32, 8192)
    assert PAPER.start_shape == (256, 4, 4, 2)
    transposed = [module for module in decoder.modules() if isinstance(module, nn.ConvTranspose3d)]
    assert [(m.in_channels, m.out_channels) for m in transposed] == [
        (256, 128), (128, 128), (128, 64), (64, 64), (64, 32), (32, 2),
    ]  # fmt: skip
    assert {m.stride for m in transposed} == {(2, 2, 2)}
    assert PAPER.strides == (2,) * 6


def test_the_vae_has_the_parameters_of_monais_with_the_papers_arguments():
    ours, theirs = (
        {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        for network in (PaperVAE(PAPER), monai_vae(PAPER))
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("grid", "strides", "start"),
    [
        ((256, 256, 128), (2, 2, 2, 2, 2, 2), (256, 4, 4, 2)),
        ((128, 128, 64), (2, 2, 2, 2, 2, 2), (256, 2, 2, 1)),
        ((64, 64, 32), (2, 2, 2, 2, 2, 1), (256, 2, 2, 1)),
        ((32, 32, 16), (2, 2, 2, 2, 1, 1), (256, 2, 2, 1)),
        ((96, 96, 48), (2, 2, 2, 2, 1, 1), (256, 6, 6, 3)),
    ],
)
def test_a_smaller_grid_is_halved_as_often_as_it_can_be(grid, strides, start):
    architecture = PaperArchitecture(grid)
    assert architecture.strides == strides
    assert architecture.start_shape == start


@pytest.mark.parametrize("grid", [(16, 16, 16), (32, 32, 16), (32, 16, 8)])
def test_networks_give_back_the_grid_they_are_given(grid):
    architecture = PaperArchitecture(grid, 3, (4, 4, 4, 4))
    with torch.no_grad():
        logits, mu, logvar, z = PaperVAE(architecture).eval()(torch.zeros(2, 1, *grid))
        assert logits.shape == PaperDecoder(architecture).eval()(z).shape == (2, 2, *grid)
    assert mu.shape == logvar.shape == z.shape == (2, 3)


def test_the_independent_decoder_ends_in_a_relu_as_the_papers_does():
    with torch.no_grad():
        assert float(PaperDecoder(SMALL)(torch.randn(4, SMALL.latent_size)).min()) == 0


def test_a_plain_decoder_ends_in_its_last_convolution():
    decoder = PaperDecoder(SMALL, plain_output=True)
    assert sum(isinstance(module, nn.BatchNorm3d) for module in decoder.modules()) == len(SMALL.channels) - 1
    with torch.no_grad():
        assert float(decoder(torch.randn(4, SMALL.latent_size)).min()) < 0


# Latent codes and losses


@pytest.mark.parametrize(("kind", "use_mean"), [("mean+sigma", False), ("mean", True)])
def test_z_is_what_monai_gives_outside_training(kind, use_mean):
    ours, theirs = trained(), monai_vae(SMALL, use_mean_at_inference=use_mean).eval()
    theirs.load_state_dict(ours.state_dict())
    volumes = (torch.rand(3, 1, *SMALL.grid_shape) > 0.5).float()
    with torch.no_grad():
        z = theirs(volumes)[3]
        mu, logvar = ours.encode_forward(volumes)
    assert torch.allclose(latent_code(mu, logvar, kind), z, atol=1e-6)
    other = "mean" if kind == "mean+sigma" else "mean+sigma"
    assert not torch.allclose(latent_code(mu, logvar, other), z, atol=1e-3)


def test_a_sampled_z_is_the_mean_and_so_many_sigmas():
    mu, logvar, noise = torch.zeros(1, 2), torch.log(torch.tensor([[4.0, 9.0]])), torch.tensor([[1.0, -1.0]])
    assert torch.allclose(latent_code(mu, logvar, "sampled", noise), torch.tensor([[2.0, -3.0]]))
    with pytest.raises(SkullVAEError, match="Unknown kind of latent code 'median'"):
        latent_code(mu, logvar, "median")


def test_the_vae_trains_on_a_sampled_z_and_on_logits_without_a_sigmoid():
    torch.manual_seed(0)
    with torch.no_grad():
        logits, mu, logvar, z = PaperVAE(SMALL)(torch.zeros(2, 1, *SMALL.grid_shape), torch.ones(2, SMALL.latent_size))
    assert torch.equal(z, mu + (0.5 * logvar).exp())
    assert float(logits.min()) < 0


@pytest.mark.parametrize("empty", [False, True])
def test_dice_loss_and_its_gradient_are_the_formula(empty):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 2, 8, 6, 4, generator=generator) * 2
    bone = (torch.rand(3, 8, 6, 4, generator=generator) > 0.7).byte()
    if empty:
        bone[0] = 0
    sums, gradients = [], []
    truth = torch.stack([1 - bone, bone], 1).float().flatten(2)

    def written_out(x: torch.Tensor) -> torch.Tensor:
        p = x.softmax(1).flatten(2)
        return (1 - (2 * (p * truth).sum(2) + 1e-5) / (p.sum(2) + truth.sum(2) + 1e-5)).sum()

    for loss in (lambda x: paper_dice_loss(x, bone).sum(), written_out):
        here = logits.clone().requires_grad_(True)
        value = loss(here)
        value.backward()
        sums.append(value.item())
        gradients.append(here.grad)
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    assert torch.allclose(*gradients, atol=1e-7)
    assert paper_dice_loss(logits, bone).shape == (3, 2)


def test_the_losses_of_a_batch_are_the_originals(task):
    """80 x Dice, summed over batch and classes, + beta x KL, summed over batch and latents."""
    vae, decoder = task.networks()
    batch, original = task.batch(1, 0, Group()), DiceLoss(to_onehot_y=True, softmax=True, reduction="sum")
    noise = torch.randn(4, SMALL.latent_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss, terms = task.vae_loss(vae, batch, noise)
        logits, mu, logvar, _ = vae(batch["bone"][:, None].float(), noise)
        dice = 80 * original(logits, batch["bone"][:, None])
        kl = 0.5 * torch.sum(mu**2 + torch.exp(logvar) - logvar - 1)
        assert float(loss) == pytest.approx(float(dice + OPTIONS.beta * kl), rel=1e-5)
        # The log's terms are means over skulls, and of Dice over the classes: 640 times it is the paper's figure.
        assert 640 * float(terms["dice_loss"]) == pytest.approx(float(dice), rel=1e-5)
        assert 4 * float(terms["kl_nats"]) == pytest.approx(float(kl), rel=1e-5)
        loss, terms = task.decoder_loss(decoder, noise, batch, OPTIONS)
        dice = 80 * original(decoder(noise), batch["bone"][:, None])
        assert float(loss) == pytest.approx(float(dice), rel=1e-5)
        assert 640 * float(terms["dice_loss"]) == pytest.approx(float(dice), rel=1e-5)


def test_all_wrong_costs_640_and_all_right_nothing(task):
    batch = task.batch(1, 0, Group())
    right = 40.0 * torch.stack([1 - batch["bone"].float(), batch["bone"].float()], 1)
    for logits, cost in ((right.flip(1), 640), (right, 0)):
        loss, _ = task.decoder_loss(lambda z, logits=logits: logits, torch.zeros(4, 4), batch, OPTIONS)
        assert float(loss) == pytest.approx(cost, abs=0.01)
    assert bone_dice(right, batch["bone"]).tolist() == [1] * 4
    assert bone_dice(right.flip(1), batch["bone"]).tolist() == [0] * 4


# Batches and latents


def test_an_epoch_sees_every_training_volume_and_no_other(task, volumes):
    assert task.steps_per_epoch == 4

    def chosen(step: int, group: Group = Group()) -> list[int]:  # noqa: B008
        return task.batch(1, step, group)["index"].tolist()

    seen = [number for step in range(4) for number in chosen(step)]
    assert set(seen) == set(np.flatnonzero(~volumes.held_out))
    assert seen[15] == seen[0], "the last batch is filled up from the epoch's beginning"
    assert [number for step in range(4, 8) for number in chosen(step)] != seen
    assert chosen(0) == seen[:4]
    assert chosen(0, Group(0, 2)) + chosen(0, Group(1, 2)) == seen[:4]


@pytest.mark.parametrize("kind", Z_KINDS)
def test_the_decoder_is_given_the_frozen_encoders_latents(task, kind):
    vae, options = trained(), dataclasses.replace(OPTIONS, z=kind)
    batch, noise = task.batch(2, 1, Group()), torch.randn(4, SMALL.latent_size)
    with torch.no_grad():
        mu, logvar = vae.encode_forward(batch["bone"][:, None].float())
    given = task.with_options(OPTIONS).decoder_input(vae, batch, options, noise)
    assert torch.allclose(given, latent_code(mu, logvar, kind, noise), atol=1e-5)


def test_another_betas_task_forgets_the_latents_of_the_encoder_before(task):
    batch, noise = task.batch(2, 0, Group()), torch.zeros(4, SMALL.latent_size)
    own = task.with_options(OPTIONS)
    before = own.decoder_input(trained(), batch, OPTIONS, noise)
    after = own.with_options(OPTIONS).decoder_input(trained(seed=6), batch, OPTIONS, noise)
    assert not torch.allclose(before, after)


def test_statistics_are_those_of_the_training_volumes(task, volumes):
    vae = trained()
    mean, std = task.statistics(vae, OPTIONS)
    with torch.no_grad():
        codes = vae.encode_forward(volumes.bone[~torch.tensor(volumes.held_out)][:, None].float())
    z = latent_code(*codes, "mean+sigma")
    assert torch.allclose(mean, z.mean(0), atol=1e-5)
    assert torch.allclose(std, z.std(0), atol=1e-5)


# The aggregate


@pytest.mark.parametrize("standardise", [False, True])
def test_the_aggregate_is_the_encoder_and_the_decoder_on_its_standardised_latents(task, volumes, standardise):
    options = dataclasses.replace(OPTIONS, standardise=standardise, z="mean")
    own, vae, decoder = task.with_options(options), trained(), trained(PaperDecoder)
    with torch.no_grad():
        vae.mu.weight *= 0.01  # collapsed latents, as of beta 100: they differ by thousandths
    mean, std = own.statistics(vae, options)
    assert float(std.max()) < 0.02
    model = own.aggregate(vae, copy.deepcopy(decoder), (mean, std))
    with torch.no_grad():
        mu, _ = vae.encode_forward(volumes.bone[:, None].float())
        z = (mu - mean) / std if standardise else mu
        assert torch.allclose(model.latent(volumes.bone), mu, atol=1e-6)
        assert torch.allclose(model.decode(mu), decoder(z).softmax(1)[:, 1], atol=1e-4)


def test_the_aggregate_knows_deviations_by_class_of_the_training_pairs(task, volumes):
    vae = trained()
    model = task.aggregate(vae, trained(PaperDecoder), task.statistics(vae, OPTIONS))
    with torch.no_grad():
        z = latent_code(*vae.encode_forward(volumes.bone[:, None].float()), "mean+sigma")
    for number, start in enumerate((7, 14)):
        assert torch.allclose(model.deviations[number], (z[:5] - z[start : start + 5]).mean(0), atol=1e-5)
    assert torch.allclose(model.latents_complete, z[:5].repeat(2, 1), atol=1e-5)
    assert torch.allclose(model.latents_defective, torch.cat([z[7:12], z[14:19]]), atol=1e-5)
    assert model.defective_class.tolist() == [0] * 5 + [1] * 5
    assert torch.allclose(model.mean, volumes.bone[:5].float().mean(0))


def test_a_finished_runs_model_decodes_as_its_decoder_does(paper_run):
    model, decoder = load_any_model(paper_run.folder / "model.safetensors"), PaperDecoder(SMALL).eval()
    tensors = read_tensors(paper_run.folder / "decoder.last.safetensors")[0]
    decoder.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
    z = torch.randn(3, SMALL.latent_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model.decode(z), decoder(z).softmax(1)[:, 1], atol=1e-5)
    assert model.z == "mean+sigma"
    assert model.classes == ("cranial", "facial")
    assert model.provenance["method"] == "paper"
    assert len(model.sha256) == 64


def test_a_model_of_the_papers_method_completes_no_patient_and_says_so(paper_run, canonical_run):
    with pytest.raises(SkullVAEError) as error:
        load_model(paper_run.folder / "model.safetensors")
    assert str(error.value) == (
        "'model.safetensors' is a model of the paper's method and cannot complete a patient's skull."
        " Use it with skullvae latent, or choose another model."
    )
    assert load_any_model(canonical_run.folder / "model.safetensors").architecture == tiny.TINY


# Volumes


def test_resizing_takes_the_nearest_voxel_whatever_the_spacing():
    bone = np.arange(4 * 6 * 2).reshape(4, 6, 2) % 3 == 0
    assert torch.equal(resize_mask(bone, (2, 3, 2)), torch.tensor(bone[::2, ::2]).byte())
    assert torch.equal(resize_mask(bone, (8, 6, 2)), torch.tensor(bone.repeat(2, axis=0)).byte())


def test_prepared_volumes_are_those_of_the_files_and_come_back(paper_run, tmp_path):
    training, held = split_by_individual(find_cases(paper_run.data))
    first = load_volumes(tmp_path, training, held, SMALL.grid_shape)
    again = load_volumes(tmp_path, training, held, SMALL.grid_shape)
    assert torch.equal(first.bone, again.bone)
    assert first.bone.shape == (12, *SMALL.grid_shape)
    assert set(first.bone.unique().tolist()) == {0, 1}
    assert first.kinds == ("complete", "cranial", "facial") * 4
    assert first.held_out.tolist() == [False] * 9 + [True] * 3
    assert first.complete.tolist() == [0] * 3 + [3] * 3 + [6] * 3 + [9] * 3
    for number, whole in enumerate(first.complete):
        assert (first.bone[number] <= first.bone[whole]).all()
    with pytest.raises(SkullVAEError, match="different grid"):
        load_volumes(tmp_path, training, held, (32, 32, 16))


def test_prepared_volumes_may_be_larger_than_any_model(paper_run, tmp_path, monkeypatch):
    monkeypatch.setattr(read_tensors, "__defaults__", (10,))
    training, held = split_by_individual(find_cases(paper_run.data))
    assert len(load_volumes(tmp_path, training, held, SMALL.grid_shape).bone) == 12
    with pytest.raises(SkullVAEError, match="larger than any"):
        read_tensors(tmp_path / "volumes.safetensors")


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([("a", None, "complete")], "needs complete skulls and skulls with defects"),
        ([("a", "d", "cranial")], "needs complete skulls and skulls with defects"),
        (
            [("a", None, "complete"), ("a", "d", "unknown")],
            "The defect of '.*d' could not be classified as cranial or facial",
        ),
        ([("a", None, "complete"), ("b", "d", "facial")], "The complete skull of '.*d' is not among the cases"),
    ],
)
def test_cases_that_the_method_cannot_use_are_errors(tmp_path, cases, message):
    made = [
        SkullCase("x", tmp_path / whole, defective and tmp_path / defective, kind) for whole, defective, kind in cases
    ]
    with pytest.raises(SkullVAEError, match=message):
        check_classes(made, [])
