"""Publishing results: a folder gets the whole set of a run's files or keeps what it had."""

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

# A private folder without a lock file is either being made this moment or was left by a run killed in that moment.
_MAKING_SECONDS = 60.0


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A place for a file that becomes `path` when the body ends well; it has the same name, in a private folder.

    What is written there is on the disk before it takes its place. A killed process leaves at most its private folder
    beside `path`; the next whole_file there removes it. Raises SkullVAEError when the folder cannot be written to.
    """
    path = Path(path)
    with _staging(path.parent) as staging:
        temporary = staging / path.name
        temporary.touch()
        yield temporary
        # A header and its detached data: an earlier header goes first, since it must not point at the new data.
        parts = [part for part in staging.iterdir() if part.name not in (_LOCK, path.name)]
        if parts:
            path.unlink(missing_ok=True)
        for part in (*parts, temporary):
            _sync(part)
            os.replace(part, path.parent / part.name)
        _sync(path.parent)


@contextmanager
def publish_files(directory: Path, names: Iterable[str], inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """A private folder to prepare files in; when the body ends well they appear in `directory`.

    names: every file a run may publish, in the order of publishing; the last one is the seal of the set (the
    report): it is withdrawn first and put in place last, so that while it exists all files belong to one run.
    The others may be patterns, such as "implant_[0-9].stl", for files whose number is not known beforehand.
    A name the body did not prepare is removed from `directory`, where it would be an earlier run's.
    inputs: files that must not be overwritten.

    When the body raises, `directory` keeps what it had, and is removed if it was made here. A killed process leaves
    at most its private folder, whose name begins with ".skullvae-"; the next run in `directory` removes it. One that
    is killed just as the files appear leaves some of them without the seal, but never beside an earlier run's. Of two
    runs that end at once one waits for the other.

    Raises SkullVAEError when `directory` cannot be made or written to, or holds an input under one of the names.
    """
    directory, names, inputs = Path(directory), list(names), list(inputs)
    for target in _matching(directory, names):
        check_not_input(target, inputs, "Choose another output folder")
    made = _make(directory)
    try:
        with _staging(directory) as staging:
            yield staging
            with _alone(directory):
                _publish(staging, directory, names)
    except BaseException:
        for folder in made:
            # Only an empty folder goes; whatever somebody else put there meanwhile stays.
            try:
                folder.rmdir()
            except OSError:
                break
        raise


@contextmanager
def publish_folder(directory: Path, is_ours: Callable[[Path], bool], inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """A private folder to prepare a whole tree in; when the body ends well it becomes `directory`.

    The private folder lies beside `directory`, so that renaming is atomic. An empty `directory` is replaced, and so is
    one that `is_ours` recognises as an earlier result; any other is an error. When the body raises, `directory` keeps
    what it had and nothing is left beside it. inputs: files that must not be replaced with it.

    Raises SkullVAEError when `directory` is not ours to replace, holds an input, or cannot be written.
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
            with _alone(directory.parent):
                withdrawn = [(directory, staging / _OLD)] if directory.exists() else []
                _move([*withdrawn, (prepared, directory)], directory)
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def locked_folder(directory: Path) -> Iterator[Path]:
    """A folder, made where it is missing, that only one process at a time holds; other files in it may be anyone's.

    When the body raises before anything was put into it, a folder made here goes again. Raises SkullVAEError when it
    cannot be made, or when another process holds it.
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
    """The files in a folder that names or patterns mean, in their order and then by name."""
    if not directory.is_dir():
        return []
    present = sorted(path.name for path in directory.iterdir())
    found = [name for pattern in names for name in present if fnmatchcase(name, pattern)]
    return [directory / name for name in dict.fromkeys(found) if (directory / name).exists()]


def check_not_input(target: Path, inputs: Iterable[Path], remedy: str = "Choose another output file") -> None:
    """Raise SkullVAEError when a file to be written is one of the inputs, under whatever name."""
    if target.exists() and any(target.samefile(path) for path in inputs):
        raise SkullVAEError(f"The result '{target}' would overwrite the input", remedy)


def _make(directory: Path) -> list[Path]:
    """Make the folder and its parents; returns those that were made, innermost first."""
    if directory.exists() and not directory.is_dir():
        raise SkullVAEError(f"The output '{directory}' is not a folder", "Choose another output folder")
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cause = f"The output folder '{directory}' cannot be made: {error.strerror}"
        raise SkullVAEError(cause, "Choose another output folder") from error
    return missing


@contextmanager
def _staging(directory: Path, prefix: str = _PREFIX) -> Iterator[Path]:
    """A folder inside `directory`, on the same file system so that renaming is atomic, locked while in use.

    Those that killed runs left there are removed first. Of prefix _HOLDING there is but one: raises SkullVAEError
    where another run has made it.
    """
    with ExitStack() as stack:
        try:
            with _alone(directory) as locked:
                _remove_abandoned(directory, locked)
                if prefix == _HOLDING and any(directory.glob(f"{prefix}*")):
                    cause = f"Another run is writing into '{directory}'"
                    raise SkullVAEError(cause, "Wait for its end, or choose another output folder")
                staging = Path(tempfile.mkdtemp(prefix=prefix, dir=directory))
                stack.callback(shutil.rmtree, staging, ignore_errors=True)
                # The kernel drops the lock of a killed process; a process id could have been given to another by then.
                lock = stack.enter_context(open(staging / _LOCK, "wb"))
                if fcntl is not None:
                    with suppress(OSError):  # some network file systems cannot
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            cause = f"The output folder '{directory}' cannot be written to: {error.strerror}"
            raise SkullVAEError(cause, "Choose another output folder") from error
        yield staging


def remove_abandoned(directory: Path) -> None:
    """Remove the private folders that killed runs left in a folder; those of runs still going on stay."""
    with _alone(directory) as locked:
        _remove_abandoned(directory, locked)


def _remove_abandoned(directory: Path, locked: bool) -> None:
    for folder in directory.glob(f"{_PREFIX}*"):
        if folder.is_dir() and _is_abandoned(folder, locked):
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path, locked: bool) -> bool:
    """Whether nobody works in a private folder; locked: nobody else can be making one at this moment."""
    lock = folder / _LOCK
    try:
        if not lock.exists():
            # The age, where only that can tell, is a distance: the clock may have been set back since.
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
    """Withdraw the earlier set, its seal first, then put the new one in place, its seal last."""
    *files, seal = names
    old = staging / _OLD
    old.mkdir()
    made, sealed = _matching(staging, files), _matching(staging, [seal])
    for path in (*made, *sealed):
        _sync(path)
    withdrawn = [(path, old / path.name) for path in _matching(directory, [seal, *files])]
    _move([*withdrawn, *((path, directory / path.name) for path in (*made, *sealed))], directory)


def _move(moves: list[tuple[Path, Path]], directory: Path) -> None:
    """Rename from and to, one after the other; all go back when one cannot, or when the run is interrupted meanwhile.

    The last is the seal's: it is renamed when the disk has all before it. Raises SkullVAEError that names `directory`.
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
        cause = f"The results cannot be put into '{directory}': {error.strerror}"
        raise SkullVAEError(cause, "Close programs that use its files, or choose another output folder") from error


@contextmanager
def _alone(directory: Path) -> Iterator[bool]:
    """Keep other runs from beginning and ending their work in a folder meanwhile; yields whether the system can.

    The lock is the folder's own: a lock file would have to stay there for good. Raises SkullVAEError when another run
    holds it for a minute, where a moment is usual.
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
    """Lock an open folder, waiting for others; returns whether its file system can."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_LOCK_SECONDS)
        except OSError:  # some network file systems cannot
            return False
    cause = f"Another run has held the output folder '{directory}' for a minute"
    raise SkullVAEError(cause, "End it, or choose another output folder")


def _sync(path: Path) -> None:
    """Wait until the disk has a file, or a folder's names, so that no power failure can undo their order.

    What a file system or Windows cannot do, as with folders, is left out; a full disk is told.
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
