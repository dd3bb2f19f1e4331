"""The same input, model and version give the same answer: bit for bit on one machine, and the recorded one on any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import golden
import numpy as np
import pytest
import tiny
import torch

from SkullVAELib.core import background
from SkullVAELib.core.files import file_sha256
from SkullVAELib.core.threads import one_thread
from SkullVAELib.evaluation.metrics import dice
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.io.images import read_volume

ROOT = Path(__file__).resolve().parent.parent

# As `skullvae`, with this many threads from the start, whatever the machine has.
WITH_THREADS = """
import sys
import torch
torch.set_num_threads(int(sys.argv[1]))
from SkullVAELib.cli.main import main
sys.exit(main(sys.argv[2:]))
"""
FILES = ("completed.nrrd", "implant.nrrd", "implant.stl", "preview.png")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, model_path) -> dict[int, Path]:
    """The golden skull completed with one thread and with three: a folder each."""
    place = tmp_path_factory.mktemp("threads")
    for threads in (1, 3):
        command = ["complete", golden.SKULL, "-o", place / str(threads), "--device", "cpu", "--model", model_path]
        process = subprocess.run(
            [sys.executable, "-c", WITH_THREADS, str(threads), *map(str, command)],
            capture_output=True,
            text=True,
            env=tiny.environment(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS="2"),
            encoding="utf-8",
        )
        assert process.returncode == 0, process.stderr
    return {int(folder.name): folder for folder in place.iterdir()}


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_the_same_with_any_number_of_threads(runs, name):
    assert len({file_sha256(folder / name) for folder in runs.values()}) == 1


def test_so_is_the_report_but_for_the_seconds(runs):
    content = [json.loads((folder / "report.json").read_text(encoding="utf-8")) for folder in runs.values()]
    for report in content:
        del report["seconds"]
    assert content[0] == content[1]


def test_so_is_every_file_of_a_process_that_had_loaded_the_model_before(runs, model_path, tmp_path):
    arguments = ["complete", golden.SKULL, "-o", tmp_path / "out", "--device", "cpu", "--model", model_path]
    process = subprocess.run(
        [sys.executable, "-m", "SkullVAELib.cli.preloaded", "--device", "cpu", "--model", str(model_path)],
        input=json.dumps({"arguments": [str(argument) for argument in arguments]}) + "\n",
        capture_output=True,
        text=True,
        env=tiny.environment(),
        encoding="utf-8",
    )
    assert process.returncode == 0, process.stderr
    for name in FILES:
        assert file_sha256(tmp_path / "out" / name) == file_sha256(runs[1] / name), name
    taken = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["seconds"]
    assert taken["load model"] == 0.0, "it was not loaded again"


def test_the_implant_is_the_recorded_one(runs):
    """Another kind of processor rounds otherwise: the implants of two had a Dice of 0.992 with version 0.1.0, of 0.984
    with a later one (voxels of 2 mm).

    Anything more is a change; see golden.py.
    """
    record = json.loads(golden.RECORD.read_text(encoding="utf-8"))
    report = json.loads((runs[1] / "report.json").read_text(encoding="utf-8"))
    if report["model"]["sha256"] != record["model_sha256"]:
        if "SKULLVAE_MODEL" in os.environ:
            pytest.skip("SKULLVAE_MODEL names another model than the recorded one")
        pytest.fail("The released model has changed: run `make golden`, look at it, and commit what it wrote")
    implant = read_volume(runs[1] / "implant.nrrd").array != 0
    known = read_volume(golden.IMPLANT).array != 0
    assert dice(known, implant) >= 0.975, "if this change is meant: make golden"
    assert implant.sum() == pytest.approx(known.sum(), rel=0.02)
    if golden.digest(implant) != golden.digest(known):
        warnings.warn("not bit for bit the recorded implant: another processor, or a small change", stacklevel=1)


def test_the_recorded_digest_is_that_of_the_recorded_voxels():
    record = json.loads(golden.RECORD.read_text(encoding="utf-8"))
    known = read_volume(golden.IMPLANT)
    found = golden.record_of(record["model_sha256"], known.with_array(known.array != 0))
    # The version is that of the recording, which later versions must still match.
    assert found | {"version": record["version"]} == record


def test_threads_are_given_back_after_one_thread_even_when_it_fails():
    torch.set_num_threads(3)
    with one_thread():
        assert torch.get_num_threads() == 1
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert torch.get_num_threads() == 3


def test_sampling_is_the_same_in_values_and_layout_with_any_number_of_threads(monkeypatch):
    grid = Grid((20, 24, 20), 4.0)
    rng = np.random.default_rng(0)
    field = torch.tensor(rng.standard_normal((3, *grid.shape))).float()
    points = torch.tensor(rng.uniform(-60, 60, (60_001, 3))).float()
    whole = torch.cat([grid.sample(field, part) for part in points.split(1000)])
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        monkeypatch.setattr(background, "cores", lambda count=threads: count)
        shared = grid.sample(field, points)
        assert torch.equal(shared, whole)
        assert shared.stride() == (3, 1)


def test_the_gradient_of_many_points_is_the_same_in_each_run(monkeypatch):
    monkeypatch.setattr(background, "cores", lambda: 2)
    grid = Grid((20, 24, 20), 4.0)
    points = 40 * torch.rand(120_001, 3, generator=torch.Generator().manual_seed(2)) - 20
    weights = torch.rand(120_001, generator=torch.Generator().manual_seed(3))
    gradients = []
    for _ in range(6):
        field = torch.ones(1, *grid.shape).requires_grad_()
        (grid.sample(field, points)[:, 0] * weights).sum().backward()
        gradients.append(field.grad)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


@pytest.mark.parametrize("count", [500, 60_001])
def test_sampling_many_points_is_differentiable_as_sampling_few(count, monkeypatch):
    monkeypatch.setattr(background, "cores", lambda: 2)
    grid = Grid((20, 24, 20), 4.0)
    field = torch.rand(1, *grid.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    points = torch.zeros(count, 3)
    grid.sample(field, points).sum().backward()
    assert field.grad.sum() == pytest.approx(count, rel=1e-4)
    with torch.no_grad():
        assert not grid.sample(field, points).requires_grad
