"""Claims about the configuration of a run: presets, files, changes, several betas and decoders, invalid values."""

from __future__ import annotations

import dataclasses
import json

import pytest
import tiny

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.parsing import numbers, words
from SkullVAELib.training.config import DECODERS, PaperOptions, TrainingOptions, decoder_options, read_configuration
from SkullVAELib.vae.checkpoint import read_tensors
from SkullVAELib.vae.networks import Architecture
from SkullVAELib.vae.paper_networks import PaperArchitecture


def test_the_presets_are_our_method_and_the_papers():
    assert read_configuration() == read_configuration("canonical") == (Architecture(), TrainingOptions())
    assert read_configuration("paper") == (PaperArchitecture(), PaperOptions())


def test_the_papers_preset_is_what_its_code_has():
    architecture, options = read_configuration("paper")
    assert architecture.grid_shape == (256, 256, 128)
    assert architecture.latent_size == 32
    assert (options.beta, options.batch, options.learning_rate, options.schedule) == (100, 4, 1e-4, "constant")
    assert (options.vae_epochs, options.decoder_epochs) == (200, 1200)
    assert (options.z, options.standardise, options.bfloat16) == ("mean+sigma", False, False)


def test_changes_are_stronger_than_the_file_and_the_file_than_the_preset(tmp_path):
    (tmp_path / "c.json").write_text(
        '{"method": "paper", "beta": 2, "batch": 8, "grid_shape": [64, 64, 32]}', encoding="utf-8"
    )
    architecture, options = read_configuration(tmp_path / "c.json", {"beta": 3.0})
    assert architecture == PaperArchitecture((64, 64, 32))
    assert options == PaperOptions(beta=3.0, batch=8)


@pytest.mark.parametrize("preset", ["canonical", "paper"])
def test_options_written_to_a_file_come_back(tmp_path, preset):
    architecture, options = read_configuration(preset, {"seed": 5})
    content = dataclasses.asdict(architecture) | dataclasses.asdict(options) | {"method": preset}
    (tmp_path / "c.json").write_text(json.dumps(content), encoding="utf-8")
    assert read_configuration(tmp_path / "c.json") == (architecture, options)


def test_the_cosine_warms_up_and_ends_at_a_fiftieth():
    options = TrainingOptions(learning_rate=1.0)
    rates = [options.learning_rate_at(step, 1000) for step in range(1001)]
    assert rates[0] < 0.02
    assert max(rates) > 0.95
    assert rates[-1] == pytest.approx(0.02)
    assert PaperOptions().learning_rate_at(0, 10) == PaperOptions().learning_rate_at(9, 10) == 1e-4


def test_lists_on_the_command_line():
    assert numbers("100, 1,1e-4", float, "--betas") == (100, 1, 1e-4)
    assert words(" raw,fast ,") == ("raw", "fast")
    with pytest.raises(SkullVAEError, match="--betas '1;2' is not a list of numbers"):
        numbers("1;2", float, "--betas")


@pytest.mark.parametrize("name", DECODERS)
def test_every_further_decoder_differs_from_the_papers_own_or_repeats_it(name):
    options = decoder_options(PaperOptions(), name)
    assert (options == PaperOptions()) == (name == "raw")


