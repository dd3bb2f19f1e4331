"""Folder of an interactive session's responses, and the removal of earlier ones."""

from __future__ import annotations

import shutil
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from SkullVAELib.report.result_names import PUBLISHED_FILES

RESPONSES = "responses"
"""Folder in the folder of results that contains one folder for each response, named by the request's number."""

# Name of the folder in version 0.1.
_FORMER_RESPONSES = "answers"


def remove_responses(folder: Path) -> None:
    """Remove the responses of an earlier session from a folder of results.

    Folders that contain other files than those of a response are kept. Responses of version 0.1 are removed as well.

    Parameters
    ----------
    folder : Path
        Folder of results.
    """
    for name in (RESPONSES, _FORMER_RESPONSES):
        responses = folder / name
        if not responses.is_dir() or responses.is_symlink():
            continue
        for response in responses.iterdir():
            if response.name.isdecimal() and response.is_dir() and all(map(_is_result, response.iterdir())):
                shutil.rmtree(response, ignore_errors=True)
        with suppress(OSError):  # not empty: it contains other files
            responses.rmdir()


def _is_result(path: Path) -> bool:
    """Whether a file has the name of a result, or of the temporary folder that results are written to."""
    return path.name.startswith(".skullvae-") or any(fnmatchcase(path.name, name) for name in PUBLISHED_FILES)
