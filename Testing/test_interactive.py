"""Claims about a session after a completion: requests, answers, files that are whole, and ends that are clean."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import trimesh

from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.io.images import read_volume, write_volume
from SkullVAELib.mesh.files import write_stl
from SkullVAELib.report.result_files import RunResult
from SkullVAELib.session.cleanup import remove_responses
from SkullVAELib.session.protocol import Request, Requests
from SkullVAELib.session.server import InteractiveSession

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def outcome(completion, sample) -> RunResult:
    return RunResult.of(
        completion, sample.bone, ImplantOptions(), ("stl",), "head.nrrd", "m.safetensors"
    ).with_implant()


class Talk:
    """A session and what it says."""

    def __init__(self, outcome: RunResult, folder: Path):
        self.folder, self.said = folder, []
        self._session = InteractiveSession(outcome, folder, self.said.append)

    def ask(self, shape_waits: bool = False, **request: object) -> list[dict]:
        """The lines that answer a request, each as it would be read from JSON."""
        before = len(self.said)
        self._session.answer(Request.parse(json.dumps(request)), lambda: shape_waits)
        return json.loads(json.dumps(self.said[before:], allow_nan=False, default=float))

    def implant(self, number: int) -> np.ndarray:
        return read_volume(self.folder / "answers" / str(number) / "implant.nrrd").array != 0


@pytest.fixture
def talk(outcome, tmp_path) -> Talk:
    return Talk(outcome, tmp_path)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_gamma_gives_voxels_first_and_then_the_mesh(talk, completion):
    voxels, mesh = talk.ask(request=7, gamma=2.0)
    folder = talk.folder / "answers" / "7"
    assert voxels["answer"] == mesh["answer"] == 7
    assert Path(voxels["folder"]) == folder
    assert (voxels["files"], voxels["more"]) == (["implant.nrrd"], True)
    assert (mesh["files"], mesh["more"]) == (["implant.stl"], False)
    assert files(folder) == {"implant.nrrd", "implant.stl"}
    implant = talk.implant(7)
    assert not (implant & completion.bone.array).any()
    assert (implant ^ completion.implant.array).any()
    assert voxels["report"]["gamma"] == 2.0
    assert voxels["report"]["implant"]["volume_ml"] == pytest.approx(implant.sum() * completion.bone.voxel_ml, abs=1e-3)
    assert mesh["report"]["mesh"]["triangles"] == len(trimesh.load(folder / "implant.stl").faces)
    assert trimesh.load(folder / "implant.stl").is_watertight
    assert mesh["seconds"] >= voxels["seconds"] > 0


def test_gamma_0_is_the_runs_own_result_to_the_byte(talk, outcome, completion):
    talk.ask(True, request=1, gamma=1.5)
    talk.ask(request=2, gamma=0)
    write_volume(completion.implant, talk.folder / "own.nrrd")
    write_stl(outcome.printable.mesh, talk.folder / "own.stl")
    for kind in ("nrrd", "stl"):
        answer = talk.folder / "answers" / "2" / f"implant.{kind}"
        assert answer.read_bytes() == (talk.folder / f"own.{kind}").read_bytes()


def test_a_mesh_nobody_waits_for_is_not_made(talk):
    voxels, end = talk.ask(True, request=3, gamma=0.5)
    assert voxels["files"] == ["implant.nrrd"]
    assert end["superseded"] and end["files"] == [] and end["more"] is False
    assert files(talk.folder / "answers" / "3") == {"implant.nrrd"}


def test_a_proposal_becomes_the_current_shape_and_the_first_comes_back(talk, completion):
    talk.ask(True, request=1, proposal=3)
    told = talk.ask(True, request=2, gamma=0.0)[0]["report"]
    assert told["proposal"] == 3
    assert np.array_equal(talk.implant(1), talk.implant(2))
    talk.ask(True, request=4, proposal=1)
    assert np.array_equal(talk.implant(4), completion.implant.array)
    assert (talk.implant(1) ^ talk.implant(4)).any()


def test_a_part_is_made_anew_of_the_current_shape(talk):
    wishes = {"clearance": 0.5, "thickness": "constant:4", "under_contour": 0, "smooth": 0.5, "holes": "2,10,3"}
    (answer,) = talk.ask(request=9, part=wishes | {"split": None})
    assert answer["files"] == ["implant.stl"]
    part = answer["report"]["part"]
    assert (part["clearance_mm"], part["thickness"], part["thickness_mm"]) == (0.5, "constant", 4.0)
    assert part["pieces"][0]["holes"] > 5
    assert part["pieces"][0]["clearance_mm"]["p5"] > 0.4
    (plain,) = talk.ask(request=10, part={})
    assert plain["report"]["part"]["pieces"][0]["holes"] == 0
    assert plain["report"]["mesh"]["volume_ml"] != answer["report"]["mesh"]["volume_ml"]


def test_host_and_report_come_as_files(talk):
    (host,) = talk.ask(request=1, host=True)
    assert host["files"] == ["skull.stl"]
    (report,) = talk.ask(request=2, report=True)
    assert report["files"] == ["report.html"]
    assert files(talk.folder / "answers" / "2") == {"report.html"}


BAD_REQUESTS = {
    "no JSON": ("gamma 0.5", None),
    "a list": ("[7]", None),
    "no number": ('{"gamma": 0.5}', None),
    "a number that is a path": ('{"request": "../7", "gamma": 0.5}', None),
    "a negative number": ('{"request": -1, "gamma": 0.5}', None),
    "nothing asked for": ('{"request": 7}', 7),
    "two things asked for": ('{"request": 7, "gamma": 1, "host": true}', 7),
    "an unknown thing": ('{"request": 7, "run": "rm"}', 7),
    "a gamma that is text": ('{"request": 7, "gamma": "much"}', 7),
    "a gamma that is no number": ('{"request": 7, "gamma": NaN}', 7),
    "a sixth proposal": ('{"request": 7, "proposal": 6}', 7),
    "half a proposal": ('{"request": 7, "proposal": 1.5}', 7),
    "an unknown wish": ('{"request": 7, "part": {"colour": "blue"}}', 7),
    "an impossible clearance": ('{"request": 7, "part": {"clearance": 50}}', 7),
    "a clearance that is text": ('{"request": 7, "part": {"clearance": "near"}}', 7),
    "holes that are a number": ('{"request": 7, "part": {"holes": 2}}', 7),
}


@pytest.mark.parametrize(("line", "number"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_is_told_cause_and_remedy_and_changes_nothing(talk, line, number):
    talk._session.answer(Request.parse(line))
    (answer,) = talk.said
    assert answer["answer"] == number
    assert set(answer) == {"answer", "error"}
    assert answer["error"].count(". ") >= 1 and "\n" not in answer["error"]
    assert not (talk.folder / "answers").exists()


def test_a_request_that_cannot_be_written_leaves_no_half_and_the_next_is_answered(talk):
    (talk.folder / "answers").mkdir()
    (talk.folder / "answers" / "5").write_text("in the way")
    (answer,) = talk.ask(request=5, gamma=1.0)
    assert "not a folder" in answer["error"]
    assert len(talk.ask(request=6, gamma=1.0)) == 2


def test_only_an_earlier_sessions_answers_are_removed(tmp_path):
    for name in ("7/implant.nrrd", "8/skull.stl", "9/notes.txt", "mine/implant.nrrd"):
        (tmp_path / "answers" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "answers" / name).write_text("x")
    remove_responses(tmp_path)
    assert files(tmp_path / "answers") == {"9", "mine"}
    remove_responses(tmp_path / "9")


@pytest.fixture
def pipe():
    """Both ends of a pipe, closed at the end."""
    ends = list(os.pipe())
    yield ends
    for end in ends:
        if end is not None:
            os.close(end)


def lines(*requests: dict) -> bytes:
    return b"".join(json.dumps(request).encode() + b"\n" for request in requests)


def test_of_those_that_wait_only_the_newest_of_each_kind_stands(pipe):
    asked = [{"request": k, "gamma": k / 10} for k in range(3)] + [{"request": 3, "host": True}]
    os.write(pipe[1], lines(*asked, {"request": 4, "gamma": 1}, {"request": 5, "part": {}}) + b'{"request": 6, "host"')
    os.close(pipe[1])
    pipe[1] = None
    requests, taken = Requests(pipe[0]), []
    while not requests._closed:  # all is read before the first is taken
        requests._changed.acquire()
        requests._changed.wait(0.1)
        requests._changed.release()
    while (request := requests.take()) is not None:
        taken.append(request)
    assert [request.number for request in taken] == [0, 1, 2, 3, 4, 5, None]
    assert [request.superseded for request in taken] == [True, True, True, False, False, False, False]
    assert taken[-1].error is not None


CHILD = textwrap.dedent("""
    import sys
    from SkullVAELib.cli import _signals_end_the_run
    from SkullVAELib.requests import Requests
    with _signals_end_the_run(), Requests.from_stdin() as requests:
        print("ready", flush=True)
        while (request := requests.take()) is not None:
            print(request.number, flush=True)
    print("over", flush=True)
