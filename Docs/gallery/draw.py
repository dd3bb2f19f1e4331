"""Draw the gallery's pictures: `python Docs/gallery/draw.py FOLDER [SCRIPT ...]`.

Each script runs in a temporary folder of its own; the figures that it leaves open become FOLDER/SCRIPT_1.png and so
on. `make docs` calls this if a script, the library or the model has changed.
"""

from __future__ import annotations

import os
import runpy
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def draw(script: Path, folder: Path) -> list[Path]:
    """Run a script and save its figures; the files."""
    from matplotlib import pyplot

    before = Path.cwd()
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        try:
            runpy.run_path(str(script))
        finally:
            os.chdir(before)
    saved = []
    for number in pyplot.get_fignums():
        path = folder / f"{script.stem}_{number}.png"
        pyplot.figure(number).savefig(path)
        saved.append(path)
    pyplot.close("all")
    return saved


def main(arguments: list[str]) -> int:
    """Draw all scripts, or those that are named; the exit code."""
    os.environ["MPLBACKEND"] = "Agg"
    folder = Path(arguments[0]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    scripts = [HERE / name for name in arguments[1:]] or sorted(HERE.glob("[0-9]*.py"))
    for script in scripts:
        for old in folder.glob(f"{script.stem}_*.png"):
            old.unlink()
        start = time.monotonic()
        saved = draw(script, folder)
        print(f"{script.name}: {len(saved)} pictures in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    if len(sys.argv) < 2:
        sys.exit("Name the folder for the pictures: python Docs/gallery/draw.py FOLDER [SCRIPT ...]")
    sys.exit(main(sys.argv[1:]))
