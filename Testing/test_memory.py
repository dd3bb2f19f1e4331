"""The process keeps freed memory for its next arrays, and returns it when asked to."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from SkullVAELib.core.memory import uncollected

_RESIDENT = """
import sys, numpy as np
from SkullVAELib.core.memory import keep_freed_memory, return_freed_memory

def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 // 2**20

keep_freed_memory()
before = resident_mb()
array = np.ones(2**26, np.uint8)
del array
kept = resident_mb()
return_freed_memory()
print(kept - before, resident_mb() - before)
"""


_OF_A_THREAD = """
import sys, threading, numpy as np
from SkullVAELib.core.memory import keep_freed_memory

def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 // 2**20

def use():
    arrays = [np.ones(2**24, np.uint8) for _ in range(8)]

keep_freed_memory()
thread = threading.Thread(target=use)
thread.start()
thread.join()
before = resident_mb()
use()
print(resident_mb() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells a process's memory")
def test_memory_that_a_thread_has_freed_is_used_by_others() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _OF_A_THREAD], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert int(run.stdout) <= 20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells a process's memory")
def test_freed_memory_is_kept_until_it_is_returned() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _RESIDENT], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    kept, after = map(int, run.stdout.split())
    assert kept >= 60 and after <= 10


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from SkullVAELib.core import memory

    monkeypatch.setattr(memory.sys, "platform", "win32")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("a library was loaded"))
    memory.keep_freed_memory()
    memory.return_freed_memory()


def test_what_is_imported_is_exempt_from_garbage_collection() -> None:
    before = gc.get_freeze_count()
    try:
        with uncollected():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
        with pytest.raises(KeyError), uncollected():
            raise KeyError
        assert gc.isenabled()
        gc.disable()
        with uncollected():
            pass
        assert not gc.isenabled(), "a program that has paused the collector keeps it paused"
    finally:
        gc.unfreeze()
        gc.enable()
