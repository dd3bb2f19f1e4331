"""The documentation site: it builds without a warning, needs no network, and describes what the code does."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image
from system_libraries import browser

import SkullVAELib as sv
from SkullVAELib.cli.main import _parser
from SkullVAELib.report.result_names import OPTIONAL_FILES, RESULT_FILES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "Docs"


def environment(**more: str) -> dict[str, str]:
    """The process's environment, in which Python imports this checkout's library."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "NO_MKDOCS_2_WARNING": "1", **more}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site, without the gallery's pictures, which take minutes."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    process = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(SKULLVAE_DOCS_GALLERY="0"),
        capture_output=True,
        text=True,
        timeout=500,
        encoding="utf-8",
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return folder


class Page(HTMLParser):
    """A built page: addresses of what is loaded with it, addresses of links, and anchors.

    loaded: (tag, address) of scripts, styles, icons, pictures and frames; links: addresses of <a>; anchors: ids and
    names.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.loaded: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        # A link element may also name the page's own address, or its neighbours; nothing is loaded for these.
        loads = given.get("rel", "") not in ("canonical", "next", "prev", "alternate")
        for name in ("src", "srcset", "data", "poster") if tag != "link" else ("href",):
            if tag != "a" and name in given and loads:
                self.loaded.append((tag, given[name]))


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def text_of(site: Path, page: str) -> str:
    """A page's text, without its tags and with plain spaces."""
    html = (site / page).read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", "", html[html.index("<article") : html.index("</article>")])
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#x27;", "'"), ("&amp;", "&")):
        text = text.replace(entity, character)
    return " ".join(text.split())


def is_remote(address: str) -> bool:
    return address.startswith("//") or urlsplit(address).scheme not in ("", "data")


def test_no_page_loads_anything_from_a_network(site, pages):
    remote = [
        f"{page.path.name}: <{tag}> {url}" for page in pages.values() for tag, url in page.loaded if is_remote(url)
    ]
    assert remote == []
    # Material fetches a script for each of these when a page has it.
    assert not [page.path.name for page in pages.values() if 'class="mermaid"' in page.path.read_text("utf-8")]
    for style in site.rglob("*.css"):
        assert not re.search(r"""@import|url\(["']?(https?:)?//""", style.read_text(encoding="utf-8")), style.name


def test_every_link_within_the_site_leads_to_a_page_and_an_anchor(site, pages):
    broken = []
    for page in pages.values():
        if page.path.name == "404.html":  # its addresses are those of a server's root
            continue
        for address in [*page.links, *(url for _, url in page.loaded)]:
            if is_remote(address) or address.startswith("data:"):
                continue
            parts = urlsplit(address)
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            missing = not target.is_file()
            anchor = unquote(parts.fragment)
            if not missing and anchor and target in pages:
                missing = anchor not in pages[target].anchors
            if missing:
                broken.append(f"{page.path.relative_to(site)}: {address}")
    assert broken == []


