"""Compare the files of two recordings, see compare_versions.py: by kind of file, to the byte where that is possible.

What is compared, and what a difference is excused for:

- Images (.nrrd and every other suffix not named here): the whole file.
- STL: triangle count and triangles to the byte. Excused: the text of the 80-byte header, except its SPACE= and UNIT=,
  which other programs read.
- PLY: element and property lines, and everything after end_header to the byte. Excused: comment lines, except their
  SPACE= and UNIT=.
- OBJ: every line to the byte. Excused: lines that begin with "#" (except their SPACE= and UNIT=), and the name in the
  line "o NAME".
- PNG: every chunk to the byte. Excused: the text and time chunks (tEXt, zTXt, iTXt, tIME), and pixels in rectangles
  that the rules name.
- safetensors: names, types, shapes, places and bytes of the tensors. The metadata are compared as JSON.
- JSON, CSV, lines of JSON: names and values under the rules. Keys may come in another order. Texts for people are
  compared by their number alone, since they are rewritten.
- HTML: every embedded picture as a PNG; the numbers in table cells and figure cards; the number of list entries.
- .txt (tables on standard output): the numbers, in order.
- TensorBoard event files: tag, step and value, without times; all files of a folder together.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

RECORD = "recording.json"

EVENTS = "events.tfevents"
"""The name that stands for all TensorBoard event files of one folder; their own names hold the time and the host."""

Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are outside."""


@dataclass(frozen=True)
class Rules:
    """What may differ between two versions. Every table is applied to both recordings.

    A field is named by its key, or by its parents' keys and its own with dots between ("model.sha256"), the parents in
    their new spelling. A file is named by its name, or by the name of a folder above it.

    renamed_files, renamed_fields: old name -> new name. renamed_values: field -> old text -> new text. renamed_options:
    old -> new spelling of command-line options, where a text is one ("--box=1,2,3").
    excused_fields: field -> why its value is not compared; it must be present in both. texts: fields that hold texts
    for people: a list is compared by its length, a text by whether it is there. new_fields, new_files: what only the
    newer recording has. excused_pixels: end of a picture's path -> rectangles that hold text. excused_cells: regular
    expressions of HTML table cells whose numbers are not compared.
    """

    renamed_files: Mapping[str, str] = field(default_factory=dict)
    renamed_fields: Mapping[str, str] = field(default_factory=dict)
    renamed_values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    renamed_options: Mapping[str, str] = field(default_factory=dict)
    excused_fields: Mapping[str, str] = field(default_factory=dict)
    texts: frozenset[str] = frozenset()
    new_fields: frozenset[str] = frozenset()
    new_files: frozenset[str] = frozenset()
    excused_pixels: Mapping[str, tuple[Rectangle, ...]] = field(default_factory=dict)
    excused_cells: tuple[str, ...] = ()

    def file_name(self, name: str) -> str:
        """The new name of a path with slashes.

        >>> Rules({"host.stl": "skull.stl", "answers": "responses"}).file_name("demo/answers/4/host.stl")
        'demo/responses/4/skull.stl'
        """
        return "/".join(self.renamed_files.get(part, part) for part in name.split("/"))

    def word(self, value: object, keys: tuple[str, ...]) -> object:
        """The new spelling of a value of a field that may be a renamed word or option."""
        if not isinstance(value, str):
            return value
        if value.startswith("--"):
            option, equals, rest = value.partition("=")
            return self.renamed_options.get(option, option) + equals + rest
        return self.renamed_values.get(match(keys, self.renamed_values) or "", {}).get(value, value)


def match(path: tuple[str, ...], names: Iterable[str]) -> str | None:
    """The entry of `names` that a field's keys end in, None where there is none.

    >>> match(("cases", "model", "sha256"), ("seconds", "model.sha256"))
    'model.sha256'
    """
    for name in names:
        parts = tuple(name.split("."))
        if path[-len(parts) :] == parts:
            return name
    return None


