"""Forks the processes of a batch's cases from a process that has loaded the libraries: `python -m` this module.

Loading torch, VTK and the model takes two seconds of a processor, a large part of what a case takes. A fork shares what
is loaded and is otherwise a process of its own: a crash, a memory limit or a kill costs its own case alone. For Linux
only; on other systems libraries may not survive a fork. Nothing here may start a thread, and no library may use one
before the fork: the fork has only one.

Each line of stdin is a JSON object: {"name": "head", "arguments": ["complete", ...]}. Answers are lines on stdout:
{"ready": true} at the start; {"pid": N} when a case has started; and {"code": 0, "peak_mib": 900, "output": "..."} when
it has ended, where a negative code is the number of the signal that ended it. It ends when stdin is closed.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
import traceback
from contextlib import suppress
from typing import IO, NoReturn

from SkullVAELib.core.parent_process import ENDS_WITH_PARENT, read_line

_SET_NAME = 15  # PR_SET_NAME in Linux's prctl.h
_MOST_OUTPUT = 20_000


def main() -> int:
    """Serve until stdin is closed; returns 0."""
    from SkullVAELib.cli.main import prepare_process

    prepare_process()
    replies = os.dup(1)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # what a library prints is no reply
    _load()
    _reply(replies, {"ready": True})
    while line := read_line(0):  # a case watches the same pipe
        request = json.loads(line)
        with tempfile.TemporaryFile() as output:
            pid = os.fork()
            if pid == 0:
                os.close(replies)
                _run(request["name"], request["arguments"], output)
            _reply(replies, {"pid": pid})
            _, status, usage = os.wait4(pid, 0)
            size = output.seek(0, os.SEEK_END)
            output.seek(max(0, size - _MOST_OUTPUT))
            said = output.read().decode("utf-8", errors="replace")
        code, peak_mib = os.waitstatus_to_exitcode(status), round(usage.ru_maxrss / 2**10)
        _reply(replies, {"code": code, "peak_mib": peak_mib, "output": said})
    return 0


def _load() -> None:
    """Load the libraries and the included model, and compute what depends on the model alone, in this thread."""
    from SkullVAELib.cli.complete import load_libraries, preload

    load_libraries()
    import nibabel.nifti1  # noqa: F401, read with NIfTI files
    import SimpleITK as sitk
    import torch

    from SkullVAELib.vae.default_model import default_model_path

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultThreader("Platform")  # keeps no threads, unlike the default
    # On the processor: a fork cannot use a graphics card that its parent has opened. Each case loads another model, or
    # one for another device, itself, and it is the case that reports an unusable model.
    with suppress(Exception):
        preload(default_model_path(), "cpu")
    torch.set_num_threads(threads)


def _reply(descriptor: int, content: dict) -> None:
    os.write(descriptor, (json.dumps(content) + "\n").encode())


def _run(name: str, arguments: list[str], output: IO[bytes]) -> NoReturn:
    """Be the process of a case."""
    code = 1
    try:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        # What ps and top show.
        ctypes.CDLL(None).prctl(_SET_NAME, ctypes.create_string_buffer(name.encode()[:15]), 0, 0, 0)
        os.environ[ENDS_WITH_PARENT] = "1"
        from SkullVAELib.cli.main import main as run

        code = run(arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)  # not the exit of the process that was forked


if __name__ == "__main__":
    sys.exit(main())
