"""Runs the tests of the Slicer module inside Slicer itself, with pytest in Slicer's own Python.

    Slicer --testing --no-main-window --python-script Testing/run_in_slicer.py
    Slicer --testing --no-main-window --python-script Testing/run_in_slicer.py -- -k gamma --junitxml=slicer.xml

Everything after "--" is passed to pytest. Without the name of a test file, all test files of the module are run. The
application ends with the exit code of pytest: 0 if all tests have passed, 1 if some have failed, 2 to 5 if they could
not be run; 6 if Slicer's Python lacks a package that they need. The module is that of the application if it was
installed or built there, or else that of this checkout.
"""

import os
import sys

# CTest reports this exit code as a skipped test, see CMakeLists.txt.
PACKAGE_IS_MISSING = 6

# Test files that use the scene, the panel or the logic of the module, without those of the stand-in itself.
PATTERN = "test_slicer_*.py"

# What the module installs.
LIBRARY = ("torch", "monai", "nibabel", "safetensors")


def arguments_after_dashes(argv):
    """The arguments of this script: those after "--" where Slicer runs it, else all."""
    return argv[argv.index("--") + 1 :] if "--" in argv else argv[1:]


def pytest_arguments(folder, arguments):
    """The arguments of pytest: those given, the test files unless some are named, and the options that Slicer needs."""
    import glob

    named = [each for each in arguments if not each.startswith("-") and ".py" in each]
    names = [] if named else sorted(glob.glob(os.path.join(folder, PATTERN)))
    options = ["--rootdir", os.path.dirname(folder), "-p", "no:cacheprovider", "-p", "no:faulthandler"]
    # Files and standard streams of the application are those of its console, which pytest must not replace.
    if not any(each == "-s" or each.startswith("--capture") for each in arguments):
        options.append("--capture=sys")
    return [*options, *arguments, *names]


def missing_packages():
    """The packages that the tests need and that this Python lacks."""
    import importlib.util

    return [name for name in ("pytest", *LIBRARY) if importlib.util.find_spec(name) is None]


def run(folder, arguments):
    """Run the tests of a folder in this process, which is the application; returns the exit code of pytest."""
    for path in (os.path.dirname(folder), folder):
        if path not in sys.path:
            sys.path.insert(0, path)
    missing = missing_packages()
    if missing:
        remedies = []
        if "pytest" in missing:
            remedies.append("Run slicer.util.pip_install('pytest') in Slicer's Python console")
        if missing != ["pytest"]:
            remedies.append("Click 'Complete skull' in the module, which installs the packages that it needs")
        text = "Slicer's Python lacks {}. {}. Then run the tests again."
        print(text.format(", ".join(missing), ". ".join(remedies)), file=sys.stderr, flush=True)
        return PACKAGE_IS_MISSING
    import pytest
    import slicer_standin

    slicer_standin.useApplication()
    try:
        return int(pytest.main(pytest_arguments(folder, arguments)))
    finally:
        slicer_standin.restore()


def main():
    """Run the tests and end the application with their exit code."""
    # Slicer runs this file by exec: __file__ may then be another file.
    folder = os.path.dirname(os.path.abspath(globals().get("__file__", sys.argv[0])))
    code = 3
    try:
        code = run(folder, arguments_after_dashes(sys.argv))
    except Exception:
        import traceback

        traceback.print_exc()
    finally:
        import slicer.util

        print(f"{os.path.basename(folder)}: exit code {code}", file=sys.stderr, flush=True)
        slicer.util.exit(code)


if __name__ == "__main__":
    main()