WRONG_OPTIONS = [
    ({"decoder_loss": "hinge"}, "decoder_loss 'hinge'"),
    ({"z": "median"}, "z 'median'"),
    ({"schedule": "linear"}, "schedule 'linear'"),
    ({"batch": 0}, "batch is 0"),
    ({"batch": 2.5}, "batch is 2.5, which is not a whole number"),
    ({"pool": -3}, "pool is -3"),
    ({"beta": -1.0}, "beta is -1"),
    ({"beta": float("nan")}, "beta is nan"),
    ({"beta": "1"}, "beta is '1', which is not a number"),
    ({"learning_rate": 0.0}, "learning_rate is 0"),
    ({"learning_rate": float("inf")}, "learning_rate is inf"),
    ({"seed": -1}, "seed is -1"),
    ({"threads": -1}, "threads is -1"),
    ({"bfloat16": "no"}, "bfloat16 is 'no', which is not true or false"),
    ({"save_every": True}, "save_every is True, which is not a whole number"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_OPTIONS)
def test_impossible_options_are_errors(wrong, message):
    with pytest.raises(SkullVAEError, match=message):
        TrainingOptions(**wrong)


@pytest.mark.parametrize("kind", [Architecture, PaperArchitecture])
@pytest.mark.parametrize(
    "wrong",
    [
        {"grid_shape": (64, 64)},
        {"grid_shape": (64, 64, 0)},
        {"grid_shape": (64, 64, -64)},
        {"grid_shape": (64, 64, 64.0)},
        {"latent_size": 0},
        {"channels": ()},
        {"channels": (8, 0)},
    ],
)
def test_impossible_networks_are_errors(kind, wrong):
    with pytest.raises(ValueError, match="grid_shape"):
        kind(**wrong)


CONFIGS = {
    "typo": '{"vae_stepps": 5}',
    "broken": "{",
    "grid": '{"grid_shape": [50, 50, 50]}',
    "groups": '{"channels": [6, 12]}',
    "list": "[1]",
    "method": '{"method": "papre"}',
    "paper": '{"method": "paper", "grid_shape": [64, 64, 30]}',
    "pool": '{"method": "paper", "pool": 5}',
    "text": '{"batch": "4"}',
}
MISTAKES = {
    "does not exist": ("all", "--data", "DIR/none"),
    "No skulls": ("all", "--data", "DIR/empty"),
    "vae_stepps": ("vae", "--config", "DIR/typo.json"),
    "Correct --config": ("vae", "--config", "DIR/broken.json"),
    "divisible": ("vae", "--config", "DIR/grid.json"),
    "divisible by 4": ("vae", "--config", "DIR/groups.json"),
    "cannot be used": ("vae", "--config", "DIR/list.json"),
    "no method 'papre'": ("vae", "--config", "DIR/method.json"),
    "divisible by 16": ("vae", "--config", "DIR/paper.json", "--grid", "64,66,48"),
    "the paper method has no option 'pool'": ("vae", "--config", "DIR/pool.json"),
    "batch is '4', which is not a whole number": ("vae", "--config", "DIR/text.json"),
    "No such file": ("vae", "--config", "DIR/none.json"),
    "no individual 'eve'": ("vae", "--holdout", "eve"),
    "beta is -1": ("vae", "--beta", "-1"),
    "beta is -2": ("vae", "--betas=1,-2"),
    "vae_steps is 0": ("vae", "--steps", "0"),
    "--betas '1;2'": ("all", "--betas", "1;2"),
    "There is no decoder 'fst'. Choose from raw": ("all", "--decoders", "fast,fst"),
    "'x' in 'fast:x' is not a valid number of epochs": ("all", "--decoders", "fast:x"),
    "--epochs '3'": ("all", "--config", "paper", "--epochs", "3"),
    "--epochs '3,x'": ("all", "--config", "paper", "--epochs", "3,x"),
    "the canonical method has no option 'decoder_epochs'": ("all", "--epochs", "3,4"),
    "the paper method has no option 'decoder_steps'": ("all", "--config", "paper", "--steps", "3"),
    "grid_shape (64, 64)": ("all", "--config", "paper", "--grid", "64,64"),
    "The paper's method needs complete skulls and skulls with defects": ("all", "--config", "paper"),
    "contains no training run": ("all", "--start-from", "DIR/none"),
    "No graphics card": ("all", "--device", "cuda"),
}


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return tiny.write_heads(tmp_path_factory.mktemp("settings") / "data")


@pytest.mark.parametrize("message", MISTAKES)
def test_train_py_says_a_mistake_in_one_line_and_exits_2(train_py, heads, tmp_path, capfd, monkeypatch, message):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for name, text in CONFIGS.items():
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
    (tmp_path / "empty").mkdir()
    call = [argument.replace("DIR", str(tmp_path)) for argument in MISTAKES[message]]
    if "--data" not in call:
        call += ["--data", str(heads)]
    assert train_py.main([*call, "--output", str(tmp_path / "run")]) == 2
    out, error = capfd.readouterr()
    said = [line for line in error.splitlines() if not line.startswith(("Found", "Split by", "Training data"))]
    assert len(said) == 1
    assert message in said[0]
    assert out == ""
    assert not (tmp_path / "run").exists()


def test_a_mistyped_argument_is_one_line_too(train_py, capfd):
    for call in (["vea", "--data", "x", "--output", "y"], ["vae", "--data", "x"], ["vae", "--seed", "x"]):
        with pytest.raises(SystemExit) as exit_of:
            train_py.main(call)
        assert exit_of.value.code == 2
        assert len(capfd.readouterr().err.splitlines()) == 1


def test_arguments_for_slicer_stand_before_two_dashes(train_py):
    assert train_py.arguments_after_dashes(["train.py", "all", "--data", "x"]) == ["all", "--data", "x"]
    assert train_py.arguments_after_dashes(["Slicer", "--python-script", "train.py", "--", "all"]) == ["all"]


@pytest.fixture(scope="module")
def several(paper_run, train_py, tmp_path_factory):
    """A run of two betas, each with two further decoders, by one command."""
    folder = tmp_path_factory.mktemp("several")
    config = tiny.write_config(folder / "c.json", tiny.TINY_PAPER, dataclasses.replace(tiny.PAPER_OPTIONS, seed=1))
    where = ["--data", paper_run.data, "--output", folder / "run", "--config", config]
    call = ["all", *where, "--betas", "100,0.0001", "--decoders", "fast,sampled", "--epochs", "1,1"]
    assert train_py.main([str(part) for part in call]) == 0
    return folder / "run", call


def test_betas_makes_a_folder_for_each_with_all_stages(several):
    folder, _ = several
    assert sorted(path.name for path in folder.iterdir()) == ["beta_0.0001", "beta_100", "volumes.safetensors"]
    for beta in (100, 0.0001):
        made = folder / f"beta_{beta:g}"
        record = json.loads((made / "run.json").read_text(encoding="utf-8"))
        assert record["options"]["beta"] == beta
        assert record["options"]["seed"] == 1
        assert {row["stage"] for row in tiny.rows(made)} == {"vae", "decoder", "decoder_fast", "decoder_sampled"}
        assert (made / "model.safetensors").is_file()
        for row in tiny.rows(made, "vae"):
            expected = 2 * (160 * float(row["dice_loss"]) + beta * float(row["kl_nats"]))
            assert float(row["loss"]) == pytest.approx(expected, rel=1e-4)


def test_decoders_makes_further_decoders_under_their_own_options(several):
    folder, _ = several
    for name in ("fast", "sampled"):
        for kind in ("last", "best"):
            assert (folder / "beta_100" / f"decoder_{name}.{kind}.safetensors").is_file()
    networks = [
        read_tensors(folder / "beta_100" / f"{stage}.last.safetensors")[0]["net.linear.weight"]
        for stage in ("decoder", "decoder_fast", "decoder_sampled")
    ]
    assert not (networks[0] == networks[1]).all()
    assert not (networks[0] == networks[2]).all()
    own, fast = (
        [float(r["learning_rate"]) for r in tiny.rows(folder / "beta_100", s)] for s in ("decoder", "decoder_fast")
    )
    assert len(set(own)) == 1
    assert len(set(fast)) > 1


def test_further_betas_join_the_prepared_data_and_other_data_do_not(several, train_py, capfd, tmp_path):
    folder, call = several
    volumes = (folder / "volumes.safetensors").stat().st_mtime_ns
    call = [str(part) for part in call]
    call[call.index("100,0.0001")] = "1"
    call[call.index("fast,sampled")] = ""
    assert train_py.main(["vae", *call[1:]]) == 0
    assert (folder / "volumes.safetensors").stat().st_mtime_ns == volumes
    others = tiny.write_paper_set(tmp_path / "others")
    (others / "ada.nrrd").write_bytes((others / "ben.nrrd").read_bytes())
    capfd.readouterr()
    call[call.index("--data") + 1] = str(others)
    call[call.index("1")] = "2"
    assert train_py.main(call) == 2
    assert "contains runs with different data" in capfd.readouterr().err