@dataclass
class Comparison:
    """What was found: a line for each difference, how many files were compared, and how often what was excused."""

    rules: Rules
    differences: list[str] = field(default_factory=list)
    files: int = 0
    excused: Counter[str] = field(default_factory=Counter)

    def differs(self, name: str, what: str) -> None:
        self.differences.append(f"{name}: {what}")


def compare_recordings(before: Path, after: Path, rules: Rules, cases: Iterable[str] = ()) -> Comparison:
    """Compare two recordings.

    Parameters
    ----------
    before, after
        Folders that `compare_versions.py record` wrote.
    rules
        What may differ.
    cases
        Names of cases; those that either recording has, where none are named.
    """
    found = Comparison(rules)
    records = [json.loads((folder / RECORD).read_text(encoding="utf-8")) for folder in (before, after)]
    known = [record["cases"] for record in records]
    wanted = list(cases) or sorted({*known[0], *known[1]})
    for name in wanted:
        missing = [folder for folder, has in zip((before, after), known, strict=True) if name not in has]
        for folder in missing:
            found.differs(name, f"not recorded in '{folder}'")
        if missing:
            continue
        _compare_exit_codes(name, *(has[name] for has in known), found)
        compare_folders(before / name, after / name, name, found)
    for source in sorted(set(records[0]["sources"]) & set(records[1]["sources"])):
        if records[0]["sources"][source] != records[1]["sources"][source]:
            found.differs(source, "the two recordings were made from different files of this name")
    compare_folders(before / "inputs", after / "inputs", "inputs", found, shared=True)
    return found


def _compare_exit_codes(case: str, before: dict, after: dict, found: Comparison) -> None:
    codes = [{command["name"]: command["code"] for command in has["commands"]} for has in (before, after)]
    for name in {**codes[0], **codes[1]}:
        old, new = (code.get(name, "not run") for code in codes)
        if old != new:
            found.differs(f"{case}, command {name}", f"exit code {old} before, {new} now")
    for when, has in (("before", before), ("now", after)):
        if has.get("error"):
            found.differs(case, f"the recording failed {when}: {has['error']}")


def compare_folders(before: Path, after: Path, name: str, found: Comparison, shared: bool = False) -> None:
    """Compare all files of two folders; shared: only those that both have."""
    old, new = (_files(folder, found.rules) for folder in (before, after))
    if shared:
        old, new = ({key: has[key] for key in old.keys() & new.keys()} for has in (old, new))
    for key in sorted(old.keys() | new.keys()):
        place = f"{name}/{key}"
        if key not in new:
            found.differs(place, "missing now")
        elif key not in old:
            if not {*key.split("/")} & found.rules.new_files:
                found.differs(place, "was not there before")
        else:
            found.files += 1
            compare_file(old[key], new[key], place, found)


