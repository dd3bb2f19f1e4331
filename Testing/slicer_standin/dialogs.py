"""Answers of dialogs, which a test sets before they are shown; a dialog without an answer is a failure.

answer("Replace the result?", True) for the display functions of slicer.util, by a part of the text;
answerFile("/tmp/x") for the next file dialog. shown() returns the dialogs shown since the last call.
"""

from __future__ import annotations

from dataclasses import dataclass


class UnansweredDialog(AssertionError):
    """A dialog without an answer; in Slicer it would block the test."""


@dataclass
class Shown:
    """A dialog that was shown: text, details and answer."""

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
    """The dialogs shown since the last call."""
    taken = list(_shown)
    _shown.clear()
    return taken


def openedUrls() -> list[str]:
    """What was opened in the system's browser or file manager since the last call."""
    taken = list(_opened)
    _opened.clear()
    return taken


def reset() -> list[str]:
    """Reset all answers and dialogs; returns the answers that were not used."""
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
    raise UnansweredDialog(f"dialog without an answer: {text}\n{detailedText}")


def takeFile(caption: str):
    """The answer to this file dialog; raises UnansweredDialog."""
    if not _files:
        raise UnansweredDialog(f"file dialog without an answer: '{caption}'")
    path = _files.pop(0)
    _shown.append(Shown(caption, "", path))
    return [str(each) for each in path] if isinstance(path, list) else str(path)


class MessageBox:
    """ctk.ctkMessageBox, the message box of the display functions of slicer.util; the test sets its answer."""

    def __init__(self, parent=None):
        self.text = ""
        self.windowTitle = ""
        self.detailedText = ""
        self.informativeText = ""
        self.icon = 0
        self.standardButtons = 0
        self.dontShowAgainSettingsKey = ""

    def deleteLater(self) -> None:
        pass

    def exec_(self):
        from qt import QMessageBox

        accepted = take(self.text, self.detailedText)
        for yes, no in (("Ok", "Cancel"), ("Yes", "No"), ("Retry", "Close")):
            yes, no = getattr(QMessageBox, yes), getattr(QMessageBox, no)
            if int(self.standardButtons) & int(yes):
                return yes if accepted else no
        return QMessageBox.Ok


class FileDialog:
    """qt.QFileDialog: its static functions; the test sets their answers."""

    ShowDirsOnly = 1

    @staticmethod
    def getExistingDirectory(parent=None, caption: str = "", directory: str = "", options=None) -> str:
        return takeFile(caption)

    @staticmethod
    def getOpenFileName(parent=None, caption: str = "", directory: str = "", filter: str = "") -> str:
        return takeFile(caption)

    @staticmethod
    def getOpenFileNames(parent=None, caption: str = "", directory: str = "", filter: str = "") -> list[str]:
        return takeFile(caption)

    @staticmethod
    def getSaveFileName(parent=None, caption: str = "", directory: str = "", filter: str = "") -> str:
        return takeFile(caption)


class DesktopServices:
    """qt.QDesktopServices: records URLs instead of opening them, and fails if a test says so."""

    fails = False

    @classmethod
    def openUrl(cls, url) -> bool:
        _opened.append(url.toString())
        return not cls.fails
