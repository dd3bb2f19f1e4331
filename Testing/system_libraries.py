"""System libraries and programs that the tests need on Linux, beside the Python packages that `make venv` installs.

    python3 Testing/system_libraries.py               one line each; exit code 2 when one is missing
    python3 Testing/system_libraries.py --packages    Debian packages of those that are missing, in one line

The standard library is enough, and a Python older than the project's: `make test` calls this before it installs
anything. The wheels for macOS and Windows contain what they need, so nothing is checked there.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import sys
from typing import NamedTuple

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Requirement(NamedTuple):
    """A shared library by its file name or a program, the Debian package that contains it, and what needs it."""

    name: str
    package: str
    purpose: str


CHROMIUM = Requirement("chromium", "chromium", "opens HTML reports and pages")
DCIODVFY = Requirement("dciodvfy", "dicom3tools", "checks DICOM files of results")

REQUIREMENTS = (
    Requirement("libEGL.so.1", "libegl1", "Qt widgets and VTK rendering"),
    Requirement("libGL.so.1", "libgl1", "Qt widgets and VTK rendering"),
    Requirement("libxkbcommon.so.0", "libxkbcommon0", "Qt widgets"),
    Requirement("libdbus-1.so.3", "libdbus-1-3", "Qt widgets"),
    Requirement("libfontconfig.so.1", "libfontconfig1", "Qt widgets"),
    Requirement("libglib-2.0.so.0", "libglib2.0-0", "Qt"),
    CHROMIUM,
    DCIODVFY,
)


def browser() -> str | None:
    """Path of the Chromium browser that the tests open pages with, None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def is_present(requirement: Requirement) -> bool:
    """Whether the dynamic loader finds the library, or the search path the program."""
    if requirement is CHROMIUM:
        return browser() is not None
    if requirement is DCIODVFY:
        return shutil.which(requirement.name) is not None
    try:
        ctypes.CDLL(requirement.name)
    except OSError:
        return False
    return True


def missing() -> list[Requirement]:
    """The requirements that this machine lacks; none on macOS and Windows."""
    if not sys.platform.startswith("linux"):
        return []
    return [requirement for requirement in REQUIREMENTS if not is_present(requirement)]


def how_to_install(requirements: list[Requirement]) -> str:
    """The command that installs these requirements on Debian and its derivatives."""
    return "apt-get install --no-install-recommends " + " ".join(requirement.package for requirement in requirements)


def remedy(message: str) -> str:
    """How to install the libraries that an error message names; empty where it names none of REQUIREMENTS."""
    named = [requirement for requirement in REQUIREMENTS if f"{requirement.name}: " in message]
    if not named:
        return ""
    # The loader names only the first library that it lacks.
    lacking = named + [requirement for requirement in missing() if requirement not in named]
    libraries = ", ".join(requirement.name for requirement in lacking)
    return f"Missing system libraries: {libraries}. On Debian and Ubuntu: {how_to_install(lacking)}"


def main(argv: list[str]) -> int:
    """Report the requirements; 0 when all are present or need no check, 2 when one is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", action="store_true", help="print the packages to install, and nothing else")
    arguments = parser.parse_args(argv)
    lacking = missing()
    if arguments.packages:
        print(" ".join(requirement.package for requirement in lacking))
        return 0
    if not sys.platform.startswith("linux"):
        print(f"System libraries: not checked on {sys.platform}, where Python packages contain what the tests need.")
        return 0
    for requirement in REQUIREMENTS:
        state = "MISSING" if requirement in lacking else "found"
        print(f"{state:8}{requirement.name:20}Debian package {requirement.package:16}{requirement.purpose}")
    if not lacking:
        return 0
    print(f"\nThe tests need what is missing. On Debian and Ubuntu: {how_to_install(lacking)}", file=sys.stderr)
    print("On other distributions: the packages that contain these files.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
