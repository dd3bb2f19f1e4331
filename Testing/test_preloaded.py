"""The process that has loaded libraries and model before a run: same results, and never in the way."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import slicer_standin
import torch
from tiny import TINY, environment

slicer_standin.prepare()

import slicer  # noqa: E402
from SkullVAEModule import preloading  # noqa: E402
from SkullVAEModule.completion import CompletionRun, RunSettings  # noqa: E402
from SkullVAEModule.logic import SkullVAELogic  # noqa: E402
from slicer_scenes import GRIDS, addSkull, alive, childCommand, randomMask, waitFor  # noqa: E402

from SkullVAELib.cli import complete  # noqa: E402
from SkullVAELib.core.exit_codes import BAD_INPUT  # noqa: E402
from SkullVAELib.registration.reference import MeanSkull  # noqa: E402
from SkullVAELib.vae.checkpoint import save_model  # noqa: E402
from SkullVAELib.vae.networks import SkullModel  # noqa: E402

# Loads nothing; then behaves as the command line that its first argument names, see slicer_scenes.CHILD.
WAITING = """
    import json, os, runpy, sys
    print('{"ready": true}', flush=True)
    line = b""
    while not line.endswith(b"\\n"):
        read = os.read(0, 1)
        if not read:
            sys.exit(0)
        line += read
    if sys.argv[1] == "ends":
        print("it has ended", file=sys.stderr)
        sys.exit(7)
    print('{"started": true}', flush=True)
    sys.argv[1:] = json.loads(line)["arguments"]
    runpy.run_path(WHAT, run_name="__main__")
