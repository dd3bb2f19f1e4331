"""The module's child process: progress, log, requests, cancel."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from pathlib import Path

import pytest
import slicer_standin

slicer_standin.prepare()

from SkullVAEModule.childprocess import ChildProcess  # noqa: E402
from SkullVAEModule.completion import CompletionRun, RunSettings  # noqa: E402
from slicer_scenes import GRIDS, alive, randomMask, waitFor  # noqa: E402

from SkullVAELib.core.errors import SkullVAEError  # noqa: E402

pytestmark = pytest.mark.usefixtures("scene")


def script(tmp_path: Path, text: str, *arguments: str, requests: bool = False) -> ChildProcess:
    path = tmp_path / "child.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return ChildProcess([sys.executable, "-u", str(path), *arguments], tmp_path, requests=requests)


def test_progress_is_separated_from_the_log(tmp_path):
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
    # Not polled until the child has ended: it does not need a reader to continue.
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
    waitFor(lambda: all(file.exists() and file.read_text(encoding="utf-8") for file in files), "the start of the tree")
    pids = [child._process.pid, *(int(file.read_text(encoding="utf-8")) for file in files)]
    assert all(map(alive, pids))
    begin = time.monotonic()
    child.cancel()
    assert child.cancelled
    assert not child.running
    waitFor(lambda: not any(map(alive, pids)), "the end of the tree")
    assert time.monotonic() - begin < 2
    child.cancel()
    assert child.poll() == []


def test_closing_a_run_ends_its_child_and_removes_its_folder(tmp_path):
    path = tmp_path / "sleep.py"
    path.write_text("import time; time.sleep(600)", encoding="utf-8")
    run = CompletionRun(randomMask(34), GRIDS["lps"], RunSettings(), [sys.executable, str(path)])
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


def test_each_request_gets_one_response_line(tmp_path):
    child = script(
        tmp_path,
        """
        import json, sys
        print('{"stage": "done", "fraction": 1}')
        for line in sys.stdin:
            request = json.loads(line)
            print('{"stage": "again", "fraction": 0.5}')
            print(json.dumps({"response": request["request"], "twice": 2 * request["gamma"]}))
        print('{"response": "no number"}')
        """,
        requests=True,
    )
    child.start()
    waitFor(lambda: child.poll() or child.done, "the result")
    assert child.send({"request": 1, "gamma": 0.5})
    assert child.send({"request": 2, "gamma": 2})
    responses = []
    waitFor(lambda: child.poll() or responses.extend(child.takeResponses()) or len(responses) == 2, "the responses")
    assert responses == [{"response": 1, "twice": 1.0}, {"response": 2, "twice": 4}]
    # The stages of a request do not change that the run is done.
    assert child.done
    assert child.stage == "again"
    child.closeRequests()
    assert not child.send({"request": 3, "gamma": 1})
    lines = []
    waitFor(lambda: lines.extend(child.poll()) or not child.running, "the end")
    assert child.exitCode == 0
    assert lines == ['{"response": "no number"}']


def test_child_that_does_not_read_never_blocks_the_panel(tmp_path):
    child = script(tmp_path, "import time; time.sleep(600)", requests=True)
    child.start()
    sent = 0
    while child.send({"request": sent, "filling": "x" * 1000}):
        sent += 1
        assert sent < 10000
    assert sent > 0
    assert child.running
    child.cancel()


def test_request_to_a_child_that_has_ended_is_refused(tmp_path):
    child = script(tmp_path, "", requests=True)
    child.start()
    child._process.wait(timeout=60)
    # poll() has not seen the end yet, but the pipe is broken already.
    assert not child.send({"request": 1})
    waitFor(lambda: child.poll() or not child.running, "the end")
    assert not child.send({"request": 2})


def test_child_without_requests_has_an_empty_stdin(tmp_path):
    child = script(tmp_path, "import sys; print('read', repr(sys.stdin.read()))")
    child.start()
    assert not child.send({"request": 1})
    lines = []
    waitFor(lambda: lines.extend(child.poll()) or not child.running, "the end")
    assert lines == ["read ''"]
