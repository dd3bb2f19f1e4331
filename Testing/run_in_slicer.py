"""Runs the tests of the Slicer module inside Slicer itself, with pytest in Slicer's own Python.

    Slicer --testing --no-main-window --python-script Testing/run_in_slicer.py
    Slicer --testing --no-main-window --python-script Testing/run_in_slicer.py -- -k gamma --junitxml=slicer.xml

Everything after "--" is passed to pytest. Without the name of a test file, all test files of the module are run. The
application ends with the exit code of pytest: 0 if all tests have passed, 1 if some have failed, 2 to 5 if they could
not be run; 6 if pytest is not installed. The module is that of the application if it was installed or built there, or
else that of this checkout.
"""

import os
import sys

PYTEST_IS_MISSING = 6

# Test files that use the scene, the panel or the logic of the module, without those of the stand-in itself.
PATTERN = "test_slicer_*.py"


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


def run(folder, arguments):
    """Run the tests of a folder in this process, which is the application; returns the exit code of pytest."""
    for path in (os.path.dirname(folder), folder):
        if path not in sys.path:
            sys.path.insert(0, path)
    try:
        import pytest
    except ImportError:
        print(
            "pytest is not installed in Slicer's Python. Run in Slicer's Python console:"
            " slicer.util.pip_install('pytest'), then restart Slicer.",
            file=sys.stderr,
            flush=True,
        )
        return PYTEST_IS_MISSING
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
