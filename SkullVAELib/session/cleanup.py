"""Where the answers of an interactive session lie: a folder each, in a folder beside the run's results."""

from __future__ import annotations

import shutil
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from SkullVAELib.report.result_names import OPTIONAL_FILES, RESULT_FILES

RESPONSES = "answers"


def remove_responses(folder: Path) -> None:
    """Remove an earlier session's answers from a folder of results, and nothing else."""
    answers = folder / RESPONSES
    if not answers.is_dir() or answers.is_symlink():
        return
    for answer in answers.iterdir():
        if answer.name.isdecimal() and answer.is_dir() and all(_is_ours(path) for path in answer.iterdir()):
            shutil.rmtree(answer, ignore_errors=True)
    with suppress(OSError):  # it holds something else
        answers.rmdir()


def _is_ours(path: Path) -> bool:
    return path.name.startswith(".skullvae-") or any(
        fnmatchcase(path.name, name) for name in (*RESULT_FILES, *OPTIONAL_FILES)
    )
