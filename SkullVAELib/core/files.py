"""File hashes and strict JSON."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path


def as_json_text(value: object, indent: int | None = 2) -> str:
    """Strict JSON text: numpy values as plain ones, paths as text, NaN and infinity as null."""

    def plain(item: object) -> object:
        if isinstance(item, dict):
            return {str(key): plain(entry) for key, entry in item.items()}
        if isinstance(item, list | tuple):
            return [plain(entry) for entry in item]
        if hasattr(item, "tolist"):  # a numpy array or number, or a tensor
            return plain(item.tolist())
        if isinstance(item, float) and not math.isfinite(item):
            return None
        return item if isinstance(item, str | int | float | bool | None) else str(item)

    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


CRANIUM_SHA256 = "3b34f11f7c4f557f4c65cd6543c412a2f6ceb0cfecfd9c41184420e02d9b7e2a"
"""SHA-256 of Cranium.inv3, a patient's CT of the InVesalius project."""


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError when it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
