"""Claims about publishing: a whole set or nothing, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from SkullVAELib.core import atomic_output as outputs
from SkullVAELib.core.atomic_output import atomic_file, publish_files, publish_folder
from SkullVAELib.core.errors import SkullVAEError

NAMES = ["a.bin", "b.bin", "report.json"]


def publish(directory, text, names=NAMES, **options):
    with publish_files(directory, NAMES, **options) as staging:
        for name in names:
            (staging / name).write_text(text, encoding="utf-8")


def content(directory):
    return {path.name: path.read_text(encoding="utf-8") for path in directory.iterdir()}


def test_the_files_appear_and_nothing_else(tmp_path):
    publish(tmp_path / "new" / "folder", "1")
    assert content(tmp_path / "new" / "folder") == dict.fromkeys(NAMES, "1")


def test_nothing_appears_before_the_end(tmp_path):
    with publish_files(tmp_path, NAMES) as staging:
        (staging / "a.bin").write_text("half", encoding="utf-8")
        assert not (tmp_path / "a.bin").exists()
        assert staging.parent == tmp_path
        assert staging.name.startswith(".")


def test_an_error_leaves_the_earlier_results_untouched(tmp_path):
    publish(tmp_path, "old")
    with pytest.raises(MemoryError), publish_files(tmp_path, NAMES) as staging:
        (staging / "a.bin").write_text("half", encoding="utf-8")
        raise MemoryError
    assert content(tmp_path) == dict.fromkeys(NAMES, "old")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_error_removes_the_folders_that_were_made_for_it(tmp_path, error):
    with pytest.raises(error), publish_files(tmp_path / "x" / "y", NAMES) as staging:
        (staging / "a.bin").write_text("half", encoding="utf-8")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_an_earlier_run_does_not_stay_as_if_it_belonged_to_this_one(tmp_path):
    publish(tmp_path, "old")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    publish(tmp_path, "new", names=["a.bin", "report.json"])
    assert content(tmp_path) == {"a.bin": "new", "report.json": "new", "notes.txt": "mine"}


def test_files_whose_number_is_not_known_beforehand_belong_to_the_set(tmp_path):
    names = ["a.bin", "piece_[1-9].bin", "report.json"]

    def publish_pieces(*made):
        with publish_files(tmp_path, names) as staging:
            for name in (*made, "report.json"):
                (staging / name).write_text("1", encoding="utf-8")

    (tmp_path / "piece_mine.bin").write_text("mine", encoding="utf-8")
    publish_pieces("a.bin", "piece_1.bin", "piece_2.bin")
    assert {"piece_1.bin", "piece_2.bin"} <= set(content(tmp_path))
    publish_pieces("a.bin", "piece_1.bin")
    assert set(content(tmp_path)) == {"a.bin", "piece_1.bin", "piece_mine.bin", "report.json"}
    (tmp_path / "piece_3.bin").write_text("input", encoding="utf-8")
    with (
        pytest.raises(SkullVAEError, match="overwrite the input"),
        publish_files(tmp_path, names, [tmp_path / "piece_3.bin"]),
    ):
        pass


def test_the_seal_is_there_only_with_the_whole_set(tmp_path, monkeypatch):
    publish(tmp_path, "old")
    replace, seen = os.replace, []

    def watched(source, target):
        replace(source, target)
        seen.append({path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir() if path.is_file()})

    monkeypatch.setattr(os, "replace", watched)
    publish(tmp_path, "new")
    assert all(len(set(files.values())) <= 1 for files in seen)
    assert all(len(files) == len(NAMES) for files in seen if "report.json" in files)
    assert seen[-1] == content(tmp_path) == dict.fromkeys(NAMES, "new")


@pytest.mark.parametrize("error", [OSError(13, "Permission denied"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", range(6))
def test_what_cannot_be_put_in_place_leaves_the_earlier_set_as_it_was(tmp_path, monkeypatch, at, error):
    publish(tmp_path, "old")
    replace, calls = os.replace, []

    def fails_once(source, target):
        calls.append(target)
        if len(calls) == at + 1:
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_once)
    with pytest.raises((SkullVAEError, KeyboardInterrupt)):
        publish(tmp_path, "new")
    assert content(tmp_path) == dict.fromkeys(NAMES, "old")


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be locked here")
def test_two_runs_that_end_at_once_leave_one_whole_set(tmp_path):
    code = (
        "import sys; from pathlib import Path; from SkullVAELib.core.atomic_output import publish_files\n"
        "for turn in range(40):\n"
        f"    with publish_files(Path(sys.argv[1]), {NAMES!r}) as staging:\n"
        f"        for name in {NAMES!r}: (staging / name).write_text(sys.argv[2] + str(turn))\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), which]) for which in "abc"]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert sorted(content(tmp_path)) == sorted(NAMES)
    assert len(set(content(tmp_path).values())) == 1


@pytest.mark.skipif(os.name != "posix", reason="no permission bits here")
def test_results_may_be_read_by_whoever_may_read_a_new_file(tmp_path):
    with publish_files(tmp_path, NAMES) as staging, atomic_file(staging / "a.bin") as temporary:
        temporary.write_text("1", encoding="utf-8")
    (tmp_path / "new").write_text("", encoding="utf-8")
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_an_input_is_never_overwritten(tmp_path):
    (tmp_path / "a.bin").write_text("input", encoding="utf-8")
    with pytest.raises(SkullVAEError, match="overwrite the input"):
        publish(tmp_path, "1", inputs=[tmp_path / "a.bin"])
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(SkullVAEError, match="overwrite the input"):
        publish(tmp_path / "link", "1", inputs=[tmp_path / "a.bin"])
    assert (tmp_path / "a.bin").read_text(encoding="utf-8") == "input"


def test_an_input_elsewhere_in_the_folder_is_no_obstacle(tmp_path):
    (tmp_path / "head.nrrd").write_text("input", encoding="utf-8")
    publish(tmp_path, "1", inputs=[tmp_path / "head.nrrd"])
    assert content(tmp_path) == {**dict.fromkeys(NAMES, "1"), "head.nrrd": "input"}


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(SkullVAEError, match="not a folder"):
        publish(tmp_path / "file", "1")
    with pytest.raises(SkullVAEError, match="cannot be created"):
        publish(tmp_path / "file" / "below", "1")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(SkullVAEError, match="cannot be written"):
        publish(tmp_path, "1")


def staging_child(directory) -> subprocess.Popen:
    """A process that has begun to prepare files and waits."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from SkullVAELib.core.atomic_output import atomic_file, publish_files\n"
        f"with publish_files(Path(sys.argv[1]), {NAMES!r}) as staging:\n"
        "    (staging / 'a.bin').write_text('half'); print('ready', flush=True); time.sleep(600)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(directory)], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert child.stdout.readline().strip() == "ready"
    return child


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_run_leaves_no_result_and_the_next_run_clears_up(tmp_path):
    child = staging_child(tmp_path)
    child.kill()
    child.communicate()
    left = list(tmp_path.iterdir())
    assert [path.name.startswith(".skullvae-") for path in left] == [True]
    publish(tmp_path, "1")
    assert content(tmp_path) == dict.fromkeys(NAMES, "1")


