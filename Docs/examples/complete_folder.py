"""Complete every skull of a folder in Slicer, without a window.

    Slicer --no-main-window --python-script Docs/examples/complete_folder.py -- INPUT_FOLDER OUTPUT_FOLDER

Every CT or skull labelmap in INPUT_FOLDER gets a folder of its own in OUTPUT_FOLDER. The module must be installed, with
the Python packages it needs. A file that cannot be completed is named with the reason, and the others go on. Research
software, not a medical device, not for clinical use.
"""

import sys
from pathlib import Path

import slicer

from SkullVAE import SkullVAELogic
from SkullVAELib.core.errors import SkullVAEError

SUFFIXES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")


def complete(logic, path, output):
    """Complete one file and export everything; the line to print."""
    node = slicer.util.loadVolume(str(path))
    try:
        if logic.completeSkull(node) is None:
            return "no defect found"
        result = logic.exportResult(output)
        return f"implant of {logic.report['implant']['volume_ml']:.1f} ml in '{result.folder}'"
    finally:
        logic.closeSession()
        slicer.mrmlScene.Clear()


def main(arguments):
    """The number of files that failed, at most 1: what a shell takes for success or failure."""
    if len(arguments) != 2:
        print("Give two folders: -- INPUT_FOLDER OUTPUT_FOLDER", file=sys.stderr)
        return 2
    source, output = map(Path, arguments)
    output.mkdir(parents=True, exist_ok=True)
    paths = sorted(path for path in source.iterdir() if path.name.lower().endswith(SUFFIXES))
    logic = SkullVAELogic()
    failures = 0
    for path in paths:
        try:
            line = complete(logic, path, output)
        except (SkullVAEError, RuntimeError) as error:
            line = str(error)
            failures += 1
        print(f"{path.name}: {line}", flush=True)
    return min(failures, 1)


if __name__ == "__main__":
    # Slicer would stay open without it.
    sys.exit(main(sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:]))
