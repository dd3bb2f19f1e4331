"""The model files on this computer: the shipped one, and those that the user has added; without torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.files import file_sha256

from .childprocess import ChildProcess
from .completion import childEnvironment, libraryCommand
from .librarypath import shippedModel

_SUFFIX = ".safetensors"
# Larger than the header of any model file; the length in a damaged file can be arbitrary.
_MAX_HEADER_BYTES = 100 << 20
_CHUNK_BYTES = 1 << 20
_NAME = re.compile(r"[^\w. +()-]+")


@dataclass(frozen=True)
class ModelEntry:
    """A model file. sizeMB: in 10^6 bytes; sha256: when the file was added; shipped: part of the module."""

    name: str
    path: Path
    sizeMB: float
    sha256: str
    shipped: bool = False


class ModelStore:
    """A folder of model files, each with a FILE.json that contains its SHA-256. command: the library's (for tests)."""

    def __init__(self, folder: str | os.PathLike, command: list[str] | None = None):
        self.folder = Path(folder)
        self._command = list(command) if command else libraryCommand()
        self._hashes: dict[tuple, str] = {}

    def list(self) -> list[ModelEntry]:
        """The shipped model, then the others by name. Files without a SHA-256 were not added here: not listed."""
        shipped = shippedModel()
        entries = [] if shipped is None else [self._entry(shipped, self._hash(shipped), shipped=True)]
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")) if self.folder.is_dir() else ():
            try:
                record = json.loads(_record(path).read_text(encoding="utf-8"))
                entries.append(self._entry(path, str(record["sha256"])))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return entries

    def add(self, path: str | os.PathLike, sha256: str = "", onWait: Callable[[], None] = lambda: None) -> ModelEntry:
        """Check a model file and copy it into the store; for a file with equal content the existing entry is returned.

        The check takes seconds, since the library loads the file in a child process; onWait is called repeatedly
        meanwhile. sha256: expected SHA-256, if known.
        Raises SkullVAEError if it is not a model file, not the expected one, or cannot be copied; the store is not
        changed then. Files are not overwritten: another file with the same name gets a number.
        """
        source = Path(path)
        _checkHeader(source)
        found = _sha256(source)
        if sha256 and found != sha256.strip().lower():
            raise SkullVAEError(
                f"'{source.name}' is not the expected file: its SHA-256 is {found}", "Download or copy it again"
            )
        for entry in self.list():
            if entry.sha256 == found:
                return entry
        self._checkLoads(source, onWait)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            target = self._publish(source, found)
        except OSError as error:
            raise SkullVAEError(
                f"'{source.name}' cannot be copied to '{self.folder}': {error.strerror}",
                "Check free space and permissions",
            ) from error
        return self._entry(target, found)

    def remove(self, entry: ModelEntry) -> None:
        """Remove the files of an added model. Raises SkullVAEError for the shipped model and for files elsewhere."""
        if entry.shipped or entry.path.parent.resolve() != self.folder.resolve():
            raise SkullVAEError(
                f"The model '{entry.name}' is part of the module and cannot be removed", "Select a model that was added"
            )
        try:
            entry.path.unlink(missing_ok=True)
            _record(entry.path).unlink(missing_ok=True)
        except OSError as error:
            raise SkullVAEError(
                f"'{entry.name}' cannot be removed: {error.strerror}", "Close the programs that use it"
            ) from error

    def verify(self, entry: ModelEntry) -> bool:
        """Whether the file still has the SHA-256 that it was added with; False also if it is missing."""
        try:
            return _sha256(entry.path) == entry.sha256
        except SkullVAEError:
            return False

    def _entry(self, path: Path, sha256: str, shipped: bool = False) -> ModelEntry:
        return ModelEntry(path.stem, path, path.stat().st_size / 1e6, sha256, shipped)

    def _hash(self, path: Path) -> str:
        """SHA-256 of the shipped file, computed once for each modification time."""
        state = path.stat()
        key = path, state.st_size, state.st_mtime_ns
        if key not in self._hashes:
            self._hashes[key] = _sha256(path)
        return self._hashes[key]

    def _checkLoads(self, path: Path, onWait: Callable[[], None]) -> None:
        with tempfile.TemporaryDirectory(prefix="SkullVAE-", ignore_cleanup_errors=True) as folder:
            command = [*self._command, "info", "--model", str(path.resolve()), "--json"]
            child = ChildProcess(command, folder, childEnvironment())
            child.start()
            child.wait(onWait)
            text = "\n".join(line for line in child.log)
        try:
            model = json.loads(text[text.index("{") : text.rindex("}") + 1])["model"]
            loads, reason = bool(model["loads"]), str(model.get("error") or "")
        except (ValueError, KeyError, TypeError, AttributeError):
            loads, reason = False, child.lastErrorLine
        if not loads:
            cause, _, remedy = reason.partition(". ")
            if not remedy:
                cause, remedy = f"'{path.name}' is not a model file of this library", "Choose a model file of SkullVAE"
            raise SkullVAEError(cause, remedy)

    def _publish(self, source: Path, sha256: str) -> Path:
        stem = _NAME.sub("_", source.stem).strip(" .") or "model"
        temporary = self.folder / f".{secrets.token_hex(4)}.part"
        try:
            digest = hashlib.sha256()
            with source.open("rb") as file, temporary.open("xb") as copy:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    copy.write(chunk)
            if digest.hexdigest() != sha256:
                raise SkullVAEError(f"'{source.name}' changed while it was copied", "Try again")
            number = 1
            while True:
                target = self.folder / f"{stem}{'' if number == 1 else f'_{number}'}{_SUFFIX}"
                try:
                    # Reserves the name, also against another instance of Slicer.
                    with _record(target).open("x", encoding="utf-8") as record:
                        json.dump({"sha256": sha256, "added_from": source.name}, record)
                except FileExistsError:
                    number += 1
                    continue
                if target.exists():
                    # A file that was not added by this class.
                    _record(target).unlink()
                    number += 1
                    continue
                os.replace(temporary, target)
                return target
        finally:
            temporary.unlink(missing_ok=True)


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _checkHeader(path: Path) -> None:
    """Check the JSON header, which follows its length in eight bytes; a safetensors file contains no code."""
    refusal = SkullVAEError(f"'{path.name}' is not a safetensors file", "Choose a model file of SkullVAE")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if path.suffix.lower() != _SUFFIX or not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
                raise refusal
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    except OSError as error:
        raise SkullVAEError(f"'{path}' cannot be read: {error.strerror}", "Check the path") from error
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise refusal from error
    if not ends or 8 + length + max(ends) != size:
        raise SkullVAEError(f"'{path.name}' is truncated or damaged", "Download or copy it again")


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise SkullVAEError(f"'{path}' cannot be read: {error.strerror}", "Check the path") from error
