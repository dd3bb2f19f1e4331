"""The gallery's pages: the pictures that each script of Docs/gallery draws, with the script below them."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "Docs" / "gallery"
PICTURES = ROOT / "build" / "gallery"


@dataclass(frozen=True)
class Script:
    """A script of the gallery. Its docstring is a title, an empty line and a text in Markdown."""

    path: Path

    @cached_property
    def _docstring(self) -> str:
        return ast.get_docstring(ast.parse(self.path.read_text(encoding="utf-8"))) or ""

    @property
    def title(self) -> str:
        """The docstring's first line, without its full stop."""
        return self._docstring.splitlines()[0].rstrip(".")

    @property
    def page(self) -> str:
        """The page's address in the site, as a source."""
        return f"gallery/{self.path.stem.lstrip('0123456789_')}.md"

    def pictures(self, folder: Path) -> list[Path]:
        """What the script has drawn, in order."""
        return sorted(folder.glob(f"{self.path.stem}_*.png"))

    def as_page(self, pictures: Sequence[Path]) -> str:
        """The page: title, text, pictures, and the code that drew them."""
        text = self._docstring.partition("\n")[2].strip()
        shown = [f"![{self.title}](images/{picture.name})" for picture in pictures]
        if not shown:
            shown = ["The pictures of this page are drawn when the site is built with `make docs`."]
        code = self.path.read_text(encoding="utf-8").split('"""', 2)[2].strip()
        note = (
            f"`Docs/gallery/{self.path.name}`; the helpers that it imports are on the [gallery's first page](index.md)."
        )
        return "\n\n".join([f"# {self.title}", text, *shown, "## Code", note, f"```py\n{code}\n```\n"])


def scripts() -> list[Script]:
    """The gallery's scripts, in the order of their numbers."""
    return [Script(path) for path in sorted(FOLDER.glob("[0-9]*.py"))]


def overview() -> str:
    """A list of the pages in Markdown, for the gallery's first page."""
    return "\n".join(f"- [{script.title}]({Path(script.page).name})" for script in scripts())


def make_pictures() -> Path:
    """Run the scripts, unless they, the library and the model are as they were; the folder with the pictures."""
    stamp, now = PICTURES / "made_from.txt", _made_from()
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == now):
        stamp.unlink(missing_ok=True)
        command = [sys.executable, str(FOLDER / "draw.py"), str(PICTURES)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        subprocess.run(command, check=True, env=environment)
        stamp.write_text(now, encoding="utf-8")
    return PICTURES


def _made_from() -> str:
    """A hash of everything that the pictures depend on within the repository."""
    digest = hashlib.sha256()
    models = (ROOT / "SkullVAE" / "Resources" / "Models").glob("*.safetensors")
    for path in sorted([*FOLDER.glob("*.py"), *(ROOT / "SkullVAELib").rglob("*.py"), *models]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
