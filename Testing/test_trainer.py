"""Claims about a run of train.py: what it tells, what it leaves behind, and that nothing that stops it does harm."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.training import trainer
from SkullVAELib.training.paper import PaperTask
from SkullVAELib.training.run import TrainingPlan, run_training
from SkullVAELib.vae.checkpoint import load_any_model, read_tensors

PLAN_OPTIONS = dataclasses.replace(tiny.PAPER_OPTIONS, vae_epochs=1, decoder_epochs=1)
"""A run of a second, in this process."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> TrainingPlan:
    return TrainingPlan(tiny.write_paper_set(tmp_path_factory.mktemp("set") / "data"), tiny.TINY_PAPER, PLAN_OPTIONS)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_tensors(path)[0]


def assert_same_weights(one: Path, other: Path) -> None:
    """Every checkpoint and model of two run folders, to the last bit."""
    names = sorted(path.name for path in one.glob("*.safetensors"))
    assert "model.safetensors" in names and "vae.last.safetensors" in names
    assert names == sorted(path.name for path in other.glob("*.safetensors"))
    for name in names:
        first, second = weights(one / name), weights(other / name)
        assert first.keys() == second.keys()
        assert [key for key in first if not torch.equal(first[key], second[key])] == [], name


def left_behind(folder: Path) -> list[Path]:
    """Temporary files, whose names begin with a dot."""
    return [path for path in folder.rglob(".*") if path.is_file()]


# Progress, log and events


def test_progress_tells_throughput_and_time_left(paper_run):
    line = re.compile(r"vae (\d+)/15 +loss [\d.]+ +[\d.]+ skulls/s, \d+ \w+ left +skull dice [\d.]+, held out")
    steps = [int(found.group(1)) for found in map(line.match, paper_run.said.splitlines()) if found]
    assert steps == [2, 4, 6, 8, 10, 12, 14, 15]
    assert paper_run.said.splitlines()[-1] == f"written: {paper_run.folder / 'model.safetensors'}"


