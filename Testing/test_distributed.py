"""Claims about several processes that train together: the same losses as one, one set of files, clear mistakes."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys

import pytest
import tiny
import torch

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.training.distributed import Group, process_group
from SkullVAELib.training.run import TrainingPlan, run_training
from SkullVAELib.vae.checkpoint import load_any_model, load_model

# Sums come in another order in two processes. Where a gradient is 0 but for rounding, Adam makes steps of it that are
# as large as any: few steps, a small learning rate and no bfloat16 keep that out of the losses. And with channels last
# torch normalises groups of several skulls to four digits only, of one skull to seven.
OPTIONS = dataclasses.replace(
    tiny.OPTIONS, vae_steps=6, decoder_steps=4, save_every=3, bfloat16=False, channels_last=False, learning_rate=1e-3
)


def torchrun(*arguments: object, processes: int = 2) -> subprocess.CompletedProcess:
    """torchrun on this machine's processor, at any free port."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    command = [str(part) for part in (*start, tiny.TRAIN, *arguments, "--device", "cpu")]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=tiny.environment(), encoding="utf-8"
    )


@pytest.fixture(scope="module")
def one_and_two(canonical_run, tmp_path_factory):
    """Folders of the same run by one process and by two, on the population prepared before; and what was said."""
    place = tmp_path_factory.mktemp("distributed")
    for name in ("one", "two"):
        (place / name).mkdir()
        for prepared in ("population.safetensors", "held_out.safetensors"):
            if (canonical_run.folder / prepared).exists():
                shutil.copy(canonical_run.folder / prepared, place / name)
    run_training(TrainingPlan(canonical_run.data, tiny.TINY, OPTIONS, ("out",)), place / "one")
    config = tiny.write_config(place / "config.json", tiny.TINY, OPTIONS)
    where = ("--data", canonical_run.data, "--output", place / "two", "--config", config, "--holdout", "out")
    process = torchrun("all", *where)
    assert process.returncode == 0, process.stderr
    return place / "one", place / "two", process.stderr


def test_two_processes_have_the_losses_of_one_at_the_same_batch(one_and_two):
    one, two = (tiny.rows(folder) for folder in one_and_two[:2])
    assert [(r["stage"], r["step"]) for r in one] == [(r["stage"], r["step"]) for r in two]
    assert len(one) == OPTIONS.vae_steps + OPTIONS.decoder_steps
    for alone, shared in zip(one, two, strict=True):
        for name in ("loss", "dice_loss", "distance_mm", "kl_nats"):
            if alone[name]:
                assert float(shared[name]) == pytest.approx(float(alone[name]), rel=1e-4), (alone["stage"], name)


def test_only_the_first_process_writes_and_speaks(one_and_two):
    one, two, said = one_and_two
    files = [sorted(path.name for path in folder.iterdir()) for folder in (one, two)]
    assert files[0] == files[1]
    for stage in ("vae", "decoder"):
        assert len(list((two / "tensorboard" / stage).iterdir())) == 1
    for line in ("Training data", "vae 3/6 ", "decoder 4/4 ", "written:"):
        assert len(re.findall(line, said)) == 1, said


def test_two_processes_end_in_a_model_like_that_of_one(one_and_two):
    one, two = (load_model(folder / "model.safetensors") for folder in one_and_two[:2])
    assert one.architecture == two.architecture == tiny.TINY
    with torch.no_grad():
        difference = (one.mean_shape - two.mean_shape).abs().max()
    assert float(difference) < 0.1
    assert one.provenance["options"] == two.provenance["options"]


def test_the_papers_method_trains_in_two_processes(paper_run, tmp_path):
    process = torchrun(*paper_run.arguments(tmp_path))
    assert process.returncode == 0, process.stderr
    assert len(tiny.rows(tmp_path)) == len(tiny.rows(paper_run.folder))
    model = load_any_model(tmp_path / "model.safetensors")
    assert torch.isfinite(model.decode(torch.zeros(1, tiny.TINY_PAPER.latent_size))).all()
    # Each process normalises its own part of a batch, so these losses are near those of one process and no more.
    one, two = (float(tiny.rows(folder, "vae")[0]["loss"]) for folder in (paper_run.folder, tmp_path))
    assert two == pytest.approx(one, rel=0.05)


def test_a_batch_that_two_processes_cannot_share_is_one_clear_line(paper_run, tmp_path):
    config = tiny.write_config(tmp_path / "c.json", tiny.TINY_PAPER, dataclasses.replace(tiny.PAPER_OPTIONS, batch=3))
    process = torchrun("all", "--data", paper_run.data, "--output", tmp_path / "run", "--config", config)
    assert process.returncode != 0
    said = [line for line in process.stderr.splitlines() if line.startswith("train.py: ")]
    assert said == ["train.py: A batch of 3 cannot be divided equally among 2 processes. Set batch to a multiple of 2."]
    assert re.search(r"exitcode *: 2 ", process.stderr)
    assert not (tmp_path / "run").exists()


def test_the_parts_of_a_batch_are_the_whole_in_order():
    parts = [Group(rank, 3).share(12) for rank in range(3)]
    assert [n for part in parts for n in range(12)[part]] == list(range(12))
    with pytest.raises(SkullVAEError, match="A batch of 4 cannot be divided equally among 3 processes"):
        Group(0, 3).share(4)


def test_one_process_is_a_group_of_its_own(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with process_group("cpu") as group:
        network = torch.nn.Linear(1, 1)
        assert group.leads and group.world == 1
        assert group.wrap(network) is network
        assert group.share(5) == slice(0, 5)
        group.wait()
        assert group.mean(torch.ones(1)) == 1


def test_more_processes_than_graphics_cards_is_an_error(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SkullVAEError, match="Start at most 1 processes"), process_group():
        pass
