"""Work in the background is done once, its errors are raised where it is needed, and it can be cancelled."""

from __future__ import annotations

import threading

import pytest
import torch

from SkullVAELib.core import background
from SkullVAELib.core.background import Background, both, side_by_side
from SkullVAELib.core.threads import one_thread


@pytest.fixture(autouse=True)
def spare_core(monkeypatch):
    """As on a machine with several cores, whatever the tests' limit of threads is."""
    monkeypatch.setattr(background, "cores", lambda: 2)


def test_without_a_spare_core_it_is_done_when_it_is_needed(monkeypatch):
    monkeypatch.setattr(background, "cores", lambda: 1)
    where = []
    with Background(lambda: where.append(threading.current_thread()) or 7) as work:
        assert not where
        assert work.finish() == work.finish() == 7
    assert where == [threading.current_thread()]
    assert both(threading.get_ident, threading.get_ident) == (threading.get_ident(), threading.get_ident())
    assert side_by_side(lambda part: (part, threading.get_ident()), "ab") == [(x, threading.get_ident()) for x in "ab"]


def test_one_thread_is_no_spare_core(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert not background.has_spare_core()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(background.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    assert background.has_spare_core()
    monkeypatch.setattr(background.os, "sched_getaffinity", lambda pid: {1}, raising=False)
    assert not background.has_spare_core()


def test_it_runs_once_in_another_thread_beside_the_body():
    where, go = [], threading.Event()

    def work():
        where.append(threading.current_thread())
        go.set()

    with Background(work) as background:
        assert go.wait(10)  # runs while the body waits
        background.finish()
        background.finish()
    assert len(where) == 1 and where[0] is not threading.current_thread()


def test_work_that_has_not_started_is_done_when_it_is_needed():
    where = []
    with Background(lambda: where.append(threading.current_thread()), delay_s=3600) as background:
        background.finish()
    assert where == [threading.current_thread()]


def test_leaving_before_it_has_started_cancels_it():
    done = []
    with pytest.raises(KeyError), Background(lambda: done.append(1), delay_s=3600) as background:
        raise KeyError
    background._thread.join(10)
    assert not background._thread.is_alive()
    assert not done


def test_leaving_waits_for_work_that_has_started_where_it_is_asked_to():
    started, go, done = threading.Event(), threading.Event(), []

    def work():
        started.set()
        go.wait(10)
        done.append(1)

    with pytest.raises(KeyError), Background(work, waits=True):
        assert started.wait(10)
        threading.Timer(0.2, go.set).start()
        raise KeyError
    assert done


@pytest.mark.parametrize("error", [MemoryError("full"), ImportError("broken")])
def test_its_error_is_raised_where_it_is_needed(error):
    def fail():
        raise error

    with Background(fail) as background, pytest.raises(type(error)) as raised:
        background.finish()
    assert raised.value is error


def test_without_another_thread_it_is_done_when_it_is_needed(monkeypatch):
    def no_thread(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    done = []
    with Background(lambda: done.append(1)) as background:
        assert not done
        background.finish()
    assert done == [1]


def test_who_waits_is_called_meanwhile():
    go = threading.Event()
    calls = []

    def wait():
        calls.append(1)
        go.set()

    with Background(lambda: go.wait(60)) as background:
        background.finish(wait)
    assert calls


def test_both_run_at_the_same_time_and_return_their_results():
    first, second = threading.Event(), threading.Event()

    def one() -> int:
        first.set()
        assert second.wait(10)
        return 1

    def other() -> str:
        second.set()
        assert first.wait(10)
        return "b"

    assert both(one, other) == (1, "b")


def test_an_error_of_either_is_raised():
    def fail():
        raise KeyError

    with pytest.raises(KeyError):
        both(fail, lambda: 1)
    with pytest.raises(KeyError):
        both(lambda: 1, fail)


def test_torch_beside_one_thread_has_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert both(torch.get_num_threads, torch.get_num_threads) == (1, 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_two_threads_that_need_the_same_work_both_wait_for_its_end():
    begun, go_on = threading.Event(), threading.Event()

    def work():
        begun.set()
        go_on.wait(10)
        return "done"

    later = Background(work, delay_s=60)
    results = []
    with later:
        callers = [threading.Thread(target=lambda: results.append(later.finish())) for _ in range(2)]
        for caller in callers:
            caller.start()
        assert begun.wait(10)
        assert results == []
        go_on.set()
        for caller in callers:
            caller.join(10)
    assert results == ["done", "done"]


def test_without_another_thread_the_parts_are_worked_on_one_after_the_other(monkeypatch):
    started = []

    def start(thread):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        begin(thread)

    begin = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    assert side_by_side(lambda part: 10 * part, range(5)) == [0, 10, 20, 30, 40]


def test_parts_are_worked_on_at_the_same_time_and_their_results_keep_the_order():
    together = threading.Barrier(2, timeout=10)

    def work(part):
        if part < 2:
            together.wait()  # fails unless both are worked on at once
        return 10 * part

    assert side_by_side(work, range(5)) == [0, 10, 20, 30, 40]
    assert side_by_side(work, []) == []
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda part: 1 / part, [1, 0])