def test_a_run_that_is_still_going_keeps_its_files(tmp_path):
    child = staging_child(tmp_path)
    try:
        publish(tmp_path, "1")
        (staging,) = tmp_path.glob(".skullvae-*")
        assert (staging / "a.bin").read_text(encoding="utf-8") == "half"
    finally:
        child.kill()
        child.communicate()


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be locked here")
def test_a_private_folder_that_never_got_its_lock_goes(tmp_path):
    (tmp_path / ".skullvae-young").mkdir()
    publish(tmp_path, "1")
    assert content(tmp_path) == dict.fromkeys(NAMES, "1")


def test_where_folders_cannot_be_locked_it_goes_once_its_date_is_far_from_now(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "fcntl", None)
    for name, seconds in {"young": 0, "old": -3600, "made before the clock was set back": 3600}.items():
        (tmp_path / f".skullvae-{name}").mkdir()
        os.utime(tmp_path / f".skullvae-{name}", (time.time() + seconds,) * 2)
    publish(tmp_path, "1")
    assert {path.name for path in tmp_path.glob(".skullvae-*")} == {".skullvae-young"}


def test_what_a_killed_writer_of_one_file_left_goes_with_the_next(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from SkullVAELib.core.atomic_output import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as temporary: temporary.write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.stl")], check=False)
    assert [path.name.startswith(".skullvae-") for path in tmp_path.iterdir()] == [True]
    with atomic_file(tmp_path / "a.stl") as temporary:
        temporary.write_text("whole", encoding="utf-8")
    assert content(tmp_path) == {"a.stl": "whole"}


def test_a_folder_that_holds_the_input_is_never_replaced(tmp_path):
    (tmp_path / "set" / "part").mkdir(parents=True)
    source = tmp_path / "set" / "part" / "skull.nrrd"
    source.write_text("mine", encoding="utf-8")
    with (
        pytest.raises(SkullVAEError, match="holds the input"),
        publish_folder(tmp_path / "set", lambda folder: True, [source]) as folder,
    ):
        (folder / "skull.nrrd").write_text("new", encoding="utf-8")
    assert source.read_text(encoding="utf-8") == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
