"""Latents of both kinds of model: on the skull's own grid in any orientation, moved as the paper's arithmetic says."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from SkullVAELib.cli.main import main
from SkullVAELib.completion.latent_space import LatentSpace
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.data.generated_skull import complete_skull
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import read_volume, write_volume
from SkullVAELib.vae.checkpoint import load_any_model, save_model
from SkullVAELib.vae.default_model import default_model_path
from SkullVAELib.vae.latent import neighbour_deviations
from SkullVAELib.vae.paper_networks import PaperArchitecture, PaperModel, resize_back, resize_mask

SMALL = PaperArchitecture(grid_shape=(16, 16, 8), latent_size=4, channels=(8, 8, 8))


@pytest.fixture(scope="module")
def paper_model() -> PaperModel:
    """A model of the paper's method with random weights and two training pairs of each class."""
    torch.manual_seed(0)
    model = PaperModel(SMALL, ("cranial", "facial"), pairs=4, z="mean+sigma").eval()
    model.latents_defective.copy_(torch.tensor([[0.0] * 4, [10.0] * 4, [0.0] * 4, [10.0] * 4]))
    model.latents_complete.copy_(model.latents_defective + torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    model.defective_class.copy_(torch.tensor([0.0, 0, 1, 1]))
    model.deviations.copy_(torch.tensor([[1.5] * 4, [3.5] * 4]))
    return model


@pytest.fixture
def ball() -> Volume:
    """A hollow ball off the middle of an anisotropic grid whose axes run P, L, S."""
    at = np.stack(np.meshgrid(*[np.arange(n) for n in (40, 36, 30)], indexing="ij"), -1) * [4.0, 4.5, 5.0]
    distance = np.linalg.norm(at - [85, 70, 75], axis=-1)
    affine = np.array([[0, -4.5, 0, 80.0], [-4.0, 0, 0, 60], [0, 0, 5, -20], [0, 0, 0, 1]])
    return Volume(((distance < 55) & (distance > 40)).astype(np.uint8), affine)


class Echo(PaperModel):
    """Decodes to the volume that was last encoded: what is left is the way there and back."""

    def encode(self, volumes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen = volumes.float()
        return super().encode(volumes)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.seen.expand(len(z), -1, -1, -1)


def test_what_the_paper_model_sees_comes_back_to_the_place_it_came_from(ball):
    space = LatentSpace(Echo(PaperArchitecture((32, 32, 32), 4, (8, 8))).eval())
    found = space.encode(ball)
    back = space.decode(space.code(found), found.place)
    assert back.array.shape == ball.array.shape and np.array_equal(back.affine, ball.affine)
    both = 2 * (back.array & (ball.array > 0)).sum() / (back.array.sum() + (ball.array > 0).sum())
    assert both > 0.9
    for axis in range(3):  # flipped it would be elsewhere
        flipped = np.flip(back.array, axis)
        assert 2 * (flipped & (ball.array > 0)).sum() / (flipped.sum() + (ball.array > 0).sum()) < both - 0.1


def test_a_perfect_reconstruction_is_not_shifted():
    at = np.indices((150, 190, 150)).transpose(1, 2, 3, 0) - [75, 95, 70]
    distance = np.linalg.norm(at / [65, 85, 62], axis=-1)
    head = Volume(((distance < 1) & (distance > 0.89)).astype(np.uint8), np.eye(4))  # a wall 7 to 9 mm thick
    space = LatentSpace(Echo(PaperArchitecture((64, 64, 32), 4, (8, 8))).eval())
    found = space.encode(head)
    back = space.decode(space.code(found), found.place).array
    assert 2 * (back & (head.array > 0)).sum() / (back.sum() + head.array.sum()) > 0.8
    shift = np.argwhere(back).mean(0) - np.argwhere(head.array).mean(0)
    assert np.abs(shift).max() < 0.3


@pytest.mark.parametrize("shape", [(7, 5, 9), (4, 4, 4), (3, 8, 1)])
def test_the_way_back_from_the_network_meets_the_voxels_that_were_taken(shape):
    taken = np.random.default_rng(0).random(shape) > 0.5
    small = (4, 4, 4)
    back = resize_back(resize_mask(taken, small), shape)
    assert back.shape == shape
    whole = np.array(shape) <= 4  # an axis that was enlarged holds every voxel
    index = [np.arange(n) if all_kept else np.arange(4) * n // 4 for n, all_kept in zip(shape, whole, strict=True)]
    at = np.ix_(*index)
    assert np.allclose(back.numpy()[at], taken[at], atol=1e-6)


def test_a_mirrored_or_turned_file_has_the_same_latent(paper_model, ball):
    space = LatentSpace(paper_model)
    turned = ball.array.transpose(2, 0, 1)[::-1]
    affine = ball.affine[:, [2, 0, 1, 3]].copy()
    affine[:3, 3] += affine[:3, 0] * (turned.shape[0] - 1)
    affine[:3, 0] *= -1
    assert torch.equal(space.encode(Volume(turned, affine)).mu, space.encode(ball).mu)


def test_gamma_0_reconstructs_1_adds_dev_and_half_adds_half(paper_model):
    space, z = LatentSpace(paper_model), torch.tensor([0.5, -0.5, 0.0, 2.0])
    assert torch.equal(space.complete(z, 0.0), z)
    assert torch.allclose(space.complete(z, 1.0, "cranial"), z + 1.5)
    assert torch.allclose(space.complete(z, 0.5, "facial"), z + 1.75)
    with pytest.raises(SkullVAEError, match="for the defect class 'nasal'"):
        space.complete(z, 1.0, "nasal")


def test_dev_of_neighbours_comes_from_skulls_of_the_same_class(paper_model):
    space = LatentSpace(paper_model)
    # Two pairs of a class are fewer than five neighbours, so their mean it is.
    assert torch.allclose(space.complete(torch.zeros(4), 1.0, "facial", "neighbours"), torch.full((4,), 3.5))
    defective, complete = paper_model.latents_defective[:2], paper_model.latents_complete[:2]
    assert neighbour_deviations(torch.full((1, 4), 9.0), complete, defective, 1).tolist() == [[2.0] * 4]


def test_the_code_is_the_one_that_the_decoder_was_trained_on(paper_model, ball):
    space = LatentSpace(paper_model)
    found = space.encode(ball)
    assert torch.allclose(space.code(found), found.mu + (0.5 * found.logvar).exp())
    mean_only = PaperModel(SMALL, z="sampled").eval()
    assert torch.equal(LatentSpace(mean_only).code(found), found.mu)


@pytest.fixture(scope="module")
def own_skull() -> Volume:
    skull = complete_skull(load_any_model(default_model_path()), seed=3, spacing_mm=1.6)
    return Volume(skull.array.astype(np.uint8), skull.affine)


def test_our_own_model_reconstructs_a_skull_where_it_lies(own_skull):
    space = LatentSpace(load_any_model(default_model_path()))
    found = space.encode(own_skull)
    back = space.decode(space.code(found), found.place)
    truth = own_skull.array > 0
    assert back.array.shape == truth.shape and np.array_equal(back.affine, own_skull.affine)
    assert 2 * (back.array & truth).sum() / (back.array.sum() + truth.sum()) > 0.75
    with pytest.raises(SkullVAEError, match="stores no latents"):
        space.complete(space.code(found), 1.0, "cranial", "neighbours")


@pytest.fixture
def saved(paper_model, tmp_path) -> str:
    save_model(paper_model, tmp_path / "paper.safetensors", {"trained": "never"})
    return str(tmp_path / "paper.safetensors")


def test_a_paper_model_is_saved_to_the_last_bit(paper_model, saved):
    loaded = load_any_model(Path(saved))
    assert isinstance(loaded, PaperModel) and loaded.z == "mean+sigma"
    for name, tensor in paper_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_encode_writes_one_row_a_skull(saved, ball, tmp_path):
    (tmp_path / "skulls").mkdir()
    for name in ("ada", "ben"):
        write_volume(ball, tmp_path / "skulls" / f"{name}.nrrd")
    table = tmp_path / "table.csv"
    assert main(["latent", "encode", str(tmp_path / "skulls"), "-o", str(table), "--model", saved]) == 0
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["individual"], row["kind"]) for row in rows] == [
        ("ada.nrrd", "ada", "complete"),
        ("ben.nrrd", "ben", "complete"),
    ]
    found = LatentSpace(load_any_model(Path(saved))).encode(ball)
    assert [float(rows[0][f"mu_{n}"]) for n in range(4)] == pytest.approx(found.mu.tolist(), rel=1e-4)
    assert all(float(rows[0][f"sigma_{n}"]) > 0 for n in range(4)) and float(rows[0]["kl_nats"]) >= 0


def test_complete_interpolate_and_sample_write_images_on_the_right_grid(saved, ball, tmp_path):
    write_volume(ball, tmp_path / "a.nrrd")
    write_volume(Volume(ball.array[::-1].copy(), ball.affine), tmp_path / "b.nrrd")
    a, b = str(tmp_path / "a.nrrd"), str(tmp_path / "b.nrrd")
    assert main(["latent", "complete", a, "-o", str(tmp_path / "c.nrrd"), "--gamma", "0.5", "--model", saved]) == 0
    written = read_volume(tmp_path / "c.nrrd")
    assert written.array.shape == ball.array.shape and np.allclose(written.affine, ball.affine)
    assert main(["latent", "interpolate", a, b, "-o", str(tmp_path / "i"), "--steps", "3", "--model", saved]) == 0
    assert sorted(p.name for p in (tmp_path / "i").iterdir()) == ["00.nrrd", "01.nrrd", "02.nrrd"]
    assert main(["latent", "sample", "-o", str(tmp_path / "s"), "--count", "2", "--model", saved]) == 0
    assert len(list((tmp_path / "s").iterdir())) == 2


MISTAKES = {
    "--steps 1 is too small": ("interpolate", "a.nrrd", "a.nrrd", "-o", "i", "--steps", "1"),
    "--count 0 is too small": ("sample", "-o", "s", "--count", "0"),
    "does not exist": ("complete", "none.nrrd", "-o", "c.nrrd"),
    "known image suffix": ("complete", "a.nrrd", "-o", "c.txt"),
    "for the defect class": ("complete", "a.nrrd", "-o", "c.nrrd", "--kind", "nasal"),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(message, saved, ball, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_volume(ball, tmp_path / "a.nrrd")
    before = sorted(p.name for p in tmp_path.iterdir())
    assert main(["latent", *MISTAKES[message], "--model", saved]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_completing_a_patient_with_a_paper_model_is_refused(saved, ball, tmp_path, capsys):
    write_volume(ball, tmp_path / "a.nrrd")
    assert main(["complete", str(tmp_path / "a.nrrd"), "-o", str(tmp_path / "out"), "--model", saved]) == 2
    assert "paper's method" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nrrd", "paper.safetensors"]


@pytest.mark.parametrize("action", ["complete", "encode"])
def test_a_skull_is_never_overwritten_by_what_is_made_of_it(action, saved, ball, tmp_path, capsys):
    (tmp_path / "skulls").mkdir()
    skull = tmp_path / "skulls" / "a.nrrd"
    write_volume(ball, skull)
    before = skull.read_bytes()
    source = skull if action == "complete" else skull.parent
    again = skull.parent / ".." / "skulls" / "a.nrrd"
    assert main(["latent", action, str(source), "-o", str(again), "--model", saved]) == 2
    error = capsys.readouterr().err
    assert "would overwrite the input" in error and len(error.splitlines()) == 1
    assert skull.read_bytes() == before
