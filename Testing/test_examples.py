"""Every Python example of README and documentation runs, and so do the examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import SkullVAELib
from SkullVAELib.io.images import write_volume

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "Docs").rglob("*.md"))]
MODULES = sorted(module.name for module in pkgutil.walk_packages(SkullVAELib.__path__, "SkullVAELib."))


def examples(page: Path) -> list[str]:
    """The blocks of a page that are fenced as ```python; those for display only are fenced as ```py."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


WITH_EXAMPLES = [page for page in PAGES if examples(page)]
# A page with the same examples as an earlier one, as the reference has those of the README, need not run them again.
DIFFERENT = list({tuple(examples(page)): page for page in reversed(WITH_EXAMPLES)}.values())[::-1]


def test_the_readme_has_an_example():
    assert PAGES[0] in WITH_EXAMPLES


@pytest.mark.parametrize("page", DIFFERENT, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_examples_of_a_page_run(page, sample, tmp_path, monkeypatch):
    write_volume(sample.bone, tmp_path / "head.nrrd")
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "example"}
    for number, code in enumerate(examples(page), 1):
        exec(compile(code, f"{page.name}, example {number}", "exec"), names)
    if page.name == "README.md":
        assert (tmp_path / "out" / "implant.stl").is_file()


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name):
    if name == "SkullVAELib.__main__":  # importing it runs the command line's module only
        return
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0
