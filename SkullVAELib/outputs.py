"""Publishing results: a folder gets the whole set of a run's files or keeps what it had."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from .errors import SkullVAEError

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed and thus is its own lock
    fcntl = None  # type: ignore[assignment]

_PREFIX = ".skullvae-"
_LOCK = "lock"

# A staging folder without a lock file is either being made this moment or was left by a run killed in that moment.
_MAKING_SECONDS = 60.0


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, of the same suffix; when the body ends well the file takes its place.

    The file is made here with the permissions of any new file: tempfile's would be the owner's alone.
    """
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned_files(folder: Path) -> None:
    """Remove what whole_file left of a run's files when the run was killed; it must not be running."""
    for path in folder.glob(f".{'[0-9a-f]' * 8}-*"):
        if path.suffix in (".safetensors", ".json", ".csv"):
            path.unlink(missing_ok=True)


@contextmanager
def publishing(directory: Path, names: Iterable[str], inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """A private folder to prepare files in; when the body ends well they appear in `directory`.

    names: every file a run may publish, in the order of publishing; the last one is the seal of the set (the
    report): it is withdrawn first and put in place last, so that while it exists all files belong to one run.
    The others may be patterns, such as "implant_[0-9].stl", for files whose number is not known beforehand.
    A name the body did not prepare is removed from `directory`, where it would be an earlier run's.
    inputs: files that must not be overwritten.

    When the body raises, `directory` keeps what it had, and is removed if it was made here. A killed process leaves
    at most its private folder, whose name begins with ".skullvae-"; the next run in `directory` removes it.

    Raises SkullVAEError when `directory` cannot be made or written to, or holds an input under one of the names.
    """
    directory, names, inputs = Path(directory), list(names), list(inputs)
    for target in _matching(directory, names):
        check_not_input(target, inputs, "Choose another output folder")
    made = _make(directory)
    try:
        _remove_abandoned(directory)
        with _staging(directory) as staging:
            yield staging
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
def publishing_folder(directory: Path, is_ours: Callable[[Path], bool], inputs: Iterable[Path] = ()) -> Iterator[Path]:
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
        _remove_abandoned(directory.parent)
        with _staging(directory.parent) as staging:
            prepared = staging / "new"
            prepared.mkdir()
            yield prepared
            try:
                if directory.exists():
                    os.replace(directory, staging / "old")
                os.replace(prepared, directory)
            except OSError as error:
                if (staging / "old").exists() and not directory.exists():
                    os.replace(staging / "old", directory)
                cause = f"The results cannot be put into '{directory}': {error.strerror}"
                raise SkullVAEError(cause, "Close programs that use its files, or choose another folder") from error
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def held_folder(directory: Path) -> Iterator[Path]:
    """A folder, made where it is missing, that only one process at a time holds; other files in it may be anyone's.

    When the body raises before anything was put into it, a folder made here goes again. Raises SkullVAEError when it
    cannot be made, or when another process holds it.
    """
    made = _make(directory)
    try:
        with ExitStack() as stack:
            if fcntl is not None:
                descriptor = os.open(directory, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    cause = f"Another run is writing into '{directory}'"
                    raise SkullVAEError(cause, "Wait for its end, or choose another output folder") from error
                except OSError:  # a network disk that locks no folders
                    pass
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
def _staging(directory: Path) -> Iterator[Path]:
    """A folder inside `directory`, on the same file system so that renaming is atomic, locked while in use."""
    try:
        staging = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=directory))
    except OSError as error:
        cause = f"The output folder '{directory}' cannot be written to: {error.strerror}"
        raise SkullVAEError(cause, "Choose another output folder") from error
    lock = None
    try:
        # The kernel drops the lock of a killed process; a process id could have been given to another by then.
        lock = open(staging / _LOCK, "wb")  # noqa: SIM115
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield staging
    finally:
        if lock is not None:
            lock.close()
        shutil.rmtree(staging, ignore_errors=True)


def _remove_abandoned(directory: Path) -> None:
    """Remove the staging folders of killed runs; those of runs still going on stay."""
    for folder in directory.glob(f"{_PREFIX}*"):
        if folder.is_dir() and _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    lock = folder / _LOCK
    try:
        if not lock.exists():
            return time.time() - folder.stat().st_mtime > _MAKING_SECONDS
        if fcntl is None:
            lock.unlink()
            return True
        with open(lock, "r+b") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


def _publish(staging: Path, directory: Path, names: list[str]) -> None:
    *files, seal = names
    try:
        (directory / seal).unlink(missing_ok=True)
        made = _matching(staging, files)
        for path in made:
            os.replace(path, directory / path.name)
        for path in set(_matching(directory, files)) - {directory / path.name for path in made}:
            path.unlink()
        if (staging / seal).exists():
            os.replace(staging / seal, directory / seal)
    except OSError as error:
        cause = f"The results cannot be put into '{directory}': {error.strerror}"
        raise SkullVAEError(cause, "Close programs that use its files, or choose another output folder") from error