"""


@pytest.fixture
def preloading_on(scene, monkeypatch):
    monkeypatch.setenv(preloading.SWITCH, "1")


def waiting(folder: Path, mode: str = "good", ends: bool = False) -> list[str]:
    """The command of a preloaded process that then behaves in this mode, or ends before it runs anything."""
    script = folder / "waiting.py"
    script.write_text(textwrap.dedent(WAITING).replace("WHAT", repr(childCommand(folder, mode)[1])), encoding="utf-8")
    return [sys.executable, str(script), "ends" if ends else "runs"]


def logicWith(folder: Path, command: list[str]) -> tuple[SkullVAELogic, list[CompletionRun]]:
    """A logic with this command for preloading, and its runs; the ordinary command line is that of mode "good"."""
    runs: list[CompletionRun] = []
    ordinary = childCommand(folder, "good")

    def create(array, grid, settings, preloaded=None):
        runs.append(CompletionRun(array, grid, settings, ordinary, preloaded))
        return runs[-1]

    logic = SkullVAELogic(createRun=create)
    logic._preloader = preloading.Preloader(command)
    return logic, runs


def pidOf(logic: SkullVAELogic) -> int | None:
    process = logic._preloader._process
    return None if process is None else process.child._process.pid


def test_a_run_uses_the_process_that_waits(preloading_on, tmp_path):
    logic, runs = logicWith(tmp_path, waiting(tmp_path))
    logic.preload(RunSettings())
    pid = pidOf(logic)
    logic.preload(RunSettings())
    assert pidOf(logic) == pid, "one process is enough"
    added = logic.completeSkull(addSkull(randomMask(38), GRIDS["lps"]), "bone")
    assert added is not None
    assert runs[0].child._process.pid == pid
    assert logic.live and logic.requestGamma(2) and logic.waitForResponses(), "the rest of stdin is for requests"
    # The process of the result responds to what is asked next, so that no other is needed.
    logic.preload(RunSettings())
    assert pidOf(logic) is None
    logic.closeSession()
    assert not alive(pid)
    assert not runs[0].folder.exists()


def test_without_preloading_a_run_starts_its_own_process(preloading_on, tmp_path):
    logic, runs = logicWith(tmp_path, waiting(tmp_path))
    assert logic.completeSkull(addSkull(randomMask(38), GRIDS["lps"]), "bone") is not None
    assert runs[0]._preloaded is None
    logic.closeSession()


@pytest.mark.parametrize("failure", ["not started", "ends at once", "ends when it is given the arguments"])
def test_a_process_that_fails_is_replaced_by_the_ordinary_one(preloading_on, tmp_path, failure):
    command = {
        "not started": [str(tmp_path / "missing")],
        "ends at once": [sys.executable, "-c", "import sys; print('no libraries', file=sys.stderr); sys.exit(1)"],
        "ends when it is given the arguments": waiting(tmp_path, ends=True),
    }[failure]
    logic, _ = logicWith(tmp_path, command)
    logic.preload(RunSettings())
    if failure == "ends at once":
        waitFor(lambda: not logic._preloader._process.usable, "its end")
        logic.preload(RunSettings())
        assert pidOf(logic) is None, "what has failed is not tried again before the next run"
    lines: list[str] = []
    added = logic.completeSkull(addSkull(randomMask(38), GRIDS["lps"]), "bone", onLog=lines.extend)
    assert added is not None
    assert logic.live
    assert not any("it has ended" in line or "no libraries" in line for line in lines)
    logic.closeSession()


def test_another_device_or_model_replaces_the_process(preloading_on, tmp_path):
    logic, runs = logicWith(tmp_path, waiting(tmp_path))
    logic.preload(RunSettings())
    first = pidOf(logic)
    logic.preload(RunSettings(device="cpu"))
    second = pidOf(logic)
    assert not alive(first) and second not in (None, first)
    # A run with another model than the one that was loaded.
    logic.start(addSkull(randomMask(38), GRIDS["lps"]), "bone", RunSettings(device="cpu", model=tmp_path / "other"))
    assert not alive(second)
    assert runs[0]._preloaded is None
    logic.cancel()


def test_missing_packages_and_the_switch_prevent_it(preloading_on, tmp_path, monkeypatch):
    logic, _ = logicWith(tmp_path, waiting(tmp_path))
    monkeypatch.setattr(preloading, "missingPackages", lambda: ["torch"])
    logic.preload(RunSettings())
    assert pidOf(logic) is None
    monkeypatch.undo()
    monkeypatch.setenv(preloading.SWITCH, "0")
    logic.preload(RunSettings())
    assert pidOf(logic) is None


def test_closing_the_scene_or_discarding_the_logic_ends_the_process(preloading_on, tmp_path):
    logic, _ = logicWith(tmp_path, waiting(tmp_path))
    logic.preload(RunSettings())
    pid, folder = pidOf(logic), Path(logic._preloader._process.temporary.name)
    slicer.mrmlScene.Clear(0)
    assert not alive(pid) and not folder.exists()
    logic.preload(RunSettings())
    pid, folder = pidOf(logic), Path(logic._preloader._process.temporary.name)
    del logic
    assert not alive(pid) and not folder.exists()


def test_cancelling_a_run_before_it_has_written_its_input_ends_the_process(preloading_on, tmp_path):
    logic, runs = logicWith(tmp_path, waiting(tmp_path))
    logic.preload(RunSettings())
    pid = pidOf(logic)
    logic.start(addSkull(randomMask(38), GRIDS["lps"]), "bone")
    logic.cancel()
    assert not alive(pid)
    assert not runs[0].folder.exists()


def test_the_panel_loads_when_an_input_is_chosen_and_not_before(widget, tmp_path, monkeypatch):
    monkeypatch.setenv(preloading.SWITCH, "1")
    widget.logic._preloader = preloading.Preloader(waiting(tmp_path))
    widget._preloadTimer.setInterval(20)
    slicer_standin.processEvents(0.1)
    assert pidOf(widget.logic) is None
    node = addSkull(randomMask(38), GRIDS["lps"])
    slicer_standin.waitFor(lambda: pidOf(widget.logic) is not None)
    pid = pidOf(widget.logic)
    widget.exit()
    assert alive(pid), "another module was opened for a moment"
    widget.enter()
    slicer_standin.processEvents(0.1)
    assert pidOf(widget.logic) == pid
    slicer.mrmlScene.RemoveNode(node)
    slicer.mrmlScene.Clear(0)
    slicer_standin.processEvents(0.1)
    assert pidOf(widget.logic) is None and not alive(pid)


# --------------------------------------------------------------------------------------------------------------------
# The real process


# The process with nothing to load, which takes seconds.
EMPTY = """
import sys
from SkullVAELib.cli import complete
complete.preload = lambda model, device: print("a library prints", model, device)
from SkullVAELib.cli.preloaded import main
sys.exit(main())
"""


def empty_process(*options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", EMPTY, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
        encoding="utf-8",
    )


@pytest.mark.parametrize(("options", "line"), [((), ""), (("--idle", "0.1"), None)])
def test_it_ends_when_its_stdin_closes_or_after_a_time_without_a_command(options, line):
    process = empty_process("--model", "other.safetensors", "--device", "cpu", *options)
    assert json.loads(process.stdout.readline()) == {"ready": True}
    if line is None:
        assert process.wait(timeout=60) == 0, "with stdin still open"
    out, err = process.communicate(line)
    assert (process.returncode, out) == (0, "")
    assert err == "a library prints other.safetensors cpu\n", "what is printed is no message"


def test_it_is_the_command_line_with_the_arguments_it_is_given():
    process = empty_process()
    out, err = process.communicate(json.dumps({"arguments": ["complete", "missing.nrrd", "-o", "out"]}) + "\n")
    assert process.returncode == BAD_INPUT
    assert [json.loads(line) for line in out.splitlines()] == [{"ready": True}, {"started": True}]
    assert "missing.nrrd" in err.splitlines()[-1]


def test_a_model_is_used_as_long_as_its_file_and_device_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(complete, "_preloaded", None)
    path = tmp_path / "model.safetensors"
    model = SkullModel(TINY, ("cranial",))
    axes = [(torch.arange(n) - (n - 1) / 2) * TINY.spacing_mm for n in TINY.grid_shape]
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)
    model.mean.copy_((radius - 65).abs() - 4)
    save_model(model, path, {})
    assert complete._preloaded_model(path, torch.device("cpu")) is None
    complete.preload(path, "cpu")
    loaded = complete._preloaded_model(path, torch.device("cpu"))
    assert loaded is not None
    assert {"distance", "target", "tables", "shell"} <= set(vars(MeanSkull.of(loaded)))
    assert complete._preloaded_model(path, torch.device("meta")) is None
    assert complete._preloaded_model(tmp_path / "other.safetensors", torch.device("cpu")) is None
    save_model(SkullModel(TINY, ("cranial",)), path, {"another": True})
    assert complete._preloaded_model(path, torch.device("cpu")) is None
