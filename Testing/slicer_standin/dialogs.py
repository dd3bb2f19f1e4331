"""Dialogs are answered by the test before they come up; one that nobody has answered is a failure.

answer("Replace the result?", True) for slicer.util's displays, by a part of the text; answerFile("/tmp/x") for the
next file dialog. shown() tells what came up since.
"""

from __future__ import annotations

from dataclasses import dataclass


class UnansweredDialog(AssertionError):
    """A dialog nobody had an answer for: in Slicer it would have stopped the test for ever."""


@dataclass
class Shown:
    """A dialog that came up: its text, details and the answer it was given."""

    text: str
    detailedText: str
    answer: object


_answers: list[tuple[str, object]] = []
_files: list[object] = []
_shown: list[Shown] = []
_opened: list[str] = []


def answer(text: str, value: bool = True) -> None:
    """Answer the next message or question that has this text in it: True for OK, Yes, Retry; False for the other."""
    _answers.append((text, value))


def answerFile(path) -> None:
    """Answer the next file dialog with this path, a list of paths, or "" for Cancel."""
    _files.append(path)


def shown() -> list[Shown]:
    """The dialogs that came up since the last call."""
    taken = list(_shown)
    _shown.clear()
    return taken


def openedUrls() -> list[str]:
    """What was opened in the system's browser or file manager since the last call."""
    taken = list(_opened)
    _opened.clear()
    return taken


def reset() -> list[str]:
    """Forget everything; returns the answers nobody asked for."""
    left = [text for text, _value in _answers] + [f"file {path}" for path in _files]
    for store in (_answers, _files, _shown, _opened):
        store.clear()
    return left


def take(text: str, detailedText: str = "") -> bool:
    """The answer to this message; raises UnansweredDialog."""
    for entry in _answers:
        if entry[0] in text:
            _answers.remove(entry)
            _shown.append(Shown(text, detailedText, entry[1]))
            return entry[1]
    raise UnansweredDialog(f"nobody answers: {text}\n{detailedText}")


def takeFile(caption: str):
    """The answer to this file dialog; raises UnansweredDialog."""
    if not _files:
        raise UnansweredDialog(f"nobody answers the file dialog '{caption}'")
    path = _files.pop(0)
    _shown.append(Shown(caption, "", path))
    return [str(each) for each in path] if isinstance(path, list) else str(path)


def opened(url: str) -> None:
    _opened.append(url)