def _files(folder: Path, rules: Rules) -> dict[str, Path]:
    """The files below a folder by their new names; for TensorBoard's, their folder."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            events = ".tfevents." in path.name
            name = (path.parent / EVENTS if events else path).relative_to(folder).as_posix()
            files[rules.file_name(name)] = path.parent if events else path
    return files


def compare_file(before: Path, after: Path, name: str, found: Comparison) -> None:
    """Compare two files by the kind that the name says."""
    if name.endswith("/" + EVENTS):
        compare_events(before, after, name, found)
        return
    old, new = before.read_bytes(), after.read_bytes()
    if old == new:
        return
    compare = _KINDS.get(PurePosixPath(name).suffix, _compare_bytes)
    try:
        compare(old, new, name, found)
    except (ValueError, KeyError, IndexError, struct.error, OSError, UnicodeDecodeError) as error:
        found.differs(name, f"cannot be read as what its suffix says ({type(error).__name__}: {error}), and differs")


def _compare_bytes(before: bytes, after: bytes, name: str, found: Comparison) -> None:
    if before != after:
        found.differs(name, byte_difference(before, after))


def byte_difference(before: bytes, after: bytes) -> str:
    """How two byte strings differ, in words.

    >>> byte_difference(b"abcd", b"abXY")
    '2 of 4 bytes differ, the first is byte 2'
    """
    length = min(len(before), len(after))
    unequal = np.flatnonzero(np.frombuffer(before, np.uint8)[:length] != np.frombuffer(after, np.uint8)[:length])
    first = f"the first is byte {unequal[0] if len(unequal) else length}"
    if len(before) != len(after):
        return f"{len(before)} bytes before, {len(after)} now, {first}"
    return f"{len(unequal)} of {length} bytes differ, {first}"


# Meshes


def _compare_text_of_header(before: bytes, after: bytes, name: str, kind: str, found: Comparison) -> None:
    """Texts that are excused, but for what programs read in them: the coordinate system and the unit."""
    old, new = (sorted(re.findall(rb"(?:SPACE|UNIT)=\w+", text)) for text in (before, after))
    if old != new:
        found.differs(name, f"the header says {b' '.join(new).decode()}, before {b' '.join(old).decode()}")
    elif before != after:
        found.excused[kind] += 1


def _compare_stl(before: bytes, after: bytes, name: str, found: Comparison) -> None:
    _compare_text_of_header(before[:80], after[:80], name, "text in the header of an STL", found)
    if before[80:] == after[80:]:
        return
    counts = [struct.unpack("<I", content[80:84])[0] for content in (before, after)]
    if counts[0] != counts[1]:
        found.differs(name, f"{counts[0]} triangles before, {counts[1]} now")
        return
    rows = [np.frombuffer(content[84:], np.uint8).reshape(-1, 50) for content in (before, after)]
    unequal = np.flatnonzero((rows[0] != rows[1]).any(1))
    corners = [row[unequal][:, 12:48].copy().view("<f4") for row in rows]
    shift = np.abs(corners[0] - corners[1]).max()
    found.differs(name, f"{len(unequal)} of {counts[0]} triangles differ, by up to {shift:.3g} mm")


def _compare_ply(before: bytes, after: bytes, name: str, found: Comparison) -> None:
    heads, bodies = zip(*(content.split(b"end_header\n", 1) for content in (before, after)), strict=True)
    comments, lines = [], []
    for head in heads:
        is_comment = [line.startswith(b"comment") for line in head.split(b"\n")]
        comments.append(b"\n".join(np.array(head.split(b"\n"), object)[is_comment]))
        lines.append([line for line, comment in zip(head.split(b"\n"), is_comment, strict=True) if not comment])
    _compare_text_of_header(comments[0], comments[1], name, "comments of a PLY", found)
    if lines[0] != lines[1]:
        old, new = next((a, b) for a, b in zip(lines[0] + [b""], lines[1] + [b""], strict=False) if a != b)
        found.differs(name, f"the header has '{new.decode()}', before '{old.decode()}'")
    elif bodies[0] != bodies[1]:
        found.differs(name, f"after the header, {byte_difference(bodies[0], bodies[1])}")


def _compare_obj(before: bytes, after: bytes, name: str, found: Comparison) -> None:
    texts, lines = [], []
    for content in (before, after):
        every = content.split(b"\n")
        texts.append(b"\n".join(line for line in every if line.startswith((b"#", b"o "))))
        lines.append([line for line in every if not line.startswith((b"#", b"o "))])
    _compare_text_of_header(texts[0], texts[1], name, "comments of an OBJ", found)
    if len(lines[0]) != len(lines[1]):
        found.differs(name, f"{len(lines[0])} lines of points and triangles before, {len(lines[1])} now")
    elif lines[0] != lines[1]:
        unequal = [(a, b) for a, b in zip(*lines, strict=True) if a != b]
        old, new = (line.decode() for line in unequal[0])
        found.differs(name, f"{len(unequal)} lines differ, the first is '{new}', before '{old}'")


# Volumes and pictures


def _compare_nrrd(before: bytes, after: bytes, name: str, found: Comparison) -> None:
    heads, bodies = zip(*(content.split(b"\n\n", 1) for content in (before, after)), strict=True)
    if heads[0] != heads[1]:
        old, new = (set(head.decode("utf-8", "replace").split("\n")) for head in heads)
        found.differs(name, f"the header has {sorted(new - old)}, before {sorted(old - new)}")
    if bodies[0] != bodies[1]:
        try:
            voxels = [np.frombuffer(gzip.decompress(body), np.uint8) for body in bodies]
        except (OSError, EOFError, ValueError):
            found.differs(name, f"after the header, {byte_difference(bodies[0], bodies[1])}")
            return
        if np.array_equal(voxels[0], voxels[1]):
            found.differs(name, "the voxels are the same but compressed in another way")
        else:
            found.differs(name, f"of the voxels, {byte_difference(voxels[0].tobytes(), voxels[1].tobytes())}")


_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"tIME")


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Type and content of the chunks of a PNG. Raises ValueError when it is none."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("no PNG")
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += length + 12
    return chunks


def _compare_png(before: bytes, after: bytes, name: str, found: Comparison) -> None:
    old, new = (_chunks(content) for content in (before, after))
    if [c for c in old if c[0] not in _TEXT_CHUNKS] == [c for c in new if c[0] not in _TEXT_CHUNKS]:
        found.excused["text chunks of a PNG"] += old != new
        return
    pixels = [np.asarray(Image.open(io.BytesIO(content)).convert("RGBA")) for content in (before, after)]
    if pixels[0].shape != pixels[1].shape:
        sizes = [f"{p.shape[1]} x {p.shape[0]}" for p in pixels]
        found.differs(name, f"{sizes[0]} pixels before, {sizes[1]} now")
        return
    unequal = (pixels[0] != pixels[1]).any(2)
    if not unequal.any():
        found.differs(name, "the pixels are the same but stored in another way")
        return
    for picture, rectangles in found.rules.excused_pixels.items():
        for left, top, right, bottom in rectangles if f"/{name}".endswith(f"/{picture}") else ():
            unequal[top:bottom, left:right] = False
    if not unequal.any():
        found.excused["pixels of text in a picture"] += 1
        return
    rows, columns = np.flatnonzero(unequal.any(1)), np.flatnonzero(unequal.any(0))
    box = f"{columns[0]},{rows[0]} to {columns[-1]},{rows[-1]}"
    found.differs(name, f"{unequal.sum()} of {unequal.size} pixels differ, all of them from {box}")


# Weights


def _compare_safetensors(before: bytes, after: bytes, name: str, found: Comparison) -> None:
    heads, bodies = [], []
    for content in (before, after):
        (length,) = struct.unpack("<Q", content[:8])
        heads.append(json.loads(content[8 : 8 + length]))
        bodies.append(content[8 + length :])
    old, new = ({key: json.loads(text) for key, text in head.pop("__metadata__", {}).items()} for head in heads)
    compare_values(old, new, name, (), found)
    for tensor in {**heads[0], **heads[1]}:
        if heads[0].get(tensor) != heads[1].get(tensor):
            found.differs(name, f"tensor {tensor} is {heads[1].get(tensor)}, before {heads[0].get(tensor)}")
            continue
        start, end = heads[0][tensor]["data_offsets"]
        if bodies[0][start:end] != bodies[1][start:end]:
            what = byte_difference(bodies[0][start:end], bodies[1][start:end])
            found.differs(name, f"of tensor {tensor}, {what}")


# JSON and tables


def _compare_json(before: bytes, after: bytes, name: str, found: Comparison) -> None:
    compare_values(json.loads(before), json.loads(after), name, (), found)


def _compare_json_lines(before: bytes, after: bytes, name: str, found: Comparison) -> None:
    old, new = ([json.loads(line) for line in content.splitlines()] for content in (before, after))
    compare_values(old, new, name, (), found)


def compare_values(before: object, after: object, name: str, path: tuple[str, ...], found: Comparison) -> None:
    """Compare two JSON values under the rules; path: keys that lead to them."""
    rules = found.rules
    where = f"{name} {'.'.join(path)}".strip()
    keys = tuple(key for key in path if not key.startswith("["))
    if reason := match(keys, rules.excused_fields):
        found.excused[f"{reason} ({rules.excused_fields[reason]})"] += before != after
        return
    if match(keys, rules.texts):
        _compare_texts(before, after, where, found)
    elif keys and keys[-1] == "files" and isinstance(before, list) and isinstance(after, list):
        old, new = (sorted(rules.file_name(item) for item in items) for items in (before, after))
        if old != new:
            found.differs(where, f"{new}, before {old}")
    elif isinstance(before, dict) and isinstance(after, dict):
        _compare_objects(_renamed(before, keys, rules), _renamed(after, keys, rules), name, path, found)
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            found.differs(where, f"{len(after)} entries, before {len(before)}")
        else:
            for number, (old, new) in enumerate(zip(before, after, strict=True)):
                compare_values(old, new, name, (*path, f"[{number}]"), found)
    else:
        old, new = (rules.word(value, keys) for value in (before, after))
        if type(old) is not type(new) or old != new:
            found.differs(where, f"{json.dumps(new)[:200]}, before {json.dumps(old)[:200]}")


def _compare_texts(before: object, after: object, where: str, found: Comparison) -> None:
    if isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            found.differs(where, f"{len(after)} texts, before {len(before)}: {json.dumps(after)[:300]}")
        elif before != after:
            found.excused["wording of a text"] += 1
    elif bool(before) != bool(after) or (before is None) != (after is None):
        found.differs(where, f"{json.dumps(after)[:200]}, before {json.dumps(before)[:200]}")
    elif before != after:
        found.excused["wording of a text"] += 1


def _renamed(value: dict, keys: tuple[str, ...], rules: Rules) -> dict:
    """An object with the new names of its fields. An old name kept beside the new one must have the same value."""
    made, kept = {}, {}
    for key, item in value.items():
        entry = match((*keys, key), rules.renamed_fields)
        new = rules.renamed_fields[entry] if entry else key
        (kept if new != key and new in value else made)[new] = item
    return made | {f"{key} (old name)": item for key, item in kept.items() if item != made[key]}


def _compare_objects(before: dict, after: dict, name: str, path: tuple[str, ...], found: Comparison) -> None:
    for key in {**before, **after}:
        place = (*path, key)
        if key not in after:
            found.differs(f"{name} {'.'.join(place)}", "missing now")
        elif key not in before:
            if not match(tuple(k for k in place if not k.startswith("[")), found.rules.new_fields):
                found.differs(f"{name} {'.'.join(place)}", "was not there before")
        else:
            compare_values(before[key], after[key], name, place, found)


def _compare_csv(before: bytes, after: bytes, name: str, found: Comparison) -> None:
    """Rows as objects of their columns; a text column counts as one text, so its length is not compared."""
    old, new = (list(csv.reader(io.StringIO(content.decode("utf-8"), newline=""))) for content in (before, after))
    heads = [list(_renamed(dict.fromkeys(rows[0]), (), found.rules)) for rows in (old, new)]
    known = [column for column in heads[1] if column in heads[0] or not match((column,), found.rules.new_fields)]
    if heads[0] != known:
        found.differs(name, f"columns {known}, before {heads[0]}")
        return
    tables = [
        [dict(zip(head, row, strict=True)) for row in rows[1:]] for head, rows in zip(heads, (old, new), strict=True)
    ]
    compare_values(tables[0], tables[1], name, (), found)


def _numbers(text: str) -> list[str]:
    return re.findall(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\binf\b|\bnan\b", text)


def _compare_text(before: bytes, after: bytes, name: str, found: Comparison) -> None:
    old, new = (_numbers(content.decode("utf-8")) for content in (before, after))
    if old != new:
        found.differs(name, f"numbers {new}, before {old}")
    else:
        found.excused["wording of a text"] += 1


# Reports


class _Page(HTMLParser):
    """What is compared of an HTML report: pictures, table cells and figure cards, list entries."""

    def __init__(self, text: str):
        super().__init__()
        self.pictures: list[bytes] = []
        self.cells: list[str] = []
        self.entries = 0
        self._inside = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        source = dict(attributes).get("src") or ""
        if tag == "img" and source.startswith("data:image/png;base64,"):
            self.pictures.append(base64.b64decode(source.partition(",")[2]))
        elif tag in ("td", "b"):
            self._inside += 1
            self.cells.append("")
        elif tag == "li":
            self.entries += 1

    def handle_endtag(self, tag: str) -> None:
        self._inside -= tag in ("td", "b")

    def handle_data(self, text: str) -> None:
        if self._inside:
            self.cells[-1] += text


def _compare_html(before: bytes, after: bytes, name: str, found: Comparison) -> None:
    pages = [_Page(content.decode("utf-8")) for content in (before, after)]
    counts = [f"{len(p.pictures)} pictures, {p.entries} list entries" for p in pages]
    if counts[0] != counts[1]:
        found.differs(name, f"{counts[1]}, before {counts[0]}")
    else:
        for number, (old, new) in enumerate(zip(pages[0].pictures, pages[1].pictures, strict=True), 1):
            _compare_png(old, new, f"{name}, picture {number}", found)
    cells = [
        [cell for cell in page.cells if not any(re.search(p, cell) for p in found.rules.excused_cells)]
        for page in pages
    ]
    if len(cells[0]) != len(cells[1]):
        found.differs(name, f"{len(cells[1])} cells, before {len(cells[0])}")
        return
    for old, new in zip(*cells, strict=True):
        if _numbers(old) != _numbers(new):
            found.differs(name, f"a cell holds '{new[:120]}', before '{old[:120]}'")
    found.excused["wording of a report"] += 1


# TensorBoard


def compare_events(before: Path, after: Path, name: str, found: Comparison) -> None:
    """Compare the numbers for TensorBoard in two folders."""
    old, new = (_events(folder) for folder in (before, after))
    if not old:
        found.differs(name, "no number was found before")
    for key in sorted(old.keys() | new.keys()):
        if not match((key[0],), found.rules.excused_fields) and old.get(key) != new.get(key):
            found.differs(name, f"{key[0]} of step {key[1]} is {new.get(key)}, before {old.get(key)}")


def _events(folder: Path) -> dict[tuple[str, int], float]:
    """Value by tag and step; of a step that was repeated after an interruption, the last one.

    The files are records of protocol buffers: an Event has the step as field 2 and a Summary as field 5, whose values
    (field 1) have a tag (1) and a number (2).
    """
    values = {}
    for path in sorted(folder.glob("*.tfevents.*"), key=lambda path: int(path.name.rpartition(".")[2])):
        content, at = path.read_bytes(), 0
        while at + 12 <= len(content):
            (length,) = struct.unpack("<Q", content[at : at + 8])
            if at + 16 + length > len(content):
                break  # cut by an interruption
            event = _fields(content[at + 12 : at + 12 + length])
            for summary in event.get(5, ()):
                for value in map(_fields, _fields(summary)[1]):
                    values[value[1][0].decode(), event.get(2, [0])[0]] = value[2][0]
            at += length + 16
    return values


def _fields(message: bytes) -> dict[int, list]:
    """The fields of a protocol buffer: whole numbers, floating-point numbers, and everything else as bytes."""
    fields: dict[int, list] = {}
    at = 0

    def whole() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            at, byte = at + 1, message[at]
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(message):
        number, kind = divmod(whole(), 8)
        if kind == 0:
            value: object = whole()
        else:
            length = {1: 8, 5: 4}[kind] if kind != 2 else whole()
            piece, at = message[at : at + length], at + length
            value = piece if kind == 2 else struct.unpack({1: "<d", 5: "<f"}[kind], piece)[0]
        fields.setdefault(number, []).append(value)
    return fields


_KINDS = {
    ".stl": _compare_stl,
    ".ply": _compare_ply,
    ".obj": _compare_obj,
    ".nrrd": _compare_nrrd,
    ".png": _compare_png,
    ".safetensors": _compare_safetensors,
    ".json": _compare_json,
    ".jsonl": _compare_json_lines,
    ".csv": _compare_csv,
    ".html": _compare_html,
    ".txt": _compare_text,
}