@pytest.mark.parametrize("name", ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_relative_links_of_the_top_level_pages_lead_to_files(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    relative = [link for link in links if not is_remote(link)]
    assert relative
    assert [link for link in relative if not (ROOT / unquote(link)).exists()] == []


@pytest.mark.skipif(browser() is None, reason="no Chromium on this machine")
@pytest.mark.parametrize(
    ("page", "shows"),
    [
        ("index.html", r'<img[^>]*src="images/demo\.png"'),
        ("reference/api.html", r'id="SkullVAELib\.complete"'),
        # The search runs, from files, in the frame that stands in for a worker.
        ("reference/glossary.html?q=clearance", r'class="md-search-result__link"[\s\S]*printing'),
    ],
    ids=["home", "api", "search"],
)
def test_a_browser_shows_the_page_without_an_error_and_without_a_network(site, tmp_path, page, shows):
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        # Whatever asks for another computer fails, and is then an error in the log.
        "--proxy-server=http://127.0.0.1:9",
        "--virtual-time-budget=8000",
        f"--user-data-dir={tmp_path}",
        "--enable-logging=stderr",
        "--dump-dom",
    ]
    name, _, query = page.partition("?")
    address = (site / name).as_uri() + (f"?{query}" if query else "")
    process = subprocess.run(
        [browser(), *options, address], capture_output=True, text=True, timeout=400, encoding="utf-8"
    )
    assert "CONSOLE" not in process.stderr, process.stderr[-2000:]
    # Set by the site's script once it runs.
    assert re.search(r'<html[^>]*class="[^"]*\bjs\b', process.stdout)
    assert re.search(shows, process.stdout)


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and the parsers of its commands, and of theirs."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from commands(command)


def test_the_reference_has_every_option_of_every_command(site):
    text = text_of(site, "reference/command-line.html")
    for command in list(commands(_parser()))[1:]:
        assert command.prog in text
        for action in command._actions:
            for name in action.option_strings:
                assert name in text or name in ("-h", "--help"), f"{command.prog} {name}"
    assert "--decoders" in text  # of train.py


def test_the_reference_has_every_public_name(pages, site):
    anchors = pages[site / "reference" / "api.html"].anchors
    names = {name for name in sv.__all__ if name not in ("NOTICE", "__version__")}
    assert {name for name in names if f"SkullVAELib.{name}" not in anchors} == set()


def documented(page: str) -> set[str]:
    """Whatever a page of the folder Docs has in code style."""
    return set(re.findall(r"`([^`\n]+)`", (DOCS / page).read_text(encoding="utf-8")))


def fields(value: object) -> set[str]:
    """The names of all fields of a JSON value, at any depth."""
    if isinstance(value, list | tuple):
        return set().union(*map(fields, value))
    if not isinstance(value, dict):
        return set()
    return set(value) | set().union(*map(fields, value.values()))


def test_the_reference_has_every_field_of_a_report(sample, completion):
    options = sv.ImplantOptions(clearance_mm=0.5, thickness="constant", thickness_mm=4.0)
    report = sv.RunResult.of(completion, options, ("stl",), "image", "m").with_implant().report
    listed = {name: value for name, value in report.items() if name not in ("parameters", "seconds")}
    assert fields(listed) | {"parameters", "seconds"} <= documented("reference/report.md")


def test_the_reference_has_every_file_of_a_result():
    names = documented("reference/files.md")
    numbered = {re.sub(r"(\[[-0-9]+\])+", "2", name) for name in OPTIONAL_FILES}
    expected = {*RESULT_FILES, *(name for name in numbered if name.endswith((".stl", ".html", ".ply")))}
    # Pieces and proposals are listed as STL; a sentence adds the other formats.
    expected -= {name for name in expected if re.search(r"_[0-9]+\.ply", name)}
    assert expected <= names


def test_packages_and_modules_that_the_pages_name_exist():
    library = ROOT / "SkullVAELib"
    packages = {path.parent.name for path in library.glob("*/__init__.py")}
    page = (DOCS / "reference" / "packages.md").read_text(encoding="utf-8")
    assert {name for name in packages if f"`{name}`" not in page} == set()
    named = {name for page in ("reference/packages.md", "development.md") for name in documented(page)}
    modules = {name for name in named if re.fullmatch(r"[a-z]+\.(?!json$|stl$)[a-z_]+", name)}
    modules = {name for name in modules if name.split(".")[0] in packages}
    assert len(modules) > 50
    assert {name for name in modules if not (library / f"{name.replace('.', '/')}.py").is_file()} == set()


def test_a_script_of_the_gallery_draws_its_picture(tmp_path):
    command = [sys.executable, str(DOCS / "gallery" / "draw.py"), str(tmp_path), "01_completion.py"]
    process = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=500, encoding="utf-8")
    assert process.returncode == 0, process.stderr
    (picture,) = tmp_path.glob("*.png")
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert min(pixels.shape[:2]) > 200
    assert pixels.reshape(-1, 3).std(axis=0).min() > 20
