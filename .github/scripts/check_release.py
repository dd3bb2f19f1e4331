"""Check that a tag may be released: the library, CHANGELOG.md and CITATION.cff must state the tag's version.

    python3 .github/scripts/check_release.py v0.2.0
    python3 .github/scripts/check_release.py v0.2.0 --notes FILE    also write this version's changes to FILE

Exit code 1, with one line on stderr for each problem, when the tag must not be released. Needs no package.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def changes(changelog: str) -> dict[str, tuple[str, str]]:
    """Version -> date and text of its section in a changelog in the format of Keep a Changelog."""
    parts = re.split(r"^## \[([^\]]+)\](?: - (\S+))?[^\n]*\n", changelog, flags=re.MULTILINE)[1:]
    without_links = (re.split(r"^\[[^\]]+\]: ", text, maxsplit=1, flags=re.MULTILINE)[0] for text in parts[2::3])
    return dict(zip(parts[::3], zip((date or "" for date in parts[1::3]), without_links, strict=True), strict=True))


def problems(tag: str, root: Path) -> list[str]:
    """Why the tree at `root` must not be released as `tag`; empty where it may."""
    version = tag.removeprefix("v")
    if not re.fullmatch(r"v\d+\.\d+\.\d+", tag):
        return [f"'{tag}' is not a tag such as v1.2.3."]
    found = []
    library = re.search(r'^__version__ = "([^"]+)"$', _text(root, "SkullVAELib/core/version.py"), re.MULTILINE)
    stated = library.group(1) if library else "none"
    if stated != version:
        found.append(f"SkullVAELib/core/version.py states version {stated}, the tag {version}.")
    citation = dict(re.findall(r"^(version|date-released): (\S+)$", _text(root, "CITATION.cff"), re.MULTILINE))
    if citation.get("version") != version:
        found.append(f"CITATION.cff states version {citation.get('version', 'none')}, the tag {version}.")
    date, text = changes(_text(root, "CHANGELOG.md")).get(version, ("", ""))
    try:
        datetime.date.fromisoformat(date)
    except ValueError:
        return [*found, f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD'."]
    if not text.strip():
        found.append(f"CHANGELOG.md lists no change of version {version}.")
    if citation.get("date-released") != date:
        found.append(f"CITATION.cff states the date {citation.get('date-released', 'none')}, CHANGELOG.md {date}.")
    return found


def _text(root: Path, name: str) -> str:
    return (root / name).read_text(encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tag", help="the tag, such as v0.2.0")
    parser.add_argument("--notes", metavar="FILE", type=Path, help="write the changes of this version to FILE")
    options = parser.parse_args(argv)
    found = problems(options.tag, ROOT)
    for problem in found:
        print(problem, file=sys.stderr)
    if found:
        return 1
    if options.notes:
        text = changes(_text(ROOT, "CHANGELOG.md"))[options.tag.removeprefix("v")][1]
        options.notes.write_text(text.strip() + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