""")


def child(*command: str) -> subprocess.Popen:
    """The child's code as a process, or a command that starts it, once it is ready for requests."""
    started = subprocess.Popen(
        command or [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
    )
    assert started.stdout.readline() == "ready\n"
    return started


def test_closing_stdin_ends_the_process_after_what_was_asked():
    process = child()
    said, _ = process.communicate(lines({"request": 1, "host": True}, {"request": 2, "gamma": 1}).decode(), timeout=30)
    assert process.returncode == 0
    assert said == "1\n2\nover\n"


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_sigterm_ends_a_process_that_waits():
    process = child()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert process.stdout.read() == ""


PARENT = textwrap.dedent("""
    import subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
    print(child.stdout.readline(), end="", flush=True)
""")


@pytest.mark.skipif(os.name != "posix", reason="parents of processes")
@pytest.mark.timeout(60)
def test_a_vanished_parent_ends_the_process_though_stdin_stays_open():
    process = child(sys.executable, "-c", PARENT, CHILD)
    # The grandchild holds this pipe, too: reading comes to an end when it has ended.
    assert process.stderr.read() == ""
    assert process.wait(timeout=30) == 0
    assert not process.stdin.closed


def test_a_session_on_the_command_line_from_a_skull_to_its_answers(sample, model_path, tmp_path):
    write_volume(sample.bone, tmp_path / "head.nrrd")
    out = tmp_path / "out"
    (out / "answers" / "3").mkdir(parents=True)
    (out / "answers" / "3" / "implant.stl").write_text("of an earlier session")
    arguments = ["complete", tmp_path / "head.nrrd", "-o", out, "--model", model_path, "--progress", "json"]
    asked = lines({"request": 1, "gamma": 0}, {"request": 2, "part": {"clearance": -1}}) + b"hello\n"
    process = subprocess.run(
        [sys.executable, "-m", "SkullVAELib", *map(str, arguments), "--interactive", "--display"],
        input=asked,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    said = [json.loads(line) for line in process.stdout.splitlines()]
    done = said.index({"stage": "done", "fraction": 1.0})
    assert all(set(line) == {"stage", "fraction"} for line in said[: done + 1])
    answers = said[done + 1 :]
    assert [answer["answer"] for answer in answers] == [1, 1, 2, None]
    assert "error" in answers[2] and "error" in answers[3]
    assert files(out / "answers") == {"1"}
    assert (out / "answers" / "1" / "implant.nrrd").read_bytes() == (out / "implant.nrrd").read_bytes()
    assert (out / "answers" / "1" / "implant.stl").read_bytes() == (out / "implant.stl").read_bytes()
    shown = trimesh.load(out / "skull_display.ply")
    bone = trimesh.load(out / "skull_display.ply").vertices * [-1, -1, 1]
    where = np.argwhere(sample.bone.array) @ sample.bone.affine[:3, :3].T + sample.bone.affine[:3, 3]
    assert len(shown.faces) < 200_000
    assert np.allclose(np.ptp(bone, axis=0), np.ptp(where, axis=0), atol=3)
    report = json.loads((out / "report.json").read_text())
    assert {"skull_display.ply", "implant.stl"} <= set(report["files"])
