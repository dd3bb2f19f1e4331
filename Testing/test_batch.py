"""Claims about completing a cohort: what it lists, what becomes of each case, and what no death on the way can undo.

The runs are real: processes, Dask workers and completions of small heads.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import tiny

from SkullVAELib.batch.cohort import CohortCase, list_cases, made_from
from SkullVAELib.batch.summary import CaseRow, CohortTable
from SkullVAELib.cli import main as cli
from SkullVAELib.cli.case_options import add_case_options, as_arguments
from SkullVAELib.io.images import write_volume
from SkullVAELib.report import result_names

psutil = pytest.importorskip("psutil")
pytest.importorskip("distributed")

RESULTS = set(result_names.RESULT_FILES)

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


def write_head(path: Path, defect: bool = False) -> Path:
    """A small head, whole or with a hole in the vault."""
    head = tiny.shell((70, 90, 77))
    array = head.array.copy()
    if defect:
        nx, ny, nz = array.shape
        array[nx // 2 + 4 :, ny // 2 - 8 : ny // 2 + 12, nz // 2 + 6 :] = 0
    write_volume(head.with_array(array), path)
    return path


def start(*arguments: object) -> subprocess.Popen:
    """`skullvae batch` as a user starts it, in a process group of its own."""
    # The heads are shells, smoother than any skull.
    command = [sys.executable, "-m", "SkullVAELib", "batch", "--force", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=tiny.environment(), start_new_session=True, **pipes)


@contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen]:
    """The same, and nothing left of it afterwards."""
    process = start(*arguments)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def batch(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a run."""
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def case_processes(process: subprocess.Popen, name: str) -> list[psutil.Process]:
    """The processes of a case below one: where they are forked they have the name of the case."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if child.name() == name or any(f"{os.sep}{name}.nrrd" in part for part in child.cmdline()):
                    found.append(child)
    return found


def worker_of(case: psutil.Process) -> psutil.Process:
    """The worker that a case was given to, which is the parent of the process that forks those of cases."""
    parent = case.parent()
    return parent.parent() if any("case_server" in part for part in parent.cmdline()) else parent


def alive(process: psutil.Process) -> bool:
    """Whether a process is more than an entry that its parent has not yet collected."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def wait_until_gone(processes: list[psutil.Process]) -> None:
    for _ in range(15000):
        if not any(map(alive, processes)):
            return
        time.sleep(0.02)
    raise AssertionError([one for one in processes if alive(one)])


def case_process(process: subprocess.Popen, name: str, other_than: set[int] = frozenset()) -> psutil.Process:
    """The process of a case, as soon as there is one."""
    for _ in range(15000):
        for child in case_processes(process, name):
            if child.pid not in other_than:
                return child
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError(f"no process of {name}")


