"""The module's child process: progress, log, requests, cancel."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest
import slicer_env

slicer_env.prepare()

from SkullVAEModule.childprocess import ChildProcess  # noqa: E402
from SkullVAEModule.completion import CompletionOptions, CompletionRun  # noqa: E402
from slicer_scenes import GRIDS, alive, randomMask, waitFor  # noqa: E402

from SkullVAELib.errors import SkullVAEError  # noqa: E402


@pytest.fixture(autouse=True)
def scene():
    """An empty scene for each test."""
    return slicer_env.newScene()


def script(tmp_path: Path, text: str, *arguments: str) -> ChildProcess:
    path = tmp_path / "child.py"
    path.write_text(textwrap.dedent(text))
    return ChildProcess([sys.executable, "-u", str(path), *arguments], tmp_path)


def test_progress_and_log_are_told_apart(tmp_path):
    child = script(
        tmp_path,
        """
        import sys
        print('{"stage": "registration", "fraction": 0.25}')
        print("not json"); print("{neither"); print('{"stage": "no fraction"}')
        print("warned \\u00e9", file=open(2, "w", encoding="utf-8", closefd=False))
        print('{"stage": "implant", "fraction": 7}', end="")
        """,
    )
    child.start()
    lines = []
    waitFor(lambda: lines.extend(child.poll()) or not child.running, "the end")
    assert child.exitCode == 0
    assert (child.stage, child.fraction) == ("implant", 1.0)
    assert sorted(lines) == sorted(["not json", "{neither", '{"stage": "no fraction"}', "warned \u00e9"])
    assert child.lastErrorLine == "warned \u00e9"


def test_much_output_neither_blocks_the_child_nor_gets_lost(tmp_path):
    child = script(
        tmp_path,
        """
        import sys
        for i in range(40000):
            print("x" * 60, i); print("y" * 60, i, file=sys.stderr)
        """,
    )
    child.start()
    # Not polled until the child has ended: nobody needs to empty anything for it to go on.
    child._process.wait(timeout=120)
    counts = [0, 0]

    def poll():
        for line in child.poll():
            counts[line.startswith("y")] += 1
        return not child.running

    waitFor(poll, "the end")
    assert counts == [40000, 40000]
    assert child.lastErrorLine == "y" * 60 + " 39999"
    assert len(child.log) == 2000


GRANDCHILDREN = """
    import pathlib, subprocess, sys, time
    sleeper = "import time; time.sleep(600)"
    middle = (
        "import pathlib, subprocess, sys, time\\n"
        f"child = subprocess.Popen([sys.executable, '-c', {sleeper!r}])\\n"
        "pathlib.Path(sys.argv[1]).write_text(str(child.pid))\\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", middle, sys.argv[1]])
    pathlib.Path(sys.argv[2]).write_text(str(process.pid))
    time.sleep(600)
"""


@pytest.mark.skipif(os.name == "nt", reason="looks for processes in POSIX's way")
def test_cancel_ends_the_whole_process_tree(tmp_path):
    files = tmp_path / "grandchild", tmp_path / "child"
    child = script(tmp_path, GRANDCHILDREN, *map(str, files))
    child.start()
    waitFor(lambda: all(file.exists() and file.read_text() for file in files), "the start of the tree")
    pids = [child._process.pid, *(int(file.read_text()) for file in files)]
    assert all(map(alive, pids))
    child.cancel()
    assert child.cancelled
    assert not child.running
    waitFor(lambda: not any(map(alive, pids)), "the end of the tree")
    child.cancel()
    assert child.poll() == []


def test_closing_a_run_ends_its_child_and_removes_its_folder(tmp_path):
    path = tmp_path / "sleep.py"
    path.write_text("import time; time.sleep(600)")
    run = CompletionRun(randomMask(34), GRIDS["lps"], CompletionOptions(), [sys.executable, str(path)])
    run.start()
    waitFor(lambda: run.poll() or run.child, "the start of the child")
    assert (run.folder / "input.nrrd").is_file()
    if os.name != "nt":
        assert run.folder.stat().st_mode & 0o077 == 0
    run.close()
    assert not run.running
    assert not run.folder.exists()


def test_command_that_cannot_be_started_is_an_error(tmp_path):
    with pytest.raises(SkullVAEError, match="cannot be started"):
        ChildProcess([str(tmp_path / "missing")], tmp_path).start()
