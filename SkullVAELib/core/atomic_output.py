"""Atomic output: a folder receives all files of a run, or keeps what it had."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from SkullVAELib.core.errors import SkullVAEError

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed and thus is its own lock
    fcntl = None  # type: ignore[assignment]

_PREFIX = ".skullvae-"
_HOLDING = f"{_PREFIX}run-"
_LOCK, _OLD = ".lock", ".old"
_LOCK_TRIES, _LOCK_SECONDS = 1200, 0.05

_DISK_FAILS = (errno.ENOSPC, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC))

# A private folder without a lock file is either being created or was left by a run killed while creating it.
_MAKING_SECONDS = 60.0


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file that replaces `path` when the body ends without an error; same name, in a private folder.

    Its content is on disk before it is renamed. A killed process leaves at most its private folder next to `path`; the
    next atomic_file there removes it. Raises SkullVAEError if the folder is not writable.
    """
    path = Path(path)
    with _staging(path.parent) as staging:
        temporary = staging / path.name
        temporary.touch()
        yield temporary
        # A header with detached data: an earlier header is removed first, since it must not refer to the new data.
        parts = [part for part in staging.iterdir() if part.name not in (_LOCK, path.name)]
        if parts:
            path.unlink(missing_ok=True)
        for part in (*parts, temporary):
            _sync(part)
            os.replace(part, path.parent / part.name)
        _sync(path.parent)