def rows(output: Path) -> dict[str, dict]:
    """summary.json by case; summary.csv must tell the same."""
    content = json.loads((output / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)["cases"]
    with open(output / "summary.csv", newline="", encoding="utf-8") as file:
        assert [(row["case"], row["status"]) for row in csv.DictReader(file)] == [
            (r["case"], r["status"]) for r in content
        ]
    return {row["case"]: row for row in content}


def statuses(output: Path) -> dict[str, str]:
    return {name: row["status"] for name, row in rows(output).items()}


# Listing


def test_a_folder_is_its_images_by_name(tmp_path):
    for name in ("b.nii.gz", "a.NRRD", ".hidden.nrrd", "notes.txt", "c.mha"):
        (tmp_path / name).write_text("", encoding="utf-8")
    (tmp_path / "folder.nrrd").mkdir()
    assert [case.name for case in list_cases(tmp_path)] == ["a", "b", "c"]


def test_a_list_is_relative_to_its_own_folder_and_may_have_comments(tmp_path):
    (tmp_path / "list.txt").write_text("# two\n\nx/a.nrrd\n  b.nii  \n", encoding="utf-8")
    assert [(c.name, c.path) for c in list_cases(tmp_path / "list.txt")] == [
        ("a", tmp_path / "x" / "a.nrrd"),
        ("b", tmp_path / "b.nii"),
    ]


def test_a_table_gives_names_thresholds_boxes_and_segments(tmp_path):
    text = '\ufeffid,path,name,threshold,box,segment\n1,a.nrrd,first,250,,\n2,a.nrrd,,,"-1,2,3,4,5,6",Skull 2\n'
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    cases = list_cases(tmp_path / "list.csv")
    assert [(c.name, c.arguments) for c in cases] == [
        ("first", ("--threshold=250",)),
        ("a", ("--roi=-1,2,3,4,5,6", "--segment=Skull 2")),
    ]


BAD_LISTS = {
    "nothing there": ("none.txt", None, "does not exist"),
    "an image": ("a.nrrd", "", "one image"),
    "nothing in it": ("list.txt", "# nothing\n", "No skulls were found"),
    "no path column": ("list.csv", "file\na.nrrd\n", "no column 'path'"),
    "no path": ("list.csv", "path,name\n,a\n", "line 2"),
    "no image": ("list.txt", "a.nrrd\nnotes.doc\n", "line 2: 'notes.doc' has no known image suffix"),
    "no number": ("list.csv", "path,threshold\na.nrrd,bone\n", "threshold 'bone'"),
    "no box": ("list.csv", 'path,box\na.nrrd,"1,2"\n', "line 2"),
    "the same name": ("list.txt", "x/a.nrrd\ny/a.nii.gz\n", "the same case name 'a'"),
    "almost the same name": ("list.txt", "a.nrrd\nA.nrrd\n", "the same case name 'A'"),
    "a name elsewhere": ("list.csv", "path,name\na.nrrd,../b\n", "cannot be the name"),
    "a hidden name": ("list.csv", "path,name\na.nrrd,.b\n", "cannot be the name"),
    "not text": ("list.txt", b"\xff\xfe\x00a", "UTF-8"),
}


@pytest.mark.parametrize("which", BAD_LISTS)
def test_a_bad_list_is_one_line_and_exit_2_and_nothing_written(which, tmp_path, capfd):
    name, text, expected = BAD_LISTS[which]
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    code = cli.main(["batch", str(tmp_path / name), "-o", str(tmp_path / "out")])
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert expected in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_table_does_not_take_the_place_of_the_list(tmp_path, capfd):
    (tmp_path / "summary.csv").write_text("path\na.nrrd\n", encoding="utf-8")
    assert cli.main(["batch", str(tmp_path / "summary.csv"), "-o", str(tmp_path)]) == 2
    assert "overwrite the input" in capfd.readouterr().err
    assert (tmp_path / "summary.csv").read_text(encoding="utf-8") == "path\na.nrrd\n"


BAD_CALLS = {
    "clearance": (["--clearance", "-1"], "clearance of -1 mm"),
    "workers": (["--workers", "0"], "--workers"),
    "time": (["--case-timeout", "0"], "--case-timeout"),
    "model": (["--model", "none.safetensors"], "none.safetensors"),
    "both": (["--workers", "2", "--scheduler", "tcp://127.0.0.1:1"], "Omit one"),
    "no scheduler": (["--scheduler", "nonsense://127.0.0.1:1"], "No Dask scheduler answers"),
}


@pytest.mark.parametrize("which", BAD_CALLS)
def test_a_bad_call_is_one_line_and_exit_2_and_nothing_written(which, tmp_path, capfd):
    (tmp_path / "a.nrrd").write_text("", encoding="utf-8")
    more, expected = BAD_CALLS[which]
    code = cli.main(["batch", str(tmp_path), "-o", str(tmp_path / "out"), *more])
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert expected in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_without_dask_one_line_says_how_to_get_it(tmp_path, capfd, monkeypatch):
    (tmp_path / "a.nrrd").write_text("", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert cli.main(["batch", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "pip install" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_go_to_each_case_as_they_were_given():
    parser = argparse.ArgumentParser()
    actions = add_case_options(parser)
    given = ["--threshold=250.0", "--segment=Skull 2", "--roi=-1,2,3,4,5,6", "--proposals=3", "--uncertainty"]
    given += ["--clearance=0.5", "--format=obj,ply", "--skull"]
    assert as_arguments(parser.parse_args(given), actions) == tuple(given)
    assert as_arguments(parser.parse_args([]), actions) == ()


def test_a_result_is_out_of_date_once_its_reference_has_changed(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(b"1")
    (tmp_path / "a_flap.stl").write_bytes(b"1")
    case = CohortCase("a", tmp_path / "a.nrrd")
    option = f"--reference={tmp_path}/{{name}}_flap.stl"
    made = made_from(case, (option,), "1")
    assert made is not None and made == made_from(case, (option,), "1")
    (tmp_path / "a_flap.stl").write_bytes(b"another")
    assert made != made_from(case, (option,), "1")
    (tmp_path / "a_flap.stl").unlink()
    assert made_from(case, (option,), "1") is None


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_what_a_result_is_made_from_changes_with_input_options_and_model(tmp_path, suffix):
    write_head(tmp_path / f"a{suffix}")
    case = list_cases(tmp_path)[0]
    made = made_from(case, ("--host", "--model=x"), "1")
    assert made == made_from(case, ("--host", "--model=y"), "1")
    assert made != made_from(case, ("--host",), "2")
    assert made != made_from(case, (), "1")
    voxels = next(path for path in tmp_path.iterdir() if path.suffix != suffix)
    os.utime(voxels, (1, 1))
    assert made != made_from(case, ("--host",), "1")
    (tmp_path / f"a{suffix}").unlink()
    assert made_from(case, (), "1") is None


def test_rows_of_other_cases_stay_while_their_results_do(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text('{"warnings": ["thin"]}', encoding="utf-8")
    table = CohortTable(tmp_path, ["a", "b", "c"])
    done = [CaseRow(name, "done", made_from={"version": "1"}).with_report(tmp_path / name) for name in "ab"]
    table.put(*done, CaseRow("c", "crashed", "Why."))
    assert rows(tmp_path)["a"]["warnings"] == ["thin"]
    assert CohortTable(tmp_path, ["a"]).rows["a"] == done[0]
    (tmp_path / "b" / "report.json").write_text("{}", encoding="utf-8")
    CohortTable(tmp_path, ["d"]).put()
    assert statuses(tmp_path) == {"d": "waiting", "a": "done"}


# Running


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> tuple[Path, Path, tuple[int, str, str], set[str]]:
    """A run over four cases: a defect, whose worker is killed once; a whole head; no image; and one whose own process
    is killed. The input folder, the output, what the run said, and the addresses that it listened at."""
    place = tmp_path_factory.mktemp("cohort")
    (place / "in").mkdir()
    write_head(place / "in" / "a_defect.nrrd", defect=True)
    write_head(place / "in" / "b_killed.nrrd")
    (place / "in" / "c_text.nrrd").write_text("not an image", encoding="utf-8")
    write_head(place / "in" / "d_whole.nrrd")
    listening = set()
    with running(place / "in", "-o", place / "out", "--workers", "2", "--progress", "json") as process:
        worker = worker_of(case_process(process, "a_defect"))
        for one in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
            ports = one.net_connections("inet")
            listening |= {(port.laddr.ip, port.laddr.port) for port in ports if port.status == psutil.CONN_LISTEN}
        worker.kill()
        case_process(process, "b_killed").kill()
        out, err = process.communicate(timeout=300)
    return place / "in", place / "out", (process.returncode, out, err), listening


@posix
def test_one_case_s_death_is_its_own(cohort):
    _, output, (code, _, err), _ = cohort
    assert statuses(output) == {
        "a_defect": "done",
        "b_killed": "crashed",
        "c_text": "bad input",
        "d_whole": "no defect",
    }
    assert code == 2
    assert "2 of 4 cases failed" in err.splitlines()[-1]
    assert str(output / "summary.csv") in err.splitlines()[-1]
    assert "Traceback" not in err
    table = rows(output)
    assert "was killed" in table["b_killed"]["sentence"]
    assert "'c_text.nrrd' cannot be read" in table["c_text"]["sentence"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process's children")
def test_what_is_forked_has_loaded_libraries_and_model_and_has_one_thread():
    """A fork has no other thread, and a lock that one of them held would stay locked."""
    code = (
        "import os, sys; from SkullVAELib.cli import case_server, main; main.prepare_process(); case_server._load();"
        " from SkullVAELib.cli.complete import _preloaded; from SkullVAELib.registration.reference import MeanSkull;"
        " print(len(os.listdir('/proc/self/task')), {'torch', 'vtkmodules', 'SimpleITK'} <= set(sys.modules),"
        " 'tables' in vars(MeanSkull.of(_preloaded.model)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=tiny.environment(),
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    assert done.stdout.split() == ["1", "True", "True"]


@posix
def test_a_worker_s_death_loses_nothing(cohort):
    _, output, _, _ = cohort
    row = rows(output)["a_defect"]
    report = json.loads((output / "a_defect" / "report.json").read_text(encoding="utf-8"))
    assert {path.name for path in (output / "a_defect").iterdir()} == RESULTS
    assert row["defects"] == 1
    assert row["volume_ml"] == report["implant"]["volume_ml"] > 0
    assert row["thickness_mm"] == report["implant"]["thickness_mm"]["mean"]
    assert row["peak_mib"] > 100


@posix
def test_only_finished_cases_have_a_folder_and_no_row_names_a_place(cohort):
    source, output, _, _ = cohort
    found = {path.name for path in output.iterdir()}
    assert found - {"b_killed"} == {"a_defect", "d_whole", "summary.csv", "summary.json"}
    assert not (output / "b_killed" / "report.json").exists()
    assert str(source) not in (output / "summary.json").read_text(encoding="utf-8")


@posix
def test_the_progress_is_one_object_a_line_and_alone_on_stdout(cohort):
    _, _, (_, out, err), _ = cohort
    lines = [json.loads(line) for line in out.splitlines()]
    assert all(set(line) == {"stage", "fraction"} for line in lines)
    assert {"a_defect: done", "c_text: bad input"} <= {line["stage"] for line in lines}
    assert [line["fraction"] for line in lines] == sorted(line["fraction"] for line in lines)
    assert lines[-1] == {"stage": "done", "fraction": 1.0}
    assert "finished per core-hour" in err


@posix
def test_everything_listens_to_this_machine_alone_and_nothing_at_the_dashboard_s_port(cohort):
    _, _, _, listening = cohort
    assert listening
    assert {address for address, _ in listening} == {"127.0.0.1"}
    assert 8787 not in {port for _, port in listening}


@posix
def test_running_again_leaves_what_is_finished_and_tries_what_failed(cohort):
    source, output, *_ = cohort
    before = {name: (output / name / "report.json").stat().st_mtime_ns for name in ("a_defect", "d_whole")}
    (source / "c_text.nrrd").unlink()
    code, out, _ = batch(source, "-o", output)
    assert code == 0
    assert statuses(output) == {"a_defect": "done", "b_killed": "no defect", "d_whole": "no defect"}
    assert before == {name: (output / name / "report.json").stat().st_mtime_ns for name in before}
    assert "Up to date: 2 of 3 cases" in out
    code, out, _ = batch(source, "-o", output)
    assert code == 0
    assert "Up to date: 3 of 3 cases" in out


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_everything_in_order(tmp_path, number, code):
    write_head(tmp_path / "a.nrrd")
    with running(tmp_path, "-o", tmp_path / "out", "--workers", "1") as process:
        case = case_process(process, "a")
        ours = [case, case.parent(), worker_of(case)]
        everyone = psutil.Process(process.pid).children(recursive=True)
        # As a terminal does: to the whole group.
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        _, err = process.communicate(timeout=300)
        assert process.returncode == code
        assert not any(map(alive, ours))
        wait_until_gone(everyone)  # Python's own helper notices a little later
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 1
    assert statuses(tmp_path / "out") == {"a": "waiting"}


@posix
def test_a_run_killed_outright_goes_on_where_it_was(tmp_path):
    (tmp_path / "a.nrrd").write_text("not an image", encoding="utf-8")
    write_head(tmp_path / "b.nrrd")
    with running(tmp_path, "-o", tmp_path / "out", "--workers", "1") as process:
        case_process(process, "b")
        everyone = psutil.Process(process.pid).children(recursive=True)
        assert batch(tmp_path, "-o", tmp_path / "out")[2].startswith("Another run is writing")
        process.kill()
        process.wait()
        wait_until_gone(everyone)
        assert statuses(tmp_path / "out") == {"a": "bad input", "b": "waiting"}
    assert batch(tmp_path, "-o", tmp_path / "out")[0] == 2
    assert statuses(tmp_path / "out") == {"a": "bad input", "b": "no defect"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"b", "summary.csv", "summary.json"}
    assert {path.name for path in (tmp_path / "out" / "b").iterdir()} == RESULTS - {"implant.stl"}


@posix
def test_a_case_that_takes_every_worker_with_it_ends_as_crashed(tmp_path):
    write_head(tmp_path / "a.nrrd")
    (tmp_path / "b.nrrd").write_text("not an image", encoding="utf-8")
    seen: set[int] = set()
    with running(tmp_path, "-o", tmp_path / "out", "--workers", "1") as process:
        for _ in range(3):
            case = case_process(process, "a", seen)
            seen.add(case.pid)
            worker_of(case).kill()
        process.communicate(timeout=120)
    assert process.returncode == 2
    assert statuses(tmp_path / "out") == {"a": "crashed", "b": "bad input"}


@posix
def test_a_case_over_its_time_is_ended(tmp_path):
    write_head(tmp_path / "a.nrrd")
    code, out, _ = batch(tmp_path, "-o", tmp_path / "out", "--case-timeout", "0.02")
    assert code == 2
    assert "not done after 0.02 minutes" in rows(tmp_path / "out")["a"]["sentence"]
    assert "--case-timeout" in out


@posix
def test_a_scheduler_s_workers_do_it_too(tmp_path):
    (tmp_path / "in").mkdir()
    write_head(tmp_path / "in" / "a.nrrd")
    (tmp_path / "in" / "b.nrrd").write_text("not an image", encoding="utf-8")
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": tiny.environment(), "cwd": tmp_path}
    about = tmp_path / "scheduler.json"
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    started = [subprocess.Popen([*dask, "scheduler", *local, "--port", "0", "--scheduler-file", about], **quiet)]
    try:
        worker = [*dask, "worker", "--scheduler-file", about, *local, "--nthreads", "1", "--nworkers", "2"]
        started.append(subprocess.Popen(worker, **quiet))
        for _ in range(15000):
            if about.exists() and about.read_text(encoding="utf-8").strip():
                break
            time.sleep(0.02)
        address = json.loads(about.read_text(encoding="utf-8"))["address"]
        code, _, err = batch(tmp_path / "in", "-o", tmp_path / "out", "--scheduler", address)
        assert code == 2, err
        assert statuses(tmp_path / "out") == {"a": "no defect", "b": "bad input"}
        assert all(one.poll() is None for one in started)
    finally:
        for one in started[::-1]:
            one.terminate()
            one.wait(timeout=300)


def test_the_rating_of_a_row_is_the_worst_of_all_rated_figures(tmp_path):
    good = {"rating": "good", "checks": [{"name": "rim_step", "rating": "good"}]}
    for gap, rating in ((0.5, "good"), (1.5, "acceptable"), (2.5, "poor"), (None, "good")):
        report = {"implant": {"rim_gap_mm": gap}, "checks": good, "warnings": []}
        (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
        assert CaseRow("x").with_report(tmp_path).rating == rating
    (tmp_path / "report.json").write_text(json.dumps({"warnings": []}), encoding="utf-8")
    assert CaseRow("x").with_report(tmp_path).rating is None
