"""What MkDocs calls while it builds the site: content that is generated, and links that leave the folder Docs.

Generated are the commands, the pages of the gallery, and the pages of files that lie elsewhere in the repository, so
that none of them can differ from the code, the model or the pictures. SKULLVAE_DOCS_GALLERY=0 leaves out the gallery's
pictures, which are made by completing skulls, and shows its code alone.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

import command_line
import gallery
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent.parent

# Files outside of the folder Docs that are pages of the site. Other files are named without a link.
PAGES = {
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "explanation/security.md",
    "SkullVAE/Resources/Models/skullvae.md": "reference/model_card.md",
}
SOURCES = {page: source for source, page in PAGES.items()}

# What replaces a comment <!-- generated: NAME --> in a page.
GENERATED = {"commands": command_line.commands, "gallery": gallery.overview}

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<path>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
_MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the gallery's pages into the navigation, in the order of their scripts."""
    for section in config.nav or []:
        for title, pages in section.items():
            if title == "Gallery":
                pages.extend({script.title: script.page} for script in gallery.scripts())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in the folder Docs, and the gallery's pictures."""
    with_pictures = os.environ.get("SKULLVAE_DOCS_GALLERY", "1") != "0"
    folder = gallery.make_pictures() if with_pictures else None
    for script in gallery.scripts():
        pictures = [] if folder is None else script.pictures(folder)
        files.append(File.generated(config, script.page, content=script.as_page(pictures)))
        for picture in pictures:
            files.append(File.generated(config, f"gallery/images/{picture.name}", abs_src_path=str(picture)))
    for page, source in SOURCES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    icon = ROOT / "SkullVAE" / "Resources" / "Icons" / "SkullVAE.png"
    files.append(File.generated(config, "assets/icon.png", abs_src_path=str(icon)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Put in what is generated, and lead links out of the folder Docs to pages of the site."""
    markdown = _MARK.sub(lambda mark: GENERATED[mark[1]](), markdown)
    uri = page.file.src_uri
    # A page from elsewhere is written for the folder that its source lies in.
    folder = posixpath.dirname(SOURCES.get(uri, f"Docs/{uri}"))
    return _LINK.sub(lambda link: _led_to_pages(link, uri, folder), markdown)


def _led_to_pages(link: re.Match, uri: str, folder: str) -> str:
    """A link as the page `uri` of the site needs it; folder: what its path is relative to, in the repository."""
    path, anchor = link["path"], link["anchor"] or ""
    if not path or ":" in path:
        return link[0]
    target = posixpath.normpath(posixpath.join(folder, path))
    if target.startswith("Docs/"):
        page = target.removeprefix("Docs/")
    elif target in PAGES:
        page = PAGES[target]
    else:
        # A file of the repository that is no page keeps its name; a link to nothing is left for MkDocs to report.
        return link["text"] if (ROOT / target).exists() else link[0]
    return f"[{link['text']}]({posixpath.relpath(page, posixpath.dirname(uri) or '.')}{anchor})"
