"""A run of the command line or of train.py in a forked process whose libraries are loaded already: see faults.py.

So seconds of imports are paid once, and a kill meets the work itself.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import contextlib
import importlib.util
import resource
import signal
import sys
from pathlib import Path

import torch

import SkullVAELib.completion.pipeline
import SkullVAELib.mesh.isosurface  # noqa: F401
from SkullVAELib.cli import main as cli

_CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def _train_main():
    spec = importlib.util.spec_from_file_location("train", Path(__file__).parent.parent / "Training" / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


PROGRAMS = {"skullvae": cli.main, "train": _train_main()}


def run(
    program: str, arguments: list[str], said: Path, folder: Path, kill_at: int | None = None,
    more_bytes: int | None = None,
    largest_file: int | None = None, closed_stdout: bool = False,
) -> None:  # fmt: skip
    """Run a program to its exit code; what it says goes into the file `said`.

    folder: whose changes are counted, in the file `said` + ".changes"; kill_at: SIGKILL comes just before that change;
    more_bytes: of address space it may take beyond what the libraries have; largest_file: RLIMIT_FSIZE.
    """
    torch.set_num_threads(1)
    _redirect(said, closed_stdout)
    if more_bytes is not None:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    count = _count_changes(folder, kill_at)
    try:
        code = PROGRAMS[program](arguments)
    except SystemExit as error:
        code = error.code
    except BaseException as error:
        print(f"Traceback: {error!r}", file=sys.stderr)
        code = 1
    with contextlib.suppress(OSError):
        said.with_suffix(".changes").write_text(str(count[0]), encoding="utf-8")
    sys.stderr.flush()
    os._exit(code)


def _redirect(said: Path, closed_stdout: bool) -> None:
    errors = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(errors, 2)
    if closed_stdout:
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, 1)
    else:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _count_changes(folder: Path, kill_at: int | None) -> list[int]:
    """Count what is opened, renamed and removed in a folder from now on; kills this process before number `kill_at`."""
    count, root = [0], str(folder)

    def hook(event: str, arguments: tuple) -> None:
        if event in _CHANGES and str(arguments[0]).startswith(root):
            count[0] += 1
            if count[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return count