def test_on_a_terminal_progress_is_a_bar_that_is_redrawn(train_py, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    row = {"stage": "vae", "step": 50, "steps": 200, "seconds": 100.0, "samples_per_second": 2.0, "loss": 3.0}
    train_py.show(row)
    said = capsys.readouterr().err
    assert said.startswith("\r######  ")
    assert "vae 50/200" in said and "2.0 skulls/s, 5 min left" in said


def read_events(folder: Path) -> dict[tuple[str, int], float]:
    """(name, step) -> value of TensorBoard's event files: a length and its checksum, an event and its checksum, ..."""
    from tensorboardX.proto.event_pb2 import Event

    values = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            values |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            content = content[16 + length :]
    return values


@pytest.mark.parametrize("stage", ["vae", "decoder", "decoder_sampled"])
def test_tensorboard_is_told_what_the_log_tells(paper_run, stage):
    pytest.importorskip("tensorboardX")
    events = read_events(paper_run.folder / "tensorboard" / stage)
    logged = tiny.rows(paper_run.folder, stage)
    for row in logged:
        for name in ("loss", "dice_loss", "learning_rate", "held_out_skull_dice"):
            if row[name]:
                assert events[name, int(row["step"])] == pytest.approx(float(row[name]), rel=1e-4)
    assert {step for name, step in events if name == "loss"} == set(range(1, len(logged) + 1))


def test_tensorboards_own_checksums_are_right(paper_run):
    record_writer = pytest.importorskip("tensorboardX.record_writer")
    (path,) = (paper_run.folder / "tensorboard" / "vae").iterdir()
    content = path.read_bytes()
    assert struct.unpack("<I", content[8:12])[0] == record_writer.masked_crc32c(content[:8])


def test_training_goes_on_without_tensorboardX(plan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # what import makes of a package that is not there
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    run_training(plan, tmp_path, ("vae",))
    assert len(tiny.rows(tmp_path)) == 5
    assert not (tmp_path / "tensorboard").exists()


# Checkpoints


def test_the_best_checkpoint_holds_the_weights_of_the_step_that_was_best_on_held_out_skulls(plan, tmp_path):
    options = dataclasses.replace(PLAN_OPTIONS, vae_epochs=4, learning_rate=0.03)
    kept = {}

    def keep(row: dict) -> None:
        if "held_out_skull_dice" in row:
            kept[row["step"]] = weights(tmp_path / "vae.last.safetensors")

    run_training(dataclasses.replace(plan, options=options), tmp_path, ("vae",), report=keep)
    scores = {int(row["step"]): float(row["held_out_skull_dice"] or 0) for row in tiny.rows(tmp_path)}
    best = max(scores, key=scores.get)
    assert sorted(scores.values())[-2] < scores[best], "the figures must differ for this test to tell anything"
    tensors, metadata = read_tensors(tmp_path / "vae.best.safetensors")
    assert metadata["step"] == best
    assert metadata["best"] == pytest.approx(scores[best], rel=1e-5)
    assert all(torch.equal(tensors[name], kept[best][name]) for name in tensors)
    last = read_tensors(tmp_path / "vae.last.safetensors")[1]
    assert last["step"] == last["steps"] == len(scores)


def test_without_held_out_skulls_there_is_no_best_checkpoint(plan, tmp_path):
    entries = json.loads((plan.data / "datalist.json").read_text(encoding="utf-8"))
    own = [entry | {"complete": str(plan.data / entry["complete"]), "split": None} for entry in entries]
    own = [e | {"defective": str(plan.data / e["defective"])} if "defective" in e else e for e in own]
    (tmp_path / "list.json").write_text(json.dumps(own), encoding="utf-8")
    run_training(dataclasses.replace(plan, data=tmp_path / "list.json"), tmp_path / "run", ("vae",))
    assert not (tmp_path / "run" / "vae.best.safetensors").exists()


# What stops a run


def interrupted(arguments: list[object], ready: Callable[[], bool], number: int) -> tuple[int, str]:
    """Start train.py, send it a signal as soon as it is ready for it; its exit code and what it said."""
    command = [str(part) for part in (sys.executable, tiny.TRAIN, *arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=tiny.environment(), encoding="utf-8")
    while process.poll() is None and not ready():
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def after(seconds: float, condition: Callable[[], bool] = lambda: True) -> Callable[[], bool]:
    """So long after the condition was met for the first time."""
    met = []

    def ready() -> bool:
        if not met and condition():
            met.append(time.monotonic())
        return bool(met) and time.monotonic() - met[0] >= seconds

    return ready


def logged(folder: Path, count: int) -> Callable[[], bool]:
    """So many steps logged, and one more than are already."""
    path = folder / "log.csv"

    def steps() -> int:
        return path.read_bytes().count(b"\n") - 1 if path.is_file() else 0

    wanted = max(count, steps() + 1)
    return lambda: steps() >= wanted


def claimed(folder: Path) -> Callable[[], bool]:
    return (folder / "run.json").is_file


@pytest.fixture(scope="module")
def interrupted_run(paper_run, tmp_path_factory):
    """The paper run again, killed and interrupted at moments that differ each time, then resumed to its end.

    SKULLVAE_INTERRUPTIONS=N in the environment makes N moments of it instead of a few.
    """
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    total = len(tiny.rows(paper_run.folder))
    draw = random.Random()
    count = int(os.environ.get("SKULLVAE_INTERRUPTIONS", 2))
    moments = [
        ("kill", "start", draw.uniform(0.0, 2.0), None),
        ("kill", "preparation", draw.uniform(0.0, 0.1), None),
        ("kill", "before a checkpoint", 0.0, 1),
    ]
    for number, row in enumerate(sorted(draw.choices(range(2, total - 5), k=count))):
        kind = "interrupt" if number == 0 else "kill"  # the earliest, so that the run is not over before
        moments.append((kind, f"step {row}", draw.uniform(0.0, 0.05), row))
    outcomes = []
    for kind, moment, delay, row in moments:
        number = signal.SIGKILL if kind == "kill" else signal.SIGINT
        if moment == "start":
            ready = after(delay)
        else:
            ready = after(delay, claimed(folder) if row is None else logged(folder, row))
        code, said = interrupted(paper_run.arguments(folder, "--resume"), ready, number)
        steps = len(tiny.rows(folder)) if (folder / "log.csv").exists() else 0
        left = left_behind(folder)
        print(f"{kind} {delay:.3f} s after {moment}: exit code {code}, {steps}/{total} steps logged, {len(left)} left")
        outcomes.append((kind, code, said, left))
    last = tiny.train_py(*paper_run.arguments(folder, "--resume"))
    assert last.returncode == 0, last.stderr
    return folder, outcomes


def test_a_killed_run_resumes_to_the_same_weights_to_the_last_bit(paper_run, interrupted_run):
    folder, outcomes = interrupted_run
    assert -signal.SIGKILL in [code for _, code, _, _ in outcomes]
    assert_same_weights(paper_run.folder, folder)


def test_a_killed_runs_log_has_every_step_once_and_the_same_figures(paper_run, interrupted_run):
    folder, _ = interrupted_run
    times = ("seconds", "samples_per_second")
    resumed, straight = (
        [{name: value for name, value in row.items() if name not in times} for row in tiny.rows(of)]
        for of in (folder, paper_run.folder)
    )
    assert resumed == straight


def test_a_killed_run_leaves_no_temporary_files_once_resumed(interrupted_run):
    assert left_behind(interrupted_run[0]) == []


def test_ctrl_c_ends_with_130_and_leaves_nothing_half_written(interrupted_run):
    outcomes = [outcome for outcome in interrupted_run[1] if outcome[0] == "interrupt"]
    for _, code, said, left in outcomes:
        assert code == 130, said
        assert said.splitlines()[-1] == "interrupted; --resume continues from the last checkpoint"
        assert "Traceback" not in said
        assert left == []
    assert outcomes


def test_our_own_method_killed_resumes_to_the_same_weights_to_the_last_bit(canonical_run, tmp_path):
    draw = random.Random()
    delay, row = draw.uniform(0, 4), draw.randrange(1, 17)
    print(f"killed {delay:.2f} s into the preparation and after row {row}")
    arguments = canonical_run.arguments(tmp_path, "--resume")
    interrupted(arguments, after(delay, claimed(tmp_path)), signal.SIGKILL)
    assert interrupted(arguments, logged(tmp_path, row), signal.SIGKILL)[0] == -signal.SIGKILL
    last = tiny.train_py(*arguments)
    assert last.returncode == 0, last.stderr
    assert_same_weights(canonical_run.folder, tmp_path)
    straight, resumed = (
        [(r["stage"], r["step"], r["loss"]) for r in tiny.rows(f)] for f in (canonical_run.folder, tmp_path)
    )
    assert resumed == straight


def test_a_header_that_a_full_disk_cut_is_written_again(plan, tmp_path):
    (tmp_path / "log.csv").write_text("stage,st", encoding="utf-8")
    run_training(plan, tmp_path, ("vae",))
    assert [int(row["step"]) for row in tiny.rows(tmp_path)] == [1, 2, 3, 4, 5]


class Spoilt:
    """PaperTask's VAE loss, spoilt at one step."""

    def __init__(self, monkeypatch, step: int, spoil: Callable):
        self.calls, loss = 0, PaperTask.vae_loss

        def spoilt(task, network, batch, noise):
            self.calls += 1
            value, terms = loss(task, network, batch, noise)
            return (spoil(network, value) if self.calls == step else value), terms

        monkeypatch.setattr(PaperTask, "vae_loss", spoilt)


def not_a_number(network, loss):
    return loss * float("nan")


def not_a_gradient(network, loss):
    """The loss is a number, its gradient is none: that of a square root at 0."""
    return loss + (next(network.parameters()) * 0).sum().sqrt()


@pytest.mark.parametrize(
    ("spoil", "step", "cause"),
    [
        (not_a_number, 4, r"The vae loss became nan at step 4 \(dice_loss 0\.\d+, kl_nats [\d.e-]+\)\. Lower "),
        (not_a_gradient, 4, r"The vae weights became nan at step 4\. Lower "),
        (not_a_gradient, 3, r"The vae loss became nan at step 4 \(dice_loss nan, kl_nats nan\)\. Lower "),
    ],
)
def test_a_loss_that_is_no_number_stops_with_the_cause_and_keeps_the_last_checkpoint(
    paper_run, tmp_path, train_py, monkeypatch, capfd, spoil, step, cause
):
    with monkeypatch.context() as patch:
        Spoilt(patch, step, spoil)
        assert train_py.main([str(part) for part in paper_run.arguments(tmp_path)]) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("train.py")]
    assert len(said) == 1 and re.search(cause, said[0])
    tensors, metadata = read_tensors(tmp_path / "vae.last.safetensors")
    assert metadata["step"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert left_behind(tmp_path) == []
    # As after a kill, the same step is made again.
    assert train_py.main([str(part) for part in paper_run.arguments(tmp_path, "--resume")]) == 0
    assert_same_weights(paper_run.folder, tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A disk with room for the first checkpoint of the paper run and not for the second."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=260k", "none", disk]).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_stops_the_run_and_does_no_harm(paper_run, train_py, small_disk):
    folder = small_disk / "run"
    process = tiny.train_py(*paper_run.arguments(folder))
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("train.py: The disk is full. Free some space")
    assert "Traceback" not in process.stderr
    assert left_behind(folder) == []
    assert read_tensors(folder / "vae.last.safetensors")[1]["step"] == 2
    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    assert train_py.main([str(part) for part in paper_run.arguments(folder, "--resume")]) == 0
    assert_same_weights(paper_run.folder, folder)


@pytest.mark.parametrize("write", range(1, 9, 3))
def test_a_disk_that_fills_at_any_write_leaves_a_run_that_resumes(plan, tmp_path, train_py, monkeypatch, capfd, write):
    config = tiny.write_config(tmp_path / "config.json", tiny.TINY_PAPER, PLAN_OPTIONS)
    call = [str(p) for p in ("vae", "--data", plan.data, "--config", config, "--output", tmp_path / "run", "--resume")]
    calls, fsync = [], os.fsync

    def fails(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        assert train_py.main(call) == 2
    assert "train.py: The disk is full" in capfd.readouterr().err
    assert left_behind(tmp_path / "run") == []
    assert train_py.main(call) == 0
    run_training(plan, tmp_path / "straight", ("vae",))
    one, other = (weights(tmp_path / name / "vae.last.safetensors") for name in ("run", "straight"))
    assert all(torch.equal(one[name], other[name]) for name in one)


# Seeds, records, starting points


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(plan, tmp_path):
    made = []
    for number, seed in enumerate((3, 3, 4)):
        options = dataclasses.replace(PLAN_OPTIONS, seed=seed)
        run_training(dataclasses.replace(plan, options=options), tmp_path / str(number))
        made.append(weights(tmp_path / str(number) / "model.safetensors"))
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert not torch.equal(made[0]["encoder.mu.weight"], made[2]["encoder.mu.weight"])
    assert not torch.equal(made[0]["decoder.linear.weight"], made[2]["decoder.linear.weight"])


def texts(value: object) -> list[str]:
    """Every text in a JSON value, keys included."""
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("method", ["canonical", "paper"])
def test_run_json_tells_options_data_and_versions_and_no_absolute_path(request, method):
    run_of = request.getfixturevalue(f"{method}_run")
    record = json.loads((run_of.folder / "run.json").read_text(encoding="utf-8"))
    assert record["method"] == method
    config = json.loads(Path(run_of.options[1]).read_text(encoding="utf-8"))
    assert record["architecture"] | record["options"] | {"method": method} == {"method": method} | config
    assert record["holdout"] == ["out"]
    for side in ("data", "held_out_data"):
        for name, digest in record[side].items():
            assert hashlib.sha256((run_of.data / name).read_bytes()).hexdigest() == digest
    kinds = [""] if method == "canonical" else ["", "_cranial", "_facial"]
    assert sorted(record["data"]) == sorted(f"{who}{k}.nrrd" for who in ("ada", "ben", "cyd") for k in kinds)
    assert sorted(record["held_out_data"]) == [f"out{k}.nrrd" for k in kinds]
    assert record["versions"]["torch"] == torch.__version__
    assert all(record["versions"][name] for name in ("skullvae", "python"))
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tiny.ROOT, capture_output=True, text=True, encoding="utf-8")
    if head.returncode == 0:
        assert record["versions"]["commit"].removesuffix("+changes") == head.stdout.strip()
    model = load_any_model(run_of.folder / "model.safetensors")
    for content in (record, model.provenance):
        assert [text for text in texts(content) if text.startswith(("/", "~")) or ":\\" in text] == []


def test_files_of_one_name_in_several_folders_are_all_recorded(plan, tmp_path):
    entries = []
    for entry in json.loads((plan.data / "datalist.json").read_text(encoding="utf-8")):
        for key in ("complete", "defective"):
            if key in entry:
                # SkullBreak's way: the same name in a folder for each class. Outside the list's folder at that.
                path = tmp_path / "skulls" / (entry["kind"] if key == "defective" else "whole")
                path.mkdir(parents=True, exist_ok=True)
                name = f"{entry['individual']}.nrrd"
                shutil.copy(plan.data / entry[key], path / name)
                entry[key] = str(path / name)
        entries.append(entry)
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "list.json").write_text(json.dumps(entries), encoding="utf-8")
    run_training(dataclasses.replace(plan, data=tmp_path / "list" / "list.json"), tmp_path / "run", ("vae",))
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert sorted(record["data"]) == [
        f"{kind}/{who}.nrrd" for kind in ("cranial", "facial", "whole") for who in ("ada", "ben", "cyd")
    ]


def test_a_run_may_start_from_anothers_weights_and_says_so(plan, paper_run, tmp_path):
    from_there = dataclasses.replace(plan, start_from=paper_run.folder)
    run_training(from_there, tmp_path / "run", ("vae",))
    first = float(tiny.rows(tmp_path / "run")[0]["loss"])
    assert first < 0.95 * float(tiny.rows(paper_run.folder)[0]["loss"])
    origin = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["start_from"]
    assert origin["run"] == "run" and len(origin["data"]) == 9
    other = dataclasses.replace(from_there, architecture=dataclasses.replace(tiny.TINY_PAPER, latent_size=5))
    with pytest.raises(SkullVAEError, match="different architecture"):
        run_training(other, tmp_path / "other", ("vae",))


def test_a_run_that_saw_held_out_skulls_is_no_start(plan, paper_run, tmp_path):
    record = json.loads((paper_run.folder / "run.json").read_text(encoding="utf-8"))
    (tmp_path / "seen").mkdir()
    record["data"]["out_facial.nrrd"] = ""
    (tmp_path / "seen" / "run.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(SkullVAEError, match=r"trained on 'out_facial\.nrrd', which is held out"):
        run_training(dataclasses.replace(plan, start_from=tmp_path / "seen"), tmp_path / "run", ("vae",))


# Inside Slicer

SLICER = """
import sys
class Console:  # what Slicer puts in the place of a stream
    def __init__(self, stream): self.stream = stream
    def write(self, text): self.stream.write(text)
    def flush(self): self.stream.flush()
    def isatty(self): return False
sys.stdout, sys.stderr = Console(sys.stdout), Console(sys.stderr)
path = {path!r}
sys.argv = ["Slicer", "--no-main-window", "--python-script", path, "--", *{arguments!r}]
sys.path.insert(0, path.rpartition("/")[0])
import __main__
_updated_globals = vars(__main__)
_updated_globals["__file__"] = path
exec(compile(open(path, encoding="ascii").read(), path, "exec"), _updated_globals)
print("Slicer stays open")
"""


def in_slicer(*arguments: object) -> subprocess.CompletedProcess:
    """Run train.py in a fresh process the way Slicer's --python-script does."""
    program = SLICER.format(path=str(tiny.TRAIN), arguments=[str(part) for part in arguments])
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env=tiny.environment(),
        cwd=tiny.ROOT.parent,
        encoding="utf-8",
    )


def test_train_py_is_ascii():
    assert tiny.TRAIN.read_bytes().isascii()


def test_in_slicer_training_ends_and_slicer_with_it(paper_run, tmp_path):
    process = in_slicer(*paper_run.arguments(tmp_path / "run"))
    assert process.returncode == 0, process.stderr
    assert process.stdout == ""
    assert_same_weights(paper_run.folder, tmp_path / "run")


@pytest.mark.parametrize("arguments", [("all", "--data", "none", "--output", "out"), ()])
def test_in_slicer_a_mistake_is_one_line_and_ends_slicer_with_2(arguments):
    process = in_slicer(*arguments)
    assert process.returncode == 2
    assert process.stdout == ""
    assert len(process.stderr.splitlines()) == 1
    assert process.stderr.startswith("train.py: ")


@pytest.mark.parametrize("error", [ImportError("no such thing"), MemoryError(), RuntimeError("what now")])
@pytest.mark.parametrize("debug", ["", "1"])
def test_any_error_ends_in_an_exit_code(train_py, monkeypatch, capsys, error, debug):
    def fails(argv):
        raise error

    monkeypatch.setattr(train_py, "train", fails)
    monkeypatch.setenv("SKULLVAE_DEBUG", debug)
    assert train_py.main([]) == 2
    said = capsys.readouterr().err
    assert ("Traceback" in said) == bool(debug)
    assert said.splitlines()[-1].startswith("train.py: ")


def test_a_library_that_cannot_be_imported_is_an_exit_code_too(train_py, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "SkullVAELib.training.distributed", None)
    monkeypatch.setitem(sys.modules, "SkullVAELib.vae.device", None)
    assert train_py.main(["all", "--data", "x", "--output", "y"]) == 2
    assert capsys.readouterr().err.startswith("train.py: ")


def test_training_starts_no_other_process(plan, tmp_path):
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    if not children.exists():
        pytest.skip("only Linux tells a process's children")
    # An earlier test's pool of processes leaves Python's own tracker of resources behind.
    already, seen = set(children.read_text(encoding="utf-8").split()), set()
    run_training(plan, tmp_path, report=lambda row: seen.update(children.read_text(encoding="utf-8").split()))
    assert seen <= already
    assert "DataLoader" not in Path(trainer.__file__).read_text(encoding="utf-8")