@contextmanager
def publish_files(directory: Path, names: Iterable[str], inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """A private folder to prepare files in; they are moved to `directory` when the body ends without an error.

    Parameters
    ----------
    directory : Path
        Created if missing.
    names : iterable of str
        Every file that a run may publish, in the order of publishing. The last one (the report) completes the set: it
        is removed first and moved last, so that while it exists all files belong to one run. The others may be
        patterns, such as "implant_[0-9].stl". A file of this name from an earlier run is removed if the body did not
        prepare one.
    inputs : iterable of Path
        Files that must not be overwritten.

    Raises
    ------
    SkullVAEError
        `directory` cannot be created or written to, or contains an input under one of the names.

    Notes
    -----
    When the body raises, `directory` keeps what it had, and is removed if it was created here. A killed process leaves
    at most its private folder, whose name begins with ".skullvae-"; the next run in `directory` removes it. A process
    that is killed while the files are moved leaves some of them without the last one, but never together with files of
    an earlier run. Of two runs that end at the same time, one waits for the other.
    """
    directory, names, inputs = Path(directory), list(names), list(inputs)
    for target in _matching(directory, names):
        check_not_input(target, inputs, "Choose another output folder")
    made = _make(directory)
    try:
        with _staging(directory) as staging:
            yield staging
            with _exclusive(directory):
                _publish(staging, directory, names)
    except BaseException:
        for folder in made:
            # Only an empty folder is removed; files that another program put there meanwhile stay.
            try:
                folder.rmdir()
            except OSError:
                break
        raise


@contextmanager
def publish_folder(directory: Path, is_ours: Callable[[Path], bool], inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """A private folder to prepare a folder tree in; it becomes `directory` when the body ends without an error.

    The private folder is next to `directory`, so that renaming is atomic. An empty `directory` is replaced, and so is
    one that `is_ours` recognises as an earlier result; any other is an error. When the body raises, `directory` keeps
    what it had. inputs: files that must not be replaced.

    Raises SkullVAEError if `directory` holds other files or an input, or cannot be written.
    """
    directory = Path(os.path.abspath(directory))
    if held := next((path for path in inputs if path.resolve().is_relative_to(directory.resolve())), None):
        raise SkullVAEError(f"The output folder '{directory}' holds the input '{held}'", "Choose another output folder")
    if directory.exists() and not directory.is_dir():
        raise SkullVAEError(f"The output '{directory}' is not a folder", "Choose another output folder")
    if directory.is_dir() and any(directory.iterdir()) and not is_ours(directory):
        raise SkullVAEError(f"The output folder '{directory}' holds other files", "Choose a new or empty folder")
    made = _make(directory.parent)
    try:
        with _staging(directory.parent) as staging:
            prepared = staging / "new"
            prepared.mkdir()
            yield prepared
            for path in prepared.rglob("*"):
                _sync(path)
            with _exclusive(directory.parent):
                withdrawn = [(directory, staging / _OLD)] if directory.exists() else []
                _move([*withdrawn, (prepared, directory)], directory)
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def locked_folder(directory: Path) -> Iterator[Path]:
    """A folder, created if missing, that one process at a time may lock; it may contain other files.

    When the body raises before anything was put into it, a folder created here is removed. Raises SkullVAEError if it
    cannot be created, or if another process has locked it.
    """
    made = _make(directory)
    try:
        with _staging(directory, _HOLDING):
            yield directory
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def _matching(directory: Path, names: Iterable[str]) -> list[Path]:
    """The files in a folder that match names or patterns, in their order and then by name."""
    if not directory.is_dir():
        return []
    present = sorted(path.name for path in directory.iterdir())
    found = [name for pattern in names for name in present if fnmatchcase(name, pattern)]
    return [directory / name for name in dict.fromkeys(found) if (directory / name).exists()]


def check_not_input(target: Path, inputs: Iterable[Path], remedy: str = "Choose another output file") -> None:
    """Raise SkullVAEError if a file to be written is one of the inputs, under any name."""
    if target.exists() and any(target.samefile(path) for path in inputs):
        raise SkullVAEError(f"The result '{target}' would overwrite the input", remedy)


def _make(directory: Path) -> list[Path]:
    """Create the folder and its parents; returns those that were created, innermost first."""
    if directory.exists() and not directory.is_dir():
        raise SkullVAEError(f"The output '{directory}' is not a folder", "Choose another output folder")
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cause = f"The output folder '{directory}' cannot be created: {error.strerror}"
        raise SkullVAEError(cause, "Choose another output folder") from error
    return missing


@contextmanager
def _staging(directory: Path, prefix: str = _PREFIX) -> Iterator[Path]:
    """A folder inside `directory`, on the same file system so that renaming is atomic, locked while in use.

    Folders left there by killed runs are removed first. There is at most one with the prefix _HOLDING: raises
    SkullVAEError if another run has created it.
    """
    with ExitStack() as stack:
        try:
            with _exclusive(directory) as locked:
                _remove_abandoned(directory, locked)
                if prefix == _HOLDING and any(directory.glob(f"{prefix}*")):
                    cause = f"Another run is writing into '{directory}'"
                    raise SkullVAEError(cause, "Wait until it ends, or choose another output folder")
                staging = Path(tempfile.mkdtemp(prefix=prefix, dir=directory))
                stack.callback(shutil.rmtree, staging, ignore_errors=True)
                # The kernel releases the lock of a killed process; a process id might be reused.
                lock = stack.enter_context(open(staging / _LOCK, "wb"))
                if fcntl is not None:
                    with suppress(OSError):  # some network file systems cannot
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            cause = f"The output folder '{directory}' cannot be written to: {error.strerror}"
            raise SkullVAEError(cause, "Choose another output folder") from error
        yield staging


def remove_abandoned(directory: Path) -> None:
    """Remove the private folders that killed runs left in a folder; those of running processes stay."""
    with _exclusive(directory) as locked:
        _remove_abandoned(directory, locked)


def _remove_abandoned(directory: Path, locked: bool) -> None:
    for folder in directory.glob(f"{_PREFIX}*"):
        if folder.is_dir() and _is_abandoned(folder, locked):
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path, locked: bool) -> bool:
    """Whether no process works in a private folder; locked: no other process can be creating one."""
    lock = folder / _LOCK
    try:
        if not lock.exists():
            # The absolute age: the clock may have been set back since.
            return locked or abs(time.time() - folder.stat().st_mtime) > _MAKING_SECONDS
        if fcntl is None:
            lock.unlink()
            return True
        with open(lock, "r+b") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


def _publish(staging: Path, directory: Path, names: list[str]) -> None:
    """Remove the earlier set, its last file first, then move the new one into place, its last file last."""
    *files, last = names
    old = staging / _OLD
    old.mkdir()
    made, last_made = _matching(staging, files), _matching(staging, [last])
    for path in (*made, *last_made):
        _sync(path)
    withdrawn = [(path, old / path.name) for path in _matching(directory, [last, *files])]
    _move([*withdrawn, *((path, directory / path.name) for path in (*made, *last_made))], directory)


def _move(moves: list[tuple[Path, Path]], directory: Path) -> None:
    """Rename files one after the other; all are moved back if one fails or the run is interrupted.

    The last one is renamed when all others are on disk. Raises SkullVAEError that names `directory`.
    """
    tried: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            if len(tried) == len(moves) - 1:
                _sync(directory)
            tried.append((source, target))
            os.replace(source, target)
        _sync(directory)
    except BaseException as error:
        for source, target in reversed(tried):
            if target.exists() and not source.exists():
                with suppress(OSError):
                    os.replace(target, source)
        if not isinstance(error, OSError):
            raise
        cause = f"The results cannot be moved to '{directory}': {error.strerror}"
        raise SkullVAEError(cause, "Close programs that use its files, or choose another output folder") from error


@contextmanager
def _exclusive(directory: Path) -> Iterator[bool]:
    """Prevent other runs from starting or finishing in a folder; yields whether the system supports it.

    The folder itself is locked: a lock file would have to stay there. Raises SkullVAEError if another run holds the
    lock for a minute; milliseconds are usual.
    """
    if fcntl is None:
        yield False
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        yield _locks(descriptor, directory)
    finally:
        os.close(descriptor)


def _locks(descriptor: int, directory: Path) -> bool:
    """Lock an open folder, waiting for other runs; returns whether its file system supports locks."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_LOCK_SECONDS)
        except OSError:  # some network file systems cannot
            return False
    cause = f"Another run has held the output folder '{directory}' for a minute"
    raise SkullVAEError(cause, "Stop that run, or choose another output folder")


def _sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk, so that a power failure cannot change their order.

    Unsupported operations, such as syncing a folder on Windows, are skipped; a full disk raises OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _DISK_FAILS:
            raise
    finally:
        os.close(descriptor)
