"""Loads libraries and model, then waits for the arguments of one command and runs it: `python -m` this module.

The panel starts it when an input is chosen, so that a click on "Complete skull" does not wait for the libraries. It
uses no fork, so it works on every system. With the arguments of `complete` it gives the same bits as the command line.

On stdout it prints the line {"ready": true} when everything is loaded. On stdin it expects one line, a JSON object
{"arguments": ["complete", ...]}. It then prints {"started": true} and is the command line with these arguments; the
rest of stdin belongs to the command. It ends without a command when stdin is closed or after the time of --idle.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import warnings
from pathlib import Path

from SkullVAELib.core.console import reserved_stdout
from SkullVAELib.core.memory import return_freed_memory
from SkullVAELib.core.parent_process import read_line

IDLE_SECONDS = 600.0
"""Time without a command after which the process ends, so that it does not occupy memory for nothing."""


def main() -> int:
    """Load, wait for a command and run it; returns its exit code, 0 without one."""
    from SkullVAELib.cli.main import main as run
    from SkullVAELib.cli.main import prepare_process

    prepare_process()
    options = _parser().parse_args()
    with reserved_stdout() as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a run
        from SkullVAELib.cli.complete import preload
        from SkullVAELib.vae.default_model import default_model_path

        preload(options.model or default_model_path(), options.device)
        return_freed_memory()
        print(json.dumps({"ready": True}), file=stream, flush=True)
        idle = threading.Timer(options.idle, os._exit, (0,))
        idle.daemon = True
        idle.start()
        line = read_line(0)
        idle.cancel()
        if not line:
            return 0
        arguments = json.loads(line)["arguments"]
        print(json.dumps({"started": True}), file=stream, flush=True)
    return run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, help="model file to load (default: the included one)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="device of the model")
    parser.add_argument("--idle", type=float, default=IDLE_SECONDS, help="seconds to wait for a command")
    return parser


if __name__ == "__main__":
    sys.exit(main())
