"""README and documentation: length, links that lead somewhere, and plain technical English."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
MODEL_CARD = ROOT / "SkullVAE" / "Resources" / "Models" / "skullvae.md"
PAGES = [README, MODEL_CARD, *sorted((ROOT / "Docs").rglob("*.md"))]

MOST_WORDS = 1500

SCREENSHOTS = [
    *sorted((ROOT / "Docs" / "images" / "tutorial").iterdir()),
    ROOT / "Docs" / "images" / "slicer_0.1.0.jpg",
]
MOST_BYTES = 150_000
"""Of a picture of the panel, since the repository keeps every version."""

LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
"""A Markdown link or picture; the group is its address."""

SYSTEM_PACKAGES = (
    "chromium",
    "libegl1",
    "libgl1",
    "libgl1-mesa-dri",
    "libxkbcommon0",
    "libdbus-1-3",
    "libfontconfig1",
    "libglib2.0-0",
    "git",
    "make",
    "python3-venv",
)
"""Debian packages without which `make test` is not complete."""

BANNED = re.compile(r"\bto[l]d\b|no hea[d]|\bcre[w]\b|passed ove[r]|\bdea[f]\b|lays? it o[n]", re.IGNORECASE)
"""Private vocabulary of earlier versions, which readers of the field do not know."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(text: str) -> str:
    """Markdown without its code blocks, in which brackets and # mean something else."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+\s+(.+?)\s*$", prose(path.read_text(encoding="utf-8")), re.MULTILINE)
    plain = [re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in plain}


def links(path: Path) -> list[str]:
    """The relative links of a page, and those within it."""
    found = LINK.findall(prose(path.read_text(encoding="utf-8")))
    return [link for link in found if not re.match(r"[a-z][a-z0-9+.-]*:", link)]


def broken(path: Path, link: str) -> str | None:
    """Why a relative link leads nowhere; None where it does not."""
    address, _, anchor = unquote(link).partition("#")
    target = path.parent / address if address else path
    if not target.exists():
        return f"{name(path)}: {link} does not exist"
    if anchor and target.suffix == ".md" and anchor not in anchors(target):
        return f"{name(path)}: {link} has no such heading"
    return None


def banned(text: str) -> list[str]:
    return [
        f"line {number}: {line.strip()[:120]}"
        for number, line in enumerate(text.splitlines(), 1)
        if BANNED.search(line)
    ]


def test_readme_has_at_most_1500_words():
    # Code, tables and their rules count as words, too.
    assert len(README.read_text(encoding="utf-8").split()) <= MOST_WORDS


@pytest.mark.parametrize("path", [README, MODEL_CARD], ids=name)
def test_links_lead_to_files_and_headings(path):
    # Pages below Docs are checked by `mkdocs build --strict`, which knows generated pages as well.
    assert [reason for link in links(path) if (reason := broken(path, link))] == []


def test_pictures_of_the_panel_are_small_and_used():
    tutorial = ROOT / "Docs" / "tutorials" / "slicer.md"
    used = {(page.parent / link).resolve() for page in (README, tutorial) for link in links(page)}
    assert 4 < len(SCREENSHOTS) <= 12
    for picture in SCREENSHOTS:
        assert picture.stat().st_size <= MOST_BYTES, name(picture)
        assert picture in used, f"{name(picture)} is not used"


def test_readme_opens_with_sentence_picture_notice_and_commands():
    opening = README.read_text(encoding="utf-8").split("\n## ")[0]
    order = ["# SkullVAE", "![", "not for clinical use", "make demo", "make test"]
    at = [opening.find(text) for text in order]
    assert -1 not in at
    assert at == sorted(at)
    # Honest at once: how much was measured, on what, and what the network contributes.
    for text in ("Five people on CT", "Synthetic defects", "gives no improvement"):
        assert text in " ".join(opening.split())


def test_readme_names_the_system_packages_that_the_tests_need():
    readme = README.read_text(encoding="utf-8")
    assert [
        package for package in SYSTEM_PACKAGES if not re.search(rf"(?<![\w-]){re.escape(package)}(?![\w-])", readme)
    ] == []


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_text_is_free_of_private_vocabulary(path):
    assert banned(path.read_text(encoding="utf-8")) == []


def test_the_checks_of_this_file_can_fail(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n[a](nowhere.md) [b](#a-page) [c](#missing) ![d](https://example.org/x.png)\n", "utf-8")
    assert links(page) == ["nowhere.md", "#a-page", "#missing"]
    assert anchors(page) == {"a-page"}
    assert not (page.parent / "nowhere.md").exists()
    first, third = "A point is tol" + "d.", "This is No Hea" + "d."
    assert banned(f"{first}\nA plain line.\n{third}") == [f"line 1: {first}", f"line 3: {third}"]
